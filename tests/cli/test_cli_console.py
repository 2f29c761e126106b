"""The console thread: order, filter, slow and broken terminals."""

import io
import threading

from dora.cli.console import Console, write_text
from dora.logs.entry import LogEntry
from dora.logs.filters import LogFilter

BOUND = 60  # seconds


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
        assert self.go_on.wait(BOUND)
        return super().write(text)


def test_entries_come_in_order_and_all_are_there_after_close():
    stream = io.StringIO()
    console = Console(stream, message)
    for number in range(1000):
        console(entry(str(number)))
    console.close()
    assert stream.getvalue().split() == [str(number) for number in range(1000)]
    console(entry("late"))
    assert "late" not in stream.getvalue()


def test_the_filter_decides_what_is_shown():
    stream = io.StringIO()
    console = Console(stream, message, LogFilter("warn"))
    console(entry("quiet", "info"))
    console(entry("loud", "error"))
    console.close()
    assert stream.getvalue() == "loud\n"


def test_a_stopped_terminal_holds_nobody_up_and_the_rest_is_counted():
    stream = StoppedTerminal()
    console = Console(stream, message, max_waiting=2)
    console(entry("first"))
    assert stream.writing.wait(BOUND)
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
    console = Console(Broken(), message, on_broken=lambda: told.append(1))
    console(entry("a"))
    console(entry("b"))
    console.close()
    assert told == [1]


def test_close_without_an_entry():
    Console(io.StringIO(), message).close()


def test_characters_the_terminal_does_not_know_are_replaced():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    write_text(stream, "caf\u00e9\n")
    assert raw.getvalue() == b"caf\\xe9\n"
