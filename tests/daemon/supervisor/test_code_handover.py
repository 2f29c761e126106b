"""New code for running nodes: replacements, changes at bad moments, nodes that await a fix."""

from __future__ import annotations

from signal import SIGKILL, SIGTERM

import pytest
from supervision import Supervised, node, sent, signals, spawned

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.dataflow.model import OperatorSpec, RestartOptions
from dora.wire.counters import RELOADS
from dora.wire.node_protocol import (
    Closing,
    InputsClosed,
    NodeRestartedFrame,
    Ready,
    ReloadFrame,
    Started,
    StopFrame,
)

SAVED = on.CodeChanged("a")
STOP = on.StopRequested("test")
NEXT = do.SpawnReplacement("a", 1)
DROP = do.DropReplacement("a")
PAIR = (node("a", outputs=("x",)), node("b", inputs=("a/x",)))
BROKEN = (
    'Traceback (most recent call last):\n  File "/p/a.py", line 3, in <module>\n    boom\nNameError: boom'
)


def started(*nodes: object, **options: object) -> Supervised:
    run = Supervised(*(nodes or PAIR), watched=frozenset("ab"), **options)  # type: ignore[arg-type]
    run.start()
    return run


def log_texts(commands: list[do.Command]) -> list[str]:
    return [command.text for command in commands if isinstance(command, do.Log)]


def test_the_old_process_goes_on_until_the_new_one_waits_at_node() -> None:
    run = started()
    assert NEXT in run(SAVED)
    assert sent(run.register("a", incarnation=1), "a") == []
    commands = run(on.ReplacementReady("a", 1))
    assert sent(commands, "a") == [ReloadFrame(), StopFrame()]
    assert not any(isinstance(command, (do.Admit, do.Refuse)) for command in commands)
    assert sent(run(on.MessageReceived("a", Closing())), "b") == []
    commands = run.end("a")
    assert commands == [
        do.Count("a", RELOADS, 1),
        do.AddMark("reloaded", "a", "has new code"),
        do.PromoteReplacement("a", 1),
    ]
    commands = run(on.MessageReceived("a", Ready()))
    assert sent(commands, "a") == [Started(100_000_000_000)]
    assert sent(commands, "b") == [NodeRestartedFrame("a")]
    assert log_texts(commands) == ["runs its new code"]
    assert sent(run.end("a"), "b") == [InputsClosed(["a/x"])]


def test_code_that_does_not_start_changes_nothing() -> None:
    run = started()
    run(SAVED)
    commands = run(on.ReplacementEnded("a", 1, 1, None, tuple(BROKEN.splitlines())))
    assert commands == [
        do.Log(
            "error", "a", "the new code does not start, the old code goes on: NameError: boom (/p/a.py:3)"
        )
    ]
    assert do.SpawnReplacement("a", 2) in run(SAVED)  # the next try


def test_a_reload_is_no_restart() -> None:
    policy = RestartOptions("on-failure", max_restarts=1)
    run = started(node("a", restart=policy))
    for count in range(1, 4):
        run(SAVED)
        run.stand_by("a", count)
        assert do.PromoteReplacement("a", count) in run.end("a")
        run(on.MessageReceived("a", Ready()))
    assert spawned(run.end("a", 1)) == [("a", 4)]  # its one restart is still there
    run.join("a", incarnation=4)
    run.end("a", 1)
    assert run.state.nodes["a"].phase == "awaiting fix"


def test_the_exit_status_of_a_drained_process_is_no_failure() -> None:
    run = started()
    run(SAVED)
    run.stand_by("a", 1)
    run.end("a", 1)
    run(on.MessageReceived("a", Ready()))
    run.end("a", 0)
    run.end("b", 0)
    assert run.supervisor.result("id").ok


