"""Quality of service: the policies of ROS 2, and which publisher fits which subscription.

A publisher *offers* a quality, a subscription *requests* one. Over DDS, no message passes between two that
do not match, and neither side says so; `mismatches` and `explain` do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

# In ROS and DDS, "no limit" of a duration is this number of nanoseconds; here it is None.
INFINITE_NS: Final = (1 << 63) - 1


class Reliability(IntEnum):
    """Whether lost messages are sent again. The numbers here are from ``rmw/types.h``."""

    RELIABLE = 1
    BEST_EFFORT = 2


class Durability(IntEnum):
    """Whether a publisher keeps its last messages for subscriptions that come later."""

    TRANSIENT_LOCAL = 1
    VOLATILE = 2


class History(IntEnum):
    """Whether a queue holds the newest ``depth`` messages, or all."""

    KEEP_LAST = 1
    KEEP_ALL = 2


class Liveliness(IntEnum):
    """The source that says that a publisher lives: the engine, or the program for each topic."""

    AUTOMATIC = 1
    MANUAL_BY_TOPIC = 3


@dataclass(frozen=True, slots=True)
class Qos:
    """The quality of service of a publisher, a subscription, or one side of a service.

    Durations are nanoseconds, None means without limit. ``max_blocking_time`` is how long ``publish`` waits
    for slow reliable subscriptions (DDS only). Raises `ValueError` for a depth below 1.
    """

    reliability: Reliability = Reliability.RELIABLE
    durability: Durability = Durability.VOLATILE
    history: History = History.KEEP_LAST
    depth: int = 10
    deadline: int | None = None
    lifespan: int | None = None
    liveliness: Liveliness = Liveliness.AUTOMATIC
    lease_duration: int | None = None
    max_blocking_time: int = 100_000_000

    def __post_init__(self) -> None:
        if self.history is History.KEEP_LAST and self.depth < 1:
            raise ValueError(f"`depth` is {self.depth}; a queue holds at least 1 message")

    @property
    def queue_size(self) -> int | None:
        """How many messages a queue holds, None for all."""
        return self.depth if self.history is History.KEEP_LAST else None


# From here to `PARAMETERS` as in rmw/qos_profiles.h: a program that names none gets what it gets in ROS.
DEFAULT: Final = Qos()
SENSOR_DATA: Final = Qos(reliability=Reliability.BEST_EFFORT, depth=5)
SERVICES: Final = Qos()
PARAMETERS: Final = Qos(depth=1000)
LATCHED: Final = Qos(durability=Durability.TRANSIENT_LOCAL, depth=1)
ACTION_STATUS: Final = LATCHED


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One policy that a publisher does not offer as the subscription requests it."""

    policy: str  # "reliability", "durability", "deadline", "liveliness", "lease_duration"
    offered: str
    requested: str


def mismatches(offered: Qos, requested: Qos) -> tuple[Mismatch, ...]:
    """Return the policies that keep a publisher and a subscription apart over DDS; empty if they match."""
    found: list[Mismatch] = []
    if offered.reliability > requested.reliability:
        found.append(Mismatch("reliability", "best_effort", "reliable"))
    if offered.durability > requested.durability:
        found.append(Mismatch("durability", "volatile", "transient_local"))
    if _longer(offered.deadline, requested.deadline):
        found.append(Mismatch("deadline", _duration(offered.deadline), _duration(requested.deadline)))
    if offered.liveliness < requested.liveliness:
        found.append(Mismatch("liveliness", "automatic", "manual_by_topic"))
    if _longer(offered.lease_duration, requested.lease_duration):
        found.append(
            Mismatch(
                "lease_duration", _duration(offered.lease_duration), _duration(requested.lease_duration)
            )
        )
    return tuple(found)


def explain(
    topic: str, publisher: str, offered: Qos, subscription: str, requested: Qos, *, ours: str = ""
) -> str | None:
    """Return a sentence that names both sides of a pair that does not match, None if they match.

    ``publisher`` and ``subscription`` are names of nodes; ``ours`` is the one whose quality the reader can
    change, if it is one of them.

    >>> explain("/scan", "/lidar", SENSOR_DATA, "/map", DEFAULT)
    'no message passes on /scan from publisher /lidar to subscription /map: the publisher offers \
reliability best_effort, the subscription requests reliable'
    """
    found = mismatches(offered, requested)
    if not found:
        return None
    parts = [
        f"the publisher offers {item.policy} {item.offered}, the subscription requests {item.requested}"
        for item in found
    ]
    sentence = f"no message passes on {topic} from publisher {publisher} to subscription {subscription}: "
    sentence += "; ".join(parts)
    if ours == subscription != publisher:
        sentence += "; set " + ", ".join(f"`{item.policy}: {item.offered}`" for item in found) + " here"
    elif ours == publisher != subscription:
        sentence += "; set " + ", ".join(f"`{item.policy}: {item.requested}`" for item in found) + " here"
    return sentence


def _longer(offered: int | None, requested: int | None) -> bool:
    """Return whether an offered period exceeds the requested one."""
    return requested is not None and (offered is None or offered > requested)


def _duration(nanoseconds: int | None) -> str:
    return "unlimited" if nanoseconds is None else f"{nanoseconds / 1e9:g} s"
