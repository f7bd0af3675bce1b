"""When units were recorded: intervals of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

Intervals: TypeAlias = np.ndarray
"""Begin and end (interval, 2) in seconds, ascending, apart from each other."""

OFF = 50.0
"""Spikes of all units expected in a silence from which the recording, not the brain, is off."""

FEW = 5
"""Stretches with spikes that are needed to expect any elsewhere."""

TOUCH = 1e-6
"""Seconds between two intervals that are one: clocks are no finer, and sums round."""


def as_intervals(observed: Any, units: pd.Index, who: str) -> tuple[Intervals, ...] | None:
    """Intervals of each unit, from those of all together or one array per unit.

    Raises
    ------
    ValueError
        Not ``(interval, 2)``, not numbers, an end before its begin, another number of units.
    """
    if observed is None:
        return None
    if isinstance(observed, Mapping):
        if other := set(observed) ^ set(units):
            raise ValueError(
                f"{who}: the units and the observed intervals name different units, such as "
                f"{next(iter(other))!r}."
            )
        observed = [observed[unit] for unit in units]
    if isinstance(observed, np.ndarray) or not _is_per_unit(observed):
        return (_joined(observed, who),) * len(units)
    if len(observed) != len(units):
        raise ValueError(
            f"{who}: expected observed intervals of each of {len(units)} units, or one array "
            f"(interval, 2) for all, got {len(observed)}."
        )
    # By identity and by content: a thousand units of a probe are one array.
    ready: dict[Any, Intervals] = {}
    found = []
    for intervals in observed:
        array = ready.get(id(intervals))
        if array is None:
            array = _joined(intervals, who)
            array = ready.setdefault(array.tobytes(), array)
            ready[id(intervals)] = array
        found.append(array)
    return tuple(found)


def covered(intervals: Intervals, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Whether each stretch from `begin` to `end` lies within one interval."""
    if not len(intervals):
        return np.zeros(len(begin), bool)
    last = np.searchsorted(intervals[:, 0], begin + TOUCH, side="right") - 1
    inside = (last >= 0) & (end <= intervals[last, 1] + TOUCH)
    return np.asarray(inside)


def without(intervals: Intervals, removed: Intervals) -> Intervals:
    """Intervals less those removed from them."""
    left = []
    for begin, end in intervals:
        for off, on in removed[(removed[:, 0] < end) & (removed[:, 1] > begin)]:
            if off > begin:
                left.append((begin, off))
            begin = max(begin, on)
        if begin < end:
            left.append((begin, end))
    return np.asarray(left, np.float64).reshape(-1, 2)


def recording_off(
    spike_times: Sequence[np.ndarray], begin: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """Whether stretches lie where no unit has a spike though many were expected.

    Parameters
    ----------
    spike_times : sequence of array
        Of each unit, seconds, sorted.
    begin, end : array
        Of each stretch, seconds.

    Returns
    -------
    array of bool
        Dims ``(stretch,)``. A recording that ends before the behavior, begins after it or pauses
        is silent in that time: at the mean rate of all units together, `OFF` spikes or more would
        have been there.
    """
    off = np.zeros(len(begin), bool)
    empty = np.isfinite(begin) & np.isfinite(end)
    n_known, busiest = int(empty.sum()), sorted(spike_times, key=len, reverse=True)
    for times in busiest:
        if not empty.any() or not len(times):
            break
        some = np.flatnonzero(empty)
        empty[some] = times.searchsorted(begin[some]) == times.searchsorted(end[some])
    if not empty.any() or n_known - empty.sum() < FEW:
        return off
    order = np.argsort(begin, kind="stable")
    order = order[np.isfinite(begin[order]) & np.isfinite(end[order])]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], empty[order].astype(int), [0]])))
    firsts, lasts = edges[::2], edges[1::2] - 1
    first_spike = min(times[0] for times in spike_times if len(times))
    last_spike = max(times[-1] for times in spike_times if len(times))
    rate = sum(map(len, spike_times)) / max(last_spike - first_spike, TOUCH)
    # A run is as long as the silence around it, or to its own end where nothing follows.
    run_begin = begin[order[firsts]]
    run_end = np.array([end[order[a : b + 1]].max() for a, b in zip(firsts, lasts, strict=True)])
    before, after = np.full(len(firsts), -np.inf), np.full(len(firsts), np.inf)
    silent = np.ones(len(firsts), bool)
    for times in spike_times:
        if not len(times):
            continue
        low, high = times.searchsorted(run_begin), times.searchsorted(run_end)
        silent &= low == high
        before = np.maximum(before, np.where(low > 0, times[np.maximum(low - 1, 0)], -np.inf))
        after = np.minimum(after, np.where(high < len(times), times[high % len(times)], np.inf))
    gap = np.where(np.isinf(after), run_end, after) - np.where(np.isinf(before), run_begin, before)
    for first, last, is_off in zip(firsts, lasts, silent & (rate * gap >= OFF), strict=True):
        off[order[first : last + 1]] = is_off
    return off


def _is_per_unit(observed: Any) -> bool:
    """Whether this is a sequence of arrays (interval, 2), rather than one such as nested lists."""
    if not isinstance(observed, Sequence):
        return False
    return len(observed) == 0 or any(np.ndim(item) == 2 or np.size(item) == 0 for item in observed)


def _joined(intervals: Any, who: str) -> Intervals:
    try:
        array = np.asarray(intervals, np.float64)
    except (ValueError, TypeError):
        array = np.empty((0, 0))
    if array.size == 0:
        return np.empty((0, 2))
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(
            f"{who}: expected observed intervals as (interval, 2), begin and end in seconds, got "
            f"{f'shape {array.shape}' if array.size else type(intervals).__name__}."
        )
    if np.isnan(array).any() or (array[:, 1] < array[:, 0]).any():
        raise ValueError(f"{who}: observed intervals need a begin before their end, and no NaN.")
    array = array[np.argsort(array[:, 0], kind="stable")]
    until = np.maximum.accumulate(array[:, 1])
    first = np.concatenate([[True], array[1:, 0] > until[:-1] + TOUCH])
    starts = np.flatnonzero(first)
    joined = np.column_stack([array[starts, 0], until[np.append(starts[1:], len(array)) - 1]])
    joined.flags.writeable = False
    return joined
