"""What in a session deserves a look before it is analysed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from neuroshare.recordings.observed import recording_off
from neuroshare.recordings.session import Session, counted, event_times, listed
from neuroshare.support.labels import coordinate_name

Level = Literal["refuse", "warn", "note"]

LONG, SLOW = 5_000.0, 0.01
"""Seconds of a recording, and spikes of a unit per second, beyond which it is no second."""

COARSE = 1e-3
"""Seconds between two times that can be told apart, from which it must be said."""

_BAD_UNITS = {"noise", "artifact", "artefact", "bad", "junk", "unsorted"}


@dataclass(frozen=True)
class Finding:
    """A sentence about a session, and what it asks for.

    ``refuse``: numbers from it would mean nothing. ``warn``: it must be said beside the numbers.
    ``note``: of use to whoever looks at the file.
    """

    level: Level
    text: str

    def __str__(self) -> str:
        return self.text


def findings(
    session: Session, align: str | None = None, span: tuple[float, float] | None = None
) -> list[Finding]:
    """Say what in a session deserves a look before it is analysed.

    Parameters
    ----------
    session : Session
    align : str, optional
        Trial column (or expression of them) with the time of the event, as for `bin_spikes`.
    span : tuple of float, optional
        Begin and end of the stretch to bin, seconds relative to the event.

    Returns
    -------
    list of Finding
        Times probably not in seconds, on two clocks, relative to their trial, or coarser than
        what is counted; no units, silent units, units labelled as noise; trials that overlap,
        share their event, lack a time, or hold no spikes; with `align`, of the windows from
        `span`: those that reach into the next trial, or lie where nothing was recorded. Empty
        when nothing is odd.

    Examples
    --------
    >>> import numpy as np
    >>> for finding in findings(Session("mitt", [np.array([0.1, 0.15]), np.array([])])):
    ...     print(finding.level, finding)
    note 1 of 2 units is silent: 1.
    note There are no trials.
    """
    found: list[Finding] = []
    flat = np.concatenate(session.spike_times) if session.spike_times else np.empty(0)
    flat = np.sort(flat)
    if session.activity is not None:  # times of samples say where there is a recording
        flat = session.activity["time"].to_numpy().astype(float)
    _about_units(session, flat, found)
    _about_resolution(session, flat, found)
    if any(finding.level == "refuse" for finding in found):
        pass  # what spikes that are none, or no times, say of trials is of no use
    elif session.trials.empty:
        if (unit := likely_unit(session, flat)) is not None:
            found.append(Finding("warn", f"Spike times are probably in {unit}, not in seconds."))
        found.append(Finding("note", "There are no trials."))
    else:
        _about_trials(session, flat, align, span, found)
    found += [Finding("note", sentence) for sentence in session.left_out]
    return found


def _about_units(session: Session, flat: np.ndarray, found: list[Finding]) -> None:
    n = len(session.units)
    if not n:
        found.append(Finding("refuse", "There are no units."))
        return
    if session.activity is not None:
        return
    if not len(flat):
        found.append(Finding("refuse", f"No unit has a spike ({counted(n, 'unit')})."))
        return
    silent = [
        u for u, t in zip(session.units.index, session.spike_times, strict=True) if not len(t)
    ]
    if silent:
        verb = "is" if len(silent) == 1 else "are"
        found.append(
            Finding(
                "note",
                f"{len(silent)} of {counted(n, 'unit')} {verb} silent: {listed(silent)}.",
            )
        )
    for column in session.units.columns:
        values = session.units[column]
        if values.dtype.kind in "biufc":
            continue
        texts = values.astype(str).str.strip()
        bad = texts[texts.str.casefold().isin(_BAD_UNITS)]
        if len(bad):
            name = column if str(column).isidentifier() else f"`{column}`"
            found.append(
                Finding(
                    "note",
                    f"{len(bad)} of {counted(n, 'unit')} {'is' if len(bad) == 1 else 'are'} "
                    f"labelled {listed(sorted(bad.unique()))} in the column {column!r}; leave them "
                    f"out by units=\"{name} != '{bad.iloc[0]}'\".",
                )
            )


def resolution(times: np.ndarray) -> float:
    """Seconds between two times that can be told apart, of those stored as float32; else 0."""
    for some in (times[:: max(len(times) // 1000, 1)], times):
        with np.errstate(over="ignore"):
            short = some.astype(np.float32)
        if not len(some) or not (short == some).all():
            return 0.0
    most = float(np.abs(times).max())
    step = float(np.spacing(np.float32(most)))
    # Whole numbers up to there are exact in any type, and so are times on a coarser grid: only
    # what was rounded to float32 uses its last digit, half of the time.
    if most < 2**24 and (times == np.round(times)).all():
        return 0.0
    if len(times) >= 20 and np.ptp(times) < 4 * step:  # a whole recording in a few steps
        return step
    large = times[np.abs(times) >= most / 2]
    return step if ((large / step) % 2 == 1).mean() > 0.1 else 0.0


def _about_resolution(session: Session, flat: np.ndarray, found: list[Finding]) -> None:
    if session.activity is not None:
        return
    step = resolution(flat)
    if step >= COARSE:
        found.append(Finding("refuse" if step >= 0.1 else "warn", coarse(step, "The spike times")))


def coarse(step: float, what: str) -> str:
    """The sentence about times that are stored too coarsely."""
    size = f"{step:g} s" if step >= 0.1 else f"{step * 1e3:.2g} ms"
    return (
        f"{what} are stored in steps of {size}: as float32, on a clock too far from zero for "
        "it. Export them as float64, or on a clock that starts with the session."
    )


def likely_unit(session: Session, flat: np.ndarray) -> str | None:
    """Name the unit that sorted spike times are probably in, where it is not seconds."""
    if session.activity is not None or len(flat) < 100 or resolution(flat) >= COARSE:
        return None
    length = float(flat[-1] - flat[0])
    if length <= 0:
        return None
    rate = float(np.median([len(times) / length for times in session.spike_times if len(times)]))
    start, stop = _times(session)
    lasting = stop - start
    trial = float(np.nanmedian(lasting)) if np.isfinite(lasting).any() else np.inf
    # Sparse units are no fault: calcium events come once in half a minute, and are still seconds
    # where the recording lasts an hour, or its trials last seconds.
    possible = length < LONG or trial < LONG / 50 or rate > SLOW
    if len(flat) >= 1_000 and rate > 5 * SLOW:
        # Frequent enough to meet by chance, and never do: the pause after a spike is 2 ms.
        shortest = min(np.diff(t).min(initial=np.inf) for t in session.spike_times)
        possible &= bool(shortest <= 2)
    whole = bool((flat == np.round(flat)).all())
    if possible:
        return "samples or milliseconds" if whole and rate > 1.0 else None
    if whole:
        return "samples" if rate < SLOW / 10 else "samples or milliseconds"
    return "milliseconds"


def _times(session: Session) -> tuple[np.ndarray, np.ndarray]:
    start, stop = (session.trials[c].to_numpy(np.float64) for c in ("start_time", "stop_time"))
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(start), start, np.nan), np.where(
            np.isfinite(stop), stop, np.nan
        )


def _about_trials(
    session: Session,
    flat: np.ndarray,
    align: str | None,
    span: tuple[float, float] | None,
    found: list[Finding],
) -> None:
    trials = session.trials
    start, stop = _times(session)
    known = np.isfinite(start) & (np.isfinite(stop) | ~np.isfinite(stop).any())
    if not known.all():
        missing = list(trials.index[~known])
        text = f"{counted(len(missing), 'trial')} without a time (NaN or infinite)"
        found.append(Finding("note", f"{text}: {listed(missing)}."))
    order = np.argsort(start[known], kind="stable")
    begins = start[known][order]
    ends = np.where(np.isfinite(stop), stop, start)[known][order]
    # The running maximum catches a long trial that covers several later ones.
    overlapping = int((begins[1:] < np.maximum.accumulate(ends)[:-1]).sum()) if len(begins) else 0
    if overlapping:
        verb = "begins" if overlapping == 1 else "begin"
        text = f"{counted(overlapping, 'trial')} {verb} before an earlier one has ended."
        found.append(Finding("note", text))
    event = begins if align is None else event_times(trials, align, repr(session.subject))
    name = "start_time" if align is None else align
    _about_events(session, event, name, found)
    if align is not None:
        event = event[np.isfinite(event)]
    if align is not None and span is not None:
        windows = event + span[0], event + span[1]
        _about_windows(session, align, span, found)
        noun = "window"
    else:
        windows = begins, np.where(ends > begins, ends, np.append(begins[1:], np.inf))
        noun = "trial"
    _about_clocks(session, flat, windows, name, noun, found)
    _about_observed(session, windows, found)
    if len(trials) > 1:
        constant = [str(c) for c in trials if trials[c].nunique(dropna=False) == 1]
        if constant:
            text = f"Trial columns with one value only: {', '.join(constant)}."
            found.append(Finding("note", text))
    for table, dim in ((trials, "trial"), (session.units, "unit")):
        for column in table.columns:
            if (called := coordinate_name(column, dim)) != str(column):
                text = f"The {dim} column {str(column)!r} is called {called!r} in the counts."
                found.append(Finding("note", text))


def _about_events(session: Session, event: np.ndarray, name: str, found: list[Finding]) -> None:
    """Whether the times that windows are put around are times, of this session."""
    event = event[np.isfinite(event)]
    n, different = len(event), len(np.unique(event))
    if not n:
        return
    step = resolution(event)
    if step >= COARSE:
        level: Level = "refuse" if step >= 0.1 else "warn"
        found.append(Finding(level, coarse(step, f"The times in {name!r}")))
    if n > 4 and different < n / 5:
        text = (
            f"{n} trials have {different} different {name}: as if relative to each trial, or a "
            "code. Times are in seconds on the clock of the spikes."
        )
        found.append(Finding("refuse", text))
    elif different < n:
        values, counts = np.unique(event, return_counts=True)
        shared = int(counts[counts > 1].sum())
        text = (
            f"{shared} of {n} trials share their {name} with another, at {values[counts > 1][0]:g} "
            "s for one: the same spikes count in each, on both sides of a split."
        )
        found.append(Finding("warn", text))
    if name in ("start_time", "stop_time") or name not in session.trials:
        return
    start, stop = _times(session)
    event = event_times(session.trials, name, repr(session.subject))
    stop = np.where(np.isfinite(stop), stop, _next(start))
    known = np.isfinite(event) & np.isfinite(start)
    event, start, stop = event[known], start[known], stop[known]
    slack = 1e-3 + 0.5 * (stop - start)

    def share(times: np.ndarray) -> float:
        return float(((times >= start - slack) & (times <= stop + slack)).mean())

    if not len(event) or share(event) > 0.5:
        return
    most = f"({event.min():g} to {event.max():g})"
    if (event == np.round(event)).all() and different <= max(n / 4, 2):
        text = f"{name!r} holds {different} whole numbers {most}: a code rather than a time."
        found.append(Finding("refuse", text))
        return
    for meaning, formula, times in (
        ("counts from the start of its trial", f"start_time + {name}", start + event),
        ("is in milliseconds", f"{name} / 1000", event / 1000),
        ("is in milliseconds from the start of its trial", f"start_time + {name} / 1000",
         start + event / 1000),
    ):  # fmt: skip
        if share(times) > 0.9:
            text = (
                f"{name!r} {most} {meaning}, and not in seconds on the clock of the spikes. "
                f"Align to {formula!r}."
            )
            found.append(Finding("refuse", text))
            return
    outside = round((1 - share(event)) * len(event))
    text = f"In {outside} of {len(event)} trials {name!r} {most} lies far outside of the trial."
    found.append(Finding("warn", text))


def _next(start: np.ndarray) -> np.ndarray:
    """Start of the next trial of each, infinity after the last."""
    order = np.sort(start[np.isfinite(start)])
    place = np.searchsorted(order, start, side="right").clip(0, len(order))
    return np.asarray(np.append(order, np.inf)[place])


def _about_windows(
    session: Session, align: str, span: tuple[float, float], found: list[Finding]
) -> None:
    """Whether windows keep to their trials."""
    event = event_times(session.trials, align, repr(session.subject))
    known = np.isfinite(event)
    start, stop = (times[known] for times in _times(session))
    begin, end = event[known] + span[0], event[known] + span[1]
    n, slack = len(begin), 1e-6
    if n < 2:
        return
    what = f"the span ({span[0]:g} to {span[1]:g} s after {align})"
    order = np.argsort(begin, kind="stable")
    shared = int((begin[order][1:] < end[order][:-1] - slack).sum())
    following = _next(start)
    # Where no end is known, the trial lasts to the next one.
    outlasts = ~(end <= stop + slack) & (end > following + slack)
    lasting = stop - start
    if outlasts.any():
        known = lasting[np.isfinite(lasting)]
        last = f"; trials last {known.min():.3g} to {known.max():.3g} s" if len(known) else ""
        text = (
            f"In {int(outlasts.sum())} of {n} trials {what} outlasts the trial and reaches into "
            f"the next one{last}."
        )
        found.append(Finding("warn", text))
    elif shared:
        text = f"In {shared} of {n} trials {what} reaches into that of the next one."
        found.append(Finding("warn", text))
    ends = np.sort(stop[np.isfinite(stop)])
    # The last trial that had ended when this one began.
    place = np.searchsorted(ends, start + slack) - 1
    before = (
        np.where(place >= 0, ends[place.clip(0)], -np.inf) if len(ends) else np.full(n, -np.inf)
    )
    early = int(((begin < start - slack) & (begin < before - slack)).sum())
    if early:
        text = f"In {early} of {n} trials {what} begins within the trial before."
        found.append(Finding("note", text))


def _about_clocks(
    session: Session,
    flat: np.ndarray,
    windows: tuple[np.ndarray, np.ndarray],
    name: str,
    noun: str,
    found: list[Finding],
) -> None:
    """Whether spikes and trials are on one clock, in seconds."""
    begin, end = windows
    if not len(flat) or not len(begin):
        return
    unit = likely_unit(session, flat)
    event = "spike" if session.activity is None else "sample"
    held = np.searchsorted(flat, end) - np.searchsorted(flat, begin)
    first, last = float(begin.min()), float(np.where(np.isfinite(end), end, begin).max())
    ranges = f"{event}s from {flat[0]:g} to {flat[-1]:g} s, trials from {first:g} to {last:g} s"
    common = np.searchsorted(flat, last) - np.searchsorted(flat, first)
    recorded = ((end > flat[0]) & (begin < flat[-1])).mean()
    few = common < 0.02 * len(flat) or recorded < 0.02
    guess = _guess(flat, first, last, name) if few and len(flat) >= 20 else None
    if not held.any():
        if guess is None:
            guess = "Are both on the same clock?"
            if unit is not None:
                guess = f"Spike times are probably in {unit}, not in seconds."
        found.append(Finding("refuse", f"No {event} falls inside any {noun}: {ranges}. {guess}"))
    elif guess:
        found.append(Finding("refuse", f"Few {event}s fall inside any {noun}: {ranges}. {guess}"))
    elif unit is not None:
        text = f"Spike times are probably in {unit}, not in seconds. As they are: {ranges}."
        found.append(Finding("refuse" if noun == "window" else "warn", text))
    elif empty := int((held == 0).sum()):
        found.append(
            Finding("note", f"{counted(empty, noun)} of {len(held)} without a single {event}.")
        )


def _guess(flat: np.ndarray, first: float, last: float, name: str) -> str | None:
    """Say what would bring spikes and trials together."""
    begin, end = float(flat[0]), float(flat[-1])
    if end <= 0 or last <= 0:
        return None

    def fits(a: float, b: float, c: float, d: float) -> bool:
        """Whether two ranges have most of the shorter one in common."""
        return min(b, d) - max(a, c) > 0.8 * min(b - a, d - c) and min(b - a, d - c) > 0

    if fits(begin, end, first / 1000, last / 1000) and 300 < last / end < 3_000:
        return f"The trials are probably in milliseconds: align to '{name} / 1000'."
    if fits(begin / 1000, end / 1000, first, last) and 300 < end / last < 3_000:
        return "The spikes are probably in milliseconds: divide their times by 1000."
    whole = bool((flat == np.round(flat)).all())
    if whole and end > 3_000 * last:
        return (
            "The spikes are probably in samples: divide them by the sampling rate (about "
            f"{float(f'{end / last:.2g}'):,.0f} in a second)."
        )
    if begin >= 0 and end < 0.2 * (last - first):
        return "The spikes are probably relative to each trial: add the time at which it began."
    return None


def _about_observed(
    session: Session, windows: tuple[np.ndarray, np.ndarray], found: list[Finding]
) -> None:
    """Whether all units were recorded in all trials."""
    known = np.isfinite(windows[0]) & np.isfinite(windows[1])
    begin, end = windows[0][known], windows[1][known]
    if not len(begin):
        return
    if session.observed is not None:
        seen = session.is_observed(begin, end)
        gone = ~seen.any(axis=1)
        if gone.any():
            n = counted(int(gone.sum()), "trial")
            text = f"{n} of {len(seen)} lie where no unit was observed."
            found.append(Finding("note", text))
        elsewhere = np.logical_not(np.all(seen[~gone], axis=0)).ravel()
        if elsewhere.any():
            partly, of = int(elsewhere.sum()), counted(len(elsewhere), "unit")
            verb = "is" if partly == 1 else "are"
            units = listed(session.units.index[elsewhere].tolist())
            text = f"{partly} of {of} {verb} observed in part of the trials only: {units}."
            found.append(Finding("note", text))
    off = recording_off(session.spike_times, begin, end)
    if off.any() and session.observed is None:
        text = (
            f"{counted(int(off.sum()), 'trial')} of {len(off)}, between {begin[off].min():g} and "
            f"{end[off].max():g} s, lie where no unit has a spike though many were expected: the "
            "recording seems to have been off."
        )
        found.append(Finding("note", text))
