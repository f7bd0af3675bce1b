"""One code from averaged encoder outputs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Normal

from neuroshare.vae.experts import average, kl_standard, normal
from neuroshare.vae.objectives.base import Elbo, LogLik, Objective, Reference


class Average(Objective):
    """One joint posterior, the average of all encoders' outputs, feeds every decoder.

    Notes
    -----
    z ~ N(mean loc, mean scale) and R = KL(joint || N(0, I)) (Hosoya 2018; the "aggregated VAE").
    """

    reference = Reference(
        "Hosoya 2018",
        "Hosoya H (2018) A simple probabilistic deep generative model for learning "
        "generalizable disentangled representations from grouped data. arXiv:1809.02383.",
    )

    def sentence(self) -> str:  # noqa: D102
        return "One code, the average of all encoders' outputs, feeds every decoder."

    def loss(self, q: Normal, observed: Tensor, log_lik: LogLik) -> Elbo:  # noqa: D102
        joint = average(q, observed)
        z = joint.rsample().expand(len(q.loc), 1, -1, -1)
        return Elbo(log_lik(z).squeeze(1), observed.any(0) * kl_standard(joint))

    def posterior(self, q: Normal, observed: Tensor) -> tuple[Normal, Tensor]:  # noqa: D102
        joint = average(q, observed)
        joint = normal(joint.loc.unsqueeze(0), joint.scale.unsqueeze(0))
        return joint, torch.ones_like(joint.loc[..., 0])
