import tracemalloc

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from neuroshare.windows.behavior import Axis, ByBehavior, as_windows, window_means
from neuroshare.windows.pair import pair_subjects


def counts_of(position, seed=0, n_bins=4, period=None, **columns):
    """Counts whose windows are trials, behavior at every bin."""
    rng = np.random.default_rng(seed)
    n = len(position)
    about = {"behavior": "position", **({"period": period} if period else {})}
    coords = {
        "trial": np.arange(n),
        "unit": [1, 2, 3],
        "time": (np.arange(n_bins) + 0.5) * 0.05,
        "start_time": ("trial", np.arange(n) * n_bins * 0.05),
        "position": (("trial", "time"), np.repeat(position[:, None], n_bins, 1), about),
        **{name: ("trial", values) for name, values in columns.items()},
    }
    attrs = {"bin_size": 0.05, "align": "start_time", "windows": "continuous"}
    values = rng.poisson(1.0, (n, 3, n_bins))
    return xr.DataArray(values, dims=("trial", "unit", "time"), coords=coords, attrs=attrs)


def running(seed, n=300):
    rng = np.random.default_rng(seed)
    return np.abs(np.cumsum(rng.normal(0.05, 0.02, n)) % 2 - 1)


def pair(bandwidth=0.05, by="position", **kwargs):
    counts = {name: counts_of(running(k, 200 + 50 * k), k) for k, name in enumerate("abc")}
    return pair_subjects(counts, by=by, bandwidth=bandwidth, **kwargs)


def spans(paired, name="position", period=None):
    """How far apart the behavior of the partners is, (window,)."""
    values = paired.coords()[name][1]
    if period is None:
        return np.nanmax(values, axis=0) - np.nanmin(values, axis=0)
    off = values[:, None] - values[None]
    off = np.abs((off + period / 2) % period - period / 2)
    return np.nanmax(off, axis=(0, 1))


@pytest.mark.parametrize("bandwidth", [0.02, 0.05, 0.2])
def test_partners_lie_within_two_bandwidths(bandwidth):
    paired = pair(bandwidth)
    assert spans(paired).max() <= 2 * bandwidth + 1e-9
    assert np.median(spans(paired)) > bandwidth / 4
    assert paired.sizes["start"] == 1
    assert paired.by == "position_bin"


def test_every_window_has_a_row_and_partners_are_drawn_anew():
    paired = pair()
    for column, name in enumerate(paired.subjects):
        used = paired.partners[:, column]
        assert set(used[used >= 0].tolist()) == set(range(paired.n_trials(name)))
    again = paired.repair(1)
    assert not np.array_equal(again.partners[:100], paired.partners[:100])
    assert np.array_equal(paired.repair(0).partners, paired.partners)
    assert paired.redraws
    assert spans(again).max() <= 0.1 + 1e-9


@given(
    st.lists(st.lists(st.integers(0, 400), min_size=1, max_size=60), min_size=1, max_size=4),
    st.sampled_from(["repeat", "absent", "drop"]),
    st.integers(0, 2**20),
)
def test_draws_pair_windows_of_one_cell_and_leave_none_out(places, surplus, seed):
    axis = Axis("position", 0.0, 10.0, 0.1, 10)
    rule = ByBehavior((axis,), surplus)
    codes = [np.array(own)[:, None] for own in places]
    partners, row_codes = rule.draw(codes, 0, seed)
    assert (partners >= 0).any(axis=1).all()
    for row in partners:
        there = [codes[s][w, 0] for s, w in enumerate(row) if w >= 0]
        assert max(there) - min(there) < 8
    assert len(row_codes) == len(partners)
    for column, own in enumerate(codes):
        used = partners[:, column]
        used = used[used >= 0]
        if surplus != "drop":
            assert set(used.tolist()) == set(range(len(own)))
        if surplus == "absent":
            assert len(used) == len(own)


