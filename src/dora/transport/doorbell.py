"""Doorbells: how a process sleeps until somebody has something for it.

Each node has one named pipe, its doorbell. Whoever sends to the node rings it, with one byte, but
only if the node's ``ASLEEP`` word on the board says that it sleeps; so a busy receiver costs its
senders one memory read.

The classic hazard of such a flag is the lost wake-up: the sleeper raises the flag and looks at its
queues once more, the sender fills a queue and looks at the flag, and each may miss the other's
write while it sits in a store buffer. Both sides therefore put a full memory fence between their
write and their read. CPython has none to call, but taking and releasing a lock executes a locked
instruction, which on x86-64 is one. On other machines a ring is unconditional: a write to a pipe
costs about 2 µs.
"""

from __future__ import annotations

import os
import platform
import select
import stat
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from dora._ownership import UnsafeFile, open_own

FENCED: Final = platform.machine() in ("x86_64", "AMD64")

fence: Final = threading.Lock()  # nobody ever holds it for longer than `memory_fence` does

# Let whoever waits for this processor run first.
yield_cpu: Final[Callable[[], None]] = getattr(os, "sched_yield", lambda: time.sleep(0))


def memory_fence() -> None:
    """Order all earlier writes of this thread before all its later reads (x86-64)."""
    fence.acquire()
    fence.release()


class Bell:
    """The ringing side, for any number of threads.

    Opening never blocks; ringing a bell that nobody hears is not an error. The bell is closed when it
    is garbage-collected, so never while another thread rings it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def ring(self) -> None:
        """Wake the owner if it sleeps."""
        if self._fd < 0 and not self._open():
            return
        try:
            os.write(self._fd, b"\0")
        except OSError:  # it is full: it rings already; or the reader is gone, perhaps until a restart
            pass

    def _open(self) -> bool:
        try:
            fd = open_own(self.path, os.O_WRONLY, kind=stat.S_IFIFO)
        except (OSError, UnsafeFile):  # ENXIO: nobody listens (yet, or any more); ENOENT: the run is over
            return False
        if self._fd < 0:
            self._fd = fd
        else:  # another thread was faster
            os.close(fd)
        return True

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # The process's end closes files, and `os` may be gone already.
        if self._fd >= 0 and not finalizing():
            os.close(self._fd)


class Doorbell:
    """The sleeping side: a named pipe that exists for as long as the dataflow runs."""

    @staticmethod
    def make(path: str) -> None:
        """Create the named pipe (done by the daemon); an existing one is kept."""
        try:
            os.mkfifo(path, 0o600)
        except FileExistsError:
            pass

    def __init__(self, path: str, also: int = -1) -> None:
        """``also``: a second file descriptor whose readability ends a wait (-1: none).

        Raises ``OSError``, `UnsafeFile` if the pipe is not this user's.
        """
        self.path = path
        self.fd = -1
        # Read-write: there is always a writer, so the pipe never reports end of file.
        self.fd = open_own(path, os.O_RDWR, kind=stat.S_IFIFO)
        self.also = also
        self.rung = False  # there may be rings in the pipe
        self._fds = (self.fd,) if also < 0 else (self.fd, also)
        self._selectable = max(self._fds) < 1024
        self._poll = select.poll()
        for fd in self._fds:
            self._poll.register(fd, select.POLLIN)

    def wait(self, timeout: float | None) -> bool:
        """Sleep until rung, at most ``timeout`` seconds (None: for ever).

        Returns True if ``also`` is readable. Precise to tens of microseconds: ``poll`` counts in
        whole milliseconds, so a bounded wait uses ``select``. Signals run their Python handlers and
        the wait goes on. The ring stays in the pipe: whoever goes to sleep again calls `rearm` first.
        """
        if timeout is None:
            found = self._poll.poll()
            if len(found) == 1:
                self.rung = rung = found[0][0] == self.fd
                return not rung
            ready = [fd for fd, _ in found]
        elif self._selectable:
            ready = select.select(self._fds, (), (), timeout)[0]
        else:
            ready = [fd for fd, _ in self._poll.poll(timeout * 1000.0)]
        self.rung = self.fd in ready
        return self.also in ready

    def ring(self) -> None:
        """Ring from this side, for another thread that waits."""
        try:
            os.write(self.fd, b"\0")
        except OSError:  # it rings already, or was closed
            pass

    def rearm(self) -> None:
        """Take the ring that ended the last wait out of the pipe.

        Before the owner says that it sleeps: a ring that comes after that must stay. Taking it only
        now, instead of on waking up, keeps a system call out of the way of the message that rang.
        """
        if self.rung:
            self.clear()

    def clear(self) -> None:
        """Take all rings out of the pipe."""
        self.rung = False
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            pass

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not finalizing():  # the process's end closes files, and `os` may be gone already
            self.close()
