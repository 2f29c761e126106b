"""The layout of one message in bytes.

::

    offset  size  field
    0       4     magic, b"DORA"
    4       1     version of this layout, 2
    5       1     encoding of the body (see `Encoding`)
    6       2     length of the schema section
    8       4     length of the metadata section (msgpack map, empty: no metadata)
    12      4     offset of the body, a multiple of 64
    16      8     length of the body
    24      8     sequence number on its output, from 1
    32      8     time of sending, nanoseconds since the Unix epoch (UTC)
    40      8     origin: when the oldest data was made that this message follows from, likewise
    48      4     origin: the output that made it, see `dora.wire.trail.origin_id`
    52      1     how many nodes have passed the origin on
    53      1     how many entries of the trail section are origins
    54      2     length of the trail section
    56      ...   schema section, metadata section, trail section, zeros up to the body
    body    ...   the payload

All integers are little-endian. The body is aligned so that a receiver can use it where it lies.
A schema longer than 65,535 bytes does not fit its section; it travels inside the body then
(encoding `STREAM`). `dora.wire.trail` describes the origin and the trail section.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import ClassVar, Final

MAGIC: Final = b"DORA"
VERSION: Final = 2
HEADER_SIZE: Final = 56
SMALL_BODY: Final = 16 * 1024  # bytes; up to this size a message is assembled before it is copied
ALIGNMENT: Final = 64
TRAIL_ENTRY: Final = 20  # bytes
MAX_SCHEMA: Final = 0xFFFF
MAX_SEQUENCE: Final = 1 << 62  # more than there will ever be: sums of a few of these have 64 bits


class Encoding:
    """How the body holds the payload.

    ``PLAIN``: one buffer, the values of a fixed-width array without nulls; the schema section is the
    format string of Arrow's C data interface (``b"C"`` for uint8, ``b"f"`` for float32, …).
    ``BATCH``: one Arrow IPC record-batch message with one column; the schema section is the IPC
    schema message. ``STREAM``: a complete Arrow IPC stream; the schema section is empty.
    """

    PLAIN: Final = 0
    BATCH: Final = 1
    STREAM: Final = 2


_BEGINNING: Final = MAGIC + bytes((VERSION,))
_HEADER = Struct("<5sBHIIQQQQQ")
_pack = _HEADER.pack
_ZEROS = tuple(bytes(count) for count in range(ALIGNMENT))


class MessageError(ValueError):
    """The bytes are not a message of this layout."""


def body_offset(schema_size: int, metadata_size: int, trail_size: int = 0) -> int:
    """Return where the body starts: after the sections, on the next multiple of 64."""
    return (HEADER_SIZE + schema_size + metadata_size + trail_size + 63) & -64


def pack_head(
    encoding: int,
    schema: bytes,
    metadata: bytes,
    body_size: int,
    sequence: int,
    time_ns: int,
    body: bytes | memoryview = b"",
    origin_ns: int = 0,
    origin: int = 0,
    trail: bytes = b"",
    offset: int = 0,
) -> bytes:
    """Return everything before the body, padding included; and the body, if it is given.

    ``origin_ns``, 0 for ``time_ns``, and ``origin`` are as in `Header`, ``trail`` is the trail section.
    ``offset``: of the body, if it is already in its place; 0: right after the sections.
    """
    schema_size = len(schema)
    metadata_size = len(metadata)
    trail_size = len(trail)
    used = HEADER_SIZE + schema_size + metadata_size + trail_size
    if not offset:
        offset = (used + 63) & -64
    padding = offset - used
    return b"".join(
        (
            _pack(
                _BEGINNING,
                encoding,
                schema_size,
                metadata_size,
                offset,
                body_size,
                sequence,
                time_ns,
                origin_ns or time_ns,
                origin,
            ),
            schema,
            metadata,
            trail,
            _ZEROS[padding] if padding < ALIGNMENT else bytes(padding),
            body,
        )
    )


Header = tuple[bytes, int, int, int, int, int, int, int, int, int]
# Places in a header.
ENCODING: Final = 1
SCHEMA_SIZE: Final = 2
METADATA_SIZE: Final = 3
BODY_OFFSET: Final = 4
BODY_SIZE: Final = 5
SEQUENCE: Final = 6
TIME_NS: Final = 7
ORIGIN_NS: Final = 8
ORIGIN: Final = 9  # the last four fields as one number, with the origin in its lowest bits
ONE_PASS: Final = 1 << 32
ONE_ORIGIN: Final = 1 << 40
ONE_TRAIL_BYTE: Final = 1 << 48
# Takes a buffer, and where the message begins in it (default: 0).
unpack_header: Callable[..., Header] = _HEADER.unpack_from


def sequence_of(message: bytes | bytearray | memoryview) -> int:
    """Return the sequence number of a message from its bytes."""
    return int.from_bytes(message[24:32], "little")


class Message:
    """One received message: the head as bytes, the body in memory that ``owner`` keeps alive.

    A body that was small enough to be copied on arrival follows in ``head``, and ``owner`` is None; else
    it is the ``body_size`` bytes at ``address``. ``schema`` and ``metadata`` are the sections. All other
    fields are read from ``header`` on demand, because each step is slow in a process that has slept.
    """

    __slots__ = ("address", "head", "header", "owner")
    trusted: ClassVar[bool] = True  # shared memory of this user, unlike `dora.wire.untrusted`

    def __init__(
        self, head: bytes, address: int = 0, owner: object = None, header: Header | None = None
    ) -> None:
        """Parse ``head``: the whole message if ``owner`` is None, else at least all before the body.

        ``address`` points to the message's first byte; ``header`` what `unpack_header` gave, if it was
        unpacked already. Raises `MessageError`.
        """
        if header is None:
            try:
                header = unpack_header(head)
            except Exception as error:
                raise MessageError(f"{len(head)} bytes are too short for a message") from error
        if header[0] != _BEGINNING:
            raise MessageError(f"not a dora message of version {VERSION}: it starts with {head[:5]!r}")
        self.head = head
        self.header = header
        self.address = address
        self.owner = owner

    @property
    def encoding(self) -> int:
        return self.header[ENCODING]

    @property
    def metadata_size(self) -> int:
        return self.header[METADATA_SIZE]

    @property
    def body_offset(self) -> int:
        return self.header[BODY_OFFSET]

    @property
    def body_size(self) -> int:
        return self.header[BODY_SIZE]

    @property
    def sequence(self) -> int:
        return self.header[SEQUENCE]

    @property
    def time_ns(self) -> int:
        return self.header[TIME_NS]

    @property
    def schema(self) -> bytes:
        return self.head[HEADER_SIZE : HEADER_SIZE + self.header[SCHEMA_SIZE]]

    @property
    def metadata(self) -> bytes:
        header = self.header
        begin = HEADER_SIZE + header[SCHEMA_SIZE]
        return self.head[begin : begin + header[METADATA_SIZE]]

    @property
    def trail(self) -> bytes:
        """The trail section."""
        header = self.header
        begin = HEADER_SIZE + header[SCHEMA_SIZE] + header[METADATA_SIZE]
        return self.head[begin : begin + (header[ORIGIN] >> 48)]

    @property
    def head_size(self) -> int:
        """Bytes of header and sections, without the zeros before the body."""
        header = self.header
        return HEADER_SIZE + header[SCHEMA_SIZE] + header[METADATA_SIZE] + (header[ORIGIN] >> 48)

    @property
    def size(self) -> int:
        """Bytes of the whole message."""
        return self.header[BODY_OFFSET] + self.header[BODY_SIZE]

    def validate(self, available: int) -> None:
        """Raise `MessageError` unless the sections lie inside ``available`` bytes, in order."""
        header = self.header  # read once: a gateway validates every message
        offset, trail = header[BODY_OFFSET], header[ORIGIN] >> 48
        if (
            offset % ALIGNMENT
            or offset < HEADER_SIZE + header[SCHEMA_SIZE] + header[METADATA_SIZE] + trail
            or offset + header[BODY_SIZE] > available
            or (self.owner is not None and len(self.head) < offset)
            or header[ENCODING] > Encoding.STREAM
            or trail % TRAIL_ENTRY
            or (header[ORIGIN] >> 40 & 0xFF) * TRAIL_ENTRY > trail
        ):
            raise MessageError("the sections of a message do not fit into it")

    @property
    def small_body(self) -> bytes:
        """The body of a message that is wholly in ``head`` (``owner`` is None)."""
        return self.head[self.body_offset : self.body_offset + self.body_size]
