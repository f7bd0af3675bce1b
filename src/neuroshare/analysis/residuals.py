"""What a subject does that the others do not predict."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroshare.analysis.classification import (
    LEVELS,
    Classifier,
    Windows,
    balanced_accuracy,
    tally,
)
from neuroshare.analysis.departure import divergence
from neuroshare.analysis.imputation import TargetWindows, unit_coords
from neuroshare.analysis.inference import bootstrap, interval
from neuroshare.analysis.inputs import (
    Imputer,
    by_of,
    imputed,
    require_conditions,
    require_model,
    require_parts,
    require_samples,
    require_windows,
)
from neuroshare.analysis.nulls import Null, SessionOrder, null_labels, orders_of
from neuroshare.support.checks import require_whole
from neuroshare.windows.order import label_order
from neuroshare.windows.paired import PairedWindows

Array = NDArray[np.float64]
PARTS = ("shared", "specific", "noise")


def residuals(
    model: Imputer,
    test: PairedWindows,
    train: PairedWindows | None = None,
    *,
    n_repairs: int = 10,
    n_folds: int = 5,
    n_permutations: int = 0,
    n_bootstraps: int = 0,
    posterior: xr.Dataset | None = None,
    seed: int = 0,
    by: str | None = None,
) -> xr.Dataset:
    """Part every unit's variance into shared, subject-specific and noise, on held-out trials.

    Parameters
    ----------
    model
        Fitted; its ``impute(test, target, source)`` gives expected counts (window, unit, lag).
    test
        Held-out windows of two subjects or more.
    train
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
    by
        Trial column that the information is of, such as the odor where trials are paired one to
        one by their number; by default the one that pairs.

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
          ``chance`` (subject): 1 / its conditions; with permutations ``p_information_residual``
          and ``null_information_residual`` (permutation, level, subject).
        - with `posterior`: ``divergence`` (subject, cell_time): nats.

    Raises
    ------
    ValueError
        If there is only one subject, a trial in both parts, or a setting is none.
    TypeError
        If `model` does not impute, or the parts are no paired windows.

    Notes
    -----
    Shared is g cov(s, y), with y the count and s the prediction from the others averaged over
    partners. The slope g comes from other trials than the covariance it multiplies, so a
    prediction without information has zero share on average. Noise is the mean count, the variance
    of Poisson spikes of a known rate, and specific is the rest: the variance of the rate which
    the others do not predict. Of activity that is no spike count the noise is not known: it is NaN,
    specific is all that the others do not predict, ``reconstructed_unit`` is NaN, and attribute
    ``warnings`` (JSON, a list of sentences) says so. A single share may be below zero; a unit
    that is more regular than Poisson has a negative specific part.

    A reconstruction sees the noise of the counts it reconstructs. For ``reconstructed_unit``
    counts are therefore split at random into folds, each predicted from the others: for Poisson
    spikes these are independent (Neufeld et al. 2024, Biostatistics 25).

    For the condition information the residual is what a subject's counts do outside the directions,
    in the space of its units, along which the others' predictions vary (99 % of their variance over
    training windows, units scaled by their deviation). Predictions themselves are not subtracted
    there: partners are chosen by condition, so a prediction tells the condition without an error,
    and wherever it is a little too large or small the difference would tell it too, even of a
    subject that says nothing. The null draws the labels of whole held-out trials anew, as that of
    `separation` does.

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
    require_model(model, "residuals")
    require_windows(test, "test", "residuals")
    require_samples("residuals", seed, n_permutations, n_bootstraps)
    require_whole(n_repairs, "n_repairs", "residuals", 1)
    require_whole(n_folds, "n_folds", "residuals", 2)
    if train is not None:
        require_windows(train, "train", "residuals")
        require_parts(train, test, "residuals")
    subjects = list(test.subjects)
    if len(subjects) < 2:
        raise ValueError(f"residuals need two subjects or more, got {subjects}.")
    why_not = {name: test.why_not_counts(name) for name in subjects}
    told = [
        f"{name}: its activity is no spike count ({why}), so the noise is not known: specific is "
        "all that the others do not predict."
        for name, why in why_not.items()
        if why
    ]
    far = None if posterior is None else divergence(posterior)
    by = by_of(by, test, "residuals")
    kept = ("subject", "trial", "onset", "animal", "time", "start", by)
    coords = {name: value for name, value in test.coords().items() if name in kept}
    n_windows = len(coords["time"][1])
    residual, unit_parts, cell_parts, reconstructed, units = [], [], [], [], []
    shares, share_intervals = [], []
    information: dict[str, list[Array]] = {"activity": [], "residual": [], "null": [], "p": []}
    values = coords[by][1]
    conditions = np.unique(values[test.observed] if np.ndim(values) == 2 else values)
    times = np.unique(np.round(coords["time"][1], 9))
    chance = []
    for index, name in enumerate(subjects):
        rng = np.random.default_rng([seed, index])
        alone = test.select([name])
        own = TargetWindows.of(alone, name, by=by)
        y = own.sums()
        s = _prediction(model, test, own, name, n_repairs, seed)
        fold = rng.permutation(len(own.trial_ids))[own.trial] % n_folds
        parts = _partition(y, s, fold, n_folds, spikes=not why_not[name])
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
        own_part = np.full(y.shape[1], np.nan)
        if not why_not[name]:
            own_part = _reconstructed(model, alone, s, fold, n_folds, rng)
        reconstructed.append(own_part)
        units += [(name, unit) for unit in own.units]

        held = TargetWindows.of(test, name, by=by)
        left = np.full((n_windows, y.shape[1]), np.nan, dtype=np.float32)
        left[held.present] = held.sums() - s[_rows(held, own)]
        residual.append(left)
        if train is not None:
            found, of_subject = _information(model, train, test, name, by, n_permutations, rng)
            chance.append(of_subject)
            for key, values in found.items():
                information[key].append(values)

    trial = coords.pop("trial")
    coords = {k: v for k, v in coords.items() if k != "subject"}
    variance_unit = np.concatenate(unit_parts, axis=1)
    result = xr.Dataset(
        {
            "residual": (("window", "unit"), np.concatenate(residual, axis=1)),
            "variance": (("subject", "part"), [part.sum(axis=1) for part in unit_parts]),
            "variance_unit": (("part", "unit"), variance_unit),
            "share": (("subject", "part"), shares),
            "share_unit": (("part", "unit"), _shares(variance_unit.T).T),
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
        attrs={
            "by": by,
            "n_repairs": n_repairs,
            "n_folds": n_folds,
            "warnings": json.dumps(told),
        },
    )
    if n_bootstraps:
        bounds = np.stack(share_intervals, axis=1)
        result["share_interval"] = (("bound", "subject", "part"), bounds)
        result = result.assign_coords(bound=["low", "high"])
    if train is not None:
        result = result.assign_coords(level=list(LEVELS))
        result["chance"] = ("subject", chance)
        for key in ("activity", "residual"):
            stacked = np.stack(information[key], axis=1)
            result[f"information_{key}"] = (("level", "subject"), stacked)
        if n_permutations:
            null = np.stack(information["null"], axis=2)
            result["null_information_residual"] = (("permutation", "level", "subject"), null)
            p = np.stack(information["p"], axis=1)
            result["p_information_residual"] = (("level", "subject"), p)
    if far is not None:
        result["divergence"] = far.rename(time="cell_time")
    return result


def _shares(parts: Array) -> Array:
    """Parts (..., part) as shares of their sum; NaN where there is no variance."""
    total = np.nansum(parts, axis=-1, keepdims=True)  # noise may not be known
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
    model: Imputer, test: PairedWindows, own: TargetWindows, name: str, n_repairs: int, seed: int
) -> Array:
    """Counts (window of `own`, unit) expected from the others, averaged over partners.

    NaN, where no other subject ever takes part.
    """
    total = np.zeros((len(own.time), len(own.units)))
    n = np.zeros((len(own.time), 1))
    pairings = [test]
    if test.redraws:
        pairings += [test.repair(seed + k) for k in range(1, n_repairs)]
    for paired in pairings:
        held = TargetWindows.of(paired, name)
        expected = imputed(model, paired, name, None, len(held.units))[held.present].sum(axis=2)
        known = ~np.isnan(expected[:, 0])
        row = _rows(held, own)[known]
        np.add.at(total, row, expected[known])
        np.add.at(n, row, 1)
    return np.asarray(np.divide(total, n, out=np.full_like(total, np.nan), where=n > 0))


