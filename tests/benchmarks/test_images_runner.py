import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from benchmarks.__main__ import main
from benchmarks.images import plotting, runner, suite

from neuroshare.vae.objectives import OBJECTIVES


def smoke(out, name="polymnist", objectives=("mmvm",), **settings):
    return runner.run(
        suite.load(name), "smoke", None, out, objectives=objectives, progress=False, **settings
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", suite.names())
def test_every_objective_runs_on_every_suite(name, tmp_path):
    paths = smoke(tmp_path, name, list(OBJECTIVES))
    runs = [json.loads(path.read_text()) for path in paths]
    assert [run["objective"] for run in runs] == list(OBJECTIVES)
    for run in runs:
        assert 0 < run["test"]["probe"] <= 1
        assert 0 <= run["test"]["coherence"] <= 1
        assert run["test"]["joint_error"] > 0
    assert not list(tmp_path.glob("*checkpoint*")), "what is scored needs no checkpoint"
    written = plotting.summarise(tmp_path)
    assert {path.suffix for path in written} == {".md", ".json", ".png"}
    assert all(path.stat().st_size > 0 for path in written)


def test_runs_that_are_there_stay_and_others_are_added(tmp_path):
    (first,) = smoke(tmp_path)
    before = first.stat().st_mtime_ns
    paths = smoke(tmp_path, betas=[0.5, 1.0], seeds=[0, 1])
    assert len(paths) == 4
    assert first in paths
    assert first.stat().st_mtime_ns == before


def test_the_same_run_again_gives_the_same_scores(tmp_path):
    first, again = (json.loads(smoke(tmp_path / part)[0].read_text()) for part in "ab")
    assert again["test_in_full"] == first["test_in_full"]
    assert again["history"] == first["history"]


def test_processes_give_the_scores_of_one(tmp_path):
    several = {"objectives": ["mmvm", "poe"], "seeds": [0, 1]}
    serial, parallel = (
        smoke(tmp_path / name, jobs=jobs, **several) for name, jobs in (("one", 1), ("two", 2))
    )
    assert len(serial) == len(parallel) == 4
    for one, other in zip(serial, parallel, strict=True):
        assert one.name == other.name
        one, other = (json.loads(path.read_text()) for path in (one, other))
        assert other["test_in_full"] == one["test_in_full"]


def test_results_of_other_settings_are_refused(tmp_path):
    (path,) = smoke(tmp_path)
    changed = json.loads(path.read_text())
    changed["settings"]["epochs"] = 77
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="epochs was 77, is 1"):
        smoke(tmp_path)


def test_only_smoke_makes_up_its_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="cub: preset 'small' needs the official files"):
        runner.run(suite.load("cub"), "small", None, tmp_path, objectives=["mmvm"])
    with pytest.raises(ValueError, match="preset must be one of"):
        runner.run(suite.load("cub"), "large", None, tmp_path, objectives=["mmvm"])


def test_methods_of_one_seed_start_from_the_same_networks(tmp_path):
    preset, _, data = runner.prepare(suite.load("polymnist"), "smoke", None, tmp_path, "cpu")
    one, other = (runner.build(data, preset, name, seed=3) for name in ("mmvm", "mmvae_plus"))
    for a, b in zip(one.encoders.parameters(), other.encoders.parameters(), strict=True):
        assert torch.equal(a, b)
    changed = runner.build(data, preset, "mmvm", seed=4)
    weights, others = (next(vae.encoders.parameters()) for vae in (one, changed))
    assert not torch.equal(weights, others)


def scored(beta, seed, validation, test=0.5, error=0.0):
    held = {"probe": validation, "coherence": None, "joint_error": error}
    scores = {"probe": test, "coherence": test, "joint_error": test}
    return {"beta": beta, "seed": seed, "validation": held, "test": scores}


def rule(**settings):
    return replace(suite.load("polymnist").presets["smoke"], **settings)


def test_beta_is_chosen_on_validation_samples():
    runs = [scored(1, 0, 0.5, 0.9), scored(1, 1, 0.5, 0.9), scored(2, 0, 0.9), scored(2, 1, 0.2)]
    assert runner.chosen_beta(runs, rule()) == 2


@pytest.mark.parametrize(("limit", "beta"), [(0.1, 1), (0.25, 2), (0.9, 4), (0.05, 1)])
def test_the_largest_beta_within_an_error_is_chosen(limit, beta):
    errors = {1: 0.1, 4: 0.4, 2: 0.2}
    runs = [scored(b, 0, 1 / b, error=error) for b, error in errors.items()]
    assert runner.chosen_beta(runs, rule(max_error=limit)) == beta


def test_the_first_seed_chooses_for_the_others(tmp_path, monkeypatch):
    polymnist = suite.load("polymnist")
    preset = rule(betas=(0.5, 2.0), screen=True, max_error=1.0)
    monkeypatch.setitem(polymnist.presets, "smoke", preset)
    paths = runner.run(
        polymnist, "smoke", None, tmp_path, objectives=["mmvm"], seeds=(0, 1), progress=False
    )
    runs = [json.loads(path.read_text()) for path in paths]
    assert [(run["seed"], run["beta"]) for run in runs] == [(0, 0.5), (0, 2.0), (1, 2.0)]
    # Whatever another seed says.
    assert runner.chosen_beta([*runs, {**runs[2], "beta": 9.0}], preset) == 2.0


def test_arrows_lead_from_small_beta_to_large(tmp_path):
    smoke(tmp_path, betas=[2.0, 0.5, 8.0])
    (runs,) = plotting.read_runs(tmp_path).values()
    figure = plotting.scatter(runs, "title")
    means = {run["beta"]: run["test"]["joint_error"] for run in runs}
    ends = [end for text in figure.axes[0].texts for end in (text.xyann[0], text.xy[0])]
    expected = [end for arrow in pairwise((0.5, 2.0, 8.0)) for end in map(means.get, arrow)]
    assert ends == pytest.approx(expected)


def test_command_runs_and_plots(tmp_path, capsys):
    main(["run", "mnist_svhn", "--preset", "smoke", "--objective", "poe", "--out", str(tmp_path)])
    assert "1 runs in" in capsys.readouterr().out
    main(["plot", "--out", str(tmp_path)])
    written = capsys.readouterr().out.split()
    assert [name.rsplit(".")[-1] for name in written] == ["md", "json", "png", "png"]


def test_steps_are_timed_without_writing_results(tmp_path, capsys):
    arguments = ["--preset", "smoke", "--objective", "mmvm", "--steps", "2"]
    main(["run", "polymnist", *arguments, "--out", str(tmp_path)])
    assert "mmvm: " in capsys.readouterr().out
    assert not list(tmp_path.glob("*.json"))


def test_plot_without_results_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected results of runs"):
        main(["plot", "--out", str(tmp_path)])


def test_unknown_commands_show_the_usage():
    with pytest.raises(SystemExit, match="run,plot,speed"):
        main(["train"])
