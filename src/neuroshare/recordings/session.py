"""One subject's recording: spike times, unit table, trial table, and their invariants."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

Chosen: TypeAlias = (
    str | Sequence[Hashable] | np.ndarray | pd.Series | Callable[[pd.DataFrame], Any]
)
"""How rows of a table are chosen: ids, a boolean mask, a pandas query, or table -> mask."""


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Session:
    """Spike times and trials of one subject.

    Parameters
    ----------
    subject : str
        Name of the animal. Subjects are told apart by name everywhere.
    spike_times : sequence of array, or mapping of unit id to array
        One array of spike times per unit, seconds. Kept as read-only views of one flat
        float64 array. Units that are out of order are sorted, with a warning.
    units : DataFrame, optional
        One row of scalar metadata per unit. Its index holds the unit ids; for a mapping the
        rows are put in the order of the mapping. Default: ids 0, 1, ... and no columns.
    trials : DataFrame, optional
        One row per trial, with ``start_time`` and ``stop_time`` in seconds (NaN where unknown)
        and any further columns, such as conditions. Its index holds the trial ids.
        Default: no trials.

    Raises
    ------
    ValueError
        Spike times that are not finite or not one-dimensional, tables whose lengths differ
        from the spike times, repeated ids, missing trial times, a trial that stops before
        it starts.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> trials = pd.DataFrame(
    ...     {"start_time": [0.0, 2.0], "stop_time": [1.0, 3.0], "odor": ["A", "B"]}
    ... )
    >>> session = Session("mitt", {7: np.array([0.1, 2.5]), 9: np.array([0.2])}, trials=trials)
    >>> session
    Session('mitt': 2 units, 3 spikes from 0.1 to 2.5 s, 2 trials by start_time, stop_time, odor)
    >>> session.select(units=[9], trials="odor == 'A'")
    Session('mitt': 1 unit, 1 spike from 0.2 to 0.2 s, 1 trial by start_time, stop_time, odor)
    """

    subject: str
    spike_times: tuple[np.ndarray, ...]
    units: pd.DataFrame
    trials: pd.DataFrame

    def __init__(
        self,
        subject: str,
        spike_times: Sequence[Any] | Mapping[Any, Any],
        units: pd.DataFrame | None = None,
        trials: pd.DataFrame | None = None,
    ) -> None:
        if not isinstance(subject, str) or not subject:
            raise ValueError(f"a session needs the name of its subject, got {subject!r}.")
        who = f"subject {subject!r}"
        for name, table in (("units", units), ("trials", trials)):
            if not (table is None or isinstance(table, pd.DataFrame)):
                raise TypeError(
                    f"{who}: expected a DataFrame of {name}, got {type(table).__name__}. "
                    f"Make one with a row per {name[:-1]}."
                )
        if isinstance(spike_times, str | bytes) or not isinstance(
            spike_times, Sequence | Mapping | np.ndarray | pd.Series
        ):
            raise TypeError(
                f"{who}: expected a list of arrays of spike times, one per unit, or a mapping from "
                f"unit ids to them, got {type(spike_times).__name__}."
            )
        if isinstance(spike_times, Mapping):
            units = _aligned(units, list(spike_times), who)
            spike_times = list(spike_times.values())
        if units is None:
            units = pd.DataFrame(index=pd.RangeIndex(len(spike_times)))
        if len(units) != len(spike_times):
            raise ValueError(
                f"{who}: expected one row of metadata per unit ({len(spike_times)} units with "
                f"spike times), got {len(units)} rows."
            )
        units = _table(units, "unit", who)
        trials = _table(_no_trials() if trials is None else trials, "trial", who)
        object.__setattr__(self, "subject", subject)
        object.__setattr__(self, "units", units)
        object.__setattr__(self, "trials", _checked_trials(trials, who))
        object.__setattr__(self, "spike_times", _checked_spikes(spike_times, units.index, who))

    @property
    def n_spikes(self) -> int:
        """Number of spikes of all units."""
        return sum(map(len, self.spike_times))

    def select(self, units: Chosen | None = None, trials: Chosen | None = None) -> Session:
        """Session with some of the units and trials.

        Parameters
        ----------
        units, trials : sequence of ids, boolean mask, callable or str, optional
            Which rows to keep: ids (in the order wanted), a mask as long as the table, a
            function of the table that returns either, or a pandas query such as
            ``"brain_area == 'CA1'"``. None keeps all.

        Returns
        -------
        Session

        Raises
        ------
        ValueError
            An unknown id, a mask of another length, a query that pandas cannot evaluate.
        """
        who = f"subject {self.subject!r}"
        u = chosen_rows(self.units, units, who)
        t = chosen_rows(self.trials, trials, who)
        return Session(
            self.subject,
            [self.spike_times[i] for i in u],
            self.units.iloc[u],
            self.trials.iloc[t],
        )

    def __repr__(self) -> str:
        n = self.n_spikes
        text = f"{_count(len(self.spike_times), 'unit')}, {_count(n, 'spike')}"
        if n:
            first = min(times[0] for times in self.spike_times if len(times))
            last = max(times[-1] for times in self.spike_times if len(times))
            text += f" from {first:g} to {last:g} s"
        text += f", {_count(len(self.trials), 'trial')}"
        if len(self.trials):
            text += f" by {', '.join(map(str, self.trials.columns))}"
        return f"Session({self.subject!r}: {text})"


def findings(session: Session) -> list[str]:
    """What in a session deserves a look before it is analysed, in sentences.

    Parameters
    ----------
    session : Session

    Returns
    -------
    list of str
        Spike times probably not in seconds, silent units, trials that overlap, lack a time,
        or hold no spikes, and trial columns with one value. Empty when nothing is odd.

    Examples
    --------
    >>> import numpy as np
    >>> findings(Session("mitt", [np.array([0.1, 0.15]), np.array([])]))
    ['1 of 2 units is silent: 1.', 'There are no trials.']
    """
    found = []
    flat = np.concatenate(session.spike_times) if session.spike_times else np.empty(0)
    if (unit := _likely_unit(session.spike_times, flat)) is not None:
        found.append(f"Spike times are probably in {unit}, not in seconds.")
    silent = [
        u for u, t in zip(session.units.index, session.spike_times, strict=True) if not len(t)
    ]
    if silent:
        n = len(session.units)
        verb = "is" if len(silent) == 1 else "are"
        found.append(f"{len(silent)} of {_count(n, 'unit')} {verb} silent: {_listed(silent)}.")
    trials = session.trials
    if trials.empty:
        return [*found, "There are no trials."]
    start, stop = trials["start_time"].to_numpy(float), trials["stop_time"].to_numpy(float)
    known = np.isfinite(start) & np.isfinite(stop)
    if not known.all():
        missing = list(trials.index[~known])
        found.append(
            f"{_count(len(missing), 'trial')} without a time (NaN or infinite): {_listed(missing)}."
        )
    order = np.argsort(start[known], kind="stable")
    start, stop = start[known][order], stop[known][order]
    # The running maximum catches a long trial that covers several later ones.
    overlapping = int((start[1:] < np.maximum.accumulate(stop)[:-1]).sum()) if len(start) else 0
    if overlapping:
        verb = "begins" if overlapping == 1 else "begin"
        found.append(f"{_count(overlapping, 'trial')} {verb} before an earlier one has ended.")
    flat.sort()
    held = np.searchsorted(flat, stop) - np.searchsorted(flat, start)
    if len(flat) and len(held) and not held.any():
        found.append(
            f"No spike falls inside any trial: spikes from {flat[0]:g} to {flat[-1]:g} s, "
            f"trials from {start[0]:g} to {stop.max():g} s. Are both on the same clock?"
        )
    elif len(flat) and (empty := int((held == 0).sum())):
        found.append(f"{_count(empty, 'trial')} of {len(held)} without a single spike.")
    if len(trials) > 1:
        constant = [str(c) for c in trials if trials[c].nunique(dropna=False) == 1]
        if constant:
            found.append(f"Trial columns with one value only: {', '.join(constant)}.")
    return found


def chosen_rows(table: pd.DataFrame, chosen: Chosen | None, who: str) -> np.ndarray:
    """Positions of the chosen rows of a table; see `Session.select`."""
    what = f"{table.index.name}s"
    if chosen is None:
        return np.arange(len(table))
    if isinstance(chosen, str):
        try:
            return np.flatnonzero(table.index.isin(table.query(chosen).index))
        # pandas evaluates the text, so almost any exception can come out of it.
        except Exception as error:
            raise ValueError(
                f"{who}: cannot choose {what} by {chosen!r} ({error}). "
                f"Columns: {', '.join(map(str, table.columns)) or 'none'}."
            ) from error
    if callable(chosen):
        chosen = chosen(table)
    ids = np.asarray(chosen)
    if ids.dtype == bool:
        if ids.shape != (len(table),):
            raise ValueError(
                f"{who}: expected a mask over {len(table)} {what}, got shape {ids.shape}."
            )
        return np.flatnonzero(ids)
    rows = table.index.get_indexer(pd.Index(ids.tolist()))
    if (rows < 0).any():
        raise ValueError(
            f"{who}: no {what} {_listed(ids[rows < 0].tolist())}. "
            f"Found: {_listed(list(table.index)) or 'none'}."
        )
    return np.asarray(rows)


def _aligned(units: pd.DataFrame | None, ids: list[Any], who: str) -> pd.DataFrame:
    if units is None:
        return pd.DataFrame(index=pd.Index(ids))
    units = _table(units, "unit", who)
    if len(units) != len(ids) or not units.index.isin(ids).all():
        raise ValueError(
            f"{who}: the spike times and the unit table name different units: "
            f"{_listed(list(set(ids) ^ set(units.index)))}."
        )
    return units.loc[ids]


def _table(table: pd.DataFrame, name: str, who: str) -> pd.DataFrame:
    if table.index.nlevels > 1 or table.index.hasnans:
        raise ValueError(
            f"{who}: expected one id per {name}, got an index with "
            f"{f'{table.index.nlevels} levels' if table.index.nlevels > 1 else 'missing ids'}. "
            "Give the table a plain index: table.reset_index()."
        )
    if not table.columns.is_unique:
        repeated = table.columns[table.columns.duplicated()].unique().tolist()
        raise ValueError(
            f"{who}: {name} columns must have different names; repeated: {_listed(repeated)}."
        )
    table = table.rename_axis(name)
    if not table.index.is_unique:
        repeated = table.index[table.index.duplicated()].unique().tolist()
        raise ValueError(f"{who}: {name} ids must be unique; repeated: {_listed(repeated)}.")
    return table


def _no_trials() -> pd.DataFrame:
    return pd.DataFrame({"start_time": np.empty(0), "stop_time": np.empty(0)})


def _checked_trials(trials: pd.DataFrame, who: str) -> pd.DataFrame:
    if missing := {"start_time", "stop_time"} - set(trials.columns):
        raise ValueError(
            f"{who}: the trial table needs start_time and stop_time (seconds), "
            f"lacks {', '.join(sorted(missing))}. "
            f"Found: {', '.join(map(str, trials.columns)) or 'no columns'}."
        )
    for column in ("start_time", "stop_time"):
        if trials[column].dtype.kind not in "iuf" and len(trials):
            raise ValueError(
                f"{who}: trial {column} must be seconds, got {trials[column].dtype}. "
                "Convert it to numbers, NaN where unknown."
            )
    start, stop = trials["start_time"].to_numpy(float), trials["stop_time"].to_numpy(float)
    if (stop < start).any():
        raise ValueError(
            f"{who}: trials {_listed(trials.index[stop < start].tolist())} stop before they start."
        )
    return trials


def _checked_spikes(spike_times: Sequence[Any], ids: pd.Index, who: str) -> tuple[np.ndarray, ...]:
    arrays = []
    for unit, times in zip(ids, spike_times, strict=True):
        try:
            array = np.asarray(times)
        except ValueError:  # lists of different lengths
            array = np.empty((0, 0))
        if array.ndim != 1:
            raise ValueError(
                f"{who}: expected a one-dimensional array of spike times for unit {unit!r}, "
                f"got {_shape(times)}."
            )
        if array.dtype.kind not in "iuf" and len(array):
            raise ValueError(
                f"{who}: expected spike times in seconds for unit {unit!r}, got {array.dtype}. "
                "Convert them to float first."
            )
        arrays.append(array.astype(np.float64))
    # One bulk array: a session of a thousand units is one allocation, and pickles as such.
    flat = np.concatenate(arrays) if arrays else np.empty(0)
    ends = np.cumsum([len(a) for a in arrays], dtype=np.intp)
    owner = np.searchsorted(ends, np.flatnonzero(~np.isfinite(flat)), side="right")
    if len(owner):
        raise ValueError(
            f"{who}: spike times must be finite; NaN or infinite in units "
            f"{_listed(ids[np.unique(owner)].tolist())}. Remove them before building a session."
        )
    falls = np.flatnonzero(flat[1:] < flat[:-1]) + 1
    unsorted = np.unique(np.searchsorted(ends, falls[~np.isin(falls, ends)], side="right"))
    views = tuple(np.split(flat, ends[:-1])) if arrays else ()
    for u in unsorted:
        views[u].sort()
    if len(unsorted):
        warnings.warn(
            f"{who}: spike times were out of order and have been sorted in units "
            f"{_listed(ids[unsorted].tolist())}.",
            stacklevel=4,
        )
    for view in views:
        view.flags.writeable = False
    return views


def _shape(times: Any) -> str:
    return f"shape {times.shape}" if isinstance(times, np.ndarray) else type(times).__name__


def _likely_unit(spike_times: tuple[np.ndarray, ...], flat: np.ndarray) -> str | None:
    if len(flat) < 100:
        return None
    intervals = np.concatenate([np.diff(t) for t in spike_times])
    whole = bool((flat == np.round(flat)).all())
    # Neurons fire in bursts: among a hundred spikes some lie within half a second. In ms the
    # refractory period alone is about 2, and in samples about 60.
    if len(intervals) and np.quantile(intervals, 0.05) > 0.5:
        return "samples" if whole else "milliseconds"
    return "samples or milliseconds" if whole else None


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _listed(ids: Sequence[Any], most: int = 8) -> str:
    text = ", ".join(map(str, ids[:most]))
    return f"{text}, ... ({len(ids)} in all)" if len(ids) > most else text
