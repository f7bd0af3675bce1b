"""What can be paired: arrays that fit each other, and the conditions that they have in common."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from neuroshare.support.checks import brief, is_number, require, require_one_of, require_seed
from neuroshare.support.observed import most_observed
from neuroshare.windows.pairing import Pairing
from neuroshare.windows.trials import OWN_NAMES


def require_pairing(
    counts: object,
    by: object,
    order: object,
    surplus: object,
    conditions: object,
    pairing: object,
    seed: object,
) -> None:
    """Refuse what `pair_subjects` cannot take, before it looks at the arrays."""
    where = "pair_subjects"
    if not isinstance(counts, Mapping) or not counts:
        raise ValueError(
            "The 'counts' parameter of pair_subjects must map subject names to arrays "
            f"(trial, unit, time). Got {type(counts).__name__} instead."
        )
    require_one_of(order, "order", where, ("random", "rank"))
    require_one_of(surplus, "surplus", where, ("repeat", "absent", "drop"))
    a_rule = pairing is None or isinstance(pairing, Pairing)
    require(a_rule, "pairing", where, "a Pairing, or None", pairing)
    require_seed(seed, where)
    require(isinstance(by, str), "by", where, "the name of a trial coordinate", by)
    some = conditions is None or distinct(conditions)
    require(some, "conditions", where, "a list of different conditions, or None", conditions)
    if by in OWN_NAMES:
        raise ValueError(
            f"pairing by {by!r} is not possible, since the windows have a coordinate of that name. "
            f"Give the column another one: counts.assign_coords({by}_number=('trial', ...))."
        )


def common_bins(arrays: Mapping[str, xr.DataArray], by: str | None = None) -> float:
    """Check that the arrays fit each other; their common bin size in seconds."""
    expected: tuple[int, float] | None = None
    for name, array in arrays.items():
        if not isinstance(array, xr.DataArray) or set(array.dims) != {"trial", "unit", "time"}:
            got = array.dims if isinstance(array, xr.DataArray) else type(array).__name__
            raise ValueError(
                f"subject {name!r}: expected a DataArray with dims (trial, unit, time), got {got}."
            )
        if by is not None and (by not in array.coords or array.coords[by].dims != ("trial",)):
            found = [str(c) for c in array.coords if array.coords[c].dims == ("trial",)]
            raise ValueError(
                f"subject {name!r}: no trial coordinate {by!r} to pair by. Found: {found}."
            )
        if not array.sizes["trial"] or not array.sizes["unit"] or not array.sizes["time"]:
            raise ValueError(
                f"subject {name!r}: expected trials, units and bins, got {dict(array.sizes)}."
            )
        if array.dtype.kind not in "iuf":
            raise ValueError(
                f"subject {name!r}: expected numbers as activity, got {array.dtype}. "
                "Convert them to integer counts or float."
            )
        if not array.indexes.get("unit", pd.Index([])).is_unique:
            raise ValueError(
                f"subject {name!r}: unit ids must be unique. Number the units before pairing."
            )
        if not array.indexes.get("trial", pd.Index([])).is_unique:
            repeated = array.indexes["trial"]
            repeated = repeated[repeated.duplicated()].unique().tolist()
            raise ValueError(
                f"subject {name!r}: trial ids must be unique; repeated: {brief(repeated[:5])}. "
                "Where blocks were put together, number the trials before pairing: "
                "counts.assign_coords(trial=np.arange(counts.sizes['trial']))."
            )
        labels = [] if by is None else array.coords[by].values.tolist()
        if not all(isinstance(value, Hashable) for value in labels):
            raise ValueError(
                f"subject {name!r}: expected one text or number per trial in {by!r}, got lists "
                "or tables. Pair by another coordinate."
            )
        if array.dtype.kind == "f" and not np.isfinite(array.values).all():
            raise ValueError(
                f"subject {name!r}: activity has NaN or infinite values. "
                "Leave those trials or units out."
            )
        time = array["time"].values
        if time.dtype == object and all(map(is_number, time)):
            time = time.astype(float)
        if time.dtype.kind not in "iuf":
            raise ValueError(
                f"subject {name!r}: expected times of the bins in seconds, got {time.dtype}."
            )
        bin_size = array.attrs.get("bin_size")
        if bin_size is None:
            if len(time) < 2:
                raise ValueError(f"subject {name!r}: one bin and no attrs['bin_size'].")
            bin_size = float(np.median(np.diff(time)))
        if not (is_number(bin_size) and bin_size > 0):
            raise ValueError(
                f"subject {name!r}: expected bins of a positive number of seconds, in "
                f"attrs['bin_size'] or between times, got {brief(bin_size)}."
            )
        got_bins = (len(time), float(bin_size))
        if expected is None:
            expected = got_bins
        elif expected[0] != got_bins[0] or not np.isclose(expected[1], got_bins[1]):
            raise ValueError(
                f"subject {name!r}: expected {expected[0]} bins of {expected[1]:g} s as in "
                f"{next(iter(arrays))!r}, got {got_bins[0]} of {got_bins[1]:g} s. "
                "Bin all subjects over spans of one length with one bin size."
            )
    assert expected is not None
    return expected[1]


def only_observed(
    arrays: Mapping[str, xr.DataArray],
) -> tuple[dict[str, xr.DataArray], list[str]]:
    """Leave out trials or units that `bin_spikes` has marked as not observed, and tell it."""
    found, told = dict(arrays), []
    for name, array in arrays.items():
        seen = array.coords.get("observed")
        if seen is None or set(seen.dims) != {"trial", "unit"}:
            continue
        observed = seen.transpose("trial", "unit").values.astype(bool)
        trials, units = most_observed(observed)
        if not (trials.any() and units.any()):
            raise ValueError(f"subject {name!r}: no trial was observed in any unit.")
        found[name] = array.isel(trial=trials, unit=units).drop_vars("observed")
        if not observed.all():
            told.append(
                f"subject {name!r}: {int((~observed).sum()):,} of {observed.size:,} trials x units "
                f"were not observed; {int((~trials).sum())} trials and {int((~units).sum())} units "
                "were left out for it."
            )
    return found, told


def whole_bins(name: str, seconds: float, bin_size: float, most: int | None = None) -> int:
    """Seconds as a number of bins; refused if it is none, or more than a trial has."""
    n = round(seconds / bin_size) if is_number(seconds) else 0
    if n < 1 or abs(n * bin_size - seconds) > 1e-6 * max(bin_size, seconds):
        raise ValueError(
            f"The {name!r} parameter of pair_subjects must be a whole number of bins of "
            f"{bin_size:g} s. Got {brief(seconds)} instead."
        )
    if most is not None and n > most:
        raise ValueError(
            f"{name} of {seconds:g} s is longer than the {most * bin_size:g} s of each trial. "
            "Bin a longer span or take narrower windows."
        )
    return n


def common_conditions(
    labels: Mapping[str, NDArray[Any]],
    by: str,
    conditions: Sequence[Hashable] | None,
    allow_missing: bool,
) -> tuple[tuple[Any, ...], list[str]]:
    """Conditions to pair by, and what is left out for it."""
    report = []
    for name, values in labels.items():
        unlabelled = int(pd.isna(values).sum())
        if unlabelled:
            report.append(f"subject {name!r}: {unlabelled} trials without a {by} were left out.")
    found = {name: set(_known(values)) for name, values in labels.items()}
    everywhere = set().union(*found.values())
    if conditions is None:
        kept = tuple(_sorted(everywhere))
    else:
        kept = tuple(conditions)
        unknown = [c for c in kept if c not in everywhere]
        if unknown:
            raise ValueError(
                f"conditions {unknown} occur in no subject. Found in {by!r}: {_sorted(everywhere)}."
            )
        for condition in _sorted(everywhere - set(kept)):
            n = {name: int((values == condition).sum()) for name, values in labels.items()}
            counted = ", ".join(f"{name} {count}" for name, count in n.items())
            report.append(f"{by} {condition!r} was left out by choice (trials: {counted}).")
    for condition in kept:
        for name in labels:
            if condition in found[name]:
                continue
            if not allow_missing:
                raise ValueError(
                    f"no trials of {by} {condition!r} in subject {name!r}; pairing by {by!r} needs "
                    "each condition in every subject, or allow_missing=True."
                )
            report.append(f"subject {name!r} has no {by} {condition!r} and is absent from it.")
    if not kept:
        raise ValueError(f"no trial has a value in {by!r}; nothing to pair.")
    return kept, report


def distinct(values: Any) -> bool:
    """Whether this is a list of different values."""
    if isinstance(values, str | bytes) or not isinstance(values, Sequence | np.ndarray):
        return False
    return all(isinstance(value, Hashable) for value in values) and len(set(values)) == len(values)


def _known(values: NDArray[Any]) -> list[Any]:
    return list(values[~pd.isna(values)].tolist())


def _sorted(values: Any) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=lambda value: (type(value).__name__, str(value)))
