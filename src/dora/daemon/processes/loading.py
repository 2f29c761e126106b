"""Which package a process seems to import, from the libraries that it has mapped (Linux).

Nothing is asked of the process. Packages without compiled modules leave no trace.
"""

from __future__ import annotations

import re
import time
from typing import Final

_PACKAGE: Final = re.compile(r"/(?:site|dist)-packages/([A-Za-z0-9_]+)[^/\n]*/[^\n]*$", re.MULTILINE)
FRESH: Final = 5.0  # seconds without a new library, after which an import is taken for finished


class LoadingPackages:
    """Compares the libraries of processes, each time that it is asked."""

    def __init__(self) -> None:
        self._seen: dict[int, frozenset[str]] = {}
        self._newest: dict[int, tuple[str, float]] = {}

    def package(self, pid: int | None) -> str:
        """Return the package that a process has loaded a library of lately; "" if there is none."""
        if pid is None:
            return ""
        libraries, packages = _mapped(pid)
        now = time.monotonic()
        seen = self._seen.get(pid, frozenset())
        if libraries - seen:
            self._seen[pid] = libraries
            before = {_owner(library) for library in seen}
            # The kernel maps each library below those before it, and lists the lowest first.
            new = next((name for name in packages if name not in before), packages[0] if packages else "")
            self._newest[pid] = (new, now)
        name, since = self._newest.get(pid, ("", 0.0))
        return name if now - since < FRESH else ""


def _owner(library: str) -> str:
    found = _PACKAGE.search(library)
    return found[1] if found is not None else ""


def _mapped(pid: int) -> tuple[frozenset[str], list[str]]:
    """Return the lines of libraries in packages, and these packages, the newest first."""
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
            text = maps.read()
    except OSError:
        return frozenset(), []
    found = {match[0]: match[1] for match in _PACKAGE.finditer(text)}
    return frozenset(found), list(dict.fromkeys(found.values()))
