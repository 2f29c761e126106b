"""The keys that keep a message in a full queue are found alike in metadata and in their bytes."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dora.wire.correlation import (
    FLUSH,
    GOAL_ID,
    GOAL_STATUS,
    REQUEST_ID,
    asks_to_flush,
    control_sections,
    is_correlated,
    kept_message,
    kept_metadata,
    kept_section,
    section_is_correlated,
    uuid7,
)
from dora.wire.message import Encoding, Message, pack_head
from dora.wire.metadata import encode_metadata

WORDS = st.sampled_from(["stop", "goal_", REQUEST_ID, GOAL_ID, GOAL_STATUS, FLUSH])
VALUES = WORDS | st.booleans()
METADATA = st.dictionaries(WORDS, VALUES | st.dictionaries(WORDS, VALUES, max_size=2), max_size=3)
KEYS = st.lists(st.sampled_from(["stop", "goal_"]), max_size=2)


def message(section: bytes) -> Message:
    return Message(pack_head(Encoding.PLAIN, b"C", section, 0, 1, 0))


@pytest.mark.lengthy
@given(METADATA, KEYS)
@settings(derandomize=True, deadline=None, max_examples=250)
def test_metadata_its_bytes_and_a_message_are_kept_alike(metadata: dict[str, Any], keys: list[str]) -> None:
    section = encode_metadata(metadata)
    wanted = any(key in metadata for key in (*keys, REQUEST_ID, GOAL_ID, GOAL_STATUS))
    assert kept_metadata(keys)(metadata) == wanted
    assert kept_section(keys)(section) == wanted
    assert kept_message(keys)(message(section)) == wanted
    assert section_is_correlated(section) == is_correlated(metadata)


@pytest.mark.lengthy
@given(METADATA, KEYS)
@settings(derandomize=True, deadline=None, max_examples=250)
@example({FLUSH: True}, [])
def test_a_sender_looks_at_each_message_that_a_queue_keeps_or_that_flushes_it(
    metadata: dict[str, Any], keys: list[str]
) -> None:
    section = encode_metadata(metadata)
    assert asks_to_flush(section) == (metadata.get(FLUSH) is True)
    control = control_sections(keys)(section)
    assert control in (section, b"")
    if kept_section(keys)(section) or asks_to_flush(section):
        assert control == section


@pytest.mark.parametrize(
    "section", [b"", b"\x81", b"\xc1request_id", b"\x81\xaarequest_id", b"\xa5flush\xc3"]
)
def test_damaged_metadata_keep_no_message_and_flush_nothing(section: bytes) -> None:
    """Reading the event raises the error."""
    assert not section_is_correlated(section)
    assert not kept_section(["request"])(section)
    assert not asks_to_flush(section)


def test_ids_are_uuids_of_version_7_and_sort_by_time() -> None:
    before = time.time_ns() // 1_000_000
    ids = [uuid7() for _ in range(100)]
    after = time.time_ns() // 1_000_000
    assert len(set(ids)) == 100
    for text in ids:
        found = uuid.UUID(text)
        assert (str(found), found.version, found.variant) == (text, 7, uuid.RFC_4122)
        assert before <= found.int >> 80 <= after
