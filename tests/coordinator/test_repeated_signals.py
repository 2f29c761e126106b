"""A signal that arrives twice at once, as `timeout` sends it, is one for everybody who counts signals."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from waiting import TIMEOUT

from dora.cli.commands.record import _handle_input
from dora.cluster.agent.agent import Agent
from dora.cluster.agent.identity import Identity
from dora.cluster.protocol import StopRun
from dora.daemon import signals
from dora.daemon.signals import SignalEchoes
from dora.transport.tokens import make_token

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def _handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(signals, "ECHO", 1e6)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_only_the_same_signal_at_once_is_an_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    monkeypatch.setattr(signals, "ECHO", 0.25)
    monkeypatch.setattr("dora.daemon.signals.time.monotonic", lambda: now)
    echoes = SignalEchoes()
    assert not echoes.is_echo(signal.SIGINT)
    assert echoes.is_echo(signal.SIGINT)
    assert not echoes.is_echo(signal.SIGTERM)
    now = 5.125
    assert echoes.is_echo(signal.SIGINT)
    now = 5.25  # since the first; echoes of echoes would make a key that is held down one signal
    assert not echoes.is_echo(signal.SIGINT)


def test_a_recorder_writes_to_the_end_after_a_signal_that_arrives_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[object] = []

    class Recorder:
        def stop(self) -> None:
            done.append("stop")

    monkeypatch.setattr(os, "_exit", done.append)
    _handle_input(Recorder())  # type: ignore[arg-type]
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert done == ["stop"]
    signal.raise_signal(signal.SIGINT)
    assert done[1:2] == [130]


def test_a_daemon_stops_its_dataflows_gently_at_a_signal_that_arrives_twice() -> None:
    commands: list[StopRun] = []

    class Run:
        def command(self, message: StopRun) -> None:
            commands.append(message)

        def lose_others(self, *_: object) -> None:
            pass

    async def signalled(*numbers: int) -> None:
        agent: Any = Agent(["127.0.0.1"], 1, make_token(), Identity())
        agent._runs["flow"] = run
        agent.install_signal_handlers()
        try:
            for number in numbers:
                os.kill(os.getpid(), number)
            while len(commands) < 2 and time.monotonic() < limit:
                await asyncio.sleep(0)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().remove_signal_handler(number)

    run: Any = Run()
    run.dataflow_id = "flow"
    limit = time.monotonic() + TIMEOUT
    asyncio.run(signalled(signal.SIGTERM, signal.SIGTERM, signal.SIGINT))
    assert [command.force for command in commands] == [False, True]
