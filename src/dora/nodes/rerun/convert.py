"""Convert a recording to one of Rerun: draw like the viewer node, and draw plain numbers as curves."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, Final

import pyarrow as pa
import rerun as rr

from dora._shared_folders import open_file
from dora.errors import DoraError, cannot_write
from dora.node.events import Input
from dora.nodes.rerun.settings import ViewerSettings
from dora.nodes.rerun.show import APPLICATION, Canvas
from dora.observe.preview.drawable import UnknownPrimitive, primitive_of
from dora.recording.mcap.recording import Recording

_CURVES: Final = 64  # numbers of one message that are drawn as curves


def export_rerun(
    recording: Recording, path: str, topics: Collection[str] | None = None, *, force: bool = False
) -> tuple[int, Mapping[str, int]]:
    """Write a ``.rrd`` file; return how many messages were drawn, and by topic how many could not be.

    Raises `DoraError` for a file that exists, unless ``force``, or cannot be written.
    """
    if os.path.exists(path) and not force:
        raise DoraError(f"{path} exists already; choose another name, or write over it with --force")
    try:
        os.close(open_file(path, os.O_WRONLY | os.O_CREAT))  # Rerun would follow a link of anybody
    except OSError as error:
        raise cannot_write(path, error) from None
    rr.set_strict_mode(True)
    stream = rr.RecordingStream(APPLICATION, recording_id=recording.start.dataflow_id)
    try:
        stream.save(path)
    except (RuntimeError, OSError) as error:
        raise DoraError(f"cannot write {path}: {error}") from None
    canvas = Canvas(stream, ViewerSettings())
    count = 0
    for recorded in recording.messages(topics):
        event = Input.make(recorded.topic, recorded.message)
        primitive = _primitive(event)
        if primitive:
            event.metadata["primitive"] = primitive
        canvas.draw(event)
        count += 1
    stream.flush()
    stream.disconnect()
    return count - sum(canvas.not_drawn.values()), canvas.not_drawn


def _primitive(event: Input) -> str:
    """Return how to draw a message that does not declare it; "" if it does, or if nothing fits."""
    try:
        primitive_of(event.id, event.metadata)
    except UnknownPrimitive:
        return _guess(event.value)
    return ""


def _guess(value: pa.Array[Any]) -> str:
    if pa.types.is_string(value.type) or pa.types.is_large_string(value.type):
        return "text"
    numeric = pa.types.is_integer(value.type) or pa.types.is_floating(value.type)
    return "series" if numeric and 0 < len(value) <= _CURVES else ""
