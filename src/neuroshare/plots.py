"""Labelled arrays to matplotlib Axes.

Every function takes its data first and ``ax`` last, draws on it (or on the current Axes) and
returns it. Subjects and conditions each have a colour-blind-safe palette of their own, assigned
in the order of the data, so that a subject or a condition keeps its colour from figure to figure.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

__all__ = [
    "plot_comparison",
    "plot_departure",
    "plot_imputation",
    "plot_latents",
    "plot_residuals",
    "plot_separation",
    "plot_training",
]

# Okabe and Ito (2008), without black, for subjects.
SUBJECT_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
# Tol (2021), "bright", for conditions.
CONDITION_COLORS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#AA3377", "#66CCEE", "#777777")
# Not a subject's nor a condition's colour; dark to light, from explained to not.
PART_COLORS = ("#225555", "#77AA99", "#DDDDDD")

# Beyond this many, further points hide one another and only make the file larger.
MAX_POINTS = 20_000


def plot_latents(
    latents: xr.DataArray,
    color: Literal["condition", "subject", "time"] = "condition",
    ax: Axes | None = None,
) -> Axes:
    """Draw windows in latent space, with the mean path of each condition over time.

    Two latents are drawn as they are; one is drawn against time. More are first rotated to the two
    axes on which the mean paths of the conditions differ most: the largest variance of all windows
    is usually what each animal does on its own. Latents that know their ``part`` have these axes
    fitted on its "train" windows, and the others drawn; else both are all windows.

    Parameters
    ----------
    latents : xarray.DataArray
        Dims (subject, window, latent), as ``SharedLatentModel.transform`` returns them: the
        conditions in the coordinate that ``latents.attrs["by"]`` names, and ``time`` in seconds.
        Windows of an absent subject are NaN and not drawn. The frame leaves out the outermost
        points. What `embed` returns, (subject, window, axis), is drawn likewise.
    color : {"condition", "subject", "time"}
        What the colour of a point shows.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default the current Axes.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If dims or coordinates are missing, or `color` is unknown.
    """
    embedded = "axis" in latents.dims
    if embedded:
        latents = latents.rename(axis="latent")
    _require(latents, "plot_latents", dims=("subject", "window", "latent"), coords=("time",))
    if color not in ("condition", "subject", "time"):
        raise ValueError(
            "The 'color' parameter of plot_latents must be 'condition', 'subject' or 'time'. "
            f"Got {color!r} instead."
        )
    by = str(latents.attrs.get("by", "condition"))
    _require(latents, "plot_latents", coords=(by,))
    latents = latents.transpose("subject", "window", "latent")
    points, labels = _project(latents, by)
    if embedded:
        labels = (labels[0].replace("latent", "UMAP"), labels[1].replace("latent", "UMAP"))
    if "part" in latents.coords:
        held_out = (latents["part"] != "train").to_numpy()
        points, latents = points[:, held_out], latents.isel(window=held_out)
    subjects = latents["subject"].to_numpy()
    conditions = latents[by].to_numpy()
    names = np.unique(conditions)
    time = latents["time"].to_numpy().round(6)

    present = np.isfinite(points).all(-1)
    subject_at, window_at = np.nonzero(present)
    # The order is shuffled, so that no subject or condition lies on top of the others.
    shown = np.random.default_rng(0).permutation(len(window_at))[:MAX_POINTS]
    subject_at, window_at = subject_at[shown], window_at[shown]
    index = {
        "condition": np.searchsorted(names, conditions[window_at]),
        "subject": subject_at,
        "time": time[window_at],
    }[color]

    ax = ax or plt.gca()
    x, y = points[subject_at, window_at].T
    colors = index if color == "time" else _colors(color, index)
    # Points are drawn as pixels: thousands of them would make a vector file enormous.
    alpha = float(np.clip(600 / max(len(x), 1), 0.1, 0.35))
    cloud = ax.scatter(x, y, s=4, c=colors, alpha=alpha, linewidths=0, rasterized=True)
    if color == "time":
        bar = ax.figure.colorbar(cloud, ax=ax, label="time (s)")
        bar.solids.set_alpha(1)  # type: ignore[union-attr]

    if color == "subject":
        groups = [(subjects == subject, name) for subject in subjects for name in names]
        hues = [_colors("subject", [i])[0] for i in range(len(subjects)) for _ in names]
    else:
        groups = [(np.full(len(subjects), True), name) for name in names]
        hues = [_colors("condition", [i])[0] for i in range(len(names))]
    if color == "time":
        hues = ["black"] * len(groups)
    lines = []
    for (member, name), hue in zip(groups, hues, strict=True):
        path = _mean_path(points[member][:, conditions == name], time[conditions == name])
        # A white line beneath keeps a path visible among points of its own colour.
        ax.plot(*path.T, color="white", lw=4, zorder=3)
        lines += ax.plot(*path.T, color=hue, lw=2.2, zorder=4, label=f"mean of {by} {name}")
        ax.plot(*path[:1].T, "o", color=hue, mec="white", ms=6, zorder=5)

    if color == "time":
        _label_ends(ax, lines, names)
    else:
        keys: Iterable[Hashable] = names if color == "condition" else subjects
        _legend(ax, keys, color, title=by if color == "condition" else "subject")
    for which, values, limit in ((0, x, ax.set_xlim), (1, y, ax.set_ylim)):
        if len(values) > 100 and labels[which] != "time (s)":
            limit(*_frame(values, [np.asarray(line.get_xydata())[:, which] for line in ax.lines]))
    ax.set(xlabel=labels[0], ylabel=labels[1])
    _open_frame(ax)
    return ax


def plot_training(
    history: xr.Dataset,
    quantity: Literal["loss", "rate", "log_likelihood"] = "loss",
    ax: Axes | None = None,
) -> Axes:
    """Draw the course of a fit over epochs.

    Parameters
    ----------
    history : xarray.Dataset
        ``SharedLatentModel.history_``: dim epoch; `log_likelihood` also by subject.
    quantity : {"loss", "rate", "log_likelihood"}
        What to draw. The loss comes with the loss on validation trials, where there are any,
        and the epoch of the smallest one.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default the current Axes.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If `history` does not hold the quantity.
    """
    if quantity not in history:
        raise ValueError(
            f"The 'quantity' parameter of plot_training must be one of {sorted(map(str, history))}."
            f" Got {quantity!r} instead."
        )
    ax = ax or plt.gca()
    epoch = history["epoch"].to_numpy()
    values = history[quantity]
    if "subject" in values.dims:
        for i, subject in enumerate(values["subject"].to_numpy()):
            one = values.sel(subject=subject).to_numpy()
            ax.plot(epoch, one, color=_colors("subject", [i])[0], label=str(subject))
    else:
        ax.plot(epoch, values, color="#333333", label="training")
    validation = history.get("validation_loss")
    if quantity == "loss" and validation is not None and validation.notnull().any():
        validation = validation.dropna("epoch")
        ax.plot(validation["epoch"], validation, color="#D55E00", label="validation")
        best = history.attrs.get("best_epoch", int(validation.idxmin()))
        ax.axvline(best, color="#D55E00", lw=1, ls=":", label=f"best, epoch {best}")
    if len(ax.lines) > 1:
        ax.legend(frameon=False, fontsize="small")
    unit = "nats per window"
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="epoch", ylabel=f"{quantity.replace('_', ' ')} ({unit})")
    _open_frame(ax)
    return ax


def plot_separation(
    scores: xr.Dataset, level: Literal["trial", "window"] = "trial", ax: Axes | None = None
) -> Axes:
    """Draw who predicts whose condition: balanced accuracy, source by target.

    Parameters
    ----------
    scores : xarray.Dataset
        The result of ``separation``: `own` (level, subject), `cross` (level, source, target),
        `chance`. Permutation p-values are printed where there are any.
    level : {"trial", "window"}
        Whether whole trials or single windows are classified.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default the current Axes.

    Returns
    -------
    matplotlib.axes.Axes
        The framed diagonal holds the accuracies within a subject.

    Raises
    ------
    ValueError
        If `scores` lacks a variable or the level.
    """
    _require(scores, "plot_separation", coords=("own", "cross", "chance", "level"))
    if level not in scores["level"]:
        raise ValueError(
            f"The 'level' parameter of plot_separation must be one of "
            f"{scores['level'].to_numpy().tolist()}. Got {level!r} instead."
        )
    scores = scores.sel(level=level)
    chance = float(scores["chance"])
    subjects = [str(name) for name in scores["subject"].to_numpy()]
    matrix = _with_diagonal(scores["cross"], scores["own"])
    texts = np.array([[f"{value:.2f}" for value in row] for row in matrix], dtype=object)
    if "p_own" in scores:
        p = _with_diagonal(scores["p_cross"], scores["p_own"])
        texts += np.array([[f"\np={value:.3f}" for value in row] for row in p], dtype=object)
    ax = ax or plt.gca()
    _draw_matrix(
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
        title=f"per {level}; chance {chance:.2f}; framed: own",
    )
    return ax


def plot_imputation(
    scores: xr.Dataset, score: str = "bits_per_spike", ax: Axes | None = None
) -> Axes:
    """Draw how well each subject is predicted from the others, source by target.

    Parameters
    ----------
    scores : xarray.Dataset
        The result of ``imputation_scores``.
    score : str
        Its variable with dims (source, target).
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default the current Axes.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If `scores` has no such variable.
    """
    _require(scores, "plot_imputation", coords=(score,))
    values = scores[score].transpose("source", "target")
    matrix = values.to_numpy().astype(float)
    finite = matrix[np.isfinite(matrix)]
    digits = 3 if np.abs(finite).max(initial=0.0) < 0.1 else 2
    texts = [["" if np.isnan(v) else f"{v:.{digits}f}" for v in row] for row in matrix]
    low = min(0.0, float(finite.min(initial=0.0)))
    high = max(low + 1e-9, float(finite.max(initial=0.0)))
    ax = ax or plt.gca()
    _draw_matrix(
        ax,
        matrix,
        np.array(texts, dtype=object),
        [str(name) for name in values["source"].to_numpy()],
        [str(name) for name in values["target"].to_numpy()],
        low=low,
        high=high,
        label={"above_psth": "bits per spike above PSTH"}.get(score, score.replace("_", " ")),
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
        Where to draw; by default the current Axes.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If `residuals` has no variance by part.
    """
    _require(residuals, "plot_residuals", coords=("variance", "part"))
    variance = residuals["variance"]
    if "subject" not in variance.dims:
        variance = variance.expand_dims(subject=[residuals.attrs.get("subject", "all units")])
    variance = variance.sum([dim for dim in variance.dims if dim not in ("part", "subject")])
    share = variance / variance.sum("part")
    ax = ax or plt.gca()
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
    _open_frame(ax)
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
        Where to draw; by default the current Axes.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If the table has no such score.
    """
    rows = table[table["score"].isin(list(scores)) & (table["level"] == level)]
    if rows.empty:
        raise ValueError(
            f"plot_comparison expected rows of {list(scores)} at level {level!r}. "
            f"Got scores {sorted(set(table['score']))} at {sorted(set(table['level']))}."
        )
    models = list(dict.fromkeys(rows["model"]))
    ax = ax or plt.gca()
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
    _open_frame(ax)
    return ax


def plot_departure(departure: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw who departs from the group, and when.

    Parameters
    ----------
    departure : xarray.Dataset
        `divergence` (subject, time) and `within`, what half of a subject's trials gives against its
        other half; both in nats.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default the current Axes.

    Returns
    -------
    matplotlib.axes.Axes
    """
    _require(departure, "plot_departure", coords=("divergence", "within", "time", "subject"))
    ax = ax or plt.gca()
    time = departure["time"].to_numpy()
    for i, subject in enumerate(departure["subject"].to_numpy()):
        hue = _colors("subject", [i])[0]
        one = departure.sel(subject=subject)
        ax.plot(time, one["divergence"], color=hue, lw=2, label=str(subject))
        ax.plot(time, one["within"], color=hue, lw=1, ls=":")
    ax.plot([], [], color="#777777", lw=1, ls=":", label="within subject")
    ax.set(xlabel="time (s)", ylabel="divergence from the others (nats)")
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    _open_frame(ax)
    return ax


