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
# # Imputation and residuals
#
# How much of a rat's spiking do the other rats predict, and how much is specific to the
# rat?

# %%
import matplotlib.pyplot as plt
import numpy as np

import neuroshare as ns

sessions, truth = ns.simulate_sessions(
    {"mitt": 60, "stella": 40, "barat": 50}, seed=1, return_truth=True
)
counts = {
    name: ns.bin_spikes(session, span=(0.0, 0.4)) for name, session in sessions.items()
}
train, test = ns.pair_subjects(counts, by="odor").split(test_fraction=0.25, seed=0)
model = ns.SharedLatentModel(progress=False).fit(train)

# %% [markdown]
# ## Expected spikes of one rat, predicted from the others
#
# `impute` encodes the windows of the source rats and decodes the latents with the
# decoder of the target rat. The result is expected counts per bin. Here they are
# averaged over held-out trials and plotted with the recorded activity of the target:

# %%
expected = model.impute(test, target="barat") / 0.01
actual = test["barat"] / 0.01
by_odor = [
    rates.mean("lag").groupby(["odor", "time"]).mean() for rates in (actual, expected)
]
unit = int(by_odor[0].var(("odor", "time")).idxmax())

figure, axes = plt.subplots(
    1, 4, figsize=(9, 2.6), sharey=True, sharex=True, layout="constrained"
)
for ax, odor in zip(axes, by_odor[0]["odor"].values, strict=True):
    for rates, label, style in zip(
        by_odor, ("held-out trials", "from others"), "-:", strict=True
    ):
        one = rates.sel(odor=odor, unit=unit)
        ax.plot(one["time"], one, style, color="#0072B2", lw=2, label=label)
    ax.set(title=f"odor {odor}", xlabel="time (s)")
axes[0].set(ylabel=f"rate of unit {unit} (Hz)", ylim=(0, None))
axes[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# ## Scores
#
# Bits per spike above the training mean rate, for every pair of source and target and
# for all other rats together. The PSTH of the target's own training trials is shown for
# comparison. The rats were not recorded simultaneously, so only the effects of odor and
# time can be predicted, and a good PSTH is approximately the ceiling.

# %%
scores = ns.imputation_scores(model, train, test, n_bootstraps=200)
ns.plot_imputation(scores)
plt.show()

# %%
bits = scores[["bits_per_spike", "above_psth"]].sel(source="all others")
bits.assign(psth=scores["bits_per_spike_psth"]).to_dataframe().drop(
    columns="source"
).round(3)

# %% [markdown]
# Coherence measures whether imputed activity carries the right odor: a classifier of
# the odor, trained on real windows of the target, labels the imputed windows.

# %%
ns.plot_imputation(scores, "coherence")
plt.show()

# %% [markdown]
# ## Three parts of the variance
#
# `residuals` splits the variance of every unit on held-out trials into three parts.
# *Shared* variance is predicted by the other rats. *Noise* is the variance of a Poisson
# process with known rate. *Specific* variance is the rest: rate changes of this rat
# that the others do not predict.

# %%
parts = ns.residuals(model, test, train, n_permutations=199)
ns.plot_residuals(parts)
plt.show()

# %% [markdown]
# The rats are simulated, so the true values are known. Estimates of single units are
# noisy and may be negative. They are not clipped, because clipping would bias their
# mean.

# %%
true = np.concatenate(
    [truth[name]["variance_share"].sel(part="shared") for name in test.subjects]
)
figure, ax = plt.subplots(figsize=(4, 4))
for subject, color in zip(
    test.subjects, ("#0072B2", "#E69F00", "#009E73"), strict=True
):
    own = (parts["unit_subject"] == subject).values
    ax.scatter(
        true[own],
        parts["share_unit"].sel(part="shared")[own],
        s=12,
        color=color,
        label=subject,
    )
ax.axline((0, 0), slope=1, color="#777777", lw=1, ls=":")
ax.set(xlabel="shared share of variance, truth", ylabel="estimated on held-out trials")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# Do the residuals still contain information on the odor? If the other rats predicted
# all of it, decoding would be at chance (0.25), with a large p-value. In these
# simulated rats no private activity depends on the odor, so a small p-value means that
# the model missed a part of what is shared. In real data it may also mean that a
# subject carries more information on the odor than the others.

# %%
left = parts[["information_activity", "information_residual", "p_information_residual"]]
left.sel(level="trial").to_dataframe().drop(columns="level").round(3)

# %% [markdown]
# ## Which rat departs from the group, and when
#
# The plot shows the divergence of each rat's latents from the mixture of the others
# over time, and the same divergence between two halves of its own trials for reference
# (dotted). A rat departs from the group where its line is above its dotted line. Here
# none does.

# %%
ns.plot_departure(ns.departure(model.transform(test)))
plt.show()
