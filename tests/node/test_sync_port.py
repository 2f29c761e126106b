"""The port of a group, with the ports of real links, against the model of the matcher."""

from __future__ import annotations

import mmap
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sync_matcher import SORTED_MOSTLY, expected, members_of

from dora.node.events import InputClosed, SafeStateEntered, Synced
from dora.node.receive.link_input import LinkInput
from dora.node.receive.sync_port import SyncPort
from dora.node.send.output import OutputPort
from dora.transport.board import DROPPED, LINE_BYTES, RECEIVED, WORDS, Board
from dora.transport.inprocess import LocalEngine
from dora.wire.counters import UNMATCHED
from dora.wire.input_rules import SyncGroup
from dora.wire.node_config import InputConfig, LinkConfig, OutputConfig

START = datetime(2026, 1, 1, tzinfo=UTC)
PLENTY = 100


class Rig:
    """A group of inputs, and the outputs that feed them."""

    def __init__(
        self, count: int, tolerance: int, queue_size: int = PLENTY, policy: str = "drop_oldest"
    ) -> None:
        names = [f"in{index}" for index in range(count)]
        self.board = board = Board("", mmap.mmap(-1, 16 * LINE_BYTES))
        engine = LocalEngine()
        inputs = [
            InputConfig(
                name,
                "link",
                f"s/{name}",
                queue_size=queue_size,
                queue_policy=policy,
                service=name,
                slot=index,
                output_slot=8 + index,
            )
            for index, name in enumerate(names)
        ]

        def make_port(item: InputConfig) -> LinkInput:
            return LinkInput(item, engine.receiver(item, lambda: None), board, joins_late=False)

        self.connect = lambda index: make_port(inputs[index])
        self.ports = [make_port(item) for item in inputs]
        self.outputs = []
        for index, name in enumerate(names):
            config = OutputConfig(name, name, 8 + index, [LinkConfig(index, 0, "", f"n/{name}")])
            self.outputs.append(OutputPort(config, engine.sender(config), board, rings=False))
        self.group = SyncPort(
            SyncGroup(names, tolerance_ns=tolerance * 1_000_000),
            {port.id: port for port in self.ports},
            inputs,
            board.words,
            lambda _: None,
        )

    def send(self, index: int, number: int, time: int) -> None:
        stamp = START + timedelta(milliseconds=time)
        self.outputs[index].send(b"", {"timestamp": stamp, "message": [index, number, time]})


def members(event: Synced) -> list[Any]:
    return [tuple(each["metadata"]["message"]) for each in event.messages()]


@pytest.mark.lengthy
@given(SORTED_MOSTLY, st.integers(0, 8), st.randoms(use_true_random=False))
def test_whatever_the_order_of_arrival_and_of_polls_the_sets_are_those_of_the_model(
    streams: list[list[int]], tolerance: int, chance: random.Random
) -> None:
    rig = Rig(len(streams), tolerance)
    pending = [index for index, times in enumerate(streams) for _ in (*times, "the end")]
    chance.shuffle(pending)
    next_number = [0] * len(streams)
    events: list[Any] = []
    for index in pending:
        number = next_number[index]
        next_number[index] += 1
        if number == len(streams[index]):
            rig.ports[index].source_closed()
        else:
            rig.send(index, number, streams[index][number])
        polled = [rig.group.poll() if rig.group.open else None for _ in range(chance.choice((0, 0, 1, 4)))]
        events += [event for event in polled if event is not None]
    while rig.group.open:
        rig.group.look_ahead()
        assert rig.group.ready(), "all inputs have ended, so there is an event until the last closing"
        event = rig.group.poll()
        assert event is not None
        events.append(event)
    model = expected(streams, tolerance, "nearest", [None] * len(streams))
    assert [members(event) for event in events if isinstance(event, Synced)] == model
    closings = [event["id"] for event in events if isinstance(event, InputClosed)]
    assert sorted(closings) == sorted(port.id for port in rig.ports)
    in_sets = members_of(model)
    for index, times in enumerate(streams):
        base = index * WORDS
        assert rig.board.words[base + RECEIVED] == len(times)
        assert rig.board.words[base + UNMATCHED.word] == len(times) - sum(
            item[0] == index for item in in_sets
        )
        last = max(
            (place for place, event in enumerate(events) if _is_new(events, place, index)), default=-1
        )
        closed = next(
            place
            for place, event in enumerate(events)
            if isinstance(event, InputClosed) and event["id"] == f"in{index}"
        )
        assert last < closed, "a new message of an input after its closing"


