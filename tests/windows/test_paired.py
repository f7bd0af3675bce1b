import zlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import neuroshare as ns
from neuroshare.support import chunks
from neuroshare.windows.pair import pair_subjects
from neuroshare.windows.pairing import Pairing

BIN = 0.01
ODORS = np.array(["A", "B", "C"])


def activity(labels, n_units=2, n_bins=12, seed=0, first=0, by="odor", bin_size=BIN):
    """Counts (trial, unit, time) with one label per trial."""
    labels = np.asarray(labels)
    shape = (len(labels), n_units, n_bins)
    return xr.DataArray(
        np.random.default_rng(seed).poisson(1.0, shape).astype(np.int16),
        dims=("trial", "unit", "time"),
        coords={
            "trial": first + np.arange(len(labels)),
            "unit": np.arange(n_units),
            "time": (np.arange(n_bins) + 0.5) * bin_size,
            by: ("trial", labels),
        },
        attrs={"bin_size": bin_size},
    )


def subject(name, repeats, **more):
    """One subject with so many trials of A, B, ... in mixed order."""
    seed = zlib.crc32(name.encode())
    labels = np.random.default_rng(seed).permutation(np.repeat(ODORS[: len(repeats)], repeats))
    return activity(labels, seed=seed, **more)


def subjects(table, **more):
    return {f"rat{i}": subject(f"rat{i}", repeats, **more) for i, repeats in enumerate(table)}


def used(paired, name):
    """Ids of the trials of a subject in the rows, as often as they occur."""
    column = paired.partners[:, paired.subjects.index(name)]
    return paired.trial_ids(name)[column[column >= 0]]


def labels(paired, name):
    """Condition of every trial of a subject."""
    return np.array(paired.conditions)[paired.codes(name)]


def ids(paired, name):
    return paired.trial_ids(name).tolist()


def trial_sets(paired):
    return {name: set(ids(paired, name)) for name in paired.subjects}


def tables(least=1, most=7):
    """Trials per subject and condition, unequal, as (subject, condition) lists."""
    return st.integers(2, 3).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(least, most), min_size=n, max_size=n), min_size=1, max_size=4
        )
    )


surpluses = st.sampled_from(["repeat", "absent", "drop"])
orders = st.sampled_from(["random", "rank"])
seeds = st.integers(0, 2**31)


# ---------------------------------------------------------------------------- split


@given(tables(least=2), seeds, st.floats(0.05, 0.95), surpluses, orders)
@settings(deadline=None, max_examples=60)
def test_no_trial_is_on_both_sides_of_a_split(table, seed, fraction, surplus, order):
    paired = pair_subjects(subjects(table), "odor", 0.1, order=order, surplus=surplus)
    train, test = paired.split(fraction, seed=seed, blocks=None)
    for name in paired.subjects:
        parts = [set(used(part, name).tolist()) for part in (train, test)]
        assert not parts[0] & parts[1]
        assert parts[0] <= trial_sets(train)[name]
        assert parts[1] <= trial_sets(test)[name]
        assert sorted(ids(train, name) + ids(test, name)) == sorted(ids(paired, name))


@given(tables(least=2), seeds, st.floats(0.05, 0.95))
@settings(deadline=None, max_examples=30)
def test_a_condition_with_two_trials_is_in_both_parts(table, seed, fraction):
    paired = pair_subjects(subjects(table), "odor", 0.1)
    for part in paired.split(fraction, seed=seed, blocks=None):
        for name in part.subjects:
            assert set(labels(part, name)) == set(paired.conditions)


@given(seeds)
@settings(deadline=None, max_examples=20)
def test_a_single_trial_of_a_condition_is_trained_on(seed):
    paired = pair_subjects(subjects([[1, 4], [3, 4]]), "odor", 0.1)
    train, test = paired.split(0.5, seed=seed, blocks=None)
    assert "A" in set(labels(train, "rat0"))
    assert "A" not in set(labels(test, "rat0"))


@given(seeds, st.permutations(["rat0", "rat1", "rat2"]), st.integers(1, 3))
@settings(deadline=None, max_examples=20)
def test_the_split_of_a_subject_depends_on_no_other_subject(seed, names, n_kept):
    counts = subjects([[2, 5, 3], [4, 4, 6], [7, 2, 2]])
    train, test = pair_subjects(counts, "odor", 0.1).split(seed=seed)
    fewer = {name: counts[name] for name in names[:n_kept]}
    own_train, own_test = pair_subjects(fewer, "odor", 0.1).split(seed=seed)
    for name in fewer:
        assert ids(own_train, name) == ids(train, name)
        assert ids(own_test, name) == ids(test, name)


