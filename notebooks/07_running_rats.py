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
# # Rats that run: pair and decode by position
#
# Many experiments have no trials of one length and no conditions, but animals that
# move. This tutorial pairs three simulated rats by where they are on a track, and asks
# whether the position of one rat can be read from its spikes with what was learned from
# the others.

# %%
import matplotlib.pyplot as plt
import pandas as pd

import neuroshare as ns

# %% [markdown]
# ## Sessions and their behavior
#
# The rats run to and fro on a track of 2 m, in laps of unequal length. Two thirds of
# the units are place cells, with fields of their own in each direction. What was
# measured beside the spikes is in `session.behavior`, each series on its own clock.
# `read_nwb` fills it from `processing/behavior` of a file, and `neuroshare inspect`
# shows its range and its gaps.

# %%
rats = ns.simulate_sessions({"anna": 60, "berta": 50, "clara": 70}, running=300)
rats["anna"].behavior

# %%
laps = rats["anna"].trials
laps.assign(duration=laps.stop_time - laps.start_time).head()

# %% [markdown]
# ## Windows of laps
#
# With `span=None` the laps are cut into windows that follow each other, and the
# behavior is interpolated to their bins. Windows in gaps of the behavior would be left
# out, with a warning. The whole session is cut if `epochs` is left out.

# %%
counts = {
    name: ns.bin_spikes(
        rat, span=None, epochs="trials", width=0.2, bin_size=0.02,
        behavior=["position", "speed"],
    )
    for name, rat in rats.items()
}  # fmt: skip
counts["anna"]

# %% [markdown]
# ## Pair windows of like behavior
#
# Partners are windows in which two rats were at about the same place and ran in the
# same direction. `bandwidth` is a share of the range: here windows of a pair lie within
# 5 % of the track of a common place. Partners are drawn anew before each epoch of a
# fit. Nothing about time or speed is shared by a pair.
#
# The split holds out whole stretches of each session, with a gap beside them:
# neighbouring windows are almost the same, and must not be in both parts.

# %%
paired = ns.pair_subjects(counts, by=["position", "direction"], bandwidth=0.05)
train, test = paired.split(test_fraction=0.25, seed=0)
print(paired)
print(train.report()[0])

# %% [markdown]
# ## Fit and decode
#
# The model chooses its latents on inner folds, by how well position and direction are
# decoded from them within a rat and across rats. `decoding` then uses the nearest
# training windows of a source rat to say where a target rat is in its held-out windows.

# %%
model = ns.SharedLatentModel(progress=False).fit(train)
latents = model.transform(train), model.transform(test)
scores = ns.decoding(*latents, of=["position", "speed"], seed=0)
pd.DataFrame(
    {
        kind: scores[f"mean_median_error_{kind}"].to_series()
        for kind in ("own", "cross", "pooled")
    }
)

# %% [markdown]
# Errors are in the unit of each behavior. The position of a rat is found from the
# latents of another almost as well as from its own. Each p-value comes from moving the
# behavior of the target along its session, on a circle.

# %%
scores[["p_mean_median_error_own", "p_mean_median_error_cross"]].to_dataframe()

# %% [markdown]
# Speed was not paired by, and the simulated cells hardly know it: its R2 is about 0 or
# below, also within a rat. A small p there would say that it is better than the same
# latents with the speed of another time, which is less than to be of any use.

# %%
pd.DataFrame(
    {kind: scores[f"mean_r2_{kind}"].to_series() for kind in ("own", "cross", "pooled")}
)

# %% [markdown]
# What the counts themselves give within each rat is the honest reference: a ridge
# regression, and a Bayesian decoder with the tuning curves of the training windows.

# %%
ns.decode_counts(
    train, test, of="position", n_permutations=0
).mean_median_error.to_series()

# %%
figure, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
ns.plot_latents(latents[1], color="position", ax=axes[0])
ns.plot_decoding(scores, ax=axes[1], variable="position")
# %% [markdown]
# ## Are the latents of two rats one map apart?
#
# `consistency` fits a linear map from the mean latents of one rat to those of another,
# by place, and scores it on held-out windows. The ceiling is the same between two
# halves of one rat's windows, the floor is with places shuffled.

# %%
agreement = ns.consistency(*latents)
figure, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
ns.plot_consistency(agreement, ax=axes[0])
ns.plot_tuning(ns.latent_tuning(latents[1], of="position"), ax=axes[1])
# %% [markdown]
# ## A control
#
# If the behavior of each rat is moved along its session before the pairing, partners
# share nothing. Within a rat position can still be decoded; across rats it cannot.

# %%
broken = train.repair(seed=1, shuffle_conditions=True)
control = ns.LinearAlignment("mcca", latent_dim=8, n_components=40, ridge=0.5).fit(
    broken
)
moved = ns.decoding(control.transform(train), control.transform(test), of="position")
print(
    f"own {float(moved.mean_r2_own):.2f}, cross {float(moved.mean_r2_cross):.2f} (R2)"
)

# %% [markdown]
# ## Several maps
#
# Place cells may have several maps of the same track. A pair that knows only the place
# then holds windows of different maps. Pairing by the map besides needs maps that are
# numbered alike in all animals; here any numbering is as good as another, for their
# cells have nothing to do with each other.

# %%
several = ns.simulate_sessions(
    {"anna": 60, "berta": 50, "clara": 70}, running=300, maps=2
)
counts = {
    name: ns.bin_spikes(
        rat, span=None, epochs="trials", width=0.2, bin_size=0.02, behavior=["position"]
    )
    for name, rat in several.items()
}
linear = ns.LinearAlignment("mcca", latent_dim=8, n_components=40, ridge=0.5)
for by in (["position", "direction"], ["position", "direction", "map"]):
    train, test = ns.pair_subjects(counts, by=by).split(seed=0)
    linear.fit(train)
    found = ns.decoding(linear.transform(train), linear.transform(test), of="position")
    own, cross = (
        float(found.mean_median_error_own),
        float(found.mean_median_error_cross),
    )
    print(f"{', '.join(by)}: own {own:.3f} m, cross {cross:.3f} m")
