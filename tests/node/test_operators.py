"""Operators: what they receive, what they answer, what they send, how they fail."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import FakeDaemon, StartFlow, finish
from flows import node, operator, runtime
from waiting import TIMEOUT, wait_until

from dora import DoraStatus, Event, Node
from dora.node.operator import HostedOperator, OperatorError
from dora.transport.board import ASLEEP
from dora.wire.node_config import OperatorConfig
from dora.wire.node_protocol import (
    InputsClosed,
    NodeFailedFrame,
    NodeRestartedFrame,
    OutputsClosed,
    Ready,
    StopDataflow,
    StopFrame,
)

RECORDER = """
    from dora import DoraStatus
    import json

    class Operator:
        def on_event(self, dora_event, send_output):
            event = {key: dora_event[key] for key in ("type", "id", "error") if key in dora_event}
            if dora_event["type"] == "INPUT":
                event["data"] = dora_event["data"].decode()
            if dora_event["type"] == "NODE_FAILED":
                event["affected"] = dora_event["value"]["affected_input_ids"]
            print(json.dumps(event), flush=True)
            return DoraStatus.CONTINUE
"""

ECHO = """
    from dora import DoraStatus

    class Operator:
        def on_event(self, dora_event, send_output):
            if dora_event["type"] == "INPUT":
                send_output("out", dora_event["value"], dora_event["metadata"])
            return DoraStatus.CONTINUE
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(textwrap.dedent(text))
        return name

    return write


class Bench:
    """A source, operators in a runtime of their own process, and a sink."""

    def __init__(self, start_flow: StartFlow, directory: Path) -> None:
        self.start_flow = start_flow
        self.directory = str(directory)
        self.daemon: FakeDaemon
        self.source: Node

    def start(
        self, *operators: Any, sink: str | None = None, descriptor: Any = None, **environment: str
    ) -> Any:
        nodes = [node("source", outputs="out other"), runtime("host", *operators)]
        if sink:
            nodes.append(node("sink", inputs={"in": (sink, {"queue_size": 100})}))
        self.daemon = self.start_flow(*nodes, working_dir=self.directory, descriptor=descriptor)
        self.source = self.daemon.node("source")
        if sink:
            self.sink = self.daemon.node("sink")
        process = self.daemon.start_process("host", None, **environment)
        wait_until(
            lambda: process.poll() is not None or len(self.daemon.heard("host", Ready)) == 1,
            "the runtime to be ready",
        )
        return process

    def end(self) -> None:
        """Let the source end."""
        config = self.daemon.plan.configs["host"]
        inputs = [item.id for item in config.inputs if item.source.startswith("source/")]
        self.daemon.send("host", InputsClosed(inputs))

    def next(self) -> Event:
        event = self.sink.next(timeout=TIMEOUT)
        assert event is not None
        return event


@pytest.fixture
def bench(start_flow: StartFlow, tmp_path: Path) -> Bench:
    return Bench(start_flow, tmp_path)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# ------------------------------------------------------------------ events


@pytest.mark.processes
def test_every_kind_of_event_reaches_the_operator_and_stop_is_last(bench: Bench, write: Any) -> None:
    host = bench.start(operator("op", write("op.py", RECORDER), inputs={"in": "source/out"}))
    bench.source.send_output("out", b"hello")
    bench.daemon.send("host", NodeRestartedFrame("source"))
    assert lines(host.stdout.readline())[0]["type"] in ("INPUT", "NODE_RESTARTED")
    assert lines(host.stdout.readline())[0]["type"] in ("INPUT", "NODE_RESTARTED")
    bench.daemon.send("host", NodeFailedFrame("source", "died", ["op/in"]), InputsClosed(["op/in"]))
    status, out, err = finish(host)
    assert (status, err) == (0, "")
    assert lines(out) == [
        {"type": "NODE_FAILED", "id": "source", "affected": ["in"]},
        {"type": "INPUT_CLOSED", "id": "in"},
        {"type": "STOP", "id": "ALL_INPUTS_CLOSED"},
    ]


