"""Every kind of bad input and the sentence it gives; the table in docs/bad_input.md is made here.

`NEUROSHARE_WRITE_TABLE=1` writes the table, otherwise a stale one fails.
"""

import contextlib
import gzip
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from sklearn.exceptions import NotFittedError

import neuroshare as ns
from neuroshare import cli
from neuroshare.support.files import locked, replacing

HERE = Path(__file__).parent
TABLE = HERE.parent / "docs" / "bad_input.md"
NWB = gzip.decompress((HERE / "fuzz" / "corpus" / "mitt.nwb.gz").read_bytes())
GOLDEN = sorted((HERE / "golden").glob("*/windows.json"))[-1].parent

DATA = ("--by", "odor", "--align", "start_time", "--span", 0, 0.2)
SMALL = ("--epochs", 1, "--latent-dim", 2, "--min-trials", 4, "--step", 0.1, "--quick", "--quiet")

CASES = {}
"""Where it comes in and kind of bad input -> what says so, what is called with the `Place`."""


def case(where, kind, *, error=ValueError):
    def keep(call):
        assert (where, kind) not in CASES, kind
        CASES[where, kind] = (error, call)
        return call

    return keep


class Place:
    """A folder of small recordings and a finished run, and what most cases begin with."""

    def __init__(self, folder):
        self.folder = folder
        self.sessions = ns.simulate_sessions({"mitt": 4, "stella": 3}, n_trials=6, seed=3)
        for name, session in self.sessions.items():
            ns.write_nwb(session, folder / f"{name}.nwb")
        self.files = [folder / "mitt.nwb", folder / "stella.nwb"]
        self.counts = {
            name: ns.bin_spikes(session, span=(0.0, 0.2)) for name, session in self.sessions.items()
        }
        self.train, self.test = self.pair(self.counts).split()
        self.settings = {"epochs": 1, "latent_dim": 2, "hidden": (3,), "progress": False}
        self.model = self.fit(self.train)
        self.linear = ns.LinearAlignment(latent_dim=2, n_repairs=2).fit(self.train)

    def pair(self, counts, **options):
        return ns.pair_subjects(counts, **{"by": "odor", "step": 0.1, **options})

    def fit(self, windows, **settings):
        return ns.SharedLatentModel(**{**self.settings, **settings}).fit(windows)

    @cached_property
    def latents(self):
        return self.model.transform(self.train), self.model.transform(self.test)

    @cached_property
    def scores(self):
        return ns.separation(*self.latents)

    def separate(self, change=None, by=None, **settings):
        """Separation of latents, where those of the held-out part are changed."""
        train, test = self.latents
        return ns.separation(train, change(test) if change else test, by, **settings)

    def residuals(self, model=None, **given):
        return ns.residuals(model or self.model, **{"test": self.test, **given})

    def impute(self, model=None, **given):
        parts = {"train": self.train, "test": self.test}
        return ns.imputation_scores(model or self.model, **{**parts, **given})

    def file(self, name, data):
        path = self.folder / name
        path.write_bytes(data)
        return path

    def nwb(self, change):
        """A small NWB file whose HDF5 contents `change` has altered."""
        path = self.file("rat.nwb", NWB)
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    def saved(self, name, data):
        """A saved model of which one file holds other bytes."""
        path = self.folder / "model"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(GOLDEN / "model", path)
        whole = (path / name).read_bytes()
        (path / name).write_bytes(data(whole) if callable(data) else data)
        return path


def times(**columns):
    return pd.DataFrame({"start_time": [0.0, 1.0], "stop_time": [0.5, 1.5], **columns})


# ------------------------------------------------------------------------------ files

READ = "read_nwb"


def _link(file, name):
    file[name] = h5py.ExternalLink("raw.nwb", f"/{name}")


case(READ, "no such file", error=FileNotFoundError)(lambda p: ns.read_nwb(p.folder / "none.nwb"))
case(READ, "a folder instead of a file")(lambda p: ns.read_nwb(p.folder))
case(READ, "a file of another kind")(lambda p: ns.read_nwb(p.file("notes.nwb", b"text")))
case(READ, "a file cut off")(lambda p: ns.read_nwb(p.file("cut.nwb", NWB[:30_000])))
case(READ, "no units table")(lambda p: ns.read_nwb(p.nwb(lambda f: f.pop("units"))))
case(READ, "an unknown table of trials")(lambda p: ns.read_nwb(p.files[0], trials="stimuli"))
case(READ, "an unknown unit")(lambda p: ns.read_nwb(p.files[0], units=[0, 99]))
case(READ, "a mask of another length")(lambda p: ns.read_nwb(p.files[0], units=[True, False]))
case(READ, "a query of an unknown column")(lambda p: ns.read_nwb(p.files[0], units="area == 'CA1'"))


@case(READ, "an HDF5 file that is not NWB")
def _(place):
    with h5py.File(place.folder / "other.nwb", "w") as file:
        file["x"] = 1
    ns.read_nwb(place.folder / "other.nwb")


def _fill(name, values):
    def change(file):
        file[name][...] = values

    return change


case(READ, "an index beyond the spike times")(
    lambda p: ns.read_nwb(p.nwb(_fill("units/spike_times_index", [12, 24, 99])))
)
case(READ, "spike times of NaN in a file", error=UserWarning)(
    lambda p: ns.read_nwb(p.nwb(_fill("units/spike_times", np.nan)))
)
case(READ, "two units of one id", error=UserWarning)(
    lambda p: ns.read_nwb(p.nwb(_fill("units/id", [0, 1, 1])))
)
case(READ, "two tables of one name", error=UserWarning)(
    lambda p: ns.read_nwb(p.nwb(lambda f: f.copy("intervals/trials", "processing/b/trials")))
)
case(READ, "a link to a file that is not there")(
    lambda p: ns.read_nwb(p.nwb(lambda f: (f.pop("units"), _link(f, "units"))))
)
case(READ, "a file of the first NWB")(
    lambda p: ns.read_nwb(p.nwb(lambda f: f.attrs.modify("nwb_version", "1.0.6")))
)
case("bin_spikes", "spike times in float32 on the clock of 1970")(
    lambda p: ns.bin_spikes(
        ns.Session("mitt", [(1.7e9 + np.arange(0, 5e3, 3)).astype("f4")], trials=times())
    )
)
case("bin_spikes", "arithmetic that gives no times")(
    lambda p: ns.bin_spikes(ns.Session("mitt", [[0.1]], trials=times()), "start_time + delay")
)
case("bin_spikes", "units that were never observed in a trial")(
    lambda p: ns.bin_spikes(
        ns.Session("mitt", [[0.1]], trials=times(), observed=np.array([[5.0, 9.0]]))
    )
)

