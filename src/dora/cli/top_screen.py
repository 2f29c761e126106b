"""The screen of ``dora top``: what is where on it, and the keys."""

from __future__ import annotations

import curses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from dora.cli.tables import bandwidth, megabytes
from dora.cli.terminal import visible
from dora.errors import DoraError
from dora.inspection.counters import LinkRate
from dora.inspection.overview import NodeSnapshot, RunSnapshots

_TICK = 0.1  # seconds between looks at the keyboard
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
    """What the user has chosen: how nodes are sorted, and the first line that is shown."""

    order: str = "name"
    top: int = 0


def lines(nodes: list[NodeSnapshot], links: list[LinkRate], order: str) -> list[str]:
    """Return the lines of the screen below its title."""
    several = len({item.dataflow_id for item in nodes}) > 1
    rows: list[tuple[str, ...]] = [_node(item, several) for item in sorted(nodes, key=_ORDERS[order])]
    head: tuple[str, ...] = _NODE_HEAD
    if any(item.node.machine for item in nodes):
        machines = [item.node.machine or "-" for item in sorted(nodes, key=_ORDERS[order])]
        head = (*head[:2], "MACHINE", *head[2:])
        rows = [(*row[:2], machine, *row[2:]) for row, machine in zip(rows, machines, strict=True)]
    shown = _columns(head, rows)
    if links:
        shown += ["", *_columns(_LINK_HEAD, [_link(rate) for rate in links])]
    return shown


def _node(item: NodeSnapshot, several: bool) -> tuple[str, ...]:
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


def _link(rate: LinkRate) -> tuple[str, ...]:
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
    """Raise `DoraError` if the terminal is none on which one can draw."""
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


def show(overviews: RunSnapshots, interval: float) -> None:
    """Show the dataflows until the user quits or all of them have ended."""
    os.environ.setdefault("ESCDELAY", "25")  # milliseconds; curses waits a second otherwise
    ended = curses.wrapper(_loop, overviews, interval)
    if ended:
        print("the dataflow has ended")


def _loop(screen: Any, overviews: RunSnapshots, interval: float) -> bool:
    """Return whether all dataflows have ended."""
    try:
        curses.curs_set(0)
    except curses.error:
        pass  # this terminal cannot hide its cursor
    screen.nodelay(True)
    view = View()
    overviews.watch(min(interval, 0.3))
    while overviews.dataflows:
        found = overviews.refresh()
        if not found:
            break
        nodes = [item for _, some, _ in found for item in some]
        links = [rate for _, _, some in found for rate in some]
        names = ", ".join(overview.name for overview, _, _ in found)
        due = time.monotonic() + interval
        while time.monotonic() < due:
            _draw(screen, names, lines(nodes, links, view.order), view)
            wish = _obey(screen, view)
            if wish == "quit":
                return False
            if wish == "refresh":
                break
            overviews.watch(min(_TICK, max(due - time.monotonic(), 0.001)))
    return True


def _obey(screen: Any, view: View) -> Literal["quit", "refresh", ""]:
    """Do what the keys say; return what is left to the caller."""
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
    """Return the key that an Esc begins: Esc itself if nothing follows, 0 for one that means nothing here.

    curses knows the keys of the terminal that TERM names; others may send other sequences.
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
