"""Inputs that a notebook watches: each message is seen, and the program still receives."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from types import ModuleType, SimpleNamespace

import pytest
from fake_daemon import FakeDaemon, StartFlow
from flows import node
from waiting import TIMEOUT, wait_until

from dora import DoraError, Node, UndeclaredInput
from dora.wire.decode import decode_bytes
from dora.wire.message import Message


@pytest.fixture
def daemon(start_flow: StartFlow) -> FakeDaemon:
    return start_flow(
        node("camera", inputs={"answer": "plot/answer"}, outputs="image control request"),
        node(
            "plot",
            inputs={
                "image": ("camera/image", {"queue_size": 2}),
                "control": ("camera/control", {"queue_size": 2, "queue_policy": "backpressure"}),
                "request": "camera/request",
            },
            outputs="answer",
        ),
    )


class Watcher:
    """Sees the messages of inputs in a thread of its own, as a notebook does."""

    def __init__(self, plot: Node, *input_ids: str) -> None:
        self.seen: list[bytes] = []
        for input_id in input_ids:
            watch = plot._watched(input_id, self._take)
        self._watch = watch
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _take(self, message: Message) -> None:
        self.seen.append(decode_bytes(message))

    def _run(self) -> None:
        while not self._watch.ended:
            self._watch.wait(TIMEOUT)

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.seen) >= count, lambda: f"the watcher saw {self.seen}", 20)

    def end(self, plot: Node) -> None:
        plot.close()
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()


def test_messages_that_the_program_has_taken_make_room_for_others(daemon: FakeDaemon) -> None:
    camera, plot = daemon.node("camera"), daemon.node("plot")
    watcher = Watcher(plot, "image")
    for first in (1, 3, 5):
        for number in (first, first + 1):
            camera.send_output("image", bytes([number]))
            watcher.wait_for(number)
        assert [event["data"] for event in plot.drain()] == [bytes([first]), bytes([first + 1])]
    watcher.end(plot)


def test_messages_that_were_pushed_out_take_no_room_from_later_ones(daemon: FakeDaemon) -> None:
    camera, plot = daemon.node("camera"), daemon.node("plot")
    watcher = Watcher(plot, "image")
    for first in (1, 6):
        for number in range(first, first + 5):
            camera.send_output("image", bytes([number]))
            watcher.wait_for(number)
        assert [event["data"] for event in plot.drain()] == [bytes([first + 3]), bytes([first + 4])]
    watcher.end(plot)


def test_the_program_gets_the_newest_messages_and_none_counts_as_dropped(daemon: FakeDaemon) -> None:
    camera, plot = daemon.node("camera"), daemon.node("plot")
    watcher = Watcher(plot, "image")
    sent = [bytes([number]) for number in range(20)]
    for number, data in enumerate(sent, 1):
        camera.send_output("image", data)
        watcher.wait_for(number)
    assert watcher.seen == sent
    assert [event["data"] for event in plot.drain()] == sent[-2:]
    assert plot.statistics()["inputs"]["image"] == {"received": 20, "dropped": 0}
    watcher.end(plot)


def test_messages_that_the_program_waits_for_are_seen_too(daemon: FakeDaemon) -> None:
    camera, plot = daemon.node("camera"), daemon.node("plot")
    watcher = Watcher(plot, "image")
    for number in range(5):
        camera.send_output("image", bytes([number]))
        event = plot.next(TIMEOUT)
        assert event is not None and event["data"] == bytes([number])
    watcher.wait_for(5)
    watcher.end(plot)


def test_a_sender_under_backpressure_does_not_wait_for_the_program(daemon: FakeDaemon) -> None:
    camera, plot = daemon.node("camera"), daemon.node("plot")
    watcher = Watcher(plot, "control")
    for number in range(10):
        camera.send_output("control", bytes([number]))  # the queue has room for two
    watcher.wait_for(10)
    assert [event["data"] for event in plot.drain()] == [b"\x08", b"\x09"]
    watcher.end(plot)


def test_a_request_is_seen_and_never_pushed_out(daemon: FakeDaemon) -> None:
    camera, plot = daemon.node("camera"), daemon.node("plot")
    watcher = Watcher(plot, "request")
    call = camera.call("request", b"question", timeout=TIMEOUT, reply="answer")
    for number in range(15):  # more than the queue has room for
        camera.send_output("request", bytes([number]))
        watcher.wait_for(number + 2)
    request = plot.next(TIMEOUT)
    assert request is not None and request["data"] == b"question"
    plot.send_output("answer", b"42", request["metadata"])
    assert call.wait()["data"] == b"42"
    watcher.end(plot)


def test_answers_come_on_an_input_that_is_watched(daemon: FakeDaemon) -> None:
    camera, plot = daemon.node("camera"), daemon.node("plot")
    watcher = Watcher(camera, "answer")
    call = camera.call("request", b"question", timeout=TIMEOUT, reply="answer")
    request = plot.next(TIMEOUT)
    assert request is not None
    plot.send_output("answer", b"42", request["metadata"])
    assert call.wait()["data"] == b"42"
    assert watcher.seen == [b"42"]
    watcher.end(camera)


def test_answers_come_while_another_input_is_watched(daemon: FakeDaemon) -> None:
    camera, plot = daemon.node("camera"), daemon.node("plot")
    watcher = Watcher(plot, "image")
    camera.send_output("image", b"1")
    watcher.wait_for(1)
    call = plot.call("answer", b"question", timeout=TIMEOUT, reply="request")
    request = camera.next(TIMEOUT)
    assert request is not None
    camera.send_output("request", b"42", request["metadata"])
    assert call.wait()["data"] == b"42"
    watcher.end(plot)


def test_only_a_notebook_can_show(daemon: FakeDaemon) -> None:
    plot = daemon.node("plot")
    with pytest.raises(
        DoraError, match="draws in a Jupyter notebook, and this program does not run in one"
    ):
        plot.show("image")
    with pytest.raises(DoraError, match=r'name an input: node.show\("image"\); its inputs: control, image'):
        plot.show()
    with pytest.raises(UndeclaredInput, match="did you mean `image`"):
        plot._watched("imgae", lambda _: None)


class FakeNotebook:
    """Stands in for IPython; ``captions`` is the text of each picture, in the order of drawing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.captions: list[str] = []
        ipython = ModuleType("IPython")
        ipython.get_ipython = lambda: SimpleNamespace(kernel=True)  # type: ignore[attr-defined]
        ipython.display = ModuleType("IPython.display")  # type: ignore[attr-defined]
        ipython.display.display = self.draw
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)

    def draw(self, bundle: dict[str, str], **_: object) -> SimpleNamespace:
        self.captions.append(bundle["text/plain"])
        return SimpleNamespace(update=self.draw)

    def wait_for(self, *captions: str) -> None:
        wait_until(lambda: self.captions == list(captions), lambda: f"drawn: {self.captions}")


def test_a_picture_of_an_input_without_messages_says_so_at_the_end(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook, plot = FakeNotebook(monkeypatch), daemon.node("plot")
    plot.show("image")
    plot.close()
    begun, ended = "image: waits for a message", "image: no message has come; the node is closed"
    notebook.wait_for(begun, ended)
    plot.show("image")  # a cell that runs again after the end
    notebook.wait_for(begun, ended, begun, ended)


def test_a_node_that_was_drawn_is_freed_after_its_end(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeNotebook(monkeypatch)
    plot = daemon.node("plot")
    plot.show("image")
    plot.close()
    freed = weakref.ref(plot)
    del plot

    def is_freed() -> bool:
        gc.collect()
        return freed() is None

    wait_until(is_freed, "the node is freed")
