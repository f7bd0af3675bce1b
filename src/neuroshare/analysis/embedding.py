"""Latents in two dimensions, for the eye."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import xarray as xr
from sklearn.decomposition import PCA

from neuroshare.analysis.inputs import require_array
from neuroshare.support.checks import MOST, require_one_of, require_seed, require_whole

Method = Literal["umap", "pca"]


def embed(
    latents: xr.DataArray,
    method: Method = "umap",
    fit_on: str | None = "train",
    n_dims: int = 2,
    seed: int = 0,
) -> xr.DataArray:
    """Project the latents of all subjects together into a few dimensions.

    Parameters
    ----------
    latents
        (subject, window, latent); NaN where a subject is absent.
    method
        ``"umap"`` (McInnes et al. 2018, arXiv:1802.03426) or ``"pca"``.
    fit_on
        Value of the window coordinate ``part`` whose windows the projection is fitted on; the
        others are only placed. None, or latents without that coordinate, fit on all windows.
    n_dims
        Dimensions to keep.
    seed
        Seed of the projection.

    Returns
    -------
    DataArray
        ``embedding`` (subject, window, axis) with the coordinates of `latents`.

    Raises
    ------
    ValueError
        If the method is unknown, no window of the part `fit_on` has latents, or a setting is none.
    TypeError
        If `latents` are no DataArray.
    ImportError
        If umap-learn is asked for and not installed: it comes with the extra ``embed``.

    Notes
    -----
    Distances in a UMAP are not distances between latents: look at it, score the latents.
    """
    require_one_of(method, "method", "embed", ("umap", "pca"))
    require_seed(seed, "embed")
    latents = require_array(latents, "latents", "embed")
    most = latents.sizes["latent"] if method == "pca" else MOST
    require_whole(n_dims, "n_dims", "embed", 1, most)
    values = np.asarray(latents.values, float)
    there = ~np.isnan(values).any(axis=2)
    fitted = there.copy()
    if fit_on is not None and "part" in latents.coords:
        fitted &= latents.coords["part"].values == fit_on
    if not fitted.any():
        raise ValueError(f"no windows to fit on: the 'part' of none with latents is {fit_on!r}.")
    least = n_dims + 2 if method == "umap" else n_dims
    if fitted.sum() < least:
        raise ValueError(
            f"embed needs {least} windows or more to fit {n_dims} dims on, got {fitted.sum()}. "
            "Take more windows or fewer dims."
        )
    placed = np.full((*there.shape, n_dims), np.nan)
    projection = _projection(method, n_dims, seed)
    with warnings.catch_warnings():
        # umap says that a seed costs parallelism, and warns of its own dependencies.
        warnings.simplefilter("ignore")
        placed[fitted] = projection.fit_transform(values[fitted])
        rest = there & ~fitted
        if rest.any():
            placed[rest] = projection.transform(values[rest])
    coords = {k: v for k, v in latents.coords.items() if "latent" not in v.dims}
    return xr.DataArray(
        placed,
        dims=("subject", "window", "axis"),
        coords={**coords, "axis": np.arange(n_dims)},
        name="embedding",
        attrs={**latents.attrs, "method": method},
    )


def _projection(method: Method, n_dims: int, seed: int) -> Any:
    if method == "pca":
        return PCA(n_dims)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from umap import UMAP
    except ImportError as error:
        raise ImportError(
            "embed(method='umap') needs umap-learn, which is not installed. "
            "Install it with: pip install 'neuroshare-latents[embed]', or take method='pca'."
        ) from error

    return UMAP(n_components=n_dims, random_state=seed)
