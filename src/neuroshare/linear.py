"""Linear alignment of subjects, behind the same transform and impute as the VAE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.linalg import cholesky, eigh, solve_triangular
from scipy.sparse.linalg import LinearOperator, eigsh
from sklearn.base import BaseEstimator
from sklearn.utils.extmath import randomized_svd
from sklearn.utils.validation import check_is_fitted

from neuroshare.recordings.pairing import PairedWindows, are_counts

Array = NDArray[np.float64]
Method = Literal["procrustes", "mcca", "srm"]
Features = Literal["sum", "window"]

_EXACT_PCA = 1000  # features up to which the covariance is diagonalised in full
_TOLERANCE = 1e-10
_FLOOR = 0.2  # of expected counts, in units of the mean count


@dataclass(frozen=True)
class Encoder:
    """Affine map of one subject: ``(x - mean) / scale @ weights``, x the square-root counts.

    The features x are those of `LinearAlignment`'s `features` argument: one per unit, or one per
    unit and lag (index = unit * number of lags + lag).
    """

    mean: Array
    scale: Array
    weights: Array

    def __call__(self, x: Array) -> Array:
        """Latents (..., latent) of features (..., feature)."""
        return (x - self.mean) / self.scale @ self.weights


class LinearAlignment(BaseEstimator):  # type: ignore[misc]
    r"""Map every subject linearly into one latent space.

    Parameters
    ----------
    method
        ``"procrustes"``: whitened principal components of each subject, rotated onto the group's
        mean response by generalised orthogonal Procrustes on condition-by-time means. ``"mcca"``:
        multi-set canonical correlation of the paired windows. ``"srm"``: the deterministic shared
        response model, orthonormal maps with one shared response.
    latent_dim
        Number of latents.
    n_components
        Principal components of each subject which `mcca` and `srm` work on; for `procrustes`
        they are `latent_dim`.
    ridge
        `mcca`: added to each subject's covariance, in units of its mean component variance.
    n_repairs
        Number of times partners are redrawn within condition, for `mcca`, `srm` and the read-out.
        Between randomly paired trials only the condition and the time are shared, so that is
        what they find. Pairings that a redraw cannot change (``order="rank"``) are taken as they
        are.
    features
        ``"sum"``: one feature per unit, its square-root counts summed over the window;
        ``"window"``: one per unit and lag.
    readout_ridge
        `impute`: added to the covariance of the latents, whose variances are 1. It makes up for
        latents that fit their training windows better than any others.
    root
        Whether to take square roots, which stabilises the variance of counts; for every subject or
        by name. None takes them of counts (non-negative whole numbers) and of nothing else.
    seed
        Seed of the redrawn pairings.

    Attributes
    ----------
    subjects_ : tuple of str
    units_ : dict of str to array
        Unit ids by subject.
    encoders_ : dict of str to Encoder
        The learned map of each subject, over the features it was fitted with.

    Notes
    -----
    Subjects are centred with every condition weighing the same, so that animals with different
    numbers of trials per condition share an origin. Latents have unit variance over the training
    windows of each subject, so also pooled over subjects. Windows that overlap by more than half
    are thinned for all of it: those between hold almost nothing new.

    All that the methods need to know of a pairing is how often two trials met. Cross-covariances
    are :math:`C_{ab} = \sum_t F_{at}^T N_{ab} F_{bt}` with N (trial, trial) the number of
    meetings over all redrawn pairings, so redrawing costs neither time nor memory, and absent
    subjects simply do not meet anyone.

    `impute` is a ridge regression of the counts on the latents of the sources, learned from the
    same meetings and floored at a small fraction of the unit's mean count. Every set of sources
    has its own: the moments of all subjects are kept, and solved when they are asked for.

    References
    ----------
    Gower 1975, Psychometrika 40 (generalised Procrustes). Kettenring 1971, Biometrika 58 (MCCA,
    MAXVAR). Chen et al. 2015, NeurIPS 28 (SRM).

    Examples
    --------
    >>> import neuroshare as ns
    >>> sessions = ns.simulate_sessions({"mitt": 20, "stella": 12}, n_trials=8)
    >>> counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    >>> train, test = ns.pair_subjects(counts, by="odor").split(0.25, seed=0)
    >>> model = ns.LinearAlignment(latent_dim=3).fit(train)
    >>> dict(model.transform(test).sizes)
    {'subject': 2, 'window': 248, 'latent': 3}
    >>> dict(model.impute(test, target="stella").sizes)
    {'window': 248, 'unit': 12, 'lag': 10}
    """

    def __init__(
        self,
        method: Method = "procrustes",
        latent_dim: int = 8,
        n_components: int = 40,
        ridge: float = 0.5,
        n_repairs: int = 20,
        features: Features = "sum",
        readout_ridge: float = 1.0,
        root: bool | Mapping[str, bool] | None = None,
        seed: int = 0,
    ) -> None:
        self.method = method
        self.latent_dim = latent_dim
        self.n_components = n_components
        self.ridge = ridge
        self.n_repairs = n_repairs
        self.features = features
        self.root = root
        self.readout_ridge = readout_ridge
        self.seed = seed

    def fit(self, train: PairedWindows, validation: object = None) -> LinearAlignment:
        """Learn the maps from paired training windows.

        Parameters
        ----------
        train
            Paired windows.
        validation
            Not used; every model of this package takes it.

        Raises
        ------
        ValueError
            If a parameter is out of its range or a subject takes part in no window.
        """
        self._check_parameters()
        train = train.thinned()
        tables = _tables(train, self.n_repairs, self.seed)
        used = {}
        for column, name in enumerate(train.subjects):
            positions = np.unique(np.concatenate([table[:, column] for table in tables]))
            used[name] = positions[positions >= 0]
            if not len(used[name]):
                raise ValueError(f"subject {name!r} takes part in no training window.")
        meetings = _meetings(tables, train.subjects, used)

        standards, bases, scores, conditions = {}, {}, {}, {}
        self.roots_ = {name: self._takes_root(name, train.counts[name].values) for name in used}
        for name, positions in used.items():
            labels = train.labels[name][positions]
            conditions[name] = np.array([train.conditions.index(label) for label in labels])
            weight = 1 / np.bincount(conditions[name])[conditions[name]]
            weight /= weight.sum()
            x = _features(train, name, positions, self.features, self.roots_[name])
            mean = np.einsum("i,isf->f", weight, x) / x.shape[1]
            variance = np.einsum("i,isf->f", weight, (x - mean) ** 2) / x.shape[1]
            # A silent unit has no variance: it stays at zero, and its weight does not matter.
            scale = np.where(variance > _TOLERANCE, np.sqrt(variance), 1.0)
            x -= mean
            x /= scale
            n = self.latent_dim if self.method == "procrustes" else self.n_components
            basis = _principal_axes(x.reshape(-1, x.shape[2]), n, self.seed)
            projected = x @ basis
            # Subjects with many units would otherwise outweigh the others; and the rotations fit
            # whitened components, or the largest ones would decide them whatever they encode.
            size = np.sqrt(projected.var(axis=(0, 1)))
            if self.method != "procrustes":
                size[:] = np.sqrt(np.mean(size**2))
            size[size < _TOLERANCE] = 1.0
            standards[name] = (mean, scale)
            bases[name] = basis / size
            scores[name] = projected / size

        if self.method == "procrustes":
            maps = _procrustes(scores, conditions, len(train.conditions), self.latent_dim)
        else:
            covariance = _covariances(scores, meetings)
            if self.method == "mcca":
                maps = mcca(covariance, self.latent_dim, self.ridge)
            else:
                maps = _srm(covariance, self.latent_dim)

        latents = {name: scores[name] @ maps[name] for name in used}
        for name, z in latents.items():
            spread = z.std(axis=(0, 1))
            spread[spread < _TOLERANCE] = 1.0
            z /= spread
            maps[name] = maps[name] / spread

        self.subjects_ = train.subjects
        self.units_ = train.units
        self.width_ = train.width
        self.bin_size_ = train.bin_size
        self.encoders_ = {
            name: Encoder(*standards[name], bases[name] @ maps[name]) for name in used
        }
        self._learn_readout(train, used, latents, meetings)
        return self

    def _takes_root(self, name: str, values: NDArray[Any]) -> bool:
        if self.root is None:
            return are_counts(values)
        return self.root[name] if isinstance(self.root, Mapping) else self.root

    def _check_parameters(self) -> None:
        for name, value, allowed in (
            ("method", self.method, ("procrustes", "mcca", "srm")),
            ("features", self.features, ("sum", "window")),
        ):
            if value not in allowed:
                raise ValueError(
                    f"The {name!r} parameter of LinearAlignment must be one of {list(allowed)}. "
                    f"Got {value!r} instead."
                )
        for name in ("latent_dim", "n_components", "n_repairs"):
            value = getattr(self, name)
            if int(value) != value or value < 1:
                raise ValueError(
                    f"The {name!r} parameter of LinearAlignment must be a positive integer. "
                    f"Got {value!r} instead."
                )
        for name in ("ridge", "readout_ridge"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(
                    f"The {name!r} parameter of LinearAlignment must not be negative. "
                    f"Got {value!r} instead."
                )

    def _learn_readout(
        self,
        train: PairedWindows,
        used: dict[str, NDArray[np.int64]],
        latents: dict[str, Array],
        meetings: dict[tuple[str, str], Array],
    ) -> None:
        """Keep the moments between all latents and between latents and counts."""
        self.latent_mean_ = {n: z.reshape(-1, self.latent_dim).mean(0) for n, z in latents.items()}
        self.latent_covariance_ = _covariances(latents, meetings)
        self.mean_counts_: dict[str, Array] = {}
        self.count_covariance_: dict[tuple[str, str], Array] = {}
        for target, positions in used.items():
            counts = np.asarray(train.counts[target].values[positions], float)
            n_units = counts.shape[1]
            mean = np.empty((n_units, train.width))
            products = {
                source: np.empty((self.latent_dim, n_units, train.width)) for source in used
            }
            # Partners of each target trial, summed over meetings: (trial, start, latent).
            partners, totals = {}, {}
            for source in used:
                met = meetings[source, target]
                totals[source] = max(met.sum(), 1) * len(train.starts)
                z = latents[source] - self.latent_mean_[source]
                partners[source] = np.einsum("ij,isk->jsk", met, z, optimize=True)
            for lag in range(train.width):
                x = counts[:, :, train.starts + lag].transpose(0, 2, 1)
                mean[:, lag] = x.mean(axis=(0, 1))
                flat = (x - mean[:, lag]).reshape(-1, n_units)
                for source, z in partners.items():
                    product = z.reshape(-1, self.latent_dim).T @ flat
                    products[source][:, :, lag] = product / totals[source]
            if self.features == "sum":
                # One rate for all lags, as the latents have one weight: a rate of its own for
                # every lag of the few windows that were looked at is mostly noise.
                mean[:] = mean.mean(axis=1, keepdims=True)
                for product in products.values():
                    product[:] = product.mean(axis=2, keepdims=True)
            floor = 0.5 / (counts.shape[0] * len(train.starts))
            self.mean_counts_[target] = np.maximum(mean, floor if are_counts(counts) else -np.inf)
            for source, product in products.items():
                self.count_covariance_[source, target] = product

    def transform(self, paired: PairedWindows) -> xr.DataArray:
        """Latents of paired windows.

        Returns
        -------
        DataArray
            ``latents`` (subject, window, latent), NaN where a subject is absent. Coordinates: the
            pairing column under its own name, time and start (window), trial (subject, window).

        Raises
        ------
        ValueError
            If subjects, units or windows are not those fitted.
        NotFittedError
            Before `fit`.
        """
        check_is_fitted(self)
        n_windows = len(paired)
        values = np.full((len(paired.subjects), n_windows, self.latent_dim), np.nan)
        for column, name in enumerate(paired.subjects):
            values[column] = self._encode(paired, name, column)
        return xr.DataArray(
            values,
            dims=("subject", "window", "latent"),
            coords={**paired.coords(), "latent": np.arange(self.latent_dim)},
            name="latents",
            attrs={"by": paired.by, "bin_size": paired.bin_size},
        )

    def _encode(self, paired: PairedWindows, name: str, column: int) -> Array:
        """Latents (window, latent) of one subject; every trial is encoded once."""
        self._check_windows(paired, name)
        position = paired.table[:, column]
        present = position >= 0
        trials, index = np.unique(position[present], return_inverse=True)
        z = np.full((len(position), len(paired.starts), self.latent_dim), np.nan)
        if len(trials):
            x = _features(paired, name, trials, self.features, self.roots_[name])
            z[present] = self.encoders_[name](x)[index]
        return z.reshape(-1, self.latent_dim)

    def impute(
        self, paired: PairedWindows, target: str, source: str | Sequence[str] | None = None
    ) -> xr.DataArray:
        """Expected counts of one subject, predicted from the latents of others.

        Parameters
        ----------
        paired
            Paired windows; the target itself need not be among them.
        target
            Subject to predict.
        source
            Subject or subjects to predict from; None takes all others. The target itself is
            allowed and gives its reconstruction. A source that is absent from a window is left
            out there.

        Returns
        -------
        DataArray
            ``expected_counts`` (window, unit, lag), spikes per bin; NaN in windows where every
            source is absent.

        Raises
        ------
        ValueError
            If target or sources are unknown, or units or windows are not those fitted.
        NotFittedError
            Before `fit`.
        """
        check_is_fitted(self)
        if target not in self.subjects_:
            raise ValueError(f"no subject {target!r} was fitted; there are {list(self.subjects_)}.")
        if source is None:
            sources = [name for name in paired.subjects if name != target]
        else:
            sources = [source] if isinstance(source, str) else list(source)
        unknown = [name for name in sources if name not in paired.subjects]
        if unknown or not sources or len(set(sources)) < len(sources):
            raise ValueError(
                f"The 'source' parameter of impute must name distinct subjects among "
                f"{list(paired.subjects)}. Got {source!r} instead."
            )
        z = [self._encode(paired, name, paired.subjects.index(name)) for name in sources]
        observed = np.stack([~np.isnan(part[:, 0]) for part in z], axis=1)
        mean = self.mean_counts_[target]
        expected = np.full((len(paired), mean.size), np.nan)
        for pattern in np.unique(observed, axis=0):
            if not pattern.any():
                continue
            rows = (observed == pattern).all(axis=1)
            there = np.flatnonzero(pattern)
            names = tuple(sources[i] for i in there)
            weights, offset = self._readout(names, target)
            stacked = np.concatenate([z[i][rows] for i in there], axis=1)
            expected[rows] = stacked @ weights + offset
            if (mean > 0).all():  # counts: no rate is negative
                expected[rows] = np.maximum(expected[rows], _FLOOR * mean.ravel())
        coords = paired.coords()
        coords.pop("subject")
        trial = coords.pop("trial")[1]
        if target in paired.subjects:
            coords["trial"] = ("window", trial[paired.subjects.index(target)])
        coords["unit"] = self.units_[target]
        coords["lag"] = (np.arange(self.width_) + 0.5) * self.bin_size_
        return xr.DataArray(
            expected.reshape(-1, *mean.shape),
            dims=("window", "unit", "lag"),
            coords=coords,
            name="expected_counts",
            attrs={
                "subject": target,
                "source": ", ".join(sources),
                "by": paired.by,
                "bin_size": paired.bin_size,
            },
        )

    def _readout(self, sources: tuple[str, ...], target: str) -> tuple[Array, Array]:
        """Weights (source latents, unit x lag) and offset of the expected counts."""
        k = self.latent_dim
        sigma = np.block([[self.latent_covariance_[a, b] for b in sources] for a in sources])
        # Positive even without a penalty, for latents of a silent subject have no variance.
        sigma[np.diag_indices_from(sigma)] += max(self.readout_ridge, 1e-3)
        covariance = [self.count_covariance_[name, target].reshape(k, -1) for name in sources]
        weights: Array = np.linalg.solve(sigma, np.concatenate(covariance))
        centre = np.concatenate([self.latent_mean_[name] for name in sources])
        return weights, self.mean_counts_[target].ravel() - centre @ weights

    def encoder(self, name: str) -> tuple[Array, Array, Array]:
        """One subject's map over flattened windows, whatever features it was fitted with.

        Returns
        -------
        mean, scale : array (unit x lag,)
        weights : array (unit x lag, latent)
            Latents are ``(x - mean) / scale @ weights`` with x the square-root counts of a window,
            unit by unit (index = unit * number of lags + lag).
        """
        check_is_fitted(self)
        encoder = self.encoders_[name]
        if self.features == "window":
            return encoder.mean, encoder.scale, encoder.weights
        # A sum over lags is one weight for all of them.
        n = self.width_
        return (
            np.repeat(encoder.mean / n, n),
            np.repeat(encoder.scale, n),
            np.repeat(encoder.weights, n, axis=0),
        )

    def _check_windows(self, paired: PairedWindows, name: str) -> None:
        if name not in self.encoders_:
            raise ValueError(f"no subject {name!r} was fitted; there are {list(self.subjects_)}.")
        expected, got = self.units_[name], paired.units[name]
        if len(expected) != len(got):
            raise ValueError(
                f"subject {name!r}: expected {len(expected)} units (as fitted), got {len(got)}. "
                "Select the fitted units or refit."
            )
        if not np.array_equal(expected, got):
            raise ValueError(
                f"subject {name!r}: expected the {len(expected)} units as fitted, got as many "
                "with other ids or in another order. Select the fitted units or refit."
            )
        if paired.width != self.width_ or not np.isclose(paired.bin_size, self.bin_size_):
            raise ValueError(
                f"expected windows of {self.width_} bins of {self.bin_size_:g} s (as fitted), got "
                f"{paired.width} of {paired.bin_size:g} s. Bin and pair as for the fit."
            )


def _features(
    paired: PairedWindows, name: str, positions: NDArray[np.int64], kind: Features, root: bool
) -> Array:
    """(Square-root) counts of every window of the given trials, (trial, start, feature)."""
    values = np.asarray(paired.counts[name].values[positions], float)
    values = np.sqrt(values) if root else values
    windows = np.lib.stride_tricks.sliding_window_view(values, paired.width, axis=2)
    windows = windows[:, :, paired.starts].swapaxes(1, 2)  # (trial, start, unit, lag)
    if kind == "sum":
        return np.asarray(windows.sum(axis=3))
    return windows.reshape(*windows.shape[:2], -1)


def _tables(paired: PairedWindows, n_repairs: int, seed: int) -> list[NDArray[np.int64]]:
    if paired.order == "rank":
        return [paired.table]
    return [paired.repair(seed + k).table for k in range(n_repairs)]


def _meetings(
    tables: list[NDArray[np.int64]],
    subjects: Sequence[str],
    used: dict[str, NDArray[np.int64]],
) -> dict[tuple[str, str], Array]:
    """How often a trial of one subject met a trial of another, (trial, trial) of each pair."""
    stacked = np.concatenate(tables)
    index = {n: np.searchsorted(used[n], stacked[:, c]) for c, n in enumerate(subjects)}
    there = {n: stacked[:, c] >= 0 for c, n in enumerate(subjects)}
    met = {}
    for a in subjects:
        for b in subjects:
            both = there[a] & there[b]
            met[a, b] = np.zeros((len(used[a]), len(used[b])))
            np.add.at(met[a, b], (index[a][both], index[b][both]), 1)
        # Within a subject there is nothing to redraw: every trial counts once.
        met[a, a] = np.eye(len(used[a]))
    return met


def _covariances(
    scores: dict[str, Array], meetings: dict[tuple[str, str], Array]
) -> dict[tuple[str, str], Array]:
    """Covariance of every two subjects' scores over the windows in which they met."""
    covariance = {}
    for (a, b), met in meetings.items():
        n_starts = scores[a].shape[1]
        total = max(met.sum(), 1) * n_starts
        mean_a = met.sum(axis=1) @ scores[a].sum(axis=1) / total
        mean_b = met.sum(axis=0) @ scores[b].sum(axis=1) / total
        partner = np.einsum("ij,isk->jsk", met, scores[a], optimize=True)
        product = np.tensordot(partner, scores[b], axes=((0, 1), (0, 1))) / total
        covariance[a, b] = product - np.outer(mean_a, mean_b)
    return covariance


