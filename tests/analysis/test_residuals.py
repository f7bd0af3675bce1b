import json

import numpy as np
import pytest
import xarray as xr

from neuroshare.analysis.departure import departure, divergence
from neuroshare.analysis.residuals import _information, residuals
from neuroshare.models.linear import LinearAlignment
from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.simulate import simulate_sessions
from neuroshare.windows.pair import pair_subjects


def simulated(signal=1.0, seed=0, n_trials=40, units=None, truth=False, **kwargs):
    sessions, known = simulate_sessions(
        units or {"a": 40, "b": 30, "c": 35},
        n_trials=n_trials,
        signal=signal,
        seed=seed,
        return_truth=True,
        **kwargs,
    )
    counts = {name: bin_spikes(session) for name, session in sessions.items()}
    return (counts, known) if truth else counts


@pytest.fixture(scope="module")
def parts():
    train, test = pair_subjects(simulated(2.0, n_trials=24), by="odor", step=0.05).split(0.25)
    return LinearAlignment("mcca", latent_dim=4).fit(train), train, test


@pytest.mark.parametrize("signal", [0.5, 1.0, 2.0])
def test_known_shares_are_recovered(signal):
    counts, truth = simulated(signal, n_trials=100, truth=True, mean_rate=10.0)
    train, test = pair_subjects(counts, by="odor", step=0.05).split(0.5)
    found = residuals(LinearAlignment("mcca", latent_dim=5).fit(train), test, n_repairs=20)
    for name, known in truth.items():
        share = found.share_unit[:, (found.unit_subject == name).values].mean("unit")
        np.testing.assert_allclose(share, known.variance_share.mean("unit"), atol=0.1)


def test_parts_sum_to_the_variance(parts):
    model, _, test = parts
    found = residuals(model, test)
    for name in test.subjects:
        y = test.select([name])[name].sum("lag").values
        here = (found.unit_subject == name).values
        total = found.variance_unit[:, here].sum("part")
        np.testing.assert_allclose(total, y.var(axis=0), atol=1e-9)
        np.testing.assert_allclose(found.variance.sel(subject=name).sum(), y.var(axis=0).sum())
        np.testing.assert_allclose(found.variance_unit.sel(part="noise")[here], y.mean(axis=0))
    # Every condition has as many held-out trials, so the cells weigh the same.
    cells = found.variance_cell.mean(("cell_condition", "cell_time"))
    np.testing.assert_allclose(cells, found.variance_unit, atol=1e-9)


def test_the_residual_is_what_the_others_do_not_predict(parts):
    model, _, test = parts
    found = residuals(model, test, n_repairs=1)
    here = (found.unit_subject == "b").values
    left = test["b"].sum("lag") - model.impute(test, "b").sum("lag")
    # Each trial of these equal subjects has one partner.
    np.testing.assert_allclose(found.residual[:, here], left, atol=1e-4)
    assert found.residual.odor.dims == ("window",)


def test_private_activity_is_specific_not_shared():
    counts = simulated(0.0, n_trials=60, private=1.5, mean_rate=10.0)
    train, test = pair_subjects(counts, by="odor", step=0.05).split(0.5)
    found = residuals(LinearAlignment("procrustes", latent_dim=5).fit(train), test)
    share = found.variance / found.variance.sum("part")
    assert (share.sel(part="specific") > 0.3).all()
    assert (abs(share.sel(part="shared")) < 0.03).all()
    # The principal components hold much of it, and the others' prediction none.
    reconstructed = found.reconstructed_unit.groupby(found.unit_subject).sum()
    specific = found.variance.sel(part="specific").values
    assert (reconstructed.values > 0.3 * specific).all()
    assert (reconstructed.values < 1.1 * specific).all()


