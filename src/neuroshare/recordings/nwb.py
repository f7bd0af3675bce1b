"""Sessions from and to NWB files: HDF5 or Zarr, on disk, behind a URL or in DANDI."""

from __future__ import annotations

import os
import re
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd

from neuroshare.recordings.activity import activity_series, read_activity
from neuroshare.recordings.behavior import behavior_series, read_behavior
from neuroshare.recordings.observed import without
from neuroshare.recordings.remote import file_name
from neuroshare.recordings.session import Chosen, Session, chosen_rows
from neuroshare.recordings.tables import (
    choose_table,
    read_table,
    read_trials,
    read_units,
    short_names,
    trial_tables,
    unit_tables,
)
from neuroshare.recordings.tree import Tree, open_tree
from neuroshare.support.files import write_whole

if TYPE_CHECKING:
    import pynwb

_ALWAYS = np.array([[-np.inf, np.inf]])


@dataclass(frozen=True)
class Contents:
    """What could be chosen from an NWB file, by the names that `read_nwb` takes."""

    trials: tuple[str, ...]
    """Tables and series of intervals and events."""
    units: tuple[str, ...]
    """Tables with spike times, and series of activity with a column per unit."""
    behavior: tuple[str, ...]
    """Series of the processing module ``behavior``."""


def nwb_contents(path: str | os.PathLike[str], *, check: bool = True) -> Contents:
    """List the tables and series of an NWB file that can be chosen.

    Parameters
    ----------
    path : path or str
        As `read_nwb` takes it.
    check : bool
        As in `read_nwb`.

    Returns
    -------
    Contents
        A name is the last part of a path where no other has it, and else the path.

    Raises
    ------
    FileNotFoundError, ConnectionError, ImportError, ValueError
        As `read_nwb`, as far as they concern the file as such.

    Examples
    --------
    >>> import tempfile
    >>> from neuroshare import simulate_sessions
    >>> rat = simulate_sessions({"mitt": 20}, n_trials=2)["mitt"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nwb_contents(write_nwb(rat, f"{folder}/mitt.nwb"))
    Contents(trials=('trials',), units=('units',), behavior=())
    """
    with open_tree(path, check) as tree:
        return Contents(
            *(
                tuple(short_names([*found]).values())
                for found in (
                    trial_tables(tree),
                    unit_tables(tree) | activity_series(tree),
                    behavior_series(tree),
                )
            )
        )