def test_an_old_process_that_does_not_drain_gets_sigterm_then_sigkill() -> None:
    run = started()
    run(SAVED)
    run.stand_by("a", 1)
    assert signals(run.after(4.9)) == []
    assert signals(run.after(0.2)) == [("a", SIGTERM)]
    assert signals(run.after(2.4)) == [("a", SIGKILL)]
    assert do.PromoteReplacement("a", 1) in run.end("a", signal=SIGKILL)


def test_the_grace_of_a_stop_bounds_that_of_a_reload() -> None:
    run = started(grace=1.0)
    run(SAVED)
    run.stand_by("a", 1)
    assert signals(run.after(1)) == [("a", SIGTERM)]


@pytest.mark.parametrize("registered", [False, True])
def test_code_saved_again_drops_the_replacement_that_starts(registered: bool) -> None:
    run = started()
    run(SAVED)
    if registered:
        run.stand_by("a", 1)
    commands = run(SAVED)
    assert commands[1:3] == [DROP, do.SpawnReplacement("a", 2)]
    assert run(on.ReplacementEnded("a", 1, None, SIGKILL)) == []
    commands = run.stand_by("a", 2)
    assert sent(commands, "a") == ([] if registered else [ReloadFrame(), StopFrame()])  # asked once
    assert do.PromoteReplacement("a", 1) in run.end("a")


def test_an_old_process_may_drain_before_the_newest_code_connects() -> None:
    run = started()
    run(SAVED)
    run.stand_by("a", 1)
    run(SAVED)
    commands = run.end("a")
    assert commands == [
        do.Count("a", RELOADS, 1),
        do.AddMark("reloaded", "a", "has new code"),
        do.CloseReceivers("a"),
        do.PromoteReplacement("a", 1),
    ]
    commands = run.join("a", incarnation=2)
    assert do.Admit(run.connection, "a", 1) in commands
    assert sent(commands, "b") == [NodeRestartedFrame("a")]


def test_new_code_that_ends_while_the_old_process_drains_is_started_again() -> None:
    run = started()
    run(SAVED)
    run.stand_by("a", 1)
    assert log_texts(run(on.ReplacementEnded("a", 1, 1))) == [
        "the new code ended before it took over: exited with status 1"
    ]
    assert spawned(run.end("a")) == [("a", 1)]
    run.join("a", incarnation=2)


def test_a_replacement_takes_over_from_a_process_that_fails() -> None:
    run = started()
    run(SAVED)
    commands = run.end("a", 1)
    assert log_texts(commands) == ["exited with status 1; its new code takes over"]
    assert do.PromoteReplacement("a", 1) in commands
    assert sent(run.join("a", incarnation=1), "b") == [NodeRestartedFrame("a")]


def test_a_process_that_finishes_its_work_drops_its_replacement() -> None:
    run = started()
    run(SAVED)
    commands = run.end("a", 0)
    assert DROP in commands
    assert sent(commands, "b") == [InputsClosed(["a/x"])]


def test_new_code_takes_over_instead_of_a_restart() -> None:
    run = started(node("a", restart=RestartOptions("always", delay=60.0)))
    run(SAVED)
    assert do.PromoteReplacement("a", 1) in run.end("a", 0)


def test_a_consumer_whose_inputs_all_closed_is_not_started_again() -> None:
    run = started()
    run(on.CodeChanged("b"))
    run.stand_by("b", 1)
    run.end("a")
    commands = run.end("b")
    assert do.DropReplacement("b") in commands
    assert commands[-1] == do.Finish()


@pytest.mark.parametrize("phase", ["starting", "ready"])
def test_code_saved_at_the_start_barrier_starts_a_replacement_after_it_opens(phase: str) -> None:
    run = Supervised(*PAIR, watched=frozenset("ab"))
    run(on.Begin())
    if phase == "ready":
        run.join("a")
    assert run(SAVED) == []
    if phase == "starting":
        run.join("a")
    commands = run.join("b")
    assert commands.index(do.Send("a", Started(100_000_000_000))) < commands.index(NEXT)


