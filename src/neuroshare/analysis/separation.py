"""How well latents tell conditions apart, within a subject and from one subject to another."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroshare.analysis.classification import (
    LEVELS,
    Answered,
    Classifier,
    Windows,
    accuracy_by_time,
    balanced_accuracy,
    classifiers_of_others,
    scores_of_pairs,
    windows_by_subject,
)
from neuroshare.analysis.inference import (
    animal_interval,
    bootstrap,
    known_mean,
    names_of,
    of_shares,
    over_animals,
    pair_interval,
    pairs_of_animals,
    recall_interval,
    recall_noise,
    sign_flip,
    too_few,
)
from neuroshare.analysis.inputs import (
    animals_of,
    require_apart,
    require_conditions,
    require_latents,
    require_samples,
)
from neuroshare.analysis.nulls import (
    HowNull,
    Null,
    draws_of_means,
    null_labels,
    orders_of,
)
from neuroshare.support.checks import require, require_number, require_one_of
from neuroshare.windows.order import Kind, LabelOrder, label_order

Array = NDArray[np.float64]


def separation(
    train_latents: xr.DataArray,
    test_latents: xr.DataArray,
    by: str | None = None,
    n_permutations: int = 0,
    n_bootstraps: int = 0,
    seed: int = 0,
    *,
    null: HowNull = "auto",
    animal: Mapping[str, str] | None = None,
    pooled: bool = True,
    C: float = 1.0,
) -> xr.Dataset:
    """Decode the condition from latents: within each subject, and across subjects.

    A multinomial logistic regression (standardised latents, balanced classes) is fitted on
    the training windows of a source subject and scored on the held-out windows of every target:
    ``own`` where they are the same subject, ``cross`` where they are not, ``pooled`` where the
    classifier is fitted on the windows of all other animals together. Only `cross` and `pooled`
    show that the latent space is shared.

    Parameters
    ----------
    train_latents, test_latents
        Latents (subject, window, latent) as `transform` returns them, with coordinates `by` and
        ``time`` (window) and ``trial`` (subject, window). NaN where a subject is absent: those
        windows are left out. A window that occurs again because its partners differ counts once,
        with its latents averaged. Times of the trials in the session are taken from ``onset``
        (subject, window) where it is there, else the order of trial ids is that of the session.
    by
        Coordinate of the condition, (window) or (subject, window): also another trial column than
        the one that paired. None takes ``attrs["by"]``.
    n_permutations
        Draws of the null; 0 leaves it out.
    n_bootstraps
        Bootstrap samples of held-out trials, for intervals of differences between models; 0 leaves
        them out.
    seed
        Seed of null and bootstrap.
    null
        How labels of held-out trials are drawn. ``"auto"`` asks the order of each subject's labels;
        ``"shuffle"`` permutes them between trials, ``"order"`` keeps their order in any case.
    animal
        Subject -> animal, where several subjects are sessions of one animal; by default the
        coordinate ``animal`` (subject), or else every subject is an animal of its own.
    pooled
        Fit the classifiers of all other animals together too.
    C
        Inverse strength of the classifier's penalty. The default suits a few latents; hundreds of
        raw counts want about 0.001.

    Returns
    -------
    Dataset
        - ``own`` (level, subject), ``cross`` (level, source, target; NaN on the diagonal),
          ``pooled`` (level, target): balanced accuracy per window, and per trial
          (log-probabilities summed over its windows).
        - ``mean_own``, ``mean_cross``, ``mean_pooled`` (level): means over animals, and over pairs
          of different animals. Where animals have several sessions, ``cross_within`` (level,
          animal) and ``mean_cross_within`` are of different sessions of one animal.
        - ``own_interval``, ``cross_interval``, ``pooled_interval`` (bound, ...): 95 %, from the
          number of held-out trials (Wilson). ``mean_..._interval`` (bound, level): 95 %, from the
          differences between animals; NaN with fewer than three.
        - ``chance_own`` (subject), ``chance_cross`` (source, target), ``chance_pooled`` (target):
          1 / the conditions that a classifier was taught and its target was shown, which are the
          only ones it may answer; NaN, and no score, where there is but one. ``chance`` is the mean
          of `chance_own`, ``chance_mean_own`` and so on those of the means, of the same pairs of
          animals; ``n_conditions`` (source, target) their number.
        - ``confusion`` (source, target, condition, predicted): held-out trials.
        - ``time_course`` (source, target, time): balanced accuracy of windows by their time.
        - ``silhouette`` (subject): of the held-out windows by condition.
        - ``p_sign_flip_own``, ``p_sign_flip_cross``, ``p_sign_flip_pooled`` (level): sign-flip test
          over (target) animals that accuracy is above chance.
        - with permutations: ``p_`` and ``null_`` (permutation, ...) of each score and each mean;
          ``p_floor`` and ``n_labellings`` (subject): below which no p of a subject can be, and in
          how many ways its held-out trials can be labelled.
        - with bootstrap: ``sample_own``, ``sample_cross``, ``sample_pooled`` (sample, ...): with
          one seed and the same held-out trials those of two models are paired.

        Attributes: ``null`` says how labels were drawn and ``null_reason`` why, ``statement`` what
        p can be reached, ``warnings`` (JSON, a list of sentences) what numbers do not hold.

    Raises
    ------
    ValueError
        If the arrays lack dims or coordinates, subjects or latents differ between them, a held-out
        condition was not seen in training, or a trial occurs in both.

    Warns
    -----
    UserWarning
        If latents are joint, if a condition cannot be told from the time in the session, or if
        labels come in runs and trials were split at random.

    Notes
    -----
    The null draws the labels of held-out trials anew and keeps encoders and classifiers, which were
    fitted on other trials. Labels in random order are permuted between the held-out trials of a
    subject; labels in short runs are rotated within every held-out stretch of the session; in few
    long runs they are permuted between held-out runs. Under the hypothesis that latents do not
    depend on the condition such labels are as good as the observed ones, also where activity
    drifts. All sources of one target see the same draw, which gives the null of the means. A
    condition that occurs in one run only cannot be told from time: there is no p. Where no more
    than 5000 labellings are possible, all are taken and p is exact.

    Latents of one subject must not depend on its partners, which share its condition by
    construction: joint latents get no p. `compare` (``n_repairings=``) tests them.

    Classifiers stay as they are, so no interval holds the variability of the training part. That of
    a mean over pairs leaves out one animal at a time.

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
    require_samples("separation", seed, n_permutations, n_bootstraps)
    require_number(C, "C", "separation", 0, open_=True)
    require_one_of(null, "null", "separation", ("auto", "shuffle", "order"))
    require(isinstance(pooled, bool), "pooled", "separation", "True or False", pooled)
    train_latents, by = require_latents(train_latents, "train_latents", "separation", by)
    test_latents, _ = require_latents(test_latents, "test_latents", "separation", by)
    train = windows_by_subject(train_latents, by)
    test = windows_by_subject(test_latents, by)
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
        require_apart(name, train[name].trial_ids, test[name].trial_ids)
        unseen = sorted(set(test[name].condition.tolist()) - set(train[name].condition.tolist()))
        if unseen:
            raise ValueError(
                f"subject {name!r}: held-out {by} {unseen} unseen in its training windows. "
                "Leave these conditions out of both parts, or separate by another column (by=...)."
            )
        require_conditions(name, by, train[name].condition, "separation")
    animals = _animals(train_latents, animal, subjects)
    joint = bool(train_latents.attrs.get("joint") or test_latents.attrs.get("joint"))
    told: list[str] = []

    several = pooled and len(set(animals)) > 1
    own_known = [Classifier(C).fit(train[name].z, train[name].condition) for name in subjects]
    pooled_known = (
        classifiers_of_others(own_known, list(train.values()), animals, C) if several else []
    )
    times = np.unique(np.concatenate([part.time for part in test.values()]))
    n, n_known = len(subjects), len(known)
    n_sources = n + several  # the last one is all other animals together
    n_conditions = np.zeros((n_sources, n), dtype=int)
    accuracy = np.full((len(LEVELS), n_sources, n), np.nan)
    bounds = np.full((2, *accuracy.shape), np.nan)
    noise = np.full(accuracy.shape, np.nan)
    confusion = np.zeros((n, n, n_known, n_known), dtype=int)
    time_course = np.full((n, n, len(times)), np.nan)
    drawn_scores: list[Array] = []
    nulls: list[Null] = []
    orders: list[LabelOrder] = []
    kinds: list[Kind] = []
    known_orders = orders_of(train_latents.attrs, by)
    boot = np.empty((n_bootstraps, *accuracy.shape))
    seeds = np.random.SeedSequence(seed).spawn(n)
    for t, name in enumerate(subjects):
        part = test[name]
        answered = Answered.of([*own_known, *pooled_known[t : t + 1]], part, known, train[name])
        truth, allowed, votes = answered.truth, answered.allowed, answered.votes
        scored = answered.scored
        n_conditions[:, t] = allowed.sum(axis=1)
        accuracy[:, :, t] = answered.accuracy
        for s, evidence in enumerate(answered.evidence[:n]):
            time_course[s, t] = accuracy_by_time(evidence, part, known, times)
        confusion[:, t] = np.einsum("ic,sik->sck", truth, votes[1, :n]).astype(int)
        # Windows of a trial are no samples: each trial counts once, with the share that is right.
        share = votes / np.maximum(votes.sum(axis=3, keepdims=True), 1)
        hits = np.einsum("ic,lsic->lsc", truth, share) * allowed
        trials = truth.sum(axis=0) * allowed
        bounds[..., t] = recall_interval(hits, trials[None]) * scored
        noise[..., t] = recall_noise(hits, trials[None]) * scored
        rng = np.random.default_rng(seeds[t])
        if n_permutations:
            session = train[name].in_session(part)
            labels = session.sorted(train[name].trial_condition, part.trial_condition)
            # That of the whole session, where it is known: a part may look otherwise.
            orders.append(known_orders.get(name) or label_order(labels))
            kinds.append(_kind(orders[-1].kind, null))
            codes = np.searchsorted(known, labels)
            nulls.append(null_labels(codes, session.held_out, kinds[-1], n_permutations, rng))
            permuted = np.eye(n_known)[session.back(nulls[-1].labels)]
            drawn_scores.append(balanced_accuracy(permuted, votes, allowed) * scored)
        if n_bootstraps:
            # Not from the same stream, so that the samples do not depend on the permutations.
            own_seed = int(seeds[t].generate_state(1)[0])
            drawn = bootstrap(len(truth), part.trial_condition, n_bootstraps, own_seed)
            weights = truth * drawn[:, :, None]
            boot[..., t] = balanced_accuracy(weights, votes, allowed) * scored

    chance = np.where(n_conditions > 1, 1 / np.maximum(n_conditions, 1), np.nan)
    coords = {
        "level": list(LEVELS),
        "subject": subjects,
        "source": subjects,
        "target": subjects,
        "condition": known,
        "predicted": known,
        "time": times,
        "bound": ["low", "high"],
        "subject_animal": ("subject", animals),
    }
    names = names_of(animals)
    if len(names) < n:
        coords["animal"] = names
    found: dict[str, tuple[Any, Any]] = {
        "chance": ((), known_mean(np.diagonal(chance))),
        "n_conditions": (("source", "target"), n_conditions[:n]),
        "confusion": (("source", "target", "condition", "predicted"), confusion),
        "time_course": (("source", "target", "time"), time_course),
        "silhouette": (("subject",), [_silhouette(test[name]) for name in subjects]),
    }
    for name, values in scores_of_pairs(chance, animals).items():
        if not name.endswith("cross_within"):
            found[f"chance_{name}"] = (DIMS[name], values)
    means = scores_of_pairs(accuracy, animals)
    ends = scores_of_pairs(bounds, animals)
    for name, values in means.items():
        found[name] = (("level", *DIMS[name]), values)
        if not name.startswith("mean") and name != "cross_within":
            found[f"{name}_interval"] = (("bound", "level", *DIMS[name]), ends[name])
    for name, values in mean_intervals(accuracy, noise, animals).items():
        found[f"{name}_interval"] = (("bound", "level"), of_shares(values))

    above = scores_of_pairs(accuracy - chance, animals)
    for name in KINDS[: 2 + several]:
        per_animal = _per_animal(above[name], animals)
        p = [np.nan if joint else sign_flip(values)[0] for values in per_animal]
        found[f"p_sign_flip_{name}"] = (("level",), p)
    statement = sign_flip(np.zeros(len(names)))[1]
    if len(names) < n:
        statement = statement.replace("subject", "animal", 1)
        statement = statement.replace(" a one-sided", f" ({n} sessions) a one-sided", 1)
    attrs: dict[str, Any] = {"by": by}
    attrs |= {"n_permutations": n_permutations, "n_bootstraps": n_bootstraps}
    if n_permutations:
        none = np.array([joint or kind == "confounded" for kind in kinds])
        found |= _tested(accuracy, drawn_scores, nulls, none, animals, seed, n_permutations)
        statement += _reachable(subjects, nulls, none, n_permutations)
        attrs["null"] = _alike(subjects, [one.how for one in nulls])
        reasons = [
            order.sentence(name, by) + _asked(null, order.kind, kind)
            for name, order, kind in zip(subjects, orders, kinds, strict=True)
        ]
        attrs["null_reason"] = " ".join(reasons)
        told += _cautions(subjects, by, kinds, reasons, nulls)
    for name, values in scores_of_pairs(boot, animals).items() if n_bootstraps else ():
        if not name.startswith("mean") and name != "cross_within":
            found[f"sample_{name}"] = (("sample", "level", *DIMS[name]), values)
    told = [JOINT, *told] if joint else told
    for sentence in told if n_permutations else ():
        warnings.warn(sentence, stacklevel=2)
    attrs["statement"] = statement
    attrs["warnings"] = json.dumps([*told, *filter(None, [too_few(len(names))])])
    return xr.Dataset(found, coords=coords, attrs=attrs)


