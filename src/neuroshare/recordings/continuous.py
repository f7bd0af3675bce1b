"""Sessions without trials of one length: windows of their epochs, and behavior in their bins."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from neuroshare.recordings.session import Session, counted, listed
from neuroshare.support.angles import on_turn, shorter_way, span_of
from neuroshare.support.checks import brief, is_number
from neuroshare.support.labels import coordinate_name

Epochs: TypeAlias = str | pd.DataFrame | Sequence[Sequence[float]] | np.ndarray | None
Behavior: TypeAlias = Sequence[str] | Mapping[str, float | None]

PAUSE = 5.0
"""Samples of behavior that lie further apart, in units of their usual distance, leave a gap."""


def windows_of(session: Session, epochs: Epochs, behavior: Behavior, width: float) -> pd.DataFrame:
    """Cut epochs into windows of one length: a table like that of trials.

    Parameters
    ----------
    session
        The session.
    epochs
        None: from the first to the last spike, as far as all behavior goes. ``"trials"``: those of
        the session. Else a table with ``start_time`` and ``stop_time``, or begin and end
        (epoch, 2), seconds.
    behavior
        Names of what is wanted of the behavior.
    width
        Seconds.

    Returns
    -------
    DataFrame
        ``start_time``, ``stop_time``, ``epoch`` (its id) and the other columns of the epochs. What
        is left at the end of an epoch is shorter than a window, and not in it.
    """
    who = f"subject {session.subject!r}"
    if not (is_number(width) and width > 0):
        raise ValueError(
            f"{who}: expected windows of a positive number of seconds, got {brief(width)}."
        )
    require_names(behavior, who)
    table = _epochs(session, epochs, behavior, who)
    begin, end = (table[c].to_numpy(np.float64) for c in ("start_time", "stop_time"))
    known = np.isfinite(begin) & np.isfinite(end)
    if (end[known] < begin[known]).any():
        raise ValueError(f"{who}: epochs must not end before they begin. Exchange the columns.")
    # A sum of bins may be a rounding error longer than an epoch that is as long.
    n = np.where(known, np.floor((end - begin) / width + 1e-6), 0).astype(int)
    if not n.sum():
        raise ValueError(
            f"{who}: no epoch is as long as a window of {width:g} s "
            f"({counted(len(table), 'epoch')}, the longest "
            f"{np.max(end[known] - begin[known], initial=0.0):g} s). Take shorter windows (width)."
        )
    epoch = np.repeat(np.arange(len(table)), n)
    within = np.arange(len(epoch)) - np.repeat(np.cumsum(n) - n, n)
    start = begin[epoch] + within * width
    others = table.drop(columns=["start_time", "stop_time"]).iloc[epoch].reset_index(drop=True)
    ids = pd.Series(table.index.to_numpy()[epoch], name="epoch")
    times = pd.DataFrame({"start_time": start, "stop_time": start + width})
    found = pd.concat([times, ids, others.drop(columns="epoch", errors="ignore")], axis=1)
    return found.rename_axis("trial")


def _epochs(session: Session, epochs: Epochs, behavior: Behavior, who: str) -> pd.DataFrame:
    if isinstance(epochs, str):
        if epochs != "trials":
            raise ValueError(
                f"{who}: expected epochs='trials', a table or begins and ends, got {epochs!r}. "
                "Another table of the file: read_nwb(path, trials=...)."
            )
        if session.trials.empty:
            raise ValueError(f"{who}: no trials to take as epochs. Give a table of them.")
        return session.trials
    if isinstance(epochs, pd.DataFrame):
        if missing := {"start_time", "stop_time"} - set(epochs.columns):
            raise ValueError(f"{who}: expected epochs with {sorted(missing)}.")
        return epochs
    if epochs is not None:
        array = np.asarray(epochs)
        if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iuf":
            raise ValueError(
                f"{who}: expected begin and end of epochs (epoch, 2) in seconds, got "
                f"{brief(epochs)}."
            )
        return pd.DataFrame(array.astype(float), columns=["start_time", "stop_time"])
    ends = [(times[0], times[-1]) for times in session.spike_times if len(times)]
    if not ends:
        raise ValueError(f"{who}: no spikes, so that its begin is not known. Give epochs.")
    first, last = min(a for a, _ in ends), max(b for _, b in ends)
    for name in behavior:
        time = _series(session, name, who)[0]
        first, last = max(first, time.min(initial=np.inf)), min(last, time.max(initial=-np.inf))
    return pd.DataFrame({"start_time": [first], "stop_time": [max(first, last)]})


def require_names(behavior: object, who: str) -> None:
    """Refuse what names no series."""
    if isinstance(behavior, str) or not isinstance(behavior, Sequence | Mapping):
        raise ValueError(f"{who}: expected a list of names of behavior, got {brief(behavior)}.")


def _series(session: Session, name: str, who: str) -> tuple[np.ndarray, xr.DataArray]:
    """Times, and the series itself."""
    if name not in session.behavior:
        found = ", ".join(map(str, session.behavior)) or "none"
        raise ValueError(
            f"{who}: no behavior {name!r}. Found: {found}. Add a series of your own with "
            f"session.behavior[{str(name)!r}] = (time, values)."
        )
    series = session.behavior[name]
    if series.dtype.kind not in "biuf" or series.ndim not in (1, 2):
        raise ValueError(
            f"{who}: expected behavior {name!r} as numbers (time,) or (time, axis), got "
            f"{series.dtype} {series.dims}."
        )
    return np.asarray(series[series.dims[0]].to_numpy(), np.float64), series


def interpolated(
    session: Session, behavior: Behavior, times: np.ndarray
) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Behavior at some times, each column under a name of its own.

    Parameters
    ----------
    session
        The session.
    behavior
        Names of its series, or names and the period of each, such as 360 of an angle; None is no
        angle. By default the attribute ``period`` of a series says it.
    times
        Seconds, (...).

    Returns
    -------
    dict
        Values (...), NaN in gaps and beyond the ends, and attributes: ``unit``, ``period`` of an
        angle, and ``behavior``, the series to which a column belongs. Columns of a series of
        several are called ``<series>_<axis>``.
    """
    who = f"subject {session.subject!r}"
    require_names(behavior, who)
    found = {}
    for name in behavior:
        time, series = _series(session, name, who)
        period = series.attrs.get("period")
        if isinstance(behavior, Mapping):
            period = behavior[name]
        if not (period is None or (is_number(period) and period > 0)):
            raise ValueError(
                f"{who}: expected the period of {name!r} as a positive number, got {brief(period)}."
            )
        about: dict[str, Any] = {"behavior": str(name), "unit": str(series.attrs.get("unit", ""))}
        if period is not None:
            about["period"] = float(period)
        values = series.to_numpy().astype(np.float64).reshape(len(time), -1)
        axes = [""]
        if series.ndim == 2:
            axes = [f"_{label}" for label in series[series.dims[1]].to_numpy().tolist()]
        for axis, column in zip(axes, values.T, strict=True):
            at = _at(times, time, column, period)
            found[coordinate_name(f"{name}{axis}")] = (at, about)
    return found


