"""Paired windows as tensors on a device: where labelled arrays become batches."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuroshare.models.inputs import grouped_sums
from neuroshare.windows.paired import PairedWindows

LIMIT = "NEUROSHARE_RESIDENT_BYTES"
"""Environment variable: the most bytes of counts to hold on a device."""

_SHARE = 0.5
"""Of the free memory of a device, what counts may take; the rest is for networks and batches."""


_WINDOWS, _FEATURES = 1024, 2**25
"""Of a batch that is only looked at, at most: those of a thousand units would be a gigabyte."""


class ResidentWindows:
    """Paired windows on a device, gathered batch by batch: the overlap is never materialised.

    Counts lie time-major, (trial, time, unit) flattened, so that a window is one contiguous run of
    width x unit values and a batch is one `index_select` on an overlapping view. Features are thus
    ordered (lag, unit).

    Subjects whose counts do not fit stay where they are, in memory or in a mapped file; their
    windows are gathered there and sent batch by batch, and are the same to the last bit.
    """

    def __init__(
        self,
        paired: PairedWindows,
        device: torch.device,
        subjects: Mapping[str, int] | None = None,
        *,
        limit: int | None = None,
    ) -> None:
        """Put the counts on the device.

        Parameters
        ----------
        paired
            The windows.
        device
            Where batches are wanted.
        subjects
            Names and numbers of features of all modalities of the model, when these are more than
            those paired: the others are absent.
        limit
            Most bytes of counts to hold on the device. By default the environment variable
            ``NEUROSHARE_RESIDENT_BYTES``, and without it half of what is free there.

        Warns
        -----
        UserWarning
            If counts do not fit.
        """
        self.paired = paired
        own = {name: len(units) * paired.width for name, units in paired.units.items()}
        subjects = own if subjects is None else subjects
        self.n_features = list(subjects.values())
        self.columns = [list(subjects).index(n) for n in paired.subjects if n in subjects]
        self.names = [name for name in paired.subjects if name in subjects]
        self.device = device
        self.views: list[Tensor | _HostView] = []
        self.n_bins = paired.sizes["bin"]
        room = left = _room(device) if limit is None else limit
        left_out = 0
        for name in self.names:
            dtype = _compact_type(paired.dtype(name), (x for _, x in paired.pieces(name)))
            n_units = len(paired.units[name])
            n_bytes = paired.n_trials(name) * self.n_bins * n_units * dtype.itemsize
            if n_bytes <= left:
                left -= n_bytes
                self.views.append(_resident(paired, name, dtype, device))
            else:
                left_out += n_bytes
                self.views.append(_HostView(paired, name, device))
        self.resident = not left_out
        """Whether every batch is gathered on the device, without the host."""
        if left_out:
            there = "host memory" if device.type == "cpu" else str(device)
            warnings.warn(
                f"{_in_bytes(left_out)} of counts do not fit into the {_in_bytes(room)} that they "
                f"may take of {there}: windows are gathered from where they lie, batch by batch, "
                f"which takes longer; an epoch reads {_in_bytes(self._host_bytes(paired))} there. "
                f"Set {LIMIT} to allow more.",
                stacklevel=2,
            )
        self.starts = torch.from_numpy(paired.first_bins).to(device)
        self.table = self._placed(paired).to(device)

    def thinned(self) -> ResidentWindows:
        """The same counts, in windows that overlap by at most half."""
        found = copy.copy(self)
        found.paired = self.paired.thinned()
        found.starts = torch.from_numpy(found.paired.first_bins).to(self.device)
        return found

    def _placed(self, paired: PairedWindows) -> Tensor:
        """Give the pairing as the first bin of each trial, (row, subject); -1 if absent."""
        partners = paired.partners[:, [paired.subjects.index(name) for name in self.names]]
        return torch.from_numpy(np.where(partners < 0, -1, partners * self.n_bins))

    def _host_bytes(self, paired: PairedWindows) -> int:
        """Count the bytes that an epoch gathers outside the device."""
        features = [view.n_bytes for view in self.views if isinstance(view, _HostView)]
        return int(paired.sizes["window"] * sum(features))

    def fingerprint(self) -> str:
        """Short name of the data, equal for equal windows."""
        return self.paired.fingerprint()

    def __len__(self) -> int:
        return len(self.table) * len(self.starts)

    def redraw(self, epoch: int) -> None:
        """Draw the partners of an epoch; those of the first are as they came.

        They take the place of the old ones, where a recorded training step looks for them.
        """
        if self.paired.redraws:
            drawn = self.paired.repair(self.paired.seed + epoch) if epoch else self.paired
            self.table.copy_(as_many(self._placed(drawn), len(self.table), epoch))

    def batch(self, index: Tensor) -> tuple[list[Tensor], Tensor]:
        """Windows by position: x (sample, lag x unit) of each modality, and who is observed."""
        row = torch.div(index, len(self.starts), rounding_mode="floor")
        first = self.table[row]  # (sample, subject)
        observed = (first >= 0).T
        position = first.clamp_min(0) + self.starts[index % len(self.starts)].unsqueeze(1)
        x = [
            view.index_select(0, column).float()
            for view, column in zip(self.views, position.T, strict=True)
        ]
        if self.columns == list(range(len(self.n_features))):
            return x, observed
        everyone = [torch.zeros(len(index), n, device=self.device) for n in self.n_features]
        seen = torch.zeros(len(everyone), len(index), dtype=torch.bool, device=self.device)
        for column, values, there in zip(self.columns, x, observed, strict=True):
            everyone[column], seen[column] = values, there
        return everyone, seen

    def all_batches(
        self, batch_size: int | None = None
    ) -> Iterator[tuple[NDArray[np.int64], list[Tensor], Tensor]]:
        """Give every window in order: positions, x and observed; by default as many as fit well."""
        if batch_size is None:
            batch_size = max(min(_WINDOWS, _FEATURES // max(sum(self.n_features), 1)), 1)
        everything = torch.arange(len(self), device=self.device)
        for first in range(0, len(self), batch_size):
            index = everything[first : first + batch_size]
            yield (index.cpu().numpy(), *self.batch(index))


def as_many(rows: Tensor, n: int, seed: int) -> Tensor:
    """As many rows as there were, at random, where another draw by behavior has more or fewer."""
    if len(rows) == n:
        return rows
    order = np.random.default_rng([seed, n]).permutation(len(rows))
    return rows[torch.from_numpy(np.resize(order, n))]


class PooledWindows:
    """Sums over parts of paired windows on a device, for encoders that see nothing else.

    An encoder that pools a window into parts gives the same for their sums, of which there are far
    fewer than bins. There is nothing to decode.
    """

    def __init__(self, paired: PairedWindows, device: torch.device, n_groups: int) -> None:
        self.paired = paired
        self.resident = True
        self.sums = []
        for name in paired.subjects:
            parts = [part.astype(np.float32) for _, part in grouped_sums(paired, name, n_groups)]
            self.sums.append(torch.from_numpy(np.concatenate(parts)).to(device).flatten(0, 1))
        self.n_starts = len(paired.first_bins)
        self.table = torch.from_numpy(paired.partners).to(device)

    def __len__(self) -> int:
        return len(self.table) * self.n_starts

    def redraw(self, epoch: int) -> None:
        """Draw the partners of an epoch, as `ResidentWindows.redraw`."""
        if self.paired.redraws:
            drawn = self.paired.repair(self.paired.seed + epoch) if epoch else self.paired
            self.table.copy_(as_many(torch.from_numpy(drawn.partners), len(self.table), epoch))

    def batch(self, index: Tensor) -> tuple[list[Tensor], Tensor]:
        """Windows by position: x (sample, part x unit) of each subject, and who is observed."""
        trial = self.table[torch.div(index, self.n_starts, rounding_mode="floor")]
        rows = trial.clamp_min(0) * self.n_starts + (index % self.n_starts).unsqueeze(1)
        x = [sums.index_select(0, row) for sums, row in zip(self.sums, rows.T, strict=True)]
        return x, (trial >= 0).T


class _HostView:
    """Stands for the overlapping view of counts that are not on the device."""

    def __init__(self, paired: PairedWindows, name: str, device: torch.device) -> None:
        self.paired = paired
        self.name = name
        self.device = device
        n_features = paired.width * len(paired.units[name])
        self.n_bytes = n_features * paired.dtype(name).itemsize

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Windows by their first bin among those of all trials, (sample, lag x unit)."""
        trial, first = np.divmod(index.cpu().numpy(), self.paired.sizes["bin"])
        taken = self.paired.gather(self.name, trial, first)
        dtype = _compact_type(taken.dtype, [taken])
        return torch.from_numpy(taken.astype(dtype, copy=False)).to(self.device)


