"""The daemon of a machine passes a request on to the socket of a dataflow, whatever is behind it."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import TIMEOUT

from dora.cluster.agent.agent import Agent
from dora.cluster.agent.identity import Identity
from dora.cluster.agent.worker_process import MAX_OBSERVERS, Observers, WorkerProcess
from dora.cluster.protocol import (
    MAX_MESSAGE,
    AckEnd,
    Answered,
    Collected,
    DropRecords,
    Partition,
    RunReport,
    RunSpec,
    RunUsage,
    SignedCertificate,
    StartRun,
    ToCoordinator,
)
from dora.errors import DoraError
from dora.transport.tokens import Token
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


@pytest.mark.usefixtures("runtime_root")
@pytest.mark.parametrize("disk", ["full", "sound"])
def test_a_certificate_that_is_of_no_use_keeps_a_machine_from_links_and_from_nothing_else(
    monkeypatch: pytest.MonkeyPatch, disk: str
) -> None:
    def write(*_: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    agent = Agent(["10.0.0.1"], 6013, Token("t" * 32, "x"), Identity(machine="arm"))
    if disk == "full":
        monkeypatch.setattr("dora.cluster.authority.write_for_user", write)
    asyncio.run(agent._take(SignedCertificate("no certificate", "no authority")))
    fault = "cannot be written: No space left" if disk == "full" else "are not a certificate and its key"
    with pytest.raises(DoraError, match=f"machine `arm`: .* {fault}"):
        agent._listen_for_links()


@pytest.mark.usefixtures("runtime_root")
def test_a_dataflow_that_runs_is_neither_forgotten_nor_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The coordinator may speak of a former part, or have missed that this one runs."""
    released: list[list[str]] = []
    monkeypatch.setattr("dora.cluster.agent.agent.release", lambda ids, _: released.append(ids))

    async def hear() -> None:
        agent = Agent(["10.0.0.1"], 6013, Token("t" * 32, "x"), Identity(machine="arm"))
        run: Any = SimpleNamespace(dataflow_id="d")
        agent._runs["d"] = run
        running = RunReport("d", "Running")
        agent._report(running)
        spec = RunSpec(name="x", dataflow={"nodes": []})
        await agent._take(StartRun("d", spec, Partition(machine="arm", secret="")))
        await agent._take(AckEnd("d"))
        assert agent._reports == {"d": running}, "the next connection begins with it"
        await agent._take(DropRecords(("d", "gone")))
        await asyncio.gather(*agent._tasks)
        assert released == [["gone"]]
        del agent._runs["d"]
        await agent._take(AckEnd("d"))
        assert agent._reports == {}

    asyncio.run(hear())


def test_a_daemon_goes_on_while_it_measures_its_dataflows() -> None:
    went_on = threading.Event()

    def measure(workers: dict[int, str]) -> dict[str, tuple[float, int]]:
        assert went_on.wait(TIMEOUT)
        return {run_id: (50.0, pid) for pid, run_id in workers.items()}

    async def collect() -> ToCoordinator:
        run: Any = SimpleNamespace(dataflow_id="d", run_id="d1", process=SimpleNamespace(pid=7))
        agent: Any = SimpleNamespace(
            _runs={"d": run},
            _meter=SimpleNamespace(measure=measure),
            _outgoing=asyncio.Queue[ToCoordinator](),
        )
        collecting = asyncio.create_task(Agent._send_collected(agent, 1, "usage"))
        asyncio.get_running_loop().call_soon(went_on.set)
        await collecting
        return agent._outgoing.get_nowait()

    assert asyncio.run(collect()) == Collected(1, "usage", usage=[RunUsage("d", 50.0, 7)])


def test_observers_that_are_asked_for_at_once_are_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        stdin = SimpleNamespace(write=lambda _: None, close=lambda: None)

        async def wait(self) -> int:
            return await asyncio.Future()

    async def start(*_: object, **__: object) -> Process:
        await asyncio.sleep(0)
        return Process()

    monkeypatch.setattr("asyncio.create_subprocess_exec", start)

    async def ask() -> list[str]:
        observers = Observers("token", "arm")
        asked = (observers.start("ws://x", str(number), "/socket", "python") for number in range(60))
        faults = await asyncio.gather(*asked)
        await observers.close()
        return [*filter(None, faults)]

    refused = asyncio.run(ask())
    assert len(refused) == 60 - MAX_OBSERVERS
    assert {*refused} == {f"there are {MAX_OBSERVERS} observers of machine `arm` already; end one of them"}
