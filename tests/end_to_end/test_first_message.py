"""The first message of each kind imports nothing: that is done before all nodes are ready."""

from __future__ import annotations

import ast

import pytest
from flow import Flow

pytestmark = pytest.mark.processes

# Knows what is imported, and when. The epoch of a node is the time when all nodes were ready.
WATCH = """
    import sys, time

    imports = []

    def watch(event, arguments):
        if event == "import":
            imports.append((time.monotonic_ns(), arguments[0]))

    sys.addaudithook(watch)

    def report(node):
        epoch = node._session.inbox.epoch_ns
        print("late", sorted({name for when, name in imports if when > epoch and name in sys.modules}))
"""

SENDER = """
    import watch
    import numpy as np
    import pyarrow as pa
    from dora import Node

    node = Node()
    for make in (
        lambda: b"bytes",
        lambda: bytearray(3),
        lambda: np.zeros(3, np.float32),
        lambda: np.zeros(6, np.int16)[::2],
        lambda: np.zeros(3, bool),
        lambda: np.array(["a", "bc"]),
        lambda: np.zeros(3, [("x", "f4"), ("y", "f4")]),
        lambda: pa.array([1, 2]),
        lambda: pa.array(np.zeros(3)),
        lambda: pa.array([1, None]),
        lambda: pa.array(["a", "bc"]),
        lambda: pa.array([{"x": 1, "y": "z"}]),
        lambda: pa.array([[1], [2, 3]]),
        lambda: pa.array([]),
        lambda: pa.nulls(1),
        lambda: pa.chunked_array([[1], [2]]),
        lambda: pa.table({"x": [1]}),
        lambda: pa.array(range(10_000)),
        lambda: pa.array(["abcdefgh" * 10] * 1000),
    ):
        node.send_output("out", make(), {"text": "x", "list": [1, 2.5], "inner": {"flag": True}})
    with node.loan("out", 100, "float32") as array:
        array[:] = 1
    with node.send_output_raw("out", 100) as buffer:
        buffer[0] = 1
    node.send_output("typed", np.zeros(1, np.float32))
    watch.report(node)
"""

RECEIVER = """
    import watch
    from dora import Node

    node = Node()
    received = 0
    for event in node:
        if event["type"] == "INPUT":
            event["value"], event["metadata"], event["data"], event["value"].to_pylist(), event.numpy()
            received += 1
    print("received", received)
    watch.report(node)
"""


def printed(output: str, node_id: str, word: str) -> object:
    """Return what a node printed after a word, from the output of ``dora run --log-format compact``."""
    (line,) = [line for line in output.splitlines() if f"{node_id}: " in line and f" {word} " in line]
    return ast.literal_eval(line.partition(f" {word} ")[2])


