"""`python -m benchmarks run | plot | speed | compare`; README.md tells of those with their own."""

import argparse
import sys
from pathlib import Path


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks run", description="Fit and score objectives on an image suite."
    )
    parser.add_argument("suite", help="one of: celeba, cub, mimic_cxr, mnist_svhn, polymnist")
    parser.add_argument("--objective", default="all", help="names with commas between; default all")
    parser.add_argument("--beta", type=_numbers, help="with commas between; default: the preset's")
    parser.add_argument("--preset", default="small", help="smoke, small or paper")
    parser.add_argument("--data", type=Path, help="folder of the official files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0, 1, ... up to this many")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--jobs", type=int, help="processes, of one thread each")
    parser.add_argument("--steps", type=int, help="only time so many training steps, then stop")
    options = parser.parse_args(argv)

    from benchmarks.images import runner, suite
    from neuroshare.vae.objectives import OBJECTIVES

    objectives = list(OBJECTIVES) if options.objective == "all" else options.objective.split(",")
    chosen = suite.load(options.suite)
    where = (chosen, options.preset, options.data, options.out)
    if options.steps is not None:
        preset, device, dataset = runner.prepare(*where, options.device)
        for name in objectives:
            seconds = runner.seconds_per_step(dataset, preset, name, device, options.steps)
            n_steps = -(-len(dataset.train) // preset.batch_size)
            hours = seconds * n_steps * preset.epochs / 3600
            print(
                f"{name}: {seconds:.3g} s per step of {preset.batch_size} on {device}; "
                f"{n_steps} steps per epoch, {preset.epochs} epochs: {hours:.3g} hours"
            )
        return
    paths = runner.run(
        *where,
        objectives=objectives,
        betas=options.beta,
        seeds=range(options.seeds),
        device=options.device,
        jobs=options.jobs,
    )
    print(f"{len(paths)} runs in {options.out}")


def _plot(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks plot", description="Tables and figures of the runs in a folder."
    )
    parser.add_argument("--out", type=Path, required=True, help="what `run` was given")
    options = parser.parse_args(argv)

    from benchmarks.images import plotting

    for path in plotting.summarise(options.out):
        print(path)


def _speed(argv: list[str]) -> None:
    from benchmarks import speed

    speed.main(argv)


def _compare(argv: list[str]) -> None:
    from benchmarks import tracking

    tracking.main(argv)


COMMANDS = {"run": _run, "plot": _plot, "speed": _speed, "compare": _compare}


def main(argv: list[str]) -> None:
    if not argv or argv[0] not in COMMANDS:
        raise SystemExit(f"usage: python -m benchmarks {{{','.join(COMMANDS)}}} ... (--help)")
    COMMANDS[argv[0]](argv[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
