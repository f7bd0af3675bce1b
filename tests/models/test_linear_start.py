import numpy as np
import pytest
import torch

import neuroshare as ns
from neuroshare.models import linear_start as start
from neuroshare.models.readout import TRUST, VARIANCE, log_linear, trusted
from neuroshare.models.starts import code_gains
from neuroshare.vae.objectives import MMVM


def simulated(signal, subjects=3, n_trials=12):
    names = {f"s{i}": 15 + i for i in range(subjects)}
    sessions = ns.simulate_sessions(names, n_trials=n_trials, seed=0, signal=signal)
    counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    return ns.pair_subjects(counts, by="odor")


def gain(moments, n):
    objective = MMVM(combine="mean")
    objective.set_gain(*(torch.tensor(part) for part in moments))
    return objective.gain(torch.tensor(n)).numpy()


def test_gains_are_one_until_they_are_measured():
    objective = MMVM(combine="mean", private_dim=2)
    objective.build(3, 6)
    np.testing.assert_allclose(objective.gain(torch.arange(4)).numpy(), np.ones((4, 4)), rtol=1e-6)


def test_gain_is_the_least_squares_of_a_target_on_the_mean_of_n_codes():
    rng = np.random.default_rng(0)
    n_windows, own = 200_000, np.array([0.5, 1.5])
    shared = rng.normal(size=(n_windows, 2))
    codes = shared + own * rng.normal(size=(3, n_windows, 2))
    moments = (np.ones(2), np.diag(1 + own**2), np.eye(2))
    for n in (1, 2, 3):
        mean = codes[:n].mean(0)
        slope = (mean * shared).sum(0) / (mean**2).sum(0)
        # Four standard errors of a slope, residuals of variance below one.
        np.testing.assert_allclose(
            gain(moments, [n])[0], slope, atol=4 / np.sqrt(n_windows * mean.var(0).min())
        )


def test_codes_that_tell_nothing_of_others_are_not_trusted():
    moments, _ = code_gains(simulated(1.0), 2, dict.fromkeys(("s0", "s1", "s2"), True))
    trusted = gain(moments, [1, 2])
    null = simulated(0.0)
    moments, _ = code_gains(null, 2, dict.fromkeys(null.subjects, True))
    ignored = gain(moments, [1, 2])
    assert trusted[0].max() > 0.6
    assert (ignored[0] < trusted[0] / 2).all()
    assert (trusted[1] > trusted[0]).all()  # the mean of two codes is surer than one


def test_gains_need_two_trials_of_a_condition_and_another_subject():
    paired = simulated(1.0, subjects=2, n_trials=1)
    assert code_gains(paired, 2, dict.fromkeys(paired.subjects, True)) is None
    alone = simulated(1.0).select(["s0"])
    assert code_gains(alone, 2, {"s0": True}) is None


def test_learned_gains_make_imputation_better_than_plain_mean_codes():
    train, test = simulated(0.6, n_trials=24).split(0.25, seed=0)
    model = ns.SharedLatentModel(progress=False, epochs=2).fit(train)
    learned = ns.imputation_scores(model, train, test).mean_bits_per_spike
    n_latents = model.chosen_["latent_dim"]
    model._trained.vae.objective.set_gain(
        torch.ones(n_latents), *torch.eye(n_latents).expand(2, -1, -1)
    )
    plain = ns.imputation_scores(model, train, test).mean_bits_per_spike
    assert float(learned.sel(sources="one other")) > float(plain.sel(sources="one other"))


@pytest.mark.parametrize("combine", ["best", None])
def test_how_codes_combine_is_checked(combine):
    with pytest.raises(ValueError, match="'combine' parameter of mmvm"):
        MMVM(combine=combine)


def test_many_subjects_start_where_few_would(monkeypatch):
    paired = simulated(1.0, subjects=5)
    root = dict.fromkeys(paired.subjects, True)
    dense = start.linear_starts(paired, 3, root)
    monkeypatch.setattr(start, "_MANY", 0)
    many = start.linear_starts(paired, 3, root)
    for name in paired.subjects:
        np.testing.assert_allclose(many[name].weights, dense[name].weights, atol=1e-6)
        np.testing.assert_allclose(many[name].readout, dense[name].readout, atol=1e-6)


def test_the_read_out_is_a_poisson_regression_on_single_codes():
    """As one of many codes around their means, with the weights drawn to 0."""
    from sklearn.linear_model import PoissonRegressor

    rng = np.random.default_rng(0)
    means = rng.normal(size=(12, 2))
    means = (means - means.mean(0)) @ np.diag([0.8, 0.5])
    weights = np.array([[1.2, -0.4, 0.0], [0.3, 0.9, 0.0]])
    counts = 3.0 * np.exp(means @ weights)
    n, spread = 2400, 0.15
    found = log_linear(means, counts, counts.mean(0), n, spread)
    values, axes = np.linalg.eigh(means.T @ means / len(means))
    root = (axes * np.sqrt(VARIANCE - values)) @ axes.T
    codes = np.repeat(means, 20_000, axis=0)
    codes = codes + rng.normal(size=codes.shape) @ root
    for unit in range(3):
        single = PoissonRegressor(alpha=1 / (n * spread**2), tol=1e-8, max_iter=500)
        single.fit(codes, np.repeat(counts[:, unit], 20_000))
        np.testing.assert_allclose(found[:, unit], single.coef_, atol=0.02)


def test_strongly_driven_units_do_not_throw_the_read_out_off():
    """One Newton step from the mean rate overshoots, and rates then leave all bounds."""
    z = np.eye(8)[:, :7] * 2 - 0.25
    z = z - z.mean(0)
    counts = np.full((8, 1), 1e-3)
    counts[0] = 8.0
    weights = log_linear(z, counts, counts.mean(0), 400, 0.15)
    assert np.isfinite(weights).all()
    assert np.exp(z @ weights).max() * counts.mean() < 8.0 * 2


def test_a_read_out_is_trusted_as_far_as_held_out_counts_say():
    rng = np.random.default_rng(0)
    drive = rng.normal(size=(4000, 1, 3))
    counts = rng.poisson(2 * np.exp(drive * [0.5, 1.0, 0.0] - np.array([0.125, 0.5, 0.0])))
    rate = counts.mean((0, 1))
    drive[..., 1] -= 0.5
    drive[..., 0] -= 0.25
    found = trusted([(drive[:2000], rate, counts[:2000]), (drive[2000:], rate, counts[2000:])])
    assert found.tolist() == [0.5, 1.0, 0.0]
    assert set(found) <= set(TRUST)


def test_places_are_imputed_at_the_start_about_as_well_as_by_their_mean_counts():
    """They were imputed at less than nothing: rates are log-linear in codes, and overshot."""
    odors = [f"{k:02d}" for k in range(8)]
    sessions = ns.simulate_sessions(
        {"a": 30, "b": 40, "c": 30}, odors=odors, tuning="place", n_trials=20, signal=2.0, seed=0
    )
    counts = {n: ns.bin_spikes(s, "start_time", (0.0, 0.4), 0.01) for n, s in sessions.items()}
    train, test = ns.pair_subjects(counts, by="odor", width=0.1, step=0.05).split(0.25, seed=0)
    model = ns.SharedLatentModel(progress=False, epochs=0, latent_dim=8, inputs="pooled")
    scores = ns.imputation_scores(model.fit(train), train, test)
    bits = float(scores.mean_bits_per_spike.sel(sources="all others"))
    assert bits > 0.5 * float(scores.bits_per_spike_psth.mean()) > 0
