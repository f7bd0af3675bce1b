"""Where work is done: in this process, in several, or on a cluster. A lost worker loses nothing."""

from __future__ import annotations

import io
import os
import pickle
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import joblib
import numpy as np
from joblib.externals.loky import get_reusable_executor
from numpy.typing import NDArray
from sklearn.utils.parallel import ThreadpoolController

Data = TypeVar("Data")
Item = TypeVar("Item")
Result = TypeVar("Result")

_ONE_PER_PROCESS = threading.Lock()
"""Random numbers and numbers of threads belong to a process, not to a thread."""

_TRIES_IN_VAIN = 2
_MAPPED_BYTES = 2**20
"""Memory-mapped arrays from this size on travel by the name of their file."""


@runtime_checkable
class Executor(Protocol):
    """What tasks are handed to: a Dask client, an executor of `concurrent.futures`, ..."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Start ``fn(*args)`` somewhere; the future has `result`, `cancel`, `add_done_callback`."""


def run_each(
    task: Callable[[Data, Item], Result],
    data: Data,
    items: Sequence[Item],
    executor: int | Executor | None = None,
    *,
    threads: int = 1,
    folder: str | os.PathLike[str] | None = None,
) -> Iterator[tuple[int, Result]]:
    """Give the position of every item and ``task(data, item)``, as they end.

    Parameters
    ----------
    task
        What to do; what it raises is raised here.
    data
        Sent once to every worker. Memory-mapped arrays in it are opened there under the name of
        their file, not sent.
    items
        What differs between the calls.
    executor
        None: in this process, one after another. A number: in that many processes, as `joblib`
        counts them. A ``dask.distributed.Client``, of any cluster. Or any object whose `submit`
        returns futures as those of `concurrent.futures`.
    threads
        Threads of the numerics of a task. With the same number the results are the same wherever
        they were computed on a CPU.
    folder
        Where the data go for workers that read them from a file, which are all but those of Dask;
        a temporary folder by default.

    Raises
    ------
    TypeError
        If `executor` is none of these.

    Notes
    -----
    A process runs one task at a time. What a lost worker had is handed out again; only when that
    was in vain twice in a row, with no other task ending in between, the loss is raised.
    """
    if not (executor is None or isinstance(executor, int | Executor)):
        raise TypeError(
            "The 'executor' parameter must be None, a number of processes, a Dask client or an "
            f"object with submit(function, *arguments). Got {type(executor).__name__} instead."
        )
    if executor is None or not items:
        for position, item in enumerate(items):
            yield position, _limited(task, threads, data, item)
        return
    left = dict(enumerate(items))
    work = partial(_work, task, threads)
    with _sent(data, executor, folder) as send:
        in_vain = 0
        while left:
            loss = None
            n_left = len(left)
            for outcome in _outcomes(work, send(), left, executor):
                if isinstance(outcome, _Lost):
                    loss = outcome.error
                    continue
                if outcome.error is not None:
                    raise outcome.error
                del left[outcome.position]
                yield outcome.position, outcome.result
            in_vain = in_vain + 1 if len(left) == n_left else 0
            if loss is not None and in_vain > _TRIES_IN_VAIN:
                raise loss


@dataclass(frozen=True)
class _Ended:
    """What became of a task. Its error is a value, so that what is raised means a lost worker."""

    position: int
    result: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class _Lost:
    """A worker is gone."""

    error: Exception


def _work(task: Callable[..., Any], threads: int, data: Any, position: int, item: Any) -> _Ended:
    try:
        return _Ended(position, _limited(task, threads, data, item))
    except Exception as error:
        return _Ended(position, error=error)


def _limited(task: Callable[..., Any], threads: int, data: Any, item: Any) -> Any:
    with _ONE_PER_PROCESS, ThreadpoolController().limit(limits=threads):
        if isinstance(data, _Packed):
            data = data.content
        elif isinstance(data, _File):
            data = _loaded(data)
        return task(data, item)


