"""The gateway between two machines: it is killed, feeds several receivers, and counts."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_system import PLAIN, Spread, spread_over
from hosts import Host, network
from waiting import wait_until

pytestmark = pytest.mark.processes

NODES = {
    "send.py": """
        import os, sys, time
        import numpy as np
        from dora import Node

        node, size, pause = Node(), int(sys.argv[1]), float(sys.argv[2])
        data = np.zeros(size, np.uint8)
        count, longest = 0, 0.0
        while not os.path.exists("enough"):
            data[:8].view(np.int64)[0] = count = node.statistics()["outputs"]["out"]["sent"] + 1
            began = time.monotonic()
            node.send_output("out", data)
            longest = max(longest, time.monotonic() - began)
            time.sleep(pause)
        print("sent", count, "in all, longest", round(longest * 1e3), "ms", flush=True)
    """,
    "take.py": """
        import numpy as np
        from dora import Node

        node, last = Node(), 0
        for event in node:
            if event["type"] == "INPUT":
                number = int(event["value"].to_numpy()[:8].view(np.int64)[0])
                assert number > last, (number, last)
                if last == 0 or number % 100 == 0:
                    print("got", number, flush=True)
                last = number
        counts = node.statistics()["inputs"]["in"]
        print("counted", counts["received"], counts["dropped"], flush=True)
    """,
}
FLOW = """
    nodes:
      - {{id: send, path: send.py, args: "{size} {pause}", outputs: [out], deploy: {{machine: left}}}}
"""
RECEIVER = """
      - {{id: take{number}, path: take.py, deploy: {{machine: right}},
         inputs: {{in: {{source: send/out, {link}}}}}}}
"""


def flow(size: int, pause: float, *links: str) -> str:
    receivers = [RECEIVER.format(number=number, link=link) for number, link in enumerate(links)]
    return (
        FLOW.format(size=size, pause=pause).rstrip() + "".join(each.rstrip() for each in receivers) + "\n"
    )


@pytest.fixture(scope="module")
def system(namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spread]:  # noqa: ARG001
    folder = tmp_path_factory.mktemp("gateway")
    with network("left", "right") as hosts, spread_over(hosts, folder, PLAIN) as system:  # with bypasses
        system.write(NODES)
        yield system


def start(system: Spread, text: str) -> str:
    (system.folder / "enough").unlink(missing_ok=True)
    system.write({"flow.yml": text})
    return system.start("flow.yml")


def end(system: Spread, dataflow: str) -> dict[str, list[int]]:
    """Let the source end; return by node the numbers of its last line that counts."""
    (system.folder / "enough").touch()
    system.wait_for(dataflow, "Finished")
    counts = {}
    for line in system.logs(dataflow).splitlines():
        for word in ("sent ", "counted "):
            head, found, rest = line.partition(word)
            if found:
                counts[head.split()[-1].rstrip(":")] = [
                    int(part) for part in rest.split() if part.isdecimal()
                ]
    return counts


def gateway_of(host: Host) -> int:
    """Return the process of the only gateway of a host; 0: there is none now."""
    for pid in host.pids():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if command.endswith(b"-m\0dora.gateway\0"):
            return pid
    return 0


def await_progress(system: Spread, dataflow: str, times: int) -> None:
    def seen() -> int:
        return system.dora("logs", dataflow, "-n", "take0").count(" got ")

    before = seen()
    wait_until(lambda: seen() >= before + times, lambda: system.logs(dataflow))


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["left", "right"])
@pytest.mark.parametrize("link", ["queue_size: 10", "queue_size: 10, queue_policy: backpressure"])
def test_a_killed_gateway_comes_back_and_what_it_had_is_counted(
    system: Spread, machine: str, link: str
) -> None:
    dataflow = start(system, flow(2000, 0.001, link))
    await_progress(system, dataflow, 1)
    await_bypass(system.hosts["left"])
    host = system.hosts[machine]
    former: set[int] = set()
    for _ in range(3):
        pid = int(
            wait_until(lambda: found if (found := gateway_of(host)) not in former else 0, "a gateway")
        )
        former.add(pid)
        os.kill(pid, signal.SIGKILL)
        await_progress(system, dataflow, 2)
    counts = end(system, dataflow)
    (sent, *_), (received, dropped) = counts["send"], counts["take0"]
    assert received + dropped == sent
    assert not [pid for each in system.hosts.values() for pid in each.pids() if pid == gateway_of(each)]


@pytest.mark.slow
def test_an_output_crosses_once_for_all_receivers(system: Spread) -> None:
    def bytes_sent() -> int:
        printed = system.hosts["left"].run(["cat", "/proc/net/dev"])
        return max(int(line.split()[9]) for line in printed.splitlines()[2:] if "lo:" not in line)

    before = bytes_sent()
    dataflow = start(system, flow(1 << 20, 0.02, *["queue_size: 3, queue_policy: backpressure"] * 3))
    wait_until(lambda: " got 1" in system.logs(dataflow), "messages")
    counts = end(system, dataflow)
    (sent, *_) = counts["send"]
    assert [counts[f"take{number}"] for number in range(3)] == [[sent, 0]] * 3
    assert sent <= (bytes_sent() - before) / (1 << 20) < 1.2 * sent + 1


def connected(host: Host) -> set[int]:
    """Return the processes of a host with connections to others, the coordinator's aside."""
    listed = host.run(["ss", "-tnpH", "state", "established", "not ( sport = :6013 or dport = :6013 )"])
    return {int(pid) for pid in re.findall(r"pid=(\d+)", listed)}


