"""Changes of links and inputs while the node runs.

The daemon sends frames. The thread that reads the control socket acts on them: the one that waits for
events, or, in a program that only sends, the one that sends next (see `OutputPort.apply_link_changes`). So
a new receiver is rung from the next message on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from dora.errors import DoraError
from dora.node.log import write_log
from dora.wire.node_config import InputConfig, OutputConfig
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
    from dora.transport.interface import Engine
    from dora.wire.node_config import NodeConfig


class RunningSession(Protocol):
    """The part of `dora.node.session.session.Session` that changes of links need."""

    closed: bool
    config: NodeConfig
    engine: Engine
    inbox: Inbox
    outputs: dict[str, OutputPort]

    def report(self, message: ToDaemon) -> None:
        """Send something to the daemon, unless it is gone."""

    def add_input(self, item: InputConfig) -> None:
        """Add an input to the inbox."""


class Topology:
    """Acts on the frames for one session, which is a parameter each time and so is not kept alive.

    ``accept_input`` is called before an input is made; it returns why that is impossible, or "".
    """

    def __init__(self) -> None:
        self.accept_input: Callable[[InputConfig], str] = lambda _: ""
        self._waiting: dict[str, InputConfig] = {}  # until the former input of the same name has ended
        self._slots: dict[str, int] = {}  # of inputs that were disconnected and are not empty yet

    def handle(self, session: RunningSession, frame: TopologyChange) -> None:
        """Act on a frame of the daemon."""
        match frame:
            case AttachLink(output=output):
                if (port := session.outputs.get(output)) is not None:
                    _attach_link(session, port, frame)
            case DetachLink(output=output):
                if (port := session.outputs.get(output)) is not None:
                    port.detach(frame.slot, frame.change, frame.overflow_channel)
            case AttachInput(item=item):
                session.report(InputAttached(item.slot, self._attach_input(session, item)))
            case DetachInput(input=input_id, slot=slot):
                self._slots[input_id] = slot
                session.inbox.detach(input_id)

    def detached(self, session: RunningSession, input_id: str) -> None:
        """Report an input that has given out its last event; add the one that waits for its name."""
        session.report(InputDetached(input_id, self._slots.pop(input_id, 0)))
        if (item := self._waiting.pop(input_id, None)) is not None and (
            fault := self._attach_input(session, item)
        ):
            session.report(InputAttached(item.slot, fault))

    def _attach_input(self, session: RunningSession, item: InputConfig) -> str:
        """Make an input; return why that failed, or ""."""
        if session.closed or session.inbox.is_closing:
            return f"node `{session.config.node_id}` is about to end"
        if fault := self.accept_input(item):
            return fault
        if item.id in session.inbox.ports:
            self._waiting[item.id] = item  # the events of the former input come first
            return ""
        try:
            session.add_input(item)
        except (DoraError, OSError) as error:
            return str(error)
        return ""


def _attach_link(session: RunningSession, port: OutputPort, frame: AttachLink) -> None:
    channel, sender = frame.overflow_channel, None
    if channel is not None:
        try:
            sender = session.engine.sender(OutputConfig(frame.output).on(channel))
        except DoraError as error:  # one link fails; the node, and its other links, go on
            write_log(session.config.node_id, "error", str(error))
    name = "" if channel is None else channel.service
    port.attach(frame.link, frame.change, frame.credit_bell, name, sender)
