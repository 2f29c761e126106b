"""Nodes that are stopped, restarted, removed, added and replaced; links that are added and removed."""

from __future__ import annotations

import msgspec
import pytest
from supervision import Supervised, answers, node, sent, signals, spawned

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.dataflow.model import NodeSpec, RestartOptions
from dora.wire.daemon_protocol import Conflict, Ok, Rejected
from dora.wire.node_protocol import (
    Closing,
    InputsClosed,
    NodeRestartedFrame,
    Ready,
    ReloadFrame,
    Started,
    StopFrame,
)
from dora.wire.operations import OperationResult

A = node("a", outputs=("x",))
B = node("b", inputs=("a/x",), outputs=("y",))
C = node("c", inputs=("b/y",))


def started(*nodes: NodeSpec, **options: object) -> Supervised:
    run = Supervised(*nodes, **options)
    run.start()
    return run


def applied(commands: list[do.Command]) -> list[list[str]]:
    """Return the nodes of each dataflow that was applied."""
    return [[spec.id for spec in c.dataflow.nodes] for c in commands if isinstance(c, do.ApplyDataflow)]


def reason(commands: list[do.Command]) -> str:
    (answer,) = answers(commands)
    assert isinstance(answer, Rejected), answer
    return answer.reason


# --------------------------------------------------------------------------- one node


def test_consumers_of_a_stopped_node_are_informed_after_its_end() -> None:
    run = started(A, B)
    commands = run.ask("a", "stop")
    assert sent(commands, "a") == [StopFrame()]
    assert not answers(commands), "the answer comes when the node has ended"
    commands = run.end("a")
    assert answers(commands) == [OperationResult("a")]
    assert sent(commands, "b") == [InputsClosed(["a/x"])]
    assert answers(run.ask("a", "stop")) == [OperationResult("a", was_running=False)]


@pytest.mark.parametrize("what", ["stop", "restart"])
def test_a_request_for_an_unknown_node_is_answered_with_the_existing_nodes(what: str) -> None:
    commands = started(A, B).ask("nope", what)
    assert reason(commands) == "this dataflow has no node `nope`; its nodes are `a` and `b`"


def test_a_stopped_node_is_not_restarted_whatever_its_policy() -> None:
    run = started(node("a", outputs=("x",), restart=RestartOptions("always")), B)
    run.ask("a", "stop")
    assert not spawned(run.end("a", 1))
    assert run.state.nodes["a"].phase == "ended"


def test_a_node_that_does_not_stop_gets_sigterm_then_sigkill() -> None:
    run = started(A, B)
    run.ask("a", "stop", 2.0)
    assert signals(run.after(2.0)) == [("a", 15)]
    assert signals(run.after(1.0)) == [("a", 9)]
    assert answers(run.end("a", None, 9)) == [OperationResult("a")]
    assert run.failures == [("a", "grace")]


def test_a_restart_counts_and_keeps_the_outputs_open() -> None:
    run = started(A, B)
    run.ask("a", "restart")
    commands = run.end("a", 1)
    assert spawned(commands) == [("a", 1)]
    assert answers(commands) == [OperationResult("a")]
    assert not sent(commands, "b"), "its consumers do not notice yet"
    assert sent(run.join("a", incarnation=1), "b") == [NodeRestartedFrame("a")]
    assert run.failures == [], "a requested end is no failure"


def test_the_outputs_of_a_closed_node_stay_open_while_its_restart_waits() -> None:
    run = started(A, B, C)
    run(on.MessageReceived("a", Closing()))
    run.ask("a", "restart", grace=60.0)
    assert sent(run.after(30), "b") == []


def test_a_node_that_has_ended_can_be_started_again() -> None:
    run = started(A, B, node("k", outputs=("o",)))
    run.end("a")
    commands = run.ask("a", "restart")
    assert spawned(commands) == [("a", 1)]
    assert sent(run.join("a", incarnation=1), "b") == [NodeRestartedFrame("a")]


