"""What is expected at each bin of behavior, or condition and time, and how far codes tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn

from neuroshare.models.alignment import Array
from neuroshare.models.evidence import (
    Codes,
    Summed,
    bins_of,
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

N_SPLITS = 4
"""Of the training windows, on which trust and shrinkage are measured."""
SHRINKAGE = (0.5, 2.0, 8.0, 32.0, 128.0, 1e6)
"""Windows at the mean that may be added to each bin of behavior, for a unit; the last leaves the
mean alone."""
_LEAST_RATE = 1e-3
"""Of a part of the window, of its mean."""
_PREFIX = "tuning."
_PARTS = ("slopes", "offsets", "prior", "sharpness")


class Measured(NamedTuple):
    """What held-out windows of inner splits say of one subject."""

    sharpness: float
    """Of its codes, as a source."""
    shrinkage: Array
    """Of each of its units, as a target, (unit,)."""

    @classmethod
    def usual(cls, n_units: int) -> Measured:
        """Where there are too few windows to measure anything."""
        return cls(0.25, np.full(n_units, 8.0))


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
        cls,
        codes: Codes,
        near: Array,
        rates: Mapping[str, Array],
        sharpness: Mapping[str, float],
    ) -> Tuning:
        """Learn the discriminant from the codes of training windows.

        Parameters
        ----------
        codes
            Of all subjects.
        near
            How near bins are, (bin, bin).
        rates
            Of every subject, as above.
        sharpness
            As held-out windows have it. Codes that do not agree in training are trusted no more
            than that.
        """
        slopes, offsets, prior = discriminant(codes, near)
        agree = {n: sharpest([(z @ slopes + offsets, y)], prior) for n, (z, y) in codes.items()}
        trusted = np.array([min(sharpness[name], agree[name]) for name in codes])
        parts = map(_tensor, (slopes, offsets, prior, trusted))
        return cls(tuple(_tensor(rates[name]) for name in codes), *parts)

    @classmethod
    def of_behavior(
        cls, codes: Codes, train: PairedWindows, measured: Mapping[str, Measured]
    ) -> Tuning:
        """Learn it of windows that are paired by behavior, with what `measure` found."""
        rates = {}
        for name, (_, y) in codes.items():
            counts = not train.why_not_counts(name)
            found = Summed.in_bins(sums_of(train, name), y, train.nearness, counts)
            rates[name] = found.rates(measured[name].shrinkage) / train.width
        sharpness = {name: found.sharpness for name, found in measured.items()}
        return cls.of(codes, train.nearness, rates, sharpness)

    @classmethod
    def of_conditions(
        cls, codes: Codes, train: PairedWindows, sharpness: Mapping[str, float], n_parts: int
    ) -> Tuning:
        """Learn it of windows of trials, `train` being thinned; rates have so many parts."""
        n_bins = len(train.conditions) * (int(times_of(len(train.first_bins))[-1]) + 1)
        rates = {name: rates_of_conditions(train, name, n_bins, n_parts) for name in codes}
        return cls.of(codes, np.eye(n_bins), rates, sharpness)

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


def measure(
    train: PairedWindows,
    latent_dim: int,
    inputs: Inputs,
    likelihoods: Mapping[str, Likelihood],
    seed: int,
) -> dict[str, Measured]:
    """Measure on inner splits how far codes tell bins, and how noisy tuning is.

    Aligned linear maps are learned on three quarters of the training windows. On the rest the log
    loss of a subject's own bin says how sharp its codes are, and the likelihood of its activity by
    the codes of the others how far each of its units is drawn towards its mean. So a subject whose
    activity has nothing to do with its behavior is not trusted as a source, and its rates are its
    means as a target.
    """
    names = train.subjects
    if why_not(train):
        return {n: Measured.usual(len(ids)) for n, ids in train.units.items()}
    roots = {n: inputs.takes_root(likelihoods[n]) for n in names}
    n_groups = inputs.n_groups(train.width) if inputs.pooled else 1
    if n_groups * max(len(ids) for ids in train.units.values()) > MOST_FEATURES:
        n_groups = 1
    near = train.nearness
    folds = []
    for split in range(N_SPLITS):
        parts = train.split(1 / N_SPLITS, seed=seed + split)
        starts = linear_starts(
            parts[0],
            min(latent_dim, most_widths(parts[0])),
            roots,
            likelihoods=likelihoods,
            n_groups=n_groups,
            alone=len(names) == 1,
            seed=seed,
        )
        known, held = (
            {n: (starts[n].codes(sums_of(p, n, n_groups, roots[n])), p.codes(n)) for n in names}
            for p in parts
        )
        slopes, offsets, prior = discriminant(known, near)
        folds.append((*parts, {n: z @ slopes + offsets for n, (z, _) in held.items()}, prior))
    sharpness = {
        n: sharpest([(found[n], out.codes(n)) for _, out, found, _ in folds], folds[0][3])
        for n in names
    }
    measured = {}
    for name in names:
        others = [n for n in names if n != name] or [name]
        counts = likelihoods[name].counts
        looks = []
        for fitted, out, evidence, prior in folds:
            tuned = Summed.in_bins(sums_of(fitted, name), fitted.codes(name), near, counts)
            told = {n: sharpness[n] * evidence[n] for n in others}
            p, windows = _expected_bins(out, name, told, prior)
            looks.append((tuned, p, sums_of(out, name)[windows]))
        measured[name] = Measured(sharpness[name], shrinkage_of(looks, counts))
    return measured


def _expected_bins(
    out: PairedWindows, target: str, evidence: Mapping[str, Array], prior: Array
) -> tuple[Array, NDArray[np.int64]]:
    """How likely bins are by the partners of a target's windows, (row, bin); and the windows."""
    column = {n: k for k, n in enumerate(out.subjects)}
    rows = out.partners[out.partners[:, column[target]] >= 0]
    log_p = np.tile(prior, (len(rows), 1))
    for name, of_windows in evidence.items():
        partner = rows[:, column[name]]
        log_p[partner >= 0] += of_windows[partner[partner >= 0]]
    return np.asarray(softmax(log_p, axis=1)), rows[:, column[target]]