# ------------------------------------------------------------------------------ sessions

SESSION = "Session"
case(SESSION, "no name")(lambda p: ns.Session("", [[0.1]]))
case(SESSION, "spike times of NaN")(lambda p: ns.Session("mitt", [[0.1], [np.nan]]))
case(SESSION, "spike times of two dimensions")(lambda p: ns.Session("mitt", [np.ones((3, 2))]))
case(SESSION, "spike times as text")(lambda p: ns.Session("mitt", [["0.1", "0.2"]]))
case(SESSION, "one number for all spike times", error=TypeError)(lambda p: ns.Session("mitt", 3))
case(SESSION, "more units than spike times")(
    lambda p: ns.Session("mitt", [[0.1]], pd.DataFrame({"area": ["CA1", "CA3"]}))
)
case(SESSION, "units as a dictionary", error=TypeError)(
    lambda p: ns.Session("mitt", [[0.1]], {"area": ["CA1"]})
)
case(SESSION, "two trials of one id")(
    lambda p: ns.Session("mitt", [[0.1]], trials=times().set_axis([7, 7]))
)
case(SESSION, "trials without a stop time")(
    lambda p: ns.Session("mitt", [[0.1]], trials=times().drop(columns="stop_time"))
)
case(SESSION, "trials that stop before they start")(
    lambda p: ns.Session("mitt", [[0.1]], trials=times(stop_time=[0.5, 0.9]))
)
case(SESSION, "dates as trial times")(
    lambda p: ns.Session("mitt", [[0.1]], trials=times(start_time=pd.date_range("2026", periods=2)))
)
case(SESSION, "two columns of one name")(
    lambda p: ns.Session("mitt", [[0.1]], trials=pd.concat([times(), times()], axis=1))
)
case("write_nwb", "texts as trial ids")(
    lambda p: ns.write_nwb(
        ns.Session("mitt", [[0.1]], trials=times().set_axis(["a", "b"])), p.folder / "new.nwb"
    )
)
case("write_nwb", "lists in a column")(
    lambda p: ns.write_nwb(
        ns.Session("mitt", [[0.1]], trials=times(odors=[["A"], ["B"]])), p.folder / "new.nwb"
    )
)

# ------------------------------------------------------------------------------ counts

BIN = "bin_spikes"
case(BIN, "no trials")(lambda p: ns.bin_spikes(ns.Session("mitt", [[0.1]])))
case(BIN, "an unknown event")(lambda p: ns.bin_spikes(p.sessions["mitt"], align="poke"))
case(BIN, "an event that is no time")(lambda p: ns.bin_spikes(p.sessions["mitt"], align="odor"))
case(BIN, "a span that ends before it begins")(
    lambda p: ns.bin_spikes(p.sessions["mitt"], span=(0.4, 0.0))
)
case(BIN, "a span of half a bin more")(
    lambda p: ns.bin_spikes(p.sessions["mitt"], span=(0.0, 0.405))
)
case(BIN, "a bin of no width")(lambda p: ns.bin_spikes(p.sessions["mitt"], bin_size=0))
case(BIN, "a span in nanoseconds")(lambda p: ns.bin_spikes(p.sessions["mitt"], span=(0, 400e6)))
case(BIN, "an event that no trial has")(
    lambda p: ns.bin_spikes(
        ns.Session("mitt", [[0.1]], trials=times(poke=[np.nan, np.nan])), align="poke"
    )
)

# ------------------------------------------------------------------------------ pairing

PAIR = "pair_subjects"
case(PAIR, "a list of arrays")(lambda p: p.pair([*p.counts.values()]))
case(PAIR, "an unknown column")(lambda p: p.pair(p.counts, by="odour"))
case(PAIR, "a condition that one subject lacks")(
    lambda p: p.pair({**p.counts, "stella": _without(p.counts["stella"], "D")})
)
case(PAIR, "a condition that nobody has")(lambda p: p.pair(p.counts, conditions=["A", "E"]))
case(PAIR, "one text for the conditions")(lambda p: p.pair(p.counts, conditions="AB"))
case(PAIR, "a window longer than the trial")(lambda p: p.pair(p.counts, width=0.5))
case(PAIR, "a window of half a bin more")(lambda p: p.pair(p.counts, width=0.105))
case(PAIR, "an unknown order")(lambda p: p.pair(p.counts, order="sorted"))
case(PAIR, "a negative seed")(lambda p: p.pair(p.counts, seed=-1))
case(PAIR, "activity of NaN")(
    lambda p: p.pair({**p.counts, "stella": p.counts["stella"].where(p.counts["stella"] < 1)})
)
case(PAIR, "texts as activity")(
    lambda p: p.pair({**p.counts, "stella": p.counts["stella"].astype(str)})
)
case(PAIR, "dimensions of other names")(
    lambda p: p.pair({**p.counts, "stella": p.counts["stella"].rename(unit="neuron")})
)
case(PAIR, "bins of another width")(
    lambda p: p.pair(
        {**p.counts, "stella": ns.bin_spikes(p.sessions["stella"], span=(0, 0.4), bin_size=0.02)}
    )
)
case(PAIR, "two units of one id in counts")(
    lambda p: p.pair({**p.counts, "stella": p.counts["stella"].assign_coords(unit=[0, 1, 1])})
)
case("PairedWindows.split", "a test part of everything")(lambda p: p.train.split(1.0))
case("PairedWindows.split", "one trial of each condition")(
    lambda p: p.pair(
        {name: c.isel(trial=[list(c.odor.values).index("A")]) for name, c in p.counts.items()}
    ).split()
)
case("PairedWindows.select", "an unknown subject")(lambda p: p.train.select(["mitt", "rex"]))


