"""The channels of Foxglove: one for each topic, in the schema of its messages."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from ctypes import string_at
from typing import Any, Final, NamedTuple

import foxglove
import pyarrow as pa
from foxglove import Channel, Schema

from dora.node.events import Input
from dora.nodes.foxglove.drawing import DRAWERS, Drawer, text
from dora.observe.formatting import plain
from dora.observe.preview.drawable import DrawableMessage, NotDrawable, UnknownPrimitive, primitive_of
from dora.recording.mcap.channels import ARROW_FORM, form_of
from dora.recording.mcap.format import body_prefix
from dora.recording.mcap.schemas import schema_data
from dora.wire.message import Message

VALUES: Final = Schema(
    name="dora.Values",
    encoding="jsonschema",
    data=b'{"type": "object", "properties": {"values": {"type": "array"}}}',
)
MOST_VALUES: Final = 1000  # of a message that is shown as JSON
log: Final = logging.getLogger("dora.nodes.foxglove")


class _Open(NamedTuple):
    channel: Channel
    schema: str


class ChannelMap:
    """Sends messages of dora to all who look at their topics in Foxglove."""

    def __init__(self, context: foxglove.Context) -> None:
        self._context = context
        self._open: dict[str, _Open] = {}
        self.not_drawn: dict[str, int] = {}  # topic → messages that are no drawing

    def __contains__(self, topic: str) -> bool:
        """Return whether a topic has a channel; its first message opens one."""
        return topic in self._open

    def show(self, topic: str, message: Message) -> None:
        """Send a message, in the most specific schema of Foxglove that it fits.

        A message that cannot be drawn as its primitive goes out as plain values and is counted in
        ``not_drawn``. The first one of a topic is logged.
        """
        event = Input.make(topic, message)
        try:
            drawer = DRAWERS.get(primitive_of(topic, event.metadata))
        except UnknownPrimitive:
            drawer = None
        if drawer is not None and self._draw(topic, drawer, event, message.time_ns):
            return
        form = form_of(message)
        if form.schema == ARROW_FORM:
            is_log = drawer is not text and _is_text(event.value.type)
            if not (is_log and self._draw(topic, text, event, message.time_ns)):
                self._show_values(topic, event, message.time_ns)
            return
        channel = self._channel(
            topic,
            form.schema,
            lambda: Schema(name=form.schema, encoding="protobuf", data=schema_data(form.schema)),
        )
        data = (form.fields, body_prefix(form.body_field, message.body_size), _body(message))
        channel.log(b"".join(data), log_time=message.time_ns)

    def open(self, topic: str, kind: type[Any]) -> None:
        """Open the channel of a topic before its first message, of a class of `foxglove.messages`."""
        self._channel(topic, kind.__name__, kind.get_schema)

    def send(self, topic: str, drawn: Any, time_ns: int) -> None:
        """Send a message of `foxglove.messages`."""
        name = type(drawn).__name__
        self._channel(topic, name, drawn.get_schema).log(drawn.encode(), log_time=time_ns)

    def _draw(self, topic: str, drawer: Drawer, event: Input, time_ns: int) -> bool:
        """Send what a drawer makes of a message; return whether it could, else count the message."""
        try:
            for drawn in drawer(DrawableMessage(topic, event.value, event.metadata)):
                self.send(topic, drawn, time_ns)
            return True
        except NotDrawable as fault:
            self._not_drawn(topic, str(fault))
        except Exception as fault:  # noqa: BLE001 - messages of others may have anything in them
            self._not_drawn(topic, f"{type(fault).__name__}: {fault}")
        return False

    def _show_values(self, topic: str, event: Input, time_ns: int) -> None:
        """Send values for which Protobuf has no type as JSON."""
        values = plain(values_of(event.value[:MOST_VALUES]), full=True)
        data = json.dumps({"values": values}, allow_nan=False).encode()
        self._channel(topic, "dora.Values", lambda: VALUES, "json").log(data, log_time=time_ns)

    def _channel(
        self, topic: str, name: str, schema: Callable[[], Schema], encoding: str = "protobuf"
    ) -> Channel:
        """Return the channel of a topic, a new one if the schema of its messages has changed."""
        opened = self._open.get(topic)
        if opened is not None:
            if opened.schema == name:
                return opened.channel
            opened.channel.close()
        channel = Channel(topic, schema=schema(), message_encoding=encoding, context=self._context)
        self._open[topic] = _Open(channel, name)
        return channel

    def _not_drawn(self, topic: str, reason: str) -> None:
        count = self.not_drawn[topic] = self.not_drawn.get(topic, 0) + 1
        if count == 1:
            log.warning("`%s` is shown as plain values: %s", topic, reason)

    def close(self) -> None:
        """Close all channels."""
        for opened in self._open.values():
            opened.channel.close()
        self._open.clear()


def values_of(array: pa.Array[Any]) -> list[Any]:
    """Return the items of an array. Where Python has no such value they are texts, as Arrow writes them.

    Times with nanoseconds need pandas, a year after 9999 or a duration may be too large, and a text may not
    be UTF-8.
    """
    try:
        return array.to_pylist()
    except (ArithmeticError, ValueError, ImportError, pa.ArrowException):
        try:
            return array.cast(pa.string()).to_pylist()
        except (pa.ArrowException, UnicodeDecodeError):  # lists and structs have no text each
            return [str(array)]


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _body(message: Message) -> bytes:
    if message.owner is None:
        return message.small_body
    return string_at(message.address + message.body_offset, message.body_size)
