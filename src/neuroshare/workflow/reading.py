"""From recordings to the two parts of a split, with a word about whatever was left out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from neuroshare.recordings.activity import bin_activity
from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.findings import findings
from neuroshare.recordings.nwb import nwb_contents, read_nwb
from neuroshare.recordings.session import Session, member_names
from neuroshare.support.labels import coordinate_name, find_coordinate, with_same_labels
from neuroshare.windows.pair import pair_subjects
from neuroshare.windows.paired import PairedWindows
from neuroshare.workflow.settings import RunConfig, named_file

MOST_OBSERVED = 0.9
"""Share of trials that were observed before the event, from which these are a control."""


LEAST_TRIALS = (20, 8)
"""Of a condition in every subject, where two conditions have as many."""


@dataclass(frozen=True)
class Recordings:
    """Counts of the subjects of a run, as binned, in the order of the files."""

    counts: Mapping[str, xr.DataArray]
    """Subject -> (trial, unit, time)."""
    before: Mapping[str, xr.DataArray] | None
    """The same of the stretch of equal length before the event, of the trials that were observed
    there; None if a subject has no spikes there, or few of its trials were, and of a quick run,
    which scores no control."""
    files: Mapping[str, str]
    """Subject -> name of its file."""
    by: str
    """Coordinate of the counts that holds the labels, which are the same in all subjects."""
    factor: str
    """That of what is told from latents, which is another where trials are paired by number."""
    odd: list[str]
    """What is odd in the recordings, in sentences; a warning has told each."""
    relabelled: list[str]
    """Sentences about labels that were taken as equal, or as missing."""


@dataclass(frozen=True)
class Split:
    """Paired windows of a run in two parts, and sentences about what was left out."""

    train: PairedWindows
    test: PairedWindows
    left_out: list[str]
    config: RunConfig
    """Of the run, with the likelihood that suits what was recorded where none was given."""


def read_recordings(config: RunConfig) -> Recordings:
    """Read every file, ask what is odd in it, and bin it.

    Several sessions of one subject are named subject/session, by the session that the file names,
    or else by the file; ``NAME=FILE`` names one itself.

    Raises
    ------
    ValueError
        If two files hold the same session, a column is unknown, the span is longer than any
        trial can be, or a recording cannot be meant as it is (see `findings`).
    FileNotFoundError
        If a file is not there.

    Warns
    -----
    UserWarning
        What is odd in a recording and must be said beside its numbers.
    """
    # All are looked at before anything is counted: an error costs little then.
    opened = [_opened(config, at) for at in range(len(config.files))]
    names = _names(opened)
    counts: dict[str, xr.DataArray] = {}
    before: dict[str, xr.DataArray] = {}
    odd: list[str] = []
    files = {name: Path(one.file).name for name, one in zip(names, opened, strict=True)}
    for name in names:
        one = opened.pop(0)  # whose spikes go as soon as they are counted
        if config.behavior:
            with _of_file(one.file), _recorded(one.odd):
                counts[name] = _windows(one, config)
            odd += _once(one.odd)
            continue
        with _of_file(one.file), _recorded(one.odd):
            bins = bin_spikes if one.session.activity is None else bin_activity
            counted = bins(one.session, config.align, config.span, config.bin_size)
        if one.named is not None:  # m1/monday is a session of m1
            counted.attrs["animal"] = one.named.partition("/")[0]
        counts[name] = counted
        if not config.quick:
            earlier, why_not = _before(one.session, counted, config)
            if earlier is not None:
                before[name] = earlier
            one.odd.extend(filter(None, [why_not]))
        odd += _once(one.odd)
    for sentence in odd:
        warnings.warn(sentence, stacklevel=2)
    if config.behavior:
        return Recordings(counts, None, files, config.by, config.by, odd, [])
    by, factor = (_common_name(counts, column) for column in (config.by, config.factor))
    counts, relabelled = with_same_labels(counts, by)
    if factor != by:
        counts, more = with_same_labels(counts, factor)
        relabelled = [*relabelled, *more]
    return Recordings(
        counts,
        before if len(before) == len(counts) else None,
        files,
        by,
        factor,
        odd,
        relabelled,
    )


def _windows(one: _Opened, config: RunConfig) -> xr.DataArray:
    """Windows of a session with their behavior."""
    counted = bin_spikes(
        one.session,
        span=None,
        bin_size=config.bin_size,
        epochs="trials" if config.within == "trials" else None,
        width=config.width,
        behavior=config.behavior or (),
    )
    if one.named is not None:
        counted.attrs["animal"] = one.named.partition("/")[0]
    return counted


@dataclass(frozen=True)
class _Opened:
    """One file, read and looked at."""

    file: str
    named: str | None
    session: Session
    odd: list[str]


def _opened(config: RunConfig, at: int) -> _Opened:
    """Read a file, and refuse what cannot be meant."""
    named, file = named_file(config.files[at])
    wanted = {name: config.each(name)[at] for name in ("trials", "unit_table", "session")}
    odd: list[str] = []
    with _of_file(file), _recorded(odd):
        try:
            session = read_nwb(file, subject=named, behavior=bool(config.behavior), **wanted)
        except ValueError as error:
            raise _with_tables(error, file, wanted["trials"]) from error
        laps = not config.behavior or config.within == "trials"
        if laps and not len(session.trials):
            raise _with_tables(ValueError("there are no trials."), file, wanted["trials"])
        for name in ("units", "trials"):
            query = config.each("units" if name == "units" else "select")[at]
            session = _selected(session, name, query)
        if config.behavior:
            return _Opened(file, named, session, odd)
        _require_span(session, file, config)
        columns = [str(column) for column in session.trials.columns]
        for column, what in {config.factor: "to score by", config.by: "to pair by"}.items():
            if column not in {*columns, *(coordinate_name(other) for other in columns)}:
                raise ValueError(
                    f"{file}: no trial column {column!r} {what}. Found: {', '.join(columns)}."
                )
        found = findings(session, config.align, config.span)
        refused = [str(finding) for finding in found if finding.level == "refuse"]
        if refused and not config.anyway:
            hint = " Leave it out." if not session.n_spikes else ""
            raise ValueError(
                f"{file}: subject {session.subject!r}: {' '.join(refused)}{hint} "
                "(--anyway goes on all the same.)"
            )
        who = f"subject {session.subject!r}"
        odd += [f"{who}: {finding}" for finding in found if finding.level != "note"]
    return _Opened(file, named, session, odd)


def _selected(session: Session, name: str, query: str | None) -> Session:
    """Session with the units or trials that a query chooses."""
    if query is None:
        return session
    chosen = session.select(**{name: query})
    n = len(getattr(session, name))
    if n and not len(getattr(chosen, name)):
        raise ValueError(
            f"subject {session.subject!r}: {query!r} chooses none of {n} {name}. "
            "`neuroshare inspect` shows their columns."
        )
    return chosen


def _with_tables(error: ValueError, file: str, wanted: str) -> ValueError:
    """The error, and where a table of trials is not there, how to name one."""
    tables = nwb_contents(file, check=False).trials
    if wanted in tables or wanted.strip("/").rpartition("/")[2] in tables:
        return error
    if not tables:
        return ValueError(f"there is no table {wanted!r}, nor another one of trials.")
    return ValueError(
        f"there is no table {wanted!r} of trials, but {', '.join(tables)}. Give --trials once for "
        f"all files, or once for each in their order: --trials {tables[0]!r} for this one."
    )


@contextmanager
def _of_file(file: str) -> Iterator[None]:
    """Name the file in what is refused, unless the sentence does."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        name = Path(file).name
        if text.startswith((file, name)):
            raise
        raise ValueError(f"{file}: {text}") from error