@pytest.mark.processes
def test_after_a_manual_stop_the_buffered_come_first(bench: Bench, write: Any) -> None:
    host = bench.start(
        operator(
            "op",
            write(
                "op.py",
                RECORDER.replace(
                    "        def on_event(self, dora_event, send_output):",
                    "        def on_event(self, dora_event, send_output):\n"
                    "            if dora_event.get('data') == b'0': input()",
                ).replace("import json", "import json, os\n    input = lambda: os.read(0, 1)"),
            ),
            inputs={"in": "source/out"},
        )
    )
    for number in range(3):
        bench.source.send_output("out", str(number).encode())
    bench.daemon.stop("host")
    status, out, _ = finish(host)
    assert status == 0
    assert [line.get("data", line["type"]) for line in lines(out)] == ["0", "1", "2", "STOP"]
    assert lines(out)[-1]["id"] == "MANUAL"


@pytest.mark.processes
def test_a_lost_daemon_is_an_error_then_the_end(bench: Bench, write: Any) -> None:
    host = bench.start(operator("op", write("op.py", RECORDER), inputs={"in": "source/out"}))
    bench.daemon.wait_for_sleep("host")
    bench.daemon.disconnect("host")
    _, out, err = finish(host)
    assert "Traceback" not in err
    assert [line["type"] for line in lines(out)] == ["ERROR", "STOP"]


@pytest.mark.processes
def test_an_operator_receives_timers_and_a_stop(bench: Bench, write: Any) -> None:
    host = bench.start(operator("op", write("op.py", RECORDER), inputs={"tick": "dora/timer/millis/5"}))
    first = lines(host.stdout.readline())[0]
    assert (first["type"], first["id"], first["data"]) == ("INPUT", "tick", "")
    bench.daemon.stop("host")
    status, out, _ = finish(host)
    assert status == 0
    assert lines(out)[-1] == {"type": "STOP", "id": "MANUAL"}


@pytest.mark.processes
def test_the_failure_of_a_source_reaches_its_receivers_only(bench: Bench, write: Any) -> None:
    recorder = RECORDER.replace("event = {key", 'event = {"op": self.name, **{key').replace(
        " if key in dora_event}", " if key in dora_event}}"
    )
    named = {
        name: write(
            f"{name}.py", recorder.replace("class Operator:", f"class Operator:\n        name = '{name}'")
        )
        for name in ("a", "b")
    }
    daemon = bench.start_flow(
        node("source", outputs="out"),
        node("second", outputs="out"),
        runtime(
            "host",
            operator("a", named["a"], inputs={"in": "source/out"}),
            operator("b", named["b"], inputs={"in": "second/out"}),
        ),
        working_dir=bench.directory,
    )
    host = daemon.start_process("host")
    wait_until(lambda: len(daemon.heard("host", Ready)) == 1, "the runtime")
    daemon.send(
        "host", NodeRestartedFrame("source"), NodeFailedFrame("second", "died", ["b/in"]), StopFrame()
    )
    status, out, err = finish(host)
    assert (status, err) == (0, "")
    assert [(line["op"], line["type"]) for line in lines(out)] == [
        ("a", "NODE_RESTARTED"),
        ("b", "NODE_FAILED"),
        ("a", "STOP"),
        ("b", "STOP"),
    ]


@pytest.mark.processes
def test_each_operator_stops_when_its_own_inputs_have_closed(bench: Bench, write: Any) -> None:
    file = write("op.py", RECORDER.replace("print(", 'print(id(self) % 97, end=" ");print('))
    host = bench.start(
        operator("a", file, inputs={"in": "source/out"}),
        operator("b", file, inputs={"in": "source/other"}),
    )
    bench.daemon.close_inputs("host", "a/in")
    first = [host.stdout.readline().split(" ", 1) for _ in range(2)]
    assert [json.loads(text)["type"] for _, text in first] == ["INPUT_CLOSED", "STOP"]
    bench.source.send_output("other", b"still here")
    second = host.stdout.readline().split(" ", 1)
    assert json.loads(second[1])["data"] == "still here"
    bench.daemon.close_inputs("host", "b/in")
    assert finish(host)[0] == 0


