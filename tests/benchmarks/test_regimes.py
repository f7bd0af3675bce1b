"""The rows of the benchmark of regimes."""

import numpy as np
import pytest

import neuroshare as ns
from benchmarks import regimes
from neuroshare.models.inputs import grouped_sums


@pytest.fixture
def parts():
    sessions = ns.simulate_sessions({"mitt": 8, "stella": 6}, n_trials=10)
    counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    return ns.pair_subjects(counts, by="odor", width=0.1, step=0.1).split(0.25, seed=0)


def test_a_single_split_has_no_spread_rather_than_nan():
    rows = {"mice | 100 | start": {"own": 0.5, "cross": 0.25}}
    assert regimes.table(rows)[-1] == "| mice | start | 1 | 0.500 | 0.250 |"
    rows["mice | 101 | start"] = {"own": 0.7, "cross": 0.25}
    assert regimes.table(rows)[-1] == "| mice | start | 2 | 0.600 ± 0.100 | 0.250 ± 0.000 |"


def test_cebra_sees_what_encoders_see(parts):
    train = parts[0]
    seen = regimes.roots(train, "mitt", 2)
    sums = np.concatenate([part for _, part in grouped_sums(train, "mitt", 2)])
    of_windows = sums[train.partners[:, train.subjects.index("mitt")]]
    np.testing.assert_allclose(seen, np.sqrt(of_windows).reshape(seen.shape), rtol=1e-6)


def test_latents_of_cebra_are_scored_as_any_others(parts, monkeypatch):
    pytest.importorskip("cebra", reason="CEBRA is not installed")
    monkeypatch.setattr(regimes, "CEBRA_STEPS", 5)
    row = regimes.cebra(parts, {"latent_dim": 3, "inputs": "pooled"}, seed=0)
    assert row["latent_dim"] == 8
    assert 0 <= row["own"] <= 1
    assert 0 <= row["cross"] <= 1
