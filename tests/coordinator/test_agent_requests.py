"""The daemon of a machine passes a request on to the socket of a dataflow, whatever is behind it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dora.cluster.agent.agent import Agent
from dora.cluster.agent.worker_process import WorkerProcess
from dora.cluster.protocol import (
    MAX_MESSAGE,
    Answered,
    RunReport,
    ToCoordinator,
)
from dora.wire.daemon_protocol import Answer, DataflowEnded, Inspect, Parameters, Rejected
from dora.wire.framing import encode_frame


@pytest.fixture
def place() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="dora-test-", dir="/tmp") as folder:  # pytest's is too long
        yield f"{folder}/socket"


def answer_of(place: str, *sent: bytes) -> Answer:
    """Ask a dataflow that writes this, in these pieces, and closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(encode_frame(Inspect())))
        for data in sent:
            writer.write(data)
            await writer.drain()
        writer.close()

    async def ask() -> Answer:
        server = await asyncio.start_unix_server(serve, place)
        async with server:
            dataflow: Any = SimpleNamespace(socket=place)
            return await WorkerProcess.ask(dataflow, Inspect())

    return asyncio.run(ask())


def test_an_answer_is_read_in_pieces_and_behind_a_notice_of_the_end(place: str) -> None:
    answer = Parameters({"gain": [1.0] * 100_000})
    data = encode_frame(DataflowEnded(["a"])) + encode_frame(answer)
    assert answer_of(place, data[:3], data[3:70_000], data[70_000:]) == answer


def test_a_dataflow_that_ends_before_its_answer_is_reported(place: str) -> None:
    assert answer_of(place) == Rejected("the dataflow has just ended")
    assert answer_of(place, encode_frame(Parameters({}))[:5]) == Rejected("the dataflow has just ended")


@pytest.mark.parametrize("data", [b"\xff" * 64, encode_frame({"type": "Unheard"})], ids=["noise", "newer"])
def test_an_answer_of_another_version_is_reported(place: str, data: bytes) -> None:
    assert answer_of(place, data) == Rejected("the dataflow is of another version of dora than its daemon")


def test_a_dataflow_that_hangs_is_not_waited_for(place: str) -> None:
    async def ask() -> Answer:
        ended = asyncio.Event()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await ended.wait()
            writer.close()

        async with await asyncio.start_unix_server(serve, place):
            dataflow: Any = SimpleNamespace(socket=place)
            answer = await WorkerProcess.ask(dataflow, Inspect(), 0.01)
            ended.set()
        return answer

    assert asyncio.run(ask()) == Rejected("the dataflow has not answered within 0.01 s")


def test_an_answer_that_the_coordinator_would_not_take_is_refused(place: str) -> None:
    async def answers(*_: object) -> Answer:
        return Parameters({"map": "x" * MAX_MESSAGE})

    async def ask() -> ToCoordinator:
        run: Any = SimpleNamespace(dataflow_id="d", socket=place, ask=answers)
        agent: Any = SimpleNamespace(
            _reports={"d": RunReport("d", "Running")}, _outgoing=asyncio.Queue[ToCoordinator]()
        )
        await Agent._ask(agent, run, 7, Inspect())
        return agent._outgoing.get_nowait()

    answered = asyncio.run(ask())
    assert isinstance(answered, Answered) and isinstance(answered.answer, Rejected)
    assert "and at most 16,777,216 go over the coordinator" in answered.answer.reason


def test_a_dataflow_without_a_socket_has_ended(place: str) -> None:
    dataflow: Any = SimpleNamespace(socket=place)
    found = asyncio.run(WorkerProcess.ask(dataflow, Inspect()))
    assert found == Rejected("the dataflow has just ended")
