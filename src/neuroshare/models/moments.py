"""What a start needs to know of the windows: with their conditions, and before these are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroshare.models.alignment import Array
from neuroshare.models.inputs import all_sums, grouped_sums
from neuroshare.windows.paired import PairedWindows

TOLERANCE = 1e-10


@dataclass(frozen=True)
class Moments:
    """What the start needs of one subject's features x and counts, with `loc` taken from x."""

    n_trials: int
    seen: NDArray[np.bool_]  # (condition,)
    loc: Array  # (feature,), where every condition weighs the same
    variance: Array  # (feature,), likewise
    means: Array  # (condition, start, feature), zero where the condition is not seen
    windows: Array  # (feature, feature), mean product over windows
    trials: Array  # (feature, feature), mean product of the means of whole trials
    covariance: Array  # (feature, feature), of windows
    rate: Array  # (feature,), counts per window
    counts: Array  # (condition, start, feature), their means

    @property
    def seen_scale(self) -> Array:
        """By what the network beside the map divides, (feature,).

        It sees features between equal noise and equal variance.
        """
        return np.asarray((self.variance + 0.05 * self.variance.mean() + TOLERANCE) ** 0.25)


def moments_of(train: PairedWindows, name: str, root: bool, n_groups: int = 1) -> Moments:
    """Read the counts once, some trials at a time: there may be more than memory holds."""
    codes, n_conditions = train.codes(name), len(train.conditions)
    near: Array | None = None
    read: list[Unlabelled] = []
    sums: list[Array] = []
    for trials, counts in grouped_sums(train, name, n_groups):
        x = np.sqrt(counts) if root else counts
        near = x.mean((0, 1)) if near is None else near
        part = Unlabelled.of(x, counts, near)
        found = part.by_condition(codes[trials], n_conditions)
        # What is as large as the counts themselves is not kept.
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
        read = [part.without_windows() if not read else read[0].with_more(part)]
    return read[0].moments(codes, n_conditions, sums)


@dataclass(frozen=True)
class Unlabelled:
    """What `Moments` are made of that no condition changes, of one subject."""

    near: Array
    """Taken from features: sums of squares lose their digits far from zero."""
    x: Array
    """Features, (trial, start, feature)."""
    counts: Array
    """(trial, start, feature)."""
    squares: Array
    """Sums over starts, (trial, feature)."""
    second: Array
    """Sum of products over windows, (feature, feature)."""
    whole: Array
    """Sum of products of the means of whole trials, (feature, feature)."""

    @classmethod
    def of(cls, x: Array, counts: Array, near: Array | None = None) -> Unlabelled:
        """Look at features and counts (trial, start, feature)."""
        near = x.mean((0, 1)) if near is None else near
        x = x - near
        rows, of_trials = x.reshape(-1, x.shape[2]), x.mean(1)
        squares = np.einsum("isu,isu->iu", x, x)
        return cls(near, x, counts, squares, rows.T @ rows, of_trials.T @ of_trials)

    def without_windows(self) -> Unlabelled:
        """Keep the products alone."""
        none = np.zeros((0, *self.x.shape[1:]))  # a part of them would keep all of them
        return Unlabelled(self.near, none, none, none[:, 0], self.second, self.whole)

    def with_more(self, part: Unlabelled) -> Unlabelled:
        """Add the products of further trials."""
        second, whole = self.second + part.second, self.whole + part.whole
        return Unlabelled(self.near, self.x, self.counts, self.squares, second, whole)

    def by_condition(self, codes: NDArray[np.int64], n_conditions: int) -> list[Array]:
        """Sums over the trials of each condition, of features, counts and squares."""
        member = np.eye(n_conditions)[:, codes]
        return [
            (member @ values.reshape(len(codes), -1)).reshape(n_conditions, *values.shape[1:])
            for values in (self.x, self.counts, self.squares)
        ]

    def moments(
        self,
        codes: NDArray[np.int64],
        n_conditions: int,
        sums: Sequence[Array] | None = None,
    ) -> Moments:
        """Moments under these conditions of the trials.

        Parameters
        ----------
        codes
            Condition of every trial, (trial,).
        n_conditions
            Of all subjects.
        sums
            Of `by_condition`, where windows are no longer here.
        """
        features, counts, squares = sums or self.by_condition(codes, n_conditions)
        found = np.bincount(codes, minlength=n_conditions)
        seen = found > 0
        n_starts = features.shape[1]
        n_windows = len(codes) * n_starts
        mean = features.sum((0, 1)) / n_windows
        second, whole = self.second / n_windows, self.whole / len(codes)
        each = np.maximum(found, 1)[:, None, None]
        means = features / each
        shift = means.sum(0).mean(0) / seen.sum()
        square = (squares / each[:, 0]).sum(0) / seen.sum() / n_starts
        crossed = np.outer(mean, shift)
        about = np.outer(shift, shift) - crossed - crossed.T
        return Moments(
            n_trials=len(codes),
            seen=seen,
            loc=self.near + shift,
            variance=np.maximum(square - shift**2, 0),
            means=np.where(seen[:, None, None], means - shift, 0.0),
            windows=second + about,
            trials=whole + about,
            covariance=second - np.outer(mean, mean),
            rate=counts.sum((0, 1)) / n_windows,
            counts=counts / each,
        )


class Features:
    """What encoders see of thinned windows, read once for all folds of their trials.

    Parameters
    ----------
    whole
        Windows that hold the trials of all folds.
    roots
        Whether the encoder of a subject sees square roots.
    n_groups
        Parts of the window.
    """

    def __init__(self, whole: PairedWindows, roots: Mapping[str, bool], n_groups: int) -> None:
        self.roots = roots
        self.x: dict[str, Array] = {}
        self.positions: dict[str, NDArray[np.int64]] = {}
        for name, root in roots.items():
            sums = all_sums(whole.thinned(), name, n_groups)
            self.x[name] = np.sqrt(sums, out=sums) if root else sums
            self.positions[name] = whole.trials[name]

    def of(self, fold: PairedWindows) -> dict[str, tuple[Array, NDArray[np.int64]]]:
        """Features (trial, start, feature) of the trials of a fold, and their conditions."""
        return {
            name: (self.x[name][self._rows(fold, name)], fold.codes(name)) for name in self.roots
        }

    def moments(self, fold: PairedWindows) -> dict[str, Moments]:
        """Moments of the trials of a fold."""
        found = {}
        for name, (x, codes) in self.of(fold).items():
            counts = np.rint(np.square(x)) if self.roots[name] else x
            found[name] = Unlabelled.of(x, counts).moments(codes, len(fold.conditions))
        return found

    def _rows(self, fold: PairedWindows, name: str) -> NDArray[np.int64]:
        known = self.positions[name]
        order = np.argsort(known, kind="stable")
        return np.asarray(order[np.searchsorted(known[order], fold.trials[name])])
