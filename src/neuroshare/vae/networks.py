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


_LOG_SCALES = (-12.0, 3.0)
"""Of posteriors. A single window outside what was learned would otherwise get a scale of millions,
and its gradient ends the training; the prior has scale 1."""


class _Bounded(torch.autograd.Function):
    """Values within bounds. A gradient that leads back between them passes; that of `clamp` is 0.

    Codes whose scales all came to the bound would otherwise stay there for good.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
        x, ctx.low, ctx.high = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        outwards = ((x < ctx.low) & (grad > 0)) | ((x > ctx.high) & (grad < 0))
        return grad.masked_fill(outwards, 0.0), None, None


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
    n_groups
        Pool so many consecutive parts of the window instead, of equally many lags: the network has
        one input per part and unit, ordered (part, unit).
    body
        In place of the perceptron: maps (sample, unit, lag) to (sample, ``hidden[-1]``). It sees
        every lag, also where `skip` sees their sums; see `set_lags`.
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
        n_groups: int = 1,
        body: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.n_units = n_units or n_inputs
        self.n_groups = n_groups
        self.pool = pool
        self.n_inputs = n_inputs
        self.sees_lags = body is not None
        if body is not None and pool == "lags":
            self.register_buffer("lag_loc", torch.zeros(n_inputs))
            self.register_buffer("lag_scale", torch.ones(n_inputs))
        if pool == "lags":
            n_inputs = n_groups * self.n_units
        widths = [n_inputs, *hidden, *([n_latents] if bottleneck else [])]
        self.body = _perceptron(widths) if body is None else body
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
    lag_loc: Tensor
    lag_scale: Tensor

    def set_standard(self, loc: Tensor, scale: Tensor) -> None:
        """Standardise (transformed) inputs by these, (feature,)."""
        self.input_loc.copy_(loc)
        self.input_scale.copy_(scale)

    def set_lags(self, loc: Tensor, scale: Tensor) -> None:
        """Standardise what a `body` beside pooled inputs sees by these, (lag x unit,)."""
        self.lag_loc.copy_(loc)
        self.lag_scale.copy_(scale)

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
        kept = None
        if self.dropout and self.training:
            kept = dropout(x.new_ones(len(x), 1, self.n_units), self.dropout)
        if self.pool == "none":
            seen = lags = self._seen(x, self.input_loc, self.input_scale, kept)
        else:
            pooled = x.unflatten(1, (self.n_groups, -1, self.n_units)).sum(2).flatten(1)
            seen = self._seen(pooled, self.input_loc, self.input_scale, kept)
            lags = self._seen(x, self.lag_loc, self.lag_scale, kept) if self.sees_lags else seen
        if self.sees_lags:
            lags = lags.unflatten(1, (-1, self.n_units)).transpose(1, 2).contiguous()
        features = self.body(lags)
        loc = self.loc(features)
        if self.skip is not None:
            loc = loc + self.skip(seen)
        log_scale: Tensor = _Bounded.apply(  # type: ignore[no-untyped-call]
            self.log_scale(features), *_LOG_SCALES
        )
        return loc, log_scale.exp()

    def _seen(self, x: Tensor, loc: Tensor, scale: Tensor, kept: Tensor | None) -> Tensor:
        """What the network sees of activity, (sample, feature); `kept` is (sample, 1, unit)."""
        if self.transform == "sqrt":
            x = x.sqrt()
        if self.standardise:
            x = (x - loc) / scale
        if kept is not None:
            x = (x.unflatten(1, (-1, self.n_units)) * kept).flatten(1)
        return x


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
    n_groups
        One output for each of so many consecutive parts of the window, (..., part x unit).
    """

    def __init__(
        self,
        n_latents: int,
        n_outputs: int,
        hidden: Sequence[int],
        *,
        linear: bool = False,
        n_units: int | None = None,
        n_groups: int = 1,
    ) -> None:
        super().__init__()
        widths = [n_latents, *hidden]
        self.n_groups = n_groups
        self.n_lags = 1 if n_units is None else n_outputs // n_units // n_groups
        self.body = _perceptron(widths)
        self.output = Layer(widths[-1], n_outputs // self.n_lags)
        self.skip = nn.Linear(n_latents, n_outputs // self.n_lags, bias=False) if linear else None

    @torch.no_grad()
    def start_at(self, output: Tensor) -> None:
        """Start near the constant `output` (feature,), such as the link of the mean counts."""
        if self.n_lags > 1:
            output = output.unflatten(0, (self.n_groups, self.n_lags, -1)).mean(1).flatten()
        self.output.bias.copy_(output)
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


def repeat_lags(output: Tensor, n_features: int, n_groups: int = 1) -> Tensor:
    """Output (..., feature), ordered (lag, unit), of a decoder with one value for several lags.

    These are all lags of the window, or those of one of `n_groups` consecutive parts.
    """
    n_lags = n_features // output.shape[-1]
    if n_lags == 1:
        return output
    parts = output.unflatten(-1, (n_groups, 1, -1))
    repeated: Tensor = parts.expand(*parts.shape[:-2], n_lags, -1).flatten(-3)
    return repeated
