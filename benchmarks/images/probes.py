"""What is measured on a trained model: probes, coherence, reconstruction, Fréchet distance."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot
from tqdm.auto import tqdm

from benchmarks.images.data import Dataset, Samples
from benchmarks.images.networks import Classifier
from benchmarks.images.suite import Preset
from neuroshare.vae.multimodal import MultimodalVAE

BATCH = 500


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of classes (sample,) or of attributes (sample, attribute), unknown ones out."""
    if labels.dim() == 1:
        return cross_entropy(logits, labels)
    known = ~labels.isnan()
    each = binary_cross_entropy_with_logits(
        logits, torch.where(known, labels, 0.0), reduction="none"
    )
    return torch.where(known, each, 0.0).sum() / known.sum().clamp_min(1)


def metrics(logits: Tensor, labels: Tensor) -> dict[str, float | list[float | None]]:
    """Accuracy, average precision and AUROC of logits (sample, label).

    The latter two are per label, None where the samples do not hold both answers, and in the mean.
    Unknown attributes are left out.
    """
    if labels.dim() == 1:
        truth = one_hot(labels, logits.shape[1]).double()
        right = (logits.argmax(1) == labels).double()
    else:
        truth = labels.double()
        right = ((logits > 0) == (truth == 1))[~truth.isnan()].double()
    scores, answers = logits.double().cpu().numpy(), truth.cpu().numpy()
    each: list[tuple[float | None, float | None]] = []
    for score, answer in zip(scores.T, answers.T, strict=True):
        known = ~np.isnan(answer)
        both = known.any() and answer[known].min() < answer[known].max()
        each.append(_ranking(score[known], answer[known]) if both else (None, None))
    result: dict[str, float | list[float | None]] = {"accuracy": float(right.mean())}
    for name, values in zip(("average_precision", "auroc"), zip(*each, strict=True), strict=True):
        present = [value for value in values if value is not None]
        result[f"{name}_per_label"] = list(values)
        result[name] = float(np.mean(present)) if present else math.nan
    return result


