"""Tasks here, in processes or on a cluster. Those of a worker that died are resubmitted."""

from __future__ import annotations

import io
import os
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import cloudpickle
import joblib
import numpy as np
from joblib.externals.loky import ProcessPoolExecutor
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

Data = TypeVar("Data")
Item = TypeVar("Item")
Result = TypeVar("Result")
Outcome = tuple[int, Any, Exception | None]
"""Position, result and error of a task. An error that is raised instead means a lost worker."""

_ONE_PER_PROCESS = threading.Lock()
"""Random numbers and numbers of threads belong to a process, not to a thread."""

_TRIES_IN_VAIN = 2
_MAPPED_BYTES = 2**20
"""Memory-mapped arrays from this size on travel by the name of their file."""


@runtime_checkable
class Executor(Protocol):
    """What tasks are submitted to: an executor of `concurrent.futures`, a Dask client, ..."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Start ``fn(*args)`` somewhere and give its future."""


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
        What to do, also a function of a notebook; what it raises is raised here.
    data
        Sent once to every worker. Memory-mapped arrays in it are opened there under the name of
        their file, not sent.
    items
        What differs between the calls.
    executor
        None: in this process, one after another. A number: in that many processes, as `joblib`
        counts them. A ``dask.distributed.Client``, of any cluster. Or any object whose `submit`
        returns futures of `concurrent.futures`.
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
    ValueError
        If it is the number 0.

    Notes
    -----
    A process runs one task at a time. The tasks of a worker that died are resubmitted; only when
    that was in vain twice in a row, with no other task ending in between, the loss is raised.
    """
    if not (executor is None or isinstance(executor, int | Executor)):
        raise TypeError(
            "The 'executor' parameter must be None, a number of processes, a Dask client or an "
            f"object with submit(function, *arguments). Got {type(executor).__name__} instead."
        )
    if isinstance(executor, int) and executor == 0:
        raise ValueError(
            "The 'executor' parameter must be a number of processes, -1 for one per core, or None "
            "for this process. Got 0 instead."
        )
    content = _Packed((task, data))
    left = dict(enumerate(items))
    with _sender(content, executor if left else None, folder) as send:
        in_vain = 0
        while left:
            n_left, loss = len(left), None
            for outcome in _outcomes(threads, send, left, executor):
                if isinstance(outcome, Exception):
                    loss = outcome
                    continue
                position, result, error = outcome
                if error is not None:
                    raise error
                del left[position]
                yield position, result
            in_vain = in_vain + 1 if len(left) == n_left else 0
            if loss is not None and in_vain > _TRIES_IN_VAIN:
                raise loss


def _work(threads: int, sent: Path | _Packed, position: int, item: Any) -> Outcome:
    try:
        with _ONE_PER_PROCESS, ThreadpoolController().limit(limits=threads):
            task, data = _read(sent) if isinstance(sent, Path) else sent.content
            return position, task(data, item), None
    except Exception as error:
        return position, None, error


def _outcomes(
    threads: int,
    send: Callable[[], Path | _Packed],
    left: Mapping[int, Any],
    executor: int | Executor | None,
) -> Iterator[Outcome | Exception]:
    """Do each task once; an exception stands for a lost worker."""
    if executor is None:
        yield from (_work(threads, send(), *one) for one in list(left.items()))
        return
    waiting: set[Future[Outcome]] = set()
    with _pool(executor) as pool:
        try:
            try:
                sent = send()
                waiting.update(pool.submit(_work, threads, sent, *one) for one in left.items())
            except Exception as error:  # the pool broke, or lost a worker that data were sent to
                yield error
            for future in as_completed(waiting):
                try:
                    outcome: Outcome | Exception = future.result()
                except Exception as error:
                    outcome = error
                # A cluster would compute a result again whose worker is lost while it is held here.
                waiting.discard(future)
                del future
                yield outcome
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def _pool(executor: Any) -> Iterator[Any]:
    """Give an executor of `concurrent.futures`."""
    if not isinstance(executor, int):
        # A scheduler that knows tasks by their arguments would remember a loss instead.
        yield executor.get_executor(pure=False) if _is_dask(executor) else executor
        return
    # Processes of our own: the reusable ones of loky are those of joblib and scikit-learn.
    pool = ProcessPoolExecutor(joblib.effective_n_jobs(executor))
    try:
        yield pool
    finally:
        pool.shutdown(kill_workers=True)


def _is_dask(executor: Any) -> bool:
    try:
        from distributed import Client
    except ImportError:
        return False
    return isinstance(executor, Client)


@contextmanager
def _sender(
    content: _Packed, executor: Any, folder: str | os.PathLike[str] | None
) -> Iterator[Callable[[], Path | _Packed]]:
    """Give what sends task and data, once for each time that tasks are submitted."""
    if executor is None:
        yield lambda: content
    elif not isinstance(executor, int) and _is_dask(executor):

        def scatter() -> Any:
            executor.wait_for_workers(1)  # a batch system may take its time to start the first
            return executor.scatter(content, broadcast=True, hash=False)

        yield scatter
    else:
        with tempfile.TemporaryDirectory(prefix="data-", dir=folder) as temporary:
            file = Path(temporary).absolute() / "data.pickle"
            file.write_bytes(_pickled(content.content))
            yield lambda: file


@lru_cache(maxsize=1)
def _read(file: Path) -> Any:
    with file.open("rb") as stream:
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


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Writes the place of memory-mapped arrays instead of what they hold."""

    def reducer_override(self, value: Any) -> Any:
        """Name file, place and time of a mapped array, so that a changed file is refused."""
        mapped = _map_under(value) if isinstance(value, np.ndarray) else None
        if mapped is None or value.nbytes < _MAPPED_BYTES:
            return super().reducer_override(value)
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
