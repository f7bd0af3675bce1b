# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A custom objective in ten lines
#
# Objectives of this family differ in only two respects: the latents $z$ that each
# decoder receives, and the rate term. A new objective is therefore one small class. In
# this example every rat keeps its own latents, as in the MMVM, and their prior is a
# normal distribution of standard deviation 1 around the mean of the latents of all
# rats.

# %%
import torch
from torch.distributions import Normal, kl_divergence

import neuroshare as ns


class AroundTheMean(ns.Objective):
    def loss(self, q, observed, log_lik):
        present = observed.unsqueeze(-1).float()
        mean = (present * q.loc).sum(0) / present.sum(0)
        rate = kl_divergence(q, Normal(mean, 1.0)).sum(-1)
        fit = log_lik(q.rsample().unsqueeze(1)).squeeze(1)
        return ns.Elbo(fit, torch.where(observed, rate, 0.0).sum(0))

    def latents(self, q, observed):
        return q.loc


# %% [markdown]
# - `q` contains the posteriors of all rats as one Normal (modality, sample, latent); a
#   modality is a subject.
# - `observed` (modality, sample) marks the rats that are present. Absent ones must not
#   contribute to the loss.
# - `log_lik` decodes: from `z` (modality, draw, sample, latent) it computes the
#   log-likelihood of the spikes of every rat. An objective has no other access to
#   decoders or data.
# - `latents` returns the latents that each decoder receives after training. By default
#   this is the mean of the mixture of all rats.
#
# Gradients, absent rats, imputation, scores and saving need no further code. Compare it
# with rats that are not coupled, from the same random initialisation:

# %%
sessions = ns.simulate_sessions(
    {"mitt": 40, "stella": 30, "barat": 35}, n_trials=40, seed=3, signal=1.5
)
counts = {
    name: ns.bin_spikes(session, span=(0.0, 0.4)) for name, session in sessions.items()
}
train, test = ns.pair_subjects(counts, by="odor", step=0.05).split(
    test_fraction=0.25, seed=0
)

settings = {"init": "random", "latent_dim": 3, "beta": 3.0, "dropout": 0.0}
settings |= {"epochs": 100, "lr": 2e-3, "batch_size": 128, "progress": False}
for objective in ("independent", AroundTheMean()):
    model = ns.SharedLatentModel(objective=objective, **settings).fit(train)
    scores = ns.separation(model.transform(train), model.transform(test))
    own, cross = (
        scores[name].sel(level="trial") for name in ("mean_own", "mean_cross")
    )
    print(f"own {own:.2f}, cross {cross:.2f} with {objective}")

# %% [markdown]
# The same object can be passed to `ns.sweep`, and a model with it to `ns.compare`. To
# load a saved model, use `ns.SharedLatentModel.load(path, objective=AroundTheMean())`;
# no code is read from the file. The contribution guide explains how to add an objective
# to the package itself.
