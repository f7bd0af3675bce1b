"""Laws of the sharing rules, for every rule by name and for its variants."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from neuroshare.vae.experts import kl_standard, product, split
from neuroshare.vae.likelihoods import Gaussian, Poisson
from neuroshare.vae.multimodal import MultimodalVAE
from neuroshare.vae.objectives import (
    MMVM,
    OBJECTIVES,
    Autoencoder,
    Average,
    Elbo,
    Independent,
    MMVAEPlus,
    MoE,
    MoPoE,
    Objective,
    PoE,
    make_objective,
)
from neuroshare.vae.schedule import Schedule
from neuroshare.vae.stacked import fit_many
from neuroshare.vae.train import Training, fit

M, S, L = 3, 4, 6
FEATURES = (5, 3, 4, 2, 6)

CASES = {
    **OBJECTIVES,
    "mmvm mixture": lambda: MMVM(bound="mixture"),
    "mmvm prior_weight": lambda: MMVM(prior_weight=0.3),
    "mmvm mixture prior_weight": lambda: MMVM(bound="mixture", prior_weight=0.3),
    "mmvm private": lambda: MMVM(private_dim=2, private_beta=0.5),
    "mmvm mixture private": lambda: MMVM(bound="mixture", private_dim=2),
    "mmvm mixture n_partners": lambda: MMVM(bound="mixture", n_partners=1),
    "mmvm cross": lambda: MMVM(cross=0.5),
    "mmvm contrast": lambda: MMVM(contrast=2.0, private_dim=2),
    "mmvm cross private": lambda: MMVM(cross=1.0, private_dim=2),
    "poe sub_elbos": lambda: PoE(sub_elbos=True),
    "poe no prior": lambda: PoE(prior_expert=False),
    "poe no prior sub_elbos": lambda: PoE(prior_expert=False, sub_elbos=True),
    "moe importance": lambda: MoE(n_importance=5),
    "moe dreg": lambda: MoE(n_importance=5, dreg=True),
    "mopoe prior": lambda: MoPoE(prior_expert=True),
    "mopoe n_subsets": lambda: MoPoE(n_subsets=3),
    "mmvae_plus 2 private": lambda: MMVAEPlus(private_dim=2),
}
PARTNERED = {"mmvm cross", "mmvm cross private", "mmvm mixture n_partners"}
"""Those that draw a partner anew for every batch."""
CHOOSY = {*PARTNERED, "mopoe n_subsets"}
"""Those that draw a partner or subsets besides Gaussian noise."""

every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def noise(monkeypatch):
    """Replace the noise of all Gaussian draws: a number, or an array in the shape of the locs.

    With one number for all, the noise is the same for every modality, and laws about permuting or
    removing modalities hold draw by draw. Importance draws get a range of numbers.
    """

    def use(eps):
        def rsample(self, sample_shape=()):
            shape = (*sample_shape, *self.loc.shape)
            value = torch.as_tensor(eps, dtype=self.loc.dtype)
            if len(sample_shape) == 1:
                steps = torch.linspace(-1.0, 1.3, sample_shape[0], dtype=self.loc.dtype)
                value = value * steps.view(-1, *[1] * self.loc.ndim)
            return self.loc + self.scale * value.expand(shape)

        monkeypatch.setattr(Normal, "rsample", rsample)

    return use


class Toy(NamedTuple):
    """Posteriors, linear decoders (feature, latent) and data."""

    loc: Tensor
    scale: Tensor
    decoders: list[Tensor]
    x: list[Tensor]

    @property
    def q(self):
        return Normal(self.loc, self.scale)

    def log_lik(self, z):
        """Gaussian around a linear map: z (modality, draw, sample, latent)."""
        return torch.stack(
            [
                Gaussian().log_prob(z_m @ w.T, x_m)
                for z_m, w, x_m in zip(z, self.decoders, self.x, strict=True)
            ]
        )

    def take(self, modalities):
        return Toy(
            self.loc[modalities],
            self.scale[modalities],
            [self.decoders[m] for m in modalities],
            [self.x[m] for m in modalities],
        )

    def repeat(self, n):
        """Every sample n times, so that one call gives n independent draws."""
        return Toy(
            self.loc.repeat(1, n, 1),
            self.scale.repeat(1, n, 1),
            self.decoders,
            [x_m.repeat(n, 1) for x_m in self.x],
        )

    def with_gradient(self):
        return Toy(
            self.loc.clone().requires_grad_(),
            self.scale.clone().requires_grad_(),
            [w.clone().requires_grad_() for w in self.decoders],
            self.x,
        )


def make_toy(n_modalities=M, n_samples=S, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    decoders = [0.5 * randn(f, L) for f in FEATURES[:n_modalities]]
    x = [randn(n_samples, f) for f in FEATURES[:n_modalities]]
    loc = spread * randn(n_modalities, n_samples, L)
    return Toy(loc, (0.4 * randn(n_modalities, n_samples, L) - 0.7).exp(), decoders, x)


@pytest.fixture
def toy():
    return make_toy()


def made(case, n_modalities=M):
    """The rule, built, with random values where it learns some."""
    objective = CASES[case]()
    objective.build(n_modalities, L)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return objective.double()


EVERYONE = torch.ones(M, S, dtype=torch.bool)
SOME = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)
masks = pytest.mark.parametrize("observed", [EVERYONE, SOME], ids=["everyone", "some"])


def total(elbo, observed, beta=1.0):
    """The loss, as the trainer forms it."""
    return (beta * elbo.rate - torch.where(observed, elbo.log_lik, 0.0).sum(0)).mean()


def estimates(objective, toy, observed, n=1):
    """Draws of log-likelihoods and, last, the rate: (draw, modality + 1, sample)."""
    drawn = []
    for _ in range(n):
        elbo = objective.loss(toy.q, observed, toy.log_lik)
        seen = torch.where(observed, elbo.log_lik, 0.0)
        drawn.append(torch.cat([seen, elbo.rate.unsqueeze(0)]).detach())
    return torch.stack(drawn)


def assert_equal_means(one, other):
    """Equal within 4 standard errors over draws, the first dim; exactly where nothing varies."""
    error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
    difference = (one.mean(0) - other.mean(0)).abs()
    assert (difference <= 4 * error + 1e-9).all(), (difference / error).max()


# ---------------------------------------------------------------------------- symmetry


@every_case
@masks
def test_permuting_subjects_permutes_likelihoods_and_latents_and_leaves_the_rate(
    case, observed, toy, noise
):
    noise(0.7)
    order = [2, 0, 1]
    objective, permuted = made(case), made(case)
    with torch.no_grad():
        for parameter in permuted.parameters():
            parameter.copy_(parameter[order])
    n = 400 if case in CHOOSY else 1
    one = estimates(objective, toy, observed, n)[:, [*order, M]]
    other = estimates(permuted, toy.take(order), observed[order], n)
    if case in CHOOSY:
        assert_equal_means(one, other)
    else:
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)
    objective.eval(), permuted.eval()
    latents = objective.latents(toy.q, observed)[order]
    torch.testing.assert_close(permuted.latents(toy.take(order).q, observed[order]), latents)


# A contrast is between samples.
@pytest.mark.parametrize("case", sorted(set(CASES) - PARTNERED - {"mmvm contrast"}))
def test_samples_do_not_mix(case, toy, noise):
    noise(0.7)
    objective = made(case).eval()
    elbo = objective.loss(toy.q, SOME, toy.log_lik)
    part = Toy(toy.loc[:, 1:3], toy.scale[:, 1:3], toy.decoders, [x[1:3] for x in toy.x])
    alone = objective.loss(part.q, SOME[:, 1:3], part.log_lik)
    torch.testing.assert_close(alone.rate, elbo.rate[1:3])
    torch.testing.assert_close(alone.log_lik, elbo.log_lik[:, 1:3])


# ---------------------------------------------------------------------------- absent subjects


@every_case
@pytest.mark.parametrize("seed", range(4))
def test_an_absent_subject_receives_exactly_zero_gradient(case, seed, toy):
    torch.manual_seed(seed)
    objective = made(case)
    observed = SOME.clone()
    observed[1] = False
    observed[0, 3] = True  # nobody else was there
    toy = toy.with_gradient()
    total(objective.loss(toy.q, observed, toy.log_lik), observed).backward()
    for gradient in (toy.loc.grad, toy.scale.grad):
        if gradient is None:  # the autoencoder has no noise
            assert case == "autoencoder"
            continue
        assert (gradient[~observed] == 0).all()
    assert toy.decoders[1].grad is None or (toy.decoders[1].grad == 0).all()
    assert (toy.decoders[0].grad != 0).any()
    for parameter in objective.parameters():
        assert (parameter.grad[1] == 0).all()


@every_case
@pytest.mark.parametrize("seed", range(4))
def test_an_absent_subject_changes_nothing_for_the_others(case, seed, toy):
    objective = made(case)
    absent = ~SOME.unsqueeze(-1)
    other = Toy(
        toy.loc.masked_fill(absent, -4.0),
        toy.scale.masked_fill(absent, 3.0),
        toy.decoders,
        [torch.where(seen.unsqueeze(-1), x, 11.0) for seen, x in zip(SOME, toy.x, strict=True)],
    )
    drawn = []
    for each in (toy, other):
        torch.manual_seed(seed)
        drawn.append(estimates(objective, each, SOME))
    assert torch.equal(*drawn)
    objective.eval()
    latents = [objective.latents(each.q, SOME)[SOME] for each in (toy, other)]
    assert torch.equal(*latents)


@pytest.mark.parametrize("case", sorted(set(CASES) - CHOOSY))
def test_an_absent_subject_is_as_good_as_removed(case, toy, noise):
    noise(0.7)
    observed = torch.ones(M, S, dtype=torch.bool)
    observed[1] = False
    objective, smaller = made(case), made(case, M - 1)
    with torch.no_grad():
        for ours, theirs in zip(smaller.parameters(), objective.parameters(), strict=True):
            ours.copy_(theirs[[0, 2]])
    with_absent = estimates(objective, toy, observed)[:, [0, 2, 3]]
    removed = estimates(smaller, toy.take([0, 2]), observed[[0, 2]])
    torch.testing.assert_close(with_absent, removed, rtol=1e-10, atol=1e-10)
    latents = objective.latents(toy.q, observed)[[0, 2]]
    torch.testing.assert_close(smaller.latents(toy.take([0, 2]).q, observed[[0, 2]]), latents)


@every_case
def test_gradients_are_finite_for_any_mask_and_far_apart_posteriors(case):
    generator = torch.Generator().manual_seed(1)
    n = 64
    observed = torch.rand(M, n, generator=generator) < 0.5
    observed[torch.randint(M, (n,), generator=generator), torch.arange(n)] = True
    loc = (10 * torch.randn(M, n, L, generator=generator)).requires_grad_()
    log_scale = (2 * torch.randn(M, n, L, generator=generator)).clamp(-6, 4).requires_grad_()
    decoders = [torch.randn(f, L, generator=generator).requires_grad_() for f in FEATURES[:M]]
    x = [torch.poisson(torch.ones(n, f), generator=generator) for f in FEATURES[:M]]

    def log_lik(z):
        parts = zip(z, decoders, x, strict=True)
        return torch.stack([Poisson().log_prob(z_m @ w.T, x_m) for z_m, w, x_m in parts])

    objective = made(case).float()
    for mask in (observed, torch.ones_like(observed)):
        q = Normal(loc, log_scale.exp())
        loss = total(objective.loss(q, mask, log_lik), mask)
        assert torch.isfinite(loss)
        leaves = [loc, log_scale, *decoders, *objective.parameters()]
        for gradient in torch.autograd.grad(loss, leaves, allow_unused=True):
            assert gradient is None or torch.isfinite(gradient).all()


# ---------------------------------------------------------------------------- one subject alone

alone_masks = pytest.mark.parametrize("n_modalities", [1, M], ids=["only one", "others absent"])


def alone(n_modalities):
    """A toy and a mask in which one subject alone is observed, and its position."""
    who = min(1, n_modalities - 1)
    observed = torch.zeros(n_modalities, S, dtype=torch.bool)
    observed[who] = True
    return make_toy(n_modalities), observed, who


@alone_masks
@pytest.mark.parametrize(
    ("rule", "times"),
    [
        (Independent, 1),
        (Average, 1),
        (lambda: PoE(prior_expert=False), 1),
        (lambda: PoE(prior_expert=False, sub_elbos=True), 2),  # ELBO(X) + ELBO(x_m), one and same
        (MoE, 1),
        (MoPoE, 1),
        (lambda: MMVM(prior_weight=1.0), 1),
    ],
)
def test_one_subject_alone_is_independent(rule, times, n_modalities, noise):
    noise(-0.4)
    toy, observed, who = alone(n_modalities)
    got = rule().loss(toy.q, observed, toy.log_lik)
    expected = Independent().loss(toy.q, observed, toy.log_lik)
    torch.testing.assert_close(got.log_lik[who], times * expected.log_lik[who])
    torch.testing.assert_close(got.rate, times * expected.rate)


@alone_masks
@pytest.mark.parametrize("rule", [PoE, lambda: MoPoE(prior_expert=True)])
def test_one_subject_alone_with_a_prior_expert_is_independent_with_the_product(
    rule, n_modalities, noise
):
    noise(-0.4)
    toy, observed, who = alone(n_modalities)
    got = rule().loss(toy.q, observed, toy.log_lik)
    joint = product(toy.q, observed, prior=True)
    joint = Normal(joint.loc.expand_as(toy.loc), joint.scale.expand_as(toy.scale))
    expected = Independent().loss(joint, observed, toy.log_lik)
    torch.testing.assert_close(got.log_lik[who], expected.log_lik[who])
    torch.testing.assert_close(got.rate, expected.rate)


@alone_masks
def test_one_subject_alone_in_mmvae_plus_is_independent_on_average(n_modalities):
    toy, observed, who = alone(n_modalities)
    objective = MMVAEPlus(private_dim=2)
    objective.build(n_modalities, L)
    n = 4000
    many, mask = toy.repeat(n), observed.repeat(1, n)
    got = objective.double().loss(many.q, mask, many.log_lik)
    expected = Independent().loss(many.q, mask, many.log_lik)
    assert_equal_means(
        got.log_lik[who].detach().view(n, S), expected.log_lik[who].view(n, S)
    )  # its rate is one draw of the same KL
    assert_equal_means(got.rate.detach().view(n, S), expected.rate.view(n, S))


@alone_masks
@pytest.mark.parametrize("rule", [MMVM, lambda: MMVM(bound="mixture"), Autoencoder])
def test_one_subject_alone_costs_nothing_where_it_is_its_own_prior(rule, n_modalities):
    toy, observed, _ = alone(n_modalities)
    rate = rule().loss(toy.q, observed, toy.log_lik).rate
    torch.testing.assert_close(rate, torch.zeros_like(rate), atol=1e-12, rtol=0.0)


def test_one_subject_alone_in_private_mmvm_costs_its_private_part():
    toy, observed, who = alone(M)
    rate = MMVM(private_dim=2, private_beta=0.5).loss(toy.q, observed, toy.log_lik).rate
    _, private = split(toy.q, L - 2)
    torch.testing.assert_close(rate, 0.5 * kl_standard(private)[who])


# ---------------------------------------------------------------------------- MMVM


@masks
@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_mixture_kl_is_below_the_pairwise_bound_and_below_m_log_m(observed, spread):
    toy = make_toy(spread=spread)
    n = 4000
    many, mask = toy.repeat(n), observed.repeat(1, n)
    draws = MMVM(bound="mixture").loss(many.q, mask, many.log_lik).rate.view(n, S)
    pairwise = MMVM().loss(toy.q, observed, toy.log_lik).rate
    mean, error = draws.mean(0), draws.std(0) / math.sqrt(n)
    assert (mean - 4 * error <= pairwise).all()  # 4 standard errors
    assert (mean + 4 * error >= 0).all()
    n_seen = observed.sum(0)
    assert (mean - 4 * error <= n_seen * n_seen.log() + 1e-9).all()


def test_the_pairwise_bound_keeps_pulling_where_the_mixture_saturates():
    near, far = make_toy(spread=10.0), make_toy(spread=20.0)
    rates = {
        bound: [MMVM(bound=bound).loss(t.q, EVERYONE, t.log_lik).rate for t in (near, far)]
        for bound in ("pairwise", "mixture")
    }
    assert (rates["pairwise"][1] > 2 * rates["pairwise"][0]).all()
    saturated = torch.full((S,), M * math.log(M), dtype=torch.float64)
    torch.testing.assert_close(rates["mixture"][1], saturated, rtol=1e-3, atol=1e-3)


@masks
@pytest.mark.parametrize("bound", ["pairwise", "mixture"])
def test_identical_posteriors_cost_nothing(bound, observed, toy):
    same = Normal(toy.loc[:1].expand(M, -1, -1), toy.scale[:1].expand(M, -1, -1))
    rate = MMVM(bound=bound).loss(same, observed, toy.log_lik).rate
    torch.testing.assert_close(rate, torch.zeros_like(rate), atol=1e-12, rtol=0.0)


@masks
def test_prior_weight_one_equals_independent(observed, toy):
    got, expected = [], []
    for results, rule in ((got, MMVM(prior_weight=1.0).double()), (expected, Independent())):
        torch.manual_seed(4)
        results += [*rule.loss(toy.q, observed, toy.log_lik)]
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@masks
def test_prior_weight_one_equals_independent_on_average_with_the_mixture_bound(observed, toy):
    n = 4000
    many, mask = toy.repeat(n), observed.repeat(1, n)
    drawn = MMVM(bound="mixture", prior_weight=1.0).loss(many.q, mask, many.log_lik).rate
    expected = Independent().loss(toy.q, observed, toy.log_lik).rate
    assert_equal_means(drawn.view(n, S), expected.expand(2, -1))


@pytest.mark.parametrize("bound", ["pairwise", "mixture"])
def test_prior_weight_follows_its_schedule(bound, toy, noise):
    noise(0.3)
    annealed = MMVM(bound=bound, prior_weight=Schedule(1.0, 0.0, epochs=4)).double()
    for epoch in range(6):
        constant = MMVM(bound=bound, prior_weight=max(1 - epoch / 4, 0.0)).double()
        rates = [o.loss(toy.q, SOME, toy.log_lik).rate for o in (annealed, constant)]
        torch.testing.assert_close(*rates)
        annealed.start_epoch(epoch + 1)


def test_what_follows_a_schedule_is_no_weight():
    assert not MMVM(prior_weight=Schedule(1.0, 0.0, epochs=4)).state_dict()


@pytest.mark.parametrize("n_partners", [M - 1, M, M + 3])
def test_as_many_partners_as_there_are_make_the_whole_mixture(n_partners, toy, noise):
    noise(0.3)
    rates = [
        MMVM(bound="mixture", n_partners=n).loss(toy.q, SOME, toy.log_lik).rate
        for n in (n_partners, None)
    ]
    torch.testing.assert_close(*rates)


def test_fewer_partners_than_there_are_are_drawn_anew(toy, noise):
    noise(0.3)
    rule = MMVM(bound="mixture", n_partners=M - 2)
    rates = {rule.loss(toy.q, EVERYONE, toy.log_lik).rate.sum().item() for _ in range(20)}
    assert len(rates) > 1


@pytest.mark.parametrize(
    ("cross", "n_modalities", "n_codes"), [(0.0, M, 1), (0.5, M, 2), (1.0, M, 2), (0.5, 1, 1)]
)
def test_decoders_are_asked_of_another_ones_code_only_where_it_counts(cross, n_modalities, n_codes):
    toy, asked = make_toy(n_modalities), []
    observed = torch.ones(n_modalities, S, dtype=torch.bool)
    MMVM(cross=cross).loss(toy.q, observed, lambda z: asked.append(z) or toy.log_lik(z))
    assert [z.shape for z in asked] == [(n_modalities, n_codes, S, L)]


@pytest.mark.parametrize(("settings", "beta"), [({"private_beta": 0.1}, 0.1), ({}, 1.0)])
def test_private_latents_get_the_standard_prior_and_shared_ones_the_mixture(toy, settings, beta):
    shared, private = split(toy.q, L - 2)
    got = MMVM(private_dim=2, **settings).loss(toy.q, SOME, toy.log_lik).rate
    of_shared = MMVM().loss(shared, SOME, lambda z: z.sum(-1)).rate
    torch.testing.assert_close(got, of_shared + beta * (SOME * kl_standard(private)).sum(0))


def test_cross_asks_the_likelihood_of_another_ones_shared_code(toy, noise):
    noise(0.2)
    z = toy.q.rsample()
    shared = torch.cat([z[..., :4], torch.zeros_like(z[..., 4:])], dim=-1)
    own = toy.log_lik(z.unsqueeze(1)).squeeze(1)
    expected = []
    for order in ((1, 2), (2, 1)):  # the next one in this order that is there
        first, second = order
        of_first, of_second = (
            0.7 * own + 0.3 * toy.log_lik(shared.roll(shift, 0).unsqueeze(1)).squeeze(1)
            for shift in order
        )
        otherwise = torch.where(SOME.roll(second, 0), of_second, own)
        expected.append(torch.where(SOME.roll(first, 0), of_first, otherwise))
    seen = set()
    for _ in range(20):
        got = MMVM(private_dim=2, cross=0.3).loss(toy.q, SOME, toy.log_lik).log_lik
        match = [i for i, e in enumerate(expected) if torch.allclose(got, e)]
        assert len(match) == 1
        seen.add(match[0])
    assert seen == {0, 1}


def test_the_autoencoder_bounds_mmvm_and_is_reached_as_beta_and_scale_vanish(toy):
    # Linear decoders with Gaussian noise are concave in z: no posterior beats its own mean.
    bound = -total(Autoencoder().loss(toy.q, EVERYONE, toy.log_lik), EVERYONE)
    n = 4000
    gaps = []
    for beta in (1.0, 0.1, 0.01, 1e-4):
        narrow = toy._replace(scale=toy.scale * math.sqrt(beta)).repeat(n)
        elbo = MMVM().loss(narrow.q, EVERYONE.repeat(1, n), narrow.log_lik)
        each = (elbo.log_lik.sum(0) - beta**2 * elbo.rate).view(n, S).mean(1)
        gaps.append((bound - each.mean()).item())
        assert gaps[-1] > -4 * each.std().item() / math.sqrt(n)  # 4 standard errors
    # The reconstruction part of the gap falls with the variance, as beta does here.
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-2 * gaps[0]


# ---------------------------------------------------------------------------- mixtures


def gaussian_log_evidence(toy):
    """Log p(X) of x_m = W_m z + noise, z ~ N(0, I): (sample,)."""
    w = torch.cat(toy.decoders).numpy()
    joint = scipy.stats.multivariate_normal(np.zeros(len(w)), w @ w.T + np.eye(len(w)))
    return torch.from_numpy(joint.logpdf(torch.cat(toy.x, dim=1).numpy()))


def iwae_bound(toy, n_importance, n, observed=EVERYONE):
    many, mask = toy.repeat(n), observed.repeat(1, n)
    elbo = MoE(n_importance).loss(many.q, mask, many.log_lik)
    fit = torch.where(mask, elbo.log_lik, 0.0).sum(0)
    return (fit - elbo.rate).view(n, S).mean(1)


def test_the_importance_weighted_bound_tightens_with_the_number_of_draws(toy):
    n = 1500
    bounds = [iwae_bound(toy, k, n) for k in (2, 8, 32)]
    for looser, tighter in ((0, 1), (1, 2)):
        gain = bounds[tighter] - bounds[looser]
        assert gain.mean() > 4 * gain.std() / math.sqrt(n)  # 4 standard errors
    evidence = gaussian_log_evidence(toy).mean()
    assert bounds[-1].mean() < evidence + 4 * bounds[-1].std() / math.sqrt(n)


@masks
def test_draws_that_are_all_alike_have_the_log_likelihood_of_one(observed, toy, noise):
    noise(0.0)
    one, many = (MoE(n_importance=k).loss(toy.q, observed, toy.log_lik) for k in (1, 5))
    torch.testing.assert_close(many.log_lik[observed], one.log_lik[observed])


def test_the_importance_weighted_bound_reaches_the_evidence_of_a_linear_gaussian_model(toy):
    # Every expert the exact posterior: the weights are constant, one draw is enough.
    w = torch.cat(toy.decoders)
    precision = torch.eye(L, dtype=torch.float64) + w.T @ w
    rotation = torch.linalg.eigh(precision).eigenvectors
    # Rotate the latents so that the posterior is diagonal; the prior does not mind.
    decoders = [d @ rotation for d in toy.decoders]
    variance = (rotation.T @ precision @ rotation).diagonal().reciprocal()
    loc = (torch.cat(toy.x, dim=1) @ torch.cat(decoders)) * variance
    exact = Toy(loc.expand(M, -1, -1), variance.sqrt().expand(M, S, -1), decoders, toy.x)
    for k in (2, 7):
        elbo = MoE(n_importance=k).loss(exact.q, EVERYONE, exact.log_lik)
        torch.testing.assert_close(elbo.log_lik.sum(0) - elbo.rate, gaussian_log_evidence(toy))


def moe_gradients(toy, observed, *, dreg, seed, n=1):
    """Loss and gradients of one noise: (loss, loc and scale, decoders)."""
    torch.manual_seed(seed)
    many, mask = toy.repeat(n).with_gradient(), observed.repeat(1, n)
    loss = total(MoE(n_importance=5, dreg=dreg).loss(many.q, mask, many.log_lik), mask)
    loss.backward()
    encoders = torch.cat([many.loc.grad, many.scale.grad], -1) * n * S
    return loss.detach(), encoders, [w.grad for w in many.decoders]


@masks
def test_the_doubly_reparameterised_estimator_has_the_value_and_decoder_gradient_of_iwae(
    observed, toy
):
    plain, doubly = (moe_gradients(toy, observed, dreg=d, seed=3) for d in (False, True))
    for ours, theirs in zip(doubly[2], plain[2], strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(doubly[0], plain[0])


def test_the_doubly_reparameterised_gradient_of_one_encoder_is_that_of_iwae_on_average():
    # One expert: the identity of Tucker et al. (2019) holds for the whole mixture only.
    toy, observed, _ = alone(1)
    n = 8000
    plain, doubly = (
        moe_gradients(toy, observed, dreg=d, seed=s, n=n)[1].view(n, S, 2 * L)
        for s, d in enumerate((False, True))
    )
    assert_equal_means(plain, doubly)


@masks
def test_drawn_subsets_are_unbiased_for_all_subsets(observed, toy, noise):
    noise(0.5)
    every = estimates(MoPoE(), toy, observed)
    drawn = estimates(MoPoE(n_subsets=3), toy, observed, n=600)
    assert_equal_means(drawn, every.expand(2, -1, -1))


def test_a_sample_of_nobody_has_no_subset(toy):
    nobody = torch.zeros(M, S, dtype=torch.bool)
    _, weight = MoPoE().posterior(toy.q, nobody)
    assert (weight == 0).all()


def test_all_subsets_are_used_outside_training(toy, noise):
    noise(0.5)
    every, some = MoPoE(), MoPoE(n_subsets=1).eval()
    torch.testing.assert_close(estimates(some, toy, SOME), estimates(every, toy, SOME))


def test_mmvae_plus_keeps_private_information_out_of_the_others_decoders(toy):
    objective = made("mmvae_plus 2 private")
    toy = toy.with_gradient()
    for target in range(M):
        elbo = objective.loss(toy.q, EVERYONE, toy.log_lik)
        (gradient,) = torch.autograd.grad(elbo.log_lik[target].sum(), toy.loc)
        others = [m for m in range(M) if m != target]
        assert (gradient[others][..., -2:] == 0).all()
        assert (gradient[others][..., :-2] != 0).all()
        assert (gradient[target] != 0).all()


# ---------------------------------------------------------------------------- released formulas
#
# The losses of the released implementation, written once more in float64 from the formulas alone.
# Where the release is not self-consistent the formula is the consistent one: its second encoder
# output is a log-sigma when sampling but a log-variance inside its product of experts (poe, mopoe),
# and its moe picks the component by position in the batch, so moe is not compared. It adds the one
# rate of a joint method once per subject; ours counts once, so theirs is M times ours.


def released(seed=0, n_modalities=5):
    toy = make_toy(n_modalities, seed=seed)
    eps = np.random.default_rng(seed).standard_normal(toy.loc.shape)
    mu, sigma = toy.loc.numpy(), toy.scale.numpy()
    return toy, mu, sigma, eps


def squared_error(toy, z):
    """Sum over features of the squared error of every decoder: (modality, sample)."""
    parts = zip(toy.decoders, toy.x, z, strict=True)
    return np.stack([((x.numpy() - z_m @ w.numpy().T) ** 2).sum(-1) for w, x, z_m in parts])


def reconstruction(elbo, toy):
    """Ours as a summed squared error: the constant of a Gaussian of scale sqrt(1/2) taken off."""
    constant = np.array([0.5 * math.log(math.pi) * len(w) for w in toy.decoders])
    return -elbo.log_lik.numpy() - constant[:, None]


def our_loss(objective, toy):
    def log_lik(z):
        parts = zip(z, toy.decoders, toy.x, strict=True)
        return torch.stack([Gaussian(math.sqrt(0.5)).log_prob(z_m @ w.T, x) for z_m, w, x in parts])

    observed = torch.ones(toy.loc.shape[:2], dtype=torch.bool)
    return objective.loss(toy.q, observed, log_lik)


def kl_to_standard(mu, sigma):
    return (0.5 * (mu**2 + sigma**2 - 1) - np.log(sigma)).sum(-1)


def poe_by_formula(mu, sigma, prior):
    precision = (1 / sigma**2).sum(0) + prior
    return (mu / sigma**2).sum(0) / precision, precision**-0.5


def test_mmvm_equals_the_released_formula(noise):
    toy, mu, sigma, eps = released()
    n_modalities = len(mu)
    noise(eps)
    elbo = our_loss(MMVM(), toy)
    rate = 0.0
    for m in range(n_modalities):
        for k in range(n_modalities):
            variance = (sigma[m] ** 2 + (mu[m] - mu[k]) ** 2) / sigma[k] ** 2
            kl = np.log(sigma[k] / sigma[m]) + 0.5 * variance - 0.5
            rate = rate + kl.sum(-1) / n_modalities
    beta = 2.5e-3
    expected = (squared_error(toy, mu + sigma * eps).sum(0) + beta * rate).mean()
    got = (reconstruction(elbo, toy).sum(0) + beta * elbo.rate.numpy()).mean()
    np.testing.assert_allclose(elbo.rate.numpy(), rate, rtol=1e-6)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_avg_equals_the_released_formula(noise):
    toy, mu, sigma, eps = released()
    noise(eps[0])
    elbo = our_loss(Average(), toy)
    loc, scale = mu.mean(0), sigma.mean(0)
    z = np.broadcast_to(loc + scale * eps[0], mu.shape)
    per_subject = [kl_to_standard(loc, scale) for _ in mu]  # the release adds it for each
    np.testing.assert_allclose(len(mu) * elbo.rate.numpy(), sum(per_subject), rtol=1e-6)
    np.testing.assert_allclose(reconstruction(elbo, toy), squared_error(toy, z), rtol=1e-6)


@pytest.mark.parametrize("prior", [False, True])
def test_poe_equals_the_released_formula(prior, noise):
    toy, mu, sigma, eps = released()
    noise(eps[0])
    elbo = our_loss(PoE(prior_expert=prior), toy)
    loc, scale = poe_by_formula(mu, sigma, prior)
    z = np.broadcast_to(loc + scale * eps[0], mu.shape)
    np.testing.assert_allclose(elbo.rate.numpy(), kl_to_standard(loc, scale), rtol=1e-6)
    np.testing.assert_allclose(reconstruction(elbo, toy), squared_error(toy, z), rtol=1e-6)


def test_mopoe_equals_the_released_formula(noise):
    toy, mu, sigma, eps = released()
    n_modalities = len(mu)
    noise(eps[0])
    elbo = our_loss(MoPoE(), toy)
    rates, errors = [], []
    for code in range(1, 2**n_modalities):
        chosen = [m for m in range(n_modalities) if code & (1 << m)]
        loc, scale = poe_by_formula(mu[chosen], sigma[chosen], False)
        rates.append(kl_to_standard(loc, scale))
        errors.append(squared_error(toy, np.broadcast_to(loc + scale * eps[0], mu.shape)))
    np.testing.assert_allclose(elbo.rate.numpy(), np.mean(rates, axis=0), rtol=1e-6)
    np.testing.assert_allclose(reconstruction(elbo, toy), np.mean(errors, axis=0), rtol=1e-6)


def test_moe_equals_the_average_over_experts(noise):
    toy, mu, sigma, eps = released()
    noise(eps)
    elbo = our_loss(MoE(), toy)
    z = mu + sigma * eps
    errors = [squared_error(toy, np.broadcast_to(z_k, mu.shape)) for z_k in z]
    np.testing.assert_allclose(elbo.rate.numpy(), kl_to_standard(mu, sigma).mean(0), rtol=1e-6)
    np.testing.assert_allclose(reconstruction(elbo, toy), np.mean(errors, axis=0), rtol=1e-6)


def test_poe_sub_elbos_add_one_bound_per_subject(noise):
    toy, mu, sigma, _ = released()
    noise(0.8)
    elbo = our_loss(PoE(sub_elbos=True), toy)
    loc, scale = poe_by_formula(mu, sigma, True)
    rate = kl_to_standard(loc, scale)
    z = np.broadcast_to(loc + scale * 0.8, mu.shape)
    error = squared_error(toy, z)
    alone = [poe_by_formula(mu[m : m + 1], sigma[m : m + 1], True) for m in range(len(mu))]
    rate = rate + sum(kl_to_standard(*one) for one in alone)
    error = error + squared_error(toy, np.stack([loc + scale * 0.8 for loc, scale in alone]))
    constant = np.array([0.5 * math.log(math.pi) * len(w) for w in toy.decoders])
    np.testing.assert_allclose(elbo.rate.numpy(), rate, rtol=1e-6)
    # Every likelihood counts twice, and so does its constant.
    np.testing.assert_allclose(reconstruction(elbo, toy) - constant[:, None], error, rtol=1e-6)


# ---------------------------------------------------------------------------- settings


def test_a_rule_is_made_by_name_or_taken_as_it_is():
    assert {type(make_objective(name)) for name in OBJECTIVES} == set(OBJECTIVES.values())
    own = MMVM(cross=0.1)
    assert make_objective(own) is own
    with pytest.raises(ValueError, match=r"'objective'.*'mmvm'.*Got 'mmv' instead"):
        make_objective("mmv")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MMVM(bound="upper"), r"'bound'.*'pairwise', 'mixture'\]. Got 'upper'"),
        (lambda: MMVM(prior_weight=1.5), r"'prior_weight'.*\[0, 1\].* Got 1.5"),
        (lambda: MMVM(prior_weight=Schedule(2.0, 0.0, 3)), r"'prior_weight'.*\[0, 1\]"),
        (lambda: MMVM(private_dim=-1), r"'private_dim'.*from 0.*Got -1"),
        (lambda: MMVM(cross=-0.1), r"'cross'.*\[0, 1\]. Got -0.1"),
        (lambda: MMVM(cross=1.1), r"'cross'.*\[0, 1\]. Got 1.1"),
        (lambda: MoE(n_importance=0), r"'n_importance'.*from 1.*Got 0"),
        (lambda: MMVAEPlus(private_dim=0), r"'private_dim'.*from 1.*Got 0"),
        (lambda: MMVM(bound="mixture", n_partners=0), r"'n_partners'.*from 1.*Got 0"),
        (lambda: MMVM(n_partners=2), r"'n_partners'.*needs bound='mixture'.*Got 2"),
        (lambda: MMVM(combine="median"), r"'combine'.*'mixture', 'mean'\]. Got 'median'"),
        (lambda: MMVM(private_beta=-0.1), r"'private_beta'.*at least 0. Got -0.1"),
        (lambda: MMVM(cross=float("nan")), r"'cross'.*\[0, 1\]. Got nan"),
        (lambda: MMVM(cross="much"), r"'cross'.*\[0, 1\]. Got 'much'"),
        (lambda: MMVM(bound=None), r"'bound'.*Got None"),
        (lambda: MMVM(prior_weight=[0.5]), r"'prior_weight'.*\[0, 1\].* Got \[0.5\]"),
        (lambda: MMVM(private_dim=1.5), r"'private_dim'.*from 0.*Got 1.5"),
        (lambda: MMVM(private_dim=np.ones(2)), r"'private_dim'.*from 0.*Got array"),
        (lambda: MMVM(private_beta=None), r"'private_beta'.*Got None"),
        (lambda: MMVM(bound="mixture", n_partners=1.5), r"'n_partners'.*from 1.*Got 1.5"),
        (lambda: MoPoE(n_subsets=0), r"'n_subsets'.*from 1.*Got 0"),
        (lambda: MoE(n_importance="3"), r"'n_importance'.*from 1.*Got '3'"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: MMVAEPlus(private_dim=1),
        lambda: MMVM(bound="mixture", n_partners=1),
        lambda: MMVM(prior_weight=0.0, private_dim=0, private_beta=0.0, cross=0.0),
        lambda: MMVM(prior_weight=1.0, cross=1.0),
        lambda: MoE(n_importance=1),
    ],
)
def test_settings_at_the_ends_of_their_ranges_are_taken(make, toy):
    objective = make()
    objective.build(M, L)
    elbo = objective.double().loss(toy.q, EVERYONE, toy.log_lik)
    assert elbo.log_lik.shape == (M, S)
    assert torch.isfinite(elbo.rate).all()


def test_the_abstract_rule_cannot_be_made():
    with pytest.raises(TypeError):
        Objective()


# ---------------------------------------------------------------------------- a ninth rule


class Consensus(Objective):
    """Codes are their own and are pulled to their mean, with a learned strength per subject."""

    def __init__(self, pull=1.0):
        super().__init__()
        self.pull = pull

    def build(self, n_modalities, n_latents):
        self.strength = nn.Parameter(torch.zeros(n_modalities, 1))

    def loss(self, q, observed, log_lik):
        mask = observed.unsqueeze(-1)
        mean = (mask * q.loc).sum(0) / mask.sum(0).clamp_min(1)
        apart = (q.loc - mean).square().sum(-1) + kl_standard(q)
        z = q.rsample()
        rate = self.pull * (observed * apart * self.strength.exp()).sum(0)
        return Elbo(log_lik(z.unsqueeze(1)).squeeze(1), rate)

    def latents(self, q, observed):
        return q.loc


class Dataset:
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x[0])

    def redraw(self, epoch):
        pass

    def batch(self, index):
        x = [x_m[index] for x_m in self.x]
        return x, torch.ones(len(x), len(index), dtype=torch.bool)


class LinearEncoder(nn.Module):
    def __init__(self, n_inputs, n_latents):
        super().__init__()
        self.loc = nn.Linear(n_inputs, n_latents)
        self.log_scale = nn.Parameter(torch.zeros(n_latents))

    def forward(self, x):
        loc = self.loc(x)
        return loc, self.log_scale.exp().expand_as(loc)


def test_a_ninth_rule_trains_and_imputes_without_any_change_of_the_package():
    objective = Consensus(pull=0.5)
    objective.build(2, L)
    vae = MultimodalVAE(
        [LinearEncoder(f, L) for f in (5, 3)],
        [nn.Linear(L, f) for f in (5, 3)],
        [Gaussian(), Gaussian()],
        objective,
    )
    z = torch.randn(256, 2)
    x = [z @ torch.randn(2, 5), z @ torch.randn(2, 3)]
    before = objective.strength.detach().clone()
    history = fit(vae, Dataset(x), Training(epochs=12, lr=2e-2, batch_size=64, progress=False))
    assert history.loss[-1] < 0.8 * history.loss[0]
    assert not torch.equal(objective.strength.detach(), before)
    observed = torch.tensor([[True], [False]]).expand(2, 256)
    imputed = vae.impute(x, observed, target=1).detach()
    assert (imputed - x[1]).square().mean() < 0.5 * x[1].square().mean()


class Counted(Independent):
    """Counts how often its loss is asked for."""

    calls = 0

    def loss(self, q, observed, log_lik):
        Counted.calls += 1
        return super().loss(q, observed, log_lik)


class CountedApart(Counted):
    stackable = False


@pytest.mark.parametrize(("rule", "in_training"), [(Counted, 1), (CountedApart, 3)])
def test_a_rule_is_computed_for_many_models_at_once_unless_it_says_that_it_cannot(
    rule, in_training, monkeypatch
):
    monkeypatch.setattr(Counted, "calls", 0)
    vaes = [
        MultimodalVAE([LinearEncoder(5, L)], [nn.Linear(L, 5)], [Gaussian()], rule())
        for _ in range(3)
    ]
    data = Dataset([torch.randn(8, 5)])
    fit_many(vaes, data, Training(epochs=1, batch_size=8, progress=False), betas=[1.0] * 3)
    assert Counted.calls == in_training + len(vaes)  # each is evaluated at the end


# ---------------------------------------------------------------------------- what rules say


def test_only_rules_that_share_nothing_and_those_without_a_prior_say_so():
    assert {name for name, rule in OBJECTIVES.items() if not rule.shares} == {
        "independent",
        "autoencoder",
    }
    assert {name for name, rule in OBJECTIVES.items() if not rule.has_prior} == {
        "mmvm",
        "autoencoder",
    }


@pytest.mark.parametrize("case", ["mmvm private", "mmvae_plus 2 private"])
def test_an_absent_subject_has_the_mean_shared_code_and_the_private_one_of_its_prior(case, toy):
    objective = made(case)
    latents = objective.latents(toy.q, SOME)
    seen = SOME.unsqueeze(-1)
    mean = (toy.loc * seen).sum(0) / seen.sum(0)
    for m, s in (~SOME).nonzero().tolist():
        torch.testing.assert_close(latents[m, s, :-2], mean[s, :-2])
        assert (latents[m, s, -2:] == objective.private_mean(m)).all()
        if case == "mmvm private":
            assert (latents[m, s, -2:] == 0).all()
    assert torch.equal(latents[SOME], toy.loc[SOME])


def test_every_rule_but_the_doubly_reparameterised_one_can_be_stacked():
    assert {case for case in CASES if not made(case).stackable} == {"moe dreg"}


@pytest.mark.parametrize("private_dim", [0, 2])
def test_the_mean_code_is_stretched_as_codes_agree(toy, private_dim):
    objective = MMVM(combine="mean", private_dim=private_dim)
    n_shared = L - private_dim
    eye = torch.eye(n_shared, dtype=torch.float64)
    objective.build(M, L)
    n = SOME.sum(0).unsqueeze(-1)
    mean = (toy.loc * SOME.unsqueeze(-1)).sum(0)[..., :n_shared] / n
    unmeasured, _ = objective.imputing(toy.q, SOME)
    torch.testing.assert_close(unmeasured[0, :, :n_shared], mean)
    for target, crossed in ((1.0, 1.0), (1.5, 0.5), (0.7, 0.2)):
        objective.set_gain(torch.full((n_shared,), target, dtype=torch.float64), eye, crossed * eye)
        z, weight = objective.imputing(toy.q, SOME)
        assert (weight == 1).all()
        # How far the mean of n codes varies: 1/n of one code, the rest of what two share.
        varies = (1 + (n - 1) * crossed) / n
        torch.testing.assert_close(z[0, :, :n_shared], mean * target / varies)


def test_others_draw_their_private_code_from_its_learned_prior(toy, noise):
    noise(0.7)
    objective, fed = made("mmvae_plus 2 private"), []
    objective.loss(toy.q, EVERYONE, lambda z: fed.append(z) or toy.log_lik(z))
    private = fed[0][..., -2:]  # (target, source, sample, latent)
    prior = objective.prior_loc + 0.7 * objective.prior_log_scale.exp()
    own = (toy.loc + 0.7 * toy.scale)[..., -2:]
    for target in range(M):
        for source in range(M):
            expected = own[target] if source == target else prior[target].expand(S, -1)
            torch.testing.assert_close(private[target, source], expected)


def test_scales_that_nothing_teaches_do_not_drift():
    """They did, as the networks below them learn, and decoders learned of codes with such noise."""
    followed = MMVM(contrast=1.0, follow=True)
    loc, scale = torch.randn(3, 8, 4), torch.randn(3, 8, 4).exp()
    q = followed.placed(torch.distributions.Normal(loc, scale))
    assert (q.scale == 0.3).all()
    learned = MMVM(contrast=1.0).placed(torch.distributions.Normal(loc, scale))
    torch.testing.assert_close(learned.scale, scale)
    torch.testing.assert_close(learned.loc, q.loc)
