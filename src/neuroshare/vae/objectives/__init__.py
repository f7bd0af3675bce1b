"""The sharing rules: one file each. To add one, write its file and its line below."""

from __future__ import annotations

from neuroshare.vae.objectives.autoencoder import Autoencoder
from neuroshare.vae.objectives.average import Average
from neuroshare.vae.objectives.base import Elbo, LogLik, Objective
from neuroshare.vae.objectives.independent import Independent
from neuroshare.vae.objectives.mmvae_plus import MMVAEPlus
from neuroshare.vae.objectives.mmvm import MMVM
from neuroshare.vae.objectives.moe import MoE
from neuroshare.vae.objectives.mopoe import MoPoE
from neuroshare.vae.objectives.poe import PoE

OBJECTIVES: dict[str, type[Objective]] = {
    "independent": Independent,
    "avg": Average,
    "poe": PoE,
    "moe": MoE,
    "mopoe": MoPoE,
    "mmvae_plus": MMVAEPlus,
    "mmvm": MMVM,
    "autoencoder": Autoencoder,
}
"""Names that `SharedLatentModel(objective=...)` and the command line accept."""


def make_objective(objective: str | Objective) -> Objective:
    """Objective by name, or the object itself."""
    if isinstance(objective, Objective):
        return objective
    if not isinstance(objective, str) or objective not in OBJECTIVES:
        raise ValueError(
            f"The 'objective' parameter must be one of {sorted(OBJECTIVES)} or an Objective. "
            f"Got {objective!r} instead."
        )
    return OBJECTIVES[objective]()


__all__ = [
    "OBJECTIVES",
    "MMVM",
    "Autoencoder",
    "Average",
    "Elbo",
    "Independent",
    "LogLik",
    "MMVAEPlus",
    "MoE",
    "MoPoE",
    "Objective",
    "PoE",
    "make_objective",
]
