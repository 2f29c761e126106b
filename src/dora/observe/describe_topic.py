"""The text of ``dora topic info``."""

from __future__ import annotations

import time

from dora.dataflow.rules import output_rules_in_words
from dora.observe.formatting import FormattedValue, bandwidth, fields
from dora.observe.latency import LatencyMeter
from dora.observe.networks import NetworkRate, network_rates, read_networks
from dora.observe.queries import Result, TextResult
from dora.observe.topics import Topic
from dora.transport.board import BYTES, DROPPED, SENT, WORDS, delivered, link_counts, link_flags
from dora.wire.array_shape import shape_of
from dora.wire.counters import CROWDED_FROM, LINK_COUNTERS, LINK_FLAGS
from dora.wire.daemon_protocol import Inspection, LinkView
from dora.wire.message import Message


class TopicDescription:
    """Describes a topic by the messages of some seconds and by the counters of the board."""

    def __init__(self, inspection: Inspection, topic: Topic, words: memoryview) -> None:
        self._topic = topic
        self._words = words
        self._nodes = inspection.nodes
        self._publisher = next(node for node in self._nodes if node.id == topic.node_id)
        self._latencies = [LatencyMeter(link, words) for link in topic.links if link.kind == "link"]
        self._networks = [
            network
            for network in inspection.networks
            if any(stream.output == topic.name for stream in network.streams)
        ]
        self._machine = inspection.machine
        self._networks_before = read_networks(self._networks, words)
        self._before = self._counts()
        self._started = time.monotonic()
        self._arrow_type = ""
        self._shape: tuple[int, ...] | None = None  # of the NumPy array that came first

    def add(self, topic: str, message: Message | None) -> None:  # noqa: ARG002 - there is one
        """Add a message of the topic, or None after each poll."""
        for latency in self._latencies:
            if message is not None:
                latency.add_sent(message.sequence, message.time_ns)
            latency.poll()
        if message is not None and not self._arrow_type:
            value = FormattedValue(message, full=False)
            self._arrow_type = value.type
            self._shape = shape_of(value.metadata, value.length)

    def last(self) -> list[Result]:
        """Return the description so far."""
        topic, words = self._topic, self._words
        seconds = max(time.monotonic() - self._started, 1e-9)
        count, size = (now - before for now, before in zip(self._counts(), self._before, strict=True))
        found = {latency.link.slot: latency.take() for latency in self._latencies if latency.times_ns}
        pairs = [
            ("Topic", topic.name),
            ("Type", _type(self._arrow_type, topic.output.type)),
            *([("Shape", " × ".join(map(str, self._shape)))] if self._shape is not None else []),
            ("Publisher", f"{self._publisher.id} ({self._publisher.status})"),
            *self._rules(),
            (
                "Subscribers",
                "\n".join(_link(link, words, found.get(link.slot)) for link in topic.links) or "none",
            ),
            *self._machines(seconds),
            ("Messages", f"{count:,} in {seconds:.1f} s"),
            ("Rate", f"{count / seconds:.3f} Hz"),
            ("Bandwidth", bandwidth(size / seconds)),
        ]
        return [TextResult(fields(pairs))]

    def _machines(self, seconds: float) -> list[tuple[str, str]]:
        """Return a line for each machine that the output goes to."""
        now = read_networks(self._networks, self._words)
        networks = network_rates(self._machine, self._networks_before, now, seconds)
        lines = [_on_network(network, self._topic.name) for network in networks]
        return [("Machines", "\n".join(lines))] if lines else []

    def _rules(self) -> list[tuple[str, str]]:
        """Return the rules of the output, and its priority if a link to another machine needs one."""
        output = self._topic.output
        shown = [(rule.title, words) for rule, words in output_rules_in_words(output)]
        receivers = {link.consumer.partition("/")[0] for link in self._topic.links}
        crosses = any(
            node.machine != self._publisher.machine for node in self._nodes if node.id in receivers
        )
        if output.priority is None and crosses:
            shown.append(("Priority", "control up to 8 KiB, normal above"))
        return shown

    def _counts(self) -> tuple[int, int]:
        base = self._topic.output.slot * WORDS
        return self._words[base + SENT], self._words[base + BYTES]


def _type(seen: str, declared: str) -> str:
    if not seen:
        return declared or "unknown: no message came"
    return f"{seen}, declared as {declared}" if declared else seen


def _on_network(network: NetworkRate, output: str) -> str:
    stream = next(stream for stream in network.streams if stream.output == output)
    parts = [f"{network.target}: {bandwidth(stream.bytes_per_second)}"]
    if stream.share:
        parts[0] += f", {stream.share * 100:.0f} % of the network"
    if network.available is not None:
        parts.append(f"{bandwidth(network.available)} available")
    if network.round_trip_ms is not None:
        parts.append(f"round trip {network.round_trip_ms:.1f} ms")
    if network.loss is not None:
        parts.append(f"loss {network.loss * 100:.1f} %")
    parts += [
        f"{priority} messages {median:.0f} ms old on arrival (99 %: {p99:.0f} ms)"
        for priority, (median, p99) in network.ages_ms.items()
    ]
    if network.state != "connected":
        parts.append(network.state)
    if stream.share >= CROWDED_FROM:
        parts.append("compress it, or lower its rate")
    return ", ".join(parts)


def _link(link: LinkView, words: memoryview, latency_ms: tuple[float, float] | None) -> str:
    counts = link_counts(words, link.slot)
    sender, receiver = (name.partition("/")[0] for name in (link.producer, link.consumer))
    parts = [
        f"{link.consumer}: {delivered(words, link.slot, counts):,} taken",
        f"{words[link.slot * WORDS + DROPPED]:,} dropped",
        *(
            counter.describe(counts[counter.name], sender, receiver)
            for counter in LINK_COUNTERS
            if counter.name in counts
        ),
    ]
    set_now = link_flags(words, link.slot)
    parts += [f"{flag.label} now" for flag in LINK_FLAGS if flag.name in set_now]
    parts.append("the latest only" if link.policy == "latest" else f"queue of {link.queue_size}")
    if link.policy == "backpressure":
        parts.append("back-pressure")
    if latency_ms is not None:
        parts.append(f"taken after {latency_ms[0]:.1f} ms (99 %: {latency_ms[1]:.1f} ms)")
    return ", ".join(parts)
