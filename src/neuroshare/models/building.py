"""The networks of a model, built in one place: for fitting, for a new subject and for loading."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from neuroshare.models.inputs import Inputs
from neuroshare.models.starts import Starts, SubjectStart
from neuroshare.support.checks import require, require_whole
from neuroshare.vae.likelihoods import Likelihood, make_likelihood
from neuroshare.vae.multimodal import MultimodalVAE
from neuroshare.vae.networks import Decoder, Encoder
from neuroshare.vae.objectives import MMVM, Objective, make_objective
from neuroshare.vae.objectives.mmvm import FOLLOWED

Hidden = Sequence[int] | Literal["input"]
OwnEncoder = Callable[[int, int, int], nn.Module]
"""``f(n_units, n_lags, n_features)``: a module from (sample, unit, lag) to (sample, n_features)."""

MMVM_RECIPE: Mapping[str, object] = {"cross": 0.8, "combine": "mean"}
"""What ``objective="mmvm"`` adds to the rule of the paper, which is ``objective=MMVM()``."""
CONTRAST: Mapping[str, object] = {"contrast": 1.0, "temperature": 0.3, "follow": True}
"""And what it trains by, where it trains at all."""


@dataclass(frozen=True)
class Subject:
    """Settings of one subject where they differ from the model's; None keeps the model's.

    Parameters
    ----------
    hidden
        Widths of the hidden layers, or ``"input"``.
    likelihood
        Observation model.
    encoder
        A network of your own, see `SharedLatentModel`.
    """

    hidden: Hidden | None = None
    likelihood: str | Likelihood | None = None
    encoder: OwnEncoder | None = None

    def check(self, who: str) -> None:
        """Refuse what no network can have.

        Raises
        ------
        ValueError
            Names the setting, what was expected and what was given.
        """
        if self.likelihood is not None:
            make_likelihood(self.likelihood)
        if self.hidden is not None and not (
            isinstance(self.hidden, str) and self.hidden == "input"
        ):
            listed = isinstance(self.hidden, Sequence | np.ndarray)
            listed = listed and not isinstance(self.hidden, str | bytes)
            require(listed, "hidden", who, "'input' or a list of widths", self.hidden)
            for width in self.hidden:
                require_whole(width, "hidden", who, 1)
        require(
            self.encoder is None
            or (callable(self.encoder) and not isinstance(self.encoder, nn.Module)),
            "encoder", who,
            "None or a function (n_units, n_lags, n_features) that makes a torch module",
            self.encoder,
        )  # fmt: skip


def resolved(objective: str | Objective, *, trains: bool = True) -> Objective:
    """Objective by name, with the recipe of ``"mmvm"``; or the object itself."""
    if isinstance(objective, str) and objective == "mmvm":
        recipe = {**MMVM_RECIPE, **(CONTRAST if trains else {})}
        return MMVM(**recipe)  # type: ignore[arg-type]
    return make_objective(objective)


@dataclass(frozen=True)
class Architecture:
    """All that decides which networks a model has.

    Parameters
    ----------
    latent_dim
        Number of shared latents.
    objective
        The sharing rule.
    inputs
        What encoders see.
    linear
        Whether encoders and decoders have a linear map beside them, at which they start.
    common
        Settings of the subjects that have no own; `hidden` and `likelihood` are not None.
    own
        Subject name -> settings where they differ.
    """

    latent_dim: int
    objective: Objective
    inputs: Inputs
    linear: bool
    common: Subject
    own: Mapping[str, Subject] = field(default_factory=dict)

    def of(self, name: str) -> Subject:
        """Settings of one subject."""
        own = self.own.get(name, Subject())
        return Subject(
            *(
                getattr(self.common, part) if getattr(own, part) is None else getattr(own, part)
                for part in ("hidden", "likelihood", "encoder")
            )
        )

    def likelihood(self, name: str) -> Likelihood:
        """Observation model of one subject, of no size yet."""
        return make_likelihood(cast("str | Likelihood", self.of(name).likelihood))

    def with_own(self, name: str, settings: Subject) -> Architecture:
        """Give the same with settings of one more subject."""
        return replace(self, own={**self.own, name: settings})

    def hidden(self, name: str, n_features: int) -> tuple[int, ...]:
        """Widths of the hidden layers of one subject's encoder."""
        given = cast(Hidden, self.of(name).hidden)
        if isinstance(given, str):
            return (n_features, n_features)
        return tuple(int(width) for width in given)

    def widths(self, units: Mapping[str, Sequence[object]], n_lags: int) -> set[int]:
        """Widths of the layers between the activity and the latents, of all subjects."""
        widths = {self.latent_dim + self.objective.private_dim}
        return widths.union(*(self.hidden(name, len(ids) * n_lags) for name, ids in units.items()))

    def build(self, units: Mapping[str, NDArray[np.generic]], n_lags: int) -> MultimodalVAE:
        """Networks of the right shapes for subject name -> units, drawn by torch's generator.

        Raises
        ------
        ValueError
            If an encoder of one's own does not give what it should.
        """
        objective = copy.deepcopy(self.objective)
        n_latents = self.latent_dim + objective.private_dim
        objective.build(len(units), n_latents)
        encoders, decoders, likelihoods = [], [], []
        for name, ids in units.items():
            settings, likelihood = self.of(name), self.likelihood(name)
            n_units, n_inputs = len(ids), len(ids) * n_lags
            hidden = self.hidden(name, n_inputs)
            body, layers = None, hidden
            if settings.encoder is not None:
                n_features = hidden[-1] if hidden else n_latents
                body = _own_body(settings.encoder, name, n_units, n_lags, n_features)
                layers = (n_features,)
            encoders.append(
                self.inputs.encoder(
                    n_units,
                    n_lags,
                    n_latents,
                    layers,
                    likelihood,
                    linear=self.linear,
                    bottleneck=isinstance(settings.hidden, str) and body is None,
                    body=body,
                )
            )
            decoders.append(
                Decoder(
                    n_latents,
                    n_inputs,
                    hidden[::-1],
                    linear=self.linear,
                    n_units=n_units if self.inputs.pooled else None,
                    n_groups=self.inputs.n_parts(n_lags),
                )
            )
            likelihoods.append(likelihood.sized(n_inputs))
        return MultimodalVAE(encoders, decoders, likelihoods, objective)


