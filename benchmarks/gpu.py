"""Training on a GPU: one model, many stacked, the paper's sweep; against the roofline.

``python -m benchmarks.gpu --out FILE`` writes, as JSON, at the shapes of the five rats (2,560
windows, inputs of 920, 790, 1040, 490 and 460, networks as wide as their input, batches of 128,
two latents): seconds of 1000 epochs of one model, step by step and recorded as a CUDA graph, in
each precision; throughput of 1 to 64 stacked models; the sweep of the paper (7 methods, 6 betas, 5
seeds, 1000 epochs), extrapolated from a few epochs or, with ``--full``, run; and the share of the
time in which kernels run. ``--device cpu --tiny`` only shows that all of it works.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import neuroshare as ns
from benchmarks.provenance import provenance
from neuroshare.models.device_windows import ResidentWindows
from neuroshare.vae.likelihoods import Gaussian
from neuroshare.vae.multimodal import MultimodalVAE
from neuroshare.vae.networks import Decoder, Encoder
from neuroshare.vae.objectives import make_objective
from neuroshare.vae.objectives.mmvae_plus import MMVAEPlus
from neuroshare.vae.objectives.mmvm import MMVM
from neuroshare.vae.stacked import fit_many
from neuroshare.vae.step import WARM_UP
from neuroshare.vae.train import Training, fit

PEAK_FLOPS, PEAK_BYTES = 67e12, 4.3e12
"""Per second, of an H200: float32 outside tensor cores, and memory."""

START = 3
"""Epochs of a first fit, which tells what making models and recording their step takes."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    units: dict[str, int]
    n_trials: int
    """Per odor; each gives 16 windows."""
    batch_size: int
    epochs: int
    stacks: Sequence[int]
    stack_epochs: int
    methods: Sequence[str]
    n_betas: int
    n_seeds: int
    sweep_epochs: int
    profile_epochs: int


