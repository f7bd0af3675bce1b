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
# # An objective of your own, in ten lines
#
# Methods of this family differ in two things: which code $z$ each decoder is fed, and
# what the code costs, the rate. So a new one is one small class. As an example: every
# rat keeps its own code, as in the MMVM, and the prior of its code is a normal of width
# 1 around the mean of all rats' codes.

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
# - `q` holds the posteriors of all rats as one Normal (modality, sample, latent); a
#   modality is a subject.
# - `observed` (modality, sample) says who is present; the absent must cost nothing.
# - `log_lik` decodes: from `z` (modality, draw, sample, latent) it gives the
#   log-likelihood of every rat's spikes. An objective never sees decoders, spikes or
#   rats.
# - `latents` says what each decoder is fed in the end. Without it, that is the mean of
#   the mixture of all rats.
#
# Gradients, absent rats, imputation, scores and saving are the package's business.
# Against rats that share nothing, from the same random start:

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
# The same object goes into `ns.sweep`, and a model with it into `ns.compare`. A saved
# model is loaded with `ns.SharedLatentModel.load(path, objective=AroundTheMean())`: no
# code is read from the file. How to add a rule to the package itself is told in the
# contribution guide.
