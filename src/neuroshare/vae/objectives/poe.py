"""One code from the product of experts (MVAE)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Normal

from neuroshare.vae.experts import kl_standard, normal, product
from neuroshare.vae.objectives.base import Elbo, LogLik, Objective, Reference


class PoE(Objective):
    """One joint posterior, the product of all experts, feeds every decoder.

    Parameters
    ----------
    prior_expert
        Multiply the product by N(0, I) as one more expert.
    sub_elbos
        Add every modality's own bound, ELBO(X) + sum_m ELBO(x_m), so that each encoder is of use
        alone.

    Notes
    -----
    z ~ product of experts and R = KL(joint || N(0, I)) (Wu & Goodman 2018).
    """

    reference = Reference(
        "Wu & Goodman 2018",
        "Wu M, Goodman N (2018) Multimodal generative models for scalable weakly-supervised "
        "learning. NeurIPS 31.",
    )

    def __init__(self, prior_expert: bool = True, sub_elbos: bool = False) -> None:
        super().__init__()
        self.prior_expert = prior_expert
        self.sub_elbos = sub_elbos

    def sentence(self) -> str:  # noqa: D102
        experts = "all experts and the prior" if self.prior_expert else "all experts"
        more = " Bounds of each modality alone are added." if self.sub_elbos else ""
        return f"One code, the product of {experts}, feeds every decoder.{more}"

    def loss(self, q: Normal, observed: Tensor, log_lik: LogLik) -> Elbo:  # noqa: D102
        joint = product(q, observed, self.prior_expert)
        z = joint.rsample().expand(len(q.loc), 1, -1, -1)
        rate = observed.any(0) * kl_standard(joint)
        if not self.sub_elbos:
            return Elbo(log_lik(z).squeeze(1), rate)
        alone = self._alone(q)
        z = torch.cat([z, alone.rsample().unsqueeze(1)], dim=1)
        return Elbo(log_lik(z).sum(1), rate + (observed * kl_standard(alone)).sum(0))

    def _alone(self, q: Normal) -> Normal:
        """Each modality's expert times the prior, (modality, sample, latent)."""
        if not self.prior_expert:
            return q
        precision = q.scale.square().reciprocal()
        return normal(precision * q.loc / (precision + 1), (precision + 1).rsqrt())

    def posterior(self, q: Normal, observed: Tensor) -> tuple[Normal, Tensor]:  # noqa: D102
        joint = product(q, observed.unsqueeze(0), self.prior_expert)
        return joint, torch.ones_like(joint.loc[..., 0])
