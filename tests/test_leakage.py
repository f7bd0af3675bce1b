from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr

from neuroshare.leakage import SCHEMES, leakage_report
from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.pairing import pair_subjects
from neuroshare.recordings.simulate import simulate_sessions


@pytest.fixture(scope="module")
def paired():
    # Strong signal, so that a report which looked at the labels would show it.
    sessions = simulate_sessions({"a": 30, "b": 25}, n_trials=15, signal=3.0, mean_rate=8.0)
    counts = {name: bin_spikes(session) for name, session in sessions.items()}
    return pair_subjects(counts, by="odor", step=0.02)


def test_only_shuffled_windows_find_what_is_not_there(paired):
    report = leakage_report(paired, n_simulations=2)
    assert (report["mean"][:2] > 0.4).all()
    assert (report["mean"][0]) > 0.8
    # 4 standard errors of 60 trials, two subjects and simulations: 0.11.
    assert (abs(report["mean"][2:] - 0.25) < 0.12).all()
    leaks = ["this is leakage" in sentence for sentence in report["sentence"].values]
    assert leaks == [True, True, False, False, False, False]
    assert report["sentence"].values[0].startswith(SCHEMES[0])
    assert "chance is 0.25" in report["sentence"].values[3]


def test_the_design_is_kept_and_the_data_are_not_touched(paired):
    before = paired.counts["a"].values.copy()
    report = leakage_report(paired)
    np.testing.assert_array_equal(paired.counts["a"].values, before)
    assert report["subject"].values.tolist() == ["a", "b"]
    assert report["accuracy"].dims == ("scheme", "subject")


def test_every_executor_gives_the_same_report(paired):
    with ThreadPoolExecutor(2) as pool:
        there = leakage_report(paired, n_simulations=2, executor=pool)
    xr.testing.assert_identical(there, leakage_report(paired, n_simulations=2))


def test_one_subject_has_no_cross_accuracy(paired):
    report = leakage_report(paired.select(["b"]))
    assert np.isnan(report["mean"][-1])
    assert "one subject" in report["sentence"].values[-1]


def test_designs_that_cannot_be_simulated_are_refused(paired):
    with pytest.raises(ValueError, match=r"20 folds need as many trials.*a 'A' \(15\)"):
        leakage_report(paired, n_folds=20)
    halves = {name: array * 0.5 for name, array in paired.counts.items()}
    with pytest.raises(ValueError, match="not of whole"):
        leakage_report(pair_subjects(halves, by="odor"))
