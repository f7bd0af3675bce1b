import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import neuroshare as ns
from neuroshare.models.evidence import sharpest
from neuroshare.models.tuning import Tuning, rates_at

RATS = {"anna": 60, "berta": 50, "clara": 55}


def moved(counts, share):
    """Counts at another place of the session than they were."""
    return counts.copy(data=np.roll(counts.values, int(share * len(counts)), axis=0))


def windows_of(names=tuple(RATS), null=None, by="position"):
    rats = ns.simulate_sessions(RATS, running=300.0, seed=1)
    counts = {}
    for name in names:
        counts[name] = ns.bin_spikes(
            rats[name], span=None, width=0.2, bin_size=0.02, behavior=["position", "speed"]
        )
    if null is not None:
        counts[null] = moved(counts[null], 0.45)
    return ns.pair_subjects(counts, by=by, bandwidth=0.05).split(seed=0)


def fit(train, **kwargs):
    kwargs = {"latent_dim": 6, "inputs": "pooled", "epochs": 0, "progress": False, **kwargs}
    return ns.SharedLatentModel(**kwargs).fit(train)


@pytest.fixture(scope="module")
def parts():
    return windows_of()


@pytest.fixture(scope="module")
def model(parts):
    return fit(parts[0])


def test_place_cells_are_imputed_nearly_as_well_as_by_their_tuning_to_the_true_place(parts, model):
    scores = ns.imputation_scores(model, *parts)
    tuned = scores.bits_per_spike_psth
    assert float(tuned.min()) > 0.2
    all_others = scores.bits_per_spike.sel(source="all others")
    # Partners lie within a tenth of the track, so that some of the tuning is blurred.
    assert float((all_others / tuned).min()) > 0.75
    one_other = scores.bits_per_spike.isel(source=slice(0, 3))
    assert float((one_other / tuned).min()) > 0.5


