"""The daemon's side of the guardian: start it, keep it alive, dismiss it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Final

from dora._paths import prefix_of
from dora.daemon import guardian
from dora.daemon.event_loop import READ, Loop
from dora.daemon.processes.process import open_pidfd, reap

# There is no pause in between: something that kills each guardian must not keep the daemon busy.
MAX_STARTS: Final = 10
_FEW: Final = 64  # process groups that may be known although they are gone
# A shell waits, and Python cleans up. A waiting Python would take 11 ms of a processor at the start of
# each run, and 5 MB; the shell takes less than a millisecond and 0.3 MB. Further arguments are the groups
# from the pipe.
_SHELL: Final = "/bin/sh"
_WAIT: Final = f"""
trap '' HUP INT TERM
groups=
while read -r line; do
    case $line in {guardian.FORGET}) groups= ;; *) groups="$groups $line" ;; esac
done
exec "$@" $groups
"""

_pipes: set[int] = set()


def _close_pipes() -> None:
    """Close the copies that a fork has got: it may live longer than this process."""
    while _pipes:
        os.close(_pipes.pop())


os.register_at_fork(after_in_child=_close_pipes)


class Watchdog:
    """Keeps one guardian process for a run, to be made before its first file and its first process.

    The guardian cleans up when the pipe ends that leads to it. Each copy of the pipe has to be closed for
    that, and a child that has not executed its program yet has one, so no child comes too late to be found.
    """

    def __init__(self, run_id: str, run_dir: str = "") -> None:
        """``run_id`` marks the processes. ``run_dir`` is the directory to be, "": there are no files."""
        self._arguments = (run_id, run_dir, prefix_of(run_dir))
        self._groups: list[str] = []  # from `guardian.describe_group`
        self._max_groups = _FEW
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._pidfd = -1
        self._starts = 0
        self._loop: Loop | None = None
        self._on_warning: Callable[[str], None] = lambda _: None
        self.fault = ""
        """Why no guardian runs. It has to be told where nothing is watched."""
        self._start()

    def watch(self, loop: Loop, on_warning: Callable[[str], None]) -> None:
        """From now on start a new guardian if one is killed; ``on_warning`` gets a message if none runs."""
        self._loop, self._on_warning = loop, on_warning
        if self.fault:
            on_warning(self.fault)
        self._watch_process()

    def unwatch(self) -> None:
        """Do not look after the guardian any more, as the loop is about to be closed."""
        self._forget_process()
        self._loop = None

    def register(self, group: int) -> None:
        """Send the guardian a process group of this run, whose leader runs."""
        if len(self._groups) >= self._max_groups:
            # A run of months starts many processes.
            self._groups = [known for known in self._groups if guardian.leader_of(known) is not None]
            self._max_groups = max(_FEW, 2 * len(self._groups))
            self._send(guardian.FORGET, *self._groups)
        self._groups.append(guardian.describe_group(group))
        self._send(self._groups[-1])

    def dismiss(self) -> None:
        """End the guardian without a clean-up: nothing of the run is left."""
        self._forget_process()
        if self._process is not None:
            self._process.kill()  # before the pipe ends
            reap(self._process)
            self._process = None
        self._close_pipe()

    def _start(self) -> None:
        self._starts += 1
        read, self._pipe = os.pipe()
        _pipes.add(self._pipe)
        os.set_blocking(self._pipe, False)  # a guardian that is stopped must not hold up the daemon
        clean_up = [sys.executable, "-S", "-E", guardian.__file__, *self._arguments]
        try:
            self._process = subprocess.Popen(
                [_SHELL, "-c", _WAIT, _SHELL, *clean_up] if os.path.exists(_SHELL) else clean_up,
                stdin=read,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # A node that runs a dataflow itself has the mark of the run around it.
                env={name: value for name, value in os.environ.items() if name != guardian.RUN_ID},
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            self._close_pipe()
            why = f"no guardian can be started ({error.strerror})"
            self.fault = f"{why}; a crash would leave processes behind"
            self._on_warning(self.fault)
            return
        finally:
            os.close(read)
        self._send(*self._groups)
        self._watch_process()

    def _watch_process(self) -> None:
        if self._loop is not None and self._process is not None:
            self._pidfd = open_pidfd(self._process.pid)
            if self._pidfd >= 0:
                self._loop.watch(self._pidfd, READ, lambda _: self._ended())

    def _ended(self) -> None:
        """Start a new guardian, since this one was killed."""
        self._forget_process()
        self._close_pipe()
        if self._process is not None:
            self._process.wait()
            self._process = None
        if self._starts < MAX_STARTS:
            self._start()
        else:
            self._on_warning(
                "the guardian of this run ended again and again; a crash would leave processes behind"
            )

    def _send(self, *lines: str) -> None:
        if self._pipe >= 0:
            try:
                for line in lines:  # each at once, so that none is cut off
                    os.write(self._pipe, f"{line}\n".encode())
            except OSError:
                # It has just ended, which `_ended` handles. Or it is stopped and the pipe is full: then
                # it finds these processes by their environment only.
                pass

    def _forget_process(self) -> None:
        if self._pidfd >= 0:
            if self._loop is not None:
                self._loop.unwatch(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            _pipes.discard(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
