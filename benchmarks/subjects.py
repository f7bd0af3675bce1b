"""What does one more animal cost? Run: python -m benchmarks.subjects.

Simulated subjects of 40 units and 80 trials of four conditions, 100 ms windows, small networks.
Each size is a process of its own: seconds per subject and epoch of training (from fits of two
lengths, so that what happens once drops out), seconds of everything that happens once, and peak
memory. Three kinds of model: the default, the paper's pairwise bound from a random start, and the
mixture bound with all partners, whose time is quadratic in the subjects.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.provenance import provenance

HERE = Path(__file__).parent
SIZES = (8, 32, 64, 128, 256, 512)
N_UNITS, N_TRIALS, N_BINS = 40, 80, 40
EPOCHS = (1, 4)


def recording(n_subjects, seed=0):
    """Counts of subjects whose units follow two latents of the condition."""
    import xarray as xr

    rng = np.random.default_rng(seed)
    labels = np.arange(N_TRIALS) % 4
    course = rng.normal(size=(4, 2, N_BINS)).cumsum(-1) / 6
    counts = {}
    for subject in range(n_subjects):
        weights = rng.normal(size=(N_UNITS, 2)) / 2
        rate = 0.1 * np.exp(np.einsum("uk,tkb->tub", weights, course[labels]))
        counts[f"s{subject:03d}"] = xr.DataArray(
            rng.poisson(np.minimum(rate, 5)).astype(np.int16),
            dims=("trial", "unit", "time"),
            coords={"odor": ("trial", labels), "time": (np.arange(N_BINS) + 0.5) * 0.01},
            attrs={"bin_size": 0.01},
        )
    return counts


def model(kind, epochs):
    import neuroshare as ns

    settings = {"epochs": epochs, "hidden": (32,), "batch_size": 128, "progress": False}
    if kind == "default":
        return ns.SharedLatentModel(**settings)
    return ns.SharedLatentModel(**settings, init="random", objective=ns.MMVM(bound=kind))


def one_size(kind, n_subjects):
    """Run in a process of its own: times and peak memory."""
    import torch

    import neuroshare as ns

    torch.set_num_threads(1)
    paired = ns.pair_subjects(recording(n_subjects), by="odor", step=0.02)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = []
    for epochs in (EPOCHS[0], *EPOCHS):  # the first warms up
        begun = time.process_time()
        model(kind, epochs).fit(paired)
        cpu.append(time.process_time() - begun)
    per_epoch = (cpu[2] - cpu[1]) / (EPOCHS[1] - EPOCHS[0])
    return {
        "ms_per_subject_epoch": round(1e3 * per_epoch / n_subjects, 3),
        "once_s": round(cpu[1] - per_epoch * EPOCHS[0], 3),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "before_fit_mib": round(before, 1),
    }


def plot(results, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for kind, sizes in results.items():
        x = [int(size) for size in sizes]
        time_axes.plot(x, [row["ms_per_subject_epoch"] for row in sizes.values()], "o-", label=kind)
        memory_axes.plot(x, [row["peak_mib"] for row in sizes.values()], "o-", label=kind)
    time_axes.set(xscale="log", xlabel="subjects", ylabel="CPU ms per subject and epoch")
    top = max(row["ms_per_subject_epoch"] for sizes in results.values() for row in sizes.values())
    time_axes.set_ylim(0, 1.1 * top)
    time_axes.minorticks_off()
    memory_axes.set(xlabel="subjects", ylabel="peak memory (MiB)", ylim=(0, None))
    time_axes.set_xticks(x, [str(size) for size in x])
    time_axes.legend()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--kinds", nargs="+", default=["default", "pairwise", "mixture"])
    parser.add_argument("--one", nargs=2, metavar=("KIND", "SIZE"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "subjects.json")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one_size(arguments.one[0], int(arguments.one[1]))))
        return
    results = {}
    for kind in arguments.kinds:
        for size in arguments.sizes:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.subjects", "--one", kind, str(size)],
                capture_output=True, text=True, check=True, cwd=HERE.parent,
            )  # fmt: skip
            row = results.setdefault(kind, {})[str(size)] = json.loads(done.stdout)
            print(kind, size, row, flush=True)
    document = {
        "what": f"{N_UNITS} units, {N_TRIALS} trials, {N_BINS} bins per subject; one thread",
        **provenance("torch", "numpy"),
        "results": results,
    }
    arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    plot(results, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
