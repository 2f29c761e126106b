"""Start barrier, closing, failure, the end of a dataflow."""

from __future__ import annotations

from signal import SIGKILL, SIGTERM

import pytest
from supervision import Supervised, node, sent, signals, spawned

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.dataflow.model import RestartOptions
from dora.wire.node_protocol import (
    Closing,
    InputsClosed,
    NodeFailedFrame,
    NodeRestartedFrame,
    OutputsClosed,
    Ready,
    Started,
    StartRefused,
    StopFrame,
)

PAIR = (node("a", outputs=("x",)), node("b", inputs=("a/x",)))


def test_the_barrier_opens_for_all_at_once_when_the_last_node_is_ready() -> None:
    run = Supervised(*PAIR)
    assert spawned(run(on.Begin())) == [("a", 0), ("b", 0)]
    assert sent(run.join("a"), "a") == []
    commands = run.join("b")
    assert sent(commands, "a") == sent(commands, "b") == [Started(100_000_000_000)]


def test_an_empty_dataflow_ends_at_once() -> None:
    run = Supervised()
    assert run(on.Begin()) == [do.Finish()]
    assert run.supervisor.result("id").ok


def test_a_finished_node_closes_its_consumers_inputs_and_the_last_one_ends_the_dataflow() -> None:
    run = Supervised(*PAIR)
    run.start()
    assert sent(run.end("a"), "b") == [InputsClosed(["a/x"])]
    assert do.Finish() in run.end("b")
    assert run.state.done
    assert run.supervisor.result("id").ok


def test_a_program_that_ends_well_without_a_node_is_no_failure() -> None:
    run = Supervised(*PAIR)
    run(on.Begin())
    run.join("b")
    commands = run.end("a")
    assert sent(commands, "b") == [Started(100_000_000_000), InputsClosed(["a/x"])]
    (entry,) = [command for command in commands if isinstance(command, do.Log)]
    assert (entry.level, entry.node_id) == ("warn", "a")
    assert "without a `dora.Node()`" in entry.text
    assert run.end("b")[-1] == do.Finish()
    assert run.failures == []


def test_a_dataflow_of_programs_without_nodes_ends_well() -> None:
    run = Supervised(*PAIR)
    run(on.Begin())
    run.end("b")
    assert run.end("a")[-1] == do.Finish()
    assert run.supervisor.result("id").ok


def test_a_program_without_a_node_is_started_again_if_it_always_is() -> None:
    run = Supervised(node("a", restart=RestartOptions("always", 1)))
    run(on.Begin())
    assert spawned([*run.end("a"), *run.after(0.1)]) == [("a", 1)]
    assert run.end("a")[-1] == do.Finish()
    assert run.failures == []


def test_a_node_that_ends_well_while_it_waits_for_the_others_breaks_the_start() -> None:
    run = Supervised(*PAIR)
    run(on.Begin())
    run.join("a")
    run.end("a", 0)
    assert run.state.broken_by == "a"
    assert run.failures == [("a", "exit")]


@pytest.mark.parametrize("exit_code", [1, 2])
def test_a_node_that_fails_before_it_is_ready_breaks_the_start(exit_code: int) -> None:
    run = Supervised(*PAIR, node("late", inputs=("a/x",)))
    run(on.Begin())
    run.join("a")
    commands = run.end("b", exit_code)
    (refusal,) = sent(commands, "a")
    assert isinstance(refusal, StartRefused)
    assert "`b`" in refusal.reason
    (refused,) = run.register("late")
    assert isinstance(refused, do.Refuse)
    run.end("a", 1)
    assert run.end("late", 1)[-1] == do.Finish()
    assert run.failures == [("b", "exit"), ("a", "cascading"), ("late", "cascading")]


def test_a_node_that_does_not_connect_is_ended_soon_after_a_broken_start() -> None:
    run = Supervised(*PAIR)
    run(on.Begin())
    run.end("a", 3)
    assert signals(run.after(0.9)) == []
    assert signals(run.after(0.2)) == [("b", SIGTERM)]
    run.end("b", signal=SIGTERM)
    assert run.failures == [("a", "exit"), ("b", "cascading")]


def test_a_node_that_is_still_connecting_is_refused_after_a_broken_start() -> None:
    run = Supervised(*PAIR)
    run(on.Begin())
    run.register("a")
    (refusal,) = sent(run.end("b", 3), "a")
    assert isinstance(refusal, StartRefused)
    assert sent(run(on.MessageReceived("a", Ready())), "a") == []
    run.end("a", 1)
    assert run.failures == [("b", "exit"), ("a", "cascading")]


