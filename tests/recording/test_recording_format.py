"""A stored message: read by Protobuf's own decoder, and given back as it was sent."""

from __future__ import annotations

from ctypes import string_at
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dora.daemon.logs.entry import LogEntry
from dora.recording.mcap.channels import (
    MAX_TYPES,
    ChannelKey,
    Schemas,
    channel_metadata,
    form_of,
    prefix_of,
)
from dora.recording.mcap.format import (
    End,
    NotARecording,
    RecordingStart,
    TopicEnd,
    from_record,
    restore,
    to_texts,
)
from dora.recording.mcap.schemas import PACKAGES, message_class, schema_data
from dora.recording.recorder.context import pack_log
from dora.wire.array_shape import describe
from dora.wire.decode import decode_arrow
from dora.wire.encode import encode
from dora.wire.message import Message, pack_head
from dora.wire.metadata import decode_metadata, encode_metadata

TIME = 1_709_208_000_123_456_789

VALUES: list[Any] = [
    b"",
    b"abc",
    np.arange(5, dtype=np.float16),
    np.arange(5, dtype=np.int64),
    np.zeros(3 << 20, np.uint8),
    pa.array([], pa.float32()),
    pa.array([1, None, 3]),
    pa.array(["x", None, "yy"]),
    pa.array([True, False]),
    pa.array([{"a": [1, 2], "b": {"c": "d"}}]),
    pa.array(["x" * 100] * 10_000),
    pa.array(["a", "b", "a"]).dictionary_encode(),
    pa.nulls(4),
]


def message_of(data: Any, metadata: dict[str, Any] | None = None, sequence: int = 7) -> Message:
    payload = encode(data)
    section = encode_metadata(metadata) if metadata else b""
    return Message(
        pack_head(payload.encoding, payload.schema, section, payload.size, sequence, TIME)
        + payload.to_bytes()
    )


def stored(message: Message) -> bytes:
    body = (
        message.small_body
        if message.owner is None
        else string_at(message.address + message.body_offset, message.body_size)
    )
    return prefix_of(message, form_of(message)) + body


