"""Files as MatNWB writes them: other shapes, ids from 1, texts as bytes of fixed length."""

import h5py
import numpy as np
import pytest

import neuroshare as ns


def rewritten(h5, name, shape=None, dtype=None):
    """Store a column in another shape or type, with its attributes."""
    old = h5[name]
    values, attrs = old[()], dict(old.attrs)
    del h5[name]
    values = values if dtype is None else values.astype(dtype)
    new = h5.create_dataset(name, data=values if shape is None else values.reshape(shape))
    for key, value in attrs.items():
        new.attrs[key] = value


@pytest.mark.parametrize("shape", [(-1, 1), (1, -1)])
def test_columns_of_one_row_or_column_are_columns(tmp_path, shape):
    session = ns.simulate_sessions({"mitt": 5}, n_trials=4)["mitt"]
    path = ns.write_nwb(session, tmp_path / "mitt.nwb")
    with h5py.File(path, "r+") as h5:
        for column in ("start_time", "stop_time", "position"):
            rewritten(h5, f"intervals/trials/{column}", shape)
        rewritten(h5, "units/spike_times", shape)
        rewritten(h5, "units/spike_times_index", shape)
        rewritten(h5, "intervals/trials/id", shape)
        rewritten(h5, "units/id", shape)
        h5["intervals/trials/id"][...] += 1
        h5["units/id"][...] += 1
    read = ns.read_nwb(path)
    assert read.trials.index.tolist() == list(range(1, 17))
    assert read.units.index.tolist() == [1, 2, 3, 4, 5]
    for column in ("start_time", "position"):
        np.testing.assert_array_equal(read.trials[column], session.trials[column])
    for ours, theirs in zip(read.spike_times, session.spike_times, strict=True):
        np.testing.assert_allclose(ours, theirs)


def test_texts_of_fixed_length_and_doubles_for_numbers(tmp_path):
    session = ns.simulate_sessions({"mitt": 5}, n_trials=4)["mitt"]
    path = ns.write_nwb(session, tmp_path / "mitt.nwb")
    with h5py.File(path, "r+") as h5:
        odor = np.array([str(o) for o in session.trials["odor"]], "S4")
        attrs = dict(h5["intervals/trials/odor"].attrs)
        del h5["intervals/trials/odor"]
        h5["intervals/trials/odor"] = odor
        for key, value in attrs.items():
            h5["intervals/trials/odor"].attrs[key] = value
        rewritten(h5, "intervals/trials/position", dtype=float)
        rewritten(h5, "units/spike_times_index", dtype=np.uint64)
    read = ns.read_nwb(path)
    assert read.trials["odor"].tolist() == session.trials["odor"].tolist()
    np.testing.assert_array_equal(read.trials["position"], session.trials["position"])
    assert ns.bin_spikes(read).sizes["trial"] == 16
