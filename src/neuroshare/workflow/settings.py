"""The settings of a run, declared once: for the command line, for run.toml and for Python."""

import contextlib
import dataclasses
import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuroshare.models.settings import MODEL_SETTINGS
from neuroshare.support.checks import is_number, require
from neuroshare.support.setting import (
    Check,
    Setting,
    flag,
    number,
    optional,
    seed,
    span,
    text,
    texts,
    whole,
)

_MISSING = dataclasses.MISSING


PER_FILE = ("trials", "select", "units", "unit_table", "session")
"""Settings that may be one for all files, or one for each."""


def _declared(
    help: str,
    check: Check,
    kind: Any = None,
    default: Any = _MISSING,
    *,
    flag: str | None = None,
    scoring: bool = False,
) -> Any:
    """Field of a `RunConfig`; `scoring`: a sweep, which has scores of its own, lacks it."""
    metadata = {"setting": Setting(help, check, kind, flag), "scoring": scoring}
    return field(default=default, metadata=metadata)


def _blocks(value: Any, name: str, where: str) -> None:
    words = isinstance(value, str) and value in ("auto", "random")
    positive = is_number(value) and value > 0
    require(words or positive, name, where, "auto, random or a number of seconds", value)


def _within(value: Any, name: str, where: str) -> None:
    require(value in ("trials", "session"), name, where, "trials or session", value)


def _one_or_each(value: Any, name: str, where: str) -> None:
    """Refuse what is neither a text for all files nor a list of one for each."""
    (text if isinstance(value, str) else texts)(value, name, where)


