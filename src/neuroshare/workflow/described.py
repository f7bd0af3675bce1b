"""What a run was, in sentences: its summary, and the paragraphs of a methods section.

Every phrase follows from what the run has stored of itself; `tests/workflow/test_described.py`
holds each against the settings that it describes.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from neuroshare.report.rendering import between, number
from neuroshare.workflow.analyses.base import chance, mean_accuracy

if TYPE_CHECKING:
    from neuroshare.workflow.finished import FinishedRun
    from neuroshare.workflow.fitted import Fitted

FALLING = 0.02
"""Of all that the loss fell, what it falls in the last tenth where training was too short."""
_PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "xarray", "pynwb")
_ALIGNMENTS = {
    "mcca": "regularised multi-set canonical correlation (MCCA, Kettenring 1971)",
    "procrustes": "generalised Procrustes analysis (Gower 1975)",
    "srm": "the shared response model (SRM, Chen et al. 2015)",
}


class Line(NamedTuple):
    """One line of the summary: what it answers, and the answer."""

    name: str
    text: str
    tone: str = ""
    """``good``, ``care`` or ``bad``, where the answer is one of these."""


def made_with() -> dict[str, Any]:
    """When, and with what, as JSON can hold it."""
    versions = {name: version(name) for name in _PACKAGES}
    return {"date": date.today().isoformat(), "python": platform.python_version(), **versions}


def as_fitted(fitted: Fitted) -> dict[str, Any]:
    """What the model was in fact, given or chosen, as JSON can hold it."""
    settings, history = fitted.model.settings_, fitted.model.history_
    plain = {
        k: v.item() if isinstance(v, np.generic) else v
        for k, v in settings.items()
        if isinstance(v, str | int | float | bool | None | np.generic)
    }
    train, n_batches = fitted.train, -(-len(fitted.train) // int(settings["batch_size"]))
    epochs = history.sizes["epoch"]
    steps = settings.get("steps")
    return {
        **plain,
        "steps": epochs * n_batches if steps is None else int(steps),
        "chose_steps": steps is not None,
        "epochs": epochs,
        "best_epoch": history.attrs.get("best_epoch"),
        "linear": settings["init"] != "random" and fitted.several,
        "alone": not settings["objective"].shares,
        "hidden": [str(width) for width in np.atleast_1d(settings["hidden"]).tolist()],
        "still_falling": still_falling(history),
        "stretched": list(train.stretched),
        "split": [s for s in train.excluded if "held out" in s],
        "no_counts": [name for name in train.subjects if train.why_not_counts(name)],
    }


def still_falling(history: xr.Dataset) -> float | None:
    """Nats that the loss fell in the last tenth of training, where that is much; else None.

    Much is more than `FALLING` of all that it fell. The loss is that of validation trials where
    there are any. None, too, where nothing was trained or the best epoch came earlier.
    """
    watched = history.get("validation_loss")
    known = watched is not None and bool(watched.notnull().any())
    loss = (watched.dropna("epoch") if known else history["loss"]).to_numpy()  # type: ignore[union-attr]
    if len(loss) < 2 or (known and int(np.argmin(loss)) < len(loss) - 1):
        return None
    k = max(1, len(loss) // 10)
    last, before = float(loss[-k:].mean()), float(loss[-2 * k : -k].mean())
    fell = before - last
    return fell if fell > FALLING * max(float(loss[0]) - last, 1e-12) else None


# ---------------------------------------------------------------------- the summary


def summary(run: FinishedRun) -> list[Line]:
    """Say first what was asked, what came of it, and whether it may be believed."""
    lines = [
        Line("Asked", _asked(run)),
        _shared(run),
        _control(run),
        _trust(run),
        Line("Model", _model(run)),
        Line("Training", training(run), "care" if _fitted(run).get("still_falling") else ""),
        Line("Made", _made(run)),
    ]
    return [line for line in lines if line.text]


def _asked(run: FinishedRun) -> str:
    scores, config = run.scores, run.config
    n, animals = len(scores["subjects"]), scores.get("n_animals", len(scores["subjects"]))
    who = f"{n} subjects" if n > 1 else "1 subject"
    if animals != n:
        who = f"{n} sessions of {animals} animal{'s' if animals > 1 else ''}"
    if config.behavior:
        return f"Do {who} share {_listed(list(config.behavior))}, paired by {config.by}?"
    low, high = (f"{end:g}" for end in config.span)
    return (
        f"Do {who} share what tells {scores['by']} ({_listed(scores['conditions'])}), from {low} "
        f"to {high} s relative to {config.align}?"
    )


def _shared(run: FinishedRun) -> Line:
    if run.config.behavior:
        return _shared_behavior(run)
    scores, trial = run.scores, run.scores["trial"]
    own, cross = trial.get("mean_own"), trial.get("mean_cross")
    if cross is None:
        alone = "One subject cannot share anything. Within it"
        if len(scores["subjects"]) > 1:
            alone = "All sessions are of one animal: nothing is known between animals. Within them"
        told = f"balanced accuracy {mean_accuracy(trial, 'own')}; chance is "
        return Line(
            "Shared", f"{alone}, held-out trials are told with {told}{number(scores['chance'])}.",
            "care",
        )  # fmt: skip
    by_chance = chance(scores, "cross") or 0.0
    p = trial.get("p_mean_cross")
    told = (
        f"a classifier of one subject tells {scores['by']} in held-out trials of another with "
        f"balanced accuracy {mean_accuracy(trial, 'cross')}; own {mean_accuracy(trial, 'own')}, "
        f"chance {number(by_chance)}."
    )
    above_own = (own or 0.0) - (chance(scores, "own") or 0.0)
    if p is not None and p > 0.05:
        return Line("Shared", f"Not shown: {told}", "care")
    if p is None:
        return Line("Shared", f"Not tested (no permutations were asked for): {told}", "care")
    share = ""
    if above_own > 0:
        share = f" That is {(cross - by_chance) / above_own:.0%} of what own trials give above it."
    return Line("Shared", f"Yes: {told}{share}", "good")


def _shared_behavior(run: FinishedRun) -> Line:
    """Say of the behaviors that paired how far others' latents tell them, least sure first."""
    told = []
    for name, scores in run.scores["behavior"].items():
        own, cross = (scores.get(f"mean_median_error_{kind}") for kind in ("own", "cross"))
        if own is None:
            continue
        p = scores.get("p_mean_median_error_cross")
        text = f"median error of {name} {number(own, 3)} within subjects"
        if cross is not None:
            text += f", {number(cross, 3)} from the latents of another"
            text += "" if p is None else f" (p = {p:.3f})"
        told.append((p, text))
    known = [p for p, _ in told if p is not None]
    listed = "; ".join(text for _, text in told)
    if len(run.scores["subjects"]) < 2:
        return Line("Shared", f"One subject cannot share anything: {listed}.", "care")
    if not known:
        return Line("Shared", f"Not tested (no permutations were asked for): {listed}.", "care")
    if max(known) > 0.05:
        return Line("Shared", f"Not shown of all: {listed}.", "care")
    return Line("Shared", f"Yes: {listed}.", "good")


