"""When a ring of the black box gets more room."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora.daemon.black_box import _FIRST_ROOM, _GROWTH, _Ring
from dora.transport.shm.overwriting_ring import OverwritingWriter

SECONDS = 30.0


@pytest.mark.parametrize("size", [100, 200])
def test_a_ring_has_room_before_it_overwrites_what_came_first(tmp_path: Path, size: int) -> None:
    ring = _Ring(str(tmp_path / "ring"), _FIRST_ROOM, 64 << 20)
    writer = OverwritingWriter(str(tmp_path / "ring"))
    begin = ring.begin
    for second in range(1, 20):
        for _ in range(1000):  # more than most nodes send
            writer.resume()
            writer.write(bytes(size))
        if ring.is_too_short(begin + second, SECONDS):
            assert ring.ring.grow(_GROWTH * ring.ring.room)
        assert ring.ring.laps == 0


def test_a_ring_that_holds_the_wanted_time_stays_as_it_is(tmp_path: Path) -> None:
    ring = _Ring(str(tmp_path / "ring"), _FIRST_ROOM, 64 << 20)
    writer = OverwritingWriter(str(tmp_path / "ring"))
    begin = ring.begin
    for second in range(1, 200):
        writer.resume()
        writer.write(bytes(4000))  # 250 kB in a minute
        assert not ring.is_too_short(begin + second, SECONDS)


def test_a_node_that_starts_late_gets_room_in_time(tmp_path: Path) -> None:
    ring = _Ring(str(tmp_path / "ring"), _FIRST_ROOM, 64 << 20)
    writer = OverwritingWriter(str(tmp_path / "ring"))
    for second in range(1, 100):
        assert not ring.is_too_short(ring.begin + second, SECONDS)
    for _ in range(1000):
        writer.resume()
        writer.write(bytes(150))
    assert ring.is_too_short(ring.begin + 100, SECONDS)
