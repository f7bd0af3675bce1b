"""Simulated subjects with known shared and private latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args, overload

import numpy as np
import pandas as pd
import xarray as xr

from neuroshare.recordings.running import running_session
from neuroshare.recordings.session import Session
from neuroshare.support.checks import require_number, require_one_of, require_whole

Tuning = Literal["latent", "place", "maps", "time", "pairs"]

RATS = {"barat": 92, "buchanan": 79, "mitt": 104, "stella": 49, "superchris": 46}
"""The five rats of Allen et al. (2016) and their numbers of units."""

BEGIN, END, STEP = -2.0, 2.0, 0.01  # around odor onset, seconds
LATENCY, RISE = 0.08, 0.1  # of the shared response, seconds
SMOOTHNESS = 0.15  # of every latent, seconds
SIZE = 1.2  # of the odor responses at signal 1, in units of the private latents
JITTER = 0.35  # of the shared latents from trial to trial, in units of the private ones
SHARE_SPAN, SHARE_BIN = (0.0, 0.4), 0.1  # of the variance shares in the truth, seconds
PEAK = 8.0  # of a tuned rate at signal 1, in units of the base rate
FASTEST = 500.0  # Hz, of a unit whose rate drifts
N_MAPS = 3  # of the track with `tuning="maps"`
UNTUNED = 1 / 3  # of the units


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
    tuning: Tuning = ...,
    runs: int | None = ...,
    drift: float = ...,
    running: float | None = ...,
    maps: int = ...,
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
    tuning: Tuning = ...,
    runs: int | None = ...,
    drift: float = ...,
    running: float | None = ...,
    maps: int = ...,
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
    tuning: Tuning = "latent",
    runs: int | None = None,
    drift: float = 0.0,
    running: float | None = None,
    maps: int = 1,
) -> dict[str, Session] | tuple[dict[str, Session], dict[str, xr.Dataset]]:
    """Sessions of several subjects that share responses to conditions and nothing else.

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
    tuning : str
        What units know of the odor. ``"latent"``: they load on a few latents, so rates are
        log-linear and of low rank. The others are codes as tuning curves: ``"place"``: odors are
        places on a track in their order, and every unit has a field of its own; ``"maps"``: the
        same with three maps of the track, one of which every trial uses (column ``map``), as it
        comes, in every subject for itself; ``"time"``: every unit fires once in the 0.4 s after
        onset, and the odor says only when; ``"pairs"``: odors are the two relations between two
        groups of units, equal (both high or both low) or opposite, so that no mean rate depends on
        the odor. A third of the units is not tuned.
    runs : int, optional
        Number of runs in which the trials of every odor come, one odor after the other. None
        interleaves them at random.
    drift : float
        How far the log rate of every unit wanders during the session: the standard deviation of
        its slow random walk at the end. No rate drifts beyond 500 Hz.
    running : float, optional
        Seconds. Rats then run to and fro on a track of 2 m, and no odors are presented: trials are
        laps of unequal length (``direction``, ``lap``, ``map``), and ``behavior`` has their
        ``position`` and ``speed``. Two thirds of the units are place cells, with fields of their
        own in every map and direction.
    maps : int
        Maps of the track of a rat that runs, which change every six laps.

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
        the variance of counts in bins of 0.1 s from 0 to 0.4 s. With tuning curves the shared
        latents and the shares are left out. Of rats that run, ``tuning`` (map, direction, unit,
        place) in Hz.

    Raises
    ------
    ValueError
        No subjects or odors, a negative size, an unknown tuning, or ``"pairs"`` with other than
        two odors.

    Notes
    -----
    ``log rate = log base + C s + D p``, and with tuning curves ``log base + log(1 + signal f) +
    D p``, where the tuning f has a peak of 8. The shared latents ``s`` are the odor's smooth
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
    >>> rat = simulate_sessions({"mitt": 30}, running=60)["mitt"]
    >>> [*rat.behavior], sorted(rat.trials.direction.unique())
    (['position', 'speed'], ['back', 'out'])
    """
    if subjects is None:
        subjects = RATS
    if isinstance(subjects, str) or not len(subjects) or not len(odors):
        raise ValueError(
            f"simulate_sessions needs names of subjects and odors, got {subjects!r}, {odors!r}."
        )
    if min(signal, private, mean_rate, shared_dim, private_dim) < 0:
        raise ValueError("signal, private, mean_rate, shared_dim, private_dim must be 0 or more.")
    require_one_of(tuning, "tuning", "simulate_sessions", get_args(Tuning))
    require_number(drift, "drift", "simulate_sessions", 0)
    if runs is not None:
        require_whole(runs, "runs", "simulate_sessions", 1)
    if tuning == "pairs" and len(odors) != 2:
        raise ValueError(
            f"tuning='pairs' needs two odors, equal and opposite, got {len(odors)}: {odors!r}."
        )
    require_whole(maps, "maps", "simulate_sessions", 1)
    if running is not None:
        require_number(running, "running", "simulate_sessions", 1)
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
        if running is not None:
            sessions[name], truth[name] = running_session(
                name, n_units, running, maps, seed, signal, private, private_dim, mean_rate, drift
            )
            continue
        odor, trials = _trials(rng, odors, repeats, runs)
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
        if tuning != "latent":
            latents = latents.drop_vars(["response", "shared", "loadings"])
        rates = _rates(latents, base)
        # Drawn apart, so that the rest does not depend on what is asked for here.
        extra = np.random.default_rng([seed, *name.encode(), len(name)])
        if tuning != "latent":
            tuned, charts = _tuned(extra, tuning, odor, len(odors), n_units)
            rates *= 1 + signal * PEAK * tuned
            if tuning == "maps":
                trials["map"] = charts
        if drift:
            rates *= np.exp(drift * _walks(extra, len(odor), n_units))[:, :, None]
            rates = np.minimum(rates, FASTEST)
        spikes = _spikes(rng, rates, trials["start_time"].to_numpy())
        sessions[name] = Session(name, spikes, pd.DataFrame({"base_rate": base}), trials)
        if return_truth:
            latents["rates"] = ("trial", "unit", "time"), rates
            if tuning == "latent":
                latents["variance_share"] = _variance_share(latents, base, odor, private)
            truth[name] = latents
    return (sessions, truth) if return_truth else sessions


def _tuned(
    rng: np.random.Generator, tuning: Tuning, odor: np.ndarray, n_odors: int, n_units: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tuning (trial, unit, time) from 0 to 1, and the map of each trial."""
    maps = rng.integers(N_MAPS if tuning == "maps" else 1, size=len(odor))
    tuned = np.zeros((len(odor), n_units, len(_time())))
    during = _time() >= LATENCY
    if tuning == "time":
        # Peaks lie on a circle of the 0.4 s, so that no odor has more spikes than another.
        begin, end = SHARE_SPAN
        peak = rng.uniform(begin, end, (n_odors, n_units))
        inside = (_time() >= begin) & (_time() < end)
        since = _time()[inside] - peak[odor][:, :, None]
        since = (since + (end - begin) / 2) % (end - begin) - (end - begin) / 2
        tuned[:, :, inside] = np.exp(-0.5 * (since / 0.03) ** 2)
    elif tuning == "pairs":
        group = rng.integers(2, size=n_units)
        first = rng.integers(2, size=len(odor))
        second = np.where(odor == 0, first, 1 - first)
        tuned[:, :, during] = np.where(group, second[:, None], first[:, None])[:, :, None]
    else:
        centre = rng.uniform(-0.5, n_odors - 0.5, (maps.max() + 1, n_units))
        width = rng.uniform(0.04, 0.1, (maps.max() + 1, n_units)) * n_odors
        place = odor + rng.uniform(-0.5, 0.5, len(odor))
        far = (place[:, None] - centre[maps]) / width[maps]
        tuned[:, :, during] = np.exp(-0.5 * far**2)[:, :, None]
    tuned[:, rng.random(n_units) < UNTUNED] = 0.0
    return tuned, maps


