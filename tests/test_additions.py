"""Each kind of addition, made from outside the package: the examples of CONTRIBUTING."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

import neuroshare as ns
from neuroshare.windows.pairing import Pairing

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"


class Ring(ns.Objective):
    """Every decoder is fed the code of the next modality around a ring, and of its own."""

    def loss(self, q, observed, log_lik):
        own = q.rsample()
        both = torch.stack([own, own.roll(1, 0)], 1)
        rate = (q.loc.square() + q.scale.square() - 1 - 2 * q.scale.log()).sum(-1) / 2
        return ns.Elbo(log_lik(both).mean(1), (observed * rate).sum(0))


class Geometric(ns.Likelihood):
    """Geometric counts; the decoder gives the log of the expected count."""

    counts = True

    def log_prob(self, output, x):
        total = softplus(output)
        return (x * (output - total) - total).sum(-1)

    def mean(self, output):
        return output.exp()

    def sample(self, output):
        return torch.distributions.Geometric(logits=-output).sample()

    def link(self, mean):
        return mean.clamp_min(1e-4).log()


class Smooth(nn.Module):
    """Convolution over the lags of the window, mean over lags."""

    def __init__(self, n_units, n_lags, n_features):
        super().__init__()
        self.layer = nn.Conv1d(n_units, n_features, kernel_size=3, padding=1)

    def forward(self, x):
        return self.layer(x).relu().mean(-1)


def read_csv(path, subject):
    """Session of a folder with spikes.csv (unit, time) and trials.csv (a row per trial)."""
    spikes = pd.read_csv(path / "spikes.csv")
    trials = pd.read_csv(path / "trials.csv")
    by_unit = {unit: times.to_numpy() for unit, times in spikes.groupby("unit")["time"]}
    return ns.Session(subject, by_unit, trials=trials)


@dataclass(frozen=True)
class InTurn(Pairing):
    """Trials of a condition are paired one to one, those of all but the first subject shifted."""

    redraws = True

    def draw(self, codes, n_conditions, seed):
        rows, conditions = [], []
        for condition in range(n_conditions):
            pools = [np.flatnonzero(code == condition) for code in codes]
            n = min(map(len, pools))
            shifted = [np.roll(pool[:n], seed * (k > 0)) for k, pool in enumerate(pools)]
            rows += np.transpose(shifted).tolist()
            conditions += [condition] * n
        return np.array(rows, np.int64).reshape(-1, len(codes)), np.array(conditions, np.int64)


@pytest.fixture(scope="module")
def sessions():
    return ns.simulate_sessions({"mitt": 8, "stella": 6}, n_trials=8)


@pytest.fixture(scope="module")
def counts(sessions):
    return {name: ns.bin_spikes(session) for name, session in sessions.items()}


def fitted(counts, pairing=None, **settings):
    train, test = ns.pair_subjects(counts, by="odor", step=0.05, pairing=pairing).split(0.25)
    small = {"epochs": 2, "latent_dim": 3, "hidden": (8,), "progress": False}
    model = ns.SharedLatentModel(**small | settings).fit(train)
    assert np.isfinite(model.transform(test)).all()
    assert (model.impute(test, target="mitt") > 0).all()
    return model


def test_an_objective(counts, tmp_path):
    fitted(counts, objective=Ring()).save(tmp_path / "model")
    assert ns.SharedLatentModel.load(tmp_path / "model", objective=Ring()).subjects_


def test_a_likelihood(counts, tmp_path):
    fitted(counts, likelihood=Geometric()).save(tmp_path / "model")
    assert ns.SharedLatentModel.load(tmp_path / "model", likelihood=Geometric()).subjects_


def test_an_encoder(counts, tmp_path):
    fitted(counts, encoder=Smooth).save(tmp_path / "model")
    assert ns.SharedLatentModel.load(tmp_path / "model", encoder=Smooth).subjects_


def test_a_loader(sessions, tmp_path):
    found = {}
    for name, session in sessions.items():
        (folder := tmp_path / name).mkdir()
        spikes = [(u, t) for u, times in enumerate(session.spike_times) for t in times]
        pd.DataFrame(spikes, columns=["unit", "time"]).to_csv(folder / "spikes.csv", index=False)
        session.trials.to_csv(folder / "trials.csv", index=False)
        found[name] = read_csv(folder, name)
        np.testing.assert_array_equal(ns.bin_spikes(found[name]), ns.bin_spikes(session))
    fitted({name: ns.bin_spikes(session) for name, session in found.items()})


def test_a_pairing_rule(counts):
    model = fitted(counts, pairing=InTurn())
    assert model.window_["by"] == "odor"


# An analysis is added in tests/workflow/test_analyses.py.
HERE, ANALYSES = Path(__file__), Path(__file__).parent / "workflow" / "test_analyses.py"


@pytest.mark.parametrize(
    ("addition", "example", "path"),
    [
        ("objective", "Ring", HERE),
        ("likelihood", "Geometric", HERE),
        ("encoder", "Smooth", HERE),
        ("loader", "read_csv", HERE),
        ("pairing rule", "InTurn", HERE),
        ("analysis", "Spread", ANALYSES),
    ],
)
def test_contributing_says_how_many_lines_each_takes(addition, example, path):
    said = re.findall(rf"^\| {addition} \|.*\| (\d+) \|$", CONTRIBUTING.read_text("utf-8"), re.M)
    (found,) = [
        node.end_lineno - node.lineno + 1
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == example
    ]
    assert [int(n) for n in said] == [found]
