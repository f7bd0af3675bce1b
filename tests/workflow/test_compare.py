import importlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from tqdm.auto import tqdm

from neuroshare.analysis.separation import separation
from neuroshare.models.linear import LinearAlignment
from neuroshare.models.redrawn import can_redraw
from neuroshare.models.shared import SharedLatentModel
from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.simulate import simulate_sessions
from neuroshare.vae.objectives import MMVM
from neuroshare.windows.pair import pair_subjects
from neuroshare.workflow.compare import compare, raw_counts


def test_every_model_is_in_the_table_on_the_same_trials():
    sessions = simulate_sessions(
        {"a": 14, "b": 18, "c": 12}, n_trials=16, signal=2.0, mean_rate=6.0
    )
    counts = {name: bin_spikes(session) for name, session in sessions.items()}
    train, test = pair_subjects(counts, by="odor", step=0.05).split(0.25)
    model = LinearAlignment("mcca")
    table = compare(train, test, {"mine": model}, n_bootstraps=30)
    assert not hasattr(model, "encoders_"), "models are cloned, never fitted in place"
    assert list(dict.fromkeys(table.model)) == ["raw counts", "procrustes", "mcca", "srm", "mine"]
    assert set(table.score[table.model == "raw counts"]) == {"own"}
    one, two = (table[table.model == name].drop(columns="model") for name in ("mcca", "mine"))
    np.testing.assert_array_equal(one.value, two.value)
    scored = table[table.score.isin(["own", "cross", "pooled"])]
    assert set(scored.score[scored.model == "mcca"]) == {"own", "cross", "pooled"}
    assert (scored.low <= scored.value).all()
    assert (scored.value <= scored.high).all()
    assert (scored.chance == 0.25).all()


def test_the_penalty_of_raw_counts_is_chosen_inside_the_training_part(monkeypatch):
    sessions = simulate_sessions({"a": 14, "b": 18}, n_trials=16, mean_rate=6.0)
    counts = {name: bin_spikes(session) for name, session in sessions.items()}
    train, test = pair_subjects(counts, by="odor", step=0.05).split(0.25)
    # By name the package gives the function.
    module = importlib.import_module("neuroshare.workflow.compare")
    monkeypatch.setattr(module, "_PENALTIES", (1e-4,))
    monkeypatch.setattr(module, "BASELINES", {"one": LinearAlignment(latent_dim=2)})
    table = compare(train, test, imputation=False, n_bootstraps=0)
    raw = table.value[(table.model == "raw counts") & (table.level == "window")].item()
    parts = raw_counts(train), raw_counts(test)
    strong, default = (separation(*parts, C=C).mean_own.sel(level="window") for C in (1e-4, 1.0))
    assert raw == strong
    assert raw != default


def test_the_bar_moves_from_the_first_fit_to_the_last_score(monkeypatch):
    sessions = simulate_sessions({"a": 14, "b": 18}, n_trials=8, mean_rate=6.0)
    counts = {name: bin_spikes(session) for name, session in sessions.items()}
    train, test = pair_subjects(counts, by="odor", step=0.05).split(0.25)
    told, ended = [], []

    class Bar(tqdm):
        def set_description(self, text):
            told.append((text, self.n))

        def close(self):
            ended.append((self.n, self.total))
            super().close()

    module = importlib.import_module("neuroshare.workflow.compare")
    monkeypatch.setattr(module, "tqdm", Bar)
    models = {"mine": SharedLatentModel(latent_dim=2, inputs="pooled", epochs=0, progress=False)}
    how = {"n_bootstraps": 0, "n_repairings": 2, "progress": True}
    scored = module.score_models(
        train, test, models, fitted={"two": models["mine"].fit(train)}, **how
    )
    assert (
        told
        == [
            ("score raw counts", 0),
            ("fit procrustes, mcca, srm", 1),
            ("fit mine", 4),
            ("refit", 5),  # two refits of each alignment, and those of the starts, which share work
            ("score imputation", 13),
            *((f"score {name}", 15 + k) for k, name in enumerate(list(scored)[1:])),
        ]
    )
    assert ended[0] == (20, 20)


