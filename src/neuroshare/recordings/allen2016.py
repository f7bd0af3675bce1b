"""The published five-rat arrays (Allen et al. 2016; Dryad doi:10.7280/D14X30) as sessions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.session import Session

SPAN, BIN_SIZE, N_BINS = (-2.0, 2.0), 0.01, 400  # around port entry, seconds
SPACING = 5.0  # between the stretches of successive trials on the made-up clock, seconds
FOLDERS = {"superchris": "SuperChris"}

COLUMNS = {
    "correct": bool,
    "in_sequence": bool,
    "position": int,
    "odor": str,
    "trial_number": int,
    "sequence_number": int,
    "poke_duration": float,
    "transposition_distance": float,
    "item_distance": float,
}
"""Columns of a trial_info array in their order; files have the first four, or more."""


def read_allen2016(
    folder: str | os.PathLike[str], rat: str, extraction: str | None = None
) -> Session:
    """Read one rat of the published arrays.

    Parameters
    ----------
    folder : path
        The folder of the rat, or the one that holds the folders of all rats.
    rat : str
        Name, such as ``"superchris"``, in any case.
    extraction : str, optional
        Tag of another extraction, such as ``"PokeOut"`` for the files
        ``<rat>_PokeOut_spike_data_binned.npy``, whose time zero is poke out.

    Returns
    -------
    Session
        The arrays hold counts in 10-ms bins around each trial's event and no session time, so
        trials are laid out every 5 s on a made-up clock. Spikes are spread evenly inside their
        bins: ``bin_spikes`` with bins of 10 ms within (-2, 2) returns the published counts,
        finer timing means nothing. Trials have ``start_time`` (the event) and ``stop_time``
        (2 s later, the end of the data), ``correct``, ``in_sequence``, ``position`` (1 to 5),
        ``odor`` (A to E), and, where the file has them, ``trial_number``, ``sequence_number``,
        ``poke_duration``, ``transposition_distance`` and ``item_distance``.

    Raises
    ------
    FileNotFoundError
        A file is missing.
    ValueError
        Arrays of another shape, values whose tenfold is not a whole number of spikes, odors
        other than 1 to 5.

    Examples
    --------
    >>> import tempfile
    >>> from neuroshare import simulate_sessions
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_allen2016(simulate_sessions({"mitt": 20}, n_trials=5), folder)
    ...     session = read_allen2016(folder, "Mitt")
    >>> len(session.units), sorted(set(session.trials.odor))
    (20, ['A', 'B', 'C', 'D'])
    """
    name = rat.lower()
    stem = name if extraction is None else f"{name}_{extraction}"
    spikes_path = _found(Path(folder), f"{stem}_spike_data_binned.npy")
    info_path = _found(spikes_path.parent, f"{stem}_trial_info.npy")
    counts = _counts(np.load(spikes_path), spikes_path.name)
    trials = _trials(np.load(info_path), info_path.name)
    if len(trials) != len(counts):
        raise ValueError(
            f"{info_path.name}: expected {len(counts)} trials, as in {spikes_path.name}, got "
            f"{len(trials)}. Take both files from one extraction."
        )
    onset = trials["start_time"].to_numpy()
    spike_times = []
    for unit in counts.transpose(1, 0, 2):
        trial, k = np.nonzero(unit)
        n = unit[trial, k]
        first = np.repeat(np.cumsum(n) - n, n)
        within = (np.arange(len(first)) - first + 0.5) / np.repeat(n, n)
        spike_times.append(
            onset[np.repeat(trial, n)] + SPAN[0] + (np.repeat(k, n) + within) * BIN_SIZE
        )
    return Session(name, spike_times, trials=trials)


def write_allen2016(sessions: Mapping[str, Session], folder: str | os.PathLike[str]) -> list[Path]:
    """Write sessions as arrays of the published layout.

    Parameters
    ----------
    sessions : mapping of name to Session
        With trial columns ``correct``, ``in_sequence``, ``position`` and ``odor`` (A to E).
    folder : path
        Gets one folder per rat, with ``<rat>_spike_data_binned.npy`` (trial, unit, 400), a
        tenth of the counts in 10-ms bins from -2 s to +2 s around ``start_time``, and
        ``<rat>_trial_info.npy`` (trial, column). Newer columns are written as far as present.

    Returns
    -------
    list of Path
        The folders written, one per session.

    Raises
    ------
    ValueError
        A session without trials or without one of the four columns.

    Examples
    --------
    >>> import tempfile
    >>> from neuroshare import simulate_sessions
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in write_allen2016(simulate_sessions({"superchris": 4}), folder)]
    ['SuperChris']
    """
    written = []
    for name, session in sessions.items():
        counts = bin_spikes(session, "start_time", SPAN, BIN_SIZE)
        trials = session.trials.loc[counts["trial"].values]
        columns = [column for column in COLUMNS if column in trials]
        # The file knows columns by their place, so only an unbroken beginning can be written.
        columns = [c for c, expected in zip(columns, COLUMNS, strict=False) if c == expected]
        if len(columns) < 4:
            raise ValueError(
                f"subject {name!r}: expected trial columns {', '.join(list(COLUMNS)[:4])}, "
                f"found {', '.join(map(str, trials.columns))}."
            )
        info = trials[columns].assign(odor=[_number(odor, name) for odor in trials["odor"]])
        path = Path(folder) / FOLDERS.get(name, name.capitalize())
        path.mkdir(parents=True, exist_ok=True)
        np.save(path / f"{name}_spike_data_binned.npy", counts.values / 10)
        np.save(path / f"{name}_trial_info.npy", info.to_numpy(np.float64))
        written.append(path)
    return written


def convert_allen2016(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    extraction: str | None = None,
) -> list[Path]:
    """Write every rat of the published arrays as an NWB file.

    Parameters
    ----------
    folder : path
        Holds the folders of the rats.
    out : path
        Folder for the files ``<rat>.nwb``; made if absent.
    extraction : str, optional
        Tag of another extraction; see `read_allen2016`.

    Returns
    -------
    list of Path
        The files written, in alphabetical order.

    Raises
    ------
    FileNotFoundError
        No array of spikes in the folder.
    ValueError
        As `read_allen2016`.

    Examples
    --------
    >>> import tempfile
    >>> from neuroshare import simulate_sessions
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_allen2016(simulate_sessions({"mitt": 4, "stella": 4}, n_trials=2), folder)
    ...     [path.name for path in convert_allen2016(folder, f"{folder}/nwb")]
    ['mitt.nwb', 'stella.nwb']
    """
    from neuroshare.recordings.nwb import write_nwb  # keeps pynwb out of reading arrays

    tag = "" if extraction is None else f"_{extraction}"
    ending = f"{tag}_spike_data_binned.npy"
    found = sorted(Path(folder).rglob(f"*{ending}"))
    # Without a tag, `mitt_PokeOut_...` matches as well: names of rats have no underscore.
    rats = {p.name.removesuffix(ending): p.parent for p in found}
    rats = {rat: parent for rat, parent in rats.items() if "_" not in rat}
    if not rats:
        raise FileNotFoundError(
            f"{folder}: no file named <rat>{ending} in it or its folders. Give the folder that "
            "holds the folders of the rats."
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    return [
        write_nwb(read_allen2016(parent, rat, extraction), out / f"{rat}.nwb")
        for rat, parent in sorted(rats.items())
    ]


def _found(folder: Path, name: str) -> Path:
    paths = sorted(folder.rglob(name))
    if not paths:
        raise FileNotFoundError(f"{folder}: no file {name} in it or its folders. Check the path.")
    return paths[0]


def _counts(values: np.ndarray, name: str) -> np.ndarray:
    if values.ndim != 3 or values.shape[2] != N_BINS:
        raise ValueError(
            f"{name}: expected shape (trial, unit, {N_BINS}), got {values.shape}. "
            "Is this a spike_data_binned file of 10-ms bins from -2 to 2 s?"
        )
    # Each value is the mean of ten 1-ms samples.
    tenfold = np.where(np.isfinite(values), values, np.nan) * 10.0
    counts = np.round(tenfold)
    wrong = ~(np.abs(tenfold - counts) < 1e-3) | (counts < 0)
    if wrong.any():
        trial, unit, k = np.argwhere(wrong)[0]
        raise ValueError(
            f"{name}: expected tenths of whole numbers of spikes, got {values[trial, unit, k]} at "
            f"trial {trial}, unit {unit}, bin {k} (and {wrong.sum() - 1} more). Smoothed or "
            "z-scored activity cannot be read as spikes; use the binned files as published."
        )
    return counts.astype(np.int64)


def _trials(info: np.ndarray, name: str) -> pd.DataFrame:
    if info.ndim != 2 or info.shape[1] < 4:
        raise ValueError(
            f"{name}: expected (trial, 4 or more columns: correct, in sequence, position, odor), "
            f"got shape {info.shape}."
        )
    odor = info[:, 3]
    if not np.isin(odor, [1, 2, 3, 4, 5]).all():
        raise ValueError(f"{name}: expected odors 1 to 5 in column 3, got {np.unique(odor)}.")
    onset = np.arange(len(info)) * SPACING - SPAN[0]
    table = pd.DataFrame({"start_time": onset, "stop_time": onset + SPAN[1]})
    for (column, kind), values in zip(COLUMNS.items(), info.T, strict=False):
        if column == "odor":
            table[column] = np.array(list("ABCDE"))[values.astype(int) - 1]
        elif kind is not float and np.isfinite(values).all():
            table[column] = values.astype(kind)
        else:
            table[column] = values.astype(np.float64)
    return table


def _number(odor: str, name: str) -> int:
    if odor not in tuple("ABCDE"):
        raise ValueError(f"subject {name!r}: expected odors A to E, got {odor!r}.")
    return "ABCDE".index(odor) + 1
