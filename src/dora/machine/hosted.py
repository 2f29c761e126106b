"""One dataflow of a daemon, in a process of its own: ``python -m dora.machine.hosted``.

It does what ``dora run`` does. The daemon writes JSON lines to its standard input: first what to run
(`Start`), then perhaps `Stop`. What it writes to standard output are `RunReport`s. When its input ends,
the daemon is dead, and it kills its nodes; should it be killed as well, its guardian does.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import msgspec

from dora.building.options import BuildOptions
from dora.building.prepare import build
from dora.coordinator.protocol import RunReport, Start, Stop, ToDaemon, decode_to_daemon, encode
from dora.daemon.daemon import Daemon
from dora.daemon.options import RunOptions
from dora.daemon.run import run_dataflow
from dora.dataflow.model import Dataflow
from dora.errors import DoraError
from dora.logs.entry import LogEntry
from dora.logs.files import LogFiles
from dora.supervise import events as on

BUILD_GRACE = 4.0  # seconds that a build may take to end
_REASON = "it was asked for"


def _lines(descriptor: int) -> Iterator[bytes]:
    """Yield lines without the locks of Python's files, in which a thread may not hang at the exit."""
    begun = bytearray()
    while data := os.read(descriptor, 1 << 20):
        begun += data
        if b"\n" in data:
            *lines, rest = bytes(begun).split(b"\n")
            yield from lines
            begun = bytearray(rest)


class _Commands:
    """What the daemon of the machine wants, read in a thread."""

    def __init__(self, source: int) -> None:
        self._lines = _lines(source)
        self._daemon: Daemon | None = None
        self._lock = threading.Lock()
        self.stopped = False
        self.done = threading.Event()  # there is nothing left to stop

    def first(self) -> ToDaemon:
        """Wait for the first command; raises ``StopIteration`` if there is none."""
        return decode_to_daemon(next(self._lines))

    def listen(self) -> None:
        threading.Thread(target=self._listen, name="dora-commands", daemon=True).start()

    def set_daemon(self, daemon: Daemon) -> None:
        with self._lock:
            self._daemon = daemon
            if self.stopped:
                daemon.stop(_REASON)

    def _listen(self) -> None:
        for line in self._lines:
            command = decode_to_daemon(line)
            if isinstance(command, Stop):
                self._stop(command.grace, command.force)
        self._stop(None, force=True)

    def _stop(self, grace: float | None, force: bool) -> None:
        with self._lock:
            daemon, first = self._daemon, not self.stopped
            self.stopped = True
        if daemon is None:
            if first:
                self._end_build()
        elif force:
            daemon.loop.call_threadsafe(lambda: daemon.feed(on.KillRequested()))
        else:
            daemon.stop(_REASON, grace)

    def _end_build(self) -> None:
        """End the programs of a build, which are in the process group of this process.

        An exception in the main thread could come between the start of a program and the moment that
        somebody knows of it. So every program is ended as it comes, until the build gives up.
        """
        deadline = time.monotonic() + BUILD_GRACE
        while time.monotonic() < deadline:
            with self._lock:
                if self._daemon is not None:
                    return
                os.killpg(0, signal.SIGTERM)
            if self.done.wait(0.1):
                return
        os.killpg(0, signal.SIGKILL)


def run_hosted(start: Start, commands: _Commands, report: Callable[[RunReport], None]) -> None:
    """Build and run a dataflow, and report what becomes of it."""
    dataflow_id, spec = start.dataflow_id, start.spec
    try:
        dataflow = msgspec.convert(spec.dataflow, type=Dataflow)
        files = LogFiles(f"{dataflow.working_dir}/out/{dataflow_id}", {n.id: n.log for n in dataflow.nodes})
        try:
            dataflow = build(dataflow, files.write, BuildOptions(uv=spec.uv)).dataflow
        except DoraError as error:
            files.write(LogEntry(time.time_ns(), "error", None, str(error), "daemon"))
            raise
        finally:
            files.close()

        def on_daemon(daemon: Daemon) -> None:
            daemon.on_running = lambda: report(RunReport(dataflow_id, "running"))
            commands.set_daemon(daemon)

        options = RunOptions(
            uv=spec.uv, hot_reload=spec.hot_reload, allow_shell_nodes=spec.allow_shell_nodes, name=spec.name
        )
        result = run_dataflow(dataflow, options, lambda _: None, dataflow_id, on_daemon)
        report(RunReport(dataflow_id, "finished" if result.ok else "failed", result))
    except (DoraError, msgspec.ValidationError) as error:
        if commands.stopped:
            report(
                RunReport(dataflow_id, "finished", reason="it was stopped before its nodes were started")
            )
        else:
            report(RunReport(dataflow_id, "failed", reason=str(error)))
    finally:
        commands.done.set()


def main() -> None:
    """Run what standard input says."""
    reports = os.dup(1)
    os.dup2(2, 1)  # nothing but reports may get to the daemon
    os.set_inheritable(reports, False)

    def report(message: RunReport) -> None:
        data = encode(message) + b"\n"
        while data:
            try:
                data = data[os.write(reports, data) :]
            except BrokenPipeError:
                return  # the daemon is dead, which the commands say too

    commands = _Commands(0)
    try:
        start = commands.first()
    except StopIteration:
        return
    assert isinstance(start, Start)
    # For the time of the build; a handler, other than a signal that is ignored, is not inherited.
    signal.signal(signal.SIGTERM, lambda *_: None)
    commands.listen()
    run_hosted(start, commands, report)


if __name__ == "__main__":
    main()
