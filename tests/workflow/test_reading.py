"""What a run asks of its recordings, and how they are named and chosen."""

import dataclasses
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import neuroshare as ns
from neuroshare.workflow.reading import keep_common_conditions, read_recordings, split_recordings
from neuroshare.workflow.settings import RunConfig, named_file


def session(name="mitt", *, seed=0, clock=1.0, label=("A", "B"), observed=None, **about):
    rng = np.random.default_rng(seed)
    start = 10.0 + 2.0 * np.arange(40)
    trials = pd.DataFrame({"start_time": start, "stop_time": start + 1.0})
    trials["odor"] = np.resize(np.array(label), 40)
    trials["block"] = np.repeat([1, 2], 20)
    units = pd.DataFrame({"quality": ["good", "noise", "good", "good"]})
    spikes = [np.sort(rng.uniform(5, 95, 900)) * clock for _ in range(4)]
    return ns.Session(name, spikes, units, trials, observed=observed, **about)


@pytest.fixture
def written(tmp_path):
    def write(**sessions):
        for name, one in sessions.items():
            ns.write_nwb(one, tmp_path / f"{name}.nwb")
        return tuple(str(tmp_path / f"{name}.nwb") for name in sessions)

    return write


def asked(files, **settings):
    given = {"by": "odor", "align": "start_time", "span": (0.0, 0.4), "min_trials": 3}
    return RunConfig(tuple(files), **{**given, **settings})


def test_what_cannot_be_meant_is_refused_and_told_if_it_is_wanted_anyway(written):
    files = written(mitt=session(), stella=session("stella", seed=1, clock=1000.0))
    with pytest.raises(ValueError, match=r"stella\.nwb: subject 'stella': .* milliseconds"):
        read_recordings(asked(files))
    with pytest.warns(UserWarning, match="probably in milliseconds"):
        found = read_recordings(asked(files, anyway=True))
    assert any("probably in milliseconds" in sentence for sentence in found.odd)
    assert not any("mitt" in sentence for sentence in found.odd)


def test_recordings_in_which_nothing_is_odd_say_nothing(written):
    found = read_recordings(asked(written(mitt=session(), stella=session("stella", seed=1))))
    assert found.odd == found.relabelled == []


def test_units_and_trials_are_chosen_by_query_for_all_files_or_for_each(written):
    files = written(mitt=session(), stella=session("stella", seed=1))
    found = read_recordings(
        asked(files, units="quality == 'good'", select=("block > 1", "odor == odor"))
    )
    assert [array.sizes["unit"] for array in found.counts.values()] == [3, 3]
    assert [array.sizes["trial"] for array in found.counts.values()] == [20, 40]
    with pytest.raises(ValueError, match=r"mitt\.nwb: .*chooses none of 4 units"):
        read_recordings(asked(files, units="quality == 'best'"))
    with pytest.raises(ValueError, match=r"mitt\.nwb: .*cannot choose trials by 'blok > 1'"):
        read_recordings(asked(files, select="blok > 1"))
    with pytest.raises(ValueError, match=r"'units' .* one for all files, or one for each of 2"):
        asked(files, units=("a", "b", "c"))


def test_a_setting_that_is_one_for_each_file_survives_its_file():
    import tomllib

    config = asked(("a.nwb", "b.nwb"), trials=("trials", "epochs"), units=("x > 1", "x > 1"))
    assert config.units == "x > 1"
    assert config.each("units") == ("x > 1", "x > 1")
    assert RunConfig.from_settings(tomllib.loads(config.to_toml())) == config


def test_files_may_be_given_names_and_sessions(written, tmp_path):
    files = written(a=session("m"), b=session("m", seed=1), c=session("n", seed=2))
    named = [f"m/monday={files[0]}", f"m/friday={files[1]}", files[2]]
    found = read_recordings(asked(named))
    assert list(found.counts) == ["m/monday", "m/friday", "n"]
    paired = ns.pair_subjects(found.counts, by="odor")
    assert paired.coords()["animal"][1] == ["m", "m", "n"]
    days = read_recordings(asked(files, session=("one", "two", "three")))
    assert list(days.counts) == ["m/one", "m/two", "n"]
    same = read_recordings(asked(files, session="one"))
    assert list(same.counts) == ["m/a", "m/b", "n"]
    with pytest.raises(ValueError, match=r"a\.nwb and .*a\.nwb both hold subject 'm'"):
        read_recordings(asked((files[0], files[0])))


@pytest.mark.parametrize(
    "text",
    ["a.nwb", "/x/sub=1/a.nwb", "./m=a.nwb", "https://x.org/a?b=c", "dandi:1@2/a=b.nwb", "=a"],
)
def test_paths_with_a_sign_of_equality_are_no_names(text):
    assert named_file(text) == (None, text)


def test_labels_are_compared_as_they_are_meant(written):
    files = written(
        mitt=session(label=(True, False)), stella=session("stella", seed=1, label=("TRUE", "False"))
    )
    found = read_recordings(asked(files))
    assert {array["odor"].dtype.kind for array in found.counts.values()} == {"b"}
    (told,) = found.relabelled
    assert "read as boolean" in told
    assert told in split_recordings(found, asked(files)).left_out


@pytest.mark.parametrize("column", ["time", "unit", "subject", "part", "start", "odor id"])
def test_a_column_is_found_under_whichever_name_it_gets(written, column):
    sessions = {}
    for seed, name in enumerate(("mitt", "stella")):
        one = session(name, seed=seed)
        sessions[name] = ns.Session(
            name, one.spike_times, one.units, one.trials.rename(columns={"odor": column})
        )
    found = read_recordings(asked(written(**sessions), by=column))
    split = split_recordings(found, asked(("a",), by=column))
    assert split.train.by == found.by != column
    assert set(split.train.conditions) == {"A", "B"}


