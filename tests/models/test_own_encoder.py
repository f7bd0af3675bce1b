"""An encoder of one's own, under the heads of the package: wherever a model goes, it goes along."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

import neuroshare as ns
from neuroshare.models.together import fit_together

UNITS = {"barat": 7, "mitt": 5, "stella": 6}
SMALL = {"latent_dim": 3, "hidden": (8,), "epochs": 2, "batch_size": 64, "progress": False}


class Recurrent(nn.Module):
    """A GRU over the lags of a window."""

    def __init__(self, n_units, n_lags, n_features):
        super().__init__()
        self.gru = nn.GRU(n_units, n_features, batch_first=True)

    def forward(self, x):
        return self.gru(x.swapaxes(1, 2))[0][:, -1]


def convolution(n_units, n_lags, n_features):
    """Convolve over time, then mix all that is left."""
    return nn.Sequential(
        nn.Conv1d(n_units, 4, kernel_size=3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * (n_lags - 2), n_features),
    )


ENCODERS = {"gru": Recurrent, "convolution": convolution}


@pytest.fixture(scope="module")
def parts():
    sessions = ns.simulate_sessions(UNITS, n_trials=6, seed=2, mean_rate=15.0)
    counts = {n: ns.bin_spikes(s, span=(0.0, 0.3), bin_size=0.02) for n, s in sessions.items()}
    return ns.pair_subjects(counts, "odor", step=0.04).split(0.34, seed=0)


def small(**more):
    return ns.SharedLatentModel(**{**SMALL, **more})


def latents(model, windows):
    return model.transform(windows).values


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize("inputs", ["pooled", "standard", "raw"])
@pytest.mark.parametrize("init", ["mcca", "random"])
def test_an_encoder_of_ones_own_fits_imputes_saves_and_loads(
    encoder, inputs, init, parts, tmp_path
):
    train, test = parts
    fitted = small(encoder=encoder, inputs=inputs, init=init).fit(train, validation=test)
    z = latents(fitted, test)
    assert np.isfinite(z).all()
    assert np.isfinite(fitted.history_.loss).all()
    assert (fitted.impute(test, target="mitt") >= 0).all()
    assert fitted.get_params()["encoder"] is encoder
    np.testing.assert_array_equal(latents(clone(fitted).fit(train, validation=test), test), z)
    fitted.save(tmp_path / "model")
    with pytest.raises(ValueError, match=rf"{encoder.__name__}, .*load\(path, encoder=\.\.\.\)"):
        ns.SharedLatentModel.load(tmp_path / "model")
    back = ns.SharedLatentModel.load(tmp_path / "model", encoder=encoder, device="cpu")
    np.testing.assert_array_equal(latents(back, test), z)
    np.testing.assert_array_equal(back.impute(test, "barat"), fitted.impute(test, "barat"))


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_it_begins_at_the_linear_map_and_then_learns(encoder, parts):
    train, test = parts
    plain, own = small(epochs=0).fit(train), small(epochs=0, encoder=encoder).fit(train)
    np.testing.assert_array_equal(latents(own, test), latents(plain, test))
    trained = small(epochs=20, lr=1e-2, encoder=encoder).fit(train)
    assert trained.history_.loss[-1] < trained.history_.loss[0]
    weights = zip(
        own._trained.vae.encoders[0].body.parameters(),
        trained._trained.vae.encoders[0].body.parameters(),
        strict=True,
    )
    assert all(not torch.equal(before, after) for before, after in weights)


def test_it_sees_every_lag_of_standardised_roots_though_the_map_sees_their_sum(parts):
    """Features of the core are ordered (lag, unit); a network of one's own sees (unit, lag)."""
    seen = []

    class Looks(nn.Module):
        def __init__(self, n_units, n_lags, n_features):
            super().__init__()
            self.linear = nn.Linear(n_units * n_lags, n_features)

        def forward(self, x):
            seen.append(x.detach().numpy().copy())
            return self.linear(x.flatten(1))

    train, test = parts
    fitted = small(subjects={"mitt": ns.Subject(encoder=Looks), "barat": ns.Subject()}).fit(train)
    seen.clear()
    fitted.transform(test.select(["mitt", "barat"]))
    x = np.sqrt(test.select(["mitt", "barat"])["mitt"].values.astype(float))
    training = train.select(["mitt"]).thinned()
    roots = np.sqrt(training["mitt"].values.astype(float))
    loc, scale = roots.mean(0), roots.std(0)
    scale = np.sqrt(scale**2 + 0.05 * np.mean(scale**2))
    np.testing.assert_allclose(np.concatenate(seen), (x - loc) / scale, atol=1e-4)


def test_units_that_are_dropped_are_hidden_from_the_network_too(parts):
    seen = []

    class Looks(nn.Module):
        def __init__(self, n_units, n_lags, n_features):
            super().__init__()
            self.linear = nn.Linear(n_units * n_lags, n_features)

        def forward(self, x):
            if self.training:
                seen.append((x == 0).all(2).double().mean().item())
            return self.linear(x.flatten(1))

    small(encoder=Looks, dropout=0.5).fit(parts[0])
    # Four standard errors of a share of one half, over 3 subjects and all batches.
    assert np.mean(seen) == pytest.approx(0.5, abs=0.05)


def test_one_subject_may_have_its_own_and_join_later(parts, tmp_path):
    train, test = parts
    known = ["barat", "stella"]
    fitted = small(encoder=convolution).fit(train.select(known))
    before = latents(fitted, test.select(known))
    fitted.add_subject("mitt", train, ns.Subject(encoder=Recurrent))
    np.testing.assert_array_equal(latents(fitted, test.select(known)), before)
    assert isinstance(fitted._trained.vae.encoders[2].body, Recurrent)
    fitted.save(tmp_path / "model")
    for given in (Recurrent, {"mitt": Recurrent}, {"mitt": Recurrent, "nobody": convolution}):
        with pytest.raises(ValueError, match=r"encoder|convolution"):
            ns.SharedLatentModel.load(tmp_path / "model", encoder=given)
    with pytest.raises(ValueError, match=r"encoder of Recurrent.* for mitt, got convolution"):
        ns.SharedLatentModel.load(
            tmp_path / "model", encoder={"mitt": convolution, "barat": convolution}
        )
    back = ns.SharedLatentModel.load(
        tmp_path / "model", encoder={"mitt": Recurrent, "barat": convolution}
    )
    np.testing.assert_array_equal(latents(back, test), latents(fitted, test))


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("gru", r"'encoder' parameter of SharedLatentModel must be None or a function"),
        (nn.Linear(3, 3), r"'encoder' parameter of SharedLatentModel must be None or a function"),
        (lambda *sizes: 3, r"'barat': expected a torch module of encoder\(7, 5, 8\), got int"),
        (lambda *sizes: nn.Flatten(), r"features \(sample, 8\).* got \(2, 35\) for 2 samples"),
        (lambda *sizes: nn.Linear(99, 8), r"\(sample, 7 units, 5 lags\), but it fails"),
    ],
    ids=["text", "module", "number", "shape", "fails"],
)
def test_what_is_no_encoder_is_refused(encoder, message, parts):
    with pytest.raises(ValueError, match=message):
        small(encoder=encoder).fit(parts[0])


def test_models_with_own_encoders_are_not_fitted_together(parts):
    models = [small(encoder=Recurrent), small()]
    failures = fit_together(models, parts[0], progress=False)
    assert "one by one" in str(failures[0])
    assert failures[1] is None
    assert not hasattr(models[0], "history_")
