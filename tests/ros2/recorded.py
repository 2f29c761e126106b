"""Answers of a real ROS 2, for tests without one: bytes and hashes, in `recorded.json`.

``DORA_ROS2_VENV=.venv-ros2 python tests/ros2/recorded.py`` asks again, and writes the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from real_ros import RealRos, folder

FILE = Path(__file__).with_name("recorded.json")

NUMBERS: dict[str, Any] = {
    "bool_value": True,
    "byte_value": 255,
    "char_value": 200,
    "float32_value": 1.5,
    "float64_value": -2.25,
    "int8_value": -128,
    "uint8_value": 255,
    "int16_value": -32768,
    "uint16_value": 65535,
    "int32_value": -(2**31),
    "uint32_value": 2**32 - 1,
    "int64_value": -(2**63),
    "uint64_value": 2**64 - 1,
}
FEW: dict[str, Any] = {
    "bool_values": [True, False],
    "byte_values": [0, 255],
    "float64_values": [1.5],
    "int16_values": [-1, 2, 3],
    "uint64_values": [2**64 - 1],
    "string_values": ["", "ä"],
    "basic_types_values": [NUMBERS, {}],
    "alignment_check": 7,
}
THREE: dict[str, Any] = {
    "bool_values": [True, False, True],
    "byte_values": [0, 1, 255],
    "float32_values": [0.5, 1.5, -1.0],
    "int64_values": [1, 2, -3],
    "string_values": ["a", "", "bcd"],
    "basic_types_values": [{}, NUMBERS, {}],
    "alignment_check": -7,
}
POSE = {"position": {"x": 1.0, "y": -2.0}, "orientation": {"z": 0.5}}
HEADER = {"stamp": {"sec": 3, "nanosec": 4}, "frame_id": "map"}

MESSAGES: list[tuple[str, dict[str, Any]]] = [
    ("std_msgs/msg/Empty", {}),
    ("std_msgs/msg/Bool", {"data": True}),
    ("std_msgs/msg/String", {"data": ""}),
    ("std_msgs/msg/String", {"data": "Grüße 𝄞"}),
    (
        "std_msgs/msg/Float64MultiArray",
        {"data": [1.0, 2.5], "layout": {"dim": [{"label": "x", "size": 2}]}},
    ),
    ("geometry_msgs/msg/Pose", {}),
    ("geometry_msgs/msg/PoseArray", {"header": HEADER, "poses": [POSE, {}]}),
    ("geometry_msgs/msg/PolygonStamped", {"polygon": {"points": [{"x": 1.0}, {"y": 2.0}, {"z": 3.0}]}}),
    ("geometry_msgs/msg/PoseWithCovarianceStamped", {"header": HEADER, "pose": {"covariance": [0.5] * 36}}),
    (
        "sensor_msgs/msg/JointState",
        {"header": HEADER, "name": ["a", "bc"], "position": [1.0], "effort": [3.0]},
    ),
    (
        "sensor_msgs/msg/Image",
        {"height": 2, "width": 2, "encoding": "mono8", "step": 2, "data": [1, 2, 3, 4]},
    ),
    ("sensor_msgs/msg/NavSatFix", {"latitude": 52.5, "position_covariance_type": 2}),
    (
        "rcl_interfaces/msg/ParameterValue",
        {"type": 9, "string_array_value": ["a", "b"], "bool_value": True},
    ),
    ("std_srvs/srv/SetBool_Response", {"success": True, "message": "done"}),
    ("test_msgs/msg/BasicTypes", NUMBERS),
    ("test_msgs/msg/Defaults", {}),
    ("test_msgs/msg/Strings", {}),
    ("test_msgs/msg/WStrings", {"wstring_value": "ä𝄞", "array_of_wstrings": ["", "a", "bc"]}),
    ("test_msgs/msg/UnboundedSequences", FEW),
    ("test_msgs/msg/BoundedSequences", {**FEW, "constants_values": [{}, {}]}),
    ("test_msgs/msg/Arrays", THREE),
    ("test_msgs/msg/MultiNested", {"unbounded_sequence_of_unbounded_sequences": [FEW, {}]}),
    ("test_msgs/action/Fibonacci_FeedbackMessage", {"feedback": {"sequence": [1, 1, 2, 3]}}),
    (
        "test_msgs/action/Fibonacci_SendGoal_Request",
        {"goal": {"order": 5}, "goal_id": {"uuid": list(range(16))}},
    ),
]


def read() -> dict[str, Any]:
    """Return what was recorded: ``messages`` with type, value and bytes, and ``hashes`` by name."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def main() -> None:
    place = folder()
    assert place is not None
    hashes: dict[str, str] = {}
    for file in sorted(place.glob("share/*/*/*.json")):
        for one in json.loads(file.read_text()).get("type_hashes", ()):
            hashes[one["type_name"]] = one["hash_string"]
    from dora.ros2 import InterfaceLibrary

    library = InterfaceLibrary(prefixes=[place])
    with RealRos() as ros:
        messages = []
        for name, value in MESSAGES:
            length = len(library.message(name).encode(value))  # rclpy leaves bytes of no meaning at the end
            messages.append([name, value, ros.serialize(name, value)[:length].hex()])
    lines = [json.dumps(one, ensure_ascii=False) for one in messages]
    text = ",\n".join(lines)
    named = json.dumps(hashes, indent=0, sort_keys=True)
    FILE.write_text(f'{{"messages": [\n{text}\n],\n"hashes": {named}}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
