"""Move messages from taps into chunks: the part of a recorder that must not be late.

A tap holds few messages, and no sender waits for it, so it is emptied often. Another thread writes the
chunks. When memory runs out, messages stay in the taps until chunks have been written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final, Protocol

from dora.observe.topics import Topic
from dora.recording.mcap.channels import ChannelTable, ContextMessage, Form, may_have_form, prefix_of
from dora.recording.mcap.chunk import CHUNK_SIZE, Chunk, ChunkPool, ChunkSpan, room_for
from dora.transport.board import BEGUN, RECORDED, SENT, WORDS
from dora.wire.message import Encoding, Message

# Seconds from the first message of a chunk until it is stored. A recorder that is killed loses what is not
# stored yet, so its file can be read up to the last second or so.
MAX_AGE: Final = 1.0
# Messages of one topic before the next topic is polled: a busy topic must not keep the recorder away from
# the other taps, which hold few messages.
_BATCH: Final = 256


class TappedSource(Protocol):
    """The source of a topic's messages, usually a tap."""

    def receive(self) -> Message | None:
        """Take the oldest message, or return None; never blocks."""
        ...


class RecordedTopic:
    """One recorded topic and its progress."""

    def __init__(self, topic: Topic, tap: TappedSource, queue_size: int, words: memoryview) -> None:
        self.name = topic.name
        self.node_id = topic.node_id
        self.declared = topic.output.type
        self.queue_size = queue_size
        self.tap = tap
        self.seen = 0  # sequence number of the last message taken
        self.before = 0  # sequence number before the first that has to be in the recording
        # Tapped before anything was sent; otherwise it starts with the first message seen.
        self.from_start = True
        # Messages up to this number come from the latch, and may have been sent before the recording began.
        self.latched_to = 0
        self.begun_ns = 0
        self.unsent: list[int] = []  # numbers that a killed node counted for messages that it never sent
        self.plain: dict[bytes, tuple[int, Form]] = {}  # schema section → channel of plain values
        self._words = words
        self._base = topic.output.slot * WORDS

    @property
    def sent(self) -> int:
        """Sequence number of the newest message that the output has numbered; it may not have come yet."""
        return self._words[self._base + SENT]

    def publish_progress(self) -> None:
        """Write the progress to the board: messages that are not taken yet outlive their sender."""
        self._words[self._base + RECORDED] = max(self.seen, self.before)

    def mark_taken(self, sequence: int) -> None:
        """Count a message that was taken."""
        if sequence == self.seen + 2 and sequence == self._words[self._base + BEGUN] + 1:
            # The first message of a new process: the old one had counted a message before sending it.
            self.unsent.append(sequence - 1)
        if not self.seen and not self.from_start:
            self.before = sequence - 1
        self.seen = sequence


class ChunkFiller:
    """Fills chunks with messages, and stores them when they are full or old."""

    def __init__(self, channels: ChannelTable, pool: ChunkPool, store: Callable[[Chunk], None]) -> None:
        self.topics: list[RecordedTopic] = []
        self.messages = 0
        self.bytes = 0  # of their bodies
        self._channels = channels
        self._pool = pool
        self._store = store
        self._chunk: Chunk | None = None
        self._begun = 0.0  # when the chunk was started
        # Messages that wait for memory.
        self._held: tuple[RecordedTopic, Message, int, bytes] | None = None
        self._held_context: ContextMessage | None = None

    def poll(self) -> float:
        """Take what the taps hold; return how full the fullest one was, from 0 to 1."""
        fullest = 0.0
        if self._held is not None:
            topic, *_ = self._held
            if not self._put(*self._held):
                return 1.0
            topic.publish_progress()  # here: the loop passes over a topic with nothing more to take
        for topic in self.topics:
            # Asked only while a message is missing: a `RingTap` searches its queue after a few calls.
            if topic.sent == topic.seen:
                continue
            receive = topic.tap.receive
            count = 0
            while count < _BATCH and (message := receive()) is not None:
                count += 1
                if not self._take(topic, message):
                    topic.publish_progress()
                    return 1.0
            topic.publish_progress()
            fullest = max(fullest, count / topic.queue_size)
        return fullest

    def add_context(self, items: Iterator[ContextMessage]) -> bool:
        """Add messages of the context while there is memory; return whether all were added.

        A replay needs each of them, so none is dropped: the next call continues where this one ended.
        """
        held = () if self._held_context is None else (self._held_context,)
        self._held_context = None
        for own in chain(held, items):
            item, time_ns, data = own
            chunk = self._room(room_for(0, len(data)))
            if chunk is None:
                self._held_context = own
                return False
            chunk.add_data(*self._channels.of_context(item), time_ns, data)
        return True

    def drop_held(self) -> None:
        """Drop the message that waits for memory; it occupies memory of its sender."""
        self._held = None

    def flush_old(self, now: float) -> None:
        """Store the chunk if it is too old at this monotonic time."""
        if self._chunk is not None and now - self._begun >= MAX_AGE:
            self.flush()

    def flush(self) -> None:
        """Store the chunk as it is."""
        chunk, self._chunk = self._chunk, None
        if chunk is not None:
            self._store(chunk)

    @property
    def waits_for_memory(self) -> bool:
        """Whether a message waits for memory."""
        return self._held is not None

    @property
    def memory_in_use(self) -> bool:
        """Whether chunks are in use whose memory becomes free once they are written."""
        return self._pool.used > 0

    def _take(self, topic: RecordedTopic, message: Message) -> bool:
        plain = message.encoding == Encoding.PLAIN and not may_have_form(message.metadata)
        known = topic.plain.get(message.schema) if plain else None
        if known is None:
            known = self._channels.of_message(topic.name, message, topic.declared)
            if plain:
                topic.plain[message.schema] = known
        channel, form = known
        return self._put(topic, message, channel, prefix_of(message, form))

    def _put(self, topic: RecordedTopic, message: Message, channel: int, prefix: bytes) -> bool:
        chunk = self._room(room_for(len(prefix), message.body_size))
        if chunk is None:
            self._held = topic, message, channel, prefix
            return False
        self._held = None
        sequence, time_ns = message.sequence, message.time_ns
        if sequence <= topic.latched_to:
            time_ns = max(time_ns, topic.begun_ns)
        chunk.add(channel, sequence, time_ns, prefix, message)
        topic.mark_taken(sequence)
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
            self.flush()
        chunk = self._chunk = self._pool.take(size)
        self._begun = time.monotonic()
        return chunk
