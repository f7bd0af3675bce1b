"""Classifiers of conditions, and the answers they give for windows and whole trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import log_softmax

from neuroshare.analysis.inference import (
    known_mean,
    names_of,
    over_animals,
    pairs_of_animals,
)
from neuroshare.analysis.logistic import Fit, logistic, logistic_without
from neuroshare.analysis.nulls import SessionOrder

Array = NDArray[np.float64]
LEVELS = ("window", "trial")


class Classifier:
    """Multinomial logistic regression on standardised features, with balanced classes.

    Names of conditions may be numbers such as 0.1, which scikit-learn refuses.
    """

    classes_: NDArray[Any]
    """Names of the conditions, sorted."""

    def __init__(self, C: float = 1.0) -> None:
        self.C = C

    def fit(self, z: NDArray[Any], y: NDArray[Any]) -> Classifier:
        """Learn from windows (window, feature) and their conditions (window,)."""
        self.classes_, codes = np.unique(y, return_inverse=True)
        return self._of(logistic([(z, codes)], len(self.classes_), self.C))

    def _of(self, fit: Fit) -> Classifier:
        self._weights, self._bias = fit.weights, fit.bias
        return self

    def predict(self, z: NDArray[Any]) -> NDArray[Any]:
        """Give the most probable condition of every window."""
        return np.asarray(self.classes_[self.evidence(z).argmax(axis=1)])

    def evidence(self, z: NDArray[Any]) -> Array:
        """Log-probabilities (window, condition) up to a number of each window.

        It favours no condition, in a window as in a sum over windows.
        """
        # Sums over windows are the faster the longer the rows that are added.
        return np.asarray((self._weights.T @ z.T + self._bias[:, None]).T)

    def log_probabilities(self, z: NDArray[Any]) -> Array:
        """Log-probabilities (window, condition), finite also where one is certain."""
        return np.asarray(log_softmax(self.evidence(z), axis=1))


def answers(
    known_by: Classifier, z: Array, known: NDArray[Any], allowed: NDArray[np.bool_]
) -> Array:
    """Evidence (window, condition) for the conditions that are allowed, -inf for others."""
    evidence = known_by.evidence(z)
    if len(known) > evidence.shape[1]:
        taught = np.isin(known, known_by.classes_)
        every = np.full((len(z), len(known)), -np.inf)
        every[:, taught] = evidence
        evidence = every
    if not allowed.all():
        evidence[:, ~allowed] = -np.inf
    return evidence


def classifiers_of_others(
    known: Sequence[Classifier], parts: Sequence[Windows], animals: Sequence[str], C: float
) -> list[Classifier]:
    """Classifier of the windows of all other animals together, for each subject."""
    others = [[s for s, name in enumerate(animals) if name != own] for own in animals]
    taught = [np.unique(np.concatenate([known[s].classes_ for s in own])) for own in others]
    classes = taught[0]
    if min(map(len, others)) < 2 or not all(np.array_equal(classes, own) for own in taught):
        return [
            known[own[0]]
            if len(own) == 1
            else Classifier(C).fit(
                np.concatenate([parts[s].z for s in own]),
                np.concatenate([parts[s].condition for s in own]),
            )
            for own in others
        ]
    coded = [(part.z, np.searchsorted(classes, part.condition)) for part in parts]
    found = []
    for fit in logistic_without(coded, animals, len(classes), C):
        found.append(Classifier(C)._of(fit))
        found[-1].classes_ = classes
    return found


@dataclass(frozen=True)
class Windows:
    """One subject's windows, each (trial, time) once."""

    z: Array  # (window, latent)
    condition: NDArray[Any]  # (window,)
    time: Array  # (window,)
    trial: NDArray[np.int64]  # (window,) position in trial_ids
    trial_ids: NDArray[Any]
    trial_condition: NDArray[Any]  # (trial,)
    trial_onset: Array | None = None  # (trial,) seconds in the session

    def in_session(self, held_out: Windows) -> SessionOrder:
        """How the trials of both parts follow each other."""
        return SessionOrder.of(
            self.trial_ids, held_out.trial_ids, self.trial_onset, held_out.trial_onset
        )


