"""Samples of several modalities, resident on one device, and the reading of common files."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot

from neuroshare.vae.likelihoods import Categorical, Laplace, Likelihood


@dataclass(frozen=True)
class Modality:
    """What one modality is: an image (height, width, channel) or a text (position, category).

    `alphabet` are the categories of a text, characters or words, the first of them the filling.
    """

    name: str
    shape: tuple[int, ...]
    alphabet: tuple[str, ...] | None = None

    def likelihood(self) -> Likelihood:
        """Laplace for pixels and categorical for text, as published."""
        return Laplace(0.75) if self.alphabet is None else Categorical(len(self.alphabet))

    def hard(self, mean: Tensor) -> Tensor:
        """What a reader sees of expected data (..., feature): pixels in range, whole tokens."""
        if self.alphabet is None:
            return mean.clamp(0.0, 1.0)
        tokens = mean.unflatten(-1, self.shape).argmax(-1)
        return one_hot(tokens, self.shape[-1]).to(mean.dtype).flatten(-2)

    def error(self, mean: Tensor, x: Tensor) -> Tensor:
        """Reconstruction error (sample,): mean squared for pixels, share of wrong tokens."""
        if self.alphabet is None:
            return (mean - x).square().mean(-1)
        right = mean.unflatten(-1, self.shape).argmax(-1) == x.unflatten(-1, self.shape).argmax(-1)
        return 1 - right.to(mean.dtype).mean(-1)

    def text(self, x: Tensor) -> str:
        """One sample (feature,) of a text, to be read."""
        assert self.alphabet is not None
        tokens = [self.alphabet[token] for token in x.unflatten(-1, self.shape).argmax(-1).tolist()]
        return ("" if max(map(len, self.alphabet)) == 1 else " ").join(tokens).strip()


@dataclass(frozen=True)
class View:
    """Items of one modality: pixels or token codes, (item, version, feature).

    Versions are other ways to show the same item, such as the captions of one picture.
    """

    values: Tensor
    n_categories: int | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, items: Tensor | slice) -> View:
        return replace(self, values=self.values[items])

    def to(self, device: torch.device) -> View:
        return replace(self, values=self.values.to(device))

    def take(self, items: Tensor, versions: Tensor) -> Tensor:
        """Float data (sample, feature)."""
        values = self.values[items, versions]
        if self.n_categories is None:
            return values.float() / 255
        categories = torch.arange(self.n_categories, device=values.device)
        return (values.unsqueeze(-1) == categories).float().flatten(1)


class Samples:
    """Paired items of all modalities, the `Data` that `neuroshare.vae.train.fit` reads.

    Parameters
    ----------
    views
        Items of each modality.
    labels
        (sample,) classes, or (sample, attribute) of 0, 1 and NaN where unknown.
    classes
        Class of every item of every view. If given, a sample shows items of its class, drawn
        without replacement as far as they last; otherwise sample i is item i of each view.
    fresh
        Draw partners and versions anew for every epoch; otherwise once.
    """

    resident = True

    def __init__(
        self,
        views: Sequence[View],
        labels: Tensor,
        classes: Sequence[Tensor] | None = None,
        fresh: bool = False,
        seed: int = 0,
    ) -> None:
        self.views = tuple(views)
        self.labels = labels
        self.classes = classes
        self.fresh = fresh
        self.seed = seed
        own = torch.arange(len(labels), device=labels.device)
        self._items = own.repeat(len(self.views), 1)
        self._versions = torch.zeros_like(self._items)
        self._draw(0)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Samples:
        """Same samples, resident on `device`."""
        classes = None if self.classes is None else [part.to(device) for part in self.classes]
        views = [view.to(device) for view in self.views]
        return Samples(views, self.labels.to(device), classes, self.fresh, self.seed)

    def head(self, n: int | None) -> Samples:
        """The first n samples, drawn once and for good; None takes all."""
        views = self.views if self.classes is not None else [view[:n] for view in self.views]
        return Samples(views, self.labels[:n], self.classes, seed=self.seed)

    def redraw(self, epoch: int) -> None:
        """Draw partners and versions of this epoch, where they are drawn anew."""
        if self.fresh:
            self._draw(epoch)

    def batch(self, index: Tensor) -> tuple[list[Tensor], Tensor]:
        """Data (sample, feature) per modality, and observed (modality, sample): everything."""
        x = [
            view.take(items[index], versions[index])
            for view, items, versions in zip(self.views, self._items, self._versions, strict=True)
        ]
        return x, torch.ones(len(x), len(index), dtype=torch.bool, device=index.device)

    def _draw(self, epoch: int) -> None:
        device = self.labels.device
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)

        def uniform(n: int) -> Tensor:
            return torch.rand(n, generator=generator, dtype=torch.float64).to(device)

        for m, view in enumerate(self.views):
            # In place: a recorded training step reads these very tensors.
            self._versions[m] = (uniform(len(self)) * view.values.shape[1]).long()
            if self.classes is None:
                continue
            theirs = self.classes[m]
            by_class = (theirs + uniform(len(theirs))).argsort()
            count = torch.bincount(theirs, minlength=int(self.labels.max()) + 1)
            if (count[self.labels] == 0).any():
                raise ValueError(
                    f"Samples: expected items of every class in each view. Got none of class "
                    f"{int(self.labels[count[self.labels] == 0][0])} in view {m}; take more items."
                )
            first = count.cumsum(0) - count
            turn = _place_in_class(self.labels) % count[self.labels]
            self._items[m] = by_class[first[self.labels] + turn]


def _place_in_class(labels: Tensor) -> Tensor:
    """How many samples of the same class come before each."""
    order = labels.argsort(stable=True)
    count = torch.bincount(labels)
    place = torch.empty_like(labels)
    place[order] = (
        torch.arange(len(labels), device=labels.device) - ((count.cumsum(0) - count)[labels[order]])
    )
    return place


@dataclass(frozen=True)
class Dataset:
    """A suite's data as one preset takes them.

    `labels` names the classes, of which each sample has one (`exclusive`), or the attributes.
    """

    modalities: tuple[Modality, ...]
    labels: tuple[str, ...]
    exclusive: bool
    train: Samples
    validation: Samples
    test: Samples

    def to(self, device: torch.device) -> Dataset:
        parts = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **parts)


# ---------------------------------------------------------------------- files


def existing(path: Path, suite: str, what: str) -> Path:
    """The path, if it is there; otherwise an error that says what the suite wants of it."""
    if path.exists():
        return path
    parent = next(folder for folder in path.parents if folder.exists())
    found = sorted(entry.name for entry in parent.iterdir())[:6]
    raise FileNotFoundError(
        f"{suite}: expected {what} at {path}. Got nothing there; {parent} holds "
        f"{', '.join(found) or 'nothing'}. Name the folder that holds the official files (--data)."
    )


def read_idx(path: Path, suite: str) -> Tensor:
    """Array of an idx file of bytes, gzipped or not, as MNIST is published."""
    zipped = path.with_name(f"{path.name}.gz")
    if not path.exists() and zipped.exists():
        path = zipped
    raw = existing(path, suite, "an idx file (or .gz)").read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    n_dims = raw[3] if raw[:3] == b"\x00\x00\x08" else 0
    shape = np.frombuffer(raw, ">i4", count=n_dims, offset=4)
    if not n_dims or len(raw) != 4 + 4 * n_dims + shape.prod():
        raise ValueError(
            f"{suite}: expected bytes in idx format in {path}. Got {len(raw)} bytes that begin "
            f"with {raw[:4].hex()}. Download the file again."
        )
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * n_dims).reshape(shape)
    return torch.from_numpy(values.copy())


def write_idx(path: Path, values: Tensor) -> None:
    """Write bytes as an idx.gz file."""
    header = b"\x00\x00\x08" + bytes([values.dim()]) + np.array(values.shape, ">i4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + values.numpy().tobytes()))


def read_image(path: Path, side: int, crop: int | None = None, mode: str = "RGB") -> Tensor:
    """Bytes (side x side x channel,) of an image, its centre cropped to a square and resized.

    `crop` is the side of the square, by default the shorter side of the image.
    """
    with Image.open(path) as file:
        image = file.convert(mode)
    width, height = image.size
    crop = min(crop or min(width, height), width, height)
    left, top = (width - crop) // 2, (height - crop) // 2
    box = (left, top, left + crop, top + crop)
    small = image.crop(box).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(small).copy()).flatten()


def pixels(images: Sequence[Tensor] | Tensor) -> View:
    """View of images of bytes, each (feature,) or of any shape with channels last."""
    stacked = images if isinstance(images, Tensor) else torch.stack(list(images))
    return View(stacked.flatten(1).unsqueeze(1))
