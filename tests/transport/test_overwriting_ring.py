"""Ring buffers that overwrite what is oldest."""

from __future__ import annotations

import mmap
import os
import random
from array import array
from pathlib import Path

import pytest

from dora._ownership import UnsafeFile
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
    assert not owner.is_paused
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
    paused.clear()
    now[0] += 1_000_000_000
    writer.resume()
    assert not owner.is_paused
    for _ in range(300):  # the time of the pause does not count for them
        writer.write(b"flood")
    assert paused


def test_large_entries_are_copied_at_a_pace(ring: tuple[str, OverwritingRing]) -> None:
    path, owner = ring
    writer = OverwritingWriter(path)
    size = 6000

    def fill(memory: memoryview) -> None:
        memory[:] = bytes(size)

    step = size * 1_000_000_000 // PACE // 3
    for number in range(9):
        writer.write_large(size, fill, 1_000_000_000 + number * step)
    assert [len(entry) for entry in read_ring(path)] == [size, size]
    assert skipped(path) == 9 - 3, "one of three has its turn, of which the ring holds two"
    assert not owner.needs_room(0), "more room would not help"


def test_an_entry_that_is_larger_than_the_ring_is_skipped(ring: tuple[str, OverwritingRing]) -> None:
    path, owner = ring
    writer = OverwritingWriter(path)
    writer.write(b"small")
    writer.write(bytes(2 * ROOM))
    writer.write_large(2 * ROOM, lambda _: None, 0)
    assert (read_ring(path), skipped(path)) == ([b"small"], 1)
    assert owner.grow(4 * ROOM)
    writer.write_large(2 * ROOM, lambda memory: memory.__setitem__(slice(None), bytes(2 * ROOM)), 0)
    assert [len(entry) for entry in read_ring(path)] == [5, 2 * ROOM]


def test_a_ring_tells_that_its_first_entry_has_no_room(ring: tuple[str, OverwritingRing]) -> None:
    path, owner = ring
    room = ROOM - 128  # less the head
    writer = OverwritingWriter(path)
    writer.write_large(room, lambda _: None, 0)  # with its size it is too large by a word
    assert (owner.filled, skipped(path)) == (0, 1)
    assert owner.needs_room(0)
    assert owner.is_used
    for entry in (b"1" * (room - 8), b"2" * (room - 8)):
        writer.write(entry)
        assert read_ring(path) == [entry]
    assert skipped(path) == 1


def test_a_writer_that_dies_as_it_begins_a_lap_leaves_the_entries_before(
    ring: tuple[str, OverwritingRing],
) -> None:
    path, owner = ring
    writer = OverwritingWriter(path)
    for number in range(50):
        writer.write(numbered(number, 30))
    writer._turn(ROOM, 100)  # as before an entry that does not fit behind the last one
    assert (owner.laps, owner.is_used) == (1, True)
    assert numbers(read_ring(path)) == list(range(50))


@pytest.mark.parametrize("large", [True, False])
def test_an_entry_in_the_making_is_not_read(ring: tuple[str, OverwritingRing], large: bool) -> None:
    path, _ = ring
    writer = OverwritingWriter(path)
    for number in range(400):
        writer.write(numbered(number, 30))

    def killed(memory: memoryview) -> None:
        memory[:] = b"\xff" * len(memory)  # over older entries
        raise KeyboardInterrupt

    class View:
        def __init__(self, view: memoryview) -> None:
            self.view = view

        def __setitem__(self, place: slice, entry: bytes) -> None:
            killed(self.view[place])

    with pytest.raises(KeyboardInterrupt):
        if large:
            writer.write_large(5000, killed, 0)
        else:
            writer._view = View(writer._view)  # type: ignore[assignment]
            writer.write(bytes(5000))
    found = numbers(read_ring(path))
    assert found == list(range(found[0], 400))


def test_a_ring_in_which_a_lap_begins_at_each_attempt_to_read_it_gives_nothing_broken(
    ring: tuple[str, OverwritingRing], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, owner = ring
    writer = OverwritingWriter(path)
    words = overwriting_ring._words
    chance = random.Random(1)

    def look(memory: mmap.mmap) -> list[int]:
        found = words(memory)
        lap = owner.laps
        while owner.laps == lap or owner.filled < ROOM // 2:
            writer.write(numbered(chance.randrange(1000), chance.randrange(1, 60)))
        return found

    monkeypatch.setattr(overwriting_ring, "_words", look)
    assert read_ring(path) == []
    monkeypatch.setattr(overwriting_ring, "_words", words)
    assert len(numbers(read_ring(path))) > 40


@pytest.mark.parametrize("size", [0, 128, ROOM + 4])
def test_a_file_of_another_size_is_no_ring(tmp_path: Path, size: int) -> None:
    path = tmp_path / "ring"
    path.touch(0o600)
    os.truncate(path, size)
    with pytest.raises(UnsafeFile, match=f"is not a ring: it has {size} bytes"):
        OverwritingWriter(str(path))
    assert size > ROOM or read_ring(str(path)) == []


@pytest.mark.parametrize("place", [0, 1 << 50])
def test_a_ring_with_impossible_places_is_used_within_its_file(
    ring: tuple[str, OverwritingRing], place: int
) -> None:
    path, _ = ring
    with open(path, "r+b") as file:  # where the last entry and lap end, how many laps, the room
        file.write(array("Q", [place, place, place, 1 << 50]))
    assert read_ring(path) == []
    writer = OverwritingWriter(path)
    for number in range(3000):
        writer.write(numbered(number, 30))
    found = numbers(read_ring(path))
    assert found == list(range(found[0], 3000))


def test_a_ring_without_memory_for_more_stays_as_it_is(
    ring: tuple[str, OverwritingRing], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, owner = ring
    with monkeypatch.context() as patch:
        patch.setattr(overwriting_ring.os, "posix_fallocate", full)
        assert not owner.grow(2 * ROOM)
    assert owner.room == ROOM
    assert owner.needs_room(ROOM)
    assert owner.grow(2 * ROOM)
    assert os.stat(path).st_blocks * 512 >= 2 * ROOM


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_without_memory_there_is_no_ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overwriting_ring.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        OverwritingRing(str(tmp_path / "ring"), ROOM, ROOM)
    assert os.listdir(tmp_path) == []
