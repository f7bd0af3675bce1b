import re

import numpy as np
import pandas as pd
import pytest

from neuroshare.recordings.findings import findings
from neuroshare.recordings.session import Session


def table(start, stop, **columns):
    return pd.DataFrame({"start_time": start, "stop_time": stop, **columns})


@pytest.fixture
def session():
    units = pd.DataFrame({"area": ["CA1", "CA3", "CA1"]}, index=[10, 20, 30])
    spikes = [np.array([0.5, 1.5]), np.array([]), np.array([2.5])]
    return Session("mitt", spikes, units, table([0.0, 2.0], [1.0, 3.0], odor=["A", "B"]))


def test_spike_times_are_read_only_views_of_one_array(session):
    first, _, last = session.spike_times
    assert first.base is last.base
    assert first.base is not None
    assert not first.flags.writeable


def test_a_mapping_names_the_units():
    session = Session("mitt", {7: [0.1], 3: [0.2, 0.3]})
    assert session.units.index.tolist() == [7, 3]
    assert session.units.index.name == "unit"
    assert session.spike_times[1].tolist() == [0.2, 0.3]


def test_a_mapping_puts_the_unit_table_in_its_order():
    units = pd.DataFrame({"area": ["CA3", "CA1"]}, index=[3, 7])
    assert Session("mitt", {7: [0.1], 3: [0.2]}, units).units.area.tolist() == ["CA1", "CA3"]


def test_a_mapping_of_other_units_than_the_table_is_refused():
    with pytest.raises(ValueError, match=r"'mitt'.*different units: 4"):
        Session("mitt", {7: [], 4: []}, pd.DataFrame(index=[7]))


def test_unsorted_spikes_are_sorted_with_a_warning_that_names_the_units():
    with pytest.warns(UserWarning, match="sorted in units 8"):
        session = Session("mitt", {7: [1.0, 2.0], 8: [0.5, 0.1], 9: [], 4: [0.0]})
    assert [times.tolist() for times in session.spike_times] == [[1.0, 2.0], [0.1, 0.5], [], [0.0]]


def test_the_callers_arrays_are_left_alone():
    times = np.array([2.0, 1.0])
    with pytest.warns(UserWarning, match="sorted"):
        Session("mitt", [times])
    assert times.tolist() == [2.0, 1.0]
    assert times.flags.writeable


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_spike_times_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match=r"finite.*in units 8"):
        Session("mitt", {7: [1.0], 8: [0.5, bad]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spike_times": [[1.0], [2.0]], "units": pd.DataFrame(index=[1])}, "2 units.*got 1 rows"),
        (
            {"spike_times": [[1.0], [2.0]], "units": pd.DataFrame(index=[1, 1])},
            "unit ids must be unique; repeated: 1",
        ),
        ({"spike_times": [np.zeros((2, 2))]}, r"one-dimensional.*\(2, 2\)"),
        ({"spike_times": [], "trials": table([1.0], [0.5])}, "trials 0 stop before they start"),
        ({"spike_times": [], "trials": table(["a"], ["b"])}, "must be seconds"),
        ({"spike_times": [], "trials": pd.DataFrame({"odor": ["A"]})}, "start_time.*Found: odor"),
        (
            {"spike_times": [], "trials": table([0.0, 1.0], [1.0, 2.0]).set_axis([5, 5])},
            "trial ids must be unique; repeated: 5",
        ),
    ],
)
def test_a_broken_invariant_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Session("mitt", **arguments)


@pytest.mark.parametrize(
    "chosen",
    [
        [10, 30],
        np.array([True, False, True]),
        "area == 'CA1'",
        lambda units: units.area == "CA1",
    ],
)
def test_units_are_chosen_by_id_mask_query_or_callable(session, chosen):
    selected = session.select(units=chosen)
    assert selected.units.index.tolist() == [10, 30]
    assert selected.spike_times[1].tolist() == [2.5]
    assert len(selected.trials) == 2


def test_ids_choose_their_own_order(session):
    assert session.select(units=[30, 10]).spike_times[0].tolist() == [2.5]


def test_nothing_can_be_chosen(session):
    empty = session.select(units=[], trials=[])
    assert empty.spike_times == ()
    assert empty.trials.empty


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([11], "no units 11. Found: 10, 20, 30"),
        (np.array([True]), r"mask over 3 units, got shape \(1,\)"),
        ("depth > 3", "depth.*Columns: area"),
    ],
)
def test_a_choice_that_cannot_be_met_is_refused(session, chosen, message):
    with pytest.raises(ValueError, match=message):
        session.select(units=chosen)


def test_nothing_is_found_in_a_sound_session():
    spikes = np.sort(np.random.default_rng(0).uniform(0, 10, 200))
    assert findings(Session("mitt", [spikes], trials=table([0, 5], [5, 10], odor=["A", "B"]))) == []


@pytest.mark.parametrize(("factor", "unit"), [(1e3, "milliseconds"), (3e4, "samples")])
def test_times_not_in_seconds_are_found(factor, unit):
    spikes = np.sort(np.random.default_rng(0).uniform(0, 100, 500)) * factor
    if unit == "samples":
        spikes = np.round(spikes)
    assert f"probably in {unit}" in str(findings(Session("mitt", [spikes]))[0])


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        (table([0, 1, 2], [10, 1.5, 2.5]), "2 trials begin before"),
        (table([0, np.nan], [3, 4.0]), r"1 trial without a time \(NaN or infinite\): 1"),
        (table([0, 3], [3, np.inf]), r"1 trial without a time \(NaN or infinite\): 1"),
        (table([90.0], [91.0]), "No spike falls inside any trial"),
        (table([0, 90.0], [3, 91.0]), "1 trial of 2 without a single spike"),
        (table([0, 3], [3, 4.0], odor=["A", "A"]), "one value only: odor"),
    ],
)
def test_odd_trials_are_found(trials, message):
    found = findings(Session("mitt", [[0.5, 1.5]], trials=trials))
    assert any(re.search(message, str(finding)) for finding in found)


def test_silent_units_are_found(session):
    assert "1 of 3 units is silent: 20." in map(str, findings(session))


def test_notebooks_show_a_table_of_columns():
    trials = pd.DataFrame({"start_time": [0.0, 2.0], "stop_time": [1.0, 3.0], "odor": ["<A>", "B"]})
    html = Session("m1", [np.array([0.1])], trials=trials, session="day 1")._repr_html_()
    assert "Session of m1, day 1: 1 unit, 1 spike" in html
    assert "<td>trial column</td><td>odor</td><td>&lt;A&gt; (1), B (1)</td>" in html
