"""The five-rat experiment of the MMVM paper, by its own rules and by honest ones.

    python -m benchmarks.rats --data FOLDER --protocol both --preset paper --out DIR
    python -m benchmarks.rats --simulate --protocol both --preset full --out DIR

FOLDER holds the published arrays (Allen et al. 2016; Dryad doi:10.7280/D14X30). Simulated rats are
first written in the same layout, so both ways share every line that follows. A run that was stopped
continues with the same command. Preset ``paper`` is the published experiment; ``full`` has its
units, trials and recipe in fewer epochs, betas and seeds; ``small`` is a functional test, too small
for any method to share. ``--betas``, ``--objectives``, ``--epochs``, ``--seeds`` run a part.

Protocols:

``paper``: one stretch of 250 ms per trial from each rat's own start, windows of 10 bins sliding by
one, trials of one odor paired by rank with the surplus dropped, squared error on the arrays as
published (a tenth of the counts), two latents, and scores on the very windows that were trained on:
IN-SAMPLE. ``honest``: trials are split first, partners redrawn every epoch, scores on held-out
trials, with the same networks and with the default recipe of this package. Either way the null
shuffles the odors between the trials of each rat, fits again and scores again.
"""

import argparse
import dataclasses
import json
import math
import os
import platform
from pathlib import Path

import matplotlib

from benchmarks.provenance import provenance

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator

import neuroshare as ns
from neuroshare.vae.likelihoods import Gaussian
from neuroshare.vae.objectives import MMVM, MoPoE
from neuroshare.workflow.sweep import score_run

# Start of the analysed stretch, seconds after port entry.
START = {"barat": 0.25, "buchanan": 0.25, "mitt": 0.5, "stella": 0.5, "superchris": 0.25}
LENGTH = 0.25
ODORS = list("ABCD")
OBJECTIVES = ("independent", "avg", "poe", "moe", "mopoe", "mmvae_plus", "mmvm", "autoencoder")
# The released code adds the one rate of these methods once per decoder. No argument of the
# objectives does so, and multiplying beta by the number of rats is the same.
RATE_PER_DECODER = ("avg", "poe", "moe", "mopoe")
IN_SAMPLE, HELD_OUT = "training windows (IN-SAMPLE)", "held-out trials"

