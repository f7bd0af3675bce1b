import json

import numpy as np
import pytest
import xarray as xr
from scipy.signal import lfilter
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor

from neuroshare.analysis.decoding import SCORES, decoding, moved_values
from neuroshare.analysis.variables import Samples, Variable

DIMS = ("subject", "window")
KINDS = ("own", "cross", "pooled")


def walk(rng, n):
    """Slow position between 0 and 1."""
    return np.abs(np.cumsum(rng.normal(0, 0.05, n)) % 2 - 1)


def latents(position, first=0, noise=0.02, seed=0, **others):
    """Latents that trace the position, (subject, window)."""
    rng = np.random.default_rng(seed)
    z = np.stack([position, position**2, np.sin(3 * position)], axis=2)
    trial = np.broadcast_to(first + np.arange(position.shape[1]), position.shape)
    coords = {"subject": [f"rat{i}" for i in range(len(position))], "trial": (DIMS, trial)}
    coords |= {name: (DIMS, values) for name, values in {"position": position, **others}.items()}
    return xr.DataArray(z + rng.normal(0, noise, z.shape), dims=(*DIMS, "latent"), coords=coords)


def parts(n_subjects=3, n=400, seed=0, **kwargs):
    rng = np.random.default_rng(seed)
    whole = np.stack([walk(rng, 2 * n) for _ in range(n_subjects)])
    return (
        latents(whole[:, :n], 0, seed=1, **kwargs),
        latents(whole[:, n:], n, seed=2, **kwargs),
    )


def test_a_shared_position_is_decoded_within_and_across():
    train, test = parts()
    scores = decoding(train, test, of="position", n_bootstraps=50)
    assert scores.median_error.dims == ("source", "target")
    assert float(scores.median_error.max()) < 0.05
    assert float(scores.r2_pooled.min()) > 0.9
    assert float(scores.p_r2.max()) == 1 / 200
    for score in ("r2", "median_error"):
        low, high = scores[f"{score}_interval"]
        assert bool((low <= scores[score]).all())
        assert bool((scores[score] <= high).all())
    own = np.diagonal(scores.r2)
    np.testing.assert_allclose(scores.mean_r2_own, own.mean())
    between = scores.r2.values[~np.eye(3, dtype=bool)]
    np.testing.assert_allclose(scores.mean_r2_cross, between.mean())
    assert scores.error_along.sizes["bin"] == len(scores.bin_middle)


def test_scores_are_those_of_neighbours_regression():
    train, test = parts(2, noise=0.2)
    scores = decoding(train, test, of="position", n_permutations=0, n_bootstraps=0)
    source, target = train.sel(subject="rat0"), test.sel(subject="rat1")
    scale = source.values.std(axis=0)
    near = KNeighborsRegressor(int(scores.n_neighbours[0])).fit(source / scale, source.position)
    predicted = near.predict(target.values / scale)
    expected = r2_score(target.position, predicted)
    found = scores.sel(source="rat0", target="rat1")
    np.testing.assert_allclose(found.r2, expected)
    error = np.median(np.abs(predicted - target.position))
    np.testing.assert_allclose(found.median_error, error)
    assert not [name for name in scores if name.startswith(("p_", "null_"))]


def test_latents_that_share_nothing_decode_within_only():
    train, test = parts(2)
    for part in (train, test):
        part.values[1] *= -1
    scores = decoding(train, test, of="position", n_bootstraps=0)
    assert float(scores.mean_r2_own) > 0.9
    assert float(scores.mean_r2_cross) < 0.2


def test_p_of_slow_latents_and_slow_behavior_that_do_not_depend_is_no_smaller_than_it_should():
    n, p = 100, []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        z, y = (np.stack([[walk(rng, 600)]])[0] for _ in range(2))
        train, test = (latents(z[:, k : k + 300], k, seed=seed) for k in (0, 300))
        train["position"], test["position"] = ((DIMS, y[:, k : k + 300]) for k in (0, 300))
        scores = decoding(train, test, of="position", n_permutations=99, n_bootstraps=0)
        p.append(float(scores.p_mean_r2_own))
    for level in (0.05, 0.2, 0.5):
        # Four standard errors of a share of so many.
        assert np.mean(np.array(p) <= level) <= level + 4 * np.sqrt(level * (1 - level) / n)


