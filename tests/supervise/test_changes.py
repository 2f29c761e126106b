"""Nodes that are stopped, restarted, removed, added and replaced; links that come and go."""

from __future__ import annotations

import msgspec
import pytest
from supervision import Supervised, answers, node, sent, signals, spawned

from dora.dataflow.model import Node, RestartOptions
from dora.supervise import commands as do
from dora.supervise import events as on
from dora.wire.control import InputsClosed, NodeRestarted, Reload, Started, Stop
from dora.wire.requests import ChangeDataflow, Declined, Done, Noted, Outdated

A = node("a", outputs=("x",))
B = node("b", inputs=("a/x",), outputs=("y",))
C = node("c", inputs=("b/y",))


def started(*nodes: Node, **options: object) -> Supervised:
    run = Supervised(*nodes, **options)
    run.start()
    return run


def rewired(commands: list[do.Command]) -> list[list[str]]:
    """Return the nodes of each dataflow that was taken over."""
    return [[spec.id for spec in c.dataflow.nodes] for c in commands if isinstance(c, do.ApplyDataflow)]


def reason(commands: list[do.Command]) -> str:
    (answer,) = answers(commands)
    assert isinstance(answer, Declined), answer
    return answer.reason


# --------------------------------------------------------------------------- one node


def test_a_node_is_stopped_and_its_consumers_are_told_after_its_end() -> None:
    run = started(A, B)
    commands = run.ask("a", "stop")
    assert sent(commands, "a") == [Stop()]
    assert not answers(commands), "it is answered when it is done"
    commands = run.end("a")
    assert answers(commands) == [Done(running=True)]
    assert sent(commands, "b") == [InputsClosed(["a/x"])]
    assert answers(run.ask("a", "stop")) == [Done(running=False)]


@pytest.mark.parametrize("what", ["stop", "restart", "remove"])
def test_an_unknown_node_is_answered_with_those_there_are(what: str) -> None:
    commands = started(A, B).ask("nope", what)
    assert reason(commands) == "this dataflow has no node `nope`; its nodes are `a` and `b`"


def test_a_stopped_node_is_not_restarted_whatever_its_policy() -> None:
    run = started(node("a", outputs=("x",), restart=RestartOptions("always")), B)
    run.ask("a", "stop")
    assert not spawned(run.end("a", 1))
    assert run.state.nodes["a"].phase == "ended"


def test_one_that_does_not_end_gets_signals() -> None:
    run = started(A, B)
    run.ask("a", "stop", 2.0)
    assert signals(run.after(2.0)) == [("a", 15)]
    assert signals(run.after(1.0)) == [("a", 9)]
    assert answers(run.end("a", None, 9)) == [Done(running=True)]
    assert run.failures == [("a", "grace")]


def test_a_restart_counts_and_keeps_the_outputs_open() -> None:
    run = started(A, B)
    run.ask("a", "restart")
    commands = run.end("a", 1)
    assert spawned(commands) == [("a", 1)]
    assert answers(commands) == [Done(running=True)]
    assert not sent(commands, "b"), "its consumers do not notice yet"
    assert sent(run.join("a", incarnation=1), "b") == [NodeRestarted("a")]
    assert run.failures == [], "whoever asks for it is not told that it failed"


def test_a_node_that_has_ended_can_be_started_again() -> None:
    run = started(A, B, node("k", outputs=("o",)))
    run.end("a")
    commands = run.ask("a", "restart")
    assert spawned(commands) == [("a", 1)]
    assert sent(run.join("a", incarnation=1), "b") == [NodeRestarted("a")]


def test_a_removed_node_leaves_with_its_links() -> None:
    run = started(A, B, C)
    run.ask("a", "remove")
    run(on.NodeClosed("a"))
    assert not sent(run.after(2.0), "b"), "its last messages are on their way"
    commands = run.end("a")
    assert rewired(commands) == [["b", "c"]]
    assert not sent(commands, "b"), "the daemon detaches the input, which ends nobody"
    assert [item.id for item in run.state.nodes["b"].spec.inputs] == []
    assert run.state.dataflow.descriptor["nodes"][0] == {"id": "b", "inputs": {}}
    assert "a" not in run.state.nodes


def test_what_is_left_may_be_closed_already() -> None:
    run = started(A, node("k", outputs=("o",)), node("b", inputs=("a/x", "k/o")))
    run.end("k")
    run.ask("a", "remove")
    run.end("a")
    assert run.state.nodes["b"].inputs_closed == {"k/o"}
    assert run.state.graph.work["b"] == {"k/o"}, "all that is left has ended, so its work is done"


def test_a_process_that_was_given_up_may_end_later() -> None:
    run = started(A, B)
    run.ask("a", "remove", 1.0)
    assert rewired(run.after(20.0)) == [["b"]], "not even SIGKILL helps"
    assert run.end("a", None, 9) == []


def test_the_last_node_takes_the_dataflow_with_it() -> None:
    run = started(A)
    run.ask("a", "remove")
    commands = run.end("a")
    assert isinstance(commands[-1], do.Finish)
    assert answers(commands) == [Done(running=True)]


