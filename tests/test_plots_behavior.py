import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from neuroshare.analysis.consistency import consistency, latent_tuning
from neuroshare.analysis.decoding import decoding
from neuroshare.plots import plot_consistency, plot_decoding, plot_latents, plot_tuning

DIMS = ("subject", "window")


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def latents(first=0, n=300):
    rng = np.random.default_rng(first)
    position = rng.uniform(0, 2, (2, n))
    heading = 180 * position
    z = np.stack([position, np.cos(position), np.sin(3 * position)], axis=2)
    trial = np.broadcast_to(first + np.arange(n), (2, n))
    coords = {
        "subject": ["mitt", "stella"],
        "time": ("window", np.zeros(n)),
        "trial": (DIMS, trial),
        "position": (DIMS, position),
        "heading": (DIMS, heading),
        "way": (DIMS, np.where(position > 1, "out", "back")),
        "position_bin": (DIMS, position.round(1)),
    }
    about = {
        "position": {"unit": "m", "behavior": "position"},
        "heading": {"unit": "deg", "behavior": "heading", "period": 360.0},
    }
    attrs = {
        "by": "position_bin",
        "paired_by": json.dumps(["position"]),
        "behavior": json.dumps(about),
    }
    noisy = z + rng.normal(0, 0.05, z.shape)
    return xr.DataArray(noisy, dims=(*DIMS, "latent"), coords=coords, attrs=attrs)


def test_latents_have_the_colour_of_what_they_were_paired_by(ax):
    plot_latents(latents(), ax=ax)
    cloud = ax.collections[0]
    assert len(cloud.get_offsets()) == 600
    assert cloud.get_array().min() >= 0
    assert cloud.get_array().max() <= 2
    assert ax.figure.axes[-1].get_ylabel() == "position (m)"
    assert not np.array_equal(*ax.lines[-1].get_xydata()[[0, -1]])


def test_an_angle_has_a_ring_and_a_closed_path(ax):
    plot_latents(latents(), color="heading", ax=ax)
    (ring,) = ax.child_axes
    assert [text.get_text() for text in ring.texts] == ["0", "90", "180", "270"]
    np.testing.assert_array_equal(*ax.lines[-1].get_xydata()[[0, -1]])


@pytest.mark.parametrize(("color", "names"), [("way", ["back", "out"]), ("subject", None)])
def test_kinds_have_a_legend(ax, color, names):
    plot_latents(latents(), color=color, ax=ax)
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    assert told == (names or ["mitt", "stella"])
    assert len({tuple(c) for c in ax.collections[0].get_facecolors()}) == 2


def test_errors_along_the_track_are_those_of_the_scores(ax):
    scores = decoding(latents(), latents(300), of="position", n_bootstraps=0)
    plot_decoding(scores, ax=ax)
    own = ax.lines[0]
    np.testing.assert_array_equal(own.get_ydata(), scores.error_along[0, 0])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), scores.error_along[1, 0])
    assert ax.get_xlabel() == "position (m)"


def test_pairs_are_a_matrix_of_errors(ax):
    of = ["position", "heading"]
    scores = decoding(latents(), latents(300), of=of, n_permutations=0, n_bootstraps=0)
    plot_decoding(scores, ax=ax, variable="heading", kind="pairs")
    shown = ax.images[0].get_array()
    np.testing.assert_array_equal(shown, scores.median_error.sel(variable="heading"))
    with pytest.raises(ValueError, match="variable"):
        plot_decoding(scores, ax=ax, variable="speed")


def test_consistency_and_tuning_are_drawn(ax):
    scores = consistency(latents(), latents(300), n_permutations=3)
    plot_consistency(scores, ax=ax)
    np.testing.assert_array_equal(ax.images[0].get_array(), scores.r2)
    _, other = plt.subplots()
    tuning = latent_tuning(latents(), of="position", n_bins=5)
    plot_tuning(tuning, ax=other, latent=1)
    np.testing.assert_array_equal(other.lines[1].get_ydata(), tuning["mean"][1, :, 1])
    with pytest.raises(ValueError, match="latent"):
        plot_tuning(tuning, ax=other, latent=7)
    plt.close("all")
