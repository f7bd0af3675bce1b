import numpy as np
import pytest
import xarray as xr

from neuroshare.analysis.separation import separation


def make_latents(
    first=0, n_trials=30, n_times=4, signal=2.0, subjects=("a", "b", "c"), dim=3, seed=0, noise=1.0
):
    """Latents whose first dimension tells the odor; every trial of a subject occurs once."""
    rng = np.random.default_rng([seed, first])
    odor = np.tile(np.array(["A", "B", "C"]), n_trials // 3)
    place = {"A": [signal, 0], "B": [0, signal], "C": [-signal, -signal]}
    z = noise * rng.normal(size=(len(subjects), n_trials, 1, dim)).repeat(n_times, axis=2)
    z += 0.3 * rng.normal(size=z.shape)
    z[..., :2] += np.array([place[o] for o in odor])[:, None]
    trial = np.tile(np.repeat(first + np.arange(n_trials), n_times), (len(subjects), 1))
    return xr.DataArray(
        z.reshape(len(subjects), -1, dim),
        dims=("subject", "window", "latent"),
        coords={
            "subject": list(subjects),
            "odor": ("window", np.repeat(odor, n_times)),
            "time": ("window", np.tile(np.arange(n_times) * 0.1, n_trials)),
            "trial": (("subject", "window"), trial),
        },
        attrs={"by": "odor"},
    )


def test_shared_information_is_found_within_and_across_subjects():
    scores = separation(make_latents(), make_latents(first=100), n_permutations=99)
    assert (scores.own > 0.8).all()
    assert (scores.mean_cross > 0.8).all()
    assert scores.chance == pytest.approx(1 / 3)
    np.testing.assert_allclose(scores.p_mean_cross, 1 / 100)
    assert np.isnan(scores.cross.sel(level="trial", source="a", target="a"))
    assert np.isnan(scores.p_cross.sel(level="trial", source="a", target="a"))
    assert "1/8" in scores.statement
    assert "1/100" in scores.statement


def test_latents_without_information_are_at_chance():
    values = [
        separation(
            make_latents(signal=0, seed=s, n_trials=60), make_latents(first=100, signal=0, seed=s)
        ).mean_cross.sel(level="window")
        for s in range(20)
    ]
    standard_error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - 1 / 3) < 4 * standard_error


def test_p_without_information_is_uniform():
    # Overlapping windows of whole trials: a null that permuted windows would fail here.
    p = [
        separation(
            make_latents(signal=0, seed=s, subjects=("a", "b")),
            make_latents(first=100, signal=0, seed=s, subjects=("a", "b")),
            n_permutations=59,
        ).p_mean_cross.sel(level="window")
        for s in range(60)
    ]
    assert 0.3 < np.mean(p) < 0.7  # 4 standard errors of a uniform mean are 0.15
    assert np.mean(np.array(p) <= 0.05) < 0.17


def test_private_information_does_not_cross():
    train, test = make_latents(), make_latents(first=100)
    for part in (train, test):
        part[1] = part[1].values[:, [2, 2, 0]] * np.array([1, 1, -1])
    scores = separation(train, test).sel(level="trial")
    assert scores.own.sel(subject="b") > 0.6
    assert scores.cross.sel(source="a", target="b") < 0.6


def test_permuting_subjects_permutes_scores():
    train, test = make_latents(signal=1), make_latents(first=100, signal=1)
    order = ["c", "a", "b"]
    one = separation(train, test)
    two = separation(train.sel(subject=order), test.sel(subject=order))
    for name in ("own", "cross", "confusion", "time_course", "silhouette"):
        at = {d: order for d in one[name].dims if d in ("subject", "source", "target")}
        np.testing.assert_allclose(two[name], one[name].sel(at))


def test_duplicated_windows_count_once():
    train, test = make_latents(signal=1), make_latents(first=100, signal=1)
    again = xr.concat(
        [test, test.isel(window=slice(0, 40)), test.isel(window=slice(0, 8))], "window"
    )
    one, two = separation(train, test), separation(train, again)
    xr.testing.assert_allclose(one, two)


