"""What reaches the process of a command: signals, and the lines of another machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from waiting import TIMEOUT

from dora.cli import attach, session
from dora.cli.process import interrupts_held, termination_as_interrupt
from dora.cli.session import LONGEST_ORDER, _follow_user, _InputLines, _pass_on_until_started
from dora.cluster.http_api import DataflowView
from dora.daemon.logs.reader import LogReader

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@contextmanager
def handled(number: signal.Signals, handler: Callable[..., object] | signal.Handlers) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_was_held_comes_at_the_end_of_the_block(number: signal.Signals) -> None:
    got: list[int] = []
    with handled(number, lambda number, _: got.append(number)):
        with interrupts_held():
            signal.raise_signal(number)
            assert not got
        assert got == [number]
        signal.raise_signal(number)
        assert got == [number] * 2, "the handler is the one from before"


@pytest.mark.parametrize("block", [interrupts_held, termination_as_interrupt])
def test_a_signal_that_is_ignored_stays_ignored_also_in_processes_that_are_started(
    block: Callable[[], AbstractContextManager[None]],
) -> None:
    with handled(signal.SIGTERM, signal.SIG_IGN), block():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, "a handler would not be inherited"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_command_is_an_interrupt_in_the_block_alone(number: signal.Signals) -> None:
    got: list[int] = []
    with handled(number, lambda number, _: got.append(number)):
        with pytest.raises(KeyboardInterrupt), termination_as_interrupt(signal.SIGHUP):
            signal.raise_signal(number)
        signal.raise_signal(number)
    assert got == [number]


@contextmanager
def standard_input(descriptor: int) -> Iterator[None]:
    before = os.dup(0)
    os.dup2(descriptor, 0)
    os.close(descriptor)
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)


def test_lines_that_come_together_or_in_parts_are_read_one_by_one() -> None:
    read, write = os.pipe()
    with standard_input(read):
        source = _InputLines()
        os.write(write, b"order\ninterrupt\nali")
        assert [source.read_line(TIMEOUT), source.read_line(TIMEOUT)] == [b"order\n", b"interrupt\n"]
        assert source.read_line(0.0) == b"", "the rest comes later"
        os.write(write, b"ve\n")
        assert source.read_line(TIMEOUT) == b"alive\n"
        os.close(write)
        assert source.read_line(TIMEOUT) == b""


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    (tmp_path / "endless").write_bytes(bytes(4 * LONGEST_ORDER))
    with standard_input(os.open(tmp_path / "endless", os.O_RDONLY)):
        assert _InputLines().read_line() == b""
        assert os.lseek(0, 0, os.SEEK_CUR) < 2 * LONGEST_ORDER


def test_the_end_of_the_user_stops_the_dataflow_then_kills_its_nodes_and_at_last_ends_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[object] = []
    monkeypatch.setattr(session, "_show_nothing_more", lambda: done.append("nothing is shown"))
    monkeypatch.setattr(os, "kill", lambda _, number: done.append(number))
    monkeypatch.setattr(os, "_exit", done.append)
    monkeypatch.setattr(session, "time", SimpleNamespace(sleep=done.append))
    read, write = os.pipe()
    with standard_input(read):
        os.write(write, b"alive\ninterrupt\nsize 80 24\nalive\n")
        os.close(write)
        _follow_user(_InputLines(), 7.0)
    expected = [signal.SIGINT, "nothing is shown", signal.SIGTERM, 7.0, signal.SIGTERM, 30.0, 1]
    assert done == expected


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("printed", [b"warning: it is late\n", b""])
def test_the_start_of_a_run_is_reported_with_all_that_it_has_printed_before(
    capfd: pytest.CaptureFixture[str], printed: bytes, order: int
) -> None:
    (output, prints), (started, reports) = (os.pipe(), os.pipe())[::order]
    os.write(prints, printed)
    os.close(prints)
    os.write(reports, b"id")
    assert _pass_on_until_started(output, started) == "id"
    assert capfd.readouterr().out == printed.decode()
    for descriptor in (output, started, reports):
        os.close(descriptor)


def test_a_run_that_ends_before_its_start_has_no_id(capfd: pytest.CaptureFixture[str]) -> None:
    (output, prints), (started, reports) = os.pipe(), os.pipe()
    os.close(reports)
    os.write(prints, b"error: there is no such node\n")
    os.close(prints)
    assert _pass_on_until_started(output, started) == ""
    assert capfd.readouterr().out == "error: there is no such node\n"
    os.close(output)
    os.close(started)


class Coordinator:
    """Stands in for a client: its dataflow ends some looks after a stop."""

    def __init__(self, folder: Path) -> None:
        self.view = DataflowView(
            uuid="0199", name="lab", status="Running", nodes=[], log_directory=str(folder)
        )
        self.stops: list[tuple[float | None, bool]] = []
        self.looks = 0  # after the stop

    def dataflow(self, _: str) -> DataflowView:
        self.looks += bool(self.stops)
        return msgspec.structs.replace(self.view, status="Finished") if self.looks > 5 else self.view

    def stop(self, _: str, grace: float | None, force: bool) -> None:
        self.stops.append((grace, force))


def shown(coordinator: Any, monkeypatch: pytest.MonkeyPatch, watching: attach.Watching) -> tuple[str, bool]:
    """Show a dataflow without pauses; return its last state, and whether the user has detached."""
    monkeypatch.setattr(attach, "LOG_INTERVAL", 0.0)
    monkeypatch.setattr(attach, "STATUS_INTERVAL", 0.0)
    reporter: Any = SimpleNamespace(mode="off", say=print)
    console = attach._console(coordinator.view)
    logs = LogReader(coordinator.view.log_directory)
    view, detached = attach._show(coordinator, coordinator.view, reporter, console, watching, logs)
    console.close()
    return view.status, detached


@pytest.mark.parametrize(("kills", "stops"), [(False, [(7.0, False)]), (True, [(7.0, False), (7.0, True)])])
def test_the_last_ctrl_c_leaves_a_dataflow_that_the_ones_before_were_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: bool, stops: list[tuple[float, bool]]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    coordinator = Coordinator(tmp_path)
    watching = attach.Watching(grace=7.0, kills=kills, check=interrupt)
    assert shown(coordinator, monkeypatch, watching) == ("Running", True)
    assert coordinator.stops == stops


def test_a_dataflow_whose_time_is_over_is_stopped_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = Coordinator(tmp_path)
    watching = attach.Watching(stop_after=0.0)
    assert shown(coordinator, monkeypatch, watching) == ("Finished", False)
    assert coordinator.stops == [(None, False)]
