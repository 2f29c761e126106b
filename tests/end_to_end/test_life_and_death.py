"""How nodes start, end, fail and come back, and what the others learn of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from flow import Flow, link
from shared_template import left_by_runs
from waiting import TIMEOUT, alive, wait_until

import dora
from dora import DataflowFailed, Node
from dora.daemon import mutual_waits
from dora.daemon.logs.entry import LogEntry
from dora.daemon.report import loss_report
from dora.wire.counters import RESTART_LOSS

pytestmark = pytest.mark.processes

PRINTER = """
    from dora import Node
    for event in Node():
        text = event["data"].decode() if event["type"] == "INPUT" else event["id"]
        print(event["type"], text)
"""

SETTLED = """
    import gc
    import sys
    from dora import Node

    class Cycle:
        def __init__(self):
            self.me = self
        def __del__(self):
            print("collected")

    Cycle()
    gc.collect()
    print(gc.get_freeze_count() > 1000, "pyarrow" in sys.modules)
    for event in Node():
        break
"""


def test_imported_objects_are_exempt_from_garbage_collection(
    flow: Flow,
) -> None:
    flow.node("clock", SETTLED, inputs={"tick": "dora/timer/millis/1"}, outputs=["out"])
    flow.node("receiver", SETTLED, inputs={"out": "clock/out"})
    flow.run(preload=False)
    assert flow.printed("clock") == ["collected", "True False"]  # timers need no pyarrow
    assert flow.printed("receiver") == ["collected", "True True"]


def test_the_first_message_of_a_source_does_not_import_pandas(flow: Flow) -> None:
    flow.file("pandas.py", "print('pandas is imported', flush=True)\nraise ImportError('not a real one')")
    flow.node(
        "source",
        """
        import pyarrow as pa
        from dora import Node
        node = Node()
        print("ready", flush=True)
        node.send_output("out", pa.array([1]))
        print("sent", flush=True)
        """,
        outputs=["out"],
    )
    flow.run(preload=False)  # the template has looked for pandas before
    lines = flow.printed("source")
    assert lines[0] == "pandas is imported"
    assert lines[-2:] == ["ready", "sent"]


FAILURES = {
    "exception": "raise ValueError('mine')",
    "in a function": "def main():\n    node = first\n    raise ValueError('mine')\nmain()",
    "exit in a function": (
        "import sys\ndef main():\n    global first\n    node = first\n    del first\n    sys.exit(3)\n"
        "main()"
    ),
    "with": "with first:\n    raise ValueError('mine')",
    "exit": "import sys; sys.exit(3)",
    "os._exit": "import os; os._exit(3)",
    "kill": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
}


def expect_failure_before_closing(flow: Flow) -> None:
    """Run ``victim``, which sends once and fails, and ``survivor``, which prints what it gets."""
    flow.node("survivor", PRINTER, inputs={"in": "victim/out"})
    with pytest.raises(DataflowFailed, match="victim"):
        flow.run()
    # The status of nodes comes at once, data in their order.
    lines = flow.printed("survivor")
    assert sorted(lines[:2]) == ["INPUT last", "NODE_FAILED victim"]
    assert lines[2:] == ["INPUT_CLOSED in", "STOP ALL_INPUTS_CLOSED"]


@pytest.mark.parametrize("way", FAILURES)
def test_receivers_learn_of_every_kind_of_failure_before_the_closing(
    flow: Flow, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine that is busy may take long to end a process which has closed its node.
    monkeypatch.setattr("dora.daemon.supervisor.closing.CLOSING_HOLD", TIMEOUT)
    flow.node(
        "victim",
        "from dora import Node\nfirst = Node()\nfirst.send_output('out', b'last')\n" + FAILURES[way],
        outputs=["out"],
    )
    expect_failure_before_closing(flow)


def test_a_slow_end_of_a_failed_process_does_not_close_its_outputs_first(flow: Flow) -> None:
    flow.node(
        "victim",
        """
        import atexit, sys, time
        from dora import Node
        atexit.register(time.sleep, 1.5)  # as libraries do that give a device back
        def main():
            node = Node()
            node.send_output("out", b"last")
            sys.exit(3)
        main()
        """,
        outputs=["out"],
    )
    expect_failure_before_closing(flow)


@pytest.mark.both_ways
def test_the_failure_of_an_operator_comes_before_the_closing_of_its_outputs(flow: Flow) -> None:
    flow.file(
        "op.py",
        """
        class Operator:
            def on_event(self, dora_event, send_output):
                send_output("out", b"last")
                raise ValueError("mine")
        """,
    )
    flow.node("sender", "from dora import Node\nNode().send_output('out', b'x')", outputs=["out"])
    flow.node(
        "host",
        operators=[{"id": "op", "python": "op.py", "inputs": {"in": "sender/out"}, "outputs": ["out"]}],
    )
    flow.node("survivor", PRINTER, inputs={"in": "host/op/out"})
    with pytest.raises(DataflowFailed) as raised:
        flow.run()
    assert "ValueError: mine" in str(raised.value)
    lines = flow.printed("survivor")
    assert sorted(lines[:2]) == ["INPUT last", "NODE_FAILED host"]
    assert lines[2:] == ["INPUT_CLOSED in", "STOP ALL_INPUTS_CLOSED"]


def test_receivers_learn_that_a_sender_was_killed_under_traffic(flow: Flow, engine: str) -> None:
    flow.node(
        "victim",
        """
        import os
        from dora import Node
        node = Node()
        while True:
            node.send_output("out", os.getpid().to_bytes(4, "little"))
        """,
        outputs=["out"],
    )
    flow.node(
        "killer",
        """
        import os, signal
        from dora import Node
        node = Node()
        os.kill(int.from_bytes(node.next()["data"], "little"), signal.SIGKILL)
        print([event["type"] for event in node if event["type"] != "INPUT"])
        """,
        inputs={"in": "victim/out"},
    )
    flow.node(
        "other",
        """
        from dora import Node
        print([event["type"] for event in Node() if event["type"] != "INPUT"])
        """,
        inputs={"in": {"source": "victim/out", "queue_policy": "backpressure"}},
    )
    with pytest.raises(DataflowFailed, match="SIGKILL"):
        flow.run()
    for name in ("killer", "other"):
        assert flow.printed(name) == ["['NODE_FAILED', 'INPUT_CLOSED', 'STOP']"], engine


def test_a_receiver_that_is_killed_does_not_hold_its_sender(flow: Flow) -> None:
    flow.node(
        "sender",
        """
        from dora import Node
        node = Node()
        for number in range(100):
            node.send_output("out", bytes([number]))
        print("sent all")
        """,
        outputs=["out"],
    )
    flow.node(
        "victim",
        """
        import os, signal
        from dora import Node
        node = Node()
        node.next()
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        inputs={"in": {"source": "sender/out", "queue_size": 2, "queue_policy": "backpressure"}},
    )
    with pytest.raises(DataflowFailed, match="victim"):
        flow.run()
    assert flow.printed("sender") == ["sent all"]


