"""What a report says of a run is what the run was: every phrase against its setting."""

import dataclasses
import json
import re
from datetime import date
from importlib.metadata import version

import numpy as np
import pytest
import xarray as xr

import neuroshare as ns
from neuroshare.workflow import described
from neuroshare.workflow.described import still_falling
from neuroshare.workflow.folder import RunFolder
from neuroshare.workflow.run import run_fit
from neuroshare.workflow.settings import RunConfig

SMALL = {"epochs": 2, "latent_dim": 2, "hidden": (8,), "batch_size": 64}
GIVEN = {**SMALL, "inputs": "pooled"}  # so that nothing has to be chosen


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    sessions = ns.simulate_sessions({"mitt": 12, "stella": 9}, n_trials=8, seed=1)
    return tuple(
        str(ns.write_nwb(session, folder / f"{name}.nwb")) for name, session in sessions.items()
    )


@pytest.fixture(scope="module")
def fit(files, tmp_path_factory):
    """Fit a small run with some settings changed: the run, and its methods as one text."""
    known = {}

    def fitted(model=SMALL, **changes):
        config = RunConfig(
            files, by="odor", align="start_time", span=(0.0, 0.3), step=0.1, min_trials=6,
            model=model, permutations=19, bootstraps=0, quick=True,
        )  # fmt: skip
        key = repr([model, changes])
        if key not in known:
            out = tmp_path_factory.mktemp("run")
            known[key] = run_fit(dataclasses.replace(config, **changes), out, progress=False)
        return known[key], " ".join(described.methods(known[key].finished))

    return fitted


def lines_of(run):
    return {line.name: line.text for line in described.summary(run)}


