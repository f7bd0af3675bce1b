"""Sessions from and to NWB files: HDF5 or Zarr, on disk, behind a URL or in DANDI."""

from __future__ import annotations

import os
import textwrap
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the compression filters that NWB files use)
import numpy as np
import pandas as pd
import pynwb
from hdmf.common import (
    DynamicTable,
    DynamicTableRegion,
    ElementIdentifiers,
    EnumData,
    VectorData,
    VectorIndex,
)
from pynwb.epoch import TimeIntervals
from pynwb.misc import Units

from neuroshare.recordings.intact import require_intact
from neuroshare.recordings.remote import RemoteFile, file_name, is_remote, open_remote
from neuroshare.recordings.session import Chosen, Session, chosen_rows
from neuroshare.writing import write_whole


def read_nwb(
    path: str | os.PathLike[str],
    subject: str | None = None,
    units: Chosen | None = None,
    trials: str | None = "trials",
    *,
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
        ``"brain_area == 'CA1'"``. Default: all.
    trials : str or None
        Name of the intervals table that holds the trials (``trials``, ``epochs``, a stimulus
        table, ...). None reads no trials.
    check : bool
        Let another process try an HDF5 file on disk first, about 0.15 s, for damaged bytes can
        end or hang the process that reads them. Remote files and Zarr stores are not tried.

    Returns
    -------
    Session
        Spike times and trial times in seconds. Columns that hold one value per unit or trial
        are kept in their order, and lists of words (such as ``tags``) joined by commas;
        waveforms, electrodes and other references are left out.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ConnectionError
        A server cannot be reached, or the connection fails on the way.
    ImportError
        A remote file without remfile, or a Zarr store without hdmf-zarr.
    ValueError
        Not a readable NWB 2 file, no spike times, a broken index of spike times, no intervals
        table of the name asked for, a server that serves whole files only.

    Warns
    -----
    UserWarning
        The file has no ``trials``: the session has none either, and the warning names the
        tables to choose from. The file has no subject id, and `subject` is not given: the
        session is named after the file.

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
    with _opened(path, check) as nwb:
        tables = {
            table.name: table
            for table in nwb.objects.values()
            if isinstance(table, TimeIntervals) and table.colnames
        }
        if trials not in (None, "trials", *tables):
            raise ValueError(
                f"{name}: no intervals table {trials!r}. "
                f"Found: {', '.join(tables) or 'none'}. Name one of these, or trials=None."
            )
        unit_table, spike_times = _units(nwb, name)
        trial_table = _frame(tables[trials]) if trials in tables else None
        subject = subject or (nwb.subject.subject_id if nwb.subject is not None else None)
    if trials == "trials" and trial_table is None:
        known = f"Its interval tables: {', '.join(tables)}" if tables else "It has no intervals"
        hint = f"; name one, as in trials={next(iter(tables))!r}" if tables else ""
        warnings.warn(f"{name}: no trials table. {known}{hint}.", stacklevel=2)
    if not subject:
        subject = Path(name.removesuffix(".zarr")).stem
        warnings.warn(
            f"{name}: no subject id; the subject is named {subject!r}, after the file.",
            stacklevel=2,
        )
    rows = chosen_rows(unit_table, units, name)
    try:
        return Session(
            subject, [spike_times[row] for row in rows], unit_table.iloc[rows], trial_table
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
    path = Path(path)
    who = f"subject {session.subject!r}"
    nwb = pynwb.NWBFile(
        session_description="Spike times and trials. The start date is unknown; "
        "1970-01-01 stands in for it.",
        identifier=str(uuid.uuid4()),
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
    nwb.units = Units(
        name="units",
        description="sorted units",
        id=_ids(session.units, who),
        columns=[
            *_columns(session.units, who),
            VectorIndex(name="spike_times_index", data=ends, target=spikes),
            spikes,
        ],
        colnames=[*map(str, session.units.columns), "spike_times"],
    )
    nwb.trials = TimeIntervals(
        name="trials",
        description="experimental trials",
        id=_ids(session.trials, who),
        columns=_columns(session.trials, who),
        colnames=[*map(str, session.trials.columns)],
    )
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


@contextmanager
def _opened(path: str | os.PathLike[str], check: bool) -> Iterator[pynwb.NWBFile]:
    """NWB contents, with every way in which opening can fail told in one sentence."""
    name = file_name(path)
    reader = _reader(path, check)
    # About cached namespaces and past versions of the schema: not the reader's concern.
    with warnings.catch_warnings(action="ignore"), ExitStack() as stack:
        try:
            nwb = stack.enter_context(reader(mode="r", load_namespaces=True)).read()
        except ConnectionError:
            raise
        # pynwb raises errors of every type on files that it does not understand.
        except Exception as error:
            raise ValueError(
                f"{name}: expected a readable NWB 2 file, but pynwb {pynwb.__version__} "
                f"fails on it{_schema(path)}: {type(error).__name__}: {_first_line(error)}. "
                "Convert an old file with the pynwb of its time; export a damaged one again."
            ) from error
        try:
            yield nwb
        except ConnectionError:
            raise
        # A damaged file can claim any type, size and encoding of what it holds; what is refused
        # here for other reasons names the file already.
        except Exception as error:
            if str(error).startswith(f"{name}: "):
                raise
            raise ValueError(
                f"{name}: expected complete data, but they cannot be read "
                f"({type(error).__name__}: {_first_line(error)}). The file is damaged, or "
                "compressed with an unknown filter; export it again."
            ) from error


def _reader(path: str | os.PathLike[str], check: bool) -> Callable[..., Any]:
    """What opens the NWB file at a path or URL, once it is there and of a kind that can be read."""
    if is_remote(path):
        return partial(_remote_io, open_remote(str(path)))
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file. Check the path.")
    if any((path / part).exists() for part in (".zgroup", ".zmetadata", "zarr.json")):
        try:
            from hdmf_zarr.nwb import NWBZarrIO
        except ImportError as error:
            raise ImportError(
                f"{path.name}: a Zarr store needs hdmf-zarr, which is not installed. "
                "Install it with: pip install 'neuroshare-latents[zarr]'"
            ) from error
        return partial(NWBZarrIO, str(path))
    if path.is_dir() or not h5py.is_hdf5(path):
        kind = "a folder" if path.is_dir() else "another kind of file, or a damaged one"
        raise ValueError(
            f"{path.name}: expected an NWB file (HDF5), got {kind}. "
            "Give the path of one .nwb file; if it was downloaded, download it again."
        )
    if check:
        require_intact(path)
    return partial(pynwb.NWBHDF5IO, path)


@contextmanager
def _remote_io(remote: RemoteFile, **settings: Any) -> Iterator[Any]:
    with h5py.File(remote, "r") as file, pynwb.NWBHDF5IO(file=file, **settings) as io:
        yield io


def _units(nwb: pynwb.NWBFile, who: str) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Unit table and spike times per unit."""
    units = nwb.units
    if units is None:
        holds = ", ".join([*nwb.acquisition, *nwb.processing]) or "no data"
        raise ValueError(
            f"{who}: expected a units table with spike times, got none (the file holds {holds}). "
            "Sort its spikes first, or choose another file."
        )
    if "spike_times" not in units.colnames:
        found = ", ".join(units.colnames) or "no columns"
        raise ValueError(
            f"{who}: units table has no 'spike_times' column. Found: {found}. "
            "Choose a file with the spike times of sorted units."
        )
    index = units["spike_times"]
    if not isinstance(index, VectorIndex):
        raise ValueError(
            f"{who}: expected spike_times_index to tell whose the spike times are, got none. "
            "Write spike_times as a ragged column."
        )
    # One read each: element by element, the same takes minutes on a large file.
    ends = np.asarray(index.data[:]).astype(np.int64)
    flat = np.asarray(index.target.data[:], dtype=np.float64)
    bounds = np.concatenate([[0], ends])
    if len(ends) != len(units.id) or (np.diff(bounds) < 0).any() or bounds[-1] != len(flat):
        raise ValueError(
            f"{who}: the index of spike_times is broken: expected {len(units.id)} rising ends, "
            f"the last equal to the number of spike times stored ({len(flat)}), got {len(ends)} "
            f"ends from {bounds[1:].min(initial=0)} to {bounds.max()}. "
            "The file is incomplete or wrongly cut; export it again."
        )
    return _frame(units).rename_axis("unit"), np.split(flat, ends)[:-1]


def _frame(table: DynamicTable) -> pd.DataFrame:
    """One-dimensional columns of a table, each read at once."""
    columns: dict[str, Any] = {}
    for name in table.colnames:
        values = _values(table[name])
        if values is not None and len(values) == len(table.id):
            columns[name] = values
    return pd.DataFrame(columns, index=pd.Index(np.asarray(table.id.data[:]), dtype=np.int64))


def _values(column: Any) -> Any:
    """Values of a column, or None where it has no single value per row."""
    if isinstance(column, DynamicTableRegion):
        return None
    ragged = isinstance(column, VectorIndex)
    stored = column.target.data if ragged else column.data
    # Before anything is read: what is left out (waveforms, the spike times themselves) can
    # outweigh all else in a file.
    if np.ndim(stored) != 1 or np.asarray(stored[:1]).dtype.kind not in (
        "SUO" if ragged else "biufSUO"
    ):
        return None
    values = np.asarray(stored[:])
    if isinstance(column, EnumData):
        values = np.asarray(column.elements.data[:])[values]
    if values.dtype.kind not in "SUO":
        return values
    texts = [v.decode() if isinstance(v, bytes) else v for v in values.tolist()]
    if not all(isinstance(text, str) for text in texts):
        return None
    if ragged:
        return [", ".join(row) for row in np.split(np.asarray(texts), column.data[:])[:-1]]
    return pd.array(texts, dtype=str)


def _ids(table: pd.DataFrame, who: str) -> ElementIdentifiers:
    ids = table.index.to_numpy()
    if len(ids) and not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"{who}: NWB ids are whole numbers, got {table.index.name} ids such as {ids[0]!r}. "
            "Number them, and keep their names in a column."
        )
    return ElementIdentifiers(name="id", data=ids.astype(np.int64))


def _columns(table: pd.DataFrame, who: str) -> list[VectorData]:
    columns = []
    for name in table.columns:
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


def _schema(path: str | os.PathLike[str]) -> str:
    if is_remote(path) or Path(path).is_dir():
        return ""
    try:
        with h5py.File(path) as file:
            version = np.ravel(file.attrs.get("nwb_version", file.get("nwb_version", "unknown")))[0]
    except Exception:  # a damaged file fails in many ways, and its version is not the question
        return ""
    return f" (it says schema {version.decode() if isinstance(version, bytes) else version})"


def _first_line(error: Exception) -> str:
    return textwrap.shorten((str(error).splitlines() or [""])[0], 120)
