"""Files as people have them: each kind is read as it was meant, or its cause is named."""

import datetime
import shutil
import subprocess
import sys
import warnings

import h5py
import numpy as np
import pandas as pd
import pynwb
import pytest
from pynwb.epoch import TimeIntervals

from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.findings import findings
from neuroshare.recordings.nwb import nwb_contents, read_nwb, write_nwb
from neuroshare.recordings.session import Session, member_names

START = 10 + 2.0 * np.arange(20)
ODOR = [*"AABB"] * 5
SPIKES = [np.sort(np.random.default_rng(u).uniform(5, 55, 200 + u)) for u in range(4)]


def empty(subject="mitt", **about):
    when = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    nwb = pynwb.NWBFile("made up", f"id {subject}", when, **about)
    nwb.subject = pynwb.file.Subject(subject_id=subject, species="Mus musculus", sex="U")
    return nwb


def table(name, start=START, odor=ODOR, lasts=1.0):
    made = TimeIntervals(name=name, description="d")
    made.add_column("odor", "odor")
    for s, o in zip(start, odor, strict=True):
        made.add_row(start_time=float(s), stop_time=float(s) + lasts, odor=o)
    return made


def with_units(nwb):
    for times in SPIKES:
        nwb.add_unit(spike_times=times)
    return nwb


def usual(**about):
    nwb = with_units(empty(**about))
    nwb.add_trial_column("odor", "odor")
    for s, o in zip(START, ODOR, strict=True):
        nwb.add_trial(start_time=s, stop_time=s + 1, odor=o)
    return nwb


@pytest.fixture
def write(tmp_path):
    def write(nwb, name="rat.nwb", **settings):
        with warnings.catch_warnings(), pynwb.NWBHDF5IO(str(tmp_path / name), "w") as io:
            warnings.simplefilter("ignore")
            io.write(nwb, **settings)
        return tmp_path / name

    return write


@pytest.fixture
def file(write):
    return write(usual())


def replace(file, path, data):
    attributes = dict(file[path].attrs)
    del file[path]
    made = file.create_dataset(path, data=data)
    for key, value in attributes.items():
        made.attrs[key] = value


def notes(session):
    return [str(finding) for finding in findings(session)]


# ---------------------------------------------------------------------------------- columns


@pytest.mark.parametrize("shape", [(-1, 1), (1, -1), (-1, 1, 1)])
@pytest.mark.parametrize("column", ["odor", "start_time", "id"])
def test_a_column_of_more_dimensions_is_a_column(file, shape, column):
    whole = read_nwb(file)
    with h5py.File(file, "r+") as h5:
        path = f"intervals/trials/{column}"
        replace(h5, path, h5[path][()].reshape(shape))
    pd.testing.assert_frame_equal(read_nwb(file).trials, whole.trials)
    assert notes(read_nwb(file)) == []


@pytest.mark.parametrize("path", ["units/spike_times_index", "units/id", "units/spike_times"])
def test_units_of_more_dimensions_are_read(file, path):
    with h5py.File(file, "r+") as h5:
        replace(h5, path, h5[path][()].reshape(-1, 1))
    for times, expected in zip(read_nwb(file).spike_times, SPIKES, strict=True):
        np.testing.assert_array_equal(times, expected)


def test_a_matrix_of_spike_times_is_read_without_its_padding(file):
    longest = max(map(len, SPIKES))
    matrix = np.array([np.append(t, np.full(longest - len(t), np.nan)) for t in SPIKES])
    with h5py.File(file, "r+") as h5:
        del h5["units/spike_times_index"]
        replace(h5, "units/spike_times", matrix)
    with pytest.warns(UserWarning, match="6 spike times of unit 0, unit 1, unit 2 were dropped"):
        session = read_nwb(file)
    for times, expected in zip(session.spike_times, SPIKES, strict=True):
        np.testing.assert_array_equal(times, expected)