def test_time_course_and_accuracy_agree():
    scores = separation(make_latents(signal=1), make_latents(first=100, signal=1))
    diagonal = [scores.time_course.sel(source=s, target=s).mean("time").item() for s in "abc"]
    np.testing.assert_allclose(diagonal, scores.own.sel(level="window"))
    assert scores.confusion.sum(("condition", "predicted")).values.tolist() == [[30] * 3] * 3


def test_absent_subjects_leave_their_windows_out():
    train, test = make_latents(), make_latents(first=100)
    gone = test.copy()
    gone[0, :40] = np.nan
    gone.coords["trial"][0, :40] = -1
    scores = separation(train, gone)
    kept = separation(
        train.sel(subject=["a"]), test.sel(subject=["a"]).isel(window=slice(40, None))
    )
    np.testing.assert_allclose(scores.own.sel(subject="a"), kept.own.sel(subject="a"))
    assert scores.confusion.sel(source="b", target="a").sum() == 20


def test_infinite_latents_are_refused():
    train, test = make_latents(), make_latents(first=100)
    with pytest.raises(ValueError, match=r"subject 'a': expected finite latents.*learning rate"):
        separation(train, test + np.where(test.subject == "a", np.inf, 0.0)[:, None, None])


def test_a_trial_in_both_parts_is_refused():
    windows = make_latents()
    even = windows.isel(window=slice(0, None, 2))
    odd = windows.isel(window=slice(1, None, 2))
    with pytest.raises(ValueError, match=r"trials .* of subject 'a' are in both parts"):
        separation(even, odd)


def test_unseen_conditions_and_other_subjects_are_refused():
    train, test = make_latents(), make_latents(first=100)
    with pytest.raises(ValueError, match=r"held-out odor \['C'\] unseen"):
        separation(train.isel(window=train.odor != "C"), test)
    with pytest.raises(ValueError, match="expected held-out latents of"):
        separation(train, test.sel(subject=["a", "b"]))
    with pytest.raises(ValueError, match="missing"):
        separation(train.drop_vars("time"), test)
    with pytest.raises(ValueError, match="give by="):
        separation(train.assign_attrs(by=None), test)


def test_intervals_hold_the_scores():
    scores = separation(make_latents(signal=1), make_latents(100, signal=1), n_bootstraps=200)
    for name in ("own", "cross", "mean_own", "mean_cross"):
        low, high = scores[f"{name}_interval"].values
        value = scores[name].values
        known = ~np.isnan(value)
        assert (low[known] <= value[known]).all()
        assert (value[known] <= high[known]).all()
        assert (low[known] < high[known]).all()
    width = np.diff(scores.mean_cross_interval, axis=0)
    assert (width < 0.5).all()


def test_one_subject_has_no_cross_accuracy():
    train, test = make_latents(subjects=["a"]), make_latents(100, subjects=["a"])
    scores = separation(train, test, n_permutations=9, n_bootstraps=9)
    assert (scores.own > 0.8).all()
    assert np.isnan(scores.mean_cross).all()
    assert np.isnan(scores.p_mean_cross).all()


def test_bootstrap_samples_of_two_models_are_paired():
    train, test = make_latents(signal=1), make_latents(first=100, signal=1)
    one = separation(train, test, n_bootstraps=60)
    two = separation(train, test, n_bootstraps=60, n_permutations=19)
    np.testing.assert_array_equal(one.sample_mean_cross, two.sample_mean_cross)
    worse = test + np.random.default_rng(0).normal(size=test.shape)
    other = separation(train, worse.assign_attrs(by="odor"), n_bootstraps=60)
    together = (one.sample_mean_own - other.sample_mean_own).std("sample")
    apart = np.sqrt(one.sample_mean_own.var("sample") + other.sample_mean_own.var("sample"))
    assert (together < apart).all()


def test_a_certain_classifier_has_finite_log_probabilities():
    scores = separation(make_latents(signal=300), make_latents(first=100, signal=300))
    np.testing.assert_allclose(scores.own, 1)
    two = [part.isel(window=part.odor.isin(["A", "B"]).values) for part in
           (make_latents(), make_latents(first=100))]  # fmt: skip
    assert (separation(*two).own > 0.8).all()
