"""Where every subject's networks start: at aligned linear maps, and a linear read-out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroshare.linear import LinearAlignment, Method, mcca, mcca_of_means
from neuroshare.recordings.binning import in_chunks
from neuroshare.recordings.pairing import PairedWindows

Array = NDArray[np.float64]
_TOLERANCE = 1e-10
_MANY_UNITS = 1000
"""Of all subjects together; the matrix of their covariances is not made beyond."""


@dataclass(frozen=True)
class Start:
    """Where one subject's networks start: encoder ``(x - loc) / scale @ weights``, decoder."""

    loc: Array  # (unit,)
    scale: Array  # (unit,)
    weights: Array  # (unit, latent)
    readout: Array  # (latent, unit), change of the log rate

    def codes(self, features: Array) -> Array:
        """Latents (..., latent) of features (..., unit)."""
        return (features - self.loc) / self.scale @ self.weights


def linear_starts(
    train: PairedWindows,
    latent_dim: int,
    root: Mapping[str, bool],
    method: Method = "mcca",
    ridge: float = 2.0,
    scaling: float = 0.5,
    sharing: float = 0.25,
    spread: float = 0.15,
    seed: int = 0,
) -> dict[str, Start]:
    """Aligned linear maps of pooled windows, and the read-out of counts from others' latents.

    Features are the square root (where `root`) of each unit's count in the window. They are
    divided by their deviation to the power `scaling`, a compromise between the scale on which
    counts have equal noise (0) and equal variance for all units (1), and multiplied by the share
    of their variance which the latents of the other subjects explain, to the power `sharing`.
    MCCA in the full feature space follows. Every pair of trials of one condition counts, which is
    the limit of redrawing partners for ever: covariances between subjects are those of their
    condition-by-time means.

    The read-out is one Newton step of a Poisson regression of each unit on the mean latent of the
    other subjects, with a normal prior of deviation `spread` on its weights.
    """
    train = train.thinned()
    moments = {name: _moments(train, name, root[name]) for name in train.subjects}
    means = {name: found.means for name, found in moments.items()}
    seen = {name: found.seen for name, found in moments.items()}
    scale = {}
    for name, found in moments.items():
        variance = found.variance + 0.05 * found.variance.mean() + _TOLERANCE
        scale[name] = variance ** (scaling / 2)
    if method == "mcca":
        maps = _aligned(moments, scale, min(latent_dim, 4), ridge)
        latents = {n: means[n] @ maps[n] for n in means}
        for name in moments:
            shared = _others(latents, seen, name)
            there = seen[name] & ~np.isnan(shared[:, 0, 0])
            z = shared[there].reshape(-1, shared.shape[2])
            m = means[name][there].reshape(len(z), -1)
            u, s, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
            u = u[:, s > 1e-6 * s[:1].sum()]
            explained = np.square(u.T @ (m - m.mean(0))).sum(0) / len(m)
            total = np.diag(moments[name].second)
            share = (explained + 1e-6) / (total + 1e-3 * total.mean() + _TOLERANCE)
            scale[name] = scale[name] / share**sharing
        maps = _aligned(moments, scale, latent_dim, ridge)
        weights = {name: maps[name] * scale[name][:, None] for name in moments}
    else:
        aligned = LinearAlignment(method=method, latent_dim=latent_dim, seed=seed).fit(train)
        weights = {}
        for name, found in moments.items():
            # Learned on sums of roots; the roots of sums, standardised, stand in for them.
            weights[name] = aligned.encoders_[name].weights
            scale[name] = np.sqrt(np.maximum(np.diag(found.covariance), 0)) + _TOLERANCE
    latents = {n: means[n] / scale[n] @ weights[n] for n in moments}
    starts = {}
    n_independent = 1 + (train.starts[-1] - train.starts[0]) / train.width
    for name, found in moments.items():
        z = _others(latents, seen, name)
        there = seen[name] & ~np.isnan(z[:, 0, 0])
        z = z[there]
        rate = found.rate + 0.5 / found.n_trials
        cells = found.counts[there]
        # Codes of single windows vary far more than their condition means.
        variance = 1.09 * np.eye(latent_dim)
        product = np.einsum("csk,csu->ku", z - z.mean((0, 1)), cells - cells.mean((0, 1)))
        product /= z.shape[0] * z.shape[1]
        n = found.n_trials * n_independent
        precision = n * rate[:, None, None] * variance + np.eye(latent_dim) / spread**2
        readout = np.linalg.solve(precision, n * product.T[:, :, None])[..., 0].T
        starts[name] = Start(found.loc, scale[name], weights[name], readout)
    return starts