def mean_accuracies(
    train: Mapping[str, Windows],
    test: Mapping[str, Windows],
    animals: Sequence[str],
    C: float = 1.0,
    *,
    pooled: bool = True,
) -> dict[str, Array]:
    """Mean accuracies of `separation` and nothing else of it, each (level,).

    Parameters
    ----------
    train, test
        By subject; both show the same conditions.
    animals
        Of each subject.
    C
        Of the classifiers.
    pooled
        Fit the classifiers of all other animals together too.
    """
    parts = list(train.values())
    known = np.unique(np.concatenate([part.condition for part in parts]))
    own = [Classifier(C).fit(part.z, part.condition) for part in parts]
    several = pooled and len(set(animals)) > 1
    others = classifiers_of_others(own, parts, animals, C) if several else []
    accuracy = np.full((len(LEVELS), len(parts) + several, len(parts)), np.nan)
    for t, (name, part) in enumerate(test.items()):
        answered = Answered.of([*own, *others[t : t + 1]], part, known, train[name])
        accuracy[:, :, t] = answered.accuracy
    found = scores_of_pairs(accuracy, animals)
    return {name: values for name, values in found.items() if name in MEANS}


MEANS = ("mean_own", "mean_cross", "mean_pooled")


@dataclass(frozen=True)
class Answered:
    """What the classifiers of all sources say of the held-out trials of one subject."""

    truth: NDArray[np.bool_]
    """(trial, condition)."""
    allowed: NDArray[np.bool_]
    """Which a source may answer, (source, condition)."""
    evidence: list[Array]
    """Of every source, (window, condition)."""
    votes: Array
    """(level, source, trial, predicted)."""

    @classmethod
    def of(
        cls, classifiers: Sequence[Classifier], part: Windows, known: NDArray[Any], own: Windows
    ) -> Answered:
        """Ask about held-out windows; `own` are the training windows of the same subject."""
        shown = np.isin(known, own.condition) | np.isin(known, part.condition)
        taught = [
            np.isin(known, one.classes_) if len(one.classes_) < len(known) else True
            for one in classifiers
        ]
        allowed = np.stack([shown & own for own in taught])
        evidence = [
            answers(one, part.z, known, may) for one, may in zip(classifiers, allowed, strict=True)
        ]
        votes = np.stack([tally(one, part) for one in evidence], axis=1)
        return cls(part.trial_condition[:, None] == known, allowed, evidence, votes)

    @property
    def scored(self) -> Array:
        """One, or NaN where one condition tells nothing, (source,)."""
        return np.where(self.allowed.sum(axis=1) > 1, 1.0, np.nan)

    @property
    def accuracy(self) -> Array:
        """Balanced accuracy (level, source)."""
        found = balanced_accuracy(self.truth[None], self.votes, self.allowed)[0]
        return np.asarray(found * self.scored)


def scores_of_pairs(pairs: Array, animals: Sequence[str]) -> dict[str, Array]:
    """Scores by name from those of all pairs, (..., source, target), and their means.

    There may be one source more than there are targets: all other animals together.
    """
    n = len(animals)
    own = np.diagonal(pairs[..., :n, :], axis1=-2, axis2=-1)
    cross = np.where(np.eye(n, dtype=bool), np.nan, pairs[..., :n, :])
    between, within = pairs_of_animals(cross, animals)
    found = {
        "own": own,
        "cross": cross,
        "mean_own": known_mean(over_animals(own, animals), -1),
        "mean_cross": known_mean(between, (-2, -1)),
    }
    if pairs.shape[-2] > n:
        found["pooled"] = pairs[..., n, :]
        found["mean_pooled"] = known_mean(over_animals(found["pooled"], animals), -1)
    if len(names_of(animals)) < n:
        found["cross_within"] = within
        found["mean_cross_within"] = known_mean(within, -1)
    return found


def windows_by_subject(latents: xr.DataArray, by: str) -> dict[str, Windows]:
    """Part latents by subject."""
    trial = latents.coords["trial"].transpose("subject", "window").values
    condition = _by_subject(latents, by)
    onset = _by_subject(latents, "onset") if "onset" in latents.coords else None
    time = np.asarray(latents.coords["time"].values, float).round(9)
    parts = {}
    for index, name in enumerate(latents.coords["subject"].values.tolist()):
        z = np.asarray(latents.values[index], float)
        there = ~np.isnan(z).any(axis=1)
        if not there.any():
            raise ValueError(f"subject {name!r} is absent from every window. Leave it out.")
        when = None if onset is None else np.asarray(onset[index][there], float)
        parts[str(name)] = _once(
            z[there], trial[index][there], condition[index][there], time[there], when, by
        )
    return parts


