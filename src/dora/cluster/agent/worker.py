"""One dataflow of a daemon, in a process of its own: ``python -m dora.cluster.agent.worker``.

It does what ``dora run`` does. The daemon writes JSON lines to its standard input: first `StartRun`, then
perhaps `StopRun`, changes, and messages about other machines (`dora.cluster.agent.partition`). The worker
writes reports to standard output (`dora.cluster.agent.worker_reports`). When its input ends, the daemon is
dead, and the worker kills its nodes; if it is killed as well, its guardian does.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import suppress

from dora._paths import data_folder, state_folder
from dora.cluster.agent.changes import PartitionChanges
from dora.cluster.agent.identity import run_id
from dora.cluster.agent.limits import TimeLimit, become_realtime
from dora.cluster.agent.partition import LocalPartition, with_local_folder
from dora.cluster.agent.worker_reports import LogForwarder, Reports
from dora.cluster.coordinator.policy import BUILD_LIMIT, SPAWN_LIMIT
from dora.cluster.protocol import (
    Apply,
    Prepare,
    StartRun,
    StopRun,
    ToDaemon,
    decode_to_daemon,
)
from dora.daemon.build.build import Built
from dora.daemon.daemon import Daemon
from dora.daemon.logs.diagnostics import VARIABLE, configure
from dora.daemon.logs.entry import LogEntry, is_of_node, nodes_are_quiet
from dora.daemon.logs.writer import LogFiles
from dora.daemon.options import LocalRunOptions
from dora.daemon.report import first_cause
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.result import DataflowResult
from dora.dataflow.model import Dataflow
from dora.errors import BuildError, DoraError, system_fault
from dora.observe.run import build_and_run
from dora.wire.decoders import DecodeError, from_plain

# Seconds that a build may take to end; then this process is killed with it. Less than `FORCE_AFTER` of the
# agent.
BUILD_GRACE = 4.0
# Seconds for the report that a time limit has passed. It is lost if the daemon hangs meanwhile.
_REPORT_TIMEOUT = 1.0
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
    """The requests of the machine's daemon, read in a thread."""

    def __init__(self, source: int) -> None:
        self._lines = _lines(source)
        self._daemon: Daemon | None = None
        # The lock keeps the thread that reads and `set_daemon` apart. Without it, a stop between the two
        # would end neither the build nor the run.
        self._lock = threading.Lock()
        self.stopped = False
        self.may_return = False  # as in `StopRun`
        self.on_other: Callable[[ToDaemon], None] = lambda _: None
        self.built = threading.Event()  # the build is over, however it went

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
            if isinstance(command, StopRun):
                self.may_return = command.may_return  # first: the end of the run reads it
                self._stop(command.grace, command.force)
            else:
                self.on_other(command)
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

    def abort(self) -> None:
        """End what takes too long: the build, or this process and its nodes."""
        if self._daemon is None:
            self._end_build()
        else:
            os.killpg(0, signal.SIGKILL)  # it hangs; the guardian and the daemon do the rest

    def _end_build(self) -> None:
        """End the programs of a build, which are in the process group of this process.

        An exception in the main thread could come between the start of a program and the moment that
        somebody knows of it. So every program is ended as it comes, until the build gives up.
        """
        deadline = time.monotonic() + BUILD_GRACE
        while not self.built.is_set():
            late = time.monotonic() > deadline
            os.killpg(0, signal.SIGKILL if late else signal.SIGTERM)
            self.built.wait(0.1)


