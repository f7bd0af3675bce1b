"""Short names of data: equal for equal data."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from neuroshare.support.chunks import in_chunks


class Digest:
    """Takes in values one by one and names them all.

    Examples
    --------
    >>> one, other = Digest(), Digest()
    >>> one.add(np.arange(3))
    >>> other.add(np.arange(3.0))
    >>> one.name == other.name
    False
    """

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=8)

    def add(self, value: Any) -> None:
        """Take in an array, of which little is read at a time, or anything with a ``repr``."""
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufSU":
            self._digest.update(f"{value.dtype}{value.shape}".encode())
            for some in in_chunks(np.arange(len(value)), int(np.prod(value.shape[1:]))):
                self._digest.update(np.ascontiguousarray(value[some]).view(np.uint8).data)
        else:
            listed = value.tolist() if isinstance(value, np.ndarray) else value
            self._digest.update(repr(listed).encode())

    @property
    def name(self) -> str:
        """Of all that was taken in."""
        return self._digest.hexdigest()
