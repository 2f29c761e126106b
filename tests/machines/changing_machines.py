"""Dataflows over several machines that change while they run: what the tests of that have in common."""

from __future__ import annotations

import json
from collections.abc import Iterator

from cluster_system import Spread
from waiting import wait_until

# Back-pressure that does not slow down who sends on what another queue gives it: that one would overflow.
PRESSED = ("--queue-policy", "backpressure", "--queue-size", "1000")

NODES = {
    "count.py": """
        import os, sys, time
        import pyarrow as pa
        from dora import Node

        node, number = Node(), 0
        while not os.path.exists("enough") and node.try_recv() is None:  # nothing comes but a stop
            node.send_output("out", pa.array([number, time.monotonic_ns()]))
            number += 1
            time.sleep(0.002)
        print("sent", number, "in all", flush=True)
    """,
    # Says of each input where it began, and in the end what it got and whether there were gaps. Of a gap it
    # says at once how old the message behind it is (the clocks of all hosts are one): seconds mean that a
    # queue was too short for a busy machine, milliseconds that something was lost on the way.
    "collect.py": """
        import os, time
        from dora import Node

        node, got = Node(), {}
        for event in node:
            if event["type"] == "INPUT":
                if event["id"] == "tick":
                    continue
                number, sent_at = event["value"].to_pylist()
                if event["id"] not in got:
                    print(event["id"], "begins with", number, flush=True)
                    got[event["id"]] = [number, number, 1]
                    continue
                first, last, count = got[event["id"]]
                assert number > last, (event["id"], number, last)
                if number > last + 1:
                    age = (time.monotonic_ns() - sent_at) // 1_000_000
                    print(event["id"], "lacks all between", last, "and", number, "of", age, "ms ago,",
                          node.statistics()["inputs"], flush=True)
                got[event["id"]] = [first, number, count + 1]
            elif event["type"] == "INPUT_CLOSED":
                first, last, count = got.pop(event["id"], (0, -1, 0))
                gaps = last - first + 1 - count
                print(event["id"], "is closed:", first, "to", last, "without", gaps, flush=True)
            else:
                print(event["type"], event.get("id") or "", event.get("error") or "", flush=True)
    """,
    # An operator that says where its input begins, and in the end what it got.
    "hand.py": """
        from dora import DoraStatus

        class Operator:
            def __init__(self):
                self.got = []

            def on_event(self, event, send_output):
                if event["type"] == "INPUT" and event["id"] == "numbers":
                    self.got.append(event["value"][0].as_py())
                    if len(self.got) == 1:
                        print("numbers begins with", self.got[0], flush=True)
                elif event["type"] == "INPUT_CLOSED":
                    first, last = self.got[0], self.got[-1]
                    gaps = last - first + 1 - len(self.got)
                    print(event["id"], "is closed:", first, "to", last, "without", gaps, flush=True)
                return DoraStatus.CONTINUE
    """,
    "echo.py": """
        from dora import Node

        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                node.send_output("out", event["value"])
    """,
    "other.py": """
        from dora import Node

        node = Node()
        print("the other one", flush=True)
        for event in node:
            if event["type"] == "INPUT":
                node.send_output("out", event["value"])
    """,
}

DATAFLOW = """
    nodes:
      - id: count
        path: count.py
        deploy: {machine: left}
        outputs: [out]
      - id: near
        path: collect.py
        deploy: {machine: left}
        inputs: {numbers: {source: count/out, queue_size: 1000}}
      - id: far
        path: collect.py
        deploy: {machine: right}
        inputs: {numbers: {source: count/out, queue_size: 5, queue_policy: backpressure}}
"""


def until_the_test_ends(system: Spread) -> Iterator[Spread]:
    """Let sources send, and stop what runs afterwards: the body of a fixture."""
    (system.folder / "enough").unlink(missing_ok=True)
    yield system
    (system.folder / "enough").touch()
    for line in system.dora("list", "--format", "json").splitlines():
        view = json.loads(line)
        if view["status"] in ("Running", "Starting"):
            system.dora("stop", view["uuid"], status=None)


def start_and_wait(system: Spread, file: str = "spread.yml") -> str:
    """Start `DATAFLOW`, or one with the same nodes; return its UUID once all have received something."""
    dataflow = system.start(file)
    for node in ("near", "far"):
        wait_until(
            lambda node=node: "numbers begins" in system.dora("logs", dataflow, "-n", node),
            lambda: system.logs(dataflow),
        )
    return dataflow


def said_by(system: Spread, dataflow: str, node: str, text: str, times: int = 1) -> str:
    """Wait until a node has printed something so many times, and return what is behind the last one."""

    def found() -> str:
        logs = system.dora("logs", dataflow, "-n", node)
        lines = [line.partition(text)[2] for line in logs.splitlines() if text in line]
        return lines[-1] or " " if len(lines) >= times else ""

    return str(wait_until(found, lambda: f"{text!r}: {system.logs(dataflow)}")).strip()


def whole(system: Spread, dataflow: str, node: str, item: str, times: int = 1) -> str:
    """Wait until an input was closed so many times; return from where to where it last got everything."""
    got, _, lacks = said_by(system, dataflow, node, f"{item} is closed: ", times).partition(" without ")
    assert lacks == "0", f"{node}/{item} lacks {lacks} messages: {system.logs(dataflow)}"
    return got


def all_get_everything(system: Spread, dataflow: str) -> None:
    """Let the source end, and look whether the links that were there from the start lost anything."""
    (system.folder / "enough").touch()
    system.wait_for(dataflow, "Finished")
    number = int(said_by(system, dataflow, "count", "sent ").split()[0])
    for node in ("near", "far"):
        assert whole(system, dataflow, node, "numbers") == f"0 to {number - 1}"


def outlasts_a_cut(system: Spread, dataflow: str, machine: str) -> None:
    """Cut a machine off until the sender of a link says so, join it again, and let the source end."""
    system.hosts[machine].cut()
    try:
        system.wait_for_log(dataflow, f"machine `{machine}` has not answered")
    finally:
        system.hosts[machine].restore()
    system.wait_for_log(dataflow, f"machine `{machine}` answers again")
    system.wait_for_machines(machine)
    all_get_everything(system, dataflow)


def wait_for_nodes(system: Spread, dataflow: str, *nodes: str) -> None:
    def there() -> bool:
        rows = system.dora("node", "list", "-d", dataflow).splitlines()[1:]
        return [row.split()[0] for row in rows] == list(nodes)

    wait_until(there, lambda: f"{nodes}: {system.dora('node', 'list', '-d', dataflow)}")