@pytest.mark.usefixtures("engine")
def test_messages_lost_by_a_restart_of_the_receiver_are_reported_as_that(flow: Flow) -> None:
    flow.node(
        "sender",
        """
        from dora import Node
        node = Node()
        node.send_output("out", b"the first process takes this")
        while node.next(timeout=0.001)["type"] != "NODE_RESTARTED":
            node.send_output("out", b"")
        node.send_output("out", b"last")
        """,
        inputs={"back": "receiver/back"},
        outputs=["out"],
    )
    flow.node(
        "receiver",
        """
        import os
        from dora import Node
        node = Node()
        node.next()
        if not node.is_restart():
            os._exit(1)
        for event in node:
            pass
        """,
        inputs={"in": {"source": "sender/out", "queue_size": 10_000}},
        outputs=["back"],
        restart_policy="on-failure",
    )
    result = flow.run()
    report = link(result, "sender/out -> receiver/in")
    assert report.sent == report.received + report.dropped
    assert report.count(RESTART_LOSS) == report.dropped > 0
    assert loss_report(result) == (
        f"sender/out -> receiver/in: {report.dropped} messages lost while `receiver` was restarting\n\n"
        "Node `receiver` was restarted 1 time."
    )


@pytest.mark.both_ways
def test_a_source_node_is_restarted_and_its_receivers_stay(flow: Flow) -> None:
    flow.node(
        "source",
        """
        import sys
        from dora import Node
        node = Node()
        node.send_output("out", f"run {node.restart_count()} {node.is_restart()}".encode())
        sys.exit(1 if node.restart_count() < 2 else 0)
        """,
        outputs=["out"],
        restart_policy="on-failure",
    )
    flow.node("receiver", PRINTER, inputs={"in": "source/out"})
    report = link(flow.run(), "source/out -> receiver/in")
    lines = flow.printed("receiver")
    assert [line for line in lines if line.startswith("INPUT ")] == [
        "INPUT run 0 False",
        "INPUT run 1 True",
        "INPUT run 2 True",
    ]
    assert lines.count("NODE_RESTARTED source") == 2
    assert lines[-2:] == ["INPUT_CLOSED in", "STOP ALL_INPUTS_CLOSED"]
    assert (report.sent, report.received) == (3, 3)