def _without(counts, odor):
    return counts.isel(trial=(counts.odor != odor).values)


# ------------------------------------------------------------------------------ fitting

FIT = "SharedLatentModel.fit"
case(FIT, "counts that were not paired", error=TypeError)(lambda p: p.fit(p.counts))
case(FIT, "an unknown objective")(lambda p: p.fit(p.train, objective="vae"))
case(FIT, "an unknown likelihood")(lambda p: p.fit(p.train, likelihood="normal"))
case(FIT, "no latents")(lambda p: p.fit(p.train, latent_dim=0))
case(FIT, "half a hidden unit")(lambda p: p.fit(p.train, hidden=(64, 0.5)))
case(FIT, "a learning rate of NaN")(lambda p: p.fit(p.train, lr=np.nan))
case(FIT, "dropout of everything")(lambda p: p.fit(p.train, dropout=1))
case(FIT, "a device that is not there")(lambda p: p.fit(p.train, device="tpu"))
case(FIT, "a subject without data")(lambda p: p.fit(p.train, subjects=["mitt", "rex"]))
case(FIT, "negative activity under Poisson")(
    lambda p: p.fit(p.pair({name: counts - 1.0 for name, counts in p.counts.items()}))
)
case(FIT, "a unit of 6,000 events per bin")(
    lambda p: p.fit(p.pair({name: counts * 0 + 6000 for name, counts in p.counts.items()}))
)

case(FIT, "a number in the place of an encoder")(lambda p: p.fit(p.train, encoder=3))
case(FIT, "an encoder that makes no network")(lambda p: p.fit(p.train, encoder=lambda *sizes: 3))
case(FIT, "an encoder of another number of features")(
    lambda p: p.fit(p.train, encoder=lambda *sizes: torch.nn.Flatten())
)


@case(FIT, "a checkpoint of other data")
def _(place):
    path = place.folder / "state.safetensors"
    path.unlink(missing_ok=True)
    model = ns.SharedLatentModel(**place.settings)
    model.fit(place.train, checkpoint=path)
    model.fit(place.train.repair(5), checkpoint=path)


RULE = "MMVM"
case(RULE, "an unknown bound")(lambda p: ns.MMVM(bound="upper"))
case(RULE, "a share of the prior above one")(lambda p: ns.MMVM(prior_weight=1.5))
case(RULE, "half a private latent")(lambda p: ns.MMVM(private_dim=0.5))
case(RULE, "an array of private latents")(lambda p: ns.MMVM(private_dim=np.array([1, 2])))
case(RULE, "a negative weight of the private rate")(lambda p: ns.MMVM(private_beta=-1))
case(RULE, "a cross share of NaN")(lambda p: ns.MMVM(cross=np.nan))
case(RULE, "a cross share as text")(lambda p: ns.MMVM(cross="much"))
case(RULE, "no way to combine")(lambda p: ns.MMVM(combine=None))
case(RULE, "partners of the pairwise bound")(lambda p: ns.MMVM(n_partners=2))

# ------------------------------------------------------------------------------ using

USE = "SharedLatentModel"
case(USE, "a model that was not fitted", error=NotFittedError)(
    lambda p: ns.SharedLatentModel().transform(p.test)
)
case(USE, "other units than were fitted")(
    lambda p: p.model.transform(p.pair({n: c.isel(unit=[0, 1]) for n, c in p.counts.items()}))
)
case(USE, "units in another order")(
    lambda p: p.model.transform(
        p.pair({n: c.isel(unit=slice(None, None, -1)) for n, c in p.counts.items()})
    )
)
case(USE, "windows of another length")(lambda p: p.model.transform(p.pair(p.counts, width=0.05)))
case(USE, "a subject that was not fitted")(
    lambda p: p.model.transform(p.pair({"rex": p.counts["mitt"]}))
)
case(USE, "an unknown target")(lambda p: p.model.impute(p.test, target="rex"))
case(USE, "an unknown source")(lambda p: p.model.impute(p.test, "mitt", source="rex"))
case(USE, "private latents where there are none")(
    lambda p: p.model.transform(p.test, part="private")
)
case(USE, "no draws")(lambda p: p.model.sample(0))
ADD = "SharedLatentModel.add_subject"
case(ADD, "a subject that is fitted")(lambda p: p.model.add_subject("mitt", p.train))
case(ADD, "a subject without data to add")(lambda p: p.model.add_subject("rex", p.train))
case(ADD, "counts instead of windows", error=TypeError)(
    lambda p: p.model.add_subject("rex", p.counts)
)
case(ADD, "settings as a dictionary")(
    lambda p: p.model.add_subject("rex", p.train, {"hidden": (3,)})
)

LINEAR = "LinearAlignment"


def _aligned(**settings):
    return lambda p: ns.LinearAlignment(**settings).fit(p.train)


