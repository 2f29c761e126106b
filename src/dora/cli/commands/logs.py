"""``dora logs``: show the log entries of a dataflow, running or ended."""

from __future__ import annotations

import errno
import os
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import click
import msgspec

from dora.cli.argument_values import MAX_COUNT
from dora.cli.coordinator import coordinator_options
from dora.cli.log_location import LogLocation, find_log_location, local_log_location
from dora.cli.options import DURATION, display_options
from dora.cli.running_options import dataflow_names, running_nodes
from dora.cluster.client import Client
from dora.daemon.logs.entry import LogEntry, LogFilter
from dora.daemon.logs.formats import LogFormat, Renderer, renderer, wants_colour
from dora.daemon.logs.reader import LogReader
from dora.dataflow.model import LogLevel
from dora.dataflow.problems import did_you_mean, no_node
from dora.errors import DoraError

POLL_INTERVAL = 0.2  # seconds between reads of files that are followed
STDOUT = 1


@click.command()
@click.argument("wanted", metavar="[UUID_OR_NAME]", required=False, shell_complete=dataflow_names)
@click.argument("positional_node", metavar="", required=False)
@click.option(
    "-n",
    "--node",
    metavar="NODE",
    shell_complete=running_nodes,
    help="Only this node; `dora` is the daemon.",
)
@click.option("--all-nodes", is_flag=True, help="All nodes, ordered by time [the default].")
@click.option("--tail", type=click.IntRange(0, MAX_COUNT), metavar="N", help="Only the last N entries.")
@click.option("-f", "--follow", is_flag=True, help="Continue until the dataflow ends.")
@click.option("--local", is_flag=True, help="Read ./out/<uuid> [the latest] without asking a coordinator.")
@click.option("--since", type=DURATION, metavar="DURATION", help="Only entries of the last DURATION.")
@click.option("--until", type=DURATION, metavar="DURATION", help="Only entries older than DURATION.")
@click.option(
    "--grep", metavar="TEXT", help="Only entries that contain this text; upper and lower case are equal."
)
@display_options("--log-level", "--level")
@coordinator_options
def logs(
    wanted: str | None,
    positional_node: str | None,
    node: str | None,
    all_nodes: bool,
    tail: int | None,
    follow: bool,
    local: bool,
    since: float | None,
    until: float | None,
    grep: str | None,
    log_level: LogLevel,
    log_format: LogFormat,
    log_filter: dict[str, LogLevel] | None,
    client: Client,
) -> None:
    """Show the logs of a dataflow.

    It is found by its UUID, the beginning of it, its name, its file or one of its nodes. Without
    UUID_OR_NAME, the running dataflow, or else the latest. Without a coordinator, the log files below ./out
    are shown. If the dataflow failed, the reason is printed to standard error.
    """
    if positional_node is not None:
        raise click.UsageError(f"name the node with --node: dora logs {wanted} --node {positional_node}")
    if node is not None and all_nodes:
        raise click.UsageError("use either --node or --all-nodes")
    source = local_log_location(wanted) if local else find_log_location(client, wanted)
    reader = click.get_current_context().with_resource(closing(LogReader(source.directory, node)))
    nodes = reader.nodes()
    if node is not None and node not in nodes:
        _check_node(node, source, nodes, follow)
    chosen = _Selection(
        LogFilter(log_level, log_filter or {}),
        since=time.time_ns() - int(since * 1e9) if since is not None else 0,
        until=time.time_ns() - int(until * 1e9) if until is not None else None,
        grep=(grep or "").casefold(),
    )
    colour = wants_colour(sys.stdout.isatty(), os.environ)
    render = renderer(log_format, colour=colour, nodes=nodes, dataflow_id=source.dataflow_id)
    try:
        _show(chosen.of(reader.entries()), render, tail)
        if follow:
            _follow(source, lambda: _show(chosen.of(reader.entries()), render, None))
    except KeyboardInterrupt:
        if not follow:
            raise
        return  # the usual way to end it
    if failure := source.failure():
        click.echo(failure, err=True)


def _follow(source: LogLocation, show: Callable[[], None]) -> None:
    """Show new entries until the dataflow has ended."""
    ended = False
    while not ended:
        ended = source.ended()  # asked before the last entries are read
        show()
        if not ended:
            _wait_for_more()


def _wait_for_more() -> None:
    """Sleep. Raises `BrokenPipeError` if nobody reads the output any more, as in ``dora logs -f | head``.

    A write would raise it, but a quiet node gives nothing to write.
    """
    reader = select.poll()
    reader.register(STDOUT, 0)  # errors are reported without being asked for
    if reader.poll(POLL_INTERVAL * 1000):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def _check_node(node: str, source: LogLocation, with_logs: Sequence[str], follow: bool) -> None:
    """Raise `DoraError` for an unknown node; a node that has logged nothing yet is accepted."""
    if node in source.nodes:
        return
    if source.nodes:
        raise DoraError(no_node(node, source.nodes))
    if not follow or source.ended():
        hint = did_you_mean(node, with_logs) or f"there are {', '.join(with_logs) or 'none'}"
        raise DoraError(f"node `{node}` has no log in {source.directory}; {hint}")


class _Selection(msgspec.Struct, frozen=True):
    """The entries to show. Times are in nanoseconds since the Unix epoch."""

    filter: LogFilter
    since: int = 0
    until: int | None = None
    grep: str = ""

    def of(self, entries: Iterator[LogEntry]) -> Iterator[LogEntry]:
        for entry in entries:
            if (
                self.filter.shows(entry)
                and entry.timestamp_ns >= self.since
                and (self.until is None or entry.timestamp_ns <= self.until)
                and (not self.grep or self.grep in entry.message.casefold())
            ):
                yield entry


def _show(entries: Iterator[LogEntry], render: Renderer, tail: int | None) -> None:
    from dora.daemon.logs.console import write_text

    shown = entries if tail is None else iter(deque(entries, maxlen=tail))
    lines: list[str] = []
    for entry in shown:
        lines.append(f"{render(entry)}\n")
        if len(lines) == 1000:
            write_text(sys.stdout, "".join(lines))
            lines.clear()
    if lines:
        write_text(sys.stdout, "".join(lines))
