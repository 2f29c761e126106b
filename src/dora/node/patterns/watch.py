"""Watch inputs: a thread sees their messages as they come, whether the program receives them or not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from dora.node.events import Event, Input
from dora.node.patterns.holding import HoldingInput
from dora.node.receive.inbox import Inbox
from dora.node.receive.input_port import InputPort
from dora.node.receive.stack import insert
from dora.wire.message import Message
from dora.wire.node_config import InputConfig, NodeConfig

Take = Callable[[Message], None]


class WatchedInput(HoldingInput):
    """A port that wraps another one and shows its messages to a watcher.

    A message that the watcher has seen is received. So one that is dropped because the program does not
    receive is no loss, and a sender under back-pressure does not wait for the program.
    """

    layer = "watch"

    def __init__(self, port: InputPort, config: InputConfig, take: Take) -> None:
        super().__init__(port, config.queue_size, config.keep)
        self.take = take

    def _poll_port(self) -> Event | None:
        event = self._port.poll() if self._port.open else None
        if isinstance(event, Input) and isinstance(event._content, Message):
            self.take(event._content)
        return event

    def _dropped(self) -> None:
        """Count nothing."""


class InputWatch:
    """The watched inputs of one node."""

    def __init__(self, config: NodeConfig, inbox: Inbox) -> None:
        self._configs = {item.id: item for item in config.inputs}
        self._inbox = inbox
        self._arrived = False
        self._woken = threading.Event()

    def add(self, input_id: str, take: Take) -> None:
        """Pass the messages of an input from a node to ``take``, in the thread that polls it."""

        def take_and_wake(message: Message) -> None:
            take(message)
            self._arrived = True
            self._woken.set()

        port = self._inbox.ports[input_id]
        watched = port.find(WatchedInput.layer)
        if isinstance(watched, WatchedInput):
            watched.take = take_and_wake
            return
        wrap = partial(WatchedInput, config=self._configs[input_id], take=take_and_wake)
        self._inbox.replace(insert(port, WatchedInput.layer, wrap))

    @property
    def ended(self) -> bool:
        """Whether the node was closed or asked to stop, or its last input has closed."""
        return self._inbox.is_closing

    def wait(self, seconds: float) -> None:
        """Wait until a message has come, or the node has ended."""
        deadline = time.monotonic_ns() + int(seconds * 1e9)
        self._inbox.wait_until(lambda: self._arrived or self.ended, self._woken, deadline)
        self._arrived = False
