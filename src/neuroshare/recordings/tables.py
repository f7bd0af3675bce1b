"""Tables of an NWB file as data frames: trials of whatever form, and units with their spikes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np
import pandas as pd

from neuroshare.recordings.observed import Intervals, as_intervals
from neuroshare.recordings.session import counted, listed
from neuroshare.recordings.tree import Tree, is_group, text_of, texts_of

_SERIES_OF_EVENTS = {"AnnotationSeries", "IntervalSeries", "Events", "LabeledEvents", "TtlEvents"}

_MEANT_OTHERWISE = {"spike_times", "obs_intervals", "electrodes"}
"""Columns of units that are read, but not as columns."""

SPIKES_OUTSIDE = 0.9
"""Share of spikes outside the observed intervals from which the intervals are not of this clock.

Less may be what was seen of a unit while it was not told from others."""


# ----------------------------------------------------------------------------------- tables


def read_table(
    tree: Tree, group: Any, what: str, skip: Sequence[str] = ()
) -> tuple[pd.DataFrame, list[str]]:
    """Columns of a table that hold one value per row, and sentences about those that do not.

    Parameters
    ----------
    tree : Tree
    group : group of the file
    what : str
        What the table holds, such as ``trials``, for the sentences.
    skip : sequence of str
        Columns that are neither read nor told.

    Returns
    -------
    table : DataFrame
        Indexed by the ids of the rows, with the columns in the order of ``colnames``.
    left_out : list of str
    """
    held = {name.strip(): name for name in tree.names(group)}
    named = texts_of(group.attrs.get("colnames", []))
    stored = [
        name
        for name in held
        if name != "id" and not (name.endswith("_index") and name.removesuffix("_index") in held)
    ]
    order = [*dict.fromkeys(named), *(name for name in stored if name not in named)]
    order = [name for name in order if name not in {"id", *skip}]
    ids = _ids(tree, group, held)
    n_rows = len(ids) if ids is not None else _length(tree, group, held, stored)
    columns: dict[str, Any] = {}
    left_out, unlisted = [], []
    for name in order:
        if name not in held:
            left_out.append(f"{name} (named, not stored)")
            continue
        values = _column(tree, group, held[name], n_rows, held)
        if isinstance(values, str):
            left_out.append(f"{name} ({values})")
            continue
        columns[name] = values
        if named and name not in named:
            unlisted.append(name)
    told = [f"Left out of the {what}: {', '.join(left_out)}."] if left_out else []
    if unlisted:
        told.append(
            f"The {what} hold {', '.join(unlisted)}, which their colnames do not list; read as "
            f"{'a column' if len(unlisted) == 1 else 'columns'}."
        )
    index = pd.RangeIndex(n_rows) if ids is None else pd.Index(ids, dtype=np.int64)
    return pd.DataFrame(columns, index=index), told


def _column(
    tree: Tree, group: Any, name: str, n_rows: int, held: Mapping[str, str]
) -> np.ndarray | pd.api.extensions.ExtensionArray | list[str] | str:
    """Values of a column, one per row, or why it has none."""
    data = tree.child(group, name)
    if is_group(data):
        return "a group"
    if tree.kind(data) == "DynamicTableRegion":
        return "rows of another table"
    shape = data.shape
    kind = _kind(data)
    index = held.get(f"{name.strip()}_index")
    ends = None
    if index is not None:
        if f"{name.strip()}_index_index" in held:
            return "lists of lists"
        ends = _flat(tree.child(group, index)).astype(np.int64)
        # A list of one value per row is a column; lists of words are one text.
        if len(ends) != n_rows:
            return f"{len(ends)} lists for {n_rows} rows"
        if not np.array_equal(ends, np.arange(1, n_rows + 1)):
            if kind not in "SUO" or len(shape) != 1:
                return "lists of values"
        else:
            ends = None
    # A column (n, 1), or a row (1, n), is what MATLAB makes of a column.
    elif n_rows not in shape or int(np.prod(shape)) != n_rows:
        many = " x ".join(map(str, shape)) or "one value"
        return many if len(shape) > 1 else f"{many} for {counted(n_rows, 'row')}"
    if kind not in "biufSUO":
        return "of records" if kind == "V" else f"of {data.dtype}"
    values = _flat(data)
    if kind == "O" and _is_reference(tree, data, values):
        return [_name_of(tree, data, value) for value in values]
    if tree.kind(data) == "EnumData" and "elements" in data.attrs:
        elements = tree.target(data.attrs["elements"], data)
        if elements is not None:
            values = _flat(elements)[values.astype(np.int64)]
    if values.dtype.kind not in "SUO":
        return values
    texts = [value.decode() if isinstance(value, bytes) else value for value in values.tolist()]
    if not all(isinstance(text, str) for text in texts):
        return _objects(texts)
    if ends is not None:
        return [", ".join(row) for row in np.split(np.asarray(texts, object), ends)[:-1]]
    return pd.array(texts, dtype=str)


def _objects(values: list[Any]) -> np.ndarray | pd.api.extensions.ExtensionArray | str:
    """Objects of a Zarr store: numbers, booleans or texts, with None where there is none."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in known) and len(known) == len(values):
        return np.asarray(values, bool)
    if all(isinstance(value, int | float | np.number) for value in known):
        return np.asarray([np.nan if value is None else value for value in values], np.float64)
    if all(isinstance(value, str) for value in known):
        return pd.array([np.nan if value is None else value for value in values], dtype=str)
    kinds: list[str] = sorted({type(value).__name__ for value in known})
    return f"of {' and '.join(kinds)}"


