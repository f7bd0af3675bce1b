import numpy as np
import pytest

from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.simulate import RATS, simulate_sessions


def nearest_mean_accuracy(session, span):
    """Share of odd trials whose odor is that of the nearest mean of the even ones."""
    counts = np.sqrt(bin_spikes(session, span=span).sum("time").values)
    odor = session.trials.odor.to_numpy()
    train, test = np.arange(len(odor)) % 2 == 0, np.arange(len(odor)) % 2 == 1
    names = np.unique(odor)
    means = np.stack([counts[train & (odor == name)].mean(0) for name in names])
    distance = ((counts[test][:, None] - means) ** 2).sum(-1)
    return (names[distance.argmin(1)] == odor[test]).mean()


def test_the_five_rats_are_the_default():
    sessions = simulate_sessions(n_trials=1)
    assert {name: len(session.units) for name, session in sessions.items()} == RATS


def test_the_seed_decides():
    one, again = (simulate_sessions({"mitt": 10}, n_trials=3, seed=5)["mitt"] for _ in range(2))
    other = simulate_sessions({"mitt": 10}, n_trials=3, seed=6)["mitt"]
    assert all(map(np.array_equal, one.spike_times, again.spike_times))
    assert not all(map(np.array_equal, one.spike_times, other.spike_times))


def test_a_subject_does_not_depend_on_its_company():
    alone = simulate_sessions(["stella"], n_trials=3)["stella"]
    joined = simulate_sessions(["mitt", "stella"], n_trials=3)["stella"]
    assert all(map(np.array_equal, alone.spike_times, joined.spike_times))


def test_trials_per_odor_and_subject_are_as_asked():
    sessions = simulate_sessions({"a": 5, "b": 5}, {"a": 2, "b": 7}, odors=("A", "B", "E"))
    assert sessions["a"].trials.odor.value_counts().to_dict() == dict.fromkeys("ABE", 2)
    assert sessions["b"].trials.odor.value_counts().to_dict() == dict.fromkeys("ABE", 7)


def test_spikes_lie_within_two_seconds_of_an_onset():
    session = simulate_sessions({"a": 20}, n_trials=5)["a"]
    counts = bin_spikes(session, span=(-2.0, 2.0))
    assert counts.sum() == session.n_spikes > 0


def test_odor_shows_after_onset_and_not_before():
    session = simulate_sessions({"mitt": 104})["mitt"]
    # 80 test trials: four standard errors of chance are 0.19.
    assert nearest_mean_accuracy(session, (0.0, 0.4)) > 0.25 + 0.25
    assert nearest_mean_accuracy(session, (-0.4, 0.0)) < 0.25 + 0.19


def test_without_signal_there_is_no_odor_information():
    _, truth = simulate_sessions({"mitt": 10}, n_trials=3, signal=0.0, return_truth=True)
    np.testing.assert_array_equal(truth["mitt"].response, 0.0)
    session = simulate_sessions({"mitt": 104}, signal=0.0)["mitt"]
    assert nearest_mean_accuracy(session, (0.0, 0.4)) < 0.25 + 0.19


def test_spike_counts_follow_the_true_rates():
    sessions, truth = simulate_sessions({"a": 30}, n_trials=20, return_truth=True)
    counts = bin_spikes(sessions["a"], span=(-2.0, 2.0))
    expected = truth["a"].rates * 0.01
    np.testing.assert_allclose(expected.time, counts.time, atol=1e-12)
    # Poisson: four standard errors, per unit.
    total, mean = counts.sum(("trial", "time")).values, expected.sum(("trial", "time")).values
    assert (np.abs(total - mean) < 4 * np.sqrt(mean)).all()
    centred = counts.values - expected.values
    assert np.square(centred).sum() == pytest.approx(expected.values.sum(), rel=0.05)


def test_all_subjects_share_the_response_and_nothing_else():
    _, truth = simulate_sessions({"a": 5, "b": 5}, n_trials=4, return_truth=True)
    np.testing.assert_array_equal(truth["a"].response, truth["b"].response)
    for latents in truth.values():
        before = latents.response.sel(time=slice(None, 0.08))
        np.testing.assert_array_equal(before, 0.0)
        assert np.abs(latents.response.sel(time=0.305, method="nearest")).max() > 0.3
    assert not np.allclose(truth["a"].private, truth["b"].private)


def test_rates_are_made_of_the_latents():
    sessions, truth = simulate_sessions({"a": 5}, n_trials=2, return_truth=True)
    latents = truth["a"]
    log_rate = (
        (latents.loadings * latents.shared).sum("latent")
        + (latents.private_loadings * latents.private).sum("private_latent")
    ).transpose("trial", "unit", "time")
    base = sessions["a"].units.base_rate.to_numpy()[:, None]
    np.testing.assert_allclose(latents.rates, base * np.exp(log_rate.values), rtol=1e-10)


def test_variance_shares_sum_to_one_and_follow_the_signal():
    share = {
        signal: simulate_sessions({"a": 40}, signal=signal, return_truth=True)[1][
            "a"
        ].variance_share
        for signal in (0.0, 1.0)
    }
    for parts in share.values():
        np.testing.assert_allclose(parts.sum("part"), 1.0)
        assert (parts >= 0).all()
    np.testing.assert_allclose(share[0.0].sel(part="shared"), 0.0, atol=1e-12)
    assert share[1.0].sel(part="shared").mean() > 0.01


