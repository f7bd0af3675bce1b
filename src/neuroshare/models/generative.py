"""The generative model: joint samples of all subjects, and likelihoods of held-out windows."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from neuroshare.models.trained import Trained
from neuroshare.support.checks import require_seed, require_whole
from neuroshare.vae.multimodal import groups_of
from neuroshare.vae.networks import repeat_lags
from neuroshare.vae.step import generators_of
from neuroshare.windows.paired import PairedWindows


class Generative:
    """From latents to activity: what a fitted model generates, decodes and finds likely."""

    def _fitted(self) -> Trained:
        raise NotImplementedError

    def inverse_transform(self, latents: xr.DataArray | ArrayLike) -> dict[str, xr.DataArray]:
        """Expected activity of every subject at points of latent space.

        Parameters
        ----------
        latents
            Points (..., latent), such as what `transform` returns, or one subject of it, or a mean
            over trials; a plain array will do.

        Returns
        -------
        dict of str to DataArray (..., unit, lag)
            Expected counts per bin by subject, with the coordinates of the points. Private latents
            are at their mean.

        Raises
        ------
        ValueError
            If the points have another number of latents than the model.
        NotFittedError
            Before `fit`.
        """
        return decode(self._fitted(), latents)

    def loadings(self) -> dict[str, xr.DataArray]:
        """Which latent moves which unit, and by how much.

        Returns
        -------
        dict of str to DataArray (unit, latent)
            By subject: what a unit is expected to do more of, summed over a window, when one latent
            goes from a standard deviation below its mean to one above, and the others stay there.
            Means and deviations are those of the codes of the training windows.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        prior = self._fitted().prior
        weight, loc, scale = (
            part.double().cpu().numpy() for part in (prior.weight, prior.loc, prior.scale)
        )
        weight = weight / weight.sum()
        mean = weight @ loc
        deviation = np.sqrt(np.maximum(weight @ (scale**2 + loc**2) - mean**2, 0.0))
        steps = np.diag(deviation)
        ends = {
            sign: self.inverse_transform(xr.DataArray(mean + sign * steps, dims=("step", "latent")))
            for sign in (-1, 1)
        }
        return {
            name: (ends[1][name] - ends[-1][name])
            .sum("lag")
            .rename(step="latent")
            .transpose("unit", "latent")
            .assign_coords(latent=np.arange(len(mean)))
            .rename("loadings")
            for name in ends[1]
        }

    def sample(self, n: int, *, seed: int = 0, mean: bool = False) -> dict[str, xr.DataArray]:
        """Generate windows of all subjects jointly, from one shared code each.

        Parameters
        ----------
        n
            Number of windows.
        seed
            Of the draw.
        mean
            Give expected counts instead of drawn ones.

        Returns
        -------
        dict of str to DataArray (window, unit, lag)

        Notes
        -----
        The code comes from N(0, I) for objectives with that prior. The prior of ``"mmvm"`` is the
        mixture of the posteriors of data, so codes are drawn from a Gaussian mixture fitted to the
        posteriors of the training windows; those of ``"autoencoder"`` likewise.
        """
        return sample(self._fitted(), n, seed=seed, mean=mean)

    def log_likelihood(
        self, paired: PairedWindows, *, n_draws: int = 64, seed: int = 0
    ) -> xr.Dataset:
        """Importance-weighted estimates of the log-likelihood of held-out windows, in nats.

        Parameters
        ----------
        paired
            Windows, held out.
        n_draws
            Draws per window. The estimates are lower bounds in expectation and rise with it.
        seed
            Of the draws.

        Returns
        -------
        Dataset
            ``joint`` (window): log p of all present subjects. ``marginal`` (subject, window):
            log p(x_m). ``conditional`` (source, target, window): log p(x_target | x_source), NaN
            on the diagonal. NaN where a subject is absent. Their means over windows make the
            synergy table of the MVAE and MMVAE papers.

        Notes
        -----
        Under the generative model of `sample`: one shared code, and private codes from N(0, I). For
        objectives that share nothing, the joint is the sum of the marginals and a conditional is
        the marginal of its target.
        """
        return log_likelihood(self._fitted(), paired, n_draws=n_draws, seed=seed)


def sample(trained: Trained, n: int, *, seed: int, mean: bool) -> dict[str, xr.DataArray]:
    """`SharedLatentModel.sample`."""
    require_whole(n, "n", "sample", 1, most=10**9)
    require_seed(seed, "sample")
    vae, fitted, device = trained.generator, trained.fitted, trained.device
    drawn = {}
    with torch.inference_mode(), generators_of(device, seed):
        s = trained.prior.distribution(device).sample((n,))
        for position, name in enumerate(fitted.subjects):
            p = torch.randn(n, vae.objective.private_dim, device=device)
            likelihood = trained.likelihood(name)
            n_features = len(fitted.units[name]) * fitted.width
            decoder = vae.decoders[position]
            output = decoder(torch.cat([s, p], dim=-1))
            output = repeat_lags(output, n_features, groups_of(decoder))
            values = likelihood.mean(output) if mean else likelihood.sample(output)
            drawn[name] = fitted.counts(values.cpu().numpy(), name)
    return drawn


