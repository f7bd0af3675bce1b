import json

import numpy as np
import pytest
from scipy.stats import poisson

from neuroshare.analysis.imputation import ALL_OTHERS, TargetWindows, imputation_scores
from neuroshare.analysis.residuals import residuals
from neuroshare.models.linear import LinearAlignment
from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.simulate import simulate_sessions
from neuroshare.windows.pair import pair_subjects

UNITS = {"a": 20, "b": 14, "c": 17}


def simulated(signal=2.0, seed=0, n_trials=24, **kwargs):
    sessions = simulate_sessions(UNITS, n_trials=n_trials, signal=signal, seed=seed, **kwargs)
    return {name: bin_spikes(session) for name, session in sessions.items()}


@pytest.fixture(scope="module")
def parts():
    return pair_subjects(simulated(mean_rate=8.0), by="odor", step=0.05).split(0.25, seed=0)


class Constant:
    """Predicts one rate, or the spikes themselves, whoever asks."""

    def __init__(self, rates=None):
        self.rates = rates

    def impute(self, paired, target, source=None):
        windows = paired[target].astype(float)
        if self.rates is None:
            return windows
        return windows * 0 + self.rates[target][:, None]


def test_predicting_the_mean_rate_gives_no_bits(parts):
    train, test = parts
    rates = {name: TargetWindows.of(train, name).mean_rate() for name in train.subjects}
    scores = imputation_scores(Constant(rates), train, test)
    off_diagonal = ~np.isnan(scores.bits_per_spike)
    assert off_diagonal.sum() == 9
    np.testing.assert_allclose(scores.bits_per_spike.values[off_diagonal], 0, atol=1e-12)
    np.testing.assert_allclose(scores.bits_per_spike_self, 0, atol=1e-12)
    np.testing.assert_allclose(
        (scores.above_psth + scores.bits_per_spike_psth).values[off_diagonal], 0, atol=1e-12
    )


def test_bits_are_those_of_scipy(parts):
    train, test = parts
    rates = {name: np.linspace(0.02, 0.3, n) for name, n in UNITS.items()}
    scores = imputation_scores(Constant(rates), train, test)
    held = TargetWindows.of(test, "b")
    mean = TargetWindows.of(train, "b").mean_rate()
    gain = poisson.logpmf(held.counts, rates["b"][:, None])
    gain -= poisson.logpmf(held.counts, mean[:, None])
    per_unit = np.einsum("wul,w->u", gain, held.weight) / np.log(2)
    spikes = np.einsum("wul,w->u", held.counts, held.weight)
    at = scores.sel(source="a")
    np.testing.assert_allclose(at.bits_per_spike.sel(target="b"), per_unit.sum() / spikes.sum())
    of_b = at.bits_per_spike_unit[(at.unit_subject == "b").values]
    np.testing.assert_allclose(of_b, per_unit / spikes)
    assert of_b.unit.values[3] == "b/3"


def test_a_linear_model_beats_the_mean_rate_and_is_coherent(parts):
    train, test = parts
    scores = imputation_scores(
        LinearAlignment("mcca", latent_dim=4).fit(train), train, test, n_bootstraps=50
    )
    assert (scores.bits_per_spike.sel(source=ALL_OTHERS) > 0).all()
    assert (scores.bits_per_spike_psth > 0).all()
    assert scores.coherence.sel(source=ALL_OTHERS).mean() > 0.6
    assert (scores.coherence_real > 0.6).all()
    assert np.isnan(scores.bits_per_spike.sel(source="a", target="a"))
    low, high = scores.bits_per_spike_interval.sel(source=ALL_OTHERS).values
    value = scores.bits_per_spike.sel(source=ALL_OTHERS).values
    assert ((low < value) & (value < high)).all()
    low, high = scores.coherence_interval.sel(source=ALL_OTHERS).values
    value = scores.coherence.sel(source=ALL_OTHERS).values
    assert ((low < high) & (low <= value) & (value <= high)).all()


def test_without_signal_nothing_is_imputed():
    coherence, bits = [], []
    for seed in range(3):
        train, test = pair_subjects(simulated(0.0, seed, private=0.0), by="odor", step=0.05).split(
            0.25, seed=0
        )
        scores = imputation_scores(LinearAlignment("mcca", latent_dim=4).fit(train), train, test)
        coherence.append(scores.coherence.mean().item())
        bits.append(scores.bits_per_spike.sel(source=ALL_OTHERS).mean().item())
    assert abs(np.mean(coherence) - 0.25) < 0.12  # 4 standard errors of 72 trials per seed
    assert np.mean(bits) < 0.002


def test_duplicated_windows_count_once():
    counts = simulated(mean_rate=8.0)
    few = {name: array.isel(trial=slice(0, 30)) for name, array in counts.items()}
    few["a"] = counts["a"].isel(trial=slice(0, 90))
    paired = pair_subjects(few, by="odor", step=0.05)
    windows = TargetWindows.of(paired, "b")
    assert windows.repeat.max() > 0
    cells = windows.trial * 1000 + np.searchsorted(np.unique(windows.time), windows.time)
    np.testing.assert_allclose(np.bincount(cells, windows.weight)[np.unique(cells)], 1)
    alone = TargetWindows.of(paired.select(["b"]), "b")
    np.testing.assert_array_equal(windows.trial_ids, alone.trial_ids)
    np.testing.assert_allclose(windows.per_trial(windows.sums()), alone.per_trial(alone.sums()))


