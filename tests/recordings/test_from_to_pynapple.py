import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.from_to_pynapple import (
    behavior_to_pynapple,
    from_pynapple,
    latents_to_pynapple,
    to_pynapple,
)
from neuroshare.recordings.nwb import read_nwb
from neuroshare.recordings.session import Session
from neuroshare.recordings.simulate import simulate_sessions
from neuroshare.windows.pair import pair_subjects

nap = pytest.importorskip("pynapple", reason="pynapple is not installed")


def rich_session():
    units = pd.DataFrame(
        {
            "area": ["CA1", "α", ""],
            "depth": [1.5, np.nan, 3.0],
            "good": [True, False, True],
            "layer": pd.array(["II", None, "V"], dtype=str),
        },
        index=[2, 4, 9],
    )
    trials = pd.DataFrame(
        {
            "start_time": [0.1 + 0.2, 2.0],
            "stop_time": [1.0, 1e6],
            "odor": ["A", "日本"],
            "position": np.array([1, 5], dtype=np.int32),
        },
        index=[3, 1],
    )
    return Session("mitt", [[0.1, 1 / 3, 0.7], [], [1e6 + 0.1]], units, trials)


def assert_same(one, other):
    assert one.subject == other.subject
    for a, b in zip(one.spike_times, other.spike_times, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in ((one.units, other.units), (one.trials, other.trials)):
        # pynapple keeps no types of columns without rows.
        pd.testing.assert_frame_equal(
            a, b, check_index_type=False, check_column_type=False, check_dtype=len(b) > 0
        )


def there_and_back(session):
    return from_pynapple(*to_pynapple(session), subject=session.subject)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s,
        lambda s: s.select(units=[2, 4]),
        lambda s: s.select(units=[9], trials=[]),
        lambda s: s.select(units=[], trials=[1]),
        lambda s: Session("nobody", []),
        lambda s: Session("one", [[5.0]]),
        lambda s: simulate_sessions({"mitt": 12}, n_trials=4)["mitt"],
    ],
    ids=["all", "silent", "no trials", "no units", "empty", "one spike", "simulated"],
)
def test_a_session_returns_from_pynapple_exactly(change):
    session = change(rich_session())
    assert_same(there_and_back(session), session)


@pytest.mark.data
def test_real_mice_return_from_pynapple_exactly(data_dir):
    paths = sorted((data_dir / "mice-nwb").glob("*.nwb"))
    assert paths
    for path in paths:
        session = read_nwb(path)
        assert_same(there_and_back(session), session)


def test_units_and_trials_come_back_in_the_order_of_ids_and_time():
    session = rich_session().select(units=[9, 2, 4], trials=[1, 3])
    assert_same(there_and_back(session), rich_session())


def test_pynapple_sees_the_same_units_and_trials():
    session = simulate_sessions({"mitt": 12}, n_trials=4)["mitt"]
    units, trials = to_pynapple(session)
    assert isinstance(units, nap.TsGroup)
    np.testing.assert_array_equal(units["base_rate"], session.units["base_rate"])
    np.testing.assert_array_equal(trials.start, session.trials["start_time"])
    np.testing.assert_array_equal(trials["odor"], session.trials["odor"])
    np.testing.assert_array_equal(units[3].times(), session.spike_times[3])


def test_metadata_follow_their_units():
    data = {7: nap.Ts(np.array([1.0, 2.0])), 3: nap.Ts(np.array([1.5, 1.7, 1.9]))}
    units = nap.TsGroup(data, metadata={"area": ["CA1", "CA3"]})
    session = from_pynapple(units, subject="mitt")
    assert session.units["area"].to_dict() == {7: "CA1", 3: "CA3"}
    assert {u: len(t) for u, t in zip(session.units.index, session.spike_times, strict=True)} == {
        7: 2,
        3: 3,
    }
    assert session.trials.empty


def test_intervals_without_trial_ids_are_numbered():
    units = nap.TsGroup({0: nap.Ts(np.array([1.0, 2.0]))})
    trials = nap.IntervalSet([0.0, 5.0], [1.0, 6.0], metadata={"odor": ["A", "B"]})
    assert from_pynapple(units, trials, subject="mitt").trials.index.tolist() == [0, 1]
    named = nap.IntervalSet([0.0, 5.0], [1.0, 6.0], metadata={"trial": [4, 4]})
    session = from_pynapple(units, named, subject="mitt")
    assert session.trials["trial"].tolist() == [4, 4]


