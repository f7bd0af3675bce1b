"""Who is paired with whom: an index over binned trials, never a copy of them."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from neuroshare.settings import (
    is_number,
    require,
    require_number,
    require_one_of,
    require_seed,
    told,
)

Order = Literal["random", "rank"]
Surplus = Literal["repeat", "absent", "drop"]
Positions = NDArray[np.int64]

_OWN_NAMES = ("trial", "unit", "time", "start", "lag", "window", "subject", "latent")


def pair_subjects(
    counts: Mapping[str, xr.DataArray],
    by: str,
    width: float = 0.1,
    step: float = 0.01,
    order: Order = "random",
    seed: int = 0,
    *,
    surplus: Surplus = "repeat",
    conditions: Sequence[Hashable] | None = None,
    allow_missing: bool = False,
) -> PairedWindows:
    """Pair trials of several subjects that share a condition, and cut them into sliding windows.

    The subjects were usually not recorded together, so a partner is any trial of the same
    condition: an assumption, kept in one object that can redraw it (`PairedWindows.repair`) and
    break it (``repair(seed, shuffle_conditions=True)``, the null).

    Parameters
    ----------
    counts
        Subject name -> activity with dims (trial, unit, time), as `bin_spikes` returns it. Units
        and trials may differ between subjects; bin size and number of bins may not.
    by
        Trial coordinate whose equal values are paired, such as ``"odor"``. A coordinate that is
        unique to every trial (a trial number shared by simultaneous recordings) pairs one to one.
    width, step
        Window length and shift between windows, seconds; whole numbers of bins.
    order
        ``"random"`` draws partners, ``"rank"`` pairs the first with the first (the paper).
    seed
        Seed of the draw.
    surplus
        What happens to a subject's trials when others have fewer of that condition: ``"repeat"``
        pairs them with partners that are used again, so every trial is used and every row is
        complete; ``"absent"`` leaves the others out of that row; ``"drop"`` discards them (the
        paper).
    conditions
        Conditions to keep, in this order; by default all, sorted.
    allow_missing
        Accept conditions which some subject never saw: it is absent from those windows.

    Returns
    -------
    PairedWindows

    Raises
    ------
    ValueError
        If the arrays do not fit each other, or a condition is missing in a subject.

    Examples
    --------
    >>> import neuroshare as ns
    >>> sessions = ns.simulate_sessions(["mitt", "stella"], n_trials=5)
    >>> counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    >>> paired = ns.pair_subjects(counts, by="odor")
    >>> paired.subjects, paired.sizes["window"]
    (('mitt', 'stella'), 620)
    """
    if not isinstance(counts, Mapping) or not counts:
        raise ValueError(
            "The 'counts' parameter of pair_subjects must map subject names to arrays "
            f"(trial, unit, time). Got {type(counts).__name__} instead."
        )
    require_one_of(order, "order", "pair_subjects", ("random", "rank"))
    require_one_of(surplus, "surplus", "pair_subjects", ("repeat", "absent", "drop"))
    require_seed(seed, "pair_subjects")
    require(isinstance(by, str), "by", "pair_subjects", "the name of a trial coordinate", by)
    require(
        conditions is None or _distinct(conditions),
        "conditions",
        "pair_subjects",
        "a list of different conditions, or None",
        conditions,
    )
    if by in _OWN_NAMES:
        raise ValueError(
            f"pairing by {by!r} is not possible, since the windows have a coordinate of that name. "
            f"Give the column another one: counts.assign_coords({by}_number=('trial', ...))."
        )
    arrays = {str(name): array for name, array in counts.items()}
    bin_size = _common_bins(arrays, by)
    arrays = {name: array.transpose("trial", "unit", "time") for name, array in arrays.items()}
    n_bins = next(iter(arrays.values())).sizes["time"]
    n_width = _whole_bins("width", width, bin_size)
    n_step = _whole_bins("step", step, bin_size)
    if n_width > n_bins:
        raise ValueError(
            f"width of {width:g} s is longer than the {n_bins * bin_size:g} s of each trial. "
            "Bin a longer span or take narrower windows."
        )

    labels = {name: np.asarray(array.coords[by].values) for name, array in arrays.items()}
    report = []
    for name, values in labels.items():
        unlabelled = int(pd.isna(values).sum())
        if unlabelled:
            report.append(f"subject {name!r}: {unlabelled} trials without a {by} were left out.")
    found = {name: set(_known(values)) for name, values in labels.items()}
    everywhere = set().union(*found.values())
    if conditions is None:
        kept = tuple(_sorted(everywhere))
    else:
        kept = tuple(conditions)
        unknown = [c for c in kept if c not in everywhere]
        if unknown:
            raise ValueError(
                f"conditions {unknown} occur in no subject. Found in {by!r}: {_sorted(everywhere)}."
            )
        for condition in _sorted(everywhere - set(kept)):
            n = {name: int((values == condition).sum()) for name, values in labels.items()}
            told = ", ".join(f"{name} {count}" for name, count in n.items())
            report.append(f"{by} {condition!r} was left out by choice (trials: {told}).")
    for condition in kept:
        for name in arrays:
            if condition in found[name]:
                continue
            if not allow_missing:
                raise ValueError(
                    f"no trials of {by} {condition!r} in subject {name!r}; pairing by {by!r} needs "
                    "each condition in every subject, or allow_missing=True."
                )
            report.append(f"subject {name!r} has no {by} {condition!r} and is absent from it.")
    if not kept:
        raise ValueError(f"no trial has a value in {by!r}; nothing to pair.")

    trials = {
        name: np.flatnonzero(pd.Index(values).isin(list(kept))) for name, values in labels.items()
    }
    return PairedWindows(
        counts=arrays,
        by=by,
        conditions=kept,
        labels=labels,
        trials=trials,
        bin_size=bin_size,
        width=n_width,
        step=n_step,
        order=order,
        surplus=surplus,
        seed=seed,
        excluded=tuple(report),
    )


@dataclass(frozen=True, eq=False, repr=False)
class PairedWindows:
    """Sliding windows of several subjects, paired trial by trial. Built by `pair_subjects`.

    A row pairs one trial of each subject; a window is a row and a start bin. Only `table` (row,
    subject), the positions of the paired trials with -1 where a subject is absent, and `starts`
    (start) are stored: the counts stay as they were binned.
    """

    counts: dict[str, xr.DataArray]
    by: str
    conditions: tuple[Any, ...]
    labels: dict[str, NDArray[Any]]
    trials: dict[str, Positions]
    bin_size: float
    width: int
    step: int
    order: Order
    surplus: Surplus
    seed: int
    excluded: tuple[str, ...] = ()
    table: Positions = field(init=False)
    row_condition: Positions = field(init=False)
    """Position in `conditions` of each row."""

    def __post_init__(self) -> None:
        table, row_condition = self._draw()
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "row_condition", row_condition)

    def _draw(self) -> tuple[Positions, Positions]:
        rng = np.random.default_rng(self.seed)
        blocks, conditions = [], []
        for index, condition in enumerate(self.conditions):
            pools = [
                self.trials[name][self.labels[name][self.trials[name]] == condition]
                for name in self.subjects
            ]
            present = [len(pool) for pool in pools if len(pool)]
            if not present:
                continue
            n_rows = min(present) if self.surplus == "drop" else max(present)
            block = np.full((n_rows, len(pools)), -1, dtype=np.int64)
            for column, pool in enumerate(pools):
                if not len(pool):
                    continue
                rounds = -(-n_rows // len(pool)) if self.surplus == "repeat" else 1
                drawn = [
                    rng.permutation(pool) if self.order == "random" else pool for _ in range(rounds)
                ]
                chosen = np.concatenate(drawn)[:n_rows]
                block[: len(chosen), column] = chosen
            if self.surplus == "absent" and self.order == "random":
                # Otherwise the few trials of one subject always meet the first rows of another.
                for column in range(block.shape[1]):
                    rng.shuffle(block[:, column])
                block = block[(block >= 0).any(axis=1)]
            blocks.append(block)
            conditions.append(np.full(len(block), index))
        if not blocks:
            return np.empty((0, len(self.subjects)), np.int64), np.empty(0, np.int64)
        return np.concatenate(blocks), np.concatenate(conditions)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subject names, in order."""
        return tuple(self.counts)

    @property
    def starts(self) -> Positions:
        """First bin of each window of a trial, (start,)."""
        n_bins = next(iter(self.counts.values())).sizes["time"]
        return np.arange(0, n_bins - self.width + 1, self.step)

    @property
    def sizes(self) -> dict[str, int]:
        """Lengths by name: subject, row, start, window (= row x start) and lag."""
        n_rows, n_starts = len(self.table), len(self.starts)
        return {
            "subject": len(self.subjects),
            "row": n_rows,
            "start": n_starts,
            "window": n_rows * n_starts,
            "lag": self.width,
        }

    @property
    def units(self) -> dict[str, NDArray[Any]]:
        """Unit ids by subject."""
        return {name: np.asarray(array["unit"].values) for name, array in self.counts.items()}

    def __len__(self) -> int:
        return self.sizes["window"]

    def __repr__(self) -> str:
        sizes = self.sizes
        who = ", ".join(
            f"{name} ({len(self.trials[name])} trials x {array.sizes['unit']} units)"
            for name, array in self.counts.items()
        )
        return (
            f"<PairedWindows of {sizes['subject']} subjects by {self.by} "
            f"{list(map(str, self.conditions))}: {sizes['window']} windows of "
            f"{self.width * self.bin_size:g} s = {sizes['row']} paired trials x "
            f"{sizes['start']} starts; {who}>"
        )

    def report(self) -> list[str]:
        """What was left out or used more than once, and why: one sentence each."""
        told = list(self.excluded)
        for column, name in enumerate(self.subjects):
            used = self.table[:, column]
            used = used[used >= 0]
            unused = len(self.trials[name]) - len(np.unique(used))
            again = len(used) - len(np.unique(used))
            if unused:
                told.append(
                    f"subject {name!r}: {unused} surplus trials have no partner and were dropped."
                )
            if again:
                told.append(
                    f"subject {name!r}: {again} rows use one of its trials again, since others "
                    "have more trials of that condition."
                )
        return told

    def split(
        self, test_fraction: float = 0.25, seed: int = 0
    ) -> tuple[PairedWindows, PairedWindows]:
        """Split by trial into (train, test), stratified by condition within every subject.

        Trials are split first and paired afterwards within each part, so no trial, window or
        partner crosses the split. A subject's own split depends on the seed and its name alone:
        it stays the same whichever other subjects are there. Where every condition occurs once
        per subject (one-to-one pairing), whole conditions are split instead.

        Raises
        ------
        ValueError
            If `test_fraction` is not inside (0, 1) or a part would be empty.
        """
        require_number(test_fraction, "test_fraction", "split", 0, 1, open_=True)
        require_seed(seed, "split")
        members = {
            name: [
                self.trials[name][self.labels[name][self.trials[name]] == condition]
                for condition in self.conditions
            ]
            for name in self.subjects
        }
        one_to_one = len(self.conditions) > 1 and all(
            len(pool) <= 1 for pools in members.values() for pool in pools
        )
        held_out: dict[str, Positions] = {}
        if one_to_one:
            present = [
                i for i in range(len(self.conditions)) if any(len(m[i]) for m in members.values())
            ]
            n_test = max(1, round(test_fraction * len(present)))
            chosen = np.random.default_rng(seed).permutation(present)[:n_test]
            for name in self.subjects:
                held_out[name] = np.concatenate([members[name][i] for i in chosen])
        else:
            for name in self.subjects:
                rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
                drawn = []
                for pool in members[name]:
                    n_test = round(test_fraction * len(pool))
                    if len(pool) > 1:
                        n_test = min(max(n_test, 1), len(pool) - 1)
                    drawn.append(rng.permutation(pool)[: n_test if len(pool) > 1 else 0])
                held_out[name] = np.concatenate(drawn)
        train = replace(
            self,
            trials={n: np.setdiff1d(self.trials[n], held_out[n]) for n in self.subjects},
        )
        test = replace(self, trials={n: np.sort(held_out[n]) for n in self.subjects})
        for part, name in ((train, "training"), (test, "test")):
            if not len(part.table):
                raise ValueError(
                    f"test_fraction={test_fraction:g} leaves no {name} trials: "
                    f"{ {n: len(t) for n, t in self.trials.items()} } trials in all. "
                    "Record more trials of each condition or change test_fraction."
                )
        return train, test

    def repair(self, seed: int, *, shuffle_conditions: bool = False) -> PairedWindows:
        """Draw the partners again.

        Parameters
        ----------
        seed
            Seed of the draw.
        shuffle_conditions
            Permute the condition labels between the whole trials of each subject first: the null
            in which pairing carries no information.
        """
        require_seed(seed, "repair")
        if not shuffle_conditions:
            return replace(self, seed=seed)
        labels = {}
        for name, values in self.labels.items():
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            shuffled = values.copy()
            shuffled[self.trials[name]] = values[rng.permutation(self.trials[name])]
            labels[name] = shuffled
        return replace(self, seed=seed, labels=labels)

    def select(self, subjects: Sequence[str]) -> PairedWindows:
        """Keep the named subjects, in that order, and pair them anew."""
        names = [subjects] if isinstance(subjects, str) else subjects
        require(
            _distinct(names) and len(names) > 0 and all(name in self.counts for name in names),
            "subjects",
            "select",
            f"a list of distinct subjects among {list(self.subjects)}",
            subjects,
        )
        return replace(
            self,
            counts={name: self.counts[name] for name in names},
            labels={name: self.labels[name] for name in names},
            trials={name: self.trials[name] for name in names},
        )

    def thinned(self) -> PairedWindows:
        """Keep only windows that overlap by at most half.

        Those between hold almost nothing new: statistics over windows cost as little memory as the
        counts themselves this way, however closely the windows follow each other.
        """
        return replace(self, step=max(self.step, self.width // 2))

    def coords(self) -> dict[str, Any]:
        """Coordinates of the windows: condition, time and start (window), trial (subject, window).

        ``time`` is the centre of the window, seconds from the alignment; where subjects were
        binned over different spans it counts from the start of each subject's own span. Absent
        subjects have trial -1 (integer ids) or the empty string.
        """
        n_starts = len(self.starts)
        conditions = _as_labels(self.conditions)
        times = [np.asarray(array["time"].values, float) for array in self.counts.values()]
        first = times[0]
        if not all(np.allclose(first, other, atol=1e-9) for other in times[1:]):
            first = (np.arange(len(first)) + 0.5) * self.bin_size
        offset = (self.width - 1) / 2 * self.bin_size
        trial = []
        for column, array in enumerate(self.counts.values()):
            ids = np.asarray(array["trial"].values)
            missing: Any = -1
            if not np.issubdtype(ids.dtype, np.integer):
                ids, missing = ids.astype(str), ""
            position = self.table[:, column]
            trial.append(np.repeat(np.where(position < 0, missing, ids[position]), n_starts))
        return {
            "subject": list(self.subjects),
            self.by: ("window", np.repeat(conditions[self.row_condition], n_starts)),
            "time": ("window", np.tile(first[self.starts] + offset, len(self.table))),
            "start": ("window", np.tile(self.starts, len(self.table))),
            "trial": (("subject", "window"), np.stack(trial)),
        }

    def to_dataset(self) -> xr.Dataset:
        """Give the pairing itself as a labelled table: who meets whom in which window."""
        coords = self.coords()
        trial = coords.pop("trial")
        observed = np.repeat(self.table.T >= 0, len(self.starts), axis=1)
        return xr.Dataset(
            {"trial": trial, "observed": (("subject", "window"), observed)},
            coords=coords,
            attrs={
                "by": self.by,
                "bin_size": self.bin_size,
                "width": self.width * self.bin_size,
                "step": self.step * self.bin_size,
                "order": self.order,
                "surplus": self.surplus,
                "seed": self.seed,
            },
        )

    def __getitem__(self, subject: str) -> xr.DataArray:
        """Materialise one subject's windows, (window, unit, lag); NaN where it is absent."""
        if subject not in self.counts:
            raise KeyError(f"no subject {subject!r}; there are {list(self.subjects)}.")
        array = self.counts[subject]
        column = self.subjects.index(subject)
        values = array.values
        windows = np.lib.stride_tricks.sliding_window_view(values, self.width, axis=2)
        windows = windows[:, :, self.starts]  # (trial, unit, start, lag), still a view
        position = self.table[:, column]
        taken = windows[np.maximum(position, 0)].transpose(0, 2, 1, 3)
        if (position < 0).any():
            taken = np.where((position < 0)[:, None, None, None], np.nan, taken)
        coords = self.coords()
        coords.pop("subject")
        coords["trial"] = ("window", coords["trial"][1][column])
        coords["unit"] = array["unit"].values
        coords["lag"] = (np.arange(self.width) + 0.5) * self.bin_size
        return xr.DataArray(
            taken.reshape(-1, *taken.shape[2:]),
            dims=("window", "unit", "lag"),
            coords=coords,
            name="counts",
            attrs={"subject": subject, "by": self.by, "bin_size": self.bin_size},
        )


def are_counts(values: NDArray[Any]) -> bool:
    """Whether these are non-negative whole numbers."""
    if not values.size or values.dtype.kind == "u":  # which need not be read to know
        return True
    whole = np.issubdtype(values.dtype, np.integer) or bool((values == np.round(values)).all())
    return whole and bool(values.min() >= 0)


def _distinct(conditions: Any) -> bool:
    """Whether this is a list of different values."""
    if isinstance(conditions, str | bytes) or not isinstance(conditions, Sequence | np.ndarray):
        return False
    return all(isinstance(c, Hashable) for c in conditions) and len(set(conditions)) == len(
        conditions
    )


def _common_bins(arrays: Mapping[str, xr.DataArray], by: str) -> float:
    """Check that the arrays fit each other; their common bin size in seconds."""
    expected: tuple[int, float] | None = None
    for name, array in arrays.items():
        if not isinstance(array, xr.DataArray) or set(array.dims) != {"trial", "unit", "time"}:
            got = array.dims if isinstance(array, xr.DataArray) else type(array).__name__
            raise ValueError(
                f"subject {name!r}: expected a DataArray with dims (trial, unit, time), got {got}."
            )
        if by not in array.coords or array.coords[by].dims != ("trial",):
            found = [str(c) for c in array.coords if array.coords[c].dims == ("trial",)]
            raise ValueError(
                f"subject {name!r}: no trial coordinate {by!r} to pair by. Found: {found}."
            )
        if not array.sizes["trial"] or not array.sizes["unit"] or not array.sizes["time"]:
            raise ValueError(
                f"subject {name!r}: expected trials, units and bins, got {dict(array.sizes)}."
            )
        if array.dtype.kind not in "iuf":
            raise ValueError(
                f"subject {name!r}: expected numbers as activity, got {array.dtype}. "
                "Convert them to integer counts or float."
            )
        if not array.indexes.get("unit", pd.Index([])).is_unique:
            raise ValueError(
                f"subject {name!r}: unit ids must be unique. Number the units before pairing."
            )
        if not all(isinstance(value, Hashable) for value in array.coords[by].values.tolist()):
            raise ValueError(
                f"subject {name!r}: expected one text or number per trial in {by!r}, got lists "
                "or tables. Pair by another coordinate."
            )
        if array.dtype.kind == "f" and not np.isfinite(array.values).all():
            raise ValueError(
                f"subject {name!r}: activity has NaN or infinite values. "
                "Leave those trials or units out."
            )
        time = array["time"].values
        if time.dtype == object and all(map(is_number, time)):
            time = time.astype(float)
        if time.dtype.kind not in "iuf":
            raise ValueError(
                f"subject {name!r}: expected times of the bins in seconds, got {time.dtype}."
            )
        bin_size = array.attrs.get("bin_size")
        if bin_size is None:
            if len(time) < 2:
                raise ValueError(f"subject {name!r}: one bin and no attrs['bin_size'].")
            bin_size = float(np.median(np.diff(time)))
        if not (is_number(bin_size) and bin_size > 0):
            raise ValueError(
                f"subject {name!r}: expected bins of a positive number of seconds, in "
                f"attrs['bin_size'] or between times, got {told(bin_size)}."
            )
        got_bins = (len(time), float(bin_size))
        if expected is None:
            expected = got_bins
        elif expected[0] != got_bins[0] or not np.isclose(expected[1], got_bins[1]):
            raise ValueError(
                f"subject {name!r}: expected {expected[0]} bins of {expected[1]:g} s as in "
                f"{next(iter(arrays))!r}, got {got_bins[0]} of {got_bins[1]:g} s. "
                "Bin all subjects over spans of one length with one bin size."
            )
    assert expected is not None
    return expected[1]


def _whole_bins(name: str, seconds: float, bin_size: float) -> int:
    n = round(seconds / bin_size) if is_number(seconds) else 0
    if n < 1 or abs(n * bin_size - seconds) > 1e-6 * max(bin_size, seconds):
        raise ValueError(
            f"The {name!r} parameter of pair_subjects must be a whole number of bins of "
            f"{bin_size:g} s. Got {told(seconds)} instead."
        )
    return n


def _known(values: NDArray[Any]) -> list[Any]:
    return list(values[~pd.isna(values)].tolist())


def _as_labels(values: Sequence[Any]) -> NDArray[Any]:
    """Labels as a plain numpy array where they are of one kind (netCDF has no objects)."""
    array = np.asarray(values)
    return array if array.dtype != object else array.astype(str)


def _sorted(values: Any) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=lambda value: (type(value).__name__, str(value)))
