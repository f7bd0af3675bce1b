"""Binning a large recording: this package, plain numpy and pynapple, in turn in one process.

9.6 million spikes of 500 units into 400 trials x 400 bins of 10 ms. Run as

    python -m benchmarks.binning [--repeats 5] [--out benchmarks/results/binning.json]

Every method returns the same counts, which is checked. ``one pass`` only reads the spike times
once (their sum): no method that looks at every spike can be faster. pynapple is optional.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd

import neuroshare as ns
from benchmarks.provenance import provenance

UNITS, SPIKES, TRIALS, BINS, BIN_SIZE = 500, 19_200, 400, 400, 0.01
SPAN = (-2.0, 2.0)


def recording(seed=0):
    rng = np.random.default_rng(seed)
    spikes = [np.sort(rng.uniform(0, 8.0 * TRIALS, SPIKES)) for _ in range(UNITS)]
    onset = 8.0 * np.arange(TRIALS) + 3.0
    trials = pd.DataFrame({"start_time": onset, "stop_time": onset + 1.0})
    return ns.Session("simulated", spikes, trials=trials)


def ours(session):
    return ns.bin_spikes(session, span=SPAN, bin_size=BIN_SIZE).values


def plain_numpy(session):
    """searchsorted for the trials, division for the bins, bincount per unit."""
    onset = session.trials.start_time.to_numpy()
    begin = onset + SPAN[0]
    counts = np.empty((TRIALS, UNITS, BINS), dtype=np.int16)
    for u, times in enumerate(session.spike_times):
        trial = np.searchsorted(begin, times, side="right") - 1
        k = ((times - begin[trial]) / BIN_SIZE).astype(np.intp)
        inside = (trial >= 0) & (k < BINS)
        cell = trial[inside] * BINS + k[inside]
        counts[:, u] = np.bincount(cell, minlength=TRIALS * BINS).reshape(TRIALS, BINS)
    return counts


def one_pass(session):
    return sum(times.sum() for times in session.spike_times)


def with_pynapple(nap, session):
    group = nap.TsGroup(
        {u: nap.Ts(times) for u, times in enumerate(session.spike_times)},
        time_support=nap.IntervalSet(-10.0, 8.0 * TRIALS + 10.0),
    )
    onset = session.trials.start_time.to_numpy()
    epochs = nap.IntervalSet(onset + SPAN[0], onset + SPAN[1])
    return lambda: nap.build_tensor(group, epochs, bin_size=BIN_SIZE).transpose(1, 0, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", default=Path(__file__).parent / "results" / "binning.json")
    arguments = parser.parse_args()
    session = recording()
    methods = {
        "neuroshare": lambda: ours(session),
        "plain numpy": lambda: plain_numpy(session),
        "one pass": lambda: one_pass(session),
    }
    packages = ["numpy"]
    try:
        import pynapple as nap
    except ImportError:
        print("pynapple is not installed: left out.")
    else:
        packages.append("pynapple")
        # Building its objects is not counted.
        methods["pynapple"] = with_pynapple(nap, session)
    seconds = {name: {"wall": [], "cpu": []} for name in methods}
    agree = {}
    expected = ours(session)
    for repeat in range(arguments.repeats + 1):
        for name, method in methods.items():
            wall, cpu = time.perf_counter(), time.process_time()
            result = method()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if repeat:  # the first round warms up caches and compilers
                seconds[name]["wall"].append(wall)
                seconds[name]["cpu"].append(cpu)
            elif name != "one pass":
                # pynapple rounds times to a nanosecond and builds its edges otherwise: a spike
                # beside an edge may land in the next bin.
                agree[name] = float(np.mean(np.asarray(result) == expected))
            del result
    results = {
        name: {
            kind: {
                name: round(float(value), 4)
                for name, value in (("median", np.median(s)), ("min", min(s)), ("max", max(s)))
            }
            for kind, s in kinds.items()
        }
        for name, kinds in seconds.items()
    }
    for name, kinds in results.items():
        # Of CPU times, which other work on the machine disturbs less.
        own = results["neuroshare"]["cpu"]["median"]
        kinds["cpu_over_neuroshare"] = kinds["cpu"]["median"] / own
        if name in agree:
            kinds["share_of_equal_cells"] = agree[name]
        print(
            f"{name:12s} wall {kinds['wall']['median']:.3f} s "
            f"({kinds['wall']['min']:.3f}-{kinds['wall']['max']:.3f}), "
            f"CPU {kinds['cpu']['median']:.3f} s, {kinds['cpu_over_neuroshare']:.2f} x neuroshare"
        )
    document = {
        "what": f"{UNITS * SPIKES} spikes, {UNITS} units, {TRIALS} trials x {BINS} bins",
        "device": f"{platform.machine()} CPU, {os.cpu_count()} cores, one thread",
        **provenance(*packages),
        "repeats": arguments.repeats,
        "seconds": results,
    }
    Path(arguments.out).write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
