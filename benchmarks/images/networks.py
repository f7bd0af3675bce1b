"""Residual encoders, decoders and classifiers for images (2-D) and text (1-D), any even size.

Data arrive flat with channels last, (sample, height x width x channel) or (sample, position x
category), which is the memory order convolutions like best: viewing them costs no copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import leaky_relu

SLOPE = 0.2


@dataclass(frozen=True)
class Size:
    """How large networks are.

    The channels start at `width` and double with every halving of the image up to `max_width`;
    halving stops at `coarsest` pixels. `stride` is that of the first layer of images and `branch`
    the weight of residual branches, 1 and 0.1 in the published networks. Where time is short, a
    stride saves it and a heavier branch learns faster.
    """

    width: int = 64
    max_width: int = 512
    coarsest: int = 7
    stride: int = 1
    branch: float = 0.1


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(
        self, conv: type[nn.Conv1d | nn.Conv2d], n_in: int, n_out: int, branch: float
    ) -> None:
        super().__init__()
        n_hidden = min(n_in, n_out)
        self.branch = branch
        self.first = conv(n_in, n_hidden, 3, padding=1)
        self.second = conv(n_hidden, n_out, 3, padding=1)
        self.shortcut = conv(n_in, n_out, 1, bias=False) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        change = self.second(leaky_relu(self.first(leaky_relu(x, SLOPE)), SLOPE))
        out: Tensor = self.shortcut(x) + self.branch * change
        return out


def _plan(shape: tuple[int, ...], size: Size) -> tuple[list[int], tuple[int, ...]]:
    """Channels at each resolution, finest first, and the extent of the coarsest."""
    stride = size.stride if len(shape) == 3 else 1
    extent = tuple(n // stride for n in shape[:-1])
    widths = [size.width]
    while min(extent) // 2 >= size.coarsest and all(n % 2 == 0 for n in extent):
        extent = tuple(n // 2 for n in extent)
        widths.append(min(2 * widths[-1], size.max_width))
    return widths, extent


class Trunk(nn.Module):
    """From data of `shape`, channels last, to features (sample, n_features)."""

    def __init__(self, shape: tuple[int, ...], size: Size) -> None:
        super().__init__()
        self.shape = shape
        widths, extent = _plan(shape, size)
        image = len(shape) == 3
        conv = nn.Conv2d if image else nn.Conv1d
        pool = nn.AvgPool2d if image else nn.AvgPool1d
        if image and size.stride == 1:
            stem: nn.Module = nn.Conv2d(shape[-1], widths[0], 3, padding=1)
        elif image:
            stem = nn.Conv2d(shape[-1], widths[0], size.stride, stride=size.stride)
        else:
            stem = nn.Conv1d(shape[-1], widths[0], 1)  # an embedding of categories
        layers: list[nn.Module] = [stem, Block(conv, widths[0], widths[0], size.branch)]
        for n_in, n_out in pairwise(widths):
            layers += [pool(2), Block(conv, n_in, n_out, size.branch)]
        self.layers = nn.Sequential(*layers, nn.LeakyReLU(SLOPE), nn.Flatten())
        self.n_features = widths[-1] * math.prod(extent)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x.unflatten(1, self.shape).movedim(-1, 1))
        return features


class Encoder(nn.Module):
    """Posterior loc and scale, (sample, latent) each, of flat data."""

    def __init__(self, shape: tuple[int, ...], n_latents: int, size: Size) -> None:
        super().__init__()
        self.trunk = Trunk(shape, size)
        self.heads = nn.Linear(self.trunk.n_features, 2 * n_latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = self.heads(self.trunk(x)).chunk(2, dim=-1)
        return loc, log_scale.clamp(-10.0, 10.0).exp()


class Decoder(nn.Module):
    """Flat raw output (..., feature) of latents (..., latent): a trunk turned round."""

    def __init__(self, shape: tuple[int, ...], n_latents: int, size: Size) -> None:
        super().__init__()
        widths, self.extent = _plan(shape, size)
        image = len(shape) == 3
        conv = nn.Conv2d if image else nn.Conv1d
        self.start = nn.Linear(n_latents, widths[-1] * math.prod(self.extent))
        layers: list[nn.Module] = []
        for n_out, n_in in reversed(list(pairwise(widths))):
            layers += [Block(conv, n_in, n_out, size.branch), nn.Upsample(scale_factor=2)]
        layers += [Block(conv, widths[0], widths[0], size.branch), nn.LeakyReLU(SLOPE)]
        if image:
            # Neighbouring pixels out of channels: cheaper than a transposed convolution.
            layers.append(nn.Conv2d(widths[0], shape[-1] * size.stride**2, 3, padding=1))
            layers.append(nn.PixelShuffle(size.stride))
        else:
            layers.append(nn.Conv1d(widths[0], shape[-1], 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        lead = z.shape[:-1]
        start = self.start(z.flatten(0, -2)).unflatten(1, (*self.extent, -1)).movedim(-1, 1)
        output: Tensor = self.layers(start).movedim(1, -1)
        return output.flatten(1).view(*lead, -1)


class Classifier(nn.Module):
    """Logits (sample, label) of flat data; `features` are what Fréchet distances compare."""

    def __init__(self, shape: tuple[int, ...], n_labels: int, size: Size) -> None:
        super().__init__()
        self.trunk = Trunk(shape, size)
        self.hidden = nn.Linear(self.trunk.n_features, 64)
        self.output = nn.Linear(64, n_labels)

    def features(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.hidden(self.trunk(x))
        return hidden.relu()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output(self.features(x))
        return logits
