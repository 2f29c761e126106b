"""`dora run --hot-reload` with real processes: what is saved runs, what is broken does not matter."""

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable

import pytest
from flow import Flow, link
from waiting import TIMEOUT

import dora
from dora import DataflowFailed
from dora.daemon.logs.entry import LogEntry
from dora.daemon.supervisor.result import DataflowResult

pytestmark = pytest.mark.processes

SENDER = """
    from dora import Node
    node = Node()
    number = int(node.load_state() or 0)
    for event in node:
        if event["type"] == "INPUT":
            number += 1
            node.send_output("out", f"one {number}".encode())
    node.save_state(str(number).encode())
"""
PRINTER = """
    from dora import Node
    for event in Node():
        print(event["data"].decode() if event["type"] == "INPUT" else (event["type"], event["id"]))
"""
OPERATOR = """
    import helper
    from dora import DoraStatus

    class Operator:
        def __init__(self):
            self.seen = 0
            self.name = "one"

        def on_event(self, event, send_output):
            if event["type"] == "INPUT":
                self.seen += 1
                send_output("out", f"{self.name} {helper.WORD} {self.seen}".encode())
            return DoraStatus.CONTINUE
"""
TICK = "dora/timer/millis/20"
# What steps wait for must not be dropped, however late the printer gets to run.
FROM_SENDER = {"in": {"source": "sender/out", "queue_size": 1000}}


class Script:
    """Does one thing after the other: each when a line that matches its pattern is logged."""

    def __init__(self, flow: Flow, *steps: tuple[str, Callable[[], object]]) -> None:
        self.flow = flow
        self.steps = list(steps)

    def __call__(self, entry: LogEntry) -> None:
        self.flow.entries.append(entry)
        if self.steps and re.search(self.steps[0][0], f"{entry.node_id}: {entry.message}"):
            self.steps.pop(0)[1]()

    def run(self) -> DataflowResult:
        """Run to the end, which is a Ctrl-C after the last step."""
        try:
            return dora.run(self.flow.write(), hot_reload=True, stop_after=4 * TIMEOUT, on_log=self)
        finally:
            assert not self.steps, f"nothing matched {self.steps[0][0]}"


def save(flow: Flow, name: str, text: str) -> Callable[[], object]:
    return lambda: (flow.directory / name).write_text(textwrap.dedent(text))


def stop() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def notes(flow: Flow, node_id: str) -> list[str]:
    return [e.message for e in flow.entries if e.node_id == node_id and e.stream == "daemon"]


def test_a_reloaded_node_keeps_its_state(flow: Flow, engine: str) -> None:  # noqa: ARG001
    flow.node("sender", SENDER, inputs={"tick": TICK}, outputs=["out"])
    flow.node("printer", PRINTER, inputs=FROM_SENDER)
    result = Script(
        flow,
        ("printer: one 5", save(flow, "sender.py", SENDER.replace("one", "two"))),
        ("printer: two", save(flow, "sender.py", SENDER.replace("one", "six"))),
        ("printer: six", stop),
    ).run()
    lines = flow.printed("printer")
    numbers = [int(line.split()[1]) for line in lines if line.startswith(("one", "two", "six"))]
    assert numbers == list(range(1, len(numbers) + 1))
    assert lines.count("('NODE_RESTARTED', 'sender')") == 2
    assert not any("INPUT_CLOSED" in line for line in lines[:-2])
    assert notes(flow, "sender") == 2 * [
        "its code has changed; the new code is being started",
        "runs its new code",
    ]
    assert link(result, "sender/out -> printer/in").dropped == 0


BROKEN = {
    "syntax": ("for", r"SyntaxError: .*\(.*sender\.py:1\)$"),
    "import": ("import no_such_module", r"No module named 'no_such_module' \(.*sender\.py:1\)$"),
    "exception": ("\n\nraise ValueError('mine')", r"ValueError: mine \(.*sender\.py:3\)$"),
    "exit": ("", "exited with status 0$"),
}


@pytest.mark.parametrize("way", BROKEN)
def test_new_code_that_fails_to_start_is_reported_and_the_old_runs_on(flow: Flow, way: str) -> None:
    text, message = BROKEN[way]
    flow.node("sender", SENDER, inputs={"tick": TICK}, outputs=["out"])
    flow.node("printer", PRINTER, inputs=FROM_SENDER)

    def go_on() -> None:
        last = flow.printed("printer")[-1].split()[1]
        script.steps.append((f"printer: one {int(last) + 3}", stop))

    script = Script(
        flow, ("printer: one 3", save(flow, "sender.py", text)), ("the old code goes on", go_on)
    )
    script.run()
    (error,) = [note for note in notes(flow, "sender") if "the old code goes on" in note]
    assert re.search(message, error)
    assert not any("NODE_RESTARTED" in line for line in flow.printed("printer"))


@pytest.mark.both_ways
def test_a_failed_node_is_restarted_once_its_code_is_fixed(flow: Flow) -> None:
    flow.node("sender", SENDER, inputs={"tick": TICK}, outputs=["out"])
    flow.node("printer", PRINTER, inputs=FROM_SENDER)
    Script(
        flow,
        ("printer: one 3", save(flow, "sender.py", SENDER.replace("number += 1", "number += '1'"))),
        ("sender: .*started again when", save(flow, "sender.py", SENDER.replace("one", "two"))),
        ("printer: two", stop),
    ).run()
    assert any("TypeError" in line for line in flow.printed("sender"))


