"""The screen of ``dora top``: an application of Textual that shows snapshots of running dataflows."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.drivers.linux_driver import LinuxDriver
from textual.widgets import DataTable, Footer, Static
from textual.worker import get_current_worker

from dora.daemon.logs.terminal import visible
from dora.observe.formatting import bandwidth, megabytes
from dora.observe.rates import LinkRate
from dora.observe.snapshot import NodeSnapshot, RunSnapshots, SnapshotSource

_TICK: Final = 0.1  # seconds between two checks whether the user wants to refresh or to quit
_FIRST: Final = 0.3  # seconds until the first figures, at most
_NODE_HEAD: Final = (
    *("NODE", "STATUS", "PID", "CPU", "MEMORY", "RESTARTS", "SENT", "BANDWIDTH", "WAITING", "QUIET"),
)
_NAMES: Final = {"NODE", "STATUS", "MACHINE", "LINK"}  # columns that are no figures
_LINK_HEAD: Final = ("LINK", "RATE", "BANDWIDTH", "QUEUE", "DROPPED", "WAITS", "99 %")

_ORDERS: dict[str, Callable[[NodeSnapshot], Any]] = {
    "name": lambda item: (item.dataflow, item.node.id),
    "CPU": lambda item: -(item.load.cpu_percent if item.load is not None else -1),
    "memory": lambda item: -(item.load.memory if item.load is not None else -1),
}

Measured = list[tuple[SnapshotSource, list[NodeSnapshot], list[LinkRate]]]


def show(snapshots: RunSnapshots, interval: float) -> None:
    """Show the dataflows until the user quits or all of them have ended.

    Raises ``KeyboardInterrupt`` at Ctrl-C, and what a measurement raises.
    """
    screen = TopScreen(snapshots, interval)
    result = screen.run()
    if screen.fault is not None:
        raise screen.fault
    if result == "ended":
        print("the dataflow has ended")


class _StandardOutput(LinuxDriver):
    """Draws on standard output, as standard error may be a file; Textual's own driver does the opposite."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._file = sys.__stdout__


