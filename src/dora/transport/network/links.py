"""Links to and from other machines, on Zenoh.

A node that receives listens, one that sends connects (`dora.transport.network.sessions`). Everything that
concerns a link goes through the connection between them:

* under ``<dataflow>/to/<node>/<input>`` the messages, each with its lane, its number on it and its sequence
  (`dora.transport.network.window`), and *probes*, which say how far the sender has come;
* under ``<dataflow>/from/<source node>/<node>/<input>`` what the receiver tells of its *progress*: which
  number has arrived, which sequence was taken out of the queue, whether it is there at all.

Where nodes send to each other in both directions, messages carry such reports along (`RemoteSender.back`).

The board is of one machine. So the sender writes what it hears of the receiver to the line of the link on
its own board, and the receiver what it sees of the sender to the line of the output on its own. That way
back-pressure, counting and closing are the same as for links inside a machine.

A link begins with a probe: the receiver notes where it begins, and confirms. Whoever does not hear of the
other for `remote_sender.SILENCE` while something is under way says so in the log, and when it is over.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from struct import Struct
from typing import Final

from dora.errors import ConnectError, TransportError
from dora.transport.board import Board
from dora.transport.forking import disown_after_fork, do_nothing, leak, refuse
from dora.transport.network.peer import Peer
from dora.transport.network.protocol import LOOK_EVERY, THREAD_PATIENCE, start_thread
from dora.transport.network.receiver import ReceiverSession, RemoteReceiver
from dora.transport.network.sender import RemoteSender
from dora.wire.correlation import FLUSH_MARK, asks_to_flush
from dora.wire.message import HEADER_SIZE
from dora.wire.node_config import InputConfig, LinkConfig, NodeConfig, OutputConfig, RemoteConfig

_FIRST_PAUSE: Final = 0.001  # seconds between probes, doubled up to the longest
_LONGEST_PAUSE: Final = 0.05
_INTERRUPTED_PATIENCE: Final = 0.5  # seconds
_FLUSH_PATIENCE: Final = 3.0  # seconds in which nothing goes or arrives
_LAUNCH_PATIENCE: Final = 10.0  # the same, while something still waits for room: a slow network
_JOIN_PATIENCE: Final = 1.0
_LATE_PATIENCE: Final = 2.5  # less than the daemon waits for an input that was connected

_SECTIONS: Final = Struct("<6xHI")  # of a message: length of the schema, of the metadata


class RemoteLinks:
    """All links of one node with other machines."""

    def __init__(self, config: NodeConfig, board: Board) -> None:
        self._config = config
        self._board = board
        self._gates: list[Peer] = []
        self._house: ReceiverSession | None = None
        self._senders: list[RemoteSender] = []
        self._connected = False
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None
        atexit.register(self.close)
        disown_after_fork(self)

    def disown(self) -> None:
        """Leave all links to the parent, in a forked child process, which has none of the threads."""
        atexit.unregister(self.close)
        leak(self._gates, self._house, self._senders)
        for sender in self._senders:
            vars(sender)["put"] = refuse
        vars(self).update(sender=refuse, receiver=refuse, drop=do_nothing, close=do_nothing)

    def senders(self, output: OutputConfig) -> list[RemoteSender]:
        """Return the senders of the links of an output that lead to other machines."""
        return [self.sender(output, link) for link in output.links if link.machine]

    def sender(self, output: OutputConfig, link: LinkConfig) -> RemoteSender:
        """Return the sender of a link to another machine; raises `ConnectError`, `TransportError`.

        One that is made after `connect` sends once its receiver is there.
        """
        gate = self._gate_to(link.consumer.partition("/")[0])
        sender = RemoteSender(gate, output, link, self._board)
        gate.add(sender)
        self._senders = [*self._senders, sender]
        if self._connected:
            self._introduce()
            gate.subscribe()
            self._begin_to_keep()
            sender.probe()
        return sender

    def _gate_to(self, node_id: str) -> Peer:
        """Return the session that reaches a node."""
        remote = self._remote
        for gate in self._gates:
            if gate.consumer == node_id and gate.endpoint == remote.reach.get(node_id):
                return gate
        gate = Peer(self._config, remote, node_id)
        self._gates = [*self._gates, gate]
        if self._closing.is_set():  # in another thread
            gate.close()
        return gate

    @property
    def _remote(self) -> RemoteConfig:
        """How others are reached now; it follows the dataflow."""
        assert self._config.remote is not None
        return self._config.remote

    def drop(self, slot: int) -> None:
        """Forget the sender of a link that was taken away, and the session that nobody needs any more."""
        self._senders = [sender for sender in self._senders if sender.link.slot != slot]
        for gate in list(self._gates):
            gate.drop(slot)
            if not gate.senders:
                self._gates = [other for other in self._gates if other is not gate]
                gate.close()

    def receiver(self, item: InputConfig, arrived: Callable[[], None]) -> RemoteReceiver:
        """Return the receiver of a link from another machine; it begins to receive in `connect`."""
        if self._house is None:
            self._house = ReceiverSession(self._config, self._remote, self._board)
        receiver = RemoteReceiver(self._house, item, arrived, self._board, self._config.node_slot)
        self._house.add(receiver)
        if self._connected:
            self._introduce()
        # Where it begins has to be known before it counts what it gets.
        if self._connected or self._config.dynamic:
            self._house.subscribe()
            _wait_for([receiver], _LATE_PATIENCE if self._connected else _JOIN_PATIENCE)
        return receiver

    def connect(self, timeout: float, interrupted: Callable[[], bool]) -> None:
        """Return once the receiver of each link has confirmed that messages reach it.

        Not waited for are dynamic nodes that are not there, receivers that have ended, and after a restart
        nobody: the link may be cut. Raises `ConnectError` after ``timeout`` seconds, naming who is missing.
        """
        self._introduce()
        if self._house is not None:
            self._house.subscribe()
        for gate in self._gates:
            gate.subscribe()
        self._connected = True
        self._begin_to_keep()
        if self._house is not None:
            _wait_for([each for each in self._house.receivers.values() if each.begins], _JOIN_PATIENCE)
        deadline = time.monotonic() + timeout
        pause = _FIRST_PAUSE
        hurried = False
        while missing := [sender for sender in self._senders if sender.is_missing]:
            for sender in missing:
                sender.probe()
            now = time.monotonic()
            if not hurried and interrupted():
                hurried = True
                deadline = min(deadline, now + _INTERRUPTED_PATIENCE)
            if now > deadline or self._config.restart_count:
                if hurried or self._config.restart_count:
                    return
                names = ", ".join(f"`{s.link.consumer}` on machine `{s.link.machine}`" for s in missing)
                raise ConnectError(f"no connection to {names} within {timeout:g} seconds")
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _begin_to_keep(self) -> None:
        if self._keeper is None:
            self._keeper = start_thread(f"dora {self._config.node_id} links", self._keep)

    def _introduce(self) -> None:
        """Let messages to a node tell how far those from it have come."""
        if self._house is None:
            return
        self._house.on_report = self._on_report
        receivers = tuple(self._house.receivers.values())
        for sender in self._senders:
            sender.back = [receiver for receiver in receivers if receiver.source == sender.node]

    def _on_report(self, lane: int, arrived: int, taken: int) -> None:
        for sender in self._senders:
            if sender.lane_id == lane:
                try:
                    sender.on_report(lane, arrived, taken)
                except TransportError:
                    pass  # the session is being closed

    def _keep(self) -> None:
        while not self._closing.wait(LOOK_EVERY):
            now = time.monotonic()
            for sender in self._senders:
                try:
                    sender.look(now)
                except TransportError:
                    pass  # the session is being closed
            for gate in self._gates:
                gate.look()
            if self._house is not None:
                for receiver in tuple(self._house.receivers.values()):
                    receiver.look(now)

    def close(self) -> None:
        """Wait until everything sent has arrived, as long as something does, then end the sessions."""
        atexit.unregister(self.close)
        try:
            self._flush()
        except TransportError:
            pass
        self._closing.set()
        for gate in self._gates:
            gate.close()
        self._gates = []
        if self._house is not None:
            self._house.close()
            self._house = None
        if self._keeper is not None:
            self._keeper.join(THREAD_PATIENCE)
            self._keeper = None

    def _flush(self) -> None:
        since, progress = 0.0, [-1]
        pause = _FIRST_PAUSE
        while left := [sender for sender in self._senders if not sender.is_idle]:
            now, news = time.monotonic(), [sender.progress for sender in left]
            if news != progress:
                since, progress = now, news
            launching = any(sender.is_launching for sender in left)
            if now - since > (_LAUNCH_PATIENCE if launching else _FLUSH_PATIENCE):
                return
            for sender in left:
                sender.probe()
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


def _wait_for(receivers: list[RemoteReceiver], patience: float) -> None:
    """Wait until the senders know of these receivers, for at most so many seconds."""
    deadline = time.monotonic() + patience
    for receiver in receivers:
        receiver.look(time.monotonic())
    for receiver in receivers:
        receiver.opened.wait(max(deadline - time.monotonic(), 0.0))


def flushes(message: bytes | bytearray | memoryview) -> bool:
    """Tell whether a message has the metadata ``flush: true``."""
    schema, metadata = _SECTIONS.unpack_from(message)
    if not metadata:
        return False
    begin = HEADER_SIZE + schema
    section = bytes(message[begin : begin + metadata])
    return FLUSH_MARK in section and asks_to_flush(section)


def sequence_of(message: bytes | bytearray | memoryview) -> int:
    """Return the sequence number of a message."""
    return int.from_bytes(message[24:32], "little")
