"""Sessions from and to pynapple: units as TsGroup, trials as IntervalSet, latents as TsdFrame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from neuroshare.recordings.behavior import as_dataset
from neuroshare.recordings.clock import on_session_clock
from neuroshare.recordings.session import Session

if TYPE_CHECKING:
    import pynapple as nap


def from_pynapple(
    units: nap.TsGroup,
    trials: nap.IntervalSet | None = None,
    *,
    subject: str,
    behavior: Mapping[str, nap.Tsd | nap.TsdFrame] | None = None,
) -> Session:
    """Take the units and trials of one subject from pynapple.

    Parameters
    ----------
    units : pynapple.TsGroup
        Spike times by unit. Metadata become columns of the unit table, but for ``rate``, which
        pynapple computes.
    trials : pynapple.IntervalSet, optional
        Metadata become columns of the trial table. Distinct values in a column ``trial`` become
        the trial ids, as `to_pynapple` writes them; by default trials are numbered.
    subject : str
        Name of the animal.
    behavior : mapping of name to pynapple.Tsd or TsdFrame, optional
        What was measured beside the spikes, each on its own times. Columns of a TsdFrame are along
        ``axis_<name>``.

    Returns
    -------
    Session

    Raises
    ------
    ImportError
        pynapple is not installed.
    TypeError
        Not a TsGroup, not an IntervalSet, or behavior that is no Tsd and no TsdFrame.

    Examples
    --------
    >>> from neuroshare import simulate_sessions
    >>> rat = simulate_sessions({"mitt": 20}, n_trials=2)["mitt"]
    >>> units, trials = to_pynapple(rat)
    >>> from_pynapple(units, trials[trials["odor"] == "A"], subject="mitt")
    Session('mitt': 20 units, ... spikes from ... s, 2 trials by start_time, stop_time, odor, ...)
    """
    pynapple = _pynapple("from_pynapple")
    if not isinstance(units, pynapple.TsGroup):
        raise TypeError(_expected("units", "TsGroup", units))
    if trials is not None and not isinstance(trials, pynapple.IntervalSet):
        raise TypeError(_expected("trials", "IntervalSet", trials))
    table = None
    if trials is not None:
        times = {"start_time": trials.start, "stop_time": trials.end}
        # Columns of these names would be older than the intervals, which may have been cut since.
        table = pd.DataFrame(times).join(trials.metadata.drop(columns=[*times], errors="ignore"))
        if "trial" in table and table["trial"].is_unique:
            table = table.set_index("trial")
    return Session(
        subject,
        {int(unit): units[unit].index.values for unit in units.index},
        units.metadata.drop(columns="rate"),
        table,
        behavior=None if behavior is None else _series(pynapple, behavior),
    )


def _series(pynapple: Any, behavior: Mapping[str, Any]) -> xr.Dataset:
    """Series of pynapple as the behavior of a session."""
    found: dict[str, tuple[np.ndarray, np.ndarray, dict[str, Any]]] = {}
    for name, series in behavior.items():
        if not isinstance(series, pynapple.Tsd | pynapple.TsdFrame):
            raise TypeError(_expected(f"behavior[{name!r}]", "Tsd or TsdFrame", series))
        about = {"unit": "", "description": "", "kind": "TimeSeries"}
        found[str(name)] = (series.to_numpy(), series.index.to_numpy(), about)
    data = as_dataset(found)
    for name, series in behavior.items():
        if isinstance(series, pynapple.TsdFrame):
            data.coords[f"axis_{name}"] = [str(column) for column in series.columns]
    return data


def behavior_to_pynapple(session: Session) -> dict[str, Any]:
    """Give the behavior of a session to pynapple.

    Parameters
    ----------
    session : Session

    Returns
    -------
    dict of str to pynapple.Tsd or pynapple.TsdFrame
        Every series of ``session.behavior`` on its own times. pynapple keeps no units of
        measurement.

    Raises
    ------
    ImportError
        pynapple is not installed.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> time = np.arange(4) / 10
    >>> behavior = xr.Dataset({"position": ("time", time**2)}, {"time": time})
    >>> behavior_to_pynapple(Session("mitt", [[0.1]], behavior=behavior))["position"].shape
    (4,)
    """
    nap = _pynapple("behavior_to_pynapple")
    found = {}
    for name, series in session.behavior.items():
        t, d = series[series.dims[0]].to_numpy().astype(np.float64), series.to_numpy()
        if series.ndim == 1:
            found[str(name)] = nap.Tsd(t=t, d=d)
            continue
        axis = series.dims[1]
        columns = series[axis].to_numpy() if axis in series.coords else None
        found[str(name)] = nap.TsdFrame(t=t, d=d, columns=columns)
    return found


def to_pynapple(session: Session) -> tuple[nap.TsGroup, nap.IntervalSet | None]:
    """Give the units and trials of a session to pynapple.

    Parameters
    ----------
    session : Session
        Unit ids must be whole numbers. Trials may not overlap, and need both times.

    Returns
    -------
    units : pynapple.TsGroup
        Spike times of every unit, in the order of the ids, with the columns of the unit table as
        metadata. The time support goes from the first to the last spike or trial time.
    trials : pynapple.IntervalSet
        In the order of time, with the ids in ``trial`` and the other columns as metadata.

    Raises
    ------
    ImportError
        pynapple is not installed.
    ValueError
        What pynapple cannot hold: ids that are not whole numbers, a unit column ``rate`` or a
        trial column ``trial``, trials that overlap, have no length or lack a time.

    Notes
    -----
    ``from_pynapple(*to_pynapple(session), subject=session.subject)`` is the same session, in the
    orders said above. There is one exception: where a trial ends as the next begins, pynapple
    takes a microsecond from its end, and warns.

    Examples
    --------
    >>> from neuroshare import simulate_sessions
    >>> rat = simulate_sessions({"mitt": 20}, n_trials=2)["mitt"]
    >>> units, trials = to_pynapple(rat)
    >>> len(units), len(trials), trials["odor"].tolist() == rat.trials["odor"].tolist()
    (20, 8, True)
    """
    nap = _pynapple("to_pynapple")
    who = f"subject {session.subject!r}"
    if session.activity is not None:
        raise ValueError(
            f"{who}: expected spikes, got activity in place of them. Give it to pynapple as "
            "nap.TsdFrame(t=session.activity.time, d=session.activity)."
        )
    ids = session.units.index
    if len(ids) and not pd.api.types.is_integer_dtype(ids):
        raise ValueError(
            f"{who}: pynapple's unit ids are whole numbers, got ids such as {ids[0]!r}. "
            "Number the units, and keep their names in a column."
        )
    for taken, columns, use in (
        ("rate", session.units, "pynapple's own rates"),
        ("trial", session.trials, "the trial ids"),
    ):
        if taken in columns:
            raise ValueError(
                f"{who}: expected no {columns.index.name} column {taken!r}, which is the name of "
                f"{use} in pynapple. Rename or drop it first."
            )
    table = session.trials.sort_values("start_time", kind="stable")
    start, stop = (table[c].to_numpy(np.float64) for c in ("start_time", "stop_time"))
    # pynapple would join, cut or drop these, and lose the columns of all others with them.
    broken = ~(np.isfinite(start) & (start < stop))
    broken[1:] |= start[1:] < np.fmax.accumulate(stop)[:-1]
    if broken.any():
        raise ValueError(
            f"{who}: pynapple holds no intervals that overlap, have no length or lack a time: "
            f"{broken.sum()} trials, such as trial {table.index[broken][0]}. "
            "Leave them out: session.select(trials=...)."
        )
    trials = nap.IntervalSet(
        start, stop, metadata=_metadata(table.drop(columns=["start_time", "stop_time"]), "trial")
    )
    times = np.concatenate([start, stop, *session.spike_times])
    first, last = (times.min(), times.max()) if len(times) else (0.0, 1.0)
    # Given to each unit too: without one, a unit with a single spike would lose it.
    support = nap.IntervalSet(first, max(last, np.nextafter(first, np.inf)))
    units = nap.TsGroup(
        {
            int(unit): nap.Ts(t, time_support=support)
            for unit, t in zip(ids, session.spike_times, strict=True)
        },
        time_support=support,
        bypass_check=True,
        metadata=_metadata(session.units),
    )
    return units, trials


def latents_to_pynapple(
    latents: xr.DataArray,
    session: Session,
    align: str = "start_time",
    *,
    subject: str | None = None,
) -> Any:
    """Give a subject's latents to pynapple, on the clock of its session.

    Parameters
    ----------
    latents : DataArray
        Dims ``(subject, window, latent)``, from ``transform``. All subjects must have been binned
        over one span.
    session : Session
        The subject's, with the trials that were binned.
    align : str
        Trial column with the time of the event, as given to `bin_spikes`.
    subject : str, optional
        Name of the subject in `latents`; by default that of the session.

    Returns
    -------
    pynapple.TsdFrame
        One column per latent, one row per window at its centre (seconds), ascending; windows in
        which the subject is absent are left out. Restrict it to trials to work within them.

    Raises
    ------
    ImportError
        pynapple is not installed.
    ValueError
        The subject, the column or a trial is unknown.

    Examples
    --------
    >>> import neuroshare as ns
    >>> sessions = ns.simulate_sessions({"mitt": 8, "stella": 6}, n_trials=4)
    >>> counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    >>> paired = ns.pair_subjects(counts, by="odor")
    >>> latents = ns.LinearAlignment("mcca", latent_dim=2).fit(paired).transform(paired)
    >>> ns.latents_to_pynapple(latents, sessions["mitt"]).shape == (16 * 31, 2)
    True
    """
    nap = _pynapple("latents_to_pynapple")
    values = on_session_clock(latents, latents["trial"], session, align, subject)
    return nap.TsdFrame(
        t=values["time"].to_numpy(), d=values.to_numpy(), columns=values["latent"].to_numpy()
    )


def _pynapple(caller: str) -> Any:
    try:
        import pynapple
    except ImportError as error:
        raise ImportError(
            f"{caller} needs pynapple, which is not installed. "
            "Install it with: pip install 'neuroshare-latents[formats]'"
        ) from error
    return pynapple


def _expected(argument: str, kind: str, got: Any) -> str:
    return (
        f"The '{argument}' parameter of from_pynapple must be a pynapple.{kind}. "
        f"Got {type(got).__name__} instead."
    )


def _metadata(table: pd.DataFrame, index: str | None = None) -> dict[str, np.ndarray]:
    """Columns of a table, and its index under the name given."""
    ids = {} if index is None else {index: table.index.to_numpy()}
    return {**ids, **{str(name): table[name].to_numpy() for name in table.columns}}
