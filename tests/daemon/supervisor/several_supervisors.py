"""Supervisors of one dataflow on several machines, which send each other their status."""

from __future__ import annotations

from typing import Any

import msgspec
from supervision import Supervised, node

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.status import FormerPart, PeerStatus, joined_parts
from dora.dataflow.model import NodeSpec

A = node("a", outputs=("x",))
B = node("b", inputs=("a/x",), outputs=("y",))
C = node("c", inputs=("b/y",))
PLACED = {"a": "left", "b": "right", "c": "left"}


class Machines:
    """One `Supervised` for each machine; the test decides when status is sent."""

    def __init__(self, *nodes: NodeSpec, placed: dict[str, str] = PLACED) -> None:
        self.machines = sorted(set(placed.values()))
        self.placed = placed
        self.lost: set[str] = set()
        self._nodes = nodes
        self.commands: dict[str, list[do.Command]] = {machine: [] for machine in self.machines}
        self.runs = {machine: self._supervised(machine) for machine in self.machines}

    def _supervised(self, machine: str, **options: Any) -> Supervised:
        elsewhere = {name: other for name, other in self.placed.items() if other != machine}
        return Supervised(*self._nodes, elsewhere=elsewhere, **options)

    def __call__(self, machine: str, event: on.Event) -> None:
        self.commands[machine] += self.runs[machine](event)

    def send_status(self, source: str, target: str) -> None:
        status = msgspec.json.encode(self.runs[source].supervisor.status())
        self(target, on.PeerStatusReceived(source, msgspec.json.decode(status, type=PeerStatus)))

    def exchange_status(self) -> None:
        for _ in range(3):
            for source in self.machines:
                for target in self.machines:
                    if source != target and not {source, target} & self.lost:
                        self.send_status(source, target)

    def lose(self, machine: str, *, may_return: bool = True) -> None:
        """Lose a machine with all its nodes, and tell the others."""
        self.lost.add(machine)
        for other in self.machines:
            if other not in self.lost:
                self(other, on.OtherMachineLost(machine, "its daemon is gone", may_return))

    def bring_back(self, machine: str) -> None:
        """Start the part of a lost machine again, with what the others know of it."""
        others = [other for other in self.machines if other not in self.lost]
        parts = [FormerPart(self.runs[other].supervisor.known_status(machine)) for other in others]
        self.lost.discard(machine)
        self.commands[machine] = []
        self.runs[machine] = self._supervised(machine, former=joined_parts(parts).status)
        for other in others:
            self.send_status(other, machine)
        self(machine, on.Begin())

    def join(self, node_id: str, incarnation: int = 0) -> None:
        machine = self.placed[node_id]
        self.commands[machine] += self.runs[machine].join(node_id, incarnation=incarnation)

    def end(self, node_id: str, exit_code: int = 0) -> None:
        machine = self.placed[node_id]
        self.commands[machine] += self.runs[machine].end(node_id, exit_code)

    def begin(self) -> None:
        for machine in self.machines:
            self(machine, on.Begin())

    def start(self) -> None:
        self.begin()
        for node_id in self.placed:
            self.join(node_id)
        self.exchange_status()
        assert all(run.state.opened for run in self.runs.values())

    def received(self, node_id: str) -> list[object]:
        """Return the messages for a node since the last call."""
        machine = self.placed[node_id]
        received = [
            command.message
            for command in self.commands[machine]
            if isinstance(command, do.Send) and command.node_id == node_id
        ]
        self.commands[machine] = [
            command
            for command in self.commands[machine]
            if not (isinstance(command, do.Send) and command.node_id == node_id)
        ]
        return received
