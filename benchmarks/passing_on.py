"""Measure the cost of origins, hops and budgets: ``python -m benchmarks.passing_on``.

The figures are the processor time of a message of 100 bytes that one node sends and another one takes, in
one process, without an engine and without waking anybody. Each is the least of many short runs, so that
other work on the machine counts little.
"""

import mmap
import os
import tempfile
import time
from collections.abc import Callable

from dora.node.current_event import CurrentEvent, StampedEvent
from dora.node.receive.budget_input import BudgetInput
from dora.node.receive.inbox import Inbox
from dora.node.receive.input_port import InputPort
from dora.node.receive.link_input import LinkInput
from dora.node.receive.path_meter import InputMeter, PathMeter, Records
from dora.node.send.output import OutputPort
from dora.node.standalone.host import NullChannel
from dora.transport.board import LINE_BYTES, Board
from dora.transport.doorbell import Doorbell
from dora.transport.inprocess import LocalEngine
from dora.wire.node_config import BudgetConfig, HopConfig, InputConfig, LinkConfig, OutputConfig
from dora.wire.trail import origin_id

_MESSAGES, _RUNS = 300, 200
_DATA = b"x" * 100


class _Node:
    """A node with one input and one output."""

    def __init__(self, engine: LocalEngine, number: int, *, stamped: bool, budget: bool = False) -> None:
        board = Board("", mmap.mmap(-1, 64 * LINE_BYTES))
        name, before = f"n{number}/out", f"n{number - 1}/out"
        current = StampedEvent() if stamped else CurrentEvent()
        links = [LinkConfig(slot=3, node_slot=1, bell="", consumer="")]
        output = OutputConfig("out", name, 2, links, origin=origin_id(name), stamped=stamped)
        self.output = OutputPort(output, engine.sender(output), board, rings=False, current=current)
        item = InputConfig("in", "link", before, service=before, slot=5, output_slot=4)
        if budget:
            hops = [HopConfig(origin_id("n0/out"), "n0/out", [])]
            if before != "n0/out":
                hops.append(HopConfig(origin_id(before), before, [origin_id("n0/out")]))
            item.budgets = [BudgetConfig("n0/out", 10**12, hops)]
        meter = PathMeter(Records())
        port: InputPort = LinkInput(
            item,
            engine.receiver(item, lambda: None),
            board,
            joins_late=False,
            meter=InputMeter(meter, 5),
        )
        if budget:
            port = BudgetInput(port, item, meter, lambda *_: None)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "bell")
            Doorbell.make(path)
            bell = Doorbell(path)
        self.inbox = Inbox([port], NullChannel(), board, 1, bell, current=current, paths=meter)


def _least(step: Callable[[], object]) -> float:
    """Return the least processor time of a step, in microseconds."""
    found = []
    for _ in range(_RUNS):
        begin = time.thread_time_ns()
        for _ in range(_MESSAGES):
            step()
        found.append((time.thread_time_ns() - begin) / _MESSAGES / 1000)
    return min(found)


def _chain(*, stamped: bool, budget: bool) -> tuple[float, float]:
    """Return the cost of a source and its receiver, and of one more node that passes on."""
    engine = LocalEngine()
    source = _Node(engine, 0, stamped=stamped)
    relay = _Node(engine, 1, stamped=stamped)
    sink = _Node(engine, 2, stamped=False, budget=budget)

    def both() -> None:
        source.output.send(_DATA, None)
        relay.inbox.next(0)
        relay.output.send(_DATA, None)
        sink.inbox.next(0)

    def first() -> None:
        source.output.send(_DATA, None)
        relay.inbox.next(0)

    both()
    one = _least(first)
    return one, _least(both) - one


def main() -> None:
    """Measure, and print a table."""
    print("| processor time of a message | source | passed on |\n|---|---|---|")
    for name, stamped, budget in (
        ("its origin", False, False),
        ("its origin and its hops", True, False),
        ("its origin, its hops, and a budget", True, True),
    ):
        one, more = _chain(stamped=stamped, budget=budget)
        print(f"| with {name} | {one:.2f} µs | {more:.2f} µs |")


if __name__ == "__main__":
    main()