def test_what_is_left_out_is_named_with_its_shape(write):
    nwb = usual()
    nwb.add_trial_column("rgb", "d", data=np.zeros((20, 3)))
    nwb.add_trial_column("licks", "d", data=[[1.0, 2.0]] * 20, index=True)
    nwb.add_unit_column("waveform_mean", "d", data=np.zeros((4, 30)))
    path = write(nwb)
    with h5py.File(path, "r+") as h5:
        h5["intervals/trials"].attrs["colnames"] = [
            *h5["intervals/trials"].attrs["colnames"], "gone"
        ]  # fmt: skip
        h5["intervals/trials"]["short"] = np.zeros(7)
        h5["intervals/trials"]["wave"] = np.zeros(20, complex)
    assert read_nwb(path).left_out == (
        "Left out of the trials: rgb (20 x 3), licks (lists of values), gone (named, not stored), "
        "short (7 for 20 rows), wave (of complex128).",
        "Left out of the units: waveform_mean (4 x 30).",
    )
    assert set(read_nwb(path).left_out) <= set(notes(read_nwb(path)))


def test_a_list_of_one_value_per_row_is_a_column(write):
    nwb = usual()
    nwb.add_trial_column("choice", "d", data=[[k] for k in range(20)], index=True)
    assert read_nwb(write(nwb)).trials.choice.tolist() == list(range(20))


def test_a_column_that_colnames_does_not_list_is_read_and_told(file):
    with h5py.File(file, "r+") as h5:
        h5["intervals/trials"].attrs["colnames"] = ["start_time", "stop_time"]
    session = read_nwb(file)
    assert session.trials.odor.tolist() == ODOR
    assert session.left_out == (
        "The trials hold odor, which their colnames do not list; read as a column.",
    )


def test_names_padded_with_blanks_or_written_as_one_text_are_read(file):
    whole = read_nwb(file)
    with h5py.File(file, "r+") as h5:
        names = [name.ljust(14).encode() for name in h5["intervals/trials"].attrs["colnames"]]
        del h5["intervals/trials"].attrs["colnames"]
        h5["intervals/trials"].attrs.create("colnames", np.array(names, "S14"))
        h5["units"].attrs["colnames"] = "spike_times"
    pd.testing.assert_frame_equal(read_nwb(file).trials, whole.trials)
    assert read_nwb(file).left_out == ()


