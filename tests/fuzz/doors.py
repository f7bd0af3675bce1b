"""Fuzzed inputs of all doors: what neuroshare reads, and what it is handed.

Run as a script, for HDF5 is not written in Python and may take the whole process with it:
``python doors.py DOOR FIRST LAST`` prints two JSON lines per input, one before and one after.
An input is told by the door and a number alone, so every finding can be repeated.

A door's function draws one input and returns what was done to it and a function that goes through
the door: it gives up with an error, or ends after having checked what came out.
"""

import contextlib
import faulthandler
import gzip
import io
import json
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
import zlib
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import xarray as xr
from sklearn.exceptions import NotFittedError

import neuroshare as ns

SECONDS = 10
HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "0.1.0"
REFUSALS = (ValueError, TypeError, FileNotFoundError, NotFittedError)
SOURCE = str(Path(ns.__file__).parent)


class WrongShape(Exception):
    """Something came out that does not fit together."""


def expect(holds, what):
    if not holds:
        raise WrongShape(what)


# ------------------------------------------------------------------------------ awkward values

TEXTS = ("", " ", "Ω ünï 🐀", "a\nb", "a\0b", "../x", "x" * 300, "'; --", "nan", "{}", "-0")
NUMBERS = (0, -1, 1, 2, 0.5, -0.5, 1e-300, 1e300, 2**31, 2**63, 10**30, np.nan, np.inf, -np.inf)
OBJECTS = (
    None, True, False, (), [], {}, [[]], ["a"], [1, "a"], [None], {"a": 1}, b"bytes", 1j,
    np.array(1.0), np.float32(2), np.int8(-3), np.array(["a", None], object),
    datetime(2026, 1, 1), object, print,
)  # fmt: skip


def pick(rng, options):
    return options[rng.integers(len(options))]


def nasty(rng):
    return pick(rng, pick(rng, (TEXTS, NUMBERS, OBJECTS)))


def damaged(rng, data):
    """Bytes with a few flips, cut off, or with a block zeroed, doubled, moved or made up."""
    data = bytearray(data)
    kind = pick(rng, ("flip", "flip", "set", "cut", "zero", "splice", "drop", "noise", "grow"))
    at = int(rng.integers(len(data)))
    size = int(2 ** rng.integers(0, 12))
    if kind in ("flip", "set"):
        for position in rng.integers(len(data), size=2 ** rng.integers(0, 6)):
            if kind == "flip":
                data[position] ^= 1 << rng.integers(8)
            else:
                data[position] = pick(rng, (0, 1, 0x7F, 0x80, 0xFF))
    elif kind == "cut":
        del data[at:]
    elif kind == "zero":
        data[at : at + size] = bytes(len(data[at : at + size]))
    elif kind == "splice":
        source = int(rng.integers(len(data)))
        data[at : at + size] = data[source : source + size]
    elif kind == "drop":
        del data[at : at + size]
    elif kind == "noise":
        n = len(data[at : at + size])
        data[at : at + n] = rng.bytes(n)
    else:
        data[at:at] = rng.bytes(size)
    return f"{kind} at {at}, {size}", bytes(data)


# ------------------------------------------------------------------------------ what must hold


def check_session(session):
    n_units, n_trials = len(session.units), len(session.trials)
    expect(len(session.spike_times) == n_units, "units and spike times")
    expect(session.units.index.is_unique and session.trials.index.is_unique, "ids")
    for times in session.spike_times:
        expect(times.ndim == 1 and times.dtype == np.float64, "spike times")
        expect(np.isfinite(times).all() and (np.diff(times) >= 0).all(), "order of spike times")
    for column in ("start_time", "stop_time"):
        expect(session.trials[column].to_numpy(float).shape == (n_trials,), column)
    expect(isinstance(repr(session), str), "repr")


def check_counts(counts, session, span, bin_size):
    shape = (len(session.units), round((span[1] - span[0]) / bin_size))
    expect(counts.dims == ("trial", "unit", "time") and counts.shape[1:] == shape, "counts")
    expect(counts.sizes["trial"] <= len(session.trials), "trials")
    expect(counts.dtype.kind == "i" and (counts.values >= 0).all(), "kind of counts")


def check_pairing(paired, counts):
    n = paired.sizes["window"]
    expect(len(paired) == n == len(paired.partners) * len(paired.first_bins), "windows")
    for column, name in enumerate(paired.subjects):
        windows = paired[name]
        shape = (n, counts[name].sizes["unit"], paired.width)
        expect(windows.shape == shape, f"windows of {name}")
        used = paired.partners[:, column]
        expect((used >= -1).all() and (used < paired.n_trials(name)).all(), "trials used")
        expect(set(paired.trial_ids(name)) <= set(counts[name]["trial"].values), "trial ids")
    expect(paired.to_dataset().sizes["window"] == n, "table of windows")


def check_latents(latents, paired, n_latents):
    expect(latents.dims == ("subject", "window", "latent"), "dims of latents")
    expect(latents.sizes["window"] == len(paired), "windows of latents")
    expect(latents.sizes["latent"] == n_latents, "number of latents")


# ------------------------------------------------------------------------------ door: NWB

NWB = gzip.decompress((HERE / "corpus" / "mitt.nwb.gz").read_bytes())


def nwb(rng, folder):
    """A small NWB file with damaged bytes, or with damaged contents."""
    path = folder / "mitt.nwb"
    if rng.random() < 0.5:
        data, told = NWB, []
        for _ in range(rng.integers(1, 4)):
            what, data = damaged(rng, data or b"\0")
            told.append(what)
        path.write_bytes(data)
    else:
        path.write_bytes(NWB)
        told = []
        # What an earlier damage has left may be beyond damage.
        with h5py.File(path, "r+") as file, contextlib.suppress(Exception):
            for _ in range(rng.integers(1, 4)):
                told.append(_damage_contents(rng, file))

    def attempt():
        session = ns.read_nwb(path)
        check_session(session)
        counts = ns.bin_spikes(session, "start_time", (0.0, 0.1), 0.05)
        check_counts(counts, session, (0.0, 0.1), 0.05)

    return "; ".join(told), attempt


