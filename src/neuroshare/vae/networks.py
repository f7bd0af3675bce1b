"""Encoders and decoders of any width. Log-variances never leave this module."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, leaky_relu, linear

Transform = Literal["none", "sqrt"]
Pool = Literal["none", "lags"]

_SLOPE = 0.01


class Layer(nn.Linear):
    """Affine map, followed by LeakyReLU where `slope` is not 1.

    In float32 on a CPU wide layers take bias and LeakyReLU along in oneDNN's matrix product, which
    is also the faster one for the gradient of the input; bfloat16 gains nothing by it. `fused`
    False keeps to plain operations, which `torch.vmap` understands.
    """

    fused = True

    def __init__(self, n_inputs: int, n_outputs: int, slope: float = 1.0) -> None:
        super().__init__(n_inputs, n_outputs)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Output (..., n_outputs) of x (..., n_inputs)."""
        if self.fused and self.weight.numel() >= _WIDE and _in_float_on_cpu(x):
            fused: Tensor = _FusedLayer.apply(  # type: ignore[no-untyped-call]
                x, self.weight, self.bias, self.slope
            )
            return fused
        y = linear(x, self.weight, self.bias)
        return y if self.slope == 1 else leaky_relu(y, self.slope, inplace=True)


class _FusedLayer(torch.autograd.Function):
    """A layer as one call, and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
        y = _product(x, weight, bias, slope)
        ctx.save_for_backward(x, weight, y if slope != 1 else None)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, weight, y = ctx.saved_tensors
        if y is not None:  # the sign of the output is that of the input
            grad = torch.ops.aten.leaky_relu_backward(grad, y, ctx.slope, True)
        rows = grad.reshape(-1, grad.shape[-1])
        grad_weight = rows.T @ x.reshape(-1, x.shape[-1])
        grad_x = _product(grad, weight.T, None, 1.0) if ctx.needs_input_grad[0] else None
        return grad_x, grad_weight, rows.sum(0), None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
    """LeakyReLU of x @ weight.T + bias."""
    name, numbers = ("none", []) if slope == 1 else ("leaky_relu", [slope])
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, numbers, "")
    return y


def _in_float_on_cpu(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and not torch.is_autocast_enabled("cpu")
    )


_WIDE = 1 << 15
"""Weights from which the call is worth its making."""


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with LeakyReLU after each."""
    return nn.Sequential(*(Layer(n_in, n_out, _SLOPE) for n_in, n_out in pairwise(widths)))


