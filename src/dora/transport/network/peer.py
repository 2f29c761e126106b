"""The connection of a node to one node of another machine, and the senders that share it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import zenoh

from dora.errors import ConnectError, TransportError
from dora.transport.network.protocol import (
    ACK,
    BLOCK,
    CHANNEL_LENGTH,
    DROP,
    close_session,
    link_name,
)
from dora.transport.network.send_thread import SendThread
from dora.transport.network.sessions import Connections, connect
from dora.transport.network.threads import JOIN_TIMEOUT, start_thread
from dora.wire.node_config import LinkConfig, NodeConfig, RemoteConfig

_log = logging.getLogger("dora.transport")


class PeerConnection:
    """The two Zenoh sessions with the node that listens at ``endpoint``: the regular one and the fast path.

    They are used until one of them loses its connection. Zenoh reconnects by itself, but not reliably: a
    late write to the broken connection may remove the entry of the new one, and from then on everything
    that is sent disappears without an error (Zenoh 1.10). New sessions are separate peers, which the old
    ones cannot disturb. ``name`` is for the threads of the connection.
    """

    def __init__(self, endpoint: str, remote: RemoteConfig, name: str) -> None:
        """Open both sessions; raises ``zenoh.ZError``."""
        self.send_thread = SendThread(name)
        self._name = name
        self._session = connect(endpoint, remote)
        try:
            self._fast_session = connect(endpoint, remote, low_latency=True)
        except zenoh.ZError:
            close_session(self._session)
            raise
        self._connections = [
            Connections(session, endpoint) for session in (self._session, self._fast_session)
        ]
        self._broken = False
        self._subscriber: Any = None
        self._listener: threading.Thread | None = None

    def is_broken(self) -> bool:
        """Return whether one of the sessions has lost its connection, even if it has reconnected since."""
        for connections in self._connections:
            self._broken |= connections.check()
        return self._broken

    def listen(self, key: str, handle: Callable[[PeerConnection, zenoh.Sample], None]) -> None:
        """Call ``handle`` in a thread for each sample under ``key``; to be called once."""
        self._subscriber = self._session.declare_subscriber(key, zenoh.handlers.FifoChannel(CHANNEL_LENGTH))
        self._listener = start_thread(self._name, self._forward, self._subscriber.handler, handle)

    def _forward(
        self, samples: Iterable[zenoh.Sample], handle: Callable[[PeerConnection, zenoh.Sample], None]
    ) -> None:
        for sample in samples:
            handle(self, sample)

    def publishers(self, key: str) -> Publishers:
        """Return the publishers for one link; raises `TransportError`."""
        try:
            return Publishers(self, key, self._session, self._fast_session)
        except zenoh.ZError as error:
            raise TransportError(f"Zenoh cannot set up {key}: {error}") from error

    def close(self) -> None:
        """Close both sessions, which takes until no thread waits for room on them."""
        close_session(self._fast_session)
        close_session(self._session)
        self.send_thread.close()
        if self._listener is not None:
            self._listener.join(JOIN_TIMEOUT)


class Publishers:
    """The Zenoh publishers of one link, on one connection.

    A publisher needs less work per message than `put`. But it discards messages while it knows of no
    subscriber, which is the case until shortly after the first message.
    """

    def __init__(
        self, connection: PeerConnection, key: str, session: zenoh.Session, fast_session: zenoh.Session
    ) -> None:
        """Declare them; raises ``zenoh.ZError``."""
        self.connection = connection
        self.send_thread = connection.send_thread
        self._session = session
        self._fast_session = fast_session
        self._key = session.declare_keyexpr(key)  # the form that needs no work per message
        self._fast_key = zenoh.KeyExpr(key)
        self.put_express: Callable[..., None] = _publisher(session, self._key, express=True).put
        self.put_batched: Callable[..., None] = _publisher(session, self._key, express=False).put
        self.put_fast: Callable[..., None] = _publisher(fast_session, self._fast_key, express=True).put

    def put(self, payload: Any, attachment: bytes | None = None, *, express: bool = True) -> None:
        """Send without a publisher; raises ``zenoh.ZError``."""
        self._session.put(
            self._key, payload, attachment=attachment, congestion_control=BLOCK, express=express
        )

    def ping(self, data: bytes) -> None:
        """Send a ping on the fast path; it may get lost."""
        try:
            self._fast_session.put(self._fast_key, data, congestion_control=DROP)
        except zenoh.ZError:
            pass  # the session is being closed


def _publisher(session: zenoh.Session, key: zenoh.KeyExpr, *, express: bool) -> zenoh.Publisher:
    return session.declare_publisher(key, congestion_control=BLOCK, express=express)


class LinkSender(Protocol):
    """The part of a link's sender that a peer needs; see `dora.transport.network.sender`."""

    link: LinkConfig
    key: str
    publishers: Publishers

    def set_siblings(self, senders: Iterable[Any]) -> None:
        """Set the senders to the same node, of which this is one."""

    def renew(self, publishers: Publishers) -> None:
        """Send on a new connection from now on."""

    def on_ack(self, data: bytes) -> None:
        """Process an acknowledgement of the receiver."""


