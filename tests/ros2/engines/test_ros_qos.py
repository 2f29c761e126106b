"""Which publisher meets which subscription, as in the table of ROS 2."""

from __future__ import annotations

import pytest

from dora.ros2.qos import Durability, History, Liveliness, Qos, Reliability, explain, mismatches

RELIABLE, BEST_EFFORT = Reliability.RELIABLE, Reliability.BEST_EFFORT
LATCHED, VOLATILE = Durability.TRANSIENT_LOCAL, Durability.VOLATILE
AUTOMATIC, MANUAL = Liveliness.AUTOMATIC, Liveliness.MANUAL_BY_TOPIC
SECOND = 1_000_000_000


# https://docs.ros.org/en/rolling/Concepts/Intermediate/About-Quality-of-Service-Settings.html
@pytest.mark.parametrize(
    ("policy", "offered", "requested", "match"),
    [
        ("reliability", BEST_EFFORT, BEST_EFFORT, True),
        ("reliability", BEST_EFFORT, RELIABLE, False),
        ("reliability", RELIABLE, BEST_EFFORT, True),
        ("reliability", RELIABLE, RELIABLE, True),
        ("durability", VOLATILE, VOLATILE, True),
        ("durability", VOLATILE, LATCHED, False),
        ("durability", LATCHED, VOLATILE, True),
        ("durability", LATCHED, LATCHED, True),
        ("deadline", None, None, True),
        ("deadline", None, SECOND, False),
        ("deadline", SECOND, None, True),
        ("deadline", SECOND, SECOND, True),
        ("deadline", 2 * SECOND, SECOND, False),
        ("liveliness", AUTOMATIC, AUTOMATIC, True),
        ("liveliness", AUTOMATIC, MANUAL, False),
        ("liveliness", MANUAL, AUTOMATIC, True),
        ("liveliness", MANUAL, MANUAL, True),
        ("lease_duration", None, None, True),
        ("lease_duration", None, SECOND, False),
        ("lease_duration", SECOND, None, True),
        ("lease_duration", 2 * SECOND, SECOND, False),
    ],
)
def test_a_publisher_offers_what_a_subscription_requests(
    policy: str, offered: object, requested: object, match: bool
) -> None:
    found = mismatches(Qos(**{policy: offered}), Qos(**{policy: requested}))
    assert [item.policy for item in found] == ([] if match else [policy])


def test_history_and_depth_never_keep_two_apart() -> None:
    assert not mismatches(Qos(history=History.KEEP_ALL), Qos(depth=1))


def test_a_mismatch_names_both_sides_and_the_mend() -> None:
    offered, requested = Qos(BEST_EFFORT), Qos(durability=LATCHED)
    assert explain("/scan", "/lidar", offered, "/map", requested, ours="/map") == (
        "no message passes on /scan from publisher /lidar to subscription /map: the publisher offers "
        "reliability best_effort, the subscription requests reliable; the publisher offers durability "
        "volatile, the subscription requests transient_local; "
        "set `reliability: best_effort`, `durability: volatile` here"
    )
    ours = explain("/scan", "/lidar", offered, "/map", Qos(), ours="/lidar")
    assert ours is not None
    assert ours.endswith("; set `reliability: reliable` here")
    assert explain("/scan", "/lidar", requested, "/map", offered) is None


def test_a_queue_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="`depth` is 0"):
        Qos(depth=0)
    assert Qos(depth=3).queue_size == 3
    assert Qos(history=History.KEEP_ALL).queue_size is None
