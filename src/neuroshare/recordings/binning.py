"""Spike times to counts around trials."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from neuroshare.recordings.continuous import (
    Behavior,
    Epochs,
    interpolated,
    windows_of,
    without_gaps,
)
from neuroshare.recordings.findings import coarse, resolution
from neuroshare.recordings.observed import recording_off
from neuroshare.recordings.session import Session, counted, event_times, listed
from neuroshare.support.checks import brief, is_number, require_one_of
from neuroshare.support.chunks import in_chunks
from neuroshare.support.files import replacing
from neuroshare.support.labels import RESERVED, coordinate_name
from neuroshare.support.observed import most_observed

MOST_BINS = 1_000_000
"""Per trial. More come from a span or a bin size in other units than seconds."""

_CACHE_FORMAT = 1

Unobserved = Literal["drop", "mark", "ignore"]


def bin_spikes(
    session: Session,
    align: str = "start_time",
    span: tuple[float, float] | None = (0.0, 0.4),
    bin_size: float = 0.01,
    *,
    cache: str | os.PathLike[str] | None = None,
    unobserved: Unobserved = "drop",
    epochs: Epochs = None,
    width: float = 0.2,
    behavior: Behavior = (),
) -> xr.DataArray:
    """Count the spikes of every unit in bins around an event of every trial, or of a whole session.

    Parameters
    ----------
    session : Session
    align : str
        Trial column with the time of the event, seconds, or arithmetic on columns, such as
        ``"start_time + delay_ms / 1000"``.
    span : tuple of float, or None
        Begin and end of the stretch to bin, seconds relative to the event. None: there are no
        trials of one length, but a session, or its laps; `epochs` are cut into windows of `width`
        seconds, each of which is a trial of the counts.
    bin_size : float
        Width of a bin, seconds. The span must hold a whole number of bins.
    cache : path-like, optional
        Folder for counts that may not fit into memory: they are written there, some trials at a
        time, and mapped instead of read. Equal spikes, events and bins find the file again; what
        differs gets a file of its own, and any number of sessions may share the folder.
    unobserved : "drop", "mark" or "ignore"
        What is done with units in trials in which they were not recorded: where
        ``session.observed`` says so, and where no unit has a spike though 50 or more were
        expected. ``"drop"`` leaves out the units or trials of which the largest share is
        unobserved, one kind after the other, until everything left was observed.
        ``"mark"`` keeps all and says what was observed in the coordinate ``observed`` (trial,
        unit), where something was not. ``"ignore"`` takes them for silent.
    epochs : "trials", DataFrame or array, optional
        Of a session without span: ``"trials"`` are those of the session, such as laps, of unequal
        length; or a table with ``start_time`` and ``stop_time``; or begin and end (epoch, 2) in
        seconds. By default from the first to the last spike, as far as there is behavior.
        ``epoch`` and the other columns of the epochs are coordinates of its windows.
    width : float
        Of the windows of a session without span, seconds; a whole number of bins.
    behavior : sequence of str, or mapping of str to float
        Series of ``session.behavior`` that are interpolated at the bins, as coordinates (trial,
        time); the columns of a series of several are ``<series>_<axis>``. Angles are interpolated
        round the circle: those with an attribute ``period``, or given here as
        ``{"heading": 360}``. Gaps are NaN; windows of a session without span that hold any are
        left out.

    Returns
    -------
    DataArray
        ``counts``, integer, with dims ``(trial, unit, time)``. Coordinates: the ids of trials
        and units, ``time`` at the bin centres in seconds relative to the event, every trial
        column along ``trial`` and every unit column along ``unit``. In their names whatever is
        no letter, digit or underscore becomes an underscore (``odor id`` is ``odor_id``); a trial
        column named like a dimension (or ``subject``, ``start``, ``onset``, ...) gets the
        prefix ``trial_``, a unit column named like one of these or like a trial column
        ``unit_``. The coordinate's attribute ``column`` keeps a name that was changed.
        The times of an event that is computed of columns are in ``event``. Attributes: subject,
        align, span, bin_size; session, where it has a name; and ``windows`` ("continuous") without
        span.

    Raises
    ------
    ValueError
        No trials, no numeric column ``align``, a span that is reversed or not a whole number
        of bins, a bin size that is not positive, spike times stored more coarsely than a bin,
        nothing that was observed; a file of the cache that is damaged.

    Warns
    -----
    UserWarning
        Trials whose event time is NaN are left out, and units and trials that were not observed.
        Spike times are stored in steps of a tenth of a bin or more.
        Windows of a session without span that hold a gap of the behavior are left out.

    Notes
    -----
    Bins are half-open: bin ``k`` of a trial counts the spikes in ``[onset + e_k,
    onset + e_{k+1})`` with ``e_k = span[0] + k * bin_size``, compared in float64 as written.
    Counts are int16, or int32 where a bin holds more than 32,767 spikes. Where trials overlap,
    a spike counts in each. Mapped counts are unsigned, of the least number of bytes that holds
    them all, read-only, and lie on disk as (trial, time, unit), so that a window is one piece.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> trials = pd.DataFrame(
    ...     {"start_time": [1.0, 2.0], "stop_time": [1.5, 2.5], "odor": ["A", "B"]}
    ... )
    >>> session = Session("mitt", [np.array([1.0, 1.05, 2.19])], trials=trials)
    >>> counts = bin_spikes(session, span=(0.0, 0.2), bin_size=0.1)
    >>> counts.values.tolist()
    [[[2, 0]], [[0, 1]]]
    >>> counts.sel(trial=1).odor.item()
    'B'

    A session of a second and its behavior, in windows of 0.2 s:

    >>> time = np.arange(0, 1.2, 0.02)
    >>> behavior = xr.Dataset({"position": ("time", time)}, {"time": time})
    >>> session = Session("mitt", [np.arange(0.0, 1.01, 0.1)], behavior=behavior)
    >>> counts = bin_spikes(session, span=None, bin_size=0.1, behavior=["position"])
    >>> counts.shape, counts.position.dims, counts.position[1].values.round(2).tolist()
    ((5, 1, 2), ('trial', 'time'), [0.25, 0.35])
    """
    who = f"subject {session.subject!r}"
    continuous = span is None
    if span is None:
        align, span = "start_time", (0.0, width)
    edges = bin_edges(span, bin_size, who)
    require_one_of(unobserved, "unobserved", "bin_spikes", ("drop", "mark", "ignore"))
    if session.activity is not None:
        raise ValueError(f"{who} has activity in place of spikes. Bin it with bin_activity.")
    if continuous:
        trials = windows_of(session, epochs, behavior, width)
        onset = trials["start_time"].to_numpy()
    elif epochs is not None:
        raise ValueError(f"{who}: epochs are cut into windows where span=None, got {brief(span)}.")
    else:
        trials, onset = aligned_trials(session, align, who)
    centres = (edges[:-1] + edges[1:]) / 2
    measured = interpolated(session, behavior, onset[:, None] + centres)
    if continuous and measured:
        known = without_gaps(trials, measured, who)
        trials, onset = trials[known], onset[known]
        measured = {name: (values[known], about) for name, (values, about) in measured.items()}
    _require_fine_times(session, bin_size, who)
    observed = None
    if unobserved != "ignore":
        observed = _observed(session, onset + edges[0], onset + edges[-1])
    if unobserved == "drop" and observed is not None:
        kept, units = _left(observed, session, trials, onset + edges[0], onset + edges[-1], who)
        session, trials, onset = session.select(units=units), trials[kept], onset[kept]
        measured = {name: (values[kept], about) for name, (values, about) in measured.items()}
        observed = None
    counts = (
        _count(session.spike_times, onset, edges, bin_size)
        if cache is None or not session.spike_times  # nothing cannot be mapped
        else _mapped(session.spike_times, onset, edges, bin_size, Path(cache))
    )
    attrs = {"align": align, "span": (float(span[0]), float(span[1])), "bin_size": float(bin_size)}
    if continuous:
        attrs["windows"] = "continuous"
    array = labelled(counts, session, trials, onset, "counts", attrs)
    for name, (values, about) in measured.items():
        name = coordinate_name(name, "trial", tuple(map(str, array.coords)))
        array = array.assign_coords({name: (("trial", "time"), values, about)})
    if observed is not None:
        array = array.assign_coords(observed=(("trial", "unit"), observed))
    return array


def labelled(
    values: np.ndarray,
    session: Session,
    trials: pd.DataFrame,
    onset: np.ndarray,
    what: str,
    attrs: dict[str, Any],
) -> xr.DataArray:
    """Values (trial, unit, time) with the columns of both tables as coordinates."""
    align, begin, bin_size = attrs["align"], attrs["span"][0], attrs["bin_size"]
    coords = {
        "trial": trials.index.to_numpy(),
        "unit": session.units.index.to_numpy(),
        "time": begin + (np.arange(values.shape[2]) + 0.5) * bin_size,
    }
    taken = [*RESERVED]
    for dim, table in (("trial", trials), ("unit", session.units)):
        # A column keeps its name before another one gets it for its own.
        for column in sorted(table.columns, key=lambda c: coordinate_name(c, dim) != str(c)):
            name = coordinate_name(column, dim, tuple(taken))
            taken.append(name)
            about = {} if name == str(column) else {"column": str(column)}
            coords[name] = (dim, _labels(table[column]), about)
    if align not in trials.columns:  # computed of columns: the order of the session is needed
        name = coordinate_name("event", "trial", tuple(taken))
        coords[name] = ("trial", onset, {"column": align})
    attrs = {"subject": session.subject, **attrs}
    if session.session is not None:
        attrs["session"] = session.session
    dims = ("trial", "unit", "time")
    return xr.DataArray(values, dims=dims, coords=coords, name=what, attrs=attrs)


def _count(
    spike_times: tuple[np.ndarray, ...], onset: np.ndarray, edges: np.ndarray, bin_size: float
) -> np.ndarray:
    """Counts (trial, unit, bin) of sorted spike times in ``onset + edges``."""
    n_trials, n_units, n_bins = len(onset), len(spike_times), len(edges) - 1
    absolute = onset[:, None] + edges
    begin, flat_edges = absolute[:, 0].copy(), absolute.ravel()
    bounds = absolute[:, [0, -1]].ravel()
    within = [times.searchsorted(bounds).reshape(n_trials, 2) for times in spike_times]
    most = max((int((stop - start).max()) for start, stop in (w.T for w in within)), default=0)
    dtype = np.dtype(np.int16 if most <= np.iinfo(np.int16).max else np.int32)
    # Unit by unit, because one unit's spikes and counts stay in the cache through all passes.
    counts = np.zeros((n_units, n_trials, n_bins), dtype)
    # A guess is doubtful when rounding could have moved it across an edge.
    doubt = 16 * np.finfo(float).eps * (np.abs(absolute).max() / bin_size + n_bins)
    trials, one = np.arange(n_trials), dtype.type(1)
    for cells, times, (start, stop) in zip(
        counts.reshape(n_units, n_trials * n_bins), spike_times, (w.T for w in within), strict=True
    ):
        held = stop - start
        before = np.cumsum(held) - held
        trial = np.repeat(trials, held)
        if not len(trial):
            continue
        t = times.take(np.arange(len(trial)) + (start - before).take(trial))
        part = (t - begin.take(trial)) / bin_size
        k = part.astype(np.intp)
        part -= k
        if part.min() < doubt or part.max() > 1 - doubt:
            k = _settled(t, np.minimum(k, n_bins - 1) + trial * (n_bins + 1), flat_edges)
            k -= trial
        else:
            k += trial * n_bins
        np.add.at(cells, k, one)
    if dtype == np.int32 and counts.max() <= np.iinfo(np.int16).max:
        counts = counts.astype(np.int16)
    return counts.transpose(1, 0, 2)


def _mapped(
    spike_times: tuple[np.ndarray, ...],
    onset: np.ndarray,
    edges: np.ndarray,
    bin_size: float,
    folder: Path,
) -> np.ndarray:
    """Counts (trial, unit, bin) in a file that is written if it is not there."""
    digest = hashlib.blake2b(bytes([_CACHE_FORMAT]), digest_size=12)
    for part in (onset, edges, *spike_times):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(part, np.float64).data)
    path = folder / f"{digest.hexdigest()}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for dtype in (np.uint8, np.uint16, np.uint32):
            try:
                with replacing(path) as whole:
                    _write(whole, spike_times, onset, edges, bin_size, np.dtype(dtype))
            except OverflowError:
                continue
            break
    try:
        by_time: np.ndarray = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged: {error}. Delete it, and the same call writes it again."
        ) from error
    return by_time.transpose(0, 2, 1)


def _write(
    path: Path,
    spike_times: tuple[np.ndarray, ...],
    onset: np.ndarray,
    edges: np.ndarray,
    bin_size: float,
    dtype: np.dtype[np.unsignedinteger],
) -> None:
    """Write counts (trial, bin, unit), or raise OverflowError where one does not fit the type."""
    shape = (len(onset), len(edges) - 1, len(spike_times))
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    # Not through a map, for a full disk is then an error and not the end of the process.
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for trials in in_chunks(np.arange(len(onset)), shape[1] * shape[2]):
            counts = _count(spike_times, onset[trials], edges, bin_size)
            if counts.max() > np.iinfo(dtype).max:
                raise OverflowError
            file.write(np.ascontiguousarray(counts.transpose(0, 2, 1), dtype).data)


def _settled(t: np.ndarray, guess: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Guessed edge before each time, moved until ``edges[guess] <= t < edges[guess + 1]``."""
    while (early := t < edges.take(guess)).any():
        guess -= early
    while (late := t >= edges.take(guess + 1)).any():
        guess += late
    return guess


