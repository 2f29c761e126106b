"""``dora trace``: show which message led to which, from the spans that nodes write with ``--trace``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dora.cli.argument_values import MAX_COUNT
from dora.cli.coordinator import coordinator_options
from dora.cli.options import CommandGroup
from dora.cli.running_options import dataflow_names
from dora.cli.tables import format_option, print_table
from dora.cluster.client import Client
from dora.errors import DoraError

if TYPE_CHECKING:
    from dora.observe.trace import Trace

_Function = TypeVar("_Function", bound=Callable[..., Any])


@click.group(cls=CommandGroup)
def trace() -> None:
    """Show which messages led to which, and how long each step took."""


def _source_options(function: _Function) -> _Function:
    """Declare ``dataflow``, ``local`` and ``client``."""
    function = click.option(
        "--local", is_flag=True, help="Read ./out/<uuid> [the latest] without asking a coordinator."
    )(coordinator_options(function))
    return click.option(
        "-d",
        "--dataflow",
        metavar="UUID_OR_NAME",
        shell_complete=dataflow_names,
        help="Which dataflow [the running one, or else the latest].",
    )(function)


@trace.command("list")
@_source_options
@format_option("one object a line: `trace_id`, `root_span`, `spans`, `started_ns`, `duration_ns`, `failed`")
@click.option(
    "-n",
    "--count",
    type=click.IntRange(1, MAX_COUNT),
    default=20,
    metavar="N",
    help="Number of traces [20].",
)
def list_traces(dataflow: str | None, local: bool, style: str, count: int, client: Client) -> None:
    """List the latest traces, the newest last.

    The dataflow must have been started with `--trace`; it may be running or ended.
    """
    traces = _traces(client, dataflow, local)[-count:]
    if style == "json":
        for item in traces:
            click.echo(
                json.dumps(
                    {
                        "trace_id": item.trace_id,
                        "root_span": item.root.title,
                        "spans": len(item.spans),
                        "started_ns": item.start_ns,
                        "duration_ns": item.duration_ns,
                        "failed": item.failed,
                    }
                )
            )
        return
    rows = [
        [
            item.trace_id,
            item.root.title,
            str(len(item.spans)),
            _time_of_day(item.start_ns),
            _milliseconds(item.duration_ns) + (" FAILED" if item.failed else ""),
        ]
        for item in traces
    ]
    print_table(["TRACE ID", "ROOT SPAN", "SPANS", "STARTED", "DURATION"], rows)


@trace.command("view")
@click.argument("trace_id", metavar="TRACE_ID")
@_source_options
@format_option("one span of OTLP a line, with its `node`")
def view(trace_id: str, dataflow: str | None, local: bool, style: str, client: Client) -> None:
    """Show one trace as a tree.

    TRACE_ID is the id or its first digits. The first column is the start of a span, the last its duration.
    """
    from dora.observe.trace import find_trace, rows

    try:
        found = find_trace(_traces(client, dataflow, local), trace_id)
    except ValueError as error:
        raise DoraError(str(error)) from None
    if style == "json":
        import msgspec

        for item in found.spans:
            span = msgspec.to_builtins(item.span)
            click.echo(json.dumps({"node": item.node_id, **span}))
        return
    drawn = list(rows(found))
    width = max(len(row.branch + row.item.title) for row in drawn)
    for row in drawn:
        status = f"  {row.item.span.status.message}" if row.item.span.status.message else ""
        duration = _milliseconds(row.item.span.end_ns - row.item.span.start_ns)
        title = f"{row.branch}{row.item.title}"
        click.echo(f"{'+' + _milliseconds(row.after_ns):>12}  {title:<{width}}  {duration:>11}{status}")


def _traces(client: Client, dataflow: str | None, local: bool) -> list[Trace]:
    from dora.cli.log_location import find_log_location, local_log_location
    from dora.observe.trace import SpanReader, traces_of

    source = local_log_location(dataflow) if local else find_log_location(client, dataflow)
    reader = SpanReader(source.directory)
    traces = traces_of(reader.batches())
    reader.close()
    if not traces:
        raise DoraError(
            f"nodes of dataflow {source.dataflow_id} have written no spans; start it with --trace "
            "(`dora run --trace`, `dora start --trace`)"
        )
    return traces


def _time_of_day(time_ns: int) -> str:
    """Return the local time, with milliseconds."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{rest // 1_000_000:03d}"


def _milliseconds(duration_ns: int) -> str:
    """
    >>> _milliseconds(1_234_567)
    '1.235 ms'
    """
    return f"{duration_ns / 1e6:.3f} ms"
