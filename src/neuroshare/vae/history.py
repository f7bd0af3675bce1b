"""What happened in a training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class History:
    """What happened, one entry per epoch; validation is NaN where it was not evaluated."""

    loss: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    log_likelihood: list[list[float]] = field(default_factory=list)
    """Per epoch, mean over samples for each modality."""
    beta: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    final_loss: float | None = None
    """On one training batch, of the weights that are kept: no epoch has seen the last step."""
    n_steps: int = 0
    best_step: int | None = None
    """After which a `Watch` kept the weights last."""
    stopped: bool = False
    """Whether a `Watch` stopped training."""
    interrupted: bool = False

    @property
    def n_epochs(self) -> int:
        """Epochs finished so far."""
        return len(self.loss)

    def note(self, beta: float, rate: float, log_likelihood: list[float]) -> None:
        """Append an epoch of training."""
        self.loss.append(beta * rate - sum(log_likelihood))
        self.rate.append(rate)
        self.log_likelihood.append(log_likelihood)
        self.beta.append(beta)

    def check_finite(self) -> None:
        """Raise where the loss stopped being finite.

        Raises
        ------
        ValueError
            With the first such epoch.
        """
        when = {f"in epoch {epoch}": loss for epoch, loss in enumerate(self.loss, start=1)}
        if self.final_loss is not None:
            when["with the last step"] = self.final_loss
        for step, loss in when.items():
            if not math.isfinite(loss):
                raise ValueError(
                    f"the loss became {loss} {step}. Take a smaller learning rate (lr) "
                    "or check the data for extreme values."
                )


def as_arrays(history: History) -> dict[str, NDArray[np.float64]]:
    """History as arrays: (epoch,) each, log_likelihood (epoch, modality)."""
    return {
        name: np.asarray(getattr(history, name), dtype=float)
        for name in ("loss", "rate", "log_likelihood", "beta", "validation_loss")
    }
