"""Who reaches the port without a token cannot fill the disk: bad requests are counted, logs are bounded."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from system import System
from waiting import wait_until

from dora.daemon.logs import process_log
from dora.daemon.logs.process_log import BAD_REQUESTS, LIMIT, LimitedLines, ProcessLog, limit_lines
from dora.transport.tokens import find_token

HOST = b"Host: 127.0.0.1\r\n"
CHUNKED = HOST + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
BAD = {
    "a chunk for a page that reads none": b"POST /api/proof HTTP/1.1\r\n" + CHUNKED + b"zzz\r\n",
    "a chunk for a page that reads it": b"POST /login HTTP/1.1\r\n" + CHUNKED + b"zzz\r\n",
    "a chunk for a page that is refused": b"POST /api/dataflows HTTP/1.1\r\n" + CHUNKED + b"zzz\r\n",
    "a long header": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
    "a long address": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "two lengths": b"POST /login HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n",
    "a WebSocket without a key": (
        b"GET /api/daemon HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\n"
        b"Upgrade: websocket\r\n\r\n\xff\xff"
    ),
    "a WebSocket for a page": (
        b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\xff\xff\xff"
    ),
}


def send(port: int, *pieces: bytes) -> bytes:
    """Send each piece once the answer to the one before has begun; return what came last."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for piece in pieces:
            connection.sendall(piece)
            try:
                answer = connection.recv(65536)
            except ConnectionResetError:
                break
    return answer


@pytest.mark.processes
def test_bad_requests_are_one_counted_line_a_second(system: System) -> None:
    system.dora("up")
    log = system.folder / "out" / "dora-coordinator.txt"
    before = log.stat().st_size
    for _ in range(20):
        for data in BAD.values():
            send(system.port, data)
        # The page has been refused before its body goes on, and no more can be answered.
        send(system.port, b"POST /api/dataflows HTTP/1.1\r\n" + CHUNKED, b"zzz\r\n")
    assert len(system.client.status().daemons) == 1

    def lines() -> list[str]:
        return log.read_text().splitlines()[3:]

    wait_until(lambda: "more such lines within a second" in log.read_text(), "the bad requests are counted")
    assert "127.0.0.1 sent what is no HTTP" in log.read_text()
    assert "Traceback" not in log.read_text()
    seconds = [line[:19] for line in lines() if BAD_REQUESTS in line]
    assert len(seconds) <= len(set(seconds)) + 1  # the first one and a count may be in the same second
    assert log.stat().st_size - before < 100 * (len(set(seconds)) + 1)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("name", ["coordinator", "daemon"])
def test_a_full_log_of_a_background_process_begins_again(name: str, system: System) -> None:
    system.dora("up")
    out = system.folder / "out"
    log = out / f"dora-{name}.txt"
    for number in range(6):
        with open(log, "ab") as file:  # as its children do
            file.write(f"{number}\n".encode() + b"x" * LIMIT)
        wait_until(lambda: log.stat().st_size < LIMIT, "a new file begins")
    kept = sorted(path.name for path in out.glob(f"dora-{name}.*txt"))
    assert kept == [f"dora-{name}.{number}.txt" for number in range(1, 5)] + [f"dora-{name}.txt"]
    assert b"5\nxxx" in (out / f"dora-{name}.1.txt").read_bytes()
    assert (out / f"dora-{name}.4.txt").read_bytes().startswith(b"2\nxxx")
    system.dora("down")
    assert log.stat().st_size < LIMIT  # and it is still the one that is written
    assert log.read_text().strip()


WRITER = """
import os, subprocess, sys
from dora.daemon.logs.process_log import ProcessLog
log = ProcessLog("log.txt", limit=1000, kept=2)
child = [sys.executable, "-S", "-c", "import os; os.write(2, b'c' * 600)"]
for number in range(4):
    print("parent", number, flush=True)
    subprocess.run(child, check=True)
    subprocess.run(child, check=True)
    log.check()
if sys.argv[1:]:
    os.unlink("log.txt")
    os.rmdir(os.getcwd())
    subprocess.run([*child], check=True, cwd="/")
    subprocess.run([*child], check=True, cwd="/")
    log.check()
    assert os.fstat(2).st_size == 0
"""


