"""Simulated subjects with known shared and private latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, overload

import numpy as np
import pandas as pd
import xarray as xr

from neuroshare.recordings.session import Session

RATS = {"barat": 92, "buchanan": 79, "mitt": 104, "stella": 49, "superchris": 46}
"""The five rats of Allen et al. (2016) and their numbers of units."""

BEGIN, END, STEP = -2.0, 2.0, 0.01  # around odor onset, seconds
LATENCY, RISE = 0.08, 0.1  # of the shared response, seconds
SMOOTHNESS = 0.15  # of every latent, seconds
SIZE = 1.2  # of the odor responses at signal 1, in units of the private latents
JITTER = 0.35  # of the shared latents from trial to trial, in units of the private ones
SHARE_SPAN, SHARE_BIN = (0.0, 0.4), 0.1  # of the variance shares in the truth, seconds


@overload
def simulate_sessions(
    subjects: Sequence[str] | Mapping[str, int] | None = ...,
    n_trials: int | Mapping[str, int] = ...,
    seed: int = ...,
    signal: float = ...,
    return_truth: Literal[False] = ...,
    *,
    odors: Sequence[str] = ...,
    shared_dim: int = ...,
    private_dim: int = ...,
    private: float = ...,
    mean_rate: float = ...,
) -> dict[str, Session]: ...


@overload
def simulate_sessions(
    subjects: Sequence[str] | Mapping[str, int] | None = ...,
    n_trials: int | Mapping[str, int] = ...,
    seed: int = ...,
    signal: float = ...,
    *,
    return_truth: Literal[True],
    odors: Sequence[str] = ...,
    shared_dim: int = ...,
    private_dim: int = ...,
    private: float = ...,
    mean_rate: float = ...,
) -> tuple[dict[str, Session], dict[str, xr.Dataset]]: ...


def simulate_sessions(
    subjects: Sequence[str] | Mapping[str, int] | None = None,
    n_trials: int | Mapping[str, int] = 40,
    seed: int = 0,
    signal: float = 1.0,
    return_truth: bool = False,
    *,
    odors: Sequence[str] = ("A", "B", "C", "D"),
    shared_dim: int = 3,
    private_dim: int = 2,
    private: float = 1.0,
    mean_rate: float = 2.5,
) -> dict[str, Session] | tuple[dict[str, Session], dict[str, xr.Dataset]]:
    """Sessions of several subjects that share odor responses and nothing else.

    Parameters
    ----------
    subjects : sequence of str or mapping of name to number of units, optional
        None takes the five rats of Allen et al. (2016) with their numbers of units. Names
        alone get 40 to 110 units each, drawn from the seed and the name.
    n_trials : int or mapping of name to int
        Trials per odor.
    seed : int
        The only source of randomness. A subject's data depend on the seed and its own name
        and sizes, never on which other subjects are asked for.
    signal : float
        Size of the odor responses; with 0 spikes hold no information about the odor.
    return_truth : bool
        Return the latents behind the spikes as well.
    odors : sequence of str
        The conditions.
    shared_dim, private_dim : int
        Number of latents common to all subjects, and of latents of one subject.
    private : float
        Size of the private latents.
    mean_rate : float
        Mean over units of the base rate, Hz.

    Returns
    -------
    sessions : dict of str to Session
        Spikes from -2 s to +2 s around every odor onset. Trials have ``start_time`` (odor
        onset) and ``stop_time``, ``odor``, ``position`` (1 to 5), ``in_sequence`` and
        ``correct``; units have ``base_rate`` (Hz).
    truth : dict of str to Dataset
        Only with ``return_truth``. Per subject: ``shared`` (trial, time, latent), ``private``
        (trial, time, private_latent), ``loadings`` (unit, latent), ``private_loadings``
        (unit, private_latent), ``rates`` (trial, unit, time) in Hz, ``response`` (odor, time,
        latent), the part of ``shared`` that all subjects have in common, and
        ``variance_share`` (unit, part): the parts ``shared``, ``private`` and ``noise`` of
        the variance of counts in bins of 0.1 s from 0 to 0.4 s.

    Raises
    ------
    ValueError
        No subjects or odors, a negative size.

    Notes
    -----
    ``log rate = log base + C s + D p``. The shared latents ``s`` are the odor's smooth
    response, zero until 80 ms after onset, plus jitter of the trial; subjects were not
    recorded together, so the jitter differs between them. The private latents ``p`` are smooth
    and independent of odor and of other subjects. Spikes are Poisson, with rates constant in
    10-ms bins. The ``shared`` part of the variance is that of the mean count given odor and
    time, which is all that another subject can tell; what varies from trial to trial beyond it
    is ``private``.

    Examples
    --------
    >>> sessions = simulate_sessions({"mitt": 20, "stella": 12}, n_trials=5)
    >>> [len(session.units) for session in sessions.values()]
    [20, 12]
    >>> sessions["mitt"].trials.odor.value_counts().sort_index().to_dict()
    {'A': 5, 'B': 5, 'C': 5, 'D': 5}
    """
    if subjects is None:
        subjects = RATS
    if isinstance(subjects, str) or not len(subjects) or not len(odors):
        raise ValueError(
            f"simulate_sessions needs names of subjects and odors, got {subjects!r}, {odors!r}."
        )
    if min(signal, private, mean_rate, shared_dim, private_dim) < 0:
        raise ValueError("signal, private, mean_rate, shared_dim, private_dim must be 0 or more.")
    response = signal * _responses(np.random.default_rng([seed]), len(odors), shared_dim)
    sessions, truth = {}, {}
    for name in subjects:
        # The name is part of the seed, so that subjects can be added without changing others.
        rng = np.random.default_rng([seed, *name.encode()])
        some = int(rng.integers(40, 111))
        n_units = subjects[name] if isinstance(subjects, Mapping) else some
        repeats = n_trials[name] if isinstance(n_trials, Mapping) else n_trials
        if min(n_units, repeats) < 1:
            raise ValueError(
                f"subject {name!r}: expected at least one unit and one trial per odor, "
                f"got {n_units} and {repeats}."
            )
        odor, trials = _trials(rng, odors, repeats)
        latents = xr.Dataset(
            {
                "response": (("odor", "time", "latent"), response),
                "shared": (
                    ("trial", "time", "latent"),
                    response[odor] + JITTER * _smooth(rng, len(odor), shared_dim),
                ),
                "private": (
                    ("trial", "time", "private_latent"),
                    private * _smooth(rng, len(odor), private_dim),
                ),
                "loadings": (("unit", "latent"), _loadings(rng, n_units, shared_dim)),
                "private_loadings": (
                    ("unit", "private_latent"),
                    _loadings(rng, n_units, private_dim),
                ),
            },
            coords={
                "trial": trials.index,
                "unit": np.arange(n_units),
                "time": _time(),
                "odor": list(odors),
                "trial_odor": ("trial", trials["odor"].to_numpy(str)),
            },
            attrs={"subject": name, "seed": seed, "signal": signal},
        )
        base = rng.lognormal(-0.5, 1.0, n_units) * mean_rate  # mean of this lognormal: 1
        rates = _rates(latents, base)
        spikes = _spikes(rng, rates, trials["start_time"].to_numpy())
        sessions[name] = Session(name, spikes, pd.DataFrame({"base_rate": base}), trials)
        if return_truth:
            latents["rates"] = ("trial", "unit", "time"), rates
            latents["variance_share"] = _variance_share(latents, base, odor, private)
            truth[name] = latents
    return (sessions, truth) if return_truth else sessions


def _time() -> np.ndarray:
    return BEGIN + (np.arange(round((END - BEGIN) / STEP)) + 0.5) * STEP


def _smoother() -> np.ndarray:
    """Matrix (time, time) that turns white noise into smooth noise of variance one."""
    distance = _time()[:, None] - _time()
    kernel = np.exp(-((distance / SMOOTHNESS) ** 2))
    return np.asarray(kernel / np.linalg.norm(kernel, axis=0))


def _smooth(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """Smooth noise (n, time, dim) of variance one."""
    white = rng.standard_normal((n * dim, len(_time())))
    smooth: np.ndarray = (white @ _smoother()).reshape(n, dim, -1).transpose(0, 2, 1)
    return smooth


def _loadings(rng: np.random.Generator, n_units: int, dim: int) -> np.ndarray:
    # Divided by the dimension, so that more latents do not mean wilder rates.
    return rng.normal(scale=0.5 / np.sqrt(max(dim, 1)), size=(n_units, dim))


def _responses(rng: np.random.Generator, n_odors: int, dim: int) -> np.ndarray:
    """Responses (odor, time, latent): zero before the latency, then a place of their own."""
    place = rng.standard_normal((n_odors, dim))
    place -= place.mean(0)
    # Orthonormal columns put the odors about equally far apart, whatever the seed.
    u, singular, v = np.linalg.svd(place, full_matrices=False)
    place = (u * (singular > 1e-9)) @ v * np.sqrt(n_odors)
    wander = 0.5 * _smooth(rng, n_odors, dim)
    wander -= wander.mean(0)
    since = np.maximum(_time() - LATENCY, 0)
    ramp = (1 - np.exp(-since / RISE)) * np.exp(-since / 1.5)
    return np.asarray(SIZE * ramp[:, None] * (place[:, None] + wander))


def _trials(
    rng: np.random.Generator, odors: Sequence[str], repeats: int
) -> tuple[np.ndarray, pd.DataFrame]:
    odor = rng.permutation(np.repeat(np.arange(len(odors)), repeats))
    n = len(odor)
    onset = 4.0 + np.cumsum(rng.uniform(7.0, 9.0, n))
    in_sequence = rng.random(n) < 0.88
    elsewhere = 1 + (odor + rng.integers(1, 5, n)) % 5
    trials = pd.DataFrame(
        {
            "start_time": onset,
            "stop_time": onset + rng.uniform(1.0, 1.4, n),
            "odor": np.array(odors)[odor],
            "position": np.where(in_sequence, 1 + odor % 5, elsewhere),
            "in_sequence": in_sequence,
            "correct": rng.random(n) < 0.85,
        }
    )
    return odor, trials


def _rates(latents: xr.Dataset, base: np.ndarray) -> np.ndarray:
    """Rates (trial, unit, time) in Hz."""
    both = np.concatenate([latents["shared"], latents["private"]], axis=2)
    loadings = np.concatenate([latents["loadings"], latents["private_loadings"]], axis=1)
    rates = np.exp(loadings @ both.transpose(0, 2, 1))
    return np.asarray(rates * base[:, None])


def _spikes(rng: np.random.Generator, rates: np.ndarray, onset: np.ndarray) -> list[np.ndarray]:
    """Poisson spike times per unit, seconds."""
    # A Poisson process in operational time is uniform there: as many draws as spikes, not one
    # per trial, unit and bin.
    risen = np.cumsum(rates) * STEP
    n = rng.poisson(risen[-1])
    cell = np.searchsorted(risen, np.sort(rng.uniform(0, risen[-1], n)), side="right")
    trial, unit, k = np.unravel_index(np.minimum(cell, rates.size - 1), rates.shape)
    times = onset[trial] + BEGIN + (k + rng.random(n)) * STEP
    order = np.lexsort((times, unit))
    ends = np.cumsum(np.bincount(unit, minlength=rates.shape[1]))
    return list(np.split(times[order], ends[:-1]))


def _variance_share(
    latents: xr.Dataset, base: np.ndarray, odor: np.ndarray, private: float
) -> xr.DataArray:
    begin, end = SHARE_SPAN
    during = slice(*np.searchsorted(_time(), (begin, end)))
    n_bins = round((end - begin) / SHARE_BIN)

    def binned(rates: np.ndarray) -> np.ndarray:
        within = rates[..., during].reshape(*rates.shape[:-1], n_bins, -1)
        return np.asarray(within.sum(-1) * STEP)

    own = np.square(latents["private_loadings"].values).sum(1) * private**2
    own += np.square(latents["loadings"].values).sum(1) * JITTER**2
    loadings, response = latents["loadings"].values, latents["response"].values
    # Mean of a lognormal: what the odor and the time tell, all else averaged out.
    expected = np.exp(loadings @ response.transpose(0, 2, 1) + own[:, None] / 2)
    mean = binned(expected * base[:, None])
    actual = binned(latents["rates"].values)
    parts = np.stack(
        [mean.var(axis=(0, 2)), np.square(actual - mean[odor]).mean((0, 2)), mean.mean((0, 2))],
        axis=1,
    )
    return xr.DataArray(
        parts / parts.sum(1, keepdims=True),
        dims=("unit", "part"),
        coords={"part": ["shared", "private", "noise"]},
        attrs={"span": SHARE_SPAN, "bin_size": SHARE_BIN},
    )
