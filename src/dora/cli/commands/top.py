"""``dora top``: watch the nodes and links of running dataflows."""

from __future__ import annotations

import curses
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import click
import msgspec

from dora.cli.options import CommandGroup
from dora.cli.running import RunningDataflow
from dora.cli.select import dataflow_option, lower_priority
from dora.cli.values import ParameterValue, parse_duration
from dora.cluster.distributed_snapshot import DistributedSnapshot
from dora.daemon.logs.terminal import visible
from dora.errors import DoraError
from dora.observe.formatting import bandwidth, megabytes
from dora.observe.rates import LinkRate
from dora.observe.snapshot import NodeSnapshot, RunSnapshot, RunSnapshots, SnapshotSource

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
    help="Also show how long messages wait until they are taken; this taps every output.",
)
def top(dataflow: str | None, interval: float, once: bool, latency: bool) -> None:
    """Watch nodes and links: load, rates, queues, losses.

    Of all running dataflows, or of one. Keys: q or Esc quits, j and k or the arrows move, n, c and m sort
    by name, CPU and memory, r refreshes.
    """
    from dora.cli.running import find_all_running, find_running

    if interval < 0.1:
        raise click.UsageError("--refresh-interval is at least 100ms")
    if not once and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise DoraError("dora top needs a terminal; use --once for one measurement as JSON")
    if not once:
        check_terminal()
    dataflows = [find_running(dataflow)] if latency else find_all_running(dataflow)
    lower_priority()
    every = min(interval, LONGEST_SAMPLE) if once else interval
    with snapshots_of(dataflows, every, latency=latency) as snapshots:
        if once:
            snapshots.watch(every)
            found = snapshots.refresh()
            click.echo(
                json.dumps(
                    [_node_json(item, links) for _, nodes, links in found for item in nodes], indent=2
                )
            )
            return

        show(snapshots, interval)


@click.group(cls=CommandGroup)
def inspect() -> None:
    """Watch running dataflows."""


inspect.add_command(top)


def _node_json(item: NodeSnapshot, links: list[LinkRate]) -> dict[str, Any]:
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
        "inputs": [_link_json(rate) for rate in inputs],
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
        "latency_median_ms": None if rate.latency_ms is None else round(rate.latency_ms[0], 3),
        "latency_p99_ms": None if rate.latency_ms is None else round(rate.latency_ms[1], 3),
    }


# Snapshots of dataflows wherever their nodes are, for ``dora top`` and ``dora node``.


def snapshots_of(
    dataflows: Iterable[RunningDataflow], every: float, *, latency: bool = False, node: str = ""
) -> RunSnapshots:
    """Return snapshots of dataflows; with ``node``, only of the machine of that node."""

    def make(running: RunningDataflow) -> SnapshotSource:
        machines = [running.machine_of(node)] if node else running.machines()
        if running.run is not None and not set(machines) & set(running.other_machines()):
            return RunSnapshot(running.run, latency=latency)
        return _RemoteSnapshot(running, machines, every, latency=latency)

    return RunSnapshots(dataflows, make)


class _RemoteSnapshot(DistributedSnapshot):
    """Snapshots of one dataflow that is not, or not only, on this machine; prints what goes wrong."""

    def __init__(
        self, running: RunningDataflow, machines: Sequence[str], every: float, *, latency: bool
    ) -> None:
        self._running = running
        connections = {}
        for machine in machines:
            if running.run is not None and machine == running.inspection.machine:
                continue
            try:
                connections[machine] = running.session(machine)
            except DoraError as error:
                if running.run is None and len(machines) == 1:
                    raise
                click.echo(f"machine `{machine}` cannot be observed: {error}", err=True)
        super().__init__(
            running.name,
            running.inspection,
            running.run,
            connections,
            running.machine_of,
            every,
            latency=latency,
        )

    def close(self) -> None:
        for fault in self.faults:
            click.echo(fault, err=True)
        super().close()
        self._running.close()


# The screen of ``dora top``, and its keys.

_TICK = 0.1  # seconds between two polls of the keyboard
_ESCAPE = 27
_NODE_HEAD = ("NODE", "STATUS", "PID", "CPU", "MEMORY", "RESTARTS", "SENT", "BANDWIDTH", "WAITING", "QUIET")
_LINK_HEAD = ("LINK", "RATE", "BANDWIDTH", "QUEUE", "DROPPED", "WAITS", "99 %")

_ORDERS: dict[str, Callable[[NodeSnapshot], Any]] = {
    "name": lambda item: (item.dataflow, item.node.id),
    "CPU": lambda item: -(item.load.cpu_percent if item.load is not None else -1),
    "memory": lambda item: -(item.load.memory if item.load is not None else -1),
}
_ARROWS = {ord("A"): curses.KEY_UP, ord("B"): curses.KEY_DOWN}  # end of a sequence
_KEYS = {"n": "name", "c": "CPU", "m": "memory"}


class View(msgspec.Struct):
    """The user's choices: how nodes are sorted, and the first line that is shown."""

    order: str = "name"
    top: int = 0


def lines(nodes: list[NodeSnapshot], links: list[LinkRate], order: str) -> list[str]:
    """Return the lines of the screen below its title."""
    several = len({item.dataflow_id for item in nodes}) > 1
    rows: list[tuple[str, ...]] = [_node_row(item, several) for item in sorted(nodes, key=_ORDERS[order])]
    head: tuple[str, ...] = _NODE_HEAD
    if any(item.node.machine for item in nodes):
        machines = [item.node.machine or "-" for item in sorted(nodes, key=_ORDERS[order])]
        head = (*head[:2], "MACHINE", *head[2:])
        rows = [(*row[:2], machine, *row[2:]) for row, machine in zip(rows, machines, strict=True)]
    shown = _columns(head, rows)
    if links:
        shown += ["", *_columns(_LINK_HEAD, [_link_row(rate) for rate in links])]
    return shown


