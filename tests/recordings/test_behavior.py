import numpy as np
import pynwb
import pytest
import xarray as xr

from neuroshare.recordings.behavior import as_dataset
from neuroshare.recordings.nwb import nwb_contents, read_nwb, write_nwb
from neuroshare.recordings.session import Session

TIME = np.arange(50) / 25
PLACE = np.column_stack([np.sin(TIME), np.cos(TIME)])


def series(**others):
    return as_dataset(
        {
            "position": (PLACE, TIME, {"unit": "m", "description": "d", "kind": "SpatialSeries"}),
            "speed": (TIME**2, TIME, {"unit": "m/s", "description": "d", "kind": "TimeSeries"}),
            **others,
        }
    )


def test_behavior_is_written_and_read_again(tmp_path):
    session = Session("mitt", [[1.0]], behavior=series())
    again = read_nwb(write_nwb(session, tmp_path / "rat.nwb"))
    xr.testing.assert_identical(again.behavior, session.behavior)
    assert again.behavior.position.dims == ("time", "axis_position")
    assert again.behavior.axis_position.values.tolist() == ["x", "y"]
    assert again.behavior.speed.attrs["unit"] == "m/s"
    assert nwb_contents(tmp_path / "rat.nwb").behavior == ("position", "speed")
    assert pynwb.validate(path=str(tmp_path / "rat.nwb")) == []
    assert not read_nwb(tmp_path / "rat.nwb", behavior=False).behavior


def test_series_of_other_clocks_keep_them(tmp_path):
    pupil = (np.ones(7), np.arange(7.0), {"unit": "mm", "description": "d", "kind": "TimeSeries"})
    session = Session("mitt", [[1.0]], behavior=series(pupil=pupil))
    again = read_nwb(write_nwb(session, tmp_path / "rat.nwb")).behavior
    xr.testing.assert_identical(again, session.behavior)
    assert again.pupil.dims == ("time_pupil",)
    assert again.position.dims == ("time_position", "axis_position")


def test_series_are_in_their_unit_and_on_the_clock_of_the_session(tmp_path):
    path = write_nwb(Session("mitt", [[1.0]]), tmp_path / "rat.nwb")
    with pynwb.NWBHDF5IO(path, "r+") as io:
        nwb = io.read()
        module = nwb.create_processing_module("behavior", "b")
        position = pynwb.behavior.Position()
        position.create_spatial_series(
            name="linear", data=np.arange(10)[:, None], reference_frame="d", unit="m",
            conversion=0.01, starting_time=5.0, rate=2.0,
        )  # fmt: skip
        module.add(position)
        module.add(
            pynwb.TimeSeries(name="words", data=["a", "b"], unit="n/a", timestamps=[0.0, 1.0])
        )
        io.write(nwb)
    session = read_nwb(path)
    np.testing.assert_allclose(session.behavior.linear, np.arange(10) * 0.01)
    np.testing.assert_allclose(session.behavior.time, 5 + np.arange(10) / 2)
    assert session.left_out == ("Left out of the behavior: words (of object).",)


def test_selecting_keeps_behavior_and_session():
    session = Session("mitt", {3: [1.0], 4: [2.0]}, session="day", behavior=series())
    chosen = session.select(units=[4])
    assert chosen.session == "day"
    xr.testing.assert_identical(chosen.behavior, session.behavior)


def test_behavior_that_is_no_dataset_is_refused():
    with pytest.raises(TypeError, match="xarray Dataset of behavior, got ndarray"):
        Session("mitt", [[1.0]], behavior=np.zeros(3))
    with pytest.raises(ValueError, match="name of the session"):
        Session("mitt", [[1.0]], session="")


@pytest.mark.data
def test_real_behavior_is_read(data_dir):
    arena = read_nwb(data_dir / "riab_arena_5rats" / "Rat1.nwb").behavior
    assert set(arena) == {"position", "head_direction"}
    assert arena.position.dims[0] == arena.head_direction.dims[0] == "time"
    track = read_nwb(next((data_dir / "track_A_6mice").glob("*.nwb"))).behavior
    assert np.isfinite(track.linear_position).all()


@pytest.mark.parametrize(("unit", "period"), [("radians", 2 * np.pi), ("deg", 360.0), ("", 360.0)])
def test_a_compass_direction_comes_with_its_period_and_stays_one(tmp_path, unit, period):
    about = {"unit": unit, "description": "d", "kind": "CompassDirection", "period": period}
    heading = (TIME % 2 * period / 2.1, TIME, about)
    tilt = (TIME % 2 * period / 2.1, TIME, about)
    session = Session("mitt", [[1.0]], behavior=series(heading=heading, tilt=tilt))
    path = write_nwb(session, tmp_path / "rat.nwb")
    again = read_nwb(path).behavior
    for name in ("heading", "tilt"):
        assert again[name].attrs["period"] == period
        np.testing.assert_array_equal(again[name], session.behavior[name])
    assert "period" not in again.position.attrs
    assert pynwb.validate(path=str(path)) == []
