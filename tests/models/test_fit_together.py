"""Models fitted together are what each would be alone."""

import numpy as np
import pytest

import neuroshare as ns
from neuroshare.models.together import fit_together

UNITS = {"barat": 7, "mitt": 5, "stella": 6}
SETTINGS = {
    "objective": "autoencoder",  # no noise, so that fits can be compared
    "dropout": 0.0,
    "latent_dim": 3,
    "hidden": (8,),
    "epochs": 3,
    "lr": 1e-2,
    "progress": False,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def parts():
    sessions = ns.simulate_sessions(UNITS, n_trials=6, seed=2)
    counts = {name: ns.bin_spikes(session, span=(0.0, 0.3)) for name, session in sessions.items()}
    return ns.pair_subjects(counts, "odor", step=0.04).split(0.34)


def make(**more):
    return ns.SharedLatentModel(**{**SETTINGS, **more})


@pytest.mark.parametrize("init", ["mcca", "random"])
def test_models_fitted_together_are_what_each_is_alone(parts, init):
    """One batch per epoch, so that the order of the windows, which differs, has no influence."""
    train, test = parts
    settings = [{"seed": 0}, {"seed": 1}, {"seed": 2, "hidden": (5,)}]
    together = [make(init=init, **more) for more in settings]
    assert fit_together(together, train, progress=False) == [None] * 3
    for model, more in zip(together, settings, strict=True):
        alone = make(init=init, **more).fit(train)
        np.testing.assert_allclose(
            model.transform(test), alone.transform(test), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(model.history_["loss"], alone.history_["loss"], rtol=1e-5)
        assert model.units_.keys() == alone.units_.keys()


def test_models_fitted_together_can_be_saved_and_impute(parts, tmp_path):
    train, test = parts
    models = [make(objective=objective) for objective in ("mmvm", "poe")]
    fit_together(models, train, progress=False)
    for model in models:
        model.save(tmp_path / "model")
        loaded = ns.SharedLatentModel.load(tmp_path / "model")
        np.testing.assert_array_equal(loaded.transform(test), model.transform(test))
        assert loaded.impute(test, "mitt").notnull().all()


def test_a_model_that_cannot_be_fitted_stops_no_other(parts):
    train, test = parts
    models = [make(), make(latent_dim=0), make(lr=1e-2)]
    failures = fit_together(models, train, progress=False)
    assert failures[0] is failures[2] is None
    assert "'latent_dim'" in str(failures[1])
    assert models[2].transform(test).notnull().all()
    assert not hasattr(models[1], "history_")


def test_a_model_that_diverges_with_the_last_step_is_told(parts):
    models = [make(epochs=1, lr=1e30)]
    (failure,) = fit_together(models, parts[0], progress=False)
    assert "learning rate (lr)" in str(failure)
    assert not hasattr(models[0], "history_")


def test_models_that_train_by_different_rules_are_refused(parts):
    with pytest.raises(ValueError, match=r"need the same 'epochs'\. Got 3 and 4"):
        fit_together([make(), make(epochs=4)], parts[0])


def test_precision_is_a_setting_of_the_model(parts, tmp_path):
    train, _ = parts
    losses = {}
    for precision in ("fp32", "tf32", "bf16"):
        model = make(precision=precision, hidden=(64,)).fit(train)
        model.save(tmp_path / precision)
        loaded = ns.SharedLatentModel.load(tmp_path / precision)
        assert loaded.precision == precision
        losses[precision] = model.history_["loss"].values
    # On a CPU tf32 is float32.
    np.testing.assert_array_equal(losses["tf32"], losses["fp32"])
    assert not np.array_equal(losses["bf16"], losses["fp32"])
    np.testing.assert_allclose(losses["bf16"], losses["fp32"], rtol=0.02)
    with pytest.raises(ValueError, match=r"'precision'.*'fp32', 'tf32', 'bf16'"):
        make(precision="half").fit(train)
