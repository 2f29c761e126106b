"""Messages from other machines for Foxglove: connections that open late, break, and end."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from waiting import TIMEOUT, wait_until

from dora.errors import DoraError
from dora.nodes.foxglove import elsewhere
from dora.nodes.foxglove.elsewhere import RETRY, RemoteMessages
from dora.observe.queries import MessageCopy, MessageQuery
from dora.observe.remote.protocol import Item, QueryEnded
from dora.wire.encode import encode
from dora.wire.message import pack_head


class Connection:
    """A connection to the observer on a machine, and what it is asked."""

    def __init__(self, machine: str) -> None:
        self.machine = machine
        self.queries: list[MessageQuery] = []
        self.taken = 0
        self.closed = False

    def begin(self, query: MessageQuery, incoming: Any) -> None:
        self.queries.append(query)
        self._incoming = incoming

    def replace(self, query: MessageQuery) -> None:
        self.queries.append(query)

    def more(self) -> None:
        self.taken += 1

    def close(self) -> None:
        self.closed = True

    def deliver(self, *items: Item) -> None:
        self._incoming.put((self, list(items)))


class Stage:
    """Messages of a machine that can be reached unless ``fault`` says why not, and the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.fault = ""
        self.connections: list[Connection] = []
        self.attempts = 0
        self.answers = threading.Event()  # the machine answers an attempt to connect
        self.answers.set()
        self.warnings: list[str] = []
        self.shown: list[tuple[str, list[Any]]] = []
        self.messages = RemoteMessages(self._connect, self.warnings.append)
        monkeypatch.setattr(elsewhere, "time", SimpleNamespace(monotonic=lambda: self.now))

    def _connect(self, machine: str) -> Any:
        self.attempts += 1
        assert self.answers.wait(TIMEOUT)
        if self.fault:
            raise DoraError(self.fault)
        self.connections.append(Connection(machine))
        return self.connections[-1]

    def take(self) -> None:
        self.messages.take(lambda topic, message: self.shown.append((topic, list(message.small_body))))

    def connect(self) -> Connection:
        """Connect; return the newest connection."""
        before = self.attempts
        self.take()
        wait_until(lambda: self.attempts == before + 1 and self.messages.waiting, "the attempt")
        self.take()
        return self.connections[-1]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def copy_of(topic: str, *numbers: int) -> MessageCopy:
    payload = encode(pa.array(numbers, pa.uint8()))
    data = pack_head(payload.encoding, payload.schema, b"", payload.size, 0, 0) + payload.to_bytes()
    return MessageCopy(topic, payload.size, data)


def test_a_machine_is_connected_to_once_and_asked_for_what_is_wanted_then(stage: Stage) -> None:
    stage.answers.clear()
    stage.messages.choose({"b": {"n/x"}})
    stage.messages.choose({})
    stage.take()
    assert stage.attempts == 0, "nobody wants it any more"
    stage.messages.choose({"b": {"n/x"}})
    stage.take()
    stage.take()
    stage.messages.choose({"b": {"n/y", "n/x"}})
    stage.answers.set()
    wait_until(lambda: stage.messages.waiting, "the connection")
    stage.take()
    (connection,) = stage.connections
    assert (stage.attempts, connection.queries) == (1, [MessageQuery(("n/x", "n/y"))])
    stage.messages.choose({"b": {"n/x", "n/y"}})
    stage.messages.choose({})
    assert connection.queries[1:] == [MessageQuery(())]


def test_messages_are_shown_and_the_next_ones_asked_for(stage: Stage) -> None:
    stage.messages.choose({"b": {"n/x"}})
    connection = stage.connect()
    assert not stage.messages.waiting
    huge = MessageCopy("n/huge", 9_000_000)
    connection.deliver(copy_of("n/x", 1), huge, MessageCopy("n/odd", 3, b"odd"), copy_of("n/x", 2))
    connection.deliver(huge)
    assert stage.messages.waiting
    stage.take()
    assert (stage.shown, connection.taken) == ([("n/x", [1]), ("n/x", [2])], 2)
    too_large, odd = stage.warnings
    assert too_large.startswith("`n/huge` is not shown: its messages of 9 MB are too large")
    assert odd.startswith("`n/odd`: ")


def test_a_connection_that_breaks_is_closed_and_made_again_after_a_while(stage: Stage) -> None:
    stage.messages.choose({"b": {"n/x"}})
    first = stage.connect()
    stage.fault = "there is nobody"
    first.deliver(copy_of("n/x", 1), QueryEnded("it broke"))
    stage.take()
    assert (first.closed, first.taken, stage.attempts) == (True, 0, 1)
    stage.now += RETRY
    stage.connect()
    stage.now += RETRY - 0.1
    stage.take()
    assert stage.attempts == 2
    stage.now += 0.1
    stage.fault = ""
    second = stage.connect()
    assert stage.warnings == ["machine `b`: it broke", "machine `b`: there is nobody"]
    first.deliver(QueryEnded("it broke twice"))
    second.deliver(copy_of("n/x", 2))
    stage.take()
    assert (second.closed, second.taken, len(stage.warnings)) == (False, 1, 2)
    assert stage.shown == [("n/x", [1]), ("n/x", [2])]


def test_a_machine_on_which_the_dataflow_has_ended_is_left_alone(stage: Stage) -> None:
    stage.messages.choose({"b": {"n/x"}})
    connection = stage.connect()
    connection.deliver(QueryEnded(ended=True))
    stage.take()
    assert stage.messages.ended_on({"b"})
    assert not stage.messages.ended_on({"b", "c"})
    stage.now += 10 * RETRY
    stage.take()
    assert (stage.attempts, connection.closed, stage.warnings) == (1, True, [])


def test_all_connections_are_closed_also_one_that_has_just_opened(stage: Stage) -> None:
    stage.messages.choose({"b": {"n/x"}})
    stage.connect()
    stage.messages.choose({"b": {"n/x"}, "c": {"m/x"}})
    stage.take()
    wait_until(lambda: stage.messages.waiting, "the other connection")
    stage.messages.close()
    assert [connection.closed for connection in stage.connections] == [True, True]
