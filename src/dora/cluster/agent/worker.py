"""One dataflow of a daemon, in a process of its own: ``python -m dora.cluster.agent.worker``.

It does what ``dora run`` does. The daemon writes JSON lines to its standard input: first what to run
(`StartRun`), then perhaps `StopRun`, and what concerns other machines (`dora.cluster.agent.partition`).
What it writes to
standard output are reports (`dora.cluster.agent.reports`). When its input ends, the daemon is dead, and it
kills its nodes; should it be killed as well, its guardian does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator

import msgspec

from dora._paths import data_folder
from dora.cluster.agent.changes import ChangeRunner
from dora.cluster.agent.identity import run_id
from dora.cluster.agent.limits import TimeLimit, become_realtime
from dora.cluster.agent.partition import LocalPartition, only_local_nodes, with_local_folder
from dora.cluster.agent.reports import LogForwarder, Reports
from dora.cluster.coordinator.policy import BUILD_LIMIT, SPAWN_LIMIT
from dora.cluster.protocol import (
    Apply,
    ChangeRequest,
    JoinCluster,
    Prepare,
    StartRun,
    StopRun,
    ToDaemon,
    decode_to_daemon,
)
from dora.daemon.build.build import build
from dora.daemon.daemon import Daemon
from dora.daemon.logs.diagnostics import VARIABLE, configure
from dora.daemon.logs.entry import LogEntry, is_of_node, nodes_are_quiet
from dora.daemon.logs.writer import LogFiles
from dora.daemon.options import BuildOptions, LocalRunOptions
from dora.daemon.supervisor import events as on
from dora.dataflow.model import Dataflow
from dora.errors import BuildError, DoraError
from dora.observe.telemetry.run import run_observed
from dora.wire.decoders import DecodeError, from_plain

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
    """The requests of the machine's daemon, read in a thread."""

    def __init__(self, source: int) -> None:
        self._lines = _lines(source)
        self._daemon: Daemon | None = None
        self._lock = threading.Lock()
        self.stopped = False
        self.on_other: Callable[[ToDaemon], None] = lambda _: None
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
            if isinstance(command, StopRun):
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
        while time.monotonic() < deadline:
            with self._lock:
                if self._daemon is not None:
                    return
                os.killpg(0, signal.SIGTERM)
            if self.done.wait(0.1):
                return
        os.killpg(0, signal.SIGKILL)


def run_worker(start: StartRun, commands: _Commands, reports: Reports) -> None:
    """Build and run a dataflow, and report what becomes of it."""
    dataflow_id, spec, partition = start.dataflow_id, start.spec, start.partition
    local_partition = None
    pump = LogForwarder(reports) if partition is not None and partition.collect_logs else None
    if partition is not None and len({partition.machine, *spec.machines.values()}) > 1:
        local_partition = LocalPartition(start, reports, lambda: commands.stopped)
    changes = ChangeRunner(start, reports, lambda entry: tell_of_build(entry), local_partition)

    def handle(message: ToDaemon) -> None:
        if isinstance(message, (JoinCluster, ChangeRequest, Prepare, Apply)):
            changes.start(message)
        elif changes.local_partition is not None:
            changes.local_partition.handle(message)

    def limit(seconds: float, what: str, variable: str) -> TimeLimit:
        def fail() -> None:
            reason = f"{what} took longer than {seconds:g} s; {variable} of the coordinator sets the limit"
            reports.update(status="failed", reason=reason)
            commands.abort()

        return TimeLimit(seconds, fail)

    commands.on_other = handle
    commands.listen()
    building = limit(start.limits.build, "the build", BUILD_LIMIT)
    try:
        dataflow = with_local_folder(from_plain(spec.dataflow, Dataflow), start)
        out = data_folder() if partition is not None and partition.own_log_folder else dataflow.working_dir
        logs = f"{out}/out/{dataflow_id}"
        files = LogFiles(logs, {n.id: n.log for n in dataflow.nodes})

        def tell_of_build(entry: LogEntry) -> None:
            files.write(entry)
            if pump is not None:
                pump.put(entry)

        try:
            built = build(
                only_local_nodes(dataflow, start),
                tell_of_build,
                BuildOptions(uv=spec.uv),
                session=local_partition is None,
            ).dataflow
        except DoraError as error:
            tell_of_build(LogEntry(time.time_ns(), "error", None, str(error), "daemon"))
            raise
        finally:
            files.close()
        building.met()
        if building.late:
            raise BuildError("it took too long")
        made = {node.id: node for node in built.nodes}
        dataflow = msgspec.structs.replace(
            dataflow, nodes=tuple(made.get(node.id, node) for node in dataflow.nodes)
        )

        files_only = nodes_are_quiet()

        def tell(entry: LogEntry) -> None:
            if pump is not None and not (files_only and is_of_node(entry)):
                pump.put(entry)
            # The nodes' entries are in their files. Those about the whole run may report that these fail.
            if entry.node_id is None and entry.level in ("error", "warn"):
                try:
                    print(f"dataflow {dataflow_id}: {entry.message}", file=sys.stderr, flush=True)
                except OSError:
                    pass  # the log of the daemon is on the same full disk

        ready = threading.Event()

        def on_running() -> None:
            ready.set()
            reports.update(status="running")

        def on_daemon(daemon: Daemon) -> None:
            daemon.on_running = on_running
            daemon.on_parameters = reports.parameters_set
            changes.set_daemon(daemon)
            if local_partition is not None:
                local_partition.set_daemon(daemon)
            commands.set_daemon(daemon)
            spawning = limit(start.limits.spawn, "the start of the nodes", SPAWN_LIMIT)
            daemon.loop.call_threadsafe(spawning.met)  # once all of them have been started

        options = LocalRunOptions.of(
            spec,
            name=spec.name,
            coordinator=start.coordinator,
            log_directory=logs,
            join=local_partition.join if local_partition is not None else None,
            run_id=run_id(start),
        )
        result = run_observed(dataflow, options, tell, dataflow_id, on_daemon)
        changes.drain()
        if pump is not None:
            pump.close()
        early = result.ok and result.stopped and not ready.is_set()
        reports.update(
            status="finished" if result.ok else "failed",
            result=result,
            reason="it was stopped before all of its nodes were ready" if early else "",
        )
    except (DoraError, DecodeError) as error:
        if pump is not None:
            pump.close()
        if building.late:
            pass  # it is reported
        elif commands.stopped:
            reports.update(status="finished", reason="it was stopped before its nodes were started")
        else:
            reports.update(status="failed", reason=str(error))
    finally:
        commands.done.set()


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
        become_realtime()  # the daemon has said what is not permitted
    # For the time of the build; a handler, other than a signal that is ignored, is not inherited.
    signal.signal(signal.SIGTERM, lambda *_: None)
    secret = start.partition.secret if start.partition is not None else ""
    reports = Reports(pipe, start.dataflow_id, revision=start.spec.revision, secret=secret)
    run_worker(start, commands, reports)


if __name__ == "__main__":
    main(sys.argv)
