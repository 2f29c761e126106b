"""A third host on the ports of links, and a network that delays, loses and reorders: ``make stress``."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_system import Spread, spread_over
from hosts import network
from rounds import FEW, ROUNDS, SEED
from waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.stress, pytest.mark.timeout(1800)]

Figure = Callable[[str], None]

NODES = {
    # Sends numbers, and prints how many in the end.
    "steady.py": """
        import os, sys, time
        import numpy as np
        from dora import Node

        node, number = Node(), 0
        while not os.path.exists("enough"):
            size = 200_000 if number % 50 == 49 else 100
            node.send_output("out", np.full(size, number))
            number += 1
            time.sleep(0.002)
        print("sent", number, "in all", flush=True)
    """,
    "echo.py": """
        from dora import Node

        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                node.send_output("out", event["value"])
    """,
    "collect.py": """
        import time
        from dora import Node

        node, taken, last = Node(), {}, time.monotonic()
        for event in node:
            if event["type"] == "INPUT":
                values = event.numpy()
                count, newest = taken.get(event["id"], (0, -1))
                assert values[0] == values[-1] > newest, (event["id"], values[0], newest)
                taken[event["id"]] = count + 1, int(values[0])
                if time.monotonic() - last > 0.5:
                    last = time.monotonic()
                    open("progress", "w").write(str(taken["back"][0] if "back" in taken else 0))
            elif event["type"] != "STOP":
                print(event["type"], event.get("id") or "", event.get("error") or "", flush=True)
        for name, counted in node.statistics()["inputs"].items():
            count, newest = taken[name]
            assert count == counted["received"]
            print(f"{name}: {count} received, {counted['dropped']} dropped, the last {newest}", flush=True)
    """,
}
# `back` has crossed both ways and loses nothing; `there` may drop, and counts it.
DATAFLOW = """
    nodes:
      - {id: steady, path: steady.py, outputs: [out], deploy: {machine: left}}
      - id: echo
        path: echo.py
        outputs: [out]
        deploy: {machine: right}
        inputs: {in: {source: steady/out, queue_size: 20, queue_policy: backpressure}}
      - id: collect
        path: collect.py
        deploy: {machine: left}
        inputs: {back: {source: echo/out, queue_size: 20, queue_policy: backpressure}}
      - id: other
        path: collect.py
        deploy: {machine: right}
        inputs: {there: {source: steady/out, queue_size: 5}}
"""

STRANGER = """
import json, random, resource, socket, sys, time

what, rounds, seed, dataflow, *targets = sys.argv[1:]
targets = [(address, int(port)) for address, port in (target.split(":") for target in targets)]
chance = random.Random(int(seed))
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
done = 0

def connection(target):
    try:
        return socket.create_connection(target, timeout=5)
    except OSError:
        return None  # closed at the limit

if what == "garbage":
    # Random bytes; a length and less than that; a huge length; TLS; HTTP. Half of them at the gateway.
    beginnings = (
        b"", b"\\xff\\xff", b"\\x00\\x00", b"\\x10\\x00\\x01\\x09", b"\\x16\\x03\\x01\\x02\\x00\\x01",
        b"GET / HTTP/1.1\\r\\n\\r\\n",
    )
    for _ in range(int(rounds)):
        for target in targets:
            if (stranger := connection(target)) is not None:
                try:
                    stranger.sendall(dataflow.encode() * chance.randrange(2))
                    stranger.sendall(chance.choice(beginnings) + chance.randbytes(chance.randrange(5000)))
                    if chance.random() < 0.5:
                        stranger.settimeout(0.05)
                        stranger.recv(1000)
                except OSError:
                    pass
                stranger.close()
                done += 1
elif what == "secrets":
    from dora.gateway.meeting import Meeting
    from dora.wire.node_config import RemoteConfig
    for _ in range(int(rounds)):
        for address, port in targets:
            remote = RemoteConfig("127.0.0.1:0", {}, chance.choice(("", chance.randbytes(16).hex())))
            machine = chance.choice(("left", "right", "stranger"))
            meeting = Meeting(dataflow, machine, remote, sys.argv[0] + "socket", print)
            try:
                meeting._connect("left", f"{address}:{port}", chance.randbytes(8), range(3))
            except (OSError, ValueError):
                done += 1
            else:
                print("WAS LET IN", address, port, flush=True)
            meeting.close()
else:
    held = []
    for target in targets:
        held += [one for _ in range(int(rounds)) if (one := connection(target)) is not None]
    done = len(held)
    print("done", done, flush=True)
    sys.stdin.read()
