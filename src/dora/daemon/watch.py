"""Notice that files were saved, by looking at them.

Looking, a few times a second, costs microseconds per file, needs neither a thread nor a library, and
works on every file system, also on shared folders of virtual machines and containers where the
kernel's notifications do not. It makes no difference to it how an editor saves: in place, or by
renaming a new file over the old one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

Signature = tuple[int, int, int]  # what differs once a file was saved


def signature(path: str) -> Signature | None:
    """Return the signature of a file, None if there is none now."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


class FileWatch:
    """Some files and how they looked last.

    A change counts once the file looks the same twice in a row, and only together with all others that
    are being saved: nobody reads half a file, or half of a "save all". A file that is gone has not
    changed until it is there again.
    """

    def __init__(self) -> None:
        self._known: dict[str, Signature | None] = {}
        self._moving: dict[str, Signature] = {}
        self._settled: set[str] = set()

    @property
    def is_restless(self) -> bool:
        """Whether a file has changed that was not reported yet."""
        return bool(self._moving)

    def watch(self, files: Iterable[str]) -> None:
        """Watch these files, from how they look now; those watched already, from how they looked."""
        before = self._known
        self._known = {path: before[path] if path in before else signature(path) for path in files}
        self._moving = {path: seen for path, seen in self._moving.items() if path in self._known}

    def look(self) -> frozenset[str]:
        """Return the files that were saved, each once per change."""
        for path, known in self._known.items():
            now = signature(path)
            if now is None or now == known:
                self._moving.pop(path, None)
            elif self._moving.get(path) == now:
                del self._moving[path]
                self._known[path] = now
                self._settled.add(path)
            else:
                self._moving[path] = now
        if self._moving:
            return frozenset()
        settled, self._settled = frozenset(self._settled), set()
        return settled
