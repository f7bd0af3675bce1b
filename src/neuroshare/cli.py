"""The command line, ``neuroshare``: one function per command."""

import os
import shutil
import sys
import textwrap
import tomllib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="One latent space for the spiking of several subjects.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Files = Annotated[
    list[str],
    typer.Argument(help="NWB files, URLs or dandi:NUMBER/PATH.", show_default=False),
]
Out = Annotated[Path, typer.Option(help="Folder to write.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the scores only.")]


def main() -> None:
    """Run the command line; what the library refuses becomes one line and exit code 2."""
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    warnings.showwarning = _show_warning
    # Idle threads that spin starve whatever else runs on the machine, and are starved by it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(arguments)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Declare for the help what `main` handles, anywhere on the line."""


@app.command()
def demo(out: Out = Path("demo"), seed: int = 0, quiet: Quiet = False) -> None:
    """Simulate five rats, write and read NWB files, fit, score and report."""
    from neuroshare.run import run_demo

    result = run_demo(out, seed=seed, progress=not quiet, tell=_teller(quiet))
    typer.echo(result.table())
    typer.echo(f"report: {result.report}")


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder for the NWB files.", show_default=False)],
    subjects: Annotated[
        str | None,
        typer.Option(help="Names, or name=units, separated by commas; default: the five rats."),
    ] = None,
    n_trials: Annotated[int, typer.Option(help="Trials of each odor.")] = 40,
    signal: Annotated[float, typer.Option(help="Strength of the odor signal; 0: none.")] = 1.0,
    seed: int = 0,
) -> None:
    """Write NWB files of simulated subjects with a known shared latent."""
    from neuroshare.recordings.nwb import write_nwb
    from neuroshare.recordings.simulate import simulate_sessions

    sessions = simulate_sessions(_subjects(subjects), n_trials=n_trials, seed=seed, signal=signal)
    out.mkdir(parents=True, exist_ok=True)
    for name, session in sessions.items():
        path = out / f"{name}.nwb"
        write_nwb(session, path)
        typer.echo(f"{path}: {session!r}")


@app.command("convert-allen2016")
def convert_allen2016(
    folder: Annotated[Path, typer.Argument(help="Holds a folder per rat.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder for the NWB files.", show_default=False)],
    extraction: Annotated[
        str | None, typer.Option(help="Tag of another extraction, such as PokeOut.")
    ] = None,
) -> None:
    """Write the published arrays of the five rats (Allen et al. 2016) as NWB files."""
    from neuroshare.recordings.allen2016 import convert_allen2016

    for path in convert_allen2016(folder, out, extraction=extraction):
        typer.echo(str(path))


@app.command()
def inspect(
    files: Files,
    trials: Annotated[str, typer.Option(help="Table of the file that holds the trials.")] = (
        "trials"
    ),
) -> None:
    """Show what NWB files hold: subject, units, trials, their columns, and what is odd."""
    from neuroshare.recordings.nwb import read_nwb
    from neuroshare.recordings.session import findings

    failed = False
    for file in files:
        try:
            with warnings.catch_warnings(record=True, action="always") as told:
                session = read_nwb(file, trials=trials)
        except (ValueError, OSError, ImportError) as error:
            # One unreadable file hides nothing about the others.
            typer.echo(f"error: {error}", err=True)
            failed = True
            continue
        lines = [
            f"subject {session.subject}",
            f"units {_spike_range(session)}",
            *_columns("unit", session.units),
            f"trials {_trial_range(session)}",
            *_columns("trial", session.trials),
            *(f"note: {warning.message}" for warning in told),
            *(f"note: {sentence}" for sentence in findings(session)),
        ]
        typer.echo(file)
        for line in lines:
            typer.echo(_wrapped(line))
    if failed:
        raise typer.Exit(2)


