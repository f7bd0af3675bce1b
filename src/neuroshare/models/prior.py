"""The prior of the shared latents, as one Gaussian mixture: where samples come from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from neuroshare.models.device_windows import ResidentWindows
from neuroshare.vae.multimodal import MultimodalVAE

_PREFIX = "prior."
_PARTS = ("weight", "loc", "scale")


@dataclass(frozen=True, eq=False)
class Prior:
    """Mixture of Gaussians with weights (component,), locs and scales (component, latent)."""

    weight: Tensor
    loc: Tensor
    scale: Tensor

    @classmethod
    def of(
        cls,
        vae: MultimodalVAE,
        n_shared: int,
        windows: ResidentWindows,
        seed: int,
        n_points: int = 4000,
    ) -> Prior:
        """Prior of a trained model: N(0, I) where its objective has that, else of its posteriors.

        Raises
        ------
        ValueError
            If the codes of the training windows are not finite.
        """
        if vae.objective.has_prior:
            zeros = torch.zeros(1, n_shared)
            return cls(torch.ones(1), zeros, torch.ones_like(zeros))
        generator = torch.Generator().manual_seed(seed)
        n_drawn = n_points // len(vae.encoders) + 1
        index = torch.randperm(len(windows), generator=generator)[:n_drawn]
        with torch.inference_mode():
            x, observed = windows.batch(index.to(windows.device))
            q = vae.encode(x)
            noise = torch.randn(q.loc.shape, generator=generator).to(q.loc.device)
            points = (q.loc + q.scale * noise)[observed][:, :n_shared].double().cpu().numpy()
        if not np.isfinite(points).all():
            raise ValueError(
                "expected finite codes of the trained networks, got infinite or undefined ones. "
                "Take a smaller learning rate (lr) or check the data for extreme values."
            )
        n_components = min(10, max(1, len(points) // 20))
        mixture = GaussianMixture(
            n_components, covariance_type="diag", reg_covar=1e-4, random_state=seed, max_iter=50
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near enough for a prior
            mixture.fit(points)
        return cls(
            torch.from_numpy(mixture.weights_).float(),
            torch.from_numpy(mixture.means_).float(),
            torch.from_numpy(np.sqrt(mixture.covariances_)).float(),
        )

    def distribution(self, device: torch.device) -> Distribution:
        """Give it as a distribution of (latent,); log_prob over the last dim."""
        weight, loc, scale = (getattr(self, part).to(device) for part in _PARTS)
        return MixtureSameFamily(
            Categorical(logits=weight.log(), validate_args=False),
            Independent(Normal(loc, scale, validate_args=False), 1),
            validate_args=False,
        )

    def tensors(self) -> dict[str, Tensor]:
        """By name, beside the weights of the networks."""
        return {_PREFIX + part: getattr(self, part) for part in _PARTS}

    @classmethod
    def taken_from(cls, weights: dict[str, Tensor], n_shared: int) -> Prior:
        """Undo `tensors`, and leave the weights of the networks.

        Raises
        ------
        ValueError
            If it is not one of that many latents, or no distribution.
        """
        prior = cls(*(weights.pop(_PREFIX + part) for part in _PARTS))
        shapes = [tuple(getattr(prior, part).shape) for part in _PARTS]
        n = shapes[0][:1]
        if (
            shapes != [n, (*n, n_shared), (*n, n_shared)]
            or not n
            or n[0] < 1
            or any(getattr(prior, part).dtype != torch.float32 for part in _PARTS)
        ):
            raise ValueError("the prior is not one of the shared latents")
        known = all(bool(getattr(prior, part).isfinite().all()) for part in _PARTS)
        weight, _, scale = (getattr(prior, part) for part in _PARTS)
        if not known or (weight < 0).any() or weight.sum() <= 0 or (scale <= 0).any():
            raise ValueError("the prior has weights or scales that are none")
        return prior
