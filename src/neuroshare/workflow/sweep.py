"""Objectives x betas x seeds: a table of runs, written one by one, continued when stopped."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from neuroshare import __version__
from neuroshare.analysis.imputation import ALL_OTHERS, imputation_scores
from neuroshare.analysis.separation import separation
from neuroshare.models.shared import SharedLatentModel
from neuroshare.models.together import fit_together
from neuroshare.support.checks import MOST_SEED, brief, require, require_number, require_whole
from neuroshare.support.files import locked, replacing
from neuroshare.support.parallel import Executor, run_each
from neuroshare.vae.objectives import Objective
from neuroshare.windows.paired import PairedWindows
from neuroshare.workflow.doors import require_executor, require_split

__all__ = ["score_run", "sweep"]

Score = Callable[[SharedLatentModel, PairedWindows, PairedWindows], Mapping[str, float]]
Data = tuple[PairedWindows, PairedWindows]

AT_ONCE = 32
"""Runs that a GPU fits at once: below about 15 to 27 it waits for kernels to be launched."""


def sweep(
    train: PairedWindows,
    test: PairedWindows,
    out: str | os.PathLike[str],
    *,
    objectives: Sequence[str] | Mapping[str, str | Objective],
    betas: Sequence[float],
    seeds: Sequence[int],
    model: Mapping[str, object] | None = None,
    score: Score | None = None,
    executor: int | Executor | None = None,
    threads: int = 1,
    stacked: int | Literal["auto"] = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Fit and score every combination of objective, beta and seed.

    A run is written to ``out/runs/<id>.json`` when it ends, whole or not at all. The same call
    again continues where it was stopped: a run that has its file is read, not repeated. The id
    depends on all settings of the model, on the data, the name of the score and the version of this
    package, so different sweeps may share a folder; the table holds only what was asked for.

    Parameters
    ----------
    train, test
        The parts of one split; runs are fitted to the first and scored on the second.
    out
        Folder of the results.
    objectives
        Names, or a mapping from a label to a name or an `Objective` of your own.
    betas, seeds
        Weights of the rate, and seeds of the model.
    model
        Further arguments of `SharedLatentModel`.
    score
        Called with the fitted model, train and test, it returns numbers by name; `score_run` by
        default. A result is recognised by the function's name, so give a changed function a new
        one.
    executor
        Where runs are executed. None: in this process, one after another. A number: in that many
        processes. A ``dask.distributed.Client``: on its cluster, whose workers have this package
        and need not see `out`. Or any object whose `submit` returns futures, such as an executor
        of `concurrent.futures`; its workers see `out`.
    threads
        Threads of one run. With the same number the table is the same wherever it was executed on
        a CPU.
    stacked
        How many runs are fitted at once, see `neuroshare.models.together.fit_together`; ``"auto"``:
        32 on a GPU, elsewhere one. Batches and noise are drawn for all of them together, so that a
        run depends on which others it was fitted with.
    progress
        Show a progress bar over runs.

    Returns
    -------
    DataFrame
        One row per run, by objective, beta and seed: ``objective``, ``beta``, ``seed``, the other
        settings, the scores, ``error``, why it could not be fitted (its scores are then NaN), and
        ``run``, its id. Durations differ from sweep to sweep and are only in the files.

    Raises
    ------
    ValueError
        If there is nothing to run, a setting is unknown, no run could be fitted, or a file of
        `out` is damaged. What else goes wrong in a run is raised when all others have ended.
    TypeError
        If a part is no `PairedWindows`.

    Notes
    -----
    The windows are sent once to every worker of a Dask cluster, or written once to a temporary
    folder in `out` for others to read; memory-mapped counts are opened by every worker under the
    name of their file. Tasks of a worker that died are resubmitted. Two sweeps may share the folder
    at the same time: a run is locked while it is executed by a process that sees the folder, and
    the system frees the lock of a process that dies.

    Examples
    --------
    >>> import tempfile
    >>> import neuroshare as ns
    >>> sessions = ns.simulate_sessions({"mitt": 8, "stella": 6}, n_trials=6)
    >>> counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    >>> train, test = ns.pair_subjects(counts, by="odor", step=0.1).split()
    >>> settings = {"epochs": 1, "latent_dim": 2, "init": "random"}
    >>> with tempfile.TemporaryDirectory() as out:
    ...     table = sweep(train, test, out, objectives=["mmvm", "poe"], betas=[1.0],
    ...                   seeds=[0, 1], model=settings, progress=False)
    >>> table[["objective", "beta", "seed"]].values.tolist()
    [['mmvm', 1.0, 0], ['mmvm', 1.0, 1], ['poe', 1.0, 0], ['poe', 1.0, 1]]
    """
    require_split(train, test, "sweep")
    grid = _grid(objectives, betas, seeds)
    labelled = (
        objectives if isinstance(objectives, Mapping) else {name: name for name in objectives}
    )
    _require_settings(model)
    require(
        score is None or callable(score),
        "score", "sweep", "a function of a fitted model, train and test", score,
    )  # fmt: skip
    require_executor(executor, "sweep")
    require_whole(threads, "threads", "sweep", 1)
    if stacked != "auto":
        require_whole(stacked, "stacked", "sweep", 1)
    score = score or score_run
    fixed = {
        "train": train.fingerprint(),
        "test": test.fingerprint(),
        "score": score.__qualname__,
        "neuroshare": __version__,
    }
    # A worker may have another working directory.
    folder = Path(out).absolute() / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    runs = {}
    for label, beta, seed in grid:
        given = {"objective": labelled[label], "beta": beta, "seed": seed}
        run = _Run.of({**(model or {}), **given, "progress": False}, fixed, folder)
        runs[label, beta, seed] = run
    waiting = {run.id: run for run in runs.values() if not run.path.exists()}
    with tqdm(
        total=len(grid),
        initial=len(grid) - len(waiting),
        disable=not progress,
        unit="run",
        desc="sweep",
    ) as bar:
        failures: list[Exception] = []
        todo = list(waiting.values())
        n_at_once = _at_once(stacked, todo)
        batches = [todo[first : first + n_at_once] for first in range(0, len(todo), n_at_once)]
        for position, outcomes in run_each(
            partial(_attempt, score), (train, test), batches, executor, threads=threads, folder=out
        ):
            bar.update(len(outcomes))
            for run, ended in zip(batches[position], outcomes, strict=True):
                if isinstance(ended, Exception):
                    failures.append(ended)
                else:
                    run.keep(ended)
    if failures:
        failures[0].add_note(
            f"{len(failures)} of {len(grid)} runs failed; the others are kept in {folder}. "
            "The same call repeats only those that failed."
        )
        raise failures[0]
    rows: list[dict[str, Any]] = []
    last: list[dict[str, Any]] = []
    for (label, beta, seed), run in runs.items():
        record = run.read()
        settings = {
            key: value
            if value is None or isinstance(value, int | float | str)
            else json.dumps(value)
            for key, value in record["settings"].items()
        }
        scores = {
            key: np.nan if value is None else value for key, value in record["scores"].items()
        }
        own = {"objective": label, "beta": beta, "seed": seed}
        rows.append(own | {k: v for k, v in settings.items() if k not in own} | scores)
        last.append({"error": record["error"], "run": run.id})
    errors = [row["error"] for row in last if row["error"]]
    if len(errors) == len(last):
        raise ValueError(f"no run could be fitted. The first said: {errors[0]}")
    if errors:
        warnings.warn(
            f"{len(errors)} of {len(last)} runs could not be fitted and have no scores; the column "
            f"'error' says why. The first: {errors[0]}",
            stacklevel=2,
        )
    # Side by side, for a run that could not be fitted has no scores to tell their columns.
    return pd.concat([pd.DataFrame(rows), pd.DataFrame(last)], axis=1)


