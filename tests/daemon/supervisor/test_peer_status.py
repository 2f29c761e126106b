"""Several supervisors of one dataflow, one for each machine, that send each other their status."""

from __future__ import annotations

from signal import SIGKILL
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from several_supervisors import PLACED, A, B, C, Machines
from supervision import node, signals

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.state import DEFAULT_FINISH_GRACE
from dora.daemon.supervisor.status import NodeStatus, Peers, PeerStatus
from dora.dataflow.model import RestartOptions
from dora.wire.node_protocol import (
    InputsClosed,
    NodeFailedFrame,
    NodeRestartedFrame,
    Ready,
    SourceFailed,
    Started,
    StartRefused,
    StopFrame,
)
from dora.wire.output_rules import OutputRules, SafeState


def test_each_machine_starts_its_own_nodes_and_the_barrier_is_one() -> None:
    run = Machines(A, B, C)
    run.begin()
    spawned = {
        machine: [command.node_id for command in commands if isinstance(command, do.Spawn)]
        for machine, commands in run.commands.items()
    }
    assert spawned == {"left": ["a", "c"], "right": ["b"]}
    run.join("a")
    run.join("c")
    run.exchange_status()
    assert run.received("a") == []
    run.join("b")
    assert run.received("b") != []  # it knows that all are ready
    run.exchange_status()
    assert isinstance(run.received("a")[0], Started)
    assert isinstance(run.received("c")[0], Started)


def test_ends_of_nodes_close_inputs_on_other_machines() -> None:
    run = Machines(A, B, C)
    run.start()
    run.received("b"), run.received("c")
    run.end("a")
    run.exchange_status()
    assert run.received("b") == [InputsClosed(["a/x"])]
    assert run.received("c") == []
    run.end("b")
    run.exchange_status()
    assert run.received("c") == [InputsClosed(["b/y"])]
    assert not run.runs["right"].state.done, "its messages may still be on their way"
    run.end("c")
    run.exchange_status()
    assert all(each.state.done for each in run.runs.values())
    assert all(each.supervisor.result("id").ok for each in run.runs.values())


def test_a_failure_is_announced_before_the_closing_and_is_in_every_result() -> None:
    run = Machines(A, B, C)
    run.start()
    run.received("c")
    run.end("b", 3)
    run.exchange_status()
    failed, closed = run.received("c")
    assert isinstance(failed, NodeFailedFrame) and failed.affected_input_ids == ["b/y"]
    assert closed == InputsClosed(["b/y"])
    for each in run.runs.values():
        assert [failure.node_id for failure in each.supervisor.result("id").failures] == ["b"]


def told(run: Machines, frame: type[Any]) -> list[type[Any]]:
    """Return the kinds of the commands on the left that set counts, or send such a frame."""
    return [
        type(command)
        for command in run.commands["left"]
        if isinstance(command, do.SetSentCounts)
        or (isinstance(command, do.Send) and isinstance(command.message, frame))
    ]


def test_what_a_failed_node_has_sent_is_known_before_its_receivers_hear_of_the_failure() -> None:
    run = Machines(A, B, C)
    run.start()
    run.end("b", 3)
    run.commands["left"].clear()
    run.exchange_status()
    assert told(run, NodeFailedFrame) == [do.SetSentCounts, do.Send]


def test_a_restart_reopens_inputs_on_other_machines() -> None:
    restarting = msgspec.structs.replace(B, restart=RestartOptions(policy="always"))
    run = Machines(A, restarting, C)
    run.start()
    run.received("c")
    run.end("b", 3)
    run.commands["right"] += run.runs["right"].after(0.1)
    run.exchange_status()
    assert run.received("c") == []
    run.join("b", incarnation=1)
    run.exchange_status()
    assert run.received("c") == [NodeRestartedFrame("b")]


def test_each_broken_connection_of_a_dynamic_node_is_announced_on_other_machines() -> None:
    visitor = node("visitor", path="dynamic", outputs=("v",))
    taker = node("taker", inputs=("visitor/v", "timer/"))
    placed = {"visitor": "right", "b": "right", "taker": "left"}
    run = Machines(visitor, node("b"), taker, placed=placed)
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
        assert [type(message) for message in run.received("taker")] == [NodeFailedFrame, InputsClosed]


