import dataclasses
import json
import tomllib

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import neuroshare as ns
from neuroshare.workflow.analyses import separation as separation_module
from neuroshare.workflow.finished import FinishedRun
from neuroshare.workflow.folder import RunFolder
from neuroshare.workflow.reading import (
    keep_common_conditions,
    read_recordings,
    split_recordings,
)
from neuroshare.workflow.run import run_fit
from neuroshare.workflow.settings import RunConfig

SMALL = {"epochs": 2, "latent_dim": 2, "hidden": (8,), "batch_size": 64}


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """NWB files of two small subjects; the second has only two trials of odor D."""
    folder = tmp_path_factory.mktemp("recordings")
    sessions = ns.simulate_sessions({"mitt": 12, "stella": 9}, n_trials=8, seed=1)
    odor = sessions["stella"].trials["odor"]
    rare = odor.index[odor == "D"][2:]
    sessions["stella"] = sessions["stella"].select(trials=[i for i in odor.index if i not in rare])
    for name, session in sessions.items():
        ns.write_nwb(session, folder / f"{name}.nwb")
    return tuple(str(folder / f"{name}.nwb") for name in sessions)


@pytest.fixture
def config(files):
    return RunConfig(
        files, by="odor", align="start_time", span=(0.0, 0.3), step=0.1, min_trials=6, model=SMALL,
        permutations=0, bootstraps=0, quick=True,
    )  # fmt: skip


def fit(config, out, **kwargs):
    return run_fit(config, out, progress=False, **kwargs)


def test_run_writes_what_it_found(config, tmp_path):
    result = fit(config, tmp_path / "run")
    names = {"latents.nc", "separation.nc", "history.nc", "scores.json", "run.toml", "report.html"}
    names |= {"choice.nc"}
    assert {path.name for path in result.folder.path.iterdir()} == names | {"model"}
    latents = xr.load_dataarray(result.folder.latents, engine="h5netcdf")
    xr.testing.assert_allclose(latents, result.finished.latents)
    scores = json.loads(result.folder.scores.read_text())
    own = result.finished.found["separation"]["own"].sel(level="trial", subject="mitt")
    assert scores["trial"]["own"]["mitt"] == own
    loaded = ns.SharedLatentModel.load(result.folder.model)
    xr.testing.assert_allclose(loaded.transform(result.test), result.model.transform(result.test))


