"""Messages that a node sends because somebody outside the dataflow asked for it (`dora topic pub`).

The node sends them itself, so they are numbered, wait for credit and are counted like its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from dora.errors import DaemonLost, DoraError
from dora.wire.control import PublishRequest, PublishResult
from dora.wire.decode import PayloadError, decode_arrow
from dora.wire.message import Message, MessageError
from dora.wire.metadata import MetadataError, decode_metadata

if TYPE_CHECKING:
    from dora.node.session import Session


def sender_for(session: Session) -> Callable[[PublishRequest], None]:
    """Return what acts on the frames; it does not keep the session alive."""
    reference = weakref.ref(session)

    def act(frame: PublishRequest) -> None:
        if (session := reference()) is not None:
            _act(session, frame)

    return act


def _act(session: Session, frame: PublishRequest) -> None:
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
