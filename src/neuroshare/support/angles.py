"""Angles and other values on a circle: where a turn begins, and points on the circle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def span_of(least: float, most: float, period: float | None) -> tuple[float, float]:
    """Ends of values; of angles a turn from 0, or from half a turn below where any is below 0."""
    if period is None:
        return least, most
    low = 0.0 if least >= 0 else -period / 2
    return low, low + period


def on_turn(values: Array, low: float, period: float) -> Array:
    """Values within the turn that begins at `low`."""
    return np.asarray((values - low) % period + low)


def shorter_way(difference: Array, period: float) -> Array:
    """Differences the shorter way round, at most half a turn."""
    return on_turn(difference, -period / 2, period)


def to_circle(values: Array, period: float) -> Array:
    """Points (..., 2) on the unit circle."""
    turn = 2 * np.pi * values / period
    return np.stack([np.cos(turn), np.sin(turn)], axis=-1)


def from_circle(points: Array, period: float) -> Array:
    """Undo `to_circle`, up to whole turns; also of means of points."""
    return np.asarray(np.arctan2(points[..., 1], points[..., 0]) * period / (2 * np.pi))
