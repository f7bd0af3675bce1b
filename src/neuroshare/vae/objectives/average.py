"""One code from averaged encoder outputs."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Normal

from neuroshare.vae.experts import average, kl_standard
from neuroshare.vae.objectives.base import Elbo, LogLik, Objective


class Average(Objective):
    """One joint posterior, the average of all encoders' outputs, feeds every decoder.

    Notes
    -----
    z ~ N(mean loc, mean scale) and R = KL(joint || N(0, I)) (Hosoya 2018; the "aggregated VAE").
    """

    def loss(self, q: Normal, observed: Tensor, log_lik: LogLik) -> Elbo:  # noqa: D102
        joint = average(q, observed)
        z = joint.rsample().expand(len(q.loc), 1, -1, -1)
        return Elbo(log_lik(z).squeeze(1), observed.any(0) * kl_standard(joint))

    def latents(self, q: Normal, observed: Tensor) -> Tensor:  # noqa: D102
        return average(q, observed).loc.expand_as(q.loc)

    def conditional(  # noqa: D102
        self, q: Normal, observed: Tensor, target: int
    ) -> tuple[Tensor, Tensor]:
        z = average(q, observed).loc.unsqueeze(0)
        return z, z.new_ones(z.shape[:2])