def test_the_split_holds_out_the_asked_share_of_every_condition():
    paired = pair_subjects(subjects([[8, 12], [4, 20]]), "odor", 0.1)
    _, test = paired.split(0.25, seed=3)
    held_out = {
        name: [int((labels(test, name) == odor).sum()) for odor in "AB"] for name in test.subjects
    }
    assert held_out == {"rat0": [2, 3], "rat1": [1, 5]}


def test_another_seed_holds_out_other_trials():
    paired = pair_subjects(subjects([[20, 20]]), "odor", 0.1)
    first, second = (ids(paired.split(seed=seed)[1], "rat0") for seed in (0, 1))
    assert first != second


def one_to_one(n_trials, names=("a", "b", "c")):
    """Simultaneous recordings: one trial number per trial, in another order per subject."""
    return {
        name: activity(
            np.random.default_rng(i).permutation(n_trials), by="number", seed=i, first=100 * i
        )
        for i, name in enumerate(names)
    }


@given(st.integers(3, 20), seeds)
@settings(deadline=None, max_examples=25)
def test_one_to_one_pairing_splits_whole_conditions_alike_in_all_subjects(n_trials, seed):
    paired = pair_subjects(one_to_one(n_trials), "number", 0.1)
    assert len(paired.partners) == n_trials
    numbers = []
    for part in paired.split(0.3, seed=seed):
        each = [sorted(labels(part, name).tolist()) for name in part.subjects]
        assert each[0] == each[1] == each[2]
        assert len(part.partners) == len(each[0])
        numbers.append(set(each[0]))
    assert not numbers[0] & numbers[1]
    assert numbers[0] | numbers[1] == set(range(n_trials))


def test_the_training_part_of_a_one_to_one_pairing_splits_again():
    train, _ = pair_subjects(one_to_one(12), "number", 0.1).split(0.25, seed=0)
    part, validation = train.split(0.25, seed=0)
    assert len(validation.partners) == 2
    assert len(part.partners) == 7


@given(tables(least=4), seeds)
@settings(deadline=None, max_examples=15)
def test_a_part_splits_again_without_sharing_a_trial(table, seed):
    train, test = pair_subjects(subjects(table), "odor", 0.1).split(0.3, seed=seed)
    part, validation = train.split(0.3, seed=seed)
    for name in train.subjects:
        sets = [trial_sets(p)[name] for p in (part, validation, test)]
        assert sum(map(len, sets)) == len(set.union(*sets))


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_a_test_fraction_outside_0_and_1_is_refused(fraction):
    paired = pair_subjects(subjects([[3, 3]]), "odor", 0.1)
    with pytest.raises(ValueError, match=r"'test_fraction'.*between 0 and 1.*Got"):
        paired.split(fraction)


def test_a_split_that_leaves_a_part_empty_is_refused():
    paired = pair_subjects({"a": activity(["A"])}, "odor", 0.1)
    with pytest.raises(ValueError, match=r"leaves no test trials.*'a': 1"):
        paired.split(0.25)


# ---------------------------------------------------------------------------- partners


@given(tables(), seeds, surpluses, orders)
@settings(deadline=None, max_examples=60)
def test_partners_share_the_condition(table, seed, surplus, order):
    paired = pair_subjects(subjects(table), "odor", 0.1, order=order, seed=seed, surplus=surplus)
    assert len(paired.row_codes) == len(paired.partners) > 0
    for column, name in enumerate(paired.subjects):
        here = paired.partners[:, column] >= 0
        got = paired.codes(name)[paired.partners[here, column]]
        assert got.tolist() == paired.row_codes[here].tolist()


