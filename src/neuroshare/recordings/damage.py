"""Whether the HDF5 library survives a file: a process that may be lost finds out.

The library trusts the bytes it reads. Damaged ones can crash it, or keep it busy for ever, where
Python raises nothing and the work of the whole process is gone. So another process goes first,
through all that a reader may touch; run as a script, this module is that process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the compression filters that NWB files use)

SECONDS = 5
"""Of computing, after which a single call has no end: a slow disk or a large file is no fault."""
WHOLE = 10**6
"""Values of variable length that are all read; of a longer dataset, and of numbers, the ends."""


def require_intact(path: str | os.PathLike[str]) -> None:
    """Raise where reading an HDF5 file would end or hang the process.

    Parameters
    ----------
    path : path
        A file on disk.

    Raises
    ------
    ValueError
        The file is damaged. What HDF5 refuses by itself raises nothing here, for its reader says
        better what is wrong.

    Notes
    -----
    Every object that the file holds or links to is opened, its attributes read, and of its data
    the first and last value; texts, and whatever else is of variable length, are read whole up to
    a million values. Damage in the midst of long arrays, where HDF5 only copies or decompresses,
    is not looked for. Windows has no timer of computing: there only crashes are found.
    """
    if not sys.executable:  # Python inside another program: no second one can be started
        return
    lost = subprocess.run(
        [sys.executable, "-P", __file__, os.fspath(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    ).returncode
    # Ended by a signal, or as Windows reports it; an exit of its own says nothing of the file.
    if lost < 0 or lost > 255:
        how = "never ends reading" if lost == -getattr(signal, "SIGPROF", 0) else "crashes on"
        raise ValueError(
            f"{Path(path).name}: expected an intact HDF5 file, but the HDF5 library {how} it "
            f"(exit {lost} of the process that tried). The file is damaged; download or export "
            "it again."
        )


def _walk(path: str) -> None:
    """Read as `require_intact` says; what raises an exception is left for others to tell."""
    with _step(), h5py.File(path) as file:
        seen: set[tuple[int, int]] = set()
        waiting: list[tuple[h5py.Group, Any]] = [(file, "/")]
        while waiting:
            parent, name = waiting.pop()
            with _step():
                item = parent[name]
                about = h5py.h5o.get_info(item.id)
                if (about.fileno, about.addr) in seen:
                    continue
                seen.add((about.fileno, about.addr))
                if isinstance(item, h5py.Group):
                    with _step():
                        waiting += [(item, link) for link in item]
                for value in _values(item):
                    if isinstance(value, h5py.Reference):
                        waiting.append((file, value))


def _values(item: Any) -> Iterator[Any]:
    """Values of the attributes of an object, and of the data of a dataset."""
    with _step():
        for name in [*item.attrs]:
            with _step():
                yield item.attrs[name]
    if isinstance(item, h5py.Dataset) and item.size:
        with _step():
            if item.dtype.hasobject and item.size <= WHOLE:
                item[()]
            for end in (0, -1):
                yield item[(end,) * item.ndim]


@contextmanager
def _step() -> Iterator[None]:
    """Limit the computing of what is done here, and go on after an exception."""
    if sys.platform != "win32":  # has no such timer
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    except Exception:
        return


if __name__ == "__main__":
    _walk(sys.argv[1])
