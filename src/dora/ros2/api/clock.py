"""The time of a ROS node: the system's, or with `use_sim_time` the one of the topic `/clock`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dora.ros2.qos import Qos, Reliability
from dora.ros2.types.errors import MalformedMessage

if TYPE_CHECKING:
    from dora.ros2.engine import RosSubscription
    from dora.ros2.types.message_type import MessageType

CLOCK_TOPIC: Final = "/clock"
CLOCK_TYPE: Final = "rosgraph_msgs/msg/Clock"
CLOCK: Final = Qos(reliability=Reliability.BEST_EFFORT, depth=1)  # as in rclcpp
_SECOND: Final = 1_000_000_000


def stamp_of(time_ns: int) -> dict[str, Any]:
    """Return a time as builtin_interfaces/msg/Time has it.

    >>> stamp_of(1_500_000_000)
    {'sec': 1, 'nanosec': 500000000}
    """
    seconds, nanoseconds = divmod(time_ns, _SECOND)
    return {"sec": seconds, "nanosec": nanoseconds}


class NodeClock:
    """Tells the time of a node, from any thread.

    Of the messages on `/clock` only the last one matters, so it is read when somebody asks for the time.
    A message with a whole second or more in its nanoseconds counts as malformed: its time may fit into no
    stamp.
    """

    def __init__(self, subscribe: Callable[[], tuple[RosSubscription, MessageType]]) -> None:
        """``subscribe`` makes a subscription of `CLOCK_TOPIC`, and returns it with its type."""
        self._subscribe = subscribe
        # Any thread asks for the time. Two that read at once could take the older message for the last one.
        self._lock = threading.Lock()
        self._followed: tuple[RosSubscription, MessageType] | None = None
        self._last = 0
        self.is_simulated = False  # whether the time is the one of `/clock`

    def follow(self, simulated: bool) -> None:
        """Take the time from `/clock`, or from the system; raises `TransportError`."""
        with self._lock:
            if simulated == self.is_simulated:
                return
            before, self._followed = self._followed, self._subscribe() if simulated else None
            self.is_simulated, self._last = simulated, 0
        if before is not None:
            before[0].close()

    def time_ns(self) -> int:
        """Return nanoseconds since 1970; of a simulated time, 0 before the first message."""
        with self._lock:
            if self._followed is None:
                return time.time_ns()
            subscription, type = self._followed
            while (message := subscription.take(0)) is not None:
                try:
                    found: Any = type.decode(message)[0].as_py()
                except MalformedMessage:
                    subscription.counters.malformed += 1
                    continue
                time_of = found["clock"]
                if time_of["nanosec"] >= _SECOND:
                    subscription.counters.malformed += 1
                    continue
                self._last = time_of["sec"] * _SECOND + time_of["nanosec"]
            return self._last
