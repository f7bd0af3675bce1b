"""What a subject does that the others do not predict."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import logsumexp

from neuroshare.analysis.imputation import Imputer, TargetWindows, unit_coords
from neuroshare.analysis.inference import bootstrap, interval, p_value
from neuroshare.analysis.separation import (
    LEVELS,
    Windows,
    balanced_accuracy,
    classifier,
    log_probabilities,
    tally,
)

Array = NDArray[np.float64]
PARTS = ("shared", "specific", "noise")
_HALVINGS = 10


def residuals(
    model: Imputer,
    test: Any,
    train: Any = None,
    *,
    n_repairs: int = 10,
    n_folds: int = 5,
    n_permutations: int = 0,
    n_bootstraps: int = 0,
    posterior: xr.Dataset | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Part every unit's variance into shared, subject-specific and noise, on held-out trials.

    Parameters
    ----------
    model
        Fitted; its ``impute(test, target, source)`` gives expected counts (window, unit, lag).
    test : PairedWindows
        Held-out windows of two subjects or more, of spike counts.
    train : PairedWindows, optional
        Windows the model was fitted on; with them the condition information left in the residual
        is measured.
    n_repairs
        Redrawn pairings over which the prediction from others is averaged: a partner is any trial
        of the same condition, and which one must not matter.
    n_folds
        Folds of the trials on which predictions are calibrated, and of the count splitting.
    n_permutations
        Permutations of the null of the condition information; 0 leaves it out.
    n_bootstraps
        Bootstrap samples of the intervals of `share`, over trials; 0 leaves them out.
    posterior
        ``loc`` and ``scale`` (subject, window, latent) of Gaussian posteriors of the windows of
        `test`, with coordinate ``time``; with it `divergence` is measured.
    seed
        Seed of redrawn pairings, count splits and folds.

    Returns
    -------
    Dataset
        Counts are those of whole windows. ``unit`` holds all subjects' units as
        ``"subject/unit"``, with coordinates ``unit_subject`` and ``unit_id``.

        - ``residual`` (window, unit): counts minus what the other subjects predict, at the windows
          of `test`; NaN where the subject is absent.
        - ``variance`` (subject, part), ``variance_unit`` (part, unit), ``variance_cell`` (part,
          cell_condition, cell_time, unit): spikes^2. The parts shared, specific and noise sum to
          the variance; the first sums over units, the last holds what the windows of one
          condition and time carry of the variance about the unit's overall mean.
        - ``share`` (subject, part), ``share_unit`` (part, unit): as shares of the variance; NaN for
          silent units. With bootstrap ``share_interval`` (bound, subject, part), 95 %.
        - ``reconstructed_unit`` (unit): the part of the specific variance which the model's own
          reconstruction of the subject accounts for.
        - with `train`: ``information_activity``, ``information_residual`` (level, subject):
          balanced accuracy of the condition from a subject's counts, and from its residual;
          ``chance``; with permutations ``p_information_residual`` and
          ``null_information_residual``.
        - with `posterior`: ``divergence`` (subject, cell_time): nats.

    Raises
    ------
    ValueError
        If there is only one subject, activity that is not counts, or a trial in both parts.

    Notes
    -----
    Shared is g cov(s, y), with y the count and s the prediction from the others averaged over
    partners. The slope g comes from other trials than the covariance it multiplies, so a
    prediction without information has zero share on average. Noise is the mean count, the variance
    of Poisson spikes of a known rate, and specific is the rest: the variance of the rate which
    the others do not predict. So a single share may be below zero; a unit that is more regular
    than Poisson has a negative specific part.

    A reconstruction sees the noise of the counts it reconstructs. For ``reconstructed_unit``
    counts are therefore split at random into folds, each predicted from the others: for Poisson
    spikes these are independent (Neufeld et al. 2024, Biostatistics 25).

    For the condition information the residual is what a subject's counts do outside the directions,
    in the space of its units, along which the others' predictions vary (99 % of their variance over
    training windows, units scaled by their deviation). Predictions themselves are not subtracted
    there: partners are chosen by condition, so a prediction tells the condition without an error,
    and wherever it is a little too large or small the difference would tell it too, even of a
    subject that says nothing. The null permutes the conditions between whole held-out trials.

    Divergence is the closed-form bound -log mean_k exp(-KL(q_b || q_k)) on KL(q_b || mixture of
    the others) of Hershey & Olsen 2007, ICASSP.

    Examples
    --------
    >>> import neuroshare as ns
    >>> sessions = ns.simulate_sessions(["mitt", "stella"], n_trials=8)
    >>> counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    >>> train, test = ns.pair_subjects(counts, by="odor").split(0.25, seed=0)
    >>> parts = residuals(ns.LinearAlignment(latent_dim=3).fit(train), test)
    >>> dict(parts.variance.sizes)
    {'subject': 2, 'part': 3}
    """
    subjects = list(test.subjects)
    if len(subjects) < 2:
        raise ValueError(f"residuals need two subjects or more, got {subjects}.")
    if n_folds < 2:
        raise ValueError(
            f"The 'n_folds' parameter of residuals must be 2 or more. Got {n_folds!r} instead."
        )
    coords = test.coords()
    n_windows = len(coords["time"][1])
    residual, unit_parts, cell_parts, reconstructed, units = [], [], [], [], []
    shares, share_intervals = [], []
    information: dict[str, list[Array]] = {"activity": [], "residual": [], "null": []}
    conditions = np.unique(coords[test.by][1])
    times = np.unique(np.round(coords["time"][1], 9))
    chance = np.nan
    for index, name in enumerate(subjects):
        rng = np.random.default_rng([seed, index])
        alone = test.select([name])
        own = TargetWindows.of(alone, name)
        y = own.sums()
        s = _prediction(model, test, own, name, n_repairs, seed)
        fold = rng.permutation(len(own.trial_ids))[own.trial] % n_folds
        parts = _partition(y, s, fold, n_folds)
        unit_parts.append(parts.mean(axis=1))
        total = np.zeros((len(own.trial_ids), len(PARTS)))
        np.add.at(total, own.trial, parts.sum(axis=2).T)
        shares.append(_shares(total.sum(axis=0)))
        if n_bootstraps:
            drawn = bootstrap(len(total), own.trial_condition, n_bootstraps, seed + index)
            samples = xr.DataArray(_shares(drawn @ total), dims=("sample", "part"))
            share_intervals.append(interval(samples).values)
        cell = np.full((len(PARTS), len(conditions) * len(times), y.shape[1]), np.nan)
        at = np.searchsorted(conditions, own.condition) * len(times)
        at += np.searchsorted(times, own.time)
        for c in np.unique(at):
            cell[:, c] = parts[:, at == c].mean(axis=1)
        cell_parts.append(cell.reshape(len(PARTS), len(conditions), len(times), -1))
        reconstructed.append(_reconstructed(model, alone, s, fold, n_folds, rng))
        units += [(name, unit) for unit in own.units]

        held = TargetWindows.of(test, name)
        left = np.full((n_windows, y.shape[1]), np.nan, dtype=np.float32)
        left[held.present] = held.sums() - s[_rows(held, own)]
        residual.append(left)
        if train is not None:
            found, chance = _information(model, train, test, name, n_permutations, rng)
            for key, values in found.items():
                information[key].append(values)

    trial = coords.pop("trial")
    coords = {k: v for k, v in coords.items() if k != "subject"}
    variance_unit = np.concatenate(unit_parts, axis=1)
    total = variance_unit.sum(axis=0)
    share = np.divide(
        variance_unit, total, out=np.full(variance_unit.shape, np.nan), where=total > 0
    )
    result = xr.Dataset(
        {
            "residual": (("window", "unit"), np.concatenate(residual, axis=1)),
            "variance": (("subject", "part"), [part.sum(axis=1) for part in unit_parts]),
            "variance_unit": (("part", "unit"), variance_unit),
            "share": (("subject", "part"), shares),
            "share_unit": (("part", "unit"), share),
            "variance_cell": (
                ("part", "cell_condition", "cell_time", "unit"),
                np.concatenate(cell_parts, axis=3),
            ),
            "reconstructed_unit": ("unit", np.concatenate(reconstructed)),
        },
        coords={
            "subject": subjects,
            "part": list(PARTS),
            "cell_condition": conditions,
            "cell_time": times,
            "trial": trial,
            **coords,
            **unit_coords(units),
        },
        attrs={"by": test.by, "n_repairs": n_repairs, "n_folds": n_folds},
    )
    if n_bootstraps:
        bounds = np.stack(share_intervals, axis=1)
        result["share_interval"] = (("bound", "subject", "part"), bounds)
        result = result.assign_coords(bound=["low", "high"])
    if train is not None:
        result = result.assign_coords(level=list(LEVELS))
        result["chance"] = chance
        for key in ("activity", "residual"):
            stacked = np.stack(information[key], axis=1)
            result[f"information_{key}"] = (("level", "subject"), stacked)
        if n_permutations:
            null = np.stack(information["null"], axis=2)
            result["null_information_residual"] = (("permutation", "level", "subject"), null)
            p = p_value(result["information_residual"], null)
            result["p_information_residual"] = (("level", "subject"), p)
    if posterior is not None:
        result["divergence"] = divergence(posterior).rename(time="cell_time")
    return result


