import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroshare.recordings import binning
from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.nwb import read_nwb
from neuroshare.recordings.session import Session
from neuroshare.support import chunks
from neuroshare.windows.pair import pair_subjects


def recording(spikes, onset, **columns):
    onset = np.asarray(onset, dtype=float)
    return Session(
        "mitt",
        spikes,
        trials=pd.DataFrame({"start_time": onset, "stop_time": onset + 1, **columns}),
    )


def by_histogram(spikes, onset, begin, n_bins, bin_size):
    """The definition, with np.histogram's closed last edge opened."""
    counts = np.zeros((len(onset), len(spikes), n_bins), dtype=int)
    for i, at in enumerate(onset):
        edges = at + (begin + np.arange(n_bins + 1) * bin_size)
        for j, times in enumerate(spikes):
            counts[i, j] = np.histogram(times[times < edges[-1]], edges)[0]
    return counts


@st.composite
def adversarial(draw):
    """Spikes on edges, one float beside them, repeated, far from zero, or nowhere near."""
    bin_size = draw(st.sampled_from([0.01, 0.1, 0.025, 1 / 3, 0.001]))
    n_bins = draw(st.integers(1, 40))
    begin = draw(st.sampled_from([0.0, -2.0, 0.05, -0.3, 1 / 3]))
    offset = draw(st.sampled_from([0.0, 1e6, -1e6, 12345.678, 1e9, 0.1]))
    onset = offset + np.array(draw(st.lists(st.floats(-5, 5), min_size=1, max_size=5)))
    spikes = []
    for _ in range(draw(st.integers(0, 3))):
        trial = draw(st.lists(st.integers(0, len(onset) - 1), max_size=30))
        edge = draw(st.lists(st.integers(-1, n_bins + 1), min_size=len(trial), max_size=len(trial)))
        times = onset[trial] + (begin + np.array(edge, dtype=float) * bin_size)
        nudge = draw(
            st.lists(st.sampled_from([-1, 0, 0, 1]), min_size=len(trial), max_size=len(trial))
        )
        times = np.nextafter(times, times + np.array(nudge, dtype=float))
        anywhere = offset + np.array(draw(st.lists(st.floats(-20, 20), max_size=20)))
        spikes.append(np.sort(np.concatenate([times, anywhere])))
    return spikes, onset, begin, n_bins, bin_size


@given(adversarial())
@settings(max_examples=300, deadline=None)
def test_counts_equal_np_histogram_on_adversarial_times(case):
    spikes, onset, begin, n_bins, bin_size = case
    counts = bin_spikes(
        recording(spikes, onset), span=(begin, begin + n_bins * bin_size), bin_size=bin_size
    )
    np.testing.assert_array_equal(counts, by_histogram(spikes, onset, begin, n_bins, bin_size))


@pytest.mark.parametrize("offset", [0.0, 1e6, -3e5])
def test_counts_equal_np_histogram_on_dense_random_times(offset):
    rng = np.random.default_rng(0)
    spikes = [offset + np.sort(rng.uniform(0, 60, n)) for n in (4000, 0, 1, 300)]
    # Times on a grid of samples, as recorded, so that many lie on an edge.
    spikes[0] = np.round(spikes[0], 3)
    onset = offset + np.round(rng.uniform(0, 60, 50), 2)
    counts = bin_spikes(recording(spikes, onset), span=(-1.0, 1.0), bin_size=0.01)
    np.testing.assert_array_equal(counts, by_histogram(spikes, onset, -1.0, 200, 0.01))


def test_bins_are_half_open():
    session = recording([np.array([1.0, 1.1, 1.2])], [1.0])
    counts = bin_spikes(session, span=(0.0, 0.2), bin_size=0.1)
    edges = 1.0 + np.arange(3) * 0.1
    assert edges.tolist() == [1.0, 1.1, 1.2]
    assert counts.values.tolist() == [[[1, 1]]]


def test_a_spike_counts_in_every_overlapping_trial():
    counts = bin_spikes(recording([np.array([1.05])], [1.0, 0.9, 1.0]), span=(0.0, 0.2))
    assert counts.sum("time").values.ravel().tolist() == [1, 1, 1]


