from pathlib import Path

import h5py
import numpy as np
import pytest

from neuroshare.recordings import damage
from neuroshare.recordings.damage import require_intact
from neuroshare.recordings.nwb import read_nwb, write_nwb
from neuroshare.recordings.session import Session


@pytest.fixture
def file(tmp_path):
    return write_nwb(Session("mitt", [[0.1, 0.2]]), tmp_path / "rat.nwb")


def test_whatever_a_whole_file_holds_passes(tmp_path, file):
    with h5py.File(tmp_path / "odd.h5", "w") as h5:
        h5["circle"] = h5["/"]
        h5["soft"] = h5py.SoftLink("/circle")
        h5["broken"] = h5py.SoftLink("/nowhere")
        h5["elsewhere"] = h5py.ExternalLink(file, "/units")
        h5["gone"] = h5py.ExternalLink("none.h5", "/")
        h5["nothing"] = h5py.Empty("f8")
        h5["none"] = np.empty((0, 3))
        h5["text"] = ["a", "b"]
        h5["cube"] = np.zeros((2, 3, 4))
        h5.create_dataset("packed", data=np.arange(100), chunks=(10,), compression="gzip")
        h5.create_dataset("endless", (2**60,), h5py.string_dtype(), chunks=(10,))
        h5.create_dataset("pair", (3,), np.dtype([("ref", h5py.ref_dtype), ("n", "i4")]))
        h5.attrs["to"] = h5["text"].ref
        h5.attrs["nowhere"] = h5py.Reference()
    require_intact(tmp_path / "odd.h5")
    require_intact(file)


@pytest.mark.parametrize("data", [None, b"", b"text", b"\x89HDF\r\n\x1a\n"])
def test_what_hdf5_refuses_by_itself_is_left_to_the_reader(tmp_path, data):
    path = tmp_path / "rat.nwb"
    if data is not None:
        path.write_bytes(data)
    require_intact(path)


@pytest.mark.parametrize(
    ("name", "message"), [("SIGSEGV", "crashes on it"), ("SIGPROF", "never ends reading it")]
)
def test_the_loss_of_the_other_process_is_told(tmp_path, monkeypatch, file, name, message):
    lost = tmp_path / "lost.py"
    lost.write_text(f"import os, signal\nos.kill(os.getpid(), signal.{name})\n")
    monkeypatch.setattr(damage, "__file__", str(lost))
    with pytest.raises(ValueError, match=f"^rat.nwb: expected an intact HDF5 file.*{message}"):
        read_nwb(file)
    assert read_nwb(file, check=False).subject == "mitt"


def test_a_process_that_cannot_start_says_nothing_of_the_file(tmp_path, monkeypatch, file):
    lost = tmp_path / "lost.py"
    lost.write_text("import no_such_module\n")
    monkeypatch.setattr(damage, "__file__", str(lost))
    assert read_nwb(file).subject == "mitt"


def test_a_call_without_end_is_ended(tmp_path, monkeypatch, file):
    # The same process, but of less patience and with an attribute that takes for ever to read.
    text = Path(damage.__file__).read_text(encoding="utf-8")
    text = text.replace("SECONDS = 5", "SECONDS = 0.1")
    text = text.replace("item.attrs[name]", "max(iter(int, 1))")
    slow = tmp_path / "slow.py"
    slow.write_text(text, encoding="utf-8")
    monkeypatch.setattr(damage, "__file__", str(slow))
    with pytest.raises(ValueError, match="never ends reading it"):
        require_intact(file)


def test_without_an_interpreter_files_are_read_untried(monkeypatch, file):
    monkeypatch.setattr("sys.executable", "")
    assert read_nwb(file).subject == "mitt"
