"""Absent animals and animals added later, on simulated rats.

``python -m benchmarks.animals [--seeds 5] [--out benchmarks/results/animals.json]`` measures

- how much cross accuracy moves when 30 % of every subject's trials, and one whole condition of one
  subject, are taken away;
- what a subject reaches that is added to a fitted model with k of its training trials per
  condition, against fitting it jointly with all of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import neuroshare as ns
from benchmarks.provenance import provenance

Counts = Mapping[str, xr.DataArray]
RATS = ("barat", "buchanan", "mitt", "stella", "superchris")
STEP = 0.02  # between windows, seconds: half the windows tell as much


def simulated(seed: int, signal: float) -> dict[str, xr.DataArray]:
    sessions = ns.simulate_sessions(RATS, n_trials=40, seed=seed, signal=signal)
    return {name: ns.bin_spikes(session) for name, session in sessions.items()}


def cross(model: ns.SharedLatentModel, train: Any, test: Any) -> xr.DataArray:
    scores = ns.separation(model.transform(train), model.transform(test))
    return scores["cross"].sel(level="trial")


def absent(seed: int) -> dict[str, float]:
    """Cross accuracy with all trials, and with 30 % and one condition of one subject missing."""
    counts = simulated(seed, signal=2.0)
    train, test = ns.pair_subjects(counts, by="odor", step=STEP).split(seed=seed)
    model = ns.SharedLatentModel(progress=False, seed=seed)
    complete = cross(model.fit(train), train, test)

    # Take trials from the training part only, so that both are scored on the same held-out trials.
    rng = np.random.default_rng(seed)
    thinned = {}
    for name, array in counts.items():
        trained = train.trial_ids(name)
        gone = rng.permutation(trained)[: round(0.3 * len(trained))]
        if name == "mitt":
            gone = np.union1d(gone, trained[array["odor"].sel(trial=trained).values == "C"])
        thinned[name] = array.sel(trial=np.setdiff1d(trained, gone))
    fewer = ns.pair_subjects(thinned, by="odor", step=STEP, allow_missing=True, seed=seed)
    model = ns.SharedLatentModel(progress=False, seed=seed).fit(fewer)
    held_out = {n: a.sel(trial=test.trial_ids(n)) for n, a in counts.items()}
    held_out["mitt"] = held_out["mitt"].isel(trial=held_out["mitt"]["odor"].values != "C")
    scored = ns.pair_subjects(held_out, by="odor", step=STEP, allow_missing=True)
    remaining = cross(model, fewer, scored)
    rest = [name for name in RATS if name != "mitt"]
    return {
        "complete": float(complete.sel(source=rest, target=rest).mean()),
        "remaining": float(remaining.sel(source=rest, target=rest).mean()),
        "complete_with_mitt": float(complete.mean()),
        "remaining_with_mitt": float(remaining.mean()),
    }


def added(seed: int, trials_per_odor: tuple[int, ...] = (2, 4, 8, 15, 30)) -> dict[str, Any]:
    """Cross accuracy into and out of a subject that is added with k trials per odor."""
    counts = simulated(seed, signal=1.0)
    train, test = ns.pair_subjects(counts, by="odor", step=STEP).split(seed=seed)
    new = "mitt"
    known = [name for name in RATS if name != new]

    def both_ways(model: ns.SharedLatentModel, part: Any) -> float:
        pairs = cross(model, part, test)
        return float((pairs.sel(target=new).mean() + pairs.sel(source=new).mean()) / 2)

    joint = ns.SharedLatentModel(progress=False, seed=seed).fit(train)
    reached = {"joint": both_ways(joint, train)}
    rng = np.random.default_rng(seed)
    frozen = ns.SharedLatentModel(progress=False, seed=seed).fit(train.select(known))
    before = frozen.transform(test.select(known))
    curve = {}
    for k in trials_per_odor:
        trained = train.trial_ids(new)
        odor = counts[new]["odor"].sel(trial=trained).values
        few = np.concatenate([rng.permutation(trained[odor == o])[:k] for o in np.unique(odor)])
        fewer = {n: a.sel(trial=train.trial_ids(n)) for n, a in counts.items() if n != new}
        fewer[new] = counts[new].sel(trial=np.sort(few))
        part = ns.pair_subjects(fewer, by="odor", step=STEP, seed=seed)
        model = ns.SharedLatentModel(progress=False, seed=seed).fit(train.select(known))
        model.add_subject(new, part)
        if not model.transform(test.select(known)).identical(before):
            raise AssertionError("the frozen subjects moved")
        curve[str(k)] = both_ways(model, part)
    return reached | {"curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/animals.json"))
    arguments = parser.parse_args()
    results: dict[str, Any] = {
        **provenance("torch"),
        "absent": [absent(seed) for seed in range(arguments.seeds)],
        "added": [added(seed) for seed in range(arguments.seeds)],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    moved = [run["remaining"] - run["complete"] for run in results["absent"]]
    print(
        f"absent: cross accuracy moves by {np.mean(moved):+.3f} ({min(moved):+.3f} to "
        f"{max(moved):+.3f}), n = {len(moved)}"
    )
    for k in results["added"][0]["curve"]:
        share = [run["curve"][k] / run["joint"] for run in results["added"]]
        print(
            f"added with {k} trials per odor: {np.mean(share):.3f} of joint fitting "
            f"({min(share):.3f} to {max(share):.3f})"
        )


if __name__ == "__main__":
    main()
