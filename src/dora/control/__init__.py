"""Parts of controllers: observations with a history, action chunks at a steady rate, take-over.

All of it is plain code without threads, files or a clock of its own: times are arguments, nanoseconds since
any moment, such as ``time.time_ns()``. The nodes `dora-policy`, `dora-action-executor` and `dora-selector`
are built on it, and your own nodes can be.

- `InputHistory` keeps what inputs brought, by capture time, and joins it at a moment: the last n values, or
  values at given offsets.
- `ActionChunk` is a series of actions with a start and a period, as policies give it. `ChunkPlayer` turns
  overlapping chunks into one action for each moment.
- `Takeover` chooses between sources by priority, and goes from one to the other without a jump.

Import the public names from this module. Users need not know in which file each one is.
"""

from dora.control.chunks import (
    BLENDS,
    ActionChunk,
    Blend,
    ChunkError,
    ChunkPlayer,
    PlayedAction,
)
from dora.control.history import InputHistory, Window
from dora.control.takeover import SelectedAction, Takeover

__all__ = [
    "BLENDS",
    "ActionChunk",
    "Blend",
    "ChunkError",
    "ChunkPlayer",
    "InputHistory",
    "PlayedAction",
    "SelectedAction",
    "Takeover",
    "Window",
]
