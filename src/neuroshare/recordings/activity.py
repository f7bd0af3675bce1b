"""Activity that is no spikes: fluorescence of an NWB file, and its bins around trials."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from neuroshare.recordings.behavior import series_clock, series_values
from neuroshare.recordings.binning import aligned_trials, bin_edges, labelled
from neuroshare.recordings.session import Session, counted, listed
from neuroshare.recordings.tables import choose_table, read_table, short_names
from neuroshare.recordings.tree import Tree, is_group

_PREFERRED = ("DfOverF", "Fluorescence")
"""Containers of NWB, that with the baseline divided out first."""


def activity_series(tree: Tree) -> dict[str, Any]:
    """Series with one column per region of interest, by path; those of dF/F first."""
    found = {
        path: group
        for path, group in tree.groups()
        if tree.kind(group) == "RoiResponseSeries" and "data" in tree.names(group)
    }
    containers = {path: tree.kind(tree.get(path.rpartition("/")[0])) for path in found}
    first = next((kind for kind in _PREFERRED if kind in containers.values()), None)
    return dict(sorted(found.items(), key=lambda item: containers[item[0]] != first))


def read_activity(
    tree: Tree, wanted: str | None, who: str
) -> tuple[xr.DataArray, pd.DataFrame, list[str]]:
    """Activity (time, unit), the table of its units, and sentences about what was left out.

    Parameters
    ----------
    tree
        The file.
    wanted
        Name or path of the series; by default the only one, or the only one of dF/F.
    who
        Name of the file, for errors.

    Returns
    -------
    activity, units, left_out
    """
    found = activity_series(tree)
    if wanted is None:
        kinds = [tree.kind(tree.get(path.rpartition("/")[0])) for path in found]
        if len(found) > 1 and kinds.count(kinds[0]) > 1:
            names = ", ".join(short_names([*found]).values())
            raise ValueError(
                f"{who}: several series of activity: {names}. Name one as the unit_table."
            )
        path = next(iter(found))
    else:
        chosen, _ = choose_table(found, wanted, who, "series of activity", "processing/ophys")
        if chosen is None:
            names = ", ".join(short_names([*found]).values())
            raise ValueError(f"{who}: no series of activity {wanted!r}. Found: {names}.")
        path = chosen
    group = found[path]
    data = tree.child(group, "data")
    values = series_values(data)
    if values.ndim == 1:
        values = values[:, None]
    rows = _regions(tree, group)
    if values.ndim == 2 and rows is not None and len(rows) == len(values) != values.shape[1]:
        values = values.T  # written as (unit, time) by some
    time = series_clock(tree, group, len(values))
    if values.ndim != 2 or time is None:
        raise ValueError(
            f"{who}: expected activity (time, unit) with as many times at {path}, got values of "
            f"shape {tuple(data.shape)}. Mend the file, or choose another series."
        )
    units, left_out = _units(tree, group, rows, values.shape[1])
    activity = xr.DataArray(
        values,
        dims=("time", "unit"),
        coords={"time": time, "unit": units.index.to_numpy()},
        name=path.rpartition("/")[2],
    )
    return activity, units, left_out


def _regions(tree: Tree, group: Any) -> np.ndarray | None:
    """Rows of the table of regions, one for each column of a series."""
    if "rois" not in tree.names(group):
        return None
    return np.asarray(tree.child(group, "rois")[()], np.int64).ravel()


def _units(
    tree: Tree, group: Any, rows: np.ndarray | None, n: int
) -> tuple[pd.DataFrame, list[str]]:
    """Regions that a series refers to, as a table of units."""
    plain = pd.DataFrame(index=pd.RangeIndex(n))
    if rows is None or len(rows) != n:
        return plain, []
    region = tree.child(group, "rois")
    table = tree.target(region.attrs["table"], region) if "table" in region.attrs else None
    if table is None or not is_group(table):
        return plain, []
    skip = [c for c in ("image_mask", "pixel_mask", "voxel_mask") if c in tree.names(table)]
    regions, left_out = read_table(tree, table, "regions of interest", skip)
    if rows.min(initial=0) < 0 or rows.max(initial=0) >= len(regions):
        return plain, left_out
    chosen = regions.iloc[rows]
    return (chosen if chosen.index.is_unique else chosen.reset_index(drop=True)), left_out


def bin_activity(
    session: Session,
    align: str = "start_time",
    span: tuple[float, float] = (0.0, 0.4),
    bin_size: float = 0.05,
) -> xr.DataArray:
    """Average the activity of every unit in bins around an event of every trial.

    Parameters
    ----------
    session : Session
        With ``activity`` (time, unit), such as fluorescence.
    align, span, bin_size
        As of `bin_spikes`.

    Returns
    -------
    DataArray
        ``activity``, with dims, coordinates and attributes as those of `bin_spikes`: the mean of
        the samples in each bin. Bins narrower than the samples lie apart get a value between
        their neighbours, on a straight line.

    Raises
    ------
    ValueError
        No activity, no trials, no numeric column ``align``, a span that is reversed or not a
        whole number of bins; no trial that was observed.

    Warns
    -----
    UserWarning
        Trials left out: those without a time, and those in which activity was not sampled or is
        NaN.

    Examples
    --------
    >>> import numpy as np, pandas as pd, xarray as xr
    >>> trials = pd.DataFrame({"start_time": [1.0], "stop_time": [2.0], "odor": ["A"]})
    >>> time = np.arange(0, 4, 0.25)
    >>> activity = xr.DataArray(time[:, None] * [1, 2], {"time": time}, ("time", "unit"))
    >>> session = Session("mitt", [], trials=trials, activity=activity)
    >>> bin_activity(session, span=(0.0, 1.0), bin_size=0.5).values.tolist()
    [[[1.125, 1.625], [2.25, 3.25]]]
    """
    who = f"subject {session.subject!r}"
    edges = bin_edges(span, bin_size, who)
    if session.activity is None:
        raise ValueError(
            f"{who}: no activity beside spikes. Give Session an array activity=(time, unit), or "
            "bin its spikes (bin_spikes)."
        )
    trials, onset = aligned_trials(session, align, who)
    activity = session.activity.transpose("time", "unit")
    time = activity["time"].to_numpy().astype(float)
    values = activity.to_numpy()
    absolute = onset[:, None] + edges
    at = time.searchsorted(absolute)  # (trial, edge)
    known = np.isfinite(values)
    total = np.concatenate([np.zeros((1, values.shape[1])), np.where(known, values, 0)]).cumsum(0)
    number = np.concatenate([np.zeros((1, values.shape[1]), int), known]).cumsum(0)
    n = number[at[:, 1:]] - number[at[:, :-1]]  # (trial, bin, unit)
    means = total[at[:, 1:]] - total[at[:, :-1]]
    means = np.divide(means, n, out=np.full(means.shape, np.nan), where=n > 0)
    # A bin without a sample lies between two, unless sampling stopped.
    apart = 1.5 * float(np.median(np.diff(time))) if len(time) > 1 else 0.0
    trial, k = np.nonzero(at[:, 1:] == at[:, :-1])
    if len(trial):
        centre = (absolute[trial, k] + absolute[trial, k + 1]) / 2
        after = time.searchsorted(centre)
        inside = (after > 0) & (after < len(time))
        after = np.clip(after, 1, max(len(time) - 1, 1))
        before = after - 1
        gap = time[after] - time[before]
        weight = ((centre - time[before]) / gap)[:, None]
        between = (1 - weight) * values[before] + weight * values[after]
        between[~inside | (gap > apart)] = np.nan
        means[trial, k] = between
    observed = np.isfinite(means).all(axis=1)  # (trial, unit)
    never = ~observed.any(axis=0)
    kept = observed[:, ~never].all(axis=1) if not never.all() else np.zeros(len(onset), bool)
    if not kept.any():
        raise ValueError(
            f"{who}: no trial in which activity was sampled throughout the span (such as "
            f"{absolute[0, 0]:g} to {absolute[0, -1]:g} s). Samples go from "
            f"{time.min(initial=np.inf):g} to {time.max(initial=-np.inf):g} s."
        )
    for what, gone, ids in (
        ("trial", ~kept, trials.index[~kept]),
        ("unit", never, session.units.index[never]),
    ):
        if gone.any():
            warnings.warn(
                f"{who}: {gone.sum()} of {counted(len(gone), what)} left out, in which activity "
                f"was not sampled throughout: {listed(ids.tolist())}.",
                stacklevel=2,
            )
    chosen = session.select(units=~never)
    array = means[kept][:, :, ~never].transpose(0, 2, 1)
    attrs = {"align": align, "span": (float(span[0]), float(span[1])), "bin_size": float(bin_size)}
    return labelled(array, chosen, trials[kept], onset[kept], "activity", attrs)
