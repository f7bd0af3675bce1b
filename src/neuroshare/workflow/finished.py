"""The finished analysis: what the files of a run, its report and the terminal all show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from tqdm.auto import tqdm

from neuroshare import __version__
from neuroshare.report.rendering import number
from neuroshare.windows.paired import PairedWindows
from neuroshare.workflow.analyses import DECODING, SEPARATION, analyses_of
from neuroshare.workflow.analyses.choice import sentence as chosen_sentence
from neuroshare.workflow.described import as_fitted, made_with
from neuroshare.workflow.fitted import Fitted
from neuroshare.workflow.settings import RunConfig
from neuroshare.workflow.trust import judged, verdict_sentence


@dataclass(frozen=True)
class FinishedRun:
    """All that a run found; its folder holds the same."""

    config: RunConfig
    scores: Mapping[str, Any]
    """What ``scores.json`` holds."""
    latents: xr.DataArray
    """Dims (subject, window, latent), with ``part`` ("train" or "test") along window."""
    history: xr.Dataset
    found: Mapping[str, xr.Dataset]
    """Name of an analysis -> what it found, of those that were made."""

    @classmethod
    def of(
        cls,
        fitted: Fitted,
        files: Mapping[str, str],
        left_out: Sequence[str],
        odd: Sequence[str] = (),
        *,
        progress: bool = False,
    ) -> FinishedRun:
        """Make every analysis of a fitted model.

        Parameters
        ----------
        fitted
            The model and its split.
        files
            Subject -> name of its file.
        left_out
            Sentences about what was left out.
        odd
            Sentences about what is odd in the recordings.
        progress
            Show a progress bar.
        """
        config = fitted.config
        of_run = analyses_of(config)
        made = [a for a in of_run if a.quick or not config.quick]
        all_found = {}
        with tqdm(total=len(made), disable=not progress, unit="part") as bar:
            for analysis in made:
                bar.set_description(f"score ({analysis.name})")
                all_found[analysis.name] = analysis.compute(fitted)
                bar.update()
            bar.set_description("score")
        summaries = {a.name: a.summary(all_found.get(a.name)) for a in of_run}
        found = {name: data for name, data in all_found.items() if data is not None}
        control = all_found.get("control")
        coords = fitted.train.coords()
        animals = dict(zip(fitted.train.subjects, map(str, coords["animal"][1]), strict=True))
        parts = {"train": fitted.train, "test": fitted.test}
        trials = trials_of_parts(parts, config.score_by)
        scores: dict[str, Any] = {
            "neuroshare": __version__,
            "made": made_with(),
            "fitted": as_fitted(fitted),
            "by": config.factor,
            "paired_by": config.by,
            "conditions": [str(c) for c in trials["train"]],
            **summaries.pop(SEPARATION.name, {}),
            "n_animals": len(set(animals.values())),
            "subjects": {
                name: {
                    "animal": animals[name],
                    "file": files[name],
                    "units": len(fitted.train.units[name]),
                    **{k: _numbers(counted.loc[name]) for k, counted in trials.items()},
                }
                for name in fitted.train.subjects
            },
            "left_out": list(left_out),
            "odd": list(odd),
            "verdict": judged(
                fitted.train,
                fitted.test,
                control,
                drifts=not (config.quick or config.behavior),
                seed=config.seed,
            ),
        }
        for summary in summaries.values():
            scores |= summary
        return cls(config, scores, fitted.latents, fitted.model.history_, found)

    def table(self) -> str:
        """Held-out accuracy per trial, in a few lines to print."""
        if self.config.behavior:
            return f"{DECODING.text(self)}\n{verdict_sentence(self.scores['verdict'])}"
        trial = self.scores["trial"]
        table = pd.DataFrame({"own": trial["own"]}, index=list(self.scores["subjects"]))
        # Source by target, absent on the diagonal; one subject alone has neither.
        cross = pd.DataFrame.from_dict(trial["cross"], orient="index", dtype=float)
        whose = {n: about.get("animal", n) for n, about in self.scores["subjects"].items()}
        within = np.array([[whose[a] == whose[b] for b in cross.columns] for a in cross.index])
        cross = cross.mask(within) if cross.size else cross  # sessions of one animal share it
        table["cross, as source"] = cross.mean(axis="columns")
        table["cross, as target"] = cross.mean(axis="index")
        if "pooled" in trial:
            table["pooled"] = pd.Series(trial["pooled"], dtype=float)
        table.loc["mean"] = [
            np.nan if (mean := trial[f"mean_{column.partition(',')[0]}"]) is None else mean
            for column in table
        ]
        lines = [table.to_string(float_format="{:.2f}".format)]
        if self.scores["comparison"]:
            lines += ["", *self._comparison()]
        lines.append(
            f"Balanced accuracy of {self.scores['by']} per held-out trial; "
            f"chance {number(self.scores['chance'])}."
        )
        lines += [*self.scores["warnings"], *filter(None, [chosen_sentence(self)])]
        lines.append(verdict_sentence(self.scores["verdict"]))
        return "\n".join(lines)

    def _comparison(self) -> list[str]:
        """Own and cross accuracy of every model with interval and p."""
        cells: dict[str, dict[str, str]] = {"own": {}, "cross": {}, "pooled": {}}
        for model, scores in self.scores["comparison"].items():
            for kind, column in cells.items():
                row = scores.get(f"{kind}, per trial")
                column[model] = "" if row is None else _with_interval_and_p(row)
        return list(pd.DataFrame(cells).to_string().splitlines())


def trials_of_parts(parts: Mapping[str, PairedWindows], by: str | None) -> dict[str, pd.DataFrame]:
    """Number of trials by subject (row) and value of a column; all values in all parts.

    One may be in one part alone, where trials are paired by another column.
    """
    counted = {name: part.trials_of_conditions(by) for name, part in parts.items()}
    values = pd.concat([*counted.values()]).columns
    return {k: c.reindex(columns=values, fill_value=0) for k, c in counted.items()}


def _with_interval_and_p(row: Mapping[str, float | None]) -> str:
    if row["value"] is None:  # such as the accuracy between animals where there is one
        return ""
    text = f"{row['value']:.2f}"
    if row["low"] is not None:
        text += f" [{row['low']:.2f}, {row['high']:.2f}]"
    if row["p"] is not None:
        text += f" p={row['p']:.3f}"
    return text


def _numbers(trials: pd.Series) -> dict[str, int]:
    """Number of trials by condition."""
    return {str(c): int(n) for c, n in trials.items()}
