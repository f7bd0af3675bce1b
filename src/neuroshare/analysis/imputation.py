"""How well one subject's activity is predicted from the latents of others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroshare.analysis.classification import Classifier, Windows, tally
from neuroshare.analysis.inference import (
    animal_interval,
    bootstrap,
    interval,
    known_mean,
    names_of,
    of_shares,
    over_animals,
    pair_interval,
    pairs_of_animals,
    recall_interval,
    recall_noise,
    too_few,
)
from neuroshare.analysis.inputs import (
    Imputer,
    animals_of,
    by_of,
    imputed,
    require_conditions,
    require_model,
    require_parts,
    require_samples,
    require_windows,
)
from neuroshare.windows.paired import PairedWindows

Array = NDArray[np.float64]
ALL_OTHERS = "all others"
_PRIOR_TRIALS = np.array([0.5, 2, 8, 32, 128, 512, 1e6])


def imputation_scores(
    model: Imputer,
    train: PairedWindows,
    test: PairedWindows,
    n_bootstraps: int = 0,
    seed: int = 0,
    *,
    by: str | None = None,
) -> xr.Dataset:
    """Score predicted activity of held-out windows, for every source and target.

    Parameters
    ----------
    model
        Fitted; its ``impute(test, target, source)`` gives expected activity (window, unit, lag).
    train
        Windows it was fitted on: they give the mean rate, the PSTH and the classifier of
        `coherence`.
    test
        Held-out windows. A window that occurs again because its partners differ weighs
        accordingly less, so every trial counts once.
    n_bootstraps
        Bootstrap samples over held-out trials of the target, within condition, for intervals of
        bits per spike of single pairs; 0 leaves these out.
    seed
        Seed of the bootstrap.
    by
        Trial column whose values the PSTH and the classifier know, such as the odor where trials
        are paired one to one by their number; by default the one that pairs.

    Returns
    -------
    Dataset
        ``source`` holds the subjects and ``"all others"``; a subject as its own source is NaN.
        ``unit`` holds all subjects' units as ``"subject/unit"``, with coordinates
        ``unit_subject`` and ``unit_id``.

        - ``bits_per_spike`` (source, target), ``bits_per_spike_unit`` (source, unit): Poisson
          log-likelihood above that of the training mean rate, per spike of all units, or of one
          (NaN for a unit without held-out spikes).
        - ``bits_per_spike_psth`` (target), ``bits_per_spike_psth_unit`` (unit): the same for the
          PSTH of the training trials, which knows the condition; NaN where held-out trials have a
          condition that no training trial of the target has, as in one-to-one pairing.
        - ``above_psth`` (source, target): bits per spike above that PSTH.
        - ``bits_per_spike_self`` (target): the subject's own reconstruction, which has seen the
          spikes it predicts.
        - ``coherence`` (source, target): balanced accuracy, per trial, of a classifier of the
          target's real training windows when it labels the imputed ones; ``coherence_real``
          (target) when it labels the real held-out ones.
        - ``mean_bits_per_spike``, ``mean_above_psth``, ``mean_coherence`` (sources: one other, all
          others): means over pairs of different animals, and over animals. All others are the
          sessions of all other animals.
        - 95 % ``_interval`` (bound, ...) of ``coherence`` from the number of trials (Wilson), and
          of the means from the differences between animals, NaN with fewer than three; with
          bootstrap also of ``bits_per_spike``, ``above_psth`` and ``bits_per_spike_psth``.

        Of activity that is no spike count in all subjects (fluorescence, z-scores) there are no
        bits: each ``bits_per_spike`` above is then a ``variance_explained``, 1 - the squared error
        as a share of that of the training mean, and `above_psth` a difference of these.

        Attributes: ``score`` is the name of the score, ``"bits_per_spike"`` or
        ``"variance_explained"``; ``warnings`` (JSON, a list of sentences) says what is missing and
        why.

    Raises
    ------
    ValueError
        If the two parts hold different subjects or units, a subject is alone or knows but one
        condition, a trial is in both, or a setting is none.
    TypeError
        If `model` does not impute, or the parts are no paired windows.

    Notes
    -----
    Where windows were paired by behavior, the PSTH is the tuning curve: means of its bins, smoothed
    by a Gaussian of one bin.

    The PSTH is the mean count of a unit in the windows of one condition and time, drawn towards
    the unit's mean rate by a number of pseudo-trials that is chosen per unit by the
    leave-one-trial-out likelihood of the training trials; with a fixed small number the PSTH of
    sparse units overfits and falls below the mean rate. Where subjects were not recorded
    together this is about the ceiling of any prediction from others.
    """
    return scores_of_models([model], train, test, n_bootstraps, seed, by=by)[0]


def scores_of_models(
    models: Sequence[Imputer],
    train: PairedWindows,
    test: PairedWindows,
    n_bootstraps: int = 0,
    seed: int = 0,
    *,
    by: str | None = None,
    done: Callable[[], object] = lambda: None,
) -> list[xr.Dataset]:
    """`imputation_scores` of each model, computing once what all share; `done` after a target."""
    for model in models:
        require_model(model, "imputation_scores")
    require_windows(train, "train", "imputation_scores")
    require_windows(test, "test", "imputation_scores")
    require_samples("imputation_scores", seed, n_bootstraps=n_bootstraps)
    subjects = list(test.subjects)
    if sorted(train.subjects) != sorted(subjects) or len(subjects) < 2:
        raise ValueError(
            f"expected the same subjects in both parts, two or more; got {list(train.subjects)} "
            f"and {subjects}."
        )
    require_parts(train, test, "imputation_scores")
    animals = animals_of(subjects, test.coords().get("animal", (None, None))[1])
    by = by_of(by, test, "imputation_scores")
    spikes = not any(part.why_not_counts(name) for part in (train, test) for name in subjects)
    tables = [_Table(model, test, animals, n_bootstraps) for model in models]
    targets = []
    for t, name in enumerate(subjects):
        target = _Target.of(train, test, name, spikes, by, n_bootstraps, seed + t)
        for table in tables:
            table.add(t, target)
        targets.append(target.without_windows())
        done()
    told = [*(target.told for target in targets), too_few(len(names_of(animals)))]
    attrs = {
        "by": by,
        "score": "bits_per_spike" if spikes else "variance_explained",
        "n_bootstraps": n_bootstraps,
        "warnings": json.dumps([*filter(None, told)]),
    }
    return [table.scores(targets, attrs) for table in tables]


@dataclass(frozen=True)
class _Target:
    """What no model changes of the scores of one subject."""

    name: str
    held: TargetWindows | None
    units: NDArray[Any]
    mean: Array
    """Activity per bin in training, (unit,)."""
    rate: Array
    """PSTH of the held-out windows, (window, unit)."""
    whole: Array
    """What gains are in proportion to, (trial, unit)."""
    gain_psth: Array
    """(trial, unit)."""
    known: Classifier
    """Of the training windows."""
    drawn: NDArray[np.int64]
    """Bootstrap samples, (sample, trial)."""
    coherence: float
    """Of the real held-out windows."""
    told: str
    """Why there is no PSTH."""

    @classmethod
    def of(
        cls,
        train: PairedWindows,
        test: PairedWindows,
        name: str,
        spikes: bool,
        by: str,
        n_bootstraps: int,
        seed: int,
    ) -> _Target:
        seen = TargetWindows.of(train, name, spikes, by)
        held = TargetWindows.of(test, name, spikes, by)
        require_conditions(name, by, seen.condition, "imputation_scores")
        mean = seen.mean_rate()
        near = _nearness(train) if by == train.by else None
        rate = psth(seen, held, mean, near)
        told = ""
        if near is None and not np.isin(held.trial_condition, seen.trial_condition).all():
            rate = np.full_like(rate, np.nan)
            told = (
                f"subject {name!r}: held-out trials have a {by} that no training trial has, "
                "so that its PSTH is not known."
            )
        gain_psth = held.gain(rate[:, :, None], mean)
        if np.isnan(rate).any():
            gain_psth = np.full_like(gain_psth, np.nan)
        known = Classifier(C=1e-3).fit(seen.once(seen.sums()), seen.once_condition())
        return cls(
            name=name,
            held=held,
            units=held.units,
            mean=mean,
            rate=rate,
            whole=held.per_trial(held.measure(mean)),
            gain_psth=gain_psth,
            known=known,
            drawn=bootstrap(len(held.trial_ids), held.trial_condition, n_bootstraps, seed),
            coherence=recall(*held.coherence(known, held.sums())),
            told=told,
        )

    def without_windows(self) -> _Target:
        """Leave out the held-out windows, of which there may be many."""
        return replace(self, held=None, rate=self.rate[:0].copy())


class _Table:
    """Scores of one model, target by target."""

    def __init__(
        self, model: Imputer, test: PairedWindows, animals: Sequence[str], n_bootstraps: int
    ) -> None:
        self.model, self.test, self.animals = model, test, animals
        self.sources = [*test.subjects, ALL_OTHERS]
        n = len(test.subjects)
        shape = (len(self.sources), n)
        self.bits, self.above = np.full(shape, np.nan), np.full(shape, np.nan)
        self.coherence, self.noise = np.full(shape, np.nan), np.full(shape, np.nan)
        self.coherence_ends = np.full((2, *shape), np.nan)
        self.bits_self = np.empty(n)
        self.boot_bits = np.full((n_bootstraps, *shape), np.nan)
        self.boot_above = np.full((n_bootstraps, *shape), np.nan)
        self.unit_bits: list[Array] = []

    def add(self, t: int, target: _Target) -> None:
        """Score what all sources say of a target."""
        held, mean, drawn = target.held, target.mean, target.drawn
        assert held is not None
        n = len(self.test.subjects)
        gain_self = held.gain(self._imputed(target, target.name), mean)
        self.bits_self[t] = _pooled(gain_self, target.whole)
        per_unit = np.full((len(self.sources), target.whole.shape[1]), np.nan)
        of_others = zip(self.test.subjects, self.animals, strict=True)
        others = [name for name, animal in of_others if animal != self.animals[t]]
        for s, source in enumerate(self.sources):
            if source == target.name or (source == ALL_OTHERS and not others):
                continue
            named: str | list[str] | None = source
            if source == ALL_OTHERS:
                named = None if len(others) == n - 1 else others
            expected = self._imputed(target, named)
            gain = held.gain(expected, mean)
            # Where a source is absent there is no prediction, so nothing to score either.
            there = held.per_trial(held.measure(mean, where=expected))
            psth_there = target.gain_psth
            if np.isnan(expected[:, 0, 0]).any() and not np.isnan(target.rate).any():
                psth_there = held.gain(target.rate[:, :, None], mean, where=expected)
            self.bits[s, t] = _pooled(gain, there)
            self.above[s, t] = self.bits[s, t] - _pooled(psth_there, there)
            self.boot_bits[:, s, t] = _pooled(gain, there, drawn)
            self.boot_above[:, s, t] = _pooled(gain - psth_there, there, drawn)
            per_unit[s] = _share(gain.sum(axis=0), there.sum(axis=0))
            hits, trials = held.coherence(target.known, expected.sum(axis=2))
            self.coherence[s, t] = recall(hits, trials)
            self.coherence_ends[:, s, t] = recall_interval(hits, trials)
            self.noise[s, t] = recall_noise(hits, trials)
        self.unit_bits.append(per_unit)

    def _imputed(self, target: _Target, source: str | list[str] | None) -> Array:
        assert target.held is not None
        found = imputed(self.model, self.test, target.name, source, len(target.units))
        return found[target.held.present]

    def scores(self, targets: Sequence[_Target], attrs: dict[str, Any]) -> xr.Dataset:
        """Give the table under its names, with means and intervals."""
        score, n_bootstraps = attrs["score"], len(self.boot_bits)
        psth = [_share(one.gain_psth.sum(axis=0), one.whole.sum(axis=0)) for one in targets]
        scores = xr.Dataset(
            {
                score: (("source", "target"), self.bits),
                "above_psth": (("source", "target"), self.above),
                "coherence": (("source", "target"), self.coherence),
                "coherence_interval": (("bound", "source", "target"), self.coherence_ends),
                f"{score}_self": ("target", self.bits_self),
                f"{score}_psth": ("target", [_pooled(o.gain_psth, o.whole) for o in targets]),
                "coherence_real": ("target", [one.coherence for one in targets]),
                f"{score}_unit": (("source", "unit"), np.concatenate(self.unit_bits, axis=1)),
                f"{score}_psth_unit": ("unit", np.concatenate(psth)),
            },
            coords={
                "source": self.sources,
                "target": list(self.test.subjects),
                "sources": ["one other", ALL_OTHERS],
                "bound": ["low", "high"],
                "target_animal": ("target", list(self.animals)),
                **unit_coords([(one.name, unit) for one in targets for unit in one.units]),
            },
            attrs=attrs,
        )
        named = ((score, self.bits), ("above_psth", self.above), ("coherence", self.coherence))
        for name, values in named:
            means = [
                known_mean(pairs_of_animals(values[:-1], self.animals)[0]),
                known_mean(over_animals(values[-1], self.animals)),
            ]
            scores[f"mean_{name}"] = ("sources", [float(mean) for mean in means])
            shares = name == "coherence"
            ends = means_of_sources(values, self.animals, self.noise if shares else None)
            ends = of_shares(ends) if shares else ends
            scores[f"mean_{name}_interval"] = (("bound", "sources"), ends)
        if n_bootstraps:
            boot_psth = [_pooled(one.gain_psth, one.whole, one.drawn) for one in targets]
            of_pairs = ((score, self.boot_bits), ("above_psth", self.boot_above))
            for name, samples in (*of_pairs, (f"{score}_psth", np.stack(boot_psth, axis=1))):
                dims = ("sample", *scores[name].dims)
                scores[f"{name}_interval"] = interval(xr.DataArray(samples, dims=dims))
        return scores


def means_of_sources(
    values: Array, animals: Sequence[str], noise: Array | None = None
) -> NDArray[np.float64]:
    """95 % intervals (bound, sources) of the means over pairs of animals, and over animals.

    Parameters
    ----------
    values
        (source, target), the last source being all others.
    animals
        Of the targets.
    noise
        Variance of each value from the target's finite trials.
    """
    sessions = np.array([animals.count(name) for name in names_of(animals)])
    of_one = of_all = None
    if noise is not None:
        of_one = known_mean(pairs_of_animals(noise[:-1], animals)[0], -2) / sessions
        of_all = over_animals(noise[-1], animals) / sessions
    one_other = pair_interval(pairs_of_animals(values[:-1], animals)[0], of_one)
    all_others = animal_interval(over_animals(values[-1], animals), of_all)
    return np.stack([one_other, all_others], axis=1)


def recall(hits: Array, trials: Array) -> float:
    """Mean over conditions of the share of trials named rightly; NaN without trials."""
    there = trials > 0
    return float(known_mean(hits[there] / trials[there]))


def unit_coords(units: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Coordinates of a dimension that holds the units of all subjects."""
    return {
        "unit": [f"{subject}/{unit}" for subject, unit in units],
        "unit_subject": ("unit", [subject for subject, _ in units]),
        "unit_id": ("unit", [str(unit) for _, unit in units]),
    }


