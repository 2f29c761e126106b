"""The file of a recording, read by the reader of the library `mcap`: whole, cut off, on a full disk."""

from __future__ import annotations

import errno
import io
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
from file_limit import file_limit
from mcap.exceptions import EndOfFile
from mcap.reader import make_reader
from mcap.records import Channel
from mcap.records import Message as McapMessage
from mcap.stream_reader import StreamReader
from recorded_files import message_of
from waiting import wait_until

import dora.recording.mcap.writer
from dora.errors import DoraError
from dora.recording.mcap.channels import ChannelItem, ChannelTable, form_of, prefix_of
from dora.recording.mcap.chunk import (
    CHUNK_SIZE,
    Chunk,
    ChunkPool,
    ChunkSpan,
    Compression,
    WriteThread,
    compress,
    detached,
    room_for,
)
from dora.recording.mcap.format import End, RecordingStart, from_record, restore
from dora.recording.mcap.writer import DiskFull, MessageWriter, RecordingWriter
from dora.recording.opening import open_recording
from dora.recording.recorder.options import RecordingOptions, Saved
from dora.recording.recorder.sinks import Expected, FileSink, RingSink
from dora.wire.decode import decode_arrow

START = RecordingStart(dora="1", dataflow_id="id", started=5, nodes=["a"], topics=["a/x"])
END = End(complete=True, stopped=9, reason="asked")


def chunk_of(channels: ChannelTable, values: list[Any], first: int = 1) -> Chunk:
    chunk = Chunk(1 << 20)
    for number, value in enumerate(values, first):
        message = message_of(value, {"number": number}, number, 1000 + number)
        channel, form = channels.of_message("a/x", message)
        chunk.add(channel, number, message.time_ns, prefix_of(message, form), message)
    return chunk


def write(path: Path, chunks: int, compression: Compression = "none") -> RecordingWriter:
    channels = ChannelTable()
    writer = RecordingWriter(str(path), channels)
    writer.begin(START, b'{"nodes": []}')
    for number in range(chunks):
        writer.write(
            compress(
                chunk_of(channels, [b"%d" % number * 1000, pa.array(["text"])], 2 * number + 1), compression
            )
        )
    return writer


@pytest.mark.parametrize("removable", [1, 1000])
@pytest.mark.parametrize("compression", get_args(Compression))
def test_the_reader_of_mcap_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: Compression, removable: int
) -> None:
    monkeypatch.setattr(dora.recording.mcap.writer, "_REMOVABLE", removable)
    path = tmp_path / "a.mcap"
    write(path, 3, compression).finish(END)
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        assert summary is not None and summary.statistics is not None
        assert reader.get_header().profile == "dora"
        assert summary.statistics.message_count == 6
        assert summary.statistics.channel_message_counts == {1: 3, 2: 3}
        assert (summary.statistics.message_start_time, summary.statistics.message_end_time) == (1001, 1006)
        assert {index.compression for index in summary.chunk_indexes} == {compression.replace("none", "")}
        (attachment,) = reader.iter_attachments()
        assert (attachment.name, attachment.data) == ("dataflow.json", b'{"nodes": []}')
        start, end = reader.iter_metadata()
        assert from_record(start.metadata, RecordingStart) == START
        assert from_record(end.metadata, End) == END
        found = [
            (channel.topic, message.sequence, decode_arrow(restore(message.data)))
            for _, channel, message in reader.iter_messages()
        ]
    assert [sequence for _, sequence, _ in found] == [1, 2, 3, 4, 5, 6]
    assert found[2][2].to_pylist() == [ord("1")] * 1000
    assert found[3][2].to_pylist() == ["text"]


@pytest.mark.lengthy
def test_a_long_recording_takes_little_memory_for_each_chunk(tmp_path: Path) -> None:
    channels = ChannelTable()
    chunk = Chunk(1 << 20)
    for number in range(20):
        message = message_of(b"x", {}, 1, 1000)
        channel, form = channels.of_message(f"a/{number}", message)
        chunk.add(channel, 1, message.time_ns, prefix_of(message, form), message)
        chunk.spans[f"a/{number}"] = ChunkSpan(1, 1, 1)
    compressed = compress(chunk, "none")
    writer = RecordingWriter(str(tmp_path / "a.mcap"), channels)
    writer.begin(START, b"{}")
    tracemalloc.start()
    for _ in range(1500):
        writer.write(compressed)
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(2000):
        writer.write(compressed)
    grown = (tracemalloc.get_traced_memory()[0] - before) / 2000
    tracemalloc.stop()
    assert grown < 600, "bytes for a chunk of 20 outputs, of which 300 are in its index"
    assert writer.spans()["a/7"].messages == 3500
    writer.finish(END)


