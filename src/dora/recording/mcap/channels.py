"""Choose the form in which a message is stored, and its channel.

The form is the most specific schema that viewers know. It follows from the type and the metadata of the
message, by the conventions of the node `dora-rerun`: `primitive`, and for images `width`, `height` and
`encoding`. A message that breaks them is stored as plain values, so none is refused.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from struct import unpack
from typing import Any, Final, NamedTuple

from dora.recording.mcap.format import (
    ARROW_SCHEMA,
    ARROW_TYPE,
    BODY_FIELD,
    DECLARED_TYPE,
    JSON,
    LOG_SCHEMA,
    LOG_TOPIC,
    MARK_TOPIC,
    ORDER_ENCODING,
    ORDER_TOPIC,
    PARAMETERS_TOPIC,
    STATE_TOPIC,
    body_prefix,
    body_start,
    stored_head,
)
from dora.recording.mcap.schemas import message_class
from dora.wire.arrow_formats import ARROW_NAMES, WIDTHS
from dora.wire.decode import decode_arrow
from dora.wire.image_encodings import PIXEL_ENCODINGS
from dora.wire.message import Encoding, Message
from dora.wire.metadata import decode_metadata

MAX_TYPES: Final = 64  # channels of one topic; further types of its messages share one
_DEFAULT_FRAME: Final = "world"
_DEFAULT_CHILD: Final = "body"

_PLAIN_FORMS: Final = {
    b"c": "dora.Int8",
    b"C": "dora.UInt8",
    b"s": "dora.Int16",
    b"S": "dora.UInt16",
    b"i": "dora.Int32",
    b"I": "dora.UInt32",
    b"l": "dora.Int64",
    b"L": "dora.UInt64",
    b"e": "dora.Float16",
    b"f": "dora.Float32",
    b"g": "dora.Float64",
}
ARROW_FORM: Final = "dora.Arrow"
# Those that Foxglove knows.
_RAW_IMAGES: Final = {name: found.size for name, found in PIXEL_ENCODINGS.items() if name != "yuv420"}
_COMPRESSED_IMAGES: Final = {"jpeg": "jpeg", "jpg": "jpeg", "png": "png", "webp": "webp", "avif": "avif"}
_DEPTHS: Final = {b"f": ("32FC1", 4), b"S": ("16UC1", 2)}
_FLOATS: Final = {b"f": "f", b"g": "d"}
_MAX_POSE: Final = 64  # bytes; seven numbers take 56
_MAX_STRUCT: Final = 4096  # bytes; a larger struct is no pose, and decoding it would take time
_FIELDS: Final = {  # of structs, by which they are known
    "foxglove.PoseInFrame": ("position", "orientation"),
    "foxglove.FrameTransform": ("translation", "rotation"),
}


class Form(NamedTuple):
    """The schema, the fields and the number of the body field with which a message is stored."""

    schema: str
    fields: bytes
    body_field: int


class ChannelKey(NamedTuple):
    """The properties that all messages of a channel share."""

    topic: str
    schema: str  # name of the Protobuf message
    arrow_schema: bytes  # IPC schema message; b"" if the types of the topic are too many


def form_of(message: Message) -> Form:
    """Return how to store a message."""
    plain = _PLAIN_FORMS.get(message.schema) if message.encoding == Encoding.PLAIN else None
    form = None
    try:
        if plain is not None and may_have_form(message.metadata):
            form = _metadata_form(message)
        elif message.encoding == Encoding.BATCH and message.body_size <= _MAX_STRUCT:
            form = _struct_form(message)
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, struct.error):
        pass  # its metadata or its values do not fit
    return form or Form(plain or ARROW_FORM, b"", 1)


def may_have_form(metadata: bytes) -> bool:
    """Return whether the metadata may declare a form for plain values."""
    return b"primitive" in metadata or b"encoding" in metadata


def prefix_of(message: Message, form: Form) -> bytes:
    """Return all bytes of the stored message that come before the body."""
    return stored_head(message) + form.fields + body_prefix(form.body_field, message.body_size)


class ChannelItem(NamedTuple):
    """One channel of a recording."""

    topic: str
    schema: str  # "" for none
    metadata: dict[str, str]
    encoding: str = "protobuf"


LOG_CHANNEL: Final = ChannelItem(LOG_TOPIC, LOG_SCHEMA, {})
STATE_CHANNEL: Final = ChannelItem(STATE_TOPIC, "", {}, JSON)
PARAMETERS_CHANNEL: Final = ChannelItem(PARAMETERS_TOPIC, "", {}, JSON)
MARK_CHANNEL: Final = ChannelItem(MARK_TOPIC, "", {}, JSON)


def order_channel(node_id: str) -> ChannelItem:
    """Return the channel with the order of a node's events."""
    return ChannelItem(ORDER_TOPIC + node_id, "", {}, ORDER_ENCODING)


