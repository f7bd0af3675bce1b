"""What is expected at each bin of behavior, or condition and time, and how far codes tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neuroshare.models.alignment import Array
from neuroshare.models.evidence import (
    N_SPLITS,
    Codes,
    discriminant,
    sharpest,
    summed_by,
    times_of,
)
from neuroshare.models.held_out import most_widths, why_not
from neuroshare.models.inputs import Inputs, all_sums, grouped_sums
from neuroshare.models.linear_start import MOST_FEATURES, linear_starts
from neuroshare.vae.likelihoods import Likelihood
from neuroshare.windows.paired import PairedWindows

USUAL_SHARPNESS = 0.25
"""Where there are too few windows to measure it."""
_LEAST_RATE = 1e-3
"""Of a part of the window, of its mean."""
_PREFIX = "tuning."
_PARTS = ("slopes", "offsets", "prior", "sharpness")


@dataclass(frozen=True, eq=False)
class Tuning:
    """Activity by bin, and a linear discriminant of the bins in the shared latents.

    A bin is one of behavior, where windows are paired by it, or a condition at a time within its
    trials. What is imputed is the activity of a target in each bin, weighed by how likely the bins
    are by the codes of the sources: the sum over bins of p(bin | codes) times tuning. The
    discriminant is one for all subjects, so that only codes that mean the same in all of them tell
    anything. The evidence of a subject's codes is multiplied by its `sharpness`, which is 0 for one
    that tells nothing of its bins; rates then are the mean.

    Parameters
    ----------
    rates
        Expected activity of every subject, (bin, part x unit), per lag of one or more parts of the
        window.
    slopes, offsets
        Of the discriminant, (latent, bin) and (bin,).
    prior
        Log share of the windows, (bin,).
    sharpness
        By subject, (subject,).
    """

    rates: tuple[Tensor, ...]
    slopes: Tensor
    offsets: Tensor
    prior: Tensor
    sharpness: Tensor

    @classmethod
    def of(
        cls, codes: Codes, train: PairedWindows, sharpness: Mapping[str, float], n_parts: int = 1
    ) -> Tuning:
        """Learn it of training windows that do not overlap.

        Parameters
        ----------
        codes
            Of all subjects, and their bins.
        train
            The windows.
        sharpness
            As held-out windows have it. Codes that do not agree in training are trusted no more
            than that.
        n_parts
            Of the window, with rates of their own.
        """
        n_times = int(times_of(len(train.first_bins))[-1]) + 1
        near: Array = np.kron(train.nearness, np.eye(n_times)).astype(float)
        slopes, offsets, prior = discriminant(codes, near)
        rates, trusted = [], []
        for name, (z, bins) in codes.items():
            agree = sharpest([(z @ slopes + offsets, bins)], prior)
            trusted.append(min(sharpness[name], agree))
            rates.append(_tensor(rates_of(train, name, bins, near, n_parts)))
        return cls(tuple(rates), *map(_tensor, (slopes, offsets, prior, np.array(trusted))))

    def bins(self, codes: Mapping[int, Tensor]) -> Tensor:
        """How likely each bin is by codes (..., latent) of several modalities, (..., bin).

        Codes that are not finite, of absent subjects, say nothing.
        """
        log_p = self.prior
        for modality, z in codes.items():
            evidence = self.sharpness[modality] * (z @ self.slopes + self.offsets)
            log_p = log_p + torch.where(evidence.isfinite(), evidence, 0.0)
        return torch.softmax(log_p, dim=-1)

    def decoder(self, modality: int, likelihood: Likelihood, n_units: int) -> TunedDecoder:
        """From shared latents to the output that a likelihood reads."""
        n_parts = self.rates[modality].shape[1] // n_units
        return TunedDecoder(self, modality, likelihood, n_parts)

    def with_subject(self, rates: Array, sharpness: float) -> Tuning:
        """Give one that knows a subject more, of rates (bin, part x unit); the others stay."""
        more = torch.tensor([sharpness], dtype=self.sharpness.dtype)
        return replace(
            self,
            rates=(*self.rates, _tensor(rates)),
            sharpness=torch.cat([self.sharpness, more]),
        )

    def tensors(self) -> dict[str, Tensor]:
        """By name, beside the weights of the networks."""
        named = {_PREFIX + part: getattr(self, part) for part in _PARTS}
        return named | {f"{_PREFIX}rates.{i}": rate for i, rate in enumerate(self.rates)}

    @classmethod
    def taken_from(
        cls, weights: dict[str, Tensor], n_latents: int, units: Sequence[int]
    ) -> Tuning | None:
        """Undo `tensors`, and leave the weights of the networks; None where there is none.

        Raises
        ------
        ValueError
            If it is not one of so many latents, and units of each subject.
        """
        if not any(name.startswith(_PREFIX) for name in weights):
            return None
        parts = [weights.pop(_PREFIX + part) for part in _PARTS]
        rates = tuple(weights.pop(f"{_PREFIX}rates.{i}") for i in range(len(units)))
        n_bins = parts[1].numel()
        expected = [(n_latents, n_bins), (n_bins,), (n_bins,), (len(units),)]
        found = [tuple(part.shape) for part in (*parts, *rates)]
        fine = all(
            part.dtype == torch.float32 and part.isfinite().all() for part in (*parts, *rates)
        )
        n_parts = max(rates[0].shape[-1] // units[0], 1)
        expected += [(n_bins, n_parts * n) for n in units]
        if not fine or found != expected or (parts[3] < 0).any():
            raise ValueError("the tuning is not one of these latents and units")
        return cls(rates, *parts)


class TunedDecoder(nn.Module):
    """A decoder of shared latents whose output is one value per unit and part of the window."""

    def __init__(
        self, tuning: Tuning, modality: int, likelihood: Likelihood, n_groups: int
    ) -> None:
        super().__init__()
        self.n_groups = n_groups
        self.tuning = tuning
        self.modality = modality
        self.likelihood = likelihood
        trusted = tuning.sharpness[tuning.sharpness > 0]
        # A point of latent space is nobody's: it is trusted as codes usually are.
        self.sharpness = float(trusted.median()) if len(trusted) else 0.0

    def forward(self, z: Tensor) -> Tensor:
        """Output (..., part x unit) at latents (..., latent), of which the shared come first."""
        known = self.tuning
        slopes, offsets, prior, rates = (
            part.to(z.device)
            for part in (known.slopes, known.offsets, known.prior, known.rates[self.modality])
        )
        evidence = self.sharpness * (z[..., : len(slopes)] @ slopes + offsets)
        return self.likelihood.link(torch.softmax(prior + evidence, dim=-1) @ rates)


def sharpness_of_behavior(
    train: PairedWindows,
    latent_dim: int,
    inputs: Inputs,
    likelihoods: Mapping[str, Likelihood],
    seed: int,
) -> dict[str, float]:
    """How far codes of each subject tell bins of behavior, in held-out windows.

    Aligned linear maps are learned on three quarters of the training windows. On the rest the log
    loss of a subject's own bin says how sharp its codes are. So a subject whose activity has
    nothing to do with its behavior is not trusted.
    """
    names = train.subjects
    if why_not(train):
        return dict.fromkeys(names, USUAL_SHARPNESS)
    roots = {n: inputs.takes_root(likelihoods[n]) for n in names}
    n_groups = inputs.n_parts(train.width)
    if n_groups * max(len(ids) for ids in train.units.values()) > MOST_FEATURES:
        n_groups = 1
    folds = []
    for split in range(N_SPLITS):
        parts = train.split(1 / N_SPLITS, seed=seed + split)
        starts = linear_starts(
            parts[0],
            min(latent_dim, most_widths(parts[0])),
            roots,
            n_groups=n_groups,
            alone=len(names) == 1,
            reads=False,
            seed=seed,
        )
        known, held = (
            {n: (starts[n].codes(sums_of(p, n, n_groups, roots[n])), p.codes(n)) for n in names}
            for p in parts
        )
        slopes, offsets, prior = discriminant(known, train.nearness)
        folds.append(({n: (z @ slopes + offsets, y) for n, (z, y) in held.items()}, prior))
    return {n: sharpest([found[n] for found, _ in folds], folds[0][1]) for n in names}


def rates_of(
    train: PairedWindows, name: str, bins: NDArray[np.int64], near: Array, n_parts: int = 1
) -> Array:
    """Activity per lag of one subject by bin, (bin, part x unit), see `drawn_rates`.

    Parameters
    ----------
    train
        Windows that do not overlap.
    name
        The subject.
    bins
        Of its windows, (window,).
    near
        How near bins are, (bin, bin).
    n_parts
        Of the window, with activity of their own.
    """
    n_starts, n_bins = len(train.first_bins), len(near)
    sums: Array | float = 0.0
    squares: Array | float = 0.0
    for trials, values in grouped_sums(train, name, n_parts):
        here = bins[trials.start * n_starts : trials.stop * n_starts]
        shares = _shares(values.reshape(len(here), -1), n_parts)
        sums = sums + summed_by(shares, here, n_bins)
        squares = squares + np.square(shares).sum(axis=0)
    n = np.bincount(bins, minlength=n_bins)[:, None]
    within = squares - np.square(sums / np.sqrt(np.maximum(n, 1))).sum(axis=0)
    return drawn_rates(
        near.T @ sums,
        near.T @ n,
        np.square(near).T @ n,
        within / max(len(bins) - (n > 0).sum(), 1),
        np.sum(sums, axis=0) / len(bins),
        n_parts,
        train.width,
        0.5 / len(bins) if not train.why_not_counts(name) else 0.0,
    )


def rates_at(values: Array, place: Array, n_parts: int, n_lags: int, counts: bool) -> Array:
    """Activity per lag by bin, (bin, part x unit), of windows of which only a guess is known.

    Parameters
    ----------
    values
        Sums over parts of windows, (window, part x unit).
    place
        How likely windows are in each bin, (window, bin).
    n_parts, n_lags
        Of a window.
    counts
        Whether they are counts.
    """
    shares = _shares(values, n_parts)
    total, found = place.T @ shares, place.sum(axis=0)[:, None]
    means = total / np.maximum(found, 1e-9)
    within = (np.square(shares).sum(axis=0) - (found * means**2).sum(axis=0)) / len(shares)
    spread = np.square(place).sum(axis=0)[:, None]
    more = 0.5 / len(shares) if counts else 0.0
    return drawn_rates(total, found, spread, within, shares.mean(axis=0), n_parts, n_lags, more)


def drawn_rates(
    total: Array,
    found: Array,
    spread: Array,
    within: Array,
    mean: Array,
    n_parts: int,
    n_lags: int,
    more: float,
) -> Array:
    """Means of bins, drawn to the mean of all as far as noise has made bins differ.

    To each bin as many windows at the mean are added as the variance within bins is times that
    between them, the noise of their means taken off (empirical Bayes, Efron & Morris 1973). So a
    unit that has nothing to do with the bins is at its mean. What a part of the window has more or
    less than its share is drawn likewise, all parts of a unit alike.

    Parameters
    ----------
    total
        Sums by bin of what `_shares` gives, (bin, k).
    found, spread
        How many windows are in each bin, and sums of the squares of their shares in it, (bin, 1).
    within, mean
        Variance within bins and mean over windows, (k,).
    n_parts, n_lags
        Of a window.
    more
        Added to the mean of counts, so that no unit is impossible; 0 of other activity.

    Returns
    -------
    (bin, part x unit), per lag
    """
    n_units = len(mean) // (n_parts + (n_parts > 1))
    whole, apart = slice(n_units), slice(n_units, None)
    mean, within = mean.copy(), np.maximum(within, 1e-12)
    if more:
        mean[whole] += more
        within[whole] = np.maximum(within[whole], 0.1 * mean[whole])
    means = total / np.maximum(found, 1e-9)
    share = found / found.sum()
    noise = (share * spread / np.maximum(found, 1e-9) ** 2).sum()
    between = (share * (means - mean) ** 2).sum(axis=0) - noise * within
    if n_parts > 1:
        for variance in (within, between):
            of_units = variance[apart].reshape(n_parts, -1).sum(axis=0)
            variance[apart] = np.tile(of_units, n_parts)
    shrinkage = within / np.maximum(between, 1e-6 * within)
    rates = (total + shrinkage * mean) / (found + shrinkage)
    if n_parts == 1:
        return np.asarray(rates / n_lags)
    of_parts = np.tile(rates[:, whole] / n_parts, n_parts)
    found_rates = of_parts + rates[:, apart]
    if more:
        found_rates = np.maximum(found_rates, _LEAST_RATE * of_parts)
    return np.asarray(found_rates * (n_parts / n_lags))


def _shares(values: Array, n_parts: int) -> Array:
    """Sums of whole windows, and beside them what each part has apart from its share.

    Of values (window, part x unit), (window, unit) if there is one part, else (window, (1 + part) x
    unit).
    """
    if n_parts == 1:
        return values
    parts = values.reshape(len(values), n_parts, -1)
    whole = parts.sum(axis=1)
    apart = parts - whole[:, None] / n_parts
    return np.concatenate([whole, apart.reshape(len(values), -1)], axis=1)


def sums_of(paired: PairedWindows, name: str, n_groups: int = 1, root: bool = False) -> Array:
    """(Root) activity summed over parts of windows, (window, feature)."""
    sums = all_sums(paired, name, n_groups)
    sums = sums.reshape(-1, sums.shape[2])
    return np.asarray(np.sqrt(sums) if root else sums)


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
