"""Nodes that are killed and restarted again and again: each message arrives once, or counts as lost."""

from __future__ import annotations

import pytest
from flow import Flow, link

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("engine")]

LIVES = 4

# `alarm` ends the process at any moment, within any instruction, like SIGKILL.
COMMON = f"""
    import itertools, os, random, signal, sys
    from dora import Node

    node = Node()

    LIVES = {LIVES}

    def live():
        random.seed(f"{{sys.argv}} {{node.restart_count()}}")
        if node.restart_count() < {LIVES}:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.02, 0.3))
"""
SENDER = f"""
    from common import *
    import numpy as np
    live()
    last = node.restart_count() == {LIVES}
    rest = 300  # to send when all others have their last life, too
    for count in itertools.count():
        rest -= last and os.path.exists("last-one") and os.path.exists("last-two")
        if not rest:
            break
        number = count % 251
        size = random.choice((10, 5000, 20_000, 300_000))
        if random.random() < 0.5:
            node.send_output("out", np.full(size, number, np.uint8))
        else:
            with node.loan("out", (size,), "uint8") as array:
                array[:] = number
        if count % 20 == 0:
            node.next(timeout=0.002)
"""
# Marks the time of sending of each message that it gets in a file.
RECEIVER = """
    from common import *
    from collections import deque
    live()
    if node.restart_count() == LIVES:
        open(f"last-{sys.argv[1]}", "w").close()
    got = os.open(f"got-{sys.argv[1]}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    kept = deque(maxlen=5)
    for event in node:
        if event["type"] == "INPUT":
            os.write(got, f"{event.send_time.timestamp():.6f}\\n".encode())
            kept.append(event.numpy())
            for array in kept:
                assert (array == array[0]).all(), "written while it was held"
    print("end", flush=True)
"""


def test_each_message_is_received_once_or_counted_as_lost(flow: Flow) -> None:
    flow.file("common.py", COMMON)
    restarts = {"restart_policy": "on-failure", "max_restarts": 2 * LIVES, "restart_delay": 0.01}
    flow.node("sender", SENDER, outputs=["out"], **restarts)
    for name, size in (("one", 3), ("two", 30)):
        flow.node(
            name,
            RECEIVER,
            args=name,
            inputs={"in": {"source": "sender/out", "queue_size": size}},
            **restarts,
        )
    result = flow.run()
    for name in ("one", "two"):
        report = link(result, f"sender/out -> {name}/in")
        assert report.unread == 0
        got = (flow.directory / f"got-{name}").read_text().split()
        assert got == sorted(set(got)), "a message came twice, or out of order"
        # The last message of each life may be counted, and not written down.
        assert report.received - LIVES <= len(got) <= report.received, report
        assert report.sent > 300
        assert flow.printed(name)[-1] == "end"
