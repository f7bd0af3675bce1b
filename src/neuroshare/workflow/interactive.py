"""What the moving view of a report holds: held-out windows in three axes, and what they are."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from neuroshare.plots import CONDITION_COLORS, SUBJECT_COLORS, axes_of_bins, project
from neuroshare.support.angles import span_of

MOST_POINTS = 6000
"""As many as turn smoothly on an old laptop."""
MOST_COLUMNS = 12
MOST_VALUES = 12
"""Of a column of texts; one with more is left out, unless it is of numbers."""


def view_of(latents: xr.DataArray, most: int = MOST_POINTS) -> str:
    """Data of the view as JSON that can stand inside a page.

    Of more windows than `most`, whole trials are drawn at random, so that every path over time
    stays whole. Places are whole numbers of 16 bits within the outermost point of each axis.
    Windows that were paired by behavior have no conditions: they are coloured by it.

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
        Empty where no window can be shown.
    """
    by = str(latents.attrs.get("by", "condition"))
    latents = latents.transpose("subject", "window", "latent")
    if by not in latents.coords:
        return ""
    behaves = "subject" in latents[by].dims
    if behaves:
        bins = latents[by].transpose("subject", "window").to_numpy()
        points, labels = axes_of_bins(latents.to_numpy().astype(float), bins, 3)
    else:
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
    conditions = np.zeros(len(time)) if behaves else latents[by].to_numpy()
    names = np.unique(conditions)
    columns = _columns(latents, by, subject_at[first], window_at[first], behaves)
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
        "conditions": ["windows"] if behaves else [str(name) for name in names],
        "first": next(iter(columns), "subject") if behaves else "condition",
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
            "columns": columns,
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
    behaves: bool,
) -> dict[str, Any]:
    """Columns of the trials that say something: numbers, or the codes of a few values.

    Where every window is a trial, so that there are many, behavior comes first, and numbers are
    packed as shares of their range in 16 bits.
    """
    apart = {by, "time", "start", "trial", "part", "subject"}
    about: dict[str, dict[str, Any]] = json.loads(latents.attrs.get("behavior", "{}"))
    paired = json.loads(latents.attrs.get("paired_by", "[]"))
    order = sorted(map(str, latents.coords), key=lambda n: (n not in about, n not in paired))
    found: dict[str, Any] = {}
    for name in order:
        values = latents[name]
        if name in apart or not {"window", "subject"} & {*values.dims}:
            continue
        column = _of(latents, name, subject_at, window_at)
        if values.dims == ("subject",) and (values == latents["subject"]).all():
            continue  # an animal of one session, under its own name
        if len(found) == MOST_COLUMNS or pd.unique(column).size < 2:
            continue
        if column.dtype.kind in "iuf" and pd.unique(column).size > MOST_VALUES:
            numbers = column.astype(float)
            if behaves:
                found[name] = _shares(numbers, about.get(name, {}))
                continue
            rounded = [float(f"{v:.6g}") if np.isfinite(v) else None for v in numbers]
            found[name] = {"numbers": rounded}
            continue
        codes, values_of = pd.factorize(column, sort=True)
        if len(values_of) <= MOST_VALUES:
            shown = [str(value) for value in values_of]
            found[name] = {"values": shown, "codes": codes.tolist()}
    return found


def _shares(numbers: NDArray[np.float64], about: dict[str, Any]) -> dict[str, Any]:
    """Numbers as shares of their range, or of a turn; the largest code is none."""
    known = np.isfinite(numbers)
    ends = (numbers[known].min(), numbers[known].max()) if known.any() else (0.0, 0.0)
    low, high = span_of(float(ends[0]), float(ends[1]), about.get("period"))
    share = (np.where(known, numbers, low) - low) / max(high - low, 1e-300)
    if "period" in about:
        share = share % 1.0
    codes = np.where(known, np.clip(share * 65534, 0, 65534).round(), 65535).astype("<u2")
    told = {"packed": _packed(codes), "low": float(f"{low:.6g}"), "high": float(f"{high:.6g}")}
    return told | {"unit": str(about.get("unit", "")), "turns": "period" in about}


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
