"""Do shared latents beat linear alignment on four real mice? Run: python -m benchmarks.mice.

Four hippocampal recordings, trials paired by condition (left, right, none), a quarter of the trials
held out, windows of 100 ms within 50-400 ms of the stimulus. For every split seed the default
`SharedLatentModel` and the linear baselines are fitted on the same training trials and scored on
the same held-out ones. Each baseline takes its width, number of components and ridge from
validation trials inside the training part: one choice by cross accuracy, one by imputation. The
models have no such choice; their defaults stand.

Every seed is written as it is done, and a later run continues with those that are missing.
"""

import argparse
import itertools
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
CONDITIONS = ("left", "right", "none")
SPAN = (0.05, 0.4)
SCORES = ("own", "cross", "bits")

GRID = {
    "procrustes": [{"latent_dim": k} for k in (2, 4, 8)],
    "mcca": [
        {"latent_dim": k, "n_components": n, "ridge": ridge}
        for k, (n, ridge) in itertools.product(
            (2, 4, 8), ((40, 0.5), (80, 1.0), (150, 1.0), (150, 3.0))
        )
    ],
    "srm": [
        {"latent_dim": k, "n_components": n} for k, n in itertools.product((2, 4, 8), (40, 150))
    ],
}
"""Settings among which each linear baseline chooses on validation trials."""


