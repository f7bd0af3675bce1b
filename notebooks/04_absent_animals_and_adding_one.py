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
# # Absent animals, and adding one
#
# Real groups are ragged: a rat never met one odor, another died half-way, a fourth is
# recorded when the model is already fitted.

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
# ## A rat without an odor
#
# Stella never smelled odor D, and Barat left after a third of his trials. By default a
# missing condition is an error, since it is often a mistake; `allow_missing=True` says
# that it is not.

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
# Absent subjects contribute no likelihood, no rate and no gradient. In results they are
# NaN, never a number that looks like data:

# %%
train, test = paired.split(test_fraction=0.25, seed=0)
model = ns.SharedLatentModel(progress=False).fit(train)
latents = model.transform(test)
absent = latents.isnull().all("latent").groupby("odor").mean()
absent.to_pandas()

# %% [markdown]
# Scores use what is there. Stella was never taught odor D, so classifiers fitted on her
# are scored on the other three: `n_conditions` says on how many.

# %%
scores = ns.separation(model.transform(train), latents)
ns.plot_separation(scores)
plt.show()
scores["n_conditions"].to_pandas()

# %% [markdown]
# What would Stella have done at odor D? The others tell, as far as they share it:

# %%
at_d = (test["mitt"]["odor"] == "D").values
imagined = model.impute(test, target="stella").isel(window=at_d)
never_seen = model.transform(test).sel(subject="stella").isel(window=at_d)
print(f"{imagined.sizes['window']} windows of expected counts")
print(f"her own latents there: {np.unique(never_seen)}")

# %% [markdown]
# ## A rat that comes later
#
# Buchanan is recorded when the model is fitted, saved, and in use. `add_subject` fits
# an encoder and a decoder for him against the frozen others: nothing of theirs changes,
# to the last bit.

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
# A subject's split depends on the seed and its own name alone, so the held-out trials
# of the first three are still those that the model has never seen. Buchanan joins their
# space: classifiers fitted on others read his odors, and his reads theirs.

# %%
joined = ns.separation(grown.transform(train_4), grown.transform(test_4))
ns.plot_separation(joined)
plt.show()
