"""Analyses of files: read, binned, paired and split as `run_fit` does, then analysed.

What computes is loaded after that, for torch takes seconds: what is wrong with files, columns or
spans is told before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroshare.support.files import replacing
from neuroshare.windows.pair import pair_subjects
from neuroshare.workflow.folder import write_with_figure
from neuroshare.workflow.reading import (
    Split,
    keep_common_conditions,
    read_recordings,
    require_conditions,
    split_recordings,
)
from neuroshare.workflow.settings import RunConfig

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from neuroshare.support.parallel import Executor

Tell = Callable[[str], None]


def sweep_files(
    config: RunConfig,
    out: str | os.PathLike[str],
    *,
    objectives: Sequence[str],
    betas: Sequence[float],
    seeds: Sequence[int],
    executor: int | Executor | None = None,
    progress: bool = True,
    tell: Tell = lambda sentence: None,
) -> pd.DataFrame:
    """Sweep over recordings. The table is also written to ``out/sweep.csv``."""
    split = _split(config, tell)
    from neuroshare.workflow.run import model_of
    from neuroshare.workflow.sweep import sweep

    model = model_of(split.config)
    table = sweep(
        split.train,
        split.test,
        out,
        objectives=objectives,
        betas=betas,
        seeds=seeds,
        model={k: getattr(model, k) for k in split.config.model if k not in ("objective", "beta")},
        executor=executor,
        progress=progress,
    )
    with replacing(Path(out) / "sweep.csv") as part:
        table.to_csv(part, index=False)
    return table


def influence_files(
    config: RunConfig,
    out: str | os.PathLike[str],
    *,
    executor: int | Executor | None = None,
    tell: Tell = lambda sentence: None,
) -> xr.Dataset:
    """Ask for influence in recordings; writes ``influence.nc`` and its figure into `out`."""
    split = _split(config, tell)
    from neuroshare.plots import plot_influence
    from neuroshare.workflow.influence import influence
    from neuroshare.workflow.run import model_of

    model = model_of(split.config)
    found = influence(model, split.train, split.test, seed=config.seed, executor=executor)
    for path in write_with_figure(Path(out), "influence", found, plot_influence):
        tell(f"Wrote {path}.")
    return found


def power_files(
    config: RunConfig,
    out: str | os.PathLike[str],
    *,
    tell: Tell = lambda sentence: None,
    **asked: Any,
) -> xr.Dataset:
    """Ask for power with recordings as the pilot; writes ``power.nc`` and its figure into `out`.

    Windows that overlap by more than half are left out, which saves time; `asked` goes to `power`.
    """
    require_conditions(config, "power")
    recordings = read_recordings(config)
    counts, left_out = keep_common_conditions(recordings.counts, config, recordings.factor)
    pilot = pair_subjects(
        counts, by=recordings.by, width=config.width, step=config.step, seed=config.seed
    ).thinned()
    for sentence in recordings.relabelled + left_out + pilot.report(spans=False):
        tell(sentence)
    from neuroshare.plots import plot_power
    from neuroshare.workflow.power import power

    found = power(
        pilot,
        test_fraction=config.test_fraction,
        n_permutations=config.permutations,
        seed=config.seed,
        **asked,
    )
    for path in write_with_figure(Path(out), "power", found, plot_power):
        tell(f"Wrote {path}.")
    return found


def _split(config: RunConfig, tell: Tell) -> Split:
    require_conditions(config, "this analysis")
    split = split_recordings(read_recordings(config), config)
    for sentence in split.left_out:
        tell(sentence)
    return split
