import json
import re
import tomllib

import numpy as np
import pytest

import neuroshare as ns
from neuroshare.workflow.page import write_report
from neuroshare.workflow.settings import RunConfig


@pytest.fixture
def files(neuroshare, tmp_path):
    folder = tmp_path / "rats"
    code, _, err = neuroshare(
        "simulate", folder, "--subjects", "mitt=30,stella=25", "--running", 200, "--seed", 1
    )
    assert code == 0, err
    return sorted(folder.glob("*.nwb"))


FIT = (
    "--by", "position,direction", "--behavior", "position", "--behavior", "speed", "--bin-size",
    0.02, "--width", 0.2, "--epochs", 0, "--latent-dim", 4, "--set", "inputs=pooled",
    "--permutations", 19, "--bootstraps", 9, "--quiet",
)  # fmt: skip


def test_a_run_by_behavior_is_fitted_decoded_and_reported(neuroshare, files, tmp_path):
    out = tmp_path / "run"
    code, text, err = neuroshare("fit", *files, *FIT, "--out", out)
    assert code == 0, err
    assert "position, cross" in text
    assert "speed, own" in text
    scores = json.loads((out / "scores.json").read_text())
    assert scores["behavior"]["position"]["mean_median_error_cross"] < 0.4
    assert scores["behavior"]["position"]["p_mean_r2_cross"] == 0.05
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Behavior decoded from held-out windows" in page
    assert "counts, own: bayes" in page
    assert "within 5% of its range" in page
    view = json.loads(re.search('id="view-data">(.*?)</script>', page).group(1))
    assert view["first"] == "position"
    assert {"position", "speed", "direction"} <= set(view["trials"]["columns"])
    (out / "report.html").unlink()
    write_report(out)
    assert (out / "report.html").read_text(encoding="utf-8") == page


def test_a_run_of_the_whole_session_takes_no_trials(neuroshare, files, tmp_path):
    settings = [part if part != "position,direction" else "position" for part in FIT]
    out = tmp_path / "run"
    code, _, err = neuroshare(
        "fit", *files, *settings, "--within", "session", "--bandwidth", 0.1, "--out", out
    )
    assert code == 0, err
    latents = ns.SharedLatentModel.load(out / "model").window_
    assert latents["by"] == "position_bin"


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (("--by", "velocity"), "no coordinate 'velocity'"),
        (("--behavior", "pupil"), "no behavior 'pupil'"),
        (("--bandwidth", 2), "bandwidth"),
        (("--within", "laps"), "within"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_line(neuroshare, files, tmp_path, wrong, match):
    code, _, err = neuroshare("fit", *files, *FIT, *wrong, "--out", tmp_path / "run")
    assert code == 2
    assert match in err
    assert not (tmp_path / "run").exists()


def test_a_run_by_behavior_has_no_event():
    config = RunConfig(("a.nwb",), by="position", behavior=("position",))
    assert config.span == (0.0, config.width)
    again = RunConfig.from_settings(tomllib.loads(config.to_toml()))
    assert again == config


def test_analyses_of_conditions_refuse_a_run_by_behavior(neuroshare, files, tmp_path):
    code, _, err = neuroshare(
        "sweep", *files, "--by", "position", "--behavior", "position", "--out", tmp_path / "sweep"
    )
    assert code == 2
    assert "pairs by conditions" in err


def test_inspect_tells_the_range_of_behavior(neuroshare, files):
    _, text, _ = neuroshare("inspect", files[0])
    assert "behavior position" in " ".join(text.split())
    position = ns.read_nwb(files[0]).behavior.position.values
    assert f"{np.nanmin(position):g} to" in " ".join(text.split())
