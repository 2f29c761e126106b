"""A node in a replay takes its events as its event log has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from fake_daemon import FakeDaemon, StartFlow
from flows import node

from dora import Node
from dora.node.events import Input
from dora.node.host import EVENT_LOG_SUFFIX, REPLAY_DIRECTORY
from dora.node.replay.clock import ReplayClock, ReplayedTime
from dora.node.replay.inbox import CLOCK_FILE
from dora.wire.event_log import EntryKind, pack_entry
from dora.wire.node_protocol import InputsClosed, NodeRestartedFrame

T0 = 1_800_000_000_000_000_000

Replaying = Callable[..., tuple[Node, Node]]


def begin(process: int = 0) -> bytes:
    return pack_entry(EntryKind.BEGIN, 0, T0, process, msgspec.msgpack.encode({"x": "a/out"}))


def message(number: int) -> bytes:
    return pack_entry(EntryKind.MESSAGE, 0, T0, number)


def event(**fields: Any) -> bytes:
    return pack_entry(EntryKind.EVENT, 0, T0, 0, msgspec.msgpack.encode(fields))


NOTHING_TWICE = pack_entry(EntryKind.NOTHING, 0, T0, 2)
TIMEOUT_OF_A_WAIT = pack_entry(EntryKind.TIMEOUT, 0, T0, 0)


@pytest.fixture
def replaying(start_flow: StartFlow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replaying:
    """``replaying(*entries)``: a node that sends, and one that follows a log; the number of its process."""

    def start(*log: bytes, process: int = 0) -> tuple[Node, Node]:
        monkeypatch.setattr(ReplayedTime, "install", lambda _: None)  # this process needs its own time
        monkeypatch.setenv(REPLAY_DIRECTORY, str(tmp_path))
        clock = ReplayClock.make(start_ns=T0, speed=0.0, patience_ns=60_000_000_000, ordered=True)
        (tmp_path / CLOCK_FILE).write_bytes(clock)
        (tmp_path / f"b{EVENT_LOG_SUFFIX}").write_bytes(b"".join(log))
        daemon: FakeDaemon = start_flow(
            node("a", outputs="out"), node("b", inputs={"x": "a/out"}), restart_count=process
        )
        return daemon.node("a"), daemon.node("b")

    return start


def send(sender: Node, *numbers: int) -> None:
    for number in numbers:
        sender.send_output("out", pa.array([number]))


def taken(event: Any) -> Any:
    """Return the value of a message, the id of a stop, or the type of another event."""
    if isinstance(event, Input):
        return event.value.to_pylist()[0]
    return event and (event["id"] if event["type"] == "STOP" else event["type"])


def test_looks_that_found_nothing_find_nothing_and_a_wait_goes_past_them(replaying: Replaying) -> None:
    a, b = replaying(begin(), NOTHING_TWICE, message(1), NOTHING_TWICE, message(2))
    send(a, 1, 2)
    inbox = b._session.inbox
    assert [taken(inbox.try_next()) for _ in range(3)] == [None, None, 1]
    assert inbox.is_empty()
    assert taken(b.next()) == 2


def test_a_wait_ends_with_the_timeout_that_it_had_and_one_without_a_timeout_goes_on(
    replaying: Replaying,
) -> None:
    a, b = replaying(begin(), TIMEOUT_OF_A_WAIT, message(1), TIMEOUT_OF_A_WAIT, message(2))
    send(a, 1, 2)
    assert [taken(b.next(timeout=60)), taken(b.next(timeout=60)), taken(b.next())] == ["ERROR", 1, 2]


@pytest.mark.parametrize(
    ("log", "ids"),
    [
        ((message(1),), [1, "MANUAL", None]),
        ((message(1), event(type="STOP", id="ALL_INPUTS_CLOSED")), [1, "ALL_INPUTS_CLOSED", None]),
    ],
)
def test_a_node_is_stopped_once_at_the_end_of_its_log(
    log: tuple[bytes, ...], ids: list[Any], replaying: Replaying
) -> None:
    a, b = replaying(begin(), *log)
    send(a, 1)
    assert [taken(b.next()) for _ in ids] == ids


def test_parameters_change_as_they_did(replaying: Replaying) -> None:
    _, b = replaying(
        begin(),
        event(type="PARAM_UPDATE", id="gain", value=2),
        event(type="SOMETHING_NEW", id="gain"),
        event(type="PARAM_DELETED", id="gain"),
    )
    assert taken(b.next()) == "PARAM_UPDATE"
    assert b.parameters == {"gain": 2}
    assert taken(b.next()) == "PARAM_DELETED"
    assert b.parameters == {}


def test_the_next_process_of_a_node_begins_where_it_began(replaying: Replaying) -> None:
    a, b = replaying(begin(), message(1), begin(1), message(3), begin(2), message(4), process=1)
    send(a, 1, 2, 3, 4)
    assert [taken(b.next()) for _ in range(3)] == [3, 4, "MANUAL"]


@pytest.mark.parametrize(("missing", "sums"), [((), 0), ((2,), 0), ((2, 1), 1)])
def test_messages_that_did_not_come_are_counted_at_the_end(
    missing: tuple[int, ...], sums: int, replaying: Replaying, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = replaying(begin(), message(3), *map(message, missing), message(4))
    send(a, 1, 2, 3, 4)
    assert [taken(b.next()), taken(b.next())] == [3, 4]
    b.close()
    printed = capsys.readouterr().out
    assert printed.count("of input `x` did not come") == bool(missing)
    assert printed.count("2 messages of the recording did not come") == sums


def test_messages_of_a_source_that_is_back_come_again(replaying: Replaying) -> None:
    a, b = replaying(begin(), message(1), message(2), event(type="NODE_RESTARTED", id="a"), message(3))
    inbox = b._session.inbox
    send(a, 1)
    assert taken(b.next()) == 1
    inbox.handle(InputsClosed(["x"]))
    assert taken(b.next()) == "NODE_RESTARTED", "it does not wait for the second message"
    inbox.handle(NodeRestartedFrame("a"))
    send(a, 2, 3)
    assert taken(b.next()) == 3
