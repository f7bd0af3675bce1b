"""The report of a finished run: one self-contained HTML page.

It is made from the files of the run alone, so it can be made again at any time, without torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroshare.plots import HIDDEN, plot_latents, plot_training, project
from neuroshare.report.rendering import Picture, Table, picture, render
from neuroshare.support.files import replacing
from neuroshare.workflow import described
from neuroshare.workflow.analyses import analyses_of
from neuroshare.workflow.finished import FinishedRun
from neuroshare.workflow.folder import RunFolder
from neuroshare.workflow.interactive import view_of


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
    folder = RunFolder(Path(run))
    html = _page(folder.read())
    with replacing(folder.report) as part:
        part.write_text(html, encoding="utf-8")
    return folder.report


def _page(run: FinishedRun) -> str:
    scores, by = run.scores, run.scores["by"]
    analyses = analyses_of(run.config)
    sections = (analysis.section(run) for analysis in analyses)
    told = (note for analysis in analyses for note in analysis.notes(run))
    found = (analysis.methods(run) for analysis in analyses)
    methods = [*described.methods(run), *filter(None, found)]
    text = " ".join(methods)
    cited = {r.full for a in analyses for r in a.references if r.short in text}
    cited |= set(filter(None, [run.latents.attrs.get("references")]))
    return render(
        "report.html.j2",
        title=f"{len(scores['subjects'])} subjects by {by}",
        summary=described.summary(run),
        verdict=scores.get("verdict"),
        sections=[section for section in sections if section is not None],
        notes=[*scores.get("odd", []), *_paragraphs("notes.txt.j2", run), *told],
        latents=_pictures_of_latents(run),
        methods=methods,
        references=sorted(cited),
        by=by,
        behavior=run.config.behavior,
        data=_data(scores),
        left_out=scores["left_out"],
        view=view_of(run.latents) if run.latents.sizes["subject"] else "",
        trained=described.training(run),
        training=_pictures_of_training(run),
        settings=_settings(run),
        version=scores["neuroshare"],
    )


def _paragraphs(template: str, run: FinishedRun) -> list[str]:
    """Fill a template of text; an empty line parts paragraphs."""
    text = render(template, config=run.config, scores=run.scores)
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]


def _pictures_of_latents(run: FinishedRun) -> list[Picture]:
    if run.config.behavior:
        held_out = run.latents[:, (run.latents["part"] == "test").values]
        about = json.loads(held_out.attrs.get("behavior", "{}"))
        columns = [n for n, a in about.items() if a.get("behavior") in run.config.behavior]
        return [
            picture(
                lambda ax, color=color: plot_latents(held_out, color, ax=ax),  # type: ignore[misc]
                f"Held-out windows in latent space, coloured by {color}",
            )
            for color in (*columns, "subject")
        ]
    by = str(run.latents.attrs.get("by", "condition"))
    shares = project(run.latents, by)[2]
    solid = "3d" if len(shares) > 2 and shares[2] >= HIDDEN else None
    return [
        picture(
            lambda ax, by=by: plot_latents(run.latents, by, ax=ax),  # type: ignore[misc]
            f"Held-out windows in latent space, coloured by {words}",
            solid,
        )
        for by, words in (
            ("condition", run.scores["by"]),
            ("subject", "subject"),
            ("time", "time"),
        )
    ]


def _pictures_of_training(run: FinishedRun) -> list[Picture]:
    if not run.history.sizes["epoch"]:
        return []
    return [
        picture(lambda ax: plot_training(run.history, ax=ax), "Loss by epoch"),
        picture(lambda ax: plot_training(run.history, "rate", ax=ax), "Rate term by epoch"),
    ]


def _data(scores: Mapping[str, Any]) -> Table:
    names = scores["conditions"]
    if scores.get("behavior"):
        rows = [
            [
                name,
                str(data["units"]),
                *(str(sum(data[part].values())) for part in ("train", "test")),
                data["file"],
            ]
            for name, data in scores["subjects"].items()
        ]
        header = ("subject", "units", "training windows", "held-out windows", "file")
        return Table(header, rows, numbers=(1, 2, 3))
    rows = [
        [
            subject,
            str(data["units"]),
            *(f"{data['train'][name]} + {data['test'][name]}" for name in names),
            data["file"],
        ]
        for subject, data in scores["subjects"].items()
    ]
    return Table(("subject", "units", *names, "file"), rows, numbers=range(1, len(names) + 2))


def _settings(run: FinishedRun) -> dict[str, str]:
    settings = vars(run.config)
    shown = {
        k: str(v) for k, v in settings.items() if k not in ("files", "model") and v is not None
    }
    return shown | {f"model.{k}": described.shown(v) for k, v in run.config.model.items()}
