"""Inference whose unit is the trial, and the subject: permutation, bootstrap, sign flips."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control


def permute_trial_labels(
    labels: ArrayLike, trials: ArrayLike, rng: np.random.Generator
) -> NDArray[Any]:
    """Exchange labels between whole trials.

    Parameters
    ----------
    labels, trials
        Label and trial id of each window, (window,).
    rng
        Source of the permutation.

    Returns
    -------
    array (window,)
        Labels after the permutation: all windows of one trial still share one label, and as many
        trials as before have each label.

    Raises
    ------
    ValueError
        If a trial has two labels.

    Notes
    -----
    Windows of one trial overlap, so they are not exchangeable; trials are.
    """
    labels, trials = np.asarray(labels), np.asarray(trials)
    _, first, index = np.unique(trials, return_index=True, return_inverse=True)
    per_trial = labels[first]
    if not (per_trial[index] == labels).all():
        raise ValueError("expected one label per trial, got trials with several.")
    return np.asarray(rng.permutation(per_trial)[index])


def p_value(
    observed: ArrayLike, null: ArrayLike, rng: np.random.Generator | None = None
) -> NDArray[np.float64]:
    """One-sided permutation p, (b + 1) / (m + 1): b of m null values are at least the observed.

    Parameters
    ----------
    observed
        Statistic, any shape; NaN gives NaN.
    null
        Its values under the null, (permutation, ...).
    rng
        Break ties at random: p is then uniform under the null even for a statistic of few values,
        as the share of correct trials is, where counting all ties is conservative. Meant for
        checks of calibration; a reported p should not depend on a draw.
    """
    observed, null = np.asarray(observed, float), np.asarray(null, float)
    # Equal fractions may differ in their last bits.
    b = (null >= observed - 1e-12).sum(axis=0)
    if rng is not None:
        above = (null > observed + 1e-12).sum(axis=0)
        b = rng.integers(above, b + 1)
    return np.asarray(np.where(np.isnan(observed), np.nan, (b + 1) / (len(null) + 1)))


def bootstrap(n_trials: int, strata: ArrayLike, n: int, seed: int = 0) -> NDArray[np.int64]:
    """How often each trial is drawn in each of n bootstrap samples, (sample, trial).

    Trials are drawn with replacement within strata (their condition), so that every sample holds
    every condition as often as the data do.
    """
    rng = np.random.default_rng(seed)
    strata = np.asarray(strata)
    if strata.shape != (n_trials,):
        raise ValueError(f"expected one stratum per trial ({n_trials}), got {strata.shape}.")
    weights = np.zeros((n, n_trials), dtype=np.int64)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        weights[:, members] = rng.multinomial(
            len(members), np.full(len(members), 1 / len(members)), size=n
        )
    return weights


def draw_subjects(n_subjects: int, n: int, seed: int = 0) -> NDArray[np.int64]:
    """Subjects drawn with replacement for each of n bootstrap samples, (sample, subject).

    Samples of one subject alone are drawn again, since it has no other to be compared with.
    """
    rng = np.random.default_rng([seed, n_subjects])
    chosen = rng.integers(n_subjects, size=(n, n_subjects))
    while n_subjects > 1 and (alone := (chosen == chosen[:, :1]).all(axis=1)).any():
        chosen[alone] = rng.integers(n_subjects, size=(int(alone.sum()), n_subjects))
    return chosen


def subject_means(values: NDArray[Any], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Means (sample, ...) over the drawn subjects of values (sample, ..., subject)."""
    return _known_means(np.stack([v[..., c] for v, c in zip(values, chosen, strict=True)]))


def pair_means(values: NDArray[Any], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Means (sample, ...) over drawn pairs of different subjects, values (..., source, target)."""
    drawn = []
    for v, c in zip(values, chosen, strict=True):
        pairs = v[..., c[:, None], c]
        drawn.append(_known_means(pairs[..., c[:, None] != c]))
    return np.stack(drawn)


def _known_means(values: NDArray[Any]) -> NDArray[np.float64]:
    """Mean over the last axis without NaN; NaN, without a warning, where nothing is known."""
    known = ~np.isnan(values)
    n = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.asarray(np.divide(total, n, out=np.full(np.shape(total), np.nan), where=n > 0))


def interval(samples: xr.DataArray, dim: str = "sample", level: float = 0.95) -> xr.DataArray:
    """Percentile interval over a dimension, (bound: low, high, ...); NaN samples are left out."""
    tail = (1 - level) / 2
    values = samples.transpose(dim, ...)
    known = np.isfinite(values.values).any(axis=0)
    filled = np.where(known, values.values, 0.0)
    bounds = np.where(known, np.nanquantile(filled, [tail, 1 - tail], axis=0), np.nan)
    coords = {k: v for k, v in values.coords.items() if dim not in v.dims}
    return xr.DataArray(
        bounds, dims=("bound", *values.dims[1:]), coords={**coords, "bound": ["low", "high"]}
    )


def fdr(p: ArrayLike, method: str = "bh") -> NDArray[np.float64]:
    """False-discovery-adjusted p values (Benjamini & Hochberg, or ``"by"``); NaN stays NaN."""
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, np.nan)
    known = ~np.isnan(p)
    if known.any():
        adjusted[known] = false_discovery_control(p[known], method=method)
    return adjusted


def sign_flip(values: ArrayLike, seed: int = 0) -> tuple[float, str]:
    """One-sided sign-flip test that the mean over subjects exceeds zero.

    Parameters
    ----------
    values
        One value per subject, such as accuracy minus chance; NaN is left out.
    seed
        Seed of the flips where there are too many subjects (more than 14) to try all.

    Returns
    -------
    p : float
        NaN without any subject.
    statement : str
        The smallest p that so many subjects can give.

    Examples
    --------
    >>> sign_flip([0.2, 0.1, 0.3, 0.2, 0.1])
    (0.03125, 'With 5 subjects a one-sided sign-flip test cannot give p below 1/32 = 0.031.')
    """
    x = np.asarray(values, float)
    x = x[~np.isnan(x)]
    n = len(x)
    statement = (
        f"With {n} subject{'s' * (n != 1)} a one-sided sign-flip test cannot give p below "
        f"1/{2**n} = {2.0**-n:.2g}."
    )
    if not n:
        return float("nan"), statement
    if n <= 14:
        signs = np.array(list(product((1.0, -1.0), repeat=n)))
        return float(np.mean(signs @ x >= x.sum() - 1e-12)), statement
    signs = np.random.default_rng(seed).choice((1.0, -1.0), size=(2**14 - 1, n))
    return float(p_value(x.sum(), signs @ x)), statement
