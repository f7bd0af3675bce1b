"""The table of a sweep."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from neuroshare.plots.style import CONDITION_COLORS, axes_of, open_frame, require_kind


def plot_sweep(table: pd.DataFrame, score: str = "cross_trial", ax: Axes | None = None) -> Axes:
    """Draw a score of a sweep by beta, a line for each objective.

    Parameters
    ----------
    table : DataFrame
        The result of ``sweep``, or its ``sweep.csv``.
    score : str
        Which of its scores.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Points are runs, lines their means over seeds.

    Raises
    ------
    TypeError
        If the data are of another kind, or `ax` is no Axes.
    ValueError
        If the table has no such score, or no run of it ended.
    """
    require_kind(table, "plot_sweep", pd.DataFrame)
    settings = ["objective", "beta", "seed"]
    lacks = [name for name in settings if name not in table]
    if lacks:
        raise ValueError(
            f"plot_sweep expected the table of sweep, with columns {lacks}. Got {list(table)}."
        )
    scores = [
        str(name)
        for name in table.select_dtypes("number").columns
        if name not in settings and table[name].notna().any()
    ]
    if not isinstance(score, str) or score not in scores:
        raise ValueError(
            f"The 'score' parameter of plot_sweep must be one of {scores}. Got {score!r} instead."
        )
    ax = axes_of(ax, "plot_sweep")
    names = list(dict.fromkeys(table["objective"]))
    betas = np.sort(table["beta"].unique())
    logarithmic = len(betas) > 1 and betas[0] > 0
    spread = 0.02 * np.ptp(np.log10(betas)) if logarithmic else 0.0
    for k, name in enumerate(names):
        hue = CONDITION_COLORS[k % len(CONDITION_COLORS)]
        runs = table[(table["objective"] == name) & table[score].notna()]
        # Side by side, so that objectives of one beta do not hide each other.
        shift = 10 ** (spread * (k - (len(names) - 1) / 2))
        ax.plot(runs["beta"] * shift, runs[score], "o", color=hue, ms=5, alpha=0.5, mew=0)
        means = runs.groupby("beta")[score].mean()
        ax.plot(means.index * shift, means, "-o", color=hue, ms=7, lw=2, label=str(name))
    if logarithmic:
        ax.set_xscale("log")
    ax.set_xticks(betas, [f"{beta:g}" for beta in betas])
    ax.minorticks_off()
    ax.set(xlabel="beta", ylabel=score.replace("_", " "))
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    open_frame(ax)
    return ax
