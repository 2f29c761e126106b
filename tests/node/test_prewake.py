"""Prewakes: which nodes get them, how a node learns their value, and that nothing depends on them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from fake_daemon import FakeDaemon, StartFlow
from flows import node
from waiting import TIMEOUT, wait_until

from dora.dataflow.layout import Placement, RunContext
from dora.dataflow.model import Dataflow, NodeSpec
from dora.dataflow.plan import plan
from dora.node.receive.staying_awake import ArrivalPredictor, Prewake
from dora.transport.board import PREWAKE


def prewake_targets_of(nodes: Sequence[NodeSpec], node_id: str, **context: Any) -> list[str]:
    """Return the nodes that get prewakes from the first output of a node."""
    planned = plan(
        Dataflow(nodes=tuple(nodes), working_dir="/"), RunContext("flow", "/run", "p_", "/board", **context)
    )
    names = {config.bell: name for name, config in planned.configs.items()}
    return [names[far.bell] for far in planned.configs[node_id].outputs[0].prewake]


CHAIN = (
    node("a", outputs="out"),
    node("b", inputs={"in": "a/out"}, outputs="out"),
    node("c", inputs={"in": "b/out"}, outputs="out"),
    node("d", inputs={"in": "c/out"}),
)


def test_a_prewake_goes_to_the_next_node_but_one() -> None:
    assert prewake_targets_of(CHAIN, "a") == ["c"]
    assert prewake_targets_of(CHAIN, "b") == ["d"]
    assert prewake_targets_of(CHAIN, "c") == []


def test_a_receiver_of_the_message_needs_no_prewake() -> None:
    short_cut = node("c", inputs={"in": "b/out", "raw": "a/out"})
    assert prewake_targets_of((*CHAIN[:2], short_cut), "a") == []


def test_a_circle_does_not_ring_at_its_sender() -> None:
    ping = node("a", inputs={"in": "b/out"}, outputs="out")
    assert prewake_targets_of((ping, CHAIN[1]), "a") == []


def test_other_machines_get_none() -> None:
    machines = {"a": "here", "b": "here", "c": "there", "d": "there"}
    assert prewake_targets_of(CHAIN, "a", placement=Placement("here", machines)) == []


def test_many_get_none() -> None:
    def fan(count: int) -> list[NodeSpec]:
        return [node(f"sink{number}", inputs={"in": "b/out"}) for number in range(count)]

    assert prewake_targets_of((*CHAIN[:2], *fan(4)), "a") == ["sink0", "sink1", "sink2", "sink3"]
    assert prewake_targets_of((*CHAIN[:2], *fan(5)), "a") == []


def test_a_message_in_between_restores_the_trust() -> None:
    prewake = Prewake()
    for _ in range(20):
        for _ in range(3):
            prewake.observe(False)
        prewake.observe(True)
    assert prewake.wanted
    assert prewake.useful


def messages_until_the_next_trial(prewake: Prewake) -> int:
    count = 0
    while not prewake.wanted:
        prewake.message_arrived()
        count += 1
    return count


def test_prewakes_that_stop_coming_are_useful_no_longer() -> None:
    prewake = Prewake()
    for _ in range(3):
        prewake.observe(True)
        for _ in range(64):
            prewake.message_arrived()
        assert prewake.useful
    prewake.message_arrived()
    assert not prewake.useful
    assert prewake.wanted  # they cost nothing


def test_failed_trials_of_prewakes_become_rare_until_one_works() -> None:
    prewake = Prewake()
    for _ in range(4):
        prewake.observe(False)
    waits = []
    for _ in range(9):
        waits.append(messages_until_the_next_trial(prewake))
        prewake.observe(False)
    assert waits == [256, 512, 1024, 2048, 4096, 8192, 16384, 16384, 16384]
    messages_until_the_next_trial(prewake)
    prewake.observe(True)
    for _ in range(4):
        assert prewake.wanted
        prewake.observe(False)
    assert messages_until_the_next_trial(prewake) == 256


@pytest.fixture
def daemon(start_flow: StartFlow) -> FakeDaemon:
    return start_flow(*CHAIN[:2], node("c", inputs={"in": "b/out"}))


@pytest.mark.parametrize("window", [None, (10**9, 10**9 + 1)])
def test_a_node_that_is_woken_without_a_message_ends_its_prewakes_and_loses_nothing(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, window: tuple[int, int] | None
) -> None:
    """``window``: when the arrival predictor expects a message, in nanoseconds from now."""
    monkeypatch.setattr(
        ArrivalPredictor, "window", lambda _, now: window and (now + window[0], now + window[1])
    )
    a, b, c = (daemon.node(name) for name in "abc")
    slot = daemon.plan.configs["c"].node_slot
    got: list[bytes] = []

    def receive() -> None:
        got.extend(event["data"] for event in c if event["type"] == "INPUT")

    thread = threading.Thread(target=receive)
    thread.start()
    try:
        daemon.wait_for_sleep("c")
        assert daemon.board.get(slot, PREWAKE) == 1

        def is_gone() -> bool:
            a.send_output("out", b"raw")  # `b` passes nothing on; a ring may find `c` still awake
            return not daemon.board.get(slot, PREWAKE)

        wait_until(is_gone, "the end of prewakes")
        daemon.wait_for_sleep("c")
        b.send_output("out", b"late")
        wait_until(lambda: got == [b"late"], "the message")
    finally:
        daemon.stop("c")
        thread.join(TIMEOUT)


def test_a_task_asks_for_no_prewake(daemon: FakeDaemon) -> None:
    c = daemon.node("c")
    slot = daemon.plan.configs["c"].node_slot
    timed_out = c.next(timeout=0.01)
    assert timed_out is not None
    assert daemon.board.get(slot, PREWAKE) == 1
    assert asyncio.run(c.recv_async(timeout=0.01))["type"] == "ERROR"  # type: ignore[index]
    assert daemon.board.get(slot, PREWAKE) == 0


def test_a_wait_for_a_condition_asks_for_no_prewake(daemon: FakeDaemon) -> None:
    c = daemon.node("c")
    slot = daemon.plan.configs["c"].node_slot
    inbox = c._session.inbox

    def asks_for_none() -> bool:
        return daemon.board.get(slot, PREWAKE) == 0

    for how in ("wait_until", "wait_until_async"):
        c.next(timeout=0.01)
        assert not asks_for_none()
        deadline = time.monotonic_ns() + int(TIMEOUT * 1e9)
        if how == "wait_until":
            assert inbox.wait_until(asks_for_none, threading.Event(), deadline)
        else:
            assert asyncio.run(inbox.wait_until_async(asks_for_none, [], deadline))
