"""Behavior decoded across animals that were paired by it: python -m benchmarks.behavior

Recordings of animals that run, windows of whole laps (tracks) or of the whole session (arena),
paired by position (and direction). Stretches of every session are held out. For every set and
split:

- ``model``: `SharedLatentModel` as it comes, which chooses everything on inner folds;
- ``mcca``, ``procrustes``: `LinearAlignment`, whose latents and penalty are chosen likewise;
- ``counts``: ridge and Bayesian decoder of the counts of each animal alone;
- ``CEBRA``: all animals at once with the same labels, windows, split and number of latents as
  ``model``; left out, with a sentence, where cebra is not installed (pip install cebra);
- ``null``: spikes of each animal moved on a circle by 35 to 65 % of its session, which leaves all
  but their relation to behavior. The model from its start, without training.

``--scale`` measures pairing, windows and training at 10 animals x 200 units x 30 minutes instead.

Where laps have a column ``map``, errors of the model are also told by it: within a map, from one
map of an animal to another, and of each map from all other animals.

Every row is written as it is done, and a later run continues with those that are missing;
``summary`` holds means over splits.
Recordings are read from the folder NEUROSHARE_DATA; sets that are not there are left out.
"""

import argparse
import importlib.util
import json
import os
import resource
import time
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import torch

import neuroshare as ns
from benchmarks.provenance import provenance

HERE = Path(__file__).parent
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "xarray")
SETS = {
    "riab_track_5rats": {"by": ["linear_position", "direction"],
                         "of": ["linear_position", "speed"]},
    "riab_arena_5rats": {"by": ["position"], "of": ["position", "speed", "head_direction"]},
    "track_A_6mice": {"by": ["linear_position", "direction"], "of": ["linear_position", "speed"],
                      "width": 0.5, "bin_size": 0.1},
}  # fmt: skip
ROWS = ("model", "mcca", "procrustes", "CEBRA")


@cache
def sessions_of(name):
    """Sessions of a set, with the speed of the animal among their behavior."""
    root = os.environ.get("NEUROSHARE_DATA")
    found = {}
    for path in sorted((Path(root) / name).glob("*.nwb")) if root else []:
        session = ns.read_nwb(path)
        place = session.behavior[
            "position" if "position" in session.behavior else "linear_position"
        ]
        step = np.gradient(place.time.values)
        way = np.gradient(place.values.reshape(len(place), -1), axis=0)
        speed = np.linalg.norm(way, axis=1) / step
        session.behavior["speed"] = ("time", np.convolve(speed, np.ones(9) / 9, "same"))
        found[session.subject] = session
    return found


def moved(session, rng):
    """The same session with its spikes moved on a circle."""
    first = min(times[0] for times in session.spike_times if len(times))
    last = max(times[-1] for times in session.spike_times if len(times))
    length = last - first
    shift = rng.uniform(0.35, 0.65) * length
    spikes = [np.sort((times - first + shift) % length + first) for times in session.spike_times]
    units = session.units.reset_index(drop=True)
    return ns.Session(session.subject, spikes, units, session.trials, behavior=session.behavior)


def parts_of(name, split, null=None):
    """Training and held-out windows of a set."""
    how = SETS[name]
    rng = np.random.default_rng(null)
    counts = {}
    for subject, session in sessions_of(name).items():
        session = session if null is None else moved(session, rng)
        counts[subject] = ns.bin_spikes(
            session,
            span=None,
            epochs=None if "arena" in name else "trials",
            width=how.get("width", 0.2),
            bin_size=how.get("bin_size", 0.02),
            behavior=list(session.behavior),
        )
    return ns.pair_subjects(counts, by=how["by"], bandwidth=0.05).split(0.25, seed=split)


def numbers(found, kinds):
    """Scores of each variable, rounded, with intervals and p."""
    rows = {}
    for variable in found["variable"].values:
        one = found.sel(variable=variable)
        rows[str(variable)] = {
            f"{score}_{kind}": {
                "value": round(float(one[f"mean_{score}_{kind}"]), 4),
                "interval": one[f"mean_{score}_{kind}_interval"].values.round(4).tolist(),
                "p": float(one.get(f"p_mean_{score}_{kind}", np.nan)),
            }
            for score in ("r2", "median_error")
            for kind in kinds
        }
    return rows


