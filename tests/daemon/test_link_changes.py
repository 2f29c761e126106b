"""Changes of links while the dataflow runs: which frames nodes get, and what is not waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dora.daemon.accounting import Accounting
from dora.daemon.link_changes import LinkChanges, prepare_plan
from dora.dataflow.layout import RunContext
from dora.dataflow.model import Dataflow, InputSpec, NodeOutput, NodeSpec
from dora.dataflow.plan import plan
from dora.transport.board import CLOSED, CONNECTED, LINKS_VERSION, STATE, Board
from dora.transport.doorbell import Doorbell
from dora.wire.node_config import InputConfig
from dora.wire.node_protocol import (
    AttachInput,
    AttachLink,
    DetachInput,
    DetachLink,
    InputAttached,
    InputDetached,
)

RECEIVERS = ("b", "c")


class Run:
    """A sender `a` and two receivers; ``frames`` are those that they got, with the version of the links."""

    def __init__(self, folder: Path, queue_size: int = 10) -> None:
        self.queue_size = queue_size
        self.frames: list[tuple[str, object, int]] = []
        self.applied: list[str] = []
        self.failed: list[tuple[str, str, str]] = []
        self.due: list[Callable[[], None]] = []
        self.connected = {"a", *RECEIVERS}
        board = str(folder / "board")
        self.context = RunContext("id", str(folder), "p_", board)
        self.plan = plan(self.flow(), self.context)
        for path in self.plan.bells:
            Doorbell.make(path)
        self.board = Board.create(board, self.plan.lines)
        self.accounting = Accounting(self.board, self.plan)
        (self.output,) = self.plan.configs["a"].outputs
        parts: Any = self
        self.changes = LinkChanges(parts, self.accounting, parts, self.plan, self.on_failed)

    def flow(self, *receivers: str) -> Dataflow:
        """Return the dataflow in which these nodes receive."""
        sender = NodeSpec("a", path="a.py", outputs=("x",))
        item = InputSpec("x", NodeOutput("a", "x"), queue_size=self.queue_size)
        links = {name: (item,) if name in receivers else () for name in RECEIVERS}
        rest = (NodeSpec(name, path="r.py", inputs=inputs) for name, inputs in links.items())
        return Dataflow((sender, *rest), "/")

    def change(self, *receivers: str) -> None:
        """Let these nodes receive from now on."""
        self.plan = prepare_plan(self.flow(*receivers), self.context, self.plan, self.board)
        self.changes.apply(self.plan, self.applied.append)

    def connect(self, *receivers: str) -> None:
        """Let these nodes receive, which they confirm."""
        self.change(*receivers)
        for name in receivers:
            self.changes.attached(name, InputAttached(self.slot(name)))
            self.board.set(self.slot(name), STATE, CONNECTED)
        for seen in (self.applied, self.frames, self.due):
            seen.clear()

    def slot(self, receiver: str) -> int:
        return self.plan.configs[receiver].inputs[0].slot

    def got(self) -> list[tuple[str, type]]:
        """Return the frames since the last call."""
        got, self.frames[:] = [(name, type(frame)) for name, frame, _ in self.frames], []
        return got

    def on_failed(self, node_id: str, item: InputConfig, reason: str) -> None:
        self.failed.append((node_id, item.id, reason))

    # What `LinkChanges` calls.

    def call_later(self, _: float, call: Callable[[], None]) -> None:
        self.due.append(call)

    def get(self, node_id: str) -> Any:
        if node_id not in self.connected:
            return None
        return SimpleNamespace(send=lambda frame: self.send(node_id, frame))

    def send(self, node_id: str, frame: object) -> bool:
        self.frames.append((node_id, frame, self.board.get(self.output.slot, LINKS_VERSION)))
        return node_id in self.connected


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    run.accounting.close()


def test_a_sender_gets_a_new_link_before_its_receiver(run: Run) -> None:
    run.change("b")
    assert run.got() == [("a", AttachLink), ("b", AttachInput)]
    assert run.board.get(run.output.slot, LINKS_VERSION) == 1


def test_a_sender_finds_the_frame_when_its_links_have_changed(run: Run) -> None:
    run.change("b")
    _, frame, version = run.frames[0]
    assert isinstance(frame, AttachLink)
    assert (version, frame.change) == (0, 1)


def test_a_change_is_answered_once_all_its_inputs_exist(run: Run) -> None:
    run.change("b", "c")
    run.changes.attached("b", InputAttached(run.slot("b")))
    assert run.applied == []
    run.changes.attached("c", InputAttached(run.slot("c")))
    assert run.applied == [""]


def test_a_change_for_which_nobody_is_connected_is_answered_at_once(run: Run) -> None:
    run.connected.clear()
    run.change("b", "c")
    assert run.applied == [""]


def test_a_change_of_which_one_input_cannot_be_made_is_answered_once(run: Run) -> None:
    run.change("b", "c")
    run.changes.attached("b", InputAttached(run.slot("b"), "no memory"))
    run.changes.attached("c", InputAttached(run.slot("c")))
    assert run.applied == ["node `b` cannot receive: no memory"]
    assert run.failed == [("b", "x", "no memory")]


def test_a_change_does_not_wait_for_a_node_that_has_gone(run: Run) -> None:
    run.change("b", "c")
    run.changes.attached("c", InputAttached(run.slot("c")))
    run.changes.node_disconnected("b")
    assert run.applied == [""]


def test_a_change_does_not_wait_long_for_a_busy_node(run: Run) -> None:
    run.change("b")
    (timeout,) = run.due
    timeout()
    assert run.applied == [""]
    run.changes.attached("b", InputAttached(run.slot("b"), "no memory"))
    assert run.applied == [""]
    assert run.failed == [("b", "x", "no memory")]


def test_a_sender_keeps_a_removed_link_until_its_receiver_has_taken_everything(run: Run) -> None:
    run.connect("b")
    slot = run.slot("b")
    run.change()
    assert run.applied == [""]
    assert run.got() == [("b", DetachInput)]
    run.changes.detached(InputDetached("x", slot))
    run.changes.detached(InputDetached("x", slot))
    assert run.got() == [("a", DetachLink)]


@pytest.mark.parametrize("before", [False, True])
def test_a_sender_does_not_wait_for_a_receiver_that_has_gone(run: Run, before: bool) -> None:
    run.connect("b")
    if before:
        run.connected.remove("b")
        run.change()
    else:
        run.change()
        run.changes.node_disconnected("b")
    assert run.got() == [("b", DetachInput), ("a", DetachLink)][before:]


def test_a_sender_does_not_wait_long_for_a_busy_receiver(run: Run) -> None:
    run.connect("b")
    slot = run.slot("b")
    run.change()
    (timeout,) = run.due
    timeout()
    assert run.got() == [("b", DetachInput), ("a", DetachLink)]
    assert run.board.get(slot, STATE) == CLOSED


@pytest.mark.parametrize("at_once", [False, True])
def test_a_channel_comes_with_its_first_link_and_goes_with_its_last(tmp_path: Path, at_once: bool) -> None:
    run = Run(tmp_path, queue_size=5000)  # too long for the first channel of the output
    if not at_once:
        run.change("b")
    run.change("b", "c")
    channels = [frame.overflow_channel for _, frame, _ in run.frames if isinstance(frame, AttachLink)]
    assert channels[0] is not None
    assert channels[1] is None  # the sender has it
    slots = [run.slot("b"), run.slot("c")]
    run.change("c")
    run.changes.detached(InputDetached("x", slots[0]))
    run.change()
    run.changes.detached(InputDetached("x", slots[1]))
    detached = [frame.overflow_channel for _, frame, _ in run.frames if isinstance(frame, DetachLink)]
    assert detached == ["", channels[0].service]
    run.accounting.close()
