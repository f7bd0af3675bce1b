"""Windows in latent space."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from neuroshare.plots.behavior import draw_by_behavior
from neuroshare.plots.style import axes_of, colors_of, open_frame, require_kind, require_parts
from neuroshare.support.checks import require

# Beyond this many, further points hide one another and only make the file larger.
MAX_POINTS = 20_000

MOST_COLORS = 7
"""Of a number; more get a scale."""
MARKERS = "osD^vPX*h<>p"
"""Of the means of subjects, in their order."""
HIDDEN = 0.1
"""Share of mean differences along a third axis from which two would hide a condition."""


def plot_latents(
    latents: xr.DataArray,
    color: str = "condition",
    ax: Axes | None = None,
    *,
    subject: str | Sequence[str] | None = None,
    axes: Literal["auto", 2, 3] = "auto",
) -> Axes:
    """Draw windows in latent space, with the mean path of each condition over time.

    Small dots are windows; large marks are means of a subject's windows of one condition. Two
    latents are drawn as they are; one is drawn against time. More are first rotated to the axes on
    which the mean paths of the conditions differ most: the largest variance of all windows is
    usually what each animal does on its own. Latents that know their ``part`` have these axes
    fitted on its "train" windows, and the others drawn; else both are all windows.

    Parameters
    ----------
    latents : xarray.DataArray
        Dims (subject, window, latent), as ``SharedLatentModel.transform`` returns them: the
        conditions in the coordinate that ``latents.attrs["by"]`` names, and ``time`` in seconds.
        Windows of an absent subject are NaN and not drawn. The frame leaves out the outermost
        points. What `embed` returns, (subject, window, axis), is drawn likewise. Windows that were
        paired by behavior have the colour of the first of it (of an angle that of a ring), and its
        mean path.
    color : str
        What the colour of a point shows: "condition", "subject", "time", or a coordinate of the
        windows or subjects, such as a trial column; numbers of more than seven values get a scale.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default those of a new figure. Axes of a 3-D projection get three axes.
    subject : str or list of str, optional
        Whom to draw; the axes stay those of all subjects, and so do the colours.
    axes : {"auto", 2, 3}
        How many axes; "auto" takes a third where the paths differ by a tenth or more along it, so
        that no condition is hidden behind the others.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If the data are of another kind, or `ax` is no Axes.
    ValueError
        If dims or coordinates are missing, or `color`, `subject` or `axes` are unknown.
    """
    require_kind(latents, "plot_latents", xr.DataArray)
    embedded = "axis" in latents.dims
    if embedded:
        latents = latents.rename(axis="latent")
    require_parts(latents, "plot_latents", dims=("subject", "window", "latent"), coords=("time",))
    columns = [
        str(c) for c, v in latents.coords.items() if {"window", "subject"} & {*v.dims}
    ]  # fmt: skip
    own = ("condition", "subject", "time")
    if not isinstance(color, str) or color not in (*own, *columns):
        raise ValueError(
            f"The 'color' parameter of plot_latents must be one of {list(own)}, or a coordinate of "
            f"the windows among {columns}. Got {color!r} instead."
        )
    known = not isinstance(axes, bool) and axes in ("auto", 2, 3)
    require(known, "axes", "plot_latents", "one of auto, 2 and 3", axes)
    by = str(latents.attrs.get("by", "condition"))
    require_parts(latents, "plot_latents", coords=(by,))
    if "subject" in latents[by].dims and not embedded:  # paired by behavior
        own_color = None if color == "condition" else color
        return draw_by_behavior(latents, own_color, axes_of(ax, "plot_latents"))
    latents = latents.transpose("subject", "window", "latent")
    everyone = [str(name) for name in latents["subject"].to_numpy()]
    drawn = everyone if subject is None else [subject] if isinstance(subject, str) else [*subject]
    if not drawn or set(drawn) - set(everyone):
        raise ValueError(
            "The 'subject' parameter of plot_latents must name subjects among "
            f"{everyone}. Got {subject!r} instead."
        )
    if latents.dtype.kind not in "iuf" or not np.isfinite(latents.values).all(-1).any():
        raise ValueError(
            "plot_latents expected windows of finite latents. Got none in "
            f"{dict(latents.sizes)} of {latents.dtype}."
        )
    solid = latents.sizes["latent"] > 2
    if ax is not None:
        ax = axes_of(ax, "plot_latents")
    points, labels, shares = project(latents, by)
    if ax is not None:
        n_axes = 3 if ax.name == "3d" and solid else 2
    else:
        hides = solid and len(shares) > 2 and shares[2] >= HIDDEN
        n_axes = int(axes) if axes != "auto" and solid else 3 if hides and axes == "auto" else 2
    ax = axes_of(ax, "plot_latents", "3d" if n_axes == 3 else None)
    points, labels = points[..., :n_axes], labels[:n_axes]
    if embedded:
        labels = [label.replace("latent", "UMAP") for label in labels]
    if "part" in latents.coords:
        held_out = (latents["part"] != "train").to_numpy()
        points, latents = points[:, held_out], latents.isel(window=held_out)
    here = np.isin(everyone, drawn)
    points = np.where(here[:, None, None], points, np.nan)
    if not np.isfinite(points).all(-1).any():
        raise ValueError(f"plot_latents expected windows of {drawn} with finite latents. Got none.")
    subjects = latents["subject"].to_numpy()
    conditions = latents[by].to_numpy()
    names = np.unique(conditions)
    time = latents["time"].to_numpy().round(6)

    present = np.isfinite(points).all(-1)
    subject_at, window_at = np.nonzero(present)
    # The order is shuffled, so that no subject or condition lies on top of the others.
    shown = np.random.default_rng(0).permutation(len(window_at))[:MAX_POINTS]
    subject_at, window_at = subject_at[shown], window_at[shown]
    color = "condition" if color == by else color
    index: NDArray[Any]
    keys: Iterable[Hashable] = names
    if color in own:
        index = {
            "condition": np.searchsorted(names, conditions[window_at]),
            "subject": subject_at,
            "time": time[window_at],
        }[color]
    else:
        column = latents[color].broadcast_like(latents.isel(latent=0, drop=True))
        index = column.transpose("subject", "window").to_numpy()[subject_at, window_at]
        keys, numbers = np.unique(index, return_inverse=True)
        scaled = index.dtype.kind in "iuf" and len(keys) > MOST_COLORS
        index = index.astype(float) if scaled else numbers
    scaled = color == "time" or (color not in own and index.dtype.kind == "f")

    xyz = points[subject_at, window_at].T
    colors = index if scaled else colors_of(color, index)
    n = max(len(window_at), 1)
    # Few points are large and solid, many small and light: a cloud has to show in either case.
    alpha, size = float(np.clip(1500 / n, 0.4, 0.8)), float(np.clip(12000 / n, 7, 20))
    # Points are drawn as pixels: thousands of them would make a vector file enormous.
    free: Any = ax  # of two dimensions or three
    deep = {"depthshade": False} if n_axes == 3 else {}
    if deep:
        free.computed_zorder = False  # paths over points, which would hide them
    cloud = free.scatter(*xyz, s=size, c=colors, alpha=alpha, linewidths=0, rasterized=True, **deep)
    if scaled:
        bar = ax.figure.colorbar(
            cloud, ax=ax, label="time (s)" if color == "time" else color, shrink=0.8
        )
        bar.solids.set_alpha(1)  # type: ignore[union-attr]

    if color == "subject":
        groups = [(subjects == subject, name) for subject in subjects[here] for name in names]
        hues = [colors_of("subject", [int(i)])[0] for i in np.flatnonzero(here) for _ in names]
    else:
        groups = [(np.full(len(subjects), True), name) for name in names]
        hues = [colors_of("condition", [i])[0] for i in range(len(names))]
    if color not in ("condition", "subject"):
        hues = ["black"] * len(groups)
    lines = []
    for (member, name), hue in zip(groups, hues, strict=True):
        path = _mean_path(points[member][:, conditions == name], time[conditions == name])
        # A white line beneath keeps a path visible among points of its own colour.
        ax.plot(*path.T, color="white", lw=4, zorder=3)
        lines += ax.plot(*path.T, color=hue, lw=2.2, zorder=4, label=f"mean of {by} {name}")
        ax.plot(*path[:1].T, "o", color=hue, mec="white", ms=6, zorder=5)
    marked = _draw_means(ax, points, conditions, names, color)
    if color not in ("condition", "subject"):
        _label_ends(ax, lines, names)
    if marked and color != "subject" and here.sum() > 1:
        _legend_of_marks(ax, subjects, here)
    if not scaled:
        keys = subjects if color == "subject" else keys
        listed = [(i, name) for i, name in enumerate(keys) if color != "subject" or here[i]]
        _legend(ax, listed, color, title=by if color == "condition" else color)
    limits = [free.set_xlim, free.set_ylim, *([free.set_zlim] if n_axes == 3 else [])]
    for which, values in enumerate(xyz):
        if len(values) > 100 and labels[which] != "time (s)":
            drawn_lines = [np.asarray(_data(line))[which] for line in ax.lines]
            limits[which](*_frame(values, drawn_lines))
    if n_axes == 3:
        labels = [label.replace(" of mean differences", "") for label in labels]
        ax.set(xlabel=labels[0], ylabel=labels[1], zlabel=labels[2])
        # Turned latents have no units of their own: the grid is enough.
        ax.set(xticklabels=[], yticklabels=[], zticklabels=[])
        for axis in (free.xaxis, free.yaxis, free.zaxis):
            axis.labelpad = -8
        free.view_init(elev=22, azim=-60)
        free.set_box_aspect(None, zoom=0.92)
        return ax
    ax.set(xlabel=labels[0], ylabel=labels[1])
    open_frame(ax)
    return ax


def project(
    latents: xr.DataArray, by: str
) -> tuple[NDArray[np.float64], list[str], NDArray[np.float64]]:
    """Coordinates (subject, window, axis) to draw, up to three, their labels and shares.

    The share of an axis is that of the squared differences between the conditions' mean paths; it
    is known of three latents or more.
    """
    latents = latents.transpose("subject", "window", "latent")
    values = latents.to_numpy().astype(float)
    if values.shape[-1] == 1:
        time = np.broadcast_to(latents["time"].to_numpy()[:, None], values.shape)
        return np.concatenate([time, values], axis=-1), ["time (s)", "latent 1"], np.empty(0)
    if values.shape[-1] == 2:
        return values, ["latent 1", "latent 2"], np.empty(0)
    here = np.full(values.shape[1], True)
    if "part" in latents.coords:
        here = (latents["part"] == "train").to_numpy()
    if not np.isfinite(values[:, here]).all(-1).any():
        raise ValueError(
            "plot_latents expected windows of part 'train' with finite latents, which give the "
            f"axes of three latents or more. Got none among {here.sum()} such windows."
        )
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
    shares = scale**2 / max((scale**2).sum(), 1e-300)
    centre = values[np.isfinite(values).all(-1)].mean(axis=0)
    labels = [
        f"{by} axis {k + 1} ({100 * share:.0f} % of mean differences)"
        for k, share in enumerate(shares[:3])
    ]
    return (values - centre) @ axes[:3].T, labels, shares


def _draw_means(
    ax: Axes,
    points: NDArray[np.float64],
    conditions: NDArray[Any],
    names: NDArray[Any],
    color: str,
) -> bool:
    """Mean of each subject's windows of one condition, a mark of the subject; whether any."""
    free: Any = ax
    marked = False
    for i, of_subject in enumerate(points):
        for k, name in enumerate(names):
            cell = of_subject[conditions == name]
            cell = cell[np.isfinite(cell).all(-1)]
            if not len(cell):
                continue
            hue = "black"
            if color in ("condition", "subject"):
                hue = colors_of(color, [i if color == "subject" else k])[0]
            mark = MARKERS[i % len(MARKERS)]
            free.scatter(
                *cell.mean(axis=0), s=52, marker=mark, c=hue, edgecolors="white", linewidths=0.9,
                zorder=6,
            )  # fmt: skip
            marked = True
    return marked


