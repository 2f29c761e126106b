"""Messages of ROS 2: hashes, Arrow types, bytes. Messages of a real ROS were recorded (`recorded.py`)."""

from __future__ import annotations

import pickle
import struct
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from message_values import values_of
from recorded import read

from dora.ros2 import (
    DefinitionError,
    InterfaceLibrary,
    MalformedMessage,
    MessageType,
    TypeNotFound,
    ValueMismatch,
)

RECORDED = read()
INTERFACES = Path(__file__).with_name("interfaces")
LIBRARY = InterfaceLibrary([INTERFACES], prefixes=[], distribution="kilted")


def message(name: str) -> MessageType:
    return LIBRARY.message(name)


# Hashes and types.


def test_every_hash_is_the_one_of_a_real_ros() -> None:
    compared = 0
    for name, expected in RECORDED["hashes"].items():
        kind, last = name.split("/")[1:]
        if name.startswith("test_msgs/msg/") and not (INTERFACES / f"{name}.msg").exists():
            continue  # defined in IDL only
        if kind == "msg" or ("_" in last and not last.endswith(("_SendGoal", "_GetResult"))):
            found = LIBRARY.message(name).hash
        elif kind == "srv":
            found = LIBRARY.service(name).hash
        elif "_" in last:
            action = LIBRARY.action(name.rpartition("_")[0])
            found = (action.send_goal if last.endswith("SendGoal") else action.get_result).hash
        else:
            found = LIBRARY.action(name).hash
        assert (name, found) == (name, expected)
        compared += 1
    assert compared > 240


def test_the_hash_of_a_package_that_pip_does_not_have_is_right() -> None:
    expected = "RIHS01_e118de6bf5eeb66a2491b5bda11202e7b68f198d6f67922cf30364858239c81a"
    assert LIBRARY.service("example_interfaces/AddTwoInts").hash == expected


def test_messages_have_the_arrow_types_of_dora_rs() -> None:
    header = pa.struct(
        [("stamp", pa.struct([("sec", pa.int32()), ("nanosec", pa.uint32())])), ("frame_id", pa.string())]
    )
    assert message("sensor_msgs/Image").arrow == pa.struct(
        [
            ("header", header),
            ("height", pa.uint32()),
            ("width", pa.uint32()),
            ("encoding", pa.string()),
            ("is_bigendian", pa.uint8()),
            ("step", pa.uint32()),
            ("data", pa.list_(pa.uint8())),
        ]
    )
    assert message("std_msgs/Empty").arrow == pa.struct([])
    assert message("sensor_msgs/Imu").arrow.field("orientation_covariance").type == pa.list_(pa.float64())
    wide = message("test_msgs/WStrings").arrow
    assert wide.field("wstring_value").type == pa.string()
    assert wide.field("array_of_wstrings").type == pa.list_(pa.string())
    basic = message("test_msgs/BasicTypes").arrow
    assert (basic.field("byte_value").type, basic.field("char_value").type) == (pa.uint8(), pa.uint8())


def test_a_service_and_an_action_have_the_messages_that_ros_makes() -> None:
    service = LIBRARY.service("std_srvs/SetBool")
    assert service.dds_name == "std_srvs::srv::dds_::SetBool_"
    assert service.request.dds_name == "std_srvs::srv::dds_::SetBool_Request_"
    assert service.response.arrow == pa.struct([("success", pa.bool_()), ("message", pa.string())])
    assert [field.name for field in service.event.fields] == ["info", "request", "response"]
    action = LIBRARY.action("example_interfaces/Fibonacci")
    assert action.goal.arrow == pa.struct([("order", pa.int32())])
    assert [field.name for field in action.send_goal.request.fields] == ["goal_id", "goal"]
    assert [field.name for field in action.get_result.response.fields] == ["status", "result"]
    assert [field.name for field in action.feedback_message.fields] == ["goal_id", "feedback"]
    assert LIBRARY.message("std_srvs/srv/SetBool_Event").hash == service.event.hash


def test_constants_are_known_by_name() -> None:
    assert message("sensor_msgs/PointField").constants["FLOAT32"] == 7
    assert message("test_msgs/Constants").constants["FLOAT32_CONST"] == 1.125