def _grid(
    objectives: Iterable[str], betas: Iterable[float], seeds: Iterable[int]
) -> list[tuple[str, float, int]]:
    """Every combination of the labels of objectives, betas and seeds, in order."""
    lists: list[list[Any]] = []
    for values in (objectives, betas, seeds):
        listed = isinstance(values, Iterable) and not isinstance(values, str | bytes)
        lists.append(list(values) if listed else [])
    if not all(lists):
        raise ValueError(
            "sweep needs lists of objectives, betas and seeds, one value or more each. "
            f"Got {brief(objectives)}, {brief(betas)}, {brief(seeds)}."
        )
    for label in lists[0]:
        require(
            isinstance(label, str) and label != "",
            "objectives", "sweep",
            "a list of names, or a mapping from labels to names or Objectives", objectives,
        )  # fmt: skip
    for beta in lists[1]:
        require_number(beta, "betas", "sweep", 0)
    for seed in lists[2]:
        require_whole(seed, "seeds", "sweep", most=MOST_SEED)
    labels, weights, numbers = lists
    return list(itertools.product(labels, map(float, weights), map(int, numbers)))


def _require_settings(model: object) -> None:
    require(
        model is None or isinstance(model, Mapping),
        "model", "sweep", "a mapping of further settings of SharedLatentModel", model,
    )  # fmt: skip
    assert model is None or isinstance(model, Mapping)
    known = set(SharedLatentModel().get_params(deep=False)) - {"objective", "beta", "seed"}
    if unknown := sorted(map(str, set(model or {}) - known)):
        raise ValueError(
            f"The 'model' parameter of sweep has unknown settings {unknown}; expected some of "
            f"{sorted(known)}. Objectives, betas and seeds are parameters of their own."
        )


