"""What the moving view of a report holds: held-out windows in three axes, and what they are."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from neuroshare.plots import CONDITION_COLORS, SUBJECT_COLORS, project

MOST_POINTS = 6000
"""As many as turn smoothly on an old laptop."""
MOST_COLUMNS = 12
MOST_VALUES = 12
"""Of a column of texts; one with more is left out, unless it is of numbers."""


def view_of(latents: xr.DataArray, most: int = MOST_POINTS) -> str:
    """Data of the view as JSON that can stand inside a page.

    Of more windows than `most`, whole trials are drawn at random, so that every path over time
    stays whole. Places are whole numbers of 16 bits within the outermost point of each axis.

    Parameters
    ----------
    latents
        Dims (subject, window, latent), as of a finished run: those whose ``part`` is "train" only
        give the axes.
    most
        Number of windows to hold.

    Returns
    -------
    str
        Empty where no window can be shown, or windows were paired by behavior and have no
        conditions.
    """
    by = str(latents.attrs.get("by", "condition"))
    latents = latents.transpose("subject", "window", "latent")
    if by not in latents.coords or "subject" in latents[by].dims:
        return ""
    points, labels, _ = project(latents, by)
    if "part" in latents.coords:
        held_out = (latents["part"] != "train").to_numpy()
        points, latents = points[:, held_out], latents.isel(window=held_out)
    axes = [label.partition(" (")[0] for label in labels]
    flat = len(axes) == 2
    if flat:
        points = np.concatenate([points, np.zeros((*points.shape[:2], 1))], axis=-1)
    time = latents["time"].to_numpy().astype(float).round(6)
    times, time_at = np.unique(time, return_inverse=True)
    trials = _trials(latents, time_at)
    known = np.isfinite(points).all(-1)
    if not known.any() or len(times) > 255:
        return ""
    # A trial is a subject's and goes with all its windows.
    keys = np.unique(trials[known])
    n_kept = max(1, int(most / max(known.sum() / len(keys), 1)))
    kept = np.sort(np.random.default_rng(0).permutation(keys)[:n_kept])
    known &= np.isin(trials, kept)
    subject_at, window_at = np.nonzero(known)
    trial_at = np.searchsorted(kept, trials[known])
    _, first = np.unique(trial_at, return_index=True)
    conditions = latents[by].to_numpy()
    names = np.unique(conditions)
    place = points[known]
    # Most points fill the view; the outermost lie on its edge.
    centre = np.median(place, axis=0)
    reach = max(float(np.quantile(np.abs(place - centre), 0.995)), 1e-12)
    scaled = np.clip((place - centre) / reach, -1, 1) * 32767
    data = {
        "by": by,
        "axes": axes,
        "flat": flat,
        "subjects": [str(name) for name in latents["subject"].to_numpy()],
        "conditions": [str(name) for name in names],
        "subjectColors": SUBJECT_COLORS,
        "conditionColors": CONDITION_COLORS,
        "times": times.tolist(),
        "place": _packed(scaled.astype("<i2")),
        "trial": _packed(trial_at.astype("<u2")),
        "time": _packed(time_at[window_at].astype("u1")),
        "trials": {
            "id": _plain(_of(latents, "trial", subject_at[first], window_at[first])),
            "subject": subject_at[first].tolist(),
            "condition": np.searchsorted(names, conditions[window_at[first]]).tolist(),
            "columns": _columns(latents, by, subject_at[first], window_at[first]),
        },
    }
    # A page ends a script at the first such sign, wherever it stands.
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _trials(latents: xr.DataArray, time_at: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for the trial of each window, (subject, window); other ones in other subjects."""
    shape = latents.shape[:2]
    if "trial" in latents.coords:
        ids = latents["trial"].broadcast_like(latents.isel(latent=0, drop=True))
        codes = pd.factorize(ids.transpose("subject", "window").to_numpy().ravel())[0]
    else:  # the times of a trial follow each other
        starts = np.cumsum(np.diff(time_at, prepend=time_at[0] + 1) <= 0)
        codes = np.broadcast_to(starts, shape).ravel()
    n = int(codes.max(initial=0)) + 2
    own = codes.reshape(shape) + 1 + n * np.arange(shape[0])[:, None]
    return np.asarray(own, dtype=np.int64)


def _columns(
    latents: xr.DataArray,
    by: str,
    subject_at: NDArray[np.int64],
    window_at: NDArray[np.int64],
) -> dict[str, Any]:
    """Columns of the trials that say something: numbers, or the codes of a few values."""
    apart = {by, "time", "start", "trial", "part", "subject"}
    found: dict[str, Any] = {}
    for name, values in latents.coords.items():
        if str(name) in apart or not {"window", "subject"} & {*values.dims}:
            continue
        column = _of(latents, str(name), subject_at, window_at)
        if values.dims == ("subject",) and (values == latents["subject"]).all():
            continue  # an animal of one session, under its own name
        if len(found) == MOST_COLUMNS or pd.unique(column).size < 2:
            continue
        if column.dtype.kind in "iuf" and pd.unique(column).size > MOST_VALUES:
            numbers = column.astype(float)
            rounded = [float(f"{v:.6g}") if np.isfinite(v) else None for v in numbers]
            found[str(name)] = {"numbers": rounded}
            continue
        codes, values_of = pd.factorize(column, sort=True)
        if len(values_of) <= MOST_VALUES:
            shown = [str(value) for value in values_of]
            found[str(name)] = {"values": shown, "codes": codes.tolist()}
    return found


def _of(
    latents: xr.DataArray, name: str, subject_at: NDArray[np.int64], window_at: NDArray[np.int64]
) -> NDArray[Any]:
    """Values of a coordinate at some windows; the number of the window where there is none."""
    if name not in latents.coords:
        return window_at
    whole = latents[name].broadcast_like(latents.isel(latent=0, drop=True))
    return np.asarray(whole.transpose("subject", "window").to_numpy()[subject_at, window_at])


def _plain(values: NDArray[Any]) -> list[Any]:
    return [v if isinstance(v, int | str) else str(v) for v in values.tolist()]


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
