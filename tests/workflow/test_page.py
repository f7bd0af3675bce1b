import base64
import json
import re
import subprocess
import sys
from html import unescape

import numpy as np
import pytest
import xarray as xr

import neuroshare as ns
from neuroshare.workflow.settings import RunConfig

SUBJECTS = ["mitt", "stella"]


@pytest.fixture
def run(tmp_path):
    """Folder of a finished run, made of its files alone."""
    rng = np.random.default_rng(0)
    n_trials, times = 12, np.array([0.05, 0.06])
    latents = xr.DataArray(
        rng.normal(size=(2, n_trials * 2, 3)),
        dims=("subject", "window", "latent"),
        coords={
            "subject": SUBJECTS,
            "odor": ("window", np.repeat(list("AB" * 6), 2)),
            "time": ("window", np.tile(times, n_trials)),
            "part": ("window", ["train"] * 16 + ["test"] * 8),
        },
        attrs={"by": "odor"},
    )
    cross = np.full((2, 2, 2), np.nan)
    cross[:, 0, 1], cross[:, 1, 0] = 0.61, 0.62
    separation = xr.Dataset(
        {
            "own": (("level", "subject"), np.full((2, 2), 0.7)),
            "cross": (("level", "source", "target"), cross),
            "chance": 0.5,
        },
        coords={
            "level": ["window", "trial"],
            "subject": SUBJECTS,
            "source": SUBJECTS,
            "target": SUBJECTS,
        },
        attrs={"by": "odor"},
    )
    history = xr.Dataset(
        {"loss": ("epoch", [2.0, 1.0]), "rate": ("epoch", [0.1, 0.2])}, coords={"epoch": [1, 2]}
    )
    latents.to_netcdf(tmp_path / "latents.nc", engine="h5netcdf")
    separation.to_netcdf(tmp_path / "separation.nc", engine="h5netcdf")
    history.to_netcdf(tmp_path / "history.nc", engine="h5netcdf")
    level = {
        "mean_own": 0.7,
        "mean_own_interval": [0.6, 0.8],
        "mean_cross_interval": None,
        "mean_cross": 0.61,
        "p_mean_own": 0.05,
        "p_mean_cross": None,
        "p_sign_flip_own": 0.25,
        "p_sign_flip_cross": 0.5,
    }
    scores = {
        "neuroshare": "0.1.0",
        "by": "odor",
        "conditions": ["A", "B"],
        "chance": 0.5,
        "statement": "With 2 subjects p cannot be below 1/4.",
        "trial": level,
        "window": level,
        "subjects": {
            name: {
                "file": f"{name}.nwb",
                "units": 46,
                "train": {"A": 31, "B": 32},
                "test": {"A": 11, "B": 12},
            }
            for name in SUBJECTS
        },
        "left_out": ["odor '<E>' was left out by choice (mitt 3, stella 2)."],
    }
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    settings = RunConfig(
        ("mitt.nwb", "stella.nwb"), "odor", "start_time", (0.0, 0.4), permutations=19, bootstraps=0,
        model={"beta": 0.125},
    )  # fmt: skip
    (tmp_path / "run.toml").write_text(settings.to_toml())
    return tmp_path


def text_of(page):
    html = unescape(page.read_text(encoding="utf-8"))
    return re.sub(r"[ \n]+", " ", re.sub(r"<[^>]+>", " ", html.split("<body>")[1]))


def test_report_shows_data_scores_and_settings(run):
    text = text_of(ns.write_report(run))
    assert "2 subjects by odor" in text
    assert "own, per trial 0.70 [0.60,\N{NO-BREAK SPACE}0.80] 0.50 0.050 0.250" in text
    assert "cross, per window 0.61 – 0.50 – 0.500" in text
    assert "stella 46 31 + 11 32 + 12 stella.nwb" in text
    assert "model.beta 0.125" in text
    assert "25% of the trials" in text


def test_report_says_what_the_permutations_can_show(run):
    text = text_of(ns.write_report(run))
    assert "m = 19" in text
    assert "below 1/4" in text


def test_report_is_one_file_that_needs_no_network(run):
    html = ns.write_report(run).read_text(encoding="utf-8")
    sources = re.findall(r'src="([^"]*)"', html)
    assert len(sources) == 7
    for source in sources:
        kind, _, code = source.partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert b"<svg" in base64.b64decode(code)
    assert not re.search(r'(href|src)="(?!data:|#)', html)
    assert not re.search(r"https?://(?!www\.w3\.org)", html.partition("Methods, to quote</h2>")[0])
    assert html.count("<script") == 2, "the data of the view and its code"
    assert "fetch(" not in html
    assert "@import" not in html


def test_names_in_the_data_cannot_break_the_page(run):
    assert "&lt;E&gt;" in ns.write_report(run).read_text(encoding="utf-8")


def test_report_is_the_same_for_the_same_run(run):
    first = ns.write_report(run).read_bytes()
    assert ns.write_report(run).read_bytes() == first


def test_report_leaves_no_temporary_file(run):
    before = {path.name for path in run.iterdir()}
    ns.write_report(run)
    assert {path.name for path in run.iterdir()} == before | {"report.html"}


def test_report_needs_no_torch(run):
    code = (
        "import sys, neuroshare as ns; ns.write_report(sys.argv[1]); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_an_unfinished_run_is_refused(run):
    (run / "scores.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"scores\.json is not there"):
        ns.write_report(run)


def test_methods_can_be_quoted(run):
    text = text_of(ns.write_report(run))
    assert "Spikes of 2 subjects (46 units)" in text
    assert "from 0 to 0.4 s" in text
    assert "63 training and 23 held-out trials per subject" in text
    assert "within subjects and 0.61 with the classifier of another subject (chance 0.50)" in text
    assert "Permutation P-values should never be zero" in text
    assert "Gower" not in text, "only what is cited is listed"


def test_a_run_without_a_control_says_so(run):
    assert "no control before the event" in text_of(ns.write_report(run))
    scores = json.loads((run / "scores.json").read_text())
    scores["control"] = {"trial": scores["trial"]}
    (run / "scores.json").write_text(json.dumps(scores))
    assert "before the event give 0.70 [0.60" in text_of(ns.write_report(run))