def bin_edges(span: tuple[float, float], bin_size: float, who: str) -> np.ndarray:
    """Edges (bin + 1) of a span, seconds."""
    n_bins = _number_of_bins(span, bin_size, who)
    return float(span[0]) + np.arange(n_bins + 1) * bin_size


def _number_of_bins(span: tuple[float, float], bin_size: float, who: str) -> int:
    if not (is_number(bin_size) and bin_size > 0):
        raise ValueError(
            f"{who}: bin_size must be a positive number of seconds, got {brief(bin_size)}."
        )
    paired = isinstance(span, Sequence | np.ndarray) and len(span) == 2
    if not (paired and all(map(is_number, span)) and span[0] < span[1]):
        raise ValueError(
            f"{who}: span must be (begin, end) in seconds, begin first, got {brief(span)}."
        )
    bins = (span[1] - span[0]) / bin_size
    if bins > MOST_BINS:
        raise ValueError(
            f"{who}: span {tuple(span)} holds {bins:.3g} bins of {bin_size} s, at most "
            f"{MOST_BINS:,} are expected. Both are in seconds."
        )
    whole = round(bins)
    if whole < 1 or abs(bins - whole) > 1e-6 * whole:
        raise ValueError(
            f"{who}: span {tuple(span)} must be a whole number of bins of {bin_size} s, got "
            f"{bins:g} bins. Use an end of {span[0] + max(whole, 1) * bin_size:g} s or another "
            "bin_size."
        )
    return whole


