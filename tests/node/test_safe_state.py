"""Safe states of outputs, as receivers and senders see them, on a clock that the test turns."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from clock import VirtualClock
from fake_daemon import FakeDaemon, StartFlow
from flows import node
from waiting import wait_until

from dora import BudgetMissed, Node
from dora.node.events import DeadlineMissed, InputRecovered
from dora.node.receive.safe_state import SafeStateInput
from dora.transport.board import FINAL, SENT, STATE
from dora.wire.counters import IN_SAFE_STATE, SAFE_STATES
from dora.wire.node_protocol import (
    DetachInput,
    NodeFailedFrame,
    NodeRestartedFrame,
    SafeStateChanged,
    SafeStateFrame,
    SourceFailed,
)
from dora.wire.output_rules import OutputRules, SafeState


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    return VirtualClock(monkeypatch)


Flow = tuple[FakeDaemon, Node, Node]


def start(start_flow: StartFlow, *when: Any, **options: Any) -> Flow:
    """Start the sender `a` and the receiver `b` of an output with a safe state."""
    safe = SafeState((0, 0), "float32", when, {"mode": "hold"}, 20_000_000 if "silent" in when else 0)
    daemon = start_flow(
        node("a", outputs="out", output_rules={"out": OutputRules(safe_state=safe)}),
        node("b", inputs={"in": ("a/out", options)}),
    )
    return daemon, daemon.node("a"), daemon.node("b")


def types(receiver: Node) -> list[str]:
    return [event["type"] for event in receiver.drain()]


def lost(daemon: FakeDaemon) -> None:
    daemon.send("b", NodeFailedFrame("a", "node `a` failed", ["in"]))


IN, OUT = ["SAFE_STATE_ENTERED", "INPUT"], ["SAFE_STATE_LEFT", "INPUT"]


def test_a_silent_sender_leads_to_the_safe_value_once(start_flow: StartFlow, clock: VirtualClock) -> None:
    daemon, _, receiver = start(start_flow, "silent")
    assert receiver.try_recv() is None
    clock.advance(19)
    assert receiver.try_recv() is None
    clock.advance(1)
    entered, value = receiver.drain()
    assert (entered["id"], entered["reason"], entered["sender"]) == ("in", "silent", "a/out")
    assert (value["id"], value["value"]) == ("in", pa.array([0.0, 0.0], pa.float32()))
    assert value["metadata"].items() >= {"mode": "hold", "safe_state": "silent"}.items()
    assert value["data"] == bytes(8)
    clock.advance(10_000)
    assert types(receiver) == []
    wait_until(
        lambda: daemon.heard("b", SafeStateChanged) == [SafeStateChanged("in", "silent", True)],
        "the daemon hears of it",
    )


def test_messages_in_time_keep_the_ordinary_state(start_flow: StartFlow, clock: VirtualClock) -> None:
    _, sender, receiver = start(start_flow, "silent")
    for _ in range(10):
        sender.send_output("out", b"x")
        clock.advance(19)
        assert types(receiver) == ["INPUT"]


def test_a_message_that_waits_for_its_receiver_is_no_silence(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    _, sender, receiver = start(start_flow, "silent")
    sender.send_output("out", b"x")
    assert types(receiver) == ["INPUT"]
    sender.send_output("out", b"x")
    clock.advance(10_000)
    assert types(receiver) == ["INPUT"]


def test_the_next_message_ends_the_safe_state(start_flow: StartFlow, clock: VirtualClock) -> None:
    daemon, sender, receiver = start(start_flow, "silent")
    assert receiver.try_recv() is None
    clock.advance(20)
    assert types(receiver) == IN
    clock.advance(500)
    sender.send_output("out", b"back")
    left, message = receiver.drain()
    assert (left["type"], left["id"], left["sender"]) == ("SAFE_STATE_LEFT", "in", "a/out")
    assert left["seconds"] == pytest.approx(0.5)
    assert message["data"] == b"back"
    clock.advance(20)
    assert types(receiver) == IN
    assert receiver.statistics()["inputs"]["in"]["safe_states"] == 2
    wait_until(lambda: len(daemon.heard("b", SafeStateChanged)) == 3, "the daemon hears of it")


def test_an_input_whose_sender_is_silent_is_not_empty(start_flow: StartFlow, clock: VirtualClock) -> None:
    _, _, receiver = start(start_flow, "silent")
    assert receiver.is_empty()
    clock.advance(20)
    assert not receiver.is_empty()


def test_a_sender_that_is_back_without_a_message_leads_to_the_safe_value(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    safe = SafeState((0, 0), "float32", ("silent",), {}, 20_000_000)
    daemon = start_flow(
        node("a", outputs="out", output_rules={"out": OutputRules(safe_state=safe)}),
        node("b", inputs={"in": "a/out", "other": "c/out"}),
        node("c", outputs="out"),
    )
    daemon.node("a")
    receiver = daemon.node("b")
    assert receiver.try_recv() is None
    daemon.close_inputs("b", "in")
    assert types(receiver) == ["INPUT_CLOSED"]
    daemon.send("b", NodeRestartedFrame("a"))
    assert types(receiver) == ["NODE_RESTARTED"]
    clock.advance(20)
    assert types(receiver) == IN


def is_safe(daemon: FakeDaemon) -> bool:
    return bool(daemon.board.get(daemon.plan.configs["b"].inputs[0].slot, IN_SAFE_STATE.word))


def test_a_closed_input_is_in_no_safe_state(start_flow: StartFlow, clock: VirtualClock) -> None:
    daemon, _, receiver = start(start_flow, "silent")
    assert receiver.try_recv() is None
    clock.advance(20)
    assert types(receiver) == IN
    assert is_safe(daemon)
    receiver.close()
    assert not is_safe(daemon)


def test_the_next_process_of_a_receiver_begins_in_the_ordinary_state(start_flow: StartFlow) -> None:
    daemon, _, receiver = start(start_flow, "failed")
    receiver.close()
    daemon.board.set(daemon.plan.configs["b"].inputs[0].slot, IN_SAFE_STATE.word, 1)  # as a kill leaves it
    _next = daemon.node("b")  # a node that nobody holds closes
    assert not is_safe(daemon)


def test_messages_from_before_a_failure_do_not_follow_the_safe_value(start_flow: StartFlow) -> None:
    daemon, sender, receiver = start(start_flow, "failed")
    for number in range(3):
        sender.send_output("out", bytes([number]))
    lost(daemon)
    assert types(receiver) == ["NODE_FAILED", *IN]
    inputs = receiver.statistics()["inputs"]["in"]
    assert (inputs["received"], inputs["dropped"]) == (0, 3)
    sender.send_output("out", b"back")  # as the next process of the node does
    assert types(receiver) == OUT


def test_a_late_message_that_a_failure_has_dropped_says_nothing_about_the_next_one(
    start_flow: StartFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, sender, receiver = start(start_flow, "failed", "budget")
    layer: Any = receiver._session.inbox.ports["in"].find("safe state")
    poll, missed = layer._port.poll, BudgetMissed(id="in", source="a/out")
    missed.on_miss = "safe_state"
    events = [missed]
    monkeypatch.setattr(layer._port, "poll", lambda: events.pop() if events else poll())
    sender.send_output("out", b"late")
    event = receiver.try_recv()
    assert event is missed
    lost(daemon)
    assert types(receiver) == ["NODE_FAILED", *IN]
    sender.send_output("out", b"back")
    assert types(receiver) == OUT


def test_a_message_that_was_numbered_before_the_safe_state_is_dropped(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    """A sender that is stopped between numbering and sending finishes that message when it goes on."""
    daemon, sender, receiver = start(start_flow, "silent")
    assert receiver.try_recv() is None
    clock.advance(20)
    (slot,) = (output.slot for output in daemon.plan.configs["a"].outputs)
    sent = daemon.board.get(slot, SENT)
    daemon.board.set(slot, SENT, sent + 1)
    assert types(receiver) == IN
    daemon.board.set(slot, SENT, sent)
    sender.send_output("out", b"late")
    assert types(receiver) == []
    sender.send_output("out", b"new")
    left, message = receiver.drain()
    assert (left["type"], message["data"]) == ("SAFE_STATE_LEFT", b"new")
    inputs = receiver.statistics()["inputs"]["in"]
    assert (inputs["received"], inputs["dropped"]) == (1, 1)


def test_a_message_that_the_network_brings_after_the_failure_is_dropped(start_flow: StartFlow) -> None:
    daemon, sender, receiver = start(start_flow, "failed")
    (slot,) = (output.slot for output in daemon.plan.configs["a"].outputs)
    daemon.board.set(slot, FINAL, 1)  # as the other machine reports with the failure
    lost(daemon)
    assert types(receiver) == ["NODE_FAILED", *IN]
    sender.send_output("out", b"late")
    assert types(receiver) == []
    sender.send_output("out", b"new")
    assert types(receiver) == OUT


def test_a_sender_that_is_started_again_counts_as_failed(start_flow: StartFlow) -> None:
    daemon, _, receiver = start(start_flow, "failed")
    daemon.send("b", SourceFailed(["in"]))
    assert types(receiver) == IN
    daemon.send("b", SourceFailed(["in"]))
    assert types(receiver) == []


def test_the_safe_value_follows_the_last_message_of_a_sender_that_ends(start_flow: StartFlow) -> None:
    daemon, sender, receiver = start(start_flow, "failed")
    sender.send_output("out", b"last")
    daemon.close_inputs("b", "in")
    assert types(receiver) == ["INPUT", *IN, "INPUT_CLOSED", "STOP"]


def test_the_safe_value_follows_the_last_message_of_a_link_that_is_removed(start_flow: StartFlow) -> None:
    daemon, sender, receiver = start(start_flow, "failed")
    sender.send_output("out", b"last")
    daemon.send("b", DetachInput("in", 0))
    assert types(receiver) == ["INPUT", *IN, "INPUT_CLOSED"]


def test_a_stop_brings_no_safe_value(start_flow: StartFlow, clock: VirtualClock) -> None:
    daemon, sender, receiver = start(start_flow, "failed", "silent")
    sender.send_output("out", b"last")
    daemon.stop("b")
    lost(daemon)
    daemon.close_inputs("b", "in")
    clock.advance(1000)
    assert types(receiver)[:2] == ["STOP", "NODE_FAILED"]


def test_a_condition_that_is_not_named_does_nothing(start_flow: StartFlow) -> None:
    daemon, _, receiver = start(start_flow, "silent")
    lost(daemon)
    daemon.close_inputs("b", "in")
    assert types(receiver) == ["NODE_FAILED", "INPUT_CLOSED", "STOP"]


MISSED = ["DEADLINE_MISSED", *IN]


def test_a_missed_deadline_leads_to_the_safe_value(start_flow: StartFlow, clock: VirtualClock) -> None:
    _, sender, receiver = start(start_flow, "deadline", deadline_ns=20_000_000)
    sender.send_output("out", b"x")
    assert types(receiver) == ["INPUT"]
    clock.advance(19)
    assert types(receiver) == []
    clock.advance(1)
    assert types(receiver) == MISSED
    clock.advance(1000)
    assert types(receiver) == []
    sender.send_output("out", b"x")
    assert types(receiver) == ["DEADLINE_MET", *OUT]
    clock.advance(20)
    assert types(receiver) == MISSED


def test_a_late_message_that_is_there_needs_no_safe_value(
    start_flow: StartFlow, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that was busy learns of the missed deadline together with the message that was late."""
    sent_at = 1_000_000_000
    monkeypatch.setattr("dora.node.send.output._now", lambda: sent_at)
    _, sender, receiver = start(start_flow, "deadline", deadline_ns=20_000_000)
    sender.send_output("out", b"x")
    assert types(receiver) == ["INPUT"]
    sent_at += 50_000_000
    sender.send_output("out", b"x")
    clock.advance(60)
    assert types(receiver) == ["DEADLINE_MISSED", "DEADLINE_MET", "INPUT"]
    assert receiver.statistics()["inputs"]["in"]["safe_states"] == 0


