"""Join the recordings that several machines have made of one dataflow at the same time."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import msgspec

from dora.recording.mcap.channels import ChannelItem, ChannelTable
from dora.recording.mcap.file import END_OF_TIME, McapFile
from dora.recording.mcap.format import MARK_TOPIC, STATE_TOPIC, End
from dora.recording.mcap.reader import DoraRecording
from dora.recording.mcap.writer import MessageWriter, RecordingFailed, RecordingWriter
from dora.wire.decoders import from_json

_Item = tuple[int, int, Any, Any]  # time, number of the file, channel, message


class Joined(NamedTuple):
    """The recording that `join` has written. ``damage``: why parts are not all in it, "" if they are."""

    end: End
    damage: str


def join(parts: Mapping[str, str], path: str) -> Joined:
    """Write one recording of the parts, path by machine; return what is in it.

    Messages, log entries and marks of all parts are in the order of their times. A state has the nodes and
    the links of all machines. A damaged part is read up to the damage. Raises `NotARecording`, `DoraError`
    if ``path`` exists or cannot be written.
    """
    with ExitStack() as stack:
        recordings = {
            machine: stack.enter_context(DoraRecording(part)) for machine, part in sorted(parts.items())
        }
        first = next(iter(recordings.values()))
        start = msgspec.structs.replace(
            first.start,
            started=min(recording.start.started for recording in recordings.values()),
            nodes=list(dict.fromkeys(node for item in recordings.values() for node in item.start.nodes)),
            topics=[topic for item in recordings.values() for topic in item.start.topics],
            sources={
                file: digest for item in recordings.values() for file, digest in item.start.sources.items()
            },
        )
        writer = RecordingWriter(path, ChannelTable())
        try:
            writer.begin(start, msgspec.json.encode(first.dataflow))
            counts, damage = _write(writer, parts)
            end = _end(recordings.values(), counts, damage)
            writer.finish(end)
        except RecordingFailed:
            writer.close()
            raise
    return Joined(end, damage)


def _end(recordings: Collection[DoraRecording], counts: Mapping[str, int], damage: str) -> End:
    """Return the end; ``counts``: how many messages of each topic could be read."""
    ends = [recording.end for recording in recordings if recording.end is not None]
    return End(
        complete=not damage and len(ends) == len(recordings) and all(end.complete for end in ends),
        stopped=max((end.stopped for end in ends), default=0),
        reason="saved",
        topics={
            name: msgspec.structs.replace(
                topic, messages=counts[name], lost=topic.lost + topic.messages - counts[name]
            )
            for end in ends
            for name, topic in end.topics.items()
        },
        failed=sorted({node for end in ends for node in end.failed}),
    )


def _write(writer: RecordingWriter, parts: Mapping[str, str]) -> tuple[Counter[str], str]:
    """Write what can be read of the parts; return how many messages by topic, and the damage of parts."""
    counts: Counter[str] = Counter()
    messages = MessageWriter(writer)
    numbers: dict[tuple[int, int], int] = {}  # file, id of a channel there → number here
    own: dict[tuple[str, str], int] = {}  # topic, schema → number; of channels that all parts have
    machines = sorted(parts)
    states = _States()
    seen: set[tuple[int, bytes]] = set()
    files = [McapFile(parts[machine]) for machine in machines]
    for file in files:
        file.index(lambda _: True)
    for time_ns, number, channel, stored in heapq.merge(*map(_items, range(len(files)), files)):
        data = stored.data
        if channel.topic == STATE_TOPIC:
            data = states.merged(machines[number], data)
        elif channel.topic == MARK_TOPIC:  # the same on all machines
            if (time_ns, data) in seen:
                continue
            seen.add((time_ns, data))
        here = numbers.get((number, channel.id))
        if here is None:
            schema = files[number].schemas.get(channel.schema_id)
            name = "" if schema is None else schema.name
            item = ChannelItem(channel.topic, name, channel.metadata, channel.message_encoding)
            key = channel.topic, f"{name} {sorted(channel.metadata.items())}"
            here = own.get(key) or writer.channels.add(item)
            numbers[number, channel.id] = own[key] = here
        counts[channel.topic] += 1
        messages.add_data(here, stored.sequence, time_ns, data)
    messages.flush()
    damages = (
        f"the file of machine `{machine}` cannot be read to its end ({file.damage})"
        for machine, file in zip(machines, files, strict=True)
        if file.damage
    )
    return counts, "; ".join(damages)


def _items(number: int, file: McapFile) -> Iterator[_Item]:
    for channel, stored in file.messages(lambda _: True, 0, END_OF_TIME):
        yield stored.time_ns, number, channel, stored


class _States:
    """Merges the states of the machines: each knows its own nodes, and the links to them, best."""

    def __init__(self) -> None:
        self._newest: dict[str, dict[str, Any]] = {}  # by machine

    def merged(self, machine: str, data: bytes) -> bytes:
        """Return the state of all machines, after a new one of this machine."""
        state = self._newest[machine] = from_json(data, dict[str, Any])
        if len(self._newest) == 1:
            return data
        machine_of = {node["id"]: node["machine"] or machine for node in state["nodes"]}

        def known(place: str) -> dict[str, Any]:
            return self._newest.get(machine_of.get(place, machine), state)

        nodes = [
            next((other for other in known(node["id"])["nodes"] if other["id"] == node["id"]), node)
            for node in state["nodes"]
        ]
        links = []
        for link in state["links"]:
            ends = link["source"], link["target"]
            there = known(link["target"].partition("/")[0])["links"]
            links.append(next((item for item in there if (item["source"], item["target"]) == ends), link))
        return msgspec.json.encode({**state, "nodes": nodes, "links": links})