@pytest.fixture(scope="module")
def parts():
    sessions = simulate_sessions(
        {"a": 16, "b": 12, "c": 14}, n_trials=16, signal=3.0, mean_rate=8.0, odors=("A", "B")
    )
    counts = {name: bin_spikes(session) for name, session in sessions.items()}
    return pair_subjects(counts, by="odor", step=0.1).split(0.5)


def test_differences_are_paired(parts):
    bad = LinearAlignment(latent_dim=1, n_repairs=1)
    models = {"good": LinearAlignment("mcca", latent_dim=3), "bad": bad, "same": bad}
    table = compare(*parts, models, baselines=False, against="bad", n_bootstraps=200)
    at = table.set_index(["model", "score", "level"]).sort_index()
    cross = at.loc["good", "cross", "trial"]
    assert cross.difference == pytest.approx(cross.value - at.loc["bad", "cross", "trial"].value)
    assert cross.difference_low <= cross.difference <= cross.difference_high
    # The same trials for both: no noise is left between equal models.
    same = at.loc["same"]
    columns = ["difference", "difference_low", "difference_high"]
    np.testing.assert_allclose(same[columns], 0, atol=1e-12)
    assert at.loc["bad", "difference"].isna().all()
    with pytest.raises(ValueError, match="'against' parameter"):
        compare(*parts, models, baselines=False, against="none")


def test_a_fitted_model_is_scored_as_it_is(parts):
    train, test = parts
    model = LinearAlignment("mcca", latent_dim=3).fit(train)
    weights = model.encoders_["a"].weights
    table = compare(train, test, {"b": model}, fitted={"a": model}, baselines=False)
    assert model.encoders_["a"].weights is weights
    one, two = (table[table.model == name].drop(columns="model") for name in "ab")
    np.testing.assert_array_equal(one.value, two.value)


def test_repairing_with_refits_destroys_all_information(parts):
    table = compare(
        *parts,
        {"model": LinearAlignment("mcca", latent_dim=3, n_repairs=5)},
        baselines=False,
        imputation=False,
        n_permutations=99,
        n_repairings=19,
    )
    assert (table.value > 0.8).all()
    assert (table.null_low <= 0.5).all()
    assert (table.null_high >= 0.5).all()
    assert (abs(table.null - 0.5) < 0.12).all()
    np.testing.assert_allclose(table.p, 0.01)
    np.testing.assert_allclose(table.p_null, 0.05)


def test_every_executor_gives_the_same_null(parts):
    models = {name: LinearAlignment(name, latent_dim=3, n_repairs=2) for name in ("mcca", "srm")}
    settings = {"baselines": False, "imputation": False, "n_bootstraps": 0, "n_repairings": 3}
    with ThreadPoolExecutor(2) as pool:
        there = compare(*parts, models, **settings, executor=pool)
    here = compare(*parts, models, **settings)
    pd.testing.assert_frame_equal(there, here, check_exact=True)
    # A model's null is its own, whichever others are refitted beside it.
    alone = compare(*parts, {"srm": models["srm"]}, **settings)
    srm = here[here.model == "srm"].reset_index(drop=True)
    pd.testing.assert_frame_equal(srm, alone, check_exact=True)
    assert srm.null.tolist() != here[here.model == "mcca"].null.tolist()


def test_baselines_choose_inside_the_training_part(parts):
    train, test = parts
    table = compare(train, test, {}, imputation=False, n_bootstraps=0)
    again = {name: LinearAlignment(name).fit(train) for name in ("procrustes", "mcca", "srm")}
    fitted = compare(train, test, fitted=again, baselines=False, imputation=False, n_bootstraps=0)
    assert len(again["mcca"].selection_) > 10
    for name in again:
        one, two = (t[t.model == name] for t in (table, fitted))
        np.testing.assert_array_equal(one.value, two.value)


def test_two_animals_have_no_intervals(parts):
    two = [part.select(["a", "b"]) for part in parts]
    models = {name: LinearAlignment(name, latent_dim=3) for name in ("mcca", "srm")}
    table = compare(*two, models, baselines=False, imputation=False, against="srm")
    for column in ("low", "high", "difference_low", "difference_high"):
        assert table[column].isna().all()
    assert table.value.notna().all()
    assert table.difference[table.model == "mcca"].notna().all()