@contextmanager
def _recorded(sentences: list[str]) -> Iterator[None]:
    """Collect warnings, to be told with all else that is odd."""
    with warnings.catch_warnings(record=True, action="always") as told:
        yield
    ours = [w for w in told if issubclass(w.category, UserWarning)]
    sentences += [str(w.message) for w in ours]
    for other in (w for w in told if w not in ours):
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)


def _once(sentences: Sequence[str]) -> list[str]:
    """Sentences without those that a longer one contains."""
    texts = [sentence.partition(": ")[2].removeprefix("The ") or sentence for sentence in sentences]
    return [
        sentence
        for k, sentence in enumerate(sentences)
        if not any(texts[k] in other for o, other in enumerate(sentences) if o != k)
    ]


def _names(opened: Sequence[_Opened]) -> list[str]:
    """A name for every file: its subject, with the session where the subject has several."""
    light = [Session(one.session.subject, [], session=one.session.session) for one in opened]
    return member_names(light, [one.file for one in opened])


def _common_name(counts: dict[str, xr.DataArray], column: str) -> str:
    """Coordinate that holds a column, under one name in all subjects."""
    found = {name: find_coordinate(array, column) for name, array in counts.items()}
    common = max(found.values(), key=len)
    for name, own in found.items():
        if own != common:
            counts[name] = counts[name].drop_vars(common, errors="ignore").rename({own: common})
    return common


