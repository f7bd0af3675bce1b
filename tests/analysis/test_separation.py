import json
import warnings
from dataclasses import asdict

import numpy as np
import pytest
import xarray as xr
from sklearn.metrics import balanced_accuracy_score, silhouette_score

from neuroshare.analysis.classification import Classifier, Windows
from neuroshare.analysis.inference import known_mean, sign_flip
from neuroshare.analysis.separation import _silhouette, separation
from neuroshare.windows.order import label_order


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
    scores = separation(make_latents(signal=1), make_latents(100, signal=1))
    names = ("own", "cross", "pooled")
    for name in (*names, *(f"mean_{name}" for name in names)):
        low, high = scores[f"{name}_interval"].values
        value = scores[name].values
        known = ~np.isnan(value)
        assert known.any()
        assert (low[known] <= value[known]).all()
        assert (value[known] <= high[known]).all()
        assert (low[known] < high[known]).all()
    more = separation(*(make_latents(first, signal=1, subjects="abcdefgh") for first in (0, 100)))
    for name in ("mean_own", "mean_cross"):
        few, many = (np.diff(one[f"{name}_interval"], axis=0) for one in (scores, more))
        assert (many < 0.6 * few).all()


def test_perfect_scores_of_few_trials_have_an_interval_with_a_width():
    few = make_latents(first=100, n_trials=3, signal=30)
    scores = separation(make_latents(signal=30), few).sel(level="trial")
    np.testing.assert_allclose(scores.own, 1)
    low, high = scores.own_interval.values
    assert (low < 0.5).all()
    np.testing.assert_allclose(high, 1)
    assert scores.mean_cross_interval.sel(bound="low") < 0.95


def test_two_animals_have_no_interval_of_the_mean_and_are_told_why():
    two = separation(*(make_latents(first, subjects="ab") for first in (0, 100)))
    assert np.isnan(two.mean_own_interval).all()
    assert np.isnan(two.mean_cross_interval).all()
    assert "2 animals do not tell" in json.loads(two.warnings)[0]
    three = separation(make_latents(), make_latents(first=100))
    assert json.loads(three.warnings) == []


def test_one_subject_has_no_cross_accuracy():
    train, test = make_latents(subjects=["a"]), make_latents(100, subjects=["a"])
    scores = separation(train, test, n_permutations=9, n_bootstraps=9)
    assert (scores.own > 0.8).all()
    assert "pooled" not in scores
    assert np.isnan(scores.mean_cross).all()
    assert np.isnan(scores.p_mean_cross).all()


def test_bootstrap_samples_of_two_models_are_paired():
    train, test = make_latents(signal=1), make_latents(first=100, signal=1)
    one = separation(train, test, n_bootstraps=60)
    two = separation(train, test, n_bootstraps=60, n_permutations=19)
    np.testing.assert_array_equal(one.sample_cross, two.sample_cross)
    worse = test + np.random.default_rng(0).normal(size=test.shape)
    other = separation(train, worse.assign_attrs(by="odor"), n_bootstraps=60)
    together = (one.sample_own - other.sample_own).std("sample")
    apart = np.sqrt(one.sample_own.var("sample") + other.sample_own.var("sample"))
    assert (together.mean("subject") < apart.mean("subject")).all()


def test_a_certain_classifier_has_finite_log_probabilities():
    scores = separation(make_latents(signal=300), make_latents(first=100, signal=300))
    np.testing.assert_allclose(scores.own, 1)
    two = [part.isel(window=part.odor.isin(["A", "B"]).values) for part in
           (make_latents(), make_latents(first=100))]  # fmt: skip
    assert (separation(*two).own > 0.8).all()


def relabelled(latents, labels, name="odor"):
    """Latents whose trials, in order, have these labels; the signal stays where it was."""
    n_times = latents.sizes["window"] // len(labels)
    return latents.assign_coords({name: ("window", np.repeat(labels, n_times))})


# ------------------------------------------------------------------ chance


