"""Who drives the shared space."""

import numpy as np
import pytest
import xarray as xr

import neuroshare as ns


def parts(signals, seed=0, n_trials=30, fraction=0.8, n_units=25):
    counts = {}
    for name, signal in signals.items():
        n = 80 if name == "strong" else n_units
        sessions = ns.simulate_sessions({name: n}, n_trials=n_trials, seed=seed, signal=signal)
        counts[name] = ns.bin_spikes(sessions[name])
    return ns.pair_subjects(counts, "odor", step=0.1).split(fraction, seed=seed)


def test_a_subject_without_the_signal_is_not_missed_and_one_with_most_of_it_is():
    signals = {"strong": 3.0, "b": 0.8, "c": 0.8, "silent": 0.0}
    model = ns.LinearAlignment("mcca", latent_dim=3)
    found = [ns.influence(model, *parts(signals, seed)).loss for seed in range(8)]
    loss = xr.concat(found, "seed").mean("seed")
    assert abs(float(loss.sel(left_out="silent"))) < 0.025
    assert float(loss.sel(left_out="strong")) > 0.015
    assert float(loss.sel(left_out=["b", "c"]).min()) > -0.02
    assert loss.idxmax().item() == "strong"


def test_losses_are_differences_on_the_same_pairs():
    train, test = parts({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, n_trials=8, fraction=0.4)
    model = ns.LinearAlignment(latent_dim=3)
    found = ns.influence(model, train, test)
    fewer = [name for name in train.subjects if name != "b"]
    alone = ns.LinearAlignment(latent_dim=3).fit(train.select(fewer))
    scores = ns.separation(*(alone.transform(part.select(fewer)) for part in (train, test)))
    without = found.cross_without.sel(left_out="b")
    expected = scores.cross.sel(level="trial", drop=True)
    xr.testing.assert_allclose(
        without.sel(source=fewer, target=fewer).drop_vars("left_out"),
        expected,
        check_dim_order=False,
    )
    assert without.sel(source="b").isnull().all()
    loss = (found.cross - without).mean("source")
    np.testing.assert_allclose(found.loss_target.sel(left_out="b"), loss)
    np.testing.assert_allclose(found.loss.sel(left_out="b"), loss.mean())
    low, high = found.loss_interval.sel(left_out="b").values
    assert low < float(found.loss.sel(left_out="b")) < high
    xr.testing.assert_identical(found, ns.influence(model, train, test, executor=2))


def test_two_targets_give_no_interval():
    found = ns.influence(ns.LinearAlignment(latent_dim=2), *parts(dict.fromkeys("abc", 1.0)))
    assert found.loss_interval.isnull().all()


def test_losses_are_those_of_animals():
    parts_of = parts(dict.fromkeys("abcde", 1.0), n_trials=8, fraction=0.4)
    model = ns.LinearAlignment(latent_dim=2)
    plain = ns.influence(model, *parts_of)
    sessions = ns.simulate_sessions(dict.fromkeys("abcde", 25), n_trials=8)
    counts = {n: ns.bin_spikes(s) for n, s in sessions.items()}
    for name in "bc":
        counts[name] = counts[name].assign_attrs(subject="both")
    paired = ns.pair_subjects(counts, "odor", step=0.1).split(0.4, seed=0)
    found = ns.influence(model, *paired)
    xr.testing.assert_allclose(found.cross, plain.cross)
    lost = (found.cross - found.cross_without).sel(left_out="a")
    b = float(lost.sel(target="b", source=["d", "e"]).mean())
    c = float(lost.sel(target="c", source=["d", "e"]).mean())
    assert float(found.loss_target.sel(left_out="a", target="b")) == pytest.approx(b)
    d, e = (float(lost.sel(target=t).mean()) for t in "de")
    assert float(found.loss.sel(left_out="a")) == pytest.approx(np.mean([(b + c) / 2, d, e]))
    assert found.loss_interval.sel(left_out="a").notnull().all()
    # Without d there are a, the two sessions of one animal, and e: still three animals.
    assert found.loss_interval.notnull().all()


def test_what_cannot_be_asked_is_refused():
    train, test = parts({"a": 1.0, "b": 1.0}, n_trials=4, fraction=0.5)
    model = ns.LinearAlignment(latent_dim=2)
    with pytest.raises(ValueError, match="needs the same three or more subjects"):
        ns.influence(model, train, test)
    with pytest.raises(TypeError, match="'train' parameter of influence must be the PairedWindows"):
        ns.influence(model, [1], test)
    with pytest.raises(ValueError, match="'model' parameter of influence must be a SharedLatent"):
        ns.influence("mcca", train, test)
