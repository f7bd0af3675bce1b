"""How well the fitted model predicts one subject's activity from the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from neuroshare.plots import plot_imputation
from neuroshare.report.rendering import Section, Table, picture
from neuroshare.workflow.analyses.base import Analysis, matrix, plain, with_interval

if TYPE_CHECKING:
    from neuroshare.workflow.finished import FinishedRun
    from neuroshare.workflow.fitted import Fitted


class Imputation(Analysis):
    """Bits per spike, or variance explained, and coherence of imputed windows."""

    name = "imputation"

    def compute(self, fitted: Fitted) -> xr.Dataset | None:  # noqa: D102
        return fitted.scored[fitted.name].imputation

    def summary(self, found: xr.Dataset | None) -> dict[str, Any]:  # noqa: D102
        if found is None:
            return {self.name: None}
        # The PSTH needs no latents: it is a row of its own.
        score = score_of(found)
        psth = found[f"{score}_psth"]
        scores = {
            score: matrix(found[score]),
            f"{score}_psth": {str(k): plain(psth.sel(target=k)) for k in psth["target"].values},
            "above_psth": matrix(found["above_psth"]),
            "coherence": matrix(found["coherence"]),
        }
        return {self.name: scores}

    def section(self, run: FinishedRun) -> Section | None:  # noqa: D102
        found = run.found.get(self.name)
        if found is None:
            return None
        by, rows = run.config.factor, []
        score = score_of(found)
        words = score.replace("_", " ")
        for name in found["target"].values:
            at = found.sel(target=name)
            everyone = at.sel(source="all others")
            rows.append(
                [
                    str(name),
                    with_interval(everyone, score, 3),
                    with_interval(at, f"{score}_psth", 3),
                    with_interval(everyone, "above_psth", 3),
                    with_interval(everyone, "coherence", 2),
                    f"{float(at['coherence_real']):.2f}",
                ]
            )
        header = (
            "predicted from all others", words, "PSTH", "above PSTH", "coherence",
            "real windows",
        )  # fmt: skip
        note = (
            f"{MEANING[score]} The PSTH of the "
            f"training trials by {by} and time knows the condition; without simultaneous recording "
            "it is about the ceiling of a prediction from others. Coherence: balanced accuracy per "
            "trial of a classifier of real training windows when it labels the imputed ones, "
            "beside the real held-out ones. Every unit is in imputation.nc."
        )
        pictures = [
            picture(
                lambda ax: plot_imputation(found, ax=ax),
                f"{words.capitalize()} beyond the training mean, source by target",
            ),
            picture(
                lambda ax: plot_imputation(found, "above_psth", ax=ax),
                f"{words.capitalize()} beyond the training PSTH by {by} and time, source by target",
            ),
        ]
        table = Table(header, rows, numbers=(5,), dense=True)
        return Section("Imputation", table, note, pictures)

    def methods(self, run: FinishedRun) -> str:  # noqa: D102
        if self.name not in run.found:
            return ""
        found = run.found[self.name].sel(sources="all others")
        mean = with_interval(found, f"mean_{score_of(found)}", 3)
        text = (
            f"Held-out spikes predicted from all other subjects carried {mean} bits per spike "
            "above the training mean rate (Poisson likelihood, mean over subjects), "
        )
        if score_of(found) == "variance_explained":
            text = (
                f"Predictions from all other subjects explained {mean} of the variance of held-out "
                "activity about the training mean (mean over subjects), "
            )
        return (
            f"{text}{with_interval(found, 'mean_above_psth', 3)} against the PSTH of training "
            f"trials by {run.config.factor} and time."
        )


MEANING = {
    "bits_per_spike": "Bits per spike of held-out trials above the training mean rate.",
    "variance_explained": "Share of the variance of held-out trials about the training mean.",
}


def score_of(found: xr.Dataset) -> str:
    """Name of the score of predictions."""
    return str(found.attrs.get("score", "bits_per_spike"))
