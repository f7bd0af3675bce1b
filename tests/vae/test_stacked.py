"""Laws of many models trained at once: each ends where it would have ended alone."""

import copy

import numpy as np
import pytest
import torch

from neuroshare.vae import stacked, train
from neuroshare.vae.history import as_arrays
from neuroshare.vae.likelihoods import Poisson
from neuroshare.vae.multimodal import MultimodalVAE
from neuroshare.vae.networks import Decoder, Encoder
from neuroshare.vae.objectives import MMVM, OBJECTIVES, Autoencoder, MMVAEPlus, MoE, MoPoE, PoE
from neuroshare.vae.schedule import Schedule
from neuroshare.vae.train import Training

FEATURES, L = (6, 4, 5), 6

CASES = {
    **OBJECTIVES,
    "mmvm mixture": lambda: MMVM(bound="mixture"),
    "mmvm scheduled": lambda: MMVM(prior_weight=Schedule(1.0, 0.0, 2), private_dim=2),
    "mmvm cross": lambda: MMVM(cross=0.5, combine="mean"),
    "poe sub_elbos": lambda: PoE(sub_elbos=True),
    "moe importance": lambda: MoE(n_importance=3),
    "mopoe n_subsets": lambda: MoPoE(n_subsets=3),
    "mmvae_plus private": lambda: MMVAEPlus(private_dim=2),
}


class Data:
    """Counts of three modalities, of which now and then one is absent."""

    def __init__(self, n=40):
        generator = torch.Generator().manual_seed(0)
        self.x = [torch.poisson(torch.ones(n, f), generator=generator) for f in FEATURES]
        self.observed = torch.rand(len(FEATURES), n, generator=generator) > 0.2
        self.observed[0] |= ~self.observed.any(0)

    def __len__(self):
        return self.observed.shape[1]

    def redraw(self, epoch):
        pass

    def batch(self, index):
        return [x[index] for x in self.x], self.observed[:, index]


def make(objective, seed, hidden=8, dropout=0.2, likelihood=Poisson):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        objective = objective()
        objective.build(len(FEATURES), L)
        return MultimodalVAE(
            [Encoder(f, L, (hidden,), dropout=dropout, linear=True) for f in FEATURES],
            [Decoder(L, f, (hidden,)) for f in FEATURES],
            [likelihood().sized(f) for f in FEATURES],
            objective,
        )


def fit(vae, data, **settings):
    return train.fit(vae, data, Training(**settings))


def fit_many(vaes, data, *, betas, randomness="different", **settings):
    return stacked.fit_many(vaes, data, Training(**settings), betas=betas, randomness=randomness)


LR = Schedule(1e-2, 5e-3, 3)
SETTINGS = {"epochs": 3, "batch_size": 16, "lr": LR, "seed": 3, "progress": False}
BETAS = [0.1, Schedule(0.1, 1.0, 2), 2.0]


def assert_as_alone(vaes, together, betas=BETAS, **settings):
    """Fit each alone, and find the same weights and histories in the stack."""
    before = [copy.deepcopy(vae) for vae in vaes]
    more = {**SETTINGS, "randomness": "same", **together}
    histories = fit_many(vaes, Data(), betas=betas, **more)
    for vae, alone, beta, history in zip(vaes, before, betas, histories, strict=True):
        start = copy.deepcopy(alone.state_dict())
        expected = fit(alone, Data(), beta=beta, **SETTINGS, **settings)
        moved = 0.0
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(vae.state_dict()[name], value, rtol=1e-5, atol=1e-5)
            moved += (value - start[name]).abs().sum().item()
        assert moved > 0.1
        for name, values in as_arrays(expected).items():
            np.testing.assert_allclose(
                as_arrays(history)[name], values, rtol=1e-5, atol=1e-5, err_msg=name
            )
        assert not vae.training


@pytest.mark.parametrize("case", CASES)
def test_stacked_equals_serial(case):
    assert_as_alone([make(CASES[case], seed) for seed in range(3)], {})


def test_stacked_equals_serial_with_weight_decay_and_graphs():
    vaes = [make(MMVM, seed) for seed in range(3)]
    assert_as_alone(vaes, {"weight_decay": 0.5, "graphs": True}, weight_decay=0.5)


