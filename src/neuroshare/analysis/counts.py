"""Behavior decoded from counts themselves: what latents are to be compared with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import softmax
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neuroshare.analysis.decoding import (
    SCORES,
    drawn_blocks,
    moved_values,
    scores_of,
    weighed_scores,
)
from neuroshare.analysis.inference import animal_interval, interval, over_animals, p_value
from neuroshare.analysis.inputs import (
    animals_of,
    require_parts,
    require_samples,
    require_windows,
)
from neuroshare.analysis.variables import Samples, Variable, samples_of, variables_of
from neuroshare.support.angles import span_of
from neuroshare.windows.paired import PairedWindows

Array = NDArray[np.float64]

DECODERS = ("ridge", "bayes")
RIDGES = np.logspace(0, 5, 11)
BINS = {1: 40, 2: 20, 3: 10}
"""Of tuning curves, along each column of a variable, by the number of columns."""
_SMOOTH = 1.0
"""Deviation of the smoothing of tuning curves, bins."""
_PRIOR = 0.5
"""Windows at the mean rate that are added to each bin."""


def decode_counts(
    train: PairedWindows,
    test: PairedWindows,
    of: str | Sequence[str] | None = None,
    n_permutations: int = 199,
    n_bootstraps: int = 199,
    seed: int = 0,
) -> xr.Dataset:
    """Decode behavior from the counts of each subject alone: the baselines of `decoding`.

    Parameters
    ----------
    train, test
        Windows of both parts of a split.
    of, n_permutations, n_bootstraps, seed
        As of `decoding`.

    Returns
    -------
    Dataset
        With a dimension ``variable`` where `of` is a list; ``decoder`` is ``"ridge"``, a ridge
        regression on square roots of counts, and ``"bayes"``, the posterior mean under Poisson
        counts with the tuning curves of the training windows.

        - ``r2``, ``median_error`` (decoder, subject), with ``..._interval`` (bound, ...), ``p_...``
          and, over animals, ``mean_...`` (decoder) and ``mean_..._interval`` (bound, decoder).

    Raises
    ------
    ValueError
        If the parts are not those of one split, or a variable is not a number in each window.

    Notes
    -----
    The penalty of the ridge is chosen by leaving out quarters of the training windows, in blocks
    of time. Where windows were paired by conditions besides, such as a direction, there are tuning
    curves of each, and the posterior is summed over them.

    Examples
    --------
    >>> import neuroshare as ns
    >>> rats = ns.simulate_sessions(["a", "b"], running=60.0)
    >>> counts = {
    ...     name: ns.bin_spikes(rat, span=None, bin_size=0.02, behavior=["position"])
    ...     for name, rat in rats.items()
    ... }
    >>> train, test = ns.pair_subjects(counts, by="position").split()
    >>> scores = decode_counts(train, test, of="position", n_permutations=0)
    >>> scores.median_error.dims
    ('decoder', 'subject')
    """
    require_windows(train, "train", "decode_counts")
    require_windows(test, "test", "decode_counts")
    require_samples("decode_counts", seed, n_permutations, n_bootstraps)
    require_parts(train, test, "decode_counts")
    subjects = list(train.subjects)
    coords = train.coords()
    animals = animals_of(subjects, coords["animal"][1])
    seeds = np.random.SeedSequence(seed).spawn(len(subjects))
    found: list[xr.Dataset] = []
    variables = variables_of(_as_features(train, subjects[0]), of, "decode_counts")
    parts = [_samples(train, test, name, variables) for name in subjects]
    shape = (len(SCORES), len(DECODERS), len(subjects))
    for variable in variables:
        scores, p = np.full((2, *shape), np.nan)
        ends = np.full((2, *shape), np.nan)
        for t, ((fitted, given), (held, _)) in enumerate(parts):
            rng = np.random.default_rng(seeds[t])
            true = held.values[variable.name]
            moved = moved_values(variable, fitted, held, n_permutations, rng)
            weights = drawn_blocks(len(true), n_bootstraps, rng)
            predicted = (
                _ridge(variable, fitted, held),
                _bayes(variable, fitted, given, held),
            )
            for d, points in enumerate(predicted):
                scores[:, d, t] = scores_of(variable, points, true[None])[:, 0]
                sign = np.array([1.0, -1.0])
                null = scores_of(variable, points, moved).T
                p[:, d, t] = p_value(sign * scores[:, d, t], sign * null)
                if n_bootstraps:
                    drawn = weighed_scores(variable, points, true, weights).T
                    samples = xr.DataArray(drawn, dims=("sample", "score"))
                    ends[:, :, d, t] = interval(samples).values
        of_variable: dict[str, Any] = {}
        for k, name in enumerate(SCORES):
            dims = ("decoder", "subject")
            of_variable[name] = (dims, scores[k])
            of_variable[f"mean_{name}"] = ("decoder", over_animals(scores[k], animals).mean(axis=1))
            of_variable[f"mean_{name}_interval"] = (
                ("bound", "decoder"),
                np.stack([animal_interval(row) for row in over_animals(scores[k], animals)], 1),
            )
            if n_bootstraps:
                of_variable[f"{name}_interval"] = (("bound", *dims), ends[:, k])
            if n_permutations:
                of_variable[f"p_{name}"] = (dims, p[k])
        found.append(xr.Dataset(of_variable))
    whole = xr.concat(found, "variable").assign_coords(variable=[v.name for v in variables])
    if isinstance(of, str) or (of is None and len(found) == 1):
        whole = whole.isel(variable=0, drop=True)
    whole = whole.assign_coords(
        decoder=list(DECODERS), subject=subjects, bound=["low", "high"], animal=("subject", animals)
    )
    whole.attrs = {
        "of": json.dumps([v.name for v in variables]),
        "units": json.dumps({v.name: v.unit for v in variables}),
    }
    return whole


def _as_features(paired: PairedWindows, name: str) -> xr.DataArray:
    """Counts of a subject's windows as if they were latents, (subject, window, latent)."""
    alone = paired.select([name])
    sums = np.concatenate([part for _, part in alone.window_sums(name)])
    z = sums[alone.partners[:, 0]].reshape(1, -1, sums.shape[2])
    return xr.DataArray(
        z, dims=("subject", "window", "latent"), coords=alone.coords(), attrs=alone.attrs
    )