def read_nwb(
    path: str | os.PathLike[str],
    subject: str | None = None,
    units: Chosen | None = None,
    trials: str | Sequence[str] | None = "trials",
    *,
    unit_table: str | None = None,
    session: str | None = None,
    behavior: bool = True,
    check: bool = True,
) -> Session:
    """Read the sorted units and trials of an NWB file.

    Parameters
    ----------
    path : path or str
        An NWB file, the folder of a Zarr store (``x.nwb.zarr``), a URL (``https://...``), or a
        file in the DANDI archive (``dandi:000006/sub-x/sub-x.nwb``; a version of the dandiset
        follows its number after an @). Of a remote file only the parts read are fetched.
    subject : str, optional
        Name of the animal. Default: the subject id in the file, or the name of the file
        without its suffix where it has none.
    units : sequence of unit ids, boolean mask, callable or str, optional
        Which units to keep; a callable takes the unit table, a text is a pandas query such as
        ``"brain_area == 'CA1'"``; a column whose name is no word stands between backticks.
        Default: all.
    trials : str, sequence of str, or None
        Name of what holds the trials: an intervals table (``trials``, ``epochs``, a stimulus
        table, ...), a table or series of events, or epochs of behavior. Where several have the
        name, the one in ``intervals``, or the one at a path (``processing/behavior/trials``). Of
        several names the first that the file holds. None reads no trials.
    unit_table : str, optional
        Name or path of the table with the spike times, or of a series of activity with a column
        per unit (RoiResponseSeries). Default: ``units``, or where there is none the only other
        table; where none has spike times the only series of activity, or the only one of dF/F.
    session : str, optional
        Name of the recording session. Default: the session id in the file, or its identifier,
        if that is no random one.
    behavior : bool
        Read the series of the processing module ``behavior``.
    check : bool
        Let another process try an HDF5 file on disk first, about 0.15 s, for damaged bytes can
        end or hang the process that reads them. Remote files and Zarr stores are not tried.

    Returns
    -------
    Session
        Spike times and trial times in seconds. Columns that hold one value per unit or trial
        are kept in their order: lists of words (such as ``tags``) joined by commas, references
        as names of what they refer to. To the units are added ``location`` and ``group_name`` of
        their electrodes. ``left_out`` names the columns that hold something else. Where activity
        was read it is in ``activity`` (time, unit), for `bin_activity`. ``observed``
        comes from ``obs_intervals`` and ``invalid_times``.

    Raises
    ------
    FileNotFoundError, PermissionError
        There is no such file, or it may not be read.
    ConnectionError
        A server cannot be reached, or the connection fails on the way.
    ImportError
        A remote file without remfile, or a Zarr store without zarr.
    ValueError
        Not a readable NWB 2 file, held by another process, no spike times, a broken index of
        spike times, no table of the name asked for or several, a server that serves whole files
        only.

    Warns
    -----
    UserWarning
        The file has no ``trials``: the session has none either, and the warning names the
        tables to choose from. The file has no subject id, and `subject` is not given: the
        session is named after the file. Rows that cannot be meant are left out, and named: trials
        that stop before they start or are listed twice, spike times that are NaN or padding.
        Repeated ids are numbered anew. Of two tables of one name one was taken.

    Examples
    --------
    >>> import tempfile
    >>> from neuroshare import simulate_sessions
    >>> rat = simulate_sessions({"mitt": 20}, n_trials=2)["mitt"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_nwb(rat, f"{folder}/mitt.nwb")
    ...     read_nwb(path, units=[0, 3]).units.index.tolist()
    [0, 3]
    """
    name = file_name(path)
    wanted = _wanted(trials)
    with open_tree(path, check) as tree:
        found = trial_tables(tree)
        trial_path, warned = _trial_path(found, wanted, name)
        activity = observed = None
        spike_times: Sequence[np.ndarray] = ()
        if _takes_activity(tree, unit_table):
            activity, table, left_out = read_activity(tree, unit_table, name)
        else:
            group, more = _unit_group(tree, unit_table, name)
            warned += more
            table, spike_times, observed, left_out, more = read_units(tree, group, name)
            warned += more
        trial_table = None
        if trial_path is not None:
            trial_table, told, more = read_trials(tree, trial_path, found[trial_path])
            left_out, warned = [*told, *left_out], [*more, *warned]
        if activity is None:
            observed = _less_invalid(tree, observed, len(table))
        measured, told = read_behavior(tree) if behavior else (None, [])
        left_out += told
        subject = subject or tree.text("general/subject/subject_id")
        session = session or tree.text("general/session_id") or _identifier(tree)
    if trial_path is None and wanted == ("trials",):
        names = [*short_names([p for p in found if not p.endswith("/invalid_times")]).values()]
        known = f"Its interval tables: {', '.join(names)}" if names else "It has no intervals"
        hint = f"; name one, as in trials={names[0]!r}" if names else ""
        warned.append(f"no trials table. {known}{hint}.")
    if not subject:
        subject = Path(name.removesuffix(".zarr")).stem
        warned.append(f"no subject id; the subject is named {subject!r}, after the file.")
    for sentence in warned:
        warnings.warn(f"{name}: {sentence}", stacklevel=2)
    rows = chosen_rows(table, units, name)
    try:
        return Session(
            subject,
            [spike_times[row] for row in rows] if activity is None else [],
            table.iloc[rows],
            trial_table,
            session=session,
            observed=None if observed is None else [observed[row] for row in rows],
            behavior=measured,
            left_out=left_out,
            activity=None if activity is None else activity.isel(unit=rows),
        )
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def write_nwb(session: Session, path: str | os.PathLike[str]) -> Path:
    """Write a session as an NWB file.

    Parameters
    ----------
    session : Session
        Unit and trial ids must be whole numbers, as NWB asks.
    path : path
        Replaced as a whole once the new file is complete; on failure nothing is left behind.

    Returns
    -------
    Path
        The path written.

    Raises
    ------
    ValueError
        Ids that are not whole numbers, a column that is neither text, number nor boolean.

    Notes
    -----
    NWB demands a start date and a session has none: 1970-01-01 is written, and the session
    description says so. Its sex is written as unknown, and its age as open from birth on.

    Examples
    --------
    >>> import tempfile
    >>> from neuroshare import simulate_sessions
    >>> rat = simulate_sessions({"mitt": 20}, n_trials=2)["mitt"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = read_nwb(write_nwb(rat, f"{folder}/mitt.nwb"))
    >>> again
    Session('mitt': 20 units, ... spikes from ... s, 8 trials by start_time, stop_time, odor, ...)
    """
    import pynwb
    from hdmf.common import VectorData, VectorIndex
    from pynwb.epoch import TimeIntervals
    from pynwb.misc import Units

    path = Path(path)
    who = f"subject {session.subject!r}"
    if session.activity is not None:
        raise ValueError(f"{who}: expected spikes to write, got activity in place of them.")
    nwb = pynwb.NWBFile(
        session_description="Spike times and trials. The start date is unknown; "
        "1970-01-01 stands in for it.",
        identifier=str(uuid.uuid4()),
        session_id=session.session,
        session_start_time=datetime(1970, 1, 1, tzinfo=UTC),
        # An open range and "unknown" are what NWB has for an age and sex that nobody stated.
        subject=pynwb.file.Subject(
            subject_id=session.subject,
            description="A session of neuroshare states neither age, sex nor species.",
            age="P0D/",
            sex="U",
        ),
    )
    ends = np.cumsum([len(times) for times in session.spike_times], dtype=np.uint64)
    flat = np.concatenate([np.empty(0), *session.spike_times])
    spikes = VectorData(name="spike_times", description="spike times in seconds", data=flat)
    invalid, observed = _observed_columns(session)
    nwb.units = Units(
        name="units",
        description="sorted units",
        id=_ids(session.units, who),
        columns=[
            *_columns(session.units, who),
            VectorIndex(name="spike_times_index", data=ends, target=spikes),
            spikes,
            *observed,
        ],
        colnames=[
            *map(str, session.units.columns), "spike_times", *["obs_intervals"] * bool(observed)
        ],
    )  # fmt: skip
    nwb.trials = TimeIntervals(
        name="trials",
        description="experimental trials",
        id=_ids(session.trials, who),
        columns=_columns(session.trials, who),
        colnames=[*map(str, session.trials.columns)],
    )
    for begin, end in invalid:
        nwb.add_invalid_time_interval(start_time=begin, stop_time=end)
    _add_behavior(nwb, session)
    # HDF5 takes the process with it when the disk is full: let it write to memory.
    with (
        h5py.File(nwb.identifier, "w", driver="core", backing_store=False) as file,
        pynwb.NWBHDF5IO(file=file, mode="w") as io,
    ):
        io.write(nwb)
        # hdmf forgets the order of the columns of a table without rows.
        file["units"].attrs["colnames"] = [*nwb.units.colnames]
        file["intervals/trials"].attrs["colnames"] = [*nwb.trials.colnames]
        file.flush()
        image = file.id.get_file_image()
    write_whole(path, image)
    return path


