"""From taps into chunks: order, gaps, the first message of a new process, memory that is used up."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
from recorded_files import message_of

from dora.errors import DoraError
from dora.observe.topics import Topic
from dora.recording.mcap.channels import ChannelItem, ChannelTable
from dora.recording.mcap.chunk import CHUNK_SIZE, Chunk, ChunkPool
from dora.recording.recorder.chunk_filler import MAX_AGE, ChunkFiller, RecordedTopic
from dora.recording.recorder.taps import found_here
from dora.transport.board import BEGUN, SENT, WORDS
from dora.wire.daemon_protocol import Inspection, NodeView, OutputView
from dora.wire.message import Message


class Tap:
    """A tap with the messages that a test puts into it."""

    def __init__(self) -> None:
        self.waiting: deque[Message] = deque()

    def receive(self) -> Message | None:
        return self.waiting.popleft() if self.waiting else None


class Stage:
    """A chunk filler of two topics, and the chunks that it stores."""

    def __init__(self, limit: int = 64 << 20) -> None:
        self.words = memoryview(bytearray(2 * WORDS * 8)).cast("Q")
        self.pool = ChunkPool(limit)
        self.chunks: list[Chunk] = []
        self.channels = ChannelTable()
        self.filler = ChunkFiller(self.channels, self.pool, self.chunks.append)
        self.taps = [Tap(), Tap()]
        for slot, tap in enumerate(self.taps):
            topic = Topic(f"node/{slot}", "node", OutputView(str(slot), slot), ())
            self.filler.topics.append(RecordedTopic(topic, tap, 16, self.words))

    def send(self, slot: int, data: Any, sequence: int) -> None:
        self.words[slot * WORDS + SENT] = sequence
        self.taps[slot].waiting.append(message_of(data, {}, sequence, 1000 + sequence))

    def flush(self) -> list[dict[str, tuple[int, int, int]]]:
        self.filler.flush()
        return [
            {name: (span.first, span.last, span.messages) for name, span in chunk.spans.items()}
            for chunk in self.chunks
        ]


def test_messages_of_several_topics_and_types() -> None:
    stage = Stage()
    for number in (1, 2, 3):
        stage.send(0, np.array([number]), number)
    stage.send(1, b"x", 1)
    stage.send(1, np.array([1.0]), 2)
    assert stage.filler.poll() == 3 / 16
    assert stage.filler.poll() == 0
    assert (stage.filler.messages, stage.filler.bytes) == (5, 33)
    assert stage.flush() == [{"node/0": (1, 3, 3), "node/1": (1, 2, 2)}]
    assert [stage.channels.item(number).schema for number in (1, 2, 3)] == [
        "dora.Int64",
        "dora.UInt8",
        "dora.Float64",
    ]


def test_a_chunk_is_handed_over_when_it_is_full_or_old() -> None:
    stage = Stage()
    megabyte = np.zeros(1 << 20, np.uint8)
    for number in range(1, 7):
        stage.send(0, megabyte, number)
    stage.filler.poll()
    assert [chunk.size > CHUNK_SIZE for chunk in stage.chunks] == [True]
    stage.filler.flush_old(0.0)
    assert len(stage.chunks) == 1
    stage.filler.flush_old(stage.filler._begun + MAX_AGE)
    assert [span["node/0"][2] for span in stage.flush()] == [4, 2]


def test_an_outsized_message_has_a_chunk_of_its_own() -> None:
    stage = Stage()
    stage.send(0, b"small", 1)
    stage.send(0, np.zeros(3 * CHUNK_SIZE, np.uint8), 2)
    stage.send(0, b"small", 3)
    stage.filler.poll()
    assert [span["node/0"] for span in stage.flush()] == [(1, 1, 1), (2, 2, 1), (3, 3, 1)]


def test_without_memory_messages_stay_in_the_taps() -> None:
    stage = Stage(limit=2 * CHUNK_SIZE)
    megabyte = np.zeros(1 << 20, np.uint8)
    for number in range(1, 11):
        stage.send(0, megabyte, number)
    stage.send(1, b"x", 1)
    assert stage.filler.poll() == 1.0
    assert stage.filler.waits_for_memory
    assert stage.filler.poll() == 1.0, "nothing has changed"
    assert len(stage.taps[0].waiting) == 5
    while stage.filler.waits_for_memory:
        stage.pool.release(stage.chunks)
        stage.chunks.clear()
        stage.filler.poll()
    assert stage.filler.messages == 11, "nothing was lost"


def test_a_number_that_a_killed_process_counted_but_did_not_send_is_not_lost() -> None:
    stage = Stage()
    topic = stage.filler.topics[0]
    stage.send(0, b"x", 1)
    stage.filler.poll()
    stage.words[BEGUN] = 2  # message 2 was counted, and its sender killed
    stage.send(0, b"x", 3)
    stage.filler.poll()
    assert topic.unsent == [2]
    stage.send(0, b"x", 5)
    stage.filler.poll()
    assert topic.unsent == [2], "4 was lost"


def test_context_messages_are_recorded() -> None:
    stage = Stage()
    item = ChannelItem("dora/log", "foxglove.Log", {})
    assert stage.filler.add_context(iter([(item, 5, b"one"), (item, 6, b"two")]))
    (spans,) = stage.flush()
    assert spans == {}
    (chunk,) = stage.chunks
    assert b"one" in bytes(chunk.contents) and (chunk.first, chunk.last) == (5, 6)
    assert stage.filler.messages == 0


def test_without_memory_context_messages_wait() -> None:
    stage = Stage(limit=2 * CHUNK_SIZE)
    item = ChannelItem("dora/order/node", "", {})
    data = bytes(1 << 20)
    waiting = iter([(item, number, data) for number in range(1, 11)])
    assert not stage.filler.add_context(waiting)
    assert stage.filler.memory_in_use
    assert not stage.filler.add_context(waiting), "nothing has changed"
    times = []
    done = False
    while not done:
        times += [(chunk.first, chunk.last) for chunk in stage.chunks]
        stage.pool.release(stage.chunks)
        stage.chunks.clear()
        done = stage.filler.add_context(waiting)
    stage.filler.flush()
    times += [(chunk.first, chunk.last) for chunk in stage.chunks]
    assert times == [(1, 4), (5, 8), (9, 10)], "nothing was lost"


def test_outputs_of_other_machines_are_recorded_there() -> None:
    def inspection(*machines: str) -> Inspection:
        nodes = [
            NodeView(f"on-{machine}", "Running", machine=machine, outputs=[OutputView("out", slot)])
            for slot, machine in enumerate(machines)
        ]
        return Inspection("id", None, "iceoryx2", "", "", "", nodes, [], "a")

    assert [topic.name for topic in found_here(inspection("a", "b"), ())] == ["on-a/out"]
    with pytest.raises(DoraError, match="`on-b/out` is sent on machine `b`, and can be recorded there"):
        found_here(inspection("a", "b"), ["on-b/out"])
    with pytest.raises(DoraError, match="all outputs of this dataflow are sent on other machines"):
        found_here(inspection("b"), ())
