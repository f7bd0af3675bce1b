"""What linear alignments look at: features of trials on their principal axes, and who met whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuroshare.models.alignment import (
    EXACT_PCA,
    TOLERANCE,
    Array,
    Features,
    Meetings,
    features_of,
    mapped,
    meetings_of,
    principal_axes,
)
from neuroshare.models.held_out import Codes
from neuroshare.windows.paired import PairedWindows


class Settings(NamedTuple):
    """What can be left to choose."""

    latent_dim: int
    n_components: int
    ridge: float


class How(NamedTuple):
    """By what parameters windows are looked at, whichever the method."""

    features: Features
    roots: tuple[tuple[str, bool], ...]
    n_repairs: int
    seed: int

    def trials(self, paired: PairedWindows) -> Codes:
        """Features (trial, start, feature) and conditions of all trials, by subject."""
        roots = dict(self.roots)
        return {
            name: (
                features_of(
                    paired, name, np.arange(paired.n_trials(name)), self.features, roots[name]
                ),
                paired.codes(name),
            )
            for name in paired.subjects
        }


@dataclass(frozen=True)
class Prepared:
    """Standardised features of all subjects on their principal axes, and who met whom."""

    used: dict[str, NDArray[np.int64]]
    conditions: dict[str, NDArray[np.int64]]
    meetings: Meetings
    standards: dict[str, tuple[Array, Array]]
    bases: dict[str, Array]  # (feature, component)
    projected: dict[str, Array]  # (trial, start, component)
    covariances: dict[int, dict[tuple[str, str], Array]] = field(default_factory=dict)
    """Of the first so many components, once they are asked for."""

    def standardised(self, trials: Codes) -> Codes:
        """Features as encoders multiply them."""
        return {
            name: ((x - self.standards[name][0]) / self.standards[name][1], codes)
            for name, (x, codes) in trials.items()
        }


class Look:
    """Thinned training windows as alignments see them, for several of them.

    Parameters
    ----------
    train
        Thinned windows.
    how
        By what parameters.
    most
        Components that are asked for at most.
    """

    def __init__(self, train: PairedWindows, how: How, most: int) -> None:
        self.train, self.how, self.most = train, how, most
        self._prepared: dict[int, Prepared] = {}

    @cached_property
    def trials(self) -> Codes:
        """Features and conditions of all trials."""
        return self.how.trials(self.train)

    def prepared(self, n_components: int) -> Prepared:
        """Principal axes, so many or more: fewer are the first of them."""
        wide = max(x.shape[2] for x, _ in self.trials.values()) > EXACT_PCA
        # Axes that are approximated depend on how many they are.
        n = n_components if wide else max(n_components, self.most)
        if n not in self._prepared:
            self._prepared[n] = self._looked(n)
        return self._prepared[n]

    def _looked(self, n_components: int) -> Prepared:
        train, how = self.train, self.how
        tables = _tables(train, how.n_repairs, how.seed)
        used = {}
        for column, name in enumerate(train.subjects):
            positions = np.unique(np.concatenate([table[:, column] for table in tables]))
            used[name] = positions[positions >= 0]
            if not len(used[name]):
                raise ValueError(f"subject {name!r} takes part in no training window.")
        standards, bases, projected, conditions = {}, {}, {}, {}
        for name, positions in used.items():
            conditions[name] = train.codes(name)[positions]
            weight = 1 / np.bincount(conditions[name])[conditions[name]]
            weight /= weight.sum()
            x = self.trials[name][0][positions]
            mean = np.einsum("i,isf->f", weight, x) / x.shape[1]
            variance = np.einsum("i,isf->f", weight, (x - mean) ** 2) / x.shape[1]
            # A silent unit has no variance: it stays at zero, and its weight does not matter.
            scale = np.where(variance > TOLERANCE, np.sqrt(variance), 1.0)
            x -= mean
            x /= scale
            bases[name] = principal_axes(x.reshape(-1, x.shape[2]), n_components, how.seed)
            projected[name] = mapped(x, bases[name])
            standards[name] = (mean, scale)
        meetings = meetings_of(tables, train.subjects, used, train.behavior is not None)
        return Prepared(used, conditions, meetings, standards, bases, projected)


def _tables(paired: PairedWindows, n_repairs: int, seed: int) -> list[NDArray[np.int64]]:
    if not paired.redraws:
        return [paired.partners]
    return [paired.repair(seed + k).partners for k in range(n_repairs)]