KINDS = ("own", "cross", "pooled")
DIMS: dict[str, tuple[str, ...]] = {
    "own": ("subject",),
    "cross": ("source", "target"),
    "pooled": ("target",),
    "cross_within": ("animal",),
    **{f"mean_{name}": () for name in (*KINDS, "cross_within")},
}
"""Dims of each score besides level."""
JOINT = (
    "These latents are joint: those of one subject also see the spikes of its partners, which "
    "share its condition by construction. No p is given. Use transform(joint=False), or "
    "compare(n_repairings=...)."
)


def _animals(
    latents: xr.DataArray, animal: Mapping[str, str] | None, subjects: Sequence[str]
) -> list[str]:
    """Animal of each subject."""
    if animal is None:
        given = latents.coords.get("animal")
        return animals_of(subjects, None if given is None else given.values)
    unknown = sorted(set(animal) - set(subjects)) if isinstance(animal, Mapping) else [animal]
    if unknown:
        raise ValueError(
            f"The 'animal' parameter of separation must map subjects among {list(subjects)} to "
            f"animals. Got {unknown}."
        )
    return [str(animal.get(name, name)) for name in subjects]


def _kind(found: Kind, null: HowNull) -> Kind:
    """How labels are exchanged."""
    if null == "shuffle":
        return "interleaved"
    return "clumped" if null == "order" and found == "interleaved" else found


