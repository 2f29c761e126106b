"""The screen of ``dora top``: an application of Textual that shows and changes running dataflows."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final, TypeVar

from rich.text import Text
from textual import events, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.coordinate import Coordinate
from textual.drivers.linux_driver import LinuxDriver
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, RichLog, Static
from textual.worker import get_current_worker

from dora.cli.tables import without
from dora.cli.top_commands import TopCommands
from dora.cli.top_tables import (
    NAMES,
    WIDE,
    LinkHistory,
    Table,
    cell,
    link_table,
    network_table,
    node_table,
    path_table,
)
from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.formats import renderer
from dora.daemon.logs.terminal import visible
from dora.errors import DoraError
from dora.observe.rates import LinkRate
from dora.observe.snapshot import NodeSnapshot, Snapshot, SnapshotSource, SnapshotSources

_TICK: Final = 0.1  # seconds between two checks whether the user wants to refresh or to quit
_FIRST: Final = 0.3  # seconds until the first figures, at most
_LOG_INTERVAL: Final = 0.3  # seconds between two reads of the logs
_MAX_ENTRIES: Final = 1000  # log entries that are kept

_ORDERS: dict[str, Callable[[NodeSnapshot], Any]] = {
    "name": lambda item: (item.dataflow, item.node.id),
    "CPU": lambda item: -(item.load.cpu_percent if item.load is not None else -1),
    "memory": lambda item: -(item.load.memory if item.load is not None else -1),
}
_LOG_STYLES: Final = {"error": "bold red", "warn": "yellow", "debug": "dim", "trace": "dim"}

_TROUBLE: Final = "bold red"
_ALL_LOGS: Final = "log of all nodes"
_NO_OUTPUT: Final = ("", "")
_FAULTS: Final = (DoraError, OSError)  # of commands; a timeout is an ``OSError``
_KEYS: Final = """\
up, down, j, k   move the cursor          Tab   next table, or the log
left, right   show other columns          Esc   leave
o   messages of an output of this row, again: of its next output; Esc closes
l   log of the selected node, again: of all nodes
R   restart the selected node             s     stop the selected node
S   stop the dataflow of that node        r     refresh now
b   save its last seconds (black box)     p     times of paths
n, c, m   sort by name, CPU, memory       q     quit
(any key closes)"""
_Result = TypeVar("_Result")

Measured = list[tuple[SnapshotSource, Snapshot]]


def show(snapshots: SnapshotSources, interval: float) -> None:
    """Show the dataflows until the user quits, or presses a key after all of them have ended.

    Raises ``KeyboardInterrupt`` at Ctrl-C, and what a measurement raises.
    """
    screen = TopScreen(snapshots, TopCommands(), interval)
    result = screen.run()
    if screen.fault is not None:
        raise screen.fault
    if result:
        print(result)


class _StandardOutput(LinuxDriver):
    """Draws on standard output, as standard error may be a file; Textual's own driver does the opposite."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._file = sys.__stdout__


class _Rows(DataTable[Text]):
    """A table with names aligned to the left, and figures to the right."""

    def show(self, table: Table) -> None:
        """Show other rows; the cursor follows its row, which the first cell names."""
        head, rows = table
        names = [row[0].plain for row in rows]
        chosen = self.chosen()
        self.styles.height = len(rows) + 1  # the head
        if [str(column.label) for column in self.ordered_columns] != list(head):
            self.clear(columns=True)
            for name in head:
                self.add_column(Text(name, justify="left" if name in NAMES else "right"))
        while self.row_count > len(rows):
            self.remove_row(self.ordered_rows[-1].key)
        for number, row in enumerate(rows):
            for name, item in zip(head, row, strict=True):
                item.justify = "left" if name in NAMES else "right"
            if number == self.row_count:
                self.add_row(*row)
                continue
            for column, item in enumerate(row):
                place = Coordinate(number, column)
                if self.get_cell_at(place) != item:
                    self.update_cell_at(place, item, update_width=True)
        if chosen in names and names[self.cursor_row] != chosen:
            self.move_cursor(row=names.index(chosen))

    def chosen(self) -> str:
        """Return the first cell of the row with the cursor; "" without rows."""
        return self.get_row_at(self.cursor_row)[0].plain if self.is_valid_row_index(self.cursor_row) else ""


