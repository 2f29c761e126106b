"""One inference after the other: from observations to chunks, with their times and failures."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any, Final

import numpy as np

from dora.control import ActionChunk, ChunkError
from dora.nodes.policy.load import Policy
from dora.nodes.policy.observations import JoinedObservation

# As many as the estimate of real-time chunking looks back over, in the paper's algorithm 1.
_DELAYS: Final = 10
_TIMES: Final = 10_000  # for the summary at the end; a node that runs for weeks has the newest ones


class Inference:
    """Calls a policy, and keeps what the next call needs of the last one."""

    def __init__(self, policy: Policy, period_ns: int, action_size: int | None = None) -> None:
        """``period_ns``: of a step. ``action_size``: numbers of an action; None: any."""
        self._policy = policy
        self._period_ns = period_ns
        self._action_size = action_size
        self._last: ActionChunk | None = None
        self._delays_ns: deque[int] = deque(maxlen=_DELAYS)
        self.times_ns: deque[int] = deque(maxlen=_TIMES)  # of the newest calls
        self.chunks = 0

    def reset(self) -> None:
        """Begin an episode: nothing is committed."""
        self._last = None
        if self._policy.reset is not None:
            self._policy.reset()

    def run(self, observation: JoinedObservation) -> ActionChunk:
        """Return the chunk for an observation, which begins at its time.

        The policy may ask for ``left_over``, the actions of the last chunk from the observation on, an
        array (steps, numbers of an action) or None; and for ``delay``, how many of them will have been
        executed when the new chunk is there: the most of the last ten times; and for ``metadata``, of the
        newest message of each input. Raises `ChunkError` for a
        result that is no chunk, and everything that the policy raises.
        """
        left_over = None if self._last is None else self._last.left_over(observation.time_ns)
        if left_over is not None and not len(left_over):
            left_over = None
        delay = math.ceil(max(self._delays_ns, default=0) / self._period_ns)
        began = time.monotonic_ns()
        metadata = {event.id: event.metadata for event in observation.events}
        result = self._policy(observation.values, left_over=left_over, delay=delay, metadata=metadata)
        chunk = ActionChunk(self._checked(result), observation.time_ns, self._period_ns, self.chunks + 1)
        self.times_ns.append(time.monotonic_ns() - began)
        self._delays_ns.append(max(time.time_ns() - observation.time_ns, 0))
        self.chunks += 1
        self._last = chunk
        return chunk

    def _checked(self, result: Any) -> Any:
        if hasattr(result, "detach"):  # a tensor of PyTorch
            result = result.detach().cpu().numpy()
        try:
            actions = np.asarray(result)
        except ValueError:
            raise ChunkError("the actions do not make an array: the steps differ in length") from None
        if actions.ndim == 1:
            actions = actions[np.newaxis]  # a single action
        if self._action_size is not None and actions.shape[-1:] != (self._action_size,):
            raise ChunkError(
                f"the actions have the shape {actions.shape}; it has to be (steps, {self._action_size})"
            )
        return actions

    def metadata(self, chunk: ActionChunk) -> dict[str, Any]:
        """Return the metadata of the message of the last chunk."""
        return {**chunk.metadata(), "inference_ms": self.times_ns[-1] / 1e6}