def _partition(y: Array, s: Array, fold: NDArray[np.int64], n_folds: int, *, spikes: bool) -> Array:
    """Contribution of every window to shared, specific and noise variance, (part, window, unit)."""
    centred, s = y - y.mean(axis=0), _centred(s)
    shared = _slopes(s, centred, fold, n_folds) * s * centred
    rest = centred**2 - shared
    return np.stack([shared, rest - y, y] if spikes else [shared, rest, np.full_like(y, np.nan)])


def _reconstructed(
    model: Imputer,
    alone: PairedWindows,
    s: Array,
    fold: NDArray[np.int64],
    n_folds: int,
    rng: np.random.Generator,
) -> Array:
    """Variance (unit) of spikes that the subject's other spikes predict, beyond what `s` does."""
    name = alone.subjects[0]
    s = _centred(s)
    found = np.zeros(s.shape[1])
    for held, rest in _split_counts(alone, n_folds, rng):
        target = _centred(held.sums() * n_folds)
        r = _centred(imputed(model, rest, name, name, len(held.units)).sum(axis=2))
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
    alone: PairedWindows, n_folds: int, rng: np.random.Generator
) -> list[tuple[TargetWindows, PairedWindows]]:
    """Parts of the spikes, each with the windows of all other spikes."""
    parts: list[NDArray[np.int64]] = []

    def draw(_: str, counts: NDArray[Any]) -> NDArray[np.int64]:
        whole: NDArray[np.int64] = np.rint(counts).astype(np.int64)
        left = whole
        for k in range(n_folds):
            parts.append(rng.binomial(left, 1 / (n_folds - k)))
            left = left - parts[-1]
        return whole

    def held_out(part: NDArray[np.int64]) -> tuple[TargetWindows, PairedWindows]:
        held = alone.changed(lambda _, counts: part)
        return TargetWindows.of(held, name), alone.changed(
            lambda _, counts: np.subtract(counts, part)
        )

    (name,) = alone.subjects
    alone = alone.changed(draw)
    return [held_out(part) for part in parts]