class _KeyPrompt(ModalScreen[str]):
    """A line at the bottom that waits for one key, which is the result."""

    CSS = """
    _KeyPrompt { background: transparent; align: left bottom; }
    #line { width: 100%; height: auto; padding: 0 1; background: $warning; color: $text; text-style: bold; }
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        yield Static(visible(self._text), id="line", markup=False)

    def on_key(self, event: events.Key) -> None:
        event.stop()
        self.dismiss(event.key)


class TopScreen(App[str]):
    """Nodes, links and logs of running dataflows. Returns how the last of them ended, if all have."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #title { height: 1; padding: 0 1; background: $primary; color: $text; text-style: bold; }
    #nodes, #links { max-height: 35%; scrollbar-size-horizontal: 0; }
    #networks { max-height: 20%; scrollbar-size-horizontal: 0; }
    #links, #networks { margin-top: 1; }
    #log, #output { height: 1fr; min-height: 4; border-top: solid $primary; padding: 0 1; }
    #log { scrollbar-size: 1 1; overflow-y: auto; }
    #output { display: none; }
    #message { height: auto; max-height: 3; padding: 0 1; display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("question_mark", "help", "keys", key_display="?"),
        Binding("o", "output", "output"),
        Binding("l", "log", "log"),
        Binding("R", "restart", "restart"),
        Binding("s", "stop", "stop"),
        Binding("S", "stop_dataflow", "stop dataflow"),
        Binding("b", "save", "save the last seconds"),
        Binding("p", "paths", "paths"),
        Binding("n", "sort('name')", "by name"),
        Binding("c", "sort('CPU')", "by CPU"),
        Binding("m", "sort('memory')", "by memory"),
        Binding("r", "refresh_now", "refresh"),
        Binding("j", "move(1)", "down", show=False),
        Binding("k", "move(-1)", "up", show=False),
        Binding("escape", "leave", show=False),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
    ]

    def __init__(self, snapshots: SnapshotSources, commands: TopCommands, interval: float) -> None:
        super().__init__(driver_class=_StandardOutput)
        self.fault: BaseException | None = None
        self._snapshots = snapshots
        self._commands = commands
        self._interval = interval
        self._refresh_wanted = threading.Event()
        self._measured: Measured = []
        self._names: dict[str, str] = {}  # UUID → name of each dataflow that has been measured
        self._node_items: list[NodeSnapshot] = []  # as they are shown
        self._link_items: list[tuple[str, LinkRate]] = []  # as they are shown, with their dataflow's UUID
        self._histories: dict[tuple[str, str, str], LinkHistory] = {}
        self._order = "name"
        self._shows_paths = False  # in the place of the links
        self._entries: deque[tuple[str, LogEntry]] = deque(maxlen=_MAX_ENTRIES)
        self._log_node: tuple[str, str] | None = None  # the log shows this node only
        self._entry_text = renderer("compact")
        self._log_lock = threading.Lock()  # one thread follows the logs, another reads their end
        self._left = threading.Event()  # set when the screen is left
        self._output = _NO_OUTPUT  # the topic that is looked at, with the UUID of its dataflow
        self._heading = Static("dora top", id="title", markup=False)
        self._node_rows = _Rows(id="nodes", cursor_type="row", zebra_stripes=True)
        self._link_rows = _Rows(id="links", cursor_type="row", zebra_stripes=True)
        self._network_rows = _Rows(id="networks", cursor_type="row", zebra_stripes=True)
        self._log_lines = RichLog(id="log", max_lines=_MAX_ENTRIES)
        self._output_text = Static("", markup=False)
        self._output_panel = VerticalScroll(self._output_text, id="output")
        self._message = Static("", id="message", markup=False)

    def compose(self) -> ComposeResult:
        yield from (self._heading, self._node_rows, self._link_rows, self._network_rows)
        yield from (self._log_lines, self._output_panel, self._message, Footer())

    def on_mount(self) -> None:
        # Otherwise the signal would leave the terminal as it is while the screen is drawn.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.action_interrupt)
        self._log_lines.border_title = _ALL_LOGS
        self._measure_repeatedly()

    # ------------------------------------------------------------------ figures

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
            self.call_later(self._show, [])
        except Exception as error:  # noqa: BLE001 - `show` raises it
            self.fault = error
            self.call_later(self.exit)

    def _show(self, measured: Measured) -> None:
        first = not self._names
        present = {source.inspection.dataflow_id: source.name for source, _ in measured}
        ended = [
            uuid for source, _ in self._measured if (uuid := source.inspection.dataflow_id) not in present
        ]
        self._names |= present
        if measured:
            self._measured = measured
            self._add_to_histories()
            self._draw()
        if first and measured:
            reading = threading.Thread(target=self._read_logs, args=(list(present),), daemon=True)
            reading.start()
        if ended:
            self._end(ended, last=not measured)
        elif not measured:
            self.exit("the dataflow has ended")  # before it was measured

    def _add_to_histories(self) -> None:
        now = time.monotonic()
        links = {
            (source.inspection.dataflow_id, rate.link.producer, rate.link.consumer): rate
            for source, snapshot in self._measured
            for rate in snapshot.links
        }
        self._histories = {key: self._histories.get(key) or LinkHistory() for key in links}
        for key, rate in links.items():
            self._histories[key].add(rate, now)

    def _draw(self) -> None:
        names = ", ".join(dataflow.name for dataflow, _ in self._measured)
        nodes = (item for _, snapshot in self._measured for item in snapshot.nodes)
        self._node_items = sorted(nodes, key=_ORDERS[self._order])
        self._link_items = [
            (source.inspection.dataflow_id, rate)
            for source, snapshot in self._measured
            for rate in snapshot.links
        ]
        counts = f"{len(self._node_items)} nodes, {len(self._link_items)} links"
        self._heading.update(visible(f"dora top: {names}   {counts}, sorted by {self._order}"))
        narrow = self.size.width < WIDE
        table = node_table(self._node_items)
        self._node_rows.show(without(table, "PID") if narrow else table)
        networks = [item for _, snapshot in self._measured for item in snapshot.networks]
        self._network_rows.display = bool(networks)
        self._network_rows.show(network_table(networks))
        if self._shows_paths:
            self._link_rows.display = True
            self._link_rows.show(path_table([path for item in self._node_items for path in item.paths]))
            return
        self._link_rows.display = bool(self._link_items)
        histories = [
            (rate, self._histories[dataflow_id, rate.link.producer, rate.link.consumer])
            for dataflow_id, rate in self._link_items
        ]
        table = link_table(histories, 10 if narrow else 18)
        self._link_rows.show(without(table, "BANDWIDTH") if narrow else table)

    def action_paths(self) -> None:
        """Show how long data takes through the dataflow, instead of the links; or the links again."""
        self._shows_paths = not self._shows_paths
        if self._measured:
            self._draw()

    def on_resize(self) -> None:
        if self._measured:
            self._draw()

    def _end(self, dataflow_ids: Sequence[str], *, last: bool) -> None:
        """Say how dataflows ended; after the last one, stay until a key is pressed."""

        def ask() -> list[str]:
            failures = dict.fromkeys(dataflow_ids, "")
            for dataflow_id in dataflow_ids:
                with suppress(*_FAULTS):  # of a log that is gone; the line at the end is shown without it
                    self._take_entries(dataflow_id)
                    failures[dataflow_id] = self._commands.failure(dataflow_id)
            return list(failures.values())

        def answered(failures: list[str]) -> None:
            sentences = map(self._how_it_ended, dataflow_ids, failures)
            text = "\n".join(sentences)
            if not last:
                self._say(text, "bold")
                return
            self._close_output()
            self.push_screen(_KeyPrompt(f"{text} (any key leaves)"), lambda _: self.exit(text))

        self._in_thread(ask, answered)

    def _how_it_ended(self, dataflow_id: str, failure: str) -> str:
        """Return a sentence; ``failure`` is what a coordinator says."""
        for known, entry in self._entries:
            if known == dataflow_id and entry.stream == "daemon" and entry.fields.get("cause") == "first":
                what = entry.message.replace(" (first failure)", "")
                failure = f"node `{entry.node_id}` {what}" if entry.node_id else what
                return f"dataflow `{self._names[dataflow_id]}` failed: {failure}"
        return failure or f"dataflow `{self._names[dataflow_id]}` has ended"

    # ------------------------------------------------------------------ logs

    def _read_logs(self, dataflow_ids: Sequence[str]) -> None:
        """Read the logs until the screen is left; in a thread."""
        readable = list(dataflow_ids)
        while not self._left.wait(_LOG_INTERVAL):
            for dataflow_id in list(readable):
                try:
                    self._take_entries(dataflow_id)
                except _FAULTS as error:
                    readable.remove(dataflow_id)
                    self.call_later(self._say, f"the log cannot be read: {error}", _TROUBLE)

    def _take_entries(self, dataflow_id: str) -> None:
        with self._log_lock:  # so that entries come in their order
            if entries := self._commands.log_entries(dataflow_id):
                self.call_later(self._add_entries, dataflow_id, entries)

    def _add_entries(self, dataflow_id: str, entries: Sequence[LogEntry]) -> None:
        for entry in entries:
            self._entries.append((dataflow_id, entry))
            self._write_entry(dataflow_id, entry)

    def _write_entry(self, dataflow_id: str, entry: LogEntry) -> None:
        if self._log_node in (None, (dataflow_id, entry.node_id)):
            self._log_lines.write(cell(self._entry_text(entry), _LOG_STYLES.get(entry.level, "")))

    def action_log(self) -> None:
        """Show the log of the selected node only, or again of all nodes."""
        item = self._chosen_node()
        self._log_node = None if item is None or self._log_node else (item.dataflow_id, item.node.id)
        node = self._log_node[1] if self._log_node else ""
        self._log_lines.border_title = visible(f"log of node {node}") if node else _ALL_LOGS
        self._close_output()
        self._log_lines.clear()
        for dataflow_id, entry in self._entries:
            self._write_entry(dataflow_id, entry)

    # ------------------------------------------------------------------ an output

    def action_output(self) -> None:
        """Show the messages of an output of the row with the cursor; again: of its next output."""
        topics = self._topics()
        if not topics:
            self._say("this node has no output", _TROUBLE)
            return
        self._say("")
        follower = topics.index(self._output) + 1 if self._output in topics else 0
        self._output = topics[follower % len(topics)]
        self._output_text.update("waiting for a message")
        self._output_panel.border_title = visible(f"output {self._output[1]} (Esc closes)")
        self._output_panel.display, self._log_lines.display = True, False
        self._follow(*self._output)

    def _topics(self) -> list[tuple[str, str]]:
        """Return the outputs of the row with the cursor, each with the UUID of its dataflow."""
        in_links = self.focused is self._link_rows and not self._shows_paths
        if in_links and self._link_rows.cursor_row < len(self._link_items):
            dataflow_id, rate = self._link_items[self._link_rows.cursor_row]
            return [(dataflow_id, rate.link.producer)]
        item = self._chosen_node()
        if item is None:
            return []
        outputs = (output.id for output in item.node.outputs if not output.text)
        return [(item.dataflow_id, f"{item.node.id}/{output}") for output in outputs]

    @work(thread=True, exclusive=True, group="output")
    def _follow(self, dataflow_id: str, topic: str) -> None:
        worker = get_current_worker()

        def show(text: str) -> None:
            self.call_later(self._show_message, (dataflow_id, topic), text)

        try:
            self._commands.follow(dataflow_id, topic, show, lambda: worker.is_cancelled)
        except _FAULTS as error:
            if not worker.is_cancelled:
                self.call_later(self._say, f"output `{topic}`: {error}", _TROUBLE)
                self.call_later(self._close_output)

    def _show_message(self, output: tuple[str, str], text: str) -> None:
        if output == self._output:
            self._output_text.update(visible(text))

    def _close_output(self) -> None:
        self.workers.cancel_group(self, "output")
        self._output = _NO_OUTPUT
        self._output_panel.display, self._log_lines.display = False, True

    # ------------------------------------------------------------------ commands

    def action_restart(self) -> None:
        if item := self._chosen_node():
            self._confirm(
                f"restart node `{item.node.id}`?",
                lambda: self._commands.restart_node(item.dataflow_id, item.node.id),
            )

    def action_stop(self) -> None:
        if item := self._chosen_node():
            self._confirm(
                f"stop node `{item.node.id}`?",
                lambda: self._commands.stop_node(item.dataflow_id, item.node.id),
            )

    def action_stop_dataflow(self) -> None:
        """Stop the dataflow of the selected node."""
        if item := self._chosen_node():
            self._confirm(
                f"stop dataflow `{item.dataflow}` with all its nodes?",
                lambda: self._commands.stop_dataflow(item.dataflow_id),
            )

    def action_save(self) -> None:
        """Save the last seconds of the dataflow of the selected node."""
        if item := self._chosen_node():
            self._say(f"saving the last seconds of `{item.dataflow}` …")
            self._in_thread(lambda: self._commands.save(item.dataflow_id), self._say)

    def _chosen_node(self) -> NodeSnapshot | None:
        row = self._node_rows.cursor_row
        return self._node_items[row] if row < len(self._node_items) else None

    def _confirm(self, question: str, command: Callable[[], str]) -> None:
        def answered(key: str | None) -> None:
            if key in ("y", "Y"):
                self._say(question.replace("?", " …"))
                self._in_thread(command, self._say)

        self._say("")
        self.push_screen(_KeyPrompt(f"{question} y: yes, any other key: no"), answered)

    def _in_thread(self, call: Callable[[], _Result], then: Callable[[_Result], None]) -> None:
        """Call beside the loop that draws; quitting does not wait for it."""

        def run() -> None:
            try:
                result = call()
            except _FAULTS as error:
                self.call_later(self._say, str(error) or "no answer came in time", _TROUBLE)
            else:
                self.call_later(then, result)

        threading.Thread(target=run, name="dora-top-command", daemon=True).start()

    def _say(self, text: str, style: str = "") -> None:
        self._message.update(cell(text, style))
        self._message.display = bool(text)

    # ------------------------------------------------------------------ other keys

    def action_help(self) -> None:
        """Show all keys."""
        self.push_screen(_KeyPrompt(_KEYS))

    def action_move(self, lines: int) -> None:
        """Move the cursor of the table that has the focus."""
        if isinstance(self.focused, _Rows):
            (self.focused.action_cursor_down if lines > 0 else self.focused.action_cursor_up)()

    def action_sort(self, order: str) -> None:
        self._order = order
        self._draw()

    def action_refresh_now(self) -> None:
        self._refresh_wanted.set()

    def action_leave(self) -> None:
        """Close the panel of an output, or else quit."""
        if self._output == _NO_OUTPUT:
            self.exit()
        else:
            self._close_output()

    def action_interrupt(self) -> None:
        self.fault = KeyboardInterrupt()
        self.exit()

    def on_unmount(self) -> None:
        self._left.set()