def _takes_activity(tree: Tree, unit_table: str | None) -> bool:
    """Whether units are columns of a series of activity, by name or for want of spike times."""
    series = activity_series(tree)
    if unit_table is None:
        return bool(series) and not unit_tables(tree)
    last = unit_table.strip("/").rpartition("/")[2]
    spiking = {path.rpartition("/")[2] for path in unit_tables(tree)}
    return last in {path.rpartition("/")[2] for path in series} - spiking


def _wanted(trials: str | Sequence[str] | None) -> tuple[str, ...]:
    if trials is None:
        return ()
    names = (trials,) if isinstance(trials, str) or not np.iterable(trials) else tuple(trials)
    if not names or not all(isinstance(name, str) and name.strip("/") for name in names):
        raise ValueError(
            "The 'trials' parameter of read_nwb must be the name of a table, several, or None. "
            f"Got {trials!r} instead."
        )
    return names


def _trial_path(
    found: dict[str, Any], wanted: Sequence[str], who: str
) -> tuple[str | None, list[str]]:
    """Path of the first table wanted that is there; ``trials`` alone may be missing."""
    for name in wanted:
        path, told = choose_table(found, name, who, "tables of trials", "intervals")
        if path is not None:
            return path, told
    if not wanted or tuple(wanted) == ("trials",):
        return None, []
    asked = " nor ".join(map(repr, wanted))
    names = ", ".join(short_names([*found]).values()) or "none"
    raise ValueError(
        f"{who}: no intervals table {asked}. Found: {names}. Name one of these, or trials=None."
    )


def _unit_group(tree: Tree, unit_table: str | None, who: str) -> tuple[Any, list[str]]:
    """The group with the units, and what must be told of it."""
    if unit_table is None:
        group = tree.get("units")
        if group is not None:
            return group, []
    found = unit_tables(tree)
    names = short_names([*found])
    if unit_table is not None:
        path, told = choose_table(found, unit_table, who, "tables of units", "")
        if path is None:
            raise ValueError(
                f"{who}: no table of units {unit_table!r} with spike times. "
                f"Found: {', '.join(names.values()) or 'none'}."
            )
        return found[path], told
    if len(found) == 1:
        ((path, group),) = found.items()
        return group, [f"no table /units; the units of {path} are read."]
    if found:
        raise ValueError(
            f"{who}: no table /units, but several with spike times: {', '.join(found)}. "
            f"Name one: unit_table={next(iter(names.values()))!r}."
        )
    holds = [
        name
        for place in ("acquisition", "processing")
        if (group := tree.get(place)) is not None
        for name in tree.names(group)
    ]
    raise ValueError(
        f"{who}: expected a units table with spike times, got none (the file holds "
        f"{', '.join(holds) or 'no data'}). Sort its spikes first, or choose another file."
    )


