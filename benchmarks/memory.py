"""Peak memory of a fit at growing overlap of the windows: it follows the counts alone.

``python -m benchmarks.memory [--out benchmarks/results/memory.json]`` fits five simulated rats in
one fresh process per step between windows, and prints the peak resident memory beside what the
windows would take if they were copied out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

STEPS = (0.08, 0.04, 0.01)  # seconds; 100 ms windows, so 1.25x to 10x overlap


def one_fit(step: float) -> dict[str, float]:
    import neuroshare as ns

    sessions = ns.simulate_sessions(n_trials=50)
    counts = {n: ns.bin_spikes(s, span=(-1.0, 1.0)) for n, s in sessions.items()}
    paired = ns.pair_subjects(counts, by="odor", width=0.1, step=step)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ns.SharedLatentModel(epochs=1, hidden=(16,), batch_size=512, progress=False).fit(paired)
    n_features = sum(len(units) for units in paired.units.values()) * paired.width
    return {
        "step": step,
        "windows": paired.sizes["window"],
        "counts_MiB": sum(a.size for a in counts.values()) / 2**20,
        "copied_windows_MiB": paired.sizes["window"] * n_features * 4 / 2**20,
        "before_fit_MiB": before,
        "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/memory.json"))
    parser.add_argument("--step", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(one_fit(arguments.step)))
        return
    results = []
    for step in STEPS:
        command = [sys.executable, "-m", "benchmarks.memory", "--step", str(step)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results.append(json.loads(printed.splitlines()[-1]))
        print({k: round(v, 2) for k, v in results[-1].items()})
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
