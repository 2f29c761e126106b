"""Export a recording as a bag of ROS 2, which `ros2 bag`, rosbags and Foxglove read.

The recorder does not write messages of ROS itself: a file of MCAP is either of the profile ``ros2``, with
nothing else in it, or holds all that dora sends, with its metadata and the order of events. And to encode a
message takes longer than to store it, while a recorder must not be late.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dora.errors import DoraError, UnsupportedData, cannot_write
from dora.recording.bags.bag import METADATA
from dora.recording.bags.restore import ChannelReader, cdr_of
from dora.recording.mcap.process_folder import process_folder
from dora.recording.mcap.recording import RecordedMessage, Recording
from dora.ros2.names import ROS2_TOPIC, ROS2_TYPE
from dora.ros2.types.errors import TypeNotFound
from dora.ros2.types.images import COMPRESSED_IMAGE, IMAGE, image_message
from dora.ros2.types.library import InterfaceLibrary
from dora.ros2.types.standard import INSTALL
from dora.wire.decode import BAD_MESSAGE, decode_arrow
from dora.wire.message import Message
from dora.wire.metadata import decode_metadata

if TYPE_CHECKING:
    from rosbags.rosbag2 import Writer

    from dora.ros2.types.message_type import MessageType

_log = logging.getLogger("dora.recording")
_VERSION: Final = 8  # of the metadata; ROS 2 from Iron on reads it
_TOPIC: Final = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+", re.ASCII)
_NO_TOPIC: Final = re.compile(r"\w+/(srv|action)/\w+")  # a part of a service or an action, with no topic
_MAX_STAMP: Final = 2**31 - 1  # seconds


@dataclass
class Exported:
    """The bag. ``left_out``: by topic, how many messages are none of ROS, or do not fit their type."""

    path: str
    messages: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


class _Ready(NamedTuple):
    """A message as it is written."""

    topic: str
    type: MessageType
    data: bytes


def export_ros2(
    recording: Recording, folder: str, topics: Collection[str] | None = None, *, force: bool = False
) -> Exported:
    """Write a folder with ``metadata.yaml`` and a file of MCAP.

    Written are messages whose metadata has `ros2_type`, as ``ros2:`` nodes and replayed bags send them, and
    images in dora's form. The topic is the one in `ros2_topic`, or ``/node/output``. Nodes may pass on the
    metadata of their inputs: so `ros2_topic` counts for the first output that has it, and a message that
    does not fit its type is left out, with a warning for the first one of an output. Of a bag, all messages
    are written as they are.

    Raises `DoraError` if the extra is not installed, if there is nothing to write, for a type that is not
    found, and for a folder that exists, unless ``force`` and it is a bag. After an error, the folder is as
    it was before.
    """
    check_bag(folder, force=force)
    if os.path.dirname(os.path.realpath(recording.path)) == os.path.realpath(folder):
        raise DoraError(f"{recording.path} is in {folder}, which would be replaced; choose another folder")
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
    from rosbags.rosbag2.errors import WriterError

    exported = Exported(folder)
    parent, name = os.path.split(os.path.abspath(folder))
    try:
        os.makedirs(parent, exist_ok=True)
        # Written beside, so that a failure neither costs the old bag nor leaves a part of the new one.
        with process_folder("export", parent) as beside:
            written = Path(beside) / name
            writer = Writer(written, version=_VERSION, storage_plugin=StoragePlugin.MCAP)
            writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            try:
                _write(writer, recording, topics, exported)
            finally:
                writer.abort()  # nothing is left to do after `close`
            if os.path.lexists(folder):
                os.rename(folder, Path(beside) / f"{name}.before")
            os.rename(written, folder)
    except OSError as error:
        raise cannot_write(folder, error) from None
    except WriterError as error:
        raise DoraError(f"cannot write {folder}: {error}") from None
    return exported


def _write(
    writer: Writer, recording: Recording, topics: Collection[str] | None, exported: Exported
) -> None:
    find_type = cache(InterfaceLibrary().message)
    connections: dict[tuple[str, str], Any] = {}
    owners: dict[str, str] = {}
    misfits: dict[str, str] = {}  # by topic: why the first message that does not fit is left out
    for recorded in recording.messages(topics):
        ready = None
        try:
            ready = _ready(recorded, find_type, owners)
        except UnsupportedData as error:
            reason = f"message {recorded.sequence} of `{recorded.topic}`: {error}"
            misfits.setdefault(recorded.topic, reason)
        if ready is None:
            exported.left_out[recorded.topic] += 1
            continue
        if not exported.messages:
            writer.open()
        key = ready.topic, ready.type.name
        if key not in connections:
            connections[key] = writer.add_connection(
                *key, msgdef=ready.type.definition_text(), rihs01=ready.type.hash
            )
        writer.write(connections[key], recorded.time_ns, ready.data)
        exported.messages += 1
    if not exported.messages:
        if misfits:
            reason = next(iter(misfits.values()))
            raise DoraError(f"no message fits its type, so no bag is written; {reason}")
        raise DoraError(f"{recording.path} has no messages of ROS and no images, so no bag is written")
    writer.close()
    for reason in misfits.values():
        _log.warning("left out: %s", reason)


def check_bag(folder: str, *, force: bool) -> None:
    """Raise `DoraError` without the extra, and if the folder is there, except a bag with ``force``."""
    try:
        import rosbags.rosbag2  # noqa: F401
    except ImportError:
        raise DoraError(f"a bag of ROS 2 needs rosbags: {INSTALL}") from None
    if not os.path.lexists(folder):
        return
    if not force:
        raise DoraError(f"{folder} exists already; choose another folder, or write over it with --force")
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise cannot_write(folder, error) from None
    # A folder of recordings has files of this kind as well, but no metadata.
    is_bag = METADATA in names and all(name == METADATA or name.endswith(".mcap") for name in names)
    if names and not is_bag:
        raise DoraError(f"{folder} is no bag, so it is not written over; choose another folder")


def _ready(
    recorded: RecordedMessage, find_type: Callable[[str], MessageType], owners: dict[str, str]
) -> _Ready | None:
    """Return the message to write, None if it is none of ROS.

    Messages of a bag stay as they are. ``owners`` has the output of each topic that `ros2_topic` has named;
    a new one is added. Raises `UnsupportedData` for a value that does not fit its type, `DoraError`.
    """
    reader = recorded.restore
    if isinstance(reader, ChannelReader):
        return _Ready(_topic(reader.topic), reader.type, cdr_of(recorded.data))
    message = recorded.message
    try:
        metadata = decode_metadata(message.metadata)
        found = _value(message, metadata)
        if found is None:
            return None
        kind = find_type(found[0])
        data = kind.encode(found[1])
    except UnsupportedData:
        raise
    except (*BAD_MESSAGE, DoraError) as error:
        hint = ""
        if isinstance(error, TypeNotFound):
            hint = "; AMENT_PREFIX_PATH may name folders with `share/PACKAGE/msg/NAME.msg`"
        raise DoraError(f"message {recorded.sequence} of `{recorded.topic}`: {error}{hint}") from None
    topic = metadata.get(ROS2_TOPIC)
    name = _topic(recorded.topic)
    if isinstance(topic, str) and _TOPIC.fullmatch(topic):
        is_first = owners.setdefault(topic, recorded.topic) == recorded.topic
        name = topic if is_first else name
    return _Ready(name, kind, data)


def _value(message: Message, metadata: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Return the type and the value of a message, None if it is none of ROS."""
    name = metadata.get(ROS2_TYPE)
    is_image = name in (None, IMAGE, COMPRESSED_IMAGE) and isinstance(metadata.get("encoding"), str)
    if name is None and not (is_image and metadata.get("primitive", "image") == "image"):
        return None
    if isinstance(name, str) and _NO_TOPIC.fullmatch(name):
        return None
    array = decode_arrow(message)
    if not is_image or str(array.type).startswith("struct"):
        return str(name), array
    if name is None and str(array.type) not in ("uint8", "uint16"):
        return None
    return image_message(array, metadata, _header(message, metadata))


def _header(message: Message, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the header of an image: its own time, or the time of sending."""
    stamp = metadata.get("stamp")
    if not isinstance(stamp, int) or not 0 <= stamp <= _MAX_STAMP * 1_000_000_000:
        stamp = message.time_ns
    seconds, nanoseconds = divmod(stamp, 1_000_000_000)
    return {
        "stamp": {"sec": min(seconds, _MAX_STAMP), "nanosec": nanoseconds},
        "frame_id": str(metadata.get("frame_id", "")),
    }


@cache
def _topic(name: str) -> str:
    """Return the name of a topic of ROS.

    >>> _topic("arm-2/joints.raw")
    '/arm_2/joints_raw'
    """
    tokens = [re.sub(r"[^A-Za-z0-9_]", "_", token) for token in name.strip("/").split("/")]
    return "/" + "/".join(f"_{token}" if token[:1].isdigit() else token for token in tokens)
