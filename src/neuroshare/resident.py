"""Paired windows as tensors on a device: where labelled arrays become batches."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuroshare.recordings.binning import in_chunks
from neuroshare.recordings.pairing import PairedWindows

LIMIT = "NEUROSHARE_RESIDENT_BYTES"
"""Environment variable: the most bytes of counts to hold on a device."""

_SHARE = 0.5
"""Of the free memory of a device, what counts may take; the rest is for networks and batches."""


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
        own = {name: array.sizes["unit"] * paired.width for name, array in paired.counts.items()}
        subjects = own if subjects is None else subjects
        self.n_features = list(subjects.values())
        self.columns = [list(subjects).index(n) for n in paired.subjects if n in subjects]
        self.names = [name for name in paired.subjects if name in subjects]
        self.device = device
        self.views: list[Tensor | _HostView] = []
        self.rows = []
        self.n_bins = next(iter(paired.counts.values())).sizes["time"]
        room = left = _room(device) if limit is None else limit
        left_out = 0
        for name in self.names:
            array = paired.counts[name]
            used = paired.trials[name]
            dtype = _compact_type(array.values, used)
            n_bytes = len(used) * self.n_bins * array.sizes["unit"] * dtype.itemsize
            if n_bytes <= left:
                left -= n_bytes
                self.views.append(_resident(array.values, used, dtype, paired.width, device))
            else:
                left_out += n_bytes
                self.views.append(_HostView(array.values, used, paired.width, device))
            row = np.full(array.sizes["trial"], -1)
            row[used] = np.arange(len(used))
            self.rows.append(row)
        self.resident = not left_out
        """Whether every batch is gathered on the device, without the host."""
        if left_out:
            there = "host memory" if device.type == "cpu" else str(device)
            warnings.warn(
                f"{_told(left_out)} of counts do not fit into the {_told(room)} that they may take "
                f"of {there}: windows are gathered from where they lie, batch by batch, which "
                f"takes longer; an epoch reads {_told(self._host_bytes(paired))} there. "
                f"Set {LIMIT} to allow more.",
                stacklevel=2,
            )
        self.starts = torch.from_numpy(paired.starts).to(device)
        self.table = self._placed(paired).to(device)

    def _placed(self, paired: PairedWindows) -> Tensor:
        """Give the pairing as the first bin of each trial, (row, subject); -1 if absent."""
        paired_table = paired.table[:, [paired.subjects.index(name) for name in self.names]]
        placed = [row[column] for row, column in zip(self.rows, paired_table.T, strict=True)]
        table = np.where(paired_table < 0, -1, np.stack(placed, axis=1) * self.n_bins)
        return torch.from_numpy(table)

    def _host_bytes(self, paired: PairedWindows) -> int:
        """Count the bytes that an epoch gathers outside the device."""
        features = [view.n_bytes for view in self.views if isinstance(view, _HostView)]
        return int(paired.sizes["window"] * sum(features))

    def __len__(self) -> int:
        return len(self.table) * len(self.starts)

    def redraw(self, epoch: int) -> None:
        """Draw the partners of an epoch; those of the first are as they came.

        They take the place of the old ones, where a recorded training step looks for them.
        """
        if self.paired.order == "random":
            drawn = self.paired.repair(self.paired.seed + epoch) if epoch else self.paired
            self.table.copy_(self._placed(drawn))

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
        self, batch_size: int = 1024
    ) -> Iterator[tuple[NDArray[np.int64], list[Tensor], Tensor]]:
        """Give every window in order: positions, x and observed."""
        everything = torch.arange(len(self), device=self.device)
        for first in range(0, len(self), batch_size):
            index = everything[first : first + batch_size]
            yield (index.cpu().numpy(), *self.batch(index))


class _HostView:
    """Stands for the overlapping view of counts that are not on the device."""

    def __init__(
        self, values: NDArray[Any], used: NDArray[np.int64], width: int, device: torch.device
    ) -> None:
        self.used = used
        by_time = values.transpose(0, 2, 1)
        windows = np.lib.stride_tricks.sliding_window_view(by_time, width, axis=1)
        self.windows = windows.swapaxes(2, 3)  # (trial, first bin, lag, unit)
        self.n_bins = by_time.shape[1]
        self.n_bytes = width * by_time.shape[2] * values.itemsize
        self.device = device

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Windows by their first bin among those of the used trials, (sample, lag x unit)."""
        row, first = np.divmod(index.cpu().numpy(), self.n_bins)
        taken = self.windows[self.used[row], first].reshape(len(row), -1)
        dtype = _compact_type(taken)
        return torch.from_numpy(taken.astype(dtype, copy=False)).to(self.device)


def _resident(
    values: NDArray[Any],
    used: NDArray[np.int64],
    dtype: np.dtype[Any],
    width: int,
    device: torch.device,
) -> Tensor:
    """Counts of the used trials on the device, as overlapping windows (first bin, lag x unit)."""
    n_units, n_bins = values.shape[1:]
    like = torch.from_numpy(np.empty(0, dtype)).dtype
    resident = torch.empty((len(used), n_bins, n_units), dtype=like, device=device)
    done = 0
    for trials in in_chunks(used, n_units * n_bins):
        piece = np.ascontiguousarray(values[trials].transpose(0, 2, 1), dtype)
        resident[done : done + len(trials)] = torch.from_numpy(piece)
        done += len(trials)
    n_windows = max(len(used) * n_bins - width + 1, 0)
    return resident.view(-1).as_strided((n_windows, width * n_units), (n_units, 1))


def _compact_type(values: NDArray[Any], used: NDArray[np.int64] | None = None) -> np.dtype[Any]:
    """Bytes for counts that fit, else a type that torch gathers without loss."""
    if values.dtype in (np.uint8, np.bool_):
        return np.dtype(np.uint8)
    if not np.issubdtype(values.dtype, np.integer):
        return np.dtype(np.float32)
    everything = np.arange(len(values)) if used is None else used
    each = int(np.prod(values.shape[1:]))
    for trials in in_chunks(everything, each):
        some = values[trials]
        if some.size and not (some.min() >= 0 and some.max() <= 255):
            return np.dtype(np.int32)
    return np.dtype(np.uint8)


def _room(device: torch.device) -> int:
    """Bytes that counts may take on a device."""
    told = os.environ.get(LIMIT)
    if told is not None:
        if not told.isdecimal():
            raise ValueError(f"{LIMIT} must be a whole number of bytes. Got {told!r} instead.")
        return int(told)
    if device.type == "cuda":
        return int(_SHARE * torch.cuda.mem_get_info(device)[0])
    return int(_SHARE * _available())


def _available(root: Path = Path("/")) -> float:
    """Bytes that the machine, and the limit of a container or batch job on it, can give."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 2.0**62  # a system that does not tell
    (line,) = [line for line in lines if line.startswith("MemAvailable:")]
    free = 1024.0 * int(line.split()[1])
    try:
        group = (root / "proc/self/cgroup").read_text(encoding="utf-8").rpartition("::/")[2].strip()
        folder = root / "sys/fs/cgroup" / group
        most, held = ((folder / f"memory.{name}").read_text() for name in ("max", "current"))
    except OSError:
        return free
    return free if most.strip() == "max" else min(free, max(int(most) - int(held), 0))


def _told(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.3g} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.3g} MiB"
