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

from neuroshare.settings import told
from neuroshare.vae.likelihoods import LIKELIHOODS, Likelihood
from neuroshare.vae.objectives import OBJECTIVES, Objective
from neuroshare.writing import write_whole

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
            f"{path} has model format {told(fmt)}, expected {FORMAT}. Update neuroshare to read it."
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
    arguments; objects of a user's own class become the name of it.
    """
    if isinstance(value, Objective | Likelihood):
        known: Mapping[str, type] = OBJECTIVES if isinstance(value, Objective) else LIKELIHOODS
        name = next((n for n, c in known.items() if type(value) is c), None)
        if name is None:
            return {"custom": type(value).__qualname__}
        arguments = [k for k in inspect.signature(type(value).__init__).parameters if k != "self"]
    elif (name := next((n for n, c in kinds.items() if type(value) is c), None)) is not None:
        arguments = [*vars(value)]
    elif isinstance(value, Mapping):
        return {"mapping": {str(k): settings_as_json(v, kinds) for k, v in value.items()}}
    elif isinstance(value, tuple | list | np.ndarray):
        return [settings_as_json(v, kinds) for v in value]
    else:
        return plain(value)
    kept = {k: settings_as_json(getattr(value, k), kinds) for k in arguments}
    return {"object": name, "arguments": kept}


def settings_of_json(
    key: str, value: Any, kinds: Mapping[str, type], own: Mapping[str, object]
) -> Any:
    """Undo `settings_as_json`; `own` holds, by key, the objects of a user's own classes."""
    if isinstance(value, list):
        return tuple(settings_of_json(key, v, kinds, own) for v in value)
    if not isinstance(value, dict):
        return value
    if "custom" in value:
        return own[key]
    if "mapping" in value:
        return {k: settings_of_json(key, v, kinds, own) for k, v in value["mapping"].items()}
    known = {**OBJECTIVES, **LIKELIHOODS, **kinds}
    return known[value["object"]](
        **{k: settings_of_json(k, v, kinds, own) for k, v in value["arguments"].items()}
    )


def customs(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Keys of what `settings_as_json` had no name for, and the names of those classes."""
    if isinstance(value, dict):
        if "custom" in value:
            yield key, value["custom"]
        for name, item in value.items():
            yield from customs(name, item)


def plain(value: Any) -> Any:
    """A numpy scalar as the Python one that JSON holds."""
    return value.item() if isinstance(value, np.generic) else value