def test_a_reference_is_the_name_of_what_it_refers_to_and_electrodes_say_where(write):
    nwb = empty()
    nwb.add_time_intervals(table("trials"))
    probe = nwb.create_device("probe")
    groups = [
        nwb.create_electrode_group(f"shank{k}", "d", area, probe)
        for k, area in enumerate(("CA1", "VISp"))
    ]
    for k in range(4):
        nwb.add_electrode(location=("CA1", "VISp")[k // 2], group=groups[k // 2])
    at = ([0], [1], [2, 3], [1, 2])
    for times, electrodes, group in zip(SPIKES, at, (0, 0, 1, 1), strict=True):
        nwb.add_unit(spike_times=times, electrodes=electrodes, electrode_group=groups[group])
    path = write(nwb)
    units = read_nwb(path).units
    assert units.location.tolist() == ["CA1", "CA1", "VISp", "CA1, VISp"]
    assert units.group_name.tolist() == ["shank0", "shank0", "shank1", "shank0, shank1"]
    assert units.electrode_group.tolist() == ["shank0", "shank0", "shank1", "shank1"]
    assert read_nwb(path, units="location == 'CA1'").units.index.tolist() == [0, 1]
    assert read_nwb(path).left_out == ()
    with h5py.File(path, "r+") as h5:  # without electrodes the group says where
        for name in ("electrodes", "electrodes_index"):
            del h5[f"units/{name}"]
        h5["units"].attrs["colnames"] = ["spike_times", "electrode_group"]
    assert read_nwb(path).units.location.tolist() == ["CA1", "CA1", "VISp", "VISp"]


def test_a_columns_own_location_stays(write):
    nwb = usual()
    nwb.add_unit_column("location", "d", data=[*"wxyz"])
    probe = nwb.create_device("probe")
    group = nwb.create_electrode_group("shank", "d", "CA1", probe)
    nwb.add_unit_column("electrode_group", "d", data=[group] * 4)
    assert read_nwb(write(nwb)).units.location.tolist() == [*"wxyz"]


def test_units_are_chosen_by_a_column_whose_name_is_no_word(write):
    nwb = usual()
    nwb.add_unit_column("KS Label", "d", data=["good", "mua"] * 2)
    path = write(nwb)
    assert read_nwb(path, units="`KS Label` == 'good'").units.index.tolist() == [0, 2]
    counts = bin_spikes(read_nwb(path))
    assert counts["KS_Label"].values.tolist() == ["good", "mua"] * 2
    assert counts["KS_Label"].attrs == {"column": "KS Label"}


# ------------------------------------------------------------------------------------- rows


def test_repeated_ids_are_numbered_anew_and_kept(file):
    with h5py.File(file, "r+") as h5:
        h5["units/id"][2:] = [0, 1]
        h5["intervals/trials/id"][10:] = np.arange(10)
    with (
        pytest.warns(UserWarning, match="unit ids 0, 1 are repeated.*in column 'id'"),
        pytest.warns(UserWarning, match="trial ids 0, 1, .* are repeated"),
    ):
        session = read_nwb(file)
    assert session.units.index.tolist() == [0, 1, 2, 3]
    assert session.units["id"].tolist() == [0, 1, 0, 1]
    assert session.trials["id"].tolist() == [*range(10)] * 2
    for times, expected in zip(session.spike_times, SPIKES, strict=True):
        np.testing.assert_array_equal(times, expected)


def test_rows_that_cannot_be_meant_are_left_out_and_named(file):
    with h5py.File(file, "r+") as h5:
        trials = h5["intervals/trials"]
        trials["stop_time"][3] = 1.0
        for name in ("start_time", "stop_time", "odor"):
            trials[name][7] = trials[name][6]
    with (
        pytest.warns(UserWarning, match=r"1 trial \(3\) was left out, since stop_time is before"),
        pytest.warns(UserWarning, match=r"1 trial \(7\) was left out, being equal to an earlier"),
    ):
        session = read_nwb(file)
    assert session.trials.index.tolist() == [k for k in range(20) if k not in (3, 7)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_padding_of_a_spike_train_is_dropped_and_counted(file, bad):
    with h5py.File(file, "r+") as h5:
        end = int(h5["units/spike_times_index"][1])
        h5["units/spike_times"][end - 3 : end] = bad
    with pytest.warns(UserWarning, match="3 spike times of unit 1 were dropped: .* padding"):
        session = read_nwb(file)
    for u, (times, expected) in enumerate(zip(session.spike_times, SPIKES, strict=True)):
        np.testing.assert_array_equal(times, expected[:-3] if u == 1 else expected)


def test_one_spike_at_zero_is_a_spike(tmp_path):
    session = Session("mitt", [[0.0, 1.0], [-1.0, 0.0, 2.0], [1.0]])
    again = read_nwb(write_nwb(session, tmp_path / "rat.nwb"))
    assert [t.tolist() for t in again.spike_times] == [[0, 1], [-1, 0, 2], [1]]


# ------------------------------------------------------------------------------------ names


def test_of_two_tables_of_one_name_the_usual_one_is_read_and_the_other_by_its_path(write):
    nwb = usual()
    nwb.create_processing_module("behavior", "b").add(table("trials", START[:5] + 0.7, [*"ZZZZZ"]))
    path = write(nwb)
    with pytest.warns(UserWarning, match="another of that name is at processing/behavior/trials"):
        assert read_nwb(path).trials.odor.tolist() == ODOR
    assert read_nwb(path, trials="processing/behavior/trials").trials.odor.tolist() == [*"ZZZZZ"]
    assert read_nwb(path, trials="/intervals/trials").trials.odor.tolist() == ODOR
    assert nwb_contents(path).trials == ("intervals/trials", "processing/behavior/trials")


def test_of_two_tables_of_one_name_elsewhere_one_must_be_named(write):
    nwb = with_units(empty())
    for module in ("behavior", "raw"):
        nwb.create_processing_module(module, "b").add(table("odors"))
    path = write(nwb)
    with pytest.raises(ValueError, match=r"2 tables of trials are called 'odors': processing/beh"):
        read_nwb(path, trials="odors")
    assert len(read_nwb(path, trials="processing/raw/odors").trials) == 20


def test_the_first_of_several_names_is_read(write):
    nwb = with_units(empty())
    nwb.add_time_intervals(table("odor_presentations"))
    path = write(nwb)
    assert len(read_nwb(path, trials=["trials", "odor_presentations"]).trials) == 20
    with pytest.raises(
        ValueError, match=r"no intervals table 'trials' nor 'epochs'. Found: odor_p"
    ):
        read_nwb(path, trials=["trials", "epochs"])


@pytest.mark.parametrize("trials", [[], 3, [3], "", ["trials", ""]])
def test_names_that_are_none_are_refused(file, trials):
    with pytest.raises(ValueError, match="'trials' parameter of read_nwb must be"):
        read_nwb(file, trials=trials)


def test_columns_get_names_that_results_can_be_stored_under(file, tmp_path):
    with h5py.File(file, "r+") as h5:
        for name in ("odor id", "time", "part", "start", "a/b".replace("/", "-")):
            h5["intervals/trials"].copy("odor", name)
        del h5["intervals/trials/odor"]
        h5["intervals/trials"].attrs["colnames"] = [
            "start_time", "stop_time", "odor id", "time", "part", "start", "a-b"
        ]  # fmt: skip
    counts = bin_spikes(read_nwb(file))
    names = {"odor_id", "trial_time", "trial_part", "trial_start", "a_b"}
    assert names <= set(counts.coords)
    assert {counts[name].attrs["column"] for name in names} == {
        "odor id", "time", "part", "start", "a-b"
    }  # fmt: skip
    counts.to_netcdf(tmp_path / "counts.nc", engine="h5netcdf")


def test_a_column_keeps_its_name_before_another_one_gets_it():
    trials = pd.DataFrame({"start_time": [1.0], "stop_time": [2.0], "odor id": [1], "odor_id": [2]})
    counts = bin_spikes(Session("mitt", [[1.0]], trials=trials))
    assert counts["odor_id"].item() == 2
    assert counts["trial_odor_id"].item() == 1


def test_sessions_have_names_and_those_of_one_subject_differ(write):
    a, b, c = (
        read_nwb(write(usual(subject=who, session_id=day), f"{who}{day}.nwb"))
        for who, day in (("m1", "a"), ("m1", "b"), ("m2", "a"))
    )
    assert (a.subject, a.session) == ("m1", "a")
    assert member_names([a, b, c]) == ["m1/a", "m1/b", "m2"]
    assert b.renamed("m1/b").subject == "m1/b"
    assert bin_spikes(a).attrs["session"] == "a"
    same = read_nwb(write(usual(subject="m1"), "day2.nwb"))
    assert same.session == "id m1"
    assert member_names([same, same], ["x/day1.nwb", "day2.nwb.zarr/"]) == ["m1/day1", "m1/day2"]
    with pytest.raises(ValueError, match=r"several sessions are called m1.*read_nwb"):
        member_names([same, same])


def test_the_session_is_written_and_read_again(tmp_path):
    session = Session("mitt", [[1.0]], session="day 2")
    assert read_nwb(write_nwb(session, tmp_path / "a.nwb")).session == "day 2"
    assert read_nwb(write_nwb(Session("mitt", [[1.0]]), tmp_path / "a.nwb")).session is None
    assert read_nwb(tmp_path / "a.nwb", session="x").session == "x"


# ------------------------------------------------------------------ other tables, and events


def test_units_elsewhere_are_read(write):
    nwb = with_units(empty())
    nwb.add_time_intervals(table("trials"))
    other = pynwb.misc.Units(name="sorted", description="d")
    for times in SPIKES[:2]:
        other.add_unit(spike_times=times)
    nwb.create_processing_module("ecephys", "d").add(other)
    path = write(nwb)
    assert nwb_contents(path).units == ("units", "sorted")
    assert len(read_nwb(path).units) == 4
    assert len(read_nwb(path, unit_table="sorted").units) == 2
    assert len(read_nwb(path, unit_table="processing/ecephys/sorted").units) == 2
    with pytest.raises(ValueError, match=r"no table of units 'curated'.*Found: units, sorted"):
        read_nwb(path, unit_table="curated")
    with h5py.File(path, "r+") as h5:
        del h5["units"]
    with pytest.warns(UserWarning, match="no table /units; the units of processing/ecephys/sorted"):
        assert len(read_nwb(path).units) == 2


@pytest.mark.filterwarnings("ignore:.* is deprecated")
def test_events_are_trials(write):
    nwb = with_units(empty())
    module = nwb.create_processing_module("behavior", "b")
    module.add(
        pynwb.misc.AnnotationSeries(name="pokes", data=["left", "right"] * 10, timestamps=START)
    )
    module.add(pynwb.misc.IntervalSeries(name="licks", data=[1, -1, 2, -2], timestamps=START[:4]))
    epochs = pynwb.behavior.BehavioralEpochs(name="epochs")
    epochs.add_interval_series(
        pynwb.misc.IntervalSeries(name="runs", data=[1, -1, 1], timestamps=START[:3])
    )
    module.add(epochs)
    events = pynwb.behavior.BehavioralEvents(name="events")
    events.create_timeseries(name="rewards", data=np.arange(20.0), unit="ml", timestamps=START)
    module.add(events)
    path = write(nwb)
    assert set(nwb_contents(path).trials) == {"pokes", "licks", "runs", "rewards"}
    pokes = read_nwb(path, trials="pokes")
    assert pokes.trials.start_time.tolist() == START.tolist()
    assert pokes.trials.label.tolist() == ["left", "right"] * 10
    assert pokes.trials.stop_time.isna().all()
    assert bin_spikes(pokes).shape == (20, 4, 40)
    licks = read_nwb(path, trials="licks").trials
    assert licks[["start_time", "stop_time"]].values.tolist() == [[10, 12], [14, 16]]
    assert licks.code.tolist() == [1, 2]
    runs = read_nwb(path, trials="processing/behavior/epochs/runs").trials
    assert runs.start_time.tolist() == [10, 14]
    assert np.isnan(runs.stop_time[1])
    assert read_nwb(path, trials="rewards").trials.value.tolist() == [*range(20)]


def test_tables_of_events_are_trials(write):
    nwb = with_units(empty())
    nwb.add_events_table(
        pynwb.event.EventsTable(
            name="stimuli",
            description="d",
            columns=[
                pynwb.event.TimestampVectorData(name="timestamp", description="d", data=START),
                pynwb.event.DurationVectorData(
                    name="duration", description="d", data=np.full(20, 0.5)
                ),
            ],
            colnames=["timestamp", "duration"],
        )
    )
    path = write(nwb)
    trials = read_nwb(path, trials="stimuli").trials
    assert trials.start_time.tolist() == START.tolist()
    assert trials.stop_time.tolist() == (START + 0.5).tolist()


def test_tables_of_one_row_per_kind_of_event_are_trials(file):
    with h5py.File(file, "r+") as h5:
        made = h5.create_group("processing/behavior/Events")
        h5["processing/behavior"].attrs["neurodata_type"] = "ProcessingModule"
        made.attrs["neurodata_type"] = "AnnotatedEventsTable"
        made.attrs["colnames"] = ["label", "event_times"]
        made["id"] = [0, 1]
        made["label"] = ["cue", "lick"]
        made["event_times"] = [10.0, 30.0, 20.0]
        made["event_times_index"] = [2, 3]
    trials = read_nwb(file, trials="Events").trials
    assert trials.start_time.tolist() == [10, 20, 30]
    assert trials.label.tolist() == ["cue", "lick", "cue"]


# ------------------------------------------------------------------------------------ causes


def test_an_extension_that_is_not_here_is_not_needed(file):
    with h5py.File(file, "r+") as h5:
        del h5["specifications"]
        made = h5.create_group("general/lab_x")
        made.attrs.update({"namespace": "ndx-labx", "neurodata_type": "LabX"})
        h5["units"].attrs.update({"namespace": "ndx-labx", "neurodata_type": "LabUnits"})
    assert read_nwb(file).n_spikes == sum(map(len, SPIKES))


def test_a_file_open_for_writing_elsewhere_is_told_as_such(file):
    hold = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"open for writing in another process.*LOCKING=FALSE"):
            read_nwb(file)
        holder.stdin.write("\n")
    assert len(read_nwb(file).units) == 4


def test_a_broken_link_names_what_it_points_to(file, tmp_path):
    whole = tmp_path / "raw.nwb"
    shutil.copy(file, whole)
    with h5py.File(file, "r+") as h5:
        del h5["intervals/trials"]
        h5["intervals/trials"] = h5py.ExternalLink("raw.nwb", "/intervals/trials")
    assert read_nwb(file).trials.odor.tolist() == ODOR
    with h5py.File(file, "r+") as h5:
        del h5["units"]
        h5["units"] = h5py.ExternalLink("raw.nwb", "/units")
    whole.rename(tmp_path / "moved.nwb")
    with pytest.raises(
        ValueError, match=r"rat.nwb: /units links to /units in raw.nwb, which is not"
    ):
        read_nwb(file)
    with h5py.File(file, "r+") as h5:
        del h5["units"]
        h5["units"] = h5py.SoftLink("/processing/units")
    with pytest.raises(ValueError, match="links to /processing/units, which the file does not"):
        read_nwb(file)


def test_a_cut_off_file_is_told_with_its_size(file):
    data = file.read_bytes()
    file.write_bytes(data[:-1000])
    with pytest.raises(ValueError, match=rf"cut off \({len(data) - 1000} of {len(data)} bytes\)"):
        read_nwb(file)


@pytest.mark.parametrize("version", ["1.0.6", "NWB-1.0.5"])
def test_the_first_nwb_is_told_as_such(file, version):
    with h5py.File(file, "r+") as h5:
        h5.attrs["nwb_version"] = version
    with pytest.raises(ValueError, match=f"it says schema {version}. Convert it to NWB 2"):
        read_nwb(file)


@pytest.fixture
def stores(file, tmp_path):
    """A Zarr store, and another exported from it."""
    hdmf_zarr = pytest.importorskip("hdmf_zarr.nwb", reason="hdmf-zarr is not installed")
    one, two = (str(tmp_path / f"{name}.nwb.zarr") for name in ("first", "second"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pynwb.NWBHDF5IO(str(file), "r") as r, hdmf_zarr.NWBZarrIO(one, mode="w") as w:
            w.export(src_io=r, write_args={"link_data": False})
        with hdmf_zarr.NWBZarrIO(one, mode="r") as r, hdmf_zarr.NWBZarrIO(two, mode="w") as w:
            w.export(src_io=r)
    return tmp_path / "first.nwb.zarr", tmp_path / "second.nwb.zarr"


def test_links_of_a_store_are_followed_and_missing_ones_named(stores):
    import json

    one, two = stores
    shutil.rmtree(two / "units")
    (two / ".zmetadata").unlink()
    about = json.loads((two / ".zattrs").read_text())
    about["zarr_link"] = [{"name": "units", "path": "/units", "source": "../first.nwb.zarr"}]
    (two / ".zattrs").write_text(json.dumps(about))
    assert read_nwb(two).n_spikes == sum(map(len, SPIKES))
    one.rename(one.with_name("moved.nwb.zarr"))
    with pytest.raises(ValueError, match=r"/units in first.nwb.zarr.*not there.*link_data=False"):
        read_nwb(two)


def test_a_store_whose_source_was_moved_is_read_where_nothing_needed_is_linked(stores):
    one, two = stores
    shutil.rmtree(one)
    assert read_nwb(two).trials.odor.tolist() == ODOR
