import numpy as np
import pandas as pd
import pytest

from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.findings import findings, resolution
from neuroshare.recordings.nwb import read_nwb
from neuroshare.recordings.session import Session


def rat(
    rate=8.0, units=8, n=80, apart=2.0, lasts=1.0, trials=(1.0, 0.0), spikes=(1.0, 0.0), seed=1
):
    """Poisson units and trials, each on a clock times a factor plus a shift."""
    rng = np.random.default_rng(seed)
    start = 10 + apart * np.arange(n)
    end = start[-1] + 5
    times = [np.sort(rng.uniform(5, end, rng.poisson(rate * end))) for _ in range(units)]
    (f, a), (g, b) = trials, spikes
    table = pd.DataFrame(
        {
            "start_time": start * f + a,
            "stop_time": (start + lasts) * f + a,
            "odor": rng.permutation(np.resize(["A", "B"], n)),
        }
    )
    return Session("mitt", [t * g + b for t in times], trials=table)


def told(session, *where, level=None):
    return [str(f) for f in findings(session, *where) if level in (None, f.level)]


def loud(session, *where):
    return [str(f) for f in findings(session, *where) if f.level != "note"]


FIT = ("start_time", (0.0, 0.4))


@pytest.mark.parametrize(
    ("session", "cause"),
    [
        (rat(trials=(1000.0, 0.0)), "trials are probably in milliseconds: align to 'start_time /"),
        (rat(spikes=(1000.0, 0.0)), "spikes are probably in milliseconds"),
        (rat(spikes=(1000.0, 0.0), n=2000), "spikes are probably in milliseconds"),
        (rat(trials=(1000.0, 0.0), n=2000), "trials are probably in milliseconds"),
        (rat(trials=(1.0, 1e6)), "Are both on the same clock?"),
    ],
    ids=["trials", "spikes", "spikes among trials", "trials among spikes", "far"],
)
@pytest.mark.parametrize("where", [(), FIT], ids=["inspect", "fit"])
def test_two_clocks_are_refused_with_their_cause(session, cause, where):
    (sentence,) = told(session, *where, level="refuse")
    assert cause in sentence


def test_trials_in_ms_can_be_aligned_on_the_clock_of_the_spikes():
    session = rat(trials=(1000.0, 0.0))
    where = ("start_time / 1000", (0.0, 0.4))
    assert loud(session, *where) == []
    np.testing.assert_array_equal(bin_spikes(session, *where), bin_spikes(rat(), *FIT))


def test_spikes_in_samples_are_refused():
    session = rat()
    session = Session(
        "mitt", [np.round(t * 30_000) for t in session.spike_times], trials=session.trials
    )
    (sentence,) = told(session, *FIT, level="refuse")
    assert "probably in samples" in sentence
    assert "31,000 in a second" in sentence or "30,000" in sentence


def test_spikes_relative_to_their_trial_are_refused():
    session = rat()
    near = [np.sort(t % 7.3) for t in session.spike_times]
    (sentence,) = told(Session("mitt", near, trials=session.trials), *FIT, level="refuse")
    assert "relative to each trial" in sentence


def test_spikes_and_trials_both_in_ms_are_refused():
    session = rat(rate=4.0, trials=(1000.0, 0.0), spikes=(1000.0, 0.0))
    assert "probably in milliseconds, not in seconds" in told(session, *FIT, level="refuse")[0]


@pytest.mark.parametrize("minutes", [10, 60])
@pytest.mark.parametrize("grid", [None, 0.05, 1.0], ids=["real", "20 Hz", "1 Hz"])
def test_sparse_recordings_are_in_seconds(minutes, grid):
    rng = np.random.default_rng(0)
    length = 60 * minutes
    spikes = [np.sort(rng.uniform(0, length, rng.poisson(0.03 * length))) for _ in range(12)]
    if grid:
        spikes = [np.unique(np.round(t / grid) * grid) for t in spikes]
    start = np.arange(0, length - 20, 10.0)
    trials = pd.DataFrame({"start_time": start, "stop_time": start + 5})
    assert loud(Session("mouse", spikes)) == []
    assert loud(Session("mouse", spikes, trials=trials), "start_time", (0.0, 2.0)) == []


def with_column(**columns):
    session = rat()
    return Session("mitt", session.spike_times, trials=session.trials.assign(**columns))


LATENCY = np.random.default_rng(3).uniform(0.1, 0.9, 80)


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        (LATENCY, "Align to 'start_time + poke'"),
        (LATENCY * 1000, "Align to 'start_time + poke / 1000'"),
        ((10 + 2 * np.arange(80) + LATENCY) * 1000, "Align to 'poke / 1000'"),
        (np.resize([1, 2, 3, 4], 80), "a code rather than a time"),
        (np.zeros(80), "1 different poke: as if relative"),
    ],
    ids=["relative", "relative ms", "ms", "code", "constant"],
)
def test_a_column_that_is_no_time_of_the_session_is_refused(values, cause):
    found = told(with_column(poke=values), "poke", (0.0, 0.1), level="refuse")
    assert any(cause in sentence for sentence in found), found


def test_a_column_within_its_trial_or_somewhat_beside_it_is_a_time():
    start = 10 + 2 * np.arange(80)
    for values in (start + LATENCY, start - 0.3, start + 1.2):
        assert loud(with_column(poke=values), "poke", (0.0, 0.1)) == []


def test_a_relative_column_is_aligned_by_arithmetic():
    session = with_column(poke=LATENCY)
    counts = bin_spikes(session, "start_time + poke", (0.0, 0.1))
    absolute = with_column(poke=session.trials.start_time + LATENCY)
    np.testing.assert_array_equal(counts, bin_spikes(absolute, "poke", (0.0, 0.1)))
    assert loud(session, "start_time + poke", (0.0, 0.1)) == []


