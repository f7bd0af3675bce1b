"""Every model of the package says the same of windows that it was not fitted to."""

import numpy as np
import pytest
import xarray as xr
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import neuroshare as ns

UNITS = {"barat": 7, "mitt": 5, "stella": 6}
MODELS = {
    "SharedLatentModel": ns.SharedLatentModel(
        latent_dim=3, hidden=(8,), epochs=1, progress=False, device="cpu"
    ),
    "LinearAlignment": ns.LinearAlignment(latent_dim=3, n_repairs=2),
}


@pytest.fixture(scope="module")
def counts():
    sessions = ns.simulate_sessions(UNITS, n_trials=6, seed=2, mean_rate=15.0)
    return {n: ns.bin_spikes(s, span=(0.0, 0.3), bin_size=0.02) for n, s in sessions.items()}


def pair(counts, **more):
    return ns.pair_subjects(counts, "odor", **{"width": 0.1, "step": 0.04, **more})


@pytest.fixture(scope="module")
def parts(counts):
    return pair(counts).split(0.34, seed=0)


@pytest.fixture(scope="module")
def fitted(parts):
    return [clone(model).fit(parts[0]) for model in MODELS.values()]


def same(act, models):
    """What an act on each model raises: one type and one sentence for all."""
    caught = []
    for model in models:
        with pytest.raises((ValueError, TypeError)) as error:
            act(model)
        caught.append((type(error.value), str(error.value).replace(type(model).__name__, "model")))
    assert len(set(caught)) == 1, caught
    return caught[0]


@pytest.mark.parametrize("target", ["nobody", None, 3, ["mitt"]], ids=str)
def test_targets_are_refused_alike(fitted, parts, target):
    error, sentence = same(lambda model: model.impute(parts[1], target=target), fitted)
    assert error is ValueError
    assert "'target' parameter of impute must be one of" in sentence


@pytest.mark.parametrize(
    "source", ["nobody", [], ["barat", "barat"], 3, [None], [["barat"]], "barat stella"], ids=str
)
def test_sources_are_refused_alike(fitted, parts, source):
    error, sentence = same(lambda m: m.impute(parts[1], "mitt", source), fitted)
    assert error is ValueError
    assert "'source' parameter of impute must name different subjects among" in sentence


def test_no_other_subject_is_refused_alike(fitted, parts):
    alone = parts[1].select(["mitt"])
    _, sentence = same(lambda model: model.impute(alone, "mitt"), fitted)
    assert "other than the target" in sentence


@pytest.mark.parametrize(
    "windows", [None, {}, 3, xr.DataArray(np.zeros(3))], ids=lambda w: str(type(w))
)
@pytest.mark.parametrize("act", ["fit", "transform", "impute"])
def test_what_is_no_windows_is_refused_alike(fitted, windows, act):
    more = ("mitt",) if act == "impute" else ()
    error, sentence = same(lambda model: getattr(model, act)(windows, *more), fitted)
    assert error is TypeError
    assert "expects the PairedWindows of pair_subjects" in sentence


def test_other_windows_are_refused_alike(fitted, parts, counts):
    fewer = counts | {"mitt": counts["mitt"].isel(unit=slice(4))}
    turned = counts | {"mitt": counts["mitt"].isel(unit=slice(None, None, -1))}
    stranger = counts | {"rex": counts["mitt"]}
    for other, message in (
        (pair(fewer), "'mitt': expected 5 units (as fitted), got 4"),
        (pair(turned), "'mitt': unit ids differ from those fitted"),
        (pair(stranger), "subjects ['rex'] were not fitted"),
        (pair(counts, width=0.12), "expected windows of 5 bins of 0.02 s (as fitted), got 6"),
    ):
        for act in (lambda m, w=other: m.transform(w), lambda m, w=other: m.impute(w, "barat")):
            assert message in same(act, fitted)[1]


def test_before_the_fit_all_say_so_alike(parts):
    fresh = [clone(model) for model in MODELS.values()]
    for act in (
        lambda model: model.transform(parts[1]),
        lambda model: model.impute(parts[1], "mitt"),
        lambda model: model.subjects_,
        lambda model: model.units_,
    ):
        assert same(act, fresh)[0] is NotFittedError
    assert not any(hasattr(model, "subjects_") for model in fresh)


def test_latents_and_imputed_counts_are_labelled_alike(fitted, parts):
    absent = parts[1].select(["barat", "stella"])
    for windows, source in ((parts[1], None), (parts[1], "barat"), (absent, ["stella", "barat"])):
        for one, other in (
            [model.transform(windows) for model in fitted],
            [model.impute(windows, "mitt", source) for model in fitted],
        ):
            assert (one.dims, one.shape, one.name) == (other.dims, other.shape, other.name)
            xr.testing.assert_identical(
                xr.Dataset(coords=one.coords), xr.Dataset(coords=other.coords)
            )
            assert other.attrs.items() <= one.attrs.items()
    assert {m.subjects_ for m in fitted} == {("barat", "mitt", "stella")}


@pytest.mark.parametrize("changed", [{"latent_dim": 2}, {"latent_dim": 5, "seed": 3}], ids=str)
def test_settings_changed_after_a_fit_do_not_reach_it(parts, changed):
    more = [
        {"hidden": (4,), "inputs": "raw", "objective": "poe"},
        {"features": "window", "readout_ridge": 9.0},
    ]
    for model, others in zip(MODELS.values(), more, strict=True):
        one = clone(model).fit(parts[0])
        before = one.transform(parts[1]), one.impute(parts[1], "mitt")
        one.set_params(**changed, **others)
        xr.testing.assert_identical(one.transform(parts[1]), before[0])
        xr.testing.assert_identical(one.impute(parts[1], "mitt"), before[1])