def _asked(null: HowNull, found: Kind, kind: Kind) -> str:
    """Say that the order of labels would have been treated otherwise."""
    if found == kind:
        return ""
    how = "Shuffled" if null == "shuffle" else "Kept in order"
    return f" {how} all the same, as asked for (null={null!r})."


def _per_animal(values: Array, animals: Sequence[str]) -> Array:
    """Values (level, subject) or (level, source, target) as one of each (target) animal."""
    if values.ndim == 2:
        return over_animals(values, animals)
    return known_mean(pairs_of_animals(values, animals)[0], -2)


def all_pairs(scores: xr.Dataset, prefix: str = "") -> Array:
    """Scores (..., level, source, target) of all pairs, own ones on the diagonal.

    The last source is all other animals together; NaN is what `scores` does not hold. With `prefix`
    ``"sample_"`` those of bootstrap samples.
    """
    own = scores[f"{prefix}own"].values
    n = own.shape[-1]
    pairs = np.full((*own.shape[:-1], n + 1, n), np.nan)
    if f"{prefix}cross" in scores:
        pairs[..., :n, :] = scores[f"{prefix}cross"].values
    if f"{prefix}pooled" in scores:
        pairs[..., n, :] = scores[f"{prefix}pooled"].values
    pairs[..., np.arange(n), np.arange(n)] = own
    return pairs


