"""Six nodes with messages of all sizes, one of them killed and restarted again and again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest
from arena import Arena, account, kill, programs_of, script_of, watch_memory
from rounds import SECONDS, generator
from waiting import TIMEOUT, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.stress, pytest.mark.timeout(900)]

# Every message says who sent it, in which life, as which of its messages, how long it is and what its
# last byte is.
COMMON = """
    import random, struct
    import numpy as np
    from dora import Node

    HEAD = struct.Struct("<4sIII")

    class Writer:
        def __init__(self, node, name, seed, sizes):
            self.node, self.name, self.sizes = node, name.encode(), sizes
            self.random, self.numbers = random.Random(seed), {}

        def send(self, output):
            number = self.numbers.get(output, 0)
            self.numbers[output] = number + 1
            size = self.random.choice(self.sizes)
            message = np.full(HEAD.size + size, number % 251, np.uint8)
            head = HEAD.pack(self.name, self.node.restart_count(), number, size)
            message[:HEAD.size] = np.frombuffer(head, np.uint8)
            self.node.send_output(output, message, {"number": number})
            if number % 100 == 0:
                self.node.send_output("empty", b"")

    class Checker:
        def __init__(self):
            self.last, self.received, self.others, self.empty = {}, 0, [], 0

        def check(self, event):
            if event["type"] != "INPUT":
                self.others.append(event["type"])
                return
            values = event.numpy()
            if not len(values):
                self.empty += 1
                return
            name, life, number, size = HEAD.unpack(values[:HEAD.size].tobytes())
            assert len(values) == HEAD.size + size, (len(values), size)
            assert (values[HEAD.size:] == number % 251).all(), (name, number)
            assert event["metadata"]["number"] == number
            key = event["id"], life
            assert number > self.last.get(key, -1), (key, number, self.last[key])
            self.last[key] = number
            self.received += 1

        def report(self):
            kinds = {kind: self.others.count(kind) for kind in sorted(set(self.others))}
            print("end", self.received, self.empty, kinds, flush=True)
"""
CAMERA = """
    from common import *
    node = Node()
    writer = Writer(node, "came", 1, [0, 1000, 70_000, 900_000, 3 << 20, 8 << 20])
    for event in node:
        if event["type"] == "INPUT":
            writer.send("out")
"""
IMU = """
    from common import *
    node = Node()
    writer = Writer(node, "imu ", 2, [0, 1, 8, 50, 4000, 5000])
    for event in node:
        if event["type"] == "INPUT":
            for _ in range(20):
                writer.send("out")
            print("sent", writer.numbers["out"], flush=True)
"""
FUSE = """
    from common import *
    node, checker = Node(), Checker()
    writer = Writer(node, "fuse", node.restart_count(), [0, 8, 64, 5000, 70_000, 1 << 20])
    print("up", flush=True)
    for event in node:
        checker.check(event)
        if event["type"] == "INPUT":
            writer.send("out")
    checker.report()
"""
CHECK = """
    from common import *
    checker = Checker()
    for event in Node():
        checker.check(event)
    checker.report()
