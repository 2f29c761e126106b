"""Changes of links with other machines, while the node runs.

To open a connection takes too long for the thread that receives messages, so a background thread does it.
The receiving thread adds a new input once the source knows of it.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dora.errors import DoraError
from dora.node.process import log_line, write_line
from dora.transport.board import CONTROL
from dora.wire.node_config import ChannelConfig, RemoteConfig
from dora.wire.node_protocol import AttachInput, AttachLink, DetachLink

if TYPE_CHECKING:
    from dora.node.session.interface import RunningSession
    from dora.transport.composite import CompositeEngine
    from dora.transport.interface import Receiver

REMOTE: Final = "remote"  # the channel of an output's links to other machines that came late
_IDLE: Final = 5.0  # seconds without work after which the thread ends

Work = AttachLink | DetachLink | AttachInput
OnReceiver = Callable[["Receiver | None", str], None]


class RemoteTopology:
    """Makes the changes of one session, in order, without keeping the session alive."""

    def __init__(self, session: RunningSession) -> None:
        self._session = weakref.ref(session)
        self._work: queue.SimpleQueue[tuple[Work, OnReceiver | None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running = False
        self._ready: deque[Callable[[], None]] = deque()

    def submit(self, work: Work, on_receiver: OnReceiver | None = None) -> None:
        """Make a change in the background; the thread that receives events calls ``on_receiver``."""
        with self._lock:
            self._work.put((work, on_receiver))
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="dora remote links", daemon=True).start()

    def finish(self) -> None:
        """Add the inputs that are ready, in the thread that receives events."""
        while self._ready:
            self._ready.popleft()()

    def _run(self) -> None:
        while True:
            try:
                work, on_receiver = self._work.get(timeout=_IDLE)
            except queue.Empty:
                with self._lock:
                    if self._work.empty():
                        self._running = False
                        return
                continue
            session = self._session()
            if session is None or session.closed:
                continue
            try:
                self._act(session, work, on_receiver)
            except (DoraError, OSError) as error:
                if on_receiver is not None:
                    self._hand_over(session, on_receiver, None, str(error))
                elif not session.closed:
                    write_line(log_line(session.config.node_id, "error", str(error)))
            del session

    def _act(self, session: RunningSession, work: Work, on_receiver: OnReceiver | None) -> None:
        match work:
            case AttachLink(output=output, link=link):
                if (port := session.outputs.get(output)) is not None:
                    config = next(each for each in session.config.outputs if each.id == output)
                    channel = _composite_engine(session, work.remote).add_link(config, link)
                    overflow_channel = None if channel is None else ChannelConfig(REMOTE, 0, 0)
                    port.attach(link, work.change, work.credit_bell, (overflow_channel, channel))
            case DetachLink(output=output, slot=slot):
                if (port := session.outputs.get(output)) is not None:
                    port.detach(slot, work.change, "")
                    if _composite_engine(session, None).remove_link(output, slot):
                        port.detach(slot, work.change, REMOTE)
            case AttachInput(item=item):
                assert on_receiver is not None
                receiver = session.make_receiver(item, _composite_engine(session, work.remote))
                self._hand_over(session, on_receiver, receiver, "")

    def _hand_over(
        self, session: RunningSession, on_receiver: OnReceiver, receiver: Receiver | None, fault: str
    ) -> None:
        self._ready.append(lambda: on_receiver(receiver, fault))
        session.board.set(session.config.node_slot, CONTROL, time.monotonic_ns())  # as a flush does
        session.bell.ring()


def _composite_engine(session: RunningSession, remote: RemoteConfig | None) -> CompositeEngine:
    """Return the engine for links to other machines; the first such link creates it."""
    from dora.transport.composite import CompositeEngine

    if remote is not None:
        session.config.remote = remote
    if not isinstance(session.engine, CompositeEngine):
        engine = CompositeEngine(session.engine, session.config, session.board)
        engine.start_links()
        session.engine = engine
    return session.engine
