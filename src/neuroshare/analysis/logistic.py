"""Multinomial logistic regression with balanced classes, of hundreds of small sets of windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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
_MOST_STEPS = 1000
_REMEMBERED = 10
_NOISE = 1e-6
"""Of the loss in single precision."""
_LARGEST_CURVATURE = 600
"""Weights whose curvature is computed where fits begin near their optimum."""
_SAMPLED = 4
"""Of so many windows, which follow each other, one tells the curvature."""
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
    likely, so that few are needed. They end nearer to the optimum than those of scikit-learn do by
    its default tolerance.
    """
    every = _Windows(parts, n_classes, C)
    return every.fit(every.minimum(range(len(parts)))[0], range(len(parts)))


def logistic_without(
    parts: Sequence[tuple[Array, Codes]], groups: Sequence[object], n_classes: int, C: float
) -> list[Fit]:
    """Fit the windows of all other groups, for each part; parts of one group share a fit.

    As `logistic` of these parts, but they begin where the fit of all parts ended, with its
    curvature. Every class must occur in the parts of every choice.
    """
    every = _Windows(parts, n_classes, C)
    start, pairs = every.minimum(range(len(parts)), enough=_NEAR)
    near = every.newton(start)
    pairs = [] if near is not None else pairs
    found = {}
    for group in dict.fromkeys(groups):
        others = [k for k, own in enumerate(groups) if own != group]
        found[group] = every.fit(every.minimum(others, start, pairs, near)[0], others)
    return [found[group] for group in groups]