case(LINEAR, "counts that were not paired to align", error=TypeError)(
    lambda p: ns.LinearAlignment().fit(p.counts)
)
case(LINEAR, "an unknown method")(_aligned(method="pca"))
case(LINEAR, "a method as a list")(_aligned(method=["mcca"]))
case(LINEAR, "unknown features")(_aligned(features="mean"))
case(LINEAR, "no latents to align")(_aligned(latent_dim=0))
case(LINEAR, "an array of latents")(_aligned(latent_dim=np.array([2, 3])))
case(LINEAR, "more latents than components")(_aligned(method="mcca", latent_dim=60))
case(LINEAR, "half a redrawn pairing")(_aligned(n_repairs=1.5))
case(LINEAR, "a ridge of NaN")(_aligned(ridge=np.nan))
case(LINEAR, "a ridge as text")(_aligned(ridge="much"))
case(LINEAR, "a negative ridge of the read-out")(_aligned(readout_ridge=-1))
case(LINEAR, "a negative seed of the redrawn pairings")(_aligned(seed=-1))
case(LINEAR, "roots of some subjects")(_aligned(root={"mitt": True}))
case(LINEAR, "roots of z-scored activity")(
    lambda p: ns.LinearAlignment(root=True).fit(p.pair({n: c - 1.0 for n, c in p.counts.items()}))
)
case(LINEAR, "z-scored activity after counts")(
    lambda p: p.linear.transform(p.pair({n: c - 1.0 for n, c in p.counts.items()}))
)
case(LINEAR, "an alignment that was not fitted", error=NotFittedError)(
    lambda p: ns.LinearAlignment().transform(p.test)
)
case(LINEAR, "other units than were aligned")(
    lambda p: p.linear.transform(p.pair({n: c.isel(unit=[0, 1]) for n, c in p.counts.items()}))
)
case(LINEAR, "latents of a dictionary", error=TypeError)(lambda p: p.linear.transform(p.counts))
case(LINEAR, "a source that is named twice")(
    lambda p: p.linear.impute(p.test, "mitt", source=["stella", "stella"])
)
case(USE, "one source that is named twice")(
    lambda p: p.model.impute(p.test, "mitt", source=["stella", "stella"])
)
case(LINEAR, "a target that was not fitted")(lambda p: p.linear.impute(p.test, target="rex"))

# ------------------------------------------------------------------------------ scores

SEPARATE = "separation"
case(SEPARATE, "latents of one condition")(
    lambda p: ns.separation(*(_of_one_condition(latents) for latents in p.latents))
)
case(SEPARATE, "paired windows instead of latents", error=TypeError)(
    lambda p: ns.separation(p.train, p.test)
)
case(SEPARATE, "held-out latents as an array", error=TypeError)(
    lambda p: p.separate(lambda z: z.values)
)
case(SEPARATE, "latents that name no condition")(
    lambda p: ns.separation(p.latents[0].assign_attrs(by=None), p.latents[1])
)
case(SEPARATE, "an unknown condition")(lambda p: p.separate(by="odour"))
case(SEPARATE, "two conditions to separate by")(lambda p: p.separate(by=["odor", "time"]))
case(SEPARATE, "latents without trials")(lambda p: p.separate(lambda z: z.drop_vars("trial")))
case(SEPARATE, "latents of one subject alone")(lambda p: p.separate(lambda z: z.isel(subject=0)))
case(SEPARATE, "trials that subjects share")(
    lambda p: p.separate(lambda z: z.assign_coords(trial=("window", z.trial.values[0])))
)
case(SEPARATE, "latents as text")(lambda p: p.separate(lambda z: z.astype(str)))
case(SEPARATE, "times as text")(
    lambda p: p.separate(lambda z: z.assign_coords(time=("window", z.time.values.astype(str))))
)
case(SEPARATE, "no windows")(lambda p: p.separate(lambda z: z.isel(window=[])))
case(SEPARATE, "infinite latents")(lambda p: p.separate(lambda z: z * np.inf))
case(SEPARATE, "latents of NaN")(lambda p: p.separate(lambda z: z.where(z.subject != "mitt")))
case(SEPARATE, "windows without a condition")(
    lambda p: p.separate(lambda z: z.assign_coords(odor=z.odor.astype(object).where(z.odor != "A")))
)
case(SEPARATE, "a subject twice")(lambda p: p.separate(lambda z: z.isel(subject=[0, 0])))
case(SEPARATE, "held-out latents of fewer subjects")(
    lambda p: p.separate(lambda z: z.isel(subject=[0]))
)
case(SEPARATE, "fewer held-out latents")(lambda p: p.separate(lambda z: z.isel(latent=[0])))
case(SEPARATE, "one part twice")(lambda p: ns.separation(p.latents[0], p.latents[0]))
case(SEPARATE, "a negative number of permutations")(lambda p: p.separate(n_permutations=-1))
case(SEPARATE, "half a bootstrap sample")(lambda p: p.separate(n_bootstraps=2.5))
case(SEPARATE, "an unknown null")(lambda p: p.separate(null="circular"))
case(SEPARATE, "an animal of nobody")(lambda p: p.separate(animal={"nobody": "mitt"}))
case(SEPARATE, "a number as pooled")(lambda p: p.separate(pooled=2))
case(SEPARATE, "a negative seed")(lambda p: p.separate(seed=-1))
case(SEPARATE, "a penalty without strength")(lambda p: p.separate(C=0))


def _of_one_condition(latents):
    return latents.isel(window=(latents.odor == "A").values)


class Odd:
    """A model that gives other than the counts of the target."""

    def __init__(self, change):
        self.change = change

    def impute(self, paired, target, source=None):
        return self.change(paired[target].astype(float))


