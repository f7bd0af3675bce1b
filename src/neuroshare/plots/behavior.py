"""Latents by behavior, and what is decoded of it."""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from neuroshare.plots.style import (
    axes_of,
    colors_of,
    draw_matrix,
    open_frame,
    require_kind,
    require_parts,
)
from neuroshare.support.checks import require, require_one_of

MAX_POINTS = 20_000
N_BINS = 24
"""Of a behavior, along the mean path."""


def draw_by_behavior(latents: xr.DataArray, color: str | None, ax: Axes) -> Axes:
    """Draw windows that were paired by behavior, on the axes where its bins differ most.

    Parameters
    ----------
    latents
        (subject, window, latent) with the bins in ``attrs["by"]`` (subject, window).
    color
        A coordinate of windows, or "subject"; None takes what windows were paired by first.
    ax
        Where to draw.
    """
    about: dict[str, Any] = json.loads(latents.attrs.get("behavior", "{}"))
    paired = json.loads(latents.attrs.get("paired_by", "[]"))
    if color is None:
        color = str(next((name for name in paired if name in about), latents.attrs["by"]))
    latents = latents.transpose("subject", "window", "latent")
    z = latents.to_numpy().astype(float)
    like = latents.isel(latent=0, drop=True)

    def column(name: str) -> NDArray[Any]:
        wide = latents[name].broadcast_like(like).transpose("subject", "window")
        return np.asarray(wide.to_numpy())

    points, labels = axes_of_bins(z, column(str(latents.attrs["by"])))
    subjects = latents["subject"].to_numpy()
    values = np.broadcast_to(subjects[:, None], like.shape) if color == "subject" else column(color)
    there = np.isfinite(points).all(-1)
    if values.dtype.kind == "f":
        there &= np.isfinite(values)
    at = np.flatnonzero(there.ravel())
    at = np.random.default_rng(0).permutation(at)[:MAX_POINTS]
    x, y = points.reshape(-1, 2)[at].T
    shown = values.ravel()[at]
    alpha = float(np.clip(1500 / max(len(x), 1), 0.15, 0.6))
    style: dict[str, Any] = {"s": 4, "alpha": alpha, "linewidths": 0, "rasterized": True}
    known = about.get(color, {})
    unit = f" ({known['unit']})" if known.get("unit") else ""
    if shown.dtype.kind in "iuf" and len(np.unique(shown)) > 7:
        period = known.get("period")
        if period is None:
            cloud = ax.scatter(x, y, c=shown.astype(float), cmap="viridis", **style)
            bar = ax.figure.colorbar(cloud, ax=ax, label=f"{color}{unit}")
            bar.solids.set_alpha(1)  # type: ignore[union-attr]
        else:
            turn = (shown % period) / period
            ax.scatter(x, y, c=turn, cmap="twilight", vmin=0, vmax=1, **style)
            _ring(ax, f"{color}{unit}", float(period))
        _path(ax, points[there], values[there].astype(float), period)
    else:
        names, index = np.unique(shown, return_inverse=True)
        if color == "subject":
            names, index = subjects, np.searchsorted(np.sort(subjects), shown)
            index = np.argsort(subjects)[index]
        kind = "subject" if color == "subject" else "condition"
        ax.scatter(x, y, c=colors_of(kind, index), **style)
        handles = [
            Line2D([], [], ls="", marker="o", ms=6, color=colors_of(kind, [i])[0], label=str(name))
            for i, name in enumerate(names)
        ]
        ax.legend(handles=handles, title=color, frameon=False, bbox_to_anchor=(1.01, 1), loc=2)
    ax.set(xlabel=labels[0], ylabel=labels[1])
    open_frame(ax)
    return ax


def axes_of_bins(
    z: NDArray[np.float64], bins: NDArray[Any], most: int = 2
) -> tuple[NDArray[np.float64], list[str]]:
    """Coordinates (subject, window, axis), two or up to `most`, and their names.

    Axes are those where the mean latents of bins differ most; two latents are axes themselves.
    """
    if z.shape[-1] == 1:
        z = np.concatenate([z, np.zeros_like(z)], axis=-1)
    if z.shape[-1] == 2:
        return z, ["latent 1", "latent 2"]
    means = []
    for own, place in zip(z, bins, strict=True):
        known = np.isfinite(own).all(-1)
        names, index = np.unique(place[known], return_inverse=True)
        total = np.zeros((len(names), z.shape[-1]))
        np.add.at(total, index, own[known])
        mean = total / np.bincount(index)[:, None]
        means.append(mean - mean.mean(axis=0))
    _, scale, axes = np.linalg.svd(np.concatenate(means), full_matrices=False)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    share = 100 * scale**2 / max((scale**2).sum(), 1e-300)
    labels = [f"axis {k + 1} ({s:.0f} % of mean differences)" for k, s in enumerate(share[:most])]
    centre = z[np.isfinite(z).all(-1)].mean(axis=0)
    return (z - centre) @ axes[:most].T, labels


