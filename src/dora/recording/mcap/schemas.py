"""The Protobuf messages of a recording: those of Foxglove that viewers know, and dora's own for the rest.

The names, numbers and types of the fields under ``foxglove.`` are those of https://docs.foxglove.dev/docs/sdk/schemas
"""

from __future__ import annotations

from functools import cache
from typing import Final

from dora.recording.mcap.protobuf import (
    BYTES,
    DOUBLE,
    FIXED32,
    FIXED64,
    FLOAT,
    INT32,
    INT64,
    SFIXED32,
    SFIXED64,
    STRING,
    Enum,
    Field,
    descriptor_set,
)

_TIMESTAMP: Final = "google.protobuf.Timestamp"


_LEVEL: Final = Enum("Level", ("UNKNOWN", "DEBUG", "INFO", "WARNING", "ERROR", "FATAL"))
_NUMERIC_TYPE: Final = Enum(
    "NumericType",
    ("UNKNOWN", "UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "FLOAT32", "FLOAT64"),
)


def _one(name: str, number: int, kind: int | str | Enum) -> Field:
    return name, number, kind, False


MESSAGES: Final[dict[str, tuple[Field, ...]]] = {
    # dora's own: plain values, where Protobuf has a type of the same bytes; `bytes` where it has none
    "dora.Float64": (("values", 1, DOUBLE, True),),
    "dora.Float32": (("values", 1, FLOAT, True),),
    "dora.Int64": (("values", 1, SFIXED64, True),),
    "dora.Int32": (("values", 1, SFIXED32, True),),
    "dora.UInt64": (("values", 1, FIXED64, True),),
    "dora.UInt32": (("values", 1, FIXED32, True),),
    "dora.UInt8": (_one("values", 1, BYTES),),
    "dora.Int8": (_one("values", 1, BYTES),),
    "dora.Int16": (_one("values", 1, BYTES),),
    "dora.UInt16": (_one("values", 1, BYTES),),
    "dora.Float16": (_one("values", 1, BYTES),),
    # an encapsulated record batch, or a stream, of Arrow's IPC format
    "dora.Arrow": (_one("data", 1, BYTES),),
    "foxglove.RawImage": (
        _one("timestamp", 1, _TIMESTAMP),
        _one("width", 2, FIXED32),
        _one("height", 3, FIXED32),
        _one("encoding", 4, STRING),
        _one("step", 5, FIXED32),
        _one("data", 6, BYTES),
        _one("frame_id", 7, STRING),
    ),
    "foxglove.CompressedImage": (
        _one("timestamp", 1, _TIMESTAMP),
        _one("data", 2, BYTES),
        _one("format", 3, STRING),
        _one("frame_id", 4, STRING),
    ),
    "foxglove.PointCloud": (
        _one("timestamp", 1, _TIMESTAMP),
        _one("frame_id", 2, STRING),
        _one("pose", 3, "foxglove.Pose"),
        _one("point_stride", 4, FIXED32),
        ("fields", 5, "foxglove.PackedElementField", True),
        _one("data", 6, BYTES),
    ),
    "foxglove.PoseInFrame": (
        _one("timestamp", 1, _TIMESTAMP),
        _one("frame_id", 2, STRING),
        _one("pose", 3, "foxglove.Pose"),
    ),
    "foxglove.FrameTransform": (
        _one("timestamp", 1, _TIMESTAMP),
        _one("parent_frame_id", 2, STRING),
        _one("child_frame_id", 3, STRING),
        _one("translation", 4, "foxglove.Vector3"),
        _one("rotation", 5, "foxglove.Quaternion"),
    ),
    "foxglove.Log": (
        _one("timestamp", 1, _TIMESTAMP),
        _one("level", 2, _LEVEL),
        _one("message", 3, STRING),
        _one("name", 4, STRING),
        _one("file", 5, STRING),
        _one("line", 6, FIXED32),
    ),
    "foxglove.PackedElementField": (
        _one("name", 1, STRING),
        _one("offset", 2, FIXED32),
        _one("type", 3, _NUMERIC_TYPE),
    ),
    "foxglove.Pose": (
        _one("position", 1, "foxglove.Vector3"),
        _one("orientation", 2, "foxglove.Quaternion"),
    ),
    "foxglove.Vector3": tuple(_one(name, number, DOUBLE) for number, name in enumerate("xyz", 1)),
    "foxglove.Quaternion": tuple(_one(name, number, DOUBLE) for number, name in enumerate("xyzw", 1)),
    _TIMESTAMP: (_one("seconds", 1, INT64), _one("nanos", 2, INT32)),
}


@cache
def schema_data(name: str) -> bytes:
    """Return the description of a message and of all that it is made of, for the schema record."""
    needed: dict[str, tuple[Field, ...]] = {}

    def need(message: str) -> None:
        needed.pop(message, None)  # what is used later has to be described earlier
        needed[message] = MESSAGES[message]
        for _, _, kind, _ in MESSAGES[message]:
            if isinstance(kind, str):
                need(kind)

    need(name)
    return descriptor_set(needed)
