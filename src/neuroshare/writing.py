"""Files that appear whole or not at all, and folders that one process writes at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    if sys.platform == "win32":  # has no such lock: two processes may do the same twice
        yield True
        return
    import fcntl

    while True:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            # Who held it before has removed it meanwhile: hold the file that others find.
            if not _is_at(file.fileno(), path):
                continue
            try:
                yield True
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