def test_the_text_of_a_definition_has_all_that_it_needs() -> None:
    text = message("geometry_msgs/PointStamped").definition_text()
    line = "=" * 80
    parts = text.split(line + "\n")
    assert [part.splitlines()[0] for part in parts[1:]] == [
        "MSG: builtin_interfaces/Time",
        "MSG: geometry_msgs/Point",
        "MSG: std_msgs/Header",
    ]
    assert parts[0] == "std_msgs/Header header\ngeometry_msgs/Point point\n"


@pytest.mark.parametrize(
    "name",
    [
        *("sensor_msgs/msg/PointCloud2", "geometry_msgs/msg/Quaternion", "test_msgs/msg/Arrays"),
        "test_msgs/action/Fibonacci_FeedbackMessage",
    ],
)
def test_the_text_of_a_definition_can_be_read_again(name: str) -> None:
    from dora.ros2.types.definition import full_name
    from dora.ros2.types.msg_text import read_message

    kind = message(name)
    first, *others = kind.definition_text().split("=" * 80 + "\n")
    texts = {name: first}
    for part in others:
        named, text = part.split("\n", 1)
        texts[full_name(named.removeprefix("MSG: "), "msg")] = text
    for one, text in texts.items():
        assert read_message(text, one).fields == LIBRARY.definition(one).fields


# Bytes.


@pytest.mark.parametrize(
    ("name", "value", "data"), RECORDED["messages"], ids=[one[0] for one in RECORDED["messages"]]
)
def test_bytes_are_those_of_a_real_ros(name: str, value: dict[str, Any], data: str) -> None:
    kind = message(name)
    sent = bytes.fromhex(data)
    assert kind.encode(value).hex() == data
    array = kind.decode(sent)
    array.validate(full=True)
    assert (len(array), array.type) == (1, kind.arrow)
    assert kind.encode(array) == sent
    assert kind.encode(array[0]) == sent
    assert kind.encode(array.to_pylist()[0]) == sent
    for names, expected in value.items():
        assert_like(array.to_pylist()[0][names], expected)


def assert_like(found: Any, expected: Any) -> None:
    """Compare a value with what was sent, of which fields may be left out."""
    if isinstance(expected, dict):
        for name, one in expected.items():
            assert_like(found[name], one)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_like(one, other)
    else:
        assert found == expected


STANDARD = [name for name in LIBRARY.names("msg") if not name.startswith("test_msgs/")]
SOME = sorted(
    {
        *STANDARD[::6],
        "sensor_msgs/msg/PointCloud2",
        "visualization_msgs/msg/Marker",
        "tf2_msgs/msg/TFMessage",
    }
)


@pytest.mark.lengthy
@pytest.mark.parametrize(
    "name",
    [
        *SOME,
        *(
            f"test_msgs/msg/{one}"
            for one in ("Arrays", "BoundedSequences", "UnboundedSequences", "WStrings")
        ),
    ],
)
@settings(max_examples=15)
@given(data=st.data())
def test_what_is_sent_comes_back(name: str, data: st.DataObject) -> None:
    kind = message(name)
    value = data.draw(values_of(kind, LIBRARY))
    sent = kind.encode(value)
    array = kind.decode(sent)
    array.validate(full=True)
    assert_like(array.to_pylist()[0], value)
    assert kind.encode(array) == kind.encode(array.to_pylist()[0]) == sent
    # Values that lie elsewhere in memory, and types of other widths.
    sliced = pa.concat_arrays([array, array]).slice(1)
    assert kind.encode(sliced) == sent


@pytest.mark.lengthy
@pytest.mark.parametrize("name", SOME)
@settings(max_examples=15)
@given(data=st.data())
def test_rosbags_reads_the_same_and_its_big_endian_messages_are_read(
    name: str, data: st.DataObject
) -> None:
    """rosbags has a codec of its own; it is the only one at hand that writes big-endian messages."""
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_KILTED)
    if name not in store.fielddefs:
        return
    kind = message(name)
    ours = kind.encode(data.draw(values_of(kind, LIBRARY)))
    theirs = store.deserialize_cdr(ours, name)
    assert bytes(store.serialize_cdr(theirs, name)) == ours
    big = bytes(store.serialize_cdr(theirs, name, little_endian=False))
    assert big[:2] == b"\0\0"
    array = kind.decode(big)
    array.validate(full=True)
    assert kind.encode(array) == ours


def test_bytes_after_a_message_are_ignored_as_in_ros() -> None:
    kind = message("sensor_msgs/JointState")
    sent = kind.encode({"name": ["a"]})
    assert kind.decode(sent + b"\x4e\x13\x07\x66\xff").to_pylist() == kind.decode(sent).to_pylist()


