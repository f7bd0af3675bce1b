"""How well behavior is decoded from latents, within a subject and from one subject to another."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from neuroshare.analysis.inference import (
    animal_interval,
    interval,
    known_mean,
    names_of,
    over_animals,
    p_value,
    pair_interval,
    pairs_of_animals,
    too_few,
)
from neuroshare.analysis.inputs import (
    animals_of,
    require_apart,
    require_array,
    require_samples,
)
from neuroshare.analysis.variables import Samples, Variable, samples_of, variables_of
from neuroshare.support.chunks import in_chunks

Array = NDArray[np.float64]

NEIGHBOURS = (5, 10, 20, 40, 80)
"""Numbers of neighbours to choose from, on blocks of the training windows."""
N_BLOCKS = 20
"""Of held-out time, which the bootstrap draws again."""
N_BINS = 20
"""Along a variable, for the error along it."""
LEAST_SHIFT = 0.1
"""Of a session, by which the null moves behavior at least."""
SCORES = ("r2", "median_error")
JOINT = (
    "These latents are joint: those of one subject also see the spikes of its partners, which "
    "behaved alike by construction. No p is given. Use transform(joint=False)."
)


def decoding(
    train_latents: xr.DataArray,
    test_latents: xr.DataArray,
    of: str | Sequence[str] | None = None,
    n_permutations: int = 199,
    n_bootstraps: int = 199,
    seed: int = 0,
    *,
    animal: Mapping[str, str] | None = None,
) -> xr.Dataset:
    """Decode behavior from latents: within each subject, and across subjects.

    The nearest training windows of a source subject say what the held-out windows of every target
    mean: own where both are one subject, cross where they are not, pooled where neighbours are
    those of all other animals together. Only cross and pooled show that latents are shared.

    Parameters
    ----------
    train_latents, test_latents
        Latents (subject, window, latent) as `transform` returns them, with coordinates ``trial``
        (subject, window) and `of`. NaN where a subject is absent: those windows are left out, as
        are those without a value. A window that occurs again with other partners counts once.
    of
        What to decode: a coordinate of numbers (window) or (subject, window), such as a position or
        speed, whether or not windows were paired by it; or a series of behavior of several columns,
        which are decoded together. Several names are decoded one by one. None takes what windows
        were paired by.
    n_permutations
        Draws of the null; 0 leaves it out.
    n_bootstraps
        Bootstrap samples of blocks of held-out time, for intervals of single pairs; 0 leaves these
        out.
    seed
        Seed of both.
    animal
        Subject -> animal, where several subjects are sessions of one animal; by default the
        coordinate ``animal`` (subject), or else every subject is an animal of its own.

    Returns
    -------
    Dataset
        With a dimension ``variable`` where `of` is a list. Own scores are on the diagonal.

        - ``r2`` (source, target), ``r2_pooled`` (target): share of the variance of held-out windows
          that is decoded; of an angle, of its points on the circle. Below 0 is worse than the mean.
        - ``median_error`` (source, target), ``median_error_pooled`` (target): in the unit of the
          variable, the shorter way round the circle; of several columns the distance.
        - ``mean_r2_own``, ``mean_r2_cross``, ``mean_r2_pooled``, and of ``median_error``: over
          animals, and over pairs of different animals.
        - ``..._interval`` (bound, ...): 95 %, of pairs by the bootstrap of blocks of time, of means
          from the differences between animals, NaN with fewer than three.
        - ``p_...`` and ``null_...`` (permutation, ...) of each score and mean; one-sided.
        - ``error_along`` (source, target, bin), ``error_along_pooled`` (target, bin): median error
          by the true value, in bins with the middle ``bin_middle``; of variables of one column.
        - ``n_neighbours`` (source): as chosen.

        Attributes: ``null`` says how behavior was moved, ``warnings`` (JSON, a list of sentences)
        what numbers do not hold, ``units`` (JSON) the unit of each variable.

    Raises
    ------
    ValueError
        If the arrays lack dims or coordinates, subjects or latents differ between them, a trial
        occurs in both, or a variable is not a number in each window.

    Notes
    -----
    The number of neighbours is chosen for each source by leaving out quarters of its training
    windows, in blocks of time. Latents are divided by their deviation over the source's training
    windows.

    The null moves the behavior of a target along its whole session, on a circle, by a tenth of it
    or more, and keeps latents and decoders: what is slow in both stays slow. All sources of a
    target see the same draw, which gives the null of the means. Of a
    single number the course is moved, with the values that the held-out windows have: a stretch of
    unusual speed is no evidence of anything.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> rng = np.random.default_rng(0)
    >>> def latents(first):
    ...     position = rng.uniform(size=(2, 300))
    ...     z = np.stack([position, position**2], axis=2) + rng.normal(0, 0.02, (2, 300, 2))
    ...     trial = np.broadcast_to(first + np.arange(300), (2, 300))
    ...     dims = ("subject", "window")
    ...     coords = {"subject": ["a", "b"], "position": (dims, position), "trial": (dims, trial)}
    ...     return xr.DataArray(z, dims=(*dims, "latent"), coords=coords)
    >>> scores = decoding(latents(0), latents(300), of="position")
    >>> bool(scores.median_error.sel(source="a", target="b") < 0.02), scores.p_mean_r2_cross.item()
    (True, 0.005)
    """
    require_samples("decoding", seed, n_permutations, n_bootstraps)
    train_latents = require_array(train_latents, "train_latents", "decoding", ("trial",))
    test_latents = require_array(test_latents, "test_latents", "decoding", ("trial",))
    variables = variables_of(train_latents, of, "decoding")
    subjects = [str(name) for name in train_latents["subject"].values]
    if set(subjects) != set(test_latents["subject"].values.tolist()) or (
        train_latents.sizes["latent"] != test_latents.sizes["latent"]
    ):
        raise ValueError(
            f"expected held-out latents of {subjects}, {train_latents.sizes['latent']} per subject,"
            f" got {test_latents['subject'].values.tolist()}, {test_latents.sizes['latent']} per "
            "subject."
        )
    given = train_latents.coords.get("animal")
    animals = animals_of(subjects, None if given is None else given.values)
    if animal is not None:
        animals = [str(animal.get(name, name)) for name in subjects]
    train = [samples_of(train_latents, variables, name) for name in subjects]
    test = [samples_of(test_latents, variables, name) for name in subjects]
    for name, fitted, held in zip(subjects, train, test, strict=True):
        require_apart(name, np.unique(fitted.trial), np.unique(held.trial))
        for part, samples in (("training", fitted), ("held-out", held)):
            if len(samples.z) < 2:
                raise ValueError(
                    f"subject {name!r}: expected {part} windows with a value of "
                    f"{[v.name for v in variables]}, got {len(samples.z)}."
                )
    joint = bool(train_latents.attrs.get("joint") or test_latents.attrs.get("joint"))
    told = [JOINT] if joint else []
    decoders = [_Decoder.of(part, variables) for part in train]
    nearest = [_nearest(decoders, train, part, animals, t) for t, part in enumerate(test)]
    found = []
    for variable in variables:
        of_all = _Predicted.of(variable, nearest, train, test, animals)
        found.append(of_all.scored(n_permutations, n_bootstraps, seed, train, animals))
    scores = found[0] if isinstance(of, str) or (of is None and len(found) == 1) else None
    if scores is None:
        scores = xr.concat(found, "variable", join="outer").assign_coords(
            variable=[v.name for v in variables]
        )
    if joint:
        scores = scores.drop_vars([str(n) for n in scores if str(n).startswith(("p_", "null_"))])
        warnings.warn(JOINT, stacklevel=2)
    scores = scores.assign_coords(
        source=subjects,
        target=subjects,
        target_animal=("target", animals),
        bound=["low", "high"],
    )
    chosen = np.array([[decoder.k[v.name] for decoder in decoders] for v in variables])
    several = "variable" in scores.dims
    dims = ("variable", "source") if several else ("source",)
    scores["n_neighbours"] = (dims, chosen if several else chosen[0])
    scores.attrs = {
        "of": json.dumps([v.name for v in variables]),
        "units": json.dumps({v.name: v.unit for v in variables}),
        "paired_by": train_latents.attrs.get("paired_by", "[]"),
        "n_permutations": n_permutations,
        "n_bootstraps": n_bootstraps,
        "null": (
            "behavior moved along the whole session of each target, on a circle, by a tenth of it "
            "or more"
        ),
        "warnings": json.dumps([*told, *filter(None, [too_few(len(names_of(animals)))])]),
    }
    return scores


@dataclass(frozen=True)
class _Decoder:
    """Nearest windows in the latents of a source."""

    scale: Array
    """Deviation of each latent."""
    k: dict[str, int]
    """Number of neighbours by variable."""
    index: NearestNeighbors

    @classmethod
    def of(
        cls, part: Samples, variables: Sequence[Variable], k: dict[str, int] | None = None
    ) -> _Decoder:
        """Choose the numbers of neighbours, unless they are given, and index all windows."""
        scale = part.z.std(axis=0)
        scale[scale < 1e-12] = 1.0
        z = part.z / scale
        if k is None:
            k = _chosen(z, {v.name: v.points(part.values[v.name]) for v in variables})
        k = {name: min(number, len(z)) for name, number in k.items()}
        return cls(scale, k, NearestNeighbors(n_neighbors=max(k.values())).fit(z))

    def nearest(self, z: Array) -> dict[str, NDArray[np.int64]]:
        """Positions of the nearest windows, (window, neighbour), by variable."""
        found = self.index.kneighbors(z / self.scale, return_distance=False)
        return {name: found[:, :k] for name, k in self.k.items()}


def _chosen(z: Array, points: Mapping[str, Array]) -> dict[str, int]:
    """Numbers of neighbours with the least squared error when a quarter of time is left out."""
    block = np.arange(len(z)) * 4 // len(z)
    most = int((block != 0).sum()) if len(z) >= 8 else 0
    allowed = [k for k in NEIGHBOURS if k <= most]
    if len(allowed) < 2:
        return dict.fromkeys(points, max(1, min(NEIGHBOURS[0], len(z))))
    wrong = {name: np.zeros(len(allowed)) for name in points}
    # A few thousand windows tell as much.
    step = -(-len(z) // 4000)
    for fold in range(4):
        fit, out = block != fold, np.flatnonzero(block == fold)[::step]
        index = NearestNeighbors(n_neighbors=min(max(allowed), int(fit.sum()))).fit(z[fit])
        nearest = index.kneighbors(z[out], return_distance=False)
        for name, part in points.items():
            near = part[fit][nearest].cumsum(axis=1)
            for i, k in enumerate(allowed):
                wrong[name][i] += np.square(near[:, k - 1] / k - part[out]).sum()
    return {name: allowed[int(total.argmin())] for name, total in wrong.items()}


def _others(target: int, animals: Sequence[str]) -> list[int]:
    """Subjects that are sessions of other animals than the target's."""
    return [s for s, name in enumerate(animals) if name != animals[target]]


