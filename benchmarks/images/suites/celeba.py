"""Bimodal CelebA: a face and a text of its attributes (Sutter et al. 2020).

The folder holds `list_attr_celeba.txt`, `img_align_celeba/` and, for the official parts,
`list_eval_partition.txt`; without the latter, parts are cut by number. Images listed but absent are
left out.

Texts name the attributes that are present, underscores as spaces, commas between, and begin at a
random position of 256 characters; the rest is filled with `*`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.images.data import Dataset, Modality, Samples, View, existing, pixels, read_image
from benchmarks.images.networks import Size
from benchmarks.images.suite import Preset, Suite, smoke

NAME = "celeba"
SIDE, CROP = 64, 148
LENGTH = 256
ALPHABET = "* abcdefghijklmnopqrstuvwxyz0123456789,."
CODE = {character: code for code, character in enumerate(ALPHABET)}


def describe(names: list[str], present: Tensor) -> str:
    """Text of the attributes that are present."""
    said = [name for name, there in zip(names, present.tolist(), strict=True) if there == 1]
    return ", ".join(said).replace("_", " ").lower()


def encode(text: str, start: int) -> Tensor:
    """Codes (position,) of a text that begins at `start`; what does not fit is cut."""
    unknown = sorted(set(text) - set(ALPHABET))
    if unknown:
        raise ValueError(
            f"{NAME}: expected attribute names of letters, digits and underscores. "
            f"Got {unknown} in {text!r}."
        )
    codes = torch.zeros(LENGTH, dtype=torch.uint8)
    kept = text[: LENGTH - start]
    codes[start : start + len(kept)] = torch.tensor([CODE[c] for c in kept], dtype=torch.uint8)
    return codes


def read_attributes(path: Path) -> tuple[list[str], list[str], Tensor]:
    """Names of the attributes, names of the images, and (image, attribute) of 0 and 1.

    The first line of the file says how many images the whole set has; a part of it may be here.
    """
    lines = existing(path, NAME, "the official attributes").read_text().splitlines()
    names = lines[1].split()
    rows = [line.split() for line in lines[2:] if line.strip()]
    for row in rows:
        if len(row) != len(names) + 1 or not set(row[1:]) <= {"-1", "1"}:
            raise ValueError(
                f"{NAME}: expected a file name and {len(names)} values of 1 or -1 in each line of "
                f"{path}. Got {' '.join(row)[:60]!r}. Download the file again."
            )
    values = np.array([row[1:] for row in rows], dtype=int)
    return names, [row[0] for row in rows], torch.from_numpy((values > 0).astype(np.float32))


def _parts(folder: Path, files: list[str], validation: float, test: float) -> np.ndarray:
    """0, 1 or 2 for each image: training, validation or test."""
    path = folder / "list_eval_partition.txt"
    if path.exists():
        official = dict(line.split() for line in path.read_text().splitlines() if line.strip())
        return np.array([int(official[name]) for name in files])
    n_test, n_validation = (max(1, round(share * len(files))) for share in (test, validation))
    parts = np.zeros(len(files), dtype=int)
    parts[len(files) - n_test - n_validation :] = 1
    parts[len(files) - n_test :] = 2
    return parts


def read(
    folder: Path,
    n_images: int | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    starts: int = 4,
    seed: int = 0,
) -> Dataset:
    """Faces and texts; each text in `starts` versions, one of which is drawn at every epoch."""
    folder = Path(folder)
    names, files, attributes = read_attributes(folder / "list_attr_celeba.txt")
    images = existing(folder / "img_align_celeba", NAME, "the aligned images")
    found = {file.name for file in images.glob("*.jpg")}
    rows = [row for row, file in enumerate(files) if file in found][:n_images]
    if len(rows) < 3:
        raise FileNotFoundError(
            f"{NAME}: expected at least 3 of the images of list_attr_celeba.txt in {images}. "
            f"Got {len(rows)}. Unpack img_align_celeba.zip there."
        )
    files, attributes = [files[row] for row in rows], attributes[rows]
    faces = pixels([read_image(images / file, SIDE, CROP) for file in files])
    random = np.random.default_rng(seed)
    texts = []
    for row in attributes:
        text = describe(names, row)
        free = max(LENGTH - len(text), 0)
        texts.append(torch.stack([encode(text, random.integers(free + 1)) for _ in range(starts)]))
    views = [faces, View(torch.stack(texts), len(ALPHABET))]
    parts = _parts(folder, files, validation, test)

    def samples(number: int, fresh: bool = False) -> Samples:
        kept = torch.from_numpy(np.flatnonzero(parts == number))
        return Samples([view[kept] for view in views], attributes[kept], fresh=fresh)

    return Dataset(
        (
            Modality("image", (SIDE, SIDE, 3)),
            Modality("text", (LENGTH, len(ALPHABET)), tuple(ALPHABET)),
        ),
        labels=tuple(names),
        exclusive=False,
        train=samples(0, fresh=True),
        validation=samples(1),
        test=samples(2),
    )


def write_tiny(folder: Path) -> None:
    """Plain faces whose colour says what the two attributes are."""
    random = np.random.default_rng(0)
    (folder / "img_align_celeba").mkdir(parents=True)
    lines = ["24", "Blond_Hair Smiling"]
    for k in range(1, 25):
        values = random.integers(0, 2, 2)
        image = random.integers(0, 60, (218, 178, 3))
        image[..., :2] += 150 * values
        Image.fromarray(image.astype(np.uint8)).save(folder / f"img_align_celeba/{k:06d}.jpg")
        lines.append(f"{k:06d}.jpg " + " ".join(f"{2 * value - 1:2d}" for value in values))
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")


SUITE = Suite(
    name=NAME,
    metric="average_precision",
    presets={
        "smoke": smoke(4, validation=0.2, test=0.2),
        "small": Preset(
            latent_dim=32,
            epochs=40,
            lr=1e-3,
            betas=(1.0,),
            precision="bf16",
            size=Size(16, 64, 4, 4, branch=1.0),
            classifier=Size(16, 64, 4, 4),
            classifier_epochs=20,
            batch_size=16,
            arguments={"validation": 0.2, "test": 0.3},
        ),
        "paper": Preset(
            latent_dim=128,
            epochs=250,
            lr=2e-4,
            betas=tuple(2.0**k for k in range(-2, 3)),
            precision="bf16",
            size=Size(64, 512, 4, 1),
            classifier=Size(32, 128, 4, 1),
            classifier_epochs=20,
        ),
    },
    read=read,
    write_tiny=write_tiny,
)
