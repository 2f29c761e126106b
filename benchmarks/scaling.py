"""Measure how many machines and dataflows one coordinator serves: ``python -m benchmarks.scaling``.

The coordinator is the real one, in a process of its own. The daemons are not: one process holds the
connections of all of them, reports every dataflow as running, and starts nothing. So only the coordinator
is measured; its processor time is read from the kernel.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from benchmarks import report
from benchmarks.conditions import conditions, short
from benchmarks.implementations import REPOSITORY, ours
from benchmarks.statistics import median, percentile
from dora._version import __version__
from dora.cluster.client import Client, Unreachable
from dora.cluster.http.server import connection_limit
from dora.cluster.protocol import (
    HEARTBEAT_INTERVAL,
    Collect,
    Collected,
    Heartbeat,
    Hello,
    RunReport,
    RunSpec,
    RunUsage,
    StartRun,
    StopRun,
    ToCoordinator,
    decode_to_daemon,
    encode,
)
from dora.transport.tokens import make_token
from dora.wire.node_protocol import PROTOCOL_VERSION

MARKERS = ("<!-- scaling -->", "<!-- /scaling -->")
WATCH_S = 10.0  # how long heartbeats are watched


class FakeDaemons:
    """Daemons that start nothing, in a thread with an event loop."""

    def __init__(self, port: int, count: int) -> None:
        self.connected = 0
        self._url = f"ws://127.0.0.1:{port}/api/daemon"
        self._runs: list[dict[str, RunReport]] = [{} for _ in range(count)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        for number in range(count):
            asyncio.run_coroutine_threadsafe(self._live(number), self._loop)

    async def _live(self, number: int) -> None:
        """Keep the connection of one daemon, as a real one does."""
        while True:
            try:
                token = make_token().value
                async with connect(
                    self._url,
                    additional_headers={"Authorization": f"Bearer {token}"},
                    compression=None,
                    proxy=None,
                    open_timeout=30,
                ) as connection:
                    await self._converse(number, connection)
            except (OSError, WebSocketException, TimeoutError):
                await asyncio.sleep(1.0)

    async def _converse(self, number: int, connection: ClientConnection) -> None:
        runs = self._runs[number]

        async def say(message: ToCoordinator) -> None:
            await connection.send(encode(message).decode())

        async def beat() -> None:
            while True:
                await asyncio.sleep(HEARTBEAT_INTERVAL)
                await say(Heartbeat())

        await say(
            Hello(
                __version__,
                f"d{number}",
                1,
                tuple(runs.values()),
                machine=machine(number),
                protocol=PROTOCOL_VERSION,
            )
        )
        self.connected += 1
        beating = asyncio.create_task(beat())
        try:
            async for text in connection:
                match decode_to_daemon(text):
                    case StartRun(dataflow_id=run):
                        runs[run] = RunReport(run, "Running")
                        await say(runs[run])
                    case StopRun(dataflow_id=run):
                        runs.pop(run, None)
                        await say(RunReport(run, "Finished"))
                    case Collect(number=number, what="usage"):
                        usage = [RunUsage(run, 1.0, 1 << 20) for run in runs]
                        await say(Collected(number, "usage", usage=usage))
                    case Collect(number=number, what=what):
                        await say(Collected(number, what))
        finally:
            self.connected -= 1
            beating.cancel()

    def close(self) -> None:
        async def cancel() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

        asyncio.run_coroutine_threadsafe(cancel(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


class Coordinator:
    """The real one, and what it uses."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._environment = {
            **ours().environment(),
            "DORA_DATA_DIR": str(folder / "data"),
            "DORA_RUNTIME_DIR": str(folder / "run"),
            "XDG_CONFIG_HOME": str(folder / "config"),
        }
        self.client = Client("127.0.0.1", self.port)
        self.start()

    def start(self) -> None:
        self._process = psutil.Popen(
            [*ours().command, "coordinator", "--quiet", "--port", str(self.port)],
            env=self._environment,
        )
        wait_for(lambda: self.client.status().pid > 0)

    def cpu(self) -> float:
        """Return the processor time that it has used, in seconds."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> int:
        return int(self._process.memory_info().rss)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def machine(number: int) -> str:
    return f"m{number:05}"


def wait_for(condition: Callable[[], bool], patience: float = 120.0) -> None:
    deadline = time.monotonic() + patience
    while not _holds(condition):
        if time.monotonic() > deadline:
            raise SystemExit("error: the coordinator did not get there in two minutes")
        time.sleep(0.02)


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except Unreachable:  # not there yet, or busy for seconds
        return False


def spec(first: int, machines: int, nodes: int) -> RunSpec:
    """Return a dataflow of a timer and nodes in a row, spread over machines."""
    places = [machine(first + index * machines // nodes) for index in range(nodes)]
    described = []
    for index, place in enumerate(places):
        source = (
            {"type": "node", "node": f"n{index - 1}", "output": "out"}
            if index
            else {"type": "timer", "interval_ns": 10**8, "text": "dora/timer/millis/100"}
        )
        described.append(
            {
                "id": f"n{index}",
                "path": "node.py",
                "inputs": [{"id": "in", "source": source}],
                "outputs": ["out"],
                "deploy": {"machine": place},
            }
        )
    return RunSpec(name="", dataflow={"nodes": described, "working_dir": "/tmp", "file": "/tmp/flow.yml"})


class Figures:
    """The rows of the table."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self.idle = 0.0  # of a core, while nothing is asked
        self.rows: list[tuple[str, str, str]] = [("what", "time", "processor time, without heartbeats")]

    def add(self, what: str, shown: str, cpu: str) -> None:
        self.rows.append((what, shown, cpu))
        print(f"{what}: {shown}; {cpu}", flush=True)

    def timed(self, what: str, times: int, act: Callable[[], Any]) -> None:
        """Measure something that is done so many times."""
        before, seconds, since = self._coordinator.cpu(), [], time.monotonic()
        for _ in range(times):
            begun = time.monotonic()
            act()
            seconds.append(time.monotonic() - begun)
        heartbeats = self.idle * (time.monotonic() - since)
        cpu = max(self._coordinator.cpu() - before - heartbeats, 0.0) / times
        shown = f"{median(seconds) * 1e3:.1f} ms"
        if times > 1:
            shown += f" (99th percentile {percentile(seconds, 99) * 1e3:.1f} ms)"
        self.add(what, shown, f"{cpu * 1e3:.1f} ms each" if times > 1 else f"{cpu:.2f} s")