def divergence(posterior: xr.Dataset) -> xr.DataArray:
    """How far each subject's posterior is from those of the others, (subject, time), nats.

    Parameters
    ----------
    posterior
        ``loc`` and ``scale`` (subject, window, latent) with coordinate ``time`` (window); NaN
        where a subject is absent.
    """
    loc = posterior["loc"].transpose("subject", "window", "latent").values
    scale = posterior["scale"].transpose("subject", "window", "latent").values
    n = len(loc)
    kl = np.full((n, n, loc.shape[1]), -np.inf)
    for b in range(n):
        for k in range(n):
            if k != b:
                ratio = (scale[b] / scale[k]) ** 2
                shift = ((loc[b] - loc[k]) / scale[k]) ** 2
                pair = -0.5 * (ratio + shift - 1 - np.log(ratio)).sum(axis=1)
                kl[b, k] = np.where(np.isnan(pair), -np.inf, pair)
    present = ~np.isnan(loc[:, :, 0])
    n_others = present.sum(axis=0) - present
    scored = present & (n_others > 0)
    far = np.full(present.shape, np.nan)
    far[scored] = np.log(n_others[scored]) - logsumexp(kl.transpose(0, 2, 1)[scored], axis=1)
    times, at = np.unique(np.round(posterior["time"].values, 9), return_inverse=True)
    total, count = np.zeros((n, len(times))), np.zeros((n, len(times)))
    for b in range(n):
        np.add.at(total[b], at[scored[b]], far[b, scored[b]])
        np.add.at(count[b], at[scored[b]], 1)
    return xr.DataArray(
        np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0),
        dims=("subject", "time"),
        coords={"subject": posterior["subject"].values, "time": times},
        name="divergence",
        attrs={"units": "nats"},
    )


