"""What the order of trials, drift and the control before the event say of the p-values of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroshare.analysis.trust import Drift, drift, verdict
from neuroshare.windows.paired import PairedWindows


def judged(
    train: PairedWindows,
    test: PairedWindows,
    control: xr.Dataset | None = None,
    *,
    drifts: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Say whether the p-values of a split may be trusted, as JSON can hold it.

    Parameters
    ----------
    train, test
        The parts of one split.
    control
        `separation` of the stretch before the event.
    drifts
        Whether to ask for drift, which takes about a tenth of a second per subject.
    seed
        Of the tests.

    Returns
    -------
    dict
        ``trust`` (yes, with care, no), ``why`` (sentences), ``order`` and ``drift`` of every
        subject, and ``p_control``: twice the smaller of own and cross.
    """
    orders = train.orders
    found = {name: drift_of(train, test, name, seed) for name in train.subjects if drifts}
    p_control = None
    if control is not None:
        at = control.sel(level="trial")
        p = [float(at[f"p_mean_{kind}"]) for kind in ("own", "cross") if f"p_mean_{kind}" in at]
        known = [value for value in p if not np.isnan(value)]
        p_control = min(1.0, len(known) * min(known)) if known else None
    in_runs = {name for name, order in orders.items() if order.kind in ("clumped", "runs")}
    trust, why = verdict(orders, found, in_runs <= set(train.stretched), train.split_by, p_control)
    return {
        "trust": trust,
        "why": why,
        "order": {
            name: {
                "kind": order.kind,
                "changes": order.n_runs - 1,
                "expected_changes": round(float(order.expected_runs) - 1, 2),
                "p": order.p,
                "sentence": order.sentence(name, train.split_by),
            }
            for name, order in orders.items()
        },
        "drift": {
            name: dataclasses.asdict(one) | {"sentence": one.sentence(name)}
            for name, one in found.items()
        },
        "p_control": p_control,
    }


def verdict_sentence(judgement: Mapping[str, Any]) -> str:
    """The verdict on one line."""
    return f"May the p-values be trusted: {judgement['trust']}. {' '.join(judgement['why'])}"


def drift_of(train: PairedWindows, test: PairedWindows, name: str, seed: int = 0) -> Drift:
    """Drift of one subject's activity over the trials of both parts."""
    place, roots, codes = session_of(train, test, name)
    del place
    return drift(roots, codes, seed=seed)


def session_of(
    train: PairedWindows, test: PairedWindows, name: str
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Trials of both parts in the order of the session: places, root counts (trial, unit), codes.

    Activity below zero, which is none of counts, is taken as it is.
    """
    places = np.concatenate([part.places(name) for part in (train, test)])
    codes = np.concatenate([part.codes(name) for part in (train, test)])
    sums = np.concatenate(
        [values.sum(axis=2, dtype=float) for p in (train, test) for _, values in p.pieces(name)]
    )
    if not train.why_not_counts(name):
        sums = np.sqrt(sums)
    order = np.argsort(places)
    return places[order], sums[order], codes[order]
