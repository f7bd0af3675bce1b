"""Names and labels of trials, made comparable between subjects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

RESERVED = (
    "trial", "unit", "time", "window", "lag", "subject", "latent", "start", "part", "row",
    "onset", "animal", "observed", "latents", "counts", "expected_counts",
)  # fmt: skip
"""Names of dimensions, and of what results say of a window, which no column may take."""

MISSING = frozenset(
    {"", "nan", "NaN", "NAN", "None", "n/a", "N/A", "null", "NULL", "Null", "<NA>", "NaT"}
)
"""Texts that say that there is no value. ``none`` is not among them: no stimulus is a condition."""

_TRUTH = {"true": True, "false": False}


def coordinate_name(column: Any, dim: str = "trial", taken: tuple[str, ...] = ()) -> str:
    """Name of a column among the coordinates of counts.

    One rule: what is neither a letter, a digit nor an underscore becomes an underscore, for results
    are stored under these names; a name of the package's own, or one that is taken, gets the
    dimension before it.

    Examples
    --------
    >>> coordinate_name("odor id"), coordinate_name("time"), coordinate_name("area", "unit")
    ('odor_id', 'trial_time', 'area')
    """
    name = re.sub(r"\W", "_", str(column)) or dim
    while name in RESERVED or name in taken:
        name = f"{dim}_{name}"
    return name


def find_coordinate(counts: xr.DataArray, column: str) -> str:
    """Name of the coordinate that holds a column, under whichever name it got.

    Gives the name back where no coordinate holds the column.
    """
    for name, coordinate in counts.coords.items():
        if coordinate.attrs.get("column") == column and coordinate.dims == ("trial",):
            return str(name)
    return column


def same_labels(
    labels: Mapping[str, Any], by: str = "condition"
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Labels of several subjects such that equal conditions are equal values.

    Parameters
    ----------
    labels : mapping of subject to array
        One label per trial: numbers, booleans or texts.
    by : str
        What they are called in sentences.

    Returns
    -------
    labels : dict of subject to array
        Of one kind in all subjects. Booleans and the texts true and false, in any case, are
        booleans; numbers and texts of numbers are numbers; a number stored as float32 is the
        number it was written as; texts are without blanks around them, and in one spelling where
        only case tells them apart and no subject has both. What is missing is NaN: also texts
        such as ``""``, ``"nan"``, ``"None"``, ``"n/a"`` and ``"null"``.
    told : list of str
        What was changed, in sentences.

    Raises
    ------
    ValueError
        The labels are of kinds that cannot be compared.

    Examples
    --------
    >>> same, told = same_labels({"mitt": [True, False], "stella": ["TRUE", "n/a"]}, "correct")
    >>> [values.tolist() for values in same.values()]
    [[True, False], [True, nan]]
    >>> for sentence in told:
    ...     print(sentence)
    subject 'stella': 1 trial with correct 'n/a' has no correct.
    correct is text in subject 'stella' ('TRUE') and read as boolean, as in the others.
    """
    told: list[str] = []
    values = {name: _without_missing(name, column, by, told) for name, column in labels.items()}
    kinds = {name: _kind(column) for name, column in values.items()}
    known = {kind for kind in kinds.values() if kind}
    if len(known) > 1:
        values, told_more = _of_one_kind(values, kinds, by)
        told += told_more
        known = {_kind(column) for column in values.values()} - {""}
    if known == {"text"}:
        values, told_more = _of_one_spelling(values, by)
        told += told_more
    if known == {"number"}:
        values = {name: _as_written(column) for name, column in values.items()}
    return {name: _compact(column) for name, column in values.items()}, told


def with_same_labels(
    counts: Mapping[str, xr.DataArray], by: str
) -> tuple[dict[str, xr.DataArray], list[str]]:
    """Counts whose labels in the coordinate `by` are comparable; see `same_labels`."""
    labels, told = same_labels({name: array[by].to_numpy() for name, array in counts.items()}, by)
    return {
        name: array.assign_coords({by: ("trial", labels[name], array[by].attrs)})
        for name, array in counts.items()
    }, told


def _without_missing(name: str, column: Any, by: str, told: list[str]) -> np.ndarray:
    values = np.asarray(column).astype(object)
    found: dict[str, int] = {}
    for i, value in enumerate(values):
        if isinstance(value, bytes):
            value = values[i] = value.decode(errors="replace")
        if isinstance(value, str) and value.strip() in MISSING:
            found[value] = found.get(value, 0) + 1
            values[i] = np.nan
        elif not isinstance(value, str) and pd.isna(value):
            values[i] = np.nan
    for text, n in found.items():
        trials = "1 trial" if n == 1 else f"{n} trials"
        verb = "has" if n == 1 else "have"
        told.append(f"subject {name!r}: {trials} with {by} {text!r} {verb} no {by}.")
    return values


