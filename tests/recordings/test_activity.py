"""Fluorescence: read from NWB, binned around trials, and fitted like spikes."""

import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pynwb
import pytest
import xarray as xr
from pynwb import ophys

import neuroshare as ns

RATE = 20.0
pytestmark = pytest.mark.filterwarnings("ignore:The linked table", "ignore:RoiResponseSeries")


def trial_table(n=48, seed=0):
    odor = np.random.default_rng(seed).permutation(np.resize(["A", "B", "C"], n))
    start = 5 + 3.0 * np.arange(n)
    return pd.DataFrame({"start_time": start, "stop_time": start + 1, "odor": odor})


def session_of(subject, n_units=12, seed=0):
    """Units whose fluorescence rises after odors, about a baseline of 1."""
    rng = np.random.default_rng(seed)
    trials = trial_table(seed=seed)
    time = np.arange(0, 160, 1 / RATE)
    values = 1 + rng.normal(0, 0.1, (len(time), n_units))
    tuning = rng.uniform(0, 0.5, (3, n_units))
    for start, odor in zip(trials.start_time, trials.odor, strict=True):
        during = (time >= start) & (time < start + 1)
        values[during] += tuning["ABC".index(odor)] * rng.uniform(0.5, 1.5)
    activity = xr.DataArray(values, {"time": time}, ("time", "unit"))
    return ns.Session(subject, [], trials=trials, activity=activity)


def write(path, session, *, by_unit=False, also_raw=True, spikes=False):
    nwb = pynwb.NWBFile(
        "made up", f"id {session.subject}", datetime(2024, 1, 1, tzinfo=UTC),
        subject=pynwb.file.Subject(subject_id=session.subject, species="Mus musculus"),
    )  # fmt: skip
    device = nwb.create_device("microscope")
    channel = ophys.OpticalChannel(name="green", description="green", emission_lambda=510.0)
    plane = nwb.create_imaging_plane(
        name="plane", optical_channel=channel, description="d", device=device,
        excitation_lambda=488.0, indicator="GCaMP6f", location="CA1",
    )  # fmt: skip
    regions = ophys.PlaneSegmentation(description="d", imaging_plane=plane, name="cells")
    segmentation = ophys.ImageSegmentation(name="ImageSegmentation", plane_segmentations=[regions])
    module = nwb.create_processing_module("ophys", "imaging")
    module.add(segmentation)
    n = len(session.units)
    regions.add_column("depth", "µm")
    for k in range(n + 2):  # two more than the series holds
        regions.add_roi(pixel_mask=[(k, k, 1.0)], depth=10.0 * k, id=100 + k)
    rois, same = (
        regions.create_roi_table_region("cells", region=list(range(2, n + 2))) for _ in range(2)
    )
    values = session.activity.values
    series = ophys.RoiResponseSeries(
        name="cells", data=values.T if by_unit else values, unit="a.u.", rois=rois, rate=RATE
    )
    module.add(ophys.DfOverF(roi_response_series=series, name="DfOverF"))
    if also_raw:
        raw = ophys.RoiResponseSeries(
            name="raw", data=100 * values, unit="a.u.", rois=same, rate=RATE
        )
        module.add(ophys.Fluorescence(roi_response_series=raw, name="Fluorescence"))
    nwb.add_trial_column("odor", "odor")
    for row in session.trials.itertuples():
        nwb.add_trial(row.start_time, row.stop_time, odor=row.odor)
    if spikes:
        nwb.add_unit(spike_times=[1.0, 2.0])
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    return path


@pytest.mark.parametrize("by_unit", [False, True])
def test_activity_of_a_file_without_spikes_is_read(tmp_path, by_unit):
    session = session_of("a")
    path = write(tmp_path / "a.nwb", session, by_unit=by_unit)
    read = ns.read_nwb(path)
    np.testing.assert_allclose(read.activity, session.activity)
    np.testing.assert_allclose(read.activity["time"], session.activity["time"])
    assert read.units.index.tolist() == [102 + k for k in range(12)]
    assert read.units["depth"].tolist() == [20.0 + 10 * k for k in range(12)]
    assert ns.nwb_contents(path).units == ("cells", "raw")
    some = ns.read_nwb(path, units="depth > 100")
    np.testing.assert_allclose(some.activity, session.activity[:, 9:])
    raw = ns.read_nwb(path, unit_table="raw")
    np.testing.assert_allclose(raw.activity, 100 * session.activity)
    assert not [f for f in ns.findings(read, "start_time", (0, 1)) if f.level != "note"]


