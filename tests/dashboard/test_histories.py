"""The server of a page that looks back: who may ask, and what happens when the reader fails."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded_files import write_recording
from starlette.requests import Request
from starlette.types import Message
from tokens import bearer

from dora.cluster.dashboard.histories import ANSWER_TIMEOUT, MOST, Histories, HistoryProcess, PastFiles
from dora.cluster.dashboard.local import listen
from dora.cluster.dashboard.pages import Dashboard, Subject
from dora.cluster.http.auth import keys_for
from dora.cluster.http_api import DataflowView
from dora.cluster.refusal import Refusal
from dora.recording.history.worker import ANSWER

pytestmark = pytest.mark.processes

ABOUT = b'{"type":"about"}'


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_recording(
        tmp_path / "lab.mcap", [("a/n", number / 10, np.array([number])) for number in range(9)]
    )


def test_a_reader_that_was_killed_is_started_again(recording: Path) -> None:
    async def check() -> None:
        process = HistoryProcess([str(recording)])
        try:
            assert json.loads(await process.ask(ABOUT))[0]["name"] == "lab"
            assert process._process is not None
            os.kill(process._process.pid, signal.SIGKILL)
            process._process.wait()
            assert json.loads(await process.ask(ABOUT))[0]["outputs"][0]["messages"] == 9
        finally:
            await process.close()

    asyncio.run(check())


def test_a_reader_that_dies_while_it_answers_is_told(recording: Path) -> None:
    async def check() -> None:
        silent = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.buffer.read(4)"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        process = HistoryProcess([str(recording)], silent)
        try:
            with pytest.raises(Refusal, match="reading the recording failed"):
                await process.ask(ABOUT)
            assert json.loads(await process.ask(ABOUT))[0]["name"] == "lab"
        finally:
            await process.close()
        assert silent.returncode is not None

    asyncio.run(check())


def test_a_reader_gets_the_next_request_after_it_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2)

    def exchange(process: subprocess.Popen[bytes], request: bytes) -> bytes:  # noqa: ARG001
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.2)  # for a second request, which would take the answer of the first one
            raise ValueError("two requests at a time")
        return ANSWER + request

    async def check() -> None:
        waits = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process = HistoryProcess([], waits)
        try:
            answers = await asyncio.gather(*map(process.ask, (b"1", b"2")))
            assert answers == [b"1", b"2"]
        finally:
            await process.close()

    monkeypatch.setattr("dora.cluster.dashboard.histories._exchange", exchange)
    asyncio.run(check())


def test_a_comparison_holds_no_other_request_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[HistoryProcess, float | None]] = []

    async def ask(self: HistoryProcess, request: bytes, timeout: float | None = ANSWER_TIMEOUT) -> bytes:
        asked.append((self, timeout))
        return request

    async def post(histories: Histories, body: bytes) -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        scope = {"type": "http", "path_params": {"history": "lab"}}
        assert (await histories._answer(Request(scope, receive))).body == body

    async def check() -> None:
        histories = Histories()
        histories.open([], "lab")
        await post(histories, b'{"type":"differences"}')
        await post(histories, ABOUT)

    monkeypatch.setattr(HistoryProcess, "ask", ask)
    asyncio.run(check())
    (comparing, no_limit), (reading, limit) = asked
    assert comparing is not reading
    assert (no_limit, limit) == (None, ANSWER_TIMEOUT)


def test_a_request_that_is_too_long_is_refused_before_all_of_it_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dora.cluster.dashboard.histories.MAX_REQUEST", 9)
    parts: list[Message] = [{"type": "http.request", "body": b"12345", "more_body": True}] * 9

    async def receive() -> Message:
        return parts.pop()

    async def check() -> None:
        histories = Histories()
        histories.open([], "lab")
        scope = {"type": "http", "path_params": {"history": "lab"}}
        with pytest.raises(Refusal, match="too long"):
            await histories._answer(Request(scope, receive))

    asyncio.run(check())
    assert len(parts) == 7


def test_an_answer_that_does_not_come_is_given_up(recording: Path) -> None:
    async def check() -> None:
        silent = subprocess.Popen(["cat", "/dev/zero"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        waits = subprocess.Popen(["sleep", "1000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            with pytest.raises(Refusal, match="reading the recording failed"):  # an answer of no bytes
                await HistoryProcess([str(recording)], silent).ask(ABOUT)
            with pytest.raises(Refusal, match="was not read within"):
                await HistoryProcess([str(recording)], waits).ask(ABOUT, 0.01)
            assert waits.returncode == -signal.SIGKILL
            assert waits.stdin is not None and waits.stdout is not None
            assert waits.stdin.closed and waits.stdout.closed, "nothing is left of it"
        finally:
            for one in (silent, waits):
                one.kill()
                one.wait()

    asyncio.run(check())


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (b"hello", "is not understood"),
        (b'{"type":"moment","recording":7,"at":0}', "no such recording"),
        (b'{"type":"curve","recording":0,"topic":"b/m","after":0,"until":9}', "has no output `b/m`"),
    ],
)
def test_a_wrong_request_is_refused_with_a_sentence(
    request_: bytes, sentence: str, recording: Path
) -> None:
    async def check() -> None:
        process = HistoryProcess([str(recording)])
        try:
            with pytest.raises(Refusal, match=sentence):
                await process.ask(request_)
            assert await process.ask(ABOUT)
        finally:
            await process.close()

    asyncio.run(check())


def test_the_oldest_of_many_is_closed(tmp_path: Path) -> None:
    async def check() -> None:
        closed: list[int] = []
        histories = Histories()
        for number in range(MOST + 2):
            histories.open([str(tmp_path)], on_close=lambda number=number: closed.append(number))
            await histories.close_oldest()
        assert closed == [0, 1]
        await histories.close()
        assert closed == list(range(MOST + 2))

    asyncio.run(check())


def test_a_page_that_looks_back_often_leaves_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count()

    def write(_: PastFiles, socket: str) -> str:  # noqa: ARG001
        path = tmp_path / f"{next(numbers)}.mcap"
        path.touch()
        return str(path)

    monkeypatch.setattr(PastFiles, "write", write)

    async def check() -> None:
        view = DataflowView(uuid="id", name="lab", status="Running", nodes=[])
        dashboard = Dashboard(lambda _: Subject(view), keys_for("secret"))
        for _ in range(MOST + 2):
            await dashboard._look_back(Request({"type": "http", "path_params": {"dataflow": "id"}}))
        assert sorted(int(path.stem) for path in tmp_path.iterdir()) == list(range(2, MOST + 2))
        await dashboard.close()
        assert list(tmp_path.iterdir()) == []

    asyncio.run(check())


def test_only_who_has_the_address_may_ask(recording: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dora", "view", "--no-open", str(recording)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        address = process.stderr.readline().split()[-1]
        base, _, ticket = address.partition("open?ticket=")

        def ask(headers: dict[str, str], history: str = "view") -> Any:
            request = urllib.request.Request(f"{base}history/{history}", ABOUT, headers)
            return json.load(urllib.request.urlopen(request))

        assert ask(bearer(ticket))[0]["name"] == "lab"
        for headers, history, status in (
            ({}, "view", 401),
            (bearer("x"), "view", 401),
            (bearer(ticket), "x", 404),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(headers, history)
            assert refused.value.code == status
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 0


def test_an_answer_of_a_page_waits_for_no_acknowledgement() -> None:
    delays: list[int] = []

    async def check() -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # noqa: ARG001
            connection = writer.get_extra_info("socket")
            delays.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = listen()
        async with await asyncio.start_server(accept, sock=listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()
            await writer.wait_closed()

    asyncio.run(check())
    assert delays == [1], "Nagle's algorithm is off, as in the server"
