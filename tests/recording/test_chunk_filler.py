"""From taps into chunks: order, gaps, the first message of a new process, memory that is used up."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from recorded_files import message_of

from dora.errors import ConnectError, DoraError, TransportError
from dora.observe.topics import Topic
from dora.recording.mcap.channels import ChannelItem, ChannelTable
from dora.recording.mcap.chunk import CHUNK_SIZE, Chunk, ChunkPool
from dora.recording.recorder import chunk_filler
from dora.recording.recorder import taps as recorder_taps
from dora.recording.recorder.chunk_filler import MAX_AGE, ChunkFiller, RecordedTopic
from dora.recording.recorder.taps import LatchedTap, RecorderTaps, found_here
from dora.transport.board import BEGUN, RECORDED, SENT, WORDS
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


def test_a_full_chunk_takes_no_small_message_either() -> None:
    stage = Stage()
    for number in range(1, 5):
        stage.send(0, np.zeros(1 << 20, np.uint8), number)
    stage.send(0, b"small", 5)
    stage.filler.poll()
    assert [span["node/0"] for span in stage.flush()] == [(1, 4, 4), (5, 5, 1)]


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


def test_progress_is_published_of_messages_that_waited_for_memory() -> None:
    stage = Stage(limit=2 * CHUNK_SIZE)
    for number in range(1, 6):
        stage.send(0, np.zeros(1 << 20, np.uint8), number)
    stage.filler.poll()
    assert stage.filler.waits_for_memory
    assert stage.words[RECORDED] == 4
    stage.pool.release(stage.chunks)
    stage.filler.poll()
    assert not stage.filler.waits_for_memory
    assert stage.words[RECORDED] == 5


def test_a_busy_output_does_not_keep_the_recorder_from_the_others() -> None:
    stage = Stage()
    for number in range(1, 1000):
        stage.send(0, b"x", number)
    stage.send(1, b"x", 1)
    stage.filler.poll()
    assert len(stage.taps[0].waiting) > 500 and not stage.taps[1].waiting


def test_an_output_is_complete_from_its_first_message_if_its_tap_came_late() -> None:
    stage = Stage()
    topic = stage.filler.topics[0]
    topic.from_start, topic.before = False, 5
    topic.publish_progress()
    assert stage.words[RECORDED] == 5
    stage.send(0, b"x", 5)  # counted before the tap was open, and sent after that
    stage.send(0, b"x", 6)
    stage.filler.poll()
    assert (topic.before, topic.seen, stage.words[RECORDED]) == (4, 6, 6)


def test_what_was_latched_before_the_recording_is_at_its_begin() -> None:
    stage = Stage()
    topic = stage.filler.topics[0]
    topic.latched_to, topic.begun_ns = 2, 1_002_500
    stage.words[SENT] = 3
    for number in (1, 2, 3):
        stage.taps[0].waiting.append(message_of(b"x", {}, number, 1_000_000 + 1000 * number))
    stage.filler.poll()
    stage.filler.flush()
    (entries,) = stage.chunks[0].index.values()
    assert [time_ns for time_ns, _ in struct.iter_unpack("<QQ", entries)] == [1_002_500] * 2 + [1_003_000]


def test_the_age_of_a_chunk_counts_from_its_first_message(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(chunk_filler.time, "monotonic", lambda: now)
    stage = Stage()
    for number in (1, 2):
        stage.send(0, b"x", number)
        stage.filler.poll()
        stage.filler.flush_old(now + MAX_AGE / 2)
        assert len(stage.chunks) == number - 1
        now += MAX_AGE
        stage.filler.flush_old(now)
        assert len(stage.chunks) == number


def test_a_message_that_waited_for_memory_can_be_given_up() -> None:
    stage = Stage(limit=2 * CHUNK_SIZE)
    for number in range(1, 6):
        stage.send(0, np.zeros(1 << 20, np.uint8), number)
    stage.filler.poll()
    assert stage.filler.waits_for_memory
    stage.filler.drop_held()
    assert not stage.filler.waits_for_memory
    stage.pool.release(stage.chunks)
    stage.filler.poll()
    assert stage.filler.messages == 4


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
    stage.chunks.clear()
    assert stage.filler.add_context(iter(()))
    stage.filler.flush()
    assert not stage.chunks, "none comes twice"


def inspection(*machines: str) -> Inspection:
    """Return an inspection, on machine `a`, of a node with one output for each machine."""
    nodes = [
        NodeView(f"on-{machine}", "Running", machine=machine, outputs=[OutputView("out", slot)])
        for slot, machine in enumerate(machines)
    ]
    return Inspection("id", None, "iceoryx2", "", "", "", nodes, [], "a")


def test_outputs_of_other_machines_are_recorded_there() -> None:
    assert [topic.name for topic in found_here(inspection("a", "b"), ())] == ["on-a/out"]
    with pytest.raises(DoraError, match="`on-b/out` is sent on machine `b`, and can be recorded there"):
        found_here(inspection("a", "b"), ["on-b/out"])
    with pytest.raises(DoraError, match="all outputs of this dataflow are sent on other machines"):
        found_here(inspection("b"), ())


class Lease:
    """A lease for outputs, of which some cannot be tapped, or the daemon refuses."""

    def __init__(self, _run: Any, _inspection: Any, slots: Iterable[int], **_: Any) -> None:
        self.slots = set(slots)
        self.words = memoryview(bytearray(8 * WORDS * 8)).cast("Q")
        self.engine = self
        self.broken: set[int] = set()  # slots
        self.refused: set[int] = set()
        self.ended = False

    def add(self, slots: Iterable[int]) -> None:
        added = set(slots)
        if self.ended:
            raise ConnectError("the dataflow has just ended")
        if added & self.refused:
            raise DoraError("there is no room for more")
        self.slots |= added

    def tap(self, output: OutputView, _: int) -> Tap:
        if output.slot in self.broken:
            raise TransportError("no memory")
        return Tap()

    def renew(self) -> None:
        pass


def test_an_added_output_that_cannot_be_tapped_is_missing_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder_taps, "TapLease", Lease)
    monkeypatch.setattr(recorder_taps, "AVAILABLE", False)  # of ring buffers
    monkeypatch.setattr(recorder_taps, "_SETTLING", 0.0)
    nodes = [NodeView(str(slot), "Running", outputs=[OutputView("out", slot)]) for slot in range(4)]
    begun = Inspection("id", None, "iceoryx2", "", "", "", nodes[:1], [], "")
    grown = Inspection("id", None, "iceoryx2", "", "", "", nodes, [], "")
    run: Any = None
    taps = RecorderTaps(run, begun, (), together=True, begun_ns=0)
    lease: Any = taps._lease
    lease.broken, lease.refused = {1}, {2}
    for slot, sent in ((1, 5), (2, 6), (3, 7)):
        lease.words[slot * WORDS + SENT] = sent
    taps.follow(grown)
    assert [topic.name for topic in taps.topics] == ["0/out", "3/out"]
    assert taps.untapped() == {"1/out": 5, "2/out": 6}
    assert taps.topics[1].before == 7, "what it sent before its tap was open is not expected"
    assert lease.slots == {0, 3}, "an output without a tap has no lease"
    lease.broken = set()
    taps.follow(grown)
    assert [topic.name for topic in taps.topics] == ["0/out", "3/out", "1/out"]
    assert taps.untapped() == {"2/out": 6}
    lease.ended = True
    nodes.append(NodeView("4", "Running", outputs=[OutputView("out", 4)]))
    taps.follow(grown)
    assert taps.untapped() == {"2/out": 6}, "the end of the dataflow is no fault"
    taps.follow(begun)
    assert not taps.untapped(), "the output is gone"


def test_a_late_recorder_expects_what_is_sent_once_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_taps, "TapLease", Lease)
    monkeypatch.setattr(recorder_taps, "AVAILABLE", False)  # of ring buffers
    monkeypatch.setattr(recorder_taps, "_SETTLING", 0.0)
    monkeypatch.setattr(Lease, "renew", lambda lease: lease.words.__setitem__(SENT, 5))
    run: Any = None
    late = RecorderTaps(run, inspection("a"), (), together=False, begun_ns=0)
    (topic,) = late.topics
    assert (topic.before, topic.from_start) == (5, False)
    words = cast("Any", late._lease).words
    assert words[RECORDED] == 5, "so a sender that ends does not wait for a recorder of what it has sent"


def test_an_output_that_cannot_be_tapped_leaves_neither_lease_nor_ring_buffers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed: list[str] = []

    class Refusing(Lease):
        def tap(self, _output: OutputView, _size: int) -> Tap:
            raise TransportError("no memory")

        def close(self) -> None:
            closed.append("lease")

    monkeypatch.setattr(recorder_taps, "TapLease", Refusing)
    monkeypatch.setattr(recorder_taps, "_PLACE", str(tmp_path))
    node = NodeView("0", "Running", outputs=[OutputView("out", 0)])
    run: Any = None
    with pytest.raises(TransportError):
        RecorderTaps(
            run,
            Inspection("id", None, "iceoryx2", "", "", "", [node], [], ""),
            (),
            together=True,
            begun_ns=0,
        )
    assert closed == ["lease"]
    assert not list(tmp_path.iterdir())


def test_a_latched_message_that_comes_through_the_tap_too_is_taken_once() -> None:
    tap = Tap()
    latched = [message_of(b"x", {}, number, number) for number in (3, 4)]
    tap.waiting.extend(message_of(b"x", {}, number, number) for number in (2, 3, 4, 5))
    late = LatchedTap(latched, tap)
    assert [message.sequence for message in iter(late.receive, None)] == [3, 4, 5]
