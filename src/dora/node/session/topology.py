"""Changes of links and inputs, and messages of `dora topic pub`, while the node runs.

The daemon sends frames. The thread that reads the control socket acts on them: the one that waits for
events, or, in a program that only sends, the one that sends next (see `OutputPort.apply_link_changes`). So
a new receiver is rung from the next message on.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from dora.errors import DaemonLost, DoraError
from dora.node.process import log_line, write_line
from dora.node.send.output import overflow_channel_of
from dora.wire.decode import PayloadError, decode_arrow
from dora.wire.message import Message, MessageError
from dora.wire.metadata import MetadataError, decode_metadata
from dora.wire.node_config import InputConfig, OutputConfig
from dora.wire.node_protocol import (
    AttachInput,
    AttachLink,
    DetachInput,
    DetachLink,
    InputAttached,
    InputDetached,
    PublishRequest,
    PublishResult,
    ToDaemon,
    TopologyChange,
)

if TYPE_CHECKING:
    from dora.node.session.interface import RunningSession
    from dora.node.session.remote_topology import RemoteTopology
    from dora.transport.interface import Receiver


class Topology:
    """Acts on the frames for one session, without keeping the session alive.

    ``accept_input`` is called before an input is made; it returns why that is impossible, or "".
    """

    def __init__(self, session: RunningSession) -> None:
        self._session = weakref.ref(session)
        self._remote: RemoteTopology | None = None
        self.accept_input: Callable[[InputConfig], str] = lambda _: ""
        self._waiting: dict[str, InputConfig] = {}  # until the former input of the same name has ended
        self._receivers: dict[int, Receiver] = {}  # by slot, of inputs that are about to be made
        self._slots: dict[str, int] = {}  # of inputs that were disconnected and are not empty yet

    def handle(self, frame: TopologyChange) -> None:
        session = self._session()
        if session is None:
            return
        match frame:
            case AttachLink(output=output, link=link):
                if link.machine:
                    _mark_links_version(session, output, frame.change)
                    self._remote_topology(session).submit(frame)
                else:
                    self._attach_link(session, frame)
            case DetachLink(output=output):
                if frame.machine:
                    _mark_links_version(session, output, frame.change)
                    self._remote_topology(session).submit(frame)
                elif (port := session.outputs.get(output)) is not None:
                    port.detach(frame.slot, frame.change, frame.overflow_channel)
            case AttachInput(item=item) if item.machine:
                self._attach_remote_input(session, frame)
            case AttachInput(item=item):
                self._send(session, InputAttached(item.slot, self._attach_input(session, item)))
            case DetachInput(input=input_id, slot=slot):
                self._slots[input_id] = slot
                session.inbox.detach(input_id)

    def detached(self, input_id: str) -> None:
        """Report an input that has given out its last event; add the one that waits for its name."""
        session = self._session()
        if session is None:
            return
        self._send(session, InputDetached(input_id, self._slots.pop(input_id, 0)))
        if (item := self._waiting.pop(input_id, None)) is not None and (
            fault := self._attach_input(session, item)
        ):
            write_line(log_line(session.config.node_id, "error", fault))

    def _attach_link(self, session: RunningSession, frame: AttachLink) -> None:
        port = session.outputs.get(frame.output)
        if port is None:
            return
        sender = None
        if (overflow_channel := frame.overflow_channel) is not None:
            try:
                sender = session.engine.sender(
                    overflow_channel_of(OutputConfig(frame.output), overflow_channel)
                )
            except DoraError as error:
                write_line(log_line(session.config.node_id, "error", str(error)))
        port.attach(frame.link, frame.change, frame.credit_bell, (frame.overflow_channel, sender))

    def _attach_remote_input(self, session: RunningSession, frame: AttachInput) -> None:
        """Make an input from another machine; answer the daemon when the source knows of the input."""
        item = frame.item
        if fault := self._fault(session, item):
            self._send(session, InputAttached(item.slot, fault))
            return
        reference = self._session

        def add(receiver: Receiver | None, fault: str) -> None:
            session = reference()
            if session is not None:
                if receiver is not None:
                    self._receivers[item.slot] = receiver
                    fault = self._attach_input(session, item)
                self._send(session, InputAttached(item.slot, fault))

        self._remote_topology(session).submit(frame, add)

    def _remote_topology(self, session: RunningSession) -> RemoteTopology:
        """Return the topology of links with other machines; most nodes never need it."""
        if self._remote is None:
            from dora.node.session.remote_topology import RemoteTopology

            self._remote = RemoteTopology(session)
            session.inbox.on_control = self._remote.finish
        return self._remote

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

    def _send(self, session: RunningSession, message: ToDaemon) -> None:
        try:
            session.channel.send(message)
        except DaemonLost:
            pass  # the next event reports it


def _mark_links_version(session: RunningSession, output: str, change: int) -> None:
    """Mark a change that another thread makes as known to the output."""
    if (port := session.outputs.get(output)) is not None:
        port.links_version = max(port.links_version, change)


def publish_handler(session: RunningSession) -> Callable[[PublishRequest], None]:
    """Return the handler of `dora topic pub`; it does not keep the session alive.

    The node sends these messages itself, so they are numbered, wait for credit and are counted like its
    own.
    """
    reference = weakref.ref(session)

    def act(frame: PublishRequest) -> None:
        if (session := reference()) is not None:
            _publish(session, frame)

    return act


def _publish(session: RunningSession, frame: PublishRequest) -> None:
    reason = ""
    try:
        message = Message(frame.message)
        message.validate(len(frame.message))
        metadata = decode_metadata(message.metadata)
        port = session.output(frame.output)  # raises for an output that is not declared
        unsent = port.unsent
        session.publish(frame.output, decode_arrow(message), metadata)
        if port.unsent != unsent:
            reason = f"output `{frame.output}`: the queue is full, and the node was asked to stop"
    except (DoraError, MessageError, MetadataError, PayloadError) as error:
        reason = str(error)
    try:
        session.channel.send(PublishResult(frame.ticket, reason))
    except DaemonLost:
        pass  # the next event reports it