def make_lacking(seed=0, signal=0.0):
    """Subject b never saw C; trials of it are absent."""
    parts = [make_latents(first, n_trials=60, signal=signal, seed=seed) for first in (0, 100)]
    for part in parts:
        part[1, (part.odor == "C").values] = np.nan
    return parts


def test_chance_is_that_of_each_pair():
    scores = separation(*make_lacking())
    assert scores.chance_own.values.tolist() == [1 / 3, 1 / 2, 1 / 3]
    assert scores.chance == pytest.approx(7 / 18)
    expected = [[np.nan, 1 / 2, 1 / 3], [1 / 2, np.nan, 1 / 2], [1 / 3, 1 / 2, np.nan]]
    np.testing.assert_allclose(scores.chance_cross, expected)
    np.testing.assert_allclose(scores.chance_pooled, [1 / 3, 1 / 2, 1 / 3])


def test_without_information_every_pair_is_at_its_own_chance():
    found = [separation(*make_lacking(seed)).sel(level="trial") for seed in range(30)]
    for score in ("own", "cross", "pooled"):
        values = xr.concat([one[score] - one[f"chance_{score}"] for one in found], "seed")
        error = values.std("seed") / np.sqrt(len(found))
        assert (abs(values.mean("seed")) < 4 * error).where(error > 0, True).all()


def test_a_classifier_answers_only_what_the_target_was_shown():
    scores = separation(*make_lacking(signal=2.0))
    assert scores.confusion.sel(target="b", predicted="C").sum() == 0
    assert scores.confusion.sel(source="b", predicted="C").sum() == 0


def test_sign_flips_are_about_the_chance_of_each_pair():
    scores = separation(*make_lacking(seed=3)).sel(level="trial")
    own = scores.own - scores.chance_own
    assert scores.p_sign_flip_own == sign_flip(own)[0]
    cross = (scores.cross - scores.chance_cross).mean("source")
    assert scores.p_sign_flip_cross == sign_flip(cross)[0]


def test_a_pair_with_one_common_condition_has_no_score():
    train, test = make_latents(), make_latents(first=100)
    for part in (train, test):
        part[0, (part.odor == "C").values] = np.nan
        part[1, (part.odor == "A").values] = np.nan
    scores = separation(train, test, n_permutations=9, n_bootstraps=9).sel(level="trial")
    for name in ("cross", "chance_cross", "p_cross"):
        assert np.isnan(scores[name].sel(source="a", target="b"))
    assert np.isnan(scores.cross_interval.sel(source="a", target="b")).all()
    assert np.isfinite(scores.mean_cross)
    assert np.isfinite(scores.p_mean_cross)


# ------------------------------------------------------------------ pooled


def test_pooled_is_one_classifier_of_all_others():
    train, test = make_latents(signal=1), make_latents(first=100, signal=1)
    scores = separation(train, test).sel(level="window")
    for index, target in enumerate("abc"):
        others = [k for k in range(3) if k != index]
        z = np.concatenate([train.values[k] for k in others])
        fitted = Classifier().fit(z, np.tile(train.odor.values, 2))
        expected = balanced_accuracy_score(test.odor.values, fitted.predict(test.values[index]))
        assert scores.pooled.sel(target=target) == pytest.approx(expected)
    assert scores.mean_pooled == pytest.approx(scores.pooled.mean())
    assert "pooled" not in separation(train, test, pooled=False)


def test_pooled_of_two_subjects_is_cross():
    scores = separation(*(make_latents(first, subjects="ab", signal=1) for first in (0, 100)))
    np.testing.assert_allclose(
        scores.pooled.sel(target="a"), scores.cross.sel(source="b", target="a")
    )


