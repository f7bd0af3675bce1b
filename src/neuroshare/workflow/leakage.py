"""What scores would claim on a user's own design if there were nothing to find."""

from __future__ import annotations

from functools import partial
from math import ceil
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.fft import dct, idct
from scipy.stats import poisson
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from neuroshare.analysis.inference import known_mean
from neuroshare.analysis.separation import separation
from neuroshare.models.linear import LinearAlignment
from neuroshare.support.checks import require_seed, require_whole
from neuroshare.support.parallel import Executor, run_each
from neuroshare.windows.paired import PairedWindows
from neuroshare.workflow.doors import require_executor, require_paired, require_trials

FEWEST_TRIALS = 8
"""With fewer it cannot be told how activity varies."""
GAIN = 0.3
"""Standard deviation of the gain of their trials."""
SCHEMES = (
    "nearest neighbours, windows shuffled",
    "logistic regression, windows shuffled",
    "nearest neighbours, whole trials held out",
    "logistic regression, whole trials held out",
    "neuroshare, trials split at random, own per trial",
    "neuroshare, trials split at random, cross per trial",
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

    Subjects, units with their mean rates, windows, and the trials with their conditions, order and
    times are those of the data; so is how far activity drifts over the session. Spikes are drawn
    without regard to the condition. Whatever exceeds chance here is leakage, and would be in the
    scores of the real data as well.

    Parameters
    ----------
    paired
        The design, of spike counts. Its activity gives mean rates and drift, and nothing else.
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
        part whole trials, and of this package: linear alignment and `separation` (`cross` by
        target, from other animals) of trials split at random, and of `split` as it is by default.
        ``mean`` (scheme) over subjects, ``spread`` (scheme), the standard error over subjects and
        simulations, its ``chance`` (scheme), and ``sentence`` (scheme), each in words.

    Raises
    ------
    ValueError
        If the activity is not spike counts, a condition has too few trials, or a number is out of
        its range.
    TypeError
        If `paired` is no `PairedWindows`.

    Notes
    -----
    Windows that overlap share spikes, and all windows of a trial share its state. Put some of them
    into the training part and some into the test part, and a classifier recognises the trial, whose
    condition it knows. Where conditions come in runs and activity drifts, whole trials are not far
    enough either: neighbours are alike. The spikes are Poisson, with gains that vary from trial to
    trial, slowly and fast, as the recording's own root counts do beyond Poisson noise, moved along
    the session by a quarter of it or more.

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
    require_paired(paired, "paired", "leakage_report")
    require_trials(paired, "leakage_report")
    require_whole(n_simulations, "n_simulations", "leakage_report", 1)
    require_whole(n_folds, "n_folds", "leakage_report", 2)
    require_seed(seed, "leakage_report")
    require_executor(executor, "leakage_report")
    for name in paired.subjects:
        if why := paired.why_not_counts(name):
            raise ValueError(
                f"leakage_report simulates spike counts; the activity of {name!r} has {why}. "
                "Pair the counts as binned."
            )
    few = [
        f"{name} {condition!r} ({n})"
        for name, numbers in paired.trials_of_conditions().iterrows()
        for condition, n in numbers.items()
        if 0 < n < n_folds
    ]
    if few:
        raise ValueError(
            f"{n_folds} folds need as many trials of each condition; too few: {', '.join(few)}. "
            "Lower n_folds or leave these conditions out."
        )
    simulated = partial(_simulated, n_folds=n_folds, seed=seed)
    found = dict(run_each(simulated, paired, range(n_simulations), executor))
    # (simulation, quantity, scheme, subject)
    accuracy, chance, n = np.stack([found[k] for k in range(n_simulations)]).swapaxes(0, 1)
    n_scores = accuracy.shape[0] * accuracy.shape[2]
    mean, chance_mean = (np.mean(values, axis=(0, 2)) for values in (accuracy, chance))
    spread = np.std(accuracy, axis=(0, 2)) / np.sqrt(n_scores)
    # What so few trials give by luck.
    luck = np.sqrt(np.mean(chance * (1 - chance) / n, axis=(0, 2)) / n_scores)
    sentences = [
        _sentence(scheme, *of_scheme)
        for scheme, *of_scheme in zip(SCHEMES, mean, spread, luck, chance_mean, strict=True)
    ]
    return xr.Dataset(
        {
            "accuracy": (("scheme", "subject"), accuracy.mean(axis=0)),
            "mean": ("scheme", mean),
            "spread": ("scheme", spread),
            "chance": ("scheme", chance_mean),
            "sentence": ("scheme", sentences),
        },
        coords={"scheme": list(SCHEMES), "subject": list(paired.subjects)},
        attrs={"by": paired.by, "n_simulations": n_simulations, "seed": seed},
    )


def _sentence(scheme: str, mean: float, spread: float, luck: float, chance: float) -> str:
    if np.isnan(mean):
        return f"{scheme}: not defined for one subject."
    leaks = mean > chance + max(4 * spread, 3 * luck, 0.05)
    verdict = "this is leakage, not information" if leaks else "no leakage"
    return f"{scheme}: {mean:.2f} where chance is {chance:.2f}; {verdict}."


def _without_information(paired: PairedWindows, rng: np.random.Generator) -> PairedWindows:
    """Give the pairing counts of the same rates and drift that know nothing of the conditions."""

    def drawn(name: str, values: NDArray[Any]) -> NDArray[Any]:
        activity = paired.activity(name)
        rate = activity.mean(axis=(0, 2))
        gain = _gain(paired, name, activity.sum(axis=2, dtype=float), rng)
        return rng.poisson(np.broadcast_to((gain * rate)[:, :, None], values.shape))

    return paired.changed(drawn)


def _gain(
    paired: PairedWindows, name: str, counts: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Gain of every binned trial and unit that varies as the recording does, elsewhere in time.

    Root counts (trial, unit) within conditions, without what of them is Poisson noise, are moved
    along the session by a quarter of it or more, so that they have no tie to the conditions.
    """
    every = paired.places(name, binned=True)
    places, codes = paired.places(name), paired.codes(name)
    order = np.argsort(places)
    roots, codes = np.sqrt(counts)[order], codes[order]
    n = len(roots)
    if n < FEWEST_TRIALS:
        return rng.gamma(1 / GAIN**2, GAIN**2, size=(len(every), roots.shape[1]))
    residual = roots.copy()
    for code in np.unique(codes):
        residual[codes == code] -= residual[codes == code].mean(axis=0)
    path = _without_noise(residual, _root_variance(counts.mean(axis=0)))
    # A mean of few runs has taken some of the drift away.
    n_runs = max((1 + (codes[1:] != codes[:-1]).sum()) / len(np.unique(codes)), 2)
    path *= np.sqrt(n_runs / (n_runs - 1))
    path = np.roll(path, int(rng.integers(ceil(n / 4), n - ceil(n / 4) + 1)), axis=0)
    level = np.sqrt(np.maximum(counts.mean(axis=0), 1e-12))
    gain = np.square(np.maximum(level + path, 0) / level)
    # Trials that are not paired take the gain of the paired one before them.
    at = np.searchsorted(places[order], every, side="right") - 1
    return np.asarray(gain[np.maximum(at, 0)])


def _root_variance(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance of the root of a Poisson count."""
    k = np.arange(100.0)[:, None]
    root = (np.sqrt(k) * poisson.pmf(k, mean)).sum(axis=0)
    return np.where(mean < 30, mean - root**2, 0.25)


def _without_noise(x: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale the waves of x (trial, unit) along the trials so that variance above noise is left.

    Of how fast x changes from trial to trial, its spectrum, that falls with frequency, in the same
    way in all units, each by a size of its own.
    """
    waves = dct(x, axis=0, norm="ortho")
    power = np.square(waves)
    # Where rates vary, there is less noise than at their mean.
    noise = np.minimum(noise, power[-(len(x) // 4) :].mean(axis=0))
    above = power - noise
    shape = above.mean(axis=1)
    shape[0] = shape[1]  # means were taken away
    falling = IsotonicRegression(increasing=False).fit_transform(np.arange(len(shape)), shape)
    falling = np.maximum(falling, 0)
    if not falling.any():
        return np.zeros_like(x)
    # Least squares of the spectrum of each unit on the common one.
    size = np.maximum(falling[1:] @ above[1:] / (falling[1:] @ falling[1:]), 0)
    kept = falling[:, None] * size
    share = np.divide(kept, kept + noise, out=np.zeros_like(kept), where=kept > 0)
    return np.asarray(idct(waves * np.sqrt(share), axis=0, norm="ortho"))


def _simulated(paired: PairedWindows, k: int, n_folds: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng([seed, k])
    return _simulated_scores(_without_information(paired, rng), n_folds, k)


def _simulated_scores(paired: PairedWindows, n_folds: int, seed: int) -> NDArray[np.float64]:
    """Balanced accuracy, its chance and the number of scored trials, each (scheme, subject)."""
    known = (
        KNeighborsClassifier(5),
        make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=300)),
    )
    folds = (
        StratifiedKFold(n_folds, shuffle=True, random_state=seed),
        StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed),
    )
    scores = np.full((3, len(SCHEMES), len(paired.subjects)), np.nan)
    for s, name in enumerate(paired.subjects):
        windows = paired.select([name])[name]
        x = np.sqrt(windows.values.sum(axis=2))
        y, trial = windows.coords[paired.by].values, windows.coords["trial"].values
        for f, fold in enumerate(folds):
            for c, classifier in enumerate(known):
                scores[0, 2 * f + c, s] = _cross_validated(classifier, x, y, trial, fold)
        scores[1, :4, s], scores[2, :4, s] = 1 / len(np.unique(y)), len(np.unique(trial))
    parts = paired.split(1 / n_folds, seed=seed)
    scores[:, 6:] = _own_and_cross(*parts)
    scores[:, 4:6] = scores[:, 6:]
    if any(part.stretched for part in parts):
        scores[:, 4:6] = _own_and_cross(*paired.split(1 / n_folds, seed=seed, blocks=None))
    return scores


def _own_and_cross(train: PairedWindows, test: PairedWindows) -> NDArray[np.float64]:
    """Accuracy per trial of linear alignment, chance, trials: (quantity, own or cross, subject)."""
    width = min(8, *(len(ids) for ids in train.units.values()))
    model = LinearAlignment("mcca", width, n_components=40, ridge=0.5).fit(train)
    found = separation(model.transform(train), model.transform(test), pooled=False).sel(
        level="trial"
    )
    n = found["confusion"].isel(source=0).sum(("condition", "predicted")).values
    animals = found["subject_animal"].values
    between = animals[:, None] != animals
    cross = [
        known_mean(np.where(between, found[name].transpose("source", "target"), np.nan), 0)
        for name in ("cross", "chance_cross")
    ]
    return np.array(
        [[found["own"].values, cross[0]], [found["chance_own"].values, cross[1]], [n, n]]
    )


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
