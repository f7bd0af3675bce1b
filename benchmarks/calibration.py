"""Whether p-values are uniform where there is nothing to find.

``python -m benchmarks.calibration [--simulations 400] [--out benchmarks/results/calibration.json]``
simulates subjects whose spikes hold no information about the condition, fits a linear alignment to
each simulation, and collects the p-values of `separation` (own and cross, per window and per trial)
and of the condition information left in residuals. Ties between the observed score and its null,
which has few values for few trials, are broken at random, as calibration needs; the reported p of
the package counts them all and is therefore a little conservative.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import kstest

import neuroshare as ns
from neuroshare.analysis.inference import p_value

UNITS = {"a": 10, "b": 12, "c": 8}
TRIALS_PER_ODOR = {"a": 12, "b": 10, "c": 14}  # unequal, so that partners are used again
ODORS = ("A", "B")
N_PERMUTATIONS = 199


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
    parser.add_argument("--simulations", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/calibration.json"))
    arguments = parser.parse_args()
    runs = [p_values(seed) for seed in range(arguments.simulations)]
    collected = {name: [run[name] for run in runs] for name in runs[0]}
    results = {
        "neuroshare": ns.__version__,
        "simulations": arguments.simulations,
        "permutations": N_PERMUTATIONS,
        "units": UNITS,
        "trials_per_odor": TRIALS_PER_ODOR,
        "tests": {name: summary(p) for name, p in collected.items()},
        "twentieths": {name: twentieths(p) for name, p in collected.items()},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, found in results["tests"].items():
        print(
            f"{name}: Kolmogorov-Smirnov p {found['ks_p']:.3f}, "
            f"false positives at 0.05: {found['false_positive_rate']:.3f}"
        )


if __name__ == "__main__":
    main()
