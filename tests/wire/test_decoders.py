"""Decoders: whatever the bytes, they return or raise what they say. `make fuzz` looks for longer."""

from __future__ import annotations

import ast
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import EXAMPLES

import dora
from dora.cluster import protocol
from dora.daemon.logs.parse import parse_line
from dora.daemon.logs.reader import read_record
from dora.dataflow.model import Dataflow
from dora.node.interceptors.spans import decode_batches
from dora.observe.preview import protocol as frames
from dora.observe.remote.protocol import decode_delivery, decode_to_process
from dora.recording.mcap.event_order import first_numbers
from dora.recording.mcap.format import NotARecording, restore
from dora.ros2 import InterfaceLibrary, MalformedMessage
from dora.transport.latch import message_from_bytes
from dora.wire import daemon_protocol, framing, node_config, node_protocol, operations
from dora.wire.correlation import asks_to_flush
from dora.wire.decode import BAD_MESSAGE, decode_arrow, decode_bytes, decode_numpy
from dora.wire.decoders import DecodeError, from_json, from_plain, json_decoder, msgpack_decoder
from dora.wire.encode import encode
from dora.wire.event_log import complete_size, entries
from dora.wire.framing import FrameBuffer, FrameError
from dora.wire.message import Message, MessageError, pack_head
from dora.wire.metadata import MetadataError, decode_metadata, encode_metadata

quickly = settings(max_examples=EXAMPLES, derandomize=EXAMPLES < 1000, deadline=None)

METADATA = encode_metadata({"a": [1, 2.5, "ä", None, b"q", {"z": [1]}], "t": datetime.now(UTC)})


def message(data: Any, metadata: bytes = METADATA) -> bytes:
    payload = encode(data)
    return pack_head(payload.encoding, payload.schema, metadata, payload.size, 1, 1) + payload.to_bytes()


VALUES = [
    pa.array([1.5, 2.5]),
    pa.array([1, None, 3]),
    pa.array(["one", None, "three"]),
    pa.array([b"one", b"three"], pa.large_binary()),
    pa.array(["x", "y", "x"]).dictionary_encode(),
    pa.array([["a", "bb"], None, []]),
    pa.array([{"name": "a", "at": [1.0]}, None]),
    pa.array([True, None, False]),
    pa.array(["short", "a string that is longer than twelve"], pa.string_view()),
    pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
    pa.UnionArray.from_dense(
        pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([1]), pa.array(["b"])]
    ),
    pa.RunEndEncodedArray.from_arrays(pa.array([2, 5], pa.int32()), pa.array(["a", "b"])),
    pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
    pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)),
    pa.array([1, None], pa.decimal128(10, 2)),
    pa.nulls(3),
]
MESSAGES = [message(value) for value in VALUES]
FRAMES = [
    msgspec.msgpack.encode(item)
    for item in (
        node_protocol.Register("a", 1, "1"),
        node_protocol.OutputsClosed(["a", "b"]),
        node_protocol.ParamUpdateFrame("k", {"a": [1, "x"]}),
        node_protocol.PublishRequest(1, "o", b"abc"),
        daemon_protocol.SetParameter("n", "k", [1, {"a": None}]),
        operations.StopOperation("n", 1.5),
    )
]
JSON = [
    b'{"type": "Beat"}',
    b'{"type": "Hello", "version": "1", "daemon": "x", "pid": 1, "runs": [], "machine": "a"}',
    b'{"ts":"1970-01-01T00:00:01Z","level":"info","node":"a","stream":"stdout","msg":"x"}',
    b'{"type": "Stop", "dataflow_id": "x", "grace": 1e3}',
    b'{"a": [1, -2.5e300, "\\u00e4\\ud83d\\ude00", null, true]}',
    b'{"resourceSpans": [{"resource": {"attributes": []}, "scopeSpans": []}]}',
    b"[" * 5000,
]


def _edited(data: bytes, edits: list[tuple[int, float, bytes]]) -> bytes:
    changed = bytearray(data)
    for kind, where, put in edits:
        at = int(where * len(changed))
        if kind == 0:
            changed[at : at + len(put)] = put
        elif kind == 1:
            changed[at:at] = put
        else:
            del changed[at : at + len(put)]
    return bytes(changed)