def _at(
    wanted: np.ndarray, time: np.ndarray, values: np.ndarray, period: float | None
) -> np.ndarray:
    """Interpolate between neighbours that are no gap apart; angles the shorter way round."""
    order = np.argsort(time, kind="stable")
    time, values = time[order], values[order]
    usual = float(np.median(np.diff(time))) if len(time) > 1 else 0.0
    known = np.isfinite(values)
    time, values = time[known], values[known]
    if not len(time):
        return np.full(wanted.shape, np.nan)
    after = np.clip(time.searchsorted(wanted), 1, max(len(time) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(time) - 1)
    span = time[after] - time[before]
    # The ends of a series are as sure as what is between two samples.
    there = (wanted >= time[0] - usual) & (wanted <= time[-1] + usual)
    there &= (span <= PAUSE * usual) | (wanted == time[before]) | (wanted == time[after])
    part = np.divide(wanted - time[before], span, out=np.zeros(wanted.shape), where=span > 0)
    part = np.clip(part, 0, 1)
    step = values[after] - values[before]
    if period is not None:
        step = shorter_way(step, period)
    found = values[before] + part * step
    if period is not None:
        found = on_turn(found, span_of(values.min(), values.max(), period)[0], period)
    return np.where(there, found, np.nan)


def without_gaps(
    windows: pd.DataFrame, behavior: Mapping[str, tuple[np.ndarray, dict[str, Any]]], who: str
) -> np.ndarray:
    """Which windows know all behavior in every bin; tells it of the others."""
    known = np.ones(len(windows), bool)
    lacking = []
    for name, (values, _) in behavior.items():
        here = np.isfinite(values).all(axis=1)
        if not here.all():
            lacking.append(name)
        known &= here
    if not known.any():
        raise ValueError(
            f"{who}: no window has {listed(list(behavior))} in every bin. Check that behavior and "
            "spikes are on one clock (neuroshare inspect)."
        )
    if not known.all():
        seconds = float((windows["stop_time"] - windows["start_time"])[~known].sum())
        warnings.warn(
            f"{who}: {(~known).sum():,} of {len(known):,} windows ({seconds:,.1f} s) left out, in "
            f"gaps of {', '.join(lacking)}.",
            stacklevel=4,
        )
    return known