PART = "residuals"
case(PART, "a model that does not impute", error=TypeError)(lambda p: p.residuals(["mmvm"]))
case(PART, "a class in the place of a model", error=TypeError)(
    lambda p: p.residuals(ns.LinearAlignment)
)
case(PART, "a model that was not fitted", error=NotFittedError)(
    lambda p: p.residuals(ns.LinearAlignment())
)
case(PART, "a model that gives an array")(lambda p: p.residuals(Odd(lambda x: x.values)))
case(PART, "a model that gives fewer units")(lambda p: p.residuals(Odd(lambda x: x.isel(unit=[0]))))
case(PART, "counts that were not paired", error=TypeError)(lambda p: p.residuals(test=p.counts))
case(PART, "latents instead of training windows", error=TypeError)(
    lambda p: p.residuals(train=p.latents[0])
)
case(PART, "one subject alone")(lambda p: p.residuals(test=p.test.select(["mitt"])))
case(PART, "activity that is no counts")(
    lambda p: p.residuals(test=p.test.changed(lambda name, counts: counts - 0.5))
)
case(PART, "one part twice")(lambda p: p.residuals(train=p.test))
case(PART, "training windows of another length")(
    lambda p: p.residuals(train=p.pair(p.counts, width=0.05).split()[0])
)
case(PART, "training windows without a subject")(
    lambda p: p.residuals(train=p.train.select(["mitt"]))
)
case(PART, "training windows of one condition")(
    lambda p: p.residuals(train=p.pair(p.counts, conditions=["A"]).split()[0])
)
case(PART, "one fold")(lambda p: p.residuals(n_folds=1))
case(PART, "no redrawn pairing")(lambda p: p.residuals(n_repairs=0))
case(PART, "a negative number of permutations")(lambda p: p.residuals(n_permutations=-1))
case(PART, "a negative number of bootstrap samples")(lambda p: p.residuals(n_bootstraps=-1))
case(PART, "a seed of text")(lambda p: p.residuals(seed="0"))
case(PART, "latents instead of a posterior", error=TypeError)(
    lambda p: p.residuals(posterior=p.latents[1])
)
case(PART, "a posterior without its scale")(
    lambda p: p.residuals(posterior=p.latents[1].to_dataset(name="loc"))
)

IMPUTE = "imputation_scores"
case(IMPUTE, "a model that does not impute", error=TypeError)(lambda p: p.impute("mmvm"))
case(IMPUTE, "a model that was not fitted", error=NotFittedError)(
    lambda p: p.impute(ns.SharedLatentModel())
)
case(IMPUTE, "a model that gives infinite counts")(lambda p: p.impute(Odd(lambda x: x + np.inf)))
case(IMPUTE, "latents instead of windows", error=TypeError)(lambda p: p.impute(test=p.latents[1]))
case(IMPUTE, "counts that were not paired", error=TypeError)(lambda p: p.impute(train=p.counts))
case(IMPUTE, "a part without a subject")(lambda p: p.impute(test=p.test.select(["mitt"])))
case(IMPUTE, "one part twice")(lambda p: p.impute(test=p.train))
case(IMPUTE, "parts of other units")(
    lambda p: p.impute(train=p.pair({n: c.isel(unit=[0, 1]) for n, c in p.counts.items()}))
)
case(IMPUTE, "parts of windows of another length")(
    lambda p: p.impute(train=p.pair(p.counts, width=0.05).split()[0])
)
case(IMPUTE, "training windows of one condition")(
    lambda p: p.impute(train=p.pair(p.counts, conditions=["A"]).split()[0])
)
case(IMPUTE, "a negative number of bootstrap samples")(lambda p: p.impute(n_bootstraps=-1))
case(IMPUTE, "a negative seed")(lambda p: p.impute(seed=-1))

DEPART = "departure"
case(DEPART, "paired windows instead of latents", error=TypeError)(lambda p: ns.departure(p.test))
case(DEPART, "latents that name no condition")(
    lambda p: ns.departure(p.latents[1].assign_attrs(by=None))
)
case(DEPART, "an unknown condition")(lambda p: ns.departure(p.latents[1], by="odour"))
case(DEPART, "latents without times")(lambda p: ns.departure(p.latents[1].drop_vars("time")))
case(DEPART, "infinite latents")(lambda p: ns.departure(p.latents[1] + np.inf))
case(DEPART, "one subject alone")(lambda p: ns.departure(p.latents[1].isel(subject=[0])))
case(DEPART, "a negative seed")(lambda p: ns.departure(p.latents[1], seed=-1))

EMBED = "embed"
case(EMBED, "an array of latents", error=TypeError)(lambda p: ns.embed(p.latents[1].values))
case(EMBED, "latents without windows")(
    lambda p: ns.embed(p.latents[1].rename(window="sample"), "pca")
)
case(EMBED, "infinite latents")(lambda p: ns.embed(p.latents[1] + np.inf, "pca"))
case(EMBED, "an unknown method")(lambda p: ns.embed(p.latents[1], "tsne"))
case(EMBED, "no dims")(lambda p: ns.embed(p.latents[1], "pca", n_dims=0))
case(EMBED, "more dims than latents")(lambda p: ns.embed(p.latents[1], "pca", n_dims=9))
case(EMBED, "too few windows")(lambda p: ns.embed(p.latents[1][:1, :2]))
case(EMBED, "a part that is not there")(
    lambda p: ns.embed(p.latents[1].assign_coords(part=("window", ["test"] * len(p.test))))
)
case(EMBED, "a negative seed")(lambda p: ns.embed(p.latents[1], "pca", seed=-1))

PLOT = "plot_..."
case(PLOT, "an array of latents", error=TypeError)(lambda p: ns.plot_latents(p.latents[1].values))
case(PLOT, "latents without times")(lambda p: ns.plot_latents(p.latents[1].drop_vars("time")))
case(PLOT, "latents of NaN")(lambda p: ns.plot_latents(p.latents[1] * np.nan))
case(PLOT, "an unknown colour")(lambda p: ns.plot_latents(p.latents[1], "smell"))
case(PLOT, "several Axes", error=TypeError)(lambda p: ns.plot_latents(p.latents[1], ax=[1, 2]))
case(PLOT, "latents instead of scores", error=TypeError)(lambda p: ns.plot_separation(p.latents[1]))
case(PLOT, "an unknown level")(lambda p: ns.plot_separation(p.scores, "session"))
case(PLOT, "scores of another kind")(lambda p: ns.plot_imputation(p.scores))
case(PLOT, "scores that are not of pairs")(lambda p: ns.plot_imputation(p.scores, "own"))
case(PLOT, "scores without variances")(lambda p: ns.plot_residuals(p.scores))
case(PLOT, "scores without a divergence")(lambda p: ns.plot_departure(p.scores))
case(PLOT, "scores instead of a table", error=TypeError)(lambda p: ns.plot_comparison(p.scores))
case(PLOT, "a table of another kind")(lambda p: ns.plot_comparison(p.sessions["mitt"].trials))
case(PLOT, "a model instead of its history", error=TypeError)(lambda p: ns.plot_training(p.model))
case(PLOT, "an unknown quantity")(lambda p: ns.plot_training(p.model.history_, "speed"))


