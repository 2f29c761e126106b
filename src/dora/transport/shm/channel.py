"""The folder of a run's links in shared memory: who sends, who receives, who is alive.

::

    /dev/shm/dora_8c3f0a6d91b2_links/     one folder per run, for this user only
        p.PROCESS                         locked as long as the process lives
        17/                               one folder per output, named after its line on the board
            changes                       a word that changes when a file of these is made or removed:
            r.PROCESS.N.QUEUE             a receiver, and the length of its queue; a tap ends in `.tap`
            c.PROCESS.N.RECEIVER.M        the ring of sender N of a process to receiver M of another
            s.PROCESS.N.K                 memory of sender N: segment K

A PROCESS is named after the time at which it joined, so names sort by age. A sender makes a ring for each
receiver that it finds; a receiver finds its rings by their names. Both read ``changes`` with each message,
and list the folder if it is another number.

The kernel frees a lock however its process ends. So a lock that nobody holds says for certain that nobody
uses the memory of that process, and the daemon, or the next process that looks, takes it back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from collections.abc import Callable
from typing import Final

from dora._ownership import UnsafeFile, check_folder, open_own
from dora._paths import SHARED_MEMORY
from dora.errors import TransportError
from dora.transport.forking import disown_after_fork
from dora.transport.mapping import attach, make
from dora.transport.shm.ring import WrongVersion, open_ring
from dora.transport.shm.room import free_bytes, missing, no_room_to_start

_CHANGES: Final = "changes"
TAP: Final = ".tap"  # ends the name of a receiver that is a tap
_VERSION: Final = 1  # of the files in this folder and of their names


def links_folder(prefix: str) -> str:
    """Return the folder of a run's links."""
    return f"{SHARED_MEMORY}/{prefix}links"


def setup_failed(what: str, error: OSError) -> Exception:
    """Return what to raise instead of an error while a port is made."""
    if isinstance(error, FileNotFoundError):
        return missing(what, error.filename)
    free = free_bytes()
    if error.errno == errno.ENOSPC or (free is not None and free < 1 << 20):
        return no_room_to_start(what, free or 0, "shm")
    return TransportError(f"{what}: its shared memory cannot be set up: {error.strerror}")


