"""Scores of models and subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from neuroshare.plots.style import (
    PART_COLORS,
    SUBJECT_COLORS,
    axes_of,
    colors_of,
    draw_matrix,
    open_frame,
    require_kind,
    require_parts,
)
from neuroshare.support.checks import require_one_of

MARKS = ((0.05, "*"), (0.01, "**"), (0.001, "***"))
"""Largest p-value -> its mark."""


def plot_separation(
    scores: xr.Dataset, level: Literal["trial", "window"] = "trial", ax: Axes | None = None
) -> Axes:
    """Draw who predicts whose condition: balanced accuracy, source by target.

    Parameters
    ----------
    scores : xarray.Dataset
        The result of ``separation``: `own` (level, subject), `cross` (level, source, target),
        `chance`. Permutation p-values, where there are any, are shown as marks.
    level : {"trial", "window"}
        Whether whole trials or single windows are classified.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The framed diagonal holds the accuracies within a subject.

    Raises
    ------
    TypeError
        If the data are of another kind, or `ax` is no Axes.
    ValueError
        If `scores` lacks a variable or the level.
    """
    require_kind(scores, "plot_separation", xr.Dataset)
    require_parts(scores, "plot_separation", coords=("own", "cross", "chance", "level"))
    require_one_of(level, "level", "plot_separation", scores["level"].to_numpy().tolist())
    ax = axes_of(ax, "plot_separation")
    scores = scores.sel(level=level)
    chance = float(scores["chance"])
    subjects = [str(name) for name in scores["subject"].to_numpy()]
    matrix = _with_diagonal(scores["cross"], scores["own"])
    texts = np.array([[f"{value:.2f}" for value in row] for row in matrix], dtype=object)
    stars = ""
    if "p_own" in scores:
        p = _with_diagonal(scores["p_cross"], scores["p_own"])
        marks = [["" if np.isnan(value) else "\n" + _stars(value) for value in row] for row in p]
        texts += np.array(marks, dtype=object)
        stars = "\n" + ", ".join(f"{mark} p ≤ {level:g}" for level, mark in MARKS) + ", – above"
    draw_matrix(
        ax,
        matrix,
        texts,
        subjects,
        subjects,
        low=chance,
        high=max(1.0, chance + 0.1),
        label="balanced accuracy",
    )
    for i in range(len(subjects)):
        frame = Rectangle((i - 0.47, i - 0.47), 0.94, 0.94, fill=False, lw=1.5, ec="black")
        ax.add_patch(frame)
    ax.set(
        xlabel="scored on held-out trials of",
        ylabel="classifier fitted on trials of",
        title=f"per {level}; chance {chance:.2f}; framed: own{stars}",
    )
    return ax


def plot_imputation(scores: xr.Dataset, score: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw how well each subject is predicted from the others, source by target.

    Parameters
    ----------
    scores : xarray.Dataset
        The result of ``imputation_scores``.
    score : str
        Its variable with dims (source, target); by default bits per spike, or the variance
        explained of activity that is no spike counts.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If the data are of another kind, or `ax` is no Axes.
    ValueError
        If `scores` has no such variable.
    """
    require_kind(scores, "plot_imputation", xr.Dataset)
    pairs = [str(name) for name, held in scores.items() if set(held.dims) == {"source", "target"}]
    main = str(scores.attrs.get("score", "bits_per_spike"))
    score = main if score is None else score
    require_one_of(score, "score", "plot_imputation", pairs)
    ax = axes_of(ax, "plot_imputation")
    values = scores[score].transpose("source", "target")
    matrix = values.to_numpy().astype(float)
    finite = matrix[np.isfinite(matrix)]
    digits = 3 if np.abs(finite).max(initial=0.0) < 0.1 else 2
    texts = [["" if np.isnan(v) else f"{v:.{digits}f}" for v in row] for row in matrix]
    low = min(0.0, float(finite.min(initial=0.0)))
    high = max(low + 1e-9, float(finite.max(initial=0.0)))
    draw_matrix(
        ax,
        matrix,
        np.array(texts, dtype=object),
        [str(name) for name in values["source"].to_numpy()],
        [str(name) for name in values["target"].to_numpy()],
        low=low,
        high=high,
        label=(f"{main} above PSTH" if score == "above_psth" else score).replace("_", " "),
    )
    ax.set(xlabel="predicted subject", ylabel="from the latents of")
    return ax