def test_an_angle_is_decoded_round_the_circle():
    rng = np.random.default_rng(0)
    angle = np.cumsum(rng.normal(0, 20, (2, 800)), axis=1) % 360
    turn = np.deg2rad(angle)
    z = np.stack([np.cos(turn), np.sin(turn)], axis=2) + rng.normal(0, 0.05, (2, 800, 2))
    coords = {"subject": ["a", "b"], "heading": (DIMS, angle)}
    coords["trial"] = (DIMS, np.tile(np.arange(800), (2, 1)))
    both = xr.DataArray(z, dims=(*DIMS, "latent"), coords=coords)
    flat = decoding(both[:, :400], both[:, 400:], of="heading", n_permutations=0)
    both.attrs["behavior"] = json.dumps({"heading": {"period": 360.0, "unit": "degrees"}})
    scores = decoding(both[:, :400], both[:, 400:], of="heading", n_permutations=0)
    near = scores.error_along.sel(source="a", target="b")
    assert float(near.max()) < 10
    assert bool((scores.r2 > 0.98).all())
    assert bool((flat.r2 < 0.98).all())
    assert json.loads(scores.attrs["units"]) == {"heading": "degrees"}


def test_errors_of_angles_take_the_shorter_way():
    angle = Variable("heading", ("heading",), (360.0,))
    assert angle.errors(np.array([[350.0], [10.0]]), np.array([[10.0], [350.0]])).tolist() == [
        20,
        20,
    ]
    back = angle.values(angle.points(np.array([[-170.0], [30.0]])))
    np.testing.assert_allclose(back, [[-170], [30]])
    place = Variable("place", ("x", "y"), (None, None))
    assert place.errors(np.array([[3.0, 4.0]]), np.zeros((1, 2))).tolist() == [5]


def test_columns_of_a_series_are_decoded_together_and_several_variables_one_by_one():
    train, test = parts()
    about = {"place_x": {"behavior": "place"}, "place_y": {"behavior": "place"}}
    for part in (train, test):
        part["place_x"], part["place_y"] = part.position, -part.position
        part.attrs["behavior"] = json.dumps(about)
        part.attrs["paired_by"] = json.dumps(["place_x", "place_y"])
    scores = decoding(train, test, of=["place", "position"], n_permutations=9, n_bootstraps=9)
    assert scores["variable"].values.tolist() == ["place", "position"]
    place, position = (scores.sel(variable=v).median_error for v in ("place", "position"))
    np.testing.assert_allclose(place, np.sqrt(2) * position, rtol=0.2)
    alone = decoding(train, test, n_permutations=9, n_bootstraps=9)
    np.testing.assert_allclose(alone.median_error, place)
    assert alone.attrs["of"] == '["place"]'


def test_windows_that_occur_again_and_absent_ones_change_nothing():
    train, test = parts(2)
    again = xr.concat([test, test.isel(window=slice(0, 100))], "window")
    gone = test.isel(window=slice(0, 5)).copy(data=np.full((2, 5, 3), np.nan))
    again = xr.concat([again, gone], "window")
    kwargs = {"of": "position", "n_permutations": 19, "n_bootstraps": 19}
    xr.testing.assert_identical(decoding(train, test, **kwargs), decoding(train, again, **kwargs))


def test_sessions_of_one_animal_are_no_other_animal():
    train, test = parts(3)
    scores = decoding(
        train, test, of="position", animal={"rat0": "a", "rat1": "a"}, n_permutations=0
    )
    assert scores.target_animal.values.tolist() == ["a", "a", "rat2"]
    r2 = scores.r2.values
    between = np.array([r2[[0, 1], 2].mean(), r2[2, [0, 1]].mean()])
    np.testing.assert_allclose(scores.mean_r2_cross, between.mean())