def measure(daemons: int, nodes: int, folder: Path) -> list[tuple[str, str, str]]:
    """Return the table for so many daemons with so many nodes each."""
    coordinator = Coordinator(folder)
    client, figures = coordinator.client, Figures(coordinator)
    empty = coordinator.memory()
    before, begun = coordinator.cpu(), time.monotonic()
    fakes = FakeDaemons(coordinator.port, daemons)
    try:
        wait_for(lambda: fakes.connected == daemons)
        wait_for(lambda: len(client.status().daemons) == daemons)
        figures.add(
            f"{daemons:,} daemons connect",
            f"{time.monotonic() - begun:.1f} s",
            f"{(coordinator.cpu() - before) / daemons * 1e3:.2f} ms each",
        )
        before = coordinator.cpu()
        time.sleep(WATCH_S)
        used = figures.idle = (coordinator.cpu() - before) / WATCH_S
        figures.add(
            f"{daemons / HEARTBEAT_INTERVAL:,.0f} heartbeats per second",
            "",
            f"{used:.1%} of a core, {used * HEARTBEAT_INTERVAL / daemons * 1e6:.0f} µs each",
        )
        started: list[str] = []
        numbers = iter(range(daemons))
        figures.timed(
            f"start of a dataflow of {nodes} nodes, until {daemons:,} run",
            daemons,
            lambda: started.append(client.start(spec(next(numbers), 1, nodes)).uuid),
        )
        wait_for(lambda: all(view.status == "Running" for view in client.dataflows()))
        running = f"{daemons:,} dataflows, {daemons * nodes:,} nodes"
        figures.timed(f"list: {running}", 20, client.dataflows)
        figures.timed("one dataflow by its name", 100, lambda: client.dataflow(started[daemons // 2]))
        figures.timed("status", 100, client.status)
        large = spec(0, daemons, daemons)
        figures.timed(f"start of one dataflow on {daemons:,} machines", 1, lambda: client.start(large))
        memory = coordinator.memory()
        figures.add(
            "memory",
            f"{(memory - empty) / 2**20:.0f} MiB more than the {empty / 2**20:.0f} MiB at first",
            "",
        )
        coordinator.kill()
        wait_for(lambda: fakes.connected == 0)
        begun = time.monotonic()
        coordinator.start()
        wait_for(lambda: len(client.status().daemons) == daemons)
        figures.add(
            "coordinator killed and started again, until all daemons are back",
            f"{time.monotonic() - begun:.1f} s",
            f"{coordinator.cpu():.1f} s",
        )
        ids = iter(started)
        figures.timed("stop of a dataflow", daemons, lambda: client.stop(next(ids), None, False))
        wait_for(lambda: not {view.uuid for view in client.active()} & set(started))
    finally:
        fakes.close()
        coordinator.kill()
    return figures.rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--daemons", type=int, default=1000, metavar="N", help="how many daemons [1000]")
    parser.add_argument("--nodes", type=int, default=10, metavar="N", help="nodes of each dataflow [10]")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/scaling.md")
    options = parser.parse_args(arguments)
    started = datetime.datetime.now(datetime.UTC)
    connection_limit()
    with _folder() as folder:
        rows = measure(options.daemons, options.nodes, folder)
    known = conditions("benchmarks.scaling", started, 1)
    head = short(known)
    table = [f"| {' | '.join(row)} |" for row in rows]
    page = "\n".join([*head, "", table[0], "| --- | ---: | ---: |", *table[1:]])
    print("", page, sep="\n")
    if options.write_docs:
        report.write_between(REPOSITORY / "docs" / "scaling.md", MARKERS, page)
    return 0


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="dora-scale-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
