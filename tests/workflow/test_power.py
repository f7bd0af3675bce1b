"""How large an experiment must be."""

import numpy as np
import pytest
import xarray as xr

import neuroshare as ns

QUICK = {"n_permutations": 39, "progress": False}


def pilot_of(seed=0, signal=1.0, n_trials=24):
    sessions = ns.simulate_sessions(
        {"a": 25, "b": 30, "c": 28}, n_trials=n_trials, seed=seed, signal=signal
    )
    counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    return ns.pair_subjects(counts, "odor", step=0.1)


def cross_of(pilot, n_splits=6):
    """Cross accuracy of the pilot itself."""
    found = []
    for seed in range(n_splits):
        train, test = pilot.split(seed=seed)
        model = ns.LinearAlignment("mcca", latent_dim=4).fit(train)
        scores = ns.separation(model.transform(train), model.transform(test))
        found.append(float(scores.mean_cross.sel(level="trial")))
    return np.mean(found)


def test_experiments_like_the_pilot_score_like_it():
    differences = []
    for seed in range(3):
        pilot = pilot_of(seed)
        found = ns.power(
            pilot, n_subjects=[3], n_units=[28], n_trials=[24], n_simulations=12, **QUICK
        )
        differences.append(float(found.cross.squeeze()) - cross_of(pilot))
    assert abs(np.mean(differences)) < 0.06
    assert np.abs(differences).max() < 0.12


def test_power_rises_with_trials_and_with_units():
    pilot = pilot_of(signal=0.7)
    found = ns.power(
        pilot, n_subjects=[3], n_units=[8, 28], n_trials=[4, 24], n_simulations=20, **QUICK
    ).power.squeeze("n_subjects")
    assert (found.sel(n_trials=24) > found.sel(n_trials=4)).all()
    assert (
        float(found.sel(n_trials=24, n_units=28)) > float(found.sel(n_trials=24, n_units=8)) - 0.2
    )
    assert float(found.sel(n_trials=24, n_units=28)) > 0.8


def test_without_signal_power_is_the_level():
    pilot = pilot_of(n_trials=8)
    found = ns.power(
        pilot, n_subjects=[3], n_units=[15], n_trials=[8], n_simulations=80, signal=0, **QUICK
    )
    assert float(found.power.squeeze()) * 80 <= 10  # binomial of 4: beyond it once in 500
    assert abs(float(found.cross.squeeze()) - 0.25) < 0.03


def test_a_pilot_without_information_promises_none():
    found = ns.power(
        pilot_of(signal=0), n_subjects=[3], n_units=[28], n_trials=[24], n_simulations=20, **QUICK
    )
    assert float(found.power.squeeze()) < 0.5


def test_a_model_may_choose_its_latents_or_have_more_than_units():
    sizes = {"n_subjects": [2], "n_units": [6], "n_trials": [12], "n_simulations": 2}
    for model in (ns.LinearAlignment(), ns.LinearAlignment(latent_dim=9)):
        found = ns.power(pilot_of(n_trials=8), model=model, **sizes, **QUICK)
        assert found.cross.notnull().all()


def test_the_same_seed_gives_the_same_power_everywhere():
    sizes = {"n_subjects": [2], "n_units": [10], "n_trials": [4, 6], "n_simulations": 3}
    pilot = pilot_of(n_trials=6)
    found = ns.power(pilot, **sizes, **QUICK)
    xr.testing.assert_identical(found, ns.power(pilot, **sizes, executor=2, **QUICK))
    assert found.power.dims == ("n_subjects", "n_units", "n_trials")
    error = np.sqrt(found.power * (1 - found.power) / 3)
    np.testing.assert_allclose(found.standard_error, error)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"n_subjects": [1]}, "'n_subjects' parameter of power must be a whole number from 2"),
        ({"n_units": []}, "'n_units' parameter of power must be a list of whole numbers"),
        ({"n_trials": 10}, "'n_trials' parameter of power must be a list of whole numbers"),
        ({"alpha": 1.0}, "'alpha' parameter of power must be a number between 0 and 1"),
        ({"signal": -1}, "'signal' parameter of power must be a number of at least 0"),
        ({"n_permutations": 0}, "'n_permutations' parameter of power must be a whole number"),
    ],
)
def test_wrong_sizes_are_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        ns.power(pilot_of(n_trials=4), **{**QUICK, **wrong})


def test_what_is_no_pilot_of_counts_is_refused():
    with pytest.raises(TypeError, match="'pilot' parameter of power must be the PairedWindows"):
        ns.power({})
    pilot = pilot_of(n_trials=4).changed(lambda name, values: values + 0.5)
    with pytest.raises(ValueError, match="power simulates spike counts; the activity of 'a' has"):
        ns.power(pilot)