def _require_span(session: Session, file: str, config: RunConfig) -> None:
    """Refuse a span that no trial can fill, before anything is counted in it."""
    events = session.trials.get(config.align)
    if events is None or events.dtype.kind not in "iuf":
        return  # which binning refuses
    times = np.sort(events.to_numpy(float)[np.isfinite(events.to_numpy(float))])
    begin, end = config.span
    spikes = [unit for unit in session.spike_times if len(unit)]
    bounds = [times[:1], times[-1:], *([unit[0]] for unit in spikes), *([u[-1]] for u in spikes)]
    known = np.concatenate([np.asarray(bound, float) for bound in bounds])
    distance = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    lasts = float(np.ptp(known)) if len(known) else 0.0
    if distance > 0 and end - begin > 10 * distance:
        than = f"but {config.align!r} comes every {distance:.3g} s (median)"
    elif 0 < lasts < end - begin:
        than = f"but the session lasts {lasts:.3g} s"
    else:
        return
    short = f"{begin / 1000:g} {end / 1000:g}"
    raise ValueError(
        f"{file}: a span from {begin:g} to {end:g} s holds {end - begin:g} s, {than}. Spans are "
        f"in seconds: if milliseconds were meant, give --span {short}."
    )


def split_recordings(recordings: Recordings, config: RunConfig) -> Split:
    """Leave out rare conditions, pair the subjects, and hold trials out."""
    if config.behavior:
        return _split_by_behavior(recordings, config)
    counts, left_out = keep_common_conditions(recordings.counts, config, recordings.factor)
    paired = pair_subjects(
        counts, by=recordings.by, width=config.width, step=config.step, seed=config.seed
    )
    blocks: Any = None if config.blocks == "random" else config.blocks
    train, test = paired.split(
        config.test_fraction, seed=config.seed, blocks=blocks, by=recordings.factor
    )
    split = list(train.excluded[len(paired.excluded) :])
    if not train.stretched and not any("left out" in sentence for sentence in split):
        split = []  # trials at random, as one would expect
    told = paired.report(spans=False)  # of spans `findings` has told
    config, why = _with_likelihood(config, recordings)
    return Split(train, test, recordings.relabelled + left_out + told + split + why, config)


