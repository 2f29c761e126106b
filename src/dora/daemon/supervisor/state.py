"""State of one run: a record that the rules read and change, and the basic steps they are made of.

A rule is a function that takes a `RunState` as its first argument. It changes the record, sets
deadlines and emits commands.
"""

from __future__ import annotations

import heapq
import signal
from typing import Any, Literal, get_args

import msgspec

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor.consumer_graph import NodeGraph
from dora.daemon.supervisor.events import CodeChanged
from dora.daemon.supervisor.result import FailureKind, NodeFailure
from dora.daemon.supervisor.status import PeerStatus, Phase
from dora.dataflow.model import Dataflow, LogLevel, NodeSpec
from dora.dataflow.problems import no_node
from dora.wire.counters import RELOADS, RESTARTS, NodeCounter
from dora.wire.daemon_protocol import Answer, Rejected
from dora.wire.journal import MarkKind
from dora.wire.node_protocol import ToNode
from dora.wire.operations import ProposedChange

DEFAULT_GRACE = 10.0  # seconds between the stop event and SIGTERM, as in dora-rs; half of it until SIGKILL
# Seconds that a node may go on after its inputs have closed and all others are done, as in dora-rs; then
# it is killed.
DEFAULT_FINISH_GRACE = 120.0
ABANDON_AFTER = 10.0  # seconds after SIGKILL; a process that waits for a broken disk survives it
BEING_STOPPED = "the dataflow is being stopped"

OperationKind = Literal["stop", "restart", "remove"]
_PARTICIPLE = {"stop": "stopped", "restart": "restarted", "remove": "removed"}

DeadlineName = Literal[
    # of the run
    "unready",  # nodes that have not connected after a failed start get SIGTERM
    "term",  # the grace of a stop is over: SIGTERM
    "kill",  # and SIGKILL
    "last-grace",  # of dynamic nodes, once all others have ended
    # of a node
    "restart",
    "startup",
    "health",
    "finish",  # its inputs have closed, and all others are done
    "hold",  # it has closed, and its outputs close too
    "operation",  # it was asked to end: SIGTERM
    "operation-kill",
    "replacement",  # has to connect
    "drain",  # it has to end for its replacement: SIGTERM
    "drain-kill",
    # of either
    "abandon",  # it survived SIGKILL
]


class Replacement(msgspec.Struct):
    """A process with a node's new code, which takes over once the old process has ended."""

    incarnation: int
    connection: int | None = None  # it has registered, and waits for the answer, or stands by
    parameters: dict[str, Any] = {}  # those it has


class PendingOperation(msgspec.Struct, frozen=True):
    """A client's request that a node ends, while it is carried out."""

    kind: OperationKind
    connection: int
    grace: float  # seconds until SIGTERM

    @property
    def participle(self) -> str:
        return _PARTICIPLE[self.kind]


class ProgramChange(msgspec.Struct, frozen=True):
    """A client's request that a node runs another program, while it is carried out."""

    dataflow: Dataflow  # with the new program
    proposal: ProposedChange
    connection: int
    grace: float  # seconds until SIGTERM


class ProcessState(msgspec.Struct, kw_only=True):
    """State of the last process of a node; `RunState.begin_process` resets all of it."""

    incarnation: int = 0  # each process of a node has a number of its own
    pid: int | None = None
    connected: bool = False
    closed: bool = False  # the node object was closed
    absent: bool = False  # its program ended well without a node; the dataflow goes on without it
    draining: bool = False  # was asked to end, because its replacement waits
    # It was refused at the start; its exit status says nothing about itself then.
    refused: Literal["", "broken", "stopped"] = ""
    kill_reason: tuple[FailureKind, str] | None = None
    overdue: bool = False  # it got SIGTERM, because it had not ended within the grace duration of a stop
    failed_operator: str = ""  # whose code has raised an error
    failure: NodeFailure | None = None  # it has failed, and another one is to follow
    parameters_sent: dict[str, Any] = {}  # those it has


