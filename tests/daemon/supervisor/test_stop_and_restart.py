"""The stop ladder, restarts, and the other reasons to kill a process."""

from __future__ import annotations

from signal import SIGINT, SIGKILL, SIGTERM

import pytest
from supervision import Supervised, node, sent, signals, spawned

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.dataflow.model import RestartOptions
from dora.wire.counters import RESTARTS
from dora.wire.node_protocol import (
    Closing,
    InputsClosed,
    NodeRestartedFrame,
    OutputsClosed,
    Ready,
    Started,
    StartRefused,
    StopFrame,
)

STOP = on.StopRequested("test")
ALWAYS = RestartOptions(policy="always")
ON_FAILURE = RestartOptions(policy="on-failure")


def test_a_stop_escalates_from_the_stop_event_to_sigterm_and_sigkill() -> None:
    run = Supervised(node("a"), node("b"), grace=10.0)
    run.start()
    commands = run(STOP)
    assert sent(commands, "a") == sent(commands, "b") == [StopFrame()]
    run.end("b")
    assert signals(run.after(9.9)) == []
    assert signals(run.after(0.2)) == [("a", SIGTERM)]
    assert signals(run.after(4.8)) == []
    assert signals(run.after(0.2)) == [("a", SIGKILL)]
    assert run.end("a", signal=SIGKILL)[-1] == do.Finish()
    (failure,) = run.supervisor.result("id").failures
    assert failure.kind == "grace"
    assert "grace duration of 10 s" in failure.message


def test_a_node_that_is_stopped_alone_may_wait_to_send_for_half_of_its_grace() -> None:
    run = Supervised(node("a"), node("b"), grace=10.0)
    run.start()
    run.ask("a", "restart", grace=4.0)
    assert run.supervisor.state.send_patience("a") == 2.0
    run(STOP)  # from now on the receivers stop as well
    assert run.supervisor.state.send_patience("a") == run.supervisor.state.send_patience("b") == 0.0


@pytest.mark.parametrize(
    ("code", "number", "ok"),
    [
        (0, None, True),
        (None, SIGTERM, True),
        (None, SIGINT, True),
        (143, None, True),
        (130, None, True),
        (1, None, False),
        (None, SIGKILL, False),
    ],
)
def test_exits_after_a_stop_are_clean_or_failures(code: int | None, number: int | None, ok: bool) -> None:
    run = Supervised(node("a"))
    run.start()
    run(STOP)
    run.end("a", code, number)
    assert run.supervisor.result("id").ok is ok


def test_being_terminated_without_a_stop_is_a_failure() -> None:
    run = Supervised(node("a"))
    run.start()
    run.end("a", signal=SIGTERM)
    assert run.failures == [("a", "exit")]


def test_a_second_request_kills_at_once() -> None:
    run = Supervised(node("a"), node("b"))
    run.start()
    run(STOP)
    assert run(STOP) == []  # a second request changes nothing
    assert signals(run(on.KillRequested())) == [("a", SIGKILL), ("b", SIGKILL)]
    run.end("a", signal=SIGKILL)
    run.end("b", signal=SIGKILL)
    assert run.state.done


def test_a_killed_node_is_no_cause_of_the_other_kills() -> None:
    run = Supervised(node("a", outputs=("x",)), node("b", inputs=("a/x",)))
    run.start()
    run(on.KillRequested("was interrupted twice"))
    run.end("a", signal=SIGKILL)
    run.end("b", signal=SIGKILL)
    message = "was killed because the dataflow was interrupted twice"
    failures = run.supervisor.result("id").failures
    assert [(failure.message, failure.follows) for failure in failures] == [(message, "")] * 2
    assert run.failures == [("a", "grace"), ("b", "grace")]