def test_spikes_go_first_and_activity_can_be_asked_for(tmp_path):
    path = write(tmp_path / "a.nwb", session_of("a"), spikes=True)
    assert ns.read_nwb(path).activity is None
    assert (
        ns.read_nwb(path, unit_table="processing/ophys/DfOverF/cells").activity.sizes["unit"] == 12
    )


def test_bins_hold_means_and_narrow_ones_lie_on_lines():
    session = session_of("a")
    wide = ns.bin_activity(session, span=(0.0, 1.0), bin_size=0.25)
    time, values = session.activity["time"].values, session.activity.values
    for k, start in enumerate(session.trials.start_time[:5]):
        for b in range(4):
            within = (time >= start + 0.25 * b) & (time < start + 0.25 * (b + 1))
            np.testing.assert_allclose(wide.values[k, :, b], values[within].mean(0))
    narrow = ns.bin_activity(session, span=(0.0, 1.0), bin_size=0.01)
    centre = session.trials.start_time[0] + narrow["time"].values
    between = np.stack([np.interp(centre, time, unit) for unit in values.T])
    apart = np.abs(centre[:, None] - time).min(1) > 0.006  # no sample in the bin
    np.testing.assert_allclose(narrow.values[0][:, apart], between[:, apart])
    assert wide.dims == ("trial", "unit", "time")
    assert wide.odor.values.tolist() == session.trials.odor.tolist()


def test_trials_beyond_the_samples_and_units_without_are_left_out():
    session = session_of("a")
    activity = session.activity.isel(time=slice(200, 2000)).copy()
    activity[:, 3] = np.nan
    short = ns.Session("a", [], trials=session.trials, activity=activity)
    with pytest.warns(UserWarning, match="left out, in which activity") as told:
        binned = ns.bin_activity(short, span=(0.0, 1.0))
    texts = [str(w.message) for w in told]
    assert any("trials left out, in which activity was not sampled" in text for text in texts)
    assert any("1 of 12 units left out" in text for text in texts)
    assert np.isfinite(binned).all()
    assert 3 not in binned.unit.values
    within = (session.trials.start_time >= 10) & (session.trials.start_time + 1 < 100)
    assert binned.trial.values.tolist() == session.trials.index[within].tolist()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda a: a.values, TypeError, "dims time .seconds. and unit, got ndarray"),
        (lambda a: a.isel(time=slice(None, None, -1)), ValueError, "time that ascends"),
        (lambda a: a.astype(str), ValueError, "activity in numbers"),
    ],
)
def test_activity_that_is_none_is_refused(change, error, match):
    with pytest.raises(error, match=match):
        ns.Session("a", [], activity=change(session_of("a").activity))


def test_what_takes_spikes_says_so():
    session = session_of("a")
    with pytest.raises(ValueError, match="expected spike times or activity, got both"):
        ns.Session("a", [[0.1]], activity=session.activity)
    with pytest.raises(ValueError, match="Bin it with bin_activity"):
        ns.bin_spikes(session)
    with pytest.raises(ValueError, match="no activity beside spikes"):
        ns.bin_activity(ns.Session("a", [[0.1]], trials=session.trials))
    with pytest.raises(ValueError, match="expected spikes to write"):
        ns.write_nwb(session, "never.nwb")
    assert session.select(units=[1, 2]).activity.sizes["unit"] == 2
    assert "12 units, 3,200 samples from 0 to 159.95 s" in repr(session)


def test_fit_of_files_with_fluorescence(tmp_path):
    from neuroshare.workflow.run import run_fit
    from neuroshare.workflow.settings import RunConfig

    files = tuple(
        str(write(tmp_path / f"{name}.nwb", session_of(name, 10 + k, seed=k)))
        for k, name in enumerate("abc")
    )
    config = RunConfig(
        files, "odor", "start_time", (0.0, 1.0), bin_size=0.05, width=0.5, step=0.25,
        min_trials=4, permutations=19, bootstraps=20, model={"epochs": 0, "latent_dim": 2},
    )  # fmt: skip
    told = []
    result = run_fit(config, tmp_path / "run", progress=False, tell=told.append)
    assert any("is no spike counts: the model takes it as Gaussian" in text for text in told)
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["cross"]["trial"]["mean"] > 0.6 if "cross" in scores else True
    explained = scores["imputation"]["variance_explained"]["all others"]
    assert all(0 < value <= 1 for value in explained.values())
    page = (tmp_path / "run" / "report.html").read_text()
    assert "variance explained" in page
    assert "bits per spike" not in page
    assert result.model.likelihood == "gaussian"
