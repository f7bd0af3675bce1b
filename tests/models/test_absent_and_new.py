"""Absent animals, animals added later, joint generation and held-out likelihoods."""

import numpy as np
import pytest
import xarray as xr

import neuroshare as ns

RATS = {"barat": 60, "mitt": 70, "stella": 40}


@pytest.fixture(scope="module")
def counts():
    sessions = ns.simulate_sessions(RATS, n_trials=30, seed=1, signal=2.0)
    return {name: ns.bin_spikes(session) for name, session in sessions.items()}


# Few gentle steps: the more a product of experts trains a new subject against frozen ones, the
# further its code drifts to what is its own.
GENTLE = {"epochs": 3, "hidden": (64,), "batch_size": 256, "lr": 2e-3, "dropout": 0.3}


def _model(**settings):
    return ns.SharedLatentModel(**{**GENTLE, "progress": False, **settings})


def _pair(counts, **settings):
    return ns.pair_subjects(counts, by="odor", step=0.05, **settings)


def _cross(model, train, test) -> xr.DataArray:
    scores = ns.separation(model.transform(train), model.transform(test))
    return scores["cross"].sel(level="trial")


@pytest.fixture(scope="module")
def complete(counts):
    train, test = _pair(counts).split(seed=0)
    return train, test, float(_cross(_model().fit(train), train, test).mean())


def test_missing_trials_and_a_missing_condition_change_only_the_amount_of_data(counts, complete):
    _, _, expected = complete
    rng = np.random.default_rng(0)
    thinned = {}
    for name, array in counts.items():
        keep = np.sort(rng.permutation(array.sizes["trial"])[: int(0.7 * array.sizes["trial"])])
        thinned[name] = array.isel(trial=keep)
    thinned["mitt"] = thinned["mitt"].isel(trial=thinned["mitt"]["odor"].values != "C")
    paired = _pair(thinned, allow_missing=True)
    assert any("'mitt' has no odor 'C'" in sentence for sentence in paired.report())
    train, test = paired.split(seed=0)
    model = _model().fit(train)
    latents = model.transform(test)
    gone = (latents["odor"] == "C").values
    assert np.isnan(latents.sel(subject="mitt").values[gone]).all()
    assert np.isfinite(latents.sel(subject="stella").values).all()
    three = ns.separation(model.transform(train), latents)["cross"].sel(level="trial")
    complete_pairs = three.sel(source=["barat", "stella"], target=["barat", "stella"])
    assert float(complete_pairs.mean()) > expected - 0.15  # few held-out trials; 0.05 in benchmarks
    imputed = model.impute(test, "mitt")
    assert np.isfinite(imputed.values).all()


def test_windows_without_any_source_are_nan(counts):
    thinned = dict(counts)
    thinned["mitt"] = counts["mitt"].isel(trial=counts["mitt"]["odor"].values != "C")
    train, test = _pair(thinned, allow_missing=True).split(seed=0)
    model = _model(epochs=1).fit(train)
    imputed = model.impute(test, "stella", source="mitt")
    gone = (imputed["odor"] == "C").values
    assert np.isnan(imputed.values[gone]).all()
    assert np.isfinite(imputed.values[~gone]).all()


@pytest.mark.parametrize("objective", ["mmvm", "mmvae_plus", "poe"])
def test_a_new_subject_leaves_the_others_bit_identical_and_joins_them(counts, complete, objective):
    train, test, _ = complete
    known = ["barat", "stella"]
    joint = float(
        _cross(_model(objective=objective).fit(train), train, test).sel(target="mitt").mean()
    )
    model = _model(objective=objective).fit(train.select(known))
    before = model.transform(test.select(known))
    model.add_subject("mitt", train)
    xr.testing.assert_identical(model.transform(test.select(known)), before)
    assert model.subjects_ == ("barat", "stella", "mitt")
    later = _cross(model, train, test).sel(target="mitt")
    assert float(later.mean()) > 0.8 * joint
    assert np.isfinite(model.impute(test, "mitt").values).all()


def test_a_grown_model_is_saved_whole(counts, complete, tmp_path):
    train, test, _ = complete
    model = _model(epochs=1).fit(train.select(["barat", "stella"])).add_subject("mitt", train)
    model.save(tmp_path / "model")
    loaded = ns.SharedLatentModel.load(tmp_path / "model")
    xr.testing.assert_identical(loaded.transform(test), model.transform(test))


def test_add_subject_says_what_is_wrong(complete):
    train, _, _ = complete
    model = _model(epochs=1).fit(train.select(["barat", "stella"]))
    with pytest.raises(ValueError, match="'barat' is fitted already"):
        model.add_subject("barat", train)
    with pytest.raises(ValueError, match="'nobody' is not in the data"):
        model.add_subject("nobody", train)
    with pytest.raises(ValueError, match="at least one fitted subject"):
        model.add_subject("mitt", train.select(["mitt"]))


@pytest.mark.parametrize("objective", ["mmvm", "poe", "independent"])
def test_samples_look_like_counts_of_every_subject(complete, objective):
    train, _, _ = complete
    model = _model(objective=objective).fit(train)
    drawn = model.sample(200, seed=1)
    assert set(drawn) == set(RATS)
    for name, values in drawn.items():
        assert values.sizes == {"window": 200, "unit": RATS[name], "lag": 10}
        assert (values.values == np.round(values.values)).all()
        rate = train[name].mean().item()
        assert 0.5 * rate < float(values.mean()) < 2 * rate
    xr.testing.assert_identical(model.sample(200, seed=1)["mitt"], drawn["mitt"])


def test_joint_likelihood_of_independent_subjects_is_the_sum_of_the_marginals(complete):
    train, test, _ = complete
    scores = _model(objective="independent", epochs=1).fit(train).log_likelihood(test, n_draws=4)
    np.testing.assert_allclose(scores["joint"], scores["marginal"].sum("subject"))
    given = scores["conditional"].sel(source="mitt", target="stella")
    np.testing.assert_allclose(given, scores["marginal"].sel(subject="stella"))


def test_conditional_likelihoods_beat_shuffled_partners_when_something_is_shared(counts):
    paired = _pair(counts)
    train, test = paired.split(seed=0)
    model = _model(epochs=5).fit(train)
    true = model.log_likelihood(test, n_draws=32)["conditional"]
    wrong = model.log_likelihood(test.repair(1, shuffle_conditions=True), n_draws=32)["conditional"]
    assert float(true.mean()) > float(wrong.mean())