def _ids(tree: Tree, group: Any, held: Mapping[str, str]) -> np.ndarray | None:
    if "id" not in held:
        return None
    data = tree.child(group, held["id"])
    if is_group(data) or _kind(data) not in "iuf":
        return None
    return _flat(data).astype(np.int64)


def _length(tree: Tree, group: Any, held: Mapping[str, str], stored: Sequence[str]) -> int:
    """Rows of a table without ids: those of its first column."""
    for name in stored:
        data = tree.child(group, held.get(f"{name}_index", held[name]))
        if not is_group(data) and data.shape:
            return int(max(data.shape) if 1 in data.shape else data.shape[0])
    return 0


def _flat(data: Any) -> np.ndarray:
    return np.asarray(data[:] if data.shape else data[()]).ravel()


def _kind(data: Any) -> str:
    """Kind of a dataset's values, before any is read; references are objects."""
    return str(np.dtype(data.dtype).kind)


def _is_reference(tree: Tree, data: Any, values: np.ndarray) -> bool:
    if isinstance(data, h5py.Dataset):
        return h5py.check_ref_dtype(data.dtype) is not None
    return bool(len(values)) and all(isinstance(value, Mapping) for value in values)


def _name_of(tree: Tree, data: Any, reference: Any) -> str:
    """Last part of the path of what is referred to."""
    target = tree.target(reference, data)
    return "" if target is None else str(target.name).rsplit("/", 1)[-1]


# ----------------------------------------------------------------------------------- trials


def trial_tables(tree: Tree) -> dict[str, Any]:
    """What could be trials, by path: tables of intervals or events, and series of events."""
    found = {}
    parents: dict[str, str] = {}
    for path, group in tree.groups():
        kind = tree.kind(group)
        parents[path] = kind
        held = {name.strip() for name in tree.names(group)}
        table = "colnames" in group.attrs or kind in ("TimeIntervals", "DynamicTable")
        if (
            (table and held & {"start_time", "timestamp"})
            or (table and {"event_times", "event_times_index"} <= held)
            or (kind in _SERIES_OF_EVENTS and "timestamps" in held)
            or (parents.get(path.rpartition("/")[0]) == "BehavioralEvents" and "timestamps" in held)
        ):
            found[path] = group
    return found


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """The name of each path that tells it from the others: its last part, or all of it."""
    last = [path.rsplit("/", 1)[-1] for path in paths]
    return {p: name if last.count(name) == 1 else p for p, name in zip(paths, last, strict=True)}


