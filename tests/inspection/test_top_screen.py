"""The screen of `dora top`, without a terminal."""

from __future__ import annotations

import asyncio
import doctest
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import DataTable, RichLog, Static
from waiting import TIMEOUT, wait_until

from dora.cli import top_tables
from dora.cli.top_screen import TopScreen
from dora.cli.top_tables import LinkHistory, link_row, link_table, node_table
from dora.daemon.logs.entry import LogEntry
from dora.errors import DoraError
from dora.observe.load import Load
from dora.observe.networks import NetworkRate, StreamRate
from dora.observe.rates import LinkRate
from dora.observe.snapshot import NodeSnapshot, Snapshot
from dora.wire.daemon_protocol import Inspection, LinkView, NodeView, OutputView
from dora.wire.node_status import StatusWord

TITLE = "\x1b]0;owned\x07"


class Dataflow:
    name = "arm"
    inspection = Inspection("d", None, "iceoryx2", "", "", "", [], [])


def node(name: str, cpu: float, memory: float, **fields: Any) -> NodeSnapshot:
    view = NodeView(name, fields.pop("status", "Running"), pid=7, **fields)
    load = Load(cpu_percent=cpu, memory=int(memory), disk_read=0, disk_written=0)
    return NodeSnapshot("d", "arm", view, load, 50.0, 1500.0, 2, 0, None)


def link(consumer: str, **fields: Any) -> LinkRate:
    values = {
        "hz": 50.0,
        "bytes_per_second": 1500.0,
        "waiting": 2,
        "dropped": 0,
        "dropping_hz": 0.0,
    }
    return LinkRate(LinkView(4, 2, "camera/image", consumer, queue_size=5), **(values | fields))


class Snapshots:
    """Dataflows whose figures the test sets; `fault` is raised by the next measurement."""

    def __init__(self) -> None:
        self.nodes = [node("camera", 1.0, 3e6), node("sink", 3.0, 2e6), node("arm", 2.0, 1e6)]
        self.links = [link("sink/image"), link("arm/x", dropped=1200, dropping_hz=2.0)]
        self.networks: list[NetworkRate] = []
        self.ended = False
        self.fault: Exception | None = None
        self.refreshed = 0

    def watch(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.05))  # Textual waits for the keys of a test until the process is idle

    def refresh(self) -> list[Any]:
        self.refreshed += 1
        if self.fault is not None:
            raise self.fault
        return [] if self.ended else [(Dataflow(), Snapshot("", self.nodes, self.links, self.networks))]


class Commands:
    """Commands that are noted; `fault` is raised by the next one."""

    def __init__(self) -> None:
        self.called: list[tuple[str, ...]] = []
        self.fault: Exception | None = None
        self.log_fault: Exception | None = None
        self.entries: list[LogEntry] = []
        self.messages = ["data=[1]", "data=[2]"]

    def _note(self, *call: str) -> str:
        self.called.append(call)
        if self.fault is not None:
            raise self.fault
        return f"done: {' '.join(call)}"

    def restart_node(self, dataflow_id: str, node_id: str) -> str:
        return self._note("restart", dataflow_id, node_id)

    def stop_node(self, dataflow_id: str, node_id: str) -> str:
        return self._note("stop", dataflow_id, node_id)

    def stop_dataflow(self, dataflow_id: str) -> str:
        return self._note("stop dataflow", dataflow_id)

    def save(self, dataflow_id: str) -> str:
        return self._note("save", dataflow_id)

    def follow(
        self, dataflow_id: str, topic: str, show: Callable[[str], None], is_over: Callable[[], bool]
    ) -> None:
        self._note("follow", dataflow_id, topic)
        for message in self.messages:
            show(f"{topic} {message}")
        wait_until(is_over, "the panel to be closed")
        self.called.append(("closed", topic))

    def log_entries(self, _dataflow_id: str) -> list[LogEntry]:
        if self.log_fault is not None:
            raise self.log_fault
        entries, self.entries = self.entries, []
        return entries

    def failure(self, _dataflow_id: str) -> str:
        return ""


Test = Callable[[Pilot[str], Snapshots], Awaitable[None]]


def on_screen(
    test: Test,
    interval: float = 0.2,
    commands: Commands | None = None,
    size: tuple[int, int] = (120, 30),
) -> TopScreen:
    """Run a test with the screen, once it shows the first figures."""
    snapshots = Snapshots()
    screen = TopScreen(snapshots, commands or Commands(), interval)  # type: ignore[arg-type]

    async def run() -> None:
        async with screen.run_test(size=size) as pilot:
            await shown(pilot, lambda: len(rows(pilot, "#nodes")) == 3)
            await test(pilot, snapshots)

    asyncio.run(asyncio.wait_for(run(), TIMEOUT))
    return screen