@given(tables(), seeds, orders)
@settings(deadline=None, max_examples=40)
def test_repeat_uses_every_trial_evenly_in_complete_rows(table, seed, order):
    paired = pair_subjects(subjects(table), "odor", 0.1, order=order, seed=seed)
    assert (paired.partners >= 0).all()
    most = np.max(table, axis=0)
    assert len(paired.partners) == most.sum()
    for name, repeats in zip(paired.subjects, table, strict=True):
        uses = np.bincount(used(paired, name), minlength=sum(repeats))
        for index in range(len(paired.conditions)):
            own = uses[paired.codes(name) == index]
            assert own.min() >= 1
            assert own.min() >= most[index] // repeats[index]
            assert own.max() <= -(-most[index] // repeats[index])


@given(tables(), seeds, orders)
@settings(deadline=None, max_examples=40)
def test_drop_gives_the_smallest_count_of_each_condition(table, seed, order):
    counts = subjects(table)
    paired = pair_subjects(counts, "odor", 0.1, order=order, seed=seed, surplus="drop")
    assert np.bincount(paired.row_codes).tolist() == np.min(table, axis=0).tolist()
    assert (paired.partners >= 0).all()
    for name in paired.subjects:
        assert len(np.unique(used(paired, name))) == len(paired.partners)


@given(tables(), seeds, orders)
@settings(deadline=None, max_examples=40)
def test_absent_uses_each_trial_exactly_once(table, seed, order):
    counts = subjects(table)
    paired = pair_subjects(counts, "odor", 0.1, order=order, seed=seed, surplus="absent")
    for name in paired.subjects:
        assert sorted(used(paired, name)) == ids(paired, name)
    assert (paired.partners >= -1).all()
    assert (paired.partners >= 0).any(axis=1).all()


@given(tables())
@settings(deadline=None, max_examples=20)
def test_rank_pairs_the_nth_trial_with_the_nth(table):
    paired = pair_subjects(subjects(table), "odor", 0.1, order="rank", surplus="drop")
    for column, name in enumerate(paired.subjects):
        for index in range(len(paired.conditions)):
            mine = np.flatnonzero(paired.codes(name) == index)
            rows = paired.partners[paired.row_codes == index, column]
            assert rows.tolist() == mine[: len(rows)].tolist()


def test_rank_does_not_depend_on_the_seed_and_random_does():
    counts = subjects([[6, 6], [6, 6]])

    def table(order, seed):
        return pair_subjects(counts, "odor", 0.1, order=order, seed=seed).partners.tolist()

    assert table("rank", 0) == table("rank", 1)
    assert table("random", 0) == table("random", 0)
    assert table("random", 0) != table("random", 1)


# ---------------------------------------------------------------------------- pairing anew


@given(tables(), seeds, seeds, surpluses)
@settings(deadline=None, max_examples=30)
def test_repairing_changes_neither_trials_nor_labels(table, seed, again, surplus):
    paired = pair_subjects(subjects(table), "odor", 0.1, seed=seed, surplus=surplus)
    anew = paired.repair(again)
    for name in paired.subjects:
        assert ids(anew, name) == ids(paired, name)
        assert anew.codes(name).tolist() == paired.codes(name).tolist()
        if surplus != "drop":
            assert set(used(anew, name)) == set(used(paired, name))
    assert anew.repair(seed).partners.tolist() == paired.partners.tolist()


def test_repairing_draws_other_partners():
    paired = pair_subjects(subjects([[9, 9], [9, 9]]), "odor", 0.1)

    def partners(of):
        return {tuple(row) for row in of.partners.tolist()}

    assert partners(paired.repair(1)) != partners(paired)


@given(tables(least=2), seeds)
@settings(deadline=None, max_examples=30)
def test_repairing_moves_no_trial_across_the_split(table, seed):
    train, test = pair_subjects(subjects(table), "odor", 0.1).split(seed=seed)
    for shuffle in (False, True):
        anew = train.repair(seed, shuffle_conditions=shuffle)
        for name in train.subjects:
            assert trial_sets(anew)[name] == trial_sets(train)[name]
            assert not set(used(anew, name)) & trial_sets(test)[name]


@given(tables(least=2), seeds)
@settings(deadline=None, max_examples=30)
def test_shuffling_permutes_conditions_between_the_trials_of_one_subject(table, seed):
    train, test = pair_subjects(subjects(table), "odor", 0.1).split(seed=1)
    held_out = {name: labels(test, name).tolist() for name in test.subjects}
    null = train.repair(seed, shuffle_conditions=True)
    for name in train.subjects:
        assert ids(null, name) == ids(train, name)
        assert sorted(null.codes(name)) == sorted(train.codes(name))
        assert labels(test, name).tolist() == held_out[name]
    assert sorted(null.row_codes) == sorted(train.row_codes)


def test_shuffling_moves_labels_differently_in_every_subject_and_leaves_the_original():
    counts = {name: activity(np.repeat(ODORS, 10)) for name in ("a", "b")}
    paired = pair_subjects(counts, "odor", 0.1)
    null = paired.repair(5, shuffle_conditions=True)
    assert labels(null, "a").tolist() != counts["a"].odor.values.tolist()
    assert labels(null, "a").tolist() != labels(null, "b").tolist()
    assert labels(paired, "a").tolist() == counts["a"].odor.values.tolist()
    assert counts["a"].odor.values.tolist() == np.repeat(ODORS, 10).tolist()


@given(st.permutations(["rat0", "rat1", "rat2"]), st.integers(1, 3))
@settings(deadline=None, max_examples=12)
def test_select_keeps_the_named_subjects_in_order_with_their_trials(names, n_kept):
    paired, _ = pair_subjects(subjects([[3, 4], [5, 2], [4, 4]]), "odor", 0.1).split(seed=2)
    some = paired.select(names[:n_kept])
    assert some.subjects == tuple(names[:n_kept])
    for name in some.subjects:
        assert ids(some, name) == ids(paired, name)
        assert some.codes(name).tolist() == paired.codes(name).tolist()
        assert (some.activity(name) == paired.activity(name)).all()
    assert paired.select(names[0]).subjects == (names[0],)


@pytest.mark.parametrize("names", [[], ["rat0", "rat0"], ["rat0", "nobody"], "nobody"])
def test_select_refuses_unknown_repeated_or_no_subjects(names):
    paired = pair_subjects(subjects([[3, 3], [3, 3]]), "odor", 0.1)
    with pytest.raises(ValueError, match=r"'subjects'.*\['rat0', 'rat1'\]"):
        paired.select(names)


# ---------------------------------------------------------------------------- windows


@given(
    st.integers(1, 6), st.integers(1, 4), st.sampled_from(["repeat", "absent"]), st.integers(0, 99)
)
@settings(deadline=None, max_examples=30)
def test_windows_equal_a_naive_loop(width, step, surplus, seed):
    counts = subjects([[2, 4], [3, 1]], n_units=3, n_bins=9, first=40)
    paired = pair_subjects(counts, "odor", width * BIN, step * BIN, seed=seed, surplus=surplus)
    assert paired.first_bins.tolist() == list(range(0, 9 - width + 1, step))
    for column, name in enumerate(paired.subjects):
        expected, trials = [], []
        for row in paired.partners[:, column]:
            for start in range(0, 9 - width + 1, step):
                window = counts[name].values[row, :, start : start + width]
                expected.append(window if row >= 0 else np.full((3, width), np.nan))
                trials.append(40 + row if row >= 0 else -1)
        got = paired[name]
        assert got.dims == ("window", "unit", "lag")
        np.testing.assert_array_equal(got.values, np.array(expected))
        assert got.trial.values.tolist() == trials
        assert got.sizes["window"] == len(paired) == paired.sizes["window"]


def test_windows_without_absent_subjects_stay_integers():
    paired = pair_subjects(subjects([[2, 2], [2, 2]]), "odor", 0.1)
    assert paired["rat0"].dtype == np.int16


def test_an_unknown_subject_is_refused_by_name():
    paired = pair_subjects(subjects([[2, 2]]), "odor", 0.1)
    with pytest.raises(KeyError, match=r"no subject 'mitt'.*rat0"):
        paired["mitt"]


def test_coordinates_label_every_window():
    counts = subjects([[2, 3], [1, 2]], first=70)
    paired = pair_subjects(counts, "odor", 0.04, 0.02, surplus="absent")
    coords = xr.Dataset(coords=paired.coords()).coords
    assert coords["subject"].values.tolist() == ["rat0", "rat1"]
    first_bin = np.tile(np.arange(0, 9, 2), len(paired.partners))
    assert coords["start"].values.tolist() == first_bin.tolist()
    # The centre of four bins of 10 ms that begin at the first bin.
    np.testing.assert_allclose(coords["time"], first_bin * BIN + 0.02)
    assert coords["trial"].dims == ("subject", "window")
    for name in paired.subjects:
        odor_of = dict(zip(counts[name].trial.values, counts[name].odor.values, strict=True))
        for trial, odor in zip(coords["trial"].sel(subject=name), coords["odor"], strict=True):
            assert trial == -1 or odor_of[int(trial)] == odor


def test_absent_subjects_with_named_trials_have_the_empty_name():
    counts = subjects([[2, 2], [1, 2]])
    named = {n: a.assign_coords(trial=[f"t{i}" for i in a.trial.values]) for n, a in counts.items()}
    paired = pair_subjects(named, "odor", 0.1, surplus="absent", order="rank")
    trial = paired.coords()["trial"][1]
    assert (trial == "").sum() == (paired.partners < 0).sum() * len(paired.first_bins)


def test_lags_are_bin_centres_and_units_keep_their_ids():
    array = subject("a", [2, 2]).assign_coords(unit=[17, 4])
    windows = pair_subjects({"a": array}, "odor", 0.03)["a"]
    np.testing.assert_allclose(windows.lag, [0.005, 0.015, 0.025])
    assert windows.unit.values.tolist() == [17, 4]


def test_times_of_differently_aligned_subjects_count_from_their_own_begin():
    late = subject("b", [2, 2])
    late = late.assign_coords(time=late.time + 0.25)
    both = {"a": subject("a", [2, 2]), "b": late}
    paired = pair_subjects(both, "odor", 0.1, 0.01)
    np.testing.assert_allclose(np.unique(paired.coords()["time"][1]), [0.05, 0.06, 0.07])
    alone = pair_subjects({"b": late}, "odor", 0.1, 0.01)
    np.testing.assert_allclose(np.unique(alone.coords()["time"][1]), [0.3, 0.31, 0.32])


def test_to_dataset_holds_the_pairing():
    paired = pair_subjects(subjects([[2, 3], [1, 2]]), "odor", 0.1, surplus="absent", seed=4)
    dataset = paired.to_dataset()
    absent = np.repeat(paired.partners.T < 0, len(paired.first_bins), axis=1)
    np.testing.assert_array_equal(dataset.observed, ~absent)
    np.testing.assert_array_equal(dataset.trial == -1, absent)
    assert set(dataset.coords) == {"subject", "animal", "odor", "time", "start", "onset"}
    assert dataset.attrs["by"] == "odor"
    assert dataset.attrs["seed"] == 4
    assert dataset.attrs["width"] == pytest.approx(0.1)


def test_a_pairing_survives_netcdf(tmp_path):
    dataset = pair_subjects(subjects([[2, 3], [1, 2]]), "odor", 0.1).to_dataset()
    dataset.to_netcdf(tmp_path / "pairing.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "pairing.nc", engine="h5netcdf") as back:
        xr.testing.assert_identical(back.load(), dataset)


def test_sizes_multiply():
    paired = pair_subjects(subjects([[2, 3], [1, 2]]), "odor", 0.1)
    assert paired.sizes == {"subject": 2, "row": 5, "start": 3, "window": 15, "lag": 10, "bin": 12}
    assert "2 subjects by odor ['A', 'B']: 15 windows of 0.1 s" in repr(paired)


def test_the_order_of_dimensions_does_not_matter():
    counts = subjects([[2, 3], [4, 2]])
    turned = {name: array.transpose("time", "trial", "unit") for name, array in counts.items()}
    expected, got = (pair_subjects(c, "odor", 0.1)["rat1"] for c in (counts, turned))
    xr.testing.assert_identical(got, expected)


def test_pairing_copies_no_counts():
    counts = subjects([[4, 4], [4, 4]])
    paired = pair_subjects(counts, "odor", 0.1).split(seed=0)[0].repair(3)
    same = {}

    def look(name, values):
        same[name] = np.shares_memory(values, counts[name].values)
        return values

    paired.changed(look)
    assert same == {"rat0": True, "rat1": True}


# ---------------------------------------------------------------------------- activity


@pytest.mark.parametrize("few_at_a_time", [False, True])
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_pieces_and_window_sums_equal_a_naive_loop(few_at_a_time, width, step, seed):
    counts = subjects([[4, 4], [3, 5]], n_units=3, n_bins=9, first=40)
    paired = pair_subjects(counts, "odor", width * BIN, step * BIN, seed=seed)
    paired, _ = paired.split(0.3, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        if few_at_a_time:
            patch.setattr(chunks, "CHUNK", 2 * 3 * 9)
        for name in paired.subjects:
            whole = counts[name].sel(trial=ids(paired, name)).values
            covered = []
            for trials, values in paired.pieces(name):
                np.testing.assert_array_equal(values, whole[trials])
                assert not few_at_a_time or len(values) <= 2
                covered += range(*trials.indices(len(whole)))
            assert covered == list(range(paired.n_trials(name)))
            covered = []
            for trials, sums in paired.window_sums(name):
                for trial, of_trial in zip(range(*trials.indices(len(whole))), sums, strict=True):
                    covered.append(trial)
                    for first, of_window in zip(
                        range(0, 9 - width + 1, step), of_trial, strict=True
                    ):
                        naive = whole[trial, :, first : first + width].sum(axis=1)
                        np.testing.assert_array_equal(of_window, naive)
            assert covered == list(range(paired.n_trials(name)))


@given(st.integers(1, 6), st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_gathered_windows_equal_a_naive_loop(width, seed):
    counts = subjects([[4, 4], [3, 5]], n_units=3, n_bins=9)
    paired, _ = pair_subjects(counts, "odor", width * BIN).split(0.3, seed=seed)
    rng = np.random.default_rng(seed)
    for name in paired.subjects:
        trial = rng.integers(paired.n_trials(name), size=20)
        first_bin = rng.choice(paired.first_bins, size=20)
        got = paired.gather(name, trial, first_bin)
        assert got.shape == (20, width * 3)
        for row, t, first in zip(got, trial, first_bin, strict=True):
            whole = counts[name].sel(trial=ids(paired, name)[t]).values
            naive = whole[:, first : first + width].T.ravel()  # (lag, unit)
            np.testing.assert_array_equal(row, naive)


def test_activity_is_that_of_the_named_trials():
    counts = subjects([[4, 4]], first=7)
    train, _ = pair_subjects(counts, "odor", 0.1).split(0.5)
    whole = counts["rat0"].sel(trial=ids(train, "rat0"))
    np.testing.assert_array_equal(train.activity("rat0"), whole)
    np.testing.assert_array_equal(train.activity("rat0", np.array([2, 0])), whole[[2, 0]])


def test_changed_windows_have_other_activity_of_the_same_trials_and_partners():
    counts = subjects([[3, 4], [5, 2]])
    paired, _ = pair_subjects(counts, "odor", 0.1).split(0.3)
    before = paired.fingerprint()
    more = paired.changed(lambda name, values: values + (1 if name == "rat0" else 0))
    np.testing.assert_array_equal(more["rat0"], paired["rat0"] + 1)
    np.testing.assert_array_equal(more["rat1"], paired["rat1"])
    xr.testing.assert_identical(more.to_dataset(), paired.to_dataset())
    assert paired.fingerprint() == before != more.fingerprint()


def test_windows_over_another_stretch_keep_trials_and_partners():
    counts = subjects([[3, 4], [5, 2]], first=20)
    train, test = pair_subjects(counts, "odor", 0.1).split(0.3)
    other = {
        name: activity(array.odor.values, n_bins=20, seed=9, first=20)[::-1]
        for name, array in counts.items()
    }
    for part in (train, test):
        over = part.over(other)
        assert (over.partners == part.partners).all()
        assert len(over.first_bins) == 11
        for name in part.subjects:
            assert ids(over, name) == ids(part, name)
            np.testing.assert_array_equal(
                over.activity(name), other[name].sel(trial=ids(part, name))
            )


def test_a_wrong_count_is_told_of_its_subject_alone():
    counts = subjects([[3, 3], [3, 3], [3, 3]])
    counts["rat1"] = counts["rat1"] * 0.5
    counts["rat2"] = counts["rat2"] - 3
    paired = pair_subjects(counts, "odor", 0.1)
    assert paired.why_not_counts("rat0") == ""
    assert "not whole" in paired.why_not_counts("rat1")
    assert "minimum -3" in paired.why_not_counts("rat2")


# ---------------------------------------------------------------------------- fingerprint


def windows_of(counts=None, **options):
    given = {"by": "odor", "width": 0.1, "step": 0.01, "seed": 3, **options}
    return pair_subjects(subjects([[3, 4], [5, 2]]) if counts is None else counts, **given)


def test_equal_windows_have_one_fingerprint():
    mark = windows_of().fingerprint()
    assert mark == windows_of().fingerprint()
    assert mark == windows_of().repair(8).repair(3).fingerprint()
    assert mark == windows_of().select(["rat0", "rat1"]).fingerprint()
    train, test = windows_of().split(seed=1)
    assert train.fingerprint() == windows_of().split(seed=1)[0].fingerprint()
    assert len({mark, train.fingerprint(), test.fingerprint()}) == 3


def one_other_count(counts):
    counts["rat1"][2, 1, 3] += 1


def one_other_label(counts):
    odor = counts["rat1"].odor.values.copy()
    odor[0] = "B" if odor[0] == "A" else "A"
    counts["rat1"] = counts["rat1"].assign_coords(odor=("trial", odor))


def one_trial_less(counts):
    counts["rat0"] = counts["rat0"][1:]


def another_trial_id(counts):
    trial = counts["rat0"].trial.values.copy()
    trial[0] = 99
    counts["rat0"] = counts["rat0"].assign_coords(trial=trial)


def another_unit_id(counts):
    counts["rat0"] = counts["rat0"].assign_coords(unit=[0, 5])


def later(counts):
    for name, array in counts.items():
        counts[name] = array.assign_coords(time=array.time + 0.2)


def another_name(counts):
    counts["rat2"] = counts.pop("rat1")


def another_order(counts):
    counts["rat0"] = counts.pop("rat0")


@pytest.mark.parametrize(
    "change",
    [
        one_other_count, one_other_label, one_trial_less, another_trial_id, another_unit_id, later,
        another_name, another_order,
    ],
)  # fmt: skip
def test_other_data_have_another_fingerprint(change):
    counts = subjects([[3, 4], [5, 2]])
    change(counts)
    assert windows_of(counts).fingerprint() != windows_of().fingerprint()


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 4}, {"order": "rank"}, {"surplus": "absent"}, {"width": 0.05}, {"step": 0.02},
        {"conditions": ["B", "A"]}, {"conditions": ["A"]},
    ],
)  # fmt: skip
def test_another_pairing_has_another_fingerprint(options):
    assert windows_of(**options).fingerprint() != windows_of().fingerprint()


def test_numbers_and_texts_as_conditions_have_different_fingerprints():
    number = pair_subjects({"a": activity([1, 2, 1])}, "odor", 0.1)
    text = pair_subjects({"a": activity(["1", "2", "1"])}, "odor", 0.1)
    assert number.fingerprint() != text.fingerprint()


# ---------------------------------------------------------------------------- a rule of one's own


@dataclass(frozen=True)
class Neighbours(Pairing):
    """Pairs every trial of the first subject with the nth of the others, over and over."""

    shift: int = 0
    redraws = True

    def draw(self, codes, n_conditions, seed):
        rows, conditions = [], []
        for condition in range(n_conditions):
            pools = [np.flatnonzero(code == condition) for code in codes]
            if not all(map(len, pools)):
                continue
            for k, trial in enumerate(pools[0]):
                rows.append([trial, *(p[(k + self.shift + seed) % len(p)] for p in pools[1:])])
                conditions.append(condition)
        return np.array(rows).reshape(-1, len(codes)), np.array(conditions, np.int64)


def test_a_rule_from_outside_pairs_splits_and_redraws():
    counts = subjects([[4, 6], [5, 4], [4, 8]], n_units=3)
    paired = pair_subjects(counts, "odor", 0.1, seed=0, pairing=Neighbours())
    assert len(paired.partners) == 10
    assert "Neighbours(shift=0)" in paired.to_dataset().attrs["pairing"]
    train, test = paired.split(0.25, seed=0)
    for part in (train, test, train.repair(1), train.repair(1, shuffle_conditions=True)):
        assert part.pairing == Neighbours()
        for column, name in enumerate(part.subjects):
            assert (part.codes(name)[part.partners[:, column]] == part.row_codes).all()
    for name in paired.subjects:
        assert not trial_sets(train)[name] & trial_sets(test)[name]
    assert train.repair(1).partners.tolist() != train.partners.tolist()
    assert train.repair(1).repair(train.seed).partners.tolist() == train.partners.tolist()
    some = train.select(["rat2", "rat0"])
    assert some.subjects == ("rat2", "rat0")
    assert len(some.partners) == some.n_trials("rat2")
    other = pair_subjects(counts, "odor", 0.1, seed=0, pairing=Neighbours(2))
    assert other.fingerprint() != paired.fingerprint()


def test_models_fit_what_a_rule_from_outside_paired():
    from neuroshare.models.linear import LinearAlignment

    counts = subjects([[8, 8], [8, 9]], n_units=4)
    paired = pair_subjects(counts, "odor", 0.1, seed=0, pairing=Neighbours())
    train, test = paired.split(0.25, seed=0)
    model = LinearAlignment(latent_dim=2).fit(train)
    assert model.transform(test).sizes["window"] == len(test)
    assert model.impute(test, "rat1").sizes["unit"] == 4


@pytest.mark.parametrize("pairing", ["random", dict, Neighbours])
def test_what_is_no_rule_is_refused(pairing):
    with pytest.raises(ValueError, match=r"'pairing' parameter of pair_subjects must be a Pairing"):
        pair_subjects(subjects([[3, 3]]), "odor", 0.1, pairing=pairing)


# ---------------------------------------------------------------------------- what is told


def test_a_condition_missing_in_a_subject_is_named_with_the_subject():
    counts = subjects([[2, 2, 2], [2, 2]])
    with pytest.raises(ValueError, match=r"no trials of odor 'C' in subject 'rat1'; .*allow_missi"):
        pair_subjects(counts, "odor", 0.1)


def test_allow_missing_leaves_the_subject_out_of_that_condition():
    paired = pair_subjects(subjects([[2, 2, 2], [2, 2]]), "odor", 0.1, allow_missing=True)
    of_c = paired.row_codes == paired.conditions.index("C")
    assert (paired.partners[of_c] >= 0).all(axis=0).tolist() == [True, False]
    assert (paired.partners[~of_c] >= 0).all()
    assert any("'rat1' has no odor 'C'" in line for line in paired.report())
    train, test = paired.split(0.5, seed=0)
    assert not set(used(train, "rat0")) & set(used(test, "rat0"))


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 2, 12)), activity(["A"] * 4).rename(unit="cell"), [1, 2]]
)
def test_wrong_dims_are_refused_with_those_expected(bad):
    with pytest.raises(ValueError, match=r"subject 'bad': expected .*\(trial, unit, time\), got"):
        pair_subjects({"good": subject("good", [2, 2]), "bad": bad}, "odor", 0.1)