def _nearest(
    decoders: Sequence[_Decoder],
    train: Sequence[Samples],
    held: Samples,
    animals: Sequence[str],
    target: int,
) -> list[dict[str, NDArray[np.int64]]]:
    """Nearest training windows of each source, and of all others together."""
    found = [decoder.nearest(held.z) for decoder in decoders]
    others = _others(target, animals)
    if not others:
        return [*found, {}]
    z = np.concatenate([train[s].z for s in others])
    # Neighbours of several animals lie closer together, so that more of them are as near.
    more = len(others) ** 0.5
    k = {
        name: round(float(np.median([decoders[s].k[name] for s in others])) * more)
        for name in decoders[target].k
    }
    together = Samples(z, {}, held.trial, held.at)
    return [*found, _Decoder.of(together, [], k).nearest(held.z)]


@dataclass(frozen=True)
class _Predicted:
    """What every source says of the held-out windows of every target."""

    variable: Variable
    points: list[list[Array | None]]
    """By target and source (the last one all others), (window, feature)."""
    test: Sequence[Samples]

    @classmethod
    def of(
        cls,
        variable: Variable,
        nearest: Sequence[Sequence[Mapping[str, NDArray[np.int64]]]],
        train: Sequence[Samples],
        test: Sequence[Samples],
        animals: Sequence[str],
    ) -> _Predicted:
        """Average what is known of the nearest windows of each source."""
        known = [variable.points(part.values[variable.name]) for part in train]
        found: list[list[Array | None]] = []
        for t, of_sources in enumerate(nearest):
            pools: list[Array | None] = [*known, None]
            if others := _others(t, animals):
                pools[-1] = np.concatenate([known[s] for s in others])
            found.append(
                [
                    None if points is None else points[near[variable.name]].mean(axis=1)
                    for points, near in zip(pools, of_sources, strict=True)
                ]
            )
        return cls(variable, found, test)

    def scored(
        self,
        n_permutations: int,
        n_bootstraps: int,
        seed: int,
        train: Sequence[Samples],
        animals: Sequence[str],
    ) -> xr.Dataset:
        """Scores of all pairs, own ones on the diagonal, their intervals, nulls and means."""
        n, variable = len(self.test), self.variable
        shape = (len(SCORES), n + 1, n)
        scores = np.full(shape, np.nan)
        boot = np.full((n_bootstraps, *shape), np.nan)
        null = np.full((n_permutations, *shape), np.nan)
        along, middle = self._along(animals)
        seeds = np.random.SeedSequence(seed).spawn(n)
        for t, held in enumerate(self.test):
            rng = np.random.default_rng(seeds[t])
            true = held.values[variable.name]
            weights = drawn_blocks(len(true), n_bootstraps, rng)
            moved = moved_values(variable, train[t], held, n_permutations, rng)
            for s, points in enumerate(self.points[t]):
                if points is None:
                    continue
                scores[:, s, t] = scores_of(variable, points, true[None])[:, 0]
                null[:, :, s, t] = scores_of(variable, points, moved).T
                boot[:, :, s, t] = weighed_scores(variable, points, true, weights).T
        found: dict[str, Any] = {}
        many = ("permutation",)
        for k, name in enumerate(SCORES):
            sign = 1.0 if name == "r2" else -1.0  # small errors are good
            pairs = scores[k]
            found[name] = (("source", "target"), pairs[:n])
            found[f"{name}_pooled"] = ("target", pairs[n])
            if n_bootstraps:
                ends = interval(
                    xr.DataArray(boot[:, k], dims=("sample", "source", "target"))
                ).values
                found[f"{name}_interval"] = (("bound", "source", "target"), ends[:, :n])
                found[f"{name}_pooled_interval"] = (("bound", "target"), ends[:, n])
            means = _means(pairs, animals)
            ends_of = _mean_intervals(pairs, animals)
            for kind, value in means.items():
                found[f"mean_{name}_{kind}"] = ((), float(value))
                found[f"mean_{name}_{kind}_interval"] = ("bound", ends_of[kind])
            if not n_permutations:
                continue
            p = p_value(sign * pairs, sign * null[:, k])
            found[f"p_{name}"], found[f"p_{name}_pooled"] = (
                (("source", "target"), p[:n]),
                ("target", p[n]),
            )
            found[f"null_{name}"] = ((*many, "source", "target"), null[:, k, :n])
            found[f"null_{name}_pooled"] = ((*many, "target"), null[:, k, n])
            for kind, values in _means(null[:, k], animals).items():
                found[f"null_mean_{name}_{kind}"] = (many, values)
                tested = p_value(sign * means[kind], sign * values)
                found[f"p_mean_{name}_{kind}"] = ((), float(tested))
        if along is not None:
            found["error_along"] = (("source", "target", "bin"), along[:n])
            found["error_along_pooled"] = (("target", "bin"), along[n])
            found["bin_middle"] = ("bin", middle)
        return xr.Dataset(found)

    def _along(self, animals: Sequence[str]) -> tuple[Array | None, Array]:
        """Median error (source, target, bin) by the true value, and the middles of bins."""
        if len(self.variable.columns) > 1:
            return None, np.empty(0)
        values = [part.values[self.variable.name][:, 0] for part in self.test]
        everything = np.concatenate(values)
        edges = np.linspace(everything.min(), everything.max(), N_BINS + 1)
        n = len(values)
        along = np.full((n + 1, n, N_BINS), np.nan)
        for t, true in enumerate(values):
            of_bin = np.clip(np.searchsorted(edges, true, side="right") - 1, 0, N_BINS - 1)
            for s, points in enumerate(self.points[t]):
                if points is None:
                    continue
                error = self.variable.errors(self.variable.values(points), true[:, None])
                for b in np.unique(of_bin):
                    along[s, t, b] = np.median(error[of_bin == b])
        return along, (edges[1:] + edges[:-1]) / 2