def test_an_event_that_comes_right_after_a_missed_deadline_follows_the_safe_value(
    start_flow: StartFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, receiver = start(start_flow, "deadline", deadline_ns=20_000_000)
    port = receiver._session.inbox.ports["in"]
    assert isinstance(port, SafeStateInput)
    events = iter([DeadlineMissed("in", 0.1), InputRecovered("in")])
    monkeypatch.setattr(port._port, "poll", lambda: next(events, None))
    assert types(receiver) == [*MISSED, "INPUT_RECOVERED"]


def test_a_deadline_that_is_no_condition_is_only_reported(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    _, _, receiver = start(start_flow, "failed", deadline_ns=20_000_000)
    assert types(receiver) == []
    clock.advance(20)
    assert types(receiver) == ["DEADLINE_MISSED"]


def test_a_sender_is_told_of_the_state_of_its_output(start_flow: StartFlow) -> None:
    daemon, sender, _ = start(start_flow, "silent")
    daemon.send("a", SafeStateFrame("out", "b/in", "silent", True))
    daemon.send("a", SafeStateFrame("out", "b/in", "silent", False, 0.5))
    entered, left = sender.drain()
    assert dict(entered).items() >= {"id": "out", "reason": "silent", "receiver": "b/in"}.items()
    assert dict(left).items() >= {"id": "out", "seconds": 0.5, "receiver": "b/in"}.items()


def test_the_board_shows_the_safe_state(start_flow: StartFlow, clock: VirtualClock) -> None:
    daemon, sender, receiver = start(start_flow, "silent")
    (slot,) = (item.slot for item in daemon.plan.configs["b"].inputs)
    assert receiver.try_recv() is None
    clock.advance(20)
    assert types(receiver) == IN
    assert (daemon.board.get(slot, SAFE_STATES.word), daemon.board.get(slot, IN_SAFE_STATE.word)) == (1, 1)
    sender.send_output("out", b"x")
    assert types(receiver) == OUT
    assert (daemon.board.get(slot, SAFE_STATES.word), daemon.board.get(slot, IN_SAFE_STATE.word)) == (1, 0)
    assert daemon.board.get(slot, STATE) == 1


def test_a_wait_ends_when_the_silence_has_lasted(start_flow: StartFlow) -> None:
    _, _, receiver = start(start_flow, "silent")
    event = receiver.next(timeout=5)
    assert event is not None
    assert event["type"] == "SAFE_STATE_ENTERED"
