"""One analysis from NWB files to scores and a report: what ``neuroshare fit`` does."""

import dataclasses
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from neuroshare import __version__
from neuroshare.analysis.residuals import departure, residuals
from neuroshare.analysis.separation import separation
from neuroshare.compare import Scored, score_models, tabulate
from neuroshare.model import SharedLatentModel
from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.nwb import read_nwb, write_nwb
from neuroshare.recordings.pairing import PairedWindows, pair_subjects
from neuroshare.recordings.session import Session
from neuroshare.recordings.simulate import simulate_sessions
from neuroshare.report import write_report
from neuroshare.settings import (
    is_number,
    require,
    require_number,
    require_seed,
    require_whole,
)
from neuroshare.writing import locked, replacing, write_whole

__all__ = ["RunConfig", "RunResult", "run_demo", "run_fit"]

Tell = Callable[[str], None]

# What a run writes. Its scores come last, and its checkpoint is then removed: a folder with scores
# holds a finished run, and one with a checkpoint only an interrupted one.
SETTINGS, CHECKPOINT, SCORES, REPORT = "run.toml", "checkpoint", "scores.json", "report.html"
OUTPUTS = (
    SETTINGS, CHECKPOINT, "model", "latents.nc", "history.nc", "separation.nc", "imputation.nc",
    "residuals.nc", "departure.nc", "control.nc", "baselines.nc", "comparison.json", SCORES, REPORT,
)  # fmt: skip


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run; written to and read from its ``run.toml``.

    Parameters
    ----------
    files : tuple of str
        NWB files, one subject each.
    by : str
        Trial column whose values pair the subjects' trials.
    align : str
        Trial column with the time of the event, in seconds.
    span : tuple of float
        Begin and end of the analysed stretch, seconds after the event.
    bin_size, width, step : float
        Width of a bin, length of a window and shift between windows, seconds.
    trials : str
        Table of the file that holds the trials.
    conditions : tuple of str, optional
        Conditions to keep. By default every one of which each subject has `min_trials` trials.
    min_trials : int
        A condition with fewer trials in any subject is left out.
    test_fraction : float
        Share of the trials of each condition and subject that is held out.
    validation_fraction : float
        Share of the training trials on which the best epoch is chosen; none by default.
    permutations : int
        Permutations of the tests of accuracies and of information in residuals; they need no fit.
    bootstraps : int
        Bootstrap samples of the intervals.
    quick : bool
        Score only how well the fitted latents separate conditions: no baselines, imputation,
        residuals or control.
    seed : int
        Seeds pairing, split, fit and permutations.
    model : mapping
        Further arguments of ``SharedLatentModel``.
    """

    files: tuple[str, ...]
    by: str
    align: str
    span: tuple[float, float]
    bin_size: float = 0.01
    width: float = 0.1
    step: float = 0.01
    trials: str = "trials"
    conditions: tuple[str, ...] | None = None
    min_trials: int = 20
    test_fraction: float = 0.25
    validation_fraction: float = 0.0
    permutations: int = 499
    bootstraps: int = 500
    quick: bool = False
    seed: int = 0
    model: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no run can have before any file is read."""
        where = "a run"
        for name in ("files", "conditions"):
            value = getattr(self, name)
            listed = isinstance(value, tuple | list) and len(value) > 0
            require(
                (listed and all(isinstance(item, str) and item for item in value))
                or (name == "conditions" and value is None),
                name, where, "a list of texts", value,
            )  # fmt: skip
        for name in ("by", "align", "trials"):
            value = getattr(self, name)
            require(isinstance(value, str) and value != "", name, where, "a text", value)
        span = self.span
        require(
            isinstance(span, tuple | list) and len(span) == 2 and all(map(is_number, span))
            and span[0] < span[1],
            "span", where, "two numbers of seconds, begin and end, begin first", span,
        )  # fmt: skip
        for name in ("bin_size", "width", "step"):
            require_number(getattr(self, name), name, where, 0, open_=True)
        require_number(self.test_fraction, "test_fraction", where, 0, 1, open_=True)
        require_number(self.validation_fraction, "validation_fraction", where, 0, 1)
        require_whole(self.min_trials, "min_trials", where, 1)
        for name in ("permutations", "bootstraps"):
            require_whole(getattr(self, name), name, where, most=10**9)
        require(isinstance(self.quick, bool), "quick", where, "true or false", self.quick)
        require_seed(self.seed, where)
        require(isinstance(self.model, Mapping), "model", where, "a table of settings", self.model)
        known = set(SharedLatentModel().get_params()) - {"seed", "progress", "subjects"}
        if unknown := sorted(set(self.model) - known):
            raise ValueError(
                f"unknown settings {unknown} under [model]; expected some of {sorted(known)}."
            )

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "RunConfig":
        """Build from plain settings, and name every unknown or absent one at once."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(settings) - set(fields))
        if unknown:
            raise ValueError(f"unknown settings {unknown}; expected some of {sorted(fields)}.")
        absent = [
            name
            for name, f in fields.items()
            if f.default is f.default_factory is dataclasses.MISSING and not settings.get(name)
        ]
        if absent:
            raise ValueError(
                f"a run needs {', '.join(absent)}. Give the options, or --config with a run.toml."
            )
        return cls(**{name: _as_tuple(value) for name, value in settings.items()})

    def to_toml(self) -> str:
        """Text that ``from_settings(tomllib.loads(text))`` turns into an equal configuration."""
        settings = dataclasses.asdict(self)
        model = settings.pop("model")
        # A JSON scalar or list is a TOML value too; what is None is left to its default.
        lines = [f"{key} = {_toml(value)}" for key, value in settings.items() if value is not None]
        lines += ["", "[model]"]
        lines += [f"{key} = {_toml(value)}" for key, value in model.items() if value is not None]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class RunResult:
    """What a run found; the files under `out` hold the same."""

    out: Path
    config: RunConfig
    model: SharedLatentModel
    train: PairedWindows
    test: PairedWindows
    latents: xr.DataArray
    """Dims (subject, window, latent), with ``part`` ("train" or "test") along window."""
    scores: xr.Dataset
    left_out: list[str]
    battery: "Battery | None" = None
    """Baselines, imputation, residuals; None for a quick run."""
    control: xr.Dataset | None = None
    """Separation before the event; None for a quick run and where there are no spikes."""

    @property
    def report(self) -> Path:
        """The page that shows the run."""
        return self.out / REPORT

    def table(self) -> str:
        """Held-out accuracy per trial, in a few lines to print."""
        scores = self.scores.sel(level="trial")
        table = pd.DataFrame(
            {
                "own": scores["own"],
                "cross, as source": scores["cross"].mean("target"),
                "cross, as target": scores["cross"].mean("source"),
            },
            index=[str(name) for name in scores["subject"].to_numpy()],
        )
        table.loc["mean"] = table.mean()
        lines = [table.to_string(float_format="{:.2f}".format)]
        if self.battery is not None:
            lines += ["", *_comparison_lines(self.battery.comparison)]
        lines.append(
            f"Balanced accuracy of {self.config.by} per held-out trial; "
            f"chance {float(scores['chance']):.2f}."
        )
        return "\n".join(lines)


def _comparison_lines(comparison: pd.DataFrame) -> list[str]:
    """Own and cross accuracy of every model with interval and p."""
    at = comparison[comparison["level"] == "trial"]
    cells = {}
    for row in at.itertuples():
        text = f"{row.value:.2f}"
        if np.isfinite(row.low):
            text += f" [{row.low:.2f}, {row.high:.2f}]"
        if np.isfinite(row.p):
            text += f" p={row.p:.3f}"
        cells[row.model, row.score] = text
    models = list(dict.fromkeys(at["model"]))
    table = pd.DataFrame(
        {kind: [cells.get((model, kind), "") for model in models] for kind in ("own", "cross")},
        index=models,
    )
    return list(table.to_string().splitlines())


def run_fit(
    config: RunConfig,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: bool = True,
    tell: Tell = lambda sentence: None,
) -> RunResult:
    """Read, bin, pair, split, fit, score on held-out trials, and write everything.

    Parameters
    ----------
    config : RunConfig
        What to do.
    out : path-like
        Folder of the run: ``latents.nc``, ``scores.json``, ``separation.nc``, ``history.nc``,
        ``model/``, ``run.toml`` and ``report.html``; unless the run is quick also
        ``comparison.json`` and ``baselines.nc`` (the linear alignments and raw counts on the same
        split), ``imputation.nc``, ``residuals.nc``, ``departure.nc`` and, where there are spikes
        before the event, ``control.nc``. An interrupted run with the same settings is continued
        from its checkpoint.
    overwrite : bool
        Replace another run in `out`.
    progress : bool
        Show a progress bar of the fit.
    tell : callable
        Called with each sentence about what was left out; by default they only go into the
        result and the report.

    Returns
    -------
    RunResult

    Raises
    ------
    ValueError
        If two files hold the same subject, a column is unknown, fewer than two conditions are
        left, or `out` holds another run or is being written by one.
    FileNotFoundError
        If a file is not there.
    KeyboardInterrupt
        If the fit was interrupted; the same call continues it.
    """
    out = Path(out)
    with _alone(out):
        return _run_fit(config, out, overwrite, progress, tell)


def _run_fit(
    config: RunConfig, out: Path, overwrite: bool, progress: bool, tell: Tell
) -> RunResult:
    model = SharedLatentModel(**{**config.model, "seed": config.seed, "progress": progress})
    model.check_settings()
    counts, before = _read_counts_and_before(config)
    counts, left_out = keep_common_conditions(counts, config)
    paired = pair_subjects(
        counts, by=config.by, width=config.width, step=config.step, seed=config.seed
    )
    left_out += paired.report()
    for sentence in left_out:
        tell(sentence)
    train, test = paired.split(config.test_fraction, seed=config.seed)

    config = dataclasses.replace(config, model=_settings_of(model))
    _claim(out, config, overwrite)
    continued = (out / CHECKPOINT).exists()
    try:
        model.fit(train, validation=config.validation_fraction or None, checkpoint=out / CHECKPOINT)
    except ValueError:
        if not continued:  # these settings cannot be trained: there is nothing to continue
            _clear(out)
        raise
    if model.history_.attrs.get("interrupted"):
        raise KeyboardInterrupt

    parts = {"train": model.transform(train), "test": model.transform(test)}
    tests = {"n_permutations": config.permutations, "n_bootstraps": config.bootstraps}
    found, control = None, None
    if config.quick:
        scores = separation(parts["train"], parts["test"], by=config.by, seed=config.seed, **tests)
    else:
        found = _battery(model, train, test, parts["test"], config)
        scores = found.scored[found.name].separation
        control = _control(model, train, test, before, config)
    latents = xr.concat(
        [z.assign_coords(part=("window", [part] * z.sizes["window"])) for part, z in parts.items()],
        dim="window",
    ).rename("latents")
    result = RunResult(out, config, model, train, test, latents, scores, left_out, found, control)
    _write(result)
    return result


def run_demo(
    out: str | Path, *, seed: int = 0, progress: bool = True, tell: Tell = lambda sentence: None
) -> RunResult:
    """Simulate five rats, write them as NWB files under `out`, and run the whole analysis.

    Parameters
    ----------
    out : path-like
        Folder to write; an earlier demo there is replaced.
    seed : int
        Seeds the simulation and the analysis.
    progress : bool
        Show a progress bar of the fit.
    tell : callable
        Called with each sentence about the course of the run.

    Returns
    -------
    RunResult
    """
    folder = Path(out) / "recordings"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, session in simulate_sessions(seed=seed).items():
        path = folder / f"{name}.nwb"
        write_nwb(session, path)
        files.append(str(path))
    tell(f"Wrote {len(files)} simulated rats to {folder}.")
    config = RunConfig(tuple(files), by="odor", align="start_time", span=(0.0, 0.4), seed=seed)
    return run_fit(config, out, overwrite=True, progress=progress, tell=tell)


def read_counts(config: RunConfig) -> dict[str, xr.DataArray]:
    """Counts (trial, unit, time) by subject, in the order of the files."""
    return _read_counts_and_before(config)[0]


def _read_counts_and_before(
    config: RunConfig,
) -> tuple[dict[str, xr.DataArray], dict[str, xr.DataArray] | None]:
    """Counts by subject, and those of the stretch of the same length before the event.

    None for the latter, if any subject has no spikes there.
    """
    counts: dict[str, xr.DataArray] = {}
    before: dict[str, xr.DataArray] | None = {}
    files: dict[str, str] = {}
    for file in config.files:
        session = read_nwb(file, trials=config.trials)
        name = session.subject
        if name in files:
            raise ValueError(
                f"{file} and {files[name]} both hold subject {name!r}; expected one file of each "
                "subject. Merge its sessions or leave one out."
            )
        files[name] = file
        counts[name] = bin_spikes(session, config.align, config.span, config.bin_size)
        counts[name].attrs["file"] = Path(file).name
        labels = counts[name].coords.get(config.by)
        if labels is None or labels.dims != ("trial",):
            raise ValueError(
                f"{file}: no trial column {config.by!r} to pair by. "
                f"Found: {', '.join(map(str, session.trials.columns))}."
            )
        earlier = _before(session, counts[name], config)
        before = None if before is None or earlier is None else {**before, name: earlier}
    return counts, before


def _before(session: Session, counts: xr.DataArray, config: RunConfig) -> xr.DataArray | None:
    """Counts of the stretch that ends at the event, or where an earlier span begins."""
    begin, end = config.span
    stop = min(0.0, begin)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same trials were left out, and told, above
        span = (round(stop - (end - begin), 9), stop)
        earlier = bin_spikes(session, config.align, span, config.bin_size)
    # Recordings cut to trials have silence here, or in part of it, which is no control.
    n = round(config.width / config.bin_size)
    pieces = [earlier[..., k : k + n].mean() for k in range(0, earlier.sizes["time"] - n + 1, n)]
    return earlier if min(map(float, pieces), default=0.0) > 0.1 * float(counts.mean()) else None


def keep_common_conditions(
    counts: Mapping[str, xr.DataArray], config: RunConfig
) -> tuple[dict[str, xr.DataArray], list[str]]:
    """Leave out the trials of conditions that are rare or absent in any subject."""
    by = config.by
    labels = {name: pd.Series(array[by].to_numpy()) for name, array in counts.items()}
    table = pd.DataFrame({name: values.value_counts() for name, values in labels.items()})
    table = table.fillna(0).astype(int)
    fewest = table.min(axis=1)
    unknown = set(config.conditions or ()) - set(map(str, table.index))
    if unknown:
        raise ValueError(
            f"no trials with {by} {sorted(unknown)}. Found: {sorted(map(str, table.index))}."
        )
    if config.conditions is None:
        kept = list(table.index[fewest >= config.min_trials])
    else:
        kept = [value for value in table.index if str(value) in config.conditions]
    if len(kept) < 2:
        found = ", ".join(f"{value} ({n})" for value, n in fewest.head(10).items())
        raise ValueError(
            f"expected two or more values of {by!r} with {config.min_trials} trials in every "
            f"subject, got {len(kept)}. Fewest trials in a subject: {found}. "
            "Choose another column, or lower the number of trials (--min-trials)."
        )
    left_out = []
    for value in (value for value in table.index if value not in kept):
        n = ", ".join(f"{name} {count}" for name, count in table.loc[value].items())
        why = "by choice"
        if config.conditions is None:
            why = f"since a subject has fewer than {config.min_trials} trials of it"
        left_out.append(f"{by} {value!r} was left out {why} ({n}).")
    common = {
        # Trials without a condition stay, for pairing to report them.
        name: array.isel(trial=(labels[name].isin(kept) | labels[name].isna()).to_numpy())
        for name, array in counts.items()
    }
    return common, left_out


@dataclass(frozen=True)
class Battery:
    """Everything that is scored beside the separation of the fitted latents."""

    name: str
    """Of the fitted model among those compared."""
    scored: Mapping[str, Scored]
    comparison: pd.DataFrame
    residuals: xr.Dataset | None
    departure: xr.Dataset | None

    @property
    def imputation(self) -> xr.Dataset | None:
        """Imputation scores of the fitted model."""
        return self.scored[self.name].imputation


def _battery(
    model: SharedLatentModel,
    train: PairedWindows,
    test: PairedWindows,
    latents: xr.DataArray,
    config: RunConfig,
) -> Battery:
    """Score the fitted model and the baselines; imputation and residuals on thinned windows."""
    several = len(test.subjects) > 1
    name = model.objective if isinstance(model.objective, str) else type(model.objective).__name__
    settings: dict[str, Any] = {
        "n_permutations": config.permutations,
        "n_bootstraps": config.bootstraps,
        "seed": config.seed,
    }
    scored = score_models(
        train, test, fitted={name: model}, baselines=several, imputation=several, **settings
    )
    scored = {name: scored.pop(name), **scored}
    left, who = None, None
    if several:
        left = residuals(model, test.thinned(), train.thinned(), n_repairs=4, n_folds=2, **settings)
        who = departure(latents, config.by, config.seed)
    return Battery(name, scored, tabulate(scored, against=name), left, who)


def _control(
    model: SharedLatentModel,
    train: PairedWindows,
    test: PairedWindows,
    before: Mapping[str, xr.DataArray] | None,
    config: RunConfig,
) -> xr.Dataset | None:
    """Separation by the latents of the stretch before the event, at chance if all is well."""
    if before is None:
        return None
    counts = {
        name: before[name].sel(trial=array["trial"].values) for name, array in train.counts.items()
    }
    parts = [dataclasses.replace(part, counts=counts) for part in (train, test)]
    return separation(
        model.transform(parts[0]),
        model.transform(parts[1]),
        by=config.by,
        n_permutations=config.permutations,
        n_bootstraps=config.bootstraps,
        seed=config.seed,
    )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder of a run; made for it, it is removed again if nothing was written."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: expected a folder for the run, got a file. Choose another --out.")
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out / ".lock", wait=False) as ours:
            if not ours:
                raise ValueError(
                    f"{out} is being written by another run. Wait until it has ended, or choose "
                    "another --out."
                )
            yield
    finally:
        if made and out.exists() and not any(out.iterdir()):
            out.rmdir()


def _claim(out: Path, config: RunConfig, overwrite: bool) -> None:
    """Make `out` the folder of this run, unless it is that of another."""
    if overwrite:
        _clear(out)
    text = config.to_toml()
    settings = out / SETTINGS
    if (out / SCORES).exists():
        raise ValueError(
            f"{out} holds a finished run. Choose another --out, or --overwrite to replace it."
        )
    interrupted = settings.exists() and (out / CHECKPOINT).exists()
    if interrupted and settings.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{out} holds an interrupted run with other settings; expected those of {settings}. "
            f"Continue it with --config {settings}, or --overwrite to replace it."
        )
    with replacing(settings) as part:
        part.write_text(text, encoding="utf-8")


def _clear(out: Path) -> None:
    """Remove what a run wrote, and nothing else."""
    for name in OUTPUTS:
        _remove(out / name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(result: RunResult) -> None:
    out = result.out
    result.model.save(out / "model")
    tables: dict[str, xr.DataArray | xr.Dataset | None] = {
        "latents.nc": result.latents,
        "history.nc": result.model.history_,
        "separation.nc": result.scores,
    }
    battery = result.battery
    if battery is not None:
        tables |= {
            "imputation.nc": battery.imputation,
            "residuals.nc": battery.residuals,
            "departure.nc": battery.departure,
            "control.nc": result.control,
            "baselines.nc": _matrices(battery),
        }
        with replacing(out / "comparison.json") as part:
            rows = json.loads(battery.comparison.to_json(orient="records", double_precision=6))
            part.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for name, data in tables.items():
        if data is None:
            continue
        # HDF5 takes the process with it when the disk is full: let it write to memory.
        write_whole(out / name, bytes(data.to_netcdf(engine="h5netcdf")))
    with replacing(out / SCORES) as part:
        part.write_text(json.dumps(_summary(result), indent=2, allow_nan=False), encoding="utf-8")
    write_report(out)
    _remove(out / CHECKPOINT)


def _summary(result: RunResult) -> dict[str, Any]:
    """Scores and data of a run, for ``scores.json``."""
    scores, train, test = result.scores, result.train, result.test

    def trials(part: PairedWindows, subject: str) -> dict[str, int]:
        values = part.labels[subject][part.trials[subject]]
        return {str(c): int((values == c).sum()) for c in part.conditions}

    levels = {str(level): scores.sel(level=level) for level in scores["level"].to_numpy()}
    return {
        "neuroshare": __version__,
        "by": result.config.by,
        "conditions": [str(c) for c in train.conditions],
        "chance": float(scores["chance"]),
        "statement": str(scores.attrs.get("statement", "")),
        **{level: _summary_of_level(at) for level, at in levels.items()},
        "subjects": {
            name: {
                "file": train.counts[name].attrs["file"],
                "units": train.counts[name].sizes["unit"],
                "train": trials(train, name),
                "test": trials(test, name),
            }
            for name in train.subjects
        },
        "left_out": result.left_out,
        **_summary_of_battery(result),
    }


def _matrices(battery: Battery) -> xr.Dataset:
    """Scores by subject of every model, with dim model."""
    names = ("own", "own_interval", "p_own", "cross", "cross_interval", "p_cross")
    parts = []
    for scored in battery.scored.values():
        part = scored.separation[[name for name in names if name in scored.separation]]
        if scored.imputation is not None:
            imputed = scored.imputation
            more = ("bits_per_spike", "above_psth", "coherence")
            keep = [n for m in more for n in (m, f"{m}_interval") if n in imputed]
            # Its sources include all others together.
            part = part.merge(imputed[keep].rename(source="sources"), compat="override")
        parts.append(part.drop_attrs())
    models = pd.Index(list(battery.scored), name="model")
    return xr.concat(parts, dim=models, data_vars="all", join="outer", coords="minimal")


def _summary_of_battery(result: RunResult) -> dict[str, Any]:
    """What is scored beside the separation; None for what was not."""
    battery, control = result.battery, result.control
    summary: dict[str, Any] = dict.fromkeys(
        ("model", "comparison", "imputation", "residuals", "departure", "control")
    )
    if battery is None:
        return summary
    summary["model"] = battery.name
    summary["comparison"] = {}
    for row in battery.comparison.to_dict("records"):
        label = f"{row['score']}, per {row['level']}" if row["level"] else row["score"]
        values = {k: _plain(row[k]) for k in row if k not in ("model", "score", "level")}
        summary["comparison"].setdefault(row["model"], {})[label] = values
    imputed, left, who = battery.imputation, battery.residuals, battery.departure
    if imputed is not None and left is not None and who is not None:
        # The PSTH needs no latents: it is a row of its own.
        psth = imputed["bits_per_spike_psth"]
        summary["imputation"] = {
            "bits_per_spike": _nested(imputed["bits_per_spike"]),
            "bits_per_spike_psth": {
                str(k): _number(psth.sel(target=k)) for k in psth["target"].values
            },
            "above_psth": _nested(imputed["above_psth"]),
            "coherence": _nested(imputed["coherence"]),
        }
        at = left.sel(level="trial")
        summary["residuals"] = {
            str(name): {
                **{
                    str(part): _number(left["share"].sel(subject=name, part=part))
                    for part in left["part"].values
                },
                **{
                    key: _number(at[key].sel(subject=name))
                    for key in (
                        "information_activity",
                        "information_residual",
                        "p_information_residual",
                    )
                    if key in at
                },
            }
            for name in left["subject"].values
        }
        summary["departure"] = {
            str(name): {
                key: _number(who[key].sel(subject=name).mean("time"))
                for key in ("divergence", "within")
            }
            for name in who["subject"].values
        }
    if control is not None:
        summary["control"] = {
            str(level): _summary_of_level(control.sel(level=level))
            for level in control["level"].values
        }
    return summary


def _nested(matrix: xr.DataArray) -> dict[str, dict[str, float | None]]:
    """Source -> target -> value, without the subjects' own."""
    return {
        str(a): {
            str(b): _number(matrix.sel(source=a, target=b))
            for b in matrix["target"].values
            if str(a) != str(b)
        }
        for a in matrix["source"].values
    }


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value