def test_a_stop_during_the_start_refuses_all_nodes_and_is_no_failure() -> None:
    run = Supervised(node("waits"), node("imports"), node("connected"))
    run(on.Begin())
    run.join("waits")
    run.register("connected")
    commands = run(STOP)
    for name in ("waits", "connected"):
        (refusal,) = sent(commands, name)
        assert isinstance(refusal, StartRefused)
    assert signals(commands) == [("imports", SIGTERM)]
    assert (
        sent(run(on.MessageReceived("connected", Ready())), "connected") == []
    )  # its refusal is on its way
    for name in ("waits", "connected"):
        run.end(name, 1)
    run.end("imports", signal=SIGTERM)
    assert run.state.done
    assert run.supervisor.result("id").ok


def test_a_process_that_survives_sigkill_is_abandoned() -> None:
    run = Supervised(node("a"), grace=1.0)
    run.start()
    run(STOP)
    run.after(1.5)
    assert not run.state.done
    assert run.after(10)[-1] == do.Finish()
    assert "could not be killed" in run.supervisor.result("id").failures[0].message


# ----------------------------------------------------------------------------- restarts


def test_a_failed_node_is_restarted_and_its_consumers_keep_their_inputs() -> None:
    run = Supervised(node("a", outputs=("x",), restart=ON_FAILURE), node("b", inputs=("a/x",)))
    run.start()
    commands = run.end("a", 1)
    assert spawned(commands) == [("a", 1)]  # a source, and still
    assert commands.count(do.Count("a", RESTARTS, 1)) == 1
    assert sent(commands, "b") == []
    assert do.CloseReceivers("a") in commands
    commands = run.join("a", incarnation=1)
    assert commands[0] == do.Admit(run.connection, "a", 1)
    assert sent(commands, "a") == [Started(100_000_000_000)]
    assert sent(commands, "b") == [NodeRestartedFrame("a")]
    assert sent(run.end("a", 0), "b") == [InputsClosed(["a/x"])]
    run.end("b")
    assert run.supervisor.result("id").ok


def test_the_policy_always_restarts_after_a_clean_exit_too() -> None:
    run = Supervised(node("a", restart=ALWAYS))
    run.start()
    assert spawned(run.end("a", 0)) == [("a", 1)]


def test_back_off_doubles_up_to_its_limit() -> None:
    policy = RestartOptions(policy="always", delay=1.0, max_delay=3.0)
    run = Supervised(node("a", restart=policy))
    run.start()
    for count, delay in enumerate([1.0, 2.0, 3.0, 3.0], start=1):
        run.end("a", 1)
        assert spawned(run.after(delay - 0.01)) == []
        assert spawned(run.after(0.02)) == [("a", count)]
        run.join("a", incarnation=count)


def test_restarts_are_limited_within_a_window() -> None:
    policy = RestartOptions(policy="on-failure", max_restarts=2, window=60.0)
    run = Supervised(node("a", restart=policy))
    run.start()
    for count in (1, 2):
        assert spawned(run.end("a", 1)) == [("a", count)]
        run.join("a", incarnation=count)
    run.after(61)
    assert spawned(run.end("a", 1)) == [("a", 3)]
    run.join("a", incarnation=3)
    assert spawned(run.end("a", 1)) == [("a", 4)]
    run.join("a", incarnation=4)
    assert spawned(run.end("a", 1)) == []
    assert run.state.done
    assert run.supervisor.result("id").failures[0].restarts == 4


def test_no_restart_once_all_inputs_are_closed() -> None:
    run = Supervised(node("a", outputs=("x",)), node("b", inputs=("a/x",), restart=ALWAYS))
    run.start()
    run.end("a")
    assert spawned(run.end("b", 0)) == []
    assert run.state.done


def test_no_restart_once_all_inputs_closed_during_the_back_off() -> None:
    policy = RestartOptions(policy="on-failure", delay=5.0)
    run = Supervised(node("a", outputs=("x",)), node("b", inputs=("a/x",), restart=policy))
    run.start()
    run.end("b", 1)
    assert spawned(run.end("a")) == []
    assert run.state.done
    assert run.failures == [("b", "exit")]


def test_no_restart_while_stopping() -> None:
    run = Supervised(node("a", restart=ALWAYS), node("b", restart=RestartOptions("always", delay=60.0)))
    run.start()
    run.end("b", 1)
    run(STOP)
    assert spawned(run.end("a", 0)) == []
    assert run.state.done
    assert run.supervisor.result("id").ok