class Presence:
    """Shows that a process lives, as long as anything refers to this object.

    Messages that the program holds refer to it.
    """

    def __init__(self, folder: str) -> None:
        """Raises ``OSError``, `UnsafeFile`."""
        self.inherited = False  # this process was forked from the owner
        self._fd = -1
        self.id = f"{time.monotonic_ns():016x}-{os.getpid():x}"
        making, self._path = f"{folder}/t.{self.id}", f"{folder}/p.{self.id}"
        self._fd = open_own(making, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        fcntl.flock(self._fd, fcntl.LOCK_EX)  # the kernel frees it however the process ends
        os.rename(making, self._path)  # so nobody finds it without its lock
        disown_after_fork(self)

    def leave(self) -> None:
        """End it: this process has only received, and uses nothing any more."""
        if not self.inherited:
            _remove(self._path)
            self._close()

    def disown(self) -> None:
        """Leave the lock to the parent, in a forked child process: closing it there frees nothing."""
        self.inherited = True
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not finalizing():  # the end of the process closes files, and `os` may be gone already
            self._close()


def is_dead(folder: str, process: str) -> bool:
    """Return whether a process has ended, and so uses no memory of others."""
    try:
        fd = open_own(f"{folder}/p.{process}", os.O_RDWR)
    except FileNotFoundError:
        return os.path.exists(folder)  # else somebody has removed everything
    except (OSError, UnsafeFile):  # in doubt it lives: memory in use must not be freed
        return False
    try:
        # Shared: of two processes that look at once, none takes the other for the owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


class Channel:
    """The folder of one output."""

    def __init__(self, folder: str, slot: int, maker: str) -> None:
        """Make it, unless it exists; ``maker``: the process that does.

        Raises ``OSError``, `UnsafeFile`, `TransportError`.
        """
        self.folder = f"{folder}/{slot}"
        try:
            check_folder(self.folder)
        except FileNotFoundError:
            self._make(f"{folder}/t.{maker}.{slot}")
        view = attach(f"{self.folder}/{_CHANGES}").view
        words = view[: len(view) & -8].cast("Q")
        if len(words) < 2 or words[1] != _VERSION:
            raise TransportError(
                f"{self.folder} was made by another version of dora, or is damaged; all nodes of a "
                "dataflow have to run the same version"
            )
        self.changes = words

    def _make(self, making: str) -> None:
        """Make the folder under another name, so that nobody finds it without its file."""
        os.mkdir(making, 0o700)
        try:
            make(f"{making}/{_CHANGES}", os.sysconf("SC_PAGE_SIZE")).view.cast("Q")[1] = _VERSION
            os.rename(making, self.folder)
        except OSError as error:
            _remove(f"{making}/{_CHANGES}")
            os.rmdir(making)
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # else another process was faster
                raise

    def announce(self) -> None:
        """Make all senders and receivers look into the folder.

        A process that saw an earlier number sees another one now: two calls do not get the same nanosecond
        if one of them saw what the other one did.
        """
        self.changes[0] = time.monotonic_ns()

    def names(self) -> list[str] | None:
        """Return the names of the files, sorted; None if the folder was removed: what is mapped goes on."""
        try:
            return sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        _remove(f"{self.folder}/{name}")


def remove_dead_processes(prefix: str) -> bool:
    """Remove the files of dead processes of a run; return False if some have unread messages.

    Taps do not count. Memory that a living process has mapped stays valid. Raises `TransportError`.
    """
    try:
        return _remove_dead_processes(links_folder(prefix))
    except FileNotFoundError:  # nobody has joined, or the run is over
        return True
    except (OSError, UnsafeFile) as error:
        raise TransportError(f"cleaning up after a dead node failed: {error}") from error


def _remove_dead_processes(folder: str) -> bool:
    check_folder(folder)
    names = os.listdir(folder)
    dead = {name[2:] for name in names if name.startswith("p.") and is_dead(folder, name[2:])}
    channels = [f"{folder}/{name}" for name in names if name.isdecimal()]
    unread = {process for channel in channels for process in _unread(channel, dead)} if dead else set()
    for process in dead - unread:
        for channel in channels:
            _remove_files(channel, process)
        _remove(f"{folder}/p.{process}")  # last: without it, nobody would look for the others
    for name in names:
        if name.startswith("t."):
            _remove_unfinished(folder, name, dead)
    return not unread


def _remove_unfinished(folder: str, name: str, dead: set[str]) -> None:
    """Remove what a process was making when it died: its own file, or the folder of an output."""
    process, _, slot = name[2:].partition(".")
    if slot:
        if process in dead:
            _remove(f"{folder}/{name}/{_CHANGES}")
            os.rmdir(f"{folder}/{name}")
        return
    try:
        os.kill(int(process.rpartition("-")[2], 16), 0)  # it may not have the lock yet
    except ProcessLookupError:
        _remove(f"{folder}/{name}")
    except (OSError, ValueError):  # it belongs to another user, so it lives; or its name is not ours
        pass


def _unread(channel: str, dead: set[str]) -> set[str]:
    """Return the dead processes whose messages a living one has not read."""
    names = os.listdir(channel)
    receivers = {name.split(".")[1] + "." + name.split(".")[2] for name in names if _is_node_port(name)}
    found = set()
    for name in names:
        kind, *parts = name.split(".")
        if kind == "c" and parts[0] in dead and parts[2] not in dead and ".".join(parts[2:4]) in receivers:
            try:
                mapping = attach(f"{channel}/{name}")
                ring = open_ring(mapping.view, mapping.address)
            except (OSError, ValueError, UnsafeFile, WrongVersion):  # damaged, or just removed
                continue
            if not all(each.is_zero() for each in ring.full):
                found.add(parts[0])
    return found


def is_receiver(name: str) -> bool:
    kind, *parts = name.split(".")
    return kind == "r" and len(parts) >= 3 and parts[2].isdecimal()


def _is_node_port(name: str) -> bool:
    return is_receiver(name) and not name.endswith(TAP)


def _remove_files(channel: str, process: str) -> None:
    """Remove the files of a process, and tell the others if one of them had to do with it."""
    concerned = False
    for name in os.listdir(channel):
        parts = name.split(".")
        if len(parts) > 2 and parts[1] == process:
            _remove(f"{channel}/{name}")
            concerned = True
        elif parts[0] == "c" and parts[3:4] == [process]:  # its sender takes back what the process had
            concerned = True
    if concerned:
        Channel(os.path.dirname(channel), int(os.path.basename(channel)), process).announce()


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # another process was faster
        pass
