"""Multinomial logistic regression with balanced classes, of hundreds of small sets of windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, solve_triangular

Array = NDArray[np.float64]
Single = NDArray[np.float32]
Codes = NDArray[np.int64]
Pair = tuple[Array, Array, float]
"""A step, the change of the gradient along it, and their product."""
Solve = Callable[[Array], Array]
"""From a gradient (coordinate, class) to the step of Newton's method."""

_BLOCK = 4096
"""Windows at a time: what is computed of them stays in the processor's cache."""
_ENOUGH = 1e-4
"""Step, in units in which the loss has a curvature of one, that is no longer taken."""
_NEAR = 1e-2
"""Likewise of a fit from which others begin."""
_SURELY = 0.5
"""Of such a step: so short must be the one to come for the last to be taken without a look."""
_MOST_STEPS = 1000
_REMEMBERED = 10
_NOISE = 1e-6
"""Of the loss in single precision."""
_LARGEST_CURVATURE = 600
"""Weights whose curvature is computed."""
_THINNED = 4
"""Of so many windows, which follow each other, one tells where the optimum is about."""
_WINDOWS_PER_WEIGHT = 4
"""With fewer, windows that are left out are missed."""
_SAFE = 40.0
"""Evidence of which no exponential leaves single precision."""


@dataclass(frozen=True)
class Fit:
    """Evidence for each class, ``z @ weights + bias``, up to what all of them have in common."""

    weights: Array
    """(feature, class)."""
    bias: Array
    """(class,)."""


def logistic(parts: Sequence[tuple[Array, Codes]], n_classes: int, C: float) -> Fit:
    """Fit the windows of all parts.

    Parameters
    ----------
    parts
        Features (window, feature) and classes (window,); every class must occur.
    n_classes
        Number of classes.
    C
        Inverse of the penalty: that of `sklearn.linear_model.LogisticRegression` on standardised
        features, with ``class_weight="balanced"``.

    Notes
    -----
    Quasi-Newton steps (L-BFGS) in coordinates in which the loss is round where all classes are as
    likely, so that few are needed; where there are many windows, from the optimum of a part of
    them, with its curvature. They end nearer to the optimum than those of scikit-learn do by its
    default tolerance.
    """
    windows = _Windows(parts, n_classes, C)
    every = range(len(parts))
    start = windows.nothing
    if windows.thinned is not None:
        start = windows.sketch(every)
        start = windows.bent(start, every, windows.bends(start.weights))
    return windows.fit(windows.minimum(windows.every, every, start).weights, every)


def logistic_without(
    parts: Sequence[tuple[Array, Codes]], groups: Sequence[object], n_classes: int, C: float
) -> list[Fit]:
    """Fit the windows of all other groups, for each part; parts of one group share a fit.

    As `logistic` of these parts, but they begin near the optimum of all parts, with its curvature.
    Every class must occur in the parts of every choice.
    """
    windows = _Windows(parts, n_classes, C)
    start = windows.sketch(range(len(parts)))
    bends = windows.bends(start.weights)
    pulls = None if bends is None else windows.pulls(start.weights)
    found = {}
    for group in dict.fromkeys(groups):
        others = [k for k, own in enumerate(groups) if own != group]
        nearer = windows.first_step(windows.bent(start, others, bends), others, pulls)
        found[group] = windows.fit(windows.minimum(windows.every, others, nearer).weights, others)
    return [found[group] for group in groups]


@dataclass(frozen=True)
class _Known:
    """Weights (coordinate, class), and what is known of the curvature of the loss there."""

    weights: Array
    pairs: Sequence[Pair] = ()
    near: Solve | None = None


@dataclass(frozen=True)
class _Sample:
    """Some windows of every part."""

    blocks: list[list[tuple[Single, Codes]]]
    """Of each part: (coordinate, window), and the class of each window."""
    counts: NDArray[np.int64]
    """(part, class)."""
    sums: Array
    """(part, coordinate, class)."""

    @classmethod
    def of(cls, parts: Sequence[tuple[Single, Codes]], n_classes: int) -> _Sample:
        blocks = [
            [
                (np.ascontiguousarray(x[:, b]), y[b])
                for b in (slice(a, a + _BLOCK) for a in range(0, len(y), _BLOCK))
            ]
            for x, y in parts
        ]
        counts = np.array([np.bincount(y, minlength=n_classes) for _, y in parts])
        sums = np.array([[np.bincount(y, row, n_classes) for row in x] for x, y in parts])
        return cls(blocks, counts, sums)

    def weights(self, chosen: Sequence[int]) -> Array:
        """Weight of a window of each class, (class,); all windows together weigh one."""
        counts = self.counts[chosen].sum(0)
        return np.asarray(1 / (len(counts) * counts))

    def weighted(self, chosen: Sequence[int]) -> list[tuple[Single, Single]]:
        """Blocks and the weights of their windows."""
        weight = self.weights(chosen).astype(np.float32)
        return [(x, weight[y]) for k in chosen for x, y in self.blocks[k]]


