"""The keys, tokens and attachments are as rmw_zenoh writes them, byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ros_meeting import STRING, RosTypeName

from dora.ros2.graph import Endpoint, Kind, NodeName
from dora.ros2.qos import Durability, History, Liveliness, Qos, Reliability
from dora.ros2.zenoh.keys import (
    PROFILES,
    attachment_bytes,
    endpoint_token,
    gid_of,
    node_token,
    qos_text,
    read_attachment,
    read_qos,
    read_token,
    topic_key,
)

HASH = "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"
# From the design document of rmw_zenoh: a talker and a server of the package demo_nodes_cpp.
TALKER = (
    "@ros2_lv/2/8b20917502ee955ac4476e0266340d5c/0/10/MP/%/%/talker/%chatter/"
    f"std_msgs::msg::dds_::String_/{HASH}/::,7:,:,:,,"
)
SERVER = (
    "@ros2_lv/2/f9980ee0495eaafb3e38f0d19e2eae12/0/10/SS/%/%/add_two_ints_server/%add_two_ints/"
    "example_interfaces::srv::dds_::AddTwoInts_/"
    "RIHS01_e118de6bf5eeb66a2491b5bda11202e7b68f198d6f67922cf30364858239c81a/::,10:,:,:,,"
)

durations = st.none() | st.integers(0, (1 << 62))
qualities = st.builds(
    Qos,
    st.sampled_from(Reliability),
    st.sampled_from(Durability),
    st.sampled_from(History),
    st.integers(1, 1 << 30),
    durations,
    durations,
    st.sampled_from(Liveliness),
    durations,
)


def test_a_token_of_rmw_zenoh_says_everything_about_an_endpoint() -> None:
    assert read_token(TALKER) == Endpoint(
        Kind.PUBLISHER,
        NodeName("talker", "/"),
        "/chatter",
        "std_msgs/msg/String",
        HASH,
        gid_of(TALKER),
        Qos(depth=7),
    )
    server = read_token(SERVER)
    assert isinstance(server, Endpoint)
    assert (server.kind, server.name, server.type) == (
        Kind.SERVER,
        "/add_two_ints",
        "example_interfaces/srv/AddTwoInts",
    )
    assert read_token(
        "@ros2_lv/2/aac3178e146ba6f1fc6e6a4085e77f21/0/0/NN/%/%robot%arm/listener"
    ) == NodeName("listener", "/robot/arm")


def test_our_tokens_are_those_of_rmw_zenoh() -> None:
    session = "8b20917502ee955ac4476e0266340d5c"
    topic = ("/chatter", "std_msgs::msg::dds_::String_", HASH)
    token = endpoint_token(
        2, session, (0, 10), Kind.PUBLISHER, NodeName("talker", "/"), topic, Qos(depth=7)
    )
    assert token == TALKER
    assert node_token(2, session, 0, NodeName("talker", "/")) == f"@ros2_lv/2/{session}/0/0/NN/%/%/talker"


def test_the_key_of_a_topic_has_its_domain_name_type_and_hash() -> None:
    assert topic_key(2, "/robot1/chatter", "std_msgs::msg::dds_::String_", HASH) == (
        f"2/robot1/chatter/std_msgs::msg::dds_::String_/{HASH}"
    )


def test_the_id_of_an_endpoint_is_the_hash_of_its_token() -> None:
    # XXH3 of 128 bits of no bytes is 99aa06d3014798d86001c324468d497f; the lower half comes first.
    assert gid_of("").hex() == "7f498d4624c30160d8984701d306aa99"


def test_humble_has_no_hashes() -> None:
    nameless = RosTypeName(STRING.name, STRING.dds_name, "")
    assert PROFILES["humble"].hash_of(nameless) == "TypeHashNotSupported"
    assert PROFILES["rep2016"].hash_of(STRING) == STRING.hash
    with pytest.raises(ValueError, match="the hash of std_msgs/msg/String is not known"):
        PROFILES["rep2016"].hash_of(nameless)
    token = endpoint_token(
        0, "ab", (0, 1), Kind.SUBSCRIPTION, NodeName("n", "/"), ("/a", "T_", "TypeHashNotSupported"), Qos()
    )
    seen = read_token(token)
    assert isinstance(seen, Endpoint)
    assert seen.type_hash == ""


@pytest.mark.parametrize(
    ("qos", "text"),
    [
        (Qos(), "::,10:,:,:,,"),
        (Qos(depth=42), "::,:,:,:,,"),
        (Qos(Reliability.BEST_EFFORT, depth=5), "2::,5:,:,:,,"),
        (Qos(durability=Durability.TRANSIENT_LOCAL, depth=1), ":1:,1:,:,:,,"),
        (Qos(history=History.KEEP_ALL), "::2,10:,:,:,,"),
        (Qos(deadline=1_500_000_000, lifespan=10), "::,10:1,500000000:0,10:,,"),
        (Qos(liveliness=Liveliness.MANUAL_BY_TOPIC, lease_duration=2_000_000_000), "::,10:,:,:3,2,0"),
    ],
)
def test_a_quality_of_service_leaves_out_what_is_default(qos: Qos, text: str) -> None:
    assert qos_text(qos) == text
    assert read_qos(text) == qos


@given(qualities)
def test_every_quality_of_service_is_read_back(qos: Qos) -> None:
    assert read_qos(qos_text(qos)) == qos


def test_an_attachment_has_33_bytes() -> None:
    gid = bytes(range(16))
    data = attachment_bytes(1, 0x0102030405060708, gid)
    assert data.hex() == "0100000000000000" + "0807060504030201" + "10" + gid.hex()
    assert read_attachment(data) == (1, 0x0102030405060708, gid)


@given(st.binary(max_size=64))
def test_other_bytes_are_no_attachment(data: bytes) -> None:
    try:
        assert len(read_attachment(data).gid) == 16
    except ValueError:
        pass


@given(
    st.text(max_size=80)
    | st.lists(st.sampled_from([*TALKER.split("/"), "", "a:b", "-1,-1"]), max_size=15).map("/".join)
)
def test_other_text_is_no_token(text: str) -> None:
    try:
        assert isinstance(read_token(text), NodeName | Endpoint)
    except ValueError:
        pass
