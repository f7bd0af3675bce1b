"""What every analysis of a run is: computed, written, summarised and shown in one place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from neuroshare.report.rendering import Section, bracketed

if TYPE_CHECKING:
    from neuroshare.workflow.finished import FinishedRun
    from neuroshare.workflow.fitted import Fitted


KINDS = ("own", "cross", "pooled")
"""Of accuracies: the same subject's classifier, another one's, that of all other animals."""


class Reference(NamedTuple):
    """A paper, as a text cites it and as a list of references has it."""

    short: str
    full: str


class Analysis(ABC):
    """One analysis of a run: an object in `ANALYSES`.

    All but `compute` read the finished run alone, so that a report can be written again.
    """

    name: str
    """Of the analysis in `FinishedRun.found`, of its file, and of its part of ``scores.json``."""
    suffix = ".nc"
    quick = False
    """Whether a quick run has it too."""
    of_behavior: bool | None = False
    """Whether runs by behavior have it, and no others; None: all have."""
    references: Sequence[Reference] = ()
    """Papers that `methods` may cite."""

    @abstractmethod
    def compute(self, fitted: Fitted) -> xr.Dataset | None:
        """Score the fitted model; None where the data do not allow it."""

    def summary(self, found: xr.Dataset | None) -> dict[str, Any]:
        """Give what ``scores.json`` holds of it; always the same names."""
        return {}

    def section(self, run: FinishedRun) -> Section | None:
        """Give its section of the report."""
        return None

    def notes(self, run: FinishedRun) -> list[str]:
        """Say what its numbers mean, in sentences for a list of the report."""
        return []

    def methods(self, run: FinishedRun) -> str:
        """Say what was done and found, in a paragraph for a methods section."""
        return ""


def plain(value: xr.DataArray | float) -> float | None:
    """Plain number for JSON, which has no NaN."""
    return None if np.isnan(value) else float(value)


def matrix(values: xr.DataArray) -> dict[str, dict[str, float | None]]:
    """Source -> target -> value for JSON, without the subjects' own."""
    return {
        str(a): {
            str(b): plain(values.sel(source=a, target=b))
            for b in values["target"].values
            if str(a) != str(b)
        }
        for a in values["source"].values
    }


def levels(accuracies: xr.Dataset) -> dict[str, dict[str, Any]]:
    """What JSON holds of the accuracies of each level: window and trial."""
    return {str(level): _level(accuracies.sel(level=level)) for level in accuracies["level"].values}


def _level(scores: xr.Dataset) -> dict[str, Any]:
    # None where a test was not asked for, so that the file always holds the same names.
    found: dict[str, Any] = {
        f"{score}_{kind}": plain(scores[f"{score}_{kind}"]) if f"{score}_{kind}" in scores else None
        for score in ("mean", "p_mean", "p_sign_flip")
        for kind in KINDS
    }
    for kind in KINDS:
        bounds = scores.get(f"mean_{kind}_interval")
        found[f"mean_{kind}_interval"] = (
            None if bounds is None else [plain(bound) for bound in bounds]
        )
    for name in ("pooled", "p_pooled"):
        if name in scores:
            found[name] = {
                str(s): plain(scores[name].sel(target=s)) for s in scores["target"].values
            }
    for name in ("own", "p_own"):
        if name in scores:
            found[name] = {
                str(s): plain(scores[name].sel(subject=s)) for s in scores["subject"].values
            }
    for name in ("cross", "p_cross"):
        if name in scores:
            found[name] = matrix(scores[name])
    return found


def chance(scores: Mapping[str, Any], kind: str) -> float | None:
    """Chance of a kind of accuracy, mean over subjects or pairs."""
    found: float | None = scores.get(f"chance_{kind}", scores["chance"])
    return found


def mean_accuracy(level: dict[str, Any], kind: str) -> str:
    """Mean accuracy of a level with interval and p, as text."""
    text = bracketed(level[f"mean_{kind}"], level.get(f"mean_{kind}_interval"))
    p = level.get(f"p_mean_{kind}")
    return text if p is None else f"{text} (p = {p:.3f})"


def with_interval(data: xr.Dataset, name: str, digits: int) -> str:
    """A number of a Dataset with its interval, as text."""
    bounds = data.get(f"{name}_interval")
    return bracketed(float(data[name]), None if bounds is None else bounds.values.tolist(), digits)
