"""Where every subject's networks begin, and how far codes predict others at an aligned start."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from torch import Tensor

from neuroshare.models.alignment import Array
from neuroshare.models.evidence import N_SPLITS, losses_of_trials, sharpness_of
from neuroshare.models.inputs import Inputs, Statistics, all_sums, as_tensor, grouped_sums
from neuroshare.models.linear import LinearAlignment, Method
from neuroshare.models.linear_start import (
    COMPONENTS,
    MOST_FEATURES,
    RIDGE,
    LinearStart,
    Weighting,
    linear_starts,
)
from neuroshare.models.moments import TOLERANCE
from neuroshare.models.readout import curvature_of, trusted
from neuroshare.vae.likelihoods import Likelihood
from neuroshare.windows.paired import PairedWindows

Measured = Literal["gains", "sharpness"]


@dataclass(frozen=True)
class SubjectStart:
    """Where the networks of one subject begin, in their precision."""

    rate: Tensor
    """Mean activity, (lag x unit,)."""
    loc: Tensor
    """Mean of what the encoder sees, (feature,)."""
    scale: Tensor
    """Its deviation, (feature,)."""
    lags: tuple[Tensor, Tensor] | None = None
    """Likewise of every lag, for an encoder of one's own beside pooled inputs."""
    weights: Tensor | None = None
    """Linear map of what the encoder sees, (feature, latent); None for a random start."""
    bias: Tensor | None = None
    readout: Tensor | None = None
    """Linear map from latents to changes of the log rate, (latent, unit)."""

    @classmethod
    def of_map(
        cls, seen: Statistics, weights: Array, bias: Array, *, standardised: bool
    ) -> SubjectStart:
        """Begin at a linear map of (root) activity, weights (feature, latent) and bias."""
        if standardised:
            bias = bias + seen.loc.double().numpy() @ weights
            weights = weights * seen.scale.double().numpy()[:, None]
        return cls(
            seen.rate, seen.loc, seen.scale, weights=as_tensor(weights), bias=as_tensor(bias)
        )

    @classmethod
    def of_start(cls, rate: Tensor, start: LinearStart) -> SubjectStart:
        """Begin at an aligned map and its read-out."""
        return cls(
            rate,
            as_tensor(start.loc),
            as_tensor(start.scale),
            weights=as_tensor(start.weights),
            bias=as_tensor(np.zeros(start.weights.shape[1])),
            readout=as_tensor(start.readout),
        )


@dataclass(frozen=True)
class Starts:
    """Where the networks of all subjects begin."""

    subjects: dict[str, SubjectStart]
    gains: tuple[Tensor, Tensor, Tensor] | None = None
    """Of `code_gains`, where they were asked for and trials suffice."""
    sharpness: dict[str, float] | None = None
    """Of `code_sharpness`, likewise."""


def starts_of(
    train: PairedWindows,
    latent_dim: int,
    inputs: Inputs,
    likelihoods: Mapping[str, Likelihood],
    *,
    method: Method | None = "mcca",
    weighting: Weighting | None = None,
    alone: bool = False,
    measured: Measured | None = None,
    of_lags: Collection[str] = (),
    seed: int = 0,
) -> Starts:
    """Look where the networks are to begin: a function of windows and settings alone.

    Parameters
    ----------
    train
        Training windows.
    latent_dim
        Number of shared latents.
    inputs
        What encoders see.
    likelihoods
        Of each subject.
    method
        Of the alignment; None leaves the networks at random weights.
    weighting
        Of the features in the alignment; by default the first of `WEIGHTINGS`.
    alone
        Start every subject at a map of its own, which knows nothing of the others.
    measured
        What to measure on inner splits, for which a map of the whole start is needed: how far codes
        predict the activity of others by `code_gains`, or tell bins by `code_sharpness`.
    of_lags
        Subjects whose encoders see every lag beside pooled inputs.
    seed
        Of redrawn pairings and of the splits.
    """
    roots = {name: inputs.takes_root(likelihoods[name]) for name in train.subjects}
    n_groups = inputs.n_groups(train.width)
    found: dict[str, SubjectStart] = {}
    gains = sharpness = None
    maps: dict[str, LinearStart] = {}
    aligned = None
    most = n_groups * max(len(ids) for ids in train.units.values())
    if method is not None and inputs.kind != "raw" and (inputs.pooled or most <= MOST_FEATURES):
        start = partial(
            linear_starts,
            latent_dim=latent_dim,
            root=roots,
            likelihoods=likelihoods,
            method=method,
            n_groups=n_groups,
            weighting=weighting,
            alone=alone,
            seed=seed,
        )
        maps = start(train)
        if measured == "sharpness":
            sharpness = code_sharpness(train, roots, partial(start, reads=False), n_groups, seed)
        looked = None
        if measured == "gains":
            looked = code_gains(train, latent_dim, roots, start, likelihoods, n_groups, seed)
        if looked is not None:
            moments, trust = looked
            target, single, crossed = map(as_tensor, moments)
            gains = (target, single, crossed)
            for name, of_units in trust.items():
                maps[name] = replace(maps[name], readout=maps[name].readout * of_units)
    elif method is not None and not alone:
        aligned = LinearAlignment(method, latent_dim, COMPONENTS, RIDGE, root=roots, seed=seed)
        aligned.fit(train)
    for name, root in roots.items():
        seen = inputs.statistics(train, name, root=root)
        if name in maps:
            begin = SubjectStart.of_start(seen.rate, maps[name])
        elif aligned is not None:
            mean, scale, weights = aligned.encoder(name)
            weights = weights / scale[:, None]
            begin = SubjectStart.of_map(
                seen,
                _lag_major(weights, train.width),
                -mean @ weights,
                standardised=inputs.kind != "raw",
            )
        else:
            begin = SubjectStart(seen.rate, seen.loc, seen.scale)
        found[name] = begin
        if inputs.pooled and name in of_lags:
            found[name] = replace(begin, lags=lags_of(train, name, inputs, root=root))
    return Starts(found, gains, sharpness)


