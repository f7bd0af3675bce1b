"""What the model chose for itself, on trials held out of its training part."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from neuroshare.report.rendering import Section, Table
from neuroshare.workflow.analyses.base import Analysis

if TYPE_CHECKING:
    from neuroshare.workflow.finished import FinishedRun
    from neuroshare.workflow.fitted import Fitted

_TEXTS = ("stage", "init", "inputs")
_SHOWN = 6
"""Starts in the table of the report, the best ones."""


class Choice(Analysis):
    """Candidates for latents, inputs and training, their scores, and which was taken."""

    of_behavior = None
    name = "choice"
    quick = True

    def compute(self, fitted: Fitted) -> xr.Dataset:  # noqa: D102
        chosen = {key: _plain(value) for key, value in fitted.model.chosen_.items()}
        table = fitted.model.selection_
        columns = {
            str(name): (
                "candidate",
                values.to_numpy(str) if name in _TEXTS else values.to_numpy(float),
            )
            for name, values in table.items()
            if len(table)
        }
        return xr.Dataset(columns, attrs={"chosen": json.dumps(chosen)})

    def summary(self, found: xr.Dataset | None) -> dict[str, Any]:  # noqa: D102
        if found is None:
            return {"chosen": None, "training": None}
        table = _table(found)
        training = table if table.empty else table[table.stage == "training"]
        return {"chosen": json.loads(found.attrs["chosen"]), "training": _training(training)}

    def section(self, run: FinishedRun) -> Section | None:  # noqa: D102
        found = run.found.get(self.name)
        if found is None or (table := _table(found)).empty:
            return None
        starts = table[table.stage == "start"]
        n_starts = len(starts)
        starts = starts.sort_values(["chosen", "score"], ascending=False)[:_SHOWN]
        training = table[table.stage == "training"]
        rows = [_row(row) for row in [*starts.to_dict("records"), *training.to_dict("records")]]
        header = (
            "candidate", "latents", "parts of the window", "training steps", "own", "cross",
            "score", "taken",
        )  # fmt: skip
        note = (
            f"{sentence(run)} Accuracies are per trial, on trials held out of the training part in "
            f"inner folds. Shown are {len(starts)} of {n_starts} starts, the one that was taken "
            "and then the most accurate; all are in choice.nc."
        )
        numbers = (1, 3, 4, 5, 6)
        table = Table(header, rows, numbers=numbers, dense=True)
        return Section("What was chosen", table, note, folded=True)

    def methods(self, run: FinishedRun) -> str:  # noqa: D102
        return sentence(run)


def _table(found: xr.Dataset) -> pd.DataFrame:
    return pd.DataFrame({str(name): values.to_numpy() for name, values in found.items()})


def sentence(run: FinishedRun) -> str:
    """Say what was chosen, and what training changed."""
    chosen = run.scores.get("chosen")
    if not chosen:
        return ""
    if "why_not" in chosen:
        return f"Nothing could be chosen on held-out trials, for {chosen['why_not']}."
    words = []
    if "latent_dim" in chosen:
        words.append(f"{chosen['latent_dim']} latents")
    if "inputs" in chosen:
        parts = chosen["inputs"]
        words.append(
            f"activity in {parts} parts of the window"
            if isinstance(parts, int) and parts > 1
            else "activity summed over the window"
            if parts in ("pooled", 1)
            else f"inputs {parts}"
        )
    if "steps" in chosen:
        start = "random networks" if chosen.get("init") == "random" else "the aligned start"
        steps = chosen["steps"]
        words.append(f"{steps} training steps from {start}" if steps else f"{start} as it is")
    if not words:
        return ""
    text = f"Chosen on trials held out of the training part: {', '.join(words)}."
    training = run.scores.get("training")
    if training and training["before"] is not None:
        before = _accuracies(training["before"])
        if training["steps"]:
            text += f" Held-out accuracy before training: {before}; after: "
            text += f"{_accuracies(training['after'])}."
        elif training["best"] is not None:
            text += (
                f" Training was tried for up to {training['most_steps']} steps and not taken: "
                f"{before} before, {_accuracies(training['best'])} at its best."
            )
    return text


def _training(table: pd.DataFrame) -> dict[str, Any] | None:
    """Accuracies before training, after it, and of the best that was tried."""
    if table.empty:
        return None
    first = table.iloc[0]
    before = table[(table.init == first.init) & (table.steps == 0)].iloc[0]
    taken = table[table.chosen.astype(bool)]
    after = before if taken.empty else taken.iloc[0]
    trained = table[table.steps > 0]
    best = None if trained.empty else trained.loc[trained.score.idxmax()]
    return {
        "before": _pair(before),
        "after": _pair(after),
        "best": None if best is None else _pair(best),
        "steps": int(after.steps),
        "most_steps": int(table.steps.max()),
    }


def _pair(row: pd.Series) -> dict[str, float | None]:
    return {k: None if np.isnan(row[k]) else float(row[k]) for k in ("own", "cross")}


def _accuracies(pair: dict[str, float | None]) -> str:
    return ", ".join(f"{kind} {value:.2f}" for kind, value in pair.items() if value is not None)


def _row(row: dict[str, Any]) -> list[str]:
    name = "start" if row["stage"] == "start" else f"training from {row['init']}"
    values = [f"{row[key]:.3f}" if np.isfinite(row[key]) else "–" for key in ("own", "cross")]
    score = f"{row['score']:.3f}"
    if np.isfinite(row["standard_error"]):
        score += f" ± {row['standard_error']:.3f}"
    parts = "1" if row["inputs"] == "pooled" else str(row["inputs"])
    steps, taken = str(int(row["steps"])), "yes" if row["chosen"] else ""
    return [name, str(int(row["latent_dim"])), parts, steps, *values, score, taken]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
