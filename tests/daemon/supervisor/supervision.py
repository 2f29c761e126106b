"""Supervisor under test: a virtual clock, and a check of every invariant after every event."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

import msgspec
from invariants import validate_state

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.supervisor import Supervisor
from dora.dataflow.edit import without_node
from dora.dataflow.model import Dataflow, InputSpec, NodeOutput, NodeSpec, TimerSource
from dora.wire.daemon_protocol import ApplyChange
from dora.wire.node_protocol import Ready
from dora.wire.operations import NodeOperation, ProposedChange, program_key

# What `Supervised.ask` can ask for.
OPERATIONS = (*(request.__struct_config__.tag for request in get_args(NodeOperation)), "remove")


def node(
    node_id: str, *, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = (), **more: Any
) -> NodeSpec:
    """Make a node; inputs are sources such as "a/x", and have their source as id."""
    parsed = []
    for source in inputs:
        producer, _, output = source.partition("/")
        if producer == "timer":
            parsed.append(InputSpec(source, TimerSource(10_000_000, "dora/timer/millis/10")))
        else:
            parsed.append(InputSpec(source, NodeOutput(producer, output)))
    return NodeSpec(node_id, **{"path": f"{node_id}.py", **more}, inputs=tuple(parsed), outputs=outputs)


def described(nodes: Iterable[NodeSpec]) -> dict[str, Any]:
    """Return the document that such nodes may have come from."""
    return {
        "nodes": [
            {"id": node.id, "inputs": {item.id: str(item.source) for item in node.inputs}} for node in nodes
        ]
    }


class Supervised:
    """Feeds events at a time that only the test moves, and collects the commands."""

    def __init__(
        self,
        *nodes: NodeSpec,
        exit_when_nodes_finish: bool = False,
        watched: frozenset[str] = frozenset(),
        **options: Any,
    ) -> None:
        dataflow = Dataflow(
            nodes, "/", exit_when_nodes_finish=exit_when_nodes_finish, descriptor=described(nodes)
        )
        self.supervisor = Supervisor(dataflow, **options)
        self.supervisor.watch(watched)
        self.state = self.supervisor.state
        self.now = 100.0
        self.connection = 0

    def __call__(self, event: on.Event) -> list[do.Command]:
        commands = self.supervisor.handle(event, self.now)
        validate_state(self.state)
        return commands

    def after(self, seconds: float) -> list[do.Command]:
        """Let time pass, with a look at every deadline on the way."""
        commands = []
        end = self.now + seconds
        while (deadline := self.supervisor.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            commands += self(on.TimePassed())
        self.now = end
        return commands

    def register(self, node_id: str, *, incarnation: int = 0, dynamic: bool = False) -> list[do.Command]:
        self.connection += 1
        return self(on.Registering(self.connection, node_id, incarnation, dynamic))

    def stand_by(self, node_id: str, incarnation: int) -> list[do.Command]:
        """Have a replacement register and wait."""
        commands = self.register(node_id, incarnation=incarnation)
        assert any(isinstance(command, do.AdmitReplacement) for command in commands), commands
        return commands + self(on.ReplacementReady(node_id, incarnation))

    def join(self, node_id: str, *, incarnation: int = 0, dynamic: bool = False) -> list[do.Command]:
        """Register and become ready."""
        commands = self.register(node_id, incarnation=incarnation, dynamic=dynamic)
        assert isinstance(commands[-1], do.Admit), commands
        return commands + self(on.MessageReceived(node_id, Ready()))

    def start(self) -> list[do.Command]:
        """Start the dataflow with all nodes that are not dynamic."""
        commands = self(on.Begin())
        for each in list(self.state.nodes.values()):
            if not each.spec.is_dynamic:
                commands += self.join(each.id)
        assert self.state.opened
        return commands

    def end(self, node_id: str, exit_code: int | None = 0, signal: int | None = None) -> list[do.Command]:
        return self(on.ProcessEnded(node_id, exit_code if signal is None else None, signal))

    def become(self, *nodes: NodeSpec, added: str = "", removed: str = "") -> list[do.Command]:
        """Ask for another dataflow."""
        return self(self.change(*nodes, added=added, removed=removed))

    def change(self, *nodes: NodeSpec, **fields: Any) -> on.ChangeRequested:
        """Return the request for another dataflow, from the present revision."""
        programs = {program_key(key): found.program for key, found in self.state.nodes.items()}
        fields["generations"] = {**programs, **fields.get("generations", {})}
        proposal = ProposedChange(revision=self.state.revision + 1, dataflow=None, **fields)
        return on.ChangeRequested(7, ApplyChange(proposal), self.with_nodes(*nodes))

    def with_nodes(self, *nodes: NodeSpec) -> Dataflow:
        """Return the dataflow with other nodes."""
        return msgspec.structs.replace(self.state.dataflow, nodes=nodes, descriptor=described(nodes))

    def ask(self, node_id: str, what: str, grace: float | None = None) -> list[do.Command]:
        if what == "remove":
            without = without_node(self.state.dataflow, node_id)
            return self(self.change(*without.nodes, grace=grace))
        request = {"type": what, "node": node_id, "grace": grace}
        return self(on.RequestReceived(7, msgspec.convert(request, NodeOperation)))

    def replace(self, spec: NodeSpec) -> list[do.Command]:
        """Ask for another program of a node."""
        nodes = [spec if known.id == spec.id else known for known in self.state.dataflow.nodes]
        return self(self.change(*nodes, generations={program_key(spec.id): self.state.revision + 1}))

    @property
    def failures(self) -> list[tuple[str, str]]:
        return [(failure.node_id, failure.kind) for failure in self.supervisor.result("id").failures]


def sent(commands: list[do.Command], node_id: str) -> list[object]:
    """Return the frames for one node."""
    return [c.message for c in commands if isinstance(c, do.Send) and c.node_id == node_id]


def answers(commands: list[do.Command]) -> list[object]:
    return [
        c.answer if isinstance(c, do.Answer) else c
        for c in commands
        if isinstance(c, (do.Answer, do.AnswerNodeRemoved))
    ]


def signals(commands: list[do.Command]) -> list[tuple[str, int]]:
    return [(c.node_id, c.signal) for c in commands if isinstance(c, do.Signal)]


def spawned(commands: list[do.Command]) -> list[tuple[str, int]]:
    return [(c.node_id, c.restart_count) for c in commands if isinstance(c, do.Spawn)]
