"""What others write cannot control a terminal; pipes and files get it as it is."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from waiting import TIMEOUT

from dora.daemon.logs.console import NonBlockingStream, write_text
from dora.daemon.logs.terminal import Terminal, control, visible

TITLE, CLIPBOARD, RED, RESET = "\x1b]0;owned\x07", "\x1b]52;c;b3duZWQ=\x07", "\x1b[31m", "\x1b[0m"


class FakeTerminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "text",
    [
        *(TITLE, CLIPBOARD, "\x1b[2J\x1b[H", "\x1b[8;1H", "\x1bc", "\x07", "a\rb", "a\bb", "\x7f", "\x00"),
        *("\x9b31m", "\x9d0;owned\x9c", "\u202egnp.exe", "\u2066x\u2069", "\x1b[31", "\x1b[?25l"),
    ],
)
@pytest.mark.parametrize("colours", [True, False])
def test_nothing_that_controls_a_terminal_is_left(text: str, colours: bool) -> None:
    shown = visible(f"a {text} b\n", colours=colours)
    assert shown.removesuffix("\n").isprintable()
    assert json.loads(f'"{shown[:-1]}"') == f"a {text} b"  # what was JSON stays so


@pytest.mark.parametrize("text", ["", "plain\ttext\n", "ä € 日本語 😀\n", "עברית"])
def test_plain_text_stays_the_same_object(text: str) -> None:
    assert visible(text) is text
    assert visible(text, colours=True) is text


def test_colours_are_kept_only_if_asked_for() -> None:
    text = f"{RED}red{RESET} \x1b[1;38;5;3mbold\x1b[m {TITLE}"
    assert visible(text, colours=True) == f"{RED}red{RESET} \x1b[1;38;5;3mbold\x1b[m \\u001b]0;owned\\u0007"
    assert "\x1b" not in visible(text)


def test_a_stream_that_is_no_terminal_gets_the_text_unchanged() -> None:
    stream = io.TextIOWrapper(data := io.BytesIO(), "utf-8")
    write_text(stream, TITLE)
    assert data.getvalue().decode() == TITLE


def test_control_characters_of_nodes_do_not_reach_the_terminal() -> None:
    data = io.BytesIO()
    stream = Terminal(data, "utf-8")
    assert stream.write(TITLE) == len(TITLE)
    control(stream, "\x1b[2A")
    stream.flush()
    assert data.getvalue() == b"\\u001b]0;owned\\u0007\x1b[2A"


def test_log_lines_on_a_terminal_keep_their_colours() -> None:
    stream = FakeTerminal(data := io.BytesIO(), "utf-8")
    NonBlockingStream(stream).write(f"{RED}a{RESET}{TITLE}\n", lambda: True)
    write_text(stream, f"{RED}b{RESET}{CLIPBOARD}\n")
    assert data.getvalue().decode() == (
        f"{RED}a{RESET}\\u001b]0;owned\\u0007\n{RED}b{RESET}\\u001b]52;c;b3duZWQ=\\u0007\n"
    )


def on_a_terminal(*arguments: str, cwd: Path) -> str:
    """Run `dora` on a terminal; return all that it wrote there."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm"}
    env.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "dora", *arguments],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    data = b""
    deadline = time.monotonic() + TIMEOUT
    try:
        while time.monotonic() < deadline:
            if select.select([ours], (), (), 0.1)[0]:
                try:
                    data += os.read(ours, 1 << 16)
                except OSError:  # nobody has it open any more
                    break
        process.wait(TIMEOUT)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return data.decode().replace("\r\n", "\n")


@pytest.mark.processes
def test_the_log_of_a_node_cannot_set_the_title_or_the_clipboard(tmp_path: Path) -> None:
    """Escape sequences of its output do not reach the terminal, except colours."""
    program = f"""
        import sys
        print({TITLE!r} + "one " + {RED!r} + "red" + {RESET!r}, flush=True)
        print({CLIPBOARD!r} + "two \\x9b2J", file=sys.stderr, flush=True)
        from dora import Node
        Node()
    """
    (tmp_path / "a.py").write_text(textwrap.dedent(program))
    (tmp_path / "flow.yml").write_text("nodes: [{id: a, path: a.py}]\n")
    shown = on_a_terminal("run", "flow.yml", "--progress", "plain", cwd=tmp_path)
    assert f"\\u001b]0;owned\\u0007one {RED}red{RESET}" in shown
    assert "\\u001b]52;c;b3duZWQ=\\u0007two \\u009b2J" in shown
    assert not any(character in shown for character in "\x07\x9b\r")
    assert "\x1b]" not in shown
    (log,) = tmp_path.glob("out/*/log_a.jsonl")
    assert "owned" in log.read_text() and "\\u001b]0;" in log.read_text()  # the file keeps it


@pytest.mark.processes
def test_an_error_on_a_terminal_has_no_control_characters(tmp_path: Path) -> None:
    shown = on_a_terminal("validate", f"{TITLE}{RED}flow.yml", cwd=tmp_path)
    assert "error: " in shown
    assert "\\u001b]0;owned\\u0007\\u001b[31mflow.yml" in shown
    assert "\x1b" not in shown and "\x07" not in shown