@pytest.mark.parametrize("more", [{"n_bins": 13}, {"bin_size": 0.02}])
def test_unequal_bins_are_refused(more):
    counts = {"a": subject("a", [2, 2]), "b": subject("b", [2, 2], **more)}
    with pytest.raises(ValueError, match=r"subject 'b': expected 12 bins of 0.01 s as in 'a', got"):
        pair_subjects(counts, "odor", 0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", 0.015), ("width", 0.0), ("step", 0.001), ("step", -0.01)],
)
def test_a_width_or_step_of_no_whole_bins_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"'{name}'.*whole number of bins of 0.01 s. Got {value}"):
        pair_subjects(subjects([[2, 2]]), "odor", **{"width": 0.1, name: value})


def test_a_window_longer_than_the_trial_is_refused():
    with pytest.raises(ValueError, match=r"width of 0.13 s is longer than the 0.12 s"):
        pair_subjects(subjects([[2, 2]]), "odor", 0.13)


def test_an_unknown_column_is_refused_with_those_found():
    with pytest.raises(ValueError, match=r"'rat0': no trial coordinate 'odour'.*Found: .*'odor'"):
        pair_subjects(subjects([[2, 2]]), "odour", 0.1)


def test_trials_without_a_label_are_left_out_and_reported():
    labels = np.array(["A", None, "B", "A", np.nan, "B"], dtype=object)
    paired = pair_subjects({"a": activity(labels), "b": activity(["A", "B"])}, "odor", 0.1)
    assert ids(paired, "a") == [0, 2, 3, 5]
    assert paired.conditions == ("A", "B")
    assert any("'a': 2 trials without a odor were left out" in line for line in paired.report())


