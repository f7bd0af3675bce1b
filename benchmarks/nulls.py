"""How long a null of refits takes. Run: python -m benchmarks.nulls [--data FOLDER]

200 refits of the untrained start to labels that say nothing, through `compare`, on the four mice
and on ten odor recordings: CPU seconds and wall time of all of it, reading left out; and of one
refit as a fit of its own, `fit`, `transform` and `separation`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.provenance import provenance

HERE = Path(__file__).parent
SETS = {
    "four mice": ("mice-nwb", "condition", "start_time"),
    "ten odor recordings": ("odor_aPCx_15", "odor", "inhalation_time"),
}
START = {"latent_dim": 8, "inputs": "pooled", "epochs": 0, "progress": False}


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """CPU and wall."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def measured(name: str, data: Path, rounds: int, n: int) -> dict[str, Any]:
    """All of it, and one refit alone."""
    import neuroshare as ns
    from neuroshare.support.threads import one_blas_thread

    folder, by, align = SETS[name]
    counts = {}
    for file in sorted((data / folder).glob("*.nwb")):
        counts[file.stem] = ns.bin_spikes(ns.read_nwb(file), align=align, span=(0.0, 0.4))
    train, test = ns.pair_subjects(counts, by=by).split()
    models = {"start": ns.SharedLatentModel(**START)}
    how = {"baselines": False, "imputation": False, "n_bootstraps": 0}

    def refitted() -> None:
        drawn = [part.repair(1, shuffle_conditions=True) for part in (train, test)]
        model = ns.SharedLatentModel(**START).fit(drawn[0])
        ns.separation(*map(model.transform, drawn))

    told: dict[str, Any] = {}
    with warnings.catch_warnings(), one_blas_thread():
        warnings.simplefilter("ignore")
        refitted()
        for kind, work in (
            (f"{n} refits", lambda: ns.compare(train, test, models, n_repairings=n, **how)),
            ("one refit alone", refitted),
        ):
            found = [seconds(work) for _ in range(rounds)]
            for unit, values in zip(("cpu", "wall"), zip(*found, strict=True), strict=True):
                told[f"{kind}, {unit}"] = {
                    "median": round(statistics.median(values), 3),
                    "min": round(min(values), 3),
                    "max": round(max(values), 3),
                }
    return {**told, "load": round(os.getloadavg()[0], 2)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.nulls", description=__doc__)
    default = os.environ.get("NEUROSHARE_DATA")
    parser.add_argument("--data", type=Path, default=default, required=default is None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--refits", type=int, default=200)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "nulls.json")
    options = parser.parse_args(argv)
    document: dict[str, Any] = {
        **provenance("torch", "numpy", "scipy", "scikit-learn"),
        "cores": os.cpu_count(),
        "rounds": options.rounds,
        "sets": {},
    }
    for name in SETS:
        found = measured(name, Path(options.data), options.rounds, options.refits)
        document["sets"][name] = found
        print(name, {k: v["median"] for k, v in found.items() if k != "load"}, flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