def _principal_axes(x: Array, n: int, seed: int) -> Array:
    """Leading principal axes (feature, component) of centred rows."""
    n = min(n, *x.shape)
    if x.shape[1] <= _EXACT_PCA:
        _, axes = eigh(x.T @ x)
        return np.asarray(axes[:, ::-1][:, :n])
    return np.asarray(randomized_svd(x, n, random_state=seed)[2].T)


def _polar(matrix: Array) -> Array:
    """Orthonormal factor of a matrix: the map that maximises its trace product."""
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray(u @ vt)


def _procrustes(
    scores: dict[str, Array], conditions: dict[str, NDArray[np.int64]], n_conditions: int, k: int
) -> dict[str, Array]:
    """Generalised orthogonal Procrustes on condition-by-time means."""
    means, seen = {}, {}
    for name, score in scores.items():
        mean = np.zeros((n_conditions, *score.shape[1:]))
        found = np.unique(conditions[name])
        for condition in found:
            mean[condition] = score[conditions[name] == condition].mean(axis=0)
        means[name] = mean.reshape(-1, mean.shape[2])
        seen[name] = np.repeat(np.isin(np.arange(n_conditions), found), score.shape[1])[:, None]
    n_seen = np.maximum(sum(seen.values()), 1)
    # The group's principal response starts the search, so no subject is the reference.
    u, s, _ = np.linalg.svd(np.concatenate(list(means.values()), axis=1), full_matrices=False)
    reference = np.zeros((len(u), k))
    reference[:, : len(s[:k])] = u[:, :k] * s[:k]
    for _ in range(100):
        maps = {name: _polar(mean.T @ reference) for name, mean in means.items()}
        rotated: Array = sum(means[name] @ maps[name] for name in maps) / n_seen
        moved = np.linalg.norm(rotated - reference)
        reference = rotated
        if moved <= 1e-8 * (np.linalg.norm(reference) or 1.0):
            break
    return maps


