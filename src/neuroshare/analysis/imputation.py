"""How well one subject's spikes are predicted from the latents of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from neuroshare.analysis.inference import (
    bootstrap,
    draw_subjects,
    interval,
    pair_means,
    subject_means,
)
from neuroshare.analysis.separation import (
    Windows,
    balanced_accuracy,
    classifier,
    log_probabilities,
    tally,
)

Array = NDArray[np.float64]
ALL_OTHERS = "all others"
_PRIOR_TRIALS = np.array([0.5, 2, 8, 32, 128, 512, 1e6])


class Paired(Protocol):
    """What a score needs of paired windows."""

    @property
    def subjects(self) -> tuple[str, ...]:
        """Names."""

    @property
    def by(self) -> str:
        """Name of the condition."""

    def __getitem__(self, subject: str) -> xr.DataArray:
        """Counts (window, unit, lag), NaN where absent."""


class Imputer(Protocol):
    """What a score needs of a fitted model."""

    def impute(
        self, paired: Any, target: str, source: str | Sequence[str] | None = None
    ) -> xr.DataArray:
        """Expected counts (window, unit, lag) of the target."""


def imputation_scores(
    model: Imputer, train: Paired, test: Paired, n_bootstraps: int = 0, seed: int = 0
) -> xr.Dataset:
    """Score predicted spikes of held-out windows, for every source and target.

    Parameters
    ----------
    model
        Fitted; its ``impute(test, target, source)`` gives expected counts (window, unit, lag).
    train
        Windows it was fitted on: they give the mean rate, the PSTH and the classifier of
        `coherence`.
    test
        Held-out windows. A window that occurs again because its partners differ weighs
        accordingly less, so every trial counts once.
    n_bootstraps
        Bootstrap samples over held-out trials of the target, within condition; 0 leaves the
        intervals out.
    seed
        Seed of the bootstrap.

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
          PSTH of the training trials, which knows the condition.
        - ``above_psth`` (source, target): bits per spike above that PSTH.
        - ``mean_bits_per_spike``, ``mean_above_psth``, ``mean_coherence`` (sources: one other, all
          others): means over pairs, and over targets.
        - ``bits_per_spike_self`` (target): the subject's own reconstruction, which has seen the
          spikes it predicts.
        - ``coherence`` (source, target): balanced accuracy, per trial, of a classifier of the
          target's real training windows when it labels the imputed ones; ``coherence_real``
          (target) when it labels the real held-out ones.
        - with bootstrap, 95 % ``_interval`` (bound, ...) of all of these but the scores per unit,
          of the subject's own and of real trials; those of the means are hierarchical over
          subjects, and ``sample_mean_...`` (sample, sources) are the samples behind them: paired
          between models that are scored with one seed on the same held-out trials.

    Raises
    ------
    ValueError
        If the two parts hold different subjects, a subject is alone, or a trial is in both.

    Notes
    -----
    The PSTH is the mean count of a unit in the windows of one condition and time, drawn towards
    the unit's mean rate by a number of pseudo-trials that is chosen per unit by the
    leave-one-trial-out likelihood of the training trials; with a fixed small number the PSTH of
    sparse units overfits and falls below the mean rate. Where subjects were not recorded
    together this is about the ceiling of any prediction from others.
    """
    subjects = list(test.subjects)
    if sorted(train.subjects) != sorted(subjects) or len(subjects) < 2:
        raise ValueError(
            f"expected the same subjects in both parts, two or more; got {list(train.subjects)} "
            f"and {subjects}."
        )
    sources = [*subjects, ALL_OTHERS]
    n = len(subjects)
    shape = (len(sources), n)
    bits, above, coherence = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    bits_self, bits_psth, coherence_real = np.empty(n), np.empty(n), np.empty(n)
    boot_bits = np.full((n_bootstraps, *shape), np.nan)
    boot_above = np.full((n_bootstraps, *shape), np.nan)
    boot_coherence = np.full((n_bootstraps, *shape), np.nan)
    boot_psth = np.full((n_bootstraps, n), np.nan)
    unit_bits: list[Array] = []
    unit_psth: list[Array] = []
    units: list[Any] = []
    for t, target in enumerate(subjects):
        seen = TargetWindows.of(train, target)
        held = TargetWindows.of(test, target)
        if len(shared := np.intersect1d(seen.trial_ids, held.trial_ids)):
            raise ValueError(
                f"trials {shared[:5].tolist()} of subject {target!r} are in both parts. Split by "
                "trial before pairing, as PairedWindows.split does."
            )
        mean = seen.mean_rate()
        rate = psth(seen, held, mean)
        counts = held.per_trial(held.counts.sum(axis=2))
        gain_psth = held.log_likelihood_gain(rate[:, :, None], mean)
        gain_self = held.log_likelihood_gain(
            model.impute(test, target=target, source=target).values[held.present], mean
        )
        known = classifier(C=1e-3).fit(seen.once(seen.sums()), seen.once_condition())
        drawn = bootstrap(len(held.trial_ids), held.trial_condition, n_bootstraps, seed + t)
        coherence_real[t] = held.coherence(known, held.sums(), drawn[:0])[0]
        bits_psth[t] = _bits(gain_psth, counts)
        boot_psth[:, t] = _bits(gain_psth, counts, drawn)
        bits_self[t] = _bits(gain_self, counts)
        per_unit = np.full((len(sources), counts.shape[1]), np.nan)
        for s, source in enumerate(sources):
            if source == target:
                continue
            expected = model.impute(
                test, target=target, source=None if source == ALL_OTHERS else source
            ).values[held.present]
            gain = held.log_likelihood_gain(expected, mean)
            # Where a source is absent there is no prediction, so nothing to score either.
            there = held.per_trial(held.spikes_where(expected))
            psth_there = gain_psth
            if np.isnan(expected[:, 0, 0]).any():
                psth_there = held.log_likelihood_gain(rate[:, :, None], mean, where=expected)
            bits[s, t] = _bits(gain, there)
            above[s, t] = bits[s, t] - _bits(psth_there, there)
            boot_bits[:, s, t] = _bits(gain, there, drawn)
            boot_above[:, s, t] = _bits(gain - psth_there, there, drawn)
            per_unit[s] = _per_spike(gain.sum(axis=0), there.sum(axis=0))
            found = held.coherence(known, expected.sum(axis=2), drawn)
            coherence[s, t], boot_coherence[:, s, t] = found[0], found[1:]
        unit_bits.append(per_unit)
        unit_psth.append(_per_spike(gain_psth.sum(axis=0), counts.sum(axis=0)))
        units += [(target, unit) for unit in held.units]

    scores = xr.Dataset(
        {
            "bits_per_spike": (("source", "target"), bits),
            "above_psth": (("source", "target"), above),
            "coherence": (("source", "target"), coherence),
            "bits_per_spike_self": ("target", bits_self),
            "bits_per_spike_psth": ("target", bits_psth),
            "coherence_real": ("target", coherence_real),
            "bits_per_spike_unit": (("source", "unit"), np.concatenate(unit_bits, axis=1)),
            "bits_per_spike_psth_unit": ("unit", np.concatenate(unit_psth)),
        },
        coords={"source": sources, "target": subjects, **unit_coords(units)},
        attrs={"by": test.by, "n_bootstraps": n_bootstraps},
    )
    one_other = scores["source"] != ALL_OTHERS
    for name in ("bits_per_spike", "above_psth", "coherence"):
        means = [scores[name].where(one_other).mean(), scores[name].where(~one_other).mean()]
        scores[f"mean_{name}"] = xr.DataArray(
            [float(mean) for mean in means],
            dims="sources",
            coords={"sources": ["one other", ALL_OTHERS]},
        )
    if n_bootstraps:
        values: Array
        chosen = draw_subjects(n, n_bootstraps, seed)
        of_pairs = (
            ("bits_per_spike", boot_bits),
            ("above_psth", boot_above),
            ("coherence", boot_coherence),
        )
        for name, values in of_pairs:
            drawn_means = [pair_means(values[:, :-1], chosen), subject_means(values[:, -1], chosen)]
            samples = xr.DataArray(
                np.stack(drawn_means, axis=1),
                dims=("sample", "sources"),
                coords={"sources": scores["sources"]},
            )
            scores[f"sample_mean_{name}"] = samples
            scores[f"mean_{name}_interval"] = interval(samples)
        for name, values in (*of_pairs, ("bits_per_spike_psth", boot_psth)):
            samples = xr.DataArray(values, dims=("sample", *scores[name].dims))
            scores[f"{name}_interval"] = interval(samples)
    return scores


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

    @classmethod
    def of(cls, paired: Paired, name: str) -> TargetWindows:
        """Gather them from paired windows."""
        windows = paired[name]
        values = windows.values
        present = np.ones(len(values), dtype=bool)
        if np.issubdtype(values.dtype, np.floating):
            present = ~np.isnan(values[:, 0, 0])
        condition = np.asarray(windows.coords[paired.by].values)[present]
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
        )

    def sums(self) -> Array:
        """Counts of whole windows, (window, unit)."""
        return np.asarray(self.counts.sum(axis=2))

    def once(self, values: NDArray[Any]) -> NDArray[Any]:
        """Rows of `values` with every trial and time once."""
        return np.asarray(values[self.repeat == 0])

    def once_condition(self) -> NDArray[Any]:
        """Conditions of the rows that `once` keeps."""
        return self.once(self.condition)

    def mean_rate(self) -> Array:
        """Spikes per bin and unit; half a spike more, so that no unit is impossible."""
        once = self.once(self.counts)
        return np.asarray((once.sum(axis=(0, 2)) + 0.5) / (once.shape[0] * once.shape[2]))

    def per_trial(self, values: Array) -> Array:
        """Weighted sums over the windows of each trial, (trial, unit)."""
        total = np.zeros((len(self.trial_ids), values.shape[1]))
        np.add.at(total, self.trial, values * self.weight[:, None])
        return total

    def spikes_where(self, expected: Array) -> Array:
        """Spikes (window, unit) of the windows for which there is a prediction."""
        known = ~np.isnan(expected[:, 0, 0])
        return self.sums() * known[:, None]

    def log_likelihood_gain(
        self, expected: Array, mean: Array, where: Array | None = None
    ) -> Array:
        """Poisson log-likelihood above that of the mean rate, (trial, unit); NaN counts zero."""
        n_lags = self.counts.shape[2]
        rate = np.maximum(expected, 1e-3 * mean[:, None])
        if expected.shape[2] == 1:
            logs = self.sums() * np.log(rate[:, :, 0] / mean)
            gain = logs - n_lags * (rate[:, :, 0] - mean)
        else:
            logs = np.einsum("wul,wul->wu", self.counts, np.log(rate / mean[:, None]))
            gain = logs - rate.sum(axis=2) + n_lags * mean
        known = ~np.isnan((expected if where is None else where)[:, 0, 0])
        return self.per_trial(np.where(known[:, None], gain, 0.0))

    def coherence(self, known: Pipeline, sums: Array, drawn: NDArray[np.int64]) -> Array:
        """Balanced accuracy per trial of a classifier's labels for imputed windows.

        Of the trials as they are, then of every bootstrap sample `drawn` (sample, trial).
        """
        there = ~np.isnan(sums[:, 0])
        if not there.any():
            return np.full(1 + len(drawn), np.nan)
        # Each row of partners is one imputed trial.
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
        votes = tally(log_probabilities(known, windows.z), windows)[:, None]
        truth = windows.trial_condition[:, None] == known.classes_
        of_trial = ids // n_repeats
        weight = np.concatenate([np.ones((1, len(self.trial_ids))), drawn])[:, of_trial]
        weight = weight / np.bincount(of_trial)[of_trial]
        return balanced_accuracy(truth * weight[:, :, None], votes)[:, 1, 0]


def psth(seen: TargetWindows, held: TargetWindows, mean: Array) -> Array:
    """Rate (window of `held`, unit) by condition and time in the windows of `seen`."""
    n_lags = seen.counts.shape[2]
    cells, index = _cells(seen, held)
    y = seen.once(seen.sums())
    index_seen = index[: len(seen.time)][seen.repeat == 0]
    total = np.zeros((cells, y.shape[1]))
    np.add.at(total, index_seen, y)
    n = np.bincount(index_seen, minlength=cells)[:, None]
    expected = mean * n_lags
    # Leave-one-trial-out likelihood of every number of pseudo-trials, per unit.
    fit = np.empty((len(_PRIOR_TRIALS), y.shape[1]))
    for i, prior in enumerate(_PRIOR_TRIALS):
        rate = (total[index_seen] - y + prior * expected) / (n[index_seen] - 1 + prior)
        fit[i] = (y * np.log(rate) - rate).sum(axis=0)
    prior = _PRIOR_TRIALS[fit.argmax(axis=0)]
    rates = (total + prior * expected) / (n + prior) / n_lags
    return np.asarray(rates[index[len(seen.time) :]])


def _cells(seen: TargetWindows, held: TargetWindows) -> tuple[int, NDArray[np.int64]]:
    """Number of (condition, time) cells, and the cell of each window of both."""
    _, condition = np.unique(np.concatenate([seen.condition, held.condition]), return_inverse=True)
    times, tick = np.unique(np.concatenate([seen.time, held.time]), return_inverse=True)
    cell = condition * len(times) + tick
    return int(cell.max()) + 1, cell


def _per_spike(gain: Array, spikes: Array) -> Array:
    """Nats to bits per spike; NaN without spikes."""
    bits = np.divide(gain, spikes, out=np.full(np.shape(gain), np.nan), where=spikes > 0)
    return np.asarray(bits / np.log(2))


def _bits(gain: Array, spikes: Array, drawn: NDArray[np.int64] | None = None) -> Any:
    """Bits per spike pooled over units, of all trials or of each bootstrap sample."""
    if drawn is None:
        return _per_spike(gain.sum(), spikes.sum())
    return _per_spike(drawn @ gain.sum(axis=1), drawn @ spikes.sum(axis=1))
