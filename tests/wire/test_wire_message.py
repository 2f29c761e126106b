"""The layout of a message, byte by byte, and what is not one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dora.wire.message import (
    ALIGNMENT,
    HEADER_SIZE,
    MAX_SCHEMA,
    ONE_ORIGIN,
    ONE_PASS,
    ONE_TRAIL_BYTE,
    Encoding,
    Message,
    MessageError,
    body_offset,
    pack_head,
)
from dora.wire.trail import DataOrigin, origins_of, pack_entry

U64 = st.integers(0, 2**64 - 1)

# Sections of 1, 13 and 20 bytes, sequence number 0x0102, time 0x1122334455667788, three bytes of body.
# The origin: output 0xa1b2c3d4 at 0x1122334455667700, passed on twice, and one more in the trail.
GOLDEN = bytes.fromhex(
    "444f5241 02 00 0100 0d000000 80000000"
    "0300000000000000 0201000000000000 8877665544332211"
    "0077665544332211 d4c3b2a1 02 01 1400"
    "43"
    "82a16101a462207478c3a17a07"
    "05000000 0600000000000000 0700000000000000" + 38 * "00" + "ff00fe"
)
GOLDEN_METADATA = bytes.fromhex("82a16101a462207478c3a17a07")
GOLDEN_TRAIL = pack_entry(5, 6, 7)
GOLDEN_ORIGIN = 0xA1B2C3D4 + 2 * ONE_PASS + ONE_ORIGIN + 20 * ONE_TRAIL_BYTE


def test_a_message_is_laid_out_as_documented() -> None:
    head = pack_head(
        Encoding.PLAIN,
        b"C",
        GOLDEN_METADATA,
        3,
        0x0102,
        0x1122334455667788,
        b"",
        0x1122334455667700,
        GOLDEN_ORIGIN,
        GOLDEN_TRAIL,
    )
    assert head + b"\xff\x00\xfe" == GOLDEN


def test_the_smallest_message_is_one_aligned_head() -> None:
    head = pack_head(Encoding.STREAM, b"", b"", 0, 1, 0)
    assert head == b"DORA\x02\x02" + bytes(6) + b"\x40" + bytes(11) + b"\x01" + bytes(39)
    assert len(head) == 64


def test_a_message_survives_packing_and_parsing() -> None:
    message = Message(GOLDEN)
    message.validate(len(GOLDEN))
    assert message.encoding == Encoding.PLAIN
    assert message.schema == b"C"
    assert message.metadata == GOLDEN_METADATA
    assert message.trail == GOLDEN_TRAIL
    assert message.head_size == 56 + 1 + 13 + 20
    assert (message.body_offset, message.body_size, message.size) == (128, 3, 131)
    assert message.small_body == b"\xff\x00\xfe"
    assert (message.sequence, message.time_ns) == (0x0102, 0x1122334455667788)
    assert origins_of(message.header, message.trail) == [
        DataOrigin(0xA1B2C3D4, 0x1122334455667700, 0x1122334455667700),
        DataOrigin(5, 6, 7),
    ]


def test_a_body_that_lies_in_its_place_stays_there() -> None:
    head = pack_head(Encoding.PLAIN, b"C", b"", 3, 1, 0, b"", 0, 0, b"", 192)
    message = Message(head + b"abc")
    message.validate(195)
    assert (len(head), message.small_body) == (192, b"abc")


def test_sections_that_end_on_a_boundary_may_have_the_body_on_the_next_one() -> None:
    head = pack_head(Encoding.PLAIN, b"C", bytes(7), 3, 1, 0, b"", 0, 0, b"", 128)
    assert len(head) == 128
    Message(head + b"abc").validate(131)


def test_a_message_without_an_origin_is_as_old_as_its_sending() -> None:
    message = Message(pack_head(Encoding.PLAIN, b"C", b"", 0, 1, 7, b"", 0, 5))
    assert origins_of(message.header, message.trail) == [DataOrigin(5, 7, 7)]


@given(
    st.integers(0, 2), st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300), U64, U64
)
@settings(derandomize=True, deadline=None)
def test_sections_come_back_whatever_their_sizes(
    encoding: int, schema: bytes, metadata: bytes, body: bytes, sequence: int, time_ns: int
) -> None:
    head = pack_head(encoding, schema, metadata, len(body), sequence, time_ns)
    assert len(head) == body_offset(len(schema), len(metadata))
    assert len(head) % ALIGNMENT == 0
    assert len(head) - HEADER_SIZE - len(schema) - len(metadata) in range(ALIGNMENT)
    message = Message(head + body)
    message.validate(len(head) + len(body))
    assert (message.encoding, message.sequence, message.time_ns) == (encoding, sequence, time_ns)
    assert (message.schema, message.metadata, message.small_body) == (schema, metadata, body)


def test_a_large_message_needs_only_its_head_here() -> None:
    head = pack_head(Encoding.PLAIN, b"C", b"", 1 << 40, 1, 0)
    message = Message(head, address=0x1000, owner=object())
    message.validate(len(head) + (1 << 40))
    assert message.body_size == 1 << 40


def test_a_schema_that_is_too_long_for_its_section_is_an_error_of_the_caller() -> None:
    pack_head(0, bytes(MAX_SCHEMA), b"", 0, 1, 0)
    with pytest.raises(Exception, match="format requires"):
        pack_head(0, bytes(MAX_SCHEMA + 1), b"", 0, 1, 0)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "0 bytes are too short"),
        (GOLDEN[:55], "55 bytes are too short"),
        (b"dora" + GOLDEN[4:], "not a dora message of version 2: it starts with b'dora"),
        (b"DORA\x03" + GOLDEN[5:], "not a dora message of version 2"),
    ],
)
def test_bytes_without_the_magic_are_refused(data: bytes, what: str) -> None:
    with pytest.raises(MessageError, match=what):
        Message(data)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (5, b"\x03"),  # encoding
        (6, b"\xff\xff"),  # schema longer than the room before the body
        (8, b"\xff\xff\xff\xff"),  # metadata
        (12, b"\x41"),  # body not aligned
        (12, b"\x00"),  # body inside the header
        (12, b"\x00\x00\x00\x80"),  # body beyond the end
        (16, b"\x04"),  # body one byte too long
        (16, b"\xff" * 8),
        (53, b"\x02"),  # more origins than the trail has entries
        (54, b"\x13\x00"),  # a trail that ends in an entry
        (54, b"\xf0\xff"),  # a trail longer than the room before the body
    ],
)
def test_sections_that_do_not_fit_are_refused(offset: int, value: bytes) -> None:
    data = GOLDEN[:offset] + value + GOLDEN[offset + len(value) :]
    message = Message(data)
    with pytest.raises(MessageError, match="do not fit"):
        message.validate(len(data))


def test_a_truncated_message_is_refused() -> None:
    with pytest.raises(MessageError):
        Message(GOLDEN[:-1]).validate(len(GOLDEN) - 1)
    with pytest.raises(MessageError):
        Message(GOLDEN[:50], address=1, owner=object()).validate(len(GOLDEN))
    with pytest.raises(MessageError, match="do not fit"):
        Message(GOLDEN[:100], address=1, owner=object()).validate(len(GOLDEN))


@pytest.mark.lengthy
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"DORA\x02" + tail))
@settings(derandomize=True, deadline=None, max_examples=500)
def test_any_bytes_are_a_message_or_a_message_error(data: bytes) -> None:
    try:
        message = Message(data)
        message.validate(len(data))
    except MessageError:
        return
    assert HEADER_SIZE + len(message.schema) + len(message.metadata) <= message.body_offset
    assert len(message.small_body) == message.body_size