def bytes_like(samples: list[bytes]) -> st.SearchStrategy[bytes]:
    """Return strategies for any bytes, and for samples of which some bytes are others."""
    put = st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 4, b"\x7f\xff\xff\xff"]))
    edit = st.tuples(st.integers(0, 2), st.floats(0, 1, exclude_max=True), put)
    edited = st.builds(_edited, st.sampled_from(samples), st.lists(edit, max_size=4))
    return st.one_of(edited, edited, edited, st.binary(max_size=200))


MSGPACK_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "from nodes and commands": daemon_protocol.decode_to_daemon,
    "from the daemon": node_protocol.decode_to_node,
    "answers of the daemon": daemon_protocol.decode_answer,
    "to an observer": decode_to_process,
    "from an observer": decode_delivery,
    "to a watcher": frames.decode_to_watcher,
    "from a watcher": frames.decode_from_watcher,
    "anything": msgpack_decoder(),
}
JSON_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "from machines": protocol.decode_to_coordinator,
    "from the coordinator": protocol.decode_to_daemon,
    "the address of the daemon": node_config.decode_address,
    "a dataflow": lambda data: from_plain(from_json(data), Dataflow),
    "anything": json_decoder(),
}
NEVER: dict[str, Callable[[bytes], Any]] = {
    "records of logs": read_record,
    "lines of nodes": lambda data: parse_line("a", "stdout", data.decode("utf-8", "replace"), 1),
    "spans": decode_batches,
    "whether to flush": asks_to_flush,
    "entries of an event log": lambda data: (list(entries(data)), complete_size(data)),
}
DEEP = [b"\x91" * 100_000, b"\x81\xa1a" * 50_000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff\xa1a\x01"]


@pytest.mark.lengthy
@pytest.mark.parametrize("name", MSGPACK_DECODERS)
@quickly
@given(data=bytes_like([*FRAMES, METADATA, *DEEP]))
def test_msgpack_raises_nothing_else(name: str, data: bytes) -> None:
    with suppress(DecodeError):
        MSGPACK_DECODERS[name](data)


@pytest.mark.lengthy
@pytest.mark.parametrize("name", JSON_DECODERS)
@quickly
@given(data=bytes_like(JSON))
def test_json_raises_nothing_else(name: str, data: bytes) -> None:
    with suppress(DecodeError):
        JSON_DECODERS[name](data)


@pytest.mark.lengthy
@pytest.mark.parametrize("name", NEVER)
@quickly
@given(data=bytes_like([*JSON, METADATA, *FRAMES]))
def test_readers_of_lines_raise_nothing(name: str, data: bytes) -> None:
    NEVER[name](data)


@pytest.mark.lengthy
@quickly
@given(data=bytes_like([METADATA, *DEEP]))
def test_metadata_raises_nothing_else(data: bytes) -> None:
    with suppress(MetadataError):
        decode_metadata(data)


@pytest.mark.lengthy
@quickly
@given(data=bytes_like([framing.encode_frame(node_protocol.StopFrame())]))
def test_frames_are_cut_or_refused(data: bytes) -> None:
    buffer = FrameBuffer(1000)
    with suppress(FrameError):
        buffer.feed(data)
        assert sum(map(len, buffer)) <= len(data)


@pytest.mark.lengthy
@quickly
@given(data=bytes_like([msgspec.msgpack.encode({"text": "talk/text"})]))
def test_the_order_of_events_raises_nothing_else(data: bytes) -> None:
    from dora.wire.event_log import EntryKind, pack_entry

    with suppress(NotARecording):
        first_numbers(
            pack_entry(EntryKind.BEGIN, 0, 0, 0, data) + pack_entry(EntryKind.MESSAGE, 0, 0, 1), [], {}
        )


def _look_at(found: Message) -> None:
    """Do all that a program does with a message."""
    array = decode_arrow(found)
    try:
        array.to_pylist()
    except (ValueError, ArithmeticError, pa.ArrowException):
        pass  # a time or a decimal that Python has no form for
    str(array)
    decode_bytes(found)
    with suppress(*BAD_MESSAGE):  # a type that NumPy does not have
        decode_numpy(found)
    found.metadata and decode_metadata(found.metadata)


@pytest.mark.lengthy
@settings(quickly, max_examples=5 * EXAMPLES)
@given(data=bytes_like(MESSAGES))
def test_a_message_of_another_machine_is_refused_or_can_be_looked_at(data: bytes) -> None:
    with suppress(*BAD_MESSAGE):
        _look_at(message_from_bytes(data))


@pytest.mark.lengthy
@settings(quickly, max_examples=5 * EXAMPLES)
@given(data=bytes_like([b"\xc2\xd2\x07\xc8\x01" + data for data in MESSAGES]))
def test_a_message_of_a_recording_is_refused_or_can_be_looked_at(data: bytes) -> None:
    try:
        found = restore(data)
    except NotARecording:
        return
    with suppress(*BAD_MESSAGE):
        _look_at(found)


ROS_TYPES = {
    name: InterfaceLibrary(prefixes=[], distribution="kilted").message(name)
    for name in (
        *("sensor_msgs/Image", "sensor_msgs/PointCloud2", "sensor_msgs/JointState", "tf2_msgs/TFMessage"),
        *(
            "visualization_msgs/MarkerArray",
            "rcl_interfaces/ParameterEvent",
            "geometry_msgs/PolygonStamped",
        ),
        *("example_interfaces/WString", "std_msgs/Empty", "std_msgs/Bool", "sensor_msgs/Imu"),
    )
}
MARKER = {"points": [{"x": 1.0}], "colors": [{"r": 0.5}], "text": "ä", "frame_locked": True}
ROS_VALUES: dict[str, dict[str, Any]] = {
    "sensor_msgs/Image": {"height": 1, "width": 2, "encoding": "mono8", "data": [1, 2]},
    "sensor_msgs/PointCloud2": {"fields": [{"name": "x"}, {"name": "y"}], "data": [1, 2, 3]},
    "sensor_msgs/JointState": {"name": ["a", ""], "position": [1.0], "effort": [2.0, 3.0]},
    "tf2_msgs/TFMessage": {"transforms": [{"child_frame_id": "a"}, {}]},
    "visualization_msgs/MarkerArray": {"markers": [MARKER, {}]},
    "rcl_interfaces/ParameterEvent": {
        "changed_parameters": [{"value": {"bool_array_value": [True, False]}}]
    },
    "geometry_msgs/PolygonStamped": {"polygon": {"points": [{}, {}]}},
    "example_interfaces/WString": {"data": "ä𝄞"},
}


def ros_messages() -> st.SearchStrategy[tuple[str, bytes]]:
    """Return strategies for the name of a type and bytes like its messages, in both orders of bytes."""
    found = []
    for name, kind in ROS_TYPES.items():
        good = kind.encode(ROS_VALUES.get(name, {}))
        found.append(st.tuples(st.just(name), bytes_like([good, b"\0\0" + good[2:]])))
    return st.one_of(found)


@pytest.mark.lengthy
@settings(quickly, max_examples=5 * EXAMPLES)
@given(sent=ros_messages())
def test_a_message_of_ros_is_refused_or_can_be_looked_at(sent: tuple[str, bytes]) -> None:
    name, data = sent
    kind = ROS_TYPES[name]
    with suppress(MalformedMessage):
        found = kind.decode(data)
        found.validate(full=True)
        assert kind.decode(kind.encode(found)).equals(found) or "nan" in str(found.to_pylist())


@pytest.mark.lengthy
@quickly
@given(data=bytes_like(MESSAGES))
def test_the_head_of_a_message_raises_nothing_else(data: bytes) -> None:
    with suppress(MessageError):
        Message(data).validate(len(data))


def test_every_value_comes_through_the_checks() -> None:
    for value, data in zip(VALUES, MESSAGES, strict=True):
        assert decode_arrow(message_from_bytes(data)).equals(value)


OUTSIDE = {"openapi.py"}  # converts what it has made itself


@pytest.mark.slow
@pytest.mark.lengthy
def test_all_of_dora_decodes_with_these() -> None:
    forbidden = {
        *("msgspec.json.decode", "msgspec.json.Decoder", "msgspec.convert"),
        *("msgspec.msgpack.decode", "msgspec.msgpack.Decoder"),
    }
    found = [
        f"{path}:{node.lineno}"
        for path in sorted(Path(dora.__file__).parent.rglob("*.py"))
        if path.name not in {*OUTSIDE, "decoders.py", "metadata.py"}
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in forbidden
    ]
    assert found == []
