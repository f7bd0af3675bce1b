import dataclasses
import json
import tomllib

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import neuroshare as ns
from neuroshare import run as run_module
from neuroshare.run import RunConfig, run_fit

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
    assert {path.name for path in result.out.iterdir()} == names | {"model"}
    latents = xr.load_dataarray(result.out / "latents.nc", engine="h5netcdf")
    xr.testing.assert_allclose(latents, result.latents)
    scores = json.loads((result.out / "scores.json").read_text())
    assert scores["trial"]["own"]["mitt"] == result.scores["own"].sel(level="trial", subject="mitt")
    loaded = ns.SharedLatentModel.load(result.out / "model")
    xr.testing.assert_allclose(loaded.transform(result.test), result.model.transform(result.test))


def test_a_run_that_diverges_with_its_last_step_leaves_nothing(config, tmp_path):
    model = {**SMALL, "epochs": 1, "batch_size": 4096, "lr": 1e30}
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
    names = {path.name for path in whole.out.iterdir()}
    assert {"imputation.nc", "residuals.nc", "departure.nc", "baselines.nc"} <= names
    scores = json.loads((whole.out / "scores.json").read_text())
    models = ["mmvm", "raw counts", "procrustes", "mcca", "srm"]
    assert list(scores["comparison"]) == models
    cross = scores["comparison"]["mcca"]["cross, per trial"]
    assert cross["low"] <= cross["value"] <= cross["high"]
    assert 0.05 <= cross["p"] <= 1
    assert "cross, per trial" not in scores["comparison"]["raw counts"]
    assert scores["comparison"]["mmvm"]["own, per trial"]["value"] == scores["trial"]["mean_own"]
    assert scores["imputation"]["bits_per_spike"]["all others"]["mitt"] is not None
    assert sum(scores["residuals"]["stella"][p] for p in ("shared", "specific", "noise")) == (
        pytest.approx(1)
    )
    assert scores["departure"]["mitt"]["divergence"] > 0
    imputation = xr.load_dataset(whole.out / "imputation.nc", engine="h5netcdf")
    xr.testing.assert_allclose(imputation, whole.battery.imputation)
    baselines = xr.load_dataset(whole.out / "baselines.nc", engine="h5netcdf")
    assert baselines["model"].values.tolist() == models
    assert np.isfinite(baselines["cross"].sel(model="srm", source="mitt", target="stella")).all()
    assert baselines["bits_per_spike"].sel(model="raw counts").isnull().all()
    records = json.loads((whole.out / "comparison.json").read_text())
    assert {"model", "difference", "difference_low"} <= set(records[0])


def test_the_table_and_the_page_show_the_baselines(whole):
    table = whole.table()
    (line,) = (line for line in table.splitlines() if line.startswith("procrustes"))
    assert line.count("p=") == 2
    assert line.count("[") == 2
    page = whole.report.read_text()
    for words in ("Against baselines", "Imputation", "What the others do not predict"):
        assert words in page
    assert "Gower JC (1975)" in page
    again = page
    ns.write_report(whole.out)
    assert whole.report.read_text() == again


def test_the_stretch_before_the_event_is_a_control(whole, config, tmp_path, files):
    control = whole.control
    assert control is not None, "simulated spikes begin two seconds before the odor"
    assert float(control["time"].max()) < 0
    assert control["chance"] == whole.scores["chance"]
    scores = json.loads((whole.out / "scores.json").read_text())
    assert 0 <= scores["control"]["trial"]["mean_cross"] <= 1
    assert "Control: the latents of a stretch" in whole.report.read_text()


def test_silence_before_the_event_is_no_control(tmp_path, files, config):
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
    counts, before = run_module._read_counts_and_before(
        dataclasses.replace(config, files=tuple(cut))
    )
    assert before is None
    assert set(counts) == {"mitt", "stella"}
    _, before = run_module._read_counts_and_before(config)
    assert before["mitt"].attrs["span"] == (-0.3, 0.0)


