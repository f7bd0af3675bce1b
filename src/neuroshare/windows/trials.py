"""The trials of one subject that take part, and what is known of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroshare.support.labels import find_coordinate
from neuroshare.windows.order import share_spikes
from neuroshare.windows.pairing import Positions

Array = NDArray[np.float64]

OWN_NAMES = ("trial", "unit", "time", "start", "lag", "window", "subject", "latent")
"""Coordinates of windows, by which nothing can be paired."""

_TAKEN = (*OWN_NAMES, "onset", "animal", "part", "observed", "latents", "counts", "expected_counts")
"""Names that no trial column can have among the coordinates of windows."""


@dataclass(frozen=True, eq=False)
class Trials:
    """The trials of one subject that take part."""

    array: xr.DataArray  # (trial, unit, time), of all trials that were binned
    positions: Positions  # (own trial,) in `array`, ascending
    codes: Positions  # (own trial,) position in the conditions
    behaved: Positions | None = None  # (own trial, axis) what behavior they are paired by

    @classmethod
    def of(cls, array: xr.DataArray, by: str, conditions: Sequence[Any]) -> Trials:
        """Those of some conditions."""
        codes = codes_of(array, by, conditions)
        return cls(array, np.flatnonzero(codes >= 0), codes[codes >= 0])

    def kept(self, own: NDArray[np.bool_]) -> Trials:
        """Some of the own trials."""
        behaved = None if self.behaved is None else self.behaved[own]
        return replace(self, positions=self.positions[own], codes=self.codes[own], behaved=behaved)

    def over(self, array: xr.DataArray) -> Trials:
        """The same trials in other activity, without those that it lacks."""
        ids = self.array["trial"].values
        there = np.isin(ids, array["trial"].values)
        own = there[self.positions]
        if not np.array_equal(array["trial"].values, ids[there]):
            array = array.sel(trial=ids[there])
        return Trials(
            array.transpose("trial", "unit", "time"),
            (np.cumsum(there) - 1)[self.positions[own]],
            self.codes[own],
            None if self.behaved is None else self.behaved[own],
        )

    @cached_property
    def fault(self) -> str:
        """Why the activity is none of counts, in words; empty if it is."""
        values = self.array.values
        if are_counts(values):
            return ""
        low = values.min()
        return f"minimum {low:.3g}" if low < 0 else "values that are not whole"

    def animal(self, name: str) -> str:
        """Whose session this is: attrs["animal"] or attrs["subject"], or else the given name."""
        return str(self.array.attrs.get("animal", self.array.attrs.get("subject", name)))

    # ------------------------------------------------------------------ in the session

    @cached_property
    def events(self) -> Array | None:
        """Times of the events of all binned trials, seconds; None if they are not known."""
        align = self.array.attrs.get("align")
        if not isinstance(align, str):
            return None
        times = self.array.coords.get(find_coordinate(self.array, align))
        if times is None:
            return None
        if times.dims != ("trial",) or times.dtype.kind not in "iuf":
            return None
        values = times.values.astype(float)
        return values if np.isfinite(values).all() else None

    @property
    def onset(self) -> Array | None:
        """Times of the own events, seconds, (own trial,)."""
        return None if self.events is None else self.events[self.positions]

    @property
    def in_order(self) -> Positions:
        """Own trials in the order of the session; as they come where times are not known."""
        onset = self.onset
        return np.arange(len(self.codes)) if onset is None else np.argsort(onset, kind="stable")

    @property
    def places(self) -> Positions:
        """Places of all binned trials in the order of the session, (trial,)."""
        if self.events is None:
            return np.arange(self.array.sizes["trial"])
        return np.argsort(np.argsort(self.events, kind="stable"))

    def length(self, bin_size: float) -> float:
        """Seconds that were binned of every trial."""
        return float(self.array.sizes["time"] * bin_size)

    def overlap(self, bin_size: float) -> bool:
        """Whether the stretches of neighbouring own trials have spikes in common."""
        onset = self.onset
        return onset is not None and share_spikes(onset, (0.0, self.length(bin_size)))

    def reach(self, bin_size: float) -> Array:
        """How far the stretch of every binned trial reaches into the next trial, seconds.

        The next trial begins with its ``start_time``, where there is one, or else with its event.
        Only those that do, (trial,).
        """
        if self.events is None or len(self.events) < 2:
            return np.zeros(0)
        begins = self.events
        starts = self.array.coords.get("start_time")
        if starts is not None and starts.dims == ("trial",) and starts.dtype.kind in "iuf":
            begins = np.fmin(begins, starts.values.astype(float))
        order = np.argsort(self.events, kind="stable")
        last = float(self.array["time"].values[-1]) + bin_size / 2
        far = self.events[order][:-1] + last - begins[order][1:]
        # A trial is not behind its own event, even if both begin at once.
        far = far[np.diff(self.events[order]) > 0]
        return np.asarray(far[far > 1e-6])

    def reaching(self, name: str, bin_size: float) -> str:
        """Say how far spans outlast their trial; empty where they do not."""
        far = self.reach(bin_size)
        if not len(far):
            return ""
        return (
            f"subject {name!r}: what was binned reaches into the next trial in {len(far)} of "
            f"{len(self.array)} trials, by {np.median(far):.3g} s (median) and up to "
            f"{far.max():.3g} s. A shorter span keeps trials apart."
        )

    # ------------------------------------------------------------------ labels

    def columns(self, by: str) -> dict[str, NDArray[Any]]:
        """Trial columns beside ids and condition, under names that windows have not, (own trial,).

        Numbers stay numbers, all else becomes text, as files of latents can hold it.
        """
        found: dict[str, NDArray[Any]] = {}
        taken = {*_TAKEN, by}
        of_trials = [str(c) for c, v in self.array.coords.items() if v.dims == ("trial",)]
        for column in (c for c in of_trials if c not in ("trial", by)):
            name = column
            while name in taken:
                name = f"trial_{name}"
            taken.add(name)
            values = self.array.coords[column].values[self.positions]
            if values.dtype.kind not in "biufU":
                values = np.array(["" if _missing(v) else str(v) for v in values], dtype=np.str_)
            found[name] = values
        return found


def codes_of(array: xr.DataArray, by: str, conditions: Sequence[Any]) -> Positions:
    """Position of the condition of all trials, -1 where it is another, (trial,)."""
    index = {condition: position for position, condition in enumerate(conditions)}
    labels = np.asarray(array.coords[by].values).tolist()
    return np.array([index.get(label, -1) for label in labels], np.int64)


def of_trials(
    subjects: Mapping[str, Trials], by: str, partners: Positions
) -> dict[str, NDArray[Any]]:
    """What is known of the trials in the rows of a pairing, (subject, row).

    Parameters
    ----------
    subjects
        The trials of each.
    by
        Column of the conditions, which are known already.
    partners
        Trial of each subject, (row, subject), -1 where it is absent.

    Returns
    -------
    dict
        ``trial``, ids, -1 or the empty text where a subject is absent; ``onset``, seconds; and
        every other column. NaN and the empty text stand for what a subject lacks.
    """
    ids, columns = [], []
    for part, own in zip(subjects.values(), partners.T, strict=True):
        known = np.asarray(part.array["trial"].values[part.positions])
        missing: Any = -1
        if not np.issubdtype(known.dtype, np.integer):
            known, missing = known.astype(str), ""
        found = known[own] if len(known) else np.full(len(own), missing)
        ids.append(np.where(own < 0, missing, found))
        onset = np.full(len(part.codes), np.nan) if part.onset is None else part.onset
        columns.append({"onset": onset, **part.columns(by)})
    names = dict.fromkeys(name for own in columns for name in own)
    return {"trial": np.stack(ids), **{name: _rows(name, columns, partners) for name in names}}


def _rows(
    name: str, columns: Sequence[Mapping[str, NDArray[Any]]], partners: Positions
) -> NDArray[Any]:
    """One column by the rows of a pairing, (subject, row), of one type."""
    present = [own[name] for own in columns if name in own]
    missing: Any = np.nan
    kind: np.dtype[Any] = np.dtype(np.float64)
    if any(values.dtype.kind == "U" for values in present):
        kind, missing = np.dtype(np.str_), ""
    elif len(present) == len(columns) and (partners >= 0).all():
        kind, missing = np.result_type(*present), 0  # nothing is missing
    rows = []
    for own, trial in zip(columns, partners.T, strict=True):
        values = own.get(name, np.zeros(0)).astype(kind)
        there = (trial >= 0) & bool(len(values))
        row = np.full(len(trial), missing, dtype=values.dtype if len(values) else kind)
        row[there] = values[trial[there]]
        rows.append(row)
    return np.stack(rows)


def are_counts(values: NDArray[Any]) -> bool:
    """Whether these are non-negative whole numbers."""
    if not values.size or values.dtype.kind == "u":  # which need not be read to know
        return True
    whole = np.issubdtype(values.dtype, np.integer) or bool((values == np.round(values)).all())
    return whole and bool(values.min() >= 0)


def as_labels(values: Collection[Any]) -> NDArray[Any]:
    """Labels as a plain numpy array where they are of one kind (netCDF has no objects)."""
    array = np.asarray(values)
    return array if array.dtype != object else array.astype(str)


def _missing(value: Any) -> bool:
    return value is None or bool(value != value)
