"""Status messages between the supervisors of one dataflow that runs on several machines."""

from __future__ import annotations

from typing import Literal

import msgspec

from dora.daemon.supervisor.result import NodeFailure

Phase = Literal[
    "dormant",  # no process of ours: before the start, or a dynamic node that has not joined
    "starting",  # the process was requested; its ports are not ready
    "ready",  # waits at the start barrier
    "running",  # was sent `Started`
    "backoff",  # ended, and will be restarted
    "awaiting fix",  # failed, and is restarted when its code changes (hot reload)
    "ended",  # for good
]


class NodeStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Status of one node. The counters only grow, so a peer notices a change that it missed."""

    phase: Phase
    outputs_closed: tuple[str, ...] = ()
    sent: dict[str, int] = {}  # output → messages, of a node with closed outputs
    reopen_count: int = 0  # how often its outputs opened again
    announced_failures: int = 0  # how many failures its consumers were informed of
    announcement: str = ""  # the latest of these failures
    failure: NodeFailure | None = None  # of a node that has ended


class PeerStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Status of all nodes of one machine. It is complete, so only the latest one counts."""

    nodes: dict[str, NodeStatus]
    revision: int = 0  # of the dataflow
    opened: bool = False  # the start barrier
    stopping: bool = False
    killing: bool = False