def scored(latents, name):
    """What is decoded from latents of both parts, and their consistency."""
    found = ns.decoding(*latents, of=SETS[name]["of"], n_bootstraps=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agree = ns.consistency(*latents, n_permutations=19)
    means = {k: round(float(agree[f"mean_{k}"]), 3) for k in ("r2", "ceiling", "floor")}
    return numbers(found, ("own", "cross", "pooled")), means


def by_map(latents, of):
    """Median errors by map: of animals that have several, and of all windows of each map."""
    train, test = latents
    if "map" not in train.coords:
        return {}
    maps = [part["map"].transpose("subject", "window") for part in latents]

    def error(subject, source, target, pooled=False):
        """Of one subject's map, from one of its maps or from all other animals."""
        fitted, held = train, test.where((test.subject != subject) | (maps[1] == target))
        if not pooled:
            fitted, held = (part.sel(subject=[subject]) for part in (fitted, held))
            fitted = fitted.where(maps[0].sel(subject=[subject]) == source)
        found = ns.decoding(fitted, held, of=of, n_permutations=0, n_bootstraps=0)
        error = found.median_error_pooled if pooled else found.median_error
        return round(float(error.sel(target=subject).squeeze()), 4)

    found = {}
    for subject in train.subject.values.tolist():
        known = np.unique(maps[0].sel(subject=subject).values)
        known = [m for m in known if np.isfinite(m)]
        seen = maps[1].sel(subject=subject).values
        known = [m for m in known if (seen == m).sum() >= 10]
        found[subject] = {
            f"{int(b)}": {
                "rows": int((seen == b).sum()),
                **{f"from {int(a)}": error(subject, a, b) for a in known},
                "from others": error(subject, None, b, pooled=True),
            }
            for b in known
        }
    return found


def fitted(model, parts, name):
    """Fit and score a model."""
    began = time.process_time()
    model.fit(parts[0])
    seconds = round(time.process_time() - began, 1)
    latents = [model.transform(part) for part in parts]
    scores, agree = scored(latents, name)
    told = getattr(model, "chosen_", None) or {"latent_dim": int(model.latent_dim_)}
    kept = {k: told[k] for k in ("latent_dim", "inputs", "steps") if k in told}
    told = {"scores": scores, "consistency": agree, "cpu_seconds": seconds, **kept}
    if isinstance(model, ns.SharedLatentModel) and (maps := by_map(latents, SETS[name]["of"][0])):
        told["maps"] = maps
    return told


def imputed(model, parts):
    """Bits per spike from all others, and above tuning curves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = ns.imputation_scores(model, *parts)
    at = found.sel(sources="all others")
    return {
        "bits_per_spike": round(float(at.mean_bits_per_spike), 4),
        "tuning_curves": round(float(found.bits_per_spike_psth.mean()), 4),
        "above_tuning_curves": round(float(at.mean_above_psth), 4),
    }


def counted(parts, name):
    """Decoders of counts, each animal by itself."""
    found = ns.decode_counts(*parts, of=SETS[name]["of"], n_permutations=0, n_bootstraps=0)
    return {
        str(d): {
            str(v): {
                f"{score}_own": {
                    "value": round(float(found[f"mean_{score}"].sel(decoder=d, variable=v)), 4),
                    "interval": found[f"mean_{score}_interval"]
                    .sel(decoder=d, variable=v)
                    .values.round(4)
                    .tolist(),
                }
                for score in ("r2", "median_error")
            }
            for v in found["variable"].values
        }
        for d in found.decoder.values
    }


def cebra(parts, name, latent_dim, n_steps):
    """CEBRA of all animals at once, with the behavior that they were paired by as labels."""
    import cebra as package

    torch.manual_seed(0)
    axes = parts[0].behavior.axes
    names = parts[0].subjects

    def features(part, subject):
        return np.sqrt(np.concatenate([s for _, s in part.window_sums(subject)])[:, 0])

    def labels(part, subject):
        array, own = part.counts[subject], part.trials[subject]
        columns = []
        for axis in axes:
            values = array[axis.name].values[own]
            if axis.labels is not None:
                columns.append([axis.labels.index(v) for v in values.tolist()])
            else:
                columns.append((values - axis.low) / (axis.high - axis.low))
        return np.stack(columns, axis=1).astype(np.float32)

    began = time.process_time()
    model = package.CEBRA(
        model_architecture="offset1-model", output_dimension=latent_dim, batch_size=512,
        max_iterations=n_steps, conditional="time_delta", device="cpu", verbose=False,
    )  # fmt: skip
    model.fit(
        [features(parts[0], n).astype(np.float32) for n in names],
        [labels(parts[0], n) for n in names],
    )
    seconds = round(time.process_time() - began, 1)
    template = ns.LinearAlignment("mcca", latent_dim, 40, 0.5).fit(parts[0])
    latents = []
    for part in parts:
        z = template.transform(part)
        for k, subject in enumerate(names):
            own = model.transform(features(part, subject).astype(np.float32), session_id=k)
            rows = part.partners[:, k]
            z.values[k] = np.where((rows >= 0)[:, None], own[rows], np.nan)
        latents.append(z)
    scores, agree = scored(latents, name)
    return {
        "scores": scores, "consistency": agree, "cpu_seconds": seconds, "latent_dim": latent_dim,
        "iterations": n_steps, "version": package.__version__,
    }  # fmt: skip


def summary(rows):
    """Over splits, by set and row: errors of the first behavior, cross / own, and imputation."""
    found = {}
    for name, how in SETS.items():
        for row in ROWS:
            of_row = [
                rows[key]
                for key in rows
                if key.startswith(f"{name} | ") and key.endswith(f" | {row}")
            ]
            if not of_row:
                continue
            errors = {
                kind: [r["scores"][how["of"][0]][f"median_error_{kind}"]["value"] for r in of_row]
                for kind in ("own", "cross", "pooled")
            }
            ratio = np.array(errors["cross"]) / np.array(errors["own"])
            told = {kind: _spread(values) for kind, values in errors.items()}
            told |= {"cross / own": _spread(ratio), "splits": len(of_row)}
            if row == "model":
                for part in of_row[0]["imputation"]:
                    told[part] = _spread([r["imputation"][part] for r in of_row])
            found[f"{name} | {row}"] = told
        for decoder in ("ridge", "bayes"):
            counted = [rows[k] for k in rows if k.startswith(f"{name} | ") and k.endswith("counts")]
            own = [r[decoder][how["of"][0]]["median_error_own"]["value"] for r in counted]
            if own:
                found[f"{name} | counts, {decoder}"] = {"own": _spread(own), "splits": len(own)}
    return found


def _spread(values):
    """Mean, least and largest."""
    return [round(float(f(values)), 4) for f in (np.mean, np.min, np.max)]


def todo(options, rows):
    """What is to be measured: set, split, row and how."""
    for name in (n for n in options.sets if sessions_of(n)):
        for split in range(options.splits):
            key = f"{name} | {split} | "

            def model(parts, name=name):
                found = ns.SharedLatentModel(progress=False)
                return {**fitted(found, parts, name), "imputation": imputed(found, parts)}

            yield f"{key}model", name, split, None, model
            for method in ("mcca", "procrustes"):
                yield (
                    f"{key}{method}",
                    name,
                    split,
                    None,
                    lambda p, m=method, n=name: fitted(ns.LinearAlignment(m), p, n),
                )
            yield f"{key}counts", name, split, None, lambda p, n=name: counted(p, n)
        for null in range(options.nulls):
            start = {"latent_dim": 8, "inputs": "pooled", "epochs": 0}
            yield (
                f"{name} | {null} | null",
                name,
                0,
                null,
                lambda p, n=name, s=start: fitted(ns.SharedLatentModel(progress=False, **s), p, n),
            )
    if options.cebra_splits and importlib.util.find_spec("cebra") is None:
        print("CEBRA is left out, for cebra is not installed.", flush=True)
        return
    for split in range(options.cebra_splits):  # last, for it takes longest
        for name in (n for n in options.sets if sessions_of(n)):
            key = f"{name} | {split} | "
            yield (
                f"{key}CEBRA",
                name,
                split,
                None,
                lambda p, n=name, k=key: cebra(
                    p, n, rows[f"{k}model"]["latent_dim"], options.cebra_steps
                ),
            )


def scale(n_animals, n_units, minutes):
    """Seconds and peak memory of binning, pairing and training at a given size."""

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    names = {f"rat{k:02d}": n_units for k in range(n_animals)}
    found = {"animals": n_animals, "units": n_units, "minutes": minutes}
    counts = {}
    seconds = 0.0
    for name, number in names.items():
        # One at a time: the simulation of all of them takes more memory than the analysis.
        session = ns.simulate_sessions({name: number}, running=60.0 * minutes)[name]
        began = time.process_time()
        counts[name] = ns.bin_spikes(
            session, span=None, width=0.2, bin_size=0.02, behavior=["position"]
        )
        seconds += time.process_time() - began
    found["binning_seconds"] = round(seconds, 2)
    found["counts_gib"] = round(sum(array.nbytes for array in counts.values()) / 2**30, 3)
    found["peak_before_gib"] = round(peak(), 3)
    began = time.process_time()
    paired = ns.pair_subjects(counts, by="position", bandwidth=0.05)
    train, test = paired.split()
    found["rows"] = train.sizes["row"]
    found["pairing_seconds"] = round(time.process_time() - began, 2)
    began = time.process_time()
    train.repair(1).partners  # noqa: B018
    found["redraw_seconds"] = round(time.process_time() - began, 3)
    found["peak_paired_gib"] = round(peak(), 3)
    for name, epochs in (("start", 0), ("epoch", 1)):
        began = time.process_time()
        model = ns.SharedLatentModel(
            latent_dim=8, inputs="pooled", epochs=epochs, progress=False, init="mcca"
        ).fit(train)
        found[f"{name}_seconds"] = round(time.process_time() - began, 1)
        found[f"peak_{name}_gib"] = round(peak(), 3)
    latents = [model.transform(part) for part in (train, test)]
    found["peak_latents_gib"] = round(peak(), 3)
    began = time.process_time()
    scores = ns.decoding(*latents, of="position", n_bootstraps=0)
    found["decoding_seconds"] = round(time.process_time() - began, 1)
    found["peak_decoding_gib"] = round(peak(), 3)
    found["median_error_own"] = round(float(scores.mean_median_error_own), 4)
    found["median_error_cross"] = round(float(scores.mean_median_error_cross), 4)
    return found


def main():
    """Measure what is missing, and write each row as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "behavior.json")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--cebra-splits", type=int, default=1)
    parser.add_argument("--cebra-steps", type=int, default=10_000, help="its default")
    parser.add_argument("--nulls", type=int, default=3)
    parser.add_argument("--scale", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    stored = json.loads(options.out.read_text()) if options.out.exists() else {}
    rows = stored.setdefault("rows", {})

    def write():
        stored.update(provenance(*PACKAGES), summary=summary(rows))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(stored, indent=1) + "\n")

    if options.scale:
        for minutes in (15, 30):
            stored.setdefault("scale", {})[str(minutes)] = scale(10, 200, minutes)
            print(stored["scale"][str(minutes)], flush=True)
            write()
        return
    for key, name, split, null, measure in todo(options, rows):
        if key in rows:
            continue
        rows[key] = measure(parts_of(name, split, null))
        first = SETS[name]["of"][0]
        shown = rows[key].get("scores", {}).get(first, {})
        print(key, {k: v["value"] for k, v in shown.items()}, flush=True)
        write()


if __name__ == "__main__":
    main()
