"""SharedLatentModel: labelled arrays in, labelled arrays out, tensors in between."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, cast, get_args

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import Ridge
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, GroupKFold
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from neuroshare.linear import LinearAlignment
from neuroshare.recordings.binning import in_chunks
from neuroshare.recordings.pairing import PairedWindows, are_counts
from neuroshare.resident import ResidentWindows
from neuroshare.settings import (
    require,
    require_number,
    require_one_of,
    require_seed,
    require_whole,
    told,
)
from neuroshare.start import Start, code_gains, linear_starts, window_sums
from neuroshare.stored import (
    customs,
    damaged,
    plain,
    read_model,
    settings_as_json,
    settings_of_json,
    write_model,
)
from neuroshare.vae import train as training
from neuroshare.vae.likelihoods import Likelihood, make_likelihood
from neuroshare.vae.multimodal import MultimodalVAE
from neuroshare.vae.networks import Decoder, Encoder, repeat_lags
from neuroshare.vae.objectives import MMVM, Objective, make_objective
from neuroshare.vae.schedule import Schedule
from neuroshare.vae.stacked import fit_many
from neuroshare.vae.step import Precision

Hidden = Sequence[int] | Literal["input"]
Init = Literal["mcca", "procrustes", "srm", "random"]

MMVM_RECIPE = {"cross": 0.8, "combine": "mean"}
"""What ``objective="mmvm"`` adds to the rule of the paper, which is ``objective=MMVM()``."""


@dataclass(frozen=True)
class Subject:
    """Settings of one subject where they differ from the model's; None keeps the model's."""

    hidden: Hidden | None = None
    likelihood: str | Likelihood | None = None


_KINDS: dict[str, type] = {"schedule": Schedule, "subject": Subject}
"""What a constructor takes beside numbers, names, objectives and likelihoods, for its file."""


class SharedLatentModel(BaseEstimator):  # type: ignore[misc]
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
        Number of shared latents.
    hidden
        Widths of the encoders' hidden layers (reversed in the decoders), or ``"input"``: as wide as
        each subject's input, the rule of the MMVM paper.
    beta
        Weight of the rate; a number or a `Schedule`.
    epochs, batch_size, lr, weight_decay
        Of Adam.
    init
        Where encoders start: at an aligned linear map, ``"mcca"``, ``"procrustes"`` or ``"srm"``
        (see `LinearAlignment`), with the nonlinear branch at zero, or at ``"random"`` (the paper).
    inputs
        What the encoders see: ``"pooled"``: the square root of each unit's count in the window
        (of other activity the sum), standardised by training statistics and weighed by how much of
        it other subjects share; decoders then move all lags of a unit together. ``"standard"``:
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
        Of everything random. The same seed gives the same model on the same machine.
    progress
        Show a progress bar.

    Attributes
    ----------
    subjects_ : tuple of str
    units_ : dict of subject name -> unit ids
    history_ : Dataset (epoch)
        loss, rate, beta, validation_loss (epoch), log_likelihood (epoch, subject).

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
    >>> model.transform(test).sizes["latent"]
    4
    """

    def __init__(
        self,
        subjects: Sequence[str] | Mapping[str, Subject] | None = None,
        objective: str | Objective = "mmvm",
        likelihood: str | Likelihood = "poisson",
        latent_dim: int = 4,
        hidden: Hidden = (64,),
        beta: float | Schedule = 1.0,
        epochs: int = 8,
        batch_size: int = 1024,
        lr: float = 2e-4,
        weight_decay: float = 0.0,
        init: Init = "mcca",
        inputs: Literal["pooled", "standard", "raw"] = "pooled",
        dropout: float = 0.3,
        patience: int | None = None,
        precision: Precision = "fp32",
        device: str = "auto",
        seed: int = 0,
        progress: bool = True,
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

    # ------------------------------------------------------------------ fitting

    def fit(
        self,
        train: PairedWindows,
        validation: PairedWindows | float | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Fit to the training windows.

        Partners are drawn anew before every epoch where the pairing is random.

        Parameters
        ----------
        train
            From `pair_subjects` and its `split`.
        validation
            Held-out windows to watch, or the share of training trials to hold out for it; the
            weights of the best epoch are kept.
        checkpoint
            File to which the state goes now and then; if it exists, fitting continues from it.

        Raises
        ------
        ValueError
            If the data do not suit the settings, or a checkpoint belongs to another fit.
        """
        vae, train, validation = self._prepared(train, validation)
        windows = ResidentWindows(train, self._device())
        history = training.fit(
            vae,
            windows,
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            beta=self.beta,
            weight_decay=self.weight_decay,
            validation=(
                None if validation is None else ResidentWindows(validation, self._device())
            ),
            patience=self.patience,
            precision=self.precision,
            seed=self.seed,
            progress=self.progress,
            checkpoint=checkpoint,
        )
        return self._trained(vae, windows, history)

    def _prepared(
        self, train: PairedWindows, validation: PairedWindows | float | None
    ) -> tuple[MultimodalVAE, PairedWindows, PairedWindows | None]:
        """Networks at their start, on the device, and the windows of the chosen subjects."""
        self.check_settings()
        names = self._chosen(train)
        train = train if names == train.subjects else train.select(names)
        if validation is not None and not isinstance(validation, PairedWindows):
            train, validation = train.split(validation, seed=self.seed)
        elif validation is not None and validation.subjects != names:
            validation = validation.select(names)
        device = self._device()
        linear = self.init != "random" and len(names) > 1
        with torch.random.fork_rng(devices=_cuda(device)):
            torch.manual_seed(self.seed)
            vae = self._skeleton(train.units, train.width, linear=linear)
            for part in (train, validation):
                for name, likelihood in zip(names, vae.likelihoods, strict=True):
                    if part is not None:
                        _check_activity(name, part.counts[name], cast(Likelihood, likelihood))
            self._start(vae, train, linear)
        return vae.to(device), train, validation

    def _trained(
        self, vae: MultimodalVAE, windows: ResidentWindows, history: training.History
    ) -> Self:
        """Take over networks that were trained on windows."""
        train = windows.paired
        names = train.subjects
        self._vae = vae
        self.subjects_ = names
        self.units_ = train.units
        windows.redraw(0)
        self._mixture = _prior_mixture(vae, self.latent_dim, windows, self.seed)
        self.window_: dict[str, Any] = {
            "width": train.width,
            "bin_size": train.bin_size,
            "by": train.by,
            "conditions": [plain(c) for c in train.conditions],
            "trials": {name: _trial_ids(train, name) for name in names},
        }
        arrays = training.as_arrays(history)
        log_likelihood = arrays.pop("log_likelihood").reshape(-1, len(names))
        self.history_ = xr.Dataset(
            {
                **{name: ("epoch", values) for name, values in arrays.items()},
                "log_likelihood": (("epoch", "subject"), log_likelihood),
            },
            coords={"epoch": np.arange(1, history.n_epochs + 1), "subject": list(names)},
            attrs={"interrupted": int(history.interrupted)}
            | ({} if history.best_epoch is None else {"best_epoch": history.best_epoch + 1}),
        )
        return self

    def check_settings(self) -> None:
        """Refuse settings that no fit can have; `fit` does so before it computes anything.

        Raises
        ------
        ValueError
            Names the setting, what was expected and what was given.
        """
        who = "SharedLatentModel"
        for name, least in (("latent_dim", 1), ("batch_size", 1)):
            require_whole(getattr(self, name), name, who, least)
        require_whole(self.epochs, "epochs", who, 0, most=10**9)
        if self.patience is not None:
            require_whole(self.patience, "patience", who, 1, most=10**9)
        require_seed(self.seed, who)
        require_number(self.lr, "lr", who, 0, open_=True)
        require_number(self.weight_decay, "weight_decay", who, 0)
        require_number(self.dropout, "dropout", who, 0, 1)
        if not isinstance(self.beta, Schedule):
            require_number(self.beta, "beta", who, 0)
        require_one_of(self.init, "init", who, get_args(Init))
        require_one_of(self.inputs, "inputs", who, ("pooled", "standard", "raw"))
        require_one_of(self.precision, "precision", who, get_args(Precision))
        make_objective(self.objective)
        given = self.subjects
        if isinstance(given, Mapping):
            require(
                all(isinstance(setting, Subject) for setting in given.values()),
                "subjects", who, "a mapping from names to Subject settings", given,
            )  # fmt: skip
        for setting in (self, *(given.values() if isinstance(given, Mapping) else ())):
            if setting.likelihood is not None:
                make_likelihood(setting.likelihood)
            if setting.hidden is not None and setting.hidden != "input":
                _check_hidden(setting.hidden)

    def _chosen(self, paired: PairedWindows) -> tuple[str, ...]:
        """Names of the subjects to fit, in order."""
        if not isinstance(paired, PairedWindows):
            raise TypeError(
                "SharedLatentModel.fit expects the PairedWindows of pair_subjects. "
                f"Got {type(paired).__name__} instead."
            )
        if self.subjects is None:
            names = paired.subjects
        elif isinstance(self.subjects, str):
            names = (self.subjects,)
        else:
            listed = isinstance(self.subjects, Sequence | Mapping | np.ndarray)
            names = tuple(self.subjects) if listed else ()
            require(
                bool(names) and all(isinstance(name, str) for name in names)
                and len(set(names)) == len(names),
                "subjects", "SharedLatentModel", "different names of subjects", self.subjects,
            )  # fmt: skip
        missing = [name for name in names if name not in paired.subjects]
        if missing:
            raise ValueError(
                f"subjects {missing} are not in the data, which hold {list(paired.subjects)}."
            )
        return names

    def device_type(self) -> str:
        """Where the model computes: ``"cpu"``, ``"cuda"``, ..."""
        return self._device().type

    def _device(self) -> torch.device:
        if isinstance(self.device, str) and self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            float(torch.zeros(1, device=device))
        # torch says in many ways that it cannot compute there.
        except Exception as error:
            raise ValueError(
                f"The 'device' parameter of SharedLatentModel must be 'auto', 'cpu' or a device "
                f"that torch {torch.__version__} finds here. Got {told(self.device)} instead."
            ) from error
        return device

    def _objective(self) -> Objective:
        if self.objective == "mmvm":
            return MMVM(**MMVM_RECIPE)  # type: ignore[arg-type]
        return make_objective(self.objective)

    def _skeleton(
        self, units: Mapping[str, NDArray[Any]], width: int, *, linear: bool
    ) -> MultimodalVAE:
        """Networks of the right shapes, for subject name -> units."""
        given = self.subjects if isinstance(self.subjects, Mapping) else {}
        objective = copy.deepcopy(self._objective())
        n_latents = self.latent_dim + objective.private_dim
        objective.build(len(units), n_latents)
        encoders, decoders, likelihoods = [], [], []
        for name, ids in units.items():
            setting = given.get(name) or Subject()
            likelihood = make_likelihood(setting.likelihood or self.likelihood)
            hidden = setting.hidden or self.hidden
            n_inputs = len(ids) * width
            widths = (n_inputs, n_inputs) if hidden == "input" else tuple(map(int, hidden))
            standard = self.inputs != "raw"
            pooled = self.inputs == "pooled"
            encoders.append(
                Encoder(
                    n_inputs,
                    n_latents,
                    widths,
                    transform="sqrt" if standard and likelihood.counts else "none",
                    standardise=standard,
                    dropout=self.dropout,
                    n_units=len(ids),
                    bottleneck=hidden == "input",
                    linear=linear,
                    pool="lags" if pooled else "none",
                )
            )
            decoders.append(
                Decoder(
                    n_latents,
                    n_inputs,
                    widths[::-1],
                    linear=linear,
                    n_units=len(ids) if pooled else None,
                )
            )
            likelihoods.append(likelihood.sized(n_inputs))
        return MultimodalVAE(encoders, decoders, likelihoods, objective)

    def _widths(self, n_lags: int) -> set[int]:
        """Widths of the layers between the activity and the latents, of all subjects."""
        given = self.subjects if isinstance(self.subjects, Mapping) else {}
        widths = {self.latent_dim + self._objective().private_dim}
        for name, ids in self.units_.items():
            hidden = (given.get(name) or Subject()).hidden or self.hidden
            widths |= {len(ids) * n_lags} if hidden == "input" else set(map(int, hidden))
        return widths

    def _start(self, vae: MultimodalVAE, train: PairedWindows, linear: bool) -> None:
        """Begin where the training data say: standard inputs, mean rates, an aligned linear map."""
        if linear and self.init != "random" and self.inputs == "pooled":
            counted = {
                name: cast(Likelihood, likelihood).counts
                for name, likelihood in zip(train.subjects, vae.likelihoods, strict=True)
            }
            starts = linear_starts(
                train, self.latent_dim, counted, method=self.init, seed=self.seed
            )
            for modality, name in enumerate(train.subjects):
                _start_at(vae, modality, train, name, starts[name])
            if isinstance(vae.objective, MMVM) and vae.objective.combine == "mean":
                gains = code_gains(train, self.latent_dim, counted, self.init, seed=self.seed)
                if gains is not None:
                    vae.objective.set_gain(*map(_tensor, gains))
            return
        aligned = None
        if linear and self.init != "random":
            roots = {
                name: cast(Encoder, encoder).transform == "sqrt"
                for name, encoder in zip(train.subjects, vae.encoders, strict=True)
            }
            aligned = LinearAlignment(
                method=self.init, latent_dim=self.latent_dim, root=roots, seed=self.seed
            )
            aligned.fit(train)
        for modality, name in enumerate(train.subjects):
            start = None
            if aligned is not None:
                mean, scale, weights = aligned.encoder(name)
                weights = weights / scale[:, None]
                start = (_lag_major(weights, train.width), -mean @ weights)
            _start_at(vae, modality, train, name, start)

    # ------------------------------------------------------------------ using

    def transform(
        self,
        paired: PairedWindows,
        *,
        part: Literal["shared", "private", "all"] = "shared",
        joint: bool = False,
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
        """
        known = self._checked(paired)
        vae = self._vae
        n_windows = len(paired)
        n_shared = self.latent_dim
        total = n_shared + vae.objective.private_dim
        chosen = {
            "shared": slice(0, n_shared),
            "private": slice(n_shared, total),
            "all": slice(total),
        }
        lacking = part == "private" and total == n_shared
        if not isinstance(part, str) or part not in chosen or lacking:
            raise ValueError(
                f"The 'part' parameter of transform must be one of {list(chosen)}, and 'private' "
                f"needs an objective with private latents. Got {told(part)} with "
                f"{vae.objective.private_dim} private latents."
            )
        latents = np.empty((len(known), n_windows, total), dtype=np.float32)
        with torch.inference_mode():
            for index, x, observed in self._windows(paired).all_batches():
                z = vae.latents(x, observed if joint else None)
                latents[:, index] = z[list(known.values())].cpu().numpy()
        columns = [paired.subjects.index(name) for name in known]
        absent = np.repeat(paired.table.T[columns] < 0, len(paired.starts), axis=1)
        latents[absent] = np.nan
        latents = latents[..., chosen[part]]
        return xr.DataArray(
            latents,
            dims=("subject", "window", "latent"),
            coords={**_coords(paired, columns), "latent": np.arange(latents.shape[-1])},
            name="latents",
            attrs={"by": paired.by, "part": part, "joint": int(joint)},
        )

    def impute(
        self,
        paired: PairedWindows,
        target: str,
        source: str | Sequence[str] | None = None,
    ) -> xr.DataArray:
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
        """
        known = self._checked(paired)
        require_one_of(target, "target", "impute", self.subjects_)
        present = list(known)
        if source is None:
            sources = [name for name in present if name != target]
        elif isinstance(source, Sequence | np.ndarray) and not isinstance(source, str):
            sources = list(source)
        else:
            sources = [source]
        unknown = [name for name in sources if not isinstance(name, str) or name not in present]
        if unknown or not sources:
            raise ValueError(
                f"The 'source' parameter of impute must name subjects among {present}"
                f"{' other than the target' if source is None else ''}. Got {told(sources)}."
            )
        vae = self._vae
        device = next(vae.parameters()).device
        position = self.subjects_.index(target)
        use = torch.zeros(len(self.subjects_), 1, dtype=torch.bool, device=device)
        for name in sources:
            use[self.subjects_.index(name)] = True
        n_units, width = len(self.units_[target]), paired.width
        expected = np.empty((len(paired), n_units, width), dtype=np.float32)
        with torch.inference_mode():
            for index, x, observed in self._windows(paired).all_batches():
                mean = vae.impute(x, observed & use, position)
                mean = mean.view(len(mean), width, n_units).transpose(1, 2)
                mean[~(observed & use).any(0)] = torch.nan
                expected[index] = mean.cpu().numpy()
        coords = paired.coords()
        names = coords.pop("subject")
        trial = coords.pop("trial")[1]
        if target in names:
            coords["trial"] = ("window", trial[names.index(target)])
        coords["unit"] = self.units_[target]
        coords["lag"] = (np.arange(width) + 0.5) * paired.bin_size
        return xr.DataArray(
            expected,
            dims=("window", "unit", "lag"),
            coords=coords,
            name="expected_counts",
            attrs={"subject": target, "source": ", ".join(sources), "by": paired.by},
        )

    def sample(self, n: int, *, seed: int = 0, mean: bool = False) -> dict[str, xr.DataArray]:
        """Generate windows of all subjects jointly, from one shared code each.

        Parameters
        ----------
        n
            Number of windows.
        seed
            Of the draw.
        mean
            Give expected counts instead of drawn ones.

        Returns
        -------
        dict of str to DataArray (window, unit, lag)

        Notes
        -----
        The code comes from N(0, I) for objectives with that prior. The prior of ``"mmvm"`` is the
        mixture of the posteriors of data, so codes are drawn from a Gaussian mixture fitted to the
        posteriors of the training windows; those of ``"autoencoder"`` likewise.
        """
        require_whole(n, "n", "sample", 1, most=10**9)
        require_seed(seed, "sample")
        vae = self._fitted()
        device = next(vae.parameters()).device
        drawn = {}
        with torch.inference_mode(), torch.random.fork_rng(devices=_cuda(device)):
            torch.manual_seed(seed)
            s = self._prior(device).sample((n,))
            for position, name in enumerate(self.subjects_):
                p = torch.randn(n, vae.objective.private_dim, device=device)
                likelihood = cast(Likelihood, vae.likelihoods[position])
                n_features = len(self.units_[name]) * self.window_["width"]
                output = repeat_lags(vae.decoders[position](torch.cat([s, p], dim=-1)), n_features)
                values = likelihood.mean(output) if mean else likelihood.sample(output)
                drawn[name] = self._as_windows(values, name)
        return drawn

    def log_likelihood(
        self, paired: PairedWindows, *, n_draws: int = 64, seed: int = 0
    ) -> xr.Dataset:
        """Importance-weighted estimates of the log-likelihood of held-out windows, in nats.

        Parameters
        ----------
        paired
            Windows, held out.
        n_draws
            Draws per window. The estimates are lower bounds in expectation and rise with it.
        seed
            Of the draws.

        Returns
        -------
        Dataset
            ``joint`` (window): log p of all present subjects. ``marginal`` (subject, window):
            log p(x_m). ``conditional`` (source, target, window): log p(x_target | x_source), NaN
            on the diagonal. NaN where a subject is absent. Their means over windows make the
            synergy table of the MVAE and MMVAE papers.

        Notes
        -----
        Under the generative model of `sample`: one shared code, and private codes from N(0, I). For
        objectives that share nothing, the joint is the sum of the marginals and a conditional is
        the marginal of its target.
        """
        names = self._checked(paired)
        require_whole(n_draws, "n_draws", "log_likelihood", 1)
        require_seed(seed, "log_likelihood")
        columns = list(names.values())
        vae = self._vae
        device = next(vae.parameters()).device
        prior = self._prior(device)
        n = len(self.subjects_)
        joint = np.full(len(paired), np.nan)
        marginal = np.full((n, len(paired)), np.nan)
        conditional = np.full((n, n, len(paired)), np.nan)
        shares = vae.objective.shares
        with torch.inference_mode(), torch.random.fork_rng(devices=_cuda(device)):
            torch.manual_seed(seed)
            for index, x, observed in self._windows(paired).all_batches(max(1, 8192 // n_draws)):
                for source in columns:
                    alone = torch.zeros_like(observed)
                    alone[source] = True
                    value = vae.log_marginal(x, alone, None, prior, n_draws)
                    marginal[source, index] = _where(observed[source], value)
                    for target in columns if shares else ():
                        if target != source:
                            value = vae.log_marginal(x, alone, target, prior, n_draws)
                            both = observed[source] & observed[target]
                            conditional[source, target, index] = _where(both, value)
                if shares:
                    value = vae.log_marginal(x, observed, None, prior, n_draws)
                    joint[index] = value.cpu().numpy()
        if not shares:
            joint = np.nansum(marginal, axis=0)
            off = ~np.eye(n, dtype=bool)
            both = ~np.isnan(marginal)[:, None] & ~np.isnan(marginal)[None]
            conditional = np.where(off[..., None] & both, marginal[None], np.nan)
        coords = paired.coords()
        coords.pop("subject")
        coords.pop("trial")
        return xr.Dataset(
            {
                "joint": ("window", joint),
                "marginal": (("subject", "window"), marginal[columns]),
                "conditional": (
                    ("source", "target", "window"),
                    conditional[np.ix_(columns, columns)],
                ),
            },
            coords={**coords, "subject": list(names), "source": list(names), "target": list(names)},
            attrs={"unit": "nats per window", "n_draws": n_draws},
        )

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
        subject afterwards.

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
        """
        fitted = self._fitted()
        if name in self.subjects_:
            raise ValueError(f"subject {name!r} is fitted already; there are {self.subjects_}.")
        if name not in train.subjects:
            raise ValueError(f"subject {name!r} is not in the data: {list(train.subjects)}.")
        partners = [known for known in self.subjects_ if known in train.subjects]
        if not partners:
            raise ValueError(
                f"adding {name!r} needs at least one fitted subject to pair with, of "
                f"{list(self.subjects_)}; the data hold {list(train.subjects)}."
            )
        self._checked(train.select(partners))
        train = train.select([*partners, name])
        device = next(fitted.parameters()).device
        subjects = self.subjects
        if isinstance(subjects, Mapping) or settings is not None:
            given = subjects if isinstance(subjects, Mapping) else {}
            subjects = {n: given.get(n, Subject()) for n in self.subjects_}
            subjects[name] = settings or Subject()
        elif subjects is not None:
            subjects = (*self.subjects_, name)
        grown = copy.copy(self).set_params(subjects=subjects)
        grown.units_ = {**self.units_, name: train.units[name]}
        linear = cast(Encoder, fitted.encoders[0]).skip is not None
        with torch.random.fork_rng(devices=_cuda(self._device())):
            torch.manual_seed(self.seed)
            vae = grown._skeleton(grown.units_, self.window_["width"], linear=linear)
            new = len(self.subjects_)
            likelihood = cast(Likelihood, vae.likelihoods[new])
            _check_activity(name, train.counts[name], likelihood)
            start = self._regressed(train, name, partners) if linear else None
            _start_at(vae, new, train, name, start)
        _copy_into(vae, fitted)
        for parameter in vae.parameters():
            parameter.requires_grad_(False)
        for part in (vae.encoders[new], vae.decoders[new], vae.likelihoods[new]):
            part.requires_grad_(True)
        vae.to(device)
        grown._vae, grown.subjects_ = vae, (*self.subjects_, name)
        training.fit(
            vae,
            grown._windows(train),
            epochs=self.epochs if epochs is None else epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            beta=self.beta,
            weight_decay=self.weight_decay,
            precision=self.precision,
            seed=self.seed,
            progress=self.progress,
        )
        vae.requires_grad_(True)
        grown.window_ = {
            **self.window_,
            "trials": {**self.window_["trials"], name: _trial_ids(train, name)},
        }
        self.__dict__.update(grown.__dict__)
        return self

    def _regressed(
        self, train: PairedWindows, name: str, partners: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Linear map from a new subject's windows to where its partners' latents are.

        Ridge regression on the square-root counts summed over lags, of the partners' latents
        averaged over redrawn partners; the penalty is chosen between trials.
        """
        known = {}
        for partner in partners:
            alone = train.select([partner])
            z = self.transform(alone).values.reshape(len(alone.table), -1, self.latent_dim)
            known[partner] = np.full((train.counts[partner].sizes["trial"], *z.shape[1:]), np.nan)
            known[partner][alone.table[:, 0]] = z
        spread = np.mean([np.nanstd(z, axis=(0, 1)) for z in known.values()], axis=0)
        used = train.trials[name]
        total = np.zeros((train.counts[name].sizes["trial"], len(train.starts), self.latent_dim))
        met = np.zeros(len(total))
        for repeat in range(20 if train.order == "random" else 1):
            table = train.repair(train.seed + repeat).table
            for column, partner in enumerate(partners):
                both = (table[:, column] >= 0) & (table[:, -1] >= 0)
                np.add.at(total, table[both, -1], known[partner][table[both, column]])
                np.add.at(met, table[both, -1], 1)
        used = used[met[used] > 0]
        if not len(used):
            raise ValueError(f"no trial of the new subject {name!r} is paired with a fitted one.")
        target = (total[used] / met[used, None, None]).reshape(-1, self.latent_dim)
        pooled = self.inputs == "pooled"
        if pooled:
            windows = np.sqrt(window_sums(train, name, used))
        else:
            windows = np.lib.stride_tricks.sliding_window_view(
                np.sqrt(train.counts[name].values[used].astype(float)), train.width, axis=2
            )[:, :, train.starts]
            windows = windows.sum(-1).swapaxes(1, 2)
        features = windows.reshape(len(target), -1)
        loc, scale = features.mean(0), features.std(0)
        scale = np.sqrt(scale**2 + 0.05 * np.mean(scale**2) + 1e-12)
        trial = np.repeat(np.arange(len(used)), len(train.starts))
        penalties = {"alpha": len(target) * np.logspace(-3, 1, 9)}
        folds = GroupKFold(min(5, len(used))) if len(used) > 1 else None
        ridge = (
            GridSearchCV(Ridge(), penalties, cv=folds, scoring="neg_mean_squared_error")
            .fit((features - loc) / scale, target, groups=trial)
            .best_estimator_
            if folds
            else Ridge(float(len(target))).fit((features - loc) / scale, target)
        )
        # Regression shrinks; let the new latents spread as the others do.
        shrunk = ridge.predict((features - loc) / scale).std(0)
        weights = ridge.coef_.T / scale[:, None] * (spread / np.maximum(shrunk, 1e-6))
        bias = target.mean(0) - loc @ weights
        return weights if pooled else np.tile(weights, (train.width, 1)), bias

    def _prior(self, device: torch.device) -> Distribution:
        """Prior of the shared latents, log_prob over the last dim."""
        given = {name: value.to(device) for name, value in self._mixture.items()}
        return MixtureSameFamily(
            Categorical(logits=given["weight"].log(), validate_args=False),
            Independent(Normal(given["loc"], given["scale"], validate_args=False), 1),
            validate_args=False,
        )

    def _windows(self, paired: PairedWindows) -> ResidentWindows:
        """Windows on the model's device, with fitted subjects that are not paired as absent."""
        device = next(self._vae.parameters()).device
        n_features = {n: len(u) * paired.width for n, u in self.units_.items()}
        return ResidentWindows(paired, device, n_features)

    def _as_windows(self, values: Tensor, name: str) -> xr.DataArray:
        """Features (window, lag x unit) of one subject, labelled."""
        width, units = self.window_["width"], self.units_[name]
        return xr.DataArray(
            values.view(len(values), width, len(units)).transpose(1, 2).cpu().numpy(),
            dims=("window", "unit", "lag"),
            coords={"unit": units, "lag": (np.arange(width) + 0.5) * self.window_["bin_size"]},
            name="counts",
            attrs={"subject": name},
        )

    def _fitted(self) -> MultimodalVAE:
        if not hasattr(self, "_vae"):
            raise NotFittedError(
                "This SharedLatentModel is not fitted yet. Call 'fit' before using it."
            )
        return self._vae

    def _checked(self, paired: PairedWindows) -> dict[str, int]:
        """Check windows against the fit; the fitted subjects among them, name -> modality."""
        self._fitted()
        if not isinstance(paired, PairedWindows):
            raise TypeError(
                f"expected the PairedWindows of pair_subjects, got {type(paired).__name__}."
            )
        known = {n: self.subjects_.index(n) for n in paired.subjects if n in self.subjects_}
        strangers = [name for name in paired.subjects if name not in known]
        if not known or (strangers and self.subjects is None):
            raise ValueError(
                f"subjects {strangers} were not fitted; the model knows {list(self.subjects_)}. "
                "Select those with .select([...])."
            )
        if paired.width != self.window_["width"] or not np.isclose(
            paired.bin_size, self.window_["bin_size"]
        ):
            raise ValueError(
                f"expected windows of {self.window_['width']} bins of "
                f"{self.window_['bin_size']:g} s (as fitted), got {paired.width} of "
                f"{paired.bin_size:g} s."
            )
        for name in known:
            units, fitted = paired.units[name], self.units_[name]
            if len(units) != len(fitted):
                raise ValueError(
                    f"subject {name!r}: expected {len(fitted)} units (as fitted), got "
                    f"{len(units)}. Select the fitted units or refit."
                )
            if not np.array_equal(np.asarray(units, str), np.asarray(fitted, str)):
                raise ValueError(
                    f"subject {name!r}: unit ids differ from those fitted. "
                    "Select the fitted units in their order or refit."
                )
            likelihood = self._vae.likelihoods[self.subjects_.index(name)]
            _check_activity(name, paired.counts[name], cast(Likelihood, likelihood))
        return known

    # ------------------------------------------------------------------ keeping

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to a directory: weights as safetensors, the rest as JSON.

        The directory appears whole or not at all; an older model there is replaced.
        """
        vae = self._fitted()
        about = {
            "params": {k: settings_as_json(v, _KINDS) for k, v in self.get_params(False).items()},
            "subjects": list(self.subjects_),
            "units": {n: [plain(u) for u in units] for n, units in self.units_.items()},
            "window": self.window_,
            "linear": cast(Encoder, vae.encoders[0]).skip is not None,
            "history": self.history_.to_dict(),
        }
        prior = {f"prior.{name}": value for name, value in self._mixture.items()}
        write_model(path, about, vae.state_dict() | prior)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        objective: Objective | None = None,
        likelihood: Likelihood | None = None,
        device: str = "auto",
    ) -> SharedLatentModel:
        """Read a model that `save` wrote. No code of the file is executed.

        Parameters
        ----------
        path
            The directory.
        objective, likelihood
            Objects of your own classes, as given when the model was made; those of this package
            are restored by name.
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
        own = {"objective": objective, "likelihood": likelihood}
        for name, kind in customs("params", stored.get("params")):
            if own.get(name) is None:
                raise ValueError(
                    f"{path} was fitted with {kind}, a class of your own; "
                    f"pass an instance: SharedLatentModel.load(path, {name}=...)."
                )
        # Whatever does not fit together in a file that was not written by `save` is damage.
        try:
            model = cls._restored(stored, weights, own, device)
        except Exception as error:
            raise damaged(path, error) from error
        model._vae.to(model._device()).eval()
        return model

    @classmethod
    def _restored(
        cls,
        stored: Mapping[str, Any],
        weights: dict[str, Tensor],
        own: Mapping[str, object],
        device: str,
    ) -> SharedLatentModel:
        params: dict[str, Any] = {
            k: settings_of_json(k, v, _KINDS, own) for k, v in stored["params"].items()
        }
        params["device"] = device
        model = cls(**params)
        model.check_settings()
        model.subjects_ = tuple(stored["subjects"])
        model.units_ = {n: np.asarray(u) for n, u in stored["units"].items()}
        model.window_ = stored["window"]
        if list(model.units_) != list(model.subjects_) or any(
            ids.ndim != 1 or not len(ids) for ids in model.units_.values()
        ):
            raise ValueError("expected a list of unit ids for every subject")
        require_whole(model.window_["width"], "width", "the windows", 1)
        require_number(model.window_["bin_size"], "bin_size", "the windows", 0, open_=True)
        history = stored["history"]
        if not history["dims"]["epoch"]:  # JSON has no empty two-dimensional lists
            history["data_vars"]["log_likelihood"]["data"] = np.empty((0, len(model.subjects_)))
        model.history_ = xr.Dataset.from_dict(history)
        if not all(value.isfinite().all() for value in weights.values()):
            raise ValueError("weights are not finite")
        model._mixture = {
            k.removeprefix("prior."): weights.pop(k)
            for k in list(weights)
            if k.startswith("prior.")
        }
        width, linear = model.window_["width"], bool(stored["linear"])
        # Before memory is taken for them: no layer is wider than what the file holds.
        held = {n for value in weights.values() for n in value.shape}
        if not model._widths(width) <= held:
            raise ValueError("the weights are not those of the networks described")
        model._vae = model._skeleton(model.units_, width, linear=linear)
        if any(
            value.dtype != weights[name].dtype
            for name, value in model._vae.state_dict().items()
            if name in weights
        ):
            raise ValueError("the weights are of another precision")
        model._vae.load_state_dict(weights)
        drawn = model._prior(torch.device("cpu")).sample()
        if drawn.shape != (model.latent_dim,) or drawn.dtype != torch.float32:
            raise ValueError("the prior is not one of the shared latents")
        return model


def _start_at(
    vae: MultimodalVAE,
    modality: int,
    train: PairedWindows,
    name: str,
    start: tuple[NDArray[np.float64], NDArray[np.float64]] | Start | None,
) -> None:
    """Begin one subject's networks where the training data say.

    `start` is a linear map from (root) counts to the shared latents: weights (feature, latent) and
    bias (latent,); or what `linear_start` found, which has a read-out too.
    """
    encoder = cast(Encoder, vae.encoders[modality])
    decoder = cast(Decoder, vae.decoders[modality])
    likelihood = cast(Likelihood, vae.likelihoods[modality])
    mean, loc, scale = _statistics(
        train, name, root=encoder.transform == "sqrt", pooled=encoder.pool == "lags"
    )
    if isinstance(start, Start):
        loc, scale = _tensor(start.loc), _tensor(start.scale)
    if encoder.standardise:
        encoder.set_standard(loc, scale)
    if likelihood.counts:
        decoder.start_at(likelihood.link(mean))
    if isinstance(start, Start):
        encoder.start_from(_tensor(start.weights), torch.zeros(start.weights.shape[1]), scale=0.3)
        if likelihood.counts:
            decoder.start_from(_tensor(start.readout))
    elif start is not None:
        weights, bias = start
        if encoder.standardise:  # restate the map for standardised inputs
            bias = bias + loc.double().numpy() @ weights
            weights = weights * scale.double().numpy()[:, None]
        encoder.start_from(
            torch.from_numpy(weights).float(), torch.from_numpy(bias).float(), scale=0.3
        )


def _copy_into(grown: MultimodalVAE, fitted: MultimodalVAE) -> None:
    """Give a model of more subjects the weights of one of fewer; the new ones stay as they are."""
    state = grown.state_dict()
    for name, value in fitted.state_dict().items():
        if state[name].shape == value.shape:
            state[name].copy_(value)
        else:  # what an objective learns for each modality
            state[name][: len(value)].copy_(value)


def fit_together(
    models: Sequence[SharedLatentModel],
    train: PairedWindows,
    *,
    seed: int = 0,
    progress: bool = True,
) -> list[ValueError | None]:
    """Fit many models to the same windows at once, for a GPU that one model leaves idle.

    Parameters
    ----------
    models
        They may differ in objective, beta, networks and seed, that is of their start; see
        `fit_many` for which are computed as one.
    train
        As in `SharedLatentModel.fit`.
    seed
        Of batches, partners and noise of all models together.
    progress
        Show a progress bar.

    Returns
    -------
    list
        For each model None, or why it could not be fitted.

    Raises
    ------
    ValueError
        If models differ in what all have in common: subjects, epochs, batch_size, lr, weight_decay,
        precision or device.
    """
    common = ("subjects", "epochs", "batch_size", "lr", "weight_decay", "precision", "device")
    first = models[0]
    for name in common:
        different = [getattr(m, name) for m in models if getattr(m, name) != getattr(first, name)]
        if different:
            raise ValueError(
                f"models that are fitted together need the same '{name}'. "
                f"Got {getattr(first, name)!r} and {different[0]!r}."
            )
    failures: list[ValueError | None] = [None] * len(models)
    vaes: dict[int, MultimodalVAE] = {}
    for position, model in enumerate(models):
        try:
            vaes[position], chosen, _ = model._prepared(train, None)
        except ValueError as error:
            failures[position] = error
    if not vaes:
        return failures
    windows = ResidentWindows(chosen, first._device())
    histories = fit_many(
        list(vaes.values()),
        windows,
        betas=[models[position].beta for position in vaes],
        epochs=first.epochs,
        batch_size=first.batch_size,
        lr=first.lr,
        weight_decay=first.weight_decay,
        precision=first.precision,
        seed=seed,
        progress=progress,
    )
    for (position, vae), history in zip(vaes.items(), histories, strict=True):
        try:
            history.check_finite()
            models[position]._trained(vae, windows, history)
        except ValueError as error:
            failures[position] = error
    return failures


def _prior_mixture(
    vae: MultimodalVAE, n_shared: int, windows: ResidentWindows, seed: int, n_points: int = 4000
) -> dict[str, Tensor]:
    """Weights, locs and scales of the prior of the shared latents, as one Gaussian mixture."""
    if vae.objective.has_prior:
        zeros = torch.zeros(1, n_shared)
        return {"weight": torch.ones(1), "loc": zeros, "scale": torch.ones_like(zeros)}
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(len(windows), generator=generator)[: n_points // len(vae.encoders) + 1]
    with torch.inference_mode():
        x, observed = windows.batch(index.to(windows.device))
        q = vae.encode(x)
        noise = torch.randn(q.loc.shape, generator=generator).to(q.loc.device)
        points = (q.loc + q.scale * noise)[observed][:, :n_shared].double().cpu().numpy()
    if not np.isfinite(points).all():
        raise ValueError(
            "expected finite codes of the trained networks, got infinite or undefined ones. Take a "
            "smaller learning rate (lr) or check the data for extreme values."
        )
    n_components = min(10, max(1, len(points) // 20))
    mixture = GaussianMixture(
        n_components, covariance_type="diag", reg_covar=1e-4, random_state=seed, max_iter=50
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near enough for a prior
        mixture.fit(points)
    return {
        "weight": torch.from_numpy(mixture.weights_).float(),
        "loc": torch.from_numpy(mixture.means_).float(),
        "scale": torch.from_numpy(np.sqrt(mixture.covariances_)).float(),
    }


def _coords(paired: PairedWindows, columns: Sequence[int]) -> dict[str, Any]:
    """Coordinates of the windows, of some of the subjects."""
    coords = paired.coords()
    coords["subject"] = [coords["subject"][column] for column in columns]
    coords["trial"] = (coords["trial"][0], coords["trial"][1][list(columns)])
    return coords


def _cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _where(observed: Tensor, value: Tensor) -> NDArray[np.float64]:
    return torch.where(observed, value, torch.nan).double().cpu().numpy()


def _trial_ids(paired: PairedWindows, name: str) -> list[Any]:
    return [plain(t) for t in paired.counts[name]["trial"].values[paired.trials[name]]]


def _tensor(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _statistics(
    train: PairedWindows, name: str, root: bool, pooled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean activity per feature (lag x unit); mean and deviation of what the encoder sees."""
    train = train.thinned()
    used = train.trials[name]
    counts = train.counts[name].values
    n_units, n_bins = counts.shape[1:]
    shares, found = [], []
    # Some trials at a time, for there may be more than memory holds.
    for trials in in_chunks(used, n_units * n_bins):
        if pooled:
            total = window_sums(train, name, trials)
            seen = np.sqrt(total) if root else total
            moments = [[total.mean((0, 1)) / train.width, seen.mean((0, 1)), seen.var((0, 1))]]
        else:
            values = counts[trials]
            moments = []
            for lag in range(train.width):
                at_lag = values[:, :, train.starts + lag].astype(np.float64)  # (trial, unit, start)
                seen = np.sqrt(at_lag) if root else at_lag
                moments.append([at_lag.mean((0, 2)), seen.mean((0, 2)), seen.var((0, 2))])
        shares.append(len(trials) / len(used))
        found.append(np.stack(moments, axis=1))  # (moment, lag or 1, unit)
    rates, locs, variances = np.stack(found, axis=1)
    mean, loc = (np.tensordot(shares, parts, 1) for parts in (rates, locs))
    scale = np.sqrt(np.tensordot(shares, variances + np.square(locs - loc), 1))
    if pooled:
        # Half a spike more, so that no unit is impossible.
        mean = np.tile(mean[0] + (0.5 / (len(used) * n_bins) if root else 0.0), train.width)
    mean, loc, scale = mean.reshape(-1), loc.reshape(-1), scale.reshape(-1)
    # Shrink towards the typical variance: a unit that fires once would become a huge outlier, and
    # a silent one divide by zero.
    scale = np.sqrt(scale**2 + 0.05 * np.mean(scale**2) + 1e-12)
    return tuple(torch.from_numpy(m.astype(np.float32)) for m in (mean, loc, scale))  # type: ignore[return-value]


def _lag_major(weights: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """(unit x lag, latent) -> (lag x unit, latent)."""
    n_latents = weights.shape[1]
    return np.ascontiguousarray(
        weights.reshape(-1, width, n_latents).transpose(1, 0, 2).reshape(-1, n_latents)
    )


def _check_activity(name: str, counts: xr.DataArray, likelihood: Likelihood) -> None:
    if not likelihood.counts:
        return
    values = counts.values
    if not are_counts(values):
        low = values.min()
        what = f"minimum {low:.3g}" if low < 0 else "values that are not whole"
        raise ValueError(
            f"{type(likelihood).__name__} needs non-negative integer counts; {name!r} has {what}. "
            "Use likelihood='gaussian' for z-scored activity."
        )


def _check_hidden(hidden: Any) -> None:
    listed = isinstance(hidden, Sequence | np.ndarray) and not isinstance(hidden, str | bytes)
    require(listed, "hidden", "SharedLatentModel", "'input' or a list of widths", hidden)
    for width in hidden:
        require_whole(width, "hidden", "SharedLatentModel", 1)
