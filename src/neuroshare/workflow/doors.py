"""What comparisons, sweeps and reports of leakage take: refused at the door, in a sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol, Self, runtime_checkable

import xarray as xr
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from neuroshare.support.checks import MOST, require, require_whole
from neuroshare.support.parallel import Executor
from neuroshare.windows.paired import PairedWindows


@runtime_checkable
class Model(Protocol):
    """An estimator of latents; with ``get_params`` it can be cloned, with ``impute`` it imputes."""

    def fit(self, train: PairedWindows) -> Self:
        """Fit to the training part."""

    def transform(self, paired: PairedWindows) -> xr.DataArray:
        """Latents, (subject, window, latent)."""


def require_paired(paired: object, name: str, where: str) -> None:
    """Refuse what `pair_subjects` did not return.

    Raises
    ------
    TypeError
        Says what was given.
    """
    if not isinstance(paired, PairedWindows):
        raise TypeError(
            f"The {name!r} parameter of {where} must be PairedWindows, as pair_subjects and split "
            f"return them. Got {type(paired).__name__} instead."
        )


def require_trials(paired: PairedWindows, where: str) -> None:
    """Refuse windows that were paired by behavior, where trials of conditions are simulated.

    Raises
    ------
    ValueError
        Says what there is for behavior.
    """
    if paired.behavior is not None:
        raise ValueError(
            f"{where} simulates trials of conditions, and these windows of a session were paired "
            "by behavior: they are no trials. decoding has a null that keeps their time."
        )


def require_split(train: object, test: object, where: str) -> None:
    """Refuse what are not two parts of one split.

    Raises
    ------
    TypeError
        If one of them is no `PairedWindows`.
    ValueError
        If they are of other subjects, or paired by another column.
    """
    require_paired(train, "train", where)
    require_paired(test, "test", where)
    assert isinstance(train, PairedWindows)
    assert isinstance(test, PairedWindows)
    for of, ours, theirs in (
        ("subjects", train.subjects, test.subjects),
        ("trials paired by", train.by, test.by),
    ):
        if ours != theirs:
            raise ValueError(
                f"{where}: expected both parts of one split, got {of} {ours!r} in train and "
                f"{theirs!r} in test. Split one pairing: train, test = paired.split()."
            )


def require_models(
    models: object, name: str, where: str, methods: Collection[str], taken: Collection[str] = ()
) -> None:
    """Refuse what does not map names to estimators with these methods.

    Raises
    ------
    TypeError
        If it is no mapping, or what it holds are no estimators.
    ValueError
        If a name is empty or in use.
    """
    if not isinstance(models, Mapping):
        raise TypeError(
            f"The {name!r} parameter of {where} must map names to models, as in "
            f"{{'mine': SharedLatentModel()}}. Got {type(models).__name__} instead."
        )
    for key, model in models.items():
        require(
            isinstance(key, str) and key != "" and key not in taken,
            name, where, f"a mapping of which no name is empty or among {sorted(taken)}", key,
        )  # fmt: skip
        lacks = [method for method in methods if not callable(getattr(model, method, None))]
        if isinstance(model, type) or lacks:
            got = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
            why = f", which has no {', '.join(lacks)}" if lacks else "; make one of it first"
            raise TypeError(
                f"{name} of {where}: expected a model such as SharedLatentModel() under {key!r}, "
                f"got {got}{why}."
            )


def require_executor(executor: object, where: str) -> None:
    """Refuse what nothing can be submitted to, even where nothing would be.

    Raises
    ------
    TypeError
        Says what was given.
    """
    if not (executor is None or isinstance(executor, int | Executor)):
        raise TypeError(
            f"The 'executor' parameter of {where} must be None, a number of processes, a Dask "
            "client or an object with submit(function, *arguments). "
            f"Got {type(executor).__name__} instead."
        )
    if isinstance(executor, int):
        require_whole(executor, "executor", where, -MOST)


def require_fitted(models: Mapping[str, object], where: str) -> None:
    """Refuse estimators of scikit-learn's kind that have learned nothing.

    Raises
    ------
    NotFittedError
        Names the first.
    """
    for name, model in models.items():
        if not isinstance(model, BaseEstimator):
            continue
        if not any(key.endswith("_") and not key.startswith("__") for key in vars(model)):
            raise NotFittedError(
                f"fitted of {where}: expected a model that was fitted to train under {name!r}, got "
                f"one that was not. Fit it first, or give it under models."
            )
