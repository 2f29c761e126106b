"""The messages of topics that are sent on other machines, from the observers there.

A connection opens when a topic of its machine is wanted for the first time. One that breaks is opened
again; meanwhile the topics of the other machines are shown as before.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from dora.cluster.remote_observer import Incoming, ObserverConnection
from dora.errors import DoraError
from dora.observe.queries import MessageCopy, MessageQuery
from dora.observe.remote.protocol import QueryEnded
from dora.wire.message import Message, MessageError
from dora.wire.untrusted import UntrustedMessage

RETRY: Final = 2.0  # seconds between two attempts to reach a machine

Connect = Callable[[str], ObserverConnection]
"""Connects to the observer on a machine; raises `DoraError`."""


class RemoteMessages:
    """Copies of messages from other machines, for the thread that calls its methods."""

    def __init__(self, connect: Connect, warn: Callable[[str], None]) -> None:
        """``warn`` is called with each reason why something is not shown."""
        self._connect = connect
        self._warn = warn
        self._wanted: dict[str, tuple[str, ...]] = {}  # by machine
        self._connections: dict[str, ObserverConnection] = {}
        # Machine → when to connect; infinite from then on, until that fails or the connection breaks.
        self._due: dict[str, float] = {}
        # Threads that connect only `put` here, so nothing else needs a lock.
        self._opened: queue.SimpleQueue[tuple[str, ObserverConnection | DoraError]] = queue.SimpleQueue()
        self._incoming: Incoming = queue.SimpleQueue()
        self._too_large: set[str] = set()  # topics
        self._ended: set[str] = set()  # machines on which the dataflow has ended

    def choose(self, wanted: Mapping[str, set[str]]) -> None:
        """Want these topics, by machine, and no others."""
        for machine in {*wanted, *self._wanted}:
            topics = tuple(sorted(wanted.get(machine, ())))
            if topics == self._wanted.get(machine, ()):
                continue
            self._wanted[machine] = topics
            if (connection := self._connections.get(machine)) is not None:
                connection.replace(MessageQuery(topics))

    @property
    def waiting(self) -> bool:
        """Whether `take` has something to do."""
        return not (self._incoming.empty() and self._opened.empty())

    def take(self, show: Callable[[str, Message], None]) -> None:
        """Call ``show`` with topic and message for all that has arrived; connect where it is time."""
        self._take_opened()
        while not self._incoming.empty():
            connection, items = self._incoming.get()
            for item in items:
                match item:
                    case MessageCopy(topic, size, data):
                        self._show(topic, size, data, show)
                    case QueryEnded():
                        self._end(connection, item)
            if self._connections.get(connection.machine) is connection:
                connection.more()
        now = time.monotonic()
        for machine, topics in self._wanted.items():
            if topics and now >= self._due.get(machine, 0.0):
                self._due[machine] = float("inf")
                threading.Thread(
                    target=self._open, args=(machine,), name="dora-foxglove-connect", daemon=True
                ).start()

    def ended_on(self, machines: set[str]) -> bool:
        """Return whether the dataflow has ended on all these machines."""
        return machines <= self._ended

    def close(self) -> None:
        """Close all connections."""
        self._take_opened()
        for connection in self._connections.values():
            connection.close()

    def _open(self, machine: str) -> None:
        """Connect, in a thread of its own: a machine may answer late."""
        try:
            self._opened.put((machine, self._connect(machine)))
        except DoraError as error:
            self._opened.put((machine, error))

    def _take_opened(self) -> None:
        while not self._opened.empty():
            machine, opened = self._opened.get()
            if isinstance(opened, DoraError):
                self._retry(machine, str(opened))
                continue
            self._connections[machine] = opened
            opened.begin(MessageQuery(self._wanted[machine]), self._incoming)

    def _show(self, topic: str, size: int, data: bytes, show: Callable[[str, Message], None]) -> None:
        if not data:
            if topic not in self._too_large:
                self._too_large.add(topic)
                self._warn(
                    f"`{topic}` is not shown: its messages of {size / 1e6:.0f} MB are too large to come "
                    "from another machine"
                )
            return
        try:
            message = UntrustedMessage(data)
            message.validate(len(data))
        except MessageError as error:
            self._warn(f"`{topic}`: {error}")
            return
        show(topic, message)

    def _end(self, connection: ObserverConnection, ending: QueryEnded) -> None:
        machine = connection.machine
        if self._connections.get(machine) is not connection:
            return
        del self._connections[machine]
        connection.close()
        if ending.ended:
            self._ended.add(machine)
        else:
            self._retry(machine, ending.fault)

    def _retry(self, machine: str, fault: str) -> None:
        self._due[machine] = time.monotonic() + RETRY
        self._warn(f"machine `{machine}`: {fault}")
