"""Choose between sources of actions by priority, without a jump.

A human takes the arm over from a policy, and gives it back. The source with the highest priority that has
sent lately is *active*. When another one becomes active, the output goes from the last action to the new
source on a straight line, so it never jumps and stays between the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dora.errors import DoraError

Floats = npt.NDArray[np.floating[Any]]

_SECOND: Final = 1_000_000_000  # nanoseconds


class SelectedAction(NamedTuple):
    """The action for a moment. ``source``: the active one. ``part``: how much of the way to it is done,
    from 0 right after a change to 1."""

    action: Floats
    source: str
    part: float


class Takeover:
    """Gives the actions of the active source. Not for several threads at a time.

    >>> second = 1_000_000_000
    >>> takeover = Takeover(["human", "policy"], ramp=1.0, timeout=0.6)
    >>> for moment in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5):
    ...     takeover.update("policy", np.array([4.0]), int(moment * second))
    ...     if 0.5 <= moment < 1.5:
    ...         takeover.update("human", np.array([0.0]), int(moment * second))
    ...     action, source, part = takeover.at(int(moment * second))
    ...     print(source, float(action[0]), part)
    policy 4.0 1.0
    human 4.0 0.0
    human 2.0 0.5
    human 0.0 1.0
    policy 0.0 0.0
    policy 2.0 0.5
    """

    def __init__(
        self,
        sources: Sequence[str],
        *,
        ramp: float = 0.5,
        timeout: float = 0.5,
        max_speed: float | None = None,
    ) -> None:
        """``sources``: the first one has the highest priority.

        ``ramp``: seconds from one source to the other. ``timeout``: a source that has not sent for so many
        seconds is not active. ``max_speed``: the ramp takes longer where a number would change faster than
        so much per second; None: any speed. Raises ``ValueError``.
        """
        if not sources or len(set(sources)) != len(sources):
            raise ValueError(f"the sources are {list(sources)}; they have to be different names")
        self._sources = tuple(sources)
        self.configure(ramp=ramp, timeout=timeout, max_speed=max_speed)
        self._latest: dict[str, tuple[Floats, int]] = {}  # with the time it came
        self._active: str | None = None
        self._output: Floats | None = None  # as it was given last
        self._from: Floats | None = None  # where the present ramp begins
        self._began_ns = 0
        self._ramp_ns = 0
        self._size = 0

    def configure(self, *, ramp: float, timeout: float, max_speed: float | None) -> None:
        """Change the settings; a ramp that has begun goes on as it was. Raises ``ValueError``."""
        if not 0 <= ramp < math.inf or not timeout > 0 or not (max_speed is None or max_speed > 0):
            raise ValueError(
                f"ramp is {ramp}, timeout {timeout} and max_speed {max_speed}; the ramp has to be 0 or "
                "more, the others above 0"
            )
        self._ramp = ramp
        self._timeout_ns = int(min(timeout, 1e9) * _SECOND)  # infinity is allowed, and is no integer
        self._max_speed = max_speed

    @property
    def active(self) -> str | None:
        """The source of the action that was given last; None: none was."""
        return self._active

    def update(self, source: str, action: npt.ArrayLike, now_ns: int) -> None:
        """Take an action of a source: one dimension, as many numbers as all others.

        Raises `DoraError` for an unknown source, another size, or NaN or infinite numbers.
        """
        if source not in self._sources:
            raise DoraError(f"there is no source `{source}`; there are {', '.join(self._sources)}")
        array: Floats = np.asarray(action)
        if not np.issubdtype(array.dtype, np.floating):
            array = array.astype(np.float64)
        if array.ndim != 1 or not array.size or (self._size and array.size != self._size):
            expected = f"({self._size},)" if self._size else "(numbers of an action,)"
            raise DoraError(
                f"source `{source}`: an action has the shape {array.shape}; it has to be {expected}"
            )
        if not np.isfinite(array).all():
            raise DoraError(f"source `{source}`: an action has a NaN or infinite number")
        self._size = array.size
        self._latest[source] = array, now_ns

    def release(self, source: str) -> None:
        """Make a source inactive until it sends again, without its timeout."""
        self._latest.pop(source, None)

    def reset(self) -> None:
        """Forget all actions, as at a stop: the next source begins without a ramp."""
        self._latest.clear()
        self._active = self._output = self._from = None

    def at(self, now_ns: int) -> SelectedAction | None:
        """Return the action for a moment; None if no source is active. Moments must not go back.

        After a time without an active source, the next one begins with a ramp from the last action.
        """
        source = self._choose(now_ns)
        if source is None:
            self._active = None
            return None
        goal = self._latest[source][0]
        if source != self._active:
            self._active = source
            self._from = self._output
            self._began_ns = now_ns
            self._ramp_ns = self._duration(goal)
        part = 1.0
        if self._from is not None:
            gone = now_ns - self._began_ns
            if gone < self._ramp_ns:
                part = gone / self._ramp_ns
            else:
                self._from = None
        action = goal if self._from is None else (1 - part) * self._from + part * goal
        self._output = action
        return SelectedAction(action, source, part)

    def _choose(self, now_ns: int) -> str | None:
        for source in self._sources:
            found = self._latest.get(source)
            if found is not None and now_ns - found[1] <= self._timeout_ns:
                return source
        return None

    def _duration(self, goal: Floats) -> int:
        seconds = self._ramp
        if self._max_speed is not None and self._output is not None:
            seconds = max(seconds, float(np.abs(goal - self._output).max()) / self._max_speed)
        return int(min(seconds, 1e9) * _SECOND)
