"""The hops of a message: they cover its whole time, and the slowest one is that of the right node."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dora.wire.hops import HopFinder, HopTime, hop_text, named
from dora.wire.node_config import BudgetConfig, HopConfig
from dora.wire.path_statistics import BUCKETS, Record
from dora.wire.trail import DataOrigin, Hop, origin_id

NAMES = {origin_id(name): name for name in ("camera/image", "left/out", "right/out", "arm/joints")}
CAMERA, LEFT, RIGHT, ARM = NAMES

# The image goes to two nodes, and what they make of it to one.
FORK = BudgetConfig(
    "camera/image",
    1000,
    [
        HopConfig(CAMERA, "camera/image", []),
        HopConfig(LEFT, "left/out", [CAMERA]),
        HopConfig(RIGHT, "right/out", [CAMERA]),
        HopConfig(ARM, "arm/joints", [LEFT, RIGHT]),
    ],
)


def test_data_begins_with_its_oldest_origin_or_at_an_output_that_passed_it_on() -> None:
    finder = HopFinder(FORK)
    origins = [DataOrigin(CAMERA, 30, 50), DataOrigin(LEFT, 1, 1)]
    assert finder.begun_ns(origins, [Hop(CAMERA, 10, 20), Hop(CAMERA, 30, 40)]) == 20
    assert finder.begun_ns(origins, [Hop(CAMERA, 30, 40), Hop(LEFT, 5, 6)]) == 30
    assert finder.begun_ns([DataOrigin(LEFT, 1, 1)], [Hop(RIGHT, 1, 2)]) is None


def test_of_several_ways_the_one_counts_on_which_data_came_last() -> None:
    hops = [Hop(LEFT, 110, 150), Hop(RIGHT, 120, 190), Hop(ARM, 200, 230)]
    expected = [
        HopTime(ARM, True, 20),
        HopTime(ARM, False, 30),
        HopTime(RIGHT, True, 10),
        HopTime(RIGHT, False, 70),
        HopTime(CAMERA, True, 20),
    ]
    assert HopFinder(FORK).find(100, hops, 250) == expected


def test_a_way_without_data_does_not_count() -> None:
    hops = [Hop(LEFT, 110, 150), Hop(ARM, 200, 230)]
    assert [hop.output for hop in HopFinder(FORK).find(100, hops, 250)] == [ARM, ARM, LEFT, LEFT, CAMERA]
    direct = BudgetConfig("camera/image", 1000, [HopConfig(ARM, "arm/joints", [LEFT, CAMERA])])
    found = HopFinder(direct).find(100, [Hop(ARM, 200, 230)], 250)
    assert [hop.output for hop in found] == [ARM, ARM, CAMERA]


def test_of_several_messages_of_an_output_the_last_one_before_the_hop_counts() -> None:
    hops = [Hop(LEFT, 110, 120), Hop(LEFT, 130, 160), Hop(LEFT, 210, 220), Hop(ARM, 200, 230)]
    assert HopFinder(FORK).find(100, hops, 250)[2:] == [
        HopTime(LEFT, True, 40),
        HopTime(LEFT, False, 30),
        HopTime(CAMERA, True, 30),
    ]


@pytest.mark.lengthy
@given(
    st.lists(
        st.builds(
            lambda output, taken, work: Hop(output, taken, taken + work),
            st.sampled_from([LEFT, RIGHT, ARM]),
            st.integers(100, 200),
            st.integers(1, 50),
        ),
        max_size=12,
    )
)
@settings(derandomize=True, deadline=None)
@example(
    [
        Hop(LEFT, 110, 120),
        Hop(RIGHT, 130, 140),
        Hop(LEFT, 150, 160),
        Hop(RIGHT, 170, 180),
        Hop(ARM, 190, 200),
    ]
)
def test_hops_cover_the_whole_time_also_in_a_circle(hops: list[Hop]) -> None:
    """Each output comes once: else a circle of nodes that take no time would have no end."""
    circle = BudgetConfig(
        "camera/image",
        1000,
        [
            HopConfig(CAMERA, "camera/image", []),
            HopConfig(LEFT, "left/out", [CAMERA, RIGHT]),
            HopConfig(RIGHT, "right/out", [LEFT]),
            HopConfig(ARM, "arm/joints", [RIGHT]),
        ],
    )
    found = HopFinder(circle).find(100, hops, 300)
    assert sum(hop.time_ns for hop in found) == 200
    worked = [hop.output for hop in found if not hop.is_way]
    assert len(worked) == len(set(worked))


def test_a_latency_has_the_name_of_its_slowest_hop() -> None:
    def latency(hop: HopTime) -> str:
        record = Record(CAMERA, 0, 5, 900, 900, (0,) * BUCKETS, 100, 2, hop.word)
        return named(record, "camera/image", "motor/in", NAMES).slowest_hop

    assert latency(HopTime(LEFT, True, 5)) == hop_text(LEFT | 1 << 32, NAMES.__getitem__)
    assert latency(HopTime(LEFT, True, 5)) == "the way from `left/out` to its receiver"
    assert latency(HopTime(LEFT, False, 5)) == "the work of `left` until it sent `out`"
    assert latency(HopTime(99, False, 5)) == ""  # of an output that is gone
    on_time = Record(CAMERA, 0, 5, 900, 900, (0,) * BUCKETS, 1000)
    assert named(on_time, "camera/image", "motor/in", NAMES).slowest_hop == ""