def _by_subject(latents: xr.DataArray, name: str) -> NDArray[Any]:
    """Values (subject, window) of a coordinate that may be the same for all subjects."""
    of_all, _ = xr.broadcast(latents.coords[name], latents.coords["trial"])
    return np.asarray(of_all.transpose("subject", "window").values)


def _once(
    z: Array,
    trial: NDArray[Any],
    condition: NDArray[Any],
    time: Array,
    onset: Array | None,
    by: str,
) -> Windows:
    ids, first, position = np.unique(trial, return_index=True, return_inverse=True)
    of_trial = condition[first]
    if not (of_trial[position] == condition).all():
        double = ids[np.unique(position[of_trial[position] != condition])].tolist()
        raise ValueError(f"trials {double[:5]} occur with several values of {by!r}; expected one.")
    times, tick = np.unique(time, return_inverse=True)
    cells, index, n = np.unique(
        position * len(times) + tick, return_inverse=True, return_counts=True
    )
    total = np.zeros((len(cells), z.shape[1]))
    np.add.at(total, index, z)
    position = cells // len(times)
    return Windows(
        z=total / n[:, None],
        condition=of_trial[position],
        time=times[cells % len(times)],
        trial=position,
        trial_ids=ids,
        trial_condition=of_trial,
        trial_onset=None if onset is None else onset[first],
    )


def tally(evidence: Array, part: Windows) -> Array:
    """How many windows, and whole trials, of each trial go to each condition."""
    n_trials, n_conditions = len(part.trial_ids), evidence.shape[1]
    votes = np.zeros((len(LEVELS), n_trials, n_conditions))
    chosen = part.trial * n_conditions + evidence.argmax(axis=1)
    votes[0] = np.bincount(chosen, minlength=votes[0].size).reshape(votes[0].shape)
    trial, summands = part.trial, evidence.T
    if (trial[1:] < trial[:-1]).any():
        order = np.argsort(trial, kind="stable")
        trial, summands = trial[order], summands[:, order]
    summed = np.add.reduceat(summands, np.searchsorted(trial, np.arange(n_trials)), axis=1)
    votes[1, np.arange(n_trials), summed.argmax(axis=0)] = 1
    return votes


def balanced_accuracy(
    truth: NDArray[Any], votes: Array, taught: NDArray[np.bool_] | None = None
) -> Array:
    """Mean recall over conditions, (draw, level, source).

    `truth` (draw, trial, condition) are weights: labels, permuted or drawn again. Conditions
    without held-out trials are left out, and so are those that a source was not `taught` (source,
    condition): nobody can name what they never saw.
    """
    n_draws, _, n_conditions = truth.shape
    shape = n_draws, *votes.shape[:2], n_conditions
    # Products of matrices, (condition, draw, trial) by (condition, trial, level and source).
    drawn = np.moveaxis(truth, 2, 0).astype(float)
    cast = votes.reshape(-1, *votes.shape[2:])
    hits = np.moveaxis(drawn @ np.moveaxis(cast, (2, 1), (0, 1)), 0, -1).reshape(shape)
    total = np.moveaxis(drawn @ cast.sum(axis=2).T, 0, -1).reshape(shape)
    if taught is not None:
        total = total * taught
    recall = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
    n = (total > 0).sum(axis=3)
    return np.where(n > 0, recall.sum(axis=3) / np.maximum(n, 1), np.nan)


def accuracy_by_time(evidence: Array, part: Windows, known: NDArray[Any], times: Array) -> Array:
    """Balanced accuracy of the windows at each time; NaN where there are none."""
    truth = (part.condition[:, None] == known) & np.isfinite(evidence).any(axis=0)
    hit = known[evidence.argmax(axis=1)] == part.condition
    shape = len(times), len(known)
    cell = np.searchsorted(times, part.time) * len(known) + truth.argmax(axis=1)
    asked = truth.any(axis=1)
    total, hits = (
        np.bincount(cell, weight, np.prod(shape)).reshape(shape) for weight in (asked, asked & hit)
    )
    recall = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
    n = (total > 0).sum(axis=1)
    return np.where(n > 0, recall.sum(axis=1) / np.maximum(n, 1), np.nan)
