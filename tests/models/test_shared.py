import inspect
import json
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

import neuroshare as ns
from neuroshare.models import building
from neuroshare.models.building import resolved
from neuroshare.models.device_windows import ResidentWindows
from neuroshare.vae import train as training
from neuroshare.vae.likelihoods import Gaussian, Likelihood, NegativeBinomial, Poisson
from neuroshare.vae.objectives import MMVM, OBJECTIVES, Elbo, Objective
from neuroshare.vae.schedule import Schedule

UNITS = {"barat": 7, "mitt": 5, "stella": 7}
SMALL = {
    "latent_dim": 3,
    "hidden": (8,),
    "epochs": 2,
    "batch_size": 64,
    "device": "cpu",
    "progress": False,
}


def simulate(n_trials=6, **more):
    sessions = ns.simulate_sessions(UNITS, n_trials=n_trials, seed=2, mean_rate=15.0, **more)
    return {n: ns.bin_spikes(s, span=(0.0, 0.3), bin_size=0.02) for n, s in sessions.items()}


@pytest.fixture(scope="module")
def counts():
    return simulate()


def pair(counts, **more):
    return ns.pair_subjects(counts, "odor", **{"width": 0.1, "step": 0.04, **more})


@pytest.fixture(scope="module")
def parts(counts):
    return pair(counts).split(0.34, seed=0)


@pytest.fixture(scope="module")
def model(parts):
    return small().fit(parts[0])


def small(**more):
    return ns.SharedLatentModel(**{**SMALL, **more})


def some_absent(counts):
    """Fewer trials of one subject and a condition that another never saw."""
    counts = dict(counts)
    counts["mitt"] = counts["mitt"].isel(trial=slice(None, 15))
    counts["stella"] = counts["stella"].sel(trial=counts["stella"].odor.values != "D")
    return pair(counts, surplus="absent", allow_missing=True)


def absent_of(paired, name):
    return ~paired.observed[paired.subjects.index(name)]


# ---------------------------------------------------------------------------- transform


def test_latents_have_the_dims_and_coordinates_of_their_windows(model, parts):
    test = parts[1]
    z = model.transform(test)
    assert z.dims == ("subject", "window", "latent")
    assert dict(z.sizes) == {"subject": 3, "window": len(test), "latent": 3}
    assert z.coords["subject"].values.tolist() == list(UNITS)
    expected = xr.Dataset(coords=test.coords()).coords
    for name in ("odor", "time", "start", "trial"):
        xr.testing.assert_identical(
            z.coords[name].drop_vars(z.coords[name].coords),
            (expected[name].drop_vars(expected[name].coords)),
        )
    assert np.isfinite(z.values).all()
    assert z.attrs["by"] == "odor"


def test_latents_are_nan_exactly_where_a_subject_is_absent(counts):
    paired = some_absent(counts)
    fitted = small().fit(paired)
    assert np.isfinite(fitted.history_.loss).all()
    for joint in (False, True):
        z = fitted.transform(paired, joint=joint)
        for name in UNITS:
            absent = absent_of(paired, name)
            assert absent.any() or name == "barat"
            values = z.sel(subject=name).values
            np.testing.assert_array_equal(np.isnan(values), np.repeat(absent[:, None], 3, axis=1))


def test_absent_subjects_train_under_every_objective(counts):
    paired = some_absent(counts)
    for name in OBJECTIVES:
        fitted = small(objective=name, epochs=1).fit(paired)
        assert np.isfinite(fitted.history_.loss).all(), name


@pytest.mark.filterwarnings("ignore:no latent is used")  # which is advice too
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("lr", "batch_size"), [(1e3, 64), (1e3, 4096), (1e30, 4096)])
def test_a_fit_ends_with_finite_latents_or_with_advice(parts, objective, lr, batch_size):
    fitted = small(objective=objective, lr=lr, batch_size=batch_size, epochs=1)
    try:
        fitted.fit(parts[0])
    except ValueError as error:
        assert "learning rate (lr)" in str(error)  # noqa: PT017
        assert not hasattr(fitted, "history_")
    else:
        assert np.isfinite(fitted.transform(parts[0])).all()


def test_latents_of_a_subject_depend_on_no_other_subject(model, parts):
    test = parts[1]
    other = test.changed(lambda name, counts: counts if name == "mitt" else counts + 1)
    one, two = model.transform(test), model.transform(other)
    assert one.sel(subject="mitt").equals(two.sel(subject="mitt"))
    assert not one.sel(subject="stella").equals(two.sel(subject="stella"))
    alone, together = (by_trial(z, "mitt") for z in (model.transform(test.select(["mitt"])), one))
    assert alone.keys() == together.keys()
    for key in alone:  # other rows in the batch may change the last digit
        assert alone[key] == pytest.approx(together[key], abs=1e-5)


def by_trial(z, name):
    """Latents of a subject by (trial, start), without regard to rows."""
    one = z.sel(subject=name)
    keys = zip(one.trial.values.tolist(), one.start.values.tolist(), strict=True)
    return {key: tuple(value) for key, value in zip(keys, one.values.tolist(), strict=True)}


def test_joint_latents_of_a_product_are_the_same_for_all_subjects(parts):
    fitted = small(objective="poe").fit(parts[0])
    joint = fitted.transform(parts[1], joint=True).values
    np.testing.assert_array_equal(joint[0], joint[1])
    alone = fitted.transform(parts[1]).values
    assert not np.allclose(alone[0], alone[1])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_fits_transforms_and_imputes(name, parts):
    fitted = small(objective=name, epochs=1).fit(parts[0])
    assert np.isfinite(fitted.transform(parts[1]).values).all()
    imputed = fitted.impute(parts[1], target="stella", source="barat")
    assert np.isfinite(imputed.values).all()
    assert (imputed >= 0).all()


