import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshare.vae.schedule import Schedule, value_at

positive = st.floats(1e-6, 1e3)


@given(positive, positive, st.integers(1, 50), st.sampled_from(["linear", "geometric"]))
def test_a_schedule_begins_at_start_ends_at_stop_and_stays(start, stop, epochs, shape):
    schedule = Schedule(start, stop, epochs, shape)
    assert schedule(0) == pytest.approx(start)
    assert schedule(epochs) == pytest.approx(stop)
    assert schedule(epochs + 17) == schedule(epochs)


@given(positive, positive, st.integers(2, 20), st.sampled_from(["linear", "geometric"]))
def test_a_schedule_moves_one_way(start, stop, epochs, shape):
    values = [Schedule(start, stop, epochs, shape)(epoch) for epoch in range(epochs + 3)]
    slack = 1e-9 * max(start, stop)
    pairs = list(itertools.pairwise(values))
    assert all(b >= a - slack for a, b in pairs) or all(b <= a + slack for a, b in pairs)


def test_a_linear_schedule_moves_by_equal_steps_and_a_geometric_one_by_equal_factors():
    assert [Schedule(0.0, 1.0, 4)(e) for e in range(5)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    geometric = Schedule(1.0, 1e-4, 4, "geometric")
    assert [geometric(e) for e in range(5)] == pytest.approx([1, 0.1, 0.01, 1e-3, 1e-4])


def test_a_number_is_constant():
    assert [value_at(0.3, epoch) for epoch in (0, 7)] == [0.3, 0.3]
    assert value_at(Schedule(1.0, 0.0, 2), 1) == 0.5


def test_a_schedule_without_epochs_is_refused():
    with pytest.raises(ValueError, match=r"epochs >= 1. Got 0"):
        Schedule(0.0, 1.0, 0)


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match=r"'shape'.*'linear' or 'geometric'. Got 'cosine'"):
        Schedule(0.0, 1.0, 3, "cosine")


@pytest.mark.parametrize(("start", "stop"), [(0.0, 1.0), (1.0, -1.0)])
def test_a_geometric_schedule_needs_positive_ends(start, stop):
    with pytest.raises(ValueError, match="positive start and stop"):
        Schedule(start, stop, 3, "geometric")
