"""Observations for a policy: what its inputs brought, joined at the capture time of the first one."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import numpy as np

from dora.control import InputHistory
from dora.errors import DoraError
from dora.node.events import Input, Synced
from dora.wire.metadata import as_nanoseconds

Wanted = int | list[float]

# Seconds, beside the deepest offset: by so much may one input be later than another. Pictures that are kept
# occupy shared memory, so it is no more than that, except for histories that are counted.
_KEPT_S: Final = 0.5
_KEPT_FOR_COUNTS_S: Final = 2.0


class ObservationError(DoraError):
    """Messages do not make an observation: pictures of one input have several sizes."""


class JoinedObservation(NamedTuple):
    """The input of a policy. ``values``: for each input an array in the shape that was sent; with a
    history, one more dimension in front, oldest first. ``time_ns``: capture time, since 1970."""

    values: dict[str, Any]
    time_ns: int
    events: tuple[Input, ...]


class Observations:
    """Collects messages in one thread, and gives the newest observation to another."""

    def __init__(self, inputs: Sequence[str], history: Mapping[str, Wanted], *, on_request: bool) -> None:
        """``inputs``: the first one leads. ``history``: how many values of an input, or their offsets in
        seconds. ``on_request``: give an observation for each `request`, instead of each leading message.
        """
        deepest = min((min(item) for item in history.values() if not isinstance(item, int)), default=0.0)
        counted = any(isinstance(item, int) and item > 1 for item in history.values())
        kept = _KEPT_FOR_COUNTS_S if counted else _KEPT_S
        self._lead = inputs[0]
        self._wanted: dict[str, int | list[float]] = {name: history.get(name, 1) for name in inputs}
        self._lists = frozenset(history)
        self._on_request = on_request
        # One thread receives, another one computes. It never joins a set of which half is in the history.
        self._condition = threading.Condition()
        self._history: InputHistory[str] = InputHistory(kept - deepest)
        self._set: tuple[Synced, int] | None = None  # the newest one, with its time
        self._used_ns = -1  # of the last observation
        self._requested = False
        self._resets = 0
        self._ended = False

    # ------------------------------------------------------------------ the thread that receives

    def add(self, event: Input | Synced) -> None:
        """Take a message, or a set of messages."""
        with self._condition:
            if isinstance(event, Synced):
                if not event["complete"]:
                    return
                self._set = event, _capture_time(event.message(event["id"]))
                for message in event.messages():
                    self._history.add(message.id, message, _capture_time(message))
            else:
                self._history.add(event.id, event, _capture_time(event))
            self._condition.notify()

    def request(self) -> None:
        """Ask for an observation, at a tick."""
        with self._condition:
            self._requested = True
            self._condition.notify()

    def reset(self) -> None:
        """Forget all messages, as at the beginning of an episode."""
        with self._condition:
            self._forget()
            self._resets += 1

    def end(self, drop: bool = False) -> None:
        """Report that no message comes any more. ``drop``: the observation that waits is not wanted."""
        with self._condition:
            self._ended = True
            if drop:
                self._forget()
            self._condition.notify()

    def _forget(self) -> None:
        self._history.clear()
        self._set = None

    # ------------------------------------------------------------------ the thread that computes

    def next(self) -> tuple[JoinedObservation | None, int]:
        """Wait for an observation that is newer than the last one; None at the end.

        Also returns how many resets came before it. Raises `ObservationError`.
        """
        with self._condition:
            while True:
                found = self._join() if self._requested or not self._on_request else None
                if found is not None:
                    resets, self._requested = self._resets, False
                    self._used_ns = found[1]
                    break
                if self._ended:
                    return None, self._resets
                self._condition.wait()
        # Outside the condition: to make arrays of pictures takes long, and messages come in meanwhile.
        return _observation(*found), resets

    def _join(self) -> tuple[dict[str, Input | list[Input]], int] | None:
        """Return the messages of each input for the newest moment, if it is another one than before.

        An input with a history has a list.
        """
        time_ns = self._history.newest(self._lead) if self._set is None else self._set[1]
        if time_ns is None or time_ns == self._used_ns:
            return None
        found = self._history.at(time_ns, self._wanted)
        if found is None:
            return None  # an input has brought nothing by then
        messages: dict[str, Input | list[Input]] = {
            name: list(window.values) if name in self._lists else window.newest
            for name, window in found.items()
        }
        if self._set is not None:
            messages |= self._set[0]["inputs"]
        return messages, time_ns


def _observation(messages: Mapping[str, Input | list[Input]], time_ns: int) -> JoinedObservation:
    values: dict[str, Any] = {}
    newest: list[Input] = []
    for name, item in messages.items():
        if not isinstance(item, list):
            values[name] = item.numpy()
            newest.append(item)
            continue
        arrays = [event.numpy() for event in item]
        newest.append(item[-1])
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise ObservationError(f"the values of `{name}` have several shapes: {sorted(shapes)}")
        values[name] = np.stack(arrays)
    return JoinedObservation(values, time_ns, tuple(newest))


def _capture_time(event: Input) -> int:
    found = event.metadata.get("timestamp")
    return as_nanoseconds(found) if isinstance(found, datetime) else time.time_ns()