def test_a_program_without_a_node_may_feed_nodes(flow: Flow) -> None:
    flow.node("hello", "print('hello', end='')", outputs=["line"], send_stdout_as="line")
    flow.node("printer", PRINTER, inputs={"line": "hello/line"})
    flow.run()
    lines = [line for line in flow.printed("printer") if line]
    assert lines == ["INPUT hello", "INPUT_CLOSED line", "STOP ALL_INPUTS_CLOSED"]


@pytest.mark.both_ways
def test_a_broken_start_is_reported_to_all_nodes_with_the_failed_node(flow: Flow) -> None:
    flow.node("culprit", "raise SystemExit('cannot begin')", outputs=["out"])
    flow.node(
        "waiting",
        """
        from dora import ConnectError, Node
        try:
            Node()
        except ConnectError:
            print("told")
            raise SystemExit(1)
        """,
        inputs={"in": "culprit/out"},
    )
    with pytest.raises(DataflowFailed) as raised:
        flow.run()
    assert "cannot begin" in str(raised.value)
    assert "culprit" in str(raised.value)
    assert flow.printed("waiting") in (["told"], [])  # it may not even have started


def test_stop_after_ends_nodes_that_would_run_for_ever(flow: Flow) -> None:
    flow.node(
        "clock",
        """
        from dora import Node
        node = Node()
        types = {event["type"] for event in node}
        node.send_output("out", b"after the stop")
        print(sorted(types))
        """,
        inputs={"tick": "dora/timer/millis/10"},
        outputs=["out"],
    )
    # It counts from before the node is started, which takes a busy machine its time.
    for seconds in (0.5, 2.0, 8.0, 30.0):
        assert flow.run(stop_after=seconds).ok
        if flow.printed("clock")[-1:] == ["['INPUT', 'STOP']"]:
            break
    assert flow.printed("clock")[-1:] == ["['INPUT', 'STOP']"]


def test_undeclared_outputs_are_in_the_result(flow: Flow) -> None:
    flow.node(
        "sender",
        """
        from dora import Node
        node = Node()
        for _ in range(3):
            node.send_output("imgae", b"x")
        """,
        outputs=["image"],
    )
    assert flow.run().undeclared == {"sender": {"imgae": 3}}
    (warning,) = [entry for entry in flow.entries if entry.level == "warn"]
    assert "did you mean `image`?" in warning.message
    with pytest.raises(DataflowFailed, match="did you mean `image`"):
        flow.run(strict=True)


def test_the_bridge_of_logging_keeps_levels(flow: Flow) -> None:
    flow.node(
        "a",
        """
        import logging
        from dora import Node
        node = Node()
        logging.getLogger("part").warning("careful")
        print("plain")
        """,
    )
    flow.run()
    assert [(entry.level, entry.message, entry.target) for entry in flow.entries] == [
        ("warn", "careful", "part"),
        ("stdout", "plain", None),
    ]


# ------------------------------------------------------------------ dora.run


def test_dora_run_can_be_called_several_times(flow: Flow, capfd: pytest.CaptureFixture[str]) -> None:
    flow.node("a", "from dora import Node\nNode().send_output('out', b'x')", outputs=["out"])
    flow.node("b", PRINTER, inputs={"in": "a/out"})
    ids = {flow.run().dataflow_id for _ in range(3)}
    assert len(ids) == 3
    assert flow.printed("b").count("INPUT x") == 3
    assert capfd.readouterr().err == ""


