"""Inference whose unit is the trial, and the animal: permutation, intervals, sign flips."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, permutation_test
from scipy.stats import t as student

Array = NDArray[np.float64]

FEWEST_ANIMALS = 3
"""Fewer do not tell how much animals differ."""
_MOST_SIGNS = 2**15
"""Sign flips that are tried: all of them for up to 14 subjects."""


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


def interval(samples: xr.DataArray, dim: str = "sample", level: float = 0.95) -> xr.DataArray:
    """Percentile interval over a dimension, (bound: low, high, ...); NaN samples are left out.

    NaN where several samples are all alike, as where every condition has one trial only: nothing
    was drawn again, which says nothing of the variability.
    """
    tail = (1 - level) / 2
    values = samples.transpose(dim, ...)
    known = np.isfinite(values.values).any(axis=0)
    filled = np.where(known, values.values, 0.0)
    if len(filled) > 1:
        known &= np.nanmax(filled, axis=0) > np.nanmin(filled, axis=0)
    bounds = np.where(known, np.nanquantile(filled, [tail, 1 - tail], axis=0), np.nan)
    coords = {k: v for k, v in values.coords.items() if dim not in v.dims}
    return xr.DataArray(
        bounds, dims=("bound", *values.dims[1:]), coords={**coords, "bound": ["low", "high"]}
    )


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
    # A zero more changes no p, and the test wants two values. Equal sums may differ in last bits.
    found = permutation_test(
        (np.append(x, 0.0),),
        lambda x, axis: np.round(x.sum(axis=axis), 12),
        permutation_type="samples",
        alternative="greater",
        n_resamples=_MOST_SIGNS,
        rng=seed,
    )
    return float(found.pvalue), statement


def recall_interval(hits: ArrayLike, trials: ArrayLike, level: float = 0.95) -> Array:
    """Wilson interval of a mean over conditions of recalls (balanced accuracy).

    Parameters
    ----------
    hits, trials
        (..., condition): trials named rightly (fractions of their windows count), and trials.
        Conditions without trials are left out.
    level
        How often it should hold the mean.

    Returns
    -------
    array
        (bound: low, high, ...); NaN where there are no trials.

    Notes
    -----
    The number of trials is k^2 / sum_c 1/n_c, with which a proportion has the variance of the mean
    of k recalls of equal size: all trials, where conditions have as many. Never of no width, and
    the estimate is always inside.

    Examples
    --------
    >>> recall_interval([1, 1, 1, 1], [1, 1, 1, 1]).round(2).tolist()
    [0.51, 1.0]
    """
    hits, trials = np.asarray(hits, float), np.asarray(trials, float)
    there = trials > 0
    safe = np.where(there, trials, 1)
    k = there.sum(-1)
    z = norm.ppf(0.5 + level / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = np.where(there, hits / safe, 0).sum(-1) / k
        n = k**2 / np.where(there, 1 / safe, 0).sum(-1)
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        reach = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return np.asarray(np.clip(np.stack([centre - reach, centre + reach]), 0, 1))


def recall_noise(hits: ArrayLike, trials: ArrayLike) -> Array:
    """Variance that finite trials give a mean of recalls, (...), of hits (..., condition).

    Every recall counts as (hits + 1) / (trials + 2), so that it has a variance also at 1.
    """
    hits, trials = np.asarray(hits, float), np.asarray(trials, float)
    there = trials > 0
    n = np.where(there, trials, 1)
    p = (hits + 1) / (n + 2)
    k = there.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(there, p * (1 - p) / n, 0).sum(-1) / k**2)


def over_animals(values: ArrayLike, animals: ArrayLike) -> Array:
    """Average the values of each animal's sessions, (..., session) -> (..., animal).

    Animals are in the order in which they come first; unknown values (NaN) are left out.
    """
    values = np.asarray(values, float)
    member = _members(animals)
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0) @ member, known @ member)


def pairs_of_animals(pairs: ArrayLike, animals: ArrayLike) -> tuple[Array, Array]:
    """Average pairs of sessions, (..., source, target), into pairs of animals.

    Returns
    -------
    between : array (..., source animal, target animal)
        NaN on the diagonal.
    within : array (..., animal)
        Between different sessions of one animal; NaN where it has one.
    """
    pairs = np.asarray(pairs, float)
    member = _members(animals)
    known = ~np.isnan(pairs) & ~np.eye(len(member), dtype=bool)
    total = member.T @ np.where(known, pairs, 0.0) @ member
    between = _ratio(total, member.T @ known.astype(float) @ member)
    within = np.array(np.diagonal(between, axis1=-2, axis2=-1))
    return np.where(np.eye(member.shape[1], dtype=bool), np.nan, between), within


def names_of(animals: ArrayLike) -> list[str]:
    """Names of the animals of some sessions, each once, in the order in which they come."""
    return list(dict.fromkeys(np.asarray(animals).tolist()))


def _members(animals: ArrayLike) -> Array:
    """Whether a session is of an animal, (session, animal), as numbers."""
    each = np.asarray(animals)
    return np.asarray(each[:, None] == np.array(names_of(each)), float)


def _ratio(total: Array, n: Array) -> Array:
    return np.asarray(np.divide(total, n, out=np.full(np.shape(total), np.nan), where=n > 0))


def animal_interval(
    values: ArrayLike, noise: ArrayLike | None = None, level: float = 0.95
) -> Array:
    """Interval of the mean over animals: mean +- t s / sqrt(n).

    Parameters
    ----------
    values
        One per animal; NaN is left out.
    noise
        Variance of each value from its finite trials (`recall_noise`): the interval is never
        narrower than this alone makes it, also where all animals are at 1.
    level
        How often it should hold the mean.

    Returns
    -------
    array
        (bound: low, high); NaN with fewer than three animals.

    Examples
    --------
    >>> animal_interval([0.7, 0.8, 0.9]).round(2).tolist()
    [0.55, 1.05]
    """
    x = np.asarray(values, float)
    known = ~np.isnan(x)
    x = x[known]
    n = len(x)
    if n < FEWEST_ANIMALS:
        return np.full(2, np.nan)
    reach = student.ppf(0.5 + level / 2, n - 1) * x.std(ddof=1) / np.sqrt(n)
    reach = max(reach, _least_reach(noise, known, level, alike=not reach))
    return np.asarray(x.mean() + reach * np.array([-1.0, 1.0]))


def pair_interval(pairs: ArrayLike, noise: ArrayLike | None = None, level: float = 0.95) -> Array:
    """Interval of the mean over pairs of animals, (source, target), by leaving out one animal.

    Parameters
    ----------
    pairs
        (source, target); the diagonal is not used.
    noise
        (target): variance of the mean over sources from the target's finite trials; see
        `animal_interval`.
    level
        How often it should hold the mean.

    Returns
    -------
    array
        (bound: low, high); NaN with fewer than three animals.
    """
    a = np.array(pairs, float)
    np.fill_diagonal(a, np.nan)
    known = ~np.isnan(a).all(0) | ~np.isnan(a).all(1)
    a = a[np.ix_(known, known)]
    n = len(a)
    if n < FEWEST_ANIMALS:
        return np.full(2, np.nan)
    # Every pair has two animals, so pairs are no samples; the jackknife leaves out an animal.
    rest = ~np.eye(n, dtype=bool)
    left = np.array([known_mean(a[np.ix_(some, some)]) for some in rest])
    left = left[~np.isnan(left)]
    variance = (len(left) - 1) / len(left) * np.square(left - left.mean()).sum()
    reach = student.ppf(0.5 + level / 2, n - 1) * np.sqrt(variance)
    reach = max(reach, _least_reach(noise, known, level, alike=reach < 1e-12))
    return np.asarray(known_mean(a) + reach * np.array([-1.0, 1.0]))


def _least_reach(
    noise: ArrayLike | None, known: NDArray[np.bool_], level: float, *, alike: bool
) -> float:
    """Half of the interval that finite trials alone make, of the known animals.

    Animals that are all alike, as where all are at 1, do not tell how much others would differ: the
    interval is then as wide as if trials were all that they say of it.
    """
    if noise is None:
        return 0.0
    n = int(known.sum())
    quantile = student.ppf(0.5 + level / 2, n - 1) if alike else norm.ppf(0.5 + level / 2)
    v = known_mean(np.asarray(noise, float)[known])
    return float(quantile * np.sqrt(np.nan_to_num(v) / n))


def of_shares(ends: Array) -> Array:
    """Lengthen intervals of means of shares, such as accuracies, on the side away from 0 or 1.

    Animals near 1 differ little, and those that are missing among them are further down: a variance
    that falls towards the limit as p (1 - p) makes Wilson's interval of that of Student.

    Parameters
    ----------
    ends
        (bound: low, high, ...), symmetric about the mean.

    Returns
    -------
    array
        (bound, ...), inside [0, 1]; the end towards the limit stays.

    Examples
    --------
    >>> of_shares(np.array([0.93, 1.01])).round(2).tolist()
    [0.9, 1.0]
    >>> of_shares(np.array([0.45, 0.55])).round(2).tolist()
    [0.45, 0.55]
    """
    low, high = np.asarray(ends, float)
    mean, reach = (low + high) / 2, (high - low) / 2
    spread = mean * (1 - mean)
    inside = spread > 0
    q = np.divide(reach**2, spread, out=np.zeros_like(reach), where=inside)
    centre = (mean + q / 2) / (1 + q)
    half = np.sqrt(np.maximum(q * spread + q**2 / 4, 0)) / (1 + q)
    low = np.where(inside & (mean > 0.5), np.minimum(low, centre - half), low)
    high = np.where(inside & (mean < 0.5), np.maximum(high, centre + half), high)
    return np.asarray(np.clip(np.stack([low, high]), 0, 1))


def too_few(n: int) -> str:
    """Say why there is no interval of a mean over so few animals; empty if there is one."""
    if n >= FEWEST_ANIMALS:
        return ""
    animals = "One animal does" if n == 1 else f"{n} animals do"
    return f"{animals} not tell how much animals differ: no interval of the mean (three needed)."


def known_mean(values: ArrayLike, axis: int | tuple[int, ...] | None = None) -> Array:
    """Mean of what is known; NaN, without a warning, where nothing is."""
    values = np.asarray(values, float)
    known = ~np.isnan(values)
    total = np.asarray(np.where(known, values, 0.0).sum(axis))
    return _ratio(total, np.asarray(known.sum(axis)))
