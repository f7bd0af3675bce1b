"""A finished run to one self-contained HTML page.

The page is made from the files of the run alone, so it can be made again at any time, without
torch: latents.nc, separation.nc, history.nc, scores.json and run.toml, and of comparison.json,
imputation.nc, residuals.nc, departure.nc and control.nc those that the run has.
"""

import base64
import io
import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from neuroshare.plots import (
    plot_comparison,
    plot_departure,
    plot_imputation,
    plot_latents,
    plot_residuals,
    plot_separation,
    plot_training,
)
from neuroshare.writing import replacing

NEEDED = ("latents.nc", "separation.nc", "history.nc", "scores.json", "run.toml")


def write_report(run: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into the folder of a finished run.

    Parameters
    ----------
    run : path-like
        Folder that ``neuroshare fit`` wrote.

    Returns
    -------
    Path
        The page: one file with its figures inside, which needs no network.

    Raises
    ------
    FileNotFoundError
        If the folder does not hold a finished run.
    """
    run = Path(run)
    absent = [name for name in NEEDED if not (run / name).is_file()]
    if absent:
        raise FileNotFoundError(
            f"{run}: expected a finished run, but {', '.join(absent)} "
            f"{'is' if len(absent) == 1 else 'are'} not there. Run `neuroshare fit` to the end."
        )
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    settings = tomllib.loads((run / "run.toml").read_text(encoding="utf-8"))
    latents = xr.load_dataarray(run / "latents.nc", engine="h5netcdf")
    separation = xr.load_dataset(run / "separation.nc", engine="h5netcdf")
    history = xr.load_dataset(run / "history.nc", engine="h5netcdf")

    by = scores["by"]
    figures = {
        "trial": _figure(
            lambda ax: plot_separation(separation, "trial", ax=ax),
            f"Balanced accuracy of {by} per held-out trial, source by target",
        ),
        "window": _figure(
            lambda ax: plot_separation(separation, "window", ax=ax),
            f"Balanced accuracy of {by} per held-out window, source by target",
        ),
        "condition": _figure(
            lambda ax: plot_latents(latents, "condition", ax=ax),
            f"Held-out windows in latent space, coloured by {by}",
        ),
        "subject": _figure(
            lambda ax: plot_latents(latents, "subject", ax=ax),
            "Held-out windows in latent space, coloured by subject",
        ),
        "time": _figure(
            lambda ax: plot_latents(latents, "time", ax=ax),
            "Held-out windows in latent space, coloured by time",
        ),
        "loss": _figure(lambda ax: plot_training(history, ax=ax), "Loss by epoch"),
        "rate": _figure(lambda ax: plot_training(history, "rate", ax=ax), "Rate term by epoch"),
    }
    comparison: list[dict[str, Any]] = []
    if (run / "comparison.json").is_file():
        comparison = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    found = {
        name: xr.load_dataset(run / f"{name}.nc", engine="h5netcdf")
        for name in ("imputation", "residuals", "departure", "control")
        if (run / f"{name}.nc").is_file()
    }
    figures |= _figures_of_battery(pd.DataFrame(comparison), found, by)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("neuroshare"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html.j2").render(
        title=f"{len(scores['subjects'])} subjects by {by}",
        scores=scores,
        settings=settings,
        model=settings.get("model", {}),
        figures=figures,
        notes=_notes(scores, settings),
        comparison=_comparison(comparison, scores.get("model")),
        imputation=_imputation(found.get("imputation")),
        residuals=_residuals(found.get("residuals"), scores),
        methods=_methods(scores, settings, found),
        references=_references(scores, settings, found),
    )
    page = run / "report.html"
    with replacing(page) as part:
        part.write_text(html, encoding="utf-8")
    return page


def _notes(scores: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """What the numbers mean, in sentences."""
    by = scores["by"]
    notes = [
        f"Held out: {settings['test_fraction']:.0%} of the trials of each {by} and subject were "
        "set aside before pairing, fitting and scoring. All accuracies are on these trials, which "
        "neither the model nor a classifier has seen.",
        f"Balanced accuracy of telling {by} from the latents, by logistic regression. "
        f"Chance is {scores['chance']:.2f}.",
        "Own: classifier and held-out trials are of the same subject. Cross: the classifier is "
        "fitted on one subject and scored on another; only this shows a shared space.",
        "Windows of one trial overlap and are not independent. The trial level, which sums the "
        "log-probabilities of a trial's windows, is the one to quote.",
        f"Trials of different subjects were paired by {by}. Where subjects were not recorded "
        "together this is an assumption, and no more than the condition is shared by a pair.",
    ]
    m = settings["permutations"]
    if settings.get("bootstraps"):
        notes.append(
            f"Brackets are 95 % intervals from {settings['bootstraps']} bootstrap samples: "
            "subjects are drawn first, then held-out trials within subject and condition. Models "
            "stay fitted, so the variability of the training part is not in them."
        )
    if m:
        notes.append(
            f"p = (b + 1) / (m + 1) with m = {m} permutations of the labels between whole "
            "held-out trials, within subject. Over subjects the subject is the unit of inference."
        )
    else:
        notes.append("No permutation test over trials was asked for.")
    if scores["statement"]:
        notes.append(scores["statement"])
    control = scores.get("control")
    if control:
        at = control["trial"]
        notes.append(
            "Control: the latents of a stretch of the same length before the event give "
            f"{_value(at, 'own')} own and {_value(at, 'cross')} cross per trial; chance is "
            f"{scores['chance']:.2f}. Anything clearly above it would be information that was "
            "there before the event, or a leak."
        )
    elif settings.get("quick"):
        notes.append("A quick run: no stretch before the event was scored as a control.")
    else:
        notes.append(
            "There is no control before the event: in at least one subject the recording holds no "
            "spikes in the stretch of the same length before it, and silence is not a control."
        )
    return notes


def _figures_of_battery(
    table: pd.DataFrame, found: dict[str, xr.Dataset], by: str
) -> dict[str, dict[str, str]]:
    """Figures of what a run scored beside the separation of its own latents."""
    figures = {}
    if len(table):
        figures["comparison"] = _figure(
            lambda ax: plot_comparison(table, ax=ax),
            f"Balanced accuracy of {by} per held-out trial, by model, with 95 % intervals",
        )
    if len(table) and "imputation" in found:
        kinds = [f"bits_per_spike, {sources}" for sources in ("one other", "all others")]
        figures["bits"] = _figure(
            lambda ax: plot_comparison(table, kinds, level="", ax=ax),
            "Bits per spike above the training mean rate on held-out trials, by model, predicted "
            "from one other subject or from all others",
        )
    if "imputation" in found:
        imputation = found["imputation"]
        figures["imputation"] = _figure(
            lambda ax: plot_imputation(imputation, ax=ax),
            "Bits per spike above the training mean rate, source by target",
        )
        figures["psth"] = _figure(
            lambda ax: plot_imputation(imputation, "above_psth", ax=ax),
            f"Bits per spike above the training PSTH by {by} and time, source by target",
        )
    if "residuals" in found:
        residuals = found["residuals"]
        figures["residuals"] = _figure(
            lambda ax: plot_residuals(residuals, ax=ax),
            "Share of the variance of held-out counts that the others predict, that is the "
            "subject's own, and that is Poisson noise",
        )
    if "departure" in found:
        departure = found["departure"]
        figures["departure"] = _figure(
            lambda ax: plot_departure(departure, ax=ax),
            "Divergence of each subject's held-out latents from those of the others, mean over "
            f"{by}; dotted: of one half of its trials from the other half",
        )
    return figures


def _comparison(rows: list[dict[str, Any]], fitted: str | None) -> list[dict[str, str]]:
    """One line per model, as text."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        at = {(row["score"], row["level"]): row for row in rows if row["model"] == model}
        line = {"model": model + (" (fitted)" if model == fitted else "")}
        for key, which in (
            ("own", ("own", "trial")),
            ("cross", ("cross", "trial")),
            ("bits", ("bits_per_spike, all others", "")),
            ("psth", ("above_psth, all others", "")),
            ("coherence", ("coherence, all others", "")),
        ):
            digits = 3 if key in ("bits", "psth") else 2
            row = at.get(which)
            line[key] = "–" if row is None else _bracketed(row, "value", "low", "high", digits)
            if row is not None and row.get("p") is not None:
                line[key] += f", p = {row['p']:.3f}"
        row = at.get(("cross", "trial"), {})
        line["difference"] = "–"
        if row.get("difference") is not None:
            # The table has each model minus the fitted one; here it is the other way round.
            turned = {
                "value": -row["difference"],
                "low": None if row["difference_high"] is None else -row["difference_high"],
                "high": None if row["difference_low"] is None else -row["difference_low"],
            }
            line["difference"] = _bracketed(turned, "value", "low", "high", 2, sign="+")
        lines.append(line)
    return lines


def _bracketed(
    row: dict[str, Any], value: str, low: str, high: str, digits: int, sign: str = ""
) -> str:
    if row[value] is None:
        return "–"
    text = f"{row[value]:{sign}.{digits}f}"
    if row[low] is not None and row[high] is not None:
        # No line breaks inside the brackets.
        text += f" [{row[low]:{sign}.{digits}f},\N{NO-BREAK SPACE}{row[high]:{sign}.{digits}f}]"
    return text.replace("-", "−")


def _imputation(scores: xr.Dataset | None) -> list[dict[str, str]]:
    """One line per target: all others, PSTH, the difference."""
    lines: list[dict[str, str]] = []
    if scores is None:
        return lines
    for name in scores["target"].values:
        at = scores.sel(target=name)
        everyone = at.sel(source="all others")
        line = {"target": str(name), "real": f"{float(at['coherence_real']):.2f}"}
        for key, data, digits in (
            ("bits_per_spike", everyone, 3),
            ("bits_per_spike_psth", at, 3),
            ("above_psth", everyone, 3),
            ("coherence", everyone, 2),
        ):
            line[key] = _from_dataset(data, key, digits)
        lines.append(line)
    return lines


def _residuals(left: xr.Dataset | None, scores: dict[str, Any]) -> list[dict[str, str]]:
    """One line per subject: shares of variance, and the condition left in the residual."""
    lines: list[dict[str, str]] = []
    if left is None:
        return lines
    for name in left["subject"].values:
        at = left.sel(subject=name)
        line = {"subject": str(name)}
        for part in ("shared", "specific", "noise"):
            line[part] = _from_dataset(at.sel(part=part), "share", 2)
        of_trials = at.sel(level="trial")
        line["activity"] = f"{float(of_trials['information_activity']):.2f}"
        line["residual"] = f"{float(of_trials['information_residual']):.2f}"
        line["p"] = "–"
        if "p_information_residual" in of_trials:
            line["p"] = f"{float(of_trials['p_information_residual']):.3f}"
        lines.append(line)
    return lines


def _from_dataset(data: xr.Dataset, name: str, digits: int) -> str:
    bounds = data.get(f"{name}_interval")
    low, high = (None, None) if bounds is None else bounds.values.tolist()
    row = {"value": float(data[name]), "low": low, "high": high}
    return _bracketed(row, "value", "low", "high", digits)


def _value(level: dict[str, Any], kind: str) -> str:
    """Mean accuracy with interval and p, as text."""
    low, high = level.get(f"mean_{kind}_interval") or (None, None)
    row = {"value": level[f"mean_{kind}"], "low": low, "high": high}
    text = _bracketed(row, "value", "low", "high", 2)
    p = level.get(f"p_mean_{kind}")
    return text if p is None else f"{text} (p = {p:.3f})"


_OBJECTIVES = {
    "mmvm": "Sutter et al. 2024",
    "mmvae_plus": "Palumbo et al. 2023",
    "mopoe": "Sutter et al. 2021",
    "moe": "Shi et al. 2019",
    "poe": "Wu & Goodman 2018",
    "avg": "Hosoya 2018",
}
_REFERENCES = {
    "Sutter et al. 2024": (
        "Sutter TM, Meng Y, Agostini A, et al. (2024) Unity by diversity: improved "
        "representation learning in multimodal VAEs. NeurIPS 37."
    ),
    "Palumbo et al. 2023": (
        "Palumbo E, Daunhawer I, Vogt JE (2023) MMVAE+: enhancing the generative quality of"
        " multimodal VAEs without compromises. ICLR."
    ),
    "Sutter et al. 2021": (
        "Sutter TM, Daunhawer I, Vogt JE (2021) Generalized multimodal ELBO. ICLR."
    ),
    "Shi et al. 2019": (
        "Shi Y, Siddharth N, Paige B, Torr PHS (2019) Variational mixture-of-experts "
        "autoencoders for multi-modal deep generative models. NeurIPS 32."
    ),
    "Wu & Goodman 2018": (
        "Wu M, Goodman N (2018) Multimodal generative models for scalable weakly-supervised"
        " learning. NeurIPS 31."
    ),
    "Hosoya 2018": (
        "Hosoya H (2018) A simple probabilistic deep generative model for learning "
        "generalizable disentangled representations from grouped data. arXiv:1809.02383."
    ),
    "Phipson & Smyth 2010": (
        "Phipson B, Smyth GK (2010) Permutation P-values should never be zero. Stat Appl "
        "Genet Mol Biol 9:39."
    ),
    "Gower 1975": ("Gower JC (1975) Generalized Procrustes analysis. Psychometrika 40:33-51."),
    "Kettenring 1971": (
        "Kettenring JR (1971) Canonical analysis of several sets of variables. Biometrika "
        "58:433-451."
    ),
    "Chen et al. 2015": (
        "Chen P-H, Chen J, Yeshurun Y, et al. (2015) A reduced-dimension fMRI shared "
        "response model. NeurIPS 28."
    ),
    "Neufeld et al. 2024": (
        "Neufeld A, Gao LL, Popp J, Battle A, Witten D (2024) Inference after latent "
        "variable estimation for single-cell RNA sequencing data. Biostatistics 25:270-287."
    ),
    "Hershey & Olsen 2007": (
        "Hershey JR, Olsen PA (2007) Approximating the Kullback Leibler divergence between "
        "Gaussian mixture models. ICASSP."
    ),
}


def _methods(
    scores: dict[str, Any], settings: dict[str, Any], found: dict[str, xr.Dataset]
) -> list[str]:
    """Paragraphs that a methods section can quote, with the numbers of this run."""
    by, model = scores["by"], settings.get("model", {})
    subjects = scores["subjects"]
    n_units = [data["units"] for data in subjects.values()]
    train = [sum(data["train"].values()) for data in subjects.values()]
    test = [sum(data["test"].values()) for data in subjects.values()]
    ms = {k: 1000 * settings[k] for k in ("bin_size", "width", "step") if k in settings}
    begin, end = settings["span"]
    first = (
        f"Spikes of {len(subjects)} subjects ({_range(n_units)} units) were counted"
        + (f" in bins of {ms['bin_size']:g} ms" if "bin_size" in ms else "")
        + f" from {begin:g} to {end:g} s relative to {settings.get('align', 'the event')}"
        + (f" and cut into windows of {ms['width']:g} ms" if "width" in ms else "")
        + (f" every {ms['step']:g} ms" if "step" in ms else "")
        + f". Conditions were the {len(scores['conditions'])} values of {by} "
        f"({', '.join(scores['conditions'])}). Before any other step "
        f"{settings['test_fraction']:.0%} of the trials of each condition and subject were held "
        "out "
        f"({_range(train)} training and {_range(test)} held-out trials per subject). Trials of "
        f"different subjects were paired at random within {by}."
    )
    objective = model.get("objective")
    cited = f" ({_OBJECTIVES[objective]})" if objective in _OBJECTIVES else ""
    details = [
        f"{model[key]} {words}"
        for key, words in (("latent_dim", "shared latents"), ("epochs", "epochs"))
        if key in model
    ]
    details += [f"{key} {model[key]}" for key in ("likelihood", "beta") if key in model]
    second = (
        f"One latent space was fitted with neuroshare {scores['neuroshare']}: a variational "
        "autoencoder with an encoder and a decoder for each subject"
        + (f" and the sharing rule {objective}{cited}" if objective else "")
        + (f" ({', '.join(details)})" if details else "")
        + ". Multinomial logistic regression on the posterior means of training windows was scored "
        f"on held-out trials, summing log-probabilities over a trial's windows. Balanced accuracy "
        f"was {_value(scores['trial'], 'own')} within subjects and "
        f"{_value(scores['trial'], 'cross')} with the classifier of another subject (chance "
        f"{scores['chance']:.2f})."
    )
    if settings.get("bootstraps"):
        second += " Brackets are 95 % bootstrap intervals, hierarchical over subjects and trials."
    if settings["permutations"]:
        second += (
            f" P-values are of {settings['permutations']} permutations of conditions between whole "
            "held-out trials within subject, (b + 1) / (m + 1) (Phipson & Smyth 2010)."
        )
    paragraphs = [first, second]
    if scores.get("comparison") and len(subjects) > 1:
        compared = scores["comparison"]
        reached = "; ".join(
            f"{name} {_in_words(compared[key]['cross, per trial'])}"
            for key, name in (
                ("procrustes", "Procrustes (Gower 1975)"),
                ("mcca", "MCCA (Kettenring 1971)"),
                ("srm", "SRM (Chen et al. 2015)"),
            )
            if key in compared
        )
        third = f"Linear alignments on the same split reached, across subjects: {reached}."
        if "raw counts" in compared:
            raw = compared["raw counts"]["own, per trial"]
            third += f" Logistic regression on raw counts, within subjects: {_in_words(raw)}."
        if "imputation" in found:
            imputed = found["imputation"]
            bits = imputed.sel(sources="all others")
            third += (
                " Held-out spikes predicted from all other subjects carried "
                f"{_from_dataset(bits, 'mean_bits_per_spike', 3)} bits per spike above the "
                "training mean rate (Poisson likelihood, mean over subjects), "
                f"{_from_dataset(bits, 'mean_above_psth', 3)} against the PSTH of training trials "
                f"by {by} and time."
            )
        paragraphs.append(third)
    if "residuals" in found:
        left = found["residuals"]
        shares = left["share"].mean("subject")
        parts = ", ".join(
            f"{float(shares.sel(part=part)):.0%} {part}" for part in left["part"].values
        )
        at = left["information_residual"].sel(level="trial")
        fourth = (
            "The variance of held-out window counts was parted into what the others predict, what "
            "is the subject's own, and Poisson noise, with slopes from other trials than the "
            f"covariances they multiply; mean over subjects: {parts}. What the model itself "
            "reconstructs was measured on split counts (Neufeld et al. 2024). From what counts do "
            f"outside the directions of the others' predictions, {by} was told with balanced "
            f"accuracy {float(at.min()):.2f} to {float(at.max()):.2f} per trial."
        )
        if "departure" in found:
            fourth += (
                " Departure of a subject from the group is the divergence of its held-out latents "
                "from the mixture of the others' (bound of Hershey & Olsen 2007)."
            )
        paragraphs.append(fourth)
    return paragraphs


def _references(
    scores: dict[str, Any], settings: dict[str, Any], found: dict[str, xr.Dataset]
) -> list[str]:
    """References which the methods cite."""
    text = " ".join(_methods(scores, settings, found))
    return sorted(full for short, full in _REFERENCES.items() if short in text)


def _in_words(row: dict[str, Any]) -> str:
    return _bracketed(row, "value", "low", "high", 2)


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def _figure(draw: Callable[[Axes], Axes], alt: str) -> dict[str, str]:
    """One plot as a picture to put into the page: its data URI and its description."""
    figure = Figure(figsize=(6.4, 4.6), dpi=150, layout="constrained")
    FigureCanvasSVG(figure)
    draw(figure.add_subplot())
    buffer = io.BytesIO()
    # A fixed salt and no date: the same run gives the same page.
    with mpl.rc_context({"svg.hashsalt": "neuroshare"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    code = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"src": f"data:image/svg+xml;base64,{code}", "alt": alt}