@dataclass(frozen=True)
class TargetWindows:
    """One subject's windows with the weights that make every trial count once."""

    counts: Array  # (window, unit, lag)
    present: NDArray[np.bool_]  # of all windows, those it takes part in
    condition: NDArray[Any]  # (window,)
    time: Array  # (window,)
    trial: NDArray[np.int64]  # (window,) position in trial_ids
    repeat: NDArray[np.int64]  # (window,) how often that trial and time came before
    weight: Array  # (window,)
    trial_ids: NDArray[Any]
    trial_condition: NDArray[Any]
    units: NDArray[Any]
    onset: Array | None = None  # (trial,) seconds in the session
    spikes: bool = True  # whether activity is counts of spikes

    @classmethod
    def of(
        cls, paired: PairedWindows, name: str, spikes: bool = True, by: str | None = None
    ) -> TargetWindows:
        """Gather them from paired windows, with the values of a trial column as conditions."""
        windows = paired[name]
        values = windows.values
        present = paired.observed[paired.subjects.index(name)]
        condition = np.asarray(windows.coords[by or paired.by].values)[present]
        time = np.asarray(windows.coords["time"].values, float).round(9)[present]
        ids, first, trial = np.unique(
            windows.coords["trial"].values[present], return_index=True, return_inverse=True
        )
        times, tick = np.unique(time, return_inverse=True)
        cell = trial * len(times) + tick
        order = np.argsort(cell, kind="stable")
        _, start, index, n = np.unique(
            cell[order], return_index=True, return_inverse=True, return_counts=True
        )
        repeat = np.empty(len(cell), dtype=np.int64)
        repeat[order] = np.arange(len(cell)) - start[index]
        weight = np.empty(len(cell))
        weight[order] = 1 / n[index]
        onset = None
        if "onset" in windows.coords:
            onset = np.asarray(windows.coords["onset"].values, float)[present][first]
        return cls(
            counts=np.asarray(values[present], float),
            present=present,
            condition=condition,
            time=time,
            trial=trial,
            repeat=repeat,
            weight=weight,
            trial_ids=ids,
            trial_condition=condition[first],
            units=np.asarray(windows.coords["unit"].values),
            onset=onset,
            spikes=spikes,
        )

    @cached_property
    def _sums(self) -> Array:
        return np.asarray(np.einsum("wul->wu", self.counts))

    def sums(self) -> Array:
        """Counts of whole windows, (window, unit)."""
        return self._sums

    def once(self, values: NDArray[Any]) -> NDArray[Any]:
        """Rows of `values` with every trial and time once."""
        return np.asarray(values[self.repeat == 0])

    def once_condition(self) -> NDArray[Any]:
        """Conditions of the rows that `once` keeps."""
        return self.once(self.condition)

    def mean_rate(self) -> Array:
        """Activity per bin and unit; half a spike more, so that no unit is impossible."""
        once = self.once(self.counts)
        return np.asarray((once.sum(axis=(0, 2)) + 0.5 * self.spikes) / once[:, 0].size)

    def per_trial(self, values: Array) -> Array:
        """Weighted sums over the windows of each trial, (trial, unit)."""
        of_trials = np.zeros((len(self.trial_ids), len(self.trial)))
        of_trials[self.trial, np.arange(len(self.trial))] = self.weight
        return of_trials @ values

    def measure(self, mean: Array, where: Array | None = None) -> Array:
        """What gains (window, unit) are in proportion to, of the windows `where` is known.

        Spikes, in units of ln 2 so that nats become bits; of other activity the squares about the
        training mean.
        """
        if self.spikes:
            found = self.sums() * np.log(2)
        else:
            found = np.square(self.counts - mean[:, None]).sum(axis=2)
        return np.asarray(found if where is None else found * ~np.isnan(where[:, 0, :1]))

    def gain(self, expected: Array, mean: Array, where: Array | None = None) -> Array:
        """How much better than the training mean, (trial, unit); NaN counts zero.

        The gain in Poisson log-likelihood, nats; of activity that is no counts in squared error.
        """
        n_lags = self.counts.shape[2]
        if not self.spikes:
            error = np.square(self.counts - expected).sum(axis=2)
            gain = np.square(self.counts - mean[:, None]).sum(axis=2) - error
        else:
            first = expected[:, :, :1]
            if ((expected == first) | np.isnan(first)).all():  # one rate for all lags
                expected = first
            rate = np.maximum(expected, 1e-3 * mean[:, None])
            if expected.shape[2] == 1:
                logs = self.sums() * np.log(rate[:, :, 0] / mean)
                gain = logs - n_lags * (rate[:, :, 0] - mean)
            else:
                logs = np.einsum("wul,wul->wu", self.counts, np.log(rate / mean[:, None]))
                gain = logs - rate.sum(axis=2) + n_lags * mean
        known = ~np.isnan((expected if where is None else where)[:, 0, 0])
        return self.per_trial(np.where(known[:, None], gain, 0.0))

    def coherence(self, known: Classifier, sums: Array) -> tuple[Array, Array]:
        """Trials that a classifier names rightly by their imputed windows, and trials.

        Both (condition), of the conditions that the classifier knows.
        """
        there = ~np.isnan(sums[:, 0])
        if not there.any():
            return np.zeros(len(known.classes_)), np.zeros(len(known.classes_))
        # Each row of partners is one imputed trial; together they count as one.
        n_repeats = self.repeat.max() + 1
        ids, first, position = np.unique(
            (self.trial * n_repeats + self.repeat)[there], return_index=True, return_inverse=True
        )
        windows = Windows(
            z=sums[there],
            condition=self.condition[there],
            time=self.time[there],
            trial=position,
            trial_ids=ids,
            trial_condition=self.condition[there][first],
        )
        votes = tally(known.evidence(windows.z), windows)[1]
        truth = windows.trial_condition[:, None] == known.classes_
        of_trial = ids // n_repeats
        weight = truth / np.bincount(of_trial)[of_trial][:, None]
        return (weight * votes).sum(axis=0), weight.sum(axis=0)