def test_a_text_that_is_no_utf8_is_shown_as_rclpy_shows_it() -> None:
    kind = message("std_msgs/String")
    assert kind.decode(b"\0\1\0\0\3\0\0\0\xffa\0").to_pylist() == [{"data": "\N{REPLACEMENT CHARACTER}a"}]
    assert kind.decode(b"\0\1\0\0\2\0\0\0ab").to_pylist() == [{"data": "ab"}]  # a sender without the zero
    assert kind.decode(b"\0\1\0\0\0\0\0\0").to_pylist() == [{"data": ""}]


# Memory.


def big_image() -> dict[str, Any]:
    return {"height": 480, "width": 640, "encoding": "rgb8", "data": np.arange(921600).astype(np.uint8)}


@pytest.mark.parametrize("copy", [bytes, bytearray, pa.py_buffer, memoryview])
def test_the_bytes_of_an_image_are_not_copied(copy: Any) -> None:
    kind = message("sensor_msgs/Image")
    sent = copy(kind.encode(big_image()))
    start = pa.py_buffer(sent).address
    data = kind.decode(sent).field("data")
    address = data.values.buffers()[1].address
    assert start < address < start + len(sent)
    assert np.array_equal(data.values.to_numpy(), big_image()["data"])


def test_numbers_are_not_copied_if_they_lie_well_and_aligned_if_not() -> None:
    kind = message("std_msgs/Float64MultiArray")
    sent = kind.encode({"data": np.arange(1000.0)})
    memory = np.zeros(len(sent) + 16, np.uint8)
    for shift in range(8):
        start = -memory.ctypes.data % 8 + shift
        memory[start : start + len(sent)] = np.frombuffer(sent, np.uint8)
        place = pa.py_buffer(memory).slice(start, len(sent))
        values = kind.decode(place).field("data").values
        address = values.buffers()[1].address
        assert address % 8 == 0
        assert (place.address < address < place.address + place.size) == (shift == 4)
        assert values.to_pylist() == list(range(1000))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sensor_msgs/Image", {"data": np.zeros(500_000, np.uint8)}),
        ("sensor_msgs/JointState", {"position": np.zeros(50_000), "velocity": np.zeros(50_000)}),
        ("geometry_msgs/PoseArray", {"poses": [{}] * 5_000}),
    ],
)
def test_numbers_never_become_python_objects(name: str, value: Any) -> None:
    from growth import steps

    kind = message(name)
    sent = kind.encode(value)
    array = kind.decode(sent)
    few = steps(lambda: kind.encode(kind.decode(kind.encode({}))))
    assert steps(lambda: kind.decode(sent)) < few
    assert steps(lambda: kind.encode(array)) < 3 * few


# Values that programs send.


def sends(name: str, value: Any) -> dict[str, Any]:
    kind = message(name)
    found: dict[str, Any] = kind.decode(kind.encode(value)).to_pylist()[0]
    return found


@pytest.mark.parametrize(
    "numbers",
    [
        [1, 2],
        (1, 2),
        b"\1\2",
        bytearray(b"\1\2"),
        memoryview(b"\1\2"),
        memoryview(b"\1\0\2")[::2],
        np.array([1, 2], np.uint8),
        np.array([1, 2], np.int64),
        np.array([1, 0, 2], np.uint8)[::2],
        pa.array([1, 2]),
        pa.array([1, 2], pa.uint8()),
        pa.array([9, 1, 2], pa.uint8()).slice(1),
        pa.array([1, 2]).dictionary_encode(),
    ],
    ids=lambda one: f"{type(one).__name__} {getattr(one, 'dtype', '')}{getattr(one, 'type', '')}",
)
def test_numbers_may_lie_in_any_container(numbers: Any) -> None:
    assert sends("sensor_msgs/Image", {"data": numbers})["data"] == [1, 2]


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.list_(pa.int64()), pa.large_list(pa.uint8()), pa.list_(pa.uint8(), 2), pa.list_(pa.int8())),
        *(pa.binary(), pa.large_binary(), pa.binary(2)),
    ],
    ids=str,
)
def test_arrow_lists_of_any_form_are_sent(kind: pa.DataType) -> None:
    values = b"\1\2" if "binary" in str(kind) else [1, 2]
    array = pa.array([{"data": values}] * 2, pa.struct([("data", kind)])).slice(1)
    assert sends("sensor_msgs/Image", array)["data"] == [1, 2]


