"""Finds the Python files that nodes run, and the files of the project that these import, by parsing them.

Imports anywhere in a file count, also in functions. Only modules that lie in the given
*roots* count: what is installed does not change while a dataflow runs. Imports at run
time (``importlib.import_module(name)``) cannot be found.
"""

from __future__ import annotations

import ast
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from dora.daemon.processes.programs import find_program
from dora.dataflow.model import Dataflow, NodeSpec
from dora.dataflow.yaml.files import read_bytes

OURS = "dora"
MAX_FILES = 300  # of one program, the nearest ones; reading more would hold up the start for seconds

_Import = tuple[int, str]  # leading dots, dotted name


def code_of(node: NodeSpec, dataflow: Dataflow) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (operator id, main file, folders of its imports) for what a node runs."""
    beside = [
        *node.env.get("PYTHONPATH", dataflow.env.get("PYTHONPATH", "")).split(os.pathsep),
        *(path for path in sys.path if is_of_a_project(path)),
    ]
    roots = [os.path.abspath(path) for path in beside if path]
    for operator in node.operators:
        main = os.path.abspath(os.path.join(dataflow.working_dir, operator.python))
        yield operator.id, main, [dataflow.working_dir, os.path.dirname(main), *roots]
    if node.path is None or node.is_dynamic or node.is_shell:
        return
    path = os.path.abspath(os.path.join(dataflow.directory_of(node), os.path.expanduser(node.path)))
    if node.path.endswith(".py"):
        yield "", path, [os.path.dirname(path), *roots]
    elif os.path.isfile(path):
        yield "", path, roots
    elif (program := find_program(node.path)) is not None and _is_python(program):
        yield "", program, roots


def is_of_a_project(path: str) -> bool:
    """Whether a directory holds no libraries: an editable installation's does not, say."""
    libraries = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    absolute = os.path.abspath(path)
    return os.path.isdir(absolute) and not any(
        absolute == library or absolute.startswith(library + os.sep) for library in libraries
    )


def _is_python(program: str) -> bool:
    try:
        with open(program, "rb") as file:
            first = file.readline(200)
    except OSError:
        return False
    return first.startswith(b"#!") and b"python" in first


# --------------------------------------------------------------------------- imports


class Sources:
    """The imports of Python files, parsed once for all programs."""

    def __init__(self) -> None:
        self._imports: dict[str, frozenset[_Import]] = {}

    def imports(self, file: str) -> frozenset[_Import]:
        """Return what a file imports; of one that cannot be read, nothing."""
        if file not in self._imports:
            self._imports[file] = _read(file) or frozenset()
        return self._imports[file]

    def read_again(self, files: Iterable[str]) -> None:
        """Parse changed files again; a file that cannot be read now keeps its last imports."""
        for file in files:
            if (imports := _read(file)) is not None:
                self._imports[file] = imports


class CodeFiles:
    """A Python file with all files of its project that it imports, directly or not."""

    def __init__(self, main: str, roots: Sequence[str], sources: Sources) -> None:
        """``main`` and ``roots`` are absolute paths; earlier roots win, as in ``sys.path``."""
        self.main = main
        self._roots = tuple(dict.fromkeys(roots))
        self._sources = sources
        self._imports: dict[str, frozenset[str]] = {}
        self._missing: dict[str, frozenset[str]] = {}
        self.follow()

    @property
    def files(self) -> frozenset[str]:
        """The files that make up the program, ``main`` among them."""
        return frozenset(self._imports)

    @property
    def missing(self) -> frozenset[str]:
        """Files that would be part of it if they existed: of imports that lead to no project's file."""
        return frozenset().union(*self._missing.values())

    def follow(self) -> None:
        """Follow the imports again, as the sources know them now."""
        self._imports = {}
        self._missing = {}
        waiting = deque([self.main])
        while waiting and len(self._imports) < MAX_FILES:
            file = waiting.popleft()
            if file not in self._imports:
                found, missing = self._imported_by(file)
                self._imports[file] = found - {file}
                self._missing[file] = missing
                waiting += self._imports[file]

    def stale(self, changed: frozenset[str]) -> frozenset[str]:
        """Return the files that have to run again: those that changed, and those that import them."""
        stale = set(changed & self._imports.keys())
        stale.update(file for file, missing in self._missing.items() if missing & changed)
        while True:
            more = {file for file, imported in self._imports.items() if imported & stale} - stale
            if not more:
                return frozenset(stale)
            stale |= more

    def _imported_by(self, file: str) -> tuple[frozenset[str], frozenset[str]]:
        """Return the files that a file imports, and those that it would import if they existed."""
        found: set[str] = set()
        missing: set[str] = set()
        for dots, name in self._sources.imports(file):
            roots = self._roots
            if dots:
                package = file
                for _ in range(dots):
                    package = os.path.dirname(package)
                roots = (package,)
            first = name.partition(".")[0]
            if first == OURS:
                continue
            files = list(find_files(roots, name))
            found.update(files)
            if not files and (dots or first not in sys.stdlib_module_names):
                missing.update(place for root in roots for place in _places(os.path.join(root, first)))
        return frozenset(found), frozenset(missing)


def _read(file: str) -> frozenset[_Import] | None:
    try:
        tree = ast.parse(read_bytes(file))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deep
        return None
    found: set[_Import] = set()
    for item in ast.walk(tree):
        if isinstance(item, ast.Import):
            found.update((0, alias.name) for alias in item.names)
        elif isinstance(item, ast.ImportFrom):
            # The name may be a module of its own.
            names = (f"{item.module}.{alias.name}" if item.module else alias.name for alias in item.names)
            found.update((item.level, name) for name in names)
    return frozenset(found)


def find_files(roots: Sequence[str], name: str) -> Iterator[str]:
    """Yield the files that importing a dotted name runs: packages on the way, and the module."""
    first, *rest = name.split(".")
    for root in roots:
        base = os.path.join(root, first)
        file = _module(base)
        if file is None and not (rest and os.path.isdir(base)):
            continue
        while True:
            if file is not None:
                yield file
            if not rest:
                return
            base = os.path.join(base, rest.pop(0))
            file = _module(base)
            if file is None and not os.path.isdir(base):
                return


def _module(base: str) -> str | None:
    return next(filter(os.path.isfile, _places(base)), None)


def _places(base: str) -> tuple[str, str]:
    return f"{base}/__init__.py", f"{base}.py"
