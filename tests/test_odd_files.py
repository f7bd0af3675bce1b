"""Kinds of files that people have, and what the command line makes of them; see docs/files.md.

The files are made by small scripts beside the shared recordings. `NEUROSHARE_WRITE_TABLE=1` writes
the table, otherwise a stale one fails.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest

import neuroshare as ns
from neuroshare import cli

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("NEUROSHARE_DATA", HERE.parents[1] / "shared" / "data"))
GENERATORS = SHARED.with_name("cases") / "data"
TABLE = HERE.parent / "docs" / "files.md"
FIT = ("--align", "start_time", "--span", 0, 0.4, "--quick")

pytestmark = [
    pytest.mark.data,
    pytest.mark.filterwarnings("default"),  # the command line prints warnings
    pytest.mark.skipif(not GENERATORS.is_dir(), reason=f"no generators of files in {GENERATORS}"),
]

CASES = {}
"""Number of a generator -> what its files are, what is asked of them, what answers."""


def case(number, kind):
    def keep(asked):
        CASES[number] = (kind, asked)
        return asked

    return keep


class Said:
    """What one command printed."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err
        self.text = " ".join((out + err).split())

    def line(self, words):
        """The sentence, wrapped or not, that contains some words."""
        lines = re.split(r"\n(?!      )", self.out + self.err)
        (found, *_) = [" ".join(line.split()) for line in lines if words in " ".join(line.split())]
        return found