ContextMessage = tuple[ChannelItem, int, bytes]
"""Channel, time and data of a message that no output sent: a log entry, or the order of events."""


class ChannelTable:
    """The channels of a recording by their numbers, from 1. They are never removed."""

    def __init__(self) -> None:
        self._items: list[ChannelItem] = []
        self._numbers: dict[ChannelKey, int] = {}
        self._schemas: dict[str, Schemas] = {}  # by topic
        self._context: dict[str, tuple[int, int]] = {}  # topic of context → channel, messages

    def of_message(self, topic: str, message: Message, declared: str = "") -> tuple[int, Form]:
        """Return the channel of an output's message, and how it is stored there.

        ``declared`` is the type in the dataflow.
        """
        form = form_of(message)
        schemas = self._schemas.get(topic)
        if schemas is None:
            schemas = self._schemas[topic] = Schemas()
        key = ChannelKey(topic, form.schema, schemas.of(message))
        number = self._numbers.get(key)
        if number is None:
            item = ChannelItem(topic, form.schema, channel_metadata(key, declared))
            number = self._numbers[key] = self.add(item)
        return number, form

    def of_context(self, item: ChannelItem) -> tuple[int, int]:
        """Return the channel of a message of the context, and which one the message is in it, from 1."""
        known = self._context.get(item.topic)
        channel, count = (self.add(item), 0) if known is None else known
        self._context[item.topic] = channel, count + 1
        return channel, count + 1

    def add(self, item: ChannelItem) -> int:
        """Add a channel that belongs to no output, and return its number."""
        self._items.append(item)
        return len(self._items)

    def item(self, number: int) -> ChannelItem:
        """Return a channel by the number that `add` gave it, from 1."""
        return self._items[number - 1]


class Schemas:
    """Finds the Arrow schemas of the messages of one topic; parses each type once."""

    def __init__(self) -> None:
        self._known: dict[bytes, bytes] = {}
        self._distinct: set[bytes] = set()

    def of(self, message: Message) -> bytes:
        """Return the IPC schema message of a message; b"" if it has none that can be read."""
        key = _schema_key(message)
        known = self._known.get(key)
        if known is None:
            known = _canonical(key) if len(self._distinct) < MAX_TYPES else b""
            if len(self._known) < 4 * MAX_TYPES:  # an output may send ever new types
                self._known[key] = known
            self._distinct.add(known)
        return known


def channel_metadata(key: ChannelKey, declared: str) -> dict[str, str]:
    """Return the metadata of the channel record."""
    entries = {ARROW_TYPE: "", ARROW_SCHEMA: b64encode(key.arrow_schema).decode()}
    if key.arrow_schema:
        import pyarrow as pa

        entries[ARROW_TYPE] = str(pa.ipc.read_schema(pa.py_buffer(key.arrow_schema)).field(0).type)
    if declared:
        entries[DECLARED_TYPE] = declared
    return entries


def _schema_key(message: Message) -> bytes:
    if message.encoding != Encoding.STREAM:
        return message.schema
    # A stream begins with its schema: a mark, the length, the message.
    start = body_start(message, 8)
    size = unpack("<I", start[4:])[0] if len(start) == 8 else 0
    return body_start(message, 8 + size)


def _canonical(key: bytes) -> bytes:
    import pyarrow as pa

    try:
        if key in ARROW_NAMES:
            type_ = getattr(pa, ARROW_NAMES[key])()
        else:
            type_ = pa.ipc.read_schema(pa.py_buffer(key)).field(0).type
        return bytes(pa.schema([pa.field("", type_)]).serialize())
    except (pa.ArrowException, OSError, ValueError, IndexError):
        return b""  # nobody can read the message either, but it is stored as it is


# ------------------------------------------------------------------------------ known schemas


def _metadata_form(message: Message) -> Form | None:
    """Return the form that the metadata of plain values declares."""
    metadata = decode_metadata(message.metadata)
    match str(metadata.get("primitive", "")).lower():
        case "" | "image":
            return _image(message, metadata)
        case "depth":
            return _depth(message, metadata)
        case "points3d":
            return _points(message, metadata)
        case "pose":
            return _pose(message, metadata)
    return None


def _time(message: Message, metadata: Mapping[str, Any]) -> dict[str, int]:
    """Return the time for viewers: the source's, where a message has one."""
    source = metadata.get("timestamp")
    time_ns = message.time_ns
    if isinstance(source, datetime) and source.timestamp() >= 0:
        time_ns = round(source.timestamp() * 1_000_000) * 1000
    return timestamp(time_ns)


def timestamp(time_ns: int) -> dict[str, int]:
    """Return the fields of a ``google.protobuf.Timestamp``."""
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    return {"seconds": seconds, "nanos": nanos}


def _form(schema: str, body_field: int, **fields: Any) -> Form:
    return Form(schema, message_class(schema)(**fields).SerializeToString(), body_field)


def _frame(metadata: Mapping[str, Any], default: str = _DEFAULT_FRAME) -> str:
    return str(metadata.get("frame_id", default))


