"""Pairing by what animals did: windows of like behavior, where conditions are values of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from neuroshare.support.angles import from_circle, on_turn, span_of, to_circle
from neuroshare.support.checks import brief, is_number, require
from neuroshare.support.labels import with_same_labels
from neuroshare.windows.pairing import Pairing, Positions, Surplus
from neuroshare.windows.trials import Trials, codes_of

Array = NDArray[np.float64]
Arrays = Mapping[str, xr.DataArray]

BANDWIDTH = 0.05
"""Of the range of a variable, where nothing else is said."""
FEW_VALUES = 20
"""A number per trial that has no more values than these is a condition, such as a map."""
_FINE = 8
"""Steps by which the cells of a draw are moved, in each of them."""
_MOST_BINS = 20
"""Of one variable, for means over bins of it."""
_WINDOWS_PER_BIN = 10
_TOLD = 0.01
"""Share of the windows of others, from which on it is told that they have no partner."""


@dataclass(frozen=True)
class Axis:
    """One variable by which windows are paired.

    Parameters
    ----------
    name
        Trial coordinate.
    low, high
        Its range over all subjects, or one turn of an angle.
    reach
        Bandwidth, in its unit.
    n_bins
        Bins of equal width, for means over them.
    period
        Of an angle.
    labels
        Values of a condition, which is no variable at all: only equal ones are alike.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    reach: float = 1.0
    n_bins: int = 1
    period: float | None = None
    labels: tuple[Any, ...] | None = None

    def _share(self, values: Array) -> Array:
        """Position in the range, from 0 to 1."""
        span = self.high - self.low
        share = (values - self.low) / (span if span > 0 else 1.0)
        return np.asarray(share % 1.0 if self.period is not None else share)

    def bins(self, values: NDArray[Any]) -> Positions:
        """Bin of every value, -1 where there is none."""
        if self.labels is not None:
            index = {label: k for k, label in enumerate(self.labels)}
            return np.array([index.get(value, -1) for value in values.tolist()], np.int64)
        values = values.astype(float)
        known = np.isfinite(values)
        place = np.floor(self._share(np.where(known, values, self.low)) * self.n_bins)
        return np.where(known, np.clip(place, 0, self.n_bins - 1), -1).astype(np.int64)

    @property
    def _n_fine(self) -> int:
        return max(1, ceil((self.high - self.low) / self.reach * _FINE / 2 - 1e-9))

    def fine(self, values: NDArray[Any]) -> Positions:
        """Place of every value in steps of a quarter of the bandwidth; that of a label."""
        if self.labels is not None:
            return self.bins(values)
        values = values.astype(float)
        share = self._share(np.where(np.isfinite(values), values, self.low))
        place = np.floor(share * self._n_fine)
        return np.clip(place, 0, self._n_fine - 1).astype(np.int64)

    def cells(self, fine: Positions, rng: np.random.Generator) -> Positions:
        """Cells of two bandwidths, whose borders are drawn."""
        shift = int(rng.integers(_FINE))
        if self.labels is not None:
            return fine
        if self.period is None:
            return (fine + shift) // _FINE
        n_cells = max(1, round(self._n_fine / _FINE))
        return (fine + shift) % self._n_fine * n_cells // self._n_fine

    def middle(self, bins: Positions) -> NDArray[Any]:
        """Value in the middle of bins."""
        if self.labels is not None:
            return np.array([self.labels[k] for k in bins.tolist()])
        width = (self.high - self.low) / self.n_bins
        return np.asarray((self.low + (bins + 0.5) * width).round(9))

    def features(self, bins: Positions) -> Array:
        """Bins as points (bin, feature) whose distances say how unlike they are."""
        if self.labels is not None:
            return np.eye(len(self.labels))[bins]
        share = (bins + 0.5) / self.n_bins
        if self.period is None:
            return np.asarray(share[:, None])
        return to_circle(share, 1.0) / np.pi

    def nearness(self, bins: Positions) -> Array:
        """How near bins are, (bin, bin): a Gaussian of one bin; labels are apart."""
        apart = np.abs(bins[:, None] - bins).astype(float)
        if self.labels is not None:
            return np.where(apart > 0, 0.0, 1.0)
        if self.period is not None:
            apart = np.minimum(apart, self.n_bins - apart)
        return np.asarray(np.exp(-0.5 * np.square(apart)))

    def absent(self, own: NDArray[Any], others: NDArray[Any]) -> tuple[float, list[str]]:
        """Share of the windows of others further than a bandwidth from all own ones, and where."""
        n = self._n_fine
        near = np.zeros(n, bool)
        place, elsewhere = self.fine(own), self.fine(others)
        for shift in range(-_FINE // 2, _FINE // 2 + 1):
            moved = place + shift
            near[moved % n if self.period is not None else np.clip(moved, 0, n - 1)] = True
        at = np.unique(elsewhere[~near[elsewhere]])
        runs = np.split(at, np.flatnonzero(np.diff(at) > _FINE // 2) + 1) if len(at) else []
        width = (self.high - self.low) / n
        spans = [(self.low + run[0] * width, self.low + (run[-1] + 1) * width) for run in runs]
        return float(np.mean(~near[elsewhere])), [f"{a:.3g} to {b:.3g}" for a, b in spans]


@dataclass(frozen=True)
class ByBehavior(Pairing):
    """Partners are windows of like behavior.

    Every draw cuts each variable into cells of two bandwidths, with borders of its own, so that
    what is paired lies within a bandwidth of the middle of its cell; windows of one cell are then
    paired as those of a condition. Time and memory are linear in the number of windows.

    Parameters
    ----------
    axes
        The variables, and conditions that partners share besides.
    surplus
        As of `ByCondition`; a subject that has no window in a cell is absent there.
    """

    axes: tuple[Axis, ...]
    surplus: Surplus = "repeat"

    @property
    def redraws(self) -> bool:  # type: ignore[override]  # noqa: D102
        return True

    def draw(
        self, codes: Sequence[Positions], n_conditions: int, seed: int
    ) -> tuple[Positions, Positions]:
        """Match windows.

        Parameters
        ----------
        codes
            Of every window of each subject, what `fine` says, (window, axis).
        n_conditions
            Not used.
        seed
            Of the draw.

        Returns
        -------
        partners
            (row, subject), -1 where a subject is absent.
        row_codes
            (row,): the cell of each row, from 0 on.
        """
        rng = np.random.default_rng(seed)
        of_subject = self.cells(codes, rng)
        n_cells = max(int(cell.max(initial=-1)) for cell in of_subject) + 1
        found = np.stack([np.bincount(own, minlength=n_cells) for own in of_subject])
        if self.surplus == "drop":
            rows = np.where(found > 0, found, found.max(initial=0)).min(axis=0)
        else:
            rows = found.max(axis=0)
        of_row = np.repeat(np.arange(n_cells), rows)
        within = np.arange(len(of_row)) - np.repeat(np.cumsum(rows) - rows, rows)
        partners = np.full((len(of_row), len(codes)), -1, np.int64)
        for column, own in enumerate(of_subject):
            if not len(own):
                continue
            # Windows by cell, in an order of their own within it.
            order = np.lexsort((rng.random(len(own)), own))
            n = found[column]
            first = np.cumsum(n) - n
            place = within
            if self.surplus == "absent":  # not always the first rows of a cell
                key = np.lexsort((rng.random(len(of_row)), of_row))
                place = np.empty_like(within)
                place[key] = within
            taken = place % np.maximum(n[of_row], 1)
            there = n[of_row] > 0
            if self.surplus == "absent":
                there &= place < n[of_row]
            partners[there, column] = order[(first[of_row] + taken)[there]]
        kept = (partners >= 0).any(axis=1)
        return partners[kept], of_row[kept]

    def cells(self, codes: Sequence[Positions], rng: np.random.Generator) -> list[Positions]:
        """Draw cells; the one of each window, (window,), by subject."""
        everything = np.concatenate(codes)
        cell = _numbered([a.cells(everything[:, k], rng) for k, a in enumerate(self.axes)])
        return np.split(cell, np.cumsum([len(code) for code in codes])[:-1])

    def fine(self, array: xr.DataArray) -> Positions:
        """Place of every window along each axis, (window, axis)."""
        return np.stack([axis.fine(array[axis.name].values) for axis in self.axes], axis=1)

    def bins(self, array: xr.DataArray) -> Positions:
        """Bin of every window, in all axes together, -1 where one is not known."""
        of_axes = [axis.bins(array[axis.name].values) for axis in self.axes]
        shape = tuple(self._n_bins(axis) for axis in self.axes)
        known = np.all([bins >= 0 for bins in of_axes], axis=0)
        together = np.ravel_multi_index(tuple(np.maximum(b, 0) for b in of_axes), shape)
        return np.where(known, together, -1).astype(np.int64)

    def middles(self, bins: Positions) -> tuple[Any, ...]:
        """What bins are called: the value in the middle, or all of them in words."""
        of_axes = np.unravel_index(bins, tuple(self._n_bins(axis) for axis in self.axes))
        middles = [a.middle(b).tolist() for a, b in zip(self.axes, of_axes, strict=True)]
        if len(self.axes) == 1:
            return tuple(middles[0])
        names = [axis.name for axis in self.axes]
        return tuple(
            ", ".join(
                f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                for name, value in zip(names, values, strict=True)
            )
            for values in zip(*middles, strict=True)
        )

    def features(self, bins: Positions) -> Array:
        """Bins as points (bin, feature)."""
        of_axes = np.unravel_index(bins, tuple(self._n_bins(axis) for axis in self.axes))
        return np.concatenate(
            [a.features(b) for a, b in zip(self.axes, of_axes, strict=True)], axis=1
        )

    def alike(
        self, arrays: Iterable[xr.DataArray], by: str, conditions: Sequence[Any]
    ) -> tuple[Array, Array]:
        """Conditions, which are names of bins, as points; and how near they are.

        Parameters
        ----------
        arrays
            All windows of every subject, with the name of their bin in the coordinate `by`.
        by, conditions
            The names; those that no window has are bins of other subjects.

        Returns
        -------
        points (condition, feature), nearness (condition, condition)
        """
        bins = np.full(len(conditions), -1, np.int64)
        for array in arrays:
            codes = codes_of(array, by, conditions)
            bins[codes[codes >= 0]] = self.bins(array)[codes >= 0]
        points, known = self.features(np.maximum(bins, 0)), bins >= 0
        of_axes = np.unravel_index(np.maximum(bins, 0), tuple(map(self._n_bins, self.axes)))
        near = np.prod([a.nearness(b) for a, b in zip(self.axes, of_axes, strict=True)], axis=0)
        return points, np.where(known[:, None] & known, near, np.eye(len(bins)))

    @staticmethod
    def _n_bins(axis: Axis) -> int:
        return axis.n_bins if axis.labels is None else len(axis.labels)


def _numbered(columns: Sequence[Positions]) -> Positions:
    """Rows of several columns of whole numbers as numbers from 0 on, equal for equal rows."""
    number = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        _, place = np.unique(column, return_inverse=True)
        number = np.unique(number * (place.max(initial=0) + 1) + place, return_inverse=True)[1]
    return number.astype(np.int64)


# ---------------------------------------------------------------- windows of counts


def about_behavior(array: xr.DataArray) -> dict[str, dict[str, Any]]:
    """What is known of each behavior of counts: ``unit``, ``period`` and ``behavior``."""
    return {
        str(name): dict(coord.attrs)
        for name, coord in array.coords.items()
        if "behavior" in coord.attrs or set(coord.dims) == {"trial", "time"}
    }


def window_means(values: Array, first_bins: Positions, width: int, period: Any = None) -> Array:
    """Means over windows, (trial, start), of values (trial, bin); of angles on the circle."""
    windows = np.lib.stride_tricks.sliding_window_view(values.astype(float), width, axis=1)
    windows = windows[:, first_bins]
    if period is None:
        return np.asarray(windows.mean(axis=2))
    mean = from_circle(to_circle(windows, period).mean(axis=2), period)
    low, _ = span_of(np.nanmin(values, initial=0.0), 0.0, period)
    return on_turn(mean, low, period)


def as_windows(array: xr.DataArray, width: int, step: int, bin_size: float) -> xr.DataArray:
    """Cut counts (trial, unit, time) into windows, each a trial of its own.

    Nothing is copied where a trial is a window already. ``epoch`` is then the trial it was, unless
    there is such a coordinate, and behavior the mean over each window.
    """
    n_trials, n_units, n_bins = array.shape
    first = np.arange(0, n_bins - width + 1, step)
    n = len(first)
    coords: dict[str, Any] = {"unit": array["unit"].values}
    for name, coord in array.coords.items():
        if coord.dims == ("unit",):
            coords[str(name)] = coord
        elif coord.dims == ("trial",) and name != "trial":
            coords[str(name)] = ("trial", np.repeat(coord.values, n), coord.attrs)
        elif set(coord.dims) == {"trial", "time"}:
            values = coord.transpose("trial", "time").values
            means = window_means(values, first, width, coord.attrs.get("period"))
            coords[str(name)] = ("trial", means.reshape(-1), {"behavior": name, **coord.attrs})
    attrs = dict(array.attrs)
    if n == 1 and width == n_bins:
        values, coords["trial"] = array.values, array["trial"].values
    else:
        values = np.lib.stride_tricks.sliding_window_view(array.values, width, axis=2)
        values = values[:, :, first].transpose(0, 2, 1, 3).reshape(-1, n_units, width)
        coords["trial"] = np.arange(n_trials * n)
        coords.setdefault("epoch", ("trial", np.repeat(array["trial"].values, n)))
        align = attrs.get("align")
        if isinstance(align, str) and align in coords:
            begin = float(array["time"].values[0]) - bin_size / 2 + first * bin_size
            events = array.coords[align].values[:, None] + begin
            coords["window_start"] = ("trial", events.reshape(-1))
            attrs["align"] = "window_start"
    coords["time"] = (np.arange(width) + 0.5) * bin_size
    return xr.DataArray(
        values, dims=("trial", "unit", "time"), coords=coords, name=array.name, attrs=attrs
    )


# ---------------------------------------------------------------- what is paired by


def is_behavior(arrays: Mapping[str, Any], by: object, bandwidth: object) -> bool:
    """Whether pairing by these names is by behavior, and not by conditions."""
    if bandwidth is not None or not isinstance(by, str):
        return True
    for array in arrays.values():
        if not isinstance(array, xr.DataArray):
            return False
        if any(name == by or a.get("behavior") == by for name, a in about_behavior(array).items()):
            return True
    return False


def axis_names(arrays: Arrays, by: str | Sequence[str]) -> list[str]:
    """Trial coordinates by their names, or by that of the series of which they are columns."""
    names = [by] if isinstance(by, str) else list(by) if isinstance(by, Sequence) else []
    good = bool(names) and all(isinstance(name, str) for name in names)
    good = good and len(set(names)) == len(names)
    require(good, "by", "pair_subjects", "a coordinate or a list of different ones", by)
    found: list[str] = []
    for name in names:
        for subject, array in arrays.items():
            about = about_behavior(array)
            columns = [c for c, a in about.items() if a.get("behavior") == name and c != name]
            if name in array.coords and set(array[name].dims) <= {"trial", "time"}:
                columns = [name]
            if not columns:
                there = [str(c) for c, v in array.coords.items() if "trial" in v.dims]
                raise ValueError(
                    f"subject {subject!r}: no coordinate {name!r} to pair by. Found: {there}. "
                    f"Behavior comes with bin_spikes(..., behavior=[{name!r}])."
                )
            found += [c for c in columns if c not in found]
    return found


def axes_of(
    arrays: Arrays, names: Sequence[str], bandwidth: float | Mapping[str, float] | None
) -> tuple[dict[str, xr.DataArray], tuple[Axis, ...]]:
    """Variables and conditions of windows, with labels made comparable between subjects."""
    arrays = dict(arrays)
    given = bandwidth if isinstance(bandwidth, Mapping) else {}
    general: Any = BANDWIDTH if bandwidth is None or given else bandwidth
    for value in (general, *given.values()):
        if not (is_number(value) and 0 < float(value) <= 0.5):
            raise ValueError(
                "The 'bandwidth' parameter of pair_subjects must be a share of the range of each "
                f"variable, above 0 and at most 0.5. Got {brief(value)} instead."
            )
    axes: list[Axis] = []
    for name in names:
        columns = {subject: array[name] for subject, array in arrays.items()}
        values = np.concatenate([column.values for column in columns.values()])
        periods = {column.attrs.get("period") for column in columns.values()}
        if len(periods) > 1:
            raise ValueError(
                f"{name!r} has the periods {sorted(map(str, periods))} in different subjects. Give "
                "bin_spikes the same, behavior={name: period}."
            )
        numbers = values.dtype.kind in "iuf"
        many = numbers and len(np.unique(values[np.isfinite(values)])) > FEW_VALUES
        measured = any("behavior" in column.attrs for column in columns.values())
        if not (numbers and (measured or many or name in given or len(names) == 1)):
            arrays, _ = with_same_labels(arrays, name)
            kinds = [array[name].values.tolist() for array in arrays.values()]
            labels = {v for column in kinds for v in column if not pd.isna(v)}
            axes.append(Axis(name, labels=tuple(sorted(labels, key=lambda v: (str(type(v)), v)))))
            continue
        values = values[np.isfinite(values)].astype(float)
        if not len(values):
            raise ValueError(f"no window has a value of {name!r}; nothing to pair by.")
        period = periods.pop()
        low, high = span_of(float(values.min()), float(values.max()), period)
        reach = float(given.get(name, general)) * max(high - low, 1e-12)
        axes.append(Axis(name, low, high, reach, period=period))
    if unknown := set(given) - {axis.name for axis in axes}:
        raise ValueError(
            f"bandwidth names {sorted(unknown)}, which are not paired by; there are {list(names)}."
        )
    if all(axis.labels is not None for axis in axes):
        raise ValueError(
            f"expected behavior among {list(names)}, got conditions alone. Pair by one of them "
            "without bandwidth; two make one with counts.assign_coords."
        )
    return arrays, _with_bins(axes, min(array.sizes["trial"] for array in arrays.values()))


def _with_bins(axes: Sequence[Axis], n_windows: int) -> tuple[Axis, ...]:
    """Bins as narrow as the bandwidth, but so few that there are windows in each."""
    conditions = int(np.prod([len(axis.labels) for axis in axes if axis.labels is not None] or [1]))
    wanted = {
        axis.name: min(_MOST_BINS, max(2, round((axis.high - axis.low) / axis.reach)))
        for axis in axes
        if axis.labels is None
    }
    most = n_windows / _WINDOWS_PER_BIN / conditions
    shrink = min(1.0, (most / np.prod([*wanted.values()])) ** (1 / len(wanted)))
    return tuple(
        axis
        if axis.labels is not None
        else Axis(
            axis.name,
            axis.low,
            axis.high,
            axis.reach,
            max(2, int(wanted[axis.name] * shrink)),
            axis.period,
        )
        for axis in axes
    )


def without_partners(arrays: Arrays, rule: ByBehavior) -> list[str]:
    """Say where a subject never is, though others are."""
    known = {name: rule.bins(array) >= 0 for name, array in arrays.items()}
    values = {
        name: [array[axis.name].values[known[name]] for axis in rule.axes]
        for name, array in arrays.items()
    }
    fine = {n: rule.fine(array)[known[n]] for n, array in arrays.items()}
    cells = dict(zip(fine, rule.cells([*fine.values()], np.random.default_rng(0)), strict=True))
    told = []
    for subject in arrays:
        rest = [name for name in arrays if name != subject]
        for k, axis in enumerate(rule.axes if rest else ()):
            own, others = values[subject][k], np.concatenate([values[name][k] for name in rest])
            if axis.labels is not None:
                lacking = [str(v) for v in axis.labels if v not in own.tolist()]
                share = 1.0 if lacking else 0.0
            else:
                share, lacking = axis.absent(own, others)
            if share > _TOLD:
                told.append(
                    f"subject {subject!r} has no windows with {axis.name} {', '.join(lacking)}, "
                    "where others have some, and is absent there."
                )
        elsewhere = np.concatenate([cells[name] for name in rest] or [np.empty(0, np.int64)])
        alone = float(np.mean(~np.isin(elsewhere, cells[subject]))) if len(elsewhere) else 0.0
        if len(rule.axes) > 1 and alone > 10 * _TOLD:
            names = ", ".join(axis.name for axis in rule.axes)
            told.append(
                f"subject {subject!r} has no window alike in {names} together for {alone:.0%} of "
                "the windows of others, and is absent there. A larger bandwidth finds more."
            )
    return told


def behavior_of_windows(
    first_bins: Positions, width: int, parts: Mapping[str, Trials], partners: Positions
) -> dict[str, Any]:
    """Behavior in the bins of trials, as its means over windows (subject, window)."""
    found: dict[str, NDArray[np.float64]] = {}
    shape = (len(parts), len(partners), len(first_bins))
    for row, (part, own) in enumerate(zip(parts.values(), partners.T, strict=True)):
        there = own >= 0
        for name, coord in part.array.coords.items():
            if set(coord.dims) != {"trial", "time"}:
                continue
            values = coord.transpose("trial", "time").values[part.positions]
            means = window_means(values, first_bins, width, coord.attrs.get("period"))
            of_all = found.setdefault(str(name), np.full(shape, np.nan))
            of_all[row, there] = means[own[there]]
    return {k: (("subject", "window"), v.reshape(len(v), -1)) for k, v in found.items()}
