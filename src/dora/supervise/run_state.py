"""What the `Supervisor` knows of a run, and how it says what has to be done; no rules are in here."""

from __future__ import annotations

import signal
from collections import deque
from typing import Any, Literal

from dora.dataflow.model import Dataflow
from dora.supervise import commands as do
from dora.supervise.graph import Graph
from dora.supervise.node_state import NodeState
from dora.supervise.result import DataflowResult, FailureKind, NodeFailure
from dora.wire.control import ToNode
from dora.wire.requests import Answer

STORY_LENGTH = 1000
ABANDON_AFTER = 10.0  # seconds after SIGKILL

_Key = tuple[str, str]  # node id ("" for the dataflow), name of the deadline


class RunState:
    """The nodes of one run, the deadlines that are set, the commands that were not handed out yet."""

    def __init__(self, dataflow: Dataflow) -> None:
        self.nodes = {node.id: NodeState(node, parameters=dict(node.parameters)) for node in dataflow.nodes}
        self.graph = Graph(dataflow)
        self.begun = False
        self.opened = False  # the start barrier
        self.epoch_ns = 0
        self.broken_by = ""  # the node that broke the start barrier
        self.stopping = False
        self.killing = False
        self.leaving = False  # everybody but dynamic nodes has ended
        self.done = False
        self.failures: list[NodeFailure] = []
        self.deadlines: dict[_Key, float] = {}
        self._commands: list[do.Command] = []
        self._stories: dict[str, deque[tuple[float, str]]] = {
            node_id: deque(maxlen=STORY_LENGTH) for node_id in self.nodes
        }
        self._now = 0.0

    def next_deadline(self) -> float | None:
        """Return when something is due at the earliest, None if nothing ever is."""
        return min(self.deadlines.values(), default=None)

    def alive(self) -> list[str]:
        """Return the nodes that have a process of ours."""
        return [node_id for node_id, node in self.nodes.items() if node.alive]

    def story(self, node_id: str) -> list[tuple[float, str]]:
        """Return what happened to a node and why, as (time, sentence) pairs; raises ``KeyError``."""
        return list(self._stories[node_id])

    def result(self, dataflow_id: str) -> DataflowResult:
        """Return how it ended so far; first causes first, nodes that others pulled down last."""
        return DataflowResult(
            dataflow_id=dataflow_id,
            failures=tuple(sorted(self.failures, key=lambda failure: failure.kind == "cascading")),
            undeclared={key: node.undeclared for key, node in self.nodes.items() if node.undeclared},
            stopped=self.stopping,
        )

    # ----------------------------------------------------------------------- questions

    def _alive(self) -> list[NodeState]:
        return [node for node in self.nodes.values() if node.alive and not node.machine]

    def send_patience(self, node_id: str) -> float:
        """Return for how many seconds a node that was asked to stop may still wait for a full queue.

        Receivers that go on make room for what the node still has to send; those that stop as well do not.
        """
        if self.stopping or self.leaving:
            return 0.0
        due = [self.deadlines.get((node_id, name), self._now) for name in ("asked", "way")]
        return max(max(due) - self._now, 0.0) / 2

    def _work_done(self, node: NodeState) -> bool:
        work = self.graph.work[node.spec.id]
        return bool(work) and work <= node.inputs_closed

    def _may_restart(self, node: NodeState) -> bool:
        return (
            (
                node.spec.restart.policy != "never"
                or node.makes_way
                or node.asked in ("restart", "remove", "retire")
            )
            and node.asked != "stop"
            and not node.spec.is_dynamic
            and not (self.stopping or self.broken_by)
            and not self._work_done(node)
        )

    def _broken_reason(self) -> str:
        return f"the dataflow could not start: node `{self.broken_by}` ended before all nodes were ready"

    # ----------------------------------------------------------------------- changes

    def _spawn(self, node: NodeState) -> None:
        node.phase = "starting"
        node.connected = node.closed = node.makes_way = False
        node.doom = None
        node.pid = None
        node.incarnation = self._next_incarnation(node)
        if node.spec.startup_timeout is not None:
            self.deadlines[node.spec.id, "startup"] = self._now + node.spec.startup_timeout
        self._commands.append(do.Spawn(node.spec.id, node.restart_count, node.incarnation))
        self._tell(node.spec.id, "is being started")

    def _next_incarnation(self, node: NodeState) -> int:
        node.launches += 1
        return node.launches - 1

    def _forget_deadlines(self, node: NodeState) -> None:
        self.deadlines = {key: time for key, time in self.deadlines.items() if key[0] != node.spec.id}

    def _admit(self, node: NodeState, connection: int) -> None:
        node.connected = True
        node.parameters_told = dict(node.parameters)
        self._commands.append(do.Admit(connection, node.spec.id, node.restart_count, node.parameters_told))

    def _set_parameters(self, node: NodeState, parameters: dict[str, Any]) -> None:
        node.parameters = parameters
        self._commands.append(do.KeepParameters(node.spec.id, parameters))

    def _reply(self, connection: int, answer: Answer) -> None:
        self._commands.append(do.Answer(connection, answer))

    def _send(self, node: NodeState, message: ToNode) -> None:
        self._commands.append(do.Send(node.spec.id, message))

    def _signal(self, node: NodeState, number: int, why: str) -> None:
        self._commands.append(do.Signal(node.spec.id, number))
        self._tell(node.spec.id, f"gets {signal.Signals(number).name}: {why}")

    def _doom(self, node: NodeState, kind: FailureKind, message: str) -> None:
        if node.doom is None:
            node.doom = (kind, message)
        self._signal(node, signal.SIGKILL, message)

    def _note(self, level: Literal["error", "warn", "info"], node_id: str, text: str) -> None:
        self._commands.append(do.Note(level, node_id, text))
        self._tell(node_id, text)

    def _tell(self, node_id: str, text: str) -> None:
        self._stories[node_id].append((self._now, text))