def test_private_latents_are_a_part_of_their_own(parts):
    fitted = small(objective=MMVM(private_dim=2)).fit(parts[0])
    shared, private, both = (
        fitted.transform(parts[1], part=part) for part in ("shared", "private", "all")
    )
    assert [z.sizes["latent"] for z in (shared, private, both)] == [3, 2, 5]
    np.testing.assert_array_equal(both.values, np.concatenate([shared, private], axis=-1))


@pytest.mark.parametrize("part", ["private", "everything"])
def test_a_part_that_is_not_there_is_refused(model, parts, part):
    with pytest.raises(ValueError, match=rf"'part'.*must be one of .*Got '{part}' with 0 private"):
        model.transform(parts[1], part=part)


# ---------------------------------------------------------------------------- impute


def test_imputed_activity_is_non_negative_in_the_shape_of_the_targets_windows(model, parts):
    test = parts[1]
    for target in UNITS:
        imputed = model.impute(test, target=target)
        assert imputed.dims == ("window", "unit", "lag")
        assert imputed.shape == test[target].shape
        assert imputed.unit.values.tolist() == test[target].unit.values.tolist()
        np.testing.assert_allclose(imputed.lag, test[target].lag)
        assert (imputed >= 0).all()
        assert imputed.trial.values.tolist() == test[target].trial.values.tolist()


def test_imputation_looks_at_its_sources_alone(model, parts):
    test = parts[1]

    def imputed(changed, source=None):
        other = test.changed(lambda name, counts: counts + 1 if name == changed else counts)
        return model.impute(other, target="mitt", source=source).values

    before = model.impute(test, target="mitt").values
    np.testing.assert_array_equal(imputed("mitt"), before)
    assert not np.allclose(imputed("barat"), before)
    from_one = model.impute(test, target="mitt", source="stella").values
    np.testing.assert_array_equal(imputed("barat", "stella"), from_one)
    assert not np.allclose(imputed("stella", "stella"), from_one)


def test_a_target_without_activity_of_its_own_is_imputed(model, parts):
    imputed = model.impute(parts[1].select(["barat", "stella"]), target="mitt")
    assert imputed.sizes["unit"] == UNITS["mitt"]
    assert "trial" not in imputed.coords


def test_imputation_is_nan_exactly_where_no_source_is_present(counts):
    paired = some_absent(counts)
    fitted = small().fit(paired)
    absent = {name: absent_of(paired, name) for name in UNITS}
    from_one = fitted.impute(paired, target="barat", source="mitt")
    np.testing.assert_array_equal(np.isnan(from_one.values).all((1, 2)), absent["mitt"])
    from_all = fitted.impute(paired, target="barat")
    nobody = absent["mitt"] & absent["stella"]
    np.testing.assert_array_equal(np.isnan(from_all.values).any((1, 2)), nobody)


def test_a_subject_imputes_itself_as_its_reconstruction(model, parts):
    x = model.impute(parts[1], target="mitt", source="mitt")
    other = model.impute(parts[1], target="mitt", source="stella")
    actual = parts[1]["mitt"].values
    assert not np.allclose(x, other)
    assert x.shape == actual.shape


def test_windows_stay_those_given_when_subjects_come_in_another_order(parts):
    train, test = parts
    fitted = small(subjects=["stella", "barat", "mitt"]).fit(train)
    imputed = fitted.impute(test, target="mitt", source="mitt")
    assert imputed.trial.values.tolist() == test["mitt"].trial.values.tolist()
    assert imputed.odor.values.tolist() == test["mitt"].odor.values.tolist()
    z = fitted.transform(test)
    for name in UNITS:
        assert z.sel(subject=name).trial.values.tolist() == test[name].trial.values.tolist()


@pytest.mark.parametrize(("target", "source"), [("mitt", "nobody"), ("mitt", []), ("nobody", None)])
def test_unknown_targets_and_sources_are_refused(model, parts, target, source):
    with pytest.raises(ValueError, match=r"barat.*mitt.*stella"):
        model.impute(parts[1], target=target, source=source)


def test_imputation_needs_another_subject(model, parts):
    with pytest.raises(ValueError, match="other than the target"):
        model.impute(parts[1].select(["mitt"]), target="mitt")


# ---------------------------------------------------------------------------- subjects


def test_subjects_are_selected_and_ordered_by_name(parts):
    fitted = small(subjects=["stella", "barat"]).fit(parts[0])
    assert fitted.subjects_ == ("stella", "barat")
    assert list(fitted.units_) == ["stella", "barat"]
    assert fitted.transform(parts[1]).sizes["subject"] == 2
    assert fitted.history_.subject.values.tolist() == ["stella", "barat"]


def test_a_subject_may_have_its_own_settings(parts):
    settings = {
        "mitt": ns.Subject(hidden=(11, 9), likelihood="negative_binomial"),
        "barat": ns.Subject(),
    }
    fitted = small(subjects=settings).fit(parts[0])
    assert fitted.subjects_ == ("mitt", "barat")
    widths = [
        [layer.out_features for layer in encoder.body if isinstance(layer, nn.Linear)]
        for encoder in fitted._trained.vae.encoders
    ]
    assert widths == [[11, 9], [8]]
    assert [type(one) for one in fitted._trained.vae.likelihoods] == [NegativeBinomial, Poisson]


def test_hidden_input_is_as_wide_as_each_input(parts):
    fitted = small(hidden="input", inputs="raw", epochs=1).fit(parts[0])
    for name, encoder in zip(UNITS, fitted._trained.vae.encoders, strict=True):
        assert encoder.body[0].weight.shape == (UNITS[name] * 5, UNITS[name] * 5)


