"""Paired windows as tensors on a device: where labelled arrays become batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuroshare.recordings.pairing import PairedWindows


class ResidentWindows:
    """Paired windows on a device, gathered batch by batch: the overlap is never materialised.

    Counts lie time-major, (trial, time, unit) flattened, so that a window is one contiguous run of
    width x unit values and a batch is one `index_select` on an overlapping view. Features are thus
    ordered (lag, unit).
    """

    def __init__(
        self, paired: PairedWindows, device: torch.device, subjects: Mapping[str, int] | None = None
    ) -> None:
        """Put the counts on the device.

        `subjects` are the names and numbers of features of all modalities of the model, when these
        are more than those paired: the others are absent.
        """
        self.paired = paired
        own = {name: array.sizes["unit"] * paired.width for name, array in paired.counts.items()}
        subjects = own if subjects is None else subjects
        self.n_features = list(subjects.values())
        self.columns = [list(subjects).index(n) for n in paired.subjects if n in subjects]
        self.names = [name for name in paired.subjects if name in subjects]
        self.device = device
        self.views, self.rows = [], []
        self.n_bins = next(iter(paired.counts.values())).sizes["time"]
        for name in self.names:
            array = paired.counts[name]
            used = paired.trials[name]
            values = array.values[used].transpose(0, 2, 1)  # (trial, time, unit)
            resident = torch.from_numpy(np.ascontiguousarray(_compact(values))).to(device)
            n_units = values.shape[2]
            n_windows = max(values.shape[0] * self.n_bins - paired.width + 1, 0)
            self.views.append(
                resident.view(-1).as_strided((n_windows, paired.width * n_units), (n_units, 1))
            )
            row = np.full(array.sizes["trial"], -1)
            row[used] = np.arange(len(used))
            self.rows.append(row)
        self.starts = torch.from_numpy(paired.starts).to(device)
        self._place(paired)

    def _place(self, paired: PairedWindows) -> None:
        """Put the pairing on the device: first bin of each trial, (row, subject); -1 if absent."""
        paired_table = paired.table[:, [paired.subjects.index(name) for name in self.names]]
        placed = [row[column] for row, column in zip(self.rows, paired_table.T, strict=True)]
        table = np.where(paired_table < 0, -1, np.stack(placed, axis=1) * self.n_bins)
        self.table = torch.from_numpy(table).to(self.device)
        self.complete = bool((table >= 0).all())

    def __len__(self) -> int:
        return len(self.table) * len(self.starts)

    def redraw(self, epoch: int) -> None:
        """Draw the partners of an epoch; those of the first are as they came."""
        if epoch and self.paired.order == "random":
            self._place(self.paired.repair(self.paired.seed + epoch))

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
        for column, values in zip(self.columns, x, strict=True):
            everyone[column] = values
        seen[self.columns] = observed
        return everyone, seen

    def all_batches(
        self, batch_size: int = 1024
    ) -> Iterator[tuple[NDArray[np.int64], list[Tensor], Tensor]]:
        """Give every window in order: positions, x and observed."""
        everything = torch.arange(len(self), device=self.device)
        for first in range(0, len(self), batch_size):
            index = everything[first : first + batch_size]
            yield (index.cpu().numpy(), *self.batch(index))


def _compact(values: NDArray[Any]) -> NDArray[Any]:
    """Counts as bytes where they fit, else as they are in a type that torch gathers."""
    if np.issubdtype(values.dtype, np.integer) or values.dtype == bool:
        low, high = (values.min(), values.max()) if values.size else (0, 0)
        if low >= 0 and high <= 255:
            return values.astype(np.uint8)
        return values.astype(np.int32)
    return values.astype(np.float32)
