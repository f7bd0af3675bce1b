"""Who drives the shared space: leave one subject out of the fit, and see what the others lose."""

from __future__ import annotations

import numpy as np
import xarray as xr
from sklearn.base import clone

from neuroshare.analysis.inference import animal_interval, known_mean, over_animals
from neuroshare.analysis.separation import separation
from neuroshare.models.linear import LinearAlignment
from neuroshare.models.shared import SharedLatentModel
from neuroshare.support.checks import require, require_seed
from neuroshare.support.parallel import Executor, run_each
from neuroshare.windows.paired import PairedWindows

Model = SharedLatentModel | LinearAlignment


def influence(
    model: Model,
    train: PairedWindows,
    test: PairedWindows,
    *,
    by: str | None = None,
    seed: int = 0,
    executor: int | Executor | None = None,
) -> xr.Dataset:
    """How much the other subjects lose when one subject is left out of the fit.

    The model is fitted to all subjects, and once more without each of them. Cross-subject accuracy
    is then compared on the same held-out trials, between the same pairs of subjects.

    Parameters
    ----------
    model
        Settings of the fits; it is cloned, so a fitted model is fitted again.
    train, test
        The parts of one split, with three subjects or more.
    by
        Condition to decode; by default the one that pairs the trials.
    seed
        Of the scores.
    executor
        Where the fits are executed; see `sweep`.

    Returns
    -------
    Dataset
        - ``cross`` (source, target): balanced accuracy per trial with all subjects fitted.
        - ``cross_without`` (left_out, source, target): the same without one subject; NaN where it
          is source or target.
        - ``loss_target`` (left_out, target): how much a target loses, mean over sources that are
          sessions of other animals.
        - ``loss`` (left_out): mean over animals of their targets; ``loss_interval`` (bound,
          left_out): 95 %, of t over animals, NaN with fewer than three of them.

    Raises
    ------
    ValueError
        With fewer than three subjects, or other subjects in the two parts.

    Notes
    -----
    A positive loss means that the others share more of their code when this subject is there: it
    drives the shared space. A negative one means that it disturbs. The fits see the same training
    trials of the others; partners are drawn anew. Of windows paired by behavior, accuracy is that
    of its bins.

    Examples
    --------
    >>> import neuroshare as ns
    >>> sessions = ns.simulate_sessions({"mitt": 15, "stella": 12, "barat": 14}, n_trials=8)
    >>> counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    >>> train, test = ns.pair_subjects(counts, by="odor", step=0.05).split()
    >>> found = ns.influence(ns.LinearAlignment(), train, test)
    >>> found.loss.dims, found.cross_without.dims
    (('left_out',), ('left_out', 'source', 'target'))
    """
    for name, value in (("train", train), ("test", test)):
        if not isinstance(value, PairedWindows):
            raise TypeError(
                f"The {name!r} parameter of influence must be the PairedWindows of a split. "
                f"Got {type(value).__name__} instead."
            )
    require(
        isinstance(model, SharedLatentModel | LinearAlignment),
        "model", "influence", "a SharedLatentModel or a LinearAlignment", model,
    )  # fmt: skip
    require_seed(seed, "influence")
    subjects = train.subjects
    if len(subjects) < 3 or sorted(subjects) != sorted(test.subjects):
        raise ValueError(
            "influence needs the same three or more subjects in both parts, since two are left "
            f"when one is taken away. Got {list(subjects)} and {list(test.subjects)}."
        )
    test = test.select(subjects)
    left_out = [None, *subjects]
    task = _Fit(model, by, seed)
    found = dict(run_each(task, (train, test), left_out, executor))
    # A subject that is not there has no place in its table.
    tables = [
        found[k].reindex(source=list(subjects), target=list(subjects)) for k in range(len(left_out))
    ]
    full, without = tables[0], xr.concat(tables[1:], dim="left_out")
    without = without.assign_coords(left_out=list(subjects))
    animals = [str(name) for name in train.coords()["animal"][1]]
    lost = (full - without).transpose("left_out", "source", "target").values
    own = np.array(animals)[:, None] == np.array(animals)
    lost = np.where(own, np.nan, lost)  # sessions of one animal share it in any case
    loss_target = known_mean(lost, 1)
    of_animals = over_animals(loss_target, animals)
    return xr.Dataset(
        {
            "cross": full,
            "cross_without": without,
            "loss_target": (("left_out", "target"), loss_target),
            "loss": ("left_out", known_mean(of_animals, 1)),
            "loss_interval": (
                ("bound", "left_out"),
                np.stack([animal_interval(values) for values in of_animals], axis=1),
            ),
        },
        coords={"bound": ["low", "high"]},
        attrs={"by": test.by if by is None else by, "seed": seed},
    )


class _Fit:
    """One fit without a subject, and its cross accuracies (source, target)."""

    def __init__(self, model: Model, by: str | None, seed: int) -> None:
        self.model, self.by, self.seed = model, by, seed

    def __call__(
        self, parts: tuple[PairedWindows, PairedWindows], left_out: str | None
    ) -> xr.DataArray:
        train, test = parts
        if left_out is not None:
            rest = [name for name in train.subjects if name != left_out]
            train, test = train.select(rest), test.select(rest)
        fitted = clone(self.model).fit(train)
        scores = separation(
            fitted.transform(train),
            fitted.transform(test),
            by=self.by,
            seed=self.seed,
            pooled=False,
        )
        return scores["cross"].sel(level="trial", drop=True)