RATS = Size(
    units={"barat": 92, "buchanan": 79, "mitt": 104, "stella": 49, "superchris": 46},
    n_trials=40,
    batch_size=128,
    epochs=1000,
    stacks=(1, 2, 4, 8, 16, 32, 64),
    stack_epochs=20,
    methods=("independent", "avg", "poe", "moe", "mopoe", "mmvae_plus", "mmvm"),
    n_betas=6,
    n_seeds=5,
    sweep_epochs=10,
    profile_epochs=50,
)
TINY = Size(
    units={"mitt": 5, "stella": 3},
    n_trials=1,
    batch_size=48,
    epochs=2,
    stacks=(1, 2),
    stack_epochs=1,
    methods=("mopoe", "mmvm"),
    n_betas=2,
    n_seeds=1,
    sweep_epochs=1,
    profile_epochs=1,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file, written as it grows")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="seconds, for a test of this command")
    parser.add_argument("--full", action="store_true", help="all 1000 epochs of the sweep")
    parser.add_argument(
        "--parts", default="one,stacked,sweep,profile", help="with commas between; default all"
    )
    options = parser.parse_args()
    size, device = TINY if options.tiny else RATS, torch.device(options.device)
    data = windows(size, device)
    report: dict[str, Any] = {"machine": machine(device), "bound": bound(size, data)}
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "one": lambda: one_model(size, data),
        "stacked": lambda: stacked(size, data),
        "sweep": lambda: sweep(size, data, full=options.full),
        "profile": lambda: profile(size, data),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for part in options.parts.split(","):
        report[part] = []
        for row in parts[part]():
            report[part].append(row)
            print(part, json.dumps(row), flush=True)
            options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def windows(size: Size, device: torch.device) -> ResidentWindows:
    """Simulated rats: windows of 10 bins of 10 ms, 16 in each trial."""
    sessions = ns.simulate_sessions(size.units, n_trials=size.n_trials, seed=0)
    counts = {name: ns.bin_spikes(s, span=(0.0, 0.25)) for name, s in sessions.items()}
    return ResidentWindows(ns.pair_subjects(counts, by="odor", width=0.1, step=0.01), device)


def make(data: ResidentWindows, method: str, seed: int) -> MultimodalVAE:
    """The paper's network and rule: two latents, of which MMVAE+ shares one."""
    objective = {"mmvm": MMVM, "mmvae_plus": lambda: MMVAEPlus(private_dim=1)}.get(
        method, lambda: make_objective(method)
    )()
    n_latents = 2
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        objective.build(len(data.n_features), n_latents)
        vae = MultimodalVAE(
            [Encoder(n, n_latents, (n, n), bottleneck=True) for n in data.n_features],
            [Decoder(n_latents, n, (n, n)) for n in data.n_features],
            [Gaussian(math.sqrt(0.5)) for _ in data.n_features],
            objective,
        )
    return vae.to(data.device)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(act: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device is done."""
    synchronize(device)
    began = time.perf_counter()
    act()
    synchronize(device)
    return time.perf_counter() - began


def growth(measure: Callable[[int], float], epochs: int) -> tuple[float, float]:
    """Measure fits of few and of more epochs: what a fit takes at its start, and per epoch."""
    measure(1)  # chooses kernels
    short = measure(START)
    per_epoch = (measure(START + epochs) - short) / epochs
    return short - START * per_epoch, per_epoch


def one_model(size: Size, data: ResidentWindows) -> Iterator[dict[str, Any]]:
    variants = [("fp32", False), ("fp32", True), ("tf32", False), ("tf32", True), ("bf16", True)]
    for precision, graphs in variants:
        losses: list[float] = []

        def train(epochs: int) -> None:
            training = Training(
                epochs=epochs,
                batch_size=size.batch_size,
                precision=precision,  # noqa: B023 (called before the next variant)
                graphs=graphs,  # noqa: B023
                progress=False,
            )
            history = fit(make(data, "mmvm", 0), data, training)
            losses[:] = history.loss  # noqa: B023

        timed(lambda: train(START), data.device)
        seconds = timed(lambda: train(size.epochs), data.device)
        yield {
            "precision": precision,
            "graph": graphs,
            "epochs": size.epochs,
            "seconds": seconds,
            "share_of_fp32_roofline": size.epochs * bound(size, data)["seconds"] / seconds,
            "last_loss": losses[-1],
        }


def train_stack(
    size: Size, data: ResidentWindows, method: str, n: int, precision: str
) -> Callable[[int], float]:
    """Give a function that makes n models of a method, trains them, and tells the seconds."""

    def train(epochs: int) -> float:
        training = Training(
            epochs=epochs,
            batch_size=size.batch_size,
            precision=precision,  # type: ignore[arg-type]
            progress=False,
        )
        return timed(
            lambda: fit_many(
                [make(data, method, k // size.n_betas) for k in range(n)],
                data,
                training,
                betas=[2.0 ** -(k % size.n_betas) for k in range(n)],
            ),
            data.device,
        )

    return train


def stacked(size: Size, data: ResidentWindows) -> Iterator[dict[str, Any]]:
    for precision in ("fp32", "tf32", "bf16"):
        for n in size.stacks:
            row = {"precision": precision, "models": n, "epochs": size.stack_epochs}
            try:
                forget_peak(data.device)
                train = train_stack(size, data, "mmvm", n, precision)
                start, per_epoch = growth(train, size.stack_epochs)
            except torch.OutOfMemoryError as error:
                yield row | {"error": str(error).splitlines()[0]}
                continue
            yield row | {
                "seconds_at_start": start,
                "seconds_per_model_and_epoch": per_epoch / n,
                "share_of_fp32_roofline": bound(size, data)["seconds"] * n / per_epoch,
                "peak_MiB": peak(data.device),
            }


def sweep(size: Size, data: ResidentWindows, *, full: bool) -> Iterator[dict[str, Any]]:
    """All betas and seeds of a method at once, one method after another."""
    n = size.n_betas * size.n_seeds
    for precision in ("tf32",) if full else ("fp32", "tf32"):
        total = 0.0
        for method in size.methods:
            forget_peak(data.device)
            train = train_stack(size, data, method, n, precision)
            if full:
                seconds = train(size.epochs)
            else:
                start, per_epoch = growth(train, size.sweep_epochs)
                seconds = start + size.epochs * per_epoch
            total += seconds
            yield {
                "precision": precision,
                "method": method,
                "models": n,
                "epochs": size.epochs,
                "extrapolated_from": None if full else size.sweep_epochs,
                "seconds": seconds,
                "peak_MiB": peak(data.device),
            }
        yield {
            "precision": precision,
            "method": "all",
            "models": n * len(size.methods),
            "epochs": size.epochs,
            "extrapolated_from": None if full else size.sweep_epochs,
            "minutes": total / 60,
        }


def profile(size: Size, data: ResidentWindows) -> Iterator[dict[str, Any]]:
    """Share of the time of training in which kernels run; on a CPU, operators.

    Of the epochs that a longer fit has more than a shorter one, for only these are replayed.
    """
    on_gpu = data.device.type == "cuda"
    kind = torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    time_of = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    for n, graphs in ((1, False), (1, True), (max(size.stacks), True)):
        walls, kernels, longest = [], [], []
        for epochs in (START, START + size.profile_epochs):
            vaes = [make(data, "mmvm", k) for k in range(n)]
            training = Training(
                epochs=epochs, batch_size=size.batch_size, graphs=graphs, progress=False
            )
            with torch.profiler.profile(activities=[kind]) as profiler:
                began = time.perf_counter()
                if n == 1:
                    fit(vaes[0], data, training)
                else:
                    fit_many(vaes, data, training, betas=[1.0] * n)
                synchronize(data.device)
                walls.append(time.perf_counter() - began)
            events = profiler.key_averages()
            kernels.append(sum(getattr(event, time_of) for event in events) / 1e6)
            longest = sorted(events, key=lambda event: -getattr(event, time_of))[:8]
        yield {
            "models": n,
            "graph": graphs,
            "epochs": size.profile_epochs,
            "seconds": walls[1] - walls[0],
            "kernels_over_wall": (kernels[1] - kernels[0]) / (walls[1] - walls[0]),
            "longest": [
                {"name": e.key[:80], "calls": e.count, "seconds": getattr(e, time_of) / 1e6}
                for e in longest
            ],
        }


def bound(size: Size, data: ResidentWindows) -> dict[str, float]:
    """What an epoch of one model takes at least: its matrix products and its passes of Adam."""
    vae = make(data, "mmvm", 0)
    layers = [module for module in vae.modules() if isinstance(module, nn.Linear)]
    products = sum(layer.weight.numel() for layer in layers)
    # The gradient with respect to the data is not needed.
    inputs = sum(n * n for n in data.n_features)
    flops = 2.0 * len(data) * (3 * products - inputs)
    n_parameters = sum(parameter.numel() for parameter in vae.parameters())
    n_steps = math.ceil(len(data) / size.batch_size)
    bytes_ = 7.0 * 4 * n_parameters * n_steps  # reads weight, gradient, two moments; writes three
    return {
        "windows": len(data),
        "parameters": n_parameters,
        "gigaflop": flops / 1e9,
        "adam_gigabytes": bytes_ / 1e9,
        "peak_teraflops": PEAK_FLOPS / 1e12,
        "peak_terabytes_per_s": PEAK_BYTES / 1e12,
        "seconds": flops / PEAK_FLOPS + bytes_ / PEAK_BYTES,
    }


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> float | None:
    """Most memory that tensors took on a GPU since `forget_peak`."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / 2**20


def machine(device: torch.device) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "cuda": torch.version.cuda,
        **provenance("torch"),
        "warm_up_steps": WARM_UP,
    }


if __name__ == "__main__":
    main()