class Files:
    """The files of one generator, and the command line upon them."""

    def __init__(self, folder, monkeypatch, capsys):
        self.folder, self._patch, self._capsys = folder, monkeypatch, capsys

    def run(self, command, *arguments):
        line = [
            str(self.folder / a) if re.fullmatch(r"[^=]*\.(nwb|zarr)", str(a)) else str(a)
            for a in arguments
        ]
        self._patch.setattr(sys, "argv", ["neuroshare", command, *line])
        self._patch.setattr(cli.warnings, "showwarning", cli.warnings.showwarning)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = self._capsys.readouterr()
        return Said(stop.value.code or 0, out, err)

    def inspect(self, name, *options):
        said = self.run("inspect", name, *options)
        assert said.code == 0, said.err
        return said

    def fit(self, *arguments, by="odor", epochs=20, out="run"):
        out = self.folder / out
        return self.run("fit", "--by", by, *FIT, "--epochs", epochs, "--out", out, *arguments)

    def scores(self, *arguments, **settings):
        """What a fit printed, and the scores that it wrote."""
        said = self.fit(*arguments, **settings)
        assert said.code == 0, said.err
        folder = self.folder / settings.get("out", "run")
        assert (folder / "report.html").is_file()
        return said, json.loads((folder / "scores.json").read_text(encoding="utf-8"))

    def refused(self, *arguments, **settings):
        said = self.fit(*arguments, **settings)
        assert said.code == 2
        (sentence,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
        assert not (self.folder / settings.get("out", "run")).exists()
        return sentence.removeprefix("error: ")


def at_chance(scores):
    # Three files without information, two p-values each: .05 for all of them together.
    trial = scores["trial"]
    assert abs(trial["mean_own"] - 0.5) < 0.2
    assert abs(trial["mean_cross"] - 0.5) < 0.2
    assert min(trial["p_mean_own"], trial["p_mean_cross"]) > 0.05 / 6


def informative(scores):
    assert min(scores["trial"]["mean_own"], scores["trial"]["mean_cross"]) > 0.75


@case(1, "Two tables are called `trials`; two in other places `odor_trials`")
def _(files):
    said = files.inspect("a.nwb")
    assert "odor: A (40), B (40)" in said.text
    others = files.inspect("a.nwb", "--trials", "processing/behavior/trials")
    assert "odor: Z (40)" in others.text
    both = files.run("inspect", "twins.nwb", "--trials", "odor_trials")
    assert both.code == 2
    return [said.line("another of that name"), both.line("Name one by its path")]


@case(2, "Trials in ms; spikes in ms; in samples; relative to their trial")
def _(files):
    told = []
    for kind, words in (
        ("trials_ms", "align to 'start_time / 1000'"), ("spikes_ms", "divide their times by 1000"),
        ("samples", "probably in samples"), ("relative", "relative to each trial"),
    ):  # fmt: skip
        told.append(files.refused(f"{kind}1.nwb", f"{kind}2.nwb"))
        assert "No spike falls inside any window" in told[-1]
        assert words in told[-1]
    mended = files.fit(
        "trials_ms1.nwb", "trials_ms2.nwb", "--align", "start_time / 1000", out="mended", epochs=1
    )
    assert mended.code == 0, mended.err
    return told


@case(4, "Units observed in half of the session only, which `obs_intervals` say")
def _(files):
    noted = files.inspect("o1.nwb").line("observed in part")
    assert "4 of 8 units" in noted
    said, scores = files.scores("o1.nwb", "o2.nwb")
    at_chance(scores)
    (told, _) = [sentence for sentence in scores["odd"] if "160 of 640 trials x units" in sentence]
    assert f"warning: {told}" in said.err
    assert told in (files.folder / "run" / "report.html").read_text(encoding="utf-8").replace(
        "&#39;", "'"
    )
    return [noted, told]


@case(5, "Artefacts in 20 trials, which are in `invalid_times`")
def _(files):
    _, scores = files.scores("i1.nwb", "i2.nwb")
    at_chance(scores)
    assert scores["subjects"]["i1"]["train"]["A"] + scores["subjects"]["i1"]["test"]["A"] == 40
    assert scores["subjects"]["i1"]["train"]["B"] + scores["subjects"]["i1"]["test"]["B"] == 20
    (told, _) = scores["odd"]
    assert "20 of 80 trials" in told
    return [told]


@case(7, "Columns of shape (n, 1), as MATLAB writes them")
def _(files):
    said = [files.inspect(f"{name}.nwb") for name in ("col", "start", "index")]
    assert all("odor: A (40), B (40)" in one.text for one in said)
    assert all("units 8; 13,331 spikes" in one.text for one in said)
    assert "peak_channel" in said[0].text
    return [said[0].line("trial column odor")]


@case(8, "A column that `colnames` does not list")
def _(files):
    said = files.inspect("n.nwb")
    assert "odor: A (40), B (40)" in said.text
    return [said.line("colnames do not list")]


@case(10, "A condition as boolean and as text; as float32 and float64; in two spellings")
def _(files):
    told = []
    for a, b in (("bool", "text"), ("bool", "digits"), ("f32", "f64"), ("low", "up")):
        said, scores = files.scores(f"{a}.nwb", f"{b}.nwb", by="cond", out=f"{a}-{b}")
        informative(scores)
        told += [sentence for sentence in scores["left_out"] if "read as" in sentence]
        told += [sentence for sentence in scores["left_out"] if "taken as one" in sentence]
        assert all(sentence in said.out for sentence in scores["left_out"])
    assert len(told) == 4
    return told


@case(11, "A column with a space in its name")
def _(files):
    said, scores = files.scores("odor_id1.nwb", "odor_id2.nwb", by="odor id")
    informative(scores)
    return [said.line("Balanced accuracy of odor_id").partition(";")[0]]


@case(13, "`colnames` padded with blanks; `colnames` as one text")
def _(files):
    said = [files.inspect(f"{name}.nwb") for name in ("padded", "scalar")]
    assert all("odor: A (40), B (40)" in one.text for one in said)
    return [said[0].line("trial column odor")]


@case(14, "Metadata of an extension that is not installed")
def _(files):
    said = files.inspect("x.nwb")
    assert "odor: A (40), B (40)" in said.text
    return [said.line("units 8")]


@case(16, "Open for writing in another process")
def _(files):
    (script,) = GENERATORS.glob("16-*.py")
    writer = subprocess.Popen(
        [sys.executable, script, files.folder], stdout=subprocess.PIPE, text=True
    )
    try:
        assert "held" in writer.stdout.readline()
        said = files.run("inspect", "held.nwb")
    finally:
        writer.kill()
        writer.wait()
    assert said.code == 2
    sentence = said.line("open for writing in another process")
    assert "HDF5_USE_FILE_LOCKING=FALSE" in sentence
    return [sentence.partition(" ([Errno")[0].removeprefix("error: ")]


@case(17, "A Zarr store that links to one that was moved")
def _(files):
    said = files.run("inspect", "second.nwb.zarr")
    if said.code:  # what is needed was a link
        assert "first.nwb.zarr, which is not there" in said.text
    else:
        assert "odor: A (40), B (40)" in said.text
    return ["Read, where units and trials are in the store; else the link and its target are named"]


@case(19, "The area is that of electrodes and their group")
def _(files):
    query = "location == 'CA1'"
    assert len(ns.read_nwb(files.folder / "e.nwb", units=query).units) == 4
    said = files.inspect("e.nwb")
    assert "electrode_group: shank0 (4), shank1 (4)" in said.text
    return [said.line("location: CA1 (4), VISp (4)")]


@case(20, "Units labelled noise")
def _(files):
    noted = files.inspect("q1.nwb").line("labelled noise")
    _, scores = files.scores("q1.nwb", "q2.nwb", "--units", "quality == 'good'")
    informative(scores)
    assert {subject["units"] for subject in scores["subjects"].values()} == {4}
    kept = tomllib.loads((files.folder / "run" / "run.toml").read_text(encoding="utf-8"))
    assert kept["units"] == "quality == 'good'"
    each = ("--units", "`KS Label` == 'good'", "--units", "default_qc")
    _, scores = files.scores("q1.nwb", "q2.nwb", *each, out="each", epochs=1)
    assert {subject["units"] for subject in scores["subjects"].values()} == {4}
    return [noted]


@case(22, "Ids of units, or of trials, that are repeated")
def _(files):
    said = [files.inspect(f"{name}.nwb") for name in ("units", "trials")]
    assert all("units 8" in one.text and "trials 80" in one.text for one in said)
    return [one.line("are repeated") for one in said]


@case(23, "NaN at the end of a unit, the padding of a matrix")
def _(files):
    said = files.inspect("p.nwb")
    assert "13,328 spikes" in said.text
    return [said.line("were dropped")]


@case(25, "Tables of trials of two names")
def _(files):
    told = [
        files.refused("a.nwb", "b.nwb"),
        files.refused("a.nwb", "b.nwb", "--trials", "odor_presentations"),
    ]
    each = ("--trials", "trials", "--trials", "odor_presentations")
    _, scores = files.scores("a.nwb", "b.nwb", *each, epochs=5)
    informative(scores)
    return told


@case(26, "Two sessions of one animal")
def _(files):
    _, scores = files.scores("m1_a.nwb", "m1_b.nwb", "m2.nwb", epochs=5)
    assert list(scores["subjects"]) == ["m1/m1_a", "m1/m1_b", "m2"]
    informative(scores)
    named = ("m1/a=m1_a.nwb", "m1/b=m1_b.nwb", "m2.nwb")
    said, scores = files.scores(*named, epochs=1, out="named")
    assert list(scores["subjects"]) == ["m1/a", "m1/b", "m2"]
    assert "2 animals do not tell how much animals differ" in said.text
    return ["Fitted as the members m1/m1_a, m1/m1_b and m2, of two animals"]


@case(28, "Spike times in float32 on the clock of a day, and of 1970")
def _(files):
    day = files.inspect("day.nwb").line("steps of 7.8 ms")
    unix = files.inspect("unix.nwb").line("steps of 128 s")
    assert unix.startswith("fit refuses: ")
    assert "float32" not in files.inspect("exact.nwb").text
    span = (0.0, 0.4)
    with pytest.warns(UserWarning, match=r"steps of 7\.8 ms"):
        counts = ns.bin_spikes(ns.read_nwb(files.folder / "day.nwb"), span=span)
    exact = ns.bin_spikes(ns.read_nwb(files.folder / "exact.nwb"), span=span)
    assert not np.array_equal(counts, exact)
    with pytest.raises(ValueError, match="steps of 128 s"):
        ns.bin_spikes(ns.read_nwb(files.folder / "unix.nwb"), span=span)
    return [day, unix]


@case(29, "No units; units that never fire")
def _(files):
    files.inspect("none.nwb").line("There are no units.")
    told = [files.refused(f"{name}.nwb", "ok.nwb", epochs=5) for name in ("none", "silent")]
    assert "There are no units. Leave it out." in told[0]
    assert "No unit has a spike (3 units). Leave it out." in told[1]
    return told


@pytest.fixture(scope="module")
def answers():
    """Sentences that the tests below have found."""
    return {}


@pytest.mark.parametrize("number", CASES)
def test_files_of_people_give_the_right_answer(number, answers, tmp_path, monkeypatch, capsys):
    (script,) = GENERATORS.glob(f"{number:02}-*.py")
    if number != 16:  # which keeps its file open
        subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True)
    with contextlib.chdir(tmp_path):
        told = CASES[number][1](Files(tmp_path, monkeypatch, capsys))
    answers[number] = [plain(sentence, tmp_path) for sentence in told]