def test_a_trial_that_ends_as_the_next_begins_loses_a_microsecond_with_a_word():
    trials = pd.DataFrame({"start_time": [0.0, 1.0], "stop_time": [1.0, 2.0]})
    with pytest.warns(UserWarning, match="microsecond"):
        session = there_and_back(Session("mitt", [[0.5]], trials=trials))
    np.testing.assert_allclose(session.trials["stop_time"], [1.0 - 1e-6, 2.0], rtol=0, atol=1e-12)


def table(start, stop, **columns):
    return pd.DataFrame({"start_time": start, "stop_time": stop, **columns})


@pytest.mark.parametrize(
    ("session", "message"),
    [
        (Session("mitt", {"a": [1.0]}), "unit ids are whole numbers, got ids such as 'a'"),
        (Session("mitt", [[]], pd.DataFrame({"rate": [2.0]})), "no unit column 'rate'.*Rename"),
        (
            Session("mitt", [], trials=table([0.0], [1.0], trial=[5])),
            "no trial column 'trial'.*Rename",
        ),
        (Session("mitt", [], trials=table([0.0, 0.5], [1.0, 2.0])), "overlap.*such as trial 1"),
        (
            Session("mitt", [], trials=table([0.0, 0.1, 0.5], [1.0, 0.2, 2.0])),
            "overlap.*2 trials, such as trial 1",
        ),
        (Session("mitt", [], trials=table([0.0, 3.0], [1.0, np.nan])), "lack a time: 1 trials"),
        (Session("mitt", [], trials=table([0.0, 3.0], [1.0, 3.0])), "no length"),
    ],
)
def test_what_pynapple_cannot_hold_is_refused(session, message):
    with pytest.raises(ValueError, match=message):
        to_pynapple(session)


@pytest.mark.parametrize(
    ("units", "trials", "message"),
    [
        ({}, None, "'units' parameter .* must be a pynapple.TsGroup. Got dict"),
        ("group", [[0, 1]], "'trials' parameter .* must be a pynapple.IntervalSet. Got list"),
    ],
)
def test_other_types_are_refused(units, trials, message):
    units = to_pynapple(rich_session())[0] if units == "group" else units
    with pytest.raises(TypeError, match=message):
        from_pynapple(units, trials, subject="mitt")


@pytest.mark.parametrize(
    "call",
    [
        lambda: to_pynapple(rich_session()),
        lambda: from_pynapple(None, subject="mitt"),
        lambda: latents_to_pynapple(None, rich_session()),
    ],
)
def test_without_pynapple_it_is_said_what_to_install(monkeypatch, call):
    monkeypatch.setitem(sys.modules, "pynapple", None)
    with pytest.raises(ImportError, match=r"needs pynapple.*pip install 'neuroshare-latents\[form"):
        call()


@pytest.fixture
def sessions():
    return simulate_sessions({"mitt": 6, "stella": 5}, n_trials=5, seed=2)


def latents_of(sessions, **settings):
    """Latents (subject, window, latent) that say which trial and window they belong to."""
    align = settings.pop("align", "start_time")
    counts = {n: bin_spikes(s, align, span=(0.0, 0.3)) for n, s in sessions.items()}
    paired = pair_subjects(counts, by="odor", **settings)
    coords = paired.coords()
    trial = coords["trial"][1]
    values = np.stack([trial, np.broadcast_to(coords["start"][1], trial.shape)], axis=-1)
    values = np.where(trial[..., None] < 0, np.nan, values).astype(np.float32)
    coords["latent"] = [0, 1]
    return xr.DataArray(values, dims=("subject", "window", "latent"), coords=coords)


