import numpy as np
import pytest
import torch

import neuroshare as ns
from neuroshare.models import linear_start as start
from neuroshare.models.linear_start import code_gains
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
    trusted = gain(code_gains(simulated(1.0), 2, dict.fromkeys(("s0", "s1", "s2"), True)), [1, 2])
    null = simulated(0.0)
    ignored = gain(code_gains(null, 2, dict.fromkeys(null.subjects, True)), [1, 2])
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
