"""Values that change over training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """A value that moves from `start` to `stop` over the first `epochs` epochs, then stays.

    Examples
    --------
    >>> anneal = Schedule(1.0, 0.0, epochs=4)
    >>> [anneal(epoch) for epoch in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    start: float
    stop: float
    epochs: int
    shape: Literal["linear", "geometric"] = "linear"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"Schedule needs epochs >= 1. Got {self.epochs!r} instead.")
        if self.shape not in ("linear", "geometric"):
            raise ValueError(
                f"The 'shape' parameter of Schedule must be 'linear' or 'geometric'. "
                f"Got {self.shape!r} instead."
            )
        if self.shape == "geometric" and not (self.start > 0 and self.stop > 0):
            raise ValueError("A geometric Schedule needs positive start and stop.")

    def __call__(self, epoch: float) -> float:
        """Value at the beginning of an epoch, counted from 0."""
        part = min(max(epoch / self.epochs, 0.0), 1.0)
        if self.shape == "geometric":
            return float(self.start * (self.stop / self.start) ** part)
        return self.start + (self.stop - self.start) * part


def value_at(value: float | Schedule, epoch: int) -> float:
    """A constant or a schedule, at an epoch."""
    return value(epoch) if isinstance(value, Schedule) else float(value)
