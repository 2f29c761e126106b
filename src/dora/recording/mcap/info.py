"""The facts that `dora info` shows of a recording."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from dora.recording.mcap.recording import Recording
from dora.wire.path_statistics import BUCKETS, PathLatency, Record, bucket_of
from dora.wire.trail import origin_id, origins_of


def facts(recording: Recording) -> dict[str, Any]:
    """Return all facts as plain values; times in seconds, rates in messages per second."""
    start, end, duration = recording.start, recording.end, recording.duration
    topics = []
    for topic in recording.topics.values():
        result = end.topics.get(topic.name) if end is not None else None
        topics.append(
            {
                "name": topic.name,
                "messages": topic.messages,
                "rate": (topic.messages - 1) / duration if duration and topic.messages > 1 else None,
                "lost": result.lost if result is not None else None,
                "types": topic.types,
                "declared": topic.declared or None,
                "schemas": topic.schemas,
            }
        )
    return {
        "file": recording.path,
        "size": recording.size,
        "dataflow": {
            "id": start.dataflow_id,
            "name": start.name,
            "file": start.file,
            "nodes": start.nodes,
        },
        "started": _text(start.started),
        "duration": duration,
        "messages": recording.count,
        "complete": recording.complete,
        "trouble": trouble(recording) or None,
        "together": start.together,
        "order": recording.has_orders(),
        "last_seconds": start.last_seconds,
        "failed": end.failed if end is not None else [],
        "dora": start.dora,
        "python": start.python,
        "host": start.host,
        "topics": topics,
        "ros2": None
        if recording.ros2 is None
        else {"distribution": recording.ros2 or None, "left_out": recording.left_out},
        "silent": [name for name in start.topics if name not in recording.topics],
    }


def path_times(recording: Recording) -> list[PathLatency]:
    """Return the times from each output to the outputs whose messages follow from it; reads all messages.

    ``sink`` of the result is an output: a recording has what was sent, and not when it was taken.
    """
    names = {origin_id(topic): topic for topic in recording.topics}
    buckets: dict[tuple[str, str], list[int]] = {}
    totals: dict[tuple[str, str], tuple[int, int]] = {}  # the sum, and the longest
    for recorded in recording.messages():
        message = recorded.message
        for origin in origins_of(message.header, message.trail):
            source = names.get(origin.output, "")
            took = message.time_ns - origin.oldest_ns
            if not source or (source == recorded.topic and took == 0):
                continue  # it is not of this recording, or this message is the origin
            key = source, recorded.topic
            total, longest = totals.get(key, (0, 0))
            took = max(took, 0)
            totals[key] = total + took, max(longest, took)
            buckets.setdefault(key, [0] * BUCKETS)[bucket_of(took)] += 1
    return [
        Record(0, 0, sum(counts), totals[key][1], totals[key][0], tuple(counts)).latency(*key)
        for key, counts in sorted(buckets.items())
    ]


def trouble(recording: Recording) -> str:
    """Return why a recording is not complete; "" if it is."""
    if recording.end is None:
        return f"the file was cut off, and has what came before ({recording.damage})"
    if recording.damage:
        return f"a part cannot be read: {recording.damage}"
    if recording.end.complete:
        return ""
    lost = recording.messages_lost
    what = (
        f"{lost:,} messages are missing"
        if lost > 1
        else "a message is missing"
        if lost
        else "some are missing"
    )
    return f"{what}; the disk was full" if recording.end.reason == "disk full" else what


def cut(recording: Recording) -> str:
    """Return where reading a damaged recording had to stop; "" if it could be read to its end.

    Call it after reading the messages. A recording that lacks messages, because the recorder was too slow
    or the disk was full, can be read to its end.
    """
    if not recording.damage:
        return ""
    seconds = max(recording.reached_ns - recording.first_ns, 0) / 1e9
    return f"{trouble(recording)}; it was read up to {seconds:.3f} s"


def _text(time_ns: int) -> str:
    try:
        moment = datetime.fromtimestamp(time_ns / 1e9, UTC)
    except (ValueError, OverflowError, OSError):  # the file is damaged
        return f"{time_ns:,} ns"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