def test_two_runs_at_once_do_not_meet(flow: Flow) -> None:
    flow.node("a", "from dora import Node\nNode().send_output('out', b'x')", outputs=["out"])
    flow.node("b", PRINTER, inputs={"in": "a/out"})
    path = flow.write()
    results: list[bool] = []

    def run() -> None:
        results.append(dora.run(path, on_log=flow.entries.append).ok)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert results == [True, True]
    assert flow.printed("b").count("INPUT x") == 2


def test_dora_run_works_inside_a_node(flow: Flow) -> None:
    flow.file("inner.py", "from dora import Node\nNode()\nprint('inner')")
    flow.file("inner.yml", "nodes: [{id: inner, path: inner.py}]")
    flow.node("outer", "import dora\nnode = dora.Node()\ndora.run('inner.yml')")
    flow.run()
    assert any("inner" in line for line in flow.printed("outer"))


def test_the_command_names_the_failed_node_and_exits_with_1(flow: Flow) -> None:
    flow.node("a", "from dora import Node\nnode = Node()\nraise ValueError('mine')", outputs=["out"])
    flow.node("b", PRINTER, inputs={"in": "a/out"})
    done = flow.run_command()
    assert done.returncode == 1
    assert "ValueError: mine" in done.stdout + done.stderr
    assert "site-packages" not in done.stderr


# ------------------------------------------------------------------ dynamic nodes


def join(node_id: str) -> Node:
    """Join a dataflow as soon as it is there."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return Node(node_id)
        except dora.ConnectError:
            assert time.monotonic() < deadline, "the dataflow did not start"
            time.sleep(0.01)


DYNAMIC_SOURCE = """
    from dora import Node
    node = Node()
    number = 0
    for event in node:
        if event["type"] == "INPUT" and event["id"] == "done":
            break
        if event["id"] == "tick":
            node.send_output("out", str(number).encode())
            number += 1
"""


def test_a_dynamic_node_joins_from_any_program(flow: Flow) -> None:
    flow.node(
        "source",
        DYNAMIC_SOURCE,
        inputs={"tick": "dora/timer/millis/5", "done": "viewer/done"},
        outputs=["out"],
    )
    flow.node("viewer", path="dynamic", inputs={"in": "source/out"}, outputs=["done"])
    thread = threading.Thread(target=flow.run, kwargs={"stop_after": 4 * TIMEOUT})
    thread.start()
    for _ in range(2):  # it may leave and come back
        with join("viewer") as viewer:
            numbers = [int(viewer.next(TIMEOUT)["data"]) for _ in range(3)]  # type: ignore[index]
            assert numbers == list(range(numbers[0], numbers[0] + 3))
    with join("viewer") as viewer:
        viewer.send_output("done", b"")
        types = [event["type"] for event in viewer if event["type"] != "INPUT"]
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert sorted(types) == ["INPUT_CLOSED", "STOP"]  # the dataflow ends, or its only input closes, first


def test_only_a_free_dynamic_node_can_be_joined(flow: Flow) -> None:
    flow.node(
        "source",
        DYNAMIC_SOURCE,
        inputs={"tick": "dora/timer/millis/5", "done": "viewer/done"},
        outputs=["out"],
    )
    flow.node("viewer", path="dynamic", inputs={"in": "source/out"}, outputs=["done"])
    thread = threading.Thread(target=flow.run, kwargs={"stop_after": 4 * TIMEOUT})
    thread.start()
    with join("viewer") as viewer:
        with pytest.raises(dora.ConnectError, match="source"):
            Node("source")
        with pytest.raises(dora.ConnectError, match="nobody"):
            Node("nobody")
        other = subprocess.run(
            [sys.executable, "-c", "from dora import Node; Node('viewer')"],
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT,
        )
        assert "node `viewer` has joined already, from another process" in other.stderr
        viewer.send_output("done", b"")
    thread.join(TIMEOUT)
    assert not thread.is_alive()


VISITS = {
    "ends": ("node.next()", ["NODE_RESTARTED guest", "INPUT_CLOSED in"]),
    "exits": ("node.next(); raise SystemExit(0)", ["NODE_RESTARTED guest", "INPUT_CLOSED in"]),
    "is interrupted": (
        "import os, signal; os.kill(os.getpid(), signal.SIGINT); node.next(20)",
        ["NODE_RESTARTED guest", "INPUT_CLOSED in"],
    ),
    "fails": ("raise ValueError", ["NODE_RESTARTED guest", "NODE_FAILED guest", "INPUT_CLOSED in"]),
    "dies": (
        "import os; node.next(); os._exit(0)",
        ["NODE_RESTARTED guest", "NODE_FAILED guest", "INPUT_CLOSED in"],
    ),
    "fails in its block and lives on": (
        """
