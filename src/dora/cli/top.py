"""``dora top``: watch the nodes and links of running dataflows."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from dora.cli.dataflows import dataflow_option, give_way
from dora.cli.values import ParameterValue, parse_duration
from dora.errors import DoraError

if TYPE_CHECKING:
    from dora.inspection.counters import LinkRate
    from dora.inspection.overview import NodeSnapshot

LONGEST_SAMPLE = 1.0  # seconds that `--once` takes at most


@click.command()
@dataflow_option
@click.option(
    "--refresh-interval",
    "interval",
    type=ParameterValue("duration", parse_duration),
    metavar="DURATION",
    default="2",
    help="How often the screen changes [2s].",
)
@click.option("--once", is_flag=True, help="Measure once, at most for a second, and print it as JSON.")
@click.option(
    "--latency",
    is_flag=True,
    help="Also show how long messages wait until they are taken; for that, look at every output.",
)
def top(dataflow: str | None, interval: float, once: bool, latency: bool) -> None:
    """Watch nodes and links: load, rates, queues, losses.

    Of all running dataflows, or of one. Keys: q or Esc quits, j and k or the arrows move, n, c and m sort
    by name, CPU and memory, r refreshes.
    """
    from dora.cli.glances import overviews_of
    from dora.cli.whole import find_all_running, find_running

    if interval < 0.1:
        raise click.UsageError("--refresh-interval is at least 100ms")
    if not once and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise DoraError("dora top needs a terminal; use --once for one measurement as JSON")
    if not once:
        from dora.cli.top_screen import check_terminal

        check_terminal()
    wholes = [find_running(dataflow)] if latency else find_all_running(dataflow)
    give_way()
    every = min(interval, LONGEST_SAMPLE) if once else interval
    with overviews_of(wholes, every, latency=latency) as overviews:
        if once:
            overviews.watch(every)
            found = overviews.refresh()
            click.echo(
                json.dumps([_node(item, links) for _, nodes, links in found for item in nodes], indent=2)
            )
            return
        from dora.cli.top_screen import show

        show(overviews, interval)


@click.group(invoke_without_command=True)
@click.pass_context
def inspect(ctx: click.Context) -> None:
    """Watch running dataflows."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


inspect.add_command(top)


def _node(item: NodeSnapshot, links: list[LinkRate]) -> dict[str, Any]:
    view, load = item.node, item.load
    inputs = [rate for rate in links if rate.link.consumer.partition("/")[0] == view.id]
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
        "restart_count": view.restarts,
        "broken_inputs": [_input_of(rate) for rate in inputs if rate.silent],
        "sent_hz": round(item.sent_hz, 3),
        "sent_bytes_per_second": round(item.bytes_per_second),
        "pending_messages": item.waiting,
        "dropped_messages": item.dropped,
        "seconds_since_last_message": None if item.quiet_s is None else round(item.quiet_s, 3),
        "inputs": [_link(rate) for rate in inputs],
    }


def _input_of(rate: LinkRate) -> str:
    return rate.link.consumer.partition("/")[2]


def _link(rate: LinkRate) -> dict[str, Any]:
    return {
        "input": _input_of(rate),
        "source": rate.link.producer,
        "received_hz": round(rate.hz, 3),
        "bytes_per_second": None if rate.bytes_per_second is None else round(rate.bytes_per_second),
        "pending_messages": rate.waiting,
        "queue_size": rate.link.queue_size,
        "dropped_messages": rate.dropped,
        "latency_median_ms": None if rate.latency_ms is None else round(rate.latency_ms[0], 3),
        "latency_p99_ms": None if rate.latency_ms is None else round(rate.latency_ms[1], 3),
    }