class Encoder(nn.Module):
    """Multilayer perceptron to the loc and scale of a Gaussian, beside a linear map.

    Parameters
    ----------
    n_inputs, n_latents
        Number of features and latents.
    hidden
        Widths of the hidden layers.
    transform
        Applied to the input: ``"sqrt"`` stabilises the variance of counts.
    standardise
        Subtract `input_loc` and divide by `input_scale`, see `set_standard`.
    dropout
        Share of units hidden from the network at every training step, each with all its lags:
        features are ordered (lag, unit) and `n_units` says how many units there are.
    n_units
        By default every feature is a unit of its own.
    bottleneck
        One more hidden layer as wide as the latents before the two heads (the paper's network).
    linear
        Add a linear map from the inputs to loc, `skip`. `start_from` initialises it.
    pool
        ``"lags"``: sum each unit's activity over the lags of the window before anything else, so
        that the network has one input per unit. Fine timing inside a window of a tenth of a second
        is mostly noise, and the square root of a summed count has a stable variance.
    """

    def __init__(
        self,
        n_inputs: int,
        n_latents: int,
        hidden: Sequence[int],
        *,
        transform: Transform = "none",
        standardise: bool = False,
        dropout: float = 0.0,
        n_units: int | None = None,
        bottleneck: bool = False,
        linear: bool = False,
        pool: Pool = "none",
    ) -> None:
        super().__init__()
        self.n_units = n_units or n_inputs
        self.pool = pool
        self.n_inputs = n_inputs
        if pool == "lags":
            n_inputs = self.n_units
        widths = [n_inputs, *hidden, *([n_latents] if bottleneck else [])]
        self.body = _perceptron(widths)
        self.loc = nn.Linear(widths[-1], n_latents)
        self.log_scale = nn.Linear(widths[-1], n_latents)
        self.skip = nn.Linear(n_inputs, n_latents, bias=False) if linear else None
        self.transform = transform
        self.dropout = dropout
        self.standardise = standardise
        self.register_buffer("input_loc", torch.zeros(n_inputs))
        self.register_buffer("input_scale", torch.ones(n_inputs))

    input_loc: Tensor
    input_scale: Tensor

    def set_standard(self, loc: Tensor, scale: Tensor) -> None:
        """Standardise (transformed) inputs by these, (feature,)."""
        self.input_loc.copy_(loc)
        self.input_scale.copy_(scale)

    @torch.no_grad()
    def start_from(self, weights: Tensor, bias: Tensor, scale: float) -> None:
        """Start at a linear map, weights (feature, latent) and bias, the nonlinear branch at zero.

        Latents beyond the columns of `weights` keep their random start. `scale` is the posterior
        scale to begin with.
        """
        if self.skip is None:
            raise ValueError("An encoder without a linear map cannot start from one.")
        n_given = weights.shape[1]
        self.skip.weight[:n_given].copy_(weights.T)
        self.loc.weight[:n_given].zero_()
        self.loc.bias[:n_given].copy_(bias)
        self.log_scale.weight[:n_given].mul_(0.1)
        self.log_scale.bias[:n_given].fill_(float(torch.tensor(scale).log()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Loc and scale, (sample, latent) each, from x (sample, feature)."""
        if self.pool == "lags":
            x = x.unflatten(1, (-1, self.n_units)).sum(1)
        if self.transform == "sqrt":
            x = x.sqrt()
        if self.standardise:
            x = (x - self.input_loc) / self.input_scale
        if self.dropout and self.training:
            kept = dropout(x.new_ones(len(x), 1, self.n_units), self.dropout)
            x = (x.unflatten(1, (-1, self.n_units)) * kept).flatten(1)
        features = self.body(x)
        loc = self.loc(features)
        if self.skip is not None:
            loc = loc + self.skip(x)
        return loc, self.log_scale(features).exp()


class Decoder(nn.Module):
    """Multilayer perceptron from latents to the raw output that a likelihood reads.

    Parameters
    ----------
    n_latents, n_outputs
        Number of latents and features.
    hidden
        Widths of the hidden layers, from the latents on.
    linear
        Add a linear map from the latents to the output, `skip`.
    n_units
        One output for all lags of a unit, (..., unit): expected activity is constant within a
        window, which slides over the trial anyway. By default every feature has an output of its
        own.
    """

    def __init__(
        self,
        n_latents: int,
        n_outputs: int,
        hidden: Sequence[int],
        *,
        linear: bool = False,
        n_units: int | None = None,
    ) -> None:
        super().__init__()
        widths = [n_latents, *hidden]
        self.n_lags = 1 if n_units is None else n_outputs // n_units
        self.body = _perceptron(widths)
        self.output = Layer(widths[-1], n_outputs // self.n_lags)
        self.skip = nn.Linear(n_latents, n_outputs // self.n_lags, bias=False) if linear else None

    @torch.no_grad()
    def start_at(self, output: Tensor) -> None:
        """Start near the constant `output` (feature,), such as the link of the mean counts."""
        self.output.bias.copy_(output.unflatten(0, (self.n_lags, -1)).mean(0))
        self.output.weight.mul_(0.1)
        if self.skip is not None:
            self.skip.weight.mul_(0.1)

    @torch.no_grad()
    def start_from(self, weights: Tensor) -> None:
        """Start at a linear map, weights (latent, unit), the nonlinear branch at zero.

        Latents beyond the rows of `weights` keep their random start.
        """
        if self.skip is None:
            raise ValueError("A decoder without a linear map cannot start from one.")
        self.skip.weight[:, : len(weights)].copy_(weights.T)
        self.output.weight.zero_()

    def forward(self, z: Tensor) -> Tensor:
        """Output (..., feature) or (..., unit) from latents (..., latent)."""
        output: Tensor = self.output(self.body(z))
        if self.skip is not None:
            output = output + self.skip(z)
        return output


def repeat_lags(output: Tensor, n_features: int) -> Tensor:
    """Output (..., feature) of a decoder that gives one value for all lags, ordered (lag, unit)."""
    n_lags = n_features // output.shape[-1]
    return output.repeat(*(1,) * (output.dim() - 1), n_lags) if n_lags > 1 else output
