"""Routes of lines that nodes print, without any process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from dora.daemon.event_loop import Timer
from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.router import HELD_LINES, KEPT_LENGTH, TRACEBACK_AFTER, TextRouter
from dora.dataflow.layout import RunContext
from dora.dataflow.model import Dataflow, InputSpec, LogLevel, LogOptions, LogSource, NodeOutput, NodeSpec
from dora.dataflow.plan import plan
from dora.wire.node_protocol import TextInput


class Router:
    """A router whose nodes take lines (True), lose them (False) or are still to come (None)."""

    def __init__(self, *nodes: NodeSpec) -> None:
        self.taking: dict[str, bool | None] = {}
        self.delivered: list[tuple[str, TextInput]] = []
        self.kept: list[LogEntry] = []
        dataflow = Dataflow(nodes, "/")
        self.plan = plan(dataflow, RunContext("id", "/run", "p_", "/board"))
        self.router = TextRouter(dataflow, self.plan.links, "id", self.deliver, self.kept.append)

    def deliver(self, node_id: str, frame: TextInput) -> bool | None:
        taken = self.taking.get(node_id, True)
        if taken:
            self.delivered.append((node_id, frame))
        return taken


def logs(level: LogLevel, node: str | None = None) -> InputSpec:
    return InputSpec(f"{level}-{node}", LogSource(level, node, f"dora/logs/{level}/{node}"))


def entry(level: str, message: str) -> str:
    return json.dumps({"level": level, "message": message})


def test_log_inputs_get_entries_of_others_that_are_severe_enough() -> None:
    run = Router(
        NodeSpec("a", path="a.py"),
        NodeSpec("b", path="b.py"),
        NodeSpec("l", path="l.py", inputs=(logs("warn"), logs("stdout", "a"))),
    )
    run.router.line("a", "stdout", "raw")
    run.router.line("b", "stdout", "raw")
    run.router.line("b", "stdout", entry("warn", "dark"))
    run.router.line("a", "stdout", entry("error", "broken"))
    run.router.line("l", "stdout", entry("error", "mine"))
    texts = [(frame.inputs, json.loads(frame.text)["message"]) for _, frame in run.delivered]
    assert texts == [
        (["stdout-a"], "raw"),
        (["warn-None"], "dark"),
        (["warn-None", "stdout-a"], "broken"),
    ]
    assert len(run.kept) == 5


def captured(**options: Any) -> Router:
    return Router(
        NodeSpec("a", path="a.py", outputs=("o",), log=LogOptions(**options)),
        NodeSpec("b", path="b.py", inputs=(InputSpec("i", NodeOutput("a", "o")),)),
    )


def test_captured_lines_are_published_before_any_filter_and_with_their_end() -> None:
    run = captured(send_stdout_as="o", min_log_level="error")
    run.router.line("a", "stderr", "raw")
    assert run.delivered == [("b", TextInput(["i"], "raw\n"))]
    assert run.kept == []


def test_only_structured_entries_are_sent_as_logs() -> None:
    run = captured(send_logs_as="o", min_log_level="info")
    run.router.line("a", "stdout", "raw")
    run.router.line("a", "stdout", entry("debug", "fine"))
    run.router.line("a", "stdout", entry("info", "good"))
    ((_, frame),) = run.delivered
    assert json.loads(frame.text)["message"] == "good"
    assert [kept.message for kept in run.kept] == ["good"]


def test_lines_for_a_node_that_has_not_started_are_held_up_to_a_limit() -> None:
    run = captured(send_stdout_as="o")
    run.taking["b"] = None
    for number in range(HELD_LINES + 5):
        run.router.line("a", "stdout", str(number))
    run.taking["b"] = True
    run.router.release("b")
    assert [frame.text for _, frame in run.delivered][:2] == ["5\n", "6\n"]
    (link,) = run.plan.links
    assert run.router.sent == {link.slot: HELD_LINES + 5}
    assert run.router.dropped == {link.slot: 5}


def test_held_lines_that_a_node_does_not_read_when_it_runs_are_counted_as_lost() -> None:
    run = captured(send_stdout_as="o")
    run.taking["b"] = None
    run.router.line("a", "stdout", "held")
    run.taking["b"] = False
    run.router.release("b")
    (link,) = run.plan.links
    assert run.router.sent == run.router.dropped == {link.slot: 1}


def test_held_lines_are_delivered_once_however_often_the_node_starts() -> None:
    run = captured(send_stdout_as="o")
    run.taking["b"] = None
    run.router.line("a", "stdout", "held")
    run.taking["b"] = True
    for _ in range(2):
        run.router.release("b")
    assert [frame.text for _, frame in run.delivered] == ["held\n"]
    (link,) = run.plan.links
    assert run.router.sent == {link.slot: 1}


def test_lines_that_a_node_does_not_read_are_counted_as_lost() -> None:
    run = captured(send_stdout_as="o")
    run.taking["b"] = False
    run.router.line("a", "stdout", "lost")
    (link,) = run.plan.links
    assert run.router.sent == run.router.dropped == {link.slot: 1}


def test_failure_lines_come_from_stderr() -> None:
    run = captured()
    run.router.line("a", "stdout", "out")
    assert run.router.last_lines("a") == ("out",)
    run.router.line("a", "stderr", entry("error", "it broke"))
    assert run.router.last_lines("a") == ("it broke",)
    run.router.forget_lines("a")
    assert run.router.last_lines("a") == ()


def test_long_lines_that_explain_a_failure_are_kept_without_their_middle() -> None:
    run = Router(NodeSpec("a", path="a.py"))
    line = "the begin" + "x" * 1_000_000 + "ValueError: no"
    run.router.line("a", "stderr", line)
    (kept,) = run.router.last_lines("a")
    assert kept.startswith("the begin") and kept.endswith("ValueError: no")
    assert len(kept) < KEPT_LENGTH + 100
    assert "996,023 characters left out" in kept
    assert run.kept[-1].message == line  # the log has all of it


TRACEBACK = ["Traceback (most recent call last):", '  File "a.py", line 1, in <module>', "ValueError: no"]


def test_a_traceback_is_one_entry_of_level_error_for_log_inputs_too() -> None:
    run = Router(
        NodeSpec("a", path="a.py", log=LogOptions(min_log_level="info")),
        NodeSpec("l", path="l.py", inputs=(logs("error"),)),
    )
    for line in [*TRACEBACK[:2], "printed meanwhile", TRACEBACK[2], "after it"]:
        run.router.line("a", "stdout" if line == "printed meanwhile" else "stderr", line)
    (entry,) = run.kept
    assert (entry.level, entry.message, entry.stream) == ("error", "\n".join(TRACEBACK), "stderr")
    ((_, frame),) = run.delivered
    assert json.loads(frame.text)["message"] == entry.message
    assert run.router.last_lines("a") == (*TRACEBACK, "after it")


def test_a_traceback_is_logged_when_no_further_line_comes_for_a_while() -> None:
    run = Router(NodeSpec("a", path="a.py"))
    timers: list[Timer] = []
    kept: list[LogEntry] = []

    def call_later(seconds: float, call: Callable[[], None]) -> Timer:
        timers.append(Timer(seconds, call))
        return timers[-1]

    router = TextRouter(
        Dataflow((NodeSpec("a", path="a.py"),), "/"),
        run.plan.links,
        "id",
        run.deliver,
        kept.append,
        call_later,
    )
    for line in TRACEBACK:
        router.line("a", "stderr", line)
        assert [timer.when for timer in timers if timer.callback is not None] == [TRACEBACK_AFTER]
    assert kept == []
    late = timers[-1].callback
    assert late is not None
    late()
    late()
    assert [entry.message for entry in kept] == ["\n".join(TRACEBACK)]


def test_the_end_of_a_process_ends_its_traceback() -> None:
    run = Router(NodeSpec("a", path="a.py"), NodeSpec("b", path="b.py"))
    for line in TRACEBACK[:2]:
        run.router.line("a", "stderr", line)
    run.router.end_traceback("b")
    assert run.kept == []
    run.router.end_traceback("a")
    assert [entry.message for entry in run.kept] == ["\n".join(TRACEBACK[:2])]
