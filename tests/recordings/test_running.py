import numpy as np
import pytest

from neuroshare.recordings.simulate import simulate_sessions


def test_rats_run_laps_of_unequal_length_over_the_whole_track():
    rat = simulate_sessions({"mitt": 12}, running=120)["mitt"]
    lengths = rat.trials.stop_time - rat.trials.start_time
    assert lengths.std() > 0.3
    position = rat.behavior.position
    for lap in rat.trials.itertuples():
        way = position.sel(time=slice(lap.start_time, lap.stop_time))
        assert np.ptp(way.values) > 1.95
        rises = float(way[-1]) > float(way[0])
        assert rises == (lap.direction == "out")
    assert (rat.behavior.speed >= 0).all()


def test_rates_follow_the_tuning_of_the_truth():
    sessions, truth = simulate_sessions(
        {"mitt": 12}, running=600, private=0, return_truth=True, signal=2
    )
    rat, tuning = sessions["mitt"], truth["mitt"].tuning.sel(direction="out", map=0)
    position = rat.behavior.position.values
    time = rat.behavior.time.values
    laps = rat.trials.query("direction == 'out'")
    inside = np.zeros(len(time), bool)
    for lap in laps.itertuples():
        inside |= (time >= lap.start_time) & (time < lap.stop_time)
    edges = np.linspace(0, 2, 11)
    seconds = np.histogram(position[inside], edges)[0] * 0.02
    for unit, times in enumerate(rat.spike_times):
        at = np.clip(np.searchsorted(time, times) - 1, 0, len(time) - 1)
        near = np.where(np.abs(time[at] - times) < 0.011, at, np.minimum(at + 1, len(time) - 1))
        spikes = np.histogram(position[near][inside[near]], edges)[0]
        expected = tuning[unit].values.reshape(10, 5).mean(axis=1) * seconds
        # Poisson: four standard errors, and the time within a place is not quite uniform.
        assert (np.abs(spikes - expected) < 4 * np.sqrt(expected + 1) + 0.15 * expected).all()


def test_maps_change_and_a_rat_does_not_depend_on_the_others():
    one, truth = simulate_sessions({"mitt": 12}, running=300, maps=3, return_truth=True)
    both = simulate_sessions({"stella": 5, "mitt": 12}, running=300, maps=3)
    assert one["mitt"].trials.equals(both["mitt"].trials)
    assert one["mitt"].trials["map"].nunique() > 1
    assert truth["mitt"].tuning.sizes == {"map": 3, "direction": 2, "unit": 12, "place": 50}


@pytest.mark.parametrize("wrong", [{"running": 0}, {"running": 10, "maps": 0}])
def test_a_run_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match=r"running|maps"):
        simulate_sessions({"mitt": 3}, **wrong)
