"""Recordings for tests, written as the recorder does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from ctypes import string_at
from pathlib import Path
from typing import Any

from dora.recording.mcap.channels import ChannelItem, ChannelTable, order_channel, prefix_of
from dora.recording.mcap.chunk import Chunk, compress, room_for
from dora.recording.mcap.format import End, RecordingStart, TopicEnd
from dora.recording.mcap.writer import RecordingWriter
from dora.wire.array_shape import describe
from dora.wire.encode import encode
from dora.wire.message import Message, pack_head
from dora.wire.metadata import encode_metadata

SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND

Sent = tuple[str, float, Any] | tuple[str, float, Any, dict[str, Any]]
"""Topic, seconds from the start, data, metadata."""


def message_of(data: Any, metadata: dict[str, Any], sequence: int, time_ns: int) -> Message:
    payload = encode(data)
    if payload.array is not None:
        metadata = describe(payload.array, metadata)
    head = pack_head(
        payload.encoding, payload.schema, encode_metadata(metadata), payload.size, sequence, time_ns
    )
    return Message(head + payload.to_bytes())


def write_recording(
    path: Path,
    messages: Iterable[Sent],
    *,
    dataflow: Mapping[str, Any] | None = None,
    orders: Mapping[str, bytes] | None = None,
    context: Iterable[tuple[str, float, Any]] = (),
    topics: Iterable[str] = (),
    first: int = 1,
    lost: int = 0,
    ends: bool = True,
    stopped: float = 10.0,
    failed: Iterable[str] = (),
    **start: Any,
) -> Path:
    """Write a file with a chunk for each message. ``ends``: False leaves the end away, as a crash does.

    ``context`` is about the run: topics such as ``dora/state``, seconds, and values that become JSON.
    ``stopped``: seconds until the end; ``failed``: the nodes that it names.
    """
    channels = ChannelTable()
    writer = RecordingWriter(str(path), channels, force=True)
    sent = list(messages)
    names = list(dict.fromkeys([message[0] for message in sent] + list(topics)))
    described = dataflow if dataflow is not None else {"nodes": []}
    writer.begin(
        RecordingStart(
            **{
                "dora": "1",
                "dataflow_id": "id",
                "name": "lab",
                "started": T0,
                "working_dir": str(path.parent),
                "together": True,
                "nodes": sorted({name.partition("/")[0] for name in names} | set(orders or ())),
                "topics": names,
                **start,
            }
        ),
        json.dumps(described).encode(),
    )
    counts: Counter[str] = Counter()
    for topic, seconds, data, *more in sent:
        counts[topic] += 1
        time_ns = T0 + round(seconds * SECOND)
        metadata = more[0] if more else {}
        message = message_of(data, metadata, counts[topic] + first - 1, time_ns)
        channel, form = channels.of_message(topic, message)
        prefix = prefix_of(message, form)
        chunk = Chunk(room_for(len(prefix), message.body_size) + 4096)
        chunk.add(channel, message.sequence, time_ns, prefix, message)
        writer.write(compress(chunk, "none"))
    numbers: dict[str, int] = {}
    for topic, seconds, value in context:
        if topic not in numbers:
            numbers[topic] = channels.add(ChannelItem(topic, "", {}, "json"))
        data = json.dumps(value).encode()
        chunk = Chunk(len(data) + 4096)
        chunk.add_data(numbers[topic], 1, T0 + round(seconds * SECOND), data)
        writer.write(compress(chunk, "zstd"))
    for node_id, data in (orders or {}).items():
        channel = channels.add(order_channel(node_id))
        chunk = Chunk(len(data) + 4096)
        chunk.add_data(channel, 1, T0 + 3600 * SECOND, data)
        writer.write(compress(chunk, "none"))
    if ends:
        found = {
            name: TopicEnd(counts[name], lost, first, first + counts[name] - 1 + lost) for name in counts
        }
        end = T0 + round(stopped * SECOND)
        writer.finish(
            End(complete=not lost, stopped=end, reason="asked", topics=found, failed=list(failed))
        )
    else:
        writer.close()
    return path


def bytes_of(message: Message) -> bytes:
    if message.owner is None:
        return message.head
    return message.head + string_at(message.address + message.body_offset, message.body_size)