def test_a_node_that_is_started_again_after_its_end_is_back_on_other_machines() -> None:
    run = Machines(A, B, C)
    run.start()
    run.end("a")
    run.exchange_status()
    run.received("b")
    run.commands["left"] += run.runs["left"].ask("a", "restart")
    run.exchange_status()
    run.join("a", incarnation=1)
    run.exchange_status()
    assert run.received("b") == [NodeRestartedFrame("a")]
    run.end("b")
    run.end("c")
    run.exchange_status()
    assert not any(each.state.done for each in run.runs.values())
    run.end("a")
    run.exchange_status()
    assert all(each.state.done for each in run.runs.values())


def test_what_happens_to_a_node_between_two_statuses_is_not_lost() -> None:
    run = Machines(A, B, C)
    run.start()
    run.end("a")
    run.exchange_status()
    run.received("b")
    run.commands["left"] += run.runs["left"].ask("a", "restart")
    run.join("a", incarnation=1)
    run.end("a", 3)
    run.exchange_status()
    *earlier, last = (type(message) for message in run.received("b"))
    assert set(earlier) == {NodeRestartedFrame, NodeFailedFrame}
    assert last is InputsClosed
    assert run.runs["right"].failures == [("a", "exit")]


def test_a_node_that_outlives_its_source_on_another_machine_is_ended_unless_that_is_started_again() -> None:
    run = Machines(A, B, placed={"a": "left", "b": "right"})
    run.start()
    right = run.runs["right"]
    for incarnation in (1, 2):
        run.end("a")
        run.exchange_status()
        assert right.after(DEFAULT_FINISH_GRACE - 1) == []
        run.commands["left"] += run.runs["left"].ask("a", "restart")
        run.exchange_status()
        assert right.after(2 * DEFAULT_FINISH_GRACE) == []  # it takes long to start
        run.join("a", incarnation=incarnation)
        run.exchange_status()
    run.end("a")
    run.exchange_status()
    assert signals(right.after(DEFAULT_FINISH_GRACE)) == [("b", SIGKILL)]


def test_inputs_with_a_safe_state_hear_of_each_failed_process_on_another_machine() -> None:
    safe = {"y": OutputRules(safe_state=SafeState((0,), "int64", ("failed",)))}
    restarting = msgspec.structs.replace(
        B, restart=RestartOptions(policy="on-failure", delay=0.1), output_rules=safe
    )
    run = Machines(A, restarting, C)
    run.start()
    for incarnation in (0, 1):
        run.end("b", 3)
        run.commands["left"].clear()
        run.exchange_status()
        # First: what the network still brings is older than the failure.
        assert told(run, SourceFailed) == [do.SetSentCounts, do.Send]
        run.commands["right"] += run.runs["right"].after(0.1 * 2**incarnation)
        run.join("b", incarnation=incarnation + 1)
        run.exchange_status()


def test_a_status_is_sent_when_it_changes_with_what_was_sent_before() -> None:
    statuses: list[PeerStatus] = []
    peers = Peers(statuses.append)
    running, failed = NodeStatus("running"), NodeStatus("backoff", failed_processes=1)
    closed = NodeStatus("running", outputs_closed=("x",))
    status = PeerStatus({"a": running, "b": failed, "c": closed})
    for number in (5, 6):
        peers.send_changes(status, lambda _, number=number: {"x": number})  # type: ignore[misc]
    assert [{key: each.sent for key, each in status.nodes.items()} for status in statuses] == [
        {"a": {}, "b": {"x": 5}, "c": {"x": 5}}
    ]
    peers.send_changes(PeerStatus({"a": closed}), lambda _: {"x": 7})
    assert statuses[1].nodes["a"].sent == {"x": 7}


def test_a_start_that_breaks_on_one_machine_breaks_on_all() -> None:
    run = Machines(A, B, C)
    run.begin()
    run.join("a")
    run.end("b", 1)
    run.exchange_status()
    assert isinstance(run.received("a")[0], StartRefused)
    run.end("a", 1)
    run.end("c", 1)
    run.exchange_status()
    assert all(each.state.done for each in run.runs.values())
    assert run.runs["left"].supervisor.result("id").failures[0].kind == "exit"


