"""The untrained start refitted to many draws of the labels, for a null of the whole analysis."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from neuroshare.models.building import resolved
from neuroshare.models.choice import is_auto
from neuroshare.models.inputs import all_sums, as_tensor
from neuroshare.models.linear_start import MOST_FEATURES, WEIGHTINGS, maps_of
from neuroshare.models.moments import Unlabelled
from neuroshare.models.shared import SharedLatentModel
from neuroshare.models.trained import architecture_of, check_activity
from neuroshare.vae.objectives import MMVM, Objective
from neuroshare.windows.paired import PairedWindows

MOST_BYTES = 2**31
"""Of windows that are held for all draws."""
Latents = dict[str, NDArray[np.float32]]


def can_redraw(model: object, train: PairedWindows, test: PairedWindows) -> bool:
    """Whether `Redrawn` gives what refits of the model give: an aligned start, nothing else."""
    if not isinstance(model, SharedLatentModel) or train.behavior is not None:
        return False
    params = model.get_params(deep=False)
    asked = [params[name] for name in ("latent_dim", "inputs", "epochs")]
    if any(map(is_auto, asked)) or params["epochs"] != 0 or params["subjects"] is not None:
        return False
    objective = resolved(params["objective"], trains=False)
    placed = type(objective).placed is Objective.placed
    as_they_are = placed or (isinstance(objective, MMVM) and not objective.contrast)
    aligned = is_auto(params["init"]) or params["init"] == "mcca"
    if not (as_they_are and aligned and len(train.subjects) > 1 and params["encoder"] is None):
        return False
    inputs = architecture_of(params, params["objective"], linear=True).inputs
    if not inputs.pooled or train.subjects != test.subjects:
        return False
    n_groups = inputs.n_groups(train.width)
    n_bytes = 0
    for name, units in train.units.items():
        if len(units) * n_groups > MOST_FEATURES:
            return False
        n_trials = train.n_trials(name) + test.n_trials(name)
        n_bytes += 4 * n_trials * len(train.first_bins) * len(units) * n_groups
    return n_bytes <= MOST_BYTES


class Redrawn:
    """Latents of a start under each of many labellings; what no label changes is computed once.

    Sums of windows, their products and what encoders see of them are of the activity alone. A
    draw of the labels changes means of conditions, and thereby what is taken from features, how
    they are weighed, and the maps.

    Parameters
    ----------
    model
        For which `can_redraw`.
    train, test
        The parts of one split.
    """

    def __init__(self, model: SharedLatentModel, train: PairedWindows, test: PairedWindows) -> None:
        model.check_settings()
        params = model.get_params(deep=False)
        architecture = architecture_of(params, params["objective"], linear=True)
        self.latent_dim, self.seed = architecture.latent_dim, params["seed"]
        self.alone = not architecture.objective.shares
        self.train, self.test = train, test
        n_groups = architecture.inputs.n_groups(train.width)
        self.unlabelled: dict[str, Unlabelled] = {}
        self.windows: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name in train.subjects:
            likelihood = architecture.likelihood(name)
            for part in (train, test):
                check_activity(name, part, likelihood)
            root = architecture.inputs.takes_root(likelihood)
            counts = all_sums(train.thinned(), name, n_groups)
            self.unlabelled[name] = Unlabelled.of(np.sqrt(counts) if root else counts, counts)
            seen = []
            for part in (train, test):
                sums = as_tensor(all_sums(part, name, n_groups))
                seen.append(sums.sqrt_() if root else sums)
            self.windows[name] = seen[0], seen[1]

    @cached_property
    def animals(self) -> list[str]:
        """Whose session each subject is."""
        return [str(name) for name in self.train.coords()["animal"][1]]

    def latents(self, train: PairedWindows) -> tuple[Latents, Latents]:
        """Latents (trial, start, latent) of all trials of both parts, by subject.

        Parameters
        ----------
        train
            The training part with labels of a draw.
        """
        n = len(train.conditions)
        moments = {k: found.moments(train.codes(k), n) for k, found in self.unlabelled.items()}
        maps = maps_of(moments, WEIGHTINGS[0], self.latent_dim, alone=self.alone, seed=self.seed)
        found: tuple[Latents, Latents] = ({}, {})
        for name, seen in self.windows.items():
            scale = moments[name].seen_scale
            # In the precision and the order in which the networks compute it.
            weights = as_tensor(np.ascontiguousarray((maps[name] * scale[:, None]).T))
            loc, divisor = as_tensor(moments[name].loc), as_tensor(scale)
            for part, windows in zip(found, seen, strict=True):
                part[name] = torch.nn.functional.linear((windows - loc) / divisor, weights).numpy()
        return found