def test_an_angle_has_no_end():
    rng = np.random.default_rng(0)
    counts = {
        name: counts_of(rng.uniform(-180, 180, 400), k, period=360.0) for k, name in enumerate("ab")
    }
    paired = pair_subjects(counts, by="position", bandwidth=0.05)
    apart = spans(paired, period=360)
    assert apart.max() <= 40
    values = paired.coords()["position"][1]
    across = np.abs(values[0] - values[1]) > 300
    assert across.any()  # partners on both sides of the seam


def test_conditions_are_shared_besides():
    way = np.array(["out", "back"])
    counts = {}
    for k, name in enumerate("ab"):
        position = running(k)
        counts[name] = counts_of(position, k, direction=way[(np.arange(300) // 40) % 2])
    paired = pair_subjects(counts, by=["position", "direction"], bandwidth=0.1)
    direction = paired.coords()["direction"][1]
    both = (paired.partners >= 0).all(axis=1)
    assert (direction[0] == direction[1])[both].all()
    assert "direction=out" in paired.conditions[-1]
    assert paired.by == "position_direction_bin"


def test_a_range_that_one_never_visits_is_absent_there_and_told_by_name():
    counts = {"stay": counts_of(running(0) * 0.5, 0), "roam": counts_of(running(1), 1)}
    with pytest.warns(UserWarning, match=r"subject 'stay' has no windows with position 0\.[56]"):
        paired = pair_subjects(counts, by="position", bandwidth=0.05)
    roams = paired.coords()["position"][1][1]
    stays = paired.observed[0]
    assert not stays[roams > 0.62].any()
    assert stays[roams < 0.45].all()
    assert any("'stay'" in sentence for sentence in paired.excluded)


def test_split_holds_out_stretches_with_a_gap_and_keeps_the_behavior():
    paired = pair()
    train, test = paired.split(0.25, seed=1)
    for name in paired.subjects:
        a, b = train.trial_ids(name), test.trial_ids(name)
        assert not set(a) & set(b)
        assert np.min(np.abs(a[:, None] - b)) > 5  # a second of windows of 0.2 s, and one more
        assert 0.15 < len(b) / paired.n_trials(name) < 0.35
        assert len(np.flatnonzero(np.diff(b) > 1)) < 8
    assert spans(train).max() <= 0.1 + 1e-9
    assert "follow each other" in " ".join(train.excluded)
    again, _ = train.split(0.25, seed=2)
    assert again.n_trials("a") < train.n_trials("a")


def test_split_without_blocks_holds_out_whole_laps():
    counts = {
        name: counts_of(running(k), k, epoch=np.arange(300) // 20) for k, name in enumerate("ab")
    }
    paired = pair_subjects(counts, by="position")
    train, test = paired.split(0.2, blocks=None)
    for name in "ab":
        laps = [set((part.trial_ids(name) // 20).tolist()) for part in (train, test)]
        assert not laps[0] & laps[1]
        assert len(laps[1]) == 3
    with pytest.raises(ValueError, match="one epoch"):
        pair().split(blocks=None)


def test_the_null_moves_behavior_along_the_session_and_keeps_its_course():
    train, test = pair().split()
    moved = train.repair(3, shuffle_conditions=True)
    assert np.median(spans(moved)) > 3 * np.median(spans(train))
    assert np.array_equal(moved.counts["a"], train.counts["a"])
    # Each window was paired as another was, a fixed number of windows away.
    true = train.behavior.fine(train.counts["a"])
    own = moved._of("a").behaved
    whole = train.behavior.fine(train.counts["a"])
    shifts = [
        k for k in range(len(whole)) if np.array_equal(np.roll(whole, k, 0)[train.trials["a"]], own)
    ]
    assert len(shifts) == 1
    assert 20 <= shifts[0] <= 180
    assert not np.array_equal(true[train.trials["a"]], own)
    both = test.repair(3, shuffle_conditions=True)
    assert np.array_equal(np.roll(whole, shifts[0], 0)[test.trials["a"]], both._of("a").behaved)


def test_bins_mean_the_same_whatever_windows_they_are_given_to():
    train, _ = pair().split()
    moved = train.repair(3, shuffle_conditions=True)
    np.testing.assert_array_equal(moved.targets, train.targets)
    np.testing.assert_array_equal(np.sort(train.targets[:, 0]), train.targets[:, 0])
    near = train.nearness
    np.testing.assert_array_equal(near, near.T)
    np.testing.assert_allclose(near[0, :3], np.exp([0, -0.5, -2]))


def test_bins_of_an_angle_are_near_across_its_end_and_labels_apart():
    ring = Axis("heading", 0.0, 360.0, 18.0, 20, period=360.0)
    np.testing.assert_allclose(ring.nearness(np.arange(20))[0, [1, 19]], np.exp(-0.5))
    ways = Axis("direction", labels=("back", "out"))
    rule = ByBehavior((ring, ways))
    array = xr.DataArray(
        np.zeros(3),
        dims="trial",
        coords={
            "heading": ("trial", [5.0, 355.0, 5.0]),
            "direction": ("trial", ["out", "out", "back"]),
            "bin": ("trial", ["a", "b", "c"]),
        },
    )
    _, near = rule.alike([array], "bin", ["a", "b", "c", "of another"])
    np.testing.assert_allclose(near[0], [1, np.exp(-0.5), 0, 0])
    np.testing.assert_allclose(np.diag(near), 1)


def test_a_draw_takes_memory_linear_in_windows():
    axis = Axis("position", 0.0, 1.0, 0.05, 20)
    rule = ByBehavior((axis,))
    peak = {}
    for n in (2_000, 20_000):
        rng = np.random.default_rng(0)
        codes = [axis.fine(rng.random(n))[:, None] for _ in range(3)]
        tracemalloc.start()
        rule.draw(codes, 0, 0)
        peak[n] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak[20_000] < 12 * peak[2_000]


def test_windows_of_longer_trials_average_behavior():
    array = counts_of(np.zeros(3), n_bins=6)
    ramp = np.arange(18.0).reshape(3, 6)
    array = array.assign_coords(position=(("trial", "time"), ramp, {"behavior": "position"}))
    cut = as_windows(array, 2, 2, 0.05)
    assert cut.sizes == {"trial": 9, "unit": 3, "time": 2}
    np.testing.assert_allclose(cut.position, ramp.reshape(9, 2).mean(axis=1))
    np.testing.assert_array_equal(cut.values[1], array.values[0][:, 2:4])
    np.testing.assert_allclose(cut.window_start[:3], [0, 0.1, 0.2], atol=1e-9)
    assert cut.epoch.values.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    whole = as_windows(array, 6, 6, 0.05)
    assert np.shares_memory(whole.values, array.values)


def test_angles_are_averaged_on_the_circle():
    mean = window_means(np.array([[350.0, 10.0, 30.0]]), np.array([0, 1]), 2, 360.0)
    np.testing.assert_allclose((mean + 180) % 360 - 180, [[0, 20]], atol=1e-9)


def test_behavior_of_trials_paired_by_condition_comes_with_their_windows():
    odor = np.tile(["A", "B"], 20)
    counts = {}
    for k, name in enumerate("ab"):
        array = counts_of(np.zeros(40), k, odor=odor)
        ramp = np.arange(160.0).reshape(40, 4) + 1000 * k
        counts[name] = array.assign_coords(position=(("trial", "time"), ramp))
    paired = pair_subjects(counts, by="odor", width=0.1, step=0.05)
    values = paired.coords()["position"][1]
    assert values.shape == (2, len(paired))
    trial, start = paired.coords()["trial"][1], paired.coords()["start"][1]
    np.testing.assert_allclose(values[1], 1000 + 4 * trial[1] + start + 0.5)


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        ({"bandwidth": 0}, "share of the range"),
        ({"bandwidth": 2}, "share of the range"),
        ({"by": "speed"}, "no coordinate 'speed' to pair by"),
        ({"by": []}, "'by' parameter"),
        ({"bandwidth": {"speed": 0.1}}, "not paired by"),
        ({"order": "rank"}, "at random"),
        ({"surplus": "all"}, "surplus"),
    ],
)
def test_what_cannot_be_paired_is_refused(wanted, match):
    with pytest.raises(ValueError, match=match):
        pair(**wanted)
