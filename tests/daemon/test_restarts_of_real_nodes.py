"""Restarts with the real `Node` over shared memory: nothing is lost that was sent before the crash."""

from __future__ import annotations

import pytest
from running import Bench

from dora.dataflow.model import InputSpec, NodeOutput, RestartOptions

pytestmark = pytest.mark.processes

CRASHES = 6  # more than a channel has room for processes that are not cleaned up

SENDER = f"""
    import os
    from dora import Node
    node = Node()
    for number in range(5):
        node.send_output("x", bytes([node.restart_count(), number]))
    if node.restart_count() < {CRASHES}:
        os._exit(3)
"""
COUNTER = """
    from dora import Node
    got = []
    for event in Node():
        if event["type"] == "INPUT":
            got.append(tuple(event["data"]))
    print(got == [(life, number) for life in range(7) for number in range(5)], len(got))
"""


def test_a_sender_that_crashes_again_and_again_loses_nothing(bench: Bench) -> None:
    counter = bench.node("b", COUNTER)
    result = bench.run(
        bench.node("a", SENDER, outputs=("x",), restart=RestartOptions("on-failure")),
        type(counter)(
            "b", path=counter.path, inputs=(InputSpec("x", NodeOutput("a", "x"), queue_size=100),)
        ),
    )
    assert result.ok
    assert bench.lines("b") == ["True 35"]
    (link,) = result.links
    assert (link.sent, link.received, link.dropped, link.unread) == (35, 35, 0, 0)


# It says on the disk which of its processes runs.
LIVES_ON_DISK = SENDER.replace("node = Node()", "node = Node(); open(str(node.restart_count()), 'w')")
LATE_COUNTER = (
    COUNTER.replace(
        "got = []",
        """node, got = Node(), []
    deadline = time.monotonic() + 0.5  # less than a restart waits for the messages to be read
    while not os.path.exists("3") and time.monotonic() < deadline:
        time.sleep(0.01)""",
    )
    .replace("in Node()", "in node")
    .replace("from dora", "import os, time\n    from dora")
)


def test_a_restart_waits_until_the_messages_of_former_processes_are_read(bench: Bench) -> None:
    counter = bench.node("b", LATE_COUNTER)
    result = bench.run(
        bench.node("a", LIVES_ON_DISK, outputs=("x",), restart=RestartOptions("on-failure")),
        type(counter)(
            "b", path=counter.path, inputs=(InputSpec("x", NodeOutput("a", "x"), queue_size=100),)
        ),
    )
    assert result.ok
    assert bench.lines("b") == ["True 35"]


BEATS = """
    import os, time
    from dora import Node
    node = Node()
    while len([name for name in os.listdir() if name.startswith("second-")]) < 12:
        node.send_output("x", b"beat")
        event = node.next(timeout=0.002)
        assert event is None or event["type"] != "STOP", "they have given up"
"""
FALLS_ONCE = """
    import os
    from dora import Node
    node = Node()
    for event in node:
        if event["type"] == "INPUT":
            if node.restart_count() == 0:
                os._exit(3)
            open(f"second-{node.id}", "w").close()
"""


@pytest.mark.slow
def test_many_receivers_of_an_output_are_restarted_at_once(bench: Bench) -> None:
    receivers = [
        bench.node(f"r{number}", FALLS_ONCE, inputs={"x": "a/x"}, restart=RestartOptions("on-failure"))
        for number in range(12)
    ]
    result = bench.run(bench.node("a", BEATS, outputs=("x",)), *receivers)
    assert result.ok
    assert {counts["restarts"] for name, counts in result.node_counts.items()} == {1}


# It dies when all that it sent has been read.
CAMERA = """
    import os
    from dora import Node
    node = Node()
    for number in range(8):
        node.send_output("image", bytes(1 << 20))
    for event in node:
        if event["type"] == "INPUT":
            os._exit(3 if node.restart_count() < 4 else 0)
"""
VIEWER = """
    import os, re
    from dora import Node
    node, images = Node(), []
    for event in node:
        if event["type"] == "INPUT":
            images.append(event)
            if len(images) == 8:
                (run,) = set(re.findall("/dev/shm/(dora_[0-9a-f]+)", open("/proc/self/maps").read()))
                files = (f"/dev/shm/{name}" for name in os.listdir("/dev/shm") if run in name)
                print(sum(os.stat(path).st_blocks for path in files) * 512 / 2**20)
                images, event = [], None
                node.send_output("seen", b"")
"""


def test_what_dead_processes_sent_takes_no_memory_beside_the_next_one(bench: Bench) -> None:
    result = bench.run(
        bench.node(
            "camera",
            CAMERA,
            inputs={"seen": "viewer/seen"},
            outputs=("image",),
            restart=RestartOptions("on-failure"),
        ),
        bench.node("viewer", VIEWER, inputs={"image": "camera/image"}, outputs=("seen",)),
    )
    assert result.ok
    mib = [float(line) for line in bench.lines("viewer")]
    assert len(mib) == 5, mib
    assert max(mib) < 1.5 * mib[0], mib
