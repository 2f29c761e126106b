"""``dora top``: watch the nodes and links of running dataflows.

The figures come from `dora.observe.snapshot`; `dora.cli.top_screen` says how often.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from msgspec import structs

from dora.cli.options import DURATION, CommandGroup
from dora.cli.running_options import dataflow_option
from dora.cli.select import NOTHING_RUNS, NoRunningDataflow, lower_priority
from dora.errors import DoraError
from dora.wire.counters import LINK_COUNTERS, LINK_FLAGS, NODE_COUNTERS, OVERDUE, RESTARTS, SILENT

if TYPE_CHECKING:
    from dora.observe.rates import LinkRate
    from dora.observe.snapshot import NodeSnapshot, Snapshot

LONGEST_SAMPLE = 1.0  # seconds that `--once` takes at most


@click.command()
@dataflow_option
@click.option(
    "--refresh-interval",
    "interval",
    type=DURATION,
    metavar="DURATION",
    default="2",
    help="How often the screen changes [2s].",
)
@click.option(
    "--once",
    is_flag=True,
    help="Measure once, at most for a second, and print the result.",
)
@click.option(
    "-f",
    "--format",
    "style",
    type=click.Choice(["table", "json"]),
    help="Output format of --once [table on a terminal, else json]; json is a list with one object per "
    "node.",
)
@click.option(
    "--latency",
    is_flag=True,
    help="Also show how long messages wait until they are taken, median and 99th percentile; taps every "
    "output of one dataflow.",
)
def top(dataflow: str | None, interval: float, once: bool, style: str | None, latency: bool) -> None:
    """Watch nodes and links: load, rates, queues, losses.

    Of all running dataflows, or of one. A link is `silent`, and an input is among the `broken_inputs` of
    the JSON, if its `input_timeout` has passed; it is `late`, and among the `late_inputs`, while it misses
    its `deadline`; it is `stuck` if messages have waited for 5 s and none was taken. Keys: o shows the
    messages of an output, l the log of one node, R restarts a node, s stops it, S stops its dataflow, q
    quits, ? lists the others.
    """
    from dora.cli.running import find_all_running, find_running
    from dora.cli.snapshots import snapshots_of

    if interval < 0.1:
        raise click.UsageError("--refresh-interval is at least 100ms")
    if style is not None and not once:
        raise click.UsageError("--format goes with --once")
    if not once and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise DoraError("dora top needs a terminal; use --once for one measurement")
    if not once:
        _check_terminal()
    dataflows = [find_running(dataflow)] if latency else find_all_running(dataflow)
    if not dataflows:
        raise NoRunningDataflow(NOTHING_RUNS)
    if not once:
        lower_priority()
    every = min(interval, LONGEST_SAMPLE) if once else interval
    with snapshots_of(dataflows, every, latency=latency) as snapshots:
        if once:
            snapshots.watch(every)
            found = snapshots.refresh()
            if style == "table" or (style is None and sys.stdout.isatty()):
                _print_tables(found)
                return
            click.echo(
                json.dumps(
                    [_node_json(item, snapshot) for _, snapshot in found for item in snapshot.nodes],
                    indent=2,
                )
            )
            return
        from dora.cli.top_screen import show

        show(snapshots, interval)


@click.group(cls=CommandGroup)
def inspect() -> None:
    """Watch running dataflows."""


inspect.add_command(top)


def _print_tables(found: Sequence[tuple[object, Snapshot]]) -> None:
    from dora.cli.tables import console, print_table, without
    from dora.cli.top_tables import (
        WIDE,
        LinkHistory,
        Table,
        link_table,
        network_table,
        node_table,
        path_table,
    )

    nodes = [item for _, snapshot in found for item in snapshot.nodes]
    links = [(rate, LinkHistory()) for _, snapshot in found for rate in snapshot.links]
    networks = [item for _, snapshot in found for item in snapshot.networks]
    needless = ["LAST MINUTE"] if console().width >= WIDE else ["LAST MINUTE", "PID", "BANDWIDTH"]
    tables: list[Table] = [
        without(node_table(nodes), *needless),
        without(link_table(links, 1), *needless),
        network_table(networks),
        path_table([path for item in nodes for path in item.paths]),
    ]
    for number, (head, rows) in enumerate(table for table in tables if table[1]):
        if number:
            click.echo()
        print_table(head, [[cell.plain for cell in row] for row in rows])
    for warning in (warning for network in networks for warning in network.warnings):
        click.echo(f"warning: {warning}", err=True)


def _node_json(item: NodeSnapshot, snapshot: Snapshot) -> dict[str, Any]:
    from dora.observe.networks import as_json

    view, load = item.node, item.load
    counts = {counter.json_key: view.counts.get(counter.name, 0) for counter in NODE_COUNTERS}
    inputs = [rate for rate in snapshot.links if rate.link.consumer.partition("/")[0] == view.id]
    return {
        "dataflow": item.dataflow,
        "dataflow_id": item.dataflow_id,
        "node": view.id,
        "status": view.status,
        **({"machine": view.machine} if view.machine else {}),
        "pid": view.pid,
        "cpu_usage": None if load is None else round(load.cpu_percent, 1),
        "memory_mb": None if load is None else round(load.memory / 1e6, 1),
        "disk_read": None if load is None else round(load.disk_read),
        "disk_write": None if load is None else round(load.disk_written),
        **counts,
        "broken_inputs": [_input_of(rate) for rate in inputs if SILENT.name in rate.flags],
        "late_inputs": [_input_of(rate) for rate in inputs if OVERDUE.name in rate.flags],
        "sent_hz": round(item.sent_hz, 3),
        "sent_bytes_per_second": round(item.bytes_per_second),
        "pending_messages": item.waiting,
        "dropped_messages": item.dropped,
        "seconds_since_last_message": None if item.quiet_s is None else round(item.quiet_s, 3),
        "inputs": [_link_json(rate) for rate in inputs],
        "paths": [structs.asdict(path) for path in item.paths],
        # From its machine to the others; all nodes of a machine have the same.
        "networks": [as_json(network) for network in snapshot.networks if network.source == view.machine],
        # The same under the keys of dora-rs, which writes the status in small letters here.
        "dataflow_name": item.dataflow,
        "node_id": view.id,
        "daemon_id": {"machine_id": view.machine or None, "uuid": None},
        "metrics": {
            "pid": view.pid,
            "cpu_usage": 0.0 if load is None else load.cpu_percent,
            "memory_mb": 0.0 if load is None else load.memory / 1e6,
            "disk_read_mb_s": 0.0 if load is None else load.disk_read / 1e6,
            "disk_write_mb_s": 0.0 if load is None else load.disk_written / 1e6,
            "restart_count": counts[RESTARTS.json_key],
            "broken_inputs": [_input_of(rate) for rate in inputs if SILENT.name in rate.flags],
            "status": view.status.lower(),
            "pending_messages": item.waiting,
        },
        "network": None,
    }


def _input_of(rate: LinkRate) -> str:
    return rate.link.consumer.partition("/")[2]


def _link_json(rate: LinkRate) -> dict[str, Any]:
    return {
        "input": _input_of(rate),
        "source": rate.link.producer,
        "received_hz": round(rate.hz, 3),
        "bytes_per_second": None if rate.bytes_per_second is None else round(rate.bytes_per_second),
        "pending_messages": rate.waiting,
        "queue_size": rate.link.queue_size,
        "dropped_messages": rate.dropped,
        **{item.metric_name: rate.counts.get(item.name, 0) for item in LINK_COUNTERS},
        **{flag.name: flag.name in rate.flags for flag in LINK_FLAGS},
        "latency_median_ms": None if rate.latency_ms is None else round(rate.latency_ms[0], 3),
        "latency_p99_ms": None if rate.latency_ms is None else round(rate.latency_ms[1], 3),
    }


def _check_terminal() -> None:
    """Raise `DoraError` if the terminal cannot be drawn on."""
    import curses

    name = os.environ.get("TERM") or "dumb"
    try:
        curses.setupterm(name)
        can_draw = bool(curses.tigetstr("cup"))  # move the cursor
    except curses.error:
        can_draw = False
    if not can_draw:
        raise DoraError(
            f"dora top cannot draw on a terminal of the kind `{name}` (TERM); most are TERM=xterm, and "
            "--once measures once and prints the result"
        )