def test_intervals_of_differences_are_of_animals_and_not_narrower_than_trials(parts):
    models = {"good": LinearAlignment(latent_dim=3), "bad": LinearAlignment(latent_dim=1)}
    with_trials = compare(
        *parts, models, baselines=False, imputation=False, against="bad", n_bootstraps=200
    )
    without = compare(
        *parts, models, baselines=False, imputation=False, against="bad", n_bootstraps=0
    )
    of = [table[table.model == "good"] for table in (with_trials, without)]
    width = [table.difference_high - table.difference_low for table in of]
    assert (width[0] >= width[1] - 1e-12).all()
    np.testing.assert_allclose(
        of[0].difference, (of[0].difference_low + of[0].difference_high) / 2, atol=1e-12
    )


def test_models_are_compared_by_another_column(parts):
    sessions = simulate_sessions({"a": 16, "b": 12}, n_trials=16, signal=3.0, mean_rate=8.0)
    counts = {name: bin_spikes(session) for name, session in sessions.items()}
    counts = {n: c.sortby("odor").assign_coords(trial=np.arange(64)) for n, c in counts.items()}
    counts = {n: c.assign_coords(number=("trial", c.trial.values)) for n, c in counts.items()}
    pairs = pair_subjects(counts, by="number", step=0.1).split(0.25, by="odor", blocks=None)
    models = {"mcca": LinearAlignment(latent_dim=3)}
    table = compare(*pairs, models, baselines=False, imputation=False, by="odor")
    assert (table.chance == 0.25).all()
    assert (table.value > 0.4).all()
    with pytest.raises(ValueError, match="separate by another column"):
        compare(*pairs, models, baselines=False, imputation=False)


@pytest.mark.parametrize(
    "settings",
    [
        {"latent_dim": 2, "inputs": "pooled"},
        {"latent_dim": 3, "inputs": 2, "objective": "independent"},
        {"latent_dim": 2, "inputs": "pooled", "likelihood": "gaussian", "init": "mcca"},
    ],
)
@pytest.mark.parametrize("trials", ["as many", "not as many"])
def test_shared_work_gives_the_null_of_refits(parts, settings, trials, monkeypatch):
    """What labels do not change is computed once for all draws of them."""
    train, test = parts
    if trials == "not as many":  # conditions that weigh otherwise than their trials
        kept = [np.arange(train.n_trials(name)) % 5 != 0 for name in train.subjects]
        train = train._kept(dict(zip(train.subjects, kept, strict=True)))
    module = importlib.import_module("neuroshare.workflow.compare")
    model = SharedLatentModel(epochs=0, progress=False, **settings)
    assert module.can_redraw(model, train, test)
    how = {"baselines": False, "imputation": False, "n_bootstraps": 0, "n_repairings": 4}
    monkeypatch.setattr(module, "_DRAWS_OF_A_TASK", 3)
    shared = compare(train, test, {"start": model}, **how)
    monkeypatch.setattr(module, "can_redraw", lambda *arguments: False)
    naive = compare(train, test, {"start": model}, **how)
    for column in ("null", "null_low", "null_high", "p_null"):
        np.testing.assert_allclose(shared[column], naive[column], rtol=0, atol=1e-12)
    assert shared["null_high"].nunique() > 1


@pytest.mark.parametrize(
    "settings",
    [
        {"latent_dim": "auto"},
        {"inputs": "auto"},
        {"epochs": 2},
        {"init": "random"},
        {"init": "srm"},
        {"inputs": "standard"},
        {"objective": MMVM(contrast=1.0)},
        {"encoder": lambda n_units, n_lags, n_features: None},
    ],
)
def test_only_starts_share_work(parts, settings):
    given = {"latent_dim": 2, "inputs": "pooled", "epochs": 0}
    assert can_redraw(SharedLatentModel(**given), *parts)
    assert not can_redraw(SharedLatentModel(**{**given, **settings}), *parts)
    assert not can_redraw(LinearAlignment(latent_dim=2), *parts)
