import itertools
import json
import re
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import t

import neuroshare as ns
from neuroshare import cli

SMALL = ("--epochs", 1, "--latent-dim", 2, "--min-trials", 4, "--step", 0.1, "--quick", "--quiet")


@pytest.fixture
def recordings(neuroshare, tmp_path):
    folder = tmp_path / "recordings"
    code, out, err = neuroshare(
        "simulate", folder, "--subjects", "mitt=9,stella=7", "--n-trials", 6, "--seed", 3
    )
    assert (code, err) == (0, "")
    assert "mitt.nwb: Session('mitt': 9 units" in out
    return sorted(folder.glob("*.nwb"))


def test_inspect_shows_units_trials_and_columns(neuroshare, recordings):
    code, out, _ = neuroshare("inspect", *recordings)
    assert code == 0
    assert "  subject mitt\n  units 9; " in out
    assert "  subject stella\n  units 7; " in out
    assert "trials 24 from" in out
    assert "trial column odor: A (6), B (6), C (6), D (6)" in out


def test_inspect_goes_on_after_a_file_it_cannot_read(neuroshare, recordings, tmp_path):
    broken = tmp_path / "broken.nwb"
    broken.write_text("not HDF5")
    code, out, err = neuroshare("inspect", broken, recordings[0])
    assert code == 2
    assert "error: broken.nwb" in err
    assert "subject mitt" in out


def odd_session(spikes=None, start=(0.0, 4.0), stop=(3.0, 7.0), odor=("A", "B")):
    rng = np.random.default_rng(0)
    spikes = [np.sort(rng.uniform(0, 8, 100))] * 2 if spikes is None else spikes
    trials = pd.DataFrame({"start_time": start, "stop_time": stop, "odor": odor})
    return ns.Session("mitt", spikes, trials=trials)


def swap_spikes(h5):
    times = h5["units/spike_times"]
    times[:2] = times[:2][::-1]


def forget_subject(h5):
    del h5["general/subject"]


@pytest.mark.parametrize(
    ("session", "note"),
    [
        (
            odd_session([np.arange(0.5, 9e3, 7)], start=(0, 4e3), stop=(3e3, 7e3)),
            "Spike times are probably in milliseconds, not in seconds.",
        ),
        (odd_session([[0.5, 4.5], []]), "1 of 2 units is silent: 1."),
        (odd_session(start=(0.0, 2.0)), "1 trial begins before an earlier one has ended."),
        (odd_session(stop=(3.0, np.nan)), "1 trial without a time (NaN or infinite): 1."),
        (odd_session([[90.0, 91.0]]), "No spike falls inside any trial"),
        (odd_session([[0.5]]), "1 trial of 2 without a single spike."),
        (odd_session(odor=("A", "A")), "Trial columns with one value only: odor."),
        (odd_session(start=(), stop=(), odor=()), "There are no trials."),
        (swap_spikes, "spike times were out of order and have been sorted in units 0."),
        (forget_subject, "no subject id; the subject is named 'odd', after the file."),
        (None, ""),
    ],
    ids=[
        "not seconds", "silent", "overlap", "no time", "elsewhere", "empty trial", "constant",
        "no trials", "unsorted", "no subject", "sound",
    ],
)  # fmt: skip
def test_inspect_notes_what_is_odd_and_nothing_else(neuroshare, tmp_path, session, note):
    change = session if callable(session) else None
    whole = session if isinstance(session, ns.Session) else odd_session()
    ns.write_nwb(whole, tmp_path / "odd.nwb")
    if change is not None:
        with h5py.File(tmp_path / "odd.nwb", "r+") as h5:
            change(h5)
    code, out, err = neuroshare("inspect", tmp_path / "odd.nwb")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines()[1:])) <= 80
    notes = re.split(" (?:note|warning|fit refuses): ", " ".join(out.split()))[1:]
    assert len(notes) == bool(note)
    assert all(note in found for found in notes)


def test_inspect_notes_spikes_without_a_time(neuroshare, tmp_path):
    ns.write_nwb(odd_session(), tmp_path / "odd.nwb")
    with h5py.File(tmp_path / "odd.nwb", "r+") as h5:
        h5["units/spike_times"][3] = np.nan
    code, out, _ = neuroshare("inspect", tmp_path / "odd.nwb")
    assert code == 0
    assert "1 spike time of unit 0 was dropped" in " ".join(out.split())


@pytest.mark.data
def test_inspect_answers_every_awkward_file(neuroshare, data_dir):
    for file in sorted((data_dir / "nwb-cases").glob("*.nwb")):
        code, out, err = neuroshare("inspect", file)
        assert "Traceback" not in err
        assert (code == 0 and file.stem in out) or (code == 2 and f"error: {file.name}" in err)