def test_more_labellings_than_a_float_counts_are_no_fault():
    # 90! / (30!)^3 of each animal, together beyond 1e308.
    train, test = (
        make_latents(first, n_trials=90, n_times=1, subjects="abcdefghi") for first in (0, 500)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = separation(train, test, n_permutations=9, pooled=False)
    assert np.isfinite(scores.n_labellings).all()
    assert np.log10(scores.n_labellings.values).sum() > 308
    assert scores.p_mean_own.sel(level="trial") == pytest.approx(0.1)


# ------------------------------------------------------------------ animals and sessions


DAYS = {"a": "one", "b": "two", "c": "one", "d": "two", "e": "two"}


def test_sessions_of_an_animal_are_one_unit():
    train, test = (make_latents(k, subjects="abcde", signal=1) for k in (0, 100))
    plain = separation(train, test, n_permutations=99).sel(level="trial")
    scores = separation(train, test, n_permutations=99, animal=DAYS).sel(level="trial")
    np.testing.assert_array_equal(scores.own, plain.own)
    np.testing.assert_array_equal(scores.p_own, plain.p_own)
    of_animal = {x: [s for s in DAYS if DAYS[s] == x] for x in ("one", "two")}
    own = [float(scores.own.sel(subject=of_animal[x]).mean()) for x in of_animal]
    assert scores.mean_own == pytest.approx(np.mean(own))
    between = [
        np.mean([scores.cross.sel(source=s, target=t) for s in of_animal[x] for t in of_animal[y]])
        for x, y in (("one", "two"), ("two", "one"))
    ]
    assert scores.mean_cross == pytest.approx(np.mean(between))
    for animal, days in of_animal.items():
        within = [scores.cross.sel(source=s, target=t) for s in days for t in days if s != t]
        assert scores.cross_within.sel(animal=animal) == pytest.approx(np.mean(within))
    assert scores.mean_cross_within == pytest.approx(scores.cross_within.mean())
    assert scores.p_sign_flip_own >= 1 / 4
    assert "With 2 animals (5 sessions)" in scores.statement
    assert "1/4" in scores.statement
    assert np.isnan(scores.mean_own_interval).all()


def test_chance_of_a_mean_is_of_the_same_pairs_of_animals():
    train, test = (make_latents(k, subjects="abc", signal=1) for k in (0, 100))
    kinds = sorted(set(train.odor.values.tolist()))
    # Two sessions of one animal lack the last condition: only pairs within it have fewer.
    train, test = (
        part.where(
            (part.odor.isin(kinds[:-1]) | ~part.subject.isin(["a", "b"])).transpose(
                "subject", "window"
            )
        )
        for part in (train, test)
    )
    days = {"a": "one", "b": "one", "c": "two"}
    scores = separation(train, test, animal=days, pooled=False)
    n = len(kinds)
    within = [1 / (n - 1), 1 / (n - 1), 1 / n]
    np.testing.assert_allclose(scores.chance_own, within)
    assert scores.chance_mean_own == pytest.approx((1 / (n - 1) + 1 / n) / 2)
    between = known_mean(
        np.where(np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]]), scores.chance_cross.values, np.nan)
    )
    assert scores.chance_mean_cross == pytest.approx(between)


def test_pooled_leaves_all_sessions_of_the_animal_out():
    train, test = (make_latents(k, subjects="abcde", signal=1) for k in (0, 100))
    scores = separation(train, test, animal=DAYS).sel(level="window")
    fitted = Classifier().fit(
        np.concatenate([train.sel(subject=s).values for s in "bde"]), np.tile(train.odor.values, 3)
    )
    expected = balanced_accuracy_score(test.odor.values, fitted.predict(test.values[2]))
    assert scores.pooled.sel(target="c") == pytest.approx(expected)


def test_an_animal_may_be_a_coordinate_of_the_latents():
    train, test = (make_latents(k, subjects="abcde", signal=1) for k in (0, 100))
    named = [part.assign_coords(animal=("subject", list(DAYS.values()))) for part in (train, test)]
    xr.testing.assert_equal(separation(*named), separation(train, test, animal=DAYS))
    with pytest.raises(ValueError, match="'animal' parameter of separation must map subjects"):
        separation(train, test, animal={"nobody": "one"})


# ------------------------------------------------------------------ another column