def rates_of_conditions(train: PairedWindows, name: str, n_bins: int, n_parts: int = 1) -> Array:
    """Activity per lag of one subject by condition and time, (bin, part x unit).

    Means of bins are drawn to the mean of all by what `_drawn` says of each unit; and what a part
    of the window has more or less than its share likewise.
    """
    bins = bins_of(train.codes(name), len(train.first_bins))
    n_units, counts = len(train.units[name]), not train.why_not_counts(name)
    whole, parts = np.zeros((n_bins, n_units)), np.zeros((n_bins, n_parts * n_units))
    squares, of_parts = np.zeros(n_units), np.zeros(n_parts * n_units)
    for trials, sums in grouped_sums(train, name, n_parts):
        here = bins[trials].ravel()
        sums = sums.reshape(len(here), n_parts, n_units)
        summed = sums.sum(axis=1)
        apart = (sums - summed[:, None] / n_parts).reshape(len(here), -1)
        whole += summed_by(summed, here, n_bins)
        parts += summed_by(apart, here, n_bins)
        squares += np.square(summed).sum(axis=0)
        of_parts += np.square(apart).sum(axis=0)
    n = np.bincount(bins.ravel(), minlength=n_bins)[:, None]
    more = 0.5 * counts  # a count, so that no unit is impossible
    least = 0.1 * (whole.sum(axis=0) + more) / n.sum() if counts else 0.0
    rates = _drawn(whole, squares, n, least, more=more)
    if n_parts > 1:
        mean = np.tile(rates / n_parts, n_parts)
        rates = mean + _drawn(parts, of_parts, n, 0.0, n_groups=n_parts)
        if counts:
            rates = np.maximum(rates, _LEAST_RATE * mean)
    return np.asarray(rates * (n_parts / train.width))


def _drawn(
    total: Array,
    squares: Array,
    n: NDArray[np.int64],
    least: Array | float,
    *,
    more: float = 0.0,
    n_groups: int = 1,
) -> Array:
    """Means of bins (bin, k) drawn to the mean of all, as far as noise has made them differ.

    To each bin as many windows at the mean are added as the variance within bins is times that
    between them, the noise of their means taken off (empirical Bayes, Efron & Morris 1973).

    Parameters
    ----------
    total, n
        Sums (bin, k) and numbers (bin, 1) of windows.
    squares
        Sums of squares over all windows, (k,).
    least
        That the variance within bins is, (k,).
    more
        Added to the sum over all windows.
    n_groups
        Of values with the same units, which are drawn alike.
    """
    n_windows, there = n.sum(), (n > 0).sum()
    mean = (total.sum(axis=0) + more) / n_windows
    means = total / np.maximum(n, 1)
    within = (squares - (n * means**2).sum(axis=0)) / max(n_windows - there, 1)
    within = np.maximum(within, least + 1e-12)
    between = (n * (means - mean) ** 2).sum(axis=0) / n_windows - within * there / n_windows
    within, between = (
        np.tile(part.reshape(n_groups, -1).sum(axis=0), n_groups) for part in (within, between)
    )
    shrinkage = within / np.maximum(between, 1e-6 * within)
    return np.asarray((total + shrinkage * mean) / (n + shrinkage))


def shrinkage_of(looks: Sequence[tuple[Summed, Array, Array]], counts: bool) -> Array:
    """Shrinkage of each unit, (unit,), that fits held-out activity best.

    Parameters
    ----------
    looks
        Of each split: what was learned, how likely bins are in held-out windows (window, bin), and
        the activity of these (window, unit).
    counts
        Whether it is counts, whose likelihood is asked; of others it is the squared error.
    """
    found = [
        np.stack([_fit(seen, p @ tuned.rates(shrinkage), counts) for shrinkage in SHRINKAGE])
        for tuned, p, seen in looks
    ]
    return np.asarray(np.array(SHRINKAGE)[np.sum(found, axis=0).argmax(axis=0)])


def _fit(seen: Array, expected: Array, counts: bool) -> Array:
    """Log-likelihood of activity, or its negative squared error, (unit,)."""
    if not counts:
        return np.asarray(-np.square(seen - expected).sum(axis=0))
    expected = np.maximum(expected, 1e-9)
    return np.asarray((seen * np.log(expected) - expected).sum(axis=0))


def sums_of(paired: PairedWindows, name: str, n_groups: int = 1, root: bool = False) -> Array:
    """(Root) activity summed over parts of windows, (window, feature)."""
    sums = all_sums(paired, name, n_groups)
    sums = sums.reshape(-1, sums.shape[2])
    return np.asarray(np.sqrt(sums) if root else sums)


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
