"""What the topology of a node needs of its session, so that neither imports the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from dora.node.receive.inbox import Inbox
    from dora.node.send.output import OutputPort
    from dora.node.session.daemon_client import DaemonChannel
    from dora.transport.board import Board
    from dora.transport.doorbell import Bell
    from dora.transport.interface import Engine, Receiver
    from dora.wire.node_config import InputConfig, NodeConfig


class RunningSession(Protocol):
    """The ports of a node and its connection to the daemon; see `dora.node.session.session.Session`."""

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

    def output(self, output_id: str) -> OutputPort:
        """Return a declared output."""

    def publish(self, output_id: str, data: Any, metadata: Mapping[str, Any]) -> None:
        """Send a message that a command gave."""
