"""One analysis from NWB files to scores and a report: what ``neuroshare fit`` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neuroshare.recordings.nwb import write_nwb
from neuroshare.recordings.simulate import simulate_sessions
from neuroshare.support.threads import one_blas_thread
from neuroshare.windows.paired import PairedWindows
from neuroshare.workflow.folder import RunFolder
from neuroshare.workflow.reading import Recordings, Split, read_recordings, split_recordings
from neuroshare.workflow.settings import RunConfig

if TYPE_CHECKING:  # torch takes seconds: what is wrong with the recordings is told before
    from neuroshare.models.shared import SharedLatentModel
    from neuroshare.vae.objectives import Objective
    from neuroshare.workflow.finished import FinishedRun

__all__ = ["RunResult", "model_of", "run_demo", "run_fit"]

Tell = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """A run that has just ended: what it found, and the model and windows it found it with."""

    folder: RunFolder
    finished: FinishedRun
    model: SharedLatentModel
    train: PairedWindows
    test: PairedWindows


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
        Folder of the run, whose files `RunFolder` names. An interrupted run with the same settings
        is continued from its checkpoint.
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
    folder = RunFolder(Path(out))
    with folder.held(), one_blas_thread():
        return _run_fit(config, folder, overwrite, progress, tell)


def _run_fit(
    config: RunConfig, folder: RunFolder, overwrite: bool, progress: bool, tell: Tell
) -> RunResult:
    if any(isinstance(value, Mapping) for value in config.model.values()):
        model_of(config)  # what objects there are cannot be checked without torch
    recordings = read_recordings(config)
    split = split_recordings(recordings, config)
    for sentence in split.left_out:
        tell(sentence)
    if len(split.train.subjects) == 1:
        tell(
            f"One subject ({split.train.subjects[0]}) cannot share a latent space with another: "
            "only its own scores are computed. Give the files of two animals or more."
        )
    elif len({str(a) for a in split.train.coords()["animal"][1]}) == 1:
        tell(
            f"All {len(split.train.subjects)} sessions are of one animal "
            f"({', '.join(split.train.subjects)}): means of cross accuracy are between animals, "
            "and there are none. Name files animal/session=FILE if they are of several."
        )
    return _fit(split.config, folder, overwrite, progress, recordings, split)


def _fit(
    config: RunConfig,
    folder: RunFolder,
    overwrite: bool,
    progress: bool,
    recordings: Recordings,
    split: Split,
) -> RunResult:
    from neuroshare.workflow.finished import FinishedRun
    from neuroshare.workflow.fitted import Fitted
    from neuroshare.workflow.page import write_report

    model = model_of(config, progress=progress)
    model.check_settings()
    rule = resolved_objective(model)
    # The column under the name that the results have for it.
    config = dataclasses.replace(
        config,
        model=_settings_of(model, rule),
        by=recordings.by,
        score_by=recordings.factor if config.score_by else None,
    )
    if overwrite:
        folder.clear()
    folder.claim(config)
    continued = folder.checkpoint.exists()
    try:
        model.fit(
            split.train,
            validation=config.validation_fraction or None,
            checkpoint=folder.checkpoint,
        )
    except ValueError:
        if not continued:  # these settings cannot be trained: there is nothing to continue
            folder.clear()
        raise
    if model.history_.attrs.get("interrupted"):
        raise KeyboardInterrupt

    name, cited = _name_of(rule), rule.reference
    trained = model.history_.sizes["epoch"] > 0
    fitted = Fitted(
        config=config,
        model=model,
        name=name,
        source=f"The sharing rule {'was' if trained else 'would have been'} {name}"
        f"{f' ({cited.short})' if cited else ''}, its modalities the subjects"
        f"{'. ' + rule.sentence() if trained else '; nothing was trained by it.'}"
        f" {model.imputation_}".rstrip(),
        references=cited.full if cited else "",
        train=split.train,
        test=split.test,
        before=recordings.before,
        progress=progress,
    )
    finished = FinishedRun.of(
        fitted, recordings.files, split.left_out, recordings.odd, progress=progress
    )
    folder.write(finished, model.save)
    write_report(folder.path)
    for path in (folder.checkpoint, folder.choice):
        path.unlink(missing_ok=True)
    return RunResult(folder, finished, model, split.train, split.test)


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


def model_of(config: RunConfig, *, progress: bool = False) -> SharedLatentModel:
    """Make the model of a run, not fitted.

    Raises
    ------
    ValueError
        If an object of the settings has other arguments than those given.
    """
    from neuroshare.models.saving import settings_of_json
    from neuroshare.models.shared import SharedLatentModel
    from neuroshare.vae.schedule import Schedule

    arguments = {}
    for key, value in config.model.items():
        try:
            arguments[key] = settings_of_json((key,), value, {"schedule": Schedule}, {})
        except TypeError as error:
            raise ValueError(f"{key} of the model cannot be made of {value}: {error}.") from error
    if config.quick:
        arguments.setdefault("epochs", 0)
    return SharedLatentModel(**{**arguments, "seed": config.seed, "progress": progress})


def resolved_objective(model: SharedLatentModel) -> Objective:
    """Give the sharing rule of a model with all its arguments, whether it was named or given."""
    from neuroshare.models.building import resolved

    return resolved(model.objective)


def _name_of(rule: Objective) -> str:
    from neuroshare.vae.objectives import OBJECTIVES

    return next(name for name, kind in OBJECTIVES.items() if type(rule) is kind)


def _settings_of(model: SharedLatentModel, rule: Objective) -> dict[str, object]:
    """All arguments of a model that decide its result, without those of the run itself.

    The sharing rule comes with all its arguments, so that a name which stands for others in a
    later version repeats this run and no other.
    """
    from neuroshare.models.saving import settings_as_json
    from neuroshare.vae.schedule import Schedule

    apart = ("seed", "progress", "device", "subjects")
    given = {k: v for k, v in model.get_params(deep=False).items() if k not in apart}
    given["objective"] = rule
    return {
        k: settings_as_json(v, {"schedule": Schedule}) for k, v in given.items() if v is not None
    }
