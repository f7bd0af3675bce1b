"""Eight equal models, one after another on one thread and in two processes; and a lost worker.

``python -m benchmarks.cores [--repeats 3] [--out benchmarks/results/cores.json]`` prints JSON: wall
and CPU-seconds of the same sweep in turn, after the start of the processes, the ratio
of the walls, and whether the tables are equal to the last bit. With Dask the sweep also runs on a
local cluster of two processes, of which one is killed when three of the eight results are there.
Other work on the machine spoils the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.provenance import provenance

# Before numpy and torch: what is not asked for starts no threads.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import psutil
from joblib.externals.loky import ProcessPoolExecutor

import neuroshare as ns

MODELS = 8
SETTINGS = {"epochs": 20, "batch_size": 128, "hidden": (256, 256), "device": "cpu"}


def loss(model, train, test):
    return {"loss": model.history_["loss"].values[-1]}


def parts():
    sessions = ns.simulate_sessions(n_trials=40)
    counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    return ns.pair_subjects(counts, by="odor", step=0.05).split()


def cpu_seconds() -> float:
    """Of this process and its children."""
    this = psutil.Process()
    times = [one.cpu_times() for one in (this, *this.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def swept(data, out, executor=None, models=MODELS):
    grid = {"objectives": ["mmvm"], "betas": [1.0], "seeds": range(models)}
    return ns.sweep(
        *data, out, **grid, model=SETTINGS, score=loss, executor=executor, progress=False
    )


def timed(data, processes):
    """Table and seconds of the sweep, without the start of the processes."""
    pool = ProcessPoolExecutor(processes) if processes else None
    with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as out:
        if pool:
            SETTINGS["epochs"], epochs = 1, SETTINGS["epochs"]
            swept(data, warm, pool, models=4 * processes)  # they import what they need
            SETTINGS["epochs"] = epochs
        cpu, wall = cpu_seconds(), time.perf_counter()
        table = swept(data, out, pool)
        seconds = {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu}
        if pool:
            pool.shutdown()
        return table, seconds


def with_a_lost_worker(data):
    """Table and seconds of a sweep on two Dask workers, one killed mid-way; None without Dask."""
    try:
        import distributed
    except ImportError:
        return None
    with (
        tempfile.TemporaryDirectory() as out,
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=out
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        (victim, _) = client.run(os.getpid).values()
        there = []

        def kill():
            while len(there) < 3:
                time.sleep(0.05)
                there[:] = Path(out, "runs").glob("*.json")
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        began = time.perf_counter()
        table = swept(data, out, client)
        seconds = time.perf_counter() - began
        killer.join()
        client.wait_for_workers(2)
        gone = victim not in client.run(os.getpid).values()
        return table, {"wall_s": seconds, "results_when_killed": len(there), "killed": gone}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cores.json"))
    arguments = parser.parse_args()
    data = parts()
    runs = {"one after another": [], "two processes": []}
    tables = []
    for _ in range(arguments.repeats):
        for name, processes in (("one after another", None), ("two processes", 2)):
            table, seconds = timed(data, processes)
            tables.append(table)
            runs[name].append({**seconds, "load": os.getloadavg()[0]})
    walls = {name: statistics.median(run["wall_s"] for run in each) for name, each in runs.items()}
    document = {
        "what": f"{MODELS} models of 5 simulated rats, {SETTINGS}",
        "device": f"{platform.machine()} CPU, {os.cpu_count()} cores",
        **provenance("torch", "numpy", "joblib"),
        "runs": runs,
        "throughput_ratio": walls["one after another"] / walls["two processes"],
        "same_tables": all(table.equals(tables[0]) for table in tables),
    }
    if (lost := with_a_lost_worker(data)) is not None:
        table, seconds = lost
        document["dask, a worker killed"] = {**seconds, "same_table": table.equals(tables[0])}
    text = json.dumps(document, indent=1)
    print(text)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
