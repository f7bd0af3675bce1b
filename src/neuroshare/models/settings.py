"""What a model may be told in plain values: names, help and checks, without torch.

The arguments of `SharedLatentModel` that a file of settings or the command line can give. Their
defaults are those of its constructor. Objectives, likelihoods and schedules are given by name, or
by name and arguments as `saving.settings_as_json` states them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuroshare.support.checks import require, require_one_of, require_whole
from neuroshare.support.setting import (
    Setting,
    number,
    one_of,
    optional,
    or_auto,
    or_object,
    text,
    whole,
)

OBJECTIVE_NAMES = (
    "autoencoder", "avg", "independent", "mmvae_plus", "mmvm", "moe", "mopoe", "poe",
)  # fmt: skip
LIKELIHOOD_NAMES = (
    "bernoulli", "categorical", "gaussian", "laplace", "negative_binomial", "poisson",
)  # fmt: skip


def _hidden(value: Any, name: str, where: str) -> None:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    require(value == "input" or listed, name, where, "'input' or a list of widths", value)
    for width in value if listed else ():
        require_whole(width, name, where, 1)


def _inputs(value: Any, name: str, where: str) -> None:
    if isinstance(value, str):
        require_one_of(value, name, where, ("auto", "pooled", "standard", "raw"))
    else:
        require_whole(value, name, where, 1)


MODEL_SETTINGS = {
    "objective": Setting(
        f"Sharing rule: {', '.join(OBJECTIVE_NAMES)}.",
        or_object(one_of(*OBJECTIVE_NAMES), OBJECTIVE_NAMES),
        str,
    ),
    "likelihood": Setting(
        "Such as poisson or gaussian.",
        or_object(one_of(*LIKELIHOOD_NAMES), LIKELIHOOD_NAMES),
        str,
    ),
    "latent_dim": Setting("Number of shared latents; chosen by default.", or_auto(whole(1)), int),
    "hidden": Setting("Widths of the hidden layers, or 'input'.", _hidden),
    "beta": Setting("Weight of the rate term.", or_object(number(0), ("schedule",)), float),
    "epochs": Setting(
        "Passes over the training windows; by default steps are chosen.",
        or_auto(whole(0, 10**9)),
        int,
    ),
    "batch_size": Setting("Windows of a batch.", whole(1)),
    "lr": Setting("Learning rate.", number(0, open_=True)),
    "weight_decay": Setting("Weight decay.", number(0)),
    "init": Setting("Where encoders start.", one_of("auto", "mcca", "procrustes", "srm", "random")),
    "inputs": Setting("What encoders see.", _inputs),
    "dropout": Setting("Share of units hidden from the encoders.", number(0, 1)),
    "patience": Setting("Epochs without improvement.", optional(whole(1, 10**9))),
    "precision": Setting("Of matrix products.", one_of("fp32", "tf32", "bf16")),
    "device": Setting("Such as cpu or cuda.", text),
}
"""Name -> setting, of all that is not given by the run itself (subjects, seed, progress)."""
