"""The state of a dataflow as the page reads it, merged from all machines, and its last minute."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

import msgspec

from dora.observe.snapshot import Snapshot, merge

MINUTE: Final = 60.0  # seconds that the curves of the page show
SHORTEST: Final = 0.5  # seconds between two samples; each of several machines sends a state per second
MAX_SAMPLES: Final = int(MINUTE / SHORTEST)


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


def merged(
    here: Snapshot | None,
    remote: Mapping[str, Snapshot],
    faults: Mapping[str, str],
    placed: Mapping[str, str],
) -> Snapshot:
    """Return the merged snapshot of this machine and of others.

    ``remote`` and ``faults``, which say why a machine cannot be observed, are by machine. ``placed`` is
    node → machine.
    """
    parts = [*([here] if here else []), *remote.values()]
    snapshot = parts[0] if parts else Snapshot("", [], [])
    if remote:
        reported = {item.node.id: item.node.machine for item in snapshot.nodes}
        only = "" if here else next(iter(remote))  # a dataflow on one machine does not know its name
        snapshot = merge(
            snapshot,
            remote,
            lambda node: placed.get(node) or reported[node] or only,
        )
    troubles = (*(part.trouble for part in parts), *faults.values())
    return msgspec.structs.replace(snapshot, trouble="; ".join(filter(None, troubles)))


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