def plot_residuals(residuals: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw how each subject's variance divides into shared, specific and noise.

    Parameters
    ----------
    residuals : xarray.Dataset
        The result of ``residuals``: `variance` with dim part (shared, specific, noise), and
        subject where there is more than one. Further dims, such as unit, are summed over.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If the data are of another kind, or `ax` is no Axes.
    ValueError
        If `residuals` has no variance by part.
    """
    require_kind(residuals, "plot_residuals", xr.Dataset)
    require_parts(residuals, "plot_residuals", coords=("variance", "part"))
    variance = residuals["variance"]
    if "subject" not in variance.dims:
        variance = variance.expand_dims(subject=[residuals.attrs.get("subject", "all units")])
    variance = variance.sum([dim for dim in variance.dims if dim not in ("part", "subject")])
    share = (variance / variance.sum("part")).dropna("part", how="all")  # noise may not be known
    ax = axes_of(ax, "plot_residuals")
    left = np.zeros(share.sizes["subject"])
    where = np.arange(share.sizes["subject"])
    for part, hue in zip(share["part"].to_numpy(), PART_COLORS, strict=False):
        width = share.sel(part=part).to_numpy()
        ax.barh(where, width, left=left, color=hue, label=str(part))
        left = left + width
    ax.set_yticks(where, [str(name) for name in share["subject"].to_numpy()])
    ax.invert_yaxis()
    ax.set(xlabel="share of variance", xlim=(0, 1))
    ax.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), fontsize="small")
    open_frame(ax)
    return ax


def plot_comparison(
    table: pd.DataFrame,
    scores: Sequence[str] = ("own", "cross"),
    level: str = "trial",
    ax: Axes | None = None,
) -> Axes:
    """Draw scores of several models with their 95 % intervals.

    Parameters
    ----------
    table : DataFrame
        The result of ``compare``.
    scores : sequence of str
        Which of its scores, of one unit, such as "own" and "cross".
    level : str
        "trial" or "window" for accuracies, "" for scores that have no level.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If the data are of another kind, or `ax` is no Axes.
    ValueError
        If the table has no such score.
    """
    require_kind(table, "plot_comparison", pd.DataFrame)
    needed = ("model", "score", "level", "value", "low", "high", "chance")
    if lacks := [name for name in needed if name not in table]:
        raise ValueError(
            f"plot_comparison expected the table of compare, with columns {lacks}. "
            f"Got columns {list(table)}."
        )
    scores = [scores] if isinstance(scores, str) else scores
    rows = table[table["score"].isin(list(scores)) & (table["level"] == level)]
    if rows.empty:
        raise ValueError(
            f"plot_comparison expected rows of {list(scores)} at level {level!r}. "
            f"Got scores {sorted(set(table['score']))} at {sorted(set(table['level']))}."
        )
    models = list(dict.fromkeys(rows["model"]))
    ax = axes_of(ax, "plot_comparison")
    shift = 0.22 * (np.arange(len(scores)) - (len(scores) - 1) / 2)
    for score, offset, hue, marker in zip(scores, shift, PART_COLORS, "os^", strict=False):
        of_score = rows[(rows["score"] == score) & rows["value"].notna()]
        where = np.array([models.index(name) for name in of_score["model"]]) + offset
        value = of_score["value"].to_numpy(float)
        low, high = of_score["low"].to_numpy(float), of_score["high"].to_numpy(float)
        # A bootstrap interval may leave its value outside.
        reach = np.maximum(np.nan_to_num(np.stack([value - low, high - value])), 0)
        label = score.partition(", ")[2] or score
        ax.errorbar(value, where, xerr=reach, fmt=marker, color=hue, ms=6, capsize=2, label=label)
    chance = rows["chance"].dropna().unique()
    if len(chance):
        ax.axvline(chance[0], color="#777777", lw=1, ls=":", label="chance")
    elif not rows["value"].isna().all():
        ax.axvline(0, color="#777777", lw=1, ls=":")
    ax.set_yticks(range(len(models)), models)
    ax.set_ylim(len(models) - 0.5, -0.5)
    unit = {"own": "balanced accuracy", "cross": "balanced accuracy"}
    quantity = scores[0].partition(",")[0]
    per = f" per {level}" if level else ""
    ax.set(xlabel=f"{unit.get(quantity, quantity.replace('_', ' '))}{per}")
    ax.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), fontsize="small")
    open_frame(ax)
    return ax


def plot_departure(departure: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw who departs from the group, and when.

    Parameters
    ----------
    departure : xarray.Dataset
        `divergence` (subject, time) and `within`, what it is where all others are copies of the
        subject; both in nats.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If the data are of another kind, or `ax` is no Axes.
    ValueError
        If a variable is missing.
    """
    require_kind(departure, "plot_departure", xr.Dataset)
    require_parts(departure, "plot_departure", coords=("divergence", "within", "time", "subject"))
    ax = axes_of(ax, "plot_departure")
    time = departure["time"].to_numpy()
    for i, subject in enumerate(departure["subject"].to_numpy()):
        hue = colors_of("subject", [i])[0]
        one = departure.sel(subject=subject)
        ax.plot(time, one["divergence"], color=hue, lw=2, label=str(subject))
        ax.plot(time, one["within"], color=hue, lw=1, ls=":")
    ax.plot([], [], color="#777777", lw=1, ls=":", label="if all were like it")
    ax.set(xlabel="time (s)", ylabel="divergence from the others (nats)")
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    open_frame(ax)
    return ax


def _stars(p: float) -> str:
    return next((mark for level, mark in reversed(MARKS) if p <= level), "–")


def _with_diagonal(cross: xr.DataArray, own: xr.DataArray) -> NDArray[np.float64]:
    matrix = cross.transpose("source", "target").to_numpy().astype(float)
    np.fill_diagonal(matrix, own.to_numpy())
    return matrix


def plot_influence(influence: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw how much the others lose without each subject.

    Parameters
    ----------
    influence : xarray.Dataset
        The result of ``influence``: `loss` (left_out), `loss_target` (left_out, target), and
        `loss_interval` (bound, left_out).
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Points are the targets that lose, bars their mean with its 95 % interval.

    Raises
    ------
    TypeError
        If the data are of another kind, or `ax` is no Axes.
    ValueError
        If a variable is missing.
    """
    require_kind(influence, "plot_influence", xr.Dataset)
    names = ("loss", "loss_target", "loss_interval", "left_out", "target")
    require_parts(influence, "plot_influence", coords=names)
    ax = axes_of(ax, "plot_influence")
    who = [str(name) for name in influence["left_out"].to_numpy()]
    loss = influence["loss"].to_numpy().astype(float)
    bounds = influence["loss_interval"].transpose("bound", "left_out").to_numpy().astype(float)
    where = np.arange(len(who))
    ax.barh(where, np.nan_to_num(loss), color=PART_COLORS[1], height=0.6)
    known = np.isfinite(bounds).all(axis=0) & np.isfinite(loss)
    reach = np.abs(bounds - loss)[:, known]
    ax.errorbar(loss[known], where[known], xerr=reach, fmt="none", color="black", capsize=2)
    for k, target in enumerate(map(str, influence["target"].to_numpy())):
        lost = influence["loss_target"].isel(target=k).to_numpy()
        ax.plot(lost, where, "o", color=colors_of("subject", [k])[0], ms=4, label=target)
    ax.axvline(0, color="#777777", lw=1, ls=":")
    ax.set_yticks(where, who)
    ax.invert_yaxis()
    ax.set(xlabel="cross accuracy per trial that the others lose", ylabel="without")
    ax.legend(
        title="target", frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0
    )
    open_frame(ax)
    return ax


def plot_power(power: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw how often planned experiments find a shared code, by their trials.

    Parameters
    ----------
    power : xarray.Dataset
        The result of ``power``: `power` and `standard_error` (n_subjects, n_units, n_trials).
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        A line for every number of subjects (colour) and of units (style), with standard errors of
        the simulation; dotted: the usual 80 %, and the level of the test.

    Raises
    ------
    TypeError
        If the data are of another kind, or `ax` is no Axes.
    ValueError
        If a variable is missing.
    """
    require_kind(power, "plot_power", xr.Dataset)
    sizes = ("n_subjects", "n_units", "n_trials")
    require_parts(power, "plot_power", dims=sizes, coords=("power", "standard_error", *sizes))
    ax = axes_of(ax, "plot_power")
    trials = power["n_trials"].to_numpy()
    styles = ("-", "--", "-.", ":")
    for i, n_subjects in enumerate(power["n_subjects"].to_numpy()):
        for k, n_units in enumerate(power["n_units"].to_numpy()):
            one = power.isel(n_subjects=i, n_units=k)
            ax.errorbar(
                trials,
                one["power"],
                yerr=one["standard_error"],
                color=SUBJECT_COLORS[i % len(SUBJECT_COLORS)],
                ls=styles[k % len(styles)],
                marker="o",
                ms=4,
                capsize=2,
                label=f"{n_subjects} subjects, {n_units} units",
            )
    for level in (0.8, power.attrs.get("alpha", 0.05)):
        ax.axhline(level, color="#777777", lw=1, ls=":")
    ax.set_xticks(trials)
    ax.set(xlabel="trials of each condition", ylabel="power", ylim=(-0.03, 1.03))
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    open_frame(ax)
    return ax