def psth(
    seen: TargetWindows, held: TargetWindows, mean: Array, near: xr.DataArray | None = None
) -> Array:
    """Rate (window of `held`, unit) by condition and time in the windows of `seen`.

    Where conditions are bins of behavior, `near` (condition, other) smooths it over them.
    """
    n_lags = seen.counts.shape[2]
    cells, index = _cells(seen, held)
    y = seen.once(seen.sums())
    index_seen = index[: len(seen.time)][seen.repeat == 0]
    total = np.eye(cells)[:, index_seen] @ y
    n = np.bincount(index_seen, minlength=cells)[:, None]
    if near is not None:
        shown = np.unique(np.concatenate([seen.condition, held.condition]))
        kernel = near.sel(condition=shown, other=shown).values
        kernel = np.kron(kernel, np.eye(cells // len(shown)))
        total, n = kernel @ total, kernel @ n
    expected = mean * n_lags
    # Leave-one-trial-out likelihood (or squared error) of every number of pseudo-trials, per unit.
    fit = np.empty((len(_PRIOR_TRIALS), y.shape[1]))
    for i, prior in enumerate(_PRIOR_TRIALS):
        rate = (total[index_seen] - y + prior * expected) / (n[index_seen] - 1 + prior)
        near = y * np.log(rate) - rate if seen.spikes else -np.square(y - rate)
        fit[i] = near.sum(axis=0)
    prior = _PRIOR_TRIALS[fit.argmax(axis=0)]
    rates = (total + prior * expected) / (n + prior) / n_lags
    return np.asarray(rates[index[len(seen.time) :]])


def _nearness(train: PairedWindows) -> xr.DataArray | None:
    """How near bins of behavior are, (condition, other); None of conditions."""
    if train.behavior is None:
        return None
    labels = np.asarray(train.conditions)
    return xr.DataArray(
        train.nearness, dims=("condition", "other"), coords={"condition": labels, "other": labels}
    )


def _cells(seen: TargetWindows, held: TargetWindows) -> tuple[int, NDArray[np.int64]]:
    """Number of (condition, time) cells, and the cell of each window of both."""
    _, condition = np.unique(np.concatenate([seen.condition, held.condition]), return_inverse=True)
    times, tick = np.unique(np.concatenate([seen.time, held.time]), return_inverse=True)
    cell = condition * len(times) + tick
    return int(cell.max()) + 1, cell


def _share(gain: Array, measure: Array) -> Array:
    """Gain in proportion to its measure: bits per spike, or variance explained; NaN of nothing."""
    return np.asarray(
        np.divide(gain, measure, out=np.full(np.shape(gain), np.nan), where=measure > 0)
    )


def _pooled(gain: Array, measure: Array, drawn: NDArray[np.int64] | None = None) -> Any:
    """The same of all units together, of all trials or of each bootstrap sample."""
    if drawn is None:
        return _share(gain.sum(), measure.sum())
    return _share(drawn @ gain.sum(axis=1), drawn @ measure.sum(axis=1))
