"""The files beside a dataflow: the only place of this package that reads the disk."""

from __future__ import annotations

import os

from dora.dataflow.report import did_you_mean

MANIFEST_FILE = "dora-node.yml"
"""What a node's program says about itself, in its folder, see `dora.dataflow.manifest`."""


class Unreadable(Exception):
    """A file cannot be used; ``str(error)`` is the sentence, ``hint`` the mend."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def read_text(path: str, shown: str, max_size: int | None = None) -> str:
    """Return the text of a file; raises `Unreadable`, whose sentence calls the file ``shown``.

    ``max_size`` is in bytes.
    """
    try:
        with open(path, "rb") as file:
            data = file.read() if max_size is None else file.read(max_size + 1)
    except FileNotFoundError:
        raise Unreadable(f"there is no file `{shown}`", similar_file(path)) from None
    except IsADirectoryError:
        raise Unreadable(f"`{shown}` is a folder; give the dataflow file in it") from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise Unreadable(f"cannot read `{shown}`: {reason}") from None
    if max_size is not None and len(data) > max_size:
        raise Unreadable(f"`{shown}` is larger than {max_size >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Unreadable(
            f"`{shown}` is not a text file in UTF-8 (line {line}); save it in this encoding"
        ) from None


def is_file(path: str) -> bool:
    """Tell whether there is a file at this path."""
    return os.path.isfile(path)


def names_a_file(path: str) -> bool:
    """Tell whether a path names a file: it ends in ``.py`` or has a folder in front; else a command."""
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
