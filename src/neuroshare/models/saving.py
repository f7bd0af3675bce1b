"""A model on disk: weights as safetensors, all else as JSON, and no code that reading would run."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors.torch import save as as_safetensors
from torch import Tensor

from neuroshare.models.fitted import plain
from neuroshare.support.checks import brief
from neuroshare.support.files import write_whole
from neuroshare.vae.likelihoods import LIKELIHOODS, Likelihood
from neuroshare.vae.objectives import OBJECTIVES, Objective

FORMAT = 1
_ABOUT, _WEIGHTS = "model.json", "weights.safetensors"


def write_model(
    path: str | os.PathLike[str], about: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Write a directory, which appears whole or not at all and replaces an older model.

    Parameters
    ----------
    path
        The directory.
    about
        What JSON can hold; see `settings_as_json`.
    weights
        By name.

    Raises
    ------
    FileExistsError
        If there is something else at `path`.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    versions = {
        "neuroshare": version("neuroshare-latents"),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    stored = {"format": FORMAT, **about, "versions": versions}
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    try:
        write_whole(temporary / _WEIGHTS, as_safetensors(tensors))
        write_whole(temporary / _ABOUT, json.dumps(stored, indent=1).encode())
        if path.exists():
            if not (path / _ABOUT).exists():
                raise FileExistsError(f"{path} exists and is not a saved model; not replaced.")
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_model(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `write_model` wrote: `about` and the weights, as they are in the files.

    Raises
    ------
    FileNotFoundError
        If there is no model at `path`.
    ValueError
        If the files are damaged or of another format.
    """
    path = Path(path)
    if not (path / _ABOUT).is_file() or not (path / _WEIGHTS).is_file():
        raise FileNotFoundError(f"{path} holds no saved model: expected {_ABOUT} and {_WEIGHTS}.")
    try:
        about = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
        weights = load_file(path / _WEIGHTS)
        fmt = about["format"]
    except Exception as error:
        raise damaged(path, error) from error
    if fmt != FORMAT:
        raise ValueError(
            f"{path} has model format {brief(fmt)}, expected {FORMAT}. Update neuroshare to read "
            "it."
        )
    return about, weights


def damaged(path: str | os.PathLike[str], error: Exception) -> ValueError:
    """Make the error of a model whose files do not fit together, and why."""
    why = textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")
    return ValueError(
        f"{path} is damaged and cannot be read ({why}). Take a copy, or fit and save it again."
    )


def settings_as_json(value: Any, kinds: Mapping[str, type]) -> Any:
    """Restate a constructor argument as JSON.

    Objectives, likelihoods and objects of `kinds`, which are dataclasses, become their name and
    arguments; objects and functions of a user's own become their name alone.
    """
    if isinstance(value, Objective | Likelihood):
        known: Mapping[str, type] = OBJECTIVES if isinstance(value, Objective) else LIKELIHOODS
        name = next((n for n, c in known.items() if type(value) is c), None)
        if name is None:
            return {"custom": _name(value)}
        taken = inspect.signature(type(value)).parameters.values()
        # A class without a constructor of its own has that of torch, which takes anything.
        arguments = [p.name for p in taken if p.kind is p.POSITIONAL_OR_KEYWORD]
    elif (name := next((n for n, c in kinds.items() if type(value) is c), None)) is not None:
        arguments = [*vars(value)]
    elif isinstance(value, Mapping):
        return {"mapping": {str(k): settings_as_json(v, kinds) for k, v in value.items()}}
    elif isinstance(value, tuple | list | np.ndarray):
        return [settings_as_json(v, kinds) for v in value]
    elif callable(value):
        return {"custom": _name(value)}
    else:
        return plain(value)
    kept = {k: settings_as_json(getattr(value, k), kinds) for k in arguments}
    return {"object": name, "arguments": kept}


Place = tuple[str, ...]
"""Where in the settings something is: ("likelihood",) or ("subjects", "mitt", "likelihood")."""


