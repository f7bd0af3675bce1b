import sys

import numpy as np
import pytest
import xarray as xr

from neuroshare.analysis.embedding import embed


@pytest.fixture
def latents():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 60, 5))
    values[1, :4] = np.nan
    return xr.DataArray(
        values,
        dims=("subject", "window", "latent"),
        coords={
            "subject": ["a", "b"],
            "odor": ("window", np.tile(["A", "B"], 30)),
            "part": ("window", ["train"] * 40 + ["test"] * 20),
        },
    )


@pytest.mark.parametrize("method", ["pca", pytest.param("umap", marks=pytest.mark.slow)])
def test_every_present_window_is_placed(latents, method):
    placed = embed(latents, method)
    assert placed.dims == ("subject", "window", "axis")
    np.testing.assert_array_equal(np.isnan(placed[..., 0]), np.isnan(latents[..., 0]))
    assert placed.odor.equals(latents.odor)


def test_held_out_windows_do_not_move_the_others(latents):
    one = embed(latents, "pca")
    moved = latents.copy()
    moved[:, 40:] += 9
    two = embed(moved, "pca")
    np.testing.assert_allclose(one[:, :40], two[:, :40])


def test_unknown_methods_and_parts_are_refused(latents):
    with pytest.raises(ValueError, match="'method' parameter of embed"):
        embed(latents, "tsne")
    with pytest.raises(ValueError, match="no windows to fit on"):
        embed(latents, "pca", fit_on="validation")


def test_umap_that_is_not_installed_names_its_extra(latents, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"neuroshare-latents\[embed\].*method='pca'"):
        embed(latents, method="umap")
