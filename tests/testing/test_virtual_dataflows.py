"""Whole dataflows in virtual time."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import dora
from dora import DataflowError, DataflowFailed, DoraStatus, Node
from dora.builder import DataflowBuilder
from dora.testing import VirtualDataflow, VirtualTimeError, run_dataflow

CHAIN = """
nodes:
  - id: source
    path: source.py
    inputs: {tick: dora/timer/millis/100}
    outputs: [number]
  - id: double
    path: double.py
    inputs: {number: source/number}
    outputs: [twice]
  - id: sink
    path: dynamic
    inputs: {twice: {source: double/twice, queue_size: 100}}
"""


def count(to: int) -> Any:
    def source(node: Node) -> None:
        for number, event in enumerate(node):
            if number == to or event["type"] == "STOP":
                break
            node.send_output("number", pa.array([number]))

    return source


def double(node: Node) -> None:
    for event in node:
        if event["type"] == "INPUT":
            time.sleep(0.02)
            node.send_output("twice", pa.array([2 * event["value"][0].as_py()]))


def test_a_dataflow_runs_to_its_end() -> None:
    flow = run_dataflow(CHAIN, nodes={"source": count(5), "double": double})
    assert [(sent.time, sent.value[0].as_py()) for sent in flow.outputs["double/twice"]] == [
        (0.02, 0),
        (0.12, 2),
        (0.22, 4),
        (0.32, 6),
        (0.42, 8),
    ]
    assert flow.result.ok
    assert flow.ended


def test_the_test_plays_nodes_with_the_real_interface() -> None:
    with VirtualDataflow(CHAIN, nodes={"double": double}, play=["source", "sink"]) as flow:
        source, sink = flow.node("source"), flow.node("sink")
        assert isinstance(source, Node)
        source.send_output("number", pa.array([21]))
        assert flow.outputs["double/twice"] == []
        event = sink.next()
        assert event is not None
        assert event["value"].to_pylist() == [42]
        assert flow.time == pytest.approx(0.02)
        flow.advance(1)
        assert flow.time == pytest.approx(1.02)
        source.close()
        assert [event["type"] for event in sink] == ["INPUT_CLOSED", "STOP"]


def test_an_idle_dataflow_does_nothing_until_time_passes() -> None:
    with VirtualDataflow(CHAIN, nodes={"source": count(100), "double": double}) as flow:
        flow.advance(0.35)
        assert len(flow.outputs["source/number"]) == 4
        time.sleep(0.1)  # the test's own clock is the same
        assert len(flow.outputs["source/number"]) == 5
        flow.stop()
        flow.run()
        assert flow.result.stopped


def test_a_dataflow_may_have_hours(tmp_path: Path) -> None:
    (tmp_path / "flow.yml").write_text(
        "nodes:\n  - id: a\n    path: a.py\n    inputs: {t: dora/timer/secs/600}\n    outputs: [o]\n"
    )
    (tmp_path / "a.py").write_text(
        "from dora import Node\nnode = Node()\n"
        "for event in node:\n    if event['type'] == 'INPUT':\n        node.send_output('o', b'')\n"
    )
    flow = run_dataflow(tmp_path / "flow.yml", stop_after=36000)
    assert len(flow.outputs["a/o"]) == 61


def test_the_end_of_a_test_is_no_failure_in_the_logs() -> None:
    with VirtualDataflow(CHAIN, nodes={"double": double}, play=["source", "sink"]) as flow:
        flow.advance(0)
    assert [entry.message for entry in flow.logs] == []


def test_printed_lines_and_log_entries_keep_their_node(capsys: pytest.CaptureFixture[str]) -> None:
    def talk(node: Node) -> None:
        print("to stdout")
        print("to stderr", file=sys.stderr)
        node.log_warn("a warning")
        logging.getLogger("my.logger").info("a record")

    flow = run_dataflow(CHAIN, nodes={"source": talk, "double": double})
    assert [(entry.level, entry.message) for entry in flow.logs if entry.node_id == "source"] == [
        ("stdout", "to stdout"),
        ("stdout", "to stderr"),
        ("warn", "a warning"),
        ("info", "a record"),
    ]
    assert flow.lines("source")[0] == "to stdout"
    assert "source: to stdout" in capsys.readouterr().out


def test_a_traceback_with_which_the_output_of_a_node_ends_is_logged() -> None:
    def talk() -> None:
        Node()
        print('Traceback (most recent call last):\n  File "a.py", line 1', file=sys.stderr)

    flow = run_dataflow(CHAIN, nodes={"source": talk, "double": double})
    assert "line 1" in "\n".join(flow.lines("source"))


CAPTURED = """
nodes:
  - id: talker
    path: talker.py
    send_stdout_as: lines
    outputs: [lines]
  - id: listener
    path: listener.py
    inputs: {line: talker/lines, log: dora/logs/info/talker}