@pytest.mark.parametrize(
    ("of", "match"),
    [
        ("speed", "numbers of each window in 'speed'. Found: .*'position'"),
        ("odor", "separation"),
        ([], "'of' parameter"),
        (None, "were not paired by behavior"),
    ],
)
def test_what_cannot_be_decoded_is_refused(of, match):
    train, test = parts(2, odor=np.full((2, 400), "A"))
    with pytest.raises(ValueError, match=match):
        decoding(train, test, of=of)


def test_trials_in_both_parts_are_refused():
    train, _ = parts(2)
    with pytest.raises(ValueError, match="in both parts"):
        decoding(train, train, of="position")


def test_joint_latents_get_no_p():
    train, test = parts(2)
    train.attrs["joint"] = 1
    with pytest.warns(UserWarning, match="joint"):
        scores = decoding(train, test, of="position", n_permutations=9)
    assert "p_r2" not in scores


def samples(trial, values):
    z = np.zeros((len(trial), 1))
    return Samples(z, {"speed": np.asarray(values, float)[:, None]}, trial, trial.astype(float))


def test_the_null_moves_stretches_as_wholes():
    speed = np.arange(100.0)
    held = np.arange(40, 60)
    fitted = np.r_[np.arange(30), np.arange(70, 100)]
    variable = Variable("speed", ("speed",), (None,))
    parts = samples(fitted, speed[fitted]), samples(held, speed[held])
    moved = moved_values(variable, *parts, 200, np.random.default_rng(0))[..., 0]
    # Held-out values in the order of another stretch: a rising course stays one, but where the
    # circle closes, and in the gaps, which have the value of the nearest window.
    np.testing.assert_array_equal(np.sort(moved, axis=1), np.tile(speed[held], (200, 1)))
    falls = (np.diff(moved, axis=1) < 0).sum(axis=1)
    assert falls.max() <= 1
    assert (falls == 0).mean() > 0.5


def test_the_null_of_an_angle_moves_its_values():
    heading = np.arange(100.0) * 3
    variable = Variable("speed", ("speed",), (360.0,))
    held = np.arange(40, 60)
    fitted = np.r_[np.arange(40), np.arange(60, 100)]
    parts = samples(fitted, heading[fitted]), samples(held, heading[held])
    moved = moved_values(variable, *parts, 50, np.random.default_rng(0))[..., 0]
    steps = np.round(np.diff(moved, axis=1) / 3).astype(int) % 100
    np.testing.assert_array_equal(steps, 1)
    assert (np.abs(moved[:, 0] - 120) >= 30).all()


def slow(rng, shape, windows):
    """A slow course over windows, the last dim, stationary with unit variance."""
    share = np.exp(-1 / windows)
    noise = rng.normal(size=(*shape[:-1], shape[-1] + 20 * windows))
    return lfilter([np.sqrt(1 - share**2)], [1, -share], noise)[..., 20 * windows :]


@pytest.mark.slow
def test_p_of_a_slow_speed_that_latents_do_not_know_are_honest():
    """Speeds of three rats, of different levels, in latents as slow; 150 experiments."""
    n, found = 1000, []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        speed = np.exp(0.7 * slow(rng, (3, n), 10)) * np.array([[1], [2], [4]])
        z = slow(rng, (3, 3, n), 10).transpose(0, 2, 1)
        block = np.arange(n) // 50
        held = np.isin(block, rng.choice(20, 5, replace=False))
        apart = np.convolve(held, np.ones(41), "same") > 0

        def part(at, z=z, speed=speed):
            at = np.flatnonzero(at)
            trial = np.broadcast_to(at, (3, len(at)))
            coords = {"subject": list("abc"), "trial": (DIMS, trial), "speed": (DIMS, speed[:, at])}
            return xr.DataArray(z[:, at], dims=(*DIMS, "latent"), coords=coords)

        scores = decoding(part(~apart), part(held), of="speed", n_permutations=99, n_bootstraps=0)
        found.append([float(scores[f"p_mean_{s}_{k}"]) for s in SCORES for k in KINDS])
    share = (np.array(found) <= 0.05).mean(axis=0)
    # Four standard errors of a share of 150.
    assert share.max() <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 150)
