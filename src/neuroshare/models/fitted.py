"""What a model was fitted to, subjects, units and windows: every model of the package holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError

from neuroshare.support.checks import brief, require_number, require_one_of, require_whole
from neuroshare.windows.paired import PairedWindows

Source = str | Sequence[str] | None
"""From whom to impute: one subject, several, or None for all others."""


class Window(TypedDict):
    """What the windows of a fit were."""

    width: int
    bin_size: float
    by: str
    conditions: list[object]
    trials: dict[str, list[object]]


@dataclass(frozen=True, eq=False)
class Fitted:
    """Subjects, units and windows of a fit: later windows are checked and labelled by them.

    Parameters
    ----------
    subjects
        Names, in order.
    units
        Unit ids by subject.
    width
        Bins of a window.
    bin_size
        Seconds.
    by
        Trial coordinate by which trials were paired.
    conditions
        Its values.
    trials
        Ids of the trials by subject.
    """

    subjects: tuple[str, ...]
    units: dict[str, NDArray[np.generic]]
    width: int
    bin_size: float
    by: str
    conditions: list[object]
    trials: dict[str, list[object]]

    @classmethod
    def of(cls, train: PairedWindows) -> Fitted:
        """Describe training windows."""
        return cls(
            subjects=train.subjects,
            units=train.units,
            width=train.width,
            bin_size=train.bin_size,
            by=train.by,
            conditions=[plain(condition) for condition in train.conditions],
            trials={name: _ids(train, name) for name in train.subjects},
        )

    def with_subject(self, name: str, train: PairedWindows) -> Fitted:
        """Describe a fit of one more subject."""
        return replace(
            self,
            subjects=(*self.subjects, name),
            units={**self.units, name: train.units[name]},
            trials={**self.trials, name: _ids(train, name)},
        )

    # ------------------------------------------------------------------ checks

    def check(self, paired: PairedWindows, *, select: bool = False) -> tuple[str, ...]:
        """Check that windows are such as were fitted.

        Parameters
        ----------
        paired
            The windows; subjects may be fewer.
        select
            Whether to leave out subjects that were not fitted, instead of refusing them.

        Returns
        -------
        tuple of str
            The fitted subjects among those paired, in their order there.

        Raises
        ------
        TypeError
            If these are no windows.
        ValueError
            If subjects, units or windows are not those fitted.
        """
        require_windows(paired)
        known = tuple(name for name in paired.subjects if name in self.subjects)
        strangers = [name for name in paired.subjects if name not in known]
        if not known or (strangers and not select):
            raise ValueError(
                f"subjects {strangers} were not fitted; the model knows {list(self.subjects)}. "
                "Select those with .select([...])."
            )
        if paired.width != self.width or not np.isclose(paired.bin_size, self.bin_size):
            raise ValueError(
                f"expected windows of {self.width} bins of {self.bin_size:g} s (as fitted), got "
                f"{paired.width} of {paired.bin_size:g} s. Bin and pair as for the fit."
            )
        for name in known:
            units, fitted = paired.units[name], self.units[name]
            if len(units) != len(fitted):
                raise ValueError(
                    f"subject {name!r}: expected {len(fitted)} units (as fitted), got "
                    f"{len(units)}. Select the fitted units or refit."
                )
            if not np.array_equal(np.asarray(units, str), np.asarray(fitted, str)):
                raise ValueError(
                    f"subject {name!r}: unit ids differ from those fitted. "
                    "Select the fitted units in their order or refit."
                )
        return known

    def sources(self, present: Sequence[str], target: str, source: Source) -> list[str]:
        """Names of the subjects to impute from.

        Parameters
        ----------
        present
            Fitted subjects of the windows.
        target, source
            As given to `impute`.

        Raises
        ------
        ValueError
            If they name other subjects, none, or one twice.
        """
        require_one_of(target, "target", "impute", self.subjects)
        names: list[Any]
        if source is None:
            names = [name for name in present if name != target]
        elif isinstance(source, Sequence | np.ndarray) and not isinstance(source, str):
            names = list(source)
        else:
            names = [source]
        known = all(isinstance(name, str) and name in present for name in names)
        if not known or not names or len(set(names)) < len(names):
            raise ValueError(
                "The 'source' parameter of impute must name different subjects among "
                f"{list(present)}{' other than the target' if source is None else ''}. "
                f"Got {brief(names)} instead."
            )
        return [str(name) for name in names]

    # ------------------------------------------------------------------ labels

    def latents(
        self,
        values: NDArray[np.floating[Any]],
        paired: PairedWindows,
        names: Sequence[str],
        **attrs: str | int,
    ) -> xr.DataArray:
        """Label the latents (subject, window, latent) of some subjects of these windows."""
        return xr.DataArray(
            values,
            dims=("subject", "window", "latent"),
            coords={**paired.coords(names), "latent": np.arange(values.shape[-1])},
            name="latents",
            attrs={**paired.attrs, **attrs},
        )

    def expected_counts(
        self,
        values: NDArray[np.floating[Any]],
        paired: PairedWindows,
        target: str,
        sources: Sequence[str],
    ) -> xr.DataArray:
        """Label what a target is expected to do in these windows, (window, unit, lag)."""
        coords = paired.coords_of(target if target in paired.subjects else None)
        return xr.DataArray(
            values,
            dims=("window", "unit", "lag"),
            coords={**coords, "unit": self.units[target], "lag": self._lags},
            name="expected_counts",
            attrs={
                "subject": target,
                "source": ", ".join(sources),
                "by": paired.by,
                "bin_size": paired.bin_size,
            },
        )

    def counts(self, values: NDArray[np.floating[Any]], name: str) -> xr.DataArray:
        """Label windows (window, lag x unit) of one subject that come from no trial."""
        by_lag = values.reshape(len(values), self.width, len(self.units[name]))
        return xr.DataArray(
            by_lag.swapaxes(1, 2),
            dims=("window", "unit", "lag"),
            coords={"unit": self.units[name], "lag": self._lags},
            name="counts",
            attrs={"subject": name},
        )

    @property
    def _lags(self) -> NDArray[np.float64]:
        return np.asarray((np.arange(self.width) + 0.5) * self.bin_size)

    # ------------------------------------------------------------------ keeping

    @property
    def window(self) -> Window:
        """What there is to know of the windows, as JSON can hold it."""
        return Window(
            width=self.width,
            bin_size=self.bin_size,
            by=self.by,
            conditions=self.conditions,
            trials=self.trials,
        )

    def as_json(self) -> dict[str, Any]:
        """All of it, for a file."""
        return {
            "subjects": list(self.subjects),
            "units": {name: [plain(u) for u in units] for name, units in self.units.items()},
            "window": self.window,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Fitted:
        """Undo `as_json`.

        Raises
        ------
        ValueError
            If it does not fit together; a file may be damaged in any way.
        """
        fitted = cls(
            subjects=tuple(stored["subjects"]),
            units={name: np.asarray(units) for name, units in stored["units"].items()},
            **stored["window"],
        )
        if list(fitted.units) != list(fitted.subjects) or any(
            ids.ndim != 1 or not len(ids) for ids in fitted.units.values()
        ):
            raise ValueError("expected a list of unit ids for every subject")
        require_whole(fitted.width, "width", "the windows", 1)
        require_number(fitted.bin_size, "bin_size", "the windows", 0, open_=True)
        return fitted


def require_windows(paired: object, where: str = "the model") -> None:
    """Refuse what is not paired windows.

    Raises
    ------
    TypeError
        Says what is expected and what was given.
    """
    if not isinstance(paired, PairedWindows):
        raise TypeError(
            f"{where} expects the PairedWindows of pair_subjects. "
            f"Got {type(paired).__name__} instead."
        )


def not_fitted(model: object) -> NotFittedError:
    """Make the error of a model that is asked before its fit."""
    who = type(model).__name__
    return NotFittedError(f"This {who} is not fitted yet. Call 'fit' before using it.")


def plain(value: Any) -> Any:
    """A numpy scalar as the Python one that JSON holds."""
    return value.item() if isinstance(value, np.generic) else value


def _ids(train: PairedWindows, name: str) -> list[object]:
    return [plain(trial) for trial in train.trial_ids(name)]