def _samples(
    train: PairedWindows, test: PairedWindows, name: str, variables: Sequence[Variable]
) -> list[tuple[Samples, NDArray[np.int64]]]:
    """Windows of both parts, and the number of the conditions that they were paired by besides."""
    labels: list[str] = []
    if train.behavior is not None:
        labels = [axis.name for axis in train.behavior.axes if axis.labels is not None]
    found = []
    for part in (train, test):
        features = _as_features(part, name)
        samples = samples_of(features, variables, name)
        number = np.zeros(len(samples.z), np.int64)
        if labels:
            trial = features["trial"].values[0]
            order = np.argsort(trial, kind="stable")
            row = order[np.searchsorted(trial, samples.trial, sorter=order)]
            texts = [features[label].values[0][row].astype(str) for label in labels]
            joined = ["\n".join(row) for row in zip(*texts, strict=True)]
            number = np.unique(joined, return_inverse=True)[1].astype(np.int64)
        found.append((samples, number))
    return found


def _ridge(variable: Variable, fitted: Samples, held: Samples) -> Array:
    model = make_pipeline(StandardScaler(), RidgeCV(RIDGES, cv=KFold(4)))
    points = variable.points(fitted.values[variable.name])
    model.fit(np.sqrt(np.maximum(fitted.z, 0)), points)
    predicted = np.asarray(model.predict(np.sqrt(np.maximum(held.z, 0))))
    return predicted.reshape(len(held.z), -1)


def _bayes(variable: Variable, fitted: Samples, given: NDArray[np.int64], held: Samples) -> Array:
    """Posterior mean point of each held-out window, (window, feature)."""
    values = fitted.values[variable.name]
    n = BINS[min(len(variable.columns), max(BINS))]
    shape = (n,) * len(variable.columns)
    edges, place = [], []
    for column, period in zip(values.T, variable.periods, strict=True):
        low, high = span_of(float(column.min()), float(column.max()), period)
        edges.append(np.linspace(low, high, n + 1))
        place.append(np.clip(np.searchsorted(edges[-1], column, side="right") - 1, 0, n - 1))
    cell = np.ravel_multi_index(tuple(place), shape)
    middles = np.stack(
        [
            part.ravel()
            for part in np.meshgrid(*[(e[1:] + e[:-1]) / 2 for e in edges], indexing="ij")
        ],
        axis=1,
    )
    mode = ["nearest" if period is None else "wrap" for period in variable.periods]
    z = np.maximum(fitted.z, 0)
    mean = z.mean(axis=0)
    log_p, points = [], variable.points(middles)
    for number in np.unique(given):
        rows = given == number
        visits = np.bincount(cell[rows], minlength=len(middles)).astype(float).reshape(shape)
        smooth = gaussian_filter(visits, _SMOOTH, mode=mode).reshape(-1)
        total = np.zeros((len(middles), z.shape[1]))
        np.add.at(total, cell[rows], z[rows])
        total = np.stack(
            [
                gaussian_filter(unit.reshape(shape), _SMOOTH, mode=mode).reshape(-1)
                for unit in total.T
            ],
            axis=1,
        )
        rate = (total + _PRIOR * mean) / (smooth[:, None] + _PRIOR) + 1e-9
        prior = np.log(smooth / len(values) + 1e-9)
        log_p.append(held.z @ np.log(rate).T - rate.sum(axis=1) + prior)
    posterior = softmax(np.concatenate(log_p, axis=1), axis=1)
    return np.asarray(posterior @ np.tile(points, (len(log_p), 1)))