@app.command()
def fit(
    out: Annotated[Path, typer.Option(help="Folder of the run.", show_default=False)],
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="NWB files, URLs or dandi:NUMBER/PATH, one subject each.", show_default=False
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The run.toml of a run to repeat; options override it.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Trial column that pairs the subjects.")] = None,
    align: Annotated[str | None, typer.Option(help="Trial column with the event's time.")] = None,
    span: Annotated[
        tuple[float, float] | None, typer.Option(help="Begin and end, seconds after the event.")
    ] = None,
    bin_size: Annotated[
        float | None, typer.Option(help="Width of a bin in seconds; default 0.01.")
    ] = None,
    width: Annotated[
        float | None, typer.Option(help="Length of a window in seconds; default 0.1.")
    ] = None,
    step: Annotated[
        float | None, typer.Option(help="Shift between windows in seconds; default 0.01.")
    ] = None,
    trials: Annotated[
        str | None, typer.Option(help="Table that holds the trials; default 'trials'.")
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="A condition to keep (repeat for more); default: all common ones."),
    ] = None,
    min_trials: Annotated[
        int | None,
        typer.Option(help="Leave out conditions with fewer trials in any subject; default 20."),
    ] = None,
    objective: Annotated[str | None, typer.Option(help="Sharing rule, such as mmvm.")] = None,
    likelihood: Annotated[str | None, typer.Option(help="Such as poisson or gaussian.")] = None,
    latent_dim: Annotated[int | None, typer.Option(help="Number of shared latents.")] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of the rate term.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training windows.")] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Share of trials held out; default 0.25.")
    ] = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(help="Share of training trials that choose the best epoch; default 0, none."),
    ] = None,
    permutations: Annotated[
        int | None, typer.Option(help="Permutations for p-values; default 499.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Score separation only: no baselines, imputation, residuals."),
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of everything; default 0.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run in --out.")] = False,
    quiet: Quiet = False,
) -> None:
    """Fit one latent space to NWB files of several subjects, and score it on held-out trials."""
    from neuroshare.run import RunConfig, run_fit

    settings = _read_settings(config)
    options = {
        "files": _findable(files or ()) or None,
        "by": by, "align": align, "span": span, "bin_size": bin_size, "width": width, "step": step,
        "trials": trials, "conditions": condition or None, "min_trials": min_trials,
        "test_fraction": test_fraction, "validation_fraction": validation_fraction,
        "permutations": permutations, "quick": quick or None, "seed": seed,
    }  # fmt: skip
    model = {
        "objective": objective, "likelihood": likelihood, "latent_dim": latent_dim,
        "beta": beta, "epochs": epochs,
    }  # fmt: skip
    settings |= _given(options)
    if isinstance(kept := settings.get("model", {}), dict):  # else the run refuses it
        settings["model"] = kept | _given(model)
    result = run_fit(
        RunConfig.from_settings(settings),
        out,
        overwrite=overwrite,
        progress=not quiet,
        tell=_teller(quiet),
    )
    typer.echo(result.table())
    typer.echo(f"report: {result.report}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
) -> None:
    """Write the report of a finished run again."""
    from neuroshare.report import write_report

    typer.echo(f"report: {write_report(run)}")


