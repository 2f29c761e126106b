"""The files of a dataflow's folder: what is copied to other machines, and what has changed since.

A file has changed if its size, its time of change or its mode has, as for rsync.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from typing import Final

from dora.errors import DoraError

Entry = tuple[int, int, int]
"""Size in bytes, time of change in ns, permissions."""

MAX_FILES: Final = 20_000
MAX_BYTES: Final = 8 << 30
LEFT_OUT: Final = frozenset({".git", ".hg", ".dora", "__pycache__", "node_modules", "out"})
"""Folders that are made anew on each machine, or are nothing for nodes; so is one with a ``pyvenv.cfg``."""


def survey(folder: str) -> dict[str, Entry]:
    """Return all files below a folder, by relative path.

    Links are followed, so that what they lead to is copied. Raises `DoraError` if it is more than a
    dataflow could need, or a file cannot be read.
    """
    found: dict[str, Entry] = {}
    size = 0
    for path in _files(folder, {os.path.realpath(folder)}):
        try:
            about = os.stat(path)
        except FileNotFoundError:
            continue  # a link to nothing, or gone meanwhile
        if not stat.S_ISREG(about.st_mode):
            continue  # a socket or the like
        if not os.access(path, os.R_OK):
            raise DoraError(f"cannot read {path}, which belongs to the folder of the dataflow")
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
        if not entry.is_dir():
            yield entry.path
        elif entry.name not in LEFT_OUT:
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
