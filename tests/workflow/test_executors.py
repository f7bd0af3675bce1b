"""Sweeps, choices and nulls by the same executors: the same numbers, and nothing is lost."""

import os
import signal
import threading

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

import neuroshare as ns
from neuroshare.models import choosing

CHOOSING = {"epochs": 0, "progress": False}
TRAINING = {"objective": "poe", "latent_dim": 2, "inputs": "pooled", "progress": False}
"""Training from either start is tried, and given up in one fold."""
START = {"epochs": 0, "latent_dim": 2, "inputs": "pooled", "progress": False}


@pytest.fixture(scope="module")
def parts():
    sessions = ns.simulate_sessions({"mitt": 9, "stella": 7, "barat": 8}, n_trials=12, signal=2.0)
    counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}
    return ns.pair_subjects(counts, by="odor", step=0.1).split(0.34)


@pytest.fixture(scope="module")
def client(dask_cluster):
    with dask_cluster(4) as client:
        yield client


def null(parts, executor=None):
    models = {"start": ns.SharedLatentModel(**START), "mcca": ns.LinearAlignment("mcca", 2, 5, 0.5)}
    how = {"baselines": False, "imputation": False, "n_bootstraps": 0, "n_repairings": 30}
    return ns.compare(*parts, models, executor=executor, **how)


def swept(parts, out, executor=None):
    grid = {"objectives": ["mmvm", "poe"], "betas": [0.1, 1.0], "seeds": range(2)}
    settings = {**START, "latent_dim": "auto", "epochs": 1}
    settings.pop("progress")
    return ns.sweep(*parts, out, model=settings, progress=False, executor=executor, **grid)


@pytest.fixture(scope="module")
def trained(parts):
    return ns.SharedLatentModel(**TRAINING).fit(parts[0]).selection_


@pytest.mark.slow
@pytest.mark.parametrize("settings", [CHOOSING, TRAINING], ids=["start", "training"])
def test_a_choice_is_the_same_in_processes(parts, settings):
    here = ns.SharedLatentModel(**settings).fit(parts[0])
    there = ns.SharedLatentModel(**settings).fit(parts[0], executor=2)
    assert here.chosen_ == there.chosen_
    pd.testing.assert_frame_equal(here.selection_, there.selection_, check_exact=True)
    np.testing.assert_array_equal(here.transform(parts[1]), there.transform(parts[1]))


@pytest.mark.slow
def test_four_workers_of_a_cluster_give_the_same_to_the_last_bit(parts, client, tmp_path):
    here = ns.SharedLatentModel(**CHOOSING).fit(parts[0])
    there = ns.SharedLatentModel(**CHOOSING).fit(parts[0], executor=client)
    pd.testing.assert_frame_equal(here.selection_, there.selection_, check_exact=True)
    pd.testing.assert_frame_equal(null(parts), null(parts, client), check_exact=True)
    tables = swept(parts, tmp_path / "here"), swept(parts, tmp_path / "there", client)
    pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.slow
def test_how_long_to_train_is_chosen_alike_with_any_threads_and_by_a_cluster(
    parts, client, trained
):
    assert set(trained["init"]) == {"mcca", "random"}
    with threadpool_limits(2):
        found = ns.SharedLatentModel(**TRAINING).fit(parts[0]).selection_
    pd.testing.assert_frame_equal(found, trained, check_exact=True)
    found = ns.SharedLatentModel(**TRAINING).fit(parts[0], executor=client).selection_
    pd.testing.assert_frame_equal(found, trained, check_exact=True)


@pytest.mark.slow
def test_a_killed_worker_costs_a_null_nothing(parts, client):
    victim = next(iter(client.run(os.getpid).values()))
    killer = threading.Timer(0.5, os.kill, (victim, signal.SIGKILL))
    killer.start()
    table = null(parts, client)
    killer.join()
    client.wait_for_workers(4)
    assert victim not in client.run(os.getpid).values()
    pd.testing.assert_frame_equal(null(parts), table, check_exact=True)


@pytest.mark.slow
def test_a_killed_worker_costs_the_choice_of_training_nothing(
    parts, client, trained, tmp_path, monkeypatch
):
    tried, mark = choosing._tried, tmp_path / "killed"

    def killing_once(trials, asked):
        looks = tried(trials, asked)
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return looks

    monkeypatch.setattr(choosing, "_tried", killing_once)
    found = ns.SharedLatentModel(**TRAINING).fit(parts[0], executor=client).selection_
    assert mark.exists()
    client.wait_for_workers(4)
    pd.testing.assert_frame_equal(found, trained, check_exact=True)


@pytest.mark.slow
def test_an_interrupted_choice_goes_on_from_the_start_that_was_chosen(parts, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    checkpoint = tmp_path / "checkpoint"
    few = parts[0].select(["mitt", "stella"])
    settings = {**TRAINING, "objective": "mmvm"}
    with monkeypatch.context() as patched:
        patched.setattr(choosing, "_steps", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ns.SharedLatentModel(**settings).fit(few, checkpoint=checkpoint)
    with monkeypatch.context() as patched:
        patched.setattr(choosing, "_start", interrupted)
        found = ns.SharedLatentModel(**settings).fit(few, checkpoint=checkpoint).selection_
    whole = ns.SharedLatentModel(**settings).fit(few).selection_
    pd.testing.assert_frame_equal(found, whole)