def parsed(message: Message) -> Any:
    """Decode what is stored with the schema from the recording."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    name = form_of(message).schema
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(schema_data(name)).file:
        pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
    return kind.FromString(stored(message))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_stored_message_is_restored_unchanged(value: Any) -> None:
    metadata = {"nested": {"list": [1, 2.5, "three", None, b"4"]}, "unicode": "größer"}
    sent = message_of(value, metadata, sequence=2**40)
    back = restore(stored(sent))
    assert (back.sequence, back.time_ns, back.encoding) == (2**40, TIME, sent.encoding)
    assert decode_metadata(back.metadata) == metadata
    assert decode_arrow(back).equals(decode_arrow(sent))


def test_a_message_in_shared_memory_is_stored_as_one_that_was_copied() -> None:
    values = np.arange(100_000)
    head = pack_head(0, b"l", b"", values.nbytes, 1, TIME)
    lent = Message(head, values.ctypes.data - len(head), values)
    assert decode_arrow(restore(stored(lent))).to_numpy().tolist() == values.tolist()


@pytest.mark.parametrize("size", [0, 2, 3, 10, 60, 66])
def test_a_damaged_message_is_refused(size: int) -> None:
    with pytest.raises(NotARecording, match="damaged"):
        restore(stored(message_of(b"abcdefgh" * 4))[:size])


@pytest.mark.parametrize("value", VALUES[:7], ids=lambda value: type(value).__name__)
def test_plain_numbers_are_numbers_for_protobuf(value: Any) -> None:
    sent = message_of(value)
    found = parsed(sent)
    if sent.schema in (b"l", b"f"):
        assert list(found.values) == decode_arrow(sent).to_pylist()
    elif sent.schema == b"C":
        assert found.values == sent.small_body


def test_a_numpy_picture_is_an_image_for_viewers() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    raw = message_of(pixels, describe(pixels, None))
    image = parsed(raw)
    assert form_of(raw).schema == "foxglove.RawImage"
    assert (image.width, image.height, image.encoding, image.data) == (4, 2, "bgr8", pixels.tobytes())


def test_images_are_images_for_viewers() -> None:
    raw = message_of(bytes(range(12)), {"width": 2, "height": 2, "encoding": "bgr8", "frame_id": "eye"})
    image = parsed(raw)
    assert form_of(raw).schema == "foxglove.RawImage"
    assert (image.width, image.height, image.step, image.encoding) == (2, 2, 6, "bgr8")
    assert (image.data, image.frame_id) == (bytes(range(12)), "eye")
    assert (image.timestamp.seconds, image.timestamp.nanos) == divmod(TIME, 1_000_000_000)

    jpeg = parsed(message_of(b"\xff\xd8", {"encoding": "jpeg", "width": 640, "height": 480}))
    assert (jpeg.format, jpeg.data) == ("jpeg", b"\xff\xd8")

    depth = message_of(
        np.arange(4, dtype=np.uint16), {"primitive": "depth", "width": 2, "height": 2, "encoding": "mono16"}
    )
    assert (parsed(depth).encoding, parsed(depth).step) == ("16UC1", 4)


def test_points_and_poses() -> None:
    points = parsed(message_of(np.arange(6, dtype=np.float32), {"primitive": "points3d"}))
    assert (points.point_stride, [field.offset for field in points.fields]) == (12, [0, 4, 8])
    assert points.data == np.arange(6, dtype=np.float32).tobytes()
    assert points.pose.orientation.w == 1

    pose = parsed(message_of(np.arange(7.0), {"primitive": "pose", "frame_id": "map"}))
    assert (pose.pose.position.z, pose.pose.orientation.w, pose.frame_id) == (2, 6, "map")
    place = parsed(message_of(pa.array([1.0, 2.0, 3.0]), {"primitive": "pose"}))
    assert (place.pose.position.x, place.pose.orientation.w, place.frame_id) == (1, 1, "world")


def test_poses_and_transforms_of_the_standard_types() -> None:
    place = {"x": 1.0, "y": 2.0, "z": 3.0}
    turn = {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}
    sent = message_of(pa.array([{"position": place, "orientation": turn}]), {"frame_id": "map"})
    pose = parsed(sent)
    assert (pose.pose.position.y, pose.pose.orientation.w, pose.frame_id) == (2, 1, "map")
    assert decode_arrow(restore(stored(sent))).to_pylist() == [{"position": place, "orientation": turn}]

    transform = parsed(
        message_of(pa.array([{"translation": place, "rotation": turn}]), {"child_frame_id": "arm"})
    )
    assert (transform.translation.z, transform.rotation.w) == (3, 1)
    assert (transform.parent_frame_id, transform.child_frame_id) == ("world", "arm")

    for other in (
        [{"position": place, "orientation": None}],
        [{"position": place, "orientation": turn}] * 2,
        [{"position": "here", "orientation": turn}],
        [{"position": place, "orientation": turn, "more": 1}],
    ):
        assert form_of(message_of(pa.array(other))).schema == "dora.Arrow"


@pytest.mark.parametrize(
    "metadata",
    [
        {"encoding": "bgr8", "width": 3, "height": 2},  # another size
        {"encoding": "bgr8", "width": "2", "height": 2},
        {"encoding": "bgr8"},
        {"encoding": "of my own", "width": 2, "height": 2},
        {"primitive": "pose"},  # 12 bytes
        {"primitive": "points3d"},
        {"primitive": 5},
    ],
)
def test_a_message_whose_metadata_is_wrong_is_stored_by_its_type(metadata: dict[str, Any]) -> None:
    message = message_of(bytes(12), metadata)
    assert form_of(message).schema == "dora.UInt8"
    assert decode_metadata(restore(stored(message)).metadata) == metadata


def test_the_messages_are_those_of_foxglove() -> None:
    package = pytest.importorskip("foxglove_schemas_protobuf")
    from importlib import import_module

    from google.protobuf import descriptor_pb2, descriptor_pool

    compared = 0
    for short in PACKAGES["foxglove"]:
        name = f"foxglove.{short}"
        module = import_module(f"{package.__name__}.{short}_pb2")
        theirs, ours = descriptor_pb2.DescriptorProto(), descriptor_pb2.DescriptorProto()
        module.DESCRIPTOR.message_types_by_name[short].CopyToProto(theirs)
        pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(schema_data(name)).file:
            pool.Add(file)
        pool.FindMessageTypeByName(name).CopyToProto(ours)
        for message in (theirs, ours):
            message.field.sort(key=lambda field: field.number)
        assert ours == theirs
        compared += 1
    assert compared >= 10


@pytest.mark.parametrize("line", [None, 12, -1, 1 << 40])
def test_a_log_entry_with_any_line_number_is_stored(line: int | None) -> None:
    entry = LogEntry(TIME, "warn", "arm", "too hot", file="arm.py", line=line)
    log = message_class("foxglove.Log").FromString(pack_log(entry))
    assert (log.message, log.name, log.file, log.level) == ("too hot", "arm", "arm.py", 3)
    assert (log.timestamp.seconds, log.timestamp.nanos) == divmod(TIME, 1_000_000_000)
    assert log.line == min(max(line or 0, 0), 0xFFFF_FFFF)


def test_each_type_is_parsed_once_and_too_many_share_a_channel() -> None:
    schemas = Schemas()
    batch, again = message_of(pa.array(["x"])), message_of(pa.array(["other", "words"]))
    assert schemas.of(batch) is schemas.of(again)
    long = message_of(pa.array(["x" * (1 << 20)]))
    assert long.encoding != batch.encoding
    assert schemas.of(long) == schemas.of(batch), "a stream has the same type as a batch"
    metadata = channel_metadata(ChannelKey("a/b", "dora.Arrow", schemas.of(batch)), "std/core/v1/String")
    assert (metadata["arrow_type"], metadata["type"]) == ("string", "std/core/v1/String")
    for width in range(1, 2 * MAX_TYPES):
        last = schemas.of(message_of(pa.array([b"x" * width], pa.binary(width))))
    assert last == b""


def test_a_type_that_cannot_be_read_has_no_schema() -> None:
    assert Schemas().of(Message(pack_head(1, b"nonsense", b"", 3, 1, TIME) + b"abc")) == b""
    assert Schemas().of(Message(pack_head(2, b"", b"", 3, 1, TIME) + b"abc")) == b""


def test_the_metadata_records() -> None:
    start = RecordingStart(
        dora="1", dataflow_id="x", started=5, last_seconds=30.0, nodes=["a"], topics=["a/b"], name="null"
    )
    assert all(isinstance(value, str) for value in to_texts(start).values())
    assert from_record(to_texts(start), RecordingStart) == start
    end = End(complete=False, stopped=9, reason="asked", topics={"a/b": TopicEnd(3, 1, 1, 4)})
    assert from_record(to_texts(end), End) == end
    with pytest.raises(NotARecording, match="damaged"):
        from_record({**to_texts(end), "topics": "{"}, End)