def test_no_trial_is_both_trained_on_and_held_out(config, tmp_path):
    latents = fit(config, tmp_path / "run").latents
    part = latents["part"].to_numpy()
    for trials in latents["trial"].transpose("subject", "window").to_numpy():
        assert not set(trials[part == "train"]) & set(trials[part == "test"])


def test_a_rare_condition_is_left_out_with_a_word(config, tmp_path):
    told = []
    result = fit(config, tmp_path / "run", tell=told.append)
    assert result.train.conditions == ("A", "B", "C")
    assert any("odor 'D' was left out" in sentence and "stella 2" in sentence for sentence in told)
    assert told == json.loads((result.out / "scores.json").read_text())["left_out"]


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
    settings = tomllib.loads((first.out / "run.toml").read_text())
    again = RunConfig.from_settings(settings)
    assert again == first.config
    assert again.model["lr"] > 0, "arguments left to their defaults are written too"
    xr.testing.assert_identical(fit(again, tmp_path / "again").latents, first.latents)


def test_settings_survive_their_file():
    config = RunConfig(
        ('a "quoted" \\ name.nwb', "naïve.nwb"),
        by="odor",
        align="start_time",
        span=(-0.5, 1e-5),
        conditions=("A", "B"),
        model={"beta": 2.5e-3, "hidden": (8, 8), "patience": None},
    )
    expected = dataclasses.replace(config, model={"beta": 2.5e-3, "hidden": (8, 8)})
    assert RunConfig.from_settings(tomllib.loads(config.to_toml())) == expected


def test_settings_are_checked_by_name():
    with pytest.raises(ValueError, match=r"unknown settings \['spam'\]"):
        RunConfig.from_settings({"spam": 1})
    with pytest.raises(ValueError, match="a run needs files, align, span"):
        RunConfig.from_settings({"by": "odor"})


def test_two_runs_are_not_mixed_in_one_folder(config, tmp_path):
    first = fit(config, tmp_path / "run")
    other = dataclasses.replace(config, seed=1)
    with pytest.raises(ValueError, match="holds a finished run"):
        fit(other, tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    second = fit(other, tmp_path / "run", overwrite=True)
    assert not np.array_equal(second.latents, first.latents)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_an_interrupted_run_is_continued_and_not_mixed(config, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "separation", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(config, tmp_path / "run")
    with pytest.raises(ValueError, match="interrupted run with other settings"):
        fit(dataclasses.replace(config, seed=1), tmp_path / "run")
    continued = fit(config, tmp_path / "run")
    whole = fit(config, tmp_path / "whole")
    xr.testing.assert_identical(continued.latents, whole.latents)
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_one_subject_in_two_files_is_refused(config, tmp_path):
    twice = dataclasses.replace(config, files=(config.files[0], config.files[0]))
    with pytest.raises(ValueError, match="both hold subject 'mitt'"):
        fit(twice, tmp_path / "run")


def test_an_unknown_column_is_answered_with_those_there_are(config, tmp_path):
    with pytest.raises(ValueError, match=r"no trial column 'odour'.*Found: start_time.*odor"):
        fit(dataclasses.replace(config, by="odour"), tmp_path / "run")
    with pytest.raises(ValueError, match=r"odor|start_time"):
        fit(dataclasses.replace(config, align="poke"), tmp_path / "run")


def test_permutations_reach_scores_and_report(config, tmp_path):
    result = fit(dataclasses.replace(config, permutations=19), tmp_path / "run")
    level = json.loads((result.out / "scores.json").read_text())["trial"]
    assert 0.05 <= level["p_mean_cross"] <= 1
    assert "m = 19" in result.report.read_text()


def test_table_has_own_and_cross_of_each_subject(config, tmp_path):
    result = fit(config, tmp_path / "run")
    table = result.table()
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()[1:4]}
    at = result.scores.sel(level="trial")
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
    kept, left_out = run_module.keep_common_conditions(counts, config)
    assert pd.isna(kept["mitt"]["odor"].to_numpy()).sum() == 1
    assert left_out == []
    assert any("without a odor" in sentence for sentence in ns.pair_subjects(kept, "odor").report())
