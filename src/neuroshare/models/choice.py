"""What a model chooses for itself, and of what."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from neuroshare.models.alignment import Array
from neuroshare.models.held_out import (
    N_SETTLED,
    Codes,
    Criterion,
    between_subjects,
    most_widths,
    own_and_cross,
    score_of,
)
from neuroshare.models.inputs import Kind
from neuroshare.models.linear_start import (
    FIRST_LATENTS,
    WEIGHTINGS,
    Weighting,
    maps_of,
    most_latents,
)
from neuroshare.models.moments import Features, Moments
from neuroshare.support.files import write_whole
from neuroshare.support.parallel import Executor, run_each
from neuroshare.vae.train import Verdict
from neuroshare.windows.paired import PairedWindows

AUTO = "auto"
PARTS = (1, 2, 5)
"""Parts of the window that are tried, where they have equally many lags."""
MOST_FEATURES = 1000
"""Of one subject: more parts are not tried beyond."""
N_TRAINED = 2
"""Folds of the choice of a start in which training is tried."""
EVERY, PATIENCE = 50, 150
"""Steps between looks, and without a better one."""
MOST_STEPS = {"mcca": 900, "random": 1500}
"""From a start."""
HOPELESS = ((150, 0.3), (300, 0.1))
"""After so many steps networks that began at random are given up if their log loss is by such a
share above that of the aligned start."""
RANDOM_LATENTS = 16
"""At least, of networks that start at random: a nonlinear code may need more than a linear one."""


Both = tuple[float, float]
"""Own and cross accuracy."""
Data = TypeVar("Data")
Item = TypeVar("Item")
Result = TypeVar("Result")
_Encoders = Mapping[str, tuple[Array, Array]]
"""By subject: what is taken from features, (feature,), and their map, (feature, latent)."""


@dataclass(frozen=True)
class Start:
    """A start to choose from."""

    parts: int
    weighting: Weighting
    latent_dim: int

    def row(self) -> dict[str, Any]:
        """As columns of a table."""
        kind = "pooled" if self.parts == 1 else self.parts
        start = {"init": "mcca", "latent_dim": self.latent_dim, "inputs": kind}
        return {**start, **vars(self.weighting)}


@dataclass
class Choice:
    """What was chosen, and of what."""

    latent_dim: int
    inputs: Kind
    weighting: Weighting = WEIGHTINGS[0]
    init: str = "mcca"
    steps: int | None = None
    """Training steps; None where they were not to be chosen."""
    table: list[dict[str, Any]] = field(default_factory=list)
    """One row per candidate: stage, settings, steps, score and standard_error."""
    why: str = ""
    """Why nothing could be chosen, if so."""

    given: tuple[str, ...] = ()
    """Names of what was given, and so not chosen."""
    sharpness: dict[str, float] | None = None
    """How far the codes of each subject tell conditions and times after these steps, in held-out
    trials; None where no steps were chosen."""

    def chosen(self) -> dict[str, Any]:
        """What was chosen, without what was given."""
        if self.why:
            return {"why_not": self.why}
        found = {
            "latent_dim": self.latent_dim,
            "inputs": self.inputs,
            "init": self.init,
            "steps": self.steps,
        }
        kept = {name: value for name, value in found.items() if name not in self.given}
        return kept | (vars(self.weighting) if self.table else {})

    def resolve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of a model with what was chosen in place of ``"auto"``."""
        found: dict[str, Any] = {
            "latent_dim": self.latent_dim,
            "inputs": self.inputs,
            "init": self.init,
        }
        if self.steps is not None:
            found["epochs"] = self.steps
        return {**params, **found}

    def check(self, params: Mapping[str, Any]) -> None:
        """Refuse parameters that were given and are others than those resolved."""
        for name, value in self.resolve(params).items():
            if name != "epochs" and not is_auto(params[name]) and params[name] != value:
                raise ValueError(f"{name} is {params[name]!r} and was chosen as {value!r}")

    def selection(self) -> pd.DataFrame:
        """Give the candidates as a table."""
        columns = [
            "stage", "init", "latent_dim", "inputs", "ridge", "scaling", "sharing", "steps",
            "score", "standard_error", "own", "cross", "log_loss", "chosen",
        ]  # fmt: skip
        return pd.DataFrame(self.table, columns=columns)

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**vars(self), "weighting": vars(self.weighting)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Choice:
        """Undo `as_json`."""
        given = tuple(stored["given"])
        return cls(**{**stored, "weighting": Weighting(**stored["weighting"]), "given": given})

    @classmethod
    def of_file(cls, stored: Mapping[str, Any] | None, params: Mapping[str, Any]) -> Choice:
        """As the file of a model holds it; those of older versions chose nothing."""
        if stored is not None:
            return cls.from_json(stored)
        given = ("latent_dim", "inputs", "init", "steps")
        return cls(params["latent_dim"], params["inputs"], init=params["init"], given=given)


