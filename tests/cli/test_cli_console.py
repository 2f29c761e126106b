"""The console thread: order, filter, slow and broken terminals."""

import io
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from waiting import TIMEOUT

from dora.daemon.logs.console import Console, write_text
from dora.daemon.logs.entry import LogEntry, LogFilter


def entry(message, level="info"):
    return LogEntry(0, level, "cam", message)


def message(item):
    return item.message


class StoppedTerminal(io.StringIO):
    """Takes nothing until it is continued."""

    def __init__(self):
        super().__init__()
        self.writing = threading.Event()
        self.go_on = threading.Event()

    def write(self, text):
        self.writing.set()
        assert self.go_on.wait(TIMEOUT)
        return super().write(text)


def test_entries_are_in_order_and_complete_after_close():
    stream = io.StringIO()
    console = Console(stream, message)
    for number in range(1000):
        console(entry(str(number)))
    console.close()
    assert stream.getvalue().split() == [str(number) for number in range(1000)]
    console(entry("late"))
    assert "late" not in stream.getvalue()


def test_the_filter_selects_the_entries_shown():
    stream = io.StringIO()
    console = Console(stream, message, LogFilter("warn"))
    console(entry("quiet", "info"))
    console(entry("loud", "error"))
    console.close()
    assert stream.getvalue() == "loud\n"


def test_a_stopped_terminal_does_not_block_and_unshown_entries_are_counted():
    stream = StoppedTerminal()
    console = Console(stream, message, max_waiting=2)
    console(entry("first"))
    assert stream.writing.wait(TIMEOUT)
    for number in range(5):
        console(entry(str(number)))
    assert console.not_shown == 3
    stream.go_on.set()
    console.close()
    assert stream.getvalue().split() == ["first", "0", "1"]


