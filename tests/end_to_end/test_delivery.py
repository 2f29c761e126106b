"""What is sent arrives, or is counted as lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flow import Flow, link

pytestmark = pytest.mark.processes

SENDER = """
    import sys
    import numpy as np
    from dora import Node

    count, size = int(sys.argv[1]), int(sys.argv[2])
    node = Node()
    frame = np.zeros(size, np.uint8)
    for number in range(count):
        frame[:4] = np.frombuffer(number.to_bytes(4, "little"), np.uint8)
        node.send_output("out", frame)
"""

# Slow by work, not by sleeping: sleeping has its own ideas of time on a busy machine.
SLOW_RECEIVER = """
    import sys
    from dora import Node

    work = int(sys.argv[1])
    node = Node()
    received, last, types = 0, -1, []
    for event in node:
        if event["type"] != "INPUT":
            types.append(event["type"])
            continue
        number = int.from_bytes(event["value"].buffers()[1][:4].to_pybytes(), "little")
        assert number > last, f"{number} after {last}"
        received, last = received + 1, number
        sum(range(work))
    print(received, last, *types)
"""


def test_each_of_many_receivers_of_an_output_gets_every_message(flow: Flow) -> None:
    """They have several channels: a message is sent once for each of these."""
    flow.node("sender", SENDER, args="20 20000", outputs=["out"])
    source = {"source": "sender/out", "queue_size": 20}
    flow.node(
        "receiver",
        """
        from collections import Counter
        from dora import Node

        counts = Counter(event["id"] for event in Node() if event["type"] == "INPUT")
        print(len(counts), set(counts.values()))
        """,
        inputs={f"in{number}": source for number in range(40)},
    )
    result = flow.run()
    assert flow.printed("receiver") == ["40 {20}"]
    assert {(each.received, each.dropped) for each in result.links} == {(20, 0)}


@pytest.mark.parametrize(
    ("policy", "queue_size"),
    [("drop_oldest", 1), ("drop_oldest", 10), ("drop_oldest", 1000), ("backpressure", 10)],
)
@pytest.mark.parametrize(("count", "size", "work"), [(20_000, 8, 1500), (200, 4 << 20, 100_000)])
def test_every_sent_message_is_received_or_counted_as_dropped(
    flow: Flow, policy: str, queue_size: int, count: int, size: int, work: int
) -> None:
    flow.node("sender", SENDER, args=f"{count} {size}", outputs=["out"])
    flow.node(
        "receiver",
        SLOW_RECEIVER,
        args=str(work),
        inputs={"in": {"source": "sender/out", "queue_size": queue_size, "queue_policy": policy}},
    )
    report = link(flow.run(), "sender/out -> receiver/in")
    (line,) = flow.printed("receiver")
    received, last, *types = line.split()
    assert report.sent == count
    assert report.received == int(received)
    assert report.unread == 0
    assert int(last) == count - 1  # the newest is never the one that is lost
    assert types == ["INPUT_CLOSED", "STOP"]
    if policy == "backpressure":
        assert report.dropped == 0


def test_a_receiver_that_ends_early_leaves_messages_unread(flow: Flow) -> None:
    flow.node("sender", SENDER, args="1000 8", outputs=["out"])
    flow.node(
        "receiver",
        """
        from dora import Node
        node = Node()
        for _ in range(3):
            assert node.next()["type"] == "INPUT"
        """,
        inputs={"in": {"source": "sender/out", "queue_size": 5, "queue_policy": "backpressure"}},
    )
    report = link(flow.run(), "sender/out -> receiver/in")
    assert (report.received, report.dropped) == (3, 0)
    assert report.unread <= 1000 - 3


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("end", ["", "import sys; sys.exit(0)", "import os; os._exit(0)"])
@pytest.mark.parametrize("size", [3, 1 << 20])
def test_the_message_of_a_sender_that_exits_at_once_arrives(flow: Flow, end: str, size: int) -> None:
    flow.node(
        "sender",
        f"from dora import Node\nNode().send_output('out', b'x' * {size})\n{end}\n",
        outputs=["out"],
    )
    flow.node(
        "receiver",
        """
        from dora import Node
        for event in Node():
            print(event["type"], len(event["data"]) if event["type"] == "INPUT" else event["id"])
        """,
        inputs={"in": "sender/out"},
    )
    report = link(flow.run(), "sender/out -> receiver/in")
    assert flow.printed("receiver") == [f"INPUT {size}", "INPUT_CLOSED in", "STOP ALL_INPUTS_CLOSED"]
    assert (report.sent, report.received) == (1, 1)


def test_messages_of_every_size_arrive_whole(flow: Flow, engine: str) -> None:
    sizes = [0, 1, 63, 64, 65, 3071, 3072, 3073, 4095, 4096, 4097, 65536, 1 << 20, (16 << 20) + 1]
    sizes.append(64 << 20 if engine == "iceoryx2" else 32 << 20)
    (flow.directory / "sizes.json").write_text(json.dumps(sizes))
    flow.node(
        "sender",
        """
        import json
        import numpy as np
        from dora import Node
        node = Node()
        for size in json.load(open("sizes.json")):
            node.send_output("out", np.arange(size, dtype=np.uint8), {"size": size})
        """,
        outputs=["out"],
    )
    flow.node(
        "receiver",
        """
        import numpy as np
        from dora import Node
        for event in Node():
            if event["type"] == "INPUT":
                size = event["metadata"]["size"]
                value = event["value"]
                assert len(value) == size and value.buffers()[1].size == size
                assert (event.numpy() == np.arange(size, dtype=np.uint8)).all()
                print(size)
        """,
        inputs={"in": {"source": "sender/out", "queue_size": 2, "queue_policy": "backpressure"}},
    )
    report = link(flow.run(), "sender/out -> receiver/in")
    assert [int(line) for line in flow.printed("receiver")] == sizes
    assert report.received == len(sizes)


def test_back_pressure_loses_nothing(flow: Flow, engine: str) -> None:
    flow.node("sender", SENDER, args="2000 8", outputs=["out"])
    flow.node(
        "receiver",
        SLOW_RECEIVER,
        args="3000",
        inputs={"in": {"source": "sender/out", "queue_size": 3, "queue_policy": "backpressure"}},
    )
    report = link(flow.run(), "sender/out -> receiver/in")
    assert (report.sent, report.received, report.dropped) == (2000, 2000, 0), engine
    assert flow.printed("receiver") == ["2000 1999 INPUT_CLOSED STOP"]


def test_drop_oldest_counts_on_every_engine(flow: Flow, engine: str) -> None:
    flow.node("sender", SENDER, args="5000 8", outputs=["out"])
    flow.node("receiver", SLOW_RECEIVER, args="2000", inputs={"in": "sender/out"})
    report = link(flow.run(), "sender/out -> receiver/in")
    assert (report.sent, report.unread) == (5000, 0), engine
    assert flow.printed("receiver") == [f"{report.received} 4999 INPUT_CLOSED STOP"]


def test_a_receiver_that_keeps_every_message_blocks_no_sender(flow: Flow) -> None:
    flow.node("sender", SENDER, args="300 65536", outputs=["out"])
    flow.node(
        "keeper",
        """
        from dora import Node
        kept = [event["value"] for event in Node() if event["type"] == "INPUT"]
        numbers = [int.from_bytes(array.buffers()[1][:4].to_pybytes(), "little") for array in kept]
        assert numbers == list(range(300)), numbers
        print(len(kept))
        """,
        inputs={"in": {"source": "sender/out", "queue_policy": "backpressure"}},
    )
    flow.node(
        "other",
        SLOW_RECEIVER,
        args="0",
        inputs={"in": {"source": "sender/out", "queue_policy": "backpressure"}},
    )
    flow.run()
    assert flow.printed("keeper")[-1] == "300"
    assert flow.printed("other") == ["300 299 INPUT_CLOSED STOP"]


def test_metadata_of_every_type_arrives(flow: Flow, engine: str) -> None:
    metadata: dict[str, Any] = {
        "flag": True,
        "int": -5,
        "float": 0.5,
        "text": "größe",
        "nothing": None,
        "list": [1, "two", [3.0, None]],
        "nested": {"a": {"b": {"c": [{"d": 1}]}}},
    }
    (flow.directory / "metadata.json").write_text(json.dumps(metadata))
    flow.node(
        "sender",
        """
        import json
        from dora import Node
        Node().send_output("out", b"x", json.load(open("metadata.json")))
        """,
        outputs=["out"],
    )
    flow.node(
        "receiver",
        """
        import json
        from dora import Node
        metadata = Node().next()["metadata"]
        del metadata["timestamp"]
        print(json.dumps(metadata, ensure_ascii=True))
        """,
        inputs={"in": "sender/out"},
    )
    flow.run()
    assert json.loads(flow.printed("receiver")[0]) == metadata, engine


@pytest.mark.slow
@pytest.mark.both_ways
def test_every_receiver_of_an_output_gets_each_message(flow: Flow, engine: str) -> None:
    flow.node("sender", SENDER, args="500 8", outputs=["out"])
    for name in ("a", "b", "c"):
        flow.node(
            name,
            SLOW_RECEIVER,
            args="0",
            inputs={"in": {"source": "sender/out", "queue_policy": "backpressure"}},
        )
    flow.run()
    for name in ("a", "b", "c"):
        assert flow.printed(name) == ["500 499 INPUT_CLOSED STOP"], engine
