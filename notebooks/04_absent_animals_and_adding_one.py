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
# # Absent subjects, and adding a subject
#
# Real data sets are incomplete. One rat never met one odor, another left the experiment
# early, and a fourth is recorded after the model was fitted.

# %%
import tempfile

import matplotlib.pyplot as plt
import numpy as np

import neuroshare as ns

sizes = {"mitt": 60, "stella": 40, "barat": 50, "buchanan": 45}
sessions = ns.simulate_sessions(sizes, n_trials=40, seed=2, signal=1.5)
counts = {
    name: ns.bin_spikes(session, span=(0.0, 0.4)) for name, session in sessions.items()
}

# %% [markdown]
# ## A rat without one odor
#
# Stella never smelled odor D, and Barat stopped after a third of his trials. By default
# a missing condition is an error, because it is often a mistake. `allow_missing=True`
# allows it.

# %%
ragged = {name: counts[name] for name in ("mitt", "stella", "barat")}
ragged["stella"] = ragged["stella"].sel(trial=ragged["stella"]["odor"] != "D")
ragged["barat"] = ragged["barat"].isel(trial=slice(0, 55))

try:
    ns.pair_subjects(ragged, by="odor")
except ValueError as error:
    print(error)

# %%
paired = ns.pair_subjects(ragged, by="odor", allow_missing=True)
paired.report()

# %% [markdown]
# Absent subjects contribute no likelihood, no rate term and no gradient. In results
# they are NaN:

# %%
train, test = paired.split(test_fraction=0.25, seed=0)
model = ns.SharedLatentModel(progress=False).fit(train)
latents = model.transform(test)
absent = latents.isnull().all("latent").groupby("odor").mean()
absent.to_pandas()

# %% [markdown]
# Scores use the available data. Classifiers fitted on Stella do not know odor D, so
# they are scored on the other three odors. `n_conditions` gives the number of
# conditions for each pair.

# %%
scores = ns.separation(model.transform(train), latents)
ns.plot_separation(scores)
plt.show()
scores["n_conditions"].to_pandas()

# %% [markdown]
# How would Stella have responded to odor D? The other rats predict it as far as their
# responses are shared:

# %%
at_d = (test["mitt"]["odor"] == "D").values
imagined = model.impute(test, target="stella").isel(window=at_d)
never_seen = model.transform(test).sel(subject="stella").isel(window=at_d)
print(f"{imagined.sizes['window']} windows of expected counts")
print(f"her own latents there: {np.unique(never_seen)}")

# %% [markdown]
# ## A rat that is recorded later
#
# Buchanan is recorded after the model has been fitted and saved. `add_subject` fits an
# encoder and a decoder for him while the others stay frozen. Their parameters do not
# change by a single bit.

# %%
folder = tempfile.mkdtemp()
model.save(f"{folder}/three_rats")
grown = ns.SharedLatentModel.load(f"{folder}/three_rats").set_params(progress=False)

four = {**ragged, "buchanan": counts["buchanan"]}
train_4, test_4 = ns.pair_subjects(four, by="odor", allow_missing=True).split(
    0.25, seed=0
)
grown.add_subject("buchanan", train_4)

same = np.array_equal(grown.transform(test).values, latents.values, equal_nan=True)
print(f"latents of the first three unchanged: {same}")

# %% [markdown]
# The split of a subject depends only on the seed and its name, so the held-out trials
# of the first three rats are still trials that the model has never seen. Buchanan is in
# the same latent space: classifiers fitted on the others decode his odors, and a
# classifier fitted on him decodes theirs.

# %%
joined = ns.separation(grown.transform(train_4), grown.transform(test_4))
ns.plot_separation(joined)
plt.show()