def test_bools_of_numpy_are_sent() -> None:
    assert sends("std_msgs/Bool", {"data": np.True_}) == {"data": True}


def test_a_message_is_read_from_bytes_with_gaps() -> None:
    kind = message("std_msgs/String")
    data = kind.encode({"data": "hello"})
    apart = memoryview(bytes(byte for pair in zip(data, bytes(len(data)), strict=True) for byte in pair))
    assert kind.decode(apart[::2]).to_pylist() == [{"data": "hello"}]
    with pytest.raises(MalformedMessage):
        kind.decode(apart[::4])


def test_fields_that_are_missing_or_null_get_their_default() -> None:
    assert sends("geometry_msgs/Pose", {})["orientation"] == {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}
    array = pa.array(
        [{"orientation": {"x": 2.0, "w": None}, "position": None}],
        pa.struct(
            [
                ("orientation", pa.struct([("x", pa.float64()), ("w", pa.float64())])),
                ("position", pa.null()),
            ]
        ),
    )
    assert sends("geometry_msgs/Pose", array)["orientation"] == {"x": 2.0, "y": 0.0, "z": 0.0, "w": 1.0}
    assert sends("test_msgs/Defaults", {"int8_value": None})["int8_value"] == -50
    poses = pa.array(
        [{"poses": [None, {"orientation": None}]}],
        pa.struct([("poses", pa.list_(pa.struct([("orientation", pa.struct([("w", pa.float64())]))])))]),
    )
    assert [pose["orientation"]["w"] for pose in sends("geometry_msgs/PoseArray", poses)["poses"]] == [
        1.0,
        1.0,
    ]


