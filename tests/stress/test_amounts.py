"""Many messages, big messages, receivers that are slow or keep everything, runs in great number."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable

import pytest
from arena import Arena, account, private_memory, watch_memory
from rounds import ROUNDS, generator
from waiting import TIMEOUT

import dora
from dora.daemon.logs.entry import LogEntry
from dora.transport.interface import MAX_QUEUE

pytestmark = [pytest.mark.processes, pytest.mark.stress, pytest.mark.timeout(900)]

Figure = Callable[[str], None]

SENDER = """
    import sys
    import numpy as np
    from dora import Node

    count, size = int(sys.argv[1]), int(sys.argv[2])
    node = Node()
    message = np.zeros(size // 8, np.uint64)
    for number in range(count):
        message[:] = number
        node.send_output("out", message)
        if number == count // 4:
            print("a quarter", flush=True)
"""
# Slow by work, not by sleeping, which has its own ideas of time on a busy machine.
SLOW_RECEIVER = """
    import sys
    from dora import Node

    work, last, received = int(sys.argv[1]), -1, 0
    for event in Node():
        if event["type"] == "INPUT":
            values = event.numpy()
            number = int(values[0])
            assert number > last and values[-1] == number, (number, last)
            last = number
            received += 1
            sum(range(work))
    print(received, last)
"""


def share_of(count: int) -> int:
    """Return how many of so many messages are sent.

    A third is the least: with fewer, no queue is ever full, and the memory is looked at too rarely to tell.
    """
    return max(count * ROUNDS // 100, count // 3)


@pytest.mark.parametrize(
    ("policy", "queue_size", "usual_count", "size", "work"),
    [
        ("drop_oldest", 10, 1_000_000, 8, 1000),
        ("drop_oldest", 10_000, 1_000_000, 8, 1000),
        ("backpressure", 10, 1_000_000, 8, 1000),
        ("drop_oldest", 10, 1000, 4 << 20, 100_000),
        ("backpressure", 10, 1000, 4 << 20, 100_000),
    ],
)
def test_every_message_is_accounted_for_and_memory_is_flat(
    arena: Arena, figure: Figure, policy: str, queue_size: int, usual_count: int, size: int, work: int
) -> None:
    count = share_of(usual_count)
    arena.node("sender", SENDER, args=f"{count} {size}", outputs=["out"])
    arena.node(
        "receiver",
        SLOW_RECEIVER,
        args=str(work),
        inputs={"in": {"source": "sender/out", "queue_size": queue_size, "queue_policy": policy}},
    )
    started = time.monotonic()
    with watch_memory(arena) as memory:

        def listen(entry: LogEntry) -> None:
            arena.entries.append(entry)
            if entry.message == "a quarter":
                memory.mark()

        result = arena.run(on_log=listen)
    seconds = time.monotonic() - started
    report = account(result, "sender/out -> receiver/in")
    assert arena.lines("receiver") == [f"{report.received} {count - 1}"]
    assert (report.sent, report.unread) == (count, 0)
    if policy == "backpressure":
        assert report.dropped == 0
    else:
        assert report.dropped > 0, "the receiver was not slow"
    # Each message takes at least a page, and as many as are queued may be on their way back to the sender;
    # a receiver may hold 34 large ones.
    samples = 2 * min(queue_size, MAX_QUEUE) if size <= 4096 else queue_size + 34
    assert max(memory.shared) < 8 + 2 * samples * max(size, 4096) / 2**20
    if queue_size < MAX_QUEUE:  # else it grows to that whenever the receiver is late for the first time
        assert memory.flat(memory.shared, slack=2 + size / 2**20)
    for name in ("sender", "receiver"):
        assert memory.flat(memory.nodes[name], slack=4 + queue_size / 1000), (name, memory.nodes[name])
    figure(
        f"{count:,} x {size} B, {policy} {queue_size}: sent {report.sent} = received {report.received} + "
        f"dropped {report.dropped} + unread {report.unread} in {seconds:.0f} s; /dev/shm at most "
        f"{max(memory.shared):.1f} MiB, sender {max(memory.nodes['sender']):.0f} MiB, "
        f"receiver {max(memory.nodes['receiver']):.0f} MiB"
    )


KEEPER = """
    from dora import Node

    kept = []
    for event in Node():
        if event["type"] == "INPUT":
            kept.append(event.numpy())
    assert all((values == number).all() for number, values in enumerate(kept))
    print(len(kept), sum(values.nbytes for values in kept))
"""
OTHER = """
    import time
    from dora import Node

    received, slowest = 0, 0.0
    for event in Node():
        if event["type"] == "INPUT":
            assert event.numpy()[0] == received
            slowest = max(slowest, time.time() - event.send_time.timestamp())
            received += 1
    print(received, slowest)
"""


def test_a_receiver_that_keeps_everything(arena: Arena, figure: Figure) -> None:
    count, size = share_of(500), 1 << 20
    pressed = {"source": "sender/out", "queue_size": 10, "queue_policy": "backpressure"}
    arena.node("sender", SENDER, args=f"{count} {size}", outputs=["out"])
    arena.node("keeper", KEEPER, inputs={"in": pressed})
    arena.node("other", OTHER, inputs={"in": pressed})
    with watch_memory(arena) as memory:
        result = arena.run()
    for name in ("keeper", "other"):
        report = account(result, f"sender/out -> {name}/in")
        assert (report.received, report.dropped) == (count, 0)
    *_, said = arena.lines("keeper")
    assert said == f"{count} {count * size}"
    (said,) = arena.lines("other")
    received, slowest = said.split()
    assert int(received) == count
    assert float(slowest) < TIMEOUT, "the other receiver stalled"
    kept = count * size / 2**20
    shared, keeper = max(memory.shared), max(memory.nodes["keeper"])
    assert shared < 80, "32 held and 10 queued samples and their margin"
    assert keeper < kept + 80
    assert max(memory.nodes["other"]) < 80
    figure(
        f"a receiver keeps {count} x 1 MiB: private memory {keeper:.0f} MiB, /dev/shm at most "
        f"{shared:.0f} MiB; slowest message at the other receiver {float(slowest) * 1000:.0f} ms"
    )


ONCE = """
    import os, signal, sys
    from dora import Node
    way, size = sys.argv[1], int(sys.argv[2])
    Node().send_output("out", bytes([size % 251]) * size)
    if way == "exit":
        sys.exit(0)
    elif way == "_exit":
        os._exit(0)
    else:
        os.kill(os.getpid(), signal.SIGKILL)
"""
LISTENER = """
    from dora import Node
    for event in Node():
        if event["type"] == "INPUT":
            data = event["data"]
            assert data == bytes([len(data) % 251]) * len(data)
            print(event["id"], len(data))
"""
WAYS = ("exit", "_exit", "kill")


def test_what_a_sender_sent_before_its_end_is_received(arena: Arena, figure: Figure) -> None:
    random = generator("once")
    rounds = max(ROUNDS // 2, 1)
    for _ in range(rounds):
        once = Arena(arena.directory, arena.root)
        sizes = {way: random.choice((0, 1, 100, 5000, 70_000, 3_000_000)) for way in WAYS}
        for way in WAYS:
            once.node(f"n{way}", ONCE, args=f"{way} {sizes[way]}", outputs=["out"])
        once.node("listener", LISTENER, inputs={way: f"n{way}/out" for way in WAYS})
        with pytest.raises(dora.DataflowFailed, match="nkill"):
            once.run()
        assert sorted(once.lines("listener")) == sorted(f"{way} {sizes[way]}" for way in WAYS)
        assert once.remains() == []
    figure(f"send once and end at once: {rounds} of {rounds} received, each by exit, os._exit and SIGKILL")


TINY_SENDER = "from dora import Node\nNode().send_output('out', b'hello')\n"
TINY_RECEIVER = "from dora import Node\nprint(*(event['type'] for event in Node()))\n"


def test_runs_in_great_number_in_one_process(arena: Arena, figure: Figure) -> None:
    arena.node("sender", TINY_SENDER, outputs=["out"])
    arena.node("receiver", TINY_RECEIVER, inputs={"in": "sender/out"})
    cycles = 2 * ROUNDS

    def state() -> tuple[int, int, list[str]]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count(), arena.remains()

    before, memory = None, []
    started = time.monotonic()
    for number in range(cycles):
        arena.run()
        assert arena.lines("receiver") == ["INPUT INPUT_CLOSED STOP"]
        if number == cycles // 4:
            before = state()
        if number >= cycles // 4:
            memory.append(private_memory(os.getpid()) or 0.0)
    seconds = time.monotonic() - started
    assert state() == before
    growth = memory[-1] - memory[0]
    assert growth < 2.0, memory
    assert before is not None
    figure(
        f"{cycles} runs in one process: {before[0]} descriptors and {before[1]} threads after "
        f"{cycles // 4 + 1} and after {cycles} runs, memory {growth:+.2f} MiB, "
        f"{seconds / cycles * 1000:.0f} ms each"
    )
