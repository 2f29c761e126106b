"""The progress bar of long work, and the lines in its place."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
from collections.abc import Iterator

import pytest
from waiting import wait_until

from dora.cli import progress_bar
from dora.cli.progress_bar import Meter, Mode, progress_mode, reading, showing
from dora.daemon.logs.terminal import Terminal
from dora.daemon.work import Work
from dora.recording.mcap.recording import RecordedMessage, Recording


class Half(Recording):
    """Stands in for a recording of 1,000 bytes and 100 s, of which 50 s have been read."""

    def __init__(self) -> None:
        self.size, self.first_ns, self.last_ns = 1000, 10, 110
        self.reached_ns = 0

    def messages(self, *_: object) -> Iterator[RecordedMessage]:
        yield from ()

    def close(self) -> None:
        pass


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Terminal]]:
    """A terminal: the side to read from, and the stream that writes to it."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("DORA_PROGRESS", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(progress_bar, "DELAY", 0.0)
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    stream = Terminal(io.BufferedWriter(io.FileIO(theirs, "w")), encoding="utf-8", line_buffering=True)
    yield ours, stream
    stream.close()
    os.close(ours)


def shown(screen: int, before: str = "") -> str:
    try:
        return before + os.read(screen, 1 << 16).decode()
    except BlockingIOError:
        return before


@pytest.mark.lengthy
def test_a_bar_shows_how_much_is_read_and_goes_away(
    screen: tuple[int, Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    recording, text = Half(), ""
    monkeypatch.setattr(sys, "stderr", screen[1])

    def half_is_shown() -> bool:
        nonlocal text
        text = shown(screen[0], text)
        return "━━━━━───── 50 % of 1.0 kB" in text

    with reading("status line", "writing", recording):
        recording.reached_ns = 60
        wait_until(half_is_shown, lambda: repr(text))
    assert "writing" in text and "\\u001b" not in text, "escape sequences reach the terminal"
    assert "\x1b[2K" in shown(screen[0]), "the bar is erased"


def test_a_bar_is_for_a_terminal_with_colours_on_which_it_is_wanted(
    screen: tuple[int, Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", screen[1])
    monkeypatch.setattr(sys, "stderr", screen[1])
    assert [progress_mode(value) for value in ("auto", "plain", "off")] == ["status line", "lines", "off"]
    monkeypatch.setenv("NO_COLOR", "1")
    assert progress_mode("auto") == "lines"
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert progress_mode("auto") == "long waits"


@pytest.mark.lengthy
@pytest.mark.parametrize("mode", ["lines", "long waits"])
def test_without_a_bar_there_is_a_line_now_and_then(
    mode: Mode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_bar, "FIRST_WAIT", 0.1)
    recording, text = Half(), ""

    def is_said() -> bool:
        nonlocal text
        text += capsys.readouterr().err
        return "50 %" in text

    with reading(mode, "writing", recording):
        recording.reached_ns = 60
        wait_until(is_said, lambda: repr(text))
    assert re.match(r"writing \(\d\.\d s\), 50 % of 1\.0 kB", text)
    assert "\x1b" not in text


def test_a_quick_work_and_one_without_progress_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for mode in ("status line", "lines", "long waits", "off"):
        with reading(mode, "writing", Half()):
            pass
    assert capsys.readouterr() == ("", "")


@pytest.mark.lengthy
def test_lines_of_the_work_stand_above_the_bar(
    screen: tuple[int, Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", screen[1])
    monkeypatch.setattr(sys, "stderr", screen[1])
    work, text = Work(), ""
    work.become(30, 0)

    def bar_is_shown() -> bool:
        nonlocal text
        text = shown(screen[0], text)
        return "30 B" in text

    def line_is_shown() -> bool:  # a terminal passes text on when the kernel finds the time
        nonlocal text
        text = shown(screen[0], text)
        return "\r\x1b[2Karm: copied\r\n" in text

    with showing("status line", "copying", work) as say:
        wait_until(bar_is_shown, lambda: repr(text))
        say("arm: copied")
    wait_until(line_is_shown, lambda: repr(text))


def test_the_rate_is_that_of_the_last_seconds_and_begins_anew_with_each_phase() -> None:
    meter, work = Meter(), Work("object")
    work.become(0, 1000, "object")
    assert meter.rate(0.0, work) == 0.0
    work.become(100, 1000, "object")
    assert meter.rate(1.0, work) == 100.0
    work.become(2000, 3000, "object")
    assert meter.rate(20.0, work) == 0.0, "nothing is known of the last seconds"
    work.become(2100, 3000, "object")
    assert meter.rate(20.5, work) == 200.0
    work.become(5, 10, "delta")
    assert meter.rate(21.0, work) == 0.0
