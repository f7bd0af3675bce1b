"""The course of a fit."""

from __future__ import annotations

from typing import Literal

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from neuroshare.plots.style import axes_of, colors_of, open_frame, require_kind, require_parts
from neuroshare.support.checks import require_one_of


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
        Where to draw; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If the data are of another kind, or `ax` is no Axes.
    ValueError
        If `history` does not hold the quantity.
    """
    require_kind(history, "plot_training", xr.Dataset)
    require_parts(history, "plot_training", dims=("epoch",))
    require_one_of(quantity, "quantity", "plot_training", sorted(map(str, history)))
    ax = axes_of(ax, "plot_training")
    epoch = history["epoch"].to_numpy()
    values = history[quantity]
    if "subject" in values.dims:
        for i, subject in enumerate(values["subject"].to_numpy()):
            one = values.sel(subject=subject).to_numpy()
            ax.plot(epoch, one, color=colors_of("subject", [i])[0], label=str(subject))
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
    open_frame(ax)
    return ax