def test_fit_report_and_repeat(neuroshare, recordings, tmp_path):
    run, again = tmp_path / "run", tmp_path / "again"
    data = ("--by", "odor", "--align", "start_time", "--span", 0, 0.3)
    code, out, err = neuroshare("fit", *recordings, *data, *SMALL, "--out", run)
    assert (code, err) == (0, "")
    assert "chance 0.25" in out
    assert f"report: {run / 'report.html'}" in out

    page = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert neuroshare("report", run)[0] == 0
    assert (run / "report.html").read_bytes() == page

    code, _, err = neuroshare("fit", "--config", run / "run.toml", "--out", again, "--quiet")
    assert (code, err) == (0, "")
    first, second = (xr.load_dataarray(d / "latents.nc", engine="h5netcdf") for d in (run, again))
    xr.testing.assert_identical(first, second)


def test_what_the_library_refuses_is_one_line(neuroshare, recordings, tmp_path):
    out = ("--align", "start_time", "--span", 0, 0.3, "--out", tmp_path / "run")
    code, _, err = neuroshare("fit", *recordings, "--by", "odour", *out)
    assert code == 2
    assert err.startswith("error: ")
    assert "no trial column 'odour'" in err
    assert len(err.splitlines()) == 1

    code, _, err = neuroshare("fit", tmp_path / "none.nwb", "--by", "odor", *out)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "none.nwb" in err


def test_absent_settings_are_named(neuroshare, recordings, tmp_path):
    code, _, err = neuroshare("fit", *recordings, "--out", tmp_path / "run")
    assert code == 2
    assert "a run needs by." in err


def test_debug_shows_the_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["neuroshare", "report", str(tmp_path / "none"), "--debug"])
    with pytest.raises(FileNotFoundError):
        cli.main()


def test_subjects_are_names_or_numbers_of_units(neuroshare, tmp_path):
    assert cli._subjects("mitt, stella") == ["mitt", "stella"]
    assert cli._subjects("mitt=104,stella=49") == {"mitt": 104, "stella": 49}
    code, _, err = neuroshare("simulate", tmp_path, "--subjects", "mitt=many")
    assert code == 2
    assert "--subjects takes names" in err


def test_a_config_that_is_not_toml_is_refused(neuroshare, tmp_path):
    (tmp_path / "run.toml").write_text("by = odor")
    code, _, err = neuroshare("fit", "--config", tmp_path / "run.toml", "--out", tmp_path / "run")
    assert code == 2
    assert "expected TOML settings" in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("spam = 1", "unknown settings ['spam']; expected some of ['align', 'anyway',"),
        (
            "files = 'mitt.nwb'",
            "'files' parameter of a run must be a list of texts. Got 'mitt.n",
        ),
        ("files = [1]", "'files' parameter of a run must be a list of texts. Got (1,) instead"),
        ("by = 3", "'by' parameter of a run must be a text. Got 3"),
        ("align = ['start']", "'align' parameter of a run must be a text. Got ('start',)"),
        ("span = 0.4", "'span' parameter of a run must be two numbers of seconds, begin and end, "),
        ("span = [0.0, 'x']", "'span' parameter of a run must be two numbers of seconds"),
        ("span = [0.0, inf]", "'span' parameter of a run must be two numbers of seconds"),
        ("bin_size = true", "'bin_size' parameter of a run must be a number above 0. Got True"),
        ("step = nan", "'step' parameter of a run must be a number above 0. Got nan"),
        ("conditions = 'A'", "'conditions' parameter of a run must be a list of texts. Got 'A'"),
        ("min_trials = 4.5", "'min_trials' parameter of a run must be a whole number from 1 to"),
        ("permutations = -1", "'permutations' parameter of a run must be a whole number from 0"),
        (
            "test_fraction = 1.0",
            "'test_fraction' parameter of a run must be a number between 0 and 1",
        ),
        ("quick = 'no'", "'quick' parameter of a run must be true or false. Got 'no'"),
        ("seed = 2020-01-01", "'seed' parameter of a run must be a whole number from 0"),
        ("model = 'mmvm'", "'model' parameter of a run must be a table of settings"),
        ("[model]\nspam = 1", "unknown settings ['spam'] under [model]; expected some of ['batch"),
        ("[model]\nseed = 1", "unknown settings ['seed'] under [model]"),
        ("span = [0.0, 0.4", "run.toml: expected TOML settings, got"),
        ("by = '\xff'", "run.toml: expected TOML settings, got 'utf-8'"),
    ],
)
def test_a_config_of_unknown_keys_or_wrong_types_is_refused(neuroshare, tmp_path, line, message):
    sound = {
        "files": "['mitt.nwb']", "by": "'odor'", "align": "'start_time'", "span": "[0.0, 0.3]",
    }  # fmt: skip
    sound.pop(line.partition(" ")[0], None)
    text = "\n".join([*(f"{name} = {value}" for name, value in sound.items()), line])
    (tmp_path / "run.toml").write_text(text, encoding="latin-1")
    run = tmp_path / "run"
    code, _, err = neuroshare("fit", "--config", tmp_path / "run.toml", "--out", run, "--beta", 1)
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert not run.exists()


