import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch.distributions import Normal, kl_divergence

from neuroshare.vae import experts

M, S, L = 4, 3, 2


@pytest.fixture
def q():
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(M, S, L, generator=generator, dtype=torch.float64)
    return Normal(loc, torch.rand(M, S, L, generator=generator, dtype=torch.float64) + 0.3)


MASKS = {
    "all": torch.ones(M, S, dtype=torch.bool),
    "some": torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 0], [1, 1, 0]], dtype=torch.bool),
}


@pytest.fixture(params=MASKS)
def observed(request):
    return MASKS[request.param]


def with_absent(q, observed, loc, scale):
    """The same experts where observed, other ones where not."""
    absent = ~observed.unsqueeze(-1)
    return Normal(q.loc.masked_fill(absent, loc), q.scale.masked_fill(absent, scale))


@pytest.mark.parametrize("prior", [True, False])
def test_product_equals_the_renormalised_product_of_densities(q, observed, prior):
    joint = experts.product(q, observed, prior)
    grid = np.linspace(-12, 12, 20001)
    for sample in range(S):
        for latent in range(L):
            log_density = scipy.stats.norm.logpdf(grid) if prior else np.zeros_like(grid)
            for m in range(M):
                if observed[m, sample]:
                    parts = q.loc[m, sample, latent].item(), q.scale[m, sample, latent].item()
                    log_density = log_density + scipy.stats.norm.logpdf(grid, *parts)
            density = np.exp(log_density - log_density.max())
            density /= density.sum()
            mean = density @ grid
            scale = np.sqrt(density @ (grid - mean) ** 2)
            assert joint.loc[sample, latent].item() == pytest.approx(mean, abs=1e-8)
            assert joint.scale[sample, latent].item() == pytest.approx(scale, abs=1e-8)


def test_product_of_one_expert_without_prior_is_that_expert(q):
    member = torch.zeros(M, S, dtype=torch.bool)
    member[2] = True
    joint = experts.product(q, member, prior=False)
    torch.testing.assert_close(joint.loc, q.loc[2])
    torch.testing.assert_close(joint.scale, q.scale[2])


@pytest.mark.parametrize("prior", [True, False])
def test_product_of_no_expert_is_the_prior(q, prior):
    joint = experts.product(q, torch.zeros(M, S, dtype=torch.bool), prior)
    assert (joint.loc == 0).all()
    assert (joint.scale == 1).all()


