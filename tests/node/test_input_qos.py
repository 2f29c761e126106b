"""Inputs with a deadline, a maximum age, a rate, a place for the latest, and messages to keep."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from clock import MILLISECOND, VirtualClock
from fake_daemon import FakeDaemon, StartFlow
from flows import node, operator, runtime
from waiting import TIMEOUT

from dora import DeadlineMet, DeadlineMissed, Input, Node
from dora.wire.counters import OVERDUE
from dora.wire.node_protocol import InputsClosed, NodeRestartedFrame


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualClock]:
    import dora.node.receive.qos_input  # noqa: F401 - most nodes do not need it

    with monkeypatch.context() as patch:
        yield VirtualClock(patch)


def link(start_flow: StartFlow, **qos: Any) -> tuple[FakeDaemon, Node, Node]:
    daemon = start_flow(node("a", outputs="out"), node("b", inputs={"in": ("a/out", qos)}))
    return daemon, daemon.node("a"), daemon.node("b")


def send(sender: Node, *values: int, **metadata: Any) -> None:
    for value in values:
        sender.send_output("out", pa.array([value]), metadata)


def number(event: Any) -> Any:
    return event["value"][0].as_py() if isinstance(event, Input) else event["type"]


def taken(receiver: Node) -> list[Any]:
    """Return the events that are there: numbers of messages, types of others."""
    return [number(event) for event in receiver.drain()]


def counts(receiver: Node) -> dict[str, int]:
    found: dict[str, int] = receiver.statistics()["inputs"]["in"]
    return found


def is_overdue(daemon: FakeDaemon) -> bool:
    return bool(daemon.board.get(daemon.plan.configs["b"].inputs[0].slot, OVERDUE.word))


# ------------------------------------------------------------------ deadline


def test_a_pause_that_is_too_long_is_one_event_and_the_next_message_another(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    daemon, sender, receiver = link(start_flow, deadline_ns=50 * MILLISECOND)
    send(sender, 1)
    assert taken(receiver) == [1]
    clock.advance(49)
    assert receiver.is_empty() and taken(receiver) == []
    clock.advance(3)
    assert not receiver.is_empty()
    missed = receiver.try_recv()
    assert isinstance(missed, DeadlineMissed)
    assert missed.id == "in" and missed.late == pytest.approx(0.002)
    assert is_overdue(daemon)
    clock.advance(1000)
    assert taken(receiver) == []
    send(sender, 2, 3)
    met, *rest = receiver.drain()
    assert isinstance(met, DeadlineMet) and met.late == pytest.approx(1.002)
    assert [event["value"][0].as_py() for event in rest] == [2, 3]
    assert not is_overdue(daemon)
    assert counts(receiver) == {"received": 3, "dropped": 0, "missed": 1}


def test_a_source_that_never_sends_misses_its_deadline(start_flow: StartFlow, clock: VirtualClock) -> None:
    _, sender, receiver = link(start_flow, deadline_ns=50 * MILLISECOND)
    assert taken(receiver) == []
    clock.advance(50)
    assert taken(receiver) == ["DEADLINE_MISSED"]
    send(sender, 1)
    assert taken(receiver) == ["DEADLINE_MET", 1]


def test_messages_that_wait_for_a_slow_program_are_not_late(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    _, sender, receiver = link(start_flow, deadline_ns=50 * MILLISECOND)
    send(sender, 1)
    assert taken(receiver) == [1]
    for value in (2, 3, 4):
        clock.advance(40)
        send(sender, value)
    clock.advance(500)  # the program works all the time
    assert taken(receiver) == [2, 3, 4]
    assert counts(receiver)["missed"] == 0


def test_the_end_of_a_source_is_no_missed_deadline_and_its_return_begins_a_pause(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    daemon = start_flow(
        node("a", outputs="out"),
        node("b", inputs={"in": ("a/out", {"deadline_ns": 50 * MILLISECOND}), "other": "c/out"}),
        node("c", outputs="out"),
    )
    sender, receiver = daemon.node("a"), daemon.node("b")
    send(sender, 1)
    assert taken(receiver) == [1]
    clock.advance(60)
    assert taken(receiver) == ["DEADLINE_MISSED"]
    assert is_overdue(daemon)
    daemon.close_inputs("b", "in")
    assert receiver.next(timeout=TIMEOUT)["type"] == "INPUT_CLOSED"
    assert not is_overdue(daemon)
    clock.advance(1000)
    assert taken(receiver) == []
    daemon.send("b", NodeRestartedFrame("a"))
    assert receiver.next(timeout=TIMEOUT)["type"] == "NODE_RESTARTED"
    assert taken(receiver) == []
    clock.advance(50)
    assert taken(receiver) == ["DEADLINE_MISSED"]


def test_a_stop_ends_the_deadline(start_flow: StartFlow, clock: VirtualClock) -> None:
    daemon, sender, receiver = link(start_flow, deadline_ns=50 * MILLISECOND)
    send(sender, 1)
    daemon.stop("b")
    assert taken(receiver) == ["STOP", 1]
    clock.advance(100)
    assert receiver.next(timeout=0.1) is None


def test_after_an_input_timeout_the_deadline_begins_with_the_next_message(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    _, sender, receiver = link(start_flow, deadline_ns=50 * MILLISECOND, input_timeout=0.2)
    send(sender, 1)
    assert taken(receiver) == [1]
    clock.advance(50)
    assert taken(receiver) == ["DEADLINE_MISSED"]
    clock.advance(150)
    assert taken(receiver) == ["INPUT_CLOSED"]
    clock.advance(1000)
    assert taken(receiver) == []
    send(sender, 2)
    assert taken(receiver) == ["INPUT_RECOVERED", 2]
    clock.advance(50)
    assert taken(receiver) == ["DEADLINE_MISSED"]


def test_a_waiting_node_is_woken_by_a_missed_deadline(start_flow: StartFlow) -> None:
    _, sender, receiver = link(start_flow, deadline_ns=20 * MILLISECOND)
    send(sender, 1)
    while (event := receiver.next(timeout=TIMEOUT))["type"] != "INPUT":  # it may be late from the start
        assert event["type"].startswith("DEADLINE_")
    event = receiver.next(timeout=TIMEOUT)
    assert event["type"] == "DEADLINE_MISSED"
    assert 0 <= event["late"] < TIMEOUT


def test_an_input_that_its_timeout_has_closed_is_not_overdue(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    daemon, sender, receiver = link(start_flow, deadline_ns=50 * MILLISECOND, input_timeout=0.2)
    send(sender, 1)
    assert taken(receiver) == [1]
    clock.advance(50)
    assert taken(receiver) == ["DEADLINE_MISSED"]
    assert is_overdue(daemon)
    clock.advance(150)
    assert taken(receiver) == ["INPUT_CLOSED"]
    assert not is_overdue(daemon)


def test_a_stopped_node_has_no_overdue_input(start_flow: StartFlow, clock: VirtualClock) -> None:
    daemon, sender, receiver = link(start_flow, deadline_ns=50 * MILLISECOND)
    send(sender, 1)
    assert taken(receiver) == [1]
    clock.advance(50)
    assert taken(receiver) == ["DEADLINE_MISSED"]
    assert is_overdue(daemon)
    daemon.stop("b")
    assert taken(receiver) == ["STOP"]
    assert not is_overdue(daemon)


def test_a_new_process_takes_back_that_its_input_is_overdue(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node("a", outputs="out"), node("b", inputs={"in": ("a/out", {"deadline_ns": 50 * MILLISECOND})})
    )
    daemon.board.set(daemon.plan.configs["b"].inputs[0].slot, OVERDUE.word, 1)  # a killed process left it
    _receiver = daemon.node("b")  # held: a node that is collected closes
    assert not is_overdue(daemon)


def test_a_source_that_ends_and_is_back_at_once_begins_a_pause(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    daemon, sender, receiver = link(start_flow, deadline_ns=50 * MILLISECOND)
    send(sender, 1)
    assert taken(receiver) == [1]
    clock.advance(60)
    daemon.send("b", InputsClosed(["in"]), NodeRestartedFrame("a"))
    assert taken(receiver) == ["NODE_RESTARTED"]
    clock.advance(49)
    assert taken(receiver) == []
    clock.advance(1)
    assert taken(receiver) == ["DEADLINE_MISSED"]


def test_after_a_gap_the_next_late_message_is_recognised(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    _, sender, receiver = link(start_flow, deadline_ns=50 * MILLISECOND, queue_size=1)
    send(sender, 1)
    assert taken(receiver) == [1]
    for gap in (10, 40):  # at the second one, the message after the gap comes late, which nobody can know
        for value in (2, 3):
            clock.advance(gap)
            send(sender, value)
        assert taken(receiver) == [3]
        clock.advance(80)
        send(sender, 4)
        clock.advance(100)  # the program works
        assert taken(receiver) == ["DEADLINE_MISSED", "DEADLINE_MET", 4]
    assert counts(receiver) == {"received": 5, "dropped": 2, "missed": 2}


def test_after_a_message_that_was_too_old_the_next_late_one_is_recognised(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    _, sender, receiver = link(
        start_flow, max_age_ns=3600 * 1000 * MILLISECOND, deadline_ns=50 * MILLISECOND
    )
    send(sender, 1)
    assert taken(receiver) == [1]
    send(sender, 2, timestamp=datetime.now(UTC) - timedelta(hours=2))
    send(sender, 3)
    assert taken(receiver) == [3]
    clock.advance(80)
    send(sender, 4)
    clock.advance(100)  # the program works
    assert taken(receiver) == ["DEADLINE_MISSED", "DEADLINE_MET", 4]


# ------------------------------------------------------------------ max_age


def test_messages_that_are_too_old_by_their_timestamp_are_not_delivered(start_flow: StartFlow) -> None:
    _, sender, receiver = link(start_flow, max_age_ns=3600 * 1000 * MILLISECOND)
    now = datetime.now(UTC)
    send(sender, 1, timestamp=now - timedelta(hours=2))
    send(sender, 2, timestamp=now)
    send(sender, 3, other=1)
    send(sender, 4, timestamp="two hours ago")  # no time: the time of sending counts
    got = [receiver.next(timeout=TIMEOUT) for _ in range(3)]
    assert [event["value"][0].as_py() for event in got] == [2, 3, 4]
    assert counts(receiver) == {"received": 3, "dropped": 0, "expired": 1}


def test_without_a_timestamp_the_time_of_sending_counts(
    start_flow: StartFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dora.node.receive.qos_input as module

    _, sender, receiver = link(start_flow, max_age_ns=100 * MILLISECOND)
    send(sender, 1, 2)
    later = module._wall() + 3600 * 1000 * MILLISECOND
    monkeypatch.setattr(module, "_wall", lambda: later)
    assert taken(receiver) == []
    assert counts(receiver) == {"received": 0, "dropped": 0, "expired": 2}


def test_an_input_that_gets_only_old_messages_misses_its_deadline(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    _, sender, receiver = link(
        start_flow, max_age_ns=3600 * 1000 * MILLISECOND, deadline_ns=50 * MILLISECOND
    )
    send(sender, 1)
    assert taken(receiver) == [1]
    clock.advance(60)
    send(sender, 2, timestamp=datetime.now(UTC) - timedelta(hours=2))
    assert taken(receiver) == ["DEADLINE_MISSED"]


# ------------------------------------------------------------------ rate


def test_of_messages_that_come_too_fast_the_newest_is_delivered(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    _, sender, receiver = link(start_flow, period_ns=100 * MILLISECOND)
    send(sender, 1)
    assert taken(receiver) == [1]
    send(sender, 2)
    clock.advance(50)
    send(sender, 3, 4)
    assert receiver.is_empty() and taken(receiver) == []
    clock.advance(50)
    assert not receiver.is_empty()
    assert taken(receiver) == [4]
    clock.advance(1000)
    send(sender, 5)
    assert taken(receiver) == [5]
    assert counts(receiver) == {"received": 3, "dropped": 0, "thinned": 2}


def test_the_last_message_comes_before_the_closing(start_flow: StartFlow, clock: VirtualClock) -> None:
    daemon, sender, receiver = link(start_flow, period_ns=100 * MILLISECOND)
    send(sender, 1)
    assert taken(receiver) == [1]
    send(sender, 2)
    assert taken(receiver) == []
    daemon.close_inputs("b", "in")
    clock.advance(1)
    assert taken(receiver) == [2, "INPUT_CLOSED", "STOP"]


def test_of_so_many_messages_one_is_delivered_and_kept_ones_are_not_counted(start_flow: StartFlow) -> None:
    _, sender, receiver = link(start_flow, every=3, keep=("stop",))
    send(sender, 1, 2)
    assert taken(receiver) == [1]
    sender.send_output("out", pa.array([10]), {"stop": True})
    send(sender, 3, 4, 5, 6, 7)
    assert taken(receiver) == [10, 4, 7]
    assert counts(receiver) == {"received": 4, "dropped": 0, "thinned": 4}


def test_a_rate_takes_what_every_has_left(start_flow: StartFlow, clock: VirtualClock) -> None:
    _, sender, receiver = link(start_flow, every=2, period_ns=100 * MILLISECOND)
    send(sender, 1, 2)
    assert taken(receiver) == [1]
    send(sender, 3, 4, 5, 6)
    clock.advance(100)
    assert taken(receiver) == [5]


def test_a_stop_gives_out_the_message_that_is_held(start_flow: StartFlow, clock: VirtualClock) -> None:
    daemon, sender, receiver = link(start_flow, period_ns=100 * MILLISECOND)
    send(sender, 1, 2)
    assert taken(receiver) == [2]
    send(sender, 3)
    assert taken(receiver) == []
    daemon.stop("b")
    clock.advance(1)
    assert taken(receiver) == ["STOP", 3]


def test_the_loss_of_the_daemon_gives_out_the_message_that_is_held(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    daemon, sender, receiver = link(start_flow, period_ns=100 * MILLISECOND)
    send(sender, 1)
    assert taken(receiver) == [1]
    clock.advance(60)  # so a poll looks for the daemon again
    send(sender, 2)
    daemon.disconnect("b")
    assert not receiver.is_empty()
    assert taken(receiver) == ["ERROR", 2]
    assert receiver.next() is None


@pytest.mark.lengthy
def test_after_the_loss_of_the_daemon_a_message_behind_thousands_that_are_left_out_comes(
    start_flow: StartFlow,
) -> None:
    daemon, sender, receiver = link(start_flow, every=2500, queue_size=3000)
    send(sender, *range(2501))
    daemon.disconnect("b")
    assert not receiver.is_empty()
    assert [number(event) for event in receiver] == ["ERROR", 0, 2500]


def test_after_a_timeout_behind_a_held_message_no_deadline_passes(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    _, sender, receiver = link(
        start_flow, period_ns=300 * MILLISECOND, deadline_ns=400 * MILLISECOND, input_timeout=0.2
    )
    send(sender, 1)
    assert taken(receiver) == [1]
    send(sender, 2)
    assert taken(receiver) == []
    clock.advance(200)
    assert taken(receiver) == [2, "INPUT_CLOSED"]
    clock.advance(1000)
    assert taken(receiver) == []


def test_a_waiting_node_gets_the_held_message_when_it_is_due(start_flow: StartFlow) -> None:
    _, sender, receiver = link(start_flow, period_ns=20 * MILLISECOND)
    send(sender, 1)
    assert receiver.next(timeout=TIMEOUT)["value"][0].as_py() == 1
    send(sender, 2)
    assert receiver.next(timeout=TIMEOUT)["value"][0].as_py() == 2


def test_a_held_message_may_become_too_old(
    start_flow: StartFlow, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dora.node.receive.qos_input as module

    _, sender, receiver = link(
        start_flow, period_ns=100 * MILLISECOND, max_age_ns=3600 * 1000 * MILLISECOND
    )
    send(sender, 1)
    assert taken(receiver) == [1]
    send(sender, 2)
    assert taken(receiver) == []
    later = module._wall() + 2 * 3600 * 1000 * MILLISECOND
    monkeypatch.setattr(module, "_wall", lambda: later)
    clock.advance(100)
    assert taken(receiver) == []
    assert counts(receiver) == {"received": 1, "dropped": 0, "expired": 1, "thinned": 0}


# ------------------------------------------------------------------ latest and keep


def wait_for(receiver: Node, count: int) -> list[int]:
    return [receiver.next(timeout=TIMEOUT)["value"][0].as_py() for _ in range(count)]


def test_latest_has_one_place_for_the_newest(start_flow: StartFlow) -> None:
    _, sender, receiver = link(start_flow, queue_policy="latest", queue_size=1)
    send(sender, *range(10))
    assert taken(receiver) == [9]
    assert counts(receiver) == {"received": 1, "dropped": 9}


def test_kept_messages_come_first_and_in_order_then_the_newest(start_flow: StartFlow) -> None:
    _, sender, receiver = link(start_flow, queue_policy="latest", queue_size=1, keep=("stop", "reset"))
    send(sender, 1, 2)
    send(sender, 3, stop=True)
    send(sender, 4)
    send(sender, 5, reset="all")
    send(sender, 6, note="stop")  # the word is no key
    send(sender, 7, nested={"stop": 1})
    send(sender, 8, 9)
    sender.close()
    got = wait_for(receiver, 3)
    assert got == [3, 5, 9]
    assert counts(receiver) == {"received": 3, "dropped": 6}


def test_large_kept_messages_are_not_pushed_out_either(start_flow: StartFlow) -> None:
    _, sender, receiver = link(start_flow, queue_size=2, keep=("stop",))
    for value in range(6):
        metadata = {"stop": True} if value == 1 else {}
        sender.send_output("out", pa.array([value] * 20_000), metadata)
    assert taken(receiver) == [1, 4, 5]


def test_another_input_of_the_same_output_keeps_nothing(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node("a", outputs="out"),
        node("b", inputs={"in": ("a/out", {"queue_size": 1, "keep": ("stop",)})}),
        node("c", inputs={"in": ("a/out", {"queue_size": 1})}),
    )
    sender, keeping, other = daemon.node("a"), daemon.node("b"), daemon.node("c")
    send(sender, 1, stop=True)
    send(sender, 2, 3)
    assert taken(keeping) == [1, 3]
    assert taken(other) == [3]


def test_kept_messages_are_neither_thinned_nor_too_old_and_overtake_none(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    _, sender, receiver = link(
        start_flow,
        period_ns=100 * MILLISECOND,
        max_age_ns=3600 * 1000 * MILLISECOND,
        keep=("stop",),
    )
    send(sender, 1)
    assert taken(receiver) == [1]
    send(sender, 2)
    assert taken(receiver) == []
    send(sender, 3, stop=True, timestamp=datetime.now(UTC) - timedelta(hours=2))
    assert taken(receiver) == [3]  # 2 is older, and would undo it
    clock.advance(100)
    send(sender, 4)
    assert taken(receiver) == [4]
    assert counts(receiver) == {"received": 3, "dropped": 0, "expired": 0, "thinned": 1}


def test_kept_messages_survive_a_flush(start_flow: StartFlow) -> None:
    _, sender, receiver = link(start_flow, keep=("stop",))
    send(sender, 1, stop=True)
    send(sender, 2)
    send(sender, 3, flush=True)
    assert taken(receiver) == [1, 3]


# ------------------------------------------------------------------ operators

COLLECT = """
import json, dora
from dora import DoraStatus

