"""Transport, options of nodes, and quality of service, as a program gives them."""

from __future__ import annotations

import os
from enum import IntEnum
from math import inf, isfinite
from typing import TYPE_CHECKING, Final, get_args

from dora.dataflow.ros2 import Compatibility
from dora.ros2.qos import INFINITE_NS, Durability, History, Liveliness, Qos, Reliability

if TYPE_CHECKING:
    from dora.ros2.choose import EngineChoice
    from dora.ros2.engine import RosContext

__all__ = [
    "Ros2Durability",
    "Ros2Liveliness",
    "Ros2NodeOptions",
    "Ros2QosPolicies",
    "Ros2Transport",
    "domain_of",
]

_DOMAIN_VARIABLE: Final = "ROS_DOMAIN_ID"
_DISTRIBUTION_VARIABLE: Final = "ROS_DISTRO"


class Ros2Transport:
    """The way to the other ROS nodes. Without one, ``$RMW_IMPLEMENTATION`` decides, then DDS is taken."""

    def __init__(self, kind: str, compatibility: str | None = None, config_uri: str | None = None) -> None:
        """Use `dds`, `zenoh` or `rclpy` instead."""
        self._kind = kind
        self._profile = compatibility
        self._config_uri = config_uri

    @staticmethod
    def dds() -> Ros2Transport:
        """Return DDS: Cyclone DDS for topics, the rclpy of an installed ROS for everything else."""
        return Ros2Transport("dds")

    @staticmethod
    def zenoh(compatibility: str, config_uri: str | None = None) -> Ros2Transport:
        """Return Zenoh, as rmw_zenoh uses it.

        ``compatibility`` is ``humble`` for that release, ``rep2016`` for later ones.
        ``config_uri`` is the path of a Zenoh configuration, by default ``$ZENOH_SESSION_CONFIG_URI``.

        Raises ``ValueError`` for another ``compatibility``.
        """
        if compatibility not in get_args(Compatibility):
            raise ValueError(f"`compatibility` is `humble` or `rep2016`, not {compatibility!r}")
        return Ros2Transport("zenoh", compatibility, config_uri)

    @staticmethod
    def rclpy() -> Ros2Transport:
        """Return the rclpy of an installed ROS, with whatever transport that ROS has."""
        return Ros2Transport("rclpy")

    @property
    def kind(self) -> str:
        """``dds``, ``zenoh`` or ``rclpy``."""
        return self._kind

    def open(self, choice: EngineChoice, domain_id: int) -> RosContext:
        """Open a context of an engine; raises as ``dora.ros2.choose.open_context`` does."""
        from dora.ros2.choose import open_context

        profile = self._profile
        if profile is None:
            profile = "humble" if os.environ.get(_DISTRIBUTION_VARIABLE) == "humble" else "rep2016"
        return open_context(choice, domain_id, profile=profile, config_uri=self._config_uri)

    def __repr__(self) -> str:
        return f"<Ros2Transport {self._kind}>"


def domain_of(domain_id: int | None) -> int:
    """Return the domain of an argument, of ``$ROS_DOMAIN_ID``, or 0. Raises ``ValueError``."""
    if domain_id is not None:
        if isinstance(domain_id, bool) or not isinstance(domain_id, int) or domain_id < 0:
            raise ValueError(f"`domain_id` is a number of at least 0, not {domain_id!r}")
        return domain_id
    text = os.environ.get(_DOMAIN_VARIABLE, "").strip()
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"${_DOMAIN_VARIABLE} is a number of at least 0, not {text!r}")
    return int(text)


class Ros2NodeOptions:
    """Options of a ROS node. ``rosout``: publish the warnings of the node on ``/rosout``, too."""

    def __init__(self, rosout: bool | None = None) -> None:
        self.rosout = bool(rosout)


class Ros2Durability(IntEnum):
    """Whether a publisher keeps its last messages for subscriptions that come later.

    ROS has ``Volatile`` and ``TransientLocal`` only. The other two count as ``TransientLocal``.
    """

    Volatile = 0
    TransientLocal = 1
    Transient = 2
    Persistent = 3


class Ros2Liveliness(IntEnum):
    """The source that says that a publisher lives: the transport, or the program.

    ROS has ``Automatic`` and ``ManualByTopic`` only. ``ManualByParticipant`` counts as ``ManualByTopic``.
    """

    Automatic = 0
    ManualByParticipant = 1
    ManualByTopic = 2


class Ros2QosPolicies:
    """The quality of service of a topic, service or action.

    ``reliable``: lost messages are sent again. ``keep_last``: how many messages a queue holds;
    ``keep_all``: all. ``lease_duration`` and ``max_blocking_time`` are seconds, infinity is without limit.
    The defaults are the ones of dora-rs: best effort, volatile, automatic, the last message, no lease.

    Raises ``ValueError`` for a ``keep_last`` below 1, and for a duration that is negative.
    """

    def __init__(
        self,
        durability: Ros2Durability | None = None,
        liveliness: Ros2Liveliness | None = None,
        reliable: bool | None = None,
        keep_all: bool | None = None,
        lease_duration: float | None = None,
        max_blocking_time: float | None = None,
        keep_last: int | None = None,
    ) -> None:
        manual = liveliness not in (None, Ros2Liveliness.Automatic)
        kept = durability not in (None, Ros2Durability.Volatile)
        lease = _nanoseconds("lease_duration", lease_duration, inf)
        blocking = _nanoseconds("max_blocking_time", max_blocking_time, 0.0)
        if keep_last is not None and keep_last < 1:
            raise ValueError(f"`keep_last` is at least 1, not {keep_last}")
        self.qos = Qos(
            reliability=Reliability.RELIABLE if reliable else Reliability.BEST_EFFORT,
            durability=Durability.TRANSIENT_LOCAL if kept else Durability.VOLATILE,
            history=History.KEEP_ALL if keep_all else History.KEEP_LAST,
            depth=1 if keep_last is None else keep_last,
            liveliness=Liveliness.MANUAL_BY_TOPIC if manual else Liveliness.AUTOMATIC,
            lease_duration=lease,
            max_blocking_time=INFINITE_NS if blocking is None else blocking,
        )

    def __repr__(self) -> str:
        return f"<Ros2QosPolicies {self.qos}>"


def _nanoseconds(name: str, seconds: float | None, default: float) -> int | None:
    """Return a duration in nanoseconds, None for one without limit."""
    value = default if seconds is None else float(seconds)
    if value == inf:
        return None
    if not isfinite(value) or value < 0:
        raise ValueError(f"`{name}` is a number of seconds, at least 0, not {seconds!r}")
    return round(value * 1e9)