# ------------------------------------------------------------------ answers


@pytest.mark.processes
def test_stop_ends_the_operator_and_the_last_one_ends_the_runtime(bench: Bench, write: Any) -> None:
    stopper = write(
        "stopper.py",
        """
        from dora import DoraStatus
        class Operator:
            def on_event(self, dora_event, send_output):
                print(dora_event["type"], flush=True)
                return DoraStatus.STOP
        """,
    )
    host = bench.start(
        operator("first", stopper, inputs={"in": "source/out"}, outputs="out"),
        operator("second", stopper, inputs={"in": "source/other"}),
    )
    bench.source.send_output("out", b"x")
    assert host.stdout.readline() == "INPUT\n"
    wait_until(lambda: bench.daemon.heard("host", OutputsClosed) != [], "the closing of its outputs")
    assert bench.daemon.heard("host", OutputsClosed) == [OutputsClosed(["first/out"])]
    bench.source.send_output("out", b"not for an operator that has ended")
    bench.source.send_output("other", b"x")
    assert finish(host) == (0, "INPUT\n", "")


@pytest.mark.processes
def test_stop_all_stops_the_dataflow(bench: Bench, write: Any) -> None:
    file = write(
        "op.py",
        """
        from dora import DoraStatus
        class Operator:
            def on_event(self, dora_event, send_output):
                print(dora_event["type"], flush=True)
                return DoraStatus.STOP_ALL if dora_event["type"] == "INPUT" else DoraStatus.CONTINUE
        """,
    )
    host = bench.start(
        operator("a", file, inputs={"in": "source/out"}), operator("b", file, inputs={"in": "source/other"})
    )
    bench.source.send_output("out", b"x")
    wait_until(lambda: bench.daemon.heard("host", StopDataflow) != [], "the request to stop")
    bench.daemon.stop("host")
    assert finish(host) == (0, "INPUT\nSTOP\n", "")


@pytest.mark.processes
@pytest.mark.parametrize("answer", ["None", "'continue'", "7", "type('S', (), {'value': 9})()"])
def test_an_answer_that_is_no_status(bench: Bench, write: Any, answer: str) -> None:
    file = write(
        "op.py",
        f"class Operator:\n    def on_event(self, dora_event, send_output):\n        return {answer}\n",
    )
    host = bench.start(operator("op", file, inputs={"in": "source/out"}))
    bench.source.send_output("out", b"x")
    status, _, err = finish(host)
    assert status == 1
    assert "operator `op`: on_event must return a DoraStatus" in err
    assert "return DoraStatus.CONTINUE" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("value", [0, 1, 2])
def test_any_object_with_the_value_of_a_status_counts_as_status(
    write: Any, tmp_path: Path, value: int
) -> None:
    file = write(
        "op.py",
        f"""
        class Status:
            value = {value}
        class Operator:
            def on_event(self, dora_event, send_output):
                return Status
        """,
    )
    hosted = HostedOperator(OperatorConfig("op", str(tmp_path / file)))
    hosted.load({}, {})
    assert hosted.handle(Event(), lambda *_: None) is DoraStatus(value)  # type: ignore[arg-type]


def test_the_statuses() -> None:
    assert [(status.name, status.value) for status in DoraStatus] == [
        ("CONTINUE", 0),
        ("STOP", 1),
        ("STOP_ALL", 2),
    ]
    assert DoraStatus["STOP"] is DoraStatus.STOP


# ------------------------------------------------------------------ failures


