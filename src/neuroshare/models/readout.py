"""From latents to log rates, where networks start: learned of means, trusted as far as it holds."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.special import logsumexp, softmax

from neuroshare.models.alignment import Array
from neuroshare.models.inputs import as_tensor
from neuroshare.vae.likelihoods import Likelihood

VARIANCE = 1.09
"""Of the codes of single windows."""
TRUST = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
"""What the read-out of a unit may be multiplied by."""
_NEWTON_STEPS, _HALVINGS = 25, 12
"""Of the read-out, at most."""
_MOST_DRIVE = 50.0
"""Of a log rate, so that what is hopeless stays a number."""


def log_linear(z: Array, counts: Array, rate: Array, n: float, spread: float) -> Array:
    """Poisson regression of counts on single codes, whose means are known: (latent, unit).

    By Newton's method; a single step from the mean rate would overshoot without bound where units
    are driven strongly.

    Parameters
    ----------
    z
        Mean codes of cells, around 0, (cell, latent). Those of single windows vary far more, by
        `VARIANCE` in all.
    counts
        Mean counts of cells, (cell, unit).
    rate
        Mean counts, (unit,), above 0.
    n
        Windows.
    spread
        Deviation of the normal prior of the weights.
    """
    n_latents, n_units = z.shape[1], counts.shape[1]
    if not len(z):
        return np.zeros((n_latents, n_units))
    values, axes = np.linalg.eigh(z.T @ z / len(z))
    within = (axes * np.maximum(VARIANCE - values, 0.1 * VARIANCE)) @ axes.T
    product = z.T @ (counts - counts.mean(0)) / len(z)
    prior = np.eye(n_latents) / spread**2

    def drive(weights: Array) -> Array:
        """Log of what every cell expects, up to the mean rate, (cell, unit)."""
        return np.asarray(z @ weights + 0.5 * np.einsum("ku,kl,lu->u", weights, within, weights))

    def loss(weights: Array) -> Array:
        """Of every unit, its mean rate at its best."""
        level = logsumexp(drive(weights), axis=0) - np.log(len(z))
        fit = (weights * product).sum(0) - rate * level
        return np.asarray(0.5 * np.square(weights).sum(0) / spread**2 - n * fit)

    weights = np.zeros((n_latents, n_units))
    least = loss(weights)
    for _ in range(_NEWTON_STEPS):
        share = softmax(drive(weights), axis=0)
        mean = share.T @ z  # (unit, latent)
        second = np.einsum("cu,ck,cl->ukl", share, z, z, optimize=True)
        bent = second - mean[:, :, None] * mean[:, None] + within
        slope = n * (product.T - rate[:, None] * (mean + weights.T @ within))
        step = np.linalg.solve(
            n * rate[:, None, None] * bent + prior, (slope - weights.T / spread**2)[..., None]
        )[..., 0].T
        size = np.ones(n_units)
        for _ in range(_HALVINGS):
            now = loss(weights + size * step)
            worse = ~(now <= least)
            if not worse.any():
                break
            size[worse] /= 2
        better = now <= least  # of the others no step is taken
        weights = weights + np.where(better, size, 0.0) * step
        gained = np.where(better, least - now, 0.0)
        least = least - gained
        if (gained <= 1e-6 * (1 + np.abs(least))).all():
            break
    return weights


def trusted(looks: Iterable[tuple[Array, Array, Array]]) -> Array:
    """What to multiply the read-out of each unit by, (unit,), so that held-out counts fit best.

    A log rate that is linear in codes overshoots where codes lie beyond those it was learned of.

    Parameters
    ----------
    looks
        Of each fold: the change of the log rate by codes of others, (row, start, unit), the mean
        counts (unit,), and the counts (row, start, unit).
    """
    total: Array | float = 0.0
    for drive, rate, counts in looks:
        bounded = np.minimum(drive, _MOST_DRIVE)
        fit = (counts * bounded).sum((0, 1))
        total = total + np.stack(
            [part * fit - rate * np.exp(part * bounded).sum((0, 1)) for part in TRUST]
        )
    return np.asarray(np.array(TRUST)[np.argmax(total, axis=0)])


def curvature_of(likelihood: Likelihood | None, rate: Array, n_lags: int) -> Array:
    """How fast expected sums (unit,) of `n_lags` bins change with the outputs of a decoder."""
    if likelihood is None or likelihood.counts:  # of log rates
        return rate
    return np.asarray(n_lags * likelihood.slope(as_tensor(rate / n_lags)).double().numpy())
