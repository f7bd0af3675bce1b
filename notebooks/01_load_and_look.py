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
# # Load recordings and look at them
#
# This tutorial goes from NWB files to paired windows, the data that every model of this
# package is fitted to. The subjects are simulated. To use your own files, start at
# `ns.read_nwb`.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import neuroshare as ns

# %% [markdown]
# ## Files
#
# Two rats sniffed the same four odors on different days. Their neurons and even their
# numbers of trials differ. `simulate_sessions` draws their spikes and `write_nwb`
# stores them.

# %%
folder = Path(tempfile.mkdtemp())
simulated = ns.simulate_sessions(
    {"mitt": 60, "stella": 40}, n_trials={"mitt": 30, "stella": 24}
)
for name, session in simulated.items():
    ns.write_nwb(session, folder / f"{name}.nwb")

sessions = {path.stem: ns.read_nwb(path) for path in sorted(folder.glob("*.nwb"))}
sessions

# %% [markdown]
# A `Session` contains the spike times of one subject (one array per unit, in seconds),
# a table of units and a table of trials. Both tables are pandas data frames and keep
# every column of the file.

# %%
session = sessions["mitt"]
session.trials.head()

# %%
session.trials.groupby("odor").size()

# %% [markdown]
# `select` keeps some of the units or trials: by id, by a mask, or by a query. On the
# command line, `neuroshare inspect *.nwb` prints the same tables and lists possible
# problems, such as spike times in milliseconds.

# %%
session.select(units="base_rate > 1", trials="correct and in_sequence")

# %% [markdown]
# ## Bins
#
# `bin_spikes` counts spikes around an event of every trial. The result is an xarray
# `DataArray` with dims trial, unit and time. The columns of both tables become
# coordinates, so the mean by odor takes one line.

# %%
counts = ns.bin_spikes(session, align="start_time", span=(-0.5, 1.0), bin_size=0.05)
rate = counts.groupby("odor").mean("trial") / counts.attrs["bin_size"]
rate.sizes

# %%
# The unit whose rate differs most between odors, in units of its noise.
spread = rate.var("odor").mean("time") / rate.mean(("odor", "time"))
unit = int(spread.idxmax())
spikes = session.spike_times[session.units.index.get_loc(unit)]

colors = {"A": "#4477AA", "B": "#EE6677", "C": "#228833", "D": "#CCBB44"}
figure, (raster, psth) = plt.subplots(
    2, 1, sharex=True, figsize=(6, 5), height_ratios=[2, 1], layout="constrained"
)
row = 0
for odor, trials in session.trials.groupby("odor"):
    for onset in trials["start_time"]:
        around = spikes[(spikes > onset - 0.5) & (spikes < onset + 1.0)] - onset
        raster.eventplot(around, lineoffsets=row, colors=colors[odor], linewidths=1)
        row += 1
    psth.plot(
        rate["time"], rate.sel(odor=odor, unit=unit), color=colors[odor], label=odor
    )
for ax in (raster, psth):
    ax.axvline(0, color="gray", lw=1, ls=":")
raster.set(ylabel="trial, by odor", title=f"mitt, unit {unit}", ylim=(row, -1))
psth.set(xlabel="time from odor onset (s)", ylabel="rate (Hz)")
psth.legend(title="odor", ncols=4, frameon=False, fontsize="small")
plt.show()

# %% [markdown]
# ## Pairs
#
# The rats were not recorded simultaneously, so no trial of one corresponds to a trial
# of the other. They have only the odor in common. `pair_subjects` pairs every trial
# with a random trial of the same odor in the other rat and cuts both into sliding
# windows. That two trials of one odor correspond is an assumption. It is kept in one
# object, which can redraw the pairs (`repair`) or break the assumption on purpose
# (`repair(..., shuffle_conditions=True)`, the null of later tutorials).

# %%
counts = {
    name: ns.bin_spikes(session, span=(0.0, 0.4)) for name, session in sessions.items()
}
paired = ns.pair_subjects(counts, by="odor", width=0.1, step=0.01)
paired

# %% [markdown]
# Every exclusion and reuse is listed. Stella has fewer trials, so some of hers are used
# more than once:

# %%
paired.report()

# %% [markdown]
# The windows of one subject as an array. They are copied only on request: a fit gathers
# its batches from the counts, so overlapping windows need no additional memory.

# %%
paired["stella"].sizes

# %% [markdown]
# ## Split
#
# Trials are split first and paired within each part, so no trial, window or partner is
# in both. The windows of one trial overlap. If windows were split instead of trials, a
# classifier could recognise the trial, and every score would be invalid.

# %%
train, test = paired.split(test_fraction=0.25, seed=0)
for name in paired.subjects:
    common = np.intersect1d(train[name]["trial"], test[name]["trial"])
    sizes = f"{train.n_trials(name)} + {test.n_trials(name)} trials"
    print(f"{name}: {sizes}, {len(common)} in both")
