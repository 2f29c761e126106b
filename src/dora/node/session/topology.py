"""Changes of links and inputs while the node runs.

The daemon sends frames. The thread that reads the control socket acts on them: the one that waits for
events, or, in a program that only sends, the one that sends next (see `OutputPort.apply_link_changes`). So
a new receiver is rung from the next message on.

Opening a connection to another machine takes too long for that thread, so a background thread does it. The
receiving thread adds the new input once the source knows of it.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from dora.errors import DaemonLost, DoraError
from dora.node.log import write_log
from dora.node.send.output import overflow_channel_of
from dora.transport.board import CONTROL
from dora.transport.network.threads import start_thread
from dora.wire.node_config import InputConfig, OutputConfig, RemoteConfig
from dora.wire.node_protocol import (
    AttachInput,
    AttachLink,
    DetachInput,
    DetachLink,
    InputAttached,
    InputDetached,
    ToDaemon,
    TopologyChange,
)

if TYPE_CHECKING:
    from dora.node.receive.inbox import Inbox
    from dora.node.send.output import OutputPort
    from dora.node.session.daemon_client import DaemonChannel
    from dora.transport.board import Board
    from dora.transport.composite import CompositeEngine
    from dora.transport.doorbell import Bell
    from dora.transport.interface import Engine, Receiver
    from dora.wire.node_config import NodeConfig

_REMOTE: Final = "remote"  # the channel of an output's links to other machines that came late


class RunningSession(Protocol):
    """The part of `dora.node.session.session.Session` that changes of links need."""

    closed: bool
    config: NodeConfig
    board: Board
    bell: Bell
    engine: Engine
    inbox: Inbox
    outputs: dict[str, OutputPort]
    channel: DaemonChannel

    def make_receiver(self, item: InputConfig, engine: Engine) -> Receiver:
        """Return the receiving end of an input."""

    def add_input(self, item: InputConfig, receiver: Receiver | None) -> None:
        """Add an input to the inbox."""


class Topology:
    """Acts on the frames for one session, which is a parameter each time and so is not kept alive.

    ``accept_input`` is called before an input is made; it returns why that is impossible, or "".
    """

    def __init__(self) -> None:
        self.accept_input: Callable[[InputConfig], str] = lambda _: ""
        self._remote: RemoteTopology | None = None
        self._waiting: dict[str, InputConfig] = {}  # until the former input of the same name has ended
        self._receivers: dict[int, Receiver] = {}  # by slot, of inputs that are about to be made
        self._slots: dict[str, int] = {}  # of inputs that were disconnected and are not empty yet

    def handle(self, session: RunningSession, frame: TopologyChange) -> None:
        """Act on a frame of the daemon."""
        match frame:
            case AttachLink(output=output):
                if (port := session.outputs.get(output)) is None:
                    return
                if frame.link.machine:
                    self._change_remote_link(session, port, frame)
                else:
                    _attach_link(session, port, frame)
            case DetachLink(output=output):
                if (port := session.outputs.get(output)) is None:
                    return
                if frame.machine:
                    self._change_remote_link(session, port, frame)
                else:
                    port.detach(frame.slot, frame.change, frame.overflow_channel)
            case AttachInput(item=item) if item.machine:
                self._attach_remote_input(session, frame)
            case AttachInput(item=item):
                _send(session, InputAttached(item.slot, self._attach_input(session, item)))
            case DetachInput(input=input_id, slot=slot):
                self._slots[input_id] = slot
                session.inbox.detach(input_id)

    def detached(self, session: RunningSession, input_id: str) -> None:
        """Report an input that has given out its last event; add the one that waits for its name."""
        _send(session, InputDetached(input_id, self._slots.pop(input_id, 0)))
        if (item := self._waiting.pop(input_id, None)) is not None and (
            fault := self._attach_input(session, item)
        ):
            _send(session, InputAttached(item.slot, fault))

    def _change_remote_link(
        self, session: RunningSession, port: OutputPort, frame: AttachLink | DetachLink
    ) -> None:
        """Make a change in the background; the output counts it as made already."""
        port.links_version = max(port.links_version, frame.change)
        self._remote_topology(session).submit(frame)

    def _attach_remote_input(self, session: RunningSession, frame: AttachInput) -> None:
        """Make an input from another machine; answer the daemon when the source knows of the input."""
        item = frame.item
        if fault := self._fault(session, item):
            _send(session, InputAttached(item.slot, fault))
            return

        def add(session: RunningSession, receiver: Receiver | None, fault: str) -> None:
            if receiver is not None:
                self._receivers[item.slot] = receiver
                fault = self._attach_input(session, item)
            _send(session, InputAttached(item.slot, fault))

        self._remote_topology(session).submit(frame, add)

    def _remote_topology(self, session: RunningSession) -> RemoteTopology:
        """Return the topology of links with other machines; most nodes never need it."""
        if self._remote is None:
            self._remote = RemoteTopology(session)
        return self._remote

    def finish_remote(self) -> None:
        """Add the inputs from other machines that are ready, in the thread that receives events."""
        if self._remote is not None:
            self._remote.finish()

    def _fault(self, session: RunningSession, item: InputConfig) -> str:
        """Return why a further input cannot be made, or ""."""
        if session.closed or session.inbox.is_closing:
            return f"node `{session.config.node_id}` is about to end"
        return self.accept_input(item)

    def _attach_input(self, session: RunningSession, item: InputConfig) -> str:
        """Make an input; return why that failed, or ""."""
        if fault := self._fault(session, item):
            return fault
        if item.id in session.inbox.ports:
            self._waiting[item.id] = item  # the events of the former input come first
            return ""
        try:
            session.add_input(item, self._receivers.pop(item.slot, None))
        except (DoraError, OSError) as error:
            return str(error)
        return ""


def _attach_link(session: RunningSession, port: OutputPort, frame: AttachLink) -> None:
    channel, sender = frame.overflow_channel, None
    if channel is not None:
        try:
            sender = session.engine.sender(overflow_channel_of(OutputConfig(frame.output), channel))
        except DoraError as error:
            write_log(session.config.node_id, "error", str(error))
    name = "" if channel is None else channel.service
    port.attach(frame.link, frame.change, frame.credit_bell, name, sender)


def _send(session: RunningSession, message: ToDaemon) -> None:
    try:
        session.channel.send(message)
    except DaemonLost:
        pass  # the next event reports it


# ------------------------------------------------------------------ links with other machines

_Work = AttachLink | DetachLink | AttachInput
_OnReceiver = Callable[[RunningSession, "Receiver | None", str], None]


class RemoteTopology:
    """Makes the changes of one session in the background, in order, without keeping the session alive."""

    def __init__(self, session: RunningSession) -> None:
        self._session = weakref.ref(session)
        self._lock = threading.Lock()
        self._work: deque[tuple[_Work, _OnReceiver | None]] = deque()
        self._running = False  # a thread makes the changes; it ends with the last one
        self._ready: deque[tuple[_OnReceiver, Receiver | None, str]] = deque()

    def submit(self, work: _Work, on_receiver: _OnReceiver | None = None) -> None:
        """Make a change in the background; the thread that receives events calls ``on_receiver``."""
        with self._lock:
            self._work.append((work, on_receiver))
            if not self._running:
                self._running = True
                start_thread("dora remote links", self._run)

    def finish(self) -> None:
        """Add the inputs that are ready, in the thread that receives events."""
        session = self._session()
        while self._ready and session is not None:
            on_receiver, receiver, fault = self._ready.popleft()
            on_receiver(session, receiver, fault)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._work:
                    self._running = False
                    return
                work, on_receiver = self._work.popleft()
            session = self._session()
            if session is None or session.closed:
                continue
            try:
                self._act(session, work, on_receiver)
            except (DoraError, OSError) as error:
                if on_receiver is not None:
                    self._hand_over(session, on_receiver, None, str(error))
                elif not session.closed:
                    write_log(session.config.node_id, "error", str(error))
            del session

    def _act(self, session: RunningSession, work: _Work, on_receiver: _OnReceiver | None) -> None:
        match work:
            case AttachLink(output=output, link=link):
                if (port := session.outputs.get(output)) is not None:
                    config = next(each for each in session.config.outputs if each.id == output)
                    sender = _composite_engine(session, work.remote).add_link(config, link)
                    port.attach(link, work.change, work.credit_bell, _REMOTE, sender)
            case DetachLink(output=output, slot=slot):
                if (port := session.outputs.get(output)) is not None:
                    port.detach(slot, work.change, "")
                    if _composite_engine(session, None).remove_link(output, slot):
                        port.detach(slot, work.change, _REMOTE)
            case AttachInput(item=item):
                assert on_receiver is not None
                receiver = session.make_receiver(item, _composite_engine(session, work.remote))
                self._hand_over(session, on_receiver, receiver, "")

    def _hand_over(
        self, session: RunningSession, on_receiver: _OnReceiver, receiver: Receiver | None, fault: str
    ) -> None:
        self._ready.append((on_receiver, receiver, fault))
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