def test_separation_by_another_column_than_the_one_that_paired():
    train, test = make_latents(signal=1), make_latents(first=100, signal=1)
    expected = separation(train, test)
    parts = []
    for part in (train, test):
        number = part.trial.values[0]
        each = np.tile(part.odor.values, (3, 1))
        parts.append(
            part.drop_vars("odor")
            .assign_coords(number=("window", number), odor=(("subject", "window"), each))
            .assign_attrs(by="number")
        )
    found = separation(*parts, by="odor")
    xr.testing.assert_equal(found, expected)
    with pytest.raises(ValueError, match="separate by another column"):
        separation(*parts)


def test_what_an_absent_subject_has_as_a_label_does_not_matter():
    train, test = make_latents(signal=1), make_latents(first=100, signal=1)
    parts = []
    for part in (train, test):
        each = np.tile(part.odor.values.astype(object), (3, 1))
        part = part.drop_vars("odor").assign_coords(odor=(("subject", "window"), each))
        part[1, :12] = np.nan
        part.coords["odor"][1, :12] = None
        parts.append(part)
    assert separation(*parts).confusion.sel(target="b").sum() == 3 * 27
    parts[1].coords["odor"][0, 3] = None
    with pytest.raises(ValueError, match=r"must have a value of 'odor' in every window\. Got 1 "):
        separation(*parts)


# ------------------------------------------------------------------ nulls


def test_few_held_out_trials_have_an_exact_p():
    test = make_latents(first=100, n_trials=3, signal=30, subjects="ab")
    for n in (19, 999):
        scores = separation(make_latents(signal=30, subjects="ab"), test, n_permutations=n)
        np.testing.assert_allclose(scores.p_own.sel(level="trial"), 1 / 6)
        assert scores.p_floor.values.tolist() == [1 / 6, 1 / 6]
        # Two subjects together: 36 labellings.
        np.testing.assert_allclose(scores.p_mean_own.sel(level="trial"), 1 / 36)
    assert "p of a cannot be below 1/6: its 3 held-out trials can be labelled in 6" in (
        scores.statement
    )


def test_exact_p_is_that_of_all_orders():
    train, test = make_latents(subjects="a"), make_latents(first=100, n_trials=6, subjects="a")
    scores = separation(train, test, n_permutations=10).sel(level="trial")
    predicted = [
        scores.confusion.sel(source="a", target="a", condition=c).values.argmax() for c in "ABC"
    ]
    assert scores.n_labellings == 90
    assert scores.sizes["permutation"] == 90
    assert scores.null_own.mean() == pytest.approx(1 / 3)
    assert len(predicted) == 3