def code_gains(
    train: PairedWindows,
    latent_dim: int,
    root: Mapping[str, bool],
    method: Method = "mcca",
    n_splits: int = 4,
    seed: int = 0,
) -> tuple[Array, Array, Array] | None:
    """How far codes of one subject tell the activity of another, between trials.

    Maps and read-outs are learned on three quarters of the trials and looked at on the rest, since
    aligned codes agree better on the trials that aligned them. To second order in the log rate, the
    Poisson likelihood of a target's counts under the read-out of a source's code times g is
    ``g @ target - g @ single @ g / 2``; for the mean of n sources' codes ``single`` becomes
    ``(single + (n - 1) crossed) / n``.

    Returns
    -------
    target (latent,), single and crossed (latent, latent)
        Sums over pairs of subjects. None with fewer than two trials of any condition, or one
        subject.
    """
    if len(train.subjects) < 2 or any(
        min(np.unique(train.labels[name][train.trials[name]], return_counts=True)[1]) < 2
        for name in train.subjects
    ):
        return None
    target = np.zeros(latent_dim)
    single, crossed = np.zeros((2, latent_dim, latent_dim))
    n_others = len(train.subjects) - 1
    for split in range(n_splits):
        fitted, out = train.split(1 / n_splits, seed=seed + split)
        starts = linear_starts(fitted, latent_dim, root, method=method, seed=seed)
        out = out.thinned()
        codes, spread, counts, rate = {}, {}, {}, {}
        for name in out.subjects:
            positions = out.trials[name]
            member = out.labels[name][positions][:, None] == np.array(train.conditions)
            found = member.sum(0)
            mean = member / np.maximum(found, 1)
            centre = mean.sum(1) / (found > 0).sum()  # every condition weighs the same
            pieces, cells = [], 0.0
            for trials, sums in _in_pieces(out, name):
                pieces.append(starts[name].codes(np.sqrt(sums) if root[name] else sums))
                cells = cells + np.einsum("ic,isu->csu", mean[trials], sums)
            z = np.concatenate(pieces)
            z = z - np.einsum("i,isk->k", centre, z) / z.shape[1]
            codes[name] = np.einsum("ic,isk->csk", mean, z)
            spread[name] = np.einsum("i,isk,isl->kl", centre, z, z) / z.shape[1]
            rate[name] = np.sum(cells, axis=(0, 1)) / (found > 0).sum() / z.shape[1]
            counts[name] = cells - (found > 0)[:, None, None] * rate[name]
        n_cells = codes[name].shape[0] * codes[name].shape[1]
        products = {n: np.einsum("csk,csl->kl", z, z) for n, z in codes.items()}
        all_codes, all_products, all_spread = (
            np.sum(list(part.values()), axis=0) for part in (codes, products, spread)
        )
        for name, start in starts.items():
            weighted = (start.readout * rate[name]) @ start.readout.T
            driven = np.einsum("ku,csu->csk", start.readout, counts[name])
            others = all_codes - codes[name]
            each = all_products - products[name]
            target += np.einsum("csk,csk->k", others, driven) / n_cells
            single += weighted * (all_spread - spread[name])
            together = np.einsum("csk,csl->kl", others, others) - each
            crossed += weighted * together / n_cells / max(n_others - 1, 1)
    if n_others == 1:
        crossed = single
    # Latents that drive nothing keep a gain of one.
    floor = 1e-3 * np.trace(single) / latent_dim + _TOLERANCE
    return target + floor, single + floor * np.eye(latent_dim), crossed + floor * np.eye(latent_dim)


@dataclass(frozen=True)
class _Moments:
    """What the start needs of one subject's features x and counts, with `loc` taken from x."""

    n_trials: int
    seen: NDArray[np.bool_]  # (condition,)
    loc: Array  # (unit,), where every condition weighs the same
    variance: Array  # (unit,), likewise
    means: Array  # (condition, start, unit), zero where the condition is not seen
    second: Array  # (unit, unit), mean product over windows
    covariance: Array  # (unit, unit), of windows
    rate: Array  # (unit,), counts per window
    counts: Array  # (condition, start, unit), their means


