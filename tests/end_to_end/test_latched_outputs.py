"""Late receivers of latched outputs, with real processes: the newest messages first, each once."""

from __future__ import annotations

import glob
import json
import os
import re
import signal
import subprocess
import sys
from typing import Any

import pytest
from changing import SINK, SOURCE, Live, received
from flow import Flow, link
from waiting import TIMEOUT

from dora.observe.tap_session import inspect
from dora.wire.daemon_protocol import SetParameter

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("engine")]

# Sends 1 to 5 once, with some bytes behind; sends the number of a parameter that is set.
SERVER = """
    import os
    from dora import Node
    node = Node()
    size = int(os.environ.get("SIZE", "0"))
    for number in range(1, 6) if node.restart_count() == 0 else ():
        node.send_output("map", f"{number} ".encode() + bytes(size))
    print("serves", os.getpid(), flush=True)
    for event in node:
        if event["type"] == "PARAM_UPDATE":
            node.send_output("map", f"{event['value']} ".encode() + bytes(size))
            print("sent", event["value"], flush=True)
"""
LISTENER = """
    import os
    from dora import Node
    node = Node("listener") if os.environ.get("JOINS") else Node()
    print("listens", os.getpid(), flush=True)
    for event in node:
        if event["type"] == "INPUT":
            data = bytes(event["data"])
            print(event["id"], data.split(b" ")[0].decode(), len(data), flush=True)
            if os.environ.get("JOINS") == data.split(b" ")[0].decode():
                break
"""

# Counts on after a restart, and sends 200 more at a time; says so when a part of them is sent.
TRAFFIC = """
    import os
    from dora import Node
    node = Node()
    number = node.restart_count() * 1_000_000
    said = False
    while True:
        event = node.next(timeout=0.0005)
        if event["type"] == "STOP":
            break
        number += 1
        node.send_output("out", str(number).encode() + b" " * (number % 9000))
        if number % 1_000_000 == 200:
            print("pid", os.getpid(), flush=True)
"""
# Says of a number that does not follow the one before, unless another process of the source sent it.
SEEN = """
    import os
    from dora import Node
    node = Node()
    last = count = 0
    for event in node:
        if event["type"] == "INPUT":
            number = int(bytes(event["data"]))
            if last and number != last + 1 and number // 1_000_000 == last // 1_000_000:
                print("gap between", last, "and", number, flush=True)
            last = number
            count += 1
            if count == 50:
                print("pid", os.getpid(), flush=True)
"""


def server(flow: Flow, latched: Any, **fields: Any) -> None:
    flow.node("server", SERVER, outputs=[{"map": {"latched": latched}}], **fields)


def heard(flow: Flow, node_id: str) -> list[str]:
    """Return what a listener has received: names of inputs with numbers, process by process."""
    return [
        "|" if line.startswith("listens") else " ".join(line.split()[:2])
        for line in flow.printed(node_id)
        if line.startswith(("listens", "map", "further"))
    ]


def process_of(flow: Flow, node_id: str) -> int:
    """Return the number of a node's current process."""
    lines = [line for line in flow.printed(node_id) if line.startswith(("listens", "serves"))]
    return int(lines[-1].split()[1])


def set_map(live: Live, number: int) -> None:
    with live.run() as run:
        run.ask(SetParameter("server", "map", number))
    live.until_printed("server", f"sent {number}")


def counted(live: Live, name: str) -> tuple[int, int, int]:
    assert live.result is not None
    report = link(live.result, name)
    return report.sent, report.received, report.dropped


