import json

import pytest

from benchmarks import speed, subjects


def test_losses_equal_those_of_a_plain_loop():
    assert speed.largest_difference(n_steps=20) < 1e-5


def test_the_benchmark_of_speed_runs_and_writes_ratios(tmp_path):
    out = tmp_path / "speed.json"
    speed.main(["--tiny", "--rounds", "1", "--epochs", "1", "--out", str(out)])
    ratios = json.loads(out.read_text())["ratios"]
    assert all(value > 0 for value in ratios.values())


@pytest.mark.parametrize("kind", ["default", "mixture"])
def test_many_subjects_are_measured(kind):
    row = subjects.one_size(kind, 3)
    assert row["peak_mib"] >= row["before_fit_mib"] > 0
