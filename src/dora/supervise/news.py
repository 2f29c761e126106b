"""What the supervisors of one dataflow on several machines tell each other."""

from __future__ import annotations

import msgspec

from dora.supervise.node_state import Phase
from dora.supervise.result import NodeFailure


class NodeNews(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a node is. Numbers only grow, so that a change shows that was missed."""

    phase: Phase
    outputs_closed: tuple[str, ...] = ()
    sent: dict[str, int] = {}  # output → messages, of a node with closed outputs
    reopened: int = 0  # how often its outputs opened again
    announced: int = 0  # how often its consumers were told that it failed
    announcement: str = ""
    failure: NodeFailure | None = None  # of a node that has ended


class MachineNews(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the nodes of a machine are; complete, so only the latest counts."""

    nodes: dict[str, NodeNews]
    revision: int = 0  # of the dataflow
    opened: bool = False  # the start barrier
    stopping: bool = False
    killing: bool = False
