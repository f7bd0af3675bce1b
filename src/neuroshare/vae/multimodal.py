"""Encoders, decoders and likelihoods of all modalities under one objective."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from neuroshare.vae.experts import (
    log_density,
    log_prob_standard,
    mixture_log_prob,
    normal,
    split,
)
from neuroshare.vae.likelihoods import Likelihood
from neuroshare.vae.networks import repeat_lags
from neuroshare.vae.objectives.base import Elbo, Objective


class MultimodalVAE(nn.Module):
    """One encoder, decoder and likelihood per modality, joined by an objective.

    Parameters
    ----------
    encoders
        Modules x_m (sample, ...) -> (loc, scale), (sample, latent) each.
    decoders
        Modules z (..., sample, latent) -> raw output (..., sample, feature), or (..., sample, unit)
        where one value stands for all lags of a unit.
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

    def encode(self, x: Sequence[Tensor], needed: Sequence[bool] | None = None) -> Normal:
        """Posteriors q_m, one Normal (modality, sample, latent).

        With `needed` (modality,) the others are not encoded: they stand at zero, where nothing may
        look at them.
        """
        if needed is None or not any(needed):
            needed = [True] * len(x)
        found = {m: self.encoders[m](x[m]) for m in range(len(x)) if needed[m]}
        like, _ = next(iter(found.values()))
        nothing = torch.zeros_like(like), torch.ones_like(like)
        loc, scale = zip(*(found.get(m, nothing) for m in range(len(x))), strict=True)
        q = normal(torch.stack(loc).to(x[0].dtype), torch.stack(scale).to(x[0].dtype))
        return self.objective.placed(q)

    def log_lik(self, z: Tensor, x: Sequence[Tensor]) -> Tensor:
        """Log p(x_m | z_m): z (modality, draw, sample, latent) -> (modality, draw, sample)."""
        return torch.stack([self._log_lik_of(m, z[m], x) for m in range(len(x))])

    def elbo(self, x: Sequence[Tensor], observed: Tensor, dtype: torch.dtype | None = None) -> Elbo:
        """One stochastic estimate of the objective's two parts.

        `dtype`, such as bfloat16, is that of the networks' matrix products; the objective and the
        likelihoods compute in the type of the data.
        """
        if dtype is None:
            return self.objective.loss(self.encode(x), observed, lambda z: self.log_lik(z, x))
        # Without the cache, which a recorded step would fill once and for all.
        reduced = partial(torch.autocast, x[0].device.type, dtype, cache_enabled=False)

        def log_lik(z: Tensor) -> Tensor:
            with reduced():
                return self.log_lik(z, x)

        with reduced():
            q = self.encode(x)
        return self.objective.loss(q, observed, log_lik)

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

        Where the target is the only one observed this is its reconstruction.
        """
        q = self.encode(x, observed.any(1).tolist())
        n_shared = q.loc.shape[-1] - self.objective.private_dim
        likelihood, decoder = self._likelihood(target), self.decoders[target]
        z, weight = self.objective.imputing(q, observed)
        z = z.clone()
        z[..., n_shared:] = self.objective.private_mean(target)
        imputed = (weight.unsqueeze(-1) * likelihood.mean(decoder(z))).sum(0)
        itself = observed[target] & (observed.sum(0) == 1)
        if itself.any():
            own = likelihood.mean(decoder(self.objective.latents(q, observed)[target]))
            imputed = torch.where(itself.unsqueeze(-1), own, imputed)
        return repeat_lags(imputed, x[target].shape[-1], groups_of(decoder))

    def log_marginal(
        self,
        x: Sequence[Tensor],
        given: Tensor,
        target: int | None,
        prior: Distribution,
        n_draws: int,
    ) -> Tensor:
        """Importance-weighted estimate of log p(x_given), or of log p(x_target | x_given).

        Parameters
        ----------
        x
            Data of all modalities.
        given
            (modality, sample), booleans; at least one in every sample. Their posterior proposes
            the codes.
        target
            None scores the given modalities themselves, jointly. Otherwise the predictive
            likelihood of this modality, in which the posterior takes the place of the prior.
        prior
            Of the shared latents; log_prob takes (draw, sample, latent).
        n_draws
            Number of draws; the estimate is a lower bound in expectation that tightens with it.

        Returns
        -------
        Tensor
            (sample,), nats.

        Notes
        -----
        log (1/K) sum_i p(s_i) prod_m p(x_m | s_i, p_mi) p(p_mi) / q(s_i, p_i | x) with s shared and
        p private latents (Burda et al. 2016; Wu & Goodman 2018, section 4).
        """
        q = self.encode(x)
        n_shared = q.loc.shape[-1] - self.objective.private_dim
        components, weight = self.objective.posterior(q, given)
        shared, _ = split(components, n_shared)
        _, private = split(q, n_shared)
        pick = torch.multinomial(weight.T, n_draws, replacement=True).T  # (draw, sample)
        rows = torch.arange(pick.shape[1], device=pick.device)
        chosen = normal(shared.loc[pick, rows], shared.scale[pick, rows])
        s = chosen.sample()
        if target is not None:
            p = torch.randn(*s.shape[:2], private.loc.shape[-1], device=s.device)
            log_weight = self._log_lik_of(target, torch.cat([s, p], dim=-1), x)
        else:
            log_weight = prior.log_prob(s) - mixture_log_prob(shared, s, weight.log())
            for m in range(len(x)):
                own = normal(private.loc[m], private.scale[m])
                p = own.sample((n_draws,))
                term = self._log_lik_of(m, torch.cat([s, p], dim=-1), x)
                term = term + log_prob_standard(p) - log_density(own, p)
                log_weight = log_weight + torch.where(given[m], term, 0.0)
        return torch.logsumexp(log_weight, dim=0) - math.log(n_draws)

    def _log_lik_of(self, modality: int, z: Tensor, x: Sequence[Tensor]) -> Tensor:
        decoder = self.decoders[modality]
        output = decoder(z).to(z.dtype)
        return self._likelihood(modality).log_prob_of_lags(output, x[modality], groups_of(decoder))

    def _likelihood(self, modality: int) -> Likelihood:
        return cast(Likelihood, self.likelihoods[modality])


def groups_of(decoder: nn.Module) -> int:
    """Parts of the window for which a decoder has values of their own."""
    return int(getattr(decoder, "n_groups", 1))
