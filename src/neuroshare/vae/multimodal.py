"""Encoders, decoders and likelihoods of all modalities under one objective."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from neuroshare.vae.experts import normal
from neuroshare.vae.likelihoods import Likelihood
from neuroshare.vae.objectives.base import Elbo, Objective


class MultimodalVAE(nn.Module):
    """One encoder, decoder and likelihood per modality, joined by an objective.

    Parameters
    ----------
    encoders
        Modules x_m (sample, ...) -> (loc, scale), (sample, latent) each.
    decoders
        Modules z (..., sample, latent) -> raw output (..., sample, feature).
    likelihoods
        One per modality.
    objective
        The sharing rule.
    """

    def __init__(
        self,
        encoders: Iterable[nn.Module],
        decoders: Iterable[nn.Module],
        likelihoods: Iterable[Likelihood],
        objective: Objective,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.decoders = nn.ModuleList(decoders)
        self.likelihoods = nn.ModuleList(likelihoods)
        self.objective = objective
        if not len(self.encoders) == len(self.decoders) == len(self.likelihoods) > 0:
            raise ValueError(
                "Expected as many encoders as decoders and likelihoods. Got "
                f"{len(self.encoders)}, {len(self.decoders)} and {len(self.likelihoods)}."
            )

    def encode(self, x: Sequence[Tensor]) -> Normal:
        """Posteriors q_m, one Normal (modality, sample, latent)."""
        loc, scale = zip(
            *(encode(x_m) for encode, x_m in zip(self.encoders, x, strict=True)), strict=True
        )
        return normal(torch.stack(loc), torch.stack(scale))

    def log_lik(self, z: Tensor, x: Sequence[Tensor]) -> Tensor:
        """Log p(x_m | z_m): z (modality, draw, sample, latent) -> (modality, draw, sample)."""
        return torch.stack(
            [
                cast(Likelihood, likelihood).log_prob(decode(z_m), x_m)
                for likelihood, decode, z_m, x_m in zip(
                    self.likelihoods, self.decoders, z, x, strict=True
                )
            ]
        )

    def elbo(self, x: Sequence[Tensor], observed: Tensor) -> Elbo:
        """One stochastic estimate of the objective's two parts."""
        return self.objective.loss(self.encode(x), observed, lambda z: self.log_lik(z, x))

    def latents(self, x: Sequence[Tensor], observed: Tensor | None = None) -> Tensor:
        """Posterior means, (modality, sample, latent).

        With `observed` (modality, sample), what each decoder is fed given all observed modalities;
        without it, what each modality says on its own.
        """
        q = self.encode(x)
        if observed is not None:
            return self.objective.latents(q, observed)
        # Each modality becomes a sample of its own of a one-modality model.
        alone = normal(q.loc.flatten(0, 1).unsqueeze(0), q.scale.flatten(0, 1).unsqueeze(0))
        everything = torch.ones(alone.loc.shape[:2], dtype=torch.bool, device=q.loc.device)
        return self.objective.latents(alone, everything).view_as(q.loc)

    def impute(self, x: Sequence[Tensor], observed: Tensor, target: int) -> Tensor:
        """Expected data of `target` given the observed modalities, (sample, feature).

        Where the target itself is the only one observed this is its reconstruction.
        """
        q = self.encode(x)
        alone = observed.sum(0) == 1
        if bool((observed[target] & alone).all()):
            z = self.objective.latents(q, observed)[target].unsqueeze(0)
            weight = z.new_ones(z.shape[:2])
        else:
            z, weight = self.objective.conditional(q, observed, target)
        mean = cast(Likelihood, self.likelihoods[target]).mean(self.decoders[target](z))
        return (weight.unsqueeze(-1) * mean).sum(0)