def _other(data, name, value):
    """The settings of a saved model with another value of one of them."""
    stored = json.loads(data)
    stored["params"][name] = value
    return json.dumps(stored).encode()


LOAD = "SharedLatentModel.load"
load = ns.SharedLatentModel.load
case(LOAD, "a folder without a model", error=FileNotFoundError)(lambda p: load(p.folder))
case(LOAD, "settings cut off")(lambda p: load(p.saved("model.json", lambda data: data[:500])))
case(LOAD, "weights cut off")(
    lambda p: load(p.saved("weights.safetensors", lambda data: data[:-40]))
)
case(LOAD, "a pickle in the place of weights")(
    lambda p: load(p.saved("weights.safetensors", pickle.dumps({})))
)
case(LOAD, "a model of a later version")(
    lambda p: load(
        p.saved("model.json", lambda data: json.dumps({**json.loads(data), "format": 9}).encode())
    )
)
case(LOAD, "settings of a larger model than the weights")(
    lambda p: load(p.saved("model.json", lambda data: _other(data, "latent_dim", 3)))
)
case(LOAD, "a model with a rule of one's own")(
    lambda p: load(p.saved("model.json", lambda x: _other(x, "objective", {"custom": "Mine"})))
)

case(LOAD, "a model with an encoder of one's own")(
    lambda p: load(p.saved("model.json", lambda x: _other(x, "encoder", {"custom": "Mine"})))
)

# ------------------------------------------------------------------------------ comparing

COMPARE = "compare"
QUICK = {"baselines": False, "imputation": False, "n_bootstraps": 0}


def compared(place, *models, parts=None, **options):
    return ns.compare(*(parts or (place.train, place.test)), *models, **{**QUICK, **options})


case(COMPARE, "counts that were not paired, compared", error=TypeError)(
    lambda p: compared(p, {"mine": p.model}, parts=(p.counts, p.counts))
)
case(COMPARE, "parts of other subjects")(
    lambda p: compared(p, {"mine": p.model}, parts=(p.train, p.test.select(["mitt"])))
)
case(COMPARE, "parts paired by other columns")(
    lambda p: compared(
        p,
        {"mine": p.model},
        parts=(
            p.train,
            p.pair({n: c.assign_coords(day=c.odor) for n, c in p.counts.items()}, by="day"),
        ),
    )
)
case(COMPARE, "one trial in both parts")(
    lambda p: compared(p, {"mine": ns.LinearAlignment(latent_dim=2)}, parts=(p.train, p.train))
)
case(COMPARE, "nothing to compare")(lambda p: compared(p))
case(COMPARE, "two columns to compare by")(
    lambda p: compared(p, {"mine": ns.LinearAlignment()}, by=["odor", "trial"])
)
case(COMPARE, "a list of models", error=TypeError)(lambda p: compared(p, [ns.LinearAlignment()]))
case(COMPARE, "a model by its name alone", error=TypeError)(lambda p: compared(p, {"m": "mcca"}))
case(COMPARE, "a class instead of a model", error=TypeError)(
    lambda p: compared(p, {"mine": ns.LinearAlignment})
)
case(COMPARE, "a model without a name")(lambda p: compared(p, {"": ns.LinearAlignment()}))
case(COMPARE, "one name for two models")(
    lambda p: compared(p, {"mine": ns.LinearAlignment()}, fitted={"mine": p.model})
)
case(COMPARE, "a fitted model that was not fitted", error=NotFittedError)(
    lambda p: compared(p, fitted={"mine": ns.SharedLatentModel()})
)
case(COMPARE, "a difference to an unknown model")(
    lambda p: compared(p, {"mine": ns.LinearAlignment()}, against="theirs")
)
case(COMPARE, "a negative number of permutations")(
    lambda p: compared(p, {"mine": ns.LinearAlignment()}, n_permutations=-1)
)
case(COMPARE, "half a pairing anew")(
    lambda p: compared(p, {"mine": ns.LinearAlignment()}, n_repairings=0.5)
)
case(COMPARE, "a negative number of bootstrap samples")(
    lambda p: compared(p, {"mine": ns.LinearAlignment()}, n_bootstraps=-5)
)
case(COMPARE, "a seed that is a text")(
    lambda p: compared(p, {"mine": ns.LinearAlignment()}, seed="one")
)
case(COMPARE, "an executor that executes nothing", error=TypeError)(
    lambda p: compared(p, {"mine": ns.LinearAlignment()}, executor="dask")
)

LEAKAGE = "leakage_report"
case(LEAKAGE, "counts that were not paired, simulated", error=TypeError)(
    lambda p: ns.leakage_report(p.counts)
)
case(LEAKAGE, "no simulations")(lambda p: ns.leakage_report(p.train, n_simulations=0))
case(LEAKAGE, "one fold")(lambda p: ns.leakage_report(p.train, n_folds=1))
case(LEAKAGE, "more folds than trials of a condition")(
    lambda p: ns.leakage_report(p.train, n_folds=50)
)
case(LEAKAGE, "a negative seed of simulations")(lambda p: ns.leakage_report(p.train, seed=-1))

SWEEP = "sweep"


def swept(place, *parts, **changes):
    grid = {"objectives": ["mmvm"], "betas": [1.0], "seeds": [0]}
    model = {k: v for k, v in place.settings.items() if k != "progress"}
    settings = {"model": model, "progress": False, **grid, **changes}
    return ns.sweep(*(parts or (place.train, place.test)), place.folder / "swept", **settings)


