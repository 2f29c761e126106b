"""The Protobuf messages of a recording: Foxglove's, which viewers know, and dora's own for the rest.

The fields of package ``foxglove`` have the names, numbers and types of
https://docs.foxglove.dev/docs/sdk/schemas, as far as a recording needs them. The package
`foxglove-schemas-protobuf` has them all, but needs protobuf 5.29, and published nodes ask for protobuf 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from google.protobuf import timestamp_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_TIMESTAMP: Final = "google.protobuf.Timestamp"
_ENUMS: Final = {
    "Level": ("UNKNOWN", "DEBUG", "INFO", "WARNING", "ERROR", "FATAL"),
    "NumericType": ("UNKNOWN", "UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "FLOAT32", "FLOAT64"),
}
# Package → message → field → type, as in a .proto file. Fields are numbered from 1, in this order.
PACKAGES: Final[Mapping[str, Mapping[str, Mapping[str, str]]]] = {
    # Plain values, where Protobuf has a type of the same bytes; `bytes` where it has none.
    "dora": {
        "Float64": {"values": "repeated double"},
        "Float32": {"values": "repeated float"},
        "Int64": {"values": "repeated sfixed64"},
        "Int32": {"values": "repeated sfixed32"},
        "UInt64": {"values": "repeated fixed64"},
        "UInt32": {"values": "repeated fixed32"},
        **{name: {"values": "bytes"} for name in ("UInt8", "Int8", "Int16", "UInt16", "Float16")},
        # an encapsulated record batch, or a stream, of Arrow's IPC format
        "Arrow": {"data": "bytes"},
    },
    "foxglove": {
        "RawImage": {
            "timestamp": _TIMESTAMP,
            "width": "fixed32",
            "height": "fixed32",
            "encoding": "string",
            "step": "fixed32",
            "data": "bytes",
            "frame_id": "string",
        },
        "CompressedImage": {
            "timestamp": _TIMESTAMP,
            "data": "bytes",
            "format": "string",
            "frame_id": "string",
        },
        "PointCloud": {
            "timestamp": _TIMESTAMP,
            "frame_id": "string",
            "pose": "foxglove.Pose",
            "point_stride": "fixed32",
            "fields": "repeated foxglove.PackedElementField",
            "data": "bytes",
        },
        "PoseInFrame": {"timestamp": _TIMESTAMP, "frame_id": "string", "pose": "foxglove.Pose"},
        "FrameTransform": {
            "timestamp": _TIMESTAMP,
            "parent_frame_id": "string",
            "child_frame_id": "string",
            "translation": "foxglove.Vector3",
            "rotation": "foxglove.Quaternion",
        },
        "Log": {
            "timestamp": _TIMESTAMP,
            "level": "Level",
            "message": "string",
            "name": "string",
            "file": "string",
            "line": "fixed32",
        },
        "PackedElementField": {"name": "string", "offset": "fixed32", "type": "NumericType"},
        "Pose": {"position": "foxglove.Vector3", "orientation": "foxglove.Quaternion"},
        "Vector3": dict.fromkeys("xyz", "double"),
        "Quaternion": dict.fromkeys("xyzw", "double"),
    },
}


@cache
def message_class(name: str) -> Any:
    """Return the Protobuf class of a message, by its full name."""
    return GetMessageClass(_pool().FindMessageTypeByName(name))


@cache
def schema_data(name: str) -> bytes:
    """Return the description of a message and of all that it is made of, for the schema record."""
    file = _pool().FindMessageTypeByName(name).file
    files = FileDescriptorSet()
    for each in (*file.dependencies, file):
        each.CopyToProto(files.file.add())
    data: bytes = files.SerializeToString()
    return data


@cache
def _pool() -> DescriptorPool:
    """Return the descriptions of all messages, in a pool that is not shared with other packages."""
    pool = DescriptorPool()
    timestamp = FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(timestamp)
    pool.Add(timestamp)
    for package, messages in PACKAGES.items():
        pool.Add(_file(package, messages))
    return pool


def _file(package: str, messages: Mapping[str, Mapping[str, str]]) -> FileDescriptorProto:
    file = FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    if any(_TIMESTAMP in fields.values() for fields in messages.values()):
        file.dependency.append(timestamp_pb2.DESCRIPTOR.name)
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, (field_name, kind) in enumerate(fields.items(), 1):
            label, _, kind = kind.rpartition(" ")
            field = message.field.add(name=field_name, number=number)
            field.label = (
                FieldDescriptorProto.LABEL_REPEATED if label else FieldDescriptorProto.LABEL_OPTIONAL
            )
            if kind in _ENUMS:
                enum = message.enum_type.add(name=kind)
                for value, value_name in enumerate(_ENUMS[kind]):
                    enum.value.add(name=value_name, number=value)
                field.type, field.type_name = FieldDescriptorProto.TYPE_ENUM, f".{package}.{name}.{kind}"
            elif "." in kind:
                field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{kind}"
            else:
                field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    return file