class _Windows:
    """Windows of several parts in coordinates in which the loss is round at equal odds."""

    def __init__(self, parts: Sequence[tuple[Array, Codes]], n_classes: int, C: float) -> None:
        self.n_classes, self.C = n_classes, float(C)
        counts = np.array([np.bincount(y, minlength=n_classes) for _, y in parts])
        sums = np.array([z.sum(0) for z, _ in parts])
        self.counts = counts
        n = counts.sum()
        self.mean = sums.sum(0) / n
        apart = [z - self.mean for z, _ in parts]
        self.squares = np.array([np.einsum("ij,ij->j", x, x) for x in apart])
        self.shift = sums - counts.sum(1)[:, None] * self.mean
        every = range(len(parts))
        weight = self.weights(every)
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
        self.blocks: list[list[tuple[Single, Codes]]] = []
        self.sums_of_classes = np.empty((len(parts), len(self.mean) + 1, n_classes))
        for k, (x, (_, y)) in enumerate(zip(apart, parts, strict=True)):
            turned = np.empty((len(own) + 1, len(y)), np.float32)
            turned[:-1] = self.turn @ (x - centre).T
            turned[-1] = self.level
            for row, sums_of_row in zip(turned, self.sums_of_classes[k], strict=True):
                sums_of_row[:] = np.bincount(y, row, n_classes)
            self.blocks.append(
                [
                    (np.ascontiguousarray(turned[:, b]), y[b])
                    for b in (slice(a, a + _BLOCK) for a in range(0, len(y), _BLOCK))
                ]
            )
        self.origin = self.mean + centre
        lengths = [np.square(x).sum(0).max() for own in self.blocks for x, _ in own]
        self.radius = float(np.sqrt(max(lengths)))
        """Length of the longest window."""

    def weights(self, chosen: Sequence[int]) -> Array:
        """Weight of a window of each class, (class,); all windows together weigh one."""
        return np.asarray(1 / (self.n_classes * self.counts[chosen].sum(0)))

    def ridge(self, chosen: Sequence[int]) -> float:
        """Penalty of the squared weights of standardised features."""
        # Two classes have one vector of weights elsewhere, and two of half its size here.
        return float((2 if self.n_classes == 2 else 1) / (self.C * self.counts[chosen].sum()))

    def scale(self, chosen: Sequence[int]) -> Array:
        """Deviation of each feature, (feature,)."""
        n = self.counts[chosen].sum()
        shift = self.shift[chosen].sum(0) / n
        variance = self.squares[chosen].sum(0) / n - shift**2
        level = self.squares.sum(0) / self.counts.sum() + self.mean**2
        silent = variance <= 1e-14 * level
        return np.where(silent, 1.0, np.sqrt(np.where(silent, 1.0, variance)))

    def fit(self, solved: Array, chosen: Sequence[int]) -> Fit:
        """Undo the change of coordinates."""
        weights = self.turn.T @ solved[:-1]
        return Fit(weights, self.level * solved[-1] - self.origin @ weights)

    def minimum(
        self,
        chosen: Sequence[int],
        start: Array | None = None,
        pairs: Sequence[Pair] = (),
        near: Solve | None = None,
        enough: float = _ENOUGH,
    ) -> tuple[Array, list[Pair]]:
        """Best weights (coordinate, class) of some parts, and what is known of the curvature."""
        weight, penalty = self.weights(chosen), self.penalty(chosen)
        wanted = self.sums_of_classes[chosen].sum(0) * weight
        wanted_of_all = wanted.sum(axis=1) / self.n_classes
        weight = weight.astype(np.float32)

        blocks = [(x, weight[y]) for x, y in self._blocks(chosen)]
        longest = max(len(w) for _, w in blocks)
        # Memory that is used again stays in the processor's cache.
        space = np.empty(self.n_classes * longest, np.float32)

        def loss(v: Array) -> tuple[float, Array]:
            pull = penalty @ v
            total, slope = float(np.vdot(v, 0.5 * pull - wanted)), pull - wanted
            by_class = np.ascontiguousarray(v.T, np.float32)
            # What all classes have in common tells nothing.
            by_class -= by_class.sum(axis=0) / self.n_classes
            safe = self.radius**2 * np.einsum("ij,ij->i", by_class, by_class).max() < _SAFE**2
            total += float(v.sum(axis=1) @ wanted_of_all)
            for x, w in blocks:
                p = space[: self.n_classes * len(w)].reshape(-1, len(w))  # (class, window)
                np.matmul(by_class, x, out=p)
                if not safe:
                    most = p.max(axis=0)
                    p -= most
                    total += float(w @ most)
                np.exp(p, out=p)
                norm = p.sum(axis=0)
                total += float(w @ np.log(norm))
                p *= w / norm
                slope += (p @ x.T).T
            return total, slope

        if start is None:
            start = np.zeros_like(wanted)
        return _minimum(loss, start, pairs, near, enough)

    def penalty(self, chosen: Sequence[int]) -> Array:
        """Curvature of the penalty of one class, (coordinate, coordinate)."""
        scaled = self.turn * self.scale(chosen)
        penalty = np.zeros((len(scaled) + 1, len(scaled) + 1))
        penalty[:-1, :-1] = self.ridge(chosen) * scaled @ scaled.T
        return penalty

    def newton(self, v: Array) -> Solve | None:
        """Newton's method near `v`, of all parts.

        None where there are too many weights for it, and where classes are so far apart that no
        window bends the loss any more than single precision tells.
        """
        n_coordinates, n_classes = v.shape
        if v.size > _LARGEST_CURVATURE:
            return None
        every = range(len(self.blocks))
        weight = (_SAMPLED * self.weights(every)).astype(np.float32)
        by_class = np.ascontiguousarray(v.T, np.float32)
        curvature = np.zeros((v.size, v.size))  # by class, then coordinate
        own = np.zeros((v.size, n_coordinates))
        for whole, classes in self._blocks(every):
            x, w = whole[:, ::_SAMPLED], weight[classes[::_SAMPLED]]
            p = by_class @ x
            p = np.exp(p - p.max(axis=0))
            p /= p.sum(axis=0)
            part = (p[:, None] * x).reshape(v.size, -1)
            weighted = part * w
            curvature -= weighted @ part.T
            own += weighted @ x.T
        penalty = self.penalty(every)
        for k in range(n_classes):
            block = slice(k * n_coordinates, (k + 1) * n_coordinates)
            curvature[block, block] += own[block] + penalty
        # What all classes have in common changes nothing.
        curvature[np.diag_indices_from(curvature)] += 1e-6 * np.trace(curvature) / v.size
        try:
            factor = cho_factor(curvature, lower=True, check_finite=False)
        except LinAlgError:
            return None

        def solve(slope: Array) -> Array:
            step = cho_solve(factor, slope.T.ravel(), check_finite=False)
            return np.asarray(step.reshape(n_classes, n_coordinates).T)

        return solve

    def _blocks(self, chosen: Sequence[int]) -> Iterator[tuple[Single, Codes]]:
        for k in chosen:
            yield from self.blocks[k]


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
    for _ in range(_MOST_STEPS):
        step = _newton_step(slope, known, near)
        gain = float(np.vdot(slope, step))
        if gain < enough**2:
            break
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