def labelled_in_time(labels, held, seed=0, signal=0.0, onset=None):
    """Latents of two subjects whose trials follow each other with these labels."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(2, len(labels), 3)) + signal * (np.asarray(labels) == 1)[:, None]
    trial = np.tile(np.arange(len(labels)), (2, 1))
    coords = {"subject": ["a", "b"], "odor": ("window", np.asarray(labels))}
    coords |= {"time": ("window", np.zeros(len(labels))), "trial": (("subject", "window"), trial)}
    if onset is not None:
        coords["onset"] = (("subject", "window"), np.tile(onset, (2, 1)))
    whole = xr.DataArray(z, dims=("subject", "window", "latent"), coords=coords)
    whole = whole.assign_attrs(by="odor")
    return whole.isel(window=~held), whole.isel(window=held)


SHORT_RUNS = np.repeat(np.random.default_rng(5).integers(0, 2, 60), 4)
LONG_RUNS = np.repeat(np.tile([0, 1], 10), 12)
IN_STRETCHES = np.arange(240) // 24 % 4 == 1
WHOLE_RUNS = np.isin(np.arange(240) // 12, [2, 5, 11, 14])


@pytest.mark.parametrize(
    ("labels", "held", "how"),
    [
        (np.random.default_rng(0).permutation(np.tile([0, 1], 120)), IN_STRETCHES, "permuted"),
        (SHORT_RUNS, IN_STRETCHES, "rotated within held-out stretches"),
        (LONG_RUNS, WHOLE_RUNS, "permuted between held-out runs"),
    ],
)
def test_the_null_is_chosen_by_the_order_of_labels(labels, held, how):
    scores = separation(*labelled_in_time(labels, held), n_permutations=49)
    assert how in scores.null
    assert "a: odor changes" in scores.null_reason
    assert "b: odor changes" in scores.null_reason
    # Only two animals; nothing is said against the p.
    assert len(json.loads(scores.warnings)) == 1


def test_every_draw_of_the_null_keeps_the_runs_of_labels():
    train, test = labelled_in_time(SHORT_RUNS, IN_STRETCHES, signal=30)
    scores = separation(train, test, n_permutations=99).sel(level="trial")
    # A certain classifier names the labels themselves, so accuracy tells how far they turned.
    possible = np.zeros((1, 2))  # hits of each odor
    for k in (1, 5, 9):
        own = SHORT_RUNS[24 * k : 24 * k + 24]
        turned = np.stack([np.roll(own, turn) for turn in range(24)])
        hits = np.stack([((turned == c) & (own == c)).sum(axis=1) for c in (0, 1)], axis=1)
        possible = (possible[:, None] + hits[None]).reshape(-1, 2)
    recall = possible / np.bincount(SHORT_RUNS[IN_STRETCHES])
    possible = set(recall.mean(axis=1).round(9))
    assert set(np.round(scores.null_own.sel(subject="a").values, 9)) <= possible
    assert (scores.p_own <= 0.02).all()


def test_the_order_of_trials_is_that_of_their_times():
    order = np.random.default_rng(1).permutation(240)
    labels = np.empty(240, int)
    labels[order] = SHORT_RUNS  # trial ids say nothing of the order
    held = np.zeros(240, bool)
    held[order] = IN_STRETCHES
    onset = np.empty(240)
    onset[order] = 3.0 * np.arange(240)
    timed = separation(*labelled_in_time(labels, held, onset=onset), n_permutations=19)
    assert "rotated within held-out stretches" in timed.null
    untimed = separation(*labelled_in_time(labels, held), n_permutations=19)
    assert "permuted between held-out trials" in untimed.null


def test_null_can_be_chosen():
    parts = labelled_in_time(SHORT_RUNS, IN_STRETCHES)
    assert (
        "permuted between held-out trials"
        in separation(*parts, n_permutations=9, null="shuffle").null
    )
    plain = labelled_in_time(np.random.default_rng(0).integers(0, 2, 240), IN_STRETCHES)
    assert "rotated" in separation(*plain, n_permutations=9, null="order").null
    with pytest.raises(ValueError, match="'null' parameter of separation"):
        separation(*plain, null="none")


def test_the_reason_is_that_of_the_order_which_chose_the_null():
    # Without the trials that a split leaves out, labels may look otherwise than in the session.
    plain = np.random.default_rng(0).permutation(np.tile([0, 1], 120))
    for labels, session, how, why in (
        (plain, SHORT_RUNS, "rotated within held-out stretches", "comes in runs."),
        (SHORT_RUNS, plain, "permuted between held-out trials", "interleaved."),
    ):
        order = asdict(label_order(np.where(session, "B", "A"))) | {"n_trials": 260}
        said = json.dumps(dict.fromkeys("ab", order))
        parts = [
            z.assign_attrs(by="odor", label_order=said)
            for z in labelled_in_time(labels, IN_STRETCHES)
        ]
        scores = separation(*parts, n_permutations=9)
        assert how in scores.null
        assert scores.null_reason.count(why) == 2
        assert scores.null_reason.count("times in 260 trials") == 2
        asked = separation(*parts, n_permutations=9, null="shuffle")
        told = asked.null_reason.count("Shuffled all the same, as asked for")
        assert told == (2 if session is SHORT_RUNS else 0)
    asked = separation(*labelled_in_time(plain, IN_STRETCHES), n_permutations=9, null="order")
    assert asked.null_reason.count("interleaved. Kept in order all the same") == 2


def test_a_condition_in_one_run_has_no_p():
    labels = np.repeat([0, 1], 120)
    parts = labelled_in_time(labels, np.arange(240) % 120 >= 90, signal=3)
    with pytest.warns(UserWarning, match="cannot be told from the time in the session"):
        scores = separation(*parts, n_permutations=49)
    for name in ("p_own", "p_cross", "p_mean_own", "p_mean_cross", "p_floor"):
        assert np.isnan(scores[name]).all()
    assert "No p is given" in json.loads(scores.warnings)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        separation(*parts)


def test_a_random_split_of_labels_in_runs_is_told():
    held = np.random.default_rng(0).random(240) < 0.25
    with pytest.warns(UserWarning, match="trials were split at random"):
        scores = separation(*labelled_in_time(SHORT_RUNS, held), n_permutations=19)
    assert "whole session rotated" in scores.null


@pytest.mark.filterwarnings("ignore:These latents are joint")
def test_joint_latents_get_no_p():
    train, test = make_latents(), make_latents(first=100)
    joint = [part.assign_attrs(by="odor", joint=1) for part in (train, test)]
    scores = separation(*joint, n_permutations=19)
    plain = separation(train, test, n_permutations=19)
    for name in ("own", "cross"):
        assert np.isnan(scores[f"p_{name}"]).all()
        assert np.isnan(scores[f"p_mean_{name}"]).all()
        assert np.isnan(scores[f"p_sign_flip_{name}"]).all()
        np.testing.assert_array_equal(scores[name], plain[name])
        np.testing.assert_array_equal(scores[f"{name}_interval"], plain[f"{name}_interval"])
    assert "No p is given" in json.loads(scores.warnings)[0]
    with pytest.warns(UserWarning, match="joint"):
        separation(*joint, n_permutations=9)


@pytest.mark.slow
@pytest.mark.parametrize("runs", ["short", "long"])
def test_drifting_latents_without_information_give_few_small_p(runs):
    p = {"auto": [], "shuffle": []}
    for seed in range(100):
        rng = np.random.default_rng(seed)
        # Odors are drawn anew, the latents of both subjects walk slowly.
        labels = np.repeat(rng.integers(0, 2, 60), 4)
        held = IN_STRETCHES
        if runs == "long":
            labels = np.repeat(rng.permutation(np.tile([0, 1], 10)), 12)
            held = np.isin(np.arange(240) // 12, rng.choice(20, 6, replace=False))
        parts = labelled_in_time(labels, held, seed=seed)
        walk = np.cumsum(rng.normal(size=(2, 240, 3)), axis=1)
        walk /= walk.std(axis=1, keepdims=True)
        for part, which in zip(parts, (~held, held), strict=True):
            part.values += walk[:, which]
        for null in p:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    scores = separation(*parts, n_permutations=99, null=null, pooled=False)
                except ValueError:  # all of one odor
                    continue
            p[null].append(float(scores.p_mean_own.sel(level="trial")))
    found = {name: np.mean(np.array(values) <= 0.05) for name, values in p.items()}
    assert found["auto"] <= 0.12  # 5 % of 100 with a standard error of 2.2 %
    assert found["shuffle"] > found["auto"]


@pytest.mark.parametrize("n", [7, 300, 700])
def test_the_silhouette_is_that_of_scikit_learn(n):
    rng = np.random.default_rng(n)
    condition = np.array(["a", "b", "c"])[rng.integers(3, size=n)]
    condition[0] = "alone"
    z = rng.normal(size=(n, 3)) + (condition == "a")[:, None] + 100
    z[3:5] = z[5]  # no distance at all
    part = Windows(z, condition, np.zeros(n), np.arange(n), np.arange(n), condition)
    assert _silhouette(part) == pytest.approx(silhouette_score(z, condition), abs=1e-6)