def run(flow: Flow, *arguments: str, command: str = "run") -> str:
    flow.file("watch.py", WATCH)
    done = flow.run_command("--log-format", "compact", *arguments, command=command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["run", "run --trace", "run --engine shm", "record --output recording.mcap"]
)
def test_a_first_message_of_any_kind_imports_nothing(
    flow: Flow, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(flow.directory)  # where the recording goes
    monkeypatch.setenv("DORA_RUNTIME_TYPE_CHECK", "warn")
    typed = "std/core/v1/Float32"
    flow.node("sender", SENDER, outputs=["out", "typed"], output_types={"typed": typed})
    everything = {"source": "sender/out", "queue_size": 100}
    inputs = {"in": everything, "typed": "sender/typed"}
    flow.node("receiver", RECEIVER, inputs=inputs, input_types={"typed": typed})
    name, *arguments = command.split()
    output = run(flow, *arguments, command=name)
    assert printed(output, "receiver", "received") == 22
    assert printed(output, "sender", "late") == []
    assert printed(output, "receiver", "late") == []


def test_bytes_and_numbers_of_numpy_need_no_pyarrow(flow: Flow) -> None:
    flow.node(
        "sender",
        """
        import watch, sys
        import numpy as np
        from dora import Node

        node = Node()
        node.send_output("out", b"bytes", {"text": "x"})
        node.send_output("out", np.zeros(3))
        with node.loan("out", 100, "float32") as array:
            array[:] = 1
        watch.report(node)
        print("pyarrow", "pyarrow" in sys.modules)
        """,
        outputs=["out"],
    )
    flow.node("receiver", RECEIVER, inputs={"in": "sender/out"})
    output = run(flow, "--no-preload")  # the template has pyarrow
    assert printed(output, "sender", "late") == []
    assert printed(output, "sender", "pyarrow") is False


def test_the_first_check_of_a_numpy_array_imports_nothing(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_RUNTIME_TYPE_CHECK", "error")
    flow.node(
        "sender",
        """
        import watch
        import numpy as np
        from dora import Node

        node = Node()
        node.send_output("out", np.zeros(1, np.float32))
        watch.report(node)
        """,
        outputs=["out"],
        output_types={"out": "std/core/v1/Float32"},
    )
    assert printed(run(flow), "sender", "late") == []


def test_a_first_request_and_a_first_goal_import_nothing(flow: Flow) -> None:
    flow.node(
        "client",
        """
        import watch
        from dora import Node

        node = Node()
        print("response", bytes(node.call("request", b"ab", timeout=20).wait()["data"]))
        goal = node.send_goal("goal", b"cd", timeout=20)
        print("result", [bytes(event["data"]) for event in goal], bytes(goal.result()["data"]))
        watch.report(node)
        """,
        inputs={name: f"server/{name}" for name in ("response", "feedback", "result")},
        outputs=["request", "goal", "cancel"],
    )
    flow.node(
        "server",
        """
        import watch
        from dora import Node

        node = Node()

        @node.serve("request", "response")
        def answer(request):
            return request["data"].upper()

        @node.serve_goals("goal", "result", "feedback")
        def work(run):
            run.send_feedback(b"half")
            return b"whole"

        for event in node:
            pass
        watch.report(node)
        """,
        inputs={name: f"client/{name}" for name in ("request", "goal")},
        outputs=["response", "feedback", "result"],
    )
    output = run(flow)
    assert printed(output, "client", "response") == b"AB"
    assert "[b'half'] b'whole'" in output
    assert printed(output, "client", "late") == []
    assert printed(output, "server", "late") == []


def test_a_first_message_between_operators_imports_nothing(flow: Flow) -> None:
    flow.file(
        "relay.py",
        """
        import sys, time
        import watch
        import numpy as np
        from dora import DoraStatus

        ready = []

        class Operator:
            def on_event(self, event, send_output):
                if event["type"] == "INPUT":
                    ready.append(time.monotonic_ns())
                    event["value"], event["metadata"], event["data"]
                    send_output("out", np.zeros(2, bool), {"text": "x"})
                    late = {name for when, name in watch.imports if when > ready[0] and name in sys.modules}
                    print("late", sorted(late))
                return DoraStatus.CONTINUE
        """,
    )
    flow.node("sender", SENDER, outputs=["out", "typed"])
    operators = [
        {"id": "a", "python": "relay.py", "inputs": {"in": "sender/typed"}, "outputs": ["out"]},
        {"id": "b", "python": "relay.py", "inputs": {"in": "runtime/a/out"}, "outputs": ["out"]},
    ]
    flow.node("runtime", operators=operators)
    flow.node("receiver", RECEIVER, inputs={"in": "runtime/b/out"})
    output = run(flow)
    assert printed(output, "receiver", "received") == 1
    assert printed(output, "receiver", "late") == []
    lines = [line for line in output.splitlines() if "runtime" in line and " late " in line]
    assert [line.rpartition(" late ")[2] for line in lines] == ["[]", "[]"]


def test_arrow_imports_pandas_before_any_message(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = """
        import time
        from types import SimpleNamespace as Namespace

        print("pandas", time.monotonic_ns(), flush=True)
        time.sleep(0.2)
        __version__ = "2.3.0"
        DataFrame = Series = Index = Categorical = type("Frame", (), {})
        api = Namespace(
            extensions=Namespace(ExtensionArray=DataFrame, ExtensionDtype=DataFrame),
            types=Namespace(is_extension_array_dtype=lambda dtype: False, DatetimeTZDtype=DataFrame),
        )
    """
    (flow.directory / "slow").mkdir()
    flow.file("slow/pandas.py", slow)
    monkeypatch.setenv("PYTHONPATH", str(flow.directory / "slow"))
    uses_arrow = """
        import time
        import pyarrow as pa
        from dora import Node

        node = Node()
        print("ready", time.monotonic_ns())
        pa.array([1, 2]), pa.array(["x"])
        node.send_output("out", pa.array([3]))
    """
    flow.node("sender", uses_arrow, outputs=["out"])
    flow.node("receiver", uses_arrow, inputs={"in": "sender/out"}, outputs=["out"])
    flow.node("camera", "from dora import Node\nNode().send_output('out', b'x')\n", outputs=["out"])
    output = run(flow, "--no-preload")
    for node_id in ("sender", "receiver"):
        imported, ready = (printed(output, node_id, word) for word in ("pandas", "ready"))
        assert isinstance(imported, int)
        assert isinstance(ready, int)
        assert imported < ready
    assert output.count("pandas ") == 2


def test_reading_the_first_message_copies_hardly_any_memory_of_the_template(flow: Flow) -> None:
    """A fork copies a page when it first writes to it; eight and more were copied here before."""
    flow.node(
        "sender",
        """
        import pyarrow as pa
        from dora import Node

        Node().send_output("out", pa.array([1, 2, 3]), {"number": 1})
        """,
        outputs=["out"],
    )
    flow.node(
        "receiver",
        """
        import resource
        import pyarrow as pa
        from dora import Node

        def faults():
            return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt

        for event in Node():
            faults()
            before = faults()
            if event["type"] == "INPUT":
                event["value"], event["metadata"]["number"]
                print("faults", faults() - before)
        """,
        inputs={"in": "sender/out"},
    )
    found = printed(run(flow, "--preload"), "receiver", "faults")
    assert isinstance(found, int)
    assert found <= 5
