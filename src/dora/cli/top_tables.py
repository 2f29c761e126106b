"""Tables of ``dora top``: the rows of nodes, links and paths, and the last minute of a link."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec
from rich.text import Text

from dora.cli.tables import without
from dora.daemon.logs.terminal import visible
from dora.observe.formatting import bandwidth, megabytes
from dora.observe.networks import NetworkRate
from dora.observe.rates import LinkRate
from dora.observe.snapshot import NodeSnapshot
from dora.wire.counters import LINK_COUNTERS, LINK_FLAGS, PRIORITIES, NodeCounter, shown_counters
from dora.wire.node_status import StatusWord
from dora.wire.path_statistics import PathLatency

MINUTE: Final = 60.0  # seconds that a sparkline shows
STUCK: Final = 5.0  # seconds without a message taken, while some wait, until a link counts as stuck
WIDE: Final = 120  # characters of a terminal that has space for all columns
NAMES: Final = {
    "NODE",
    "STATUS",
    "MACHINE",
    "LINK",
    "PATH",
    "SLOWEST HOP",
    "LAST MINUTE",
    "NETWORK",
    "STATE",
    "LARGEST OUTPUT",
}  # columns that are no figures

_BARS: Final = "▁▂▃▄▅▆▇█"
_IN_TROUBLE: Final = {status for status in StatusWord if status.tone in ("warn", "bad")}

Table = tuple[Sequence[str], list[tuple[Text, ...]]]


class _Sample(msgspec.Struct, frozen=True):
    seconds: float  # monotonic
    hz: float
    latency_ms: float | None  # the median


class LinkHistory:
    """The last minute of one link."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()
        self._moved: float | None = None  # when a message was last taken, or none waited

    def add(self, rate: LinkRate, now: float) -> None:
        """Add a measurement; ``now`` in monotonic seconds."""
        latency = None if rate.latency_ms is None else rate.latency_ms[0]
        self._samples.append(_Sample(now, rate.hz, latency))
        while self._samples[0].seconds < now - 2 * MINUTE:
            self._samples.popleft()
        if rate.hz or not rate.waiting or self._moved is None:
            self._moved = now

    def stuck_s(self, now: float) -> float:
        """Return for how long messages have waited while none was taken; 0 for less than `STUCK`."""
        waited = 0.0 if self._moved is None else now - self._moved
        return waited if waited >= STUCK else 0.0

    def rates(self, width: int, now: float) -> str:
        """Return the rates of the last minute as so many characters."""
        return sparkline([(sample.seconds, sample.hz) for sample in self._samples], width, now)

    def latencies(self, width: int, now: float) -> str:
        """Return the median latencies of the last minute as so many characters."""
        known = [
            (sample.seconds, sample.latency_ms) for sample in self._samples if sample.latency_ms is not None
        ]
        return sparkline(known, width, now)


def sparkline(samples: Sequence[tuple[float, float]], width: int, now: float) -> str:
    """Return values of the last minute as bars, of which the tallest is the largest value.

    ``samples`` are times and values, oldest first. A bar is the mean of its time, a ``width``-th of the
    minute; without a sample it is like the one before. Blank: 0, or earlier than the first sample.

    >>> sparkline([(0.0, 1.0), (15.0, 4.0), (31.0, 0.0), (46.0, 8.0)], 4, 59.0)
    '▂▅ █'
    """
    step = MINUTE / width
    last = int(now / step)  # bars begin at fixed times, so that they do not flicker
    bars: dict[int, list[float]] = {}
    for seconds, value in samples:
        bars.setdefault(int(seconds / step), []).append(value)
    means: list[float | None] = []
    before: float | None = None
    for index in range(min(bars, default=last), last + 1):
        values = bars.get(index)
        before = sum(values) / len(values) if values else before
        means.append(before)
    shown = means[-width:]
    top = max((value for value in shown if value is not None), default=0.0)
    return "".join(_bar(value, top) for value in shown).rjust(width)


def _bar(value: float | None, top: float) -> str:
    if not value or not top:
        return " "
    return _BARS[min(len(_BARS) - 1, int(value / top * (len(_BARS) - 1) + 0.5))]


def cell(text: str, style: str = "") -> Text:
    """Return text of others, which may not control the terminal, with a style."""
    return Text(visible(text), style)


def node_table(nodes: Sequence[NodeSnapshot]) -> Table:
    """Return the names of the columns, and a row for each node."""
    several = len({item.dataflow_id for item in nodes}) > 1
    counters = shown_counters([item.node.counts for item in nodes])
    counted = [counter.name.upper() for counter in counters]
    head = ("NODE", "STATUS", "MACHINE", "PID", "CPU", "MEMORY", *counted)
    head = (*head, "SENT", "BANDWIDTH", "WAITING", "QUIET")
    rows = [_node_row(item, several, counters) for item in nodes]
    needless = [] if any(item.node.machine for item in nodes) else ["MACHINE"]
    return without((head, rows), *needless)


def _node_row(item: NodeSnapshot, several: bool, counters: Sequence[NodeCounter]) -> tuple[Text, ...]:
    view, load = item.node, item.load
    counts = [(counter.is_amber, view.counts.get(counter.name, 0)) for counter in counters]
    return (
        cell(f"{item.dataflow}: {view.id}" if several else view.id),
        cell(view.status, "bold red" if view.status in _IN_TROUBLE else ""),
        cell(view.machine or "-"),
        cell("-" if view.pid is None else str(view.pid)),
        cell("-" if load is None else f"{load.cpu_percent:.1f}%"),
        cell("-" if load is None else megabytes(load.memory)),
        *(cell(f"{count:,}", "yellow" if count and is_amber else "") for is_amber, count in counts),
        cell(f"{item.sent_hz:.1f}/s"),
        cell(bandwidth(item.bytes_per_second)),
        cell(str(item.waiting)),
        cell("-" if item.quiet_s is None else f"{item.quiet_s:.1f} s"),
    )


