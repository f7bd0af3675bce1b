import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from neuroshare.vae.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Categorical,
    Gaussian,
    Laplace,
    Likelihood,
    NegativeBinomial,
    Poisson,
    make_likelihood,
)

N_CATEGORIES = 3
FEATURES = 6


def negative_binomial():
    likelihood = NegativeBinomial().sized(FEATURES).double()
    with torch.no_grad():
        likelihood.log_r.copy_(torch.linspace(-1.0, 2.0, FEATURES))
    return likelihood


MADE = {
    "gaussian": lambda: Gaussian(0.7),
    "laplace": lambda: Laplace(0.75),
    "bernoulli": Bernoulli,
    "poisson": Poisson,
    "negative_binomial": negative_binomial,
    "categorical": lambda: Categorical(N_CATEGORIES),
}


@pytest.fixture(params=MADE)
def likelihood(request):
    return MADE[request.param]()


@pytest.fixture
def output():
    return torch.randn(5, FEATURES, generator=torch.Generator().manual_seed(0)).double()


def scipy_log_prob(likelihood, output, x):
    output, x = output.numpy(), x.numpy()
    match likelihood:
        case Gaussian():
            return scipy.stats.norm.logpdf(x, output, 0.7).sum(-1)
        case Laplace():
            return scipy.stats.laplace.logpdf(x, output, 0.75).sum(-1)
        case Bernoulli():
            return scipy.stats.bernoulli.logpmf(x, scipy.special.expit(output)).sum(-1)
        case Poisson():
            return scipy.stats.poisson.logpmf(x, np.exp(output)).sum(-1)
        case NegativeBinomial():
            r = likelihood.log_r.detach().exp().numpy()
            return scipy.stats.nbinom.logpmf(x, r, r / (r + np.exp(output))).sum(-1)
        case Categorical():
            p = scipy.special.softmax(output.reshape(len(output), -1, N_CATEGORIES), axis=-1)
            one_hot = x.reshape(p.shape)
            return np.array(
                [
                    sum(
                        scipy.stats.multinomial.logpmf(hot, 1, chance)
                        for hot, chance in zip(one_hot[s], p[s], strict=True)
                    )
                    for s in range(len(p))
                ]
            )


def test_every_named_likelihood_is_tested_here():
    assert set(MADE) == set(LIKELIHOODS)


def test_log_prob_equals_scipy(likelihood, output):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        x = likelihood.sample(output)
    got = likelihood.log_prob(output, x).detach()
    assert got.shape == (5,)
    np.testing.assert_allclose(got.numpy(), scipy_log_prob(likelihood, output, x), rtol=1e-10)


def test_moments_of_samples_are_those_of_the_distribution_within_4_standard_errors(
    likelihood, output
):
    n = 20_000
    with torch.random.fork_rng():
        torch.manual_seed(2)
        draws = likelihood.sample(output[0].expand(n, -1)).double()
    mean = likelihood.mean(output[0]).detach()
    variance = {
        Gaussian: lambda: torch.full_like(mean, 0.7**2),
        Laplace: lambda: torch.full_like(mean, 2 * 0.75**2),
        Bernoulli: lambda: mean * (1 - mean),
        Categorical: lambda: mean * (1 - mean),
        Poisson: lambda: mean,
        NegativeBinomial: lambda: mean + mean**2 / likelihood.log_r.detach().exp(),
    }[type(likelihood)]()
    error = (variance / n).sqrt()
    assert ((draws.mean(0) - mean).abs() < 4 * error).all()
    # The standard error of a variance, from the fourth moment of the sample itself.
    square = (draws - mean).square()
    assert ((square.mean(0) - variance).abs() < 4 * square.std(0) / math.sqrt(n)).all()


def test_leading_dims_broadcast(likelihood, output):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        x = likelihood.sample(output)
    draws = torch.stack([output, output + 0.1])
    got = likelihood.log_prob(draws, x)
    assert got.shape == (2, 5)
    torch.testing.assert_close(got[1], likelihood.log_prob(output + 0.1, x))
    assert likelihood.mean(draws).shape == draws.shape


@pytest.mark.parametrize("name", sorted(set(MADE) - {"categorical"}))  # logits are not unique
def test_the_link_inverts_the_mean(name, output):
    likelihood = MADE[name]()
    mean = likelihood.mean(output)
    torch.testing.assert_close(likelihood.mean(likelihood.link(mean)), mean)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial", "bernoulli"])
