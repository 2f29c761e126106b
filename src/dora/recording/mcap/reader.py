"""Read recordings of dora, complete ones and damaged ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from dora.recording.mcap.file import END_OF_TIME, McapFile
from dora.recording.mcap.format import (
    DATAFLOW,
    END,
    ORDER_TOPIC,
    OWN_TOPICS,
    PROFILE,
    START,
    End,
    RecordingStart,
    dataflow_of,
    from_record,
    of_another_program,
    start_of,
)
from dora.recording.mcap.recording import RecordedMessage, Recording, TopicInfo


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
            yield RecordedMessage(channel.topic, stored.sequence, stored.time_ns, stored.data)

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
        from mcap.records import Attachment, Metadata

        if self._file.profile not in (PROFILE, None):
            raise of_another_program(self.path, self._file.profile)
        start: dict[str, str] | None = None
        for record in self._file.beginning():
            match record:
                case Metadata(name=name, metadata=metadata) if name == START:
                    start = metadata
                case Attachment(name=name, data=data) if name == DATAFLOW:
                    self.dataflow = dataflow_of(data)
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
            name = channel.topic
            if name.startswith(ORDER_TOPIC):
                self._orders = True
            if not name.startswith(OWN_TOPICS):
                topic = self.topics.setdefault(name, TopicInfo(name))
                topic.note(channel, file.schemas.get(channel.schema_id), file.counts[id_])

    def _records(self, topics: Collection[str], begin_ns: int, end_ns: int) -> Iterator[tuple[Any, Any]]:
        """Yield channels and messages up to the first damaged place, and note the damage."""
        yield from self._file.messages(lambda channel: channel.topic in topics, begin_ns, end_ns)
        self.damage = self._file.damage or self.damage