def _walks(rng: np.random.Generator, n_trials: int, n_units: int) -> np.ndarray:
    """Random walks (trial, unit) from 0 to a standard deviation of 1, one for each unit."""
    return np.asarray(np.cumsum(rng.standard_normal((n_trials, n_units)), 0) / np.sqrt(n_trials))


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
    rng: np.random.Generator, odors: Sequence[str], repeats: int, runs: int | None
) -> tuple[np.ndarray, pd.DataFrame]:
    odor = rng.permutation(np.repeat(np.arange(len(odors)), repeats))
    if runs is not None:
        parts = np.array_split(np.arange(repeats), min(runs, repeats))
        order = [rng.permutation(len(odors)) for _ in parts]
        odor = np.concatenate([np.repeat(o, len(p)) for o, p in zip(order, parts, strict=True)])
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
    both, loadings = latents["private"].values, latents["private_loadings"].values
    if "shared" in latents:
        both = np.concatenate([latents["shared"], both], axis=2)
        loadings = np.concatenate([latents["loadings"], loadings], axis=1)
    # In place, for these are the largest arrays of a simulation.
    rates = np.asarray(loadings @ both.transpose(0, 2, 1))
    np.exp(rates, out=rates)
    rates *= base[:, None]
    return rates


def _spikes(rng: np.random.Generator, rates: np.ndarray, onset: np.ndarray) -> list[np.ndarray]:
    """Poisson spike times per unit, seconds."""
    # A Poisson process in operational time is uniform there: as many draws as spikes, not one
    # per trial, unit and bin.
    risen = np.cumsum(rates)
    risen *= STEP
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