def test_times_are_those_of_the_first_and_the_last_message_in_whatever_order_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dora.recording.mcap.writer, "_REMOVABLE", 2)
    channels = ChannelTable()
    writer = RecordingWriter(str(tmp_path / "a.mcap"), channels)
    writer.begin(START, b"{}")
    for numbers in ([50, 60], [8, 3, 9], [20], [30], [40]):
        chunk = Chunk(1 << 20)
        for number in numbers:
            message = message_of(b"x", {}, number, 1000 + number)
            channel, form = channels.of_message("a/x", message)
            chunk.add(channel, number, message.time_ns, prefix_of(message, form), message)
        writer.write(compress(chunk, "none"))
    writer.finish(END)
    with (tmp_path / "a.mcap").open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None and summary.statistics is not None
    assert (summary.statistics.message_start_time, summary.statistics.message_end_time) == (1003, 1060)
    assert [(index.message_start_time, index.message_end_time) for index in summary.chunk_indexes] == [
        (1050, 1060),
        (1003, 1009),
        (1020, 1020),
        (1030, 1030),
        (1040, 1040),
    ]


def test_a_system_that_takes_a_part_at_a_time_gets_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.mcap", 2).finish(END)
    written: list[int] = []

    def writev(fd: int, parts: list[memoryview]) -> int:
        assert len(written) < 1000
        written.append(os.write(fd, parts[0][:100]))
        return written[-1]

    monkeypatch.setattr(os, "writev", writev)
    write(tmp_path / "b.mcap", 2).finish(END)
    assert (tmp_path / "b.mcap").read_bytes() == (tmp_path / "a.mcap").read_bytes()


