"""MNIST and SVHN, paired by digit (Shi et al. 2019): idx files and the .mat of cropped digits.

MNIST's files lie in the folder itself or in `mnist/`, `train_32x32.mat` and `test_32x32.mat` in the
folder itself or in `svhn/`. SVHN calls a zero 10.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat, savemat
from torch import Tensor

from benchmarks.images.data import Dataset, Modality, Samples, existing, pixels, read_idx, write_idx
from benchmarks.images.networks import Size
from benchmarks.images.suite import Preset, Suite, smoke

NAME = "mnist_svhn"
MNIST = {"train": "train", "test": "t10k"}


def _mnist(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    folder = folder / "mnist" if (folder / "mnist").is_dir() else folder
    images = read_idx(folder / f"{MNIST[part]}-images-idx3-ubyte", NAME)
    return images, read_idx(folder / f"{MNIST[part]}-labels-idx1-ubyte", NAME).long()


def _svhn(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    folder = folder / "svhn" if (folder / "svhn").is_dir() else folder
    path = existing(folder / f"{part}_32x32.mat", NAME, "SVHN's cropped digits")
    content = loadmat(path)
    missing = {"X", "y"} - content.keys()
    if missing or content["X"].ndim != 4 or content["X"].shape[:3] != (32, 32, 3):
        raise ValueError(
            f"{NAME}: expected X (32, 32, 3, image) and y in {path}. Got "
            f"{ {n: v.shape for n, v in content.items() if not n.startswith('_')} }. "
            "Take the cropped digits, format 2."
        )
    images = torch.from_numpy(np.ascontiguousarray(content["X"].transpose(3, 0, 1, 2)))
    return images, torch.from_numpy(content["y"].ravel().astype(np.int64) % 10)


def read(folder: Path, n_validation: int = 5000) -> Dataset:
    """Digits of both sets; partners are drawn within a class, anew at every epoch."""
    folder = Path(folder)
    parts = {}
    for part in ("train", "test"):
        (first, first_class), (second, second_class) = _mnist(folder, part), _svhn(folder, part)
        parts[part] = ((pixels(first), pixels(second)), (first_class, second_class))
    views, classes = parts["train"]
    held = [slice(n_validation)] * 2
    kept = [slice(n_validation, None)] * 2

    def samples(rows: list[slice], fresh: bool) -> Samples:
        some = [part[r] for part, r in zip(classes, rows, strict=True)]
        return Samples([v[r] for v, r in zip(views, rows, strict=True)], some[0], some, fresh)

    test_views, test_classes = parts["test"]
    return Dataset(
        (Modality("mnist", (28, 28, 1)), Modality("svhn", (32, 32, 3))),
        labels=tuple("0123456789"),
        exclusive=True,
        train=samples(kept, fresh=True),
        validation=samples(held, fresh=False),
        test=Samples(test_views, test_classes[0], test_classes),
    )


def write_tiny(folder: Path) -> None:
    """Bars for digits: the digit is the column of the bar."""
    random = np.random.default_rng(0)
    for part, n in (("train", 200), ("test", 60)):
        labels = np.arange(n) % 10
        for side in (28, 32):
            images = random.integers(0, 30, (n, side, side))
            images[np.arange(n), :, 4 + 2 * labels] = 255
            if side == 28:
                prefix = folder / "mnist" / MNIST[part]
                write_idx(Path(f"{prefix}-images-idx3-ubyte.gz"), torch.from_numpy(images).byte())
                write_idx(Path(f"{prefix}-labels-idx1-ubyte.gz"), torch.from_numpy(labels).byte())
            else:
                coloured = np.repeat(images[..., None], 3, axis=-1).astype(np.uint8)
                path = folder / "svhn" / f"{part}_32x32.mat"
                path.parent.mkdir(parents=True, exist_ok=True)
                called = np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)
                savemat(path, {"X": coloured.transpose(1, 2, 3, 0), "y": called})


SUITE = Suite(
    name=NAME,
    metric="accuracy",
    presets={
        "smoke": smoke(7, n_validation=60),
        "small": Preset(
            latent_dim=64,
            epochs=3,
            lr=2e-3,
            betas=(0.1, 0.3),
            precision="bf16",
            size=Size(16, 32, 7, 2, branch=1.0),
            classifier=Size(16, 64, 7, 2),
            classifier_epochs=3,
            batch_size=64,
            n_probe=4000,
        ),
        "paper": Preset(
            latent_dim=64,
            epochs=100,
            lr=5e-4,
            betas=tuple(2.0**k for k in range(-8, 4)),
            precision="bf16",
            size=Size(64, 512, 7, 1),
            classifier=Size(32, 128, 7, 1),
            classifier_epochs=20,
        ),
    },
    read=read,
    write_tiny=write_tiny,
)