def test_integers_fit_into_floats_and_into_other_integers() -> None:
    assert sends("geometry_msgs/Point", {"x": 2, "y": np.float32(0.5), "z": np.int16(-1)}) == {
        "x": 2.0,
        "y": 0.5,
        "z": -1.0,
    }
    assert sends("std_msgs/UInt8", pa.array([{"data": 200}]))["data"] == 200
    assert sends("geometry_msgs/Polygon", pa.array([{"points": [{"x": 1.0, "y": 2.0, "z": 3.0}]}]))[
        "points"
    ] == [{"x": 1.0, "y": 2.0, "z": 3.0}]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "std_msgs/UInt8",
            {"data": 256},
            "field 'data' of std_msgs/msg/UInt8: expected uint8 (0 to 255), got int 256",
        ),
        ("std_msgs/UInt8", {"data": 1.0}, "expected uint8 (0 to 255), got float 1.0"),
        ("std_msgs/UInt8", pa.array([{"data": -1}]), "expected uint8 (0 to 255), got int -1"),
        ("std_msgs/Float32", {"data": 1e300}, "expected float32, got float 1e+300"),
        (
            "std_msgs/Float64",
            {"data": np.zeros(2)},
            "expected float64, got an array of float64 with the shape (2,)",
        ),
        (
            "geometry_msgs/PoseArray",
            pa.array([{"poses": []}], pa.struct([("poses", pa.list_(pa.struct([("a", pa.int8())])))])),
            "field 'poses.a' of geometry_msgs/msg/PoseArray: expected one of position, orientation",
        ),
        ("std_msgs/Float64", {"data": "1"}, "expected float64, got str '1'"),
        ("std_msgs/Bool", {"data": 1}, "expected bool, got int 1"),
        ("std_msgs/String", {"data": b"a"}, "expected a string, got bytes b'a'"),
        (
            "std_msgs/String",
            {"data": "\ud800"},
            "expected Unicode text, got a string with half of a surrogate pair",
        ),
        (
            "std_msgs/String",
            {"text": "a"},
            "field 'text' of std_msgs/msg/String: expected one of data, got a field that",
        ),
        (
            "std_msgs/Empty",
            {"a": 1},
            "expected a message without fields, got a field that the type does not have",
        ),
        (
            "std_msgs/String",
            "a",
            "std_msgs/msg/String: expected a dictionary, or an Arrow struct array of one row, got a str",
        ),
        ("std_msgs/String", pa.array(["a"]), "got an Arrow array of string"),
        (
            "std_msgs/String",
            pa.array([{"data": "a"}] * 2),
            "expected a struct array of one row, got 2 rows",
        ),
        (
            "std_msgs/String",
            pa.array([{"text": "a"}]),
            "field 'text' of std_msgs/msg/String: expected one of data",
        ),
        (
            "geometry_msgs/Pose",
            {"position": [1, 2, 3]},
            "field 'position' of geometry_msgs/msg/Pose: expected a message, as a d",
        ),
        (
            "geometry_msgs/Pose",
            {"position": {"a": 1}},
            "field 'position.a' of geometry_msgs/msg/Pose: expected one of x, y, z",
        ),
        (
            "geometry_msgs/Pose",
            pa.array([{"position": 1}]),
            "field 'position' of geometry_msgs/msg/Pose: expected a message, as an",
        ),
        ("sensor_msgs/Imu", {"orientation_covariance": [1.0]}, "expected 9 elements, got 1"),
        ("sensor_msgs/Imu", pa.array([{"orientation_covariance": [1.0]}]), "expected 9 elements, got 1"),
        (
            "sensor_msgs/Image",
            {"data": [1, 256]},
            "field 'data[1]' of sensor_msgs/msg/Image: expected uint8 (0 to 255), got int 256",
        ),
        (
            "sensor_msgs/Image",
            {"data": np.array([1, -1])},
            "field 'data[1]' of sensor_msgs/msg/Image: expected uint8 (0 to 255), got int -1",
        ),
        ("sensor_msgs/Image", {"data": np.zeros(2)}, "expected numbers of uint8, got an array of float64"),
        ("sensor_msgs/Image", {"data": np.zeros((2, 2), np.uint8)}, "expected numbers in one dimension"),
        ("sensor_msgs/Image", {"data": 5}, "expected a list of uint8 (0 to 255), got int 5"),
        ("sensor_msgs/Image", {"data": "abc"}, "expected a list of uint8 (0 to 255), got str 'abc'"),
        (
            "sensor_msgs/Image",
            pa.array([{"data": [1, None]}]),
            "field 'data[1]' of sensor_msgs/msg/Image: expected uint8 (0 to 255), got None",
        ),
        (
            "sensor_msgs/Image",
            pa.array([{"data": ["a"]}]),
            "expected numbers of uint8, got an Arrow array of string",
        ),
        (
            "sensor_msgs/Image",
            pa.array([{"data": 1}]),
            "expected a list (a sequence), got an Arrow array of int64",
        ),
        ("sensor_msgs/LaserScan", {"ranges": np.array([1.0, 1e300])}, "field 'ranges[1]'"),
        (
            "sensor_msgs/JointState",
            {"name": ["a", 1]},
            "field 'name[1]' of sensor_msgs/msg/JointState: expected a string, got int 1",
        ),
        ("sensor_msgs/JointState", {"name": "ab"}, "expected a list of strings, got str 'ab'"),
        (
            "geometry_msgs/PoseArray",
            {"poses": [{}, {"position": {"x": "a"}}]},
            "field 'poses[1].position.x' of geometry_msgs/msg/PoseArray",
        ),
        ("geometry_msgs/PoseArray", {"poses": {}}, "expected a list of messages, got a dict"),
        (
            "geometry_msgs/PoseArray",
            pa.array([{"poses": [{"position": {"x": "a"}}]}]),
            "field 'poses[0].position.x'",
        ),
        (
            "visualization_msgs/MarkerArray",
            {"markers": [{}, {"points": [{}, {}, {"x": "a"}]}]},
            "field 'markers[1].points[2].x'",
        ),
        (
            "test_msgs/Strings",
            {"bounded_string_value": "a" * 23},
            "expected at most 22 characters, got a string with 23",
        ),
        (
            "test_msgs/BoundedSequences",
            {"int8_values": [1] * 4},
            "field 'int8_values' of test_msgs/msg/BoundedSequences: expected at most 3 elements, got 4",
        ),
        (
            "std_msgs/Float32MultiArray",
            {"data": [0, 10**400]},
            "field 'data[1]' of std_msgs/msg/Float32MultiArray: expected float32, got int of 1329 bits",
        ),
        (
            "std_msgs/Float32MultiArray",
            {"data": [0, 10**39]},
            "field 'data[1]' of std_msgs/msg/Float32MultiArray: expected float32, got float 1e+39",
        ),
        ("std_msgs/Float64", {"data": 10**400}, "expected float64, got int of 1329 bits"),
        (
            "std_msgs/String",
            pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["data", "data"]),
            "std_msgs/msg/String: expected each field once, got two fields 'data'",
        ),
        (
            "test_msgs/BoundedSequences",
            {"bool_values": [1]},
            "field 'bool_values[0]' of test_msgs/msg/BoundedSequences: expected bool, got int 1",
        ),
    ],
    ids=str,
)
def test_a_value_that_does_not_fit_is_named_with_its_field(name: str, value: Any, said: str) -> None:
    with pytest.raises(ValueMismatch) as error:
        message(name).encode(value)
    assert said in str(error.value)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