def mean_intervals(pairs: Array, noise: Array | None, animals: Sequence[str]) -> dict[str, Array]:
    """95 % intervals (bound, level) of the means over animals, and over pairs of animals.

    Parameters
    ----------
    pairs
        (level, source, target), and one source more where there are all others together.
    noise
        Variance of each from its target's finite trials.
    animals
        Of each subject.
    """
    scores = scores_of_pairs(pairs, animals)
    unsure = None if noise is None else scores_of_pairs(noise, animals)
    sessions = np.array([animals.count(name) for name in names_of(animals)])
    found = {}
    for kind in KINDS:
        if kind not in scores:
            continue
        # Sessions of an animal have trials of their own; sources of a target share its trials.
        variance = None if unsure is None else _per_animal(unsure[kind], animals) / sessions
        ends = []
        for k in range(len(pairs)):
            own_noise = None if variance is None else variance[k]
            if kind == "cross":
                between = pairs_of_animals(scores[kind][k], animals)[0]
                ends.append(pair_interval(between, own_noise))
            else:
                ends.append(animal_interval(over_animals(scores[kind][k], animals), own_noise))
        found[f"mean_{kind}"] = np.stack(ends, axis=1)
    return found


def _tested(
    accuracy: Array,
    drawn: Sequence[Array],
    nulls: Sequence[Null],
    none: NDArray[np.bool_],
    animals: Sequence[str],
    seed: int,
    n: int,
) -> dict[str, tuple[Any, Any]]:
    """P of each score and of the means, and their nulls."""
    p = np.stack([nulls[t].p(accuracy[..., t], scores) for t, scores in enumerate(drawn)], -1)
    found: dict[str, tuple[Any, Any]] = {}
    for name, values in scores_of_pairs(np.where(none, np.nan, p), animals).items():
        if name in KINDS:
            found[f"p_{name}"] = (("level", *DIMS[name]), values)
    which, complete = draws_of_means(nulls, n, np.random.default_rng([seed, len(nulls)]))
    together = np.stack([scores[which[:, t]] for t, scores in enumerate(drawn)], axis=-1)
    # A target without a p stays at what was observed: the mean is then a little conservative.
    every = prod(one.n_distinct for one in nulls)
    of_means = Null(which, every, complete, "")
    observed = scores_of_pairs(accuracy, animals)
    for name, values in scores_of_pairs(together, animals).items():
        if name != "cross_within":
            found[f"null_{name}"] = (("permutation", "level", *DIMS[name]), values)
        if name.startswith("mean"):
            tested = of_means.p(observed[name], values)
            found[f"p_{name}"] = (("level",), np.where(none.all(), np.nan, tested))
    floors = np.array([one.floor for one in nulls])
    found["p_floor"] = (("subject",), np.where(none, np.nan, floors))
    found["n_labellings"] = (("subject",), [one.n_distinct for one in nulls])
    return found


