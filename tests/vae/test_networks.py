import math

import pytest
import torch
from torch import nn

from neuroshare.vae.networks import Decoder, Encoder, Layer


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def counts(n=7, features=12):
    return torch.poisson(torch.full((n, features), 1.5))


def test_an_encoder_gives_a_loc_and_a_positive_scale():
    loc, scale = Encoder(12, 3, (8, 5))(counts())
    assert loc.shape == scale.shape == (7, 3)
    assert (scale > 0).all()


def test_a_decoder_keeps_leading_dims():
    assert Decoder(3, 12, (8, 5))(torch.randn(4, 2, 7, 3)).shape == (4, 2, 7, 12)


def layers(module):
    return [(layer.in_features, layer.out_features, layer.slope) for layer in module]


def test_the_papers_network_is_a_setting():
    d, n_latents = 20, 2
    encoder = Encoder(d, n_latents, (d, d), bottleneck=True)
    assert layers(encoder.body) == [(d, d, 0.01), (d, d, 0.01), (d, n_latents, 0.01)]
    for head in (encoder.loc, encoder.log_scale):
        assert (head.in_features, head.out_features) == (n_latents, n_latents)
    decoder = Decoder(n_latents, d, (d, d))
    assert layers([*decoder.body, decoder.output]) == [
        (n_latents, d, 0.01), (d, d, 0.01), (d, d, 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize("n_outputs", [5, 400])
def test_a_layer_is_affine_with_a_leaky_end(n_outputs):
    layer = Layer(300, n_outputs, 0.01)
    x = torch.randn(4, 300)
    expected = nn.functional.leaky_relu(x @ layer.weight.T + layer.bias, 0.01)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_inputs_are_transformed_then_standardised():
    x = counts()
    encoder = Encoder(12, 3, (8,), transform="sqrt", standardise=True)
    mean, deviation = x.sqrt().mean(0), x.sqrt().std(0)
    encoder.set_standard(mean, deviation)
    plain = Encoder(12, 3, (8,))
    plain.load_state_dict(
        {k: v for k, v in encoder.state_dict().items() if not k.startswith("input_")},
        strict=False,
    )
    for got, expected in zip(encoder(x), plain((x.sqrt() - mean) / deviation), strict=True):
        torch.testing.assert_close(got, expected)


def test_the_standard_is_saved_with_the_weights():
    encoder = Encoder(4, 2, (3,), standardise=True)
    encoder.set_standard(torch.arange(4.0), torch.full((4,), 2.0))
    other = Encoder(4, 2, (3,), standardise=True)
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other.input_loc, torch.arange(4.0))


def test_an_encoder_starts_at_the_given_linear_map():
    encoder = Encoder(12, 3, (8, 8), linear=True)
    weights, bias = torch.randn(12, 3), torch.randn(3)
    encoder.start_from(weights, bias, scale=0.3)
    x = torch.randn(50, 12)
    loc, scale = encoder(x)
    torch.testing.assert_close(loc, x @ weights + bias, rtol=1e-5, atol=1e-5)
    assert (scale / 0.3).log().abs().max() < 0.2


def test_latents_beyond_the_map_keep_their_start():
    encoder = Encoder(12, 5, (8, 8), linear=True)
    x = torch.randn(50, 12)
    before = encoder(x)[0]
    encoder.start_from(torch.randn(12, 3), torch.randn(3), scale=0.3)
    after = encoder(x)[0]
    torch.testing.assert_close(after[:, 3:], before[:, 3:])
    assert not torch.allclose(after[:, :3], before[:, :3])


def test_an_encoder_without_a_linear_map_cannot_start_from_one():
    with pytest.raises(ValueError, match="without a linear map"):
        Encoder(12, 3, (8,)).start_from(torch.zeros(12, 3), torch.zeros(3), 0.3)


def test_a_decoder_starts_near_the_given_output():
    start = torch.linspace(-3, 1, 12)
    for linear in (False, True):
        decoder = Decoder(3, 12, (8, 8), linear=linear)
        far = (decoder(torch.randn(200, 3)) - decoder.output.bias).abs().mean()
        decoder.start_at(start)
        near = (decoder(torch.randn(200, 3)) - start).abs().mean()
        assert near < 0.2 * far


def test_dropout_hides_whole_units_with_all_their_lags():
    n_lags, n_units, share = 4, 3, 0.5
    encoder = Encoder(n_lags * n_units, 2, (), dropout=share, n_units=n_units, linear=True)
    # One latent reads one lag of unit 1, the other all lags of unit 1: features are (lag, unit).
    weights = torch.zeros(n_lags, n_units, 2)
    weights[0, 1, 0] = 1.0
    weights[:, 1, 1] = 1.0
    encoder.start_from(weights.flatten(0, 1), torch.zeros(2), 0.3)
    encoder.loc.weight.data.zero_()
    encoder.train()
    n = 4000
    one, all_lags = encoder(torch.ones(n, n_lags * n_units))[0].T
    torch.testing.assert_close(all_lags, n_lags * one)
    hidden = (one == 0).float().mean().item()
    # Four standard errors of a share of n.
    assert abs(hidden - share) < 4 * (share * (1 - share) / n) ** 0.5
    torch.testing.assert_close(one[one != 0], torch.full_like(one[one != 0], 1 / (1 - share)))


def test_nothing_is_hidden_outside_training():
    encoder = Encoder(12, 3, (8,), dropout=0.9).eval()
    x = counts()
    assert torch.equal(encoder(x)[0], encoder(x)[0])


@pytest.mark.parametrize("slope", [1.0, 0.01])
@pytest.mark.parametrize("shape", [(7,), (2, 7)])
def test_fused_layers_equal_plain_ones_with_their_gradients(slope, shape):
    n_inputs, n_outputs = 190, 180
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = Layer(n_inputs, n_outputs, slope)
        x = torch.randn(*shape, n_inputs, requires_grad=True)
    found = []
    for fused in (True, False):
        layer.fused = fused
        y = layer(x)
        assert ("FusedLayer" in type(y.grad_fn).__name__) == fused
        found.append((y, *torch.autograd.grad(y.square().sum(), [x, layer.weight, layer.bias])))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_scale_of_a_posterior_is_bounded():
    """A window far from all others would else get a scale of millions, and end the training."""
    torch.manual_seed(0)
    encoder = Encoder(6, 3, hidden=(8,))
    near, far = encoder(torch.randn(4, 6))[1], encoder(1e4 * torch.randn(400, 6))[1]
    assert ((near > 1e-2) & (near < 1e2)).all()
    assert far.max() <= math.exp(3) * (1 + 1e-6)
    assert far.min() >= math.exp(-12) * (1 - 1e-6)
    assert far.max() / far.min() > 1e5


@pytest.mark.parametrize(("bias", "wanted"), [(-20.0, -2.0), (10.0, 1.0)])
def test_a_scale_beyond_its_bound_is_led_back(bias, wanted):
    """`clamp` alone has no gradient there: once all windows were beyond it, all would stay."""
    torch.manual_seed(0)
    encoder = Encoder(6, 3, hidden=(8,))
    with torch.no_grad():
        encoder.log_scale.bias.fill_(bias)
    x = torch.randn(50, 6)
    optimiser = torch.optim.Adam(encoder.parameters(), lr=0.1)
    for _ in range(400):
        optimiser.zero_grad()
        (encoder(x)[1].log() - wanted).square().mean().backward()
        optimiser.step()
    assert (encoder(x)[1].log() - wanted).abs().mean() < 0.2


@pytest.mark.parametrize(("bias", "sign"), [(-20.0, 1.0), (10.0, -1.0)])
def test_a_scale_beyond_its_bound_is_led_no_further(bias, sign):
    encoder = Encoder(6, 3, hidden=(8,))
    with torch.no_grad():
        encoder.log_scale.bias.fill_(bias)
    (sign * encoder(torch.randn(50, 6))[1].log()).sum().backward()
    assert (encoder.log_scale.bias.grad == 0).all()
