"""The daemon's side of the guardian: start it, keep it alive, dismiss it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from dora.daemon import guardian
from dora.daemon.event_loop import READ, Loop
from dora.daemon.run_directory import RunDirectory

MAX_STARTS = 10


class Watchdog:
    """Keeps one guardian process for a run. ``on_warning`` gets a message if that is not possible."""

    def __init__(self, loop: Loop, run: RunDirectory, on_warning: Callable[[str], None]) -> None:
        self._loop = loop
        self._run = run
        self._on_warning = on_warning
        self._registered: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._pidfd = -1
        self._starts = 0
        self._start()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def register(self, group: int) -> None:
        """Send the guardian a process group of this run."""
        self._registered.append(group)
        self._write(b"%d\n" % group)

    def dismiss(self) -> None:
        """End the guardian without a clean-up: the run ends normally."""
        self._unwatch()
        self._write(guardian.DISMISS)
        self._close_pipe()

    def wait(self) -> None:
        """Wait up to a second for the end of a dismissed guardian."""
        if self._process is not None:
            try:
                self._process.wait(1.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _start(self) -> None:
        self._starts += 1
        read, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-S", "-E", guardian.__file__),
                    *(str(read), str(os.getpid())),
                    *(self._run.run_id, self._run.path, self._run.prefix),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(read,),
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            self._close_pipe()
            self._on_warning(f"the guardian of this run could not be started: {error.strerror}")
            return
        finally:
            os.close(read)
        for group in self._registered:
            self._write(b"%d\n" % group)
        if hasattr(os, "pidfd_open"):
            try:
                self._pidfd = os.pidfd_open(self._process.pid)
            except OSError:
                return
            self._loop.watch(self._pidfd, READ, lambda _: self._ended())

    def _ended(self) -> None:
        """Start a new guardian, since this one was killed."""
        self._unwatch()
        self._close_pipe()
        if self._process is not None:
            self._process.wait()
        if self._starts < MAX_STARTS:
            self._start()
        else:
            self._process = None
            self._on_warning(
                "the guardian of this run ended again and again; a crash would leave files behind"
            )

    def _write(self, data: bytes) -> None:
        if self._pipe >= 0:
            try:
                os.write(self._pipe, data)
            except OSError:
                pass  # it has just ended, which `_ended` handles

    def _unwatch(self) -> None:
        if self._pidfd >= 0:
            self._loop.unwatch(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