def test_counts_are_small_integers_until_they_do_not_fit():
    few = bin_spikes(recording([np.full(32_767, 1.0)], [1.0]))
    many = bin_spikes(recording([np.full(32_768, 1.0)], [1.0]))
    spread = bin_spikes(recording([np.sort(np.tile([1.0, 1.1], 20_000))], [1.0]))
    assert (few.dtype, many.dtype, spread.dtype) == (np.int16, np.int32, np.int16)
    assert (few.max(), many.max(), spread.max()) == (32_767, 32_768, 20_000)


def test_labels_ride_along():
    session = Session(
        "mitt",
        {7: [1.05], 9: []},
        pd.DataFrame({"area": ["CA1", "CA3"]}, index=[7, 9]),
        pd.DataFrame(
            {"start_time": [1.0, 2.0], "stop_time": [1.5, 2.5], "odor": ["A", "B"]}, index=[4, 6]
        ),
    )
    counts = bin_spikes(session, span=(-0.1, 0.1), bin_size=0.05)
    assert counts.name == "counts"
    assert counts.dims == ("trial", "unit", "time")
    assert counts.trial.values.tolist() == [4, 6]
    assert counts.unit.values.tolist() == [7, 9]
    np.testing.assert_allclose(counts.time, [-0.075, -0.025, 0.025, 0.075], atol=1e-12)
    assert counts.odor.dims == ("trial",)
    assert counts.odor.values.tolist() == ["A", "B"]
    assert counts.area.dims == ("unit",)
    assert counts.attrs == {
        "subject": "mitt",
        "align": "start_time",
        "span": (-0.1, 0.1),
        "bin_size": 0.05,
    }


def test_columns_that_would_collide_get_a_prefix():
    trials = pd.DataFrame({"start_time": [1.0], "stop_time": [2.0], "time": [3.0], "area": ["x"]})
    units = pd.DataFrame({"area": ["CA1"], "unit": [5], "time": [6]})
    counts = bin_spikes(Session("mitt", [[1.0]], units, trials))
    assert counts.trial_time.values.tolist() == [3.0]
    assert counts.area.values.tolist() == ["x"]
    assert counts.unit_area.values.tolist() == ["CA1"]
    assert counts.unit_unit.values.tolist() == [5]
    assert counts.unit_time.values.tolist() == [6]