def test_numeric_labels_may_be_missing_too():
    paired = pair_subjects({"a": activity([1.0, np.nan, 2.0, 1.0])}, "odor", 0.1)
    assert paired.conditions == (1.0, 2.0)
    assert ids(paired, "a") == [0, 2, 3]


def test_labels_that_are_all_missing_are_refused():
    with pytest.raises(ValueError, match=r"no trial has a value in 'odor'"):
        pair_subjects({"a": activity([np.nan, np.nan])}, "odor", 0.1)


def test_chosen_conditions_come_in_the_order_given_and_the_rest_is_reported():
    paired = pair_subjects(subjects([[2, 3, 4]]), "odor", 0.1, conditions=["C", "A"])
    assert paired.conditions == ("C", "A")
    assert len(paired.partners) == 6
    assert any("'B' was left out by choice (trials: rat0 3)" in line for line in paired.report())


def test_a_chosen_condition_that_never_occurs_is_refused():
    with pytest.raises(
        ValueError, match=r"conditions \['E'\] occur in no subject. Found in 'odor'"
    ):
        pair_subjects(subjects([[2, 2]]), "odor", 0.1, conditions=["A", "E"])


@pytest.mark.parametrize(("name", "value"), [("order", "sorted"), ("surplus", "keep")])
def test_an_unknown_choice_is_refused_with_those_allowed(name, value):
    with pytest.raises(ValueError, match=rf"'{name}'.*must be one of .*Got '{value}' instead"):
        pair_subjects(subjects([[2, 2]]), "odor", 0.1, **{name: value})