def test_a_node_that_fails_before_its_refusal_is_its_own_root_cause() -> None:
    run = Supervised(*PAIR)
    run(on.Begin())
    run.end("a", 3)
    run.end("b", 4)
    assert run.failures == [("a", "exit"), ("b", "exit")]


def test_a_node_that_cannot_be_spawned_breaks_the_start() -> None:
    run = Supervised(*PAIR)
    run(on.Begin())
    run.join("b")
    commands = run(on.SpawnFailed("a", "there is no file a.py"))
    assert do.Log("error", "a", "there is no file a.py") in commands
    run.end("b", 1)
    assert run.failures == [("a", "spawn"), ("b", "cascading")]
    assert run.state.done


def test_a_node_whose_program_has_gone_before_its_restart_breaks_the_start() -> None:
    run = Supervised(node("a", outputs=("x",), restart=RestartOptions("always")), PAIR[1])
    run(on.Begin())
    run.join("b")
    assert spawned(run.end("a")) == [("a", 1)]  # the program ended without a node
    run(on.SpawnFailed("a", "there is no file a.py"))
    run.end("b", 1)
    assert run.failures == [("a", "spawn"), ("b", "cascading")]
    assert run.state.done


def test_node_failed_comes_before_the_closing() -> None:
    run = Supervised(*PAIR)
    run.start()
    assert (
        run(on.MessageReceived("a", Closing())) == []
    )  # first the node object goes, then the process fails
    run(on.Disconnected("a"))
    failed, closed = sent(run.end("a", 1), "b")
    assert failed == NodeFailedFrame("a", "node `a` failed: exited with status 1", ["a/x"])
    assert closed == InputsClosed(["a/x"])
    run.end("b")
    assert run.failures == [("a", "exit")]


def test_a_failure_is_logged_when_it_happens_except_during_a_stop() -> None:
    run = Supervised(*PAIR)
    run.start()
    entry = do.Log("error", "a", "exited with status 1 (first failure)", {"cause": "first"})
    assert entry in run.end("a", 1)
    run(on.StopRequested("Ctrl-C"))
    assert not [command for command in run.end("b", 1) if isinstance(command, do.Log)]
    assert run.failures == [("a", "exit"), ("b", "exit")]


def test_failures_name_their_root_cause() -> None:
    run = Supervised(
        node("a", outputs=("o",)),
        node("b", inputs=("a/o",), outputs=("o",)),
        node("c", inputs=("b/o",)),
        node("other"),
    )
    run.start()

    def logged(node_id: str, *last_lines: str) -> do.Log:
        commands = run(on.ProcessEnded(node_id, 1, None, last_lines))
        (note,) = (command for command in commands if isinstance(command, do.Log))
        return note

    first = logged(
        "a", "Traceback (most recent call last):", '  File "//cam.py", line 3', "OSError: no camera"
    )
    assert first.text == "exited with status 1: OSError: no camera (cam.py:3) (first failure)"
    fallen = logged("c")
    assert fallen.text == "exited with status 1 (after the failure of `a`, which feeds it)"
    assert fallen.fields == {"cause": "a"}
    assert logged("other") == do.Log("error", "other", "exited with status 1")  # for a reason of its own
    logged("b")
    failures = run.supervisor.result("id").failures
    assert [(failure.node_id, failure.follows) for failure in failures] == [
        ("a", ""),
        ("c", "a"),
        ("other", ""),
        ("b", "a"),
    ]


def test_a_failure_is_logged_once() -> None:
    run = Supervised(node("a", health_check_timeout=3.0))
    run.start()
    commands = run.after(3) + run.end("a", signal=9)
    assert [command.text for command in commands if isinstance(command, do.Log)] == [
        "was killed: no sign of life within its `health_check_timeout` of 3 s"
    ]


def test_a_process_that_lives_on_after_closing_its_node_does_not_hold_up_the_others() -> None:
    run = Supervised(*PAIR)
    run.start()
    run(on.MessageReceived("a", Closing()))
    assert sent(run.after(9.9), "b") == []
    assert sent(run.after(0.2), "b") == [InputsClosed(["a/x"])]
    assert sent(run.end("a"), "b") == []


def test_a_failure_after_the_closing_is_announced_late() -> None:
    run = Supervised(*PAIR, node("c", inputs=("timer/",)))
    run.start()
    run(on.MessageReceived("a", Closing()))
    assert sent(run.after(10.1), "b") == [InputsClosed(["a/x"])]
    assert sent(run.end("a", 1), "b") == [
        NodeFailedFrame("a", "node `a` failed: exited with status 1", ["a/x"])
    ]


