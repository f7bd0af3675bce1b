"""The linear methods against outsiders: scipy, scikit-learn, and the papers' own algorithms."""

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes, subspace_angles
from sklearn.cross_decomposition import CCA

from neuroshare.models.alignment import (
    covariances,
    mcca,
    meetings_of,
    procrustes,
    srm,
)
from neuroshare.models.linear_start import Moments, Weighting, aligned_maps

N_CELLS = 400


def data(n_subjects, seed=0, noise=0.7, k=3):
    """Scores (trial, 1, feature) of subjects that share `k` latents, trial by trial."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(N_CELLS, k)) * np.arange(k, 0, -1)
    scores = {}
    for m in range(n_subjects):
        x = shared @ rng.normal(size=(k, 6 + m)) + noise * rng.normal(size=(N_CELLS, 6 + m))
        scores[f"s{m}"] = (x - x.mean(0))[:, None, :]
    return scores


def one_to_one(scores):
    """Trial i of everybody meets trial i of the others."""
    table = np.tile(np.arange(N_CELLS)[:, None], (1, len(scores)))
    used = dict.fromkeys(scores, np.arange(N_CELLS))
    return covariances(scores, meetings_of([table], list(scores), used))


def flat(scores):
    return {name: score[:, 0] for name, score in scores.items()}


def test_covariances_are_numpys():
    scores = data(3)
    found = one_to_one(scores)
    x = flat(scores)
    names = list(x)
    expected = np.cov(np.concatenate([x[n] for n in names], axis=1).T, bias=True)
    together = np.block([[found[a, b] for b in names] for a in names])
    np.testing.assert_allclose(together, expected, atol=1e-10)


@pytest.mark.parametrize("noise", [0.7, 2.0])
def test_mcca_of_two_subjects_without_ridge_is_cca(noise):
    scores = data(2, noise=noise)
    maps = mcca(one_to_one(scores), 3, ridge=0.0)
    x = flat(scores)
    ours = [x[name] @ maps[name] for name in x]
    theirs = CCA(3, scale=False, max_iter=10_000, tol=1e-12).fit_transform(x["s0"], x["s1"])
    for z, expected in zip(ours, theirs, strict=True):
        correlation = np.corrcoef(z.T, expected.T)[:3, 3:]
        np.testing.assert_allclose(abs(correlation), np.eye(3), atol=1e-4)


def test_mcca_of_two_subjects_without_ridge_has_the_canonical_correlations():
    """Of whitened data they are the singular values of the cross-covariance (Hotelling 1936)."""
    scores = data(2)
    x = flat(scores)
    maps = mcca(one_to_one(scores), 6, ridge=0.0)
    found = [
        np.corrcoef(x["s0"] @ maps["s0"][:, i], x["s1"] @ maps["s1"][:, i])[0, 1] for i in range(6)
    ]
    bases = [np.linalg.svd(part, full_matrices=False)[0] for part in x.values()]
    expected = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_mcca_of_many_subjects_solves_kettenrings_problem():
    """Its directions are stationary: cross-covariance with all others, per own covariance."""
    scores = data(4)
    covariance = one_to_one(scores)
    ridge = 0.3
    maps = mcca(covariance, 3, ridge)
    ratios = []
    for name, w in maps.items():
        own = covariance[name, name]
        own = own + ridge * np.trace(own) / len(own) * np.eye(len(own))
        others = sum(covariance[name, other] @ maps[other] for other in maps if other != name)
        projected = own @ w
        ratio = np.einsum("fk,fk->k", projected, others) / np.square(projected).sum(0)
        np.testing.assert_allclose(others, projected * ratio, rtol=1e-4, atol=1e-6)
        ratios.append(ratio)
    np.testing.assert_allclose(ratios, np.tile(ratios[0], (4, 1)), rtol=1e-4)
    assert (np.diff(ratios[0]) < 0).all(), "the largest first"


def moments(means, n_units):
    """What a start needs, of (condition, start, unit) means and unrelated noise."""
    rng = np.random.default_rng(n_units)
    noise = rng.normal(size=(300, n_units))
    cells = means.reshape(-1, n_units)
    windows = cells.T @ cells / len(cells) + noise.T @ noise / 300
    return Moments(
        n_trials=300,
        seen=np.ones(len(means), bool),
        loc=np.zeros(n_units),
        variance=np.diag(windows),
        means=means,
        windows=windows,
        trials=windows,
        covariance=windows,
        rate=np.ones(n_units),
        counts=means,
    )


@pytest.mark.parametrize("most", [0, 10**6])
def test_the_start_of_a_model_is_mcca_of_condition_means(monkeypatch, most):
    """Both with all products made and without."""
    monkeypatch.setattr("neuroshare.models.linear_start._MANY", most)
    means = {n: x.reshape(20, 20, -1) for n, x in flat(data(4)).items()}
    means = {n: x - x.mean(0) for n, x in means.items()}
    cells = {n: x.reshape(N_CELLS, -1) for n, x in means.items()}
    found = {n: moments(x, x.shape[2]) for n, x in means.items()}
    covariance = {(a, b): cells[a].T @ cells[b] / N_CELLS for a in cells for b in cells}
    expected = mcca({**covariance, **{(n, n): found[n].windows for n in found}}, 3, 0.5)
    for name, maps in aligned_maps(found, Weighting(0.5, 0.0, 0.0), 3).items():
        # Latents are given unit variance of their own.
        ratio = maps / expected[name]
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:1], ratio.shape), rtol=1e-5)


def test_procrustes_of_two_subjects_is_scipys():
    """Rotations onto the mean of two differ from each other by scipy's rotation between them."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(N_CELLS, 4)) * [4, 3, 2, 1]
    turned, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    x = {"a": base, "b": base @ turned + 0.3 * rng.normal(size=(N_CELLS, 4))}
    conditions = dict.fromkeys(x, np.arange(N_CELLS))
    maps = procrustes({n: v[:, None, :] for n, v in x.items()}, conditions, N_CELLS, 4)
    for rotation in maps.values():
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(4), atol=1e-9)
    expected, _ = orthogonal_procrustes(x["b"], x["a"])
    np.testing.assert_allclose(maps["b"] @ maps["a"].T, expected, atol=1e-5)


