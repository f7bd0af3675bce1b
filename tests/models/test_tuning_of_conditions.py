"""What is imputed of windows that are paired by conditions: tuning to these and to time."""

import numpy as np
import pytest
import xarray as xr

import neuroshare as ns
from neuroshare.models.evidence import MOST_TIMES, bins_of
from neuroshare.models.tuning import rates_of

UNITS = {"anna": 40, "berta": 50, "clara": 45}
ODORS = [f"{k:02d}" for k in range(8)]


def simulated(tuning="place", n_trials=16, names=tuple(UNITS), **kwargs):
    sessions = ns.simulate_sessions(
        UNITS, odors=ODORS, tuning=tuning, n_trials=n_trials, seed=3, **kwargs
    )
    return {name: ns.bin_spikes(sessions[name], "start_time", (0.0, 0.4)) for name in names}


def paired(counts, width=0.1, step=0.05):
    return ns.pair_subjects(counts, by="odor", width=width, step=step).split(seed=1)


def fit(train, **kwargs):
    kwargs = {"latent_dim": 7, "inputs": "pooled", "epochs": 0, "progress": False, **kwargs}
    return ns.SharedLatentModel(**kwargs).fit(train)


@pytest.fixture(scope="module")
def parts():
    return paired(simulated(signal=2.0))


@pytest.fixture(scope="module")
def model(parts):
    return fit(parts[0])


def bits_of(model, parts):
    return ns.imputation_scores(model, *parts)


def test_place_cells_are_imputed_about_as_well_as_their_mean_counts_by_the_true_place(parts, model):
    scores = bits_of(model, parts)
    share = scores.bits_per_spike.sel(source="all others") / scores.bits_per_spike_psth
    assert float(share.min()) > 0.85
    assert float(scores.bits_per_spike_psth.min()) > 0.3
    assert "by odor and time within the trial" in model.imputation_


def test_a_log_linear_decoder_cannot_follow_them(parts, model):
    """The read-out that the recipe had before, which an objective as an object still has."""
    decoders = fit(parts[0], objective=ns.MMVM(cross=0.8, combine="mean"))
    assert "by its decoder, from the mean latents" in decoders.imputation_
    former, now = (
        float(bits_of(m, parts).mean_bits_per_spike.sel(sources="all others"))
        for m in (decoders, model)
    )
    assert now > 1.2 * former > 0


def test_trials_of_one_animal_that_say_nothing_are_not_trusted():
    counts = simulated(signal=2.0)
    told = counts["clara"]["odor"].values
    shuffled = np.random.default_rng(0).permutation(told)
    counts["clara"] = counts["clara"].assign_coords(odor=("trial", shuffled))
    parts = paired(counts)
    scores = bits_of(fit(parts[0]), parts)
    bits = scores.bits_per_spike
    np.testing.assert_allclose(bits.sel(target="clara").dropna("source"), 0, atol=0.03)
    np.testing.assert_allclose(bits.sel(source="clara").dropna("target"), 0, atol=0.03)
    assert float(bits.sel(source="anna", target="berta")) > 0.15


def test_imputed_means_are_those_of_the_target(parts, model):
    for name in UNITS:
        expected = model.impute(parts[1], target=name).mean(("window", "lag"))
        seen = parts[0][name].mean(("window", "lag"))
        ratio = expected.values / np.maximum(seen.values, 1e-3)
        assert 0.7 < np.median(ratio) < 1.4


def test_parts_of_the_window_have_rates_of_their_own():
    parts = paired(simulated("time", n_trials=24), width=0.2, step=0.1)
    pooled, five = (
        float(bits_of(fit(parts[0], inputs=i), parts).mean_bits_per_spike.sel(sources="all others"))
        for i in ("pooled", 5)
    )
    assert five > 1.5 * pooled
    model = fit(parts[0], inputs=5)
    expected = model.impute(parts[1], target="anna")
    assert expected.isel(lag=0).equals(expected.isel(lag=3).assign_coords(lag=expected.lag[0]))
    assert not np.allclose(expected.isel(lag=0), expected.isel(lag=4))
    decoded = model.inverse_transform(model.transform(parts[1]).sel(subject="berta"))["anna"]
    assert decoded.sizes["lag"] == expected.sizes["lag"]
    assert decoded.dims == ("window", "unit", "lag")


