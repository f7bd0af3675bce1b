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
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.exceptions import NotFittedError

import neuroshare as ns
from neuroshare import cli
from neuroshare.writing import locked, replacing

HERE = Path(__file__).parent
TABLE = HERE.parent / "docs" / "bad_input.md"
NWB = gzip.decompress((HERE / "fuzz" / "corpus" / "mitt.nwb.gz").read_bytes())
GOLDEN = sorted((HERE / "golden").glob("*/windows.json"))[-1].parent

DATA = ("--by", "odor", "--align", "start_time", "--span", 0, 0.2)
SMALL = ("--epochs", 1, "--latent-dim", 2, "--min-trials", 4, "--step", 0.1, "--quick", "--quiet")

CASES = {}
"""Kind of bad input -> where it comes in, what says so, what is called with the `Place`."""


def case(where, kind, *, error=ValueError):
    def keep(call):
        assert kind not in CASES, kind
        CASES[kind] = (where, error, call)
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

    def pair(self, counts, **options):
        return ns.pair_subjects(counts, **{"by": "odor", "step": 0.1, **options})

    def fit(self, windows, **settings):
        return ns.SharedLatentModel(**{**self.settings, **settings}).fit(windows)

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
case(READ, "spike times of NaN in a file")(
    lambda p: ns.read_nwb(p.nwb(_fill("units/spike_times", np.nan)))
)
case(READ, "two units of one id")(lambda p: ns.read_nwb(p.nwb(_fill("units/id", [0, 1, 1]))))

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
case("separation", "latents of one condition")(
    lambda p: ns.separation(*(_of_one_condition(p.model.transform(x)) for x in (p.train, p.test)))
)


def _of_one_condition(latents):
    return latents.isel(window=(latents.odor == "A").values)


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


def told(place, kind):
    """The type of the error that a case gives, and its sentence."""
    where, error, call = CASES[kind]
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


@pytest.mark.parametrize("kind", CASES)
def test_bad_input_is_refused_in_a_sentence(place, kind):
    _, sentence = told(place, kind)
    assert "\n" not in sentence.strip()
    assert len(sentence) > 30, "who, expected, got, what to do"
    assert not re.match(r"\[Errno", sentence) or str(place.folder) in sentence


def test_the_table_of_bad_input_is_that_of_the_errors(place):
    assert len(CASES) >= 40
    rows = ["| Where | What | Gives | Saying |", "| --- | --- | --- | --- |"]
    for kind, (where, _, _) in CASES.items():
        gives, sentence = told(place, kind)
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
    assert left <= whole | {"history.nc"}
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
        "import os, sys; from pathlib import Path; from neuroshare.writing import locked\n"
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
