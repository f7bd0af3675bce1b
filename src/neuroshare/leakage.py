"""What scores would claim on a user's own design if there were nothing to find."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from neuroshare.analysis.separation import separation
from neuroshare.executor import Executor, run_each
from neuroshare.linear import LinearAlignment
from neuroshare.recordings.pairing import PairedWindows

SCHEMES = (
    "nearest neighbours, windows shuffled",
    "logistic regression, windows shuffled",
    "nearest neighbours, whole trials held out",
    "logistic regression, whole trials held out",
    "neuroshare, own per trial",
    "neuroshare, cross per trial",
)


def leakage_report(
    paired: PairedWindows,
    *,
    n_simulations: int = 1,
    n_folds: int = 5,
    seed: int = 0,
    executor: int | Executor | None = None,
) -> xr.Dataset:
    """Simulate a design without any information, and see who claims to find some.

    Subjects, units with their mean rates, trials per condition and windows are those of the data;
    spikes are drawn without regard to the condition. Whatever exceeds chance here is leakage, and
    would be in the scores of the real data as well.

    Parameters
    ----------
    paired : PairedWindows
        The design, of spike counts. Its activity gives mean rates and nothing else.
    n_simulations
        Simulations to average over.
    n_folds
        Folds of the cross-validations; each condition needs as many trials.
    seed
        Seed of the simulations.
    executor
        Where simulations are executed, as in `sweep`: None, a number of processes, a Dask client,
        or an object whose `submit` returns futures. The report is the same everywhere.

    Returns
    -------
    Dataset
        ``accuracy`` (scheme, subject): balanced accuracy of the condition, mean over simulations,
        of two classifiers on window counts whose folds part windows, of the same two whose folds
        part whole trials, and of this package: a split by trial, linear alignment, `separation`
        (`cross` by target). ``mean`` (scheme) over subjects, ``spread`` (scheme), the standard
        error over subjects and simulations, ``chance``, and ``sentence`` (scheme), each in words.

    Raises
    ------
    ValueError
        If the activity is not spike counts, or a condition has too few trials.

    Notes
    -----
    Windows that overlap share spikes, and all windows of a trial share its state. Put some of them
    into the training part and some into the test part, and a classifier recognises the trial, whose
    condition it knows. The spikes are Poisson with a gain per trial and unit that varies by 30 %.

    Examples
    --------
    >>> import neuroshare as ns
    >>> sessions = ns.simulate_sessions({"mitt": 12, "stella": 9}, n_trials=10)
    >>> counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    >>> report = ns.leakage_report(ns.pair_subjects(counts, by="odor"))
    >>> leaky, honest = report["mean"].values[[0, 2]]
    >>> bool(leaky > 0.5), bool(honest < 0.4)
    (True, True)
    """
    few = [
        f"{name} {condition!r} ({n})"
        for name in paired.subjects
        for condition in paired.conditions
        if 0 < (n := int((paired.labels[name][paired.trials[name]] == condition).sum())) < n_folds
    ]
    if few:
        raise ValueError(
            f"{n_folds} folds need as many trials of each condition; too few: {', '.join(few)}. "
            "Lower n_folds or leave these conditions out."
        )
    simulated = partial(_simulated, n_folds=n_folds, seed=seed)
    found = dict(run_each(simulated, paired, range(n_simulations), executor))
    accuracy = np.stack([found[k] for k in range(n_simulations)])
    mean = np.mean(accuracy, axis=(0, 2))
    spread = np.std(accuracy, axis=(0, 2)) / np.sqrt(accuracy.shape[0] * accuracy.shape[2])
    chance = 1 / len(paired.conditions)
    sentences = [
        _sentence(scheme, m, s, chance) for scheme, m, s in zip(SCHEMES, mean, spread, strict=True)
    ]
    return xr.Dataset(
        {
            "accuracy": (("scheme", "subject"), accuracy.mean(axis=0)),
            "mean": ("scheme", mean),
            "spread": ("scheme", spread),
            "chance": chance,
            "sentence": ("scheme", sentences),
        },
        coords={"scheme": list(SCHEMES), "subject": list(paired.subjects)},
        attrs={"by": paired.by, "n_simulations": n_simulations, "seed": seed},
    )


def _sentence(scheme: str, mean: float, spread: float, chance: float) -> str:
    if np.isnan(mean):
        return f"{scheme}: not defined for one subject."
    # Few trials wander: four standard errors, and no less than a twentieth.
    leaks = mean > chance + max(4 * spread, 0.05)
    verdict = "this is leakage, not information" if leaks else "no leakage"
    return f"{scheme}: {mean:.2f} where chance is {chance:.2f}; {verdict}."


def _without_information(paired: PairedWindows, rng: np.random.Generator) -> PairedWindows:
    """Give the pairing counts of the same mean rates that know nothing of the conditions."""
    counts = {}
    for name, array in paired.counts.items():
        values = np.asarray(array.values)
        if (values < 0).any() or (values != np.rint(values)).any():
            raise ValueError(
                f"leakage_report simulates spike counts; the activity of {name!r} is not of whole, "
                "non-negative counts. Pair the counts as binned."
            )
        rate = values[paired.trials[name]].mean(axis=(0, 2))
        gain = rng.gamma(1 / 0.3**2, 0.3**2, size=values.shape[:2])
        drawn = rng.poisson(np.broadcast_to((gain * rate)[:, :, None], values.shape))
        counts[name] = array.copy(data=drawn)
    return replace(paired, counts=counts)


def _simulated(paired: PairedWindows, k: int, n_folds: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng([seed, k])
    return _simulated_scores(_without_information(paired, rng), n_folds, k)


def _simulated_scores(paired: PairedWindows, n_folds: int, seed: int) -> NDArray[np.float64]:
    """Balanced accuracy (scheme, subject)."""
    known = (
        KNeighborsClassifier(5),
        make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=300)),
    )
    folds = (
        StratifiedKFold(n_folds, shuffle=True, random_state=seed),
        StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed),
    )
    scores = np.full((len(SCHEMES), len(paired.subjects)), np.nan)
    for s, name in enumerate(paired.subjects):
        windows = paired.select([name])[name]
        x = np.sqrt(windows.values.sum(axis=2))
        y, trial = windows.coords[paired.by].values, windows.coords["trial"].values
        for f, fold in enumerate(folds):
            for c, classifier in enumerate(known):
                scores[2 * f + c, s] = _cross_validated(classifier, x, y, trial, fold)
    train, test = paired.split(1 / n_folds, seed=seed)
    width = min(8, *(len(ids) for ids in paired.units.values()))
    model = LinearAlignment("mcca", latent_dim=width).fit(train)
    found = separation(model.transform(train), model.transform(test)).sel(level="trial")
    scores[4] = found["own"].values
    if len(paired.subjects) > 1:
        scores[5] = found["cross"].mean("source").values
    return scores


def _cross_validated(
    classifier: KNeighborsClassifier | Pipeline,
    x: NDArray[Any],
    y: NDArray[Any],
    trial: NDArray[Any],
    folds: StratifiedKFold | StratifiedGroupKFold,
) -> float:
    """Balanced accuracy of predictions for held-out windows."""
    grouped = isinstance(folds, StratifiedGroupKFold)
    predicted = cross_val_predict(classifier, x, y, groups=trial if grouped else None, cv=folds)
    return float(np.mean([(predicted[y == value] == value).mean() for value in np.unique(y)]))
