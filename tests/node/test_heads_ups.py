"""Heads-ups: who gets them, how a node learns what they are worth, and that nothing depends on them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from fake_daemon import PATIENCE, FakeDaemon, StartFlow, wait_until
from flows import node

from dora.dataflow.model import Dataflow, NodeSpec
from dora.dataflow.plan import RunContext, plan
from dora.node.receive.arrival_predictor import ArrivalPredictor
from dora.node.receive.prewake import Prewake
from dora.transport.board import PREWAKE


def heads_ups_of(nodes: Sequence[NodeSpec], node_id: str, **context: Any) -> list[str]:
    """Return the nodes that get heads-ups from the first output of a node."""
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


def test_they_go_to_the_next_node_but_one() -> None:
    assert heads_ups_of(CHAIN, "a") == ["c"]
    assert heads_ups_of(CHAIN, "b") == ["d"]
    assert heads_ups_of(CHAIN, "c") == []


def test_a_node_that_gets_the_message_itself_needs_none() -> None:
    short_cut = node("c", inputs={"in": "b/out", "raw": "a/out"})
    assert heads_ups_of((*CHAIN[:2], short_cut), "a") == []


def test_a_circle_does_not_ring_at_its_sender() -> None:
    ping = node("a", inputs={"in": "b/out"}, outputs="out")
    assert heads_ups_of((ping, CHAIN[1]), "a") == []


def test_other_machines_get_none() -> None:
    machines = {"a": "here", "b": "here", "c": "there", "d": "there"}
    assert heads_ups_of(CHAIN, "a", machine="here", machines=machines) == []


def test_many_get_none() -> None:
    def fan(count: int) -> list[NodeSpec]:
        return [node(f"sink{number}", inputs={"in": "b/out"}) for number in range(count)]

    assert heads_ups_of((*CHAIN[:2], *fan(4)), "a") == ["sink0", "sink1", "sink2", "sink3"]
    assert heads_ups_of((*CHAIN[:2], *fan(5)), "a") == []


def test_a_message_in_between_restores_the_trust() -> None:
    heads_ups = Prewake()
    for _ in range(20):
        for _ in range(3):
            heads_ups.came(False)
        heads_ups.came(True)
    assert heads_ups.wanted
    assert heads_ups.useful


def messages_until_the_next_trial(heads_ups: Prewake) -> int:
    count = 0
    while not heads_ups.wanted:
        heads_ups.arrived()
        count += 1
    return count


def test_they_are_useful_no_longer_when_they_stop_coming() -> None:
    heads_ups = Prewake()
    for _ in range(3):
        heads_ups.came(True)
        for _ in range(64):
            heads_ups.arrived()
        assert heads_ups.useful
    heads_ups.arrived()
    assert not heads_ups.useful
    assert heads_ups.wanted  # they cost nothing


def test_trials_in_vain_become_rare_and_one_that_works_counts() -> None:
    heads_ups = Prewake()
    for _ in range(4):
        heads_ups.came(False)
    waits = []
    for _ in range(9):
        waits.append(messages_until_the_next_trial(heads_ups))
        heads_ups.came(False)
    assert waits == [256, 512, 1024, 2048, 4096, 8192, 16384, 16384, 16384]
    messages_until_the_next_trial(heads_ups)
    heads_ups.came(True)
    for _ in range(4):
        assert heads_ups.wanted
        heads_ups.came(False)
    assert messages_until_the_next_trial(heads_ups) == 256


@pytest.fixture
def daemon(start_flow: StartFlow) -> FakeDaemon:
    return start_flow(*CHAIN[:2], node("c", inputs={"in": "b/out"}))


@pytest.mark.parametrize("window", [None, (10**9, 10**9 + 1)])
def test_a_node_that_is_woken_in_vain_wishes_no_more_of_it_and_misses_nothing(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, window: tuple[int, int] | None
) -> None:
    """``window``: when it expects a message by its rhythm, in nanoseconds from now."""
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

        wait_until(is_gone, "the wish for heads-ups to be gone")
        daemon.wait_for_sleep("c")
        b.send_output("out", b"late")
        wait_until(lambda: got == [b"late"], "the message")
    finally:
        daemon.stop("c")
        thread.join(PATIENCE)


def test_a_task_wishes_none(daemon: FakeDaemon) -> None:
    c = daemon.node("c")
    slot = daemon.plan.configs["c"].node_slot
    timed_out = c.next(timeout=0.01)
    assert timed_out is not None
    assert daemon.board.get(slot, PREWAKE) == 1
    assert asyncio.run(c.recv_async(timeout=0.01))["type"] == "ERROR"  # type: ignore[index]
    assert daemon.board.get(slot, PREWAKE) == 0


def test_who_waits_for_no_event_wishes_none(daemon: FakeDaemon) -> None:
    c = daemon.node("c")
    slot = daemon.plan.configs["c"].node_slot
    inbox = c._session.inbox

    def wishes_none() -> bool:
        return daemon.board.get(slot, PREWAKE) == 0

    for how in ("attend", "attend_async"):
        c.next(timeout=0.01)
        assert not wishes_none()
        deadline = time.monotonic_ns() + int(PATIENCE * 1e9)
        if how == "attend":
            assert inbox.attend(wishes_none, lambda: None, (), threading.Event(), deadline)
        else:
            assert asyncio.run(inbox.attend_async(wishes_none, lambda: None, (), [], deadline))