def choose_table(
    found: Mapping[str, Any], wanted: str, who: str, kind: str, home: str
) -> tuple[str | None, list[str]]:
    """Path of the table of a name or path, and what must be told of others of that name.

    Raises
    ------
    ValueError
        Several tables have the name, none of them in its usual place `home`.
    """
    path = wanted.strip("/")
    if path in found:
        return path, []
    same = [p for p in found if p.rsplit("/", 1)[-1] == path]
    if len(same) > 1:
        usual = [p for p in same if p.rpartition("/")[0] == home]
        if len(usual) != 1:
            raise ValueError(
                f"{who}: {len(same)} {kind} are called {wanted!r}: {', '.join(same)}. "
                "Name one by its path."
            )
        others = ", ".join(p for p in same if p not in usual)
        return usual[0], [f"{usual[0]} is read; another of that name is at {others}."]
    return (same[0] if same else None), []


def read_trials(tree: Tree, path: str, group: Any) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Trials of a table of intervals or events, or of a series of events.

    Returns
    -------
    trials : DataFrame
        With ``start_time`` and ``stop_time``; the latter NaN where an event has no end.
    left_out : list of str
        Sentences about columns that were not read.
    warned : list of str
        Sentences about rows that were left out or changed.
    """
    kind = tree.kind(group)
    held = {name.strip() for name in tree.names(group)}
    if "timestamps" in held and not held & {"start_time", "timestamp"}:
        return _events(tree, group, kind), [], []
    if "event_times" in held and "start_time" not in held:
        return _annotated(tree, group, path)
    table, left_out = read_table(tree, group, "trials", skip=("timeseries",))
    if "start_time" not in table and "timestamp" in table:
        table.insert(0, "start_time", table.pop("timestamp"))
        if "stop_time" not in table:
            length = table.get("duration", np.nan)
            table.insert(1, "stop_time", table["start_time"] + length)
    warned = []
    if "start_time" in table and "stop_time" not in table:
        table.insert(1, "stop_time", np.nan)
        left_out.append("The trials have no stop_time; their ends are unknown.")
    if not table.index.is_unique:
        warned.append(_renumbered(table, "trial"))
        table.index = pd.RangeIndex(len(table))
    return (*_without_bad_rows(table, left_out, warned),)


def _without_bad_rows(
    table: pd.DataFrame, left_out: list[str], warned: list[str]
) -> tuple[pd.DataFrame, list[str], list[str]]:
    times = ("start_time", "stop_time")
    if not all(name in table and table[name].dtype.kind in "iuf" for name in times):
        return table, left_out, warned  # refused by the session
    start, stop = (table[name].to_numpy(np.float64) for name in times)
    backwards = stop < start
    if backwards.any():
        warned.append(
            f"{_trials(table.index[backwards])} left out, since stop_time is before start_time."
        )
    # Whole rows: two stimuli at one time are no copy.
    twice = table.duplicated().to_numpy() & ~backwards
    if twice.any():
        warned.append(
            f"{_trials(table.index[twice])} left out, being equal to an earlier row in every "
            "column: listed twice, a trial would be on both sides of a split."
        )
    return table[~(backwards | twice)], left_out, warned


def _trials(ids: pd.Index) -> str:
    verb = "was" if len(ids) == 1 else "were"
    return f"{counted(len(ids), 'trial')} ({listed(ids.tolist())}) {verb}"


def _renumbered(table: pd.DataFrame, what: str) -> str:
    """Keep ids that are repeated in a column; the sentence that tells it."""
    repeated = table.index[table.index.duplicated()].unique().tolist()
    name = "id"
    while name in table:
        name = f"file_{name}"
    table[name] = table.index.to_numpy()
    return (
        f"The {what} ids {listed(repeated)} are repeated; the {what}s are numbered anew, and the "
        f"ids of the file are in column {name!r}."
    )


def _events(tree: Tree, group: Any, kind: str) -> pd.DataFrame:
    """Rows of a series of events: of annotations, labels, or beginnings and ends."""
    time = _flat(tree.child(group, "timestamps")).astype(np.float64)
    held = tree.names(group)
    data = _flat(tree.child(group, "data")) if "data" in held else None
    if kind == "IntervalSeries" and data is not None:
        begins, ends = np.flatnonzero(data > 0), np.flatnonzero(data < 0)
        table = pd.DataFrame({"start_time": time[begins], "stop_time": np.nan})
        after = np.searchsorted(ends, begins)
        has_end = after < len(ends)
        table.loc[has_end, "stop_time"] = time[ends[after[has_end]]]
        codes = np.abs(data[begins])
        if len(np.unique(codes)) > 1:
            table["code"] = codes
        return table
    table = pd.DataFrame({"start_time": time, "stop_time": np.nan})
    if data is None or len(data) != len(time):
        return table
    if data.dtype.kind in "SUO":
        table["label"] = pd.array([text_of(value) or "" for value in data], dtype=str)
        return table
    labels = group.attrs.get("labels")
    if labels is None and "labels" in held:
        labels = tree.child(group, "labels")[()]
    elif labels is None and "data" in held:
        labels = tree.child(group, "data").attrs.get("labels")
    if labels is not None and kind in ("LabeledEvents", "TtlEvents"):
        names = texts_of(labels)
        table["label"] = pd.array(
            [names[int(c)] if 0 <= int(c) < len(names) else str(c) for c in data], dtype=str
        )
    else:
        table["value"] = data
    return table


def _annotated(tree: Tree, group: Any, path: str) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Rows of a table with one row per kind of event, one row per event."""
    kinds, left_out = read_table(tree, group, "trials", skip=("event_times",))
    time = _flat(tree.child(group, "event_times")).astype(np.float64)
    ends = _flat(tree.child(group, "event_times_index")).astype(np.int64)
    counts = np.diff(ends, prepend=0)
    rows = np.repeat(np.arange(len(kinds)), counts)
    table = kinds.iloc[rows].reset_index(drop=True)
    table.insert(0, "start_time", time)
    table.insert(1, "stop_time", np.nan)
    order = np.argsort(time, kind="stable")
    return table.iloc[order].reset_index(drop=True), left_out, []