def _blocks(covariance: dict[tuple[str, str], Array]) -> tuple[list[str], Array, list[int]]:
    names = list(dict.fromkeys(a for a, _ in covariance))
    full = np.block([[covariance[a, b] for b in names] for a in names])
    ends = np.cumsum([len(covariance[name, name]) for name in names])
    return names, full, list(ends[:-1])


def mcca(covariance: dict[tuple[str, str], Array], k: int, ridge: float) -> dict[str, Array]:
    """Directions of largest summed covariance between subjects, per regularised own variance."""
    names, full, cuts = _blocks(covariance)
    within = np.zeros_like(full)
    for name, index in zip(names, np.split(np.arange(len(full)), cuts), strict=True):
        within[np.ix_(index, index)] = _regularised(covariance[name, name], ridge)
        full[np.ix_(index, index)] = 0
    if k > len(full):
        raise ValueError(
            f"latent_dim={k} exceeds the {len(full)} components of all subjects together. "
            "Lower latent_dim or raise n_components."
        )
    _, vectors = eigh((full + full.T) / 2, within, subset_by_index=[len(full) - k, len(full) - 1])
    vectors = vectors[:, ::-1]
    vectors = vectors * np.sign(vectors.sum(axis=0))
    return dict(zip(names, np.split(vectors, cuts), strict=True))


