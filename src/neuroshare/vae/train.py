"""The training loop: device-resident data, index batches, schedules, early stopping, resumption."""

from __future__ import annotations

import inspect
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_safetensors
from torch import Tensor, nn
from tqdm.auto import tqdm

from neuroshare.vae.multimodal import MultimodalVAE
from neuroshare.vae.schedule import Schedule, value_at
from neuroshare.vae.step import (
    Precision,
    RecordedStep,
    Sums,
    adam,
    autocast_dtype,
    generators_of,
    matmul_precision,
    set_lr,
)
from neuroshare.writing import write_whole

CHECKPOINT_SECONDS = 10.0
"""A checkpoint is written at the end of an epoch when the last one is this old."""

Graphs = Literal["auto"] | bool
"""Whether to record the training step as a CUDA graph."""


class Data(Protocol):
    """Samples of all modalities, already on the device.

    Data whose `batch` gathers on the device, without waiting, from tensors that stay where they
    are, say so by an attribute ``resident = True``; `redraw` then fills those tensors in place.
    """

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def redraw(self, epoch: int) -> None:
        """Pair anew before an epoch, deterministically in `epoch`; may do nothing."""
        ...

    def batch(self, index: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """Return x, one (sample, ...) tensor per modality, and observed (modality, sample)."""
        ...


@dataclass
class History:
    """What happened, one entry per epoch; validation is NaN where it was not evaluated."""

    loss: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    log_likelihood: list[list[float]] = field(default_factory=list)
    """Per epoch, mean over samples for each modality."""
    beta: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    final_loss: float | None = None
    """On one training batch, of the weights that are kept: no epoch has seen the last step."""
    interrupted: bool = False

    @property
    def n_epochs(self) -> int:
        """Epochs finished so far."""
        return len(self.loss)

    def note(self, beta: float, rate: float, log_likelihood: list[float]) -> None:
        """Append an epoch of training."""
        self.loss.append(beta * rate - sum(log_likelihood))
        self.rate.append(rate)
        self.log_likelihood.append(log_likelihood)
        self.beta.append(beta)

    def note_final(self, vae: MultimodalVAE, data: Data, batch_size: int, seed: int) -> None:
        """Evaluate the weights that training has arrived at, on one batch."""
        beta = self.beta[-1] if self.beta else 0.0
        self.final_loss = evaluate(vae, data, beta=beta, n_samples=batch_size, seed=seed)

    def check_finite(self) -> None:
        """Raise where the loss stopped being finite.

        Raises
        ------
        ValueError
            With the first such epoch.
        """
        when = {f"in epoch {epoch}": loss for epoch, loss in enumerate(self.loss, start=1)}
        if self.final_loss is not None:
            when["with the last step"] = self.final_loss
        for step, loss in when.items():
            if not math.isfinite(loss):
                raise ValueError(
                    f"the loss became {loss} {step}. Take a smaller learning rate (lr) "
                    "or check the data for extreme values."
                )


def fit(
    vae: MultimodalVAE,
    data: Data,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float | Schedule = 1e-3,
    beta: float | Schedule = 1.0,
    weight_decay: float = 0.0,
    validation: Data | None = None,
    patience: int | None = None,
    validate_every: int = 1,
    precision: Precision = "fp32",
    graphs: Graphs = "auto",
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
) -> History:
    """Train in place by Adam on the loss mean(beta * rate - sum of observed log-likelihoods).

    Parameters
    ----------
    vae
        The model, on the device of the data.
    data
        Training samples.
    epochs, batch_size, weight_decay
        The usual; weight decay is decoupled (AdamW).
    lr, beta
        Learning rate, and weight of the rate; a `Schedule` is evaluated at every epoch.
    validation
        Held-out samples; their loss is recorded every `validate_every` epochs, and at the end the
        weights of the best epoch are restored.
    patience
        Stop when the validation loss has not improved for this many epochs.
    precision
        Of the networks' matrix products in training: ``"fp32"``, ``"tf32"`` (on GPUs that have it;
        elsewhere float32) or ``"bf16"``. Weights, objective, likelihoods, Adam and validation are
        float32 in any case.
    graphs
        Record the training step as a CUDA graph and replay it. ``"auto"``: on a GPU, where the data
        are resident (see `Data`). True elsewhere prepares the step alike and calls it.
    seed
        Of batches, partners and noise. The global generators are left as they were.
    progress
        Show a progress bar.
    checkpoint
        File to which the whole state goes now and then. If it exists, training continues from it
        and ends, on the CPU, with the very weights of an uninterrupted run.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        If a checkpoint belongs to another training, the loss stops being finite, or graphs are
        asked for with data that are not resident.
    """
    device = next(vae.parameters()).device
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr if isinstance(lr, float | int) else str(lr),
        "beta": str(beta),
        "weight_decay": weight_decay,
        "patience": patience,
        "validate_every": validate_every,
        "precision": precision,
        "seed": seed,
        "objective": described(vae.objective),
        "likelihoods": [described(part) for part in vae.likelihoods],
        "n_samples": len(data),
        "n_validation": len(validation) if validation is not None else 0,
    }
    trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = adam(trained, lr, weight_decay, device)
    state = _State(settings, vae, optimizer, device)
    history = state.history
    path = Path(checkpoint) if checkpoint is not None else None
    sums = Sums((), len(vae.encoders), device)

    def learn(index: Tensor) -> None:
        x, observed = data.batch(index)
        loss = sums.add(vae.elbo(x, observed, autocast_dtype(precision)), observed)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    step: Callable[[Tensor], None] = learn
    if is_recorded(graphs, data, device):
        full = min(batch_size, len(data))
        step = RecordedStep(learn, torch.zeros(full, dtype=torch.long, device=device))
    with generators_of(device, seed), matmul_precision(precision):
        if path is not None and path.exists():
            state.restore(path)
        bar = tqdm(
            total=epochs, initial=history.n_epochs, disable=not progress, unit="epoch", desc="fit"
        )
        written = time.monotonic()
        try:
            with bar:
                while history.n_epochs < epochs and not state.stalled(patience):
                    epoch = history.n_epochs
                    vae.objective.start_epoch(epoch)
                    data.redraw(epoch)
                    start_training(vae)
                    current = value_at(beta, epoch)
                    set_lr(optimizer, value_at(lr, epoch))
                    sums.start(torch.tensor(current))
                    for index in torch.randperm(len(data), device=device).split(batch_size):
                        step(index)
                    rate, log_likelihood = sums.means(len(data))
                    history.note(current, rate.item(), log_likelihood.tolist())
                    history.check_finite()
                    last = epoch + 1 == epochs
                    if validation is not None and (last or epoch % validate_every == 0):
                        # Epochs are compared by the objective at which a schedule arrives.
                        vae.objective.start_epoch(epochs - 1)
                        final = value_at(beta, epochs - 1)
                        state.note_validation(
                            evaluate(vae, validation, beta=final, batch_size=batch_size, seed=seed)
                        )
                    else:
                        history.validation_loss.append(math.nan)
                    bar.set_postfix(loss=f"{history.loss[-1]:.4g}", refresh=False)
                    bar.update()
                    if path is not None and (
                        last or time.monotonic() - written > CHECKPOINT_SECONDS
                    ):
                        state.save(path)
                        written = time.monotonic()
        except KeyboardInterrupt:
            history.interrupted = True
            missing = history.n_epochs - len(history.validation_loss)
            history.validation_loss += [math.nan] * missing
            kept = path is not None and path.exists()
            again = f" Call fit again to continue from {path}." if kept else ""
            warnings.warn(
                f"training was interrupted after {history.n_epochs} of {epochs} epochs; "
                f"the model holds the weights reached.{again}",
                stacklevel=2,
            )
    # The gradients of a recorded step lie in its memory, which goes with them.
    optimizer.zero_grad(set_to_none=True)
    if state.best:
        vae.load_state_dict(state.best)
    vae.eval()
    if not history.interrupted:
        history.note_final(vae, data, batch_size, seed)
        history.check_finite()
    return history


