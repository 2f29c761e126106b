"""Messages of each kind, as values that both sides make messages of. Processes with ROS import it, too."""

from __future__ import annotations

from typing import Any, NamedTuple


class Sample(NamedTuple):
    """A message: the name of its type, and its fields."""

    type: str
    value: dict[str, Any]


def _pattern(size: int) -> bytes:
    """Return bytes in which no part is like its neighbours."""
    step = bytes(range(256)) + bytes(range(255, 0, -2))
    return (step * (size // len(step) + 1))[:size]


_HEADER = {"stamp": {"sec": 12, "nanosec": 345_678_901}, "frame_id": "rahmen-ä"}
_BASIC = {"bool_value": True, "float64_value": 1.5, "int8_value": -7, "uint64_value": 1 << 63}
_ARRAYS = {
    "bool_values": [True, False, True],
    "int16_values": [-1, 0, 32767],
    "float64_values": [0.25, -1e300, 3.0],
    "string_values": ["a", "", "grüße"],
    "basic_types_values": [_BASIC, {}, {"float32_value": -0.5}],
}
_SEQUENCES = {
    "float32_values": [0.5, 1.5],
    "string_values": ["eins", "zwei", ""],
    "basic_types_values": [_BASIC, _BASIC],
    "alignment_check": 4,
}

SAMPLES = {
    "text": Sample("std_msgs/msg/String", {"data": "grüße"}),
    "empty": Sample("std_msgs/msg/Empty", {}),
    "image": Sample(
        "sensor_msgs/msg/Image",
        {
            "header": _HEADER,
            "height": 480,
            "width": 640,
            "encoding": "rgb8",
            "step": 1920,
            "data": _pattern(921_600),
        },
    ),
    "cloud": Sample(
        "sensor_msgs/msg/PointCloud2",
        {
            "header": _HEADER,
            "height": 1,
            "width": 100_000,
            "fields": [
                {"name": name, "offset": 4 * index, "datatype": 7, "count": 1}
                for index, name in enumerate(("x", "y", "z", "intensity"))
            ],
            "point_step": 16,
            "row_step": 1_600_000,
            "data": _pattern(1_600_000),
            "is_dense": True,
        },
    ),
    "joints": Sample(
        "sensor_msgs/msg/JointState",
        {
            "header": _HEADER,
            "name": ["hip", "knee", "ankle"],
            "position": [0.1, -2.5, 3.25],
            "velocity": [1e-9],
            "effort": [],
        },
    ),
    "nested": Sample(
        "test_msgs/msg/MultiNested",
        {
            "array_of_arrays": [_ARRAYS, {}, _ARRAYS],
            "array_of_unbounded_sequences": [_SEQUENCES, {}, {}],
            "unbounded_sequence_of_arrays": [_ARRAYS, _ARRAYS],
            "unbounded_sequence_of_unbounded_sequences": [{}, _SEQUENCES],
        },
    ),
    "large": Sample(
        "std_msgs/msg/UInt8MultiArray",
        {
            "layout": {"dim": [{"label": "all", "size": 10_000_000, "stride": 1}], "data_offset": 0},
            "data": _pattern(10_000_000),
        },
    ),
}