@pytest.mark.processes
def test_an_exception_shows_the_frames_of_the_user_only(bench: Bench, write: Any) -> None:
    file = write(
        "op.py",
        """
        def helper():
            raise ValueError("mine")
        class Operator:
            def on_event(self, dora_event, send_output):
                helper()
        """,
    )
    host = bench.start(operator("op", file, inputs={"in": "source/out"}))
    bench.source.send_output("out", b"x")
    status, _, err = finish(host)
    assert status == 1
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.endswith("ValueError: mine\n")
    files = [line.strip() for line in err.splitlines() if line.strip().startswith("File ")]
    assert [line.rpartition(" in ")[2] for line in files] == ["on_event", "helper"]
    assert all("op.py" in line for line in files)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("raise KeyError('at import')", "KeyError: 'at import'"),
        ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
        ("class Operator:\n    def __init__(self): 1 / 0", "ZeroDivisionError"),
        ("def broken(:", "SyntaxError"),
        ("class Operator:\n    def __init__(self): len(5)", "TypeError: object of type 'int' has no len()"),
    ],
)
def test_a_file_that_fails_at_import(bench: Bench, write: Any, text: str, expected: str) -> None:
    host = bench.start(operator("op", write("op.py", text), inputs={"in": "source/out"}))
    status, _, err = finish(host)
    assert status == 1
    assert expected in err
    assert "/dora/" not in err
    assert "importlib" not in err


@pytest.mark.processes
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "op.py does not exist"),
        ("x = 1", "has no class `Operator`"),
        ("from dora import Operator", "has no class `Operator`"),
        ("import dora\nclass Operator(dora.Operator): pass", "has no method `on_event("),
        ("class Operator: pass", "has no method `on_event(self, dora_event, send_output)`"),
        ("class Operator:\n    on_event = 5", "has no method `on_event"),
        (
            "class Operator:\n    def __init__(self, x): pass",
            "is made without arguments: Operator.__init__()",
        ),
    ],
)
def test_a_file_that_is_no_operator(bench: Bench, write: Any, text: str | None, expected: str) -> None:
    if text is not None:
        write("op.py", text)
    host = bench.start(operator("op", "op.py", inputs={"in": "source/out"}))
    status, _, err = finish(host)
    assert status == 1
    assert err.startswith("error: operator `op`:")
    assert expected in err
    assert "Traceback" not in err


@pytest.mark.processes
def test_sys_exit_in_an_operator_ends_the_runtime_with_its_status(bench: Bench, write: Any) -> None:
    file = write(
        "op.py",
        "import sys\nclass Operator:\n    def on_event(self, dora_event, send_output): sys.exit(7)\n",
    )
    host = bench.start(operator("op", file, inputs={"in": "source/out"}))
    bench.source.send_output("out", b"x")
    assert finish(host) == (7, "", "")


def test_load_errors_name_the_operator(tmp_path: Path) -> None:
    (tmp_path / "op.txt").write_text("")
    with pytest.raises(OperatorError, match=r"operator `op`: .*op\.txt is not a Python file"):
        HostedOperator(OperatorConfig("op", str(tmp_path / "op.txt"))).load({}, {})


# ------------------------------------------------------------------ loading


@pytest.mark.processes
def test_two_operators_from_one_file_have_their_own_state(bench: Bench, write: Any) -> None:
    file = write(
        "count.py",
        """
        from dora import DoraStatus
        seen = []
        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    seen.append(dora_event["id"])
                    send_output("out", str(len(seen)).encode())
                return DoraStatus.CONTINUE
        """,
    )
    bench.start(
        operator("a", file, inputs={"in": "source/out"}, outputs="out"),
        operator("b", file, inputs={"in": "source/out"}, outputs="out"),
        sink="host/b/out",
    )
    for expected in (b"1", b"2"):
        bench.source.send_output("out", b"x")
        assert bench.next()["data"] == expected