def test_without_private_latents_the_private_part_is_jitter_only():
    _, truth = simulate_sessions({"a": 20}, n_trials=5, private=0.0, return_truth=True)
    np.testing.assert_array_equal(truth["a"].private, 0.0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"subjects": []},
        {"subjects": "mitt"},
        {"odors": ()},
        {"signal": -1.0},
        {"n_trials": 0},
        {"subjects": {"a": 0}},
    ],
)
def test_impossible_sizes_are_refused(arguments):
    with pytest.raises(ValueError, match=r"names|0 or more|at least one"):
        simulate_sessions(**arguments)


# ------------------------------------------------------------------ other codes and orders


def tuned(tuning, odors="ABCDEFGH", n_trials=20, **settings):
    return simulate_sessions(
        {"mitt": 90}, n_trials, odors=list(odors), tuning=tuning, private=0.3, **settings
    )["mitt"]


def test_places_show_in_mean_counts():
    # 80 test trials of 8 places: four standard errors of chance (0.125) are 0.15.
    assert nearest_mean_accuracy(tuned("place"), (0.1, 0.4)) > 0.125 + 0.3
    assert nearest_mean_accuracy(tuned("place"), (-0.4, 0.0)) < 0.125 + 0.15


def test_a_place_has_other_rates_in_another_map():
    session = tuned("maps", "AB", n_trials=60)
    counts = bin_spikes(session, span=(0.1, 0.4)).sum("time").values
    at = (session.trials.odor == "A").to_numpy()
    maps = session.trials["map"].to_numpy()
    means = np.stack([counts[at & (maps == k)].mean(0) for k in range(3)])
    # The same place in two maps differs as two places of one map do, not by noise alone.
    noise = counts[at & (maps == 0)].var(0).sum() / (at & (maps == 0)).sum()
    assert np.square(means[0] - means[1]).sum() > 10 * noise


def test_a_time_code_is_not_in_the_sums():
    session = tuned("time", "ABCD", n_trials=40)
    # 80 test trials: four standard errors of chance are 0.19.
    assert nearest_mean_accuracy(session, (0.0, 0.4)) < 0.25 + 0.19
    assert nearest_mean_accuracy(session, (0.0, 0.1)) > 0.25 + 0.3


def test_pairs_have_equal_means_and_opposite_covariances():
    session = tuned("pairs", "AB", n_trials=150)
    counts = bin_spikes(session, span=(0.1, 0.4)).sum("time").values.astype(float)
    assert nearest_mean_accuracy(session, (0.1, 0.4)) < 0.5 + 4 * np.sqrt(0.25 / 150)
    axis = np.linalg.svd(counts - counts.mean(0), full_matrices=False)[2][:2].T
    scores = (counts - counts.mean(0)) @ axis
    odor = session.trials.odor.to_numpy()
    product = scores[:, 0] ** 2 - scores[:, 1] ** 2
    split = abs(product[odor == "A"].mean() - product[odor == "B"].mean())
    assert split > 4 * product.std() / np.sqrt(75)


def test_pairs_need_two_odors():
    with pytest.raises(ValueError, match="'pairs' needs two odors"):
        tuned("pairs", "ABC")


@pytest.mark.parametrize("tuning", ["latent", "place", "maps", "time", "pairs"])
def test_without_signal_no_code_holds_information(tuning):
    _, truth = simulate_sessions(
        {"mitt": 5}, 3, odors=["A", "B"], tuning=tuning, signal=0.0, private=0.0, return_truth=True
    )
    rates = truth["mitt"].rates.values
    if tuning != "latent":  # whose trials jitter
        np.testing.assert_allclose(rates, np.broadcast_to(rates[:1, :, :1], rates.shape))


@pytest.mark.parametrize("runs", [1, 3])
def test_odors_come_in_runs(runs):
    odor = tuned("place", "ABCD", n_trials=12, runs=runs).trials.odor.to_numpy()
    assert (odor[1:] != odor[:-1]).sum() <= 4 * runs - 1
    assert sorted(odor) == sorted(list("ABCD") * 12)


def test_rates_drift_without_any_odor():
    def spread(drift):
        session = tuned("place", "AB", n_trials=100, signal=0.0, drift=drift)
        counts = bin_spikes(session, span=(0.0, 0.4)).sum("time").values.astype(float)
        halves = counts[:100].mean(0), counts[100:].mean(0)
        return np.abs(np.log((halves[0] + 0.1) / (halves[1] + 0.1))).mean()

    assert spread(1.0) > 2 * spread(0.0)


def test_drift_and_runs_leave_the_rest_as_it_is():
    one, other = (
        simulate_sessions({"a": 5}, 3, drift=drift, return_truth=True)[1]["a"] for drift in (0, 1)
    )
    np.testing.assert_array_equal(one.private.values, other.private.values)


def test_no_rate_drifts_beyond_what_a_unit_can_fire():
    # A few walks of many end far out: the exponential of them would be millions of spikes.
    sessions, truth = simulate_sessions(
        {"a": 40}, n_trials=5, drift=8.0, mean_rate=10.0, return_truth=True
    )
    assert truth["a"].rates.max() == 500
    assert sum(map(len, sessions["a"].spike_times)) < 40 * 20 * 4 * 500