def test_a_reader_that_went_away_does_not_matter():
    class Broken(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    told = []
    console = Console(Broken(), message, on_broken=told.append)
    console(entry("a"))
    console(entry("b"))
    console.close()
    assert [type(error) for error in told] == [BrokenPipeError]
    assert console.not_shown == 0


@contextmanager
def pipe():
    """A pipe, which has room for 64 KiB at most: the end to read, and a stream that writes."""
    read_end, write_end = os.pipe()
    try:
        with open(write_end, "w", encoding="utf-8") as stream:
            yield read_end, stream
    finally:
        os.close(read_end)


def lines(count):
    return [f"{number} {'x' * 100}" for number in range(count)]


def read_in(read_end, count):
    """Read so many lines, in a thread."""
    found = bytearray()

    def work():
        while found.count(b"\n") < count:
            found.extend(os.read(read_end, 4096))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def all_lines():
        thread.join(TIMEOUT)
        return found.decode().splitlines()

    return all_lines


def test_a_slow_reader_gets_all_output(monkeypatch):
    found = bytearray()
    with pipe() as (read_end, stream):
        console = Console(stream, message, close_timeout=1.0)
        for line in lines(2000):
            console(entry(line))
        thread, stream = console._thread, console._stream

        def join(_):
            """Let the time be over, in which a page was read and another one came."""
            before, deadline = stream.writes, time.monotonic() + TIMEOUT
            found.extend(os.read(read_end, 4096))
            while thread.is_alive() and stream.writes == before and time.monotonic() < deadline:
                threading.Event().wait(0.001)

        monkeypatch.setattr(thread, "join", join)
        console.close()
        assert console.not_shown == 0
        while found.count(b"\n") < 2000:
            found.extend(os.read(read_end, 4096))
        assert found.decode().splitlines() == lines(2000)


@pytest.mark.lengthy
def test_a_stalled_reader_is_abandoned_and_unwritten_lines_are_counted():
    with pipe() as (read_end, stream):
        console = Console(stream, message, close_timeout=0.2)
        for line in lines(1000):
            console(entry(line))
        console.close()
        console._thread.join(TIMEOUT)
        shown = os.read(read_end, 1 << 20).decode().splitlines()
        assert shown[:-1] == lines(len(shown) - 1)
        assert lines(len(shown))[-1].startswith(shown[-1])
        # All that is not known to be read: entries are written, and counted, in pieces.
        assert 1000 - len(shown) <= console.not_shown <= 1000


@pytest.mark.lengthy
def test_ctrl_c_gives_up_a_reader_at_once(monkeypatch):
    with pipe() as (_, stream):
        console = Console(stream, message, close_timeout=TIMEOUT)
        for line in lines(1000):
            console(entry(line))
        main, waits, join = threading.main_thread().ident, threading.Event(), console._thread.join

        def say_and_join(seconds):
            waits.set()
            join(seconds)

        def interrupt():
            assert waits.wait(TIMEOUT)
            signal.pthread_kill(main, signal.SIGINT)

        monkeypatch.setattr(console._thread, "join", say_and_join)
        helper = threading.Thread(target=interrupt)
        helper.start()
        # Another test may have left its own handler.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            console.close()
        finally:
            signal.signal(signal.SIGINT, before)
        helper.join()
        assert console.not_shown > 0
        # Else it writes to what gets the pipe's number next. A `join` that was interrupted believes that
        # the thread has ended, and another thread may have its number by now.
        deadline = time.monotonic() + TIMEOUT
        while is_working(console) and time.monotonic() < deadline:
            threading.Event().wait(0.01)


def is_working(console):
    """Return whether the thread of a console still runs."""
    frame = sys._current_frames().get(console._thread.ident)
    while frame is not None and frame.f_code is not Console._work.__code__:
        frame = frame.f_back
    return frame is not None


def test_a_non_blocking_pipe_gets_all_output():
    with pipe() as (read_end, stream):
        os.set_blocking(stream.fileno(), False)
        found = read_in(read_end, 3000)
        console = Console(stream, message)
        for line in lines(3000):
            console(entry(line))
        console.close()
        assert found() == lines(3000)


def test_a_reader_that_closes_its_pipe_causes_a_warning():
    with pipe() as (read_end, stream):
        told = []
        console = Console(stream, message, on_broken=told.append)
        for line in lines(1000):
            console(entry(line))
        reader = os.dup2(
            os.open(os.devnull, os.O_RDONLY), read_end
        )  # the pipe's end closes, the number stays
        console.close()
        assert reader == read_end
        assert [type(error) for error in told] == [BrokenPipeError]
        assert console.not_shown == 0


class BrokenPipe(io.StringIO):
    """Is closed at its other end."""

    def __init__(self):
        super().__init__()
        self.written = threading.Event()

    def write(self, _):
        self.written.set()
        raise BrokenPipeError


def test_a_broken_error_stream_ends_no_logs_on_standard_output(monkeypatch):
    monkeypatch.setattr(sys, "stderr", errors := BrokenPipe())
    stream, told = io.StringIO(), []
    console = Console(stream, message, on_broken=told.append)
    console.say("a notice")
    assert errors.written.wait(TIMEOUT)
    console(entry("an entry"))
    console.close()
    assert stream.getvalue() == "an entry\n"
    assert told == []
    assert console.not_shown == 0


def test_notices_are_written_when_nobody_reads_standard_output(monkeypatch):
    monkeypatch.setattr(sys, "stderr", errors := io.StringIO())
    broken = threading.Event()
    console = Console(BrokenPipe(), message, on_broken=lambda _: broken.set())
    console(entry("an entry"))
    assert broken.wait(TIMEOUT)
    console.say("nobody reads this", to_output=True)
    console.say("a notice")
    console.close()
    assert errors.getvalue() == "a notice\n"
    assert console.not_shown == 0


def test_earlier_output_of_the_stream_comes_first():
    with pipe() as (read_end, stream):
        stream.write("before\n")  # into Python's buffer
        console = Console(stream, message)
        console(entry("caf\u00e9 \ud800"))
        console.close()
        assert os.read(read_end, 100).decode() == "before\ncaf\u00e9 \\ud800\n"


def test_close_without_an_entry():
    Console(io.StringIO(), message).close()


def test_characters_that_the_terminal_cannot_encode_are_replaced():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    write_text(stream, "caf\u00e9\n")
    assert raw.getvalue() == b"caf\\xe9\n"
