"""Every decoder from every expert (MMVAE)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from neuroshare.support.checks import require_whole
from neuroshare.vae.experts import (
    expert_log_prob,
    kl_standard,
    log_prob_standard,
    normal,
    weights,
)
from neuroshare.vae.objectives.base import Elbo, LogLik, Objective, Reference


class MoE(Objective):
    """Mixture of experts: every decoder reconstructs from every modality's code.

    Parameters
    ----------
    n_importance
        Draws per expert. 1 gives the ELBO with its closed-form rate; K > 1 the importance-weighted
        bound, tighter with K.
    dreg
        With n_importance > 1, the doubly reparameterised gradient for the encoders (Tucker et al.
        2019), whose signal does not fade with K. Draws are stratified by expert, as in Shi et al.,
        which leaves it a small bias in the encoders.

    Notes
    -----
    z_k ~ q_k, averaged over k, and R = (1/M) sum_k KL(q_k || N(0, I)) (Shi et al. 2019). The
    importance-weighted form is (1/M) sum_k E log (1/K) sum_i p(X, z_ki) / q(z_ki | X) with q(z | X)
    the mixture (their eq. 5). Its rate is what is left between the weighted log-likelihood and the
    bound, so that beta = 1 gives the bound itself.
    """

    reference = Reference(
        "Shi et al. 2019",
        "Shi Y, Siddharth N, Paige B, Torr PHS (2019) Variational mixture-of-experts "
        "autoencoders for multi-modal deep generative models. NeurIPS 32.",
    )

    def __init__(self, n_importance: int = 1, dreg: bool = False) -> None:
        super().__init__()
        require_whole(n_importance, "n_importance", "moe", 1)
        self.n_importance = int(n_importance)
        self.dreg = dreg
        self.stackable = not dreg  # vmap hands out tensors on which no hook works

    def sentence(self) -> str:  # noqa: D102
        many = f" of {self.n_importance} importance-weighted draws" if self.n_importance > 1 else ""
        return f"Every decoder reconstructs from every modality's code{many}."

    def loss(self, q: Normal, observed: Tensor, log_lik: LogLik) -> Elbo:  # noqa: D102
        weight = weights(observed, q.loc.dtype)
        if self.n_importance == 1:
            z = q.rsample()
            each = log_lik(z.expand(len(z), *z.shape))  # (modality, expert, sample)
            return Elbo((weight * each).sum(1), (weight * kl_standard(q)).sum(0))

        n_modalities = len(q.loc)
        z = q.rsample((self.n_importance,)).transpose(0, 1)  # (expert, draw, sample, latent)
        dreg = self.dreg and z.requires_grad
        if dreg:
            q = normal(q.loc.detach(), q.scale.detach())
        flat = z.flatten(0, 1)
        each = log_lik(flat.expand(n_modalities, *flat.shape))
        each = each.unflatten(1, (n_modalities, self.n_importance))  # (modality, expert, draw, s)
        log_mixture = torch.logsumexp(
            expert_log_prob(q, flat) + weight.log().unsqueeze(1), dim=0
        ).unflatten(0, (n_modalities, self.n_importance))
        mask = observed[:, None, None]
        log_ratio = (
            torch.where(mask, each, 0.0).sum(0) + log_prob_standard(z) - log_mixture
        )  # (expert, draw, sample)
        share = log_ratio.softmax(dim=1).detach()
        bound = torch.logsumexp(log_ratio, dim=1) - math.log(self.n_importance)
        if dreg:
            z.register_hook(lambda gradient: share.unsqueeze(-1) * gradient)
            surrogate = (share * log_ratio).sum(1)
            bound = bound.detach() + surrogate - surrogate.detach()
        bound = (weight * torch.where(observed, bound, 0.0)).sum(0)
        fit = (weight[:, None] * share * each).sum((1, 2))
        return Elbo(fit, torch.where(observed, fit, 0.0).sum(0) - bound)
