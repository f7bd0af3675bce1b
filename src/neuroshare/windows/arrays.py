"""Numpy arrays as counts that can be paired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from neuroshare.support.checks import require, require_number


def from_arrays(
    activity: Mapping[str, ArrayLike],
    labels: Mapping[str, Any],
    *,
    bin_size: float,
    by: str = "condition",
    start: float = 0.0,
) -> dict[str, xr.DataArray]:
    """Label numpy arrays, for `pair_subjects`.

    Parameters
    ----------
    activity
        Subject name -> activity (trial, unit, time): counts of bins as whole numbers, or other
        activity as float. Trials and units may differ between subjects.
    labels
        Subject name -> the label of each trial, or a table of several columns (a mapping or a
        DataFrame with a row per trial).
    bin_size
        Seconds.
    by
        Name of the labels, where they are one column.
    start
        Begin of the first bin, seconds from the event.

    Returns
    -------
    dict of str to DataArray (trial, unit, time)
        As `bin_spikes` gives it.

    Raises
    ------
    ValueError
        If an array has another number of dimensions, or labels are not one per trial.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> counts = from_arrays(
    ...     {"mitt": rng.poisson(1, (20, 9, 40)), "stella": rng.poisson(1, (16, 7, 40))},
    ...     {"mitt": list("ABCD" * 5), "stella": list("ABCD" * 4)},
    ...     bin_size=0.01,
    ...     by="odor",
    ... )
    >>> dict(counts["stella"].sizes), counts["stella"].odor.values[:2].tolist()
    ({'trial': 16, 'unit': 7, 'time': 40}, ['A', 'B'])
    """
    where = "from_arrays"
    for name, value in (("activity", activity), ("labels", labels)):
        require(isinstance(value, Mapping), name, where, "a mapping from subject names", value)
    require_number(bin_size, "bin_size", where, 0, open_=True)
    require_number(start, "start", where, -1e9)
    if set(activity) != set(labels):
        raise ValueError(
            f"from_arrays needs labels of every subject. Got activity of {list(activity)} and "
            f"labels of {list(labels)}."
        )
    found = {}
    for name, array in activity.items():
        values = np.asarray(array)
        if values.ndim != 3 or values.dtype.kind not in "iufb":
            raise ValueError(
                f"subject {name!r}: expected an array of numbers (trial, unit, time), got "
                f"{values.dtype} of shape {values.shape}. Stack the trials, and put time last."
            )
        given = labels[name]
        table = given if isinstance(given, Mapping | pd.DataFrame) else {by: given}
        columns = {str(column): np.asarray(table[column]) for column in table}
        for column, of_trials in columns.items():
            if of_trials.shape != values.shape[:1]:
                raise ValueError(
                    f"subject {name!r}: expected one value of {column!r} for each of "
                    f"{len(values)} trials, got shape {of_trials.shape}."
                )
        n_trials, n_units, n_bins = values.shape
        found[name] = xr.DataArray(
            values,
            dims=("trial", "unit", "time"),
            coords={
                "trial": np.arange(n_trials),
                "unit": np.arange(n_units),
                "time": start + (np.arange(n_bins) + 0.5) * bin_size,
                **{column: ("trial", of_trials) for column, of_trials in columns.items()},
            },
            name="counts",
            attrs={"subject": name, "bin_size": float(bin_size)},
        )
    return found
