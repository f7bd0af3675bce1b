"""Analyses made for trials of conditions, asked of windows that were paired by behavior."""

import numpy as np
import pytest

import neuroshare as ns


@pytest.fixture(scope="module")
def parts():
    rats = ns.simulate_sessions({"anna": 40, "berta": 40, "clara": 40}, running=200.0, seed=2)
    counts = {}
    for name, rat in rats.items():
        counts[name] = ns.bin_spikes(
            rat, span=None, width=0.2, bin_size=0.02, behavior=["position"]
        )
    return ns.pair_subjects(counts, by="position", bandwidth=0.1).split()


def test_influence_tells_the_loss_in_bins_of_behavior(parts):
    found = ns.influence(ns.LinearAlignment("mcca", 4, 20, 0.5), *parts)
    n_bins = len(parts[0].conditions)
    cross = found.cross.values[~np.eye(3, dtype=bool)]
    assert cross.min() > 1.5 / n_bins
    assert np.isfinite(found.loss).all()
    assert found.attrs["by"] == "position_bin"


def test_a_sweep_fits_and_scores_every_setting(parts, tmp_path):
    table = ns.sweep(
        *parts, tmp_path, objectives=["poe", "mmvm"], betas=[0.1], seeds=[0], progress=False,
        model={"latent_dim": 3, "inputs": "pooled", "epochs": 1, "hidden": (8,)},
    )  # fmt: skip
    assert len(table) == 2
    assert "error" not in table or table["error"].isna().all()
    assert (table["cross_trial"] > 1.2 / len(parts[0].conditions)).all()


@pytest.mark.parametrize("ask", [ns.power, ns.leakage_report])
def test_what_simulates_trials_refuses_windows_of_a_session(parts, ask):
    with pytest.raises(ValueError, match="paired by behavior: they are no trials"):
        ask(parts[0])
