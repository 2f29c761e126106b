"""Services, actions, streams and parameters between real processes, with each engine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest
from flow import Flow, link
from waiting import TIMEOUT

from dora import DataflowFailed

pytestmark = pytest.mark.processes

ADDER = """
    import pyarrow as pa
    from dora import Node

    node = Node()

    @node.serve("request", "response")
    def add(request):
        return pa.array([request["value"][0].as_py() + 1])

    for event in node:
        pass
"""

# A server that answers the first request and dies of the second.
MORTAL = """
    import os, signal
    from dora import Node

    node = Node()
    for event in node:
        if event["type"] == "INPUT":
            if event["data"] == b"die" and not node.is_restart():
                os.kill(os.getpid(), signal.SIGKILL)
            node.send_service_response("response", event["data"], event["metadata"])
"""


def client(flow: Flow, script: str) -> None:
    flow.node("client", script, inputs={"response": "server/response"}, outputs=["request"])


def server(flow: Flow, script: str, **fields: object) -> None:
    flow.node("server", script, inputs={"request": "client/request"}, outputs=["response"], **fields)


def test_hundreds_of_concurrent_calls_are_all_answered(flow: Flow, engine: str) -> None:
    server(flow, ADDER, pattern="service-server")
    client(
        flow,
        """
        import pyarrow as pa
        from dora import Node

        node = Node()
        calls = [node.call("request", pa.array([n]), timeout=60) for n in range(300)]
        print(sum(call.wait()["value"][0].as_py() - n for n, call in enumerate(calls)))
        """,
    )
    result = flow.run()
    assert flow.printed("client") == ["300"]
    assert link(result, "client/request -> server/request").dropped == 0, engine
    assert link(result, "server/response -> client/response").dropped == 0


def test_requests_are_not_pushed_out_of_a_full_queue_without_a_pattern(flow: Flow, engine: str) -> None:
    flow.node(
        "sender",
        """
        import sys
        import pyarrow as pa
        from dora import Node

        keys = ["request_id", "goal_id", "goal_status"]
        node = Node()
        for number in range(600):
            metadata = {keys[number % 3]: "r"} if number % 7 == 0 else {"number": number}
            node.send_output("out", pa.array([number] * (20_000 if number % 2 else 1)), metadata)
        open("sent", "w").close()
        """,
        outputs=["out"],
    )
    flow.node(
        "receiver",
        """
        import os, time
        from dora import Node

        node = Node()
        deadline = time.monotonic() + 60
        while not os.path.exists("sent"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        got = [event["value"][0].as_py() for event in node if event["type"] == "INPUT"]
        assert got == sorted(set(got)), got
        print(sorted({*range(0, 600, 7), 599} - {*got}), len(got) < 400)
        """,
        inputs={"in": {"source": "sender/out", "queue_size": 3}},
    )
    result = flow.run()
    assert flow.printed("receiver") == ["[] True"], engine
    counts = link(result, "sender/out -> receiver/in")
    assert (counts.sent, counts.unread) == (600, 0)


def test_a_server_that_is_killed_fails_its_calls_at_once(flow: Flow, engine: str) -> None:
    server(flow, MORTAL)
    client(
        flow,
        """
        from dora import CallFailed, Node

        node = Node()
        print(node.call("request", b"hello").wait()["data"])
        for data in (b"die", b"too late"):
            try:
                node.call("request", data).wait()
            except CallFailed as error:
                print(error)
        print([event["type"] for event in node])
        """,
    )
    with pytest.raises(DataflowFailed, match="server"):
        flow.run()
    first, died, late, events = flow.printed("client")
    assert first == "b'hello'"
    assert died == "the call on `request` has no answer: node `server` has ended"
    assert "has no answer" in late, engine
    assert events == "['NODE_FAILED', 'INPUT_CLOSED', 'STOP']"


def test_a_server_that_comes_back_answers_the_next_call(flow: Flow, engine: str) -> None:
    server(flow, MORTAL, restart_policy="on-failure")
    client(
        flow,
        """
        from dora import CallFailed, Node

        node = Node()
        try:
            node.call("request", b"die").wait()
        except CallFailed as error:
            print(error)
        print(node.next()["type"])
        print(node.call("request", b"again", timeout=60).wait()["data"])
        """,
    )
    flow.run()
    assert flow.printed("client") == [
        "the call on `request` has no answer: node `server` was restarted before it answered",
        "NODE_RESTARTED",
        "b'again'",
    ], engine


def test_a_goal_succeeds_during_a_stop(flow: Flow, engine: str) -> None:
    flow.node(
        "server",
        """
        from dora import Node

        node = Node()

        @node.serve_goals("goal", result="result", feedback="feedback")
        def work(goal):
            goal.send_feedback(b"begun")
            goal.wait_for_cancel(60)
            print("canceled" if goal.cancel_requested else "not canceled", flush=True)
            goal.cancel()

        for event in node:
            pass
        print("ended", flush=True)
        """,
        inputs={"goal": "client/goal"},
        outputs=["feedback", "result"],
    )
    flow.node(
        "client",
        """
        from dora import CallFailed, Node

        node = Node()
        goal = node.send_goal("goal", b"")
        print(next(goal)["data"])
        node.send_output("begun", b"")
        try:
            goal.result()
            print("client: canceled")
        except CallFailed as error:
            print("client:", error)
        """,
        inputs={"feedback": "server/feedback", "result": "server/result"},
        outputs=["goal", "begun"],
    )
    flow.node(
        "stopper",
        """
        import os, signal
        from dora import Node

        for event in Node():
            if event["type"] == "INPUT":
                os.kill(os.getppid(), signal.SIGTERM)  # of `dora run`, which has started it plainly
        """,
        inputs={"begun": "client/begun"},
    )
    done = flow.run_command("--log-format", "compact", "--engine", engine, "--no-preload")
    assert done.returncode == 0, done.stdout + done.stderr
    server_said = [line.partition("server: ")[2] for line in done.stdout.splitlines() if "server:" in line]
    assert server_said == ["canceled", "ended"]
    # Whichever of the two hears of the stop first.
    assert re.search("client: (canceled|.*this node was asked to stop)", done.stdout), done.stdout


@pytest.mark.usefixtures("engine")
def test_an_interruption_is_delivered_before_queued_messages(flow: Flow) -> None:
    flow.node(
        "voice",
        """
        from pathlib import Path
        from dora import Node

        node = Node()
        stream = node.stream("audio")
        for number in range(50):
            stream.send(str(number).encode())
        stream.interrupt(b"stop")
        stream.send(b"more", fin=True)
        Path("sent").touch()
        """,
        outputs=["audio"],
    )
    flow.node(
        "speaker",
        """
        import time
        from pathlib import Path
        from dora import Node

        node = Node()
        while not Path("sent").exists() or node.is_empty():
            time.sleep(0.001)
        heard = [event for event in node if event["type"] == "INPUT"]
        print([event["data"].decode() for event in heard])
        """,
        inputs={"audio": {"source": "voice/audio", "queue_size": 100}},
    )
    result = flow.run()
    (line,) = flow.printed("speaker")
    *before, stop, more = ast.literal_eval(line)
    assert (stop, more) == ("stop", "more")
    assert before == []  # the queue was flushed
    report = link(result, "voice/audio -> speaker/audio")
    assert (report.sent, report.received, report.dropped) == (52, len(before) + 2, 50 - len(before))


def test_a_parameter_is_set_from_another_terminal(flow: Flow) -> None:
    flow.node(
        "a",
        """
        from dora import Node

        node = Node()
        print("gain", node.parameters["gain"], flush=True)
        for event in node:
            if event["type"].startswith("PARAM"):
                print(event["type"], event["id"], event.get("value"), flush=True)
                if not node.parameters:
                    break
        """,
        inputs={"tick": "dora/timer/secs/100"},
        parameters={"gain": 0.5},
    )
    run = subprocess.Popen(
        [sys.executable, "-m", "dora", "run", flow.write(), "--log-format", "compact"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert run.stdout is not None
        assert "gain 0.5" in run.stdout.readline()
        for arguments in (["set", "a", "gain", "-1e3"], ["delete", "a", "gain"]):
            subprocess.run([sys.executable, "-m", "dora", "param", *arguments], check=True, timeout=TIMEOUT)
        rest, _ = run.communicate(timeout=TIMEOUT)
        assert [line.partition("a: ")[2] for line in rest.splitlines()] == [
            "PARAM_UPDATE gain -1000.0",
            "PARAM_DELETED gain None",
        ]
        assert run.returncode == 0
    finally:
        run.kill()
        run.wait()


def test_an_interrupt_ends_a_call(flow: Flow) -> None:
    server(
        flow,
        """
        import os, signal
        from dora import Node

        for event in Node():
            if event["type"] == "INPUT":
                os.kill(int(event["data"]), signal.SIGINT)
        """,
    )
    client(
        flow,
        """
        import os
        from dora import Node

        node = Node()
        try:
            node.call("request", str(os.getpid()).encode()).wait()
        except KeyboardInterrupt:
            print("interrupted")
        """,
    )
    flow.run()
    assert flow.printed("client") == ["interrupted"]
