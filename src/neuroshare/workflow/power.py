"""How large an experiment must be: simulated experiments with the statistics of a pilot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import clone
from tqdm.auto import tqdm

from neuroshare.analysis.separation import separation
from neuroshare.models.linear import LinearAlignment
from neuroshare.models.shared import SharedLatentModel
from neuroshare.support.checks import require, require_number, require_seed, require_whole
from neuroshare.support.parallel import Executor, run_each
from neuroshare.windows.pair import pair_subjects
from neuroshare.windows.paired import PairedWindows
from neuroshare.workflow.doors import require_trials

Array = NDArray[np.float64]
Model = SharedLatentModel | LinearAlignment

_N_FACTORS = 3
"""Of the variability that units share from trial to trial."""
_LEAST = 0.05
"""Of the mean rate: a bin without spikes in the pilot is not impossible."""


def power(
    pilot: PairedWindows,
    *,
    n_subjects: Sequence[int] = (3, 5),
    n_units: Sequence[int] = (30, 100),
    n_trials: Sequence[int] = (10, 20, 40),
    n_simulations: int = 20,
    alpha: float = 0.05,
    test_fraction: float = 0.25,
    n_permutations: int = 199,
    model: Model | None = None,
    signal: float = 1.0,
    seed: int = 0,
    executor: int | Executor | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """How often planned experiments would find a shared code, by simulation from a pilot.

    Every simulated experiment draws subjects from those of the pilot, units and trials for each,
    and goes through the whole analysis: split, fit, cross-subject accuracy on held-out trials, p.

    Parameters
    ----------
    pilot
        Windows of the pilot's subjects, as `pair_subjects` gives them; counts.
    n_subjects, n_units, n_trials
        Sizes to try: number of subjects, of units in each, and of trials of each condition.
    n_simulations
        Experiments of each size.
    alpha
        Level of the permutation test of the mean cross accuracy.
    test_fraction
        Share of trials held out.
    n_permutations
        Of each test.
    model
        What is fitted; by default the linear alignment, which the default model starts from.
    signal
        Size of the differences between conditions, in units of the pilot's; with 0 the power is
        the share of false positives.
    seed
        Of the simulations.
    executor
        Where experiments are executed; see `sweep`.
    progress
        Show a progress bar.

    Returns
    -------
    Dataset (n_subjects, n_units, n_trials)
        ``power``: share of experiments with p at most `alpha`, and its ``standard_error``;
        ``cross``: mean balanced accuracy per held-out trial, its ``cross_sd`` over experiments;
        ``chance``.

    Raises
    ------
    ValueError
        If activity is none of counts, or sizes are not positive.

    Notes
    -----
    A subject of the pilot gives the mean counts of its units by condition and bin, and how units
    vary together from trial to trial. Differences between conditions are shrunk so that their
    variance is what is left when the noise of the means is taken away: the noise of a small pilot
    would otherwise count as information. Trials vary by factors common to units, with log-normal
    gains whose covariance is the pilot's in excess of Poisson, and by Poisson noise. A simulated
    subject has units of one pilot subject, every one once before any comes again: a pilot of few
    subjects and units cannot say how much others differ from them. That makes the power an upper
    estimate where more are asked for than the pilot has. Trials come in random order.

    Examples
    --------
    >>> import neuroshare as ns
    >>> sessions = ns.simulate_sessions({"mitt": 15, "stella": 12}, n_trials=8, signal=2.0)
    >>> counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    >>> pilot = ns.pair_subjects(counts, by="odor", step=0.1)
    >>> found = ns.power(pilot, n_subjects=[2], n_units=[20], n_trials=[8], n_simulations=2,
    ...                  n_permutations=19, progress=False)
    >>> dict(found.power.sizes)
    {'n_subjects': 1, 'n_units': 1, 'n_trials': 1}
    """
    if not isinstance(pilot, PairedWindows):
        raise TypeError(
            "The 'pilot' parameter of power must be the PairedWindows of pair_subjects. "
            f"Got {type(pilot).__name__} instead."
        )
    require_trials(pilot, "power")
    sizes = {"n_subjects": n_subjects, "n_units": n_units, "n_trials": n_trials}
    for name, values in sizes.items():
        require(
            isinstance(values, Sequence | np.ndarray) and len(values) > 0,
            name, "power", "a list of whole numbers", values,
        )  # fmt: skip
        for value in values:
            require_whole(value, name, "power", {"n_subjects": 2, "n_trials": 4}.get(name, 1))
    require_whole(n_simulations, "n_simulations", "power", 1)
    require_whole(n_permutations, "n_permutations", "power", 1, most=10**9)
    require_number(alpha, "alpha", "power", 0, 1, open_=True)
    require_number(test_fraction, "test_fraction", "power", 0, 1, open_=True)
    require_number(signal, "signal", "power", 0)
    require_seed(seed, "power")
    for name in pilot.subjects:
        if why := pilot.why_not_counts(name):
            raise ValueError(
                f"power simulates spike counts; the activity of {name!r} has {why}. "
                "Pair the counts as binned."
            )
    known = [_described(pilot, name) for name in pilot.subjects]
    task = _Experiment(
        model or LinearAlignment("mcca", min(8, max(2, len(pilot.conditions))), 40, 0.5),
        pilot, alpha, test_fraction, n_permutations, signal,
    )  # fmt: skip
    grid = list(product(n_subjects, n_units, n_trials, range(n_simulations)))
    items = [(a, b, c, [seed, k]) for k, (a, b, c, _) in enumerate(grid)]
    found = np.full((len(grid), 2), np.nan)
    with tqdm(total=len(grid), disable=not progress, unit="experiment", desc="power") as bar:
        for position, result in run_each(task, known, items, executor):
            found[position] = result
            bar.update()
    found = found.reshape(*map(len, sizes.values()), n_simulations, 2)
    share = found[..., 0].mean(axis=-1)
    dims = tuple(sizes)
    return xr.Dataset(
        {
            "power": (dims, share),
            "standard_error": (dims, np.sqrt(share * (1 - share) / n_simulations)),
            "cross": (dims, found[..., 1].mean(axis=-1)),
            "cross_sd": (dims, found[..., 1].std(axis=-1)),
            "chance": 1 / len(pilot.conditions),
        },
        coords={name: list(values) for name, values in sizes.items()},
        attrs={"by": pilot.by, "alpha": alpha, "n_simulations": n_simulations, "seed": seed},
    )


@dataclass(frozen=True)
class _Described:
    """What a pilot says of one subject."""

    mean: Array  # (unit, bin) of all conditions
    differences: Array  # (condition, unit, bin), shrunk
    factors: Array  # (unit, factor) of the log gain


def _described(pilot: PairedWindows, name: str) -> _Described:
    codes = pilot.codes(name)
    member = codes[:, None] == np.arange(len(pilot.conditions))
    n = member.sum(axis=0)
    shape = (len(n), len(pilot.units[name]), pilot.sizes["bin"])
    total, squares = np.zeros(shape), np.zeros(shape[:2])
    for trials, values in pilot.pieces(name):
        total += np.einsum("ic,iub->cub", member[trials], values)
        squares += np.einsum(
            "ic,iu->cu", member[trials], np.square(values.sum(axis=2), dtype=float)
        )
    mean = total.sum(axis=0) / n.sum()
    differences = np.where(
        n[:, None, None] > 0, total / np.maximum(n, 1)[:, None, None] - mean, 0.0
    )
    # Of whole trials: how condition means vary, and how much of it is the noise of the means.
    sums = total.sum(axis=2) / np.maximum(n, 1)[:, None]
    within = np.maximum(squares - np.maximum(n, 1)[:, None] * sums**2, 0).sum(axis=0)
    within /= max(n.sum() - len(n), 1)
    noise = within * np.mean(1 / np.maximum(n, 1))
    between = sums.var(axis=0, ddof=1) if len(n) > 1 else np.zeros(len(noise))
    kept = np.sqrt(np.clip(1 - noise / np.maximum(between, 1e-12), 0, 1))
    # One share for all units: that of a single unit is itself mostly noise.
    weight = np.maximum(between, 1e-12)
    kept = np.full(len(kept), np.sqrt(np.sum(weight * kept**2) / weight.sum()))
    residual = np.concatenate(
        [values.sum(axis=2) - sums[codes[trials]] for trials, values in pilot.pieces(name)]
    )
    level = np.maximum(mean.sum(axis=1), 1e-3)
    excess = residual.T @ residual / max(n.sum() - len(n), 1) - np.diag(level)
    values, axes = np.linalg.eigh(excess / np.outer(level, level) * np.outer(level, level) ** 0.5)
    top = np.argsort(values)[::-1][:_N_FACTORS]
    factors = axes[:, top] * np.sqrt(np.maximum(values[top], 0)) / np.sqrt(level)[:, None]
    # Log-normal gains of a quiet unit would be all noise.
    size = np.linalg.norm(factors, axis=1, keepdims=True)
    factors = factors * np.minimum(1, 1 / np.maximum(size, 1e-12))
    return _Described(mean, differences * kept[None, :, None], factors)


def _drawn_evenly(n: int, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw numbers below n, every one once before any comes again."""
    rounds = -(-size // n)
    return np.concatenate([rng.permutation(n) for _ in range(rounds)])[:size]


class _Experiment:
    """Simulate one experiment and analyse it: whether p is at most alpha, and cross accuracy."""

    def __init__(
        self,
        model: Model,
        pilot: PairedWindows,
        alpha: float,
        test_fraction: float,
        n_permutations: int,
        signal: float,
    ) -> None:
        self.model, self.alpha, self.test_fraction = model, alpha, test_fraction
        self.n_permutations, self.signal = n_permutations, signal
        self.bin_size = pilot.bin_size
        self.width, self.step = (n * pilot.bin_size for n in (pilot.width, pilot.step))

    def __call__(
        self, known: list[_Described], item: tuple[int, int, int, list[int]]
    ) -> tuple[float, float]:
        n_subjects, n_units, n_trials, seed = item
        rng = np.random.default_rng(seed)
        chosen = _drawn_evenly(len(known), n_subjects, rng)
        counts = {
            f"subject {k}": self._drawn(known[c], n_units, n_trials, rng)
            for k, c in enumerate(chosen)
        }
        paired = pair_subjects(counts, "condition", self.width, self.step)
        # Simulated trials come in random order.
        train, test = paired.split(self.test_fraction, int(rng.integers(2**31)), blocks=None)
        model = clone(self.model)
        if isinstance(model, LinearAlignment) and model.latent_dim != "auto":
            model.set_params(latent_dim=min(model.latent_dim, n_units))
        fitted = model.fit(train)
        scores = separation(
            fitted.transform(train),
            fitted.transform(test),
            n_permutations=self.n_permutations,
            seed=int(rng.integers(2**31)),
            null="shuffle",
            pooled=False,
        ).sel(level="trial")
        return float(scores["p_mean_cross"] <= self.alpha), float(scores["mean_cross"])

    def _drawn(
        self, of: _Described, n_units: int, n_trials: int, rng: np.random.Generator
    ) -> xr.DataArray:
        units = _drawn_evenly(len(of.mean), n_units, rng)
        condition = rng.permutation(np.repeat(np.arange(len(of.differences)), n_trials))
        mean = of.mean[units]
        rate = np.maximum(mean + self.signal * of.differences[:, units], _LEAST * mean)
        factors = of.factors[units]
        gain = rng.standard_normal((len(condition), factors.shape[1])) @ factors.T
        gain -= 0.5 * np.square(factors).sum(axis=1)  # mean one
        drawn = rng.poisson(np.exp(gain)[:, :, None] * rate[condition])
        return xr.DataArray(
            drawn.astype(np.int32),
            dims=("trial", "unit", "time"),
            coords={
                "trial": np.arange(len(condition)),
                "unit": np.arange(n_units),
                "time": (np.arange(drawn.shape[2]) + 0.5) * self.bin_size,
                "condition": ("trial", condition),
            },
            attrs={"bin_size": self.bin_size},
        )