def departure(latents: xr.DataArray, by: str | None = None, seed: int = 0) -> xr.Dataset:
    """Who departs from the group, and when: divergence between distributions of latents.

    Parameters
    ----------
    latents
        (subject, window, latent) as ``transform`` returns them, NaN where a subject is absent.
    by
        Coordinate of the condition; None takes ``attrs["by"]``.
    seed
        Of the halves of `within`.

    Returns
    -------
    Dataset
        ``divergence`` (subject, time): of a subject's latents from the mixture of the others',
        mean over conditions, nats. ``within`` (subject, time): the same of a random half of its
        trials from the other half, averaged over halvings: what half the trials give where nobody
        departs.

    Notes
    -----
    The latents of a subject at one condition and time are described by a Gaussian: their mean over
    trials, and the standard deviations of its trials about these means, one for all conditions and
    times since few trials tell them apart. See `residuals` for the divergence.
    """
    column = str(latents.attrs["by"] if by is None else by)
    latents = latents.transpose("subject", "window", "latent")
    z = np.asarray(latents.values, float)
    trial = latents.coords["trial"].transpose("subject", "window").values
    conditions, condition = np.unique(latents.coords[column].values, return_inverse=True)
    times, tick = np.unique(np.round(latents.coords["time"].values, 9), return_inverse=True)
    cell = condition * len(times) + tick
    n, n_cells, n_latents = len(z), len(conditions) * len(times), z.shape[2]
    # Of all trials, and of several pairs of halves.
    loc = np.full((1 + 2 * _HALVINGS, n, n_cells, n_latents), np.nan)
    scale = np.full_like(loc, np.nan)
    for b in range(n):
        present = ~np.isnan(z[b]).any(axis=1)
        if not present.any():
            continue
        _, position = np.unique(trial[b][present], return_inverse=True)
        # Every trial and time once, however many partners it has.
        _, first = np.unique(position * n_cells + cell[present], return_index=True)
        at, values = cell[present][first], z[b][present][first]
        parts = [np.full(len(at), True)]
        rng = np.random.default_rng([seed, b])
        for _ in range(_HALVINGS):
            half = rng.permutation(position.max() + 1)[position[first]] % 2 == 0
            parts += [half, ~half]
        for k, part in enumerate(parts):
            total, count = np.zeros((n_cells, n_latents)), np.bincount(at[part], minlength=n_cells)
            np.add.at(total, at[part], values[part])
            there = count > 0
            loc[k, b, there] = total[there] / count[there, None]
            scale[k, b, there] = (values[part] - loc[k, b, at[part]]).std(axis=0) + 1e-9

    def far(locs: Array, scales: Array, subjects: Any) -> xr.DataArray:
        dims = ("subject", "window", "latent")
        coords = {"subject": subjects, "time": ("window", np.tile(times, len(conditions)))}
        found = xr.Dataset({"loc": (dims, locs), "scale": (dims, scales)}, coords=coords)
        return divergence(found)

    names = latents.coords["subject"].values
    pairs = range(1, len(loc), 2)
    within = []
    for b in range(n):
        halves = [far(loc[k : k + 2, b], scale[k : k + 2, b], [0, 1]) for k in pairs]
        within.append(np.mean([half.values for half in halves], axis=(0, 1)))
    result = xr.Dataset(
        {
            "divergence": far(loc[0], scale[0], names),
            "within": (("subject", "time"), within),
        },
        attrs={"by": column, "units": "nats"},
    )
    return result


