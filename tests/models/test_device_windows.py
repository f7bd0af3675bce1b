import re
import warnings

import numpy as np
import pytest
import torch
import xarray as xr

import neuroshare as ns
from neuroshare.models.device_windows import LIMIT, ResidentWindows, _available
from neuroshare.recordings import binning
from neuroshare.support import chunks

UNITS = {"mitt": 9, "barat": 7, "stella": 5}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sessions():
    return ns.simulate_sessions(UNITS, n_trials=8, seed=2)


@pytest.fixture(scope="module")
def counts(sessions):
    return {name: ns.bin_spikes(session, span=(-0.1, 0.4)) for name, session in sessions.items()}


def pair(counts, **more):
    fewer = counts | {"mitt": counts["mitt"].isel(trial=slice(3, None))}
    paired = ns.pair_subjects(fewer, by="odor", width=0.1, step=0.02, **more)
    return paired.split(0.3, seed=1)


def on_host(paired, limit=0, **more):
    with pytest.warns(UserWarning, match="do not fit"):
        return ResidentWindows(paired, CPU, limit=limit, **more)


@pytest.fixture(params=["memory", "float", "large", "map", "wide map"])
def stored(request, counts, sessions, tmp_path, monkeypatch):
    """The same kind of activity where it may lie."""
    if request.param == "float":
        return {name: array * 0.5 for name, array in counts.items()}
    if request.param == "large":
        return {name: array * 300 for name, array in counts.items()}
    if "map" in request.param:
        if "wide" in request.param:
            small = binning._write

            def refuse_bytes(*arguments):
                if arguments[-1] == np.uint8:
                    raise OverflowError
                small(*arguments)

            monkeypatch.setattr(binning, "_write", refuse_bytes)
        return {
            name: ns.bin_spikes(session, span=(-0.1, 0.4), cache=tmp_path)
            for name, session in sessions.items()
        }
    return counts


@pytest.mark.parametrize("surplus", ["repeat", "absent"])
def test_batches_from_the_host_are_those_of_the_device_to_the_last_bit(stored, surplus):
    for part in pair(stored, surplus=surplus):
        resident, gathered = ResidentWindows(part, CPU, limit=2**40), on_host(part)
        assert resident.resident
        assert not gathered.resident
        for epoch in (0, 1):
            resident.redraw(epoch)
            gathered.redraw(epoch)
            index = torch.randperm(len(part), generator=torch.Generator().manual_seed(epoch))
            for (x, seen), (y, too) in ((w.batch(index) for w in (resident, gathered)),):
                assert torch.equal(seen, too)
                assert all(map(torch.equal, x, y))
                assert {one.dtype for one in y} == {torch.float32}


def test_what_fits_is_held_and_the_warning_tells_sizes(counts):
    train, _ = pair(counts)
    sizes = {
        name: train.n_trials(name) * n_units * train.sizes["bin"] for name, n_units in UNITS.items()
    }
    limit = sizes["mitt"] + sizes["stella"]
    with pytest.warns(UserWarning, match="do not fit") as told:
        windows = ResidentWindows(train, CPU, limit=limit)
    assert [isinstance(view, torch.Tensor) for view in windows.views] == [True, False, True]
    (warning,) = told
    numbers = [float(n) for n in re.findall(r"([\d.e-]+) MiB", str(warning.message))]
    epoch = train.sizes["window"] * train.width * UNITS["barat"] * 2  # int16 where they lie
    assert numbers == pytest.approx([n / 2**20 for n in (sizes["barat"], limit, epoch)], rel=0.01)


def test_the_environment_sets_the_limit(counts, monkeypatch):
    train, _ = pair(counts)
    monkeypatch.setenv(LIMIT, "0")
    with pytest.warns(UserWarning, match="do not fit into the 0 MiB"):
        ResidentWindows(train, CPU)
    monkeypatch.setenv(LIMIT, "half")
    with pytest.raises(ValueError, match=rf"{LIMIT} must be a whole number of bytes. Got 'half'"):
        ResidentWindows(train, CPU)
    monkeypatch.delenv(LIMIT)
    assert ResidentWindows(train, CPU).resident


def test_what_is_available_is_the_least_of_machine_and_job(tmp_path):
    def tell(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert _available(tmp_path) > 2**60, "no limit is known"
    tell("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 3000 kB\n")
    assert _available(tmp_path) == 3000 * 1024
    tell("proc/self/cgroup", "0::/slurm/job_7\n")
    assert _available(tmp_path) == 3000 * 1024
    for most, expected in (("max\n", 3000 * 1024), ("5000\n", 1000), ("3000\n", 0)):
        tell("sys/fs/cgroup/slurm/job_7/memory.max", most)
        tell("sys/fs/cgroup/slurm/job_7/memory.current", "4000\n")
        assert _available(tmp_path) == expected
    assert _available() > 0


def test_a_fit_from_the_host_is_the_fit_from_the_device(stored, monkeypatch):
    train, test = pair(stored)
    settings = {"epochs": 2, "hidden": (8,), "latent_dim": 2, "progress": False}
    if train.dtype("mitt").kind == "f":
        settings["likelihood"] = "gaussian"
    latents = []
    for limit in (2**40, 0):
        monkeypatch.setenv(LIMIT, str(limit))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*do not fit")
            model = ns.SharedLatentModel(**settings).fit(train)
            latents.append(model.transform(test).values)
    np.testing.assert_array_equal(*latents)


def test_chunks_change_nothing(counts, monkeypatch):
    # What is computed trial by trial is, but for rounding, what is computed at once.
    train, test = pair(counts)
    settings = {"epochs": 1, "hidden": (8,), "latent_dim": 2, "progress": False}
    latents = []
    for chunk in (10**9, 1):
        monkeypatch.setattr(chunks, "CHUNK", chunk)
        model = ns.SharedLatentModel(**settings).fit(train)
        latents.append(model.transform(test).values)
    np.testing.assert_allclose(*latents, rtol=1e-4, atol=1e-5)


def test_what_is_said_of_mapped_counts_is_what_is_said_of_counts_in_memory(
    counts, sessions, tmp_path
):
    # Unsigned bytes wrap where somebody subtracts them.
    mapped = {
        name: ns.bin_spikes(session, span=(-0.1, 0.4), cache=tmp_path)
        for name, session in sessions.items()
    }
    model = ns.LinearAlignment("mcca", latent_dim=2)
    found = []
    for kept in (counts, mapped):
        train, test = pair(kept)
        model.fit(train)
        found.append(
            [
                ns.separation(model.transform(train), model.transform(test)),
                ns.imputation_scores(model, train, test, n_bootstraps=0),
                ns.residuals(model, test),
                ns.leakage_report(train.select(["mitt", "barat"]), n_folds=2),
            ]
        )
    for one, other in zip(*found, strict=True):
        xr.testing.assert_allclose(one, other, rtol=1e-9)
