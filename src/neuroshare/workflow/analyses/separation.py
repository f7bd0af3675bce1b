"""How well the fitted latents tell the conditions, within subjects and across."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import xarray as xr

from neuroshare.analysis.separation import separation
from neuroshare.plots import plot_separation
from neuroshare.report.rendering import Section, Table, interval, number, picture
from neuroshare.workflow.analyses.base import (
    KINDS,
    Analysis,
    Reference,
    chance,
    levels,
    mean_accuracy,
    plain,
)

if TYPE_CHECKING:
    from neuroshare.workflow.finished import FinishedRun
    from neuroshare.workflow.fitted import Fitted


class Separation(Analysis):
    """Balanced accuracy on held-out trials: every run has it."""

    name = "separation"
    quick = True
    references = (
        Reference(
            "Phipson & Smyth 2010",
            "Phipson B, Smyth GK (2010) Permutation P-values should never be zero. Stat Appl "
            "Genet Mol Biol 9:39.",
        ),
    )

    def compute(self, fitted: Fitted) -> xr.Dataset:  # noqa: D102
        if not fitted.config.quick:
            return fitted.scored[fitted.name].separation
        train, test = fitted.parts["train"], fitted.parts["test"]
        return separation(train, test, by=fitted.config.factor, **fitted.tests)

    def summary(self, found: xr.Dataset | None) -> dict[str, Any]:  # noqa: D102
        if found is None:
            return {}
        return {
            "chance": plain(found["chance"]),
            **{
                f"chance_{kind}": plain(found[f"chance_mean_{kind}"])
                for kind in KINDS
                if f"chance_{kind}" in found and found[f"chance_{kind}"].notnull().any()
            },
            "null": str(found.attrs.get("null", "")),
            "null_reason": str(found.attrs.get("null_reason", "")),
            "warnings": json.loads(found.attrs.get("warnings", "[]")),
            "statement": str(found.attrs.get("statement", "")),
            **levels(found),
        }

    def section(self, run: FinishedRun) -> Section:  # noqa: D102
        scores, found, by = run.scores, run.found[self.name], run.config.factor
        rows = [
            [
                f"{kind}, per {level}",
                number(scores[level][f"mean_{kind}"]),
                interval(scores[level].get(f"mean_{kind}_interval")) or "–",
                number(chance(scores, kind)),
                number(scores[level][f"p_mean_{kind}"], 3),
                number(scores[level][f"p_sign_flip_{kind}"], 3),
            ]
            for level in ("trial", "window")
            for kind in KINDS
            if scores[level].get(f"mean_{kind}") is not None
        ]
        header = (
            "balanced accuracy, mean over subjects", "accuracy", "95 % interval", "chance",
            "p, labels drawn anew", "p, sign flips over subjects",
        )  # fmt: skip
        pictures = [
            picture(
                lambda ax, level=level: plot_separation(found, level, ax=ax),  # type: ignore[misc]
                f"Balanced accuracy of {by} per held-out {level}, source by target",
            )
            for level in ("trial", "window")
        ]
        table = Table(header, rows, numbers=(1, 3, 4, 5))
        return Section("Held-out accuracy", table, pictures=pictures)

    def notes(self, run: FinishedRun) -> list[str]:  # noqa: D102
        notes = [
            f"Balanced accuracy of telling {run.config.factor} from the latents, by logistic "
            f"regression. Chance is {number(run.scores['chance'])}.",
            "Own: classifier and held-out trials are of the same subject. Cross: the classifier is "
            "fitted on one subject and scored on another. Pooled: it is fitted on all other "
            "animals together. Only cross and pooled show a shared space.",
            "Windows of one trial overlap and are not independent. The trial level, which sums the "
            "log-probabilities of a trial's windows, is the one to quote.",
        ]
        if run.scores.get("null"):
            how, why = run.scores["null"], run.scores["null_reason"]
            notes.append(f"Null: {how}. {why}")
        return [*notes, *run.scores.get("warnings", []), *filter(None, [run.scores["statement"]])]

    def methods(self, run: FinishedRun) -> str:  # noqa: D102
        trial = run.scores["trial"]
        pooled = ""
        if trial.get("mean_pooled") is not None:
            pooled = (
                f", and {mean_accuracy(trial, 'pooled')} with one classifier of all other animals"
            )
        text = (
            "Multinomial logistic regression on the posterior means of training windows was scored "
            "on held-out trials, summing log-probabilities over a trial's windows. Balanced "
            f"accuracy was {mean_accuracy(trial, 'own')} within subjects and "
            f"{mean_accuracy(trial, 'cross')} with the classifier of another subject (chance "
            f"{number(run.scores['chance'])}){pooled}."
        )
        if any(trial.get(f"mean_{kind}_interval") for kind in KINDS):
            text += (
                " Brackets are 95 % intervals from the differences between animals: Student's t "
                "over animals, and a jackknife that leaves out one animal for pairs."
            )
        if run.config.permutations:
            text += (
                f" P-values are of {run.config.permutations} draws of the conditions of whole "
                f"held-out trials within subject ({run.scores.get('null') or 'permuted'}), "
                "(b + 1) / (m + 1) (Phipson & Smyth 2010)."
            )
        return text