@pytest.mark.slow
def test_demo_simulates_fits_and_reports(neuroshare, tmp_path):
    code, out, _ = neuroshare("demo", "--out", tmp_path / "demo", "--quiet")
    assert code == 0
    assert "chance 0.25" in out
    assert len(list((tmp_path / "demo" / "recordings").glob("*.nwb"))) == 5
    assert (tmp_path / "demo" / "report.html").is_file()


def test_set_gives_any_setting_of_the_model(neuroshare, recordings, tmp_path):
    data = ("--by", "odor", "--align", "start_time", "--span", 0, 0.3, "--out", tmp_path / "run")
    given = ("init=random", "hidden=[4, 4]", "beta={object='schedule', arguments={start=0.0, "
             "stop=1.0, epochs=2}}")  # fmt: skip
    sets = [part for text in given for part in ("--set", text)]
    assert neuroshare("fit", *recordings, *data, *SMALL, *sets)[0] == 0
    stored = ns.SharedLatentModel.load(tmp_path / "run" / "model")
    assert (stored.init, stored.hidden) == ("random", (4, 4))
    assert stored.beta == ns.Schedule(0.0, 1.0, 2)


def test_inspect_of_a_folder_names_what_it_holds(neuroshare, recordings, monkeypatch):
    monkeypatch.chdir(recordings[0].parent)
    code, _, err = neuroshare("inspect", ".")
    assert code == 2
    assert "recordings: expected an NWB file, got a folder that holds 2: mitt.nwb, stella" in err
    assert "Give them by name: *.nwb" in err


def test_one_file_alone_cannot_share_and_is_told_so(neuroshare, recordings, tmp_path):
    loud = [part for part in SMALL if part != "--quiet"]
    code, out, err = neuroshare(
        "fit", recordings[0], "--by", "odor", "--out", tmp_path / "r", *loud
    )
    assert code == 0
    assert "One subject (mitt) cannot share a latent space with another" in out
    assert "Counting from 0 to 0.4 s relative to start_time (--span, --align)" in out
    assert "score (separation)" in err, "there is a bar for what follows the fit"
    page = (tmp_path / "r" / "report.html").read_text()
    assert "One subject cannot share anything" in page


def test_sessions_of_one_animal_alone_are_told_and_scored(neuroshare, recordings, tmp_path):
    loud = [part for part in SMALL if part not in ("--quiet", "--quick")]
    files = [f"m1/{day}={file}" for day, file in zip("ab", recordings, strict=True)]
    options = ("--by", "odor", "--permutations", 19, "--bootstraps", 9)
    code, out, err = neuroshare("fit", *files, *options, "--out", tmp_path / "r", *loud)
    assert (code, "error" in err) == (0, False)
    assert "All 2 sessions are of one animal (m1/a, m1/b)" in out
    page = (tmp_path / "r" / "report.html").read_text()
    assert "Do 2 sessions of 1 animal share" in page
    assert "All sessions are of one animal: nothing is known between animals" in page


def test_a_span_that_holds_no_window_is_told_at_once(neuroshare, recordings, tmp_path):
    code, _, err = neuroshare(
        "fit", *recordings, "--by", "odor", "--span", 0, 0.05, "--out", tmp_path / "r"
    )
    assert code == 2
    assert "'span' parameter of a run must hold a window of 0.1 s (width). Got 0.05 s" in err