async def shown(pilot: Pilot[str], condition: Callable[[], bool]) -> None:
    while not condition():
        await pilot.pause(0.01)


def rows(pilot: Pilot[str], table: str) -> list[list[str]]:
    found: DataTable[Text] = pilot.app.query_one(table, DataTable)
    return [[str(cell) for cell in found.get_row_at(number)] for number in range(found.row_count)]


def names(pilot: Pilot[str]) -> list[str]:
    return [row[0] for row in rows(pilot, "#nodes")]


def title(pilot: Pilot[str]) -> str:
    return str(pilot.app.query_one("#title", Static).content)


@pytest.mark.lengthy
def test_networks_between_machines_are_shown_if_there_are_any() -> None:
    async def test(pilot: Pilot[str], snapshots: Snapshots) -> None:
        assert not pilot.app.query_one("#networks").display
        streams = [StreamRate("camera/image", 1.1e6, 0.94)]
        figures = {"available": 1_250_000, "normal_waiting": 2}
        snapshots.networks = [NetworkRate("robot", "desk", "cut", 1.2e6, 0.02, figures, streams)]
        await shown(pilot, lambda: bool(pilot.app.query_one("#networks").display))
        assert rows(pilot, "#networks") == [
            ["robot -> desk", "cut", "1.2 MB/s", "1.2 MB/s", "-", "2.0 %", "2 normal", "camera/image 94 %"]
        ]

    on_screen(test, size=(160, 40))


@pytest.mark.lengthy
def test_nodes_and_links_have_all_their_figures() -> None:
    async def test(pilot: Pilot[str], _: Snapshots) -> None:
        nodes: DataTable[Text] = pilot.app.query_one("#nodes", DataTable)
        assert " ".join(str(column.label) for column in nodes.ordered_columns) == (
            "NODE STATUS PID CPU MEMORY RESTARTS SENT BANDWIDTH WAITING QUIET"
        )
        assert rows(pilot, "#nodes")[1] == (
            ["camera", "Running", "7", "1.0%", "3.0 MB", "0", "50.0/s", "1.5 kB/s", "2", "-"]
        )
        assert [[cell.strip() for cell in row] for row in rows(pilot, "#links")] == [
            ["camera/image -> sink/image", "50.0/s", "█", "1.5 kB/s", "2/5", "0"],
            ["camera/image -> arm/x", "50.0/s", "█", "1.5 kB/s", "2/5", "1,200 (+2.0/s)"],
        ]
        assert title(pilot) == "dora top: arm   3 nodes, 2 links, sorted by name"

    on_screen(test)


@pytest.mark.lengthy
def test_keys_sort_the_nodes() -> None:
    async def test(pilot: Pilot[str], _: Snapshots) -> None:
        assert names(pilot) == ["arm", "camera", "sink"]
        for key, order, expected in [
            ("c", "CPU", ["sink", "arm", "camera"]),
            ("m", "memory", ["camera", "sink", "arm"]),
            ("n", "name", ["arm", "camera", "sink"]),
        ]:
            await pilot.press(key)
            assert names(pilot) == expected
            assert title(pilot).endswith(f"sorted by {order}")

    on_screen(test)


@pytest.mark.lengthy
def test_keys_move_the_cursor_which_stays_when_figures_change() -> None:
    async def test(pilot: Pilot[str], snapshots: Snapshots) -> None:
        nodes: DataTable[Text] = pilot.app.query_one("#nodes", DataTable)
        await pilot.press("j", "down", "j", "k")
        assert nodes.cursor_row == 1
        snapshots.nodes = [node("camera", 88.0, 3e6), *snapshots.nodes[1:]]
        await shown(pilot, lambda: rows(pilot, "#nodes")[1][3] == "88.0%")
        assert nodes.cursor_row == 1
        await pilot.press("tab", "j")
        assert pilot.app.query_one("#links", DataTable).cursor_row == 1
        snapshots.nodes, snapshots.links = snapshots.nodes[:1], []
        await shown(pilot, lambda: names(pilot) == ["camera"] and not rows(pilot, "#links"))

    on_screen(test)


