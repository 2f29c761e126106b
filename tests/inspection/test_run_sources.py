"""What observers make of the board of a dataflow and of its processes; no daemon runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import psutil
import pytest

from dora.errors import ConnectError, DoraError
from dora.observe import load, metrics, rates, snapshot
from dora.observe.load import Load, LoadMeter
from dora.observe.metrics import collect_all_metrics
from dora.observe.preview.protocol import page_query
from dora.observe.preview.snapshot_observer import SnapshotObserver
from dora.observe.queries import SnapshotQuery
from dora.observe.snapshot import RunSource, Snapshot, SnapshotSources
from dora.transport.board import CONNECTED, RECEIVED, SENT, STATE, Board
from dora.wire.counters import EXPIRED
from dora.wire.daemon_protocol import (
    Description,
    Inspection,
    LinkView,
    NetworkView,
    NodeView,
    OutputView,
    StreamView,
)

SECOND = 10**9


class Clock:
    """What `time` has, on a clock of the test's."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.slept = 0.0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / SECOND

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


class Run:
    """The connection to a daemon, which knows the board only."""

    def __init__(self, board: str) -> None:
        self.description = Description("id", None, ["a", "b"], "arm")
        self.inspection = Inspection(
            "id",
            None,
            "shm",
            "/run",
            "p_",
            board,
            [
                NodeView(
                    "a", "Running", pid=1, outputs=[OutputView("x", 2), OutputView("log", 3, text=True)]
                ),
                NodeView("b", "Running"),
            ],
            [LinkView(4, 2, "a/x", "b/i", queue_size=10)],
        )
        self.closed = 0
        self.ended = False

    def ask(self, _: object) -> None:
        raise DoraError("there is no room for one more tap")

    def close(self) -> None:
        self.closed += 1

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def inspect(run: Run) -> Inspection:
    if run.ended:
        raise ConnectError("the dataflow has ended")
    return msgspec.structs.replace(run.inspection)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (rates, snapshot, load):
        monkeypatch.setattr(module, "time", clock)
    for module in (snapshot, metrics):
        monkeypatch.setattr(module, "inspect", inspect)
    return clock


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    board = Board.create(str(tmp_path / "board"), 8)
    board.set(4, STATE, CONNECTED)
    yield board
    board.close()


@pytest.fixture
def run(board: Board) -> Any:
    return Run(board.path)


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> list[Board]:
    """The boards that are mapped now."""
    boards: list[Board] = []
    opening, closing = Board.open, Board.close

    def opened(path: str) -> Board:
        boards.append(opening(path))
        return boards[-1]

    def close(board: Board) -> None:
        closing(board)
        if board in boards:
            boards.remove(board)

    monkeypatch.setattr(Board, "open", opened)
    monkeypatch.setattr(Board, "close", close)
    return boards


def test_rates_and_silence_begin_with_the_last_snapshot(clock: Clock, board: Board, run: Any) -> None:
    source = RunSource(run)

    def refresh() -> Snapshot:
        clock.now_ns += SECOND
        return source.refresh({})

    assert [node.quiet_s for node in refresh().nodes] == [None, None]
    board.set(2, SENT, 50)
    board.set(4, EXPIRED.word, 1)  # nothing else comes of a message that was too old
    first = refresh()
    assert [(node.sent_hz, node.quiet_s) for node in first.nodes] == [(50.0, 0.0), (0.0, 0.0)]
    second = refresh()
    assert [(node.sent_hz, node.quiet_s) for node in second.nodes] == [(0.0, 1.0), (0.0, 1.0)]
    board.set(4, RECEIVED, 40)
    clock.now_ns += SECOND
    source.detect_activity()
    third = refresh()
    assert [node.quiet_s for node in third.nodes] == [3.0, 1.0]
    assert third.links[0].hz == 19.5  # 39 in two seconds: one was too old
    source.close()


def test_a_change_of_the_dataflow_leaves_the_rates_of_what_stays(
    clock: Clock, board: Board, run: Any
) -> None:
    source = RunSource(run)
    run.inspection.networks = [NetworkView(6, "desk", [StreamView(7, "a/x")])]
    before = source.shape_changes
    board.set(2, SENT, 50)
    source.ask()
    clock.now_ns += SECOND
    found = source.refresh({})
    assert [network.target for network in found.networks] == ["desk"]
    assert (found.nodes[0].sent_hz, source.shape_changes) == (50.0, before + 1)
    source.close()


def test_what_was_observed_is_closed(mapped: list[Board], run: Any) -> None:
    source = RunSource(run)
    assert len(mapped) == 1
    source.close()
    assert (mapped, run.closed) == ([], 1)
    with pytest.raises(DoraError, match="no room"):
        RunSource(run, latency=True)
    assert (mapped, run.closed) == ([], 2)


