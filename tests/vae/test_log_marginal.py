"""Importance-weighted likelihoods against a model whose likelihood is known."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn
from torch.distributions import Independent, Normal

from neuroshare.vae.experts import normal
from neuroshare.vae.likelihoods import Gaussian
from neuroshare.vae.multimodal import MultimodalVAE
from neuroshare.vae.objectives import make_objective

N_LATENTS, N_FEATURES, N_SAMPLES, SIGMA = 2, 3, 6, 0.7


class _Exact(nn.Module):
    """The exact posterior of one linear Gaussian modality, widened to cover the joint one."""

    def __init__(self, loading: torch.Tensor) -> None:
        super().__init__()
        self.loading = loading

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        precision = torch.eye(N_LATENTS) + self.loading.T @ self.loading / SIGMA**2
        covariance = torch.linalg.inv(precision)
        loc = x @ self.loading @ covariance / SIGMA**2
        return loc, covariance.diagonal().sqrt().expand_as(loc) * 1.3


def _linear_gaussian(objective: str) -> tuple[MultimodalVAE, list[torch.Tensor], list[np.ndarray]]:
    generator = torch.Generator().manual_seed(3)
    loadings = [torch.randn(N_FEATURES, N_LATENTS, generator=generator) for _ in range(2)]
    decoders = []
    for loading in loadings:
        decoder = nn.Linear(N_LATENTS, N_FEATURES, bias=False)
        decoder.weight = nn.Parameter(loading)
        decoders.append(decoder)
    z = torch.randn(N_SAMPLES, N_LATENTS, generator=generator)
    x = [
        z @ loading.T + SIGMA * torch.randn(N_SAMPLES, N_FEATURES, generator=generator)
        for loading in loadings
    ]
    vae = MultimodalVAE(
        [_Exact(loading) for loading in loadings],
        decoders,
        [Gaussian(SIGMA), Gaussian(SIGMA)],
        make_objective(objective),
    ).eval()
    return vae, x, [loading.numpy() for loading in loadings]


def _closed_form(x: np.ndarray, loading: np.ndarray) -> np.ndarray:
    covariance = loading @ loading.T + SIGMA**2 * np.eye(len(loading))
    return multivariate_normal(np.zeros(len(loading)), covariance).logpdf(x)


def _standard() -> Independent:
    return Independent(Normal(torch.zeros(N_LATENTS), torch.ones(N_LATENTS)), 1)


@pytest.mark.parametrize("objective", ["poe", "avg", "moe", "mopoe", "mmvm"])
@pytest.mark.parametrize("given", [(0,), (1,), (0, 1)])
@torch.no_grad()
def test_estimate_equals_the_closed_form_of_a_linear_gaussian_model(objective, given):
    vae, x, loadings = _linear_gaussian(objective)
    mask = torch.zeros(2, N_SAMPLES, dtype=torch.bool)
    mask[list(given)] = True
    torch.manual_seed(0)
    estimates = torch.stack(
        [vae.log_marginal(x, mask, None, _standard(), 500) for _ in range(40)]
    ).double()
    expected = _closed_form(
        np.concatenate([x[m].numpy() for m in given], axis=1),
        np.concatenate([loadings[m] for m in given]),
    )
    # On the scale of likelihoods the estimate is unbiased: 4 standard errors of its mean.
    ratio = (estimates - torch.from_numpy(expected)).exp()
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert ((ratio.mean(0) - 1).abs() < 4 * error).all()


@torch.no_grad()
def test_more_draws_tighten_the_bound():
    vae, x, _ = _linear_gaussian("moe")
    mask = torch.ones(2, N_SAMPLES, dtype=torch.bool)
    torch.manual_seed(0)
    few, many = (
        torch.stack([vae.log_marginal(x, mask, None, _standard(), k) for _ in range(300)])
        for k in (1, 20)
    )
    difference = many.mean(1) - few.mean(1)
    assert difference.mean() > 4 * difference.std() / math.sqrt(len(difference))


@torch.no_grad()
def test_predictive_likelihood_averages_over_the_posterior_of_the_given():
    vae, x, loadings = _linear_gaussian("mmvm")
    mask = torch.zeros(2, N_SAMPLES, dtype=torch.bool)
    mask[0] = True
    torch.manual_seed(0)
    estimate = torch.stack(
        [vae.log_marginal(x, mask, 1, _standard(), 500) for _ in range(40)]
    ).double()
    q = normal(*vae.encoders[0](x[0]))
    expected = [
        multivariate_normal(
            loadings[1] @ q.loc[i].numpy(),
            loadings[1] @ np.diag(q.scale[i].numpy() ** 2) @ loadings[1].T
            + SIGMA**2 * np.eye(N_FEATURES),
        ).logpdf(x[1][i].numpy())
        for i in range(N_SAMPLES)
    ]
    ratio = (estimate - torch.tensor(expected)).exp()
    assert ((ratio.mean(0) - 1).abs() < 4 * ratio.std(0) / math.sqrt(len(ratio))).all()
