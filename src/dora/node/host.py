"""The host of a node: what a session needs from its environment.

`Host` is the usual one, with the daemon of a running dataflow. Others stand in for it: a file of
recorded inputs (`dora.node.standalone.recorded_inputs`), a person at a terminal
(`dora.node.standalone.interactive`), a dataflow in virtual time (`dora.testing`). `attach` chooses.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from dora._paths import path_records_of
from dora.errors import SharedMemoryFull
from dora.node.current_event import CurrentEvent, StampedEvent
from dora.node.daemon_client import DaemonChannel
from dora.node.receive.inbox import Inbox
from dora.node.receive.input_port import InputPort
from dora.node.receive.path_meter import Records
from dora.node.saved_state import StateFile, StateStore
from dora.node.send.output import OutputPort
from dora.transport.board import Board
from dora.transport.doorbell import Bell, Doorbell
from dora.transport.engines import files_of
from dora.transport.interface import Engine, Sender
from dora.transport.open_files import allow_files
from dora.transport.spill import SpillWriter
from dora.wire.node_config import NodeConfig, OutputConfig
from dora.wire.output_rules import LatchRule

if TYPE_CHECKING:
    from dora.transport.latch import Latch, ReadLatch

Port = TypeVar("Port", bound=OutputPort)

REPLAY_DIRECTORY: Final = "DORA_REPLAY_DIRECTORY"  # set for the nodes of a replay
EVENT_LOG_SUFFIX: Final = ".order"  # of files there, one of each node that has an event log


class Host:
    """The host of a node in a running dataflow."""

    owns_process = True  # this process is for the node: its logging and excepthook may be set

    def __init__(self, channel: DaemonChannel, config: NodeConfig, board: Board) -> None:
        self.channel = channel
        self.config = config
        self.board = board
        stamped = any(output.stamped for output in config.outputs)
        self.current = StampedEvent() if stamped else CurrentEvent()

    def path_records(self) -> Records:
        """Return the memory for this node's path latencies."""
        return Records(path_records_of(self.board.path, self.config.node_slot))

    def make_engine(self) -> Engine:
        allow_files(files_of(self.config))
        if self.config.engine == "shm":
            from dora.transport.shm.engine import ShmEngine

            return ShmEngine(self.config.prefix, self.board)
        from dora.transport.shm.iceoryx2 import IceoryxEngine

        return IceoryxEngine(self.config.run_dir, self.config.prefix, self.board)

    def make_outputs(self, engine: Engine) -> dict[str, OutputPort]:
        return {
            output.id: self.make_output(
                output, lambda config: self.make_sender(config, engine), engine, self.doorbell, OutputPort
            )
            for output in self.config.outputs
        }

    def make_output(
        self,
        output: OutputConfig,
        sender: Callable[[OutputConfig], Sender],
        engine: Engine,
        doorbell: Callable[[str], Doorbell],
        port: type[Port],
    ) -> Port:
        """Return an output of a type of ports, with senders of this engine."""
        return port(
            output,
            sender(output),
            self.board,
            rings=not engine.wakes,
            node_slot=self.config.node_slot,
            doorbell=doorbell,
            overflow_channels={
                channel.service: sender(output.on(channel)) for channel in output.overflow_channels
            },
            spill=None if engine.wakes else SpillWriter(self.config.run_dir, self.board),
            current=self.current,
        )

    def make_sender(self, output: OutputConfig, engine: Engine) -> Sender:
        """Return the sending end of an output, with its latch."""
        sender = engine.sender(output)
        if output.latched is None:
            return sender
        from dora.transport.latch import LatchingSender

        return LatchingSender(sender, self._make_latch(output, output.latched))

    def _make_latch(self, output: OutputConfig, rule: LatchRule) -> Latch:
        from dora.transport.latch import LatchFile, latch_path

        try:
            return LatchFile(latch_path(self.config.board, output.slot), rule, output.id)
        except OSError as error:
            raise SharedMemoryFull(f"output `{output.id}` cannot keep its messages: {error}") from error

    def latch_reader(self, output_slot: int) -> ReadLatch:
        """Return the function that reads the latch of an output on this machine."""
        from dora.transport.latch import latch_path, read_latch

        return partial(read_latch, latch_path(self.config.board, output_slot))

    def make_ports(self) -> list[InputPort]:
        """Return inputs that are not in the configuration."""
        return []

    def bell(self, path: str) -> Bell:
        """Return the bell that wakes the owner of a doorbell."""
        return Bell(path)

    def doorbell(self, path: str, also: int = -1) -> Doorbell:
        """Return a doorbell of this node's own."""
        return Doorbell(path, also)

    def state(self) -> StateStore:
        """Return the store of this node's state, for its next process."""
        return StateFile(self.config)

    def event_log(self) -> str:
        """Return the path of the event log that this node follows in a replay; "": it follows none."""
        directory = os.environ.get(REPLAY_DIRECTORY)
        if not (directory and self.owns_process):
            return ""
        path = os.path.join(directory, self.config.node_id + EVENT_LOG_SUFFIX)
        return path if os.path.exists(path) else ""

    def inbox_type(self) -> Callable[..., Inbox]:
        """Return the inbox type, or a function with its parameters."""
        if path := self.event_log():
            from dora.node.replay.inbox import replay_inbox

            return replay_inbox(path, self.config)
        return Inbox
