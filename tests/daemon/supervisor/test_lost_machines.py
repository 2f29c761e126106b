"""Machines that are lost, and come back: what the supervisors of the others decide about their nodes."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest
from several_supervisors import PLACED, A, B, C, Machines
from supervision import node, spawned

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.dataflow.model import Deploy, RestartOptions
from dora.wire.node_protocol import InputsClosed, NodeFailedFrame, NodeRestartedFrame, StopFrame

AGAIN = msgspec.structs.replace(B, restart=RestartOptions("on-failure", max_restarts=2))


def started(policy: RestartOptions = AGAIN.restart) -> Machines:
    run = Machines(A, msgspec.structs.replace(B, restart=policy), C)
    run.start()
    for node_id in PLACED:
        run.received(node_id)
    return run


def logged(run: Machines, machine: str) -> list[str]:
    return [command.text for command in run.commands[machine] if isinstance(command, do.Log)]


def test_nodes_with_a_restart_policy_wait_for_their_machine() -> None:
    run = started()
    run.lose("right")
    assert run.received("c") == []  # its input stays open
    lost = "machine `right` is lost: its daemon is gone; `b` will be started again there"
    assert logged(run, "left") == [lost]
    run.bring_back("right")
    assert spawned(run.commands["right"]) == [("b", 1)]
    run.join("b")
    run.exchange_status()
    assert run.received("c") == [NodeRestartedFrame("b")]
    assert "machine `right` is back, and starts its nodes again" in logged(run, "left")
    for node_id in PLACED:
        run.end(node_id)
        run.exchange_status()
    result = run.runs["left"].supervisor.result("id")
    assert result.ok
    assert result.machine_losses == {"right": 1}


def test_a_machine_that_is_told_lost_twice_is_lost_once() -> None:
    run = started()
    for _ in range(2):
        run.lose("right")
    assert run.runs["left"].supervisor.result("id").machine_losses == {"right": 1}
    assert len(logged(run, "left")) == 1


@pytest.mark.parametrize("policy", [RestartOptions(), RestartOptions("always", max_restarts=1)])
def test_other_nodes_have_failed(policy: RestartOptions) -> None:
    """A loss counts as a restart."""
    run = started(policy=policy)
    if policy.policy == "always":
        run.lose("right")
        run.bring_back("right")
        run.join("b")
        run.exchange_status()
        run.received("c")
    run.lose("right")
    failed, closed = run.received("c")
    assert isinstance(failed, NodeFailedFrame)
    assert closed == InputsClosed(["b/y"])
    run.bring_back("right")
    assert spawned(run.commands["right"]) == []
    assert run.runs["right"].state.nodes["b"].phase == "ended"


def test_nodes_do_not_wait_for_a_machine_that_does_not_come_back() -> None:
    run = started()
    run.lose("right")
    run.lose("right", may_return=False)
    assert [type(message) for message in run.received("c")] == [NodeFailedFrame, InputsClosed]
    assert run.runs["left"].failures == [("b", "machine")]


def test_a_stop_does_not_wait_for_a_lost_machine() -> None:
    run = started()
    run.lose("right")
    run("left", on.StopRequested("it was asked for"))
    run.end("a")
    run.end("c")
    assert run.runs["left"].state.done
    assert run.runs["left"].failures == []


def test_nodes_whose_inputs_have_closed_are_not_waited_for() -> None:
    run = started()
    run.lose("right")
    run.end("a")  # the only source of b
    assert [type(message) for message in run.received("c")] == [NodeFailedFrame, InputsClosed]
    run.end("c")
    assert run.runs["left"].state.done
    assert run.runs["left"].failures == [("b", "machine")]


def test_a_machine_that_is_lost_before_all_nodes_were_ready_breaks_the_start() -> None:
    run = Machines(A, AGAIN, C)
    run.begin()
    run.join("a")
    run.lose("right")
    assert run.runs["left"].state.broken_by == "b"


@pytest.mark.parametrize("what", ["keep", "stop"])
def test_a_dataflow_stops_with_a_machine_if_a_node_there_says_so(what: Literal["keep", "stop"]) -> None:
    needed = msgspec.structs.replace(AGAIN, deploy=Deploy("right", on_machine_lost=what))
    run = Machines(A, needed, C)
    run.start()
    run.received("a")
    run.lose("right")
    assert run.received("a") == ([StopFrame()] if what == "stop" else [])
    assert run.runs["left"].failures == ([("b", "machine")] if what == "stop" else [])


def test_a_dynamic_node_can_join_again_when_its_machine_is_back() -> None:
    visitor = node("visitor", path="dynamic", outputs=("v",))
    taker = node("taker", inputs=("visitor/v",))
    placed = {"visitor": "right", "b": "right", "taker": "left"}
    run = Machines(visitor, node("b", restart=RestartOptions("always")), taker, placed=placed)
    run.begin()
    run.join("b"), run.join("taker")
    run.exchange_status()
    run.commands["right"] += run.runs["right"].join("visitor", dynamic=True)
    run.exchange_status()
    run.received("taker")
    run.lose("right")
    assert [type(message) for message in run.received("taker")] == [NodeFailedFrame, InputsClosed]
    run.bring_back("right")
    run.join("b")
    run.exchange_status()
    run.commands["right"] += run.runs["right"].join("visitor", dynamic=True)
    run.exchange_status()
    assert NodeRestartedFrame("visitor") in run.received("taker")


def test_failures_are_announced_by_a_machine_that_is_back_as_by_the_former_one() -> None:
    visitor = node("visitor", path="dynamic", outputs=("v",))
    taker = node("taker", inputs=("visitor/v", "timer/"))
    placed = {"visitor": "right", "b": "right", "taker": "left"}
    run = Machines(visitor, node("b", restart=RestartOptions("always")), taker, placed=placed)
    run.begin()
    run.join("b")
    run.join("taker")
    run.exchange_status()
    for _ in range(2):
        run.commands["right"] += run.runs["right"].join("visitor", dynamic=True)
        run.exchange_status()
        run.received("taker")
        run("right", on.Disconnected("visitor"))
        run.exchange_status()
        assert NodeFailedFrame in [type(message) for message in run.received("taker")]
        run.lose("right")
        run.bring_back("right")
        run.join("b")
        run.exchange_status()
