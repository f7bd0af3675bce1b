"""The whole job of ``neuroshare fit``, by stage. Run: python -m benchmarks.whole [--data FOLDER]

Every round is a process of its own that does what the command line does, imports included: reading,
pairing and splitting, choosing (start, training), the analyses one by one, files, report. CPU
seconds and wall time of each stage, and the largest memory of the process when it ended.

``mice``
    The four mice under ``--data`` (or NEUROSHARE_DATA), all analyses, and with ``--quick``.
``1,000 units``, ``100 units``
    Simulated: 5 animals x so many units x 1,000 trials of 2 s, with ``--quick``;
    ``100 units, everything`` without.
``50 animals``, ``5 animals``
    Simulated: so many animals x 50 units x 160 trials, with ``--quick``.
``tiny``
    To see that it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.provenance import provenance

HERE = Path(__file__).parent
WIDE = {"by": "odor", "span": (0.0, 2.0), "width": 0.2, "step": 0.1, "quick": True}
MANY = {"by": "odor", "span": (0.0, 0.4), "step": 0.05, "quick": True}
JOBS: dict[str, dict[str, Any]] = {
    "mice": {"by": "condition", "span": (0.0, 0.4)},
    "mice, quick": {"by": "condition", "span": (0.0, 0.4), "quick": True},
    "100 units": {**WIDE, "animals": (5, 100, 250)},
    "1,000 units": {**WIDE, "animals": (5, 1000, 250)},
    "5 animals": {**MANY, "animals": (5, 50, 40)},
    "50 animals": {**MANY, "animals": (50, 50, 40)},
    "100 units, everything": {**WIDE, "animals": (5, 100, 250), "quick": False},
    "tiny": {**MANY, "animals": (2, 8, 8)},
}
"""Settings of each; ``animals``: number, units of each, trials of each of four odors."""


def recordings(job: str, data: Path | None, folder: Path) -> list[Path]:
    """Files of a job; those of simulated animals are written once."""
    how = JOBS[job].get("animals")
    if how is None:
        return sorted((data / "mice-nwb").glob("*.nwb")) if data else []
    import neuroshare as ns

    n, units, trials = how
    own = folder / job.replace(" ", "_")
    if not own.exists():
        begun = own.with_suffix(".part")  # what was interrupted is begun anew
        begun.mkdir(parents=True, exist_ok=True)
        for name in (f"a{k:02d}" for k in range(n)):  # one by one, as they would be together
            session = ns.simulate_sessions({name: units}, n_trials=trials)[name]
            ns.write_nwb(session, begun / f"{name}.nwb")
        begun.rename(own)
    return sorted(own.glob("*.nwb"))


class Stages:
    """CPU and wall seconds by stage; what runs within another stage counts there alone.

    And the largest memory of the process so far when a stage last ended, so that what it is above
    that of the stage before was needed here.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.peak: dict[str, int] = {}
        self.running: list[str] = []
        self.last = self._now()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what runs inside."""
        self._count()
        self.running.append(name)
        yield
        self._count()
        self.running.pop()

    def measured(self, where: Any, name: str, stage: str) -> None:
        """Count a function or method of a module or class as a stage."""
        original = getattr(where, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.stage(stage):
                return original(*args, **kwargs)

        setattr(where, name, call)

    def _now(self) -> tuple[float, float]:
        return time.process_time(), time.perf_counter()

    def _count(self) -> None:
        now = self._now()
        name = self.running[-1] if self.running else "other"
        total = self.seconds.setdefault(name, [0.0, 0.0])
        for k in range(2):
            total[k] += now[k] - self.last[k]
        self.peak[name] = peak_mib()
        self.last = now


def peak_mib() -> int:
    """Largest memory of this process so far."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        # What the system counts for a child begins with the memory of its parent.
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def one_round(job: str, files: list[str], threads: int | None) -> dict[str, Any]:
    """Do the job in this process, from its first import on."""
    begun = time.perf_counter()
    stages = Stages()
    with stages.stage("import"):
        import torch

        from neuroshare.models import choosing
        from neuroshare.workflow import run
        from neuroshare.workflow.analyses import ANALYSES
        from neuroshare.workflow.folder import RunFolder
        from neuroshare.workflow.settings import RunConfig
    if threads:
        torch.set_num_threads(threads)
    from neuroshare.models.shared import SharedLatentModel
    from neuroshare.workflow import page

    for where, name, stage in (
        (run, "read_recordings", "read"), (run, "split_recordings", "pair and split"),
        (SharedLatentModel, "fit", "fit"), (choosing, "_start", "choose the start"),
        (choosing, "_steps", "choose the training"), (RunFolder, "write", "write"),
        (page, "write_report", "report"),
    ):  # fmt: skip
        stages.measured(where, name, stage)
    for analysis in ANALYSES:
        stages.measured(type(analysis), "compute", f"score: {analysis.name}")
    settings = {k: v for k, v in JOBS[job].items() if k != "animals"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = RunConfig(tuple(files), align="start_time", **settings)
        with stages.stage("other"):
            done = run.run_fit(config, Path(folder) / "run", progress=False)
        usage, wall, peak = (
            resource.getrusage(resource.RUSAGE_SELF),
            time.perf_counter(),
            peak_mib(),
        )
        spikes = int(sum(part[n].sum() for part in (done.train, done.test) for n in part.subjects))
    return {
        "stages": {name: [round(s, 3) for s in both] for name, both in stages.seconds.items()},
        "cpu": round(usage.ru_utime + usage.ru_stime, 2),
        "wall": round(wall - begun, 2),
        "peak_MiB": peak,
        "peak_MiB after": stages.peak,
        "spikes in windows": spikes,
        "load": round(os.getloadavg()[0], 2),
    }


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and largest over rounds."""

    def told(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    names = list(dict.fromkeys(name for one in rounds for name in one["stages"]))
    return {
        "cpu": told([one["cpu"] for one in rounds]),
        "wall": told([one["wall"] for one in rounds]),
        "peak_MiB": told([one["peak_MiB"] for one in rounds]),
        "cpu per million spikes": told(
            [round(one["cpu"] / one["spikes in windows"] * 1e6, 3) for one in rounds]
        ),
        "cpu by stage": {n: told([one["stages"].get(n, [0])[0] for one in rounds]) for n in names},
        "peak_MiB after": {
            n: told([one["peak_MiB after"].get(n, 0) for one in rounds]) for n in names
        },
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.whole", description=__doc__)
    default = os.environ.get("NEUROSHARE_DATA")
    parser.add_argument("--data", type=Path, default=default)
    jobs = [job for job in JOBS if job != "tiny"]
    parser.add_argument("--jobs", nargs="+", default=jobs, choices=list(JOBS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch; default: as many as it takes")
    parser.add_argument("--files", type=Path, help="folder of the simulated recordings")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "whole.json")
    parser.add_argument("--once", help=argparse.SUPPRESS)
    options, files = parser.parse_known_args(argv)
    if options.once:
        print(json.dumps(one_round(options.once, files, options.threads)))
        return
    document: dict[str, Any] = {
        **provenance("torch", "numpy", "scipy", "scikit-learn", "xarray", "matplotlib"),
        "threads": options.threads or "default",
        "cores": os.cpu_count(),
        "jobs": {},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for job in options.jobs:  # what is measured is kept, whatever becomes of the next
        document["jobs"] |= measured(
            [job], options.data, options.rounds, options.files, options.threads
        )
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def measured(
    jobs: Sequence[str],
    data: Path | None,
    rounds: int,
    files: Path | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Do each job so many times, tell its stages, and give them; without recordings it is not."""
    document: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for job in jobs:
            found = recordings(job, data, files or Path(folder))
            if not found:
                print(f"{job}: no recordings; give --data")
                continue
            more = ["--threads", str(threads)] if threads else []
            command = [sys.executable, "-m", "benchmarks.whole", *more, "--once", job]
            done = []
            for _ in range(rounds):
                ended = subprocess.run(
                    [*command, *map(str, found)], capture_output=True, text=True, check=True
                )
                done.append(json.loads(ended.stdout.splitlines()[-1]))
            document[job] = {**summary(done), "rounds": done}
            print("\n".join(lines(job, document[job])), flush=True)
    return document


def lines(job: str, found: dict[str, Any]) -> list[str]:
    """A job as text."""
    total = [f"{k} {v['median']:.1f} ({v['min']:.1f}-{v['max']:.1f})" for k, v in found.items()
             if k in ("cpu", "wall", "peak_MiB")]  # fmt: skip
    told = [f"{job}: {', '.join(total)}"]
    for stage, seconds in found["cpu by stage"].items():
        peak = found["peak_MiB after"][stage]["median"]
        told.append(f"  {stage:28s} {seconds['median']:7.2f} CPU-s, peak until then {peak:.0f} MiB")
    return told


if __name__ == "__main__":
    main()