def test_a_stop_on_one_machine_stops_all() -> None:
    run = Machines(A, B, C)
    run.start()
    for node_id in PLACED:
        run.received(node_id)
    run("right", on.StopRequested("it was asked for"))
    run.exchange_status()
    assert [run.received(node_id) for node_id in PLACED] == [[StopFrame()]] * 3


def test_a_lost_machine_fails_with_its_nodes() -> None:
    run = Machines(A, B, C)
    run.start()
    run.received("c")
    run("left", on.OtherMachineLost("right", "its daemon is gone"))
    failed, closed = run.received("c")
    assert (
        isinstance(failed, NodeFailedFrame)
        and "machine `right` is lost: its daemon is gone" in failed.error
    )
    assert closed == InputsClosed(["b/y"])
    run.end("a")
    run.end("c")
    assert run.runs["left"].state.done
    assert run.runs["left"].failures == [("b", "machine")]


def test_a_node_of_another_machine_cannot_join_here() -> None:
    run = Machines(A, B, C)
    run.start()
    commands = run.runs["left"].register("b")
    assert commands == [do.Refuse(run.runs["left"].connection, "node `b` is on machine `right`")]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.sampled_from("abc")),
        st.tuples(st.just("end"), st.sampled_from("abc")),
        st.tuples(st.just("fail"), st.sampled_from("abc")),
        st.tuples(st.just("status"), st.sampled_from(["left", "right"])),
        st.tuples(st.just("stop"), st.sampled_from(["left", "right"])),
        st.tuples(st.just("time"), st.sampled_from(["left", "right"])),
        st.tuples(st.just("lose"), st.sampled_from(["left", "right"])),
        st.tuples(st.just("back"), st.sampled_from(["left", "right"])),
    ),
    max_size=40,
)


@pytest.mark.lengthy
@given(STEPS, st.sampled_from(["never", "always", "on-failure"]))
def test_all_machines_end_equally_in_any_order_of_messages(
    steps: list[tuple[str, str]], policy: str
) -> None:
    nodes = [msgspec.structs.replace(each, restart=RestartOptions(policy)) for each in (A, B, C)]  # type: ignore[arg-type]
    run = Machines(*nodes)
    run.begin()

    def act(what: str, who: str) -> None:
        other = "right" if who == "left" else "left"
        if what == "lose" and not run.lost:
            run.lose(who)
        elif what == "back" and who in run.lost:
            run.bring_back(who)
        elif what in ("lose", "back") or run.lost & {who, run.placed.get(who)}:
            pass
        elif what == "status" and other not in run.lost:
            run.send_status(who, other)
        elif what == "status":
            pass
        elif what == "stop":
            run(who, on.StopRequested("why not"))
        elif what == "time":
            run.commands[who] += run.runs[who].after(0.5)
        else:
            machine = run.placed[who]
            state = run.runs[machine].state.nodes[who]
            if what == "join" and state.phase == "starting" and not state.connected:
                run.commands[machine] += run.runs[machine].register(who, incarnation=state.incarnation)
                if state.connected:
                    run(machine, on.MessageReceived(who, Ready()))
            elif what in ("end", "fail") and state.alive:
                run.end(who, 1 if what == "fail" else 0)

    for what, who in steps:
        act(what, who)
    for machine in run.machines:
        if machine not in run.lost:
            run(machine, on.StopRequested("enough"))
    for _ in range(4):
        run.exchange_status()
        for node_id in PLACED:
            act("end", node_id)
        for machine in run.machines:
            act("time", machine)
    ended = [run.runs[machine].state for machine in run.machines if machine not in run.lost]
    assert all(state.done for state in ended)
    if run.lost:
        return
    left, right = (run.runs[machine].state for machine in run.machines)
    for node_id in PLACED:
        assert left.nodes[node_id].phase == right.nodes[node_id].phase == "ended"
        assert left.nodes[node_id].outputs_closed == right.nodes[node_id].outputs_closed
