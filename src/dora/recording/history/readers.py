"""Readers of the messages of one channel: what dora recorded, and what ROS 2, Foxglove and others did."""

from __future__ import annotations

import json
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Final

import pyarrow as pa

from dora.errors import DoraError
from dora.recording.bags.bag_file import CDR, bag_channel, printable
from dora.recording.bags.restore import ChannelReader, FindType, cdr_of, message_with
from dora.recording.history.foreign_values import Fields, convert, is_known
from dora.recording.mcap.format import NotARecording
from dora.recording.mcap.recording import RecordedMessage
from dora.wire.encode import encode
from dora.wire.message import Message
from dora.wire.metadata import encode_metadata

_BASE64: Final = "data"  # the field of Foxglove's schemas that is bytes, which JSON has in base64

# Numbers beyond all limits, and messages in messages without an end, come from other programs as well.
_DECODE_ERRORS: Final = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    pa.ArrowException,
)

Parse = Callable[[bytes], Fields]
"""Returns the fields of a message; raises `NotARecording`, or what a message without a field leads to."""


class ForeignReader:
    """Restores the messages of a channel of another program. ``parse`` gives their fields."""

    def __init__(self, schema: str, parse: Parse) -> None:
        self.schema = schema
        self.parse = parse

    def __call__(self, recorded: RecordedMessage) -> Message:
        """Return a message as a node of dora would send it; raises `NotARecording`."""
        try:
            data, metadata, stamp_ns = convert(self.schema, self.parse(recorded.data))
            if stamp_ns:
                from dora.wire.metadata import as_datetime

                metadata["timestamp"] = as_datetime(stamp_ns)
            return message_with(recorded, encode(data), encode_metadata(metadata))
        except DoraError as error:
            raise NotARecording(
                f"message {recorded.sequence} of `{recorded.topic}` cannot be shown: {error}"
            ) from None
        except _DECODE_ERRORS as error:
            raise NotARecording(
                f"message {recorded.sequence} of `{recorded.topic}` is no {self.schema}: {error}"
            ) from None


def reader_of(channel: Any, schema: Any, find_type: FindType) -> ForeignReader:
    """Return the reader of a channel of another program; it raises `NotARecording` where it cannot read."""
    name = printable(schema.name) if schema is not None else ""
    encoding = channel.message_encoding
    if encoding == CDR:
        return ForeignReader(name, _ros2_parser(channel, schema, find_type))
    if encoding == "protobuf" and schema is not None:
        return ForeignReader(name, _protobuf_parser(schema))
    if encoding == "json":
        return ForeignReader(name, _json_parser(name))
    what = printable(encoding) or "no known encoding"
    return ForeignReader(name, _refusal(f"its messages are in `{what}`, which dora does not read"))


def _refusal(sentence: str) -> Parse:
    def refuse(_: bytes) -> Fields:
        raise NotARecording(sentence)

    return refuse


# ------------------------------------------------------------------------------ ROS 2


def _ros2_parser(channel: Any, schema: Any, find_type: FindType) -> Parse:
    reader = ChannelReader(bag_channel(channel, schema, 0), find_type, images=False)
    return lambda data: _fields_of(reader.type.decode(cdr_of(data)))


def _fields_of(structs: Any) -> dict[str, Any]:
    """Return the fields of the only row of a struct array; lists of numbers stay arrays."""
    found: dict[str, Any] = {}
    for index in range(structs.type.num_fields):
        kind = structs.type.field(index)
        column = structs.field(index)
        if pa.types.is_struct(kind.type):
            found[kind.name] = _fields_of(column)
        elif _is_list(kind.type) and pa.types.is_primitive(kind.type.value_type):
            found[kind.name] = column.flatten().to_numpy(zero_copy_only=False)
        else:
            found[kind.name] = column[0].as_py()
    return found


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


# ------------------------------------------------------------------------------ Protobuf


def _protobuf_parser(schema: Any) -> Parse:
    kind = cache(partial(_protobuf_class, schema))

    def parse(data: bytes) -> Fields:
        from google.protobuf.message import DecodeError

        found = kind()
        try:
            return _plain(found.FromString(data))
        except DecodeError as error:
            raise NotARecording(str(error)) from None

    return parse


def _protobuf_class(schema: Any) -> Any:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message import DecodeError
    from google.protobuf.message_factory import GetMessageClass

    try:
        files = {file.name: file for file in FileDescriptorSet.FromString(schema.data).file}
        pool = DescriptorPool()
        added: set[str] = set()

        def add(name: str) -> None:
            if name in added or name not in files:
                return
            added.add(name)
            for dependency in files[name].dependency:
                add(dependency)
            pool.Add(files[name])

        for name in files:
            add(name)
        return GetMessageClass(pool.FindMessageTypeByName(schema.name))
    except (DecodeError, TypeError, KeyError, RecursionError) as error:
        raise NotARecording(f"its schema `{printable(schema.name)}` cannot be read: {error}") from None


def _plain(message: Any, around: tuple[Any, ...] = ()) -> dict[str, Any]:
    """Return the fields of a Protobuf message, also those with their default.

    ``around``: the types of the messages that it is in. Of these, a default would contain itself.
    """
    found: dict[str, Any] = {}
    around = (*around, message.DESCRIPTOR)
    for kind in message.DESCRIPTOR.fields:
        value = getattr(message, kind.name)
        nested = kind.message_type
        if nested in around and not (hasattr(value, "add") or message.HasField(kind.name)):
            continue
        if nested is not None and nested.GetOptions().map_entry:
            found[kind.name] = {str(key): str(item) for key, item in value.items()}
        elif nested is not None:
            if hasattr(value, "add"):  # it is repeated
                found[kind.name] = [_plain(item, around) for item in value]
            else:
                found[kind.name] = _plain(value, around)
        else:
            found[kind.name] = value if isinstance(value, str | bytes | int | float) else list(value)
    return found


# ------------------------------------------------------------------------------ JSON


def _json_parser(schema: str) -> Parse:
    known = is_known(schema)

    def parse(data: bytes) -> Fields:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise NotARecording(f"it is not JSON: {error}") from None
        if not isinstance(value, Mapping):
            return {"value": value}
        fields = dict(value)
        if known and isinstance(fields.get(_BASE64), str):
            try:
                fields[_BASE64] = b64decode(fields[_BASE64], validate=True)
            except Base64Error:
                pass  # a text, as in `std_msgs/String`
        return fields

    return parse
