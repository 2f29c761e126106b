"""A dataflow whose messages go from `left` to `right` and back, and are counted to the last one."""

from __future__ import annotations

import re
from typing import Final

from cluster_system import Spread
from waiting import wait_until

_NODES = {
    "count.py": """
        import os
        import pyarrow as pa
        from dora import Node

        node, number, event = Node(), 0, None
        rest = [0] * int(os.environ.get("REST", "0"))
        while not os.path.exists("enough") and (event is None or event["type"] != "STOP"):
            node.send_output("sure", pa.array([number]))
            node.send_output("newest", pa.array([number, *rest]))
            number += 1
            event = node.next(timeout=0.005)
        print("sent", number, flush=True)
    """,
    "relay.py": """
        from dora import Node

        node, begun = Node(), set()
        for event in node:
            if event["type"] == "INPUT":
                if event["id"] not in begun:
                    begun.add(event["id"])
                    lost = node.statistics()["inputs"][event["id"]]["dropped"]
                    print(event["id"], "begins with", event["value"][0].as_py(), "lost", lost, flush=True)
                node.send_output(event["id"], event["value"])
            else:
                print(event["type"], event.get("id") or "", flush=True)
        print("counts", node.statistics()["inputs"], flush=True)
        for output, counted in node.statistics()["outputs"].items():
            print(output, "sent in all", counted["sent"], flush=True)
    """,
    "take.py": """
        import os, time
        from dora import Node

        node, got, last, written = Node(), {"sure": 0, "newest": 0}, {}, 0.0
        for event in node:
            if event["type"] == "INPUT":
                item, number = event["id"], event["value"][0].as_py()
                if number <= last.get(item, -1):  # a former process of `relay` had it already
                    print(item, "goes back to", number, flush=True)
                last[item] = number
                got[item] += 1
                if time.monotonic() - written > 0.05:
                    written = time.monotonic()
                    with open("progress.new", "w") as file:
                        file.write(f"{got['sure']} {got['newest']}")
                    os.replace("progress.new", "progress")
            else:
                print(event["type"], event.get("id") or "", flush=True)
        for name, count in got.items():
            counted = node.statistics()["inputs"][name]
            assert count == counted["received"], (count, counted)
            print(f"{name}: got {count} and lost {counted['dropped']}", flush=True)
    """,
}
_DATAFLOW = """
    nodes:
      - {id: count, path: count.py, outputs: [sure, newest], deploy: {machine: left}}
      - id: relay
        path: relay.py
        deploy: {machine: right}
        outputs: [sure, newest]
        inputs:
          sure: {source: count/sure, queue_size: 100, queue_policy: backpressure}
          newest: {source: count/newest, queue_size: 10}
      - id: take
        path: take.py
        deploy: {machine: left}
        inputs:
          sure: {source: relay/sure, queue_size: 100, queue_policy: backpressure}
          newest: {source: relay/newest, queue_size: 10}
"""
FILES: Final = {**_NODES, "flow.yml": _DATAFLOW}


class Counted:
    """The running dataflow."""

    def __init__(self, system: Spread, file: str = "flow.yml") -> None:
        self.system = system
        self.dataflow = system.start(file)
        self.goes_on()

    def progress(self, item: str = "sure") -> int:
        """Return how many messages of an input were there and back."""
        try:
            sure, newest = (self.system.folder / "progress").read_text().split()
        except OSError:
            return 0
        return int({"sure": sure, "newest": newest}[item])

    def goes_on(self, item: str = "sure") -> None:
        """Wait until messages arrive that are sent from now on."""
        before = self.progress(item)
        wait_until(
            lambda: self.progress(item) > before + 100,  # more than were waiting
            lambda: f"messages: {self.system.logs(self.dataflow)}",
        )

    def end(self) -> str:
        """Let the source end; return what the nodes have said."""
        (self.system.folder / "enough").touch()
        self.system.wait_for(self.dataflow, "Finished")
        return self.system.logs(self.dataflow)

    def loses_nothing(self) -> None:
        """Let the source end, and check that each message has arrived, or was dropped and counted."""
        logs = self.end()
        assert "goes back" not in logs
        (sent,) = (int(number) for number in re.findall(r"sent (\d+)", logs))
        found = {
            name: (int(got), int(lost))
            for name, got, lost in re.findall(r"(\w+): got (\d+) and lost (\d+)", logs)
        }
        assert found["sure"] == (sent, 0), logs
        (relayed,) = re.findall(r"'newest': {'received': (\d+), 'dropped': (\d+)", logs)
        passed, dropped = map(int, relayed)
        assert passed + dropped == sent, logs
        assert sum(found["newest"]) == passed, logs