@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("extreme", [1e-30, 1e-22, 1e22, 1e30])
def test_product_of_very_sure_or_unsure_experts_is_finite(q, extreme, prior):
    """Squares of these scales, or their inverses, are not numbers of single precision."""
    scale = q.scale.clone()
    scale[0] = extreme
    member = experts.subsets(M).unsqueeze(-1).expand(-1, -1, S)
    single = Normal(q.loc.float(), scale.float().requires_grad_())
    joint = experts.product(single, member, prior)
    precision = scale**-2
    total = torch.einsum("kms,msl->ksl", member.double(), precision) + prior
    loc = torch.einsum("kms,msl->ksl", member.double(), precision * q.loc) / total
    torch.testing.assert_close(joint.loc.double(), loc, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(joint.scale.double(), total.rsqrt(), rtol=1e-5, atol=0)
    (joint.loc.sum() + joint.scale.log().sum()).backward()
    assert single.scale.grad.isfinite().all()


def test_product_takes_many_memberships_at_once(q):
    member = experts.subsets(M).unsqueeze(-1).expand(-1, -1, S)
    joint = experts.product(q, member, prior=True)
    for index, one in enumerate(member):
        alone = experts.product(q, one, prior=True)
        torch.testing.assert_close(joint.loc[index], alone.loc)
        torch.testing.assert_close(joint.scale[index], alone.scale)


def test_average_is_the_mean_of_locs_and_of_scales_over_the_observed(q, observed):
    joint = experts.average(q, observed)
    for sample in range(S):
        seen = observed[:, sample].numpy()
        if not seen.any():
            continue
        for got, each in ((joint.loc, q.loc), (joint.scale, q.scale)):
            expected = each[:, sample].numpy()[seen].mean(0)
            np.testing.assert_allclose(got[sample].numpy(), expected, rtol=1e-12)


def test_average_of_nobody_is_finite(q):
    joint = experts.average(q, torch.zeros(M, S, dtype=torch.bool))
    assert (joint.loc == 0).all()
    assert (joint.scale == 1).all()


def brute_force_pairwise_kl(q, observed):
    """Mean over the observed k of KL(q_m || q_k), by torch.distributions."""
    mean = torch.zeros(q.loc.shape[:2], dtype=q.loc.dtype)
    for m in range(len(q.loc)):
        for sample in range(q.loc.shape[1]):
            each = [
                kl_divergence(
                    Normal(q.loc[m, sample], q.scale[m, sample]),
                    Normal(q.loc[k, sample], q.scale[k, sample]),
                ).sum()
                for k in range(len(q.loc))
                if observed[k, sample]
            ]
            mean[m, sample] = torch.stack(each).mean() if each else torch.nan
    return mean


def test_mean_pairwise_kl_equals_brute_force(q, observed):
    got = experts.mean_pairwise_kl(q, observed)
    torch.testing.assert_close(
        got[observed], brute_force_pairwise_kl(q, observed)[observed], rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("shift", [0.0, 3e2, -1e4])
def test_mean_pairwise_kl_keeps_small_differences_far_from_the_origin_in_float32(shift):
    generator = torch.Generator().manual_seed(1)
    # Multiples of 2^-8 are exact in float32 at these distances, so both sides see the same locs.
    loc = torch.randint(-256, 256, (M, S, L), generator=generator) / 256 + shift
    scale = torch.rand(M, S, L, generator=generator) * 0.2 + 0.1
    observed = MASKS["all"]
    got = experts.mean_pairwise_kl(Normal(loc, scale), observed)
    expected = brute_force_pairwise_kl(Normal(loc.double(), scale.double()), observed)
    torch.testing.assert_close(got.double(), expected, rtol=2e-3, atol=2e-3)


def test_mean_pairwise_kl_of_far_apart_experts_is_right_in_float32():
    loc = torch.tensor([-1e3, 2.0, 5e2])[:, None, None].expand(3, S, L)
    scale = torch.tensor([0.5, 1.0, 0.1])[:, None, None].expand(3, S, L)
    observed = torch.ones(3, S, dtype=torch.bool)
    got = experts.mean_pairwise_kl(Normal(loc, scale), observed)
    expected = brute_force_pairwise_kl(Normal(loc.double(), scale.double()), observed)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=0.0)


def test_kl_of_equal_experts_is_zero(q):
    same = Normal(q.loc[:1].expand(M, -1, -1), q.scale[:1].expand(M, -1, -1))
    torch.testing.assert_close(
        experts.mean_pairwise_kl(same, MASKS["all"]),
        torch.zeros(M, S, dtype=torch.float64),
        atol=1e-13,
        rtol=0.0,
    )


def test_kl_to_the_prior_equals_torch(q):
    expected = kl_divergence(q, Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(experts.kl_standard(q), expected, rtol=1e-12, atol=1e-12)


def test_log_density_of_the_prior_equals_scipy(q):
    expected = scipy.stats.norm.logpdf(q.loc.numpy()).sum(-1)
    np.testing.assert_allclose(experts.log_prob_standard(q.loc).numpy(), expected, rtol=1e-12)


def test_mixture_log_prob_equals_scipy(q):
    observed = MASKS["some"].clone()
    observed[0, 2] = True  # everyone needs an expert here
    z = torch.randn(5, S, L, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weight = experts.weights(observed, torch.float64)
    got = experts.mixture_log_prob(q, z, weight.log()).numpy()
    each = scipy.stats.norm.logpdf(
        z.numpy()[None], q.loc.numpy()[:, None], q.scale.numpy()[:, None]
    ).sum(-1)
    expected = scipy.special.logsumexp(each, axis=0, b=weight.numpy()[:, None])
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_expert_log_prob_is_every_point_under_every_expert(q):
    z = torch.randn(5, S, L, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    got = experts.expert_log_prob(q, z)
    assert got.shape == (M, 5, S)
    expected = scipy.stats.norm.logpdf(z[3, 1].numpy(), q.loc[2, 1].numpy(), q.scale[2, 1].numpy())
    assert got[2, 3, 1].item() == pytest.approx(expected.sum())


def test_weights_are_equal_over_the_observed_and_zero_elsewhere(observed):
    weight = experts.weights(observed, torch.float64)
    assert (weight[~observed] == 0).all()
    torch.testing.assert_close(weight.sum(0), observed.any(0).double())
    for sample in range(S):
        assert len(weight[:, sample][observed[:, sample]].unique()) <= 1


def _mixture(q, observed, n=6):
    z = torch.linspace(-2, 2, n, dtype=torch.float64).reshape(n, 1, 1).expand(n, S, L)
    return experts.mixture_log_prob(q, z, experts.weights(observed, torch.float64).log())


RULES = {
    "product": lambda q, o: torch.cat([*vars_of(experts.product(q, o, prior=False))]),
    "product with prior": lambda q, o: torch.cat([*vars_of(experts.product(q, o, prior=True))]),
    "average": lambda q, o: torch.cat([*vars_of(experts.average(q, o))]),
    "mixture": _mixture,
    "pairwise KL": lambda q, o: torch.where(o, experts.mean_pairwise_kl(q, o), 0.0),
}


def vars_of(q):
    return q.loc, q.scale


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_absent_experts_have_exactly_no_influence(q, rule):
    observed = MASKS["some"].clone()
    observed[0, 2] = True
    one = rule(with_absent(q, observed, 1.0, 2.0), observed)
    other = rule(with_absent(q, observed, -7.0, 0.01), observed)
    assert torch.equal(one, other)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_absent_experts_receive_exactly_zero_gradient(q, rule):
    observed = MASKS["some"].clone()
    observed[0, 2] = True
    loc, scale = q.loc.clone().requires_grad_(), q.scale.clone().requires_grad_()
    rule(Normal(loc, scale), observed).square().sum().backward()
    for gradient in (loc.grad, scale.grad):
        assert (gradient[~observed] == 0).all()
        assert torch.isfinite(gradient).all()
        assert (gradient[observed] != 0).any()


def test_subsets_are_all_non_empty_ones_once():
    rows = {tuple(row) for row in experts.subsets(4).tolist()}
    assert len(rows) == len(experts.subsets(4)) == 15
    assert (False,) * 4 not in rows


def test_too_many_subsets_are_refused_with_a_way_out():
    with pytest.raises(ValueError, match=r"13 modalities have 8191 subsets.*'mmvm'"):
        experts.subsets(13)


def test_twelve_modalities_are_not_too_many():
    assert experts.subsets(12).shape == (4095, 12)


def test_split_takes_the_first_latents_and_the_rest(q):
    shared, private = experts.split(q, 1)
    assert torch.equal(torch.cat([shared.loc, private.loc], -1), q.loc)
    assert torch.equal(shared.scale, q.scale[..., :1])


def test_the_mixture_of_one_expert_is_that_expert(q):
    z = q.loc[0]
    log_weight = torch.full((M, S), -math.inf, dtype=torch.float64)
    log_weight[1] = 0.0
    got = experts.mixture_log_prob(q, z.unsqueeze(0), log_weight)[0]
    assert torch.equal(got, Normal(q.loc[1], q.scale[1]).log_prob(z).sum(-1))


def test_partners_are_others_that_are_observed(observed):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(20):
            partner, found = experts.partners(observed)
            itself = torch.arange(M).unsqueeze(1)
            assert (partner != itself)[found].all()
            assert observed.gather(0, partner)[found].all()
            others = observed.sum(0) - observed.long()
            assert (found == (others > 0)).all()


def test_every_other_modality_is_as_likely_a_partner():
    n = 6_000
    with torch.random.fork_rng():
        torch.manual_seed(1)
        drawn = torch.stack([experts.partners(MASKS["all"])[0][:, 0] for _ in range(n)])
    for m in range(M):
        counts = torch.bincount(drawn[:, m], minlength=M)
        assert counts[m] == 0
        expected = n / (M - 1)
        assert (counts.sum() - expected * (M - 1)) == 0
        rest = counts[torch.arange(M) != m]
        assert ((rest - expected).abs() < 4 * math.sqrt(expected)).all()


def test_no_partner_where_nobody_is_observed():
    partner, found = experts.partners(torch.zeros(3, 2, dtype=torch.bool))
    assert not found.any()
    assert ((partner >= 0) & (partner < 3)).all()


def test_mixtures_in_parts_equal_the_whole_with_their_gradients(q, observed, monkeypatch):
    z = q.loc.detach() + 0.1

    def density_and_gradient():
        loc = q.loc.detach().requires_grad_()
        weight = experts.weights(observed, loc.dtype).log()
        density = experts.mixture_log_prob(Normal(loc, q.scale), z, weight)
        return density.detach(), torch.autograd.grad(density[observed].sum(), loc)[0]

    whole = density_and_gradient()
    monkeypatch.setattr(experts, "_LARGE", q.loc.numel())
    for a, b in zip(density_and_gradient(), whole, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("larger", "n_parts"), [(1, 5), (2, 3), (5, 1)])
def test_no_part_of_a_mixture_is_larger_than_allowed(q, monkeypatch, larger, n_parts):
    sizes, whole = [], experts._mixture

    def watched(loc, scale, z, log_weight):
        sizes.append(len(z) * loc.numel())
        return whole(loc, scale, z, log_weight)

    monkeypatch.setattr(experts, "_mixture", watched)
    monkeypatch.setattr(experts, "_LARGE", larger * q.loc.numel())
    _mixture(q, MASKS["all"], 5)
    assert len(sizes) == n_parts
    assert max(sizes) <= experts._LARGE


def test_a_sample_of_all_others_is_the_whole_mixture(q, observed):
    z = q.loc + 0.2
    whole = experts.mixture_log_prob(q, z, experts.weights(observed, z.dtype).log())
    sampled = experts.sampled_mixture_log_prob(q, z, observed, M - 1)
    torch.testing.assert_close(sampled[observed], whole[observed])


def test_a_sampled_mixture_is_of_itself_and_one_observed_other(q):
    z = q.loc + 0.2
    each = experts.expert_log_prob(q, z).exp()
    observed = MASKS["some"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = experts.sampled_mixture_log_prob(q, z, observed, 1).exp()
    for m in range(M):
        for s in range(S):
            if not observed[m, s]:
                continue
            allowed = [each[m, m, s]] + [
                (each[m, m, s] + each[k, m, s]) / 2 for k in range(M) if k != m and observed[k, s]
            ]
            assert min(abs(float(drawn[m, s] - value)) for value in allowed) < 1e-9


def test_the_sphere_keeps_directions_and_codes_of_unit_variance():
    z = torch.randn(500, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes = experts.on_sphere(z)
    cosine = torch.nn.functional.cosine_similarity(codes, z)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    assert (codes.square().sum(-1) < 16).all()
    assert (experts.on_sphere(1e6 * z).square().sum(-1) > 16 - 1e-6).all()
    assert 0.9 < float(codes.std()) < 1.1


def test_info_nce_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    observed = torch.ones(2, 5, dtype=torch.bool)
    # Points: the code lifted off the origin by sqrt(L), at length one.
    lifted = torch.cat([z, torch.full_like(z[..., :1], math.sqrt(3))], -1)
    point = (lifted / lifted.norm(dim=-1, keepdim=True)).numpy()
    cosine = point[0] @ point[1].T / 0.6
    expected = sum(scipy.special.logsumexp(c, axis=1) - np.diag(c) for c in (cosine, cosine.T))
    found = experts.info_nce(experts.on_sphere(z), observed, 0.6)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_absent_modalities_take_no_part_in_the_contrast():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    observed = torch.ones(2, 5, dtype=torch.bool)
    observed[1, 4] = False
    fewer = experts.info_nce(experts.on_sphere(z[:, :4]), observed[:, :4], 0.6)
    found = experts.info_nce(experts.on_sphere(z), observed, 0.6)
    assert float(found[4]) == 0
    # The row of the absent partner is among nobody's others; its own other is.
    z[1, 4] = 1e3
    torch.testing.assert_close(experts.info_nce(experts.on_sphere(z), observed, 0.6), found)
    assert (found[:4] >= fewer).all()