def is_auto(value: object) -> bool:
    """Whether a setting is to be chosen."""
    return isinstance(value, str) and value == AUTO


def choose_start(
    folds: Sequence[tuple[PairedWindows, PairedWindows]],
    whole: tuple[PairedWindows, PairedWindows],
    roots: Mapping[str, bool],
    *,
    latent_dims: Sequence[int],
    parts: Sequence[int],
    weightings: Sequence[Weighting],
    shares: bool,
    seed: int,
    progress: bool,
    executor: int | Executor | None = None,
) -> Choice:
    """Choose the linear start that separates conditions best on held-out trials.

    Every start is learned from the training trials of each fold and scored on its held-out trials:
    balanced accuracy per trial of a linear discriminant of the latents (where windows are paired by
    behavior, the share of its variance that is decoded), the mean of own and cross-subject
    accuracy. Between the best of each number of parts, the classifier of `separation` decides (or
    the nearest windows of `decoding`), see `surest`. Starts of few and many latents are the same
    map, cut.

    Parameters
    ----------
    folds
        Training and validation parts.
    whole
        Windows that hold the training and the validation trials of all folds.
    roots
        Whether the encoder of a subject sees square roots.
    latent_dims, parts, weightings
        To choose from.
    shares
        Whether subjects share a start; otherwise each has its own, scored by own accuracy.
    seed
        Of starts that subjects do not share.
    progress
        Show a progress bar.
    executor
        Where folds are tried, see `run_each`; None: in this process, one after another.
    """
    first = folds[0][0].thinned()
    widths = sorted({min(k, most_widths(first)) for k in latent_dims})
    tried = _Folds(folds, whole, roots, weightings, widths, shares, seed)
    places = [(n_parts, fold) for n_parts in parts for fold in range(len(folds))]
    with tqdm(total=2 * len(places), disable=not progress, unit="start", desc="choose") as bar:
        found: dict[Start, list[Both]] = {}
        for scored in in_order(_quick, tried, places, executor, bar):
            for start, both in scored.items():
                found.setdefault(start, []).append(both)
        complete = {start: np.array(s) for start, s in found.items() if len(s) == len(folds)}
        own_only = not shares or len(first.subjects) == 1
        weight = np.array([1.0, 0.0] if own_only else [0.5, 0.5])
        scores = {start: np.nan_to_num(s) @ weight for start, s in complete.items()}
        # The discriminant may prefer other parts than the classifier, so that none is left out.
        settled: list[Start] = []
        losses: dict[Start, float] = {}
        for n_parts in parts:
            ranked = sorted(
                (start for start in scores if start.parts == n_parts),
                key=lambda start: -scores[start].mean(),
            )
            settled += ranked[:N_SETTLED]
        if len(settled) > 1:
            again: dict[Start, list[tuple[Both, Both]]] = {start: [] for start in settled}
            asked = [(fold, [s for s in settled if s.parts == n]) for n, fold in places]
            for judged in in_order(_settled, tried, asked, executor, bar):
                for start, found_again in judged.items():
                    again[start].append(found_again)
            for start, of_folds in again.items():
                complete[start], of_loss = np.swapaxes(np.array(of_folds), 0, 1)
                scores[start] = np.nan_to_num(complete[start]) @ weight
                losses[start] = float((np.nan_to_num(of_loss) @ weight).mean())
    best = surest(scores, losses) if losses else settled[0]
    table = [
        _row(
            "start",
            start.row(),
            0,
            scores[start],
            complete[start],
            losses.get(start, float("nan")),
            start == best,
        )
        for start in complete
    ]
    kind: Kind = "pooled" if best.parts == 1 else best.parts
    return Choice(best.latent_dim, kind, best.weighting, table=table)


def surest(scores: Mapping[Start, Array], losses: Mapping[Start, float]) -> Start:
    """Give the start of least log loss among those that do as well as the best one.

    That are those over which the best one gains no more than the standard error of the gain over
    folds. Which of them has the highest accuracy is chance; the log loss is smoother.

    Parameters
    ----------
    scores
        In every fold.
    losses
        Of the starts to choose from.
    """
    best = max(losses, key=lambda start: scores[start].mean())
    gains = {start: _mean_and_error(scores[best] - scores[start]) for start in losses}
    return min(
        (start for start, (gain, error) in gains.items() if gain <= error),
        key=lambda start: losses[start],
    )