def score_run(
    model: SharedLatentModel, train: PairedWindows, test: PairedWindows
) -> dict[str, float]:
    """Score one fitted model: how well it separates, imputes and reconstructs.

    Returns
    -------
    dict
        Means over subjects, or over pairs of them: ``own``, ``cross`` and ``joint`` accuracy per
        ``window`` and ``trial`` (`joint`: of what the decoders are fed given all paired subjects,
        who share the condition by construction); ``coherence`` and ``bits_per_spike``
        (``variance_explained`` of activity that is no spike counts) from one other subject, and
        from ``all_others``; ``mse_self`` and ``mse_joint``, squared error per bin of
        reconstructions from the subject alone and from what the decoders are fed;
        ``loss`` and ``rate`` of the last epoch of training.
    """
    scores: dict[str, float] = {}
    alone = [model.transform(part, part="all") for part in (train, test)]
    fed = [model.transform(part, part="all", joint=True) for part in (train, test)]
    own_code = bool(np.allclose(alone[1], fed[1], rtol=1e-4, atol=1e-5, equal_nan=True))
    shared = slice(model.latent_dim_)
    accuracy = separation(alone[0][..., shared], alone[1][..., shared], by=test.by, pooled=False)
    joint = accuracy
    if not own_code:
        joint = separation(fed[0][..., shared], fed[1][..., shared], by=test.by, pooled=False)
    for kind, scored, name in (
        ("own", accuracy, "mean_own"),
        ("cross", accuracy, "mean_cross"),
        ("joint", joint, "mean_own"),
    ):
        for level in ("window", "trial"):
            scores[f"{kind}_{level}"] = float(scored[name].sel(level=level))
    if len(test.subjects) > 1:
        imputed = imputation_scores(model, train, test)
        every = imputed["source"] == ALL_OTHERS
        for name in ("coherence", imputed.attrs["score"]):
            scores[name] = float(imputed[name].where(~every).mean())
            scores[f"{name}_all_others"] = float(imputed[name].where(every).mean())
    scores["mse_self"] = float(np.mean([_error(model, test, name, name) for name in test.subjects]))
    scores["mse_joint"] = scores["mse_self"]
    if not own_code:
        everyone = list(test.subjects)
        scores["mse_joint"] = float(
            np.mean([_error(model, test, name, everyone) for name in everyone])
        )
    for name in ("loss", "rate"):
        # A model that kept its start has had no epoch.
        values = model.history_[name].values
        scores[name] = float(values[-1]) if len(values) else float("nan")
    return scores


def _error(
    model: SharedLatentModel, test: PairedWindows, target: str, source: str | list[str]
) -> float:
    """Mean squared error per bin, of windows in which the target took part."""
    return float(np.nanmean(np.square(model.impute(test, target, source).values - test[target])))


def _at_once(stacked: int | Literal["auto"], runs: Sequence[_Run]) -> int:
    """How many runs to fit at once."""
    if stacked == "auto":
        on_gpu = runs and SharedLatentModel(**runs[0].params).device_type() == "cuda"
        return AT_ONCE if on_gpu else 1
    return stacked


