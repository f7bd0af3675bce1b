"""Shared and private latents, with learned priors for the private part of others (MMVAE+)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from neuroshare.support.checks import require_whole
from neuroshare.vae.experts import (
    kl_standard,
    log_prob_standard,
    mixture_log_prob,
    normal,
    split,
    weights,
)
from neuroshare.vae.objectives.base import Elbo, LogLik, Objective, Reference


class MMVAEPlus(Objective):
    """Mixture of experts on shared latents beside private latents of every modality.

    A modality reconstructs itself from its shared and private code; decoding another's shared code,
    it draws its private part from a learned auxiliary prior, so that no private information can
    take the shared way.

    Parameters
    ----------
    private_dim
        Number of private latents of each modality, beside the shared ones.

    Notes
    -----
    Palumbo, Daunhawer & Vogt 2023, eq. 5, with one draw: z_k = (s_k, p_k) ~ q_k; decoder m is fed
    (s_k, p_m if m = k else p ~ r_m), averaged over k; R = (1/M) sum_k [log (1/M) sum_j q_j(s_k) -
    log N(s_k; 0, I) + KL(q_k(p) || N(0, I))].
    """

    reference = Reference(
        "Palumbo et al. 2023",
        "Palumbo E, Daunhawer I, Vogt JE (2023) MMVAE+: enhancing the generative quality of "
        "multimodal VAEs without compromises. ICLR.",
    )

    def __init__(self, private_dim: int = 4) -> None:
        super().__init__()
        require_whole(private_dim, "private_dim", "mmvae_plus", 1)
        self.private_dim = int(private_dim)

    def sentence(self) -> str:  # noqa: D102
        return (
            "The posterior of the shared latents is the mixture of all modalities; each modality "
            f"has {self.private_dim} private latents beside them, whose priors for others are "
            "learned."
        )

    def build(self, n_modalities: int, n_latents: int) -> None:  # noqa: D102
        self.prior_loc = nn.Parameter(torch.zeros(n_modalities, self.private_dim))
        self.prior_log_scale = nn.Parameter(torch.zeros(n_modalities, self.private_dim))

    def loss(self, q: Normal, observed: Tensor, log_lik: LogLik) -> Elbo:  # noqa: D102
        n_modalities, n_samples, n_latents = q.loc.shape
        shared, private = split(q, n_latents - self.private_dim)
        weight = weights(observed, q.loc.dtype)
        s, p = shared.rsample(), private.rsample()
        prior = normal(self.prior_loc[:, None, None], self.prior_log_scale.exp()[:, None, None])
        drawn = prior.rsample((n_modalities, n_samples))[..., 0, 0, :]
        drawn = drawn.permute(2, 0, 1, 3)  # (target, source, sample, latent)
        itself = torch.eye(n_modalities, dtype=torch.bool, device=p.device)[..., None, None]
        z = torch.cat(
            [s.expand(n_modalities, *s.shape), torch.where(itself, p.unsqueeze(1), drawn)], dim=-1
        )
        each = log_lik(z)  # (target, source, sample)
        log_mixture = mixture_log_prob(shared, s, weight.log())
        rate = log_mixture - log_prob_standard(s) + kl_standard(private)
        return Elbo((weight * each).sum(1), torch.where(observed, weight * rate, 0.0).sum(0))

    def latents(self, q: Normal, observed: Tensor) -> Tensor:
        """Every modality's own code where observed, else the mixture's mean and its prior."""
        n_shared = q.loc.shape[-1] - self.private_dim
        weight = weights(observed, q.loc.dtype).unsqueeze(-1)
        others = (weight * q.loc).sum(0)[..., :n_shared].expand(len(q.loc), -1, -1)
        prior = self.prior_loc[: len(q.loc), None].expand(-1, q.loc.shape[1], -1)
        return torch.where(observed.unsqueeze(-1), q.loc, torch.cat([others, prior], dim=-1))

    def private_mean(self, target: int) -> Tensor:  # noqa: D102
        return self.prior_loc[target]
