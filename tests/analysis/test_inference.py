import numpy as np
import pytest
import xarray as xr
from scipy.stats import chisquare

from neuroshare.analysis import inference


def test_permuted_labels_stay_whole_trials():
    trials = np.repeat(np.arange(12), 5)
    labels = np.repeat(np.tile(["A", "B", "C"], 4), 5)
    permuted = inference.permute_trial_labels(labels, trials, np.random.default_rng(0))
    assert (permuted != labels).any()
    assert all(len(set(permuted[trials == trial])) == 1 for trial in range(12))
    assert sorted(permuted) == sorted(labels)


def test_a_trial_with_two_labels_is_refused():
    with pytest.raises(ValueError, match="one label per trial"):
        inference.permute_trial_labels(["A", "B"], [1, 1], np.random.default_rng(0))


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


def test_fdr_leaves_unknown_p_unknown():
    adjusted = inference.fdr([0.01, np.nan, 0.04])
    np.testing.assert_allclose(adjusted[[0, 2]], [0.02, 0.04])
    assert np.isnan(adjusted[1])


@pytest.mark.parametrize("n", [1, 3, 5])
def test_sign_flip_reaches_one_over_two_to_the_n(n):
    p, statement = inference.sign_flip(np.arange(1, n + 1))
    assert p == pytest.approx(2.0**-n)
    assert f"1/{2**n}" in statement


def test_sign_flip_of_many_subjects_is_sampled():
    p, _ = inference.sign_flip(np.random.default_rng(0).normal(size=20))
    assert 0 < p <= 1


def test_drawn_subjects_are_never_one_alone():
    chosen = inference.draw_subjects(2, 500, seed=0)
    assert (np.sort(chosen, axis=1) == [0, 1]).all()
    assert (inference.draw_subjects(1, 3) == 0).all()


def test_means_over_drawn_pairs_leave_out_a_subject_with_itself():
    values = np.arange(9.0).reshape(1, 3, 3)
    chosen = np.array([[0, 0, 2]])
    # Subject 0 twice: the pairs (0, 2) and (2, 0), each two times.
    np.testing.assert_allclose(inference.pair_means(values, chosen), (2 + 6) / 2)
    np.testing.assert_allclose(inference.subject_means(values[:, 0], chosen), 2 / 3)
    values[:, 0, 2] = np.nan
    np.testing.assert_allclose(inference.pair_means(values, chosen), 6)
    assert np.isnan(inference.pair_means(np.full((1, 1, 1), np.nan), np.array([[0]]))).all()
