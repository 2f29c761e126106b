"""Delivery contracts: what a full queue does, and that every message is accounted for."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_daemon import FakeDaemon, StartFlow
from flows import node
from waiting import TIMEOUT, wait_until

from dora import Node, SendError
from dora.errors import SharedMemoryFull
from dora.transport.board import CREDIT_WAITING, SENT
from dora.wire.node_protocol import NodeRestartedFrame


def link(start_flow: StartFlow, **options: Any) -> tuple[FakeDaemon, Node, Node]:
    daemon = start_flow(node("a", outputs="out"), node("b", inputs={"in": ("a/out", options)}))
    return daemon, daemon.node("a"), daemon.node("b")


def numbers(receiver: Node) -> list[int]:
    return [int.from_bytes(event["data"][:4], "little") for event in receiver.drain()]


def send(sender: Node, first: int, last: int, size: int = 4) -> None:
    for number in range(first, last):
        sender.send_output("out", number.to_bytes(size, "little"))


# ------------------------------------------------------------------ drop_oldest


@pytest.mark.parametrize("size", [4, 5000, 200_000])
@pytest.mark.parametrize("queue_size", [1, 2, 10, 100])
def test_a_full_queue_keeps_the_newest_and_counts_the_rest(
    start_flow: StartFlow, queue_size: int, size: int
) -> None:
    _, sender, receiver = link(start_flow, queue_size=queue_size)
    send(sender, 0, 150, size)
    assert numbers(receiver) == list(range(150 - queue_size, 150))
    assert receiver.statistics()["inputs"]["in"] == {"received": queue_size, "dropped": 150 - queue_size}
    assert sender.statistics()["outputs"]["out"] == {"sent": 150}


def test_nothing_is_lost_while_the_queue_has_room(start_flow: StartFlow) -> None:
    _, sender, receiver = link(start_flow, queue_size=10)
    for start in range(0, 1000, 10):
        send(sender, start, start + 10)
        assert numbers(receiver) == list(range(start, start + 10))
    assert receiver.statistics()["inputs"]["in"] == {"received": 1000, "dropped": 0}


def test_a_slow_receiver_does_not_cost_a_fast_one_anything(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node("a", outputs="out"),
        node("fast", inputs={"in": "a/out"}),
        node("slow", inputs={"in": ("a/out", {"queue_size": 1})}),
    )
    sender, fast, slow = daemon.node("a"), daemon.node("fast"), daemon.node("slow")
    for number in range(20):
        send(sender, number, number + 1)
        assert numbers(fast) == [number]
    assert numbers(slow) == [19]
    assert fast.statistics()["inputs"]["in"]["dropped"] == 0
    assert slow.statistics()["inputs"]["in"]["dropped"] == 19


# ------------------------------------------------------------------ exchanges


@pytest.mark.parametrize("key", ["request_id", "goal_id", "goal_status"])
@pytest.mark.parametrize("size", [4, 5000, 200_000])
@pytest.mark.parametrize("queue_size", [1, 3, 10])
def test_messages_of_an_exchange_are_not_pushed_out_by_others(
    start_flow: StartFlow, queue_size: int, size: int, key: str
) -> None:
    daemon, sender, receiver = link(start_flow, queue_size=queue_size)
    for number in range(150):
        metadata = {key: f"{number}"} if number % 7 == 0 else {"number": number}
        sender.send_output("out", number.to_bytes(size, "little"), metadata)
    kept = sorted({*range(0, 150, 7), *range(150 - queue_size, 150)})
    assert numbers(receiver) == kept
    counts = {"received": len(kept), "dropped": 150 - len(kept)}
    assert receiver.statistics()["inputs"]["in"] == counts
    assert [list(folder.iterdir()) for folder in Path(daemon.run_dir).glob("spill-*")] == [[]]


def test_more_requests_than_a_queue_has_room_for_all_arrive(start_flow: StartFlow) -> None:
    _, sender, receiver = link(start_flow, queue_size=5)
    sent = [sender.send_service_request("out", b"1234") for _ in range(500)]
    first = receiver.next(TIMEOUT)
    sent += [sender.send_service_request("out", b"1234") for _ in range(100)]
    received = [event["metadata"]["request_id"] for event in (first, *receiver.drain()) if event]
    assert received == sent
    assert receiver.statistics()["inputs"]["in"] == {"received": 600, "dropped": 0}


def test_requests_and_other_messages_stay_in_order_while_they_are_received(start_flow: StartFlow) -> None:
    _, sender, receiver = link(start_flow, queue_size=2)
    received: list[int] = []
    for number in range(400):
        metadata = {"request_id": "r"} if number % 3 == 0 else None
        sender.send_output("out", number.to_bytes(4, "little"), metadata)
        if number % 5 == 4:
            event = receiver.next(TIMEOUT)
            assert event is not None
            received.append(int.from_bytes(event["data"], "little"))
    received += numbers(receiver)
    assert received == sorted(set(received))
    assert {number for number in range(400) if number % 3 == 0} <= {*received}
    counts = receiver.statistics()["inputs"]["in"]
    assert (counts["received"], counts["received"] + counts["dropped"]) == (len(received), 400)


def test_a_slow_receiver_of_requests_costs_another_one_nothing(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node("a", outputs="out"),
        node("fast", inputs={"in": "a/out"}),
        node("slow", inputs={"in": ("a/out", {"queue_size": 1})}),
    )
    sender, fast, slow = daemon.node("a"), daemon.node("fast"), daemon.node("slow")
    for number in range(50):
        sender.send_output("out", number.to_bytes(4, "little"), {"goal_id": "g"})
        assert numbers(fast) == [number]
    assert numbers(slow) == list(range(50))
    assert len(list(Path(daemon.run_dir).glob("spill-*"))) == 1


def test_the_oldest_of_too_many_requests_are_dropped_and_counted(start_flow: StartFlow) -> None:
    _, sender, receiver = link(start_flow, queue_size=1)
    for number in range(1100):
        sender.send_output("out", number.to_bytes(4, "little"), {"request_id": "r"})
    assert numbers(receiver) == list(range(1100 - 1025, 1100))
    assert receiver.statistics()["inputs"]["in"] == {"received": 1025, "dropped": 75}


def test_requests_that_are_sent_after_a_stop_do_not_follow_those_from_before_it(
    start_flow: StartFlow,
) -> None:
    daemon, sender, receiver = link(start_flow, queue_size=1)
    for number in range(40):
        if number == 20:
            daemon.stop("b")
            stop = receiver.try_recv()
            assert stop is not None and stop["type"] == "STOP"
        sender.send_output("out", number.to_bytes(4, "little"), {"request_id": "r"})
    assert numbers(receiver) == list(range(20))


# ------------------------------------------------------------------ back-pressure


def start_sending(sender: Node, count: int, size: int = 4) -> threading.Thread:
    thread = threading.Thread(target=send, args=(sender, 0, count, size), daemon=True)
    thread.start()
    return thread


def wait_for_credit_wait(daemon: FakeDaemon) -> None:
    slot = daemon.plan.configs["a"].outputs[0].slot
    wait_until(lambda: daemon.board.get(slot, CREDIT_WAITING) == 1, "the sender to wait")


def join(thread: threading.Thread) -> None:
    thread.join(TIMEOUT)
    assert not thread.is_alive(), "the sender hangs"


@pytest.mark.parametrize("queue_size", [1, 2, 3, 10])
def test_a_full_queue_makes_the_sender_wait(start_flow: StartFlow, queue_size: int) -> None:
    daemon, sender, receiver = link(start_flow, queue_size=queue_size, queue_policy="backpressure")
    thread = start_sending(sender, 100)
    wait_for_credit_wait(daemon)
    assert sender.statistics()["outputs"]["out"]["sent"] == queue_size
    received = []
    for number in range(100):
        event = receiver.next(timeout=TIMEOUT)
        assert event is not None
        received.append(event["data"][0])
        assert sender.statistics()["outputs"]["out"]["sent"] <= number + 1 + queue_size
    join(thread)
    assert received == list(range(100))
    assert receiver.statistics()["inputs"]["in"] == {"received": 100, "dropped": 0}


@pytest.mark.lengthy
def test_back_pressure_holds_for_large_queues(start_flow: StartFlow) -> None:
    """More than a subscriber of the engine can hold."""
    daemon, sender, receiver = link(start_flow, queue_size=10_000, queue_policy="backpressure")
    thread = start_sending(sender, 6000)
    slot = daemon.plan.configs["a"].outputs[0].slot
    wait_until(
        lambda: not thread.is_alive() or daemon.board.get(slot, CREDIT_WAITING) == 1,
        "the sender to have sent all it may",
    )
    received = 0
    while received < 6000:
        event = receiver.next(timeout=TIMEOUT)
        assert event is not None
        assert event["type"] == "INPUT", event
        assert int.from_bytes(event["data"], "little") == received
        received += 1
    join(thread)
    assert receiver.statistics()["inputs"]["in"]["dropped"] == 0


def test_the_sender_goes_on_when_the_receiver_closes(start_flow: StartFlow) -> None:
    daemon, sender, receiver = link(start_flow, queue_size=2, queue_policy="backpressure")
    thread = start_sending(sender, 50)
    wait_for_credit_wait(daemon)
    receiver.close()
    join(thread)
    assert sender.statistics()["outputs"]["out"]["sent"] == 50


def test_the_sender_goes_on_when_the_stream_of_the_receiver_has_ended(start_flow: StartFlow) -> None:
    daemon, sender, receiver = link(start_flow, queue_size=2, queue_policy="backpressure")
    thread = start_sending(sender, 50)
    wait_for_credit_wait(daemon)
    daemon.stop("b")
    assert next(event["type"] for event in receiver) == "STOP"
    assert not any(event["type"] != "INPUT" for event in receiver)
    join(thread)


def test_messages_for_which_there_is_no_memory_take_no_credit(
    start_flow: StartFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    _daemon, sender, receiver = link(start_flow, queue_size=2, queue_policy="backpressure")

    def refuse(*_: object) -> None:
        raise SharedMemoryFull("no room")

    with monkeypatch.context() as full:
        full.setattr(sender._outputs["out"], "_send_small", refuse)
        for number in range(3):
            with pytest.raises(SharedMemoryFull):
                send(sender, number, number + 1)
    assert sender.statistics()["outputs"]["out"]["sent"] == 0
    join(start_sending(sender, 2))
    assert numbers(receiver) == [0, 1]


def test_a_request_for_which_there_is_no_memory_is_not_delivered(
    start_flow: StartFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    _daemon, sender, receiver = link(start_flow, queue_size=2)

    def refuse(*_: object) -> None:
        raise SharedMemoryFull("no room")

    with monkeypatch.context() as full:
        full.setattr(sender._outputs["out"], "_send_small", refuse)
        with pytest.raises(SharedMemoryFull):
            sender.send_output("out", (99).to_bytes(4, "little"), {"request_id": "r"})
    send(sender, 0, 4)
    assert numbers(receiver) == [2, 3]
    assert receiver.statistics()["inputs"]["in"] == {"received": 2, "dropped": 2}


@pytest.mark.lengthy
def test_the_sender_can_be_closed_while_it_waits(start_flow: StartFlow) -> None:
    daemon, sender, _receiver = link(start_flow, queue_size=1, queue_policy="backpressure")
    raised: list[Exception] = []

    def send_two() -> None:
        try:
            send(sender, 0, 2)
        except SendError as error:
            raised.append(error)

    thread = threading.Thread(target=send_two, daemon=True)
    thread.start()
    wait_for_credit_wait(daemon)
    sender.close()
    join(thread)
    assert len(raised) == 1


def test_a_slow_receiver_blocks_its_sender_and_loses_nothing(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node("a", outputs="out"),
        node("fast", inputs={"in": ("a/out", {"queue_size": 4, "queue_policy": "backpressure"})}),
        node("slow", inputs={"in": ("a/out", {"queue_size": 2, "queue_policy": "backpressure"})}),
        node("lossy", inputs={"in": ("a/out", {"queue_size": 1})}),
    )
    sender, fast, slow, lossy = (daemon.node(name) for name in ("a", "fast", "slow", "lossy"))
    thread = start_sending(sender, 30)
    wait_for_credit_wait(daemon)
    assert numbers(fast) == [0, 1]
    assert numbers(lossy) == [1]
    received = []
    while len(received) < 30:
        event = slow.next(timeout=TIMEOUT)
        assert event is not None
        received.append(event["data"][0])
        fast.drain()
    join(thread)
    fast.drain()
    assert received == list(range(30))
    assert fast.statistics()["inputs"]["in"] == {"received": 30, "dropped": 0}


def test_back_pressure_counts_large_messages_too(start_flow: StartFlow) -> None:
    daemon, sender, receiver = link(start_flow, queue_size=3, queue_policy="backpressure")
    thread = start_sending(sender, 20, 100_000)
    wait_for_credit_wait(daemon)
    received = [receiver.next(timeout=TIMEOUT) for _ in range(20)]
    join(thread)
    assert [int(np.frombuffer(event["data"], "<u4")[0]) for event in received if event] == list(range(20))


def test_back_pressure_holds_for_loans(start_flow: StartFlow) -> None:
    daemon, sender, receiver = link(start_flow, queue_size=2, queue_policy="backpressure")

    def lend() -> None:
        for number in range(10):
            with sender.loan("out", 1000, "uint32") as array:
                array[:] = number

    thread = threading.Thread(target=lend, daemon=True)
    thread.start()
    wait_for_credit_wait(daemon)
    received = [receiver.next(timeout=TIMEOUT) for _ in range(10)]
    join(thread)
    assert [int(event.numpy()[-1]) for event in received if event] == list(range(10))


# ------------------------------------------------------------------ processes that were killed


def test_a_restarted_receiver_does_not_hold_its_sender(start_flow: StartFlow) -> None:
    """What lay in the queue of its predecessor never comes, and counts as lost."""
    daemon, sender, _predecessor = link(start_flow, queue_size=2, queue_policy="backpressure")
    thread = start_sending(sender, 10)
    wait_for_credit_wait(daemon)
    receiver = daemon.node("b")
    received = [receiver.next(timeout=TIMEOUT) for _ in range(8)]
    join(thread)
    assert [event["data"][0] for event in received if event] == list(range(2, 10))
    assert receiver.statistics()["inputs"]["in"] == {"received": 8, "dropped": 2}


def test_messages_that_a_killed_sender_only_counted_do_not_block_its_next_process(
    start_flow: StartFlow,
) -> None:
    daemon = start_flow(
        node("a", outputs="out"),
        node("b", inputs={"in": ("a/out", {"queue_size": 1, "queue_policy": "backpressure"})}),
    )
    receiver = daemon.node("b")
    daemon.board.set(daemon.plan.configs["a"].outputs[0].slot, SENT, 1)  # killed before it sent
    sender = daemon.node("a")
    thread = start_sending(sender, 5)
    wait_for_credit_wait(daemon)
    daemon.send("b", NodeRestartedFrame("a"))
    events = [receiver.next(timeout=TIMEOUT) for _ in range(6)]
    join(thread)
    assert [event["data"][0] for event in events if event and event["type"] == "INPUT"] == list(range(5))
    assert receiver.statistics()["inputs"]["in"] == {"received": 5, "dropped": 1}


def test_a_message_that_was_late_was_not_lost(start_flow: StartFlow) -> None:
    """The replacement of a dead sender may be heard before what the dead one left in the queue."""
    daemon, sender, receiver = link(start_flow, queue_size=10)
    slot = daemon.plan.configs["a"].outputs[0].slot
    send(sender, 0, 1)
    daemon.board.set(slot, SENT, 3)
    replacement = daemon.node("a")
    send(replacement, 3, 5)
    assert numbers(receiver) == [0, 3, 4]
    assert receiver.statistics()["inputs"]["in"] == {"received": 3, "dropped": 2}
    send(sender, 1, 3)
    send(replacement, 5, 6)
    assert sorted(numbers(receiver)) == [1, 2, 5]
    assert receiver.statistics()["inputs"]["in"] == {"received": 6, "dropped": 0}
