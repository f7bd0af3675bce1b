"""Which trials are held out, and how labels are exchanged between trials."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuroshare.support.checks import is_number, require
from neuroshare.windows.order import (
    LabelOrder,
    TimeSplit,
    apart,
    label_order,
    split_in_time,
    steady_order,
)
from neuroshare.windows.pairing import Positions
from neuroshare.windows.trials import Trials, codes_of

Blocks = float | Literal["auto"] | None
"""How a session is split: into stretches of seconds, as its order asks for, or at random."""

Mask = NDArray[np.bool_]

_GAP = 1.0
"""Seconds beside what is held out of a session that is paired by behavior, and one window more."""


@dataclass(frozen=True)
class Parts:
    """How the trials of one subject were split."""

    train: Mask  # (own trial,)
    test: Mask
    order: LabelOrder
    in_stretches: bool
    sentence: str

    @property
    def plain(self) -> bool:
        """Whether trials were drawn at random, and none was left out."""
        return not self.in_stretches and bool((self.train | self.test).all())


@dataclass(frozen=True)
class Splitting:
    """A way to split the trials of subjects into two parts.

    Parameters
    ----------
    by
        What the labels are called.
    fraction
        Share of the trials to hold out.
    seed
        The split of a subject depends on it and on the subject's name.
    blocks
        "auto": whole stretches of the session where labels come in runs or the stretches that were
        binned overlap; a number of seconds: stretches of so many; None: trials at random.
    bin_size
        Seconds.
    steady
        Whether trials are windows of a session that are paired by behavior: their labels change
        steadily, and some may have no training trials.
    """

    by: str
    fraction: float
    seed: int
    blocks: Blocks
    bin_size: float
    steady: bool = False

    def __post_init__(self) -> None:
        word = self.blocks is None or (isinstance(self.blocks, str) and self.blocks == "auto")
        positive = is_number(self.blocks) and float(self.blocks or 0) > 0
        expected = "'auto', None or a positive number of seconds"
        require(word or positive, "blocks", "split", expected, self.blocks)

    def split(
        self,
        trials: Mapping[str, Trials],
        labels: Mapping[str, NDArray[Any]],
        n_conditions: int,
        known: Mapping[str, LabelOrder],
    ) -> dict[str, Parts]:
        """Split every subject.

        Parameters
        ----------
        trials
            By subject.
        labels
            Of its own trials, whose order in the session decides, (own trial,).
        n_conditions
            Number of conditions. Where each occurs once per subject at most, whole conditions are
            held out instead of trials.
        known
            The order of the whole sessions, where these are parts of them.

        Raises
        ------
        ValueError
            If blocks of seconds are asked of trials without times, or a condition has no training
            trials left.
        """
        if not self.steady and one_to_one([part.codes for part in trials.values()], n_conditions):
            return self._together(trials, labels, n_conditions)
        found = {}
        for name, part in trials.items():
            own = labels[name][part.in_order]
            if self.steady:
                order = steady_order(own)
            else:
                order = label_order(own, 0 if name in known else 999)
                if name in known:
                    order = replace(order, p=known[name].p)
            found[name] = self._alone(name, part, labels[name], order, n_conditions)
        return found

    def _alone(
        self, name: str, part: Trials, labels: NDArray[Any], order: LabelOrder, n_conditions: int
    ) -> Parts:
        overlapping = part.overlap(self.bin_size)
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        if self.steady and self.blocks is None:
            return self._whole_epochs(name, part, order, rng)
        if self._in_stretches(name, part.onset, order, overlapping):
            at = part.in_order
            split = self._cut(name, part, labels, order, rng)
            n = len(at)
            train, test = np.zeros((2, n), bool)
            train[at[split.train]], test[at[split.test]] = True, True
            words = self._told(f"subject {name!r}", split, overlapping)
            return Parts(train, test, order, True, words)
        test = held_out(part.codes, n_conditions, self.fraction, rng)
        train, words = ~test, f"subject {name!r}: random split ({self._why_random(order)})."
        if overlapping:
            assert part.onset is not None
            train = apart(part.onset, test, (0.0, part.length(self.bin_size)), 0)
            lost = set(part.codes[test].tolist()) - set(part.codes[train].tolist())
            if lost:
                raise ValueError(
                    f"subject {name!r}: every training trial of {len(lost)} conditions shares "
                    "spikes with a held-out one, since the stretches of neighbouring trials "
                    "overlap. Split with blocks='auto', or bin a shorter span."
                )
            n_out = int((~train & ~test).sum())
            words += f" {n_out} training trials that share spikes with held-out ones were left out."
        return Parts(train, test, order, False, words)

    def _whole_epochs(
        self, name: str, part: Trials, order: LabelOrder, rng: np.random.Generator
    ) -> Parts:
        """Hold whole epochs out, such as laps, wherever they are in the session."""
        epoch = labels_of(part, "epoch", name) if "epoch" in part.array.coords else part.codes * 0
        found = rng.permutation(np.unique(epoch))
        if len(found) < 2:
            raise ValueError(
                f"subject {name!r}: its windows are of one epoch, and neighbours would be in both "
                "parts. Split with blocks='auto' or blocks=seconds, or bin its laps (epochs)."
            )
        n = min(max(1, round(self.fraction * len(found))), len(found) - 1)
        test = np.isin(epoch, found[:n])
        train = ~test
        if part.onset is not None:
            train = apart(part.onset, test, (0.0, part.length(self.bin_size)), 0)
        words = f"subject {name!r}: {n} of {len(found)} epochs held out at random."
        return Parts(train, test, order, True, words)

    def _together(
        self, trials: Mapping[str, Trials], labels: Mapping[str, NDArray[Any]], n_conditions: int
    ) -> dict[str, Parts]:
        """Hold whole conditions out, by the clock of the first subject that has each."""
        first_of: dict[int, tuple[str, int]] = {}
        for name, part in trials.items():
            for own, code in enumerate(part.codes.tolist()):
                first_of.setdefault(code, (name, own))
        first = next(iter(trials.values()))
        onsets = {name: part.onset for name, part in trials.items()}
        known = {code: (onsets[name], own) for code, (name, own) in first_of.items()}
        when = {code: times[own] for code, (times, own) in known.items() if times is not None}
        timed = len(when) == len(known)
        if not timed:
            when = {code: place for place, code in enumerate(first.codes.tolist())}
        codes = np.array(sorted(known, key=lambda code: (when.get(code, np.inf), code)), np.int64)
        onset = np.array([when[code] for code in codes.tolist()]) if timed else None
        own_labels = np.array([labels[n][k] for n, k in (first_of[c] for c in codes.tolist())])
        order = label_order(own_labels)
        if len(np.unique(own_labels)) == len(own_labels):
            own_labels = np.zeros(len(codes), int)  # nothing to balance
        length = first.length(self.bin_size)
        overlapping = any(part.overlap(self.bin_size) for part in trials.values())
        rng = np.random.default_rng(self.seed)
        if self._in_stretches(next(iter(trials)), onset, order, overlapping):
            times = np.arange(len(codes)) * 2 * length if onset is None else onset
            split = split_in_time(
                times, own_labels, (0.0, length), self.fraction, self._seconds, rng, order
            )
            train, test = codes[split.train], codes[split.test]
            words, stretched = self._told("all subjects", split, overlapping), True
        else:
            drawn = rng.permutation(np.sort(codes))
            test = drawn[: max(1, round(self.fraction * len(codes)))]
            train = np.setdiff1d(codes, test)
            words, stretched = f"all subjects: random split ({self._why_random(order)}).", False
            if overlapping and onset is not None:
                train = codes[apart(onset, np.isin(codes, test), (0.0, length), 0)]
                n_out = len(codes) - len(train) - len(test)
                words += f" {n_out} that share spikes with held-out ones were left out."
        return {
            name: Parts(np.isin(p.codes, train), np.isin(p.codes, test), order, stretched, words)
            for name, p in trials.items()
        }

    # ------------------------------------------------------------------ stretches

    @property
    def _seconds(self) -> float | None:
        return None if self.blocks is None or self.blocks == "auto" else float(self.blocks)

    def _in_stretches(
        self, name: str, onset: NDArray[np.float64] | None, order: LabelOrder, overlapping: bool
    ) -> bool:
        if self.blocks is None:
            return False
        if self.blocks == "auto":
            return order.kind != "interleaved" or overlapping
        if onset is None:
            raise ValueError(
                f"subject {name!r}: blocks in seconds need event times; give attrs['align'] and "
                "that trial coordinate."
            )
        if len(onset) and float(np.ptp(onset)) < 1.5 * float(self.blocks):
            raise ValueError(
                f"subject {name!r}: expected blocks of which the {np.ptp(onset):g} s of its trials "
                f"hold two or more, got {self.blocks:g} s. Give shorter ones (blocks=seconds)."
            )
        return True

    def _cut(
        self,
        name: str,
        part: Trials,
        labels: NDArray[Any],
        order: LabelOrder,
        rng: np.random.Generator,
    ) -> TimeSplit:
        at, length = part.in_order, part.length(self.bin_size)
        # Without times, trials are one after the other.
        times = np.arange(len(at)) * 2 * length if part.onset is None else part.onset[at]
        n_gap = 1 + round(_GAP / length) if self.steady else None
        try:
            return split_in_time(
                times, labels[at], (0.0, length), self.fraction, self._seconds, rng, order, n_gap
            )
        except ValueError as error:
            raise ValueError(f"subject {name!r}: {error}") from None

    # ------------------------------------------------------------------ words

    def _told(self, who: str, split: TimeSplit, overlapping: bool) -> str:
        order = split.order
        n_changes, n_expected = order.n_runs - 1, order.expected_runs - 1
        counted = (
            f"({n_changes} changes in {order.n_trials} trials, {n_expected:.0f} expected of a "
            "random order)"
        )
        if self.steady and self._seconds is None:
            why = f"windows paired by {self.by.removesuffix('_bin')} follow each other"
        elif self._seconds is not None:
            why = f"blocks of {self._seconds:g} s"
        elif order.kind == "confounded":
            which = ", ".join(map(repr, order.single))
            why = f"{which} of {self.by} in one run only {counted}"
        elif order.kind != "interleaved":
            slow = order.n_runs > 0.9 * order.expected_runs
            why = f"{self.by} {'changes slowly' if slow else 'comes in runs'} {counted}"
        else:
            assert overlapping
            why = "trials follow each other so closely that their stretches overlap"
        n, held = len(np.unique(split.stretch)), np.unique(split.stretch[split.test])
        return (
            f"{who}: {why}: {len(held)} of {n} stretches of the session held out, "
            f"{len(split.test)} trials; {len(split.left_out)} trials beside them left out of both "
            "parts."
        )

    def _why_random(self, order: LabelOrder) -> str:
        if order.kind == "interleaved":
            return f"{self.by} interleaved, p = {order.p:.2g}"
        return (
            f"as asked for, though {self.by} comes in runs: neighbours are in both parts, and "
            "accuracies may be too high; blocks='auto' holds out whole stretches"
        )


def one_to_one(codes: list[Positions], n_conditions: int) -> bool:
    """Whether every condition occurs once per subject at most."""
    return n_conditions > 1 and all(
        (np.bincount(code, minlength=n_conditions) <= 1).all() for code in codes
    )


def held_out(
    codes: Positions, n_conditions: int, fraction: float, rng: np.random.Generator
) -> Mask:
    """Draw trials of one subject that are held out, stratified by condition, (trial,)."""
    out = np.zeros(len(codes), dtype=bool)
    for condition in range(n_conditions):
        pool = np.flatnonzero(codes == condition)
        n_test = round(fraction * len(pool))
        if len(pool) > 1:
            n_test = min(max(n_test, 1), len(pool) - 1)
        out[rng.permutation(pool)[: n_test if len(pool) > 1 else 0]] = True
    return out


def labels_of(trials: Trials, column: str, name: str) -> NDArray[Any]:
    """Values of a trial column as numbers of their kinds, (own trial,); missing ones are a kind."""
    coords = trials.array.coords
    if column not in coords or coords[column].dims != ("trial",):
        found = [str(c) for c in coords if coords[c].dims == ("trial",)]
        raise ValueError(f"subject {name!r}: no trial coordinate {column!r}. Found: {found}.")
    values = coords[column].values[trials.positions]
    return np.asarray(pd.factorize(values, use_na_sentinel=False)[0], np.int64)


# ---------------------------------------------------------------- labels exchanged


def exchanged(
    trials: Trials,
    by: str,
    conditions: Sequence[Any],
    subject: str,
    seed: int,
    orders: Mapping[str, LabelOrder],
) -> Positions:
    """Exchange the conditions of a subject between its trials, as their order allows it.

    Interleaved ones are permuted between whole trials. Others are moved along the whole session, on
    a circle, by a tenth of it or more: runs and trends stay, and both parts of a split are moved
    alike.

    Parameters
    ----------
    trials
        Of one part, or of a whole session.
    by, conditions
        Trial column of the labels, and its values.
    subject, seed
        Decide the exchange.
    orders
        How labels follow each other in a session that was split, by subject.

    Returns
    -------
    array of int
        For each of the own trials, of which binned trial it gets the condition, (own trial,).
    """
    rng = np.random.default_rng([seed, zlib.crc32(subject.encode())])
    if subject not in orders or orders[subject].kind == "interleaved":
        return trials.positions[rng.permutation(len(trials.codes))]
    codes = codes_of(trials.array, by, conditions)
    order = np.arange(len(codes)) if trials.events is None else np.argsort(trials.events)
    order = order[codes[order] >= 0]
    least = ceil(len(order) / 10)
    moved = np.arange(len(codes))
    if len(order) > 1:
        moved[order] = np.roll(order, rng.integers(least, len(order) - least + 1))
    return moved[trials.positions]