def _information(
    model: Imputer,
    train: PairedWindows,
    test: PairedWindows,
    name: str,
    by: str,
    n_permutations: int,
    rng: np.random.Generator,
) -> tuple[dict[str, Array], float]:
    """Balanced accuracy (level) of the condition from counts and from residuals, and chance."""
    seen, held = (TargetWindows.of(part.select([name]), name, by=by) for part in (train, test))
    require_conditions(name, by, seen.condition, "residuals")
    others = train.select([other for other in train.subjects if other != name])
    predicted = imputed(model, others, name, None, len(seen.units)).sum(axis=2)
    counts = seen.sums(), held.sums()
    scale = counts[0].std(axis=0)
    scale[scale == 0] = 1.0
    axes = _predicted_axes(predicted / scale)
    found = {}
    for key in ("activity", "residual"):
        x, held_x = (values / scale for values in counts)
        if key == "residual":
            x, held_x = x - x @ axes @ axes.T, held_x - held_x @ axes @ axes.T
        known = Classifier(C=1e-3).fit(x, seen.condition)
        windows = Windows(
            held_x, held.condition, held.time, held.trial, held.trial_ids, held.trial_condition
        )
        votes = tally(known.evidence(held_x), windows)[:, None]
        truth = held.trial_condition[:, None] == known.classes_
        found[key] = np.asarray(balanced_accuracy(truth[None], votes)[0, :, 0])
    if n_permutations:
        session = SessionOrder.of(seen.trial_ids, held.trial_ids, seen.onset, held.onset)
        labels = session.sorted(seen.trial_condition, held.trial_condition)
        codes = np.searchsorted(known.classes_, labels)
        order = orders_of(train.attrs, by).get(name) or label_order(labels)
        null = null_labels(codes, session.held_out, order.kind, n_permutations, rng)
        drawn = np.eye(len(known.classes_))[session.back(null.labels)]
        scores = balanced_accuracy(drawn, votes)[:, :, 0]
        found["p"] = null.p(found["residual"], scores)
        if order.kind == "confounded":
            found["p"] = np.full(len(LEVELS), np.nan)
        found["null"] = _as_many(scores, n_permutations, null, rng)
    return found, 1 / len(known.classes_)


def _as_many(scores: Array, n: int, null: Null, rng: np.random.Generator) -> Array:
    """Give `n` draws also where all labellings are fewer, so that subjects fit in one array."""
    if len(scores) == n and not null.complete:
        return scores
    return np.asarray(scores[rng.integers(len(scores), size=n)])


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