NO_UTF8 = pa.Array.from_buffers(
    pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], "i4")), pa.py_buffer(b"\xff\xff")]
)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "std_msgs/Int32",
            pa.array([{"data": 5}], pa.struct([("data", pa.timestamp("ns"))])),
            "field 'data' of std_msgs/msg/Int32: expected int32 (-2147483648 to 2147483647), got",
        ),
        (
            "std_msgs/Int32",
            pa.array([{"data": 5}], pa.struct([("data", pa.duration("ns"))]))[0],
            "field 'data' of std_msgs/msg/Int32: expected int32",
        ),
        (
            "std_msgs/Float64",
            pa.array([{"data": 2**62}], pa.struct([("data", pa.timestamp("s"))])),
            "field 'data' of std_msgs/msg/Float64: expected float64, got",
        ),
        (
            "std_msgs/Float64",
            pa.array([{"data": 0}], pa.struct([("data", pa.timestamp("s", "No/Where"))])),
            "field 'data' of std_msgs/msg/Float64: expected float64, got",
        ),
        (
            "std_msgs/String",
            pa.array([{"data": 5}], pa.struct([("data", pa.time64("ns"))])),
            "field 'data' of std_msgs/msg/String: expected a string, got",
        ),
        (
            "std_msgs/String",
            pa.StructArray.from_arrays([NO_UTF8], names=["data"]),
            "field 'data' of std_msgs/msg/String: expected a string, got an Arrow array of string that",
        ),
        (
            "sensor_msgs/JointState",
            pa.StructArray.from_arrays([pa.ListArray.from_arrays([0, 1], NO_UTF8)], names=["name"]),
            "field 'name' of sensor_msgs/msg/JointState: expected a list of strings, got",
        ),
        (
            "sensor_msgs/JointState",
            {"name": NO_UTF8},
            "field 'name' of sensor_msgs/msg/JointState: expected a list of strings, got",
        ),
        (
            "geometry_msgs/PoseArray",
            {"poses": pa.array([5], pa.timestamp("ns"))},
            "field 'poses' of geometry_msgs/msg/PoseArray: expected a list of messages, got",
        ),
        (
            "geometry_msgs/PoseArray",
            pa.array(
                [{"poses": [{"position": {"x": 5}}]}],
                pa.struct(
                    [("poses", pa.list_(pa.struct([("position", pa.struct([("x", pa.duration("ns"))]))])))]
                ),
            ),
            "field 'poses[0].position.x' of geometry_msgs/msg/PoseArray: expected float64, got",
        ),
    ],
    ids=map(str, count()),
)
def test_a_value_that_python_has_no_form_for_is_named_with_its_field(
    name: str, value: Any, said: str
) -> None:
    with pytest.raises(ValueMismatch) as error:
        message(name).encode(value)
    assert said in str(error.value)


