"""Who is paired with whom: an index over binned trials, never a copy of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from neuroshare.support.checks import require, require_number, require_seed
from neuroshare.support.chunks import in_chunks
from neuroshare.support.digest import Digest
from neuroshare.support.html import html_table
from neuroshare.windows.behavior import ByBehavior, about_behavior, behavior_of_windows
from neuroshare.windows.checks import (
    common_bins,
    distinct,
)
from neuroshare.windows.order import LabelOrder, label_order, steady_order
from neuroshare.windows.pairing import (
    Pairing,
    Positions,
    used_trials,
)
from neuroshare.windows.splitting import Blocks, Splitting, exchanged, labels_of
from neuroshare.windows.trials import Trials, as_labels, codes_of, of_trials


@dataclass(frozen=True, eq=False, repr=False)
class PairedWindows:
    """Sliding windows of several subjects, paired trial by trial. Built by `pair_subjects`.

    A row pairs one trial of each subject; a window is a row and a first bin. Only who is paired
    with whom is stored: the counts stay as they were binned, and others ask for pieces of them.
    Methods number the trials of a subject from 0 to `n_trials`, in the order of the recording.

    Attributes
    ----------
    by
        Trial coordinate by which trials are paired.
    conditions
        Its values, in order; `codes` and `row_codes` are positions in it.
    bin_size
        Seconds.
    width, step
        Length of a window and shift between windows, bins.
    pairing
        The rule by which trials are matched.
    seed
        Of the draw of partners.
    excluded
        What was left out when trials were paired and split, one sentence each.
    stretched
        Subjects of which `split` held out whole stretches of the session.
    """

    by: str
    conditions: tuple[Any, ...]
    bin_size: float
    width: int
    step: int
    pairing: Pairing
    seed: int
    excluded: tuple[str, ...] = ()
    stretched: tuple[str, ...] = ()
    _split_by: str | None = None
    _orders: Mapping[str, LabelOrder] = field(default_factory=dict)
    _trials: dict[str, Trials] = field(kw_only=True)

    @cached_property
    def _match(self) -> tuple[Positions, Positions]:
        parts = list(self._trials.values())
        codes = [part.codes if part.behaved is None else part.behaved for part in parts]
        partners, row_codes = self.pairing.draw(codes, len(self.conditions), self.seed)
        if self.behavior is None:
            return partners, row_codes
        # Partners are alike, but each may be in a bin of its own: a row has that of the first.
        row_codes = np.full(len(partners), -1, np.int64)
        for part, own in zip(parts, partners.T, strict=True):
            row = (row_codes < 0) & (own >= 0)
            row_codes[row] = part.codes[own[row]]
        return partners, row_codes

    @property
    def behavior(self) -> ByBehavior | None:
        """What behavior windows are paired by; None of conditions."""
        return self.pairing if isinstance(self.pairing, ByBehavior) else None

    @property
    def targets(self) -> NDArray[np.float64] | None:
        """Conditions as points (condition, feature) whose distances say how unlike they are.

        Where trials are paired by behavior; None where conditions are no values of it.
        """
        found = self._alike
        return None if found is None else found[0]

    @property
    def nearness(self) -> NDArray[np.float64]:
        """How near conditions are, (condition, condition): by a Gaussian of one bin of behavior."""
        return np.eye(len(self.conditions)) if self._alike is None else self._alike[1]

    @cached_property
    def _alike(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        if self.behavior is None:
            return None
        return self.behavior.alike(self.counts.values(), self.by, self.conditions)

    # ------------------------------------------------------------------ what there is

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subject names, in order."""
        return tuple(self._trials)

    @property
    def counts(self) -> dict[str, xr.DataArray]:
        """Counts by subject as they were binned, (trial, unit, time); `trials` are those in use."""
        return {name: part.array for name, part in self._trials.items()}

    @property
    def trials(self) -> dict[str, Positions]:
        """Positions in `counts` of the trials that take part, by subject."""
        return {name: part.positions for name, part in self._trials.items()}

    @property
    def units(self) -> dict[str, NDArray[Any]]:
        """Unit ids by subject."""
        return {n: np.asarray(part.array["unit"].values) for n, part in self._trials.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """Lengths by name: subject, row, start, window (= row x start), lag, bin (of a trial)."""
        of = {"subject": len(self.subjects), "row": len(self.partners), "lag": self.width}
        n_starts = len(self.first_bins)
        return {**of, "start": n_starts, "window": of["row"] * n_starts, "bin": self._n_bins}

    @property
    def _n_bins(self) -> int:
        return int(next(iter(self._trials.values())).array.sizes["time"])

    @property
    def first_bins(self) -> Positions:
        """First bin of each window of a trial, (start,)."""
        return np.arange(0, self._n_bins - self.width + 1, self.step)

    @property
    def partners(self) -> Positions:
        """Who is paired with whom: trial of each subject, (row, subject); -1 where it is absent."""
        return self._match[0]

    @property
    def row_codes(self) -> Positions:
        """Condition of each row, (row,)."""
        return self._match[1]

    @property
    def observed(self) -> NDArray[np.bool_]:
        """Whether a subject takes part in a window, (subject, window)."""
        return np.repeat(self.partners.T >= 0, len(self.first_bins), axis=1)

    @property
    def redraws(self) -> bool:
        """Whether another seed gives other partners."""
        return self.pairing.redraws

    def n_trials(self, subject: str) -> int:
        """Number of trials of a subject, paired or not."""
        return len(self._of(subject).positions)

    def trial_ids(self, subject: str) -> NDArray[Any]:
        """Their ids, (trial,)."""
        part = self._of(subject)
        return np.asarray(part.array["trial"].values[part.positions])

    def places(self, subject: str, *, binned: bool = False) -> Positions:
        """Their places in the session, (trial,); of all binned trials if asked for."""
        part = self._of(subject)
        return part.places if binned else part.places[part.positions]

    def codes(self, subject: str) -> Positions:
        """Their conditions, (trial,)."""
        return self._of(subject).codes

    def trials_of_conditions(self, by: str | None = None) -> pd.DataFrame:
        """Number of trials of each subject (row) and condition (column), or value of a column."""
        if by not in (None, self.by):
            counts = {
                name: pd.Series(part.array[by].values[part.positions]).value_counts()
                for name, part in self._trials.items()
            }
            return pd.DataFrame(counts).T.sort_index(axis=1).fillna(0).astype(int)
        n = len(self.conditions)
        counted = {s: np.bincount(p.codes, minlength=n) for s, p in self._trials.items()}
        named = pd.Index(list(self.conditions), name=self.by)
        return pd.DataFrame.from_dict(counted, orient="index", columns=named)

    def __len__(self) -> int:
        return self.sizes["window"]

    def __repr__(self) -> str:
        sizes = self.sizes
        who = ", ".join(
            f"{name} ({len(part.positions)} trials x {part.array.sizes['unit']} units)"
            for name, part in self._trials.items()
        )
        of: Any = list(map(str, self.conditions))
        if self.behavior is not None:
            of = f"({len(of)} bins)"
        return (
            f"<PairedWindows of {sizes['subject']} subjects by {self.by} "
            f"{of}: {sizes['window']} windows of "
            f"{self.width * self.bin_size:g} s = {sizes['row']} paired trials x "
            f"{sizes['start']} starts; {who}>"
        )

    def _repr_html_(self) -> str:
        """For notebooks: trials of each subject and condition."""
        table = self.trials_of_conditions().rename(columns=lambda name: f"{self.by} {name}")
        table.insert(0, "units", [len(ids) for ids in self.units.values()])
        table["trials"] = [self.n_trials(name) for name in self.subjects]
        return html_table(repr(self).partition(";")[0][1:], ("subject", *table), table.to_records())

    def report(self, *, spans: bool = True) -> list[str]:
        """What was left out or used more than once, and why: one sentence each.

        With `spans`, also whose spans reach into the next trial.
        """
        sentences = list(self.excluded)
        for name, own in zip(self.subjects, self.partners.T, strict=True):
            sentences += used_trials(name, own, self.n_trials(name))
        if spans:
            reaching = (part.reaching(name, self.bin_size) for name, part in self._trials.items())
            sentences += filter(None, reaching)
        return sentences

    def fingerprint(self) -> str:
        """Short name of these windows: equal for equal data, labels, trials and pairing."""
        digest = Digest()
        for setting in ("by", "conditions", "bin_size", "width", "step", "pairing", "seed"):
            digest.add(getattr(self, setting))
        for name, part in self._trials.items():
            digest.add(name)
            for coord in ("trial", "unit", "time"):
                digest.add(part.array[coord].values)
            for values in (part.array.values, part.codes, part.positions, part.behaved):
                if values is not None:
                    digest.add(values)
        return digest.name

    # ------------------------------------------------------------------ other windows of the data

    def split(
        self,
        test_fraction: float = 0.25,
        seed: int = 0,
        blocks: Blocks = "auto",
        by: str | None = None,
    ) -> tuple[PairedWindows, PairedWindows]:
        """Split by trial into (train, test); no trial, spike or partner is in both parts.

        Trials are split first and paired afterwards within each part. Where the labels of a
        subject come in runs, or the stretches that were binned of its trials overlap, neighbours
        would be in both parts: whole stretches of its session are held out instead, and the trials
        beside them are left out of training. `report` says what was done with whom.

        A subject's own split depends on the seed and its name alone: it stays the same whichever
        other subjects are there. Where every condition occurs once per subject (one-to-one
        pairing), whole conditions are split instead.

        Parameters
        ----------
        test_fraction
            Share of the trials that is held out; of every condition where they are drawn one by
            one, and as nearly as stretches allow.
        seed
            Of the draw.
        blocks
            ``"auto"``, as above. None: trials at random, stratified by condition; training trials
            that share spikes with held-out ones are left out. A number: stretches of seconds.
        by
            Trial column whose order decides, such as the one to be decoded where trials are paired
            one to one by number; by default the one that pairs.

        Raises
        ------
        ValueError
            If `test_fraction` is not inside (0, 1), `blocks` is none of these, a part would be
            empty, or a condition would have no training trials.
        """
        require_number(test_fraction, "test_fraction", "split", 0, 1, open_=True)
        require_seed(seed, "split")
        require(by is None or isinstance(by, str), "by", "split", "the name of a trial column", by)
        known = self._orders if by in (None, self._split_by) else {}
        by = by or self.split_by
        steady = self.behavior is not None and by == self.by
        how = Splitting(by, test_fraction, seed, blocks, self.bin_size, steady)
        parts = how.split(self._trials, self._labels(by), len(self.conditions), known)
        told = dict.fromkeys(part.sentence for part in parts.values())  # once if of all
        whole = replace(
            self,
            excluded=(*self.excluded, *told),
            stretched=tuple(name for name, part in parts.items() if part.in_stretches),
            _split_by=by,
            _orders={name: known.get(name, p.order) for name, p in parts.items()},
        )
        train = whole._kept({n: part.train for n, part in parts.items()})
        test = whole._kept({n: part.test for n, part in parts.items()})
        for part, name in ((train, "training"), (test, "test")):
            if not len(part.partners):
                raise ValueError(
                    f"test_fraction={test_fraction:g} leaves no {name} trials: "
                    f"{ {n: self.n_trials(n) for n in self.subjects} } trials in all. "
                    "Record more trials of each condition or change test_fraction."
                )
        return train, test

    def _kept(self, own: Mapping[str, NDArray[np.bool_]]) -> PairedWindows:
        return replace(self, _trials={n: part.kept(own[n]) for n, part in self._trials.items()})

    def _labels(self, by: str) -> dict[str, NDArray[Any]]:
        if by == self.by:
            conditions = as_labels(self.conditions)
            return {name: conditions[part.codes] for name, part in self._trials.items()}
        return {name: labels_of(part, by, name) for name, part in self._trials.items()}

    @property
    def split_by(self) -> str:
        """Trial column whose order decides how trials are held out."""
        return self._split_by or self.by

    @property
    def orders(self) -> dict[str, LabelOrder]:
        """How the labels of each subject follow each other, in its whole session."""
        labels = self._labels(self.split_by)
        of = label_order if self.behavior is None else steady_order
        return {
            name: self._orders.get(name) or of(labels[name][part.in_order])
            for name, part in self._trials.items()
        }

    def repair(self, seed: int, *, shuffle_conditions: bool = False) -> PairedWindows:
        """Draw the partners again.

        Parameters
        ----------
        seed
            Seed of the draw.
        shuffle_conditions
            Exchange the condition labels of each subject first: the null in which pairing carries
            no information. They are permuted between whole trials, or, in the parts of a split,
            moved along the whole session where they come in runs, both parts alike.
        """
        require_seed(seed, "repair")
        if not shuffle_conditions:
            return replace(self, seed=seed)
        orders = self._orders if self.behavior is None else self.orders
        parts = {}
        for name, part in self._trials.items():
            of = exchanged(part, self.by, self.conditions, name, seed, orders)
            codes = codes_of(part.array, self.by, self.conditions)[of]
            behaved = None if self.behavior is None else self.behavior.fine(part.array)[of]
            parts[name] = replace(part, codes=codes, behaved=behaved)
        return replace(self, seed=seed, _trials=parts)

    def select(self, subjects: Sequence[str]) -> PairedWindows:
        """Keep the named subjects, in that order, and pair them anew."""
        names = [subjects] if isinstance(subjects, str) else subjects
        require(
            distinct(names) and len(names) > 0 and all(name in self._trials for name in names),
            "subjects",
            "select",
            f"a list of distinct subjects among {list(self.subjects)}",
            subjects,
        )
        return replace(self, _trials={name: self._trials[name] for name in names})

    def thinned(self) -> PairedWindows:
        """Keep only windows that overlap by at most half.

        Those between hold almost nothing new: statistics over windows cost as little memory as the
        counts themselves this way, however closely the windows follow each other.
        """
        return replace(self, step=max(self.step, self.width // 2))

    def changed(
        self, change: Callable[[str, NDArray[np.generic]], NDArray[np.generic]]
    ) -> PairedWindows:
        """Give the same trials and partners with other activity.

        Parameters
        ----------
        change
            Called with the name of each subject and its activity (binned trial, unit, bin), also of
            trials that are not in this part; gives an array of the same shape.
        """
        return replace(
            self,
            _trials={
                name: replace(part, array=part.array.copy(data=change(name, part.array.values)))
                for name, part in self._trials.items()
            },
        )

    def over(self, counts: Mapping[str, xr.DataArray]) -> PairedWindows:
        """Give the same trials and partners over another stretch of time, such as a baseline.

        Parameters
        ----------
        counts
            Activity (trial, unit, time) by subject, with the ids of the trials. Trials that it
            lacks are left out; without any, the partners are the same.
        """
        parts = {name: part.over(counts[name]) for name, part in self._trials.items()}
        bin_size = common_bins({name: part.array for name, part in parts.items()}, self.by)
        return replace(self, bin_size=bin_size, _trials=parts)

    # ------------------------------------------------------------------ activity

    def why_not_counts(self, subject: str) -> str:
        """Why activity is not of non-negative whole numbers, in words; empty if it is."""
        return self._of(subject).fault

    def most(self, subject: str) -> float:
        """Largest activity of a bin."""
        return max((float(values.max()) for _, values in self.pieces(subject)), default=0.0)

    def dtype(self, subject: str) -> np.dtype[Any]:
        """Type of the numbers of a subject's activity."""
        return self._of(subject).array.dtype

    def activity(self, subject: str, trials: Positions | slice = slice(None)) -> NDArray[Any]:
        """Activity of some of a subject's trials, (trial, unit, bin)."""
        part = self._of(subject)
        return np.asarray(part.array.values[part.positions[trials]])

    def pieces(self, subject: str) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Activity (trial, unit, bin) of some trials at a time, and which these are.

        There may be more than memory holds.
        """
        part = self._of(subject)
        done = 0
        for positions in in_chunks(part.positions, int(np.prod(part.array.shape[1:]))):
            yield slice(done, done + len(positions)), part.array.values[positions]
            done += len(positions)

    def window_sums(self, subject: str) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Activity summed over every window, (trial, start, unit), some trials at a time."""
        first, last = self.first_bins[[0, -1]]
        for trials, values in self.pieces(subject):
            by_time = values.transpose(0, 2, 1)
            sums = np.zeros((len(values), len(self.first_bins), values.shape[1]))
            for lag in range(self.width):
                sums += by_time[:, first + lag : last + lag + 1 : self.step]
            yield trials, sums

    def gather(self, subject: str, trial: Positions, first_bin: Positions) -> NDArray[Any]:
        """Windows by trial and first bin, (sample, lag x unit), read from where they lie."""
        part = self._of(subject)
        windows = np.lib.stride_tricks.sliding_window_view(
            part.array.values.transpose(0, 2, 1), self.width, axis=1
        ).swapaxes(2, 3)  # (trial, first bin, lag, unit)
        return np.asarray(windows[part.positions[trial], first_bin].reshape(len(trial), -1))

    def __getitem__(self, subject: str) -> xr.DataArray:
        """Materialise one subject's windows, (window, unit, lag); NaN where it is absent."""
        array = self._of(subject).array
        trial = self.partners[:, self.subjects.index(subject)]
        own = self._of(subject).positions
        position = own[np.maximum(trial, 0)] if len(own) else np.zeros(len(trial), np.int64)
        windows = np.lib.stride_tricks.sliding_window_view(array.values, self.width, axis=2)
        windows = windows[:, :, self.first_bins]  # (trial, unit, start, lag), still a view
        taken = windows[position].transpose(0, 2, 1, 3)
        if (trial < 0).any():
            taken = np.where((trial < 0)[:, None, None, None], np.nan, taken)
        coords = {**self.coords_of(subject), "unit": array["unit"].values, "lag": self.lags}
        return xr.DataArray(
            taken.reshape(-1, *taken.shape[2:]),
            dims=("window", "unit", "lag"),
            coords=coords,
            name="counts",
            attrs={"subject": subject, "by": self.by, "bin_size": self.bin_size},
        )

    # ------------------------------------------------------------------ labels

    @property
    def lags(self) -> NDArray[np.float64]:
        """Centres of the bins of a window, seconds from its beginning, (lag,)."""
        return np.asarray((np.arange(self.width) + 0.5) * self.bin_size)

    @property
    def attrs(self) -> dict[str, Any]:
        """What latents of these windows say of themselves: by, bin_size, label_order of a split.

        ``label_order`` is JSON: how the labels of each subject follow each other in its whole
        session, the fields of `LabelOrder`. ``behavior`` is JSON too: unit, period and series of
        the behavior among the coordinates; ``paired_by`` is what of it trials were paired by.
        """
        attrs: dict[str, Any] = {"by": self.by, "bin_size": self.bin_size}
        if self.behavior is not None:
            attrs["paired_by"] = json.dumps([axis.name for axis in self.behavior.axes])
        about = {k: v for p in self._trials.values() for k, v in about_behavior(p.array).items()}
        if about:
            attrs["behavior"] = json.dumps(about)
        if self._orders and self._split_by == self.by:
            attrs["label_order"] = json.dumps(
                {name: asdict(order) for name, order in self._orders.items()}, default=str
            )
        return attrs

    def coords(self, subjects: Sequence[str] | None = None) -> dict[str, Any]:
        """Coordinates of the windows: what is known of each, of its trials and of the subjects.

        Along window: the condition under its own name, ``time`` and ``start``. ``time`` is the
        centre of the window, seconds from the alignment; where subjects were binned over different
        spans it counts from the start of each subject's own span. ``start`` is the first bin.

        Along (subject, window): ``trial``, the id, which is -1 (integer ids) or the empty string
        where a subject is absent; ``onset``, seconds, the time of the event in the session, NaN
        where it is not known; and every other trial column of the counts under its own name, or
        with the prefix ``trial_`` where that is taken. NaN and the empty text stand for what a
        subject lacks. ``animal`` (subject) is whose session it is.

        Parameters
        ----------
        subjects
            Of which; by default all.
        """
        names = list(self.subjects if subjects is None else subjects)
        columns = [self.subjects.index(name) for name in names]
        n_starts = len(self.first_bins)
        conditions = as_labels(self.conditions)
        parts, partners = {n: self._of(n) for n in names}, self.partners[:, columns]
        by = {self.by: ("window", np.repeat(conditions[self.row_codes], n_starts))}
        if self.behavior is None:
            known = of_trials(parts, self.by, partners)
            known.pop(self.by, None)
        else:
            known, by = of_trials(parts, "", partners), {}
        return {
            "subject": names,
            "animal": ("subject", [self._of(name).animal(name) for name in names]),
            **by,
            "time": ("window", np.tile(self._times(), len(self.partners))),
            "start": ("window", np.tile(self.first_bins, len(self.partners))),
            **{
                k: (("subject", "window"), np.repeat(v, n_starts, axis=1)) for k, v in known.items()
            },
            **behavior_of_windows(self.first_bins, self.width, parts, partners),
        }

    def _times(self) -> NDArray[np.float64]:
        """Centres of the windows of a trial, seconds, (start,)."""
        times = [np.asarray(part.array["time"].values, float) for part in self._trials.values()]
        first = times[0]
        if not all(np.allclose(first, other, atol=1e-9) for other in times[1:]):
            first = (np.arange(len(first)) + 0.5) * self.bin_size
        return np.asarray(first[self.first_bins] + (self.width - 1) / 2 * self.bin_size)

    def coords_of(self, subject: str | None) -> dict[str, Any]:
        """Coordinates of the windows of one subject, all along window; None: of no subject."""
        coords = self.coords([subject] if subject else list(self.subjects[:1]))
        del coords["subject"]
        return {
            name: (dims, values) if dims == "window" else ("window", values[0])
            for name, (dims, values) in coords.items()
            if dims == "window" or (subject and dims != "subject")
        }

    def to_dataset(self) -> xr.Dataset:
        """Give the pairing itself as a labelled table: who meets whom in which window."""
        coords = self.coords()
        trial = coords.pop("trial")
        return xr.Dataset(
            {"trial": trial, "observed": (("subject", "window"), self.observed)},
            coords=coords,
            attrs={
                "by": self.by,
                "bin_size": self.bin_size,
                "width": self.width * self.bin_size,
                "step": self.step * self.bin_size,
                "pairing": repr(self.pairing),
                "seed": self.seed,
            },
        )

    def _of(self, subject: str) -> Trials:
        if subject not in self._trials:
            raise KeyError(f"no subject {subject!r}; there are {list(self.subjects)}.")
        return self._trials[subject]