def test_a_removed_node_leaves_with_its_links() -> None:
    run = started(A, B, C)
    run.ask("a", "remove")
    run(on.MessageReceived("a", Closing()))
    assert not sent(run.after(2.0), "b"), "its last messages are on their way"
    commands = run.end("a")
    assert applied(commands) == [["b", "c"]]
    assert not sent(commands, "b"), "the daemon detaches the input, and no consumer ends"
    assert [item.id for item in run.state.nodes["b"].spec.inputs] == []
    assert run.state.dataflow.descriptor["nodes"][0] == {"id": "b", "inputs": {}}
    assert "a" not in run.state.nodes


def test_a_consumer_left_with_closed_inputs_only_has_done_its_work() -> None:
    run = started(A, node("k", outputs=("o",)), node("b", inputs=("a/x", "k/o")))
    run.end("k")
    run.ask("a", "remove")
    run.end("a")
    assert run.state.nodes["b"].inputs_closed == {"k/o"}
    assert run.state.graph.work["b"] == {"k/o"}, "all that is left has ended, so its work is done"


def test_an_abandoned_process_may_end_later() -> None:
    run = started(A, B)
    run.ask("a", "remove", 1.0)
    assert applied(run.after(20.0)) == [["b"]], "not even SIGKILL helps"
    assert run.end("a", None, 9) == []


def test_removing_the_last_node_ends_the_dataflow() -> None:
    run = started(A)
    run.ask("a", "remove")
    commands = run.end("a")
    assert isinstance(commands[-1], do.Finish)
    assert answers(commands) == [do.AnswerNodeRemoved(7, "a")]


def test_a_node_that_has_ended_is_removed_at_once() -> None:
    run = started(A, B)
    run.end("a")
    commands = run.ask("a", "remove")
    assert answers(commands) == [do.AnswerNodeRemoved(7, "a", was_running=False)]
    assert applied(commands) == [["b"]]


def test_other_changes_are_made_while_a_node_that_leaves_ends() -> None:
    run = started(A, B, C)
    run.ask("a", "remove")
    run.become(A, B, C, node("d"))
    run(on.Spawned("d", 5))
    assert applied(run.end("a")) == [["b", "c", "d"]]


def test_a_dynamic_node_that_does_not_leave_is_disconnected() -> None:
    visitor = node("g", path="dynamic", inputs=("a/x",))
    run = started(A, visitor)
    run.join("g", dynamic=True)
    assert "its process is yours" in reason(run.ask("g", "stop"))
    assert sent(run.ask("g", "remove", 1.0), "g") == [StopFrame()]
    assert do.Disconnect("g") in run.after(1.0)
    commands = run(on.Disconnected("g"))
    assert applied(commands) == [["a"]]
    assert answers(commands) == [do.AnswerNodeRemoved(7, "g")]


def test_a_stop_of_the_dataflow_overrides_operations_on_nodes() -> None:
    run = started(A, B)
    run.ask("a", "restart")
    assert reason(run(on.StopRequested("test"))) == "the dataflow is being stopped"
    assert not spawned(run.end("a"))
    assert reason(run.ask("b", "restart")) == "the dataflow is ending"


@pytest.mark.parametrize("what", ["stop", "restart", "remove"])
def test_a_node_has_one_operation_at_a_time(what: str) -> None:
    run = started(A, B)
    run.ask("a", what)
    assert "already" in reason(run.ask("a", "stop"))


def test_nothing_changes_before_the_start() -> None:
    run = Supervised(A, B)
    run(on.Begin())
    assert "still starting" in reason(run.ask("a", "stop"))
    assert "still starting" in reason(run.become(A, B, C))


# --------------------------------------------------------------------------- nodes and links


def test_a_node_is_added_once_its_process_exists() -> None:
    run = started(A, B)
    commands = run.become(A, B, C)
    assert applied(commands) == [["a", "b", "c"]]
    assert spawned(commands) == [("c", 0)]
    assert not answers(commands)
    assert answers(run(on.Spawned("c", 1))) == [Ok()]
    assert [type(frame) for frame in sent(run.join("c"), "c")] == [Started]


