"""NWB files behind a URL and in DANDI, served by a local HTTP server that counts its bytes."""

import json
import sys
import threading
import tomllib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import h5py
import numpy as np
import pandas as pd
import pytest

from neuroshare.recordings import remote
from neuroshare.recordings.nwb import read_nwb, write_nwb
from neuroshare.recordings.session import Session
from neuroshare.recordings.simulate import simulate_sessions

pytest.importorskip("remfile", reason="remfile is not installed")


class Server(ThreadingHTTPServer):
    """Serves ``answers``, a mapping of path to bytes, JSON value, status or address to go to."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers = {}
        self.asked = []
        self.sent = 0
        self.ranges = True
        self.broken_after = np.inf
        """Bytes of files after which it breaks every connection."""
        self.silent_after = np.inf
        """Bytes of files after which it no longer answers."""
        self.stopped = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, parts = self.server, urlsplit(self.path)
        server.asked.append((parts.path, {k: v[0] for k, v in parse_qs(parts.query).items()}))
        if server.sent >= server.silent_after:
            server.stopped.wait()
        if server.sent >= server.broken_after:
            self.close_connection = True
            return
        answer = server.answers.get(parts.path, 404)
        if isinstance(answer, int):
            self.answer(answer)
        elif isinstance(answer, str):
            self.answer(302, Location=answer)
        elif isinstance(answer, bytes | memoryview):
            self.answer_file(answer)
        else:
            self.answer(200, json.dumps(answer).encode())

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(body)}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def answer_file(self, data):
        wanted = self.headers.get("Range")
        if wanted is None or not self.server.ranges:
            self.server.sent += len(data)
            return self.answer(200, data)
        first, last = wanted.removeprefix("bytes=").split("-")
        first, last = int(first), min(int(last), len(data) - 1)
        self.server.sent += last + 1 - first
        held = f"bytes {first}-{last}/{len(data)}"
        self.answer(206, data[first : last + 1], Content_Range=held)


@contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server():
    with running(Server()) as server:
        yield server


@pytest.fixture
def session():
    return simulate_sessions({"mitt": 8}, n_trials=2, seed=0)["mitt"]


@pytest.fixture
def served(server, session, tmp_path):
    """Address of a served session."""
    server.answers["/data/mitt.nwb"] = write_nwb(session, tmp_path / "mitt.nwb").read_bytes()
    return f"{server.url}/data/mitt.nwb"


@pytest.fixture
def impatient(monkeypatch):
    """No waiting for servers, and none between attempts."""
    monkeypatch.setattr(remote, "TIMEOUT", 0.2)
    monkeypatch.setattr("remfile.RemFile.time.sleep", lambda _: None)


def assert_same(one, other):
    assert one.subject == other.subject
    for a, b in zip(one.spike_times, other.spike_times, strict=True):
        np.testing.assert_array_equal(a, b)
    pd.testing.assert_frame_equal(one.units, other.units, check_column_type=False)
    pd.testing.assert_frame_equal(one.trials, other.trials, check_column_type=False)


def test_a_url_holds_what_its_file_holds(served, session):
    assert_same(read_nwb(served), session)


def test_a_redirected_url_is_redirected_once(server, served, session):
    server.answers["/moved"] = "/data/mitt.nwb"
    assert_same(read_nwb(f"{server.url}/moved"), session)
    assert [path for path, _ in server.asked].count("/moved") == 1


def test_a_small_part_of_a_large_file_is_fetched(server, tmp_path):
    """What is not needed lies before, between and after, as raw data and waveforms do."""
    rng = np.random.default_rng(0)
    spikes = [np.sort(rng.uniform(0, 600, 2_000)) for _ in range(40)]
    start = np.arange(0.0, 600, 4)
    trials = pd.DataFrame({"start_time": start, "stop_time": start + 1, "odor": ["A", "B"] * 75})
    session = Session("mitt", spikes, pd.DataFrame({"area": ["CA1", "CA3"] * 20}), trials)
    path = write_nwb(session, tmp_path / "mitt.nwb")
    add_bulk(path, n_bytes=60_000_000)
    data = path.read_bytes()
    server.answers["/mitt.nwb"] = memoryview(data)
    assert len(data) > 100_000_000
    assert_same(read_nwb(f"{server.url}/mitt.nwb"), session)
    assert server.sent < 0.05 * len(data)


def add_bulk(path, n_bytes):
    """A raw recording of `n_bytes`, and waveforms of the same size in the units table."""
    import pynwb

    with pynwb.NWBHDF5IO(path, "r+") as io:
        nwb = io.read()
        raw = np.zeros((n_bytes // 128, 64), np.int16)
        nwb.add_acquisition(
            pynwb.TimeSeries(name="raw", data=raw, unit="volts", rate=30_000.0, starting_time=0.0)
        )
        n = len(nwb.units)
        waveforms = np.zeros((n, n_bytes // (4 * n * 64), 64), np.float32)
        nwb.units.add_column("waveform_mean", "mean waveform", data=waveforms)
        io.write(nwb)


def test_a_missing_file_is_told(server):
    with pytest.raises(FileNotFoundError, match=r"/none.nwb: no such file on 127.*HTTP 404"):
        read_nwb(f"{server.url}/none.nwb")


def test_a_file_that_is_not_public_is_told(server):
    server.answers["/mitt.nwb"] = 403
    with pytest.raises(ConnectionError, match=r"403.*whether the file is public"):
        read_nwb(f"{server.url}/mitt.nwb")


def test_a_server_of_whole_files_is_refused_before_it_sends_them(server, served):
    server.ranges = False
    with pytest.raises(ValueError, match=r"serves pieces of a file.*Download the file"):
        read_nwb(served)
    assert len(server.asked) == 1


def test_a_page_is_not_taken_for_a_file(server):
    server.answers["/mitt.nwb"] = b"<html>sign in</html>"
    with pytest.raises(ValueError, match=r"expected an NWB file \(HDF5\), got something else"):
        read_nwb(f"{server.url}/mitt.nwb")


def test_hdf5_that_is_not_nwb_is_refused(server, tmp_path):
    with h5py.File(tmp_path / "plain.nwb", "w") as h5:
        h5["x"] = [1.0]
    server.answers["/plain.nwb"] = (tmp_path / "plain.nwb").read_bytes()
    with pytest.raises(ValueError, match=r"plain.nwb: expected a readable NWB 2 file"):
        read_nwb(f"{server.url}/plain.nwb")


def test_a_truncated_file_is_refused(server, served):
    server.answers["/data/mitt.nwb"] = server.answers["/data/mitt.nwb"][:-1000]
    with pytest.raises(
        ValueError, match=r"mitt.nwb: expected a whole file, got one that is cut off"
    ):
        read_nwb(served)


def test_a_server_that_is_not_there_is_told():
    with pytest.raises(ConnectionError, match=r"cannot be read from 127.0.0.1:9 .*Check"):
        read_nwb("http://127.0.0.1:9/mitt.nwb")


def test_a_silent_server_is_told(server, served, impatient):
    server.silent_after = 0
    with pytest.raises(ConnectionError, match=r"no answer from 127.* within 0.2 s"):
        read_nwb(served)


@pytest.mark.parametrize("fault", ["silent_after", "broken_after"])
@pytest.mark.parametrize("sent", [8, 100_000])
def test_a_connection_that_fails_on_the_way_is_told(server, served, impatient, fault, sent):
    setattr(server, fault, sent)
    with pytest.raises(ConnectionError, match=r"mitt.nwb: the connection failed while the file"):
        read_nwb(served)
    assert len(server.asked) < 15


@pytest.fixture
def dandi(server, served, monkeypatch):
    """A stand-in of the archive, with one dandiset of two files whose bytes lie elsewhere."""
    monkeypatch.setattr(remote, "DANDI", f"{server.url}/api")
    assets = [
        {"path": "sub-mitt/sub-mitt.nwb", "asset_id": "one", "size": 1},
        {"path": "sub-mitt/sub-mitt.nwb.json", "asset_id": "two", "size": 1},
    ]
    for version in ("draft", "0.220126.1855"):
        server.answers[f"/api/dandisets/000006/versions/{version}/assets/"] = {
            "count": 2, "next": None, "results": assets,
        }  # fmt: skip
    server.answers["/api/assets/one/download/"] = "/data/mitt.nwb"
    return server


@pytest.mark.parametrize(
    ("location", "version"),
    [
        ("dandi:000006/sub-mitt/sub-mitt.nwb", "draft"),
        ("DANDI:000006@0.220126.1855/sub-mitt/sub-mitt.nwb", "0.220126.1855"),
        ("dandi://dandi/000006@draft/sub-mitt/sub-mitt.nwb", "draft"),
    ],
)
def test_a_file_in_dandi_is_found_by_its_path(dandi, session, location, version):
    assert_same(read_nwb(location), session)
    path, query = dandi.asked[0]
    assert path == f"/api/dandisets/000006/versions/{version}/assets/"
    assert query["path"] == "sub-mitt/sub-mitt.nwb"


def test_what_dandi_does_not_have_is_told(dandi):
    with pytest.raises(FileNotFoundError, match=r"no file 'sub-m' in.*Found there: sub-mitt/sub-m"):
        read_nwb("dandi:000006/sub-m")
    with pytest.raises(FileNotFoundError, match=r"dandi:000007/x.nwb: no such file.*HTTP 404"):
        read_nwb("dandi:000007/x.nwb")


def test_a_location_that_names_no_asset_is_refused():
    with pytest.raises(ValueError, match=r"dandi:6/x.nwb: expected dandi:NUMBER/PATH"):
        read_nwb("dandi:6/x.nwb")


def test_an_archive_that_answers_otherwise_is_told(dandi):
    dandi.answers["/api/dandisets/000006/versions/draft/assets/"] = ["maintenance"]
    with pytest.raises(ConnectionError, match="expected a list of assets"):
        read_nwb("dandi:000006/sub-mitt/sub-mitt.nwb")


def test_without_remfile_it_is_said_what_to_install(served, monkeypatch):
    monkeypatch.setitem(sys.modules, "remfile", None)
    with pytest.raises(ImportError, match=r"needs remfile.*pip install 'neuroshare-latents\[form"):
        read_nwb(served)


def test_a_remote_file_without_subject_is_named_after_itself(server, served, tmp_path):
    with h5py.File(tmp_path / "mitt.nwb", "r+") as h5:
        del h5["general/subject"]
    server.answers["/a%20b.nwb"] = (tmp_path / "mitt.nwb").read_bytes()
    with pytest.warns(UserWarning, match="no subject id"):
        assert read_nwb(f"{server.url}/a%20b.nwb?key=x/y").subject == "a b"


def test_the_command_line_reads_urls(server, served, session, tmp_path, neuroshare):
    other = simulate_sessions({"stella": 6}, n_trials=4, seed=1)["stella"]
    server.answers["/data/stella.nwb"] = write_nwb(other, tmp_path / "s.nwb").read_bytes()
    server.answers["/data/mitt.nwb"] = write_nwb(
        simulate_sessions({"mitt": 8}, n_trials=4, seed=0)["mitt"], tmp_path / "m.nwb"
    ).read_bytes()
    files = [served, f"{server.url}/data/stella.nwb"]
    run = tmp_path / "run"

    code, out, _ = neuroshare("inspect", *files)
    assert (code, [line in out for line in files]) == (0, [True, True])

    code, _, err = neuroshare("inspect", f"{server.url}/none.nwb")
    assert (code, err.count("\n")) == (2, 1)
    assert "no such file" in err

    code, *_ = neuroshare(
        "fit", *files, "--by", "odor", "--align", "start_time", "--span", 0, 0.3, "--out", run,
        "--epochs", 1, "--latent-dim", 2, "--min-trials", 4, "--step", 0.1, "--quick", "--quiet",
    )  # fmt: skip
    assert code == 0
    assert tomllib.loads((run / "run.toml").read_text())["files"] == files