def _outcomes(
    work: Callable[..., _Ended], data: Any, left: Mapping[int, Any], executor: int | Executor
) -> Iterator[_Ended | _Lost]:
    pool: Executor = (
        # These processes take functions of notebooks too; a new set replaces one that is broken.
        get_reusable_executor(joblib.effective_n_jobs(executor))
        if isinstance(executor, int)
        else executor
    )
    submit: Callable[..., Any] = pool.submit
    if _is_dask(pool):
        # A scheduler that knows tasks by their arguments would remember the loss instead.
        submit = partial(submit, pure=False)
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    futures = (submit(work, data, position, item) for position, item in left.items())
    waiting = {id(future): future for future in futures}
    try:
        for future in waiting.values():
            future.add_done_callback(ended.put)
        while waiting:
            future = ended.get()
            try:
                outcome = future.result()
            except Exception as error:
                outcome = _Lost(error)
            # A cluster would compute a result again whose worker is lost while it is held here.
            del waiting[id(future)], future
            yield outcome
    finally:
        for future in waiting.values():
            future.cancel()


def _is_dask(executor: Executor) -> bool:
    try:
        from distributed import Client
    except ImportError:
        return False
    return isinstance(executor, Client)


@contextmanager
def _sent(
    data: Any, executor: int | Executor, folder: str | os.PathLike[str] | None
) -> Iterator[Callable[[], Any]]:
    """Give what sends the data, once for each time that tasks are handed out."""
    if not isinstance(executor, int) and _is_dask(executor):
        client: Any = executor

        def scatter() -> Any:
            client.wait_for_workers(1)  # a batch system may take its time to start the first
            return client.scatter(_Packed(data), broadcast=True, hash=False)

        yield scatter
        return
    with tempfile.TemporaryDirectory(prefix="data-", dir=folder) as temporary:
        file = _File(Path(temporary).absolute() / "data.pickle")
        file.path.write_bytes(_pickled(data))
        yield lambda: file


@dataclass(frozen=True)
class _File:
    """Stands for data that a process reads once."""

    path: Path


@lru_cache(maxsize=1)
def _loaded(file: _File) -> Any:
    with file.path.open("rb") as stream:
        return pickle.load(stream)


class _Packed:
    """Holds data whose memory-mapped arrays are opened wherever it arrives, and sent on by name."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Callable[[bytes], _Packed], tuple[bytes]]:
        return _unpacked, (_pickled(self.content),)


def _unpacked(pickled: bytes) -> _Packed:
    return _Packed(pickle.loads(pickled))


def _pickled(data: Any) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, protocol=5).dump(data)
    return stream.getvalue()


class _Pickler(pickle.Pickler):
    """Writes the place of memory-mapped arrays instead of what they hold."""

    def reducer_override(self, value: Any) -> Any:
        """Name file, place and time of a mapped array, so that a changed file is refused."""
        mapped = _map_under(value) if isinstance(value, np.ndarray) else None
        if mapped is None or value.nbytes < _MAPPED_BYTES:
            return NotImplemented
        low, high = np.lib.array_utils.byte_bounds(value)
        root = mapped.__array_interface__["data"][0]
        first = value.__array_interface__["data"][0] - low
        path = Path(str(mapped.filename)).absolute()
        place = (path, path.stat().st_mtime_ns, mapped.offset + low - root, high - low, first)
        return _reopened, (*place, value.dtype, value.shape, value.strides)


def _map_under(value: NDArray[Any]) -> np.memmap[Any, Any] | None:
    """Find the memory map of which an array shows a part, if there is one."""
    found: Any = value
    while isinstance(found, np.ndarray):
        if isinstance(found, np.memmap) and not isinstance(found.base, np.ndarray):
            return found if found.filename is not None else None
        found = found.base
    return None


def _reopened(
    path: Path,
    changed: int,
    offset: int,
    n_bytes: int,
    first: int,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> NDArray[Any]:
    try:
        same = path.stat().st_mtime_ns == changed
    except FileNotFoundError:
        raise FileNotFoundError(
            f"a worker does not see {path}, the memory-mapped counts. "
            "Keep the cache in a folder that all workers share."
        ) from None
    if not same:
        raise ValueError(f"{path} was changed since it was mapped. Bin the session again.")
    held = np.memmap(path, np.uint8, "r", offset, (n_bytes,))
    return np.ndarray(shape, dtype, held, first, strides)
