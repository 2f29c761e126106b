"""Changes of a running dataflow in its worker, for the coordinator, which commits them: prepare and apply.

The coordinator sends the whole new dataflow, as it would be started. The nodes of this machine differ from
that: they have been built, and run in another folder. So `localized` combines both.

The worker asks the daemon of its own process, as `dora node add` does from outside for a dataflow without a
coordinator. So there is one way to change a dataflow.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from dora.cluster.agent.partition import LocalPartition, check_folder
from dora.cluster.agent.worker_reports import Reports
from dora.cluster.protocol import (
    JUST_ENDED,
    NO_TICKET,
    STILL_STARTING,
    Apply,
    Prepare,
)
from dora.daemon.apply_operation import build_node, localized, running_dataflow
from dora.daemon.client import DaemonClient
from dora.daemon.daemon import Daemon
from dora.daemon.logs.entry import LogEntry
from dora.dataflow.model import Dataflow, NodeSpec, Program
from dora.errors import ConnectError, DoraError
from dora.wire.daemon_protocol import (
    Answer,
    ApplyChange,
    CheckChange,
    Conflict,
    Ok,
    Rejected,
    SentCounts,
)
from dora.wire.decoders import from_plain
from dora.wire.operations import ProposedChange, program_key

log = logging.getLogger("dora.daemon")

_OUTDATED: Final = "the dataflow has changed meanwhile; try again"
# Seconds for pending changes once the dataflow has ended here. A later answer is lost, and the coordinator
# says that the partition has ended.
_DRAIN_TIMEOUT: Final = 1.0


class PartitionChanges:
    """Carries out the changes of one partition, each in a thread of its own, and one at a time.

    ``on_log`` gets the output of builds. Thread-safe.
    """

    def __init__(
        self, local_partition: LocalPartition, reports: Reports, on_log: Callable[[LogEntry], None]
    ) -> None:
        self._partition = local_partition
        self._reports = reports
        self._on_log = on_log
        # The lock keeps steps apart: `_built` and the revision belong to one change. A build may hold it
        # for minutes; the run goes on meanwhile, because its daemon never takes it.
        self._lock = threading.Lock()
        self._built: dict[str, NodeSpec] = {}  # of the change that has been prepared
        self._daemon: Daemon | None = None
        self._threads: list[threading.Thread] = []

    def set_daemon(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def start(self, message: Prepare | Apply) -> None:
        """Start a step of a change in a thread, which reports the result."""
        thread = threading.Thread(target=self._run, args=(message,), name="dora-change", daemon=True)
        thread.start()
        self._threads = [thread, *(other for other in self._threads if other.is_alive())]

    def drain(self) -> None:
        """Wait for the answers of pending changes, when the dataflow has ended here."""
        deadline = time.monotonic() + _DRAIN_TIMEOUT
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def _run(self, message: Prepare | Apply) -> None:
        answer: Answer
        daemon = self._daemon
        try:
            if daemon is None:
                raise DoraError(STILL_STARTING)
            with DaemonClient(daemon.socket) as run:
                run.set_patience(None)  # a node that leaves may get a day to end (`MAX_GRACE`)
                if isinstance(message, Prepare):
                    answer = self._prepare(run, message.proposal)
                else:
                    answer = self._apply(run, message)
        except DoraError as error:
            has_ended = daemon is not None and daemon.supervisor.state.done
            is_cut = has_ended and isinstance(error, ConnectError)
            answer = Rejected(JUST_ENDED if is_cut else str(error))
        except Exception as error:
            log.exception("dataflow %s: a change has failed", message.dataflow_id)
            answer = Rejected(f"internal error: {type(error).__name__}: {error}")
        if message.ticket != NO_TICKET:
            self._reports.answered(message.ticket, answer)
        elif daemon is not None and isinstance(answer, Rejected) and answer.reason != JUST_ENDED:
            self._log_missed(daemon, answer.reason)

    def _log_missed(self, daemon: Daemon, reason: str) -> None:
        """Log that a change cannot be made that came while this machine was away: nobody waits for it."""
        text = (
            f"the dataflow was changed while machine `{self._partition.machine}` was away, and that cannot "
            f"be made good there: {reason}"
        )
        daemon.loop.call_threadsafe(lambda: daemon.run_log.write("error", None, text))

    def _prepare(self, run: DaemonClient, proposal: ProposedChange) -> SentCounts:
        """Check a change, and build; return how much the nodes of this machine have sent.

        Raises `DoraError` if the change is impossible. Nothing has changed then.
        """
        partition = self._partition
        with self._lock:
            self._built.clear()  # of a change that was not applied
            model, running = running_dataflow(run)
            partition.meet(proposal.machines.values())
            local = self._local(proposal, running)
            answer = run.ask(CheckChange(local, partition.machine, partition.remote()))
            if isinstance(answer, Conflict):
                raise DoraError(_OUTDATED)
            assert isinstance(answer, SentCounts)
            self._build(proposal, running, uv=model.uv)
            return answer

    def _apply(self, run: DaemonClient, message: Apply) -> Answer:
        """Apply a committed change; raises `DoraError`, and the coordinator undoes it by a further one."""
        proposal, partition = message.proposal, self._partition
        with self._lock:
            if proposal.revision <= partition.revision:
                return Ok()
            model, running = running_dataflow(run)
            try:
                self._build(proposal, running, uv=model.uv)
                partition.set_endpoints(message.endpoints)
                local = self._local(proposal, running)
                request = ApplyChange(local, partition.machine, partition.remote(), message.sent)
                answer = run.ask(request)
            except DoraError:
                # A node or link that fails has come with the change; a program that fails has not.
                with suppress(ConnectError):  # the dataflow has ended: the first error is the answer
                    if running_dataflow(run)[0].revision >= proposal.revision:
                        self._mark_applied(proposal)
                raise
            finally:
                self._built.clear()  # the next attempt may bring another program
            if isinstance(answer, Conflict):
                raise DoraError(_OUTDATED)
            self._mark_applied(proposal)
            return answer

    def _mark_applied(self, proposal: ProposedChange) -> None:
        self._partition.revision, self._partition.generations = proposal.revision, proposal.generations
        self._reports.update(revision=proposal.revision)

    def _build(self, proposal: ProposedChange, running: Dataflow, *, uv: bool) -> None:
        """Build the nodes whose program the change starts on this machine, unless that is done."""
        wanted, machine = from_plain(proposal.dataflow, Dataflow), self._partition.machine
        programs = from_plain(proposal.programs, tuple[Program, ...])
        for node in wanted.nodes:
            if node.id not in self._built and self._starts(proposal, node.id, running):
                check_folder(wanted, node, machine)
                self._built[node.id] = build_node(running, node, programs, self._on_log, uv=uv)

    def _starts(self, proposal: ProposedChange, node_id: str, running: Dataflow) -> bool:
        """Return whether a change starts a program of a node on this machine."""
        if proposal.machines.get(node_id) != self._partition.machine:
            return False
        before, after = self._partition.generations, proposal.generations
        keys = (node_id, program_key(node_id))
        is_new = any(before.get(key) != after.get(key) for key in keys)
        return is_new or all(node.id != node_id for node in running.nodes)  # its removal is undone

    def _local(self, proposal: ProposedChange, running: Dataflow) -> ProposedChange:
        """Return a proposal with the dataflow as this machine runs it."""
        wanted, machine = from_plain(proposal.dataflow, Dataflow), self._partition.machine
        here = {node_id for node_id, where in proposal.machines.items() if where == machine}
        fresh = {
            node.id: self._built.get(node.id, node)
            for node in wanted.nodes
            if self._starts(proposal, node.id, running)
        }
        dataflow = localized(wanted, running, here, fresh)
        return msgspec.structs.replace(proposal, dataflow=msgspec.to_builtins(dataflow), programs=[])