def _less_invalid(tree: Tree, observed: Any, n_units: int) -> Any:
    """Observed intervals of each unit without the stretches that the file calls invalid."""
    group = tree.get("intervals/invalid_times")
    if group is None:
        return observed
    table, _ = read_table(tree, group, "invalid times")
    if not {"start_time", "stop_time"} <= set(table.columns):
        return observed
    bad = table[["start_time", "stop_time"]].to_numpy(np.float64)
    bad = bad[bad[:, 1] > bad[:, 0]]
    if not len(bad):
        return observed
    bad = bad[np.argsort(bad[:, 0], kind="stable")]
    if observed is None:
        return [without(_ALWAYS, bad)] * n_units
    # Units of one probe share one array, and do so afterwards.
    ready = {id(intervals): without(intervals, bad) for intervals in observed}
    return [ready[id(intervals)] for intervals in observed]


def _identifier(tree: Tree) -> str | None:
    """The identifier of the file, unless it is a random one."""
    text = tree.text("identifier")
    try:
        uuid.UUID(text or "")
    except ValueError:
        return text or None
    return None


def _observed_columns(session: Session) -> tuple[np.ndarray, list[Any]]:
    """Stretches that are invalid for all units, or a column of observed intervals."""
    from hdmf.common import VectorData, VectorIndex

    intervals = session.observed
    if not intervals:
        return np.empty((0, 2)), []
    first = intervals[0]
    open_ended = len(first) and np.isneginf(first[0, 0]) and np.isposinf(first[-1, 1])
    if open_ended and all(other is first for other in intervals):
        return np.column_stack([first[:-1, 1], first[1:, 0]]), []
    ends = np.cumsum([len(part) for part in intervals], dtype=np.uint64)
    column = VectorData(
        name="obs_intervals",
        description="begin and end of the stretches in which the unit was observed, seconds",
        data=np.concatenate(intervals),
    )
    return np.empty((0, 2)), [
        VectorIndex(name="obs_intervals_index", data=ends, target=column),
        column,
    ]


def _add_behavior(nwb: pynwb.NWBFile, session: Session) -> None:
    """Write what was measured beside the spikes into the processing module ``behavior``."""
    from pynwb import TimeSeries
    from pynwb.behavior import CompassDirection, SpatialSeries

    if not session.behavior.data_vars:
        return
    module = nwb.create_processing_module("behavior", "behavior of the subject")
    for name, values in session.behavior.items():
        angle = values.attrs.get("kind") == "CompassDirection"
        spatial = angle or values.attrs.get("kind") == "SpatialSeries"
        about: dict[str, Any] = {"reference_frame": "unknown"} if spatial else {}
        series = (SpatialSeries if spatial else TimeSeries)(
            name=str(name),
            description=str(values.attrs.get("description") or "no description"),
            data=values.to_numpy(),
            unit=str(values.attrs.get("unit") or "unknown"),
            timestamps=values[values.dims[0]].to_numpy().astype(np.float64),
            **about,
        )
        if not angle:
            module.add(series)
        elif "CompassDirection" in module.data_interfaces:
            module["CompassDirection"].add_spatial_series(series)
        else:
            module.add(CompassDirection(name="CompassDirection", spatial_series=series))


def _ids(table: pd.DataFrame, who: str) -> Any:
    from hdmf.common import ElementIdentifiers

    ids = table.index.to_numpy()
    if len(ids) and not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"{who}: NWB ids are whole numbers, got {table.index.name} ids such as {ids[0]!r}. "
            "Number them, and keep their names in a column."
        )
    return ElementIdentifiers(name="id", data=ids.astype(np.int64))


def _columns(table: pd.DataFrame, who: str) -> list[Any]:
    from hdmf.common import VectorData

    columns = []
    for name in table.columns:
        if re.search("[/:]", str(name)):
            raise ValueError(
                f"{who}: NWB names have no '/' and no ':', got {table.index.name} column {name!r}. "
                "Rename it first."
            )
        values = table[name].to_numpy()
        if values.dtype.kind not in "biuf":
            if not all(isinstance(value, str) for value in values):
                raise ValueError(
                    f"{who}: NWB columns are text, numbers or booleans, got {values.dtype} in "
                    f"{table.index.name} column {name!r}. Convert it first."
                )
            values = values.astype(str).astype(object) if len(values) else np.empty(0, "S1")
        what = f"{table.index.name} column {name}"
        columns.append(VectorData(name=str(name), description=what, data=values))
    return columns
