"""Pair the trials of several subjects."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import xarray as xr

from neuroshare.support.checks import require_one_of, require_seed
from neuroshare.support.labels import with_same_labels
from neuroshare.windows.behavior import (
    ByBehavior,
    as_windows,
    axes_of,
    axis_names,
    is_behavior,
    without_partners,
)
from neuroshare.windows.checks import (
    common_bins,
    common_conditions,
    only_observed,
    require_pairing,
    whole_bins,
)
from neuroshare.windows.paired import PairedWindows
from neuroshare.windows.pairing import (
    ByCondition,
    Order,
    Pairing,
    Surplus,
)
from neuroshare.windows.trials import Trials


def pair_subjects(
    counts: Mapping[str, xr.DataArray],
    by: str | Sequence[str],
    width: float | None = None,
    step: float | None = None,
    order: Order = "random",
    seed: int = 0,
    *,
    surplus: Surplus = "repeat",
    conditions: Sequence[Hashable] | None = None,
    allow_missing: bool = False,
    pairing: Pairing | None = None,
    bandwidth: float | Mapping[str, float] | None = None,
) -> PairedWindows:
    """Pair trials of several subjects that share a condition, and cut them into sliding windows.

    Or pair windows of like behavior, such as positions, wherever they are in the sessions.

    The subjects were usually not recorded together, so a partner is any trial of the same
    condition: an assumption, kept in one object that can redraw it (`PairedWindows.repair`) and
    break it (``repair(seed, shuffle_conditions=True)``, the null).

    Parameters
    ----------
    counts
        Subject name -> activity with dims (trial, unit, time), as `bin_spikes` returns it. Units
        and trials may differ between subjects; bin size and number of bins may not.
    by
        Trial coordinate whose equal values are paired, such as ``"odor"``. A coordinate that is
        unique to every trial (a trial number shared by simultaneous recordings) pairs one to one.
        Values are compared as they are meant: ``True`` and ``"TRUE"``, 0.1 as float32 and as
        float64, ``"Left "`` and ``"left"`` are equal, and ``""``, ``"nan"`` or ``"n/a"`` are none.
        Or behavior that `bin_spikes` has interpolated (``behavior=["position"]``), of which like
        values are paired; several, ``["position", "head_direction"]``; and conditions besides,
        ``["position", "direction"]``. A series of several columns stands for all of them.
    width, step
        Window length and shift between windows, seconds; whole numbers of bins. By default 0.1 and
        0.01; where pairing is by behavior, windows follow each other, and those of sessions without
        trials are as long as they were binned.
    order
        ``"random"`` draws partners, ``"rank"`` pairs the first with the first (the paper).
    seed
        Seed of the draw.
    surplus
        What happens to a subject's trials when others have fewer of that condition: ``"repeat"``
        pairs them with partners that are used again, so every trial is used and every row is
        complete; ``"absent"`` leaves the others out of that row; ``"drop"`` discards them (the
        paper).
    conditions
        Conditions to keep, in this order; by default all, sorted.
    allow_missing
        Accept conditions which some subject never saw: it is absent from those windows.
    pairing
        A rule of your own, in place of `order` and `surplus`.
    bandwidth
        Of behavior: windows are alike that lie within so much of a common value, as a share of the
        range of each variable over all subjects, or of a whole turn of an angle; one number, or by
        name. By default 0.05. Given, it also makes numbers per trial a behavior.

    Returns
    -------
    PairedWindows

    Raises
    ------
    ValueError
        If the arrays do not fit each other, or a condition is missing in a subject.

    Warns
    -----
    UserWarning
        Where a subject never shows a behavior that others do: it is absent there.

    Notes
    -----
    Partners by behavior are drawn anew before each epoch of a fit, as those by condition, in time
    and memory linear in the number of windows: see `ByBehavior`. ``<name>_bin`` stands for the
    condition: bins about as wide as the bandwidth, over which starts and tuning curves average.

    Examples
    --------
    >>> import neuroshare as ns
    >>> sessions = ns.simulate_sessions(["mitt", "stella"], n_trials=5)
    >>> counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    >>> paired = ns.pair_subjects(counts, by="odor")
    >>> paired.subjects, paired.sizes["window"]
    (('mitt', 'stella'), 620)
    """
    if isinstance(counts, Mapping) and is_behavior(counts, by, bandwidth):
        require_one_of(surplus, "surplus", "pair_subjects", ("repeat", "absent", "drop"))
        require_seed(seed, "pair_subjects")
        if pairing is not None or conditions is not None or order != "random":
            raise ValueError(
                "pair_subjects pairs by behavior at random, and takes no order, conditions or "
                "pairing besides. Select trials before pairing: counts.isel(trial=...)."
            )
        return _by_behavior(counts, by, width, step, seed, surplus, bandwidth)
    assert isinstance(by, str) or not isinstance(counts, Mapping)
    width, step = 0.1 if width is None else width, 0.01 if step is None else step
    require_pairing(counts, by, order, surplus, conditions, pairing, seed)
    arrays = {str(name): array for name, array in counts.items()}
    bin_size = common_bins(arrays, by)
    arrays = {name: array.transpose("trial", "unit", "time") for name, array in arrays.items()}
    n_bins = next(iter(arrays.values())).sizes["time"]
    n_width = whole_bins("width", width, bin_size, n_bins)
    n_step = whole_bins("step", step, bin_size)
    arrays, told = with_same_labels(arrays, by)
    arrays, absent = only_observed(arrays)
    labels = {name: np.asarray(array.coords[by].values) for name, array in arrays.items()}
    kept, report = common_conditions(labels, by, conditions, allow_missing)
    parts = {name: Trials.of(array, by, kept) for name, array in arrays.items()}
    return PairedWindows(
        _trials=parts,
        by=by,
        conditions=kept,
        bin_size=bin_size,
        width=n_width,
        step=n_step,
        pairing=pairing or ByCondition(order, surplus),
        seed=seed,
        excluded=(*told, *absent, *report),
    )


def _by_behavior(
    counts: Mapping[str, xr.DataArray],
    by: str | Sequence[str],
    width: float | None,
    step: float | None,
    seed: int,
    surplus: Surplus,
    bandwidth: float | Mapping[str, float] | None,
) -> PairedWindows:
    """Pair windows of like behavior; see `pair_subjects`."""
    arrays = {str(name): array for name, array in counts.items()}
    bin_size = common_bins(arrays)
    names = axis_names(arrays, by)
    arrays = {name: array.transpose("trial", "unit", "time") for name, array in arrays.items()}
    arrays, absent = only_observed(arrays)
    n_bins = next(iter(arrays.values())).sizes["time"]
    whole = all(array.attrs.get("windows") == "continuous" for array in arrays.values())
    usual = n_bins * bin_size if whole else 0.1
    n_width = whole_bins("width", usual if width is None else width, bin_size, n_bins)
    n_step = n_width if step is None else whole_bins("step", step, bin_size)
    arrays = {name: as_windows(a, n_width, n_step, bin_size) for name, a in arrays.items()}
    arrays, axes = axes_of(arrays, names, bandwidth)
    rule = ByBehavior(axes, surplus)
    column = "_".join([*names, "bin"])
    bins = {name: rule.bins(array) for name, array in arrays.items()}
    for name, found in bins.items():
        if not (found >= 0).any():
            raise ValueError(f"subject {name!r}: no window has a value of all of {names}.")
    occupied = np.unique(np.concatenate([found[found >= 0] for found in bins.values()]))
    middles = rule.middles(occupied)
    parts = {}
    for name, array in arrays.items():
        codes = np.where(bins[name] < 0, -1, np.searchsorted(occupied, bins[name]))
        labels = np.asarray([*middles, np.nan if len(axes) == 1 else ""])[codes]
        array = array.assign_coords({column: ("trial", labels)})
        own = np.flatnonzero(codes >= 0)
        parts[name] = Trials(array, own, codes[own], rule.fine(array)[own])
        if len(own) < len(codes):
            absent.append(
                f"subject {name!r}: {len(codes) - len(own)} windows without {', '.join(names)} "
                "were left out."
            )
    told = without_partners(arrays, rule)
    for sentence in told:
        warnings.warn(sentence, stacklevel=3)
    return PairedWindows(
        _trials=parts,
        by=column,
        conditions=middles,
        bin_size=bin_size,
        width=n_width,
        step=n_step,
        pairing=rule,
        seed=seed,
        excluded=(*absent, *told),
    )
