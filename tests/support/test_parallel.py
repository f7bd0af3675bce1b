import multiprocessing
import os
import signal
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

import neuroshare as ns
from neuroshare.support import parallel
from neuroshare.support.parallel import _pickled, run_each


class Noted(dict):
    """Data that leave a line wherever they arrive."""

    def __reduce__(self):
        return _arrived, (dict(self),)


def _arrived(content):
    with open(content["log"], "a") as log:
        log.write(f"{os.getpid()}\n")
    return Noted(content)


def times_sum(data, item):
    return item * data["x"].sum(), torch.get_num_threads()


def failing(data, item):
    if item == 1:
        raise KeyError("no such thing")
    return item


def deadly(data, item):
    """Take the worker along, on the first attempt at item 3."""
    mark = Path(data["folder"], "died")
    if item == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item + 1


def always_deadly(data, item):
    os.kill(os.getpid(), signal.SIGKILL)


def slow(data, item):
    with open(data["log"], "a") as log:
        log.write(f"{item}\n")
    time.sleep(0.3)
    return item


def mapped_sum(data, item):
    """Whether the array is mapped, its sum, and who took it."""
    time.sleep(0.1)
    found = data["x"]
    while isinstance(found, np.ndarray) and not isinstance(found, np.memmap):
        found = found.base
    return isinstance(found, np.memmap), data["x"].sum(dtype=int), os.getpid()


def collected(*arguments, **more):
    found = dict(run_each(*arguments, **more))
    return [found[position] for position in sorted(found)]


@pytest.fixture
def arrivals(tmp_path):
    (tmp_path / "arrivals").touch()
    return tmp_path / "arrivals"


@pytest.fixture(scope="module")
def client(dask_cluster):
    with dask_cluster(2) as client:
        yield client


@pytest.mark.parametrize("kind", ["here", "processes", "threads", "pool"])
def test_every_executor_gives_the_same_results(kind, arrivals, tmp_path):
    data, items = Noted(log=str(arrivals), x=np.arange(10.0)), list(range(6))
    executor = {
        "here": lambda: None,
        "processes": lambda: 2,
        "threads": lambda: ThreadPoolExecutor(2),
        "pool": lambda: ProcessPoolExecutor(2),
    }[kind]()
    assert collected(times_sum, data, items, executor, folder=tmp_path) == [
        (45.0 * item, 1) for item in items
    ]
    assert len(arrivals.read_text().split()) <= (0 if kind == "here" else 2)
    assert [path.name for path in tmp_path.iterdir()] == ["arrivals"], "nothing is left behind"
    if hasattr(executor, "shutdown"):
        executor.shutdown()


@pytest.mark.parametrize("executor", [None, 2])
def test_an_error_of_a_task_is_raised(executor):
    with pytest.raises(KeyError, match="no such thing"):
        collected(failing, {}, [0, 1, 2], executor)


def test_threads_of_a_task_are_as_told():
    before = torch.get_num_threads()
    for threads in (1, 2):
        assert collected(times_sum, {"x": np.ones(2)}, [1], threads=threads) == [(2.0, threads)]
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_tasks_of_a_killed_process_are_done_by_another(tmp_path):
    found = collected(deadly, {"folder": tmp_path}, list(range(8)), 2)
    assert found == list(range(1, 9))
    assert (tmp_path / "died").exists()


@pytest.mark.slow
def test_a_task_that_kills_every_worker_is_given_up():
    with pytest.raises(Exception, match=r"terminated|SIGKILL"):
        collected(always_deadly, {}, [0], 2)


class Unreliable:
    """Lose every second task, or every task."""

    def __init__(self, every):
        self.every, self.calls = every, []

    def submit(self, fn, *arguments):
        self.calls.append(arguments[-1])
        future = Future()
        if self.every or len(self.calls) % 2:
            future.set_exception(ConnectionError("the worker is gone"))
        else:
            future.set_result(fn(*arguments))
        return future


def test_tasks_of_lost_workers_are_resubmitted_while_any_other_ends():
    pool = Unreliable(every=False)
    assert collected(failing, {}, [2, 3, 4, 5, 6], pool) == [2, 3, 4, 5, 6]
    assert len(pool.calls) == 5 + 3 + 1 + 1
    with pytest.raises(ConnectionError):
        collected(failing, {}, [2, 3], pool := Unreliable(every=True))
    assert len(pool.calls) == 3 * 2


def test_data_whose_receiver_died_are_sent_anew(monkeypatch):
    sender, sent = parallel._sender, []

    @contextmanager
    def losing_the_first(*arguments):
        with sender(*arguments) as send:

            def sending():
                sent.append(True)
                if len(sent) == 1:
                    raise ConnectionError("the worker is gone")
                return send()

            yield sending

    monkeypatch.setattr(parallel, "_sender", losing_the_first)
    with ThreadPoolExecutor(1) as pool:
        assert collected(failing, {}, [2, 3], pool) == [2, 3]
    assert len(sent) == 2


def test_what_cannot_execute_is_refused():
    with pytest.raises(TypeError, match=r"'executor' parameter.*Got str"):
        collected(failing, {}, [0], "cluster")
    with pytest.raises(ValueError, match=r"'executor' parameter.*Got 0"):
        collected(failing, {}, [0], 0)