def _control(run: FinishedRun) -> Line:
    if run.config.behavior:
        return Line("Control", "")
    if run.config.quick:
        return Line("Control", "None: a quick run scores no stretch before the event.", "care")
    control = run.scores.get("control")
    if not control:
        return Line("Control", "None: no stretch before the event could be scored.", "care")
    at = control["trial"]
    p = [at[k] for k in ("p_mean_own", "p_mean_cross") if at.get(k) is not None]
    text = (
        f"Before the event the same model gives own {mean_accuracy(at, 'own')}"
        + (f", cross {mean_accuracy(at, 'cross')}" if at.get("mean_cross") is not None else "")
        + f"; chance is {number(run.scores['chance'])}."
    )
    # Twice the smaller of two, as the verdict takes it.
    if p and min(1.0, len(p) * min(p)) <= 0.05:
        return Line("Control", f"Above chance. {text}", "bad")
    return Line(
        "Control", f"At chance, as it should be. {text}" if p else text, "good" if p else ""
    )


def _trust(run: FinishedRun) -> Line:
    verdict = run.scores.get("verdict")
    if not verdict:
        return Line("P-values", "")
    tone = {"yes": "good", "with care": "care", "no": "bad"}.get(verdict["trust"], "")
    text = f"May the p-values be trusted: {verdict['trust']}. {' '.join(verdict['why'])}"
    return Line("P-values", text, tone)


def _model(run: FinishedRun) -> str:
    fit = _fitted(run)
    if not fit:
        return ""
    k = fit["latent_dim"]
    latents = f"{k} latent{'s' if k > 1 else ''}"
    rule = run.scores.get("model") or run.config.model.get("objective", "")
    rule = rule["object"] if isinstance(rule, Mapping) else rule
    if not fit["steps"]:
        how = f"the {_start_name(fit)}, not trained further"
    else:
        how = f"{rule}, {fit['steps']} training steps from {_start_name(fit)}"
    chosen = [n for n in ("latent_dim", "inputs", "init", "steps") if n in run.scores["chosen"]]
    words = {"latent_dim": "latents", "init": "start", "steps": "training"}
    names = _listed([words.get(n, n) for n in chosen])
    tail = f" Chosen on trials held out of the training part: {names}." if chosen else ""
    return f"{latents}, {_inputs(fit)}; {how}.{tail}"


