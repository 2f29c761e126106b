"""The networks between the machines of a dataflow, read off its board.

`read_networks` reads the board, `network_rates` compares two readings; the second is pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from dora.transport.board import CLOSED, CONNECTED, WORDS, figures_of
from dora.wire.counters import (
    ARRIVED_BYTES,
    AVAILABLE,
    CROWDED_FROM,
    MEDIAN_AGES,
    NETWORK_FIGURES,
    NETWORK_STATE,
    P99_AGES,
    PACKETS,
    PRIORITIES,
    RESENT_PACKETS,
    ROUND_TRIP,
    SENT_BYTES,
    SHARE,
    STREAM_FIGURES,
    WAITING,
    describe_share,
    loss_of,
)
from dora.wire.daemon_protocol import NetworkView

_STATES = {CONNECTED: "connected", CLOSED: "cut"}


class NetworkCounts(msgspec.Struct, frozen=True):
    """The line of one network at one moment, and the lines of its outputs."""

    state: str
    figures: dict[str, int]  # the `NETWORK_FIGURES` that are not 0, by name
    streams: dict[str, dict[str, int]]  # output → the `STREAM_FIGURES` that are not 0, by name


class StreamRate(msgspec.Struct, frozen=True):
    """One output on a network, between two readings."""

    output: str  # "node/output"
    bytes_per_second: float  # that have arrived
    share: float  # of what the network carries, over 5 s; 0 to 1, and 0 if that is not known


class NetworkRate(msgspec.Struct, frozen=True):
    """The network from one machine to another, between two readings."""

    source: str  # the machine that sends
    target: str
    state: str  # "connecting", "connected" or "cut"
    bytes_per_second: float  # sent
    loss: float | None  # share of the packets that were sent again; None: no packet, or not known
    figures: dict[str, int] = {}  # as of `NetworkCounts`
    streams: list[StreamRate] = []  # those that take most come first

    def figure(self, name: str) -> int:
        """Return one of `NETWORK_FIGURES`, 0 if it has not been counted."""
        return self.figures.get(name, 0)

    @property
    def available(self) -> int | None:
        """Bytes a second that the network carries; None: nothing has shown it so far."""
        return self.figure(AVAILABLE.name) or None

    @property
    def round_trip_ms(self) -> float | None:
        """Milliseconds of a round trip; None: not measured so far."""
        return self.figure(ROUND_TRIP.name) / 1e6 or None

    @property
    def waiting(self) -> dict[str, int]:
        """Priority → messages that wait to be sent; only those with any."""
        counts = {name: self.figure(item.name) for name, item in zip(PRIORITIES, WAITING, strict=True)}
        return {name: count for name, count in counts.items() if count}

    @property
    def ages_ms(self) -> dict[str, tuple[float, float]]:
        """Priority → age of its last messages on arrival: median and 99th percentile."""
        figures = zip(PRIORITIES, MEDIAN_AGES, P99_AGES, strict=True)
        found = {
            name: (self.figure(median.name) / 1e6, self.figure(p99.name) / 1e6)
            for name, median, p99 in figures
        }
        return {name: ages for name, ages in found.items() if any(ages)}

    @property
    def warnings(self) -> list[str]:
        """A sentence for each output that takes most of the network."""
        return [
            describe_share(stream.output, self.target, stream.share)
            for stream in self.streams
            if stream.share >= CROWDED_FROM
        ]


def read_networks(networks: Sequence[NetworkView], words: memoryview) -> dict[str, NetworkCounts]:
    """Return what the board says about each network, by the machine that it leads to."""
    return {network.target: _read(network, words) for network in networks}


def _read(network: NetworkView, words: memoryview) -> NetworkCounts:
    return NetworkCounts(
        _STATES.get(words[network.slot * WORDS + NETWORK_STATE], "connecting"),
        figures_of(words, network.slot, NETWORK_FIGURES),
        {stream.output: figures_of(words, stream.slot, STREAM_FIGURES) for stream in network.streams},
    )


def network_rates(
    machine: str,
    before: Mapping[str, NetworkCounts],
    after: Mapping[str, NetworkCounts],
    seconds: float,
) -> list[NetworkRate]:
    """Return the networks from a machine between two readings."""
    empty = NetworkCounts("", {}, {})
    found = []
    for target, now in after.items():
        then = before.get(target, empty)

        def since(name: str, now: NetworkCounts = now, then: NetworkCounts = then) -> int:
            return max(0, now.figures.get(name, 0) - then.figures.get(name, 0))

        streams = []
        for output, figures in now.streams.items():
            earlier = then.streams.get(output, {}).get(ARRIVED_BYTES.name, 0)
            arrived = max(0, figures.get(ARRIVED_BYTES.name, 0) - earlier)
            streams.append(StreamRate(output, arrived / seconds, figures.get(SHARE.name, 0) / 1000))
        streams.sort(key=lambda stream: (-stream.share, -stream.bytes_per_second))
        found.append(
            NetworkRate(
                machine,
                target,
                now.state,
                sum(since(item.name) for item in SENT_BYTES) / seconds,
                loss_of(since(PACKETS.name), since(RESENT_PACKETS.name)),
                now.figures,
                streams,
            )
        )
    return found


def as_json(network: NetworkRate) -> dict[str, object]:
    """Return a network for programs: rates per second, times in milliseconds, shares from 0 to 1."""
    return {
        "source": network.source,
        "target": network.target,
        "state": network.state,
        "bytes_per_second": round(network.bytes_per_second),
        "available_bytes_per_second": network.available,
        "round_trip_ms": network.round_trip_ms,
        "loss": network.loss,
        "figures": {item.name: network.figure(item.name) / item.scale for item in NETWORK_FIGURES},
        "waiting": network.waiting,
        "ages_ms": network.ages_ms,
        "outputs": [msgspec.structs.asdict(stream) for stream in network.streams],
        "warnings": network.warnings,
    }
