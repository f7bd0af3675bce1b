"""What the others do not predict of a subject, and how far it departs from them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from neuroshare.analysis.departure import departure
from neuroshare.analysis.residuals import residuals
from neuroshare.plots import plot_departure, plot_residuals
from neuroshare.report.rendering import Section, Table, picture
from neuroshare.workflow.analyses.base import Analysis, Reference, plain, with_interval

if TYPE_CHECKING:
    from neuroshare.workflow.finished import FinishedRun
    from neuroshare.workflow.fitted import Fitted


class Residuals(Analysis):
    """Shared, specific and noise variance, and what residuals tell of the condition."""

    name = "residuals"
    references = (
        Reference(
            "Neufeld et al. 2024",
            "Neufeld A, Gao LL, Popp J, Battle A, Witten D (2024) Inference after latent "
            "variable estimation for single-cell RNA sequencing data. Biostatistics 25:270-287.",
        ),
    )

    def compute(self, fitted: Fitted) -> xr.Dataset | None:  # noqa: D102
        if not fitted.several:
            return None
        train, test = fitted.train.thinned(), fitted.test.thinned()
        by = fitted.config.factor
        return residuals(fitted.model, test, train, n_repairs=4, n_folds=2, by=by, **fitted.tests)

    def summary(self, found: xr.Dataset | None) -> dict[str, Any]:  # noqa: D102
        if found is None:
            return {self.name: None}
        told = ("information_activity", "information_residual", "chance", "p_information_residual")
        scores = {}
        for name in found["subject"].values:
            at = found.sel(subject=name)
            shares = {str(k): plain(at["share"].sel(part=k)) for k in found["part"].values}
            of_trials = at.sel(level="trial")
            scores[str(name)] = shares | {k: plain(of_trials[k]) for k in told if k in of_trials}
        return {self.name: scores}

    def section(self, run: FinishedRun) -> Section | None:  # noqa: D102
        found = run.found.get(self.name)
        if found is None:
            return None
        by, rows = run.config.factor, []
        for name in found["subject"].values:
            at = found.sel(subject=name)
            of_trials = at.sel(level="trial")
            p = of_trials.get("p_information_residual")
            rows.append(
                [
                    str(name),
                    *(
                        with_interval(at.sel(part=part), "share", 2)
                        for part in ("shared", "specific", "noise")
                    ),
                    f"{float(of_trials['information_activity']):.2f}",
                    f"{float(of_trials['information_residual']):.2f}",
                    f"{float(of_trials['chance']):.2f}",
                    "–" if p is None else f"{float(p):.3f}",
                ]
            )
        header = (
            "subject", "shared", "specific", "noise", f"{by} from counts", "from the residual",
            "chance", "p",
        )  # fmt: skip
        note = " ".join([*json.loads(found.attrs.get("warnings", "[]")), ""])
        note += (
            "Shares of the variance of held-out counts per window, summed over units, and balanced "
            f"accuracy per trial of {by} from a subject's counts and from what they do outside the "
            "directions along which the others' predictions vary (residual; p by drawing the "
            "conditions of whole held-out trials anew). A unit more regular than Poisson has a "
            "negative specific part. Every unit, condition and time is in residuals.nc."
        )
        pictures = [
            picture(
                lambda ax: plot_residuals(found, ax=ax),
                "Share of the variance of held-out counts that the others predict, that is the "
                "subject's own, and that is Poisson noise",
            )
        ]
        table = Table(header, rows, numbers=(4, 5, 6, 7), dense=True)
        return Section("What the others do not predict", table, note, pictures)

    def methods(self, run: FinishedRun) -> str:  # noqa: D102
        found = run.found.get(self.name)
        if found is None:
            return ""
        shares = found["share"].mean("subject")
        parts = ", ".join(
            f"{float(share):.0%} {part}"
            for part, share in zip(found["part"].values, shares, strict=True)
            if np.isfinite(share)
        )
        at = found["information_residual"].sel(level="trial")
        if np.isnan(found["share"].sel(part="noise")).any():
            kinds = "what the others predict and what they do not, noise included"
            split = ""
        else:
            kinds = "what the others predict, what is the subject's own, and Poisson noise"
            split = (
                "What the model itself reconstructs was measured on split counts "
                "(Neufeld et al. 2024). "
            )
        return (
            f"The variance of held-out windows was parted into {kinds}, with slopes from other "
            f"trials than the covariances they multiply; mean over subjects: {parts}. {split}"
            "From what activity does "
            f"outside the directions of the others' predictions, {run.config.factor} was told with "
            f"balanced accuracy {float(at.min()):.2f} to {float(at.max()):.2f} per trial."
        )


class Departure(Analysis):
    """How far a subject's held-out latents lie from those of the others."""

    name = "departure"
    references = (
        Reference(
            "Hershey & Olsen 2007",
            "Hershey JR, Olsen PA (2007) Approximating the Kullback Leibler divergence between "
            "Gaussian mixture models. ICASSP.",
        ),
    )

    def compute(self, fitted: Fitted) -> xr.Dataset | None:  # noqa: D102
        if not fitted.several:
            return None
        return departure(fitted.parts["test"], fitted.config.factor, fitted.config.seed)

    def summary(self, found: xr.Dataset | None) -> dict[str, Any]:  # noqa: D102
        if found is None:
            return {self.name: None}
        scores = {
            str(name): {
                key: plain(found[key].sel(subject=name).mean("time"))
                for key in ("divergence", "within")
            }
            for name in found["subject"].values
        }
        return {self.name: scores}

    def section(self, run: FinishedRun) -> Section | None:  # noqa: D102
        found = run.found.get(self.name)
        if found is None:
            return None
        caption = (
            "Divergence of each subject's held-out latents from those of the others, mean over "
            f"{run.config.factor}; dotted: where all others are copies of the subject, measured "
            "with as many trials as they have"
        )
        drawn = picture(lambda ax: plot_departure(found, ax=ax), caption)
        return Section("Departure from the others", pictures=[drawn])

    def methods(self, run: FinishedRun) -> str:  # noqa: D102
        if self.name not in run.found:
            return ""
        return (
            "Departure of a subject from the group is the divergence of its held-out latents from "
            "the mixture of the others' (bound of Hershey & Olsen 2007), beside what it is where "
            "all others are copies of the subject with as many trials."
        )
