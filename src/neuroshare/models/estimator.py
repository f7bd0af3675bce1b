"""What every model of the package offers beside fit, transform and impute."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from neuroshare.models.fitted import require_windows
from neuroshare.windows.paired import PairedWindows

Init = TypeVar("Init", bound=Callable[..., None])


def seeded(init: Init) -> Init:
    """Let a constructor take ``random_state``, as scikit-learn calls it, for its `seed`."""

    @wraps(init)
    def taking(self: object, *args: Any, **kwargs: Any) -> None:
        if "random_state" in kwargs:
            value = kwargs.pop("random_state")
            who = type(self).__name__
            if "seed" in kwargs:
                raise TypeError(f"{who} takes its seed once: give seed or random_state, not both.")
            if value is not None:
                warnings.warn(f"{who} calls it seed: random_state={value!r} is taken as such.",
                              stacklevel=2)  # fmt: skip
                kwargs["seed"] = value
        init(self, *args, **kwargs)

    return taking  # type: ignore[return-value]


class Estimator(BaseEstimator):  # type: ignore[misc]
    """Windows in: fit and transform at once, and one number for how well they are predicted."""

    def fit_transform(self, train: PairedWindows, validation: Any = None) -> xr.DataArray:
        """Fit to windows and give their latents: `fit`, then `transform` of the same windows.

        Parameters
        ----------
        train, validation
            As of `fit`.

        Returns
        -------
        DataArray (subject, window, latent)
        """
        latents: xr.DataArray = self.fit(train, validation).transform(train)
        return latents

    def score(self, test: PairedWindows) -> float:
        """How much of held-out activity the model predicts from the other subjects.

        Parameters
        ----------
        test
            Held-out windows. With one subject alone, it is predicted from itself.

        Returns
        -------
        float
            Share of deviance explained (D2 of scikit-learn), mean over subjects: 1 is perfect, 0 as
            good as each unit's mean over these very windows. Poisson deviance of counts, squares
            of other activity. Spikes of single bins are mostly noise: a few thousandths are much.

        Raises
        ------
        TypeError, ValueError, NotFittedError
            As `impute`.

        Notes
        -----
        It takes no training windows, as scikit-learn asks of a score. To report a result, use
        `separation` and `imputation_scores`, which have intervals and tests.
        """
        require_windows(test, f"{type(self).__name__}.score")
        windows = test.thinned()
        names = [name for name in windows.subjects if name in self.subjects_]
        scores = []
        for name in names:
            source = None if len(names) > 1 else name
            expected = self.impute(windows, target=name, source=source).to_numpy()
            known = windows.observed[windows.subjects.index(name)]
            known = known & np.isfinite(expected).all(axis=(1, 2))
            counts = not windows.why_not_counts(name)
            found = windows[name].to_numpy()[known].astype(float)
            scores.append(_explained(found, expected[known].astype(float), counts))
        return float(np.mean(scores))


def _explained(found: NDArray[np.float64], expected: NDArray[np.float64], counts: bool) -> float:
    """Share of the deviance of activity (window, unit, lag) about unit means that is explained."""
    mean = np.broadcast_to(found.mean(axis=(0, 2), keepdims=True), found.shape)
    if not counts:
        total = float(((found - mean) ** 2).sum())
        return 1 - float(((found - expected) ** 2).sum()) / total if total else 0.0

    def deviance(rate: NDArray[np.float64]) -> float:
        rate = np.maximum(rate, 1e-12)
        logs = np.where(found > 0, found * np.log(np.maximum(found, 1e-12) / rate), 0.0)
        return float((logs - found + rate).sum())

    null = deviance(mean)
    return 1 - deviance(expected) / null if null else 0.0
