import itertools

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare, norm, t

from neuroshare.analysis import inference


def test_p_counts_the_observed_among_the_null():
    null = np.array([0.1, 0.2, 0.3, 0.4])
    assert inference.p_value(0.35, null) == pytest.approx(2 / 5)
    assert inference.p_value(1.0, null) == pytest.approx(1 / 5)
    assert np.isnan(inference.p_value(np.nan, null))


def test_random_ties_make_p_uniform():
    rng = np.random.default_rng(0)
    draws = rng.binomial(3, 0.5, size=(20, 4000))  # few values, many ties
    broken = inference.p_value(draws[0], draws[1:], rng)
    assert chisquare(np.bincount(np.rint(20 * broken).astype(int))[1:]).pvalue > 0.001
    assert inference.p_value(draws[0], draws[1:]).mean() > broken.mean() + 0.05


def test_bootstrap_keeps_the_size_of_every_stratum():
    strata = np.array(["A"] * 7 + ["B"] * 3)
    drawn = inference.bootstrap(10, strata, 50, seed=1)
    assert (drawn[:, :7].sum(1) == 7).all()
    assert (drawn[:, 7:].sum(1) == 3).all()
    assert (drawn != 1).any()


def test_interval_covers_the_middle_95_percent():
    samples = xr.DataArray(np.arange(1001.0)[:, None], dims=("sample", "subject"))
    np.testing.assert_allclose(inference.interval(samples).squeeze(), [25, 975])


@pytest.mark.parametrize("n", [1, 3, 5])
def test_sign_flip_reaches_one_over_two_to_the_n(n):
    p, statement = inference.sign_flip(np.arange(1, n + 1))
    assert p == pytest.approx(2.0**-n)
    assert f"1/{2**n}" in statement


@pytest.mark.parametrize("n", [1, 2, 3, 6, 9, 14])
@pytest.mark.parametrize("kind", ["numbers", "shares", "zeros"])
def test_sign_flip_tries_every_choice_of_signs(n, kind):
    rng = np.random.default_rng(n)
    values = {
        "numbers": rng.normal(0.3, 1, n),
        "shares": rng.binomial(7, 0.5, n) / 7 - 0.25,  # many equal sums
        "zeros": np.zeros(n),
    }[kind]
    p, _ = inference.sign_flip(np.append(values, np.nan))
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    assert p == np.mean(signs @ values >= values.sum() - 1e-12)


def test_sign_flip_of_many_subjects_is_sampled():
    values = np.random.default_rng(0).normal(0.3, 1, size=20)
    p, statement = inference.sign_flip(values)
    assert p == inference.sign_flip(values)[0]
    assert "1/1048576" in statement
    # The sum of signs times values is nearly normal.
    expected = norm.sf(values.sum() / np.sqrt((values**2).sum()))
    assert abs(p - expected) < 0.01 + 4 * np.sqrt(expected * (1 - expected) / 2**15)
    assert np.isnan(inference.sign_flip([])[0])


def test_a_recall_interval_is_wilsons_where_conditions_are_equal():
    for right, n in ((4, 4), (0, 8), (7, 12), (30, 40)):
        hits = np.full(2, right / 2)
        expected = binomtest(right, n).proportion_ci(method="wilson")
        np.testing.assert_allclose(inference.recall_interval(hits, np.full(2, n / 2)), expected)
    few = inference.recall_interval([4, 0.5], [40, 1])
    many = inference.recall_interval([4, 20], [40, 40])
    assert np.diff(few)[0] > 3 * np.diff(many)[0], "one trial of a condition tells little"
    assert np.isnan(inference.recall_interval([0, 0], [0, 0])).all()


@settings(max_examples=200, deadline=None)
@given(
    trials=st.lists(st.integers(0, 30), min_size=2, max_size=5),
    share=st.lists(st.floats(0, 1), min_size=5, max_size=5),
)
def test_a_recall_interval_has_a_width_and_holds_the_recall(trials, share):
    trials = np.array(trials)
    if not trials.any():
        return
    hits = trials * np.array(share[: len(trials)])
    low, high = inference.recall_interval(hits, trials)
    value = np.mean(hits[trials > 0] / trials[trials > 0])
    assert 0 <= low <= value + 1e-9
    assert value - 1e-9 <= high <= 1
    assert low < high
    assert inference.recall_noise(hits, trials) > 0


def test_means_over_animals_are_those_of_their_sessions():
    animals = ["a", "b", "a", "c", "b"]
    values = np.random.default_rng(0).normal(size=(3, 5))
    values[0, 4] = np.nan
    found = inference.over_animals(values, animals)
    expected = [np.nanmean(values[:, [k for k, a in enumerate(animals) if a == x]], 1)
                for x in "abc"]  # fmt: skip
    np.testing.assert_allclose(found, np.stack(expected, 1))
    assert inference.names_of(animals) == ["a", "b", "c"]


