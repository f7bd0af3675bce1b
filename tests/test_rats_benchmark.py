import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def rats(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import rats

    return rats


def benchmark(out, *arguments):
    """Run the command; the runs it wrote, with the time of the last change of each."""
    command = [sys.executable, "-m", "benchmarks.rats", "--preset", "smoke", "--out", str(out)]
    done = subprocess.run(
        [*command, *map(str, arguments)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    runs = {p.name: p.stat().st_mtime_ns for p in (out / "runs").iterdir()}
    return done.stdout, runs


@pytest.mark.slow
def test_both_protocols_run_resume_and_read_arrays(tmp_path):
    out = tmp_path / "simulated"
    printed, runs = benchmark(out, "--simulate")
    assert "paper, IN-SAMPLE" in printed
    assert "honest, held out" in printed
    document = json.loads((out / "rats.json").read_text())
    rows = document["runs"]
    assert {row["scored_on"] for row in rows if row["protocol"] == "paper"} == {
        "training windows (IN-SAMPLE)"
    }
    assert {row["scored_on"] for row in rows if row["protocol"] == "honest"} == {"held-out trials"}
    # Two objectives under the paper's recipe in each protocol, the default one, and their nulls.
    assert len(rows) == len(runs) == 12
    for name in ("scores", "bound", "latents"):
        assert (out / f"rats_{name}.png").stat().st_size > 5_000
    # The latents of the figure are those of the runs: nothing is fitted twice.
    assert {p.name for p in (out / "honest").iterdir()} == {"poe_0.001.nc", "mmvm_0.001.nc"}

    # The rate of a joint method is counted once per rat in the paper's protocol alone.
    weights = {
        (row["protocol"], row["objective"]): row["weight"] / row["beta"]
        for row in rows
        if row["recipe"] == "paper"
    }
    assert weights["paper", "poe"] == pytest.approx(2)
    assert weights["honest", "poe"] == weights["paper", "mmvm"] == 1

    again, same = benchmark(out, "--simulate")
    assert same == runs
    assert again == printed


def test_the_paper_protocol_is_that_of_the_release(rats, tmp_path):
    preset = rats.PRESETS["smoke"]
    sessions = rats.ns.simulate_sessions(preset.units, n_trials=preset.trials, seed=0)
    rats.ns.write_allen2016(sessions, tmp_path)
    counts = rats.read(tmp_path, list(preset.units))
    train, again = rats.parts(rats.as_published(counts), "paper", 0, null=False)
    # Reference: the windows as the published arrays give them, cut by hand.
    rows, labels = {}, []
    arrays = {
        name: (
            np.load(tmp_path / name.capitalize() / f"{name}_spike_data_binned.npy"),
            np.load(tmp_path / name.capitalize() / f"{name}_trial_info.npy")[:, 3],
        )
        for name in preset.units
    }
    for name, (spikes, odor) in arrays.items():
        first = {"mitt": 250, "stella": 250}[name]
        rows[name] = []
        for label in (1, 2, 3, 4):
            n = min((o == label).sum() for _, o in arrays.values())
            for trial in spikes[odor == label][:n]:
                for k in range(16):
                    rows[name].append(trial[:, first + k : first + k + 10])
                    labels.append("ABCD"[label - 1])
    for name in preset.units:
        np.testing.assert_allclose(train[name].values, np.stack(rows[name]))
        np.testing.assert_array_equal(again[name].values, train[name].values)
    assert labels[: len(train)] == train.coords()["odor"][1].tolist()
    assert not set(train["mitt"].trial.values) & set(again["mitt"].trial.values)


def test_the_honest_protocol_keeps_trials_apart(rats, tmp_path):
    preset = rats.PRESETS["smoke"]
    sessions = rats.ns.simulate_sessions(preset.units, n_trials=preset.trials, seed=0)
    rats.ns.write_allen2016(sessions, tmp_path)
    counts = rats.read(tmp_path, list(preset.units))
    for null in (False, True):
        train, test = rats.parts(counts, "honest", 1, null)
        for name in preset.units:
            assert not set(train.trial_ids(name)) & set(test.trial_ids(name))
            odor = counts[name].odor.sel(trial=train.trial_ids(name)).values
            shuffled = not np.array_equal(np.array(train.conditions)[train.codes(name)], odor)
            assert shuffled == null