def link_table(links: Sequence[tuple[LinkRate, LinkHistory]], width: int) -> Table:
    """Return the names of the columns, and a row for each link; ``width``: of a sparkline.

    The columns of latencies, and of further counters, are there if any link has such a number.
    """
    now = time.monotonic()
    rows = []
    measured = any(
        rate.latency_ms is not None or history.latencies(1, now).strip() for rate, history in links
    )
    counters = [item for item in LINK_COUNTERS if any(item.name in rate.counts for rate, _ in links)]
    for rate, history in links:
        row = [*link_row(rate, history.stuck_s(now))]
        row.insert(2, cell(history.rates(width, now), "cyan"))
        row[6:6] = (cell(f"{rate.counts.get(item.name, 0):,}") for item in counters)
        if measured:
            row.append(cell(history.latencies(width, now), "cyan"))
        else:
            del row[-2:]
        rows.append(tuple(row))
    further = (item.name.replace("_", " ").upper() for item in counters)
    head = ("LINK", "RATE", "LAST MINUTE", "BANDWIDTH", "QUEUE", "DROPPED", *further)
    return (*head, "WAITS", "99 %", "LAST MINUTE") if measured else head, rows


def path_table(paths: Sequence[PathLatency]) -> Table:
    """Return the names of the columns, and a row for each path; those that no path needs are left out."""
    head = ("PATH", "MESSAGES", "MEDIAN", "99 %", "WORST", "CLOCKS", "BUDGET", "MISSED", "SLOWEST HOP")
    rows = [
        (
            cell(f"{path.source} -> {path.sink}"),
            cell(f"{path.messages:,}"),
            *(cell(f"{time_ms:.1f} ms") for time_ms in (path.median_ms, path.p99_ms, path.worst_ms)),
            cell(f"± {path.clock_error_ms:.1f} ms" if path.clock_error_ms else "-"),
            cell(f"{path.budget_ms:g} ms" if path.budget_ms else "-"),
            cell(f"{path.missed:,}" if path.budget_ms else "-", "bold red" if path.missed else ""),
            cell(path.slowest_hop or "-"),
        )
        for path in paths
    ]
    needless = [] if any(path.clock_error_ms for path in paths) else ["CLOCKS"]
    if not any(path.budget_ms for path in paths):
        needless += ["BUDGET", "MISSED", "SLOWEST HOP"]
    return without((head, rows), *needless)


def network_table(networks: Sequence[NetworkRate]) -> Table:
    """Return the names of the columns, and a row for each network between two machines.

    The columns of ages are there for the priorities that any message had.
    """
    ages = [name for name in PRIORITIES if any(name in network.ages_ms for network in networks)]
    rows = [
        (
            cell(f"{network.source} -> {network.target}"),
            cell(network.state, "" if network.state == "connected" else "bold red"),
            cell(bandwidth(network.bytes_per_second)),
            cell("-" if network.available is None else bandwidth(network.available)),
            cell("-" if network.round_trip_ms is None else f"{network.round_trip_ms:.1f} ms"),
            cell("-" if network.loss is None else f"{network.loss * 100:.1f} %"),
            cell(", ".join(f"{count:,} {name}" for name, count in network.waiting.items()) or "-"),
            *(cell(_ages(network.ages_ms.get(name))) for name in ages),
            _largest(network),
        )
        for network in networks
    ]
    head = ("NETWORK", "STATE", "USED", "AVAILABLE", "ROUND TRIP", "LOSS", "WAITING")
    return (*head, *(f"{name.upper()} AGE" for name in ages), "LARGEST OUTPUT"), rows


def _ages(ages_ms: tuple[float, float] | None) -> str:
    return "-" if ages_ms is None else f"{ages_ms[0]:.0f} ms (99 %: {ages_ms[1]:.0f})"


def _largest(network: NetworkRate) -> Text:
    if not network.streams or not network.streams[0].share:
        return cell("-")
    largest = network.streams[0]
    return cell(f"{largest.output} {largest.share * 100:.0f} %", "bold yellow" if network.warnings else "")


def link_row(rate: LinkRate, stuck_s: float = 0.0) -> tuple[Text, ...]:
    """Return the row of a link, without sparklines; ``stuck_s`` as of `LinkHistory`."""
    link = rate.link
    dropping = f" (+{rate.dropping_hz:.1f}/s)" if rate.dropping_hz else ""
    waits = ("-", "-") if rate.latency_ms is None else (f"{value:.1f} ms" for value in rate.latency_ms)
    hz = cell(f"{rate.hz:.1f}/s")
    if label := next((flag.label for flag in LINK_FLAGS if flag.name in rate.flags), ""):
        hz = cell(label, "bold red")
    elif stuck_s:
        hz = cell(f"stuck {stuck_s:.0f} s", "bold red")
    return (
        cell(f"{link.producer} -> {link.consumer}"),
        hz,
        cell("-" if rate.bytes_per_second is None else bandwidth(rate.bytes_per_second)),
        cell("-" if rate.waiting is None else f"{rate.waiting}/{link.queue_size}"),
        cell(f"{rate.dropped:,}{dropping}", "bold yellow" if dropping else ""),
        *(cell(text) for text in waits),
    )