"""
WARM_UP = 5  # kills until the pools have grown to what waits for a killed process; a short run has fewer
UNDISTURBED = 5.0  # seconds from the first start to the first kill
FUSED, IMAGE, STATE = "fuse/out", "camera/out", "imu/out"


def pressed(source: str, queue_size: int) -> dict[str, object]:
    return {"source": source, "queue_size": queue_size, "queue_policy": "backpressure"}


def sent_before(arena: Arena, time_ns: int) -> int:
    """Return how many messages `imu` had reported by then."""
    reports = [entry for entry in arena.entries if entry.node_id == "imu" and entry.timestamp_ns <= time_ns]
    numbers = [int(entry.message.split()[1]) for entry in reports if entry.message.startswith("sent ")]
    return max(numbers, default=0)


def test_soak(arena: Arena, figure: Callable[[str], None]) -> None:
    arena.file("common.py", COMMON)
    arena.node("camera", CAMERA, inputs={"tick": "dora/timer/millis/20"}, outputs=["out", "empty"])
    arena.node("imu", IMU, inputs={"tick": "dora/timer/millis/10"}, outputs=["out", "empty"])
    arena.node(
        "fuse",
        FUSE,
        inputs={"image": IMAGE, "state": pressed(STATE, 5), "nothing": pressed("imu/empty", 1)},
        outputs=["out", "empty"],
        restart_policy="on-failure",
    )
    arena.node("writer", CHECK, inputs={"fused": pressed(FUSED, 3), "nothing": "fuse/empty"})
    arena.node("viewer", CHECK, inputs={"image": IMAGE, "fused": {"source": FUSED, "queue_size": 1}})
    arena.node("watcher", CHECK, inputs={"state": pressed(STATE, 100), "image": pressed(IMAGE, 2)})

    random, done = generator("soak"), threading.Event()
    kills: list[int] = []  # when, in ns since the epoch

    def restart_again_and_again() -> None:
        wait_until(starts, "the first start")
        done.wait(UNDISTURBED)
        # Not at the end: who dies in a dataflow that is being stopped is not restarted.
        last = started + SECONDS - 5.0
        while not done.wait(random.uniform(1.0, 4.0)):
            if starts() <= len(kills):
                continue  # a busy machine takes its time, and a restart is told once the node is up
            if len(kills) == WARM_UP:
                memory.mark()
            if time.monotonic() >= last:
                continue
            fuses = [pid for pid in programs_of(os.getpid()) if script_of(pid) == "fuse"]
            kills.extend(time.time_ns() for pid in fuses if kill(pid))

    def starts() -> int:
        return arena.lines("fuse").count("up")

    started, started_ns = time.monotonic(), time.time_ns()
    killer = threading.Thread(target=restart_again_and_again, daemon=True)
    killer.start()
    try:
        with watch_memory(arena, every=0.25) as memory:
            result = arena.run(stop_after=SECONDS)
    finally:
        done.set()
        killer.join()
    assert time.monotonic() - started < SECONDS + TIMEOUT, "it was slow to stop"
    assert kills
    assert starts() in (len(kills), len(kills) + 1), "it was not restarted in time"
    # How fast a machine is depends on what else it does, so the rate without kills is the measure. While
    # `fuse` starts again, a sender under back-pressure waits.
    ups = [
        entry.timestamp_ns for entry in arena.entries if (entry.node_id, entry.message) == ("fuse", "up")
    ]
    ends = [*kills, started_ns + int(SECONDS * 1e9)]
    up_ns = sum(max(end - up, 0) for up, end in zip(ups, ends, strict=False))
    undisturbed = sent_before(arena, kills[0]) / (kills[0] - ups[0])  # messages per ns
    assert undisturbed > 0
    messages = 0
    for report in result.links:
        account(result, report.link)
        messages += report.sent
        lossless = report.policy == "backpressure" and "fuse" not in report.link
        assert not lossless or report.dropped == 0, report
        assert report.received > 0, report
        if report.link.startswith(STATE):
            assert report.sent / up_ns > undisturbed / 4, (report, up_ns / 1e9, undisturbed * 1e9)
    for name in ("writer", "viewer"):
        (said,) = [line for line in arena.lines(name) if line.startswith("end")]
        assert f"'NODE_RESTARTED': {starts() - 1}" in said, said
    # The camera's pool grows to what was ever queued at once: 10 + 10 + 2 images and those in hand.
    assert max(memory.shared) < 24 * 8, memory.shared
    if len(kills) > WARM_UP:
        assert memory.flat(memory.shared, slack=32), memory.shared
    for name in ("camera", "imu", "writer", "viewer", "watcher"):
        assert memory.flat(memory.nodes[name], slack=16), (name, memory.nodes[name])
    figure(
        f"soak of {SECONDS:g} s, six nodes, 0 B to 8 MiB: {len(kills)} kills and restarts of one node, "
        f"{messages} messages, each accounted for; /dev/shm at most {max(memory.shared):.0f} MiB"
    )
