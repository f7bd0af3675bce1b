"""What the split in time changes on real data. Run: python -m benchmarks.splits --data FOLDER.

Old: trials held out at random, labels of held-out trials permuted. New: what `split` and
`separation` do by themselves. The start of the default model (no epochs) is fitted to the training
part and scored on the held-out one, per trial, for every seed of the split.

Every line is written as it is done, and a later run continues with those that are missing.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np

import neuroshare as ns
from benchmarks.provenance import provenance

HERE = Path(__file__).parent
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "xarray")
DATA = {
    "mice-nwb": {"by": "condition", "conditions": ("left", "right", "none"), "span": (0.0, 0.4)},
    "odor_aPCx_15": {"by": "odor", "align": "inhalation_time", "span": (0.0, 1.0), "width": 0.2},
    "odor_plCoA_AA": {"by": "odor", "align": "inhalation_time", "span": (0.0, 1.0), "width": 0.2},
    "track_A_6mice": {
        "by": "place", "trials": "position_bins", "span": (0.0, 0.5), "bin_size": 0.1, "width": 0.2,
        "step": 0.1,
    },
}  # fmt: skip


def load(
    folder, by, span, align="start_time", trials="trials", conditions=None, bin_size=0.01,
    width=0.1, step=0.05,
):  # fmt: skip
    """Pair all recordings of a folder."""
    counts = {}
    for path in sorted(folder.glob("*.nwb")):
        session = ns.read_nwb(path, trials=trials)
        counts[path.stem] = ns.bin_spikes(session, align, span, bin_size)
    return counts, {"by": by, "width": width, "step": step, "conditions": conditions}


def scored(counts, pairing, seed, new):
    """Accuracies, p and how trials were split."""
    if not new:  # trials without times were split without regard to overlap
        counts = {name: array.assign_attrs(align="") for name, array in counts.items()}
    paired = ns.pair_subjects(counts, **pairing)
    train, test = paired.split(0.25, seed=seed, blocks="auto" if new else None)
    began = time.process_time()
    model = ns.SharedLatentModel(epochs=0, seed=seed, progress=False).fit(train)
    scores = ns.separation(
        model.transform(train), model.transform(test), n_permutations=199, seed=seed,
        null="auto" if new else "shuffle",
    ).sel(level="trial")  # fmt: skip
    kept = {n: train.n_trials(n) + test.n_trials(n) for n in paired.subjects}
    return {
        "own": round(float(scores.mean_own), 4),
        "cross": round(float(scores.mean_cross), 4),
        "p_own": round(float(scores.p_mean_own), 4),
        "p_cross": round(float(scores.p_mean_cross), 4),
        "chance": round(float(scores.chance), 4),
        "orders": sorted(order.kind for order in paired.orders.values()),
        "stretched": len(train.stretched),
        "held_out": sum(test.n_trials(n) for n in paired.subjects),
        "left_out": sum(paired.n_trials(n) - kept[n] for n in paired.subjects),
        "trials": sum(paired.n_trials(n) for n in paired.subjects),
        "seconds": round(time.process_time() - began, 2),
    }


def table(rows):
    """Means over seeds, as lines of Markdown."""
    lines = [
        "| data | split | own | cross | chance | p own, largest | p cross, largest | held out | "
        "left out |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in DATA:
        for split in ("old", "new"):
            found = [r for k, r in rows.items() if k.startswith(f"{name} {split} ")]
            if not found:
                continue
            own, cross = ([r[k] for r in found] for k in ("own", "cross"))
            shares = [
                np.mean([r[k] / r["trials"] for r in found]) for k in ("held_out", "left_out")
            ]
            lines.append(
                f"| {name} | {split} | {np.mean(own):.3f} ± {np.std(own):.3f} | "
                f"{np.mean(cross):.3f} ± {np.std(cross):.3f} | {found[0]['chance']:.3f} | "
                f"{max(r['p_own'] for r in found):.3f} | {max(r['p_cross'] for r in found):.3f} | "
                f"{shares[0]:.0%} | {shares[1]:.0%} |"
            )
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("NEUROSHARE_DATA")
    parser.add_argument("--data", type=Path, default=default, required=default is None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "splits.json")
    options = parser.parse_args()
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    rows = known.get("rows", {})
    for name, how in DATA.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            counts, pairing = load(options.data / name, **how)
            for split in ("old", "new"):
                for seed in range(options.seeds):
                    key = f"{name} {split} {seed}"
                    if key in rows:
                        continue
                    rows[key] = scored(counts, pairing, seed, split == "new")
                    print(key, rows[key], flush=True)
                    text = json.dumps({**provenance(*PACKAGES), "rows": rows}, indent=1)
                    options.out.write_text(text + "\n")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
