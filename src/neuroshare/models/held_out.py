"""How candidates of a choice are scored: on held-out trials of inner folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.neighbors import NearestNeighbors

from neuroshare.analysis.classification import Classifier
from neuroshare.models.alignment import Array
from neuroshare.windows.paired import PairedWindows

WIDTHS = (2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32)
"""Numbers of latents that are tried."""
N_FOLDS = 6
"""Of the choice of a start."""
HELD_OUT = 0.25
"""Of the training trials, in each fold."""
LEAST_TRIALS = 4
"""Of a condition in a subject that shows it: with fewer there are no folds."""
FEWEST_WINDOWS = 60
"""Of a subject whose windows are paired by behavior, likewise."""
N_FOLDS_OF_BEHAVIOR = 3
"""Sessions without trials have so many windows that a fold says more."""
N_SETTLED = 4
"""Starts between which the classifier of `separation` decides."""
MOST_TARGETS = 10
"""Of each source, beside itself: with more subjects all pairs of them would take longer than all
else. Every subject is as often a source as a target."""
N_NEAREST = 10
"""Training windows that behavior is decoded from."""
MOST_DECODED = 500
"""Held-out windows of a subject, evenly spaced, whose behavior is decoded for a choice."""
_TEMPERATURES = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
"""By which the evidence of a trial is divided: its windows are not independent."""

Codes = Mapping[str, tuple[Array, NDArray[np.int64]]]
"""By subject: latents (trial, start, latent) and conditions (trial,)."""
Score = Callable[[Array, NDArray[np.int64]], float | tuple[float, ...]]
"""Of latents and conditions of a subject, as in `Codes`."""


def folds_of(
    train: PairedWindows, validation: PairedWindows | None, n: int, seed: int
) -> list[tuple[PairedWindows, PairedWindows]]:
    """Give training and validation parts: those given, or inner splits of the training trials."""
    if validation is not None:
        return [(train, validation)]
    n = n if train.behavior is None else min(n, N_FOLDS_OF_BEHAVIOR)
    return [train.split(HELD_OUT, seed=1000 * seed + fold) for fold in range(n)]


@dataclass(frozen=True)
class Criterion:
    """What latents are scored by: the conditions that they tell, or behavior decoded from them.

    Parameters
    ----------
    targets
        Conditions as points, where they are bins of a behavior; see `PairedWindows.targets`.
    """

    targets: Array | None = None

    def quick(self, fitted: Codes, held_out: Codes) -> Array:
        """Score (source, target) in closed form, to rank candidates."""
        if self.targets is not None:
            return decoded(fitted, held_out, self.targets)
        return discriminant_accuracy(fitted, held_out)

    def settled(self, fitted: Codes, held_out: Codes) -> tuple[Array, Array]:
        """Score and loss (source, target), as the analyses find them."""
        if self.targets is not None:
            score = nearest(fitted, held_out, self.targets)
            return score, 1 - score
        return classified(fitted, held_out)


def why_not(train: PairedWindows) -> str:
    """Why no trials can be held out to choose by, in words; empty if they can."""
    if train.behavior is not None:
        least = min(train.n_trials(name) for name in train.subjects)
        few = f"a subject has {least} training windows, and {FEWEST_WINDOWS} are needed"
        return few if least < FEWEST_WINDOWS else ""
    n = train.trials_of_conditions().to_numpy()
    shown = n[n > 0]
    if len(train.conditions) < 2:
        return f"there is one condition of {train.by}"
    if shown.min() < LEAST_TRIALS:
        n = int(shown.min())
        return (
            f"a subject has {n} training trial{'s' * (n > 1)} of a {train.by}, and {LEAST_TRIALS} "
            "are needed to hold some out"
        )
    return ""


def most_widths(train: PairedWindows) -> int:
    """How many latents are worth trying."""
    thinned = train.thinned()
    most = max((len(thinned.conditions) - 1) * len(thinned.first_bins), 2)
    return min(most, max(16, len(thinned.conditions) + 8))


def score_of(accuracy: Array, shares: bool) -> float:
    """Mean of own and cross accuracy; own where nothing is shared."""
    own, cross = own_and_cross(accuracy)
    return (own + cross) / 2 if shares and len(accuracy) > 1 else own


def own_and_cross(accuracy: Array) -> tuple[float, float]:
    """Mean accuracies (source, target) within and between subjects."""
    between = accuracy[between_subjects(len(accuracy))]
    return float(np.diag(accuracy).mean()), float(between.mean()) if between.size else float("nan")


def between_subjects(n: int) -> NDArray[np.bool_]:
    """Which pairs of n subjects are scored, (source, target); other pairs are NaN."""
    places = np.arange(n)
    apart = (places - places[:, None]) % n
    return np.asarray((apart > 0) & (apart <= MOST_TARGETS))


def _targets(source: int, n: int) -> list[int]:
    """Targets of a source among n subjects, itself the first."""
    return [(source + k) % n for k in range(min(n, MOST_TARGETS + 1))]


def discriminant_accuracy(fitted: Codes, held_out: Codes, shrinkage: float = 0.01) -> Array:
    """Balanced accuracy per trial (source, target) of a linear discriminant of latents.

    In closed form, every condition weighing the same; it ranks models as logistic regression does,
    at a tenth of its time.
    """

    def accuracy(known: NDArray[np.int64], evidence: Array, y: NDArray[np.int64]) -> float:
        return _balanced(known, evidence[:, 0], y)

    # What makes probabilities of evidence is the same for all conditions, and so sums will do.
    whole = {name: (z.mean(axis=1, keepdims=True), y) for name, (z, y) in held_out.items()}
    return _of_pairs(fitted, whole, _by_discriminant(accuracy, shrinkage))[0]


def decoded(fitted: Codes, held_out: Codes, targets: Array, shrinkage: float = 0.01) -> Array:
    """Share of the variance of behavior (source, target) that is decoded from latents.

    The mean of the bins of a behavior, weighed by the linear discriminant of a source's windows.

    Parameters
    ----------
    fitted, held_out
        Latents and bins.
    targets
        Bins as points, (bin, feature).
    shrinkage
        Of the discriminant.
    """

    def explained(known: NDArray[np.int64], evidence: Array, y: NDArray[np.int64]) -> float:
        p = softmax(evidence, axis=-1).mean(axis=1)
        true = targets[y]
        wrong = np.square(true - p @ targets[known]).sum()
        return float(1 - wrong / max(np.square(true - true.mean(0)).sum(), 1e-12))

    return _of_pairs(fitted, held_out, _by_discriminant(explained, shrinkage))[0]


def nearest(fitted: Codes, held_out: Codes, targets: Array) -> Array:
    """Share of the distance from mean behavior (source, target) that nearest windows take away.

    Behavior is decoded as `decoding` does, as the mean of that of the nearest training windows of a
    source. Distances are not squared: a few windows that are far off would decide for all others.

    Parameters
    ----------
    fitted, held_out
        Latents and bins.
    targets
        Bins as points, (bin, feature).
    """

    def learned(z: Array, y: NDArray[np.int64]) -> Score:
        windows, scale = _windows(z), np.maximum(_windows(z).std(axis=0), 1e-12)
        index = NearestNeighbors(n_neighbors=min(N_NEAREST, len(windows))).fit(windows / scale)
        known = np.repeat(targets[y], z.shape[1], axis=0)

        def explained(z: Array, y: NDArray[np.int64]) -> float:
            step = -(-len(y) // MOST_DECODED)
            z, true = z[::step], targets[y[::step]]
            near = known[index.kneighbors(_windows(z) / scale, return_distance=False)]
            points = near.mean(axis=1).reshape(*z.shape[:2], -1).mean(axis=1)
            wrong = np.linalg.norm(true - points, axis=1).sum()
            return float(1 - wrong / max(np.linalg.norm(true - true.mean(0), axis=1).sum(), 1e-12))

        return explained

    return _of_pairs(fitted, held_out, learned)[0]


def _windows(z: Array) -> Array:
    """Latents of all windows, (window, latent)."""
    return z.reshape(-1, z.shape[2])


def _of_pairs(
    fitted: Codes,
    held_out: Codes,
    learned: Callable[[Array, NDArray[np.int64]], Score],
    n_scores: int = 1,
) -> list[Array]:
    """Scores, each (source, target), of the windows of targets by what is learned of each source.

    Of the pairs that are looked at; NaN elsewhere.
    """
    names = list(fitted)
    found = np.full((n_scores, len(names), len(names)), np.nan)
    for i, source in enumerate(names):
        score = learned(*fitted[source])
        for j in _targets(i, len(names)):
            found[:, i, j] = score(*held_out[names[j]])
    return list(found)


def _by_discriminant(
    score: Callable[[NDArray[np.int64], Array, NDArray[np.int64]], float], shrinkage: float
) -> Callable[[Array, NDArray[np.int64]], Score]:
    """Learn a linear discriminant of windows, and score what it says of others.

    `score` takes the conditions that are known, the evidence for them (trial, start, condition) and
    the true ones (trial,).
    """

    def learned(z: Array, y: NDArray[np.int64]) -> Score:
        known, slopes, offset = _discriminant(z, y, shrinkage)
        return lambda z, y: score(known, z @ slopes + offset, y)

    return learned


def _discriminant(
    z: Array, y: NDArray[np.int64], shrinkage: float
) -> tuple[NDArray[np.int64], Array, Array]:
    """Conditions, slopes (latent, condition) and offsets of a linear discriminant."""
    known, position = np.unique(y, return_inverse=True)
    member = np.eye(len(known))[position] / np.bincount(position)
    centre = member.T @ z.sum(axis=1) / z.shape[1]
    apart = (z - centre[position][:, None]).reshape(-1, z.shape[2])
    weight = np.repeat(member.sum(axis=1), z.shape[1]) / len(known) / z.shape[1]
    within = (apart * weight[:, None]).T @ apart
    within += (shrinkage * np.trace(within) / len(within) + 1e-10) * np.eye(len(within))
    slopes = np.linalg.solve(within, centre.T)
    return known, slopes, -0.5 * (centre * slopes.T).sum(axis=1)


def classified(fitted: Codes, held_out: Codes) -> tuple[Array, Array]:
    """Accuracy and log loss per trial (source, target) by the classifier of `separation`.

    The log loss, in nats, is smoother than the accuracy. It is that of the best of several
    temperatures, and every condition weighs the same in both.
    """

    def learned(z: Array, y: NDArray[np.int64]) -> Score:
        model = Classifier().fit(_windows(z), np.repeat(y, z.shape[1]))
        known = model.classes_

        def scored(z: Array, y: NDArray[np.int64]) -> tuple[float, float]:
            log_p = model.log_probabilities(_windows(z))
            log_p = log_p.reshape(len(y), -1, log_p.shape[1]).sum(axis=1)
            return _balanced(known, log_p, y), _log_loss(known, log_p, y)

        return scored

    accuracy, loss = _of_pairs(fitted, held_out, learned, n_scores=2)
    return accuracy, loss


def _log_loss(known: NDArray[np.int64], log_p: Array, y: NDArray[np.int64]) -> float:
    """Mean negative log probability of the conditions of trials; NaN if none is known."""
    scored = np.isin(y, known)
    if not scored.any():
        return float("nan")
    log_p, true = log_p[scored], np.searchsorted(known, y[scored])
    weight = 1 / np.bincount(true)[true]
    softened = log_softmax(log_p / _TEMPERATURES[:, None, None], axis=-1)
    each = softened[:, np.arange(len(true)), true]
    return float(-(each @ (weight / weight.sum())).max())


def _balanced(known: NDArray[np.int64], log_p: Array, y: NDArray[np.int64]) -> float:
    """Balanced accuracy of trials, over the conditions that are known; NaN if none is there."""
    hit = known[log_p.argmax(axis=1)] == y
    n = np.bincount(y)
    taught = np.zeros(max(len(n), known[-1] + 1), bool)
    taught[known] = True
    scored = taught[: len(n)] & (n > 0)
    if not scored.any():
        return float("nan")
    return float((np.bincount(y, hit, len(n))[scored] / n[scored]).mean())
