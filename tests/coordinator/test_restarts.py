"""Restarts, and the end of the coordinator, with daemons that only listen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from waiting import TIMEOUT

from dora._version import __version__
from dora.cluster.coordinator.coordinator import Coordinator
from dora.cluster.coordinator.store import Store
from dora.cluster.http_api import DataflowView, DownView
from dora.cluster.protocol import (
    Hello,
    RunReport,
    RunSpec,
    RunStatus,
    Shutdown,
    StartRun,
    StopRun,
    ToDaemon,
)
from dora.cluster.refusal import Refusal
from dora.wire.node_protocol import PROTOCOL_VERSION

NODE = {"id": "a", "deploy": {"machine": "far"}}
SPEC = RunSpec(name="arm", dataflow={"nodes": [NODE], "working_dir": "/tmp"})


class Machine:
    """A daemon that only listens."""

    def __init__(self, coordinator: Coordinator, name: str) -> None:
        self.heard: list[ToDaemon] = []
        self._coordinator = coordinator
        hello = Hello(__version__, f"daemon of {name}", 1, machine=name, protocol=PROTOCOL_VERSION)
        link = coordinator.fleet.connect(hello, self.heard.append, "10.0.0.2", "10.0.0.1")
        assert link is not None
        self.link = link

    def report(self, run: str, status: RunStatus) -> None:
        self._coordinator.handle(self.link, RunReport(run, status))

    def leave(self, *, silent: bool = False) -> None:
        self._coordinator.disconnect(self.link, silent)

    def starts(self) -> int:
        return sum(isinstance(message, StartRun) for message in self.heard)

    def stops(self) -> int:
        return sum(isinstance(message, StopRun) for message in self.heard)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Coordinator, Machine, str]]:
    """Run a coordinator whose machine `far` runs the dataflow `arm`."""
    coordinator = Coordinator(Store(str(folder / "store.sqlite")), lambda: None)
    try:
        far = Machine(coordinator, "far")
        run = coordinator.start(SPEC).uuid
        far.report(run, "Running")
        yield coordinator, far, run
    finally:
        coordinator.close()


async def restarting(coordinator: Coordinator, far: Machine) -> asyncio.Task[tuple[str, DataflowView]]:
    """Begin a restart; return it once it waits for the end of the dataflow."""
    before = far.stops()
    task = asyncio.create_task(asyncio.wait_for(coordinator.restart("arm", None, False), TIMEOUT))
    while far.stops() == before:
        assert not task.done(), task.result()
        await asyncio.sleep(0)
    return task


def test_a_restart_starts_a_dataflow_again_once_it_has_ended(tmp_path: Path) -> None:
    async def restart() -> None:
        async with running(tmp_path) as (coordinator, far, run):
            task = await restarting(coordinator, far)
            assert far.starts() == 1
            far.report(run, "Finished")
            old, new = await task
            assert (old, new.name, far.starts()) == (run, "arm", 2)

    asyncio.run(restart())


def test_a_dataflow_that_is_stopped_during_its_restart_stays_stopped(tmp_path: Path) -> None:
    async def stop() -> None:
        async with running(tmp_path) as (coordinator, far, run):
            task = await restarting(coordinator, far)
            coordinator.stop("arm", None, False)
            far.report(run, "Finished")
            with pytest.raises(Refusal, match="another command has stopped or restarted `arm`"):
                await task
            assert far.starts() == 1

    asyncio.run(stop())


def test_a_second_restart_starts_a_dataflow_once(tmp_path: Path) -> None:
    async def restart() -> None:
        async with running(tmp_path) as (coordinator, far, run):
            first = await restarting(coordinator, far)
            second = await restarting(coordinator, far)
            far.report(run, "Finished")
            with pytest.raises(Refusal, match="another command has stopped or restarted `arm`"):
                await first
            assert (await second)[0] == run
            assert far.starts() == 2

    asyncio.run(restart())


def test_a_coordinator_that_ends_starts_nothing_again(tmp_path: Path) -> None:
    async def end() -> None:
        async with running(tmp_path) as (coordinator, far, run):
            restart = await restarting(coordinator, far)
            ending = asyncio.create_task(coordinator.down(force=True))
            while not isinstance(far.heard[-1], Shutdown):
                await asyncio.sleep(0)
            far.report(run, "Finished")
            with pytest.raises(Refusal, match=r"the coordinator is ending\n`arm` has ended"):
                await restart
            far.leave()
            await ending
            assert far.starts() == 1

    asyncio.run(end())


def test_a_restart_that_no_machine_fits_stops_nothing(tmp_path: Path) -> None:
    spread = {"nodes": [NODE, {"id": "b", "deploy": {"machine": "near"}}], "working_dir": "/tmp"}

    async def restart() -> None:
        async with running(tmp_path) as (coordinator, far, _):
            near = Machine(coordinator, "near")
            run = coordinator.start(RunSpec(name="leg", dataflow=spread)).uuid
            for machine in (far, near):
                machine.report(run, "Running")
            near.leave(silent=True)
            for force in (False, True):
                with pytest.raises(Refusal, match=r"not connected now(.|\n)*`leg` was not stopped"):
                    await asyncio.wait_for(coordinator.restart("leg", None, force), 1.0)
            assert far.stops() == 0
            assert coordinator.dataflow("leg").status == "Running"

    asyncio.run(restart())


def test_down_names_the_machines_that_may_still_run_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.cluster.coordinator.coordinator.SHUTDOWN_TIMEOUT", 0.0)

    async def end() -> None:
        async with running(tmp_path) as (coordinator, far, _):
            Machine(coordinator, "slow")
            Machine(coordinator, "idle").leave(silent=True)
            far.leave(silent=True)
            assert await coordinator.down(force=True) == DownView(["far"], ["slow"])

    asyncio.run(end())


def test_down_names_a_machine_that_is_cut_off_meanwhile(tmp_path: Path) -> None:
    async def end() -> None:
        async with running(tmp_path) as (coordinator, far, _):
            idle = Machine(coordinator, "idle")
            ending = asyncio.create_task(coordinator.down(force=True))
            while not isinstance(idle.heard[-1], Shutdown):
                await asyncio.sleep(0)
            idle.leave()
            far.leave(silent=True)
            assert await ending == DownView(["far"], [])

    asyncio.run(end())
