"""Messages from a ring buffer and from the queue of a tap, in order."""

from __future__ import annotations

import errno
import os
from collections import deque
from pathlib import Path

import pytest

from dora.recording.recorder import taps as recorder_taps
from dora.recording.recorder.taps import RingTap, RingTaps
from dora.transport.shm.ring_buffer import AVAILABLE, RingBuffer, RingBufferWriter
from dora.wire.message import Encoding, Message, MessageError, pack_head

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="ring buffers need Linux and a fence")
SIZE = 8192


def packed(sequence: int, body: bytes = b"12345") -> bytes:
    return pack_head(Encoding.PLAIN, b"C", b"", len(body), sequence, 7) + body


class Queue:
    """A tap that holds the newest messages."""

    def __init__(self, length: int = 4) -> None:
        self.messages: deque[Message] = deque(maxlen=length)
        self.polls = 0

    def receive(self) -> Message | None:
        self.polls += 1
        return self.messages.popleft() if self.messages else None

    def close(self) -> None:
        pass


class Sender:
    """Sends like an output with a tap and a ring buffer; ``written`` False: without a ring buffer."""

    def __init__(self, path: Path, queue: Queue) -> None:
        self.ring = RingBufferWriter(str(path))
        self.queue = queue
        self.sequence = 0

    def send(self, *, large: bool = False, written: bool = True) -> None:
        self.sequence += 1
        message = packed(self.sequence)
        self.queue.messages.append(Message(message))
        if large:
            self.ring.skip()
        elif written:
            self.ring.write(message)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ring"


def taken(tap: RingTap, polls: int = 3) -> list[int]:
    """Return what is received until a few polls find nothing."""
    found = []
    empty = 0
    while empty < polls:
        message = tap.receive()
        if message is None:
            empty += 1
        else:
            found.append(message.sequence)
    return found


def test_a_ring_buffer_returns_what_was_written_however_often_it_wraps(path: Path) -> None:
    ring = RingBuffer(str(path), SIZE)
    writer = RingBufferWriter(str(path))
    for sequence in range(1, 1000):
        body = bytes([sequence % 256]) * (sequence * 37 % 1500)
        writer.write(packed(sequence, body))
        message = ring.take()
        assert message is not None
        assert (message.sequence, message.small_body) == (sequence, body)
        assert ring.take() is None
    assert ring.others == 0


def test_a_message_without_room_is_counted(path: Path) -> None:
    ring = RingBuffer(str(path), SIZE)
    writer = RingBufferWriter(str(path))
    for sequence in range(1, 201):
        writer.write(packed(sequence))
    kept = 0
    while (message := ring.take()) is not None:
        kept += 1
        assert message.sequence == kept
    assert 100 <= kept < 200
    assert ring.others == 200 - kept
    writer.write(packed(201))
    last = ring.take()
    assert last is not None and last.sequence == 201


def test_a_new_process_continues_the_ring_buffer_of_the_last_one(path: Path) -> None:
    ring = RingBuffer(str(path), SIZE)
    assert not ring.is_written
    former = RingBufferWriter(str(path))
    former.write(packed(1))
    former.skip()
    RingBufferWriter(str(path)).write(packed(3))
    assert [message.sequence for message in iter(ring.take, None)] == [1, 3]
    assert ring.is_written and ring.others == 1
    RingBufferWriter(str(path)).skip()
    assert ring.others == 2
    former.close()
    assert not ring.is_written


def test_a_new_process_overwrites_nothing_that_was_not_read(path: Path) -> None:
    ring = RingBuffer(str(path), SIZE)
    first = RingBufferWriter(str(path))
    for sequence in range(1, 201):
        first.write(packed(sequence))
    kept = 200 - ring.others
    second = RingBufferWriter(str(path))
    second.write(packed(201))
    assert ring.others == 201 - kept
    assert [message.sequence for message in iter(ring.take, None)] == list(range(1, kept + 1))


def test_a_message_that_takes_all_the_room_fits(path: Path) -> None:
    ring = RingBuffer(str(path), SIZE)
    writer = RingBufferWriter(str(path))
    for sequence in range(1, 4):
        message = packed(sequence)
        message += bytes(SIZE - 128 - 8 - len(message))  # less the head, and the size of the entry
        writer.write(message)
        taken_one = ring.take()
        assert taken_one is not None and taken_one.head == message
        assert ring.take() is None
    assert ring.others == 0


