"""Where the model gains over linear alignments, and where it does not: python -m benchmarks.regimes

Recorded and simulated data of several regimes. For every set and split of its trials, accuracy per
held-out trial of

- ``default``: `SharedLatentModel` as it comes, which chooses everything on inner folds; also bits
  per spike that it imputes;
- ``start``: the same before training, the linear start that it chose;
- ``tuned linear``: the linear alignment (Procrustes, MCCA, shared response model; of single lags
  too where these are few) that does best on the same inner folds;
- every objective from random networks under the same training, width and inputs, with another
  seed for every split;
- an ablation: the training of the default from its start for a given number of steps, with learning
  rate, batch size and steps changed one at a time;
- CEBRA on all animals at once with the conditions as labels, where it is installed.

Every row is written as it is done, and a later run continues with those that are missing.
Recordings are read from the folder NEUROSHARE_DATA; sets that are not there are left out.
"""

import argparse
import importlib.util
import json
import os
import time
import warnings
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import neuroshare as ns
from benchmarks.provenance import provenance
from neuroshare.vae.objectives import MoPoE

HERE = Path(__file__).parent
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "xarray")
ODOR = {"by": "odor", "align": "inhalation_time", "span": (0.0, 2.0), "bin_size": 0.05,
        "width": 0.5, "step": 0.25}  # fmt: skip
PLACE = {"by": "place", "trials": "position_bins"}
RECORDED = {
    "mice": {"folder": "mice-nwb", "by": "condition", "conditions": ("left", "none", "right")},
    "odor_aPCx_15": ODOR,
    "odor_plCoA_AA": ODOR,
    "track_A_6mice": {**PLACE, "span": (0.0, 0.25), "bin_size": 0.05},
    "riab_track_5rats": PLACE,
}
ANIMALS = {"a": 40, "b": 60, "c": 50, "d": 80}
SIMULATED = {
    "place cells": {"tuning": "place", "n": 20, "n_trials": 30, "signal": 2.0},
    "several maps": {"tuning": "maps", "n": 20, "n_trials": 30, "signal": 1.5},
    "time cells": {"tuning": "time", "n": 4, "n_trials": 60, "width": 0.2, "step": 0.1},
    "exclusive-or": {"tuning": "pairs", "n": 2, "n_trials": 150, "width": 0.2, "step": 0.1},
    "low rank": {"tuning": "latent", "n": 4, "n_trials": 40},
}
METHODS = ("procrustes", "mcca", "srm")
OBJECTIVES = ("mmvm", "MMVM()", "independent", "avg", "poe", "moe", "mopoe", "mmvae_plus")
STEPS = 500
"""Of training from random networks."""
SUBSETS = 16
"""Of animals that mopoe draws at every step, of those of more than four: ten have 1023."""
CEBRA_STEPS, CEBRA_RATE = 1000, 3e-3
"""Of CEBRA: of rates 3e-4 and 3e-3 the better on an inner fold of place cells."""
ABLATED = ("mice", "odor_aPCx_15", "place cells", "several maps")
ABLATION = {
    "as it is": {},
    "rate / 3": {"lr": 1e-3},
    "rate x 3": {"lr": 1e-2},
    "batch 32": {"batch_size": 32},
    "batch 512": {"batch_size": 512},
    "100 steps": {"steps": 100},
    "1000 steps": {"steps": 1000},
}
ABLATED_STEPS = 300
MOST_LAGS = 1000
"""Features of one animal, for alignments of single lags."""


@cache
def paired(name):
    """Windows of all animals of a set, before they are split; None if it is not there."""
    how = dict(RECORDED.get(name) or SIMULATED[name])
    width, step = how.pop("width", 0.1), how.pop("step", 0.05)
    span, bin_size = how.pop("span", (0.0, 0.4)), how.pop("bin_size", 0.01)
    if name in SIMULATED:
        odors = [f"{k:02d}" for k in range(how.pop("n"))]
        sessions = ns.simulate_sessions(ANIMALS, odors=odors, **how)
        counts = {n: ns.bin_spikes(s, "start_time", span, bin_size) for n, s in sessions.items()}
        return ns.pair_subjects(counts, by="odor", width=width, step=step)
    root = os.environ.get("NEUROSHARE_DATA")
    files = sorted((Path(root) / how.get("folder", name)).glob("*.nwb")) if root else []
    if not files:
        return None
    counts = {}
    for path in files:
        session = ns.read_nwb(path, trials=how.get("trials", "trials"))
        counts[path.stem] = ns.bin_spikes(session, how.get("align", "start_time"), span, bin_size)
    conditions = how.get("conditions")
    return ns.pair_subjects(counts, by=how["by"], width=width, step=step, conditions=conditions)


