"""One subject's recording: spike times, unit table, trial table, and their invariants."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from neuroshare.recordings.observed import Intervals, as_intervals, covered
from neuroshare.support.checks import brief
from neuroshare.support.html import html_table

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
    session : str, optional
        Name of the recording session, for an animal may have several.
    observed : array, or sequence or mapping of array, optional
        When units were recorded: intervals ``(interval, 2)`` in seconds, of all units together or
        one array per unit. Beyond them nothing is known of a unit: no spikes is then not silence.
        Joined where they touch. Default: always.
    behavior : Dataset, optional
        What was measured beside the spikes, such as positions, each variable along a dimension
        of seconds on the clock of the spikes. Default: an empty one.
    activity : DataArray, optional
        In place of spikes (`spike_times` is then empty) what else was measured of each unit, such
        as fluorescence: dims ``time`` (seconds, ascending) and ``unit``.
    left_out : sequence of str, optional
        Sentences about what a file holds and this session does not; `findings` gives them again.

    Raises
    ------
    ValueError
        Spike times that are not finite or not one-dimensional, tables whose lengths differ
        from the spike times, repeated ids, missing trial times, a trial that stops before
        it starts, intervals that end before they begin.

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
    session: str | None
    observed: tuple[Intervals, ...] | None
    """Intervals (interval, 2) of each unit, seconds; units seen together share one array."""
    behavior: xr.Dataset
    left_out: tuple[str, ...]
    activity: xr.DataArray | None
    """(time, unit), in place of spikes."""

    def __init__(
        self,
        subject: str,
        spike_times: Sequence[ArrayLike] | Mapping[Hashable, ArrayLike],
        units: pd.DataFrame | None = None,
        trials: pd.DataFrame | None = None,
        *,
        session: str | None = None,
        observed: ArrayLike | Sequence[ArrayLike] | Mapping[Hashable, ArrayLike] | None = None,
        behavior: xr.Dataset | None = None,
        left_out: Sequence[str] = (),
        activity: xr.DataArray | None = None,
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
        if not (session is None or (isinstance(session, str) and session)):
            raise ValueError(
                f"{who}: expected the name of the session as text, or None, got {session!r}."
            )
        if not (behavior is None or isinstance(behavior, xr.Dataset)):
            raise TypeError(
                f"{who}: expected an xarray Dataset of behavior, got {type(behavior).__name__}."
            )
        if activity is not None:
            activity = _checked_activity(activity, len(spike_times), who)
            spike_times = [np.empty(0)] * activity.sizes["unit"]
            if units is None:
                units = pd.DataFrame(index=pd.Index(activity["unit"].to_numpy()))
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
        object.__setattr__(self, "session", session)
        object.__setattr__(self, "observed", as_intervals(observed, units.index, who))
        object.__setattr__(self, "behavior", xr.Dataset() if behavior is None else behavior)
        object.__setattr__(self, "left_out", tuple(map(str, left_out)))
        object.__setattr__(self, "activity", activity)

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
            [self.spike_times[i] for i in u] if self.activity is None else [],
            self.units.iloc[u],
            self.trials.iloc[t],
            session=self.session,
            observed=None if self.observed is None else [self.observed[i] for i in u],
            behavior=self.behavior,
            left_out=self.left_out,
            activity=None if self.activity is None else self.activity.isel(unit=u),
        )

    def renamed(self, subject: str) -> Session:
        """Session under another name of its subject; see `member_names`."""
        return Session(
            subject,
            self.spike_times if self.activity is None else [],
            self.units,
            self.trials,
            session=self.session,
            observed=self.observed,
            behavior=self.behavior,
            left_out=self.left_out,
            activity=self.activity,
        )

    def is_observed(self, begin: ArrayLike, end: ArrayLike) -> np.ndarray:
        """Whether units were recorded throughout stretches of time.

        Parameters
        ----------
        begin, end : array
            Of each stretch, seconds, dims ``(stretch,)``.

        Returns
        -------
        array of bool
            Dims ``(stretch, unit)``; all true where the session states nothing.
        """
        begin, end = np.atleast_1d(begin), np.atleast_1d(end)
        seen = np.ones((len(begin), len(self.units)), bool)
        known: dict[int, np.ndarray] = {}
        for unit, intervals in enumerate(self.observed or ()):
            # Units of one probe share their intervals, and the answer.
            if id(intervals) not in known:
                known[id(intervals)] = covered(intervals, begin, end)
            seen[:, unit] = known[id(intervals)]
        return seen

    def __repr__(self) -> str:
        n = self.n_spikes
        text = counted(len(self.spike_times), "unit")
        if self.activity is not None:
            time = self.activity["time"].to_numpy()
            text += f", {counted(len(time), 'sample')}"
            text += f" from {time[0]:g} to {time[-1]:g} s" if len(time) else ""
        else:
            text += f", {counted(n, 'spike')}"
        if n:
            first = min(times[0] for times in self.spike_times if len(times))
            last = max(times[-1] for times in self.spike_times if len(times))
            text += f" from {first:g} to {last:g} s"
        text += f", {counted(len(self.trials), 'trial')}"
        if len(self.trials):
            text += f" by {', '.join(map(str, self.trials.columns))}"
        return f"Session({self.subject!r}: {text})"

    def _repr_html_(self) -> str:
        """For notebooks: what there is, and each column of the tables in a few words."""
        whole = repr(self).partition(": ")[2].removesuffix(")").partition(" by ")[0]
        rows = [
            (f"{kind} column", str(name), in_words(column))
            for kind, table in (("unit", self.units), ("trial", self.trials))
            for name, column in (table.items() if len(table) else ())
        ]
        rows += [
            ("behavior", str(name), " x ".join(f"{n} {dim}" for dim, n in series.sizes.items()))
            for name, series in self.behavior.items()
        ]
        name = self.subject if self.session is None else f"{self.subject}, {self.session}"
        return html_table(f"Session of {name}: {whole}", ("", "", "values"), rows)


def in_words(column: pd.Series) -> str:
    """A column in a few words: its values with their numbers if few, else their range."""
    values = column.dropna()
    if values.empty:
        return "no values"
    counts = values.value_counts().sort_index()
    if len(counts) <= 8 and (len(values) > len(counts) or column.dtype.kind not in "f"):
        # An empty text would not be seen.
        text = ", ".join(
            f"{value if value != '' else repr(value)} ({n})" for value, n in counts.items()
        )
    elif column.dtype.kind in "iuf":
        text = f"{values.min():g} to {values.max():g}"
    else:
        text = f"{len(counts)} different values"
    absent = len(column) - len(values)
    return text + (f"; {absent} absent" if absent else "")


def member_names(sessions: Sequence[Session], files: Sequence[str] = ()) -> list[str]:
    """Names that tell sessions apart: the subject, and where it has several, the session too.

    Parameters
    ----------
    sessions : sequence of Session
    files : sequence of str, optional
        The file of each, whose name stands in for sessions without a name of their own.

    Raises
    ------
    ValueError
        Two sessions of a subject have the same name, or none, and no files are given.

    Examples
    --------
    >>> a, b, c = (Session(who, [[0.1]], session=day) for who, day in ("xa", "xb", "yb"))
    >>> member_names([a, b, c])
    ['x/a', 'x/b', 'y']
    """
    subjects = [session.subject for session in sessions]
    names = []
    for i, session in enumerate(sessions):
        of_subject = [k for k, subject in enumerate(subjects) if subject == session.subject]
        if len(of_subject) == 1:
            names.append(session.subject)
            continue
        days = [sessions[k].session for k in of_subject]
        if None not in days and len(set(days)) == len(days):
            names.append(f"{session.subject}/{session.session}")
        elif files:
            stem = PurePath(str(files[i]).rstrip("/")).name
            names.append(f"{session.subject}/{stem.removesuffix('.zarr').removesuffix('.nwb')}")
        else:
            names.append(session.subject)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        what = f"several sessions are called {listed(repeated)}"
        if files:
            same = [i for i, name in enumerate(names) if name == repeated[0]]
            what = (
                f"{files[same[0]]} and {files[same[1]]} both hold subject {subjects[same[0]]!r}, "
                f"and would both be called {repeated[0]!r}"
            )
        raise ValueError(
            f"{what}. Leave one out, or give each a name of its own: m1/day2=FILE on the command "
            "line, read_nwb(path, subject='m1/day2') in Python."
        )
    return names


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
            f"{who}: no {what} {listed(ids[rows < 0].tolist())}. "
            f"Found: {listed(list(table.index)) or 'none'}."
        )
    return np.asarray(rows)


def event_times(trials: pd.DataFrame, align: str, who: str) -> np.ndarray:
    """Times of an event, seconds: a numeric trial column, or arithmetic on some.

    Raises
    ------
    ValueError
        There is no such column, or it is not numeric.

    Examples
    --------
    >>> import pandas as pd
    >>> trials = pd.DataFrame({"start_time": [1.0, 3.0], "lick_ms": [250.0, 500.0]})
    >>> event_times(trials, "start_time + lick_ms / 1000", "subject 'mitt'").tolist()
    [1.25, 3.5]
    """
    numeric = [str(c) for c in trials.select_dtypes("number").columns]
    if isinstance(align, str) and align in numeric:
        return np.asarray(trials[align], np.float64)
    why = ""
    if isinstance(align, str) and align not in trials and any(sign in align for sign in "+-*/"):
        try:
            times = trials.eval(align)
            if isinstance(times, pd.Series) and times.dtype.kind in "iuf":
                return np.asarray(times, np.float64)
        # pandas evaluates the text, so almost any exception can come out of it.
        except Exception as error:
            why = f" ({textwrap.shorten(str(error), 80)})"
    raise ValueError(
        f"{who}: align must be a numeric trial column, got {brief(align)}{why}. "
        f"Numeric columns: {', '.join(numeric)}; or arithmetic on them, such as "
        "'start_time + delay'."
    )


def _checked_activity(activity: xr.DataArray, n_spiking: int, who: str) -> xr.DataArray:
    """Activity (time, unit) on an ascending clock."""
    if not isinstance(activity, xr.DataArray) or set(activity.dims) != {"time", "unit"}:
        found = activity.dims if isinstance(activity, xr.DataArray) else type(activity).__name__
        raise TypeError(
            f"{who}: expected activity as a DataArray with dims time (seconds) and unit, got "
            f"{found}."
        )
    if n_spiking:
        raise ValueError(f"{who}: expected spike times or activity, got both. Give one of them.")
    if activity.dtype.kind not in "biuf":
        raise ValueError(f"{who}: expected activity in numbers, got {activity.dtype}.")
    activity = activity.transpose("time", "unit")
    if "unit" not in activity.coords:
        activity = activity.assign_coords(unit=np.arange(activity.sizes["unit"]))
    time = activity["time"].to_numpy() if "time" in activity.coords else np.array([np.nan])
    if time.dtype.kind not in "iuf" or not np.isfinite(time).all() or (np.diff(time) <= 0).any():
        raise ValueError(
            f"{who}: expected activity with a coordinate time that ascends, in seconds. Sort it, "
            "and leave out samples that are there twice."
        )
    return activity


def _aligned(units: pd.DataFrame | None, ids: list[Any], who: str) -> pd.DataFrame:
    if units is None:
        return pd.DataFrame(index=pd.Index(ids))
    units = _table(units, "unit", who)
    if len(units) != len(ids) or not units.index.isin(ids).all():
        raise ValueError(
            f"{who}: the spike times and the unit table name different units: "
            f"{listed(list(set(ids) ^ set(units.index)))}."
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
            f"{who}: {name} columns must have different names; repeated: {listed(repeated)}."
        )
    table = table.rename_axis(name)
    if not table.index.is_unique:
        repeated = table.index[table.index.duplicated()].unique().tolist()
        raise ValueError(f"{who}: {name} ids must be unique; repeated: {listed(repeated)}.")
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
            f"{who}: trials {listed(trials.index[stop < start].tolist())} stop before they start."
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
            f"{listed(ids[np.unique(owner)].tolist())}. Remove them before building a session."
        )
    falls = np.flatnonzero(flat[1:] < flat[:-1]) + 1
    unsorted = np.unique(np.searchsorted(ends, falls[~np.isin(falls, ends)], side="right"))
    views = tuple(np.split(flat, ends[:-1])) if arrays else ()
    for u in unsorted:
        views[u].sort()
    if len(unsorted):
        warnings.warn(
            f"{who}: spike times were out of order and have been sorted in units "
            f"{listed(ids[unsorted].tolist())}.",
            stacklevel=4,
        )
    for view in views:
        view.flags.writeable = False
    return views


def _shape(times: Any) -> str:
    return f"shape {times.shape}" if isinstance(times, np.ndarray) else type(times).__name__


def counted(n: int, noun: str) -> str:
    """A number of things, in the singular where there is one."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def listed(ids: Sequence[Any], most: int = 8) -> str:
    """The first of some ids, and how many there are."""
    text = ", ".join(map(str, ids[:most]))
    return f"{text}, ... ({len(ids)} in all)" if len(ids) > most else text
