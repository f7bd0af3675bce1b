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
# # Real recordings: four mice that choose
#
# The other tutorials simulate. This one takes four mice whose hippocampus was recorded
# with Neuropixels probes while they turned a wheel towards a stimulus, or held it
# still (Steinmetz et al. 2019, sessions of Cori, Forssmann, Hench and Lederberg). Their
# NWB files are in the DANDI archive as dandiset 000017. Put yours in a folder and name
# it in `FOLDER`.

# %%
import os
import tempfile
from pathlib import Path

import pandas as pd

import neuroshare as ns

FOLDER = Path(os.environ.get("NEUROSHARE_DATA", "../../shared/data")) / "mice-nwb"
files = sorted(FOLDER.glob("*.nwb"))
real = bool(files)
if not real:  # simulated mice stand in, so that the page can be built anywhere
    FOLDER = Path(tempfile.mkdtemp())
    for name, session in ns.simulate_sessions(
        {"Cori": 60, "Forssmann": 50, "Hench": 70, "Lederberg": 40},
        n_trials=40, odors=("left", "none", "right"), signal=0.6,
    ).items():  # fmt: skip
        trials = session.trials.rename(columns={"odor": "condition"})
        session = ns.Session(name, session.spike_times, session.units, trials)
        ns.write_nwb(session, FOLDER / f"{name}.nwb")
    files = sorted(FOLDER.glob("*.nwb"))
print("recorded" if real else "simulated", [file.name for file in files])

# %% [markdown]
# ## Look first
#
# A session in a notebook shows its tables. `findings` says what is odd in a recording;
# `neuroshare inspect` prints the same.

# %%
sessions = {}
for file in files:
    session = ns.read_nwb(file)
    sessions[session.subject] = session
sessions["Cori"]

# %%
for name, session in sessions.items():
    print(name, [str(finding) for finding in ns.findings(session)] or "nothing odd")

# %% [markdown]
# ## Pair the trials of one condition
#
# Three conditions: the mouse turned the wheel to the left, to the right, or there was
# no stimulus and it held still. Mice have different neurons and different numbers of
# trials; a partner is a trial of the same condition, drawn anew before each epoch.

# %%
counts = {name: ns.bin_spikes(s, span=(0.0, 0.4)) for name, s in sessions.items()}
paired = ns.pair_subjects(
    counts, by="condition", conditions=("left", "none", "right"), step=0.05
)
paired

# %% [markdown]
# ## Hold trials out in time
#
# The conditions of these mice come in runs, and their activity drifts over the session.
# Neighbouring trials are then alike whatever the condition, so `split` holds out whole
# stretches of the session, with a gap, and says so.

# %%
train, test = paired.split(test_fraction=0.25, seed=0)
print("\n".join(train.report(spans=False)))

# %% [markdown]
# ## Fit and score
#
# The number of latents and the inputs are chosen on trials held out of the training
# part. Training is tried likewise; `epochs=0` leaves that out here, for time.

# %%
model = ns.SharedLatentModel(epochs=0, progress=False).fit(train)
model.chosen_

# %%
latents = [model.transform(part) for part in (train, test)]
scores = ns.separation(*latents, n_permutations=199)
pd.DataFrame(
    {
        kind: [
            float(scores[f"{name}_{kind}"].sel(level="trial"))
            for name in ("mean", "p_mean")
        ]
        for kind in ("own", "cross", "pooled")
    },
    index=["balanced accuracy", "p"],
).round(3)

# %% [markdown]
# The null kept the order of trials, for shuffled labels would have been the wrong one:

# %%
print(scores.attrs["null"])

# %%
ns.plot_separation(scores)
# %% [markdown]
# ## Latents of held-out trials

# %%
ns.plot_latents(latents[1])
# %% [markdown]
# ## Is it more than a linear alignment gives?
#
# `LinearAlignment` chooses on the same inner folds. Four mice are few, and one split is
# one split: `benchmarks.regimes` has five splits of five sets.

# %%
linear = ns.LinearAlignment("mcca").fit(train)
against = ns.separation(linear.transform(train), linear.transform(test))
pd.DataFrame(
    {
        name: [float(s[f"mean_{kind}"].sel(level="trial")) for kind in ("own", "cross")]
        for name, s in (("model", scores), ("MCCA", against))
    },
    index=["own", "cross"],
).round(3)
