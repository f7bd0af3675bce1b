"""What a suite is. To add one, put a file with a `SUITE` into `suites/`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.images import suites
from benchmarks.images.data import Dataset
from benchmarks.images.networks import Size
from neuroshare.vae.schedule import Schedule
from neuroshare.vae.step import Precision

Metric = Literal["accuracy", "average_precision", "auroc"]


@dataclass(frozen=True)
class Preset:
    """How much to compute.

    `betas` are tried in turn and one is chosen on the validation part: the largest whose joint
    reconstruction error is at most `max_error` (the one of least error where none is), so that
    methods are compared at like errors; without a `max_error`, the one of the best mean of probe
    and coherence. With `screen`, the first seed chooses and the others take what it chose; else
    every seed tries all, and they choose together. `precision` is that of
    matrix products in training, of the classifiers too; scores are in float32. The weight of
    N(0, I) in the prior of mmvm falls from 1 to 0 over the first `anneal` share of the epochs;
    mopoe decodes `n_subsets` subsets per step, None all. Linear probes are fitted on the first
    `n_probe` training samples. `arguments` go to the suite's `read`.
    """

    latent_dim: int
    epochs: int
    lr: float | Schedule
    betas: tuple[float, ...]
    size: Size
    classifier: Size
    decoder: Size | None = None
    batch_size: int = 256
    precision: Precision = "fp32"
    anneal: float = 0.5
    max_error: float | None = None
    screen: bool = False
    n_probe: int | None = None
    n_subsets: int | None = None
    classifier_epochs: int = 10
    arguments: Mapping[str, Any] = field(default_factory=dict)


def smoke(coarsest: int, **arguments: Any) -> Preset:
    """Seconds on made-up files: one epoch of the smallest networks; `arguments` go to `read`."""
    size = Size(4, 4, coarsest, 4)
    return Preset(
        latent_dim=4,
        epochs=1,
        lr=1e-3,
        betas=(1.0,),
        size=size,
        classifier=size,
        classifier_epochs=1,
        batch_size=32,
        arguments=arguments,
    )


@dataclass(frozen=True)
class Suite:
    """One benchmark: where its data come from, what is scored, and how much is computed.

    Parameters
    ----------
    name
        As on the command line.
    metric
        Of the linear probe and of coherence: the headline; the others are reported as well.
    presets
        By name: smoke, small, paper.
    read
        (folder, **preset.arguments) -> Dataset; raises FileNotFoundError where files are missing.
    write_tiny
        Write a few made-up samples in the official layout: what `smoke` reads.
    """

    name: str
    metric: Metric
    presets: Mapping[str, Preset]
    read: Callable[..., Dataset]
    write_tiny: Callable[[Path], None]


def names() -> list[str]:
    """Names of all suites, one for each file."""
    return sorted(module.name for module in pkgutil.iter_modules(suites.__path__))


def load(name: str) -> Suite:
    """The suite of this name."""
    if name not in names():
        raise ValueError(f"The suite must be one of {names()}. Got {name!r} instead.")
    suite: Suite = importlib.import_module(f"{suites.__name__}.{name}").SUITE
    return suite