@pytest.mark.parametrize("counts", [{}, [activity(["A"])]])
def test_counts_must_be_a_mapping_of_names(counts):
    with pytest.raises(ValueError, match=r"'counts'.*must map subject names to arrays"):
        pair_subjects(counts, "odor", 0.1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activity_that_is_not_finite_is_refused(value):
    array = subject("a", [2, 2]).astype(float)
    array[1, 0, 3] = value
    with pytest.raises(ValueError, match=r"subject 'a': activity has NaN or infinite values"):
        pair_subjects({"a": array}, "odor", 0.1)


def test_repeated_trial_ids_are_refused():
    blocks = [subject("a", [2, 2]), subject("b", [2, 2])]
    with pytest.raises(
        ValueError, match=r"'a': trial ids must be unique; repeated: \[0, 1, 2, 3\]"
    ):
        pair_subjects({"a": xr.concat(blocks, "trial")}, "odor", 0.1)
    numbered = xr.concat(blocks, "trial").assign_coords(trial=np.arange(8))
    assert pair_subjects({"a": numbered}, "odor", 0.1).n_trials("a") == 8


def test_trials_are_counted_by_subject_and_condition():
    table = pair_subjects(subjects([[5, 2], [2, 3]]), "odor", 0.1).trials_of_conditions()
    expected = pd.DataFrame([[5, 2], [2, 3]], ["rat0", "rat1"], pd.Index(["A", "B"], name="odor"))
    pd.testing.assert_frame_equal(table, expected, check_dtype=False)


def test_a_subject_without_trials_is_refused():
    with pytest.raises(ValueError, match=r"subject 'a': expected trials, units and bins"):
        pair_subjects({"a": subject("a", [2, 2]).isel(trial=[])}, "odor", 0.1)


def test_dropped_and_repeated_trials_are_counted_in_the_report():
    counts = subjects([[5, 2], [2, 2]])
    dropped = pair_subjects(counts, "odor", 0.1, surplus="drop").report()
    assert dropped == ["subject 'rat0': 3 surplus trials have no partner and were dropped."]
    repeated = pair_subjects(counts, "odor", 0.1).report()
    assert len(repeated) == 1
    assert "'rat1': 3 rows use one of its trials again" in repeated[0]
    assert pair_subjects(counts, "odor", 0.1, surplus="absent").report() == []


def test_notebooks_show_trials_by_subject_and_condition():
    sessions = ns.simulate_sessions({"mitt": 9, "stella": 7}, n_trials=6)
    counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    html = ns.pair_subjects(counts, by="odor")._repr_html_()
    assert "744 windows of 0.1 s = 24 paired trials x 31 starts" in html
    assert "<th>odor A</th>" in html
    assert "<tr><td>mitt</td><td>9</td><td>6</td><td>6</td><td>6</td><td>6</td><td>24</td>" in html