@pytest.mark.lengthy
def test_r_measures_at_once() -> None:
    async def test(pilot: Pilot[str], snapshots: Snapshots) -> None:
        assert snapshots.refreshed == 1
        await pilot.press("r")
        await shown(pilot, lambda: snapshots.refreshed == 2)

    on_screen(test, interval=3600.0)


@pytest.mark.lengthy
@pytest.mark.parametrize("key", ["q", "escape"])
def test_a_key_quits_however_long_the_interval_is(key: str) -> None:
    async def test(pilot: Pilot[str], _: Snapshots) -> None:
        await pilot.press(key)

    screen = on_screen(test, interval=3600.0)
    assert (screen.return_value, screen.fault) == (None, None)


@pytest.mark.lengthy
def test_an_interrupt_reaches_the_command() -> None:
    async def test(pilot: Pilot[str], _: Snapshots) -> None:
        await pilot.press("ctrl+c")

    assert isinstance(on_screen(test).fault, KeyboardInterrupt)


def line(pilot: Pilot[str]) -> str:
    """Return the line at the bottom that waits for a key; "" if there is none."""
    found = pilot.app.screen.query("#line")
    return str(found.first(Static).content) if found else ""


def message(pilot: Pilot[str]) -> Static:
    return pilot.app.screen_stack[0].query_one("#message", Static)


def log(pilot: Pilot[str]) -> list[str]:
    return [strip.text.rstrip() for strip in pilot.app.query_one("#log", RichLog).lines]


def entry(node: str, text: str, **fields: Any) -> LogEntry:
    return LogEntry(1_700_000_000_000_000_000, fields.pop("level", "info"), node, text, **fields)


@pytest.mark.lengthy
def test_how_the_dataflow_ended_stays_until_a_key() -> None:
    commands = Commands()

    async def test(pilot: Pilot[str], snapshots: Snapshots) -> None:
        commands.entries = [
            entry("arm", "exited with status 1 (first failure)", stream="daemon", fields={"cause": "first"})
        ]
        snapshots.ended = True
        await shown(pilot, lambda: line(pilot) != "")
        assert line(pilot) == "dataflow `arm` failed: node `arm` exited with status 1 (any key leaves)"
        assert pilot.app.return_value is None
        await pilot.press("x")

    assert on_screen(test, commands=commands).return_value == (
        "dataflow `arm` failed: node `arm` exited with status 1"
    )


@pytest.mark.lengthy
def test_a_dataflow_that_ends_well() -> None:
    async def test(pilot: Pilot[str], snapshots: Snapshots) -> None:
        snapshots.ended = True
        await shown(pilot, lambda: line(pilot) != "")
        await pilot.press("q")

    assert on_screen(test).return_value == "dataflow `arm` has ended"


@pytest.mark.lengthy
def test_a_log_that_cannot_be_read_is_a_line_on_the_screen_which_still_says_the_end() -> None:
    commands = Commands()
    commands.log_fault = DoraError("there are no log files")

    async def test(pilot: Pilot[str], snapshots: Snapshots) -> None:
        text = "the log cannot be read: there are no log files"
        await shown(pilot, lambda: str(message(pilot).content) == text)
        snapshots.ended = True
        await shown(pilot, lambda: line(pilot) == "dataflow `arm` has ended (any key leaves)")
        await pilot.press("x")

    on_screen(test, commands=commands)


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("key", "question", "call"),
    [
        ("R", "restart node `camera`?", ("restart", "d", "camera")),
        ("s", "stop node `camera`?", ("stop", "d", "camera")),
        ("S", "stop dataflow `arm` with all its nodes?", ("stop dataflow", "d")),
    ],
)
def test_a_command_is_carried_out_once_it_is_confirmed(
    key: str, question: str, call: tuple[str, ...]
) -> None:
    commands = Commands()

    async def test(pilot: Pilot[str], _: Snapshots) -> None:
        await pilot.press("j", key, "n")
        assert commands.called == [] and line(pilot) == ""
        await pilot.press(key)
        assert line(pilot) == f"{question} y: yes, any other key: no"
        await pilot.press("y")
        await shown(pilot, lambda: str(message(pilot).content) == f"done: {' '.join(call)}")
        assert commands.called == [call]

    on_screen(test, commands=commands)


