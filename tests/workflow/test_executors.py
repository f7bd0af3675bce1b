"""Sweeps, choices and nulls by the same executors: the same numbers, and nothing is lost."""

import os
import signal
import threading
import time

import numpy as np
import pandas as pd
import pytest

import neuroshare as ns

CHOOSING = {"epochs": 0, "progress": False}
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


@pytest.mark.slow
def test_a_choice_is_the_same_in_processes(parts):
    here = ns.SharedLatentModel(**CHOOSING).fit(parts[0])
    there = ns.SharedLatentModel(**CHOOSING).fit(parts[0], executor=2)
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
def test_a_killed_worker_costs_a_null_nothing(parts, client):
    victim = next(iter(client.run(os.getpid).values()))

    def kill_mid_way():
        time.sleep(0.5)
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill_mid_way)
    killer.start()
    table = null(parts, client)
    killer.join()
    client.wait_for_workers(4)
    assert victim not in client.run(os.getpid).values()
    pd.testing.assert_frame_equal(null(parts), table, check_exact=True)