class Operator(dora.Operator):
    def on_event(self, event, send_output):
        if event["type"] == "INPUT":
            print(event["id"], event["value"][0].as_py(), flush=True)
        elif event["type"].startswith("DEADLINE"):
            print(event["id"], event["type"], flush=True)
        return DoraStatus.CONTINUE
"""


@pytest.mark.processes
def test_an_operator_gets_the_events_of_its_inputs_by_their_own_names(
    start_flow: StartFlow, tmp_path: Path
) -> None:
    (tmp_path / "collect.py").write_text(COLLECT, encoding="utf-8")
    daemon = start_flow(
        node("a", outputs="out"),
        runtime(
            "rt",
            operator(
                "op",
                "collect.py",
                inputs={"in": ("a/out", {"deadline_ns": 100 * MILLISECOND, "queue_policy": "latest"})},
            ),
        ),
        working_dir=str(tmp_path),
    )
    process = daemon.start_process("rt")
    sender = daemon.node("a")
    assert process.stdout is not None
    assert process.stdout.readline() == "in DEADLINE_MISSED\n"
    send(sender, 7)
    assert process.stdout.readline() == "in DEADLINE_MET\n"
    assert process.stdout.readline() == "in 7\n"
    daemon.stop("rt")
    assert process.wait(TIMEOUT) == 0