def is_recorded(graphs: Graphs, data: Data, device: torch.device) -> bool:
    """Whether a training step on these data is to be a `RecordedStep`."""
    if device.type != "cuda":
        return graphs is True
    # Data that have never heard of recordings may move their tensors.
    resident = bool(getattr(data, "resident", False))
    if graphs is True and not resident:
        raise ValueError(
            "graphs=True needs data that are gathered on the device from tensors that stay where "
            f"they are (resident). {type(data).__name__} is not; use graphs='auto'."
        )
    return resident and bool(graphs)


def start_training(vae: MultimodalVAE) -> None:
    """Switch to training mode, all but frozen networks: they are not to drop inputs either."""
    vae.train()
    for part in (*vae.encoders, *vae.decoders):
        if not any(parameter.requires_grad for parameter in part.parameters()):
            part.eval()


@torch.no_grad()
def evaluate(
    vae: MultimodalVAE,
    data: Data,
    *,
    beta: float,
    batch_size: int = 1024,
    n_samples: int | None = None,
    seed: int = 0,
) -> float:
    """Mean loss on `data`, or its first samples, without dropout and with noise of `seed` alone."""
    vae.eval()
    device = next(vae.parameters()).device
    total = torch.zeros((), device=device)
    n_samples = len(data) if n_samples is None else min(n_samples, len(data))
    with generators_of(device, seed):
        for index in torch.arange(n_samples, device=device).split(batch_size):
            x, observed = data.batch(index)
            elbo = vae.elbo(x, observed)
            total += (beta * elbo.rate - torch.where(observed, elbo.log_lik, 0.0).sum(0)).sum()
    return float(total) / n_samples


