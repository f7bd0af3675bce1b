"""Labels of held-out trials under the null: which there are, how many, and that order is kept."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroshare.analysis.nulls import Null, SessionOrder, draws_of_means, null_labels

KINDS = ("interleaved", "clumped", "runs", "confounded")


def rng(seed=0):
    return np.random.default_rng(seed)


def held_in_stretches(n, *stretches):
    held = np.zeros(n, bool)
    for first, last in stretches:
        held[first:last] = True
    return held


def test_few_labellings_are_all_taken_once():
    y, held = np.array([0, 1, 2, 3, 0, 1, 2, 3]), np.arange(8) < 4
    null = null_labels(y, held, "interleaved", 200, rng())
    assert null.complete
    assert null.n_distinct == 24
    assert sorted(map(tuple, null.labels)) == sorted(itertools.permutations(range(4)))
    assert null.floor == 1 / 24


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 2), min_size=4, max_size=40),
    kind=st.sampled_from(KINDS),
    cut=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_every_null_is_of_the_same_labels(labels, kind, cut, seed):
    y = np.array(labels)
    held = held_in_stretches(len(y), (0, len(y) // 4), (len(y) // 2, len(y) // 2 + cut + 3))
    held[-1] = False
    if not held.any():
        return
    null = null_labels(y, held, kind, 20, rng(seed))
    assert null.labels.shape[1] == held.sum()
    assert null.n_distinct >= 1
    assert 0 < null.floor <= 1
    if kind == "runs" or "whole session" in null.how:  # runs are of any length
        assert set(null.labels.ravel()) <= set(labels)
    else:
        assert (np.sort(null.labels, axis=1) == np.sort(y[held])).all()
    if null.complete:
        assert (null.labels == y[held]).all(axis=1).any(), "the observed labels are among all"


def test_rotation_keeps_neighbours_in_their_stretch():
    y = rng(1).integers(0, 3, 60)
    held = held_in_stretches(60, (10, 20), (40, 52))
    null = null_labels(y, held, "clumped", 50, rng())
    for drawn in null.labels:
        for part, own in ((drawn[:10], y[10:20]), (drawn[10:], y[40:52])):
            assert any((np.roll(own, k) == part).all() for k in range(len(own)))
    assert null.n_distinct == 10 * 12
    assert null.complete


def test_runs_are_exchanged_and_never_beside_an_equal_one():
    y = np.repeat([0, 1, 2, 3, 1, 0, 3, 2, 0, 2, 1, 3], 6)
    held = held_in_stretches(len(y), (6, 12), (18, 24), (36, 42), (60, 66))
    null = null_labels(y, held, "runs", 500, rng())
    found = {tuple(drawn[::6]) for drawn in null.labels}
    free = itertools.permutations([1, 3, 3, 1])
    whole = y[::6].copy()
    expected = set()
    for run in free:
        whole[[1, 3, 6, 10]] = run
        if (whole[1:] != whole[:-1]).all():
            expected.add(run)
    assert found == expected
    assert null.n_distinct == len(expected)


def test_what_is_left_of_a_run_keeps_its_label():
    y = np.repeat([0, 1, 2, 1, 2, 0, 2, 0, 1], 6)
    held = held_in_stretches(len(y), (21, 39))  # half a run, two runs and half a run
    null = null_labels(y, held, "runs", 50, rng())
    assert (null.labels[:, :3] == 1).all()
    assert (null.labels[:, -3:] == 2).all()
    assert {tuple(drawn[3:-3:6]) for drawn in null.labels} == {(2, 0)}
    held = held_in_stretches(len(y), (18, 36))  # three runs, between labels 2 and 2
    null = null_labels(y, held, "runs", 50, rng())
    assert {tuple(drawn[::6]) for drawn in null.labels} == {(1, 2, 0), (0, 2, 1)}


def test_scattered_trials_of_runs_get_labels_of_the_whole_session():
    y = np.repeat(np.tile([0, 1, 2], 20), 8)
    held = rng().random(len(y)) < 0.25
    null = null_labels(y, held, "clumped", 20, rng())
    assert "whole session" in null.how
    assert null.labels.shape == (20, held.sum())


def test_a_confounded_condition_has_no_null():
    y, held = np.repeat([0, 1], 20), np.tile([False, False, False, True], 10)
    null = null_labels(y, held, "confounded", 20, rng())
    assert null.labels.tolist() == [y[held].tolist()]
    assert null.floor == 1
    assert null.how.startswith("none")


def test_interleaved_draws_are_those_of_a_plain_permutation():
    y, held = np.tile([0, 1, 2], 30), np.arange(90) % 4 == 0
    null = null_labels(y, held, "interleaved", 7, rng(3))
    plain = rng(3)
    expected = [y[held][plain.permutation(held.sum())] for _ in range(7)]
    np.testing.assert_array_equal(null.labels, expected)


def test_p_of_all_labellings_is_exact_and_of_draws_counts_the_observed():
    every = Null(np.zeros((24, 4)), 24, True, "")
    scores = np.r_[1.0, np.zeros(23)]
    assert every.p(1.0, scores) == 1 / 24
    drawn = Null(np.zeros((99, 40)), np.inf, False, "")
    assert drawn.p(1.0, np.zeros(99)) == 1 / 100
    assert np.isnan(drawn.p(np.nan, np.zeros(99)))
    # More draws than labellings give no smaller p.
    assert Null(np.zeros((999, 4)), 10, False, "").p(1.0, np.zeros(999)) == 1 / 10


def test_trials_are_ordered_by_time_and_else_by_id():
    ids = np.array([4, 1, 9]), np.array([7, 2])
    onset = np.array([10.0, 40.0, 20.0]), np.array([50.0, 30.0])
    timed = SessionOrder.of(*ids, *onset)
    assert timed.held_out.tolist() == [False, False, True, False, True]
    assert timed.sorted(*ids).tolist() == [4, 9, 2, 1, 7]
    assert timed.back(np.array([[2, 7]])).tolist() == [[7, 2]]
    for unknown in ((None, None), (onset[0], onset[1] * np.nan)):
        assert SessionOrder.of(*ids, *unknown).sorted(*ids).tolist() == [1, 2, 4, 7, 9]


def test_draws_of_means_are_all_combinations_or_one_draw_of_each():
    def null(m, complete):
        return Null(np.zeros((m, 2)), m, complete, "")

    which, complete = draws_of_means([null(3, True), null(2, True)], 99, rng())
    assert complete
    assert sorted(map(tuple, which)) == sorted(itertools.product(range(3), range(2)))
    which, complete = draws_of_means([null(99, False), null(2, True), null(99, False)], 99, rng())
    assert not complete
    np.testing.assert_array_equal(which[:, 0], np.arange(99))
    np.testing.assert_array_equal(which[:, 2], np.arange(99))
    assert set(which[:, 1]) == {0, 1}


def smooth(n, generator, width=12):
    """A slow walk of `n` trials."""
    walk = np.convolve(generator.normal(size=n + width), np.ones(width) / width, "valid")
    return walk[:n] / walk[:n].std()


@pytest.mark.parametrize("kind", ["clumped", "runs"])
def test_slow_drift_does_not_make_p_small(kind):
    # A score that only drift gives: labels shifted in time against a slow signal.
    small = {"order": 0, "shuffle": 0}
    n_simulations = 150
    for seed in range(n_simulations):
        generator = rng(seed)
        runs = 40 if kind == "clumped" else 24
        y = np.repeat(generator.integers(0, 2, runs), 4 if kind == "clumped" else 8)
        if kind == "runs":
            y = np.repeat(np.tile([0, 1], runs // 2), 8)
        signal = smooth(len(y), generator)
        held = held_in_stretches(len(y), *((k, k + 16) for k in range(8, len(y) - 16, 48)))
        for name, null_kind in (("order", kind), ("shuffle", "interleaved")):
            null = null_labels(y, held, null_kind, 99, rng(seed))

            def score(labels, signal=signal[held]):
                return (np.atleast_2d(labels) - 0.5) @ signal

            small[name] += float(null.p(score(y[held])[0], score(null.labels))) <= 0.05
    # 5 % of 150 is 7.5 with a standard deviation of 2.7.
    assert small["order"] <= 16
    assert small["shuffle"] > small["order"]