def settings_of_json(
    place: Place, value: Any, kinds: Mapping[str, type], own: Mapping[Place, object]
) -> Any:
    """Undo `settings_as_json`; `own` holds what is a user's own."""
    if isinstance(value, list):
        return tuple(settings_of_json(place, v, kinds, own) for v in value)
    if not isinstance(value, dict):
        return value
    if "custom" in value:
        return own[place]
    if "mapping" in value:
        items = value["mapping"].items()
        return {k: settings_of_json((*place, k), v, kinds, own) for k, v in items}
    known = {**OBJECTIVES, **LIKELIHOODS, **kinds}
    items = value["arguments"].items()
    return known[value["object"]](
        **{k: settings_of_json((*place, k), v, kinds, own) for k, v in items}
    )


def owned(
    path: str | os.PathLike[str], stored: Mapping[str, Any], given: Mapping[str, object]
) -> dict[Place, object]:
    """Find the user's own objects for the places of a stored model that need them.

    Parameters
    ----------
    path
        Of the model, for errors.
    stored
        What its file says.
    given
        Name of the setting -> an object, a mapping from subjects to objects, or None.

    Raises
    ------
    ValueError
        If one is missing, is of another class than what was fitted, or one object would stand for
        several.
    """
    needed: dict[str, dict[Place, str]] = {}
    for place, kind in customs((), stored.get("params")):
        needed.setdefault(place[-1], {})[place] = kind
    found: dict[Place, object] = {}
    for name, places in needed.items():
        users = {place: _users(stored, place) for place in places}
        gift = given.get(name)
        if gift is None or (len(places) > 1 and not isinstance(gift, Mapping)):
            what = "a function or class" if name == "encoder" else "a class"
            kinds = " and ".join(dict.fromkeys(map(str, places.values())))
            ask = f"{name}=..."
            if len(places) > 1:
                each = ", ".join(f"{users[place][0]!r}: ..." for place in places if users[place])
                ask = f"{name}={{{each}}}"
            passing = "it" if name == "encoder" else "an instance"
            raise ValueError(
                f"{path} was fitted with {kinds}, {what} of your own; pass {passing}"
                f"{' for each subject' if len(places) > 1 else ''}: "
                f"SharedLatentModel.load(path, {ask})."
            )
        for place, kind in places.items():
            mine = [gift]
            if isinstance(gift, Mapping):
                strangers = [str(n) for n in gift if n not in stored.get("subjects", ())]
                mine = list({id(gift[n]): gift[n] for n in users[place] if n in gift}.values())
                if strangers or len(mine) != 1:
                    raise ValueError(
                        f"{path}: expected one {name} ({kind}) for {' and '.join(users[place])}, "
                        f"got {len(mine)}{f' and one for {strangers}' if strangers else ''}. "
                        "Name every subject that had one of your own."
                    )
            if _last(_name(mine[0])) != _last(str(kind)):
                raise ValueError(
                    f"{path}: expected a {name} of {kind}, as it was fitted with, for "
                    f"{' and '.join(users[place]) or 'the model'}, got {_name(mine[0])}."
                )
            found[place] = mine[0]
    return found


def _users(stored: Mapping[str, Any], place: Place) -> list[str]:
    """Subjects to which the setting at this place applies."""
    if len(place) > 1:
        return [place[-2]]
    params = stored["params"]
    own = params.get("subjects")
    own = own.get("mapping", {}) if isinstance(own, dict) else {}
    having = {
        n for n, s in own.items() if (s or {}).get("arguments", {}).get(place[-1]) is not None
    }
    return [str(n) for n in stored.get("subjects", ()) if n not in having]


def customs(place: Place, value: Any) -> Iterator[tuple[Place, Any]]:
    """Where `settings_as_json` kept nothing but a name, and that name."""
    if isinstance(value, dict):
        if "custom" in value:
            yield place, value["custom"]
        for name, item in value.items():
            inner = place if name in ("mapping", "arguments") else (*place, name)
            yield from customs(inner, item)


def _name(value: object) -> str:
    """Name of a function or class, or of the class of an object."""
    name = getattr(value, "__qualname__", None)
    return name if isinstance(name, str) else type(value).__qualname__


def _last(name: str) -> str:
    return name.rpartition(".")[2]
