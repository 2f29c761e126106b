"""The files beside a dataflow: the only place of this package that reads the disk."""

from __future__ import annotations

import os
import re
import stat

from dora.dataflow.problems import did_you_mean

MANIFEST_FILE = "dora-node.yml"
"""The description of a node's program, in its folder; see `dora.dataflow.types.manifest`."""


MAX_SIZE = 16 << 20  # bytes of a file that is read whole; a huge one named by mistake must not fill memory

# Standard input, and what a shell gives for `<(command)`.
_descriptor = re.compile(r"/dev/fd/([0-9]{1,9})|/proc/self/fd/([0-9]{1,9})|/dev/stdin").fullmatch


class Unreadable(Exception):
    """A file cannot be used; ``str(error)`` is the sentence, ``hint`` the remedy."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def read_text(path: str, shown: str, max_size: int = MAX_SIZE) -> str:
    """Return the text of a file; raises `Unreadable`, whose sentence calls the file ``shown``.

    ``max_size`` is in bytes. A path to a device or a named pipe is refused without waiting for it; pipes
    that this process was started with are read.
    """
    try:
        data = read_bytes(path, max_size)
    except NotAFile as error:
        raise Unreadable(f"`{shown}` is {error}, not a file") from None
    except TooLarge:
        raise Unreadable(f"`{shown}` is larger than {max_size >> 20} MiB") from None
    except FileNotFoundError:
        raise Unreadable(f"there is no file `{shown}`", similar_file(path)) from None
    except IsADirectoryError:
        raise Unreadable(f"`{shown}` is a folder; give the dataflow file in it") from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise Unreadable(f"cannot read `{shown}`: {reason}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Unreadable(
            f"`{shown}` is not a text file in UTF-8 (line {line}); save it in this encoding"
        ) from None


class NotAFile(OSError):
    """A path leads to something that has no end or may never answer, which ``str(error)`` names."""


class TooLarge(OSError):
    """A file has too many bytes to read."""


def read_bytes(path: str, max_size: int = MAX_SIZE) -> bytes:
    """Return what is in a file; raises `OSError`: also `NotAFile` and `TooLarge`."""
    with open(open_to_read(path), "rb") as file:
        if os.fstat(file.fileno()).st_size > max_size:
            raise TooLarge
        data = file.read(max_size + 1)  # a file may grow, and a pipe has no size: one byte more shows it
    if len(data) > max_size:
        raise TooLarge
    return data


def open_to_read(path: str) -> int:
    """Return a descriptor of a regular file; raises `OSError`, or `NotAFile` for anything else.

    Opening never waits. Pipes that this process was started with are accepted, too.
    """
    ours = _descriptor(path)
    if ours is not None:
        number = int(ours[1] or ours[2] or 0)
        if not stat.S_ISREG(os.fstat(number).st_mode):
            return os.dup(number)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{path} is a folder")
        if not stat.S_ISREG(mode):
            raise NotAFile(kind_of(mode))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def kind_of(mode: int) -> str:
    """Return the kind of a path that is neither a file nor a folder, from its ``st_mode``."""
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def is_file(path: str) -> bool:
    """Return whether there is a file at this path."""
    return os.path.isfile(path)


def names_a_file(path: str) -> bool:
    """Return whether a path names a file: it ends in ``.py`` or has a folder in front; else a command."""
    return path.endswith(".py") or os.sep in path


def yaml_files_below(folder: str) -> list[str]:
    """Return the YAML files in a folder and its folders, relative to it, sorted."""
    found: list[str] = []
    for path, _, names in os.walk(folder):
        found += (
            os.path.relpath(os.path.join(path, name), folder)
            for name in names
            if name.endswith((".yml", ".yaml"))
        )
    return sorted(found)


def similar_file(path: str) -> str:
    """Return the hint for the name of a YAML file that is probably a slip, or ""."""
    names = [name for name in names_beside(path) if name.endswith((".yml", ".yaml"))]
    return did_you_mean(os.path.basename(path), names)


def names_beside(path: str) -> list[str]:
    """Return what is in the folder of a file, sorted; nothing if there is no such folder."""
    try:
        return sorted(os.listdir(os.path.dirname(path) or "."))
    except OSError:
        return []
