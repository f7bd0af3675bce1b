"""Whether p-values are uniform where there is nothing to find.

``python -m benchmarks.calibration [--simulations 400]`` simulates subjects whose spikes hold no
information about the condition, fits a linear alignment to each simulation, and collects the
p-values of `separation` (own and cross, per window and per trial) and of the condition information
left in residuals. Ties between the observed score and its null, which has few values for few
trials, are broken at random, as calibration needs; the reported p of the package counts them all
and is therefore a little conservative.

``python -m benchmarks.calibration --design blocked [--simulations 200] [--model start]`` simulates
odors that come in runs, in activity that drifts over the session and knows nothing of them. `split`
and `separation` do what they do by themselves; beside them stands what they did before: trials held
out at random and labels shuffled. ``--model start`` is the default model before training,
``--model trained`` the default model, in the longer runs only. A later run continues with the draws
that are missing.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kstest

import neuroshare as ns
from benchmarks.provenance import provenance
from neuroshare.analysis.inference import p_value

UNITS = {"a": 10, "b": 12, "c": 8}
TRIALS_PER_ODOR = {"a": 12, "b": 10, "c": 14}  # unequal, so that partners are used again
ODORS = ("A", "B")
N_PERMUTATIONS = 199
RESULTS = Path(__file__).parent / "results"

BLOCKED_UNITS = {"a": 20, "b": 24, "c": 16, "d": 18}
BLOCKED: dict[str, dict[str, int]] = {
    "16 runs of 10 trials": {"n_trials": 40, "runs": 4},
    "40 runs of 4 trials": {"n_trials": 40, "runs": 10},
}
DRIFT = 3.0
"""Standard deviation of a unit's log rate after the session's random walk."""
START: dict[str, Any] = {"epochs": 0, "latent_dim": 3, "inputs": "pooled", "init": "mcca"}
"""The start of the model with nothing to choose."""
N_OLD = 50
"""Draws that are also scored as they were before."""


def p_values(seed: int) -> dict[str, float]:
    """One simulation without information: name of the test -> p."""
    sessions = ns.simulate_sessions(
        UNITS, n_trials=TRIALS_PER_ODOR, seed=seed, signal=0.0, odors=ODORS, mean_rate=6.0
    )
    counts = {name: ns.bin_spikes(session, span=(0.0, 0.3)) for name, session in sessions.items()}
    train, test = ns.pair_subjects(counts, by="odor", step=0.05, seed=seed).split(0.5, seed=seed)
    model = ns.LinearAlignment("mcca", latent_dim=3, n_repairs=5).fit(train)
    scores = ns.separation(
        model.transform(train), model.transform(test), n_permutations=N_PERMUTATIONS, seed=seed
    )
    rng = np.random.default_rng([seed, 1])
    found = {}
    for kind in ("mean_own", "mean_cross"):
        for level in ("window", "trial"):
            at = scores.sel(level=level)
            found[f"{kind}, per {level}"] = p_value(at[kind], at[f"null_{kind}"], rng)
    left = ns.residuals(
        model, test, train, n_repairs=2, n_folds=2, n_permutations=N_PERMUTATIONS, seed=seed
    )
    subject = list(UNITS)[seed % len(UNITS)]
    for level in ("window", "trial"):
        at = left.sel(level=level, subject=subject)
        null = at["null_information_residual"]
        found[f"residual, per {level}"] = p_value(at["information_residual"], null, rng)
    return {name: float(p) for name, p in found.items()}


def summary(p: list[float]) -> dict[str, float]:
    """Kolmogorov-Smirnov p against uniform, and how often p <= 0.05."""
    values = np.array(p)
    # p takes m + 1 values with equal probability; spread evenly, it is uniform on (0, 1).
    spread = values - np.random.default_rng(0).uniform(0, 1 / (N_PERMUTATIONS + 1), len(values))
    test = kstest(spread, "uniform")
    return {
        "mean": round(float(values.mean()), 4),
        "ks_statistic": round(float(test.statistic), 4),
        "ks_p": round(float(test.pvalue), 4),
        "false_positive_rate": float(np.mean(values <= 0.05)),
    }


def twentieths(p: list[float]) -> list[int]:
    """How many p-values fall into each twentieth of (0, 1]."""
    return np.histogram(p, np.linspace(0, 1, 21) + 1e-9)[0].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--design", choices=("interleaved", "blocked"), default="interleaved")
    parser.add_argument("--model", choices=("start", "trained"), default="start")
    parser.add_argument("--simulations", type=int)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.design == "blocked":
        name = {"start": "calibration_blocked", "trained": "calibration_blocked_trained"}
        out = arguments.out or RESULTS / f"{name[arguments.model]}.json"
        blocked_designs(arguments.simulations or 200, arguments.model == "trained", out)
    else:
        out = arguments.out or RESULTS / "calibration.json"
        interleaved_design(arguments.simulations or 400, out)


def interleaved_design(n_simulations: int, out: Path) -> None:
    """Collect p-values of interleaved odors without drift, and write their distribution."""
    runs = [p_values(seed) for seed in range(n_simulations)]
    collected = {name: [run[name] for run in runs] for name in runs[0]}
    results = {
        "neuroshare": ns.__version__,
        "simulations": n_simulations,
        "permutations": N_PERMUTATIONS,
        "units": UNITS,
        "trials_per_odor": TRIALS_PER_ODOR,
        "tests": {name: summary(p) for name, p in collected.items()},
        "twentieths": {name: twentieths(p) for name, p in collected.items()},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, found in results["tests"].items():
        print(
            f"{name}: Kolmogorov-Smirnov p {found['ks_p']:.3f}, "
            f"false positives at 0.05: {found['false_positive_rate']:.3f}"
        )


# ---------------------------------------------------------------- odors in runs, and drift


def blocked_draw(design: str, seed: int, trained: bool) -> dict[str, Any]:
    """One simulation of odors in runs: accuracies and p per trial, by today's way and the old."""
    sessions = ns.simulate_sessions(
        BLOCKED_UNITS, seed=seed, signal=0.0, mean_rate=6.0, drift=DRIFT, **BLOCKED[design]
    )
    counts = {name: ns.bin_spikes(session, span=(0.0, 0.3)) for name, session in sessions.items()}
    paired = ns.pair_subjects(counts, by="odor", step=0.05, seed=seed)
    row: dict[str, Any] = {"kinds": sorted(order.kind for order in paired.orders.values())}
    settings = {} if trained else START
    for way in ("new", "old") if seed < N_OLD and not trained else ("new",):
        try:
            train, test = paired.split(0.25, seed=seed, blocks="auto" if way == "new" else None)
        except ValueError as error:
            row[way] = {"refused": str(error)}
            continue
        model = ns.SharedLatentModel(seed=seed, progress=False, **settings).fit(train)
        scores = ns.separation(
            model.transform(train), model.transform(test), n_permutations=N_PERMUTATIONS, seed=seed,
            null="auto" if way == "new" else "shuffle", pooled=False,
        ).sel(level="trial")  # fmt: skip
        row[way] = {
            "own": round(float(scores.mean_own), 4),
            "cross": round(float(scores.mean_cross), 4),
            "p_own": round(float(scores.p_mean_own), 5),
            "p_cross": round(float(scores.p_mean_cross), 5),
            "p_floor": [round(float(p), 4) for p in scores.p_floor],
        }
    return row