def test_a_run_that_diverges_with_its_last_step_leaves_nothing(config, tmp_path):
    # On the sphere of the default objective codes would stay finite.
    model = {**SMALL, "epochs": 1, "batch_size": 4096, "lr": 1e30, "objective": "independent"}
    with pytest.raises(ValueError, match=r"learning rate \(lr\)"):
        fit(dataclasses.replace(config, model=model), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    """A run with everything that is scored by default."""
    config = RunConfig(
        files, by="odor", align="start_time", span=(0.0, 0.3), step=0.1, min_trials=6, model=SMALL,
        permutations=19, bootstraps=20,
    )  # fmt: skip
    return fit(config, tmp_path_factory.mktemp("whole") / "run")


def test_a_run_scores_the_whole_battery(whole):
    names = {path.name for path in whole.folder.path.iterdir()}
    assert {"imputation.nc", "residuals.nc", "departure.nc", "baselines.nc"} <= names
    scores = json.loads(whole.folder.scores.read_text())
    models = ["mmvm", "raw counts", "procrustes", "mcca", "srm"]
    assert list(scores["comparison"]) == models
    cross = scores["comparison"]["mcca"]["cross, per trial"]
    assert cross["low"] is cross["high"] is None  # two animals
    assert "2 animals do not tell how much animals differ" in scores["warnings"][0]
    assert scores["trial"]["mean_pooled"] == pytest.approx(scores["trial"]["mean_cross"])
    assert scores["null"] == "labels permuted between held-out trials"
    assert "mitt: odor changes" in scores["null_reason"]
    assert 0.05 <= cross["p"] <= 1
    assert "cross, per trial" not in scores["comparison"]["raw counts"]
    assert scores["comparison"]["mmvm"]["own, per trial"]["value"] == scores["trial"]["mean_own"]
    assert scores["imputation"]["bits_per_spike"]["all others"]["mitt"] is not None
    assert sum(scores["residuals"]["stella"][p] for p in ("shared", "specific", "noise")) == (
        pytest.approx(1)
    )
    assert scores["departure"]["mitt"]["divergence"] > 0
    imputation = xr.load_dataset(whole.folder.path / "imputation.nc", engine="h5netcdf")
    xr.testing.assert_allclose(imputation, whole.finished.found["imputation"])
    baselines = xr.load_dataset(whole.folder.path / "baselines.nc", engine="h5netcdf")
    assert baselines["model"].values.tolist() == models
    assert np.isfinite(baselines["cross"].sel(model="srm", source="mitt", target="stella")).all()
    assert baselines["bits_per_spike"].sel(model="raw counts").isnull().all()
    records = json.loads((whole.folder.path / "comparison.json").read_text())
    assert {"model", "difference", "difference_low"} <= set(records[0])


def test_the_table_and_the_page_show_the_baselines(whole):
    table = whole.finished.table()
    (line,) = (line for line in table.splitlines() if line.startswith("procrustes"))
    assert line.count("p=") == 3  # own, cross, pooled
    assert line.count("[") == 0
    assert "2 animals do not tell how much animals differ" in table
    page = whole.folder.report.read_text()
    for words in ("Against baselines", "Imputation", "What the others do not predict"):
        assert words in page
    assert "Gower JC (1975)" in page
    again = page
    ns.write_report(whole.folder.path)
    assert whole.folder.report.read_text() == again


def test_the_stretch_before_the_event_is_a_control(whole, config, tmp_path, files):
    control = whole.finished.found["control"]
    assert float(control["time"].max()) < 0
    assert control["chance"] == whole.finished.scores["chance"]
    scores = json.loads(whole.folder.scores.read_text())
    assert 0 <= scores["control"]["trial"]["mean_cross"] <= 1
    assert "Control: the latents of a stretch" in whole.folder.report.read_text()


def test_silence_before_the_event_is_no_control(tmp_path, files, config):
    assert config.quick
    assert read_recordings(config).before is None  # a quick run scores no control
    config = dataclasses.replace(config, quick=False)
    cut = []
    for file in files:
        session = ns.read_nwb(file)
        onset = session.trials["start_time"].to_numpy()
        spikes = [
            times[(times - onset[np.searchsorted(onset, times, "right") - 1]) < 1.0]
            for times in (t[t >= onset[0]] for t in session.spike_times)
        ]
        path = tmp_path / f"{session.subject}.nwb"
        ns.write_nwb(ns.Session(session.subject, spikes, session.units, session.trials), path)
        cut.append(str(path))
    recordings = read_recordings(dataclasses.replace(config, files=tuple(cut)))
    assert recordings.before is None
    assert set(recordings.counts) == {"mitt", "stella"}
    assert read_recordings(config).before["mitt"].attrs["span"] == (-0.3, 0.0)


def test_no_trial_is_both_trained_on_and_held_out(config, tmp_path):
    latents = fit(config, tmp_path / "run").finished.latents
    part = latents["part"].to_numpy()
    for trials in latents["trial"].transpose("subject", "window").to_numpy():
        assert not set(trials[part == "train"]) & set(trials[part == "test"])


def test_a_rare_condition_is_left_out_with_a_word(config, tmp_path):
    told = []
    result = fit(config, tmp_path / "run", tell=told.append)
    assert result.train.conditions == ("A", "B", "C")
    assert any("odor 'D' was left out" in sentence and "stella 2" in sentence for sentence in told)
    assert told == json.loads(result.folder.scores.read_text())["left_out"]


def test_conditions_can_be_chosen(config, tmp_path):
    chosen = dataclasses.replace(config, conditions=("A", "D"))
    assert fit(chosen, tmp_path / "run").train.conditions == ("A", "D")
    with pytest.raises(ValueError, match=r"no trials with odor \['F'\]"):
        fit(dataclasses.replace(config, conditions=("A", "F")), tmp_path / "other")


def test_too_few_common_conditions_are_refused_before_anything_is_written(config, tmp_path):
    with pytest.raises(ValueError, match=r"two or more values of 'odor' with 9 trials"):
        fit(dataclasses.replace(config, min_trials=9), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_run_toml_repeats_the_run(config, tmp_path):
    first = fit(config, tmp_path / "first")
    settings = tomllib.loads(first.folder.settings.read_text())
    again = RunConfig.from_settings(settings)
    assert again == first.finished.config
    assert again.model["lr"] > 0, "arguments left to their defaults are written too"
    second = fit(again, tmp_path / "again")
    xr.testing.assert_identical(second.finished.latents, first.finished.latents)
    assert second.finished.scores == first.finished.scores


def test_a_changed_recipe_leaves_stored_runs_as_they_are(config, tmp_path, monkeypatch):
    first = fit(config, tmp_path / "first")
    arguments = first.finished.config.model["objective"]["arguments"]
    assert arguments["cross"] == 0.8
    assert arguments["combine"] == "mean"
    monkeypatch.setattr("neuroshare.models.building.MMVM_RECIPE", {"cross": 0.1})
    settings = tomllib.loads(first.folder.settings.read_text())
    again = fit(RunConfig.from_settings(settings), tmp_path / "again")
    xr.testing.assert_identical(again.finished.latents, first.finished.latents)


def test_a_finished_run_is_read_as_it_was_written(whole):
    read = RunFolder(whole.folder.path).read()
    assert isinstance(read, FinishedRun)
    assert read.config == whole.finished.config
    assert read.scores == whole.finished.scores
    assert list(read.found) == list(whole.finished.found)
    assert read.table() == whole.finished.table()
    for name, data in whole.finished.found.items():
        xr.testing.assert_allclose(read.found[name], data, atol=1e-6)


def test_the_methods_say_what_is_added_to_the_paper(whole):
    page = whole.folder.report.read_text()
    assert "Sutter et al. 2024" in page
    assert "Added to the rule of the paper: a share of 0.8" in page
    assert "imputed by its decoder, from the mean latents of the others" in page


@pytest.mark.parametrize(
    ("objective", "told", "absent"),
    [
        (ns.MMVM(), "mmvm (Sutter et al. 2024)", "Added to the rule"),
        ("poe", "poe (Wu &amp; Goodman 2018)", "Sutter"),
        ("independent", "Nothing is shared", "NeurIPS"),
    ],
)
def test_objects_are_stored_by_name_and_arguments(config, tmp_path, objective, told, absent):
    model = {**SMALL, "objective": objective, "beta": ns.Schedule(0.0, 1.0, 2)}
    result = fit(dataclasses.replace(config, model=model), tmp_path / "run")
    again = RunConfig.from_settings(tomllib.loads(result.folder.settings.read_text()))
    assert again == result.finished.config
    assert result.model.history_["beta"].values.tolist() == [0.0, 0.5]
    page = result.folder.report.read_text()
    assert told in page
    assert absent not in page


def test_two_runs_are_not_mixed_in_one_folder(config, tmp_path):
    first = fit(config, tmp_path / "run")
    other = dataclasses.replace(config, seed=1)
    with pytest.raises(ValueError, match="holds a finished run"):
        fit(other, tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    second = fit(other, tmp_path / "run", overwrite=True)
    assert not np.array_equal(second.finished.latents, first.finished.latents)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_an_interrupted_run_is_continued_and_not_mixed(config, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(separation_module, "separation", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(config, tmp_path / "run")
    with pytest.raises(ValueError, match="interrupted run with other settings"):
        fit(dataclasses.replace(config, seed=1), tmp_path / "run")
    continued = fit(config, tmp_path / "run")
    whole = fit(config, tmp_path / "whole")
    xr.testing.assert_identical(continued.finished.latents, whole.finished.latents)
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_one_subject_in_two_files_is_refused(config, tmp_path):
    twice = dataclasses.replace(config, files=(config.files[0], config.files[0]))
    with pytest.raises(ValueError, match="both hold subject 'mitt'"):
        fit(twice, tmp_path / "run")


def test_sessions_of_one_animal_are_named_and_known_as_its(files, config, tmp_path):
    session = ns.read_nwb(files[0])
    ns.write_nwb(session, tmp_path / "day2.nwb")
    several = dataclasses.replace(config, files=(*files, str(tmp_path / "day2.nwb")))
    result = fit(several, tmp_path / "run")
    assert list(result.finished.scores["subjects"]) == ["mitt/mitt", "stella", "mitt/day2"]
    latents = RunFolder(tmp_path / "run").read().latents
    assert latents["animal"].values.tolist() == ["mitt", "stella", "mitt"]
    assert result.finished.scores["subjects"]["mitt/day2"]["file"] == "day2.nwb"
    assert RunFolder(tmp_path / "run").model.exists()
    again = ns.SharedLatentModel.load(result.folder.model)
    assert again.subjects_ == ("mitt/mitt", "stella", "mitt/day2")


@pytest.mark.parametrize(
    ("span", "words"),
    [
        ((0.0, 400.0), r"holds 400 s, but 'start_time' comes every .* s .*give --span 0 0\.4\."),
        ((-100.0, 300.0), r"from -100 to 300 s .*give --span -0\.1 0\.3\."),
    ],
)
def test_spans_in_milliseconds_are_refused_before_anything_is_counted(
    config, tmp_path, monkeypatch, span, words
):
    monkeypatch.setattr("neuroshare.workflow.reading.bin_spikes", None)
    with pytest.raises(ValueError, match=words):
        fit(dataclasses.replace(config, span=span), tmp_path / "run")


@pytest.mark.parametrize("blocks", ["auto", "random", 3.0, "3"])
def test_the_split_of_a_run_is_asked_for_by_word_or_seconds(config, tmp_path, blocks):
    asked = dataclasses.replace(config, blocks=blocks)
    split = split_recordings(read_recordings(asked), asked)
    seconds = blocks not in ("auto", "random")
    assert bool(split.train.stretched) == seconds
    assert any("blocks of 3 s" in sentence for sentence in split.left_out) == seconds
    assert RunConfig.from_settings(tomllib.loads(asked.to_toml())) == asked


def test_a_run_says_whether_its_p_values_may_be_trusted(whole):
    verdict = json.loads(whole.folder.scores.read_text())["verdict"]
    assert verdict["trust"] in ("yes", "with care", "no")
    assert set(verdict["drift"]) == set(verdict["order"]) == {"mitt", "stella"}
    assert verdict["order"]["mitt"]["kind"] == "interleaved"
    assert 0 < verdict["p_control"] <= 1
    line = f"May the p-values be trusted: {verdict['trust']}. Odor is interleaved, so trials"
    assert line in whole.finished.table()
    page = whole.folder.report.read_text()
    assert f"May the p-values be trusted: {verdict['trust']}. Odor is interleaved" in page
    assert "mitt: odor changes" in page


def test_an_unknown_column_is_answered_with_those_there_are(config, tmp_path):
    with pytest.raises(ValueError, match=r"no trial column 'odour'.*Found: start_time.*odor"):
        fit(dataclasses.replace(config, by="odour"), tmp_path / "run")
    with pytest.raises(ValueError, match=r"odor|start_time"):
        fit(dataclasses.replace(config, align="poke"), tmp_path / "run")


def test_permutations_reach_scores_and_report(config, tmp_path):
    result = fit(dataclasses.replace(config, permutations=19), tmp_path / "run")
    level = json.loads(result.folder.scores.read_text())["trial"]
    assert 0.05 <= level["p_mean_cross"] <= 1
    assert "m = 19" in result.folder.report.read_text()


def test_table_has_own_and_cross_of_each_subject(config, tmp_path):
    result = fit(config, tmp_path / "run")
    table = result.finished.table()
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()[1:4]}
    at = result.finished.found["separation"].sel(level="trial")
    assert rows["mitt"][0] == f"{float(at['own'].sel(subject='mitt')):.2f}"
    cross = float(at["cross"].sel(source="mitt", target="stella"))
    assert rows["mitt"][1] == rows["stella"][2] == f"{cross:.2f}"
    assert "chance 0.33" in table


def test_trials_without_a_condition_are_left_out_with_a_word(tmp_path):
    sessions = ns.simulate_sessions({"mitt": 5, "stella": 5}, n_trials=6, odors=("A", "B"))
    counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    label = counts["mitt"]["odor"].to_numpy().astype(object)
    label[0] = np.nan
    counts["mitt"] = counts["mitt"].assign_coords(odor=("trial", label))
    config = RunConfig(("mitt.nwb",), by="odor", align="start_time", span=(0.0, 0.3), min_trials=3)
    kept, left_out = keep_common_conditions(counts, config)
    assert pd.isna(kept["mitt"]["odor"].to_numpy()).sum() == 1
    assert left_out == []
    assert any("without a odor" in sentence for sentence in ns.pair_subjects(kept, "odor").report())


def test_trials_paired_by_number_are_scored_by_another_column(tmp_path):
    sessions = ns.simulate_sessions({"mitt": 12, "stella": 9}, n_trials=24, seed=1, signal=3.0)
    odors = sessions["mitt"].trials["odor"].to_numpy()
    files = []
    for name, session in sessions.items():
        own = session.trials["odor"].to_numpy()
        left = {odor: list(np.flatnonzero(odors == odor)) for odor in "ABCD"}
        trials = session.trials.assign(number=[left[odor].pop() for odor in own])
        files.append(str(tmp_path / f"{name}.nwb"))
        ns.write_nwb(dataclasses.replace(session, trials=trials), files[-1])
    config = RunConfig(
        tuple(files), by="number", score_by="odor", align="start_time", span=(0.0, 0.3), step=0.1,
        model=SMALL, permutations=19, bootstraps=0,
    )  # fmt: skip
    scores = fit(config, tmp_path / "run").finished.scores
    assert (scores["by"], scores["paired_by"]) == ("odor", "number")
    assert scores["conditions"] == list("ABCD")
    assert scores["subjects"]["mitt"]["train"]["A"] + scores["subjects"]["mitt"]["test"]["A"] == 24
    assert scores["chance"] == 0.25
    assert scores["trial"]["mean_cross"] > 0.5
    assert "paired by number" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="no trial column 'smell' to score by"):
        fit(dataclasses.replace(config, score_by="smell"), tmp_path / "other")
