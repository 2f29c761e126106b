"""Warnings of a ROS node: messages that it drops, and endpoints that it does not meet."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from dora.errors import TransportError
from dora.ros2.api.clock import stamp_of
from dora.ros2.graph import UNKNOWN_NODE

if TYPE_CHECKING:
    from dora.ros2.engine import RosContext, RosEndpoint, RosPublisher
    from dora.ros2.types.message_type import MessageType

LOGGER: Final = logging.getLogger("dora.ros2")
_PERIOD: Final = 1.0  # seconds between two warnings; the next one has the number of messages between them
# Over DDS an endpoint is known before the name of its node, which some nodes never tell.
_NAME_PERIOD: Final = 4.0  # seconds, as Fast DDS tells names every 3; then the warning goes out without it


class DroppedMessages:
    """Warns of messages that were dropped, at most once a second: how many, and why the last one was."""

    def __init__(
        self, where: str, warn: Callable[[str], None], count: Callable[[int], None] = lambda _: None
    ) -> None:
        """``where`` says what dropped them, as the beginning of a sentence. ``count`` gets the number of
        each time."""
        self._count = count
        self._where = where
        self._warn = warn
        self._unsaid = 0
        self._next = 0.0

    def add(self, reason: str) -> None:
        """Count a message, and warn unless that was done just now."""
        self._count(1)
        self._unsaid += 1
        now = time.monotonic()
        if now < self._next:
            return
        count, self._unsaid = self._unsaid, 0
        self._next = now + _PERIOD
        what = "a message" if count == 1 else f"{count} messages, the last one"
        self._warn(f"{self._where} has dropped {what}: {reason}")


def node_logger(full_name: str) -> logging.Logger:
    """Return a logger for a node, whose messages also go to `LOGGER`. Its name is as in ROS.

    It is none of the registered ones, which last as long as the process, and which two nodes would share.

    >>> node_logger("/robot/talker").name
    'robot.talker'
    """
    logger = logging.Logger(full_name.strip("/").replace("/", "."), logging.INFO)
    logger.parent = LOGGER
    return logger


class RosoutHandler(logging.Handler):
    """Publishes messages as rcl_interfaces/msg/Log. The numbers of the levels are the ones of Python."""

    def __init__(self, publisher: RosPublisher, type: MessageType) -> None:
        super().__init__()
        self._publisher = publisher
        self._type = type

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = {
                "stamp": stamp_of(round(record.created * 1e9)),  # as in rcl, the time of the system
                "level": min(record.levelno, logging.CRITICAL),
                "name": record.name,
                "msg": record.getMessage(),
                "file": record.pathname,
                "function": record.funcName or "",
                "line": record.lineno,
            }
            self._publisher.publish(self._type.encode(message))
        except TransportError:
            pass  # the context is about to close; the logger has it
        except Exception:  # noqa: BLE001 - such as half of a surrogate pair in a text
            self.handleError(record)


class MismatchWatch:
    """Warns once of each endpoint elsewhere that does not meet one of ours.

    It has a thread that sleeps until the graph changes: a callback of the graph must not publish or block.
    """

    def __init__(self, context: RosContext) -> None:
        self._context = context
        self._lock = threading.Lock()  # the program adds endpoints while the thread goes over them
        # An endpoint that the program has closed and forgotten leaves by itself.
        self._endpoints: WeakKeyDictionary[RosEndpoint, Callable[[str], None]] = WeakKeyDictionary()
        self._reported: set[str] = set()
        self._changed = threading.Event()
        self._closed = False
        context.graph.set_on_change(self._changed.set)
        threading.Thread(target=self._run, name="dora-ros2-graph", daemon=True).start()

    def add(self, endpoint: RosEndpoint, warn: Callable[[str], None]) -> None:
        """Watch a publisher, subscription, client or server."""
        with self._lock:
            self._endpoints[endpoint] = warn
        self._changed.set()

    def close(self) -> None:
        self._context.graph.set_on_change(None)
        self._closed = True
        self._changed.set()

    def _run(self) -> None:
        nameless: dict[str, float] = {}  # problem with a node whose name has not come → when to tell it
        while True:
            left = min(nameless.values(), default=None)
            self._changed.wait(None if left is None else max(left - time.monotonic(), 0.0))
            self._changed.clear()  # before the look at the graph: a change during it wakes again
            if self._closed:
                return
            now = time.monotonic()
            waiting: dict[str, float] = {}
            problems = self._problems()
            self._reported &= problems.keys()  # one that was over is told again
            for problem, warn in problems.items():
                if problem in self._reported:
                    continue
                if UNKNOWN_NODE.name in problem:
                    at = nameless.get(problem, now + _NAME_PERIOD)
                    if now < at:
                        waiting[problem] = at
                        continue
                self._reported.add(problem)
                warn(problem)
            nameless = waiting

    def _problems(self) -> dict[str, Callable[[str], None]]:
        """Return what is wrong now, and for each problem where to tell it."""
        context = self._context
        with self._lock:
            endpoints = list(self._endpoints.items())
        return {
            problem: warn
            for endpoint, warn in endpoints
            for problem in context.graph.problems(endpoint.gid, checks_qos=context.checks_qos)
        }
