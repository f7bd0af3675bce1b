"""What an NWB file holds: groups and datasets by path, of HDF5 and Zarr alike.

Files are read as they are, not through the schema: what is needed of a file are a few tables, and
a reader of them all refuses files for what nobody asked of them.
"""

from __future__ import annotations

import errno
import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the compression filters that NWB files use)
import numpy as np

from neuroshare.recordings.damage import require_intact
from neuroshare.recordings.remote import file_name, is_remote, open_remote

DEEPEST = 12
"""Groups within groups that are looked into."""


class Tree:
    """An opened NWB file.

    Parameters
    ----------
    root : h5py.Group or zarr.Group
    name : str
        What errors call the file.
    folder : Path, optional
        Of a Zarr store, whose links are relative to it.
    """

    def __init__(self, root: Any, name: str, folder: Path | None = None) -> None:
        self.root = root
        self.name = name
        self._folder = folder

    def get(self, path: str) -> Any:
        """The group or dataset at a path, or None where there is none."""
        item = self.root
        for part in path.strip("/").split("/"):
            if not is_group(item) or part not in self.names(item):
                return None
            item = self.child(item, part)
        return item

    def names(self, group: Any) -> list[str]:
        """Names of what a group holds, with links."""
        names = list(group)
        return names + [name for name in self._links(group) if name not in names]

    def child(self, group: Any, name: str) -> Any:
        """What a group holds under a name; follows links.

        Raises
        ------
        ValueError
            A link to what is not there.
        """
        link = self._links(group).get(name)
        if link is not None:
            return self._linked(group, name, link)
        try:
            return group[name]
        except KeyError as error:
            target = group.get(name, getlink=True)
            place = f"{self.name}: {group.name.rstrip('/')}/{name}"
            if isinstance(target, h5py.ExternalLink):
                raise ValueError(
                    f"{place} links to {target.path} in {target.filename}, which is not there. "
                    "Put that file back beside this one, or export without links."
                ) from error
            if isinstance(target, h5py.SoftLink):
                raise ValueError(
                    f"{place} links to {target.path}, which the file does not hold. Export it "
                    "again."
                ) from error
            raise

    def groups(self) -> Iterator[tuple[str, Any]]:
        """Every group with its path, tables as leaves; not the schema, nor where links break."""
        seen: set[Any] = set()
        waiting = [("", self.root)]
        while waiting:
            path, group = waiting.pop(0)
            for name in self.names(group):
                inner = f"{path}/{name}".lstrip("/")
                if inner == "specifications" or inner.count("/") >= DEEPEST:
                    continue
                try:
                    item = self.child(group, name)
                except (KeyError, ValueError, OSError):
                    continue
                if not is_group(item) or (key := _identity(item)) in seen:
                    continue
                seen.add(key)
                yield inner, item
                if "colnames" not in item.attrs:
                    waiting.append((inner, item))

    def text(self, path: str) -> str | None:
        """The text at a path, or None."""
        item = self.get(path)
        if item is None or is_group(item) or int(np.prod(item.shape)) != 1:
            return None
        return text_of(np.asarray(item[()]).ravel()[0])

    def kind(self, item: Any) -> str:
        """The neurodata type of a group or dataset, or an empty text."""
        return text_of(item.attrs.get("neurodata_type", "")) or ""

    def target(self, reference: Any, item: Any = None) -> Any:
        """What a reference points to, or None where it points nowhere."""
        if isinstance(reference, np.ndarray):
            reference = reference.ravel()[0] if reference.size else None
        if isinstance(reference, h5py.Reference):
            if not reference:
                return None
            try:
                return (self.root if item is None else item.file)[reference]
            except (KeyError, ValueError):
                return None
        if isinstance(reference, Mapping):  # of hdmf-zarr
            value = reference.get("value", reference)
            if isinstance(value, Mapping) and "path" in value:
                return self._linked(self.root, "reference", value)
        return None

    def _links(self, group: Any) -> dict[str, Mapping[str, Any]]:
        """Links that hdmf-zarr keeps in an attribute of their group."""
        if self._folder is None or "zarr_link" not in group.attrs:
            return {}
        return {str(link["name"]): link for link in group.attrs["zarr_link"]}

    def _linked(self, group: Any, name: str, link: Mapping[str, Any]) -> Any:
        import zarr

        source, path = str(link.get("source") or "."), str(link["path"]).strip("/")
        assert self._folder is not None
        root, where = self.root, "the store itself"
        if source != ".":
            folder = Path(os.path.normpath(self._folder / source))
            where = folder.name
            root = zarr.open(str(folder), mode="r") if folder.is_dir() else {}
        try:
            return root[path] if path else root
        except KeyError as error:
            raise ValueError(
                f"{self.name}: {group.name.rstrip('/')}/{name} links to /{path} in {where}, which "
                f"is not there{'' if source == '.' else f' ({source})'}. Put it back, or export "
                "with link_data=False."
            ) from error


@contextmanager
def open_tree(path: str | os.PathLike[str], check: bool) -> Iterator[Tree]:
    """Open an NWB file, with every way in which it can fail told in one sentence.

    Raises
    ------
    FileNotFoundError, PermissionError, ConnectionError, ImportError
        The file is not there, or not within reach.
    ValueError
        Not NWB 2, held by another process, cut off, damaged, or compressed with an unknown filter.
    """
    name = file_name(path)
    with _root(path, check, name) as (root, folder):
        try:
            _require_nwb_2(root, name)
            yield Tree(root, name, folder)
        except ConnectionError:
            raise
        # A damaged file can claim any type, size and encoding of what it holds; what is refused
        # here for other reasons names the file already.
        except Exception as error:
            if str(error).startswith(f"{name}: "):
                raise
            raise ValueError(_unreadable(name, error)) from error