"""


@pytest.mark.parametrize("options", ["", "    restart_policy: on-failure\n    restart_delay: 3\n"])
def test_lines_for_a_node_that_has_ended_count_as_dropped(options: str) -> None:
    def talker() -> None:
        Node()
        for number in range(3):
            time.sleep(1)
            print(number)  # the last one at the moment of the restart

    def listener(node: Node) -> None:
        if options and not node.is_restart():
            raise OSError("again")

    flow = run_dataflow(CAPTURED + options, nodes={"talker": talker, "listener": listener})
    assert [(link.sent, link.dropped) for link in flow.result.links] == [(3, 3)]


def test_captured_lines_are_messages_too() -> None:
    heard = []

    def talker(node: Node) -> None:
        print("hello")
        node.log_info("told")

    def listener(node: Node) -> None:
        heard.extend(
            (event["id"], event["value"][0].as_py()[:6]) for event in node if event["type"] == "INPUT"
        )

    run_dataflow(CAPTURED, nodes={"talker": talker, "listener": listener}, stop_after=1)
    assert ("line", "hello\n") in heard
    assert [name for name, _ in heard].count("log") == 1


def test_back_pressure_waits_in_virtual_time() -> None:
    flow = DataflowBuilder()
    out = flow.add_node("fast", path="fast.py").add_output("n")
    flow.add_node("slow", path="slow.py").add_input("n", out, queue_size=2, queue_policy="backpressure")

    def fast(node: Node) -> None:
        for number in range(6):
            node.send_output("n", pa.array([number]))

    got = []

    def slow(node: Node) -> None:
        for event in node:
            if event["type"] == "INPUT":
                got.append(event["value"][0].as_py())
                time.sleep(1)

    run = run_dataflow(flow, nodes={"fast": fast, "slow": slow})
    assert got == list(range(6))
    assert [sent.time for sent in run.outputs["fast/n"]] == [0, 0, 0, 1, 2, 3]
    assert run.result.links[0].dropped == 0


def test_a_failing_node_is_an_event_for_the_others() -> None:
    events = []

    def fail() -> None:
        Node().send_output("number", b"1")
        raise LookupError("lost")

    def watch(node: Node) -> None:
        events.extend(event["type"] for event in node)

    with pytest.raises(LookupError, match="lost"):
        run_dataflow(CHAIN, nodes={"source": fail, "double": watch})
    assert events == ["NODE_FAILED", "INPUT", "INPUT_CLOSED", "STOP"]


PARALLEL = """
nodes:
  - id: source
    path: source.py
    inputs: {tick: dora/timer/millis/100}
    outputs: [number]
  - id: expected
    path: expected.py
    inputs: {number: source/number}
  - id: odd
    path: odd.py
    inputs: {number: source/number}
