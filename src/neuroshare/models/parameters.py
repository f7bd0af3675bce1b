"""What `SharedLatentModel` may be asked for: its parameters, checked, and what they choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from neuroshare.models.building import Subject, resolved
from neuroshare.models.linear import Method
from neuroshare.models.settings import MODEL_SETTINGS
from neuroshare.support.checks import brief, require, require_seed
from neuroshare.vae.schedule import Schedule
from neuroshare.windows.paired import PairedWindows

Init = Literal[Method, "random"]
Auto = Literal["auto"]
"""Left to the model to choose."""
Part = Literal["shared", "private", "all"]


def check_parameters(params: Mapping[str, Any]) -> None:
    """Refuse parameters that no fit can have.

    Raises
    ------
    ValueError
        Names the parameter, what was expected and what was given.
    """
    who = "SharedLatentModel"
    for name, setting in MODEL_SETTINGS.items():
        if name not in ("objective", "likelihood", "hidden", "device") and not (
            isinstance(params[name], Schedule) and name == "beta"
        ):
            setting.check(params[name], name, who)
    require_seed(params["seed"], who)
    resolved(params["objective"])
    for name in ("hidden", "likelihood"):
        value = params[name]
        require(value is not None, name, who, "given; only a Subject may leave it out", value)
    Subject(params["hidden"], params["likelihood"], params["encoder"]).check(who)
    given = params["subjects"]
    for own in given.values() if isinstance(given, Mapping) else ():
        what = "a mapping from names to Subject settings"
        require(isinstance(own, Subject), "subjects", who, what, given)
        own.check(who)


def chosen_subjects(
    subjects: Sequence[str] | Mapping[str, Subject] | str | None, paired: PairedWindows
) -> tuple[str, ...]:
    """Names of the subjects to fit, in order.

    Raises
    ------
    ValueError
        If these are no different names, or not in the data.
    """
    if subjects is None:
        names = paired.subjects
    elif isinstance(subjects, str):
        names = (subjects,)
    else:
        listed = isinstance(subjects, Sequence | Mapping | np.ndarray)
        names = tuple(subjects) if listed else ()
        require(
            bool(names) and all(isinstance(name, str) for name in names)
            and len(set(names)) == len(names),
            "subjects", "SharedLatentModel", "different names of subjects", subjects,
        )  # fmt: skip
    missing = [name for name in names if name not in paired.subjects]
    if missing:
        raise ValueError(
            f"subjects {missing} are not in the data, which hold {list(paired.subjects)}."
        )
    return names


def device_of(asked: str) -> torch.device:
    """Where to compute.

    Raises
    ------
    ValueError
        If torch cannot compute there.
    """
    if isinstance(asked, str) and asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        float(torch.zeros(1, device=device))
    # torch says in many ways that it cannot compute there.
    except Exception as error:
        raise ValueError(
            f"The 'device' parameter of SharedLatentModel must be 'auto', 'cpu' or a device "
            f"that torch {torch.__version__} finds here. Got {brief(asked)} instead."
        ) from error
    return device
