"""What was measured beside the spikes: series of an NWB file as one Dataset, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from neuroshare.recordings.tree import Tree, is_group, text_of

MOST_VALUES = 20_000_000
"""Values of one series that are read; longer ones (videos, traces of a camera) are left out."""

_AXES = ("x", "y", "z")


def behavior_series(tree: Tree) -> dict[str, Any]:
    """Series of the processing module ``behavior`` by path, tables and events left out."""
    module = tree.get("processing/behavior")
    if module is None or not is_group(module):
        return {}
    found: dict[str, Any] = {}
    waiting = [("processing/behavior", module)]
    while waiting:
        path, group = waiting.pop(0)
        for name in tree.names(group):
            try:
                item = tree.child(group, name)
            except (KeyError, ValueError, OSError):
                continue
            if not is_group(item) or "colnames" in item.attrs:
                continue
            if "data" in tree.names(item):
                if tree.kind(item) not in ("IntervalSeries", "AnnotationSeries", "LabeledEvents"):
                    found[f"{path}/{name}"] = item
            else:
                waiting.append((f"{path}/{name}", item))
    return found


def read_behavior(tree: Tree) -> tuple[xr.Dataset, list[str]]:
    """Series of behavior, each on its own clock, and sentences about those left out.

    Returns
    -------
    Dataset
        One variable per series, named as it is, its values in its unit (conversion and offset
        applied), with ``unit``, ``description`` and ``kind`` (its type in NWB; of a series in a
        CompassDirection, that) as attributes, and of a compass direction its ``period``.
        Along ``time`` (seconds) where all share one clock, and else along ``time_<name>``;
        further columns along ``axis_<name>``, called x, y, z in a series of positions.
    left_out : list of str
    """
    series: dict[str, tuple[np.ndarray, np.ndarray, dict[str, Any]]] = {}
    left_out = []
    for path, group in behavior_series(tree).items():
        name = path.rsplit("/", 1)[-1]
        if name in series:
            name = "_".join(path.split("/")[-2:])
        data = tree.child(group, "data")
        shape = tuple(data.shape)
        kind = np.dtype(data.dtype).kind
        size = int(np.prod(shape))
        if kind not in "biuf" or len(shape) not in (1, 2) or size > MOST_VALUES:
            what = " x ".join(map(str, shape)) if kind in "biuf" else f"of {data.dtype}"
            left_out.append(f"Left out of the behavior: {name} ({what}).")
            continue
        time = series_clock(tree, group, shape[0])
        if time is None:
            left_out.append(f"Left out of the behavior: {name} (its times do not fit its values).")
            continue
        values = series_values(data)
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        about: dict[str, Any] = {
            "unit": text_of(data.attrs.get("unit", "")) or "",
            "description": text_of(group.attrs.get("description", "")) or "",
            "kind": tree.kind(group) or "TimeSeries",
        }
        if tree.kind(tree.get(path.rpartition("/")[0])) == "CompassDirection":
            about |= {"kind": "CompassDirection", "period": period_of(values, about["unit"])}
        series[name] = (values, time, about)
    return as_dataset(series), left_out


def as_dataset(series: dict[str, tuple[np.ndarray, np.ndarray, dict[str, Any]]]) -> xr.Dataset:
    """Series by name (values, times, attributes) as one Dataset."""
    clocks = [time for _, time, _ in series.values()]
    shared = all(np.array_equal(clocks[0], time) for time in clocks[1:])
    data = xr.Dataset()
    for name, (values, time, about) in series.items():
        dim = "time" if shared else f"time_{name}"
        dims: list[str] = [dim]
        coords: dict[str, Any] = {dim: time}
        if values.ndim == 2:
            dims.append(f"axis_{name}")
            n = values.shape[1]
            if about.get("kind") == "SpatialSeries" and n <= len(_AXES):
                coords[f"axis_{name}"] = list(_AXES[:n])
        data[name] = xr.DataArray(values, dims=dims, coords=coords, attrs=about)
    return data


def period_of(values: np.ndarray, unit: str) -> float:
    """Period of a direction: of its unit, or by its range where that says neither."""
    if unit.lower().startswith("rad"):
        return 2 * np.pi
    if unit.lower().startswith("deg"):
        return 360.0
    known = np.abs(values[np.isfinite(values)], dtype=float)
    return 2 * np.pi if known.max(initial=0.0) < 6.4 else 360.0


def series_values(data: Any) -> np.ndarray:
    """Values of a series in its unit, conversion and offset applied."""
    values = np.asarray(data[()])
    factor = float(np.ravel(data.attrs.get("conversion", 1.0))[0])
    offset = float(np.ravel(data.attrs.get("offset", 0.0))[0])
    plain = factor == 1.0 and offset == 0.0
    return values if plain else np.asarray(values * factor + offset)


def series_clock(tree: Tree, group: Any, n: int) -> np.ndarray | None:
    """Times of n values in seconds, from timestamps or from a start and a rate."""
    held = tree.names(group)
    if "timestamps" in held:
        data = tree.child(group, "timestamps")
        if is_group(data) or np.dtype(data.dtype).kind not in "iuf":
            return None
        time = np.asarray(data[()], np.float64).ravel()
        return time if len(time) == n and np.isfinite(time).all() else None
    if "starting_time" in held:
        start = tree.child(group, "starting_time")
        rate = float(np.ravel(start.attrs.get("rate", np.nan))[0])
        begin = float(np.ravel(start[()])[0])
        if np.isfinite(rate) and rate > 0 and np.isfinite(begin):
            return begin + np.arange(n) / rate
    return None
