import numpy as np
import pytest
from scipy.stats import poisson

from neuroshare.analysis.imputation import ALL_OTHERS, TargetWindows, imputation_scores
from neuroshare.linear import LinearAlignment
from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.pairing import pair_subjects
from neuroshare.recordings.simulate import simulate_sessions

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
    low, high = scores.mean_above_psth_interval.values
    assert ((low < scores.mean_above_psth) & (scores.mean_above_psth < high)).all()


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


def test_duplicated_windows_count_once(parts):
    _, test = parts
    few = {name: array.isel(trial=slice(0, 30)) for name, array in test.counts.items()}
    few["a"] = test.counts["a"].isel(trial=slice(0, 90))
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