def _ranking(score: NDArray[np.float64], answer: NDArray[np.float64]) -> tuple[float, float]:
    """Average precision and AUROC of one label; samples of one score are taken at once."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)
    hits = np.append(0, np.cumsum(answer[order])[last])
    taken = np.append(0, np.flatnonzero(last) + 1)
    recall, misses = hits / hits[-1], taken - hits
    precision = float(np.sum(np.diff(recall) * hits[1:] / taken[1:]))
    return precision, float(np.trapezoid(recall, misses / misses[-1]))


class LinearProbe:
    """Logistic regression on standardised codes, by L-BFGS to convergence.

    Parameters
    ----------
    z
        Codes (sample, latent).
    labels
        (sample,) classes or (sample, attribute) of 0, 1 and NaN.
    n_labels
        Number of classes or attributes.
    ridge
        Weight of the squared coefficients, beside the mean loss over samples.
    """

    def __init__(self, z: Tensor, labels: Tensor, n_labels: int, ridge: float = 1e-3) -> None:
        self.loc, self.scale = z.mean(0), z.std(0).clamp_min(1e-6)
        z = self._standard(z)
        self.weight = z.new_zeros(z.shape[1], n_labels).requires_grad_()
        self.bias = z.new_zeros(n_labels).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [self.weight, self.bias], max_iter=200, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = label_loss(z @ self.weight + self.bias, labels)
            loss = loss + ridge * self.weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    def _standard(self, z: Tensor) -> Tensor:
        return (z - self.loc) / self.scale

    @torch.no_grad()
    def __call__(self, z: Tensor) -> Tensor:
        """Logits (sample, label)."""
        return self._standard(z) @ self.weight + self.bias


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features (sample, feature).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al. 2017), here on the features of the
    suite's own classifier, so that values of one suite only compare with each other.
    """
    a, b = first.double(), second.double()
    values, vectors = torch.linalg.eigh(a.T.cov())
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.T.cov() @ root).clamp_min(0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + a.T.cov().trace() + b.T.cov().trace()
    return float(distance - 2 * cross)


# ---------------------------------------------------------------------- classifiers


def train_classifiers(
    dataset: Dataset, preset: Preset, path: Path, progress: bool = True
) -> list[Classifier]:
    """One classifier per modality, trained on the training samples, or read back from `path`."""
    device = dataset.train.labels.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        classifiers = [
            Classifier(modality.shape, len(dataset.labels), preset.classifier).to(device)
            for modality in dataset.modalities
        ]
        bundle = nn.ModuleList(classifiers)
        if path.exists():
            bundle.load_state_dict(load_file(path, device=str(device)))
            return [classifier.eval() for classifier in classifiers]
        _train_all(classifiers, dataset.train, preset, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file(bundle.state_dict(), temporary)
    os.replace(temporary, path)
    return [classifier.eval() for classifier in classifiers]


def _train_all(
    classifiers: list[Classifier], train: Samples, preset: Preset, progress: bool
) -> None:
    parameters = [p for classifier in classifiers for p in classifier.parameters()]
    size = min(128, len(train))
    n_steps = preset.classifier_epochs * math.ceil(len(train) / size)
    optimizer = torch.optim.Adam(parameters, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=n_steps)
    bar = tqdm(total=n_steps, disable=not progress, unit="step", desc="classifiers")
    for epoch in range(preset.classifier_epochs):
        train.redraw(epoch)
        for index in torch.randperm(len(train), device=train.labels.device).split(size):
            x, _ = train.batch(index)
            labels = train.labels[index]
            with torch.autocast(labels.device.type, torch.bfloat16, preset.precision == "bf16"):
                logits = [c(part) for c, part in zip(classifiers, x, strict=True)]
            loss = torch.stack([label_loss(part.float(), labels) for part in logits]).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
    bar.close()


@torch.no_grad()
def score_classifiers(classifiers: Sequence[Classifier], samples: Samples) -> list[dict]:
    """Metrics of every classifier on real samples."""
    logits: list[list[Tensor]] = [[] for _ in classifiers]
    for index in torch.arange(len(samples), device=samples.labels.device).split(BATCH):
        for m, part in enumerate(samples.batch(index)[0]):
            logits[m].append(classifiers[m](part))
    return [metrics(torch.cat(part), samples.labels) for part in logits]


# ---------------------------------------------------------------------- a trained model


@torch.no_grad()
def codes(vae: MultimodalVAE, samples: Samples) -> Tensor:
    """Posterior means of each modality on its own, (modality, sample, latent)."""
    index = torch.arange(len(samples), device=samples.labels.device)
    return torch.cat([vae.latents(samples.batch(part)[0]) for part in index.split(BATCH)], dim=1)


def fit_probes(vae: MultimodalVAE, train: Samples, n_labels: int) -> list[LinearProbe]:
    """Linear probes of every modality's own code."""
    return [LinearProbe(z, train.labels, n_labels) for z in codes(vae, train)]


def score_probes(probes: list[LinearProbe], vae: MultimodalVAE, part: Samples) -> list[dict]:
    """Metrics of every modality's probe on other samples."""
    return [
        metrics(fitted(z), part.labels) for fitted, z in zip(probes, codes(vae, part), strict=True)
    ]


@torch.no_grad()
def generate(vae: MultimodalVAE, x: list[Tensor], source: int, target: int) -> Tensor:
    """Expected data of `target` given `source` alone, (sample, feature)."""
    observed = torch.zeros(len(x), len(x[0]), dtype=torch.bool, device=x[0].device)
    observed[source] = True
    return vae.impute(x, observed, target)


@torch.no_grad()
def generation(
    vae: MultimodalVAE, dataset: Dataset, samples: Samples, classifiers: Sequence[Classifier]
) -> dict[str, list]:
    """Coherence, error and Fréchet distance of everything generated from everything.

    Returns
    -------
    dict
        ``coherence`` [source][target], metrics of the target's classifier against the source's
        label; ``frechet`` [source][target], to the real target; ``self_error`` [modality], from the
        modality alone; ``joint_error`` [modality], as its decoder is fed given all of them.
    """
    n = len(dataset.modalities)
    logits: list[list[list[Tensor]]] = [[[] for _ in range(n)] for _ in range(n)]
    features: list[list[list[Tensor]]] = [[[] for _ in range(n)] for _ in range(n)]
    real: list[list[Tensor]] = [[] for _ in range(n)]
    self_error: list[list[Tensor]] = [[] for _ in range(n)]
    joint_error: list[list[Tensor]] = [[] for _ in range(n)]
    for index in torch.arange(len(samples), device=samples.labels.device).split(BATCH):
        x, observed = samples.batch(index)
        fed = vae.latents(x, observed)
        for target, (modality, classifier) in enumerate(
            zip(dataset.modalities, classifiers, strict=True)
        ):
            joint = vae.likelihoods[target].mean(vae.decoders[target](fed[target]))
            joint_error[target].append(modality.error(joint, x[target]))
            real[target].append(classifier.features(x[target]))
            for source in range(n):
                made = generate(vae, x, source, target)
                if source == target:
                    self_error[target].append(modality.error(made, x[target]))
                seen = classifier.features(modality.hard(made))
                features[source][target].append(seen)
                logits[source][target].append(classifier.output(seen))
    return {
        "coherence": [[metrics(torch.cat(p), samples.labels) for p in row] for row in logits],
        "frechet": [
            [frechet_distance(torch.cat(p), torch.cat(real[t])) for t, p in enumerate(row)]
            for row in features
        ],
        "self_error": [float(torch.cat(part).mean()) for part in self_error],
        "joint_error": [float(torch.cat(part).mean()) for part in joint_error],
    }


def summary(scores: dict, metric: str) -> dict[str, float]:
    """The headlines of `score_probes` and `generation`: means over modalities or pairs of them."""
    coherence = np.array([[pair[metric] for pair in row] for row in scores["coherence"]])
    frechet = np.array(scores["frechet"])
    across = ~np.eye(len(coherence), dtype=bool)
    return {
        "probe": float(np.mean([part[metric] for part in scores["probe"]])),
        "coherence": float(coherence[across].mean()),
        "self_coherence": float(coherence[~across].mean()),
        "joint_error": float(np.mean(scores["joint_error"])),
        "self_error": float(np.mean(scores["self_error"])),
        "frechet": float(frechet[across].mean()),
        "self_frechet": float(frechet[~across].mean()),
    }
