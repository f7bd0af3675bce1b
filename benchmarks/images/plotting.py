"""Tables and figures of the runs in a folder: what `python -m benchmarks plot` draws."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.images.runner import Run, chosen_betas
from benchmarks.images.suite import load

PANELS = {"probe": "linear probe", "coherence": "coherence"}
"""Scores of the scatter, over the reconstruction error."""


def read_runs(out: Path) -> dict[tuple[str, str], list[Run]]:
    """Runs by suite and preset."""
    runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for path in sorted(out.glob("*-beta*-seed*.json")):
        run = json.loads(path.read_text())
        runs[run["suite"], run["preset"]].append({**run, "path": path})
    if not runs:
        raise FileNotFoundError(f"plot: expected results of runs in {out}. Got none; run first.")
    return dict(runs)


def table(runs: list[Run], chosen: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Mean and range over seeds of the test scores, each objective at its chosen beta."""
    rows = {}
    for objective, beta in chosen.items():
        kept = [r for r in runs if r["objective"] == objective and r["beta"] == beta]
        row: dict[str, Any] = {"beta": beta, "seeds": len(kept)}
        for name in kept[0]["test"]:
            values = [run["test"][name] for run in kept if run["test"][name] is not None]
            if values:
                row[name] = {"mean": np.mean(values), "min": min(values), "max": max(values)}
        row["fit_cpu_seconds"] = {"mean": np.mean([r["cost"]["fit_cpu_seconds"] for r in kept])}
        rows[objective] = row
    return rows


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The table, to be read."""
    names = ("probe", "coherence", "self_coherence", "joint_error", "self_error", "frechet")
    lines = [
        f"| objective | beta | seeds | {' | '.join(name.replace('_', ' ') for name in names)} |",
        f"|---|---|---|{'---|' * len(names)}",
    ]
    for objective, row in rows.items():
        cells = []
        for name in names:
            if name not in row:
                cells.append("-")
                continue
            digits = 4 if "error" in name else 0 if name == "frechet" else 2
            low, mean, high = (f"{row[name][key]:.{digits}f}" for key in ("min", "mean", "max"))
            cells.append(f"{mean} ({low}-{high})" if name in PANELS else mean)
        lines.append(f"| {objective} | {row['beta']:g} | {row['seeds']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def summarise(out: Path) -> list[Path]:
    """Write a table (.md), the runs in one file (.json) and the figures of every suite in `out`."""
    written = []
    for (suite, preset), runs in read_runs(out).items():
        chosen = chosen_betas(runs, load(suite).presets[preset])
        rows = table(runs, chosen)
        stem = out / f"images_{suite}_{preset}"
        stem.with_suffix(".md").write_text(markdown(rows) + "\n")
        _write_document(stem.with_suffix(".json"), runs, rows)
        written += [stem.with_suffix(".md"), stem.with_suffix(".json")]
        for name, figure in (
            ("scatter", scatter(runs, f"{suite}, {preset}")),
            ("samples", samples(runs, chosen, suite)),
        ):
            path = out / f"{stem.name}_{name}.png"
            figure.savefig(path, dpi=90)
            plt.close(figure)
            written.append(path)
    return written


def _write_document(path: Path, runs: list[Run], rows: dict[str, dict[str, Any]]) -> None:
    """One file of all runs, with what is the same in all of them apart."""
    kept = [{k: v for k, v in run.items() if k not in ("path", "test_in_full")} for run in runs]
    same = {k: kept[0][k] for k in kept[0] if all(run.get(k) == kept[0][k] for run in kept)}
    document = {
        "what": "scores on test samples; beta chosen on validation samples",
        **same,
        "chosen": rows,
        "runs": [{k: v for k, v in run.items() if k not in same} for run in kept],
    }
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(temporary, path)


def scatter(runs: list[Run], title: str) -> Figure:
    """Probe and coherence against the reconstruction error; arrows lead from small beta to large.

    Points are means over seeds, small dots single runs.
    """
    figure, axes = plt.subplots(1, len(PANELS), figsize=(9, 4), layout="constrained")
    objectives = list(dict.fromkeys(run["objective"] for run in runs))
    for axis, (score, label) in zip(axes, PANELS.items(), strict=True):
        for k, objective in enumerate(objectives):
            mine = [run for run in runs if run["objective"] == objective]
            betas = sorted({run["beta"] for run in mine})
            points = {
                beta: np.array(
                    [
                        (run["test"]["joint_error"], run["test"][score])
                        for run in mine
                        if run["beta"] == beta and run["test"][score] is not None
                    ]
                )
                for beta in betas
            }
            points = {beta: found for beta, found in points.items() if len(found)}
            if not points:
                continue
            colour = f"C{k}"
            every = np.concatenate(list(points.values()))
            means = np.array([found.mean(0) for found in points.values()])
            axis.scatter(*every.T, s=8, color=colour, alpha=0.4, linewidths=0)
            axis.scatter(*means.T, s=36, color=colour, label=objective)
            for start, stop in pairwise(means):
                axis.annotate(
                    "", stop, start, arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.2}
                )
        axis.set(xlabel="reconstruction error, joint", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(f"{title}: {runs[0]['metric'].replace('_', ' ')}, test samples", fontsize=10)
    return figure


def samples(runs: list[Run], chosen: dict[str, float], suite: str) -> Figure:
    """Images of the first modality: real ones, and what each objective makes of each modality."""
    first = [
        run for run in runs if run["beta"] == chosen[run["objective"]] and run["seed"] == 0
    ] or runs[:1]
    n_columns = min(4, len(first))
    n_rows = -(-len(first) // n_columns)
    grids = {run["objective"]: _grid(run) for run in first}
    height, width = next(iter(grids.values())).shape[:2]
    scale = 2.6 / width
    figure, axes = plt.subplots(
        n_rows,
        n_columns,
        figsize=(2.75 * n_columns, (height * scale + 0.3) * n_rows + 0.35),
        layout="constrained",
        squeeze=False,
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, (objective, grid) in zip(axes.flat, grids.items(), strict=False):
        axis.imshow(grid, cmap="gray", interpolation="nearest")
        axis.set_title(f"{objective}, beta {chosen[objective]:g}", fontsize=9)
    figure.suptitle(
        f"{suite}: top row real, below generated from each modality in turn",
        fontsize=10,
    )
    return figure


def _grid(run: Run) -> np.ndarray:
    """Rows: real, then from each source; columns: samples. The first modality that is an image."""
    with np.load(run["path"].with_suffix(".npz")) as kept:
        images = kept[kept.files[0]]  # (real and sources, sample, height, width, channel)
    images = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=255)
    rows, columns, height, width, channels = images.shape
    grid = images.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    return grid if channels == 3 else grid[..., 0]
