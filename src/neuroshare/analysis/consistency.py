"""Whether latents of different animals are one map away from each other, and their tuning."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroshare.analysis.inference import (
    animal_interval,
    known_mean,
    over_animals,
    p_value,
    pair_interval,
    pairs_of_animals,
    too_few,
)
from neuroshare.analysis.inputs import animals_of, require_apart, require_array, require_samples
from neuroshare.analysis.variables import samples_of, variables_of
from neuroshare.support.angles import span_of
from neuroshare.support.checks import require_whole

Array = NDArray[np.float64]

FEW_VALUES = 20
"""Numbers of more values are cut into bins."""
N_BLOCKS = 16
"""Of time, of which every second one makes a half."""
_RIDGE = 1e-3
"""Of the map, in units of the mean variance of a latent."""


def consistency(
    train_latents: xr.DataArray,
    test_latents: xr.DataArray,
    of: str | None = None,
    n_permutations: int = 99,
    seed: int = 0,
    *,
    n_bins: int = 20,
) -> xr.Dataset:
    """Linear R2 between the mean latents of two animals, cross-validated, with ceiling and floor.

    Parameters
    ----------
    train_latents, test_latents
        Latents (subject, window, latent) with ``trial`` (subject, window) and `of`.
    of
        What means are taken over: a condition, or behavior, which is cut into bins; (window) or
        (subject, window). None takes ``attrs["by"]``: the condition, or bins of the behavior that
        windows were paired by. Windows of trials are averaged at each ``time`` for itself.
    n_permutations
        Of the floor.
    seed
        Of the floor.
    n_bins
        Of a behavior.

    Returns
    -------
    Dataset
        - ``r2`` (source, target): of the target's held-out means, explained by a linear map of the
          source's that was fitted to training means. The diagonal is the ceiling: the same between
          two halves of the target's windows.
        - ``floor`` (source, target): its mean where the means of the source are shuffled;
          ``p`` (source, target), one-sided.
        - ``ceiling`` (subject); ``mean_r2``, ``mean_ceiling``, ``mean_floor`` and ``p_mean`` over
          (pairs of different) animals; ``mean_r2_interval``, ``mean_ceiling_interval`` (bound).

        Attributes: ``warnings`` (JSON, a list of sentences), ``of``.

    Raises
    ------
    ValueError
        If the arrays lack dims or coordinates, or two subjects have no means in common.

    Warns
    -----
    UserWarning
        With fewer means than a linear map has weights, which R2 of any points would be 1 of, were
        it not cross-validated.

    Notes
    -----
    Windows of every subject are divided into two halves, which alternate in blocks of time; a map
    goes from a half of the source to the other half of the target, and both ways are averaged, so
    that ceiling and scores rest on as many windows. R2 in the sample, as it is often reported, is
    higher, and 1 for as many points as latents and one more.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> rng = np.random.default_rng(0)
    >>> def latents(first):
    ...     place = np.tile(np.arange(10), 40)
    ...     z = np.stack([place, np.sin(place)], 1) + rng.normal(0, 0.1, (2, 400, 2))
    ...     z[1] = z[1] @ [[0, 1], [-1, 0]]
    ...     trial = np.broadcast_to(first + np.arange(400), (2, 400))
    ...     coords = {"subject": ["a", "b"], "place": ("window", place)}
    ...     coords["trial"] = (("subject", "window"), trial)
    ...     return xr.DataArray(z, dims=("subject", "window", "latent"), coords=coords)
    >>> scores = consistency(latents(0), latents(400), of="place")
    >>> bool(scores.mean_r2 > 0.98), bool(scores.mean_floor < 0.5)
    (True, True)
    """
    require_samples("consistency", seed, n_permutations)
    require_whole(n_bins, "n_bins", "consistency", 2)
    of = of or train_latents.attrs.get("by")
    needed = ("trial",)
    train_latents = require_array(train_latents, "train_latents", "consistency", needed, of)
    test_latents = require_array(test_latents, "test_latents", "consistency", needed, of)
    if of is None:
        raise ValueError("latents name nothing in attrs['by']; give consistency(of='...').")
    subjects = [str(name) for name in train_latents["subject"].values]
    for name in subjects:
        ids = [part["trial"].sel(subject=name).values for part in (train_latents, test_latents)]
        known = [
            np.isfinite(part.sel(subject=name).values).all(-1)
            for part in (train_latents, test_latents)
        ]
        require_apart(name, *(np.unique(i[k]) for i, k in zip(ids, known, strict=True)))
    given = train_latents.coords.get("animal")
    animals = animals_of(subjects, None if given is None else given.values)
    cells, n_cells = _cells((train_latents, test_latents), of, n_bins)
    halves = [
        [_halves(part.values[s], part, s, cell[s], n_cells) for s in range(len(subjects))]
        for part, cell in zip((train_latents, test_latents), cells, strict=True)
    ]
    n, n_latents = len(subjects), train_latents.sizes["latent"]
    r2 = np.full((n, n), np.nan)
    null = np.full((n_permutations, n, n), np.nan)
    rng = np.random.default_rng(seed)
    orders = np.stack([rng.permutation(n_cells) for _ in range(n_permutations)] or [np.arange(0)])
    fewest = n_cells
    for s in range(n):
        for t in range(n):
            train = (halves[0][s], halves[0][t])
            test = (halves[1][s], halves[1][t])
            r2[s, t], shared = _mapped(train, test, None)
            fewest = min(fewest, shared)
            if s != t:
                for i, order in enumerate(orders[:n_permutations]):
                    null[i, s, t] = _mapped(train, test, order)[0]
    if fewest < 2:
        raise ValueError(f"two subjects have fewer than two means by {of!r} in common.")
    told = list(filter(None, [too_few(len(set(animals)))]))
    if fewest <= n_latents + 1:
        told.append(
            f"{fewest} means for {n_latents} latents: a linear map fits as many training means "
            "exactly, whatever they are. Take more bins, or fewer latents."
        )
        warnings.warn(told[-1], stacklevel=2)
    cross = np.where(np.eye(n, dtype=bool), np.nan, r2)
    between = pairs_of_animals(cross, animals)[0]
    null_means = np.array([known_mean(pairs_of_animals(one, animals)[0]) for one in null])
    own = over_animals(np.diagonal(r2), animals)
    return xr.Dataset(
        {
            "r2": (("source", "target"), r2),
            "floor": (("source", "target"), known_mean(null, 0)),
            "p": (("source", "target"), p_value(cross, null)),
            "ceiling": ("subject", np.diagonal(r2)),
            "mean_r2": ((), float(known_mean(between))),
            "mean_ceiling": ((), float(known_mean(own))),
            "mean_floor": ((), float(known_mean(null_means))),
            "p_mean": ((), float(p_value(known_mean(between), null_means))),
            "mean_r2_interval": ("bound", pair_interval(between)),
            "mean_ceiling_interval": ("bound", animal_interval(own)),
        },
        coords={"source": subjects, "target": subjects, "subject": subjects}
        | {"bound": ["low", "high"]},
        attrs={"of": of, "n_permutations": n_permutations, "warnings": json.dumps(told)},
    )


def _cells(
    parts: Sequence[xr.DataArray], of: str, n_bins: int
) -> tuple[list[NDArray[np.int64]], int]:
    """Cell of every window (subject, window), -1 where it has none, and their number."""
    columns, times = [], []
    for part in parts:
        like = part.isel(latent=0, drop=True)
        columns.append(part[of].broadcast_like(like).transpose("subject", "window").values)
        time = part["time"] if "time" in part.coords else xr.zeros_like(like)
        times.append(time.broadcast_like(like).transpose("subject", "window").values.round(9))
    flat = np.concatenate([column.ravel() for column in columns])
    if flat.dtype.kind in "iuf":
        known = np.isfinite(flat.astype(float))
        if len(np.unique(flat[known])) > FEW_VALUES and not of.endswith("_bin"):
            edges = np.linspace(flat[known].min(), flat[known].max(), n_bins + 1)[1:-1]
            flat = np.searchsorted(edges, flat, side="right")
    else:
        known = flat.astype(str) != ""
    label = np.unique(flat[known], return_inverse=True)[1]
    tick = np.unique(np.concatenate([t.ravel() for t in times])[known], return_inverse=True)[1]
    both = np.unique(label * (tick.max() + 1) + tick, return_inverse=True)[1]
    cell = np.full(len(flat), -1, np.int64)
    cell[known] = both
    ends = np.cumsum([column.size for column in columns])[:-1]
    found = [
        piece.reshape(column.shape)
        for piece, column in zip(np.split(cell, ends), columns, strict=True)
    ]
    return found, int(both.max()) + 1


def _halves(
    z: Array, latents: xr.DataArray, subject: int, cell: NDArray[np.int64], n_cells: int
) -> list[Array]:
    """Mean latents (cell, latent) of both halves of a subject's windows, NaN where it has none."""
    known = np.isfinite(z).all(axis=1) & (cell >= 0)
    trial = latents["trial"].values[subject]
    at = np.unique(trial, return_inverse=True)[1].astype(float)
    if "onset" in latents.coords:
        onset = latents["onset"].values[subject].astype(float)
        at = onset if np.isfinite(onset[known]).all() else at
    place = np.unique(at[known], return_inverse=True)[1]
    half = place * N_BLOCKS // (place.max(initial=0) + 1) % 2
    found = []
    for k in (0, 1):
        rows = half == k
        total = np.zeros((n_cells, z.shape[1]))
        np.add.at(total, cell[known][rows], z[known][rows])
        n = np.bincount(cell[known][rows], minlength=n_cells)[:, None]
        found.append(np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0))
    return found


