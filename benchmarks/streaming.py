"""A recording larger than the memory it may use: mapped counts against counts in memory.

``python -m benchmarks.streaming [--repeats 3] [--out benchmarks/results/streaming.json]`` bins and
fits two simulated animals, each way in a process of its own, and prints the peak of what the
process allocates (anonymous memory; pages of mapped files are the system's to take back) above what
it held after its imports. ``budget`` runs under a hard limit of that memory (Linux, RLIMIT_DATA),
smaller than the counts. All ways must give the same latents, to the last bit. At last the number of
trials grows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.provenance import provenance

SUBJECTS, UNITS, TRIALS, SECONDS, BIN_SIZE, RATE = ("a", "b"), 256, 80, 200.0, 0.01, 1.0
LENGTHS = (40, 80, 160)  # trials
BUDGET_MIB = 512
WAYS = {
    "in memory": {"cache": False, "bytes": None, "budget": False},
    "mapped, held on the device": {"cache": True, "bytes": None, "budget": False},
    "mapped, gathered from the file": {"cache": True, "bytes": "0", "budget": False},
    "mapped, gathered, under the budget": {"cache": True, "bytes": "0", "budget": True},
    "in memory, under the budget": {"cache": False, "bytes": None, "budget": True},
}


def recording(name: str, n_trials: int):
    import neuroshare as ns

    rng = np.random.default_rng([0, ord(name)])
    length = n_trials * SECONDS
    spikes = [np.sort(rng.uniform(0, length, int(RATE * length))) for _ in range(UNITS)]
    onset = SECONDS * np.arange(n_trials)
    side = ["left", "right"] * (n_trials // 2)
    trials = pd.DataFrame({"start_time": onset, "stop_time": onset + SECONDS, "side": side})
    return ns.Session(name, spikes, trials=trials)


def memory(kind: str) -> float:
    """MiB of this process: RssAnon, VmData, VmHWM, ..."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(kind)


class Peak:
    """Highest RssAnon while it is watched."""

    def __enter__(self):
        self.before = self.highest = memory("RssAnon")
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.stop.wait(0.005):
            self.highest = max(self.highest, memory("RssAnon"))

    def __exit__(self, *error):
        self.stop.set()
        self.thread.join()

    @property
    def above(self) -> float:
        return self.highest - self.before


def one(way: str, folder: str, n_trials: int) -> dict[str, object]:
    import neuroshare as ns

    settings = WAYS[way]
    if settings["bytes"] is not None:
        os.environ["NEUROSHARE_RESIDENT_BYTES"] = settings["bytes"]
    warnings.filterwarnings("ignore", message=".*do not fit")
    model = ns.SharedLatentModel(
        epochs=2, hidden=(16,), latent_dim=2, batch_size=512, device="cpu", progress=False
    )
    result: dict[str, object] = {"way": way, "trials": n_trials}
    if settings["budget"]:
        allowed = int((memory("VmData") + BUDGET_MIB) * 2**20)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    try:
        with Peak() as peak:
            began = time.perf_counter(), time.process_time()
            counts = {
                name: ns.bin_spikes(
                    recording(name, n_trials),
                    span=(0.0, SECONDS),
                    bin_size=BIN_SIZE,
                    cache=folder if settings["cache"] else None,
                )
                for name in SUBJECTS
            }
            binned = time.perf_counter(), time.process_time()
        result["counts_MiB"] = sum(array.nbytes for array in counts.values()) / 2**20
        result["bin_peak_MiB"] = peak.above
        result["bin_wall_s"] = binned[0] - began[0]
        # Before pairing, for its own share counts as well.
        with Peak() as fitting:
            fitting.before = peak.before
            paired = ns.pair_subjects(counts, by="side", width=0.1, step=0.5)
            train, test = paired.split(0.25)
            began = time.perf_counter(), time.process_time()
            latents = model.fit(train).transform(test).values
            result["fit_wall_s"] = time.perf_counter() - began[0]
            result["fit_cpu_s"] = time.process_time() - began[1]
        result["fit_peak_MiB"] = fitting.above
        result["windows"] = train.sizes["window"]
        result["latents"] = hashlib.blake2b(latents.tobytes(), digest_size=8).hexdigest()
    except (MemoryError, RuntimeError) as error:
        result["error"] = type(error).__name__
    result["peak_RSS_with_pages_of_files_MiB"] = memory("VmHWM")
    return result


def apart(way: str, folder: str, n_trials: int) -> dict[str, object]:
    """One way in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.streaming", "--way", way, "--folder", folder]
    printed = subprocess.run(
        [*command, "--trials", str(n_trials)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    ).stdout
    result: dict[str, object] = json.loads(printed.splitlines()[-1])
    print(result, flush=True)
    return result


def lengths() -> list[dict[str, object]]:
    found = []
    for n_trials in LENGTHS:
        with tempfile.TemporaryDirectory() as folder:
            found.append(apart("mapped, gathered from the file", folder, n_trials))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/streaming.json"))
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--trials", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(one(arguments.way, arguments.folder, arguments.trials)))
        return
    runs: dict[str, list[dict[str, object]]] = {way: [] for way in WAYS}
    for _ in range(arguments.repeats):
        # The first way that maps writes the counts, the others find them.
        with tempfile.TemporaryDirectory() as folder:
            for way in WAYS:
                runs[way].append(apart(way, folder, TRIALS))
    ended = {run["latents"] for several in runs.values() for run in several if "latents" in run}
    document = {
        "what": f"{len(SUBJECTS)} subjects x {TRIALS} trials x {UNITS} units x "
        f"{round(SECONDS / BIN_SIZE)} bins",
        "budget_MiB": BUDGET_MIB,
        "same_latents": len(ended) == 1,
        "device": f"{platform.machine()} CPU, one thread",
        **provenance("torch", "numpy", "xarray"),
        "repeats": arguments.repeats,
        "runs": runs,
        "lengths": lengths(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