def test_a_node_that_is_not_fixed_fails_the_dataflow(flow: Flow) -> None:
    flow.node(
        "sender", SENDER.replace("number += 1", "number += '1'"), inputs={"tick": TICK}, outputs=["out"]
    )
    flow.node("printer", PRINTER, inputs=FROM_SENDER)
    with pytest.raises(DataflowFailed, match="TypeError"):
        Script(flow, ("sender: .*started again when", stop)).run()


def test_a_node_with_hot_reload_replace_ends_before_its_new_code_starts(flow: Flow) -> None:
    device = "import atexit, os\nos.mkdir('device')\natexit.register(os.rmdir, 'device')\n"
    alone = device + textwrap.dedent(SENDER)
    flow.node("sender", alone, inputs={"tick": TICK}, outputs=["out"], hot_reload="replace")
    flow.node("printer", PRINTER, inputs=FROM_SENDER)
    Script(
        flow,
        ("printer: one 3", save(flow, "sender.py", "for")),
        ("SyntaxError", save(flow, "sender.py", alone.replace("one", "two"))),
        ("printer: two", stop),
    ).run()
    assert "its code has changed; the old code has to end first" in notes(flow, "sender")


@pytest.mark.both_ways
def test_a_changed_import_reloads_its_operators(flow: Flow) -> None:
    flow.file("op.py", OPERATOR)
    flow.file("helper.py", "WORD = 'red'")
    flow.node("sender", SENDER, inputs={"tick": TICK}, outputs=["out"])
    flow.node(
        "host",
        operators=[{"id": "op", "python": "op.py", "inputs": {"in": "sender/out"}, "outputs": ["out"]}],
    )
    flow.node("printer", PRINTER, inputs={"in": {"source": "host/op/out", "queue_size": 1000}})
    Script(
        flow,
        ("printer: one red 3", save(flow, "op.py", OPERATOR.replace("one", "two"))),
        ("printer: two red", save(flow, "helper.py", "WORD = 'sun'")),
        ("printer: two sun", save(flow, "helper.py", "WORD = sun")),
        ("host: .*the old code goes on: NameError.*helper.py:1", save(flow, "helper.py", "WORD = 'sky'")),
        ("printer: two sky", save(flow, "op.py", "class Operator")),
        ("host: .*SyntaxError.*op.py:1", stop),
    ).run()
    seen = [int(line.split()[2]) for line in flow.printed("printer") if line.startswith(("one", "two"))]
    assert seen == list(range(1, len(seen) + 1))


def test_a_runtime_that_failed_is_started_with_the_new_code(flow: Flow) -> None:
    flow.file("op.py", OPERATOR)
    flow.file("helper.py", "WORD = 'red'")
    flow.node("sender", SENDER, inputs={"tick": TICK}, outputs=["out"])
    flow.node("host", operator={"python": "op.py", "inputs": {"in": "sender/out"}, "outputs": ["out"]})
    flow.node("printer", PRINTER, inputs={"in": {"source": "host/out", "queue_size": 1000}})
    Script(
        flow,
        ("printer: one red 3", save(flow, "helper.py", "pass")),
        ("host: .*started again when", save(flow, "helper.py", "WORD = 'sun'")),
        ("printer: one sun 1", stop),
    ).run()


def test_a_process_killed_during_a_hot_reload_is_replaced(flow: Flow) -> None:
    told = "import os\nprint('process', os.getpid(), flush=True)\n" + textwrap.dedent(SENDER)
    flow.node("sender", told, inputs={"tick": TICK}, outputs=["out"])
    flow.node("printer", PRINTER, inputs=FROM_SENDER)
    slow = "import time\nprint('loading', flush=True)\ntime.sleep(1000)\n"

    def kill() -> None:
        os.kill(int(flow.printed("sender")[0].split()[1]), signal.SIGKILL)

    Script(
        flow,
        ("printer: one 3", save(flow, "sender.py", slow)),
        ("sender: loading", kill),
        (
            "sender: was killed by SIGKILL; its new code",
            save(flow, "sender.py", SENDER.replace("one", "two")),
        ),
        ("sender: .*", lambda: None),
        ("printer: two", stop),
    ).run()


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_ctrl_c_during_a_hot_reload_ends_both_processes(flow: Flow, way: str) -> None:
    flow.node("sender", SENDER, inputs={"tick": TICK}, outputs=["out"])
    flow.node("printer", PRINTER, inputs=FROM_SENDER)

    def end() -> None:
        pids.append(int(flow.printed("sender")[-1].split()[1]))
        stop()
        if way == "kill":
            os.kill(os.getpid(), signal.SIGTERM)  # the second signal; the same one at once would be an echo

    pids: list[int] = []
    slow = "import os, time\nprint('loading', os.getpid(), flush=True)\ntime.sleep(1000)\n"
    script = Script(flow, ("printer: one 3", save(flow, "sender.py", slow)), ("sender: loading", end))
    if way == "kill":
        with pytest.raises(DataflowFailed, match="was interrupted twice"):
            script.run()
    else:
        script.run()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_dataflow_without_python_files_has_nothing_to_reload(flow: Flow) -> None:
    flow.file("here.py", "from dora import Node\nNode()")
    flow.node("shell", path="shell", args=f"{sys.executable} here.py")
    dora.run(flow.write(), hot_reload=True, allow_shell_nodes=True, on_log=flow.entries.append)
    assert [entry.message for entry in flow.entries if entry.node_id is None] == [
        "no node of this dataflow has Python files that could be reloaded"
    ]
