"""Receiving with asyncio: other tasks run meanwhile, and nobody is left waiting."""

from __future__ import annotations

import asyncio
import threading

import pytest
from fake_daemon import FakeDaemon, StartFlow
from flows import node
from waiting import TIMEOUT

from dora import Event, Node


@pytest.fixture
def daemon(start_flow: StartFlow) -> FakeDaemon:
    return start_flow(node("camera", outputs="image"), node("plot", inputs={"image": "camera/image"}))


@pytest.fixture
def camera(daemon: FakeDaemon) -> Node:
    return daemon.node("camera")


@pytest.fixture
def plot(daemon: FakeDaemon, camera: Node) -> Node:  # noqa: ARG001 - both exist before anything is sent
    return daemon.node("plot")


def data(event: Event | None) -> bytes:
    assert event is not None
    return bytes(event["data"])


def test_an_event_that_is_there(camera: Node, plot: Node) -> None:
    camera.send_output("image", b"x")
    assert data(asyncio.run(plot.recv_async())) == b"x"


def test_other_tasks_run_while_one_waits(camera: Node, plot: Node) -> None:
    async def main() -> bytes:
        waiting = asyncio.create_task(plot.recv_async())
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()
        camera.send_output("image", b"x")
        return data(await asyncio.wait_for(waiting, TIMEOUT))

    assert asyncio.run(main()) == b"x"


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_timeout_is_an_error_event(plot: Node, timeout: float) -> None:
    event = asyncio.run(plot.recv_async(timeout))
    assert event is not None
    assert event["type"] == "ERROR"
    assert event.is_timeout


def test_a_timeout_has_to_be_a_time(plot: Node) -> None:
    with pytest.raises(ValueError, match="timeout"):
        asyncio.run(plot.recv_async(-1))


def test_async_iteration_ends_with_the_stream(daemon: FakeDaemon, camera: Node, plot: Node) -> None:
    async def main() -> list[str]:
        return [event["type"] async for event in plot]

    camera.send_output("image", b"x")
    daemon.close_inputs("plot", "image")
    assert asyncio.run(main()) == ["INPUT", "INPUT_CLOSED", "STOP"]
    assert asyncio.run(plot.recv_async()) is None


def test_a_word_of_the_daemon_wakes_a_task(daemon: FakeDaemon, plot: Node) -> None:
    async def main() -> Event | None:
        waiting = asyncio.create_task(plot.recv_async())
        await asyncio.sleep(0)
        daemon.stop("plot")
        return await asyncio.wait_for(waiting, TIMEOUT)

    event = asyncio.run(main())
    assert event is not None
    assert event["type"] == "STOP"


def test_a_lost_daemon_wakes_a_task(daemon: FakeDaemon, plot: Node) -> None:
    async def main() -> list[Event]:
        waiting = asyncio.create_task(plot.recv_async())
        await asyncio.sleep(0)
        daemon.disconnect("plot")
        first = await asyncio.wait_for(waiting, TIMEOUT)
        assert first is not None
        return [first, *[event async for event in plot]]

    assert [event["type"] for event in asyncio.run(main())] == ["ERROR"]


def test_every_task_that_waits_gets_an_event(camera: Node, plot: Node) -> None:
    async def main() -> list[bytes]:
        waiting = [asyncio.create_task(plot.recv_async()) for _ in range(4)]
        for number in range(4):
            await asyncio.sleep(0)
            camera.send_output("image", bytes([number]))
        return [data(event) for event in await asyncio.wait_for(asyncio.gather(*waiting), TIMEOUT)]

    assert sorted(asyncio.run(main())) == [b"\0", b"\1", b"\2", b"\3"]


def test_a_cancelled_wait_loses_nothing(camera: Node, plot: Node) -> None:
    async def main() -> list[bytes]:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(plot.recv_async(), 0.01)
        waiting = asyncio.create_task(plot.recv_async())
        await asyncio.sleep(0)
        waiting.cancel()
        camera.send_output("image", b"x")
        return [data(await plot.recv_async(TIMEOUT))]

    assert asyncio.run(main()) == [b"x"]


def test_a_cancelled_task_does_not_disturb_another(camera: Node, plot: Node) -> None:
    async def main() -> bytes:
        first = asyncio.create_task(plot.recv_async())
        second = asyncio.create_task(plot.recv_async())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        camera.send_output("image", b"x")
        return data(await asyncio.wait_for(second, TIMEOUT))

    assert asyncio.run(main()) == b"x"


def test_a_thread_and_a_task_may_both_wait(camera: Node, plot: Node) -> None:
    received: list[bytes] = []

    def receive() -> None:
        received.append(data(plot.next(TIMEOUT)))

    async def main() -> None:
        waiting = asyncio.create_task(plot.recv_async(TIMEOUT))
        await asyncio.sleep(0)
        thread = threading.Thread(target=receive)
        thread.start()
        await asyncio.sleep(0)
        camera.send_output("image", b"a")
        camera.send_output("image", b"b")
        received.append(data(await waiting))
        await asyncio.to_thread(thread.join)

    asyncio.run(main())
    assert sorted(received) == [b"a", b"b"]


def test_closing_ends_the_wait_of_a_task(plot: Node) -> None:
    async def main() -> Event | None:
        waiting = asyncio.create_task(plot.recv_async())
        await asyncio.sleep(0)
        plot.close()
        return await asyncio.wait_for(waiting, TIMEOUT)

    assert asyncio.run(main()) is None


def test_sending_from_a_task_while_another_receives(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node("ping", inputs={"in": "pong/out"}, outputs="out"),
        node("pong", inputs={"in": "ping/out"}, outputs="out"),
    )
    ping, pong = daemon.node("ping"), daemon.node("pong")

    async def answer() -> None:
        for _ in range(20):
            pong.send_output("out", data(await pong.recv_async(TIMEOUT)))

    async def main() -> list[int]:
        task = asyncio.create_task(answer())
        replies = []
        for number in range(20):
            ping.send_output("out", bytes([number]))
            replies.append(data(await ping.recv_async(TIMEOUT))[0])
        await task
        return replies

    assert asyncio.run(main()) == list(range(20))


def test_polling_is_empty_in_a_loop(daemon: FakeDaemon, camera: Node, plot: Node) -> None:
    """How several published nodes share the thread with their event loop."""

    async def main() -> list[str]:
        types = []
        while True:
            if plot.is_empty():
                await asyncio.sleep(0)
                continue
            event = plot.next()
            if event is None:
                return types
            types.append(event["type"])
            if event["type"] == "INPUT":
                daemon.stop("plot")
            if len(types) == 2:
                return types

    camera.send_output("image", b"x")
    assert asyncio.run(asyncio.wait_for(main(), TIMEOUT)) == ["INPUT", "STOP"]
