"""Messages that the bridge sends on without an array: the same as if an array had been sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from message_values import values_of

from dora.ros2 import InterfaceLibrary, MalformedMessage, MessageType
from dora.wire.decode import decode_arrow
from dora.wire.encode import encode

INTERFACES = Path(__file__).with_name("interfaces")
LIBRARY = InterfaceLibrary([INTERFACES], prefixes=[], distribution="kilted")
NAMES = [
    "std_msgs/msg/Empty",
    "std_msgs/msg/Bool",
    "std_msgs/msg/String",
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/JointState",
    "sensor_msgs/msg/PointCloud2",
    "geometry_msgs/msg/PoseArray",
    "geometry_msgs/msg/PoseWithCovariance",
    "tf2_msgs/msg/TFMessage",
    "test_msgs/msg/Arrays",
    "test_msgs/msg/BoundedSequences",
    "test_msgs/msg/UnboundedSequences",
    "test_msgs/msg/WStrings",
]


def received(kind: MessageType, data: bytes) -> pa.Array[Any]:
    """Return the array that a node gets of a message that was sent without one."""
    array = decode_arrow(encode(kind.transcode(data)).to_message(b""))
    array.validate(full=True)
    return array


@pytest.mark.lengthy
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25)
@given(data=st.data())
def test_a_node_gets_the_array_of_the_message(name: str, data: st.DataObject) -> None:
    kind = LIBRARY.message(name)
    sent = kind.encode(data.draw(values_of(kind, LIBRARY)))
    array = kind.decode(sent)
    found = received(kind, sent)
    assert found.type == array.type
    assert found.equals(array)
    assert kind.encode(found) == sent
    assert kind.transcode(sent).type == array.type
    assert encode(kind.transcode(sent)).schema == encode(array).schema


@pytest.mark.lengthy
@pytest.mark.parametrize("size", [0, 1, 200_000, 300_001, 10_000_000])
def test_messages_of_any_size_are_the_same(size: int) -> None:
    kind = LIBRARY.message("sensor_msgs/Image")
    sent = kind.encode({"encoding": "mono8", "data": np.arange(size).astype(np.uint8)})
    payload = encode(kind.transcode(sent))
    assert payload.size == len(payload.to_bytes())
    assert received(kind, sent).equals(kind.decode(sent))


@pytest.mark.parametrize("text", [b"\2\0\0\0ab", b"\3\0\0\0\xffa\0", b"\0\0\0\0"], ids=repr)
def test_a_text_without_a_zero_or_that_is_no_utf8_is_the_same(text: bytes) -> None:
    kind, sent = LIBRARY.message("std_msgs/String"), b"\0\1\0\0" + text
    assert received(kind, sent).equals(kind.decode(sent))


@pytest.mark.lengthy
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(data=st.data())
def test_bytes_that_are_no_message_are_refused_as_if_an_array_were_made(
    name: str, data: st.DataObject
) -> None:
    kind = LIBRARY.message(name)
    sent = bytearray(kind.encode(data.draw(values_of(kind, LIBRARY))))
    for _ in range(data.draw(st.integers(1, 4))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    bad = bytes(sent[: data.draw(st.integers(0, len(sent)))])
    try:
        expected = kind.decode(bad)
    except MalformedMessage as error:
        with pytest.raises(MalformedMessage) as caught:
            kind.transcode(bad)
        assert str(caught.value) == str(error)
    else:
        found = received(kind, bad)
        assert kind.encode(found) == kind.encode(expected)  # NaN is equal to no value
