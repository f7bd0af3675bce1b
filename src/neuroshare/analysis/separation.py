"""How well latents tell conditions apart, within a subject and from one subject to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from neuroshare.analysis.inference import (
    bootstrap,
    draw_subjects,
    interval,
    p_value,
    pair_means,
    sign_flip,
    subject_means,
)

Array = NDArray[np.float64]
LEVELS = ("window", "trial")


def separation(
    train_latents: xr.DataArray,
    test_latents: xr.DataArray,
    by: str | None = None,
    n_permutations: int = 0,
    n_bootstraps: int = 0,
    seed: int = 0,
    *,
    C: float = 1.0,
) -> xr.Dataset:
    """Decode the condition from latents: within each subject, and across subjects.

    A multinomial logistic regression (standardised latents, balanced classes) is fitted on
    the training windows of a source subject and scored on the held-out windows of every target:
    ``own`` where they are the same animal, ``cross`` where they are not. Only `cross` shows that
    the latent space is shared.

    Parameters
    ----------
    train_latents, test_latents
        Latents (subject, window, latent) as `transform` returns them, with coordinates `by` and
        ``time`` (window) and ``trial`` (subject, window). NaN where a subject is absent: those
        windows are left out. A window that occurs again because its partners differ counts once,
        with its latents averaged.
    by
        Coordinate of the condition; None takes ``attrs["by"]``.
    n_permutations
        Permutations of the null; 0 leaves it out.
    n_bootstraps
        Bootstrap samples of the intervals; 0 leaves them out.
    seed
        Seed of permutations and bootstrap.
    C
        Inverse strength of the classifier's penalty. The default suits a few latents; hundreds of
        raw counts want about 0.001.

    Returns
    -------
    Dataset
        - ``own`` (level, subject), ``cross`` (level, source, target; NaN on the diagonal):
          balanced accuracy per window, and per trial (log-probabilities summed over its windows);
          ``mean_own``, ``mean_cross`` (level) are their means, ``chance`` is 1 / conditions.
        - ``n_conditions`` (source, target): where a subject lacks conditions, a pair is scored on
          those that its source was taught and its target was shown.
        - ``confusion`` (source, target, condition, predicted): held-out trials.
        - ``time_course`` (source, target, time): balanced accuracy of windows by their time.
        - ``silhouette`` (subject): of the held-out windows by condition.
        - ``p_sign_flip_own``, ``p_sign_flip_cross`` (level): sign-flip test over (target)
          subjects; attribute ``statement`` says what p can be reached.
        - with permutations: ``p_own``, ``p_cross``, ``p_mean_own``, ``p_mean_cross`` and the
          ``null_`` of each (permutation, ...).
        - with bootstrap: ``own_interval``, ``cross_interval``, ``mean_own_interval``,
          ``mean_cross_interval`` (bound, ...), 95 %, and ``sample_mean_own``,
          ``sample_mean_cross`` (sample, level), the samples of the means: with the same seed and
          held-out trials those of two models are paired, so that their differences have an
          interval too.

    Raises
    ------
    ValueError
        If the arrays lack dims or coordinates, subjects or latents differ between them, a held-out
        condition was not seen in training, or a trial occurs in both.

    Notes
    -----
    The null permutes the conditions of whole held-out trials within each target subject and keeps
    the classifiers: they were fitted on other trials, so under the hypothesis that a subject's
    latents do not depend on its conditions the labels of its held-out trials are exchangeable, and
    the test is exact without any refit. All sources of one target see the same permutation, which
    gives the null of the means. Latents of one subject must then not depend on its partners, which
    share its condition by construction: for joint posteriors (a product or mixture over subjects)
    use the re-pairing null, ``repair(seed, shuffle_conditions=True)`` and refit.

    The bootstrap draws held-out trials within subject and condition; for the means it first draws
    subjects. The classifiers stay, so intervals do not hold the variability of the training part.

    To score a control stretch before the stimulus, give the latents of its windows to both parts.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> rng = np.random.default_rng(0)
    >>> def latents(first):
    ...     odor = np.tile(["A", "B"], 20)
    ...     z = rng.normal(size=(2, 40, 3)) + 4 * (odor == "B")[:, None]
    ...     trial = np.broadcast_to(first + np.arange(40), (2, 40))
    ...     coords = {"subject": ["mitt", "stella"], "odor": ("window", odor)}
    ...     coords |= {"time": ("window", np.zeros(40)), "trial": (("subject", "window"), trial)}
    ...     return xr.DataArray(z, dims=("subject", "window", "latent"), coords=coords)
    >>> scores = separation(latents(0), latents(40), by="odor")
    >>> scores.cross.sel(level="trial", source="mitt", target="stella").item()
    1.0
    """
    by = _pairing_column(train_latents, by)
    train = _windows(train_latents, by)
    test = _windows(test_latents, by)
    subjects = list(train)
    n_latents = train_latents.sizes["latent"]
    if set(test) != set(subjects) or n_latents != test_latents.sizes["latent"]:
        raise ValueError(
            f"expected held-out latents of {subjects}, {n_latents} per subject, "
            f"got {list(test)}, {test_latents.sizes['latent']} per subject."
        )
    # The classifiers know every training condition, also one that no held-out trial has.
    known = np.unique(np.concatenate([part.condition for part in train.values()]))
    for name in subjects:
        _check_parts(name, by, train[name], test[name])
        unseen = sorted(set(test[name].condition.tolist()) - set(train[name].condition.tolist()))
        if unseen:
            raise ValueError(
                f"subject {name!r}: held-out {by} {unseen} unseen in its training windows. "
                "Leave these conditions out of both parts."
            )
        if len(np.unique(train[name].condition)) < 2:
            raise ValueError(
                f"separation needs two conditions or more of {by!r} in subject {name!r}; its "
                f"training windows have {np.unique(train[name].condition).tolist()}."
            )
    taught = np.stack([np.isin(known, train[name].condition) for name in subjects])
    if len(known) < 2:
        raise ValueError(f"separation needs two conditions or more; {by!r} has {known.tolist()}.")

    classifiers = {name: classifier(C).fit(part.z, part.condition) for name, part in train.items()}
    times = np.unique(np.concatenate([part.time for part in test.values()]))
    n, n_known = len(subjects), len(known)
    accuracy = np.empty((len(LEVELS), n, n))
    confusion = np.zeros((n, n, n_known, n_known), dtype=int)
    time_course = np.full((n, n, len(times)), np.nan)
    null = np.empty((n_permutations, len(LEVELS), n, n))
    boot = np.empty((n_bootstraps, len(LEVELS), n, n))
    seeds = np.random.SeedSequence(seed).spawn(n)
    for t, name in enumerate(subjects):
        part = test[name]
        tallies, by_time = [], []
        for source in subjects:
            log_p = np.full((len(part.z), n_known), -np.inf)
            taught_here = np.isin(known, classifiers[source].classes_)
            log_p[:, taught_here] = log_probabilities(classifiers[source], part.z)
            tallies.append(tally(log_p, part))
            by_time.append(_hits_by_time(log_p, part, known, times))
        votes = np.stack(tallies, axis=1)  # (level, source, trial, predicted)
        truth = part.trial_condition[:, None] == known  # (trial, condition)
        accuracy[:, :, t] = balanced_accuracy(truth[None], votes, taught)[0]
        confusion[:, t] = np.einsum("ic,sik->sck", truth, votes[1]).astype(int)
        time_course[:, t] = np.stack(by_time)
        rng = np.random.default_rng(seeds[t])
        if n_permutations:
            permuted = np.stack([truth[rng.permutation(len(truth))] for _ in range(n_permutations)])
            null[:, :, :, t] = balanced_accuracy(permuted, votes, taught)
        if n_bootstraps:
            # Not from the same stream, so that the samples do not depend on the permutations.
            own_seed = int(seeds[t].generate_state(1)[0])
            drawn = bootstrap(len(truth), part.trial_condition, n_bootstraps, own_seed)
            boot[:, :, :, t] = balanced_accuracy(truth * drawn[:, :, None], votes, taught)

    scores = xr.Dataset(
        {
            "chance": 1 / n_known,
            "n_conditions": (("source", "target"), _n_scored(taught, test, known)),
            "confusion": (("source", "target", "condition", "predicted"), confusion),
            "time_course": (("source", "target", "time"), time_course),
            "silhouette": ("subject", [_silhouette(test[name]) for name in subjects]),
        },
        coords={
            "level": list(LEVELS),
            "subject": subjects,
            "source": subjects,
            "target": subjects,
            "condition": known,
            "predicted": known,
            "time": times,
        },
        attrs={"by": by, "n_permutations": n_permutations, "n_bootstraps": n_bootstraps},
    )
    labelled = _own_and_cross(accuracy[None], scores)
    scores = scores.merge({name: array.isel(draw=0) for name, array in labelled.items()})
    for kind, over in (("own", "subject"), ("cross", "target")):
        per_subject = scores[kind] if kind == "own" else _mean(scores[kind], "source")
        tested = [sign_flip(per_subject.sel(level=lv) - scores.chance) for lv in LEVELS]
        scores[f"p_sign_flip_{kind}"] = ("level", [p for p, _ in tested])
        scores.attrs["statement"] = sign_flip(np.zeros(per_subject.sizes[over]))[1]
    if n_permutations:
        scores.attrs["statement"] += (
            f" {n_permutations} permutations cannot give p below 1/{n_permutations + 1}."
        )
        for name, array in _own_and_cross(null, scores).items():
            scores[f"null_{name}"] = array.rename(draw="permutation")
            scores[f"p_{name}"] = (array.dims[1:], p_value(scores[name], array))
    if n_bootstraps:
        for name, array in _own_and_cross(boot, scores).items():
            if not name.startswith("mean"):
                scores[f"{name}_interval"] = interval(array, "draw")
        chosen = draw_subjects(n, n_bootstraps, seed)
        own = np.diagonal(boot, axis1=2, axis2=3)
        for name, values in (
            ("mean_own", subject_means(own, chosen)),
            ("mean_cross", pair_means(boot, chosen)),
        ):
            samples = xr.DataArray(values, dims=("sample", "level"), coords={"level": list(LEVELS)})
            scores[f"sample_{name}"] = samples
            scores[f"{name}_interval"] = interval(samples)
    return scores


def classifier(C: float = 1.0) -> Pipeline:
    """Multinomial logistic regression on standardised features, with balanced classes."""
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=C, class_weight="balanced", max_iter=2000)
    )


def log_probabilities(known: Pipeline, z: NDArray[Any]) -> Array:
    """Log-probabilities (window, condition), finite also where the classifier is certain."""
    decision = known.decision_function(z)
    if decision.ndim == 1:  # two conditions
        decision = np.stack([np.zeros_like(decision), decision], axis=1)
    return np.asarray(log_softmax(decision, axis=1))


@dataclass(frozen=True)
class Windows:
    """One subject's windows, each (trial, time) once."""

    z: Array  # (window, latent)
    condition: NDArray[Any]  # (window,)
    time: Array  # (window,)
    trial: NDArray[np.int64]  # (window,) position in trial_ids
    trial_ids: NDArray[Any]
    trial_condition: NDArray[Any]  # (trial,)


