"""Ring buffers that overwrite what is oldest."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from dora.transport.shm import overwriting_ring
from dora.transport.shm.overwriting_ring import (
    MOST,
    PACE,
    OverwritingRing,
    OverwritingWriter,
    read_ring,
    skipped,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="it is for Linux")

ROOM = 16 << 10


@pytest.fixture
def ring(tmp_path: Path) -> tuple[str, OverwritingRing]:
    path = str(tmp_path / "ring")
    return path, OverwritingRing(path, ROOM, 8 * ROOM)


def numbered(number: int, size: int) -> bytes:
    return (b"%06d" % number) * size


def numbers(entries: list[bytes]) -> list[int]:
    for entry in entries:
        assert entry == entry[:6] * (len(entry) // 6), "an entry is whole"
    return [int(entry[:6]) for entry in entries]


def test_the_newest_entries_are_kept_in_order(ring: tuple[str, OverwritingRing]) -> None:
    path, _ = ring
    assert read_ring(path) == []
    writer = OverwritingWriter(path)
    chance = random.Random(1)
    for number in range(5000):
        writer.write(numbered(number, chance.randrange(1, 60)))
        if number % 97 == 0:
            found = numbers(read_ring(path))
            assert found == list(range(found[0], number + 1))
    assert len(found) > 40, "most of the room is in use"


@pytest.mark.slow
def test_a_ring_that_grows_holds_more(ring: tuple[str, OverwritingRing]) -> None:
    path, owner = ring
    writer = OverwritingWriter(path)
    sizes = []
    for room in (ROOM, 2 * ROOM, 8 * ROOM):
        assert owner.room == room or owner.grow(room)
        for number in range(3000):
            writer.write(numbered(number, 20))
            found = numbers(read_ring(path))[-3:]
            assert found == [item for item in (number - 2, number - 1, number) if item >= 0] or number < 3
        sizes.append(len(read_ring(path)))
    assert sizes[0] < sizes[1] < sizes[2]
    assert not owner.grow(16 * ROOM), "that is more than it may become"


def test_a_ring_tells_when_its_lap_is_about_to_end(ring: tuple[str, OverwritingRing]) -> None:
    path, owner = ring
    writer = OverwritingWriter(path)
    assert not owner.needs_room(0)
    assert not owner.is_used
    for _ in range(100):
        writer.write(bytes(200))
    assert owner.is_used
    assert owner.needs_room(ROOM - owner.filled)
    assert not owner.needs_room(0)


def test_another_writer_goes_on_behind_the_last_one(ring: tuple[str, OverwritingRing]) -> None:
    path, _ = ring
    for number in range(300):
        OverwritingWriter(path).write(numbered(number, 30))
    found = numbers(read_ring(path))
    assert found == list(range(found[0], 300))
    assert len(found) > 40, "most of the room is in use"


def test_a_flood_pauses(ring: tuple[str, OverwritingRing], monkeypatch: pytest.MonkeyPatch) -> None:
    path, owner = ring
    now = [0]
    monkeypatch.setattr(overwriting_ring.time, "monotonic_ns", lambda: now[0])
    paused: list[bool] = []
    writer = OverwritingWriter(path, lambda: paused.append(True))
    for _ in range(1000):
        now[0] += 1_000_000_000 // (MOST - 100)
        writer.write(b"steady")
    assert (paused, owner.is_paused) == ([], False)
    for _ in range(600):
        now[0] += 1_000_000_000 // (MOST + 100)
        writer.write(b"flood")
    assert paused
    assert owner.is_paused
    writer.resume()
    assert not owner.is_paused


def test_large_entries_are_copied_at_a_pace(ring: tuple[str, OverwritingRing]) -> None:
    path, _ = ring
    writer = OverwritingWriter(path)
    size = 6000

    def fill(memory: memoryview) -> None:
        memory[:] = bytes(size)

    step = size * 1_000_000_000 // PACE // 3
    for number in range(9):
        writer.write_large(size, fill, number * step)
    assert [len(entry) for entry in read_ring(path)] == [size, size]
    assert skipped(path) == 9 - 3, "one of three has its turn, of which the ring holds two"


def test_an_entry_that_is_larger_than_the_ring_is_skipped(ring: tuple[str, OverwritingRing]) -> None:
    path, owner = ring
    writer = OverwritingWriter(path)
    writer.write(b"small")
    writer.write_large(2 * ROOM, lambda _: None, 0)
    assert (read_ring(path), skipped(path)) == ([b"small"], 1)
    assert owner.grow(4 * ROOM)
    writer.write_large(2 * ROOM, lambda memory: memory.__setitem__(slice(None), bytes(2 * ROOM)), 0)
    assert [len(entry) for entry in read_ring(path)] == [5, 2 * ROOM]


def test_a_ring_tells_that_its_first_entry_has_no_room(ring: tuple[str, OverwritingRing]) -> None:
    path, owner = ring
    room = ROOM - 128  # less the head
    OverwritingWriter(path).write_large(room, lambda _: None, 0)  # with its size it is too large by a word
    assert (owner.filled, skipped(path)) == (0, 1)
    assert owner.needs_room(0)
    assert owner.is_used


def test_a_writer_that_dies_as_it_begins_a_lap_leaves_the_entries_before(
    ring: tuple[str, OverwritingRing],
) -> None:
    path, owner = ring
    writer = OverwritingWriter(path)
    for number in range(50):
        writer.write(numbered(number, 30))
    writer._turn(ROOM, 100)  # as before an entry that does not fit behind the last one
    assert owner.laps == 1
    assert numbers(read_ring(path)) == list(range(50))


def test_an_entry_in_the_making_is_not_read(ring: tuple[str, OverwritingRing]) -> None:
    path, _ = ring
    writer = OverwritingWriter(path)
    for number in range(400):
        writer.write(numbered(number, 30))

    def killed(memory: memoryview) -> None:
        memory[:] = b"\xff" * len(memory)  # over older entries
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.write_large(5000, killed, 0)
    found = numbers(read_ring(path))
    assert found == list(range(found[0], 400))


def test_without_memory_there_is_no_ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(overwriting_ring.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        OverwritingRing(str(tmp_path / "ring"), ROOM, ROOM)
    assert os.listdir(tmp_path) == []
