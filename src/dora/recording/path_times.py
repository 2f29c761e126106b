"""How long data took through the recorded dataflow: from its origin to the outputs that passed it on."""

from __future__ import annotations

from dora.recording.mcap.reader import Recording
from dora.wire.path_statistics import BUCKETS, PathLatency, Record, bucket_of
from dora.wire.trail import origin_id, origins_of


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
