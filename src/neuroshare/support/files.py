"""Files that appear whole or not at all, and folders that one process writes at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, which becomes `path` once it is whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        # A full disk does not say which file it had no room for.
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of these bytes, whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(data)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file; a process that dies, however it dies, gives it back.

    Gives False, at once, where another holds it and `wait` is False.
    """
    lock = FileLock(path, blocking=wait)
    with suppress(Timeout):
        lock.acquire()
    if not lock.is_locked:
        yield False
        return
    try:
        yield True
    finally:
        # While it is held: whoever has just opened it sees that it has no name, and opens it anew.
        with suppress(OSError):  # an open file cannot be removed on Windows
            path.unlink()
        lock.release()
