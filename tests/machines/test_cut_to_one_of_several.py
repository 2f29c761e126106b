"""What a node sends to one machine while another one is cut off, in network namespaces."""

from __future__ import annotations

import re

import pytest
from cluster_system import Spread
from waiting import wait_until

pytestmark = pytest.mark.processes

SMALL, LARGE = 10_000, 1_048_576  # bytes

NODES = {
    "send.py": f"""
        import os, time
        import numpy as np
        from dora import Node

        node, begun, longest = Node(), time.monotonic(), 0.0
        values = {{"small": np.zeros({SMALL}, np.uint8), "large": np.zeros({LARGE}, np.uint8)}}
        rates, sent = {{"small": 200, "large": 30}}, {{"small": 0, "large": 0}}
        while not os.path.exists("enough"):
            for output, rate in rates.items():
                if sent[output] <= (time.monotonic() - begun) * rate:
                    begin = time.monotonic()
                    node.send_output(output, values[output])
                    longest = max(longest, time.monotonic() - begin)
                    sent[output] += 1
            time.sleep(0.001)
        print("small: sent", sent["small"])
        print("large: sent", sent["large"])
        assert longest < 1.0, longest
    """,
    "take.py": """
        from dora import Node

        node, got = Node(), {"small": 0, "large": 0}
        for event in node:
            if event["type"] == "INPUT":
                got[event["id"]] += 1
                if event["id"] == "small" and got["small"] % 200 == 0:
                    print("so far", got["small"], flush=True)
        for name, counted in node.statistics()["inputs"].items():
            assert got[name] == counted["received"], (got, counted)
            print(f"{name}: got {got[name]} and lost {counted['dropped']}")
    """,
}

# Queues for two to three seconds: enough for a busy machine.
DATAFLOW = """
    nodes:
      - {id: send, path: send.py, outputs: [small, large], deploy: {machine: left}}
      - id: second
        path: take.py
        deploy: {machine: right}
        inputs: {small: {source: send/small, queue_size: 600}, large: {source: send/large, queue_size: 60}}
      - id: third
        path: take.py
        deploy: {machine: third}
        inputs: {small: {source: send/small, queue_size: 600}, large: {source: send/large, queue_size: 60}}
"""
FURTHER = """
      - {id: further, path: take.py, deploy: {machine: right}, inputs: {small: send/small}}
"""


def so_far(system: Spread, dataflow: str, node: str) -> int:
    found = re.findall(r"so far (\d+)", system.dora("logs", dataflow, "-n", node))
    return int(found[-1]) if found else 0


# Some seconds: the connection breaks, but who waits for room on it does not know yet. Until it
# is given up, and for longer than the queues last. With links to many nodes.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "further"), [(200, 0), (1200, 0), pytest.param(2600, 9, marks=pytest.mark.stress)]
)
def test_a_cut_to_one_machine_does_not_affect_others(system: Spread, count: int, further: int) -> None:
    more = [FURTHER.replace("further", f"further-{number}") for number in range(further)]
    system.write({**NODES, "spread.yml": DATAFLOW + "".join(more)})
    dataflow = system.start("spread.yml")

    def wait_for_number(node: str, number: int) -> None:
        wait_until(
            lambda: so_far(system, dataflow, node) >= number,
            lambda: f"{number} messages at {node}: {system.logs(dataflow)}",
        )

    wait_for_number("second", 200)
    wait_for_number("third", 200)
    system.hosts["right"].cut()
    try:
        system.wait_for_log(dataflow, "machine `right` has not answered")
        wait_for_number("third", so_far(system, dataflow, "third") + count)
    finally:
        system.hosts["right"].restore()
    system.wait_for_log(dataflow, "machine `right` answers again")
    (system.folder / "enough").touch()
    assert system.wait_for(dataflow, "Finished", "Failed") == "Finished", system.logs(dataflow)
    logs = system.logs(dataflow)
    sent = dict(re.findall(r"(small|large): sent (\d+)", logs))
    tallies = re.findall(r"(second|third): +(small|large): got (\d+) and lost (\d+)", logs)
    assert sent.keys() == {"small", "large"} and len(tallies) == 4, logs
    for node, name, got, lost in tallies:
        assert int(got) + int(lost) == int(sent[name]), logs
        assert node == "second" or lost == "0", logs