def _damage_contents(rng, file):
    names = []
    file.visit(names.append)
    # Most of a file is of no interest to the reader; what is, gets more than its share.
    vital = [name for name in names if name.startswith(("units", "intervals"))]
    name = pick(rng, vital if vital and rng.random() < 0.8 else names)
    item = file[name]
    kinds = ["delete", "attribute", "attribute", "rename", "group", "empty"]
    kinds += ["values", "values", "shape", "dtype"] * isinstance(item, h5py.Dataset)
    kind = pick(rng, kinds)
    if kind == "delete":
        del file[name]
    elif kind == "attribute":
        key = pick(rng, [*item.attrs] or ["neurodata_type"])
        if rng.random() < 0.3 and key in item.attrs:
            del item.attrs[key]
        else:
            value = pick(rng, ("", "DynamicTable", "Units", "🐀", 3, -1.5, [b"id", b"x"], [1, 2]))
            item.attrs[key] = value
        kind = f"attribute {key} of"
    elif kind == "rename":
        file.move(name, f"{name}_{pick(rng, ('x', 'Ω', 'index'))}")
    elif kind in ("group", "empty"):
        attributes = dict(item.attrs)
        del file[name]
        made = file.create_group(name) if kind == "group" else file.create_dataset(name, (0,), "i")
        for key, value in attributes.items():
            made.attrs[key] = value
    else:
        values = item[()]
        attributes = dict(item.attrs)
        del file[name]
        item = file.create_dataset(name, data=_other_values(rng, kind, values))
        for key, value in attributes.items():
            with contextlib.suppress(TypeError):
                item.attrs[key] = value
    return f"{kind} {name}"