def mcca_of_means(
    means: dict[str, Array], own: dict[str, Array], k: int, ridge: float
) -> dict[str, Array]:
    """`mcca` for many subjects, in time and memory linear in their number.

    Covariances between subjects are those of their condition-by-time means, (cell, unit), and so
    have few dimensions: the matrix of all of them is applied to vectors without being made.
    """
    names = list(means)
    n_cells = len(means[names[0]])
    roots = {name: cholesky(_regularised(own[name], ridge), lower=True) for name in names}
    # Means in coordinates in which every regularised covariance is the identity.
    white = {n: solve_triangular(roots[n], means[n].T, lower=True).T for n in names}
    cuts = np.cumsum([white[name].shape[1] for name in names])

    def between(vector: Array) -> Array:
        parts = dict(zip(names, np.split(vector.ravel(), cuts[:-1]), strict=True))
        images = {name: white[name] @ parts[name] for name in names}
        total = np.sum(list(images.values()), axis=0)
        others = [white[name].T @ (total - images[name]) for name in names]
        return np.concatenate(others) / n_cells

    size = int(cuts[-1])
    operator = LinearOperator((size, size), matvec=between, dtype=np.float64)
    start = np.random.default_rng(0).normal(size=size)
    values, vectors = eigsh(operator, k=k, which="LA", v0=start, tol=1e-10)
    found = np.split(vectors[:, np.argsort(values)[::-1]], cuts[:-1])
    maps = {
        name: solve_triangular(roots[name], part, lower=True, trans="T")
        for name, part in zip(names, found, strict=True)
    }
    sign = np.sign(np.sum([part.sum(axis=0) for part in maps.values()], axis=0))
    return {name: part * sign for name, part in maps.items()}


def _regularised(own: Array, ridge: float) -> Array:
    level = np.trace(own) / len(own)
    regularised: Array = own + (ridge * level + max(1e-8 * level, _TOLERANCE)) * np.eye(len(own))
    return regularised


def _srm(covariance: dict[tuple[str, str], Array], k: int) -> dict[str, Array]:
    """Orthonormal maps whose images agree best with their mean, by alternation."""
    names, full, cuts = _blocks(covariance)
    full = (full + full.T) / 2
    start = eigh(full)[1][:, ::-1][:, :k]
    start = np.pad(start, ((0, 0), (0, k - start.shape[1])))
    maps = np.concatenate([_polar(part) for part in np.split(start, cuts)])
    for _ in range(200):
        updated = np.concatenate([_polar(part) for part in np.split(full @ maps, cuts)])
        moved = np.linalg.norm(updated - maps)
        maps = updated
        if moved <= 1e-7:
            break
    return dict(zip(names, np.split(maps, cuts), strict=True))
