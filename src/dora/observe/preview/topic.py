"""The previews of one topic: a few messages a second; of numbers, as many as there is time for."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec

from dora.observe.formatting import plain
from dora.wire.decode import PayloadError, decode_arrow
from dora.wire.message import Message
from dora.wire.metadata import MetadataError, decode_metadata

if TYPE_CHECKING:
    from dora.observe.preview.render import RenderedPreview
    from dora.observe.queries import Preview

MAX_STEPS: Final = 200  # values of a series that one preview brings
# A preview is followed by a pause that many times as long as it took, so large ones come less often.
REST: Final = 9
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class PreviewTopic:
    """Takes messages, and renders a preview of the last one when it is time."""

    def __init__(self, name: str, declared: str) -> None:
        """``declared``: the type that the dataflow file declares, or ""."""
        self._name = name
        self._declared = declared
        self._last: Message | None = None
        self._kind = ""
        self._steps: list[tuple[float, list[float | None]]] = []
        self._head: dict[str, Any] = {}
        self._due = 0.0

    @property
    def has_boxes(self) -> bool:
        """Whether the messages are boxes, which belong to frames of another topic."""
        return self._kind == "boxes"

    @property
    def needs_all(self) -> bool:
        """Whether every message counts, as in a curve over time."""
        return self._kind == "series"

    def take(self, message: Message) -> None:
        """Keep a message instead of the one before."""
        if self.needs_all and message.owner is None and len(self._steps) < MAX_STEPS:
            self._show(message)  # each value counts in a curve
            if self.needs_all:
                return
        self._last = message  # also the first one that is none of a curve: its bytes are needed as well

    def release(self) -> None:
        """Drop the message that is held; its memory belongs to the sender."""
        self._last = None

    def preview(self) -> Preview | None:
        """Return a preview if there is a new message and it is time for one."""
        from dora.observe.queries import Preview  # not for `describe`, which needs none of its imports

        now = time.monotonic()
        if now < self._due or (self._last is None and not self._steps):
            return None
        begun = time.thread_time()
        body = b""
        if self._last is not None:
            message, self._last = self._last, None
            body = self._show(message)
            del message
        head = dict(self._head)
        if self.needs_all:
            head["steps"], self._steps = self._steps, []
        self._due = now + (time.thread_time() - begun) * REST
        return Preview(self._name, msgspec.json.encode(head), body, adds=self.needs_all)

    def _show(self, message: Message) -> bytes:
        """Describe a message in the head; return the bytes that go with it."""
        shown = describe(self._name, self._declared, message)
        if shown.kind == "series":
            self._steps.append((message.time_ns / 1e6, shown.head["values"]))
            del self._steps[:-MAX_STEPS]
        else:
            self._steps = []
        self._kind = shown.kind
        self._head = shown.head
        return shown.body


def describe(name: str, declared: str, message: Message) -> RenderedPreview:
    """Return the preview of a message with its complete head; one that cannot be shown says why."""
    from dora.observe.preview.render import RenderedPreview, show

    metadata: dict[str, Any] = {}
    length, type_name = 0, ""
    try:
        metadata = decode_metadata(message.metadata)
        value = decode_arrow(message)
        length, type_name = len(value), str(value.type)
        shown = show(name, declared, value, metadata)
    except (MetadataError, PayloadError) as error:
        shown = RenderedPreview("problem", {"problem": str(error)})
    except Exception as error:  # noqa: BLE001 - whatever a sender may send, the others go on
        shown = RenderedPreview(
            "problem", {"problem": f"it cannot be shown: {type(error).__name__}: {error}"}
        )
    head = {
        **shown.head,
        "kind": shown.kind,
        "type": type_name,
        "length": length,
        "bytes": message.body_size,
        "number": message.sequence,
        "time": message.time_ns / 1e6,  # milliseconds since the Unix epoch
        "stamp": _stamp(metadata, message),
        "metadata": plain(metadata),
    }
    return RenderedPreview(shown.kind, head, shown.body)


def stamp_of(message: Message) -> int:
    """Return the time stamp of a message in microseconds; raises `MetadataError`."""
    return _stamp(decode_metadata(message.metadata), message)


def _stamp(metadata: dict[str, Any], message: Message) -> int:
    """Return the time stamp in microseconds since the Unix epoch; boxes may have their frame's."""
    given = metadata.get("timestamp")
    if isinstance(given, datetime):
        return (given - _EPOCH) // timedelta(microseconds=1)
    return message.time_ns // 1000
