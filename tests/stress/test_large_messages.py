"""Messages of up to 1 GiB through real nodes, and queues that do not fit into /dev/shm."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from arena import Arena, account, watch_memory
from own_shm import needs_own_shm, within_own_shm

pytestmark = [
    pytest.mark.processes,
    pytest.mark.stress,
    pytest.mark.timeout(900),
]

Figure = Callable[[str], None]


@pytest.fixture(autouse=True)
def engine_shm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DORA_ENGINE", "shm")


SIZES = [0, 1, 4095, 4097, 8128, 8129, 65_536, (1 << 20) + 1, 64 << 20, (1 << 28) + 3, 1 << 30]

SENDER = f"""
    import os
    import numpy as np
    from dora import Node

    run = f"/dora_{{os.environ['DORA_RUN_ID'].rpartition('-')[2]}}_"  # others run beside it

    def used():
        files = [os.path.join(folder, name) for folder, _, names in os.walk("/dev/shm") for name in names]
        return sum(os.stat(path).st_blocks * 512 for path in files if run in path) / 2**20

    node, most = Node(), 0.0
    for number, size in enumerate({SIZES}):
        node.send_output("out", np.full(size, 2 * number, np.uint8))
        with node.loan("out", (size,), "uint8") as array:
            array[:] = 2 * number + 1
        del array
        most = max(most, used())
    for number in range(700):
        node.send_output("out", bytes([number % 251]))
    print(f"at most {{most:.0f}} MiB, {{used():.1f}} MiB after 700 small messages", flush=True)
    assert most > 1000 and used() < 3
"""
RECEIVER = f"""
    from dora import Node

    events = (event for event in Node() if event["type"] == "INPUT")
    for number, size in enumerate({SIZES}):
        for value in (2 * number, 2 * number + 1):
            array = next(events).numpy()
            assert len(array) == size, (len(array), size)
            assert (array[:5000] == value).all() and (array[-5000:] == value).all()
            assert (array[::1021] == value).all()
            del array
    print(sum(1 for event in events))
"""


def test_messages_of_0_bytes_to_1_gibibyte_arrive_whole_and_their_memory_comes_back(
    arena: Arena, figure: Figure
) -> None:
    arena.node("sender", SENDER, outputs=["out"])
    inputs = {"in": {"source": "sender/out", "queue_size": 1, "queue_policy": "backpressure"}}
    arena.node("receiver", RECEIVER, inputs=inputs)
    with watch_memory(arena) as memory:
        result = arena.run()
    report = account(result, "sender/out -> receiver/in")
    assert (report.sent, report.dropped) == (2 * len(SIZES) + 700, 0)
    assert arena.lines("receiver") == ["700"]
    (said,) = arena.lines("sender")
    figure(
        f"shm: 0 B to 1 GiB, each once sent and once lent: /dev/shm {said}; receiver at most "
        f"{max(memory.nodes['receiver']):.0f} MiB of its own"
    )


QUEUE_SENDER = """
    import numpy as np
    from dora import Node, SharedMemoryFull

    node, refused = Node(), []
    message = np.zeros(1 << 30, np.uint8)
    for number in range(10):
        try:
            node.send_output("out", message)
        except SharedMemoryFull as error:
            refused.append(error)
    print("refused", len(refused), refused[0], flush=True)
    open("sent", "w").close()
"""
QUEUE_RECEIVER = """
    import os, time
    from dora import Node

    node = Node()
    while not os.path.exists("sent"):
        time.sleep(0.01)
    print("received", sum(len(event["value"]) == 1 << 30 for event in node if event["type"] == "INPUT"))
"""


@needs_own_shm
def test_a_queue_of_messages_that_does_not_fit_is_an_error(arena: Arena) -> None:
    arena.node("sender", QUEUE_SENDER, outputs=["out"])
    arena.node("receiver", QUEUE_RECEIVER, inputs={"in": {"source": "sender/out", "queue_size": 10}})
    run = [sys.executable, "-m", "dora", "run", arena.write(), "--log-format", "compact"]
    done = subprocess.run(
        within_own_shm("3600m", *run), cwd=arena.directory, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sender: refused 7 output `out`: the message needs 107" in done.stdout, done.stdout
    assert "receiver: received 3" in done.stdout