def _resident(
    paired: PairedWindows, name: str, dtype: np.dtype[Any], device: torch.device
) -> Tensor:
    """Counts of a subject on the device, as overlapping windows (first bin, lag x unit)."""
    n_trials, n_units, n_bins = paired.n_trials(name), len(paired.units[name]), paired.sizes["bin"]
    like = torch.from_numpy(np.empty(0, dtype)).dtype
    resident = torch.empty((n_trials, n_bins, n_units), dtype=like, device=device)
    for trials, values in paired.pieces(name):
        by_time = np.ascontiguousarray(values.transpose(0, 2, 1), dtype)
        resident[trials] = torch.from_numpy(by_time)
    n_windows = max(n_trials * n_bins - paired.width + 1, 0)
    return resident.view(-1).as_strided((n_windows, paired.width * n_units), (n_units, 1))


def _compact_type(dtype: np.dtype[Any], pieces: Iterable[NDArray[Any]]) -> np.dtype[Any]:
    """Bytes for counts that fit, else a type that torch gathers without loss."""
    if dtype in (np.uint8, np.bool_):
        return np.dtype(np.uint8)
    if not np.issubdtype(dtype, np.integer):
        return np.dtype(np.float32)
    small = all(not x.size or (x.min() >= 0 and x.max() <= 255) for x in pieces)
    return np.dtype(np.uint8 if small else np.int32)


def _room(device: torch.device) -> int:
    """Bytes that counts may take on a device."""
    given = os.environ.get(LIMIT)
    if given is not None:
        if not given.isdecimal():
            raise ValueError(f"{LIMIT} must be a whole number of bytes. Got {given!r} instead.")
        return int(given)
    if device.type == "cuda":
        return int(_SHARE * torch.cuda.mem_get_info(device)[0])
    return int(_SHARE * _available())


def _available(root: Path = Path("/")) -> float:
    """Bytes that the machine, and the limit of a container or batch job on it, can give."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 2.0**62  # a system that does not say
    (line,) = [line for line in lines if line.startswith("MemAvailable:")]
    free = 1024.0 * int(line.split()[1])
    try:
        group = (root / "proc/self/cgroup").read_text(encoding="utf-8").rpartition("::/")[2].strip()
        folder = root / "sys/fs/cgroup" / group
        most, held = ((folder / f"memory.{name}").read_text() for name in ("max", "current"))
    except OSError:
        return free
    return free if most.strip() == "max" else min(free, max(int(most) - int(held), 0))


def _in_bytes(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.3g} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.3g} MiB"
