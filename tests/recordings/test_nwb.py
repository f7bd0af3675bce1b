import shutil
import sys

import h5py
import numpy as np
import pandas as pd
import pytest

from neuroshare.recordings.nwb import read_nwb, write_nwb
from neuroshare.recordings.session import Session


def rich_session():
    units = pd.DataFrame(
        {"area": ["CA1", "α", ""], "depth": [1.5, np.nan, 3.0], "good": [True, False, True]},
        index=[4, 9, 2],
    )
    trials = pd.DataFrame(
        {
            "start_time": [0.1 + 0.2, 2.0],
            "stop_time": [1.0, np.nan],
            "odor": ["A", "日本"],
            "position": np.array([1, 5], dtype=np.int32),
            "correct": [False, True],
        },
        index=[3, 1],
    )
    return Session("mitt", [[0.1, 1 / 3, 0.7], [], [1e6 + 0.1]], units, trials)


def assert_same(one, other):
    assert one.subject == other.subject
    for a, b in zip(one.spike_times, other.spike_times, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in ((one.units, other.units), (one.trials, other.trials)):
        pd.testing.assert_frame_equal(a, b, check_index_type=False, check_column_type=False)


@pytest.fixture
def file(tmp_path):
    return write_nwb(rich_session(), tmp_path / "rat.nwb")


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s,
        lambda s: s.select(units=[]),
        lambda s: s.select(units=[9]),
        lambda s: s.select(trials=[]),
        lambda s: s.select(units=[], trials=[]),
        lambda s: Session("nobody", []),
    ],
    ids=["all", "no units", "no spikes", "no trials", "neither", "empty"],
)
def test_what_is_written_is_read_again(tmp_path, change):
    session = change(rich_session())
    assert_same(session, read_nwb(write_nwb(session, tmp_path / "rat.nwb")))


def test_a_written_file_is_valid_nwb(file):
    import pynwb

    assert pynwb.validate(path=str(file)) == []


def test_writing_replaces_a_file_and_leaves_no_other(file):
    write_nwb(Session("other", [[1.0]]), file)
    assert read_nwb(file).subject == "other"
    assert [path.name for path in file.parent.iterdir()] == ["rat.nwb"]


@pytest.mark.parametrize(
    ("session", "message"),
    [
        (Session("mitt", {"a": [1.0]}), "whole numbers, got unit ids such as 'a'"),
        (
            Session("mitt", [[]], pd.DataFrame({"x": [{"a": 1}]})),
            "text, numbers or booleans.*unit column 'x'",
        ),
    ],
)
def test_what_nwb_cannot_hold_is_refused_and_the_old_file_stays(file, session, message):
    with pytest.raises(ValueError, match=message):
        write_nwb(session, file)
    assert_same(read_nwb(file), rich_session())
    assert [path.name for path in file.parent.iterdir()] == ["rat.nwb"]


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_nwb(rich_session(), tmp_path / "rat.nwb")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "chosen",
    [
        [9, 2],
        np.array([False, True, True]),
        lambda units: units.index != 4,
        "area != 'CA1' or good",
    ],
)
def test_units_are_chosen(file, chosen):
    units = read_nwb(file, units=chosen).units.index.tolist()
    assert units == ([4, 9, 2] if isinstance(chosen, str) else [9, 2])


def test_an_unknown_unit_is_refused(file):
    with pytest.raises(ValueError, match=r"rat.nwb: no units 77. Found: 4, 9, 2"):
        read_nwb(file, units=[77])


def test_the_subject_can_be_renamed(file):
    assert read_nwb(file, subject="stella").subject == "stella"


def test_a_file_without_subject_is_named_after_itself(file):
    with h5py.File(file, "r+") as h5:
        del h5["general/subject"]
    with pytest.warns(UserWarning, match=r"rat.nwb: no subject id; the subject is named 'rat'"):
        assert read_nwb(file).subject == "rat"
    assert read_nwb(file, subject="mitt").subject == "mitt"


def test_the_trials_can_be_left_out(file):
    assert read_nwb(file, trials=None).trials.empty