def _require_nwb_2(root: Any, name: str) -> None:
    version = np.ravel(root.attrs.get("nwb_version", [None]))[0]
    if version is None and "nwb_version" in root:
        version = np.ravel(root["nwb_version"][()])[0]
    version = text_of(version)
    if version is None or not re.match(r"(NWB-)?2", version):
        said = f"it says schema {version}" if version else "it states no version of NWB"
        todo = "Convert it to NWB 2 first" if version else "Export the recording as NWB first"
        raise ValueError(f"{name}: expected a readable NWB 2 file, but {said}. {todo}.")


@contextmanager
def _root(
    path: str | os.PathLike[str], check: bool, name: str
) -> Iterator[tuple[Any, Path | None]]:
    if is_remote(path):
        remote = open_remote(str(path))
        try:
            file = h5py.File(remote, "r")
        except ConnectionError:
            raise
        except OSError as error:
            raise ValueError(_unopened(name, error)) from error
        with file:
            yield file, None
        return
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file. Check the path.")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{path}: no permission to read it. Ask its owner, or copy it.")
    if any((path / part).exists() for part in (".zgroup", ".zmetadata", "zarr.json")):
        yield _zarr_root(path), path
        return
    if path.is_dir() or not h5py.is_hdf5(path):
        if path.is_dir() and (files := sorted(path.glob("*.nwb"))):
            some = ", ".join(file.name for file in files[:4]) + (", ..." if files[4:] else "")
            raise ValueError(
                f"{name or path.resolve()}: expected an NWB file, got a folder that holds "
                f"{len(files)}: {some}. Give them by name: {path / '*.nwb'}"
            )
        kind = "a folder" if path.is_dir() else "another kind of file, or a damaged one"
        raise ValueError(
            f"{name or path.resolve()}: expected an NWB file (HDF5), got {kind}. "
            "Give the path of one .nwb file; if it was downloaded, download it again."
        )
    if check:
        require_intact(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(_unopened(name, error)) from error
    with file:
        yield file, None


def _zarr_root(path: Path) -> Any:
    try:
        import hdf5plugin  # noqa: F401
        import zarr
    except ImportError as error:
        raise ImportError(
            f"{path.name}: a Zarr store needs hdmf-zarr, which is not installed. "
            "Install it with: pip install 'neuroshare-latents[zarr]'"
        ) from error
    # Not the consolidated metadata, which may be older than the store.
    try:
        return zarr.open_group(str(path), mode="r")
    except Exception as error:  # of every type, by version of zarr
        raise ValueError(
            f"{path.name}: expected a readable NWB 2 file, but zarr {zarr.__version__} fails on "
            f"it: {type(error).__name__}: {first_line(error)}. It may be of another version of "
            "Zarr, or a folder within a store; give the folder of the store."
        ) from error


def is_group(item: Any) -> bool:
    """Whether this holds other things; h5py and zarr groups are mappings, datasets are not."""
    return isinstance(item, Mapping)


def text_of(value: Any) -> str | None:
    """A value as text, or None where it is none."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.ravel()[0]
    if isinstance(value, bytes):
        value = value.decode()
    return str(value) if isinstance(value, str) else None


def texts_of(value: Any) -> list[str]:
    """An attribute that lists names, written as a list, as one text or padded with blanks."""
    if isinstance(value, str | bytes):
        value = [value]
    texts = [text_of(item) for item in np.ravel(np.asarray(value, dtype=object)).tolist()]
    return [text.strip() for text in texts if text is not None]


def first_line(error: Exception) -> str:
    """The beginning of what an exception says."""
    return textwrap.shorten((str(error).splitlines() or [""])[0], 120)


def _identity(item: Any) -> Any:
    if isinstance(item, h5py.Group):
        about = h5py.h5o.get_info(item.id)
        return about.fileno, about.addr
    return id(item.store), item.path


def _unopened(name: str, error: OSError) -> str:
    text = first_line(error)
    if error.errno in (errno.EAGAIN, errno.EACCES) or "unable to lock" in text:
        return (
            f"{name}: open for writing in another process, such as a notebook or an acquisition; "
            "close it there. On a drive without locks set HDF5_USE_FILE_LOCKING=FALSE "
            f"({text})."
        )
    if "already open for write" in text or "consistency flags" in text:
        return (
            f"{name}: was not closed by whoever wrote it last. Where nobody writes any more, run "
            f"h5clear -s on it ({text})."
        )
    if "truncated file" in text:
        sizes = dict(re.findall(r"(eof|stored_eof) = (\d+)", text))
        held = f" ({sizes['eof']} of {sizes['stored_eof']} bytes)" if len(sizes) == 2 else ""
        return f"{name}: expected a whole file, got one that is cut off{held}. Copy it again."
    return (
        f"{name}: expected a readable NWB 2 file, but HDF5 cannot open it "
        f"({type(error).__name__}: {text}). If it was copied or downloaded, do so again."
    )


def _unreadable(name: str, error: Exception) -> str:
    text = first_line(error)
    if "filter" in text or "plugin" in text:
        return (
            f"{name}: its data are compressed with a filter that is not installed here ({text}). "
            "Install the filter, or export the file with gzip."
        )
    return (
        f"{name}: expected complete data, but they cannot be read "
        f"({type(error).__name__}: {text}). The file is damaged; export it again."
    )
