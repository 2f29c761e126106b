"""One file of a bag: MCAP or SQLite."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote

from dora.recording.mcap.file import END_OF_TIME, McapFile, damage_text
from dora.recording.mcap.format import PROFILE as DORA
from dora.recording.mcap.format import NotARecording, of_another_program

CDR: Final = "cdr"
PROFILE: Final = "ros2"  # in the header of an MCAP file
SQLITE_MAGIC: Final = b"SQLite format 3\0"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"  # of a compressed file or message; no message in CDR begins so


def is_bag_without_mcap(path: str) -> bool:
    """Return whether a file is of a bag in SQLite or a compressed one; False if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(SQLITE_MAGIC)).startswith((SQLITE_MAGIC, ZSTD_MAGIC))
    except OSError:
        return False


class BagChannel(NamedTuple):
    """A topic of one file, with one type. A topic may have several."""

    topic: str  # as in ROS: "/camera/image_raw"
    type_name: str
    definition: str  # text, "" if the file has none
    encoding: str  # of messages; only `CDR` is read
    messages: int


def bag_channel(channel: Any, schema: Any, messages: int) -> BagChannel:
    """Return a channel of an MCAP file. ``schema``: None if it has none."""
    return BagChannel(
        printable(channel.topic),
        printable(schema.name) if schema is not None else "",
        schema.data.decode(errors="replace") if schema is not None else "",
        channel.message_encoding,
        messages,
    )


class BagFile(Protocol):
    """A file of a bag, which is open only while it is read."""

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


class McapBag:
    """An MCAP file of ROS 2."""

    distribution = ""

    def __init__(self, path: str) -> None:
        """Read the index; raises `NotARecording` if neither the profile nor a channel is of ROS 2."""
        self._file = McapFile(path)
        try:
            self._file.index(lambda channel: channel.message_encoding == CDR)
            self.damage = self._file.damage
            self._channels = {
                id_: bag_channel(channel, self._file.schemas.get(channel.schema_id), self._file.counts[id_])
                for id_, channel in self._file.channels.items()
            }
            self.channels = list(self._channels.values())
            if self._file.profile == DORA:
                raise NotARecording(f"{path} is a recording of dora and no part of a bag")
            is_cdr = any(channel.encoding == CDR for channel in self.channels)
            if self._file.profile != PROFILE and not is_cdr:
                raise of_another_program(path, self._file.profile)
        finally:
            self._file.close()
        self.first_ns, self.last_ns = self._file.first_ns, self._file.last_ns

    def messages(
        self, topics: Collection[str], begin_ns: int, end_ns: int
    ) -> Iterator[tuple[int, BagChannel, bytes]]:
        found = self._file.messages(
            lambda channel: channel.message_encoding == CDR and printable(channel.topic) in topics,
            begin_ns,
            end_ns,
        )
        for channel, stored in found:
            known = self._channels.get(channel.id)  # a file that grows may have new ones
            if known is not None:
                yield stored.time_ns, known, stored.data
        self.damage = self._file.damage or self.damage


class SqliteBag:
    """A file ``.db3``, the storage of ROS 2 up to Humble."""

    def __init__(self, path: str) -> None:
        """Read the topics; raises `NotARecording`."""
        self.path = path
        self.damage = ""
        try:
            if self._is_cut():
                self.damage = "the file ends in the middle of something"
            with closing(self._connect()) as database:
                self._read(database)
        except (sqlite3.Error, OSError, ValueError, TypeError) as error:
            what = printable(str(error).partition("\n")[0])
            raise NotARecording(f"{path} is a SQLite file, but no bag that can be read: {what}") from None

    def _is_cut(self) -> bool:
        """Return whether the file is shorter than its header says."""
        with open(self.path, "rb") as file:
            header = file.read(100)
        page = int.from_bytes(header[16:18], "big")
        pages = int.from_bytes(header[28:32], "big")
        is_valid = header[24:28] == header[92:96]  # else an old SQLite wrote it, without the number
        return is_valid and os.path.getsize(self.path) < (page if page > 1 else 1 << 16) * pages

    def _connect(self) -> sqlite3.Connection:
        # With a log of changes beside it, which a killed recorder leaves, the file alone is not all.
        option = "" if os.path.exists(self.path + "-wal") else "&immutable=1"
        place = f"file:{quote(os.path.abspath(self.path))}?mode=ro{option}"
        database = sqlite3.connect(place, uri=True, check_same_thread=False)
        database.text_factory = _text
        if self.damage:
            database.execute("PRAGMA writable_schema = ON")  # else SQLite refuses a cut file as a whole
        return database

    def _read(self, database: sqlite3.Connection) -> None:
        rows = database.execute
        tables = {name for (name,) in rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"topics", "messages"} <= tables:
            raise ValueError("it has no tables of topics and messages")
        definitions: dict[str, str] = {}
        if "message_definitions" in tables:
            definitions = dict(
                rows("SELECT topic_type, encoded_message_definition FROM message_definitions")
            )
        self.distribution = ""
        if "schema" in tables and any(row[1] == "ros_distro" for row in rows("PRAGMA table_info(schema)")):
            names = rows("SELECT ros_distro FROM schema")
            self.distribution = next((printable(str(name)) for (name,) in names), "")
        counts: Counter[int] = Counter()
        times: list[int] = []
        try:
            query = (
                "SELECT topic_id, COUNT(*), MIN(timestamp), MAX(timestamp) FROM messages GROUP BY topic_id"
            )
            for topic, count, first, last in rows(query):
                counts[topic] = count
                times += int(first), int(last)
        except sqlite3.DatabaseError as error:
            self.damage = self.damage or damage_text(error)
            counts, times = _up_to_the_damage(database)
        self.first_ns, self.last_ns = min(times, default=0), max(times, default=0)
        self._channels = {
            id_: BagChannel(
                printable(str(topic)),
                printable(str(kind)),
                str(definitions.get(kind, "")),
                str(encoding),
                counts[id_],
            )
            for id_, topic, kind, encoding in rows(
                "SELECT id, name, type, serialization_format FROM topics"
            )
        }
        self.channels = list(self._channels.values())

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
            with closing(self._connect()) as database:  # of its own: several may read at the same time
                for id_, time_ns, data in database.execute(query, (*wanted, begin_ns, last_ns)):
                    if not isinstance(data, bytes) or not isinstance(time_ns, int):
                        self.damage = "a message has no time, or no bytes"
                        return
                    yield time_ns, self._channels[id_], data
        except sqlite3.Error as error:
            self.damage = self.damage or damage_text(error)


def printable(name: str) -> str:
    """Return a name that a terminal shows as it is: a bag may come from anybody."""
    return name if name.isprintable() else repr(name)[1:-1]


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _up_to_the_damage(database: sqlite3.Connection) -> tuple[Counter[int], list[int]]:
    """Return how many messages each topic has before the damage, and the first and the last time."""
    counts: Counter[int] = Counter()
    times: list[int] = []
    try:
        for topic, time_ns in database.execute(
            "SELECT topic_id, timestamp FROM messages ORDER BY timestamp, id"
        ):
            counts[topic] += 1
            times[1:] = [int(time_ns)]
    except sqlite3.DatabaseError:
        pass  # this is where it is damaged
    return counts, times