def test_an_added_node_whose_process_cannot_start_is_removed() -> None:
    run = started(A, B)
    run.become(A, B, C)
    commands = run(on.SpawnFailed("c", "could not be started: no such file"))
    assert applied(commands) == [["a", "b"]]
    assert reason(commands) == "node `c` could not be started: no such file"
    assert run.failures == []


def test_an_input_from_an_ended_node_closes_at_once() -> None:
    run = started(A, B, node("k", inputs=("b/y",)))
    run.end("a")
    fed = msgspec.structs.replace(C, id="k", inputs=(*C.inputs, *node("_", inputs=("a/x",)).inputs))
    commands = run.become(A, B, fed)
    assert sent(commands, "k") == [InputsClosed(["a/x"])]


def test_a_change_made_from_an_old_revision_is_outdated() -> None:
    run = started(A, B)
    stale = run.change(A, B)
    run.become(A, node("b"))
    assert answers(run(stale)) == [Conflict()]


def test_a_node_whose_inputs_have_all_closed_gets_no_further_input() -> None:
    run = started(A, node("k", outputs=("o",)), B)
    run.end("a")
    more = msgspec.structs.replace(B, inputs=(*B.inputs, *node("_", inputs=("k/o",)).inputs))
    assert "about to end" in reason(run.become(A, node("k", outputs=("o",)), more))
    run.end("b")
    assert "`dora node restart b`" in reason(run.become(A, node("k", outputs=("o",)), more))


def test_a_node_without_inputs_waits_for_a_new_input() -> None:
    run = started(A, B)
    run.become(A, node("b", outputs=("y",)))
    run.end("a")
    assert run.after(1000.0) == [], "it has no deadline"
    assert run.state.nodes["b"].present


def test_an_input_that_its_node_cannot_make_is_removed() -> None:
    run = started(A, node("k", outputs=("o",)), B)
    before = run.state.dataflow
    more = msgspec.structs.replace(B, inputs=(*B.inputs, *node("_", inputs=("k/o",)).inputs))
    failed = on.InputFailed("b", "k/o", "k/o", "it has no room")
    assert run(failed) == [], "there is no such input"
    run.become(A, node("k", outputs=("o",)), more)
    revision = run.state.revision
    assert applied(run(failed)) == [["a", "k", "b"]]
    assert (run.state.dataflow, run.state.revision) == (before, revision + 1)
    assert run(failed) == [], "it was removed already"


def test_a_coordinator_removes_an_input_that_a_node_cannot_make_itself() -> None:
    run = started(A, B)
    run.state.coordinated = True
    (command,) = run(on.InputFailed("b", "a/x", "a/x", "it has no room"))
    assert command == do.Log("error", "b", "its input `a/x` cannot be made: it has no room")


def test_a_pause_between_restarts_ends_when_no_open_input_is_left() -> None:
    waits = node("b", inputs=("a/x", "k/o"), restart=RestartOptions("always", delay=100.0))
    run = started(A, node("k", outputs=("o",)), waits)
    run.end("a")
    run.end("b", 1)
    assert run.state.nodes["b"].phase == "backoff"
    run.become(A, node("k", outputs=("o",)), node("b", inputs=("a/x",), restart=waits.restart))
    assert run.state.nodes["b"].phase == "ended"


# --------------------------------------------------------------------------- replacement


NEW = node("b", inputs=("a/x",), outputs=("y",), path="new.py")


def test_a_replacement_prepares_before_the_old_process_drains() -> None:
    run = started(A, B, C)
    (spawn,) = [c for c in run.replace(NEW) if isinstance(c, do.SpawnReplacement)]
    assert spawn.dataflow is not None
    assert spawn.dataflow.node("b").path == "new.py"
    (admit,) = run.register("b", incarnation=1)
    assert isinstance(admit, do.AdmitReplacement)
    assert run.state.nodes["b"].spec.path == "b.py", "the old program goes on"
    assert sent(run(on.ReplacementReady("b", 1)), "b") == [ReloadFrame(), StopFrame()]
    commands = run.end("b")
    assert do.CloseReceivers("b") not in commands, "senders go on"
    assert answers(commands) == [Ok()]
    assert run.state.nodes["b"].spec.path == "new.py"
    assert sent(run(on.MessageReceived("b", Ready())), "c") == [NodeRestartedFrame("b")]