def _node_row(item: NodeSnapshot, several: bool) -> tuple[str, ...]:
    view, load = item.node, item.load
    return (
        f"{item.dataflow}: {view.id}" if several else view.id,
        view.status,
        "-" if view.pid is None else str(view.pid),
        "-" if load is None else f"{load.cpu_percent:.1f}%",
        "-" if load is None else megabytes(load.memory),
        str(view.restarts),
        f"{item.sent_hz:.1f}/s",
        bandwidth(item.bytes_per_second),
        str(item.waiting),
        "-" if item.quiet_s is None else f"{item.quiet_s:.1f} s",
    )


def _link_row(rate: LinkRate) -> tuple[str, ...]:
    link = rate.link
    queue = "-" if rate.waiting is None else f"{rate.waiting}/{link.queue_size}"
    dropping = f" (+{rate.dropping_hz:.1f}/s)" if rate.dropping_hz else ""
    return (
        f"{link.producer} -> {link.consumer}",
        "silent" if rate.silent else f"{rate.hz:.1f}/s",
        "-" if rate.bytes_per_second is None else bandwidth(rate.bytes_per_second),
        queue,
        f"{rate.dropped:,}{dropping}",
        *(("-", "-") if rate.latency_ms is None else (f"{value:.1f} ms" for value in rate.latency_ms)),
    )


def _columns(head: Sequence[str], rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]


def check_terminal() -> None:
    """Raise `DoraError` if the terminal cannot be drawn on."""
    name = os.environ.get("TERM") or "dumb"
    try:
        curses.setupterm(name)
        can_draw = bool(curses.tigetstr("cup"))  # move the cursor
    except curses.error:
        can_draw = False
    if not can_draw:
        raise DoraError(
            f"dora top cannot draw on a terminal of the kind `{name}` (TERM); most are TERM=xterm, and "
            "--once measures once and prints JSON"
        )


def show(snapshots: RunSnapshots, interval: float) -> None:
    """Show the dataflows until the user quits or all of them have ended."""
    os.environ.setdefault("ESCDELAY", "25")  # milliseconds; curses waits a second otherwise
    ended = curses.wrapper(_loop, snapshots, interval)
    if ended:
        print("the dataflow has ended")


def _loop(screen: Any, snapshots: RunSnapshots, interval: float) -> bool:
    """Return whether all dataflows have ended."""
    try:
        curses.curs_set(0)
    except curses.error:
        pass  # this terminal cannot hide its cursor
    screen.nodelay(True)
    view = View()
    snapshots.watch(min(interval, 0.3))
    while snapshots.dataflows:
        found = snapshots.refresh()
        if not found:
            break
        nodes = [item for _, some, _ in found for item in some]
        links = [rate for _, _, some in found for rate in some]
        names = ", ".join(dataflow.name for dataflow, _, _ in found)
        due = time.monotonic() + interval
        while time.monotonic() < due:
            _draw(screen, names, lines(nodes, links, view.order), view)
            action = _handle_keys(screen, view)
            if action == "quit":
                return False
            if action == "refresh":
                break
            snapshots.watch(min(_TICK, max(due - time.monotonic(), 0.001)))
    return True


def _handle_keys(screen: Any, view: View) -> Literal["quit", "refresh", ""]:
    """Handle the keys that were pressed; return what the caller has to do."""
    while (key := screen.getch()) != -1:
        if key == _ESCAPE and (key := _after_escape(screen)) == _ESCAPE:
            return "quit"
        if key == ord("q"):
            return "quit"
        if key in (ord("j"), curses.KEY_DOWN):
            view.top += 1
        elif key in (ord("k"), curses.KEY_UP):
            view.top = max(view.top - 1, 0)
        elif key == ord("r"):
            return "refresh"
        elif 0 < key < 256 and chr(key) in _KEYS:
            view.order = _KEYS[chr(key)]
    return ""


def _after_escape(screen: Any) -> int:
    """Return the key that an Esc begins: Esc itself if nothing follows, 0 for an unknown one.

    curses knows the keys of the terminal that TERM names; other terminals may send other sequences.
    """
    begun = screen.getch()
    if begun in (-1, _ESCAPE):
        return _ESCAPE
    if begun not in (ord("["), ord("O")):  # Alt and a key
        return 0
    while (last := screen.getch()) != -1 and not ord("@") <= last <= ord("~"):
        pass
    return _ARROWS.get(last, 0)


def _draw(screen: Any, names: str, shown: list[str], view: View) -> None:
    height, width = screen.getmaxyx()
    view.top = max(0, min(view.top, len(shown) - (height - 2)))
    title = f"dora top: {names}   sorted by {view.order}   q quit, j/k move, n/c/m sort, r refresh"
    screen.erase()
    _put(screen, 0, title, width, curses.A_REVERSE)
    for row, line in enumerate(shown[view.top : view.top + height - 2], 1):
        is_head = line.startswith(("NODE ", "LINK "))
        _put(screen, row, line, width, curses.A_BOLD if is_head else curses.A_NORMAL)
    screen.refresh()


def _put(screen: Any, row: int, text: str, width: int, style: int) -> None:
    try:
        screen.addnstr(row, 0, visible(text), max(width - 1, 0), style)
    except curses.error:
        pass  # the window has just become smaller
