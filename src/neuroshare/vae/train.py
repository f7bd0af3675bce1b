"""The training loop: device-resident data, index batches, schedules, early stopping, resumption."""

from __future__ import annotations

import inspect
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_safetensors
from torch import Tensor, nn
from tqdm.auto import tqdm

from neuroshare.support.files import write_whole
from neuroshare.vae.history import History, as_arrays
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

CHECKPOINT_SECONDS = 10.0
"""A checkpoint is written at the end of an epoch when the last one is this old."""

Graphs = Literal["auto"] | bool
"""Whether to record the training step as a CUDA graph."""


class Data(Protocol):
    """Samples of all modalities, already on the device.

    Data whose `batch` gathers on the device, without waiting, from tensors that stay where they
    are, say so by an attribute ``resident = True``; `redraw` then fills those tensors in place.
    Data with a method ``fingerprint() -> str`` are known again by a checkpoint.
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


@dataclass(frozen=True, kw_only=True)
class Training:
    """How to train.

    Parameters
    ----------
    epochs, batch_size, weight_decay
        The usual; weight decay is decoupled (AdamW).
    lr, beta
        Learning rate, and weight of the rate; a `Schedule` is evaluated at every epoch.
    linear_rate
        Of the learning rate, what linear maps beside the networks learn by. Adam moves every weight
        by as much, and a map that starts well has many small ones.
    steps
        Stop after so many steps, wherever the epoch is; None trains all epochs.
    average
        Decay of a running mean of the weights, of about the last ``1 / (1 - average)`` steps, which
        is what is looked at and kept (Polyak & Juditsky 1992); 0 keeps the last weights themselves.
    patience
        Stop when the validation loss has not improved for this many epochs.
    validate_every
        Epochs from one validation to the next.
    precision
        Of the networks' matrix products in training: ``"fp32"``, ``"tf32"`` (on GPUs that have it;
        elsewhere float32) or ``"bf16"``. Weights, objective, likelihoods, Adam and validation are
        float32 in any case.
    graphs
        Record the training step as a CUDA graph and replay it. ``"auto"``: on a GPU, where the data
        are resident (see `Data`). True elsewhere prepares the step alike and calls it.
    seed
        Of batches, partners and noise. The global generators are left as they were; threads of one
        process train one after another, for they have these in common.
    progress
        Show a progress bar.
    checkpoint
        File to which the whole state goes now and then. If it exists, training continues from it
        and ends, on the CPU, with the very weights of an uninterrupted run.
    """

    epochs: int
    batch_size: int = 128
    lr: float | Schedule = 1e-3
    beta: float | Schedule = 1.0
    weight_decay: float = 0.0
    linear_rate: float = 1.0
    steps: int | None = None
    average: float = 0.0
    patience: int | None = None
    validate_every: int = 1
    precision: Precision = "fp32"
    graphs: Graphs = "auto"
    seed: int = 0
    progress: bool = True
    checkpoint: str | os.PathLike[str] | None = None

    def of(self, vae: MultimodalVAE, data: Data, validation: Data | None) -> dict[str, Any]:
        """All that decides the course of this training, for a checkpoint to tell others by."""
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "lr": self.lr if isinstance(self.lr, float | int) else str(self.lr),
            "beta": str(self.beta),
            "weight_decay": self.weight_decay,
            "linear_rate": self.linear_rate,
            "steps": self.steps,
            "average": self.average,
            "patience": self.patience,
            "validate_every": self.validate_every,
            "precision": self.precision,
            "seed": self.seed,
            "objective": described(vae.objective),
            "likelihoods": [described(part) for part in vae.likelihoods],
            "n_samples": len(data),
            "n_validation": len(validation) if validation is not None else 0,
            "data": _fingerprint(data),
            "validation": _fingerprint(validation),
        }


Verdict = Literal["go on", "keep", "stop"]
"""Of a `Watch`: ``"keep"`` these weights, the best so far; ``"stop"`` training here."""


@dataclass(frozen=True)
class Watch:
    """Somebody who looks at the model now and then, and may stop training.

    Parameters
    ----------
    every
        Steps from one look to the next; the last step of all is looked at as well.
    look
        Called with the number of steps done, the model in evaluation mode. What it draws from the
        global generators is its own. At the end the weights that it kept last are restored, if it
        kept any. What it remembers does not go to a checkpoint.
    """

    every: int
    look: Callable[[int], Verdict]


def fit(
    vae: MultimodalVAE,
    data: Data,
    training: Training,
    *,
    validation: Data | None = None,
    watch: Watch | None = None,
) -> History:
    """Train in place by Adam on the loss mean(beta * rate - sum of observed log-likelihoods).

    Parameters
    ----------
    vae
        The model, on the device of the data.
    data
        Training samples.
    training
        How.
    validation
        Held-out samples; their loss is recorded every `validate_every` epochs, and at the end the
        weights of the best epoch are restored.
    watch
        In place of `validation`: looks between epochs too.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        If a checkpoint belongs to another training, the loss stops being finite, graphs are asked
        for with data that are not resident, or both `validation` and `watch` are given.
    """
    if validation is not None and watch is not None:
        raise ValueError("fit takes validation or watch: one of them chooses the weights.")
    device = next(vae.parameters()).device
    epochs, beta = training.epochs, training.beta
    recorded = is_recorded(training.graphs, data, device)
    path = Path(training.checkpoint) if training.checkpoint is not None else None
    if not epochs and (path is None or not path.exists()):
        # Without an optimizer, for those of PyTorch import its compiler.
        return _ended(vae, data, History(), training)
    optimizer = adam(
        grouped(vae.named_parameters(), training), training.lr, training.weight_decay, device
    )
    state = _State(training.of(vae, data, validation) if path else {}, vae, optimizer, device)
    history = state.history
    mean = RunningMean(vae, training.average) if training.average else None
    state.mean = mean
    sums = Sums((), len(vae.encoders), device)

    def learn(index: Tensor) -> None:
        x, observed = data.batch(index)
        loss = sums.add(vae.elbo(x, observed, autocast_dtype(training.precision)), observed)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    step: Callable[[Tensor], None] = learn
    if recorded:
        full = min(training.batch_size, len(data))
        step = RecordedStep(learn, torch.zeros(full, dtype=torch.long, device=device))
    with generators_of(device, training.seed), matmul_precision(training.precision):
        if path is not None and path.exists():
            state.restore(path)
        bar = tqdm(
            total=epochs,
            initial=history.n_epochs,
            disable=not training.progress,
            unit="epoch",
            desc="fit",
        )
        written = time.monotonic()
        try:
            with bar:
                while history.n_epochs < epochs and not state.ended(training.patience):
                    epoch = history.n_epochs
                    vae.objective.start_epoch(epoch)
                    data.redraw(epoch)
                    start_training(vae)
                    current = value_at(beta, epoch)
                    set_lr(optimizer, value_at(training.lr, epoch))
                    sums.start(torch.tensor(current))
                    last = epoch + 1 == epochs
                    n_seen = 0
                    for index in torch.randperm(len(data), device=device).split(
                        training.batch_size
                    ):
                        step(index)
                        history.n_steps += 1
                        if mean is not None:
                            mean.note(history.n_steps)
                        n_seen += len(index)
                        if watch is not None and (
                            history.n_steps % watch.every == 0 or (last and n_seen == len(data))
                        ):
                            state.show(watch, training.seed)
                        if history.n_steps == training.steps:
                            history.stopped = True
                        if history.stopped:
                            break
                    rate, log_likelihood = sums.means(n_seen)
                    history.note(current, rate.item(), log_likelihood.tolist())
                    history.check_finite()
                    if validation is not None and (last or epoch % training.validate_every == 0):
                        # Epochs are compared by the objective at which a schedule arrives.
                        vae.objective.start_epoch(epochs - 1)
                        with state.seen():
                            loss = evaluate(
                                vae,
                                validation,
                                beta=value_at(beta, epochs - 1),
                                batch_size=training.batch_size,
                                seed=training.seed,
                            )
                            state.note_validation(loss)
                    else:
                        history.validation_loss.append(math.nan)
                    bar.set_postfix(loss=f"{history.loss[-1]:.4g}", refresh=False)
                    bar.update()
                    if path is not None and (
                        last or history.stopped or time.monotonic() - written > CHECKPOINT_SECONDS
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
    elif mean is not None:
        mean.exchange()
    return _ended(vae, data, history, training)


def _ended(vae: MultimodalVAE, data: Data, history: History, training: Training) -> History:
    """Note the loss of the weights that are there at last."""
    vae.eval()
    if not history.interrupted:
        history.final_loss = final_loss(vae, data, history, training)
        history.check_finite()
    return history


def grouped(parameters: Iterable[tuple[str, Tensor]], training: Training) -> list[dict[str, Any]]:
    """Parameters that are trained: all but the linear maps, and these, at rates of their own."""
    parts: dict[bool, list[Tensor]] = {False: [], True: []}
    for name, parameter in parameters:
        if parameter.requires_grad:
            parts[training.linear_rate != 1 and ".skip." in name].append(parameter)
    rates = {False: 1.0, True: training.linear_rate}
    groups: list[dict[str, Any]] = []
    for linear, members in parts.items():
        if members:
            first = value_at(training.lr, 0) * rates[linear]
            device = members[0].device
            lr = torch.tensor(first, device=device) if device.type == "cuda" else first
            groups.append({"params": members, "rate": rates[linear], "lr": lr})
    return groups


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


def final_loss(vae: MultimodalVAE, data: Data, history: History, training: Training) -> float:
    """Evaluate the weights that training has arrived at, on one batch."""
    beta = history.beta[-1] if history.beta else 0.0
    return evaluate(vae, data, beta=beta, n_samples=training.batch_size, seed=training.seed)


class RunningMean:
    """Exponential mean of the trained weights of a model over its steps."""

    def __init__(self, vae: MultimodalVAE, decay: float) -> None:
        self.own = {n: p.detach() for n, p in vae.named_parameters() if p.requires_grad}
        self.of = {name: value.clone() for name, value in self.own.items()}
        self.decay = decay

    @torch.no_grad()
    def note(self, step: int) -> None:
        """Take the weights after so many steps; of few steps the mean is shorter."""
        share = 1 - min(self.decay, step / (step + 9))
        torch._foreach_lerp_(list(self.of.values()), list(self.own.values()), share)

    @torch.no_grad()
    def exchange(self) -> None:
        """Let the model and the mean change places."""
        for name, value in self.own.items():
            kept = value.clone()
            value.copy_(self.of[name])
            self.of[name].copy_(kept)


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
    mean: RunningMean | None = None

    @contextmanager
    def seen(self) -> Iterator[None]:
        """Let the model have its mean weights inside, where there are such."""
        if self.mean is None:
            yield
            return
        self.mean.exchange()
        try:
            yield
        finally:
            self.mean.exchange()

    def note_validation(self, loss: float) -> None:
        """Append a validation loss, and keep the weights if it is the least so far."""
        losses = self.history.validation_loss
        if math.isfinite(loss) and not any(loss >= previous for previous in losses):
            self.history.best_epoch = len(losses)
            self.keep()
        losses.append(loss)

    def keep(self) -> None:
        """Keep these weights."""
        self.best = {name: value.clone() for name, value in self.vae.state_dict().items()}

    def show(self, watch: Watch, seed: int) -> None:
        """Let somebody look at the model, without a trace on training but the verdict."""
        self.vae.eval()
        with self.seen():
            with generators_of(self.device, seed):
                verdict = watch.look(self.history.n_steps)
            if verdict == "keep":
                self.keep()
                self.history.best_step = self.history.n_steps
        start_training(self.vae)
        self.history.stopped = verdict == "stop"

    def ended(self, patience: int | None) -> bool:
        """Whether a watch said so, or validation has not improved for `patience` epochs."""
        if self.history.stopped:
            return True
        best = self.history.best_epoch
        if patience is None or best is None:
            return False
        return self.history.n_epochs - 1 - best >= patience

    def save(self, path: Path) -> None:
        """Write everything; the old checkpoint stays until this one is whole."""
        tensors = {f"weights.{name}": value for name, value in self.vae.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        if self.mean is not None:
            tensors |= {f"mean.{name}": value for name, value in self.mean.of.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        tensors["generator.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["generator.cuda"] = torch.cuda.get_rng_state(self.device)
        for name, values in as_arrays(self.history).items():
            tensors[f"history.{name}"] = torch.from_numpy(values)
        metadata = {
            "settings": json.dumps(self.settings),
            **{name: json.dumps(getattr(self.history, name)) for name in _COUNTED},
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
            what = ", ".join(
                _OTHER.get(k, f"{k} was {stored.get(k)}, is {self.settings[k]}") for k in different
            )
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
        if self.mean is not None:
            for name, value in _under("mean.", tensors).items():
                self.mean.of[name].copy_(value)
        for name, value in _under("history.", tensors).items():
            setattr(self.history, name, value.tolist())
        for name in _COUNTED:
            if name in metadata:
                setattr(self.history, name, json.loads(metadata[name]))
        torch.set_rng_state(tensors["generator.cpu"])
        if self.device.type == "cuda" and "generator.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["generator.cuda"], self.device)


_OTHER = {"data": "other training samples", "validation": "other validation samples"}
"""What to say where names of data differ, which tell nobody anything."""

_COUNTED = ("best_epoch", "n_steps", "best_step", "stopped")
"""What a checkpoint keeps of a history beside its arrays."""


def _fingerprint(data: Data | None) -> str | None:
    """Short name of the data, where they have one."""
    give: Callable[[], str] | None = getattr(data, "fingerprint", None)
    return None if give is None else give()


def described(module: nn.Module) -> str:
    """Class and constructor arguments, which are kept as attributes of the same name."""
    names = inspect.signature(type(module).__init__).parameters
    given = [f"{name}={getattr(module, name)}" for name in names if hasattr(module, name)]
    return f"{type(module).__name__}({', '.join(given)})"


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
