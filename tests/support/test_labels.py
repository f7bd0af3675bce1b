import numpy as np
import pandas as pd
import pytest
import xarray as xr

from neuroshare.support.labels import (
    coordinate_name,
    find_coordinate,
    same_labels,
    with_same_labels,
)


def same(*labels):
    found, told = same_labels({f"m{k}": np.asarray(v) for k, v in enumerate(labels)}, "cond")
    return [values.tolist() for values in found.values()], told


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([True, False], ["TRUE", "false"], [[True, False], [True, False]]),
        ([True, False], ["1", "0"], [[True, False], [True, False]]),
        ([True, False], [1, 0], [[True, False], [True, False]]),
        ([1, 2], ["1", "2"], [[1, 2], [1, 2]]),
        ([1, 2], [1.0, 2.0], [[1, 2], [1, 2]]),
        (np.array([0.1, 0.9], "f4"), [0.1, 0.9], [[0.1, 0.9], [0.1, 0.9]]),
        (np.array([0.1, 0.9], "f4"), ["0.1", "0.9"], [[0.1, 0.9], [0.1, 0.9]]),
        (["Left ", "Right"], ["left", "right"], [["Left", "Right"], ["Left", "Right"]]),
        (np.array([b"A", b"B"]), ["A", "B"], [["A", "B"], ["A", "B"]]),
    ],
)
def test_labels_of_one_condition_are_one_value(one, other, expected):
    assert same(one, other)[0] == expected
    assert same(other, one)[0][0] == same(other, one)[0][1]


def test_what_changes_is_told_and_nothing_else():
    assert same(["A", "B"], ["B", "A"])[1] == []
    assert same([1, 2], [2, 3])[1] == []
    assert "cond is text in subject 'm1'" in same([True], ["True"])[1][0]
    assert same(["Left "], ["left"])[1] == ["cond 'Left ' and 'left' are taken as one: 'Left'."]


def test_labels_that_one_subject_tells_apart_by_case_stay_apart():
    (one, other), _ = same(["a", "A", "b"], ["A", "B"])
    assert one == ["a", "A", "b"]
    assert other == ["A", "b"]


def test_large_whole_numbers_stay_themselves():
    assert same([2**24 + 1, 2**24 + 2], [2**24 + 1, 2**24])[0] == [
        [2**24 + 1, 2**24 + 2], [2**24 + 1, 2**24]
    ]  # fmt: skip


def test_labels_of_kinds_that_cannot_be_compared_are_refused_with_both():
    message = r"cond is boolean in 'm0' \(True, False\) and text in 'm1' \('left', 'right'\)"
    with pytest.raises(ValueError, match=message):
        same([True, False], ["left", "right"])


@pytest.mark.parametrize("missing", ["", "nan", "NaN", "None", "n/a", "null", " "])
def test_texts_that_mean_missing_are_missing_and_told(missing):
    (one, _), told = same(["A", missing, "B"], ["A", "B"])
    assert pd.isna(one[1])
    assert (one[0], one[2]) == ("A", "B")
    assert told == [f"subject 'm0': 1 trial with cond {missing!r} has no cond."]


def test_no_stimulus_is_a_condition():
    assert same(["none", "left"], ["none", "left"])[0] == [["none", "left"]] * 2


def test_missing_values_of_any_kind_stay_missing():
    (one, other, third), _ = same([1.0, np.nan], np.array([1, None], object), ["1", "nan"])
    assert one[0] == other[0] == third[0] == 1.0
    assert all(map(np.isnan, (one[1], other[1], third[1])))


def test_counts_get_the_labels():
    counts = {
        "a": xr.DataArray(np.zeros((2, 1, 1)), dims=("trial", "unit", "time"),
                          coords={"cond": ("trial", [True, False])}),
        "b": xr.DataArray(np.zeros((2, 1, 1)), dims=("trial", "unit", "time"),
                          coords={"cond": ("trial", ["True", "False"])}),
    }  # fmt: skip
    found, told = with_same_labels(counts, "cond")
    assert found["b"].cond.values.tolist() == [True, False]
    assert len(told) == 1


def test_names_of_coordinates_follow_one_rule():
    assert coordinate_name("odor id") == "odor_id"
    assert coordinate_name("a/b-c") == "a_b_c"
    assert coordinate_name("start") == "trial_start"
    assert coordinate_name("area", "unit", ("area",)) == "unit_area"
    assert coordinate_name("größe") == "größe"
    counts = xr.DataArray(
        np.zeros(2), dims="trial", coords={"odor_id": ("trial", [1, 2], {"column": "odor id"})}
    )
    assert find_coordinate(counts, "odor id") == "odor_id"
    assert find_coordinate(counts, "odor_id") == "odor_id"
    assert find_coordinate(counts, "place") == "place"