def test_an_unknown_subject_is_refused_with_those_in_the_data(parts):
    with pytest.raises(ValueError, match=r"\['nobody'\] are not in the data.*'barat', 'mitt'"):
        small(subjects=["mitt", "nobody"]).fit(parts[0])


def test_one_subject_alone_fits(parts):
    fitted = small(subjects="mitt").fit(parts[0])
    assert fitted.subjects_ == ("mitt",)
    assert np.isfinite(fitted.transform(parts[1].select(["mitt"])).values).all()


def test_subjects_that_were_not_fitted_are_refused(parts):
    fitted = small().fit(parts[0].select(["barat", "mitt"]))
    with pytest.raises(ValueError, match=r"\['stella'\] were not fitted.*\.select"):
        fitted.transform(parts[1])


def test_fewer_subjects_than_fitted_are_welcome(model, parts):
    z = model.transform(parts[1].select(["stella"]))
    assert z.subject.values.tolist() == ["stella"]


def test_two_subjects_with_equal_unit_counts_keep_separate_weights(model, counts):
    barat, _, stella = model._trained.vae.encoders
    assert barat.loc.weight.shape == stella.loc.weight.shape
    assert barat.loc.weight.data_ptr() != stella.loc.weight.data_ptr()
    assert not torch.equal(barat.loc.weight, stella.loc.weight)
    # The same activity under another name is read by other weights.
    swapped = counts | {"barat": counts["stella"]}
    z = model.transform(pair(swapped, order="rank", surplus="drop"))
    assert not np.allclose(z.sel(subject="barat"), z.sel(subject="stella"))


def test_another_number_of_units_is_refused_with_both(model, counts):
    fewer = counts | {"mitt": counts["mitt"].isel(unit=slice(4))}
    with pytest.raises(
        ValueError, match=r"'mitt': expected 5 units \(as fitted\), got 4. Select the fitted units"
    ):
        model.transform(pair(fewer))


def test_units_in_another_order_are_refused(model, counts):
    turned = counts | {"mitt": counts["mitt"].isel(unit=slice(None, None, -1))}
    with pytest.raises(ValueError, match=r"'mitt': unit ids differ .*in their order or refit"):
        model.transform(pair(turned))


def test_windows_of_another_width_are_refused(model, counts):
    with pytest.raises(ValueError, match=r"windows of 5 bins of 0.02 s \(as fitted\), got 6"):
        model.transform(pair(counts, width=0.12))


# ---------------------------------------------------------------------------- likelihoods


def z_scored(counts):
    floats = {n: (a - a.mean("trial")).astype(float) for n, a in counts.items()}
    floats["barat"] = floats["barat"].clip(min=-0.31)
    floats["barat"][0, 0, 0] = -0.31
    return pair(floats)


def test_negative_activity_is_refused_with_a_way_out(counts):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        small().fit(z_scored(counts))
    assert str(error.value) == (
        "Poisson needs non-negative integer counts; 'barat' has minimum -0.31. "
        "Use likelihood='gaussian' for z-scored activity."
    )


def test_activity_that_is_not_whole_is_refused(counts):
    halves = {name: array / 2 for name, array in counts.items()}
    with pytest.raises(
        ValueError, match=r"NegativeBinomial needs .*'barat' has values that are no"
    ):
        small(likelihood="negative_binomial").fit(pair(halves))


def test_negative_activity_suits_the_gaussian(counts):
    fitted = small(likelihood="gaussian").fit(z_scored(counts))
    assert np.isfinite(fitted.transform(z_scored(counts)).values).all()


def test_activity_to_transform_is_checked_too(model, counts):
    with pytest.raises(ValueError, match=r"'barat' has minimum -0.31"):
        model.transform(z_scored(counts))


# ---------------------------------------------------------------------------- manners


def test_nothing_works_before_fit(parts, tmp_path):
    fresh = small()
    for use in (
        lambda: fresh.transform(parts[1]),
        lambda: fresh.impute(parts[1], target="mitt"),
        lambda: fresh.sample(2),
        lambda: fresh.save(tmp_path / "model"),
    ):
        with pytest.raises(NotFittedError):
            use()
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_not_fitted_by_its_parameters():
    fresh = ns.SharedLatentModel()
    assert not [name for name in vars(fresh) if name.endswith("_")]
    stored = inspect.signature(ns.SharedLatentModel).parameters
    assert set(fresh.get_params()) == set(stored)
    assert all(getattr(fresh, name) == value.default for name, value in stored.items())


def test_parameters_are_kept_as_given_and_set_by_name():
    objective, hidden = MMVM(private_dim=2), [4, 4]
    model = ns.SharedLatentModel(objective=objective, hidden=hidden)
    assert model.get_params()["objective"] is objective
    assert model.hidden is hidden
    assert model.set_params(latent_dim=5, seed=3) is model
    assert (model.latent_dim, model.seed) == (5, 3)
    with pytest.raises(ValueError, match="nonsense"):
        model.set_params(nonsense=1)


def test_a_clone_is_unfitted_with_equal_parameters(model, parts):
    copied = clone(model)
    assert copied.get_params() == model.get_params()
    with pytest.raises(NotFittedError):
        copied.transform(parts[1])
    again = copied.fit(parts[0]).transform(parts[1])
    np.testing.assert_array_equal(again, model.transform(parts[1]))


def test_a_clone_has_its_own_objective(parts):
    original = small(objective=MMVM(prior_weight=Schedule(1.0, 0.0, 2)), epochs=1)
    copied = clone(original)
    assert copied.objective is not original.objective
    assert copied.objective.prior_weight == original.objective.prior_weight


