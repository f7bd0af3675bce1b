"""SharedLatentModel: labelled arrays in, labelled arrays out, tensors in between."""

from __future__ import annotations

import copy
import inspect
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from torch import Tensor

from neuroshare.linear import LinearAlignment
from neuroshare.recordings.pairing import PairedWindows
from neuroshare.vae import train as training
from neuroshare.vae.likelihoods import LIKELIHOODS, Likelihood, make_likelihood
from neuroshare.vae.multimodal import MultimodalVAE
from neuroshare.vae.networks import Decoder, Encoder
from neuroshare.vae.objectives import OBJECTIVES, Objective, make_objective
from neuroshare.vae.schedule import Schedule

Hidden = Sequence[int] | Literal["input"]
Init = Literal["mcca", "procrustes", "srm", "random"]

_FORMAT = 1


@dataclass(frozen=True)
class Subject:
    """Settings of one subject where they differ from the model's; None keeps the model's."""

    hidden: Hidden | None = None
    likelihood: str | Likelihood | None = None


class SharedLatentModel(BaseEstimator):  # type: ignore[misc]
    """One latent space for several subjects, each with an encoder and a decoder of its own.

    Parameters
    ----------
    subjects
        Names to select and order, or a mapping from name to `Subject` settings; None takes every
        subject of the data.
    objective
        How subjects share: ``"mmvm"``, ``"independent"``, ``"avg"``, ``"poe"``, ``"moe"``,
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
        What the encoders see: ``"standard"``: square roots of counts (other activity as it is),
        standardised by training statistics; ``"raw"``: the activity itself (the paper).
    dropout
        Share of units hidden from the encoders at every training step.
    patience
        With validation data, stop after this many epochs without improvement.
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
    8
    """

    def __init__(
        self,
        subjects: Sequence[str] | Mapping[str, Subject] | None = None,
        objective: str | Objective = "mmvm",
        likelihood: str | Likelihood = "poisson",
        latent_dim: int = 8,
        hidden: Hidden = (256, 256),
        beta: float | Schedule = 1.0,
        epochs: int = 10,
        batch_size: int = 128,
        lr: float = 3e-4,
        weight_decay: float = 0.0,
        init: Init = "mcca",
        inputs: Literal["standard", "raw"] = "standard",
        dropout: float = 0.5,
        patience: int | None = None,
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
        names = self._chosen(train)
        train = train if names == train.subjects else train.select(names)
        if isinstance(validation, float):
            train, validation = train.split(validation, seed=self.seed)
        elif validation is not None and validation.subjects != names:
            validation = validation.select(names)
        device = self._device()
        linear = self.init != "random" and len(names) > 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            vae = self._skeleton(train.units, train.width, linear=linear)
            for part in (train, validation):
                for name, likelihood in zip(names, vae.likelihoods, strict=True):
                    if part is not None:
                        _check_activity(name, part.counts[name], cast(Likelihood, likelihood))
            self._start(vae, train, linear)
        vae.to(device)
        history = training.fit(
            vae,
            _Windows(train, device),
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            beta=self.beta,
            weight_decay=self.weight_decay,
            validation=None if validation is None else _Windows(validation, device),
            patience=self.patience,
            seed=self.seed,
            progress=self.progress,
            checkpoint=checkpoint,
        )
        self._vae = vae
        self.subjects_ = names
        self.units_ = train.units
        self.window_: dict[str, Any] = {
            "width": train.width,
            "bin_size": train.bin_size,
            "by": train.by,
            "conditions": [_plain(c) for c in train.conditions],
            "trials": {
                name: [_plain(t) for t in train.counts[name]["trial"].values[train.trials[name]]]
                for name in names
            },
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
            names = tuple(self.subjects)
        missing = [name for name in names if name not in paired.subjects]
        if missing:
            raise ValueError(
                f"subjects {missing} are not in the data, which hold {list(paired.subjects)}."
            )
        return names

    def _device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def _skeleton(
        self, units: Mapping[str, NDArray[Any]], width: int, *, linear: bool
    ) -> MultimodalVAE:
        """Networks of the right shapes, for subject name -> units."""
        given = self.subjects if isinstance(self.subjects, Mapping) else {}
        objective = copy.deepcopy(make_objective(self.objective))
        n_latents = self.latent_dim + objective.private_dim
        objective.build(len(units), n_latents)
        encoders, decoders, likelihoods = [], [], []
        for name, ids in units.items():
            setting = given.get(name) or Subject()
            likelihood = make_likelihood(setting.likelihood or self.likelihood)
            hidden = setting.hidden or self.hidden
            n_inputs = len(ids) * width
            widths = (n_inputs, n_inputs) if hidden == "input" else tuple(map(int, hidden))
            standard = self.inputs == "standard"
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
                )
            )
            decoders.append(Decoder(n_latents, n_inputs, widths[::-1], linear=linear))
            likelihoods.append(likelihood.sized(n_inputs))
        return MultimodalVAE(encoders, decoders, likelihoods, objective)

    def _start(self, vae: MultimodalVAE, train: PairedWindows, linear: bool) -> None:
        """Begin where the training data say: standard inputs, mean rates, an aligned linear map."""
        aligned = None
        if linear and self.init != "random":
            aligned = LinearAlignment(method=self.init, latent_dim=self.latent_dim, seed=self.seed)
            aligned.fit(train)
        for name, encoder, decoder, likelihood in zip(
            train.subjects, vae.encoders, vae.decoders, vae.likelihoods, strict=True
        ):
            encoder, decoder = cast(Encoder, encoder), cast(Decoder, decoder)
            likelihood = cast(Likelihood, likelihood)
            mean, loc, scale = _statistics(train, name, root=encoder.transform == "sqrt")
            if encoder.standardise:
                encoder.set_standard(loc, scale)
            if likelihood.counts:
                decoder.start_at(likelihood.link(mean))
            if aligned is not None:
                # The map was learned on inputs standardised its own way; restate it for ours.
                their_loc, their_scale, weights = aligned.encoder(name)
                weights = _lag_major(weights / their_scale[:, None], train.width)
                their_loc = _lag_major(their_loc[:, None], train.width)[:, 0]
                our_loc = loc.double().numpy() if encoder.standardise else np.zeros(len(loc))
                bias = torch.from_numpy((our_loc - their_loc) @ weights).float()
                start = torch.from_numpy(weights).float()
                start = start * scale[:, None] if encoder.standardise else start
                encoder.start_from(start, bias, scale=0.3)

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
        paired, columns = self._checked(paired)
        vae = self._vae
        device = next(vae.parameters()).device
        n_windows = len(paired)
        n_shared = self.latent_dim
        total = n_shared + vae.objective.private_dim
        chosen = {
            "shared": slice(0, n_shared),
            "private": slice(n_shared, total),
            "all": slice(total),
        }
        if part not in chosen or (part == "private" and total == n_shared):
            raise ValueError(
                f"The 'part' parameter of transform must be one of {list(chosen)}, and 'private' "
                f"needs an objective with private latents. Got {part!r} with "
                f"{vae.objective.private_dim} private latents."
            )
        latents = np.empty((len(columns), n_windows, total), dtype=np.float32)
        windows = _Windows(paired, device)
        with torch.inference_mode():
            for index, x, observed in windows.all_batches(vae, columns):
                z = vae.latents(x, observed if joint else None)
                latents[:, index] = z[columns].cpu().numpy()
        absent = np.repeat(paired.table.T < 0, len(paired.starts), axis=1)
        latents[absent] = np.nan
        latents = latents[..., chosen[part]]
        return xr.DataArray(
            latents,
            dims=("subject", "window", "latent"),
            coords={**paired.coords(), "latent": np.arange(latents.shape[-1])},
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
        paired, columns = self._checked(paired)
        if target not in self.subjects_:
            raise ValueError(f"no fitted subject {target!r}; there are {list(self.subjects_)}.")
        present = [self.subjects_[c] for c in columns]
        if source is None:
            sources = [name for name in present if name != target]
        else:
            sources = [source] if isinstance(source, str) else list(source)
        unknown = [name for name in sources if name not in present]
        if unknown or not sources:
            raise ValueError(
                f"The 'source' parameter of impute must name subjects among {present}"
                f"{' other than the target' if source is None else ''}. Got {sources}."
            )
        vae = self._vae
        device = next(vae.parameters()).device
        position = self.subjects_.index(target)
        use = torch.zeros(len(self.subjects_), 1, dtype=torch.bool, device=device)
        for name in sources:
            use[self.subjects_.index(name)] = True
        n_units, width = len(self.units_[target]), paired.width
        expected = np.empty((len(paired), n_units, width), dtype=np.float32)
        windows = _Windows(paired, device)
        with torch.inference_mode():
            for index, x, observed in windows.all_batches(vae, columns):
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

    def _checked(self, paired: PairedWindows) -> tuple[PairedWindows, list[int]]:
        """Check windows against the fit; the fitted subjects among them, by position."""
        if not hasattr(self, "_vae"):
            raise NotFittedError(
                "This SharedLatentModel is not fitted yet. Call 'fit' before using it."
            )
        known = [name for name in self.subjects_ if name in paired.subjects]
        strangers = [name for name in paired.subjects if name not in self.subjects_]
        if not known or (strangers and self.subjects is None):
            raise ValueError(
                f"subjects {strangers} were not fitted; the model knows {list(self.subjects_)}. "
                "Select those with .select([...])."
            )
        if list(paired.subjects) != known:
            paired = paired.select(known)
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
        return paired, [self.subjects_.index(name) for name in known]

    # ------------------------------------------------------------------ keeping

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to a directory: weights as safetensors, the rest as JSON.

        The directory appears whole or not at all; an older model there is replaced.
        """
        if not hasattr(self, "_vae"):
            raise NotFittedError("This SharedLatentModel is not fitted yet; nothing to save.")
        path = Path(path)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.mkdir(parents=True)
        try:
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in self._vae.state_dict().items()},
                temporary / "weights.safetensors",
            )
            stored = {
                "format": _FORMAT,
                "params": {k: _to_json(v) for k, v in self.get_params(deep=False).items()},
                "subjects": list(self.subjects_),
                "units": {n: [_plain(u) for u in units] for n, units in self.units_.items()},
                "window": self.window_,
                "linear": any(e.skip is not None for e in self._vae.encoders),
                "history": self.history_.to_dict(),
                "versions": {
                    "neuroshare": version("neuroshare-latents"),
                    "torch": torch.__version__,
                    "numpy": np.__version__,
                },
            }
            (temporary / "model.json").write_text(json.dumps(stored, indent=1), encoding="utf-8")
            if path.exists():
                if not (path / "model.json").exists():
                    raise FileExistsError(f"{path} exists and is not a saved model; not replaced.")
                shutil.rmtree(path)
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

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
        path = Path(path)
        if not (path / "model.json").is_file() or not (path / "weights.safetensors").is_file():
            raise FileNotFoundError(
                f"{path} holds no saved model: expected model.json and weights.safetensors."
            )
        try:
            stored = json.loads((path / "model.json").read_text(encoding="utf-8"))
            weights = load_file(path / "weights.safetensors")
            fmt = stored["format"]
        except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
            raise ValueError(f"{path} is damaged and cannot be read: {error}.") from error
        if fmt != _FORMAT:
            raise ValueError(
                f"{path} has model format {fmt}, expected {_FORMAT}. Update neuroshare to read it."
            )
        try:
            given = {"objective": objective, "likelihood": likelihood}
            params: dict[str, Any] = {
                k: given[k] if given.get(k) is not None else _from_json(k, v)
                for k, v in stored["params"].items()
            }
            params["device"] = device
            model = cls(**params)
            model.subjects_ = tuple(stored["subjects"])
            model.units_ = {n: np.asarray(u) for n, u in stored["units"].items()}
            model.window_ = stored["window"]
            model.history_ = xr.Dataset.from_dict(stored["history"])
            units = {name: model.units_[name] for name in model.subjects_}
            vae = model._skeleton(units, model.window_["width"], linear=stored["linear"])
            vae.load_state_dict(weights)
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{path} is damaged and cannot be read: {error}.") from error
        model._vae = vae.to(model._device()).eval()
        return model


class _Windows:
    """Paired windows on a device, gathered batch by batch: the overlap is never materialised.

    Counts lie time-major, (trial, time, unit) flattened, so that a window is one contiguous run of
    width x unit values and a batch is one `index_select` on an overlapping view. Features are thus
    ordered (lag, unit).
    """

    def __init__(self, paired: PairedWindows, device: torch.device) -> None:
        self.paired = paired
        self.device = device
        self.views, self.rows = [], []
        self.n_bins = next(iter(paired.counts.values())).sizes["time"]
        for name, array in paired.counts.items():
            used = paired.trials[name]
            values = array.values[used].transpose(0, 2, 1)  # (trial, time, unit)
            resident = torch.from_numpy(np.ascontiguousarray(_compact(values))).to(device)
            n_units = values.shape[2]
            n_windows = max(values.shape[0] * self.n_bins - paired.width + 1, 0)
            self.views.append(
                resident.view(-1).as_strided((n_windows, paired.width * n_units), (n_units, 1))
            )
            row = np.full(array.sizes["trial"], -1)
            row[used] = np.arange(len(used))
            self.rows.append(row)
        self.starts = torch.from_numpy(paired.starts).to(device)
        self._place(paired)

    def _place(self, paired: PairedWindows) -> None:
        """Put the pairing on the device: first bin of each trial, (row, subject); -1 if absent."""
        columns = [row[column] for row, column in zip(self.rows, paired.table.T, strict=True)]
        table = np.where(paired.table < 0, -1, np.stack(columns, axis=1) * self.n_bins)
        self.table = torch.from_numpy(table).to(self.device)
        self.complete = bool((table >= 0).all())

    def __len__(self) -> int:
        return len(self.table) * len(self.starts)

    def redraw(self, epoch: int) -> None:
        if epoch and self.paired.order == "random":
            self._place(self.paired.repair(self.paired.seed + epoch))

    def batch(self, index: Tensor) -> tuple[list[Tensor], Tensor]:
        row = torch.div(index, len(self.starts), rounding_mode="floor")
        first = self.table[row]  # (sample, subject)
        observed = (first >= 0).T
        position = first.clamp_min(0) + self.starts[index % len(self.starts)].unsqueeze(1)
        x = [
            view.index_select(0, column).float()
            for view, column in zip(self.views, position.T, strict=True)
        ]
        return x, observed

    def all_batches(
        self, vae: MultimodalVAE, columns: Sequence[int], batch_size: int = 1024
    ) -> Iterator[tuple[NDArray[np.int64], list[Tensor], Tensor]]:
        """Give every window in order, as the fitted model wants it; unknown subjects are absent."""
        n_modalities = len(vae.encoders)
        everything = torch.arange(len(self), device=self.device)
        for first in range(0, len(self), batch_size):
            index = everything[first : first + batch_size]
            given, seen = self.batch(index)
            observed = torch.zeros(n_modalities, len(index), dtype=torch.bool, device=self.device)
            observed[list(columns)] = seen
            x = [
                torch.zeros(len(index), len(cast(Encoder, encoder).input_loc), device=self.device)
                for encoder in vae.encoders
            ]
            for column, values in zip(columns, given, strict=True):
                x[column] = values
            yield index.cpu().numpy(), x, observed


def _compact(values: NDArray[Any]) -> NDArray[Any]:
    """Counts as bytes where they fit, else as they are in a type that torch gathers."""
    if np.issubdtype(values.dtype, np.integer) or values.dtype == bool:
        low, high = (values.min(), values.max()) if values.size else (0, 0)
        if low >= 0 and high <= 255:
            return values.astype(np.uint8)
        return values.astype(np.int32)
    return values.astype(np.float32)


def _statistics(train: PairedWindows, name: str, root: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mean activity, and mean and deviation of the (root) activity, per feature (lag x unit)."""
    values = train.counts[name].values[train.trials[name]]
    moments = []
    for lag in range(train.width):
        at_lag = values[:, :, train.starts + lag].astype(np.float64)  # (trial, unit, start)
        seen = np.sqrt(at_lag) if root else at_lag
        moments.append([at_lag.mean((0, 2)), seen.mean((0, 2)), seen.std((0, 2))])
    mean, loc, scale = np.stack(moments, axis=1).reshape(3, -1)
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
    low = values.min() if values.size else 0
    whole = np.issubdtype(values.dtype, np.integer) or bool((values == np.round(values)).all())
    if low < 0 or not whole:
        what = f"minimum {low:.3g}" if low < 0 else "values that are not whole"
        raise ValueError(
            f"{type(likelihood).__name__} needs non-negative integer counts; {name!r} has {what}. "
            "Use likelihood='gaussian' for z-scored activity."
        )


def _plain(value: Any) -> Any:
    """A numpy scalar as the Python one that JSON holds."""
    return value.item() if isinstance(value, np.generic) else value


_STORED: dict[str, type] = {"schedule": Schedule, "subject": Subject}


def _to_json(value: Any) -> Any:
    """Restate a constructor argument as JSON; objects of this package by name and arguments."""
    if isinstance(value, Objective | Likelihood):
        known: Mapping[str, type] = OBJECTIVES if isinstance(value, Objective) else LIKELIHOODS
        name = next((n for n, c in known.items() if type(value) is c), None)
        if name is None:
            return {"custom": type(value).__qualname__}
        arguments = inspect.signature(type(value).__init__).parameters
        kept = {k: _to_json(getattr(value, k)) for k in arguments if k != "self"}
        return {"object": name, "arguments": kept}
    if isinstance(value, Schedule | Subject):
        name = type(value).__name__.lower()
        return {
            "object": name,
            "arguments": {k: _to_json(getattr(value, k)) for k in value.__dict__},
        }
    if isinstance(value, Mapping):
        return {"mapping": {str(k): _to_json(v) for k, v in value.items()}}
    if isinstance(value, tuple | list | np.ndarray):
        return [_to_json(v) for v in value]
    return _plain(value)


def _from_json(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_json(key, v) for v in value)
    if not isinstance(value, dict):
        return value
    if "custom" in value:
        raise ValueError(
            f"the model was fitted with {value['custom']}, a class of your own; "
            f"pass an instance: SharedLatentModel.load(path, {key}=...)."
        )
    if "mapping" in value:
        return {k: _from_json(key, v) for k, v in value["mapping"].items()}
    known = {**OBJECTIVES, **LIKELIHOODS, **_STORED}
    return known[value["object"]](**{k: _from_json(k, v) for k, v in value["arguments"].items()})
