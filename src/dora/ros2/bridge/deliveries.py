"""Messages of ROS on their way to the thread that receives the events of the node."""

from __future__ import annotations

from collections.abc import Callable

from dora.ros2.message_queue import MessageCounters, MessageQueue

Delivery = Callable[[], None]
"""Sends what has come from ROS, in the thread that receives the events of the node."""


class Deliveries:
    """A source of external events, which any thread fills."""

    def __init__(self) -> None:
        deliveries: MessageQueue[Delivery] = MessageQueue(None, MessageCounters())
        self.put = deliveries.put
        self.next = deliveries.take
        self.set_on_message = deliveries.set_on_arrival
