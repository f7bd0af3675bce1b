"""Behavior decoded from the fitted latents, of runs that pair by it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from neuroshare.analysis.counts import decode_counts
from neuroshare.analysis.decoding import SCORES, decoding
from neuroshare.plots import plot_decoding
from neuroshare.report.rendering import Section, Table, interval, number, picture
from neuroshare.workflow.analyses.base import KINDS, Analysis, plain

if TYPE_CHECKING:
    from neuroshare.workflow.finished import FinishedRun
    from neuroshare.workflow.fitted import Fitted

COUNTS = "counts_"
"""Before the names of scores of decoders of counts."""


class Decoding(Analysis):
    """R2 and median error of every behavior, beside those of decoders of counts."""

    name = "decoding"
    quick = True
    of_behavior = True

    def compute(self, fitted: Fitted) -> xr.Dataset:  # noqa: D102
        of = list(fitted.config.behavior or ())
        train, test = fitted.parts["train"], fitted.parts["test"]
        found = decoding(train, test, of=of, **fitted.tests)
        if fitted.config.quick:
            return found
        counted = decode_counts(fitted.train, fitted.test, of=of, n_permutations=0, n_bootstraps=0)
        names = [f"mean_{score}{tail}" for score in SCORES for tail in ("", "_interval")]
        return found.merge(counted[names].rename({name: f"{COUNTS}{name}" for name in names}))

    def summary(self, found: xr.Dataset | None) -> dict[str, Any]:  # noqa: D102
        if found is None:
            return {}
        told: dict[str, Any] = {}
        for variable in found["variable"].values:
            one = found.sel(variable=variable)
            told[str(variable)] = {
                f"{head}mean_{score}_{kind}": plain(one[f"{head}mean_{score}_{kind}"])
                for score in SCORES
                for kind in KINDS
                for head in ("", "p_")
                if f"{head}mean_{score}_{kind}" in one
            }
        return {"behavior": told, "warnings": json.loads(found.attrs["warnings"])}

    def section(self, run: FinishedRun) -> Section:  # noqa: D102
        found = run.found[self.name]
        units = json.loads(found.attrs["units"])
        rows = []
        for variable in found["variable"].values:
            one = found.sel(variable=variable)
            unit = f" ({units[variable]})" if units.get(str(variable)) else ""
            for kind in KINDS:
                if f"mean_r2_{kind}" not in one:
                    continue
                row = [f"{variable}{unit}", f"latents, {kind}"]
                for score, digits in (("r2", 2), ("median_error", 3)):
                    name = f"mean_{score}_{kind}"
                    ends = one[f"{name}_interval"].values.tolist()
                    row += [number(float(one[name]), digits), interval(ends, digits) or "–"]
                    p = one.get(f"p_{name}")
                    row.append("–" if p is None else number(float(p), 3))
                rows.append(row)
            for decoder in found["decoder"].values if "decoder" in found else ():
                at = one.sel(decoder=decoder)
                row = [f"{variable}{unit}", f"counts, own: {decoder}"]
                for score, digits in (("r2", 2), ("median_error", 3)):
                    name = f"{COUNTS}mean_{score}"
                    ends = at[f"{name}_interval"].values.tolist()
                    row += [number(float(at[name]), digits), interval(ends, digits) or "–", "–"]
                rows.append(row)
        header = (
            "behavior", "decoded from", "R2", "95 % interval", "p", "median error",
            "95 % interval", "p",
        )  # fmt: skip
        pictures = [
            picture(
                lambda ax, v=str(v), kind=kind: plot_decoding(  # type: ignore[misc]
                    found, ax=ax, variable=v, kind=kind
                ),
                f"Median error of {v}, {words}",
            )
            for v in found["variable"].values
            for kind, words in (("along", "by its true value"), ("pairs", "source by target"))
            if kind == "pairs" or bool(found.sel(variable=v)["error_along"].notnull().any())
        ]
        table = Table(header, rows, numbers=(2, 4, 5, 7))
        return Section("Behavior decoded from held-out windows", table, pictures=pictures)

    def notes(self, run: FinishedRun) -> list[str]:  # noqa: D102
        null = run.found[self.name].attrs["null"]
        return [
            "Behavior is the mean of that of the nearest training windows: of the same subject "
            "(own), of one other (cross), of all other animals (pooled). Only cross and pooled "
            "show a shared space. R2 below 0 is worse than the mean.",
            f"Null: {null}.",
            *run.scores.get("warnings", []),
        ]

    def methods(self, run: FinishedRun) -> str:  # noqa: D102
        found, sentences = run.found[self.name], []
        units = json.loads(found.attrs["units"])
        for variable in found["variable"].values:
            one = found.sel(variable=variable)
            errors = {
                kind: number(float(one[f"mean_median_error_{kind}"]), 3)
                for kind in ("own", "cross")
                if f"mean_median_error_{kind}" in one
            }
            unit = f" {units[variable]}" if units.get(str(variable)) else ""
            text = f"The median error of {variable} was {errors['own']}{unit} within subjects"
            if "cross" in errors:
                text += f" and {errors['cross']}{unit} from the latents of another"
                if "p_mean_median_error_cross" in one:
                    text += f" (p = {float(one['p_mean_median_error_cross']):.3f})"
            sentences.append(f"{text}.")
        return (
            "Behavior of held-out windows was decoded as the mean of that of the nearest training "
            "windows in the latents, whose number was chosen on blocks of the training windows. "
            f"{' '.join(sentences)} For p-values {found.attrs['null']}."
        )

    def text(self, run: FinishedRun) -> str:
        """Scores in a few lines to print."""
        found, rows = run.found[self.name], {}
        for variable in found["variable"].values:
            one = found.sel(variable=variable)
            for kind in KINDS:
                if f"mean_r2_{kind}" not in one:
                    continue
                row = {"R2": f"{float(one[f'mean_r2_{kind}']):.2f}"}
                row["median error"] = f"{float(one[f'mean_median_error_{kind}']):.3g}"
                if f"p_mean_median_error_{kind}" in one:
                    row["p"] = f"{float(one[f'p_mean_median_error_{kind}']):.3f}"
                rows[f"{variable}, {kind}"] = row
        return str(pd.DataFrame.from_dict(rows, orient="index").to_string())
