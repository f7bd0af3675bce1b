"""The methods behind `LinearAlignment`, on arrays: MCCA, generalised Procrustes, SRM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse import csr_array, eye_array
from sklearn.utils.extmath import randomized_svd

from neuroshare.windows.paired import PairedWindows

Array = NDArray[np.float64]
Features = Literal["sum", "window"]
Meetings = dict[tuple[str, str], Any]
"""How often trials met, (trial, trial) of each pair of subjects, dense or sparse."""

EXACT_PCA = 1000
"""Features up to which the covariance is diagonalised in full."""
TOLERANCE = 1e-10
"""Variances below are none."""


@dataclass(frozen=True)
class Encoder:
    """Affine map of one subject: ``(x - mean) / scale @ weights``, x the square-root counts.

    The features x are those of `LinearAlignment`'s `features` argument: one per unit, or one per
    unit and lag (index = unit * number of lags + lag).
    """

    mean: Array
    scale: Array
    weights: Array

    def __call__(self, x: Array) -> Array:
        """Latents (..., latent) of features (..., feature)."""
        return mapped((x - self.mean) / self.scale, self.weights)

    def first(self, n: int) -> Encoder:
        """Map to the first n latents."""
        return replace(self, weights=self.weights[:, :n])


def mapped(x: Array, weights: Array) -> Array:
    """Rows x (..., feature) times weights (feature, latent), in one product of matrices."""
    return np.asarray((x.reshape(-1, x.shape[-1]) @ weights).reshape(*x.shape[:-1], -1))


def meetings_of(
    tables: list[NDArray[np.int64]],
    subjects: Sequence[str],
    used: dict[str, NDArray[np.int64]],
    sparse: bool = False,
) -> Meetings:
    """How often a trial of one subject met a trial of another, (trial, trial) of each pair.

    Sparse where there are many windows that meet few of the others.
    """
    stacked = np.concatenate(tables)
    index = {n: np.searchsorted(used[n], stacked[:, c]) for c, n in enumerate(subjects)}
    there = {n: stacked[:, c] >= 0 for c, n in enumerate(subjects)}
    met: Meetings = {}
    for a in subjects:
        for b in subjects:
            both = there[a] & there[b]
            if sparse:
                place = (index[a][both], index[b][both])
                shape = (len(used[a]), len(used[b]))
                met[a, b] = csr_array((np.ones(len(place[0])), place), shape=shape)
                continue
            met[a, b] = np.zeros((len(used[a]), len(used[b])))
            np.add.at(met[a, b], (index[a][both], index[b][both]), 1)
        # Within a subject there is nothing to redraw: every trial counts once.
        met[a, a] = eye_array(len(used[a])).tocsr() if sparse else np.eye(len(used[a]))
    return met


def met_by(met: Any, values: Array) -> Array:
    """Values (trial, start, k) of one subject, summed over those that each of another's met."""
    if isinstance(met, np.ndarray):
        return np.asarray(np.einsum("ij,isk->jsk", met, values, optimize=True))
    rows = met.T @ values.reshape(len(values), -1)
    return np.asarray(rows).reshape(-1, *values.shape[1:])


def covariances(scores: dict[str, Array], meetings: Meetings) -> dict[tuple[str, str], Array]:
    """Covariance of every two subjects' scores over the windows in which they met."""
    covariance = {}
    for (a, b), met in meetings.items():
        n_starts = scores[a].shape[1]
        total = max(met.sum(), 1) * n_starts
        mean_a = met.sum(axis=1) @ scores[a].sum(axis=1) / total
        mean_b = met.sum(axis=0) @ scores[b].sum(axis=1) / total
        partner = met_by(met, scores[a])
        product = np.tensordot(partner, scores[b], axes=((0, 1), (0, 1))) / total
        covariance[a, b] = product - np.outer(mean_a, mean_b)
    return covariance


def principal_axes(x: Array, n: int, seed: int) -> Array:
    """Leading principal axes (feature, component) of centred rows."""
    n = min(n, *x.shape)
    if x.shape[1] <= EXACT_PCA:
        _, axes = eigh(x.T @ x)
        return np.asarray(axes[:, ::-1][:, :n])
    return np.asarray(randomized_svd(x, n, random_state=seed)[2].T)


def _polar(matrix: Array) -> Array:
    """Orthonormal factor of a matrix, or of each of a stack: the map of largest trace product."""
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray(u @ vt)


def _polars(stacked: Array, cuts: list[int]) -> Array:
    """Orthonormal factor of the part of every subject."""
    parts = np.split(stacked, cuts)
    if len({len(part) for part in parts}) == 1:  # small matrices: one call is twice as fast
        return np.concatenate(_polar(np.stack(parts)))
    return np.concatenate([_polar(part) for part in parts])


