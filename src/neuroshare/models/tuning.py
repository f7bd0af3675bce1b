"""What is expected at each bin of behavior, and how far codes tell these bins apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

from neuroshare.models.alignment import Array
from neuroshare.models.held_out import most_widths, why_not
from neuroshare.models.inputs import Inputs, all_sums
from neuroshare.models.linear_start import MOST_FEATURES, linear_starts
from neuroshare.vae.likelihoods import Likelihood
from neuroshare.windows.paired import PairedWindows

Codes = Mapping[str, tuple[Array, NDArray[np.int64]]]
"""By subject: codes (window, latent) and bins (window,)."""

N_SPLITS = 4
"""Of the training windows, on which trust and shrinkage are measured."""
SHARPNESS = (0.0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""What the evidence of a code may be multiplied by. 0 trusts no code of the subject."""
SHRINKAGE = (0.5, 2.0, 8.0, 32.0, 128.0, 1e6)
"""Windows at the mean that may be added to each bin of a unit; the last leaves the mean alone."""
_RIDGE = 0.01
"""Added to the covariance within bins, of its mean variance."""
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
    """Activity by bin of behavior, and a linear discriminant of the bins in the shared latents.

    What is imputed is the activity of a target in each bin, weighed by how likely the bins are by
    the codes of the sources: the sum over bins of p(bin | codes) times tuning. The discriminant is
    one for all subjects, so that only codes that mean the same in all of them tell anything. The
    evidence of a subject's codes is multiplied by its `sharpness`, which is 0 for one that tells
    nothing of its behavior; rates then are the mean.

    Parameters
    ----------
    rates
        Expected activity of every subject, (bin, unit), per lag.
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
    def of(cls, codes: Codes, train: PairedWindows, measured: Mapping[str, Measured]) -> Tuning:
        """Learn it from the codes of training windows.

        Parameters
        ----------
        codes
            Of all subjects, in the order of their windows.
        train
            The windows.
        measured
            By `measure`. Codes that do not agree in training are trusted no more than that.
        """
        near, same = train.nearness, np.eye(len(train.conditions))
        slopes, offsets, prior = _discriminant(codes, near)
        sharpness, rates = [], []
        for name, (z, y) in codes.items():
            agree = sharpest([(z @ slopes + offsets, same[y])], prior)
            sharpness.append(min(measured[name].sharpness, agree))
            found = Summed.of(sums_of(train, name), near[y], not train.why_not_counts(name))
            rates.append(found.rates(measured[name].shrinkage) / train.width)
        parts = map(_tensor, (slopes, offsets, prior, np.array(sharpness)))
        return cls(tuple(map(_tensor, rates)), *parts)

    def bins(self, codes: Mapping[int, Tensor]) -> Tensor:
        """How likely each bin is by codes (..., latent) of several modalities, (..., bin).

        Codes that are not finite, of absent subjects, say nothing.
        """
        log_p = self.prior
        for modality, z in codes.items():
            evidence = self.sharpness[modality] * (z @ self.slopes + self.offsets)
            log_p = log_p + torch.where(evidence.isfinite(), evidence, 0.0)
        return torch.softmax(log_p, dim=-1)

    def decoder(self, modality: int, likelihood: Likelihood) -> TunedDecoder:
        """From shared latents to the output that a likelihood reads."""
        return TunedDecoder(self, modality, likelihood)

    def with_subject(self, rates: Array, sharpness: float) -> Tuning:
        """Give one that knows a subject more, of rates (bin, unit); the others stay as they are."""
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
        if not fine or found != [*expected, *((n_bins, n) for n in units)] or (parts[3] < 0).any():
            raise ValueError("the tuning is not one of these latents and units")
        return cls(rates, *parts)


class TunedDecoder(nn.Module):
    """A decoder of shared latents whose output is one value per unit, for all lags."""

    n_groups = 1

    def __init__(self, tuning: Tuning, modality: int, likelihood: Likelihood) -> None:
        super().__init__()
        self.tuning = tuning
        self.modality = modality
        self.likelihood = likelihood
        trusted = tuning.sharpness[tuning.sharpness > 0]
        # A point of latent space is nobody's: it is trusted as codes usually are.
        self.sharpness = float(trusted.median()) if len(trusted) else 0.0

    def forward(self, z: Tensor) -> Tensor:
        """Output (..., unit) at latents (..., latent), of which the shared ones come first."""
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
    near, same = train.nearness, np.eye(len(train.conditions))
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
        slopes, offsets, prior = _discriminant(known, near)
        folds.append((*parts, {n: z @ slopes + offsets for n, (z, _) in held.items()}, prior))
    sharpness = {
        n: sharpest([(found[n], same[out.codes(n)]) for _, out, found, _ in folds], folds[0][3])
        for n in names
    }
    measured = {}
    for name in names:
        others = [n for n in names if n != name] or [name]
        counts = likelihoods[name].counts
        looks = []
        for fitted, out, evidence, prior in folds:
            tuned = Summed.of(sums_of(fitted, name), near[fitted.codes(name)], counts)
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


def _discriminant(codes: Codes, near: Array) -> tuple[Array, Array, Array]:
    """Slopes (latent, bin), offsets (bin,) and log shares (bin,), of the codes of all subjects."""
    z = np.concatenate([z for z, _ in codes.values()])
    y = np.concatenate([y for _, y in codes.values()])
    summed = Summed.of(z, near[y])
    centres = summed.rates(0.5)
    apart = z - centres[y]
    within = apart.T @ apart / len(z)
    level = _RIDGE * np.trace(within) / len(within) + 1e-10
    slopes = np.linalg.solve(within + level * np.eye(len(within)), centres.T)
    share = summed.found[:, 0] + 1e-3
    return slopes, -0.5 * (centres * slopes.T).sum(axis=1), np.log(share / share.sum())


@dataclass(frozen=True)
class Summed:
    """Values of windows, summed over the bins where they are."""

    total: Array  # (bin, k)
    found: Array  # (bin, 1) windows
    mean: Array  # (k,)

    @classmethod
    def of(cls, values: Array, place: Array, counts: bool = False) -> Summed:
        """Sum values (window, k) by how far windows are in each bin, (window, bin).

        The mean of counts has half a count more, so that no unit is impossible.
        """
        mean = (values.sum(axis=0) + 0.5 * counts) / len(values)
        return cls(place.T @ values, place.sum(axis=0)[:, None], mean)

    def rates(self, shrinkage: Array | float) -> Array:
        """Means by bin, (bin, k), with so many windows at the mean added."""
        return np.asarray((self.total + shrinkage * self.mean) / (self.found + shrinkage))


def sharpest(evidence: Sequence[tuple[Array, Array]], prior: Array) -> float:
    """Sharpness of least log loss, of evidence and of how far windows are in bins (window, bin)."""
    loss = np.zeros(len(SHARPNESS))
    for found, place in evidence:
        for i, sharpness in enumerate(SHARPNESS):
            loss[i] -= (place * log_softmax(prior + sharpness * found, axis=1)).sum()
    return float(SHARPNESS[int(loss.argmin())])


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
