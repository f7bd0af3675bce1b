"""The training loop: device-resident data, index batches, schedules, early stopping, resumption."""

from __future__ import annotations

import inspect
import json
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from neuroshare.vae.multimodal import MultimodalVAE
from neuroshare.vae.schedule import Schedule, value_at

CHECKPOINT_SECONDS = 10.0
"""A checkpoint is written at the end of an epoch when the last one is this old."""


class Data(Protocol):
    """Samples of all modalities, already on the device."""

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
    interrupted: bool = False

    @property
    def n_epochs(self) -> int:
        """Epochs finished so far."""
        return len(self.loss)


def fit(
    vae: MultimodalVAE,
    data: Data,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    beta: float | Schedule = 1.0,
    weight_decay: float = 0.0,
    validation: Data | None = None,
    patience: int | None = None,
    validate_every: int = 1,
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
    epochs, batch_size, lr, weight_decay
        The usual; weight decay is decoupled (AdamW).
    beta
        Weight of the rate; a `Schedule` is evaluated at every epoch.
    validation
        Held-out samples; their loss is recorded every `validate_every` epochs, and at the end the
        weights of the best epoch are restored.
    patience
        Stop when the validation loss has not improved for this many epochs.
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
        If a checkpoint belongs to another training, or the loss stops being finite.
    """
    device = next(vae.parameters()).device
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "beta": str(beta),
        "weight_decay": weight_decay,
        "patience": patience,
        "validate_every": validate_every,
        "seed": seed,
        "objective": _described(vae.objective),
        "likelihoods": [_described(part) for part in vae.likelihoods],
        "n_samples": len(data),
        "n_validation": len(validation) if validation is not None else 0,
    }
    trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = (
        torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay, fused=True)
        if weight_decay
        else torch.optim.Adam(trained, lr=lr, fused=True)
    )
    history = History()
    best: dict[str, Tensor] = {}
    path = Path(checkpoint) if checkpoint is not None else None
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        if path is not None and path.exists():
            _restore(path, settings, vae, optimizer, history, best, device)
        bar = tqdm(
            total=epochs, initial=history.n_epochs, disable=not progress, unit="epoch", desc="fit"
        )
        written = time.monotonic()
        try:
            with bar:
                while history.n_epochs < epochs and not _stalled(history, patience):
                    epoch = history.n_epochs
                    vae.objective.start_epoch(epoch)
                    data.redraw(epoch)
                    current = value_at(beta, epoch)
                    last = epoch + 1 == epochs
                    _train_epoch(vae, data, optimizer, batch_size, current, history)
                    evaluate = validation is not None and (last or epoch % validate_every == 0)
                    if evaluate:
                        assert validation is not None
                        # Epochs are compared by the objective at which a schedule arrives.
                        vae.objective.start_epoch(epochs - 1)
                        final = value_at(beta, epochs - 1)
                        _validate(vae, validation, batch_size, final, seed, history, best)
                    else:
                        history.validation_loss.append(math.nan)
                    bar.set_postfix(loss=f"{history.loss[-1]:.4g}", refresh=False)
                    bar.update()
                    if path is not None and (
                        last or time.monotonic() - written > CHECKPOINT_SECONDS
                    ):
                        _save(path, settings, vae, optimizer, history, best, device)
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
    if best:
        vae.load_state_dict(best)
    vae.eval()
    return history


def _batches(n_samples: int, batch_size: int, order: Tensor) -> Iterator[Tensor]:
    for first in range(0, n_samples, batch_size):
        yield order[first : first + batch_size]


def _train_epoch(
    vae: MultimodalVAE,
    data: Data,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    beta: float,
    history: History,
) -> None:
    vae.train()
    for part in (*vae.encoders, *vae.decoders):
        if not any(parameter.requires_grad for parameter in part.parameters()):
            part.eval()  # a frozen network is not to drop its inputs either
    device = next(vae.parameters()).device
    n_samples = len(data)
    order = torch.randperm(n_samples, device=device)
    # Sums stay on the device: reading one per step would stall it.
    rate = torch.zeros((), device=device)
    log_lik = torch.zeros(len(vae.encoders), device=device)
    for index in _batches(n_samples, batch_size, order):
        x, observed = data.batch(index)
        elbo = vae.elbo(x, observed)
        seen = torch.where(observed, elbo.log_lik, 0.0)
        loss = (beta * elbo.rate - seen.sum(0)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        rate += elbo.rate.detach().sum()
        log_lik += seen.detach().sum(1)
    mean_rate = float(rate) / n_samples
    each = (log_lik / n_samples).tolist()
    total = beta * mean_rate - sum(each)
    if not math.isfinite(total):
        raise ValueError(
            f"the loss became {total} in epoch {history.n_epochs + 1}. "
            "Take a smaller learning rate (lr) or check the data for extreme values."
        )
    history.loss.append(total)
    history.rate.append(mean_rate)
    history.log_likelihood.append(each)
    history.beta.append(beta)


@torch.no_grad()
def evaluate(
    vae: MultimodalVAE, data: Data, *, beta: float, batch_size: int = 1024, seed: int = 0
) -> float:
    """Mean loss on `data`, without dropout and with noise that depends on `seed` alone."""
    vae.eval()
    device = next(vae.parameters()).device
    total = torch.zeros((), device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for index in _batches(len(data), batch_size, torch.arange(len(data), device=device)):
            x, observed = data.batch(index)
            elbo = vae.elbo(x, observed)
            total += (beta * elbo.rate - torch.where(observed, elbo.log_lik, 0.0).sum(0)).sum()
    return float(total) / len(data)


def _validate(
    vae: MultimodalVAE,
    validation: Data,
    batch_size: int,
    beta: float,
    seed: int,
    history: History,
    best: dict[str, Tensor],
) -> None:
    loss = evaluate(vae, validation, beta=beta, batch_size=batch_size, seed=seed)
    if math.isfinite(loss) and not any(loss >= previous for previous in history.validation_loss):
        history.best_epoch = len(history.validation_loss)
        best.clear()
        best.update({name: value.clone() for name, value in vae.state_dict().items()})
    history.validation_loss.append(loss)


def _stalled(history: History, patience: int | None) -> bool:
    if patience is None or history.best_epoch is None:
        return False
    return history.n_epochs - 1 - history.best_epoch >= patience


def _save(
    path: Path,
    settings: dict[str, Any],
    vae: MultimodalVAE,
    optimizer: torch.optim.Optimizer,
    history: History,
    best: dict[str, Tensor],
    device: torch.device,
) -> None:
    """Write all that training depends on; the old checkpoint stays until this one is whole."""
    tensors = {f"weights.{name}": value for name, value in vae.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    tensors["generator.cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["generator.cuda"] = torch.cuda.get_rng_state(device)
    for name in ("loss", "rate", "log_likelihood", "beta", "validation_loss"):
        tensors[f"history.{name}"] = torch.tensor(getattr(history, name), dtype=torch.float64)
    metadata = {"settings": json.dumps(settings), "best_epoch": json.dumps(history.best_epoch)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        save_file(
            {name: value.contiguous() for name, value in tensors.items()}, temporary, metadata
        )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _restore(
    path: Path,
    settings: dict[str, Any],
    vae: MultimodalVAE,
    optimizer: torch.optim.Optimizer,
    history: History,
    best: dict[str, Tensor],
    device: torch.device,
) -> None:
    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    stored = json.loads(metadata["settings"])
    different = sorted(k for k in settings if stored.get(k) != settings[k])
    weights = _under("weights.", tensors)
    shapes = {name: tuple(value.shape) for name, value in vae.state_dict().items()}
    if different or shapes != {name: tuple(value.shape) for name, value in weights.items()}:
        what = ", ".join(f"{k} was {stored.get(k)}, is {settings[k]}" for k in different)
        raise ValueError(
            f"checkpoint {path} belongs to another training ({what or 'other network shapes'}). "
            "Continue with the same settings and data, or delete it to start anew."
        )
    vae.load_state_dict(weights)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimizer.", tensors).items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    best.update({k: v.to(device) for k, v in _under("best.", tensors).items()})
    for name, value in _under("history.", tensors).items():
        setattr(history, name, value.tolist())
    history.best_epoch = json.loads(metadata["best_epoch"])
    torch.set_rng_state(tensors["generator.cpu"])
    if device.type == "cuda" and "generator.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["generator.cuda"], device)


def _described(module: nn.Module) -> str:
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
