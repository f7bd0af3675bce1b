import math

import numpy as np
import pytest
import torch
from benchmarks.images.probes import LinearProbe, frechet_distance, label_loss, metrics, summary
from scipy.linalg import sqrtm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score


def test_linear_probe_is_logistic_regression():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(300, 5, generator=generator, dtype=torch.float64)
    labels = (z @ torch.randn(5, 3, generator=generator, dtype=torch.float64)).argmax(1)
    flipped = torch.rand(300, generator=generator) < 0.2
    labels = torch.where(flipped, (labels + 1) % 3, labels)
    ridge = 1e-2
    probe = LinearProbe(z, labels, 3, ridge)
    standard = ((z - z.mean(0)) / z.std(0)).numpy()
    # Its loss is a sum over samples and its penalty a half.
    outsider = LogisticRegression(C=1 / (2 * ridge * 300), tol=1e-8, max_iter=2000)
    outsider.fit(standard, labels.numpy())
    expected = outsider.predict_proba(standard)
    np.testing.assert_allclose(probe(z).softmax(1).numpy(), expected, atol=2e-3)


def test_unknown_attributes_change_nothing():
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1.0, math.nan]] * 3 + [[0.0, math.nan]] * 3)
    assert label_loss(logits, labels) == label_loss(logits[:, :1], labels[:, :1])
    with_unknown, without = metrics(logits, labels), metrics(logits[:, :1], labels[:, :1])
    assert with_unknown["auroc_per_label"] == [without["auroc"], None]
    for name in ("accuracy", "auroc", "average_precision"):
        assert with_unknown[name] == without[name]


def test_metrics_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(50, 3, generator=generator)
    labels = torch.randint(0, 2, (50, 3), generator=generator).float()
    found = metrics(logits, labels)
    for name, outsider in (
        ("auroc", roc_auc_score),
        ("average_precision", average_precision_score),
    ):
        expected = [outsider(labels[:, k], logits[:, k]) for k in range(3)]
        assert found[f"{name}_per_label"] == pytest.approx(expected)
        assert found[name] == pytest.approx(np.mean(expected))


def test_frechet_distance_is_that_of_the_matrix_square_root():
    random = np.random.default_rng(0)
    a = random.normal(size=(200, 4)) @ random.normal(size=(4, 4))
    b = random.normal(size=(150, 4)) @ random.normal(size=(4, 4)) + 1.0
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = sqrtm(ca @ cb).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(ca + cb - 2 * root)
    found = frechet_distance(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(a)) == pytest.approx(0, abs=1e-6)


def test_coherence_leaves_out_what_is_made_of_itself():
    pair = {"accuracy": 0.2}
    scores = {
        "probe": [{"accuracy": 0.5}, {"accuracy": 0.7}],
        "coherence": [[{"accuracy": 1.0}, pair], [pair, {"accuracy": 0.8}]],
        "frechet": [[0.0, 4.0], [2.0, 1.0]],
        "joint_error": [0.1, 0.3],
        "self_error": [0.1, 0.1],
    }
    found = summary(scores, "accuracy")
    assert found["coherence"] == pytest.approx(0.2)
    assert found["self_coherence"] == pytest.approx(0.9)
    assert found["probe"] == pytest.approx(0.6)
    assert found["frechet"] == pytest.approx(3.0)
