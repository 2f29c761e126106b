"""The format of a recording: an MCAP file of Protobuf messages that contain dora's unchanged.

The page ``docs/reference/recording-format.md`` describes it for other programs. In short:

* One channel for each output and Arrow type, its topic ``node/output``. A message of a channel is a
  Protobuf message of the best schema that viewers know (`dora.recording.mcap.schemas`), so there is one
  copy of an image and not two.
* Its first field, `HEAD_FIELD`, which no schema declares, is the head of dora's message as it was sent.
  Its last bytes are the body. Head and body together are the message, bit for bit: `restore` gives it back.
* Both times of an MCAP message are the time of sending: a slow recorder does not shift them. Only those
  that were latched before the recording began have its begin as their ``log_time``.
* The order in which each node took its events is in channels of its own (`ORDER_TOPIC`); log entries are
  in `LOG_TOPIC`.
* The metadata record `START` describes the recording at the beginning, `END` its result at the end. A file
  without `END` was cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import string_at
from functools import cache
from typing import Any, Final, Literal, TypeVar

import msgspec

from dora.errors import DoraError
from dora.wire.decoders import DecodeError, from_json, from_plain
from dora.wire.message import HEADER_SIZE, Message, MessageError
from dora.wire.message import VERSION as LAYOUT
from dora.wire.untrusted import UntrustedMessage

VERSION: Final = 2  # format 1 has messages without an origin; `restore` reads them, too
PROFILE: Final = "dora"  # of the MCAP header
SUFFIX: Final = ".mcap"

START: Final = "dora"  # name of the metadata record, `RecordingStart`
END: Final = "dora.end"  # likewise, `End`
DATAFLOW: Final = "dataflow.json"  # name of the attachment, the dataflow as plain values
DATAFLOW_MEDIA_TYPE: Final = "application/json"

HEAD_FIELD: Final = 15000  # far above the fields of all schemas: viewers skip it as unknown
BODY_FIELD: Final = 15001  # the body, where no field of the schema has the same bytes
OWN_TOPICS: Final = "dora/"  # in front of topics that are no outputs; no node may be called `dora`
LOG_TOPIC: Final = "dora/log"
LOG_SCHEMA: Final = "foxglove.Log"
STATE_TOPIC: Final = "dora/state"
PARAMETERS_TOPIC: Final = "dora/parameters"
MARK_TOPIC: Final = "dora/mark"
JSON: Final = "json"  # the encoding of messages of the last three
ORDER_TOPIC: Final = "dora/order/"  # in front of the id of the node
ORDER_ENCODING: Final = "dora.order"

ARROW_TYPE: Final = "arrow_type"  # metadata of a channel: the type as text, "" if there are too many
ARROW_SCHEMA: Final = "arrow_schema"  # likewise: the IPC schema message in base64
DECLARED_TYPE: Final = "type"  # likewise: what the dataflow declares, as "std/media/v1/Image"

_FORMER_LAYOUT: Final = b"\x01"  # of messages, in recordings of format 1
# Bytes between the sections of a message and its body. A damaged offset must not allocate gigabytes.
_MOST_PADDING: Final = 4096
_LARGE: Final = 1 << 20  # bytes; a body from this size on is not copied when it is restored


_Kind = TypeVar("_Kind", bound=msgspec.Struct)


class NotARecording(DoraError):
    """The file, or a message in it, is not a valid recording."""


class RecordingStart(msgspec.Struct, kw_only=True):
    """The start of a recording. Times are nanoseconds since the Unix epoch."""

    format: int = VERSION
    dora: str  # version
    dataflow_id: str
    name: str = ""  # of the dataflow
    file: str | None = None  # path of the dataflow file
    working_dir: str = ""
    started: int
    together: bool = False  # from before the first message on; else attached to what was running
    last_seconds: float | None = None  # the end of something longer: so much of it was kept
    nodes: list[str] = []
    topics: list[str] = []  # what was asked for
    host: str = ""
    python: str = ""
    sources: dict[str, str] = {}  # files of nodes → SHA-256 in hexadecimal digits, as far as they are known


class TopicEnd(msgspec.Struct, omit_defaults=True):
    """The result of one topic."""

    messages: int = 0  # in the file
    lost: int = 0  # sent while recording, and not in the file
    first: int = 0  # sequence numbers
    last: int = 0


Reason = Literal["asked", "dataflow ended", "disk full", "saved"]


class End(msgspec.Struct, kw_only=True):
    """The end of a recording. ``complete``: the file has every message of its topics."""

    complete: bool
    stopped: int
    reason: Reason
    topics: dict[str, TopicEnd] = {}
    failed: list[str] = []  # nodes

    @property
    def lost(self) -> int:
        """How many messages are known to be missing, of all topics."""
        return sum(topic.lost for topic in self.topics.values())


def to_texts(item: msgspec.Struct) -> dict[str, str]:
    """Return the entries of a metadata record, or variables: texts as they are, all else as JSON.

    There is nothing for None.
    """
    return {
        key: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for key, value in msgspec.to_builtins(item).items()
        if value is not None
    }


def from_texts(texts: Mapping[str, str], kind: type[_Kind]) -> _Kind:
    """Return what `to_texts` was given; raises `DecodeError`."""
    values = {}
    for field in msgspec.structs.fields(kind):
        text = texts.get(field.encode_name)
        if text is not None:
            values[field.encode_name] = text if _is_text(field.type) else from_json(text)
    return from_plain(values, kind)


def from_record(record: Mapping[str, str], kind: type[_Kind]) -> _Kind:
    """Return the contents of a metadata record; raises `NotARecording`."""
    try:
        return from_texts(record, kind)
    except DecodeError as error:
        raise NotARecording(f"its metadata record is damaged: {error}") from None


def start_of(path: str, record: Mapping[str, str] | None) -> RecordingStart:
    """Return the first metadata record of a recording of ours; raises `NotARecording`.

    ``record``: None if the file has none.
    """
    if record is None:
        raise NotARecording(f"{path} was cut off before anything was recorded")
    start = from_record(record, RecordingStart)
    if start.format > VERSION:
        raise NotARecording(
            f"{path} has format {start.format} and this dora reads {VERSION}; "
            f"it needs dora {start.dora} or newer"
        )
    return start


def dataflow_of(data: bytes) -> dict[str, Any]:
    """Return the dataflow in the attachment `DATAFLOW` as plain values; {} if it is damaged."""
    try:
        found: dict[str, Any] = from_json(data, dict[str, Any])
    except DecodeError:
        return {}
    return found


def of_another_program(path: str, profile: str | None) -> NotARecording:
    """Return the error about an MCAP file with the profile of another program."""
    named = f" (its profile is `{profile}`)" if profile else ""
    return NotARecording(f"{path} is an MCAP file, but neither dora nor ROS 2 wrote it{named}")


def _is_text(kind: Any) -> bool:
    return kind is str or kind == str | None or getattr(kind, "__origin__", None) is Literal


# The library `protobuf` writes all fields but head and body: it would copy the body.
# https://protobuf.dev/programming-guides/encoding/

_ONE_BYTE: Final = tuple(bytes([value]) for value in range(0x80))


def _varint(value: int) -> bytes:
    """Return a number from 0 on in groups of seven bits, the lowest first."""
    if value < 0x80:
        return _ONE_BYTE[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    """Return a number and where it ends; raises ``IndexError`` if it does not end."""
    value = shift = 0
    while True:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
        if shift > 63:
            raise IndexError("a number has more than 64 bits")


@cache
def _bytes_tag(number: int) -> bytes:
    """Return the tag of a field whose length comes first."""
    return _varint(number << 3 | 2)


_HEAD_TAG: Final = _bytes_tag(HEAD_FIELD)


def body_start(message: Message, size: int) -> bytes:
    """Return the first bytes of a message's body, at most ``size``."""
    size = min(size, message.body_size)
    if message.owner is None:
        return message.head[message.body_offset : message.body_offset + size]
    return string_at(message.address + message.body_offset, size)


