"""A forked child process has the node of its parent in its memory, and must not harm it."""

from __future__ import annotations

import pytest
from flow import Flow, link

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("engine")]

COUNTER = """
    from dora import Node

    total, bad = 0, 0
    for event in Node():
        if event["type"] == "INPUT":
            total += 1
            bad += bytes(event["data"][:4]) != b"good"
    print(total, bad)
"""


# Since 3.12, Python warns on stderr of a fork beside other threads.
QUIET = 'import warnings; warnings.filterwarnings("ignore", "This process .* is multi-threaded")'


def add_counter(flow: Flow, source: str = "forker/out") -> None:
    options = {"source": source, "queue_size": 4000, "queue_policy": "backpressure"}
    flow.node("counter", COUNTER, inputs={"in": options})


@pytest.mark.parametrize("size", [8, 100_000])
def test_children_that_send_while_their_parent_does_are_refused_and_not_counted(
    flow: Flow, size: int
) -> None:
    flow.node(
        "forker",
        f"""
        import multiprocessing

        from dora import Node, WrongProcess

        node = Node()
        good, bad = b"good" + bytes({size}), b"bad!" + bytes({size})

        def work():
            for _ in range(50):
                try:
                    node.send_output("out", bad)
                except WrongProcess:
                    continue
                raise SystemExit("it was sent")

        context = multiprocessing.get_context("fork")
        for _ in range(5):
            children = [context.Process(target=work) for _ in range(2)]
            for child in children:
                child.start()
            for _ in range(20):
                node.send_output("out", good)
            for child in children:
                child.join()
                assert child.exitcode == 0, child.exitcode
        assert node.statistics()["outputs"]["out"] == {{"sent": 100}}
        """,
        outputs=["out"],
    )
    add_counter(flow)
    report = link(flow.run(), "forker/out -> counter/in")
    assert (report.sent, report.received) == (100, 100)
    assert flow.printed("counter") == ["100 0"]


@pytest.mark.parametrize("end", ["sys.exit()", "os._exit(0)", "pass"])
def test_every_use_of_the_node_in_a_forked_child_raises_an_error(flow: Flow, end: str) -> None:
    """Its end, in order or not, is not that of the node; a loan of the parent is sent by the parent."""
    flow.node("source", SOURCE, outputs=["out"], inputs={"again": "forker/out"})
    flow.node(
        "forker",
        f"""
        {QUIET}
        import asyncio
        import gc
        import os
        import sys

        import numpy as np

        from dora import Node, WrongProcess

        node = Node()
        kept = [node.next(timeout=60) for _ in range(3)]
        assert all(event["type"] == "INPUT" for event in kept), kept
        held = node.send_output_raw("out", 100_000)
        array = node.loan("out", 100_000)
        array.__enter__()[:] = 7
        call = node.call("out", b"good", reply="in")
        child = os.fork()
        if child == 0:
            deeds = [
                lambda: node.send_output("out", b"bad!"),
                lambda: node.send_output("out", bytes(100_000)),
                lambda: node.send_output("nothing", b"bad!"),
                lambda: node.send_output_raw("out", 10),
                lambda: node.loan("out", 10),
                lambda: held.send(),
                lambda: array.__exit__(None, None, None),
                lambda: node.next(timeout=0.1),
                lambda: node.next(),
                lambda: node.try_recv(),
                lambda: node.drain(),
                lambda: node.is_empty(),
                lambda: asyncio.run(node.recv_async()),
                lambda: next(iter(node)),
                lambda: node.call("out", b"bad!", reply="in"),
                lambda: call.wait(),
                lambda: node.stream("out").send(b"bad!"),
                lambda: node.save_state(b"bad!"),
            ]
            for deed in deeds:
                try:
                    deed()
                except WrongProcess as error:
                    assert "belongs to the process that made it" in str(error)
                    assert "spawn" in str(error)
                else:
                    os._exit(3)
            for event in kept:
                assert bytes(event["data"][:4]) == b"good"
            node.log_info("the child can log")
            node.close()
            del node, kept, event, held, array, call, deeds, deed
            gc.collect()
            {end}
        else:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert status == 0, status
            assert all(bytes(event["data"][:4]) == b"good" for event in kept)
            held.as_buffer()[:4] = b"good"
            held.send()
            array.__enter__()[:4] = np.frombuffer(b"good", np.uint8)
            array.__exit__(None, None, None)
            for _ in range(50):
                node.send_output("out", b"good" + bytes(100_000))
            print("sent", node.statistics()["outputs"]["out"]["sent"])
        """,
        inputs={"in": {"source": "source/out", "queue_size": 10}},
        outputs=["out"],
    )
    add_counter(flow)
    report = link(flow.run(), "forker/out -> counter/in")
    assert flow.printed("forker") == ["the child can log", "sent 53"]
    assert (report.sent, report.received) == (53, 53)
    assert flow.printed("counter") == ["53 0"]


