"""``dora logs``: the log entries of a dataflow, of one that runs or has ended."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator

import click
import msgspec

from dora.cli.client import Client, Refused, Unreachable, choose, coordinator_options
from dora.cli.completion import dataflow_names
from dora.cli.run_options import DURATION, display_options_of_logs
from dora.coordinator.protocol import ACTIVE, DataflowView
from dora.dataflow.model import LogLevel
from dora.errors import DoraError
from dora.logs.entry import LogEntry
from dora.logs.filters import LogFilter
from dora.logs.formats import LogFormat, Renderer, renderer, wants_colour
from dora.logs.reader import LogReader

LOOK_EVERY = 0.2  # seconds between looks at files that are followed


class _Source(msgspec.Struct, frozen=True):
    """Where log files are. ``ended`` tells whether nothing will be added."""

    dataflow_id: str
    directory: str
    ended: Callable[[], bool]


@click.command()
@click.argument("wanted", metavar="[UUID_OR_NAME]", required=False, shell_complete=dataflow_names)
@click.argument("old_node", metavar="", required=False)
@click.option("-n", "--node", metavar="NODE", help="Only this node.")
@click.option("--all-nodes", is_flag=True, help="All nodes, in the order of time; the default.")
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Only the last N entries.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the dataflow ends.")
@click.option("--local", is_flag=True, help="Ask no coordinator: read ./out/<uuid>, by default the latest.")
@click.option("--since", type=DURATION, metavar="DURATION", help="Only entries that are not older.")
@click.option("--until", type=DURATION, metavar="DURATION", help="Only entries that are older.")
@click.option("--grep", metavar="TEXT", help="Only entries with this text, in any case.")
@display_options_of_logs
@coordinator_options
def logs(
    wanted: str | None,
    old_node: str | None,
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

    Without UUID_OR_NAME the one that runs, or else the latest. Without a coordinator the log files below
    ./out are shown.
    """
    if old_node is not None:
        raise click.UsageError(f"name the node with --node: dora logs {wanted} --node {old_node}")
    if node is not None and all_nodes:
        raise click.UsageError("say either --node or --all-nodes")
    source = _local(wanted) if local else _find(client, wanted)
    reader = LogReader(source.directory, node)
    nodes = reader.nodes()
    if node is not None and node not in nodes and not (follow and not source.ended()):
        from dora.dataflow.report import did_you_mean

        hint = did_you_mean(node, nodes) or f"there are {', '.join(nodes) or 'none'}"
        raise DoraError(f"node `{node}` has no log in {source.directory}; {hint}")
    chosen = _Selection(
        LogFilter(log_level, log_filter or {}),
        since=time.time_ns() - int(since * 1e9) if since is not None else 0,
        until=time.time_ns() - int(until * 1e9) if until is not None else None,
        grep=(grep or "").casefold(),
    )
    colour = wants_colour(sys.stdout.isatty(), os.environ)
    render = renderer(log_format, colour=colour, nodes=nodes, dataflow_id=source.dataflow_id)
    _show(chosen.of(reader.entries()), render, tail)
    while follow:
        ended = source.ended()  # asked first: what it wrote last is still to be read
        _show(chosen.of(reader.entries()), render, None)
        if ended:
            return
        time.sleep(LOOK_EVERY)


class _Selection(msgspec.Struct, frozen=True):
    """Which entries are wanted. Times are in nanoseconds since the Unix epoch."""

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
    from dora.cli.console import write_text

    shown = entries if tail is None else iter(deque(entries, maxlen=tail))
    lines: list[str] = []
    for entry in shown:
        lines.append(f"{render(entry)}\n")
        if len(lines) == 1000:
            write_text(sys.stdout, "".join(lines))
            lines.clear()
    if lines:
        write_text(sys.stdout, "".join(lines))


# ----------------------------------------------------------------------- which dataflow


def _find(client: Client, wanted: str | None) -> _Source:
    """Ask the coordinator, then the dataflows of `dora run`, then look into ./out."""
    try:
        view = client.dataflow(wanted) if wanted is not None else _only_or_latest(client)
    except (Unreachable, Refused) as error:
        if isinstance(error, Refused) and error.status != 404:
            raise
        source = _of_dora_run(wanted)
        if source is not None:
            return source
        try:
            return _local(wanted)
        except DoraError:
            raise error from None
    if view is None:
        return _of_dora_run(None) or _local(None)

    def ended() -> bool:
        try:
            return client.dataflow(view.uuid).status not in ACTIVE
        except Unreachable:
            return False  # it goes on, and so do its files
        except Refused:
            return True

    return _Source(view.uuid, view.log_directory, ended)


def _only_or_latest(client: Client) -> DataflowView | None:
    views = client.dataflows()
    running = [view for view in views if view.status in ACTIVE]
    return choose(running, "by UUID_OR_NAME") or (views[-1] if views else None)


def _of_dora_run(wanted: str | None) -> _Source | None:
    from dora.daemon.runs import fits, running
    from dora.errors import ConnectError
    from dora.wire.requests import Describe

    found = None
    for run in running():
        description = run.description
        if found is None and description.file and (wanted is None or fits(description, wanted)):
            found = run
        else:
            run.close()
    if found is None or found.description.file is None:
        return None
    kept = found

    def ended() -> bool:
        try:
            kept.ask(Describe())
        except ConnectError:
            return True
        return False

    identity = found.description.dataflow_id
    return _Source(identity, f"{os.path.dirname(found.description.file)}/out/{identity}", ended)


def _local(wanted: str | None) -> _Source:
    try:
        names = [name for name in os.listdir("out") if len(name) == 36 and os.path.isdir(f"out/{name}")]
    except OSError:
        names = []
    fitting = [name for name in names if wanted is None or name.startswith(wanted.lower())]
    if not fitting:
        which = f"`{wanted}`" if wanted is not None else "any dataflow"
        raise DoraError(f"there are no log files of {which} in {os.path.abspath('out')}")
    name = max(fitting, key=lambda name: os.stat(f"out/{name}").st_mtime)
    return _Source(name, os.path.abspath(f"out/{name}"), lambda: False)
