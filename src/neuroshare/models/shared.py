"""SharedLatentModel: labelled arrays in, labelled arrays out, tensors in between."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray

from neuroshare.models import adding
from neuroshare.models.building import Hidden, OwnEncoder, Subject
from neuroshare.models.choice import Choice
from neuroshare.models.choosing import chosen, training_of
from neuroshare.models.device_windows import ResidentWindows
from neuroshare.models.estimator import Estimator, seeded
from neuroshare.models.fitted import Source, Window, not_fitted, require_windows
from neuroshare.models.generative import Generative
from neuroshare.models.inputs import Kind
from neuroshare.models.parameters import (
    Auto,
    Init,
    Part,
    check_parameters,
    chosen_subjects,
    device_of,
)
from neuroshare.models.saving import damaged, owned, read_model, settings_of_json, write_model
from neuroshare.models.trained import (
    KINDS,
    Trained,
    Untrained,
    begun,
    history_of_json,
    labelled,
)
from neuroshare.support.checks import brief, require, require_whole
from neuroshare.support.parallel import Executor
from neuroshare.vae import train as training_loop
from neuroshare.vae.history import History
from neuroshare.vae.likelihoods import Likelihood
from neuroshare.vae.objectives import Objective
from neuroshare.vae.schedule import Schedule
from neuroshare.vae.step import Precision, generators_of
from neuroshare.vae.train import Training
from neuroshare.windows.paired import PairedWindows

UNUSED = 1e-3
"""Variance of the posterior means of a latent below which it is not used."""


class SharedLatentModel(Generative, Estimator):
    """One latent space for several subjects, each with an encoder and a decoder of its own.

    Parameters
    ----------
    subjects
        Names to select and order, or a mapping from name to `Subject` settings; None takes every
        subject of the data.
    objective
        How subjects share: ``"mmvm"`` (with this package's `MMVM_RECIPE`; an `MMVM()` object is the
        paper's rule and nothing else), ``"independent"``, ``"avg"``, ``"poe"``, ``"moe"``,
        ``"mopoe"``, ``"mmvae_plus"``, ``"autoencoder"``, or an `Objective` of your own.
    likelihood
        Observation model: ``"poisson"`` (counts), ``"negative_binomial"``, ``"gaussian"``, ... or a
        `Likelihood` of your own.
    latent_dim
        Number of shared latents; ``"auto"`` chooses it on validation trials within the training
        windows, as `inputs` and `epochs`: see `chosen_`. What is given is never changed.
    hidden
        Widths of the encoders' hidden layers (reversed in the decoders), or ``"input"``: as wide as
        each subject's input, the rule of the MMVM paper.
    beta
        Weight of the rate; a number or a `Schedule`.
    epochs
        Passes over the training windows. ``"auto"`` chooses the number of training steps, none
        among them: training goes on while held-out trials gain by it, and the start is kept where
        they do not.
    batch_size, lr, weight_decay
        Of Adam.
    init
        Where encoders start; ``"auto"`` chooses. At an aligned linear map, ``"mcca"``,
        ``"procrustes"`` or ``"srm"`` (see `LinearAlignment`), with the nonlinear branch at zero,
        or at ``"random"`` (the paper).
        Objectives that share nothing start at a map of each subject alone.
    inputs
        What the encoders see; ``"auto"`` chooses parts of the window. ``"pooled"``: the square root
        of each unit's count in the window (of other activity the sum), standardised by training
        statistics; decoders then move all lags of a unit together. A number: the same
        for each of so many consecutive parts of the window, a divisor of its lags. ``"standard"``:
        every lag by itself, square roots of counts, standardised; ``"raw"``: the activity itself
        (the paper).
    dropout
        Share of units hidden from the encoders at every training step.
    patience
        With validation data, stop after this many epochs without improvement.
    precision
        Of the networks' matrix products in training: ``"fp32"``, ``"tf32"`` (of GPUs; elsewhere
        float32) or ``"bf16"``; all else, and a fitted model, computes in float32.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    seed
        Of everything random. The same seed gives the same model on the same machine. Fits in
        threads of one process take turns, since torch has one generator for all of them; processes
        run at once.
    progress
        Show a progress bar.
    encoder
        A network of your own in place of the hidden layers of each encoder: a function (or class)
        ``f(n_units, n_lags, n_features)`` that gives a torch module from (sample, unit, lag) to
        (sample, n_features), the last width of `hidden`. It sees every lag of the `inputs` (with
        ``"pooled"`` as with ``"standard"``), under this package's heads for the mean and the
        deviation of the posterior, and beside its linear map: with an `init` other than
        ``"random"`` encoders begin at the aligned linear map whatever your network says, and it
        learns what the map does not see. It is not stored: `load` takes it again.

    Attributes
    ----------
    subjects_ : tuple of str
    units_ : dict of subject name -> unit ids
    latent_dim_ : int
    window_ : dict
        width (bins), bin_size (seconds), by, conditions, trials (ids by subject).
    history_ : Dataset (epoch)
        loss, rate, beta, validation_loss (epoch), log_likelihood (epoch, subject), and
        latent_variance (subject, latent): variance of posterior means over training windows, by
        which a latent that is not used is known (Burda et al. 2016): latent_active (latent); and
        latent_rate (subject, latent): mean divergence of a subject's posteriors from the Gaussian
        of all of them, in nats.
    chosen_ : dict
        What was chosen: latent_dim, inputs, steps, and the weighting of the start (ridge, scaling,
        sharing); without what was given. ``why_not`` says why nothing could be chosen.
    selection_ : DataFrame
        Every candidate: stage (start, training), settings, steps, score on held-out trials of inner
        folds (mean of own and cross-subject accuracy per trial) with its standard error over folds,
        log_loss where it decided, and whether it was chosen. Of the starts that do as well as the
        best, within the standard error of the difference, that of the least log loss is taken.
    imputation_ : str
        How activity is imputed and generated, one sentence. With the recipe of ``"mmvm"``, and of
        windows that are paired by behavior, it is the tuning of the target, weighed by how likely
        the codes of the sources make each condition and time; how far codes are trusted is
        measured on held-out trials. Where that cannot be (fewer than four trials of a condition, a
        given number of epochs), and with an objective given as an object, decoders do it.

    Notes
    -----
    Sutter et al., NeurIPS 2024, "Unity by Diversity: Improved Representation Learning in Multimodal
    VAEs". Every encoder sees its own subject only; the objective decides what is shared.

    Examples
    --------
    >>> import neuroshare as ns
    >>> sessions = ns.simulate_sessions(["mitt", "stella"], n_trials=6)
    >>> counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    >>> train, test = ns.pair_subjects(counts, by="odor").split()
    >>> model = ns.SharedLatentModel(epochs=1, progress=False).fit(train)
    >>> sorted(model.chosen_)
    ['init', 'inputs', 'latent_dim', 'ridge', 'scaling', 'sharing']
    """

    @seeded
    def __init__(
        self,
        subjects: Sequence[str] | Mapping[str, Subject] | None = None,
        objective: str | Objective = "mmvm",
        likelihood: str | Likelihood = "poisson",
        latent_dim: int | Auto = "auto",
        hidden: Hidden = (256,),
        beta: float | Schedule = 1.0,
        epochs: int | Auto = "auto",
        batch_size: int = 128,
        lr: float = 3e-3,
        weight_decay: float = 0.0,
        init: Init | Auto = "auto",
        inputs: Kind | Auto = "auto",
        dropout: float = 0.0,
        patience: int | None = None,
        precision: Precision = "fp32",
        device: str = "auto",
        seed: int = 0,
        progress: bool = True,
        encoder: OwnEncoder | None = None,
    ) -> None:
        self.subjects = subjects
        self.objective = objective
        self.likelihood = likelihood
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.beta = beta
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.init = init
        self.inputs = inputs
        self.dropout = dropout
        self.patience = patience
        self.precision = precision
        self.device = device
        self.seed = seed
        self.progress = progress
        self.encoder = encoder

    # ------------------------------------------------------------------ fitting

    def fit(
        self,
        train: PairedWindows,
        validation: PairedWindows | float | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        executor: int | Executor | None = None,
    ) -> Self:
        """Fit to the training windows.

        Partners are drawn anew before every epoch where the pairing is random.

        Parameters
        ----------
        train
            From `pair_subjects` and its `split`.
        validation
            Held-out windows to watch, or the share of training trials to hold out for it: what is
            left to choose is chosen on them instead of inner folds; with a given number of epochs
            the weights of the best epoch, by their loss, are kept.
        checkpoint
            File to which the state goes now and then; if it exists, fitting continues from it. What
            was chosen is kept beside it.
        executor
            Where starts and trainings are tried on inner folds, as in `sweep`: None, a number of
            processes, a Dask client, or an object whose `submit` returns futures. On a CPU the same
            is chosen everywhere.

        Raises
        ------
        TypeError
            If these are no windows.
        ValueError
            If the data do not suit the settings, or a checkpoint belongs to a fit with other
            settings or other data.
        """
        start, choice = self._prepared(train, validation, checkpoint, executor)
        windows = ResidentWindows(start.train, self._device())
        training = replace(self._training(choice, len(windows)), checkpoint=checkpoint)
        if start.has_own_encoders:  # which may wait for the device
            training = replace(training, graphs=False)
        held_out = None
        if choice.steps is None and start.validation is not None:
            held_out = ResidentWindows(start.validation, self._device())
        history = training_loop.fit(start.vae, windows, training, validation=held_out)
        return self._keep(start, windows, history, choice)

    def _training(self, choice: Choice, n_windows: int) -> Training:
        params = self.get_params(deep=False)
        if choice.steps is not None:
            return training_of(params, n_windows, steps=choice.steps)
        return training_of(params, n_windows, epochs=int(self.epochs))

    def _parts(
        self, train: PairedWindows, validation: PairedWindows | float | None
    ) -> tuple[PairedWindows, PairedWindows | None]:
        """Windows of the chosen subjects."""
        self.check_settings()
        require_windows(train, "SharedLatentModel.fit")
        require(
            self.patience is None or validation is not None,
            "patience", "SharedLatentModel.fit", "None where no validation is given to watch",
            self.patience,
        )  # fmt: skip
        names = chosen_subjects(self.subjects, train)
        train = train if names == train.subjects else train.select(names)
        if validation is not None and not isinstance(validation, PairedWindows):
            return train.split(validation, seed=self.seed)
        if isinstance(validation, PairedWindows) and validation.subjects != names:
            validation = validation.select(names)
        return train, validation

    def _prepared(
        self,
        train: PairedWindows,
        validation: PairedWindows | float | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        executor: int | Executor | None = None,
    ) -> tuple[Untrained, Choice]:
        """Networks at their start, on the device, and what was chosen of what is left to choose."""
        train, validation = self._parts(train, validation)
        # What is changed afterwards is not what was fitted.
        params = copy.deepcopy(self.get_params(deep=False))
        path = None if checkpoint is None else f"{os.fspath(checkpoint)}.choice.json"
        choice = chosen(params, train, validation, path, self.progress, executor)
        resolved = choice.resolve(params)
        start = begun(
            resolved,
            train,
            validation,
            self._device(),
            choice.weighting,
            sharpness=choice.sharpness,
        )
        return replace(start, params=params), choice

    def _keep(
        self, start: Untrained, windows: ResidentWindows, history: History, choice: Choice
    ) -> Self:
        """Take over networks that were trained on windows."""
        self._trained = start.trained(windows)
        self._choice = choice
        self.history_ = labelled(history, start.train.subjects)
        variance = self._trained.latent_variance(windows)
        self.history_["latent_variance"] = (("subject", "latent"), variance)
        rate = self._trained.latent_rate(windows)
        self.history_["latent_rate"] = (("subject", "latent"), rate)
        self.history_["latent_active"] = ("latent", (variance >= UNUSED).any(axis=0))
        if (variance < UNUSED).all():
            warnings.warn(
                "no latent is used: posterior means do not vary over the training windows, and "
                "every score will be at chance. Lower beta or start with init='mcca'.",
                stacklevel=3,
            )
        return self

    @property
    def chosen_(self) -> dict[str, Any]:
        """What was chosen."""
        self._fitted()
        return self._choice.chosen()

    @property
    def selection_(self) -> pd.DataFrame:
        """Every candidate, with its score on held-out trials."""
        self._fitted()
        return self._choice.selection()

    @property
    def settings_(self) -> dict[str, Any]:
        """Every setting as it was fitted with, given or chosen, and the objective as an object."""
        trained, choice = self._fitted(), self._choice
        objective = {"objective": trained.architecture.objective}
        return {
            **choice.resolve(trained.params),
            **self.chosen_,
            "steps": choice.steps,
            **objective,
        }

    @property
    def imputation_(self) -> str:
        """How activity is imputed, one sentence."""
        return self._fitted().imputation

    def check_settings(self) -> None:
        """Refuse settings that no fit can have; `fit` does so before it computes anything.

        Raises
        ------
        ValueError
            Names the setting, what was expected and what was given.
        """
        check_parameters(self.get_params(deep=False))

    def device_type(self) -> str:
        """Where the model computes: ``"cpu"``, ``"cuda"``, ..."""
        return self._device().type

    def _device(self) -> torch.device:
        return device_of(self.device)

    @property
    def subjects_(self) -> tuple[str, ...]:
        """Names of the fitted subjects, in order."""
        return self._fitted().fitted.subjects

    @property
    def latent_dim_(self) -> int:
        """Number of shared latents, given or chosen."""
        return self._fitted().architecture.latent_dim

    @property
    def units_(self) -> dict[str, NDArray[np.generic]]:
        """Unit ids by subject."""
        return self._fitted().fitted.units

    @property
    def window_(self) -> Window:
        """What the windows were, and the ids of the trials."""
        return self._fitted().fitted.window

    def _fitted(self) -> Trained:
        if not hasattr(self, "_trained"):
            raise not_fitted(self)
        return self._trained

    # ------------------------------------------------------------------ using

    def transform(
        self, paired: PairedWindows, *, part: Part = "shared", joint: bool = False
    ) -> xr.DataArray:
        """Posterior means of every subject's windows.

        Parameters
        ----------
        paired
            Windows with the units that were fitted; subjects may be fewer.
        part
            Which latents: those shared, the private ones of an objective that has some, or all.
        joint
            False: each subject's latents from its own activity alone, so that agreement between
            subjects means something. True: what its decoder is fed given all paired subjects.

        Returns
        -------
        DataArray (subject, window, latent)
            NaN where a subject is absent; coordinates as `PairedWindows.coords`.

        Raises
        ------
        TypeError, ValueError
            If these are no windows, or subjects, units or windows are not those fitted.
        NotFittedError
            Before `fit`.
        """
        trained = self._fitted()
        known = trained.check(paired)
        n_shared, n_private = trained.architecture.latent_dim, trained.vae.objective.private_dim
        chosen = {"shared": slice(n_shared), "private": slice(n_shared, None), "all": slice(None)}
        lacking = part == "private" and not n_private
        if not isinstance(part, str) or part not in chosen or lacking:
            raise ValueError(
                f"The 'part' parameter of transform must be one of {list(chosen)}, and 'private' "
                f"needs an objective with private latents. Got {brief(part)} with "
                f"{n_private} private latents."
            )
        latents = trained.latents(paired, known, joint=joint)[..., chosen[part]]
        return trained.fitted.latents(latents, paired, list(known), part=part, joint=int(joint))

    def impute(self, paired: PairedWindows, target: str, source: Source = None) -> xr.DataArray:
        """Expected activity of one subject from the others'.

        Parameters
        ----------
        paired
            Windows; the target's own activity is not used unless it is named as a source.
        target
            Whose activity to predict.
        source
            From whom: one name, several, or None for all other subjects. The target itself gives
            its reconstruction.

        Returns
        -------
        DataArray (window, unit, lag)
            Expected counts per bin; NaN where no source is present.

        Raises
        ------
        TypeError, ValueError
            If these are no windows, target or sources are unknown, or units or windows are not
            those fitted.
        NotFittedError
            Before `fit`.
        """
        trained = self._fitted()
        sources = trained.fitted.sources(list(trained.check(paired)), target, source)
        expected = trained.expected(paired, target, sources)
        return trained.fitted.expected_counts(expected, paired, target, sources)

    def add_subject(
        self,
        name: str,
        train: PairedWindows,
        settings: Subject | None = None,
        *,
        epochs: int | None = None,
    ) -> Self:
        """Fit an encoder and a decoder for a new subject against the frozen others.

        Nothing of the subjects fitted before changes, to the last bit; the model knows one more
        subject afterwards. The networks follow the settings of the fit, the training those of now.

        Parameters
        ----------
        name
            The new subject.
        train
            Training windows of the new subject paired with one or more fitted ones.
        settings
            Of the new subject, where they differ from the model's.
        epochs
            Of its training; by default as many as the model's.

        Raises
        ------
        TypeError, ValueError
            If these are no windows, or not of a new subject and of fitted ones.
        NotFittedError
            Before `fit`.
        """
        trained = self._fitted()
        self.check_settings()
        if epochs is not None:
            require_whole(epochs, "epochs", "SharedLatentModel.add_subject", 0, most=10**9)
        n_epochs = self.history_.sizes["epoch"] if epochs is None else epochs
        training = self._training(replace(self._choice, steps=0), 1)
        training = replace(training, epochs=n_epochs, patience=None, lr=adding.RATE * self.lr)
        self._trained = adding.add_subject(trained, name, train, settings, training)
        self.subjects = self._trained.params["subjects"]
        return self

    # ------------------------------------------------------------------ keeping

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to a directory: weights as safetensors, the rest as JSON.

        The directory appears whole or not at all; an older model there is replaced. Its settings
        are those of the fit, whatever `set_params` has changed since.
        """
        trained = self._fitted()
        about = {**trained.as_json(), "history": self.history_.to_dict()}
        about["choice"] = self._choice.as_json()
        write_model(path, about, trained.tensors())

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        objective: Objective | None = None,
        likelihood: Likelihood | Mapping[str, Likelihood] | None = None,
        encoder: OwnEncoder | Mapping[str, OwnEncoder] | None = None,
        device: str = "auto",
    ) -> SharedLatentModel:
        """Read a model that `save` wrote. No code of the file is executed.

        Parameters
        ----------
        path
            The directory.
        objective
            Object of your own class, as given when the model was made; those of this package are
            restored by name.
        likelihood, encoder
            Likewise, and the encoder of your own; where several subjects had their own, a mapping
            from their names.
        device
            Where the model is to live.

        Raises
        ------
        FileNotFoundError
            If there is no model at `path`.
        ValueError
            If the files are damaged or need objects that were not given.
        """
        stored, weights = read_model(path)
        given = {"objective": objective, "likelihood": likelihood, "encoder": encoder}
        # Whatever does not fit together in a file that was not written by `save` is damage.
        try:
            own = owned(path, stored, given)
        except (AttributeError, LookupError, TypeError) as error:
            raise damaged(path, error) from error
        try:
            params = {
                name: settings_of_json((name,), value, KINDS, own)
                for name, value in stored["params"].items()
            }
            model = cls(**{**params, "device": device})
            model.check_settings()
            params = model.get_params(deep=False)
            with generators_of(torch.device("cpu"), 0):
                model._choice = Choice.of_file(stored.get("choice"), params)
                resolved = model._choice.resolve(params)
                model._choice.check(params)
                trained = Trained.restored(stored, weights, resolved, own)
            trained = replace(trained, params=params)
            model.history_ = history_of_json(stored["history"], len(trained.fitted.subjects))
        except Exception as error:
            raise damaged(path, error) from error
        trained.vae.to(model._device())
        model._trained = trained
        return model
