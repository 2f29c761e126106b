"""Progress of a run, as commands show it on a terminal and elsewhere."""

from __future__ import annotations

import http.server
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from on_terminal import on_terminal, plain
from waiting import TIMEOUT, wait_until

from dora.cli.progress_bar import drawn
from dora.cli.run_reporter import RunReporter
from dora.daemon.logs.entry import LogEntry
from dora.daemon.progress import LoadingPackages
from dora.daemon.supervisor.result import NodeFailure
from dora.wire.daemon_protocol import RunProgress, WaitingNode

pytestmark = pytest.mark.processes

LAMP = """
import os, time
from dora import Node
while not os.path.exists("go"): time.sleep(0.01)
with Node() as node:
    for event in node:
        if event["type"] == "INPUT":
            node.send_output("light", b"on")
"""
EYE = "from dora import Node\nfor event in Node(): print('seen', flush=True)\n"
FLOW = """
nodes:
- {id: lamp, path: lamp.py, inputs: {tick: dora/timer/millis/20}, outputs: [light]}
- {id: eye, path: eye.py, inputs: {light: lamp/light}}
"""
BROKEN = "from dora import Node\nnode = Node()\nraise ValueError('no film')\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for variable in ("NO_COLOR", "DORA_PROGRESS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, text in {"dataflow.yml": FLOW, "lamp.py": LAMP, "eye.py": EYE}.items():
        Path(name).write_text(text)
    return tmp_path


def test_a_terminal_has_a_status_line_below_the_log() -> None:
    with on_terminal("run") as command:
        command.read_until(lambda text: re.search(r"waiting for lamp \(\d+ s", plain(text)))
        assert "\r\x1b[2K\x1b[1mstarting 2 nodes\x1b[0m" in command.text
        Path("go").touch()
        command.read_until(
            lambda text: re.search(r"2 of 2 nodes · [1-9]\d* messages/s · none dropped", plain(text))
        )
        shown = plain(command.text)
        assert re.search(r"\x1b\[2K2 nodes are running after \d+(\.\d)? s\r\n", shown)
        assert re.search(r"\x1b\[2K\d\d:\d\d:\d\d stdout eye: +seen\r\n", shown), "above the status line"
        command.process.send_signal(signal.SIGINT)
        assert command.end() == 0
    last = command.text.rpartition("\x1b[2K")[2]
    assert re.search(
        r"^\r\n(?:.*\r\n)*ended after \d+(\.\d)? s: \d+ messages? received, (none|\d+) lost\r\n$", last
    )