class Worker:
    """Builds and runs one dataflow, and reports what becomes of it."""

    def __init__(self, start: StartRun, commands: _Commands, reports: Reports) -> None:
        self._start = start
        self._commands = commands
        self._reports = reports
        self._is_built = False
        self._all_run = threading.Event()  # all nodes were ready
        self._nodes_are_quiet = nodes_are_quiet()
        self._forwarder = LogForwarder(reports) if start.partition.collect_logs else None
        self._partition = LocalPartition(start, reports, lambda: commands.stopped)
        self._changes = PartitionChanges(self._partition, reports, self._log_build)

    def run(self) -> None:
        """Build and run the dataflow to its end; errors are reported, not raised."""
        self._commands.on_other = self._handle  # before `listen`: messages may be there already
        self._commands.listen()
        building = self._building = self._limit(self._start.limits.build, "the build", BUILD_LIMIT)
        try:
            dataflow = with_local_folder(from_plain(self._start.spec.dataflow, Dataflow), self._start)
            self._log_directory = f"{self._out(dataflow)}/out/{self._start.dataflow_id}"
            self._log_files = LogFiles(
                self._log_directory,
                {node.id: node.log for node in dataflow.nodes},
                dataflow=self._start.spec.name or dataflow.file_stem,
            )
            result = self._build_and_run(dataflow)
            self._changes.drain()  # first: after the report of the end, no request waits for an answer
            self._close_forwarder()
            early = result.ok and result.stopped and not self._all_run.is_set()
            self._reports.update(
                status="Finished" if result.ok else "Failed",
                result=result,
                reason="it was stopped before all of its nodes were ready" if early else "",
            )
        except (DoraError, DecodeError, OSError) as error:
            self._close_forwarder()
            if building.late:
                pass  # it is reported
            elif self._commands.stopped:
                reason = "it was stopped before its nodes were started"
                self._reports.update(status="Finished", reason=reason)
            else:
                reason = system_fault(error) if isinstance(error, OSError) else str(error)
                self._reports.update(status="Failed", reason=reason)
        finally:
            if self._start.is_distributed and not self._commands.may_return:
                self._remove_state()
            self._commands.built.set()

    @property
    def _state_folder(self) -> str:
        return state_folder(self._start.dataflow_id, self._partition.machine)

    def _remove_state(self) -> None:
        """Remove what nodes have saved, when the dataflow has ended here. It stays if this part is lost."""
        shutil.rmtree(self._state_folder, ignore_errors=True)
        of_dataflow = os.path.dirname(self._state_folder)
        with suppress(OSError):  # states of other dataflows, or of other machines of this host, are there
            os.rmdir(of_dataflow)
            os.rmdir(os.path.dirname(of_dataflow))

    def _out(self, dataflow: Dataflow) -> str:
        """Return the folder below which log files are written."""
        return data_folder() if self._start.partition.own_log_folder else dataflow.working_dir

    def _build_and_run(self, dataflow: Dataflow) -> DataflowResult:
        start = self._start
        options = LocalRunOptions.of(
            start.spec,
            name=start.spec.name,
            coordinator=start.coordinator,
            log_directory=self._log_directory,
            join=self._partition.join,
            run_id=run_id(start),
            state_directory=self._state_folder if start.is_distributed else "",
            revision=start.spec.revision,
            former=start.partition.former,
        )
        here = start.partition.machine
        nodes = {node for node, machine in start.spec.machines.items() if machine == here}
        try:
            return build_and_run(
                dataflow,
                options,
                self._log,
                start.dataflow_id,
                nodes=nodes,
                session=not start.is_distributed,
                on_built=self._on_built,
                on_daemon=self._set_daemon,
            )
        except DoraError as error:
            if not self._is_built:
                self._log_build(LogEntry(time.time_ns(), "error", None, str(error), "daemon"))
            raise
        finally:
            self._log_files.close()

    def _on_built(self, _built: Built) -> None:
        self._is_built = True
        self._log_files.close()  # the daemon opens them
        self._commands.built.set()  # first: a build that is late by a moment need not be ended
        self._building.met()
        if self._building.late:
            raise BuildError("it took too long")

    def _set_daemon(self, daemon: Daemon) -> None:
        daemon.on_running = self._on_running
        daemon.on_failure = lambda result: self._reports.update(
            reason=first_cause(result, daemon.dataflow.working_dir)
        )
        daemon.on_parameters = self._reports.parameters_set
        self._changes.set_daemon(daemon)
        self._partition.set_daemon(daemon)
        self._commands.set_daemon(daemon)
        spawning = self._limit(self._start.limits.spawn, "the start of the nodes", SPAWN_LIMIT)
        daemon.loop.call_threadsafe(spawning.met)  # once all of them have been started

    def _on_running(self) -> None:
        self._all_run.set()
        self._reports.update(status="Running")

    def _handle(self, message: ToDaemon) -> None:
        """Handle a message of the coordinator, in the thread of the commands."""
        if isinstance(message, (Prepare, Apply)):
            self._changes.start(message)
        else:
            self._partition.handle(message)

    def _limit(self, seconds: float, what: str, variable: str) -> TimeLimit:
        def fail() -> None:
            reason = f"{what} took longer than {seconds:g} s; {variable} of the coordinator sets the limit"
            self._reports.update(status="Failed", reason=reason)
            self._reports.flush(_REPORT_TIMEOUT)  # `abort` may kill this process
            self._commands.abort()

        return TimeLimit(seconds, fail)

    # ----------------------------------------------------------------------- logs

    def _log_build(self, entry: LogEntry) -> None:
        self._log_files.write(entry)
        if self._forwarder is not None:
            self._forwarder.put(entry)

    def _log(self, entry: LogEntry) -> None:
        """Take an entry of the build, or of the run, which the daemon writes to the log files."""
        if not self._is_built:
            self._log_build(entry)
            return
        if self._forwarder is not None and not (self._nodes_are_quiet and is_of_node(entry)):
            self._forwarder.put(entry)
        # The nodes' entries are in their files. Those about the whole run may report that these fail.
        if entry.node_id is None and entry.level in ("error", "warn"):
            try:
                text = f"dataflow {self._start.dataflow_id}: {entry.message}"
                print(text, file=sys.stderr, flush=True)
            except OSError:
                pass  # the log of the daemon is on the same full disk

    def _close_forwarder(self) -> None:
        if self._forwarder is not None:
            self._forwarder.close()


def main(options: Container[str]) -> None:
    """Run what standard input says.

    Options: ``--quiet``, without diagnostics; ``--rt``, as `dora.cluster.agent.limits` has it.
    """
    pipe = os.dup(1)
    os.dup2(2, 1)  # nothing but reports may get to the daemon
    os.set_inheritable(pipe, False)
    commands = _Commands(0)
    try:
        start = commands.first()
    except StopIteration:
        return
    assert isinstance(start, StartRun)
    if (directives := os.environ.get(VARIABLE, "")) and "--quiet" not in options:
        configure(directives, f"dataflow {start.dataflow_id}: ")
    if "--rt" in options:
        become_realtime()  # the daemon has logged what is not permitted
    # For the time of the build; a handler, other than a signal that is ignored, is not inherited.
    signal.signal(signal.SIGTERM, lambda *_: None)
    reports = Reports(pipe, start.dataflow_id, revision=start.spec.revision, secret=start.partition.secret)
    try:
        Worker(start, commands, reports).run()
    finally:
        reports.flush()


if __name__ == "__main__":
    main(sys.argv)
