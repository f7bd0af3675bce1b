import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.findings import findings
from neuroshare.recordings.nwb import read_nwb, write_nwb
from neuroshare.recordings.observed import covered, without
from neuroshare.recordings.session import Session
from neuroshare.support.observed import most_observed


def rat(units=8, n=80, observed=None, until=None, pause=None, rate=8.0):
    rng = np.random.default_rng(1)
    start = 10 + 2.0 * np.arange(n)
    times = [np.sort(rng.uniform(5, start[-1] + 5, int(rate * start[-1]))) for _ in range(units)]
    if until is not None:
        times = [t[t < until] for t in times]
    if pause is not None:
        times = [t[(t < pause[0]) | (t > pause[1])] for t in times]
    trials = pd.DataFrame({"start_time": start, "stop_time": start + 1, "odor": [*"AB"] * (n // 2)})
    return Session("mitt", times, trials=trials, observed=observed)


def halves(n_partly, units=8, middle=89.5):
    """Intervals of units, the first of which are seen in the first 40 of 80 trials."""
    return [[[5.0, middle if u < n_partly else 173.0]] for u in range(units)]


def test_a_session_knows_when_its_units_were_observed():
    session = rat(2, observed=[[[0, 10], [10, 20.0]], [[5, 12.0], [15, 30]]])
    assert session.observed[0].tolist() == [[0, 20]]
    seen = session.is_observed([1, 6, 11, 19], [2, 7, 16, 21])
    assert seen.tolist() == [[True, False], [True, True], [True, False], [False, True]]
    assert session.select(units=[1]).observed[0].tolist() == [[5, 12], [15, 30]]
    assert rat(2).is_observed([0], [1]).all()


def test_units_seen_together_share_one_array():
    session = rat(3, observed=np.array([[0.0, 100.0]]))
    assert session.observed[0] is session.observed[2]
    session = rat(3, observed=[[[0.0, 100.0]]] * 3)
    assert session.observed[0] is session.observed[2]


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        ([[[0, 1]]], "each of 2 units"),
        ([[[0, 1]], [[1, 0]]], "begin before their end"),
        (np.zeros((2, 3)), r"\(interval, 2\)"),
        ([[[0, np.nan]]] * 2, "no NaN"),
        ({0: [[0, 1]], 7: [[0, 1]]}, "name different units"),
    ],
)
def test_intervals_that_are_none_are_refused(observed, message):
    with pytest.raises(ValueError, match=message):
        rat(2, observed=observed)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=8),
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=8),
    st.integers(0, 60),
    st.integers(1, 5),
)
def test_intervals_hold_what_every_instant_of_them_holds(seen, removed, begin, length):
    instants = np.zeros(80, bool)
    for a, n in seen:
        instants[a : a + n] = True
    for a, n in removed:
        instants[a : a + n] = False
    session = Session("m", [[]], observed=np.array([(a, a + n) for a, n in seen]).reshape(-1, 2))
    off = np.array(sorted((a, a + n) for a, n in removed), float).reshape(-1, 2)
    left = without(session.observed[0], off)
    expected = bool(instants[begin : begin + length].all())
    assert covered(left, np.array([begin]), np.array([begin + length]))[0] == expected


