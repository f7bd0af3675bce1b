"""A fitted model on its split, and what is computed of it once for several analyses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import xarray as xr

from neuroshare.windows.paired import PairedWindows
from neuroshare.workflow.settings import RunConfig

if TYPE_CHECKING:  # a report is written again without torch
    from neuroshare.models.shared import SharedLatentModel
    from neuroshare.workflow.compare import Scored


class Tests(TypedDict):
    """How intervals and p-values are computed."""

    n_permutations: int
    n_bootstraps: int
    seed: int


@dataclass(frozen=True)
class Fitted:
    """What an analysis of a run can ask for."""

    config: RunConfig
    model: SharedLatentModel
    name: str
    """Of the sharing rule, and so of the model where it is compared."""
    source: str
    """The sharing rule in words."""
    references: str
    train: PairedWindows
    test: PairedWindows
    before: Mapping[str, xr.DataArray] | None
    """Counts of the stretch of the same length before the event, if there are spikes in it."""
    progress: bool = False

    @property
    def several(self) -> bool:
        """Whether there is anything to tell between subjects."""
        return len(self.test.subjects) > 1

    @property
    def tests(self) -> Tests:
        """Arguments of intervals and permutation tests."""
        return {
            "n_permutations": self.config.permutations,
            "n_bootstraps": self.config.bootstraps,
            "seed": self.config.seed,
        }

    @cached_property
    def parts(self) -> dict[str, xr.DataArray]:
        """Latents of the training and of the test part, (subject, window, latent)."""
        parts = {"train": self.train, "test": self.test}
        factor = self.config.score_by
        return {name: _by(self.model.transform(part), factor) for name, part in parts.items()}

    @cached_property
    def latents(self) -> xr.DataArray:
        """Latents of both parts; ``part`` is a coordinate, and the attributes say whence."""
        parts = [
            z.assign_coords(part=("window", [part] * z.sizes["window"]))
            for part, z in self.parts.items()
        ]
        latents = xr.concat(parts, dim="window").rename("latents")
        # The names that the CF conventions give to how data came about.
        return latents.assign_attrs(source=self.source, references=self.references)

    @cached_property
    def scored(self) -> dict[str, Scored]:
        """Scores of the fitted model, which comes first, and of the baselines."""
        from neuroshare.workflow.compare import score_models

        scored = score_models(
            self.train,
            self.test,
            fitted={self.name: self.model},
            baselines=self.several,
            imputation=self.several,
            by=self.config.factor,
            progress=self.progress,
            **self.tests,
        )
        return {self.name: scored.pop(self.name), **scored}


def _by(latents: xr.DataArray, factor: str | None) -> xr.DataArray:
    """Latents whose condition is another trial column, if partners have the same value of it."""
    if factor in (None, latents.attrs["by"]) or latents[factor].dims == ("window",):
        return latents
    values = latents[factor].transpose("subject", "window").to_numpy()
    absent = latents.isnull().all("latent").to_numpy()
    one = values[(~absent).argmax(axis=0), np.arange(values.shape[1])]
    if not np.all((values == one) | absent):
        return latents
    return latents.assign_coords({factor: ("window", one)}).assign_attrs(by=factor)