def test_what_training_chose_is_trusted_by_its_own_held_out_trials():
    # In an exclusive-or no mean tells the conditions: only trained codes are to be trusted.
    sessions = ns.simulate_sessions(
        {"a": 30, "b": 30, "c": 30}, odors=["x", "y"], tuning="pairs", n_trials=80, seed=2
    )
    counts = {n: ns.bin_spikes(s, "start_time", (0.0, 0.4)) for n, s in sessions.items()}
    parts = paired(counts, width=0.2, step=0.1)
    model = ns.SharedLatentModel(latent_dim=4, inputs=5, progress=False).fit(parts[0])
    assert model.chosen_["steps"] > 0
    trained = model._choice.sharpness
    start = fit(parts[0], latent_dim=4, inputs=5)._trained.tuning.sharpness
    assert set(trained) == {"a", "b", "c"}
    assert min(trained.values()) > 0
    assert float(start.max()) < 1 / 16
    # Means differ little between the conditions, and still the imputed ones are told apart.
    assert float(bits_of(model, parts).coherence.min()) > 0.8


def test_a_given_number_of_epochs_leaves_it_to_the_decoders(parts):
    model = fit(parts[0], epochs=2)
    assert model._trained.tuning is None
    assert "by its decoder" in model.imputation_


def test_few_trials_of_a_condition_leave_it_to_the_decoders():
    counts = {name: part.isel(trial=slice(0, 24)) for name, part in simulated().items()}
    train = ns.pair_subjects(counts, by="odor", width=0.1, step=0.05)
    assert train.trials_of_conditions().min(axis=None) < 4
    assert fit(train, latent_dim=2)._trained.tuning is None


def test_it_is_saved_and_loaded(parts, model, tmp_path):
    model.save(tmp_path / "model")
    loaded = ns.SharedLatentModel.load(tmp_path / "model")
    assert loaded.imputation_ == model.imputation_
    for name in UNITS:
        xr.testing.assert_identical(
            loaded.impute(parts[1], target=name), model.impute(parts[1], target=name)
        )


def test_a_newcomer_is_imputed_and_tells_the_others(parts):
    train, test = parts
    model = fit(train.select(["anna", "berta"]))
    known = test.select(["anna", "berta"])
    before = model.impute(known, target="anna", source="berta")
    model.add_subject("clara", train, epochs=1)
    np.testing.assert_array_equal(model.impute(known, "anna", source="berta"), before)
    scores = bits_of(model, parts)
    share = scores.bits_per_spike / scores.bits_per_spike_psth
    assert float(share.sel(source="all others", target="clara")) > 0.6
    assert float(share.sel(source="clara", target="anna")) > 0.4


def test_rates_are_means_drawn_to_that_of_the_unit():
    rng = np.random.default_rng(0)
    n = 60
    strong = np.repeat([1.0, 5.0], n)
    counts = {}
    for name in ("a", "b"):
        rate = np.stack([strong, np.full(2 * n, 3.0)], axis=1) / 10
        found = rng.poisson(rate[:, :, None] * np.ones(10))
        trials = {"trial": np.arange(2 * n), "unit": [0, 1], "time": (np.arange(10) + 0.5) / 100}
        odor = ("trial", np.repeat(["x", "y"], n))
        array = xr.DataArray(
            found, dims=("trial", "unit", "time"), coords={**trials, "odor": odor}, name="counts",
            attrs={"bin_size": 0.01},
        )  # fmt: skip
        counts[name] = array
    train = ns.pair_subjects(counts, by="odor", width=0.1, step=0.1)
    bins = bins_of(train.codes("a"), len(train.first_bins)).ravel()
    rates = rates_of(train, "a", bins, np.eye(2)) * train.width
    seen = counts["a"].sum("time").groupby("odor").mean().values
    np.testing.assert_allclose(rates[:, 0], seen[:, 0], atol=0.05)  # what differs stays
    overall = seen[:, 1].mean()
    assert (np.abs(rates[:, 1] - overall) <= np.abs(seen[:, 1] - overall) + 0.01).all()
    in_parts = rates_of(train, "a", bins, np.eye(2), n_parts=2).reshape(2, 2, 2)
    np.testing.assert_allclose(in_parts.mean(axis=1) * train.width, rates, rtol=1e-6)


def test_bins_are_conditions_and_times_of_which_there_are_not_too_many():
    np.testing.assert_array_equal(bins_of(np.array([0, 2]), 3), [[0, 1, 2], [6, 7, 8]])
    many = bins_of(np.array([0, 1]), 10 * MOST_TIMES)
    assert many.max() == 2 * MOST_TIMES - 1
    assert (np.diff(many[0]) >= 0).all()
