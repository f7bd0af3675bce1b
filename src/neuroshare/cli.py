"""The command line, ``neuroshare``: one function per command."""

import os
import re
import shutil
import sys
import textwrap
import tomllib
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroshare import __version__

if TYPE_CHECKING:
    import pandas as pd

    from neuroshare.recordings.nwb import Contents
    from neuroshare.recordings.session import Session
    from neuroshare.workflow.settings import RunConfig

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
Recordings = Annotated[
    list[str] | None,
    typer.Argument(
        help="NWB files, URLs or dandi:NUMBER/PATH, one session each; NAME=FILE names its subject, "
        "as in m1/monday=a.nwb.",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(help="The run.toml of a run, whose settings are taken; options override them."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting of the model, its value as in TOML, such as latent_dim=8, init=random or "
        "hidden=[64,64] (repeat for more).",
    ),
]
Out = Annotated[Path, typer.Option(help="Folder to write.")]
Jobs = Annotated[int | None, typer.Option(help="Number of processes; default: this one.", min=1)]
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


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"neuroshare {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Declare for the help what `main` and `_show_version` handle."""


def _with_settings(
    *without: str, scoring: bool = True, model: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for every declared setting but those named.

    It is called with `run` and `model`: the settings of the run and of its model that were given;
    without `model` where the command fits none of one's choice.
    """
    from neuroshare.models.settings import MODEL_SETTINGS
    from neuroshare.workflow.settings import declared, default_of

    of_run, of_model = (
        {k: s for k, s in of.items() if s.kind is not None and k not in without}
        for of in (declared(scoring=scoring), MODEL_SETTINGS if model else {})
    )
    options = []
    for name, setting in (of_run | of_model).items():
        default = default_of(name) if name in of_run else None
        tail = "" if default is None or default is False else f" Default: {default}."
        flag = setting.flag or f"--{name.replace('_', '-')}"
        option = typer.Option(None, flag, help=setting.help + tail, show_default=False)
        kind = setting.kind | None
        options.append(Parameter(name, Parameter.KEYWORD_ONLY, default=option, annotation=kind))

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def called(**given: Any) -> None:
            given["run"] = _given({k: given.pop(k) for k in of_run})
            if model:
                given["model"] = _given({k: given.pop(k) for k in of_model})
            command(**given)

        own = [
            p.replace(kind=Parameter.KEYWORD_ONLY)
            for name, p in signature(command).parameters.items()
            if name not in ("run", "model")
        ]
        parameters = [*own[:1], *options, *own[1:]]
        called.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters}
        return called

    return decorated


@app.command()
def demo(out: Out = Path("demo"), seed: int = 0, quiet: Quiet = False) -> None:
    """Simulate five rats, write and read NWB files, fit, score and report."""
    from neuroshare.workflow.run import run_demo

    result = run_demo(out, seed=seed, progress=not quiet, tell=_teller(quiet))
    typer.echo(result.finished.table())
    typer.echo(f"report: {result.folder.report}")


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
    running: Annotated[
        float | None, typer.Option(help="Seconds; rats run laps on a track, without odors.")
    ] = None,
    maps: Annotated[int, typer.Option(help="Maps of the track of rats that run.")] = 1,
) -> None:
    """Write NWB files of simulated subjects with a known shared latent."""
    from neuroshare.recordings.nwb import write_nwb
    from neuroshare.recordings.simulate import simulate_sessions

    sessions = simulate_sessions(
        _subjects(subjects), n_trials, seed, signal, running=running, maps=maps
    )
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
    trials: Annotated[
        list[str] | None,
        typer.Option(
            help="Table of the file that holds the trials, one for all files or one for each, in "
            "order. Default: trials.",
            show_default=False,
        ),
    ] = None,
    unit_table: Annotated[
        str | None, typer.Option(help="Table of the file that holds the units.")
    ] = None,
    align: Annotated[
        str | None,
        typer.Option(help="Trial column with the event's time: shows what `fit` would say of it."),
    ] = None,
    span: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Begin and end of the stretch to analyse, seconds after the event."),
    ] = None,
) -> None:
    """Show what NWB files hold and what could be chosen from them, and what is odd."""
    from neuroshare.recordings.findings import findings
    from neuroshare.recordings.nwb import nwb_contents, read_nwb
    from neuroshare.workflow.settings import named_file

    tables = trials or ["trials"]
    if len(tables) not in (1, len(files)):
        raise ValueError(
            f"--trials is given once for all files, or once for each of {len(files)}. "
            f"Got {len(tables)}."
        )
    failed = False
    for file, table in zip(files, tables * (len(files) // len(tables)), strict=True):
        name, path = named_file(file)
        try:
            with warnings.catch_warnings(record=True, action="always") as told:
                session = read_nwb(path, subject=name, trials=table, unit_table=unit_table)
                contents = nwb_contents(path, check=False)
                found = findings(session, align, span)
        except (ValueError, OSError, ImportError) as error:
            # One unreadable file hides nothing about the others.
            typer.echo(f"error: {error}", err=True)
            failed = True
            continue
        lines = [
            f"subject {session.subject}",
            *([f"session {session.session}"] if session.session else []),
            f"units {_spike_range(session)}",
            *_columns("unit", session.units),
            f"trials {_trial_range(session)}",
            *_columns("trial", session.trials),
            *_behavior(session),
            *_choice(contents),
            *(f"note: {warning.message}" for warning in told),
            *(f"{_WORDS[finding.level]}: {finding}" for finding in found),
        ]
        typer.echo(file)
        for line in lines:
            typer.echo(_wrapped(line))
    if failed:
        raise typer.Exit(2)


_WORDS = {"refuse": "fit refuses", "warn": "warning", "note": "note"}


@app.command()
@_with_settings()
def fit(
    files: Recordings = None,
    *,
    run: dict[str, Any],
    model: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder of the run.", show_default=False)],
    config: Config = None,
    set_: Set = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run in --out.")] = False,
    quiet: Quiet = False,
) -> None:
    """Fit one latent space to NWB files of several subjects, and score it on held-out trials."""
    settings = _settings(files, run, model, config, set_)
    from neuroshare.workflow.folder import RunFolder

    if not overwrite:
        RunFolder(out).require_free()
    from neuroshare.workflow.run import run_fit

    if not settings.behavior:
        low, high = settings.span
        _teller(quiet)(
            f"Counting from {low:g} to {high:g} s relative to {settings.align} (--span, --align), "
            f"pairing by {settings.by}."
        )
    result = run_fit(settings, out, overwrite=overwrite, progress=not quiet, tell=_teller(quiet))
    typer.echo(result.finished.table())
    typer.echo(f"report: {result.folder.report}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
) -> None:
    """Write the report of a finished run again."""
    from neuroshare.workflow.page import write_report

    typer.echo(f"report: {write_report(run)}")


@app.command()
def view(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
) -> None:
    """Open the report of a finished run in the browser, where its latents turn and play."""
    import webbrowser

    from neuroshare.workflow.folder import RunFolder

    page = RunFolder(run).report
    # A report of an earlier version has no view.
    if not page.is_file() or 'id="view"' not in page.read_text(encoding="utf-8"):
        from neuroshare.workflow.page import write_report

        page = write_report(run)
    address = f"{page.absolute().as_uri()}#latents"
    opened = webbrowser.open(address)
    typer.echo(address if opened else f"No browser could be started here. Open {address}")


@app.command()
@_with_settings("objective", "beta", scoring=False)
def sweep(
    files: Recordings = None,
    *,
    run: dict[str, Any],
    model: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder of the runs.", show_default=False)],
    objective: Annotated[str, typer.Option(help="Sharing rules, separated by commas.")] = "mmvm",
    beta: Annotated[str, typer.Option(help="Weights of the rate, separated by commas.")] = "1",
    seeds: Annotated[int, typer.Option(help="Number of seeds: 0, 1, ...", min=1)] = 3,
    config: Config = None,
    set_: Set = None,
    jobs: Jobs = None,
    quiet: Quiet = False,
) -> None:
    """Fit and score objectives, betas and seeds; the same again continues a stopped sweep."""
    from neuroshare.models.settings import MODEL_SETTINGS

    settings = _settings(files, run, model, config, set_)
    objectives = [item.strip() for item in objective.split(",")]
    try:
        betas = [float(item) for item in beta.split(",")]
    except ValueError:
        raise ValueError(f"--beta takes numbers, separated by commas. Got {beta!r}.") from None
    for name, values in (("objective", objectives), ("beta", betas)):
        for value in values:
            MODEL_SETTINGS[name].check(value, name, "sweep")
    from neuroshare.workflow.files import sweep_files

    table = sweep_files(
        settings,
        out,
        objectives=objectives,
        betas=betas,
        seeds=range(seeds),
        executor=jobs,
        progress=not quiet,
        tell=_teller(quiet),
    )
    scores = ["own_trial", "cross_trial", "coherence", "bits_per_spike"]
    scores += ["variance_explained", "mse_self", "rate"]
    means = table.groupby(["objective", "beta"], sort=False)[
        [name for name in scores if name in table]
    ].mean()
    typer.echo(means.to_string(float_format="{:.3f}".format))
    typer.echo(f"Means over {seeds} seeds, on held-out trials. All runs: {out / 'sweep.csv'}")


@app.command()
@_with_settings("validation_fraction", "permutations", "bootstraps", "quick")
def influence(
    files: Recordings = None,
    *,
    run: dict[str, Any],
    model: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder for table and figure.", show_default=False)],
    config: Config = None,
    set_: Set = None,
    jobs: Jobs = None,
    quiet: Quiet = False,
) -> None:
    """Who drives the shared space: fit without each subject, and see what the others lose."""
    settings = _settings(files, run, model, config, set_)
    from neuroshare.workflow.files import influence_files

    found = influence_files(settings, out, executor=jobs, tell=_teller(quiet))
    table = found[["loss"]].to_dataframe()
    table["low"], table["high"] = found["loss_interval"].values
    typer.echo(table.to_string(float_format="{:.3f}".format))
    typer.echo("Cross accuracy per held-out trial that the others lose without each subject.")


@app.command()
@_with_settings("validation_fraction", "bootstraps", "quick", "blocks", model=False)
def power(
    files: Recordings = None,
    *,
    run: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder for table and figure.", show_default=False)],
    n_subjects: Annotated[str, typer.Option(help="Numbers of subjects to try.")] = "3,5",
    n_units: Annotated[str, typer.Option(help="Numbers of units in each.")] = "30,100",
    n_trials: Annotated[str, typer.Option(help="Numbers of trials of a condition.")] = "10,20,40",
    simulations: Annotated[int, typer.Option(help="Experiments of each size.")] = 20,
    alpha: Annotated[float, typer.Option(help="Level of the test.")] = 0.05,
    signal: Annotated[
        float, typer.Option(help="Differences between conditions, in units of the pilot's.")
    ] = 1.0,
    config: Config = None,
    jobs: Jobs = None,
    quiet: Quiet = False,
) -> None:
    """How large an experiment must be, by simulation from a pilot's NWB files."""
    settings = _settings(files, run, {}, config, None)
    sizes = {"n_subjects": n_subjects, "n_units": n_units, "n_trials": n_trials}
    asked = {name: _whole_numbers(name, text) for name, text in sizes.items()}
    from neuroshare.workflow.files import power_files

    found = power_files(
        settings, out, **asked, n_simulations=simulations, alpha=alpha, signal=signal,
        executor=jobs, progress=not quiet, tell=_teller(quiet),
    )  # fmt: skip
    table = found[["power", "standard_error", "cross", "cross_sd"]].to_dataframe()
    typer.echo(table.to_string(float_format="{:.2f}".format))
    typer.echo(
        f"Power: share of {simulations} simulated experiments with p <= {alpha:g}; cross: balanced "
        f"accuracy per held-out trial, chance {float(found['chance']):.2f}."
    )


def _whole_numbers(name: str, text: str) -> list[int]:
    items = [item.strip() for item in text.split(",")]
    if not all(item.isdigit() for item in items):
        flag = name.replace("_", "-")
        raise ValueError(f"--{flag} takes whole numbers, separated by commas. Got {text!r}.")
    return [int(item) for item in items]


def _settings(
    files: Iterable[str] | None,
    run: Mapping[str, Any],
    model: Mapping[str, Any],
    config: Path | None,
    set_: Iterable[str] | None,
) -> "RunConfig":
    """Put together what --config, the options and --set say, and check it without torch."""
    from neuroshare.recordings.remote import is_remote
    from neuroshare.workflow.folder import read_toml
    from neuroshare.workflow.settings import RunConfig, named_file

    settings = {} if config is None else read_toml(config)
    settings |= run
    if files:
        settings["files"] = _findable(files)
    given = dict(model)
    for text in set_ or ():
        key, value = _parsed(text)
        if key in given:
            raise ValueError(f"--set {text}: {key} was given before. Give it once.")
        given[key] = value
    if isinstance(kept := settings.get("model", {}), dict):  # else the run refuses it
        settings["model"] = kept | given
    checked = RunConfig.from_settings(settings)
    for file in checked.files:
        _, file = named_file(file)
        if not is_remote(file) and not Path(file).exists():
            raise FileNotFoundError(f"{file}: no such file. Check the path.")
    return checked


def _parsed(text: str) -> tuple[str, Any]:
    """'latent_dim=8' as a name and a value; a word that is not TOML is a text."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not (key and equals and value):
        raise ValueError(f"--set takes KEY=VALUE, such as latent_dim=8. Got {text!r} instead.")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        if re.fullmatch(r"[A-Za-z][\w+-]*", value):
            return key, value
        raise ValueError(
            f"--set {key} takes a value as in TOML: 8, 0.5, true, word or [64, 64]. "
            f"Got {value!r} ({error})."
        ) from None


def _teller(quiet: bool) -> Callable[[str], None]:
    return (lambda sentence: None) if quiet else typer.echo


def _findable(files: Iterable[str]) -> list[str]:
    """Absolute paths, so that a run can be repeated from anywhere; URLs are left alone."""
    from neuroshare.recordings.remote import is_remote
    from neuroshare.workflow.settings import named_file

    found = []
    for text in files:
        name, file = named_file(text)
        file = file if is_remote(file) else str(Path(file).absolute())
        found.append(file if name is None else f"{name}={file}")
    return found


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


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


def _spike_range(session: "Session") -> str:
    times = [unit for unit in session.spike_times if len(unit)]
    text = f"{len(session.units):,}; {session.n_spikes:,} spikes"
    if times:
        first, last = min(unit[0] for unit in times), max(unit[-1] for unit in times)
        text += f" from {first:,.3f} to {last:,.3f} s"
    return text


def _trial_range(session: "Session") -> str:
    first, last = session.trials["start_time"].min(), session.trials["stop_time"].max()
    text = f"{len(session.trials):,}"
    return text + (f" from {first:,.3f} to {last:,.3f} s" if first <= last else "")


def _behavior(session: "Session") -> list[str]:
    """Range of each series of behavior, and the pauses in it."""
    import numpy as np

    lines = []
    for name, series in session.behavior.items():
        time = series[series.dims[0]].to_numpy().astype(float)
        sizes = " x ".join(map(str, series.shape[1:]))
        text = f"behavior {name}: {len(time):,} times{f' x {sizes}' if sizes else ''}"
        if len(time):
            text += f" from {time.min():,.3f} to {time.max():,.3f} s"
        steps = np.diff(np.sort(time))
        usual = float(np.median(steps)) if len(steps) else 0.0
        pauses = steps[steps > 5 * usual] if usual > 0 else steps[:0]
        if len(pauses):
            many = "1 pause" if len(pauses) == 1 else f"{len(pauses):,} pauses"
            text += f", every {usual:.3g} s with {many} up to {pauses.max():,.3g} s"
        values = series.to_numpy()
        if values.dtype.kind in "iuf" and np.isfinite(values).any():
            absent = int(np.isnan(values.astype(float)).sum())
            text += f"; values {np.nanmin(values):g} to {np.nanmax(values):g}"
            text += f", {absent:,} NaN" if absent else ""
        lines.append(text)
    return lines


def _choice(contents: "Contents") -> list[str]:
    """What else could be chosen, where there is more than what is read anyway."""
    lines = []
    if set(contents.trials) - {"trials"}:
        lines.append(f"could be --trials: {', '.join(contents.trials)}")
    if set(contents.units) - {"units"}:
        lines.append(f"could be --unit-table: {', '.join(contents.units)}")
    return lines


def _columns(kind: str, table: "pd.DataFrame") -> list[str]:
    if table.empty:
        return []
    from neuroshare.recordings.session import in_words

    return [f"{kind} column {name}: {in_words(column)}" for name, column in table.items()]


def _wrapped(line: str) -> str:
    return textwrap.fill(
        line,
        shutil.get_terminal_size().columns,
        initial_indent="  ",
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )
