"""What reaches the process of a command: signals, and the lines of another machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from waiting import TIMEOUT

from dora.cli.process import interrupts_held, termination_as_interrupt
from dora.cli.session import LONGEST_ORDER, _InputLines

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
