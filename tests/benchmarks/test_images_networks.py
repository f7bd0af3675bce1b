import pytest
import torch
from benchmarks.images.networks import Classifier, Decoder, Encoder, Size

SHAPES = [(28, 28, 3), (28, 28, 1), (64, 64, 3), (256, 40), (32, 17)]
SIZES = [Size(4, 8, 7), Size(4, 8, 4, stride=2), Size(4, 4, 4, stride=4)]


@pytest.mark.parametrize("size", SIZES, ids=["plain", "stride 2", "stride 4"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_decoders_give_what_encoders_take(shape, size):
    x = torch.rand(2, torch.Size(shape).numel())
    loc, scale = Encoder(shape, 5, size)(x)
    assert loc.shape == scale.shape == (2, 5)
    assert (scale > 0).all()
    z = torch.stack([loc, loc + 1, loc - 1])
    assert Decoder(shape, 5, size)(z).shape == (3, *x.shape)


def test_draws_are_decoded_apart():
    decoder = Decoder((28, 28, 3), 5, Size(4, 8, 7, 2))
    z = torch.randn(3, 4, 5)
    one_by_one = torch.stack([decoder(part) for part in z])
    torch.testing.assert_close(decoder(z), one_by_one)


def test_flat_data_are_height_width_channel():
    """A pixel of the data reaches the features of its own place, and of its neighbours, alone."""
    trunk = Classifier((28, 28, 3), 2, Size(4, 4, 7, 4)).trunk
    x = torch.zeros(1, 28, 28, 3)
    moved = x.clone()
    moved[0, 26, 1, 2] = 5.0
    change = (trunk(moved.flatten(1)) - trunk(x.flatten(1))).abs().unflatten(1, (4, 7, 7)).sum(1)[0]
    assert change[6, 0] > 0
    assert change[:4].sum() == 0
    assert change[:, 3:].sum() == 0


def test_channels_double_up_to_the_largest():
    trunk = Encoder((64, 64, 3), 5, Size(4, 8, 4)).trunk
    assert trunk.n_features == 8 * 4 * 4