@given(hnp.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_what_is_left_was_observed(observed):
    trials, units = most_observed(observed)
    assert observed[np.ix_(trials, units)].all()
    if observed.all():
        assert trials.all()
        assert units.all()


@pytest.mark.parametrize(
    ("n_partly", "sizes"), [(0, (80, 8)), (1, (80, 7)), (4, (80, 4)), (5, (40, 8)), (8, (40, 8))]
)
def test_units_or_trials_are_left_out_by_what_lacks_most(n_partly, sizes):
    session = rat(observed=halves(n_partly))
    if not n_partly:
        counts = bin_spikes(session)
    else:
        with pytest.warns(UserWarning, match=rf"{n_partly * 40} of 640 trials x units were not"):
            counts = bin_spikes(session)
    assert (counts.sizes["trial"], counts.sizes["unit"]) == sizes
    whole = bin_spikes(rat())
    kept = whole.sel(trial=counts.trial, unit=counts.unit)
    np.testing.assert_array_equal(counts, kept)


def test_noise_of_units_that_are_lost_midway_is_at_chance():
    """The mean count of a trial tells its half of the session where unobserved is taken for 0."""
    session = rat(observed=halves(4))
    silent = [t[t < 89.5] if u < 4 else t for u, t in enumerate(session.spike_times)]
    session = Session("mitt", silent, trials=session.trials, observed=session.observed)
    late = np.arange(80) >= 40
    with pytest.warns(UserWarning, match=r"4 of 8 units \(0, 1, 2, 3\)"):
        counts = bin_spikes(session)
    totals = counts.sum(("unit", "time")).to_numpy()
    taken = bin_spikes(session, unobserved="ignore").sum(("unit", "time")).to_numpy()
    assert taken[late].mean() < 0.7 * taken[~late].mean()
    # 4 standard errors of the difference of two means of 40 Poisson counts.
    error = np.sqrt(totals.mean() * 2 / 40)
    assert abs(totals[late].mean() - totals[~late].mean()) < 4 * error


def test_what_was_observed_can_be_marked_instead():
    counts = bin_spikes(rat(observed=halves(4)), unobserved="mark")
    assert counts.shape[:2] == (80, 8)
    assert counts.observed.dims == ("trial", "unit")
    expected = np.ones((80, 8), bool)
    expected[40:, :4] = False
    np.testing.assert_array_equal(counts.observed, expected)
    assert "observed" not in bin_spikes(rat(observed=halves(0)), unobserved="mark").coords


def test_a_span_in_which_nothing_was_observed_is_refused():
    session = rat(observed=np.array([[s, s + 0.2] for s in rat().trials.start_time]))
    with pytest.raises(ValueError, match=r"no trial is observed.*such as 10 to 10.4 s.*shorter"):
        bin_spikes(session)
    assert bin_spikes(session, span=(0.0, 0.2)).shape[:2] == (80, 8)


def test_trials_after_the_end_of_the_recording_are_no_silence():
    session = rat(until=100.0)
    with pytest.warns(UserWarning, match="trials x units were not observed") as told:
        counts = bin_spikes(session)
    assert len(told) == 1
    assert counts.start_time.max() < 100
    assert counts.sizes["trial"] == 45
    assert counts.sizes["unit"] == 8
    notes = [str(f) for f in findings(session, "start_time", (0.0, 0.4))]
    assert any("35 trials of 80, between 100 and 168.4 s" in note for note in notes)


def test_trials_in_a_pause_of_the_recording_are_no_silence():
    with pytest.warns(UserWarning, match=r"Left out.*: 10 of 80 trials"):
        counts = bin_spikes(rat(pause=(49.9, 69.9)))
    assert counts.sizes["trial"] == 70


def test_silence_that_may_be_the_brains_stays():
    sparse = rat(units=2, rate=0.2)
    counts = bin_spikes(sparse)
    assert counts.sizes["trial"] == 80
    assert (counts.sum(("unit", "time")) == 0).any()
    # Units cut to trials, with pauses that hold no trial.
    session = rat()
    near = [t[((t - 10) % 2 < 1) & ((t < 60) | (t > 140))] for t in session.spike_times]
    trials = session.trials[(session.trials.start_time < 59) | (session.trials.start_time > 140)]
    assert bin_spikes(Session("mitt", near, trials=trials)).sizes["trial"] == len(trials)


@pytest.mark.parametrize(
    "observed",
    [
        halves(4),
        np.array([[0.0, 50.0], [60.0, 200.0]]),
        np.array([[-np.inf, 50.0], [60.0, np.inf]]),
    ],
    ids=["units", "session", "invalid times"],
)
def test_observed_intervals_are_written_and_read_again(tmp_path, observed):
    session = rat(observed=observed)
    again = read_nwb(write_nwb(session, tmp_path / "rat.nwb"))
    for a, b in zip(session.observed, again.observed, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_written_file_with_observed_intervals_is_valid_nwb(tmp_path):
    import pynwb

    path = write_nwb(rat(observed=halves(4)), tmp_path / "rat.nwb")
    assert pynwb.validate(path=str(path)) == []


def test_invalid_times_of_a_file_are_unobserved(tmp_path):
    import pynwb

    path = write_nwb(rat(observed=halves(4)), tmp_path / "rat.nwb")
    with pynwb.NWBHDF5IO(path, "r+") as io:
        nwb = io.read()
        for start in (10.0, 14.0):
            nwb.add_invalid_time_interval(start_time=start - 0.1, stop_time=start + 0.9)
        io.write(nwb)
    session = read_nwb(path)
    seen = session.is_observed(session.trials.start_time, session.trials.start_time + 0.4)
    expected = np.ones((80, 8), bool)
    expected[40:, :4] = False
    expected[[0, 2]] = False
    np.testing.assert_array_equal(seen, expected)
    with pytest.warns(UserWarning, match=r"2 of 80 trials \(0, 2\) and 4 of 8 units"):
        assert bin_spikes(session).shape[:2] == (78, 4)


def test_intervals_that_the_spikes_contradict_are_not_used(tmp_path):
    path = write_nwb(rat(observed=np.array([[5e3, 173e3]])), tmp_path / "rat.nwb")
    with pytest.warns(UserWarning, match="obs_intervals are not used: .* spikes lie outside"):
        session = read_nwb(path)
    assert session.observed is None
