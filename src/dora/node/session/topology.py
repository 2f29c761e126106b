"""Links and inputs that come and go while the node runs.

The daemon says what changes, in frames. They are acted upon by whichever thread reads the control socket:
the one that waits for events, or, in a program that only sends, the one that sends next (see
`OutputPort.notice`). So a new receiver is rung from the next message on.
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
    """Acts on the frames for one session, which it does not keep alive.

    ``take`` is asked before an input is made, and returns why it cannot be; "" if it can.
    """

    def __init__(self, session: RunningSession) -> None:
        self._session = weakref.ref(session)
        self._far: RemoteTopology | None = None
        self.take: Callable[[InputConfig], str] = lambda _: ""
        self._waiting: dict[str, InputConfig] = {}  # for the end of an input of the same name
        self._receivers: dict[int, Receiver] = {}  # by slot, of inputs that are about to be made
        self._slots: dict[str, int] = {}  # of inputs that were disconnected and are not empty yet

    def handle(self, frame: TopologyChange) -> None:
        session = self._session()
        if session is None:
            return
        match frame:
            case AttachLink(output=output, link=link):
                if link.machine:
                    _note_change(session, output, frame.change)
                    self._far_links(session).do(frame)
                else:
                    self._attach_link(session, frame)
            case DetachLink(output=output):
                if frame.machine:
                    _note_change(session, output, frame.change)
                    self._far_links(session).do(frame)
                elif (port := session.outputs.get(output)) is not None:
                    port.detach(frame.slot, frame.change, frame.overflow_channel)
            case AttachInput(item=item) if item.machine:
                self._attach_far(session, frame)
            case AttachInput(item=item):
                self._say(session, InputAttached(item.slot, self._attach_input(session, item)))
            case DetachInput(input=input_id, slot=slot):
                self._slots[input_id] = slot
                session.inbox.detach(input_id)

    def detached(self, input_id: str) -> None:
        """Note that an input has given out its last event and is gone."""
        session = self._session()
        if session is None:
            return
        self._say(session, InputDetached(input_id, self._slots.pop(input_id, 0)))
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

    def _attach_far(self, session: RunningSession, frame: AttachInput) -> None:
        """Make an input from another machine; the daemon is answered when its source knows of it."""
        item = frame.item
        if fault := self._fault(session, item):
            self._say(session, InputAttached(item.slot, fault))
            return
        reference = self._session

        def add(receiver: Receiver | None, fault: str) -> None:
            session = reference()
            if session is not None:
                if receiver is not None:
                    self._receivers[item.slot] = receiver
                    fault = self._attach_input(session, item)
                self._say(session, InputAttached(item.slot, fault))

        self._far_links(session).do(frame, add)

    def _far_links(self, session: RunningSession) -> RemoteTopology:
        """Return what lays links with other machines; most nodes never need it."""
        if self._far is None:
            from dora.node.session.remote_topology import RemoteTopology

            self._far = RemoteTopology(session)
            session.inbox.on_control = self._far.finish
        return self._far

    def _fault(self, session: RunningSession, item: InputConfig) -> str:
        """Return why a further input cannot be made; "" if it can."""
        if session.closed or session.inbox.is_closing:
            return f"node `{session.config.node_id}` is about to end"
        return self.take(item)

    def _attach_input(self, session: RunningSession, item: InputConfig) -> str:
        """Make an input; return why it cannot be made."""
        if fault := self._fault(session, item):
            return fault
        if item.id in session.inbox.ports:
            self._waiting[item.id] = item  # what its predecessor has left is taken first
            return ""
        try:
            session.add_input(item, self._receivers.pop(item.slot, None))
        except (DoraError, OSError) as error:
            return str(error)
        return ""

    def _say(self, session: RunningSession, message: ToDaemon) -> None:
        try:
            session.channel.send(message)
        except DaemonLost:
            pass  # the next event tells of it


def _note_change(session: RunningSession, output: str, change: int) -> None:
    """Let an output know of a change that is made in another thread, so that it asks no more."""
    if (port := session.outputs.get(output)) is not None:
        port.rewired = max(port.rewired, change)


# Messages that a node sends because somebody outside the dataflow asked for it (`dora topic pub`).
#
# The node sends them itself, so they are numbered, wait for credit and are counted like its own.


def sender_for(session: RunningSession) -> Callable[[PublishRequest], None]:
    """Return what acts on the frames; it does not keep the session alive."""
    reference = weakref.ref(session)

    def act(frame: PublishRequest) -> None:
        if (session := reference()) is not None:
            _act(session, frame)

    return act


def _act(session: RunningSession, frame: PublishRequest) -> None:
    reason = ""
    try:
        message = Message(frame.message)
        message.validate(len(frame.message))
        metadata = decode_metadata(message.metadata)
        port = session.output(frame.output)  # raises for an output that is not declared
        unsent = port.unsent
        session.send_from_outside(frame.output, decode_arrow(message), metadata)
        if port.unsent != unsent:
            reason = f"output `{frame.output}`: the queue is full, and the node was asked to stop"
    except (DoraError, MessageError, MetadataError, PayloadError) as error:
        reason = str(error)
    try:
        session.channel.send(PublishResult(frame.ticket, reason))
    except DaemonLost:
        pass  # the next event tells of it