def test_methods_say_what_was_trained_and_how(fit):
    result, text = fit()
    settings = result.model.settings_
    n_steps = 2 * -(-len(result.train) // 64)
    for phrase in (
        "Spikes of 2 subjects (9 to 12 units) were counted in bins of 10 ms from 0 to 0.3 s",
        "cut into windows of 100 ms every 100 ms",
        "25% of the trials of each condition and subject were held out at random (24 training and "
        "8 held-out trials per subject; seed 0)",
        "paired at random within odor",
        "One latent space of 2 latents",
        f"aligned by regularised multi-set canonical correlation (MCCA, Kettenring 1971) (ridge "
        f"{settings['ridge']:g} ",
        "hidden layers of 8 units beside the linear maps were trained with Adam (learning rate "
        "0.003, a tenth of it for the linear maps, batches of 64 windows, beta 1.0, likelihood "
        f"poisson; fp32) for {n_steps} steps (2 epochs)",
        "The sharing rule was mmvm (Sutter et al. 2024)",
        "a contrastive term of weight 1 ",
    ):
        assert phrase in text, phrase
    for phrase in ("running mean", "No training step", "weight decay", "hidden at every step"):
        assert phrase not in text, phrase


@pytest.mark.filterwarnings("ignore:no latent is used")
def test_methods_of_other_settings_say_those(fit):
    model = {
        **SMALL, "objective": "poe", "init": "random", "inputs": "standard", "weight_decay": 0.01,
        "dropout": 0.25, "lr": 0.001, "hidden": (8, 4), "epochs": 1,
        "beta": ns.Schedule(0.0, 1.0, 2), "likelihood": "negative_binomial",
    }  # fmt: skip
    _, text = fit(model, blocks=3.0, bin_size=0.02, seed=3)
    for phrase in (
        "bins of 20 ms",
        "whole stretches of the session were held out, about 25% of the trials",
        "seed 3",
        "Networks started at random weights",
        "square roots of counts of every bin, standardised",
        "hidden layers of 8 and 4 units were trained with AdamW (learning rate 0.001, batches",
        "weight decay 0.01, 25% of the units hidden at every step, beta schedule(",
        "likelihood negative_binomial",
        "(1 epochs)",
        "The sharing rule was poe (Wu & Goodman 2018)",
    ):
        assert phrase in text, phrase
    for phrase in ("tenth of it", "MCCA", "contrastive", "at random (", "Kettenring"):
        assert phrase not in text, phrase


def test_a_model_that_was_not_trained_is_not_said_to_be(fit):
    result, text = fit({"epochs": 0, "latent_dim": 2, "init": "procrustes", "inputs": "raw"})
    assert "aligned by generalised Procrustes analysis (Gower 1975)" in text
    assert "the activity of every bin as it is" in text
    assert "No training step was taken: the model is this start." in text
    assert "would have been mmvm (Sutter et al. 2024)" in text
    for phrase in ("were trained", "Adam", "learning rate", "contrastive", "epochs)"):
        assert phrase not in text, phrase
    summary = lines_of(result.finished)
    assert summary["Training"].startswith("No training step was taken")
    assert "aligned linear start, not trained further" in summary["Model"]
    page = result.folder.report.read_text()
    assert "Loss by epoch" not in page, "there is no loss to draw"


def test_subjects_that_share_nothing_start_alone(fit):
    _, text = fit({**GIVEN, "objective": "independent"})
    assert "a linear map of each subject alone" in text
    assert "aligned" not in text


def test_the_summary_answers_in_order(fit):
    result, _ = fit()
    lines = described.summary(result.finished)
    names = [line.name for line in lines]
    assert names == ["Asked", "Shared", "Control", "P-values", "Model", "Training", "Made"]
    told = lines_of(result.finished)
    assert told["Asked"] == (
        "Do 2 subjects share what tells odor (A, B, C, D), from 0 to 0.3 s relative to start_time?"
    )
    trial = result.finished.scores["trial"]
    yes = trial["p_mean_cross"] <= 0.05
    assert told["Shared"].startswith("Yes: " if yes else "Not shown: ")
    assert f"{trial['mean_cross']:.2f}" in told["Shared"]
    assert "quick run" in told["Control"]
    assert told["P-values"].startswith("May the p-values be trusted: ")
    assert f"torch {version('torch')}" in told["Made"]
    assert date.today().year == int(told["Made"][:4])
    page = result.folder.report.read_text()
    assert (
        page.index("Do 2 subjects share") < page.index('id="latents"') < page.index('id="methods"')
    )


def test_what_is_stored_is_what_is_told_again(fit):
    result, text = fit(GIVEN, bootstraps=1)  # a run of its own, whose file is changed
    again = RunFolder(result.folder.path).read()
    assert " ".join(described.methods(again)) == text
    assert described.summary(again) == described.summary(result.finished)
    scores = json.loads(result.folder.scores.read_text())
    assert scores["fitted"]["latent_dim"] == 2
    del scores["fitted"], scores["made"]
    result.folder.scores.write_text(json.dumps(scores))
    older = result.folder.read()
    assert "One latent space was fitted with neuroshare" in described.methods(older)[1]
    assert ns.write_report(result.folder.path).is_file()


def test_untested_and_unshared_are_not_called_shared(fit):
    result, _ = fit(GIVEN, permutations=0)
    assert lines_of(result.finished)["Shared"].startswith("Not tested")
    trial = {**result.finished.scores["trial"], "p_mean_cross": 0.4}
    run = dataclasses.replace(result.finished, scores={**result.finished.scores, "trial": trial})
    assert lines_of(run)["Shared"].startswith("Not shown")


@pytest.mark.parametrize(("p", "words"), [(0.4, "At chance"), (0.01, "Above chance")])
def test_the_control_says_where_it_is(fit, p, words):
    result, _ = fit()
    level = {**result.finished.scores["trial"], "p_mean_own": p, "p_mean_cross": 0.6}
    scores = {**result.finished.scores, "control": {"trial": level}}
    config = dataclasses.replace(result.finished.config, quick=False)
    run = dataclasses.replace(result.finished, scores=scores, config=config)
    assert lines_of(run)["Control"].startswith(words)


def history(loss, validation=None):
    validation = np.full(len(loss), np.nan) if validation is None else validation
    return xr.Dataset({"loss": ("epoch", loss), "validation_loss": ("epoch", validation)})


def test_a_loss_that_still_falls_is_told():
    epochs = np.arange(100.0)
    assert still_falling(history(100 - epochs)) == pytest.approx(10)
    assert still_falling(history(np.exp(-epochs / 5))) is None
    noise = np.random.default_rng(0).normal(size=100) * 0.05
    assert still_falling(history(np.exp(-epochs / 5) + noise * np.exp(-epochs / 5))) is None
    assert still_falling(history(np.array([]))) is None
    watched = np.where(epochs < 60, 60 - epochs, epochs - 60)
    assert still_falling(history(100 - epochs, watched)) is None, "its best epoch came earlier"


def test_a_short_training_is_said_to_be_one(fit):
    result, text = fit({**GIVEN, "epochs": 3})
    falling = result.finished.scores["fitted"]["still_falling"]
    assert ("still falling" in text) == (falling is not None)
    assert ("still falling" in lines_of(result.finished)["Training"]) == (falling is not None)
    loss = result.model.history_["loss"].values
    assert (falling is not None) == (loss[1] - loss[2] > 0.02 * (loss[0] - loss[2]))


def test_no_number_of_the_methods_comes_from_nowhere(fit):
    result, text = fit()
    stored = json.dumps([result.finished.scores, result.folder.settings.read_text()], default=str)
    known = {float(x) for x in re.findall(r"\d+(?:\.\d+)?", stored)}
    known |= {1000 * x for x in known} | {100 * x for x in known}
    subjects = result.finished.scores["subjects"].values()
    known |= {float(sum(s[p].values())) for s in subjects for p in ("train", "test")}
    text = re.sub(r"\(?[A-Z][\w. &]+\d{4}\)?|et al\. \d{4}|\w+\(0, I\)", "", text)
    for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\w)", text):
        assert any(abs(float(number) - x) < 1e-6 for x in known | {2.0}), number
