"""When training is taken, given what it did to held-out trials."""

import numpy as np
import pytest

from neuroshare.models import held_out
from neuroshare.models.choice import Looks, Start, choose_steps, surest
from neuroshare.models.linear_start import WEIGHTINGS

STEPS = (0, 50, 100, 150)


def tried(own, cross, *, shares=True, noise=0.01):
    """Looks at two folds of three animals whose log losses fall by so much at each step."""
    rng = np.random.default_rng(0)
    looks = []
    for _ in range(2):
        one = Looks(shares, steps=list(STEPS))
        base = rng.uniform(1, 2, (3, 3))
        for gain_own, gain_cross in zip(own, cross, strict=True):
            gain = np.full((3, 3), gain_cross) + noise * rng.normal(size=(3, 3))
            np.fill_diagonal(gain, gain_own + noise * rng.normal(size=3))
            one.loss.append(base - gain * (gain_own != 0 or gain_cross != 0))
            one.accuracy.append(np.full((3, 3), 0.5))
        looks.append(one)
    return {"mcca": looks}


ROWS = {"mcca": {"init": "mcca"}}


@pytest.mark.parametrize(
    ("own", "cross", "steps"),
    [
        ((0, 0.1, 0.3, 0.2), (0, 0.1, 0.3, 0.2), 100),  # both gain: the best
        ((0, -0.1, -0.2, -0.3), (0, 0.1, 0.3, 0.5), 0),  # cross at the cost of own
        ((0, 0.1, 0.3, 0.5), (0, -0.1, -0.2, -0.3), 0),  # own at the cost of cross
        ((0, 0.0, 0.0, -0.2), (0, 0.1, 0.3, 0.9), 100),  # as long as none loses
        ((0, -0.1, -0.1, -0.1), (0, -0.1, -0.1, -0.1), 0),  # none gains
    ],
)
def test_training_is_taken_where_it_gains_and_costs_nothing(own, cross, steps):
    name, found, table = choose_steps(tried(own, cross), ROWS)
    assert (name, found) == ("mcca", steps)
    assert [row["steps"] for row in table if row["chosen"]] == [steps]


def test_where_nothing_is_shared_own_alone_decides():
    looks = tried((0, 0.1, 0.3, 0.2), (0, -1, -1, -1), shares=False)
    assert choose_steps(looks, ROWS)[1] == 100


@pytest.mark.parametrize("n", [1, 2, 11, 12, 30])
def test_time_is_linear_in_subjects_and_all_are_asked_alike(n, monkeypatch):
    rng = np.random.default_rng(0)
    codes = {f"a{k}": (rng.normal(size=(12, 2, 3)), np.arange(12) % 3) for k in range(n)}
    for scored in (
        held_out.discriminant_accuracy(codes, codes),
        *held_out.classified(codes, codes),
    ):
        between = held_out.between_subjects(n)
        np.testing.assert_array_equal(~np.isnan(scored), between | np.eye(n, dtype=bool))
        assert set(between.sum(0)) == set(between.sum(1)) == {min(n - 1, held_out.MOST_TARGETS)}
        own, cross = held_out.own_and_cross(scored)
        assert own == pytest.approx(np.diag(scored).mean())
        if n > 1:
            assert cross == pytest.approx(scored[between].mean())


def test_gains_of_many_subjects_are_those_of_the_pairs_that_are_looked_at():
    n = 20
    between = held_out.between_subjects(n)
    start = np.where(between | np.eye(n, dtype=bool), 1.0, np.nan)
    looks = Looks(True, steps=[0, 50], loss=[start, start - 0.2])
    looks.accuracy = [start * 0.5] * 2
    name, steps, table = choose_steps({"mcca": [looks, looks]}, ROWS)
    assert (name, steps) == ("mcca", 50)
    assert table[1]["log_loss"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("accuracy", "loss", "taken"),
    [
        ([[0.6, 0.7, 0.8], [0.7, 0.6, 0.7]], [1.0, 0.9], 1),  # as good, and surer
        ([[0.6, 0.7, 0.8], [0.7, 0.6, 0.7]], [0.9, 1.0], 0),
        ([[0.6, 0.7, 0.8], [0.5, 0.6, 0.7]], [1.0, 0.9], 0),  # worse in every fold
        ([[0.6], [0.6]], [1.0, 0.9], 1),  # one fold has no standard error
        ([[0.6], [0.59]], [1.0, 0.9], 0),
    ],
)
def test_of_starts_that_are_as_accurate_the_surest_is_taken(accuracy, loss, taken):
    starts = [Start(1, WEIGHTINGS[0], k) for k in (4, 8)]
    scores = {start: np.array(found) for start, found in zip(starts, accuracy, strict=True)}
    hopeless = Start(2, WEIGHTINGS[0], 2)  # which the classifier was not asked about
    found = surest(scores | {hopeless: scores[starts[0]] + 1}, dict(zip(starts, loss, strict=True)))
    assert found == starts[taken]
