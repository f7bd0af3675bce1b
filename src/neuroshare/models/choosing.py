"""Choose latents, inputs and steps of a model by inner folds of its training windows."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from neuroshare.models.alignment import Array
from neuroshare.models.building import resolved
from neuroshare.models.choice import (
    EVERY,
    MOST_FEATURES,
    MOST_STEPS,
    N_TRAINED,
    PARTS,
    RANDOM_LATENTS,
    Choice,
    Looks,
    choose_start,
    choose_steps,
    in_order,
    is_auto,
    read_choice,
    write_choice,
)
from neuroshare.models.device_windows import PooledWindows, ResidentWindows
from neuroshare.models.evidence import losses_of_trials, sharpness_of
from neuroshare.models.held_out import (
    HELD_OUT,
    N_FOLDS,
    WIDTHS,
    Criterion,
    folds_of,
    score_of,
    why_not,
)
from neuroshare.models.linear_start import WEIGHTINGS
from neuroshare.models.parameters import device_of
from neuroshare.models.saving import settings_as_json
from neuroshare.models.trained import KINDS, Untrained, architecture_of, begun, check_activity
from neuroshare.support.parallel import Executor
from neuroshare.support.threads import one_blas_thread, one_thread
from neuroshare.vae import train as training_loop
from neuroshare.vae.experts import normal
from neuroshare.vae.objectives import MMVM
from neuroshare.vae.train import Training, Verdict, Watch
from neuroshare.windows.paired import PairedWindows

LINEAR_RATE = 0.1
"""Of the learning rate, what the linear maps of the start learn by: Adam moves every weight by as
much, and a map that starts well has many small ones."""
AVERAGE = 0.98
"""Decay of the running mean of the weights, where steps are chosen."""
_FEW_LATENTS = 4
"""Where nothing can be chosen."""
_STEPS_FROM_RANDOM = 500
"""Likewise, for networks that start at random."""


def chosen(
    params: Mapping[str, Any],
    train: PairedWindows,
    validation: PairedWindows | None,
    path: str | os.PathLike[str] | None = None,
    progress: bool = True,
    executor: int | Executor | None = None,
) -> Choice:
    """Choose what parameters of `SharedLatentModel` leave to choose.

    The start comes first, by all folds; then training from it is tried in some of them. Chosen
    steps are meant for a new training on all of `train`.

    Parameters
    ----------
    params
        Of the model.
    train, validation
        Training windows, and those to choose by; without them inner splits of the training trials.
    path
        File in which to keep what was chosen, the start first, for a fit that is interrupted.
    progress
        Show progress bars.
    executor
        Where starts and trainings are tried, see `run_each`.
    """
    names = {"latent_dim": "latent_dim", "inputs": "inputs", "init": "init", "epochs": "steps"}
    given = tuple(names[key] for key in names if not is_auto(params[key]))
    first = Choice(
        latent_dim=_FEW_LATENTS if is_auto(params["latent_dim"]) else params["latent_dim"],
        inputs="pooled" if is_auto(params["inputs"]) else params["inputs"],
        init="mcca" if is_auto(params["init"]) else params["init"],
        given=given,
    )
    if not {"latent_dim", "inputs", "epochs"} & {k for k in names if is_auto(params[k])}:
        return first
    architecture = architecture_of(first.resolve(params), params["objective"], linear=True)
    for part in (train, validation):
        if part is not None:
            for name in train.subjects:
                check_activity(name, part, architecture.likelihood(name))
    why = "" if validation is not None else why_not(train)
    if why:
        steps = None
        if is_auto(params["epochs"]):
            steps = _STEPS_FROM_RANDOM if first.init == "random" else 0
        return replace(first, steps=steps, why=why)
    mark = _mark(params, train, validation) if path is not None else ""
    choice = read_choice(path, mark) if path is not None else None
    if choice is None:
        with one_blas_thread():
            choice = _start(params, train, validation, first, progress, executor)
        if path is not None:
            write_choice(path, mark, choice)
    if is_auto(params["epochs"]) and choice.steps is None:
        choice = _steps(params, train, validation, choice, progress, executor)
        if path is not None:
            write_choice(path, mark, choice)
    return choice


def _start(
    params: Mapping[str, Any],
    train: PairedWindows,
    validation: PairedWindows | None,
    first: Choice,
    progress: bool,
    executor: int | Executor | None,
) -> Choice:
    """Choose latents and inputs, where they are to be chosen, and the weighting of the start."""
    objective = resolved(params["objective"])
    architecture = architecture_of(first.resolve(params), params["objective"], linear=True)
    roots = {
        name: architecture.inputs.takes_root(architecture.likelihood(name))
        for name in train.subjects
    }
    largest = max(len(ids) for ids in train.units.values())
    parts = [n for n in PARTS if train.width % n == 0 and (n == 1 or n * largest <= MOST_FEATURES)]
    if not is_auto(params["inputs"]):
        kind = params["inputs"]
        parts = [1 if kind == "raw" else architecture.inputs.n_groups(train.width)]
    fixed = not is_auto(params["latent_dim"])
    found = choose_start(
        folds_of(train, validation, N_FOLDS, params["seed"]),
        (train, train if validation is None else validation),
        roots,
        latent_dims=[params["latent_dim"]] if fixed else WIDTHS,
        parts=parts,
        weightings=WEIGHTINGS,
        shares=objective.shares and len(train.subjects) > 1,
        seed=params["seed"],
        progress=progress,
        executor=executor,
    )
    return replace(
        found,
        latent_dim=params["latent_dim"] if fixed else found.latent_dim,
        inputs=found.inputs if is_auto(params["inputs"]) else params["inputs"],
        init=first.init,
        given=first.given,
    )


def _steps(
    params: Mapping[str, Any],
    train: PairedWindows,
    validation: PairedWindows | None,
    choice: Choice,
    progress: bool,
    executor: int | Executor | None,
) -> Choice:
    """Choose how long to train from the start that was chosen."""
    folds = folds_of(train, validation, N_FOLDS, params["seed"])[:N_TRAINED]
    candidates = {choice.init: choice}
    objective = resolved(params["objective"])
    # A contrast finds from the aligned start what it finds from a random one.
    alike = isinstance(objective, MMVM) and objective.contrast > 0
    if is_auto(params["init"]) and objective.shares and len(train.subjects) > 1 and not alike:
        few = choice.latent_dim
        wide = max(few, RANDOM_LATENTS) if is_auto(params["latent_dim"]) else few
        candidates["random"] = replace(choice, init="random", latent_dim=wide)
    if executor is not None:  # whose workers have no terminal
        params = {**params, "progress": False}
    trials = _Trials(folds, candidates, params)
    tried: dict[str, list[Looks]] = {}
    shown = progress and executor is not None
    n = len(candidates) * len(folds)
    with tqdm(total=n, disable=not shown, unit="training", desc="choose") as bar:
        for name in candidates:
            references: list[float | None] = [None] * len(folds)
            if name != choice.init:
                references = [score_of(one.loss[0], one.shares) for one in tried[choice.init]]
            asked = [(name, fold, reference) for fold, reference in enumerate(references)]
            tried[name] = []
            for looks in in_order(_tried, trials, asked, executor, bar):
                tried[name].append(looks)
                if looks.hopeless:
                    break
    rows = {
        name: {
            "init": name,
            "latent_dim": candidate.latent_dim,
            "inputs": candidate.inputs,
            **vars(candidate.weighting),
        }
        for name, candidate in candidates.items()
    }
    name, steps, table = choose_steps(tried, rows)
    of_bins = [one.of_bins[one.steps.index(steps)] for one in tried[name] if one.of_bins]
    sharpness = sharpness_of(np.sum(of_bins, axis=0), train.subjects) if of_bins else None
    made = replace(candidates[name], steps=steps, table=[*choice.table, *table])
    return replace(made, sharpness=sharpness)


@dataclass(frozen=True)
class _Trials:
    """What training is tried on."""

    folds: Sequence[tuple[PairedWindows, PairedWindows]]
    candidates: Mapping[str, Choice]
    params: Mapping[str, Any]


def _tried(trials: _Trials, asked: tuple[str, int, float | None]) -> Looks:
    """Train from a start in one fold, looking now and then at its held-out trials.

    With one thread, so that it is the same wherever it is done and however many cores there are.
    """
    name, fold, reference = asked
    candidate, (fitted, held_out) = trials.candidates[name], trials.folds[fold]
    params = trials.params
    device = device_of(params["device"])
    with one_thread():
        settings = replace(candidate, steps=None).resolve(params)
        start = begun(settings, fitted, None, device, candidate.weighting, imputes=False)
        objective = start.vae.objective
        looks, score = Looks(objective.shares, reference), _Score(start, held_out, device)

        def look(step: int) -> Verdict:
            return looks.note(step, *score())

        look(0)
        windows: ResidentWindows | PooledWindows = ResidentWindows(start.train, device)
        if isinstance(objective, MMVM) and objective.follow:
            objective.decodes = False
            inputs = start.architecture.inputs
            if inputs.pooled and not start.has_own_encoders:
                windows = PooledWindows(start.train, device, inputs.n_groups(start.train.width))
        steps = MOST_STEPS["random" if start.params["init"] == "random" else "mcca"]
        training = training_of(params, len(windows), steps=steps)
        if start.has_own_encoders:
            training = replace(training, graphs=False)
        try:
            history = training_loop.fit(start.vae, windows, training, watch=Watch(EVERY, look))
        except ValueError:
            # A training that leaves the finite numbers is no candidate beyond its last look.
            return looks
    if history.interrupted:
        raise KeyboardInterrupt
    return looks


def training_of(
    params: Mapping[str, Any],
    n_windows: int,
    *,
    steps: int | None = None,
    epochs: int | None = None,
) -> Training:
    """How parameters of `SharedLatentModel` train: chosen steps, or given epochs.

    Parameters
    ----------
    params
        Of the model.
    n_windows
        Of the training part.
    steps, epochs
        One of them.
    """
    if steps is not None:
        epochs = -(-steps // -(-n_windows // params["batch_size"]))
    assert epochs is not None
    return Training(
        epochs=epochs,
        batch_size=params["batch_size"],
        lr=params["lr"],
        beta=params["beta"],
        weight_decay=params["weight_decay"],
        linear_rate=LINEAR_RATE,
        steps=steps or None,
        average=AVERAGE if steps else 0.0,
        patience=params["patience"],
        precision=params["precision"],
        seed=params["seed"],
        progress=params["progress"],
    )


class _Score:
    """Scores of the encoders' mean codes, fitted on training and scored on held-out trials.

    The first time these are the codes of a model that is not trained at all.
    """

    def __init__(self, start: Untrained, held_out: PairedWindows, device: torch.device) -> None:
        self.vae = start.vae
        self.untrained = resolved(start.params["objective"], trains=False)
        self.n_latents = start.architecture.latent_dim
        self.n_looks = 0
        self.names = start.train.subjects
        self.n_conditions = len(start.train.conditions)
        self.criterion = Criterion(start.train.targets)
        self.parts = [
            {name: part.select([name]).thinned() for name in self.names}
            for part in (start.train, held_out)
        ]
        self.windows = [
            {name: ResidentWindows(alone, device) for name, alone in part.items()}
            for part in self.parts
        ]

    def __call__(self) -> tuple[Array, Array, Array | None]:
        self.vae.eval()
        self.objective = self.vae.objective if self.n_looks else self.untrained
        self.n_looks += 1
        fitted, held_out = (
            {
                name: (self._codes(m, windows[name]), part[name].row_codes)
                for m, name in enumerate(self.names)
            }
            for part, windows in zip(self.parts, self.windows, strict=True)
        )
        of_bins = None
        if self.criterion.targets is None:
            of_bins = losses_of_trials(fitted, held_out, self.n_conditions)
        return *self.criterion.settled(fitted, held_out), of_bins

    def _codes(self, modality: int, windows: ResidentWindows) -> Array:
        """Mean codes of one subject, (trial, start, latent)."""
        found = []
        with torch.inference_mode():
            for _, x, _ in windows.all_batches(4096):
                q = self.objective.placed(normal(*self.vae.encoders[modality](x[0])))
                found.append(q.loc[:, : self.n_latents].double().cpu().numpy())
        n_starts = len(windows.paired.first_bins)
        return np.concatenate(found).reshape(-1, n_starts, self.n_latents)


def _mark(params: Mapping[str, Any], train: PairedWindows, validation: PairedWindows | None) -> str:
    """Short name of all that a choice depends on."""
    settings = {
        name: settings_as_json(value, KINDS)
        for name, value in params.items()
        if name not in ("progress", "device")
    }
    marks = [train.fingerprint(), None if validation is None else validation.fingerprint()]
    text = json.dumps([settings, marks, HELD_OUT], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
