"""Inputs with a safe state are informed when their source fails; senders and the log about inputs."""

from __future__ import annotations

from typing import Any

import msgspec
from supervision import Supervised, node, sent

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.dataflow.model import NodeSpec, RestartOptions
from dora.wire.node_protocol import NodeFailedFrame, SafeStateChanged, SafeStateFrame, SourceFailed
from dora.wire.output_rules import OutputRules, SafeState

ON_FAILURE = RestartOptions(policy="on-failure")
ALWAYS = RestartOptions(policy="always")


def planner(**options: Any) -> NodeSpec:
    spec = node("a", outputs=("x", "y"), **options)
    safe = OutputRules(safe_state=SafeState((0,), "int64", ("failed",)))
    return msgspec.structs.replace(spec, output_rules={"x": safe})


def test_a_sender_that_failed_and_is_started_again_begins_safe_states() -> None:
    run = Supervised(planner(restart=ON_FAILURE), node("b", inputs=("a/x", "a/y")))
    run.start()
    assert sent(run.end("a", signal=9, exit_code=None), "b") == [SourceFailed(["a/x"])]


def test_one_that_ended_well_and_is_started_again_begins_none() -> None:
    """Its last messages are not older than a failure."""
    run = Supervised(planner(restart=ALWAYS), node("b", inputs=("a/x",)))
    run.start()
    assert sent(run.end("a"), "b") == []


def test_one_that_failed_for_good_is_announced_as_ever() -> None:
    run = Supervised(planner(), node("b", inputs=("a/x",)))
    run.start()
    first, *_ = sent(run.end("a", exit_code=1), "b")
    assert isinstance(first, NodeFailedFrame)


def test_sender_and_log_are_informed() -> None:
    run = Supervised(planner(), node("b", inputs=("a/x",)))
    run.start()
    entered = run(on.MessageReceived("b", SafeStateChanged("a/x", "silent", True)))
    assert sent(entered, "a") == [SafeStateFrame("x", "b/a/x", "silent", True)]
    left = run(on.MessageReceived("b", SafeStateChanged("a/x", "silent", False, 0.25)))
    assert sent(left, "a") == [SafeStateFrame("x", "b/a/x", "silent", False, 0.25)]
    logged = [command for command in (*entered, *left) if isinstance(command, do.Log)]
    assert [(command.level, command.text) for command in logged] == [
        ("warn", "input `a/x` gets its safe value: `a/x` is silent"),
        ("info", "input `a/x` gets messages of `a/x` again, after 0.25 s"),
    ]


def test_an_input_that_was_removed_meanwhile_is_ignored() -> None:
    run = Supervised(planner(), node("b", inputs=("a/x",)))
    run.start()
    assert run(on.MessageReceived("b", SafeStateChanged("gone", "silent", True))) == []
