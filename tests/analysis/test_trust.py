"""Drift of activity, and the verdict on p-values."""

import numpy as np
import pytest

from neuroshare.analysis.trust import Drift, drift, verdict
from neuroshare.windows.order import label_order

INTERLEAVED = label_order(np.random.default_rng(0).permutation(np.repeat([0, 1, 2], 30)))
CLUMPED = label_order(np.repeat(np.random.default_rng(0).permutation(np.repeat([0, 1], 30)), 4))
CONFOUNDED = label_order(np.repeat([0, 1], 40))
NONE, DRIFTS = Drift(0.0, 0.6), Drift(0.08, 0.002)


def activity(seed, slow, n=160, n_units=12):
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(size=(n, 1)), axis=0)
    walk = (walk - walk.mean()) / walk.std()
    labels = rng.permutation(np.repeat([0, 1], n // 2))
    noise = rng.normal(size=(n, n_units)) + 2 * labels[:, None]
    return noise + slow * walk * rng.normal(size=n_units), labels


def test_drift_is_found_where_it_is_and_its_p_is_that_of_chance_where_it_is_not():
    found = [drift(*activity(seed, 0.5), n_permutations=99) for seed in range(10)]
    assert max(one.p for one in found) <= 0.05
    assert min(one.share for one in found) > 0.02
    p = np.array([drift(*activity(seed, 0.0), n_permutations=99).p for seed in range(100)])
    assert (p <= 0.05).sum() <= 12  # 5 expected, standard deviation 2.2
    assert 0.35 < p.mean() < 0.65


def test_what_differs_between_conditions_is_no_drift():
    x, labels = activity(0, 0.0)
    order = np.argsort(labels)  # all of one condition first
    assert drift(x[order], labels[order], n_permutations=99).p > 0.05


def test_drift_of_nothing_is_none():
    assert drift(np.zeros((40, 3)), np.tile([0, 1], 20)).p == 1
    assert drift(np.zeros((4, 3)), np.arange(4)) == Drift(0.0, 1.0)
    assert "no drift" in NONE.sentence("mitt")
    assert "drifts over the session (8 %" in DRIFTS.sentence("mitt")


@pytest.mark.parametrize(
    ("order", "found", "in_stretches", "p_control", "expected"),
    [
        (INTERLEAVED, DRIFTS, False, None, "yes"),
        (CLUMPED, DRIFTS, True, None, "yes"),
        (CLUMPED, NONE, False, None, "with care"),
        (CLUMPED, DRIFTS, False, None, "no"),
        (CONFOUNDED, NONE, True, None, "no"),
        (INTERLEAVED, NONE, False, 0.01, "with care"),
        (CONFOUNDED, NONE, True, 0.01, "no"),
        (INTERLEAVED, NONE, False, 0.4, "yes"),
    ],
)
def test_verdict(order, found, in_stretches, p_control, expected):
    level, why = verdict({"mitt": order}, {"mitt": found}, in_stretches, "odor", p_control)
    assert level == expected
    assert all(sentence.endswith(".") for sentence in why)
    assert "dor" in why[0]
