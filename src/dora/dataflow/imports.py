"""Which files of a project a Python program imports, found by reading and not by running.

Imports are looked for anywhere in a file, also in functions. Only modules that lie in the given
*roots* count: what is installed does not change while a dataflow runs. Imports that are computed at
run time (``importlib.import_module(name)``) cannot be seen.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Sequence

OURS = "dora"


class Program:
    """A Python file with all files of its project that it imports, directly or not."""

    def __init__(self, main: str, roots: Sequence[str]) -> None:
        """``main`` and ``roots`` are absolute paths; earlier roots win, as in ``sys.path``."""
        self.main = main
        self._roots = tuple(dict.fromkeys(roots))
        self._imports: dict[str, frozenset[str]] = {}
        self.look_again(())

    @property
    def files(self) -> frozenset[str]:
        """The files that make up the program, ``main`` among them."""
        return frozenset(self._imports)

    def stale(self, changed: frozenset[str]) -> frozenset[str]:
        """Return which of the files have to be run anew: those that changed, and who imports them."""
        stale = set(changed & self._imports.keys())
        while True:
            more = {file for file, imported in self._imports.items() if imported & stale} - stale
            if not more:
                return frozenset(stale)
            stale |= more

    def look_again(self, changed: Sequence[str]) -> None:
        """Read changed files (again); of one that cannot be read now, its last imports are kept."""
        known = dict(self._imports)
        for file in changed:
            if (imports := self._imports_of(file)) is not None:
                known[file] = imports
        self._imports = {}
        waiting = [self.main]
        while waiting:
            file = waiting.pop()
            if file in self._imports:
                continue
            imports = known.get(file)
            if imports is None:
                imports = self._imports_of(file) or frozenset()
            self._imports[file] = imports
            waiting += imports

    def _imports_of(self, file: str) -> frozenset[str] | None:
        try:
            with open(file, "rb") as opened:
                tree = ast.parse(opened.read())
        except (OSError, SyntaxError, ValueError):
            return None
        found: set[str] = set()
        for item in ast.walk(tree):
            if isinstance(item, ast.Import):
                for alias in item.names:
                    found.update(self._find(self._roots, alias.name))
            elif isinstance(item, ast.ImportFrom):
                found.update(self._find_from(file, item))
        found.discard(file)
        return frozenset(found)

    def _find_from(self, file: str, item: ast.ImportFrom) -> Iterator[str]:
        roots = self._roots
        if item.level:
            package = file
            for _ in range(item.level):
                package = os.path.dirname(package)
            roots = (package,)
        module = item.module or ""
        for alias in item.names:
            # The name may be a module of its own.
            yield from self._find(roots, f"{module}.{alias.name}".lstrip("."))

    def _find(self, roots: Sequence[str], name: str) -> Iterator[str]:
        """Yield the files that importing a dotted name runs: packages on the way, and the module."""
        first, *rest = name.split(".")
        if first == OURS:
            return
        for root in roots:
            base = os.path.join(root, first)
            file = self._module(base)
            if file is None and not (rest and os.path.isdir(base)):
                continue
            while True:
                if file is not None:
                    yield file
                if not rest:
                    return
                base = os.path.join(base, rest.pop(0))
                file = self._module(base)
                if file is None and not os.path.isdir(base):
                    return

    def _module(self, base: str) -> str | None:
        for path in (f"{base}/__init__.py", f"{base}.py"):
            if os.path.isfile(path):
                return path
        return None