def test_a_delayed_daemon_announces_the_failure_before_the_closing() -> None:
    run = Supervised(*PAIR)
    run.start()
    run(on.MessageReceived("a", Closing()))
    run.now += 50  # in which no event was handled
    assert sent(run(on.Progress("b")) + run.end("a", 1) + run(on.TimePassed()), "b") == [
        NodeFailedFrame("a", "node `a` failed: exited with status 1", ["a/x"]),
        InputsClosed(["a/x"]),
    ]


def test_outputs_that_a_node_is_done_with_close_at_once() -> None:
    run = Supervised(node("a", outputs=("x", "y")), node("b", inputs=("a/x", "a/y")))
    run.start()
    assert sent(run(on.MessageReceived("a", OutputsClosed(["x"]))), "b") == [InputsClosed(["a/x"])]
    assert sent(run.end("a", 1), "b") == [
        NodeFailedFrame("a", "node `a` failed: exited with status 1", ["a/y"]),
        InputsClosed(["a/y"]),
    ]


def test_captured_output_stays_open_until_the_process_ends() -> None:
    from dora.dataflow.model import LogOptions

    run = Supervised(
        node("a", outputs=("x", "log"), log=LogOptions(send_stdout_as="log")),
        node("b", inputs=("a/x", "a/log")),
    )
    run.start()
    run(on.MessageReceived("a", Closing()))
    assert sent(run.after(20), "b") == [InputsClosed(["a/x"])]
    assert sent(run.end("a"), "b") == [InputsClosed(["a/log"])]


def test_a_crash_is_reported_with_its_signal_and_other_nodes_run_on() -> None:
    run = Supervised(*PAIR, node("c", inputs=("timer/",)))
    run.start()
    commands = run.end("a", signal=SIGKILL)
    assert do.CloseReceivers("a") in commands
    assert isinstance(sent(commands, "b")[0], NodeFailedFrame)
    assert sent(commands, "c") == []
    assert not run.state.done
    assert run.supervisor.result("id").failures[0].signal == SIGKILL


def test_impossible_registrations_are_refused() -> None:
    run = Supervised(*PAIR)
    run(on.Begin())
    refused = [
        run.register("unknown"),
        run.register("a", dynamic=True),
        run.register("a", incarnation=1),
    ]
    run.register("a")
    refused.append(run.register("a"))
    for (command,) in refused:
        assert isinstance(command, do.Refuse)
        assert command.reason
    assert "`a` and `b`" in refused[0][0].reason


def test_a_node_that_gave_up_waiting_may_register_once_more() -> None:
    run = Supervised(*PAIR)
    run(on.Begin())
    run.join("a")
    run(on.Disconnected("a"))
    run.join("b")
    assert not run.state.opened
    run.join("a")
    assert run.state.opened


# ----------------------------------------------------------------------------- dynamic nodes


def test_a_node_that_has_registered_once_more_is_not_closed() -> None:
    run = Supervised(node("a", health_check_timeout=3.0), node("b"))
    run(on.Begin())
    run.join("a")
    run(on.MessageReceived("a", Closing()))
    run(on.Disconnected("a"))
    run.join("a")
    run.join("b")
    assert signals(run.after(3)) == [("a", SIGKILL)]


def test_dynamic_nodes_do_not_hold_the_barrier_and_join_leave_and_rejoin() -> None:
    run = Supervised(
        node("d", path="dynamic", outputs=("x",)), node("b", inputs=("d/x", "timer/")), node("c")
    )
    run.start()
    assert sent(run.join("d", dynamic=True), "d") == [Started(100_000_000_000)]
    (refused,) = run.register("d", dynamic=True)
    assert isinstance(refused, do.Refuse)
    run(on.MessageReceived("d", Closing()))
    assert sent(run(on.Disconnected("d")), "b") == [InputsClosed(["d/x"])]
    assert sent(run.join("d", dynamic=True), "b") == [NodeRestartedFrame("d")]
    commands = run(on.Disconnected("d"))  # without a goodbye
    failed, closed = sent(commands, "b")
    assert isinstance(failed, NodeFailedFrame)
    assert closed == InputsClosed(["d/x"])
    assert run.failures == []


def test_a_dynamic_node_that_leaves_before_it_is_ready_closes_nothing() -> None:
    run = Supervised(node("d", path="dynamic", outputs=("x",)), node("b", inputs=("d/x",)))
    run.start()
    run.register("d", dynamic=True)
    assert sent(run(on.Disconnected("d")), "b") == []
    assert not run.state.stopping
    assert sent(run.join("d", dynamic=True), "d") == [Started(100_000_000_000)]