def test_the_descriptor_is_set_after_the_constructor(write: Any, tmp_path: Path) -> None:
    file = write(
        "op.py",
        """
        class Operator:
            def __init__(self):
                self.early = hasattr(self, "dataflow_descriptor")
            def on_event(self, dora_event, send_output):
                raise Exception(self.early, self.dataflow_descriptor)
        """,
    )
    hosted = HostedOperator(OperatorConfig("op", str(tmp_path / file)))
    hosted.load({"nodes": [1]}, {})
    with pytest.raises(Exception, match=r"\(False, \{'nodes': \[1\]\}\)"):
        hosted.handle(Event(), lambda *_: None)  # type: ignore[arg-type]


@pytest.mark.processes
def test_an_operator_may_import_its_neighbours_and_pickle_its_classes(bench: Bench, write: Any) -> None:
    write("neighbour.py", "NAME = 'neighbour'")
    file = write(
        "op.py",
        """
        import pickle
        from dataclasses import dataclass
        from dora import DoraStatus
        from neighbour import NAME

        @dataclass
        class Thing:
            name: str

        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    send_output("out", pickle.loads(pickle.dumps(Thing(NAME))).name.encode())
                return DoraStatus.CONTINUE
        """,
    )
    bench.start(operator("op", file, inputs={"in": "source/out"}, outputs="out"), sink="host/op/out")
    bench.source.send_output("out", b"x")
    assert bench.next()["data"] == b"neighbour"


# ------------------------------------------------------------------ sending


@pytest.mark.processes
def test_messages_of_an_operator_arrive_with_their_metadata(bench: Bench, write: Any) -> None:
    bench.start(
        operator("op", write("echo.py", ECHO), inputs={"in": "source/out"}, outputs="out"),
        sink="host/op/out",
    )
    bench.source.send_output("out", b"hello", {"a": {"b": 1}})
    event = bench.next()
    assert event["data"] == b"hello"
    assert event["metadata"]["a"] == {"b": 1}


@pytest.mark.processes
def test_messages_between_operators_are_passed_by_reference(bench: Bench, write: Any) -> None:
    first = write(
        "first.py",
        """
        import pyarrow as pa
        from dora import DoraStatus
        sent = []
        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    array, metadata = pa.array([1, 2, 3]), {"list": [1]}
                    sent.append(array)
                    send_output("out", array, metadata)
                    metadata["list"].append(2)
                return DoraStatus.CONTINUE
        """,
    )
    second = write(
        "second.py",
        """
        import first
        from dora import DoraStatus
        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    same = dora_event["value"] is first.sent[-1]
                    send_output("out", repr((same, dora_event["metadata"]["list"])).encode())
                return DoraStatus.CONTINUE
        """,
    )
    bench.start(
        operator("first", first, inputs={"in": "source/out"}, outputs="out"),
        operator("second", second, inputs={"in": "host/first/out"}, outputs="out"),
        sink="host/second/out",
    )
    bench.source.send_output("out", b"x")
    assert bench.next()["data"] == b"(True, [1])"


@pytest.mark.processes
def test_bytes_and_numpy_between_operators_arrive_as_arrow(bench: Bench, write: Any) -> None:
    first = write(
        "first.py",
        """
        import numpy as np
        from dora import DoraStatus
        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    array = np.array([1.5, 2.5], np.float32)
                    send_output("out", array)
                    array[:] = 0
                    send_output("out", b"ab")
                return DoraStatus.CONTINUE
        """,
    )
    second = write(
        "second.py",
        """
        from dora import DoraStatus
        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    value = dora_event["value"]
                    seen = (str(value.type), value.to_pylist(), dora_event["data"][:2])
                    send_output("out", repr(seen).encode())
                return DoraStatus.CONTINUE
        """,
    )
    bench.start(
        operator("first", first, inputs={"in": "source/out"}, outputs="out"),
        operator("second", second, inputs={"in": "host/first/out"}, outputs="out"),
        sink="host/second/out",
    )
    bench.source.send_output("out", b"x")
    assert bench.next()["data"] == b"('float', [1.5, 2.5], b'\\x00\\x00')"
    assert bench.next()["data"] == b"('uint8', [97, 98], b'ab')"


