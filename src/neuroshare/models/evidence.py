"""How far codes tell bins apart: of behavior, or conditions at times within their trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import log_softmax

from neuroshare.models.alignment import Array

Codes = Mapping[str, tuple[Array, NDArray[np.int64]]]
"""By subject: codes (window, latent) and bins (window,)."""

N_SPLITS = 4
"""Inner splits of the training windows, on which codes are looked at."""
SHARPNESS = (0.0, 2**-12, 2**-10, 2**-8, *(2.0**-k for k in range(6, -1, -1)))
"""What the evidence of a code may be multiplied by. 0 trusts no code of the subject; trained codes
lie so close together in training that their evidence is worth far less elsewhere."""
LEAST_GAIN = 2.0
"""In log-likelihood of held-out windows, that trusting a subject needs: chance gives less."""
MOST_TIMES = 50
"""Of a condition that are told apart; of more starts neighbours are one."""
_MOST_JUDGED = 4_000_000
"""Windows times bins by which sharpness is judged; of more windows every so many are taken."""
_RIDGE = 0.01
"""Added to the covariance within bins, of its mean variance."""


def summed_by(values: Array, bins: NDArray[np.int64], n_bins: int) -> Array:
    """Sums of values (window, k) over the windows of every bin, (bin, k)."""
    n = len(bins)
    member = csr_array((np.ones(n), (bins, np.arange(n))), shape=(n_bins, n))
    return np.asarray(member @ values)


def discriminant(codes: Codes, near: Array) -> tuple[Array, Array, Array]:
    """Slopes (latent, bin), offsets (bin,) and log shares (bin,), of the codes of all subjects."""
    z = np.concatenate([z for z, _ in codes.values()])
    y = np.concatenate([y for _, y in codes.values()])
    found = near.T @ np.bincount(y, minlength=len(near))
    # Half a window at the mean of all more, for bins without any.
    centres = (near.T @ summed_by(z, y, len(near)) + 0.5 * z.mean(axis=0)) / (found[:, None] + 0.5)
    apart = z - centres[y]
    within = apart.T @ apart / len(z)
    level = _RIDGE * np.trace(within) / len(within) + 1e-10
    slopes = np.linalg.solve(within + level * np.eye(len(within)), centres.T)
    share = found + 1e-3
    return slopes, -0.5 * (centres * slopes.T).sum(axis=1), np.log(share / share.sum())


def log_losses(evidence: Array, place: NDArray[np.generic], prior: Array) -> Array:
    """Log loss of every sharpness, (sharpness,), summed over windows.

    Parameters
    ----------
    evidence
        (window, bin).
    place
        How far windows are in bins, (window, bin), or the bin of each, (window,).
    prior
        Log share of the windows, (bin,).
    """
    step = -(-evidence.size // _MOST_JUDGED)
    evidence, place = evidence[::step], place[::step]
    loss = np.empty(len(SHARPNESS))
    for i, sharpness in enumerate(SHARPNESS):
        log_p = log_softmax(prior + sharpness * evidence, axis=1)
        if place.ndim == 1:
            loss[i] = -log_p[np.arange(len(place)), place].sum()
        else:
            loss[i] = -(place * log_p).sum()
    return loss


def sharpest(evidence: Sequence[tuple[Array, NDArray[np.generic]]], prior: Array) -> float:
    """Sharpness of least log loss, of evidence and of where windows are, see `log_losses`."""
    return _least(np.sum([log_losses(found, place, prior) for found, place in evidence], axis=0))


def _least(losses: Array) -> float:
    """Sharpness of least log loss (sharpness,), if that is worth it."""
    best = int(losses.argmin())
    return SHARPNESS[best] if losses[0] - losses[best] > LEAST_GAIN else 0.0


def times_of(n_starts: int) -> NDArray[np.int64]:
    """Time of the windows of a trial, (start,), of those that are told apart."""
    return np.arange(n_starts) * min(n_starts, MOST_TIMES) // n_starts


def bins_of(conditions: NDArray[np.int64], n_starts: int) -> NDArray[np.int64]:
    """Bins (trial, start) of the windows of trials: conditions (trial,) at times within them."""
    times = times_of(n_starts)
    return np.asarray(conditions[:, None] * (times[-1] + 1) + times)


def losses_of_trials(
    fitted: Mapping[str, tuple[Array, NDArray[np.int64]]],
    held_out: Mapping[str, tuple[Array, NDArray[np.int64]]],
    n_conditions: int,
) -> Array:
    """Log losses (subject, sharpness) of held-out windows' own bins.

    Parameters
    ----------
    fitted, held_out
        By subject: codes (trial, start, latent) and conditions (trial,).
    n_conditions
        Of all.
    """
    known, held = (
        {
            name: (z.reshape(-1, z.shape[2]), bins_of(y, z.shape[1]).ravel())
            for name, (z, y) in part.items()
        }
        for part in (fitted, held_out)
    )
    n_starts = next(iter(fitted.values()))[0].shape[1]
    same = np.eye(n_conditions * min(n_starts, MOST_TIMES))
    slopes, offsets, prior = discriminant(known, same)
    return np.stack([log_losses(z @ slopes + offsets, y, prior) for z, y in held.values()])


def sharpness_of(losses: Array, names: Sequence[str]) -> dict[str, float]:
    """By subject, the sharpness of least log loss (subject, sharpness)."""
    return dict(zip(names, map(_least, losses), strict=True))
