"""What the `Supervisor` remembers about one node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dora.dataflow.model import Node
from dora.supervise.result import FailureKind, NodeFailure

Phase = Literal[
    "dormant",  # no process of ours: before the begin, or a dynamic node that has not joined
    "starting",  # the process was asked for; its ports are not ready
    "ready",  # waits at the start barrier
    "running",  # was told that the dataflow started
    "backoff",  # ended, and will be started again
    "ended",  # for good
]


@dataclass(slots=True)
class NodeState:
    """Mutable; changed by the `Supervisor` only."""

    spec: Node
    phase: Phase = "dormant"
    pid: int | None = None
    connected: bool = False
    closed: bool = False  # the node object said so
    restarts: list[float] = field(default_factory=list)  # when
    # Told that it must not take part; its exit status says nothing about itself then.
    refused: Literal["", "broken", "stopped"] = ""
    doom: tuple[FailureKind, str] | None = None  # why we are killing it
    failure: NodeFailure | None = None  # of the process that is to be followed by another (`backoff`)
    outputs_said_closed: set[str] = field(default_factory=set)
    outputs_closed: set[str] = field(default_factory=set)  # consumers know
    inputs_closed: set[str] = field(default_factory=set)
    undeclared: dict[str, int] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether a process of ours exists, or was asked for."""
        return not self.spec.is_dynamic and self.phase in ("starting", "ready", "running")

    @property
    def present(self) -> bool:
        """Whether frames reach the node's event stream."""
        return self.connected and self.phase == "running"