def _pairing_column(latents: xr.DataArray, by: str | None) -> str:
    if not isinstance(latents, xr.DataArray):
        raise TypeError(f"expected latents as a DataArray, got {type(latents).__name__}.")
    by = latents.attrs.get("by") if by is None else by
    if by is None:
        raise ValueError("latents name no condition in attrs['by']; give by='...'.")
    return by


def _windows(latents: xr.DataArray, by: str) -> dict[str, Windows]:
    """Check the labels of latents, and part them by subject."""
    missing = {"subject", "window", "latent"} - set(latents.dims)
    lacking = {by, "time", "trial"} - set(latents.coords)
    if missing or lacking:
        raise ValueError(
            f"expected latents with dims (subject, window, latent) and coordinates {by!r}, 'time' "
            f"and 'trial'; missing: {sorted(missing | lacking)}. Found dims {latents.dims}, "
            f"coordinates {list(latents.coords)}."
        )
    latents = latents.transpose("subject", "window", "latent")
    trial = latents.coords["trial"].transpose("subject", "window").values
    condition = np.asarray(latents.coords[by].values)
    time = np.asarray(latents.coords["time"].values, float).round(9)
    parts = {}
    for index, name in enumerate(latents.coords["subject"].values.tolist()):
        z = np.asarray(latents.values[index], float)
        there = ~np.isnan(z).any(axis=1)
        if not there.any():
            raise ValueError(f"subject {name!r} is absent from every window. Leave it out.")
        if np.isinf(z).any():
            raise ValueError(
                f"subject {name!r}: expected finite latents, or NaN in windows without it, got "
                "infinite ones. Fit again with a smaller learning rate (lr)."
            )
        parts[str(name)] = _once(z[there], trial[index][there], condition[there], time[there], by)
    return parts


