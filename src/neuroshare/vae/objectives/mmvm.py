"""Every modality keeps its code; the mixture of all codes is the prior (MMVM)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Normal

from neuroshare.support.checks import (
    is_number,
    require,
    require_number,
    require_one_of,
    require_whole,
)
from neuroshare.vae.experts import (
    info_nce,
    kl_standard,
    log_density,
    log_prob_standard,
    mean_pairwise_kl,
    mixture_log_prob,
    normal,
    on_sphere,
    partners,
    sampled_mixture_log_prob,
    split,
    weights,
)
from neuroshare.vae.objectives.base import Elbo, LogLik, Objective, Reference
from neuroshare.vae.schedule import Schedule, value_at

FOLLOWED = 0.3
"""Scale of posteriors of which decoders follow the codes, that of an aligned start."""


class MMVM(Objective):
    """Multimodal variational mixture prior: each posterior is drawn to the mixture of all.

    Parameters
    ----------
    bound
        ``"pairwise"``: the closed-form upper bound (1/M) sum_m sum_k KL(q_m || q_k), which keeps
        pulling beyond log M; the released code uses it. ``"mixture"``: a one-draw estimate of
        sum_m KL(q_m || h), the formula as printed.
    n_partners
        With the mixture bound: how many other modalities, drawn at every step, make up the mixture
        of each beside itself, so that time is linear in the number of modalities. None takes all.
    prior_weight
        Share alpha of N(0, I) in the prior; a number or a `Schedule`. 0 is MMVM, 1 is
        `Independent`.
    private_dim
        Private latents of each modality (our extension; 0 is the paper): z_m = (s_m, p_m), the
        mixture prior acts on s_m and N(0, I) on p_m. Imputation takes s from the sources and p at
        its prior mean.
    private_beta
        Weight of the private rate relative to the shared one.
    cross
        Share of each likelihood that is asked of another modality's shared code (our extension; 0
        is the paper): log p(x_m | z_m) becomes (1 - cross) log p(x_m | z_m) + cross
        log p(x_m | s_k, p_m = 0) with another observed modality k, drawn for every batch. It is
        what imputation does, and keeps in the shared code whatever one can tell of another.
    combine
        What imputation decodes. ``"mixture"`` (the paper): every observed code, and averages what
        they decode to. ``"mean"`` (our extension): their mean code times `gain`, which codes of
        modalities that agree little have smaller, and the mean of many modalities larger. (The
        recipe of ``"mmvm"`` imputes by `SharedLatentModel.imputation_` where trials suffice.)
    contrast
        Weight of a contrastive term between paired codes, beside the rate (our extension; 0 is the
        paper), see `info_nce`; shared codes then lie `on_sphere`. It finds what paired samples have
        in common also where no mean shows it, such as an exclusive-or of two groups of units, or a
        place that has other responses in every map.
    temperature
        Of that term.
    follow
        Encoders learn by the contrast alone: likelihoods and the rate see their codes as they are,
        and decoders follow. What is private then does not come into the codes, and all scales of
        posteriors are `FOLLOWED`: nothing would teach them.

    Notes
    -----
    Sutter et al. 2024, eq. 3-4: z_m ~ q_m and R = sum_m KL(q_m || h) with h = (1/M) sum_k q_k, M
    times the Jensen-Shannon divergence of the posteriors.
    """

    reference = Reference(
        "Sutter et al. 2024",
        "Sutter TM, Meng Y, Agostini A, et al. (2024) Unity by diversity: improved "
        "representation learning in multimodal VAEs. NeurIPS 37.",
    )

    has_prior = False

    def __init__(
        self,
        bound: Literal["pairwise", "mixture"] = "pairwise",
        prior_weight: float | Schedule = 0.0,
        private_dim: int = 0,
        private_beta: float = 1.0,
        cross: float = 0.0,
        combine: Literal["mixture", "mean"] = "mixture",
        n_partners: int | None = None,
        contrast: float = 0.0,
        temperature: float = 0.6,
        follow: bool = False,
    ) -> None:
        super().__init__()
        who = "mmvm"
        require_one_of(bound, "bound", who, ("pairwise", "mixture"))
        ends = (
            (prior_weight.start, prior_weight.stop)
            if isinstance(prior_weight, Schedule)
            else (prior_weight,)
        )
        require(
            all(is_number(end) and 0 <= end <= 1 for end in ends),
            "prior_weight", who, "a number in [0, 1] or a Schedule of such", prior_weight,
        )  # fmt: skip
        require_whole(private_dim, "private_dim", who)
        require_number(private_beta, "private_beta", who, 0)
        require(is_number(cross) and 0 <= cross <= 1, "cross", who, "a number in [0, 1]", cross)
        require_one_of(combine, "combine", who, ("mixture", "mean"))
        if n_partners is not None:
            require_whole(n_partners, "n_partners", who, 1)
            needs = "None, for it needs bound='mixture'"
            require(bound == "mixture", "n_partners", who, needs, n_partners)
        self.bound = bound
        self.prior_weight = prior_weight
        self.private_dim = int(private_dim)
        self.private_beta = private_beta
        require_number(contrast, "contrast", who, 0)
        require_number(temperature, "temperature", who, 0, open_=True)
        needs = "False where there is no contrast"
        require(not follow or contrast > 0, "follow", who, needs, follow)
        self.contrast = contrast
        self.follow = follow
        self.temperature = temperature
        self.cross = cross
        self.combine = combine
        self.n_partners = n_partners
        self.register_buffer("alpha", torch.tensor(value_at(prior_weight, 0)), persistent=False)

    decodes = True
    """Whether `loss` asks likelihoods. Where encoders learn by the contrast alone, it need not."""

    alpha: Tensor
    gain_target: Tensor
    gain_single: Tensor
    gain_crossed: Tensor

    def sentence(self) -> str:  # noqa: D102
        bound = "a pairwise bound" if self.bound == "pairwise" else "one draw"
        told = [f"Each posterior is drawn to the mixture of all, by {bound} of the divergence."]
        added = []
        if self.cross:
            added.append(
                f"a share of {self.cross:g} of each likelihood is asked of another modality's code"
            )
        if self.contrast:
            added.append(
                f"a contrastive term of weight {self.contrast:g} (van den Oord et al. 2018) tells "
                "a paired code from the others of the batch, on a sphere"
            )
        if self.follow:
            added.append("encoders learn by it alone, and decoders follow")
        if self.private_dim:
            added.append(f"each modality has {self.private_dim} private latents")
        if self.prior_weight != 0:
            added.append("N(0, I) is a component of the prior")
        if added:
            told.append(f"Added to the rule of the paper: {'; '.join(added)}.")
        return " ".join(told)

    def build(self, n_modalities: int, n_latents: int) -> None:  # noqa: D102
        if self.combine == "mean":
            n_shared = n_latents - self.private_dim
            self.set_gain(torch.ones(n_shared), torch.eye(n_shared), torch.eye(n_shared))

    def set_gain(self, target: Tensor, single: Tensor, crossed: Tensor) -> None:
        """Take what `gain` is computed of: (shared,), (shared, shared) and (shared, shared)."""
        self.register_buffer("gain_target", target)
        self.register_buffer("gain_single", single)
        self.register_buffer("gain_crossed", crossed)

    def gain(self, n: Tensor) -> Tensor:
        """Gain of the mean code of n modalities, (sample, shared latent).

        The least squares of a target on the mean of n codes: what one code and the target have in
        common (`gain_target`) over how the mean varies, of which 1/n is what one code varies
        (`gain_single`) and the rest what two have in common (`gain_crossed`). Ones until measured.
        """
        n = n.clamp_min(1).to(self.gain_single.dtype)
        largest = torch.arange(1, int(n.max()) + 1, device=n.device, dtype=n.dtype)[:, None, None]
        varies = (self.gain_single + (largest - 1) * self.gain_crossed) / largest
        solved = torch.linalg.solve(varies, self.gain_target.expand(len(varies), -1))
        gains: Tensor = solved.clamp_min(0.0)
        return gains[n.long() - 1]

    def start_epoch(self, epoch: int) -> None:  # noqa: D102
        self.alpha.fill_(value_at(self.prior_weight, epoch))

    def loss(self, q: Normal, observed: Tensor, log_lik: LogLik) -> Elbo:  # noqa: D102
        n_shared = q.loc.shape[-1] - self.private_dim
        contrast: Tensor | float = 0.0
        if self.contrast:
            codes = q.loc[..., :n_shared]
            contrast = self.contrast * info_nce(codes, observed, self.temperature)
            if not self.decodes:
                return Elbo(torch.zeros_like(q.loc[..., 0]), contrast)
        if self.follow:
            q = normal(q.loc.detach(), q.scale.detach())
        z = q.rsample()
        shared, private = split(q, n_shared)
        if self.bound == "pairwise":
            rate = (1 - self.alpha) * mean_pairwise_kl(shared, observed)
            if self.prior_weight != 0:
                rate = rate + self.alpha * kl_standard(shared)
        else:
            s = z[..., :n_shared]
            if self.n_partners is None or self.n_partners >= len(s) - 1:
                log_prior = mixture_log_prob(shared, s, weights(observed, s.dtype).log())
            else:
                log_prior = sampled_mixture_log_prob(shared, s, observed, self.n_partners)
            if self.prior_weight != 0:
                log_prior = torch.logaddexp(
                    (1 - self.alpha).log() + log_prior, self.alpha.log() + log_prob_standard(s)
                )
            rate = log_density(shared, s) - log_prior
        if self.private_dim:
            rate = rate + self.private_beta * kl_standard(private)
        rate = torch.where(observed, rate, 0.0).sum(0)
        return Elbo(self._fit(z, observed, log_lik), rate + contrast)

    def placed(self, q: Normal) -> Normal:  # noqa: D102
        if not self.contrast:
            return q
        shared, private = q.loc.split([q.loc.shape[-1] - self.private_dim, self.private_dim], -1)
        loc = torch.cat([on_sphere(shared), private], dim=-1)
        return normal(loc, torch.full_like(q.scale, FOLLOWED) if self.follow else q.scale)

    def _fit(self, z: Tensor, observed: Tensor, log_lik: LogLik) -> Tensor:
        """Log-likelihood of every modality from its own code and, in part, from another's."""
        n_modalities = len(z)
        if self.cross == 0 or n_modalities == 1:
            return log_lik(z.unsqueeze(1)).squeeze(1)
        s, p = z.split([z.shape[-1] - self.private_dim, self.private_dim], dim=-1)
        partner, found = partners(observed)
        other = s.gather(0, partner.unsqueeze(-1).expand_as(s))
        other = torch.cat([other, torch.zeros_like(p)], dim=-1)
        own, crossed = log_lik(torch.stack([z, other], dim=1)).unbind(1)
        mixed = (1 - self.cross) * own + self.cross * crossed
        return torch.where(found, mixed, own)

    def latents(self, q: Normal, observed: Tensor) -> Tensor:
        """Every modality's own code where observed, else the mixture's mean, private part at 0."""
        n_shared = q.loc.shape[-1] - self.private_dim
        weight = weights(observed, q.loc.dtype).unsqueeze(-1)
        others = (weight * q.loc).sum(0)
        others = torch.cat([others[..., :n_shared], torch.zeros_like(others[..., n_shared:])], -1)
        return torch.where(observed.unsqueeze(-1), q.loc, others)

    def imputing(self, q: Normal, observed: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        if self.combine == "mixture":
            return super().imputing(q, observed)
        mean = (weights(observed, q.loc.dtype).unsqueeze(-1) * q.loc).sum(0)
        n_shared = mean.shape[-1] - self.private_dim
        shared = mean[..., :n_shared] * self.gain(observed.sum(0))
        z = torch.cat([shared, mean[..., n_shared:]], dim=-1)
        return z.unsqueeze(0), torch.ones_like(z[None, ..., 0])
