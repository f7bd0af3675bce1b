"""A trained model: networks, what they were fitted to, and the prior of their latents."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from neuroshare.models.building import Architecture, Subject, begin, resolved
from neuroshare.models.device_windows import ResidentWindows
from neuroshare.models.evidence import Codes, bins_of
from neuroshare.models.fitted import Fitted
from neuroshare.models.held_out import why_not
from neuroshare.models.inputs import Inputs
from neuroshare.models.linear_start import Weighting
from neuroshare.models.prior import Prior
from neuroshare.models.saving import Place, settings_as_json, settings_of_json
from neuroshare.models.starts import Measured, starts_of
from neuroshare.models.tuning import Tuning, sharpness_of_behavior
from neuroshare.support.chunks import in_chunks
from neuroshare.vae.history import History, as_arrays
from neuroshare.vae.likelihoods import MOST_COUNTS, Likelihood
from neuroshare.vae.multimodal import MultimodalVAE
from neuroshare.vae.objectives import MMVM, Objective
from neuroshare.vae.schedule import Schedule
from neuroshare.vae.step import generators_of
from neuroshare.windows.paired import PairedWindows

KINDS: dict[str, type] = {"schedule": Schedule, "subject": Subject}
"""What a constructor takes beside numbers, names, objectives and likelihoods, for its file."""

RECIPE_OF_OLD_FILES: Mapping[str, object] = {"cross": 0.8, "combine": "mean"}
"""What ``"mmvm"`` means in files that do not say so."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a fit has made; changes of the settings of its estimator do not reach it.

    Parameters
    ----------
    vae
        The networks, one modality for each subject.
    architecture
        What they were built of.
    fitted
        What they were fitted to.
    prior
        Of the shared latents.
    params
        The estimator's parameters at the fit.
    tuning
        What is imputed and generated, where held-out windows said how far codes can be trusted: of
        windows that were paired by behavior, and by conditions with the recipe of ``"mmvm"``. A
        decoder of the start, whose log rates are linear in codes, cannot follow activity that one
        place or odor drives strongly. None: the decoders.
    """

    vae: MultimodalVAE
    architecture: Architecture
    fitted: Fitted
    prior: Prior
    params: Mapping[str, Any]
    tuning: Tuning | None = None

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.vae.parameters()).device

    def likelihood(self, name: str) -> Likelihood:
        """Observation model of one subject."""
        return cast(Likelihood, self.vae.likelihoods[self.fitted.subjects.index(name)])

    def check(self, paired: PairedWindows) -> dict[str, int]:
        """Check windows against the fit; the fitted subjects among them, name -> modality.

        Raises
        ------
        TypeError, ValueError
            As `Fitted.check`, or if the activity does not suit a likelihood.
        """
        known = self.fitted.check(paired, select=self.params["subjects"] is not None)
        for name in known:
            check_activity(name, paired, self.likelihood(name))
        return {name: self.fitted.subjects.index(name) for name in known}

    @property
    def imputation(self) -> str:
        """How activity is imputed, one sentence; empty where nothing is shared."""
        objective, by = self.architecture.objective, self.fitted.by
        if not objective.shares or len(self.fitted.subjects) < 2:
            return ""
        if self.tuning is not None:
            conditions = f"{by} and time within the trial"
            bins = f"bin of {by}" if len(self.tuning.prior) == len(self.fitted.conditions) else ""
            return (
                f"Activity of a subject was imputed as its mean activity by {bins or conditions}, "
                "weighed by how likely these are by the latents of the others (a linear "
                "discriminant of all subjects, trusted as far as held-out windows bear it out)."
            )
        if isinstance(objective, MMVM) and objective.combine == "mean":
            return (
                "Activity of a subject was imputed by its decoder, from the mean latents of the "
                "others times a measured gain."
            )
        return "Activity of a subject was imputed by its decoder, from the latents of the others."

    @cached_property
    def generator(self) -> MultimodalVAE:
        """The model as it generates activity: its networks, or with tuning as decoders."""
        if self.tuning is None:
            return self.vae
        likelihoods = [cast(Likelihood, part) for part in self.vae.likelihoods]
        units = self.fitted.units.values()
        decoders = [
            self.tuning.decoder(m, likelihood, len(ids))
            for m, (likelihood, ids) in enumerate(zip(likelihoods, units, strict=True))
        ]
        return MultimodalVAE(self.vae.encoders, decoders, likelihoods, self.vae.objective).eval()

    def windows(self, paired: PairedWindows) -> ResidentWindows:
        """Windows on the device, with fitted subjects that are not paired as absent."""
        n_features = {name: len(u) * paired.width for name, u in self.fitted.units.items()}
        return ResidentWindows(paired, self.device, n_features)

    def latents(
        self, paired: PairedWindows, known: Mapping[str, int], *, joint: bool = False
    ) -> NDArray[np.float32]:
        """Posterior means (subject, window, latent), private ones last; NaN where absent."""
        return self._latents(self.windows(paired), known, joint=joint)

    def _latents(
        self, windows: ResidentWindows, known: Mapping[str, int], *, joint: bool = False
    ) -> NDArray[np.float32]:
        paired = windows.paired
        n_latents = self.architecture.latent_dim + self.vae.objective.private_dim
        latents = np.empty((len(known), len(paired), n_latents), dtype=np.float32)
        with torch.inference_mode():
            for index, x, observed in windows.all_batches():
                z = self.vae.latents(x, observed if joint else None)
                latents[:, index] = z[list(known.values())].cpu().numpy()
        latents[~paired.observed[[paired.subjects.index(name) for name in known]]] = np.nan
        return latents

    def expected(
        self, paired: PairedWindows, target: str, sources: list[str]
    ) -> NDArray[np.float32]:
        """Expected activity of the target (window, unit, lag); NaN where every source is absent."""
        fitted = self.fitted
        if self.tuning is not None:
            return self._tuned(self.tuning, paired, target, sources)
        use = torch.zeros(len(fitted.subjects), 1, dtype=torch.bool, device=self.device)
        for name in sources:
            use[fitted.subjects.index(name)] = True
        n_units = len(fitted.units[target])
        expected = np.empty((len(paired), n_units, paired.width), dtype=np.float32)
        with torch.inference_mode():
            for index, x, observed in self.windows(paired).all_batches():
                mean = self.vae.impute(x, observed & use, fitted.subjects.index(target))
                mean = mean.view(len(mean), paired.width, n_units).transpose(1, 2)
                mean[~(observed & use).any(0)] = torch.nan
                expected[index] = mean.cpu().numpy()
        return expected

    def _tuned(
        self, tuning: Tuning, paired: PairedWindows, target: str, sources: list[str]
    ) -> NDArray[np.float32]:
        """`expected`, by tuning."""
        known = {name: self.fitted.subjects.index(name) for name in sources}
        z = torch.from_numpy(self.latents(paired, known)[..., : self.architecture.latent_dim])
        rates = tuning.rates[self.fitted.subjects.index(target)]
        found = []
        for rows in in_chunks(np.arange(len(paired)), len(tuning.prior)):
            p = tuning.bins(dict(zip(known.values(), z[:, rows], strict=True)))
            p[z[:, rows, 0].isnan().all(0)] = torch.nan
            found.append((p @ rates).numpy())
        n_units = len(self.fitted.units[target])
        parts = np.concatenate(found).reshape(len(paired), -1, n_units).swapaxes(1, 2)
        return np.repeat(parts, paired.width // parts.shape[2], axis=2)

    def latent_variance(self, windows: ResidentWindows) -> NDArray[np.float64]:
        """Variance of the posterior means over windows of all subjects, (subject, latent)."""
        known = {name: k for k, name in enumerate(self.fitted.subjects)}
        latents = self._latents(windows.thinned(), known)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of subjects that are never there
            return np.asarray(np.nanvar(latents, axis=1, dtype=np.float64))

    def latent_rate(self, windows: ResidentWindows) -> NDArray[np.float64]:
        """Rate of each latent over windows, (subject, latent), in nats; NaN where absent.

        Mean divergence of a subject's posteriors from the Gaussian with the mean and variance of
        all of them together: a bound of what the latent can tell of the window.
        """
        n = len(self.fitted.subjects)
        total = np.zeros((4, n, 1))
        with torch.inference_mode():
            for _, x, observed in windows.thinned().all_batches():
                q = self.vae.encode(x)
                loc, scale = (part.double() for part in (q.loc, q.scale))
                parts = torch.stack([torch.ones_like(loc), loc, loc**2 + scale**2, scale.log()])
                seen = observed[None, :, :, None]
                total = total + torch.where(seen, parts, 0.0).sum(2).cpu().numpy()
        count, first, second, logs = total
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = second / count - (first / count) ** 2
            return np.asarray(0.5 * np.log(variance) - logs / count)

    # ------------------------------------------------------------------ keeping

    def as_json(self) -> dict[str, Any]:
        """Everything but weights and history, for a file."""
        return {
            "params": {name: settings_as_json(v, KINDS) for name, v in self.params.items()},
            "objective": settings_as_json(self.architecture.objective, KINDS),
            **self.fitted.as_json(),
            "linear": self.architecture.linear,
        }

    def tensors(self) -> dict[str, Tensor]:
        """All weights, by name."""
        tuned = {} if self.tuning is None else self.tuning.tensors()
        return self.vae.state_dict() | self.prior.tensors() | tuned

    @classmethod
    def restored(
        cls,
        stored: Mapping[str, Any],
        weights: dict[str, Tensor],
        params: Mapping[str, Any],
        own: Mapping[Place, object],
    ) -> Trained:
        """Undo `as_json` and `tensors`; `own` holds what is a user's own.

        Raises
        ------
        Exception
            Of any kind, where a file does not fit together.
        """
        fitted = Fitted.from_json(stored)
        if not all(value.isfinite().all() for value in weights.values()):
            raise ValueError("weights are not finite")
        if "objective" in stored:
            objective = settings_of_json(("objective",), stored["objective"], KINDS, own)
        elif params["objective"] == "mmvm":
            objective = MMVM(**RECIPE_OF_OLD_FILES)  # type: ignore[arg-type]
        else:
            objective = params["objective"]
        architecture = architecture_of(params, objective, linear=bool(stored["linear"]))
        prior = Prior.taken_from(weights, architecture.latent_dim)
        n_units = [len(ids) for ids in fitted.units.values()]
        tuning = Tuning.taken_from(weights, architecture.latent_dim, n_units)
        # Before memory is taken for them: no layer is wider than what the file holds.
        held = {n for value in weights.values() for n in value.shape}
        units = {name: ids.tolist() for name, ids in fitted.units.items()}
        if not architecture.widths(units, fitted.width) <= held:
            raise ValueError("the weights are not those of the networks described")
        vae = architecture.build(fitted.units, fitted.width)
        if any(
            value.dtype != weights[name].dtype
            for name, value in vae.state_dict().items()
            if name in weights
        ):
            raise ValueError("the weights are of another precision")
        vae.load_state_dict(weights)
        return cls(vae.eval(), architecture, fitted, prior, params, tuning)


@dataclass(frozen=True, eq=False)
class Untrained:
    """Networks at their start, on their device, and the windows that they are to learn from.

    Parameters
    ----------
    vae, architecture, params
        As of `Trained`.
    train, validation
        Windows of the chosen subjects.
    sharpness
        How far the codes of each subject tell conditions and times in held-out trials, where what
        is imputed is to be the tuning to these.
    """

    vae: MultimodalVAE
    architecture: Architecture
    params: Mapping[str, Any]
    train: PairedWindows
    validation: PairedWindows | None
    sharpness: Mapping[str, float] | None = None

    @property
    def has_own_encoders(self) -> bool:
        """Whether any encoder is a user's."""
        return any(self.architecture.of(n).encoder is not None for n in self.train.subjects)

    def trained(self, windows: ResidentWindows) -> Trained:
        """Give what training on these windows, those of `train`, has made of the networks."""
        windows.redraw(0)
        latent_dim = self.architecture.latent_dim
        prior = Prior.of(self.vae, latent_dim, windows, self.params["seed"])
        fitted = Fitted.of(self.train)
        trained = Trained(self.vae, self.architecture, fitted, prior, self.params)
        sharpness, n_parts = self.sharpness, self.architecture.inputs.n_parts(self.train.width)
        if self.train.behavior is not None and self.architecture.objective.shares:
            likelihoods = {n: self.architecture.likelihood(n) for n in fitted.subjects}
            sharpness, n_parts = (
                sharpness_of_behavior(
                    self.train,
                    latent_dim,
                    self.architecture.inputs,
                    likelihoods,
                    self.params["seed"],
                ),
                1,
            )
        if sharpness is None:
            return trained
        train = self.train.thinned()
        codes = _own_codes(trained, train)
        return replace(trained, tuning=Tuning.of(codes, train, sharpness, n_parts))