@pytest.mark.processes
def test_an_array_keeps_its_shape_between_operators_and_to_nodes(bench: Bench, write: Any) -> None:
    first = write(
        "first.py",
        """
        import numpy as np
        from dora import DoraStatus
        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    send_output("out", np.zeros((2, 4, 3), np.uint8), {"a": 1})
                return DoraStatus.CONTINUE
        """,
    )
    second = write(
        "second.py",
        """
        from dora import DoraStatus
        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    frame = dora_event.numpy()
                    assert len(dora_event["value"]) == 24
                    assert dora_event["metadata"]["width"] == 4
                    send_output("out", frame[:, :, 0] + 1, dora_event["metadata"])
                return DoraStatus.CONTINUE
        """,
    )
    bench.start(
        operator("first", first, inputs={"in": "source/out"}, outputs="out"),
        operator("second", second, inputs={"in": "host/first/out"}, outputs="out"),
        sink="host/second/out",
    )
    bench.source.send_output("out", b"x")
    event = bench.next()
    assert event.numpy().tolist() == [[1] * 4] * 2
    metadata = event["metadata"]
    del metadata["timestamp"]
    assert metadata == {"shape": [2, 4], "a": 1, "width": 4, "height": 2, "encoding": "mono8"}


@pytest.mark.processes
def test_a_chain_of_operators(bench: Bench, write: Any) -> None:
    echo = write("echo.py", ECHO)
    bench.start(
        operator("o0", echo, inputs={"in": "source/out"}, outputs="out"),
        *(operator(f"o{i}", echo, inputs={"in": f"host/o{i - 1}/out"}, outputs="out") for i in range(1, 6)),
        sink="host/o5/out",
    )
    for number in range(5):
        bench.source.send_output("out", bytes([number]), {"n": number})
    for number in range(5):
        event = bench.next()
        assert (event["data"], event["metadata"]["n"]) == (bytes([number]), number)


@pytest.mark.processes
def test_the_end_runs_through_a_chain_after_the_data(bench: Bench, write: Any) -> None:
    host = bench.start(
        operator("echo", write("echo.py", ECHO), inputs={"in": "source/out"}, outputs="out"),
        operator("end", write("end.py", RECORDER), inputs={"in": "host/echo/out"}),
    )
    for number in range(3):
        bench.source.send_output("out", str(number).encode())
    bench.end()
    status, out, err = finish(host)
    assert (status, err) == (0, "")
    assert [line.get("data", line["type"]) for line in lines(out)] == [
        "0",
        "1",
        "2",
        "INPUT_CLOSED",
        "STOP",
    ]


@pytest.mark.processes
def test_a_queue_between_operators_keeps_the_newest_and_counts(bench: Bench, write: Any) -> None:
    burst = write(
        "burst.py",
        """
        from dora import DoraStatus
        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    for number in range(10):
                        send_output("out", str(number).encode())
                return DoraStatus.CONTINUE
        """,
    )
    host = bench.start(
        operator("burst", burst, inputs={"in": "source/out"}, outputs="out"),
        operator("end", write("end.py", RECORDER), inputs={"in": ("host/burst/out", {"queue_size": 3})}),
    )
    bench.source.send_output("out", b"x")
    bench.end()
    _, out, _ = finish(host)
    assert [line["data"] for line in lines(out) if line["type"] == "INPUT"] == ["7", "8", "9"]
    (link,) = [link for link in bench.daemon.plan.links if link.kind == "local"]
    assert (bench.daemon.board.get(link.slot, 0), bench.daemon.board.get(link.slot, 1)) == (3, 7)