def test_poisson_noise_alone_is_noise():
    counts = simulated(0.0, n_trials=60)
    rng = np.random.default_rng(0)
    for name, array in counts.items():
        counts[name] = array.copy(data=rng.poisson(0.1, array.shape))
    train, test = pair_subjects(counts, by="odor", step=0.05).split(0.5)
    found = residuals(LinearAlignment("procrustes", latent_dim=5).fit(train), test)
    share = found.variance / found.variance.sum("part")
    np.testing.assert_allclose(share.sel(part="noise"), 1, atol=0.06)
    # Reconstructions see the noise; split counts do not let it pass as signal.
    specific = found.reconstructed_unit.groupby(found.unit_subject).sum()
    assert (abs(specific.values / found.variance.sum("part").values) < 0.03).all()


def test_shared_information_leaves_the_residual():
    counts = simulated(2.0, private=0.5, mean_rate=8.0)
    train, test = pair_subjects(counts, by="odor", step=0.05).split(0.25)
    model = LinearAlignment("mcca", latent_dim=4).fit(train)
    found = residuals(model, test, train, n_permutations=9).sel(level="trial")
    assert (found.information_activity > 0.7).all()
    assert (found.information_residual < found.information_activity).all()
    assert found.null_information_residual.sizes["permutation"] == 9
    assert (abs(found.null_information_residual.mean() - found.chance) < 0.1).all()


def test_information_p_is_uniform_without_signal():
    p = []
    for seed in range(12):
        counts = simulated(0.0, seed, n_trials=8, units={"a": 8, "b": 8})
        # Few partners, each met again and again: permuting labels alone would be too lenient.
        counts["a"] = counts["a"].groupby("odor").map(lambda x: x.isel(trial=slice(0, 4)))
        train, test = pair_subjects(counts, by="odor", step=0.1).split(0.5)
        model = LinearAlignment(latent_dim=2, n_repairs=2).fit(train)
        found = residuals(model, test, train, n_permutations=19, n_repairs=1, n_folds=2)
        p.append(found.p_information_residual.sel(level="window", subject="b").item())
    assert 0.15 < np.mean(p) < 0.85  # 4 standard errors of 12 uniform values are 0.33


def test_the_noise_of_what_is_no_count_is_not_known(parts):
    model, _, test = parts
    halves = test.changed(lambda name, counts: counts * (0.5 if name == "b" else 1))
    found = residuals(model, halves)
    unknown = np.isnan(found.variance.sel(part="noise"))
    assert unknown.to_series().to_dict() == {name: name == "b" for name in test.subjects}
    assert np.isnan(found.reconstructed_unit[found.unit_subject == "b"]).all()
    assert "b: its activity is no spike count" in found.attrs["warnings"]


def test_one_subject_has_no_residuals(parts):
    model, _, test = parts
    with pytest.raises(ValueError, match="two subjects"):
        residuals(model, test.select(["a"]))


def test_divergence_of_equal_posteriors_is_zero():
    loc = np.zeros((3, 8, 2))
    loc[2, 4:] = 5.0
    posterior = xr.Dataset(
        {
            "loc": (("subject", "window", "latent"), loc),
            "scale": (("subject", "window", "latent"), np.ones_like(loc)),
        },
        coords={"subject": list("abc"), "time": ("window", np.repeat([0.1, 0.2], 4))},
    )
    far = divergence(posterior)
    np.testing.assert_allclose(far.sel(time=0.1), 0, atol=1e-12)
    np.testing.assert_allclose(far.sel(time=0.2, subject="c"), 25.0)
    # One of the two others is at the same place, so half of the mixture is.
    np.testing.assert_allclose(far.sel(time=0.2, subject="a"), np.log(2), atol=1e-9)
    posterior["loc"][2, :4] = np.nan
    gone = divergence(posterior)
    assert np.isnan(gone.sel(time=0.1, subject="c"))
    np.testing.assert_allclose(gone.sel(time=0.1, subject="a"), 0, atol=1e-12)


