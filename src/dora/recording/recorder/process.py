"""Record in a separate process, so that neither a web server nor a daemon delays it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from dora.daemon.event_loop import READ
from dora.errors import DoraError
from dora.recording.recorder.control import RecorderStatus
from dora.recording.recorder.options import RecordingOptions, Saved, file_name, unused
from dora.wire.decoders import from_json

if TYPE_CHECKING:
    from dora.daemon.daemon import Daemon

_START_PATIENCE: Final = 120.0  # seconds; a slow core that others use takes half a minute for the imports
_END_PATIENCE: Final = 5.0  # seconds until a recorder that nobody needs is killed; its file stays readable


class RecorderStart(msgspec.Struct):
    """Sent to the process: the socket of a daemon, and how to record."""

    socket: str
    settings: RecordingOptions


class RecorderReport(msgspec.Struct, omit_defaults=True):
    """Sent by the process."""

    recording: RecorderStatus | None = None  # recording has begun
    saved: Saved | None = None  # a file is complete
    ended: bool = False  # this is the last report
    error: str = ""  # recording could not begin, or not go on


class BackgroundRecorder:
    """A recorder process. It ends with the dataflow, with `stop`, or with the process that started it."""

    def __init__(self) -> None:
        """Start the process, which imports its modules; `begin` starts the recording."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dora.recording"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the process that started it
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._data = b""
        self.status: RecorderStatus | None = None  # once it records
        self.saved: list[Saved] = []
        self.result: Saved | None = None
        self.error = ""
        self.ended = False
        self.killed = False

    def begin(self, socket: str, settings: RecordingOptions) -> None:
        """Record the run with this socket; return at once (see `wait_until_recording`)."""
        self._stdin.write(msgspec.json.encode(RecorderStart(socket, settings)) + b"\n")
        self._stdin.flush()

    def begin_with(
        self, daemon: Daemon, settings: RecordingOptions, on_early_end: Callable[[str], None]
    ) -> None:
        """Return once it records a run that is about to begin, to be called before `Daemon.run`.

        ``on_early_end`` gets a sentence if the recording ends before the run does.
        The run needs taps with a large queue: `LocalRunOptions.tap_queue`. Raises `DoraError`.
        """
        self.begin(daemon.socket, msgspec.structs.replace(settings, together=True))
        # The callback does nothing: it only lets `run_once` return when there is a report.
        daemon.loop.watch(self.fileno(), READ, lambda _: None)
        try:
            deadline = time.monotonic() + _START_PATIENCE
            while not self.is_recording():
                daemon.loop.run_once(deadline)
                self._check(deadline)
        except BaseException:
            daemon.loop.unwatch(self.fileno())
            raise

        def read(_: int) -> None:
            self._read()
            if self.ended:
                daemon.loop.unwatch(self.fileno())
                if problem := self.problem:
                    on_early_end(f"{problem}; the dataflow goes on unrecorded")

        daemon.loop.watch(self.fileno(), READ, read)

    @property
    def problem(self) -> str:
        """Return why the recording ended before it should, "" if it did not."""
        if self.killed:
            return "the recorder was killed"
        if self.error:
            return self.error
        return self.result.problem if self.result is not None else ""

    def wait_until_recording(self) -> None:
        """Return once recording has begun; raises `DoraError` if it cannot begin."""
        deadline = time.monotonic() + _START_PATIENCE
        while not self.is_recording():
            select.select([self._stdout], (), (), 0.1)  # a report ends it at once, the deadline that late
            self._check(deadline)

    def _check(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            self.kill()
            raise DoraError("the recorder takes too long to begin")

    def is_recording(self) -> bool:
        """Return whether recording has begun, without waiting; raises `DoraError` if it cannot begin."""
        self._read()
        if self.error:
            raise DoraError(self.error)
        if self.ended and self.status is None:
            raise DoraError("the recorder ended before it had begun")
        return self.status is not None

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is a report."""
        return self._stdout.fileno()

    def stop(self) -> None:
        """End the recording; `wait` returns the result."""
        try:
            self._stdin.close()
        except OSError:
            pass  # it has ended

    def wait(self) -> Saved | None:
        """Wait for the end and return the result; None for a ring, and if `problem` says why."""
        while not self.ended:
            # Without a deadline: a disk may be slow. A process that is killed closes its output.
            select.select([self._stdout], (), ())
            self._read()
        self._close()
        return self.result

    def abandon(self) -> None:
        """End it because something else failed: cleanly, if that does not take long."""
        self.stop()
        deadline = time.monotonic() + _END_PATIENCE
        while not self.ended and time.monotonic() < deadline:
            select.select([self._stdout], (), (), 0.1)
            self._read()
        self.kill()

    def kill(self) -> None:
        """End it at once; the file stays readable."""
        self._process.kill()
        self.ended = True
        self._close()

    def _close(self) -> None:
        self.stop()
        self._stdout.close()
        self._process.wait()

    def _read(self) -> None:
        while not self.ended and select.select([self._stdout], (), (), 0)[0]:
            # Not `self._stdout.read`: `select` does not see what a buffer holds.
            data = os.read(self._stdout.fileno(), 1 << 16)
            self._data += data
            *lines, self._data = self._data.split(b"\n")
            for line in lines:
                self._handle(from_json(line, RecorderReport))
            if not data:
                self.killed = not (self.ended or self.error)
                self.ended = True

    def _handle(self, report: RecorderReport) -> None:
        self.status = report.recording or self.status
        self.error = report.error or self.error
        self.ended = self.ended or report.ended
        if report.ended:
            self.result = report.saved
        elif report.saved is not None:
            self.saved.append(report.saved)


# One recording begins at a time: names consist of seconds, and a name is free until its file exists.
_beginning = threading.Lock()


def record_in_folder(socket: str, directory: str, topics: list[str]) -> RecorderStatus:
    """Begin a new file in a directory, which is created if necessary; no topics mean all.

    It ends with the dataflow, and with this process. May wait: call it in a thread. Raises `DoraError`.
    """
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise DoraError(f"{directory} cannot be made: {error.strerror}") from None
    recorder = BackgroundRecorder()
    try:
        with _beginning:
            path = unused(os.path.join(directory, file_name()))
            recorder.begin(socket, RecordingOptions(path=path, topics=topics))
            recorder.wait_until_recording()
    except BaseException:
        recorder.kill()
        raise
    # The thread holds the recorder, which would end if its object were dropped.
    threading.Thread(target=recorder.wait, name="dora-recorder", daemon=True).start()
    assert recorder.status is not None
    return recorder.status