# ------------------------------------------------------------------------------------ units


def unit_tables(tree: Tree) -> dict[str, Any]:
    """Tables with spike times, by path."""
    return {
        path: group
        for path, group in tree.groups()
        if ("colnames" in group.attrs or tree.kind(group) == "Units")
        and "spike_times" in {name.strip() for name in tree.names(group)}
    }


def read_units(
    tree: Tree, group: Any, who: str
) -> tuple[pd.DataFrame, list[np.ndarray], Any, list[str], list[str]]:
    """Unit table, spike times, observed intervals, sentences about what is not there or changed.

    Raises
    ------
    ValueError
        No spike times, or an index of them that does not fit.
    """
    held = {name.strip(): name for name in tree.names(group)}
    if "spike_times" not in held:
        found = ", ".join(texts_of(group.attrs.get("colnames", []))) or "no columns"
        raise ValueError(
            f"{who}: units table has no 'spike_times' column. Found: {found}. "
            "Choose a file with the spike times of sorted units."
        )
    table, left_out = read_table(tree, group, "units", skip=[*_MEANT_OTHERWISE])
    flat, ends = _spikes(tree, group, held, len(table), who)
    warned: list[str] = []
    if not table.index.is_unique:
        warned.append(_renumbered(table, "unit"))
        table.index = pd.RangeIndex(len(table))
    flat, ends = _without_padding(flat, ends, table.index, warned)
    table = _with_electrodes(tree, group, held, table, left_out)
    spikes = np.split(flat, ends)[:-1]
    observed = _observed(tree, group, held, table, spikes, who, left_out, warned)
    return table.rename_axis("unit"), spikes, observed, left_out, warned