@dataclass
class Looks:
    """Scores after so many training steps, one entry for each look at a fold."""

    shares: bool
    reference: float | None = None
    """Log loss of the aligned start in this fold, for networks that start elsewhere."""
    steps: list[int] = field(default_factory=list)
    accuracy: list[Array] = field(default_factory=list)
    """Each (source, target), as the log losses."""
    loss: list[Array] = field(default_factory=list)
    of_bins: list[Array] = field(default_factory=list)
    """Log losses of windows' bins, each (subject, sharpness); where they are asked for."""

    @property
    def hopeless(self) -> bool:
        """Whether training is far behind the start that needs none."""
        if self.reference is None:
            return False
        last = score_of(self.loss[-1], self.shares)
        return any(
            self.steps[-1] >= step and last > self.reference * (1 + share)
            for step, share in HOPELESS
        )

    def note(
        self, step: int, accuracy: Array, loss: Array, of_bins: Array | None = None
    ) -> Verdict:
        """Take down a look; say when training has not become better for long."""
        self.steps.append(step)
        if of_bins is not None:
            self.of_bins.append(of_bins)
        self.accuracy.append(accuracy)
        self.loss.append(loss)
        best = self.steps[int(np.argmin([score_of(part, self.shares) for part in self.loss]))]
        return "stop" if step - best >= PATIENCE or self.hopeless else "go on"


def choose_steps(
    tried: Mapping[str, Sequence[Looks]], rows: Mapping[str, Mapping[str, Any]]
) -> tuple[str, int, list[dict[str, Any]]]:
    """Choose where to start and the number of training steps, none among them.

    By the log loss of held-out trials, own and cross alike: training is to gain more over the start
    of the first candidate, without any, than the standard error of the gain over folds and target
    subjects, and neither own nor cross is to lose more than its standard error. Accuracy is too
    coarse to find the step, and a classifier that is sure of what is wrong shows in the log loss
    first.

    Parameters
    ----------
    tried
        Looks at several folds by name of the start; the first start is scored without training too.
    rows
        Settings of each, for the table.

    Returns
    -------
    name, steps, table
    """
    first = next(iter(tried))
    best, least, table = (first, 0), np.inf, []
    start = np.stack([one.loss[0] for one in tried[first]])
    for name, looks in tried.items():
        shares = looks[0].shares
        common = min(len(one.steps) for one in looks)
        accuracy, loss = (
            np.stack([np.stack(getattr(one, part)[:common]) for one in looks], axis=1)
            for part in ("accuracy", "loss")
        )  # (step, fold, source, target)
        for i, step in enumerate(looks[0].steps[:common]):
            kinds = _of_targets(start[: len(looks)] - loss[i], shares)
            gain, error = _mean_and_error(np.mean(kinds, axis=0))
            harmless = all(mean >= -own_error for mean, own_error in map(_mean_and_error, kinds))
            if step and gain > error and harmless and -gain < min(least, 0.0):
                best, least = (name, step), -gain
            scores = np.array([score_of(a, shares) for a in accuracy[i]])
            both = np.array([own_and_cross(a) for a in accuracy[i]])
            mean_loss = float(np.mean([score_of(part, shares) for part in loss[i]]))
            table.append(_row("training", rows[name], step, scores, both, mean_loss, False))
    for row in table:
        row["chosen"] = (row["init"], row["steps"]) == best
    return *best, table


def _of_targets(values: Array, shares: bool) -> list[Array]:
    """Own and, if shared, cross for every fold and target, of values (fold, source, target)."""
    n = values.shape[1]
    own = np.einsum("ftt->ft", values)
    if not shares or n == 1:
        return [own]
    between = between_subjects(n)
    return [own, np.where(between, values, 0.0).sum(axis=1) / between.sum(axis=0)]


def _mean_and_error(values: Array) -> tuple[float, float]:
    """Mean, and its standard error over folds and targets."""
    return float(values.mean()), float(values.std() / np.sqrt(values.size))


def in_order(
    task: Callable[[Data, Item], Result],
    data: Data,
    items: Sequence[Item],
    executor: int | Executor | None,
    bar: Any,
) -> Iterator[Result]:
    """Give results in order: here one by one as they are asked for, or all by an executor."""
    if executor is None:  # which may itself be a task of another
        for item in items:
            result = task(data, item)
            bar.update()
            yield result
        return
    found = {}
    for position, result in run_each(task, data, items, executor):
        bar.update()
        found[position] = result
    yield from (found[position] for position in range(len(items)))


def _quick(tried: _Folds, place: tuple[int, int]) -> dict[Start, Both]:
    """Own and cross accuracy of all starts of a number of parts, in one fold."""
    n_parts, fold = place
    criterion = Criterion(tried.folds[0][0].thinned().targets)
    scores = {}
    encoders = [tried.widest(n_parts, fold, weighting) for weighting in tried.weightings]
    seen = tried.codes(n_parts, fold, encoders)
    for weighting, of, *codes in zip(tried.weightings, encoders, *seen, strict=True):
        there = next(iter(of.values()))[1].shape[1]
        for k in (k for k in tried.widths if k <= there):
            few = [{n: (z[..., :k], y) for n, (z, y) in part.items()} for part in codes]
            accuracy = criterion.quick(few[0], few[1])
            scores[Start(n_parts, weighting, k)] = own_and_cross(accuracy)
    return scores


