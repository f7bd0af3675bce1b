"""Activity that is no spike counts, such as fluorescence, through every door."""

import json

import numpy as np
import pytest
from scipy.ndimage import uniform_filter1d

import neuroshare as ns


def paired_of(change):
    sessions = ns.simulate_sessions(
        {"mitt": 24, "stella": 16, "barat": 20}, n_trials=24, signal=2.0, seed=3
    )
    rng = np.random.default_rng(0)
    activity = {}
    for name, session in sessions.items():
        counts = ns.bin_spikes(session, span=(0.0, 0.4))
        activity[name] = counts.copy(data=change(counts.values.astype(float), rng))
    return ns.pair_subjects(activity, by="odor", step=0.05).split(0.25, seed=0)


def fluorescence(counts, rng):
    smooth = uniform_filter1d(counts, 5, axis=2)
    return 1.0 + smooth + rng.normal(0, 0.05, smooth.shape)


def z_scores(counts, rng):
    axes = (0, 2)
    spread = counts.std(axes, keepdims=True) + 1e-9
    return (counts - counts.mean(axes, keepdims=True)) / spread


def is_active(counts, rng):
    return (counts > 0).astype(float)


KINDS = {"gaussian": fluorescence, "laplace": z_scores, "bernoulli": is_active}
EPOCHS = {"gaussian": 0, "laplace": 0, "bernoulli": 10}


@pytest.fixture(scope="module", params=list(KINDS))
def fitted(request):
    train, test = paired_of(KINDS[request.param])
    model = ns.SharedLatentModel(
        likelihood=request.param,
        latent_dim=4,
        inputs="pooled",
        epochs=EPOCHS[request.param],
        progress=False,
    ).fit(train)
    return model, train, test


def explained(expected, train, test, name):
    y, mean = test[name].values, train[name].values.mean((0, 2))[None, :, None]
    return 1 - np.square(expected - y).sum() / np.square(mean - y).sum()


def test_predictions_are_about_the_mean_and_know_something(fitted):
    model, train, test = fitted
    for name in test.subjects:
        of_others = explained(model.impute(test, name).values, train, test, name)
        itself = explained(model.impute(test, name, name).values, train, test, name)
        assert -0.1 < of_others < itself
    drawn = model.sample(300, mean=True)
    for name, values in drawn.items():
        mean, spread = train[name].values.mean((0, 2)), train[name].values.std()
        np.testing.assert_allclose(values.values.mean((0, 2)), mean, atol=0.25 * spread)


def test_raw_inputs_keep_the_random_start_of_the_paper():
    train, _ = paired_of(fluorescence)
    settings = {"likelihood": "gaussian", "latent_dim": 2, "epochs": 0, "progress": False}
    model = ns.SharedLatentModel(inputs="raw", init="random", **settings).fit(train)
    assert model.impute(train, "mitt").values.mean() < 0.5


def test_separation_and_imputation_and_residuals(fitted):
    model, train, test = fitted
    accuracy = ns.separation(model.transform(train), model.transform(test))
    assert float(accuracy.mean_cross.sel(level="trial")) > 0.4  # chance .25
    found = ns.imputation_scores(model, train, test, n_bootstraps=20)
    binary = not train.why_not_counts("mitt")  # zeros and ones may be counts
    assert found.attrs["score"] == ("bits_per_spike" if binary else "variance_explained")
    score = found[found.attrs["score"]]
    assert not any(name.startswith("bits") for name in found) or binary
    if not binary:
        whole = explained(
            model.impute(test.thinned(), "mitt").values, train, test.thinned(), "mitt"
        )
        close = ns.imputation_scores(model, train.thinned(), test.thinned())
        reached = float(close.variance_explained.sel(source="all others", target="mitt"))
        assert reached == pytest.approx(whole, abs=0.02)
    assert (score.sel(source="all others") < found[f"{score.name}_self"]).all()
    parts = ns.residuals(model, test, train, n_repairs=2)
    if not binary:
        assert np.isnan(parts.variance.sel(part="noise")).all()
        assert len(json.loads(parts.attrs["warnings"])) == 3
        known = parts.share.sel(part=["shared", "specific"]).sum("part")
        np.testing.assert_allclose(known, 1)
        total = sum(np.var(test["mitt"].values.sum(2), axis=0))
        of_mitt = float(parts.variance.sel(subject="mitt", part=["shared", "specific"]).sum())
        assert of_mitt == pytest.approx(total, rel=0.1)


class Oracle:
    """Predicts a share of the way from the training mean to what was there."""

    def __init__(self, share, train):
        self.share, self.train = share, train

    def impute(self, paired, target, source=None):
        there = paired[target]
        mean = self.train[target].values.mean((0, 2))[None, :, None]
        return there.copy(data=mean + self.share * (there.values - mean))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_variance_explained_is_what_its_name_says(share):
    train, test = paired_of(z_scores)
    found = ns.imputation_scores(Oracle(share, train), train, test)
    expected = 1 - (1 - share) ** 2
    np.testing.assert_allclose(found.variance_explained_self, expected, atol=1e-3)
    np.testing.assert_allclose(
        found.variance_explained_unit.sel(source="all others"), expected, atol=1e-3
    )


def test_compare_takes_negative_activity():
    train, test = paired_of(z_scores)
    table = ns.compare(train, test, n_bootstraps=0).set_index(["model", "score", "level"])
    raw = table.loc[("raw counts", "own", "trial"), "value"]
    assert raw > 0.5
    assert np.isfinite(table.loc[("mcca", "variance_explained, all others", ""), "value"])


def test_a_newcomer_of_other_activity_joins():
    train, test = paired_of(fluorescence)
    model = ns.SharedLatentModel(
        likelihood="gaussian", latent_dim=4, inputs="pooled", epochs=10, progress=False
    ).fit(train.select(["mitt", "stella"]))
    model.add_subject("barat", train)
    accuracy = ns.separation(model.transform(train), model.transform(test)).sel(level="trial")
    assert float(accuracy.cross.sel(target="barat").mean()) > 0.5
    assert explained(model.impute(test, "barat").values, train, test, "barat") > -0.02