def scored(model, parts):
    """Mean accuracies per held-out trial."""
    found = ns.separation(*(model.transform(part) for part in parts)).sel(level="trial")
    return {"own": round(float(found.mean_own), 4), "cross": round(float(found.mean_cross), 4)}


def imputed(model, parts):
    """Bits per spike of each animal from all others, beside its own mean counts (PSTH)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = ns.imputation_scores(model, *parts)
    bits = found.mean_bits_per_spike.sel(sources="all others")
    return {
        "bits": round(float(bits), 4),
        "psth": round(float(found.bits_per_spike_psth.mean()), 4),
    }


def default(parts, **settings):
    """The model as it comes, and its start."""
    began = time.process_time()
    model = ns.SharedLatentModel(progress=False, **settings).fit(parts[0])
    seconds = round(time.process_time() - began, 1)
    table = model.selection_
    first = table[(table.stage == "start") & table.chosen].iloc[0]
    chosen = {
        "latent_dim": int(first.latent_dim),
        "inputs": first.inputs if isinstance(first.inputs, str) else int(first.inputs),
    }
    told = {**chosen, "steps": model.chosen_["steps"], "init": model.chosen_["init"]}
    rows = {
        "default": {**scored(model, parts), **imputed(model, parts), "seconds": seconds, **told}
    }
    start = model
    if told["steps"]:
        # The weighting is chosen again on the same folds, from the same candidates.
        start = ns.SharedLatentModel(progress=False, epochs=0, init="mcca", **settings)
        start.fit(parts[0])
    return {**rows, "start": {**scored(start, parts), **chosen}}


def tuned_linear(parts):
    """The linear alignment that does best on inner folds."""
    began = time.process_time()
    train = parts[0]
    most = train.width * max(len(ids) for ids in train.units.values())
    kinds = ("sum", "window") if most <= MOST_LAGS else ("sum",)
    fitted = []
    for method in METHODS:
        for kind in kinds:
            model = ns.LinearAlignment(method, features=kind).fit(train)
            table = model.selection_
            score = float(table.score[table.chosen].iloc[0]) if len(table) else 0.0
            fitted.append((score, len(fitted), model))
    best = max(fitted)[2]
    seconds = round(time.process_time() - began, 1)
    told = {"method": best.method, "features": best.features, "latent_dim": best.latent_dim_}
    return {**scored(best, parts), "seconds": seconds, **told}


def trained(parts, steps, **settings):
    """A model that trains for so many steps."""
    n_windows = parts[0].sizes["window"]
    per_epoch = -(-n_windows // settings.get("batch_size", ns.SharedLatentModel().batch_size))
    epochs = max(round(steps / per_epoch), 1)
    began = time.process_time()
    model = ns.SharedLatentModel(progress=False, epochs=epochs, **settings).fit(parts[0])
    return {**scored(model, parts), "seconds": round(time.process_time() - began, 1)}


def from_random(parts, objective, at, seed):
    """An objective from random networks, under the training that all of them have."""
    rule = ns.MMVM() if objective == "MMVM()" else objective
    if objective == "mopoe" and len(parts[0].subjects) > 4:
        rule = MoPoE(n_subsets=SUBSETS)
    told = {"latent_dim": max(at["latent_dim"], 8), "inputs": at["inputs"]}
    return {**trained(parts, STEPS, objective=rule, init="random", seed=seed, **told), **told}


def roots(paired, name, n_parts):
    """Square roots of the counts in parts of windows, (window, part x unit); NaN where absent."""
    x = paired[name].values.astype(np.float32)  # (window, unit, lag)
    parts = x.reshape(*x.shape[:2], n_parts, -1).sum(axis=3)
    return np.sqrt(parts.swapaxes(1, 2)).reshape(len(x), -1)


class Cebra:
    """CEBRA of all animals at once, with the conditions as discrete labels.

    It sees square roots of the counts in the same parts of the same windows.
    """

    def __init__(self, train, latent_dim, inputs, seed):
        from cebra import CEBRA

        self.n_parts = 1 if inputs == "pooled" else inputs
        self.model = CEBRA(
            model_architecture="offset1-model", output_dimension=latent_dim, batch_size=512,
            max_iterations=CEBRA_STEPS, learning_rate=CEBRA_RATE, device="cpu",
        )  # fmt: skip
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - of what CEBRA draws its samples
        features = [roots(train, name, self.n_parts) for name in train.subjects]
        codes = train.row_codes.repeat(len(train.first_bins))
        there = [~np.isnan(x).any(axis=1) for x in features]
        self.model.fit(
            [x[seen] for x, seen in zip(features, there, strict=True)],
            [codes[seen] for seen in there],
        )

    def transform(self, paired):
        """Latents (subject, window, latent), as those of the models of this package."""
        z = [
            np.asarray(self.model.transform(roots(paired, name, self.n_parts), session_id=k))
            for k, name in enumerate(paired.subjects)
        ]
        dims = ("subject", "window", "latent")
        return xr.DataArray(np.stack(z), dims=dims, coords=paired.coords(), attrs=paired.attrs)


def cebra(parts, at, seed):
    """CEBRA with as many latents as the objectives from random networks."""
    told = {"latent_dim": max(at["latent_dim"], 8), "inputs": at["inputs"]}
    began = time.process_time()
    model = Cebra(parts[0], seed=seed, **told)
    return {**scored(model, parts), "seconds": round(time.process_time() - began, 1), **told}


def todo(options):
    """What is to be measured: set, split, row and how; the essential first."""
    sets = [name for name in options.sets if paired(name) is not None]
    for split in range(options.first, options.first + options.splits):
        for name in sets:
            yield name, split, "default", lambda parts, at: default(parts)
            yield name, split, "tuned linear", lambda parts, at: tuned_linear(parts)
    for split in range(options.first, options.first + options.objective_splits):
        for name in sets:
            for objective in OBJECTIVES:
                yield (
                    name,
                    split,
                    f"random {objective}",
                    partial(from_random, objective=objective, seed=split),
                )
    for split in range(options.first, options.first + options.ablation_splits):
        for name in (n for n in sets if n in ABLATED):
            for change, settings in ABLATION.items():
                yield name, split, f"ablation {change}", lambda parts, at, s=settings: trained(
                    parts, s.get("steps", ABLATED_STEPS), init="mcca", inputs=at["inputs"],
                    latent_dim=at["latent_dim"], **{k: v for k, v in s.items() if k != "steps"},
                )  # fmt: skip
    if options.cebra_splits and importlib.util.find_spec("cebra") is None:
        print("CEBRA is not installed, and its rows are left out: pip install cebra")
        return
    for split in range(options.first, options.first + options.cebra_splits):
        for name in sets:
            yield name, split, "CEBRA", partial(cebra, seed=split)


def means(rows, name, row):
    """Own and cross, their standard errors over splits (None of one split), number of splits."""
    found = [r for k, r in rows.items() if k.split(" | ")[::2] == [name, row]]
    if not found:
        return None
    values = np.array([[r["own"], r["cross"]] for r in found])
    error = values.std(axis=0, ddof=1) / np.sqrt(len(found)) if len(found) > 1 else None
    return values.mean(axis=0), error, len(found)


def table(rows):
    """Means over splits, as lines of Markdown."""
    kinds = list(dict.fromkeys(key.split(" | ")[2] for key in rows))
    lines = ["| data | row | splits | own | cross |", "|---|---|---|---|---|"]
    for name in [*RECORDED, *SIMULATED]:
        for kind in kinds:
            if (found := means(rows, name, kind)) is not None:
                mean, error, n = found
                spread = ["", ""] if error is None else [f" ± {e:.3f}" for e in error]
                own, cross = (f"{m:.3f}{e}" for m, e in zip(mean, spread, strict=True))
                lines.append(f"| {name} | {kind} | {n} | {own} | {cross} |")
    return lines


def draw(rows, path):
    """Differences from tuned linear, split by split: own and cross."""
    import matplotlib.pyplot as plt

    names = [n for n in [*RECORDED, *SIMULATED] if means(rows, n, "default")]
    figure, axes = plt.subplots(1, 2, figsize=(9, 0.4 * len(names) + 1.6), sharey=True)
    for axis, score in zip(axes, ("own", "cross"), strict=True):
        axis.axvline(0, color="0.7", lw=1)
        for shift, (kind, color) in enumerate({"start": "C0", "default": "C1"}.items()):
            for y, name in enumerate(names):
                gains = [
                    r[score] - rows[f"{name} | {k.split(' | ')[1]} | tuned linear"][score]
                    for k, r in rows.items()
                    if k.split(" | ")[::2] == [name, kind]
                    and f"{name} | {k.split(' | ')[1]} | tuned linear" in rows
                ]
                at = np.full(len(gains), y + 0.25 * (shift - 0.5))
                axis.plot(gains, at, "o", ms=3, color=color, alpha=0.6)
                axis.plot(np.mean(gains), at[:1], "|", ms=12, mew=2, color=color)
        axis.plot([], [], "o", color="C0", label="its start")
        axis.plot([], [], "o", color="C1", label="default")
        axis.set_xlabel(f"{score} accuracy - tuned linear")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    axes[1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def draw_objectives(rows, path):
    """Accuracies of every objective from random networks, means over splits, by data."""
    import matplotlib.pyplot as plt

    kinds = [f"random {objective}" for objective in OBJECTIVES] + ["CEBRA", "tuned linear"]
    names = [n for n in [*RECORDED, *SIMULATED] if means(rows, n, kinds[0])]
    figure, axes = plt.subplots(1, 2, figsize=(9, 0.5 * len(names) + 1.8), sharey=True)
    for column, axis in enumerate(axes):
        for k, kind in enumerate(kinds):
            found = [(y, means(rows, name, kind)) for y, name in enumerate(names)]
            at = [(y + 0.05 * (k - len(kinds) / 2), m[0][column]) for y, m in found if m]
            if at:
                y, x = np.transpose(at)
                marker = "|" if kind == "tuned linear" else "*" if kind == "CEBRA" else "o"
                color = "k" if kind in ("CEBRA", "tuned linear") else f"C{k}"
                label = kind.removeprefix("random ")
                axis.plot(x, y, marker, color=color, ms=9 if marker == "|" else 5, label=label)
        axis.set_xlabel(f"{('own', 'cross')[column]} accuracy")
        axis.grid(axis="x", color="0.9")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    axes[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=[*RECORDED, *SIMULATED])
    parser.add_argument("--splits", type=int, default=5, help="of default, start, tuned linear")
    parser.add_argument("--first", type=int, default=100, help="seed of the first split")
    parser.add_argument("--objective-splits", type=int, default=1)
    parser.add_argument("--ablation-splits", type=int, default=1)
    parser.add_argument("--cebra-splits", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    file = options.out / "regimes.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    commit = provenance()["commit"]
    options.out.mkdir(parents=True, exist_ok=True)
    for name, split, row, measure in todo(options):
        key = f"{name} | {split} | {row}"
        if key in rows:
            continue
        parts = paired(name).split(0.25, seed=split)
        found = measure(parts, at=rows.get(f"{name} | {split} | start"))
        for kind, values in (found if row == "default" else {row: found}).items():
            rows[f"{name} | {split} | {kind}"] = {**values, "commit": commit}
            print(f"{name} | {split} | {kind}", values, flush=True)
        text = json.dumps({**provenance(*PACKAGES), "rows": rows}, indent=1)
        file.write_text(text + "\n", encoding="utf-8")
    print("\n".join(table(rows)))
    draw(rows, options.out / "regimes.png")
    draw_objectives(rows, options.out / "regimes_objectives.png")


if __name__ == "__main__":
    main()
