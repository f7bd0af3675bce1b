"""All eight objectives on the same data, by the default recipe and honest scores: one table.

    python -m benchmarks.objectives --mice FOLDER --out DIR [--jobs 2]

FOLDER holds NWB files of four mice (hippocampus; Steinmetz et al. 2019) with a trial column
`condition`: left, right, none. The simulated rats need nothing. A quarter of the trials is held
out, three splits; a stopped run continues with the same command.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

import neuroshare as ns
from benchmarks.rats import OBJECTIVES, origin, rows_of
from neuroshare.vae.objectives import MoPoE

SEEDS = 3
COLUMNS = {
    "own_trial": "own",
    "cross_trial": "cross",
    "own_window": "own, window",
    "cross_window": "cross, window",
    "coherence": "coherence",
    "bits_per_spike": "bits/spike",
    "mse_self": "error, self",
    "mse_joint": "error, joint",
}
BASELINES = ("procrustes", "mcca")


def mice(folder):
    sessions = [ns.read_nwb(path) for path in sorted(folder.glob("*.nwb"))]
    counts = {s.subject: ns.bin_spikes(s, align="start_time", span=(0.05, 0.4)) for s in sessions}
    return ns.pair_subjects(
        counts, by="condition", conditions=["left", "none", "right"], width=0.1, step=0.02
    )


def rats():
    sessions = ns.simulate_sessions(n_trials=30, seed=0)
    counts = {
        n: ns.bin_spikes(s, align="start_time", span=(0.05, 0.4)) for n, s in sessions.items()
    }
    return ns.pair_subjects(counts, by="odor", width=0.1, step=0.02)


def score_linear(method, train, test):
    """The scores of a linear alignment that the objectives' table has as well."""
    model = ns.LinearAlignment(method).fit(train)
    accuracy = ns.separation(model.transform(train), model.transform(test), by=test.by)
    imputed = ns.imputation_scores(model, train, test)
    pairs = imputed.sel(source=list(test.subjects))
    scores = {name: float(pairs[name].mean()) for name in ("coherence", "bits_per_spike")}
    for level in ("window", "trial"):
        scores[f"own_{level}"] = float(accuracy.mean_own.sel(level=level))
        scores[f"cross_{level}"] = float(accuracy.mean_cross.sel(level=level))
    for name, source in (("mse_self", "self"), ("mse_joint", list(test.subjects))):
        errors = [
            model.impute(test, target, target if source == "self" else source) - test[target].values
            for target in test.subjects
        ]
        scores[name] = float(np.mean([np.square(error).mean() for error in errors]))
    return scores


def run(paired, data, out, jobs):
    default = ns.SharedLatentModel()
    objectives = {name: name for name in OBJECTIVES}
    # All 31 subsets of five rats cost much and change little.
    objectives["mopoe"] = MoPoE(n_subsets=8)
    tables = []
    for seed in range(SEEDS):
        train, test = paired.split(0.25, seed=seed)
        table = ns.sweep(
            train, test, out, objectives=objectives, betas=[default.beta], seeds=[seed],
            executor=jobs, progress=False,
        )  # fmt: skip
        linear = [{"objective": m, "seed": seed, **score_linear(m, train, test)} for m in BASELINES]
        tables += [table, pd.DataFrame(linear)]
        print(f"{data}: split {seed} is done", flush=True)
    return pd.concat(tables, ignore_index=True).assign(data=data)


def markdown(table):
    names = list(COLUMNS.values())
    lines = []
    for data, part in table.groupby("data", sort=False):
        lines += ["", f"**{data}**", "", "| objective | " + " | ".join(names) + " |"]
        lines.append("|---|" + "---|" * len(names))
        # Linear alignments are no objectives: they go last.
        order = [*OBJECTIVES, *BASELINES]
        grouped = part.groupby("objective")[list(COLUMNS)]
        mean, low, high = grouped.mean(), grouped.min(), grouped.max()
        for name in order:
            cells = []
            for column in COLUMNS:
                if column.startswith("mse"):
                    cells.append(f"{mean.loc[name, column]:.4f}")
                    continue
                value = f"{mean.loc[name, column]:.2f}"
                if column in ("own_trial", "cross_trial"):
                    value += f" ({low.loc[name, column]:.2f}-{high.loc[name, column]:.2f})"
                cells.append(value)
            label = f"*{name}, linear*" if name in BASELINES else name
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mice", type=Path, help="folder of NWB files; left out if not given")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, help="number of processes; default: this one")
    options = parser.parse_args()
    source = origin()  # of the code as it was loaded
    tables = [run(rats(), "five simulated rats, odor (chance 0.25)", options.out, options.jobs)]
    if options.mice is not None:
        name = "four mice, hippocampus: left, right, none (chance 0.33)"
        tables.insert(0, run(mice(options.mice), name, options.out, options.jobs))
    table = pd.concat(tables, ignore_index=True)
    same, rows = rows_of(table)
    document = {
        "what": "all objectives, default recipe; scores on held-out trials, 25 %, three splits",
        **source,
        "same_in_all_runs": same,
        "runs": rows,
    }
    path = options.out / "objectives.json"
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    print(markdown(table))


if __name__ == "__main__":
    main()