def _own_codes(trained: Trained, train: PairedWindows) -> Codes:
    """Shared codes of all windows of every subject, and their bins."""
    return {
        name: (z.reshape(-1, z.shape[2]), bins_of(train.codes(name), z.shape[1]).ravel())
        for name, z in codes_of_trials(trained, train, train.subjects).items()
    }


def codes_of_trials(
    trained: Trained, train: PairedWindows, names: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Shared codes of all trials of some fitted subjects, (trial, start, latent); else NaN."""
    n_latents = trained.architecture.latent_dim
    codes = {}
    for name in names:
        alone = train.select([name])
        z = trained.latents(alone, {name: trained.fitted.subjects.index(name)})[..., :n_latents]
        z = z.reshape(len(alone.partners), -1, n_latents)
        codes[name] = np.full((train.n_trials(name), *z.shape[1:]), np.nan)
        codes[name][alone.partners[:, 0]] = z
    return codes


def begun(
    params: Mapping[str, Any],
    train: PairedWindows,
    validation: PairedWindows | None,
    device: torch.device,
    weighting: Weighting | None = None,
    *,
    sharpness: Mapping[str, float] | None = None,
    imputes: bool = True,
) -> Untrained:
    """Build the networks that parameters of `SharedLatentModel` ask for, at their start.

    Parameters
    ----------
    params
        With all that was chosen.
    train, validation
        Windows of the chosen subjects.
    device
        Where the networks are to be.
    weighting
        Of the start.
    sharpness
        As of `Untrained`, of the training that was chosen.
    imputes
        Whether the model is to impute, and what that needs is to be measured.

    Raises
    ------
    ValueError
        If activity does not suit a likelihood.
    """
    names = train.subjects
    method = params["init"] if params["init"] != "random" and len(names) > 1 else None
    architecture = architecture_of(params, params["objective"], linear=method is not None)
    likelihoods = {name: architecture.likelihood(name) for name in names}
    for part in (train, validation):
        for name, likelihood in likelihoods.items():
            if part is not None:
                check_activity(name, part, likelihood)
    objective = architecture.objective
    # The recipe by name; an objective as an object imputes by its own rule.
    tunes = params["objective"] == "mmvm" and train.behavior is None and len(names) > 1
    tunes = imputes and tunes and not why_not(train)
    own = [name for name in names if architecture.of(name).encoder is not None]
    measured: Measured | None = None
    if tunes and sharpness is None and method is not None and params["epochs"] == 0 and not own:
        measured = "sharpness"
    elif imputes and not (tunes and sharpness) and train.behavior is None:
        measured = "gains" if isinstance(objective, MMVM) and objective.combine == "mean" else None
    starts = starts_of(
        train,
        architecture.latent_dim,
        architecture.inputs,
        likelihoods,
        method=method,
        weighting=weighting,
        alone=not architecture.objective.shares,
        measured=measured,
        of_lags=own,
        seed=params["seed"],
    )
    with generators_of(device, params["seed"]):
        vae = architecture.build(train.units, train.width)
        begin(vae, names, starts)
    trust = (sharpness or starts.sharpness) if tunes else None
    return Untrained(vae.to(device), architecture, params, train, validation, trust)


def architecture_of(
    params: Mapping[str, Any], objective: str | Objective, *, linear: bool
) -> Architecture:
    """Networks that parameters of `SharedLatentModel` ask for."""
    own = params["subjects"]
    return Architecture(
        latent_dim=params["latent_dim"],
        objective=resolved(objective, trains=params["epochs"] != 0),
        inputs=Inputs(params["inputs"], params["dropout"]),
        linear=linear,
        common=Subject(params["hidden"], params["likelihood"], params["encoder"]),
        own=own if isinstance(own, Mapping) else {},
    )


def check_activity(name: str, paired: PairedWindows, likelihood: Likelihood) -> None:
    """Refuse activity that does not suit a likelihood.

    Raises
    ------
    ValueError
        Says why, and what to take instead.
    """
    if likelihood.counts and (fault := paired.why_not_counts(name)):
        raise ValueError(
            f"{type(likelihood).__name__} needs non-negative integer counts; {name!r} has {fault}. "
            "Use likelihood='gaussian' for z-scored activity."
        )
    if likelihood.counts and (most := paired.most(name)) > MOST_COUNTS:
        raise ValueError(
            f"{type(likelihood).__name__} reaches {MOST_COUNTS:,.0f} counts per bin; {name!r} has "
            f"a bin of {most:,.0f}. Leave such units out, take shorter bins, or use "
            "likelihood='gaussian'."
        )


def labelled(history: History, names: tuple[str, ...]) -> xr.Dataset:
    """History of a training as a Dataset (epoch), log_likelihood (epoch, subject)."""
    arrays = as_arrays(history)
    log_likelihood = arrays.pop("log_likelihood").reshape(-1, len(names))
    return xr.Dataset(
        {
            **{name: ("epoch", values) for name, values in arrays.items()},
            "log_likelihood": (("epoch", "subject"), log_likelihood),
        },
        coords={"epoch": np.arange(1, history.n_epochs + 1), "subject": list(names)},
        attrs={"interrupted": int(history.interrupted)}
        | ({} if history.best_epoch is None else {"best_epoch": history.best_epoch + 1}),
    )


def history_of_json(stored: dict[str, Any], n_subjects: int) -> xr.Dataset:
    """Undo ``history_.to_dict()``."""
    if not stored["dims"]["epoch"]:  # JSON has no empty two-dimensional lists
        stored["data_vars"]["log_likelihood"]["data"] = np.empty((0, n_subjects))
    return xr.Dataset.from_dict(stored)
