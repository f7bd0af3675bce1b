"""What is left where something was not observed."""

from __future__ import annotations

import numpy as np


def most_observed(observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Trials and units that are left once whatever lacks most is left out.

    Parameters
    ----------
    observed : array of bool
        Dims ``(trial, unit)``.

    Returns
    -------
    trials, units : array of bool
        What to keep: every trial kept was observed in every unit kept.

    Notes
    -----
    The trials, or the units, of which the largest share is unobserved go first, until nothing
    unobserved is left; of equal shares the units go, for trials are what conditions consist of.
    Trials (units) seen by the same units (in the same trials) are one kind and are counted
    together; of a kind of units as many stay as others do.

    Examples
    --------
    >>> import numpy as np
    >>> observed = np.array([[True, True, True], [True, True, False], [False, False, False]])
    >>> [kept.tolist() for kept in most_observed(observed)]
    [[True, True, False], [True, True, False]]
    """
    patterns, of_trial, n_trials = np.unique(
        observed, axis=0, return_inverse=True, return_counts=True
    )
    patterns, of_unit, n_units = np.unique(
        patterns, axis=1, return_inverse=True, return_counts=True
    )
    trials, units = n_trials.astype(float), n_units.astype(float)
    absent = ~patterns
    while (absent & (trials > 0)[:, None] & (units > 0)).any():
        lack_trial = np.where(trials > 0, absent @ units / max(units.sum(), 1), -1.0)
        lack_unit = np.where(units > 0, trials @ absent / max(trials.sum(), 1), -1.0)
        if lack_unit.max() >= lack_trial.max():
            worst = int(lack_unit.argmax())
            units[worst] = 0
        else:
            worst = int(lack_trial.argmax())
            trials[worst] = 0
    return (trials > 0)[of_trial.ravel()], (units > 0)[of_unit.ravel()]