def test_what_was_read_makes_room_before_the_ring_buffer_is_empty(path: Path) -> None:
    ring = RingBuffer(str(path), 1 << 18)
    writer = RingBufferWriter(str(path))
    sequence = 0
    while not ring.others:
        sequence += 1
        writer.write(packed(sequence, bytes(1000)))
    for number in range(1, sequence // 2):
        message = ring.take()
        assert message is not None and message.sequence == number
    writer.write(packed(sequence + 1, bytes(1000)))
    assert ring.others == 1


@pytest.mark.parametrize("size", [1 << 40, 100])
def test_a_damaged_ring_buffer_is_an_error(path: Path, size: int) -> None:
    ring = RingBuffer(str(path), SIZE)
    RingBufferWriter(str(path)).write(packed(1))
    with path.open("r+b") as file:
        file.seek(128)
        file.write(size.to_bytes(8, "little"))
    with pytest.raises(MessageError, match="damaged"):
        ring.take()


def test_without_memory_there_is_no_ring_buffer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        RingBuffer(str(path), SIZE)
    assert not path.exists()


def test_a_burst_is_recorded_from_the_ring_buffer_after_the_queue_dropped_it(path: Path) -> None:
    queue = Queue()
    tap = RingTap(queue, RingBuffer(str(path), 1 << 20))
    sender = Sender(path, queue)
    for _ in range(5000):
        sender.send()
    assert taken(tap) == list(range(1, 5001))


def test_large_messages_come_between_the_small_ones_in_order(path: Path) -> None:
    queue = Queue(64)
    tap = RingTap(queue, RingBuffer(str(path), SIZE))
    sender = Sender(path, queue)
    found = []
    for number in range(1, 61):
        sender.send(large=number % 7 in (0, 1))
        if number % 10 == 0:
            found += taken(tap)
    assert found == list(range(1, 61))


def test_while_the_ring_buffer_has_everything_the_queue_is_not_read(path: Path) -> None:
    queue = Queue()
    tap = RingTap(queue, RingBuffer(str(path), SIZE))
    sender = Sender(path, queue)
    sender.send()
    taken(tap)
    polls = queue.polls
    for number in range(2, 50):
        sender.send()
        message = tap.receive()
        assert message is not None and message.sequence == number
    assert tap.receive() is None
    assert queue.polls == polls


def test_messages_without_room_in_the_ring_buffer_are_in_the_queue(path: Path) -> None:
    queue = Queue(150)
    tap = RingTap(queue, RingBuffer(str(path), SIZE))
    sender = Sender(path, queue)
    for _ in range(200):
        sender.send()
    assert taken(tap) == list(range(1, 201))


def test_a_sender_may_start_with_the_ring_buffer_late_and_stop_early(path: Path) -> None:
    queue = Queue(100)
    tap = RingTap(queue, RingBuffer(str(path), SIZE))
    for number in (1, 2):
        queue.messages.append(Message(packed(number)))
    assert taken(tap) == [1, 2], "nobody writes to the ring buffer"
    sender = Sender(path, queue)
    sender.sequence = 2
    sender.send(written=False)  # another thread was about to send
    sender.send()
    assert taken(tap) == [3, 4]
    sender.ring.close()
    sender.send(written=False)
    assert taken(tap) == [5]


def test_a_counted_message_outside_the_ring_buffer_is_found_in_the_end(path: Path) -> None:
    queue = Queue()
    tap = RingTap(queue, RingBuffer(str(path), SIZE))
    sender = Sender(path, queue)
    sender.send()
    assert taken(tap) == [1]
    sender.send(written=False)
    assert taken(tap) == [2]


def test_a_lost_message_delays_no_other(path: Path) -> None:
    queue = Queue(1)
    tap = RingTap(queue, RingBuffer(str(path), SIZE))
    sender = Sender(path, queue)
    for large in (False, True, True, False, False):
        sender.send(large=large)
    assert taken(tap) == [1, 4, 5]


def test_the_queue_serves_alone_when_the_ring_buffer_is_damaged(path: Path) -> None:
    queue = Queue()
    tap = RingTap(queue, RingBuffer(str(path), SIZE))
    sender = Sender(path, queue)
    sender.send()
    with path.open("r+b") as file:
        file.seek(128)
        file.write((1 << 40).to_bytes(8, "little"))
    assert taken(tap) == [1]
    sender.send()
    assert taken(tap) == [2]


def test_ring_buffers_use_a_share_of_the_memory_and_end_with_the_recording(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recorder_taps, "_PLACE", str(tmp_path))
    ring_buffers = RingTaps(2)
    source = ring_buffers.with_ring_buffer(Queue(), 7)
    assert isinstance(source, RingTap)
    assert os.listdir(ring_buffers.directory) == ["7"]
    assert os.stat(f"{ring_buffers.directory}/7").st_size == 4 << 20
    ring_buffers.close()
    assert not os.listdir(tmp_path)
    assert RingTaps(5000).directory == "", "less than is worth it for each"
    assert RingTaps(0).directory == ""
    monkeypatch.setattr(recorder_taps, "_PLACE", "/nowhere")
    without = RingTaps(1)
    queue = Queue()
    assert without.directory == "" and without.with_ring_buffer(queue, 7) is queue


def test_without_room_for_a_ring_buffer_the_queue_is_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(recorder_taps, "_PLACE", str(tmp_path))
    monkeypatch.setattr(recorder_taps, "RingBuffer", fail)
    ring_buffers, queue = RingTaps(1), Queue()
    assert ring_buffers.with_ring_buffer(queue, 7) is queue
    ring_buffers.close()