def test_pairs_of_animals_leave_out_pairs_within_one():
    animals = ["a", "b", "a", "c"]
    pairs = np.random.default_rng(0).normal(size=(4, 4))
    pairs[1, 3] = np.nan
    between, within = inference.pairs_of_animals(pairs, animals)
    for i, source in enumerate("abc"):
        for j, target in enumerate("abc"):
            block = [
                pairs[s, t]
                for s, t in itertools.product(range(4), repeat=2)
                if s != t and (animals[s], animals[t]) == (source, target)
            ]
            known = [x for x in block if not np.isnan(x)]
            expected = np.mean(known) if known else np.nan
            found = within[i] if i == j else between[i, j]
            np.testing.assert_allclose(found, expected)
    assert np.isnan(np.diag(between)).all()


def test_intervals_of_means_want_three_animals():
    assert np.isnan(inference.animal_interval([0.7, 0.8, np.nan])).all()
    assert np.isnan(inference.pair_interval(np.full((2, 2), 0.7))).all()
    assert inference.too_few(2).startswith("2 animals do not tell how much animals differ")
    assert inference.too_few(1).startswith("One animal does not")
    assert inference.too_few(3) == ""
    found = inference.animal_interval([0.7, 0.8, 0.9, np.nan])
    expected = t.interval(0.95, 2, 0.8, 0.1 / np.sqrt(3))
    np.testing.assert_allclose(found, expected)


def test_perfect_animals_of_few_trials_have_an_interval():
    noise = inference.recall_noise(np.full((3, 4), 2.0), np.full((3, 4), 2.0))
    low, high = inference.animal_interval([1.0, 1.0, 1.0], noise)
    assert 0.5 < low < 0.95
    pairs = inference.pair_interval(np.ones((3, 3)), noise)
    np.testing.assert_allclose(pairs, (low, high))


# One trial of many moves a mean off its limit by more than a thousandth.
@given(mean=st.sampled_from([0, 1]) | st.floats(1e-3, 1 - 1e-3), reach=st.floats(0, 1))
def test_an_interval_of_shares_is_longer_away_from_the_limit_only(mean, reach):
    low, high = inference.of_shares(np.array([mean - reach, mean + reach]))
    assert 0 <= low <= mean + 1e-9
    assert mean - 1e-9 <= high <= 1
    assert low <= max(mean - reach, 0) + 1e-9
    assert high >= min(mean + reach, 1) - 1e-9
    mirrored = inference.of_shares(np.array([1 - mean - reach, 1 - mean + reach]))
    np.testing.assert_allclose(mirrored, (1 - high, 1 - low), atol=1e-9)
    if mean == 0.5:
        np.testing.assert_allclose(high, min(0.5 + reach, 1))
    assert np.isnan(inference.of_shares(np.full((2, 3), np.nan))).all()


def test_the_interval_of_pairs_is_that_of_animals_where_pairs_are_sums_of_effects():
    # A pair is the effect of its source and of its target: the jackknife then knows the variance.
    rng = np.random.default_rng(0)
    n, covered = 6, 0
    for _ in range(300):
        source, target = rng.normal(0, 0.1, (2, n))
        low, high = inference.pair_interval(0.7 + source[:, None] + target)
        covered += low <= 0.7 <= high
    assert covered >= 0.9 * 300


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("mean", [0.05, 0.4, 0.7, 0.95, 0.98])
@pytest.mark.parametrize(
    ("between", "n_trials"), [(0.0, 3), (0.03, 20), (0.05, 5), (0.1, 10), (0.1, 20)]
)
def test_intervals_of_means_cover(n, mean, between, n_trials):
    rng = np.random.default_rng([n, int(100 * mean), n_trials])
    n_simulations = 400

    def of_animals(size, sd=between):
        return sd * rng.normal(size=size)

    def scored(skill):
        hits = rng.binomial(n_trials, np.clip(skill, 0, 1)[..., None], size=(*skill.shape, 4))
        return hits.mean(-1) / n_trials, inference.recall_noise(hits, np.full(hits.shape, n_trials))

    many = np.clip(mean + of_animals(200_000), 0, 1).mean()
    many_pairs = np.clip(mean + of_animals(200_000) + of_animals(200_000, between / 2), 0, 1).mean()
    covered = np.zeros(2)
    for _ in range(n_simulations):
        low, high = inference.of_shares(inference.animal_interval(*scored(mean + of_animals(n))))
        covered[0] += low <= many <= high
        pairs, noise = scored(mean + of_animals(n) + of_animals((n, 1), between / 2))
        of_target = np.nanmean(np.where(np.eye(n), np.nan, noise), axis=0)
        low, high = inference.of_shares(inference.pair_interval(pairs, of_target))
        covered[1] += low <= many_pairs <= high
    # Of 90 % the standard error is 1.5 %.
    assert (covered >= 0.9 * n_simulations - 2 * np.sqrt(0.09 * n_simulations)).all()


def test_samples_that_are_all_alike_make_no_interval():
    drawn = inference.bootstrap(4, list("ABCD"), 50)
    scores = xr.DataArray(drawn @ np.array([[1.0, 2.0]] * 4), dims=("sample", "unit"))
    assert np.isnan(inference.interval(scores)).all()
    drawn = inference.bootstrap(4, list("AABB"), 50)
    scores = xr.DataArray(drawn @ np.array([0.0, 1, 0, 1]), dims="sample")
    low, high = inference.interval(scores)
    assert low < high
