import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

import neuroshare as ns
from neuroshare.workflow.sweep import score_run, sweep

SETTINGS = {"epochs": 1, "latent_dim": 2, "hidden": (8,), "init": "random"}
GRID = {"objectives": ["mmvm", "poe"], "betas": [0.1, 1.0, 4.0], "seeds": range(4)}


def windows(seed=0):
    sessions = ns.simulate_sessions({"mitt": 8, "stella": 6}, n_trials=6, seed=seed)
    counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    return ns.pair_subjects(counts, by="odor", step=0.1).split(0.34)


def logged(model, train, test):
    """Cheap scores, and a line for every execution."""
    with open(os.environ["SWEEP_LOG"], "a") as log:
        log.write(f"{model.objective} {model.beta} {model.seed}\n")
    time.sleep(0.1)
    return {"loss": model.history_["loss"].values[-1], "nothing": np.nan}


def failing(model, train, test):
    if model.seed == 1:
        raise ValueError("seed 1 is unlucky")
    return {"loss": model.history_["loss"].values[-1]}


@pytest.fixture(scope="module")
def parts():
    return windows()


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setenv("SWEEP_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def run(parts, out, score=logged, **changes):
    settings = {"model": SETTINGS, "score": score, "progress": False, **GRID, **changes}
    return sweep(*parts, out, **settings)


def files(out):
    """Name -> inode and time of change, which tell whether a file was written again."""
    stats = {path.name: path.stat() for path in (out / "runs").glob("*.json")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


CHILD = """
import sys
sys.path.insert(0, {folder!r})
import test_sweep as t
table = t.run(t.windows(), {out!r})
"""


@pytest.mark.slow
def test_a_killed_sweep_continues_where_it_was(parts, tmp_path, log):
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    code = CHILD.format(folder=os.path.dirname(__file__), out=str(killed))
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 50
        while len(files(killed)) < 8 and time.monotonic() < deadline:
            assert child.poll() is None, "the sweep ended before it was killed"
            time.sleep(0.02)
    finally:
        child.kill()
        child.wait()
    kept = files(killed)
    assert 8 <= len(kept) < 24

    log.unlink()
    subprocess.run([sys.executable, "-c", code], check=True)
    done = files(killed)
    assert len(done) == 24
    assert {name: done[name] for name in kept} == kept, "a finished run was written again"
    assert len(log.read_text().splitlines()) == 24 - len(kept)
    assert {path.suffix for path in (killed / "runs").iterdir()} == {".json"}

    log.unlink()
    again = run(parts, killed)
    assert not log.exists()
    assert files(killed) == done
    pd.testing.assert_frame_equal(again, run(parts, unbroken), check_exact=True)
    assert len(set(log.read_text().splitlines())) == 24


def test_a_row_holds_settings_scores_and_no_durations(parts, tmp_path, log):
    table = run(parts, tmp_path)
    assert len(table) == 24
    assert list(table.columns[:3]) == ["objective", "beta", "seed"]
    assert list(table.columns[-4:]) == ["loss", "nothing", "error", "run"]
    assert table["error"].isna().all()
    assert table["hidden"].unique() == ["[8]"]
    assert table["nothing"].isna().all()
    assert table["loss"].nunique() == 24
    record = json.loads((tmp_path / "runs" / f"{table['run'][0]}.json").read_text())
    assert record["seconds"] > 0
    assert "seconds" not in table
    assert record["scores"]["nothing"] is None


def test_other_data_or_settings_are_other_runs(parts, tmp_path, log):
    grid = {"objectives": ["mmvm"], "betas": [1], "seeds": [0]}
    first = run(parts, tmp_path, **grid)
    for other in (
        run((parts[0].repair(5), parts[1]), tmp_path, **grid),
        run(windows(seed=1), tmp_path, **grid),
        run(parts, tmp_path, **grid, model={**SETTINGS, "lr": 1e-2}),
        run(parts, tmp_path, **grid, score=failing),
    ):
        assert other["run"][0] != first["run"][0]
        assert len(other) == 1
    assert len(files(tmp_path)) == 5
    # Where it runs, and how a number is written, changes nothing.
    grid["betas"] = [1.0, 1]
    same = run(parts, tmp_path, **grid, model={**SETTINGS, "device": "cpu"})
    pd.testing.assert_frame_equal(same, first)


def test_every_executor_gives_the_same_table(parts, tmp_path):
    grid = {"objectives": ["mmvm"], "betas": [1.0], "seeds": [0, 1, 2], "score": score_run}
    here = run(parts, tmp_path / "here", **grid)
    pools = {
        "joblib": 2,
        # Runs share the generator of their process, so threads must not disturb each other.
        "threads": ThreadPoolExecutor(3),
    }
    for name, pool in pools.items():
        there = run(parts, tmp_path / name, **grid, executor=pool)
        pd.testing.assert_frame_equal(there, here, check_exact=True)
        if not isinstance(pool, int):
            pool.shutdown()
        assert [path.name for path in (tmp_path / name).iterdir()] == ["runs"]


@pytest.mark.slow
def test_a_killed_dask_worker_changes_nothing_in_the_table(parts, tmp_path, log, dask_cluster):
    alone = run(parts, tmp_path / "alone")
    log.unlink()
    with dask_cluster(2) as client:
        (victim, _) = client.run(os.getpid).values()

        def kill_mid_way():
            while not log.exists() or len(log.read_text().splitlines()) < 6:
                time.sleep(0.02)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill_mid_way)
        killer.start()
        table = run(parts, tmp_path / "cluster", executor=client)
        killer.join()
        client.wait_for_workers(2)
        assert victim not in client.run(os.getpid).values()
    pd.testing.assert_frame_equal(table, alone, check_exact=True)
    assert {path.suffix for path in (tmp_path / "cluster" / "runs").iterdir()} <= {
        ".json",
        ".lock",  # of the run that was killed, if another has it no more
    }


class Elsewhere:
    """Executes where the folder of the sweep is not seen."""

    def __init__(self, runs):
        self.runs = runs

    def submit(self, fn, *arguments):
        future = Future()
        hidden = self.runs.rename(self.runs.with_name("hidden"))
        future.set_result(fn(*arguments))
        hidden.rename(self.runs)
        return future


def test_results_of_workers_that_do_not_see_the_folder_are_kept(parts, tmp_path, log):
    grid = {"objectives": ["mmvm"], "betas": [1.0], "seeds": [0, 1]}
    there = run(parts, tmp_path, executor=Elsewhere(tmp_path / "runs"), **grid)
    assert len(files(tmp_path)) == 2
    log.unlink()
    pd.testing.assert_frame_equal(run(parts, tmp_path, **grid), there, check_exact=True)
    assert not log.exists()


@pytest.mark.parametrize("executor", [None, 2])
def test_a_failing_run_stops_no_other(executor, parts, tmp_path):
    grid = {"objectives": ["mmvm"], "betas": [1.0], "seeds": [0, 1, 2]}
    with pytest.raises(ValueError, match="unlucky") as raised:
        run(parts, tmp_path, score=failing, executor=executor, **grid)
    assert "1 of 3 runs failed" in raised.value.__notes__[-1]
    assert len(files(tmp_path)) == 2


def test_runs_fitted_at_once_are_kept_one_by_one(parts, tmp_path, log):
    """A second sweep repeats none of them, whether alone or with others."""
    first = run(parts, tmp_path, stacked=5, betas=[0.1, 1.0])
    before = files(tmp_path)
    assert len(before) == len(first) == 16
    assert first["loss"].notna().all()
    again = run(parts, tmp_path, stacked=1)
    assert before.items() <= files(tmp_path).items()
    assert len(log.read_text().splitlines()) == len(again) == 24
    both = again[again["beta"] < 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(both, first)


def test_a_run_that_fails_among_runs_fitted_at_once_stops_no_other(parts, tmp_path):
    with pytest.raises(ValueError, match="seed 1 is unlucky") as raised:
        run(parts, tmp_path, failing, stacked=24)
    assert "6 of 24 runs failed" in "".join(raised.value.__notes__)
    assert len(files(tmp_path)) == 18


def test_a_fit_that_fails_is_a_row_without_scores(parts, tmp_path, log):
    grid = {"objectives": ["telepathy", "mmvm"], "betas": [1.0], "seeds": [0]}
    with pytest.warns(UserWarning, match="1 of 2 runs could not be fitted"):
        table = run(parts, tmp_path, **grid)
    assert "Got 'telepathy' instead" in table["error"][0]
    assert table["error"].isna().tolist() == [False, True]
    assert table["loss"].isna().tolist() == [True, False]
    kept = files(tmp_path)
    with pytest.warns(UserWarning, match="1 of 2 runs could not be fitted"):
        pd.testing.assert_frame_equal(run(parts, tmp_path, **grid), table)
    assert files(tmp_path) == kept
    with pytest.raises(ValueError, match="no run could be fitted"):
        run(parts, tmp_path, objectives=["telepathy"], betas=[1.0], seeds=[0])


def test_objectives_may_have_arguments_and_labels(parts, tmp_path, log):
    from neuroshare.vae.objectives import MMVM

    labelled = {"mmvm": "mmvm", "mixture": MMVM(bound="mixture"), "pairwise": MMVM()}
    table = run(parts, tmp_path, objectives=labelled, betas=[1.0], seeds=[0])
    assert table["objective"].tolist() == list(labelled)
    assert table["run"].nunique() == 3
    stored = json.loads((tmp_path / "runs" / f"{table['run'][1]}.json").read_text())
    assert stored["settings"]["objective"]["MMVM"]["bound"] == "mixture"


def test_scores_of_a_run_are_those_of_its_parts(parts):
    train, test = parts
    model = ns.SharedLatentModel(objective="poe", progress=False, **SETTINGS).fit(train)
    scores = score_run(model, train, test)
    accuracy = ns.separation(model.transform(train), model.transform(test))
    assert scores["cross_trial"] == accuracy.mean_cross.sel(level="trial").item()
    imputed = ns.imputation_scores(model, train, test)
    one = imputed.coherence.sel(source=["mitt", "stella"]).mean().item()
    assert scores["coherence"] == one
    errors = [
        np.square(model.impute(test, name, name).values - test[name].values).mean()
        for name in test.subjects
    ]
    assert scores["mse_self"] == pytest.approx(np.mean(errors))
    assert scores["mse_joint"] != scores["mse_self"]

    own = ns.SharedLatentModel(objective="mmvm", progress=False, **SETTINGS).fit(train)
    scores = score_run(own, train, test)
    assert scores["mse_joint"] == scores["mse_self"]
    assert scores["joint_trial"] == scores["own_trial"]


def test_nothing_to_run_is_refused(parts, tmp_path):
    for grid in ({"objectives": "mmvm"}, {"betas": []}):
        with pytest.raises(ValueError, match="sweep needs lists"):
            run(parts, tmp_path, **grid)
    with pytest.raises(ValueError, match=r"unknown settings \['colour'\]"):
        run(parts, tmp_path, model={"colour": 1})


def test_a_damaged_result_is_named(parts, tmp_path, log):
    grid = {"objectives": ["mmvm"], "betas": [1.0], "seeds": [0]}
    run(parts, tmp_path, **grid)
    (path,) = (tmp_path / "runs").glob("*.json")
    path.write_text("{")
    with pytest.raises(ValueError, match=f"{path.name} is damaged"):
        run(parts, tmp_path, **grid)


def test_the_command_line_sweeps_and_continues(tmp_path, monkeypatch, capsys):
    from neuroshare import cli

    sessions = ns.simulate_sessions({"mitt": 8, "stella": 6}, n_trials=6)
    recordings = [str(ns.write_nwb(s, tmp_path / f"{name}.nwb")) for name, s in sessions.items()]
    data = ["--by", "odor", "--align", "start_time", "--span", "0", "0.4", "--step", "0.1"]
    grid = ["--objective", "mmvm,poe", "--beta", "0.1,1", "--seeds", "1", "--min-trials", "4"]
    model = ["--epochs", "1", "--latent-dim", "2", "--quiet", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(cli.warnings, "showwarning", cli.warnings.showwarning)
    monkeypatch.setattr(sys, "argv", ["neuroshare", "sweep", *recordings, *data, *grid, *model])
    tables, kept = [], []
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
        assert "Means over 1 seeds, on held-out trials." in capsys.readouterr().out
        tables.append((tmp_path / "out" / "sweep.csv").read_text())
        kept.append(files(tmp_path / "out"))
    assert len(kept[0]) == 4
    assert kept[0] == kept[1]
    assert tables[0] == tables[1]
    sys.argv[sys.argv.index("0.1,1")] = "low"
    with pytest.raises(SystemExit):
        cli.main()
    assert "--beta takes numbers" in capsys.readouterr().err
