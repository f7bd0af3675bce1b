"""The fitted model beside linear alignments and raw counts, on the same split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from neuroshare.plots import plot_comparison
from neuroshare.report.rendering import Section, Table, bracketed, picture
from neuroshare.workflow.analyses.base import Analysis, Reference
from neuroshare.workflow.analyses.imputation import score_of

if TYPE_CHECKING:
    from neuroshare.workflow.finished import FinishedRun
    from neuroshare.workflow.fitted import Fitted

_COLUMNS = {
    "own": ("own, per trial", 2),
    "cross": ("cross, per trial", 2),
    "pooled": ("pooled, per trial", 2),
    "psth": ("above_psth, all others", 3),
    "coherence": ("coherence, all others", 2),
}
"""Column of the table -> score of ``scores.json`` and its digits."""


class Comparison(Analysis):
    """The table of `compare`, with differences to the fitted model; dim ``index``."""

    name = "comparison"
    suffix = ".json"
    references = (
        Reference(
            "Gower 1975", "Gower JC (1975) Generalized Procrustes analysis. Psychometrika 40:33-51."
        ),
        Reference(
            "Kettenring 1971",
            "Kettenring JR (1971) Canonical analysis of several sets of variables. Biometrika "
            "58:433-451.",
        ),
        Reference(
            "Chen et al. 2015",
            "Chen P-H, Chen J, Yeshurun Y, et al. (2015) A reduced-dimension fMRI shared "
            "response model. NeurIPS 28.",
        ),
    )

    def compute(self, fitted: Fitted) -> xr.Dataset:  # noqa: D102
        from neuroshare.workflow.compare import tabulate

        table: xr.Dataset = tabulate(fitted.scored, against=fitted.name).to_xarray()
        return table.assign_attrs(model=fitted.name)

    def summary(self, found: xr.Dataset | None) -> dict[str, Any]:  # noqa: D102
        if found is None:
            return {"model": None, "comparison": None}
        compared: dict[str, dict[str, Any]] = {}
        for row in found.to_dataframe().to_dict("records"):
            model, score, level = (row.pop(name) for name in ("model", "score", "level"))
            values = {key: None if np.isnan(value) else value for key, value in row.items()}
            label = f"{score}, per {level}" if level else score
            compared.setdefault(model, {})[label] = values
        return {"model": found.attrs["model"], "comparison": compared}

    def section(self, run: FinishedRun) -> Section | None:  # noqa: D102
        if self.name not in run.found:
            return None
        table = run.found[self.name].to_dataframe()
        imputed = "imputation" in run.found
        score = score_of(run.found["imputation"]) if imputed else ""
        words = score.replace("_", " ")
        compared = run.scores["comparison"]
        rows = []
        for model, scores in compared.items():
            cells = {key: _cell(scores.get(of), digits) for key, (of, digits) in _COLUMNS.items()}
            fitted = " (fitted)" if model == run.scores["model"] else ""
            row = [f"{model}{fitted}", cells["own"], cells["cross"], cells["pooled"]]
            if imputed:
                row += [_difference(scores.get("cross, per trial", {}))]
                bits = _cell(scores.get(f"{score}, all others"), 3)
                row += [bits, cells["psth"], cells["coherence"]]
            rows.append(row)
        header = ["model", "own, per trial", "cross, per trial", "pooled, per trial"]
        pictures = [
            picture(
                lambda ax: plot_comparison(table, ax=ax),
                f"Balanced accuracy of {run.config.factor} per held-out trial, by model, with 95 % "
                "intervals",
            )
        ]
        if imputed:
            header += ["cross: fitted minus this", words, "above PSTH", "coherence"]
            kinds = [f"{score}, {sources}" for sources in ("one other", "all others")]
            pictures.append(
                picture(
                    lambda ax: plot_comparison(table, kinds, level="", ax=ax),
                    f"{words.capitalize()} beyond the training mean on held-out trials, by model, "
                    "predicted from one other subject or from all others",
                )
            )
        note = (
            "All on the same split, linear alignments chosen on the same inner folds, with 95 % "
            "intervals over animals. Differences are taken animal by animal, on the same trials. "
            f"{words.capitalize()}, the difference to the PSTH of the training trials, and "
            "coherence are of activity predicted from all other subjects. Raw counts mean "
            "something else in every subject and have no cross accuracy."
        )
        return Section("Against baselines", Table(header, rows, dense=True), note, pictures)

    def methods(self, run: FinishedRun) -> str:  # noqa: D102
        compared = run.scores.get("comparison")
        if not compared or len(run.scores["subjects"]) < 2:
            return ""
        reached = "; ".join(
            f"{name} {_cell(compared[key]['cross, per trial'], 2, p=False)}"
            for key, name in (
                ("procrustes", "Procrustes (Gower 1975)"),
                ("mcca", "MCCA (Kettenring 1971)"),
                ("srm", "SRM (Chen et al. 2015)"),
            )
            if key in compared
        )
        text = f"Linear alignments on the same split reached, across subjects: {reached}."
        if "raw counts" in compared:
            raw = _cell(compared["raw counts"]["own, per trial"], 2, p=False)
            text += f" Logistic regression on raw counts, within subjects: {raw}."
        return text


class Baselines(Analysis):
    """Scores by subject of every model, with dim ``model``."""

    name = "baselines"

    def compute(self, fitted: Fitted) -> xr.Dataset:  # noqa: D102
        kinds = ("own", "cross", "pooled")
        names = [name for kind in kinds for name in (kind, f"{kind}_interval", f"p_{kind}")]
        parts = []
        for scored in fitted.scored.values():
            part = scored.separation[[name for name in names if name in scored.separation]]
            if scored.imputation is not None:
                imputed = scored.imputation
                more = (score_of(imputed), "above_psth", "coherence")
                keep = [n for m in more for n in (m, f"{m}_interval") if n in imputed]
                # Its sources include all others together.
                part = part.merge(imputed[keep].rename(source="sources"), compat="override")
            parts.append(part.drop_attrs())
        models = pd.Index(list(fitted.scored), name="model")
        return xr.concat(parts, dim=models, data_vars="all", join="outer", coords="minimal")


def _cell(row: dict[str, Any] | None, digits: int, *, p: bool = True) -> str:
    if row is None:
        return "–"
    text = bracketed(row["value"], (row["low"], row["high"]), digits)
    return f"{text}, p = {row['p']:.3f}" if p and row.get("p") is not None else text


def _difference(row: dict[str, Any]) -> str:
    """The fitted model minus this one; the table has it the other way round."""
    if row.get("difference") is None:
        return "–"
    ends = (row.get("difference_high"), row.get("difference_low"))
    turned = [None if end is None else -end for end in ends]
    return bracketed(-row["difference"], turned, sign="+")