def test_procrustes_of_many_subjects_is_gowers_alternation():
    """Plain alternation from another start: the same agreement, and each the best for the mean."""
    scores = {name: score[:, :, :5] for name, score in data(4, noise=0.3).items()}
    conditions = dict.fromkeys(scores, np.arange(N_CELLS))
    maps = procrustes(scores, conditions, N_CELLS, 5)
    x = flat(scores)
    mean = np.mean([x[n] @ maps[n] for n in x], axis=0)
    for name, rotation in maps.items():
        expected, _ = orthogonal_procrustes(x[name], mean)
        np.testing.assert_allclose(rotation, expected, atol=1e-4)

    def spread(rotations):
        images = np.stack([x[n] @ rotations[n] for n in x])
        return np.square(images - images.mean(0)).sum()

    other = {name: np.eye(5) for name in x}
    for _ in range(500):
        middle = np.mean([x[n] @ other[n] for n in x], axis=0)
        other = {n: orthogonal_procrustes(x[n], middle)[0] for n in x}
    assert spread(maps) <= spread(other) * (1 + 1e-6)


def plain_srm(x, k, n_iterations=500, seed=0):
    """Chen et al. 2015: shared response and orthonormal maps by turns."""
    rng = np.random.default_rng(seed)
    maps = {n: np.linalg.qr(rng.normal(size=(part.shape[1], k)))[0] for n, part in x.items()}
    for _ in range(n_iterations):
        response = np.mean([x[n] @ maps[n] for n in x], axis=0)
        for name, part in x.items():
            u, _, vt = np.linalg.svd(part.T @ response, full_matrices=False)
            maps[name] = u @ vt
    return maps


def test_srm_is_the_alternation_of_its_paper():
    scores = data(3, noise=0.5)
    x = flat(scores)
    found = srm(one_to_one(scores), 3)
    for w in found.values():
        np.testing.assert_allclose(w.T @ w, np.eye(3), atol=1e-9)

    def error(maps):
        response = np.mean([x[n] @ maps[n] for n in x], axis=0)
        return sum(np.square(x[n] - response @ maps[n].T).sum() for n in x)

    expected = plain_srm(x, 3)
    assert error(found) == pytest.approx(error(expected), rel=1e-4)
    responses = [np.mean([x[n] @ m[n] for n in x], axis=0) for m in (found, expected)]
    assert np.max(subspace_angles(*responses)) < 0.02
