"""Headers and probes of other machines are checked before they are used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from receiving_end import Payload, ReceivingEnd

from dora.transport.board import DROPPED, FIRST, RECEIVED, SENT, WORDS, Board
from dora.transport.network.protocol import DATA_HEADER, PROBE
from dora.transport.network.window import WINDOW
from dora.wire.encode import encode
from dora.wire.message import MAX_SEQUENCE, pack_head
from dora.wire.metadata import encode_metadata

WINDOW_ID = 5
HIGHEST = 2**64 - 1
NUMBERS = st.one_of(st.integers(0, 70), st.sampled_from([2**32, 2**62, 2**63, HIGHEST]))


class Link(ReceivingEnd):
    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.board = board
        self.probe(WINDOW_ID)

    def send(self, number: int, payload: bytes, sequence: int | None = None) -> None:
        self.takes(WINDOW_ID, number, sequence or number, payload)

    @property
    def words(self) -> list[int]:
        base = WORDS
        return [self.board.words[base + word] for word in (FIRST, RECEIVED, DROPPED)]


@pytest.fixture
def board(tmp_path: Any) -> Iterator[Board]:
    path = tmp_path / "board"
    yield Board.create(str(path), 64)


@pytest.fixture(scope="module")
def one_board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    """Return a board for many examples: a new file for each would take most of their time."""
    return Board.create(str(tmp_path_factory.mktemp("board") / "board"), 64)


def message(sequence: int, data: Any = b"x", metadata: bytes = b"") -> bytes:
    payload = encode(data)
    head = pack_head(payload.encoding, payload.schema, metadata, payload.size, sequence, 1)
    return head + payload.to_bytes()


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    headers=st.lists(
        st.one_of(
            st.binary(max_size=80),
            st.tuples(
                *(st.sampled_from([WINDOW_ID, 0, 1]), NUMBERS, NUMBERS, st.integers(0, 255)),
                *(st.integers(0, 5), st.sampled_from([0, 1, 2, 5, 65535]), NUMBERS, NUMBERS, NUMBERS),
            ).map(lambda fields: DATA_HEADER.pack(*fields)),
        ),
        max_size=8,
    ),
    probes=st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.tuples(st.sampled_from([WINDOW_ID, 0, 9]), NUMBERS, NUMBERS, NUMBERS, NUMBERS).map(
                lambda fields: PROBE.pack(*fields)
            ),
        ),
        max_size=3,
    ),
)
def test_no_header_or_probe_raises(one_board: Board, headers: list[bytes], probes: list[bytes]) -> None:
    for number in range(64 * WORDS):
        one_board.words[number] = 0
    link = Link(one_board)
    for header in headers:
        link.receiver.on_message(Payload(message(1)), header)  # type: ignore[arg-type]
    for probe in probes:
        link.receiver.on_probe(probe)
    link.receiver.tick(0.0)
    while link.receiver.receive() is not None:
        pass
    assert link.board.words[2 * WORDS + SENT] <= MAX_SEQUENCE


def test_a_message_far_ahead_of_the_window_is_not_kept(board: Board) -> None:
    link = Link(board)
    for number in range(2, 10_000):
        link.send(number, message(number))
    assert len(link.receiver._window._early) < WINDOW
    link.send(1, message(1))
    received = []
    while (found := link.receiver.receive()) is not None:
        received.append(found.sequence)
    assert received[-1] == WINDOW


BAD = {
    "metadata_that_is_no_utf8": message(1, metadata=b"\x81\xa1\xff\x01"),
    "metadata_nested_without_end": message(1, metadata=b"\x81\xa1a" + b"\x91" * 20_000),
    "metadata_that_is_no_mapping": message(1, metadata=b"\x91\x01"),
    "another_number_than_its_header": message(7),
    "an_unknown_format": message(1).replace(b"C", b"?", 1)[:56] + b"?" + message(1)[57:],
    "half_a_value": message(1, memoryview(b"12345678").cast("d"))[:-3],
    "rubbish": os.urandom(200),
    "nothing": b"",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_message_is_dropped_with_a_warning(
    board: Board, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    link = Link(board)
    link.send(1, BAD[name], 1)
    link.send(2, message(2, metadata=encode_metadata({"a": 1})))
    found = link.receiver.receive()
    assert found is not None
    assert found.sequence == 2  # so the one before counts as dropped
    assert link.receiver.receive() is None
    (record,) = caplog.records
    assert record.getMessage().startswith("input `image`: a bad message was dropped: ")


def test_many_bad_messages_do_not_fill_the_log(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    link = Link(board)
    for number in range(1, 10_001):
        link.send(number, b"rubbish", number)
        assert link.receiver.receive() is None
    assert link.receiver._bad.count == 10_000
    assert len(caplog.records) == 14