def _spikes(
    tree: Tree, group: Any, held: Mapping[str, str], n_units: int, who: str
) -> tuple[np.ndarray, np.ndarray]:
    """All spike times, seconds, and where those of each unit end."""
    data = tree.child(group, held["spike_times"])
    if "spike_times_index" not in held:
        # One row per unit, padded to the longest.
        if not is_group(data) and len(data.shape) == 2 and data.shape[0] == n_units > 0:
            flat = _flat(data).astype(np.float64, copy=False)
            return flat, np.arange(1, n_units + 1) * data.shape[1]
        raise ValueError(
            f"{who}: expected spike_times_index to tell whose the spike times are, got none. "
            "Write spike_times as a ragged column."
        )
    # One read each: element by element, the same takes minutes on a large file.
    ends = _flat(tree.child(group, held["spike_times_index"])).astype(np.int64)
    flat = _flat(data).astype(np.float64, copy=False)
    bounds = np.concatenate([[0], ends])
    if len(ends) != n_units or (np.diff(bounds) < 0).any() or bounds[-1] != len(flat):
        raise ValueError(
            f"{who}: the index of spike_times is broken: expected {n_units} rising ends, "
            f"the last equal to the number of spike times stored ({len(flat)}), got {len(ends)} "
            f"ends from {bounds[1:].min(initial=0)} to {bounds.max()}. "
            "The file is incomplete or wrongly cut; export it again."
        )
    return flat, ends


