"""One declaration of the settings: command line, run.toml and Python read the same."""

import dataclasses
import inspect
import subprocess
import sys
import tomllib

import pytest
import typer

import neuroshare as ns
from neuroshare.models.settings import LIKELIHOOD_NAMES, MODEL_SETTINGS, OBJECTIVE_NAMES
from neuroshare.recordings.binning import bin_spikes
from neuroshare.vae.likelihoods import LIKELIHOODS
from neuroshare.vae.objectives import OBJECTIVES
from neuroshare.workflow.run import model_of
from neuroshare.workflow.settings import RunConfig, declared

DATA = {"files": ("mitt.nwb",), "by": "odor", "align": "start_time", "span": (0.0, 0.3)}


def test_settings_survive_their_file():
    config = RunConfig(
        ('a "quoted" \\ name.nwb', "naïve.nwb"),
        by="odor",
        align="start_time",
        span=(-0.5, 1e-5),
        bin_size=1e-5,
        conditions=("A", "B"),
        model={"beta": 2.5e-3, "hidden": (8, 8), "patience": None},
    )
    expected = dataclasses.replace(config, model={"beta": 2.5e-3, "hidden": (8, 8)})
    assert RunConfig.from_settings(tomllib.loads(config.to_toml())) == expected


def test_settings_are_checked_by_name():
    with pytest.raises(ValueError, match=r"unknown settings \['spam'\]"):
        RunConfig.from_settings({"spam": 1})
    with pytest.raises(ValueError, match="a run needs files, by"):
        RunConfig.from_settings({"align": "start_time"})


def test_where_to_count_is_by_default_as_in_python():
    settings = RunConfig(("a.nwb",), "odor")
    counting = inspect.signature(bin_spikes).parameters
    for name in ("align", "span", "bin_size"):
        assert getattr(settings, name) == counting[name].default


def test_the_settings_of_the_model_are_those_of_its_constructor():
    known = set(ns.SharedLatentModel().get_params(deep=False))
    # A network cannot be stated in plain values.
    assert set(MODEL_SETTINGS) == known - {"subjects", "seed", "progress", "encoder"}
    assert sorted(OBJECTIVE_NAMES) == sorted(OBJECTIVES)
    assert sorted(LIKELIHOOD_NAMES) == sorted(LIKELIHOODS)


def test_the_defaults_of_the_model_pass_their_checks():
    model = ns.SharedLatentModel()
    for name, setting in MODEL_SETTINGS.items():
        setting.check(getattr(model, name), name, "SharedLatentModel")


@pytest.mark.parametrize("command", ["fit", "sweep"])
def test_the_command_line_has_an_option_for_every_setting(command):
    from neuroshare.cli import app

    shown = {option.name for option in typer.main.get_command(app).commands[command].params}
    asked = declared(scoring=command == "fit")
    assert {name for name, setting in asked.items() if setting.kind is not None} <= shown
    assert {"files", "config", "set_", "out"} <= shown


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_survives_the_file_of_a_run(name):
    rule = OBJECTIVES[name]()
    config = RunConfig(**DATA, model={"objective": rule, "beta": ns.Schedule(1.0, 0.1, 5)})
    again = RunConfig.from_settings(tomllib.loads(config.to_toml()))
    assert again == config
    assert type(model_of(again).objective) is type(rule)
    assert vars(model_of(again).objective).keys() == vars(rule).keys()
    assert model_of(again).beta == ns.Schedule(1.0, 0.1, 5)
    assert rule.sentence().endswith(".")


def test_objects_by_name_are_made_before_anything_is_read():
    wrong = {"object": "mmvm", "arguments": {"colour": 1}}
    with pytest.raises(ValueError, match="objective of the model cannot be made"):
        model_of(RunConfig(**DATA, model={"objective": wrong}))
    with pytest.raises(ValueError, match="object = one of"):
        RunConfig(**DATA, model={"objective": {"object": "os.system", "arguments": {}}})


def test_a_class_of_ones_own_is_refused_in_a_sentence():
    class Mine(ns.MMVM):
        pass

    with pytest.raises(ValueError, match=r"Got .*Mine, a class of your own, instead: fit it in"):
        RunConfig(**DATA, model={"objective": Mine()})


def test_settings_are_checked_without_torch():
    code = (
        "import sys\n"
        "from neuroshare.workflow.settings import RunConfig\n"
        "try:\n"
        "    RunConfig(('a.nwb',), 'odor', 'start_time', (0.0, 0.3), model={'lr': -1})\n"
        "except ValueError as error:\n"
        "    print(error, *sorted({'torch', 'xarray', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("Got -1 instead.")
