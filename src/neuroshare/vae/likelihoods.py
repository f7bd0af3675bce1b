"""Observation models p(x | z): from a decoder's raw output to log-probabilities and means.

Each is one class with a handful of members. `log_prob` sums over the features, the last dim.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuroshare.vae.networks import repeat_lags


class Likelihood(nn.Module, ABC):
    """Distribution of x (sample, feature) given the decoder output (..., sample, feature)."""

    counts: ClassVar[bool] = False
    """Whether the data must be non-negative integers."""
    fused: bool = True
    """Whether shortcuts may be chosen by a look at the data, which `torch.vmap` does not allow."""

    @abstractmethod
    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:
        """Log-probability of x, summed over features: (..., sample)."""

    def log_prob_of_lags(self, output: Tensor, x: Tensor, n_groups: int = 1) -> Tensor:
        """`log_prob` where `output` may be (..., sample, unit), one value for all lags of a unit.

        Or one for each of `n_groups` consecutive parts of the window, (part x unit). x is ordered
        (lag, unit).
        """
        return self.log_prob(repeat_lags(output, x.shape[-1], n_groups), x)

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """Expected x, of the shape of `output`."""

    @abstractmethod
    def sample(self, output: Tensor) -> Tensor:
        """One draw of x, of the shape of `output`."""

    def link(self, mean: Tensor) -> Tensor:
        """Decoder output whose mean is `mean`: where a decoder's bias starts."""
        return mean

    def slope(self, mean: Tensor) -> Tensor:
        """How the mean changes with the decoder's output, feature by feature, where it is `mean`.

        By default the derivative of `mean` at the link, for outputs that each have a mean.
        """
        with torch.enable_grad():
            output = self.link(mean).detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.mean(output).sum(), output)
        return slope

    def sized(self, n_features: int) -> Likelihood:
        """Copy for one modality with `n_features` features, with parameters of its own."""
        return copy.deepcopy(self)