class NodeState(ProcessState):
    """State of one node."""

    spec: NodeSpec
    phase: Phase = "dormant"
    machine: str = ""  # the other machine that it is on; "": it is on this one
    # That machine is lost, and the node waits for it: every supervisor decides that, and all the same.
    awaits_machine: bool = False
    launches: int = 0  # how many processes there have been
    restarts: list[float] = []  # when
    reloads: int = 0  # processes that were replaced because of new code; these are no restarts
    replacement: Replacement | None = None
    announce_new_code: bool = False  # once it runs
    # Saved while the process was starting, so it may or may not have read the new code.
    pending_change: CodeChanged | None = None
    operation: PendingOperation | None = None
    program_change: ProgramChange | None = None
    removing: bool = False  # it is taken out of the dataflow when it ends
    generation: int = 0  # the change that created it, in a dataflow on several machines
    program: int = 0  # the change that gave it its present program; 0: it came with it
    added_by: int | None = None  # a connection that waits for the first process of its program
    outputs_done: set[str] = set()  # the node closed them
    outputs_closed: set[str] = set()  # consumers know
    inputs_closed: set[str] = set()
    undeclared: dict[str, int] = {}
    reopen_count: int = 0  # how often its outputs opened again
    announced_failures: int = 0  # how many failures its consumers were informed of
    announcement: str = ""  # the latest of these failures
    failed_processes: int = 0  # how many failed and were, or will be, followed by another one
    parameters: dict[str, Any] = {}

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def alive(self) -> bool:
        """Whether a process that dora starts exists, or was requested."""
        return not self.spec.is_dynamic and self.phase in ("starting", "ready", "running")

    @property
    def restart_count(self) -> int:
        """How many processes of this node took part before this one."""
        return len(self.restarts) + self.reloads

    @property
    def between_processes(self) -> bool:
        """Whether it has no process now, and may get one."""
        return self.phase in ("backoff", "awaiting fix")

    @property
    def present(self) -> bool:
        """Whether frames reach the node's event stream."""
        return self.connected and self.phase == "running"

    def take_incarnation(self) -> int:
        """Return the number of its next process."""
        self.launches += 1
        return self.launches - 1


