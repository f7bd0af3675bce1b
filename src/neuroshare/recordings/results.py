"""Latents and residuals back into the NWB file that they came from."""

from __future__ import annotations

import json
import os
import shutil
import uuid
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pynwb
import xarray as xr
from hdmf.common import DynamicTable, VectorData
from pynwb.file import ProcessingModule

from neuroshare import __version__
from neuroshare.recordings.clock import on_session_clock
from neuroshare.recordings.nwb import read_nwb
from neuroshare.recordings.remote import is_remote
from neuroshare.recordings.session import Session

_MODULE = "neuroshare"


def write_results(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    latents: xr.DataArray | None = None,
    residuals: xr.Dataset | None = None,
    *,
    align: str = "start_time",
    trials: str = "trials",
    subject: str | None = None,
    settings: Mapping[str, object] | None = None,
) -> Path:
    """Write an NWB file again, with what was found of its subject.

    Parameters
    ----------
    path : path
        The NWB file (HDF5, on disk) that the session was read from.
    out : path
        File to write, a copy of the first with the results added; it may be the same. Replaced as
        a whole once it is complete; on failure nothing is left behind.
    latents : DataArray, optional
        Dims ``(subject, window, latent)``, from ``transform``.
    residuals : Dataset, optional
        From `residuals`.
    align : str
        Trial column with the time of the event, as given to `bin_spikes`.
    trials : str
        Name of the intervals table that holds the trials.
    subject : str, optional
        Name of the subject in the results; by default the subject id of the file.
    settings : mapping, optional
        What else is to be recorded, such as ``model.get_params()``.

    Returns
    -------
    Path
        The path written.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        Nothing to write, a file that is remote or a Zarr store, a subject, column, trial or unit
        that the results and the file do not share.

    Notes
    -----
    The processing module ``neuroshare`` holds

    - ``latents``: TimeSeries (time, latent), one row per window at its centre on the clock of the
      session. Windows in which a trial had several partners are averaged.
    - ``residuals``: TimeSeries (time, unit), spikes per window beyond what the others predict.
    - ``residual_parts``: one row per unit, in the order of the columns of ``residuals``, with its
      id and the shared, specific and noise parts of its variance, in spikes^2 and as shares.
    - ``provenance``: settings and values: version, date, the file read, subject, alignment and
      settings.

    A module of that name from an earlier call is replaced. All subjects must have been binned over
    one span. Links from the file to others stay as they are, so relative ones ask for `out` to be
    in the same folder.

    Examples
    --------
    >>> import tempfile
    >>> import neuroshare as ns
    >>> sessions = ns.simulate_sessions({"mitt": 8, "stella": 6}, n_trials=4)
    >>> counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    >>> paired = ns.pair_subjects(counts, by="odor")
    >>> model = ns.LinearAlignment("mcca", latent_dim=2).fit(paired)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = ns.write_nwb(sessions["mitt"], f"{folder}/mitt.nwb")
    ...     settings = model.get_params()
    ...     write_results(path, path, model.transform(paired), settings=settings).name
    'mitt.nwb'
    """
    if latents is None and residuals is None:
        raise ValueError("write_results needs latents, residuals or both, got neither.")
    if is_remote(path) or Path(path).is_dir():
        raise ValueError(
            f"{path}: expected an NWB file (HDF5) on disk to add results to. Download or export it."
        )
    path, out = Path(path), Path(out)
    session = read_nwb(path, subject=subject, trials=trials)
    provenance = {
        "neuroshare": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "file": path.name,
        "subject": session.subject,
        "align": align,
        **(settings or {}),
    }
    module = ProcessingModule(
        name=_MODULE, description="Latent space shared by several subjects, by neuroshare."
    )
    if latents is not None:
        values = on_session_clock(latents, latents["trial"], session, align)
        what = "Shared latents of each window of a trial, at the centre of the window."
        module.add(_series("latents", values, what, "a.u."))
    if residuals is not None:
        ours = _own_units(residuals, session)
        values = on_session_clock(ours["residual"], ours["trial"], session, align)
        what = "Spikes in a window minus those that the other subjects predict; held-out trials."
        module.add(_series("residuals", values, what, "spikes"))
        module.add(_parts(ours))
    module.add(_provenance(provenance))

    part = out.with_name(f".{out.stem}-{uuid.uuid4()}.nwb")
    try:
        shutil.copyfile(path, part)
        with h5py.File(part, "r+") as file:
            if f"processing/{_MODULE}" in file:
                del file[f"processing/{_MODULE}"]
        # About cached namespaces and past versions of the schema: not the writer's concern.
        with (
            warnings.catch_warnings(action="ignore"),
            pynwb.NWBHDF5IO(part, "r+", load_namespaces=True) as io,
        ):
            nwb = io.read()
            nwb.add_processing_module(module)
            io.write(nwb)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return out


def _series(name: str, values: xr.DataArray, description: str, unit: str) -> pynwb.TimeSeries:
    return pynwb.TimeSeries(
        name=name,
        description=description,
        data=values.to_numpy(),
        unit=unit,
        timestamps=values["time"].to_numpy(),
    )


def _own_units(residuals: xr.Dataset, session: Session) -> xr.Dataset:
    """Residuals of the units of one subject, which must be among those of its session."""
    ours = residuals.isel(unit=residuals["unit_subject"].to_numpy() == session.subject)
    unknown = set(ours["unit_id"].to_numpy().tolist()) - set(map(str, session.units.index))
    if unknown or not ours.sizes["unit"]:
        found = "no unit of it" if not unknown else f"unit {min(unknown)!r}, which it lacks"
        raise ValueError(
            f"subject {session.subject!r}: expected residuals of units in the file, got {found}. "
            "Name the subject and the file that belong together."
        )
    return ours


def _parts(residuals: xr.Dataset) -> DynamicTable:
    """The partition of each unit's variance."""
    columns = [
        VectorData(
            name="unit",
            description="id in the units table",
            data=residuals["unit_id"].to_numpy().astype(np.int64),
        )
    ]
    for name, what in (
        ("variance", "variance of the counts of windows, spikes^2"),
        ("share", "share of the variance"),
    ):
        for part in residuals["part"].to_numpy():
            data = residuals[f"{name}_unit"].sel(part=part).to_numpy()
            columns.append(
                VectorData(name=f"{name}_{part}", description=f"{part} part, {what}", data=data)
            )
    return DynamicTable(
        name="residual_parts",
        description="How far the other subjects predict each unit.",
        columns=columns,
    )


def _provenance(entries: Mapping[str, Any]) -> DynamicTable:
    texts = [v if isinstance(v, str) else json.dumps(v, default=str) for v in entries.values()]
    return DynamicTable(
        name="provenance",
        description="What these results were made with.",
        columns=[
            VectorData(name="setting", description="name of what is told", data=list(entries)),
            VectorData(name="value", description="text, or a JSON value", data=texts),
        ],
    )