def test_any_intervals_table_can_hold_the_trials(file):
    with h5py.File(file, "r+") as h5:
        h5.move("intervals/trials", "intervals/pokes")
    assert read_nwb(file, trials="pokes").trials.odor.tolist() == ["A", "日本"]
    with pytest.warns(UserWarning, match="no trials table.*trials='pokes'"):
        session = read_nwb(file)
    assert session.trials.empty
    with pytest.raises(ValueError, match=r"rat.nwb: no intervals table 'epochs'. Found: pokes"):
        read_nwb(file, trials="epochs")


@pytest.mark.parametrize("ends", [[3, 2, 4], [3, 3, 5], [3, 3, 3]], ids=["falls", "past", "short"])
def test_a_broken_index_is_refused(file, ends):
    with h5py.File(file, "r+") as h5:
        attributes = dict(h5["units/spike_times_index"].attrs)
        del h5["units/spike_times_index"]
        h5["units/spike_times_index"] = np.array(ends)
        h5["units/spike_times_index"].attrs.update(attributes)
    with pytest.raises(ValueError, match=r"rat.nwb: .*index of spike_times is broken.*export"):
        read_nwb(file)


def test_a_units_table_without_spike_times_is_refused(file):
    with h5py.File(file, "r+") as h5:
        del h5["units/spike_times"]
        del h5["units/spike_times_index"]
        h5["units"].attrs["colnames"] = ["area", "depth", "good"]
    with pytest.raises(ValueError, match=r"no 'spike_times' column. Found: area, depth, good"):
        read_nwb(file)


def test_a_broken_invariant_names_the_file(file):
    with h5py.File(file, "r+") as h5:
        attributes = dict(h5["intervals/trials/start_time"].attrs)
        del h5["intervals/trials/start_time"]
        h5["intervals/trials/start_time"] = [b"a", b"b"]
        h5["intervals/trials/start_time"].attrs.update(attributes)
    with pytest.raises(ValueError, match=r"rat.nwb: subject 'mitt': trial start_time must be"):
        read_nwb(file)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_nwb(tmp_path / "absent.nwb")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got a folder"):
        read_nwb(tmp_path)


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "notes.nwb"
    path.write_text("no HDF5 here")
    with pytest.raises(ValueError, match=r"notes.nwb: expected an NWB file"):
        read_nwb(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(file, kept):
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ValueError, match=r"rat.nwb: expected"):
        read_nwb(file)


def test_hdf5_that_is_not_nwb_is_refused(tmp_path):
    with h5py.File(tmp_path / "plain.nwb", "w") as h5:
        h5["x"] = [1.0]
    with pytest.raises(ValueError, match=r"plain.nwb: expected a readable NWB 2 file"):
        read_nwb(tmp_path / "plain.nwb")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken_ragged_index", r"index of spike_times is broken.*\(10\).*987786"),
        ("no_units_lfp_only", "expected a units table with spike times, got none"),
        ("no_units_timeseries", "expected a units table with spike times, got none"),
        ("legacy_2_0b", "expected a units table with spike times, got none"),
    ],
)
def test_real_files_without_usable_spikes_are_refused(data_dir, name, message):
    with pytest.raises(ValueError, match=f"^{name}.nwb: .*{message}"):
        read_nwb(data_dir / "nwb-cases" / f"{name}.nwb")


@pytest.mark.data
def test_a_real_file_without_trials_names_its_epochs(data_dir):
    path = data_dir / "nwb-cases" / "no_trials.nwb"
    with (
        pytest.warns(UserWarning, match="trials='epochs'"),
        pytest.warns(UserWarning, match="named 'no_trials', after the file"),
    ):
        session = read_nwb(path)
    assert (session.subject, len(session.units), session.n_spikes) == ("no_trials", 3, 21_354)
    assert session.units.columns.tolist()[:2] == ["location", "group"]
    assert read_nwb(path, subject="rat", trials="epochs").trials.tags.tolist() == ["wake"]