def test_outputs_stay_open_while_a_node_may_be_restarted() -> None:
    run = Supervised(
        node("a", outputs=("x",)),
        node("b", inputs=("a/x",), outputs=("y", "z"), restart=ON_FAILURE),
        node("c", inputs=("b/y", "b/z")),
    )
    run.start()
    assert sent(run(on.MessageReceived("b", OutputsClosed(["y"]))), "c") == []
    assert sent(run.end("a"), "c") == [InputsClosed(["b/y"])]  # b cannot be restarted any more
    assert sent(run.end("b"), "c") == [InputsClosed(["b/z"])]


def test_outputs_that_a_process_is_done_with_are_open_for_the_next_one() -> None:
    run = Supervised(
        node("a", outputs=("x",)),
        node("b", inputs=("a/x",), outputs=("y",), restart=RestartOptions(policy="always")),
        node("c", inputs=("b/y",)),
    )
    run.start()
    run(on.MessageReceived("b", OutputsClosed(["y"])))
    run.end("b")
    run.after(1)
    run.join("b", incarnation=1)
    assert sent(run.end("a"), "c") == []  # the second process may still send
    assert sent(run.end("b"), "c") == [InputsClosed(["b/y"])]


def test_a_node_that_fails_before_it_is_ready_gets_its_restarts_before_the_start_breaks() -> None:
    policy = RestartOptions(policy="on-failure", max_restarts=1)
    run = Supervised(node("a", restart=policy), node("b"))
    run(on.Begin())
    run.join("b")
    assert spawned(run.end("a", 1)) == [("a", 1)]
    assert isinstance(sent(run.end("a", 1), "b")[0], StartRefused)


def test_an_old_process_cannot_register_as_the_new_one() -> None:
    run = Supervised(node("a", restart=ALWAYS))
    run.start()
    run.end("a")
    (refused,) = run.register("a", incarnation=0)
    assert isinstance(refused, do.Refuse)


# ----------------------------------------------------------------------------- timeouts


def test_startup_timeout_kills_and_the_restart_policy_applies() -> None:
    run = Supervised(node("a", startup_timeout=3.0, restart=RestartOptions("on-failure", max_restarts=1)))
    run(on.Begin())
    assert signals(run.after(3)) == [("a", SIGKILL)]
    assert spawned(run.end("a", signal=SIGKILL)) == [("a", 1)]
    assert signals(run.after(3)) == [("a", SIGKILL)]
    run.end("a", signal=SIGKILL)
    assert run.failures == [("a", "startup_timeout")]


def test_startup_timeout_is_met_by_connecting() -> None:
    run = Supervised(node("a", startup_timeout=3.0), node("b"))
    run(on.Begin())
    run.register("a")
    assert run.after(100) == []


def test_health_check_timeout_kills_a_node_without_a_sign_of_life() -> None:
    run = Supervised(node("a", health_check_timeout=3.0))
    run.start()
    for _ in range(5):
        assert run.after(2) == []
        run(on.Progress("a"))
    assert signals(run.after(3)) == [("a", SIGKILL)]
    run.end("a", signal=SIGKILL)
    assert run.failures == [("a", "health_check")]


def test_a_delayed_daemon_handles_progress_before_it_kills_a_node() -> None:
    run = Supervised(node("a", health_check_timeout=3.0), node("b", health_check_timeout=3.0))
    run.start()
    run.now += 5  # in which no sign of life was handled
    assert signals(run(on.Progress("b")) + run(on.Progress("a")) + run(on.TimePassed())) == []


def test_health_is_not_checked_after_a_node_closed() -> None:
    run = Supervised(node("a", health_check_timeout=3.0))
    run.start()
    run(on.MessageReceived("a", Closing()))
    run(on.Progress("a"))
    assert signals(run.after(100)) == []


def test_health_is_not_checked_after_a_connection_has_ended() -> None:
    run = Supervised(node("a", health_check_timeout=3.0))
    run.start()
    run(on.Disconnected("a"))
    assert signals(run.after(100)) == []
