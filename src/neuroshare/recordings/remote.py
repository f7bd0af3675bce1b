"""Files behind a URL, or in the DANDI archive, of which only the bytes asked for are fetched."""

from __future__ import annotations

import os
import re
from pathlib import PurePath, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

DANDI = "https://api.dandiarchive.org/api"
TIMEOUT = 20.0
"""Seconds without an answer after which a request has failed."""

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DANDI_LOCATION = re.compile(r"dandi:(?://dandi/)?(\d{6})(?:@([^/]+))?/(.+)", re.IGNORECASE)


def is_remote(location: str | os.PathLike[str]) -> bool:
    """Whether a location is a URL or names an asset in DANDI, rather than a path."""
    return str(location).lower().startswith(("http://", "https://", "dandi:"))


def file_name(location: str | os.PathLike[str]) -> str:
    """Name of a file without its folders, of a path as of a URL."""
    if not is_remote(location):
        return PurePath(location).name
    path = PurePosixPath(unquote(urlsplit(str(location)).path))
    # DANDI serves what it knows by a number as .../download/.
    return path.name or str(location)


def open_remote(location: str) -> RemoteFile:
    """Open an HDF5 file for reading over HTTP(S).

    Parameters
    ----------
    location : str
        A URL, or ``dandi:000006/sub-x/sub-x_ses-y.nwb``; a version of the dandiset follows its
        number, as in ``dandi:000006@0.220126.1855/...``, and is else the draft.

    Returns
    -------
    RemoteFile
        Bytes are fetched in blocks of 100 kB and more as they are read, and kept.

    Raises
    ------
    ImportError
        remfile is not installed.
    FileNotFoundError
        The server or the archive knows no such file.
    ValueError
        Not a location in DANDI, not HDF5, or the server serves whole files only.
    ConnectionError
        The server cannot be reached, does not answer in time, or refuses.
    """
    try:
        import remfile
    except ImportError as error:
        raise ImportError(
            f"{location}: reading over HTTP needs remfile, which is not installed. "
            "Install it with: pip install 'neuroshare-latents[formats]'"
        ) from error
    url = _dandi_url(location) if location.lower().startswith("dandi:") else location
    # Asked for first, because remfile would try nine times to read the whole file in place of a
    # piece, and learn its length from a download that it breaks off.
    with _answer(location, url, headers={"Range": "bytes=0-7"}) as first:
        size = first.headers.get("Content-Range", "").rpartition("/")[2]
        if first.status_code != 206 or not size.isdigit():
            raise ValueError(
                f"{location}: expected a server that serves pieces of a file (range requests), "
                "got one that only serves all of it. Download the file, and give its path."
            )
        if first.content != _HDF5_SIGNATURE:
            raise ValueError(
                f"{location}: expected an NWB file (HDF5), got something else. Give the address "
                "of the file itself, not of a page about it."
            )
        # Past the redirections, which would otherwise be followed for each piece again.
        source = remfile.File(first.url, _size=int(size))
    source.session = _session()
    return RemoteFile(source, location)


class RemoteFile:
    """Bytes of a remote file; a failure of any kind is a ConnectionError that names the file.

    Parameters
    ----------
    source : file-like
        From remfile.
    location : str
        What the user called the file.
    """

    def __init__(self, source: Any, location: str) -> None:
        self._source = source
        self._location = location
        self._failure: ConnectionError | None = None
        self.seek, self.tell = source.seek, source.tell

    def read(self, size: int) -> bytes:
        """Read `size` bytes from the current position."""
        # HDF5 reads on after a failure, while it closes the file: every time half a minute more.
        if self._failure is not None:
            raise self._failure
        try:
            return bytes(self._source.read(size))
        except Exception as error:
            self._failure = ConnectionError(
                f"{self._location}: the connection failed while the file was read "
                f"({type(error).__name__}: {error}). Try again, or download the file."
            )
            raise self._failure from error


def _answer(location: str, url: str, **request: Any) -> Any:
    """The response of a server, of which only the head has been read."""
    import requests

    try:
        response = requests.get(url, stream=True, timeout=TIMEOUT, **request)
        if response.status_code in (404, 410):
            raise FileNotFoundError(
                f"{location}: no such file on {urlsplit(url).netloc} "
                f"(HTTP {response.status_code}). Check the address."
            )
        response.raise_for_status()
    except requests.Timeout as error:
        raise ConnectionError(
            f"{location}: no answer from {urlsplit(url).netloc} within {TIMEOUT:g} s. "
            "Try again later, or download the file."
        ) from error
    except requests.RequestException as error:
        raise ConnectionError(
            f"{location}: cannot be read from {urlsplit(url).netloc} ({error}). "
            "Check the address, the network and whether the file is public."
        ) from error
    return response


def _session() -> Any:
    """Requests that end: remfile sets no time limit, and waits for a silent server nine times."""
    import requests

    session: Any = requests.Session()
    get = session.get
    silent: list[requests.Timeout] = []

    def get_in_time(url: str, **request: Any) -> Any:
        if len(silent) > 1:
            raise silent[-1]
        try:
            return get(url, timeout=TIMEOUT, **request)
        except requests.Timeout as error:
            silent.append(error)
            raise

    session.get = get_in_time
    return session


def _dandi_url(location: str) -> str:
    """Where DANDI serves an asset that is named by its path in a dandiset."""
    parts = _DANDI_LOCATION.fullmatch(location)
    if parts is None:
        raise ValueError(
            f"{location}: expected dandi:NUMBER/PATH with the six digits of a dandiset and the "
            "path of a file in it, such as dandi:000006/sub-anm369962/sub-anm369962.nwb."
        )
    dandiset, version, path = parts[1], parts[2] or "draft", parts[3]
    url = f"{DANDI}/dandisets/{dandiset}/versions/{version}/assets/"
    with _answer(location, url, params={"path": path, "page_size": 100}) as response:
        try:
            assets = {asset["path"]: asset["asset_id"] for asset in response.json()["results"]}
        except (ValueError, TypeError, KeyError) as error:
            raise ConnectionError(
                f"{location}: expected a list of assets from {url}, got something else."
            ) from error
    if path not in assets:
        found = ", ".join(list(assets)[:3]) + (", ..." if len(assets) > 3 else "")
        raise FileNotFoundError(
            f"{location}: no file {path!r} in dandiset {dandiset} ({version}). "
            f"Found there: {found or 'none'}."
        )
    return f"{DANDI}/assets/{assets[path]}/download/"
