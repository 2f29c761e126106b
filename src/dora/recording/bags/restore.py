"""Make dora's messages of the messages in a bag."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from typing import TYPE_CHECKING, Final

from dora.errors import DoraError
from dora.recording.bags.bag_file import ZSTD_MAGIC, BagChannel
from dora.recording.mcap.format import NotARecording
from dora.recording.mcap.recording import RecordedMessage
from dora.ros2.bag_types import bag_type
from dora.ros2.names import ROS2_TOPIC, ROS2_TYPE
from dora.ros2.types.images import COMPRESSED_IMAGE, IMAGE, image_of
from dora.ros2.types.message_type import MessageType
from dora.wire.encode import Payload, encode
from dora.wire.message import Message, body_offset, pack_head
from dora.wire.metadata import encode_metadata

if TYPE_CHECKING:
    from dora.ros2.types.library import InterfaceLibrary

_LARGEST: Final = 1 << 30  # bytes of a message; a few compressed bytes can expand to more than any memory
_SMALL: Final = 16 << 10  # bytes of a body that is copied into the head


FindType = Callable[[str, str], MessageType]
"""Finds a type of a bag, by its name and its definition in the bag; raises `DoraError`."""


def type_finder(distribution: str) -> FindType:
    """Return what finds types: by the definitions in a bag, and for what it lacks, as `dora.ros2` does."""

    @cache
    def library() -> InterfaceLibrary:
        from dora.ros2.types.library import InterfaceLibrary
        from dora.ros2.types.standard import DISTRIBUTIONS

        return InterfaceLibrary(distribution=distribution if distribution in DISTRIBUTIONS else None)

    return cache(lambda name, text: bag_type(name, text, lambda other: library().definition(other)))


class ChannelReader:
    """Restores the messages of one channel."""

    def __init__(self, channel: BagChannel, find_type: FindType, *, images: bool) -> None:
        self._channel = channel
        self._find_type = find_type
        self._as_image = images and channel.type_name in (IMAGE, COMPRESSED_IMAGE)
        self._metadata = {ROS2_TYPE: channel.type_name, ROS2_TOPIC: channel.topic}
        self._section = encode_metadata(self._metadata)

    @property
    def topic(self) -> str:
        """The name of the topic in ROS."""
        return self._channel.topic

    @cached_property
    def type(self) -> MessageType:
        """The type of the messages; raises `NotARecording` if it is not known."""
        channel = self._channel
        try:
            return self._find_type(channel.type_name, channel.definition)
        except DoraError as error:
            raise NotARecording(f"the messages of `{channel.topic}` cannot be read: {error}") from None

    def __call__(self, recorded: RecordedMessage) -> Message:
        """Return a message as a struct array of one row, or an image; raises `NotARecording`."""
        try:
            array = self.type.decode(cdr_of(recorded.data))
            if not self._as_image:
                return message_with(recorded, encode(array), self._section)
            pixels, metadata = image_of(array)
            header = array.field("header")[0].as_py()
            stamp = header["stamp"]["sec"] * 1_000_000_000 + header["stamp"]["nanosec"]
            metadata |= {**self._metadata, "frame_id": header["frame_id"], "stamp": stamp}
            return message_with(recorded, encode(pixels), encode_metadata(metadata))
        except NotARecording:
            raise
        except DoraError as error:
            raise NotARecording(f"message {recorded.sequence} of `{recorded.topic}`: {error}") from None
        except (LookupError, TypeError, AttributeError):
            raise NotARecording(
                f"the bag defines {self._channel.type_name} without the fields of an image"
            ) from None


def cdr_of(data: bytes) -> bytes:
    """Return the message from the bytes in a bag, which may be compressed; raises `NotARecording`."""
    if not data.startswith(ZSTD_MAGIC):
        return data
    import zstandard

    try:
        size = zstandard.get_frame_parameters(data).content_size
        if size > _LARGEST and size != zstandard.CONTENTSIZE_UNKNOWN:
            raise NotARecording(f"a compressed message claims {size:,} bytes")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=_LARGEST)
    except (zstandard.ZstdError, MemoryError) as error:
        raise NotARecording(f"a message cannot be decompressed: {error}") from None


def message_with(recorded: RecordedMessage, payload: Payload, section: bytes) -> Message:
    """Return a message whose values stay where they are, if they are large."""
    sections = payload.encoding, payload.schema, section, payload.size, recorded.sequence, recorded.time_ns
    if payload.size <= _SMALL:
        return Message(pack_head(*sections, payload.to_bytes()))
    head = pack_head(*sections)
    offset = body_offset(len(payload.schema), len(section))
    if payload.address:
        return Message(head, payload.address - offset, payload.keep)
    import pyarrow as pa

    memory = pa.allocate_buffer(payload.size)
    payload.copy_to(memory.address)
    return Message(head, memory.address - offset, memory)
