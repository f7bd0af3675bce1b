"""Behavior of the windows of latents: values of a variable, angles among them, and errors in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroshare.support.angles import from_circle, shorter_way, to_circle
from neuroshare.support.checks import require

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Variable:
    """A variable to decode: one column, or several that are decoded together.

    Parameters
    ----------
    name
        As asked for.
    columns
        Coordinates of the windows.
    periods
        Of each column; None is no angle.
    unit
        Of measurement.
    """

    name: str
    columns: tuple[str, ...]
    periods: tuple[float | None, ...]
    unit: str = ""

    def points(self, values: Array) -> Array:
        """Values (window, column) as points (window, feature): angles as on the circle."""
        found = []
        for column, period in zip(values.T, self.periods, strict=True):
            if period is None:
                found.append(column[:, None])
            else:
                found.append(to_circle(column, period))
        return np.concatenate(found, axis=1)

    def values(self, points: Array) -> Array:
        """Undo `points`, (..., column); also of their means."""
        found, at = [], 0
        for period in self.periods:
            if period is None:
                found.append(points[..., at])
                at += 1
            else:
                found.append(from_circle(points[..., at : at + 2], period))
                at += 2
        return np.stack(found, axis=-1)

    def errors(self, predicted: Array, true: Array) -> Array:
        """Distance of values (..., column), the shorter way round; of several columns the length.

        Returns
        -------
        array
            (...), in the unit of the variable.
        """
        off = predicted - true
        for k, period in enumerate(self.periods):
            if period is not None:
                off[..., k] = shorter_way(off[..., k], period)
        return np.asarray(np.sqrt(np.square(off).sum(axis=-1)))


@dataclass(frozen=True)
class Samples:
    """Windows of one subject in the order of its session, each once."""

    z: Array  # (window, feature)
    values: dict[str, Array]  # by variable, (window, column)
    trial: NDArray[Any]
    at: Array  # (window,) seconds in the session, or its place there


def variables_of(
    latents: xr.DataArray, of: str | Sequence[str] | None, where: str
) -> list[Variable]:
    """Variables by name: coordinates of numbers, or series of which these are columns.

    Parameters
    ----------
    latents
        With the coordinates, and what is known of them in ``attrs["behavior"]``.
    of
        Names; None takes what windows were paired by.
    where
        Name of the function, for errors.
    """
    about: Mapping[str, Mapping[str, Any]] = json.loads(latents.attrs.get("behavior", "{}"))
    numbers = {str(name) for name, coord in latents.coords.items() if coord.dtype.kind in "iuf"}
    if of is None:
        paired = list(json.loads(latents.attrs.get("paired_by", "[]")))
        of = list(dict.fromkeys(about.get(c, {}).get("behavior", c) for c in paired))
        of = [name for name in of if name in numbers or name not in latents.coords]
        if not of:
            raise ValueError(
                f"windows were not paired by behavior; give {where} what to decode, of='position'."
            )
    names = [of] if isinstance(of, str) else of
    fine = isinstance(names, Sequence) and len(names) > 0
    fine = fine and all(isinstance(name, str) for name in names) and len({*names}) == len(names)
    require(fine, "of", where, "the name of a coordinate, or a list of different ones", of)
    found = []
    for name in names:
        columns = [name]
        if name not in latents.coords:
            columns = [c for c, a in about.items() if a.get("behavior") == name]
        if not columns or not all(
            column in numbers and "window" in latents.coords[column].dims for column in columns
        ):
            there = sorted(c for c in numbers if "window" in latents.coords[c].dims)
            other = (
                " Conditions are told apart by separation(by=...)."
                if name in latents.coords
                else ""
            )
            raise ValueError(
                f"{where} expected numbers of each window in {name!r}. Found: {there}.{other}"
            )
        known = [about.get(column, {}) for column in columns]
        periods = tuple(None if "period" not in a else float(a["period"]) for a in known)
        found.append(Variable(name, tuple(columns), periods, str(known[0].get("unit", ""))))
    return found


def samples_of(latents: xr.DataArray, variables: Sequence[Variable], subject: str) -> Samples:
    """Windows of one subject that know all variables; those that occur again, once."""
    row = latents["subject"].values.tolist().index(subject)
    z = np.asarray(latents.values[row], float)

    def of_subject(name: str) -> NDArray[Any]:
        coord = latents.coords[name]
        if "subject" in coord.dims:
            return np.asarray(coord.transpose("subject", "window").values[row])
        return np.asarray(coord.values)

    values = {
        v.name: np.stack([of_subject(c).astype(float) for c in v.columns], axis=1)
        for v in variables
    }
    known = np.isfinite(z).all(axis=1)
    for column in values.values():
        known &= np.isfinite(column).all(axis=1)
    trial = of_subject("trial")
    time = of_subject("time").astype(float) if "time" in latents.coords else np.zeros(len(z))
    _, place = np.unique(trial, return_inverse=True)
    _, tick = np.unique(time.round(9), return_inverse=True)
    at = place + tick / (tick.max(initial=0) + 1)
    key = at
    if "onset" in latents.coords:
        onset = of_subject("onset").astype(float) + time
        at = onset if np.isfinite(onset[known]).all() else at
    rows = np.flatnonzero(known)
    _, first = np.unique(key[rows], return_index=True)
    rows = rows[first]
    rows = rows[np.argsort(at[rows], kind="stable")]
    return Samples(z[rows], {k: v[rows] for k, v in values.items()}, trial[rows], at[rows])
