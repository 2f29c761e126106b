"""Read recordings of dora, complete ones and damaged ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from dora.recording.mcap.file import END_OF_TIME, McapFile
from dora.recording.mcap.format import (
    ARROW_TYPE,
    DATAFLOW,
    DECLARED_TYPE,
    END,
    ORDER_TOPIC,
    OWN_TOPICS,
    PROFILE,
    START,
    End,
    NotARecording,
    RecordingStart,
    from_record,
    restore,
    start_of,
)
from dora.recording.mcap.recording import RecordedMessage, Recording, TopicInfo
from dora.wire.decoders import DecodeError, from_json
from dora.wire.message import Message


class DoraRecording(Recording):
    """An open file of `dora record`; ``with`` closes it."""

    def __init__(self, path: str) -> None:
        """Open a recording; raises `NotARecording` for another file, `DoraError` if there is none.

        A file without its end is scanned once, to find out what it contains.
        """
        super().__init__(path)
        self._orders = False  # whether the order of events is in it
        self._file = McapFile(path)
        self.size = self._file.size
        try:
            self.start = self._read_start()
            self._read_topics()
        except BaseException:
            self.close()
            raise

    def messages(
        self, topics: Collection[str] | None = None, begin_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[RecordedMessage]:
        wanted = set(self.topics if topics is None else topics)
        upper = END_OF_TIME if end_ns is None else end_ns
        for channel, stored in self._records(wanted, begin_ns or 0, upper):
            if stored.time_ns > self.reached_ns:
                self.reached_ns = stored.time_ns
            yield RecordedMessage(channel.topic, stored.sequence, stored.time_ns, stored.data, _restore)

    def latched(self, topics: Collection[str]) -> Iterator[RecordedMessage]:
        begun_ns = self.start.started
        for recorded in self.messages(topics, begun_ns, begun_ns + 1):
            if recorded.message.time_ns < begun_ns:
                yield recorded

    def orders(self) -> Iterator[tuple[str, bytes]]:
        if not self._orders:
            return
        topics = {ORDER_TOPIC + node_id for node_id in self.start.nodes}
        for channel, stored in self._records(topics, 0, END_OF_TIME):
            yield channel.topic.removeprefix(ORDER_TOPIC), stored.data

    def context(self, topic: str) -> Iterator[tuple[int, bytes]]:
        for _, stored in self._records({topic}, 0, END_OF_TIME):
            yield stored.time_ns, stored.data

    def has_orders(self) -> bool:
        return self._orders

    def close(self) -> None:
        self._file.close()

    def _read_start(self) -> RecordingStart:
        """Read the records before the first chunk."""
        from mcap.records import Attachment, Header, Metadata

        start: dict[str, str] | None = None
        for record in self._file.beginning():
            match record:
                case Header(profile=profile):
                    if profile != PROFILE:
                        raise NotARecording(
                            f"{self.path} is an MCAP file, but neither dora nor ROS 2 wrote it"
                            + (f" (its profile is `{profile}`)" if profile else "")
                        )
                case Metadata(name=name, metadata=metadata) if name == START:
                    start = metadata
                case Attachment(name=name, data=data) if name == DATAFLOW:
                    self.dataflow = _dataflow(data)
            if start is not None and self.dataflow:
                break
        return start_of(self.path, start)

    def _read_topics(self) -> None:
        file = self._file
        file.index(lambda channel: not channel.topic.startswith(OWN_TOPICS))
        self.first_ns, self.last_ns = file.first_ns, file.last_ns
        if END in file.metadata:
            self.end = from_record(file.metadata[END], End)
        self.damage = file.damage
        if not file.is_indexed:
            self.damage = self.damage or "its end is missing"
        elif self.end is None:
            self.damage = self.damage or "it has no end record"
        for id_, channel in file.channels.items():
            schema = file.schemas.get(channel.schema_id)
            self._note(channel, schema.name if schema is not None else "", file.counts[id_])

    def _note(self, channel: Any, schema: str, count: int) -> None:
        if channel.topic.startswith(ORDER_TOPIC):
            self._orders = True
        if channel.topic.startswith(OWN_TOPICS):
            return
        topic = self.topics.setdefault(channel.topic, TopicInfo(channel.topic))
        topic.messages += count
        arrow_type = channel.metadata.get(ARROW_TYPE, "")
        if arrow_type and arrow_type not in topic.types:
            topic.types.append(arrow_type)
        if schema and schema not in topic.schemas:
            topic.schemas.append(schema)
        topic.declared = channel.metadata.get(DECLARED_TYPE, topic.declared)

    def _records(self, topics: Collection[str], begin_ns: int, end_ns: int) -> Iterator[tuple[Any, Any]]:
        """Yield channels and messages up to the first damaged place, and note the damage."""
        yield from self._file.messages(lambda channel: channel.topic in topics, begin_ns, end_ns)
        self.damage = self._file.damage or self.damage


def _restore(recorded: RecordedMessage) -> Message:
    return restore(recorded.data)


def _dataflow(data: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = from_json(data, dict[str, Any])
    except DecodeError:
        return {}
    return found