def _model(value: Any, name: str, where: str) -> None:
    require(isinstance(value, Mapping), name, where, "a table of settings", value)
    if unknown := sorted(set(value) - set(MODEL_SETTINGS)):
        close = [difflib.get_close_matches(str(k), MODEL_SETTINGS, 1) for k in unknown]
        meant = ", ".join(name for names in close for name in names)
        raise ValueError(
            f"unknown settings {unknown} under [model]; "
            + (f"did you mean {meant}? Expected" if meant else "expected")
            + f" some of {sorted(MODEL_SETTINGS)}."
        )


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run; each says below what it is and what it may be.

    Raises
    ------
    ValueError
        Before any file is read, if a setting is not what its check asks for.
    """

    files: tuple[str, ...] = _declared(
        "NWB files, one session each; NAME=FILE names its subject, as in m1/monday=a.nwb.", texts
    )
    by: str = _declared(
        "Trial column whose values pair the subjects; of a run by behavior (--behavior) one or "
        "more names of it and of trial columns, with commas.",
        text, str,
    )  # fmt: skip
    align: str = _declared(
        "Trial column with the event's time, in seconds.", text, str, "start_time"
    )
    span: tuple[float, float] = _declared(
        "Begin and end of the analysed stretch, seconds after the event.",
        span, tuple[float, float], (0.0, 0.4),
    )  # fmt: skip
    behavior: tuple[str, ...] | None = _declared(
        "A series of behavior to interpolate and decode, such as a position (repeat for more): the "
        "subjects are paired by what of it --by names.",
        optional(texts), list[str], None,
    )  # fmt: skip
    bandwidth: float = _declared(
        "Of a run by behavior: what is alike, as a share of the range of each variable.",
        number(0, 0.5, open_=True), float, 0.05,
    )  # fmt: skip
    within: str = _declared(
        "Of a run by behavior: trials, windows within the trials, such as laps; or session, of "
        "the whole of it.",
        _within, str, "trials",
    )  # fmt: skip
    bin_size: float = _declared("Width of a bin in seconds.", number(0, open_=True), float, 0.01)
    width: float = _declared("Length of a window in seconds.", number(0, open_=True), float, 0.1)
    step: float = _declared(
        "Shift between windows in seconds; by default a bin.",
        optional(number(0, open_=True)), float, None,
    )  # fmt: skip
    trials: str | tuple[str, ...] = _declared(
        "Table of the file that holds the trials, one for all files or one for each, in order.",
        _one_or_each, list[str], "trials",
    )  # fmt: skip
    select: str | tuple[str, ...] | None = _declared(
        "Which trials to take, a pandas query of the table of trials such as \"block > 1\" (for "
        "all files or for each).",
        optional(_one_or_each), list[str], None,
    )  # fmt: skip
    units: str | tuple[str, ...] | None = _declared(
        "Which units to take, a pandas query of the table of units such as \"quality == 'good'\" "
        "(for all files or for each).",
        optional(_one_or_each), list[str], None,
    )  # fmt: skip
    unit_table: str | tuple[str, ...] | None = _declared(
        "Table of the file that holds the units (for all files or for each). Default: units, or "
        "the only one there is.",
        optional(_one_or_each), list[str], None,
    )  # fmt: skip
    session: str | tuple[str, ...] | None = _declared(
        "Name of the recording session (of all files or of each); by default as the file says.",
        optional(_one_or_each), list[str], None,
    )  # fmt: skip
    score_by: str | None = _declared(
        "Trial column to tell from latents, where trials are paired by another (--by), such as "
        "their number in animals that were recorded together.",
        optional(text), str, None,
    )  # fmt: skip
    conditions: tuple[str, ...] | None = _declared(
        "A condition to keep (repeat for more); by default all of which each subject has enough "
        "trials.",
        optional(texts), list[str], None, flag="--condition",
    )  # fmt: skip
    min_trials: int | None = _declared(
        "Leave out conditions with fewer trials in any subject; by default than 20, or than 8 "
        "where no two conditions have 20.",
        optional(whole(1)), int, None,
    )  # fmt: skip
    test_fraction: float = _declared(
        "Share of the trials of each condition and subject that is held out.",
        number(0, 1, open_=True), float, 0.25,
    )  # fmt: skip
    blocks: str | float = _declared(
        "What is held out: auto, whole stretches of the session where the conditions come in runs "
        "or trials overlap, and else single trials; random, single trials; a number, stretches of "
        "so many seconds.",
        _blocks, str, "auto",
    )  # fmt: skip
    validation_fraction: float = _declared(
        "Share of the training trials on which the best epoch is chosen; 0: none.",
        number(0, 1), float, 0.0, scoring=True,
    )  # fmt: skip
    permutations: int = _declared(
        "Permutations for p-values; they need no fit.", whole(0, 10**9), int, 499, scoring=True
    )
    bootstraps: int = _declared(
        "Bootstrap samples of held-out trials, for intervals of differences and of bits per spike.",
        whole(0, 10**9),
        int,
        500,
        scoring=True,
    )
    quick: bool = _declared(
        "Separation of the start alone: no training is tried (unless --epochs are given), and "
        "there are no baselines, imputation, residuals or control.",
        flag, bool, False, scoring=True,
    )  # fmt: skip
    anyway: bool = _declared(
        "Go on with recordings that cannot be meant, such as spikes and trials on two clocks.",
        flag, bool, False,
    )  # fmt: skip
    seed: int = _declared("Seeds pairing, split, fit and permutations.", seed, int, 0, scoring=True)
    model: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={"setting": Setting("Settings of the model, see MODEL_SETTINGS.", _model)},
    )
    """Arguments of `SharedLatentModel`. Objectives, likelihoods and schedules of this package may
    be objects; they are kept by name and arguments."""

    def __post_init__(self) -> None:
        """Refuse what no run can have before any file is read."""
        with contextlib.suppress(ValueError):  # an option of the command line is a text
            if isinstance(self.blocks, str):
                object.__setattr__(self, "blocks", float(self.blocks))
        if self.behavior:  # windows follow each other, and have no event
            for name, value in (("align", "start_time"), ("step", self.width)):
                object.__setattr__(self, name, value)
            object.__setattr__(self, "span", (0.0, self.width))
        for name, setting in declared().items():
            setting.check(getattr(self, name), name, "a run")
        if getattr(self, "step") is None:  # noqa: B009 (a number from here on)
            object.__setattr__(self, "step", float(self.bin_size))
        for name in PER_FILE:
            value = getattr(self, name)
            if isinstance(value, str) or value is None:
                continue
            if len(value) not in (1, len(self.files)):
                flag = name.replace("_", "-")
                raise ValueError(
                    f"The {name!r} parameter of a run must be one for all files, or one for each "
                    f"of {len(self.files)}. Got {len(value)}: give --{flag} once, or "
                    f"{len(self.files)} times in the order of the files."
                )
            if len(set(value)) == 1:  # one for all is kept as such
                object.__setattr__(self, name, value[0])
        for name, seconds in (
            ("span", self.span[1] - self.span[0]), ("width", self.width), ("step", self.step)
        ):  # fmt: skip
            bins = seconds / self.bin_size
            if abs(bins - round(bins)) > 1e-6 * max(1, bins):
                raise ValueError(
                    f"The {name!r} parameter of a run must be a whole number of bins of "
                    f"{self.bin_size:g} s (bin_size). Got {seconds:g} s instead."
                )
        if self.width > self.span[1] - self.span[0] + 1e-9:
            raise ValueError(
                f"The 'span' parameter of a run must hold a window of {self.width:g} s (width). "
                f"Got {self.span[1] - self.span[0]:g} s from {self.span[0]:g} to "
                f"{self.span[1]:g} s instead."
            )
        model = {key: _as_plain(key, value) for key, value in self.model.items()}
        for key, value in model.items():
            if value is not None:
                MODEL_SETTINGS[key].check(value, key, "SharedLatentModel")
        object.__setattr__(self, "model", model)

    @property
    def factor(self) -> str:
        """Trial column that is told from latents."""
        return self.score_by or self.by

    @property
    def paired_by(self) -> list[str]:
        """Names that a run by behavior pairs by."""
        return [name.strip() for name in self.by.split(",")]

    def each(self, name: str) -> tuple[Any, ...]:
        """Value of a setting for each of the files."""
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value,) * len(self.files)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "RunConfig":
        """Build from plain settings, and name every unknown or absent one at once."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(settings) - set(fields))
        if unknown:
            raise ValueError(f"unknown settings {unknown}; expected some of {sorted(fields)}.")
        absent = [
            name
            for name, f in fields.items()
            if f.default is f.default_factory is _MISSING and not settings.get(name)
        ]
        if absent:
            raise ValueError(
                f"a run needs {', '.join(absent)}. Give the options, or --config with a run.toml. "
                "`neuroshare inspect FILE` shows the columns that there are."
            )
        return cls(**{name: _as_tuple(value) for name, value in settings.items()})

    def to_toml(self) -> str:
        """Text that ``from_settings(tomllib.loads(text))`` turns into an equal configuration."""
        settings = dataclasses.asdict(self)
        model = settings.pop("model")
        # What is None is left to its default, for TOML has no word for it.
        lines = [f"{key} = {_toml(value)}" for key, value in settings.items() if value is not None]
        lines += ["", "[model]"]
        lines += [f"{key} = {_toml(value)}" for key, value in model.items() if value is not None]
        return "\n".join(lines) + "\n"


