"""The mixture over products of all subsets (MoPoE)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Normal

from neuroshare.support.checks import require_whole
from neuroshare.vae.experts import kl_standard, product, subsets
from neuroshare.vae.objectives.base import Elbo, LogLik, Objective, Reference


class MoPoE(Objective):
    """Mixture, over all 2^M - 1 subsets of modalities, of the product of their experts.

    Parameters
    ----------
    prior_expert
        Multiply every product by N(0, I).
    n_subsets
        How many subsets, drawn anew for every batch and without replacement, feed the decoders;
        None takes all (exact, 31 decodings for five subjects).

    Notes
    -----
    The mean over subsets of log p(X | z_S) and of KL(q_S || N(0, I)) (Sutter et al. 2021). Subsets
    with an absent modality are left out.
    """

    reference = Reference(
        "Sutter et al. 2021",
        "Sutter TM, Daunhawer I, Vogt JE (2021) Generalized multimodal ELBO. ICLR.",
    )

    def __init__(self, prior_expert: bool = False, n_subsets: int | None = None) -> None:
        super().__init__()
        if n_subsets is not None:
            require_whole(n_subsets, "n_subsets", "mopoe", 1, most=10**9)
        self.prior_expert = prior_expert
        self.n_subsets = n_subsets

    def sentence(self) -> str:  # noqa: D102
        subsets = "all" if self.n_subsets is None else f"{self.n_subsets} drawn"
        return (
            f"The posterior is the mixture, over {subsets} subsets of modalities, of the product "
            "of their experts."
        )

    def posterior(self, q: Normal, observed: Tensor) -> tuple[Normal, Tensor]:
        """Products (subset, sample, latent) and their weights (subset, sample)."""
        member = subsets(len(q.loc), q.loc.device)
        if self.training and self.n_subsets is not None and self.n_subsets < len(member):
            member = member[torch.randperm(len(member), device=member.device)[: self.n_subsets]]
        member = member.unsqueeze(-1)
        complete = (observed | ~member).all(1)
        # An incomplete subset has weight zero; its product, over what there is, is merely finite.
        joint = product(q, member & observed, self.prior_expert)
        weight = complete.to(q.loc.dtype)
        # Each complete subset is as likely to be drawn: dividing by how many are expected, not by
        # how many came, keeps the estimate unbiased for samples with absent modalities.
        drawn = len(member) / (2 ** len(q.loc) - 1)
        expected = drawn * (2.0 ** observed.sum(0).to(q.loc.dtype) - 1)
        return joint, weight / torch.where(expected > 0, expected, 1.0)

    def loss(self, q: Normal, observed: Tensor, log_lik: LogLik) -> Elbo:  # noqa: D102
        joint, weight = self.posterior(q, observed)
        z = joint.rsample()
        each = log_lik(z.expand(len(q.loc), *z.shape))
        return Elbo((weight * each).sum(1), (weight * kl_standard(joint)).sum(0))