def _start_name(fit: Mapping[str, Any]) -> str:
    if not fit["linear"]:
        return "random networks"
    return "linear start of each subject alone" if fit["alone"] else "aligned linear start"


def training(run: FinishedRun) -> str:
    """Say what training changed, and whether it ended too early."""
    fit, tried = _fitted(run), run.scores.get("training")
    if not fit:
        return ""
    told = ""
    if not fit["steps"]:
        told = "No training step was taken, so the model is its start."
        if tried and tried.get("best") and tried.get("before"):
            told += (
                f" Training was tried for up to {tried['most_steps']} steps: held-out accuracy was "
                f"{_pair(tried['before'])} before, {_pair(tried['best'])} at its best."
            )
        elif run.config.quick:
            told += " A quick run tries none."
        elif not fit["chose_steps"]:
            told += " epochs=0 was given."
        return told
    epochs = f"{fit['epochs']} epoch{'s' if fit['epochs'] != 1 else ''}"
    told = f"{fit['steps']} steps ({epochs})."
    if tried and tried.get("before") and tried.get("after") and tried["steps"]:
        told += (
            f" On trials held out of the training part accuracy was {_pair(tried['before'])} "
            f"before, {_pair(tried['after'])} after."
        )
    if fit["best_epoch"]:
        told += f" The weights of epoch {fit['best_epoch']} were kept, by validation loss."
    if fit["still_falling"]:
        told += (
            f" The loss was still falling when training ended, by {fit['still_falling']:.3g} nats "
            "per window in the last tenth: longer training may change the result (--set epochs)."
        )
    return told


def _made(run: FinishedRun) -> str:
    when = run.scores.get("made")
    text = f"neuroshare {run.scores['neuroshare']}"
    if not when:
        return f"{text}."
    others = ", ".join(f"{k} {v}" for k, v in when.items() if k not in ("date", "python"))
    return f"{when['date']}, {text}, Python {when['python']}, {others}."


# ---------------------------------------------------------------------- methods


def methods(run: FinishedRun) -> list[str]:
    """Paragraphs on data and model, before those of the analyses."""
    return [_methods_of_data(run), _methods_of_model(run)]


def _methods_of_data(run: FinishedRun) -> str:
    scores, config = run.scores, run.config
    subjects, fit = scores["subjects"], _fitted(run)
    units = between([about["units"] for about in subjects.values()])
    n_train, n_test = (
        between([sum(about[part].values()) for about in subjects.values()])
        for part in ("train", "test")
    )
    animals = scores.get("n_animals", len(subjects))
    who = f"{len(subjects)} subject{'s' if len(subjects) > 1 else ''}"
    if animals != len(subjects):
        who = f"{len(subjects)} sessions of {animals} animal{'s' if animals > 1 else ''}"
    if config.behavior:
        how = "within trials" if config.within == "trials" else "through the session"
        return (
            f"Spikes of {who} ({units} units) were counted in bins of {1000 * config.bin_size:g} "
            f"ms, in windows of {1000 * config.width:g} ms that follow each other {how}, with "
            f"{_listed(list(config.behavior))} interpolated to them. Before any other step "
            f"{100 * config.test_fraction:.0f}% of every session was held out in stretches "
            f"({n_train} training and {n_test} held-out windows per subject; seed {config.seed}). "
            f"Windows of different subjects were paired at random where {config.by} was alike, "
            f"within {100 * config.bandwidth:g}% of its range."
        )
    low, high = (f"{end:g}" for end in config.span)
    counted = f"Spikes of {who} ({units} units) were counted"
    if others := fit.get("no_counts"):
        counted = (
            f"Activity of {who} ({units} units; no spike counts in {_listed(others)}) was averaged"
        )
    text = (
        f"{counted} in bins of {1000 * config.bin_size:g} ms from {low} to {high} s relative to "
        f"{config.align} and cut into windows of {1000 * config.width:g} ms every "
        f"{1000 * config.step:g} ms. Conditions were the {len(scores['conditions'])} values of "
        f"{scores['by']} ({_listed(scores['conditions'])}). "
    )
    stretched = fit.get("stretched") or []
    share = f"{100 * config.test_fraction:.0f}%"
    if stretched:
        of = "" if len(stretched) == len(subjects) else f" of {_listed(stretched)}"
        text += (
            f"Before any other step whole stretches of the session{of} were held out, about "
            f"{share} of the trials, and trials beside them left out of training"
        )
        text += "; of the others single trials, stratified by condition" if of else ""
    else:
        text += (
            f"Before any other step {share} of the trials of each condition and subject were held "
            "out at random"
        )
    text += f" ({n_train} training and {n_test} held-out trials per subject; seed {config.seed}). "
    if len(subjects) > 1:
        paired = scores.get("paired_by", scores["by"])
        text += f"Trials of different subjects were paired at random within {paired}."
    return text.strip()