def declared(*, scoring: bool = True) -> dict[str, Setting]:
    """Name -> setting of a run, in order; of all, or of those that decide what is read and fitted.

    Examples
    --------
    >>> declared()["width"].help
    'Length of a window in seconds.'
    >>> "permutations" in declared(scoring=False)
    False
    """
    fields = dataclasses.fields(RunConfig)
    return {
        f.name: f.metadata["setting"] for f in fields if scoring or not f.metadata.get("scoring")
    }


def named_file(text: str) -> tuple[str | None, str]:
    """Name and file of ``NAME=FILE``; the name is None where a file alone is given.

    Examples
    --------
    >>> named_file("m1/monday=data/a.nwb"), named_file("https://example.org/a.nwb?token=x")
    (('m1/monday', 'data/a.nwb'), (None, 'https://example.org/a.nwb?token=x'))
    """
    name, equals, file = text.partition("=")
    # What has a colon, or begins like a path, is a file with such a sign in its name.
    if not (equals and name.strip() and file) or re.match(r"[./~\\]|[^=]*:", name):
        return None, text
    return (None, text) if Path(text).exists() else (name.strip(), file)


def default_of(name: str) -> Any:
    """Give the default of a setting of a run; None where there is none."""
    (default,) = (f.default for f in dataclasses.fields(RunConfig) if f.name == name)
    return None if default is _MISSING else default


def _as_plain(key: str, value: Any) -> Any:
    """An argument of the model as TOML can hold it: objects by their name and arguments."""
    if type(value).__module__ not in ("builtins", "datetime"):
        from neuroshare.models.saving import customs, settings_as_json
        from neuroshare.vae.schedule import Schedule

        value = settings_as_json(value, {"schedule": Schedule})
        if own := [kind for _, kind in customs((key,), value)]:
            raise ValueError(
                f"The {key!r} parameter of a run must be a name or an object of this package, "
                f"which run.toml can hold. Got {own[0]}, a class of your own, instead: fit it in "
                f"Python with SharedLatentModel({key}=...)."
            )
    return _as_tuple(_without_none(value))


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_none(item) for k, item in value.items() if item is not None}
    return value


def _as_tuple(value: Any) -> Any:
    """TOML knows only lists; arguments that are never changed are tuples."""
    if isinstance(value, Mapping):
        return {key: _as_tuple(item) for key, item in value.items()}
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _toml(value: Any) -> str:
    """Write a value; a JSON scalar or list is a TOML value too."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {_toml(item)}" for k, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
