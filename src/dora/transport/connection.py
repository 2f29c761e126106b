"""The sessions of Zenoh in which a node reaches one of another machine, for as long as they are good.

Zenoh connects again by itself, but not always well: what still wants to write to the broken connection may
fail after a new one was made, and then the entry of the peer is removed, which is that of the new one by
now. From there on all that is sent disappears, and nobody is told (Zenoh 1.10). New sessions are peers of
their own, out of reach of what the old ones left behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

import zenoh

from dora.errors import TransportError
from dora.transport.launcher import SendThread
from dora.transport.mailbox import reach
from dora.transport.remote_link import (
    BLOCK,
    CHANNEL_LENGTH,
    DROP,
    THREAD_PATIENCE,
    close_session,
    start_thread,
)
from dora.wire.control import RemoteConfig

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