def await_bypass(host: Host) -> None:
    """Wait until a node has a connection to another machine, beside the gateway."""
    wait_until(lambda: connected(host) - {gateway_of(host)}, lambda: f"a bypass: {connected(host)}")


def test_only_gateways_receive_from_other_machines(system: Spread) -> None:
    dataflow = start(system, flow(64, 0.01, "queue_size: 10"))
    await_progress(system, dataflow, 1)
    await_bypass(system.hosts["left"])
    assert connected(system.hosts["right"]) == {gateway_of(system.hosts["right"])}
    end(system, dataflow)


def test_an_output_of_large_messages_gets_no_bypass(system: Spread) -> None:
    dataflow = start(system, flow(200_000, 0.001, "queue_size: 10"))
    await_progress(system, dataflow, 3)
    assert connected(system.hosts["left"]) == {gateway_of(system.hosts["left"])}
    end(system, dataflow)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "seconds"), [(64, 1.0), (64, 5.0), (60_000, 5.0)])
@pytest.mark.parametrize("link", ["queue_size: 10", "queue_size: 10, queue_policy: backpressure"])
def test_a_cut_of_a_bypass_loses_nothing_that_is_not_counted(
    system: Spread, link: str, size: int, seconds: float
) -> None:
    dataflow = start(system, flow(size, 0.002, link))
    await_progress(system, dataflow, 1)
    await_bypass(system.hosts["left"])
    system.hosts["right"].cut()
    try:
        time.sleep(seconds)  # the connections last for 3 s
    finally:
        system.hosts["right"].restore()
    system.wait_for_machines("right")
    await_progress(system, dataflow, 2)
    await_bypass(system.hosts["left"])
    counts = end(system, dataflow)
    (sent, *_), (received, dropped) = counts["send"], counts["take0"]
    assert received + dropped == sent
    assert dropped == 0 or "backpressure" not in link


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 60_000])
def test_a_killed_node_leaves_its_bypass_and_the_next_process_gets_another(
    system: Spread, size: int
) -> None:
    text = flow(size, 0.002, "queue_size: 1000").replace("send.py,", "send.py, restart_policy: on-failure,")
    dataflow = start(system, text)
    left = system.hosts["left"]
    for _ in range(3):
        await_progress(system, dataflow, 1)
        await_bypass(left)
        (node,) = connected(left) - {gateway_of(left)}
        os.kill(node, signal.SIGKILL)
        wait_until(lambda node=node: node not in connected(left), "the end of the bypass")
    await_progress(system, dataflow, 1)
    counts = end(system, dataflow)
    (sent, *_), (received, dropped) = counts["send"], counts["take0"]
    assert received + dropped == sent
