"""What every sharing rule is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.distributions import Normal

from neuroshare.vae.experts import weights

LogLik = Callable[[Tensor], Tensor]
"""Log-likelihood of each modality's data: z (modality, draw, sample, latent) -> (modality, draw,
sample). The only door through which an objective sees decoders, likelihoods and data."""


class Elbo(NamedTuple):
    """The two parts of a bound; the loss is mean(beta * rate - sum of observed log_lik)."""

    log_lik: Tensor
    """(modality, sample); entries of absent modalities are ignored."""
    rate: Tensor
    """(sample,)"""


class Reference(NamedTuple):
    """A paper, as a text cites it and as a list of references has it."""

    short: str
    full: str


class Objective(nn.Module, ABC):
    """How modalities share a latent: which z each decoder is fed, and what the code costs.

    ``q`` is one batched Normal (modality, sample, latent); ``observed`` is (modality, sample),
    booleans. An absent modality must contribute nothing. Constructor arguments are kept as
    attributes of the same name, so that a model can be saved by name and arguments.
    """

    private_dim: int = 0
    """How many latents, the last ones, belong to one modality alone."""
    shares: bool = True
    """Whether modalities have anything in common at all."""
    has_prior: bool = True
    """Whether N(0, I) is the prior from which joint samples are drawn."""
    stackable: bool = True
    """Whether `torch.vmap` understands `loss`, so that many models can be computed as one."""
    reference: Reference | None = None
    """The paper of the rule, for a methods section."""

    def sentence(self) -> str:
        """Say the rule, with what the arguments add to its paper, for a methods section."""
        return ""

    def build(self, n_modalities: int, n_latents: int) -> None:
        """Make what depends on the number of modalities and latents. Called once."""

    def start_epoch(self, epoch: int) -> None:
        """Move what follows a schedule. Called by the trainer.

        What moves is a buffer that is filled in place, for a recorded step reads no Python number.
        """

    def placed(self, q: Normal) -> Normal:
        """Posteriors of what encoders give, where they are to lie; by default as they are."""
        return q

    @abstractmethod
    def loss(self, q: Normal, observed: Tensor, log_lik: LogLik) -> Elbo:
        """Give one stochastic estimate of the bound, to be differentiated."""

    def latents(self, q: Normal, observed: Tensor) -> Tensor:
        """Posterior mean of what each decoder is fed, (modality, sample, latent).

        Also called with a single modality, for what each says on its own.

        By default the mean of `posterior`, the same for every decoder.
        """
        components, weight = self.posterior(q, observed)
        return (weight.unsqueeze(-1) * components.loc).sum(0).expand_as(q.loc)

    def posterior(self, q: Normal, observed: Tensor) -> tuple[Normal, Tensor]:
        """Posterior of the shared latents given what is observed: a mixture of Gaussians.

        Returns
        -------
        components
            (component, sample, latent); private latents, the last, are each expert's own.
        weight
            (component, sample), summing to one over components.

        Notes
        -----
        By default the mixture of the observed experts. Likelihood estimates draw from it.
        """
        return q, weights(observed, q.loc.dtype)

    def imputing(self, q: Normal, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Codes that are decoded to impute an absent modality, and their weights.

        Returns
        -------
        z
            (draw, sample, latent); what it decodes to is averaged over draws.
        weight
            (draw, sample), summing to one over draws.

        Notes
        -----
        By default the means of the components of `posterior`.
        """
        components, weight = self.posterior(q, observed)
        return components.loc, weight

    def private_mean(self, target: int) -> Tensor | float:
        """Where the private latents of a modality lie when it is imputed, (private latent,)."""
        return 0.0