PAPER_MODEL = {
    # -log p is the summed squared error, up to a constant.
    "likelihood": Gaussian(scale=math.sqrt(0.5)),
    "latent_dim": 2,
    "hidden": "input",
    "batch_size": 128,
    "init": "random",
    "inputs": "raw",
    "dropout": 0.0,
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """How much to compute, and what to simulate where there are no recordings."""

    units: dict[str, int] | None
    trials: dict[str, int]
    objectives: tuple[str, ...]
    betas: tuple[float, ...]
    seeds: int
    epochs: int
    null_seeds: int = 1
    default: dict[str, object] | None = dataclasses.field(default_factory=dict)
    """Settings of the package's own recipe, which is run as well; None leaves it out."""
    n_subsets: int | None = None
    mean_rate: float = 2.5
    lr: float = 1e-3


PRESETS = {
    "smoke": Preset(
        units={"mitt": 8, "stella": 6},
        trials={"mitt": 7, "stella": 6},
        objectives=("poe", "mmvm"),
        betas=(1e-3,),
        seeds=1,
        epochs=2,
        default={"epochs": 1, "hidden": (16,)},
    ),
    "small": Preset(
        units={"barat": 11, "buchanan": 9, "mitt": 12, "stella": 7, "superchris": 7},
        trials={"barat": 13, "buchanan": 12, "mitt": 15, "stella": 12, "superchris": 13},
        objectives=OBJECTIVES,
        betas=(1e-5, 1e-3, 1e-2),
        seeds=3,
        epochs=60,
        lr=2e-3,  # in few epochs
        null_seeds=1,
        n_subsets=8,
        mean_rate=8.0,  # Hz, so that few units say enough
    ),
    "full": Preset(
        units=None,
        trials={"barat": 50, "buchanan": 45, "mitt": 60, "stella": 45, "superchris": 50},
        objectives=OBJECTIVES,
        betas=(1e-3, 2.5e-3, 1e-2),
        seeds=1,
        epochs=300,
        n_subsets=8,
        default=None,
    ),
    "paper": Preset(
        units=None,
        trials={"barat": 50, "buchanan": 45, "mitt": 60, "stella": 45, "superchris": 50},
        objectives=OBJECTIVES,
        betas=(1e-5, 1e-4, 1e-3, 2.5e-3, 5e-3, 1e-2),
        seeds=5,
        epochs=1000,
        null_seeds=5,
    ),
}


# ---------------------------------------------------------------------- data


def read(folder, rats):
    """Counts (trial, unit, time) of each rat in its own stretch of 250 ms."""
    counts = {}
    for rat in rats:
        session = ns.read_allen2016(folder, rat)
        span = (START[rat], START[rat] + LENGTH)
        counts[rat] = ns.bin_spikes(session, align="start_time", span=span, bin_size=0.01)
    return counts


def as_published(counts):
    """The arrays hold the mean of ten samples of 1 ms, a tenth of a count; so does the loss."""
    return {name: array / 10 for name, array in counts.items()}


def pair(counts, protocol):
    rules = {"order": "rank", "surplus": "drop"} if protocol == "paper" else {}
    return ns.pair_subjects(counts, by="odor", width=0.1, step=0.01, conditions=ODORS, **rules)


def same_trials_again(counts):
    """Give the trials other numbers, so that the training windows can be scored IN-SAMPLE.

    `ns.separation` refuses trials that are in both parts, for good reasons. The published scores
    were computed on the windows that were trained on; this states so, and does it.
    """
    return {
        name: array.assign_coords(trial=array["trial"] + 1_000_000)
        for name, array in counts.items()
    }


def parts(counts, protocol, seed, null):
    """(train, test) of one protocol."""
    paired = pair(counts, protocol)
    if protocol == "paper":
        # Partners and shuffled labels depend on the seed alone: these are the same windows.
        both = paired, pair(same_trials_again(counts), protocol)
        if null:
            both = tuple(part.repair(seed, shuffle_conditions=True) for part in both)
        return both
    train, test = paired.split(0.25, seed=seed)
    if null:
        train, test = (part.repair(seed, shuffle_conditions=True) for part in (train, test))
    return train, test


# ---------------------------------------------------------------------- runs


def objectives_of(preset, names, recipe="paper"):
    """Label -> objective, where `mopoe` may draw its subsets to save time.

    In the recipe of the paper `mmvm` is its rule alone: by name it is this package's, which adds a
    contrast.
    """
    known = {"mmvm": MMVM()} if recipe == "paper" else {}
    if preset.n_subsets:
        known["mopoe"] = MoPoE(n_subsets=preset.n_subsets)
    return {name: known.get(name, name) for name in names}


def run(counts, protocol, preset, out, jobs, tell):
    """Every fit of one protocol as a table; what is done is read from `out`."""
    published = as_published(counts)
    tables = []

    def add(data, *, recipe, model, names, betas, per_decoder=1, null=False):
        if not names:
            return
        weights = {float(beta * per_decoder): beta for beta in betas}
        for seed in range(preset.null_seeds if null else preset.seeds):
            train, test = parts(data, protocol, seed, null)
            table = ns.sweep(
                train,
                test,
                out,
                objectives=objectives_of(preset, names, recipe),
                betas=list(weights),
                seeds=[seed],
                model=model,
                score=Scoring(None if null or seed or recipe != "paper" else out / protocol),
                executor=jobs,
                progress=False,
            )
            table["weight"] = table["beta"]
            table["beta"] = table["beta"].map(weights)
            labels = {"protocol": protocol, "recipe": recipe, "null": null}
            labels["scored_on"] = IN_SAMPLE if protocol == "paper" else HELD_OUT
            tables.append(table.assign(**labels))
            tell(f"{protocol}, {recipe} recipe{', null' if null else ''}, seed {seed}: {names}")

    model = {**PAPER_MODEL, "epochs": preset.epochs, "lr": preset.lr}
    joint = [name for name in preset.objectives if name in RATE_PER_DECODER]
    others = [n for n in preset.objectives if n not in (*joint, "autoencoder")]
    n_rats = len(counts) if protocol == "paper" else 1
    middle = preset.betas[len(preset.betas) // 2]
    for null, betas in ((False, preset.betas), (True, (middle,))):
        same = {"recipe": "paper", "model": model, "null": null}
        add(published, names=joint, betas=betas, per_decoder=n_rats, **same)
        add(published, names=others, betas=betas, **same)
        if "autoencoder" in preset.objectives:  # has no rate, so beta says nothing
            add(published, names=["autoencoder"], betas=betas[:1], **same)
    if protocol == "honest" and preset.default is not None:
        default = ns.SharedLatentModel()
        names = [name for name in preset.objectives if name != "autoencoder"]
        same = {"names": names, "betas": [default.beta], "model": preset.default}
        for null in (False, True):
            add(counts, recipe="default", null=null, **same)
    return pd.concat(tables, ignore_index=True)


class Scoring:
    """`score_run`, which keeps the latents of the scored windows for the figure."""

    def __init__(self, folder):
        self.folder = folder
        self.__qualname__ = score_run.__qualname__  # the same numbers

    def __call__(self, model, train, test):
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            model.transform(test).to_netcdf(kept_in(self.folder, model.objective, model.beta))
        return score_run(model, train, test)


def kept_in(folder, objective, weight):
    """File of the latents of one fit."""
    name = objective if isinstance(objective, str) else type(objective).__name__.lower()
    return folder / f"{name}_{weight:g}.nc"


def latents(counts, protocol, preset, names, beta, out):
    """Two-dimensional latents of the scored windows; what was not kept is fitted again."""
    train, test = parts(as_published(counts), protocol, 0, null=False)
    found = {}
    for name in names:
        weight = beta
        if protocol == "paper" and name in RATE_PER_DECODER:
            weight = beta * len(counts)
        kept = kept_in(out / protocol, objectives_of(preset, [name])[name], weight)
        if kept.exists():
            found[name] = xr.load_dataarray(kept)
            continue
        model = ns.SharedLatentModel(
            objective=objectives_of(preset, [name])[name],
            beta=weight,
            epochs=preset.epochs,
            lr=preset.lr,
            progress=False,
            **PAPER_MODEL,
        )
        found[name] = model.fit(train).transform(test)
    return found


# ---------------------------------------------------------------------- figures

STYLE = {
    "independent": ("#777777", "o"),
    "avg": ("#66CCEE", "s"),
    "poe": ("#4477AA", "^"),
    "moe": ("#228833", "v"),
    "mopoe": ("#CCBB44", "D"),
    "mmvae_plus": ("#AA3377", "P"),
    "mmvm": ("#EE6677", "X"),
    "autoencoder": ("#000000", "*"),
}
TITLE = {
    "paper": "protocol of the paper\nIN-SAMPLE: the training windows scored again",
    "honest": "honest protocol\nheld-out trials",
}
SCORES = {
    "own_window": "accuracy, same rat",
    "cross_window": "accuracy, from rat to rat",
    "coherence": "coherence",
}


def draw_scores(table, path):
    """Accuracy and coherence against reconstruction error, over beta."""
    protocols = [p for p in TITLE if (table.protocol == p).any()]
    figure, axes = plt.subplots(
        len(SCORES),
        len(protocols),
        figsize=(4.3 * len(protocols) + 1.6, 8.4),
        sharey="row",
        sharex="col",
        squeeze=False,
        layout="constrained",
    )
    for column, protocol in enumerate(protocols):
        part = table[(table.protocol == protocol) & (table.recipe == "paper")]
        for row, (score, label) in enumerate(SCORES.items()):
            ax = axes[row, column]
            for name, (color, marker) in STYLE.items():
                runs = part[(part.objective == name) & ~part.null]
                if runs.empty:
                    continue
                mean = runs.groupby("beta")[["mse_joint", score]].mean().sort_index()
                # Arrays hold tenths of counts; the axis is in counts.
                x, y = 100 * mean["mse_joint"].to_numpy(), mean[score].to_numpy()
                for k in range(len(x) - 1):
                    ax.annotate(
                        "",
                        (x[k + 1], y[k + 1]),
                        (x[k], y[k]),
                        arrowprops={"arrowstyle": "->", "color": color, "lw": 1, "alpha": 0.7},
                    )
                ax.plot(x, y, marker, color=color, ms=7, mec="white", mew=0.4, label=name)
            if part.null.any():
                null = part[part.null][score].mean()
                ax.axhline(null, color="black", lw=1, ls="--", label="null: odors shuffled, refit")
            ax.axhline(1 / len(ODORS), color="black", lw=0.8, ls=":", label="chance")
            ax.set_ylim(0.15, 1.02)
            ax.spines[["top", "right"]].set_visible(False)
            ax.xaxis.set_major_locator(MaxNLocator(5))
            if column == 0:
                ax.set_ylabel(label)
            if row == 0:
                color = "#B00020" if protocol == "paper" else "black"
                ax.set_title(TITLE[protocol], fontsize=10, color=color)
        axes[-1, column].set_xlabel("squared error per bin of 10 ms (counts²)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    figure.supxlabel("arrows go from the smallest beta to the largest", fontsize=9)
    _save(figure, path)


def draw_bound(table, path, features):
    """The objective of MMVM against the autoencoder's, over beta."""
    protocols = [p for p in TITLE if (table.protocol == p).any()]
    constant = features * 0.5 * math.log(math.pi)  # of the Gaussian likelihood
    figure, axes = plt.subplots(
        1,
        len(protocols),
        figsize=(3.6 * len(protocols) + 1.4, 3.2),
        squeeze=False,
        layout="constrained",
    )
    for ax, protocol in zip(axes[0], protocols, strict=True):
        part = table[(table.protocol == protocol) & (table.recipe == "paper") & ~table.null]
        for name in ("mmvm", "independent"):
            runs = part[part.objective == name]
            if runs.empty:
                continue
            color, marker = STYLE[name]
            mean = -(runs.groupby("beta")["loss"].mean() - constant)
            ax.plot(mean.index, mean, "-", color=color, marker=marker, label=name)
            ax.plot(runs.beta, -(runs.loss - constant), ".", color=color, alpha=0.4, ms=4)
        bound = part[part.objective == "autoencoder"]["loss"]
        if len(bound):
            ax.axhline(-(bound.mean() - constant), color="black", ls="--", label="autoencoder")
        ax.set(xscale="log", xlabel="beta", ylabel="objective of the last epoch, training")
        ax.set_title(protocol + " protocol", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    _save(figure, path)


def draw_latents(found, path, beta):
    """Latents by odor and by rat: a column per method, two rows per protocol."""
    protocols = list(found)
    names = list(found[protocols[0]])
    figure, axes = plt.subplots(
        2 * len(protocols),
        len(names),
        figsize=(2.7 * len(names) + 0.6, 5.2 * len(protocols)),
        squeeze=False,
        layout="constrained",
    )
    for p, protocol in enumerate(protocols):
        for column, name in enumerate(names):
            for k, color in enumerate(("condition", "subject")):
                ax = axes[2 * p + k, column]
                ns.plot_latents(found[protocol][name], color=color, ax=ax)
                # The paths of the means belong to trials of one time course; here they hide points.
                for line in list(ax.lines):
                    line.remove()
                ax.set(xlabel="", ylabel="", xticks=[], yticks=[])
                # Colours are told once, shapes (of the other) by the row below.
                for artist in list(ax.get_children()):
                    last = column == len(names) - 1 and artist is ax.get_legend()
                    if isinstance(artist, Legend) and not last:
                        artist.remove()
                if k == 0:
                    ax.set_title(name, fontsize=10)
            note = "IN-SAMPLE" if protocol == "paper" else "held-out trials"
            axes[2 * p, 0].set_ylabel(f"{protocol}: {note}\nby odor")
            axes[2 * p + 1, 0].set_ylabel(f"{protocol}: {note}\nby rat")
    figure.suptitle(f"two latents of every window, beta {beta:g}", fontsize=11)
    _save(figure, path, dpi=75)


def _save(figure, path, dpi=100):
    figure.savefig(path, dpi=dpi)
    plt.close(figure)


# ---------------------------------------------------------------------- command


def origin():
    return {
        "device": f"{platform.machine()} CPU, {os.cpu_count()} cores, one thread per run",
        **provenance("numpy", "scikit-learn", "torch", "xarray"),
    }


def rows_of(table, digits=6):
    """Rows for JSON, with what is the same in all of them apart."""
    same = {c: table[c].iloc[0] for c in table if table[c].map(repr).nunique() == 1}
    rows = []
    for record in table.drop(columns=list(same)).to_dict("records"):
        rows.append({k: _number(v, digits) for k, v in record.items() if not _absent(v)})
    return {k: _number(v, digits) for k, v in same.items() if not _absent(v)}, rows


def _absent(value):
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(value, digits):
    value = value.item() if isinstance(value, np.generic) else value
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--data", type=Path, help="folder with the folders of the five rats")
    data.add_argument("--simulate", action="store_true", help="simulated rats instead")
    parser.add_argument("--protocol", choices=("paper", "honest", "both"), default="both")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="small")
    parser.add_argument("--betas", type=float, nargs="+", help="instead of the preset's")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--null-seeds", type=int, help="of fits to shuffled odors; 0 for none")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, help="number of processes; default: this one")
    options = parser.parse_args(arguments)
    out = options.out
    names = ("betas", "objectives", "epochs", "seeds", "null_seeds")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    preset = dataclasses.replace(PRESETS[options.preset], **given)
    source = origin()  # of the code as it was loaded
    out.mkdir(parents=True, exist_ok=True)
    folder, rats = options.data, list(START)
    if options.simulate:
        rats = list(preset.units or START)
        folder = out / "arrays"
        sessions = ns.simulate_sessions(
            preset.units, n_trials=preset.trials, seed=0, mean_rate=preset.mean_rate
        )
        ns.write_allen2016(sessions, folder)
    counts = read(folder, rats)
    protocols = ("paper", "honest") if options.protocol == "both" else (options.protocol,)
    table = pd.concat(
        [
            run(counts, p, preset, out, options.jobs, lambda s: print(s, flush=True))
            for p in protocols
        ],
        ignore_index=True,
    )

    beta = preset.betas[len(preset.betas) // 2]
    shown = [n for n in ("independent", "poe", "mopoe", "mmvm") if n in preset.objectives]
    shown = shown or list(preset.objectives)
    found = {p: latents(counts, p, preset, shown, beta, out) for p in protocols}
    features = 10 * sum(array.sizes["unit"] for array in counts.values())
    draw_scores(table, out / "rats_scores.png")
    draw_bound(table, out / "rats_bound.png", features)
    draw_latents(found, out / "rats_latents.png", beta)
    same, rows = rows_of(table)
    document = {
        "what": "simulated rats" if options.simulate else "the published five rats",
        "preset": options.preset,
        "note": "Rows of protocol 'paper' are IN-SAMPLE: scored on the windows trained on.",
        **source,
        "rats": {
            name: {"units": array.sizes["unit"], "trials": array.sizes["trial"]}
            for name, array in counts.items()
        },
        "epochs": preset.epochs,
        "betas": list(preset.betas),
        "same_in_all_runs": same,
        "runs": rows,
    }
    (out / "rats.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    print(summary(table, beta))


def summary(table, beta):
    """Scores at one beta as a markdown table."""
    columns = ["own_window", "cross_window", "own_trial", "cross_trial", "coherence", "mse_joint"]
    # Methods whose beta says nothing, or is the default of the package, have no other.
    at = table[
        (table.beta == beta) | (table.recipe == "default") | (table.objective == "autoencoder")
    ]
    means = at.groupby(["protocol", "recipe", "null", "objective"], sort=False)[columns].mean()
    lines = ["| protocol | recipe | objective | " + " | ".join(columns) + " |"]
    lines.append("|" + "---|" * (len(columns) + 3))
    for (protocol, recipe, null, objective), row in means.iterrows():
        where = "paper, IN-SAMPLE" if protocol == "paper" else "honest, held out"
        what = f"{objective}{' (null)' if null else ''}"
        numbers = [f"{row[c]:.4f}" if c == "mse_joint" else f"{row[c]:.2f}" for c in columns]
        lines.append(f"| {where} | {recipe} | {what} | " + " | ".join(numbers) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
