"""The executor: commands reach the back end in order, one event after the other."""

from __future__ import annotations

from typing import Any

import pytest

from dora.daemon.executor import Executor
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.supervisor import Supervisor
from dora.dataflow.model import Dataflow, NodeSpec
from dora.wire.node_protocol import Ready, Started, StopDataflow, StopFrame


class RecordingBackend:
    """Records the calls; node `a` exists at once, and is connected or not."""

    def __init__(self, *, connected: bool = True) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.connected = connected
        self.supervisor = Supervisor(Dataflow((NodeSpec("a", "a.py"),), "/"))
        self.executor = Executor(self.supervisor, self, self, clock=lambda: 1.0)  # type: ignore[arg-type]

    def spawn(self, command: Any) -> None:
        self.executor.feed(on.Spawned("a", 1))  # handled after this command
        self.calls.append(("spawn", command.node_id))

    def admit(self, command: Any) -> None:
        self.calls.append(("admit", command.node_id))

    def refuse(self, connection: int, _: str) -> None:
        self.calls.append(("refuse", connection))

    def send(self, node_id: str, message: Any) -> bool:
        self.calls.append(("send", node_id, type(message)))
        return self.connected

    def signal(self, node_id: str, number: int) -> None:
        self.calls.append(("signal", node_id, number))

    def release_text(self, node_id: str) -> None:
        self.calls.append(("release text", node_id))

    def release_sends(self, node_id: str, message: Any, _: Any) -> None:
        self.calls.append(("release sends", node_id, type(message)))

    def close_receivers(self, node_id: str) -> None:
        self.calls.append(("close receivers", node_id))

    def log(self, entry: Any) -> None:
        self.calls.append(("log", entry.message))

    def idle(self) -> None:
        self.calls.append(("idle",))

    def finish(self) -> None:
        self.calls.append(("finish",))


def test_an_event_fed_during_a_command_waits_for_its_turn() -> None:
    backend = RecordingBackend()
    backend.executor.feed(on.Begin())
    assert backend.calls == [("spawn", "a"), ("idle",)]
    assert backend.supervisor.state.nodes["a"].pid == 1


@pytest.mark.parametrize("connected", [True, False])
def test_only_a_connected_node_is_released(connected: bool) -> None:
    backend = RecordingBackend(connected=connected)
    for event in (
        on.Begin(),
        on.Registering(5, "a"),
        on.MessageReceived("a", Ready()),
        on.StopRequested("test"),
    ):
        backend.executor.feed(event)
    calls = [call for call in backend.calls if call != ("idle",)]
    started, stop = ("send", "a", Started), ("send", "a", StopFrame)
    if connected:
        assert calls[2:] == [
            *(started, ("release sends", "a", Started), ("release text", "a")),
            *(stop, ("release sends", "a", StopFrame)),
        ]
    else:
        assert calls[2:] == [started, stop]


def test_the_end_of_the_last_process_finishes_the_run() -> None:
    backend = RecordingBackend()
    for event in (
        on.Begin(),
        on.Registering(5, "a"),
        on.MessageReceived("a", Ready()),
        on.ProcessEnded("a", 0),
    ):
        backend.executor.feed(event)
    assert backend.calls[-3:] == [("close receivers", "a"), ("finish",), ("idle",)]


def test_an_operator_stops_the_dataflow() -> None:
    backend = RecordingBackend()
    backend.executor.feed(on.Begin())
    backend.executor.feed(on.MessageReceived("a", StopDataflow()))
    assert backend.supervisor.state.stopping