def _without_padding(
    flat: np.ndarray, ends: np.ndarray, ids: pd.Index, warned: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Spike times without NaN, infinity, and the zeros that fill a matrix."""
    drop = ~np.isfinite(flat)
    lost = _by_unit(drop, ends)
    if lost.any():
        warned.append(
            f"{_listed_counts(lost, ids)} {'was' if lost.sum() == 1 else 'were'} dropped: NaN or "
            "infinite, as the padding of a matrix."
        )
    if not (flat[~drop] == 0).any():
        return (flat[~drop], ends - np.cumsum(lost)) if lost.any() else (flat, ends)
    zeros = np.zeros(len(flat), bool)
    for begin, end in zip(np.concatenate([[0], ends[:-1]]), ends, strict=True):
        times = flat[begin:end]
        at_zero = times == 0
        n = int(at_zero.sum())
        # Two spikes at the first instant, or one after later ones, are no spikes.
        if n and (n > 1 or (times[: int(at_zero.argmax())] > 0).any()):
            zeros[begin:end] = at_zero
    padded = _by_unit(zeros, ends)
    if padded.any():
        warned.append(
            f"{_listed_counts(padded, ids)} {'was' if padded.sum() == 1 else 'were'} dropped: "
            "zeros, as the padding of a matrix."
        )
    return flat[~(drop | zeros)], ends - np.cumsum(lost + padded)


def _by_unit(marked: np.ndarray, ends: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0], np.cumsum(marked)])
    return np.diff(total[ends], prepend=0)


def _listed_counts(counts: np.ndarray, ids: pd.Index, noun: str = "spike time") -> str:
    units = [f"unit {ids[u]}" for u in np.flatnonzero(counts)]
    return f"{counted(int(counts.sum()), noun)} of {listed(units, 4)}"


def _with_electrodes(
    tree: Tree, group: Any, held: Mapping[str, str], table: pd.DataFrame, left_out: list[str]
) -> pd.DataFrame:
    """Add where a unit was recorded: location and group of its electrodes, where NWB keeps them."""
    places: dict[str, list[str]] = {}
    if "electrodes" in held:
        data = tree.child(group, held["electrodes"])
        if is_group(data) or _kind(data) not in "iu":
            left_out.append("Left out of the units: electrodes (not rows of a table).")
        else:
            places = _places(tree, group, held, data, len(table))
    if "electrode_group" in held and "location" not in {*places, *table}:
        # Without electrodes, the group says where it is.
        references = _flat(tree.child(group, held["electrode_group"]))
        where = [_location(tree, tree.target(reference)) for reference in references]
        if len(where) == len(table) and any(where):
            places["location"] = where
    for name, values in places.items():
        if name not in table and any(values):
            table[name] = pd.array(values, dtype=str)
    return table


def _places(
    tree: Tree, group: Any, held: Mapping[str, str], data: Any, n_units: int
) -> dict[str, list[str]]:
    rows = _flat(data).astype(np.int64)
    if "electrodes_index" in held:
        ends = _flat(tree.child(group, held["electrodes_index"])).astype(np.int64)
    else:
        ends = np.arange(1, len(rows) + 1)
    electrodes = tree.target(data.attrs["table"], data) if "table" in data.attrs else None
    if electrodes is None:
        electrodes = tree.get("general/extracellular_ephys/electrodes")
    if electrodes is None or len(ends) != n_units or (len(ends) and ends[-1] != len(rows)):
        return {}
    about, _ = read_table(tree, electrodes, "electrodes")
    if len(rows) and (rows.min() < 0 or rows.max() >= len(about)):
        return {}
    places = {}
    for name in ("location", "group_name"):
        if name in about:
            values = about[name].astype(str).to_numpy()[rows]
            # A unit seen in two areas is in both, as the electrodes say.
            places[name] = [", ".join(dict.fromkeys(part)) for part in np.split(values, ends)[:-1]]
    return places


def _location(tree: Tree, group: Any) -> str:
    if group is None or not is_group(group):
        return ""
    if "location" in group.attrs:
        return text_of(group.attrs["location"]) or ""
    if "location" in tree.names(group):
        return text_of(np.asarray(tree.child(group, "location")[()]).ravel()[0]) or ""
    return ""


def _observed(
    tree: Tree,
    group: Any,
    held: Mapping[str, str],
    table: pd.DataFrame,
    spikes: list[np.ndarray],
    who: str,
    left_out: list[str],
    warned: list[str],
) -> tuple[Intervals, ...] | None:
    """Observed intervals of each unit, or None where the file states none that can be."""
    if "obs_intervals" not in held:
        return None
    values = np.asarray(tree.child(group, held["obs_intervals"])[()], np.float64)
    if values.ndim != 2 or values.shape[1] != 2:
        left_out.append(f"Left out of the units: obs_intervals ({values.shape}, not begin, end).")
        return None
    if "obs_intervals_index" in held:
        ends = _flat(tree.child(group, held["obs_intervals_index"])).astype(np.int64)
    else:
        ends = np.arange(1, len(values) + 1)
    bounds = np.concatenate([[0], ends])
    if len(ends) != len(table) or bounds[-1] != len(values) or (np.diff(bounds) < 0).any():
        left_out.append("Left out of the units: obs_intervals (its index is broken).")
        return None
    if np.isnan(values).any() or (values[:, 1] < values[:, 0]).any():
        warned.append("obs_intervals are not used: they are NaN, or end before they begin.")
        return None
    always = np.array([[-np.inf, np.inf]])
    each = [part if len(part) else always for part in np.split(values, ends)[:-1]]
    intervals = as_intervals(each, table.index, who)
    assert intervals is not None
    outside = total = 0
    for times, seen in zip(spikes, intervals, strict=True):
        last = np.searchsorted(seen[:, 0], times, side="right") - 1
        outside += int(((last < 0) | (times > seen[last, 1])).sum())
        total += len(times)
    if outside > SPIKES_OUTSIDE * total:
        warned.append(
            f"obs_intervals are not used: {outside:,} of {total:,} spikes lie outside of them."
        )
        return None
    if all((part == always).all() for part in intervals):
        return None
    return intervals
