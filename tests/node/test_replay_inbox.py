"""What an inbox that follows an event log holds, and how long it waits for a message."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from recorded_files import message_of

from dora.node.events import Input, Synced
from dora.node.replay import inbox
from dora.node.replay.clock import ReplayClock
from dora.node.replay.inbox import ReplayInbox
from dora.wire.event_log import Entry, EntryKind, pack_entry

SECOND = 1_000_000_000


class Port:
    """An input on which there is always a message."""

    def __init__(self, id_: str, size: int) -> None:
        self.id = id_
        self.taken = 0
        self.event = Input.make(id_, message_of(bytes(size), {}, 1, 1))

    def poll(self) -> Input:
        self.taken += 1
        return self.event


@pytest.mark.parametrize(("size", "most"), [(1, 1000), (4 << 20, 17)])
def test_messages_whose_turn_is_later_are_held_up_to_a_limit(size: int, most: int) -> None:
    wanted, early = Port("wanted", 1), Port("early", size)
    held: dict[str, deque[Input]] = {"wanted": deque(), "early": deque()}
    replay: Any = SimpleNamespace(_open_ports=[wanted, early], _held=held, _received_at=0)
    for _ in range(2000):
        assert ReplayInbox._hold_arrived(replay, "wanted")
    assert (wanted.taken, early.taken, len(held["early"])) == (2000, most, most)


def test_a_node_waits_for_a_message_as_long_as_others_come(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]
    stopped: list[Any] = []
    monkeypatch.setattr(inbox, "_monotonic", lambda: now[0])
    made = ReplayClock.make(start_ns=0, speed=1.0, patience_ns=10 * SECOND)
    replay: Any = SimpleNamespace(
        _clock=ReplayClock(memoryview(made)),
        epoch_ns=0,
        _received_at=8 * SECOND,
        _inputs=["x"],
        _warn=lambda _: None,
        _stop=stopped.append,
    )
    entry = Entry(EntryKind.MESSAGE, 0, SECOND, 7, b"")
    for now[0] in (0, 12 * SECOND, 18 * SECOND - 1):
        assert not ReplayInbox._stop_if_overdue(replay, entry)
        assert replay._wake == 18 * SECOND, "it looks again then, whether or not something comes"
    now[0] = 18 * SECOND
    assert ReplayInbox._stop_if_overdue(replay, entry)
    assert len(stopped) == 1


@pytest.mark.parametrize(
    ("port_at", "entry_at", "wake_at"),
    [(5, 9, 5), (9, 5, 5), (None, 9, 9), (5, None, 5), (None, None, None)],
)
def test_a_node_wakes_for_what_comes_first_of_its_log_and_its_inputs(
    port_at: int | None, entry_at: int | None, wake_at: int | None
) -> None:
    replay: Any = ReplayInbox.__new__(ReplayInbox)
    replay._open_ports = [SimpleNamespace(wake_at=lambda: port_at)]
    replay._wake = entry_at
    assert replay._wake_at(None) == wake_at


def test_a_message_is_given_once_and_in_its_turn() -> None:
    held = deque(Input.make("x", message_of(b"x", {}, number, 1)) for number in (1, 3, 6, 7))
    missing: list[int] = []
    replay: Any = SimpleNamespace(
        _inputs=["x"],
        _held={"x": held},
        _given={"x": 0},  # it is latched
        _closed={"x"},
        _hold_arrived=lambda _: False,
        _stop_if_overdue=lambda _: False,
        _count_missing=lambda entry: missing.append(entry.number),
    )

    def given(number: int) -> int | None:
        event, certain = ReplayInbox._message(replay, Entry(EntryKind.MESSAGE, 0, SECOND, number, b""))
        assert certain
        return event._content.sequence if isinstance(event, Input) else None

    assert [given(number) for number in (3, 3, 5, 6, 7, 9)] == [3, None, None, 6, 7, None]
    assert missing == [5, 9], "the second 3 is for a process that a replay does not start again"


def test_a_value_of_an_operator_is_the_one_that_was_taken() -> None:
    values: list[Input] = [Input.make("y", message_of(b"y", {}, number, 1)) for number in (1, 2, 3)]
    port = SimpleNamespace(taken=0)

    def poll() -> Input | None:
        if port.taken == len(values):
            return None
        port.taken += 1
        return values[port.taken - 1]

    port.poll = poll
    missing: list[int] = []
    replay: Any = SimpleNamespace(
        _inputs=["y"],
        _local_inputs={"y"},
        ports={"y": port},
        _count_missing=lambda entry: missing.append(entry.number),
    )
    for number, expected in ((2, values[1]), (3, values[2]), (4, None)):
        event = ReplayInbox._local(replay, Entry(EntryKind.LOCAL, 0, SECOND, number, b""))
        assert event is expected, "the first value was dropped"
    assert missing == [4]


def test_sets_are_counted_and_one_whose_leading_message_did_not_come_is_left_out() -> None:
    came = {("left", 1), ("arm", 5), ("left", 2), ("left", 4), ("arm", 7)}
    asked: list[tuple[str, int]] = []
    group = SimpleNamespace(inputs=["left", "arm"], history={})
    replay: Any = SimpleNamespace(
        _inputs=["left", "arm"],
        _groups_by_lead={"left": group},
        _of_sets={"left": {}, "arm": {}},
        _set_counts={"left": {"complete": 0, "incomplete": 0}},
    )

    def of_set(entry: Entry) -> tuple[Input | None, bool]:
        what = replay._inputs[entry.input], entry.number
        asked.append(what)
        event = Input.make(what[0], message_of(b"x", {}, entry.number, 1))
        return (event if what in came else None), True

    replay._of_set = of_set

    def missing_in(*numbers: int) -> list[str] | None:
        members = (
            pack_entry(EntryKind.MESSAGE, index, SECOND, number) for index, number in enumerate(numbers)
        )
        event, certain = ReplayInbox._set(replay, Entry(EntryKind.SYNC, 0, SECOND, 0, b"".join(members)))
        assert certain
        return event["missing"] if isinstance(event, Synced) else None

    assert [missing_in(1, 5), missing_in(2), missing_in(4, 5), missing_in(3, 7)] == [[], ["arm"], [], None]
    assert replay._set_counts == {"left": {"complete": 2, "incomplete": 1}}
    assert asked.count(("arm", 5)) == 1, "a set may have a message again, also after one without the input"


def test_a_replay_samples_exactly_the_messages_that_a_meter_asks_for() -> None:
    sampled: list[int] = []

    def sample(_: Any, number: int, now_ns: int) -> int:
        assert now_ns == 5 * SECOND, "the time of the recording"
        sampled.append(number)
        return number + 2

    replay: Any = SimpleNamespace(
        current=SimpleNamespace(header=None, trail=b""),
        _meters={"x": SimpleNamespace(sample=sample)},
        _sample_at={},
        _replayed=SimpleNamespace(stamp=lambda: 5 * SECOND),
    )
    for number in (1, 2, 3, 4, 6, 7, 8):
        ReplayInbox._make_current(replay, Input.make("x", message_of(b"x", {}, number, 1)))
    assert sampled == [1, 3, 6, 8]


def test_messages_that_do_not_come_are_counted_and_the_first_is_named() -> None:
    said: list[str] = []
    replay: Any = SimpleNamespace(missing=0, _inputs=["x"], _warn=said.append)
    for number in (7, 8, 9):
        ReplayInbox._count_missing(replay, Entry(EntryKind.MESSAGE, 0, SECOND, number, b""))
    assert replay.missing == 3
    (text,) = said
    assert text.startswith("message 7 of input `x` did not come")
