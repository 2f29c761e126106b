"""Late receivers of latched outputs on another machine: the newest messages first, each once."""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
import time

import pytest
from changing_machines import said_by, whole
from cluster_system import Spread
from waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.processes

SERVE = """
    import os
    from dora import Node
    node = Node()
    for number in range(1, 6) if node.restart_count() == 0 else ():
        node.send_output("map", f"{number} ".encode() + bytes(100_000 * (number % 2)))
    print("serves", os.getpid(), flush=True)
    for event in node:
        if event["type"] == "PARAM_UPDATE":
            node.send_output("map", f"{event['value']} ".encode())
"""
LISTEN = """
    import os
    from dora import Node
    node = Node()
    print("listens", os.getpid(), flush=True)
    for event in node:
        if event["type"] == "INPUT":
            number = bytes(event["data"]).split(b" ")[0].decode()
            print("map", number, flush=True)
            with open(f"heard-{node.dataflow_id()}-{node.restart_count()}", "a") as file:
                file.write(number)  # for a test that has cut this machine off
            print("counts", node.statistics()["inputs"]["map"], flush=True)
"""


def flow(latched: str) -> dict[str, str]:
    return {
        "serve.py": SERVE,
        "listen.py": LISTEN,
        "maps.yml": f"""
            nodes:
              - id: server
                path: serve.py
                deploy: {{machine: left}}
                restart_policy: on-failure
                outputs: [{{map: {{latched: {latched}}}}}]
              - id: listener
                path: listen.py
                deploy: {{machine: right}}
                restart_policy: on-failure
                inputs: {{map: server/map}}
        """,
        "late.yml": """{id: late, path: listen.py, deploy: {machine: right}, restart_policy: on-failure,
            inputs: {map: {source: server/map, queue_size: 1}}}""",
    }


def heard(system: Spread, dataflow: str, node: str) -> list[list[str]]:
    """Return the maps that a node got, by process."""
    logs = system.dora("logs", dataflow, "-n", node)
    parts = re.split(r"listens \d+", logs)[1:]
    return [re.findall(r"\bmap (\d+)", part) for part in parts]


def wait_for(system: Spread, dataflow: str, node: str, maps: list[list[str]]) -> None:
    wait_until(
        lambda: heard(system, dataflow, node) == maps,
        lambda: f"{maps} of {node}, not {heard(system, dataflow, node)}: {system.logs(dataflow)}",
    )


def kill(system: Spread, dataflow: str, node: str, word: str) -> None:
    process = int(said_by(system, dataflow, node, f"{word} "))  # what it says may come after its messages
    times = len(re.findall(word, system.dora("logs", dataflow, "-n", node)))
    os.kill(process, signal.SIGKILL)
    said_by(system, dataflow, node, f"{word} ", times + 1)


@pytest.mark.slow
def test_receivers_on_another_machine_get_the_newest_messages(system: Spread) -> None:
    system.write(flow("{depth: 2, survive_restart: true}"))
    dataflow = system.start("maps.yml")
    at_first = ["1", "2", "3", "4", "5"]
    wait_for(system, dataflow, "listener", [at_first])
    system.dora("node", "add", "--from-yaml", "late.yml")
    wait_for(system, dataflow, "late", [["4", "5"]])
    kill(system, dataflow, "listener", "listens")
    wait_for(system, dataflow, "listener", [at_first, ["4", "5"]])
    system.dora("node", "restart", "late")
    wait_for(system, dataflow, "late", [["4", "5"], ["4", "5"]])
    kill(system, dataflow, "server", "serves")
    system.dora("param", "set", "server", "map", "6")
    wait_for(system, dataflow, "listener", [at_first, ["4", "5", "6"]])
    wait_for(system, dataflow, "late", [["4", "5"], ["4", "5", "6"]])
    kill(system, dataflow, "late", "listens")
    wait_for(system, dataflow, "late", [["4", "5"], ["4", "5", "6"], ["5", "6"]])
    assert "counts {'received': 7, 'dropped': 0}" in system.dora("logs", dataflow, "-n", "late")


