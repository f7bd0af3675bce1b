import numpy as np
import pandas as pd
import pytest
import xarray as xr

from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.session import Session

TIME = np.arange(0, 20, 0.05)
RNG = np.random.default_rng(0)
SPIKES = [np.sort(RNG.uniform(0, 20, n)) for n in (400, 50, 0)]


def session(**series):
    named = {"position": ("time", TIME / 20), **series}
    laps = pd.DataFrame(
        {"start_time": [1.0, 7.0], "stop_time": [4.3, 9.0], "direction": ["out", "back"]}, [5, 7]
    )
    return Session("rat", SPIKES, trials=laps, behavior=xr.Dataset(named, {"time": TIME}))


def test_laps_of_unequal_length_are_cut_into_whole_windows():
    counts = bin_spikes(
        session(), span=None, epochs="trials", width=0.5, bin_size=0.1, behavior=["position"]
    )
    assert counts.dims == ("trial", "unit", "time")
    assert counts.epoch.values.tolist() == [5] * 6 + [7] * 4
    assert counts.direction.values.tolist() == ["out"] * 6 + ["back"] * 4
    assert counts.attrs["windows"] == "continuous"
    for window in range(counts.sizes["trial"]):
        start = float(counts.start_time[window])
        for unit, times in enumerate(SPIKES):
            edges = start + np.arange(6) * 0.1
            expected = np.histogram(times, edges)[0]
            np.testing.assert_array_equal(counts.values[window, unit], expected)
    centres = counts.start_time.values[:, None] + counts.time.values
    np.testing.assert_allclose(counts.position, centres / 20, atol=1e-12)


def test_a_whole_session_is_as_long_as_spikes_and_behavior():
    counts = bin_spikes(session(), span=None, width=1.0, bin_size=0.5, behavior=["position"])
    first = max(min(times[0] for times in SPIKES if len(times)), TIME[0])
    last = min(max(times[-1] for times in SPIKES if len(times)), TIME[-1])
    assert counts.sizes["trial"] == int(last - first)
    assert counts.start_time[0] == first
    assert len(np.unique(counts.trial)) == counts.sizes["trial"]


def test_angles_are_interpolated_round_the_circle():
    true = 350 + 4 * TIME
    turning = xr.DataArray(true % 360, dims="time", attrs={"period": 360.0})
    counts = bin_spikes(
        session(heading=turning), span=None, width=1.0, bin_size=0.02, behavior=["heading"]
    )
    centres = counts.start_time.values[:, None] + counts.time.values
    away = (counts.heading.values - 350 - 4 * centres + 180) % 360 - 180
    assert np.abs(away).max() < 1e-9
    assert counts.heading.attrs["period"] == 360
    straight = bin_spikes(
        session(heading=turning), span=None, width=1.0, bin_size=0.02, behavior={"heading": None}
    )
    assert "period" not in straight.heading.attrs
    assert np.abs(straight.heading.values - counts.heading.values).max() > 10


@pytest.mark.parametrize("how", ["nan", "pause"])
def test_windows_in_gaps_are_absent_and_told(how):
    gap = (TIME > 5) & (TIME < 8)
    if how == "nan":
        rat = session(position=("time", np.where(gap, np.nan, TIME)))
    else:
        rat = session()
        rat = Session("rat", SPIKES, behavior=rat.behavior.isel(time=~gap))
    with pytest.warns(UserWarning, match=r"subject 'rat': .* windows .* in gaps of position"):
        counts = bin_spikes(rat, span=None, width=0.5, bin_size=0.1, behavior=["position"])
    start = counts.start_time.values
    assert not ((start + 0.5 > 5.06) & (start < 7.94)).any()
    assert ((start > 4) & (start < 5)).any()
    assert (start > 8).any()
    assert np.isfinite(counts.position).all()


def test_around_trials_gaps_are_nan():
    gap = (TIME > 7) & (TIME < 8)
    counts = bin_spikes(
        session(position=("time", np.where(gap, np.nan, TIME))),
        span=(0.0, 2.0),
        bin_size=0.1,
        behavior=["position"],
    )
    missing = np.isnan(counts.position.values).sum(axis=1)
    assert missing[0] == 0
    assert 8 <= missing[1] <= 10


def test_columns_of_a_series_have_names_of_their_own():
    place = (("time", "axis_place"), np.c_[TIME, -TIME])
    counts = bin_spikes(
        Session("rat", SPIKES, behavior=xr.Dataset({"place": place}, {"time": TIME})),
        span=None,
        behavior=["place"],
    )
    assert counts.place_0.attrs["behavior"] == counts.place_1.attrs["behavior"] == "place"
    np.testing.assert_allclose(counts.place_0, -counts.place_1)


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        ({"behavior": ["speed"]}, "no behavior 'speed'. Found: position"),
        ({"behavior": "position"}, "list of names"),
        ({"behavior": {"position": -1}}, "positive number"),
        ({"epochs": [[1.0, 2.0, 3.0]]}, "begin and end of epochs"),
        ({"epochs": "laps"}, "epochs='trials'"),
        ({"epochs": [[2.0, 1.0]]}, "must not end before"),
        ({"epochs": [[1.0, 1.1]]}, "no epoch is as long"),
        ({"width": 0.25, "bin_size": 0.1}, "whole number of bins"),
        ({"width": 0}, "positive number of seconds|begin first"),
        ({"span": (0, 1), "epochs": "trials"}, "where span=None"),
    ],
)
def test_what_cannot_be_cut_is_refused(wanted, match):
    with pytest.raises(ValueError, match=match):
        bin_spikes(session(), **{"span": None, **wanted})
