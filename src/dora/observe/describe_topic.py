"""The text of ``dora topic info``."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dora.observe.figures import bandwidth, fields
from dora.observe.format_values import FormattedValue
from dora.observe.latency import LatencyMeter
from dora.transport.board import BYTES, DROPPED, RECEIVED, SENT, WORDS
from dora.wire.decode import warm_up

if TYPE_CHECKING:
    from dora.observe.tap_session import TapSession
    from dora.wire.daemon_protocol import Inspection, LinkView


def describe(inspection: Inspection, look: TapSession, messages: Iterable[Any]) -> str:
    """Look at one topic until ``messages`` ends, and tell about it."""
    warm_up()  # not while messages come
    (watched,) = look.watched
    topic = watched.topic
    words = look.words
    base = topic.output.slot * WORDS
    transits = [LatencyMeter(link, words) for link in topic.links if link.kind == "link"]
    before = words[base + SENT], words[base + BYTES]
    started = time.monotonic()
    arrow_type = ""
    for _, message in messages:
        for transit in transits:
            if message is not None:
                transit.sent(message.sequence, message.time_ns)
            transit.look()
        if message is not None and not arrow_type:
            arrow_type = FormattedValue(message, full=False).type
        del message
    seconds = max(time.monotonic() - started, 1e-9)
    count = words[base + SENT] - before[0]
    size = words[base + BYTES] - before[1]
    publisher = next(node for node in inspection.nodes if node.id == topic.node_id)
    found = {transit.link.slot: transit.take() for transit in transits if transit.times_ns}
    pairs = [
        ("Topic", topic.name),
        ("Type", _type(arrow_type, topic.output.type)),
        ("Publisher", f"{publisher.id} ({publisher.status})"),
        (
            "Subscribers",
            "\n".join(_link(link, words, found.get(link.slot)) for link in topic.links) or "none",
        ),
        ("Messages", f"{count:,} in {seconds:.1f} s"),
        ("Rate", f"{count / seconds:.3f} Hz"),
        ("Bandwidth", bandwidth(size / seconds)),
    ]
    return fields(pairs)


def _type(seen: str, declared: str) -> str:
    if not seen:
        return declared or "unknown: no message came"
    return f"{seen}, declared as {declared}" if declared else seen


def _link(link: LinkView, words: memoryview, latency_ms: tuple[float, float] | None) -> str:
    base = link.slot * WORDS
    parts = [
        f"{link.consumer}: {words[base + RECEIVED]:,} taken",
        f"{words[base + DROPPED]:,} dropped",
        f"queue of {link.queue_size}" + (", back-pressure" if link.policy == "backpressure" else ""),
    ]
    if latency_ms is not None:
        parts.append(f"taken after {latency_ms[0]:.1f} ms (99 %: {latency_ms[1]:.1f} ms)")
    return ", ".join(parts)
