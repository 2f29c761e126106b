"""Tables: the same figures for people on a terminal and for scripts."""

from __future__ import annotations

import io
import re
import sys

import pytest

from dora.cli.tables import print_table
from dora.daemon.logs.terminal import Terminal

HEAD = ["NODE", "STATUS"]
TITLE = "\x1b]0;owned\x07"


class _Screen(io.BytesIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, rows: list[list[str]], width: int = 80) -> str:
    data = _Screen()
    monkeypatch.setattr(sys, "stdout", stream := Terminal(data, "utf-8"))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(HEAD, rows)
    stream.flush()
    return data.getvalue().decode()


@pytest.fixture(autouse=True)
def _colours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def test_a_pipe_gets_plain_text_that_is_never_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 5_000
    print_table(HEAD, [[long, "running"], ["日本", ""]])
    head, first, second = capsys.readouterr().out.splitlines()
    assert head == "NODE".ljust(5_000) + "  STATUS"
    assert first == f"{long}  running"
    assert second == "日本"


def test_no_forced_colours_reach_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_table(HEAD, [["camera", "running"]])
    assert capsys.readouterr().out == "NODE    STATUS\ncamera  running\n"


def test_a_terminal_gets_emphasis_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["camera", "running"]]
    assert "\x1b[1m" in on_a_terminal(monkeypatch, rows)
    monkeypatch.setenv("NO_COLOR", "1")
    assert on_a_terminal(monkeypatch, rows) == "NODE    STATUS\ncamera  running\n"


def test_a_narrow_terminal_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    shown = on_a_terminal(monkeypatch, [["c" * 30 + "!", "running"]], width=20)
    assert all(len(line) <= 20 for line in shown.splitlines())
    assert shown.count("c") == 30 and "!" in shown


@pytest.mark.parametrize("name", ["[bold red]x[/]", "[link=file:///etc]x[/link]", ":boom:", "[/]"])
def test_a_name_is_no_markup(capsys: pytest.CaptureFixture[str], name: str) -> None:
    print_table(HEAD, [[name, "running"]])
    assert capsys.readouterr().out.splitlines()[1] == f"{name:<4}  running"


def test_a_name_cannot_control_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = on_a_terminal(monkeypatch, [[f"a{TITLE}", "\x9b31m"]])
    assert "a\\u001b]0;owned\\u0007  \\u009b31m" in shown
    assert not re.search("\x1b[^\\[]|\x07|\x9b", shown)
