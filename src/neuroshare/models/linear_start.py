"""Where every subject's networks start: at aligned linear maps, and a linear read-out."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, eigh, solve_triangular
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from neuroshare.models.alignment import Array
from neuroshare.models.inputs import Inputs, Statistics, all_sums, as_tensor, grouped_sums
from neuroshare.models.linear import LinearAlignment, Method
from neuroshare.models.moments import TOLERANCE, Moments, moments_of
from neuroshare.models.readout import VARIANCE, curvature_of, log_linear, trusted
from neuroshare.vae.likelihoods import Likelihood
from neuroshare.windows.paired import PairedWindows

_COMPONENTS, _RIDGE = 40, 0.5
"""Of the alignments that are not weighed feature by feature."""
FIRST_LATENTS = 4
"""Of a first map, by which features are weighed that others explain."""
_MANY = 1000
"""Dimensions of all subjects together; the matrix of their products is not made beyond."""


@dataclass(frozen=True)
class SubjectStart:
    """Where the networks of one subject begin, in their precision."""

    rate: Tensor
    """Mean activity, (lag x unit,)."""
    loc: Tensor
    """Mean of what the encoder sees, (feature,)."""
    scale: Tensor
    """Its deviation, (feature,)."""
    lags: tuple[Tensor, Tensor] | None = None
    """Likewise of every lag, for an encoder of one's own beside pooled inputs."""
    weights: Tensor | None = None
    """Linear map of what the encoder sees, (feature, latent); None for a random start."""
    bias: Tensor | None = None
    readout: Tensor | None = None
    """Linear map from latents to changes of the log rate, (latent, unit)."""

    @classmethod
    def of_map(
        cls, seen: Statistics, weights: Array, bias: Array, *, standardised: bool
    ) -> SubjectStart:
        """Begin at a linear map of (root) activity, weights (feature, latent) and bias."""
        if standardised:
            bias = bias + seen.loc.double().numpy() @ weights
            weights = weights * seen.scale.double().numpy()[:, None]
        return cls(
            seen.rate, seen.loc, seen.scale, weights=as_tensor(weights), bias=as_tensor(bias)
        )


@dataclass(frozen=True)
class Starts:
    """Where the networks of all subjects begin."""

    subjects: dict[str, SubjectStart]
    gains: tuple[Tensor, Tensor, Tensor] | None = None
    """Of `code_gains`, where they were asked for and trials suffice."""


def starts_of(
    train: PairedWindows,
    latent_dim: int,
    inputs: Inputs,
    likelihoods: Mapping[str, Likelihood],
    *,
    method: Method | None = "mcca",
    weighting: Weighting | None = None,
    alone: bool = False,
    gains: bool = False,
    of_lags: Collection[str] = (),
    seed: int = 0,
) -> Starts:
    """Look where the networks are to begin: a function of windows and settings alone.

    Parameters
    ----------
    train
        Training windows.
    latent_dim
        Number of shared latents.
    inputs
        What encoders see.
    likelihoods
        Of each subject.
    method
        Of the alignment; None leaves the networks at random weights.
    weighting
        Of the features in the alignment; by default the first of `WEIGHTINGS`.
    alone
        Start every subject at a map of its own, which knows nothing of the others.
    gains
        Whether to measure `code_gains`, for which a map of the whole start is needed.
    of_lags
        Subjects whose encoders see every lag beside pooled inputs.
    seed
        Of redrawn pairings and of the splits.
    """
    roots = {name: inputs.takes_root(likelihoods[name]) for name in train.subjects}
    n_groups = inputs.n_groups(train.width)
    found: dict[str, SubjectStart] = {}
    measured = None
    maps: dict[str, LinearStart] = {}
    aligned = None
    most = n_groups * max(len(ids) for ids in train.units.values())
    if method is not None and inputs.kind != "raw" and (inputs.pooled or most <= MOST_FEATURES):
        start = partial(
            linear_starts,
            latent_dim=latent_dim,
            root=roots,
            likelihoods=likelihoods,
            method=method,
            n_groups=n_groups,
            weighting=weighting,
            alone=alone,
            seed=seed,
        )
        maps = start(train)
        looked = None
        if gains:
            looked = code_gains(train, latent_dim, roots, start, likelihoods, n_groups, seed)
        if looked is not None:
            moments, trust = looked
            target, single, crossed = map(as_tensor, moments)
            measured = (target, single, crossed)
            for name, of_units in trust.items():
                maps[name] = replace(maps[name], readout=maps[name].readout * of_units)
    elif method is not None and not alone:
        aligned = LinearAlignment(method, latent_dim, _COMPONENTS, _RIDGE, root=roots, seed=seed)
        aligned.fit(train)
    for name, root in roots.items():
        seen = inputs.statistics(train, name, root=root)
        if name in maps:
            begin = maps[name].of_networks(seen.rate)
        elif aligned is not None:
            mean, scale, weights = aligned.encoder(name)
            weights = weights / scale[:, None]
            begin = SubjectStart.of_map(
                seen,
                _lag_major(weights, train.width),
                -mean @ weights,
                standardised=inputs.kind != "raw",
            )
        else:
            begin = SubjectStart(seen.rate, seen.loc, seen.scale)
        found[name] = begin
        if inputs.pooled and name in of_lags:
            found[name] = replace(begin, lags=lags_of(train, name, inputs, root=root))
    return Starts(found, measured)


