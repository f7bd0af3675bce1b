"""What an analysis may be given: latents with their labels, paired windows, a fitted model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from neuroshare.support.checks import brief, require, require_one_of, require_seed, require_whole
from neuroshare.windows.paired import PairedWindows

DIMS = ("subject", "window", "latent")
MOST_SAMPLES = 1_000_000
"""No permutations or bootstrap samples are more on purpose."""


@runtime_checkable
class Imputer(Protocol):
    """A fitted model that predicts the counts of one subject from others."""

    def impute(
        self, paired: PairedWindows, target: str, source: str | Sequence[str] | None = None
    ) -> xr.DataArray:
        """Expected counts (window, unit, lag) of the target; one lag stands for all of a window."""


def require_latents(
    latents: xr.DataArray,
    name: str,
    where: str,
    by: str | None = None,
    coords: Sequence[str] = ("time", "trial"),
) -> tuple[xr.DataArray, str]:
    """Refuse latents that lack labels or hold other than finite numbers, NaN where absent.

    Parameters
    ----------
    latents
        (subject, window, latent), in any order.
    name, where
        Of the parameter and the function, for the sentence.
    by
        Coordinate of the condition; None takes ``attrs["by"]``.
    coords
        What is needed besides.

    Returns
    -------
    latents
        (subject, window, latent) in this order.
    by
        Name of the condition.
    """
    if isinstance(latents, xr.DataArray) and by is None:
        by = latents.attrs.get("by")
        if by is None:
            raise ValueError(
                f"The {name!r} parameter of {where} names no condition in attrs['by']; "
                "give by='...'."
            )
    require(by is None or isinstance(by, str), "by", where, "the name of a coordinate", by)
    latents = require_array(latents, name, where, coords, by)
    column = str(by)
    lacks = pd.isna(latents.coords[column].values)
    if lacks.ndim == 2:  # what an absent subject has does not matter
        lacks |= latents.coords[column].values == ""
        lacks = latents.coords[column].copy(data=lacks).transpose("subject", "window").values
        lacks = lacks & latents.notnull().all("latent").values
    unknown = int(lacks.sum())
    if unknown:
        raise ValueError(
            f"The {name!r} parameter of {where} must have a value of {column!r} in every window. "
            f"Got {unknown} windows without. Leave them out."
        )
    return latents, column


def require_array(
    latents: xr.DataArray, name: str, where: str, coords: Sequence[str] = (), by: str | None = None
) -> xr.DataArray:
    """Give latents as (subject, window, latent); refuse what lacks labels or is not finite."""
    if not isinstance(latents, xr.DataArray):
        raise TypeError(
            f"The {name!r} parameter of {where} must be a DataArray (subject, window, latent), as "
            f"transform returns it. Got {type(latents).__name__} instead."
        )
    _require_labels(latents, name, where, coords, by)
    latents = latents.transpose(*DIMS)
    _require_finite(latents, name, where)
    return latents


def _require_labels(
    latents: xr.DataArray, name: str, where: str, coords: Sequence[str], by: str | None
) -> None:
    expected = {c: ("subject", "window") if c == "trial" else ("window",) for c in coords}
    if by is not None:
        of_each = by in latents.coords and "subject" in latents.coords[by].dims
        expected = {by: ("subject", "window") if of_each else ("window",), **expected}
        coords = list(expected)
    missing = sorted({*DIMS, *coords} - {*map(str, latents.dims), *map(str, latents.coords)})
    other = [
        f"{c!r} along {tuple(map(str, latents.coords[c].dims))}"
        for c, dims in expected.items()
        if c in latents.coords and set(latents.coords[c].dims) != set(dims)
    ]
    if missing or other or latents.ndim != len(DIMS):
        listed = ", ".join(f"{brief(c)} ({', '.join(dims)})" for c, dims in expected.items())
        lacks = [f"missing: {', '.join(map(brief, missing))}"] * bool(missing) + other
        raise ValueError(
            f"The {name!r} parameter of {where} must have dims (subject, window, latent)"
            f"{' and coordinates ' * bool(listed)}{listed}. Got dims "
            f"{tuple(map(str, latents.dims))}, coordinates {list(map(str, latents.coords))}; "
            f"{'; '.join(lacks) or 'others'}."
        )
    if "time" in coords and not np.issubdtype(latents.coords["time"].dtype, np.number):
        raise ValueError(
            f"The {name!r} parameter of {where} must have times of windows in seconds. Got "
            f"{latents.coords['time'].dtype} in 'time'."
        )


def _require_finite(latents: xr.DataArray, name: str, where: str) -> None:
    """Refuse latents (subject, window, latent) that are empty, no numbers, or infinite."""
    if latents.dtype.kind not in "iuf":
        raise ValueError(
            f"The {name!r} parameter of {where} must hold numbers. Got {latents.dtype} instead."
        )
    if not latents.size:
        raise ValueError(
            f"The {name!r} parameter of {where} must hold subjects, windows and latents. Got "
            f"{dict(latents.sizes)} instead."
        )
    names = latents["subject"].values.tolist()
    if len(set(names)) < len(names):
        raise ValueError(
            f"The {name!r} parameter of {where} must have every subject once. Got {names} instead."
        )
    for subject, values in zip(names, latents.values, strict=True):
        if np.isinf(values).any():
            raise ValueError(
                f"subject {subject!r}: expected finite latents, or NaN in windows without it, got "
                "infinite ones. Fit again with a smaller learning rate (lr)."
            )


def require_samples(where: str, seed: int, n_permutations: int = 0, n_bootstraps: int = 0) -> None:
    """Refuse numbers of permutations and bootstrap samples that are none, and such a seed."""
    require_whole(n_permutations, "n_permutations", where, most=MOST_SAMPLES)
    require_whole(n_bootstraps, "n_bootstraps", where, most=MOST_SAMPLES)
    require_seed(seed, where)


def require_model(model: Imputer, where: str) -> None:
    """Refuse what does not impute."""
    if isinstance(model, type) or not callable(getattr(model, "impute", None)):
        raise TypeError(
            f"The 'model' parameter of {where} must be a fitted model with impute(paired, target, "
            f"source), such as SharedLatentModel. Got {brief(model)} instead."
        )


def require_windows(paired: PairedWindows, name: str, where: str) -> None:
    """Refuse what was not paired."""
    if not isinstance(paired, PairedWindows):
        raise TypeError(
            f"The {name!r} parameter of {where} must be the PairedWindows of pair_subjects. "
            f"Got {type(paired).__name__} instead."
        )


def require_parts(train: PairedWindows, test: PairedWindows, where: str) -> None:
    """Refuse parts of other subjects, units, windows or conditions, or that share a trial."""
    for setting, unit in (("by", ""), ("width", " bins"), ("bin_size", " s")):
        expected, got = getattr(train, setting), getattr(test, setting)
        if expected != got and not (unit and np.isclose(expected, got)):
            raise ValueError(
                f"{where} expected parts of one {setting}, got {expected}{unit} in train and "
                f"{got}{unit} in test. Give both parts of one split."
            )
    for name in test.subjects:
        if name not in train.subjects:
            raise ValueError(
                f"{where} expected the subjects of test in train, got {list(train.subjects)} in "
                f"train and {list(test.subjects)} in test. Give both parts of one split."
            )
        if train.units[name].tolist() != test.units[name].tolist():
            raise ValueError(
                f"subject {name!r}: {where} expected the units of train in test, in the same "
                f"order ({len(train.units[name])}), got {len(test.units[name])} or others. "
                "Give both parts of one split."
            )
        require_apart(name, train.trial_ids(name), test.trial_ids(name))


def require_apart(subject: str, train: NDArray[Any], test: NDArray[Any]) -> None:
    """Refuse trial ids of a subject that are in both parts."""
    shared = np.intersect1d(train, test)
    if len(shared):
        raise ValueError(
            f"trials {shared[:5].tolist()}{' ...' if len(shared) > 5 else ''} of subject "
            f"{subject!r} are in both parts: overlapping windows of one trial would count as "
            "evidence. Split by trial before pairing, as PairedWindows.split does."
        )


def by_of(by: str | None, paired: PairedWindows, where: str) -> str:
    """Name of the trial column whose values are told apart, which every window has."""
    if by is None:
        return paired.by
    require(isinstance(by, str), "by", where, "the name of a trial column", by)
    known = [
        name
        for name, value in paired.coords().items()
        if isinstance(value, tuple) and "window" in value[0] and name not in ("time", "start")
    ]
    require_one_of(by, "by", where, known)
    return by


def require_conditions(subject: str, by: str, conditions: NDArray[Any], where: str) -> None:
    """Refuse training windows of one condition, between which nothing can be told apart."""
    found = np.unique(conditions)
    if len(found) < 2:
        raise ValueError(
            f"{where} needs two conditions or more of {by!r} in subject {subject!r}; its training "
            f"windows have {found.tolist()}."
        )


def animals_of(subjects: Sequence[str], given: Any = None) -> list[str]:
    """Animal of each subject, which is an animal of its own where none is given."""
    if given is None:
        return list(subjects)
    named = np.asarray(given).astype(str).tolist()
    return [one or name for one, name in zip(named, subjects, strict=True)]


def imputed(
    model: Imputer,
    paired: PairedWindows,
    target: str,
    source: str | Sequence[str] | None,
    n_units: int,
) -> NDArray[np.float64]:
    """Give what a model expects of a subject, (window, unit, lag); NaN where sources are absent."""
    found = model.impute(paired, target=target, source=source)
    got = dict(found.sizes) if isinstance(found, xr.DataArray) else type(found).__name__
    expected = {"window": len(paired), "unit": n_units, "lag": paired.width}
    if got not in (expected, {**expected, "lag": 1}):
        raise ValueError(
            f"{type(model).__name__}.impute: expected counts of subject {target!r} as a DataArray "
            f"of {expected}, got {got}."
        )
    values = np.asarray(found.transpose("window", "unit", "lag").values)
    if np.isinf(values).any():
        raise ValueError(
            f"{type(model).__name__}.impute: expected finite counts of subject {target!r}, got "
            "infinite ones. Fit again with a smaller learning rate (lr)."
        )
    return values
