"""From the taps into chunks: the part of a recorder that must not be late.

A tap holds only so many messages, and nobody waits for it. So it is emptied often, into memory; writing
is the business of another thread. When memory is used up, messages stay in the taps until there is some
again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final, Protocol

from dora.observe.topics import Topic
from dora.recording.mcap.channels import (
    ChannelItem,
    ChannelKey,
    ChannelTable,
    Form,
    Schemas,
    form_of,
    prefix_of,
    says_more,
)
from dora.recording.recorder.chunk import CHUNK_SIZE, Chunk, ChunkSpan, Pool, room_for
from dora.transport.board import BEGUN, RECORDED, SENT, TAPPED, WORDS
from dora.wire.message import Encoding, Message

OwnMessage = tuple[ChannelItem, int, bytes]
"""Channel, time and data of a message that is no output's."""

LONGEST: Final = 1.0  # seconds from the first message of a chunk until it is handed over
_BATCH: Final = 256  # messages of one topic before the next has its turn


class TappedSource(Protocol):
    """Where the messages of a topic come from: a tap, mostly."""

    def receive(self) -> Message | None:
        """Take the oldest message, or return None; never blocks."""
        ...


class RecordedTopic:
    """One topic that is recorded, and how far that is."""

    def __init__(self, topic: Topic, tap: TappedSource, queue_size: int, words: memoryview) -> None:
        self.name = topic.name
        self.node_id = topic.node_id
        self.declared = topic.output.type
        self.queue_size = queue_size
        self.tap = tap
        self.seen = 0  # sequence number of the last message taken
        self.before = 0  # sequence number before the first that has to be in the recording
        self.from_start = True  # attached before anything was sent; else it begins with what comes first
        self.unsent: list[int] = []  # numbers that a killed node counted, for messages it never sent
        self.schemas = Schemas()
        self.plain: dict[bytes, tuple[int, Form]] = {}  # schema section → channel of plain values
        self._words = words
        self._base = topic.output.slot * WORDS

    @property
    def sent(self) -> int:
        return self._words[self._base + SENT]

    def renew(self, until_ns: int) -> None:
        """Let the output be sent even if it has no links, until then."""
        self._words[self._base + TAPPED] = until_ns

    def tell(self) -> None:
        """Tell the daemon how far this is: what is not taken yet must not go with its sender."""
        self._words[self._base + RECORDED] = max(self.seen, self.before)

    def note(self, sequence: int) -> None:
        """Note that a message was taken."""
        if sequence == self.seen + 2 and sequence == self._words[self._base + BEGUN] + 1:
            # The first one of a new process: the former counts a message before it is sent.
            self.unsent.append(sequence - 1)
        if not self.seen and not self.from_start:
            self.before = sequence - 1
        self.seen = sequence


class RecordingIntake:
    """Takes messages and puts them into chunks, which it hands over when they are full or old."""

    def __init__(self, channels: ChannelTable, pool: Pool, hand_over: Callable[[Chunk], None]) -> None:
        self.topics: list[RecordedTopic] = []
        self.messages = 0
        self.bytes = 0  # of their bodies
        self._channels = channels
        self._pool = pool
        self._hand_over = hand_over
        self._chunk: Chunk | None = None
        self._begun = 0.0  # when the chunk got its first message
        self._held: tuple[RecordedTopic, Message, int, bytes] | None = None  # what there is no memory for
        self._held_own: OwnMessage | None = None  # likewise
        self._own: dict[str, tuple[int, int]] = {}  # topic that is no output → channel, messages

    def look(self) -> float:
        """Take what is there; return how full the fullest tap was, from 0 to 1."""
        fullest = 0.0
        if self._held is not None and not self._put(*self._held):
            return 1.0
        for topic in self.topics:
            if topic.sent == topic.seen:
                continue
            receive = topic.tap.receive
            count = 0
            while count < _BATCH and (message := receive()) is not None:
                count += 1
                if not self._take(topic, message):
                    return 1.0
            topic.tell()
            fullest = max(fullest, count / topic.queue_size)
        return fullest

    def add_own(self, items: Iterator[OwnMessage]) -> bool:
        """Add messages that are no output's, as long as there is memory; tell whether all were added.

        A replay needs each of them, so none is let go of: the next call goes on where this one ended.
        """
        held = () if self._held_own is None else (self._held_own,)
        self._held_own = None
        for own in chain(held, items):
            item, time_ns, data = own
            chunk = self._room(room_for(0, len(data)))
            if chunk is None:
                self._held_own = own
                return False
            known = self._own.get(item.topic)
            channel, count = (self._channels.add(item), 0) if known is None else known
            self._own[item.topic] = channel, count + 1
            chunk.add_data(channel, count + 1, time_ns, data)
        return True

    def let_go(self) -> None:
        """Give up what waits for memory, and lies in that of the sender."""
        self._held = None

    def hand_over_old(self, now: float) -> None:
        """Hand over a chunk that waits for too long (monotonic time)."""
        if self._chunk is not None and now - self._begun >= LONGEST:
            self.hand_over()

    def hand_over(self) -> None:
        """Hand over what there is."""
        chunk, self._chunk = self._chunk, None
        if chunk is not None:
            self._hand_over(chunk)

    @property
    def stalled(self) -> bool:
        """Whether a message waits for memory."""
        return self._held is not None

    @property
    def memory_comes(self) -> bool:
        """Whether memory is in use that can be used again once it is written."""
        return self._pool.used > 0

    def _take(self, topic: RecordedTopic, message: Message) -> bool:
        plain = message.encoding == Encoding.PLAIN and not says_more(message.metadata)
        known = topic.plain.get(message.schema) if plain else None
        if known is None:
            form = form_of(message)
            known = self._channel(topic, message, form.schema), form
            if plain:
                topic.plain[message.schema] = known
        channel, form = known
        return self._put(topic, message, channel, prefix_of(message, form))

    def _channel(self, topic: RecordedTopic, message: Message, schema: str) -> int:
        key = ChannelKey(topic.name, schema, topic.schemas.of(message))
        return self._channels.number(key, topic.declared)

    def _put(self, topic: RecordedTopic, message: Message, channel: int, prefix: bytes) -> bool:
        chunk = self._room(room_for(len(prefix), message.body_size))
        if chunk is None:
            self._held = topic, message, channel, prefix
            return False
        self._held = None
        sequence = message.sequence
        chunk.add(channel, sequence, message.time_ns, prefix, message)
        topic.note(sequence)
        self.messages += 1
        self.bytes += message.body_size
        span = chunk.spans.get(topic.name)
        if span is None:
            span = chunk.spans[topic.name] = ChunkSpan(sequence)
        span.last = sequence
        span.messages += 1
        return True

    def _room(self, size: int) -> Chunk | None:
        chunk = self._chunk
        if chunk is not None:
            if chunk.size < CHUNK_SIZE and chunk.size + size <= chunk.capacity:
                return chunk
            self.hand_over()
        chunk = self._chunk = self._pool.take(size)
        self._begun = time.monotonic()
        return chunk


def spans_of(chunks: Iterable[dict[str, ChunkSpan]]) -> dict[str, ChunkSpan]:
    """Return, by topic, the span of several chunks, which are in order."""
    found: dict[str, ChunkSpan] = {}
    for spans in chunks:
        for name, span in spans.items():
            known = found.get(name)
            if known is None:
                found[name] = ChunkSpan(span.first, span.last, span.messages)
            else:
                known.last = span.last
                known.messages += span.messages
    return found
