"""The files of a dataflow's folder: what is copied to other machines, and what has changed since.

A file has changed if its size, its time of change or its mode has, as for rsync.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Final

import msgspec

from dora._paths import data_folder
from dora._shared_folders import check_folder_if_there
from dora.errors import DoraError
from dora.wire.decoders import from_json

Entry = tuple[int, int, int]
"""Size in bytes, time of change in ns, permissions."""

MAX_FILES: Final = 20_000
MAX_BYTES: Final = 8 << 30
EXCLUDED: Final = frozenset({".git", ".hg", ".dora", "__pycache__", "node_modules", "out"})
"""Folders that are made anew on each machine, or are nothing for nodes; so is one with a ``pyvenv.cfg``."""


def scan_folder(folder: str) -> dict[str, Entry]:
    """Return all files below a folder, by relative path.

    Links are followed, so that what they lead to is copied. Raises `DoraError` if it is more than a
    dataflow could need, a file cannot be read, or a name is not in UTF-8.
    """
    found: dict[str, Entry] = {}
    size = 0
    for path in _files(folder, {os.path.realpath(folder)}):
        try:
            about = os.stat(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):
                continue  # a link to nothing or to itself, or gone meanwhile
            raise DoraError(f"cannot read {path}: {error.strerror}") from None
        if not stat.S_ISREG(about.st_mode):
            continue  # a socket or the like
        if not os.access(path, os.R_OK):
            raise DoraError(f"cannot read {path}, which belongs to the folder of the dataflow")
        try:
            path.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            raise DoraError(f"the name of {shown} is not in UTF-8; give the file another name") from None
        size += about.st_size
        found[os.path.relpath(path, folder)] = (about.st_size, about.st_mtime_ns, about.st_mode & 0o777)
        if len(found) > MAX_FILES or size > MAX_BYTES:
            raise DoraError(
                f"the folder {folder} has more than {MAX_FILES:,} files or {MAX_BYTES >> 30} GiB, which is "
                "too much to copy; give the dataflow a folder of its own, or tell with `working_dir` in "
                "`deploy` where the files are on the machine"
            )
    return found


def _files(folder: str, above: set[str]) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DoraError(f"cannot read the folder {folder}: {error.strerror}") from None
    if any(entry.name == "pyvenv.cfg" for entry in entries):
        return
    for entry in entries:
        try:
            is_folder = entry.is_dir()
        except OSError:
            is_folder = False  # a link to itself, for example
        if not is_folder:
            yield entry.path
        elif entry.name not in EXCLUDED:
            real = os.path.realpath(entry.path)
            if real not in above:  # a link to a folder that it is in
                yield from _files(entry.path, above | {real})


def difference(here: Mapping[str, Entry], there: Mapping[str, Entry]) -> tuple[list[str], list[str]]:
    """Return which files have to be sent, and which are to be removed there.

    >>> difference({"a": (1, 1, 1), "b": (2, 2, 2)}, {"b": (2, 2, 3), "c": (0, 0, 0)})
    (['a', 'b'], ['c'])
    """
    return (
        sorted(path for path, entry in here.items() if there.get(path) != entry),
        sorted(path for path in there if path not in here),
    )


# The copy of a folder on this machine: its place, its lock, and the list of its files.

OWN_PREFIX: Final = ".dora-copy"
"""Names of files that dora adds to a copy begin so."""
LOCK: Final = f"{OWN_PREFIX}.lock"
"""The lock of a copy. It contains the path of the copy: a folder is one only where dora made it."""
_LONGEST: Final = 1 << 13  # bytes of a path
# Nothing but a file: a link could lead elsewhere, and to open a named pipe would wait for its other end.
_SAFE_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_MANIFEST: Final = f"{OWN_PREFIX}.json"


def copies_folder() -> str:
    return os.path.join(data_folder(), "dataflows")


def copy_path(name: str) -> str:
    """Return the folder of the copy of this name; raises `DoraError` for one that cannot be."""
    if not name or name.startswith(".") or "/" in name:
        raise DoraError(f"`{name}` is no name of a copy")
    return os.path.join(copies_folder(), name)


def copy_of(folder: str) -> str | None:
    """Return the copy that a folder is, or is in; None if it is none.

    It may have been made with another data folder.
    """
    while folder != (parent := os.path.dirname(folder)):
        if is_copy(folder):
            return folder
        folder = parent
    return None


def is_copy(folder: str) -> bool:
    """Return whether dora made a folder as a copy, at this place: its lock says so.

    A repository may contain files of the same names, and a folder with other files may lie beside copies.
    """
    try:
        lock = os.open(os.path.join(folder, LOCK), os.O_RDONLY | _SAFE_FLAGS)
    except OSError:
        return False
    try:
        return not os.path.islink(folder) and os.read(lock, _LONGEST) == _marker(folder)
    finally:
        os.close(lock)


def _marker(folder: str) -> bytes:
    return os.fsencode(os.path.realpath(folder)) + b"\n"


@contextmanager
def locked(folder: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a copy; its folder is made if there is none.

    Raises ``BlockingIOError`` if somebody has it and ``wait`` is false, another ``OSError`` if it cannot
    be written, `DoraError` if dora did not make it.
    """
    while (lock := _lock(folder, wait)) is None:
        pass  # it was removed meanwhile, with its lock
    with lock:
        yield


