"""Gaussian experts: products, averages, mixtures and the divergences between them.

All functions take one batched ``Normal`` with loc and scale (modality, sample, latent) and a mask
``observed`` (modality, sample); absent modalities have exactly no influence on any result.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.utils.checkpoint import checkpoint


def normal(loc: Tensor, scale: Tensor) -> Normal:
    """Make a Normal without the argument checks, which would synchronise a GPU."""
    return Normal(loc, scale, validate_args=False)


def split(q: Normal, n_shared: int) -> tuple[Normal, Normal]:
    """Split the latent dim into the first `n_shared` latents and the rest."""
    return (
        normal(q.loc[..., :n_shared], q.scale[..., :n_shared]),
        normal(q.loc[..., n_shared:], q.scale[..., n_shared:]),
    )


def weights(observed: Tensor, dtype: torch.dtype) -> Tensor:
    """Equal weights over the observed modalities, (modality, sample); 0 for absent ones."""
    weight = observed.to(dtype)
    return weight / weight.sum(0).clamp_min(1)


def partners(observed: Tensor) -> tuple[Tensor, Tensor]:
    """Draw another observed modality for every modality and sample.

    The observed modalities of a sample follow each other around a circle whose order is drawn
    anew at every call, and each has the next one as partner. Nothing leaves the device;
    time and memory are linear in the number of modalities.

    Returns
    -------
    partner
        (modality, sample), indices of modalities.
    found
        (modality, sample), False where no other modality is observed.
    """
    n_modalities = len(observed)
    order = torch.rand(n_modalities, device=observed.device).argsort()
    place = torch.arange(n_modalities, device=observed.device).unsqueeze(1)
    # The places of the circle, gone round twice: at each, where the next observed one is.
    there = observed[order]
    beyond = 2 * n_modalities
    twice = torch.where(torch.cat([there, there]), torch.cat([place, place + n_modalities]), beyond)
    following = twice.flip(0).cummin(0).values.flip(0)[1 : n_modalities + 1]
    partner = torch.empty_like(following)
    partner[order] = order[following % n_modalities]
    empty = ~observed.any(0)
    return torch.where(empty, place, partner), (partner != place) & ~empty


def on_sphere(loc: Tensor) -> Tensor:
    """Codes (..., latent) within a ball, where they stand for the points of half a sphere.

    ``s = sqrt(2 L) z / sqrt(|z|^2 + L)`` with L latents leaves codes of unit variance about as long
    as they are, and those of silence near zero; long codes, whose lengths differ between modalities
    without saying much, come to the rim.
    """
    n = loc.shape[-1]
    # Squares of very long codes would overflow.
    size = loc.detach().abs().amax(-1, keepdim=True).clamp_min(1.0)
    short = loc / size
    return short * (2 * n / (short.square().sum(-1, keepdim=True) + n / size.square())).sqrt()


def info_nce(codes: Tensor, observed: Tensor, temperature: float) -> Tensor:
    """Contrast paired codes with unpaired ones, summed over modalities: (sample,), nats.

    The code of a modality is to tell that of its partner in the same sample from those which the
    partner has in all other samples of the batch. Every modality has another one as partner, drawn
    anew at every call.

    Parameters
    ----------
    codes
        Of `on_sphere`, (modality, sample, latent).
    observed
        (modality, sample); absent modalities take no part.
    temperature
        Divides the cosines of points on the sphere.

    Notes
    -----
    ``-log exp(p_i . q_i / T) / sum_j exp(p_i . q_j / T)`` (van den Oord et al. 2018, eq. 4, on a
    sphere as Chen et al. 2020, eq. 1), where the code s stands for the point
    ``p = [s, sqrt(2 L - |s|^2)] / sqrt(2 L)``. Samples j that share the condition of i by chance
    are among the others; with redrawn partners the term is least where codes tell conditions and no
    more.
    """
    flat = codes / math.sqrt(2 * codes.shape[-1])
    height = (1 - flat.square().sum(-1, keepdim=True)).clamp_min(1e-6).sqrt()
    points = torch.cat([flat, height], dim=-1)
    partner, found = partners(observed)
    # The partner may differ from sample to sample, where modalities are absent.
    other = points.gather(0, partner.unsqueeze(-1).expand_as(points))
    cosine = points @ other.transpose(1, 2) / temperature
    there = observed.gather(0, partner)
    cosine = cosine.masked_fill(~there.unsqueeze(1), -1e9)
    term = torch.logsumexp(cosine, -1) - cosine.diagonal(dim1=1, dim2=2)
    return torch.where(found & observed, term, 0.0).sum(0)


def kl_standard(q: Normal) -> Tensor:
    """KL(q || N(0, I)), summed over the latent dim."""
    return (0.5 * (q.loc.square() + q.scale.square() - 1) - q.scale.log()).sum(-1)


def log_density(q: Normal, z: Tensor) -> Tensor:
    """Log density of z under q, summed over the latent dim."""
    density: Tensor = q.log_prob(z)
    return density.sum(-1)


def log_prob_standard(z: Tensor) -> Tensor:
    """Log density of N(0, I), summed over the latent dim."""
    return log_density(normal(torch.zeros_like(z), torch.ones_like(z)), z)


def product(q: Normal, member: Tensor, prior: bool) -> Normal:
    """Product of the member experts, with or without N(0, I) as one more expert.

    Parameters
    ----------
    q
        Experts, (modality, sample, latent).
    member
        Which experts take part, (..., modality, sample); at least one, or the prior.
    prior
        Multiply by the prior expert N(0, I) (Wu & Goodman 2018, eq. 4).

    Returns
    -------
    Normal
        (..., sample, latent).
    """
    # N(0, I) is one more expert; it also stands in where there is none.
    more = ~member.any(-2, keepdim=True) | prior
    member = torch.cat([member.expand(*more.shape[:-2], *member.shape[-2:]), more], dim=-2)
    loc = torch.cat([q.loc, torch.zeros_like(q.loc[:1])])
    # By logarithms, for the precision of a very sure or unsure expert is no number otherwise.
    log_precision = torch.cat([-2 * q.scale.log(), torch.zeros_like(q.scale[:1])])
    each = log_precision.masked_fill(~member.unsqueeze(-1), -torch.inf)
    return normal((each.softmax(-3) * loc).sum(-3), (-each.logsumexp(-3) / 2).exp())


def average(q: Normal, observed: Tensor) -> Normal:
    """N(mean loc, mean scale) over the observed experts, (sample, latent) (Hosoya 2018)."""
    weight = weights(observed, q.loc.dtype).unsqueeze(-1)
    empty = (~observed.any(0)).unsqueeze(-1)
    return normal((weight * q.loc).sum(0), (weight * q.scale).sum(0) + empty)


def subsets(n_modalities: int, device: torch.device | None = None) -> Tensor:
    """All non-empty subsets of the modalities, (subset, modality), booleans."""
    if n_modalities > 12:
        raise ValueError(
            f"{n_modalities} modalities have {2**n_modalities - 1} subsets, too many to enumerate. "
            "Use at most 12 with 'mopoe', or 'mmvm', whose cost is linear in the subjects."
        )
    codes = torch.arange(1, 2**n_modalities, device=device)
    bits = torch.arange(n_modalities, device=device)
    return (codes[:, None] >> bits) % 2 == 1


def mixture_log_prob(q: Normal, z: Tensor, log_weight: Tensor) -> Tensor:
    """Log density of the mixture of experts, summed over the latent dim.

    Parameters
    ----------
    q
        Experts, (modality, sample, latent).
    z
        Points, (draw, sample, latent).
    log_weight
        (modality, sample); -inf leaves an expert out. (Categorical clamps zero probabilities and
        would let absent experts in.)

    Returns
    -------
    Tensor
        (draw, sample).
    """
    if len(z) * q.loc.numel() <= _LARGE:
        return _mixture(q.loc, q.scale, z, log_weight)
    # Every point meets every expert. A part of the points at a time, computed once more in the
    # backward pass, keeps memory linear in the number of modalities.
    rows = max(1, _LARGE // q.loc.numel())
    return torch.cat(
        [
            checkpoint(_mixture, q.loc, q.scale, part, log_weight, use_reentrant=False)
            for part in z.split(rows)
        ]
    )


def _mixture(loc: Tensor, scale: Tensor, z: Tensor, log_weight: Tensor) -> Tensor:
    each = expert_log_prob(normal(loc, scale), z)
    return torch.logsumexp(each + log_weight.unsqueeze(1), dim=0)


_LARGE = 1 << 24
"""Elements of the largest tensor (modality, draw, sample, latent) that is made at once."""


def sampled_mixture_log_prob(q: Normal, z: Tensor, observed: Tensor, n_others: int) -> Tensor:
    """Log density of each modality's point under itself and `n_others` others, drawn anew.

    Parameters
    ----------
    q
        Experts, (modality, sample, latent).
    z
        One point of each, (modality, sample, latent).
    observed
        (modality, sample); absent experts are left out, and those drawn weigh equally.
    n_others
        How many other experts each meets, fewer than there are modalities.

    Returns
    -------
    Tensor
        (modality, sample).
    """
    order = torch.rand(len(z), device=z.device).argsort()
    circle = normal(q.loc[order], q.scale[order])
    z, there = z[order], observed[order]
    each, members = [], []
    for shift in range(n_others + 1):
        other = normal(circle.loc.roll(-shift, 0), circle.scale.roll(-shift, 0))
        present = there.roll(-shift, 0) | (shift == 0)
        each.append(log_density(other, z).masked_fill(~present, -torch.inf))
        members.append(present)
    n_members = torch.stack(members).sum(0)
    density = torch.logsumexp(torch.stack(each), dim=0) - n_members.log()
    placed = torch.empty_like(density)
    placed[order] = density
    return placed


def expert_log_prob(q: Normal, z: Tensor) -> Tensor:
    """Log density of every point under every expert, (modality, draw, sample)."""
    experts = normal(q.loc.unsqueeze(1), q.scale.unsqueeze(1))
    return log_density(experts, z.unsqueeze(0))


def mean_pairwise_kl(q: Normal, observed: Tensor) -> Tensor:
    """Mean over the observed k of KL(q_m || q_k), for every m: (modality, sample).

    In closed form through moments of the experts, so that time and memory grow linearly with the
    number of modalities. Locations are centred first: KL is invariant to the shift, and small
    differences between distant experts survive in float32.
    """
    weight = weights(observed, q.loc.dtype).unsqueeze(-1)
    loc = q.loc - (weight * q.loc).sum(0)
    precision = q.scale.square().reciprocal()
    log_scale = q.scale.log()
    weighted = weight * precision
    mean_precision = weighted.sum(0)
    first = (weighted * loc).sum(0)
    second = (weighted * loc.square()).sum(0)
    mean_log_scale = (weight * log_scale).sum(0)
    square = (q.scale.square() + loc.square()) * mean_precision - 2 * loc * first + second
    return (mean_log_scale - log_scale + 0.5 * (square - 1)).sum(-1)
