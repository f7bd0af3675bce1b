"""Which subject departs from the group, and when."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import logsumexp

from neuroshare.analysis.inputs import require_latents
from neuroshare.support.checks import require_seed

Array = NDArray[np.float64]
_COPIES = 20
"""Simulated groups of like subjects, over which the reference of a departure is averaged."""
_PRIOR_TRIALS = 2.0
"""Of the variance of all subjects, beside the trials of one."""


def departure(latents: xr.DataArray, by: str | None = None, seed: int = 0) -> xr.Dataset:
    """Who departs from the group, and when: divergence between distributions of latents.

    Parameters
    ----------
    latents
        (subject, window, latent) as ``transform`` returns them, NaN where a subject is absent.
    by
        Coordinate of the condition; None takes ``attrs["by"]``.
    seed
        Of the copies of `within`.

    Returns
    -------
    Dataset
        ``divergence`` (subject, time): of a subject's latents from the mixture of the others',
        mean over conditions, nats. ``within`` (subject, time): the same where all others are
        copies of the subject, measured with as many trials as they have: what is found where nobody
        departs. NaN, with a sentence in attribute ``warnings`` (JSON, a list), where no subject has
        two trials of one condition.

    Raises
    ------
    TypeError
        If `latents` are no DataArray.
    ValueError
        If they lack dims or coordinates, hold infinite values, or one subject only.

    Notes
    -----
    The latents of a subject at one condition and time are described by a Gaussian: their mean over
    trials, and the standard deviations of its trials about these means, one for all conditions and
    times since few trials tell them apart. The variance of all subjects counts as that of two more
    trials, so that a subject of few trials has a spread too. Copies are drawn from the subject's
    own Gaussians, means and spreads with the error of as many trials. See `residuals` for the
    divergence.
    """
    require_seed(seed, "departure")
    latents, column = require_latents(latents, "latents", "departure", by)
    if latents.sizes["subject"] < 2:
        raise ValueError(
            f"departure needs two subjects or more, got {latents['subject'].values.tolist()}."
        )
    names = latents.coords["subject"].values
    conditions = np.unique(latents.coords[column].values)
    times = np.unique(np.round(latents.coords["time"].values, 9))
    cells = [_Cells.of(latents, b, column, conditions, times) for b in range(len(names))]
    free = np.array([one.free for one in cells])
    squares = np.stack([one.squares for one in cells])  # mean square about the means
    of_all = free @ squares / max(free.sum(), 1)
    weight = (free / (free + _PRIOR_TRIALS))[:, None]
    variance = weight * squares + (1 - weight) * of_all

    def far(locs: Array, variances: Array, subjects: Any) -> xr.DataArray:
        dims = ("subject", "window", "latent")
        scales = np.sqrt(np.maximum(variances, 1e-18))[:, None] + 0 * locs
        coords = {"subject": subjects, "time": ("window", np.tile(times, len(conditions)))}
        found = xr.Dataset({"loc": (dims, locs), "scale": (dims, scales)}, coords=coords)
        return divergence(found)

    loc = np.stack([one.loc for one in cells])
    if not free.any():
        loc = np.full_like(loc, np.nan)
    count = np.stack([one.count for one in cells])
    within = []
    for b in range(len(names)):
        rng = np.random.default_rng([seed, b])
        copies = []
        for _ in range(_COPIES):
            error = rng.standard_normal(loc.shape) * np.sqrt(variance[b])
            drawn = loc[b] + error / np.sqrt(np.maximum(count, 1))[:, :, None]
            drawn[count == 0] = np.nan
            spread = rng.chisquare(np.maximum(free, 1)[:, None], size=variance.shape)
            spread = (spread * (free > 0)[:, None] + _PRIOR_TRIALS) / (free + _PRIOR_TRIALS)[
                :, None
            ]
            copies.append(far(drawn, variance[b] * spread, names).values[b])
        within.append(np.mean(copies, axis=0))
    told = []
    if not free.any():
        told = [
            f"No subject has two trials of one {column}: the spread of its latents is not known, "
            "and no divergence is given."
        ]
    return xr.Dataset(
        {
            "divergence": far(loc, variance, names),
            "within": (("subject", "time"), within),
        },
        attrs={"by": column, "units": "nats", "warnings": json.dumps(told)},
    )


def divergence(posterior: xr.Dataset) -> xr.DataArray:
    """How far each subject's posterior is from those of the others, (subject, time), nats.

    Parameters
    ----------
    posterior
        ``loc`` and ``scale`` (subject, window, latent) with coordinate ``time`` (window); NaN
        where a subject is absent.

    Raises
    ------
    TypeError
        If `posterior` is no Dataset.
    ValueError
        If a variable, dim or coordinate is missing.
    """
    if not isinstance(posterior, xr.Dataset):
        raise TypeError(
            "divergence expected a Dataset of loc and scale (subject, window, latent), as "
            f"model.posterior gives it. Got {type(posterior).__name__} instead."
        )
    dims = {"loc": ("subject", "window", "latent"), "scale": ("subject", "window", "latent")}
    for name, expected in {**dims, "time": ("window",)}.items():
        if name not in posterior or set(posterior[name].dims) != set(expected):
            found = {str(n): tuple(map(str, v.dims)) for n, v in posterior.variables.items()}
            raise ValueError(f"divergence expected {name!r} with dims {expected}, got {found}.")
    loc = posterior["loc"].transpose("subject", "window", "latent").values
    scale = posterior["scale"].transpose("subject", "window", "latent").values
    n = len(loc)
    kl = np.full((n, n, loc.shape[1]), -np.inf)
    for b in range(n):
        for k in range(n):
            if k != b:
                ratio = (scale[b] / scale[k]) ** 2
                shift = ((loc[b] - loc[k]) / scale[k]) ** 2
                pair = -0.5 * (ratio + shift - 1 - np.log(ratio)).sum(axis=1)
                kl[b, k] = np.where(np.isnan(pair), -np.inf, pair)
    present = ~np.isnan(loc[:, :, 0])
    n_others = present.sum(axis=0) - present
    scored = present & (n_others > 0)
    far = np.full(present.shape, np.nan)
    far[scored] = np.log(n_others[scored]) - logsumexp(kl.transpose(0, 2, 1)[scored], axis=1)
    times, at = np.unique(np.round(posterior["time"].values, 9), return_inverse=True)
    total, count = np.zeros((n, len(times))), np.zeros((n, len(times)))
    for b in range(n):
        np.add.at(total[b], at[scored[b]], far[b, scored[b]])
        np.add.at(count[b], at[scored[b]], 1)
    return xr.DataArray(
        np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0),
        dims=("subject", "time"),
        coords={"subject": posterior["subject"].values, "time": times},
        name="divergence",
        attrs={"units": "nats"},
    )


@dataclass(frozen=True)
class _Cells:
    """One subject's latents by condition and time."""

    loc: Array  # (cell, latent), mean over trials; NaN without
    count: NDArray[np.int64]  # (cell,) trials
    squares: Array  # (latent,) variance of trials about the means
    free: int  # trials beyond one of each condition

    @classmethod
    def of(
        cls, latents: xr.DataArray, b: int, by: str, conditions: NDArray[Any], times: Array
    ) -> _Cells:
        z = np.asarray(latents.values[b], float)
        there = ~np.isnan(z).any(axis=1)
        of_each, trial = (
            xr.broadcast(latents.coords[name], latents.coords["trial"])[0]
            .transpose("subject", "window")
            .values[b][there]
            for name in (by, "trial")
        )
        tick = np.searchsorted(times, np.round(latents.coords["time"].values, 9)[there])
        cell = np.searchsorted(conditions, of_each) * len(times) + tick
        n_cells = len(conditions) * len(times)
        _, first, position = np.unique(trial, return_index=True, return_inverse=True)
        n_free = len(first) - len(np.unique(of_each[first]))
        # Every trial and time once, however many partners it has.
        _, once = np.unique(position * n_cells + cell, return_index=True)
        at, values = cell[once], z[there][once]
        count = np.bincount(at, minlength=n_cells)
        total = np.zeros((n_cells, z.shape[1]))
        np.add.at(total, at, values)
        loc = np.full(total.shape, np.nan)
        loc[count > 0] = total[count > 0] / count[count > 0, None]
        left = max(len(at) - int((count > 0).sum()), 1)
        return cls(loc, count, np.square(values - loc[at]).sum(axis=0) / left, n_free)
