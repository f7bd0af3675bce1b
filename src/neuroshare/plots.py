"""Labelled arrays to matplotlib Axes.

Every function takes its data first and ``ax`` last, draws on it (or on the current Axes) and
returns it. Subjects and conditions each have a colour-blind-safe palette of their own, assigned
in the order of the data, so that a subject or a condition keeps its colour from figure to figure.
"""

from collections.abc import Hashable, Iterable
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

__all__ = [
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

# Beyond this many, further points hide one another and only make the file larger.
MAX_POINTS = 20_000


def plot_latents(
    latents: xr.DataArray,
    color: Literal["condition", "subject", "time"] = "condition",
    ax: Axes | None = None,
) -> Axes:
    """Draw windows in latent space, with the mean path of each condition over time.

    Two latents are drawn as they are; more are first rotated to their principal components,
    computed over the finite windows of all subjects together; one is drawn against time.

    Parameters
    ----------
    latents : xarray.DataArray
        Dims (subject, window, latent), as ``SharedLatentModel.transform`` returns them: the
        conditions in the coordinate that ``latents.attrs["by"]`` names, and ``time`` in seconds.
        Windows of an absent subject are NaN and not drawn.
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
    _require(latents, "plot_latents", dims=("subject", "window", "latent"), coords=("time",))
    if color not in ("condition", "subject", "time"):
        raise ValueError(
            "The 'color' parameter of plot_latents must be 'condition', 'subject' or 'time'. "
            f"Got {color!r} instead."
        )
    by = str(latents.attrs.get("by", "condition"))
    _require(latents, "plot_latents", coords=(by,))
    latents = latents.transpose("subject", "window", "latent")
    points, labels = _project(latents)
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
    cloud = ax.scatter(x, y, s=5, c=colors, alpha=0.35, linewidths=0, rasterized=True)
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
    for (member, name), hue in zip(groups, hues, strict=True):
        path = _mean_path(points[member][:, conditions == name], time[conditions == name])
        # A white line beneath keeps a path visible among points of its own colour.
        ax.plot(*path.T, color="white", lw=3.5, zorder=3)
        ax.plot(*path.T, color=hue, lw=1.6, zorder=4, label=f"mean of {by} {name}")
        ax.plot(*path[:1].T, "o", color=hue, mec="white", ms=6, zorder=5)

    if color == "time":
        _label_ends(ax, names)
    else:
        keys: Iterable[Hashable] = names if color == "condition" else subjects
        _legend(ax, keys, color, title=by if color == "condition" else "subject")
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
    texts = np.array([["" if np.isnan(v) else f"{v:.2f}" for v in row] for row in matrix], object)
    finite = matrix[np.isfinite(matrix)]
    low = min(0.0, float(finite.min(initial=0.0)))
    high = max(low + 1e-9, float(finite.max(initial=0.0)))
    ax = ax or plt.gca()
    _draw_matrix(
        ax,
        matrix,
        texts,
        [str(name) for name in values["source"].to_numpy()],
        [str(name) for name in values["target"].to_numpy()],
        low=low,
        high=high,
        label=score.replace("_", " "),
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
    # Not a subject's nor a condition's colour: light to dark, from explained to not.
    for part, hue in zip(share["part"].to_numpy(), ("#225555", "#77AA99", "#DDDDDD"), strict=False):
        width = share.sel(part=part).to_numpy()
        ax.barh(where, width, left=left, color=hue, label=str(part))
        left = left + width
    ax.set_yticks(where, [str(name) for name in share["subject"].to_numpy()])
    ax.invert_yaxis()
    ax.set(xlabel="share of variance", xlim=(0, 1))
    ax.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), fontsize="small")
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


def _project(latents: xr.DataArray) -> tuple[NDArray[np.float64], tuple[str, str]]:
    """Two coordinates (subject, window, 2) to draw, and their labels."""
    values = latents.to_numpy().astype(float)
    if values.shape[-1] == 1:
        time = np.broadcast_to(latents["time"].to_numpy()[:, None], values.shape)
        return np.concatenate([time, values], axis=-1), ("time (s)", "latent 1")
    if values.shape[-1] == 2:
        return values, ("latent 1", "latent 2")
    pooled = values[np.isfinite(values).all(-1)]
    centre = pooled.mean(axis=0)
    _, scale, axes = np.linalg.svd(pooled - centre, full_matrices=False)
    # The sign of a component is arbitrary: its largest weight is made positive.
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    share = 100 * scale**2 / (scale**2).sum()
    return (values - centre) @ axes[:2].T, (f"PC 1 ({share[0]:.0f} %)", f"PC 2 ({share[1]:.0f} %)")


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


def _label_ends(ax: Axes, names: Iterable[Hashable]) -> None:
    """Write each condition at the end of its path."""
    paths = [line for line in ax.lines if str(line.get_label()).startswith("mean of")]
    for line, name in zip(paths, names, strict=True):
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