class _Windows:
    """Windows of several parts in coordinates in which the loss is round at equal odds."""

    def __init__(self, parts: Sequence[tuple[Array, Codes]], n_classes: int, C: float) -> None:
        self.n_classes, self.C = n_classes, float(C)
        counts = np.array([np.bincount(y, minlength=n_classes) for _, y in parts])
        sums = np.array([z.sum(0) for z, _ in parts])
        self.n = counts.sum(1)
        self.mean = sums.sum(0) / self.n.sum()
        apart = [z - self.mean for z, _ in parts]
        self.squares = np.array([np.einsum("ij,ij->j", x, x) for x in apart])
        self.shift = sums - self.n[:, None] * self.mean
        every = range(len(parts))
        weight = 1 / (n_classes * counts.sum(0))
        covariance = np.zeros((len(self.mean), len(self.mean)))
        centre = np.zeros(len(self.mean))
        for x, (_, y) in zip(apart, parts, strict=True):
            weighted = x * weight[y][:, None]
            covariance += weighted.T @ x
            centre += weighted.sum(0)
        covariance -= np.outer(centre, centre)
        scale = self.scale(every)
        own = covariance / np.outer(scale, scale) / n_classes
        # Directions in which nothing varies must not become huge.
        least = max(self.ridge(every), 1e-7 * np.trace(own) / len(own), 1e-12)
        own[np.diag_indices_from(own)] += least
        root = cholesky(own, lower=True, check_finite=False)
        inverse = solve_triangular(root, np.eye(len(own)), lower=True, check_finite=False)
        self.turn = inverse / scale
        """(coordinate, feature)."""
        self.level = float(np.sqrt(n_classes))
        """The coordinate that stands for the bias."""
        turned = []
        for x, (_, y) in zip(apart, parts, strict=True):
            turned.append((np.empty((len(own) + 1, len(y)), np.float32), y))
            turned[-1][0][:-1] = self.turn @ (x - centre).T
            turned[-1][0][-1] = self.level
        self.origin = self.mean + centre
        self.radius = float(np.sqrt(max(np.square(x).sum(0).max() for x, _ in turned)))
        """Length of the longest window."""
        self.every = _Sample.of(turned, n_classes)
        self.nothing = _Known(np.zeros((len(own) + 1, n_classes)))
        self.thinned: _Sample | None = None
        """None where windows are few, or a class has none of these."""
        if self.n.sum() >= _THINNED * _WINDOWS_PER_WEIGHT * self.nothing.weights.size:
            some = _Sample.of([(x[:, ::_THINNED], y[::_THINNED]) for x, y in turned], n_classes)
            self.thinned = some if some.counts.sum(0).all() else None

    def ridge(self, chosen: Sequence[int]) -> float:
        """Penalty of the squared weights of standardised features."""
        # Two classes have one vector of weights elsewhere, and two of half its size here.
        return float((2 if self.n_classes == 2 else 1) / (self.C * self.n[chosen].sum()))

    def scale(self, chosen: Sequence[int]) -> Array:
        """Deviation of each feature, (feature,)."""
        n = self.n[chosen].sum()
        shift = self.shift[chosen].sum(0) / n
        variance = self.squares[chosen].sum(0) / n - shift**2
        level = self.squares.sum(0) / self.n.sum() + self.mean**2
        silent = variance <= 1e-14 * level
        return np.where(silent, 1.0, np.sqrt(np.where(silent, 1.0, variance)))

    def fit(self, solved: Array, chosen: Sequence[int]) -> Fit:
        """Undo the change of coordinates."""
        weights = self.turn.T @ solved[:-1]
        return Fit(weights, self.level * solved[-1] - self.origin @ weights)

    def minimum(
        self, sample: _Sample, chosen: Sequence[int], start: _Known, enough: float = _ENOUGH
    ) -> _Known:
        """Best weights of some parts."""
        penalty = self.penalty(chosen)
        wanted = sample.sums[chosen].sum(0) * sample.weights(chosen)
        wanted_of_all = wanted.sum(axis=1) / self.n_classes
        blocks = sample.weighted(chosen)
        # Memory that is used again stays in the processor's cache.
        space = np.empty(self.n_classes * max(len(w) for _, w in blocks), np.float32)

        def loss(v: Array) -> tuple[float, Array]:
            pull = penalty @ v
            total, slope = float(np.vdot(v, 0.5 * pull - wanted)), pull - wanted
            total += float(v.sum(axis=1) @ wanted_of_all)
            by_class, safe = self.by_class(v)
            for x, w in blocks:
                p = space[: self.n_classes * len(w)].reshape(-1, len(w))
                total += _probabilities(by_class, x, w, safe, p)
                slope += (p @ x.T).T
            return total, _apart(slope)

        return _Known(*_minimum(loss, start.weights, start.pairs, start.near, enough), start.near)

    def by_class(self, v: Array) -> tuple[Single, bool]:
        """Weights (class, coordinate) less what is common to all; can no exponential overflow?"""
        by_class = np.ascontiguousarray(v.T, np.float32)
        by_class -= by_class.sum(axis=0) / self.n_classes
        longest = np.einsum("ij,ij->i", by_class, by_class).max()
        return by_class, bool(self.radius**2 * longest < _SAFE**2)

    def sketch(self, chosen: Sequence[int]) -> _Known:
        """About the best weights of some parts."""
        sample = self.every if self.thinned is None else self.thinned
        return self.minimum(sample, chosen, self.nothing, _NEAR)

    def pulls(self, v: Array) -> Array:
        """How windows of each part change the slope at `v`, (part, coordinate, class)."""
        every = range(len(self.n))
        weight = self.every.weights(every).astype(np.float32)
        by_class, safe = self.by_class(v)
        found = np.zeros((len(every), *v.shape))
        for k in every:
            for x, y in self.every.blocks[k]:
                p = np.empty((self.n_classes, len(y)), np.float32)
                _probabilities(by_class, x, weight[y], safe, p)
                found[k] += (p @ x.T).T
        return found

    def first_step(self, start: _Known, chosen: Sequence[int], pulls: Array | None) -> _Known:
        """Step of some parts by the slope at the start, as if their shares of classes were alike.

        All choices of parts step from one start, so that windows are looked at once for all.
        """
        if start.near is None or pulls is None:
            return start
        slope = self.penalty(chosen) @ start.weights
        slope -= self.every.sums[chosen].sum(0) * self.every.weights(chosen)
        slope += self.share(pulls, chosen)
        return replace(start, weights=start.weights - start.near(_apart(slope)))

    def penalty(self, chosen: Sequence[int]) -> Array:
        """Curvature of the penalty of one class, (coordinate, coordinate)."""
        scaled = self.turn * self.scale(chosen)
        penalty = np.zeros((len(scaled) + 1, len(scaled) + 1))
        penalty[:-1, :-1] = self.ridge(chosen) * scaled @ scaled.T
        return penalty

    def share(self, of_parts: Array | Single, chosen: Sequence[int]) -> Array:
        """What some parts say together, as if their shares of classes were alike."""
        return np.asarray(of_parts[chosen].sum(0) * (self.n.sum() / self.n[chosen].sum()))

    def bends(self, v: Array) -> Single | None:
        """How windows of each part curve the loss at `v`, (part, weight, weight), by class first.

        None where there are too many weights for it.
        """
        if v.size > _LARGEST_CURVATURE:
            return None
        n_coordinates, n_classes = v.shape
        sample = self.every if self.thinned is None else self.thinned
        every = range(len(self.n))
        weight = np.sqrt(sample.weights(every)).astype(np.float32)
        by_class, safe = self.by_class(v)
        found = np.zeros((len(every), v.size, v.size), np.float32)
        for k in every:
            for x, y in sample.blocks[k]:
                p, w = np.empty((n_classes, len(y)), np.float32), weight[y]
                _probabilities(by_class, x, w, safe, p)
                weighted = (p[:, None] * x).reshape(v.size, -1)
                found[k] -= weighted @ weighted.T
                own = weighted @ (w * x).T
                for block in _of_each_class(n_classes, n_coordinates):
                    found[k][block, block] += own[block]
        return found

    def bent(self, start: _Known, chosen: Sequence[int], bends: Single | None) -> _Known:
        """Newton's method for some parts, in place of what steps have shown of the curvature.

        Not where classes are so far apart that no window bends the loss any more than single
        precision tells.
        """
        if bends is None:
            return start
        n_coordinates, n_classes = start.weights.shape
        curvature = self.share(bends, chosen).astype(float)
        penalty = self.penalty(chosen)
        for block in _of_each_class(n_classes, n_coordinates):
            curvature[block, block] += penalty
        # What all classes have in common changes nothing.
        curvature[np.diag_indices_from(curvature)] += 1e-6 * np.trace(curvature) / len(curvature)
        try:
            factor = cho_factor(curvature, lower=True, check_finite=False)
        except LinAlgError:
            return start

        def solve(slope: Array) -> Array:
            step = cho_solve(factor, slope.T.ravel(), check_finite=False)
            return np.asarray(step.reshape(n_classes, n_coordinates).T)

        return _Known(start.weights, (), solve)