def _shares(parts: Array) -> Array:
    """Parts (..., part) as shares of their sum; NaN where there is no variance."""
    total = parts.sum(axis=-1, keepdims=True)
    shares = np.divide(parts, total, out=np.full(parts.shape, np.nan), where=total > 0)
    return np.asarray(shares)


def _rows(windows: TargetWindows, once: TargetWindows) -> NDArray[np.int64]:
    """Row in `once`, which holds every trial and time one time, of each window."""
    times = np.unique(once.time)

    def keys(part: TargetWindows) -> NDArray[np.int64]:
        trial = np.searchsorted(once.trial_ids, part.trial_ids)[part.trial]
        return np.asarray(trial * len(times) + np.searchsorted(times, part.time))

    own = keys(once)
    order = np.argsort(own)
    return np.asarray(order[np.searchsorted(own, keys(windows), sorter=order)])


def _prediction(
    model: Imputer, test: Any, own: TargetWindows, name: str, n_repairs: int, seed: int
) -> Array:
    """Counts (window of `own`, unit) expected from the others, averaged over partners.

    NaN, where no other subject ever takes part.
    """
    total = np.zeros((len(own.time), len(own.units)))
    n = np.zeros((len(own.time), 1))
    pairings = [test]
    if test.order == "random":
        pairings += [test.repair(seed + k) for k in range(1, n_repairs)]
    for paired in pairings:
        held = TargetWindows.of(paired, name)
        expected = model.impute(paired, target=name).values[held.present].sum(axis=2)
        known = ~np.isnan(expected[:, 0])
        row = _rows(held, own)[known]
        np.add.at(total, row, expected[known])
        np.add.at(n, row, 1)
    return np.asarray(np.divide(total, n, out=np.full_like(total, np.nan), where=n > 0))


def _partition(y: Array, s: Array, fold: NDArray[np.int64], n_folds: int) -> Array:
    """Contribution of every window to shared, specific and noise variance, (part, window, unit)."""
    centred, s = y - y.mean(axis=0), _centred(s)
    shared = _slopes(s, centred, fold, n_folds) * s * centred
    return np.stack([shared, centred**2 - shared - y, y])


def _reconstructed(
    model: Imputer,
    alone: Any,
    s: Array,
    fold: NDArray[np.int64],
    n_folds: int,
    rng: np.random.Generator,
) -> Array:
    """Variance (unit) of spikes that the subject's other spikes predict, beyond what `s` does."""
    name = alone.subjects[0]
    s = _centred(s)
    found = np.zeros(s.shape[1])
    for held, rest in _split_counts(alone, name, n_folds, rng):
        target = _centred(held.sums() * n_folds)
        r = _centred(model.impute(rest, target=name, source=name).values.sum(axis=2))
        r -= _slopes(s, r, fold, n_folds) * s
        found += (_slopes(r, target, fold, n_folds) * r * target).mean(axis=0) / n_folds
    return found


