"""What a setting may be: checked where it is given, refused in one sentence."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

MOST = 65_536
"""No number of latents, units of a layer or windows of a batch is larger on purpose."""

MOST_SEED = 2**32 - 1
"""The largest that every generator of random numbers takes."""


def require(holds: bool, name: str, where: str, expected: str, value: Any) -> None:
    """Refuse the parameter `name` of `where` unless it holds.

    Raises
    ------
    ValueError
        Names the parameter, what was expected and what was given.

    Examples
    --------
    >>> require(False, "epochs", "fit", "a whole number", 2.5)
    Traceback (most recent call last):
    ...
    ValueError: The 'epochs' parameter of fit must be a whole number. Got 2.5 instead.
    """
    if not holds:
        raise ValueError(
            f"The {name!r} parameter of {where} must be {expected}. Got {brief(value)} instead."
        )


def require_whole(value: Any, name: str, where: str, least: int = 0, most: int = MOST) -> None:
    """Refuse what is not a whole number from `least` to `most`."""
    whole = not isinstance(value, bool) and isinstance(value, Integral)
    holds = whole and least <= int(value) <= most
    require(holds, name, where, f"a whole number from {least} to {most}", value)


def require_number(
    value: Any, name: str, where: str, least: float, most: float = math.inf, *, open_: bool = False
) -> None:
    """Refuse what is not a finite number from `least` to below `most`; `open_`: above `least`."""
    holds = is_number(value) and (least < value if open_ else least <= value) and value < most
    span = f"above {least:g}" if open_ else f"of at least {least:g}"
    if most < math.inf:
        span = f"between {least:g} and {most:g}, {'' if open_ else 'the end '}exclusive"
    require(holds, name, where, f"a number {span}", value)


def require_seed(value: Any, where: str) -> None:
    """Refuse what does not seed every generator."""
    require_whole(value, "seed", where, most=MOST_SEED)


def require_one_of(value: Any, name: str, where: str, allowed: Collection[str]) -> None:
    """Refuse what is not one of a few words."""
    holds = isinstance(value, str) and value in allowed
    require(holds, name, where, f"one of {list(allowed)}", value)


def is_number(value: Any) -> bool:
    """Whether this is a finite real number; booleans are none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond float
        return False


def brief(value: Any) -> str:
    """Short text of a value, on one line."""
    return textwrap.shorten(repr(value), 80, placeholder=" ...")