@dataclass(frozen=True)
class _Run:
    """One fit: how to make its model, and the file of its result."""

    id: str
    params: dict[str, Any]
    settings: dict[str, Any]
    fixed: dict[str, str]
    path: Path

    @classmethod
    def of(cls, params: dict[str, Any], fixed: dict[str, str], folder: Path) -> _Run:
        every = SharedLatentModel(**params).get_params(deep=False)
        # Where a model was fitted, and with how much ado, is not part of what was fitted.
        settings = {k: _plain(v) for k, v in every.items() if k not in ("device", "progress")}
        text = json.dumps([settings, fixed], sort_keys=True)
        id_ = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        return cls(id_, params, settings, fixed, folder / f"{id_}.json")

    def read(self) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{self.path} is damaged: {error}. Delete it, and the same call repeats its run."
            ) from error
        return record

    def score(
        self,
        model: SharedLatentModel,
        refusal: ValueError | None,
        data: Data,
        score: Score,
        began: float,
    ) -> dict[str, Any]:
        """Give what there is to keep of a model, or of why it could not be fitted."""
        scores: dict[str, float] = {}
        # That a fit diverges is a result as well, and repeating it would not change it.
        if refusal is None:
            if model.history_.attrs.get("interrupted"):
                raise KeyboardInterrupt
            scores = {name: float(value) for name, value in score(model, *data).items()}
        return {
            "run": self.id,
            "settings": self.settings,
            **self.fixed,
            "scores": {k: v if np.isfinite(v) else None for k, v in scores.items()},
            "error": None if refusal is None else str(refusal),
            "seconds": round(time.perf_counter() - began, 3),
            "versions": {name: version(name) for name in ("torch", "numpy", "scikit-learn")},
        }

    def keep(self, record: Mapping[str, Any]) -> None:
        """Write the result, unless who executed the run has done so."""
        if not self.path.exists():
            with replacing(self.path) as part:
                part.write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")


def _attempt(score: Score, data: Data, runs: Sequence[_Run]) -> list[dict[str, Any] | Exception]:
    """Fit runs at once, score and keep each; an error is a result, for other runs go on."""
    ended: dict[str, dict[str, Any] | Exception] = {}
    seen = runs[0].path.parent.is_dir()
    with ExitStack() as locks:
        # In one order, or two sweeps could wait for each other for ever.
        for run in sorted(runs, key=lambda run: run.id):
            if seen:
                locks.enter_context(locked(run.path.with_suffix(".lock")))
            if run.path.exists():
                ended[run.id] = run.read()
        left = [run for run in runs if run.id not in ended]
        models = [SharedLatentModel(**run.params) for run in left]
        began = time.perf_counter()
        try:
            refusals = _fit(models, data[0])
        except Exception as error:
            error.add_note(f"in the runs {[run.settings for run in left]}")
            return [ended.get(run.id, error) for run in runs]
        # Runs that were fitted at once took their share of the time each.
        share = (time.perf_counter() - began) / max(len(left), 1)
        for run, model, refusal in zip(left, models, refusals, strict=True):
            began = time.perf_counter() - share
            try:
                record = run.score(model, refusal, data, score, began)
                if seen:
                    run.keep(record)
                ended[run.id] = record
            except Exception as error:
                error.add_note(f"in the run {run.settings}")
                ended[run.id] = error
    return [ended[run.id] for run in runs]


def _fit(models: Sequence[SharedLatentModel], train: PairedWindows) -> list[ValueError | None]:
    """Fit the models; for each None or why it could not be."""
    if len(models) > 1:
        return fit_together(models, train, seed=models[0].seed, progress=False)
    for model in models:
        try:
            model.fit(train)
        except ValueError as refusal:
            return [refusal]
    return [None for _ in models]


def _plain(value: Any) -> Any:
    """Restate an argument of a model as JSON: objects by their class and arguments."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    names = [name for name in inspect.signature(type(value)).parameters if hasattr(value, name)]
    return {type(value).__qualname__: {name: _plain(getattr(value, name)) for name in names}}
