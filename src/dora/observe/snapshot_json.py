"""A snapshot as the page reads it, and as recordings keep it; and the figures of the last minute."""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from dora.observe.networks import as_json as network_json
from dora.observe.snapshot import Snapshot

MINUTE: Final = 60.0  # seconds that the curves of the page show
SHORTEST: Final = 0.5  # seconds between two samples; each of several machines sends a state per second
MAX_SAMPLES: Final = int(MINUTE / SHORTEST)


def as_json(snapshot: Snapshot) -> bytes:
    """Return nodes, links, paths and networks as one JSON object."""
    value = {
        "nodes": [
            {
                "id": item.node.id,
                "status": item.node.status,
                "failure": item.node.failure,
                "machine": item.node.machine,
                "pid": item.node.pid,
                "counts": item.node.counts,
                "cpu": None if item.load is None else round(item.load.cpu_percent, 1),
                "memory": None if item.load is None else item.load.memory,
                "sent_hz": round(item.sent_hz, 2),
                "bytes_per_second": round(item.bytes_per_second),
                "waiting": item.waiting,
                "dropped": item.dropped,
                "quiet": None if item.quiet_s is None else round(item.quiet_s, 1),
                "outputs": [
                    {"id": output.id, "type": output.type, "text": output.text}
                    for output in item.node.outputs
                ],
            }
            for item in snapshot.nodes
        ],
        "links": [
            {
                "source": rate.link.producer,
                "target": rate.link.consumer,
                "hz": round(rate.hz, 2),
                "bytes_per_second": None if rate.bytes_per_second is None else round(rate.bytes_per_second),
                "waiting": rate.waiting,
                "queue_size": rate.link.queue_size,
                "policy": rate.link.policy,
                "dropped": rate.dropped,
                "dropping_hz": round(rate.dropping_hz, 2),
                "counts": rate.counts,
                "flags": rate.flags,
                "latency": rate.latency_ms,
            }
            for rate in snapshot.links
        ],
        "paths": [
            {
                "source": path.source,
                "target": path.sink,
                "messages": path.messages,
                "median": round(path.median_ms, 3),
                "p99": round(path.p99_ms, 3),
                "worst": round(path.worst_ms, 3),
                "clock_error": round(path.clock_error_ms, 3),
                "budget": path.budget_ms or None,
                "missed": path.missed,
                "slowest_hop": path.slowest_hop,
            }
            for item in snapshot.nodes
            for path in item.paths
        ],
        "networks": [network_json(network) for network in snapshot.networks],
        "trouble": snapshot.trouble,
    }
    return msgspec.json.encode(value)


class LastMinute:
    """Samples of the last minute, as JSON: the figures that the page draws curves of, and no others."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, bytes]] = deque(maxlen=MAX_SAMPLES)

    @property
    def samples(self) -> list[bytes]:
        """The samples, oldest first."""
        return [sample for _, sample in self._samples]

    def add(self, at: float, snapshot: Snapshot) -> bytes | None:
        """Add a snapshot of the time ``at``, in seconds since the Unix epoch.

        Return the new sample, or None if the last one is too recent.
        """
        if self._samples and at < self._samples[-1][0]:
            self._samples.clear()  # the clock was set back
        if self._samples and at < self._samples[-1][0] + SHORTEST:
            return None
        while self._samples and self._samples[0][0] < at - MINUTE:
            self._samples.popleft()
        self._samples.append((at, _sample(at, snapshot)))
        return self._samples[-1][1]


def _sample(at: float, snapshot: Snapshot) -> bytes:
    """Return the CPU of nodes; and rate, latency and losses of links."""
    sample = {
        "at": round(at * 1000),
        "cpu": {item.node.id: round(item.load.cpu_percent, 1) for item in snapshot.nodes if item.load},
        "links": {
            f"{rate.link.producer} {rate.link.consumer}": [
                round(rate.hz, 2),
                rate.latency_ms and round(rate.latency_ms[0], 3),
                round(rate.dropping_hz, 2),
            ]
            for rate in snapshot.links
        },
    }
    return msgspec.json.encode(sample)