def _path(
    ax: Axes, points: NDArray[np.float64], values: NDArray[np.float64], period: float | None
) -> None:
    """Mean path along a behavior, closed for an angle."""
    low, high = float(values.min()), float(values.max())
    share = (values % period) / period if period else (values - low) / max(high - low, 1e-300)
    bins = np.clip((share * N_BINS).astype(int), 0, N_BINS - 1)
    path = np.array([points[bins == b].mean(axis=0) for b in np.unique(bins)])
    if period:
        path = np.concatenate([path, path[:1]])
    ax.plot(*path.T, color="white", lw=4, zorder=3)
    ax.plot(*path.T, color="black", lw=1.5, zorder=4, label="mean path")


def _ring(ax: Axes, label: str, period: float) -> None:
    """Colours of an angle as a ring beside the Axes."""
    ring = ax.inset_axes((1.04, 0.7, 0.28, 0.28))
    turn = np.linspace(0, 2 * np.pi, 181)
    edge = np.stack([np.cos(turn), np.sin(turn)])
    x, y = (np.stack([0.6 * e, e]) for e in edge)
    shade = ((turn[:-1] + turn[1:]) / (4 * np.pi))[None]
    ring.pcolormesh(x, y, shade, cmap="twilight", vmin=0, vmax=1, rasterized=True)
    ring.set(aspect="equal", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
    ring.set_axis_off()
    ring.set_title(label, fontsize="small")
    for k, (at, up) in enumerate(((1.3, 0.0), (0.0, 1.3), (-1.3, 0.0), (0.0, -1.3))):
        text = f"{k * period / 4:.3g}"
        ring.text(at, up, text, ha="center", va="center", fontsize="x-small")


def plot_decoding(
    scores: xr.Dataset,
    ax: Axes | None = None,
    *,
    variable: str | None = None,
    kind: Literal["along", "pairs"] | None = None,
) -> Axes:
    """Draw how well behavior is decoded: the error along it, or of every source and target.

    Parameters
    ----------
    scores : xarray.Dataset
        The result of ``decoding``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default those of a new figure.
    variable : str, optional
        Which, where there are several; by default the first.
    kind : {"along", "pairs"}, optional
        Median error along the behavior, each target in its colour: solid from its own latents,
        dashed from those of one other subject (the mean over these); or a matrix of sources and
        targets. By default along, where the variable has one column.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If the data are of another kind, or `ax` is no Axes.
    ValueError
        If `scores` lacks what is drawn.
    """
    require_kind(scores, "plot_decoding", xr.Dataset)
    require_parts(scores, "plot_decoding", coords=("median_error", "source", "target"))
    names = json.loads(scores.attrs.get("of", '["behavior"]'))
    if "variable" in scores.dims:
        name = str(scores["variable"].values[0]) if variable is None else variable
        require_one_of(name, "variable", "plot_decoding", scores["variable"].values.tolist())
        scores = scores.sel(variable=name)
    else:
        name = names[0]
    unit = json.loads(scores.attrs.get("units", "{}")).get(name, "")
    unit = f" ({unit})" if unit else ""
    along = "error_along" in scores and bool(scores["error_along"].notnull().any())
    kind = kind or ("along" if along else "pairs")
    require_one_of(kind, "kind", "plot_decoding", ("along", "pairs"))
    ax = axes_of(ax, "plot_decoding")
    subjects = [str(s) for s in scores["target"].to_numpy()]
    own = np.eye(len(subjects), dtype=bool)
    if kind == "pairs":
        matrix = scores["median_error"].transpose("source", "target").to_numpy()
        texts = np.array([[f"{value:.3g}" for value in row] for row in matrix], dtype=object)
        high = float(np.nanmax(matrix))
        draw_matrix(ax, matrix, texts, subjects, subjects, 0.0, high, f"median error{unit}")
        for i in range(len(subjects)):
            frame = Rectangle((i - 0.47, i - 0.47), 0.94, 0.94, fill=False, lw=1.5, ec="black")
            ax.add_patch(frame)
        ax.set(xlabel=f"target: {name} decoded", ylabel="source: latents known")
        return ax
    if not along:
        raise ValueError(f"plot_decoding expected errors along {name}, of one column. Got none.")
    errors = scores["error_along"].transpose("source", "target", "bin").to_numpy()
    middle = scores["bin_middle"].to_numpy()
    for t, subject in enumerate(subjects):
        hue = colors_of("subject", [t])[0]
        ax.plot(middle, errors[t, t], color=hue, lw=1.8, label=subject)
        others = errors[~own[:, t], t]
        if len(others):
            known = np.isfinite(others)
            n = known.sum(0)
            total = np.where(known, others, 0).sum(0)
            mean = np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)
            ax.plot(middle, mean, color=hue, lw=1.5, ls="--")
    handles = ax.get_legend_handles_labels()[0]
    handles += [Line2D([], [], color="black", ls=s) for s in ("-", "--")]
    named = [*subjects, "own latents", "another's"]
    if "null_mean_median_error_own" in scores:
        chance = float(scores["null_mean_median_error_own"].median())
        handles.append(ax.axhline(chance, color="gray", ls=":", lw=1))
        named.append("behavior moved")
    ax.legend(handles, named, frameon=False, fontsize="small", bbox_to_anchor=(1.01, 1), loc=2)
    ax.set(xlabel=f"{name}{unit}", ylabel=f"median error{unit}")
    ax.set_ylim(bottom=0)
    open_frame(ax)
    return ax


