"""One file of a bag: MCAP or SQLite."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote

from dora.recording.mcap.file import END_OF_TIME, McapFile, damage_text
from dora.recording.mcap.format import NotARecording

CDR: Final = "cdr"
PROFILE: Final = "ros2"  # in the header of an MCAP file
SQLITE_MAGIC: Final = b"SQLite format 3\0"


class BagChannel(NamedTuple):
    """A topic of one file, with one type. A topic may have several."""

    topic: str  # as in ROS: "/camera/image_raw"
    type_name: str
    definition: str  # text, "" if the file has none
    encoding: str  # of messages; only `CDR` is read
    messages: int


class BagFile(Protocol):
    """An open file of a bag."""

    damage: str  # why its end, or a part, cannot be read
    channels: list[BagChannel]
    first_ns: int
    last_ns: int
    distribution: str  # of ROS; "" if the file does not say

    def messages(
        self, topics: Collection[str], begin_ns: int, end_ns: int
    ) -> Iterator[tuple[int, BagChannel, bytes]]:
        """Yield times, channels and bytes, by time, up to the first damaged place."""
        ...

    def close(self) -> None: ...


class McapBag:
    """An MCAP file of ROS 2."""

    distribution = ""

    def __init__(self, path: str) -> None:
        """Open a file; raises `NotARecording` if neither its profile nor a channel is of ROS 2."""
        from mcap.records import Header

        self._file = McapFile(path)
        try:
            header = next(self._file.beginning(), None)
            profile = header.profile if isinstance(header, Header) else ""
            self._file.index(lambda channel: channel.message_encoding == CDR)
            self.damage = self._file.damage
            self._channels = {id_: self._channel(id_) for id_ in self._file.channels}
            self.channels = list(self._channels.values())
            if profile != PROFILE and not any(channel.encoding == CDR for channel in self.channels):
                raise NotARecording(
                    f"{path} is an MCAP file, but neither dora nor ROS 2 wrote it"
                    + (f" (its profile is `{profile}`)" if profile else "")
                )
        except BaseException:
            self.close()
            raise
        self.first_ns, self.last_ns = self._file.first_ns, self._file.last_ns

    def _channel(self, id_: int) -> BagChannel:
        channel = self._file.channels[id_]
        schema = self._file.schemas.get(channel.schema_id)
        return BagChannel(
            channel.topic,
            schema.name if schema is not None else "",
            schema.data.decode(errors="replace") if schema is not None else "",
            channel.message_encoding,
            self._file.counts[id_],
        )

    def messages(
        self, topics: Collection[str], begin_ns: int, end_ns: int
    ) -> Iterator[tuple[int, BagChannel, bytes]]:
        found = self._file.messages(
            lambda channel: channel.message_encoding == CDR and channel.topic in topics, begin_ns, end_ns
        )
        for channel, stored in found:
            yield stored.time_ns, self._channels[channel.id], stored.data
        self.damage = self._file.damage or self.damage

    def close(self) -> None:
        self._file.close()


class SqliteBag:
    """A file ``.db3``, the storage of ROS 2 up to Humble."""

    def __init__(self, path: str) -> None:
        """Open a file; raises `NotARecording`."""
        self.path = path
        self.damage = ""
        # With a log of changes beside it, which a killed recorder leaves, the file alone is not all.
        option = "" if os.path.exists(path + "-wal") else "&immutable=1"
        try:
            self._database = sqlite3.connect(
                f"file:{quote(os.path.abspath(path))}?mode=ro{option}", uri=True, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise NotARecording(f"{path} cannot be read: {error}") from None
        try:
            self._read()
        except (sqlite3.Error, OSError, ValueError, TypeError) as error:
            self.close()
            raise NotARecording(f"{path} is a SQLite file, but no bag that can be read: {error}") from None

    def _is_cut(self) -> bool:
        """Return whether the file is shorter than its header says."""
        with open(self.path, "rb") as file:
            header = file.read(100)
        page = int.from_bytes(header[16:18], "big")
        pages = int.from_bytes(header[28:32], "big")
        is_valid = header[24:28] == header[92:96]  # else an old SQLite wrote it, without the number
        return is_valid and os.path.getsize(self.path) < (page if page > 1 else 1 << 16) * pages

    def _read(self) -> None:
        if self._is_cut():
            self.damage = "the file ends in the middle of something"
            self._rows("PRAGMA writable_schema = ON")  # else SQLite refuses the file as a whole
        tables = {name for (name,) in self._rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"topics", "messages"} <= tables:
            raise ValueError("it has no tables of topics and messages")
        definitions: dict[str, str] = {}
        if "message_definitions" in tables:
            definitions = dict(
                self._rows("SELECT topic_type, encoded_message_definition FROM message_definitions")
            )
        self.distribution = ""
        if "schema" in tables and any(
            row[1] == "ros_distro" for row in self._rows("PRAGMA table_info(schema)")
        ):
            self.distribution = next(
                (str(name) for (name,) in self._rows("SELECT ros_distro FROM schema")), ""
            )
        counts: Counter[int] = Counter()
        times: list[int] = []
        try:
            query = (
                "SELECT topic_id, COUNT(*), MIN(timestamp), MAX(timestamp) FROM messages GROUP BY topic_id"
            )
            for topic, count, first, last in self._rows(query):
                counts[topic] = count
                times += int(first), int(last)
        except sqlite3.DatabaseError as error:
            self.damage = self.damage or damage_text(error)
            counts, times = self._up_to_the_damage()
        self.first_ns, self.last_ns = min(times, default=0), max(times, default=0)
        self._channels = {
            id_: BagChannel(
                str(topic), str(kind), str(definitions.get(kind, "")), str(encoding), counts[id_]
            )
            for id_, topic, kind, encoding in self._rows(
                "SELECT id, name, type, serialization_format FROM topics"
            )
        }
        self.channels = list(self._channels.values())

    def _up_to_the_damage(self) -> tuple[Counter[int], list[int]]:
        """Return how many messages each topic has before the damage, and the first and the last time."""
        counts: Counter[int] = Counter()
        times: list[int] = []
        try:
            for topic, time_ns in self._rows(
                "SELECT topic_id, timestamp FROM messages ORDER BY timestamp, id"
            ):
                counts[topic] += 1
                times[1:] = [int(time_ns)]
        except sqlite3.DatabaseError:
            pass  # this is where it is damaged
        return counts, times

    def _rows(self, query: str, *values: Any) -> Iterator[Any]:
        return iter(self._database.execute(query, values))

    def messages(
        self, topics: Collection[str], begin_ns: int, end_ns: int
    ) -> Iterator[tuple[int, BagChannel, bytes]]:
        wanted = [
            id_
            for id_, channel in self._channels.items()
            if channel.topic in topics and channel.encoding == CDR
        ]
        places = ", ".join("?" for _ in wanted)
        query = (
            f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({places}) "
            "AND timestamp >= ? AND timestamp < ? ORDER BY timestamp, id"
        )
        last_ns = min(end_ns, END_OF_TIME - 1)  # SQLite has 63 bits, too
        try:
            for id_, time_ns, data in self._rows(query, *wanted, begin_ns, last_ns):
                if not isinstance(data, bytes) or not isinstance(time_ns, int):
                    self.damage = "a message has no time, or no bytes"
                    return
                yield time_ns, self._channels[id_], data
        except sqlite3.Error as error:
            self.damage = self.damage or damage_text(error)

    def close(self) -> None:
        self._database.close()