def begin(vae: MultimodalVAE, names: Sequence[str], starts: Starts) -> None:
    """Let the networks of all subjects begin where the training windows say."""
    for modality, name in enumerate(names):
        begin_subject(vae, modality, starts.subjects[name])
    if starts.gains is not None and isinstance(vae.objective, MMVM):
        vae.objective.set_gain(*starts.gains)


def begin_subject(vae: MultimodalVAE, modality: int, start: SubjectStart) -> None:
    """Let the networks of one subject begin there."""
    encoder = cast(Encoder, vae.encoders[modality])
    decoder = cast(Decoder, vae.decoders[modality])
    likelihood = cast(Likelihood, vae.likelihoods[modality])
    if encoder.standardise:
        encoder.set_standard(start.loc, start.scale)
        if start.lags is not None:
            encoder.set_lags(*start.lags)
    if likelihood.counts or encoder.standardise:  # raw inputs of other activity are the paper's
        decoder.start_at(likelihood.link(start.rate))
    if start.weights is not None and start.bias is not None:
        encoder.start_from(start.weights, start.bias, scale=FOLLOWED)
    if start.readout is not None:
        decoder.start_from(start.readout)


def copy_into(grown: MultimodalVAE, fitted: MultimodalVAE) -> None:
    """Give a model of more subjects the weights of one of fewer; the new ones stay as they are."""
    state = grown.state_dict()
    for name, value in fitted.state_dict().items():
        if state[name].shape == value.shape:
            state[name].copy_(value)
        else:  # what an objective learns for each modality
            state[name][: len(value)].copy_(value)


def _own_body(make: OwnEncoder, name: str, n_units: int, n_lags: int, n_features: int) -> nn.Module:
    """Make a user's network for one subject, and see that it gives what it should."""
    where = f"encoder of subject {name!r}: expected"
    body = make(n_units, n_lags, n_features)
    if not isinstance(body, nn.Module):
        raise ValueError(
            f"{where} a torch module of encoder({n_units}, {n_lags}, {n_features}), got "
            f"{type(body).__name__}. Return a torch.nn.Module."
        )
    sample = torch.zeros(2, n_units, n_lags)
    try:
        with torch.no_grad():
            found = body.eval()(sample)
    # What a network of somebody else raises is not known.
    except Exception as error:
        raise ValueError(
            f"{where} a network of inputs (sample, {n_units} units, {n_lags} lags), but it fails "
            f"on them ({type(error).__name__}: {' '.join(str(error).split())[:200]})."
        ) from error
    body.train()
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
    if shape != (2, n_features):
        raise ValueError(
            f"{where} features (sample, {n_features}) of inputs (sample, {n_units} units, {n_lags} "
            f"lags), got {shape} for 2 samples."
        )
    return body