def test_the_link_of_a_silent_unit_is_finite(name):
    link = LIKELIHOODS[name]().link(torch.tensor([0.0, 0.5]))
    assert torch.isfinite(link).all()


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_an_outlying_code_does_not_overflow_counts(name):
    likelihood = LIKELIHOODS[name]()
    output = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    x = torch.tensor([[3.0, 0.0, 1.0]])
    log_prob = likelihood.log_prob(output, x).sum()
    log_prob.backward()
    assert torch.isfinite(log_prob)
    assert torch.isfinite(output.grad).all()
    assert torch.isfinite(likelihood.mean(output)).all()


def test_gaussian_of_scale_root_half_is_the_summed_squared_error(output):
    x = torch.zeros_like(output)
    got = -Gaussian(math.sqrt(0.5)).log_prob(output, x)
    constant = FEATURES * 0.5 * math.log(math.pi)
    torch.testing.assert_close(got - constant, output.square().sum(-1))


def test_the_negative_binomial_nears_poisson_as_r_grows(output):
    x = torch.poisson(output.exp(), generator=torch.Generator().manual_seed(4))
    broad = NegativeBinomial(1e6).double()
    torch.testing.assert_close(
        broad.log_prob(output, x), Poisson().log_prob(output, x), rtol=1e-4, atol=1e-4
    )


def test_sized_copies_share_no_parameters(likelihood):
    first, second = likelihood.sized(4), likelihood.sized(4)
    assert type(first) is type(likelihood)
    assert first is not second
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    for parameter in first.parameters():
        parameter.data.fill_(9.0)
    assert all((p != 9.0).all() for p in second.parameters())


def test_the_dispersion_is_learned_per_feature():
    likelihood = NegativeBinomial(5.0).sized(7)
    assert likelihood.log_r.shape == (7,)
    assert likelihood.log_r.detach().exp().tolist() == pytest.approx([5.0] * 7)


def test_counts_are_asked_only_of_count_likelihoods():
    counts = {name for name, cls in LIKELIHOODS.items() if cls.counts}
    assert counts == {"poisson", "negative_binomial"}


def test_categorical_means_sum_to_one_at_each_position(output):
    mean = Categorical(N_CATEGORIES).mean(output).unflatten(-1, (-1, N_CATEGORIES))
    torch.testing.assert_close(mean.sum(-1), torch.ones_like(mean[..., 0]))


def test_categorical_samples_are_one_hot(output):
    drawn = Categorical(N_CATEGORIES).sample(output).unflatten(-1, (-1, N_CATEGORIES))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (drawn.sum(-1) == 1).all()


def test_a_likelihood_is_made_by_name_or_taken_as_it_is():
    assert isinstance(make_likelihood("poisson"), Poisson)
    own = Gaussian(0.2)
    assert make_likelihood(own) is own
    with pytest.raises(ValueError, match=r"'likelihood'.*'poisson'.*Got 'posson' instead"):
        make_likelihood("posson")


def test_the_abstract_likelihood_cannot_be_made():
    with pytest.raises(TypeError):
        Likelihood()


def test_one_output_for_all_lags_counts_as_the_output_repeated(likelihood, output):
    n_lags = 3
    sized = likelihood.sized(n_lags * output.shape[-1]).double()
    full = output.repeat(1, n_lags)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        x = sized.sample(full)
    torch.testing.assert_close(sized.log_prob_of_lags(output, x), sized.log_prob(full, x))
    draws = torch.stack([output, output + 0.1])
    torch.testing.assert_close(
        sized.log_prob_of_lags(draws, x), sized.log_prob(draws.repeat(1, 1, n_lags), x)
    )


@pytest.mark.parametrize("largest", [1, 3, 12, 13, 200])
def test_poisson_holds_for_small_and_large_counts(largest):
    x = np.random.default_rng(0).integers(0, largest + 1, (6, 9))
    x[0, 0] = largest
    output = np.linspace(-2, 3, 9)
    got = Poisson().log_prob(torch.tensor(output), torch.tensor(x, dtype=torch.float64))
    np.testing.assert_allclose(got, scipy.stats.poisson.logpmf(x, np.exp(output)).sum(-1))
