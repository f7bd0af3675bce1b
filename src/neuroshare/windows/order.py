"""The order of one subject's trials: whether labels come in runs, and stretches held out whole.

Labels and times of events are those of one subject's trials in the order of the session.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import ceil
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroshare.windows.pairing import Positions

Array = NDArray[np.float64]
Kind = Literal["interleaved", "clumped", "runs", "confounded"]

N_STRETCHES = 16
FEWEST_RUNS = 32
"""Sessions of fewer runs exchange labels between whole runs; others rotate them in stretches."""
FEWEST_ROUNDS = 3
"""With fewer, half of the session would be held out."""
CLUMPED = 0.01
LONG_RUN = 4
_FIRST_LOOK = 99
"""Permutations after which labels in an order like any other need no more of them."""


@dataclass(frozen=True)
class LabelOrder:
    """How the labels of one session follow each other."""

    n_trials: int
    n_runs: int
    expected_runs: float
    p: float
    """Of so few runs, or of so slow a trend, if the order were random."""
    single: tuple[Any, ...]
    """Conditions of several trials that occur in one run only."""

    @property
    def kind(self) -> Kind:
        """How labels may be exchanged.

        ``"interleaved"``: their order looks random. ``"clumped"``: they come in short runs.
        ``"runs"``: in few long ones. ``"confounded"``: some condition occurs in one run only, so
        that it cannot be told from the time in the session.
        """
        if self.p > CLUMPED:
            return "interleaved"
        if self.single:
            return "confounded"
        few = self.n_runs < FEWEST_RUNS and self.mean_run >= LONG_RUN
        return "runs" if few else "clumped"

    @property
    def mean_run(self) -> float:
        """Trials in a run, on average."""
        return self.n_trials / max(self.n_runs, 1)

    def sentence(self, who: str, by: str) -> str:
        """Say it in words."""
        found = f"{who}: {by} changes {self.n_runs - 1} times in {self.n_trials} trials"
        expected = f"{self.expected_runs - 1:.0f} expected of a random order, p = {self.p:.2g}"
        if self.kind == "interleaved":
            return f"{found} ({expected}): interleaved."
        if self.kind == "confounded":
            which = ", ".join(map(repr, self.single))
            return (
                f"{found}; {which} {'occur' if len(self.single) > 1 else 'occurs'} in one run only,"
                f" so that {by} cannot be told from the time in the session."
            )
        return f"{found} ({expected}): {by} comes in runs."


def label_order(labels: ArrayLike, n_permutations: int = 999, seed: int = 0) -> LabelOrder:
    """Ask whether labels come in runs or with a slow trend.

    Two statistics are compared with those of permuted labels: the number of runs, and how alike
    labels are that lie less than an eighth of the session apart. p is twice the smaller of both.

    Parameters
    ----------
    labels
        Condition of every trial in the order of the session, (trial,).
    n_permutations
        Where the first 99 of them leave no doubt that the order is random, no more are drawn.
    seed
        Of the permutations.

    Examples
    --------
    >>> label_order(["A", "B"] * 20).kind, label_order(["A"] * 20 + ["B"] * 20).kind
    ('interleaved', 'confounded')
    """
    names, y = np.unique(np.asarray(labels), return_inverse=True)
    n = len(y)
    count = np.bincount(y, minlength=1)
    starts = np.r_[True, y[1:] != y[:-1]] if n else np.zeros(0, bool)
    n_runs = int(starts.sum())
    runs_of = np.bincount(y[starts], minlength=len(count))
    single = tuple(names[((runs_of == 1) & (count >= LONG_RUN))[: len(names)]].tolist())
    expected = n + 1 - (count.astype(float) ** 2).sum() / max(n, 1)
    if n < 4 or len(count) < 2:
        return LabelOrder(n, n_runs, expected, 1.0, ())
    p = _p_of_order(np.ascontiguousarray(y, np.int64).tobytes(), n_permutations, seed)
    return LabelOrder(n, n_runs, expected, p, single)


def steady_order(labels: ArrayLike) -> LabelOrder:
    """Order of what changes steadily, such as a position: no test is needed to know it.

    Values that occur once are no conditions that time could be mistaken for.
    """
    y = np.asarray(labels)
    n_runs = int((y[1:] != y[:-1]).sum()) + 1
    return LabelOrder(len(y), max(n_runs, FEWEST_RUNS), float(max(len(y), 1)), 0.0, ())


@lru_cache(maxsize=1024)
def _p_of_order(codes: bytes, n_permutations: int, seed: int) -> float:
    """Tell p of so few runs or of so slow a trend; the same sequence is asked about many times."""
    y = np.frombuffer(codes, np.int64)
    n = len(y)
    rng = np.random.default_rng([seed, n])
    one_hot = np.eye(y.max() + 1)
    width = ceil(n / 8)
    observed = np.array([(y[1:] == y[:-1]).sum(), _slow(one_hot[y], width)])
    above, drawn = np.zeros(2), 0
    for drawn in range(1, n_permutations + 1):
        other = rng.permutation(y)
        found = [(other[1:] == other[:-1]).sum(), _slow(one_hot[other], width)]
        above += np.array(found) >= observed - 1e-9
        # One in a thousand would have to be seen a dozen times in a hundred.
        if drawn == _FIRST_LOOK and above.min() > 0.1 * drawn:
            break
    return float(min(1.0, 2 * (1 + above.min()) / (drawn + 1)))


def _slow(x: Array, width: int) -> float:
    """Sum of squares of x (trial, feature) summed over a sliding window of trials."""
    total = np.concatenate([np.zeros_like(x[:1]), x.cumsum(0)])
    return float(np.square(total[width:] - total[:-width]).sum())


# ---------------------------------------------------------------- 2. Split in time


def share_spikes(onset: ArrayLike, span: tuple[float, float]) -> bool:
    """Whether the stretches binned around two neighbouring events overlap.

    Parameters
    ----------
    onset
        Times of the events, seconds, (trial,), in any order.
    span
        Begin and end of what was binned, seconds from the event.

    Examples
    --------
    >>> share_spikes([0.0, 5.0, 6.0], (0.0, 2.0)), share_spikes([0.0, 5.0], (0.0, 2.0))
    (True, False)
    """
    onset = np.sort(np.asarray(onset, float))
    return bool((np.diff(onset) < span[1] - span[0] - 1e-9).any())


def cut(
    onset: ArrayLike, labels: ArrayLike, order: LabelOrder, seconds: float | None = None
) -> Positions:
    """Cut a session into stretches of time: number of the stretch of every trial, from 0 on.

    With `seconds` a stretch is so long. Otherwise the runs of labels are the stretches where there
    are few of them, or the rounds in which every condition has one run; where a condition has one
    run only, every (long) run is cut into four; and else there are up to 16 stretches of as many
    trials each, with at least eight trials and four runs.
    Cuts move to the longest pause nearby, so that a lap is not cut in two.

    Parameters
    ----------
    onset
        Times of the events, seconds, ascending, (trial,).
    labels
        Condition of every trial, (trial,).
    order
        What `label_order` says of the labels.
    seconds
        Length of a stretch.

    Examples
    --------
    >>> labels = ["A", "B"] * 32
    >>> np.bincount(cut(np.arange(64.0), labels, label_order(labels))).tolist()
    [8, 8, 8, 8, 8, 8, 8, 8]
    """
    onset = np.asarray(onset, float)
    n = len(onset)
    if seconds is None and (order.kind == "runs" or _quartered(order)):
        y = np.asarray(labels)
        run = np.r_[0, np.cumsum(y[1:] != y[:-1])]
        if order.kind == "runs":
            found = rounds(y)
            return np.asarray(run, np.int64) if found is None else found
        within = np.arange(n) - np.searchsorted(run, run)
        length = np.bincount(run)[run]
        return np.asarray(4 * run + 4 * within // length, np.int64)
    if seconds is not None:
        n_cuts = max(round((onset[-1] - onset[0]) / seconds), 2)
        edges = np.searchsorted(onset, onset[0] + seconds * np.arange(1, n_cuts))
    else:
        most = min(n // 8, order.n_runs // 4, N_STRETCHES)
        edges = np.round(np.linspace(0, n, max(most, 4) + 1)).astype(int)[1:-1]
    edges = np.unique(edges[(edges > 0) & (edges < n)])
    pause = np.diff(onset)
    typical = np.median(pause) if len(pause) else 0.0
    reach = max(int(np.median(np.diff(np.r_[0, edges, n])) // 4), 0)
    moved = []
    for edge in edges.tolist():
        low, high = max(edge - reach, 1), min(edge + reach, n - 1)
        near = np.arange(low, high + 1)
        best = near[pause[near - 1].argmax()]
        moved.append(int(best) if pause[best - 1] > 2 * typical else edge)
    return np.searchsorted(np.unique(moved), np.arange(n), side="right").astype(np.int64)


def rounds(labels: ArrayLike) -> Positions | None:
    """Number of the round of every trial, where each condition has one run in every round.

    The labels of a round's other runs tell that of a held-out one, so there would be nothing to
    exchange between single runs. A long run that ends one round and begins the next is cut in the
    middle. None where the session has no three such rounds, or two conditions only, which
    alternate in any case.

    Examples
    --------
    >>> rounds(list("AABBCC" "BBCCAA" "CCBBAA")).tolist()
    [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    >>> rounds(list("AABBAA" "CCBBAA" "CCBBAA")) is None
    True
    """
    _, y = np.unique(np.asarray(labels), return_inverse=True)
    k = int(y.max(initial=-1)) + 1
    first = np.flatnonzero(np.r_[len(y) > 0, y[1:] != y[:-1]])
    of_run, length = y[first], np.diff(np.r_[first, len(y)])
    if k < 3 or len(of_run) < 3 * (k - 1) + 1:
        return None
    long = length >= 1.5 * np.median(length)
    # The runs at which a round may begin, and where the round before it began.
    before = {0: -1}
    for i in range(len(of_run)):
        if i in before and len(set(of_run[i : i + k].tolist())) == k:
            before.setdefault(i + k, i)
            if i + k < len(of_run) and long[i + k - 1]:
                before.setdefault(i + k - 1, i)
    if len(of_run) not in before:
        return None
    begins, at = [], len(of_run)
    while (at := before[at]) >= 0:
        begins.append(at)
    begins.reverse()
    if len(begins) < FEWEST_ROUNDS:
        return None
    edges = [int(first[b] + (length[b] // 2 if b - a == k - 1 else 0)) for a, b in pairwise(begins)]
    return np.searchsorted(edges, np.arange(len(y)), side="right").astype(np.int64)


def _quartered(order: LabelOrder) -> bool:
    """Whether every run is cut into four, of which the last is held out.

    Where a condition has one run only there is nothing better, unless runs are too short for it.
    """
    return order.kind == "confounded" and order.mean_run >= LONG_RUN


def hold_out(
    stretch: Positions,
    labels: ArrayLike,
    fraction: float,
    rng: np.random.Generator,
    n_tries: int = 500,
) -> NDArray[np.bool_]:
    """Choose whole stretches, with as nearly `fraction` of every condition as they allow.

    Of 500 random choices the one is taken whose shares of conditions are nearest; that a condition
    is missing in a part weighs more than everything else.
    """
    _, y = np.unique(np.asarray(labels), return_inverse=True)
    cells = np.zeros((stretch.max() + 1, y.max() + 1))
    np.add.at(cells, (stretch, y), 1)
    total, size = cells.sum(0), cells.sum(1)
    there = np.flatnonzero(size)
    picked = rng.permuted(np.tile(there, (n_tries, 1)), axis=1)
    n_picked = np.abs(size[picked].cumsum(1) - fraction * len(y)).argmin(1) + 1
    n_picked = np.minimum(n_picked, len(there) - 1)
    chosen = np.zeros((n_tries, len(size)))
    np.put_along_axis(chosen, picked, 1.0 * (np.arange(len(there)) < n_picked[:, None]), axis=1)
    inside = chosen @ cells
    cost = np.square(inside / total - fraction).sum(1)
    # Without training trials nothing is learned of a condition, which is worst.
    cost += 100 * (inside == 0).sum(1) + 101 * (inside == total).sum(1)
    return np.asarray(chosen[cost.argmin()][stretch] > 0)


def apart(
    onset: ArrayLike, held: NDArray[np.bool_], span: tuple[float, float], n_gap: int
) -> NDArray[np.bool_]:
    """Training trials: not held out, not within `n_gap` trials of one that is, no shared spikes.

    Parameters
    ----------
    onset
        Times of the events, seconds, (trial,); in the order of time if `n_gap` is not 0.
    held
        Whether a trial is held out, (trial,).
    span
        Begin and end of what was binned, seconds from the event.
    n_gap
        Trials on each side of a held-out one that belong to neither part.

    Returns
    -------
    array of bool
        (trial,).

    Examples
    --------
    >>> held = np.array([False, False, True, False, False])
    >>> apart([0.0, 1.0, 2.0, 2.3, 4.0], held, (0.0, 0.5), 0).tolist()
    [True, True, False, False, True]
    """
    onset = np.asarray(onset, float)
    near = held.copy()
    for k in range(1, n_gap + 1):
        near[k:] |= held[:-k]
        near[:-k] |= held[k:]
    length = span[1] - span[0]
    out = np.sort(onset[held])
    if len(out):
        after = np.minimum(np.searchsorted(out, onset), len(out) - 1)
        before = np.maximum(after - 1, 0)
        distance = np.minimum(abs(out[after] - onset), abs(onset - out[before]))
        near |= distance < length - 1e-9
    return ~near


@dataclass(frozen=True)
class TimeSplit:
    """One subject's split: positions of trials in session order."""

    train: Positions
    test: Positions
    left_out: Positions
    stretch: Positions
    order: LabelOrder


def split_in_time(
    onset: ArrayLike,
    labels: ArrayLike,
    span: tuple[float, float],
    fraction: float = 0.25,
    seconds: float | None = None,
    rng: np.random.Generator | None = None,
    order: LabelOrder | None = None,
    n_gap: int | None = None,
) -> TimeSplit:
    """Hold whole stretches out of a session; trials must be in the order of time.

    Parameters
    ----------
    onset
        Times of the events, seconds, ascending, (trial,).
    labels
        Condition of every trial, (trial,).
    span
        Begin and end of what was binned, seconds from the event.
    fraction
        Share of the trials to hold out.
    seconds
        Length of a stretch; by default the order of labels decides.
    rng
        Chooses the stretches.
    order
        Of the labels, if it is known, such as that of the whole session of which this is a part.
    n_gap
        Trials on each side of what is held out that belong to neither part, of labels of which
        some need have no training trials; by default as many as the order of labels asks for.

    Raises
    ------
    ValueError
        If the gap leaves no training trials of a condition.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    labels, onset = np.asarray(labels), np.asarray(onset, float)
    order = label_order(labels) if order is None else order
    stretch = cut(onset, labels, order, seconds)
    if seconds is None and _quartered(order):
        # The last quarter of every run, which is the best that such a session allows.
        n_held = max(1, round(4 * fraction))
        held = stretch % 4 >= 4 - n_held
    else:
        held = hold_out(stretch, labels, fraction, rng)
    if n_gap is not None:
        train = apart(onset, held, span, n_gap)
        return TimeSplit(
            np.flatnonzero(train), np.flatnonzero(held), np.flatnonzero(~train & ~held),
            stretch, order,
        )  # fmt: skip
    shortest = int(np.bincount(stretch)[np.unique(stretch)].min())
    n_gap = min(ceil(order.mean_run), max(shortest // 4, 1))
    if order.kind == "runs" and seconds is None:
        n_gap = 1
    for n_near in (n_gap, 0):  # rather a smaller gap than a condition without training trials
        train = apart(onset, held, span, n_near)
        lost = sorted(set(labels[held].tolist()) - set(labels[train].tolist()), key=str)
        if not lost:
            break
    if lost:
        raise ValueError(
            f"no training trials of {lost} are left beside the held-out stretches of the session "
            "and their gaps. Give shorter stretches (blocks=seconds), or leave these conditions "
            "out."
        )
    return TimeSplit(
        np.flatnonzero(train),
        np.flatnonzero(held),
        np.flatnonzero(~train & ~held),
        stretch,
        order,
    )
