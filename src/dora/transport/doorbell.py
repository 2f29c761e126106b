"""Doorbells: a process sleeps on a named pipe until another one wakes it.

Each node has one named pipe, its doorbell. A sender rings it, with one byte, only if the ``ASLEEP`` word
of the receiving node on the board is set. A busy receiver costs its senders one memory read.

A flag like that can lose wake-ups: the receiver sets the flag and polls its queues once more, the sender
fills a queue and reads the flag, and each may miss the write of the other while the processor still holds
it back. Both sides therefore put a fence (`dora.transport.fence`) between their write and their read.
Where there is none (`FENCED`), a sender always rings: a write to a pipe costs about 2 µs.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import time
from collections.abc import Callable
from typing import Final

from dora._ownership import UnsafeFile, open_own

_LONGEST: Final = 1e6  # seconds of one wait: `poll` refuses more than 24 days
# Runs another thread or process first that waits for this processor.
yield_cpu: Final[Callable[[], None]] = getattr(os, "sched_yield", lambda: time.sleep(0))


class Bell:
    """The sending side of a doorbell, for any number of threads.

    Unless it is open, the first ring opens it. Opening never blocks, and ringing without a listener is not
    an error. The pipe is closed when the bell is garbage-collected, so never while another thread rings it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def ring(self) -> None:
        """Wake the owner if it sleeps."""
        if self._fd < 0 and not self.open():
            return
        try:
            os.write(self._fd, b"\0")
        except OSError:  # the pipe is full of rings, or the reader is gone, perhaps until a restart
            pass

    def open(self) -> bool:
        """Open the pipe; return whether there is a listener."""
        try:
            fd = open_own(self.path, os.O_WRONLY, kind=stat.S_IFIFO)
        except (OSError, UnsafeFile):  # ENXIO: no listener (yet, or any more); ENOENT: the run is over
            return False
        if self._fd < 0:
            self._fd = fd
        else:  # another thread was faster
            os.close(fd)
        return True

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # The end of the process closes files, and `os` may be gone already.
        if self._fd >= 0 and not finalizing():
            os.close(self._fd)


class Doorbell:
    """The sleeping side of a doorbell: a named pipe that exists as long as the dataflow runs."""

    @staticmethod
    def make(path: str) -> None:
        """Create the named pipe, unless it exists; called by the daemon."""
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
        # Read-write: then there is always a writer, and the pipe never reports end of file.
        self.fd = open_own(path, os.O_RDWR, kind=stat.S_IFIFO)
        self.also = also
        self.rung = False  # the pipe may contain rings
        self._fds = (self.fd,) if also < 0 else (self.fd, also)
        self._selectable = max(self._fds) < 1024  # `select` knows no others
        self._poll = select.poll()
        for fd in self._fds:
            self._poll.register(fd, select.POLLIN)

    def wait(self, timeout: float | None) -> bool:
        """Sleep until a ring, at most ``timeout`` seconds (None: no limit); tell if ``also`` is readable.

        A wait of more than eleven days may end early, without a ring.
        The timeout is precise to tens of microseconds: ``poll`` counts in milliseconds, so a bounded wait
        uses ``select``. A signal runs its Python handler, and the wait continues. The ring stays in the
        pipe: call `rearm` before the next sleep.
        """
        if timeout is None:
            found = self._poll.poll()
            if len(found) == 1:
                self.rung = rung = found[0][0] == self.fd
                return not rung
            ready = [fd for fd, _ in found]
        elif self._selectable:
            try:
                ready = select.select(self._fds, (), (), min(timeout, _LONGEST))[0]
            except OSError:  # another thread has closed the node, and with it `also`
                ready = list(self._fds)
        else:
            ready = [fd for fd, _ in self._poll.poll(min(timeout, _LONGEST) * 1000.0)]
        self.rung = self.fd in ready
        return self.also in ready

    def ring(self) -> None:
        """Ring from this side, for a waiting thread of this process."""
        try:
            os.write(self.fd, b"\0")
        except OSError:  # it is full of rings, or closed
            pass

    def rearm(self) -> None:
        """Remove the ring that ended the last wait from the pipe.

        To be called before ``ASLEEP`` is set, because a later ring has to stay. Removing it only now,
        and not on waking up, spares the message that rang a system call.
        """
        if self.rung:
            self.clear()

    def clear(self) -> None:
        """Remove all rings from the pipe."""
        self.rung = False
        try:
            os.read(self.fd, 4096)  # in one call; a ring that is left over ends the next sleep at once
        except BlockingIOError:  # it was empty
            pass

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not finalizing():  # the end of the process closes files, and `os` may be gone already
            self.close()