@pytest.mark.lengthy
def test_a_key_saves_the_last_seconds_of_the_dataflow() -> None:
    commands = Commands()

    async def test(pilot: Pilot[str], _: Snapshots) -> None:
        await pilot.press("b")
        await shown(pilot, lambda: str(message(pilot).content) == "done: save d")
        assert commands.called == [("save", "d")]

    on_screen(test, commands=commands)


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("fault", "text"),
    [(DoraError("the node has ended"), "the node has ended"), (TimeoutError(), "no answer came in time")],
)
def test_a_refused_command_is_a_line_on_the_screen(fault: Exception, text: str) -> None:
    commands = Commands()
    commands.fault = fault

    async def test(pilot: Pilot[str], _: Snapshots) -> None:
        await pilot.press("R", "y")
        await shown(pilot, lambda: str(message(pilot).content) == text)
        assert message(pilot).display

    assert on_screen(test, commands=commands).fault is None


@pytest.mark.lengthy
def test_the_messages_of_an_output_are_shown_until_escape() -> None:
    commands = Commands()

    def text(pilot: Pilot[str]) -> str:
        return str(pilot.app.query_one("#output Static", Static).content)

    async def test(pilot: Pilot[str], snapshots: Snapshots) -> None:
        await pilot.press("o")  # of the arm, which has none
        assert str(message(pilot).content) == "this node has no output"
        outputs = [OutputView("image", 0), OutputView("lines", 1, text=True), OutputView("count", 2)]
        snapshots.nodes[0] = node("camera", 1.0, 3e6, outputs=outputs)
        await pilot.press("r", "j")
        await pilot.press("o")
        await shown(pilot, lambda: text(pilot) == "camera/image data=[2]")
        assert not message(pilot).display
        assert pilot.app.query_one("#output").display and not pilot.app.query_one("#log").display
        await pilot.press("o")
        await shown(pilot, lambda: text(pilot) == "camera/count data=[2]")
        await pilot.press("escape")
        await shown(pilot, lambda: ("closed", "camera/count") in commands.called)
        assert pilot.app.query_one("#log").display and not pilot.app.query_one("#output").display
        await pilot.press("tab", "o")  # of a link
        await shown(pilot, lambda: text(pilot) == "camera/image data=[2]")

    on_screen(test, commands=commands)
    assert ("closed", "camera/image") in commands.called


@pytest.mark.lengthy
def test_an_output_that_cannot_be_observed_is_a_line_on_the_screen() -> None:
    commands = Commands()
    commands.fault = DoraError("it is generated inside each node")

    async def test(pilot: Pilot[str], _: Snapshots) -> None:
        await pilot.press("tab", "o")
        await shown(pilot, lambda: "generated inside" in str(message(pilot).content))
        await shown(pilot, lambda: not pilot.app.query_one("#output").display)

    on_screen(test, commands=commands)


@pytest.mark.lengthy
def test_the_log_is_that_of_all_nodes_or_of_the_selected_one() -> None:
    commands = Commands()
    commands.entries = [entry("camera", f"opened {TITLE}"), entry("sink", "[b]broke[/b]", level="error")]

    async def test(pilot: Pilot[str], _: Snapshots) -> None:
        await shown(pilot, lambda: len(log(pilot)) == 2)
        assert log(pilot)[0].endswith("INFO camera: opened \\u001b]0;owned\\u0007")
        assert log(pilot)[1].endswith("ERROR sink: [b]broke[/b]")
        segment = pilot.app.query_one("#log", RichLog).lines[1]._segments[0]
        assert segment.style is not None and segment.style.color is not None
        assert segment.style.color.name == "red"
        await pilot.press("j", "l")
        await shown(pilot, lambda: len(log(pilot)) == 1)
        commands.entries = [entry("sink", "again"), entry("camera", "closed")]
        await shown(pilot, lambda: len(log(pilot)) == 2)
        assert log(pilot)[1].endswith("camera: closed")
        await pilot.press("l")
        await shown(pilot, lambda: len(log(pilot)) == 4)

    on_screen(test, commands=commands)


@pytest.mark.lengthy
@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
def test_all_parts_are_on_a_screen_of_any_size(size: tuple[int, int]) -> None:
    async def test(pilot: Pilot[str], snapshots: Snapshots) -> None:
        snapshots.nodes = [node(f"node{number}", 1.0, 1.0) for number in range(40)]
        snapshots.links = [link(f"node{number}/x") for number in range(40)]
        await shown(pilot, lambda: len(rows(pilot, "#links")) == 40)
        await pilot.press("question_mark")
        assert "restart the selected node" in line(pilot)
        await pilot.press("x")
        await pilot.pause()
        heights = {name: pilot.app.query_one(name).region.height for name in ("#nodes", "#links", "#log")}
        assert min(heights.values()) >= 4, heights
        assert pilot.app.query_one("#log").region.bottom <= size[1] - 1

    on_screen(test, size=size)


