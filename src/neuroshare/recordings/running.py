"""Simulated rats that run laps on a track: place cells, several maps, laps of unequal length."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from neuroshare.recordings.behavior import as_dataset
from neuroshare.recordings.session import Session

LENGTH = 2.0  # of the track, metres
STEP = 0.02  # of rates and behavior, seconds
SPEED, SPREAD = 0.35, 0.3  # of laps, m/s, and deviation of its logarithm
REST = (1.0, 4.0)  # between laps, seconds
RESTING = 0.2  # of the rate of a field, while the rat rests
WIDTH = (0.1, 0.3)  # deviation of a field, metres
PEAK = 12.0  # Hz at signal 1, the mean over fields
SHARE = 0.8  # of maps and directions in which a place cell has a field
UNTUNED = 1 / 3  # of the units
CHUNK = 5000  # steps, of which rates are in memory
PLACES = 50  # at which the truth is told


def running_session(
    name: str,
    n_units: int,
    seconds: float,
    maps: int,
    seed: int,
    signal: float,
    private: float,
    private_dim: int,
    mean_rate: float,
    drift: float,
) -> tuple[Session, xr.Dataset]:
    """One rat that runs to and fro on a track; arguments as of `simulate_sessions`.

    Returns
    -------
    session
        Its trials are laps (``direction``, ``lap``, ``map``); its behavior ``position`` (m) and
        ``speed`` (m/s), at 50 Hz.
    truth
        ``tuning`` (map, direction, unit, place), Hz, of each unit by the place in metres.
    """
    rng = np.random.default_rng([seed, *name.encode(), 7])
    laps, position, speed, running = _path(rng, seconds, maps)
    time = (np.arange(len(position)) + 0.5) * STEP
    of_lap = np.clip(np.searchsorted(laps["start_time"], time, side="right") - 1, 0, None)
    way = (laps["direction"] == "back").to_numpy(int)[of_lap]
    chart = laps["map"].to_numpy()[of_lap]
    centre = rng.uniform(0, LENGTH, (maps, 2, n_units))
    width = rng.uniform(*WIDTH, n_units)
    peak = PEAK * rng.gamma(3.0, 1 / 3.0, (maps, 2, n_units))
    peak *= rng.random(peak.shape) < SHARE
    peak[..., rng.random(n_units) < UNTUNED] = 0
    base = rng.lognormal(-0.5, 1.0, n_units) * mean_rate / 2
    slow = np.stack([_walk(rng, len(time)) for _ in range(private_dim)] or [0 * time], axis=1)
    loads = rng.normal(0, 0.3, (slow.shape[1], n_units)) * private
    wander = np.zeros(n_units)
    found: list[list[np.ndarray]] = [[] for _ in range(n_units)]
    for first in range(0, len(time), CHUNK):
        now = slice(first, first + CHUNK)
        there = chart[now], way[now]
        off = (position[now, None] - centre[there]) / width
        rates = signal * peak[there] * np.exp(-0.5 * off**2)  # (time, unit)
        rates *= np.where(running[now], 1.0, RESTING)[:, None]
        rates += base
        rates *= np.exp(slow[now] @ loads - 0.5 * np.square(loads).sum(axis=0))
        if drift:
            steps = rng.normal(size=rates.shape) / np.sqrt(len(time))
            walk = wander + np.cumsum(steps, axis=0)
            wander = walk[-1]
            rates *= np.exp(drift * walk)
        number = rng.poisson(np.minimum(rates, 500.0) * STEP)
        for unit in range(n_units):
            bins = first + np.repeat(np.arange(len(number)), number[:, unit])
            found[unit].append(np.sort((bins + rng.random(len(bins))) * STEP))
    spikes = [np.concatenate(parts) for parts in found]
    behavior = as_dataset(
        {
            "position": (
                position,
                time,
                {"unit": "m", "description": "on the track", "kind": "SpatialSeries"},
            ),
            "speed": (speed, time, {"unit": "m/s", "description": "", "kind": "TimeSeries"}),
        }
    )
    session = Session(name, spikes, pd.DataFrame({"base_rate": base}), laps, behavior=behavior)
    place = (np.arange(PLACES) + 0.5) * LENGTH / PLACES
    fields = peak[..., None] * np.exp(-0.5 * ((place - centre[..., None]) / width[:, None]) ** 2)
    truth = xr.Dataset(
        {"tuning": (("map", "direction", "unit", "place"), signal * fields + base[:, None])},
        coords={"direction": ["out", "back"], "place": place},
        attrs={"subject": name, "seed": seed, "signal": signal},
    )
    return session, truth


def _path(
    rng: np.random.Generator, seconds: float, maps: int
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Laps, and at every step position, speed and whether the rat runs."""
    pieces, moving, rows = [], [], []
    n, lap, at = 0, 0, 0.0
    chart = int(rng.integers(maps))
    while n * STEP < seconds:
        rest = int(rng.uniform(*REST) / STEP)
        pieces.append(np.full(rest, at))
        moving.append(np.zeros(rest, bool))
        n += rest
        # A lap is never of one speed, nor of that of another.
        usual = SPEED * np.exp(rng.normal(0, SPREAD))
        pace = usual * np.exp(0.4 * _walk(rng, int(4 * LENGTH / usual / STEP)))
        way = np.cumsum(pace) * STEP
        way = way[: np.searchsorted(way, LENGTH) + 1]
        way = np.minimum(way, LENGTH)
        out = at == 0.0
        pieces.append(way if out else LENGTH - way)
        moving.append(np.ones(len(way), bool))
        if lap % 6 == 5:  # maps stay for some laps
            chart = int(rng.integers(maps))
        rows.append((n * STEP, (n + len(way)) * STEP, "out" if out else "back", lap, chart))
        n += len(way)
        lap += 1
        at = LENGTH if out else 0.0
    position = np.concatenate(pieces)
    speed = np.abs(np.gradient(position, STEP))
    columns = ["start_time", "stop_time", "direction", "lap", "map"]
    return pd.DataFrame(rows, columns=columns), position, speed, np.concatenate(moving)


def _walk(rng: np.random.Generator, n: int) -> np.ndarray:
    """Slow noise of unit deviation, with a memory of a second."""
    keep = np.exp(-STEP)
    steps = rng.normal(0, np.sqrt(1 - keep**2), n)
    steps[:1] = rng.normal(size=min(n, 1))
    # A first-order filter, some thousand steps at a time, so that no power of it vanishes.
    found = np.empty(n)
    last = 0.0
    for first in range(0, n, 1000):
        part = steps[first : first + 1000]
        decay = keep ** np.arange(1, len(part) + 1)
        found[first : first + 1000] = decay * (last + np.cumsum(part / decay))
        last = found[min(first + 999, n - 1)]
    return found