def moved_values(
    variable: Variable, fitted: Samples, held: Samples, n: int, rng: np.random.Generator
) -> Array:
    """Values of held-out windows as they are elsewhere in the session, (draw, window, column).

    Windows between the parts, of which neither knows anything, keep their place and have the value
    of the nearest one: a stretch would otherwise be moved to where the session was cut. Of a single
    number the course is moved, and its values stay those of the held-out windows: p would otherwise
    tell how usual the level of these is for the session, whatever the latents.
    """
    values = np.concatenate([fitted.values[variable.name], held.values[variable.name]])
    trial = np.concatenate([fitted.trial, held.trial])
    order = np.argsort(np.concatenate([fitted.at, held.at]), kind="stable")
    place, ids = np.arange(len(order)), trial[order]
    if ids.dtype.kind in "iu" and (np.diff(ids) > 0).all() and np.ptp(ids) < 4 * len(ids):
        place = ids - ids[0]
    everywhere = np.arange(place[-1] + 1)
    after = np.searchsorted(place, everywhere)
    before = np.maximum(after - 1, 0)
    nearer = everywhere - place[before] < place[after] - everywhere
    session = values[order][np.where(nearer, before, after)]
    least = max(1, round(LEAST_SHIFT * len(session)))
    shifts = rng.integers(least, max(len(session) - least, least) + 1, size=n)
    own = place[np.flatnonzero(order >= len(fitted.at))]  # of held-out windows, in their order
    moved = np.asarray(session[(own + shifts[:, None]) % len(session)])
    if variable.periods != (None,):
        return moved
    # Ranks of equal values are in the order of windows, in all draws alike.
    rank = moved[..., 0].argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return np.sort(held.values[variable.name], axis=0)[rank]


