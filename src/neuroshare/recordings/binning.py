"""Spike times to counts around trials."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from neuroshare.recordings.session import Session
from neuroshare.settings import is_number, told

RESERVED = ("trial", "unit", "time", "window", "lag", "subject", "latent")
"""Names of dimensions and of the subject, which no metadata column may take."""

MOST_BINS = 1_000_000
"""Per trial. More come from a span or a bin size in other units than seconds."""


def bin_spikes(
    session: Session,
    align: str = "start_time",
    span: tuple[float, float] = (0.0, 0.4),
    bin_size: float = 0.01,
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
        of bins, a bin size that is not positive.

    Warns
    -----
    UserWarning
        Trials whose event time is NaN are left out.

    Notes
    -----
    Bins are half-open: bin ``k`` of a trial counts the spikes in ``[onset + e_k,
    onset + e_{k+1})`` with ``e_k = span[0] + k * bin_size``, compared in float64 as written.
    Counts are int16, or int32 where a bin holds more than 32,767 spikes. Where trials overlap,
    a spike counts in each.

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
    counts = _count(session.spike_times, onset, begin + np.arange(n_bins + 1) * bin_size, bin_size)
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
