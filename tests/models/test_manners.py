"""What estimators of scikit-learn's kind can be asked for, and points of latent space decoded."""

import numpy as np
import pytest
import xarray as xr
from sklearn.base import clone
from sklearn.metrics import d2_tweedie_score

import neuroshare as ns


@pytest.fixture(scope="module")
def parts():
    sessions = ns.simulate_sessions({"mitt": 20, "stella": 12}, n_trials=16, signal=2.0, seed=2)
    counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    return ns.pair_subjects(counts, by="odor", step=0.05).split(seed=0)


@pytest.fixture(scope="module")
def model(parts):
    return ns.SharedLatentModel(latent_dim=3, inputs="pooled", epochs=0, progress=False).fit(
        parts[0]
    )


def test_fit_transform_is_fit_and_transform(parts, model):
    same = clone(model).fit_transform(parts[0])
    xr.testing.assert_identical(same, model.transform(parts[0]))


def test_score_is_the_explained_deviance_of_scikit_learn(parts, model):
    _, test = parts
    thinned, expected = test.thinned(), []
    for name in test.subjects:
        found = thinned[name].values.astype(float)
        mean = model.impute(thinned, name).values.astype(float)
        null = np.broadcast_to(found.mean(axis=(0, 2), keepdims=True), found.shape)

        def deviance(rate, found=found):
            mean = np.full_like(found, found.mean())
            share = d2_tweedie_score(found.ravel(), rate.ravel(), power=1)
            whole = d2_tweedie_score(found.ravel(), mean.ravel(), power=1)
            return 1 - share + whole

        silent = found.sum(axis=(0, 2)) == 0
        keep = ~silent
        expected.append(
            1 - deviance(mean[:, keep], found[:, keep]) / deviance(null[:, keep], found[:, keep])
        )
    assert model.score(test) == pytest.approx(np.mean(expected), abs=1e-4)


def test_a_better_model_has_a_higher_score(parts, model):
    train, test = parts
    linear = ns.LinearAlignment("mcca", latent_dim=3).fit(train)
    shuffled = clone(model).fit(train.repair(3, shuffle_conditions=True))
    assert 0 < model.score(test) < 1
    assert linear.score(test) > shuffled.score(test)
    assert model.score(test) > shuffled.score(test)


def test_one_subject_is_scored_by_its_reconstruction(parts):
    train, test = (part.select(["mitt"]) for part in parts)
    alone = ns.SharedLatentModel(latent_dim=3, inputs="pooled", epochs=1, progress=False).fit(train)
    assert np.isfinite(alone.score(test))


def test_decoded_latents_are_the_reconstruction(parts, model):
    _, test = parts
    decoded = model.inverse_transform(model.transform(test))
    assert set(decoded) == {"mitt", "stella"}
    assert decoded["mitt"].dims == ("subject", "window", "unit", "lag")
    own = model.impute(test, "mitt", source="mitt")
    # The same point of latent space, but for the gain by which others' codes are stretched.
    np.testing.assert_allclose(decoded["mitt"].sel(subject="mitt").values, own.values, rtol=1e-4)
    np.testing.assert_array_equal(decoded["stella"]["odor"], test.coords()["odor"][1])


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
def test_points_may_be_plain_arrays(model, shape):
    points = np.random.default_rng(0).normal(size=shape)
    decoded = model.inverse_transform(points)["stella"]
    assert decoded.shape == (*shape[:-1], 12, 10)
    assert (decoded >= 0).all()
    flat = model.inverse_transform(points.reshape(-1, 3))["stella"].values
    np.testing.assert_allclose(decoded.values.reshape(flat.shape), flat, rtol=1e-5)


@pytest.mark.parametrize("points", [np.zeros((4, 2)), np.array("a"), [["x", "y", "z"]]])
def test_points_of_another_space_are_refused(model, points):
    with pytest.raises(ValueError, match="inverse_transform expected points"):
        model.inverse_transform(points)


def test_loadings_say_which_latent_moves_which_unit(model):
    loadings = model.loadings()
    assert {n: dict(x.sizes) for n, x in loadings.items()} == {
        "mitt": {"unit": 20, "latent": 3}, "stella": {"unit": 12, "latent": 3},
    }  # fmt: skip
    # To first order they are the derivative: twice the step is twice the change in log rate.
    base = model.inverse_transform(np.zeros(3))["mitt"].sum("lag")
    for k in range(3):
        up = model.inverse_transform(0.01 * np.eye(3)[k])["mitt"].sum("lag")
        slope = (up - base).values
        assert np.corrcoef(slope, loadings["mitt"].values[:, k])[0, 1] > 0.95


def test_history_knows_which_latents_are_used(model):
    history = model.history_
    assert history["latent_active"].values.tolist() == [True, True, True]
    assert history["latent_rate"].dims == ("subject", "latent")
    assert (history["latent_rate"] > 0).all()


def test_the_rate_of_a_latent_is_that_of_its_gaussians(parts):
    train, _ = parts
    model = ns.SharedLatentModel(
        latent_dim=2, inputs="pooled", epochs=1, objective="independent", progress=False
    ).fit(train)
    import torch

    trained, thinned = model._trained, train.thinned()
    loc, scale = [], []
    with torch.inference_mode():
        for _, x, _ in trained.windows(thinned).all_batches():
            q = trained.vae.encode(x)
            loc.append(q.loc)
            scale.append(q.scale)
    loc, scale = torch.cat(loc, 1), torch.cat(scale, 1)
    mean = loc.mean(1, keepdim=True)
    variance = (scale**2 + (loc - mean) ** 2).mean(1, keepdim=True)
    whole = torch.distributions.Normal(mean, variance.sqrt())
    each = torch.distributions.Normal(loc, scale)
    kl = torch.distributions.kl_divergence(each, whole).mean(1)
    np.testing.assert_allclose(model.history_["latent_rate"], kl.numpy(), rtol=1e-3)


@pytest.mark.parametrize("kind", [ns.SharedLatentModel, ns.LinearAlignment])
def test_random_state_is_taken_as_the_seed_with_a_word(kind):
    with pytest.warns(UserWarning, match="calls it seed: random_state=5 is taken"):
        model = kind(random_state=5)
    assert model.seed == 5
    assert "random_state" not in model.get_params()
    assert kind(random_state=None).seed == 0
    with pytest.raises(TypeError, match="seed or random_state, not both"):
        kind(seed=1, random_state=1)
    with pytest.raises(TypeError, match="unexpected keyword"):
        kind(random_sate=1)
    assert clone(model).seed == 5


def test_settings_are_those_that_were_fitted_with(parts, model):
    assert model.settings_["latent_dim"] == 3
    assert model.settings_["init"] == "mcca"
    assert model.settings_["epochs"] == 0
    assert model.settings_["objective"].contrast == 0