def test_private_information_is_in_the_residual_and_not_in_the_imputation():
    # Half of a's trials, whatever the odor, are of a kind that nobody else knows.
    counts = simulated(2.0, n_trials=40, mean_rate=8.0, private=0.5)
    rng = np.random.default_rng(0)
    kind = rng.permutation(np.arange(counts["a"].sizes["trial"]) % 2)
    more = rng.poisson(0.3, counts["a"].shape) * (np.arange(40) < 12)[:, None]
    counts["a"] = counts["a"] + more * kind[:, None, None]
    paired = pair_subjects(counts, by="odor", step=0.1)
    train, test = paired.split(0.5)
    model = LinearAlignment("mcca", latent_dim=4).fit(train)
    found = residuals(model, test)
    here = (found.unit_subject == "a").values
    of_trial = dict(zip(counts["a"].trial.values, kind, strict=True))
    truth = np.array([of_trial[t] for t in found.trial.sel(subject="a").values])

    def told(values):
        """Accuracy of a threshold half way between the kinds, learned on the other half."""
        first = np.arange(len(truth)) % 2 == 0
        axis = values[first & (truth == 1)].mean(0) - values[first & (truth == 0)].mean(0)
        score = values @ axis
        middle = (score[first & (truth == 1)].mean() + score[first & (truth == 0)].mean()) / 2
        return np.mean((score > middle)[~first] == truth[~first])

    assert told(found.residual[:, here].values) > 0.95
    imputed = model.impute(test, "a").sum("lag").values
    # 4 standard errors of 80 trials, whose windows are not independent: 0.22.
    assert abs(told(imputed) - 0.5) < 0.22
    share = found.share_unit[:, here]
    marked = np.arange(40) < 12
    specific = share.sel(part="specific")
    assert specific[marked].mean() > specific[~marked].mean() + 0.1


def test_intervals_of_shares_hold_the_shares(parts):
    model, train, test = parts
    found = residuals(model, test, train, n_bootstraps=100, n_permutations=19)
    np.testing.assert_allclose(found.share.sum("part"), 1)
    np.testing.assert_allclose(found.share, found.variance / found.variance.sum("part"))
    low, high = found.share_interval.values
    assert (low < found.share).all()
    assert (found.share < high).all()
    assert found.null_information_residual.sizes == {"permutation": 19, "level": 2, "subject": 3}
    again = residuals(model, test, train)
    np.testing.assert_array_equal(again.information_residual, found.information_residual)


