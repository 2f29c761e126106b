"""The way of a node to one of another machine: the senders that use it, and the connection they share."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import zenoh

from dora.errors import ConnectError, TransportError
from dora.transport.network.protocol import (
    BLOCK,
    CHANNEL_LENGTH,
    DROP,
    PROGRESS,
    THREAD_PATIENCE,
    close_session,
    link_name,
    start_thread,
)
from dora.transport.network.send_thread import SendThread
from dora.transport.network.sessions import reach
from dora.wire.node_config import LinkConfig, NodeConfig, RemoteConfig

# The sessions of Zenoh in which a node reaches one of another machine, for as long as they are good.
#
# Zenoh connects again by itself, but not always well: what still wants to write to the broken connection
# may
# fail after a new one was made, and then the entry of the peer is removed, which is that of the new one by
# now. From there on all that is sent disappears, and nobody is told (Zenoh 1.10). New sessions are peers of
# their own, out of reach of what the old ones left behind.

_EVENTS: Final = 8  # of each session, that may have happened since the last look


class PeerConnection:
    """To the node that listens at ``endpoint``; ``name`` is for the threads that belong to it."""

    def __init__(self, endpoint: str, remote: RemoteConfig, name: str) -> None:
        """Open it; raises ``zenoh.ZError``."""
        self.launcher = SendThread(name)
        self._name = name
        self._session = reach(endpoint, remote)
        try:
            self._quick_session = reach(endpoint, remote, quickly=True)
        except zenoh.ZError:
            close_session(self._session)
            raise
        self._events = [
            session.info.declare_link_events_listener(zenoh.handlers.RingChannel(_EVENTS))
            for session in (self._session, self._quick_session)
        ]
        self._broken = False
        self._subscriber: Any = None
        self._listener: threading.Thread | None = None

    def is_broken(self) -> bool:
        """Tell whether one of the sessions has lost the other node, even if it has found it again."""
        try:
            for events in self._events:
                while not self._broken and (event := events.try_recv()) is not None:
                    self._broken = event.kind == zenoh.SampleKind.DELETE
        except zenoh.ZError:
            pass  # it is closed
        return self._broken

    def listen(self, key: str, take: Callable[[PeerConnection, zenoh.Sample], None]) -> None:
        """Let a thread ``take`` what is sent under ``key``; to be called once."""
        self._subscriber = self._session.declare_subscriber(key, zenoh.handlers.FifoChannel(CHANNEL_LENGTH))
        self._listener = start_thread(self._name, self._pass_on, self._subscriber.handler, take)

    def _pass_on(
        self, samples: Iterable[zenoh.Sample], take: Callable[[PeerConnection, zenoh.Sample], None]
    ) -> None:
        for sample in samples:
            take(self, sample)

    def ways(self, key: str) -> Publishers:
        """Return how one link sends on it; raises `TransportError`."""
        try:
            return Publishers(self, key, self._session, self._quick_session)
        except zenoh.ZError as error:
            raise TransportError(f"Zenoh cannot set up {key}: {error}") from error

    def close(self) -> None:
        """Close it, which may take as long as somebody waits for room on it."""
        close_session(self._quick_session)
        close_session(self._session)
        self.launcher.close()
        if self._listener is not None:
            self._listener.join(THREAD_PATIENCE)


class Publishers:
    """How one link sends: by the publishers with less work than by `put`.

    But a publisher discards what nobody seems to subscribe to, and for a moment after the first message
    nobody seems to.
    """

    def __init__(
        self, connection: PeerConnection, key: str, session: zenoh.Session, quick_session: zenoh.Session
    ) -> None:
        """Raises ``zenoh.ZError``."""
        self.connection = connection
        self.launcher = connection.launcher
        self._session = session
        self._quick_session = quick_session
        self._key = session.declare_keyexpr(key)  # the form that needs no work for each message
        self._quick_key = zenoh.KeyExpr(key)
        self.alone: Callable[..., None] = _publisher(session, self._key, express=True).put
        self.among_others: Callable[..., None] = _publisher(session, self._key, express=False).put
        self.quickly: Callable[..., None] = _publisher(quick_session, self._quick_key, express=True).put

    def put(self, payload: Any, attachment: bytes | None = None, *, express: bool = True) -> None:
        """Raises ``zenoh.ZError``."""
        self._session.put(
            self._key, payload, attachment=attachment, congestion_control=BLOCK, express=express
        )

    def ask(self, question: bytes) -> None:
        """Send a question on the quick way; it may get lost."""
        try:
            self._quick_session.put(self._quick_key, question, congestion_control=DROP)
        except zenoh.ZError:
            pass  # the session is being closed


def _publisher(session: zenoh.Session, key: zenoh.KeyExpr, *, express: bool) -> zenoh.Publisher:
    return session.declare_publisher(key, congestion_control=BLOCK, express=express)


_log = logging.getLogger("dora.transport")


class LinkSender(Protocol):
    """What a peer needs of the senders of its links; see `dora.transport.network.sender`."""

    link: LinkConfig
    key: str
    ways: Publishers
    beside: tuple[Any, ...]

    def renew(self, ways: Publishers) -> None:
        """Send on a new connection from now on."""

    def on_progress(self, data: bytes) -> None:
        """Take in what the receiver reports."""


class Peer:
    """Safe to use from several threads."""

    def __init__(self, config: NodeConfig, remote: RemoteConfig, consumer: str) -> None:
        """Open it; raises `ConnectError`. ``consumer`` is the node that it reaches."""
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
        self._closed = False
        self._lock = threading.Lock()
        self._closers: list[threading.Thread] = []  # of former connections

    def _connect(self) -> PeerConnection:
        return PeerConnection(self.endpoint, self._remote, f"dora {self.node_id} to {self.consumer}")

    def ways(self, key: str) -> Publishers:
        """Return how a link sends; raises `TransportError`."""
        return self._connection.ways(key)

    def add(self, sender: LinkSender) -> None:
        """Let a sender hear of its receiver, and know of the others; raises `TransportError`."""
        with self._lock:
            if sender.ways.connection is not self._connection:
                sender.renew(self.ways(sender.key))
            self.senders = {**self.senders, link_name(sender.link.consumer, sender.link.generation): sender}
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