def _centred(values: Array) -> Array:
    """Deviations from the mean; none where nothing is predicted."""
    known = ~np.isnan(values)
    mean = np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known, values - mean, 0.0)


def _slopes(x: Array, y: Array, fold: NDArray[np.int64], n_folds: int) -> Array:
    """Slope of y on x for each window and unit, from the trials of the other folds."""
    xy = np.zeros((n_folds, x.shape[1]))
    xx = np.zeros((n_folds, x.shape[1]))
    for k in range(n_folds):
        xy[k] = (x[fold == k] * y[fold == k]).sum(axis=0)
        xx[k] = (x[fold == k] ** 2).sum(axis=0)
    others_xy, others_xx = xy.sum(axis=0) - xy, xx.sum(axis=0) - xx
    slope = np.divide(others_xy, others_xx, out=np.zeros_like(xy), where=others_xx > 1e-12)
    return np.asarray(slope[fold])


def _split_counts(
    alone: Any, name: Hashable, n_folds: int, rng: np.random.Generator
) -> list[tuple[TargetWindows, Any]]:
    """Parts of the spikes, each with the windows of all other spikes."""
    counts = alone.counts[name]
    values = np.asarray(counts.values)
    whole = np.rint(values).astype(np.int64)
    if (whole != values).any() or (whole < 0).any():
        raise ValueError(
            f"residuals split spike counts; the activity of {name!r} is not of whole, "
            "non-negative counts. Pair the counts as binned."
        )
    splits = []
    left = whole
    for k in range(n_folds):
        held = rng.binomial(left, 1 / (n_folds - k))
        left = left - held
        part = replace(alone, counts={name: counts.copy(data=held)})
        rest = replace(alone, counts={name: counts.copy(data=whole - held)})
        splits.append((TargetWindows.of(part, str(name)), rest))
    return splits


def _information(
    model: Imputer, train: Any, test: Any, name: str, n_permutations: int, rng: np.random.Generator
) -> tuple[dict[str, Array], float]:
    """Balanced accuracy (level) of the condition from counts and from residuals, and chance."""
    seen, held = (TargetWindows.of(part.select([name]), name) for part in (train, test))
    if len(shared := np.intersect1d(seen.trial_ids, held.trial_ids)):
        raise ValueError(
            f"trials {shared[:5].tolist()} of subject {name!r} are in both parts. Split by "
            "trial before pairing, as PairedWindows.split does."
        )
    others = train.select([other for other in train.subjects if other != name])
    predicted = model.impute(others, target=name).values.sum(axis=2)
    counts = seen.sums(), held.sums()
    scale = counts[0].std(axis=0)
    scale[scale == 0] = 1.0
    axes = _predicted_axes(predicted / scale)
    found = {}
    for key in ("activity", "residual"):
        x, held_x = (values / scale for values in counts)
        if key == "residual":
            x, held_x = x - x @ axes @ axes.T, held_x - held_x @ axes @ axes.T
        known = classifier(C=1e-3).fit(x, seen.condition)
        windows = Windows(
            held_x, held.condition, held.time, held.trial, held.trial_ids, held.trial_condition
        )
        votes = tally(log_probabilities(known, held_x), windows)[:, None]
        truth = held.trial_condition[:, None] == known.classes_
        found[key] = np.asarray(balanced_accuracy(truth[None], votes)[0, :, 0])
    if n_permutations:
        permuted = np.stack([truth[rng.permutation(len(truth))] for _ in range(n_permutations)])
        found["null"] = np.asarray(balanced_accuracy(permuted, votes)[:, :, 0])
    return found, 1 / len(known.classes_)


def _predicted_axes(predicted: Array) -> Array:
    """Orthonormal axes (unit, axis) that hold 99 % of the variance of predictions."""
    predicted = predicted[~np.isnan(predicted[:, 0])]
    if not len(predicted):
        return np.zeros((predicted.shape[1], 0))
    values, axes = np.linalg.eigh(np.cov(predicted.T, bias=True).reshape(predicted.shape[1], -1))
    values, axes = np.maximum(values[::-1], 0), axes[:, ::-1]
    total = values.sum()
    if total <= 1e-12:
        return axes[:, :0]
    n = int(np.searchsorted(np.cumsum(values), 0.99 * total)) + 1
    return np.asarray(axes[:, :n])
