"""The options and the result of a recording."""

from __future__ import annotations

import os
import time
from typing import Final

import msgspec

from dora.recording.mcap.chunk import Compression
from dora.recording.mcap.format import SUFFIX, TopicEnd

# Messages that wait for the recorder in shared memory, of each output. iceoryx2 reserves addresses for 64
# times the largest message, for each place in each queue: with messages of 500 MB, two outputs take all.
QUEUE_SIZE: Final = 256
# Bytes that may wait for the disk. From a quarter on, chunks are no longer compressed. When all are used,
# messages stay in the taps, which drop their oldest.
MEMORY: Final = 512 << 20
# A ring takes at most this part of the machine's memory; one that would need more keeps fewer seconds.
RING_SHARE: Final = 4


class RecordingOptions(msgspec.Struct, kw_only=True, frozen=True):
    """How to record. ``path`` "": a name made of the time, in the current folder."""

    path: str = ""
    topics: list[str] = []  # none: all
    compression: Compression = "zstd"
    force: bool = False  # overwrite the file
    last_seconds: float | None = None  # keep that much in a ring in memory instead of a file
    together: bool = False  # tapped before anything was sent


class Saved(msgspec.Struct, kw_only=True):
    """The result of a recording, or of one save of a ring."""

    path: str
    size: int = 0  # bytes
    complete: bool = False
    topics: dict[str, TopicEnd] = {}
    problem: str = ""  # why nothing more could be written

    @property
    def messages(self) -> int:
        """How many messages the file has, of all topics."""
        return sum(topic.messages for topic in self.topics.values())

    @property
    def lost(self) -> int:
        """How many messages are known to be missing, of all topics."""
        return sum(topic.lost for topic in self.topics.values())


def file_name() -> str:
    """Return a name for a recording that begins now, such as ``recording_20261201-040000.mcap``."""
    return time.strftime(f"recording_%Y%m%d-%H%M%S{SUFFIX}")


def unused(path: str) -> str:
    """Return a path at which there is no file yet."""
    number = 1
    while os.path.lexists(numbered(path, number)):
        number += 1
    return numbered(path, number)


def ring_memory() -> int:
    """Return how many bytes a ring may take."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // RING_SHARE


def numbered(path: str, number: int) -> str:
    """Return the path of the n-th file of a ring.

    >>> numbered("crash.mcap", 1), numbered("crash.mcap", 2)
    ('crash.mcap', 'crash-2.mcap')
    """
    stem, suffix = os.path.splitext(path)
    return path if number == 1 else f"{stem}-{number}{suffix}"