def test_view_opens_the_report(neuroshare, recordings, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    run = tmp_path / "run"
    options = ("--by", "odor", "--align", "start_time", "--span", 0, 0.4)
    neuroshare("fit", *recordings, *options, "--out", run, *SMALL)
    page = run / "report.html"
    whole = page.read_text()
    for content in (whole, "the report of an older version", None):
        page.unlink() if content is None else page.write_text(content)
        code, out, _ = neuroshare("view", run)
        assert code == 0
        assert out.strip() == opened[-1] == f"{page.as_uri()}#latents"
        assert page.read_text() == whole
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    assert "No browser could be started here. Open file:" in neuroshare("view", run)[1]
    code, _, err = neuroshare("view", tmp_path / "none")
    assert (code, err[:6]) == (2, "error:")


def test_version(neuroshare):
    assert neuroshare("--version") == (0, f"neuroshare {ns.__version__}\n", "")


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("fit", ("--beta", -1)),
        ("fit", ("--objective", "vae")),
        ("fit", ("--set", "latent_dim=1.5")),
        ("fit", ("--width", 0)),
        ("sweep", ("--objective", "mmvm,vae")),
        ("sweep", ("--beta", "1,two")),
        ("sweep", ("--beta", "1,-2")),
        ("sweep", ("--set", "lr=0")),
    ],
)
def test_an_error_in_the_options_needs_no_torch(tmp_path, command, wrong):
    (tmp_path / "rat.nwb").touch()
    data = ("--by", "odor", "--align", "start_time", "--span", 0, 0.3, "--out", tmp_path / "run")
    code = (
        "import sys\nfrom neuroshare.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print(*sorted({'torch', 'pynwb', 'xarray'} & set(sys.modules)))"
    )
    line = [sys.executable, "-c", code, command, tmp_path / "rat.nwb", *data, *wrong]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "must be" in done.stderr or "--beta takes numbers" in done.stderr
    assert done.stdout.strip() == "", "loaded for nothing"


def test_sweep_reads_what_fit_reads(neuroshare, recordings, tmp_path):
    data = ("--by", "odor", "--align", "start_time", "--span", 0, 0.3)
    assert neuroshare("fit", *recordings, *data, *SMALL, "--out", tmp_path / "run")[0] == 0
    code, *_ = neuroshare(
        "sweep", "--config", tmp_path / "run" / "run.toml", "--out", tmp_path / "sweep",
        "--objective", "poe", "--beta", "0.5", "--seeds", 1, "--quiet", "--set", "dropout=0.0",
        "--test-fraction", 0.5,
    )  # fmt: skip
    assert code == 0
    table = pd.read_csv(tmp_path / "sweep" / "sweep.csv")
    assert table[["objective", "beta", "dropout", "latent_dim"]].values.tolist() == [
        ["poe", 0.5, 0.0, 2]
    ]


def test_convert_allen2016_writes_readable_files(neuroshare, tmp_path):
    sessions = ns.simulate_sessions({"mitt": 5, "stella": 4}, n_trials=2)
    ns.write_allen2016(sessions, tmp_path / "arrays")
    code, out, _ = neuroshare("convert-allen2016", tmp_path / "arrays", tmp_path / "nwb")
    assert code == 0
    assert "mitt.nwb" in out
    session = ns.read_nwb(tmp_path / "nwb" / "mitt.nwb")
    assert len(session.units) == 5
    assert len(session.trials) == 8


def test_influence_writes_a_table_and_a_figure(neuroshare, tmp_path):
    folder = tmp_path / "three"
    neuroshare("simulate", folder, "--subjects", "a=9,b=7,c=8", "--n-trials", 6)
    code, out, err = neuroshare(
        "influence", *sorted(folder.glob("*.nwb")), "--by", "odor", "--align", "start_time",
        "--span", 0, 0.2, "--step", 0.1, "--min-trials", 4, "--epochs", 1, "--latent-dim", 2,
        "--out", tmp_path / "out", "--quiet",
    )  # fmt: skip
    assert (code, err) == (0, "")
    found = xr.load_dataset(tmp_path / "out" / "influence.nc", engine="h5netcdf")
    assert found["left_out"].values.tolist() == ["a", "b", "c"]
    for name in "abc":
        assert f"{float(found['loss'].sel(left_out=name)):.3f}" in out
    assert (tmp_path / "out" / "influence.svg").read_text().startswith("<?xml")


def test_power_of_a_pilot_is_printed_and_drawn(neuroshare, recordings, tmp_path):
    arguments = (
        "power", *recordings, "--by", "odor", "--align", "start_time", "--span", 0, 0.2,
        "--min-trials", 4, "--permutations", 19, "--out", tmp_path / "out", "--simulations", 2,
        "--quiet",
    )  # fmt: skip
    code, out, err = neuroshare(
        *arguments, "--n-subjects", 2, "--n-units", "5, 10", "--n-trials", 4
    )
    assert (code, err) == (0, "")
    found = xr.load_dataset(tmp_path / "out" / "power.nc", engine="h5netcdf")
    assert dict(found.sizes) == {"n_subjects": 1, "n_units": 2, "n_trials": 1}
    assert "share of 2 simulated experiments with p <= 0.05" in out
    assert (tmp_path / "out" / "power.svg").exists()
    code, _, err = neuroshare(*arguments, "--n-units", "5,many")
    assert code == 2
    assert "--n-units takes whole numbers" in err


