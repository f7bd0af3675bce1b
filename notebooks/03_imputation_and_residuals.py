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
# How much of a rat's spiking do the other rats predict, and what is left that is its
# own?

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
# ## Expected spikes of one rat from the others
#
# `impute` encodes the sources' windows and decodes the codes with the target's decoder:
# expected counts per bin. Averaged over held-out trials, with what the target really
# did:

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
# Bits per spike above the training mean rate, for every source and target, and for all
# others together. The PSTH of the target's own training trials stands beside them: as
# the rats were not recorded together, nothing but odor and time can be predicted, and a
# good PSTH is about the ceiling.

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
# Coherence asks the same in words of the experiment: a classifier of odor, trained on
# the target's real windows, labels the imputed ones.

# %%
ns.plot_imputation(scores, "coherence")
plt.show()

# %% [markdown]
# ## Three parts of the variance
#
# `residuals` parts every unit's variance on held-out trials: *shared*, which the other
# rats predict; *noise*, what Poisson spikes of a known rate would have anyway;
# *specific*, the rest: rate changes of this animal that the others know nothing of.

# %%
parts = ns.residuals(model, test, train, n_permutations=199)
ns.plot_residuals(parts)
plt.show()

# %% [markdown]
# The rats are simulated, so we know the truth. Estimates of single units are noisy and
# may fall below zero; they are not clipped, because clipping would bias their mean.

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
# Do the residuals still know the odor? If the others predicted all of it, only chance
# (0.25) would be left, with a large p. In these simulated rats nothing private tells
# the odor, so a small p means that the model missed part of what is shared. In real
# animals it may also be news: this one knows more than the others can say.

# %%
left = parts[["information_activity", "information_residual", "p_information_residual"]]
left.sel(level="trial").to_dataframe().drop(columns="level").round(3)

# %% [markdown]
# ## Who departs from the group, and when
#
# The divergence of each rat's latents from the mixture of the others', over time, with
# what half of its own trials gives against the other half (dotted). A rat departs where
# its line is above its dotted one; here none does.

# %%
ns.plot_departure(ns.departure(model.transform(test)))
plt.show()