def test_trials_without_an_event_are_left_out_and_counted():
    session = recording([np.array([1.05, 3.05])], [1.0, 2.0, 3.0], poke_out=[1.0, np.nan, 3.0])
    with pytest.warns(UserWarning, match="1 of 3 trials left out.*'poke_out'"):
        counts = bin_spikes(session, align="poke_out")
    assert counts.trial.values.tolist() == [0, 2]
    assert counts.sum("time").values.ravel().tolist() == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"align": "odor"}, "'odor'. Numeric columns: start_time, stop_time"),
        ({"align": "poke"}, "'poke'. Numeric columns: start_time, stop_time"),
        ({"bin_size": 0.0}, "bin_size must be a positive"),
        ({"bin_size": -0.1}, "bin_size must be a positive"),
        ({"bin_size": np.nan}, "bin_size must be a positive"),
        ({"span": (0.4, 0.0)}, "begin first"),
        ({"span": (0.0, np.inf)}, "begin first"),
        ({"span": (0.0, 0.405)}, "whole number of bins"),
        ({"span": (0.0, 0.1), "bin_size": 0.3}, "Use an end of 0.3 s"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bin_spikes(recording([np.array([1.0])], [1.0], odor=["A"]), **arguments)


def test_a_session_without_trials_is_refused():
    with pytest.raises(ValueError, match="'mitt': no trials"):
        bin_spikes(Session("mitt", [[1.0]]))


@pytest.mark.data
def test_real_spikes_equal_np_histogram(data_dir):
    from neuroshare.recordings.nwb import read_nwb

    session = read_nwb(data_dir / "rat-nwb" / "nelpy_linear-track.nwb", subject="rat", trials=None)
    onset = np.linspace(4400, 6300, 97)
    counts = bin_spikes(recording(session.spike_times, onset), span=(-2.0, 2.0))
    assert counts.sum() > 1000
    np.testing.assert_array_equal(counts, by_histogram(session.spike_times, onset, -2.0, 400, 0.01))


@pytest.mark.data
def test_counts_equal_pynapple_on_a_real_recording(data_dir):
    nap = pytest.importorskip("pynapple", reason="pynapple is not installed")
    session = read_nwb(data_dir / "rat-nwb" / "nelpy_linear-track.nwb", subject="rat", trials=None)
    begin = min(times[0] for times in session.spike_times if len(times))
    onsets = np.round(begin) + 7.0 * np.arange(50)
    trials = pd.DataFrame({"start_time": onsets, "stop_time": onsets + 2.0})
    session = Session(session.subject, session.spike_times, trials=trials)
    counts = bin_spikes(session, span=(0.0, 2.0), bin_size=0.01)
    group = nap.TsGroup(dict(enumerate(map(nap.Ts, session.spike_times))))
    epochs = nap.IntervalSet(start=onsets, end=onsets + 2.0)
    theirs = nap.build_tensor(group, epochs, bin_size=0.01)  # (unit, trial, time)
    assert counts.values.sum() > 1000
    np.testing.assert_array_equal(counts.values, np.moveaxis(theirs, 0, 1))


# ------------------------------------------------------------------------- counts in a file


def trials_of_spikes(n_trials=20, n_spikes=3000, seed=0):
    rng = np.random.default_rng(seed)
    spikes = [np.sort(rng.uniform(0, n_trials, n)) for n in (n_spikes, 10, 0, n_spikes)]
    return recording(spikes, np.arange(n_trials, dtype=float), odor=["A", "B"] * (n_trials // 2))


@pytest.mark.parametrize("chunk", [1, 100, 10**6])
def test_cached_counts_equal_those_in_memory(chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    session = trials_of_spikes()
    counts = bin_spikes(session, cache=tmp_path)
    expected = bin_spikes(session)
    xr.testing.assert_identical(counts.astype(expected.dtype), expected)
    assert counts.dtype == np.uint8
    assert not counts.values.flags.writeable
    (path,) = tmp_path.iterdir()
    on_disk = np.load(path, mmap_mode="r")
    assert on_disk.shape == (20, 40, 4)
    np.testing.assert_array_equal(on_disk, expected.transpose("trial", "time", "unit"))


def test_pairing_and_splitting_keep_the_map(tmp_path):
    counts = bin_spikes(trials_of_spikes(), cache=tmp_path)
    for part in pair_subjects({"mitt": counts}, by="odor").split(0.5):
        found = part._trials["mitt"].array.values
        assert np.shares_memory(found, counts.values)
        while not isinstance(found, np.memmap):
            found = found.base
        assert found.mode == "r"


def test_a_file_of_the_cache_is_found_again_and_never_taken_for_another(tmp_path):
    session = trials_of_spikes()

    def written():
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    bin_spikes(session, cache=tmp_path)
    first = written()
    bin_spikes(trials_of_spikes(), cache=tmp_path)
    assert written() == first
    for other, arguments in (
        (session, {"span": (0.0, 0.2)}),
        (session, {"bin_size": 0.02}),
        (session, {"align": "stop_time"}),
        (trials_of_spikes(seed=1), {}),
    ):
        before = written()
        counts = bin_spikes(other, **arguments, cache=tmp_path, unobserved="ignore")
        assert len(written()) == len(before) + 1
        assert {name: time for name, time in written().items() if name in before} == before
        np.testing.assert_array_equal(counts, bin_spikes(other, **arguments, unobserved="ignore"))


@pytest.mark.parametrize(
    ("n", "dtype"),
    [(255, np.uint8), (256, np.uint16), (65_535, np.uint16), (65_536, np.uint32)],
)
def test_cached_counts_take_the_fewest_bytes_that_hold_them(n, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 1)  # the large count comes in the last chunk
    session = recording([np.full(n, 9.0)], np.arange(10.0))
    counts = bin_spikes(session, cache=tmp_path)
    assert counts.dtype == dtype
    assert counts.max() == n
    assert len(list(tmp_path.iterdir())) == 1


def test_what_stops_writing_leaves_no_file(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(binning, "_count", full)
    with pytest.raises(OSError, match="No space"):
        bin_spikes(trials_of_spikes(), cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_file_of_the_cache_is_named(tmp_path):
    bin_spikes(trials_of_spikes(), cache=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{path.name} is damaged.*Delete it"):
        bin_spikes(trials_of_spikes(), cache=tmp_path)