def stored_head(message: Message) -> bytes:
    """Return the field with which every message of a recording begins."""
    size = message.head_size
    return _HEAD_TAG + _varint(size) + message.head[:size]


def body_prefix(number: int, size: int) -> bytes:
    """Return the bytes before the body, which is the last field of a message."""
    return _bytes_tag(number) + _varint(size)


def _renewed(head: bytes) -> bytes:
    """Return the head of a message of layout 1, which had no origin, in the present layout."""
    if len(head) < 40:
        raise MessageError("its head is cut off")
    offset = (len(head) + HEADER_SIZE - 40 + 63) & -64
    return b"".join(
        (
            head[:4],
            bytes([LAYOUT]),
            head[5:12],
            offset.to_bytes(4, "little"),
            head[16:40],
            head[32:40],
            bytes(8),
            head[40:],
        )
    )


def restore(data: bytes) -> Message:
    """Return dora's message from one of a recording; a large body stays where it is.

    Raises `NotARecording`.
    """
    try:
        if not data.startswith(_HEAD_TAG):
            raise MessageError("it does not begin with the head of a message")
        size, begin = _read_varint(data, len(_HEAD_TAG))
        head = bytes(data[begin : begin + size])
        if head[4:5] == _FORMER_LAYOUT:
            head = _renewed(head)
            size, begin = len(head), begin + size - len(head)
        message: Message = UntrustedMessage(head)
        padding = message.body_offset - size
        if not 0 <= padding <= _MOST_PADDING or message.head_size != size or len(head) < size:
            raise MessageError("its head is cut off")
        if message.body_size > len(data) - begin - size:
            raise MessageError("its body is cut off")
    except (MessageError, IndexError) as error:
        raise NotARecording(f"a message is damaged: {error}") from None
    head += bytes(padding)
    body = memoryview(data)[len(data) - message.body_size :]
    if message.body_size < _LARGE:
        return UntrustedMessage(head + body)
    import pyarrow as pa

    buffer = pa.py_buffer(body)
    if buffer.address % 8:  # what is computed with has to be aligned
        buffer = pa.py_buffer(bytes(body))
    return UntrustedMessage(head, buffer.address - message.body_offset, buffer)
