"""What every analysis of a run keeps to, and that one from outside is taken like the others."""

import json

import pytest
import xarray as xr

import neuroshare as ns
from neuroshare.report.rendering import Section, Table, number
from neuroshare.workflow.analyses import ANALYSES, Analysis
from neuroshare.workflow.folder import RunFolder
from neuroshare.workflow.run import run_fit
from neuroshare.workflow.settings import RunConfig


class Spread(Analysis):
    """How wide the held-out latents of each subject are: an analysis of one's own."""

    name = "spread"
    quick = True

    def compute(self, fitted):
        width = fitted.parts["test"].std(("window", "latent"))
        return width.rename("width").to_dataset().drop_attrs()

    def summary(self, found):
        values = None if found is None else found["width"]
        return {self.name: values if values is None else values.to_series().to_dict()}

    def section(self, run):
        rows = [[name, number(value)] for name, value in run.scores[self.name].items()]
        return Section("Spread of the latents", Table(("subject", "width"), rows))

    def notes(self, run):
        return ["Spread is the standard deviation over held-out windows."]

    def methods(self, run):
        return "Latents of held-out windows had these spreads."


@pytest.fixture
def added():
    ANALYSES.append(Spread())
    yield
    ANALYSES.pop()


def test_an_analysis_from_outside_is_computed_written_and_shown(added, tmp_path):
    files = []
    for name, session in ns.simulate_sessions({"mitt": 8, "stella": 6}, n_trials=6).items():
        files.append(str(ns.write_nwb(session, tmp_path / f"{name}.nwb")))
    config = RunConfig(
        tuple(files), "odor", "start_time", (0.0, 0.2), step=0.1, min_trials=4, quick=True,
        permutations=0, bootstraps=0, model={"epochs": 1, "latent_dim": 2, "hidden": (4,)},
    )  # fmt: skip
    result = run_fit(config, tmp_path / "run", progress=False)
    folder = RunFolder(tmp_path / "run")
    stored = xr.load_dataset(folder.path / "spread.nc", engine="h5netcdf")
    xr.testing.assert_allclose(stored, result.finished.found["spread"])
    assert set(json.loads(folder.scores.read_text())["spread"]) == {"mitt", "stella"}
    page = folder.report.read_text()
    for words in ("<h2>Spread of the latents</h2>", "Spread is the", "had these spreads"):
        assert words in page
    run_fit(config, tmp_path / "run", progress=False, overwrite=True)
    assert (folder.path / "spread.nc").exists()
    folder.clear()
    assert [path.name for path in folder.path.iterdir()] == []


def test_names_of_analyses_and_of_their_files_are_their_own():
    names = [analysis.name for analysis in ANALYSES]
    assert len(set(names)) == len(names)
    assert not set(names) & {"latents", "history", "scores", "report", "run", "model"}


@pytest.mark.parametrize("analysis", ANALYSES, ids=lambda analysis: analysis.name)
def test_what_was_not_made_is_summarised_by_the_same_names(analysis):
    assert all(value is None for value in analysis.summary(None).values())
    assert analysis.suffix in (".nc", ".json")