def _is_new(events: list[Any], place: int, index: int) -> bool:
    """Return whether an event has a message of an input that no event before has."""
    if not isinstance(events[place], Synced):
        return False
    mine = members(events[place])[index]
    return all(not isinstance(event, Synced) or members(event)[index] != mine for event in events[:place])


def test_an_input_that_was_full_is_read_in_the_same_poll_that_makes_room() -> None:
    rig = Rig(2, tolerance=0, queue_size=3, policy="backpressure")
    for number, time in enumerate((10, 20, 30, 40, 100)):
        rig.send(1, number, time)
        assert rig.group.poll() is None  # from the third on, nothing more is read
    rig.send(0, 0, 100)
    event = rig.group.poll()
    assert isinstance(event, Synced)
    assert members(event) == [(0, 0, 100), (1, 4, 100)]
    assert rig.board.words[WORDS + DROPPED] == 0
    assert rig.board.words[WORDS + UNMATCHED.word] == 4


def test_an_input_is_read_as_soon_as_what_filled_it_has_found_no_leading_message() -> None:
    rig = Rig(2, tolerance=0, queue_size=2, policy="backpressure")
    for number, time in enumerate((10, 30, 40)):
        rig.send(1, number, time)
        assert rig.group.poll() is None
    for number, time in enumerate((20, 40)):
        rig.send(0, number, time)
    event = rig.group.poll()
    assert isinstance(event, Synced)
    assert members(event) == [(0, 1, 40), (1, 2, 40)]


def test_at_a_stop_an_input_that_was_full_is_read_to_its_end() -> None:
    rig = Rig(3, tolerance=100, queue_size=2, policy="backpressure")
    for times in ((20, 10, 1), (30, None, 2), (None, None, 20), (None, None, 30)):
        for index, time in enumerate(times):
            if time is not None:
                rig.send(index, time, time)
        assert rig.group.poll() is None  # from the third round on, nothing more is read
    rig.group.stop()
    sets = [event for event in iter(rig.group.poll, None) if isinstance(event, Synced)]
    assert [[time for _, _, time in members(event)] for event in sets] == [[20, 10, 20], [30, 10, 30]]


def test_the_closing_of_an_input_that_is_back_before_the_program_gets_it_is_forgotten() -> None:
    rig = Rig(2, tolerance=0)
    rig.send(0, 0, 10)
    rig.ports[0].source_closed()
    assert rig.group.poll() is None  # the message may still find its partner
    assert rig.ports[0].source_back("s")
    rig.group.reopen("in0")
    rig.send(1, 0, 10)
    event = rig.group.poll()
    assert isinstance(event, Synced)
    assert members(event) == [(0, 0, 10), (1, 0, 10)]
    assert rig.group.poll() is None
    rig.send(0, 1, 20)
    rig.send(1, 1, 20)
    assert isinstance(rig.group.poll(), Synced)


def test_an_input_that_was_disconnected_and_is_connected_again_is_waited_for() -> None:
    rig = Rig(2, tolerance=5)
    rig.send(1, 0, 10)
    rig.ports[1].detach()
    assert rig.group.poll() is None  # a leading message may still need its message
    rig.send(0, 0, 10)
    assert isinstance(rig.group.poll(), Synced)
    assert isinstance(rig.group.poll(), InputClosed)
    rig.group.replace(rig.connect(1))
    rig.send(1, 1, 20)
    rig.send(0, 1, 22)
    assert rig.group.poll() is None, "a message that is nearer may come"
    rig.send(1, 2, 22)
    event = rig.group.poll()
    assert isinstance(event, Synced)
    assert members(event) == [(0, 1, 22), (1, 2, 22)]


def test_events_behind_a_closing_that_waits_for_a_set_come_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(2, tolerance=0)
    rig.send(1, 0, 10)
    polled = iter([rig.ports[1].poll(), InputClosed("in1"), SafeStateEntered("in1", "failed")])
    monkeypatch.setattr(rig.ports[1], "poll", lambda: next(polled, None))
    assert rig.group.poll() is None
    rig.send(0, 0, 10)
    types = [event["type"] for event in iter(rig.group.poll, None)]
    assert types == ["SYNC", "INPUT_CLOSED", "SAFE_STATE_ENTERED"]