def test_a_span_in_milliseconds_is_one_sentence(neuroshare, recordings, tmp_path):
    code, _, err = neuroshare(
        "fit", *recordings, "--by", "odor", "--align", "start_time", "--span", 0, 400,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 2
    assert err.count("\n") == 1
    assert "Spans are in seconds: if milliseconds were meant, give --span 0 0.4." in err


def test_sessions_of_one_animal_are_one_unit_of_inference(neuroshare, tmp_path):
    whose = {"a": ("m1", "day1"), "b": ("m1", "day2"), "c": ("m2", None), "d": ("m3", None)}
    simulated = ns.simulate_sessions(dict.fromkeys(whose, 15), n_trials=10, seed=1, signal=2.0)
    files = []
    for name, (animal, day) in whose.items():
        one = simulated[name]
        session = ns.Session(animal, one.spike_times, one.units, one.trials, session=day)
        files.append(ns.write_nwb(session, tmp_path / f"{name}.nwb"))
    sessions = [ns.read_nwb(file) for file in files]
    assert [one.session for one in sessions] == ["day1", "day2", None, None]

    code, out, err = neuroshare(
        "fit", *files, "--by", "odor", "--align", "start_time", "--span", 0, 0.3, "--step", 0.1,
        "--min-trials", 8, "--set", "epochs=0", "--set", "latent_dim=3", "--set", "inputs=pooled",
        "--permutations", 19, "--bootstraps", 19, "--quiet", "--out", tmp_path / "run",
    )  # fmt: skip
    assert (code, err) == (0, "")
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    animals = {name: about["animal"] for name, about in scores["subjects"].items()}
    assert animals == {"m1/day1": "m1", "m1/day2": "m1", "m2": "m2", "m3": "m3"}
    assert scores["n_animals"] == 3
    assert scores["statement"].startswith("With 3 animals (4 sessions) a one-sided sign-flip test")
    # Three animals, all above chance: one of the eight ways to flip their signs.
    assert {scores["trial"][f"p_sign_flip_{k}"] for k in ("own", "cross", "pooled")} == {1 / 8}
    own = scores["trial"]["own"]
    of_animals = [(own["m1/day1"] + own["m1/day2"]) / 2, own["m2"], own["m3"]]
    assert scores["trial"]["mean_own"] == pytest.approx(np.mean(of_animals))
    low, high = scores["trial"]["mean_own_interval"]
    half = t.ppf(0.975, 2) * np.std(of_animals, ddof=1) / np.sqrt(3)
    # Clipped to 1; never narrower than what so few trials allow.
    assert low <= np.mean(of_animals) - half + 1e-9
    assert high >= min(1, np.mean(of_animals) + half - 1e-9)

    # Sessions of one animal are no pair of animals, on the terminal as in the file.
    cross = scores["trial"]["cross"]
    pairs = {}
    for i, j in itertools.permutations(animals, 2):
        if animals[i] != animals[j]:
            pairs.setdefault((animals[i], animals[j]), []).append(cross[i][j])
    assert len(pairs) == 6
    of_pairs = [np.mean(values) for values in pairs.values()]
    assert scores["trial"]["mean_cross"] == pytest.approx(np.mean(of_pairs))
    mean = next(line for line in out.splitlines() if line.startswith("mean "))
    told = [scores["trial"][f"mean_{kind}"] for kind in ("own", "cross", "cross", "pooled")]
    assert mean.split()[1:] == [f"{value:.2f}" for value in told]
    source = np.mean([cross["m1/day1"][name] for name in ("m2", "m3")])
    first = next(line for line in out.splitlines() if line.startswith("m1/day1 "))
    assert first.split()[2] == f"{source:.2f}"

    # The same in Python.
    counts = {
        name: ns.bin_spikes(one, "start_time", (0, 0.3))
        for name, one in zip(animals, sessions, strict=True)
    }
    train, test = ns.pair_subjects(counts, by="odor", step=0.1).split(seed=0)
    model = ns.SharedLatentModel(epochs=0, latent_dim=3, inputs="pooled", progress=False).fit(train)
    here = ns.separation(model.transform(train), model.transform(test))
    assert dict(zip(here.subject.values, here.subject_animal.values, strict=True)) == animals
    assert float(here.p_sign_flip_own.sel(level="trial")) == 1 / 8
    assert here.statement.startswith("With 3 animals (4 sessions)")
