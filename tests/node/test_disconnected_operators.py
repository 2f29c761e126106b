"""Operators whose inputs are disconnected, or could not be connected, while they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from fake_daemon import FakeDaemon, StartFlow
from flows import node, operator, runtime
from waiting import wait_until

from dora import DoraStatus, Event
from dora.node.receive.stack import StackBuilder
from dora.node.runtime import Runtime
from dora.wire.node_protocol import (
    AttachInput,
    DetachInput,
    InputAttached,
    InputDetached,
    NodeRestartedFrame,
)

Reaction = Callable[[], Any]
ENDS = ["STOP ALL_INPUTS_CLOSED", "second: INPUT"]  # the first operator does not wait for the second one


class Rig:
    """A runtime of this process, with two operators; what the first one gets drives the test.

    The second one gets a message once the first one has lost its input `b`, and ends after it.
    """

    def __init__(self, start_flow: StartFlow, reactions: dict[str, Reaction]) -> None:
        """``reactions``: what is done at an event of the first operator, by its type and id."""
        self.daemon: FakeDaemon = start_flow(
            node("source", outputs="out"),
            node("other", outputs="out"),
            node("last", outputs="out"),
            runtime(
                "host",
                operator("op", "op.py", inputs={"a": "source/out", "b": "other/out"}),
                operator("second", "second.py", inputs={"c": "last/out"}),
            ),
        )
        self.other, self.last = self.daemon.node("other"), self.daemon.node("last")
        self.events: list[str] = []
        reactions = {"INPUT_CLOSED b": lambda: self.last.send_output("out", b"x"), **reactions}
        events = self.events

        class First:
            def on_event(self, event: Event, _: Any) -> DoraStatus:
                events.append(f"{event['type']} {event['id']}")
                react = reactions.get(events[-1], lambda: None)
                return DoraStatus.STOP if react() is DoraStatus.STOP else DoraStatus.CONTINUE

        class Second:
            def on_event(self, event: Event, _: Any) -> DoraStatus:
                events.append(f"second: {event['type']}")
                return DoraStatus.STOP

        with self.daemon.environment("host"):
            self.runtime = Runtime({"op": First, "second": Second})

    def close(self, input_id: str) -> None:
        self.daemon.close_inputs("host", f"op/{input_id}")

    def disconnect(self, input_id: str) -> None:
        self.daemon.send("host", DetachInput(f"op/{input_id}", 0))

    def send(self) -> None:
        self.other.send_output("out", b"x")


def test_an_operator_may_end_after_an_input_that_had_closed_was_disconnected(start_flow: StartFlow) -> None:
    def disconnect_and_send() -> None:
        rig.disconnect("a")
        rig.send()

    def stop() -> DoraStatus:
        rig.last.send_output("out", b"x")
        return DoraStatus.STOP

    rig = Rig(start_flow, {"INPUT_CLOSED a": disconnect_and_send, "INPUT b": stop})
    rig.close("a")
    rig.runtime.run()
    assert rig.events == ["INPUT_CLOSED a", "INPUT b", "second: INPUT"]
    wait_until(lambda: rig.daemon.heard("host", InputDetached), "the report")


def test_an_input_that_was_disconnected_meanwhile_may_be_closed(start_flow: StartFlow) -> None:
    rig = Rig(start_flow, {})
    rig.runtime._inbox.close_inputs(["op/gone", "op/a"])
    assert not rig.runtime._inbox.ports["op/a"].open


def test_a_restart_does_not_bring_back_an_input_that_was_disconnected(start_flow: StartFlow) -> None:
    def disconnect_and_send() -> None:
        rig.disconnect("a")
        rig.send()

    def restart_and_close() -> None:
        rig.daemon.send("host", NodeRestartedFrame("source"))
        rig.close("b")

    rig = Rig(start_flow, {"INPUT_CLOSED a": disconnect_and_send, "INPUT b": restart_and_close})
    rig.close("a")
    rig.runtime.run()
    assert rig.events == ["INPUT_CLOSED a", "INPUT b", "INPUT_CLOSED b", *ENDS]


def test_an_operator_ends_with_its_inputs_although_another_one_could_not_be_connected(
    start_flow: StartFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no memory")

    def try_to_connect() -> None:
        monkeypatch.setattr(StackBuilder, "port", refuse)
        item = msgspec.structs.replace(rig.daemon.plan.configs["host"].inputs[0], id="op/c", late=True)
        rig.daemon.send("host", AttachInput(item))
        rig.close("a")
        rig.close("b")

    rig = Rig(start_flow, {"INPUT b": try_to_connect})
    rig.send()
    rig.runtime.run()
    assert sorted(rig.events[1:3]) == ["INPUT_CLOSED a", "INPUT_CLOSED b"]
    assert rig.events[3:] == ENDS
    attached = wait_until(lambda: rig.daemon.heard("host", InputAttached), "the report")
    assert [frame.fault for frame in attached] == ["no memory"]  # type: ignore[attr-defined]