class Peer:
    """A node of another machine to which this node sends. Safe to use from several threads."""

    def __init__(self, config: NodeConfig, remote: RemoteConfig, consumer: str) -> None:
        """Connect to the node ``consumer``; raises `ConnectError`."""
        self.dataflow_id = config.dataflow_id
        self.node_id = config.node_id
        self.consumer = consumer
        self.senders: dict[str, LinkSender] = {}  # by the name of their link
        self._remote = remote
        self._prefix = f"{self.dataflow_id}/from/{self.node_id}/"
        try:
            self.endpoint = remote.reach[consumer]
            self._connection = self._connect()
        except (zenoh.ZError, KeyError) as error:
            raise ConnectError(f"node `{consumer}` cannot be reached: {error}") from error
        self._subscribed = False
        self._moved = False  # the connection is one to or from a former address
        self._closed = False
        self._lock = threading.Lock()
        self._closers: list[threading.Thread] = []  # of former connections

    def _connect(self) -> PeerConnection:
        return PeerConnection(self.endpoint, self._remote, f"dora {self.node_id} to {self.consumer}")

    def publishers(self, key: str) -> Publishers:
        """Return the publishers for a link; raises `TransportError`."""
        return self._connection.publishers(key)

    def add(self, sender: LinkSender) -> None:
        """Pass acknowledgements to a sender, and make it a sibling of the others.

        Raises `TransportError`.
        """
        with self._lock:
            if sender.publishers.connection is not self._connection:
                sender.renew(self.publishers(sender.key))
            self.senders = {**self.senders, link_name(sender.link.consumer, sender.link.generation): sender}
            self._update_siblings()

    def remove(self, slot: int) -> None:
        """Remove the sender of a link."""
        with self._lock:
            self.senders = {name: each for name, each in self.senders.items() if each.link.slot != slot}
            self._update_siblings()

    def _update_siblings(self) -> None:
        senders = self.senders.values()
        for sender in senders:
            sender.set_siblings(senders)

    def subscribe(self) -> None:
        """Start to receive acknowledgements."""
        with self._lock:
            if not self._subscribed:
                self._subscribed = True
                self._connection.listen(f"{self._prefix}**", self._on_ack)

    def _on_ack(self, connection: PeerConnection, sample: zenoh.Sample) -> None:
        sender = self.senders.get(str(sample.key_expr)[len(self._prefix) :])
        data = sample.payload.to_bytes()
        if sender is not None and connection is self._connection and len(data) == ACK.size:
            try:
                sender.on_ack(data)
            except TransportError:
                pass  # the session is being closed

    def move(self, remote: RemoteConfig, *, anew: bool) -> None:
        """Reach the node at its present endpoint from the next tick on.

        ``anew``: with a new connection, even if the endpoint is the same.
        """
        self._remote = remote
        endpoint = remote.reach.get(self.consumer, self.endpoint)
        if anew or endpoint != self.endpoint:
            self.endpoint = endpoint
            self._moved = True

    def tick(self) -> None:
        """Replace the connection if it broke, or an address has changed; to be called periodically."""
        if self._moved or self._connection.is_broken():
            with self._lock:
                if not self._closed:
                    self._reconnect()

    def _reconnect(self) -> None:
        """Replace the connection; if that fails, keep the old one for now. The lock has to be held."""
        try:
            fresh = self._connect()
        except zenoh.ZError as error:
            _log.debug("node `%s`: no new connection: %s", self.consumer, error)
            return
        try:
            renewed = [(sender, fresh.publishers(sender.key)) for sender in self.senders.values()]
            if self._subscribed:
                fresh.listen(f"{self._prefix}**", self._on_ack)
        except (zenoh.ZError, TransportError) as error:
            _log.debug("node `%s`: the new connection cannot be used: %s", self.consumer, error)
            fresh.close()
            return
        old, self._connection = self._connection, fresh
        self._moved = False
        for sender, publishers in renewed:
            sender.renew(publishers)
        # In a thread, because closing waits for the threads that wait for room on the connection.
        self._closers = [each for each in self._closers if each.is_alive()]
        self._closers.append(start_thread(f"dora {self.node_id} leaves {self.consumer}", old.close))
        _log.debug("node `%s`: connected again", self.consumer)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._connection.close()
        for closer in self._closers:
            closer.join(JOIN_TIMEOUT)
