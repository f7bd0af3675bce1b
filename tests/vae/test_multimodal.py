import math

import pytest
import scipy.stats
import torch
from torch import nn

from neuroshare.vae.experts import product
from neuroshare.vae.likelihoods import Gaussian, Likelihood, Poisson
from neuroshare.vae.multimodal import MultimodalVAE
from neuroshare.vae.networks import Decoder, Encoder
from neuroshare.vae.objectives import MMVM, OBJECTIVES, MMVAEPlus, MoE, PoE

FEATURES = (6, 4, 6)
S, L = 5, 6

RULES = {**OBJECTIVES, "mmvm private": lambda: MMVM(private_dim=2)}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make(objective, likelihood=Poisson):
    objective.build(len(FEATURES), L)
    return MultimodalVAE(
        [Encoder(f, L, (7,)) for f in FEATURES],
        [Decoder(L, f, (7,)) for f in FEATURES],
        [likelihood().sized(f) for f in FEATURES],
        objective,
    ).eval()


@pytest.fixture
def x():
    return [torch.poisson(torch.ones(S, f)) for f in FEATURES]


def only(*seen):
    observed = torch.zeros(len(FEATURES), S, dtype=torch.bool)
    observed[list(seen)] = True
    return observed


def test_every_modality_has_its_own_encoder(x):
    vae = make(MMVM())
    q = vae.encode(x)
    assert q.loc.shape == q.scale.shape == (3, S, L)
    for m, encoder in enumerate(vae.encoders):
        loc, scale = encoder(x[m])
        assert torch.equal(q.loc[m], loc)
        assert torch.equal(q.scale[m], scale)


def test_log_likelihoods_are_of_each_modality_under_its_own_decoder(x):
    vae = make(MMVM())
    z = torch.randn(3, 2, S, L)
    got = vae.log_lik(z, x)
    assert got.shape == (3, 2, S)
    rate = vae.decoders[1](z[1, 1]).exp().detach().numpy()
    expected = scipy.stats.poisson.logpmf(x[1].numpy(), rate).sum(-1)
    torch.testing.assert_close(got[1, 1].detach(), torch.from_numpy(expected).float())


def test_numbers_of_networks_must_agree():
    with pytest.raises(ValueError, match=r"as many encoders as decoders.*Got 2, 1 and 2"):
        MultimodalVAE([nn.Identity()] * 2, [nn.Identity()], [Gaussian(), Gaussian()], MMVM())


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_latents_of_a_subject_alone_do_not_depend_on_the_others(rule, x):
    vae = make(rule())
    latents = vae.latents(x)
    other = [x[0], x[1] + 3, x[2] * 0]
    assert latents.shape == (3, S, L)
    assert torch.equal(vae.latents(other)[0], latents[0])
    assert not torch.equal(vae.latents(other)[1], latents[1])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_imputation_uses_the_observed_only(rule, x):
    vae = make(rule())
    imputed = vae.impute(x, only(0, 1), target=2)
    assert imputed.shape == (S, FEATURES[2])
    assert (imputed >= 0).all()
    assert torch.equal(vae.impute([x[0], x[1], x[2] + 9], only(0, 1), 2), imputed)
    assert not torch.equal(vae.impute([x[0] + 9, x[1], x[2]], only(0, 1), 2), imputed)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_one_source_is_decoded_from_its_latents(rule, x):
    vae = make(rule())
    z = vae.latents(x)[0].clone()
    n_private = vae.objective.private_dim
    if n_private:
        z[:, L - n_private :] = vae.objective.private_mean(2)
    expected = vae.likelihoods[2].mean(vae.decoders[2](z))
    torch.testing.assert_close(vae.impute(x, only(0), target=2), expected)


def test_a_mixture_averages_expected_counts_not_codes(x):
    vae = make(MoE())
    q = vae.encode(x)
    expected = torch.stack([vae.decoders[2](q.loc[m]).exp() for m in (0, 1)]).mean(0)
    torch.testing.assert_close(vae.impute(x, only(0, 1), target=2), expected)


def test_a_product_decodes_its_mean(x):
    vae = make(PoE())
    joint = product(vae.encode(x), only(0, 1), prior=True)
    torch.testing.assert_close(vae.impute(x, only(0, 1), 2), vae.decoders[2](joint.loc).exp())


def test_a_target_from_itself_is_its_reconstruction_with_its_private_part(x):
    vae = make(MMVM(private_dim=2))
    expected = vae.decoders[1](vae.encode(x).loc[1]).exp()
    torch.testing.assert_close(vae.impute(x, only(1), target=1), expected)


@pytest.mark.parametrize("rule", [lambda: MMVM(private_dim=2), MMVAEPlus])
def test_a_reconstruction_does_not_depend_on_who_is_absent_elsewhere_in_the_batch(rule, x):
    vae = make(rule())
    everywhere = only(1)
    but_one = everywhere.clone()
    but_one[:, 3] = False
    here = torch.arange(S) != 3
    torch.testing.assert_close(
        vae.impute(x, but_one, target=1)[here], vae.impute(x, everywhere, target=1)[here]
    )


def test_a_private_part_of_the_source_does_not_reach_the_target(x):
    vae = make(MMVM(private_dim=2))
    before = vae.impute(x, only(0), target=2)
    with torch.no_grad():
        vae.encoders[0].loc.bias[-2:] += 5.0
    assert torch.equal(vae.impute(x, only(0), target=2), before)


def test_the_elbo_is_that_of_the_objective(x):
    vae = make(MMVM())
    torch.manual_seed(1)
    elbo = vae.elbo(x, only(0, 1, 2))
    torch.manual_seed(1)
    z = vae.encode(x).rsample()
    torch.testing.assert_close(elbo.log_lik, vae.log_lik(z.unsqueeze(1), x).squeeze(1))


class NegativeGeometric(Likelihood):
    """Counts before a success; the decoder gives the log of the expected count."""

    counts = True

    def log_prob(self, output, x):
        log_total = nn.functional.softplus(output)
        return (x * (output - log_total) - log_total).sum(-1)

    def mean(self, output):
        return output.exp()

    def sample(self, output):
        return torch.distributions.Geometric(logits=-output).sample()


def test_a_likelihood_of_ones_own_works_without_any_change_of_the_package(x):
    vae = make(MMVM(), NegativeGeometric)
    output = torch.randn(S, 4)
    expected = scipy.stats.nbinom.logpmf(x[1].numpy(), 1, 1 / (1 + output.exp().numpy())).sum(-1)
    got = vae.likelihoods[1].log_prob(output, x[1])
    torch.testing.assert_close(got, torch.from_numpy(expected).float())
    elbo = vae.elbo(x, only(0, 1, 2))
    (-elbo.log_lik.sum()).backward()
    assert all(math.isfinite(p.grad.abs().sum()) for p in vae.decoders.parameters())
    assert (vae.impute(x, only(0), target=1) > 0).all()
