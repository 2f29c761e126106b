"""What the `Supervisor` remembers about one node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from dora.dataflow.model import Dataflow, Node
from dora.supervise.result import FailureKind, NodeFailure

if TYPE_CHECKING:  # events know phases
    from dora.supervise.events import CodeChanged

Phase = Literal[
    "dormant",  # no process of ours: before the begin, or a dynamic node that has not joined
    "starting",  # the process was asked for; its ports are not ready
    "ready",  # waits at the start barrier
    "running",  # was told that the dataflow started
    "backoff",  # ended, and will be started again
    "mending",  # failed, and is started again when its code changes (hot reload)
    "ended",  # for good
]


@dataclass(slots=True)
class Successor:
    """The process with a node's new code, which takes over once the old one has ended."""

    incarnation: int
    connection: int | None = None  # it has registered, and waits for the answer, or stands by
    parameters: dict[str, Any] = field(default_factory=dict)  # what it knows of them


@dataclass(slots=True)
class NodeState:
    """Mutable; changed by the `Supervisor` only."""

    spec: Node
    phase: Phase = "dormant"
    machine: str = ""  # the other machine that it is on; "": it is on this one
    pid: int | None = None
    incarnation: int = 0  # of this process: each process of a node has a number of its own
    launches: int = 0  # how many processes there have been
    connected: bool = False
    closed: bool = False  # the node object said so
    restarts: list[float] = field(default_factory=list)  # when
    reloads: int = 0  # processes that were replaced because of new code; these are no restarts
    successor: Successor | None = None
    makes_way: bool = False  # was asked to end, because its successor waits
    fresh: bool = False  # the user has not been told that the new code runs
    # Saved while the process was starting: which code that has is not known.
    unseen_change: CodeChanged | None = None
    asked: Literal["", "stop", "restart", "remove", "retire"] = ""  # what shall be done once it has ended
    asked_by: int = 0  # a connection
    asked_grace: float = 0.0  # seconds until SIGTERM
    leaves: bool = False  # it goes out of the dataflow with its end
    retired: bool = False  # it has ended, and the coordinator will take it out
    birth: int = 0  # the change that brought it, of a dataflow on several machines
    added_by: int | None = None  # a connection that waits for its first process
    replacement: Dataflow | None = None  # with the program that its successor runs
    replaced_by: int = 0  # a connection
    # Told that it must not take part; its exit status says nothing about itself then.
    refused: Literal["", "broken", "stopped"] = ""
    doom: tuple[FailureKind, str] | None = None  # why we are killing it
    failure: NodeFailure | None = None  # of the process that is to be followed by another
    outputs_said_closed: set[str] = field(default_factory=set)
    outputs_closed: set[str] = field(default_factory=set)  # consumers know
    inputs_closed: set[str] = field(default_factory=set)
    undeclared: dict[str, int] = field(default_factory=dict)
    reopened: int = 0  # how often its outputs opened again
    announced: int = 0  # how often its consumers were told that it failed
    announcement: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    parameters_told: dict[str, Any] = field(default_factory=dict)  # what its process knows

    @property
    def alive(self) -> bool:
        """Whether a process of ours exists, or was asked for."""
        return not self.spec.is_dynamic and self.phase in ("starting", "ready", "running")

    @property
    def restart_count(self) -> int:
        """How many processes of this node took part before this one."""
        return len(self.restarts) + self.reloads

    @property
    def is_between(self) -> bool:
        """Whether it has no process now, and may get one."""
        return self.phase in ("backoff", "mending")

    @property
    def present(self) -> bool:
        """Whether frames reach the node's event stream."""
        return self.connected and self.phase == "running"