def test_a_node_or_input_that_is_added_gets_the_newest_messages(flow: Flow) -> None:
    server(flow, 3)
    flow.node("other", LISTENER)
    with Live(flow) as live:
        live.until(lambda: flow.printed("server"), "the messages")
        live.add("late", LISTENER, inputs={"map": "server/map"})
        live.connect("server/map", "other/further")
        for node_id in ("late", "other"):
            live.until(lambda node_id=node_id: len(heard(flow, node_id)) >= 4, "the latched messages")
        set_map(live, 6)
        for node_id, name in (("late", "map"), ("other", "further")):
            live.until(lambda node_id=node_id: len(heard(flow, node_id)) >= 5, "the next message")
            assert heard(flow, node_id) == ["|", *(f"{name} {number}" for number in (3, 4, 5, 6))]
        command = [sys.executable, "-m", "dora", "topic", "info", "server/map", "--duration", "0.1"]
        described = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
        assert re.search(r"^Latched +the newest 3 messages$", described.stdout, re.MULTILINE)
        assert "late/map: 4 taken, 0 dropped" in described.stdout
        command = [*command[:4], "echo", "server/map", "--count", "4", "--format", "json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as echo:
            assert echo.stdout is not None
            shown = [echo.stdout.readline() for _ in range(3)]
            set_map(live, 7)
            shown.append(echo.stdout.readline())
            assert echo.wait(TIMEOUT) == 0
        first_bytes = [json.loads(line)["data"][0] for line in shown]
        assert bytes(first_bytes) == b"4567"
    assert counted(live, "server/map -> late/map") == (5, 5, 0)
    assert counted(live, "server/map -> other/further") == (5, 5, 0)


def test_a_node_that_joins_gets_the_newest_messages(flow: Flow) -> None:
    server(flow, 2)
    flow.node("listener", path="dynamic", inputs={"map": "server/map"})
    with Live(flow) as live:
        live.until(lambda: flow.printed("server"), "the messages")
        script = flow.file("listener.py", LISTENER)
        for _ in range(2):  # the second time, it is restarted
            joined = subprocess.run(
                [sys.executable, script],
                cwd=flow.directory,
                env={**os.environ, "JOINS": "5"},
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=True,
            )
            assert [line.split()[1] for line in joined.stdout.splitlines()[1:]] == ["4", "5"]
    assert counted(live, "server/map -> listener/map") == (4, 4, 0)


@pytest.mark.parametrize("way", ["restart", "kill"])
def test_a_restarted_receiver_gets_the_newest_messages_again(flow: Flow, way: str) -> None:
    server(flow, 1)
    flow.node("listener", LISTENER, inputs={"map": "server/map"}, restart_policy="on-failure")
    with Live(flow) as live:
        live.until_printed("listener", "map 5 2")
        if way == "kill":
            os.kill(process_of(flow, "listener"), signal.SIGKILL)
        else:
            live.restart("listener")
        live.until_printed("listener", "map 5 2", 2)
        set_map(live, 6)
        live.until_printed("listener", "map 6 2")
    assert heard(flow, "listener") == ["|", *(f"map {n}" for n in range(1, 6)), "|", "map 5", "map 6"]
    assert counted(live, "server/map -> listener/map") == (7, 7, 0)


def test_new_code_of_a_receiver_gets_the_newest_messages(flow: Flow) -> None:
    server(flow, 2)
    flow.node("listener", LISTENER, inputs={"map": "server/map"})
    with Live(flow) as live:
        live.until_printed("listener", "map 5 2")
        live.replace("listener", LISTENER)
        live.until_printed("listener", "map 5 2", 2)
        set_map(live, 6)
        live.until_printed("listener", "map 6 2")
    assert heard(flow, "listener")[6:] == ["|", "map 4", "map 5", "map 6"]
    assert counted(live, "server/map -> listener/map") == (8, 8, 0)


@pytest.mark.parametrize("survives", [True, False], ids=["survives", "is_cleared"])
def test_messages_of_a_killed_sender(flow: Flow, survives: bool) -> None:
    """They survive its restart where the output says so; else the new process begins with none."""
    server(flow, {"depth": 2, "survive_restart": survives}, restart_policy="on-failure")
    with Live(flow) as live:
        live.until(lambda: flow.printed("server"), "the messages")
        os.kill(process_of(flow, "server"), signal.SIGKILL)
        live.until(lambda: len([x for x in flow.printed("server") if "serves" in x]) == 2, "a new process")
        live.add("late", LISTENER, inputs={"map": "server/map"})
        if survives:
            live.until_printed("late", "map 5 2")
        live.until(lambda: heard(flow, "late"), "the listener")
        set_map(live, 6)
        live.until_printed("late", "map 6 2")
    assert heard(flow, "late") == ["|", *(["map 4", "map 5"] if survives else []), "map 6"]
    sent, taken, dropped = counted(live, "server/map -> late/map")
    assert sent == taken == (3 if survives else 1) and not dropped


@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_large_messages_of_a_latch_that_is_not_full(flow: Flow, size: int) -> None:
    server(flow, 10, env={"SIZE": size})
    with Live(flow) as live:
        live.until(lambda: flow.printed("server"), "the messages")
        live.add("late", LISTENER, inputs={"map": {"source": "server/map", "queue_size": 1}})
        live.until_printed("late", f"map 5 {size + 2}")
    assert heard(flow, "late") == ["|", *(f"map {number}" for number in range(1, 6))]
    assert counted(live, "server/map -> late/map") == (5, 5, 0)


def test_nobody_gets_a_message_twice_or_misses_one_under_load(flow: Flow) -> None:
    flow.node("source", SOURCE, outputs=[{"out": {"latched": 100}}])
    flow.node("steady", SINK, inputs={"x": {"source": "source/out", "queue_size": 2000}})
    flow.node("other", SINK)
    with Live(flow) as live:
        live.until_printed("steady", "receives x")
        live.add("late", SINK, inputs={"z": {"source": "source/out", "queue_size": 2000}})
        live.connect("source/out", "other/y", queue_size=2000)
        live.until_printed("late", "receives z")
        live.until_printed("other", "receives y")
        live.restart("late")
        live.until_printed("late", "receives z", 2)
    for node_id, name in (("late", "z"), ("other", "y")):
        runs = received(flow, node_id)[name] if node_id == "other" else last_received(flow, node_id)[name]
        assert len(runs) == 2 and runs[1] == "closed", f"a gap or a repetition: {runs}"
        assert runs[0][1] == received(flow, "steady")["x"][0][1]
    report = link(live.result, "source/out -> other/y")  # type: ignore[arg-type]  # it has ended
    assert report.received == report.sent and not report.dropped


@pytest.mark.slow
def test_processes_that_are_killed_in_traffic(flow: Flow) -> None:
    """The next process of the receiver begins with the newest messages; those of the sender are whole."""
    flow.node(
        "source",
        TRAFFIC,
        outputs=[{"out": {"latched": {"depth": 100, "survive_restart": True}}}],  # sent in 50 ms
        restart_policy="on-failure",
    )
    flow.node(
        "sink",
        SEEN,
        inputs={"x": {"source": "source/out", "queue_size": 2000}},
        restart_policy="on-failure",
    )
    with Live(flow) as live:
        for times in range(1, 4):
            for node_id in ("sink", "source"):
                live.until(lambda n=node_id, t=times: started(flow, n) >= t, "a process in traffic")
                os.kill(int(flow.printed(node_id)[-1].split()[1]), signal.SIGKILL)
        live.until(lambda: started(flow, "sink") >= 4 and started(flow, "source") >= 4, "the last ones")
        live.add("late", SEEN, inputs={"x": {"source": "source/out", "queue_size": 2000}})
        live.until(lambda: started(flow, "late"), "messages of the latch")
    assert not [line for line in (*flow.printed("sink"), *flow.printed("late")) if "gap" in line]
    for node_id in ("sink", "late"):
        link(live.result, f"source/out -> {node_id}/x")  # type: ignore[arg-type]  # it has ended


def started(flow: Flow, node_id: str) -> int:
    return len([line for line in flow.printed(node_id) if line.startswith("pid")])


def test_the_messages_of_a_removed_node_are_freed(flow: Flow) -> None:
    flow.node("other", LISTENER)
    with Live(flow) as live:
        live.add("server", SERVER, outputs=[{"map": {"latched": 1}}])
        live.until(lambda: any("serves" in line for line in flow.printed("server")), "the messages")
        assert latches(live)
        live.remove("server")
        assert not latches(live)


def latches(live: Live) -> list[str]:
    with live.run() as run:
        prefix = inspect(run).board.removesuffix("board")
    return glob.glob(f"{prefix}latch-*")


def last_received(flow: Flow, node_id: str) -> dict[str, list[Any]]:
    """Return what the last process of a `SINK` told at its end."""
    lines = [line for line in flow.printed(node_id) if line.startswith("end ")]
    found: dict[str, list[Any]] = json.loads(lines[-1].removeprefix("end "))
    return found
