"""Recordings whose spikes were parted from what happened: is p still right?

``python -m benchmarks.moved --data FOLDER [--draws 60] [--model start|default]`` takes real labels
and real spikes and cuts the tie between them, while both keep their order in time:

- ``labels``: the labels of each mouse move on a circle by 40 trials or more;
- ``other mice``: each mouse gets a stretch of another mouse's labels;
- ``spikes``: the spikes of each simulated rat in an arena move on a circle by 35-65 % of the
  session, scored by place and by head direction;
- ``as recorded``: nothing moves (two draws of each).

`split` and `separation` do what they do by themselves. ``--model start`` is the start of the model
with four latents and nothing to choose, ``--model default`` the default model. Draws are written as
they are done, and a later run continues with those that are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import neuroshare as ns
from benchmarks.provenance import provenance

RESULTS = Path(__file__).parent / "results"
N_PERMUTATIONS = 199
LEAST_SHIFT = 40
START: dict[str, Any] = {"epochs": 0, "latent_dim": 4, "inputs": "pooled", "init": "mcca"}
MICE = {"conditions": ("left", "right", "none"), "by": "condition"}
ARENA_DRAWS = 4
Counts = dict[str, xr.DataArray]


@cache
def mice(data: Path) -> Counts:
    """Counts (trial, unit, time) of the trials that are paired, 0 to 0.4 s."""
    counts = {}
    for path in sorted((data / "mice-nwb").glob("*.nwb")):
        session = ns.read_nwb(path)
        array = ns.bin_spikes(session, span=(0.0, 0.4))
        known = np.isin(array.condition.values, MICE["conditions"])
        counts[session.subject] = array.isel(trial=known)
    return counts


def moved_labels(counts: Counts, seed: int) -> Counts:
    """Every mouse's labels, on a circle."""
    rng = np.random.default_rng([7, seed])
    moved = {}
    for name, array in counts.items():
        n = array.sizes["trial"]
        labels = np.roll(array.condition.values, rng.integers(LEAST_SHIFT, n - LEAST_SHIFT + 1))
        moved[name] = array.assign_coords(condition=("trial", labels))
    return moved


def labels_of_others(counts: Counts, seed: int) -> Counts:
    """Every mouse with a stretch of another's labels, as long as both have trials."""
    rng = np.random.default_rng([8, seed])
    names = list(counts)
    order = rng.permutation(len(names))
    while np.any(order == np.arange(len(names))):
        order = rng.permutation(len(names))
    moved = {}
    for name, other in zip(names, order, strict=True):
        array, labels = counts[name], counts[names[other]].condition.values
        n = min(array.sizes["trial"], len(labels))
        here = rng.integers(array.sizes["trial"] - n + 1)
        there = rng.integers(len(labels) - n + 1)
        kept = array.isel(trial=slice(here, here + n))
        moved[name] = kept.assign_coords(condition=("trial", labels[there : there + n]))
    return moved


@cache
def arena_sessions(data: Path) -> list[ns.Session]:
    """Rats in the arena, as recorded."""
    return [ns.read_nwb(path) for path in sorted((data / "riab_arena_5rats").glob("*.nwb"))]


def arena(data: Path, seed: int | None) -> Counts:
    """Counts of the rats in the arena, whose spikes move on a circle of the session."""
    counts = {}
    for i, session in enumerate(arena_sessions(data)):
        if seed is not None:
            end = float(session.trials.stop_time.max())
            shift = np.random.default_rng([9, seed, i]).uniform(0.35, 0.65) * end
            moved = [np.sort((t + shift) % end) for t in session.spike_times]
            session = replace(session, spike_times=moved)
        counts[session.subject] = ns.bin_spikes(session, span=(0.0, 1.0), bin_size=0.1)
    return counts


def scored(counts: Counts, by: str, seed: int, settings: dict[str, Any], **windows: Any) -> Any:
    """Accuracies per held-out trial and p of their means."""
    paired = ns.pair_subjects(counts, by=by, seed=seed, **windows)
    train, test = paired.split(0.25, seed=seed)
    model = ns.SharedLatentModel(seed=seed, progress=False, **settings).fit(train)
    scores = ns.separation(
        model.transform(train), model.transform(test), n_permutations=N_PERMUTATIONS, seed=seed
    ).sel(level="trial")
    return {
        "own": round(float(scores.mean_own), 4),
        "cross": round(float(scores.mean_cross), 4),
        "chance": round(float(scores.chance), 4),
        "p_own": round(float(scores.p_mean_own), 5),
        "p_cross": round(float(scores.p_mean_cross), 5),
        "null": str(scores.attrs["null"]),
        "steps": dict(model.chosen_).get("steps"),
    }


def draw(data: Path, what: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One draw of one kind."""
    where, _, kind = what.partition(", ")
    if where == "mice":
        counts = mice(data)
        if kind == "labels":
            counts = moved_labels(counts, seed)
        elif kind == "other mice":
            counts = labels_of_others(counts, seed)
        return scored(counts, "condition", seed, settings, step=0.05)
    column = where.split()[1]
    counts = arena(data, seed if kind == "spikes" else None)
    return scored(counts, column, seed, settings, width=0.4, step=0.2)


def plan(draws: int) -> list[tuple[str, int]]:
    """Kind and seed of every draw, the kinds in turn."""
    kinds = {
        "mice, as recorded": 2, "mice, labels": draws, "mice, other mice": draws,
        "arena place, as recorded": 2, "arena place, spikes": ARENA_DRAWS,
        "arena head, as recorded": 2, "arena head, spikes": ARENA_DRAWS,
    }  # fmt: skip
    return sorted(
        ((kind, seed) for kind, n in kinds.items() for seed in range(n)), key=lambda one: one[1]
    )


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Accuracies and how often p <= 0.05, per kind."""
    found: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(key.rpartition(" ")[0] for key in rows):
        of_kind = [row for key, row in rows.items() if key.rpartition(" ")[0] == kind]
        found[kind] = {"draws": len(of_kind), "chance": of_kind[0]["chance"]}
        for score in ("own", "cross"):
            p = np.array([row[f"p_{score}"] for row in of_kind], float)
            found[kind][score] = round(float(np.mean([row[score] for row in of_kind])), 4)
            found[kind][f"p_{score} <= 0.05"] = int((p <= 0.05).sum())
            found[kind][f"p_{score} unknown"] = int(np.isnan(p).sum())
            found[kind][f"least p_{score}"] = float(np.nanmin(p)) if np.isfinite(p).any() else None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("NEUROSHARE_DATA")
    parser.add_argument("--data", type=Path, default=default, required=default is None)
    parser.add_argument("--draws", type=int, default=60)
    parser.add_argument("--model", choices=("start", "default"), default="start")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = options.out or RESULTS / f"moved_{options.model}.json"
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.exists() else {}
    settings = START if options.model == "start" else {}
    for what, seed in plan(options.draws):
        if f"{what} {seed}" in rows:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows[f"{what} {seed}"] = draw(options.data, what, seed, settings)
        found = {
            **provenance("numpy", "scipy", "scikit-learn", "torch", "xarray"),
            "model": options.model, "settings": settings, "permutations": N_PERMUTATIONS,
            "summary": summary(rows), "rows": rows,
        }  # fmt: skip
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for kind, of_kind in summary(rows).items():
        print(kind, of_kind)


if __name__ == "__main__":
    main()