@pytest.mark.data
def test_real_mice_have_the_documented_sizes(data_dir):
    sizes = {}
    for path in (data_dir / "mice-nwb").glob("*.nwb"):
        session = read_nwb(path)
        sizes[session.subject] = len(session.units), len(session.trials)
        assert session.trials.columns[-1] == "condition"
    assert sizes == {
        "Cori": (381, 251),
        "Forssmann": (350, 249),
        "Hench": (190, 447),
        "Lederberg": (220, 340),
    }


@pytest.fixture
def store(file, tmp_path):
    """The rich session in a Zarr store."""
    hdmf_zarr = pytest.importorskip("hdmf_zarr.nwb", reason="hdmf-zarr is not installed")
    import pynwb

    path = tmp_path / "rat.nwb.zarr"
    with pynwb.NWBHDF5IO(file, "r") as source, hdmf_zarr.NWBZarrIO(str(path), "w") as io:
        io.export(src_io=source, write_args={"link_data": False})
    return path


def test_a_zarr_store_holds_what_its_file_holds(store):
    assert_same(read_nwb(store), rich_session())
    assert_same(read_nwb(f"{store}/", units=[9]), rich_session().select(units=[9]))


def test_a_zarr_store_without_subject_is_named_after_its_folder(store):
    shutil.rmtree(store / "general" / "subject")
    (store / ".zmetadata").unlink()
    with pytest.warns(UserWarning, match=r"rat.nwb.zarr: no subject id.* named 'rat'"):
        assert read_nwb(store).subject == "rat"


@pytest.mark.parametrize("content", [".zgroup", "zarr.json"])
def test_a_zarr_store_that_is_not_nwb_is_refused(store, tmp_path, content):
    other = tmp_path / "other.zarr"
    other.mkdir()
    (other / content).write_text('{"zarr_format": 2}')
    with pytest.raises(ValueError, match=r"other.zarr: expected a readable NWB 2 file"):
        read_nwb(other)


def test_without_zarr_it_is_said_what_to_install(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"hdmf-zarr.*pip install 'neuroshare-latents\[zarr\]'"):
        read_nwb(store)


def test_a_written_file_has_no_critical_findings(file):
    inspector = pytest.importorskip("nwbinspector", reason="nwbinspector is not installed")
    found = list(
        inspector.inspect_nwbfile(
            nwbfile_path=str(file),
            importance_threshold=inspector.Importance.CRITICAL,
        )
    )
    assert [message.message for message in found] == []


def test_columns_that_are_left_out_are_not_read(tmp_path, monkeypatch):
    import pynwb

    path = write_nwb(rich_session(), tmp_path / "rat.nwb")
    with pynwb.NWBHDF5IO(path, "r+") as io:
        nwb = io.read()
        nwb.units.add_column("waveform_mean", "mean waveform", data=np.ones((3, 32, 4)))
        ragged = [np.ones(3), np.ones(0), np.ones(2)]
        nwb.units.add_column("amplitudes", "of each spike", data=ragged, index=True)
        tags = [["a", "b"], [], ["c"]]
        nwb.units.add_column("tags", "words", data=tags, index=True)
        io.write(nwb)
    read, get = set(), h5py.Dataset.__getitem__

    def noted(data, key, **settings):
        if key == slice(None):
            read.add(data.name)
        return get(data, key, **settings)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", noted)
    units = read_nwb(path).units
    assert units.columns.tolist() == ["area", "depth", "good", "tags"]
    assert units.tags.tolist() == ["a, b", "", "c"]
    assert "/units/spike_times" in read
    assert not {"/units/waveform_mean", "/units/amplitudes"} & read


def test_text_of_another_encoding_is_told(file):
    with h5py.File(file, "r+") as h5:
        attributes = dict(h5["units/area"].attrs)
        del h5["units/area"]
        h5["units/area"] = np.array([b"CA1", b"\xff", b""])
        h5["units/area"].attrs.update(attributes)
    with pytest.raises(ValueError, match=r"rat.nwb: expected complete data.*UnicodeDecodeError"):
        read_nwb(file)
