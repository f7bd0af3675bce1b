"""Linear alignment of subjects, behind the same transform and impute as the VAE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from neuroshare.models.alignment import (
    TOLERANCE,
    Array,
    Encoder,
    Features,
    Meetings,
    covariances,
    features_of,
    mapped,
    mcca,
    met_by,
    procrustes,
    srm,
)
from neuroshare.models.estimator import Estimator, seeded
from neuroshare.models.fitted import Fitted, Source, not_fitted, require_windows
from neuroshare.models.held_out import (
    N_FOLDS,
    N_SETTLED,
    WIDTHS,
    Codes,
    Criterion,
    folds_of,
    most_widths,
    own_and_cross,
    why_not,
)
from neuroshare.models.linear_parts import How, Look, Prepared, Settings
from neuroshare.support.checks import (
    require,
    require_number,
    require_one_of,
    require_seed,
    require_whole,
)
from neuroshare.support.setting import number, or_auto, whole
from neuroshare.windows.paired import PairedWindows
from neuroshare.windows.trials import are_counts

Method = Literal["procrustes", "mcca", "srm"]

Auto = Literal["auto"]

_COMPONENTS_AND_RIDGES = ((40, 0.5), (80, 1.0), (150, 1.0), (150, 3.0))
_FEW = 8
"""Latents where nothing can be chosen."""
_COLUMNS = ["latent_dim", "n_components", "ridge", "score", "own", "cross", "chosen"]
_FLOOR = 0.2  # of expected counts, in units of the mean count


@dataclass(frozen=True)
class _Aligned:
    """Maps of all subjects, and what they were learned from."""

    encoders: dict[str, Encoder]
    used: dict[str, NDArray[np.int64]]
    latents: dict[str, Array]
    meetings: Meetings


class LinearAlignment(Estimator):
    r"""Map every subject linearly into one latent space.

    Parameters
    ----------
    method
        ``"procrustes"``: whitened principal components of each subject, rotated onto the group's
        mean response by generalised orthogonal Procrustes on condition-by-time means. ``"mcca"``:
        multi-set canonical correlation of the paired windows. ``"srm"``: the deterministic shared
        response model, orthonormal maps with one shared response.
    latent_dim
        Number of latents. ``"auto"`` chooses it on held-out trials of the same inner folds, of the
        same widths and by the same score as `SharedLatentModel` chooses its start: own and
        cross-subject accuracy alike. See `selection_`.
    n_components
        Principal components of each subject which `mcca` and `srm` work on; for `procrustes`
        they are `latent_dim`. ``"auto"``: 40, and for `mcca` chosen with `ridge`.
    ridge
        `mcca`: added to each subject's covariance, in units of its mean component variance;
        ``"auto"`` chooses it.
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
    latent_dim_, n_components_, ridge_
        As given or chosen.
    selection_ : DataFrame
        Candidates: latent_dim, n_components, ridge, mean score on held-out trials of inner folds,
        own, cross and whether it was chosen. Empty where nothing was to be chosen.
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

    @seeded
    def __init__(
        self,
        method: Method = "procrustes",
        latent_dim: int | Auto = "auto",
        n_components: int | Auto = "auto",
        ridge: float | Auto = "auto",
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

    def fit(
        self, train: PairedWindows, validation: PairedWindows | float | None = None
    ) -> LinearAlignment:
        """Learn the maps from paired training windows.

        Parameters
        ----------
        train
            Paired windows.
        validation
            Not used; every model of this package takes it.

        Raises
        ------
        TypeError
            If these are no windows.
        ValueError
            If a parameter is out of its range or a subject takes part in no window.
        """
        fit_together([self], train)
        return self

    def _fit(self, look: Look, settings: Settings, fitted: Fitted) -> None:
        """Learn maps and read-out of the settings that were chosen."""
        self.latent_dim_, self.n_components_, self.ridge_ = settings
        n = settings.latent_dim if self.method == "procrustes" else settings.n_components
        aligned = self._aligned(look.train, look.prepared(n), settings)
        self.fitted_ = fitted
        # Changes of the parameters do not reach what was fitted.
        self._features: Features = self.features
        self._readout_ridge = self.readout_ridge
        self.encoders_ = aligned.encoders
        self._learn_readout(look.train, aligned)

    def _candidates(
        self, look: Look, search: _Search
    ) -> Iterator[tuple[Settings, dict[str, Encoder]]]:
        """Encoders of all settings that the training windows allow."""
        prepared = look.prepared(search.most)
        for n, ridge in search.pairs:
            encoders: dict[str, Encoder] = {}
            for k in reversed(search.widths):
                if self.method != "mcca" or not encoders:
                    settings = Settings(k, n, ridge)
                    try:
                        encoders = self._aligned(look.train, prepared, settings).encoders
                    except ValueError:  # more latents than there are dimensions
                        continue
                # Few canonical variates are the first of many.
                yield Settings(k, n, ridge), {a: e.first(k) for a, e in encoders.items()}

    def _aligned(self, train: PairedWindows, prepared: Prepared, settings: Settings) -> _Aligned:
        """Learn the maps of some settings."""
        latent_dim, n_components, ridge = settings
        n = latent_dim if self.method == "procrustes" else n_components
        bases, scores = {}, {}
        for name, projected in prepared.projected.items():
            projected = projected[..., :n]
            # Subjects with many units would otherwise outweigh the others; and the rotations fit
            # whitened components, or the largest ones would decide them whatever they encode.
            size = np.sqrt(projected.var(axis=(0, 1)))
            if self.method != "procrustes":
                size[:] = np.sqrt(np.mean(size**2))
            size[size < TOLERANCE] = 1.0
            bases[name] = prepared.bases[name][:, :n] / size
            scores[name] = projected / size

        if self.method == "procrustes":
            maps = procrustes(scores, prepared.conditions, len(train.conditions), latent_dim)
        else:
            if n not in prepared.covariances:
                prepared.covariances[n] = covariances(scores, prepared.meetings)
            covariance = prepared.covariances[n]
            if self.method == "mcca":
                maps = mcca(covariance, latent_dim, ridge)
            else:
                maps = srm(covariance, latent_dim)

        latents = {name: mapped(score, maps[name]) for name, score in scores.items()}
        for name, z in latents.items():
            spread = z.std(axis=(0, 1))
            spread[spread < TOLERANCE] = 1.0
            z /= spread
            maps[name] = maps[name] / spread
        encoders = {
            name: Encoder(*prepared.standards[name], bases[name] @ maps[name]) for name in scores
        }
        return _Aligned(encoders, prepared.used, latents, prepared.meetings)

    def _takes_root(self, name: str, train: PairedWindows) -> bool:
        if self.root is None:
            return not train.why_not_counts(name)
        return self.root[name] if isinstance(self.root, Mapping) else self.root

    @property
    def subjects_(self) -> tuple[str, ...]:
        """Names of the fitted subjects, in order."""
        return self._described().subjects

    @property
    def units_(self) -> dict[str, NDArray[np.generic]]:
        """Unit ids by subject."""
        return self._described().units

    def _described(self) -> Fitted:
        if not hasattr(self, "fitted_"):
            raise not_fitted(self)
        return self.fitted_

    def _check_parameters(self, train: PairedWindows) -> None:
        who = "LinearAlignment"
        require_one_of(self.method, "method", who, get_args(Method))
        require_one_of(self.features, "features", who, get_args(Features))
        for name in ("latent_dim", "n_components"):
            or_auto(whole(1))(getattr(self, name), name, who)
        require_whole(self.n_repairs, "n_repairs", who, 1)
        or_auto(number(0))(self.ridge, "ridge", who)
        require_number(self.readout_ridge, "readout_ridge", who, 0)
        require_seed(self.seed, who)
        root = self.root
        flags = root.values() if isinstance(root, Mapping) else () if root is None else (root,)
        named = not isinstance(root, Mapping) or set(train.subjects) <= set(root)
        require(
            named and all(isinstance(value, bool | np.bool_) for value in flags),
            "root", who, f"True, False, None or one of these for each of {list(train.subjects)}",
            root,
        )  # fmt: skip

    def _learn_readout(self, train: PairedWindows, aligned: _Aligned) -> None:
        """Keep the moments between all latents and between latents and counts."""
        used, latents, meetings = aligned.used, aligned.latents, aligned.meetings
        self.latent_mean_ = {n: z.reshape(-1, self.latent_dim_).mean(0) for n, z in latents.items()}
        self.latent_covariance_ = covariances(latents, meetings)
        self.mean_counts_: dict[str, Array] = {}
        self.count_covariance_: dict[tuple[str, str], Array] = {}
        # One rate for all lags where the latents have one weight for them: a rate of its own for
        # every lag of the few windows that were looked at is mostly noise.
        whole = self.features == "sum"
        for target, positions in used.items():
            counts = np.asarray(train.activity(target, positions), float)
            n_units = counts.shape[1]
            mean = np.empty((n_units, train.width))
            products = {
                source: np.empty((self.latent_dim_, n_units, train.width)) for source in used
            }
            # Partners of each target trial, summed over meetings: (window, latent).
            partners, totals = {}, {}
            for source in used:
                met = meetings[source, target]
                totals[source] = max(met.sum(), 1) * len(train.first_bins)
                z = latents[source] - self.latent_mean_[source]
                partners[source] = met_by(met, z).reshape(-1, self.latent_dim_)
            for lag in range(1 if whole else train.width):
                if whole:
                    x = features_of(train, target, positions, "sum", False) / train.width
                else:
                    x = counts[:, :, train.first_bins + lag].transpose(0, 2, 1)
                at = slice(None) if whole else slice(lag, lag + 1)
                level = x.mean(axis=(0, 1))
                mean[:, at] = level[:, None]
                flat = (x - level).reshape(-1, n_units)
                for source, z in partners.items():
                    products[source][:, :, at] = (z.T @ flat / totals[source])[:, :, None]
            floor = 0.5 / (counts.shape[0] * len(train.first_bins))
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
        fitted = self._described()
        names = fitted.check(paired)
        values = np.stack([self._encode(paired, name) for name in names])
        return fitted.latents(values, paired, names)

    def _encode(self, paired: PairedWindows, name: str) -> Array:
        """Latents (window, latent) of one subject; every trial is encoded once."""
        position = paired.partners[:, paired.subjects.index(name)]
        present = position >= 0
        trials, index = np.unique(position[present], return_inverse=True)
        z = np.full((len(position), len(paired.first_bins), self.latent_dim_), np.nan)
        if len(trials):
            x = features_of(paired, name, trials, self._features, self.roots_[name])
            z[present] = self.encoders_[name](x)[index]
        return z.reshape(-1, self.latent_dim_)

    def impute(self, paired: PairedWindows, target: str, source: Source = None) -> xr.DataArray:
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
        fitted = self._described()
        sources = fitted.sources(fitted.check(paired), target, source)
        z = [self._encode(paired, name) for name in sources]
        observed = np.stack([~np.isnan(part[:, 0]) for part in z], axis=1)
        mean = self.mean_counts_[target]
        n_rates = 1 if self._features == "sum" else mean.shape[1]  # of a unit; or one of every lag
        floor = _FLOOR * mean[:, :n_rates].ravel() if (mean > 0).all() else -np.inf
        expected = np.full((len(paired), len(mean) * n_rates), np.nan)
        for pattern in np.unique(observed, axis=0):
            if not pattern.any():
                continue
            rows = (observed == pattern).all(axis=1)
            there = np.flatnonzero(pattern)
            weights, offset = self._readout(tuple(sources[i] for i in there), target)
            of_rates = np.arange(mean.size).reshape(mean.shape)[:, :n_rates].ravel()
            stacked = np.concatenate([z[i][rows] for i in there], axis=1)
            found = stacked @ weights[:, of_rates] + offset[of_rates]
            expected[rows] = np.maximum(found, floor)  # counts: no rate is negative
        of_lags = np.repeat(
            expected.reshape(-1, len(mean), n_rates), mean.shape[1] // n_rates, axis=2
        )
        return fitted.expected_counts(of_lags, paired, target, sources)

    def _readout(self, sources: tuple[str, ...], target: str) -> tuple[Array, Array]:
        """Weights (source latents, unit x lag) and offset of the expected counts."""
        k = self.latent_dim_
        sigma = np.block([[self.latent_covariance_[a, b] for b in sources] for a in sources])
        # Positive even without a penalty, for latents of a silent subject have no variance.
        sigma[np.diag_indices_from(sigma)] += max(self._readout_ridge, 1e-3)
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
        fitted = self._described()
        require_one_of(name, "name", "encoder", fitted.subjects)
        encoder = self.encoders_[name]
        if self._features == "window":
            return encoder.mean, encoder.scale, encoder.weights
        # A sum over lags is one weight for all of them.
        n = fitted.width
        return (
            np.repeat(encoder.mean / n, n),
            np.repeat(encoder.scale, n),
            np.repeat(encoder.weights, n, axis=0),
        )


class _Search:
    """Candidates of one alignment, and how they did in the folds so far."""

    def __init__(self, model: LinearAlignment, train: PairedWindows) -> None:
        k, n, ridge = (
            None if isinstance(value, str) else value
            for value in (model.latent_dim, model.n_components, model.ridge)
        )
        known = _COMPONENTS_AND_RIDGES[: None if model.method == "mcca" else 1]
        pairs = {(int(n or a), float(b if ridge is None else ridge)) for a, b in known}
        few = min(_FEW, *(len(ids) for ids in train.units.values()))
        most = most_widths(train)
        self.model = model
        self.plain = Settings(int(k or few), *min(pairs))
        self.pairs = sorted(pairs)
        self.widths = sorted({min(k, most) for k in WIDTHS}) if k is None else [int(k)]
        self.scores: dict[Settings, list[tuple[float, float]]] = {}
        self.codes: dict[tuple[Settings, int], tuple[Codes, Codes]] = {}

    @property
    def is_open(self) -> bool:
        """Whether anything is left to choose."""
        return len(self.pairs) * len(self.widths) > 1

    @property
    def most(self) -> int:
        """Components that are asked for at most."""
        procrustes = self.model.method == "procrustes"
        return max(self.widths) if procrustes else max(n for n, _ in self.pairs)

    def note(self, fold: int, look: Look, parts: Sequence[Codes], criterion: Criterion) -> None:
        """Score all candidates by the standardised features of a fold."""
        for candidate, encoders in self.model._candidates(look, self):
            fitted, held_out = (
                {n: (mapped(x, encoders[n].weights), y) for n, (x, y) in part.items()}
                for part in parts
            )
            self.codes[candidate, fold] = fitted, held_out
            found = own_and_cross(criterion.quick(fitted, held_out))
            self.scores.setdefault(candidate, []).append(found)

    def chosen(self, n_folds: int, criterion: Criterion) -> tuple[Settings, pd.DataFrame]:
        """Give the settings, and the candidates if there were any."""
        both = {c: np.array(found) for c, found in self.scores.items() if len(found) == n_folds}
        if not both:
            return self.plain, pd.DataFrame(columns=_COLUMNS)
        best = sorted(both, key=lambda c: -np.nanmean(both[c]))[:N_SETTLED]
        for candidate in best if len(best) > 1 else ():
            both[candidate] = np.array(
                [
                    own_and_cross(criterion.settled(*self.codes[candidate, fold])[0])
                    for fold in range(n_folds)
                ]
            )
        chosen = max(best, key=lambda c: np.nanmean(both[c]))
        rows = [
            [*c, np.nanmean(found), *found.mean(axis=0), c == chosen] for c, found in both.items()
        ]
        return chosen, pd.DataFrame(rows, columns=_COLUMNS)


def fit_together(models: Sequence[LinearAlignment], train: PairedWindows) -> None:
    """Fit alignments to the same windows; what they have in common is looked at once.

    Parameters
    ----------
    models
        Each ends as its `fit` alone would leave it.
    train
        Paired windows.
    """
    require_windows(train, "LinearAlignment.fit")
    alike: dict[How, list[_Search]] = {}
    for model in models:
        model._check_parameters(train)
        model.roots_ = {name: model._takes_root(name, train) for name in train.subjects}
        how = How(model.features, tuple(model.roots_.items()), model.n_repairs, model.seed)
        alike.setdefault(how, []).append(_Search(model, train))
    fitted = Fitted.of(train)
    for how, searches in alike.items():
        most = max(search.most for search in searches)
        found = _chosen(how, searches, train)
        look = Look(train.thinned(), how, most)
        for search, (settings, table) in zip(searches, found, strict=True):
            search.model.selection_ = table
            search.model._fit(look, settings, fitted)


def _chosen(
    how: How, searches: Sequence[_Search], train: PairedWindows
) -> list[tuple[Settings, pd.DataFrame]]:
    """Choose what is open by inner folds of the training windows."""
    choosing = [search for search in searches if search.is_open]
    n_folds = 0
    criterion = Criterion(train.targets)
    if choosing and not why_not(train):
        folds = folds_of(train, None, N_FOLDS, how.seed)
        n_folds = len(folds)
        most = max(search.most for search in choosing)
        for fold, parts in enumerate(folds):
            look = Look(parts[0].thinned(), how, most)
            # What is taken from features is the same for all of an alignment's axes.
            prepared = look.prepared(choosing[0].most)
            of_parts = look.trials, how.trials(parts[1].thinned())
            standardised = [prepared.standardised(trials) for trials in of_parts]
            for search in choosing:
                search.note(fold, look, standardised, criterion)
    return [search.chosen(n_folds, criterion) for search in searches]
