"""Message types against a real ROS 2, by `make ros2`: all its types are read, hashed and sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from message_values import values_of
from real_ros import RealRos

from dora.ros2 import ActionType, InterfaceLibrary, MessageType, ServiceType
from dora.ros2.types.idl_text import read_idl

pytestmark = [pytest.mark.processes, pytest.mark.ros2]

EXAMPLES = 25  # of each type


def described(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each type of an installation, and the JSON that ROS made of it."""
    for file in sorted(folder.glob("share/*/*/*.json")):
        found = json.loads(file.read_text())
        if "type_hashes" in found:
            yield f"{file.parent.parent.name}/{file.parent.name}/{file.stem}", found


def type_of(name: str, library: InterfaceLibrary) -> MessageType | ServiceType | ActionType:
    return {"msg": library.message, "srv": library.service, "action": library.action}[name.split("/")[1]](
        name
    )


def parts_of(kind: MessageType | ServiceType | ActionType) -> list[MessageType | ServiceType | ActionType]:
    """Return a type and all types that ROS makes of it."""
    if isinstance(kind, ServiceType):
        return [kind, kind.request, kind.response, kind.event]
    if isinstance(kind, ActionType):
        services = parts_of(kind.send_goal) + parts_of(kind.get_result)
        return [kind, kind.goal, kind.result, kind.feedback, kind.feedback_message, *services]
    return [kind]


def message_types(folder: Path, library: InterfaceLibrary) -> list[MessageType]:
    kinds = [type_of(name, library) for name, _ in described(folder)]
    return [part for kind in kinds for part in parts_of(kind) if isinstance(part, MessageType)]


def test_every_hash_is_the_official_one(ros_folder: Path, real_types: InterfaceLibrary) -> None:
    compared = 0
    for name, official in described(ros_folder):
        hashes = {one["type_name"]: one["hash_string"] for one in official["type_hashes"]}
        for part in parts_of(type_of(name, real_types)):
            assert (part.name, part.hash) == (part.name, hashes[part.name])
            compared += 1
    assert compared >= 250


def test_every_description_is_the_official_one(ros_folder: Path, real_types: InterfaceLibrary) -> None:
    def without_defaults(one: dict[str, Any]) -> dict[str, Any]:
        fields = [{key: field[key] for key in ("name", "type")} for field in one["fields"]]
        return {"type_name": one["type_name"], "fields": fields}

    for name, official in described(ros_folder):
        expected = official["type_description_msg"]
        found = type_of(name, real_types).description
        assert found["type_description"] == without_defaults(expected["type_description"])
        assert found["referenced_type_descriptions"] == [
            without_defaults(one) for one in expected["referenced_type_descriptions"]
        ]


def test_every_idl_says_the_same_as_the_msg(ros_folder: Path, real_types: InterfaceLibrary) -> None:
    compared = 0
    for file in sorted(ros_folder.glob("share/*/*/*.idl")):
        for found in read_idl(file.read_text(), str(file)):
            package, kind, _ = found.name.split("/")
            type_of(f"{package}/{kind}/{file.stem}", real_types)
            expected = real_types.definition(found.name)
            assert found.fields == expected.fields
            if kind == "msg" and file.with_suffix(".msg").exists():
                assert {one.name: one.value for one in found.constants} == {
                    one.name: one.value for one in expected.constants
                }
            compared += 1
    assert compared >= 160


def test_the_standard_packages_have_the_types_of_the_installation(
    ros_folder: Path, real_types: InterfaceLibrary, library: InterfaceLibrary
) -> None:
    for name, _ in described(ros_folder):
        if name.startswith("test_msgs/"):
            continue
        real, standard = type_of(name, real_types), type_of(name, library)
        assert standard.hash == real.hash
        for one, other in zip(parts_of(real), parts_of(standard), strict=True):
            if isinstance(one, MessageType) and isinstance(other, MessageType):
                assert other.encode({}) == one.encode({})  # the default values
                assert dict(other.constants) == dict(one.constants)


def test_every_type_is_sent_byte_for_byte_as_rclpy_sends_it(
    ros_folder: Path, real_types: InterfaceLibrary, real_ros: RealRos
) -> None:
    kinds = message_types(ros_folder, real_types)
    assert len(kinds) >= 200
    for kind in kinds:
        compare(kind, real_types, real_ros)


def compare(kind: MessageType, library: InterfaceLibrary, real_ros: RealRos) -> None:
    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(value=values_of(kind, library))
    def same(value: dict[str, Any]) -> None:
        expected = real_ros.serialize(kind.name, value)
        data = kind.encode(value)
        # rclpy reserves a few bytes more than it needs, and leaves them in its answer.
        assert data == expected[: len(data)]
        array = kind.decode(expected)
        array.validate(full=True)
        assert array.type == kind.arrow
        assert kind.encode(array) == data
        assert kind.encode(array.to_pylist()[0]) == data
        assert real_ros.echo(kind.name, data)[: len(data)] == data

    same()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("std_msgs/msg/Empty", {}),
        ("std_msgs/msg/Bool", {"data": True}),
        ("std_msgs/msg/String", {"data": "höllo"}),
        ("sensor_msgs/msg/JointState", {"name": ["a"], "position": [1.0], "effort": [2.0, 3.0]}),
        ("test_msgs/msg/WStrings", {"wstring_value": "ä𝄞", "unbounded_sequence_of_wstrings": ["", "b"]}),
        ("sensor_msgs/msg/Image", {"height": 1, "width": 3, "encoding": "mono8", "data": [1, 2, 3]}),
        ("geometry_msgs/msg/PoseArray", {"poses": [{"position": {"x": 1.0}}, {}]}),
    ],
)
def test_a_subscription_gets_the_bytes_that_we_would_send(
    name: str, value: dict[str, Any], real_types: InterfaceLibrary, real_ros: RealRos
) -> None:
    assert real_ros.wire(name, value) == real_types.message(name).encode(value)


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_big_numbers_of_elements_are_sent_alike(
    data: st.DataObject, real_types: InterfaceLibrary, real_ros: RealRos
) -> None:
    count = data.draw(st.integers(0, 3000))
    name, kind = data.draw(
        st.sampled_from(
            [
                ("Float64MultiArray", np.float64),
                ("Int16MultiArray", np.int16),
                ("UInt8MultiArray", np.uint8),
            ]
        )
    )
    message = real_types.message(f"std_msgs/msg/{name}")
    numbers = np.arange(count).astype(kind)
    ours = message.encode({"data": numbers})
    theirs = real_ros.serialize(message.name, {"data": numbers.tolist()})
    assert ours == theirs[: len(ours)]
    assert message.decode(theirs).field("data").values.to_pylist() == numbers.tolist()
