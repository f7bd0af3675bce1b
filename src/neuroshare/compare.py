"""Several models on the same split, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from sklearn.base import clone

from neuroshare.analysis.imputation import imputation_scores
from neuroshare.analysis.separation import separation
from neuroshare.linear import LinearAlignment

Row = dict[str, Any]
_PENALTIES = (1e-4, 1e-3, 1e-2, 1.0)
BASELINES = {
    "procrustes": LinearAlignment("procrustes"),
    "mcca": LinearAlignment("mcca"),
    "srm": LinearAlignment("srm"),
}


def compare(
    train: Any,
    test: Any,
    models: Mapping[str, Any] | None = None,
    *,
    baselines: bool = True,
    imputation: bool = True,
    n_bootstraps: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Fit models on the same training windows, score them on the same held-out trials.

    Parameters
    ----------
    train, test : PairedWindows
        The parts of one split.
    models
        Name -> estimator with ``fit``, ``transform`` and ``impute``. Every one is cloned and
        fitted, so that none has seen other data.
    baselines
        Add the linear alignments, and logistic regression on raw counts (own accuracy only; its
        penalty is chosen on trials held out of `train`).
    imputation
        Score imputation too, which takes longer than the accuracies.
    n_bootstraps
        Bootstrap samples of the 95 % intervals; 0 leaves them NaN.
    seed
        Seed of the bootstrap.

    Returns
    -------
    DataFrame
        One row per model, score and level: ``model``; ``score``, which is own, cross, coherence,
        or bits_per_spike and above_psth from one other and from all others; ``level`` (window,
        trial, or empty); ``value``, the mean over subjects or pairs; ``low``, ``high``;
        ``chance``. The intervals of own and cross are hierarchical over subjects and trials, those
        of bits per spike hold the trials of these subjects only.

    Raises
    ------
    ValueError
        If there is nothing to compare, or a trial is in both parts.
    """
    everything = {**(BASELINES if baselines else {}), **(models or {})}
    if not everything:
        raise ValueError("nothing to compare: give models, or leave the baselines in.")
    rows: list[Row] = []
    if baselines:
        rows += _accuracies("raw counts", _raw(train, test, n_bootstraps, seed), ("own",))
    for name, model in everything.items():
        fitted = clone(model).fit(train)
        scores = separation(
            fitted.transform(train),
            fitted.transform(test),
            by=test.by,
            n_bootstraps=n_bootstraps,
            seed=seed,
        )
        rows += _accuracies(name, scores, ("own", "cross"))
        if imputation and len(test.subjects) > 1:
            rows += _imputation(name, imputation_scores(fitted, train, test, n_bootstraps, seed))
    return pd.DataFrame(rows)


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


def _raw(train: Any, test: Any, n_bootstraps: int, seed: int) -> xr.Dataset:
    """Separation of raw counts, the penalty chosen on trials held out of the training part."""
    inner, validation = (raw_counts(part) for part in train.split(0.25, seed=seed))

    def validated(C: float) -> float:
        return float(separation(inner, validation, C=C).mean_own.sel(level="trial"))

    best = max(_PENALTIES, key=validated)
    return separation(
        raw_counts(train), raw_counts(test), n_bootstraps=n_bootstraps, seed=seed, C=best
    )


def _row(model: str, score: str, level: str, value: Any, interval: Any, chance: Any) -> Row:
    low, high = (float("nan"),) * 2 if interval is None else interval.values.tolist()
    return {
        "model": model,
        "score": score,
        "level": level,
        "value": float(value),
        "low": low,
        "high": high,
        "chance": float(chance),
    }


def _accuracies(model: str, scores: xr.Dataset, kinds: tuple[str, ...]) -> list[Row]:
    rows = []
    for kind in kinds:
        for level in scores["level"].values.tolist():
            at = scores.sel(level=level)
            bounds = at.get(f"mean_{kind}_interval")
            rows.append(_row(model, kind, level, at[f"mean_{kind}"], bounds, at["chance"]))
    return rows


def _imputation(model: str, scores: xr.Dataset) -> list[Row]:
    rows = []
    for sources in scores["sources"].values.tolist():
        at = scores.sel(sources=sources)
        for kind in ("bits_per_spike", "above_psth"):
            score = f"{kind}, {sources}"
            bounds = at.get(f"mean_{kind}_interval")
            rows.append(_row(model, score, "", at[f"mean_{kind}"], bounds, np.nan))
    rows.append(_row(model, "coherence", "trial", scores["coherence"].mean(), None, np.nan))
    return rows