def blocked_summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rates of p <= 0.05 among all draws; one that got no p is no false positive."""
    found: dict[str, Any] = {"draws": len(rows)}
    found["orders"] = {
        kind: sum(row["kinds"].count(kind) for row in rows)
        for kind in ("interleaved", "clumped", "runs", "confounded")
    }
    for way in ("new", "old"):
        asked = [row[way] for row in rows if way in row]
        if not asked:
            continue
        known = [one for one in asked if "refused" not in one]
        found[way] = {"draws": len(asked), "refused": len(asked) - len(known)}
        for kind in ("own", "cross"):
            p = np.array([one[f"p_{kind}"] for one in known], float)
            accuracy = [one[kind] for one in known]
            found[way][kind] = {
                "accuracy": round(float(np.mean(accuracy)), 4),
                "sd": round(float(np.std(accuracy)), 4),
                "without_p": int(np.isnan(p).sum()),
                "false_positives": int((p <= 0.05).sum()),
                "false_positive_rate": round(float((p <= 0.05).sum() / len(asked)), 4),
            }
    return found


def blocked_designs(n_simulations: int, trained: bool, out: Path) -> None:
    """Collect draws of every design that are not known yet, and write them as they are done."""
    known = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    rows: dict[str, dict[str, Any]] = known.get("rows", {})
    results: dict[str, Any] = {}
    for seed in range(n_simulations):
        for design in list(BLOCKED)[:1] if trained else BLOCKED:
            of_design = rows.setdefault(design, {})
            if str(seed) not in of_design:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    of_design[str(seed)] = blocked_draw(design, seed, trained)
                results = {
                    **provenance("numpy", "scipy", "scikit-learn", "torch", "xarray"),
                    "model": "default" if trained else f"before training: {START}",
                    "permutations": N_PERMUTATIONS,
                    "units": BLOCKED_UNITS,
                    "drift": DRIFT,
                    "designs": BLOCKED,
                    "summary": {k: blocked_summary(list(v.values())) for k, v in rows.items() if v},
                    "rows": rows,
                }
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(results, indent=None) + "\n", encoding="utf-8")
    for design, of_design in rows.items():
        found = blocked_summary(list(of_design.values()))
        print(design, found["draws"], "draws, orders", found["orders"])
        for way in found.keys() & {"new", "old"}:
            print(" ", way, found[way])


if __name__ == "__main__":
    main()