case(SWEEP, "counts that were not paired, swept", error=TypeError)(
    lambda p: swept(p, p.counts, p.counts)
)
case(SWEEP, "one objective, not a list")(lambda p: swept(p, objectives="mmvm"))
case(SWEEP, "objects without labels")(lambda p: swept(p, objectives=[ns.MMVM()]))
case(SWEEP, "no betas")(lambda p: swept(p, betas=[]))
case(SWEEP, "a beta that is a text")(lambda p: swept(p, betas=["low"]))
case(SWEEP, "a negative beta")(lambda p: swept(p, betas=[-1.0]))
case(SWEEP, "half a seed")(lambda p: swept(p, seeds=[0.5]))
case(SWEEP, "one number for the seeds")(lambda p: swept(p, seeds=3))
case(SWEEP, "an unknown setting of its models")(lambda p: swept(p, model={"colour": 1}))
case(SWEEP, "a beta among the settings of its models")(lambda p: swept(p, model={"beta": 1.0}))
case(SWEEP, "settings as a list")(lambda p: swept(p, model=["epochs"]))
case(SWEEP, "a score that is no function")(lambda p: swept(p, score="cross"))
case(SWEEP, "no threads")(lambda p: swept(p, threads=0))
case(SWEEP, "no runs at once")(lambda p: swept(p, stacked=0))
case(SWEEP, "a cluster by its address", error=TypeError)(lambda p: swept(p, executor="tcp://x"))

# ------------------------------------------------------------------------------ command line
# A case gives the arguments; what they must not touch is compared by the test.

LINE = "neuroshare"
case(LINE, "inspect: not an NWB file")(lambda p: ["inspect", p.file("notes.nwb", b"text")])
case(LINE, "fit: no such file")(
    lambda p: ["fit", p.folder / "none.nwb", *DATA, "--out", p.folder / "new"]
)
case(LINE, "fit: an unknown column")(
    lambda p: ["fit", *p.files, "--by", "odour", *DATA[2:], "--out", p.folder / "new"]
)
case(LINE, "fit: settings that lack")(
    lambda p: ["fit", *p.files, "--by", "odor", "--out", p.folder / "new"]
)
case(LINE, "fit: one subject in two files")(
    lambda p: ["fit", p.files[0], p.files[0], *DATA, "--out", p.folder / "new"]
)
case(LINE, "fit: too few trials")(
    lambda p: ["fit", *p.files, *DATA, "--min-trials", 50, "--out", p.folder / "new"]
)
case(LINE, "fit: an unknown objective")(
    lambda p: ["fit", *p.files, *DATA, "--objective", "vae", "--out", p.folder / "new"]
)
case(LINE, "fit: a config that is not TOML")(
    lambda p: ["fit", "--config", p.file("run.toml", b"by = odor"), "--out", p.folder / "new"]
)
case(LINE, "fit: a config with an unknown setting")(
    lambda p: ["fit", "--config", p.file("run.toml", b"colour = 1"), "--out", p.folder / "new"]
)
case(LINE, "fit: a config with a value of another kind")(
    lambda p: [
        "fit", *p.files, *DATA, "--config", p.file("run.toml", b"width = '0.1 s'"),
        "--out", p.folder / "new",
    ]
)  # fmt: skip
case(LINE, "fit: a config with an unknown setting of the model")(
    lambda p: [
        "fit", *p.files, *DATA, "--config", p.file("run.toml", b"[model]\nlayers = 3"),
        "--out", p.folder / "new",
    ]
)  # fmt: skip
case(LINE, "fit: --set without a value")(
    lambda p: ["fit", *p.files, *DATA, "--set", "epochs", "--out", p.folder / "new"]
)
case(LINE, "fit: --set with what is no value")(
    lambda p: ["fit", *p.files, *DATA, "--set", "hidden=[8, 8", "--out", p.folder / "new"]
)
case(LINE, "fit: --set with an unknown name")(
    lambda p: ["fit", *p.files, *DATA, "--set", "layers=3", "--out", p.folder / "new"]
)
case(LINE, "fit: one setting twice")(
    lambda p: [
        "fit", *p.files, *DATA, "--epochs", 2, "--set", "epochs=3", "--out", p.folder / "new",
    ]
)  # fmt: skip
case(LINE, "fit: a setting of the model out of its range")(
    lambda p: ["fit", *p.files, *DATA, "--latent-dim", 0, "--out", p.folder / "new"]
)
case(LINE, "fit: an object with an unknown argument")(
    lambda p: [
        "fit", *p.files, *DATA, "--set", 'objective={object="mmvm", arguments={colour=1}}',
        "--out", p.folder / "new",
    ]
)  # fmt: skip
case(LINE, "fit: a folder with a finished run")(
    lambda p: ["fit", *p.files, *DATA, *SMALL, "--out", p.folder / "run"]
)
case(LINE, "fit: a folder that another run is writing")(
    lambda p: ["fit", *p.files, *DATA, *SMALL, "--out", p.folder / "busy"]
)
case(LINE, "fit: a folder with an interrupted run of other settings")(
    lambda p: ["fit", *p.files, *DATA, *SMALL, "--out", p.folder / "interrupted"]
)
case(LINE, "fit: a file in the place of the folder")(
    lambda p: ["fit", *p.files, *DATA, *SMALL, "--out", p.folder / "mitt.nwb"]
)
case(LINE, "fit: a folder that cannot be made")(
    lambda p: ["fit", *p.files, *DATA, *SMALL, "--out", p.folder / "mitt.nwb" / "run"]
)
case(LINE, "report: a run that has not ended")(lambda p: ["report", p.folder / "interrupted"])
case(LINE, "sweep: weights that are no numbers")(
    lambda p: ["sweep", *p.files, *DATA, "--beta", "1,two", "--out", p.folder / "new"]
)
case(LINE, "sweep: an unknown objective")(
    lambda p: ["sweep", *p.files, *DATA, "--objective", "mmvm,vae", "--out", p.folder / "new"]
)
case(LINE, "simulate: numbers of units that are none")(
    lambda p: ["simulate", p.folder / "new", "--subjects", "mitt=many"]
)
case(LINE, "convert-allen2016: a folder without arrays")(
    lambda p: ["convert-allen2016", p.folder / "interrupted", p.folder / "new"]
)


