"""Labelled arrays to matplotlib Axes.

Every function takes its data first and ``ax`` last, draws on it (or into a new figure) and
returns it. Subjects and conditions each have a colour-blind-safe palette of their own, assigned
in the order of the data, so that a subject or a condition keeps its colour from figure to figure.
"""

from neuroshare.plots.behavior import axes_of_bins, plot_consistency, plot_decoding, plot_tuning
from neuroshare.plots.latents import HIDDEN, MAX_POINTS, plot_latents, project
from neuroshare.plots.scores import (
    plot_comparison,
    plot_departure,
    plot_imputation,
    plot_influence,
    plot_power,
    plot_residuals,
    plot_separation,
)
from neuroshare.plots.style import CONDITION_COLORS, SUBJECT_COLORS
from neuroshare.plots.sweeps import plot_sweep
from neuroshare.plots.training import plot_training

__all__ = [
    "CONDITION_COLORS",
    "HIDDEN",
    "MAX_POINTS",
    "SUBJECT_COLORS",
    "axes_of_bins",
    "plot_comparison",
    "plot_consistency",
    "plot_decoding",
    "plot_departure",
    "plot_imputation",
    "plot_influence",
    "plot_latents",
    "plot_power",
    "plot_residuals",
    "plot_separation",
    "plot_sweep",
    "plot_training",
    "plot_tuning",
    "project",
]