def test_fit_leaves_its_parameters_as_they_were(parts):
    objective = MMVM(prior_weight=Schedule(1.0, 0.0, 2))
    before = small(objective=objective)
    params = before.get_params()
    before.fit(parts[0])
    assert before.get_params() == params
    assert objective.alpha == 1.0


def test_fit_returns_itself_and_records_history(model, parts):
    fresh = small(epochs=1)
    assert fresh.fit(parts[0]) is fresh
    history = model.history_
    assert dict(history.sizes) == {"epoch": 2, "subject": 3, "latent": 3}
    assert history.log_likelihood.dims == ("epoch", "subject")
    assert history.epoch.values.tolist() == [1, 2]
    assert np.isfinite(history[["loss", "rate", "beta"]].to_array()).all()
    assert {n: u.tolist() for n, u in model.units_.items()} == {
        n: list(range(size)) for n, size in UNITS.items()
    }


def test_fitting_something_else_is_refused(counts):
    with pytest.raises(TypeError, match=r"expects the PairedWindows of pair_subjects. Got dict"):
        small().fit(counts)


@pytest.mark.parametrize("init", ["mcca", "random"])
def test_the_same_seed_twice_gives_identical_latents(init, parts):
    one, two, other = (
        small(init=init, seed=seed).fit(parts[0]).transform(parts[1]) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_fitting_leaves_the_global_generators_alone(parts):
    torch.manual_seed(11), np.random.seed(11), random.seed(11)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    fitted = small().fit(parts[0], validation=0.3)
    fitted.transform(parts[1]), fitted.sample(3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


def test_fitting_leaves_the_data_alone(parts):
    before = {name: parts[0].activity(name).copy() for name in UNITS}
    fingerprint, partners = parts[0].fingerprint(), parts[0].partners.copy()
    small().fit(parts[0])
    assert parts[0].fingerprint() == fingerprint
    np.testing.assert_array_equal(parts[0].partners, partners)
    for name, values in before.items():
        np.testing.assert_array_equal(parts[0].activity(name), values)


@pytest.mark.parametrize("method", ["mcca", "procrustes", "srm"])
@pytest.mark.parametrize("subjects", [None, ["stella", "mitt", "barat"]])
def test_fitting_starts_at_the_aligned_linear_map(parts, method, subjects):
    start = small(init=method, inputs="raw", epochs=0, subjects=subjects).fit(parts[0])
    ordered = parts[0].select(start.subjects_)
    plain = {"n_components": 40, "ridge": 0.5, "root": False, "seed": 0}
    aligned = ns.LinearAlignment(method=method, latent_dim=3, **plain).fit(ordered)
    alone = parts[1].select(["mitt"])
    expected = aligned.transform(alone).values
    np.testing.assert_allclose(start.transform(alone).values, expected, atol=1e-3)


def test_a_share_of_the_training_trials_is_held_out_for_validation(parts):
    fitted = small(epochs=3).fit(parts[0], validation=0.3)
    assert np.isfinite(fitted.history_.validation_loss).all()
    assert 1 <= fitted.history_.attrs["best_epoch"] <= 3
    for name, trials in fitted.window_["trials"].items():
        assert set(trials) < set(parts[0].trial_ids(name).tolist())


# ---------------------------------------------------------------------------- interruption


class Stops(MMVM):
    """Raises at the beginning of an epoch."""

    def __init__(self, at=2, error=KeyboardInterrupt):
        super().__init__()
        self._when = at, error

    def start_epoch(self, epoch):
        if epoch == self._when[0]:
            raise self._when[1]


@pytest.mark.parametrize("at", [0, 2])
def test_an_interrupted_fit_leaves_a_usable_model(parts, tmp_path, at):
    fitted = small(objective=Stops(at), epochs=5)
    with pytest.warns(UserWarning, match=f"interrupted after {at} of 5 epochs"):
        fitted.fit(parts[0])
    assert fitted.history_.sizes["epoch"] == at
    assert fitted.history_.attrs["interrupted"] == 1
    z = fitted.transform(parts[1])
    assert np.isfinite(z.values).all()
    fitted.save(tmp_path / "model")
    back = ns.SharedLatentModel.load(tmp_path / "model", objective=Stops(at))
    np.testing.assert_array_equal(back.transform(parts[1]), z)


def test_an_interruption_during_validation_leaves_a_usable_model(parts, monkeypatch):
    calls = []

    def interrupted(*args, **more):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return 1.0

    monkeypatch.setattr(training, "evaluate", interrupted)
    fitted = small(epochs=5)
    with pytest.warns(UserWarning, match="interrupted"):
        fitted.fit(parts[0], validation=0.3)
    assert np.isfinite(fitted.transform(parts[1]).values).all()


def test_a_broken_fit_continues_to_the_same_latents(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    unbroken = small(objective=Stops(99), epochs=4).fit(parts[0])
    path = tmp_path / "state"
    with pytest.raises(RuntimeError):
        small(objective=Stops(2, RuntimeError), epochs=4).fit(parts[0], checkpoint=path)
    assert path.exists()
    resumed = small(objective=Stops(99), epochs=4).fit(parts[0], checkpoint=path)
    np.testing.assert_array_equal(resumed.transform(parts[1]), unbroken.transform(parts[1]))
    xr.testing.assert_identical(resumed.history_, unbroken.history_)


def test_a_checkpoint_of_other_windows_of_the_same_size_is_refused(parts, counts, tmp_path):
    path, (train, test) = tmp_path / "state", parts
    small().fit(train, test, checkpoint=path)
    again = small().fit(train, test, checkpoint=path)
    np.testing.assert_array_equal(again.transform(test), small().fit(train, test).transform(test))
    turned = {name: array.isel(time=slice(None, None, -1)) for name, array in counts.items()}
    others = pair({n: a.assign_coords(time=counts[n].time) for n, a in turned.items()})
    other = others.split(0.34, seed=0)
    assert [len(part) for part in other] == [len(train), len(test)]
    for windows, held_out, what in (
        (other[0], test, "training"),
        (train, other[1], "validation"),
        (train.repair(5), test, "training"),
    ):
        with pytest.raises(ValueError, match=rf"another training \(other {what} samples"):
            small().fit(windows, held_out, checkpoint=path)


@pytest.mark.parametrize("init", ["mcca", "random"])
def test_fits_in_threads_are_those_of_one_after_another(init, parts):
    def fit(seed):
        model = small(init=init, seed=seed).fit(parts[0])
        drawn = model.sample(2, seed=seed)["mitt"].values
        return np.concatenate([model.transform(parts[1]).values.ravel(), drawn.ravel()])

    alone = [fit(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(alone, pool.map(fit, range(4)), strict=True):
            np.testing.assert_array_equal(one, other)


# ---------------------------------------------------------------------------- saving


def test_a_model_loaded_in_a_new_process_gives_identical_latents(model, counts, tmp_path):
    model.save(tmp_path / "model")
    for name, array in counts.items():
        array.drop_vars("odor").assign_coords(
            odor=("trial", array.odor.values.astype(str))
        ).to_netcdf(tmp_path / f"{name}.nc", engine="h5netcdf")
    program = """
import sys, numpy as np, xarray as xr, neuroshare as ns
folder = sys.argv[1]
counts = {n: xr.load_dataarray(f"{folder}/{n}.nc", engine="h5netcdf") for n in sys.argv[2:]}
model = ns.SharedLatentModel.load(f"{folder}/model", device="cpu")
paired = ns.pair_subjects(counts, "odor", width=0.1, step=0.04)
np.save(f"{folder}/z.npy", model.transform(paired).values)
np.save(f"{folder}/x.npy", model.impute(paired, target="mitt").values)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path), *UNITS], check=True)
    paired = pair(counts)
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), model.transform(paired).values)
    np.testing.assert_array_equal(
        np.load(tmp_path / "x.npy"), model.impute(paired, target="mitt").values
    )


def test_a_saved_model_is_safetensors_and_json_alone(model, tmp_path):
    model.save(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    names = {p.name for p in (tmp_path / "model").iterdir()}
    assert names == {"weights.safetensors", "model.json"}
    stored = json.loads((tmp_path / "model" / "model.json").read_text())
    assert stored["subjects"] == list(UNITS)
    assert stored["units"]["mitt"] == [0, 1, 2, 3, 4]
    assert stored["window"]["bin_size"] == 0.02
    assert set(stored["window"]["trials"]) == set(UNITS)
    assert {"neuroshare", "torch", "numpy"} <= set(stored["versions"])


def test_all_that_was_learned_comes_back(model, parts, tmp_path):
    model.save(tmp_path / "model")
    back = ns.SharedLatentModel.load(tmp_path / "model", device="cpu")
    assert back.get_params() == model.get_params()
    assert back.subjects_ == model.subjects_
    assert back.window_ == model.window_
    xr.testing.assert_identical(back.history_, model.history_)
    assert all((back.units_[n] == model.units_[n]).all() for n in UNITS)
    for name, drawn in model.sample(4).items():
        xr.testing.assert_identical(back.sample(4)[name], drawn)


@pytest.mark.parametrize(
    "more",
    [
        {"objective": MMVM(prior_weight=Schedule(1.0, 0.0, 2), private_dim=2)},
        {"objective": "mmvae_plus", "likelihood": "negative_binomial"},
        {"beta": Schedule(0.1, 1.0, 3, "geometric"), "likelihood": Gaussian(0.5)},
        {"hidden": "input", "init": "random", "inputs": "raw"},
        {"subjects": {"mitt": ns.Subject(hidden=(6, 5)), "barat": ns.Subject(None, "poisson")}},
    ],
    ids=["mmvm", "mmvae_plus", "schedule", "input", "settings"],
)
def test_models_of_all_kinds_come_back(more, parts, tmp_path):
    fitted = small(epochs=1, **more).fit(parts[0])
    fitted.save(tmp_path / "model")
    back = ns.SharedLatentModel.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(back.transform(parts[1]), fitted.transform(parts[1]))
    for name in ("beta", "subjects", "hidden", "init", "inputs"):
        assert getattr(back, name) == getattr(fitted, name)
    again = clone(back).fit(parts[0])
    np.testing.assert_array_equal(again.transform(parts[1]), fitted.transform(parts[1]))


def test_units_with_names_come_back(counts, tmp_path):
    named = {n: a.assign_coords(unit=[f"u{i}" for i in a.unit.values]) for n, a in counts.items()}
    fitted = small(epochs=1).fit(pair(named))
    fitted.save(tmp_path / "model")
    back = ns.SharedLatentModel.load(tmp_path / "model")
    np.testing.assert_array_equal(back.transform(pair(named)), fitted.transform(pair(named)))


def test_saving_again_replaces_the_model_and_nothing_else(model, parts, tmp_path):
    path = tmp_path / "model"
    small(epochs=1, seed=8).fit(parts[0]).save(path)
    model.save(path)
    z = ns.SharedLatentModel.load(path).transform(parts[1])
    np.testing.assert_array_equal(z, model.transform(parts[1]))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="not a saved model"):
        model.save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "precious"
    assert {p.name for p in tmp_path.iterdir()} == {"model", "thesis"}


CHANGES = (
    {"likelihood": "gaussian"},
    {"latent_dim": 2},
    {"hidden": (32,)},
    {"inputs": "standard"},
    {"objective": "poe"},
    {"subjects": ["mitt"]},
    {"dropout": 0.0, "seed": 4, "init": "random"},
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_what_is_saved_is_what_was_fitted(change, parts, tmp_path):
    fitted = small(epochs=1).fit(parts[0])
    before, params = fitted.transform(parts[1]), fitted.get_params()
    fitted.set_params(**change)
    xr.testing.assert_identical(fitted.transform(parts[1]), before)
    fitted.save(tmp_path / "model")
    back = ns.SharedLatentModel.load(tmp_path / "model", device="cpu")
    xr.testing.assert_identical(back.transform(parts[1]), before)
    assert back.get_params() == params
    again = clone(fitted).fit(parts[0])
    assert {name: again.get_params()[name] for name in change} == change


def test_settings_changed_in_place_after_a_fit_are_not_those_of_the_fit(parts, tmp_path):
    settings = {"mitt": ns.Subject(hidden=(6,)), "barat": ns.Subject()}
    fitted = small(epochs=1, subjects=settings).fit(parts[0])
    settings["mitt"] = ns.Subject(hidden=(9,))
    fitted.save(tmp_path / "model")
    back = ns.SharedLatentModel.load(tmp_path / "model")
    assert back.subjects["mitt"] == ns.Subject(hidden=(6,))
    np.testing.assert_array_equal(back.transform(parts[1]), fitted.transform(parts[1]))


def test_a_subject_joins_the_networks_that_were_fitted(parts):
    train, test = parts
    known = ["barat", "stella"]
    expected = small(epochs=1).fit(train.select(known)).add_subject("mitt", train)
    fitted = small(epochs=1).fit(train.select(known))
    fitted.set_params(latent_dim=7, inputs="raw", likelihood="gaussian", hidden=(3,))
    fitted.add_subject("mitt", train)
    np.testing.assert_array_equal(fitted.transform(test), expected.transform(test))


def test_loading_leaves_the_global_generators_alone(model, tmp_path):
    model.save(tmp_path / "model")
    before = torch.get_rng_state()
    ns.SharedLatentModel.load(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("gone", ["weights.safetensors", "model.json", None])
def test_a_missing_model_is_a_file_not_found_error(model, tmp_path, gone):
    path = tmp_path / "model"
    if gone:
        model.save(path)
        (path / gone).unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no saved model: expected model.json and"):
        ns.SharedLatentModel.load(path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def edit(path, change):
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))


DAMAGE = {
    "weights cut": lambda p: cut(p / "weights.safetensors"),
    "weights empty": lambda p: (p / "weights.safetensors").write_bytes(b""),
    "weights text": lambda p: (p / "weights.safetensors").write_text("nonsense" * 9),
    "json cut": lambda p: cut(p / "model.json"),
    "json binary": lambda p: (p / "model.json").write_bytes(b"\xff\xfe\x00"),
    "json list": lambda p: (p / "model.json").write_text("[1, 2]"),
    "no units": lambda p: edit(p / "model.json", lambda s: s.pop("units")),
    "unknown parameter": lambda p: edit(p / "model.json", lambda s: s["params"].update(x=1)),
    "unknown objective": lambda p: edit(
        p / "model.json", lambda s: s["params"].update(objective={"object": "x", "arguments": {}})
    ),
    "other widths": lambda p: edit(p / "model.json", lambda s: s["params"].update(latent_dim=9)),
    "newer format": lambda p: edit(p / "model.json", lambda s: s.update(format=99)),
    "history": lambda p: edit(p / "model.json", lambda s: s.update(history={"dims": 3})),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_model_is_a_value_error_that_names_it(model, tmp_path, damage):
    path = tmp_path / "model"
    model.save(path)
    damage(path)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        ns.SharedLatentModel.load(path)


# ---------------------------------------------------------------------------- ones own


class MyRule(Objective):
    """A ninth sharing rule: codes pulled to their mean, with a learned strength per subject."""

    def __init__(self, pull=0.1):
        super().__init__()
        self.pull = pull

    def build(self, n_modalities, n_latents):
        self.strength = nn.Parameter(torch.zeros(n_modalities, 1))

    def loss(self, q, observed, log_lik):
        mask = observed.unsqueeze(-1)
        mean = (mask * q.loc).sum(0) / mask.sum(0).clamp_min(1)
        apart = (q.loc - mean).square().sum(-1) + q.scale.square().sum(-1) - q.scale.log().sum(-1)
        z = q.rsample()
        rate = self.pull * (observed * apart * self.strength.exp()).sum(0)
        return Elbo(log_lik(z.unsqueeze(1)).squeeze(1), rate)

    def latents(self, q, observed):
        return q.loc


class MyLikelihood(Likelihood):
    """Geometric counts; the decoder gives the log of the expected count."""

    counts = True

    def log_prob(self, output, x):
        log_total = nn.functional.softplus(output)
        return (x * (output - log_total) - log_total).sum(-1)

    def mean(self, output):
        return output.exp()

    def sample(self, output):
        return torch.distributions.Geometric(logits=-output).sample()

    def link(self, mean):
        return mean.clamp_min(1e-4).log()


def test_a_rule_and_a_likelihood_of_ones_own_fit_transform_save_and_load(parts, tmp_path):
    fitted = small(objective=MyRule(), likelihood=MyLikelihood(), epochs=3).fit(parts[0])
    assert fitted.history_.loss[-1] < fitted.history_.loss[0]
    assert (fitted._trained.vae.objective.strength != 0).all()
    z = fitted.transform(parts[1])
    assert np.isfinite(z.values).all()
    fitted.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"MyRule, a class of your own.*objective="):
        ns.SharedLatentModel.load(tmp_path / "model", likelihood=MyLikelihood())
    with pytest.raises(ValueError, match=r"MyLikelihood, a class of your own.*likelihood="):
        ns.SharedLatentModel.load(tmp_path / "model", objective=MyRule())
    back = ns.SharedLatentModel.load(
        tmp_path / "model", objective=MyRule(), likelihood=MyLikelihood()
    )
    np.testing.assert_array_equal(back.transform(parts[1]), z)
    imputed = [m.impute(parts[1], target="mitt") for m in (fitted, back)]
    np.testing.assert_array_equal(*imputed)
    assert (imputed[0] > 0).all()


def test_the_advice_of_load_can_be_followed(parts, tmp_path):
    settings = {"mitt": ns.Subject(likelihood=MyLikelihood()), "barat": ns.Subject()}
    fitted = small(subjects=settings, epochs=1).fit(parts[0])
    fitted.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"MyLikelihood.*load\(path, likelihood="):
        ns.SharedLatentModel.load(tmp_path / "model")
    back = ns.SharedLatentModel.load(tmp_path / "model", likelihood=MyLikelihood())
    assert [type(one) for one in back._trained.vae.likelihoods] == [MyLikelihood, Poisson]
    np.testing.assert_array_equal(back.transform(parts[1]), fitted.transform(parts[1]))


class OtherLikelihood(MyLikelihood):
    """Another class of the same shapes."""


def test_likelihoods_of_ones_own_come_back_to_their_subjects(parts, tmp_path):
    own = {"mitt": MyLikelihood(), "stella": OtherLikelihood()}
    settings = {name: ns.Subject(likelihood=one) for name, one in own.items()}
    fitted = small(subjects={**settings, "barat": ns.Subject()}, epochs=1).fit(parts[0])
    path = tmp_path / "model"
    fitted.save(path)
    for given, message in (
        (None, r"MyLikelihood and OtherLikelihood.*likelihood={'mitt': \.\.\., 'stella': \.\.\.}"),
        (MyLikelihood(), r"MyLikelihood and OtherLikelihood.*for each subject"),
        ({"mitt": MyLikelihood()}, r"one likelihood \(OtherLikelihood\) for stella, got 0"),
        ({**own, "rex": MyLikelihood()}, r"and one for \['rex'\]"),
        ({"mitt": own["stella"], "stella": own["mitt"]}, r"of MyLikelihood.* got OtherLikelihood"),
    ):
        with pytest.raises(ValueError, match=message):
            ns.SharedLatentModel.load(path, likelihood=given)
    back = ns.SharedLatentModel.load(path, likelihood=own)
    kinds = [type(one) for one in back._trained.vae.likelihoods]
    assert kinds == [MyLikelihood, OtherLikelihood, Poisson]
    assert back.subjects["mitt"].likelihood is own["mitt"]
    np.testing.assert_array_equal(back.transform(parts[1]), fitted.transform(parts[1]))
    back.save(path)
    again = ns.SharedLatentModel.load(path, likelihood=own)
    np.testing.assert_array_equal(again.transform(parts[1]), fitted.transform(parts[1]))


def test_one_likelihood_stands_for_all_that_have_no_other(parts, tmp_path):
    settings = {"mitt": ns.Subject(likelihood=OtherLikelihood()), "barat": None, "stella": None}
    settings = {name: setting or ns.Subject() for name, setting in settings.items()}
    fitted = small(subjects=settings, likelihood=MyLikelihood(), epochs=1).fit(parts[0])
    fitted.save(tmp_path / "model")
    mine, other = MyLikelihood(), OtherLikelihood()
    back = ns.SharedLatentModel.load(
        tmp_path / "model", likelihood={"mitt": other, "barat": mine, "stella": mine}
    )
    assert back.likelihood is mine
    np.testing.assert_array_equal(back.transform(parts[1]), fitted.transform(parts[1]))
    with pytest.raises(ValueError, match="for barat and stella, got 2"):
        ns.SharedLatentModel.load(
            tmp_path / "model",
            likelihood={"mitt": other, "barat": mine, "stella": MyLikelihood()},
        )


# ---------------------------------------------------------------------------- windows


@pytest.mark.parametrize("surplus", ["repeat", "absent"])
def test_batches_equal_the_labelled_windows(counts, surplus):
    fewer = dict(counts) | {"mitt": counts["mitt"].isel(trial=slice(None, 13))}
    paired, _ = pair(fewer, surplus=surplus).split(0.3, seed=1)
    windows = ResidentWindows(paired, torch.device("cpu"))
    assert len(windows) == len(paired)
    index = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    x, observed = windows.batch(index)
    for m, name in enumerate(paired.subjects):
        absent = absent_of(paired, name)[index]
        np.testing.assert_array_equal(observed[m], ~absent)
        got = x[m].unflatten(1, (paired.width, -1)).transpose(1, 2)  # features are (lag, unit)
        np.testing.assert_array_equal(got[~absent], paired[name].values[index][~absent])


def test_windows_are_never_materialised(counts):
    storages = []
    for step in (0.02, 0.04, 0.1):
        train, _ = pair(counts, step=step).split(0.34, seed=0)
        windows = ResidentWindows(train, torch.device("cpu"))
        storages.append([view.untyped_storage().nbytes() for view in windows.views])
        for name, nbytes in zip(UNITS, storages[-1], strict=True):
            # One byte per count of a training trial, however many windows overlap.
            assert nbytes == train.n_trials(name) * UNITS[name] * 15
    assert storages[0] == storages[1] == storages[2]


@pytest.mark.parametrize(
    ("dtype", "value", "nbytes"), [(np.int16, 255, 1), (np.int16, 256, 4), (float, 0.5, 4)]
)
def test_counts_are_kept_in_few_bytes_without_loss(counts, dtype, value, nbytes):
    array = counts["mitt"].astype(dtype).copy()
    array[0, 0, 0] = value
    paired = ns.pair_subjects({"mitt": array}, "odor", 0.1, 0.02)
    windows = ResidentWindows(paired, torch.device("cpu"))
    assert windows.views[0].element_size() == nbytes
    x, _ = windows.batch(torch.arange(len(windows)))
    assert x[0].dtype == torch.float32
    got = x[0].unflatten(1, (paired.width, -1)).transpose(1, 2)
    np.testing.assert_array_equal(got, paired["mitt"].values.astype(np.float32))


def test_partners_are_drawn_anew_every_epoch_within_the_training_trials(counts):
    train, _ = pair(counts).split(0.34, seed=0)
    windows = ResidentWindows(train, torch.device("cpu"))
    tables = []
    for epoch in (0, 1, 2, 1):
        windows.redraw(epoch)
        tables.append(windows.table.tolist())
        for column, name in enumerate(UNITS):
            rows = np.unique(np.array(tables[-1])[:, column]) // 15
            assert rows.tolist() == list(range(train.n_trials(name)))
    assert tables[0] != tables[1] != tables[2]
    assert tables[1] == tables[3]
    ranked = ResidentWindows(pair(counts, order="rank"), torch.device("cpu"))
    before = ranked.table.tolist()
    ranked.redraw(5)
    assert ranked.table.tolist() == before


# ---------------------------------------------------------------------------- recovery


@pytest.fixture(scope="module")
def strong():
    sessions = ns.simulate_sessions(
        {"barat": 24, "mitt": 30, "stella": 20}, n_trials=24, seed=1, signal=2.0
    )
    counts = {n: ns.bin_spikes(s, span=(0.0, 0.4), bin_size=0.02) for n, s in sessions.items()}
    return ns.pair_subjects(counts, "odor", width=0.1, step=0.04).split(0.34, seed=0)


def cross_accuracy(train, test, fitted_on, **more):
    settings = {**SMALL, "latent_dim": 4, "hidden": (32,), "epochs": 8, "lr": 1e-3, **more}
    fitted = ns.SharedLatentModel(**settings).fit(fitted_on)
    scores = ns.separation(fitted.transform(train), fitted.transform(test), by="odor")
    return float(scores.mean_cross.sel(level="trial")), float(scores.mean_own.sel(level="trial"))


def test_a_shared_code_returns_and_shuffled_pairing_destroys_it(strong):
    train, test = strong
    cross, own = cross_accuracy(train, test, train)
    null, _ = cross_accuracy(train, test, train.repair(3, shuffle_conditions=True))
    chance = 0.25
    assert own > 0.7
    assert cross > chance + 0.4
    assert null < chance + 0.15


def test_subjects_that_share_nothing_have_no_shared_code(strong):
    train, test = strong
    cross, own = cross_accuracy(
        train, test, train, objective="independent", init="random", epochs=40, lr=3e-3
    )
    assert own > 0.4
    assert cross < 0.25 + 0.2


# ---------------------------------------------------------------------------- the start


def test_encoders_start_at_a_pooled_aligned_map_and_its_readout(parts):
    start = small(init="mcca", inputs="pooled", epochs=0).fit(parts[0])
    for name, encoder, decoder in zip(
        start.subjects_, start._trained.vae.encoders, start._trained.vae.decoders, strict=True
    ):
        sums = np.sqrt(parts[1][name].sum("lag").values)
        x = (sums - encoder.input_loc.numpy()) / encoder.input_scale.numpy()
        latents = start.transform(parts[1]).sel(subject=name).values
        expected = x @ encoder.skip.weight.detach().numpy().T
        np.testing.assert_allclose(latents, expected, atol=1e-4)
        assert decoder.output.out_features == len(start.units_[name])
    imputed = start.impute(parts[1], "mitt")
    assert (imputed.values == imputed.values[..., :1]).all()  # constant within a window


def test_the_recipe_belongs_to_the_name_and_the_object_is_the_paper():
    assert resolved("mmvm").cross > 0
    assert resolved(MMVM()).cross == 0


def test_another_recipe_does_not_change_stored_models(parts, tmp_path, monkeypatch):
    fitted = small().fit(parts[0])
    fitted.save(tmp_path / "model")
    stored = json.loads((tmp_path / "model" / "model.json").read_text())
    assert stored["params"]["objective"] == "mmvm"
    assert stored["objective"]["arguments"].items() >= dict(building.MMVM_RECIPE).items()
    monkeypatch.setattr(building, "MMVM_RECIPE", {"cross": 0.1, "combine": "mixture"})
    back = ns.SharedLatentModel.load(tmp_path / "model", device="cpu")
    assert back.objective == "mmvm"
    xr.testing.assert_identical(back.impute(parts[1], "mitt"), fitted.impute(parts[1], "mitt"))
    back.save(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "model.json").read_text()) == stored


def test_a_file_of_before_the_recipe_was_stored_means_that_of_then(parts, tmp_path):
    fitted = small(objective=MMVM(cross=0.8, combine="mean")).fit(parts[0])
    fitted.save(tmp_path / "model")

    def older(stored):
        del stored["objective"]
        stored["params"]["objective"] = "mmvm"

    edit(tmp_path / "model" / "model.json", older)
    old = ns.SharedLatentModel.load(tmp_path / "model", device="cpu")
    xr.testing.assert_identical(old.impute(parts[1], "mitt"), fitted.impute(parts[1], "mitt"))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_stored_with_its_arguments(name, parts, tmp_path):
    for objective in (name, OBJECTIVES[name]()):
        fitted = small(objective=objective, epochs=1).fit(parts[0])
        fitted.save(tmp_path / "model")
        back = ns.SharedLatentModel.load(tmp_path / "model", device="cpu")
        xr.testing.assert_identical(back.transform(parts[1]), fitted.transform(parts[1]))