def _mapped(
    train: tuple[list[Array], list[Array]],
    test: tuple[list[Array], list[Array]],
    order: NDArray[np.int64] | None,
) -> tuple[float, int]:
    """R2 of held-out means of a target under a map of those of a source, and training means."""
    found, fewest = [], np.inf
    for a, b in ((0, 1), (1, 0)):
        x, y, x_out, y_out = train[0][a], train[1][b], test[0][a], test[1][b]
        if order is not None:
            x, x_out = x[order], x_out[order]
        here = np.isfinite(x[:, 0]) & np.isfinite(y[:, 0])
        there = np.isfinite(x_out[:, 0]) & np.isfinite(y_out[:, 0])
        fewest = min(fewest, int(here.sum()))
        if here.sum() < 2 or there.sum() < 2:
            continue
        centre = x[here].mean(axis=0)
        mean = y[here].mean(axis=0)
        c = x[here] - centre
        gram = c.T @ c
        gram[np.diag_indices_from(gram)] += _RIDGE * np.trace(gram) / len(gram) + 1e-12
        weights = np.linalg.solve(gram, c.T @ (y[here] - mean))
        off = y_out[there] - mean - (x_out[there] - centre) @ weights
        total = np.square(y_out[there] - y_out[there].mean(axis=0)).sum()
        found.append(1 - np.square(off).sum() / total if total > 0 else np.nan)
    return (float(np.mean(found)) if found else np.nan), int(fewest)


