"""Synchronised inputs while sources restart and links come and go, with real processes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from changing import Live
from flow import Flow, link
from waiting import TIMEOUT, wait_until

from dora.wire.counters import UNMATCHED

pytestmark = pytest.mark.processes

# Sends a message every 5 ms, with the number of the 5 ms as its timestamp.
SENSOR = """
    import sys, time
    from datetime import UTC, datetime
    from dora import Node
    node = Node()
    print("begins as process", node.restart_count(), flush=True)
    count = 0
    while (event := node.next(timeout=0.005))["type"] != "STOP":
        stamp = datetime.fromtimestamp(time.time() // 0.005 * 0.005, UTC)
        node.send_output("out", b"x", {"timestamp": stamp})
        count += 1
        if "--fails" in sys.argv and count == 20 and node.restart_count() < 2:
            sys.exit(3)
"""
FUSION = """
    from dora import Node
    node = Node()
    state = ""
    for event in node:
        now = event["type"]
        if now == "SYNC":
            now = "set of " + " ".join(sorted(set(event["inputs"]) - set(event["missing"])))
        elif "id" in event:
            now += " " + str(event["id"])
        if now != state:
            state = now
            print(now, flush=True)
    print("end", node.statistics()["inputs"]["b"]["unmatched"], flush=True)
"""
LARGE = 2000


def dora(*arguments: str) -> str:
    command = [sys.executable, "-m", "dora", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout


def sources(flow: Flow, **fields: object) -> None:
    flow.node("a", SENSOR, outputs=["out"])
    flow.node("b", SENSOR, outputs=["out"], **fields)
    flow.node(
        "fusion",
        FUSION,
        inputs={name: {"source": f"{name}/out", "queue_size": LARGE} for name in "ab"},
        sync=[{"inputs": ["a", "b"], "tolerance": "10ms", "timeout": "50ms"}],
    )


def test_sets_are_complete_again_after_the_restart_of_a_source(flow: Flow) -> None:
    sources(flow, args="--fails", restart_policy="on-failure")
    with Live(flow) as live:
        live.until_printed("b", "begins as process 2")
        live.until(lambda: _comes(flow, "NODE_RESTARTED b", 2), "two restarts and complete sets after each")
    report = link(live.result, "b/out -> fusion/b") if live.result is not None else None
    assert report is not None
    assert report.dropped == 0


@pytest.mark.usefixtures("engine")
def test_an_input_of_a_group_may_be_disconnected_and_connected_again(flow: Flow) -> None:
    sources(flow)
    with Live(flow) as live:
        live.until_printed("fusion", "set of a b")
        live.disconnect("b/out", "fusion/b")
        live.until_printed("fusion", "INPUT_CLOSED b")
        live.until_printed("fusion", "set of a")
        before = len(flow.printed("fusion"))
        live.connect("b/out", "fusion/b", queue_size=LARGE)
        live.until(lambda: "set of a b" in flow.printed("fusion")[before:], "complete sets")


@pytest.mark.slow
def test_topic_info_and_top_show_how_many_messages_are_in_no_set(flow: Flow) -> None:
    flow.node("a", SENSOR, outputs=["out"])
    flow.node("b", SENSOR, outputs=["out"])
    flow.node(
        "fusion",
        FUSION,
        inputs={
            "a": {"source": "a/out", "queue_size": LARGE},
            "tick": "dora/timer/millis/50",
            "b": {"source": "b/out", "queue_size": LARGE},
        },
        sync=[{"inputs": ["tick", "a", "b"], "by": "arrival"}],
    )
    with Live(flow) as live:
        live.until_printed("fusion", "set of a b tick")

        def shown() -> bool:
            info = dora("topic", "info", "a/out", "--duration", "0.2")
            (line,) = [line for line in info.splitlines() if "fusion/a:" in line]
            return " unmatched: in no set" in line

        wait_until(shown, "unmatched messages of an input that is faster than its timer")
        nodes = json.loads(dora("top", "--once", "--refresh-interval", "0.2"))
        (inputs,) = [node["inputs"] for node in nodes if node["node"] == "fusion"]
        assert any(item["input"] == "a" and item["unmatched_messages"] > 0 for item in inputs)
    assert live.result is not None
    assert link(live.result, "a/out -> fusion/a").count(UNMATCHED) > 0


def _comes(flow: Flow, restart: str, count: int) -> bool:
    """Return whether complete sets came after each of so many restarts."""
    lines = flow.printed("fusion")
    places = [place for place, line in enumerate(lines) if line == restart]
    return len(places) >= count and all("set of a b" in lines[place:] for place in places)


def test_a_mistake_in_sync_is_a_sentence_and_no_start(flow: Flow) -> None:
    sources(flow)
    flow._nodes[-1]["sync"] = [{"inputs": ["a", "c"], "tolerance": "10ms"}]
    done = flow.run_command()
    assert done.returncode == 1
    assert "node `fusion` has no input `c` that `sync` could match" in done.stderr
    assert "Traceback" not in done.stderr
