import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from neuroshare.analysis.separation import separation
from neuroshare.models.linear import LinearAlignment, fit_together
from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.simulate import simulate_sessions
from neuroshare.windows.pair import pair_subjects

METHODS = ("procrustes", "mcca", "srm")


def simulated(signal=2.0, seed=0, n_trials=24, subjects=None, **kwargs):
    sessions = simulate_sessions(
        subjects or {"a": 40, "b": 25, "c": 32},
        n_trials=n_trials,
        signal=signal,
        seed=seed,
        **kwargs,
    )
    return {name: bin_spikes(session) for name, session in sessions.items()}


@pytest.fixture(scope="module")
def parts():
    return pair_subjects(simulated(), by="odor").split(0.25, seed=0)


@pytest.mark.parametrize("method", METHODS)
def test_shared_latents_are_recovered(method, parts):
    train, test = parts
    model = LinearAlignment(method, latent_dim=4).fit(train)
    scores = separation(model.transform(train), model.transform(test)).sel(level="trial")
    assert scores.mean_cross > 0.7
    assert scores.mean_own > 0.7


@pytest.mark.parametrize("method", METHODS)
def test_shuffled_pairing_destroys_the_shared_space(method):
    cross = []
    for seed in range(3):
        train, test = pair_subjects(simulated(seed=seed), by="odor").split(0.25, seed=0)
        shuffled = train.repair(7, shuffle_conditions=True)
        model = LinearAlignment(method, latent_dim=4).fit(shuffled)
        scores = separation(model.transform(train), model.transform(test))
        cross.append(scores.mean_cross.sel(level="trial"))
    assert np.mean(cross) < 0.5


@pytest.mark.parametrize("method", METHODS)
def test_no_signal_is_at_chance(method):
    cross = []
    for seed in range(4):
        train, test = pair_subjects(simulated(0.0, seed), by="odor").split(0.25, seed=0)
        model = LinearAlignment(method, latent_dim=4, n_repairs=5).fit(train)
        scores = separation(model.transform(train), model.transform(test))
        cross.append(scores.mean_cross.sel(level="trial"))
    # 24 held-out trials of each of 3 targets: standard error of the mean about 0.026
    assert abs(np.mean(cross) - 0.25) < 0.11


@pytest.mark.parametrize("method", METHODS)
def test_permuting_subjects_permutes_latents(method):
    paired = pair_subjects(simulated(n_trials=12), by="odor", order="rank")
    order = ["c", "a", "b"]
    one = LinearAlignment(method, latent_dim=3).fit(paired).transform(paired).sel(subject=order)
    shuffled = paired.select(order)
    two = LinearAlignment(method, latent_dim=3).fit(shuffled).transform(shuffled)
    np.testing.assert_array_equal(one.subject, two.subject)
    sign = np.sign((one * two).sum(("subject", "window")))
    np.testing.assert_allclose(one, two * sign, atol=1e-5)


