"""All links of a node with other machines, on Zenoh.

A node that receives listens, a node that sends connects (`dora.transport.network.sessions`). Everything
about a link passes through the connection between the two nodes:

* messages and probes under ``<dataflow>/to/<node>/<input>``. Each message has a header with its send
  window, its number in it and its sequence number (`dora.transport.network.window`). A *probe* carries the
  state of the sender.
* acknowledgements under ``<dataflow>/from/<source node>/<node>/<input>``: the number of the last message
  that has arrived, the sequence number of the last one taken out of the queue, and whether the receiver is
  open. Where nodes send to each other in both directions, messages carry acknowledgements too
  (`RemoteSender.reverse_receivers`).

A board belongs to one machine. The sender writes the state of the receiver to the line of the link on its
own board, and the receiver writes the state of the sender to the line of the output on its own. So
back-pressure, counters and closing work like those of links inside a machine.

A link starts with a probe, which the receiver acknowledges. A sender logs an error when its receiver
has not answered for `dora.transport.network.sender.NO_ANSWER_AFTER`, and a warning when it answers again.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

from dora.errors import ConnectError, TransportError
from dora.transport.board import Board
from dora.transport.forking import disown_after_fork, leak, refuse
from dora.transport.network.endpoints import EndpointsFile, LinkEndpoints
from dora.transport.network.latched_sender import LatchedRemoteSender
from dora.transport.network.peer import Peer
from dora.transport.network.protocol import TICK
from dora.transport.network.receiver import ReceiverSession, RemoteReceiver
from dora.transport.network.sender import RemoteSender
from dora.transport.network.threads import JOIN_TIMEOUT, start_thread
from dora.wire.node_config import InputConfig, LinkConfig, NodeConfig, OutputConfig, RemoteConfig

_FIRST_PAUSE: Final = 0.001  # seconds between probes, doubled up to the longest
_LONGEST_PAUSE: Final = 0.05
_INTERRUPTED_TIMEOUT: Final = 0.5  # seconds
_FLUSH_TIMEOUT: Final = 3.0  # seconds without progress
_BLOCKED_FLUSH_TIMEOUT: Final = 10.0  # the same while a message waits for room: a slow network
_OPEN_TIMEOUT: Final = 1.0
_LATE_OPEN_TIMEOUT: Final = 2.5  # less than the daemon waits for an input that was connected


class RemoteLinks:
    """All links of one node with other machines."""

    def __init__(self, config: NodeConfig, board: Board) -> None:
        self._config = config
        self._board = board
        self._peers: list[Peer] = []
        self._session: ReceiverSession | None = None
        self._senders: list[RemoteSender] = []
        self._connected = False
        self._closing = threading.Event()
        self._inherited = False  # this process was forked from the owner
        self._ticker: threading.Thread | None = None
        self._endpoints = EndpointsFile(config.remote.endpoints if config.remote is not None else "")
        self._address = ""  # of this machine
        atexit.register(self.close)
        disown_after_fork(self)

    def disown(self) -> None:
        """Leave all links to the parent, in a forked child process, which has none of the threads."""
        atexit.unregister(self.close)
        leak(self._peers, self._session, self._senders)
        for sender in self._senders:
            sender.disown()
        self._inherited = True

    def senders(self, output: OutputConfig) -> list[RemoteSender]:
        """Return the senders for the links of an output to other machines."""
        return [self.sender(output, link) for link in output.links if link.machine]

    def sender(self, output: OutputConfig, link: LinkConfig) -> RemoteSender:
        """Return the sender for a link to another machine; raises `ConnectError`, `TransportError`.

        A sender that is created after `connect` starts once its receiver is there.
        """
        if self._inherited:
            refuse()
        peer = self._peer_of(link.consumer.partition("/")[0])
        make = RemoteSender if output.latched is None else LatchedRemoteSender
        sender = make(peer, output, link, self._board)
        peer.add(sender)
        self._senders = [*self._senders, sender]
        if self._connected:
            self._pair_directions()
            peer.subscribe()
            self._start_ticker()
            sender.probe()
        return sender

    def _peer_of(self, node_id: str) -> Peer:
        """Return the peer for a node of another machine."""
        remote = self._remote
        for peer in self._peers:
            if peer.consumer == node_id and peer.endpoint == remote.reach.get(node_id):
                return peer
        peer = Peer(self._config, remote, node_id)
        self._peers = [*self._peers, peer]
        if self._closing.is_set():  # in another thread
            peer.close()
        return peer

    @property
    def _remote(self) -> RemoteConfig:
        """The endpoints of other nodes now; they change with the dataflow."""
        assert self._config.remote is not None
        return self._config.remote

    def remove(self, slot: int) -> None:
        """Remove the sender of a link, and close its peer if no other link uses it."""
        if self._inherited:
            return
        self._senders = [sender for sender in self._senders if sender.link.slot != slot]
        for peer in list(self._peers):
            peer.remove(slot)
            if not peer.senders:
                self._peers = [other for other in self._peers if other is not peer]
                peer.close()

    def receiver(self, item: InputConfig, arrived: Callable[[], None]) -> RemoteReceiver:
        """Return the receiver for a link from another machine; it starts to receive in `connect`."""
        if self._inherited:
            refuse()
        if self._session is None:
            self._session = ReceiverSession(self._config, self._remote, self._board)
        receiver = RemoteReceiver(self._session, item, arrived, self._board, self._config.node_slot)
        self._session.add(receiver)
        if self._connected:
            self._pair_directions()
        # Its first sequence number has to be known before it counts messages.
        if self._connected or self._config.dynamic:
            self._session.subscribe()
            _wait_until_open([receiver], _LATE_OPEN_TIMEOUT if self._connected else _OPEN_TIMEOUT)
        return receiver

    def connect(self, timeout: float, interrupted: Callable[[], bool]) -> None:
        """Return once the receiver of each link has acknowledged a probe.

        Dynamic nodes that are absent and receivers that have ended are not waited for, and after a restart
        no receiver is, because the link may be cut. Raises `ConnectError` after ``timeout`` seconds, with
        the missing receivers.
        """
        self._pair_directions()
        if self._session is not None:
            self._session.subscribe()
        for peer in self._peers:
            peer.subscribe()
        self._connected = True
        self._start_ticker()
        if self._session is not None:
            late = [receiver for receiver in self._session.receivers.values() if receiver.starts_late]
            _wait_until_open(late, _OPEN_TIMEOUT)
        deadline = time.monotonic() + timeout
        pause = _FIRST_PAUSE
        hurried = False
        while missing := [sender for sender in self._senders if sender.is_missing]:
            for sender in missing:
                sender.probe()
            now = time.monotonic()
            if not hurried and interrupted():
                hurried = True
                deadline = min(deadline, now + _INTERRUPTED_TIMEOUT)
            if now > deadline or self._config.restart_count:
                if hurried or self._config.restart_count:
                    return
                names = ", ".join(f"`{s.link.consumer}` on machine `{s.link.machine}`" for s in missing)
                raise ConnectError(f"no connection to {names} within {timeout:g} seconds")
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _pair_directions(self) -> None:
        """Carry acknowledgements of messages from a node with the messages to it."""
        if self._session is None:
            return
        self._session.on_piggyback_ack = self._on_piggyback_ack
        receivers = tuple(self._session.receivers.values())
        for sender in self._senders:
            sender.reverse_receivers = [each for each in receivers if each.source == sender.node]

    def _on_piggyback_ack(self, window_id: int, arrived: int, taken: int) -> None:
        for sender in self._senders:
            if sender.window_id == window_id:
                try:
                    sender.on_piggyback_ack(window_id, arrived, taken)
                except TransportError:
                    pass  # the session is being closed

    def _start_ticker(self) -> None:
        if self._ticker is None:
            self._ticker = start_thread(f"dora {self._config.node_id} links", self._run_ticker)

    def _run_ticker(self) -> None:
        while not self._closing.wait(TICK):
            now = time.monotonic()
            if (endpoints := self._endpoints.poll()) is not None:
                self._move(endpoints)
            for sender in self._senders:
                try:
                    sender.tick(now)
                except TransportError:
                    pass  # the session is being closed
            for peer in self._peers:
                peer.tick()
            if self._session is not None:
                self._session.tick(now)

    def _move(self, endpoints: LinkEndpoints) -> None:
        """Use the present endpoints. A connection from a former address of this machine is replaced."""
        remote = msgspec.structs.replace(self._remote, listen=endpoints.listen, reach=endpoints.reach)
        self._config.remote = remote
        has_moved = self._address not in ("", endpoints.address)
        self._address = endpoints.address
        for peer in self._peers:
            peer.move(remote, anew=has_moved)
        if self._session is not None:
            self._session.move(remote)

    def close(self) -> None:
        """Wait until all messages have arrived, as long as there is progress; then close the sessions."""
        if self._inherited:
            return
        atexit.unregister(self.close)
        try:
            self._flush()
        except TransportError:
            pass
        finally:  # also after Ctrl-C
            self._closing.set()
            for peer in self._peers:
                peer.close()
            self._peers = []
            if self._session is not None:
                self._session.close()
                self._session = None
            if self._ticker is not None:
                self._ticker.join(JOIN_TIMEOUT)
                self._ticker = None

    def _flush(self) -> None:
        since, last_progress = 0.0, [-1]
        pause = _FIRST_PAUSE
        while busy := [sender for sender in self._senders if not sender.is_idle]:
            now, progress = time.monotonic(), [sender.progress for sender in busy]
            if progress != last_progress:
                since, last_progress = now, progress
            is_blocked = any(sender.is_blocked for sender in busy)
            if now - since > (_BLOCKED_FLUSH_TIMEOUT if is_blocked else _FLUSH_TIMEOUT):
                return
            for sender in busy:
                sender.probe()
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


def _wait_until_open(receivers: list[RemoteReceiver], timeout: float) -> None:
    """Announce receivers, and wait until their senders have answered."""
    deadline = time.monotonic() + timeout
    for receiver in receivers:
        receiver.tick(time.monotonic())
    for receiver in receivers:
        receiver.opened.wait(max(deadline - time.monotonic(), 0.0))
