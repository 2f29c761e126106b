"""The way of a node to one of another machine: the senders that use it, and the connection they share."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import zenoh

from dora.errors import ConnectError, TransportError
from dora.transport.connection import PeerConnection, Publishers
from dora.transport.remote_link import PROGRESS, THREAD_PATIENCE, link_name, start_thread
from dora.wire.control import NodeConfig, RemoteConfig

if TYPE_CHECKING:
    from dora.transport.remote_sender import RemoteSender

_log = logging.getLogger("dora.transport")


class Peer:
    """Safe to use from several threads."""

    def __init__(self, config: NodeConfig, remote: RemoteConfig, consumer: str) -> None:
        """Open it; raises `ConnectError`. ``consumer`` is the node that it reaches."""
        self.dataflow_id = config.dataflow_id
        self.node_id = config.node_id
        self.consumer = consumer
        self.senders: dict[str, RemoteSender] = {}  # by the name of their link
        self._remote = remote
        self._prefix = f"{self.dataflow_id}/from/{self.node_id}/"
        try:
            self.endpoint = remote.reach[consumer]
            self._connection = self._connect()
        except (zenoh.ZError, KeyError) as error:
            raise ConnectError(f"node `{consumer}` cannot be reached: {error}") from error
        self._subscribed = False
        self._closed = False
        self._lock = threading.Lock()
        self._closers: list[threading.Thread] = []  # of former connections

    def _connect(self) -> PeerConnection:
        return PeerConnection(self.endpoint, self._remote, f"dora {self.node_id} to {self.consumer}")

    def ways(self, key: str) -> Publishers:
        """Return how a link sends; raises `TransportError`."""
        return self._connection.ways(key)

    def add(self, sender: RemoteSender) -> None:
        """Let a sender hear of its receiver, and know of the others; raises `TransportError`."""
        with self._lock:
            if sender.ways.connection is not self._connection:
                sender.renew(self.ways(sender.key))
            self.senders = {**self.senders, link_name(sender.link.consumer, sender.link.epoch): sender}
            self._acquaint()

    def drop(self, slot: int) -> None:
        """Forget the sender of a link."""
        with self._lock:
            self.senders = {name: each for name, each in self.senders.items() if each.link.slot != slot}
            self._acquaint()

    def _acquaint(self) -> None:
        senders = self.senders.values()
        for sender in senders:
            sender.beside = tuple(each for each in senders if each is not sender)

    def subscribe(self) -> None:
        """Begin to listen to what receivers tell."""
        with self._lock:
            if not self._subscribed:
                self._subscribed = True
                self._connection.listen(f"{self._prefix}**", self._take)

    def _take(self, connection: PeerConnection, sample: zenoh.Sample) -> None:
        sender = self.senders.get(str(sample.key_expr)[len(self._prefix) :])
        data = sample.payload.to_bytes()
        if sender is not None and connection is self._connection and len(data) == PROGRESS.size:
            try:
                sender.on_progress(data)
            except TransportError:
                pass  # the session is being closed

    def look(self) -> None:
        """Do what time demands: replace a connection that broke."""
        if self._connection.is_broken():
            with self._lock:
                if not self._closed:
                    self._renew()

    def _renew(self) -> None:
        """Go over to a new connection, or stay with the old one for now. The lock has to be held."""
        try:
            fresh = self._connect()
        except zenoh.ZError as error:
            _log.debug("node `%s`: no new connection: %s", self.consumer, error)
            return
        try:
            renewed = [(sender, fresh.ways(sender.key)) for sender in self.senders.values()]
            if self._subscribed:
                fresh.listen(f"{self._prefix}**", self._take)
        except (zenoh.ZError, TransportError) as error:
            _log.debug("node `%s`: no use of the new connection: %s", self.consumer, error)
            fresh.close()
            return
        old, self._connection = self._connection, fresh
        for sender, ways in renewed:
            sender.renew(ways)
        # Who waits for room on it holds up its end.
        self._closers = [each for each in self._closers if each.is_alive()]
        self._closers.append(start_thread(f"dora {self.node_id} leaves {self.consumer}", old.close))
        _log.debug("node `%s`: made a new connection", self.consumer)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._connection.close()
        for closer in self._closers:
            closer.join(THREAD_PATIENCE)