@pytest.mark.parametrize("surplus", ["repeat", "absent"])
@pytest.mark.parametrize("name", ["mitt", "stella"])
def test_latents_lie_at_their_windows_on_the_clock_of_the_session(sessions, name, surplus):
    sessions["stella"] = sessions["stella"].select(trials=lambda t: t.index > 5)
    frame = latents_to_pynapple(latents_of(sessions, surplus=surplus), sessions[name])
    trials = sessions[name].trials
    # Each trial's windows are there once, however often the trial was paired.
    expected = sorted(
        (onset + 0.05 + 0.01 * start, trial, start)
        for trial, onset in trials["start_time"].items()
        for start in range(21)
    )
    time, trial, start = map(np.array, zip(*expected, strict=True))
    np.testing.assert_allclose(frame.times(), time, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(frame.values, np.stack([trial, start], axis=1))
    third = nap.IntervalSet(trials["start_time"].iloc[2], trials["stop_time"].iloc[2])
    assert set(frame.restrict(third).values[:, 0]) == {trials.index[2]}


def test_windows_of_overlapping_trials_are_in_the_order_of_time(sessions):
    trials = sessions["mitt"].trials
    squeezed = trials.assign(start_time=5 + trials["start_time"] / 100, stop_time=1e3)
    sessions["mitt"] = Session("mitt", sessions["mitt"].spike_times, trials=squeezed)
    frame = latents_to_pynapple(latents_of(sessions), sessions["mitt"])
    assert (np.diff(frame.times()) >= 0).all()
    assert len(frame) == 20 * 21
    assert (np.diff(frame.values[:, 0]) != 0).sum() > 20


def test_latents_follow_the_event_they_were_aligned_to(sessions):
    for name, session in sessions.items():
        trials = session.trials.assign(poke=session.trials["start_time"] + 0.5)
        sessions[name] = Session(name, session.spike_times, session.units, trials)
    latents = latents_of(sessions, align="poke")
    early = latents_to_pynapple(latents, sessions["mitt"])
    late = latents_to_pynapple(latents, sessions["mitt"], align="poke")
    np.testing.assert_allclose(late.times() - early.times(), 0.5)


def test_a_subject_can_have_another_name_in_the_latents(sessions):
    latents = latents_of(sessions)
    renamed = Session("rat 7", sessions["mitt"].spike_times, trials=sessions["mitt"].trials)
    frame = latents_to_pynapple(latents, renamed, subject="mitt")
    np.testing.assert_array_equal(
        frame.values, latents_to_pynapple(latents, sessions["mitt"]).values
    )
    with pytest.raises(ValueError, match=r"no subject 'rat 7' in the results. Found: mitt, stella"):
        latents_to_pynapple(latents, renamed)


def test_another_session_than_the_binned_one_is_refused(sessions):
    latents = latents_of(sessions)
    with pytest.raises(ValueError, match=r"expected 'start_time' of every trial .* trial 0"):
        latents_to_pynapple(latents, sessions["mitt"].select(trials=lambda t: t.index > 0))
    with pytest.raises(ValueError, match=r"trial column, got 'poke'.*columns: start_time"):
        latents_to_pynapple(latents, sessions["mitt"], align="poke")


def test_partners_are_averaged(sessions):
    sessions["stella"] = sessions["stella"].select(trials=lambda t: t.index > 5)
    latents = latents_of(sessions)
    noisy = latents + xr.DataArray(
        np.random.default_rng(0).normal(size=latents.shape), dims=latents.dims
    )
    frame = latents_to_pynapple(noisy, sessions["stella"])
    stella = noisy.sel(subject="stella")
    trial = int(stella["trial"].to_series().value_counts().index[0])
    at = (stella["trial"] == trial) & (stella["start"] == 4)
    assert at.sum() > 1
    time = sessions["stella"].trials.loc[trial, "start_time"] + 0.09
    row = np.argmin(np.abs(frame.times() - time))
    np.testing.assert_allclose(frame.values[row], stella[at.to_numpy()].mean("window"))


def test_behavior_goes_to_pynapple_and_comes_back():
    time, other = np.arange(20) / 10, np.arange(5.0)
    behavior = xr.Dataset(
        {
            "position": (("time", "axis_position"), np.c_[time, time**2]),
            "pupil": ("time_pupil", other**2),
        },
        {"time": time, "axis_position": ["x", "y"], "time_pupil": other},
    )
    session = Session("mitt", {1: [0.5]}, behavior=behavior)
    series = behavior_to_pynapple(session)
    assert isinstance(series["pupil"], nap.Tsd)
    assert list(series["position"].columns) == ["x", "y"]
    units, _ = to_pynapple(session)
    again = from_pynapple(units, subject="mitt", behavior=series).behavior
    for name, axis in (("position", "time_position"), ("pupil", "time_pupil")):
        np.testing.assert_array_equal(again[name], behavior[name])
        np.testing.assert_array_equal(again[axis], series[name].index)
    assert again.axis_position.values.tolist() == ["x", "y"]


def test_behavior_that_is_no_series_is_refused():
    units, _ = to_pynapple(Session("mitt", {1: [0.5]}))
    with pytest.raises(TypeError, match="Tsd or TsdFrame"):
        from_pynapple(units, subject="mitt", behavior={"x": np.ones(3)})