def decode(trained: Trained, latents: xr.DataArray | ArrayLike) -> dict[str, xr.DataArray]:
    """`SharedLatentModel.inverse_transform`."""
    vae, fitted, device = trained.generator, trained.fitted, trained.device
    k = trained.architecture.latent_dim
    if isinstance(latents, xr.DataArray) and "latent" in latents.dims:
        points = latents.transpose(..., "latent")
    else:
        given = np.asarray(latents)
        if given.dtype.kind not in "iuf" or given.ndim == 0:
            raise ValueError(
                f"inverse_transform expected points (..., latent), got {given.dtype} of shape "
                f"{given.shape}. Give what transform returns, or an array of numbers."
            )
        dims = [*(f"point_{axis}" for axis in range(given.ndim - 2)), "point", "latent"]
        points = xr.DataArray(given, dims=dims[-given.ndim :])
    if points.sizes["latent"] != k:
        raise ValueError(
            f"inverse_transform expected points with {k} latents (as fitted), got "
            f"{points.sizes['latent']}. Give what transform returns of part 'shared'."
        )
    z = torch.as_tensor(points.to_numpy().reshape(-1, k), dtype=torch.float32, device=device)
    kept = {n: c for n, c in points.coords.items() if "latent" not in c.dims}
    shape = points.shape[:-1]
    found = {}
    with torch.inference_mode():
        for position, name in enumerate(fitted.subjects):
            private = z.new_zeros(len(z), vae.objective.private_dim) + vae.objective.private_mean(
                position
            )
            decoder, n_units = vae.decoders[position], len(fitted.units[name])
            mean = trained.likelihood(name).mean(decoder(torch.cat([z, private], dim=-1)))
            mean = repeat_lags(mean, n_units * fitted.width, groups_of(decoder))
            values = fitted.counts(mean.cpu().numpy(), name)
            found[name] = xr.DataArray(
                values.to_numpy().reshape(*shape, n_units, fitted.width),
                dims=(*points.dims[:-1], "unit", "lag"),
                coords={**kept, "unit": values["unit"], "lag": values["lag"]},
                name="expected_counts",
                attrs=values.attrs,
            )
    return found


def log_likelihood(
    trained: Trained, paired: PairedWindows, *, n_draws: int, seed: int
) -> xr.Dataset:
    """`SharedLatentModel.log_likelihood`."""
    names = trained.check(paired)
    require_whole(n_draws, "n_draws", "log_likelihood", 1)
    require_seed(seed, "log_likelihood")
    columns = list(names.values())
    vae, device = trained.generator, trained.device
    prior = trained.prior.distribution(device)
    n = len(trained.fitted.subjects)
    joint = np.full(len(paired), np.nan)
    marginal = np.full((n, len(paired)), np.nan)
    conditional = np.full((n, n, len(paired)), np.nan)
    shares = vae.objective.shares
    with torch.inference_mode(), generators_of(device, seed):
        for index, x, observed in trained.windows(paired).all_batches(max(1, 8192 // n_draws)):
            for source in columns:
                alone = torch.zeros_like(observed)
                alone[source] = True
                value = vae.log_marginal(x, alone, None, prior, n_draws)
                marginal[source, index] = _where(observed[source], value)
                for target in columns if shares else ():
                    if target != source:
                        value = vae.log_marginal(x, alone, target, prior, n_draws)
                        both = observed[source] & observed[target]
                        conditional[source, target, index] = _where(both, value)
            if shares:
                value = vae.log_marginal(x, observed, None, prior, n_draws)
                joint[index] = value.cpu().numpy()
    if not shares:
        joint = np.nansum(marginal, axis=0)
        off = ~np.eye(n, dtype=bool)
        both = ~np.isnan(marginal)[:, None] & ~np.isnan(marginal)[None]
        conditional = np.where(off[..., None] & both, marginal[None], np.nan)
    coords = paired.coords_of(None)
    given = conditional[np.ix_(columns, columns)]
    return xr.Dataset(
        {
            "joint": ("window", joint),
            "marginal": (("subject", "window"), marginal[columns]),
            "conditional": (("source", "target", "window"), given),
        },
        coords={**coords, "subject": list(names), "source": list(names), "target": list(names)},
        attrs={"unit": "nats per window", "n_draws": n_draws},
    )


def _where(observed: Tensor, value: Tensor) -> NDArray[np.float64]:
    return torch.where(observed, value, torch.nan).double().cpu().numpy()