def procrustes(
    scores: dict[str, Array], conditions: dict[str, NDArray[np.int64]], n_conditions: int, k: int
) -> dict[str, Array]:
    """Generalised orthogonal Procrustes on condition-by-time means."""
    means, seen = {}, {}
    for name, score in scores.items():
        mean = np.zeros((n_conditions, *score.shape[1:]))
        found = np.unique(conditions[name])
        for condition in found:
            mean[condition] = score[conditions[name] == condition].mean(axis=0)
        means[name] = mean.reshape(-1, mean.shape[2])
        seen[name] = np.repeat(np.isin(np.arange(n_conditions), found), score.shape[1])[:, None]
    n_seen = np.maximum(sum(seen.values()), 1)
    # The group's principal response starts the search, so no subject is the reference.
    u, s, _ = np.linalg.svd(np.concatenate(list(means.values()), axis=1), full_matrices=False)
    reference = np.zeros((len(u), k))
    reference[:, : len(s[:k])] = u[:, :k] * s[:k]
    for _ in range(100):
        maps = {name: _polar(mean.T @ reference) for name, mean in means.items()}
        rotated: Array = sum(means[name] @ maps[name] for name in maps) / n_seen
        moved = np.linalg.norm(rotated - reference)
        reference = rotated
        if moved <= 1e-8 * (np.linalg.norm(reference) or 1.0):
            break
    return maps


def _blocks(covariance: dict[tuple[str, str], Array]) -> tuple[list[str], Array, list[int]]:
    names = list(dict.fromkeys(a for a, _ in covariance))
    full = np.block([[covariance[a, b] for b in names] for a in names])
    ends = np.cumsum([len(covariance[name, name]) for name in names])
    return names, full, list(ends[:-1])


def mcca(covariance: dict[tuple[str, str], Array], k: int, ridge: float) -> dict[str, Array]:
    """Directions of largest summed covariance between subjects, per regularised own variance."""
    names, full, cuts = _blocks(covariance)
    within = np.zeros_like(full)
    for name, index in zip(names, np.split(np.arange(len(full)), cuts), strict=True):
        within[np.ix_(index, index)] = _regularised(covariance[name, name], ridge)
        full[np.ix_(index, index)] = 0
    if k > len(full):
        raise ValueError(
            f"latent_dim={k} exceeds the {len(full)} components of all subjects together. "
            "Lower latent_dim or raise n_components."
        )
    _, vectors = eigh((full + full.T) / 2, within, subset_by_index=[len(full) - k, len(full) - 1])
    vectors = vectors[:, ::-1]
    vectors = vectors * np.sign(vectors.sum(axis=0))
    return dict(zip(names, np.split(vectors, cuts), strict=True))


def _regularised(own: Array, ridge: float) -> Array:
    level = np.trace(own) / len(own)
    regularised: Array = own + (ridge * level + max(1e-8 * level, TOLERANCE)) * np.eye(len(own))
    return regularised


def srm(covariance: dict[tuple[str, str], Array], k: int) -> dict[str, Array]:
    """Orthonormal maps whose images agree best with their mean, by alternation."""
    names, full, cuts = _blocks(covariance)
    full = (full + full.T) / 2
    start = eigh(full)[1][:, ::-1][:, :k]
    start = np.pad(start, ((0, 0), (0, k - start.shape[1])))
    maps = _polars(start, cuts)
    for _ in range(200):
        updated = _polars(full @ maps, cuts)
        moved = np.linalg.norm(updated - maps)
        maps = updated
        if moved <= 1e-7:
            break
    return dict(zip(names, np.split(maps, cuts), strict=True))


_AT_ONCE = 1 << 17
"""Values of bins."""


def features_of(
    paired: PairedWindows, name: str, positions: NDArray[np.int64], kind: Features, root: bool
) -> Array:
    """(Square-root) counts of every window of the given trials, (trial, start, feature)."""
    values = paired.activity(name, positions)
    if root and values.size and values.min() < 0:
        raise ValueError(
            f"LinearAlignment takes square roots of counts, but {name!r} has minimum "
            f"{values.min():.3g}. Give counts, or fit with root=False."
        )
    first, last = paired.first_bins[[0, -1]]
    if kind == "sum":
        sums = np.zeros((len(values), len(paired.first_bins), values.shape[1]))
        # Some trials at a time, so that their roots stay in the processor's cache.
        n = max(_AT_ONCE // max(values[:1].size, 1), 1)
        for some in (slice(begin, begin + n) for begin in range(0, len(values), n)):
            of_bins = np.asarray(values[some], float)
            of_bins = (np.sqrt(of_bins) if root else of_bins).transpose(0, 2, 1)
            for lag in range(paired.width):
                sums[some] += of_bins[:, first + lag : last + lag + 1 : paired.step]
        return sums
    values = np.asarray(values, float)
    values = np.sqrt(values) if root else values
    windows = np.lib.stride_tricks.sliding_window_view(values, paired.width, axis=2)
    windows = windows[:, :, paired.first_bins].swapaxes(1, 2)  # (trial, start, unit, lag)
    return windows.reshape(*windows.shape[:2], -1)