@pytest.mark.parametrize("align", ["start_time + nothing", "start_time +", "odor + odor", "1 / 0"])
def test_arithmetic_that_gives_no_times_is_refused(align):
    with pytest.raises(ValueError, match="align must be a numeric trial column"):
        bin_spikes(rat(), align)


def test_trials_that_share_their_event_are_told():
    start = 10 + 2.0 * np.arange(80)
    start[40:50] = start[:10]
    trials = pd.DataFrame({"start_time": start, "stop_time": start + 1, "odor": [*"AB"] * 40})
    session = Session("mitt", rat().spike_times, trials=trials)
    assert any("20 of 80 trials share their start_time" in s for s in loud(session, *FIT))


def test_spans_that_outlast_their_trial_are_told():
    contiguous = rat(apart=1.0, lasts=1.0)
    assert loud(contiguous, "start_time", (0.0, 1.0)) == []
    (sentence,) = loud(contiguous, "start_time", (0.0, 1.5))
    assert "In 79 of 80 trials the span (0 to 1.5 s after start_time) outlasts" in sentence
    # Into the pause between trials, but not into the next one.
    assert loud(rat(), "start_time", (0.0, 1.5)) == []
    (sentence,) = loud(rat(), "start_time", (0.0, 2.5))
    assert "reaches into the next one; trials last 1 to 1 s" in sentence


def test_a_baseline_within_the_trial_before_is_a_note():
    session = rat(apart=1.0)
    assert loud(session, "start_time", (-0.5, 0.4)) == []
    assert any(
        "begins within the trial before" in s for s in told(session, "start_time", (-0.5, 0.4))
    )


@pytest.mark.parametrize(
    ("shift", "step", "level"), [(86_400.0, "7.8 ms", "warn"), (1.7e9, "128 s", "refuse")]
)
def test_float32_on_a_far_clock_is_told(shift, step, level):
    exact = rat(trials=(1.0, shift), spikes=(1.0, shift))
    assert loud(exact, *FIT) == []
    coarse = Session(
        "mitt", [t.astype("f4").astype("f8") for t in exact.spike_times], trials=exact.trials
    )
    (sentence,) = told(coarse, *FIT, level=level)
    assert f"in steps of {step}" in sentence
    if level == "refuse":
        with pytest.raises(ValueError, match=f"steps of {step}.*Bins are 0.01 s wide"):
            bin_spikes(coarse)
    else:
        with pytest.warns(UserWarning, match=f"steps of {step}.*Bins are 0.01 s wide"):
            bin_spikes(coarse)


def test_times_on_a_grid_are_not_taken_for_float32():
    assert resolution(np.arange(50_000) * 0.5) == 0
    assert resolution(np.arange(1e6)) == 0
    assert resolution(np.array([])) == 0
    times = np.random.default_rng(0).uniform(0, 3600, 1000)
    assert resolution(times) == 0
    assert resolution(times.astype("f4").astype("f8")) == pytest.approx(2.0**-12)


@pytest.mark.parametrize(
    ("spikes", "message"),
    [([], "There are no units."), ([[], [], []], "No unit has a spike (3 units).")],
)
def test_a_subject_without_a_spike_is_refused(spikes, message):
    assert told(Session("z", spikes, trials=rat().trials), *FIT, level="refuse") == [message]


def test_units_labelled_as_noise_are_told_with_what_leaves_them_out():
    units = pd.DataFrame({"KS Label": ["good", "noise"] * 4})
    session = Session("q", rat().spike_times, units, rat().trials)
    (sentence,) = [s for s in told(session, *FIT) if "labelled" in s]
    query = sentence.split('units="')[1].rstrip('".')
    assert session.select(units=query).units["KS Label"].tolist() == ["good"] * 4


def test_names_that_change_are_told():
    sentences = told(with_column(**{"odor id": 1}))
    assert "The trial column 'odor id' is called 'odor_id' in the counts." in sentences


@pytest.mark.data
@pytest.mark.parametrize(
    ("files", "trials", "align", "span"),
    [
        ("track_A_6mice", "trials", "start_time", (0.0, 1.0)),
        ("odor_aPCx_15", "trials", "inhalation_time", (0.0, 0.5)),
        ("odor_plCoA_AA", "trials", "inhalation_time", (-1.0, 2.0)),
        ("riab_track_5rats", "trials", "start_time", (0.0, 0.4)),
        ("mice-nwb", "trials", "start_time", (0.0, 0.4)),
    ],
)
def test_real_recordings_are_read_without_a_false_warning(data_dir, files, trials, align, span):
    for path in sorted((data_dir / files).glob("*.nwb")):
        session = read_nwb(path, trials=trials)
        assert loud(session) == []
        assert loud(session, align, span) == []
        bin_spikes(session, align, span, 0.05)


@pytest.mark.data
def test_real_passes_shorter_than_the_span_are_told(data_dir):
    for path in sorted((data_dir / "track_A_6mice").glob("*.nwb")):
        (sentence,) = loud(read_nwb(path, trials="position_bins"), *FIT)
        assert "outlasts the trial and reaches into the next one" in sentence


def test_a_recording_within_one_step_of_float32_is_told_as_such():
    rng = np.random.default_rng(0)
    start = 1.7e9 + 10.0 + 2.0 * np.arange(20)
    times = np.sort(1.7e9 + rng.uniform(5, 55, 200)).astype("f4").astype("f8")
    assert len(np.unique(times)) == 1
    trials = pd.DataFrame({"start_time": start, "stop_time": start + 1})
    (found, *_) = findings(Session("mitt", [times], trials=trials))
    assert found.level == "refuse"
    assert "steps of 128 s" in str(found)
