"""The supervisor's work for a run grows with the number of nodes, not with its square."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from growth import assert_grows_linearly, steps
from supervision import node

from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.supervisor import Supervisor
from dora.dataflow.model import Dataflow, NodeSpec
from dora.wire.node_protocol import Closing, Ready

Nodes = list[NodeSpec]


def chain(size: int) -> Nodes:
    first = node("n0", outputs=("out",))
    return [first, *(node(f"n{i}", inputs=(f"n{i - 1}/out",), outputs=("out",)) for i in range(1, size))]


def one_to_many(size: int) -> Nodes:
    return [node("hub", outputs=("out",)), *(node(f"n{i}", inputs=("hub/out",)) for i in range(size))]


class Run:
    """A run without a check of its invariants, which takes a step for each node."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = [each.id for each in nodes]
        self.supervisor = Supervisor(Dataflow(tuple(nodes), "/"))

    def feed(self, event: on.Event) -> None:
        self.supervisor.handle(event, 1.0)

    def start(self) -> None:
        self.feed(on.Begin())
        for number, name in enumerate(self.nodes):
            self.feed(on.Registering(number, name, 0, False))
        for name in self.nodes:
            self.feed(on.MessageReceived(name, Ready()))
        assert self.supervisor.state.opened

    def finish(self) -> None:
        for name in self.nodes:
            self.feed(on.MessageReceived(name, Closing({})))
            self.feed(on.ProcessEnded(name, 0, None))
        assert self.supervisor.state.done

    def stop(self) -> None:
        self.feed(on.StopRequested("interrupted", None))
        self.finish()

    def fail(self) -> None:
        for name in self.nodes:
            self.feed(on.ProcessEnded(name, 1, None))
        assert len(self.supervisor.state.failures) == len(self.nodes)


each_shape = pytest.mark.parametrize("shape", [chain, one_to_many], ids=lambda shape: shape.__name__)


@each_shape
def test_a_start(shape: Callable[[int], Nodes]) -> None:
    assert_grows_linearly(lambda size: steps(Run(shape(size)).start))


@each_shape
@pytest.mark.parametrize("end", [Run.finish, Run.stop, Run.fail], ids=["done", "stopped", "failed"])
def test_an_end(shape: Callable[[int], Nodes], end: Callable[[Run], None]) -> None:
    def work(size: int) -> int:
        run = Run(shape(size))
        run.start()
        return steps(lambda: end(run))

    assert_grows_linearly(work)