def aligned_trials(session: Session, align: str, who: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Trials with a time, and these times; tells those without."""
    trials = session.trials
    if trials.empty:
        raise ValueError(
            f"{who}: no trials to bin around. Name the table that holds them, such as "
            "read_nwb(path, trials='epochs'), or give Session a trial table."
        )
    onset = event_times(trials, align, who)
    known = np.isfinite(onset)
    if not known.any():
        raise ValueError(f"{who}: no trial has a finite {align!r}. Align to another column.")
    if not known.all():
        warnings.warn(
            f"{who}: {(~known).sum()} of {len(trials)} trials left out, their {align!r} is not "
            "a finite time.",
            stacklevel=3,
        )
    return trials[known], onset[known]


def _require_fine_times(session: Session, bin_size: float, who: str) -> None:
    """Refuse spike times that are stored more coarsely than a bin is wide."""
    steps = []
    for times in filter(len, session.spike_times):
        steps.append(resolution(times))
        if not steps[-1]:
            return
    step = max(steps, default=0.0)
    if step < bin_size / 10:
        return
    if step >= bin_size:
        raise ValueError(f"{who}: {coarse(step, 'spike times')} Bins are {bin_size:g} s wide.")
    warnings.warn(
        f"{who}: {coarse(step, 'spike times')} Bins are {bin_size:g} s wide: spikes get into the "
        "bins beside their own.",
        stacklevel=3,
    )


def _observed(session: Session, begin: np.ndarray, end: np.ndarray) -> np.ndarray | None:
    """What was observed (trial, unit), or None where everything was."""
    off = recording_off(session.spike_times, begin, end)
    if session.observed is None:
        return ~np.repeat(off[:, None], len(session.units), axis=1) if off.any() else None
    observed = session.is_observed(begin, end) & ~off[:, None]
    return None if observed.all() else observed


def _left(
    observed: np.ndarray,
    session: Session,
    trials: pd.DataFrame,
    begin: np.ndarray,
    end: np.ndarray,
    who: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Which trials and units to keep, so that everything was observed; tells it."""
    kept, units = most_observed(observed)
    n_gone = int((~observed).sum())
    lacking = f"{n_gone:,} of {observed.size:,} trials x units were not observed"
    if not (kept.any() and units.any()):
        raise ValueError(
            f"{who}: {lacking}, and no trial is observed in any unit throughout the span "
            f"(such as {begin[0]:g} to {end[0]:g} s). Take a shorter span, other trials, or "
            "unobserved='ignore' where the file is wrong about it."
        )
    left_out = []
    if not kept.all():
        ids = listed(trials.index[~kept].tolist())
        left_out.append(f"{int((~kept).sum())} of {counted(len(kept), 'trial')} ({ids})")
    if not units.all():
        ids = listed(session.units.index[~units].tolist())
        left_out.append(f"{int((~units).sum())} of {counted(len(units), 'unit')} ({ids})")
    warnings.warn(
        f"{who}: {lacking}, which is not silence. Left out, as what lacks most of it: "
        f"{' and '.join(left_out)}.",
        stacklevel=3,
    )
    return kept, units


def _labels(column: pd.Series) -> np.ndarray:
    values: np.ndarray = column.to_numpy()
    if values.dtype == object and all(isinstance(v, str) for v in values):
        return values.astype(np.str_)
    return values