def _moments(train: PairedWindows, name: str, root: bool) -> _Moments:
    """Read the counts once, some trials at a time: there may be more than memory holds."""
    labels = train.labels[name][train.trials[name]]
    positions = np.array([train.conditions.index(label) for label in labels])
    found = np.bincount(positions, minlength=len(train.conditions))
    seen = found > 0
    member = np.eye(len(found))[positions]
    n_windows = len(labels) * len(train.starts)
    near: Array | None = None
    features = counts = second = squares = np.zeros(())
    for trials, sums in _in_pieces(train, name):
        x = np.sqrt(sums) if root else sums
        if near is None:  # sums of squares lose their digits far from zero
            near = x.mean((0, 1))
        x = x - near
        of = member[trials]
        counts = counts + np.einsum("ic,isu->csu", of, sums, optimize=True)
        features = features + np.einsum("ic,isu->csu", of, x, optimize=True)
        squares = squares + np.einsum("ic,iu->cu", of, np.square(x).sum(1), optimize=True)
        rows = x.reshape(-1, x.shape[2])
        second = second + rows.T @ rows
    assert near is not None
    mean = features.sum((0, 1)) / n_windows
    second = second / n_windows
    each = np.maximum(found, 1)[:, None, None]
    means = features / each
    shift = means.sum(0).mean(0) / seen.sum()
    square = (squares / each[:, 0]).sum(0) / seen.sum() / len(train.starts)
    crossed = np.outer(mean, shift)
    return _Moments(
        n_trials=len(labels),
        seen=seen,
        loc=near + shift,
        variance=np.maximum(square - shift**2, 0),
        means=np.where(seen[:, None, None], means - shift, 0.0),
        second=second - crossed - crossed.T + np.outer(shift, shift),
        covariance=second - np.outer(mean, mean),
        rate=counts.sum((0, 1)) / n_windows,
        counts=counts / each,
    )


def _in_pieces(paired: PairedWindows, name: str) -> Iterator[tuple[slice, Array]]:
    """Window sums of some of the paired trials at a time, and which of them these are."""
    used = paired.trials[name]
    _, n_units, n_bins = paired.counts[name].shape
    done = 0
    for trials in in_chunks(used, n_units * n_bins):
        yield slice(done, done + len(trials)), window_sums(paired, name, trials)
        done += len(trials)


def window_sums(paired: PairedWindows, name: str, positions: NDArray[np.int64]) -> Array:
    """Activity of each unit summed over every window of the given trials, (trial, start, unit)."""
    values = paired.counts[name].values[positions].transpose(0, 2, 1)
    first, last = paired.starts[[0, -1]]
    sums = np.zeros((len(positions), len(paired.starts), values.shape[2]))
    for lag in range(paired.width):
        sums += values[:, first + lag : last + lag + 1 : paired.step]
    return sums


def _others(latents: dict[str, Array], seen: dict[str, NDArray[np.bool_]], name: str) -> Array:
    """Mean latents of all subjects but one, (condition, start, latent); NaN where none is there."""
    rest = [n for n in latents if n != name]
    n_seen = np.sum([seen[n] for n in rest], axis=0)
    total = np.sum([latents[n] for n in rest], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Array = total / n_seen[:, None, None]
    mean[n_seen == 0] = np.nan
    return mean


def _aligned(
    moments: dict[str, _Moments], scale: dict[str, Array], k: int, ridge: float
) -> dict[str, Array]:
    """MCCA of all features, between condition-by-time means; maps of unscaled features."""
    n_units = sum(len(found.second) for found in moments.values())
    if n_units > _MANY_UNITS and all(found.seen.all() for found in moments.values()):
        means = {
            n: (found.means / scale[n]).reshape(-1, len(found.second))
            for n, found in moments.items()
        }
        own = {n: found.second / np.outer(scale[n], scale[n]) for n, found in moments.items()}
        return _unscaled(mcca_of_means(means, own, k, ridge), moments, scale)
    covariance = {}
    for a, one in moments.items():
        covariance[a, a] = one.second / np.outer(scale[a], scale[a])
        for b, other in moments.items():
            if a != b:
                both = one.seen & other.seen
                ma, mb = one.means[both] / scale[a], other.means[both] / scale[b]
                n = max(both.sum() * ma.shape[1], 1)
                covariance[a, b] = np.einsum("csu,csv->uv", ma, mb, optimize=True) / n
    return _unscaled(mcca(covariance, k, ridge), moments, scale)


def _unscaled(
    maps: dict[str, Array], moments: dict[str, _Moments], scale: dict[str, Array]
) -> dict[str, Array]:
    """Maps of features as they are, to codes of unit variance."""
    for name, found in moments.items():
        maps[name] = maps[name] / scale[name][:, None]
        variance = np.einsum("uk,uv,vk->k", maps[name], found.covariance, maps[name], optimize=True)
        spread = np.sqrt(np.maximum(variance, 0))
        spread[spread < _TOLERANCE] = 1.0
        maps[name] = maps[name] / spread
    return maps
