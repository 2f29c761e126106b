"""The thread of a context that sleeps until Cyclone has something, and hands it on."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from cyclonedds.core import DDSException, GuardCondition, ReadCondition, WaitSet
from cyclonedds.domain import DomainParticipant

from dora.ros2.dds.calls import ANY_STATE, Waiting

_AT_ONCE: Final = 64  # entities of one wake-up; the others follow in the next
_JOIN_TIMEOUT: Final = 5.0  # seconds; a callback may hang, and the end of the process closes a context
_STOP: Final = 1  # the number of the condition that ends the thread

_log = logging.getLogger("dora.ros2")


class DdsReceiver:
    """Calls a function whenever a reader has data, in a thread of its own.

    Cyclone could call Python from the threads that read from the network (its listeners). But these would
    wait for the interpreter, and with them the acknowledgements that a writer waits for.
    """

    def __init__(self, participant: DomainParticipant) -> None:
        self._waitset = WaitSet(participant)
        self._waiting = Waiting(self._waitset, _AT_ONCE)
        self._stop = GuardCondition(participant)
        self._waiting.add(self._stop, _STOP)
        self._numbers = itertools.count(_STOP + 1)
        # Without a lock: each use of it is one step for the interpreter.
        self._actions: dict[int, tuple[ReadCondition, Callable[[], None]]] = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="dora-ros2-dds", daemon=True)
        self._thread.start()

    def add(self, reader: Any, on_data: Callable[[], None]) -> int:
        """Call a function for the data of a reader; it takes the data. Returns the number for `remove`."""
        number = next(self._numbers)
        condition = ReadCondition(reader, ANY_STATE)
        self._actions[number] = (condition, on_data)  # before the wait knows it, and may tell of it
        self._waiting.add(condition, number)
        return number

    def remove(self, number: int) -> None:
        """Call no more; a call that is under way may go on."""
        action = self._actions.pop(number, None)
        if action is not None and not self._stopped:
            self._waiting.remove(action[0])

    def _run(self) -> None:
        while not self._stopped:
            try:
                ready = self._waiting.wait()
            except DDSException as error:  # the participant is gone
                if not self._stopped:
                    _log.error("DDS receives no more messages: %s", error)
                return
            for number in ready:
                action = self._actions.get(number)
                if action is not None:
                    try:
                        action[1]()
                    except Exception as error:  # noqa: BLE001  # the other readers go on
                        self.remove(number)  # else it would be ready again at once, for ever
                        if not self._stopped:
                            _log.error("DDS cannot read what has arrived: %s", error)

    def close(self) -> None:
        """End the thread."""
        if self._stopped:
            return
        self._stopped = True  # before the thread wakes, and looks at it
        self._stop.set(True)
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_TIMEOUT)