import os, time
try:
    with node:
        raise ValueError
except ValueError:
    while not os.path.exists("closed-2"):  # an input whose source is back at once does not close
        time.sleep(0.01)
    with Node("guest") as again:
        again.next()
""",
        [
            *("NODE_RESTARTED guest", "NODE_FAILED guest", "INPUT_CLOSED in"),
            *("NODE_RESTARTED guest", "INPUT_CLOSED in"),
        ],
    ),
}


@pytest.mark.parametrize("visit", VISITS)
def test_receivers_learn_whether_a_dynamic_node_ended_or_failed(flow: Flow, visit: str) -> None:
    program, expected = VISITS[visit]
    flow.node(
        "host",
        """
        import sys
        from dora import Node
        visits, closed = int(sys.argv[1]), 0
        for event in Node():
            if event["type"] != "INPUT":
                print(event["type"], event["id"])
            if event["type"] == "INPUT_CLOSED":
                closed += 1
                open(f"closed-{closed}", "w").close()
                if closed == visits:
                    break
        """,
        args=str(1 + expected.count("INPUT_CLOSED in")),
        inputs={"in": "guest/out", "tick": "dora/timer/millis/20"},
    )
    flow.node("guest", path="dynamic", inputs={"tick": "dora/timer/millis/20"}, outputs=["out"])
    thread = threading.Thread(target=flow.run, daemon=True)
    thread.start()
    join("guest").close()  # the dataflow runs
    # An input whose source is back at once does not close.
    wait_until((flow.directory / "closed-1").exists, "the first end of the input")
    script = flow.file("guest.py", "from dora import Node\nnode = Node('guest')\n" + program)
    subprocess.run([sys.executable, script], cwd=flow.directory, timeout=TIMEOUT, check=False)
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert flow.printed("host") == ["INPUT_CLOSED in", *expected]
    warned = any("did not say goodbye" in line for line in flow.printed("guest"))
    assert warned == ("NODE_FAILED guest" in expected)


def test_a_script_may_be_a_static_and_a_dynamic_node(flow: Flow) -> None:
    flow.node("viewer", "from dora import Node\nprint(Node('another').id)")
    flow.run()
    assert flow.printed("viewer") == ["viewer"]


# ------------------------------------------------------------------ the death of the daemon


def test_nothing_survives_the_death_of_dora_run(flow: Flow) -> None:
    flow.node(
        "a",
        """
        import os
        from dora import Node
        node = Node()
        open("pid", "w").write(str(os.getpid()))
        os.rename("pid", "pid.ready")
        for event in node:
            pass
        """,
        inputs={"tick": "dora/timer/millis/10"},
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "dora", "run", flow.write()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + TIMEOUT
    try:
        while not (flow.directory / "pid.ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(TIMEOUT)
    pid = int((flow.directory / "pid.ready").read_text())
    while alive(pid):
        assert time.monotonic() < deadline, "the node outlives its dataflow"
        time.sleep(0.005)
    while left_by_runs(flow.root):
        assert time.monotonic() < deadline, "the guardian leaves files"
        time.sleep(0.005)


ECHO = """
from dora import Node
node = Node()
for event in node:
    if event["type"] == "INPUT":
        node.send_output("out", event["value"])
"""


def test_nodes_that_wait_for_each_other_are_named(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutual_waits, "AFTER", 0.2)
    flow.node("ping", ECHO, inputs={"in": "pong/out"}, outputs=["out"])
    flow.node("pong", ECHO, inputs={"in": "ping/out"}, outputs=["out"])
    flow.node("sink", ECHO, inputs={"in": "ping/out"})

    def stop(entry: LogEntry) -> None:
        flow.entries.append(entry)
        if "wait for each other" in entry.message:
            os.kill(os.getpid(), signal.SIGINT)

    dora.run(flow.write(), on_log=stop)
    (warning,) = [entry.message for entry in flow.entries if entry.level == "warn"]
    assert warning == (
        "`ping` and `pong` wait for each other's first message: their inputs come from each other only, "
        "and none of them has sent anything; one has to send first, before its loop or at a timer"
    )
