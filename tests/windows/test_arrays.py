import numpy as np
import pandas as pd
import pytest

import neuroshare as ns

RNG = np.random.default_rng(0)


def arrays(n_bins=20):
    return {"mitt": RNG.poisson(1, (16, 5, n_bins)), "stella": RNG.poisson(1, (12, 3, n_bins))}


LABELS = {"mitt": list("AB" * 8), "stella": np.array(list("AB" * 6))}


def test_arrays_can_be_paired_as_they_are():
    data = arrays()
    counts = ns.from_arrays(data, LABELS, bin_size=0.02, by="odor", start=-0.1)
    np.testing.assert_array_equal(counts["mitt"].values, data["mitt"])
    np.testing.assert_allclose(counts["mitt"]["time"].values[:2], [-0.09, -0.07])
    paired = ns.pair_subjects(counts, by="odor", width=0.1, step=0.02)
    assert (paired.bin_size, paired.conditions) == (0.02, ("A", "B"))
    assert paired.units["stella"].tolist() == [0, 1, 2]


def test_labels_may_be_tables():
    tables = {
        "mitt": pd.DataFrame({"odor": LABELS["mitt"], "speed": np.arange(16.0)}),
        "stella": {"odor": LABELS["stella"], "speed": np.arange(12.0)},
    }
    counts = ns.from_arrays(arrays(), tables, bin_size=0.01)
    assert counts["stella"]["speed"].values[-1] == 11
    z = ns.pair_subjects(counts, by="odor", step=0.1).coords()
    assert "speed" in z


@pytest.mark.parametrize(
    ("activity", "labels", "words"),
    [
        ([1], LABELS, "'activity' parameter of from_arrays must be a mapping"),
        (arrays(), {"mitt": LABELS["mitt"]}, "labels of every subject"),
        ({**arrays(), "mitt": np.zeros((16, 5))}, LABELS, r"\(trial, unit, time\), got float64"),
        (arrays(), {**LABELS, "mitt": list("ABC")}, "one value of 'condition' for each of 16"),
    ],
)
def test_what_does_not_fit_is_refused(activity, labels, words):
    with pytest.raises(ValueError, match=words):
        ns.from_arrays(activity, labels, bin_size=0.01)
