"""Whether p-values may be trusted: drift of activity, and a verdict with its reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from neuroshare.windows.order import LabelOrder

MOST_PER_CONDITION = 300
Trust = Literal["yes", "with care", "no"]


@dataclass(frozen=True)
class Drift:
    """Whether trials of one condition are more alike the nearer they are in time."""

    share: float
    """Of the variance within conditions that goes slowly, above what a random order gives."""
    p: float

    def sentence(self, who: str) -> str:
        """Say it in words."""
        if self.p > 0.05:
            return f"{who}: no drift within conditions found (p = {self.p:.2g})."
        return (
            f"{who}: activity drifts over the session ({100 * self.share:.0f} % of the variance "
            f"within conditions, p = {self.p:.2g})."
        )


def drift(
    features: ArrayLike, labels: ArrayLike, n_permutations: int = 499, seed: int = 0
) -> Drift:
    """Ask whether activity drifts within conditions.

    Parameters
    ----------
    features
        One row per trial in the order of the session, (trial, feature): square-root counts of the
        whole span, or latents averaged over the windows of the trial.
    labels
        Condition of each trial.

    Notes
    -----
    Conditions are centred. Within each condition its trials keep their order; the statistic is the
    sum of squares of sums over an eighth of its trials. Its null permutes the trials within
    condition, which is exact if their order does not matter.
    """
    x = np.asarray(features, float)
    x = x - x.mean(0)
    scale = x.std(0)
    x = x / np.where(scale > 0, scale, 1)
    rng = np.random.default_rng([seed, len(x)])
    observed, null, total = 0.0, np.zeros(n_permutations), 0.0
    for value in np.unique(np.asarray(labels)):
        z = x[np.asarray(labels) == value]
        if len(z) > MOST_PER_CONDITION:  # every few trials tell as much
            z = z[np.linspace(0, len(z) - 1, MOST_PER_CONDITION).round().astype(int)]
        if len(z) < 4:
            continue
        z = z - z.mean(0)
        gram = z @ z.T
        width = max(2, ceil(len(z) / 8))
        at = np.arange(len(z))
        lag = abs(at[:, None] - at)
        kernel = np.maximum(width - lag, 0.0)  # sliding sums, written as a kernel
        np.fill_diagonal(kernel, 0.0)
        kernel /= kernel.sum() / len(z)
        observed += float((kernel * gram).sum())
        total += float(np.trace(gram))
        for k in range(n_permutations):
            p = rng.permutation(len(z))
            null[k] += float((kernel * gram[np.ix_(p, p)]).sum())
    if not total:
        return Drift(0.0, 1.0)
    return Drift(
        float((observed - null.mean()) / total),
        float((1 + (null >= observed - 1e-9).sum()) / (n_permutations + 1)),
    )


def verdict(
    orders: Mapping[str, LabelOrder],
    drifts: Mapping[str, Drift],
    in_stretches: bool,
    by: str,
    p_control: float | None = None,
) -> tuple[str, list[str]]:
    """Say whether p-values may be trusted: "yes", "with care" or "no", and why."""
    kinds = {name: order.kind for name, order in orders.items()}
    subject = by[:1].upper() + by[1:]
    drifting = [name for name, found in drifts.items() if found.p <= 0.05]
    why, level = [], 0
    confounded = [name for name, kind in kinds.items() if kind == "confounded"]
    runs = [name for name, kind in kinds.items() if kind in ("runs", "clumped")]
    if confounded:
        level = 2
        why.append(
            f"In {_and(confounded)} {by} cannot be told from the time in the session: some "
            "conditions occur in one run only. No p is given. Repeat every condition at several "
            "times of the session, in an order of its own for each animal."
        )
    if runs and not in_stretches:
        level = max(level, 2 if drifting else 1)
        why.append(
            f"{subject} comes in runs in {_and(runs)}, but trials were split at random, so "
            "neighbours are in both parts and accuracies are too high. Split with blocks='auto'."
        )
    elif runs:
        drift_told = f", and activity drifts in {_and(drifting)}" if drifting else ""
        why.append(
            f"{subject} comes in runs in {_and(runs)}{drift_told}. Whole stretches of the "
            "session were held out and the null keeps the order of trials."
        )
    if not runs and not confounded:
        why.append(f"{subject} is interleaved, so trials may be exchanged.")
    if p_control is not None and p_control <= 0.05:
        level = max(level, 1)
        why.append(
            f"The control before the event is above chance as well (p = {p_control:.2g}): "
            f"something that goes with {by} is there before it."
        )
    return ("yes", "with care", "no")[level], why


def _and(names: Sequence[str]) -> str:
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