def _lock(folder: str, wait: bool) -> IO[bytes] | None:
    check_folder_if_there(folder, below=os.path.dirname(os.path.dirname(folder)))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    path = os.path.join(folder, LOCK)
    names = os.listdir(folder)
    if names and LOCK not in names:
        raise _not_a_copy(folder)
    try:
        lock = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | _SAFE_FLAGS, 0o600), "r+b", buffering=0)
    except FileNotFoundError:
        return None
    try:
        # The lock keeps processes apart that update or remove this copy. The kernel frees it when one is
        # killed.
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        # The last holder may have removed the file: a lock on what is no longer there keeps nobody out.
        if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
            found = lock.read(_LONGEST)
            if not found and os.listdir(folder) == [LOCK]:
                lock.write(_marker(folder))
            elif found != _marker(folder):
                raise _not_a_copy(folder)
            return lock
    except FileNotFoundError:
        pass
    except BaseException:
        lock.close()
        raise
    lock.close()
    return None


def _not_a_copy(folder: str) -> DoraError:
    return DoraError(
        f"{folder} is no copy that dora made, and stays as it is; move it elsewhere, or give DORA_DATA_DIR "
        "another value"
    )


def known_files(folder: str) -> set[str]:
    """Return which files belong to a copy, by relative path; some may not be there."""
    try:
        with open(os.path.join(folder, _MANIFEST), "rb") as file:
            return set(from_json(file.read(), dict[str, Entry]))
    except (FileNotFoundError, msgspec.DecodeError):
        return set()


def write_manifest(folder: str, files: Mapping[str, Entry]) -> None:
    """Write the list of files that belong to a copy."""
    path = os.path.join(folder, _MANIFEST)
    with open(f"{path}.new", "wb") as file:
        file.write(msgspec.json.encode(files))
    os.replace(f"{path}.new", path)  # not in place: with half a list, no file would be known


def inside(folder: str, path: str) -> str:
    """Return where a file of the copy is; raises `DoraError` for a path that leads out of its folder."""
    parts = path.split("/")
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise DoraError(f"`{path}` is no file of a copy")
    target = os.path.join(folder, *parts)
    top = os.path.realpath(folder)
    if os.path.commonpath([top, os.path.realpath(os.path.dirname(target))]) != top:
        raise DoraError(f"`{path}` leads out of the copy")
    return target


def remove_file(folder: str, path: str) -> None:
    """Remove a file of a copy, and the folders that are empty then."""
    target = inside(folder, path)
    try:
        os.unlink(target)
        while (target := os.path.dirname(target)) != folder:
            os.rmdir(target)
    except OSError:
        pass  # gone already, or the folder has other files