def test_imputed_rates_are_as_large_as_those_that_were_seen(parts, model):
    test = parts[1]
    for target in RATS:
        expected, seen = model.impute(test, target=target), test[target]
        assert expected.dims == seen.dims
        assert bool((expected >= 0).all())
        # Of windows that hold some 2,000 spikes, of units that fire in bursts.
        assert float(expected.sum() / seen.sum()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("objective", ["mmvm", "poe"])
def test_an_animal_that_tells_nothing_neither_gains_nor_costs_a_bit(objective):
    train, test = windows_of(null="berta")
    scores = ns.imputation_scores(fit(train, objective=objective), train, test)
    bits = scores.bits_per_spike
    for null in (bits.sel(target="berta"), bits.sel(source="berta")):
        known = null.values[np.isfinite(null.values)]
        np.testing.assert_allclose(known, 0, atol=0.02)
    assert float(bits.sel(source="anna", target="clara")) > 0.15


def test_own_spikes_give_a_reconstruction_and_absent_sources_none(parts, model):
    test = parts[1]
    own = model.impute(test, target="anna", source="anna")
    assert bool(own.notnull().all())
    counts = dict(test.counts)
    counts["berta"] = counts["berta"].where(counts["berta"].position < 1.0, drop=True).astype(int)
    with pytest.warns(UserWarning, match="berta"):
        half = ns.pair_subjects(counts, by="position", bandwidth=0.05)
    imputed = model.impute(half, target="anna", source="berta")
    there = half.observed[half.subjects.index("berta")]
    assert not there.all()
    np.testing.assert_array_equal(np.isfinite(imputed.values[:, 0, 0]), there)


def test_what_is_generated_has_the_rates_of_the_recording(parts, model):
    train = parts[0]
    drawn, mean = model.sample(4000, seed=1), model.sample(4000, seed=1, mean=True)
    for name in RATS:
        rate = train[name].values.mean(axis=(0, 2))
        np.testing.assert_allclose(mean[name].mean(("window", "lag")), rate, rtol=0.3, atol=0.01)
        found = drawn[name].mean(("window", "lag"))
        np.testing.assert_allclose(found, mean[name].mean(("window", "lag")), rtol=0.2, atol=0.01)


def test_a_point_of_latent_space_means_the_place_where_codes_lie(parts, model):
    train, test = parts
    codes = model.transform(test).sel(subject="anna")
    places = test.coords()["position"][1][0]
    for low, high in ((0.3, 0.5), (1.4, 1.6)):
        at = codes.values[(places > low) & (places < high)].mean(axis=0)
        decoded = model.inverse_transform(at)["berta"].mean("lag").values.ravel()
        own = train.coords()["position"][1][train.subjects.index("berta")]
        seen = train["berta"].values[(own > low) & (own < high)].mean(axis=(0, 2))
        assert np.corrcoef(decoded, seen)[0, 1] > 0.9
    assert all(np.isfinite(part).all() for part in model.loadings().values())


def test_likelihoods_are_those_of_what_is_generated(parts, model):
    few = parts[1].select(["anna", "berta"])
    nats = model.log_likelihood(few, n_draws=8)
    lags = few["anna"].values
    rate = parts[0]["anna"].values.mean(axis=(0, 2)) + 1e-6
    flat = -rate.sum() * lags.shape[2] + (lags.sum(axis=2) * np.log(rate)).sum(axis=1)
    flat -= np.where(lags > 1, np.log(np.maximum(lags, 1)), 0).sum(axis=(1, 2))  # counts of 2
    given = nats.conditional.sel(source="berta", target="anna")
    assert float(given.mean()) > float(flat.mean()) + 0.5


def test_tuning_is_kept_in_files_and_damage_is_told(parts, model, tmp_path):
    test = parts[1]
    model.save(tmp_path / "model")
    again = ns.SharedLatentModel.load(tmp_path / "model")
    for target in RATS:
        np.testing.assert_array_equal(model.impute(test, target), again.impute(test, target))
    weights = load_file(tmp_path / "model" / "weights.safetensors")
    weights["tuning.rates.1"] = weights["tuning.rates.1"][:, 1:].contiguous()
    save_file(weights, tmp_path / "model" / "weights.safetensors")
    with pytest.raises(ValueError, match="damaged"):
        ns.SharedLatentModel.load(tmp_path / "model")


def test_a_newcomer_is_imputed_and_nothing_of_the_others_changes(parts):
    train, test = parts
    model = fit(train.select(["anna", "berta"]))
    known = test.select(["anna", "berta"])
    before = model.impute(known, target="anna", source="berta")
    model.add_subject("clara", train, epochs=2)
    np.testing.assert_array_equal(model.impute(known, "anna", source="berta"), before)
    scores = ns.imputation_scores(model, train, test)
    share = scores.bits_per_spike / scores.bits_per_spike_psth
    assert float(share.sel(source="all others", target="clara")) > 0.75
    assert float(share.sel(source="clara", target="anna")) > 0.5


def test_a_newcomer_that_tells_nothing_is_not_trusted():
    train, test = windows_of(null="clara")
    model = fit(train.select(["anna", "berta"])).add_subject("clara", train, epochs=1)
    bits = ns.imputation_scores(model, train, test).bits_per_spike
    np.testing.assert_allclose(bits.sel(target="clara").dropna("source"), 0, atol=0.02)
    np.testing.assert_allclose(bits.sel(source="clara").dropna("target"), 0, atol=0.02)


def test_models_that_share_nothing_have_no_tuning(parts):
    alone = fit(parts[0], objective="independent")
    assert alone._trained.tuning is None
    assert alone.imputation_ == ""


def test_sharpness_is_that_of_evidence_and_zero_of_noise():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, 4000)
    place, prior = np.eye(4)[true], np.log(np.full(4, 0.25))
    x = 2 * place + rng.normal(size=place.shape)
    evidence = 2 * x  # log-likelihoods of a Gaussian of variance 1, up to a constant
    assert sharpest([(evidence, place)], prior) == 1
    assert sharpest([(4 * evidence, place)], prior) == 0.25
    assert sharpest([(evidence, np.eye(4)[rng.integers(0, 4, 4000)])], prior) == 0


def test_units_without_tuning_are_drawn_to_their_means():
    rng = np.random.default_rng(0)
    place = np.eye(5)[rng.integers(0, 5, 2000)]
    rates = np.stack([np.full(5, 2.0), np.array([0.1, 1, 2, 3, 4])], axis=1)
    seen = rng.poisson(place @ rates).astype(float)
    found = rates_at(seen, place, n_parts=1, n_lags=10, counts=True) * 10
    raw = place.T @ seen / place.sum(axis=0)[:, None]
    mean = seen.mean(axis=0)
    assert (np.abs(found - mean)[:, 0] < 0.8 * np.abs(raw - mean)[:, 0]).all()
    np.testing.assert_allclose(found[:, 1], raw[:, 1], atol=0.02)


def test_evidence_of_several_codes_adds_up_and_absent_ones_say_nothing():
    slopes, offsets = torch.eye(2), torch.zeros(2)
    prior = torch.tensor([0.25, 0.75]).log()
    tuning = Tuning((torch.ones(2, 1),) * 2, slopes, offsets, prior, torch.tensor([1.0, 0.5]))
    z = {0: torch.tensor([[1.0, 0.0]]), 1: torch.tensor([[2.0, 0.0]])}
    odds = 0.25 / 0.75 * np.exp([1, 2])
    np.testing.assert_allclose(tuning.bins(z)[0, 0], odds[1] / (1 + odds[1]), rtol=1e-6)
    z[1] = torch.full((1, 2), torch.nan)
    np.testing.assert_allclose(tuning.bins(z)[0, 0], odds[0] / (1 + odds[0]), rtol=1e-6)