def _of_each_class(n_classes: int, n_coordinates: int) -> list[slice]:
    """Weights of each class among all, by class first."""
    return [slice(k * n_coordinates, (k + 1) * n_coordinates) for k in range(n_classes)]


def _apart(slope: Array) -> Array:
    """Slope (coordinate, class) less what all classes have in common, which changes no loss.

    Noise in it would otherwise go far: nothing bends the loss there.
    """
    return np.asarray(slope - slope.mean(axis=1, keepdims=True))


def _probabilities(by_class: Single, x: Single, w: Single, safe: bool, p: Single) -> float:
    """Write the probability of each class times the weight of the window into `p`.

    Gives the weighted sum of the logarithms of what probabilities were divided by.
    """
    total = 0.0
    np.matmul(by_class, x, out=p)
    if not safe:
        most = p.max(axis=0)
        p -= most
        total = float(w @ most)
    np.exp(p, out=p)
    norm = p.sum(axis=0)
    p *= w / norm
    return total + float(w @ np.log(norm))


def _minimum(
    loss: Callable[[Array], tuple[float, Array]],
    v: Array,
    pairs: Sequence[Pair],
    near: Solve | None = None,
    enough: float = _ENOUGH,
) -> tuple[Array, list[Pair]]:
    """L-BFGS from `v`, with a curvature of one where nothing else is known; loss is convex."""
    known = list(pairs)
    value, slope = loss(v)
    before = 0.0
    for _ in range(_MOST_STEPS):
        step = _newton_step(slope, known, near)
        gain = float(np.vdot(slope, step))
        if gain < enough**2:
            break
        if gain * gain < before * (_SURELY * enough) ** 2:
            # As much nearer again as the step before came, and there is nothing more to see.
            return v - step, known
        before = gain
        size = 1.0
        while True:
            further, new_slope = loss(v - size * step)
            if further <= value - 1e-4 * size * gain + _NOISE * abs(value) or size < 1e-6:
                break
            # Where single precision no longer tells values apart, slopes do (Hager & Zhang 2005).
            if further <= value + _NOISE and np.vdot(new_slope, step) >= -0.9998 * gain:
                break
            size /= 2
        moved, bent = -size * step, new_slope - slope
        if (product := float(np.vdot(moved, bent))) > 0:
            known = [*known[-_REMEMBERED + 1 :], (moved, bent, product)]
        v, value, slope = v + moved, further, new_slope
    return v, known


def _newton_step(slope: Array, pairs: Sequence[Pair], near: Solve | None = None) -> Array:
    """Slope over the curvature that steps have shown (Nocedal 1980)."""
    step, shares = slope.copy(), []
    for moved, bent, product in reversed(pairs):
        share = np.vdot(moved, step) / product
        step -= share * bent
        shares.append(share)
    if near is not None:
        step = near(step)
    elif pairs:
        _, bent, product = pairs[-1]
        step *= product / np.vdot(bent, bent)
    for (moved, bent, product), share in zip(pairs, reversed(shares), strict=True):
        step += (share - np.vdot(bent, step) / product) * moved
    return step
