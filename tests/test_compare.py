import numpy as np

from neuroshare.analysis.separation import separation
from neuroshare.compare import compare, raw_counts
from neuroshare.linear import LinearAlignment
from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.pairing import pair_subjects
from neuroshare.recordings.simulate import simulate_sessions


def test_every_model_is_in_the_table_on_the_same_trials():
    sessions = simulate_sessions({"a": 14, "b": 18}, n_trials=16, signal=2.0, mean_rate=6.0)
    counts = {name: bin_spikes(session) for name, session in sessions.items()}
    train, test = pair_subjects(counts, by="odor", step=0.05).split(0.25)
    model = LinearAlignment("mcca")
    table = compare(train, test, {"mine": model}, n_bootstraps=30)
    assert not hasattr(model, "encoders_"), "models are cloned, never fitted in place"
    assert list(dict.fromkeys(table.model)) == ["raw counts", "procrustes", "mcca", "srm", "mine"]
    assert set(table.score[table.model == "raw counts"]) == {"own"}
    one, two = (table[table.model == name].drop(columns="model") for name in ("mcca", "mine"))
    np.testing.assert_array_equal(one.value, two.value)
    scored = table[table.score.isin(["own", "cross"])]
    assert (scored.low <= scored.value).all()
    assert (scored.value <= scored.high).all()
    assert (scored.chance == 0.25).all()


def test_the_penalty_of_raw_counts_is_chosen_inside_the_training_part(monkeypatch):
    sessions = simulate_sessions({"a": 14, "b": 18}, n_trials=16, mean_rate=6.0)
    counts = {name: bin_spikes(session) for name, session in sessions.items()}
    train, test = pair_subjects(counts, by="odor", step=0.05).split(0.25)
    monkeypatch.setattr("neuroshare.compare._PENALTIES", (1e-4,))
    monkeypatch.setattr("neuroshare.compare.BASELINES", {"one": LinearAlignment(latent_dim=2)})
    table = compare(train, test, imputation=False, n_bootstraps=0)
    raw = table.value[(table.model == "raw counts") & (table.level == "window")].item()
    parts = raw_counts(train), raw_counts(test)
    strong, default = (separation(*parts, C=C).mean_own.sel(level="window") for C in (1e-4, 1.0))
    assert raw == strong
    assert raw != default