def drawn_blocks(n_windows: int, n: int, rng: np.random.Generator) -> Array:
    """How often each window is in samples of blocks of time, (sample, window)."""
    blocks = np.arange(n_windows) * N_BLOCKS // n_windows
    drawn = rng.multinomial(N_BLOCKS, np.full(N_BLOCKS, 1 / N_BLOCKS), size=n)
    return np.asarray(drawn[:, blocks], float)


def scores_of(variable: Variable, points: Array, true: Array) -> Array:
    """R2 and median error (score, draw) of predicted points (window, feature).

    Parameters
    ----------
    variable
        What was predicted.
    points
        Predictions.
    true
        Values (draw, window, column).
    """
    found = np.empty((len(SCORES), len(true)))
    predicted = variable.values(points)
    for rows in in_chunks(np.arange(len(true)), points.size * 4):
        values = true[rows]
        targets = variable.points(values.reshape(-1, values.shape[2]))
        targets = targets.reshape(len(rows), *points.shape)
        total = targets.var(axis=1).sum(axis=1) * len(points)
        wrong = np.square(targets - points).sum(axis=(1, 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            found[0, rows] = np.where(total > 0, 1 - wrong / total, np.nan)
        found[1, rows] = np.median(variable.errors(predicted[None], values), axis=1)
    return found


def weighed_scores(variable: Variable, points: Array, true: Array, weights: Array) -> Array:
    """The same (score, sample) of windows with weights (sample, window)."""
    targets = variable.points(true)
    n = weights.sum(axis=1)
    mean = weights @ targets / n[:, None]
    total = weights @ np.square(targets).sum(axis=1) - n * np.square(mean).sum(axis=1)
    wrong = weights @ np.square(targets - points).sum(axis=1)
    error = variable.errors(variable.values(points), true)
    order = np.argsort(error)
    below = weights[:, order].cumsum(axis=1)
    middle = (below < n[:, None] / 2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = np.where(total > 0, 1 - wrong / total, np.nan)
    return np.stack([r2, error[order][np.minimum(middle, len(order) - 1)]])


def _means(pairs: Array, animals: Sequence[str]) -> dict[str, Array]:
    """Means over animals, and over pairs of them, of scores (..., source, target)."""
    n = len(animals)
    own = np.diagonal(pairs[..., :n, :], axis1=-2, axis2=-1)
    between, _ = pairs_of_animals(pairs[..., :n, :], animals)
    found = {"own": known_mean(over_animals(own, animals), -1)}
    if len(names_of(animals)) > 1:
        found["cross"] = known_mean(between, (-2, -1))
        found["pooled"] = known_mean(over_animals(pairs[..., n, :], animals), -1)
    return found


def _mean_intervals(pairs: Array, animals: Sequence[str]) -> dict[str, Array]:
    """Intervals (bound,) of the same means."""
    n = len(animals)
    return {
        "own": animal_interval(over_animals(np.diagonal(pairs[:n]), animals)),
        "cross": pair_interval(pairs_of_animals(pairs[:n], animals)[0]),
        "pooled": animal_interval(over_animals(pairs[n], animals)),
    }