@pytest.mark.processes
def test_a_log_file_has_what_the_process_and_its_children_print(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", WRITER], cwd=tmp_path, check=True)
    assert sorted(os.listdir(tmp_path)) == ["log.1.txt", "log.2.txt", "log.txt"]
    assert (tmp_path / "log.txt").read_text() == ""
    assert (tmp_path / "log.1.txt").read_text() == "parent 3\n" + "c" * 1200
    assert (tmp_path / "log.2.txt").read_text() == "parent 2\n" + "c" * 1200


@pytest.mark.processes
def test_a_log_file_stays_bounded_when_no_copy_can_be_made(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    script = WRITER.replace("log = ", "import shutil; log = ").replace('os.unlink("log.txt")', "pass")
    script = script.replace("os.rmdir(os.getcwd())", "shutil.rmtree(os.getcwd())")
    subprocess.run([sys.executable, "-c", script, "gone"], cwd=folder, check=True)


def test_all_handlers_write_the_lines_that_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[int, str]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append((handlers.index(self), record.getMessage()))

    handlers: list[logging.Handler] = [Handler(), Handler()]
    monkeypatch.setattr(logging.getLogger(), "handlers", handlers)
    monkeypatch.setattr("dora.daemon.logs.process_log._call_in_thread", lambda _, report: report())
    limit_lines()
    logging.getLogger(BAD_REQUESTS).warning("bad")
    logging.getLogger(BAD_REQUESTS).warning("bad again")
    count = "1 more such line within a second"
    assert written == [(0, "bad"), (1, "bad"), (0, count), (1, count)]


def test_lines_that_others_cause_are_counted() -> None:
    now = [100.0]
    later: list[tuple[float, Callable[[], None]]] = []

    def call_later(seconds: float, function: Callable[[], None]) -> None:
        later.append((now[0] + seconds, function))

    limit = LimitedLines(lambda: now[0], call_later)
    written: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(record.getMessage())

    handler = Handler()
    handler.addFilter(limit)
    loggers = [logging.getLogger(name) for name in (BAD_REQUESTS, "uvicorn.error", "dora.coordinator")]
    for logger in loggers[1:]:  # the first is below the last
        logger.addHandler(handler)
    try:
        for _ in range(1000):
            loggers[0].warning("bad")
        loggers[1].error("other")
        loggers[2].warning("of dora")
        loggers[2].warning("of dora")
        assert written == ["bad", "other", "of dora", "of dora"]
        ((due, report),) = later
        assert due == 101.0
        now[0] = 101.0
        report()
        assert written[4:] == ["999 more such lines within a second"]
        loggers[0].warning("bad")
        assert len(later) == 2 and written[5:] == []
        now[0] = 102.0
        later[1][1]()
        assert written[5:] == ["1 more such line within a second"]
        now[0] = 104.0
        loggers[0].warning("bad")
        assert written[6:] == ["bad"]
    finally:
        for logger in loggers[1:]:
            logger.removeHandler(handler)


@pytest.mark.processes
def test_a_request_with_a_nul_is_refused_and_ends_no_daemon(system: System) -> None:
    import http.client

    system.dora("up")
    token = find_token(also_here=False)
    assert token is not None
    node = {"id": "a", "path": "a.py"}
    spec = {"name": "x", "interpreter": "\0", "dataflow": {"nodes": [node], "working_dir": "/"}}
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=30)
    headers = {"Authorization": f"Bearer {token.value}", "Content-Type": "application/json"}
    connection.request("POST", "/api/dataflows", json.dumps({"spec": spec}), headers)
    answer = connection.getresponse()
    assert answer.status == 400 and b"the request holds a NUL character" in answer.read()
    connection.close()
    assert len(system.client.status().daemons) == 1


def test_a_full_log_file_that_cannot_be_copied_is_emptied_and_leaves_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(process_log, "rotate", fail)
    monkeypatch.setattr(os, "dup2", lambda *_: None)  # the output of the tests stays where it is
    log = ProcessLog(str(tmp_path / "log.txt"), limit=10)
    (tmp_path / "log.txt").write_bytes(bytes(11))
    open_before = os.listdir("/dev/fd")
    log.check()
    assert os.listdir("/dev/fd") == open_before
    assert os.listdir(tmp_path) == ["log.txt"]
    assert (tmp_path / "log.txt").read_bytes() == b""
    os.close(log._file)