class _Rows(DataTable[Text]):
    """A table whose columns of names are aligned to the left, those of figures to the right."""

    def show(self, head: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
        """Show other rows; the cursor and the scroll position stay where they are."""
        if [str(column.label) for column in self.ordered_columns] != list(head):
            self.clear(columns=True)
            for name in head:
                self.add_column(Text(name, justify="left" if name in _NAMES else "right"))
        while self.row_count > len(rows):
            self.remove_row(self.ordered_rows[-1].key)
        for number, row in enumerate(rows):
            for name, cell in zip(head, row, strict=True):
                cell.justify = "left" if name in _NAMES else "right"
            if number == self.row_count:
                self.add_row(*row)
                continue
            for column, cell in enumerate(row):
                place = Coordinate(number, column)
                if self.get_cell_at(place) != cell:
                    self.update_cell_at(place, cell, update_width=True)


class TopScreen(App[str]):
    """Nodes and links of running dataflows. Returns "ended" once none of them runs any more."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #title { height: 1; padding: 0 1; background: $primary; color: $text; text-style: bold; }
    #nodes { height: auto; max-height: 60%; }
    #links { height: 1fr; margin-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,escape", "quit", "quit"),
        Binding("j", "move(1)", "down"),
        Binding("k", "move(-1)", "up"),
        Binding("n", "sort('name')", "by name"),
        Binding("c", "sort('CPU')", "by CPU"),
        Binding("m", "sort('memory')", "by memory"),
        Binding("r", "refresh_now", "refresh"),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
    ]

    def __init__(self, snapshots: RunSnapshots, interval: float) -> None:
        super().__init__(driver_class=_StandardOutput)
        self.fault: BaseException | None = None
        self._snapshots = snapshots
        self._interval = interval
        self._refresh_wanted = threading.Event()
        self._measured: Measured = []
        self._order = "name"
        self._heading = Static("dora top", id="title", markup=False)
        self._node_rows = _Rows(id="nodes", cursor_type="row", zebra_stripes=True)
        self._link_rows = _Rows(id="links", cursor_type="row", zebra_stripes=True)

    def compose(self) -> ComposeResult:
        yield from (self._heading, self._node_rows, self._link_rows, Footer())

    def on_mount(self) -> None:
        # Otherwise the signal would leave the terminal as it is while the screen is drawn.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.action_interrupt)
        self._measure_repeatedly()

    @work(thread=True)
    def _measure_repeatedly(self) -> None:
        """Take snapshots, which wait for daemons, beside the loop that draws."""
        worker = get_current_worker()
        try:
            self._snapshots.watch(min(self._interval, _FIRST))
            while found := self._snapshots.refresh():
                self.call_later(self._show, found)
                due = time.monotonic() + self._interval
                while (rest := due - time.monotonic()) > 0 and not self._refresh_wanted.is_set():
                    if worker.is_cancelled:
                        return
                    self._snapshots.watch(min(_TICK, rest))
                self._refresh_wanted.clear()
            self.call_later(self.exit, "ended")
        except Exception as error:  # noqa: BLE001 - `show` raises it
            self.fault = error
            self.call_later(self.exit)

    def _show(self, measured: Measured) -> None:
        self._measured = measured
        self._draw()

    def _draw(self) -> None:
        names = ", ".join(dataflow.name for dataflow, _, _ in self._measured)
        nodes = sorted((item for _, some, _ in self._measured for item in some), key=_ORDERS[self._order])
        links = [rate for _, _, some in self._measured for rate in some]
        title = f"dora top: {names}   {len(nodes)} nodes, {len(links)} links, sorted by {self._order}"
        self._heading.update(visible(title))
        self._node_rows.show(*_node_table(nodes))
        self._link_rows.display = bool(links)
        self._link_rows.show(_LINK_HEAD, [link_row(rate) for rate in links])

    def action_move(self, lines: int) -> None:
        """Move the cursor of the table that has the focus."""
        if isinstance(self.focused, _Rows):
            (self.focused.action_cursor_down if lines > 0 else self.focused.action_cursor_up)()

    def action_sort(self, order: str) -> None:
        self._order = order
        self._draw()

    def action_refresh_now(self) -> None:
        self._refresh_wanted.set()

    def action_interrupt(self) -> None:
        self.fault = KeyboardInterrupt()
        self.exit()


def _cell(text: str, style: str = "") -> Text:
    return Text(visible(text), style)


def _node_table(nodes: Sequence[NodeSnapshot]) -> tuple[Sequence[str], list[tuple[Text, ...]]]:
    """Return the names of the columns, and a row for each node."""
    several = len({item.dataflow_id for item in nodes}) > 1
    rows = [_node_row(item, several) for item in nodes]
    if not any(item.node.machine for item in nodes):
        return _NODE_HEAD, rows
    return (*_NODE_HEAD[:2], "MACHINE", *_NODE_HEAD[2:]), [
        (*row[:2], _cell(item.node.machine or "-"), *row[2:]) for row, item in zip(rows, nodes, strict=True)
    ]


def _node_row(item: NodeSnapshot, several: bool) -> tuple[Text, ...]:
    view, load = item.node, item.load
    return (
        _cell(f"{item.dataflow}: {view.id}" if several else view.id),
        _cell(view.status, "bold red" if view.status == "Failed" else ""),
        _cell("-" if view.pid is None else str(view.pid)),
        _cell("-" if load is None else f"{load.cpu_percent:.1f}%"),
        _cell("-" if load is None else megabytes(load.memory)),
        _cell(str(view.restarts), "yellow" if view.restarts else ""),
        _cell(f"{item.sent_hz:.1f}/s"),
        _cell(bandwidth(item.bytes_per_second)),
        _cell(str(item.waiting)),
        _cell("-" if item.quiet_s is None else f"{item.quiet_s:.1f} s"),
    )


def link_row(rate: LinkRate) -> tuple[Text, ...]:
    """Return the row of a link."""
    link = rate.link
    dropping = f" (+{rate.dropping_hz:.1f}/s)" if rate.dropping_hz else ""
    waits = ("-", "-") if rate.latency_ms is None else (f"{value:.1f} ms" for value in rate.latency_ms)
    return (
        _cell(f"{link.producer} -> {link.consumer}"),
        _cell("silent", "bold red") if rate.silent else _cell(f"{rate.hz:.1f}/s"),
        _cell("-" if rate.bytes_per_second is None else bandwidth(rate.bytes_per_second)),
        _cell("-" if rate.waiting is None else f"{rate.waiting}/{link.queue_size}"),
        _cell(f"{rate.dropped:,}{dropping}", "bold red" if dropping else "yellow" if rate.dropped else ""),
        *(_cell(text) for text in waits),
    )
