"""Live pictures and plots of inputs in a Jupyter notebook: what `Node.show` draws."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from html import escape
from typing import TYPE_CHECKING, Any, Final

from dora.errors import DoraError
from dora.node.process import show_without_traceback
from dora.observe.preview.html import Curve, as_html
from dora.observe.preview.topic import PreviewTopic
from dora.wire.decoders import from_json

if TYPE_CHECKING:
    from dora.node.node import Node
    from dora.node.patterns.watch import InputWatch
    from dora.wire.message import Message

SECONDS: Final = 20.0  # how far back a plot over time goes
_PAUSE: Final = 0.04  # seconds between two pictures, at least; a fast sender sends more
# Seconds between two looks at inputs without messages: the last message may have come when it was not
# time yet to draw it (`PreviewTopic.preview`), and no other one wakes the thread.
_LOOK_EVERY: Final = 0.5


def show(node: Node, input_ids: tuple[str, ...]) -> None:
    """Show inputs of a node below the cell that runs; see `dora.Node.show`."""
    error: DoraError | None = None
    if not input_ids:
        error = DoraError(f'name an input: node.show("image"); {_inputs(node)}')
    elif not _in_notebook():
        error = DoraError(
            "`node.show` draws in a Jupyter notebook, and this program does not run in one; "
            "`dora run --ui` shows a dataflow in the browser"
        )
    if error is not None:
        show_without_traceback(error)
        raise error
    try:
        viewer = _viewers.get(node) or _Viewer(node)
        viewer.show([_View(input_id) for input_id in input_ids])
    except DoraError as refused:
        show_without_traceback(refused)
        raise


def _inputs(node: Node) -> str:
    names = sorted(node.node_config().get("inputs") or ())
    return f"its inputs: {', '.join(names) or 'none'}"


def _in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook: only there `display` can draw."""
    ipython: Any = sys.modules.get("IPython")
    return getattr(ipython and ipython.get_ipython(), "kernel", None) is not None


class _View:
    """The picture of one input."""

    def __init__(self, input_id: str) -> None:
        self.input_id = input_id
        # The thread that receives takes messages, the thread that draws renders them. Both change the
        # preview: its kind, head and values would be of different messages without the lock.
        self._lock = threading.Lock()
        self._preview = PreviewTopic(input_id, "")
        self._history: deque[tuple[float, list[float | None]]] = deque()  # milliseconds, values
        self._handle: Any = None
        self._html = ""
        self._number = 0

    def begin(self) -> None:
        """Reserve the place below the cell."""
        import IPython.display

        display: Any = IPython.display.display
        self._handle = display(self._bundle("waits for a message"), raw=True, display_id=True)

    def take(self, message: Message) -> None:
        with self._lock:
            self._preview.take(message)

    def draw(self) -> None:
        """Draw the last message, if there is a new one and it is time for it."""
        with self._lock:
            preview = self._preview.preview()
        if preview is None:
            return
        # Without the lock: making HTML must not hold up the thread that receives.
        head = from_json(preview.head)
        self._number = head["number"]
        self._html = as_html(head, preview.body, self._follow(head), SECONDS)
        self._handle.update(self._bundle(f"message {self._number:,} · {head['type']}"), raw=True)

    def _follow(self, head: dict[str, Any]) -> dict[str, Curve]:
        """Add new values to the history; return it by name."""
        steps = head.get("steps")
        if not steps:
            return {}
        self._history.extend((time_ms, values) for time_ms, values in steps)
        while self._history[0][0] < self._history[-1][0] - SECONDS * 1000:
            self._history.popleft()
        count = len(self._history[-1][1])
        names = head["names"] or [str(number) for number in range(count)]
        return {
            name: [values[index] if index < len(values) else None for _, values in self._history]
            for index, name in enumerate(names[:count])
        }

    def end(self, reason: str) -> None:
        """Draw the last time."""
        self.draw()
        last = f"message {self._number:,} was the last" if self._number else "no message has come"
        self._handle.update(self._bundle(f"{last}; {reason}"), raw=True)

    def _bundle(self, caption: str) -> dict[str, str]:
        return {
            "text/html": f"<div><b>{escape(self.input_id)}</b> · {escape(caption)}</div>{self._html}",
            "text/plain": f"{self.input_id}: {caption}",
        }


class _Viewer:
    """Draws all views of one node, in a thread that ends with the node or its dataflow."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._views: dict[str, _View] = {}  # replaced, never changed: the other thread may be iterating
        self._thread: threading.Thread | None = None

    def show(self, views: list[_View]) -> None:
        """Begin to draw; a view takes the place of the one of the same input. Raises `DoraError`."""
        for view in views:
            self._node._watched(view.input_id)  # all are known before the first is drawn
        for view in views:
            view.begin()  # first: a message that comes needs a place to be drawn
            watch = self._node._watched(view.input_id, view.take)
            if (before := self._views.get(view.input_id)) is not None:
                before.end("shown again below")
            self._views = {**self._views, view.input_id: view}
        if self._thread is None:
            _viewers[self._node] = self
            self._thread = threading.Thread(target=self._draw, args=(watch,), name="dora-show", daemon=True)
            self._thread.start()

    def _draw(self, watch: InputWatch) -> None:
        while not watch.ended:
            watch.wait(_LOOK_EVERY)
            for view in self._views.values():
                view.draw()
            time.sleep(_PAUSE)
        _viewers.pop(self._node, None)  # a further call of `show` gets a thread of its own
        reason = "the node is closed" if self._node._session.closed else "the dataflow has ended"
        for view in self._views.values():
            view.end(reason)


_viewers: dict[Node, _Viewer] = {}  # those that draw