def test_trouble_has_a_colour() -> None:
    _, shown_nodes = node_table([node(status, 1.0, 1.0, status=status) for status in StatusWord])
    red = [str(row[1]) for row in shown_nodes if str(row[1].style) == "bold red"]
    assert red == ["Restarting", "Failed, waits for new code", "Failed"]
    assert [
        str(link_row(item)[4].style) for item in (link("a/x", dropped=3), link("a/x", dropping_hz=2.0))
    ] == (["", "bold yellow"])


def test_a_link_is_stuck_if_messages_wait_and_none_is_taken() -> None:
    history = LinkHistory()
    history.add(link("a/x"), 100.0)
    history.add(link("a/x", hz=0.0), 103.0)
    assert history.stuck_s(104.9) == 0.0
    history.add(link("a/x", hz=0.0), 107.0)
    assert history.stuck_s(107.0) == 7.0
    assert str(link_row(link("a/x", hz=0.0), 7.0)[1]) == "stuck 7 s"
    history.add(link("a/x", hz=0.0, waiting=0), 108.0)
    assert history.stuck_s(108.0) == 0.0


def test_a_link_shows_its_last_minute() -> None:
    assert doctest.testmod(top_tables).failed == 0
    history = LinkHistory()
    for second in range(120):
        latency = (1.0 + second, 2.0) if second >= 100 else None
        history.add(link("a/x", hz=0.0 if second < 90 else 50.0, latency_ms=latency), float(second))
    assert history.rates(12, 119.0) == "      ██████"
    assert history.latencies(12, 119.0) == "        ▇▇██"


def test_latencies_are_columns_where_they_are_measured() -> None:
    history = LinkHistory()
    head, _ = link_table([(link("a/x"), history)], 12)
    assert "99 %" not in head
    head, _ = link_table([(link("a/x", latency_ms=(0.2, 1.0)), history)], 12)
    assert head[-3:] == ("WAITS", "99 %", "LAST MINUTE")


def test_what_qos_counts_is_in_columns_where_there_is_some_and_a_late_input_is_marked() -> None:
    history = LinkHistory()
    head, rows = link_table(
        [(link("a/x", counts={"expired": 3, "missed": 1}, flags=("overdue",)), history)], 12
    )
    assert head[5:] == ("DROPPED", "EXPIRED", "MISSED")
    assert [str(cell) for cell in rows[0]][-2:] == ["3", "1"]
    assert str(rows[0][1]) == "late"


@pytest.mark.lengthy
def test_an_error_of_a_measurement_ends_the_screen() -> None:
    fault = DoraError("the coordinator has gone")

    async def test(pilot: Pilot[str], snapshots: Snapshots) -> None:
        snapshots.fault = fault
        await shown(pilot, lambda: pilot.app.fault is not None)  # type: ignore[attr-defined]

    assert on_screen(test).fault is fault


@pytest.mark.lengthy
def test_names_of_others_are_neither_markup_nor_control_the_terminal() -> None:
    async def test(pilot: Pilot[str], snapshots: Snapshots) -> None:
        snapshots.nodes = [node(f"[red]a[/red]{TITLE}", 1.0, 1.0)]
        await shown(pilot, lambda: names(pilot) == ["[red]a[/red]\\u001b]0;owned\\u0007"])
        Dataflow.name = f"[b]arm[/b]{TITLE}"
        await shown(pilot, lambda: "[b]arm[/b]\\u001b]0;owned\\u0007" in title(pilot))

    try:
        on_screen(test)
    finally:
        Dataflow.name = "arm"


@pytest.mark.lengthy
def test_the_machine_is_a_column_if_there_are_several() -> None:
    async def test(pilot: Pilot[str], snapshots: Snapshots) -> None:
        snapshots.nodes = [node("camera", 1.0, 1.0, machine="robot"), node("sink", 1.0, 1.0)]
        await shown(pilot, lambda: [row[2] for row in rows(pilot, "#nodes")] == ["robot", "-"])

    on_screen(test)


def test_a_silent_link_has_no_rate() -> None:
    row = link_row(link("sink/image", flags=("silent",), latency_ms=(0.25, 12.0), waiting=None))
    assert [str(cell) for cell in row] == (
        ["camera/image -> sink/image", "silent", "1.5 kB/s", "-", "0", "0.2 ms", "12.0 ms"]
    )
