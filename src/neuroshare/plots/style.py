"""What figures have in common: colours, Axes, matrices, and checks of what is drawn."""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from numpy.typing import NDArray

# Okabe and Ito (2008), without black, for subjects.
SUBJECT_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
# Tol (2021), "bright", for conditions.
CONDITION_COLORS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#AA3377", "#66CCEE", "#777777")
# Not a subject's nor a condition's colour; dark to light, from explained to not.
PART_COLORS = ("#225555", "#77AA99", "#DDDDDD")


def axes_of(ax: Axes | None, who: str, projection: str | None = None) -> Axes:
    """The Axes to draw on; those of a new figure where none are given."""
    if not isinstance(ax, Axes | None):
        raise TypeError(
            f"The 'ax' parameter of {who} must be one matplotlib Axes, or None for a new figure. "
            f"Got {type(ax).__name__} instead."
        )
    # Two plots in one cell of a notebook must not be drawn over each other.
    return ax or plt.figure(layout="constrained").add_subplot(projection=projection)


def require_kind(data: object, who: str, kind: type) -> None:
    """Refuse data of another kind."""
    if not isinstance(data, kind):
        raise TypeError(f"{who} expected its data as a {kind.__name__}. Got {type(data).__name__}.")


def require_parts(
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


def colors_of(kind: str, index: Iterable[int]) -> list[str]:
    """Colours of subjects or of conditions by their number."""
    palette = SUBJECT_COLORS if kind == "subject" else CONDITION_COLORS
    return [palette[i % len(palette)] for i in index]


def draw_matrix(
    ax: Axes,
    matrix: NDArray[np.float64],
    texts: NDArray[np.object_],
    rows: list[str],
    columns: list[str],
    low: float,
    high: float,
    label: str,
) -> Colorbar:
    """Draw a matrix with a text in every cell."""
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


def open_frame(ax: Axes) -> None:
    """Leave out the frame above and to the right."""
    ax.spines[["top", "right"]].set_visible(False)
