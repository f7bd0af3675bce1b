import sys

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import neuroshare as ns
from neuroshare import cli

SMALL = ("--epochs", 1, "--latent-dim", 2, "--min-trials", 4, "--step", 0.1, "--quick", "--quiet")


@pytest.fixture
def neuroshare(monkeypatch, capsys):
    """Run the command line in this process: exit code, stdout, stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["neuroshare", *map(str, arguments)])
        monkeypatch.setattr(cli.warnings, "showwarning", cli.warnings.showwarning)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return call


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
    notes = " ".join(out.split()).split(" note: ")[1:]
    assert len(notes) == bool(note)
    assert all(note in found for found in notes)


def test_inspect_refuses_spikes_without_a_time(neuroshare, tmp_path):
    ns.write_nwb(odd_session(), tmp_path / "odd.nwb")
    with h5py.File(tmp_path / "odd.nwb", "r+") as h5:
        h5["units/spike_times"][3] = np.nan
    code, _, err = neuroshare("inspect", tmp_path / "odd.nwb")
    assert code == 2
    assert "odd.nwb: subject 'mitt': spike times must be finite; NaN or infinite in units 0" in err


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
    code, _, err = neuroshare("fit", *recordings, "--by", "odor", "--out", tmp_path / "run")
    assert code == 2
    assert "a run needs align, span" in err


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
        ("spam = 1", "unknown settings ['spam']; expected some of ['align', 'bin_size',"),
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


def test_convert_allen2016_writes_readable_files(neuroshare, tmp_path):
    sessions = ns.simulate_sessions({"mitt": 5, "stella": 4}, n_trials=2)
    ns.write_allen2016(sessions, tmp_path / "arrays")
    code, out, _ = neuroshare("convert-allen2016", tmp_path / "arrays", tmp_path / "nwb")
    assert code == 0
    assert "mitt.nwb" in out
    session = ns.read_nwb(tmp_path / "nwb" / "mitt.nwb")
    assert len(session.units) == 5
    assert len(session.trials) == 8
