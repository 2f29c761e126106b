"""Find the installed packages that a program imports when it starts.

Only imports that always run count: those at the level of the module, also in a ``try``. Files of the user
are parsed, and never imported.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import dora
from dora.daemon.reload.imports import find_files
from dora.dataflow.parser.files import read_bytes

MAX_FILES = 200  # of one program

_Import = tuple[int, str, str]  # leading dots, module, name in it


def packages_of(sources: Iterable[str], path: Iterable[str]) -> list[str]:
    """Return the modules of installed packages that programs import, in their order.

    ``sources`` are the files of the programs; ``path`` are further folders with code of the user.
    """
    found: dict[str, None] = {}
    own = [folder for folder in path if folder]
    waiting = deque(sources)
    roots = [*dict.fromkeys([*map(os.path.dirname, waiting), *own])]
    seen: set[str] = set()
    while waiting and len(seen) < MAX_FILES:
        file = waiting.popleft()
        if file in seen:
            continue
        seen.add(file)
        for dots, module, name in _imports(file):
            dotted = f"{module}.{name}" if module and name else module or name
            if dots:
                package = file
                for _ in range(dots):
                    package = os.path.dirname(package)
                waiting += find_files([package], dotted)
                continue
            first = module.partition(".")[0]
            if first in sys.stdlib_module_names:
                found[module] = None
            elif files := list(find_files(roots, dotted)):
                waiting += files
            elif (origin := _origin(first)) and is_installed(origin):
                found[module] = None
            elif origin:  # an editable installation
                folder = os.path.dirname(os.path.dirname(origin))
                waiting += find_files([folder], dotted)
    return list(found)


def module_file(name: str) -> str:
    """Return the file of an installed module, "" if there is none; nothing is imported."""
    first = name.partition(".")[0]
    if not (origin := _origin(first)) or not is_installed(origin):
        return ""
    places = list(find_files([os.path.dirname(os.path.dirname(origin))], name))
    return places[-1] if places else ""


def is_installed(path: str) -> bool:
    """Return whether a file belongs to Python or to an installed package, so not to the user's own code."""
    return os.path.abspath(path).startswith(_INSTALLED)


def site_folders() -> list[str]:
    """Return the folders of installed packages on ``sys.path``."""
    return [folder for folder in sys.path if folder.endswith(("site-packages", "dist-packages"))]


_INSTALLED = tuple(
    os.path.join(folder, "")
    for folder in {
        *(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")),
        *site_folders(),
        os.path.dirname(dora.__file__),
    }
)


def _origin(name: str) -> str:
    """Return the file of a package, "" if there is none; nothing is imported."""
    module = sys.modules.get(name)
    try:
        spec = module.__spec__ if module is not None else importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return ""
    if spec is None:
        return ""
    if spec.origin and spec.has_location:
        return spec.origin
    places = list(spec.submodule_search_locations or ())
    return os.path.join(places[0], "__init__.py") if places else ""


_parsed: dict[str, tuple[tuple[int, int, int], list[_Import]]] = {}  # file → its state, and its imports
_MAX_PARSED: Final = 1000


def _imports(file: str) -> list[_Import]:
    """Return the imports of a file that always run; a file that many nodes run is parsed once."""
    try:
        status = os.stat(file)
        state = status.st_mtime_ns, status.st_ino, status.st_size
        known = _parsed.get(file)
        if known is None or known[0] != state:
            if len(_parsed) >= _MAX_PARSED:
                _parsed.clear()
            known = _parsed[file] = state, list(_imports_in(ast.parse(read_bytes(file)).body))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return known[1]


def _imports_in(body: list[ast.stmt]) -> Iterator[_Import]:
    for item in body:
        if isinstance(item, ast.Import):
            yield from ((0, alias.name, "") for alias in item.names)
        elif isinstance(item, ast.ImportFrom):
            yield from ((item.level, item.module or "", alias.name) for alias in item.names)
        elif isinstance(item, (ast.Try, ast.With)):
            yield from _imports_in(item.body)
