"""Labels of held-out trials as they might as well have been, given the order of the session."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import factorial, prod
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroshare.windows.order import LONG_RUN, N_STRETCHES, Kind, LabelOrder

Array = NDArray[np.float64]
Positions = NDArray[np.int64]
HowNull = Literal["auto", "shuffle", "order"]

MOST_ENUMERATED = 5000
"""Labellings that are all taken, where there are no more."""


@dataclass(frozen=True)
class Null:
    """Labels under the null, and how many different ones there are."""

    labels: NDArray[Any]
    """(draw, held-out trial), in the order of the session."""
    n_distinct: float
    complete: bool
    """Every labelling once, the observed one included: p is then exact."""
    how: str
    """In words."""

    def p(self, observed: ArrayLike, scores: ArrayLike) -> Array:
        """One-sided p of a statistic (...) against its values (draw, ...) under the null.

        (b + 1) / (m + 1), where b of m draws are at least the observed; b / m of all labellings.
        """
        observed, scores = np.asarray(observed, float), np.asarray(scores, float)
        # Equal fractions may differ in their last bits.
        b = (scores >= observed - 1e-12).sum(0)
        p = b / len(scores) if self.complete else (b + 1) / (len(scores) + 1)
        p = np.maximum(p, 1 / self.n_distinct)
        return np.where(np.isnan(observed), np.nan, p)

    @property
    def floor(self) -> float:
        """Below which no p can be."""
        n = len(self.labels) if self.complete else len(self.labels) + 1
        return max(1 / n, 1 / self.n_distinct)


@dataclass(frozen=True)
class SessionOrder:
    """The trials of both parts of one subject in the order of its session."""

    position: Positions
    """Of every trial, training trials first, in that order."""
    held_out: NDArray[np.bool_]
    """(trial,), in the order of the session."""

    @classmethod
    def of(
        cls,
        train_ids: NDArray[Any],
        test_ids: NDArray[Any],
        train_onset: Array | None = None,
        test_onset: Array | None = None,
    ) -> SessionOrder:
        """Order trials by the times of their events; where these are unknown, by their ids."""
        ids = np.concatenate([train_ids, test_ids])
        key = np.asarray(np.unique(ids, return_inverse=True)[1], float)
        if train_onset is not None and test_onset is not None:
            onset = np.concatenate([train_onset, test_onset])
            key = onset if np.isfinite(onset).all() else key
        order = np.argsort(key, kind="stable")
        position = np.empty(len(order), np.int64)
        position[order] = np.arange(len(order))
        return cls(position, order >= len(train_ids))

    def sorted(self, train: NDArray[Any], test: NDArray[Any]) -> NDArray[Any]:
        """Values of the trials of both parts in the order of the session."""
        values = np.concatenate([train, test])
        return values[np.argsort(self.position)]

    def back(self, held_out: NDArray[Any]) -> NDArray[Any]:
        """Give values (..., held-out trial) in the order of the session as the trials came."""
        n_train = int((~self.held_out).sum())
        rank = np.cumsum(self.held_out) - 1
        return np.asarray(held_out[..., rank[self.position[n_train:]]])


def orders_of(attrs: Mapping[Any, Any], by: str) -> dict[str, LabelOrder]:
    """How labels of each subject follow each other in its whole session, if a split wrote it."""
    if attrs.get("by") != by:
        return {}
    found: dict[str, dict[str, Any]] = json.loads(attrs.get("label_order", "{}"))
    return {
        name: LabelOrder(**{**fields, "single": tuple(fields["single"])})
        for name, fields in found.items()
    }


def null_labels(
    labels: ArrayLike,
    held_out: ArrayLike,
    kind: Kind,
    n: int,
    rng: np.random.Generator,
) -> Null:
    """Draw labels of held-out trials as they might as well have been.

    Parameters
    ----------
    labels, held_out
        Of all trials of both parts in the order of the session: their labels, and whether they
        are held out, (trial,).
    kind
        ``LabelOrder.kind`` of all trials. ``"interleaved"``: labels are permuted between held-out
        trials. ``"clumped"``: they are rotated within every held-out stretch, each by its own
        number of trials. ``"runs"``: they are permuted between held-out runs, but so that no run
        has the label of the run beside it, for the ends of runs are where labels change;
        what is left of a run that was cut keeps its label.
        ``"confounded"``: there is no null, and the observed labels are the only ones.
    n
        Number of draws. Where no more than 5000 labellings are possible, all of them are taken
        instead.
    rng
        Draws them.

    Returns
    -------
    Null
        Of the held-out trials, in the same order. A held-out stretch is what lies between two
        training trials. Where labels come in runs and parts were split at random, so that
        stretches are shorter than four trials on average, labels of the whole session are rotated
        in sixteenths of it: held-out trials get the labels of training trials beside them, and
        what neighbours give away is in the null as well.

    Notes
    -----
    All of these move labels of held-out trials, of which neither encoders nor classifiers know
    anything: under the hypothesis nothing need be refitted. A slow trend of the labels is the same
    in every draw, so that slow drift of activity cannot make p small.
    """
    y, held = np.asarray(labels), np.asarray(held_out, bool)
    stretch = np.cumsum(~held)[held]
    if kind == "interleaved":
        return _permuted(y[held], n, rng)
    if kind == "confounded":
        return Null(y[None, held], 1.0, True, "none: the condition cannot be told from time")
    if _scattered(stretch):
        parts = np.array_split(np.arange(len(y)), max(min(len(y) // 8, N_STRETCHES), 2))
        return _rotated(
            y, held, parts, n, rng, "labels of the whole session rotated within sixteenths of it"
        )
    if kind == "runs":
        return _exchanged_runs(y, held, n, rng)
    test = np.flatnonzero(held)
    parts = [test[stretch == s] for s in np.unique(stretch)]
    how = "labels rotated within held-out stretches of the session"
    return _rotated(y, held, parts, n, rng, how)


def _permuted(y: NDArray[Any], n: int, rng: np.random.Generator) -> Null:
    how = "labels permuted between held-out trials"
    n_distinct = _multinomial(y)
    if n_distinct <= MOST_ENUMERATED:
        return Null(np.stack(list(_orders(y))), n_distinct, True, how)
    return Null(np.stack([rng.permutation(y) for _ in range(n)]), n_distinct, False, how)


def _rotated(
    y: NDArray[Any],
    held: NDArray[np.bool_],
    parts: Sequence[Positions],
    n: int,
    rng: np.random.Generator,
    how: str,
) -> Null:
    """Labels rotated within parts of the session, each by its own number of trials."""
    turns = [_rotations(y[part]) for part in parts]
    n_distinct = prod(float(len(np.unique(turn, axis=0))) for turn in turns)
    complete = prod(float(len(turn)) for turn in turns) <= MOST_ENUMERATED
    if complete:
        chosen = np.array(list(product(*(range(len(turn)) for turn in turns))))
    else:
        chosen = np.stack([rng.integers(len(turn), size=n) for turn in turns], axis=1)
    drawn = np.repeat(y[None], len(chosen), axis=0)
    for k, (part, turn) in enumerate(zip(parts, turns, strict=True)):
        drawn[:, part] = turn[chosen[:, k]]
    return Null(drawn[:, held], n_distinct, complete, how)


def _exchanged_runs(
    y: NDArray[Any], held: NDArray[np.bool_], n: int, rng: np.random.Generator
) -> Null:
    """Labels permuted between held-out runs, so that they change where they changed."""
    how = "labels permuted between held-out runs"
    run = np.r_[0, np.cumsum((y[1:] != y[:-1]) | (held[1:] != held[:-1]))]
    first = np.r_[True, run[1:] != run[:-1]]
    of_run, is_held = y[first], held[first]
    changes = np.asarray(of_run[1:] != of_run[:-1])

    def fitting(drawn: NDArray[Any]) -> NDArray[Any]:
        whole = np.repeat(of_run[None], len(drawn), axis=0)
        whole[:, is_held] = drawn
        return np.asarray(whole[((whole[:, 1:] != whole[:, :-1]) == changes).all(1)])

    if _multinomial(of_run[is_held]) <= MOST_ENUMERATED:
        every = fitting(np.stack(list(_orders(of_run[is_held]))))
        return Null(every[:, run][:, held], float(len(every)), True, how)
    kept: list[NDArray[Any]] = []
    for _ in range(2000):
        kept.extend(fitting(np.stack([rng.permutation(of_run[is_held]) for _ in range(200)])))
        if len(kept) >= n:
            break
    if not kept:
        return Null(y[None, held], 1.0, True, how)
    return Null(np.stack(kept[:n])[:, run][:, held], np.inf, False, how)


def _scattered(stretch: Positions) -> bool:
    return len(stretch) < LONG_RUN * len(np.unique(stretch))


def _rotations(y: NDArray[Any]) -> NDArray[Any]:
    at = np.arange(len(y))
    return np.asarray(y[(at[None] - at[:, None]) % len(y)])


def _multinomial(y: NDArray[Any]) -> float:
    n = np.unique(y, return_counts=True)[1]
    return (
        float(factorial(len(y)) // prod(factorial(int(k)) for k in n)) if len(y) < 170 else np.inf
    )


def _orders(y: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Every different order of labels, once."""
    values, left = np.unique(y, return_counts=True)

    def further(prefix: list[int]) -> Iterator[list[int]]:
        if len(prefix) == len(y):
            yield prefix
            return
        for k in range(len(values)):
            if left[k]:
                left[k] -= 1
                yield from further([*prefix, k])
                left[k] += 1

    for order in further([]):
        yield values[order]


def draws_of_means(
    nulls: Sequence[Null], n: int, rng: np.random.Generator
) -> tuple[Positions, bool]:
    """Which draw of every subject makes each draw of the mean over subjects, (draw, subject).

    Every combination once where they are few, so that p of the mean is exact as well.
    """
    sizes = [len(null.labels) for null in nulls]
    if all(null.complete for null in nulls) and prod(sizes) <= MOST_ENUMERATED:
        return np.array(list(product(*map(range, sizes)))), True
    # Draws of different subjects are independent as they are.
    drawn = [
        np.arange(n) if size == n and not null.complete else rng.integers(size, size=n)
        for size, null in zip(sizes, nulls, strict=True)
    ]
    return np.stack(drawn, axis=1), False