SOURCE = """
    from dora import Node

    node = Node()
    for size in (8, 100_000, 1_000_000):
        node.send_output("out", b"good" + bytes(size))
    for event in node:
        pass
"""


@pytest.mark.both_ways
def test_workers_read_the_arrays_that_their_parent_received(flow: Flow) -> None:
    """As the workers of a data loader do."""
    flow.node("source", SOURCE, outputs=["out"], inputs={"again": "reader/out"})
    flow.node(
        "reader",
        """
        import multiprocessing

        from dora import Node

        node = Node()
        arrays = [event["value"] for event in (node.next(timeout=60) for _ in range(3))]

        def sum_of(index):
            return arrays[index].to_numpy().sum()

        with multiprocessing.get_context("fork").Pool(3) as pool:
            sums = pool.map(sum_of, [0, 1, 2] * 20)
        assert len(set(sums)) == 1, sums
        assert sums[0] == sum(b"good"), sums[0]
        del arrays
        node.send_output("out", b"good")
        print("done")
        """,
        inputs={"in": {"source": "source/out", "queue_size": 10}},
        outputs=["out"],
    )
    flow.run()
    assert flow.printed("reader") == ["done"]


def test_a_child_does_not_keep_the_operators_of_its_parent(flow: Flow) -> None:
    flow.file(
        "first.py",
        """
        import os
        import sys

        from dora import DoraStatus, WrongProcess

        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] != "INPUT":
                    return DoraStatus.CONTINUE
                child = os.fork()
                if child == 0:
                    for output in ("inside", "out"):
                        try:
                            send_output(output, b"bad!")
                        except WrongProcess:
                            continue
                        os._exit(3)
                    sys.exit()
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                send_output("inside", b"good")
                send_output("out", b"good")
                return DoraStatus.CONTINUE
        """,
    )
    flow.file(
        "second.py",
        """
        from dora import DoraStatus

        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    print(dora_event["data"].decode(), flush=True)
                return DoraStatus.CONTINUE
        """,
    )
    flow.node(
        "source",
        """
        from dora import Node

        node = Node()
        for _ in range(3):
            node.send_output("out", b"good")
        """,
        outputs=["out"],
    )
    outputs = ["inside", "out"]
    flow.node(
        "forker",
        operators=[
            {"id": "first", "python": "first.py", "inputs": {"in": "source/out"}, "outputs": outputs},
            {"id": "second", "python": "second.py", "inputs": {"in": "forker/first/inside"}},
        ],
    )
    add_counter(flow, "forker/first/out")
    report = link(flow.run(), "forker/first/out -> counter/in")
    assert (report.sent, report.received) == (3, 3)
    assert flow.printed("forker") == ["good"] * 3
    assert flow.printed("counter") == ["3 0"]


def test_a_program_started_by_way_of_a_fork_leaves_the_node_alone(flow: Flow) -> None:
    flow.node(
        "forker",
        """
        import subprocess
        import sys

        from dora import Node

        node = Node()
        for _ in range(3):
            subprocess.run([sys.executable, "-c", "pass"], preexec_fn=lambda: None, check=True)
            node.send_output("out", b"good")
        """,
        outputs=["out"],
    )
    add_counter(flow)
    assert link(flow.run(), "forker/out -> counter/in").received == 3
    assert flow.printed("counter") == ["3 0"]


def test_a_sender_and_a_receiver_that_fork_meanwhile_lose_nothing(flow: Flow) -> None:
    """Their children end in order, with finalizers, and let go of large messages."""
    flow.node(
        "forker",
        f"""
        {QUIET}
        import os
        import sys

        from dora import Node

        node = Node()
        for _ in range(10):
            child = os.fork()
            for number in range(100):
                try:
                    node.send_output("out", b"good" + bytes(number % 2 * 100_000))
                except RuntimeError:
                    assert child == 0
            if child == 0:
                sys.exit()
        for _ in range(10):
            assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        """,
        outputs=["out"],
    )
    flow.node(
        "counter",
        f"""
        {QUIET}
        import os
        import sys

        from dora import Node

        node = Node()
        total, kept, children = 0, [], 0
        for event in node:
            if event["type"] != "INPUT":
                continue
            total += 1
            kept = [*kept[-20:], event["value"]]
            if total % 100 == 0:
                if os.fork() == 0:
                    kept.clear()
                    del event
                    try:
                        node.next(timeout=0.1)
                    except RuntimeError:
                        sys.exit()
                    sys.exit(3)
                children += 1
        for _ in range(children):
            assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        assert all(bytes(memoryview(array.buffers()[1])[:4]) == b"good" for array in kept)
        print(total, children)
        """,
        inputs={"in": {"source": "forker/out", "queue_size": 50, "queue_policy": "backpressure"}},
    )
    report = link(flow.run(), "forker/out -> counter/in")
    assert (report.sent, report.received) == (1000, 1000)
    assert flow.printed("counter") == ["1000 10"]
