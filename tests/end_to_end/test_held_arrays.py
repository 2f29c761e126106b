"""Arrays that a program keeps: they are valid as long as it has them, whatever becomes of the others."""

from __future__ import annotations

import threading

import pytest
from flow import Flow
from test_life_and_death import join
from waiting import TIMEOUT

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("engine")]

# Sends messages of one number each, and ends in the way that is asked for.
SENDER = """
    import os, signal, sys
    import numpy as np
    from dora import Node

    node, count, end = Node(), int(sys.argv[1]), sys.argv[2]
    for number in range(count):
        if number % 2:
            with node.loan("out", (20_000,), "uint16") as array:
                array[:] = number
        else:
            node.send_output("out", np.full(20_000, number, np.uint16))
    if end == "_exit":
        os._exit(0)
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
"""
# Keeps all arrays beyond the end of its node, and looks at them in threads and in a forked child.
KEEPER = """
    import gc, os, threading, time
    import numpy as np
    from dora import Node

    node, kept, bodies = Node(), [], []
    for event in node:
        if event["type"] == "INPUT":
            kept.append(event.numpy())
            bodies.append(event["value"])

    def check(note):
        for number, (array, body) in enumerate(zip(kept, bodies)):
            assert len(array) == 20_000 and (array == number).all(), (note, number)
            assert (body.to_numpy() == number).all(), (note, number)

    check("at the end of the stream")
    node.close()
    del node, event
    gc.collect()
    check("after the node")
    threads = [threading.Thread(target=check, args=("in a thread",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    child = os.fork()
    if not child:
        try:
            check("in a child")
            kept.clear(), bodies.clear()
            gc.collect()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    check("after a child has let them go")
    print("intact", len(kept), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["exit", "_exit", "kill"])
def test_kept_arrays_outlive_their_sender_and_their_node(flow: Flow, end: str) -> None:
    """More of them than the 32 that stay in shared memory."""
    flow.node("sender", SENDER, args=f"40 {end}", outputs=["out"])
    flow.node(
        "keeper",
        KEEPER,
        inputs={"in": {"source": "sender/out", "queue_size": 50, "queue_policy": "backpressure"}},
    )
    done = flow.run_command("--log-format", "compact")
    assert done.returncode == (1 if end == "kill" else 0), done.stdout + done.stderr
    assert "keeper: intact 40" in done.stdout


REPLACED = """
    import numpy as np
    from dora import Node

    node = Node()
    start = int(node.load_state() or 0) if hasattr(node, "load_state") else 0
    for event in node:
        if event["type"] == "INPUT":
            node.send_output("out", np.full(20_000, start % 60_000, np.uint16))
            start += 1
            if start % 10 == 0:
                node.save_state(str(start).encode())
                raise SystemExit(1)
"""
KEEPS_SOME = """
    from collections import deque
    from dora import Node

    node, kept, seen = Node(), deque(maxlen=25), 0
    for event in node:
        if event["type"] == "INPUT":
            array = event.numpy()
            kept.append((int(array[0]), array))
            seen += 1
            for number, array in kept:
                assert (array == number).all(), number
            if seen == 60:
                print("intact", flush=True)
                break
"""


@pytest.mark.slow
def test_kept_arrays_outlive_senders_that_are_replaced_again_and_again(flow: Flow) -> None:
    flow.node(
        "sender",
        REPLACED,
        inputs={"tick": "dora/timer/millis/5"},
        outputs=["out"],
        restart_policy="always",
        max_restarts=20,
    )
    flow.node("keeper", KEEPS_SOME, inputs={"in": {"source": "sender/out", "queue_size": 50}})
    done = flow.run_command("--log-format", "compact", "--stop-after", "30s")
    assert "keeper: intact" in done.stdout, done.stdout + done.stderr


SOURCE = """
    import numpy as np
    from dora import Node

    node, number = Node(), 0
    for event in node:
        if event["type"] == "INPUT" and event["id"] == "done":
            break
        if event["id"] == "tick":
            node.send_output("out", np.full(20_000, number, np.uint16))
            number += 1
"""


def test_kept_arrays_outlive_the_run(flow: Flow) -> None:
    """A dynamic node lives on when the files of the run are removed."""
    flow.node(
        "source", SOURCE, inputs={"tick": "dora/timer/millis/5", "done": "viewer/done"}, outputs=["out"]
    )
    flow.node("viewer", path="dynamic", inputs={"in": "source/out"}, outputs=["done"])
    thread = threading.Thread(target=flow.run, kwargs={"stop_after": 4 * TIMEOUT})
    thread.start()
    with join("viewer") as viewer:
        kept = [viewer.next(TIMEOUT).numpy() for _ in range(40)]  # type: ignore[union-attr]
        viewer.send_output("done", b"")
        for _ in viewer:
            pass
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    flow.assert_nothing_left()
    for number, array in enumerate(kept, int(kept[0][0])):
        assert (array == number).all()