class Gaussian(Likelihood):
    """Normal with a fixed scale. ``scale=sqrt(1/2)`` makes -log p the summed squared error."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:  # noqa: D102
        constant = x.shape[-1] * (math.log(self.scale) + 0.5 * math.log(2 * math.pi))
        return -(x - output).square().sum(-1) / (2 * self.scale**2) - constant

    def mean(self, output: Tensor) -> Tensor:  # noqa: D102
        return output

    def sample(self, output: Tensor) -> Tensor:  # noqa: D102
        return output + self.scale * torch.randn_like(output)


class Laplace(Likelihood):
    """Laplace with a fixed scale; 0.75 in the image experiments of the literature."""

    def __init__(self, scale: float = 0.75) -> None:
        super().__init__()
        self.scale = scale

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:  # noqa: D102
        constant = x.shape[-1] * math.log(2 * self.scale)
        return -(x - output).abs().sum(-1) / self.scale - constant

    def mean(self, output: Tensor) -> Tensor:  # noqa: D102
        return output

    def sample(self, output: Tensor) -> Tensor:  # noqa: D102
        return torch.distributions.Laplace(output, self.scale).sample()


class Bernoulli(Likelihood):
    """Binary data; the decoder gives logits."""

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:  # noqa: D102
        return (x * output - F.softplus(output)).sum(-1)

    def mean(self, output: Tensor) -> Tensor:  # noqa: D102
        return torch.sigmoid(output)

    def sample(self, output: Tensor) -> Tensor:  # noqa: D102
        return torch.bernoulli(torch.sigmoid(output))

    def link(self, mean: Tensor) -> Tensor:  # noqa: D102
        return torch.logit(mean, eps=1e-3)


_MAX_LOG_MEAN = 8.0
MOST_COUNTS = math.exp(_MAX_LOG_MEAN)
"""Counts above 2,981 per bin are out of reach, so that an outlying code cannot overflow exp."""


class Poisson(Likelihood):
    """Spike counts; the decoder gives log expected counts per bin."""

    counts = True

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:  # noqa: D102
        return self.log_prob_of_lags(output, x)

    def log_prob_of_lags(self, output: Tensor, x: Tensor, n_groups: int = 1) -> Tensor:
        """As in the base class; the summed counts suffice where lags share a rate."""
        output = output.clamp(max=_MAX_LOG_MEAN)
        n_lags = x.shape[-1] // output.shape[-1]
        total = x
        if n_lags > 1:
            total = x.unflatten(-1, (n_groups, n_lags, -1)).sum(-2).flatten(-2)
        log_factorials = _log_factorials(x) if self.fused else torch.lgamma(x + 1).sum(-1)
        return (total * output - n_lags * output.exp()).sum(-1) - log_factorials

    def mean(self, output: Tensor) -> Tensor:  # noqa: D102
        return output.clamp(max=_MAX_LOG_MEAN).exp()

    def sample(self, output: Tensor) -> Tensor:  # noqa: D102
        return torch.poisson(self.mean(output))

    def link(self, mean: Tensor) -> Tensor:  # noqa: D102
        return mean.clamp_min(1e-4).log()


def _log_factorials(x: Tensor) -> Tensor:
    """Sum of log x! over the last dim.

    Counts of bins are mostly 0 and 1, so adding log k wherever x >= k, for k up to the largest, is
    many times cheaper than log gamma on a CPU. On a GPU looking for the largest would stall it.
    """
    largest = int(x.amax()) if x.device.type == "cpu" and x.numel() else _FEW + 1
    if largest > _FEW:
        return torch.lgamma(x + 1).sum(-1)
    total = x.new_zeros(x.shape[:-1])
    reached = torch.empty_like(x)
    for k in range(2, largest + 1):
        total += math.log(k) * torch.ge(x, k, out=reached).sum(-1)
    return total


_FEW = 12


class NegativeBinomial(Likelihood):
    """Overdispersed spike counts, variance mean + mean^2 / r.

    The decoder gives log expected counts; r = exp(log_r) is learned for every feature.
    """

    counts = True

    def __init__(self, r: float = 10.0) -> None:
        super().__init__()
        self.r = r
        self.log_r = nn.Parameter(torch.tensor(math.log(r)))

    def sized(self, n_features: int) -> NegativeBinomial:  # noqa: D102
        own = NegativeBinomial(self.r)
        own.log_r = nn.Parameter(torch.full((n_features,), math.log(self.r)))
        return own

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:  # noqa: D102
        log_total = torch.logaddexp(self.log_r, output)  # log(r + mean)
        r = self.log_r.exp()
        combinations = torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1)
        return (combinations + r * (self.log_r - log_total) + x * (output - log_total)).sum(-1)

    def mean(self, output: Tensor) -> Tensor:  # noqa: D102
        return output.clamp(max=_MAX_LOG_MEAN).exp()

    def sample(self, output: Tensor) -> Tensor:  # noqa: D102
        r = self.log_r.exp().expand_as(output)
        rate = torch.distributions.Gamma(r, r / self.mean(output)).sample()
        return torch.poisson(rate)

    def link(self, mean: Tensor) -> Tensor:  # noqa: D102
        return mean.clamp_min(1e-4).log()


class Categorical(Likelihood):
    """One of `n_categories` at each of several positions, such as the characters of a text.

    The feature dim holds positions x categories flattened, one-hot in the data.
    """

    def __init__(self, n_categories: int) -> None:
        super().__init__()
        self.n_categories = n_categories

    def _logits(self, output: Tensor) -> Tensor:
        logits: Tensor = output.unflatten(-1, (-1, self.n_categories))
        return logits.log_softmax(-1)

    def link(self, mean: Tensor) -> Tensor:  # noqa: D102
        return mean.clamp_min(1e-4).log()

    def slope(self, mean: Tensor) -> Tensor:
        """As in the base class; all categories of a position share their outputs."""
        return mean * (1 - mean)

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:  # noqa: D102
        return (x * self._logits(output).flatten(-2)).sum(-1)

    def mean(self, output: Tensor) -> Tensor:  # noqa: D102
        return self._logits(output).exp().flatten(-2)

    def sample(self, output: Tensor) -> Tensor:  # noqa: D102
        drawn = torch.distributions.Categorical(logits=self._logits(output)).sample()
        return F.one_hot(drawn, self.n_categories).to(output.dtype).flatten(-2)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "gaussian": Gaussian,
    "laplace": Laplace,
    "bernoulli": Bernoulli,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "categorical": Categorical,
}
"""Names that `SharedLatentModel(likelihood=...)` and the command line accept."""


def make_likelihood(likelihood: str | Likelihood) -> Likelihood:
    """Likelihood by name, or the object itself."""
    if isinstance(likelihood, Likelihood):
        return likelihood
    if not isinstance(likelihood, str) or likelihood not in LIKELIHOODS:
        raise ValueError(
            f"The 'likelihood' parameter must be one of {sorted(LIKELIHOODS)} or a Likelihood. "
            f"Got {likelihood!r} instead."
        )
    return LIKELIHOODS[likelihood]()