@dataclass
class _State:
    """What a training has reached: all that it depends on goes to a checkpoint and comes back."""

    settings: dict[str, Any]
    vae: MultimodalVAE
    optimizer: torch.optim.Optimizer
    device: torch.device
    history: History = field(default_factory=History)
    best: dict[str, Tensor] = field(default_factory=dict)
    """Weights of the epoch with the least validation loss."""

    def note_validation(self, loss: float) -> None:
        """Append a validation loss, and keep the weights if it is the least so far."""
        losses = self.history.validation_loss
        if math.isfinite(loss) and not any(loss >= previous for previous in losses):
            self.history.best_epoch = len(losses)
            self.best = {name: value.clone() for name, value in self.vae.state_dict().items()}
        losses.append(loss)

    def stalled(self, patience: int | None) -> bool:
        """Whether the validation loss has not improved for `patience` epochs."""
        best = self.history.best_epoch
        if patience is None or best is None:
            return False
        return self.history.n_epochs - 1 - best >= patience

    def save(self, path: Path) -> None:
        """Write everything; the old checkpoint stays until this one is whole."""
        tensors = {f"weights.{name}": value for name, value in self.vae.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        tensors["generator.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["generator.cuda"] = torch.cuda.get_rng_state(self.device)
        for name, values in as_arrays(self.history).items():
            tensors[f"history.{name}"] = torch.from_numpy(values)
        metadata = {
            "settings": json.dumps(self.settings),
            "best_epoch": json.dumps(self.history.best_epoch),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.contiguous() for name, value in tensors.items()}
        write_whole(path, as_safetensors(tensors, metadata))

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint of the same training."""
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            stored = json.loads(metadata["settings"])
        except (SafetensorError, OSError, TypeError, LookupError, ValueError) as error:
            raise ValueError(
                f"checkpoint {path} is damaged ({error}). Delete it to start anew."
            ) from error
        different = sorted(k for k in self.settings if stored.get(k) != self.settings[k])
        weights = _under("weights.", tensors)
        shapes = {name: tuple(value.shape) for name, value in self.vae.state_dict().items()}
        if different or shapes != {name: tuple(value.shape) for name, value in weights.items()}:
            what = ", ".join(f"{k} was {stored.get(k)}, is {self.settings[k]}" for k in different)
            raise ValueError(
                f"checkpoint {path} belongs to another training ({what or 'other network shapes'})."
                " Continue with the same settings and data, or delete it to start anew."
            )
        self.vae.load_state_dict(weights)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer.", tensors).items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.best = {k: v.to(self.device) for k, v in _under("best.", tensors).items()}
        for name, value in _under("history.", tensors).items():
            setattr(self.history, name, value.tolist())
        self.history.best_epoch = json.loads(metadata["best_epoch"])
        torch.set_rng_state(tensors["generator.cpu"])
        if self.device.type == "cuda" and "generator.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["generator.cuda"], self.device)


def described(module: nn.Module) -> str:
    """Class and constructor arguments, which are kept as attributes of the same name."""
    names = inspect.signature(type(module).__init__).parameters
    told = [f"{name}={getattr(module, name)}" for name in names if hasattr(module, name)]
    return f"{type(module).__name__}({', '.join(told)})"


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def as_arrays(history: History) -> dict[str, NDArray[np.float64]]:
    """History as arrays: (epoch,) each, log_likelihood (epoch, modality)."""
    return {
        name: np.asarray(getattr(history, name), dtype=float)
        for name in ("loss", "rate", "log_likelihood", "beta", "validation_loss")
    }
