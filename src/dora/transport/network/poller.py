"""Pollers: which thread takes messages from the channel that Zenoh fills.

A node that looks for messages polls the channel in its own thread, which spares it waiting for another
thread to be woken. A background thread takes the messages while the node does not poll: when it sleeps,
and when its program is busy, as senders need acknowledgements in any case. The background poller stands
back while the node polls again and again.

A background poller that blocks in the channel gets the next message even if the node polls, and then
waits for the interpreter's lock, which a polling node hardly ever gives up. It therefore stands back as
soon as the node has a reason to poll, and a node that has polled several times while it blocks interrupts
it with a sample that is not a message.

Both threads may take messages at the same time and deliver them in the wrong order;
`dora.transport.network.window.ReceiveWindow` restores the order. The measurements are in
`docs/design/links-between-machines.md`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import zenoh

from dora.transport.network.threads import JOIN_TIMEOUT, start_thread

_TAKEOVER: Final = 0.005  # seconds without a poll of the node until the background poller takes over
_POLLS_BEFORE_INTERRUPT: Final = 4  # since the node slept: more than one message and the next sleep take


class BackgroundPoller:
    """Passes what arrives in a channel to ``deliver``, in the node's thread or in its own.

    ``deliver`` returns whether it was something that the node will poll for, ``sleeps`` whether the node
    sleeps, and ``interrupt`` puts something else into the channel.
    """

    def __init__(
        self,
        deliver: Callable[[zenoh.Sample], bool],
        sleeps: Callable[[], int],
        interrupt: Callable[[], None],
    ) -> None:
        self._deliver = deliver
        self._sleeps = sleeps
        self._interrupt = interrupt
        self._polls_since_sleep = 0
        self._blocked = False  # the background thread blocks in the channel
        self._channel: Any = None
        self._receiving = threading.Lock()
        self._node_polls = False  # the background thread stands back
        self._polls = 0
        self._node_stopped = threading.Event()  # the node does not poll any more
        self._threads: list[threading.Thread] = []

    def start(self, channel: Any, name: str) -> None:
        """Start a background thread. The thread of a former channel ends when its session is closed."""
        self._channel = channel
        self._threads = [each for each in self._threads if each.is_alive()]
        self._threads.append(start_thread(name, self._run, channel))

    def poll(self) -> None:
        """Deliver what is in the channel, in this thread. Never blocks."""
        if self._channel is None:
            return
        if self._sleeps():  # it is about to sleep: this is its last poll
            self._polls_since_sleep = 0
            if self._node_polls:
                self._node_polls = False
                self._node_stopped.set()
        else:
            self._polls += 1
            if not self._node_polls:
                self._node_stopped.clear()
                self._node_polls = True
            self._polls_since_sleep += 1
            if self._blocked and self._polls_since_sleep > _POLLS_BEFORE_INTERRUPT:
                self._blocked = False
                self._interrupt()
        if self._receiving.acquire(blocking=False):
            try:
                while (sample := self._channel.try_recv()) is not None:
                    self._deliver(sample)
            except zenoh.ZError:
                pass  # the session is closed
            finally:
                self._receiving.release()

    def _run(self, channel: Any) -> None:
        while True:
            while self._node_polls:
                polls = self._polls
                self._node_stopped.wait(_TAKEOVER)
                if polls == self._polls:
                    self._node_polls = False
            self._blocked = True
            try:
                sample = channel.recv()
            except zenoh.ZError:
                return  # the session is closed
            self._blocked = False
            # Before the delivery, because the node may poll and fall asleep again before it returns.
            self._node_stopped.clear()
            self._node_polls = True
            if not self._deliver(sample) and self._sleeps():
                self._node_polls = False

    def join(self) -> None:
        """Wait for the end of the background threads, once the sessions are closed."""
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT)
