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


def test_behavior_is_decoded_from_the_nearest_windows_of_a_source():
    rng = np.random.default_rng(0)
    targets = np.linspace(0, 1, 8)[:, None] * [1.0, 2.0]

    def windows(n, noise):
        bins = rng.integers(0, 8, n)
        z = np.repeat(targets[bins, None], 2, axis=1) @ rng.normal(size=(2, 3))
        return z + noise * rng.normal(size=z.shape), bins

    fitted = {"a": windows(60, 0.1), "b": windows(40, 0.1)}
    held_out_part = {"a": windows(20, 0.1), "b": windows(700, 0.1)}
    found = held_out.nearest(fitted, held_out_part, targets)
    for i, source in enumerate(fitted):
        z, bins = fitted[source]
        known, scale = z.reshape(-1, 3), z.reshape(-1, 3).std(axis=0)
        for j, target in enumerate(held_out_part):
            seen, true = (part[:: 1 + (target == "b")] for part in held_out_part[target])
            apart = np.linalg.norm((seen[:, :, None] - known) / scale, axis=-1)
            near = apart.argsort(axis=-1)[..., : held_out.N_NEAREST]
            points = targets[np.repeat(bins, 2)][near].mean(axis=(1, 2))
            wrong = np.linalg.norm(points - targets[true], axis=1).mean()
            mean = np.linalg.norm(targets[true] - targets[true].mean(0), axis=1).mean()
            assert found[i, j] == pytest.approx(1 - wrong / mean)


def test_a_window_far_off_does_not_decide_for_all_others():
    targets = np.linspace(0, 1, 50)[:, None]
    bins = np.repeat(np.arange(50), 4)
    fitted = {"a": (np.tile(targets[bins, None], (1, 1, 2)), bins)}

    def score(shift):
        seen = np.append(np.clip(bins + shift, 0, 49), 49)  # the last one at the other end
        codes = {"a": (np.tile(targets[seen, None], (1, 1, 2)), np.append(bins, 0))}
        return held_out.nearest(fitted, codes, targets)[0, 0]

    assert score(0) > 0.9
    assert score(0) > score(2) > score(6)