def _settled(tried: _Folds, asked: tuple[int, Sequence[Start]]) -> dict[Start, tuple[Both, Both]]:
    """Own and cross accuracy and log loss of some starts in one fold, as `separation` scores them.

    All of them are of one number of parts.
    """
    fold, starts = asked
    criterion = Criterion(tried.folds[0][0].thinned().targets)
    if not starts:
        return {}
    seen = tried.codes(starts[0].parts, fold, [tried.encoders(fold, start) for start in starts])
    scores = {}
    for start, *codes in zip(starts, *seen, strict=True):
        accuracy, loss = criterion.settled(*codes)
        scores[start] = own_and_cross(accuracy), own_and_cross(loss)
    return scores


@dataclass
class _Folds:
    """Where starts are tried. What was read, and maps that were made, are kept where they were."""

    folds: Sequence[tuple[PairedWindows, PairedWindows]]
    whole: tuple[PairedWindows, PairedWindows]
    roots: Mapping[str, bool]
    weightings: Sequence[Weighting]
    widths: Sequence[int]
    shares: bool
    seed: int
    _read: dict[tuple[int, int], Features] = field(default_factory=dict)
    _moments: dict[tuple[int, int], dict[str, Moments]] = field(default_factory=dict)
    _widest: dict[tuple[int, int, Weighting], _Encoders] = field(default_factory=dict)

    def features(self, n_parts: int, part: int) -> Features:
        """Of training (0) or validation trials (1)."""
        part = 0 if self.whole[1] is self.whole[0] else part
        if (n_parts, part) not in self._read:
            self._read[n_parts, part] = Features(self.whole[part], self.roots, n_parts)
        return self._read[n_parts, part]

    def codes(
        self, n_parts: int, fold: int, encoders: Sequence[_Encoders]
    ) -> list[Sequence[Codes]]:
        """Latents of both parts of a fold, by each of some encoders."""
        return [
            self.features(n_parts, part).codes(windows, encoders)
            for part, windows in enumerate(self.folds[fold])
        ]

    def moments(self, n_parts: int, fold: int) -> dict[str, Moments]:
        """Of the training trials of a fold; those of the last one are kept, for they are large."""
        if (n_parts, fold) not in self._moments:
            found = self.features(n_parts, 0).moments(self.folds[fold][0])
            self._moments = {(n_parts, fold): found}
        return self._moments[n_parts, fold]

    def widest(self, n_parts: int, fold: int, weighting: Weighting) -> _Encoders:
        """Encoders to the most latents."""
        key = n_parts, fold, weighting
        if key not in self._widest:
            self._widest[key] = self._encoders(n_parts, fold, weighting, max(self.widths))
        return self._widest[key]

    def encoders(self, fold: int, start: Start) -> _Encoders:
        """Encoders of a start."""
        k = start.latent_dim
        if not self.shares or k < FIRST_LATENTS:  # not the first latents of the wider map
            return self._encoders(start.parts, fold, start.weighting, k)
        wide = self.widest(start.parts, fold, start.weighting)
        return {n: (loc, maps[:, :k]) for n, (loc, maps) in wide.items()}

    def _encoders(self, n_parts: int, fold: int, weighting: Weighting, width: int) -> _Encoders:
        moments = self.moments(n_parts, fold)
        width = min(width, most_latents(moments)) if self.shares else width
        maps = maps_of(moments, weighting, width, alone=not self.shares, seed=self.seed)
        return {name: (moments[name].loc, of) for name, of in maps.items()}


def _row(
    stage: str,
    settings: Mapping[str, Any],
    steps: int,
    scores: Array,
    both: Array,
    log_loss: float,
    chosen: bool,
) -> dict[str, Any]:
    n = len(scores)
    error = float(scores.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    own, cross = both.mean(axis=0)
    return {
        "stage": stage,
        **settings,
        "steps": steps,
        "score": float(scores.mean()),
        "standard_error": error,
        "own": float(own),
        "cross": float(cross),
        "log_loss": log_loss,
        "chosen": chosen,
    }


def read_choice(path: str | os.PathLike[str], of: str) -> Choice | None:
    """Read what an interrupted fit to the same data with the same settings has chosen."""
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        return Choice.from_json(stored["choice"]) if stored["of"] == of else None
    except (OSError, ValueError, TypeError, LookupError):
        return None


def write_choice(path: str | os.PathLike[str], of: str, choice: Choice) -> None:
    """Keep what was chosen, for a fit that is interrupted."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"of": of, "choice": choice.as_json()})
    write_whole(Path(path), text.encode())
