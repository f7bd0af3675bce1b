"""A setting declared once: what it says, what it may be, and how it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from neuroshare.support.checks import (
    MOST,
    is_number,
    require,
    require_number,
    require_one_of,
    require_seed,
    require_whole,
)

Check = Callable[[Any, str, str], None]
"""Called with a value, the name of its setting and whose it is; refuses in a sentence."""


@dataclass(frozen=True)
class Setting:
    """What the command line, a file of settings and Python know of one setting."""

    help: str
    check: Check
    kind: Any = None
    """Type of its command line option; None: it has none of its own."""
    flag: str | None = None
    """Name of the option, where it is not that of the setting."""


def whole(least: int = 0, most: int = MOST) -> Check:
    """Make the check of a whole number from `least` to `most`."""
    return lambda value, name, where: require_whole(value, name, where, least, most)


def number(least: float, most: float = float("inf"), *, open_: bool = False) -> Check:
    """Make the check of a number from `least` to below `most`; `open_`: above `least`."""
    return lambda value, name, where: require_number(value, name, where, least, most, open_=open_)


def one_of(*words: str) -> Check:
    """Make the check of one of a few words."""
    return lambda value, name, where: require_one_of(value, name, where, words)


def optional(check: Check) -> Check:
    """Make the check that takes None too."""
    return lambda value, name, where: None if value is None else check(value, name, where)


def or_auto(check: Check) -> Check:
    """Make the check that takes ``"auto"`` too: it is chosen."""
    return lambda value, name, where: (
        None if isinstance(value, str) and value == "auto" else check(value, name, where)
    )


def or_object(check: Check, names: Collection[str]) -> Check:
    """Make the check that takes an object by name and arguments too, as JSON and TOML hold it."""

    def checked(value: Any, name: str, where: str) -> None:
        if isinstance(value, Mapping):
            require(
                set(value) == {"object", "arguments"}
                and value["object"] in tuple(names)
                and isinstance(value["arguments"], Mapping),
                name,
                where,
                f"{{object = one of {list(names)}, arguments = {{...}}}}",
                dict(value),
            )
        else:
            check(value, name, where)

    return checked


def seed(value: Any, name: str, where: str) -> None:
    """Refuse what does not seed every generator."""
    require_seed(value, where)


def text(value: Any, name: str, where: str) -> None:
    """Refuse what is not a text."""
    require(isinstance(value, str) and value != "", name, where, "a text", value)


def texts(value: Any, name: str, where: str) -> None:
    """Refuse what is not a list of texts."""
    listed = isinstance(value, tuple | list) and len(value) > 0
    holds = listed and all(isinstance(item, str) and item for item in value)
    require(holds, name, where, "a list of texts", value)


def flag(value: Any, name: str, where: str) -> None:
    """Refuse what is neither true nor false."""
    require(isinstance(value, bool), name, where, "true or false", value)


def span(value: Any, name: str, where: str) -> None:
    """Refuse what does not begin and end."""
    holds = (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(map(is_number, value))
        and value[0] < value[1]
    )
    require(holds, name, where, "two numbers of seconds, begin and end, begin first", value)
