"""Many models fitted to the same windows at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from neuroshare.models.choice import is_auto
from neuroshare.models.device_windows import ResidentWindows
from neuroshare.models.shared import SharedLatentModel
from neuroshare.support.checks import require, require_seed
from neuroshare.vae.stacked import fit_many
from neuroshare.windows.paired import PairedWindows

_COMMON = ("subjects", "epochs", "batch_size", "lr", "weight_decay", "precision", "device")


def fit_together(
    models: Sequence[SharedLatentModel],
    train: PairedWindows,
    *,
    seed: int = 0,
    progress: bool = True,
) -> list[ValueError | None]:
    """Fit many models to the same windows at once, for a GPU that one model leaves idle.

    Parameters
    ----------
    models
        They may differ in objective, beta, networks and seed, that is of their start; see
        `fit_many` for which are computed as one. Encoders of one's own are not among them.
    train
        As in `SharedLatentModel.fit`.
    seed
        Of batches, partners and noise of all models together.
    progress
        Show a progress bar.

    Returns
    -------
    list
        For each model None, or why it could not be fitted.

    Raises
    ------
    ValueError
        If models differ in what all have in common: subjects, epochs, batch_size, lr, weight_decay,
        precision or device.
    """
    listed = isinstance(models, Sequence) and len(models) > 0
    require(
        listed and all(isinstance(model, SharedLatentModel) for model in models),
        "models", "fit_together", "a list of SharedLatentModel", models,
    )  # fmt: skip
    require_seed(seed, "fit_together")
    first = models[0]
    for name in _COMMON:
        different = [getattr(m, name) for m in models if getattr(m, name) != getattr(first, name)]
        if different:
            raise ValueError(
                f"models that are fitted together need the same '{name}'. "
                f"Got {getattr(first, name)!r} and {different[0]!r}."
            )
    failures: list[ValueError | None] = [None] * len(models)
    begun = {}
    for position, model in enumerate(models):
        try:
            if is_auto(model.epochs):
                raise ValueError(
                    "models that are fitted together train for as long as each other. Give epochs."
                )
            start, choice = model._prepared(train)
            if start.has_own_encoders:
                raise ValueError(
                    "models with an encoder of one's own cannot be computed as one with others. "
                    "Fit them one by one, with fit."
                )
            begun[position] = (start, choice)
        except ValueError as error:
            failures[position] = error
    if not begun:
        return failures
    windows = ResidentWindows(next(iter(begun.values()))[0].train, first._device())
    training = first._training(next(iter(begun.values()))[1], len(windows))
    histories = fit_many(
        [start.vae for start, _ in begun.values()],
        windows,
        replace(training, seed=seed, progress=progress),
        betas=[models[position].beta for position in begun],
    )
    for (position, (start, choice)), history in zip(begun.items(), histories, strict=True):
        try:
            history.check_finite()
            models[position]._keep(start, windows, history, choice)
        except ValueError as error:
            failures[position] = error
    return failures
