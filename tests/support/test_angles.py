import numpy as np
import pytest

from neuroshare.support.angles import from_circle, on_turn, shorter_way, span_of, to_circle


@pytest.mark.parametrize(
    ("least", "most", "period", "ends"),
    [(0.2, 1.5, None, (0.2, 1.5)), (10, 20, 360, (0, 360)), (-10, 20, 360, (-180, 180))],
)
def test_a_turn_begins_at_zero_or_half_a_turn_below(least, most, period, ends):
    assert span_of(least, most, period) == ends


def test_points_on_the_circle_are_undone_up_to_turns():
    angles = np.array([-170.0, -10, 0, 95, 179, 400])
    again = from_circle(to_circle(angles, 360.0), 360.0)
    np.testing.assert_allclose(on_turn(again, 0, 360), on_turn(angles, 0, 360), atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(to_circle(angles, 360.0), axis=-1), 1)


def test_the_shorter_way_is_at_most_half_a_turn():
    found = shorter_way(np.array([350.0, -350, 170, -190, 0]), 360.0)
    np.testing.assert_allclose(found, [-10, 10, 170, 170, 0])
