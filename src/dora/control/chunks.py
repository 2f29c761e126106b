"""Action chunks: from the series of actions that a policy gives to one action for each moment.

A policy of the kind of ACT, diffusion policy or π₀ gives a *chunk*: the actions of the next second or so,
one for each step. It needs some time for that, so the next chunk comes while the last one is being
executed, and overlaps with it. `ChunkPlayer` gives the action for any moment, in one of three ways:

- ``newest``: the action of the newest chunk. Right for policies that know what was committed (real-time
  chunking, Black et al. 2025, https://arxiv.org/abs/2506.07339), because their chunks go on where the
  former one is.
- ``ensemble``: the weighted mean of all chunks that have an action for the moment, with the weights
  exp(-decay * i), where i is 0 for the oldest chunk: the temporal ensemble of ACT (Zhao et al. 2023,
  https://arxiv.org/abs/2304.13705, section IV).
- ``fade``: from one chunk to the next on a straight line in ``fade`` seconds.

Actions are numbers that can be averaged: positions, velocities, torques. An angle that wraps from 180° to
-180° between two chunks must be unwrapped by the policy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from dora.errors import DoraError
from dora.transforms import nanoseconds

Blend = Literal["newest", "ensemble", "fade"]
BLENDS: Final[tuple[Blend, ...]] = get_args(Blend)

Floats = npt.NDArray[np.floating[Any]]

_SECOND: Final = 1_000_000_000  # nanoseconds
# Each chunk of the mean costs some microseconds per action, and may keep a message in shared memory. A
# policy that gives a chunk of a second each 40 ms or slower stays below this number.
_MOST_CHUNKS: Final = 24


class ChunkError(DoraError):
    """A chunk cannot be executed: its shape is wrong, or it has numbers that are none."""


@dataclass(frozen=True, eq=False)
class ActionChunk:
    """A series of actions. Step k holds from ``start_ns + k * period_ns`` for one period.

    ``actions``: an array (steps, numbers of an action). ``number``: counts the chunks of a policy, for
    reports. ``observed_ns``: when the observation was captured that the policy has seen; by default
    ``start_ns``. ``source``: anything that shall come with its actions, such as the event it came with.

    Raises `ChunkError` for an array of another shape, without actions, or with NaN or infinite numbers, and
    for a period that is not above 0.
    """

    actions: Floats
    start_ns: int
    period_ns: int
    number: int = 0
    observed_ns: int | None = None
    source: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        actions = np.asarray(self.actions)
        if actions.ndim != 2 or not actions.size:
            raise ChunkError(
                f"a chunk has the shape {actions.shape}; it has to be (steps, numbers of an action)"
            )
        if not np.issubdtype(actions.dtype, np.floating):
            if not np.issubdtype(actions.dtype, np.integer):
                raise ChunkError(f"a chunk has values of the type {actions.dtype}; they have to be numbers")
            actions = actions.astype(np.float64)
        if not np.isfinite(actions).all():
            step = int(np.argmin(np.isfinite(actions).all(axis=1)))
            raise ChunkError(f"a chunk has a NaN or infinite number, first in step {step}")
        if self.period_ns <= 0:
            raise ChunkError(f"a chunk has a period of {self.period_ns} ns; it has to be above 0")
        object.__setattr__(self, "actions", actions)
        if self.observed_ns is None:
            object.__setattr__(self, "observed_ns", self.start_ns)

    @classmethod
    def from_message(cls, actions: Any, metadata: Mapping[str, Any], source: Any = None) -> ActionChunk:
        """Return the chunk that a message brought.

        ``actions``: the array in the shape that was sent, ``event.numpy()``. The metadata have
        ``step_period`` in seconds, and may have ``chunk``, the number, and ``start``, a ``datetime``.
        Without ``start``, the chunk begins at ``timestamp``, the capture time of the observation. Raises
        `ChunkError`.
        """
        period = metadata.get("step_period")
        if not isinstance(period, int | float) or not 0 < period < math.inf:
            raise ChunkError(
                f"a chunk has the step period {period!r}; the metadata key `step_period` has to be a "
                "number of seconds above 0"
            )
        observed = metadata.get("timestamp")
        start = metadata.get("start", observed)
        if not isinstance(start, datetime) or not isinstance(observed, datetime):
            raise ChunkError("a chunk has no `timestamp` in its metadata")
        number = metadata.get("chunk", 0)
        return cls(
            actions,
            nanoseconds(start),
            round(period * _SECOND),
            number if isinstance(number, int) else 0,
            nanoseconds(observed),
            source,
        )

    def metadata(self) -> dict[str, Any]:
        """Return what a message with these actions carries, for `from_message`."""
        assert self.observed_ns is not None
        found: dict[str, Any] = {
            "timestamp": _datetime(self.observed_ns),
            "step_period": self.period_ns / _SECOND,
            "chunk": self.number,
        }
        if self.start_ns != self.observed_ns:
            found["start"] = _datetime(self.start_ns)
        return found

    @property
    def end_ns(self) -> int:
        """When the last step is over."""
        return self.start_ns + len(self.actions) * self.period_ns

    def moved(self, by_ns: int) -> ActionChunk:
        """Return the same chunk with another start, for example on another clock."""
        assert self.observed_ns is not None
        return replace(self, start_ns=self.start_ns + by_ns, observed_ns=self.observed_ns + by_ns)

    def step_at(self, time_ns: int) -> int:
        """Return the step of a moment: below 0 before the start, at least the number of steps after it."""
        return (time_ns - self.start_ns) // self.period_ns

    def left_over(self, time_ns: int) -> Floats:
        """Return the actions from a moment on: (steps, numbers of an action); none after the end."""
        return self.actions[max(self.step_at(time_ns), 0) :]

    def at(self, time_ns: int, *, interpolate: bool = True) -> Floats:
        """Return the action for a moment: the first one before the start, the last one after the end.

        ``interpolate``: go from step to step on a straight line, reaching each at its time. Without it,
        each step holds for one period.
        """
        step, over = divmod(time_ns - self.start_ns, self.period_ns)
        last = len(self.actions) - 1
        if step < 0:
            step = over = 0
        elif step >= last:
            step, over = last, 0
        action: Floats = self.actions[step]
        if not interpolate or not over:
            return action
        part = over / self.period_ns
        # Not `action + part * (next - action)`: the difference of large numbers may be infinite.
        between: Floats = (1 - part) * action + part * self.actions[step + 1]
        return between


class PlayedAction(NamedTuple):
    """The action for a moment.

    ``chunk``: the newest chunk in it. ``step``: the step of that chunk. ``is_late``: the chunks have no
    action for the moment, and the last one is repeated.
    """

    action: Floats
    chunk: ActionChunk
    step: int
    is_late: bool


class ChunkPlayer:
    """Gives the action for each moment out of chunks that overlap. Not for several threads at a time.

    >>> player = ChunkPlayer("fade", fade=1.0)
    >>> second = 1_000_000_000
    >>> player.add(ActionChunk(np.array([[0.0], [0.0], [0.0]]), 0, second), 0)
    True
    >>> player.add(ActionChunk(np.array([[8.0], [8.0], [8.0]]), second, second, 1), second)
    True
    >>> [float(player.at(int(moment * second)).action[0]) for moment in (1.0, 1.25, 1.5, 2.0)]
    [0.0, 2.0, 4.0, 8.0]
    """

    def __init__(
        self,
        blend: Blend = "newest",
        *,
        fade: float = 0.1,
        decay: float = 0.01,
        interpolate: bool = True,
    ) -> None:
        """``fade``: seconds, 0 or more. ``decay``: of ``ensemble``; 0 weighs all chunks equally, below 0
        newer ones count more. ``interpolate``: as for `ActionChunk.at`. Raises ``ValueError``.
        """
        self.configure(blend, fade=fade, decay=decay, interpolate=interpolate)
        self._chunks: list[tuple[ActionChunk, int]] = []  # oldest first; each with the time it was added
        self._last: PlayedAction | None = None
        self._size = 0  # numbers of an action

    def configure(self, blend: Blend, *, fade: float, decay: float, interpolate: bool) -> None:
        """Change the settings; the chunks stay. Raises ``ValueError``."""
        if blend not in BLENDS:
            raise ValueError(f"blend is {blend!r}; it can be {', '.join(BLENDS)}")
        if not 0 <= fade < math.inf or not math.isfinite(decay):
            raise ValueError(f"fade is {fade} and decay is {decay}; fade has to be 0 or more")
        self._blend: Blend = blend
        self._fade_ns = int(fade * _SECOND)
        self._decay = decay
        self._interpolate = interpolate

    def add(self, chunk: ActionChunk, now_ns: int) -> bool:
        """Add a chunk; return whether it is used.

        It is not if its observation is older than the newest chunk's, or if it is over. Raises `ChunkError`
        if its actions have another size than those before.
        """
        size = chunk.actions.shape[1]
        if self._size and size != self._size:
            raise ChunkError(
                f"a chunk has {size} numbers for each action; the ones before had {self._size}"
            )
        if chunk.end_ns <= now_ns:
            return False
        if self._chunks:
            newest = self._chunks[-1][0]
            assert chunk.observed_ns is not None
            assert newest.observed_ns is not None
            # Out of order. An observation from after the present means that the clock was set back.
            if chunk.observed_ns < newest.observed_ns <= now_ns:
                return False
        self._size = size
        self._chunks.append((chunk, max(now_ns, chunk.start_ns)))  # a fade begins when it has an action
        self._forget(now_ns)
        return True

    def clear(self) -> None:
        """Forget all chunks, as at a stop."""
        self._chunks.clear()
        self._last = None

    def at(self, now_ns: int) -> PlayedAction | None:
        """Return the action for a moment; None until a chunk has begun. Moments must not go back.

        After the end of the chunks, the last action is repeated, with ``is_late``.
        """
        covering = [chunk for chunk, _ in self._chunks if chunk.start_ns <= now_ns < chunk.end_ns]
        if not covering:
            return self._late(now_ns)
        newest = covering[-1]
        if self._blend == "ensemble":
            action = self._mean(covering, now_ns)
        elif self._blend == "fade":
            action = self._faded(now_ns)
        else:
            action = newest.at(now_ns, interpolate=self._interpolate)
        self._last = PlayedAction(action, newest, newest.step_at(now_ns), False)
        return self._last

    def _late(self, now_ns: int) -> PlayedAction | None:
        """Return the last action again; it may be one of a chunk that ended between two moments."""
        over = [chunk for chunk, _ in self._chunks if chunk.end_ns <= now_ns]
        if over and (self._last is None or over[-1].end_ns > self._last.chunk.end_ns):
            end = over[-1]
            self._last = PlayedAction(end.actions[-1], end, len(end.actions) - 1, True)
        if self._last is None:
            return None
        # A fade goes on to its end, so that the next one begins where this one is.
        action = self._faded(now_ns) if self._blend == "fade" and over else self._last.action
        self._last = self._last._replace(action=action, is_late=True)
        return self._last

    def _mean(self, chunks: list[ActionChunk], now_ns: int) -> Floats:
        chunks = chunks[-_MOST_CHUNKS:]
        if len(chunks) == 1:
            return chunks[0].at(now_ns, interpolate=self._interpolate)
        exponents = -self._decay * np.arange(len(chunks))
        weights = np.exp(exponents - exponents.max())  # the greatest is 1: no overflow
        weights /= weights.sum()
        actions = np.stack([chunk.at(now_ns, interpolate=self._interpolate) for chunk in chunks])
        mean: Floats = (weights @ actions).astype(actions.dtype, copy=False)
        return mean

    def _faded(self, now_ns: int) -> Floats:
        """Fade over all chunks in turn, so that a third one that comes during a fade makes no jump."""
        begun = [(chunk, since) for chunk, since in self._chunks if since <= now_ns]
        first = begun[0][0] if begun else self._chunks[0][0]
        action = first.at(now_ns, interpolate=self._interpolate)
        for chunk, since in begun[1:]:
            part = min((now_ns - since) / self._fade_ns, 1.0) if self._fade_ns else 1.0
            action = (1 - part) * action + part * chunk.at(now_ns, interpolate=self._interpolate)
        return action

    def _forget(self, now_ns: int) -> None:
        """Drop the chunks that no later moment needs."""
        kept = self._chunks
        if self._blend == "fade":
            done = [index for index, (_, since) in enumerate(kept) if since + self._fade_ns <= now_ns]
            first = max(done, default=0)
            # A burst of chunks within one fade: the fade of the oldest ones is cut short.
            self._chunks = kept[max(first, len(kept) - _MOST_CHUNKS) :]
        else:
            # At least one stays, whose last action is repeated.
            self._chunks = [item for item in kept[:-1] if item[0].end_ns > now_ns][-_MOST_CHUNKS:] + kept[
                -1:
            ]


def _datetime(time_ns: int) -> datetime:
    seconds, rest = divmod(time_ns, _SECOND)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