"""


def fails_at(count: int, error: Exception) -> Callable[[Node], None]:
    """Return a node that raises an error at an input."""

    def run(node: Node) -> None:
        for number, _ in enumerate(event for event in node if event["type"] == "INPUT"):
            if number == count:
                raise error

    return run


def sends_at_ticks(node: Node) -> None:
    for event in node:
        if event["type"] == "INPUT":
            node.send_output("number", b"1")


def test_a_failure_that_was_expected_hides_no_other() -> None:
    nodes = {
        "source": sends_at_ticks,
        "expected": fails_at(0, ValueError("expected")),
        "odd": fails_at(5, RuntimeError("odd")),
    }
    with VirtualDataflow(PARALLEL, nodes=nodes) as flow:
        with pytest.raises(ValueError, match="expected"):
            flow.advance(0.2)
        flow.advance(0.2)
        with pytest.raises(RuntimeError, match="odd"):
            flow.advance(1)
        flow.advance(1)
        flow.run(stop_after=3)
    with (
        pytest.raises(RuntimeError, match="odd"),
        VirtualDataflow(PARALLEL, nodes=nodes) as flow,
    ):
        with pytest.raises(ValueError, match="expected"):
            flow.advance(0.2)
        flow.run(stop_after=3)


def test_a_node_that_the_end_of_a_test_kills_has_not_failed() -> None:
    flow = VirtualDataflow(CHAIN, nodes={"double": double}, play=["source"])
    flow.close()
    flow.raise_failure()


def test_a_node_is_restarted_with_its_delay_and_its_state() -> None:
    starts = []

    def weak(node: Node) -> None:
        starts.append((time.monotonic() - 1000, node.restart_count()))
        assert node.load_state() == (str(node.restart_count()).encode() if node.is_restart() else None)
        node.save_state(str(node.restart_count() + 1).encode())
        if node.restart_count() < 2:
            raise OSError("again")

    text = """
nodes:
  - id: weak
    path: weak.py
    restart_policy: on-failure
    restart_delay: 10
"""
    flow = run_dataflow(text, nodes={"weak": weak})
    assert starts == [(0, 0), (10, 1), (30, 2)]
    assert flow.result.ok


RESTARTED = """
nodes:
  - id: source
    path: source.py
    inputs: {tick: dora/timer/millis/100}
    outputs: [number]
  - id: weak
    path: weak.py
    inputs: {number: {source: source/number, queue_size: 100}}
    restart_policy: on-failure
    max_restarts: 1
    restart_delay: 0.003
"""


@pytest.mark.parametrize("delay", [0.003, 0.004, 0.005, 0.008, 0.017])
def test_any_delay_of_a_restart_ends(delay: float) -> None:
    starts = []

    def weak(node: Node) -> None:
        starts.append(time.monotonic() - 1000)
        if not node.is_restart():
            raise OSError("again")

    text = RESTARTED.replace("0.003", str(delay))
    assert run_dataflow(text, nodes={"source": count(1), "weak": weak}).result.ok
    assert starts == pytest.approx([0, delay])


def test_a_restarted_node_fails_by_what_its_last_process_did() -> None:
    def weak(node: Node) -> None:
        if not node.is_restart():
            print("of the first process", file=sys.stderr)
            raise OSError("again")
        sys.exit(3)

    with pytest.raises(DataflowFailed):
        run_dataflow(RESTARTED, nodes={"source": count(1), "weak": weak})
    flow = run_dataflow(RESTARTED, nodes={"source": count(1), "weak": weak}, check=False)
    (failure,) = flow.result.failures
    assert failure.exit_code == 3
    assert failure.last_lines == ()


def test_a_process_that_has_ended_gets_no_more_messages() -> None:
    def weak() -> None:
        node = Node()
        if not node.is_restart():
            raise OSError("again")
        list(node)

    with VirtualDataflow(RESTARTED, nodes={"weak": weak}, play=["source"]) as flow:
        (receivers,) = flow._daemon._engine._services.values()
        assert len(receivers) == 1  # the messages are kept for the test
        flow.advance(1)
        assert len(receivers) == 2
        flow.stop()


def test_messages_to_a_restarted_node_count_until_it_ends() -> None:
    def weak(node: Node) -> None:
        next(event for event in node if event["type"] == "INPUT")
        if not node.is_restart():
            raise OSError("again")
        time.sleep(0.35)

    flow = run_dataflow(RESTARTED, nodes={"source": count(10), "weak": weak})
    (link,) = flow.result.links
    assert (link.sent, link.received) == (5, 2)


def test_a_script_that_is_restarted_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "weak.py").write_text(
        "import dora\n"
        "assert 'seen' not in globals()\n"
        "seen = True\n"
        "if dora.Node().restart_count() == 0:\n"
        "    raise OSError('again')\n"
    )
    text = "nodes:\n  - id: weak\n    path: weak.py\n    restart_policy: on-failure\n"
    assert run_dataflow(text, working_dir=tmp_path).result.ok


def test_a_node_that_fails_before_it_is_ready_breaks_the_start() -> None:
    def broken() -> None:
        raise ImportError("no such model")

    with pytest.raises(ImportError, match="no such model"):
        run_dataflow(CHAIN, nodes={"source": count(3), "double": broken})
    with pytest.raises(ImportError, match="no such model"):
        VirtualDataflow(CHAIN, nodes={"double": broken}, play=["source"])


class Twice:
    def on_event(self, dora_event: Any, send_output: Any) -> DoraStatus:
        if dora_event["type"] == "INPUT":
            send_output("twice", pa.array([2 * dora_event["value"][0].as_py()]))
        return DoraStatus.CONTINUE


def test_operators_of_a_runtime_can_be_classes() -> None:
    text = """
