"""Fit and score methods on a suite, one resumable run after the other, one JSON file per run."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.images.data import Dataset, Samples
from benchmarks.images.networks import Classifier, Decoder, Encoder
from benchmarks.images.probes import (
    fit_probes,
    generate,
    generation,
    score_classifiers,
    score_probes,
    summary,
    train_classifiers,
)
from benchmarks.images.suite import Preset, Suite
from benchmarks.provenance import provenance
from neuroshare.support.parallel import run_each
from neuroshare.vae import train
from neuroshare.vae.multimodal import MultimodalVAE
from neuroshare.vae.objectives import OBJECTIVES, Objective, make_objective
from neuroshare.vae.schedule import Schedule

SHOWN = 8
"""Samples kept for the figures."""

Run = dict[str, Any]
"""What one JSON file holds: settings, scores, cost and where they come from."""


def objective_of(name: str, preset: Preset) -> Objective:
    """The sharing rule as its paper sets it, where the default differs or depends on the size."""
    if name == "mmvm":
        epochs = max(1, round(preset.anneal * preset.epochs))
        return OBJECTIVES[name](prior_weight=Schedule(1.0, 0.0, epochs))
    if name == "mmvae_plus":
        # As many numbers in a code as in the other methods' codes, half of them private.
        return OBJECTIVES[name](private_dim=preset.latent_dim // 2)
    if name == "mopoe":
        return OBJECTIVES[name](n_subsets=preset.n_subsets)
    return make_objective(name)


def build(dataset: Dataset, preset: Preset, objective: str, seed: int) -> MultimodalVAE:
    """An untrained model; networks of one seed are the same for every objective."""
    rule = objective_of(objective, preset)
    rule.build(len(dataset.modalities), preset.latent_dim)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shapes = [modality.shape for modality in dataset.modalities]
        return MultimodalVAE(
            [Encoder(shape, preset.latent_dim, preset.size) for shape in shapes],
            [Decoder(shape, preset.latent_dim, preset.decoder or preset.size) for shape in shapes],
            [modality.likelihood() for modality in dataset.modalities],
            rule,
        )


@dataclasses.dataclass(frozen=True)
class _Bench:
    """What all runs share."""

    suite: Suite
    preset_name: str
    preset: Preset
    dataset: Dataset
    classifiers: list[Classifier]
    device: torch.device
    out: Path
    progress: bool

    @property
    def stem(self) -> str:
        return f"{self.suite.name}-{self.preset_name}"

    def path(self, objective: str, beta: float, seed: int) -> Path:
        return self.out / f"{self.stem}-{objective}-beta{beta:g}-seed{seed}.json"

    def settings(self) -> dict[str, Any]:
        """All that decides a run beside its objective, beta and seed, as JSON gives it back."""
        settings = dataclasses.asdict(self.preset)
        for choice in ("betas", "max_error", "screen"):  # of runs, not in one
            del settings[choice]
        parts = ("train", "validation", "test")
        settings["samples"] = {part: len(getattr(self.dataset, part)) for part in parts}
        return json.loads(json.dumps(settings, default=str))


def run(
    suite: Suite,
    preset_name: str,
    folder: Path | None,
    out: Path,
    *,
    objectives: Sequence[str],
    betas: Sequence[float] | None = None,
    seeds: Sequence[int] = (0,),
    device: str = "auto",
    jobs: int | None = None,
    progress: bool = True,
) -> list[Path]:
    """Fit and score every objective at every beta and seed; what is in `out` already stays.

    Runs are done one after another, or in so many processes of one thread each (`jobs`).

    Returns
    -------
    list of Path
        The JSON files, one per run.

    Raises
    ------
    FileNotFoundError
        If files of the suite are missing.
    ValueError
        If a file in `out` is of a run with other settings.
    """
    preset, place, dataset = prepare(suite, preset_name, folder, out, device)
    kept = out / f"{suite.name}-{preset_name}-classifiers.safetensors"
    classifiers = train_classifiers(dataset, preset, kept, progress)
    alone = progress and jobs is None
    bench = _Bench(suite, preset_name, preset, dataset, classifiers, place, out, alone)
    source = provenance("torch")  # of the code as it was loaded
    # Without a rate there is nothing that beta could weigh.
    grids = {
        name: (1.0,) if name == "autoencoder" else tuple(betas or preset.betas)
        for name in objectives
    }
    first, others = (seeds[:1], seeds[1:]) if preset.screen else (seeds, ())
    paths = _run_all(bench, grids, first, jobs, source)
    if others:
        runs = [json.loads(path.read_text()) for path in paths]
        grids = {name: (beta,) for name, beta in chosen_betas(runs, preset).items()}
        paths += _run_all(bench, grids, others, jobs, source)
    return paths


def _run_all(
    bench: _Bench,
    grids: Mapping[str, Sequence[float]],
    seeds: Sequence[int],
    jobs: int | None,
    source: dict[str, Any],
) -> list[Path]:
    """Do what is not done yet, and give the files of all."""
    items = [
        (name, beta, seed) for seed in seeds for name, betas in grids.items() for beta in betas
    ]
    paths = [bench.path(*item) for item in items]
    settings = bench.settings()
    for path in paths:
        if path.exists() and (stored := json.loads(path.read_text())["settings"]) != settings:
            raise ValueError(
                f"{path} was made with other settings ({_different(stored, settings)})."
                " Name another --out, or delete it."
            )
    missing = [item for item, path in zip(items, paths, strict=True) if not path.exists()]
    task = partial(_fit_and_score, source)
    threads = 1 if jobs else torch.get_num_threads()
    for position, seconds in run_each(task, bench, missing, jobs, threads=threads):
        objective, beta, seed = missing[position]
        print(f"{bench.stem}: {objective}, beta {beta:g}, seed {seed}: {seconds:.0f} s", flush=True)
    return paths


def chosen_betas(runs: Sequence[Run], preset: Preset) -> dict[str, float]:
    """The beta of each objective."""
    names = dict.fromkeys(run["objective"] for run in runs)
    return {
        name: chosen_beta([run for run in runs if run["objective"] == name], preset)
        for name in names
    }


def chosen_beta(runs: Sequence[Run], preset: Preset) -> float:
    """The beta of one objective, by validation samples alone; `Preset` has the rule."""
    if preset.screen:
        least = min(run["seed"] for run in runs)
        runs = [run for run in runs if run["seed"] == least]

    def held_out(beta: float, *names: str) -> float:
        """Mean over seeds and scores, of those that exist."""
        found = [run["validation"][name] for run in runs for name in names if run["beta"] == beta]
        known = [value for value in found if value is not None]
        return float(np.mean(known)) if known else 0.0

    betas = sorted({run["beta"] for run in runs})
    if preset.max_error is None:
        return max(betas, key=lambda beta: held_out(beta, "probe", "coherence"))
    errors = {beta: held_out(beta, "joint_error") for beta in betas}
    within = [beta for beta in betas if errors[beta] <= preset.max_error]
    return max(within, default=min(betas, key=errors.__getitem__))


def prepare(
    suite: Suite, preset_name: str, folder: Path | None, out: Path, device: str
) -> tuple[Preset, torch.device, Dataset]:
    """The preset, the device, and the data on it; `smoke` writes its own where none are given."""
    if preset_name not in suite.presets:
        raise ValueError(
            f"{suite.name}: the preset must be one of {list(suite.presets)}. Got {preset_name!r}."
        )
    out.mkdir(parents=True, exist_ok=True)
    if folder is None and preset_name == "smoke":
        folder = out / f"{suite.name}-tiny"
        if not folder.exists():
            suite.write_tiny(folder)
    if folder is None:
        raise FileNotFoundError(
            f"{suite.name}: preset {preset_name!r} needs the official files. Name their folder "
            "with --data; only 'smoke' makes up its own."
        )
    preset = suite.presets[preset_name]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.device(device)
    return preset, place, suite.read(folder, **preset.arguments).to(place)


def seconds_per_step(
    dataset: Dataset, preset: Preset, objective: str, device: torch.device, n_steps: int
) -> float:
    """Time of a training step, of whole batches, the first step left out."""
    vae = build(dataset, preset, objective, seed=0).to(device)
    rows = torch.arange(preset.batch_size, device=device) % len(dataset.train)
    few = _Few(dataset.train, rows)

    def fit(epochs: int) -> None:
        training = train.Training(
            epochs=epochs,
            batch_size=preset.batch_size,
            lr=preset.lr,
            precision=preset.precision,
            progress=False,
        )
        train.fit(vae, few, training)

    fit(1)
    started = time.perf_counter()
    fit(n_steps)  # an epoch is one batch
    return (time.perf_counter() - started) / n_steps


@dataclasses.dataclass
class _Few:
    """One batch of samples, as data of their own."""

    samples: Samples
    rows: Tensor
    resident = True

    def __len__(self) -> int:
        return len(self.rows)

    def redraw(self, epoch: int) -> None:
        self.samples.redraw(epoch)

    def batch(self, index: Tensor) -> tuple[list[Tensor], Tensor]:
        return self.samples.batch(self.rows[index])


def _fit_and_score(source: dict[str, Any], bench: _Bench, item: tuple[str, float, int]) -> float:
    """Write the file of one run, and give the seconds that it took."""
    objective, beta, seed = item
    suite, preset, dataset = bench.suite, bench.preset, bench.dataset
    path = bench.path(*item)
    checkpoint = path.with_suffix(".checkpoint.safetensors")
    vae = build(dataset, preset, objective, seed).to(bench.device)
    started, used = time.perf_counter(), time.process_time()
    training = train.Training(
        epochs=preset.epochs,
        batch_size=preset.batch_size,
        lr=preset.lr,
        beta=beta,
        precision=preset.precision,
        seed=seed,
        progress=bench.progress,
        checkpoint=checkpoint,
    )
    history = train.fit(vae, dataset.train, training)
    if history.interrupted:
        raise KeyboardInterrupt
    cost = {
        "fit_seconds": time.perf_counter() - started,
        "fit_cpu_seconds": time.process_time() - used,
    }
    scores = {}
    probes = fit_probes(vae, dataset.train.head(preset.n_probe), len(dataset.labels))
    for name in ("validation", "test"):
        part = getattr(dataset, name)
        scores[name] = {
            "probe": score_probes(probes, vae, part),
            **generation(vae, dataset, part, bench.classifiers),
        }
    _keep_samples(vae, dataset, path.with_suffix(".npz"))
    result = {
        "suite": suite.name,
        "preset": bench.preset_name,
        "objective": objective,
        "beta": beta,
        "seed": seed,
        "settings": bench.settings(),
        "classifiers": [
            m[suite.metric] for m in score_classifiers(bench.classifiers, dataset.test)
        ],
        "history": {"loss": history.loss, "rate": history.rate},
        "cost": cost,
        "metric": suite.metric,
        "validation": summary(scores["validation"], suite.metric),
        "test": summary(scores["test"], suite.metric),
        "test_in_full": scores["test"],
        "texts": _texts(vae, dataset),
        "device": _device(bench.device),
        **source,
    }
    _write(path, result)
    checkpoint.unlink(missing_ok=True)
    return time.perf_counter() - started


def _shown(dataset: Dataset) -> list[Tensor]:
    n = min(SHOWN, len(dataset.test))
    return dataset.test.batch(torch.arange(n, device=dataset.test.labels.device))[0]


def _keep_samples(vae: MultimodalVAE, dataset: Dataset, path: Path) -> None:
    """Bytes of a few images, real and generated: (real or source, sample, *shape) per modality."""
    x, kept = _shown(dataset), {}
    for target, modality in enumerate(dataset.modalities):
        if modality.alphabet is None:
            made = [generate(vae, x, source, target) for source in range(len(x))]
            stacked = torch.stack([x[target], *(modality.hard(part) for part in made)])
            bytes_ = (255 * stacked).round().byte().unflatten(-1, modality.shape)
            kept[modality.name] = bytes_.cpu().numpy()
    temporary = path.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(temporary, **kept)
    os.replace(temporary, path)


def _texts(vae: MultimodalVAE, dataset: Dataset) -> list[dict[str, Any]]:
    """Real and generated texts of the same samples."""
    x, texts = _shown(dataset), []
    for target, modality in enumerate(dataset.modalities):
        if modality.alphabet is None:
            continue
        for source, given in enumerate(dataset.modalities):
            made = generate(vae, x, source, target)
            for real, read in zip(x[target], made, strict=True):
                pair = {"real": modality.text(real), "generated": modality.text(read)}
                texts.append({"source": given.name, "target": modality.name, **pair})
    return texts


def _different(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    names = sorted(n for n in {*stored, *wanted} if stored.get(n) != wanted.get(n))
    return ", ".join(f"{n} was {stored.get(n)}, is {wanted.get(n)}" for n in names)


def _device(device: torch.device) -> str:
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"{platform.machine()} CPU"
    return f"{name}, {torch.get_num_threads()} threads"


def _write(path: Path, result: Run) -> None:
    """Write JSON at once: a file that is there is whole."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(_rounded(result), indent=1, allow_nan=False) + "\n")
    os.replace(temporary, path)


def _rounded(value: Any) -> Any:
    """Five digits say all; a score that does not exist is null."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