@pytest.mark.processes
def test_back_pressure_between_operators_loses_nothing(bench: Bench, write: Any) -> None:
    """They share a thread, so the sender cannot wait: the queue grows instead."""
    burst = write(
        "burst.py",
        """
        from dora import DoraStatus
        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    for number in range(10):
                        send_output("out", str(number).encode())
                return DoraStatus.CONTINUE
        """,
    )
    host = bench.start(
        operator("burst", burst, inputs={"in": "source/out"}, outputs="out"),
        operator(
            "end",
            write("end.py", RECORDER),
            inputs={"in": ("host/burst/out", {"queue_size": 3, "queue_policy": "backpressure"})},
        ),
    )
    bench.source.send_output("out", b"x")
    bench.end()
    _, out, _ = finish(host)
    assert [line["data"] for line in lines(out) if line["type"] == "INPUT"] == list("0123456789")


@pytest.mark.processes
def test_an_undeclared_output_of_an_operator(bench: Bench, write: Any) -> None:
    file = write("op.py", ECHO.replace('"out"', '"ouut"'))
    host = bench.start(operator("op", file, inputs={"in": "source/out"}, outputs="out"))
    bench.source.send_output("out", b"x")
    bench.source.send_output("out", b"x")
    bench.end()
    status, out, err = finish(host)
    assert (status, err) == (0, "")
    (entry,) = lines(out)
    assert entry["level"] == "warn"
    assert entry["message"] == (
        "output `ouut` is not declared for operator `op` of node `host`, did you mean `out`? "
        "(declared: out); its messages are dropped"
    )


@pytest.mark.processes
def test_strict_fail_the_operator(bench: Bench, write: Any) -> None:
    file = write("op.py", ECHO.replace('"out"', '"ouut"'))
    host = bench.start(operator("op", file, inputs={"in": "source/out"}, outputs="out"), DORA_STRICT="1")
    bench.source.send_output("out", b"x")
    status, _, err = finish(host)
    assert status == 1
    assert "did you mean `out`?" in err


@pytest.mark.processes
def test_sending_from_a_thread_of_the_operators_own(bench: Bench, write: Any) -> None:
    file = write(
        "op.py",
        """
        import threading
        from dora import DoraStatus

        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    go.wait(60)
                    threading.Thread(target=self.work, args=(send_output,)).start()
                return DoraStatus.CONTINUE

            def work(self, send_output):
                for number in range(3):
                    send_output("out", bytes([number]))

        go = threading.Event()
        go.set()
        """,
    )
    bench.start(
        operator("op", file, inputs={"in": "source/out"}, outputs="out"),
        operator("echo", write("echo.py", ECHO), inputs={"in": "host/op/out"}, outputs="out"),
        sink="host/echo/out",
    )
    for _ in range(5):
        bench.source.send_output("out", b"x")
        assert [bench.next()["data"][0] for _ in range(3)] == [0, 1, 2]
        wait_until(
            lambda: bench.daemon.board.get(bench.daemon.plan.configs["host"].node_slot, ASLEEP) == 1,
            "the runtime to sleep",
        )


@pytest.mark.processes
def test_messages_sent_on_stop_still_arrive(bench: Bench, write: Any) -> None:
    file = write(
        "op.py",
        """
        from dora import DoraStatus
        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "STOP":
                    send_output("out", b"last message")
                return DoraStatus.CONTINUE
        """,
    )
    host = bench.start(operator("op", file, inputs={"in": "source/out"}, outputs="out"), sink="host/op/out")
    bench.end()
    assert finish(host)[0] == 0
    assert bench.next()["data"] == b"last message"


@pytest.mark.processes
def test_messages_of_an_ending_operator_reach_others_of_its_runtime(bench: Bench, write: Any) -> None:
    file = write(
        "op.py",
        """
        from dora import DoraStatus
        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "STOP":
                    send_output("out", b"last message")
                return DoraStatus.CONTINUE
        """,
    )
    host = bench.start(
        operator("op", file, inputs={"in": "source/out"}, outputs="out"),
        operator("end", write("end.py", RECORDER), inputs={"in": "host/op/out"}),
    )
    bench.end()
    _, out, _ = finish(host)
    assert [line.get("data", line["type"]) for line in lines(out)] == [
        "last message",
        "INPUT_CLOSED",
        "STOP",
    ]
