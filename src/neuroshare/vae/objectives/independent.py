"""M separate beta-VAEs."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Normal

from neuroshare.vae.experts import kl_standard
from neuroshare.vae.objectives.base import Elbo, LogLik, Objective


class Independent(Objective):
    """Every modality is a beta-VAE of its own: nothing is shared, the lower baseline.

    Notes
    -----
    z_m ~ q_m and R = sum_m KL(q_m || N(0, I)).
    """

    shares = False

    def sentence(self) -> str:  # noqa: D102
        return "Nothing is shared: every modality has a beta-VAE of its own."

    def loss(self, q: Normal, observed: Tensor, log_lik: LogLik) -> Elbo:  # noqa: D102
        z = q.rsample()
        return Elbo(log_lik(z.unsqueeze(1)).squeeze(1), (observed * kl_standard(q)).sum(0))

    def latents(self, q: Normal, observed: Tensor) -> Tensor:  # noqa: D102
        return q.loc