def test_a_replacement_that_does_not_start_changes_nothing() -> None:
    run = started(A, B, C)
    run.replace(NEW)
    commands = run(on.ReplacementEnded("b", 1, 1, last_lines=("ImportError: no",)))
    assert "does not start, the old one goes on: ImportError: no" in reason(commands)
    assert run.state.dataflow.node("b").path == "b.py"
    assert run.state.nodes["b"].present


def test_a_replacement_is_dropped_when_its_client_disconnects() -> None:
    run = started(A, B, C)
    run.replace(NEW)
    assert not run(on.ClientDisconnected(8)), "another client"
    assert do.DropReplacement("b") in run(on.ClientDisconnected(7))
    assert applied(run.become(A, B, C, node("d", inputs=("a/x",))))


def test_a_replacement_that_was_dropped_has_no_time_limit() -> None:
    run = started(A, msgspec.structs.replace(B, startup_timeout=3.0), C)
    run.replace(msgspec.structs.replace(NEW, startup_timeout=3.0))
    run(on.ClientDisconnected(7))
    assert run.after(100) == []


def test_a_replacement_that_has_begun_does_not_need_its_client() -> None:
    run = started(A, B, C)
    run.replace(NEW)
    run.stand_by("b", 1)
    assert run(on.ClientDisconnected(7)) == []  # the old program is about to end
    run.end("b")
    assert run.state.nodes["b"].spec.path == "new.py"


def test_a_node_can_be_stopped_while_it_is_replaced() -> None:
    run = started(A, B, C)
    run.replace(NEW)
    commands = run.ask("b", "stop")
    assert do.DropReplacement("b") in commands
    assert "before it could be replaced" in reason(commands)
    assert run.end("b")


def test_nothing_else_changes_during_a_replacement() -> None:
    run = started(A, B, C)
    run.replace(NEW)
    assert "is being replaced" in reason(run.become(A, B))
    assert "is being replaced" in reason(run.ask("a", "remove"))
    assert "is being replaced" in reason(run.replace(NEW))


def test_a_replacement_takes_over_at_once_from_a_node_that_crashes() -> None:
    run = started(A, B, C)
    run.replace(NEW)
    commands = run.end("b", 1)
    assert answers(commands) == [Ok()]
    assert any(isinstance(c, do.PromoteReplacement) for c in commands)
    assert run.state.nodes["b"].spec.path == "new.py"


def test_a_node_that_has_ended_is_replaced_at_once() -> None:
    run = started(A, B, C)
    run.end("b", 1)
    commands = run.replace(NEW)
    assert spawned(commands) == [("b", 1)]
    assert not answers(commands), "the answer comes when there is a process"
    assert answers(run(on.Spawned("b", 5))) == [Ok()]


def test_a_node_that_is_replaced_during_its_back_off_is_started_once() -> None:
    restarting = RestartOptions("on-failure", delay=60.0)
    run = started(A, msgspec.structs.replace(B, restart=restarting), C)
    run.end("b", 1)
    assert spawned(run.replace(msgspec.structs.replace(NEW, restart=restarting))) == [("b", 1)]
    run(on.Spawned("b", 5))
    run.join("b", incarnation=1)
    assert spawned(run.after(100)) == []


def test_a_program_without_a_process_does_not_replace_a_node_that_has_ended() -> None:
    run = started(A, B, C)
    run.end("b", 1)
    run.replace(NEW)
    assert reason(run(on.SpawnFailed("b", "could not be started"))) == "node `b` could not be started"
    assert list(run.state.nodes) == ["a", "b", "c"] and run.state.nodes["b"].phase == "ended"
    assert spawned(run.replace(NEW)) == [("b", 2)]
