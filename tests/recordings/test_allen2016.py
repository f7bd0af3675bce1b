import numpy as np
import pytest

from neuroshare.recordings.allen2016 import convert_allen2016, read_allen2016, write_allen2016
from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.nwb import read_nwb
from neuroshare.recordings.simulate import simulate_sessions


@pytest.fixture
def arrays():
    """Counts with many spikes to a bin, and trials of all nine columns."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.3, (12, 7, 400))
    counts[0, 0, :12] = np.arange(12)
    info = np.column_stack(
        [
            rng.integers(0, 2, (12, 2)),
            rng.integers(1, 6, (12, 2)),
            np.arange(12),
            np.arange(12) // 5,
            rng.uniform(0.5, 1.5, 12),
            rng.integers(-3, 4, (12, 2)),
        ]
    ).astype(float)
    info[3, 7] = np.nan
    return counts, info


def save(folder, counts, info, stem="superchris"):
    (folder / "SuperChris").mkdir(exist_ok=True)
    np.save(folder / "SuperChris" / f"{stem}_spike_data_binned.npy", counts / 10)
    np.save(folder / "SuperChris" / f"{stem}_trial_info.npy", info)


def counts_of(session):
    return bin_spikes(session, span=(-2.0, 2.0), bin_size=0.01).values


def test_arrays_become_nwb_and_the_same_counts_again(tmp_path, arrays):
    counts, info = arrays
    save(tmp_path, counts, info)
    np.testing.assert_array_equal(counts_of(read_allen2016(tmp_path, "SuperChris")), counts)
    (path,) = convert_allen2016(tmp_path, tmp_path / "nwb")
    session = read_nwb(path)
    assert (path.name, session.subject) == ("superchris.nwb", "superchris")
    np.testing.assert_array_equal(counts_of(session), counts)
    np.testing.assert_array_equal(session.trials.position, info[:, 2])
    assert session.trials.correct.tolist() == (info[:, 0] == 1).tolist()
    assert session.trials.odor.tolist() == ["?ABCDE"[int(odor)] for odor in info[:, 3]]
    np.testing.assert_array_equal(session.trials.poke_duration, info[:, 6])
    np.testing.assert_array_equal(session.trials.transposition_distance, info[:, 7])


def test_older_files_lack_the_newer_columns(tmp_path, arrays):
    counts, info = arrays
    save(tmp_path, counts, info[:, :4])
    columns = read_allen2016(tmp_path / "SuperChris", "superchris").trials.columns.tolist()
    assert columns == ["start_time", "stop_time", "correct", "in_sequence", "position", "odor"]


def test_stretches_of_successive_trials_do_not_overlap(tmp_path, arrays):
    save(tmp_path, *arrays)
    session = read_allen2016(tmp_path, "superchris")
    assert np.diff(session.trials.start_time).min() > 4.0
    assert counts_of(session).sum() == session.n_spikes


def test_rounding_noise_is_forgiven(tmp_path, arrays):
    counts, info = arrays
    save(tmp_path, (counts / 10).astype(np.float32) * 10, info)
    np.testing.assert_array_equal(counts_of(read_allen2016(tmp_path, "superchris")), counts)


@pytest.mark.parametrize("wrong", [0.5, -1.0, np.nan, np.inf])
def test_values_that_are_no_counts_are_refused(tmp_path, arrays, wrong):
    counts, info = arrays
    counts = counts.astype(float)
    counts[2, 3, 4] = wrong
    save(tmp_path, counts, info)
    with pytest.raises(ValueError, match="trial 2, unit 3, bin 4"):
        read_allen2016(tmp_path, "superchris")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda counts, info: (counts[:, :, :300], info), r"\(trial, unit, 400\)"),
        (lambda counts, info: (counts[:5], info), "expected 5 trials.*got 12"),
        (lambda counts, info: (counts, info[:, :3]), "4 or more columns"),
        (lambda counts, info: (counts, info + 3), "expected odors 1 to 5"),
    ],
)
def test_other_layouts_are_refused(tmp_path, arrays, change, message):
    save(tmp_path, *change(*arrays))
    with pytest.raises(ValueError, match=message):
        read_allen2016(tmp_path, "superchris")


def test_missing_files_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mitt_spike_data_binned.npy"):
        read_allen2016(tmp_path, "mitt")
    with pytest.raises(FileNotFoundError, match=r"<rat>_spike_data_binned.npy"):
        convert_allen2016(tmp_path, tmp_path / "nwb")


def test_extractions_are_told_apart_by_their_tag(tmp_path, arrays):
    counts, info = arrays
    save(tmp_path, counts, info)
    save(tmp_path, counts[::-1], info[::-1], "superchris_PokeOut")
    (path,) = convert_allen2016(tmp_path, tmp_path / "in")
    np.testing.assert_array_equal(counts_of(read_nwb(path)), counts)
    (path,) = convert_allen2016(tmp_path, tmp_path / "out", "PokeOut")
    assert path.name == "superchris.nwb"
    np.testing.assert_array_equal(counts_of(read_nwb(path)), counts[::-1])


def test_simulated_rats_survive_the_published_layout(tmp_path):
    sessions = simulate_sessions({"mitt": 12, "superchris": 8}, n_trials=4)
    folders = write_allen2016(sessions, tmp_path)
    assert [folder.name for folder in folders] == ["Mitt", "SuperChris"]
    paths = convert_allen2016(tmp_path, tmp_path / "nwb")
    assert [path.stem for path in paths] == list(sessions)
    for path, session in zip(paths, sessions.values(), strict=True):
        again = read_nwb(path)
        np.testing.assert_array_equal(counts_of(again), counts_of(session))
        for column in ("odor", "position", "in_sequence", "correct"):
            assert again.trials[column].tolist() == session.trials[column].tolist()


def test_sessions_of_another_task_are_not_written(tmp_path):
    (session,) = simulate_sessions({"mitt": 3}, n_trials=1).values()
    trials = session.trials.drop(columns="correct")
    other = type(session)("mitt", session.spike_times, session.units, trials)
    with pytest.raises(ValueError, match=r"'mitt'.*correct, in_sequence, position, odor"):
        write_allen2016({"mitt": other}, tmp_path)