def plain(sentence, folder):
    return sentence.replace(f"{folder}/", "").replace("|", "\\|").replace("<", "&lt;")


def test_every_generator_has_its_case():
    assert sorted(CASES) == [int(path.name[:2]) for path in sorted(GENERATORS.glob("*.py"))]


def test_the_table_of_odd_files_is_what_was_told(answers):
    if len(answers) < len(CASES):
        pytest.skip("not all files were tried")
    rows = ["| The file | What the command line says |", "| --- | --- |"]
    for number, (kind, _) in CASES.items():
        told = "<br>".join(answers[number])
        rows.append(f"| {kind} | {told} |")
    intro = """
        # Odd files

        Kinds of NWB files that people have, and what `neuroshare inspect` and `neuroshare fit` say
        of them: written by `tests/test_odd_files.py`, which makes them and asserts the answer.
        What cannot be meant is refused before the fit (`--anyway` goes on all the same), and what
        must be known beside the numbers is a warning in the terminal, in the report and under
        `odd` in `scores.json`.
    """
    table = textwrap.dedent(intro).strip() + "\n\n" + "\n".join(rows) + "\n"
    if os.environ.get("NEUROSHARE_WRITE_TABLE"):
        TABLE.write_text(table, encoding="utf-8")
    assert TABLE.read_text(encoding="utf-8") == table, "NEUROSHARE_WRITE_TABLE=1 writes it again"
