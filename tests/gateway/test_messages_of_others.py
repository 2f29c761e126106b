"""Messages of another machine are checked before the gateway passes them on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from dora.gateway.ports import Memory, parse
from dora.wire.decode import BAD_MESSAGE
from dora.wire.encode import encode
from dora.wire.message import pack_head
from dora.wire.metadata import encode_metadata


def message(sequence: int, data: Any = b"x", metadata: bytes = b"") -> bytes:
    payload = encode(data)
    head = pack_head(payload.encoding, payload.schema, metadata, payload.size, sequence, 1)
    return head + payload.to_bytes()


BAD = {
    "metadata_that_is_no_utf8": message(1, metadata=b"\x81\xa1\xff\x01"),
    "metadata_nested_without_end": message(1, metadata=b"\x81\xa1a" + b"\x91" * 20_000),
    "metadata_that_is_no_mapping": message(1, metadata=b"\x91\x01"),
    "an_unknown_format": message(1).replace(b"C", b"?", 1)[:56] + b"?" + message(1)[57:],
    "half_a_value": message(1, memoryview(b"12345678").cast("d"))[:-3],
    "more_than_the_message": message(1) + b"more",
    "rubbish": os.urandom(200),
    "nothing": b"",
}


@pytest.fixture(params=["in_the_frame", "in_shared_memory"])
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def parsed(data: bytes, place: str) -> Any:
    if place == "in_the_frame":
        return parse(data, len(data), None)
    memory = Memory(max(len(data), 16))
    memory.memory[: len(data)] = data
    return parse(memory, len(data), memory)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_message_is_refused(name: str, place: str) -> None:
    with pytest.raises(BAD_MESSAGE):
        parsed(BAD[name], place)


def test_a_good_message_is_taken_as_it_is(place: str) -> None:
    data = message(7, b"x" * 100_000, encode_metadata({"a": 1}))
    found = parsed(data, place)
    assert (found.sequence, found.size) == (7, len(data))
