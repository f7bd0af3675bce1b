"""The order of labels, and splits of a session in time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroshare.windows.order import (
    _p_of_order,
    apart,
    cut,
    hold_out,
    label_order,
    rounds,
    share_spikes,
    split_in_time,
)

SEQUENCES = {
    "interleaved": lambda rng: rng.permutation(np.repeat(list("ABCD"), 40)),
    "clumped": lambda rng: np.repeat(rng.permutation(np.repeat(list("ABCD"), 15)), 4),
    "runs": lambda rng: np.repeat(list("ABCD" * 4), 10),
    "confounded": lambda rng: np.repeat(list("ABCD"), 40),
}


@pytest.mark.parametrize("kind", SEQUENCES)
def test_kind_of_an_order(kind):
    found = [label_order(SEQUENCES[kind](np.random.default_rng(seed))).kind for seed in range(20)]
    assert found.count(kind) >= 19


def test_interleaved_labels_are_called_clumped_once_in_a_hundred():
    rng = np.random.default_rng(0)
    kinds = [label_order(rng.permutation(np.repeat([0, 1, 2], 30))).kind for _ in range(300)]
    assert kinds.count("interleaved") >= 290


def test_a_slow_trend_is_found_without_runs():
    rng = np.random.default_rng(1)
    p = np.repeat([0.2, 0.8], 100)
    assert label_order((rng.random(200) < p).astype(int)).kind != "interleaved"


def test_laps_and_forbidden_repeats_are_interleaved():
    assert label_order(np.tile(np.arange(12), 30)).kind == "interleaved"


def test_names_of_labels_do_not_matter_and_few_labels_are_no_order():
    numbers = np.random.default_rng(0).integers(0, 3, 100)
    names = np.array(["x", "a", "m"])[numbers]
    assert label_order(numbers).p == label_order(names).p
    assert label_order([]).kind == label_order(["A"] * 50).kind == label_order(list("AB")).kind
    assert label_order(["A"] * 50).p == 1


def test_few_but_short_runs_are_clumped():
    labels = np.repeat(list("ABABBABAABABAB"), 2)
    order = label_order(np.r_[labels, labels])
    assert order.n_runs < 32
    assert order.kind != "runs"


def test_single_runs_are_named():
    order = label_order(["A", "B"] * 20 + ["C"] * 20)
    assert order.single == ("C",)
    assert "'C' occurs in one run only" in order.sentence("x", "odor")


def test_the_same_order_is_asked_about_once():
    labels = np.random.default_rng(3).permutation(np.repeat(np.arange(4), 300))
    label_order(labels)
    before = _p_of_order.cache_info()
    label_order(labels.copy())
    after = _p_of_order.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)


def test_overlap_is_of_stretches_not_of_touching_ones():
    assert not share_spikes([0.0, 1.0, 2.0], (0, 1))
    assert share_spikes([0.0, 1.0, 1.99], (0, 1))
    assert share_spikes([2.0, 0.0, 1.5], (-0.3, 0.3))


@pytest.mark.parametrize("kind", SEQUENCES)
@given(seed=st.integers(0, 1000), fraction=st.floats(0.1, 0.5), length=st.floats(0.1, 5.0))
@settings(max_examples=15, deadline=None)
def test_parts_are_apart_in_time_and_hold_every_condition(kind, seed, fraction, length):
    rng = np.random.default_rng(seed)
    labels = SEQUENCES[kind](rng)
    onset = np.cumsum(rng.exponential(2.0, len(labels)))
    if label_order(labels).kind != kind:
        return
    found = split_in_time(onset, labels, (0.0, length), fraction, rng=rng)
    everyone = np.sort(np.concatenate([found.train, found.test, found.left_out]))
    assert everyone.tolist() == list(range(len(labels)))
    distance = abs(onset[found.train][:, None] - onset[found.test])
    assert distance.min() >= length - 1e-9
    assert set(labels[found.train]) >= set(labels[found.test])
    if kind in ("clumped", "runs"):  # whole stretches are held out
        held = np.isin(found.stretch, found.stretch[found.test])
        assert np.flatnonzero(held).tolist() == found.test.tolist()


@given(
    n_conditions=st.integers(3, 5),
    n_rounds=st.integers(3, 8),
    length=st.integers(2, 12),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_rounds_of_every_condition_are_found(n_conditions, n_rounds, length, seed):
    # Also where one round ends with the condition with which the next begins.
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(n_conditions) for _ in range(n_rounds)])
    found = rounds(np.repeat(order, length))
    assert found is not None
    for of_round in np.split(np.repeat(order, length), np.flatnonzero(np.diff(found)) + 1):
        assert set(of_round) == set(range(n_conditions))
        assert (of_round[1:] != of_round[:-1]).sum() == n_conditions - 1


def test_runs_in_another_order_are_no_rounds():
    assert rounds(np.repeat(list("ABAB" * 4), 6)) is None
    assert rounds(np.repeat(list("ABABCACBCABC"), 6)) is None
    assert rounds(np.repeat(list("ABCACB"), 6)) is None, "two rounds are too few"
    assert rounds([]) is None


def test_whole_rounds_are_held_out():
    rng = np.random.default_rng(0)
    for seed in range(20):
        labels = np.repeat(np.concatenate([rng.permutation(list("ABCD")) for _ in range(6)]), 8)
        if label_order(labels).kind != "runs":
            continue
        found = split_in_time(
            np.arange(len(labels)) * 3.0, labels, (0, 0.4), rng=np.random.default_rng(seed)
        )
        assert len(np.unique(found.stretch)) == 6
        held = np.unique(found.stretch[found.test])
        assert found.test.tolist() == np.flatnonzero(np.isin(found.stretch, held)).tolist()
        assert 1 <= len(held) <= 2


def test_held_out_share_is_near_the_fraction():
    rng = np.random.default_rng(0)
    labels = SEQUENCES["clumped"](rng)
    found = split_in_time(np.arange(len(labels)) * 3.0, labels, (0, 0.4), 0.25, rng=rng)
    assert abs(len(found.test) / len(labels) - 0.25) < 0.07
    assert len(found.left_out) < 0.1 * len(labels)
    assert set(labels[found.test]) == set(labels)


def test_cuts_spare_laps():
    lap = np.repeat(np.arange(40), 10)
    onset = lap * 30.0 + np.tile(np.arange(10.0), 40)
    labels = np.tile(np.arange(10), 40)
    stretch = cut(onset, labels, label_order(labels))
    assert len(np.unique(stretch)) == 16
    assert all(len(np.unique(stretch[lap == k])) == 1 for k in range(40))


def test_stretches_of_seconds():
    onset = np.arange(0, 600, 2.5)
    labels = np.tile(["A", "B"], 120)
    stretch = cut(onset, labels, label_order(labels), seconds=120)
    assert np.unique(stretch).tolist() == [0, 1, 2, 3, 4]
    assert all(np.ptp(onset[stretch == s]) <= 120 for s in range(5))


def test_no_stretch_is_empty_and_some_stay_in_training():
    rng = np.random.default_rng(0)
    stretch = np.repeat([0, 1, 2, 3], 5)
    labels = rng.permutation(np.repeat([0, 1], 10))
    for fraction in (0.01, 0.5, 0.99):
        held = hold_out(stretch, labels, fraction, np.random.default_rng(0))
        assert 0 < held.sum() < len(held)


def test_gap_is_of_trials_and_of_spikes():
    held = np.zeros(10, bool)
    held[5] = True
    onset = np.arange(10.0)
    assert np.flatnonzero(~apart(onset, held, (0, 0.5), 2)).tolist() == [3, 4, 5, 6, 7]
    assert np.flatnonzero(~apart(onset, held, (-1.0, 1.5), 0)).tolist() == [3, 4, 5, 6, 7]
    order = np.random.default_rng(0).permutation(10)
    assert (
        apart(onset[order], held[order], (0, 1.5), 0) == apart(onset, held, (0, 1.5), 0)[order]
    ).all()


def test_a_condition_left_without_training_trials_is_told():
    labels = np.array(["A", "B"] * 30 + ["C", "A", "B"])
    onset = np.arange(63.0)
    with pytest.raises(ValueError, match=r"no training trials of .*blocks=seconds"):
        split_in_time(onset, labels, (0, 40.0), rng=np.random.default_rng(0))
