import json
from datetime import UTC, datetime

import h5py
import numpy as np
import pandas as pd
import pynwb
import pytest
import xarray as xr

from neuroshare import __version__
from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.nwb import read_nwb, write_nwb
from neuroshare.recordings.results import write_results
from neuroshare.recordings.simulate import simulate_sessions
from neuroshare.windows.pair import pair_subjects


@pytest.fixture(scope="module")
def sessions():
    return simulate_sessions({"mitt": 6, "stella": 5}, n_trials=4, seed=2)


@pytest.fixture(scope="module")
def found(sessions):
    """Latents and residuals as `transform` and `residuals` give them, of values to recognise."""
    counts = {name: bin_spikes(session, span=(0.0, 0.3)) for name, session in sessions.items()}
    paired = pair_subjects(counts, by="odor", order="rank")
    coords = paired.coords()
    n = paired.sizes["window"]
    rng = np.random.default_rng(0)
    latents = xr.DataArray(
        rng.normal(size=(2, n, 3)).astype(np.float32),
        dims=("subject", "window", "latent"),
        coords={**coords, "latent": [0, 1, 2]},
    )
    names = np.repeat(list(counts), [6, 5])
    ids = np.concatenate([np.arange(6), np.arange(5)]).astype(str)
    partition = rng.normal(size=(3, 11))
    residuals = xr.Dataset(
        {
            "residual": (("window", "unit"), rng.normal(size=(n, 11)).astype(np.float32)),
            "variance_unit": (("part", "unit"), partition),
            "share_unit": (("part", "unit"), partition / partition.sum(0)),
        },
        coords={
            **coords,
            "unit": [f"{name}/{i}" for name, i in zip(names, ids, strict=True)],
            "unit_subject": ("unit", names),
            "unit_id": ("unit", ids),
            "part": ["shared", "specific", "noise"],
        },
    )
    return latents, residuals


@pytest.fixture
def file(sessions, tmp_path):
    return write_nwb(sessions["mitt"], tmp_path / "mitt.nwb")


@pytest.fixture
def written(file, found, tmp_path):
    settings = {"objective": "mmvm", "hidden": (8, 8)}
    return write_results(file, tmp_path / "out.nwb", *found, settings=settings)


def module_of(path):
    with pynwb.NWBHDF5IO(path, "r") as io:
        module = io.read().processing["neuroshare"]
        read = {}
        for name, held in module.data_interfaces.items():
            if isinstance(held, pynwb.TimeSeries):
                read[name] = held.timestamps[:], held.data[:], held.unit
            else:
                read[name] = held.to_dataframe()
        return read


@pytest.fixture
def time(found, sessions):
    """Centres of the windows on the clock of the session."""
    trial = found[0]["trial"].sel(subject="mitt").to_numpy()
    onset = sessions["mitt"].trials["start_time"].loc[trial].to_numpy()
    return onset + found[0]["time"].to_numpy()


def test_latents_are_held_at_their_windows(written, found, time):
    held, data, _ = module_of(written)["latents"]
    np.testing.assert_array_equal(held, np.sort(time))
    np.testing.assert_array_equal(data, found[0].sel(subject="mitt")[np.argsort(time)])


def test_residuals_and_their_parts_are_those_of_the_subjects_units(written, found, time):
    module = module_of(written)
    held, data, unit = module["residuals"]
    assert unit == "spikes"
    np.testing.assert_array_equal(held, np.sort(time))
    np.testing.assert_array_equal(data, found[1]["residual"][np.argsort(time), :6])
    parts = module["residual_parts"]
    assert parts["unit"].tolist() == list(range(6))
    for k, part in enumerate(("shared", "specific", "noise")):
        np.testing.assert_array_equal(parts[f"variance_{part}"], found[1]["variance_unit"][k, :6])
        np.testing.assert_array_equal(parts[f"share_{part}"], found[1]["share_unit"][k, :6])


def test_provenance_tells_what_the_results_were_made_with(written):
    table = module_of(written)["provenance"]
    told = dict(zip(table["setting"], table["value"], strict=True))
    age = datetime.now(UTC) - datetime.fromisoformat(told.pop("date"))
    assert 0 <= age.total_seconds() < 600
    assert json.loads(told.pop("hidden")) == [8, 8]
    assert told == {
        "neuroshare": __version__, "file": "mitt.nwb", "subject": "mitt", "align": "start_time",
        "objective": "mmvm",
    }  # fmt: skip


def test_the_recording_stays_as_it_was(written, file, sessions):
    one, other = read_nwb(written), read_nwb(file)
    for a, b in zip(one.spike_times, other.spike_times, strict=True):
        np.testing.assert_array_equal(a, b)
    pd.testing.assert_frame_equal(one.units, other.units)
    pd.testing.assert_frame_equal(one.trials, other.trials)
    with h5py.File(file) as h5:
        assert "neuroshare" not in h5.get("processing", {})


def test_results_are_valid_nwb_without_critical_findings(written):
    inspector = pytest.importorskip("nwbinspector", reason="nwbinspector is not installed")
    assert pynwb.validate(path=str(written)) == []
    found = inspector.inspect_nwbfile(
        nwbfile_path=str(written), importance_threshold=inspector.Importance.CRITICAL
    )
    assert [message.message for message in found] == []


def test_a_file_can_be_extended_in_place_and_again(file, found):
    write_results(file, file, *found)
    write_results(file, file, found[0] + 1)
    module = module_of(file)
    assert set(module) == {"latents", "provenance"}
    assert module["latents"][1].mean() > 0.5
    assert [path.name for path in file.parent.iterdir()] == ["mitt.nwb"]


def test_a_file_without_subject_id_takes_the_name_given(file, found):
    with h5py.File(file, "r+") as h5:
        del h5["general/subject"]
    write_results(file, file, found[0], subject="mitt")
    assert "latents" in module_of(file)


def test_a_failure_leaves_the_old_file_and_no_other(file, found, monkeypatch):
    before = file.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_results(file, file, *found)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["mitt.nwb"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, r: (), "needs latents, residuals or both, got neither"),
        (lambda z, r: (z.sel(subject=["stella"]),), "no subject 'mitt' in the results. Found: ste"),
        (lambda z, r: (None, r.isel(unit=slice(6, None))), "got no unit of it"),
        (
            lambda z, r: (None, r.assign_coords(unit_subject=("unit", ["mitt"] * 11),
                                                unit_id=("unit", list("abcdefghijk")))),
            "got unit 'a', which it lacks",
        ),
        (lambda z, r: (z.assign_coords(trial=z["trial"] + 900),), "every trial that was binned"),
    ],
)  # fmt: skip
def test_results_of_something_else_are_refused(file, found, change, message):
    before = file.read_bytes()
    with pytest.raises(ValueError, match=message):
        write_results(file, file, *change(*found))
    assert file.read_bytes() == before


def test_only_files_on_disk_can_be_extended(found, tmp_path):
    for path in ("https://127.0.0.1/mitt.nwb", tmp_path):
        with pytest.raises(ValueError, match="on disk to add results to"):
            write_results(path, tmp_path / "out.nwb", found[0])
    with pytest.raises(FileNotFoundError, match="no such file"):
        write_results(tmp_path / "none.nwb", tmp_path / "out.nwb", found[0])