@pytest.mark.parametrize("moment", ["starts", "waits"])
def test_a_stop_drops_the_replacement(moment: str) -> None:
    run = started()
    run(SAVED)
    if moment == "waits":
        run.stand_by("a", 1)
    commands = run(STOP)
    assert DROP in commands
    assert sent(commands, "a") == [StopFrame()]
    assert run(SAVED) == []
    run.end("a")
    run.end("b")
    assert run.state.done
    assert run.supervisor.result("id").ok


def test_a_stop_while_the_new_code_takes_over_is_clean() -> None:
    run = started()
    run(SAVED)
    run.stand_by("a", 1)
    run.end("a")
    assert len(sent(run(STOP), "a")) == 1  # that the dataflow is being stopped
    run.end("a", 1)
    run.end("b")
    assert run.supervisor.result("id").ok


def test_a_replacement_has_to_connect_within_the_startup_timeout() -> None:
    run = started(node("a", startup_timeout=3.0))
    run(SAVED)
    commands = run.after(3)
    assert DROP in commands
    assert "`startup_timeout` of 3 s" in log_texts(commands)[0]
    assert run.state.nodes["a"].phase == "running"


def test_new_code_that_never_connects_is_replaced_by_newer_code() -> None:
    run = started()
    run(SAVED)
    run.end("a", 1)  # its replacement is the node now, and hangs
    assert do.SpawnReplacement("a", 2) in run(SAVED)
    assert signals(run.stand_by("a", 2)) == [("a", SIGTERM)]
    assert signals(run.after(2.5)) == [("a", SIGKILL)]
    assert do.PromoteReplacement("a", 2) in run.end("a", signal=SIGKILL)
    assert sent(run(on.MessageReceived("a", Ready())), "b") == [NodeRestartedFrame("a")]


def test_new_code_that_connects_before_newer_code_drains_for_it() -> None:
    run = started()
    run(SAVED)
    run.end("a", 1)
    run(SAVED)
    assert sent(run.join("a", incarnation=1), "b") == [NodeRestartedFrame("a")]
    assert sent(run.stand_by("a", 2), "a") == [ReloadFrame(), StopFrame()]


# ----------------------------------------------------------------------------- `hot_reload: replace`

ALONE = (node("a", outputs=("x",), hot_reload="replace"), node("b", inputs=("a/x",)))


def test_new_code_is_started_once_the_old_has_ended() -> None:
    run = started(*ALONE)
    commands = run(SAVED)
    assert sent(commands, "a") == [ReloadFrame(), StopFrame()]
    assert spawned(commands) == []
    assert sent(run(on.MessageReceived("a", Closing())), "b") == []
    assert spawned(run.end("a")) == [("a", 1)]
    assert sent(run.join("a", incarnation=1), "b") == [NodeRestartedFrame("a")]


def test_new_code_that_fails_after_the_old_has_ended_awaits_a_fix() -> None:
    run = started(*ALONE)
    run(SAVED)
    assert sent(run(SAVED), "a") == []  # asked once
    run.end("a")
    assert sent(run.end("a", 1), "b") == []
    assert run.state.nodes["a"].phase == "awaiting fix"


def test_new_code_that_hangs_before_it_connects_is_replaced() -> None:
    run = started(*ALONE)
    run(SAVED)
    run.end("a")
    assert signals(run(SAVED)) == [("a", SIGTERM)]
    assert spawned(run.end("a", signal=SIGTERM)) == [("a", 2)]


# ----------------------------------------------------------------------------- nodes that await a fix


def test_a_failed_node_awaits_a_fix() -> None:
    run = started()
    commands = run.end("a", 1)
    assert sent(commands, "b") == []
    assert log_texts(commands) == ["exited with status 1; it is started again when its code changes"]
    assert run.after(1000) == []
    assert spawned(run(SAVED)) == [("a", 1)]
    assert sent(run.join("a", incarnation=1), "b") == [NodeRestartedFrame("a")]
    run.end("a")
    run.end("b")
    assert run.supervisor.result("id").ok


