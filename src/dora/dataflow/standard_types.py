"""The standard library of types: plain data, in the notation of users' own type files.

A type is an Arrow type by name, or a struct: a mapping of fields to types. Names without a slash are
Arrow types, or types of the same part of the library, or else of any other part.
"""

from __future__ import annotations

from typing import Final

ARROW: Final = (
    *("Null", "Boolean", "Utf8", "LargeBinary", "Float16", "Float32", "Float64"),
    *("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"),
)
"""Arrow types that a type may be made of, besides ``List<…>``."""

_NUMBERS = ("Float32", "Float64", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")

TYPES: Final[dict[str, dict[str, str | dict[str, str]]]] = {
    "std/core/v1": {
        **{name: name for name in _NUMBERS},
        "String": "Utf8",
        "Bytes": "LargeBinary",
        "Bool": "Boolean",
        "Null": "Null",  # what a timer sends
    },
    "std/math/v1": {
        "Vector3": {"x": "Float64", "y": "Float64", "z": "Float64"},
        "Quaternion": {"x": "Float64", "y": "Float64", "z": "Float64", "w": "Float64"},
        "Pose": {"position": "Vector3", "orientation": "Quaternion"},
        "Transform": {"translation": "Vector3", "rotation": "Quaternion"},
    },
    "std/control/v1": {
        "Twist": {"linear": "Vector3", "angular": "Vector3"},
        "JointState": {
            "names": "List<Utf8>",
            "positions": "List<Float64>",
            "velocities": "List<Float64>",
            "efforts": "List<Float64>",
        },
        "Odometry": {"pose": "Pose", "twist": "Twist", "frame_id": "Utf8"},
    },
    "std/media/v1": {
        "Image": {"width": "UInt32", "height": "UInt32", "encoding": "Utf8", "data": "LargeBinary"},
        "CompressedImage": "LargeBinary",
        "PointCloud": {"points": "LargeBinary", "width": "UInt32", "height": "UInt32"},
        "AudioFrame": {"sample_rate": "UInt32", "channels": "UInt32", "data": "LargeBinary"},
    },
    "std/vision/v1": {
        "BoundingBox": {
            **dict.fromkeys(("x", "y", "width", "height", "confidence"), "Float32"),
            "label": "Utf8",
        },
        "Detection": {"boxes": "List<BoundingBox>"},
        "Segmentation": {
            "width": "UInt32",
            "height": "UInt32",
            "num_classes": "UInt32",
            "mask": "LargeBinary",
            "class_names": "List<Utf8>",
        },
    },
}

WIDENING: Final = (
    ("Int8", "Int16"),
    ("Int16", "Int32"),
    ("Int32", "Int64"),
    ("UInt8", "UInt16"),
    ("UInt8", "UInt32"),
    ("UInt16", "UInt32"),
    ("UInt32", "UInt64"),
    ("Float32", "Float64"),
)
"""What may be sent (first) where what is expected (second): every value fits."""