def _once(z: Array, trial: NDArray[Any], condition: NDArray[Any], time: Array, by: str) -> Windows:
    ids, first, position = np.unique(trial, return_index=True, return_inverse=True)
    of_trial = condition[first]
    if not (of_trial[position] == condition).all():
        double = ids[np.unique(position[of_trial[position] != condition])].tolist()
        raise ValueError(f"trials {double[:5]} occur with several values of {by!r}; expected one.")
    times, tick = np.unique(time, return_inverse=True)
    cells, index, n = np.unique(
        position * len(times) + tick, return_inverse=True, return_counts=True
    )
    total = np.zeros((len(cells), z.shape[1]))
    np.add.at(total, index, z)
    position = cells // len(times)
    return Windows(
        z=total / n[:, None],
        condition=of_trial[position],
        time=times[cells % len(times)],
        trial=position,
        trial_ids=ids,
        trial_condition=of_trial,
    )


def _check_parts(name: str, by: str, train: Windows, test: Windows) -> None:
    shared = np.intersect1d(train.trial_ids, test.trial_ids)
    if len(shared):
        raise ValueError(
            f"trials {shared[:5].tolist()}{' ...' if len(shared) > 5 else ''} of subject {name!r} "
            "are in both parts: overlapping windows of one trial would count as evidence. Split "
            "by trial before pairing, as PairedWindows.split does."
        )