def test_the_control_is_of_what_was_observed_before_the_event(written):
    """From 9.9 s on, one trial lacks its stretch before the event."""
    seen = np.array([[9.9, 100.0]])
    files = written(mitt=session(observed=seen), stella=session("stella", seed=1))
    found = read_recordings(asked(files))
    assert found.odd == []
    assert found.before["mitt"].sizes["trial"] == 39
    train, _ = ns.pair_subjects(found.counts, "odor").split(0.25)
    over = train.over(found.before)
    assert 0 not in over.trial_ids("mitt")
    np.testing.assert_array_equal(over.trial_ids("stella"), train.trial_ids("stella"))
    for k, trial in enumerate(over.trial_ids("mitt")):
        expected = found.before["mitt"].sel(trial=trial).values
        np.testing.assert_array_equal(over.activity("mitt")[k], expected)


def test_there_is_no_control_where_nothing_was_observed_before_the_event(written):
    files = written(mitt=session(observed=_gaps()), stella=session("stella", seed=1))
    with pytest.warns(UserWarning, match="no control before the event, for 160 of 160"):
        assert read_recordings(asked(files)).before is None


def _gaps():
    """Observed in every trial, and never before one."""
    start = 10.0 + 2.0 * np.arange(40)
    return np.column_stack([start, start + 1.0])


def test_marked_trials_and_units_are_left_out_of_a_pairing_with_a_word():
    half = session(observed=[[[0.0, 50.0]], [[0.0, 50.0]], [[0.0, 99.0]], [[0.0, 99.0]]])
    marked = ns.bin_spikes(half, unobserved="mark")
    with pytest.warns(UserWarning, match="were not observed"):
        dropped = ns.bin_spikes(half)
    other = ns.bin_spikes(session("stella", seed=1))
    paired = ns.pair_subjects({"mitt": marked, "stella": other}, by="odor")
    np.testing.assert_array_equal(paired.units["mitt"], dropped["unit"])
    np.testing.assert_array_equal(paired.trial_ids("mitt"), dropped["trial"])
    (told,) = [sentence for sentence in paired.report() if "not observed" in sentence]
    assert "40 of 160 trials x units" in told


def test_pairs_compare_labels_as_they_are_meant():
    a = ns.bin_spikes(session(label=("Left ", "n/a", "right")))
    b = ns.bin_spikes(session("stella", seed=1, label=("left", "RIGHT")))
    paired = ns.pair_subjects({"mitt": a, "stella": b}, by="odor")
    assert paired.conditions == ("Left", "right")
    assert any("'n/a' have no odor" in sentence for sentence in paired.report())


def test_conditions_of_eight_trials_are_kept_where_none_has_twenty():
    def of(**n):
        counts = ns.bin_spikes(session())
        labels = np.repeat(list(n), list(n.values()))
        few = counts.isel(trial=np.arange(len(labels)) % counts.sizes["trial"])
        few = few.assign_coords(trial=np.arange(len(labels)), odor=("trial", labels))
        return {"mitt": few, "stella": few}

    def kept(asked_for, **n):
        found, told = keep_common_conditions(of(**n), asked_for)
        return sorted(set(found["mitt"].odor.values.tolist())), told

    default = dataclasses.replace(asked(("a",)), min_trials=None)
    assert kept(default, A=20, B=20, C=10)[0] == ["A", "B"]
    values, told = kept(default, A=20, B=9, C=8, D=7)
    assert values == ["A", "B", "C"]
    assert "fewer than 8 trials" in told[0]
    with pytest.raises(ValueError, match="two or more values of 'odor' with 8 trials"):
        kept(default, A=20, B=7)
    with pytest.raises(ValueError, match="with 10 trials"):
        kept(dataclasses.replace(default, min_trials=10), A=20, B=9)


def test_windows_shift_by_a_bin_unless_told_otherwise():
    config = dataclasses.replace(asked(("a",)), bin_size=0.05, step=None)
    assert config.step == 0.05
    assert RunConfig(("a",), by="odor", align="start_time", span=(0.0, 0.4)).step == 0.01


@pytest.mark.parametrize(
    ("command", "wrong", "words"),
    [
        ("fit", ("--by", "odour"), "no trial column 'odour'"),
        ("fit", ("--align", "poke"), "align must be a numeric trial column"),
        ("fit", ("--span", 0, 400), "if milliseconds were meant"),
        ("fit", ("--min-trials", 500), "expected two or more values"),
        ("fit", ("--width", 0.015), "whole number of bins"),
        ("fit", ("--units", "q == 1"), "cannot choose units"),
        ("sweep", ("--by", "odour"), "no trial column 'odour'"),
        ("influence", ("--by", "odour"), "no trial column 'odour'"),
        ("power", ("--by", "odour"), "no trial column 'odour'"),
    ],
)
def test_what_is_wrong_with_columns_and_spans_is_told_without_torch(
    written, tmp_path, command, wrong, words
):
    files = written(mitt=session(), stella=session("stella", seed=1))
    given = ("--by", "odor", "--align", "start_time", "--span", 0, 0.3, "--out", tmp_path / "run")
    code = (
        "import sys\nfrom neuroshare.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('loaded:', *sorted({'torch', 'sklearn', 'pynwb'} & set(sys.modules)))"
    )
    line = [sys.executable, "-c", code, command, *files, *given, *wrong]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout.endswith("loaded:\n")
    assert not (tmp_path / "run").exists()
