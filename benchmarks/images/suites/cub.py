"""CUB-200-2011: a bird and a caption, with the bird's primary colours as attributes.

The folder holds `CUB_200_2011/` as published and the ten captions of every image, one per line, in
`text/<class>/<image>.txt` (Reed et al. 2016; `text_c10/` inside `CUB_200_2011/` is found as well).
Captions are cut to 32 words; the vocabulary is that of the training part alone.

Attributes are six groups of the fifteen primary colours: an image has a group if annotators gave
it one of its colours, or, where image-level attributes are absent, if they gave its class the
colours of the group in at least `present` percent.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.images.data import Dataset, Modality, Samples, View, existing, pixels, read_image
from benchmarks.images.networks import Size
from benchmarks.images.suite import Preset, Suite, smoke

NAME = "cub"
SIDE = 64
LENGTH = 32
FILLING, UNKNOWN = "", "<unknown>"

# Attributes 249 to 263 of attributes.txt, has_primary_color, in their order.
# fmt: off
COLOURS = (
    "blue", "brown", "iridescent", "purple", "rufous", "grey", "yellow", "olive",
    "green", "pink", "orange", "black", "white", "red", "buff",
)
# fmt: on
FIRST_COLOUR = 249
GROUPS = {
    "blue2red": ("blue", "iridescent", "purple", "green", "pink", "orange", "red"),
    "brown": ("brown", "rufous", "buff"),
    "grey": ("grey",),
    "yellow": ("yellow", "olive"),
    "black": ("black",),
    "white": ("white",),
}


def words(caption: str) -> list[str]:
    """Lower-case words of a caption, without punctuation."""
    return re.findall(r"[a-z]+|[0-9]+", caption.lower())


def vocabulary_of(captions: list[list[str]], at_least: int) -> list[str]:
    """Filling, unknown, and every word said at least so often, the most frequent first."""
    counts = Counter(word for caption in captions for text in caption for word in words(text))
    kept = [word for word, n in counts.items() if n >= at_least]
    return [FILLING, UNKNOWN, *sorted(kept, key=lambda word: (-counts[word], word))]


def encode(captions: list[str], code: dict[str, int]) -> torch.Tensor:
    """Codes (caption, position)."""
    codes = torch.zeros(len(captions), LENGTH, dtype=torch.int16)
    for row, caption in enumerate(captions):
        said = [code.get(word, 1) for word in words(caption)][:LENGTH]
        codes[row, : len(said)] = torch.tensor(said, dtype=torch.int16)
    return codes


def _table(path: Path) -> dict[str, str]:
    lines = existing(path, NAME, "the official list").read_text().splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line.strip())


def _colours(birds: Path, ids: list[str], classes: dict[str, str], present: float) -> torch.Tensor:
    """Groups of colours (image, group) of 0 and 1."""
    each = birds / "attributes" / "image_attribute_labels.txt"
    n_colours = len(COLOURS)
    if each.exists():
        row = {image: k for k, image in enumerate(ids)}
        colours = np.zeros((len(ids), n_colours))
        for line in each.read_text().splitlines():
            image, attribute, is_present = line.split()[:3]
            column = int(attribute) - FIRST_COLOUR
            if 0 <= column < n_colours and image in row:
                colours[row[image], column] = 100 * int(is_present)
    else:
        path = existing(
            birds / "class_attribute_labels_continuous.txt", NAME, "attributes of the classes"
        )
        table = np.loadtxt(path, ndmin=2)[:, FIRST_COLOUR - 1 : FIRST_COLOUR - 1 + n_colours]
        colours = table[[int(classes[image]) - 1 for image in ids]]
    grouped = [colours[:, [COLOURS.index(c) for c in group]].sum(1) for group in GROUPS.values()]
    return torch.from_numpy((np.stack(grouped, axis=1) >= present).astype(np.float32))


def read(
    folder: Path,
    validation: float = 0.1,
    at_least: int = 3,
    present: float = 40.0,
    seed: int = 0,
) -> Dataset:
    """Birds and captions; one of the ten captions is drawn at every epoch.

    A share `validation` of the official training part is held out. Words said fewer than `at_least`
    times in what remains are unknown.
    """
    folder = Path(folder)
    birds = existing(folder / "CUB_200_2011", NAME, "the official images and lists")
    text = next(
        (
            place
            for place in (folder / "text", birds / "text_c10", birds / "text")
            if place.is_dir()
        ),
        folder / "text",
    )
    existing(text, NAME, "captions, one file of ten lines per image,")
    files = _table(birds / "images.txt")
    classes = _table(birds / "image_class_labels.txt")
    official = _table(birds / "train_test_split.txt")
    ids = list(files)
    captions = []
    for image in ids:
        path = existing((text / files[image]).with_suffix(".txt"), NAME, "ten captions")
        lines = [line for line in path.read_text().splitlines() if words(line)]
        if len(lines) < 10:
            raise ValueError(
                f"{NAME}: expected ten captions, one per line, in {path}. Got {len(lines)}."
            )
        captions.append(lines[:10])

    is_training = np.array([official[image] == "1" for image in ids])
    order = np.random.default_rng(seed).permutation(np.flatnonzero(is_training))
    n_held = round(validation * len(order))
    held, training = np.sort(order[:n_held]), np.sort(order[n_held:])
    vocabulary = vocabulary_of([captions[row] for row in training], at_least)
    code = {word: number for number, word in enumerate(vocabulary)}
    views = [
        pixels(
            [read_image(existing(birds / "images" / files[k], NAME, "an image"), SIDE) for k in ids]
        ),
        View(torch.stack([encode(caption, code) for caption in captions]), len(vocabulary)),
    ]
    labels = _colours(birds, ids, classes, present)

    def samples(rows: np.ndarray, fresh: bool = False) -> Samples:
        kept = torch.from_numpy(rows)
        return Samples([view[kept] for view in views], labels[kept], fresh=fresh)

    return Dataset(
        (
            Modality("image", (SIDE, SIDE, 3)),
            Modality("caption", (LENGTH, len(vocabulary)), tuple(vocabulary)),
        ),
        labels=tuple(GROUPS),
        exclusive=False,
        train=samples(training, fresh=True),
        validation=samples(held),
        test=samples(np.flatnonzero(~is_training)),
    )


def write_tiny(folder: Path) -> None:
    """Two kinds of plain birds, black and yellow, and what is said of them."""
    birds = folder / "CUB_200_2011"
    random = np.random.default_rng(0)
    names, labels, split = [], [], []
    for k in range(1, 25):
        kind = k % 2
        name = f"00{kind + 1}.{('Black', 'Yellow')[kind]}_Bird/Bird_{k:04d}.jpg"
        image = random.integers(0, 40, (60, 80, 3)) + kind * np.array([200, 180, 0])
        for path in (birds / "images" / name, folder / "text" / name):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(birds / "images" / name)
        colour = ("black", "yellow")[kind]
        said = [f"this is a {size} {colour} bird." for size in ("small", "large") * 5]
        (folder / "text" / name).with_suffix(".txt").write_text("\n".join(said) + "\n")
        names.append(f"{k} {name}")
        labels.append(f"{k} {kind + 1}")
        split.append(f"{k} {int(k % 4 < 2)}")
    for file, lines in (
        ("images", names),
        ("image_class_labels", labels),
        ("train_test_split", split),
    ):
        (birds / f"{file}.txt").write_text("\n".join(lines) + "\n")
    attributes = np.zeros((2, 312))
    for kind, colour in enumerate(("black", "yellow")):
        attributes[kind, FIRST_COLOUR - 1 + COLOURS.index(colour)] = 90.0
    np.savetxt(birds / "class_attribute_labels_continuous.txt", attributes)


SUITE = Suite(
    name=NAME,
    metric="average_precision",
    presets={
        "smoke": smoke(4, validation=0.2),
        "small": Preset(
            latent_dim=32,
            epochs=30,
            lr=1e-3,
            betas=(1.0,),
            precision="bf16",
            size=Size(16, 64, 4, 4, branch=1.0),
            classifier=Size(16, 64, 4, 4),
            classifier_epochs=20,
            batch_size=32,
            arguments={"validation": 0.2},
        ),
        "paper": Preset(
            latent_dim=64,
            epochs=500,
            lr=5e-4,
            betas=tuple(2.0**k for k in range(-2, 3)),
            precision="bf16",
            size=Size(64, 512, 4, 1),
            classifier=Size(32, 128, 4, 1),
            classifier_epochs=50,
        ),
    },
    read=read,
    write_tiny=write_tiny,
)