def _split_by_behavior(recordings: Recordings, config: RunConfig) -> Split:
    """Pair windows by behavior, and hold stretches out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what is absent is among what was left out
        paired = pair_subjects(
            recordings.counts, config.paired_by, bandwidth=config.bandwidth, seed=config.seed
        )
    blocks: Any = None if config.blocks == "random" else config.blocks
    train, test = paired.split(config.test_fraction, seed=config.seed, blocks=blocks)
    return Split(train, test, list(train.excluded), config)


def require_conditions(config: RunConfig, what: str) -> None:
    """Refuse a run by behavior where only conditions will do."""
    if config.behavior:
        raise ValueError(
            f"{what} pairs by conditions. By behavior there is neuroshare fit; in Python, "
            "pair_subjects and decoding."
        )


def _before(
    session: Session, counts: xr.DataArray, config: RunConfig
) -> tuple[xr.DataArray | None, str | None]:
    """Counts of the stretch that ends at the event, or where an earlier span begins.

    None where there is none, with a sentence if it was not observed.
    """
    begin, end = config.span
    stop = min(0.0, begin)
    span = (round(stop - (end - begin), 9), stop)
    # The units and trials that were observed throughout the span itself.
    same = session.select(units=counts["unit"].values, trials=counts["trial"].values)
    if session.activity is not None:
        return _activity_before(same, config, span)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is coarse was told above
        earlier = bin_spikes(same, config.align, span, config.bin_size, unobserved="mark")
    if "observed" in earlier.coords:
        seen = earlier["observed"].values
        if seen.all(axis=1).mean() < MOST_OBSERVED:
            return None, (
                f"subject {session.subject!r}: no control before the event, for "
                f"{int((~seen).sum()):,} of {seen.size:,} trials x units were not observed in it "
                f"({span[0]:g} to {span[1]:g} s)."
            )
        earlier = earlier.isel(trial=seen.all(axis=1)).drop_vars("observed")
    # Recordings cut to trials have silence here, or in part of it, which is no control.
    n = round(config.width / config.bin_size)
    pieces = [earlier[..., k : k + n].mean() for k in range(0, earlier.sizes["time"] - n + 1, n)]
    enough = min(map(float, pieces), default=0.0) > 0.1 * float(counts.mean())
    return (earlier if enough else None), None


def _activity_before(
    session: Session, config: RunConfig, span: tuple[float, float]
) -> tuple[xr.DataArray | None, str | None]:
    """Likewise of activity that is no spikes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of trials that are left out, which is told here
        try:
            earlier = bin_activity(session, config.align, span, config.bin_size)
        except ValueError:
            earlier = None
    if earlier is None or earlier.shape[:2] != (len(session.trials), len(session.units)):
        return None, (
            f"subject {session.subject!r}: no control before the event, for activity was not "
            f"sampled in all trials then ({span[0]:g} to {span[1]:g} s)."
        )
    return earlier, None


def _with_likelihood(config: RunConfig, recordings: Recordings) -> tuple[RunConfig, list[str]]:
    """Settings with a likelihood that suits what was recorded, where it is not spikes."""
    other = [name for name, array in recordings.counts.items() if array.dtype.kind not in "iu"]
    if not other or "likelihood" in config.model:
        return config, []
    model = {**config.model, "likelihood": "gaussian"}
    return replace(config, model=model), [
        f"The activity of {', '.join(other)} is no spike counts: the model takes it as Gaussian "
        "(--likelihood), and predictions are scored by the variance they explain."
    ]


def keep_common_conditions(
    counts: Mapping[str, xr.DataArray], config: RunConfig, by: str | None = None
) -> tuple[dict[str, xr.DataArray], list[str]]:
    """Leave out the trials of conditions that are rare or absent in any subject."""
    by = by or config.factor
    labels = {name: pd.Series(array[by].to_numpy()) for name, array in counts.items()}
    table = pd.DataFrame({name: values.value_counts() for name, values in labels.items()})
    table = table.fillna(0).astype(int)
    fewest = table.min(axis=1)
    unknown = set(config.conditions or ()) - set(map(str, table.index))
    if unknown:
        raise ValueError(
            f"no trials with {by} {sorted(unknown)}. Found: {sorted(map(str, table.index))}."
        )
    least = config.min_trials
    if least is None:
        least = next((n for n in LEAST_TRIALS if (fewest >= n).sum() > 1), LEAST_TRIALS[-1])
    if config.conditions is None:
        kept = list(table.index[fewest >= least])
    else:
        kept = [value for value in table.index if str(value) in config.conditions]
    if len(kept) < 2:
        found = ", ".join(f"{value} ({n})" for value, n in fewest.head(10).items())
        raise ValueError(
            f"expected two or more values of {by!r} with {least} trials in every "
            f"subject, got {len(kept)}. Fewest trials in a subject: {found}. "
            "Choose another column, or lower the number of trials (--min-trials)."
        )
    left_out = []
    for value in (value for value in table.index if value not in kept):
        n = ", ".join(f"{name} {count}" for name, count in table.loc[value].items())
        why = "by choice"
        if config.conditions is None:
            why = f"since a subject has fewer than {least} trials of it"
        left_out.append(f"{by} {value!r} was left out {why} ({n}).")
    common = {}
    for name, array in counts.items():
        # Trials without a condition stay, for pairing to report them.
        stays = (labels[name].isin(kept) | labels[name].isna()).to_numpy()
        common[name] = array if stays.all() else array.isel(trial=stays)
    return common, left_out
