import numpy as np
import pytest
import xarray as xr

from neuroshare.analysis.consistency import consistency, latent_tuning

DIMS = ("subject", "window")


def latents(first, n=1200, n_subjects=3, noise=0.3, seed=0, n_latents=3, shared=True):
    rng = np.random.default_rng([seed, first])
    place = rng.uniform(0, 1, (n_subjects, n))
    angle = np.outer(np.arange(1, n_latents + 1), place.ravel()).reshape(n_latents, n_subjects, n)
    z = np.sin(2 * np.pi * angle).transpose(1, 2, 0)
    turns = np.random.default_rng(seed).normal(size=(n_subjects, n_latents, n_latents))
    z = np.stack([one @ turn for one, turn in zip(z, turns, strict=True)])
    if not shared:
        z[0] = np.random.default_rng([seed, first, 1]).normal(size=z[0].shape)
    z = z + rng.normal(0, noise, z.shape)
    trial = np.broadcast_to(first + np.arange(n), (n_subjects, n))
    coords = {"subject": list("abc")[:n_subjects], "place": (DIMS, place), "trial": (DIMS, trial)}
    return xr.DataArray(z, dims=(*DIMS, "latent"), coords=coords)


def test_latents_that_are_a_linear_map_apart_reach_the_ceiling():
    scores = consistency(latents(0), latents(2000), of="place")
    assert float(scores.mean_r2) > 0.9
    assert abs(float(scores.mean_r2 - scores.mean_ceiling)) < 0.05
    assert float(scores.mean_floor) < 0.2
    assert float(scores.p_mean) == 0.01
    np.testing.assert_allclose(np.diagonal(scores.r2), scores.ceiling)
    assert np.isnan(np.diagonal(scores.p)).all()


def test_noise_is_at_the_floor_and_has_no_ceiling():
    scores = consistency(latents(0, shared=False), latents(2000, shared=False), of="place")
    assert float(scores.ceiling[0]) < 0.3
    assert float(scores.r2[0, 1]) < 0.3
    assert float(scores.r2[1, 2]) > 0.9


def test_held_out_r2_of_noise_is_not_one_where_in_the_sample_it_is():
    a, b = (latents(k, noise=5, n_latents=8, n_subjects=3, shared=False) for k in (0, 2000))
    with pytest.warns(UserWarning, match="Take more bins"):
        scores = consistency(a, b, of="place", n_bins=8, n_permutations=9)
    assert float(scores.r2[0, 1]) < 0.5


def test_p_of_random_latents_is_uniform():
    p = []
    for seed in range(60):
        parts = [
            latents(k, n=300, n_subjects=2, seed=seed, shared=False, noise=0) for k in (0, 500)
        ]
        p.append(float(consistency(*parts, of="place", n_permutations=19, seed=seed).p[0, 1]))
    # Four standard errors of a share.
    assert np.mean(np.array(p) <= 0.2) <= 0.2 + 4 * np.sqrt(0.16 / 60)


def test_tuning_of_latents_is_their_mean_in_bins():
    z = latents(0)
    tuning = latent_tuning(z, of="place", n_bins=10)
    own = z.sel(subject="b")
    inside = (own.place >= tuning.place[3] - 0.05) & (own.place < tuning.place[3] + 0.05)
    expected = own[inside.values].mean("window")
    assert abs(float(tuning["mean"].sel(subject="b")[3, 0] - expected[0])) < 0.1
    assert int(tuning.n_windows.sum()) == own.size // 3 * 3
    assert tuning.sizes == {"subject": 3, "bin": 10, "latent": 3}


def test_what_has_no_means_is_refused():
    with pytest.raises(ValueError, match=r"attrs\['by'\]"):
        consistency(latents(0), latents(2000))
    with pytest.raises(ValueError, match="in both parts"):
        consistency(latents(0), latents(0), of="place")
