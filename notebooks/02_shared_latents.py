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
# # Shared latents
#
# Fit one latent space to three rats, plot it, and test on held-out trials whether it is
# shared.

# %%
import matplotlib.pyplot as plt
import xarray as xr

import neuroshare as ns

sessions = ns.simulate_sessions({"mitt": 60, "stella": 40, "barat": 50}, seed=1)
counts = {
    name: ns.bin_spikes(session, span=(0.0, 0.4)) for name, session in sessions.items()
}
train, test = ns.pair_subjects(counts, by="odor").split(test_fraction=0.25, seed=0)
train

# %% [markdown]
# ## Two latents
#
# Every rat has its own encoder and decoder. `transform` computes the posterior means of
# each rat from its own spikes only. If the rats agree in these latents, the agreement
# does not come from one rat's spikes being used for another.

# %%
flat = ns.SharedLatentModel(latent_dim=2, progress=False).fit(train)
latents = flat.transform(test)
latents.sizes

# %%
for color in ("condition", "subject", "time"):
    ns.plot_latents(latents, color=color)
    plt.show()

# %% [markdown]
# Points are held-out windows. Lines are the means of each odor over time and begin at
# the dot. Coloured by condition, the odors separate. Coloured by subject, the rats
# follow similar paths. Coloured by time, all paths start together, because the response
# to the odor begins after about 80 ms.
#
# ## Four latents
#
# The default model has four latents. With more than two, `plot_latents` shows the axes
# on which the mean paths differ most. Here these axes are fitted to the training part,
# which is named by the coordinate `part`.

# %%
model = ns.SharedLatentModel(progress=False).fit(train)


def latents_of(windows, part):
    latents = model.transform(windows)
    return latents.assign_coords(part=("window", [part] * latents.sizes["window"]))


both = xr.concat([latents_of(train, "train"), latents_of(test, "test")], dim="window")
ns.plot_latents(both)
plt.show()

# %% [markdown]
# A UMAP can be fitted to the training windows; the held-out windows are then placed in
# it. Every fifth window is enough. Distances in a UMAP are not distances between
# latents, so use it for figures and compute scores from the latents.

# %%
some = both.isel(window=both["start"] % 5 == 0)
placed = ns.embed(some, method="umap", fit_on="train")
ns.plot_latents(placed)
plt.show()

# %% [markdown]
# ## Is it shared?
#
# `separation` fits a classifier of the odor to the training windows of one rat and
# scores it on the held-out trials of every rat: *own* accuracy where both are the same
# rat (framed), *cross* accuracy where they differ. Only cross accuracy shows that the
# latent space is shared. Accuracies are balanced. The level `trial` sums the evidence
# of all windows of a trial.

# %%
scores = ns.separation(
    model.transform(train), model.transform(test), n_permutations=499
)
ns.plot_separation(scores)
plt.show()

# %% [markdown]
# The p-values are computed by permuting the odors between whole held-out trials within
# each rat. The null distribution is returned as well:

# %%
cross = scores["mean_cross"].sel(level="trial").item()
null = scores["null_mean_cross"].sel(level="trial")
low, high = scores["mean_cross_interval"].sel(level="trial").values
figure, ax = plt.subplots(figsize=(5, 2.8))
ax.hist(null, bins=25, color="#BBBBBB", label="odors permuted")
ax.axvspan(low, high, color="#0072B2", alpha=0.2, lw=0, label="95 % interval")
ax.axvline(cross, color="#0072B2", label="measured")
ax.axvline(scores["chance"], color="#777777", ls=":", label="chance")
ax.set(xlabel="mean cross accuracy per trial", ylabel="permutations")
ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

p = scores["p_mean_cross"].sel(level="trial").item()
print(f"cross {cross:.2f} [{low:.2f}, {high:.2f}], p = {p:.3f}")

# %% [markdown]
# These p-values are about trials. For a statement about rats, three are few:

# %%
scores.attrs["statement"]

# %% [markdown]
# The strictest null repeats the whole analysis on pairs without information: the odors
# are shuffled between the trials of each rat, then pairing, fit and scores follow as
# before. One repetition is shown here. `ns.compare(..., n_repairings=19)` computes a
# p-value from 19 of them.

# %%
nothing = [part.repair(seed=1, shuffle_conditions=True) for part in (train, test)]
refitted = ns.SharedLatentModel(progress=False).fit(nothing[0])
shuffled = ns.separation(*map(refitted.transform, nothing))
print(
    f"cross without information: {shuffled['mean_cross'].sel(level='trial').item():.2f}"
)

# %% [markdown]
# ## Against linear alignment
#
# Is a neural network necessary? `compare` scores linear methods on the same split in
# the same table. On these easy simulated rats, linear alignment is hard to beat.

# %%
table = ns.compare(train, test, fitted={"mmvm": model}, imputation=False)
ns.plot_comparison(table)
plt.show()
