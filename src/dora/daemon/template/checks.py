"""Checks that a fork will be like a plain start. If one fails, the node is started plainly."""

from __future__ import annotations

import os
import re
import resource
import sys
import sysconfig
import time
import tokenize
from collections.abc import Mapping
from importlib.machinery import all_suffixes
from typing import Final

import dora
from dora.daemon.template import generators
from dora.daemon.template.context import LIMITS, is_read_early, read_link, umask

_OF_THE_RUN: Final = b"DORA_"  # a node reads these itself


def different_variable(
    ours: Mapping[bytes, bytes], theirs: Mapping[bytes, bytes], read: frozenset[str]
) -> str:
    """Return a variable that has another value than at the imports, and was read there; "" if none has.

    ``read`` are the names that Python code has read. A variable of compiled code is known by its name: it
    is in a list, or begins with the name of a package that was imported.
    """
    for name in sorted(ours.keys() | theirs.keys()):
        values = {ours.get(name), theirs.get(name)}
        if len(values) == 2 and not name.startswith(_OF_THE_RUN):
            text = os.fsdecode(name)
            is_early = any(is_read_early(text, os.fsdecode(value)) for value in values if value is not None)
            if text in read or is_early or _is_named_after_package(text):
                return text
    return ""


def _is_named_after_package(variable: str) -> bool:
    """Return whether a variable begins with the name of a package that was imported: ``JAX_PLATFORMS``."""
    first = variable.partition("_")[0]
    loaded = {first, first.lower()} & sys.modules.keys()
    return bool(loaded - sys.stdlib_module_names)


def shadowed_module(folder: str) -> str:
    """Return an imported module for which a folder has a file of its own; "" if there is none."""
    try:
        names = os.listdir(folder)
    except OSError:
        return ""
    for name in names:
        module = name.partition(".")[0]
        if module not in sys.modules or module == "__main__" or not _is_module(folder, name):
            continue
        if not _is_the_file(module, f"{folder}/{name}"):
            return module
    return ""


def _is_module(folder: str, name: str) -> bool:
    """Return whether a file or a folder in a folder is a module."""
    suffix = name[name.find(".") :] if "." in name else ""
    return suffix in all_suffixes() or (not suffix and os.path.isfile(f"{folder}/{name}/__init__.py"))


def _is_the_file(module: str, path: str) -> bool:
    """Return whether a module was imported from a path."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return False
    return os.path.abspath(file) in (os.path.abspath(path), os.path.abspath(f"{path}/__init__.py"))


def is_python_text(path: str) -> bool:
    """Return whether a file can be read as the text of a program: Python has its own words for others."""
    try:
        with open(path, "rb") as file:
            encoding = tokenize.detect_encoding(file.readline)[0]
            file.seek(0)
            source = file.read()
        source.decode(encoding)
    except (OSError, SyntaxError, UnicodeDecodeError, LookupError):
        return False
    return b"\0" not in source


LOOK_EVERY: Final = 0.2  # seconds; a look asks for the time of each file, so starts in a burst share one


def _site_folders() -> list[str]:
    """Return the folders of installed packages on ``sys.path``."""
    return [folder for folder in sys.path if folder.endswith(("site-packages", "dist-packages"))]


_INSTALLED: Final = tuple(
    os.path.join(folder, "")
    for folder in {
        *(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")),
        *_site_folders(),
        os.path.dirname(dora.__file__),
    }
)


class PackageFiles:
    """The files of what was imported, to notice that a package was installed or changed since."""

    def __init__(self) -> None:
        self._times = self._now()
        self._looked = time.monotonic()
        self._changed = ""

    @property
    def changed(self) -> str:
        """A path that has changed since, "" if none has; looked for at most every `LOOK_EVERY` seconds."""
        if time.monotonic() - self._looked > LOOK_EVERY:
            found = (path for path, before in self._times.items() if _time(path) != before)
            self._changed = next(found, "")
            self._looked = time.monotonic()
        return self._changed

    def _now(self) -> dict[str, int]:
        files = {file for module in list(sys.modules.values()) if (file := _file_of(module))}
        # A package that is installed, removed or upgraded changes the folder.
        return {path: _time(path) for path in [*_site_folders(), *files]}


def _file_of(module: object) -> str | None:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return None
    # Those of Python itself do not change below a running system.
    is_installed = os.path.abspath(file).startswith(_INSTALLED)
    return file if "site-packages" in file or "dist-packages" in file or not is_installed else None


def _time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0  # it is gone, which is a change as well


class Traces:
    """Traces of an import in this process that a fork would lose, share with others or copy badly.

    The threads of OpenBLAS are fine: it ends them before a fork, and starts them again.
    """

    def __init__(self) -> None:
        self._threads = len(os.listdir("/proc/self/task"))
        self._descriptors = _descriptors()
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            maps = file.read()
        self._openblas = frozenset(re.findall(r"/\S*openblas\S*", maps))
        self._shared = frozenset(re.findall(r"^\S+ rw.s .*", maps, re.MULTILINE))
        self._generators = generators.of_numpy()
        self._settings = _settings()

    def left_since(self, before: Traces) -> str:
        """Return what was added or changed since, as half a sentence; "" if nothing was."""
        for descriptor, target in self._descriptors.items():
            if before._descriptors.get(descriptor) != target and target != os.devnull:
                return f"opens {target}"
        libraries = len(self._openblas - before._openblas)
        fine = libraries * (os.cpu_count() or 1)
        if self._threads > before._threads + fine:
            return "starts threads"
        if self._shared - before._shared:
            return "makes shared memory"
        if self._generators > before._generators:
            return "makes a generator of random numbers of NumPy"
        changed = [name for name, value in self._settings.items() if before._settings[name] != value]
        return f"changes the {changed[0]} of the process" if changed else ""


def _descriptors() -> dict[int, str]:
    folder = "/proc/self/fd"
    targets = {int(name): read_link(f"{folder}/{name}") for name in os.listdir(folder)}
    return {descriptor: target for descriptor, target in targets.items() if target}


def _settings() -> dict[str, object]:
    """Return what a start sets, so that a change by an import would be lost."""
    return {
        "working folder": os.getcwd(),
        "umask": umask(),
        "limits": [resource.getrlimit(number) for number in LIMITS],
        "priority": (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)),
        "processors": os.sched_getaffinity(0),
    }