print("done", done, flush=True)
"""


@pytest.fixture
def system(namespaces: None, tmp_path: Path) -> Iterator[Spread]:  # noqa: ARG001
    with network("left", "right", "stranger", impaired=True) as hosts:
        machines = {name: hosts[name] for name in ("left", "right")}
        with spread_over(machines, tmp_path) as system:
            system.hosts = hosts
            system.write({**NODES, "flow.yml": DATAFLOW})
            yield system


def progress(system: Spread) -> int:
    try:
        return int((system.folder / "progress").read_text() or 0)
    except FileNotFoundError:
        return 0


def goes_on(system: Spread, messages: int = 100) -> None:
    """Wait until so many more messages have been there and back."""
    before = progress(system)
    wait_until(lambda: progress(system) > before + messages, lambda: "traffic to go on")


def finish(system: Spread, dataflow: str) -> tuple[int, int]:
    """End the dataflow; return how many messages were sent and dropped, after checking the accounts."""
    (system.folder / "enough").touch()
    system.wait_for(dataflow, "Finished")
    logs = system.logs(dataflow)
    found = re.search(r"sent (\d+) in all", logs)
    assert found is not None, logs
    sent = int(found[1])
    assert f"back: {sent} received, 0 dropped, the last {sent - 1}" in logs
    found = re.search(r"there: (\d+) received, (\d+) dropped, the last (\d+)", logs)
    assert found is not None, logs
    received, dropped, last = map(int, found.groups())
    assert (received + dropped, last) == (sent, sent - 1)
    assert "NODE_FAILED" not in logs and "Traceback" not in logs
    return sent, dropped


def ports(system: Spread) -> list[str]:
    """Return every port of the two machines that a third one reaches."""
    hosts = [system.hosts[name] for name in ("left", "right")]
    return sorted(f"{host.address}:{port}" for host in hosts for port in host.listening())


def open_files(system: Spread) -> dict[int, int]:
    """Return the number of open files of each node, by process."""
    return {
        pid: len(list(Path(f"/proc/{pid}/fd").iterdir()))
        for name in ("left", "right")
        for pid in system.hosts[name].pids()
        if any(script.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() for script in NODES)
    }


@pytest.mark.parametrize("what", ["garbage", "secrets", "idle"])
def test_strangers_on_the_ports_of_links(system: Spread, what: str, figure: Figure) -> None:
    dataflow = system.start("flow.yml")
    wait_until(lambda: progress(system), lambda: f"traffic: {system.logs(dataflow)}")
    targets, before = ports(system), open_files(system)
    assert len(targets) == 3 and len(before) == 4, (targets, before)
    rounds = {"garbage": 3 * ROUNDS, "secrets": FEW, "idle": 900}[what]
    stranger = system.hosts["stranger"].popen(
        [sys.executable, "-c", STRANGER, what, str(rounds), str(SEED), dataflow, *targets],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert stranger.stdout is not None
    if what == "idle":
        assert (printed := stranger.stdout.readline()).startswith("done"), printed
        goes_on(system, 300)
        assert system.status(dataflow) == "Running"  # the coordinator answers as well
        printed, _ = stranger.communicate("")
    else:
        while stranger.poll() is None:
            goes_on(system, 20)
        printed = stranger.stdout.read()
    assert "WAS LET IN" not in printed
    goes_on(system)

    def as_before() -> bool:
        return all(count <= before[pid] + 2 for pid, count in open_files(system).items())

    wait_until(as_before, lambda: f"the end of the connections: {before}, {open_files(system)}")
    sent, dropped = finish(system, dataflow)
    figure(
        f"{what} from a third host: {printed.split()[-1]} connections to {len(targets)} ports; "
        f"{sent} messages there and back, none lost; {dropped} dropped by the other link, all counted"
    )


def test_a_network_that_delays_loses_and_reorders(system: Spread, figure: Figure) -> None:
    dataflow = system.start("flow.yml")
    wait_until(lambda: progress(system), lambda: f"traffic: {system.logs(dataflow)}")
    right = system.hosts["right"]
    kinds = (
        {"delay": 0.02},
        {"jitter": 0.01},
        {"loss": 0.02},
        {"delay": 0.005, "jitter": 0.005, "loss": 0.01},
    )
    started = time.monotonic()
    rounds = FEW
    for _ in range(rounds):
        for kind in kinds:
            right.impair(**kind)
            goes_on(system, 30)
        right.cut()
        time.sleep(0.5)
        right.restore()
    right.impair()
    goes_on(system)
    seconds = time.monotonic() - started
    sent, dropped = finish(system, dataflow)
    figure(
        f"delay, reordering, loss and cuts, {rounds} times each in {seconds:.0f} s: {sent} messages there "
        f"and back, none lost; {dropped} dropped by the other link, all counted"
    )