def test_unlike_models_train_beside_each_other_as_each_alone():
    """Without noise, since that of `fit` is drawn by one model and this by several."""
    vaes = [
        make(Autoencoder, 0, dropout=0.0),
        make(Autoencoder, 1, dropout=0.0, hidden=5),
        make(Autoencoder, 2, dropout=0.0),
    ]
    assert_as_alone(vaes, {})


def test_an_objective_that_cannot_be_stacked_is_computed_apart():
    vae = make(lambda: MoE(n_importance=3, dreg=True), 0)
    assert_as_alone([vae], {}, betas=[0.5])


def test_models_have_batches_and_noise_of_their_own():
    vaes = [make(MMVM, 0) for _ in range(3)]
    histories = fit_many(vaes, Data(), betas=[1.0, 1.0, 1.0], **SETTINGS)
    assert len({history.loss[-1] for history in histories}) == 3
    again = [make(MMVM, 0) for _ in range(3)]
    repeated = fit_many(again, Data(), betas=[1.0, 1.0, 1.0], **SETTINGS)
    assert [h.loss for h in repeated] == [h.loss for h in histories]


def test_the_global_generator_is_left_alone():
    torch.manual_seed(11)
    expected = torch.get_rng_state()
    fit_many([make(PoE, 0)], Data(), betas=[1.0], **SETTINGS)
    assert torch.equal(torch.get_rng_state(), expected)


def test_a_last_step_after_which_nothing_is_finite_is_in_the_history():
    settings = {**SETTINGS, "epochs": 1, "batch_size": len(Data()), "lr": 1e30}
    (history,) = fit_many([make(PoE, 0)], Data(), betas=[1.0], **settings)
    with pytest.raises(ValueError, match="with the last step"):
        history.check_finite()


def test_a_diverging_model_leaves_the_others_alone():
    sound, broken = make(MMVM, 0), make(MMVM, 1)
    with torch.no_grad():
        broken.encoders[0].loc.weight[0, 0] = float("nan")
    others = [make(MMVM, 0), make(MMVM, 1)]
    settings = {**SETTINGS, "randomness": "same"}
    histories = fit_many([sound, broken], Data(), betas=[1.0, 1.0], **settings)
    fit_many(others, Data(), betas=[1.0, 1.0], **settings)
    assert not np.isfinite(histories[1].loss).any()
    assert np.isfinite(histories[0].loss).all()
    for name, value in others[0].state_dict().items():
        assert torch.equal(sound.state_dict()[name], value)


def test_frozen_networks_keep_their_weights():
    vaes = [make(MMVM, seed) for seed in range(2)]
    for vae in vaes:
        vae.encoders[0].requires_grad_(False)
    assert_as_alone(vaes, {}, betas=[0.1, 1.0])
    for seed, vae in enumerate(vaes):
        before = make(MMVM, seed)
        assert torch.equal(vae.encoders[0].loc.weight, before.encoders[0].loc.weight)
        assert not torch.equal(vae.encoders[1].loc.weight, before.encoders[1].loc.weight)


def test_an_interruption_leaves_usable_models_and_a_warning():
    class Interrupted(Data):
        n_calls = 4

        def batch(self, index):
            self.n_calls -= 1
            if self.n_calls < 0:
                raise KeyboardInterrupt
            return super().batch(index)

    vaes = [make(MMVM, seed) for seed in range(2)]
    with pytest.warns(UserWarning, match="interrupted after 1 of 3 epochs"):
        histories = fit_many(vaes, Interrupted(), betas=[1.0, 1.0], **SETTINGS)
    assert all(history.interrupted and history.n_epochs == 1 for history in histories)
    assert not torch.equal(vaes[0].encoders[0].loc.weight, make(MMVM, 0).encoders[0].loc.weight)


def test_every_model_needs_a_beta():
    with pytest.raises(ValueError, match=r"one beta for each\. Got 1 and 2"):
        fit_many([make(MMVM, 0)], Data(), betas=[1.0, 2.0], **SETTINGS)
