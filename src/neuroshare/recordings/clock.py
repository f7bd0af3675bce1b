"""Windows of trials on the clock of the session."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from neuroshare.recordings.session import Session, event_times


def on_session_clock(
    values: xr.DataArray,
    trial: xr.DataArray,
    session: Session,
    align: str = "start_time",
    subject: str | None = None,
) -> xr.DataArray:
    """Values of windows in the order in which the subject lived through them.

    Parameters
    ----------
    values : DataArray
        Dims ``window`` and one other, of one subject, or those and ``subject``. With the windows'
        centres in ``time`` (seconds after the event), and NaN where the subject is absent.
    trial : DataArray
        Ids of trials, dims ``(subject, window)``.
    session : Session
        With the trials that were binned.
    align : str
        Trial column with the time of the event that the windows are aligned to, seconds.
    subject : str, optional
        Name of the subject in `trial`; by default that of the session.

    Returns
    -------
    DataArray
        Dims ``time`` (seconds on the clock of the session, ascending) and the other, with the
        ``trial`` of each time. A window whose trial was paired with several partners is there
        once, with their mean.

    Raises
    ------
    ValueError
        The subject, the column or a trial is unknown, or a trial has no time.
    """
    subject = session.subject if subject is None else subject
    who = f"subject {session.subject!r}"
    names = [str(name) for name in trial["subject"].to_numpy()]
    if subject not in names:
        raise ValueError(
            f"{who}: no subject {subject!r} in the results. Found: {', '.join(names)}. "
            "Name the one that the session belongs to: subject=..."
        )
    trials = session.trials
    event = event_times(trials, align, who)
    if "subject" in values.dims:
        values = values.isel(subject=names.index(subject))
    (other,) = (str(dim) for dim in values.dims if dim != "window")
    data = values.transpose("window", other).to_numpy()
    present = ~np.isnan(data).all(axis=1)
    ids = trial.transpose("subject", "window").to_numpy()[names.index(subject), present]
    # As text, because all subjects' ids have one type as soon as those of one are text.
    row = trials.index.map(str).get_indexer(list(map(str, ids)))
    onset = event[row]
    unknown = (row < 0) | ~np.isfinite(onset)
    if unknown.any():
        raise ValueError(
            f"{who}: expected {align!r} of every trial that was binned, got none for trial "
            f"{ids[unknown][0]}. Give the session that the counts came from."
        )
    after = values["time"].to_numpy()[present]
    keys: list[Any] = [row, after]
    once = pd.DataFrame(data[present].astype(np.float64)).groupby(keys).mean()
    row, after = (once.index.get_level_values(level).to_numpy() for level in (0, 1))
    time = event[row] + after
    # Trials may overlap.
    order = np.argsort(time, kind="stable")
    return xr.DataArray(
        once.to_numpy()[order].astype(data.dtype),
        dims=("time", other),
        coords={
            "time": time[order],
            "trial": ("time", trials.index.to_numpy()[row[order]]),
            other: values[other].to_numpy(),
        },
        name=values.name,
    )