@pytest.mark.parametrize("features", ["sum", "window"])
@pytest.mark.parametrize("method", METHODS)
def test_the_encoder_is_the_transform(method, features, parts):
    train, _ = parts
    model = LinearAlignment(method, latent_dim=3, features=features).fit(train)
    z = model.transform(train)
    for name in train.subjects:
        mean, scale, weights = model.encoder(name)
        x = np.sqrt(train[name].values.astype(float)).reshape(len(train), -1)
        assert weights.dtype == np.float64
        np.testing.assert_allclose((x - mean) / scale @ weights, z.sel(subject=name), atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_latents_have_unit_variance(method):
    train = pair_subjects(simulated(n_trials=12), by="odor", order="rank").thinned()
    z = LinearAlignment(method, latent_dim=3).fit(train).transform(train)
    np.testing.assert_allclose(z.std("window"), 1, atol=1e-9)
    assert z.name == "latents"
    assert z.attrs["by"] == "odor"
    assert set(z.coords) >= {"odor", "time", "trial", "subject"}


@pytest.mark.parametrize("surplus", ["repeat", "absent", "drop"])
@pytest.mark.parametrize("method", METHODS)
def test_unequal_trials_and_absent_subjects(method, surplus):
    counts = simulated(n_trials=16)
    counts["b"] = counts["b"].isel(trial=slice(0, 40))
    counts["c"] = counts["c"].isel(trial=(counts["c"].odor != "D").values)
    paired = pair_subjects(counts, by="odor", surplus=surplus, allow_missing=True)
    model = LinearAlignment(method, latent_dim=4).fit(paired)
    z = model.transform(paired)
    absent = ~paired.observed
    np.testing.assert_array_equal(np.isnan(z).all("latent"), absent)
    np.testing.assert_array_equal(np.isnan(z).any("latent"), absent)
    expected = model.impute(paired, "a")
    alone = np.isnan(expected).all(("unit", "lag")).values
    np.testing.assert_array_equal(alone, absent[1:].all(axis=0))
    assert (expected.values[~alone] > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_silent_subjects_stay_finite(method):
    counts = simulated(n_trials=8)
    counts["b"] = counts["b"] * 0
    counts["a"][:, 3] = 0
    paired = pair_subjects(counts, by="odor")
    model = LinearAlignment(method, latent_dim=4).fit(paired)
    assert np.isfinite(model.transform(paired)).all()
    for target in paired.subjects:
        expected = model.impute(paired, target)
        assert np.isfinite(expected).all()
        assert (expected > 0).all()


def test_fewer_units_than_latents():
    paired = pair_subjects(simulated(subjects={"a": 40, "b": 3}), by="odor")
    for method in METHODS:
        z = LinearAlignment(method, latent_dim=5).fit(paired).transform(paired)
        assert np.isfinite(z).all()


def test_imputation_beats_the_mean_rate(parts):
    train, test = parts
    model = LinearAlignment("mcca", latent_dim=4).fit(train)
    for target in test.subjects:
        expected = model.impute(test, target)
        assert expected.dims == ("window", "unit", "lag")
        x, mean = test[target].values, train[target].values.mean((0, 2), keepdims=True) + 1e-6
        gain = x * np.log(expected.values / mean) - expected.values + mean
        assert gain.sum() > 0
        own = model.impute(test, target, source=target).values
        # Own activity says more than that of others on other trials.
        assert (x * np.log(own / mean) - own + mean).sum() > gain.sum()


def test_sources_can_be_chosen(parts):
    train, test = parts
    model = LinearAlignment(latent_dim=4).fit(train)
    two = model.impute(test, "a", ["b", "c"])
    np.testing.assert_allclose(two, model.impute(test, "a"))
    assert not np.allclose(two, model.impute(test, "a", "b"))
    alone = model.impute(test.select(["b"]), "a")
    assert "trial" not in alone.coords
    with pytest.raises(ValueError, match="must name different subjects"):
        model.impute(test, "a", "nobody")
    with pytest.raises(ValueError, match="'target' parameter of impute must be one of"):
        model.impute(test, "nobody")


def test_other_units_are_refused(parts):
    train, _ = parts
    model = LinearAlignment(latent_dim=3).fit(train)
    everything = simulated()
    counts = everything | {"b": everything["b"].isel(unit=slice(0, 20))}
    with pytest.raises(
        ValueError,
        match=r"subject 'b': expected 25 units \(as fitted\), got 20. Select the fitted units",
    ):
        model.transform(pair_subjects(counts, by="odor"))
    counts["b"] = everything["b"].isel(unit=slice(None, None, -1))
    with pytest.raises(ValueError, match="unit ids differ from those fitted"):
        model.transform(pair_subjects(counts, by="odor"))
    with pytest.raises(ValueError, match=r"expected windows of 10 bins of 0.01 s"):
        model.transform(pair_subjects(everything, by="odor", width=0.2))


def test_scikit_learn_manners(parts):
    train, _ = parts
    model = LinearAlignment("srm", latent_dim=3, ridge=0.1)
    assert clone(model).get_params() == model.get_params()
    with pytest.raises(NotFittedError):
        model.transform(train)
    assert model.fit(train) is model
    assert model.subjects_ == train.subjects
    np.testing.assert_array_equal(model.units_["a"], train.units["a"])
    again = clone(model).fit(train)
    np.testing.assert_array_equal(again.transform(train), model.transform(train))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("method", "pca"),
        ("features", "mean"),
        ("latent_dim", 0),
        ("n_repairs", 1.5),
        ("ridge", -1),
        ("readout_ridge", float("nan")),
    ],
)
def test_wrong_parameters_are_named(argument, value, parts):
    with pytest.raises(ValueError, match=f"The '{argument}' parameter of LinearAlignment must"):
        LinearAlignment(**{argument: value}).fit(parts[0])


@pytest.mark.parametrize("method", METHODS)
def test_what_is_left_to_choose_is_chosen_on_inner_folds(method, parts, monkeypatch):
    train, test = parts
    monkeypatch.setattr("neuroshare.models.linear.WIDTHS", (2, 3, 6))
    monkeypatch.setattr("neuroshare.models.linear.N_FOLDS", 2)
    model = LinearAlignment(method).fit(train)
    table = model.selection_
    (chosen,) = table[table.chosen].itertuples()
    assert (model.latent_dim_, model.n_components_, model.ridge_) == chosen[1:4]
    assert set(table.latent_dim) == {2, 3, 6}
    # Given what was chosen, nothing is chosen and the model is the same.
    given = dict(zip(("latent_dim", "n_components", "ridge"), chosen[1:4], strict=True))
    again = LinearAlignment(method, **given).fit(train)
    assert again.selection_.empty
    np.testing.assert_array_equal(again.transform(test), model.transform(test))


def test_what_is_given_is_not_chosen(parts, monkeypatch):
    monkeypatch.setattr("neuroshare.models.linear.N_FOLDS", 2)
    model = LinearAlignment("mcca", latent_dim=3, ridge=0.25).fit(parts[0])
    assert (model.latent_dim_, model.ridge_) == (3, 0.25)
    assert set(model.selection_.latent_dim) == {3}
    assert set(model.selection_.ridge) == {0.25}


def test_few_trials_leave_nothing_to_choose_by():
    train = pair_subjects(simulated(n_trials=3), by="odor")
    model = LinearAlignment().fit(train)
    assert model.selection_.empty
    assert model.latent_dim_ == 8


def test_together_each_alignment_is_fitted_as_alone(parts):
    methods = {"procrustes": {}, "mcca": {}, "srm": {"latent_dim": 3}, "mcca again": {"seed": 1}}
    together = [LinearAlignment(name.split()[0], **own) for name, own in methods.items()]
    fit_together(together, parts[0])
    for one, (name, own) in zip(together, methods.items(), strict=True):
        alone = LinearAlignment(name.split()[0], **own).fit(parts[0])
        assert one.selection_.equals(alone.selection_)
        assert one.latent_dim_ == alone.latent_dim_
        latents = alone.transform(parts[1])
        np.testing.assert_allclose(one.transform(parts[1]), latents, rtol=0, atol=1e-10)
        expected = alone.impute(parts[1], parts[1].subjects[0])
        found = one.impute(parts[1], parts[1].subjects[0])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