# Bytes of strangers.


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("std_msgs/Bool", "", "it has 0 bytes, but the header alone has 4"),
        ("std_msgs/Bool", "0001", "it has 2 bytes, but the header alone has 4"),
        ("std_msgs/Bool", "0007000001", "its encoding is 0x0007, but ROS sends plain XCDR version 1"),
        ("std_msgs/Bool", "4869212101", "it begins with 0x4869, which is no encoding of CDR"),
        ("std_msgs/Bool", "00010000", "it ends within a value: it has 4 bytes"),
        ("std_msgs/Bool", "0001000002", "field 'data' has a bool that is neither 0 nor 1"),
        (
            "std_msgs/String",
            "00010000ffffffff",
            "field 'data' claims 4294967295 bytes of text, but 0 are left",
        ),
        ("std_msgs/String", "00010000030000006100", "field 'data' claims 3 bytes of text, but 2 are left"),
        (
            "sensor_msgs/JointState",
            "0001000000000000000000000100000000000000ffffff7f",
            "field 'name' claims 2147483647 elements",
        ),
        (
            "std_msgs/Int8MultiArray",
            "00010000ffffffff",
            "field 'layout.dim' has 4294967295 elements, but the type says a sequence",
        ),
        (
            "std_msgs/Int8MultiArray",
            "0001000000000000000000000500000001",
            "field 'data' claims 5 elements, but 1 bytes are left",
        ),
        (  # the gap before the number is there, and half of the number
            "std_msgs/Float64MultiArray",
            "00010000000000000000000001000000" + "00" * 8,
            "field 'data' claims 1 elements, but 4 bytes are left",
        ),
        (
            "geometry_msgs/PoseWithCovariance",
            "00010000" + "00" * 56 + "00" * 100,
            "field 'covariance' claims 36 elements, but 100 bytes are left",
        ),
        (  # the gap before the pose is there, and a part of the pose
            "geometry_msgs/PoseArray",
            "00010000" + "00" * 8 + "0100000000000000" + "01000000" + "00" * 56,
            "it ends within a value: it has 80 bytes",
        ),
        (
            "test_msgs/WStrings",
            "0001000001000000ffffff00",
            "field 'wstring_value' has a wide character of more than 16 bits",
        ),
        ("test_msgs/WStrings", "0001000001000040", "field 'wstring_value' claims 1073741825 characters"),
        (
            "test_msgs/BoundedSequences",
            "000100000400000001010101",
            "field 'bool_values' has 4 elements, but the type says at most 3",
        ),
    ],
)
def test_bytes_that_are_no_message_are_refused(name: str, data: str, said: str) -> None:
    kind = message(name)
    for convert in (kind.decode, kind.transcode):
        with pytest.raises(MalformedMessage) as error:
            convert(bytes.fromhex(data))
        assert said in str(error.value)


def test_a_length_takes_no_memory_before_it_is_believed() -> None:
    import tracemalloc

    lies = [b"\0\1\0\0" + struct.pack("<I", n) + bytes(64) for n in (2**31 - 1, 2**24, 77)]
    names = (
        "std_msgs/String",
        "std_msgs/Int8MultiArray",
        "geometry_msgs/Polygon",
        "tf2_msgs/TFMessage",
        "test_msgs/WStrings",
    )
    kinds = [message(name) for name in names]
    for kind in kinds:
        kind.decode(kind.encode({}))
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        for kind in kinds:
            for lie in lies:
                with pytest.raises(MalformedMessage):
                    kind.decode(lie)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert pa.total_allocated_bytes() == before


# The library.


def test_a_name_finds_the_type_in_its_short_and_its_full_form() -> None:
    assert message("std_msgs/String") is message("std_msgs/msg/String")
    assert LIBRARY.service("std_srvs/srv/SetBool") is LIBRARY.service("std_srvs/SetBool")
    assert LIBRARY.action("test_msgs/Fibonacci") is LIBRARY.action("test_msgs/action/Fibonacci")


def write(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    "place",
    ["my_msgs/msg", "share/my_msgs/msg", "src/robot/my_msgs/msg"],
    ids=["plain", "installed", "workspace"],
)
def test_own_packages_are_found_in_folders(place: str, tmp_path: Path) -> None:
    write(tmp_path, f"{place}/Cell.msg", "geometry_msgs/Point at\nuint8 level\n")
    write(tmp_path, f"{place}/Grid.msg", "std_msgs/Header header\nCell[] cells\n")
    library = InterfaceLibrary([tmp_path], prefixes=[])
    grid = library.message("my_msgs/Grid")
    assert grid.arrow.field("cells").type.value_type.field("level").type == pa.uint8()
    assert "my_msgs/msg/Grid" in library.names()
    assert "MSG: my_msgs/Cell" in grid.definition_text()


def test_a_folder_may_be_the_package_itself(tmp_path: Path) -> None:
    write(tmp_path, "my_msgs/srv/Ask.srv", "---\nbool yes\n")
    library = InterfaceLibrary([tmp_path / "my_msgs"], prefixes=[])
    assert library.service("my_msgs/Ask").response.arrow == pa.struct([("yes", pa.bool_())])


def test_folders_come_before_an_installation_and_both_before_the_standard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "ros/share/std_msgs/msg/String.msg", "string installed\n")
    write(tmp_path, "own/std_msgs/msg/String.msg", "string own\n")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'missing'}:{tmp_path / 'ros'}")
    first = InterfaceLibrary([tmp_path / "own"]).message("std_msgs/String")
    second = InterfaceLibrary().message("std_msgs/String")
    third = InterfaceLibrary(prefixes=[]).message("std_msgs/String")
    assert [one.fields[0].name for one in (first, second, third)] == ["own", "installed", "data"]


