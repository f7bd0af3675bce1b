"""What encoders see of the windows: pooled, standardised or raw activity, and its statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neuroshare.vae.likelihoods import Likelihood
from neuroshare.vae.networks import Encoder
from neuroshare.windows.paired import PairedWindows

Array = NDArray[np.float64]
Kind = Literal["pooled", "standard", "raw"] | int


@dataclass(frozen=True)
class Statistics:
    """What training windows say of one subject's activity; features are ordered (lag, unit)."""

    rate: Tensor
    """Mean activity, (lag x unit,)."""
    loc: Tensor
    """Mean of what the encoder sees, (lag x unit,) or (unit,)."""
    scale: Tensor
    """Its deviation."""


@dataclass(frozen=True)
class Inputs:
    """What encoders see.

    Parameters
    ----------
    kind
        ``"pooled"``: each unit's activity summed over the window, square roots of counts,
        standardised. A number: summed over each of so many consecutive parts of the window, of
        equally many lags. ``"standard"``: every lag by itself, likewise. ``"raw"``: the activity.
    dropout
        Share of units hidden at every training step.
    """

    kind: Kind
    dropout: float = 0.0

    @property
    def pooled(self) -> bool:
        """Whether activity is summed over lags."""
        return self.kind not in ("standard", "raw")

    def n_groups(self, n_lags: int) -> int:
        """Parts of a window of `n_lags` lags for which there are features of their own.

        Raises
        ------
        ValueError
            If so many parts cannot have equally many lags.
        """
        if self.kind == "pooled":
            return 1
        if isinstance(self.kind, str):
            return n_lags
        if self.kind < 1 or n_lags % self.kind:
            raise ValueError(
                f"inputs={self.kind} parts need a window whose number of lags they divide; it has "
                f"{n_lags}. Take a divisor of {n_lags}, 'pooled' or 'standard'."
            )
        return self.kind

    def n_parts(self, n_lags: int) -> int:
        """Parts of the window that are summed, each for itself; one where lags are not summed."""
        return self.n_groups(n_lags) if self.pooled else 1

    def takes_root(self, likelihood: Likelihood) -> bool:
        """Whether the encoder sees square roots."""
        return self.kind != "raw" and likelihood.counts

    def encoder(
        self,
        n_units: int,
        n_lags: int,
        n_latents: int,
        hidden: tuple[int, ...],
        likelihood: Likelihood,
        *,
        linear: bool,
        bottleneck: bool,
        body: nn.Module | None,
    ) -> Encoder:
        """Encoder of windows (sample, lag x unit) that sees them so."""
        return Encoder(
            n_units * n_lags,
            n_latents,
            hidden,
            transform="sqrt" if self.takes_root(likelihood) else "none",
            standardise=self.kind != "raw",
            dropout=self.dropout,
            n_units=n_units,
            bottleneck=bottleneck,
            linear=linear,
            pool="lags" if self.pooled else "none",
            n_groups=self.n_parts(n_lags),
            body=body,
        )

    def statistics(
        self, train: PairedWindows, name: str, *, root: bool, pooled: bool | None = None
    ) -> Statistics:
        """Look at one subject's training windows.

        Parameters
        ----------
        train
            The windows.
        name
            The subject.
        root
            Whether the encoder sees square roots.
        pooled
            Whether it sees sums over the window; by default as these inputs are.
        """
        pooled = self.pooled if pooled is None else pooled
        train = train.thinned()
        n_trials = train.n_trials(name)
        n_groups = self.n_parts(train.width)
        shares, found = [], []
        # Some trials at a time, for there may be more than memory holds.
        pieces = grouped_sums(train, name, n_groups) if pooled else train.pieces(name)
        for trials, values in pieces:
            moments = []
            if pooled:
                seen = np.sqrt(values) if root else values
                rate = values.mean((0, 1)) * n_groups / train.width
                moments.append([rate, seen.mean((0, 1)), seen.var((0, 1))])
            else:
                for lag in range(train.width):
                    # (trial, unit, start)
                    at_lag = values[:, :, train.first_bins + lag].astype(np.float64)
                    seen = np.sqrt(at_lag) if root else at_lag
                    moments.append([at_lag.mean((0, 2)), seen.mean((0, 2)), seen.var((0, 2))])
            shares.append((trials.stop - trials.start) / n_trials)
            found.append(np.stack(moments, axis=1))  # (moment, lag or 1, unit)
        rates, locs, variances = np.stack(found, axis=1)
        mean, loc = (np.tensordot(shares, parts, 1) for parts in (rates, locs))
        scale = np.sqrt(np.tensordot(shares, variances + np.square(locs - loc), 1))
        if pooled:
            # Half a spike more, so that no unit is impossible.
            more = 0.5 / (n_trials * train.sizes["bin"]) if root else 0.0
            parts = np.split(mean[0] + more, n_groups)
            mean = np.concatenate([np.tile(part, train.width // n_groups) for part in parts])
        return Statistics(
            as_tensor(mean.reshape(-1)),
            as_tensor(loc.reshape(-1)),
            as_tensor(with_floor(scale.reshape(-1))),
        )


def grouped_sums(
    paired: PairedWindows, name: str, n_groups: int
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Activity summed over parts of windows, (trial, start, part x unit); some trials at a time.

    Parameters
    ----------
    paired
        The windows.
    name
        The subject.
    n_groups
        Number of parts, of equally many lags.
    """
    if n_groups == 1:
        yield from paired.window_sums(name)
        return
    n_lags = paired.width // n_groups
    first, last = paired.first_bins[[0, -1]]
    for trials, values in paired.pieces(name):
        by_time = values.transpose(0, 2, 1)
        sums = np.zeros((len(values), len(paired.first_bins), n_groups, values.shape[1]))
        for lag in range(paired.width):
            sums[:, :, lag // n_lags] += by_time[:, first + lag : last + lag + 1 : paired.step]
        yield trials, sums.reshape(*sums.shape[:2], -1)


def all_sums(paired: PairedWindows, name: str, n_groups: int) -> NDArray[np.float64]:
    """`grouped_sums` of all trials at once."""
    pieces = [sums for _, sums in grouped_sums(paired, name, n_groups)]
    return np.concatenate(pieces) if len(pieces) > 1 else pieces[0]


def with_floor(scale: Array) -> Array:
    """Deviations (feature,) shrunk towards the typical one.

    A unit that fires once would become a huge outlier, and a silent one divide by zero.
    """
    floored: Array = np.sqrt(scale**2 + 0.05 * np.mean(scale**2) + 1e-12)
    return floored


def as_tensor(values: Array) -> Tensor:
    """In the precision of the networks."""
    return torch.from_numpy(values.astype(np.float32))