def _other_values(rng, kind, values):
    values = np.asarray(values)
    if kind == "shape":
        shapes = (values[None], values[..., None], values[:0] if values.ndim else values.ravel())
        longer = np.concatenate([values.ravel(), values.ravel()])
        return pick(rng, (*shapes, longer, longer[: max(1, values.size // 2)]))
    if kind == "dtype":
        size = max(1, values.size)
        return pick(
            rng,
            (
                np.arange(size, dtype="u1"), np.linspace(-1, 1, size), np.ones(size, "?"),
                np.array([b"x"] * size), np.full(size, 2**62), np.zeros(size, "c8"),
                np.zeros(size, [("a", "i4"), ("b", "f4")]), np.float64(3.0),
            ),
        )  # fmt: skip
    values = values.copy()
    if values.size and values.dtype.kind in "iuf":
        bad = (np.nan, np.inf, -1e300, -1.0) if values.dtype.kind == "f" else (0, 1, 127, -1)
        with np.errstate(all="ignore"):
            value = np.array(pick(rng, bad)).astype(values.dtype)
        values.flat[rng.integers(values.size)] = value
        return values
    return values if rng.random() < 0.5 else np.array([b"\xff\xfe"] * max(1, values.size))


# ------------------------------------------------------------------------------ door: arrays


def _parts(rng):
    n_units, n_trials = int(rng.integers(1, 5)), int(rng.integers(2, 9))
    spikes = {u: np.sort(rng.uniform(0, n_trials, rng.integers(0, 40))) for u in range(n_units)}
    start = np.arange(n_trials, dtype=float)
    trials = pd.DataFrame(
        {"start_time": start, "stop_time": start + 0.5, "odor": [*"AB" * n_trials][:n_trials]}
    )
    units = pd.DataFrame({"area": ["CA1"] * n_units}, index=range(n_units))
    return {"subject": "mitt", "spike_times": spikes, "units": units, "trials": trials}


def _odd_spikes(rng, times):
    odd = (
        np.append(times, np.nan), np.append(times, np.inf), times[:, None], times.astype(str),
        times.astype(object), times.astype(complex), times > 1, times.astype("M8[s]"), times[::-1],
        times * 1e300, times[:0], times.tolist(), 3.0, None, "abc", [[1.0], [2.0, 3.0]],
        np.append(times, None), pd.Series(times, index=times[::-1]), np.ma.masked_less(times, 1),
        times.astype("f2"), times.astype("u1"), {"a": 1}, np.array([{}]), iter([1.0]),
    )  # fmt: skip
    return pick(rng, odd)


def _odd_table(rng, table):
    table = table.copy()
    if not len(table):
        return table
    kind = pick(rng, ("index", "column", "cell", "rows", "names", "other", "columns"))
    n = len(table)
    if kind == "index":
        indices = (
            [0] * n, [np.nan] * n, [None] * n, ["Ω"] * n, [f"t{i}" for i in range(n)],
            [(i, i) for i in range(n)], np.arange(n) * 0.5, pd.date_range("2026", periods=n),
        )  # fmt: skip
        index = pick(rng, indices)
        multi = isinstance(index, list) and isinstance(index[0], tuple)
        table.index = pd.MultiIndex.from_tuples(index) if multi else pd.Index(index)
    elif kind == "column":
        name = pick(rng, [*table.columns, *("trial", "unit", "time", "subject", "Ω", 3)])
        columns = (
            [nasty(rng)] * n, np.full(n, np.nan), np.arange(n), [None, *range(n - 1)],
            [[1]] * n, [{}] * n, ["a", *range(n - 1)], pd.date_range("2026", periods=n),
            pd.Categorical(["a"] * n), np.full(n, 1e300), [f"{i}" for i in range(n)],
        )  # fmt: skip
        table[name] = pd.Series(pick(rng, columns), index=table.index, dtype=object).infer_objects()
    elif kind == "cell":
        table = table.astype(object)
        table.iat[rng.integers(n), rng.integers(table.shape[1])] = nasty(rng)
    elif kind == "rows":
        table = pick(rng, (table.iloc[:0], table.iloc[:1], pd.concat([table] * 2)))
        if rng.random() < 0.3:
            table = pd.concat([table] * 500, ignore_index=True)
    elif kind == "names":
        table = table.rename(columns={pick(rng, [*table.columns]): pick(rng, ("Ω", "", 3, None))})
    elif kind == "columns":
        table = pd.concat([table, table.iloc[:, :1]], axis=1)
    else:
        table = pick(rng, (table.to_dict(), table.to_numpy(), table.iloc[:, 0], nasty(rng)))
    return table


def _arrays_session(rng, folder):
    given, told = _parts(rng), []
    for _ in range(rng.integers(0, 3)):
        which = pick(rng, ("subject", "spike_times", "spike", "units", "trials", "trials"))
        told.append(which)
        if which == "spike":
            if isinstance(given["spike_times"], dict):
                unit = int(rng.integers(len(given["spike_times"])))
                times = given["spike_times"][unit]
                if isinstance(times, np.ndarray) and times.dtype == float and times.ndim == 1:
                    given["spike_times"][unit] = _odd_spikes(rng, times)
        elif which in ("units", "trials") and isinstance(given[which], pd.DataFrame):
            given[which] = _odd_table(rng, given[which])
        else:
            given[which] = nasty(rng)
    options = {"align": "start_time", "span": (0.0, 0.4), "bin_size": 0.1}
    if rng.random() < 0.4:
        key = pick(rng, sorted(options))
        options[key] = (0.0, nasty(rng)) if key == "span" and rng.random() < 0.7 else nasty(rng)
        told.append(f"{key}={options[key]!r:.40}")
    write = rng.random() < 0.2

    def attempt():
        session = ns.Session(**given)
        check_session(session)
        if write:
            again = ns.read_nwb(ns.write_nwb(session, folder / "again.nwb"))
            check_session(again)
            expect(len(again.units) == len(session.units), "units written")
            expect(len(again.trials) == len(session.trials), "trials written")
        counts = ns.bin_spikes(session, **options)
        check_counts(counts, session, options["span"], options["bin_size"])
        paired = ns.pair_subjects({"mitt": counts}, by="odor", width=0.2, step=0.2)
        check_pairing(paired, {"mitt": counts})

    return f"session: {told}", attempt


def _counts_of(rng, n_units=None, n_trials=None):
    n_units, n_trials = n_units or int(rng.integers(1, 4)), n_trials or int(rng.integers(2, 9))
    return xr.DataArray(
        rng.poisson(0.5, (n_trials, n_units, 8)).astype(np.int16),
        dims=("trial", "unit", "time"),
        coords={
            "trial": np.arange(n_trials), "unit": np.arange(n_units),
            "time": (np.arange(8) + 0.5) * 0.01, "odor": ("trial", [*"AB" * n_trials][:n_trials]),
        },
        attrs={"bin_size": 0.01},
    )  # fmt: skip


def _odd_counts(rng, counts):
    n = counts.sizes["trial"]
    kind = pick(rng, ("dims", "dtype", "value", "size", "coord", "bins", "other"))
    if kind == "dims":
        return pick(
            rng,
            (
                counts.transpose("time", "unit", "trial"), counts.rename(unit="neuron"),
                counts.isel(unit=0), counts.expand_dims("extra"), counts.isel(time=0, drop=True),
            ),
        )  # fmt: skip
    if kind == "dtype":
        kinds = ("f4", "f8", "O", "c8", "?", "U3", "u8", "M8[s]", "V2")
        return counts.copy(data=counts.values.astype(pick(rng, kinds)))
    if kind == "value":
        values = counts.values.astype(float)
        bad = (np.nan, np.inf, -1.0, 0.5, 1e30)
        values[tuple(rng.integers(counts.shape))] = pick(rng, bad)
        return counts.copy(data=values)
    if kind == "size":
        dim = pick(rng, counts.dims)
        return counts.isel({dim: slice(0, int(rng.integers(2)))})
    if kind == "coord":
        name = pick(rng, ("odor", "odor", "trial", "unit", "time"))
        dim = "trial" if name == "odor" else name
        size = counts.sizes[dim]
        values = pick(
            rng,
            (
                [0] * size, ["Ω"] * size, [np.nan] * size, [None] * size, [*range(size)],
                [1, "a"] * size, ["x"] * size, [f"{i}" for i in range(size)], [1e300] * size,
                [True] * size,
            ),
        )[:size]  # fmt: skip
        if rng.random() < 0.2:
            return counts.drop_vars(name)
        return counts.assign_coords({name: (dim, np.array(values, object))})
    if kind == "bins":
        if rng.random() < 0.5:
            return counts.assign_attrs(bin_size=nasty(rng))
        counts = counts.assign_coords(time=pick(rng, (np.zeros(8), np.arange(8), -counts.time)))
        del counts.attrs["bin_size"]
        return counts
    return pick(rng, (counts.values, counts.to_dataset(name="counts"), None, n, "counts"))


def _arrays_pairing(rng, folder):
    counts = {"mitt": _counts_of(rng), "stella": _counts_of(rng)}
    options = {"by": "odor", "width": 0.04, "step": 0.02}
    told, after = [], {}
    for _ in range(rng.integers(0, 3)):
        what = pick(rng, ("counts", "counts", "options", "names", "split", "select", "repair"))
        told.append(what)
        if not counts:
            break
        name = pick(rng, [*counts])
        if what == "counts" and isinstance(counts.get(name), xr.DataArray):
            with contextlib.suppress(Exception):
                counts[name] = _odd_counts(rng, counts[name])
        elif what == "options":
            names = ("by", "width", "step", "order", "seed", "surplus", "conditions")
            options[pick(rng, names)] = nasty(rng)
            told.append(f"{options!r:.200}")
        elif what == "names":
            key = pick(rng, (*TEXTS, 3, None, ("a", "b")))
            counts = pick(rng, ({}, {key: counts[name]}, {**counts, key: _counts_of(rng)}))
        else:
            after[what] = nasty(rng)

    def attempt():
        paired = ns.pair_subjects(counts, **options)
        check_pairing(paired, {str(name): array for name, array in counts.items()})
        if "select" in after:
            chosen = paired.select(after["select"])
            expect(set(chosen.subjects) <= set(paired.subjects), "selected")
        if "repair" in after:
            expect(len(paired.repair(after["repair"])) == len(paired), "paired again")
        fraction = after.get("split", 0.5)
        parts = paired.split(fraction)
        for part in parts:
            check_pairing(part, {str(name): array for name, array in counts.items()})
        used = [set(part.trial_ids(paired.subjects[0])) for part in parts]
        expect(not used[0] & used[1], "a trial on both sides")

    return f"pairing: {told} {after!r:.60}", attempt


_MODEL = {}


def _golden():
    """The golden model and windows like those it was fitted to."""
    if not _MODEL:
        stored = json.loads((GOLDEN / "windows.json").read_text(encoding="utf-8"))
        arrays = {
            name: xr.DataArray(
                np.asarray(values, np.int16), dims=("trial", "unit", "time"),
                coords={"odor": ("trial", [*"AB" * 4])}, attrs={"bin_size": 0.01},
            )
            for name, values in stored["counts"].items()
        }  # fmt: skip
        _MODEL["model"] = ns.SharedLatentModel.load(GOLDEN / "model", device="cpu")
        _MODEL["counts"] = arrays
    return _MODEL["model"], dict(_MODEL["counts"])


def _arrays_use(rng, folder):
    model, counts = _golden()
    width, told = 0.04, []
    for _ in range(rng.integers(0, 3)):
        name = pick(rng, sorted(counts))
        with contextlib.suppress(Exception):
            counts[name] = _odd_counts(rng, counts[name])
            told.append(name)
    if rng.random() < 0.3:
        width = 0.02
    use = pick(rng, ("transform", "impute", "log_likelihood", "sample", "separation"))
    value = nasty(rng) if rng.random() < 0.6 else None
    target = pick(rng, ("mitt", "stella", value))
    order = rng.permutation(["mitt", "stella"])

    def attempt():
        if use == "sample":
            drawn = model.sample(value)
            shapes = {name: array.shape for name, array in drawn.items()}
            expect(shapes == {"mitt": (value, 3, 4), "stella": (value, 2, 4)}, "sampled")
            return
        paired = ns.pair_subjects({n: counts[n] for n in order}, by="odor", width=width, step=0.04)
        if use == "transform":
            options = {} if value is None else {"part": value}
            check_latents(model.transform(paired, **options), paired, 2)
            return
        if use == "impute":
            found = model.impute(paired, target, value)
            shape = (len(paired), len(model.units_[target]), 4)
            expect(found.shape == shape, "imputed")
            return
        if use == "log_likelihood":
            options = {} if value is None else {"n_draws": value}
            found = model.log_likelihood(paired, **options)
            expect(found.joint.shape == (len(paired),), "likelihoods")
            return
        latents = model.transform(paired)
        latents = _odd_latents(np.random.default_rng(0 if value is None else 1), latents)
        found = ns.separation(latents, model.transform(paired), **({} if value is None else
                              {"by": value}))  # fmt: skip
        n = latents.sizes["subject"]
        expect(found.cross.shape == (2, n, n), "separation")

    return f"use: {use} {told} {value!r:.40} {target!r:.40}", attempt


def _odd_latents(rng, latents):
    options = (
        latents, latents.values, latents.isel(latent=0), latents.isel(window=slice(0)),
        latents.drop_vars("odor"), latents.drop_vars("trial"), latents * np.nan, latents + np.inf,
        latents.isel(subject=[0, 0]), latents.isel(subject=[0]), latents.transpose(),
        latents.astype(str), latents.assign_coords(odor=("window", [None] * latents.shape[1])),
    )  # fmt: skip
    return pick(rng, options)


PARAMETERS = (
    "subjects", "objective", "likelihood", "latent_dim", "hidden", "beta", "batch_size", "lr",
    "weight_decay", "init", "inputs", "dropout", "patience", "device", "seed",
)  # fmt: skip


def _arrays_settings(rng, folder):
    _, counts = _golden()
    settings = {"epochs": 1, "progress": False, "latent_dim": 2, "hidden": (3,), "device": "cpu"}
    for _ in range(rng.integers(0, 3)):
        key = pick(rng, PARAMETERS)
        values = ("gaussian", "poe", "input", "random", ("mitt",), (4, 3), nasty(rng), nasty(rng))
        settings[key] = pick(rng, values)

    def attempt():
        paired = ns.pair_subjects(counts, by="odor", width=0.04, step=0.04)
        model = ns.SharedLatentModel(**settings).fit(paired)
        check_latents(model.transform(paired), paired, settings["latent_dim"])

    return f"settings: {settings!r:.300}", attempt


def arrays(rng, folder):
    """Sessions, counts, windows, latents and settings, of which one or two are awkward."""
    scenes = (_arrays_session,) * 4 + (_arrays_pairing,) * 3 + (_arrays_use,) * 2
    return pick(rng, (*scenes, _arrays_settings))(rng, folder)


# ------------------------------------------------------------------------------ door: TOML

TOML = (HERE / "corpus" / "run.toml").read_text(encoding="utf-8")
VALUES = (
    "0", "-1", "1", "2", "0.5", "-0.5", "1e-300", "1e300", "nan", "inf", "-inf", "true", "false",
    '""', '"x"', '"Ω🐀"', '"\\u0000"', "[]", "[1]", "[0.0, 0.3]", "[0.3, 0.0]", '["a", "b"]', "{}",
    "{ a = 1 }", "1979-05-27", "07:32:00", "10000000000000000000000000000000", "[[]]",
    '"""\na\n"""', '"odor"', '"start_time"', "[nan, nan]", "[[1, 2], [3, 4]]",
    "4294967296", "0.1", "0.25",
)  # fmt: skip
# How long a run takes is its user's choice: one asked to take for ever would not be a finding.
LASTING = ("epochs", "permutations", "bootstraps")


def toml(rng, folder):
    """The settings of a run, with other values, keys, lines or bytes."""
    files = [str(folder / f"{name}.nwb") for name in ("mitt", "stella")]
    text, told = TOML.replace('["FILES"]', json.dumps(files)), []
    for _ in range(rng.integers(1, 4)):
        kind = pick(rng, ("value", "value", "value", "line", "key", "bytes", "none"))
        lines = text.splitlines() or [""]
        at = int(rng.integers(len(lines)))
        key, equals, _ = lines[at].partition(" = ")
        told.append(f"{kind} {lines[at]:.30}")
        if kind == "value" and equals and key not in LASTING:
            lines[at] = f"{key} = {pick(rng, VALUES)}"
        elif kind == "line":
            choice = (lines[:at], lines[at + 1 :], lines[: at + 1] + lines[at:], lines[::-1])
            lines = pick(rng, (*choice, [*lines[:at], *lines[at + 1 :]]))
        elif kind == "key" and equals:
            lines[at] = lines[at].replace(key, pick(rng, ("x", "Ω", "seed", "by", "model", "a.b")))
        text = "\n".join(lines)
        if kind == "bytes" and text:
            text = damaged(rng, text.encode("utf-8", "surrogateescape"))[1].decode(
                "utf-8", "surrogateescape"
            )
    (folder / "run.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    shutil.rmtree(folder / "run", ignore_errors=True)
    for name in ("mitt", "stella"):
        if not (folder / f"{name}.nwb").exists():
            _, counts = _golden()
            ns.write_nwb(_session_like(counts[name], name), folder / f"{name}.nwb")

    def attempt():
        code, out, err = neuroshare(
            "fit", "--config", folder / "run.toml", "--out", folder / "run", "--quiet"
        )
        written = sorted(path.name for path in folder.glob("run/*"))
        if code:
            expect(code == 2, f"exit code {code}")
            refused = [line for line in err.splitlines() if line.startswith("error: ")]
            expect(len(refused) == 1, f"one sentence, got {err[-300:]!r}")
            expect(not written, f"left {written}")
            raise ValueError(refused[0].removeprefix("error: "))
        latents = xr.load_dataarray(folder / "run" / "latents.nc", engine="h5netcdf")
        expect(latents.dims == ("subject", "window", "latent") and latents.size, "latents written")
        expect((folder / "run" / "scores.json").is_file(), "scores written")
        expect("Traceback" not in out + err, "traceback")

    return " | ".join(told), attempt


def _session_like(counts, name):
    """A session whose bins hold these counts, trial after trial."""
    start = np.arange(float(counts.sizes["trial"]))
    offset = (np.arange(8) + 0.5) * 0.01
    spikes = [
        np.sort(np.repeat((start[:, None] + offset).ravel(), unit.ravel()))
        for unit in counts.values.transpose(1, 0, 2)
    ]
    trials = pd.DataFrame(
        {"start_time": start, "stop_time": start + 0.5, "odor": counts.odor.values.astype(object)}
    )
    return ns.Session(name, spikes, trials=trials)


def neuroshare(*arguments):
    """Run the command line in this process: exit code, stdout, stderr."""
    from neuroshare import cli

    out, err, code = io.StringIO(), io.StringIO(), 0
    before = sys.argv, warnings.showwarning
    sys.argv = ["neuroshare", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv, warnings.showwarning = before
    return code, out.getvalue(), err.getvalue()


# ------------------------------------------------------------------------------ door: models

JUNK = (
    None, True, 0, -1, 1, 2, 3, 0.5, 1e300, 10**30, 65_536, "", "x", "Ω🐀", "mmvm", "gaussian", [],
    {}, [0], [[]], ["mitt"], ["mitt", "mitt"], {"object": "mmvm", "arguments": {}},
    {"object": "os.system", "arguments": {"command": "false"}}, {"custom": "Own"},
    {"mapping": {"mitt": {"object": "subject", "arguments": {}}}}, float("nan"),
)  # fmt: skip


def models(rng, folder):
    """A saved model with damaged bytes, other JSON, other tensors, or files that are not there."""
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / "model"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(GOLDEN / "model", path)
    about, weights = path / "model.json", path / "weights.safetensors"
    told = []
    for _ in range(rng.integers(1, 3)):
        kind = pick(rng, ("bytes", "bytes", "json", "json", "json", "tensors", "tensors", "files"))
        file = pick(rng, (about, weights))
        try:
            if kind == "bytes" and file.stat().st_size:
                what, data = damaged(rng, file.read_bytes())
                file.write_bytes(data)
                kind = f"{file.name} {what}"
            elif kind == "json":
                stored = json.loads(about.read_bytes())
                kind = _other_json(rng, stored)
                about.write_text(json.dumps(stored), encoding="utf-8")
            elif kind == "tensors":
                tensors = load_file(weights)
                name = pick(rng, sorted(tensors))
                value = tensors.pop(name)
                choices = (
                    value.flatten(), value[:1], value.double(), value.int(), value * torch.nan,
                    value[:0], value.unsqueeze(0), torch.zeros(()), value.half(), value * 1e30,
                )  # fmt: skip
                if rng.random() < 0.8:
                    at = name if rng.random() < 0.8 else pick(rng, ("x", "prior.x", "prior.loc"))
                    tensors[at] = pick(rng, choices).clone()
                save_file(tensors, weights)
                kind = f"tensor {name}"
            elif kind == "files":
                file.unlink()
                if rng.random() < 0.5:
                    file.mkdir() if rng.random() < 0.5 else file.write_bytes(b"")
                kind = f"file {file.name}"
        # What an earlier damage has left cannot be read to be damaged again.
        except Exception:
            kind = "no more"
        told.append(kind)

    def attempt():
        model = ns.SharedLatentModel.load(path, device="cpu")
        _, counts = _golden()
        paired = ns.pair_subjects(counts, by="odor", width=0.04, step=0.04)
        check_latents(model.transform(paired), paired, model.latent_dim_)
        for name, array in model.sample(3).items():
            expect(array.shape == (3, len(model.units_[name]), 4), "sampled")
        target = model.subjects_[0]
        expected = model.impute(paired, target)
        expect(expected.shape == (len(paired), len(model.units_[target]), 4), "imputed")

    return "; ".join(told), attempt


def _other_json(rng, stored):
    """Change one value, anywhere in it."""
    at, trail = stored, []
    while True:
        keys = [*at] if isinstance(at, dict) else [*range(len(at))]
        if not keys:
            return "nothing"
        key = pick(rng, keys)
        trail.append(str(key))
        inside = isinstance(at[key], dict | list) and rng.random() < 0.75
        if not inside:
            break
        at = at[key]
    if rng.random() < 0.25:
        del at[key]
    else:
        at[key] = pick(rng, JUNK)
    return f"json {'.'.join(trail)}"


# ------------------------------------------------------------------------------ door: binning


def binning(rng, folder):
    """Sessions observed in part, and any span: the counts are those counted one by one, or none."""
    n_units, n_trials = int(rng.integers(1, 5)), int(rng.integers(1, 12))
    spikes = [np.sort(rng.uniform(0, 2 * n_trials, rng.integers(0, 60))) for _ in range(n_units)]
    if rng.random() < 0.3:  # times on the edges of bins
        spikes = [np.round(times, 1) for times in spikes]
    start = 2.0 * np.arange(n_trials) + rng.choice([0.0, 0.1, rng.uniform()])
    if rng.random() < 0.3:
        start[rng.integers(n_trials)] = pick(rng, (np.nan, np.inf, 1e6, -50.0, start[0]))
    stop = start + pick(rng, (0.5, 1.9, 5.0))
    odor = np.array([*"AB" * n_trials][:n_trials], object)
    table = pd.DataFrame({"start_time": start, "stop_time": stop, "odor": odor, "late": 100.0})
    observed = None
    if rng.random() < 0.5:
        observed = [
            np.sort(rng.uniform(-1, 2 * n_trials + 1, 2 * rng.integers(1, 4))).reshape(-1, 2)
            for _ in range(n_units)
        ]
    align = pick(rng, ("start_time", "start_time", "stop_time", "start_time + late / 1000"))
    begin = float(pick(rng, (0.0, -0.5, 0.1, -0.3)))
    n_bins, width = int(rng.integers(1, 9)), float(pick(rng, (0.1, 0.05, 0.01, 1 / 3)))
    span = (begin, begin + n_bins * width)
    how = pick(rng, ("drop", "drop", "mark", "ignore"))
    where = folder / "cache" if rng.random() < 0.2 else None

    def attempt():
        session = ns.Session("mitt", spikes, trials=table, observed=observed)
        counts = ns.bin_spikes(session, align, span, width, unobserved=how, cache=where)
        event = table["start_time"] + 0.1 if "late" in align else table[align]
        expect(counts.sizes["time"] == n_bins, "number of bins")
        edges = begin + np.arange(n_bins + 1) * width
        for trial in counts["trial"].values:
            at = float(event[trial]) + edges
            for unit in counts["unit"].values:
                times = spikes[unit]
                expected = [((times >= a) & (times < b)).sum() for a, b in pairwise(at)]
                found = counts.sel(trial=trial, unit=unit).values
                expect((found == expected).all(), f"counts {found.tolist()}, not {expected}")
                seen = observed is None or any(
                    a - 1e-6 <= at[0] and at[-1] <= b + 1e-6 for a, b in observed[unit]
                )
                if how == "drop":
                    expect(seen, f"trial {trial} of unit {unit} was not observed")
                if how == "mark" and "observed" in counts.coords:
                    marked = bool(counts["observed"].sel(trial=trial, unit=unit))
                    expect(seen or not marked, "what was not observed is marked")
        lost = n_units - counts.sizes["unit"], n_trials - counts.sizes["trial"]
        expect(how == "drop" or lost[0] == 0, "units are dropped where that was asked for")

    return f"{n_trials} trials, {n_units} units, {align} {span} {width} {how} {observed}", attempt


# ------------------------------------------------------------------------------ door: files

SPAN, BIN = (0.0, 0.4), 0.1
LABELS = {
    "texts": ("A", "B"), "blanks": ("a ", "B"), "booleans": (True, False),
    "words": ("TRUE", "False"), "digits": ("1", "0"), "numbers": (1, 0), "single": (0.1, 0.9),
    "double": (0.1, 0.9),
}  # fmt: skip
ALIKE = (("texts", "blanks"), ("booleans", "words"), ("booleans", "digits"), ("numbers", "digits"),
         ("single", "double"), ("booleans", "numbers"))  # fmt: skip


class Truth:
    """What a file means: spikes, events, odors, and what must not be used."""

    def __init__(self, rng, name):
        self.name = name
        n = 24
        self.start = 10.0 + 2.0 * np.arange(n)
        self.odor = rng.permutation(np.resize([0, 1], n))
        self.spikes = [np.sort(rng.uniform(5, 60, rng.integers(60, 300))) for _ in range(4)]
        self.dropped = set()
        """Trials that may not be used."""
        self.absent = set()
        """Trials (and units) that were not observed."""
        self.refusal = False
        """Whether nothing but a refusal is right."""
        self.column = "odor"


def _replaced(file, path, data):
    about = dict(file[path].attrs)
    del file[path]
    item = file.create_dataset(path, data=data)
    for key, value in about.items():
        item.attrs[key] = value


def _column_of_matlab(rng, file, truth):
    path = pick(rng, ("intervals/trials/odor", "intervals/trials/start_time", "units/which",
                      "units/spike_times_index", "units/spike_times"))  # fmt: skip
    data = file[path][()]
    _replaced(file, path, data.reshape(pick(rng, ((-1, 1), (1, -1)))))


def _unlisted(rng, file, truth):
    file["intervals/trials"].attrs["colnames"] = ["start_time", "stop_time"]


def _padded_names(rng, file, truth):
    for group in ("units", "intervals/trials"):
        names = [str(n) for n in file[group].attrs["colnames"]]
        del file[group].attrs["colnames"]
        width = max(map(len, names)) + 2
        file[group].attrs["colnames"] = np.array([n.ljust(width).encode() for n in names])


def _repeated_ids(rng, file, truth):
    file["intervals/trials/id"][12:] = np.arange(12)
    if rng.random() < 0.5:
        file["units/id"][2:] = np.arange(2)


def _padding(rng, file, truth):
    """NaN at the end of the last unit, as the padding of a matrix."""
    times, ends = file["units/spike_times"][()], file["units/spike_times_index"][()]
    filler = pick(rng, (np.nan, 0.0))
    _replaced(file, "units/spike_times", np.append(times, [filler] * 3))
    _replaced(file, "units/spike_times_index", ends + np.array([0, 0, 0, 3], ends.dtype))


def _unsorted(rng, file, truth):
    end = int(file["units/spike_times_index"][0])
    file["units/spike_times"][:end] = rng.permutation(file["units/spike_times"][:end])


def _missing_labels(rng, file, truth):
    data = file["intervals/trials/odor"]
    if data.dtype.kind != "O":
        return
    gone = rng.choice(24, 3, replace=False)
    for trial in gone:
        data[trial] = pick(rng, ("", "nan", "None", "n/a", "null"))
    truth.dropped |= set(gone.tolist())


def _missing_times(rng, file, truth):
    trial = int(rng.integers(24))
    file["intervals/trials/start_time"][trial] = np.nan
    truth.dropped.add(trial)


def _backwards(rng, file, truth):
    trial = int(rng.integers(24))
    file["intervals/trials/stop_time"][trial] = 1.0
    truth.dropped.add(trial)


def _seen_in_part(rng, file, truth):
    """Units observed from some time on, or up to it."""
    group, bounds = file["units"], []
    for unit in range(4):
        at = float(rng.uniform(10, 58))
        bounds.append(pick(rng, ((5.0, 60.0), (5.0, 60.0), (5.0, at), (at, 60.0))))
        begin, end = bounds[-1]
        truth.absent |= {
            (trial, unit)
            for trial, start in enumerate(truth.start)
            if not (begin <= start and start + SPAN[1] <= end)
        }
    item = group.create_dataset("obs_intervals", data=np.array(bounds))
    item.attrs["neurodata_type"] = "VectorData"
    names = [*_names_of(group), "obs_intervals"]
    del group.attrs["colnames"]
    group.attrs["colnames"] = names
    index = group.create_dataset("obs_intervals_index", data=np.arange(1, 5))
    index.attrs["target"] = item.ref


def _invalid(rng, file, truth):
    at = float(rng.uniform(12, 50))
    table = file["intervals"].create_group("invalid_times")
    table.attrs["neurodata_type"] = "TimeIntervals"
    table.attrs["colnames"] = ["start_time", "stop_time"]
    table["id"], table["start_time"], table["stop_time"] = [0], [at], [at + 3.3]
    hit = (truth.start < at + 3.3) & (truth.start + SPAN[1] > at)
    truth.absent |= {(int(t), u) for t in np.flatnonzero(hit) for u in range(4)}


def _later_clock(rng, file, truth):
    """All times counted from another zero; in float32 some are told apart no longer."""
    shift = float(pick(rng, (86_400.0, 1.7e9, -3.0)))
    single = rng.random() < 0.3
    times = file["units/spike_times"][()] + shift
    _replaced(file, "units/spike_times", times.astype("f4" if single else "f8"))
    for column in ("start_time", "stop_time"):
        path = f"intervals/trials/{column}"
        _replaced(file, path, file[path][()] + shift)
    for path in ("units/obs_intervals", "intervals/invalid_times/start_time",
                 "intervals/invalid_times/stop_time"):  # fmt: skip
        if path in file:
            file[path][...] += shift
    truth.shift = shift
    truth.refusal |= single and shift > 1e6
    truth.coarse = single and shift > 0


def _wrong_clock(rng, file, truth):
    paths = pick(rng, (("units/spike_times",),
                       ("intervals/trials/start_time", "intervals/trials/stop_time")))  # fmt: skip
    factor = pick(rng, (1_000.0, 30_000.0))
    for path in paths:
        values = file[path][()] * factor
        _replaced(file, path, np.round(values) if factor > 1_000 else values)
    truth.refusal = True


def _relative(rng, file, truth):
    for column in ("start_time", "stop_time"):
        path = f"intervals/trials/{column}"
        values = file[path][()]
        _replaced(file, path, values - np.resize(truth.start, len(values)))
    truth.refusal = True


def _silent(rng, file, truth):
    _replaced(file, "units/spike_times", np.empty(0))
    _replaced(file, "units/spike_times_index", np.zeros(4, np.int64))
    truth.refusal = True


def _another_table(rng, file, truth):
    module = file.require_group("processing/behavior")
    file.copy("intervals/trials", module, "trials")
    module["trials/start_time"][...] += 0.7


def _wide_column(rng, file, truth):
    file["intervals/trials"].create_dataset("pose", data=np.zeros((24, 3)))


def _listed_twice(rng, file, truth):
    group = file["intervals/trials"]
    for name in [n for n in group if n != "id"]:
        data = group[name][()]
        if len(data) == 24 and data.ndim == 1:
            _replaced(file, f"intervals/trials/{name}", np.concatenate([data, data[:6]]))
    _replaced(file, "intervals/trials/id", np.arange(30))


ODDITIES = (
    _unlisted, _padded_names, _repeated_ids, _padding, _unsorted, _missing_labels, _missing_times,
    _backwards, _seen_in_part, _invalid, _later_clock, _another_table, _wide_column, _listed_twice,
    _column_of_matlab,
)  # fmt: skip
"""In the order in which they are done to a file."""
CLOCKS = (_wrong_clock, _relative, _silent)
COLUMNS = ("odor", "odor id", "time", "unit", "subject", "start", "part", "onset", "1", "größe")


def _written(rng, path, name, labels):
    """A file of one subject whose labels are of a kind, and what it means."""
    truth = Truth(rng, name)
    values = [LABELS[labels][code] for code in truth.odor]
    column = np.array(values, {"single": "f4", "double": "f8", "numbers": "i8"}.get(labels))
    trials = pd.DataFrame({"start_time": truth.start, "stop_time": truth.start + 1.0})
    trials["odor"] = column.astype(object) if column.dtype.kind == "U" else column
    units = pd.DataFrame({"which": np.arange(4)})
    ns.write_nwb(ns.Session(name, truth.spikes, units, trials), path)
    truth.shift, truth.coarse = 0.0, False
    return truth


def files(rng, folder):
    """Files of kinds that people have, read as a run reads them: right counts, or refused."""
    from neuroshare.recordings import tree
    from neuroshare.workflow.reading import read_recordings, split_recordings
    from neuroshare.workflow.settings import RunConfig

    tree.require_intact = lambda path: None  # whole files; a process for each takes its time
    kinds = pick(rng, ALIKE)
    column = pick(rng, COLUMNS) if rng.random() < 0.3 else "odor"
    truths, told = {}, [str(kinds), column]
    for name, labels in zip(("mitt", "stella"), kinds, strict=True):
        truth = truths[name] = _written(rng, folder / f"{name}.nwb", name, labels)
        chosen = sorted(rng.choice(len(ODDITIES), rng.integers(0, 3), replace=False))
        with h5py.File(folder / f"{name}.nwb", "r+") as file:
            if rng.random() < 0.1 and _later_clock not in [ODDITIES[k] for k in chosen]:
                odd = pick(rng, CLOCKS)
                odd(rng, file, truth)
                told.append(odd.__name__)
            for k in chosen:
                ODDITIES[k](rng, file, truth)
                told.append(ODDITIES[k].__name__)
            if column != "odor":
                file["intervals/trials"].move("odor", column)
                names = [n.strip() for n in _names_of(file["intervals/trials"])]
                names = [column if n == "odor" else n for n in names]
                del file["intervals/trials"].attrs["colnames"]
                file["intervals/trials"].attrs["colnames"] = names
    config = RunConfig(
        tuple(str(folder / f"{name}.nwb") for name in truths), by=column, align="start_time",
        span=SPAN, bin_size=BIN, width=0.2, step=0.1, min_trials=3,
    )  # fmt: skip

    def attempt():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            recordings = read_recordings(config)
        expect(not any(truth.refusal for truth in truths.values()), "what cannot be meant is used")
        meaning = {}
        for name, truth in truths.items():
            _check_file(recordings, name, truth, meaning)
        expect(len(set(meaning.values())) == 2, f"labels {meaning}")
        split = split_recordings(recordings, config)
        for part in (split.train, split.test):
            for name in truths:
                expect(not set(part.trial_ids(name)) - set(recordings.counts[name].trial.values),
                       "trials of the split")  # fmt: skip
        onsets = [set(np.round(part._of("mitt").onset, 3)) for part in (split.train, split.test)]
        expect(not onsets[0] & onsets[1], "a trial on both sides of the split")

    return ", ".join(told), attempt


def _names_of(group):
    return [n.decode() if isinstance(n, bytes) else str(n) for n in group.attrs["colnames"]]


def _check_file(recordings, name, truth, meaning):
    counts = recordings.counts[name]
    labels = counts[recordings.by].values
    edges = np.linspace(*SPAN, round((SPAN[1] - SPAN[0]) / BIN) + 1)
    used = []
    for k, start in enumerate(counts["start_time"].values):
        trial = int(np.argmin(np.abs(truth.start + truth.shift - start)))
        expect(abs(truth.start[trial] + truth.shift - start) < 1e-3, f"a trial at {start}")
        used.append(trial)
        label = labels[k]
        known = not (label is None or label != label or label == "nan")
        if trial in truth.dropped:
            expect(not known, f"trial {trial} is used")
            continue
        expect(known, f"label {label!r} of trial {trial}")
        code = int(truth.odor[trial])
        meant = str(label)
        expect(meaning.setdefault((code), meant) == meant, f"{meaning}, {label!r} for {code}")
        for unit in counts["which"].values:
            expect((trial, int(unit)) not in truth.absent, f"{trial} x {unit} was not observed")
            if truth.coarse:
                continue
            times = truth.spikes[unit]
            expected = np.histogram(times, truth.start[trial] + edges)[0]
            found = counts.values[k, int(np.flatnonzero(counts["which"].values == unit)[0])]
            near = np.abs(times[:, None] - (truth.start[trial] + edges)).min(initial=1) < 1e-5
            expect(near or (found == expected).all(), f"{found.tolist()}, not {expected.tolist()}")
    expect(len(set(used)) == len(used), "a trial is used twice")
    lacking = len(used) < 24 - len(truth.dropped) or counts.sizes["unit"] < 4
    expect(not lacking or any(name in sentence for sentence in recordings.odd), "left out silently")
    if truth.absent:
        return
    expect(counts.sizes["unit"] == 4, f"{counts.sizes['unit']} units")
    expect(len(used) >= 24 - len(truth.dropped), f"{len(used)} trials")


# ------------------------------------------------------------------------------ door: analysis


def analysis(rng, folder):
    """Analyses of latents and of a model, of which one or two arguments are awkward."""
    _golden()
    if "linear" not in _MODEL:
        counts = {"mitt": _counts_of(np.random.default_rng(0), 3, 16),
                  "stella": _counts_of(np.random.default_rng(1), 2, 16)}  # fmt: skip
        paired = ns.pair_subjects(counts, by="odor", width=0.04, step=0.02)
        train, test = paired.split(0.5)
        model = ns.LinearAlignment(latent_dim=2, n_repairs=2).fit(train)
        _MODEL["linear"] = model, train, test, model.transform(train), model.transform(test)
    model, train, test, known, held = _MODEL["linear"]
    use = pick(rng, ("separation", "departure", "residuals", "imputation", "embed", "leakage"))
    options = {
        "separation": {"by": "odor", "n_permutations": 3, "n_bootstraps": 3, "seed": 0,
                       "null": "auto", "animal": None, "pooled": True, "C": 1.0},
        "departure": {"by": "odor", "seed": 0},
        "residuals": {"n_repairs": 2, "n_folds": 2, "n_permutations": 2, "n_bootstraps": 2,
                      "seed": 0},
        "imputation": {"n_bootstraps": 2, "seed": 0},
        "embed": {"method": "pca", "fit_on": None, "n_dims": 2, "seed": 0},
        "leakage": {"n_simulations": 1, "n_folds": 2, "seed": 0, "executor": None},
    }[use]  # fmt: skip
    told = []
    for _ in range(rng.integers(0, 3)):
        key = pick(rng, sorted(options))
        value = nasty(rng)
        if key.startswith("n_") and isinstance(value, int) and value > 50:
            continue  # how long it takes is its user's choice
        options[key] = value
        told.append(f"{key}={value!r:.40}")
    first, second = known, held
    parts = [train, test]
    for k in range(2):
        if rng.random() < 0.25:
            odd = _odd_latents(rng, (first, second)[k])
            first, second = (odd, second) if k == 0 else (first, odd)
            told.append(f"latents {k}")
        if rng.random() < 0.15:
            parts[k] = pick(rng, (nasty(rng), known, train.select(["mitt"]), None))
            told.append(f"part {k}")

    def attempt():
        if use == "separation":
            found = ns.separation(first, second, **options)
            for score in ("own", "cross"):
                values = found[score].values
                inside = np.isnan(values) | ((values >= 0) & (values <= 1))
                expect(inside.all(), f"{score} {values.tolist()}")
            expect(np.isfinite(found["own"].values).all(), "own accuracies")
        elif use == "departure":
            found = ns.departure(first, **options)
            known = np.isfinite(found["divergence"].values).any()
            expect(known or json.loads(found.attrs["warnings"]), "divergence")
        elif use == "residuals":
            found = ns.residuals(model, parts[1], parts[0], **options)
            expect(len(found.data_vars) > 0, "residuals")
        elif use == "imputation":
            found = ns.imputation_scores(model, *parts, **options)
            values = found["coherence"].values
            expect((np.isnan(values) | ((values >= 0) & (values <= 1))).all(), "coherence")
        elif use == "embed":
            found = ns.embed(first, **options)
            expect(found.sizes["window"] == first.sizes["window"], "windows embedded")
            expect(np.isfinite(found.values).any(), "nothing embedded")
        else:
            found = ns.leakage_report(parts[0], **options)
            values = found["accuracy"].values
            expect((np.isnan(values) | ((values >= 0) & (values <= 1))).all(), "accuracy")

    return f"{use}: {told}", attempt


# ------------------------------------------------------------------------------ going through

DOORS = {
    "nwb": nwb, "arrays": arrays, "toml": toml, "models": models, "binning": binning,
    "files": files, "analysis": analysis,
}  # fmt: skip


def complaint(error):
    """What is wrong with an error, if anything: its type, its words, or who raised it."""
    if type(error) not in REFUSALS:
        return f"{type(error).__name__} is no answer"
    if isinstance(error, WrongShape):
        return "accepted"
    text = str(error.args[0]) if error.args else ""
    if not text or "\n" in text.strip() or len(text) > 800:
        return "not a sentence"
    # A message of ours knows who is meant; one of numpy or torch does not.
    raised = traceback.extract_tb(error.__traceback__)[-1].filename
    if not raised.startswith((SOURCE, __file__)):
        return f"left to {Path(raised).parent.name}/{Path(raised).name}"
    return None


def go_through(door, number, folder):
    """Outcome of one input: works, refused, or what is wrong."""
    rng = np.random.default_rng([zlib.crc32(door.encode()), number])
    what, attempt = DOORS[door](rng, folder)
    print(json.dumps({"number": number, "what": what[:400]}), flush=True)
    # Of this process' own time, for a busy machine delays what does not hang; a wait is told too.
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    faulthandler.dump_traceback_later(20 * SECONDS, exit=True)
    try:
        attempt()
        return {"outcome": "works"}
    except BaseException as error:
        wrong = complaint(error)
        last = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {error}"[:400]
        if wrong is None:
            return {"outcome": "refused", "error": told}
        place = f"{Path(last.filename).name}:{last.lineno}"
        return {"outcome": "wrong", "complaint": wrong, "error": told, "place": place}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()


def main(door, first, last):
    warnings.simplefilter("ignore")
    # The signal of the timer shows where it found the process, and ends it.
    faulthandler.register(signal.SIGPROF, chain=True)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(int(first), int(last)):
            found = go_through(door, number, Path(folder))
            print(json.dumps({"number": number, **found}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
