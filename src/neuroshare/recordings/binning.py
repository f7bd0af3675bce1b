"""Spike times to counts around trials."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from neuroshare.recordings.session import Session
from neuroshare.settings import is_number, told
from neuroshare.writing import replacing

RESERVED = ("trial", "unit", "time", "window", "lag", "subject", "latent")
"""Names of dimensions and of the subject, which no metadata column may take."""

MOST_BINS = 1_000_000
"""Per trial. More come from a span or a bin size in other units than seconds."""

CHUNK = 2**22
"""Counts that are worked on at a time where there may be more than memory holds."""

_CACHE_FORMAT = 1


def bin_spikes(
    session: Session,
    align: str = "start_time",
    span: tuple[float, float] = (0.0, 0.4),
    bin_size: float = 0.01,
    *,
    cache: str | os.PathLike[str] | None = None,
) -> xr.DataArray:
    """Count the spikes of every unit in bins around an event of every trial.

    Parameters
    ----------
    session : Session
    align : str
        Trial column with the time of the event, seconds.
    span : tuple of float
        Begin and end of the stretch to bin, seconds relative to the event.
    bin_size : float
        Width of a bin, seconds. The span must hold a whole number of bins.
    cache : path-like, optional
        Folder for counts that may not fit into memory: they are written there, some trials at a
        time, and mapped instead of read. Equal spikes, events and bins find the file again; what
        differs gets a file of its own, and any number of sessions may share the folder.

    Returns
    -------
    DataArray
        ``counts``, integer, with dims ``(trial, unit, time)``. Coordinates: the ids of trials
        and units, ``time`` at the bin centres in seconds relative to the event, every trial
        column along ``trial`` and every unit column along ``unit``. A trial column named like
        a dimension (or ``subject``) gets the prefix ``trial_``; a unit column named like one of
        these or like a trial column gets ``unit_``. Attributes: subject, align, span, bin_size.

    Raises
    ------
    ValueError
        No trials, no numeric column ``align``, a span that is reversed or not a whole number
        of bins, a bin size that is not positive; a file of the cache that is damaged.

    Warns
    -----
    UserWarning
        Trials whose event time is NaN are left out.

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
    """
    who = f"subject {session.subject!r}"
    n_bins = _number_of_bins(span, bin_size, who)
    trials = _aligned_trials(session, align, who)
    onset = trials[align].to_numpy(np.float64)
    begin = float(span[0])
    edges = begin + np.arange(n_bins + 1) * bin_size
    counts = (
        _count(session.spike_times, onset, edges, bin_size)
        if cache is None or not session.spike_times  # nothing cannot be mapped
        else _mapped(session.spike_times, onset, edges, bin_size, Path(cache))
    )
    coords = {
        "trial": trials.index.to_numpy(),
        "unit": session.units.index.to_numpy(),
        "time": begin + (np.arange(n_bins) + 0.5) * bin_size,
    }
    taken = set(RESERVED)
    for dim, table in (("trial", trials), ("unit", session.units)):
        for column in table.columns:
            name = str(column)
            while name in taken:
                name = f"{dim}_{name}"
            taken.add(name)
            coords[name] = (dim, _labels(table[column]))
    return xr.DataArray(
        counts,
        dims=("trial", "unit", "time"),
        coords=coords,
        name="counts",
        attrs={
            "subject": session.subject,
            "align": align,
            "span": (begin, float(span[1])),
            "bin_size": float(bin_size),
        },
    )


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


def in_chunks(trials: NDArray[np.int64], counts_each: int) -> Iterator[NDArray[np.int64]]:
    """Give positions of trials in pieces of at most `CHUNK` counts, or one by one."""
    n = max(CHUNK // max(counts_each, 1), 1)
    for first in range(0, len(trials), n):
        yield trials[first : first + n]


def _settled(t: np.ndarray, guess: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Guessed edge before each time, moved until ``edges[guess] <= t < edges[guess + 1]``."""
    while (early := t < edges.take(guess)).any():
        guess -= early
    while (late := t >= edges.take(guess + 1)).any():
        guess += late
    return guess


def _number_of_bins(span: tuple[float, float], bin_size: float, who: str) -> int:
    if not (is_number(bin_size) and bin_size > 0):
        raise ValueError(
            f"{who}: bin_size must be a positive number of seconds, got {told(bin_size)}."
        )
    paired = isinstance(span, Sequence | np.ndarray) and len(span) == 2
    if not (paired and all(map(is_number, span)) and span[0] < span[1]):
        raise ValueError(
            f"{who}: span must be (begin, end) in seconds, begin first, got {told(span)}."
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


def _aligned_trials(session: Session, align: str, who: str) -> pd.DataFrame:
    trials = session.trials
    if trials.empty:
        raise ValueError(
            f"{who}: no trials to bin around. Name the table that holds them, such as "
            "read_nwb(path, trials='epochs'), or give Session a trial table."
        )
    numeric = [str(c) for c in trials.select_dtypes("number").columns]
    if not isinstance(align, str) or align not in numeric:
        raise ValueError(
            f"{who}: align must be a numeric trial column, got {told(align)}. "
            f"Numeric columns: {', '.join(numeric)}."
        )
    known = np.isfinite(trials[align].to_numpy(np.float64))
    if not known.any():
        raise ValueError(f"{who}: no trial has a finite {align!r}. Align to another column.")
    if not known.all():
        warnings.warn(
            f"{who}: {(~known).sum()} of {len(trials)} trials left out, their {align!r} is not "
            "a finite time.",
            stacklevel=3,
        )
    return trials[known]


def _labels(column: pd.Series) -> np.ndarray:
    values: np.ndarray = column.to_numpy()
    if values.dtype == object and all(isinstance(v, str) for v in values):
        return values.astype(np.str_)
    return values
