"""One more subject for a trained model: networks of its own against the frozen others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold

from neuroshare.models.building import Subject, begin_subject, copy_into
from neuroshare.models.evidence import N_SPLITS, sharpest
from neuroshare.models.fitted import require_windows
from neuroshare.models.held_out import why_not
from neuroshare.models.inputs import all_sums, with_floor
from neuroshare.models.starts import SubjectStart, lags_of
from neuroshare.models.trained import Trained, check_activity, codes_of_trials
from neuroshare.models.tuning import USUAL_SHARPNESS, Tuning, rates_at, sums_of
from neuroshare.support.checks import require
from neuroshare.vae import train as training_loop
from neuroshare.vae.step import generators_of
from neuroshare.vae.train import Training
from neuroshare.windows.paired import PairedWindows

Array = NDArray[np.float64]

RATE = 0.25
"""Of the learning rate: a newcomer begins near where it belongs, from where a joint posterior with
frozen others would pull it at the full rate."""
_N_REPAIRS = 20
"""Redrawn pairings over which the latents of partners are averaged."""


def add_subject(
    trained: Trained,
    name: str,
    train: PairedWindows,
    settings: Subject | None,
    training: Training,
) -> Trained:
    """`SharedLatentModel.add_subject`: a model of one more subject; the given one is as it was."""
    who = "SharedLatentModel.add_subject"
    require(isinstance(name, str), "name", who, "the name of a subject", name)
    require_windows(train, who)
    require(
        settings is None or isinstance(settings, Subject), "settings", who, "a Subject, or None",
        settings,
    )  # fmt: skip
    fitted = trained.fitted
    if name in fitted.subjects:
        raise ValueError(f"subject {name!r} is fitted already; there are {fitted.subjects}.")
    if name not in train.subjects:
        raise ValueError(f"subject {name!r} is not in the data: {list(train.subjects)}.")
    partners = [known for known in fitted.subjects if known in train.subjects]
    if not partners:
        raise ValueError(
            f"adding {name!r} needs at least one fitted subject to pair with, of "
            f"{list(fitted.subjects)}; the data hold {list(train.subjects)}."
        )
    trained.check(train.select(partners))
    if settings is not None:
        settings.check(who)
    train = train.select([*partners, name])
    architecture = trained.architecture.with_own(name, settings or Subject())
    likelihood = architecture.likelihood(name)
    check_activity(name, train, likelihood)
    start = _start(trained, train, name, partners, architecture.inputs.takes_root(likelihood))
    if architecture.inputs.pooled and architecture.of(name).encoder is not None:
        root = architecture.inputs.takes_root(likelihood)
        start = replace(start, lags=lags_of(train, name, architecture.inputs, root=root))
    grown = fitted.with_subject(name, train)
    new = len(fitted.subjects)
    with generators_of(trained.device, training.seed):
        vae = architecture.build(grown.units, grown.width)
        begin_subject(vae, new, start)
    copy_into(vae, trained.vae)
    vae.requires_grad_(False)
    for part in (vae.encoders[new], vae.decoders[new], vae.likelihoods[new]):
        part.requires_grad_(True)
    vae.to(trained.device)
    subjects = _subjects(trained.params["subjects"], fitted.subjects, name, settings)
    params = {**trained.params, "subjects": subjects}
    grown_model = Trained(vae, architecture, grown, trained.prior, params)
    training_loop.fit(vae, grown_model.windows(train), training)
    vae.requires_grad_(True)
    if trained.tuning is None:
        return grown_model
    root = architecture.inputs.takes_root(likelihood)
    return replace(grown_model, tuning=_tuned(trained, train, name, partners, root))


def _subjects(
    given: Sequence[str] | Mapping[str, Subject] | str | None,
    known: Sequence[str],
    name: str,
    settings: Subject | None,
) -> Sequence[str] | Mapping[str, Subject] | None:
    """Give the parameter `subjects` of a model that knows one more."""
    if isinstance(given, Mapping) or settings is not None:
        own = given if isinstance(given, Mapping) else {}
        return {**{n: own.get(n, Subject()) for n in known}, name: settings or Subject()}
    return None if given is None else (*known, name)


def _start(
    trained: Trained, train: PairedWindows, name: str, partners: Sequence[str], root: bool
) -> SubjectStart:
    """Where the networks of a new subject begin."""
    inputs = trained.architecture.inputs
    seen = inputs.statistics(train, name, root=root)
    if not trained.architecture.linear:
        return SubjectStart(seen.rate, seen.loc, seen.scale)
    weights, bias = _regressed(trained, train, name, partners, root)
    return SubjectStart.of_map(seen, weights, bias, standardised=inputs.kind != "raw")


def _regressed(
    trained: Trained, train: PairedWindows, name: str, partners: Sequence[str], root: bool
) -> tuple[Array, Array]:
    """Linear map from a new subject's windows to where its partners' latents are.

    Ridge regression on the activity (square roots, if `root`) summed over lags (of sums, where
    inputs are pooled), of the partners' latents averaged over redrawn partners; the penalty is
    chosen between trials.
    """
    n_latents = trained.architecture.latent_dim
    known = codes_of_trials(trained, train, partners)
    spread = np.mean([np.nanstd(z, axis=(0, 1)) for z in known.values()], axis=0)
    total = np.zeros((train.n_trials(name), len(train.first_bins), n_latents))
    met = np.zeros(len(total))
    for repeat in range(_N_REPAIRS if train.redraws else 1):
        table = train.repair(train.seed + repeat).partners
        for column, partner in enumerate(partners):
            both = (table[:, column] >= 0) & (table[:, -1] >= 0)
            np.add.at(total, table[both, -1], known[partner][table[both, column]])
            np.add.at(met, table[both, -1], 1)
    used = np.flatnonzero(met)
    if not len(used):
        raise ValueError(f"no trial of the new subject {name!r} is paired with a fitted one.")
    target = (total[used] / met[used, None, None]).reshape(-1, n_latents)
    features = _features(trained, train, name, root)[used].reshape(len(target), -1)
    loc, scale = features.mean(0), with_floor(features.std(0))
    standard = (features - loc) / scale
    trial = np.repeat(np.arange(len(used)), len(train.first_bins))
    if len(used) > 1:
        penalties = {"alpha": len(target) * np.logspace(-3, 1, 9)}
        search = GridSearchCV(
            Ridge(),
            penalties,
            cv=GroupKFold(min(5, len(used))),
            scoring="neg_mean_squared_error",
        )
        ridge = search.fit(standard, target, groups=trial).best_estimator_
    else:
        ridge = Ridge(float(len(target))).fit(standard, target)
    # Regression shrinks; let the new latents spread as the others do.
    shrunk = ridge.predict(standard).std(0)
    weights = ridge.coef_.T / scale[:, None] * (spread / np.maximum(shrunk, 1e-6))
    bias = target.mean(0) - loc @ weights
    pooled = trained.architecture.inputs.pooled
    return weights if pooled else np.tile(weights, (train.width, 1)), bias


def _features(trained: Trained, train: PairedWindows, name: str, root: bool) -> Array:
    """Activity (square roots, if `root`) of all windows, (trial, start, feature)."""
    inputs = trained.architecture.inputs
    seen = np.sqrt if root else np.asarray
    if inputs.pooled:
        n_groups = inputs.n_groups(train.width)
        return np.asarray(seen(all_sums(train, name, n_groups)))
    windows = np.lib.stride_tricks.sliding_window_view(
        seen(train.activity(name).astype(float)), train.width, axis=2
    )[:, :, train.first_bins]
    return np.asarray(windows.sum(-1).swapaxes(1, 2))


def _tuned(
    trained: Trained, train: PairedWindows, name: str, partners: Sequence[str], root: bool
) -> Tuning:
    """Tuning that knows a new subject: its activity where the codes of its partners say it is.

    The sharpness of its codes is measured on inner splits, with maps learned from the rest.
    """
    train = train.thinned()
    known = cast(Tuning, trained.tuning)
    sharpness = USUAL_SHARPNESS
    if not why_not(train):
        evidence = []
        slopes, offsets = known.slopes.double().numpy(), known.offsets.double().numpy()
        for split in range(N_SPLITS):
            fitted, out = train.split(1 / N_SPLITS, seed=split)
            weights, bias = _regressed(trained, fitted, name, partners, root)
            features = _features(trained, out, name, root)
            z = features.reshape(-1, features.shape[2]) @ weights[: features.shape[2]] + bias
            windows, place = _placed(trained, out, name, partners)
            evidence.append((z[windows] @ slopes + offsets, place))
        sharpness = sharpest(evidence, known.prior.double().numpy())
    windows, place = _placed(trained, train, name, partners)
    n_parts = known.rates[0].shape[1] // len(trained.fitted.units[trained.fitted.subjects[0]])
    sums = sums_of(train, name, n_parts)[windows]
    rates = rates_at(sums, place, n_parts, train.width, not train.why_not_counts(name))
    return known.with_subject(rates, sharpness)


def _placed(
    trained: Trained, train: PairedWindows, name: str, partners: Sequence[str]
) -> tuple[NDArray[np.int64], Array]:
    """Where the windows of a newcomer are by the codes of its partners, averaged over redraws.

    Returns
    -------
    (window,), those that are paired; (window, bin), how likely these are in each bin
    """
    tuning = cast(Tuning, trained.tuning)
    known = codes_of_trials(trained, train, partners)
    n_starts = len(train.first_bins)
    place = np.zeros((train.n_trials(name) * n_starts, len(tuning.prior)))
    met = np.zeros(len(place))
    for repeat in range(N_SPLITS if train.redraws else 1):
        table = train.repair(train.seed + repeat).partners
        table = table[(table[:, -1] >= 0) & (table[:, :-1] >= 0).any(axis=1)]
        codes = {}
        for column, partner in enumerate(partners):
            z = known[partner][table[:, column]]
            z[table[:, column] < 0] = np.nan
            modality = trained.fitted.subjects.index(partner)
            codes[modality] = torch.from_numpy(z.reshape(-1, z.shape[2]).astype(np.float32))
        windows = (table[:, -1:] * n_starts + np.arange(n_starts)).ravel()
        np.add.at(place, windows, tuning.bins(codes).double().numpy())
        np.add.at(met, windows, 1)
    used = np.flatnonzero(met)
    return used, place[used] / met[used, None]
