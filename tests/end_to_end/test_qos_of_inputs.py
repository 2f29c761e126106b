"""QoS of inputs with real processes, on every engine."""

from __future__ import annotations

import signal

import pytest
from flow import Flow, link
from waiting import TIMEOUT

from dora.wire.counters import EXPIRED, MISSED, THINNED

pytestmark = pytest.mark.processes


def test_kept_messages_come_before_the_newest_and_the_counts_add_up(flow: Flow, engine: str) -> None:  # noqa: ARG001
    """A sender that never waits, and a receiver that begins when everything was sent."""
    flow.node(
        "sender",
        """
        import pyarrow as pa
        from dora import Node

        with Node() as node:
            for number in range(200):
                metadata = {"stop": True} if number in (20, 90) else {}
                node.send_output("out", pa.array([number] * (1 if number % 2 else 30_000)), metadata)
        open("sent", "w").close()
        """,
        outputs=["out"],
    )
    flow.node(
        "receiver",
        f"""
        import os, time
        from dora import Node

        node = Node()
        deadline = time.monotonic() + {TIMEOUT}
        while not os.path.exists("sent"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        print([event["value"][0].as_py() for event in node if event["type"] == "INPUT"])
        """,
        inputs={"in": {"source": "sender/out", "queue_policy": "latest", "keep": ["stop"]}},
    )
    report = link(flow.run(), "sender/out -> receiver/in")
    (got,) = flow.printed("receiver")
    numbers = [int(number) for number in got.strip("[]").split(",")]
    assert numbers == sorted(numbers)
    assert {20, 90, 199} <= set(numbers)
    assert report.dropped > 100
    assert report.sent == report.received + report.dropped == 200


def test_old_and_frequent_messages_are_counted_beside_the_dropped(flow: Flow, engine: str) -> None:  # noqa: ARG001
    flow.node(
        "sender",
        """
        from datetime import UTC, datetime, timedelta
        import time
        from dora import Node

        with Node() as node:
            for number in range(40):
                old = number % 4 == 0
                stamp = datetime.now(UTC) - timedelta(hours=old)
                node.send_output("out", b"x", {"timestamp": stamp})
                time.sleep(0.005)
        """,
        outputs=["out"],
    )
    flow.node(
        "receiver",
        """
        from dora import Node
        node = Node()
        for event in node:
            if event["type"] == "INPUT_CLOSED":
                print(node.statistics()["inputs"])
        """,
        inputs={
            "aged": {"source": "sender/out", "queue_size": 100, "max_age": "10min"},
            "thin": {"source": "sender/out", "queue_size": 100, "rate": "20hz"},
            "third": {"source": "sender/out", "queue_size": 100, "every": 3},
        },
    )
    result = flow.run()
    aged, thin, third = (
        link(result, f"sender/out -> receiver/{name}") for name in ("aged", "thin", "third")
    )
    assert (third.sent, third.received, third.count(THINNED)) == (40, 14, 26)
    assert (aged.sent, aged.received, aged.count(EXPIRED)) == (40, 30, 10)
    assert thin.sent == thin.received + thin.count(THINNED) == 40
    assert thin.count(THINNED) > 10
    assert "'expired': 10" in flow.printed("receiver")[-1]


def test_a_stopped_sender_misses_its_deadline_until_it_goes_on(flow: Flow, engine: str) -> None:  # noqa: ARG001
    flow.node(
        "sender",
        """
        import os, time
        from dora import Node

        with Node() as node:
            with open("pid", "w") as file:
                file.write(str(os.getpid()))
            while not os.path.exists("done"):
                node.send_output("out", b"x")
                time.sleep(0.01)
        """,
        outputs=["out"],
    )
    flow.node(
        "receiver",
        f"""
        import os, signal
        from dora import DeadlineMet, DeadlineMissed, Input, Node

        pid = 0
        for event in Node():
            if isinstance(event, Input) and not pid:
                pid = int(open("pid").read())
                os.kill(pid, {signal.SIGSTOP})
            elif isinstance(event, DeadlineMissed) and pid:
                print("missed", event.late >= 0)
                os.kill(pid, {signal.SIGCONT})
            elif isinstance(event, DeadlineMet) and pid:
                print("met", event.late > 0)
                open("done", "w").close()
                break
        """,
        inputs={"in": {"source": "sender/out", "deadline": "1s"}},
    )
    report = link(flow.run(), "sender/out -> receiver/in")
    assert flow.printed("receiver") == ["missed True", "met True"]
    assert report.count(MISSED) >= 1
