"""The intake: which thread takes messages from the channel into which Zenoh puts them.

Waking a thread costs 50 µs, and handing over the interpreter's lock as much again. So whoever looks for
messages takes them from the channel itself; a look costs less than a microsecond where there are none.
Another thread, the *porter*, takes them while nobody looks: when the node sleeps, and when its program is
busy, for a sender has to hear of its messages in any case. It stands back for as long as somebody looks
again and again.

A porter that waits in the channel gets the next message, whoever else looks, and then waits for the
interpreter's lock: whoever looks lets go of it again and again, but takes it back before a sleeping thread
is awake, until it stops looking. So the porter stands back as soon as the node has reason to look; and
whoever has looked a few times while it waits in the channel *nudges* it, with something that is no message.

Both may take a message at the same time and deliver them in the wrong order:
`dora.transport.network.window.ReceiveWindow` puts that right.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import zenoh

from dora.transport.network.protocol import THREAD_PATIENCE, start_thread

_STANDS_BACK: Final = 0.005  # seconds without a look until the porter takes over
_BEFORE_NUDGE: Final = 4  # looks since the node was asleep: more than for one message and the next sleep


class BackgroundPoller:
    """Passes what comes out of a channel to ``deliver``; ``sleeps`` tells whether the node sleeps.

    ``deliver`` tells whether it was something that the node will look for; ``nudge`` puts something else
    into the channel.
    """

    def __init__(
        self,
        deliver: Callable[[zenoh.Sample], bool],
        sleeps: Callable[[], int],
        nudge: Callable[[], None],
    ) -> None:
        self._deliver = deliver
        self._sleeps = sleeps
        self._nudge = nudge
        self._since_sleep = 0  # looks
        self._waits = False  # the porter waits in the channel
        self._channel: Any = None
        self._taking = threading.Lock()
        self._attended = False  # somebody looks: the porter stands back
        self._looks = 0
        self._left = threading.Event()  # nobody looks any more
        self._porter: threading.Thread | None = None

    def begin(self, channel: Any, name: str) -> None:
        self._channel = channel
        self._porter = start_thread(name, self._carry)

    def look(self) -> None:
        """Deliver what is there, in this thread. Never blocks."""
        if self._channel is None:
            return
        if self._sleeps():  # it is about to: this is its last look
            self._since_sleep = 0
            if self._attended:
                self._attended = False
                self._left.set()
        else:
            self._looks += 1
            if not self._attended:
                self._left.clear()
                self._attended = True
            self._since_sleep += 1
            if self._waits and self._since_sleep > _BEFORE_NUDGE:
                self._waits = False
                self._nudge()
        if self._taking.acquire(blocking=False):
            try:
                while (sample := self._channel.try_recv()) is not None:
                    self._deliver(sample)
            except zenoh.ZError:
                pass  # the session is closed
            finally:
                self._taking.release()

    def _carry(self) -> None:
        while True:
            while self._attended:
                looks = self._looks
                self._left.wait(_STANDS_BACK)
                if looks == self._looks:
                    self._attended = False
            self._waits = True
            try:
                sample = self._channel.recv()
            except zenoh.ZError:
                return  # the session is closed
            self._waits = False
            # Said first, because the node may be faster in looking and in falling asleep again.
            self._left.clear()
            self._attended = True
            if not self._deliver(sample) and self._sleeps():
                self._attended = False

    def join(self) -> None:
        """Wait until the porter has noticed that the session is closed."""
        if self._porter is not None:
            self._porter.join(THREAD_PATIENCE)
