"""Timers and input timeouts, on a clock that the test turns."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from clock import MILLISECOND, VirtualClock
from fake_daemon import FakeDaemon, StartFlow
from flows import node
from waiting import TIMEOUT

from dora import Node
from dora.node.receive.timer_input import TimerInput
from dora.wire.counters import SILENT
from dora.wire.node_config import InputConfig
from dora.wire.node_protocol import DetachInput, Started, TextInput


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    return VirtualClock(monkeypatch)


def timer(
    clock: VirtualClock, milliseconds: int, *, epoch: int | None = None, **options: Any
) -> TimerInput:
    config = InputConfig(
        id="tick", kind="timer", source="", interval_ns=milliseconds * MILLISECOND, **options
    )
    return TimerInput(config, clock.now if epoch is None else epoch)


def ticks(port: TimerInput) -> int:
    count = 0
    while port.poll() is not None:
        count += 1
    return count


# ------------------------------------------------------------------ timers


def test_the_first_tick_comes_at_once(clock: VirtualClock) -> None:
    port = timer(clock, 100)
    assert port.ready()
    assert ticks(port) == 1
    assert not port.ready()


def test_ticks_lie_on_a_grid_without_drift(clock: VirtualClock) -> None:
    epoch = clock.now
    port = timer(clock, 100)
    port.poll()
    for number in range(1, 50):
        clock.advance(99)
        assert port.poll() is None
        assert port.wake_at() == epoch + number * 100 * MILLISECOND
        clock.advance(1 + 7 * (number % 3))  # read late, by different amounts
        assert ticks(port) == 1
        clock.now = epoch + number * 100 * MILLISECOND


def test_missed_ticks_are_skipped_not_bunched(clock: VirtualClock) -> None:
    port = timer(clock, 100)
    port.poll()
    clock.advance(1050)
    assert ticks(port) == 1
    clock.advance(49)
    assert ticks(port) == 0
    clock.advance(1)
    assert ticks(port) == 1


def test_a_node_that_starts_late_keeps_the_grid(clock: VirtualClock) -> None:
    epoch = clock.now
    clock.advance(730)
    port = timer(clock, 100, epoch=epoch)
    assert ticks(port) == 1
    assert port.wake_at() == epoch + 800 * MILLISECOND


def test_a_phase_shifts_the_grid(clock: VirtualClock) -> None:
    epoch = clock.now
    port = timer(clock, 100, phase_ns=30 * MILLISECOND)
    assert (ticks(port), port.wake_at()) == (0, epoch + 30 * MILLISECOND)
    clock.advance(30)
    assert (ticks(port), port.wake_at()) == (1, epoch + 130 * MILLISECOND)


def test_a_phase_holds_for_a_node_that_starts_late(clock: VirtualClock) -> None:
    epoch = clock.now
    clock.advance(230)
    port = timer(clock, 100, epoch=epoch, phase_ns=50 * MILLISECOND)
    assert (ticks(port), port.wake_at()) == (1, epoch + 250 * MILLISECOND)


def missed(port: TimerInput) -> list[int]:
    found = []
    while (event := port.poll()) is not None:
        found.append(event["metadata"].get("missed_ticks", 0))
    return found


def test_a_coalesced_tick_tells_how_many_were_missed(clock: VirtualClock) -> None:
    port = timer(clock, 100, missed_ticks="coalesce")
    assert missed(port) == [0]
    clock.advance(1050)
    assert missed(port) == [9]
    clock.advance(50)
    assert missed(port) == [0]
    assert port.statistics.missed == 9


def test_a_burst_has_every_missed_tick_with_its_time(clock: VirtualClock) -> None:
    port = timer(clock, 100, missed_ticks="burst")
    port.poll()
    clock.advance(350)
    stamps = []
    while (event := port.poll()) is not None:
        stamps.append(event["metadata"]["timestamp"])
    first, second, third = stamps
    assert [round((later - first).total_seconds(), 1) for later in (second, third)] == [0.1, 0.2]
    assert port.statistics.missed == 0


def test_a_burst_is_at_most_as_long_as_the_queue(clock: VirtualClock) -> None:
    port = timer(clock, 1, missed_ticks="burst", queue_size=3)
    port.poll()
    clock.advance(3_600_000)
    assert ticks(port) == 3
    assert port.statistics.missed == 3_600_000 - 3


def test_the_statistics_tell_how_punctual_ticks_are(clock: VirtualClock) -> None:
    epoch = clock.now
    port = timer(clock, 100)
    port.poll()
    for number, late in enumerate((2, 2, 30, 2), start=1):
        clock.now = epoch + (number * 100 + late) * MILLISECOND
        assert ticks(port) == 1
    clock.now = epoch + 850 * MILLISECOND  # ticks 5 to 8 were due, and 5 is 350 ms late
    assert ticks(port) == 1
    found = port.statistics.summary()
    assert (found["ticks"], found["missed"]) == (6, 3)
    assert found["lateness"]["worst_ms"] == 350
    assert found["lateness"]["median_ms"] == pytest.approx(2, rel=0.06)
    assert found["jitter"]["worst_ms"] == 348


def test_a_node_knows_how_punctual_its_timers_are(start_flow: StartFlow, clock: VirtualClock) -> None:
    daemon = start_flow(
        node("a", inputs={"tick": "dora/timer/millis/100"}), answer_ready=(Started(clock.now),)
    )
    receiver = daemon.node("a")
    assert len(receiver.drain()) == 1
    clock.advance(250)
    assert len(receiver.drain()) == 1
    timers = receiver.statistics()["timers"]
    assert list(timers) == ["tick"]
    assert (timers["tick"]["ticks"], timers["tick"]["missed"]) == (2, 1)
    assert timers["tick"]["lateness"]["worst_ms"] == 150


def test_a_tick_is_an_input_with_an_empty_null_array(start_flow: StartFlow) -> None:
    daemon = start_flow(node("a", inputs={"tick": "dora/timer/millis/10"}))
    event = daemon.node("a").next(timeout=TIMEOUT)
    assert event is not None
    assert (event["type"], event["id"]) == ("INPUT", "tick")
    assert event["value"].type == pa.null()
    assert list(event["metadata"]) == ["timestamp"]


def test_waiting_for_a_timer_is_bounded_by_its_tick(start_flow: StartFlow) -> None:
    daemon = start_flow(node("a", inputs={"tick": "dora/timer/millis/5"}))
    receiver = daemon.node("a")
    for _ in range(4):
        event = receiver.next(timeout=TIMEOUT)
        assert event is not None
        assert event["id"] == "tick"


def test_two_nodes_tick_on_the_same_grid(start_flow: StartFlow, clock: VirtualClock) -> None:
    inputs = {"tick": "dora/timer/millis/100"}
    daemon = start_flow(
        node("a", inputs=inputs), node("b", inputs=inputs), answer_ready=(Started(clock.now),)
    )
    first = daemon.node("a")
    clock.advance(30)
    second = daemon.node("b")
    for receiver in (first, second):
        assert len(receiver.drain()) == 1
    clock.advance(69)
    assert first.is_empty()
    assert second.is_empty()
    clock.advance(1)
    assert len(first.drain()) == len(second.drain()) == 1


def test_a_timer_stops_with_a_manual_stop(start_flow: StartFlow) -> None:
    daemon = start_flow(node("a", inputs={"tick": "dora/timer/millis/1"}))
    receiver = daemon.node("a")
    receiver.next(timeout=TIMEOUT)
    daemon.stop("a")
    events = [event["type"] for event in receiver]
    assert events[-1] == "STOP"


def test_timers_go_on_when_the_data_inputs_have_closed(start_flow: StartFlow, clock: VirtualClock) -> None:
    daemon = start_flow(
        node("a", outputs="out"),
        node("b", inputs={"in": "a/out", "tick": "dora/timer/millis/10"}),
        answer_ready=(Started(clock.now),),
    )
    receiver = daemon.node("b")
    daemon.close_inputs("b", "in")
    clock.advance(100)
    assert {event["type"] for event in receiver.drain()} == {"INPUT", "INPUT_CLOSED"}
    clock.advance(10)
    assert [event["id"] for event in receiver.drain()] == ["tick"]


def test_a_timer_that_was_disconnected_does_not_keep_its_node_running(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    daemon = start_flow(
        node("a", outputs="out"),
        node("b", inputs={"in": "a/out", "tick": "dora/timer/millis/10"}),
        answer_ready=(Started(clock.now),),
    )
    receiver = daemon.node("b")
    daemon.send("b", DetachInput("tick", 0))
    daemon.close_inputs("b", "in")
    events = receiver.drain()
    assert (events[-1]["type"], events[-1]["id"]) == ("STOP", "ALL_INPUTS_CLOSED")


def test_a_busy_timer_leaves_room_for_data(start_flow: StartFlow, clock: VirtualClock) -> None:
    daemon = start_flow(
        node("a", outputs="out"),
        node("b", inputs={"tick": "dora/timer/millis/1", "in": "a/out"}),
        answer_ready=(Started(clock.now),),
    )
    sender, receiver = daemon.node("a"), daemon.node("b")
    for _ in range(3):
        sender.send_output("out", b"x")
    seen = []
    for _ in range(6):
        clock.advance(1)
        event = receiver.try_recv()
        assert event is not None
        seen.append(event["id"])
    assert seen == ["in", "tick"] * 3


# ------------------------------------------------------------------ input_timeout


@pytest.fixture
def silent(start_flow: StartFlow, clock: VirtualClock) -> tuple[FakeDaemon, Node, Node, VirtualClock]:
    daemon = start_flow(
        node("a", outputs="out"), node("b", inputs={"in": ("a/out", {"input_timeout": 0.5})})
    )
    return daemon, daemon.node("a"), daemon.node("b"), clock


Silent = tuple[FakeDaemon, Node, Node, VirtualClock]


def types(receiver: Node) -> list[str]:
    return [event["type"] for event in receiver.drain()]


def test_the_deadline_of_an_input_is_armed_by_the_first_message(silent: Silent) -> None:
    _, _, receiver, clock = silent
    clock.advance(10_000)
    assert types(receiver) == []


def test_a_missed_deadline_closes_an_input_once_and_a_message_recovers_the_input(silent: Silent) -> None:
    _, sender, receiver, clock = silent
    sender.send_output("out", b"1")
    assert types(receiver) == ["INPUT"]
    clock.advance(499)
    assert types(receiver) == []
    clock.advance(1)
    assert not receiver.is_empty()
    assert types(receiver) == ["INPUT_CLOSED"]
    clock.advance(10_000)
    assert types(receiver) == []
    sender.send_output("out", b"2")
    events = receiver.drain()
    assert [event["type"] for event in events] == ["INPUT_RECOVERED", "INPUT"]
    assert events[0]["id"] == "in"
    assert events[1]["data"] == b"2"
    clock.advance(500)
    assert types(receiver) == ["INPUT_CLOSED"]


def test_messages_after_a_missed_deadline_keep_their_order(silent: Silent) -> None:
    _, sender, receiver, clock = silent
    sender.send_output("out", b"0")
    assert types(receiver) == ["INPUT"]
    clock.advance(500)
    assert types(receiver) == ["INPUT_CLOSED"]
    for data in (b"1", b"2", b"3"):
        sender.send_output("out", data)
    recovered, *rest = receiver.drain()
    assert recovered["type"] == "INPUT_RECOVERED"
    assert [event["data"] for event in rest] == [b"1", b"2", b"3"]


def test_a_stop_after_a_missed_deadline_still_delivers_buffered_messages(silent: Silent) -> None:
    daemon, sender, receiver, clock = silent
    sender.send_output("out", b"0")
    assert types(receiver) == ["INPUT"]
    clock.advance(500)
    assert types(receiver) == ["INPUT_CLOSED"]
    sender.send_output("out", b"1")
    daemon.stop("b")
    assert types(receiver) == ["STOP", "INPUT"]


def is_silent(daemon: FakeDaemon, node_id: str, input_id: str) -> bool:
    (slot,) = (item.slot for item in daemon.plan.configs[node_id].inputs if item.id == input_id)
    return bool(daemon.board.get(slot, SILENT.word))


def test_the_board_shows_a_missed_deadline_until_messages_come_again(silent: Silent) -> None:
    daemon, sender, receiver, clock = silent
    sender.send_output("out", b"1")
    assert types(receiver) == ["INPUT"]
    clock.advance(499)
    assert types(receiver) == []
    assert not is_silent(daemon, "b", "in")
    clock.advance(1)
    assert types(receiver) == ["INPUT_CLOSED"]
    assert is_silent(daemon, "b", "in")
    sender.send_output("out", b"2")
    assert types(receiver) == ["INPUT_RECOVERED", "INPUT"]
    assert not is_silent(daemon, "b", "in")


def test_the_board_shows_no_missed_deadline_after_the_end_of_the_source(silent: Silent) -> None:
    daemon, sender, receiver, clock = silent
    sender.send_output("out", b"1")
    assert types(receiver) == ["INPUT"]
    clock.advance(500)
    assert types(receiver) == ["INPUT_CLOSED"]
    daemon.close_inputs("b", "in")
    assert receiver.next(timeout=0)["type"] == "INPUT_CLOSED"
    assert not is_silent(daemon, "b", "in")


@pytest.mark.parametrize("end", ["stop", "close"])
def test_the_board_shows_no_missed_deadline_after_the_end_of_the_receiver(silent: Silent, end: str) -> None:
    daemon, sender, receiver, clock = silent
    sender.send_output("out", b"1")
    assert types(receiver) == ["INPUT"]
    clock.advance(500)
    assert types(receiver) == ["INPUT_CLOSED"]
    if end == "stop":
        daemon.stop("b")
        assert types(receiver) == ["STOP"]
    else:
        receiver.close()
    assert not is_silent(daemon, "b", "in")


def test_messages_keep_an_input_open(silent: Silent) -> None:
    _, sender, receiver, clock = silent
    for _ in range(5):
        sender.send_output("out", b"x")
        assert types(receiver) == ["INPUT"]
        clock.advance(400)
    assert types(receiver) == []


def test_a_silent_input_is_not_the_end_of_the_stream(silent: Silent) -> None:
    daemon, sender, receiver, clock = silent
    sender.send_output("out", b"x")
    clock.advance(0)
    assert types(receiver) == ["INPUT"]
    clock.advance(500)
    assert types(receiver) == ["INPUT_CLOSED"]
    daemon.close_inputs("b", "in")
    assert types(receiver) == ["INPUT_CLOSED", "STOP"]


def test_a_wait_ends_when_the_timeout_of_an_input_does(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node("a", outputs="out"), node("b", inputs={"in": ("a/out", {"input_timeout": 0.01})})
    )
    sender, receiver = daemon.node("a"), daemon.node("b")
    sender.send_output("out", b"x")
    events = [receiver.next(timeout=TIMEOUT) for _ in range(2)]
    assert [event["type"] for event in events if event] == ["INPUT", "INPUT_CLOSED"]


def test_a_text_input_can_miss_its_deadline(start_flow: StartFlow, clock: VirtualClock) -> None:
    daemon = start_flow(node("a", inputs={"logs": ("dora/logs", {"input_timeout": 0.5})}))
    receiver = daemon.node("a")
    daemon.send("a", TextInput(["logs"], "1"))
    assert types(receiver) == ["INPUT"]
    clock.advance(500)
    assert types(receiver) == ["INPUT_CLOSED"]
    assert is_silent(daemon, "a", "logs")
    daemon.send("a", TextInput(["logs"], "2"))
    assert types(receiver) == ["INPUT_RECOVERED", "INPUT"]
    assert not is_silent(daemon, "a", "logs")
