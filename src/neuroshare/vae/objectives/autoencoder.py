"""M separate autoencoders."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Normal

from neuroshare.vae.objectives.base import Elbo, LogLik, Objective


class Autoencoder(Objective):
    """No noise and no rate: its negative reconstruction error bounds the MMVM objective.

    Notes
    -----
    z_m = loc_m and R = 0 (Sutter et al. 2024, appendix A.1).
    """

    shares = False
    has_prior = False

    def sentence(self) -> str:  # noqa: D102
        return "There is no noise and no rate: every modality has an autoencoder of its own."

    def loss(self, q: Normal, observed: Tensor, log_lik: LogLik) -> Elbo:  # noqa: D102
        return Elbo(log_lik(q.loc.unsqueeze(1)).squeeze(1), q.loc.new_zeros(q.loc.shape[1]))

    def latents(self, q: Normal, observed: Tensor) -> Tensor:  # noqa: D102
        return q.loc