def load(folder, span=SPAN, subjects=None, half=None):
    """Pair the mice; `half` 0 or 1 keeps a random half of everyone's units."""
    counts = {}
    for path in sorted(folder.glob("*.nwb")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session = ns.read_nwb(path)
        if subjects is None or session.subject in subjects:
            counts[session.subject] = ns.bin_spikes(session, span=span)
    if half is not None:
        rng = np.random.default_rng(0)
        for name, array in counts.items():
            order = rng.permutation(array.sizes["unit"])
            counts[name] = array.isel(unit=np.sort(order[half::2]))
    return ns.pair_subjects(counts, by="condition", conditions=CONDITIONS)


def accuracies(model, train, test):
    """Mean own and cross balanced accuracy per trial."""
    scores = ns.separation(model.transform(train), model.transform(test)).sel(level="trial")
    return {"own": float(scores.mean_own), "cross": float(scores.mean_cross)}


class _Level:
    """A model whose imputed activity is its mean over the lags of the window.

    Windows slide, so that expected counts hardly depend on the lag; a read-out that has a rate for
    every lag only pays for it. Levelling all models keeps that out of the comparison, to the
    advantage of the linear ones.
    """

    def __init__(self, model):
        self.model = model

    def impute(self, paired, target, source=None):
        expected = self.model.impute(paired, target=target, source=source)
        return expected.mean("lag").broadcast_like(expected).transpose(*expected.dims)


def bits(model, train, test):
    """Bits per spike from all other animals, mean over targets."""
    scores = ns.imputation_scores(_Level(model), train, test)
    return float(scores.bits_per_spike.sel(source="all others").mean())


def pairs(model, train, test):
    """Bits per spike of every source and target, above the mean rate and above the PSTH."""
    scores = ns.imputation_scores(_Level(model), train, test)
    return {
        name: {
            f"{source} -> {target}": round(float(value), 6)
            for source, row in zip(scores.source.values, scores[variable].values, strict=True)
            for target, value in zip(scores.target.values, row, strict=True)
            if np.isfinite(value)
        }
        for name, variable in (("mean_rate", "bits_per_spike"), ("psth", "above_psth"))
    }


def scored(model, train, test):
    """All scores; imputation on windows that overlap by half."""
    return {
        **accuracies(model, train, test),
        "bits": bits(model, train.thinned(), test.thinned()),
    }


def chosen(method, train, seed):
    """Best settings of a baseline on validation trials: by cross accuracy, and by imputation."""
    inner, validation = train.thinned().split(0.25, seed=1000 + seed)
    tried = []
    for settings in GRID[method]:
        model = ns.LinearAlignment(method, **settings).fit(inner)
        tried.append(
            (
                accuracies(model, inner, validation)["cross"],
                bits(model, inner, validation),
                settings,
            )
        )
    return max(tried, key=lambda t: t[0]), max(tried, key=lambda t: t[1])


def one_seed(paired, seed, objectives):
    """Scores of every model on one split."""
    train, test = paired.split(0.25, seed=seed)
    found = {}
    by_cross, by_bits = {}, {}
    for method in GRID:
        first, second = chosen(method, train, seed)
        by_cross[method], by_bits[method] = first, second
        model = ns.LinearAlignment(method, **first[2]).fit(train)
        found[method] = {**accuracies(model, train, test), "settings": first[2]}
        if second[2] != first[2]:
            model = ns.LinearAlignment(method, **second[2]).fit(train)
        found[method] |= {
            "bits": bits(model, train.thinned(), test.thinned()),
            "settings_bits": second[2],
        }
    # Which baseline is best is chosen on validation trials as well.
    best = max(by_cross, key=lambda m: by_cross[m][0])
    best_bits = max(by_bits, key=lambda m: by_bits[m][1])
    found["best linear"] = {
        "own": found[best]["own"],
        "cross": found[best]["cross"],
        "bits": found[best_bits]["bits"],
        "method": best,
        "method_bits": best_bits,
    }
    for objective in objectives:
        begun = time.perf_counter()
        settings = {"progress": False, "seed": seed}
        fitted_on = train
        if objective == "start":
            # Where the defaults begin: what training adds is the difference.
            settings |= {"epochs": 1, "lr": 1e-12}
        elif objective == "re-paired":
            # The null: partners of any condition, everything else as it is.
            fitted_on = train.repair(seed, shuffle_conditions=True)
        else:
            settings["objective"] = objective
        model = ns.SharedLatentModel(**settings).fit(fitted_on)
        seconds = round(time.perf_counter() - begun, 1)
        found[objective] = {**scored(model, train, test), "fit_seconds": seconds}
        if objective == "mmvm":
            found[objective]["pairs"] = pairs(model, train.thinned(), test.thinned())
    return found


def summary(seeds, n_bootstraps=10_000):
    """Means over seeds, and paired differences to the baselines with bootstrap intervals."""
    rows = list(seeds.values())
    names = [name for name in rows[0] if all(name in row for row in rows)]
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(rows), size=(n_bootstraps, len(rows)))
    told = {"mean": {}, "sd": {}, "difference": {}}
    values = {n: {s: np.array([row[n][s] for row in rows]) for s in SCORES} for n in names}
    for name in names:
        told["mean"][name] = {s: round(float(values[name][s].mean()), 5) for s in SCORES}
        told["sd"][name] = {s: round(float(values[name][s].std(ddof=1)), 5) for s in SCORES}
    baselines = [*GRID, "best linear"]
    for name in names:
        if name in baselines:
            continue
        for other in [*baselines, *(n for n in ("start",) if n in names and n != name)]:
            for score in SCORES:
                difference = values[name][score] - values[other][score]
                low, high = np.quantile(difference[drawn].mean(axis=1), [0.025, 0.975])
                told["difference"].setdefault(f"{name} - {other}", {})[score] = {
                    "mean": round(float(difference.mean()), 5),
                    "low": round(float(low), 5),
                    "high": round(float(high), 5),
                    "seeds_above": int((difference > 0).sum()),
                }
    of_pairs = [row["mmvm"]["pairs"] for row in rows if "mmvm" in row]
    for reference in ("mean_rate", "psth") if len(of_pairs) == len(rows) else ():
        for pair in of_pairs[0][reference]:
            each = np.array([row[reference][pair] for row in of_pairs])
            low, high = np.quantile(each[drawn].mean(axis=1), [0.025, 0.975])
            told.setdefault("pairs", {}).setdefault(reference, {})[pair] = {
                "mean": round(float(each.mean()), 5),
                "low": round(float(low), 5),
                "high": round(float(high), 5),
                "seeds_above": int((each > 0).sum()),
            }
    return told


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="number of split seeds, from 0")
    parser.add_argument("--objectives", nargs="*", default=["start", "mmvm"])
    parser.add_argument("--span", nargs=2, type=float, default=SPAN, help="seconds")
    parser.add_argument("--subjects", nargs="*", help="only these mice")
    parser.add_argument("--half", type=int, choices=(0, 1), help="a random half of the units")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "mice.json")
    arguments = parser.parse_args()
    data = arguments.data or (
        Path(os.environ.get("NEUROSHARE_DATA", HERE.parent.parent / "shared" / "data")) / "mice-nwb"
    )
    paired = load(data, tuple(arguments.span), arguments.subjects, arguments.half)
    design = {
        "span": list(arguments.span),
        "subjects": list(paired.subjects),
        "half": arguments.half,
        "conditions": list(CONDITIONS),
        "test_fraction": 0.25,
        "grid": GRID,
        "objectives": arguments.objectives,
    }
    seeds = {}
    if arguments.out.exists():
        before = json.loads(arguments.out.read_text(encoding="utf-8"))
        if before["design"] != design:
            raise SystemExit(
                f"{arguments.out} holds another design; give another --out or delete it."
            )
        seeds = before["seeds"]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        if str(seed) in seeds:
            continue
        seeds[str(seed)] = one_seed(paired, seed, arguments.objectives)
        result = {"design": design, **provenance(*PACKAGES), "seeds": seeds}
        if len(seeds) > 1:
            result |= summary(seeds)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        row = seeds[str(seed)]
        told = "; ".join(
            f"{name} " + " ".join(f"{row[name][score]:.4f}" for score in SCORES)
            for name in ("best linear", *arguments.objectives)
        )
        print(f"seed {seed} (own, cross, bits per spike): {told}", flush=True)


if __name__ == "__main__":
    main()
