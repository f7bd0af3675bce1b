"""Aligned linear maps of all subjects, and linear read-outs: where networks may start."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, eigh, solve_triangular
from scipy.sparse.linalg import LinearOperator, eigsh

from neuroshare.models.alignment import Array
from neuroshare.models.linear import LinearAlignment, Method
from neuroshare.models.moments import TOLERANCE, Moments, moments_of
from neuroshare.models.readout import VARIANCE, curvature_of, log_linear
from neuroshare.vae.likelihoods import Likelihood
from neuroshare.windows.paired import PairedWindows

COMPONENTS, RIDGE = 40, 0.5
"""Of the alignments that are not weighed feature by feature."""
FIRST_LATENTS = 4
"""Of a first map, by which features are weighed that others explain."""
_MANY = 1000
"""Dimensions of all subjects together; the matrix of their products is not made beyond."""


@dataclass(frozen=True)
class LinearStart:
    """An aligned map of pooled windows, ``(x - loc) / scale @ weights``, and a read-out."""

    loc: Array  # (unit,)
    scale: Array  # (unit,)
    weights: Array  # (unit, latent)
    readout: Array  # (latent, unit), change of the log rate
    slope: Array  # likewise as long as changes are small, by one step of Newton's method

    def codes(self, features: Array) -> Array:
        """Latents (..., latent) of features (..., unit)."""
        return (features - self.loc) / self.scale @ self.weights


@dataclass(frozen=True)
class Weighting:
    """How features are weighed in the alignment: what is known before any data are seen.

    Parameters
    ----------
    ridge
        Added to the own covariance of a subject, in units of its mean feature variance.
    scaling
        Features are divided by their deviation to this power: 0 is the scale on which counts have
        equal noise, 1 equal variance for all units.
    sharing
        Features are multiplied by the share of their variance that the latents of the other
        subjects explain, to this power.
    """

    ridge: float
    scaling: float
    sharing: float


WEIGHTINGS = (
    Weighting(2.0, 0.5, 0.25),
    Weighting(1.0, 1.0, 0.25),
    Weighting(1.0, 1.0, 0.0),
    Weighting(0.1, 1.0, 0.0),
)
"""Those that a model chooses from: no single one suits all recordings."""

MOST_FEATURES = 4000
"""Of one subject, for the covariance of all of them."""


def linear_starts(
    train: PairedWindows,
    latent_dim: int,
    root: Mapping[str, bool],
    method: Method = "mcca",
    *,
    likelihoods: Mapping[str, Likelihood] | None = None,
    n_groups: int = 1,
    weighting: Weighting | None = None,
    alone: bool = False,
    spread: float = 0.15,
    reads: bool = True,
    seed: int = 0,
) -> dict[str, LinearStart]:
    """Aligned linear maps of pooled windows, and the read-out of counts from others' latents.

    Features are the square root (where `root`) of each unit's count in each of `n_groups`
    consecutive parts of the window. MCCA of all of them follows, see `aligned_maps`. Every pair of
    trials of one condition counts, which is the limit of redrawing partners for ever: covariances
    between subjects are those of their condition-by-time means.

    The read-out is a Poisson regression of each unit on the mean latent of the other subjects (its
    own, if `alone`), with a normal prior of deviation `spread` on its weights, see `log_linear`.
    Where activity is no counts, it is one Newton step of that of the link of `likelihoods`; and
    where nothing `reads` it, for the regression is half of the work.
    """
    train = train.thinned()
    moments = {name: moments_of(train, name, root[name], n_groups) for name in train.subjects}
    means = {name: found.means for name, found in moments.items()}
    seen = {name: found.seen for name, found in moments.items()}
    if alone or method == "mcca":
        maps = maps_of(moments, weighting or WEIGHTINGS[0], latent_dim, alone=alone, seed=seed)
    else:
        aligned = LinearAlignment(method, latent_dim, COMPONENTS, RIDGE, seed=seed).fit(train)
        maps = {}
        for name, found in moments.items():
            # Learned on sums of roots; the roots of sums, standardised, stand in for them.
            scale = np.sqrt(np.maximum(np.diag(found.covariance), 0)) + TOLERANCE
            own = np.tile(aligned.encoders_[name].weights, (n_groups, 1))
            maps[name] = own / scale[:, None]
    latents = {n: means[n] @ maps[n] for n in moments}
    starts = {}
    n_independent = 1 + (train.first_bins[-1] - train.first_bins[0]) / train.width
    for name, found in moments.items():
        z = latents[name] if alone else _others(latents, seen, name)
        there = seen[name] & ~np.isnan(z[:, 0, 0])
        z = z[there]
        likelihood = None if likelihoods is None else likelihoods[name]
        rate = found.rate
        if likelihood is None or likelihood.counts:
            rate = rate + 0.5 / found.n_trials
        curvature = curvature_of(likelihood, rate, train.width // n_groups)
        cells = found.counts[there]
        z = (z - z.mean((0, 1))).reshape(-1, latent_dim)
        cells = cells.reshape(len(z), -1)
        n = found.n_trials * n_independent
        product = z.T @ (cells - cells.mean(0)) / max(len(z), 1)
        slope = readout = n * product / (n * curvature * VARIANCE + 1 / spread**2)
        if reads and (likelihood is None or likelihood.counts):
            readout = log_linear(z, cells, rate, n, spread)
        scale = found.seen_scale
        starts[name] = LinearStart(found.loc, scale, maps[name] * scale[:, None], readout, slope)
    return starts


def maps_of(
    moments: Mapping[str, Moments], weighting: Weighting, latent_dim: int, *, alone: bool, seed: int
) -> dict[str, Array]:
    """Maps (feature, latent) of all subjects: aligned, or each `alone`."""
    if not alone:
        return aligned_maps(moments, weighting, latent_dim)
    return {name: own_maps(m, latent_dim, weighting, name, seed) for name, m in moments.items()}


def aligned_maps(
    moments: Mapping[str, Moments], weighting: Weighting, latent_dim: int
) -> dict[str, Array]:
    """MCCA between condition-by-time means: maps (feature, latent) to codes of unit variance.

    What all conditions have in common at a time tells none apart and is left out. The own
    covariance of a subject is half that of its windows and half that of whole trials: what the
    windows of a trial have in common is not averaged out when their evidence is summed. Latents
    come in the order of their agreement, so that the first k of them are the map to k latents.

    Raises
    ------
    ValueError
        If there are fewer dimensions than latents.
    """
    scale = {
        name: (found.variance + 0.05 * found.variance.mean() + TOLERANCE) ** (weighting.scaling / 2)
        for name, found in moments.items()
    }
    if weighting.sharing:
        maps = _solved(moments, scale, weighting.ridge, min(latent_dim, FIRST_LATENTS))
        codes = {name: found.means @ maps[name] for name, found in moments.items()}
        seen = {name: found.seen for name, found in moments.items()}
        for name, found in moments.items():
            shared = _others(codes, seen, name)
            there = found.seen & ~np.isnan(shared[:, 0, 0])
            z = shared[there].reshape(-1, shared.shape[2])
            m = found.means[there].reshape(len(z), -1)
            u, s, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
            u = u[:, s > 1e-6 * s[:1].sum()]
            explained = np.square(u.T @ (m - m.mean(0))).sum(0) / max(len(m), 1)
            total = np.diag(found.windows)
            share = (explained + 1e-6) / (total + 1e-3 * total.mean() + TOLERANCE)
            scale[name] = scale[name] / share**weighting.sharing
    return _solved(moments, scale, weighting.ridge, latent_dim)


def _solved(
    moments: Mapping[str, Moments], scale: Mapping[str, Array], ridge: float, k: int
) -> dict[str, Array]:
    """Solve MCCA in coordinates in which every regularised own covariance is the identity."""
    roots, images = {}, {}
    bases: dict[str, Array | None] = {}
    for name, found in moments.items():
        roots[name], white = _whitened(found, scale[name], ridge)
        bases[name] = None
        if white.shape[0] > white.shape[1]:  # more features than cells of conditions and times
            bases[name], white = np.linalg.qr(white)
        images[name] = white.T  # (cell, dimension)
    names = list(moments)
    ends = np.cumsum([0] + [images[name].shape[1] for name in names])
    if k > ends[-1]:
        raise ValueError(
            f"latent_dim={k} exceeds the {ends[-1]} dimensions in which the mean responses of all "
            "subjects together vary. Lower latent_dim."
        )
    vectors = _leading(names, images, ends, {n: m.seen for n, m in moments.items()}, k)
    maps = {}
    for name, part in zip(names, np.split(vectors, ends[1:-1]), strict=True):
        basis = bases[name]
        turned = part if basis is None else basis @ part
        maps[name] = solve_triangular(roots[name], turned, lower=True, trans="T")
        maps[name] = maps[name] / scale[name][:, None]
    sign = np.where(np.sum([found.sum(0) for found in maps.values()], axis=0) < 0, -1.0, 1.0)
    return {name: _unit_variance(maps[name] * sign, found) for name, found in moments.items()}


def most_latents(moments: Mapping[str, Moments]) -> int:
    """How many latents `aligned_maps` can give at most."""
    return sum(min(m.means.shape[2], m.means[..., 0].size) for m in moments.values())


def _whitened(found: Moments, scale: Array, ridge: float) -> tuple[Array, Array]:
    """Root of the own covariance (feature, feature); means in its coordinates (feature, cell)."""
    own = (found.windows + found.trials) / 2 / np.outer(scale, scale)
    level = np.trace(own) / len(own)
    own[np.diag_indices_from(own)] += ridge * level + max(1e-8 * level, TOLERANCE)
    root = cholesky(own, lower=True)
    centred = found.means - found.means[found.seen].mean(0)
    cells = np.where(found.seen[:, None, None], centred, 0.0) / scale
    return root, solve_triangular(root, cells.reshape(-1, len(own)).T, lower=True)


def _leading(
    names: Sequence[str],
    images: Mapping[str, Array],
    ends: NDArray[np.int64],
    seen: Mapping[str, NDArray[np.bool_]],
    k: int,
) -> Array:
    """Leading eigenvectors (dimension of all subjects, k) of the products between subjects."""
    stacked = np.concatenate([images[name] for name in names], axis=1)
    if ends[-1] > _MANY and all(found.all() for found in seen.values()) and k < ends[-1]:
        # The matrix of all products is applied to vectors without being made.
        def between(vector: Array) -> Array:
            total = stacked @ vector.ravel()
            parts = []
            for name, part in zip(names, np.split(vector.ravel(), ends[1:-1]), strict=True):
                parts.append(images[name].T @ (total - images[name] @ part))
            return np.concatenate(parts)

        size = int(ends[-1])
        operator = LinearOperator((size, size), matvec=between, dtype=np.float64)
        start = np.random.default_rng(0).normal(size=size)
        values, vectors = eigsh(operator, k=k, which="LA", v0=start, tol=1e-10)
        return np.asarray(vectors[:, np.argsort(values)[::-1]])
    matrix = stacked.T @ stacked
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            both = (seen[a] & seen[b]).mean()
            block = np.s_[ends[i] : ends[i + 1], ends[j] : ends[j + 1]]
            matrix[block] = 0 if i == j or not both else matrix[block] / both
    chosen = (len(matrix) - k, len(matrix) - 1)
    return np.asarray(eigh(matrix, subset_by_index=chosen)[1][:, ::-1])


def own_maps(found: Moments, latent_dim: int, weighting: Weighting, name: str, seed: int) -> Array:
    """Map of one subject alone: where its conditions differ most, turned at random.

    The order of such latents, strongest first, is itself something that subjects would share.
    """
    variance = found.variance + 0.05 * found.variance.mean() + TOLERANCE
    scale = variance ** (weighting.scaling / 2)
    root, white = _whitened(found, scale, weighting.ridge)
    u = np.linalg.svd(white, full_matrices=False)[0][:, :latent_dim]
    maps = solve_triangular(root, u, lower=True, trans="T") / scale[:, None]
    maps = np.pad(_unit_variance(maps, found), ((0, 0), (0, latent_dim - u.shape[1])))
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    turn = np.linalg.qr(rng.standard_normal((latent_dim, latent_dim)))[0]
    return np.asarray(maps @ turn)


def _unit_variance(maps: Array, found: Moments) -> Array:
    """Let codes have unit variance over windows."""
    variance = np.einsum("uk,uv,vk->k", maps, found.covariance, maps, optimize=True)
    spread = np.sqrt(np.maximum(variance, 0))
    spread[spread < TOLERANCE] = 1.0
    return np.asarray(maps / spread)


def _others(latents: dict[str, Array], seen: dict[str, NDArray[np.bool_]], name: str) -> Array:
    """Mean latents of all subjects but one, (condition, start, latent); NaN where none is there."""
    rest = [n for n in latents if n != name]
    n_seen = np.sum([seen[n] for n in rest], axis=0)
    total = np.sum([latents[n] for n in rest], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Array = total / n_seen[:, None, None]
    mean[n_seen == 0] = np.nan
    return mean
