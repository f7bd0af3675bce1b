"""Several models on the same split, in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import clone
from tqdm.auto import tqdm

from neuroshare.analysis.classification import (
    LEVELS,
    Windows,
    mean_accuracies,
    windows_by_subject,
)
from neuroshare.analysis.imputation import means_of_sources, scores_of_models
from neuroshare.analysis.inference import interval, p_value
from neuroshare.analysis.separation import all_pairs, mean_intervals, separation
from neuroshare.models.linear import LinearAlignment, fit_together
from neuroshare.models.redrawn import Latents, Redrawn, can_redraw
from neuroshare.models.shared import SharedLatentModel
from neuroshare.support.checks import require, require_seed, require_whole
from neuroshare.support.parallel import Executor, run_each
from neuroshare.windows.paired import PairedWindows
from neuroshare.workflow.doors import (
    Model,
    require_executor,
    require_fitted,
    require_models,
    require_split,
)

Row = dict[str, Any]
RAW = "raw counts"
_PENALTIES = (1e-4, 1e-3, 1e-2, 1.0)
MEANS = {f"mean_{kind}": kind for kind in ("own", "cross", "pooled")}
"""Mean accuracy -> its name in the table."""
BASELINES = {
    "procrustes": LinearAlignment("procrustes"),
    "mcca": LinearAlignment("mcca"),
    "srm": LinearAlignment("srm"),
}


@dataclass(frozen=True)
class Scored:
    """All scores of one model on one split."""

    separation: xr.Dataset
    imputation: xr.Dataset | None = None
    repaired: xr.Dataset | None = None
    """Mean accuracies (repairing, level) of fits to pairings without information."""


def compare(
    train: PairedWindows,
    test: PairedWindows,
    models: Mapping[str, Model] | None = None,
    *,
    fitted: Mapping[str, Model] | None = None,
    baselines: bool = True,
    against: str | None = None,
    by: str | None = None,
    imputation: bool = True,
    n_permutations: int = 0,
    n_repairings: int = 0,
    n_bootstraps: int = 200,
    seed: int = 0,
    executor: int | Executor | None = None,
) -> pd.DataFrame:
    """Fit models on the same training windows, score them on the same held-out trials.

    Parameters
    ----------
    train, test
        The parts of one split.
    models
        Name -> estimator with ``fit``, ``transform`` and ``impute``. Every one is cloned and
        fitted, so that none has seen other data.
    fitted
        Name -> estimator that was fitted to `train`, and to nothing else, before. It is scored as
        it is.
    baselines
        Add the linear alignments, which choose their number of latents and their ridge on the inner
        folds on which the model chooses its start, and logistic regression on raw counts (own
        accuracy only; its penalty is chosen on trials held out of `train`).
    against
        Name of a model from which every other one's difference is taken.
    by
        Trial column to tell from the latents; by default the one that pairs the trials.
    imputation
        Score imputation too, which takes longer than the accuracies; on windows that overlap by
        half at most (``PairedWindows.thinned``).
    n_permutations
        Permutations of the conditions of held-out trials; they need no fit. 0 leaves p NaN.
    n_repairings
        Fits to pairings whose conditions were shuffled between whole trials within each subject,
        in both parts: the null of the whole analysis, the fit included, which holds for any model.
        Models that come `fitted` are cloned and refitted for it, raw counts have none.
    n_bootstraps
        Bootstrap samples of held-out trials, which keep the intervals of differences from being
        narrower than finite trials make them; 0 leaves that out.
    seed
        Seed of bootstrap, permutations and re-pairings.
    executor
        Where the refits of `n_repairings` are executed, as in `sweep`: None, a number of
        processes, a Dask client, or an object whose `submit` returns futures. Each uses one
        thread, so on a CPU the null is the same everywhere.

    Returns
    -------
    DataFrame
        One row per model, score and level: ``model``; ``score``, which is own, cross, pooled, or
        bits_per_spike (or variance_explained, of activity that is no spike counts), above_psth and
        coherence from one other and from all others; ``level``
        (window, trial, or empty); ``value``, the mean over animals or pairs of them; ``low``,
        ``high``, its 95 % interval over animals, NaN with fewer than three; ``chance``, that of
        the same mean; ``p`` of the permutations. With `against` also ``difference``,
        ``difference_low``, ``difference_high``, of the differences of each animal, or pair, on the
        same trials. With `n_repairings` also ``null``, ``null_low``, ``null_high`` and ``p_null``.

    Raises
    ------
    ValueError
        If there is nothing to compare, the parts are not of one split, a trial is in both, a name
        is given twice, a number is out of its range, or `against` is no model.
    TypeError
        If a part is no `PairedWindows`, or something under `models` or `fitted` is no estimator.
    NotFittedError
        If something under `fitted` was not fitted.

    Examples
    --------
    >>> import neuroshare as ns
    >>> sessions = ns.simulate_sessions({"mitt": 12, "stella": 9}, n_trials=8, signal=2.0)
    >>> counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    >>> train, test = ns.pair_subjects(counts, by="odor", step=0.05).split(0.25, seed=0)
    >>> table = ns.compare(train, test, against="mcca", imputation=False)
    >>> sorted(set(table.model))
    ['mcca', 'procrustes', 'raw counts', 'srm']
    """
    require_split(train, test, "compare")
    methods = ["fit", "transform", *(["impute"] if imputation else [])]
    require_models(models or {}, "models", "compare", ["get_params", *methods], [RAW])
    require_models(fitted or {}, "fitted", "compare", methods, [RAW, *(models or {})])
    require_fitted(fitted or {}, "compare")
    numbers = {"permutations": n_permutations, "repairings": n_repairings}
    for name, value in {**numbers, "bootstraps": n_bootstraps}.items():
        require_whole(value, f"n_{name}", "compare", most=10**9)
    require_seed(seed, "compare")
    require_executor(executor, "compare")
    for name, flag in {"baselines": baselines, "imputation": imputation}.items():
        require(isinstance(flag, bool), name, "compare", "True or False", flag)
    known = [*([RAW, *BASELINES] if baselines else []), *(models or {}), *(fitted or {})]
    _require_known(against, known)
    require(by is None or isinstance(by, str), "by", "compare", "the name of a trial column", by)
    scored = score_models(
        train,
        test,
        models,
        fitted=fitted,
        baselines=baselines,
        by=by,
        imputation=imputation,
        n_permutations=n_permutations,
        n_repairings=n_repairings,
        n_bootstraps=n_bootstraps,
        seed=seed,
        executor=executor,
    )
    return tabulate(scored, against)


def score_models(
    train: PairedWindows,
    test: PairedWindows,
    models: Mapping[str, Model] | None = None,
    *,
    fitted: Mapping[str, Model] | None = None,
    baselines: bool = True,
    by: str | None = None,
    imputation: bool = True,
    n_permutations: int = 0,
    n_repairings: int = 0,
    n_bootstraps: int = 200,
    seed: int = 0,
    executor: int | Executor | None = None,
    progress: bool = False,
) -> dict[str, Scored]:
    """Score every model as `compare` does: name -> all scores."""
    linear = BASELINES if baselines else {}
    everything: dict[str, Any] = {**linear, **(models or {}), **(fitted or {})}
    if not everything:
        raise ValueError("nothing to compare: give models, or leave the baselines in.")
    by = by or test.by
    settings: dict[str, Any] = {
        "by": by,
        "n_permutations": n_permutations,
        "n_bootstraps": n_bootstraps,
        "seed": seed,
    }
    refits = _refits(everything, train, test, by, n_repairings, seed)
    imputes = imputation and len(test.subjects) > 1
    n_parts = baselines + len(linear) + len(models or {}) + len(refits) + len(everything)
    n_parts += len(test.subjects) if imputes else 0
    scored: dict[str, Scored] = {}
    with tqdm(total=n_parts, disable=not progress, unit="part", leave=False) as bar:
        if baselines:  # while no other model takes memory
            bar.set_description(f"score {RAW}")
            scored[RAW] = Scored(_raw(train, test, **settings))
            bar.update()
        ready = _fitted({**linear, **(models or {})}, train, bar) | dict(fitted or {})
        repaired = _repaired(everything, refits, (train, test), n_repairings, executor, bar)
        imputed: dict[str, xr.Dataset] = {}
        if imputes:
            bar.set_description("score imputation")
            few = train.thinned(), test.thinned()
            of_models = scores_of_models(
                list(ready.values()), *few, n_bootstraps, seed, by=by, done=bar.update
            )
            imputed = dict(zip(ready, of_models, strict=True))
        for name, model in ready.items():
            bar.set_description(f"score {name}")
            scored[name] = Scored(
                separation(model.transform(train), model.transform(test), **settings),
                imputed.get(name),
                repaired.get(name),
            )
            bar.update()
    return scored


def _fitted(models: Mapping[str, Any], train: PairedWindows, bar: tqdm[Any]) -> dict[str, Any]:
    """Clones of models, fitted; linear alignments together, for they look at the same."""
    ready = {name: clone(model) for name, model in models.items()}
    linear = {name: model for name, model in ready.items() if type(model) is LinearAlignment}
    if linear:
        bar.set_description(f"fit {', '.join(linear)}")
        fit_together(list(linear.values()), train)
        bar.update(len(linear))
    for name, model in ready.items():
        if name not in linear:
            bar.set_description(f"fit {name}")
            ready[name] = model.fit(train)
            bar.update()
    return ready


def tabulate(scored: Mapping[str, Scored], against: str | None = None) -> pd.DataFrame:
    """Table of `compare` from the scores of every model."""
    _require_known(against, list(scored))
    rows = []
    for name, one in scored.items():
        other = scored[against] if against is not None and against != name else None
        for row in _accuracies(one, other) + _imputation(one, other):
            rows.append({"model": name, **row})
    table = pd.DataFrame(rows)
    if against is not None:
        for column in ("difference", "difference_low", "difference_high"):
            if column not in table:
                table[column] = np.nan
    return table


def _require_known(against: str | None, names: Sequence[str]) -> None:
    if names and against is not None and against not in names:
        raise ValueError(
            f"The 'against' parameter of compare must name one of the models {list(names)}. "
            f"Got {against!r} instead."
        )


def raw_counts(paired: PairedWindows) -> xr.DataArray:
    """Square-root counts per window as if they were latents, (subject, window, latent).

    Activity that is no counts is summed as it is.

    Subjects with fewer units are padded with zeros, which a classifier within the subject ignores;
    between subjects such columns mean nothing.
    """
    sums = []
    for name, partners in zip(paired.subjects, paired.partners.T, strict=True):
        of_trials = np.concatenate([part for _, part in paired.window_sums(name)])
        if not paired.why_not_counts(name):
            np.sqrt(of_trials, out=of_trials)
        values = of_trials[partners]
        values[partners < 0] = np.nan
        sums.append(values.reshape(-1, values.shape[2]))
    most = max(values.shape[1] for values in sums)
    return xr.DataArray(
        np.stack([np.pad(v, ((0, 0), (0, most - v.shape[1]))) for v in sums]),
        dims=("subject", "window", "latent"),
        coords=paired.coords(),
        attrs={"by": paired.by},
    )


def _raw(train: PairedWindows, test: PairedWindows, **settings: Any) -> xr.Dataset:
    """Separation of raw counts, the penalty chosen on trials held out of the training part."""
    parts = [raw_counts(p) for p in train.thinned().split(0.25, seed=settings["seed"])]
    inner, validation = (windows_by_subject(part, settings["by"]) for part in parts)
    animals = parts[0]["animal"].values.tolist()

    def validated(C: float) -> float:
        found = mean_accuracies(inner, validation, animals, C, pooled=False)
        return float(found["mean_own"][LEVELS.index("trial")])

    best = max(_PENALTIES, key=validated)
    scores = separation(raw_counts(train), raw_counts(test), C=best, pooled=False, **settings)
    # The same column is another unit in every subject: there is nothing across subjects.
    across = [name for name in map(str, scores) if "cross" in name]
    return scores.drop_vars([*across, "time_course", "confusion", "n_conditions"])


Parts = tuple[PairedWindows, PairedWindows]
Refit = tuple[Model, str, list[int], bool]


def _refits(
    models: Mapping[str, Model],
    train: PairedWindows,
    test: PairedWindows,
    by: str,
    n: int,
    seed: int,
) -> list[Refit]:
    """Tasks of `_refitted`, model by model: `n` draws of each, some of which share work."""
    refits: list[Refit] = []
    for model in models.values() if n else ():
        shares = by == train.by and can_redraw(model, train, test)
        size = _DRAWS_OF_A_TASK if shares else 1
        seeds = [seed + k for k in range(1, n + 1)]
        batches = [seeds[first : first + size] for first in range(0, n, size)]
        refits += [(clone(model), by, batch, shares) for batch in batches]
    return refits


def _repaired(
    models: Mapping[str, Model],
    refits: Sequence[Refit],
    parts: Parts,
    n: int,
    executor: int | Executor | None,
    bar: tqdm[Any],
) -> dict[str, xr.Dataset]:
    """Mean accuracies of fits to data whose conditions say nothing, of every model."""
    if not refits:
        return {}
    bar.set_description("refit")
    found = {}
    for position, means in run_each(_refitted, parts, refits, executor):
        found[position] = means
        bar.update()
    means = [one for position in range(len(refits)) for one in found[position]]
    return {
        name: xr.Dataset(
            {
                kind: (("repairing", "level"), np.stack([one[kind] for one in of_model]))
                for kind in of_model[0]
            },
            coords={"level": list(LEVELS)},
        )
        for name, of_model in zip(
            models, (means[first : first + n] for first in range(0, len(means), n)), strict=True
        )
    }


Means = dict[str, NDArray[np.float64]]
_DRAWS_OF_A_TASK = 25
"""That share what does not depend on labels. Each is computed by itself: it is the same whichever
others a task has."""


def _refitted(parts: Parts, refit: Refit) -> list[Means]:
    """Mean accuracies (level,) of a fit to each of some draws, which may share work."""
    model, by, seeds, shares = refit
    if shares:
        assert isinstance(model, SharedLatentModel)
        return _redrawn(model, parts, seeds)
    found = []
    for seed in seeds:
        train, test = (part.repair(seed, shuffle_conditions=True) for part in parts)
        fitted = clone(model).fit(train)
        scores = separation(fitted.transform(train), fitted.transform(test), by=by)
        found.append({name: scores[name].values for name in MEANS if name in scores})
    return found


def _redrawn(model: SharedLatentModel, parts: Parts, seeds: list[int]) -> list[Means]:
    """Mean accuracies as `_refitted` of a start that is not trained."""
    redrawn = Redrawn(model, *parts)
    found = []
    for seed in seeds:
        drawn = [part.repair(seed, shuffle_conditions=True) for part in parts]
        latents = redrawn.latents(drawn[0])
        windows = [_windows(part, z) for part, z in zip(drawn, latents, strict=True)]
        found.append(mean_accuracies(windows[0], windows[1], redrawn.animals))
    return found


def _windows(part: PairedWindows, latents: Latents) -> dict[str, Windows]:
    """Windows of the trials that have partners, as `separation` finds them in labelled latents."""
    n_starts = len(part.first_bins)
    found = {}
    for name, partners in zip(part.subjects, part.partners.T, strict=True):
        trials, ids = np.unique(partners[partners >= 0]), part.trial_ids(name)
        trials = trials[np.argsort(ids[trials])]
        codes = part.codes(name)[trials]
        found[name] = Windows(
            z=latents[name][trials].reshape(-1, latents[name].shape[2]).astype(float),
            condition=np.repeat(codes, n_starts),
            time=np.tile(np.arange(n_starts, dtype=float), len(trials)),
            trial=np.repeat(np.arange(len(trials)), n_starts),
            trial_ids=ids[trials],
            trial_condition=codes,
        )
    return found


def _accuracies(one: Scored, other: Scored | None) -> list[Row]:
    rows = []
    scores, others = one.separation, None if other is None else other.separation
    ends = {} if others is None else _difference_intervals(scores, others)
    for mean, kind in MEANS.items():
        if mean not in scores:
            continue
        chance = float(scores[f"chance_{mean}"])
        for k, level in enumerate(scores["level"].values.tolist()):
            row = _row(scores, others, mean, level=level)
            row = {"score": kind, "level": level, **row, "chance": chance}
            if "difference" in row:
                row["difference_low"], row["difference_high"] = ends[mean][:, k].tolist()
            if one.repaired is not None and mean in one.repaired:
                null = one.repaired[mean].sel(level=level)
                low, high = interval(null, "repairing").values.tolist()
                p = float(p_value(row["value"], null))
                row |= {"null": float(null.mean()), "null_low": low, "null_high": high, "p_null": p}
            rows.append(row)
    return rows


def _difference_intervals(one: xr.Dataset, other: xr.Dataset) -> dict[str, NDArray[np.float64]]:
    """Mean accuracy -> interval (bound, level) of its difference, animal by animal."""
    noise = None
    if "sample_own" in one and "sample_own" in other:
        # The same trials in both, so that what is hard for both cancels.
        samples = all_pairs(one, "sample_") - all_pairs(other, "sample_")
        noise = samples.var(axis=0)
    animals = one["subject_animal"].values.tolist()
    return mean_intervals(all_pairs(one) - all_pairs(other), noise, animals)


def _imputation(one: Scored, other: Scored | None) -> list[Row]:
    rows: list[Row] = []
    if one.imputation is None:
        return rows
    others = None if other is None else other.imputation
    for k, sources in enumerate(one.imputation["sources"].values.tolist()):
        for kind in (one.imputation.attrs["score"], "above_psth", "coherence"):
            row = _row(one.imputation, others, f"mean_{kind}", sources=sources)
            if others is not None and "difference" in row:
                difference = one.imputation[kind].values - others[kind].values
                animals = one.imputation["target_animal"].values.tolist()
                ends = means_of_sources(difference, animals)[:, k]
                row["difference_low"], row["difference_high"] = ends.tolist()
            rows.append({"score": f"{kind}, {sources}", "level": "", **row})
    return rows


def _row(scores: xr.Dataset, others: xr.Dataset | None, name: str, **at: str) -> Row:
    """Value with its interval and p, and the difference to another model."""
    low, high = scores[f"{name}_interval"].sel(at).values.tolist()
    row = {
        "value": float(scores[name].sel(at)),
        "low": low,
        "high": high,
        "chance": np.nan,
        "p": float(scores[f"p_{name}"].sel(at)) if f"p_{name}" in scores else np.nan,
    }
    if others is not None and name in others and np.isfinite(float(others[name].sel(at))):
        row["difference"] = row["value"] - float(others[name].sel(at))
    return row
