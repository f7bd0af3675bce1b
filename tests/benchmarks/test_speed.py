import json

import pytest

from benchmarks import speed, subjects, tracking


def test_losses_equal_those_of_a_plain_loop():
    assert speed.largest_difference(n_steps=20) < 1e-5


@pytest.mark.slow
def test_the_benchmark_of_speed_tells_trainings_binning_and_the_whole_job_by_stage(
    tmp_path, capsys
):
    out = tmp_path / "speed.json"
    speed.main(["--tiny", "--rounds", "1", "--epochs", "1", "--out", str(out)])
    measured = json.loads(out.read_text())
    assert all(value > 0 for value in measured["ratios"].values())
    job = measured["whole job"]["tiny"]
    stages = {"import", "read", "pair and split", "choose the start", "fit", "write", "report"}
    assert stages <= set(job["cpu by stage"])
    assert set(job["cpu by stage"]) == set(job["peak_MiB after"])
    of_stages = sum(seconds["median"] for seconds in job["cpu by stage"].values())
    assert 0.8 * job["cpu"]["median"] < of_stages <= 1.01 * job["cpu"]["median"]
    assert "report" in capsys.readouterr().out
    assert {part["commit"] for part in measured["measured with"].values()} == {measured["commit"]}
    assert {verdict for *_, verdict in tracking.compared(measured, measured)} == {"equal"}


def test_a_part_is_measured_anew_and_the_others_are_kept(tmp_path, monkeypatch):
    out = tmp_path / "speed.json"
    out.write_text(json.dumps({"commit": "old", "ratios": {"bf16 / fp32": 0.5}}))
    monkeypatch.setattr(speed, "binned", lambda arguments: {"binning": {"neuroshare": 1}})
    speed.main(["--only", "binning", "--out", str(out)])
    measured = json.loads(out.read_text())
    assert (measured["ratios"], measured["binning"]) == ({"bf16 / fp32": 0.5}, {"neuroshare": 1})
    assert list(measured["measured with"]) == ["binning"]
    assert measured["commit"] != "old"


@pytest.mark.parametrize("kind", ["default", "mixture"])
def test_many_subjects_are_measured(kind):
    row = subjects.one_size(kind, 3)
    assert row["peak_mib"] >= row["before_fit_mib"] > 0