def lags_of(
    train: PairedWindows, name: str, inputs: Inputs, *, root: bool
) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every lag of the (root) activity, (lag x unit,)."""
    seen = inputs.statistics(train, name, root=root, pooled=False)
    return seen.loc, seen.scale


def _lag_major(weights: Array, width: int) -> Array:
    """(unit x lag, latent) -> (lag x unit, latent)."""
    n_latents = weights.shape[1]
    return np.ascontiguousarray(
        weights.reshape(-1, width, n_latents).transpose(1, 0, 2).reshape(-1, n_latents)
    )


def code_sharpness(
    train: PairedWindows,
    root: Mapping[str, bool],
    start: Callable[[PairedWindows], dict[str, LinearStart]],
    n_groups: int,
    seed: int,
) -> dict[str, float]:
    """How far codes of each subject tell its conditions and times, in held-out trials.

    Maps are learned on three quarters of the trials, see `losses_of_trials`.
    """
    losses: Array | float = 0.0
    for split in range(N_SPLITS):
        parts = train.split(1 / N_SPLITS, seed=seed + split)
        maps = start(parts[0])
        fitted, held_out = (
            {
                name: (
                    np.concatenate(
                        [
                            maps[name].codes(np.sqrt(sums) if root[name] else sums)
                            for _, sums in grouped_sums(part.thinned(), name, n_groups)
                        ]
                    ),
                    part.codes(name),
                )
                for name in train.subjects
            }
            for part in parts
        )
        losses = losses + losses_of_trials(fitted, held_out, len(train.conditions))
    return sharpness_of(np.asarray(losses), train.subjects)


def code_gains(
    train: PairedWindows,
    latent_dim: int,
    root: Mapping[str, bool],
    start: Callable[[PairedWindows], dict[str, LinearStart]] | None = None,
    likelihoods: Mapping[str, Likelihood] | None = None,
    n_groups: int = 1,
    seed: int = 0,
    n_splits: int = N_SPLITS,
) -> tuple[tuple[Array, Array, Array], dict[str, Array]] | None:
    """How far codes of one subject predict the activity of another, between trials.

    Maps and read-outs are learned on three quarters of the trials and looked at on the rest, since
    aligned codes agree better on the trials that aligned them. To second order in the log rate, the
    Poisson likelihood of a target's counts under the slopes of a source's code times g is
    ``g @ target - g @ single @ g / 2``; for the mean of n sources' codes ``single`` becomes
    ``(single + (n - 1) crossed) / n``; likewise for other `likelihoods`, in their outputs. `start`
    learns maps from training windows.

    Returns
    -------
    target (latent,), single and crossed (latent, latent)
        Sums over pairs of subjects.
    trust
        By subject, what to multiply the read-out of each unit by, (unit,); see `trusted`.

    None with fewer than two trials of any condition, or one subject.
    """
    shown = [np.unique(train.codes(name), return_counts=True)[1] for name in train.subjects]
    if len(shown) < 2 or min(map(min, shown)) < 2:
        return None
    start = start or partial(linear_starts, latent_dim=latent_dim, root=root)
    target = np.zeros(latent_dim)
    single, crossed = np.zeros((2, latent_dim, latent_dim))
    n_others = len(train.subjects) - 1
    folds = []
    for split in range(n_splits):
        fitted, out = train.split(1 / n_splits, seed=seed + split)
        starts = start(fitted)
        out = out.thinned()
        codes, spread, counts, rate = {}, {}, {}, {}
        of_trials = {}
        for name in out.subjects:
            member = out.codes(name)[:, None] == np.arange(len(train.conditions))
            found = member.sum(0)
            mean = member / np.maximum(found, 1)
            centre = mean.sum(1) / (found > 0).sum()  # every condition weighs the same
            pieces, cells = [], 0.0
            for trials, sums in grouped_sums(out, name, n_groups):
                pieces.append(starts[name].codes(np.sqrt(sums) if root[name] else sums))
                cells = cells + np.einsum("ic,isu->csu", mean[trials], sums)
            z = np.concatenate(pieces)
            z = z - np.einsum("i,isk->k", centre, z) / z.shape[1]
            of_trials[name] = z
            codes[name] = np.einsum("ic,isk->csk", mean, z)
            spread[name] = np.einsum("i,isk,isl->kl", centre, z, z) / z.shape[1]
            rate[name] = np.sum(cells, axis=(0, 1)) / (found > 0).sum() / z.shape[1]
            counts[name] = cells - (found > 0)[:, None, None] * rate[name]
        n_cells = codes[name].shape[0] * codes[name].shape[1]
        products = {n: np.einsum("csk,csl->kl", z, z) for n, z in codes.items()}
        all_codes, all_products, all_spread = (
            np.sum(list(part.values()), axis=0) for part in (codes, products, spread)
        )
        for name, found_start in starts.items():
            slope = found_start.slope
            likelihood = None if likelihoods is None else likelihoods[name]
            curvature = curvature_of(likelihood, rate[name], train.width // n_groups)
            weighted = (slope * curvature) @ slope.T
            driven = np.einsum("ku,csu->csk", slope, counts[name])
            others = all_codes - codes[name]
            each = all_products - products[name]
            target += np.einsum("csk,csk->k", others, driven) / n_cells
            single += weighted * (all_spread - spread[name])
            together = np.einsum("csk,csl->kl", others, others) - each
            crossed += weighted * together / n_cells / max(n_others - 1, 1)
        folds.append((out, of_trials, starts, rate))
    if n_others == 1:
        crossed = single
    # Latents that drive nothing keep a gain of one.
    floor = 1e-3 * np.trace(single) / latent_dim + TOLERANCE
    target += floor
    single = single + floor * np.eye(latent_dim)
    crossed = crossed + floor * np.eye(latent_dim)
    # That of the mean of all others, as `MMVM.gain` has it.
    gain = np.linalg.solve((single + (n_others - 1) * crossed) / n_others, target).clip(0)
    trust = {}
    for name in train.subjects:
        if likelihoods is not None and not likelihoods[name].counts:
            continue
        trust[name] = trusted(
            (
                _mean_of_others(out, name, z) * gain @ starts[name].readout,
                rate[name],
                _partner_sums(out, name, n_groups),
            )
            for out, z, starts, rate in folds
        )
    return (target, single, crossed), trust


def _mean_of_others(paired: PairedWindows, name: str, codes: Mapping[str, Array]) -> Array:
    """Mean code of the other partners of a subject's trials, (row, start, latent)."""
    column = {n: k for k, n in enumerate(paired.subjects)}
    rows = paired.partners[paired.partners[:, column[name]] >= 0]
    n_latents = codes[name].shape[2]
    total, found = np.zeros((len(rows), len(paired.first_bins), n_latents)), np.zeros(len(rows))
    for other, z in codes.items():
        if other != name:
            there = rows[:, column[other]] >= 0
            total += np.where(there[:, None, None], z[rows[:, column[other]]], 0.0)
            found += there
    return np.asarray(total / np.maximum(found, 1)[:, None, None])


def _partner_sums(paired: PairedWindows, name: str, n_groups: int) -> Array:
    """Sums of a subject's trials in the order of rows, (row, start, part x unit)."""
    column = paired.subjects.index(name)
    rows = paired.partners[:, column]
    return np.asarray(all_sums(paired, name, n_groups)[rows[rows >= 0]])
