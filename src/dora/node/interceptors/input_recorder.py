"""Record what a node receives, for tests: ``DORA_WRITE_EVENTS_TO=folder dora run dataflow.yml``.

Each node writes ``inputs-<id>.json``, which ``DORA_TEST_WITH_INPUTS`` plays back. The file is valid JSON
after every event. It counts as *poisoned* until the node ends, so the file of a killed node is never taken
for a complete recording.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from contextlib import suppress
from typing import Any

from dora._shared_folders import open_file
from dora.node.events import Event, Input, InputClosed, Stop, Synced
from dora.node.interceptor import ReceiveInterceptor
from dora.node.json_format import array_to_json, metadata_to_json, type_to_json
from dora.node.log import write_log
from dora.transport.forking import disown_after_fork, leak


class InputRecorder(ReceiveInterceptor):
    """Writes one recording."""

    def __init__(self, node_id: str, folder: str) -> None:
        self._node_id = node_id
        self._start = time.monotonic()
        self._count = 0
        self._failure: dict[str, Any] | None = None
        self._file: Any = None
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            file = open_file(f"inputs-{node_id}.json", flags, below=folder)
            self._file = open(file, "w", encoding="utf-8")  # noqa: SIM115 - open as long as the node
            self._file.write(f'{{"id": {json.dumps(node_id)}, "events": [')
            self._end_of_events = self._file.tell()
            self._finish()
            atexit.register(self.close)
            disown_after_fork(self)
        except OSError as error:
            self._fail(error)

    def after_poll(self, event: Event | None) -> None:
        """Append an event, unless the format has no form for it."""
        if event is None or self._file is None:
            return
        offset = time.monotonic() - self._start
        try:
            item = _to_json(event, offset)
            if item is None:
                return
            self._file.seek(self._end_of_events)
            self._file.write(("," if self._count else "") + "\n" + json.dumps(item))
            self._end_of_events = self._file.tell()
            self._count += 1
            self._finish()
        except Exception as error:  # noqa: BLE001 - an array of the user's may fail in any way
            self._fail(error)

    def disown(self) -> None:
        """Leave the file to the parent, in a forked child process."""
        leak(self._file)
        self._file = None

    def close(self) -> None:
        """Mark the recording as complete, unless an error ended it."""
        if self._file is None:
            return
        try:
            self._finish(clean=True)
        except OSError as error:
            self._fail(error)
        self._end()

    def _end(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # a full disk; the file stays poisoned
                file.close()
            atexit.unregister(self.close)

    def _finish(self, *, clean: bool = False) -> None:
        """Write the part after the events. The file only grows or is cut, so it stays valid."""
        status: dict[str, Any] = {"state": "clean"}
        if not clean:
            status = self._failure or self._poison("the node has not ended, or was killed")
        self._file.seek(self._end_of_events)
        self._file.write(f'\n], "recording_status": {json.dumps(status)}}}\n')
        self._file.truncate()
        self._file.flush()

    def _poison(self, reason: str) -> dict[str, Any]:
        return {
            "state": "poisoned",
            "first_failure_event_index": self._count,
            "first_failure_time_offset_secs": time.monotonic() - self._start,
            "first_failure_error": reason,
        }

    def _fail(self, error: Exception) -> None:
        """Stop recording; the node goes on undisturbed."""
        if self._failure is None:
            text = str(error)
            self._failure = self._poison(text)
            write_log(self._node_id, "warn", f"the recording of inputs stops: {text}")
            if self._file is not None:
                with suppress(OSError):
                    self._finish()
        self._end()


def _to_json(event: Event, offset: float) -> dict[str, Any] | None:
    match event:
        case Input():
            return {"type": "Input", "id": event["id"], "time_offset_secs": offset, **_content(event)}
        case Synced():
            sets: dict[str, Any] = {}
            for name, found in event["inputs"].items():
                many = found.__class__ is list
                items = [_content(each) for each in event.history(name)]
                sets[name] = items if many else items[0] if items else None
            return {"type": "Sync", "id": event["id"], "time_offset_secs": offset, "inputs": sets}
        case InputClosed():
            return {"type": "InputClosed", "id": event["id"], "time_offset_secs": offset}
        case Stop():
            kind = "Stop" if event["id"] == "MANUAL" else "AllInputsClosed"
            return {"type": kind, "time_offset_secs": offset}
    return None


def _content(event: Input) -> dict[str, Any]:
    """Return the value and the metadata of a message."""
    item: dict[str, Any] = {}
    metadata = dict(event["metadata"])
    if metadata.get("timestamp") == event.send_time:
        del metadata["timestamp"]  # the receiver added it, not the sender
    if metadata:
        item["metadata"] = metadata_to_json(metadata)
    value = event["value"]
    if len(value) or str(value.type) != "null":
        item |= {"data": array_to_json(value), "data_type": type_to_json(value.type)}
    return item