def _summary_of_level(scores: xr.Dataset) -> dict[str, Any]:
    subjects = [str(name) for name in scores["subject"].to_numpy()]
    # None where a test was not asked for, so that the file always holds the same names.
    found: dict[str, Any] = {
        f"{score}_{kind}": _number(scores[f"{score}_{kind}"])
        if f"{score}_{kind}" in scores
        else None
        for score in ("mean", "p_mean", "p_sign_flip")
        for kind in ("own", "cross")
    }
    for kind in ("own", "cross"):
        bounds = scores.get(f"mean_{kind}_interval")
        found[f"mean_{kind}_interval"] = (
            None if bounds is None else [_number(bound) for bound in bounds]
        )
    for name in ("own", "p_own"):
        if name in scores:
            found[name] = {s: _number(scores[name].sel(subject=s)) for s in subjects}
    for name in ("cross", "p_cross"):
        if name in scores:
            found[name] = {
                a: {b: _number(scores[name].sel(source=a, target=b)) for b in subjects if b != a}
                for a in subjects
            }
    return found


def _number(value: xr.DataArray) -> float | None:
    """Plain number for JSON, which has no NaN."""
    return None if np.isnan(value) else float(value)


def _settings_of(model: SharedLatentModel) -> dict[str, Any]:
    """All arguments of a model that decide its result, without those of the run itself."""
    apart = ("seed", "progress", "device", "subjects")
    given = model.get_params().items()
    return {key: value for key, value in given if key not in apart and value is not None}


def _as_tuple(value: Any) -> Any:
    """TOML knows only lists; arguments that are never changed are tuples."""
    if isinstance(value, Mapping):
        return {key: _as_tuple(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
