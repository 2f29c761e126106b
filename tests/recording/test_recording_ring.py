"""The last seconds of a dataflow: by time, by memory; and what a recording counts as lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mcap.reader import make_reader
from waiting import wait_until

from dora.errors import DoraError
from dora.recording.mcap.channels import ChannelItem, ChannelTable
from dora.recording.mcap.chunk import ChunkPool, ChunkSpan, CompressedChunk, WriteThread, spans_of
from dora.recording.mcap.format import RecordingStart, TopicEnd
from dora.recording.recorder.options import RecordingOptions, Saved, numbered
from dora.recording.recorder.sinks import Expected, Ring, RingSink, topic_ends

SECOND = 1_000_000_000


def chunk(last: float, size: int = 1000) -> CompressedChunk:
    time_ns = int(last * SECOND)
    return CompressedChunk(bytes(size), "", size, 0, time_ns, time_ns, {1: bytes(16)})


def times(ring: Ring) -> list[float]:
    return [item.last / SECOND for item in ring.chunks()]


def test_a_ring_keeps_the_last_seconds() -> None:
    ring = Ring(3.0, 1 << 30)
    for second in range(10):
        ring.add(chunk(second), second * SECOND)
    assert times(ring) == [6, 7, 8, 9]
    ring.drop_old(11 * SECOND)
    assert times(ring) == [8, 9]
    ring.drop_old(100 * SECOND)
    assert (times(ring), ring.bytes) == ([], 0)


def test_a_chunk_stays_as_long_as_its_newest_message() -> None:
    ring = Ring(3.0, 1 << 30)
    ring.add(chunk(10)._replace(first=2 * SECOND), 10 * SECOND)
    ring.drop_old(13 * SECOND)
    assert times(ring) == [10]
    ring.drop_old(13 * SECOND + 1)
    assert times(ring) == []


def test_memory_has_a_limit() -> None:
    ring = Ring(1000.0, 5000)
    for second in range(10):
        ring.add(chunk(second), second * SECOND)
    assert times(ring) == [7, 8, 9]
    ring.add(chunk(10, 100_000), 10 * SECOND)
    assert times(ring) == [10], "one is always kept"


@pytest.mark.parametrize(
    ("expected", "span", "whole", "lost"),
    [
        (Expected(0, 10), ChunkSpan(1, 10, 10), True, 0),
        (Expected(0, 10), ChunkSpan(3, 10, 8), True, 2),
        (Expected(0, 10), ChunkSpan(1, 8, 8), True, 2),
        (Expected(4, 10), ChunkSpan(5, 10, 6), True, 0),
        (Expected(0, 0), ChunkSpan(), True, 0),
        (Expected(0, 3), ChunkSpan(), True, 3),
        (Expected(0, 10, (4,)), ChunkSpan(1, 10, 9), True, 0),  # counted by a process that was killed
        (Expected(0, 10), ChunkSpan(3, 10, 8), False, 0),  # of a ring: what is older does not belong to it
        (Expected(0, 10), ChunkSpan(3, 10, 7), False, 1),
        (Expected(0, 10), ChunkSpan(3, 8, 6), False, 2),
        (Expected(0, 10, (2,)), ChunkSpan(3, 10, 8), False, 0),
        (Expected(0, 10), ChunkSpan(), False, 0),
        (Expected(0, 10, untapped=True), ChunkSpan(), False, 10),
    ],
)
def test_lost_messages_are_counted(expected: Expected, span: ChunkSpan, whole: bool, lost: int) -> None:
    ends = topic_ends({"a/x": expected}, {"a/x": span}, from_start=whole)
    assert ends == {"a/x": TopicEnd(span.messages, lost, span.first, span.last)}


def test_spans_add_up() -> None:
    total = spans_of([{"a/x": ChunkSpan(1, 3, 3)}, {"a/x": ChunkSpan(4, 7, 3), "b/y": ChunkSpan(9, 9, 1)}])
    assert {name: (span.first, span.last, span.messages) for name, span in total.items()} == {
        "a/x": (1, 7, 6),
        "b/y": (9, 9, 1),
    }


def test_the_files_of_a_ring_are_numbered() -> None:
    assert [numbered("out/crash.mcap", number) for number in (1, 2)] == [
        "out/crash.mcap",
        "out/crash-2.mcap",
    ]


@pytest.mark.parametrize(
    ("force", "names"), [(False, ["a.mcap", "a-3.mcap"]), (True, ["a.mcap", "a-2.mcap"])]
)
def test_a_file_of_another_time_is_stepped_over(tmp_path: Path, force: bool, names: list[str]) -> None:
    (tmp_path / "a-2.mcap").write_text("precious")
    settings = RecordingOptions(path=str(tmp_path / "a.mcap"), last_seconds=1.0, force=force)
    start = RecordingStart(dora="1", dataflow_id="id", started=1)
    target = RingSink(settings, ChannelTable(), ChunkPool(1 << 20), start, b"{}")
    saved: list[Saved] = []
    target.save({}, (), saved.append)
    target.save({}, (), saved.append)
    target.close()
    assert sorted(item.problem for item in saved) == ["", ""]
    assert sorted(item.path for item in saved) == sorted(str(tmp_path / name) for name in names)
    assert target.path == str(tmp_path / ("a-3.mcap" if force else "a-4.mcap"))


def test_a_ring_keeps_what_it_has_while_the_memory_of_its_chunks_is_used_again(tmp_path: Path) -> None:
    channels, pool = ChannelTable(), ChunkPool(64 << 20)
    settings = RecordingOptions(path=str(tmp_path / "a.mcap"), last_seconds=3600.0, compression="none")
    ring = RingSink(settings, channels, pool, RecordingStart(dora="1", dataflow_id="id", started=1), b"{}")
    channel, _ = channels.of_context(ChannelItem("x", "", {}, "json"))
    for number, data in enumerate((b"one", b"two")):
        part = pool.take(100)
        assert part is not None
        part.add_data(channel, number, time.time_ns(), data)
        ring.write_thread.put(part)
        wait_until(lambda: pool.used == 0, "the chunk is in the ring")
    ring.save({}, (), lambda _: None)
    ring.close()
    with (tmp_path / "a.mcap").open("rb") as file:
        assert [message.data for _, _, message in make_reader(file).iter_messages()] == [b"one", b"two"]


def test_a_store_without_memory_reports_the_error() -> None:
    def store(_: CompressedChunk) -> None:
        raise MemoryError("none left")

    pool = ChunkPool(64 << 20)
    failing = WriteThread(pool, "none", store)
    for _ in range(3):
        chunk = pool.take(100)
        assert chunk is not None
        chunk.add_data(1, 1, 1, b"data")
        failing.put(chunk)
    failing.close()
    assert isinstance(failing.failure, DoraError)
    assert "MemoryError: none left" in str(failing.failure)
    assert pool.used == 0


def test_after_a_failure_nothing_more_is_stored() -> None:
    stored: list[int] = []

    def store(chunk: CompressedChunk) -> None:
        stored.append(chunk.first)
        if chunk.first == 2:
            raise DoraError("the disk is gone")

    pool = ChunkPool(64 << 20)
    thread = WriteThread(pool, "none", store)
    for number in range(1, 5):
        filled = pool.take(100)
        assert filled is not None
        filled.add_data(1, 1, number, b"data")
        thread.put(filled)
    thread.close()
    assert stored == [1, 2], "a file has no gap that its end does not tell of"
    assert str(thread.failure) == "the disk is gone" and pool.used == 0
