"""Timestamps of messages from machines whose clocks differ."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dora.node.events import Input
from dora.node.receive.timestamps import timestamp_ns, timestamps
from dora.transport.board import CLOCK_OFFSET, WORDS
from dora.transport.latch import message_from_bytes
from dora.wire.message import ONE_PASS, Encoding, pack_head
from dora.wire.metadata import encode_metadata
from dora.wire.node_config import InputConfig
from dora.wire.trail import origin_id

SECOND = 10**9
SENT = 1_800_000_000 * SECOND
MADE = SENT - SECOND
CAMERA, LIDAR = 1, 2  # lines on the board; the clock here is behind by an hour, and ahead by a minute
OTHER_CLOCKS = {origin_id("camera/image"): CAMERA, origin_id("lidar/scan"): LIDAR}
OFFSETS = {CAMERA: -3600 * SECOND, LIDAR: 60 * SECOND}


def message(origin: str, *, passes: int, stamped: bool) -> Input:
    stamp = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=MADE // SECOND)
    section = encode_metadata({"timestamp": stamp} if stamped else {"width": 3})
    head = pack_head(
        Encoding.PLAIN, b"C", section, 1, 1, SENT, b"x", MADE, origin_id(origin) + passes * ONE_PASS
    )
    return Input.make("x", message_from_bytes(head))


@pytest.mark.parametrize(
    ("source", "machine", "origin", "passes", "stamped", "expected"),
    [
        ("camera/image", "far", "camera/image", 0, False, SENT + OFFSETS[CAMERA]),
        ("camera/image", "far", "camera/image", 0, True, MADE + OFFSETS[CAMERA]),
        ("detector/boxes", "", "camera/image", 1, True, MADE + OFFSETS[CAMERA]),
        ("detector/boxes", "", "camera/image", 1, False, SENT),
        ("camera/image", "far", "here/out", 1, True, MADE),
        ("camera/image", "far", "here/out", 1, False, SENT + OFFSETS[CAMERA]),
        ("camera/image", "far", "lidar/scan", 2, True, MADE + OFFSETS[LIDAR]),
        ("here/out", "", "here/out", 0, True, MADE),
    ],
)
def test_a_timestamp_is_of_the_clock_where_the_data_was_made_and_a_sending_of_the_sender(
    source: str, machine: str, origin: str, passes: int, stamped: bool, expected: int
) -> None:
    words = memoryview(bytearray(3 * WORDS * 8)).cast("Q")
    for line, offset in OFFSETS.items():
        words[line * WORDS + CLOCK_OFFSET] = offset & (1 << 64) - 1
    item = InputConfig("x", "link", source, machine=machine, output_slot=CAMERA)
    event = message(origin, passes=passes, stamped=stamped)
    assert timestamps(item, OTHER_CLOCKS, words)(event) == expected
    assert timestamp_ns(event) == (MADE if stamped else SENT), "as it was written"


def test_one_machine_alone_has_one_clock() -> None:
    item = InputConfig("x", "link", "camera/image", output_slot=CAMERA)
    assert timestamps(item, {}, memoryview(bytearray(8)).cast("Q")) is timestamp_ns