def test_absent_sources_are_not_scored():
    counts = simulated(n_trials=12)
    counts["b"] = counts["b"].isel(trial=slice(0, 24))
    paired = pair_subjects(counts, by="odor", surplus="absent", step=0.05)
    train, test = paired.split(0.25, seed=0)
    scores = imputation_scores(LinearAlignment(latent_dim=3).fit(train), train, test)
    off_diagonal = scores.bits_per_spike.where(scores.source != scores.target, 0)
    assert np.isfinite(off_diagonal).all()


def test_a_trial_in_both_parts_is_refused(parts):
    train, _ = parts
    model = LinearAlignment(latent_dim=3).fit(train)
    with pytest.raises(ValueError, match="are in both parts"):
        imputation_scores(model, train, train)
    with pytest.raises(ValueError, match="two or more"):
        imputation_scores(model, train.select(["a"]), train.select(["a"]))


def test_means_are_over_animals_with_an_interval_from_three():
    counts = simulated(2.0, 0)
    train, test = pair_subjects(counts, by="odor", step=0.1).split(0.25)
    model = LinearAlignment("mcca", latent_dim=3).fit(train)
    three = imputation_scores(model, train, test)
    for name in ("bits_per_spike", "above_psth", "coherence"):
        low, high = three[f"mean_{name}_interval"].values
        value = three[f"mean_{name}"]
        assert ((low < value) & (value < high)).all()
        pairs = three[name].where(three.source != ALL_OTHERS)
        assert value.sel(sources="one other") == pytest.approx(float(pairs.mean()))
    assert json.loads(three.warnings) == []
    part = [side.select(["a", "b"]) for side in (train, test)]
    two = imputation_scores(LinearAlignment("mcca", latent_dim=3).fit(part[0]), *part)
    assert np.isnan(two.mean_bits_per_spike_interval).all()
    assert "2 animals do not tell" in json.loads(two.warnings)[0]


def test_sessions_of_one_animal_do_not_predict_each_other_as_all_others():
    names = {"a": "a1", "b": "a2", "c": "b"}
    counts = {names[n]: c.assign_attrs(animal=names[n][0]) for n, c in simulated(2.0, 0).items()}
    train, test = pair_subjects(counts, by="odor", step=0.1).split(0.25)
    model = LinearAlignment("mcca", latent_dim=3).fit(train)
    scores = imputation_scores(model, train, test)
    bits = scores.bits_per_spike
    assert bits.sel(source=ALL_OTHERS, target="a1") == bits.sel(source="b", target="a1")
    between = [("a1", "b"), ("a2", "b"), ("b", "a1"), ("b", "a2")]
    values = [float(bits.sel(source=s, target=t)) for s, t in between]
    expected = (np.mean(values[:2]) + np.mean(values[2:])) / 2
    assert scores.mean_bits_per_spike.sel(sources="one other") == pytest.approx(expected)


def test_a_psth_that_never_saw_the_condition_is_not_known():
    counts = simulated(2.0, 0)
    by_odor = {n: a.sortby("odor") for n, a in counts.items()}
    fewest = min(array.sizes["trial"] for array in by_odor.values())
    numbered = {
        n: a.isel(trial=slice(fewest)).assign_coords(number=("trial", np.arange(fewest)))
        for n, a in by_odor.items()
    }
    train, test = pair_subjects(numbered, by="number", step=0.1).split(0.25)
    scores = imputation_scores(LinearAlignment("mcca", latent_dim=3).fit(train), train, test)
    assert np.isnan(scores.above_psth).all()
    assert np.isnan(scores.bits_per_spike_psth).all()
    assert np.isfinite(scores.mean_bits_per_spike).all()
    assert "its PSTH is not known" in json.loads(scores.warnings)[0]


def numbered():
    """Animals that saw the same odors in the same trials, so that the number of a trial pairs."""
    counts = {n: a for n, a in simulated(n_trials=16).items() if n != "c"}
    left = {o: list(np.flatnonzero(counts["b"].odor.values == o)) for o in "ABCD"}
    order = [left[odor].pop() for odor in counts["a"].odor.values]
    counts["b"] = counts["b"].isel(trial=order)
    numbers = np.arange(len(order))
    counts = {n: a.assign_coords(number=("trial", numbers)) for n, a in counts.items()}
    paired = pair_subjects(counts, by="number", step=0.05)
    return paired.split(0.25, seed=0, by="odor")


def test_what_pairs_and_what_is_told_may_be_two_columns():
    train, test = numbered()
    model = LinearAlignment("mcca", latent_dim=3, n_components=10, ridge=0.5).fit(train)
    with pytest.raises(ValueError, match="'by' parameter of imputation_scores"):
        imputation_scores(model, train, test, by="nothing")
    scores = imputation_scores(model, train, test, by="odor")
    assert scores.attrs["by"] == "odor"
    assert (scores.bits_per_spike_psth > 0.05).all()
    assert (scores.mean_above_psth < 0).all()
    assert (scores.mean_coherence > 0.4).all()
    assert np.isnan(imputation_scores(model, train, test).mean_coherence).all()
    parts = residuals(model, test, train, by="odor", n_repairs=1, n_folds=2)
    assert parts.cell_condition.values.tolist() == list("ABCD")
    assert parts.chance.values.tolist() == [0.25, 0.25]
    assert (parts.information_activity.sel(level="trial") > 0.6).all()