nodes:
  - id: source
    path: source.py
    outputs: [number]
  - id: maths
    operators:
      - id: one
        python: one.py
        inputs: {number: source/number}
        outputs: [twice]
      - id: two
        python: two.py
        inputs: {number: maths/one/twice}
        outputs: [twice]
"""

    def source(node: Node) -> None:
        node.send_output("number", pa.array([10]))

    flow = run_dataflow(text, nodes={"source": source, "maths": {"one": Twice, "two": Twice}})
    assert [sent.value.to_pylist() for sent in flow.outputs["maths/two/twice"]] == [[40]]
    assert [sent.value.to_pylist() for sent in flow.outputs["maths/one/twice"]] == [[20]]


def test_services_work_in_virtual_time() -> None:
    text = """
nodes:
  - id: client
    path: client.py
    inputs: {response: server/response}
    outputs: [request]
  - id: server
    path: server.py
    inputs: {request: client/request}
    outputs: [response]
"""
    answers = []

    def server(node: Node) -> None:
        for event in node:
            if event["type"] == "INPUT":
                time.sleep(2)
                node.send_service_response("response", pa.array([7]), event["metadata"])

    def client(node: Node) -> None:
        answers.append(node.call("request", b"", timeout=5).wait().value.to_pylist())
        with pytest.raises(dora.CallTimedOut):
            node.call("request", b"", timeout=1).wait()

    flow = run_dataflow(text, nodes={"client": client, "server": server})
    assert answers == [[7]]
    assert flow.time == pytest.approx(4)


def test_a_dynamic_node_joins_from_the_test() -> None:
    with VirtualDataflow(CHAIN, nodes={"source": count(100), "double": double}) as flow:
        flow.advance(0.25)
        with Node("sink") as sink:
            event = sink.next()
            assert event is not None
            assert event["value"].to_pylist() == [6]
        flow.stop()


def test_a_dynamic_node_may_leave_and_come_back() -> None:
    with VirtualDataflow(CHAIN, nodes={"source": count(100), "double": double}) as flow:
        for _ in range(2):
            with Node("sink") as sink:
                event = sink.next()
                assert event is not None
                assert event["type"] == "INPUT"
        flow.stop()


def test_a_node_of_a_process_that_has_ended_gets_nothing_more() -> None:
    left = []

    def leaves() -> None:
        left.append(Node())

    with VirtualDataflow(CHAIN, nodes={"source": leaves, "double": double}) as flow:
        flow.advance(0.5)
        begun = flow.time
        event = left[0].next(timeout=10)
        assert event is not None
        assert event["error"] == "the daemon is gone; the dataflow has ended"
        assert flow.time == begun


def test_a_node_with_threads_runs_at_the_pace_of_the_real_clock() -> None:
    def threaded(node: Node) -> None:
        done = threading.Event()

        def work() -> None:
            node.send_output("number", b"from a thread")
            done.set()

        threading.Thread(target=work).start()
        for event in node:
            if done.is_set() or event["type"] == "STOP":
                break

    flow = run_dataflow(CHAIN, nodes={"source": threaded, "double": lambda: list(Node())})
    assert flow.outputs["source/number"][0].data == b"from a thread"


def test_mistakes_are_reported_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(dora.DoraError, match=r"no node `sauce`; did you mean `source`?"):
        VirtualDataflow(CHAIN, nodes={"sauce": double})
    with pytest.raises(dora.DoraError, match="give something instead of it"):
        VirtualDataflow(CHAIN)
    with pytest.raises(DataflowError, match="there is no node `b`"):
        VirtualDataflow("nodes:\n  - id: a\n    path: a.py\n    inputs: {x: b/y}\n")
    with pytest.raises(dora.DoraError, match="there is no file"):
        VirtualDataflow(CHAIN, nodes={"source": tmp_path / "none.py", "double": double})
    with VirtualDataflow(CHAIN, nodes={"double": double}, play=["source"]) as flow:
        with pytest.raises(dora.DoraError, match="does not play `sink`"):
            flow.node("sink")
        with pytest.raises(dora.DoraError, match="another virtual dataflow is open"):
            VirtualDataflow(CHAIN)
        with pytest.raises(ValueError, match="at least 0"):
            flow.advance(-1)


@pytest.mark.lengthy
def test_a_deadlock_is_reported() -> None:
    text = """
