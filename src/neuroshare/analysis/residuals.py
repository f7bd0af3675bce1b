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
from neuroshare.analysis.inference import p_value
from neuroshare.analysis.separation import LEVELS, Windows, balanced_accuracy, classifier, tally

Array = NDArray[np.float64]
PARTS = ("shared", "specific", "noise")


def residuals(
    model: Imputer,
    test: Any,
    train: Any = None,
    *,
    n_repairs: int = 10,
    n_folds: int = 5,
    n_permutations: int = 0,
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
        - ``share_unit`` (part, unit): as shares of the unit's variance; NaN for silent units.
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

    The null of the condition information permutes the conditions between whole held-out trials
    within every subject and pairs anew, since the residual depends on partners of the same
    condition: permuting labels alone would be too lenient.

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
            found, chance = _information(model, train, test, name, n_permutations, seed)
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
    model: Imputer, train: Any, test: Any, name: str, n_permutations: int, seed: int
) -> tuple[dict[str, Array], float]:
    """Balanced accuracy (level) of the condition from counts and from residuals, and chance."""
    seen, held = TargetWindows.of(train, name), TargetWindows.of(test, name)
    if len(shared := np.intersect1d(seen.trial_ids, held.trial_ids)):
        raise ValueError(
            f"trials {shared[:5].tolist()} of subject {name!r} are in both parts. Split by "
            "trial before pairing, as PairedWindows.split does."
        )

    def residual(paired: Any, windows: TargetWindows) -> Array:
        expected = model.impute(paired, target=name).values[windows.present].sum(axis=2)
        # Without a partner nothing is predicted but the mean.
        nothing = windows.sums().mean(axis=0)
        return np.asarray(windows.sums() - np.where(np.isnan(expected), nothing, expected))

    def score(known: Any, windows: TargetWindows, values: Array) -> Array:
        rows = _average(windows, values)
        truth = rows.trial_condition[:, None] == known.classes_
        votes = tally(known.predict_log_proba(rows.z), rows)[:, None]
        return np.asarray(balanced_accuracy(truth[None], votes)[0, :, 0])

    by_activity = classifier(C=1e-3).fit(seen.once(seen.sums()), seen.once_condition())
    rows = _average(seen, residual(train, seen))
    by_residual = classifier(C=1e-3).fit(rows.z, rows.condition)
    found = {
        "activity": score(by_activity, held, held.sums()),
        "residual": score(by_residual, held, residual(test, held)),
    }
    null = []
    for k in range(n_permutations):
        shuffled = test.repair(seed + 1 + k, shuffle_conditions=True)
        windows = TargetWindows.of(shuffled, name)
        null.append(score(by_residual, windows, residual(shuffled, windows)))
    if n_permutations:
        found["null"] = np.stack(null)
    return found, 1 / len(by_residual.classes_)


def _average(windows: TargetWindows, values: Array) -> Windows:
    """Every trial and time once, averaged over its partners."""
    times, tick = np.unique(windows.time, return_inverse=True)
    cells, index = np.unique(windows.trial * len(times) + tick, return_inverse=True)
    total = np.zeros((len(cells), values.shape[1]))
    np.add.at(total, index, values * windows.weight[:, None])
    trial = cells // len(times)
    return Windows(
        z=total,
        condition=windows.trial_condition[trial],
        time=times[cells % len(times)],
        trial=trial,
        trial_ids=windows.trial_ids,
        trial_condition=windows.trial_condition,
    )