def test_an_idl_is_read_where_there_is_no_msg(tmp_path: Path) -> None:
    write(tmp_path, "a/msg/B.idl", "module a { module msg { struct B { @default (value=5) long x; }; }; };")
    write(
        tmp_path,
        "a/srv/C.idl",
        "module a { module srv { struct C_Request { long x; }; struct C_Response { long y; }; }; };",
    )
    library = InterfaceLibrary([tmp_path], prefixes=[])
    assert library.message("a/B").encode({}).hex() == "0001000005000000"
    assert library.message("a/B").definition_text() == "int32 x 5\n"
    assert library.service("a/C").response.arrow == pa.struct([("y", pa.int32())])


def test_distributions_differ_and_one_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    humble = InterfaceLibrary(prefixes=[], distribution="humble")
    assert "variance" not in humble.message("sensor_msgs/Range").arrow.names
    assert humble.service("std_srvs/SetBool").hash == LIBRARY.service("std_srvs/SetBool").hash
    monkeypatch.setenv("ROS_DISTRO", "lyrical")
    assert "rosgraph_msgs/msg/Node" in InterfaceLibrary().names()
    with pytest.raises(
        DefinitionError, match="no message types are known of the ROS distribution 'groovy'; known are hum"
    ):
        InterfaceLibrary(prefixes=[], distribution="groovy").message("std_msgs/String")


def test_an_unknown_type_says_where_it_was_looked_for_and_what_is_near(tmp_path: Path) -> None:
    with pytest.raises(TypeNotFound) as error:
        InterfaceLibrary([tmp_path], prefixes=["/opt/ros/x"], distribution="jazzy").message(
            "sensor_msgs/Imge"
        )
    assert str(error.value) == (
        f"there is no message type 'sensor_msgs/msg/Imge'; looked in {tmp_path}, "
        "AMENT_PREFIX_PATH (/opt/ros/x), the standard packages of Jazzy; near: sensor_msgs/msg/Image"
    )
    with pytest.raises(
        TypeNotFound,
        match=r"no service type 'std_srvs/srv/SetBol'; .*\(AMENT_PREFIX_PATH is empty\).*SetBool",
    ):
        LIBRARY.service("std_srvs/SetBol")
    with pytest.raises(TypeNotFound, match="no action type 'test_msgs/action/Fibo'"):
        LIBRARY.action("test_msgs/Fibo")
    with pytest.raises(TypeNotFound, match="near: geometry_msgs/msg/Twist"):
        LIBRARY.message("std_msgs/Twist")


def test_a_type_that_another_type_needs_is_missed_at_once(tmp_path: Path) -> None:
    write(tmp_path, "a/msg/B.msg", "c/D[] d\n")
    write(tmp_path, "a/msg/Self.msg", "Self[] again\n")
    write(tmp_path, "a/msg/Bad.msg", "int32\n")
    write(tmp_path, "a/msg/Wrong.idl", "module a { module msg { struct Other { long x; }; }; };")
    library = InterfaceLibrary([tmp_path], prefixes=[])
    with pytest.raises(TypeNotFound, match="no message type 'c/msg/D'"):
        library.message("a/B")
    with pytest.raises(DefinitionError, match="has a field of its own type"):
        library.message("a/Self")
    with pytest.raises(
        DefinitionError, match=r"Bad\.msg: a/msg/Bad, line 1: neither a field nor a constant"
    ):
        library.message("a/Bad")
    with pytest.raises(DefinitionError, match=r"Wrong\.idl does not define a/msg/Wrong"):
        library.message("a/Wrong")
    with pytest.raises(DefinitionError, match="missing is no folder with message types"):
        InterfaceLibrary([tmp_path / "missing"])


def test_without_rosbags_services_work_and_other_types_name_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    from dora.ros2.types import standard

    standard.standard_messages.cache_clear()
    monkeypatch.setitem(sys.modules, "rosbags.typesys", None)
    try:
        library = InterfaceLibrary(prefixes=[])
        assert library.service("std_srvs/SetBool").hash == LIBRARY.service("std_srvs/SetBool").hash
        assert library.action("example_interfaces/Fibonacci").feedback_message.encode({})
        with pytest.raises(TypeNotFound, match=r'which pip install "dora-dataflow\[ros2\]" brings'):
            library.message("sensor_msgs/Image")
    finally:
        standard.standard_messages.cache_clear()