def lags_of(
    train: PairedWindows, name: str, inputs: Inputs, *, root: bool
) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every lag of the (root) activity, (lag x unit,)."""
    seen = inputs.statistics(train, name, root=root, pooled=False)
    return seen.loc, seen.scale


def _lag_major(weights: Array, width: int) -> Array:
    """(unit x lag, latent) -> (lag x unit, latent)."""
    n_latents = weights.shape[1]
    return np.ascontiguousarray(
        weights.reshape(-1, width, n_latents).transpose(1, 0, 2).reshape(-1, n_latents)
    )


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

    def of_networks(self, rate: Tensor) -> SubjectStart:
        """In the precision of the networks."""
        return SubjectStart(
            rate,
            as_tensor(self.loc),
            as_tensor(self.scale),
            weights=as_tensor(self.weights),
            bias=as_tensor(np.zeros(self.weights.shape[1])),
            readout=as_tensor(self.readout),
        )


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
    seed: int = 0,
) -> dict[str, LinearStart]:
    """Aligned linear maps of pooled windows, and the read-out of counts from others' latents.

    Features are the square root (where `root`) of each unit's count in each of `n_groups`
    consecutive parts of the window. MCCA of all of them follows, see `aligned_maps`. Every pair of
    trials of one condition counts, which is the limit of redrawing partners for ever: covariances
    between subjects are those of their condition-by-time means.

    The read-out is a Poisson regression of each unit on the mean latent of the other subjects (its
    own, if `alone`), with a normal prior of deviation `spread` on its weights, see `log_linear`.
    Where activity is no counts, it is one Newton step of that of the link of `likelihoods`.
    """
    train = train.thinned()
    moments = {name: moments_of(train, name, root[name], n_groups) for name in train.subjects}
    means = {name: found.means for name, found in moments.items()}
    seen = {name: found.seen for name, found in moments.items()}
    if alone or method == "mcca":
        maps = maps_of(moments, weighting or WEIGHTINGS[0], latent_dim, alone=alone, seed=seed)
    else:
        aligned = LinearAlignment(method, latent_dim, _COMPONENTS, _RIDGE, seed=seed).fit(train)
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
        if likelihood is None or likelihood.counts:
            readout = log_linear(z, cells, rate, n, spread)
        scale = found.seen_scale
        starts[name] = LinearStart(found.loc, scale, maps[name] * scale[:, None], readout, slope)
    return starts


def code_gains(
    train: PairedWindows,
    latent_dim: int,
    root: Mapping[str, bool],
    start: Callable[[PairedWindows], dict[str, LinearStart]] | None = None,
    likelihoods: Mapping[str, Likelihood] | None = None,
    n_groups: int = 1,
    seed: int = 0,
    n_splits: int = 4,
) -> tuple[tuple[Array, Array, Array], dict[str, Array]] | None:
    """How far codes of one subject predict the activity of another, between trials.

    Maps and read-outs are learned on three quarters of the trials and looked at on the rest, since
    aligned codes agree better on the trials that aligned them. To second order in the log rate, the
    Poisson likelihood of a target's counts under the slopes of a source's code times g is
    ``g @ target - g @ single @ g / 2``; for the mean of n sources' codes ``single`` becomes
    ``(single + (n - 1) crossed) / n``; likewise for other `likelihoods`, in their outputs. `start`
    learns maps from training windows.

    Returns
    -------
    target (latent,), single and crossed (latent, latent)
        Sums over pairs of subjects.
    trust
        By subject, what to multiply the read-out of each unit by, (unit,); see `trusted`.

    None with fewer than two trials of any condition, or one subject.
    """
    shown = [np.unique(train.codes(name), return_counts=True)[1] for name in train.subjects]
    if len(shown) < 2 or min(map(min, shown)) < 2:
        return None
    start = start or partial(linear_starts, latent_dim=latent_dim, root=root)
    target = np.zeros(latent_dim)
    single, crossed = np.zeros((2, latent_dim, latent_dim))
    n_others = len(train.subjects) - 1
    folds = []
    for split in range(n_splits):
        fitted, out = train.split(1 / n_splits, seed=seed + split)
        starts = start(fitted)
        out = out.thinned()
        codes, spread, counts, rate = {}, {}, {}, {}
        of_trials = {}
        for name in out.subjects:
            member = out.codes(name)[:, None] == np.arange(len(train.conditions))
            found = member.sum(0)
            mean = member / np.maximum(found, 1)
            centre = mean.sum(1) / (found > 0).sum()  # every condition weighs the same
            pieces, cells = [], 0.0
            for trials, sums in grouped_sums(out, name, n_groups):
                pieces.append(starts[name].codes(np.sqrt(sums) if root[name] else sums))
                cells = cells + np.einsum("ic,isu->csu", mean[trials], sums)
            z = np.concatenate(pieces)
            z = z - np.einsum("i,isk->k", centre, z) / z.shape[1]
            of_trials[name] = z
            codes[name] = np.einsum("ic,isk->csk", mean, z)
            spread[name] = np.einsum("i,isk,isl->kl", centre, z, z) / z.shape[1]
            rate[name] = np.sum(cells, axis=(0, 1)) / (found > 0).sum() / z.shape[1]
            counts[name] = cells - (found > 0)[:, None, None] * rate[name]
        n_cells = codes[name].shape[0] * codes[name].shape[1]
        products = {n: np.einsum("csk,csl->kl", z, z) for n, z in codes.items()}
        all_codes, all_products, all_spread = (
            np.sum(list(part.values()), axis=0) for part in (codes, products, spread)
        )
        for name, found_start in starts.items():
            slope = found_start.slope
            likelihood = None if likelihoods is None else likelihoods[name]
            curvature = curvature_of(likelihood, rate[name], train.width // n_groups)
            weighted = (slope * curvature) @ slope.T
            driven = np.einsum("ku,csu->csk", slope, counts[name])
            others = all_codes - codes[name]
            each = all_products - products[name]
            target += np.einsum("csk,csk->k", others, driven) / n_cells
            single += weighted * (all_spread - spread[name])
            together = np.einsum("csk,csl->kl", others, others) - each
            crossed += weighted * together / n_cells / max(n_others - 1, 1)
        folds.append((out, of_trials, starts, rate))
    if n_others == 1:
        crossed = single
    # Latents that drive nothing keep a gain of one.
    floor = 1e-3 * np.trace(single) / latent_dim + TOLERANCE
    target += floor
    single = single + floor * np.eye(latent_dim)
    crossed = crossed + floor * np.eye(latent_dim)
    # That of the mean of all others, as `MMVM.gain` has it.
    gain = np.linalg.solve((single + (n_others - 1) * crossed) / n_others, target).clip(0)
    trust = {}
    for name in train.subjects:
        if likelihoods is not None and not likelihoods[name].counts:
            continue
        trust[name] = trusted(
            (
                _mean_of_others(out, name, z) * gain @ starts[name].readout,
                rate[name],
                _partner_sums(out, name, n_groups),
            )
            for out, z, starts, rate in folds
        )
    return (target, single, crossed), trust


def _mean_of_others(paired: PairedWindows, name: str, codes: Mapping[str, Array]) -> Array:
    """Mean code of the other partners of a subject's trials, (row, start, latent)."""
    column = {n: k for k, n in enumerate(paired.subjects)}
    rows = paired.partners[paired.partners[:, column[name]] >= 0]
    n_latents = codes[name].shape[2]
    total, found = np.zeros((len(rows), len(paired.first_bins), n_latents)), np.zeros(len(rows))
    for other, z in codes.items():
        if other != name:
            there = rows[:, column[other]] >= 0
            total += np.where(there[:, None, None], z[rows[:, column[other]]], 0.0)
            found += there
    return np.asarray(total / np.maximum(found, 1)[:, None, None])


def _partner_sums(paired: PairedWindows, name: str, n_groups: int) -> Array:
    """Sums of a subject's trials in the order of rows, (row, start, part x unit)."""
    column = paired.subjects.index(name)
    rows = paired.partners[:, column]
    return np.asarray(all_sums(paired, name, n_groups)[rows[rows >= 0]])


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