@app.command()
def sweep(
    files: Files,
    out: Annotated[Path, typer.Option(help="Folder of the runs.", show_default=False)],
    by: Annotated[str, typer.Option(help="Trial column that pairs the subjects.")],
    align: Annotated[str, typer.Option(help="Trial column with the event's time.")],
    span: Annotated[
        tuple[float, float], typer.Option(help="Begin and end, seconds after the event.")
    ],
    objective: Annotated[str, typer.Option(help="Sharing rules, separated by commas.")] = "mmvm",
    beta: Annotated[str, typer.Option(help="Weights of the rate, separated by commas.")] = "1",
    seeds: Annotated[int, typer.Option(help="Number of seeds: 0, 1, ...", min=1)] = 3,
    likelihood: Annotated[str | None, typer.Option(help="Such as poisson or gaussian.")] = None,
    latent_dim: Annotated[int | None, typer.Option(help="Number of shared latents.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training windows.")] = None,
    bin_size: Annotated[float, typer.Option(help="Width of a bin in seconds.")] = 0.01,
    width: Annotated[float, typer.Option(help="Length of a window in seconds.")] = 0.1,
    step: Annotated[float, typer.Option(help="Shift between windows in seconds.")] = 0.01,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="A condition to keep (repeat for more); default: all common ones."),
    ] = None,
    min_trials: Annotated[
        int, typer.Option(help="Leave out conditions with fewer trials in any subject.")
    ] = 20,
    jobs: Annotated[
        int | None, typer.Option(help="Number of processes; default: this one.", min=1)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Fit and score objectives, betas and seeds; the same again continues a stopped sweep."""
    from neuroshare.run import RunConfig
    from neuroshare.sweep import sweep_files

    model = _given({"likelihood": likelihood, "latent_dim": latent_dim, "epochs": epochs})
    config = RunConfig(
        tuple(_findable(files)), by, align, span,
        bin_size=bin_size, width=width, step=step, min_trials=min_trials,
        conditions=tuple(condition) if condition else None, model=model,
    )  # fmt: skip
    try:
        betas = [float(item) for item in beta.split(",")]
    except ValueError:
        raise ValueError(f"--beta takes numbers, separated by commas. Got {beta!r}.") from None
    table = sweep_files(
        config,
        out,
        objectives=[item.strip() for item in objective.split(",")],
        betas=betas,
        seeds=range(seeds),
        executor=jobs,
        progress=not quiet,
        tell=_teller(quiet),
    )
    scores = ["own_trial", "cross_trial", "coherence", "bits_per_spike", "mse_self", "rate"]
    means = table.groupby(["objective", "beta"], sort=False)[
        [name for name in scores if name in table]
    ].mean()
    typer.echo(means.to_string(float_format="{:.3f}".format))
    typer.echo(f"Means over {seeds} seeds, on held-out trials. All runs: {out / 'sweep.csv'}")


def _teller(quiet: bool) -> Any:
    return (lambda sentence: None) if quiet else typer.echo


def _findable(files: Iterable[str]) -> list[str]:
    """Absolute paths, so that a run can be repeated from anywhere; URLs are left alone."""
    from neuroshare.recordings.remote import is_remote

    return [file if is_remote(file) else str(Path(file).absolute()) for file in files]


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _read_settings(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of settings. Check --config.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    # Not TOML, not UTF-8, or brackets in brackets without end.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected TOML settings, got {error}.") from error


def _subjects(text: str | None) -> list[str] | dict[str, int] | None:
    """'mitt,stella' as names, 'mitt=104,stella=49' as numbers of units."""
    if text is None:
        return None
    pairs = [item.partition("=") for item in text.split(",")]
    names = [name.strip() for name, _, _ in pairs]
    if not any(equals for _, equals, _ in pairs):
        return names
    if not all(units.strip().isdigit() for _, _, units in pairs):
        raise ValueError(f"--subjects takes names, or name=units for each. Got {text!r} instead.")
    return {name: int(units) for name, (_, _, units) in zip(names, pairs, strict=True)}


def _spike_range(session: Any) -> str:
    times = [unit for unit in session.spike_times if len(unit)]
    text = f"{len(session.units):,}; {session.n_spikes:,} spikes"
    if times:
        first, last = min(unit[0] for unit in times), max(unit[-1] for unit in times)
        text += f" from {first:,.3f} to {last:,.3f} s"
    return text


def _trial_range(session: Any) -> str:
    first, last = session.trials["start_time"].min(), session.trials["stop_time"].max()
    text = f"{len(session.trials):,}"
    return text + (f" from {first:,.3f} to {last:,.3f} s" if first <= last else "")


def _columns(kind: str, table: Any) -> list[str]:
    if table.empty:
        return []
    return [f"{kind} column {name}: {_describe(column)}" for name, column in table.items()]


def _wrapped(line: str) -> str:
    return textwrap.fill(
        line,
        shutil.get_terminal_size().columns,
        initial_indent="  ",
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _describe(column: Any) -> str:
    """A column in a few words: its values with their numbers if few, else their range."""
    values = column.dropna()
    if values.empty:
        return "no values"
    counts = values.value_counts().sort_index()
    if len(counts) <= 8 and (len(values) > len(counts) or column.dtype.kind not in "f"):
        # An empty text would not be seen.
        text = ", ".join(
            f"{value if value != '' else repr(value)} ({n})" for value, n in counts.items()
        )
    elif column.dtype.kind in "iuf":
        text = f"{values.min():g} to {values.max():g}"
    else:
        text = f"{len(counts)} different values"
    absent = len(column) - len(values)
    return text + (f"; {absent} absent" if absent else "")