def latent_tuning(latents: xr.DataArray, of: str | None = None, n_bins: int = 20) -> xr.Dataset:
    """Mean latents by a behavior: the tuning curves of latents.

    Parameters
    ----------
    latents
        (subject, window, latent) with ``trial`` (subject, window) and `of`.
    of
        A coordinate of numbers; None takes what windows were paired by.
    n_bins
        Of equal width.

    Returns
    -------
    Dataset
        ``mean`` and ``standard_error`` (subject, bin, latent), ``n_windows`` (subject, bin), with
        the middle of each bin under the name of the behavior. NaN where a subject never is.

    Raises
    ------
    ValueError
        If `of` is not one number of each window.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> place = np.linspace(0, 1, 100)[None]
    >>> dims = ("subject", "window")
    >>> coords = {"subject": ["a"], "place": (dims, place), "trial": (dims, np.arange(100)[None])}
    >>> latents = xr.DataArray(place[..., None], dims=(*dims, "latent"), coords=coords)
    >>> latent_tuning(latents, of="place", n_bins=2)["mean"].values.round(2).ravel().tolist()
    [0.25, 0.75]
    """
    latents = require_array(latents, "latents", "latent_tuning", ("trial",))
    require_whole(n_bins, "n_bins", "latent_tuning", 1)
    variables = variables_of(latents, of, "latent_tuning")
    if len(variables[0].columns) > 1:
        raise ValueError(
            f"latent_tuning expected one column, got {list(variables[0].columns)} of "
            f"{variables[0].name!r}. Name one."
        )
    variable = variables[0]
    subjects = [str(name) for name in latents["subject"].values]
    parts = [samples_of(latents, [variable], name) for name in subjects]
    values = [part.values[variable.name][:, 0] for part in parts]
    period = variable.periods[0]
    low, high = span_of(min(v.min() for v in values), max(v.max() for v in values), period)
    edges = np.linspace(low, high, n_bins + 1)
    shape = (len(subjects), n_bins, latents.sizes["latent"])
    mean, error = np.full((2, *shape), np.nan)
    number = np.zeros(shape[:2], int)
    for s, (part, own) in enumerate(zip(parts, values, strict=True)):
        bins = np.clip(np.searchsorted(edges, own, side="right") - 1, 0, n_bins - 1)
        for b in np.unique(bins):
            z = part.z[bins == b]
            number[s, b] = len(z)
            mean[s, b] = z.mean(axis=0)
            if len(z) > 1:
                error[s, b] = z.std(axis=0, ddof=1) / np.sqrt(len(z))
    dims = ("subject", "bin", "latent")
    coords: dict[str, Any] = {
        "subject": subjects,
        variable.name: ("bin", (edges[1:] + edges[:-1]) / 2),
        "latent": latents["latent"].values if "latent" in latents.coords else np.arange(shape[2]),
    }
    attrs: dict[str, Any] = {"of": variable.name, "unit": variable.unit}
    attrs |= {} if period is None else {"period": period}
    return xr.Dataset(
        {
            "mean": (dims, mean),
            "standard_error": (dims, error),
            "n_windows": (dims[:2], number),
        },
        coords=coords,
        attrs=attrs,
    )
