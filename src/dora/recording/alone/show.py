"""Events and messages as lines for a terminal."""

from __future__ import annotations

from typing import Any, Final

from dora.node.events import Event, Input, Synced
from dora.recording.alone.recorded_node import RecordedNode, Step
from dora.wire.decode import BAD_MESSAGE, decode_arrow
from dora.wire.message import Message
from dora.wire.metadata import MetadataError

_VALUES: Final = 12  # of an array
_WIDTH: Final = 160  # characters


def value_text(array: Any) -> str:
    """Return the type of an Arrow array, its length and its first values.

    >>> import pyarrow as pa
    >>> value_text(pa.array([1, 2]))
    'int64[2]: [1, 2]'
    """
    values = array.slice(0, _VALUES).to_pylist()
    more = f" … {len(array) - _VALUES:,} more" if len(array) > _VALUES else ""
    return _short(f"{array.type}[{len(array):,}]: {values}{more}")


def message_text(message: Message) -> str:
    """Return the values of a message as `value_text` does; its size if they cannot be read."""
    try:
        return value_text(decode_arrow(message))
    except BAD_MESSAGE:
        return f"{message.body_size:,} bytes"


def event_lines(event: Event) -> list[str]:
    """Return what is in an event."""
    if isinstance(event, Synced):
        return [line for message in event.messages() for line in _input_lines(message, message["id"])]
    if isinstance(event, Input):
        return _input_lines(event, "value")
    return [f"  {key}: {_short(str(event[key]))}" for key in event if key not in ("kind", "type")]


def _input_lines(event: Input, label: str) -> list[str]:
    try:
        lines = [f"  {label}: {value_text(event['value'])}"]
        metadata = {key: value for key, value in event["metadata"].items() if key != "timestamp"}
    except (*BAD_MESSAGE, MetadataError) as error:
        return [f"  {label}: it cannot be read: {error}"]
    return [*lines, f"  metadata: {_short(str(metadata))}"] if metadata else lines


def step_text(node: RecordedNode, step: Step) -> str:
    """Return the number of an event, its time and what it is."""
    last = node.steps[-1].number
    at = node.seconds(step.entry.time_ns)
    return f"event {step.number:,} of {last:,}, at {at:.3f} s: {node.describe(step.entry)}"


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…"