def on_screen(text: str) -> list[str]:
    """Return the lines that a terminal of endless height shows after this output."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[\d*[AK]|\r|\n|[^\x1b\r\n]+", plain(text)):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif part == "\x1b[A":
            row -= 1
        elif part == "\x1b[2K":
            lines[row] = ""
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return lines


def test_the_address_of_the_page_stays_below_all_that_nodes_print() -> None:
    Path("go").touch()
    with on_terminal("run", "--ui") as command:
        command.read_until(lambda text: text.count("seen") > 50)
        command.read_until(lambda text: re.search(r"dropped.*\r\nhttp://\S+ticket=\w{32}$", plain(text)))
        first, *_, above, address = on_screen(command.text)
        assert first == f"The dashboard is at {address}" and len(address) < 80
        assert re.match(r"2 of 2 nodes · \d+ messages/s · (none|\d+) dropped · ", above)
        command.process.send_signal(signal.SIGINT)
        assert command.end() == 0
    shown = on_screen(command.text)
    assert sum("http://" in line for line in shown) == 2, "first, and when the nodes run"
    assert sum("messages/s" in line for line in shown) == 0


def test_the_status_line_can_be_turned_off_and_needs_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("go").touch()
    for arguments, no_color in ((["--progress", "off"], ""), (["--progress", "plain"], ""), ([], "1")):
        monkeypatch.setenv("NO_COLOR", no_color)
        with on_terminal("run", *arguments) as command:
            command.read_until(lambda text: "seen" in text)
            command.process.send_signal(signal.SIGINT)
            assert command.end() == 0
        assert "\x1b[2K" not in command.text
        assert ("2 nodes are running" in command.text) == ("off" not in arguments)
        if no_color:
            assert "\x1b" not in command.text


def test_a_build_is_seen_while_it_runs() -> None:
    node = "{id: made, path: made.py, build: python make.py}"
    Path("dataflow.yml").write_text(f"nodes: [{node}]\n")
    Path("make.py").write_text("import os\nwhile not os.path.exists('go'): pass\nopen('made.py', 'w')\n")
    with on_terminal("run") as command:
        shown = r"building · made: running `python make\.py` \(\d s\)"
        command.read_until(lambda text: re.search(shown, plain(text)))
        Path("go").touch()
        command.read_until(lambda text: "ended after" in text)
        assert command.end() == 0


@pytest.fixture
def half_a_file() -> Iterator[str]:
    """The address of a program of 128 KiB; its second half is sent when a file `go` is there."""
    half = 1 << 16

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(2 * half))
            self.end_headers()
            self.wfile.write(b"#" * half)
            wait_until(lambda: Path("go").exists(), "go")
            self.wfile.write(b"\n" * half)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/far.py"
    server.shutdown()
    server.server_close()


@pytest.fixture
def two_steps(half_a_file: str) -> None:
    far = f"{{id: far, path: {half_a_file}}}"
    Path("dataflow.yml").write_text(f"nodes:\n- {far}\n- {{id: made, path: made.py, build: python m.py}}\n")
    Path("m.py").write_text("open('made.py', 'w')\n")


@pytest.mark.usefixtures("two_steps")
@pytest.mark.parametrize("command", ["build", "run"])
def test_a_build_shows_the_step_and_how_much_of_a_file_is_there(command: str) -> None:
    with on_terminal(command) as running:
        there = r"building · step 1 of 2 · ━━━━━───── 50 % of 131\.1 kB · .*far: downloading http"
        running.read_until(lambda text: re.search(there, plain(text)))
        Path("go").touch()
        assert running.end() in (0, 1)  # the program that was downloaded is no node
    assert "running `python m.py`" in running.text


@pytest.mark.usefixtures("two_steps")
def test_a_build_that_takes_long_says_so_elsewhere() -> None:
    words = (
        "from dora.cli import run_reporter as r; from dora.cli.main import main; r.FIRST_WAIT = 0.5; main()"
    )
    command = [sys.executable, "-c", words, "build"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        said = next(line for line in lines if "50 %" in line)
        Path("go").touch()
        output, _ = process.communicate(timeout=TIMEOUT)
    assert re.match(r"building far: downloading http://\S+ \(\d\.\d s\), 50 % of 131\.1 kB", said)
    assert "built in" in output and "\x1b" not in said + output


@pytest.mark.slow
def test_a_replay_shows_how_far_it_is_and_the_time_left() -> None:
    Path("dataflow.yml").write_text(
        "nodes:\n- {id: lamp, path: lamp.py, outputs: [light]}\n"
        "- {id: eye, path: eye.py, inputs: {x: lamp/light}}\n"
    )
    Path("lamp.py").write_text(
        "import time\nfrom dora import Node\nnode = Node()\n"
        "for _ in range(60):\n    node.send_output('light', b'on')\n    time.sleep(0.01)\n"
    )
    record = [sys.executable, "-m", "dora", "record", "-o", "a.mcap"]
    subprocess.run(record, capture_output=True, timeout=TIMEOUT, check=True)
    with on_terminal("replay", "a.mcap", "--speed", "0.1") as command:
        there = r"2 of 2 nodes · ━*─+ [1-9]\d? % of 60 messages · \d+/s · \d s left"
        command.read_until(lambda text: re.search(there, plain(text)))
        command.process.send_signal(signal.SIGINT)
        assert command.end() == 0


def test_a_failure_is_on_the_terminal_once() -> None:
    Path("dataflow.yml").write_text("nodes: [{id: only, path: broken.py}]\n")
    Path("broken.py").write_text(BROKEN)
    with on_terminal("run") as command:
        command.read_until(lambda text: "ended after" in text)
        assert command.end() == 1
    shown = plain(command.text)
    assert shown.count("Traceback") == 1
    assert "exited with status 1 (broken.py:3) (first failure)" in shown
    assert "\nNode `only` exited with status 1: ValueError: no film (broken.py:3)\r\n" in shown


def test_lines_elsewhere_are_exactly_these() -> None:
    Path("go").touch()
    command = [sys.executable, "-m", "dora", "run", "--progress", "plain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        log = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=TIMEOUT)
    assert "\x1b" not in log + rest + errors
    lines = [line for line in errors.splitlines() if not line.startswith("waiting for ")]  # a busy machine
    assert (process.returncode, lines[0]) == (0, "starting 2 nodes")
    assert re.fullmatch(r"2 nodes are running after \d+(\.\d)? s", lines[1])
    assert re.fullmatch(r"ended after \d+(\.\d)? s: \d+ messages? received, (none|\d+) lost", lines[-1])
    assert all(" eye: " in line for line in (log + rest).splitlines())


def progress(**changes: object) -> RunProgress:
    return msgspec.structs.replace(RunProgress(2, False, False, (), 0, (), (), 0, 0, 0), **changes)


class Lines(list[str]):
    """Stands in for a console."""

    adapt = None

    def say(self, text: str) -> None:
        self.append(text)

    def refresh(self) -> None:
        pass


def test_a_long_start_names_the_nodes_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    reporter, lines = RunReporter("long waits", one_screen=False), Lines()
    reporter.attach(lines)  # type: ignore[arg-type]
    for now in (101.0, 104.0, 105.0, 106.0, 111.0, 125.0):  # noqa: B007 - the clock reads it
        reporter.advance(progress(waiting=(WaitingNode("slow", "torch"),)))
    reporter.advance(progress(started=True))
    assert lines == [
        "waiting for slow (5.0 s, importing torch)",
        "waiting for slow (11 s, importing torch)",
        "waiting for slow (25 s, importing torch)",
        "2 nodes are running after 25 s",
    ]


def test_an_error_that_was_printed_is_not_repeated() -> None:
    reporter = RunReporter("status line", one_screen=True)
    trace = LogEntry(0, "error", "a", "Traceback:\n  x\nKeyError: 'x'", "stderr")
    note = LogEntry(0, "error", "a", "exited with status 1: KeyError: 'x' (a.py:3)", "daemon")
    failure = NodeFailure("a", "exit", exit_code=1, last_lines=("KeyError: 'x'",))
    assert reporter.adapt(note) is note
    assert not reporter.was_shown(failure)
    assert reporter.adapt(trace) is trace
    assert reporter.adapt(note).message == "exited with status 1 (a.py:3)"
    assert reporter.was_shown(failure)
    assert not RunReporter("lines", one_screen=False).was_shown(failure)


def test_the_status_line_fits_into_the_terminal() -> None:
    line = drawn([("3 nodes", ""), ("日本語" * 20, "")], 20)
    assert line == "3 nodes · 日本語日…"
    assert drawn([("3 nodes", ""), ("none dropped", "dim"), ("7 s", "")], 20) == "3 nodes · 7 s"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_package_that_is_being_imported_is_found() -> None:
    script = "import sys; sys.stdin.read(1); import numpy; print(flush=True); sys.stdin.read(1)"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        loading = LoadingPackages()
        assert loading.package(process.pid) == ""
        process.stdin.write("x")
        process.stdin.flush()
        process.stdout.readline()
        assert loading.package(process.pid) == "numpy"
        process.stdin.close()
    assert loading.package(None) == ""
