"""What a start needs to know of the windows: with their conditions, and before these are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroshare.models.alignment import Array, mapped
from neuroshare.models.inputs import grouped_sums
from neuroshare.support.chunks import in_chunks
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
    pieces = (
        (trials, np.sqrt(counts) if root else counts, counts)
        for trials, counts in grouped_sums(train, name, n_groups)
    )
    return _moments(pieces, train.codes(name), len(train.conditions))


def _moments(
    pieces: Iterable[tuple[slice, Array, Array]], codes: NDArray[np.int64], n_conditions: int
) -> Moments:
    """Moments of trials that come in pieces: their places, features and counts."""
    near: Array | None = None
    read: list[Unlabelled] = []
    sums: list[Array] = []
    for trials, x, counts in pieces:
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

    Counts are kept in as few bytes as they need; roots are taken of some trials at a time.

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
        self.sums: dict[str, NDArray[Any]] = {}
        self.positions: dict[str, NDArray[np.int64]] = {}
        thinned = whole.thinned()
        for name in roots:
            pieces = [_compact(sums) for _, sums in grouped_sums(thinned, name, n_groups)]
            self.sums[name] = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
            self.positions[name] = whole.trials[name]

    def moments(self, fold: PairedWindows) -> dict[str, Moments]:
        """Moments of the trials of a fold."""
        n = len(fold.conditions)
        return {
            name: _moments(self._pieces(fold, name), fold.codes(name), n) for name in self.roots
        }

    def codes(
        self, fold: PairedWindows, encoders: Sequence[Mapping[str, tuple[Array, Array]]]
    ) -> list[dict[str, tuple[Array, NDArray[np.int64]]]]:
        """Latents of the trials of a fold, and their conditions, by each of some encoders.

        Parameters
        ----------
        fold
            Windows.
        encoders
            Loc (feature,), the same in all of them, and map (feature, latent) by subject.
        """
        found: list[dict[str, tuple[Array, NDArray[np.int64]]]] = [{} for _ in encoders]
        for name in self.roots if encoders else ():
            loc = encoders[0][name][0]
            ends = np.cumsum([one[name][1].shape[1] for one in encoders])
            maps = np.concatenate([one[name][1] for one in encoders], axis=1)
            # Some trials at a time: features take more memory than all else.
            none = np.zeros((0, self.sums[name].shape[1], ends[-1]))
            pieces = self._pieces(fold, name)
            z = np.concatenate([none, *(mapped(x - loc, maps) for _, x, _ in pieces)])
            for own, part in zip(found, np.split(z, ends[:-1], axis=2), strict=True):
                own[name] = np.ascontiguousarray(part), fold.codes(name)
        return found

    def _pieces(self, fold: PairedWindows, name: str) -> Iterator[tuple[slice, Array, Array]]:
        """Places, features and counts of the trials of a fold, some of them at a time."""
        done, sums = 0, self.sums[name]
        for rows in in_chunks(self._rows(fold, name), int(np.prod(sums.shape[1:]))):
            counts = sums[rows].astype(float)
            x = np.sqrt(counts) if self.roots[name] else counts
            yield slice(done, done + len(rows)), x, counts
            done += len(rows)

    def _rows(self, fold: PairedWindows, name: str) -> NDArray[np.int64]:
        known = self.positions[name]
        order = np.argsort(known, kind="stable")
        return np.asarray(order[np.searchsorted(known[order], fold.trials[name])])


def _compact(sums: Array) -> NDArray[Any]:
    """Whole numbers in the fewest bytes."""
    if sums.size and sums.min() >= 0 and sums.max() < 2**16:
        whole = sums.astype(np.uint8 if sums.max() < 2**8 else np.uint16)
        if np.array_equal(whole, sums):
            return whole
    return sums