def test_a_dataflow_that_has_ended_is_closed_and_left_out(
    clock: Clock, mapped: list[Board], run: Any, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "pids", list)
    other: Any = Run(board.path)
    ended: Any = Run(board.path)
    ended.ended = True
    with SnapshotSources([run, ended, other], RunSource) as sources:
        assert len(sources.dataflows) == 2
        sources.watch(0.5)
        assert clock.slept == 0.5, "once for all of them"
        run.ended = True
        assert len(sources.refresh()) == 1
        assert (run.closed, other.closed, len(mapped)) == (1, 0, 1)
    assert (other.closed, ended.closed, mapped) == (1, 1, [])


def test_metrics_leave_out_lines_of_text_and_dataflows_that_are_just_ending(
    mapped: list[Board], board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "pids", list)
    runs = [Run(board.path) for _ in range(3)]
    runs[0].inspection.board += ".gone"
    runs[1].description.dataflow_id = "other"
    monkeypatch.setattr(metrics, "running", lambda _: runs)
    board.set(2, SENT, 50)
    (found,) = collect_all_metrics(["id"])
    assert [(each.node, each.output, each.figures["messages"]) for each in found.outputs] == [
        ("a", "x", 50)
    ]
    assert [(link.source, link.figures["waiting"]) for link in found.links] == [("a/x", 10)]
    assert (mapped, [each.closed for each in runs]) == ([], [1, 1, 1])


# ------------------------------------------------------------------ processes


class Machine:
    """Processes: number → (leader of the group, processor seconds of user and system, bytes written)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.processes: dict[int, tuple[int, float, float, int]] = {}
        monkeypatch.setattr(psutil, "pids", lambda: list(self.processes))
        monkeypatch.setattr(psutil, "Process", self._process)
        monkeypatch.setattr(os, "getpgid", self._group)

    def _group(self, pid: int) -> int:
        return self.processes[pid][0]

    def _process(self, pid: int) -> Any:
        if pid not in self.processes:
            raise psutil.NoSuchProcess(pid)
        _, user, system, written = self.processes[pid]
        return SimpleNamespace(
            cpu_times=lambda: SimpleNamespace(user=user, system=system),
            memory_info=lambda: SimpleNamespace(rss=1000),
            io_counters=lambda: SimpleNamespace(read_bytes=0, write_bytes=written),
        )


def test_the_load_of_a_node_is_that_of_its_process_group(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, meter = Machine(monkeypatch), LoadMeter()
    machine.processes = {1: (1, 5.0, 1.0, 0), 2: (1, 0.0, 2.0, 100), 3: (3, 9.0, 9.0, 9)}
    assert meter.measure([1, 4]) == {1: Load(memory=2000, cpu_seconds=8.0)}
    clock.now_ns += 2 * SECOND
    machine.processes |= {1: (1, 5.5, 1.5, 0), 2: (1, 0.0, 2.0, 700)}
    assert meter.measure([1]) == {1: Load(50.0, 2000, 0.0, 300.0, 9.0)}


def test_a_process_with_the_number_of_an_ended_one_begins_at_zero(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, meter = Machine(monkeypatch), LoadMeter()

    def measure(processes: dict[int, tuple[int, float, float, int]]) -> Load | None:
        machine.processes = processes
        clock.now_ns += SECOND
        return meter.measure([1]).get(1)

    measure({1: (1, 5.0, 0.0, 50)})
    assert measure({}) is None
    assert measure({1: (1, 6.0, 0.0, 90)}) == Load(memory=1000, cpu_seconds=6.0)
    found = measure({1: (1, 1.0, 0.0, 10)})
    assert found is not None and (found.cpu_percent, found.disk_written) == (0.0, 0.0)


def test_the_first_snapshot_has_the_load_since_the_beginning(
    clock: Clock, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    machine.processes = {1: (1, 5.0, 1.0, 0)}
    with SnapshotSources([run], RunSource) as sources:
        machine.processes = {1: (1, 5.5, 1.0, 0)}
        clock.now_ns += SECOND
        ((_, found),) = sources.refresh()
    assert [node.load and node.load.cpu_percent for node in found.nodes] == [50.0, None]


def test_a_preview_goes_on_when_topics_are_tapped_again_and_lets_go_before_that(run: Any) -> None:
    observer = SnapshotObserver(run, lambda: page_query(("a/x",)), enough=lambda: False)

    def tap() -> None:
        taps = [SimpleNamespace(topic=topic) for topic in observer._source.topics_here()]
        observer._source._taps = SimpleNamespace(taps=taps, close=lambda: None)  # type: ignore[assignment]
        observer._choose_previews()

    tap()
    preview = observer._previews["a/x"]
    assert list(observer._previews) == ["a/x"]
    message: Any = SimpleNamespace(owner=object())
    observer._take("a/x", message)
    observer._take("a/log", message)  # is tapped for its latency only
    assert preview._last is message
    observer._source.tap(lambda _: False, latency=False)
    assert preview._last is None, "the memory of the sender goes with the tap"
    tap()
    assert observer._previews["a/x"] is preview


def test_snapshots_end_with_the_dataflow(run: Any) -> None:
    turns = iter(range(9))
    query = SnapshotQuery(every=0.0)
    observer = SnapshotObserver(run, lambda: query, enough=lambda: next(turns, None) is None)
    run.ended = True
    assert list(observer.results()) == []
    assert observer.ended and run.closed