def _present(values: np.ndarray) -> list[Any]:
    return [value for value in values if not (isinstance(value, float) and np.isnan(value))]


def _kind(values: np.ndarray) -> str:
    kinds = set()
    for value in _present(values):
        if isinstance(value, bool | np.bool_):
            kinds.add("boolean")
        elif isinstance(value, int | float | np.number):
            kinds.add("number")
        else:
            kinds.add("text" if isinstance(value, str) else type(value).__name__)
    return "text" if len(kinds) > 1 and "text" in kinds else "".join(sorted(kinds)[:1])


def _of_one_kind(
    values: Mapping[str, np.ndarray], kinds: Mapping[str, str], by: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    for kind, convert in (("boolean", _truth), ("number", _number)):
        if kind not in kinds.values():
            continue
        converted = {name: _converted(column, convert) for name, column in values.items()}
        if all(column is not None for column in converted.values()):
            others = [name for name, own in kinds.items() if own not in ("", kind)]
            told = [
                f"{by} is {kinds[name]} in subject {name!r} ({_some(values[name])}) and read as "
                f"{kind}, as in the others."
                for name in others
            ]
            return {name: c for name, c in converted.items() if c is not None}, told
    said = " and ".join(
        f"{kind} in {name!r} ({_some(values[name])})" for name, kind in kinds.items() if kind
    )
    raise ValueError(f"{by} is {said}. Convert one, so that equal conditions are equal values.")


def _converted(values: np.ndarray, convert: Any) -> np.ndarray | None:
    new = values.copy()
    for i, value in enumerate(values):
        if isinstance(value, float) and np.isnan(value):
            continue
        new[i] = convert(value)
        if new[i] is None:
            return None
    return new


def _truth(value: Any) -> bool | None:
    if isinstance(value, str):
        value = _TRUTH.get(value.strip().casefold(), _number(value))
    if isinstance(value, bool | np.bool_):
        return bool(value)
    return bool(value) if value in (0, 1) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool | np.bool_):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _as_written(values: np.ndarray) -> np.ndarray:
    """Numbers stored as float32 as the decimal that was meant: 0.1, not 0.10000000149."""
    new = values.copy()
    for i, value in enumerate(values):
        number = float(value)
        if number != round(number) and abs(number) < 1e30 if np.isfinite(number) else False:
            short = np.float32(number)
            new[i] = float(str(short)) if float(short) == number else number
    return new


def _of_one_spelling(
    values: Mapping[str, np.ndarray], by: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Texts without blanks around them; in the spelling met first where only case differs."""
    stripped = {
        name: np.array([v.strip() if isinstance(v, str) else v for v in column], object)
        for name, column in values.items()
    }
    spellings: dict[str, dict[str, None]] = {}
    distinct: set[str] = set()
    for column in stripped.values():
        here: dict[str, set[str]] = {}
        for value in dict.fromkeys(map(str, _present(column))):
            spellings.setdefault(value.casefold(), {})[value] = None
            here.setdefault(value.casefold(), set()).add(value)
        distinct |= {folded for folded, texts in here.items() if len(texts) > 1}
    one = {
        text: next(iter(texts))
        for folded, texts in spellings.items()
        if folded not in distinct
        for text in texts
    }
    result = {
        name: np.array([one.get(v, v) if isinstance(v, str) else v for v in column], object)
        for name, column in stripped.items()
    }
    merged: dict[Any, dict[Any, None]] = {}
    for name, column in values.items():
        for old, new in zip(column, result[name], strict=True):
            if isinstance(old, str):
                merged.setdefault(new, {})[old] = None
    told = [
        f"{by} {' and '.join(map(repr, olds))} are taken as one: {new!r}."
        for new, olds in merged.items()
        if len(olds) > 1
    ]
    return result, told


def _compact(values: np.ndarray) -> np.ndarray:
    """Objects as an array of their own type, where none is missing."""
    present = _present(values)
    if len(present) < len(values):
        return values.astype(np.float64) if _kind(values) in ("number", "") else values
    kind = _kind(values)
    if kind == "boolean":
        return values.astype(bool)
    if kind == "number":
        whole = all(isinstance(v, int | np.integer) for v in values)
        return values.astype(np.int64 if whole else np.float64)
    if kind == "text" and all(isinstance(v, str) for v in values):
        return values.astype(np.str_)
    return values


def _some(values: np.ndarray) -> str:
    found = list(dict.fromkeys(map(repr, _present(values).copy())))
    return ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