def make_latents(shift, n_trials=40, dim=3):
    rng = np.random.default_rng(0)
    odor, times = np.tile(["A", "B"], n_trials // 2), np.array([0.1, 0.2])
    z = rng.normal(size=(3, n_trials, 2, dim))
    z[2, :, 1, 0] += shift
    return xr.DataArray(
        z.reshape(3, -1, dim),
        dims=("subject", "window", "latent"),
        coords={
            "subject": list("abc"),
            "odor": ("window", np.repeat(odor, 2)),
            "time": ("window", np.tile(times, n_trials)),
            "trial": (("subject", "window"), np.tile(np.repeat(np.arange(n_trials), 2), (3, 1))),
        },
        attrs={"by": "odor"},
    )


def test_who_departs_when_is_seen():
    far = departure(make_latents(shift=4.0))
    at = far.divergence.sel(subject="c")
    assert at.sel(time=0.2) > 6  # 4^2 / 2, less the noise
    assert at.sel(time=0.1) < 1
    # Nobody departs from itself; the others keep each other.
    assert (far.within < 1).all()
    assert (far.divergence.sel(subject=["a", "b"]) < 1.5).all()


def like_latents(trials, shift=0.0, seed=0, n_conditions=4, n_times=3):
    """Subjects of so many trials per condition whose latents have the same means and spread."""
    rng = np.random.default_rng(seed)
    n = max(trials) * n_conditions
    condition = np.tile(np.arange(n_conditions), max(trials))
    means = rng.normal(size=(n_conditions, 5))
    z = means[condition] + rng.normal(size=(len(trials), n, 5))
    z[0] += shift
    for b, own in enumerate(trials):
        z[b, own * n_conditions :] = np.nan
    z = np.repeat(z, n_times, axis=1) + 0.1 * rng.normal(size=(len(trials), n * n_times, 5))
    trial = np.tile(np.repeat(np.arange(n), n_times), (len(trials), 1))
    return xr.DataArray(
        z,
        dims=("subject", "window", "latent"),
        coords={
            "subject": [f"s{b}" for b in range(len(trials))],
            "odor": ("window", np.repeat(condition, n_times)),
            "time": ("window", np.tile(np.arange(n_times) * 0.1, n)),
            "trial": (("subject", "window"), trial),
        },
        attrs={"by": "odor"},
    )


@pytest.mark.parametrize("trials", [(5, 5, 5), (20, 5, 3), (1, 10, 10), (40, 4)])
def test_the_reference_of_a_departure_is_that_of_like_subjects(trials):
    found = [departure(like_latents(trials, seed=seed)).mean("time") for seed in range(20)]
    found = xr.concat(found, "seed")
    excess = found.divergence - found.within
    error = excess.std("seed") / np.sqrt(len(found.seed))
    assert (abs(excess.mean("seed")) < 4 * error + 0.05).all()
    assert (found.divergence < 10).all(), "also with one trial of a condition"


def test_a_subject_that_departs_is_above_its_reference():
    found = departure(like_latents((10, 10, 10), shift=1.0)).mean("time")
    assert found.divergence[0] > 3 * found.within[0]


def test_departure_of_single_trials_is_not_known():
    found = departure(like_latents((1, 1)))
    assert np.isnan(found.divergence).all()
    assert np.isnan(found.within).all()
    assert "no divergence is given" in json.loads(found.warnings)[0]
    assert json.loads(departure(like_latents((2, 1))).warnings) == []


@pytest.mark.parametrize("order", [("full", "half"), ("half", "full")])
def test_chance_is_that_of_each_subject(order):
    sessions = simulate_sessions(dict.fromkeys(order, 12), n_trials=24, signal=0.0)
    counts = {name: bin_spikes(session, span=(0.0, 0.3)) for name, session in sessions.items()}
    few = np.isin(counts["half"].odor, ["A", "B"])
    counts["half"] = counts["half"].isel(trial=np.flatnonzero(few))
    paired = pair_subjects(counts, by="odor", step=0.1, allow_missing=True)
    train, test = paired.split(0.25)
    found = residuals(LinearAlignment(latent_dim=3).fit(train), test, train, n_permutations=19)
    assert found.chance.sel(subject="full") == 1 / 4
    assert found.chance.sel(subject="half") == 1 / 2


def test_departure_counts_every_trial_once_and_ignores_absence():
    latents = make_latents(shift=1.0)
    again = xr.concat([latents, latents.isel(window=slice(0, 30))], "window")
    xr.testing.assert_allclose(departure(again), departure(latents))
    latents[0] = np.nan
    gone = departure(latents)
    assert gone.divergence.sel(subject="a").isnull().all()
    assert np.isfinite(gone.divergence.sel(subject=["b", "c"])).all()


class Shouting:
    """Predicts the condition loudly for a subject that says nothing about it."""

    def impute(self, paired, target, source=None):
        windows = paired.select([n for n in paired.subjects if n != target])
        odor = windows.coords()[paired.by][1]
        shape = (len(odor), 40, paired.width)
        loud = np.broadcast_to((odor == "A")[:, None, None] * 1.0, shape)
        return xr.DataArray(loud, dims=("window", "unit", "lag"))


def test_a_prediction_cannot_put_information_into_the_residual():
    train, test = pair_subjects(simulated(0.0, n_trials=20), by="odor", step=0.1).split(0.5)
    model = Shouting()
    information = _information(model, train, test, "a", "odor", 39, np.random.default_rng(0))[0]
    # Subtracted, one of four conditions would be told without an error: 0.25 + 0.75 / 4 and more.
    assert information["residual"][1] < 0.4
    p = (1 + (information["null"] >= information["residual"]).sum(axis=0)) / 40
    assert (p > 0.05).all()
