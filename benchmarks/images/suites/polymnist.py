"""Translated PolyMNIST: a digit on three or five kinds of background, in places of its own.

Reads MNIST (idx files) and composes images, or reads the published folders, `train/m0/<i>.<digit>
.png` and `test/...`. Digits are shrunk to three quarters and placed at random (Daunhawer et al.
2022); the background is a random crop of one image per modality, inverted where the digit is
(Sutter et al. 2021). Modalities of one sample show different digits of the same class.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.images.data import (
    Dataset,
    Modality,
    Samples,
    View,
    existing,
    pixels,
    read_idx,
    read_image,
    write_idx,
)
from benchmarks.images.networks import Size
from benchmarks.images.suite import Preset, Suite, smoke
from neuroshare.vae.schedule import Schedule

NAME = "polymnist"
SIDE = 28
SCALE = 0.75
FILES = {"train": "train", "test": "t10k"}


def procedural_background(modality: int, side: int = 256, waves: float = 1.0) -> Tensor:
    """Coloured texture (side, side, 3) in [0, 1]; dark and light in turn, so that digits show.

    A sum of twelve plane waves of up to `waves` periods per image of 28 pixels, around a colour.
    """
    random = np.random.default_rng(1000 + modality)
    y, x = np.mgrid[:side, :side] / SIDE
    texture = np.zeros((side, side, 3))
    for _ in range(12):
        frequency = 2 * np.pi * waves * random.uniform(-0.5, 0.5, 2)
        phase = random.uniform(0, 2 * np.pi)
        wave = np.sin(frequency[0] * y + frequency[1] * x + phase)
        texture += wave[..., None] * random.uniform(0, 1, 3)
    texture /= np.abs(texture).max((0, 1))
    dark = np.clip(random.uniform(0.1, 0.4, 3) + 0.15 * texture, 0.0, 0.45)
    return torch.from_numpy(dark if modality % 2 == 0 else 1 - dark).float()


def _backgrounds(folder: Path | None, n_modalities: int, waves: float) -> list[Tensor]:
    if folder is None:
        return [procedural_background(m, waves=waves) for m in range(n_modalities)]
    files = sorted(existing(Path(folder), NAME, "a folder of background images").iterdir())
    if len(files) < n_modalities:
        raise ValueError(
            f"{NAME}: expected {n_modalities} background images, one per modality, in {folder}. "
            f"Got {len(files)}."
        )
    images = []
    for file in files[:n_modalities]:
        with Image.open(file) as image:
            array = np.asarray(image.convert("RGB"))
        if min(array.shape[:2]) < SIDE:
            raise ValueError(
                f"{NAME}: expected a background of at least {SIDE} x {SIDE} pixels. "
                f"Got {array.shape[1]} x {array.shape[0]} in {file}."
            )
        images.append(torch.from_numpy(array.copy()).float() / 255)
    return images


def compose(digits: Tensor, background: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Digits (item, 28, 28) of bytes on crops of a background: bytes (item, 28, 28, 3).

    A digit lies up to `shift` pixels from the centre, in either direction.
    """
    n_items, inner = len(digits), int(SIDE * SCALE)
    small = interpolate(
        digits[:, None].float() / 255, (inner, inner), mode="bilinear", antialias=True
    )
    margin = SIDE - inner
    lowest = max(margin // 2 - shift, 0)
    highest = min(margin // 2 + shift, margin)
    place = torch.randint(lowest, highest + 1, (n_items, 2), generator=generator)
    ink = torch.zeros(n_items, SIDE, SIDE)
    for row, column in place.unique(dim=0).tolist():
        here = (place == torch.tensor([row, column])).all(1)
        ink[here, row : row + inner, column : column + inner] = small[here, 0]
    crops = background.unfold(0, SIDE, 1).unfold(1, SIDE, 1)  # (row, column, channel, y, x)
    row = torch.randint(0, crops.shape[0], (n_items,), generator=generator)
    column = torch.randint(0, crops.shape[1], (n_items,), generator=generator)
    behind = crops[row, column].permute(0, 2, 3, 1)
    ink = ink.unsqueeze(-1)
    return (255 * (behind * (1 - ink) + (1 - behind) * ink)).round().byte()


def _from_mnist(
    folder: Path, part: str, n_items: int | None, backgrounds: list[Tensor], shift: int
) -> tuple[list[View], list[Tensor]]:
    digits = read_idx(folder / f"{FILES[part]}-images-idx3-ubyte", NAME)
    labels = read_idx(folder / f"{FILES[part]}-labels-idx1-ubyte", NAME).long()
    views, classes = [], []
    for m, background in enumerate(backgrounds):
        generator = torch.Generator().manual_seed(100 * (part == "test") + m)
        order = torch.randperm(len(digits), generator=generator)[:n_items]
        views.append(pixels(compose(digits[order], background, shift, generator)))
        classes.append(labels[order])
    return views, classes


def _from_folders(
    folder: Path, part: str, n_items: int | None, n_modalities: int
) -> tuple[list[View], list[Tensor]]:
    views, classes = [], []
    for m in range(n_modalities):
        place = existing(folder / part / f"m{m}", NAME, "images named <i>.<digit>.png")
        files = sorted(place.glob("*.png"), key=lambda file: int(file.name.split(".")[0]))[:n_items]
        views.append(pixels([read_image(file, SIDE) for file in files]))
        classes.append(torch.tensor([int(file.name.split(".")[1]) for file in files]))
        if not torch.equal(classes[m], classes[0]):
            raise ValueError(
                f"{NAME}: expected the same numbers and digits in {place} as in m0. "
                "Got others; unpack the archive again."
            )
    return views, classes


def read(
    folder: Path,
    n_modalities: int = 5,
    n_train: int | None = None,
    n_validation: int = 5000,
    n_test: int | None = None,
    n_epoch: int | None = None,
    shift: int = 4,
    waves: float = 1.0,
    backgrounds: Path | None = None,
    fresh: bool = False,
) -> Dataset:
    """Digits of all modalities, from MNIST's idx files or from the published folders.

    `fresh` redraws which digits of a class are paired, at every epoch, and an epoch may be shorter
    than the training part (`n_epoch`); published pairs are fixed.
    """
    folder = Path(folder)
    modalities = tuple(Modality(f"m{m}", (SIDE, SIDE, 3)) for m in range(n_modalities))
    published = (folder / "train" / "m0").is_dir()
    scenes = [] if published else _backgrounds(backgrounds, n_modalities, waves)

    def items(part: str, n_items: int | None) -> tuple[list[View], list[Tensor]]:
        if published:
            return _from_folders(folder, part, n_items, n_modalities)
        return _from_mnist(folder, part, n_items, scenes, shift)

    def samples(
        views: list[View], classes: list[Tensor], rows: slice, fresh: bool = False
    ) -> Samples:
        # Published images of one number belong together; composed ones are paired by class.
        kept = [part[rows] for part in classes]
        drawn = kept if fresh or not published else None
        labels = kept[0][:n_epoch] if fresh else kept[0]
        return Samples([view[rows] for view in views], labels, drawn, fresh)

    views, classes = items("train", None if n_train is None else n_train + n_validation)
    test = items("test", n_test)
    if len(classes[0]) <= n_validation:
        raise ValueError(
            f"{NAME}: expected more than n_validation={n_validation} training images. "
            f"Got {len(classes[0])}."
        )
    return Dataset(
        modalities,
        labels=tuple("0123456789"),
        exclusive=True,
        train=samples(views, classes, slice(n_validation, None), fresh),
        validation=samples(views, classes, slice(n_validation)),
        test=samples(*test, slice(None)),
    )


def write_tiny(folder: Path) -> None:
    """Bars for digits: the digit is the column of the bar."""
    random = np.random.default_rng(0)
    for part, n in (("train", 200), ("test", 60)):
        labels = np.arange(n) % 10
        digits = random.integers(0, 30, (n, SIDE, SIDE))
        digits[np.arange(n), :, 4 + 2 * labels] = 255
        prefix = folder / FILES[part]
        write_idx(Path(f"{prefix}-images-idx3-ubyte.gz"), torch.from_numpy(digits).byte())
        write_idx(Path(f"{prefix}-labels-idx1-ubyte.gz"), torch.from_numpy(labels).byte())


SUITE = Suite(
    name=NAME,
    metric="accuracy",
    presets={
        "smoke": smoke(7, n_modalities=3, n_validation=60, fresh=True),
        # Digits lie up to one pixel from the centre and an epoch is 4,000 samples of 30,000: what
        # three minutes of one core can learn. On validation samples a plain VAE (independent,
        # beta 1) has an error of 0.0020; methods may have a tenth more.
        "small": Preset(
            latent_dim=64,
            epochs=90,
            lr=Schedule(3e-3, 0.0, 90),
            betas=(0.4, 1.0),
            batch_size=64,
            anneal=0.2,
            max_error=0.0022,
            screen=True,
            n_probe=1000,
            n_subsets=2,
            precision="bf16",
            size=Size(32, 32, 7, 4, branch=1.0),
            classifier=Size(16, 64, 7, 2, branch=1.0),
            classifier_epochs=40,
            arguments={
                "n_modalities": 3,
                "n_train": 30_000,
                "n_validation": 500,
                "n_test": 1000,
                "n_epoch": 4000,
                "shift": 1,
                "fresh": True,
            },
        ),
        "paper": Preset(
            latent_dim=512,
            epochs=500,
            lr=5e-4,
            betas=tuple(2.0**k for k in range(-8, 4)),
            precision="bf16",
            size=Size(64, 512, 7, 1),
            classifier=Size(32, 128, 7, 1),
            classifier_epochs=20,
            n_subsets=8,
            arguments={"n_modalities": 5},
        ),
    },
    read=read,
    write_tiny=write_tiny,
)