def _alike(subjects: Sequence[str], texts: Sequence[str]) -> str:
    """One text if all subjects have the same."""
    if len(set(texts)) == 1:
        return texts[0]
    return "; ".join(f"{name}: {text}" for name, text in zip(subjects, texts, strict=True))


def _reachable(
    subjects: Sequence[str], nulls: Sequence[Null], none: NDArray[np.bool_], n: int
) -> str:
    """Say what p the number of labellings, and of permutations, allows."""
    text = ""
    for name, one, without in zip(subjects, nulls, none, strict=True):
        ways, n_trials = one.n_distinct, one.labels.shape[1]
        if ways < n and not without:
            text += (
                f" p of {name} cannot be below 1/{ways:.0f}: its {n_trials} held-out trials can be "
                f"labelled in {ways:.0f} ways."
            )
    return f"{text} {n} permutations cannot give p below 1/{n + 1}."


def _cautions(
    subjects: Sequence[str],
    by: str,
    kinds: Sequence[Kind],
    reasons: Sequence[str],
    nulls: Sequence[Null],
) -> list[str]:
    """Sentences about subjects whose labels follow each other so that numbers do not hold."""
    told = []
    for name, kind, reason, one in zip(subjects, kinds, reasons, nulls, strict=True):
        if kind == "confounded":
            told.append(f"{reason} No p is given.")
        elif "whole session" in one.how:
            told.append(
                f"{name}: {by} comes in runs and trials were split at random, so accuracies are "
                "too high. Split with blocks='auto'."
            )
    return told


def _silhouette(part: Windows) -> float:
    """Mean silhouette (Rousseeuw 1987) of windows, of Euclidean distances."""
    n = len(np.unique(part.condition))
    if not 1 < n < len(part.z):
        return float("nan")
    # Quadratic in windows: a few thousand of them tell as much.
    step = -(-len(part.z) // 4000)
    z, codes = part.z[::step], np.unique(part.condition[::step], return_inverse=True)[1]
    member = np.eye(codes.max() + 1)[codes]
    found = member.sum(axis=0)
    squares = np.einsum("ij,ij->i", z, z)
    total = 0.0
    for rows in (slice(first, first + 256) for first in range(0, len(z), 256)):
        distance = (-2 * z[rows]) @ z.T
        distance += squares[rows, None]
        distance += squares
        distance[np.arange(len(distance)), np.arange(len(z))[rows]] = 0.0
        np.sqrt(np.maximum(distance, 0.0, out=distance), out=distance)
        sums = distance @ member
        own = member[rows].astype(bool)
        alone = found[codes[rows]] == 1
        within = sums[own] / np.maximum(found[codes[rows]] - 1, 1)
        nearest = np.where(own, np.inf, sums / found).min(axis=1)
        widest = np.maximum(np.maximum(within, nearest), np.finfo(float).tiny)
        total += np.where(alone, 0.0, (nearest - within) / widest).sum()
    return float(total / len(z))
