"""The messages of ``ros_discovery_info`` are as the package rmw_dds_common has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.ros2.dds.entities import NodeEntities, ParticipantEntities, read_entities, write_entities
from dora.ros2.graph import NodeName

gids = st.binary(min_size=16, max_size=16)
nodes = st.builds(
    NodeEntities,
    st.builds(NodeName, st.text("ab_", max_size=9), st.text("/ab", max_size=9)),
    st.lists(gids, max_size=3).map(tuple),
    st.lists(gids, max_size=3).map(tuple),
)
participants = st.builds(ParticipantEntities, gids, st.lists(nodes, max_size=3).map(tuple))

# Sent by a node `rostalker` of rclpy (Kilted, Fast DDS); most of its readers and writers are left out.
GID = bytes.fromhex("010f4a2c0363df2900000000000001c1")
RECORDED = bytes.fromhex(
    "00010000"
    "010f4a2c0363df2900000000000001c1"
    "01000000"
    "020000002f000000"
    "0a000000726f7374616c6b6572000000"
    "01000000010f4a2c0363df290000000000001404"
    "02000000010f4a2c0363df290000000000000303010f4a2c0363df290000000000001303"
)
READ = ParticipantEntities(
    GID,
    (
        NodeEntities(
            NodeName("rostalker", "/"),
            (bytes.fromhex("010f4a2c0363df290000000000001404"),),
            (
                bytes.fromhex("010f4a2c0363df290000000000000303"),
                bytes.fromhex("010f4a2c0363df290000000000001303"),
            ),
        ),
    ),
)


def test_a_message_of_rclpy_is_read_and_written() -> None:
    assert read_entities(RECORDED) == READ
    assert write_entities(READ) == RECORDED


def test_humble_writes_longer_ids() -> None:
    longer = RECORDED
    for gid in (GID, *READ.nodes[0].readers, *READ.nodes[0].writers):
        longer = longer.replace(gid, gid + bytes(8))
    assert read_entities(longer) == READ


@pytest.mark.lengthy
@given(participants)
def test_what_is_written_is_read(entities: ParticipantEntities) -> None:
    assert read_entities(write_entities(entities)) == entities


@given(st.binary(max_size=120))
def test_other_bytes_are_refused(data: bytes) -> None:
    try:
        read_entities(b"\x00\x01\x00\x00" + data)
    except ValueError:
        pass
    with pytest.raises(ValueError, match="cannot be read"):
        read_entities(data[:3])


@given(st.integers(4, len(RECORDED) - 1), st.integers(0, 255))
def test_a_damaged_message_never_does_harm(place: int, value: int) -> None:
    for data in (RECORDED[:place], RECORDED[:place] + bytes([value]) + RECORDED[place + 1 :]):
        try:
            read_entities(data)
        except ValueError:
            pass
