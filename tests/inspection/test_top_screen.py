"""The screen of `dora top`, without a terminal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import DataTable, Static
from waiting import TIMEOUT

from dora.cli.top_screen import TopScreen, link_row
from dora.errors import DoraError
from dora.observe.load import Load
from dora.observe.rates import LinkRate
from dora.observe.snapshot import NodeSnapshot
from dora.wire.daemon_protocol import LinkView, NodeView

TITLE = "\x1b]0;owned\x07"


class Dataflow:
    name = "arm"


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
        "silent": False,
    }
    return LinkRate(LinkView(4, 2, "camera/image", consumer, queue_size=5), **(values | fields))


class Snapshots:
    """Dataflows whose figures the test sets; `fault` is raised by the next measurement."""

    def __init__(self) -> None:
        self.nodes = [node("camera", 1.0, 3e6), node("sink", 3.0, 2e6), node("arm", 2.0, 1e6)]
        self.links = [link("sink/image"), link("arm/x", dropped=1200, dropping_hz=2.0)]
        self.ended = False
        self.fault: Exception | None = None
        self.refreshed = 0

    def watch(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.05))  # Textual waits for the keys of a test until the process is idle

    def refresh(self) -> list[Any]:
        self.refreshed += 1
        if self.fault is not None:
            raise self.fault
        return [] if self.ended else [(Dataflow(), self.nodes, self.links)]


def on_screen(test: Callable[[Pilot[str], Snapshots], Awaitable[None]], interval: float = 0.2) -> TopScreen:
    """Run a test with the screen, once it shows the first figures."""
    snapshots = Snapshots()
    screen = TopScreen(snapshots, interval)  # type: ignore[arg-type]

    async def run() -> None:
        async with screen.run_test(size=(120, 30)) as pilot:
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


def test_nodes_and_links_have_all_their_figures() -> None:
    async def test(pilot: Pilot[str], _: Snapshots) -> None:
        nodes: DataTable[Text] = pilot.app.query_one("#nodes", DataTable)
        assert " ".join(str(column.label) for column in nodes.ordered_columns) == (
            "NODE STATUS PID CPU MEMORY RESTARTS SENT BANDWIDTH WAITING QUIET"
        )
        assert rows(pilot, "#nodes")[1] == (
            ["camera", "Running", "7", "1.0%", "3.0 MB", "0", "50.0/s", "1.5 kB/s", "2", "-"]
        )
        assert rows(pilot, "#links") == [
            ["camera/image -> sink/image", "50.0/s", "1.5 kB/s", "2/5", "0", "-", "-"],
            ["camera/image -> arm/x", "50.0/s", "1.5 kB/s", "2/5", "1,200 (+2.0/s)", "-", "-"],
        ]
        assert title(pilot) == "dora top: arm   3 nodes, 2 links, sorted by name"

    on_screen(test)


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


def test_r_measures_at_once() -> None:
    async def test(pilot: Pilot[str], snapshots: Snapshots) -> None:
        assert snapshots.refreshed == 1
        await pilot.press("r")
        await shown(pilot, lambda: snapshots.refreshed == 2)

    on_screen(test, interval=3600.0)


@pytest.mark.parametrize("key", ["q", "escape"])
def test_a_key_quits_however_long_the_interval_is(key: str) -> None:
    async def test(pilot: Pilot[str], _: Snapshots) -> None:
        await pilot.press(key)

    screen = on_screen(test, interval=3600.0)
    assert (screen.return_value, screen.fault) == (None, None)


def test_an_interrupt_reaches_the_command() -> None:
    async def test(pilot: Pilot[str], _: Snapshots) -> None:
        await pilot.press("ctrl+c")

    assert isinstance(on_screen(test).fault, KeyboardInterrupt)


def test_the_screen_ends_with_the_dataflows() -> None:
    async def test(pilot: Pilot[str], snapshots: Snapshots) -> None:
        snapshots.ended = True
        await shown(pilot, lambda: pilot.app.return_value is not None)

    assert on_screen(test).return_value == "ended"


def test_an_error_of_a_measurement_ends_the_screen() -> None:
    fault = DoraError("the coordinator has gone")

    async def test(pilot: Pilot[str], snapshots: Snapshots) -> None:
        snapshots.fault = fault
        await shown(pilot, lambda: pilot.app.fault is not None)  # type: ignore[attr-defined]

    assert on_screen(test).fault is fault


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


def test_the_machine_is_a_column_if_there_are_several() -> None:
    async def test(pilot: Pilot[str], snapshots: Snapshots) -> None:
        snapshots.nodes = [node("camera", 1.0, 1.0, machine="robot"), node("sink", 1.0, 1.0)]
        await shown(pilot, lambda: [row[2] for row in rows(pilot, "#nodes")] == ["robot", "-"])

    on_screen(test)


def test_a_silent_link_has_no_rate() -> None:
    row = link_row(link("sink/image", silent=True, latency_ms=(0.25, 12.0), waiting=None))
    assert [str(cell) for cell in row] == (
        ["camera/image -> sink/image", "silent", "1.5 kB/s", "-", "0", "0.2 ms", "12.0 ms"]
    )
