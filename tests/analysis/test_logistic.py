"""The classifier of latents against scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from neuroshare.analysis import logistic as module
from neuroshare.analysis.logistic import logistic, logistic_without


def windows(seed, n=300, n_classes=3, signal=1.0, n_features=4):
    rng = np.random.default_rng([seed, n_classes])
    y = rng.choice(n_classes, n, p=np.arange(1, n_classes + 1) / np.arange(1, n_classes + 1).sum())
    y[:n_classes] = np.arange(n_classes)
    centres = np.random.default_rng(n_classes).normal(size=(n_classes, n_features))
    z = rng.normal(size=(n, n_features)) + signal * centres[y]
    return z * 10.0 ** np.arange(n_features) + 5, y


def probabilities(fit, z):
    evidence = z @ fit.weights + fit.bias
    p = np.exp(evidence - evidence.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def outsider(parts, C):
    z, y = (np.concatenate(values) for values in zip(*parts, strict=True))
    scaler = StandardScaler().fit(z)
    model = LogisticRegression(C=C, class_weight="balanced", tol=1e-9, max_iter=20000)
    model.fit(scaler.transform(z), y)
    return lambda z: model.predict_proba(scaler.transform(z))


@pytest.mark.parametrize("C", [1e-4, 1.0, 100.0])
@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("signal", [0.0, 1.0, 5.0])
def test_probabilities_are_those_of_scikit_learn(n_classes, signal, C):
    part = windows(0, n_classes=n_classes, signal=signal)
    fit = logistic([part], n_classes, C)
    np.testing.assert_allclose(probabilities(fit, part[0]), outsider([part], C)(part[0]), atol=2e-3)


@pytest.mark.parametrize("n_classes", [2, 5])
def test_leaving_out_is_a_fit_of_the_others(n_classes):
    parts = [windows(k, n_classes=n_classes, n=200 + 100 * k) for k in range(4)]
    fits = logistic_without(parts, ["a", "b", "a", "c"], n_classes, 1.0)
    for own, others in zip(fits, ([1, 3], [0, 2, 3], [1, 3], [0, 1, 2]), strict=True):
        expected = outsider([parts[k] for k in others], 1.0)
        z = parts[0][0]
        np.testing.assert_allclose(probabilities(own, z), expected(z), atol=2e-3)


def test_leaving_out_with_too_many_weights_for_their_curvature():
    rng = np.random.default_rng(0)
    y = np.arange(900) % 7
    parts = [(rng.normal(size=(900, 100)) + 0.2 * rng.normal(size=(7, 100))[y], y)] * 2
    parts.append((rng.normal(size=(900, 100)), y))
    assert module._Windows(parts, 7, 0.01).bends(np.zeros((101, 7))) is None
    fits = logistic_without(parts, ["a", "b", "c"], 7, 0.01)
    z = parts[2][0]
    for own, others in zip(fits, ([1, 2], [0, 2], [0, 1]), strict=True):
        expected = outsider([parts[k] for k in others], 0.01)(z)
        np.testing.assert_allclose(probabilities(own, z), expected, atol=2e-3)


def test_a_class_that_is_not_among_every_fourth_window():
    z, y = windows(0, n=800, n_classes=3)
    y[y == 2] = 0
    y[1::4][:3] = 2
    assert module._Windows([(z, y)], 3, 1.0).thinned is None
    np.testing.assert_allclose(
        probabilities(logistic([(z, y)], 3, 1.0), z), outsider([(z, y)], 1.0)(z), atol=2e-3
    )


def test_many_windows_are_seldom_looked_at(monkeypatch):
    looks = []

    def counted(loss, v, pairs, near, enough):
        if enough > module._ENOUGH:
            return minimum(loss, v, pairs, near, enough)
        looks.append(0)

        def looked(v):
            looks[-1] += 1
            return loss(v)

        return minimum(looked, v, pairs, near, enough)

    minimum = module._minimum
    monkeypatch.setattr(module, "_minimum", counted)
    parts = [windows(k, n=2000, n_classes=6, signal=0.5) for k in range(5)]
    logistic(parts[:1], 6, 1.0)
    logistic_without(parts, range(5), 6, 1.0)
    assert looks[0] <= 6
    assert max(looks[1:]) <= 4


def test_features_that_do_not_vary_or_say_the_same_do_no_harm():
    z, y = windows(0)
    z = np.column_stack([z, np.full(len(z), 3.7), z[:, 0] * 2, np.zeros(len(z))])
    np.testing.assert_allclose(
        probabilities(logistic([(z, y)], 3, 1.0), z), outsider([(z, y)], 1.0)(z), atol=2e-3
    )


def test_more_features_than_windows():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(40, 120)), np.arange(40) % 3
    np.testing.assert_allclose(
        probabilities(logistic([(z, y)], 3, 0.01), z), outsider([(z, y)], 0.01)(z), atol=2e-3
    )


@pytest.mark.parametrize("seed", range(3))
def test_where_single_precision_ends_the_search_goes_on(seed, monkeypatch):
    n_looks = []

    def counted(loss, v, *how):
        def looked(v):
            n_looks.append(v)
            return loss(v)

        return minimum(looked, v, *how)

    minimum = module._minimum
    monkeypatch.setattr(module, "_minimum", counted)
    # Classes apart, of which the loss is a small difference of large terms.
    rng = np.random.default_rng(seed)
    z, y = rng.normal(size=(900, 300)), np.arange(900) % 3
    part = z + 0.1 * rng.normal(size=(3, 300))[y], y
    fit = logistic([part], 3, 1.0)
    np.testing.assert_allclose(
        probabilities(fit, part[0]), outsider([part], 1.0)(part[0]), atol=2e-3
    )
    assert len(n_looks) < 120