def tally(log_p: Array, part: Windows) -> Array:
    """How many windows, and whole trials, of each trial go to each condition."""
    n_trials, n_conditions = len(part.trial_ids), log_p.shape[1]
    votes = np.zeros((len(LEVELS), n_trials, n_conditions))
    np.add.at(votes[0], (part.trial, log_p.argmax(axis=1)), 1)
    summed = np.zeros((n_trials, n_conditions))
    np.add.at(summed, part.trial, log_p)
    votes[1, np.arange(n_trials), summed.argmax(axis=1)] = 1
    return votes


def balanced_accuracy(
    truth: NDArray[Any], votes: Array, taught: NDArray[np.bool_] | None = None
) -> Array:
    """Mean recall over conditions, (draw, level, source).

    `truth` (draw, trial, condition) are weights: labels, permuted or drawn again. Conditions
    without held-out trials are left out, and so are those that a source was not `taught` (source,
    condition): nobody can name what they never saw.
    """
    hits = np.einsum("dic,lsic->dlsc", truth, votes, optimize=True)
    total = np.einsum("dic,lsi->dlsc", truth, votes.sum(axis=3), optimize=True)
    if taught is not None:
        total = total * taught
    recall = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
    n = (total > 0).sum(axis=3)
    return np.where(n > 0, recall.sum(axis=3) / np.maximum(n, 1), np.nan)


def _n_scored(
    taught: NDArray[np.bool_], test: dict[str, Windows], known: NDArray[Any]
) -> NDArray[np.int64]:
    """How many conditions a pair is scored on: taught by the source, held out in the target."""
    held_out = np.stack([np.isin(known, part.condition) for part in test.values()])
    return np.asarray((taught[:, None] & held_out[None]).sum(axis=2))


def _hits_by_time(log_p: Array, part: Windows, known: NDArray[Any], times: Array) -> Array:
    """Balanced accuracy of the windows at each time; NaN where there are none."""
    truth = (part.condition[:, None] == known) & np.isfinite(log_p).any(axis=0)
    hit = known[log_p.argmax(axis=1)] == part.condition
    at = np.searchsorted(times, part.time)
    hits, total = np.zeros((len(times), len(known))), np.zeros((len(times), len(known)))
    np.add.at(hits, at, truth * hit[:, None])
    np.add.at(total, at, truth)
    recall = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
    n = (total > 0).sum(axis=1)
    return np.where(n > 0, recall.sum(axis=1) / np.maximum(n, 1), np.nan)


def _silhouette(part: Windows) -> float:
    n = len(np.unique(part.condition))
    if not 1 < n < len(part.z):
        return float("nan")
    # Quadratic in windows: a few thousand of them tell as much.
    step = -(-len(part.z) // 4000)
    return float(silhouette_score(part.z[::step], part.condition[::step]))


def _own_and_cross(accuracy: Array, scores: xr.Dataset) -> dict[str, xr.DataArray]:
    """Label accuracies (draw, level, source, target) and average them over subjects."""
    pairs = xr.DataArray(
        accuracy,
        dims=("draw", "level", "source", "target"),
        coords={name: scores[name] for name in ("level", "source", "target")},
    )
    names = scores["subject"].values
    own = xr.DataArray(
        np.diagonal(accuracy, axis1=2, axis2=3),
        dims=("draw", "level", "subject"),
        coords={"level": scores["level"], "subject": names},
    )
    cross = pairs.where(pairs["source"] != pairs["target"])
    return {
        "own": own,
        "cross": cross,
        "mean_own": own.mean("subject"),
        "mean_cross": _mean(cross, "source", "target"),
    }


def _mean(array: xr.DataArray, *dims: str) -> xr.DataArray:
    """Mean over known values; NaN, without a warning, where there are none."""
    return array.sum(dims, min_count=1) / array.notnull().sum(dims)
