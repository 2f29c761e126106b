"""How a node is attached to the world around it: the seam between a session and everything else.

`Host` is the usual one, to the daemon of a running dataflow. Others stand in for it: a file of
recorded inputs (`dora.node.replay`), a person at a terminal (`dora.node.interactive`), a dataflow in
virtual time (`dora.testing`). `attach` chooses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final

from dora.errors import NotInDataflow
from dora.node.connect import connect
from dora.node.control import DaemonChannel
from dora.node.inbox import Inbox
from dora.node.input import InputPort
from dora.node.output import OutputPort
from dora.node.rewiring import overflow_channel_of
from dora.node.state import StateFile, StateStore
from dora.transport.board import Board
from dora.transport.doorbell import Bell, Doorbell
from dora.transport.interface import Engine
from dora.wire.control import NodeConfig

TEST_INPUTS: Final = "DORA_TEST_WITH_INPUTS"
RECORD_TO: Final = "DORA_WRITE_EVENTS_TO"

_OUTSIDE = """\
this program is a dora node, but it was started outside a dataflow (DORA_NODE_CONFIG is not set).

Either let a dataflow start it:
    nodes:
      - id: my-node
        path: {script}
    and then: dora run dataflow.yml
or declare it with `path: dynamic` in a dataflow that is running, and connect by its id:
    Node(node_id="my-node")
or give it recorded inputs: DORA_TEST_WITH_INPUTS=inputs.json python {script}"""


class Host:
    """To the daemon of a running dataflow."""

    owns_process = True  # this process is for the node: its log and its last words may be shaped

    def __init__(self, channel: DaemonChannel, config: NodeConfig, board: Board) -> None:
        self.channel = channel
        self.config = config
        self.board = board

    def make_engine(self) -> Engine:
        config = self.config
        engine = self._local_engine()
        if config.remote is None or not (
            any(item.machine for item in config.inputs)
            or any(link.machine for output in config.outputs for link in output.links)
        ):
            return engine
        from dora.transport.spanning import CompositeEngine

        return CompositeEngine(engine, config, self.board)

    def _local_engine(self) -> Engine:
        if self.config.engine == "zenoh":
            from dora.transport.zenoh import ZenohEngine

            return ZenohEngine(self.config.zenoh_endpoint, self.config.dataflow_id, self.board)
        from dora.transport.iceoryx import IceoryxEngine

        return IceoryxEngine(self.config.run_dir, self.config.prefix, self.board)

    def make_outputs(self, engine: Engine) -> dict[str, OutputPort]:
        return {
            output.id: OutputPort(
                output,
                engine.sender(output),
                self.board,
                rings=not engine.wakes,
                node_slot=self.config.node_slot,
                doorbell=self.doorbell,
                annexes=[engine.sender(overflow_channel_of(output, annex)) for annex in output.annexes],
            )
            for output in self.config.outputs
        }

    def make_ports(self) -> list[InputPort]:
        """Return inputs beyond those of the configuration."""
        return []

    def bell(self, path: str) -> Bell:
        """Return what wakes the owner of a doorbell."""
        return Bell(path)

    def doorbell(self, path: str, also: int = -1) -> Doorbell:
        """Return a doorbell of this node's own."""
        return Doorbell(path, also)

    def state(self) -> StateStore:
        """Return what keeps this node's state for its next process."""
        return StateFile(self.config)

    def inbox_type(self) -> Callable[..., Inbox]:
        """Return what makes the inbox, from the arguments of `Inbox`."""
        if directory := os.environ.get("DORA_REPLAY_DIRECTORY"):
            from dora.node.ordered_inbox import replay_inbox

            return replay_inbox(directory, self.config)
        if os.environ.get(RECORD_TO):
            from dora.node.recording import recording_inbox

            return recording_inbox(self.config.node_id)
        return Inbox


in_process: Callable[[str | None], Host | None] = lambda _: None  # noqa: E731
"""Set by `dora.testing` while a dataflow in virtual time exists; None for threads outside of it."""


def attach(node_id: str | None) -> Host:
    """Find out what this program is a node of.

    In this order: a dataflow in virtual time in this process, the dataflow that started this program,
    recorded inputs, a running dataflow that declares ``node_id`` as dynamic, a person at a terminal.
    Raises `NotInDataflow`, `ConnectError`.
    """
    if (attachment := in_process(node_id)) is not None:
        return attachment
    if not os.environ.get("DORA_NODE_CONFIG"):
        if inputs := os.environ.get(TEST_INPUTS):
            from dora.node.replay import replay

            return replay(inputs, node_id)
        if node_id is None:
            if sys.stdin is not None and sys.stdin.isatty():
                from dora.node.interactive import converse

                return converse()
            raise NotInDataflow(_OUTSIDE.format(script=sys.argv[0] or "my_node.py"))
    channel, config = connect(node_id)
    return Host(channel, config, Board.open(config.board))
