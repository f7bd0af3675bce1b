"""A finished run to one self-contained HTML page.

The page is made from the files of the run alone (latents.nc, separation.nc, history.nc,
scores.json, run.toml), so it can be made again at any time, without torch.
"""

import base64
import io
import json
import os
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from neuroshare.plots import plot_latents, plot_separation, plot_training

NEEDED = ("latents.nc", "separation.nc", "history.nc", "scores.json", "run.toml")


def write_report(run: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into the folder of a finished run.

    Parameters
    ----------
    run : path-like
        Folder that ``neuroshare fit`` wrote.

    Returns
    -------
    Path
        The page: one file with its figures inside, which needs no network.

    Raises
    ------
    FileNotFoundError
        If the folder does not hold a finished run.
    """
    run = Path(run)
    absent = [name for name in NEEDED if not (run / name).is_file()]
    if absent:
        raise FileNotFoundError(
            f"{run}: expected a finished run, but {', '.join(absent)} "
            f"{'is' if len(absent) == 1 else 'are'} not there. Run `neuroshare fit` to the end."
        )
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    settings = tomllib.loads((run / "run.toml").read_text(encoding="utf-8"))
    latents = xr.load_dataarray(run / "latents.nc", engine="h5netcdf")
    separation = xr.load_dataset(run / "separation.nc", engine="h5netcdf")
    history = xr.load_dataset(run / "history.nc", engine="h5netcdf")
    held_out = latents.isel(window=(latents["part"] == "test").to_numpy())

    by = scores["by"]
    figures = {
        "trial": _figure(
            lambda ax: plot_separation(separation, "trial", ax=ax),
            f"Balanced accuracy of {by} per held-out trial, source by target",
        ),
        "window": _figure(
            lambda ax: plot_separation(separation, "window", ax=ax),
            f"Balanced accuracy of {by} per held-out window, source by target",
        ),
        "condition": _figure(
            lambda ax: plot_latents(held_out, "condition", ax=ax),
            f"Held-out windows in latent space, coloured by {by}",
        ),
        "subject": _figure(
            lambda ax: plot_latents(held_out, "subject", ax=ax),
            "Held-out windows in latent space, coloured by subject",
        ),
        "time": _figure(
            lambda ax: plot_latents(held_out, "time", ax=ax),
            "Held-out windows in latent space, coloured by time",
        ),
        "loss": _figure(lambda ax: plot_training(history, ax=ax), "Loss by epoch"),
        "rate": _figure(lambda ax: plot_training(history, "rate", ax=ax), "Rate term by epoch"),
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("neuroshare"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html.j2").render(
        title=f"{len(scores['subjects'])} subjects by {by}",
        scores=scores,
        settings=settings,
        model=settings.get("model", {}),
        figures=figures,
        notes=_notes(scores, settings),
    )
    page = run / "report.html"
    with replacing(page) as part:
        part.write_text(html, encoding="utf-8")
    return page


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, which becomes `path` once it is whole."""
    part = path.with_name(f".{path.name}.part")
    yield part
    part.replace(path)


def _notes(scores: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """What the numbers mean, in sentences."""
    by = scores["by"]
    notes = [
        f"Held out: {settings['test_fraction']:.0%} of the trials of each {by} and subject were "
        "set aside before pairing, fitting and scoring. All accuracies are on these trials, which "
        "neither the model nor a classifier has seen.",
        f"Balanced accuracy of telling {by} from the latents, by logistic regression. "
        f"Chance is {scores['chance']:.2f}.",
        "Own: classifier and held-out trials are of the same subject. Cross: the classifier is "
        "fitted on one subject and scored on another; only this shows a shared space.",
        "Windows of one trial overlap and are not independent. The trial level, which sums the "
        "log-probabilities of a trial's windows, is the one to quote.",
        f"Trials of different subjects were paired by {by}. Where subjects were not recorded "
        "together this is an assumption, and no more than the condition is shared by a pair.",
    ]
    m = settings["permutations"]
    if m:
        notes.append(
            f"p = (b + 1) / (m + 1) with m = {m} permutations of the labels between whole "
            "held-out trials, within subject. Over subjects the subject is the unit of inference."
        )
    else:
        notes.append("No permutation test over trials was asked for.")
    if scores["statement"]:
        notes.append(scores["statement"])
    if settings["span"][0] >= 0:
        notes.append("The span begins at the event: there is no control window before it.")
    return notes


def _figure(draw: Callable[[Axes], Axes], alt: str) -> dict[str, str]:
    """One plot as a picture to put into the page: its data URI and its description."""
    figure = Figure(figsize=(6.4, 4.6), dpi=150, layout="constrained")
    FigureCanvasSVG(figure)
    draw(figure.add_subplot())
    buffer = io.BytesIO()
    # A fixed salt and no date: the same run gives the same page.
    with mpl.rc_context({"svg.hashsalt": "neuroshare"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    code = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"src": f"data:image/svg+xml;base64,{code}", "alt": alt}
