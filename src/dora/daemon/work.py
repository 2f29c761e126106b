"""Long work of which the done part is known, such as a download: one thread does it, another shows it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class Work:
    """How much of one piece of work is done. Several threads may change it."""

    def __init__(self, unit: str = "") -> None:
        """``unit``: a noun in the singular; "": bytes."""
        self.unit = unit
        self.done = 0
        self.total = 0  # 0: not known
        # Two threads that add at once would lose a number. Readers take no lock: they only show it.
        self._lock = threading.Lock()

    def expect(self, number: int) -> None:
        """Add to what is to be done."""
        with self._lock:
            self.total += number

    def advance(self, number: int) -> None:
        """Add to what is done."""
        with self._lock:
            self.done += number

    def become(self, done: int, total: int, unit: str = "") -> None:
        """Set everything, as when another phase of the work begins."""
        with self._lock:
            self.done, self.total, self.unit = done, total, unit


class BuildProgress:
    """How far a build is. A step is a clone, a download, or what a node needs besides."""

    def __init__(self) -> None:
        self.steps = 0
        self.done = 0  # of them
        self.ended = threading.Event()
        self._lock = threading.Lock()  # nodes may be built in several threads, and another one shows them
        self._work: dict[str, Work] = {}

    def begin(self, node_id: str) -> Work:
        """Return the work of something new that is done for a node."""
        with self._lock:
            work = self._work[node_id] = Work()
            return work

    def work_of(self, node_id: str) -> Work | None:
        """Return what is done for a node at the moment."""
        with self._lock:
            return self._work.get(node_id)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Count a step when the block ends."""
        yield
        with self._lock:
            self.done += 1


# --------------------------------------------------------------------------- what other programs print

ReadLine = Callable[[str], bool]
"""Gets each line of a program; returns whether it is about the progress, and nothing else."""

_GIT: Final = re.compile(r"(?:remote: )?([A-Z][a-z]+) (object|delta|file)s: +\d+% \((\d+)/(\d+)\)")
_GIT_CHATTER: Final = ("Cloning into ", "remote: Enumerating ", "remote: Total ")
_PIP: Final = re.compile(r"Progress (\d+) of (\d+)$")
_UV: Final = re.compile(r"Downloading (\S+) \(([\d.]+)([KMG]?i?B)\)$")


def git_progress(work: Work) -> ReadLine:
    """Follow ``git --progress``.

    >>> work = Work()
    >>> git_progress(work)("Receiving objects:  45% (450/1000), 1.2 MiB | 3 MiB/s"), work.done, work.unit
    (True, 450, 'object')
    """

    def read(line: str) -> bool:
        found = _GIT.match(line)
        if found is not None:
            work.become(int(found[3]), int(found[4]), found[2])
        return found is not None or line.startswith(_GIT_CHATTER)

    return read


def installer_progress(work: Work) -> ReadLine:
    """Follow the downloads of pip (``PIP_PROGRESS_BAR=raw``) and of uv, which names the big ones.

    >>> work = Work()
    >>> [installer_progress(work)(line) for line in ("Downloading numpy (16.0MiB)", "Progress 50 of 200")]
    [False, True]
    >>> work.done, work.total
    (50, 200)
    """
    sizes: dict[str, int] = {}

    def read(line: str) -> bool:
        if found := _PIP.match(line):
            work.become(int(found[1]), int(found[2]))
            return True
        words = line.split()
        if found := _UV.match(line):
            sizes[found[1]] = int(float(found[2]) * _UNITS.get(found[3], 1))
            work.expect(sizes[found[1]])
        elif words[:1] == ["Downloaded"] and len(words) == 2:
            work.advance(sizes.get(words[1], 0))
        elif words[:1] in (["Prepared"], ["Installing"]):
            work.become(0, 0)  # all is there
        return False

    return read