def _require(
    data: xr.DataArray | xr.Dataset,
    who: str,
    dims: tuple[str, ...] = (),
    coords: tuple[str, ...] = (),
) -> None:
    """Name everything that `data` lacks, at once."""
    held = {*map(str, data.coords), *(map(str, data) if isinstance(data, xr.Dataset) else ())}
    lacks = [f"dim '{name}'" for name in dims if name not in data.dims]
    lacks += [f"'{name}'" for name in coords if name not in held]
    if lacks:
        raise ValueError(
            f"{who} expected data with {', '.join(lacks)}. "
            f"Got dims {tuple(map(str, data.dims))} and {sorted(held)}."
        )


def _project(latents: xr.DataArray, by: str) -> tuple[NDArray[np.float64], tuple[str, str]]:
    """Two coordinates (subject, window, 2) to draw, and their labels."""
    values = latents.to_numpy().astype(float)
    if values.shape[-1] == 1:
        time = np.broadcast_to(latents["time"].to_numpy()[:, None], values.shape)
        return np.concatenate([time, values], axis=-1), ("time (s)", "latent 1")
    if values.shape[-1] == 2:
        return values, ("latent 1", "latent 2")
    here = np.full(values.shape[1], True)
    if "part" in latents.coords:
        here = (latents["part"] == "train").to_numpy()
    conditions, time = latents[by].to_numpy(), latents["time"].to_numpy().round(6)
    means = []
    for t in np.unique(time[here]):
        of_subjects = []
        for name in np.unique(conditions[here]):
            cell = values[:, here & (time == t) & (conditions == name)]
            known = np.isfinite(cell)
            n = known.sum(axis=1)
            total = np.where(known, cell, 0.0).sum(axis=1)
            mean = np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)
            # Subjects weigh the same, however many trials they have.
            of_subjects.append(mean[np.isfinite(mean).all(axis=1)].mean(axis=0))
        means.append(np.stack(of_subjects) - np.mean(of_subjects, axis=0))
    _, scale, axes = np.linalg.svd(np.concatenate(means), full_matrices=False)
    # The sign of an axis is arbitrary: its largest weight is made positive.
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    share = 100 * scale**2 / max((scale**2).sum(), 1e-300)
    centre = values[np.isfinite(values).all(-1)].mean(axis=0)
    label_1, label_2 = (f"{by} axis {k + 1} ({share[k]:.0f} % of mean differences)" for k in (0, 1))
    return (values - centre) @ axes[:2].T, (label_1, label_2)


