"""Several models on the same split, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from sklearn.base import clone

from neuroshare.analysis.imputation import imputation_scores
from neuroshare.analysis.inference import interval, p_value
from neuroshare.analysis.separation import separation
from neuroshare.executor import Executor, run_each
from neuroshare.linear import LinearAlignment

Row = dict[str, Any]
RAW = "raw counts"
_PENALTIES = (1e-4, 1e-3, 1e-2, 1.0)
BASELINES = {
    "procrustes": LinearAlignment("procrustes"),
    "mcca": LinearAlignment("mcca"),
    "srm": LinearAlignment("srm"),
}
_WIDTHS = (2, 4, 8, 12)
_COMPONENTS_AND_RIDGES = ((40, 0.5), (80, 1.0), (150, 1.0), (150, 3.0))


@dataclass(frozen=True)
class Scored:
    """All scores of one model on one split."""

    separation: xr.Dataset
    imputation: xr.Dataset | None = None
    repaired: xr.Dataset | None = None
    """``mean_own``, ``mean_cross`` (repairing, level) of fits to pairings without information."""


def compare(
    train: Any,
    test: Any,
    models: Mapping[str, Any] | None = None,
    *,
    fitted: Mapping[str, Any] | None = None,
    baselines: bool = True,
    tuned: bool = False,
    against: str | None = None,
    imputation: bool = True,
    n_permutations: int = 0,
    n_repairings: int = 0,
    n_bootstraps: int = 200,
    seed: int = 0,
    executor: int | Executor | None = None,
) -> pd.DataFrame:
    """Fit models on the same training windows, score them on the same held-out trials.

    Parameters
    ----------
    train, test : PairedWindows
        The parts of one split.
    models
        Name -> estimator with ``fit``, ``transform`` and ``impute``. Every one is cloned and
        fitted, so that none has seen other data.
    fitted
        Name -> estimator that was fitted to `train`, and to nothing else, before. It is scored as
        it is.
    baselines
        Add the linear alignments, and logistic regression on raw counts (own accuracy only; its
        penalty is chosen on trials held out of `train`).
    tuned
        Choose the number of latents, components and ridge of the linear alignments by cross
        accuracy on trials held out of `train`, instead of taking their defaults.
    against
        Name of a model from which every other one's difference is taken.
    imputation
        Score imputation too, which takes longer than the accuracies; on windows that overlap by
        half at most (``PairedWindows.thinned``).
    n_permutations
        Permutations of the conditions of held-out trials; they need no fit. 0 leaves p NaN.
    n_repairings
        Fits to pairings whose conditions were shuffled between whole trials within each subject,
        in both parts: the null of the whole analysis, the fit included, which holds for any model.
        Models that come `fitted` are cloned and refitted for it, raw counts have none.
    n_bootstraps
        Bootstrap samples of the 95 % intervals; 0 leaves them NaN.
    seed
        Seed of bootstrap, permutations and re-pairings.
    executor
        Where the refits of `n_repairings` are executed, as in `sweep`: None, a number of
        processes, a Dask client, or an object whose `submit` returns futures. Each uses one
        thread, so on a CPU the null is the same everywhere.

    Returns
    -------
    DataFrame
        One row per model, score and level: ``model``; ``score``, which is own, cross, or
        bits_per_spike, above_psth and coherence from one other and from all others; ``level``
        (window, trial, or empty); ``value``, the mean over subjects or pairs; ``low``, ``high``,
        hierarchical over subjects and trials; ``chance``; ``p`` of the permutations. With
        `against` also ``difference``, ``difference_low``, ``difference_high``, of which both models
        see the same bootstrap samples. With `n_repairings` also ``null``, ``null_low``,
        ``null_high`` and ``p_null``.

    Raises
    ------
    ValueError
        If there is nothing to compare, a trial is in both parts, or `against` is no model.

    Examples
    --------
    >>> import neuroshare as ns
    >>> sessions = ns.simulate_sessions({"mitt": 12, "stella": 9}, n_trials=8, signal=2.0)
    >>> counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    >>> train, test = ns.pair_subjects(counts, by="odor", step=0.05).split(0.25, seed=0)
    >>> table = ns.compare(train, test, against="mcca", imputation=False)
    >>> sorted(set(table.model))
    ['mcca', 'procrustes', 'raw counts', 'srm']
    """
    scored = score_models(
        train,
        test,
        models,
        fitted=fitted,
        baselines=baselines,
        tuned=tuned,
        imputation=imputation,
        n_permutations=n_permutations,
        n_repairings=n_repairings,
        n_bootstraps=n_bootstraps,
        seed=seed,
        executor=executor,
    )
    return tabulate(scored, against)


def score_models(
    train: Any,
    test: Any,
    models: Mapping[str, Any] | None = None,
    *,
    fitted: Mapping[str, Any] | None = None,
    baselines: bool = True,
    tuned: bool = False,
    imputation: bool = True,
    n_permutations: int = 0,
    n_repairings: int = 0,
    n_bootstraps: int = 200,
    seed: int = 0,
    executor: int | Executor | None = None,
) -> dict[str, Scored]:
    """Score every model as `compare` does: name -> all scores."""
    # No wider than the subject of fewest units.
    fewest = min(len(ids) for ids in train.units.values())
    linear = {
        name: clone(model).set_params(latent_dim=min(model.latent_dim, fewest))
        for name, model in (BASELINES.items() if baselines else ())
    }
    everything = {**linear, **(models or {}), **(fitted or {})}
    if not everything:
        raise ValueError("nothing to compare: give models, or leave the baselines in.")
    settings: dict[str, Any] = {
        "n_permutations": n_permutations,
        "n_bootstraps": n_bootstraps,
        "seed": seed,
    }
    if tuned:
        everything |= {
            name: _tuned(model, train, seed)
            for name, model in linear.items()
            if everything[name] is model
        }
    repaired = _repaired(everything, train, test, n_repairings, seed, executor)
    scored = {}
    if baselines:
        scored[RAW] = Scored(_raw(train, test, **settings))
    for name, model in everything.items():
        ready = model if name in (fitted or {}) else clone(model).fit(train)
        scored[name] = Scored(
            separation(ready.transform(train), ready.transform(test), by=test.by, **settings),
            imputation_scores(ready, train.thinned(), test.thinned(), n_bootstraps, seed)
            if imputation and len(test.subjects) > 1
            else None,
            repaired.get(name),
        )
    return scored


def tabulate(scored: Mapping[str, Scored], against: str | None = None) -> pd.DataFrame:
    """Table of `compare` from the scores of every model."""
    if against is not None and against not in scored:
        raise ValueError(
            f"The 'against' parameter of compare must name one of the models {list(scored)}. "
            f"Got {against!r} instead."
        )
    rows = []
    for name, one in scored.items():
        other = scored[against] if against is not None and against != name else None
        for row in _accuracies(one, other) + _imputation(one, other):
            rows.append({"model": name, **row})
    table = pd.DataFrame(rows)
    if against is not None:
        for column in ("difference", "difference_low", "difference_high"):
            if column not in table:
                table[column] = np.nan
    return table


def raw_counts(paired: Any) -> xr.DataArray:
    """Square-root counts per window as if they were latents, (subject, window, latent).

    Subjects with fewer units are padded with zeros, which a classifier within the subject ignores;
    between subjects such columns mean nothing.
    """
    sums = [np.sqrt(paired[name].values.sum(axis=2)) for name in paired.subjects]
    most = max(values.shape[1] for values in sums)
    return xr.DataArray(
        np.stack([np.pad(v, ((0, 0), (0, most - v.shape[1]))) for v in sums]),
        dims=("subject", "window", "latent"),
        coords=paired.coords(),
        attrs={"by": paired.by},
    )


def _raw(train: Any, test: Any, **settings: Any) -> xr.Dataset:
    """Separation of raw counts, the penalty chosen on trials held out of the training part."""
    parts = train.thinned().split(0.25, seed=settings["seed"])
    inner, validation = (raw_counts(part) for part in parts)

    def validated(C: float) -> float:
        return float(separation(inner, validation, C=C).mean_own.sel(level="trial"))

    best = max(_PENALTIES, key=validated)
    scores = separation(raw_counts(train), raw_counts(test), C=best, **settings)
    # The same column is another unit in every subject: there is nothing across subjects.
    across = [name for name in map(str, scores) if "cross" in name]
    return scores.drop_vars([*across, "time_course", "confusion", "n_conditions"])


def _tuned(model: LinearAlignment, train: Any, seed: int) -> LinearAlignment:
    """Give a linear alignment the settings of best cross accuracy on validation trials."""
    inner, validation = train.thinned().split(0.25, seed=seed)
    grid: list[dict[str, Any]] = [{"latent_dim": k} for k in _WIDTHS]
    if model.method == "mcca":
        grid = [
            {**one, "n_components": n, "ridge": ridge}
            for one, (n, ridge) in product(grid, _COMPONENTS_AND_RIDGES)
        ]

    def validated(settings: dict[str, Any]) -> float:
        tried = clone(model).set_params(**settings).fit(inner)
        scores = separation(tried.transform(inner), tried.transform(validation))
        return float(scores.mean_cross.sel(level="trial"))

    chosen: LinearAlignment = clone(model).set_params(**max(grid, key=validated))
    return chosen


def _repaired(
    models: Mapping[str, Any],
    train: Any,
    test: Any,
    n: int,
    seed: int,
    executor: int | Executor | None,
) -> dict[str, xr.Dataset]:
    """Mean accuracies of fits to data whose conditions say nothing, of every model."""
    if not n:
        return {}
    refits = [(clone(model), seed + k) for model in models.values() for k in range(1, n + 1)]
    found = dict(run_each(_refitted, (train, test), refits, executor))
    scores = [found[position] for position in range(len(refits))]
    return {
        name: xr.concat(scores[m * n : (m + 1) * n], dim="repairing")
        for m, name in enumerate(models)
    }


def _refitted(parts: tuple[Any, Any], refit: tuple[Any, int]) -> xr.Dataset:
    model, seed = refit
    train, test = (part.repair(seed, shuffle_conditions=True) for part in parts)
    fitted = model.fit(train)
    scores = separation(fitted.transform(train), fitted.transform(test), by=test.by)
    return scores[["mean_own", "mean_cross"]]


def _accuracies(one: Scored, other: Scored | None) -> list[Row]:
    rows = []
    for kind in ("own", "cross") if "mean_cross" in one.separation else ("own",):
        for level in one.separation["level"].values.tolist():
            others = None if other is None else other.separation
            row = _row(one.separation, others, f"mean_{kind}", level=level)
            row = {"score": kind, "level": level, **row}
            if one.repaired is not None:
                null = one.repaired[f"mean_{kind}"].sel(level=level)
                low, high = interval(null, "repairing").values.tolist()
                p = float(p_value(row["value"], null))
                row |= {"null": float(null.mean()), "null_low": low, "null_high": high, "p_null": p}
            rows.append(row)
    return rows


def _imputation(one: Scored, other: Scored | None) -> list[Row]:
    rows: list[Row] = []
    if one.imputation is None:
        return rows
    for sources in one.imputation["sources"].values.tolist():
        for kind in ("bits_per_spike", "above_psth", "coherence"):
            others = None if other is None else other.imputation
            row = _row(one.imputation, others, f"mean_{kind}", sources=sources)
            rows.append({"score": f"{kind}, {sources}", "level": "", **row})
    return rows


def _row(scores: xr.Dataset, others: xr.Dataset | None, name: str, **at: str) -> Row:
    """Value with its interval, chance and p, and the difference to another model."""
    low, high = _bounds(scores.get(f"{name}_interval"), **at)
    accuracy = name in ("mean_own", "mean_cross")
    row = {
        "value": float(scores[name].sel(at)),
        "low": low,
        "high": high,
        "chance": float(scores["chance"]) if accuracy else np.nan,
        "p": float(scores[f"p_{name}"].sel(at)) if f"p_{name}" in scores else np.nan,
    }
    if others is not None and name in others and np.isfinite(float(others[name].sel(at))):
        row["difference"] = row["value"] - float(others[name].sel(at))
        if f"sample_{name}" in scores:
            paired = scores[f"sample_{name}"].sel(at) - others[f"sample_{name}"].sel(at)
            row["difference_low"], row["difference_high"] = interval(paired).values.tolist()
    return row


def _bounds(bounds: xr.DataArray | None, **at: str) -> tuple[float, float]:
    if bounds is None:
        return float("nan"), float("nan")
    low, high = bounds.sel(at).values.tolist()
    return low, high