def test_a_guest_is_to_disconnect_when_it_does_not_leave() -> None:
    guest = node("g", path="dynamic", inputs=("a/x",))
    run = started(A, guest)
    run.join("g", dynamic=True)
    assert "its process is yours" in reason(run.ask("g", "stop"))
    assert sent(run.ask("g", "remove", 1.0), "g") == [Stop()]
    assert do.Disconnect("g") in run.after(1.0)
    commands = run(on.Disconnected("g"))
    assert rewired(commands) == [["a"]]
    assert answers(commands) == [Done(running=True)]


def test_a_stop_of_the_dataflow_comes_first() -> None:
    run = started(A, B)
    run.ask("a", "restart")
    assert reason(run(on.StopRequested("test"))) == "the dataflow is being stopped"
    assert not spawned(run.end("a"))
    assert reason(run.ask("b", "restart")) == "the dataflow is ending"


@pytest.mark.parametrize("what", ["stop", "restart", "remove"])
def test_a_node_does_one_thing_at_a_time(what: str) -> None:
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
    assert rewired(commands) == [["a", "b", "c"]]
    assert spawned(commands) == [("c", 0)]
    assert not answers(commands)
    assert answers(run(on.Spawned("c", 1))) == [Noted()]
    assert [type(frame) for frame in sent(run.join("c"), "c")] == [Started]


def test_a_node_that_cannot_be_started_was_never_there() -> None:
    run = started(A, B)
    run.become(A, B, C)
    commands = run(on.SpawnFailed("c", "could not be started: no such file"))
    assert rewired(commands) == [["a", "b"]]
    assert reason(commands) == "node `c` could not be started: no such file"
    assert run.failures == []


def test_an_input_from_an_ended_node_closes_at_once() -> None:
    run = started(A, B, node("k", inputs=("b/y",)))
    run.end("a")
    fed = msgspec.structs.replace(C, id="k", inputs=(*C.inputs, *node("_", inputs=("a/x",)).inputs))
    commands = run.become(A, B, fed)
    assert sent(commands, "k") == [InputsClosed(["a/x"])]


def test_a_change_of_something_else_meanwhile_is_told() -> None:
    run = started(A, B)
    request = ChangeDataflow(run.state.revision, None)
    stale = on.ChangeRequested(7, request, run.state.dataflow)
    run.become(A, node("b"))
    assert answers(run(stale)) == [Outdated()]


def test_a_node_whose_inputs_have_all_closed_gets_no_more() -> None:
    run = started(A, node("k", outputs=("o",)), B)
    run.end("a")
    more = msgspec.structs.replace(B, inputs=(*B.inputs, *node("_", inputs=("k/o",)).inputs))
    assert "about to end" in reason(run.become(A, node("k", outputs=("o",)), more))
    run.end("b")
    assert "`dora node restart b`" in reason(run.become(A, node("k", outputs=("o",)), more))


def test_a_node_without_inputs_waits_for_another_one() -> None:
    run = started(A, B)
    run.become(A, node("b", outputs=("y",)))
    run.end("a")
    assert run.after(1000.0) == [], "nobody hurries it"
    assert run.state.nodes["b"].present


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


def test_what_replaces_a_node_makes_ready_first() -> None:
    run = started(A, B, C)
    run.state.standby = True
    (spawn,) = [c for c in run.replace(NEW) if isinstance(c, do.SpawnReplacement)]
    assert spawn.dataflow is not None
    assert spawn.dataflow.node("b").path == "new.py"
    (admit,) = run.register("b", incarnation=1)
    assert isinstance(admit, do.AdmitReplacement)
    assert run.state.nodes["b"].spec.path == "b.py", "the old one goes on"
    assert sent(run(on.ReplacementReady("b", 1)), "b") == [Reload(), Stop()]
    commands = run.end("b")
    assert do.CloseReceivers("b") not in commands, "the sender need not notice"
    assert answers(commands) == [Noted()]
    assert run.state.nodes["b"].spec.path == "new.py"
    assert sent(run(on.PortsReady("b")), "c") == [NodeRestarted("b")]


def test_what_does_not_start_replaces_nothing() -> None:
    run = started(A, B, C)
    run.replace(NEW)
    commands = run(on.ReplacementEnded("b", 1, 1, last_lines=("ImportError: no",)))
    assert "does not start, the old one goes on: ImportError: no" in reason(commands)
    assert run.state.dataflow.node("b").path == "b.py"
    assert run.state.nodes["b"].present


def test_a_replacement_ends_with_the_command_that_waits_for_it() -> None:
    run = started(A, B, C)
    run.replace(NEW)
    assert not run(on.ClientDisconnected(8)), "somebody else"
    assert do.DropReplacement("b") in run(on.ClientDisconnected(7))
    assert rewired(run.become(A, B, C, node("d", inputs=("a/x",))))


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


def test_a_node_that_crashes_meanwhile_is_followed_at_once() -> None:
    run = started(A, B, C)
    run.replace(NEW)
    commands = run.end("b", 1)
    assert answers(commands) == [Noted()]
    assert any(isinstance(c, do.PromoteReplacement) for c in commands)
    assert run.state.nodes["b"].spec.path == "new.py"


def test_a_node_that_has_ended_is_replaced_at_once() -> None:
    run = started(A, B, C)
    run.end("b", 1)
    commands = run.replace(NEW)
    assert spawned(commands) == [("b", 1)]
    assert answers(commands) == [Noted()]