def _size(metadata: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = metadata.get("width"), metadata.get("height")
    if isinstance(width, int) and isinstance(height, int) and 0 < width < 1 << 24 and 0 < height < 1 << 24:
        return width, height
    return None


def _image(message: Message, metadata: Mapping[str, Any]) -> Form | None:
    encoding = str(metadata.get("encoding", "")).lower()
    if encoding in _COMPRESSED_IMAGES and message.schema == b"C":
        return _form(
            "foxglove.CompressedImage",
            2,
            timestamp=_time(message, metadata),
            format=_COMPRESSED_IMAGES[encoding],
            frame_id=_frame(metadata, "camera"),
        )
    if encoding not in _RAW_IMAGES:
        return None
    wide = encoding == "mono16"
    if message.schema != b"C" and not (wide and message.schema == b"S"):
        return None
    pixel = _RAW_IMAGES[encoding]
    return _raw_image(message, metadata, encoding, pixel, 1 if encoding == "nv12" else int(pixel))


def _depth(message: Message, metadata: Mapping[str, Any]) -> Form | None:
    if message.schema not in _DEPTHS:
        return None
    name, pixel = _DEPTHS[message.schema]
    return _raw_image(message, metadata, name, pixel, pixel)


def _raw_image(
    message: Message, metadata: Mapping[str, Any], encoding: str, pixel: float, row_pixel: int
) -> Form | None:
    size = _size(metadata)
    if size is None or int(size[0] * size[1] * pixel) != message.body_size:
        return None
    width, height = size
    return _form(
        "foxglove.RawImage",
        6,
        timestamp=_time(message, metadata),
        width=width,
        height=height,
        encoding=encoding,
        step=width * row_pixel,
        frame_id=_frame(metadata, "camera"),
    )


def _points(message: Message, metadata: Mapping[str, Any]) -> Form | None:
    kind = {b"f": "FLOAT32", b"g": "FLOAT64"}.get(message.schema)
    if kind is None:
        return None
    width = WIDTHS[message.schema]
    if message.body_size % (3 * width):
        return None
    return _form(
        "foxglove.PointCloud",
        6,
        timestamp=_time(message, metadata),
        frame_id=_frame(metadata),
        pose={"position": {}, "orientation": {"w": 1.0}},
        point_stride=3 * width,
        fields=[{"name": axis, "offset": index * width, "type": kind} for index, axis in enumerate("xyz")],
    )


def _pose(message: Message, metadata: Mapping[str, Any]) -> Form | None:
    code = _FLOATS.get(message.schema)
    if code is None or message.body_size > _MAX_POSE:
        return None
    body = body_start(message, message.body_size)
    count = len(body) // WIDTHS[message.schema]
    values = unpack(f"<{count}{code}", body)
    if count == 3:
        values = (*values, 0.0, 0.0, 0.0, 1.0)
    elif count != 7:
        return None
    position = dict(zip("xyz", values, strict=False))
    return _pose_form(message, metadata, position, dict(zip("xyzw", values[3:], strict=True)))


def _pose_form(
    message: Message,
    metadata: Mapping[str, Any],
    position: Mapping[str, float],
    orientation: Mapping[str, float],
) -> Form:
    return _form(
        "foxglove.PoseInFrame",
        BODY_FIELD,
        timestamp=_time(message, metadata),
        frame_id=_frame(metadata),
        pose={"position": position, "orientation": orientation},
    )


def _struct_form(message: Message) -> Form | None:
    """Return the form of a pose or a transform that is a struct, as in ``std/math/v1``."""
    schema = _struct_schema(message.schema)
    if schema is None:
        return None
    metadata = decode_metadata(message.metadata)
    (item,) = decode_arrow(message).to_pylist()
    place, turn = (
        {axis: float(item[field][axis]) for axis in axes}
        for field, axes in zip(_FIELDS[schema], ("xyz", "xyzw"), strict=True)
    )
    if schema == "foxglove.PoseInFrame":
        return _pose_form(message, metadata, place, turn)
    return _form(
        schema,
        BODY_FIELD,
        timestamp=_time(message, metadata),
        parent_frame_id=str(metadata.get("parent_frame_id", _DEFAULT_FRAME)),
        child_frame_id=str(metadata.get("child_frame_id", metadata.get("frame_id", _DEFAULT_CHILD))),
        translation=place,
        rotation=turn,
    )


@lru_cache(maxsize=1024)
def _struct_schema(schema: bytes) -> str | None:
    import pyarrow as pa

    try:
        type_ = pa.ipc.read_schema(pa.py_buffer(schema)).field(0).type
    except (pa.ArrowException, OSError, ValueError, IndexError):
        return None
    if not pa.types.is_struct(type_):
        return None
    names = {type_.field(index).name for index in range(type_.num_fields)}
    return next((known for known, fields in _FIELDS.items() if names == set(fields)), None)