NOTEBOOK = """
import neuroshare as ns
from neuroshare import Objective

class Scaled:
    def __init__(self, factor):
        self.factor = factor

def task(data, item):
    import neuroshare
    assert neuroshare is ns and issubclass(ns.MMVM, Objective)
    return ns.__version__, data.factor * item
"""


@pytest.fixture
def notebook():
    """What a notebook defines, which no other process can import."""
    cells = {"__name__": "__main__"}
    exec(NOTEBOOK, cells)
    return cells


@pytest.mark.parametrize("kind", ["here", "processes", "spawned"])
def test_functions_and_classes_of_a_notebook_are_sent(notebook, kind):
    spawn = multiprocessing.get_context("spawn")
    executor = {
        "here": lambda: None,
        "processes": lambda: 2,
        "spawned": lambda: ProcessPoolExecutor(2, mp_context=spawn),
    }[kind]()
    found = collected(notebook["task"], notebook["Scaled"](3), [1, 2], executor)
    assert found == [(ns.__version__, 3), (ns.__version__, 6)]
    if hasattr(executor, "shutdown"):
        executor.shutdown()


def test_processes_leave_those_of_joblib_alone():
    assert joblib.Parallel(2)(joblib.delayed(abs)(-k) for k in range(3)) == [0, 1, 2]
    assert collected(failing, {}, [2, 3, 4], 2) == [2, 3, 4]
    assert joblib.Parallel(2)(joblib.delayed(abs)(-k) for k in range(3)) == [0, 1, 2]
    with pytest.raises(KeyError):
        collected(failing, {}, [0, 1, 2], 2)
    assert joblib.Parallel(2)(joblib.delayed(abs)(-k) for k in range(3)) == [0, 1, 2]


# ------------------------------------------------------------------------- data that are mapped


@pytest.fixture
def mapped(tmp_path):
    path = tmp_path / "counts.npy"
    np.save(path, np.arange(3 * 2**20, dtype=np.uint8).reshape(3, 1024, 1024))
    return np.load(path, mmap_mode="r")


def test_mapped_arrays_are_sent_by_name(mapped):
    import pickle

    views = [
        mapped,
        mapped.transpose(0, 2, 1),
        np.asarray(mapped)[1:, ::-1],
        mapped[:, 5:, :-7],
        mapped.view(np.ndarray).reshape(-1)[::-2],
    ]
    for view in views:
        content = _pickled(view)
        assert len(content) < 1000
        there = pickle.loads(content)
        assert not there.flags.writeable
        assert there.strides == view.strides
        np.testing.assert_array_equal(there, view)
    small = mapped[0, :10]
    assert len(_pickled(small)) > small.nbytes, "it is not worth a file"
    assert len(_pickled(np.array(mapped))) > mapped.nbytes, "a copy is no longer the file's"


def test_a_mapped_file_that_changed_or_is_not_there_is_refused(mapped):
    import pickle

    content, path = _pickled(mapped), Path(mapped.filename)
    os.utime(path, ns=(0, 0))
    with pytest.raises(ValueError, match="was changed since it was mapped"):
        pickle.loads(content)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="folder that all workers share"):
        pickle.loads(content)


# ------------------------------------------------------------------------- on a cluster


@pytest.mark.slow
def test_every_dask_worker_gets_the_data_once_and_maps_the_file(client, mapped, arrivals):
    data = Noted(log=str(arrivals), x=np.asarray(mapped)[:, ::2])
    found = collected(mapped_sum, data, list(range(12)), client)
    assert {(is_mapped, total) for is_mapped, total, _ in found} == {
        (True, mapped[:, ::2].sum(dtype=int))
    }
    workers = client.run(os.getpid).values()
    assert {worker for _, _, worker in found} == set(workers)
    assert sorted(map(int, arrivals.read_text().split())) == sorted(workers)


@pytest.mark.slow
def test_dask_tasks_have_one_thread_and_their_errors_are_raised(client):
    assert collected(times_sum, {"x": np.ones(3)}, [1, 2], client) == [(3.0, 1), (6.0, 1)]
    with pytest.raises(KeyError, match="no such thing"):
        collected(failing, {}, [0, 1, 2], client)


@pytest.mark.slow
def test_dask_workers_take_functions_and_classes_of_a_notebook(client, notebook):
    found = collected(notebook["task"], notebook["Scaled"](3), [1, 2], client)
    assert found == [(ns.__version__, 3), (ns.__version__, 6)]


@pytest.mark.slow
def test_a_killed_dask_worker_loses_nothing(client, tmp_path):
    (victim, _) = client.run(os.getpid).values()
    data, items, ended = {"log": str(tmp_path / "log")}, list(range(20)), []
    for position, result in run_each(slow, data, items, client):
        assert result == position
        ended.append(result)
        if len(ended) == 10:
            os.kill(victim, signal.SIGKILL)
    assert sorted(ended) == items
    # Only what the victim had in hand, and what it had just ended, is done again.
    assert len((tmp_path / "log").read_text().split()) <= len(items) + 3
    client.wait_for_workers(2)
    assert victim not in client.run(os.getpid).values()