def _frame(values: NDArray[np.float64], paths: list[NDArray[np.float64]]) -> tuple[float, float]:
    """Limits that hold the paths and the points but for the outermost twentieth."""
    low, high = np.quantile(values, [0.025, 0.975])
    low, high = min(low, *(p.min() for p in paths)), max(high, *(p.max() for p in paths))
    margin = 0.05 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _mean_path(points: NDArray[np.float64], time: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over subjects and trials at each time: points (subject, window, 2) to (time, 2)."""
    at_times = [points[:, time == t].reshape(-1, 2) for t in np.unique(time)]
    at_times = [at[np.isfinite(at).all(-1)] for at in at_times]
    return np.array([at.mean(axis=0) for at in at_times if len(at)]).reshape(-1, 2)


def _colors(kind: str, index: Iterable[int]) -> list[str]:
    palette = SUBJECT_COLORS if kind == "subject" else CONDITION_COLORS
    return [palette[i % len(palette)] for i in index]


def _legend(ax: Axes, names: Iterable[Hashable], kind: str, title: str) -> None:
    """List names with their colours to the right of the Axes, where no data lie."""
    handles = [
        Line2D([], [], ls="", marker="o", ms=6, color=_colors(kind, [i])[0], label=str(name))
        for i, name in enumerate(names)
    ]
    ax.legend(
        handles=handles,
        title=title,
        frameon=False,
        alignment="left",
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        borderaxespad=0,
    )


def _label_ends(ax: Axes, lines: Iterable[Line2D], names: Iterable[Hashable]) -> None:
    """Write each condition at the end of its path."""
    for line, name in zip(lines, names, strict=True):
        end = np.asarray(line.get_xydata())[-1:]
        for x, y in end:
            box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
            ax.annotate(
                str(name),
                (x, y),
                (4, 4),
                textcoords="offset points",
                fontsize="small",
                bbox=box,
                zorder=6,
            )


def _with_diagonal(cross: xr.DataArray, own: xr.DataArray) -> NDArray[np.float64]:
    matrix = cross.transpose("source", "target").to_numpy().astype(float)
    np.fill_diagonal(matrix, own.to_numpy())
    return matrix


def _draw_matrix(
    ax: Axes,
    matrix: NDArray[np.float64],
    texts: NDArray[np.object_],
    rows: list[str],
    columns: list[str],
    low: float,
    high: float,
    label: str,
) -> Colorbar:
    image = ax.imshow(matrix, cmap="cividis", vmin=low, vmax=high)
    small = "small" if len(columns) <= 6 else "x-small"
    for (i, j), value in np.ndenumerate(matrix):
        hue = "white" if value < (low + high) / 2 else "black"
        ax.text(j, i, str(texts[i, j]), ha="center", va="center", color=hue, fontsize=small)
    ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax.figure.colorbar(image, ax=ax, label=label, fraction=0.046, pad=0.04)


def _open_frame(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