class RunState(msgspec.Struct):
    """State of one run of a dataflow, as seen by one machine."""

    dataflow: Dataflow
    graph: NodeGraph
    grace: float = DEFAULT_GRACE
    finish_grace: float | None = DEFAULT_FINISH_GRACE
    watched: frozenset[str] = frozenset()  # nodes whose code may change (hot reload)
    coordinated: bool = False  # a coordinator commits the changes, not this supervisor
    distributed: bool = False  # there are, or were, other machines
    revision: int = 0  # counts the changes of the dataflow
    nodes: dict[str, NodeState] = {}
    begun: bool = False
    opened: bool = False  # the start barrier
    epoch_ns: int = 0
    broken_by: str = ""  # the node that broke the start barrier
    stopping: bool = False
    killing: bool = False
    only_dynamic_left: bool = False  # all other nodes have ended
    has_stragglers: bool = False  # all nodes left have a limited time, see `closing.review_stragglers`
    done: bool = False
    failures: list[NodeFailure] = []
    peers: dict[str, PeerStatus] = {}  # machine → its latest status
    machine_losses: dict[str, int] = {}  # machine → how often it was lost
    # What the others know of this machine's nodes, if it has lost them and starts them again.
    former: PeerStatus | None = None
    # Node id ("" for the run) and name → when it is due.
    deadlines: dict[tuple[str, DeadlineName], float] = {}
    agenda: list[tuple[float, tuple[str, DeadlineName]]] = []  # a heap: deadlines, and former ones
    commands: list[do.Command] = []  # not handed out yet
    now: float = 0.0

    def __post_init__(self) -> None:
        for spec in self.dataflow.nodes:
            self.add_node(spec)

    # ----------------------------------------------------------------------- questions

    def processes(self) -> list[NodeState]:
        """Return the nodes of this machine that have a process."""
        return [node for node in self.nodes.values() if node.alive and not node.machine]

    def work_done(self, node: NodeState) -> bool:
        """Return whether all inputs of a node have closed."""
        work = self.graph.work[node.id]
        return bool(work) and work <= node.inputs_closed

    def may_restart(self, node: NodeState) -> bool:
        """Return whether another process of the node may follow this one."""
        operation = "" if node.operation is None else node.operation.kind
        return (
            (node.spec.restart.policy != "never" or node.draining or operation in ("restart", "remove"))
            and operation != "stop"
            and not node.spec.is_dynamic
            and not (self.stopping or self.broken_by)
            and not self.work_done(node)
        )

    def send_patience(self, node_id: str) -> float:
        """Return for how many seconds a node that was asked to stop may still wait for a full queue.

        Receivers that go on make room for what the node still has to send; those that stop do not.
        """
        if self.stopping or self.only_dynamic_left:
            return 0.0
        names: tuple[DeadlineName, ...] = ("operation", "drain")
        due = [self.deadlines.get((node_id, name), self.now) for name in names]
        return max(max(due) - self.now, 0.0) / 2  # the other half is for the end of its program

    def refusal(self, node: NodeState) -> str:
        """Return why a node was not let in at the start; "" if it was."""
        reasons = {"": "", "broken": self.broken_reason, "stopped": BEING_STOPPED}
        return reasons[node.refused]

    @property
    def broken_reason(self) -> str:
        return f"the dataflow could not start: node `{self.broken_by}` ended before all nodes were ready"

    # ----------------------------------------------------------------------- nodes

    def find_here(self, node_id: str) -> NodeState | Rejected:
        """Return a node of this machine that a client asks about, or the answer if there is none."""
        if (node := self.nodes.get(node_id)) is None:
            return Rejected(no_node(node_id, self.nodes))
        if node.machine:
            return Rejected(f"node `{node_id}` is on machine `{node.machine}`; ask there")
        return node

    def add_node(self, spec: NodeSpec) -> NodeState:
        node = self.nodes[spec.id] = NodeState(spec, parameters=dict(spec.parameters))
        return node

    def spawn(self, node: NodeState) -> None:
        """Start a process of a node."""
        self.begin_process(node, node.take_incarnation())
        if node.spec.startup_timeout is not None:
            self.arm(node, "startup", node.spec.startup_timeout)
        self.emit(do.Spawn(node.id, node.restart_count, node.incarnation))

    def begin_process(self, node: NodeState, incarnation: int) -> None:
        """Reset the state of the last process of a node, since another one follows."""
        node.phase = "starting"
        for name, value in msgspec.structs.asdict(ProcessState(incarnation=incarnation)).items():
            setattr(node, name, value)

    def end_process(self, node: NodeState, phase: Phase) -> None:
        """Note that the last process of a node takes part no more, and nothing is awaited from it."""
        node.phase = phase
        node.connected = node.draining = False
        self.disarm_all(node)
        self.close_receivers(node)

    def admit(self, node: NodeState, connection: int) -> None:
        node.connected = True
        node.parameters_sent = dict(node.parameters)
        self.emit(do.Admit(connection, node.id, node.restart_count, node.parameters_sent))

    def set_parameters(self, node: NodeState, parameters: dict[str, Any]) -> None:
        node.parameters = parameters
        self.emit(do.RecordParameters(node.id, parameters))

    # ----------------------------------------------------------------------- deadlines

    def arm(
        self, node: NodeState | None, name: DeadlineName, seconds: float, *, keep: bool = False
    ) -> None:
        """Set a deadline of a node, or of the run. ``keep``: unless it is set already."""
        key = ("" if node is None else node.id, name)
        if not (keep and key in self.deadlines):
            self.deadlines[key] = due = self.now + seconds
            heapq.heappush(self.agenda, (due, key))

    def next_deadline(self) -> float | None:
        """Return the time of the earliest deadline, None if there is none."""
        while self.agenda and self.deadlines.get(self.agenda[0][1]) != self.agenda[0][0]:
            heapq.heappop(self.agenda)  # it was removed, or set anew
        return self.agenda[0][0] if self.agenda else None

    def disarm(self, node: NodeState | None, *names: DeadlineName) -> None:
        """Remove deadlines of a node, or of the run."""
        for name in names:
            self.deadlines.pop(("" if node is None else node.id, name), None)

    def disarm_all(self, node: NodeState) -> None:
        """Remove all deadlines of a node."""
        self.disarm(node, *get_args(DeadlineName))

    # ----------------------------------------------------------------------- commands

    def emit(self, command: do.Command) -> None:
        self.commands.append(command)

    def reply(self, connection: int, answer: Answer) -> None:
        self.emit(do.Answer(connection, answer))

    def send(self, node: NodeState, message: ToNode) -> None:
        self.emit(do.Send(node.id, message))

    def signal(self, node: NodeState, number: int) -> None:
        self.emit(do.Signal(node.id, number))

    def kill(self, node: NodeState, kind: FailureKind, message: str) -> None:
        """Send SIGKILL; the first reason for it is the node's failure."""
        if node.kill_reason is None:
            node.kill_reason = (kind, message)
        self.signal(node, signal.SIGKILL)

    def count(self, node: NodeState, counter: NodeCounter, times: int = 1) -> None:
        """Add to a counter of a node."""
        self.emit(do.Count(node.id, counter, times))

    def count_restart(self, node: NodeState, times: int = 1) -> None:
        """Note that a node is started again."""
        node.restarts += [self.now] * times
        self.count(node, RESTARTS, times)
        if times:
            self.mark("restarted", node, "was restarted")

    def count_reload(self, node: NodeState) -> None:
        """Note that a process with new code follows the process of a node."""
        node.reloads += 1
        self.count(node, RELOADS)
        self.mark("reloaded", node, "has new code")

    def mark(self, kind: MarkKind, node: NodeState, text: str) -> None:
        """Note in the journal what has happened to a node."""
        self.emit(do.AddMark(kind, node.id, text))

    def close_receivers(self, node: NodeState) -> None:
        self.emit(do.CloseReceivers(node.id))

    def log(self, level: LogLevel, node: NodeState, text: str) -> None:
        """Write a sentence about a node to the log."""
        self.emit(do.Log(level, node.id, text))