def test_a_node_that_awaits_a_fix_at_a_stop_has_failed() -> None:
    run = started()
    run.end("a", 1)
    run(STOP)
    run.end("b")
    assert run.state.done
    assert run.failures == [("a", "exit")]


def test_without_hot_reload_no_node_awaits_a_fix() -> None:
    run = Supervised(*PAIR)
    run.start()
    run.end("b", 1)
    run.end("a")
    assert run.state.done


def test_a_node_whose_new_code_cannot_be_started_awaits_a_fix() -> None:
    run = started()
    run.end("a", 1)
    run(SAVED)
    run(on.SpawnFailed("a", "there is no file a.py"))
    assert run.state.nodes["a"].phase == "awaiting fix"
    assert spawned(run(SAVED)) == [("a", 2)]


def test_code_saved_between_a_crash_and_the_exit_is_started() -> None:
    run = started()
    run(on.MessageReceived("a", Closing()))
    assert run(SAVED) == []
    assert spawned(run.end("a", 1)) == [("a", 1)]


def test_a_process_with_the_saved_code_gets_no_replacement() -> None:
    run = started()
    run(on.MessageReceived("a", Closing()))
    run(SAVED)
    run.end("a", 1)
    assert not any(isinstance(command, do.SpawnReplacement) for command in run.join("a", incarnation=1))


def test_a_node_that_is_restarted_by_hand_has_the_saved_code() -> None:
    run = started(node("a", restart=RestartOptions("on-failure")))
    run.end("a", 1)
    run.after(1)
    run.register("a", incarnation=1)
    run(SAVED)  # the process may or may not have read it
    run.ask("a", "restart")
    run.end("a", signal=SIGTERM)
    assert not any(isinstance(command, do.SpawnReplacement) for command in run.join("a", incarnation=2))


def test_code_saved_during_the_back_off_is_started_at_once() -> None:
    run = started(node("a", restart=RestartOptions("on-failure", max_restarts=1, delay=60.0)))
    run.end("a", 1)
    assert spawned(run(SAVED)) == [("a", 1)]
    run.join("a", incarnation=1)
    run.end("a", 1)
    assert run.state.nodes["a"].phase == "backoff"  # the restart was not consumed


def test_a_consumer_that_awaits_a_fix_ends_with_its_inputs() -> None:
    run = started()
    run.end("b", 1)
    commands = run.end("a")
    assert commands[-1] == do.Finish()
    assert run.failures == [("b", "exit")]


def test_a_node_that_fails_at_the_start_does_not_await_a_fix() -> None:
    run = Supervised(*PAIR, watched=frozenset("ab"))
    run(on.Begin())
    run.end("a", 1)
    run.end("b", 1)
    assert run.state.done


def test_new_code_of_an_ended_node_is_reported_and_not_started() -> None:
    run = started()
    run.end("a")
    assert log_texts(run(SAVED)) == ["its code has changed, but it has ended already"]


# ----------------------------------------------------------------------------- operators

HOST = node("a", operators=(OperatorSpec("one", "one.py"), OperatorSpec("two", "two.py")), path=None)


def test_operators_are_reloaded_by_their_runtime() -> None:
    run = started(HOST)
    commands = run(on.CodeChanged("a", ("two",), ("/p/helper.py",)))
    assert commands == [do.Send("a", ReloadFrame(["two"], ["/p/helper.py"]))]


def test_operators_saved_during_the_start_are_reloaded_after_it() -> None:
    run = Supervised(HOST, watched=frozenset("a"))
    run(on.Begin())
    run(on.CodeChanged("a", ("two",), ("/p/x.py",)))
    run(on.CodeChanged("a", ("one", "two"), ()))
    assert sent(run.join("a"), "a")[1:] == [ReloadFrame(["two", "one"], ["/p/x.py"])]


def test_a_runtime_that_failed_is_started_with_the_new_code() -> None:
    run = started(HOST)
    run.end("a", 1)
    assert spawned(run(on.CodeChanged("a", ("two",)))) == [("a", 1)]
