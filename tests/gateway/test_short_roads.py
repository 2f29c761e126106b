"""Roads that end again and again are reported, and single ones are not."""

from __future__ import annotations

from dora.gateway.road import ShortRoads


def test_the_third_road_in_a_row_that_soon_ends_is_reported_once() -> None:
    roads = ShortRoads()
    assert [roads.note_end("desk", 0.001) for _ in range(6)] == [False, False, True, False, False, False]


def test_a_road_that_lasts_begins_another_row() -> None:
    roads = ShortRoads()
    assert not any(roads.note_end("desk", seconds) for seconds in (0.1, 0.1, 60.0, 0.1, 0.1))
    assert roads.note_end("desk", 0.1)


def test_machines_have_rows_of_their_own() -> None:
    roads = ShortRoads()
    assert not any(roads.note_end(machine, 0.1) for machine in ("desk", "robot", "desk", "robot"))