VISIT = """
    from dora import Node
    with Node("visitor") as node:
        for event in node:
            if event["type"] == "INPUT":
                number = bytes(event["data"]).split(b" ")[0].decode()
                print("map", number, flush=True)
                if number == "5":
                    break
"""


@pytest.mark.slow
def test_a_node_that_joins_on_another_machine_gets_them_each_time(system: Spread) -> None:
    system.write({**flow("2"), "visit.py": VISIT})
    text = (system.folder / "maps.yml").read_text()
    visitor = "{id: visitor, path: dynamic, deploy: {machine: right}, inputs: {map: server/map}}"
    system.write({"maps.yml": text.rstrip() + f"\n  - {visitor}\n"})
    dataflow = system.start("maps.yml")
    wait_for(system, dataflow, "listener", [["1", "2", "3", "4", "5"]])
    right = system.hosts["right"]
    for _ in range(2):
        printed = right.run([sys.executable, "visit.py"], env=system.env, cwd=system.folder)
        assert printed.split("\n")[:2] == ["map 4", "map 5"]


@pytest.mark.slow
def test_a_receiver_that_was_restarted_in_a_cut_gets_them_afterwards(system: Spread) -> None:
    system.write(flow("2"))
    dataflow = system.start("maps.yml")
    wait_for(system, dataflow, "listener", [["1", "2", "3", "4", "5"]])
    process = int(said_by(system, dataflow, "listener", "listens "))
    right = system.hosts["right"]
    right.cut()
    try:
        os.kill(process, signal.SIGKILL)
        system.dora("param", "set", "server", "map", "6")
        # Its next process would get the message after the cut only, if it started late.
        heard_in_the_cut = system.folder / f"heard-{dataflow}-1"
        wait_until(
            lambda: heard_in_the_cut.exists() and heard_in_the_cut.read_text() == "45",
            "messages from the gateway's latch",
        )
    finally:
        right.restore()
    system.wait_for_machines("right")
    wait_for(system, dataflow, "listener", [["1", "2", "3", "4", "5"], ["4", "5", "6"]])


@pytest.mark.slow
def test_a_restarted_sender_clears_them_for_other_machines(system: Spread) -> None:
    system.write(flow("2"))
    dataflow = system.start("maps.yml")
    wait_for(system, dataflow, "listener", [["1", "2", "3", "4", "5"]])
    kill(system, dataflow, "server", "serves")
    system.dora("param", "set", "server", "map", "6")
    system.dora("node", "add", "--from-yaml", "late.yml")
    # The other machine hears of the restart at a tick of the gateway, so the first one may be too early.
    deadline = time.monotonic() + TIMEOUT
    for times in itertools.count(1):
        said_by(system, dataflow, "late", "map 6", times)
        if heard(system, dataflow, "late")[-1] == ["6"]:
            break
        assert time.monotonic() < deadline, heard(system, dataflow, "late")
        system.dora("node", "restart", "late")


@pytest.mark.slow
def test_nobody_on_another_machine_gets_a_message_twice_or_misses_one(system: Spread) -> None:
    """The nodes fail if a number does not grow, and count the gaps."""
    system.write(
        {
            "load.yml": """
                nodes:
                  - id: count
                    path: count.py
                    deploy: {machine: left}
                    outputs: [{out: {latched: 100}}]
                  - id: near
                    path: collect.py
                    deploy: {machine: left}
                    inputs: {numbers: {source: count/out, queue_size: 2000}}
            """,
            "far.yml": "{id: far, path: collect.py, deploy: {machine: right}, inputs: {numbers: "
            "{source: count/out, queue_size: 2000}}}",
        }
    )
    dataflow = system.start("load.yml")
    said_by(system, dataflow, "near", "numbers begins with")
    system.dora("node", "add", "--from-yaml", "far.yml")
    said_by(system, dataflow, "far", "numbers begins with")
    system.dora("node", "restart", "far")
    said_by(system, dataflow, "far", "numbers begins with", times=2)
    (system.folder / "enough").touch()
    last = int(said_by(system, dataflow, "count", "sent ").split()[0]) - 1
    assert whole(system, dataflow, "far", "numbers").endswith(f" to {last}")
