"""Join what several inputs brought at one moment, each with its past.

A policy often gets more than the newest values: two pictures that lie 0.1 s apart, the last three joint
positions. LeRobot calls the offsets ``delta_timestamps``, diffusion policy calls the number of values the
observation horizon. `sync` in the dataflow file matches messages for the program; `InputHistory` answers
at any moment, with offsets in time, and repeats the oldest value where the past is too short.
"""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)
Wanted = int | Sequence[float]

_SECOND: Final = 1_000_000_000  # nanoseconds


class Window(NamedTuple):
    """The values of one input at a moment, oldest first.

    ``times_ns``: when each was captured. ``padded``: for each value, whether it stands for one that is not
    there: the past is too short, or the value is further from its moment than the tolerance.
    """

    values: tuple[Any, ...]
    times_ns: tuple[int, ...]
    padded: tuple[bool, ...]

    @property
    def newest(self) -> Any:
        """The last value."""
        return self.values[-1]


class _Past:
    """The values of one input, by capture time."""

    __slots__ = ("times", "values")

    def __init__(self) -> None:
        self.times: list[int] = []
        self.values: list[Any] = []

    def add(self, value: Any, time_ns: int, kept_ns: int) -> None:
        times, values = self.times, self.values
        if times and time_ns < times[-1] - kept_ns:
            times.clear()  # the clock of the source was set back: nothing earlier can be compared
            values.clear()
        at = bisect.bisect_left(times, time_ns)
        if at < len(times) and times[at] == time_ns:
            values[at] = value
        else:
            times.insert(at, time_ns)
            values.insert(at, value)
        # One value from before the limit stays: it is the latest one at the limit itself.
        old = bisect.bisect_right(times, times[-1] - kept_ns) - 1
        if old > 0:
            del times[:old], values[:old]

    def latest(self, time_ns: int) -> int:
        """Return the index of the latest value that is not after a moment; -1 if there is none."""
        return bisect.bisect_right(self.times, time_ns) - 1


class InputHistory(Generic[K]):
    """The values of inputs of the last ``keep`` seconds. Not for several threads at a time.

    Times are nanoseconds since any moment, the same one for all inputs.

    >>> history = InputHistory(keep=1.0)
    >>> for number in range(5):
    ...     history.add("joints", number, number * 100_000_000)
    >>> history.add("image", "first", 50_000_000)
    >>> found = history.at(250_000_000, {"joints": 2, "image": [-0.1, 0.0]})
    >>> found["joints"].values, found["image"].values
    ((1, 2), ('first', 'first'))
    """

    def __init__(self, keep: float = 2.0) -> None:
        """``keep``: seconds, above 0, before the newest value of each input. Raises ``ValueError``."""
        if not keep > 0:
            raise ValueError(f"keep is {keep}; it has to be a number of seconds above 0")
        self._kept_ns = int(keep * _SECOND)
        self._pasts: dict[K, _Past] = {}

    def add(self, name: K, value: Any, time_ns: int) -> None:
        """Add a value that was captured at a time. Values may come out of order.

        A value of a time that is there already takes its place. One that is more than ``keep`` earlier than
        the newest value means that the clock was set back: the earlier values are dropped.
        """
        past = self._pasts.get(name)
        if past is None:
            past = self._pasts[name] = _Past()
        past.add(value, time_ns, self._kept_ns)

    def newest(self, name: K) -> int | None:
        """Return the capture time of the newest value of an input; None if there is none."""
        past = self._pasts.get(name)
        return past.times[-1] if past is not None else None

    def at(
        self, time_ns: int, wanted: Mapping[K, Wanted], tolerance: float | None = None
    ) -> dict[K, Window] | None:
        """Return a window of each wanted input at a moment; None if an input has no value by then.

        ``wanted``: for each input a number n, for the last n values that are not after the moment; or
        offsets in seconds, 0.0 for the moment itself and negative for the past, for the latest value not
        after each. So nothing comes from the future of ``time_ns``, as it must be for a policy. Where there
        is no value, the oldest one is repeated, and marked in ``padded``. ``tolerance``: of offsets, how
        many seconds a value may be older than its moment before it is marked too; None: any.

        Raises ``ValueError`` for a number below 1, no offsets, or an offset above 0.
        """
        found: dict[K, Window] = {}
        for name, item in wanted.items():
            past = self._pasts.get(name)
            last = -1 if past is None else past.latest(time_ns)
            if past is None or last < 0:
                return None
            if isinstance(item, int):
                found[name] = _last(past, last, item)
            else:
                found[name] = _offsets(past, time_ns, item, tolerance)
        return found

    def clear(self) -> None:
        """Forget all values, as at the beginning of an episode."""
        self._pasts.clear()


def _last(past: _Past, last: int, count: int) -> Window:
    if count < 1:
        raise ValueError(f"{count} values are wanted; it has to be 1 or more")
    indices = [max(index, 0) for index in range(last - count + 1, last + 1)]
    padded = tuple(index < 0 for index in range(last - count + 1, last + 1))
    return _window(past, indices, padded)


def _offsets(past: _Past, time_ns: int, offsets: Sequence[float], tolerance: float | None) -> Window:
    if not offsets or max(offsets) > 0:
        raise ValueError(f"the offsets are {list(offsets)}; they have to be seconds, 0 or below")
    indices, padded = [], []
    for offset in offsets:
        moment = time_ns + round(offset * _SECOND)
        index = past.latest(moment)
        too_old = (
            index >= 0 and tolerance is not None and moment - past.times[index] > round(tolerance * _SECOND)
        )
        padded.append(index < 0 or too_old)
        indices.append(max(index, 0))
    return _window(past, indices, tuple(padded))


def _window(past: _Past, indices: Sequence[int], padded: tuple[bool, ...]) -> Window:
    values = tuple(past.values[index] for index in indices)
    return Window(values, tuple(past.times[index] for index in indices), padded)