def _legend_of_marks(ax: Axes, subjects: NDArray[Any], here: NDArray[np.bool_]) -> None:
    """List which subject has which mark, above the Axes."""
    handles = [
        Line2D([], [], ls="", marker=MARKERS[i % len(MARKERS)], color="#666666", label=str(name))
        for i, name in enumerate(subjects)
        if here[i]
    ]
    listed = Legend(
        ax,
        handles,
        [str(handle.get_label()) for handle in handles],
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
        ncols=5,
        fontsize="small",
        handletextpad=0.1,
        columnspacing=1.0,
    )
    ax.add_artist(listed)
    listed.set_clip_on(False)  # else the layout would leave no room for it


def _data(line: Line2D) -> Sequence[NDArray[np.float64]]:
    """Coordinates of a line, in two or three dimensions."""
    in_space = getattr(line, "get_data_3d", None)
    return in_space() if in_space else np.asarray(line.get_xydata()).T  # type: ignore[return-value]


def _frame(values: NDArray[np.float64], paths: list[NDArray[np.float64]]) -> tuple[float, float]:
    """Limits that hold the paths and the points but for the outermost twentieth."""
    low, high = np.quantile(values, [0.025, 0.975])
    low, high = min(low, *(p.min() for p in paths)), max(high, *(p.max() for p in paths))
    margin = 0.05 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _mean_path(points: NDArray[np.float64], time: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over subjects and trials at each time: (subject, window, axis) to (time, axis)."""
    k = points.shape[-1]
    at_times = [points[:, time == t].reshape(-1, k) for t in np.unique(time)]
    at_times = [at[np.isfinite(at).all(-1)] for at in at_times]
    return np.array([at.mean(axis=0) for at in at_times if len(at)]).reshape(-1, k)


def _legend(ax: Axes, names: Iterable[tuple[int, Hashable]], kind: str, title: str) -> None:
    """List names with their colours to the right of the Axes, where no data lie."""
    handles = [
        Line2D([], [], ls="", marker="o", ms=6, color=colors_of(kind, [i])[0], label=str(name))
        for i, name in names
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
        path = _data(line)
        for where in zip(*(values[-1:] for values in path), strict=True):
            if len(where) == 3:
                ax.text(*where, f" {name}", fontsize="small", zorder=7)  # type: ignore[arg-type]
                continue
            x, y = where
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