def test_a_dataflow_of_dynamic_nodes_runs_until_it_is_stopped() -> None:
    run = Supervised(node("d", path="dynamic"))
    run(on.Begin())
    assert run.state.opened
    run.join("d", dynamic=True)
    run(on.Disconnected("d"))
    run.after(1000)
    assert not run.state.done
    run.join("d", dynamic=True)
    assert sent(run(on.StopRequested("test")), "d") == [StopFrame()]
    assert not run.state.done
    assert run(on.Disconnected("d"))[-1] == do.Finish()


def test_the_end_does_not_wait_long_for_dynamic_nodes() -> None:
    run = Supervised(node("a", outputs=("x",)), node("d", path="dynamic", inputs=("a/x",)))
    run.start()
    run.join("d", dynamic=True)
    assert sent(run.end("a"), "d") == [InputsClosed(["a/x"]), StopFrame()]
    (refused,) = run.register("d", dynamic=True)
    assert isinstance(refused, do.Refuse)
    assert run.after(1.1) == [do.Finish()]


def test_a_late_node_is_sent_its_closed_inputs() -> None:
    run = Supervised(node("a", outputs=("x",)), node("d", path="dynamic", inputs=("a/x",)), node("c"))
    run.start()
    run.end("a")
    assert sent(run.join("d", dynamic=True), "d") == [Started(100_000_000_000), InputsClosed(["a/x"])]


# ----------------------------------------------------------------------------- stragglers


def test_a_node_that_goes_on_after_its_inputs_closed_is_ended_once_all_others_are_done() -> None:
    run = Supervised(*PAIR, node("c", inputs=("timer/",)), finish_grace=120.0)
    run.start()
    run.end("a")
    assert signals(run.after(1000)) == []  # c is at work
    run.end("c")
    assert signals(run.after(119)) == []
    assert signals(run.after(2)) == [("b", SIGKILL)]
    run.end("b", signal=SIGKILL)
    assert run.failures == [("b", "grace")]


def test_a_node_whose_source_is_started_again_is_not_ended() -> None:
    run = Supervised(*PAIR, finish_grace=5.0)
    run.start()
    run.end("a")
    run.ask("a", "restart")
    assert signals(run.after(10)) == []  # it takes long to start
    run.join("a", incarnation=1)
    assert signals(run.after(10)) == []
    run.end("a")
    assert signals(run.after(5)) == [("b", SIGKILL)]


def test_a_node_whose_dynamic_source_is_back_is_not_ended() -> None:
    run = Supervised(
        node("d", path="dynamic", outputs=("x",)), node("b", inputs=("d/x",)), finish_grace=5.0
    )
    run.start()
    run.join("d", dynamic=True)
    run(on.Disconnected("d"))
    run.after(1)
    run.join("d", dynamic=True)
    assert signals(run.after(100)) == []


def test_a_node_is_killed_once_whatever_reasons_there_are() -> None:
    run = Supervised(PAIR[0], node("b", inputs=("a/x",), health_check_timeout=3.0), finish_grace=1.0)
    run.start()
    assert signals(run.after(3)) == [("b", SIGKILL)]
    run(on.Progress("b"))  # it came before the kill
    assert signals(run.end("a") + run.after(5)) == []


def test_the_straggler_guard_can_be_set_per_node_or_switched_off() -> None:
    run = Supervised(PAIR[0], node("b", inputs=("a/x",), finish_grace=5.0), finish_grace=None)
    run.start()
    run.end("a")
    assert signals(run.after(5)) == [("b", SIGKILL)]
    run = Supervised(*PAIR, finish_grace=None)
    run.start()
    run.end("a")
    assert run.after(1e6) == []


def test_timers_keep_a_node_running_unless_the_dataflow_says_otherwise() -> None:
    consumer = node("b", inputs=("a/x", "timer/"))
    for exits, expected in ((False, []), (True, [("b", SIGKILL)])):
        run = Supervised(PAIR[0], consumer, exit_when_nodes_finish=exits)
        run.start()
        run.end("a")
        assert signals(run.after(1000)) == expected


def test_undeclared_outputs_are_counted_in_the_result() -> None:
    run = Supervised(*PAIR)
    run.start()
    run(on.MessageReceived("a", Closing({"y": 3})))
    assert run.supervisor.result("id").undeclared == {"a": {"y": 3}}


def test_undeclared_outputs_of_all_processes_of_a_node_are_counted() -> None:
    run = Supervised(node("a", restart=RestartOptions("always")))
    run.start()
    run(on.MessageReceived("a", Closing({"x": 2})))
    run.end("a")
    run.after(1)
    run.join("a", incarnation=1)
    run(on.MessageReceived("a", Closing({"x": 3})))
    assert run.supervisor.result("id").undeclared == {"a": {"x": 5}}
