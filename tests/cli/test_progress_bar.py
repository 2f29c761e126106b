"""The progress bar of commands that read a recording."""

from __future__ import annotations

import io
import os
import pty
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import wait_until

from dora.cli import progress_bar
from dora.cli.progress_bar import reading
from dora.daemon.logs.terminal import Terminal
from dora.recording.mcap.reader import Recording


class Half(Recording):
    """Stands in for a recording of 1,000 bytes and 100 s, of which 50 s have been read."""

    def __init__(self) -> None:
        self.size, self.first_ns, self.last_ns = 1000, 10, 110
        self.reached_ns = 0


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


def test_a_bar_shows_how_much_is_read_and_goes_away(
    screen: tuple[int, Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    recording, text = Half(), ""
    monkeypatch.setattr(sys, "stderr", screen[1])

    def half_is_shown() -> bool:
        nonlocal text
        text = shown(screen[0], text)
        return "500/1,000 bytes" in text or "0.5/1.0 kB" in text

    with reading("writing", recording):
        recording.reached_ns = 60
        wait_until(half_is_shown, lambda: repr(text))
    assert "writing" in text and "\\u001b" not in text, "escape sequences reach the terminal"
    assert "\x1b[2K" in shown(screen[0]), "the bar is erased"


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("DORA_PROGRESS", "off")])
def test_there_is_no_bar_where_it_is_not_wanted(
    screen: tuple[int, Terminal], monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setattr(sys, "stderr", screen[1])
    monkeypatch.setenv(variable, value)
    with reading("writing", Half()):
        pass
    assert shown(screen[0]) == ""


def test_a_pipe_gets_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(progress_bar, "DELAY", 0.0)
    with (tmp_path / "errors").open("w") as errors:
        monkeypatch.setattr(sys, "stderr", errors)
        with reading("writing", Half()):
            pass
    assert (tmp_path / "errors").read_text() == ""
