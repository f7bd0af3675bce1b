"""Models saved by released versions load, and give what they gave then."""

import json
import pickle
import runpy
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import neuroshare as ns

HERE = Path(__file__).parent
RELEASES = sorted(path.parent for path in HERE.glob("*/windows.json"))

make = runpy.run_path(str(HERE / "make.py"))


def test_this_release_has_a_golden_model():
    assert ns.__version__ in [release.name for release in RELEASES], "run tests/golden/make.py"


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_a_released_model_gives_the_latents_it_gave(release):
    stored = json.loads((release / "windows.json").read_text(encoding="utf-8"))
    windows = make["windows_of"](stored["counts"])
    model = ns.SharedLatentModel.load(release / "model", device="cpu")
    for found, name in (
        (model.transform(windows), "latents"),
        (model.impute(windows, target="mitt"), "imputed"),
    ):
        np.testing.assert_allclose(found.values, stored[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_loading_unpickles_nothing(release, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a pickle was read")

    for owner, name in (
        (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load"), (np, "load"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, refuse)
    assert ns.SharedLatentModel.load(release / "model").subjects_ == ("mitt", "stella")
    weights = release / "model" / "weights.safetensors"
    assert {path.suffix for path in weights.parent.iterdir()} == {".json", ".safetensors"}
    assert not zipfile.is_zipfile(weights), "torch.save writes zipped pickles"


class _Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
@pytest.mark.parametrize("write", [pickle.dumps, None], ids=["pickle", "torch"])
def test_a_pickle_in_the_place_of_a_file_is_refused_and_not_run(name, write, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for file in (RELEASES[-1] / "model").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    sprung = tmp_path / "sprung"
    if write is None:
        torch.save(_Trap(sprung), model / name)
    else:
        (model / name).write_bytes(write(_Trap(sprung)))
    with pytest.raises(ValueError, match="damaged"):
        ns.SharedLatentModel.load(model)
    assert not sprung.exists()