# ------------------------------------------------------------------------------ tests


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("bad"))
    assert line("fit", *place.files, *DATA, *SMALL, "--out", place.folder / "run")[0] == 0
    (place.folder / "interrupted").mkdir()
    (place.folder / "interrupted" / "run.toml").write_text("by = 'odor'\n")
    (place.folder / "interrupted" / "checkpoint").write_bytes(b"")
    (place.folder / "busy").mkdir()
    return place


def line(*arguments):
    """Run the command line in this process: exit code and stderr."""
    import io
    import warnings

    err = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["neuroshare", *map(str, arguments)])
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                cli.main()
        except SystemExit as stop:
            return stop.code or 0, err.getvalue()
    return 0, err.getvalue()


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


def told(place, where, kind):
    """The type of the error that a case gives, and its sentence."""
    error, call = CASES[where, kind]
    if where != LINE:
        with pytest.raises(error) as caught:
            call(place)
        assert type(caught.value) is error
        return error.__name__, str(caught.value)
    arguments = call(place)
    before = contents(place.folder)
    with locked(place.folder / "busy" / ".lock"):
        code, err = line(*arguments)
        assert code == 2
        errors = [text for text in err.splitlines() if text.startswith("error: ")]
        assert len(errors) == 1
        assert "Traceback" not in err
        if arguments[0] != "inspect":  # which goes on to the next file
            with pytest.raises((ValueError, TypeError, OSError)):
                line("--debug", *arguments)
    # Whatever was there is as it was, and nothing new is left.
    assert contents(place.folder) == before
    assert not (place.folder / "new").exists()
    return "exit code 2", errors[0].removeprefix("error: ")


def plain(sentence, place):
    """The sentence without what differs between machines and versions."""
    sentence = sentence.replace(f"{place.folder}/", "").replace(str(place.folder), "folder")
    return re.sub(r"\b\d+\.\d+\.\d+(\+\w+)?", "x.y.z", sentence)


@pytest.mark.parametrize(("where", "kind"), CASES)
def test_bad_input_is_refused_in_a_sentence(place, where, kind):
    _, sentence = told(place, where, kind)
    assert "\n" not in sentence.strip()
    assert len(sentence) > 30, "who, expected, got, what to do"
    assert not re.match(r"\[Errno", sentence) or str(place.folder) in sentence


def test_the_table_of_bad_input_is_that_of_the_errors(place):
    assert len(CASES) >= 40
    rows = ["| Where | What | Gives | Saying |", "| --- | --- | --- | --- |"]
    for where, kind in CASES:
        gives, sentence = told(place, where, kind)
        text = plain(sentence, place).replace("|", "\\|").replace("<", "&lt;")
        rows.append(f"| `{where}` | {kind} | {gives} | {text} |")
    table = (
        "# Bad input\n\n"
        f"{len(CASES)} kinds of bad input and what each gives: written by "
        "`tests/test_bad_input.py`, which asserts them. On the command line nothing is left "
        "behind, and `--debug` shows the traceback.\n\n" + "\n".join(rows) + "\n"
    )
    if os.environ.get("NEUROSHARE_WRITE_TABLE"):
        TABLE.write_text(table, encoding="utf-8")
    assert TABLE.read_text(encoding="utf-8") == table, "NEUROSHARE_WRITE_TABLE=1 writes it again"


FULL = """
import resource, sys
size = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
from neuroshare.cli import main
main()
"""


@pytest.mark.parametrize("size", [100, 8_000, 100_000])
def test_a_disk_that_is_full_leaves_whole_files_or_none(place, tmp_path, size):
    """No file may grow beyond a size, which fails where a full disk does."""
    out = tmp_path / "run"
    command = [sys.executable, "-c", FULL, size, "fit", *place.files, *DATA, *SMALL, "--out", out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    errors = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1
    assert "File too large" in errors[0]
    assert str(out) in errors[0]
    assert "Traceback" not in done.stderr
    left = {path.name for path in out.rglob("*")} if out.exists() else set()
    whole = {"run.toml", "checkpoint", "model", "model.json", "weights.safetensors", "latents.nc"}
    assert left <= whole | {"history.nc", "checkpoint.choice.json"}
    for name in left & {"latents.nc", "history.nc"}:
        xr.load_dataset(out / name, engine="h5netcdf")
    if "model" in left:
        ns.SharedLatentModel.load(out / "model")


def test_of_two_runs_in_one_folder_one_is_refused(place, tmp_path):
    with locked(tmp_path / ".lock", wait=False) as ours:
        assert ours
        code, err = line("fit", *place.files, *DATA, *SMALL, "--out", tmp_path)
        assert code == 2
        assert "being written by another run" in err
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert line("fit", *place.files, *DATA, *SMALL, "--out", tmp_path)[0] == 0
    assert (tmp_path / "scores.json").is_file()
    assert not (tmp_path / ".lock").exists()


def test_the_lock_of_a_process_that_dies_is_free(tmp_path):
    hold = (
        "import os, sys; from pathlib import Path; from neuroshare.support.files import locked\n"
        "with locked(Path(sys.argv[1])): os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", hold, str(tmp_path / ".lock")], check=False)
    assert (tmp_path / ".lock").exists()
    with locked(tmp_path / ".lock", wait=False) as ours:
        assert ours


def test_what_is_written_is_whole_or_not_there(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text("old")

    def write():
        with replacing(path) as part:
            part.write_text("ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: .*scores\.json"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