def _methods_of_model(run: FinishedRun) -> str:
    fit, scores = _fitted(run), run.scores
    source = run.latents.attrs.get("source") or _rule_alone(run)
    if not fit:
        return (
            f"One latent space was fitted with neuroshare {scores['neuroshare']}. {source}".strip()
        )
    k = fit["latent_dim"]
    text = (
        f"One latent space of {k} latent{'s' if k > 1 else ''} was fitted with neuroshare "
        f"{scores['neuroshare']}, with an encoder and a decoder of each subject. Encoders saw "
        f"{_inputs(fit)}. {_methods_of_start(fit)} "
    )
    if not fit["steps"]:
        text += "No training step was taken: the model is this start. "
        return f"{text}{source}".strip()
    optimiser = "AdamW" if fit["weight_decay"] else "Adam"
    rates = f"learning rate {fit['lr']:g}"
    if fit["linear"]:
        rates += ", a tenth of it for the linear maps"
    beta = run.config.model.get("beta", 1.0)
    parts = [rates, f"batches of {fit['batch_size']} windows"]
    if fit["weight_decay"]:
        parts.append(f"weight decay {fit['weight_decay']:g}")
    if fit["dropout"]:
        parts.append(f"{fit['dropout']:.0%} of the units hidden at every step")
    parts.append(f"beta {shown(beta)}")
    parts.append(f"likelihood {shown(run.config.model.get('likelihood', 'poisson'))}")
    widths = " and ".join(fit["hidden"])
    text += (
        f"Networks with hidden layers of {widths} units"
        f"{' beside the linear maps' if fit['linear'] else ''} were trained with {optimiser} "
        f"({', '.join(parts)}; {fit['precision']}) for {fit['steps']} steps "
        f"({fit['epochs']} epochs), partners drawn anew before each epoch; seed {run.config.seed}. "
    )
    if fit["chose_steps"]:
        text += "The weights are a running mean over steps (decay 0.98). "
    if fit["best_epoch"]:
        text += f"Kept were the weights of epoch {fit['best_epoch']}, by validation loss. "
    if fit["still_falling"]:
        text += "The training loss was still falling at the end. "
    return f"{text}{source}".strip()


def _methods_of_start(fit: Mapping[str, Any]) -> str:
    if not fit["linear"]:
        return "Networks started at random weights."
    weighting = ""
    if fit.get("ridge") is not None:
        weighting = (
            f" (ridge {fit['ridge']:g} of the mean feature variance, features divided by their "
            f"deviation to the power {fit['scaling']:g} and multiplied by their shared variance to "
            f"the power {fit['sharing']:g})"
        )
    if fit["alone"]:
        return f"Encoders started at a linear map of each subject alone{weighting}."
    return f"Encoders started at linear maps aligned by {_ALIGNMENTS[fit['init']]}{weighting}."


def _inputs(fit: Mapping[str, Any]) -> str:
    kind = fit["inputs"]
    roots = "activity" if fit.get("no_counts") else "square roots of counts"
    if kind == "raw":
        return "the activity of every bin as it is"
    if kind == "standard":
        return f"{roots} of every bin, standardised"
    if kind in ("pooled", 1):
        return f"{roots} summed over the window, standardised"
    return f"{roots} summed over {kind} parts of the window, standardised"


def _rule_alone(run: FinishedRun) -> str:
    """Name the sharing rule of a run whose latents do not tell of it."""
    rule = run.config.model.get("objective")
    return f"The sharing rule was {shown(rule)}." if rule else ""


def _fitted(run: FinishedRun) -> Mapping[str, Any]:
    """What was stored of the fit; nothing in runs of older versions."""
    stored: Mapping[str, Any] = run.scores.get("fitted") or {}
    return stored


def shown(value: Any) -> str:
    """A setting of the model as text: an object by its name and arguments."""
    if not isinstance(value, Mapping):
        return str(value)
    arguments = ", ".join(f"{k}={shown(v)}" for k, v in value["arguments"].items())
    return f"{value['object']}({arguments})"


def _pair(pair: Mapping[str, float | None]) -> str:
    return ", ".join(f"{kind} {value:.2f}" for kind, value in pair.items() if value is not None)


def _listed(names: list[str]) -> str:
    return ", ".join(map(str, names))
