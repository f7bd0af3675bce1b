from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr

from neuroshare.analysis.separation import separation
from neuroshare.models.linear import LinearAlignment
from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.simulate import simulate_sessions
from neuroshare.windows.pair import pair_subjects
from neuroshare.workflow.leakage import SCHEMES, leakage_report


@pytest.fixture(scope="module")
def counts():
    # Strong signal, so that a report which looked at the labels would show it.
    sessions = simulate_sessions({"a": 30, "b": 25}, n_trials=15, signal=3.0, mean_rate=8.0)
    return {name: bin_spikes(session) for name, session in sessions.items()}


@pytest.fixture(scope="module")
def paired(counts):
    return pair_subjects(counts, by="odor", step=0.02)


def test_only_shuffled_windows_find_what_is_not_there(paired):
    report = leakage_report(paired, n_simulations=2)
    assert (report["mean"][:2] > 0.4).all()
    assert (report["mean"][0]) > 0.8
    # 4 standard errors of 60 trials, two subjects and simulations: 0.11.
    assert (abs(report["mean"][2:] - 0.25) < 0.12).all()
    leaks = ["this is leakage" in sentence for sentence in report["sentence"].values]
    assert leaks == [True, True, *[False] * 6]
    assert report["sentence"].values[0].startswith(SCHEMES[0])
    assert "chance is 0.25" in report["sentence"].values[3]


def test_the_design_is_kept_and_the_data_are_not_touched(paired):
    before = paired.fingerprint()
    report = leakage_report(paired)
    assert paired.fingerprint() == before
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


def test_designs_that_cannot_be_simulated_are_refused(paired, counts):
    with pytest.raises(ValueError, match=r"20 folds need as many trials.*a 'A' \(15\)"):
        leakage_report(paired, n_folds=20)
    halves = {name: array * 0.5 for name, array in counts.items()}
    with pytest.raises(ValueError, match="values that are not whole"):
        leakage_report(pair_subjects(halves, by="odor"))


def test_runs_and_drift_of_the_recording_are_simulated():
    more = {"n_trials": 40, "signal": 0.0, "mean_rate": 20.0, "runs": 4}
    found = {}
    for drift in (3.0, 0.0):
        sessions = simulate_sessions({"a": 30, "b": 25}, drift=drift, **more)
        counts = {name: bin_spikes(session) for name, session in sessions.items()}
        paired = pair_subjects(counts, by="odor", step=0.1)
        assert {order.kind for order in paired.orders.values()} == {"runs"}
        found[drift] = leakage_report(paired, n_simulations=3)
    told = [["this is leakage" in s for s in found[d]["sentence"].values] for d in (3.0, 0.0)]
    # Even whole trials are not far enough from their neighbours in time; whole runs are.
    assert told[0] == [*[True] * 6, False, False]
    assert told[1][2:] == [False] * 6
    assert float(found[3.0]["mean"][2]) > float(found[0.0]["mean"][2]) + 0.1


def in_short_runs(seed, run, signal, n=160):
    """Pair counts that drift within a few trials, with labels in runs that they know or not."""
    counts = {}
    for k, (name, n_units) in enumerate({"a": 24, "b": 20, "c": 22}.items()):
        rng = np.random.default_rng([seed, k])
        label = np.repeat(rng.permutation(np.arange(-(-n // run)) % 4), run)[:n]
        state, kept = rng.normal(size=(n, n_units)), np.exp(-1 / 3)
        for t in range(1, n):
            state[t] = kept * state[t - 1] + np.sqrt(1 - kept**2) * state[t]
        response = np.random.default_rng([seed, k, 1]).normal(size=(4, n_units))
        rate = rng.lognormal(-1.4, 1, n_units) * np.exp(state + signal * response[label])
        counts[name] = xr.DataArray(
            rng.poisson(rate[:, :, None], (n, n_units, 6)),
            dims=("trial", "unit", "time"),
            coords={
                "trial": np.arange(n),
                "unit": np.arange(n_units),
                "time": (np.arange(6) + 0.5) * 0.05,
                "odor": ("trial", np.array(list("ABCD"))[label]),
                "start_time": ("trial", 8.0 * np.arange(n)),
            },
            attrs={"bin_size": 0.05, "align": "start_time"},
        )
    return pair_subjects(counts, by="odor", width=0.1, step=0.1, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("run", [2, 3, 5])
def test_what_is_said_of_a_random_split_is_what_it_gives_without_information(run):
    real, said = [], []
    for seed in range(12):
        paired = in_short_runs(seed, run, signal=0.0)
        train, test = paired.split(0.2, seed=seed, blocks=None)
        model = LinearAlignment("mcca", 8, n_components=40, ridge=0.5).fit(train)
        found = separation(model.transform(train), model.transform(test), pooled=False)
        at = found.sel(level="trial")
        real.append([float(at["mean_own"]), float(at["mean_cross"])])
        # The recording itself may know the condition.
        with_information = in_short_runs(seed, run, signal=0.7)
        report = leakage_report(with_information, n_simulations=2, seed=seed)
        said.append(report["mean"].values[4:8])
    real, said = np.array(real), np.array(said)
    assert (real.mean(axis=0) > 0.29).all(), "chance is 0.25"
    # Both means have a standard error of 0.015; roots of few spikes lose some of a strong drift.
    above = real.mean(axis=0) - 0.25
    assert (abs(said[:, :2].mean(axis=0) - 0.25 - above) < 0.03 + 0.2 * above).all()
    # Whole stretches and a gap are what the package does by itself.
    assert (said[:, 2:].mean(axis=0) < 0.28).all()


def test_chance_is_that_of_the_conditions_of_each_subject(counts):
    two = counts["b"].isel(trial=np.isin(counts["b"].odor.values, ["A", "B"]))
    report = leakage_report(
        pair_subjects({"a": counts["a"], "b": two}, by="odor", step=0.1, allow_missing=True)
    )
    np.testing.assert_allclose(report["chance"].values[[0, 3, 6]], (0.25 + 0.5) / 2)
    assert report["chance"].values[-1] == 0.5, "what both know are two odors"
    assert "where chance is 0.38; no leakage" in report["sentence"].values[3]
