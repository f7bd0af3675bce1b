"""A training step that is made once and repeated: its precision, its sums, its CUDA graph."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import EllipsisType
from typing import Any, Literal

import torch
from torch import Tensor

from neuroshare.vae.objectives.base import Elbo
from neuroshare.vae.schedule import Schedule, value_at

Precision = Literal["fp32", "tf32", "bf16"]
"""Of matrix products: float32, float32 of inputs with 10 bits, or bfloat16."""

WARM_UP = 3
"""Steps before the recording, in which libraries choose kernels and Adam makes its state."""


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """Give what `MultimodalVAE.elbo` casts the networks' products to; None leaves them."""
    return torch.bfloat16 if precision == "bf16" else None


@contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """Allow TF32 in CUDA's matrix products, or forbid it; afterwards all is as it was."""
    matmul = torch.backends.cuda.matmul
    # Older torch has the one switch only, newer torch refuses to read it beside the other.
    name, on, off = (
        ("fp32_precision", "tf32", "ieee")
        if hasattr(matmul, "fp32_precision")
        else ("allow_tf32", True, False)
    )
    before = getattr(matmul, name)
    setattr(matmul, name, on if precision == "tf32" else off)
    try:
        yield
    finally:
        setattr(matmul, name, before)


class _Turn:
    """A lock that its thread may take again, and that a forked process finds free."""

    def __init__(self) -> None:
        self.renew()
        if hasattr(os, "register_at_fork"):  # which Windows lacks
            os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.lock = threading.RLock()


_turn = _Turn()

if hasattr(os, "register_at_fork"):
    # The threads that computed do not survive a fork: a child that waits for them waits for ever.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@contextmanager
def generators_of(device: torch.device, seed: int) -> Iterator[None]:
    """Draw by `seed` inside; afterwards the global generators are as they were.

    They belong to the process, and dropout, initialisation and an objective of one's own draw from
    no others: threads of a process enter one after another.
    """
    devices = [device] if device.type == "cuda" else []
    with _turn.lock, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def adam(
    parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
    lr: float | Schedule,
    weight_decay: float,
    device: torch.device,
) -> torch.optim.Optimizer:
    """Adam, or AdamW where weights decay, in one kernel; a GPU counts the steps itself.

    On a GPU the rate is a tensor, which a recorded step finds where it was when it was recorded.
    Groups of parameters may have a ``"rate"`` of their own, by which `set_lr` multiplies.
    """
    first: float | Tensor = value_at(lr, 0)
    if device.type == "cuda":
        first = torch.tensor(first, device=device)
    settings: dict[str, Any] = {"lr": first, "fused": True, "capturable": device.type == "cuda"}
    optimizer = (
        torch.optim.AdamW(parameters, weight_decay=weight_decay, **settings)
        if weight_decay
        else torch.optim.Adam(parameters, **settings)
    )
    # It would warn of the steps before a recording, which are not recorded.
    optimizer._warned_capturable_if_run_uncaptured = True
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Learn at this rate from now on."""
    for group in optimizer.param_groups:
        own = lr * group.get("rate", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


class Sums:
    """What an epoch adds up and the beta it weighs by, on the device.

    Reading a number at every step would make the device wait for it, and a recorded step finds
    beta where it was when it was recorded.

    Parameters
    ----------
    models
        Shape of the models trained at once: () or (model,).
    """

    def __init__(self, models: tuple[int, ...], n_modalities: int, device: torch.device) -> None:
        self.beta = torch.zeros(models, device=device)
        self.rate = torch.zeros(models, device=device)
        self.log_lik = torch.zeros((*models, n_modalities), device=device)

    def start(self, beta: Tensor) -> None:
        """Begin an epoch."""
        self.beta.copy_(beta)
        self.rate.zero_()
        self.log_lik.zero_()

    def add(self, elbo: Elbo, observed: Tensor, models: slice | EllipsisType = ...) -> Tensor:
        """Add a batch, (..., modality, sample) and (..., sample), and give each model's loss."""
        seen = torch.where(observed, elbo.log_lik, 0.0)
        self.rate[models].add_(elbo.rate.detach().sum(-1))
        self.log_lik[models].add_(seen.detach().sum(-1))
        return (self.beta[models].unsqueeze(-1) * elbo.rate - seen.sum(-2)).mean(-1)

    def means(self, n_samples: int) -> tuple[Tensor, Tensor]:
        """Rate, (...), and log-likelihoods, (..., modality), per sample; on the host."""
        return self.rate.cpu() / n_samples, self.log_lik.cpu() / n_samples


class RecordedStep:
    """A function of an index that is called a few times, then recorded, then replayed.

    A replay runs the same kernels on the same memory without any Python in between. So the function
    must have static shapes, wait for nothing, and keep what changes between calls in tensors that
    stay where they are. Random numbers go on as if it had been called: CUDA graphs advance the
    default generator of their device. A function that waits is found out before it is recorded, and
    then called as it is, with a warning.

    Elsewhere than on CUDA nothing is recorded, and the function is called on the static index.

    Parameters
    ----------
    function
        Called with an index, (..., sample).
    index
        Static memory for the index of a full batch, on the device.
    """

    def __init__(self, function: Callable[[Tensor], None], index: Tensor) -> None:
        self.function = function
        self.index = index
        self._n_calls = 0
        self._replay: Callable[[], None] | None = None

    def __call__(self, index: Tensor) -> None:
        """Do what the function does. An incomplete batch, of another shape, is not replayed."""
        if index.shape != self.index.shape:
            self.function(index)
            return
        self.index.copy_(index)
        self._n_calls += 1
        if self._replay is not None:
            self._replay()
        elif self._n_calls < WARM_UP:
            with _aside(self.index.device):
                self._call()
        elif self._n_calls == WARM_UP:
            self._rehearse()
        else:
            self._replay = _recorded(self._call, self.index.device)
            self._replay()

    def _call(self) -> None:
        self.function(self.index)

    def _rehearse(self) -> None:
        """Call the function as for a recording, whose failure would leave the device unusable."""
        try:
            with _aside(self.index.device), _refusing_to_wait(self.index.device):
                self._call()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            warnings.warn(
                "the training step waits for the device, so it is not recorded as a CUDA graph and "
                f"takes longer: {error}",
                stacklevel=2,
            )
            self._replay = self._call
            self._call()


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """Work on a stream of its own, as what is to be recorded must before it is."""
    if device.type != "cuda":
        yield
        return
    usual, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    aside.wait_stream(usual)
    with torch.cuda.stream(aside):
        yield
    usual.wait_stream(aside)


@contextmanager
def _refusing_to_wait(device: torch.device) -> Iterator[None]:
    """Raise RuntimeError where the host would wait for the device."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _recorded(call: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Record a call, which is thereby not done yet, and give what does it."""
    if device.type != "cuda":
        return call
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        call()
    return graph.replay