nodes:
  - id: a
    path: a.py
    inputs: {x: b/y}
    outputs: [y]
  - id: b
    path: b.py
    inputs: {x: a/y}
    outputs: [y]
"""

    def wait(node: Node) -> None:
        list(node)

    with pytest.raises(VirtualTimeError, match=r"nothing can happen any more: a waits for its inputs `x`"):
        run_dataflow(text, nodes={"a": wait, "b": wait})


@pytest.mark.lengthy
def test_a_node_that_never_waits_is_named_and_left_behind(tmp_path: Path) -> None:
    release, ended = threading.Event(), threading.Event()

    def busy() -> None:
        try:
            Node()
            release.wait()
            time.sleep(1)  # of the real clock by now, or not at all
        finally:
            ended.set()

    before = os.getcwd()
    # After that, a turn of the others takes milliseconds.
    assert run_dataflow(CHAIN, nodes={"source": count(1), "double": double}).result.ok
    with pytest.raises(VirtualTimeError, match=r"double has kept running for 1 s.*\n.*busy"):
        run_dataflow(CHAIN, nodes={"source": count(1), "double": busy}, patience=1.0, working_dir=tmp_path)
    assert os.getcwd() == before
    release.set()
    assert ended.wait(60)
    assert run_dataflow(CHAIN, nodes={"source": count(1), "double": double}).result.ok


def test_an_interrupt_of_the_test_ends_the_dataflow() -> None:
    started = threading.Event()

    def busy() -> None:
        Node()
        started.set()
        while not interrupted.is_set():
            pass

    def interrupt() -> None:
        started.wait()
        os.kill(os.getpid(), signal.SIGINT)

    interrupted = threading.Event()
    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        run_dataflow(CHAIN, nodes={"source": count(1), "double": busy})
    interrupted.set()
    helper.join()
    assert run_dataflow(CHAIN, nodes={"source": count(1), "double": double}).result.ok