def test_messages_of_several_chunks_are_written_once(tmp_path: Path) -> None:
    writer = RecordingWriter(str(tmp_path / "a.mcap"), ChannelTable())
    writer.begin(START, b"{}")
    messages = MessageWriter(writer)
    sizes = [CHUNK_SIZE // 4] * 6 + [3 * CHUNK_SIZE, 10, 3 * CHUNK_SIZE]
    for number, size in enumerate(sizes, 1):
        messages.add("a/x", 1000 + number, message_of(bytes(size), {}, number, 1000 + number))
    messages.flush()
    messages.flush()
    writer.finish(END)
    assert messages.spans == {"a/x": ChunkSpan(1, 9, 9)}
    with open_recording(writer.path) as recording:
        found = [(each.sequence, each.message.body_size) for each in recording.messages()]
    assert found == list(enumerate(sizes, 1))


def test_numbers_of_more_than_32_bits_are_restored(tmp_path: Path) -> None:
    channels = ChannelTable()
    writer = RecordingWriter(str(tmp_path / "a.mcap"), channels)
    writer.begin(START, b"{}")
    writer.write(compress(chunk_of(channels, [b"x"], 2**32 + 1), "none"))
    writer.finish(END)
    with open_recording(writer.path) as recording:
        (found,) = recording.messages()
    assert (found.sequence, found.message.sequence) == (1, 2**32 + 1)


def test_messages_of_a_topic_can_be_limited_to_a_time_range(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    write(path, 3).finish(END)
    with path.open("rb") as file:
        found = make_reader(file).iter_messages(["a/x"], 1002, 1005)
        assert [message.sequence for _, _, message in found] == [2, 3, 4]


def test_messages_of_no_output_have_their_own_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    channels = ChannelTable()
    writer = RecordingWriter(str(path), channels)
    writer.begin(START, b"{}")
    chunk = Chunk(1000)
    chunk.add_data(channels.add(ChannelItem("dora/order/a", "", {}, "dora.order")), 1, 7, b"entries")
    writer.write(compress(chunk, "none"))
    writer.finish(END)
    with path.open("rb") as file:
        ((schema, channel, message),) = make_reader(file).iter_messages()
    assert (schema, channel.message_encoding, message.data) == (None, "dora.order", b"entries")


def read_to_the_cut(data: bytes) -> list[int]:
    """Return the sequence numbers in a file that may end anywhere."""
    numbers = []
    try:
        for record in StreamReader(io.BytesIO(data)).records:
            if isinstance(record, McapMessage):
                assert record.channel_id in known
                numbers.append(record.sequence)
            elif isinstance(record, Channel):
                known.add(record.id)
    except (EndOfFile, ValueError, OSError, struct.error):
        pass
    return numbers


known: set[int] = set()


def test_a_file_that_is_cut_off_is_readable_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    writer = write(path, 2)
    before_the_end = writer.size
    writer.finish(END)
    whole = path.read_bytes()
    found = []
    for size in range(8, len(whole), 7):
        known.clear()
        numbers = read_to_the_cut(whole[:size])
        assert numbers == [1, 2, 3, 4][: len(numbers)], "in order, from the first"
        found.append(len(numbers))
    assert found == sorted(found)
    assert set(found) == {0, 2, 4}, "chunk by chunk"
    assert len(read_to_the_cut(whole[:before_the_end])) == 4


@pytest.mark.parametrize("size", [4096, 6000, 8000, 9000])
def test_a_full_disk_leaves_a_whole_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.mcap"
    channels = ChannelTable()
    with file_limit(size):
        writer = RecordingWriter(str(path), channels)
        writer.begin(START, b"{}")
        written = 0
        with pytest.raises(DiskFull, match="there is no room left on its disk"):
            while True:
                writer.write(compress(chunk_of(channels, [b"x" * 700], written + 1), "none"))
                written += 1
        left = written
        while True:
            try:
                writer.finish(END)
                break
            except DiskFull:
                assert writer.drop_last()
                left -= 1
    assert written - 3 <= left <= written
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        assert [message.sequence for _, _, message in reader.iter_messages()] == list(range(1, left + 1))
        assert from_record(list(reader.iter_metadata())[-1].metadata, End) == END


def test_a_disk_that_is_full_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with file_limit(100):
        writer = RecordingWriter(str(path), ChannelTable())
        with pytest.raises(DiskFull):
            writer.begin(START, b"{}")
        writer.close()
    assert len(path.read_bytes()) == 39, "the header is a whole record, and there is no half of another"


def test_nothing_is_left_of_a_recording_that_cannot_begin(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with file_limit(100), pytest.raises(DiskFull):
        FileSink(RecordingOptions(path=str(path)), ChannelTable(), ChunkPool(1), START, b"{}")
    assert not path.exists()


class Disk:
    """Keeps what the system was asked to write to the disk: all that a loss of power leaves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.content = b""
        self.fault = 0
        monkeypatch.setattr("dora.recording.mcap.writer._sync_data", self._sync)
        monkeypatch.setattr("dora.recording.recorder.sinks.SYNC_EVERY", 0.001)

    def _sync(self, fd: int) -> None:
        if self.fault:
            raise OSError(self.fault, os.strerror(self.fault))
        self.content = Path(f"/proc/self/fd/{fd}").read_bytes()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("finds the path of a file in /proc")
    return Disk(monkeypatch)


def sink_with_a_chunk(path: Path) -> FileSink:
    channels = ChannelTable()
    sink = FileSink(RecordingOptions(path=str(path)), channels, ChunkPool(1 << 30), START, b"{}")
    sink.write_thread.put(chunk_of(channels, [b"a" * 500, b"b" * 500, b"c" * 500]))
    return sink


def test_a_loss_of_power_leaves_what_was_recorded_until_shortly_before(tmp_path: Path, disk: Disk) -> None:
    sink = sink_with_a_chunk(tmp_path / "a.mcap")
    wait_until(lambda: len(disk.content) == sink._writer.size > 1000, "the disk has the chunk")
    left = tmp_path / "after power.mcap"
    left.write_bytes(disk.content)
    with open_recording(str(left)) as recording:
        assert [message.sequence for message in recording.messages()] == [1, 2, 3]
        assert recording.end is None
    sink.finish("asked", {}, [])


def test_a_recording_that_has_ended_is_on_the_disk(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "a.mcap"
    sink_with_a_chunk(path).finish("asked", {}, [])
    assert disk.content == path.read_bytes()


def test_a_disk_that_loses_data_ends_the_recording_with_the_reason(tmp_path: Path, disk: Disk) -> None:
    disk.fault = errno.EIO
    sink = sink_with_a_chunk(tmp_path / "a.mcap")
    wait_until(lambda: sink.write_thread.failure is not None, "the failure is noticed")
    saved = sink.finish("asked", {}, [])
    assert saved.problem.endswith("a.mcap cannot be written to its disk: Input/output error")
    assert not saved.complete


def test_an_end_that_the_disk_does_not_take_is_not_in_the_file(tmp_path: Path, disk: Disk) -> None:
    sink = sink_with_a_chunk(tmp_path / "a.mcap")
    wait_until(lambda: len(disk.content) == sink._writer.size > 1000, "the disk has the chunk")
    disk.fault = errno.EIO
    saved = sink.finish("asked", {}, [])
    assert not saved.complete and saved.problem.endswith("Input/output error")
    assert saved.size == (tmp_path / "a.mcap").stat().st_size
    with open_recording(saved.path) as recording:
        assert [message.sequence for message in recording.messages()] == [1, 2, 3]
        assert recording.end is None


def test_a_pipe_has_no_disk_to_wait_for(tmp_path: Path, disk: Disk) -> None:
    disk.fault = errno.EINVAL
    saved = sink_with_a_chunk(tmp_path / "a.mcap").finish("asked", {}, [])
    assert (saved.complete, saved.problem) == (True, "")


def test_a_disk_is_asked_for_what_is_new_and_only_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = write(tmp_path / "a.mcap", 1)
    before = writer.size
    asked: list[int] = []

    def sync(_: int) -> None:
        asked.append(writer.size)
        if len(asked) == 1:  # the write thread goes on meanwhile
            writer.write(compress(chunk_of(writer.channels, [b"x"], 3), "none"))

    monkeypatch.setattr("dora.recording.mcap.writer._sync_data", sync)
    for _ in range(4):
        writer.sync()
    assert asked == [before, writer.size]
    writer.close()


def test_a_disk_is_asked_for_what_takes_the_place_of_a_chunk_that_was_removed(
    tmp_path: Path, disk: Disk
) -> None:
    writer = write(tmp_path / "a.mcap", 1)
    writer.sync()
    assert writer.drop_last()
    writer.write(compress(chunk_of(writer.channels, [b"y" * 1000, pa.array(["text"])]), "none"))
    writer.sync()
    assert disk.content == (tmp_path / "a.mcap").read_bytes()
    writer.close()


def test_a_recording_without_its_end_is_not_complete(tmp_path: Path) -> None:
    settings = RecordingOptions(path=str(tmp_path / "a.mcap"))
    sink = FileSink(settings, ChannelTable(), ChunkPool(1), START, b"{}")
    with file_limit(sink._writer.size):
        saved = sink.finish("asked", {}, [])
    assert "no room left" in saved.problem
    assert not saved.complete


def open_files(path: Path) -> list[str]:
    """Return the descriptors of this process that are files in a folder."""
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return [link for link in links if os.path.lexists(link) and os.readlink(link).startswith(f"{path}/")]


def test_a_recording_that_fails_leaves_no_file_open(tmp_path: Path, disk: Disk) -> None:
    parts: Any = ChannelTable(), ChunkPool(1), START, b"{}"
    with file_limit(100), pytest.raises(DiskFull):
        FileSink(RecordingOptions(path=str(tmp_path / "a.mcap")), *parts)
    sink = sink_with_a_chunk(tmp_path / "b.mcap")
    wait_until(lambda: sink._writer.size > 1000, "the chunk")
    with file_limit(600):  # the end has no room, even without the chunk
        assert "no room left" in sink.finish("asked", {}, []).problem
    disk.fault = errno.EIO
    assert "Input/output error" in sink_with_a_chunk(tmp_path / "c.mcap").finish("asked", {}, []).problem
    ring = RingSink(RecordingOptions(path=str(tmp_path / "d.mcap"), last_seconds=1.0), *parts)
    saved: list[Saved] = []
    with file_limit(100):
        ring.save({}, (), saved.append)
        ring.close()
    assert "no room left" in saved[0].problem and not saved[0].complete
    assert open_files(tmp_path) == []


def test_a_recording_that_has_ended_asks_its_disk_for_nothing_more(tmp_path: Path) -> None:
    sink = sink_with_a_chunk(tmp_path / "a.mcap")
    sink.finish("asked", {}, [])
    assert not sink._disk_sync._thread.is_alive()


def test_a_disk_that_is_full_at_the_end_is_the_reason_in_the_file(tmp_path: Path) -> None:
    channels = ChannelTable()
    settings = RecordingOptions(path=str(tmp_path / "a.mcap"))
    sink = FileSink(settings, channels, ChunkPool(1 << 30), START, b"{}")
    sink.write_thread.put(chunk_of(channels, [os.urandom(5000)]))
    wait_until(lambda: sink._writer.size > 5000, "the chunk in the file")
    with file_limit(sink._writer.size + 100):
        saved = sink.finish("asked", {"a/x": Expected(0, 1)}, [])
    assert (saved.lost, saved.complete) == (1, False), "the chunk makes room for the end"
    with open_recording(saved.path) as recording:
        assert recording.end is not None
        assert (recording.end.reason, recording.end.complete) == ("disk full", False)


def test_the_first_failure_is_the_reason(tmp_path: Path) -> None:
    sink = sink_with_a_chunk(tmp_path / "a.mcap")
    sink.write_thread.failure = DoraError("there is no room left")
    sink._fail(DoraError("the disk is gone"))
    saved = sink.finish("asked", {}, [])
    assert (saved.problem, saved.complete) == ("there is no room left", False)
    with open_recording(saved.path) as recording:
        assert recording.end is not None and not recording.end.complete


def test_a_file_that_was_there_stays_if_its_replacement_cannot_begin(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    path.write_bytes(bytes(2000))
    with file_limit(100), pytest.raises(DiskFull):
        FileSink(RecordingOptions(path=str(path), force=True), ChannelTable(), ChunkPool(1), START, b"{}")
    assert path.exists()


def test_a_file_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    path.write_text("precious")
    with pytest.raises(
        DoraError, match="exists already; choose another file, or overwrite it with --force"
    ):
        RecordingWriter(str(path), ChannelTable())
    assert path.read_text() == "precious"
    writer = RecordingWriter(str(path), ChannelTable(), force=True)
    writer.begin(START, b"{}")
    writer.finish(END)
    assert path.read_bytes().startswith(b"\x89MCAP0")
    with pytest.raises(DoraError, match="cannot be written: No such file or directory"):
        RecordingWriter(str(tmp_path / "no" / "a.mcap"), ChannelTable())
    os.mkdir(tmp_path / "folder")
    with pytest.raises(DoraError, match="cannot be written: Is a directory"):
        RecordingWriter(str(tmp_path / "folder"), ChannelTable(), force=True)


def test_a_chunk_that_hardly_gets_smaller_is_not_compressed() -> None:
    channels = ChannelTable()
    assert compress(chunk_of(channels, [os.urandom(10_000)]), "zstd").compression == ""
    assert compress(chunk_of(channels, [b"x" * 1000]), "zstd").compression == "zstd"


def test_a_detached_chunk_owns_its_memory() -> None:
    chunk = chunk_of(ChannelTable(), [b"x" * 100])
    compressed = compress(chunk, "none")
    copy = detached(compressed)
    chunk.view[: chunk.size] = bytes(chunk.size)
    assert b"x" * 100 in copy.contents
    assert b"x" * 100 not in bytes(compressed.contents)


def test_chunks_are_used_again_within_the_limit() -> None:
    pool = ChunkPool(3 * CHUNK_SIZE)
    first = pool.take(10)
    second = pool.take(10)
    assert first is not None and second is not None and pool.take(10) is None
    pool.release([first])
    assert pool.take(10) is first
    pool.release([first, second])
    huge = pool.take(10 * CHUNK_SIZE)
    assert huge is not None, "there is always room for one"
    assert pool.take(1) is None
    pool.release([huge])
    assert pool.used == 0


def test_room_for_is_the_size_of_a_message() -> None:
    message = message_of(b"x" * 100, {}, 1, 5)
    prefix = prefix_of(message, form_of(message))
    chunk = Chunk(1000)
    chunk.add(1, 1, 5, prefix, message)
    assert chunk.size == room_for(len(prefix), 100)


def test_a_burst_gives_its_memory_back() -> None:
    pool = ChunkPool(100 * CHUNK_SIZE)
    taken = [pool.take(10) for _ in range(10)]
    huge = pool.take(10 * CHUNK_SIZE)
    burst = [chunk for chunk in (*taken, huge) if chunk is not None]
    pool.release(burst)
    again = [pool.take(10) for _ in range(11)]
    assert sum(chunk in burst for chunk in again) == 4, "a few are kept"
    assert huge not in again


def test_a_chunk_for_which_there_is_no_memory_is_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    pool = ChunkPool(3 * CHUNK_SIZE)
    with monkeypatch.context() as patch:
        patch.setattr("dora.recording.mcap.chunk.Chunk", fail)
        assert [pool.take(10) for _ in range(5)] == [None] * 5
    assert pool.used == 0 and pool.take(10) is not None


def test_chunks_that_pile_up_are_not_compressed() -> None:
    stored: list[str] = []
    for limit in (64 << 20, 8 << 20):
        pool = ChunkPool(limit)
        thread = WriteThread(pool, "zstd", lambda chunk: stored.append(chunk.compression))
        chunk = pool.take(10_000)
        assert chunk is not None
        chunk.add_data(1, 1, 1, bytes(10_000))
        thread.put(chunk)
        thread.close()
    assert stored == ["zstd", ""]