def plot_consistency(scores: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw linear R2 between animals, with the ceiling of each on the framed diagonal.

    Parameters
    ----------
    scores : xarray.Dataset
        The result of ``consistency``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The title says the means, of the pairs, of ceilings and of the shuffled floor.

    Raises
    ------
    TypeError
        If the data are of another kind, or `ax` is no Axes.
    ValueError
        If `scores` lacks what is drawn.
    """
    require_kind(scores, "plot_consistency", xr.Dataset)
    require_parts(scores, "plot_consistency", coords=("r2", "mean_r2", "mean_ceiling"))
    ax = axes_of(ax, "plot_consistency")
    subjects = [str(s) for s in scores["target"].to_numpy()]
    matrix = scores["r2"].transpose("source", "target").to_numpy()
    texts = np.array([[f"{value:.2f}" for value in row] for row in matrix], dtype=object)
    draw_matrix(ax, matrix, texts, subjects, subjects, 0.0, 1.0, "R2 of held-out means")
    for i in range(len(subjects)):
        frame = Rectangle((i - 0.47, i - 0.47), 0.94, 0.94, fill=False, lw=1.5, ec="black")
        ax.add_patch(frame)
    means = {name: float(scores[f"mean_{name}"]) for name in ("r2", "ceiling", "floor")}
    ax.set_title(
        f"between {means['r2']:.2f}, ceiling {means['ceiling']:.2f}, floor {means['floor']:.2f}",
        fontsize="medium",
    )
    ax.set(xlabel="target", ylabel="source")
    return ax


def plot_tuning(tuning: xr.Dataset, ax: Axes | None = None, *, latent: int = 0) -> Axes:
    """Draw the mean of a latent by a behavior, with its standard error, for every subject.

    Parameters
    ----------
    tuning : xarray.Dataset
        The result of ``latent_tuning``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default those of a new figure.
    latent : int
        Its label.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If the data are of another kind, or `ax` is no Axes.
    ValueError
        If `tuning` lacks what is drawn, or there is no such latent.
    """
    require_kind(tuning, "plot_tuning", xr.Dataset)
    require_parts(tuning, "plot_tuning", coords=("mean", "standard_error", "latent"))
    labels = tuning["latent"].values.tolist()
    require(latent in labels, "latent", "plot_tuning", f"one of {labels}", latent)
    ax = axes_of(ax, "plot_tuning")
    name = str(tuning.attrs["of"])
    chosen = tuning.sel(latent=latent)
    middle = tuning[name].to_numpy()
    for s, subject in enumerate(tuning["subject"].to_numpy()):
        hue = colors_of("subject", [s])[0]
        mean = chosen["mean"].to_numpy()[s]
        error = np.nan_to_num(chosen["standard_error"].to_numpy()[s])
        ax.plot(middle, mean, color=hue, lw=1.8, label=str(subject))
        ax.fill_between(middle, mean - error, mean + error, color=hue, alpha=0.2, lw=0)
    ax.legend(frameon=False, fontsize="small", bbox_to_anchor=(1.01, 1), loc=2)
    unit = f" ({tuning.attrs['unit']})" if tuning.attrs.get("unit") else ""
    ax.set(xlabel=f"{name}{unit}", ylabel=f"latent {latent}")
    open_frame(ax)
    return ax
