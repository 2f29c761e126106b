"""Recorded inputs instead of a dataflow: ``DORA_TEST_WITH_INPUTS=inputs.json python node.py``.

The file comes from `dora.node.interceptors.input_recorder`, from dora-rs, or is written by hand. Its events
come in the order of their time offsets, each no earlier than its offset after the start. Each message that
the node sends is written as a JSON object in a line.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from typing import Any, Final

from dora._shared_folders import open_file
from dora.node.events import Event, Input, InputClosed, Reference, Stop, Synced
from dora.node.json_format import (
    RecordingError,
    array_from_json,
    array_to_json,
    metadata_from_json,
    type_to_json,
)
from dora.node.standalone.host import EventSource, Standalone
from dora.wire.decode import decode_arrow
from dora.wire.message import Message

OUTPUTS_FILE: Final = "outputs.jsonl"


def replay(path: str, node_id: str | None) -> Standalone:
    """Return the host that plays back a file of recorded inputs; raises `RecordingError`."""
    recording = _read(path)
    events = sorted(
        (_moment_and_event(path, index, item) for index, item in enumerate(recording["events"])),
        key=lambda event: event[0],
    )
    outputs = os.environ.get("DORA_TEST_WRITE_OUTPUTS_TO") or os.path.join(
        os.path.dirname(path), OUTPUTS_FILE
    )
    without_times = os.environ.get("DORA_TEST_NO_OUTPUT_TIME_OFFSET", "").lower() not in ("", "0", "false")
    name = node_id or recording.get("id") or "node"
    return Standalone(str(name), _Recording(events), _Writer(outputs, times=not without_times))


class _Recording(EventSource):
    def __init__(self, events: list[tuple[int, Event]]) -> None:
        super().__init__()
        self.open = bool(events)
        start = time.monotonic_ns()
        self._events = deque((start + moment, event) for moment, event in events)

    def poll(self) -> Event | None:
        if not self.ready():
            return None
        _, event = self._events.popleft()
        messages = event.messages() if isinstance(event, Synced) else [event]
        for message in messages:
            if isinstance(message, Input) and isinstance(message._content, Reference):
                message._content.time_ns = time.time_ns()
        self.open = bool(self._events) and not isinstance(event, Stop)
        return event

    def ready(self) -> bool:
        return bool(self._events) and time.monotonic_ns() >= self._events[0][0]

    def wake_at(self) -> int | None:
        return self._events[0][0] if self._events else None


class _Writer:
    """Writes each message that the node sends, at once."""

    def __init__(self, path: str, *, times: bool) -> None:
        try:
            file = open_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            self._file = open(file, "w", encoding="utf-8")  # noqa: SIM115 - open as long as the node
        except OSError as error:
            raise RecordingError(f"the outputs cannot be written to {path}: {error.strerror}") from error
        self._times = times
        self._start = time.monotonic()

    def __call__(self, output_id: str, message: Message) -> None:
        array = decode_arrow(message)
        row: dict[str, Any] = {"id": output_id}
        if self._times:
            row["time_offset_secs"] = time.monotonic() - self._start
        row["data"] = array_to_json(array)
        row["data_type"] = type_to_json(array.type)
        self._file.write(json.dumps(row, separators=(",", ":")) + "\n")
        self._file.flush()


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            recording = json.load(file)
    except OSError as error:
        raise RecordingError(f"the recorded inputs {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise RecordingError(f"{path} is not a recording: {error}") from error
    if not isinstance(recording, dict) or not isinstance(recording.get("events"), list):
        raise RecordingError(f'{path} is not a recording: it has to be a mapping with a list of "events"')
    status = recording.get("recording_status")
    details = status if isinstance(status, dict) else {"state": status}
    if details.get("state") == "poisoned":
        reason = details.get("first_failure_error") or "something went wrong while it was made"
        raise RecordingError(f"the recording {path} is incomplete and is not replayed: {reason}")
    return recording


def _moment_and_event(path: str, index: int, item: Any) -> tuple[int, Event]:
    try:
        return round(float(item.get("time_offset_secs", 0.0)) * 1e9), _event(path, item)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else error
        raise RecordingError(f"event {index} of {path} cannot be used: {what}") from error


def _event(path: str, item: dict[str, Any]) -> Event:
    match item["type"]:
        case "Input":
            return _message(path, item["id"], item)
        case "Sync":
            found: dict[str, Any] = {
                name: None
                if each is None
                else [_message(path, name, one) for one in each]
                if isinstance(each, list)
                else _message(path, name, each)
                for name, each in item["inputs"].items()
            }
            return Synced(found, [name for name, each in item["inputs"].items() if not each and each != {}])
        case "InputClosed":
            return InputClosed(item["id"])
        case "AllInputsClosed":
            return Stop("ALL_INPUTS_CLOSED")
        case "Stop":
            return Stop("MANUAL")
        case other:
            raise ValueError(
                f"{other!r} is no type; it can be Input, Sync, InputClosed, AllInputsClosed, Stop"
            )


def _message(path: str, input_id: str, item: dict[str, Any]) -> Input:
    return Input.make(
        input_id, Reference(_value(path, item), metadata_from_json(item.get("metadata") or {}), 0)
    )


def _value(path: str, item: dict[str, Any]) -> Any:
    import pyarrow as pa

    if "path" in item:
        beside = os.path.join(os.path.dirname(path), item["path"])
        found = beside if os.path.exists(beside) else item["path"]
        return read_arrow_file(found, item.get("batch_index", 0), item.get("column"))
    if "data" not in item:
        return pa.nulls(0)
    return array_from_json(item["data"], item.get("data_type"))


def read_arrow_file(path: str, batch_index: int = 0, column: str | None = None) -> Any:
    """Return a batch of an Arrow IPC file (or stream) as a struct array, or one column of it.

    Raises ``ValueError``.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(path) as source:
            try:
                reader = pa.ipc.open_file(source)
                batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
            except pa.ArrowInvalid:
                source.seek(0)
                batches = list(pa.ipc.open_stream(source))
        for each in batches:
            each.validate(full=True)  # a file may come from anywhere
    except (OSError, pa.ArrowException, MemoryError) as error:
        raise ValueError(f"{path} is not an Arrow file: {error}") from error
    if not 0 <= batch_index < len(batches):
        raise ValueError(f"{path} has {len(batches)} batches; there is no number {batch_index}")
    batch = batches[batch_index]
    if column is None:
        return batch.to_struct_array()
    if column not in batch.schema.names:
        raise ValueError(f"{path} has no column `{column}`; it has {', '.join(batch.schema.names)}")
    return batch.column(column)
