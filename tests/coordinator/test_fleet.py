"""What the coordinator does for machines that are not its own, with daemons that only talk."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from dora._version import __version__
from dora.cluster.client import Client
from dora.cluster.coordinator.connections import DaemonConnection
from dora.cluster.coordinator.coordinator import Coordinator
from dora.cluster.coordinator.fleet import FORGET_AFTER, LOST_AFTER
from dora.cluster.coordinator.log_store import LogStore, log_store_directory
from dora.cluster.coordinator.store import Store
from dora.cluster.http_api import DataflowView, MachineView
from dora.cluster.protocol import (
    AckEnd,
    AckLogs,
    DescribeRun,
    DropRecords,
    Endpoints,
    Hello,
    LogBatch,
    MachineLost,
    RunDescription,
    RunReport,
    RunSpec,
    StartRun,
    StopRun,
    ToDaemon,
)
from dora.cluster.refusal import Refusal
from dora.daemon.logs.entry import LogEntry
from dora.daemon.supervisor.result import DataflowResult
from dora.daemon.supervisor.status import FormerPart, NodeStatus, PeerStatus
from dora.dataflow.model import LogOptions
from dora.wire.node_protocol import PROTOCOL_VERSION

NODE = {"id": "a", "deploy": {"machine": "far"}}
SPEC = RunSpec(name="arm", dataflow={"nodes": [NODE], "working_dir": "/tmp"})
OTHER = msgspec.structs.replace(SPEC, name="leg")
SPREAD = msgspec.structs.replace(
    SPEC,
    dataflow={"nodes": [NODE, {"id": "b", "deploy": {"machine": "near"}}], "working_dir": "/tmp"},
    machines={"a": "far", "b": "near"},
)


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path))
    return tmp_path


@asynccontextmanager
async def coordinating(folder: Path) -> AsyncIterator[Coordinator]:
    coordinator = Coordinator(Store(str(folder / "store.sqlite")), lambda: None)
    try:
        yield coordinator
    finally:
        coordinator.close()


def join(
    coordinator: Coordinator, machine: str, send: Callable[[ToDaemon], None], *runs: RunReport
) -> DaemonConnection:
    hello = Hello(__version__, f"daemon of {machine}", 1, runs, machine=machine, protocol=PROTOCOL_VERSION)
    link = coordinator.fleet.connect(hello, send, "10.0.0.2", "10.0.0.1")
    assert link is not None
    return link


def open_logs(folder: Path) -> list[str]:
    """Return the log files below a folder that this process has open."""
    paths = (os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
    return [path for path in paths if path.endswith(".jsonl") and path.startswith(str(folder))]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_the_files_of_collected_logs_are_closed_with_their_dataflow(data_folder: Path) -> None:
    async def gather() -> None:
        async with coordinating(data_folder) as coordinator:
            link = join(coordinator, "far", lambda _: None)
            for _ in range(3):
                view = coordinator.start(SPEC)
                entry = LogEntry(0, "info", "a", "hello")
                coordinator.handle(link, LogBatch(view.uuid, [entry]))
                assert len(open_logs(data_folder)) == 1
                coordinator.handle(link, RunReport(view.uuid, "Finished"))
                coordinator.handle(link, LogBatch(view.uuid, [entry]))
                assert open_logs(data_folder) == []
                lines = Path(view.log_directory, "log_a.jsonl").read_text().splitlines()
                assert [json.loads(line)["msg"] for line in lines] == ["hello", "hello"]
            coordinator.handle(link, LogBatch("../nobody's", [LogEntry(0, "info", None, "hello")]))
            assert not (data_folder / "nobody's").exists()

    asyncio.run(gather())


def test_the_last_entries_of_a_removed_node_are_kept(data_folder: Path) -> None:
    nodes = {"a": LogOptions(), "b": LogOptions()}
    logs = LogStore(lambda _: dict(nodes))
    directory = str(data_folder / "logs")
    entries = [LogEntry(0, "info", "a", "hello"), LogEntry(0, "info", "c", "nobody's")]
    logs.write("id", directory, entries)
    del nodes["a"]
    logs.close("id")
    logs.write("id", directory, entries)
    logs.close_all_but()
    logs.write("id", directory, entries)
    assert os.listdir(directory) == ["log_a.jsonl"]
    assert len(Path(directory, "log_a.jsonl").read_text().splitlines()) == 2
    logs.close_all_but()


def test_entries_that_come_again_are_written_once(data_folder: Path) -> None:
    async def gather() -> None:
        async with coordinating(data_folder) as coordinator:
            said: list[ToDaemon] = []
            link = join(coordinator, "far", said.append)
            view = coordinator.start(SPEC)

            def log(number: int, text: str) -> None:
                batch = LogBatch(view.uuid, [LogEntry(0, "info", "a", text)], number)
                coordinator.handle(link, batch)
                assert said[-1] == AckLogs(number)

            log(1, "one")
            log(2, "two")
            coordinator.fleet.disconnect(link, silent=True)
            link = join(coordinator, "far", said.append, RunReport(view.uuid, "Running"))
            log(2, "two")
            log(3, "three")
            coordinator.fleet.disconnect(link)
            hello = Hello(__version__, "another daemon", 2, machine="far", protocol=PROTOCOL_VERSION)
            other = coordinator.fleet.connect(hello, said.append, "10.0.0.2", "10.0.0.1")
            assert other is not None
            link = other
            log(1, "of the next daemon")
            lines = Path(view.log_directory, "log_a.jsonl").read_text().splitlines()
            assert [json.loads(line)["msg"] for line in lines] == [
                *("one", "two", "three"),
                "of the next daemon",
            ]

    asyncio.run(gather())


def test_collected_logs_go_with_the_record_of_their_dataflow(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(coordinator: Coordinator, link: DaemonConnection, end: bool = True) -> Path:
        view = coordinator.start(
            RunSpec(name="", dataflow={**SPEC.dataflow, "working_dir": str(data_folder)})
        )
        coordinator.handle(link, LogBatch(view.uuid, [LogEntry(0, "info", "a", "hello")]))
        if end:
            coordinator.handle(link, RunReport(view.uuid, "Finished"))
        return Path(view.log_directory)

    async def remove() -> None:
        async with coordinating(data_folder) as coordinator:
            link = join(coordinator, "far", lambda _: None)
            gone, retained = run(coordinator, link), run(coordinator, link)
            running = run(coordinator, link, end=False)
            own = data_folder / "out" / gone.name / "log_a.jsonl"  # as a daemon in this folder writes it
            own.parent.mkdir(parents=True)
            own.touch()
            (retained / "tour.mcap").touch()  # a recording that the dashboard has made
            assert len(coordinator.clean()) == 2
            assert not gone.exists()
            assert [path.name for path in retained.iterdir()] == ["tour.mcap"]
            assert (running / "log_a.jsonl").exists()
            assert own.exists()

            monkeypatch.setattr("dora.cluster.coordinator.store.MAX_ENDED", 1)
            oldest, latest = run(coordinator, link), run(coordinator, link)
            assert (oldest.exists(), latest.exists()) == (False, True)

    asyncio.run(remove())


def test_machines_learn_of_deleted_records(data_folder: Path) -> None:
    def gone(heard: list[ToDaemon]) -> list[str]:
        return [id for message in heard if isinstance(message, DropRecords) for id in message.dataflow_ids]

    async def clean() -> None:
        async with coordinating(data_folder) as coordinator:
            heard: list[ToDaemon] = []
            link = join(coordinator, "far", heard.append)
            near: list[ToDaemon] = []
            join(coordinator, "near", near.append)
            ended, running = coordinator.start(SPEC).uuid, coordinator.start(OTHER).uuid
            coordinator.handle(link, RunReport(ended, "Finished"))
            coordinator.handle(link, RunReport(running, "Running"))
            coordinator.clean()
            assert gone(heard) == [ended] and not gone(near)

            coordinator.fleet.disconnect(link)
            retained = ("of a lost store", ended, running, "unknown and runs")
            runs = tuple(RunReport(id, "Running") for id in (running, "unknown and runs"))
            hello = Hello(
                __version__,
                "another daemon",
                1,
                runs,
                machine="far",
                retained=retained,
                protocol=PROTOCOL_VERSION,
            )
            heard.clear()
            coordinator.fleet.connect(hello, heard.append, "10.0.0.2", "10.0.0.1")
            assert gone(heard) == ["of a lost store", ended]

    asyncio.run(clean())


def test_only_folders_with_the_name_of_a_dataflow_are_removed(data_folder: Path) -> None:
    logs = LogStore(lambda _: {})
    victim = data_folder / "log_a.jsonl"
    victim.touch()
    (data_folder / "logs").mkdir()
    directory = log_store_directory("..")
    logs.remove(DataflowView(uuid="..", name="", status="Finished", nodes=[], log_directory=directory))
    assert victim.exists()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_log_files_that_are_removed_are_closed_first() -> None:
    logs = LogStore(lambda _: {"a": LogOptions()})
    uuid = "01a23320-de25-7cfa-8dcc-5f666bfc297e"
    directory = log_store_directory(uuid)
    logs.write(uuid, directory, [LogEntry(0, "info", "a", "hello")])
    logs.remove(DataflowView(uuid=uuid, name="", status="Finished", nodes=[], log_directory=directory))
    opened = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    assert not [path for path in opened if path.startswith(directory)]
    assert not Path(directory).exists()


def test_a_stop_on_a_disconnected_machine_is_refused(data_folder: Path) -> None:
    async def stop() -> None:
        async with coordinating(data_folder) as coordinator:
            join(coordinator, "near", lambda _: None)
            link = join(coordinator, "far", lambda _: None)
            running = RunReport(coordinator.start(SPEC).uuid, "Running")
            coordinator.handle(link, running)
            coordinator.fleet.disconnect(link, silent=True)
            with pytest.raises(Refusal, match="`arm` runs on machine `far`, which is not connected now"):
                coordinator.stop("arm", None, False)
            heard: list[ToDaemon] = []
            join(coordinator, "far", heard.append, running)
            assert not any(isinstance(message, StopRun) for message in heard)

    asyncio.run(stop())


class Clock:
    """Runs the timers of an event loop without waiting for them."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ahead = 0.0
        real = self.loop.time
        self.loop.time = lambda: real() + self.ahead  # type: ignore[method-assign]

    async def advance(self, seconds: float) -> None:
        for _ in range(100):
            self.ahead += seconds / 100
            await asyncio.sleep(0)
            await asyncio.sleep(0)


def test_a_machine_that_is_out_of_reach_is_not_lost(data_folder: Path) -> None:
    async def wait() -> None:
        async with coordinating(data_folder) as coordinator:
            clock = Clock()
            near: list[ToDaemon] = []
            links = {"far": join(coordinator, "far", lambda _: None)}
            links["near"] = join(coordinator, "near", near.append)
            running = RunReport(coordinator.start(SPREAD).uuid, "Running")
            for link in links.values():
                coordinator.handle(link, running)
            coordinator.fleet.disconnect(links["far"], silent=True)
            await clock.advance(86_400.0)
            assert coordinator.dataflow("arm").status == "Running"
            assert [machine.id for machine in coordinator.fleet.views()] == ["far", "near"]
            assert not any(isinstance(message, MachineLost) for message in near)
            heard: list[ToDaemon] = []
            links["far"] = join(coordinator, "far", heard.append, running)
            assert not any(isinstance(message, StopRun) for message in heard)
            ended = RunReport(running.dataflow_id, "Finished")
            for link in links.values():
                coordinator.handle(link, ended)
            assert coordinator.dataflow("arm").status == "Finished"
            # One without nodes is forgotten, so that a machine that was put away is not shown for ever.
            coordinator.fleet.disconnect(links["far"], silent=True)
            await clock.advance(2 * FORGET_AFTER)
            assert [machine.id for machine in coordinator.fleet.views()] == ["near"]

    asyncio.run(wait())


def test_a_new_coordinator_waits_for_a_machine_that_is_out_of_reach(data_folder: Path) -> None:
    async def wait() -> None:
        async with coordinating(data_folder) as coordinator:
            link = join(coordinator, "far", lambda _: None)
            running = RunReport(coordinator.start(SPEC).uuid, "Running")
            coordinator.handle(link, running)
        async with coordinating(data_folder) as coordinator:
            await Clock().advance(86_400.0)
            assert coordinator.dataflow("arm").status == "Running"
            heard: list[ToDaemon] = []
            join(coordinator, "far", heard.append, running)
            assert not any(isinstance(message, StopRun) for message in heard)

    asyncio.run(wait())


def test_a_machine_out_of_reach_is_lost_after_the_limit_that_is_set(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_UNREACHABLE_AFTER", "60")

    async def wait() -> None:
        async with coordinating(data_folder) as coordinator:
            clock = Clock()
            link = join(coordinator, "far", lambda _: None)
            coordinator.handle(link, RunReport(coordinator.start(SPEC).uuid, "Running"))
            coordinator.fleet.disconnect(link, silent=True)
            await clock.advance(50.0)
            assert coordinator.dataflow("arm").status == "Running"
            await clock.advance(20.0)
            view = coordinator.dataflow("arm")
            assert (view.status, view.reason) == ("Failed", "it has not answered for 60 s")

    asyncio.run(wait())


def test_a_machine_that_comes_back_with_another_daemon_has_lost_its_nodes(data_folder: Path) -> None:
    async def wait() -> None:
        async with coordinating(data_folder) as coordinator:
            link = join(coordinator, "far", lambda _: None)
            coordinator.handle(link, RunReport(coordinator.start(SPEC).uuid, "Running"))
            coordinator.fleet.disconnect(link, silent=True)
            await Clock().advance(3600.0)
            join(coordinator, "far", lambda _: None)  # it was switched off and on
            assert coordinator.dataflow("arm").status == "Failed"

    asyncio.run(wait())


PART = FormerPart(PeerStatus({"a": NodeStatus("backoff", restarts=1)}), {"a/x": 7})


def lost_of(heard: list[ToDaemon]) -> list[MachineLost]:
    return [message for message in heard if isinstance(message, MachineLost)]


def starts_of(heard: list[ToDaemon]) -> list[FormerPart | None]:
    """Return the former parts with which a machine was to start its part."""
    starts = [message for message in heard if isinstance(message, StartRun)]
    return [start.partition.former for start in starts if start.partition is not None]


@asynccontextmanager
async def spread(
    folder: Path,
) -> AsyncIterator[tuple[Coordinator, RunReport, DaemonConnection, list[ToDaemon]]]:
    """Run a dataflow on `far` and `near`; return the coordinator, a report, and the daemon of `near`."""
    async with coordinating(folder) as coordinator:
        heard: list[ToDaemon] = []
        far, near = join(coordinator, "far", lambda _: None), join(coordinator, "near", heard.append)
        running = RunReport(coordinator.start(SPREAD).uuid, "Running", port=1)
        coordinator.handle(far, msgspec.structs.replace(running, port=20000))
        coordinator.handle(near, running)
        coordinator.fleet.disconnect(far)
        yield coordinator, running, near, heard


def test_a_part_is_started_again_once_all_others_have_said_what_they_know(data_folder: Path) -> None:
    async def reboot() -> None:
        async with spread(data_folder) as (coordinator, running, near, heard):
            back: list[ToDaemon] = []
            join(coordinator, "far", back.append)
            (lost,) = lost_of(heard)
            assert lost.loss
            assert starts_of(back) == []
            coordinator.handle(near, msgspec.structs.replace(running, lost={"of another loss": PART}))
            assert starts_of(back) == []
            coordinator.handle(near, msgspec.structs.replace(running, lost={lost.loss: PART}))
            assert starts_of(back) == [PART]
            assert coordinator.dataflow("arm").status == "Running"
            coordinator.handle(near, msgspec.structs.replace(running, lost={lost.loss: PART}))
            assert starts_of(back) == [PART]

    asyncio.run(reboot())


def test_a_lost_machine_has_no_endpoint_until_its_next_part_listens(data_folder: Path) -> None:
    """So no gateway has a link with the former part, which may still run."""

    def endpoints(heard: list[ToDaemon]) -> dict[str, str]:
        return [each.endpoints for each in heard if isinstance(each, Endpoints)][-1]

    async def reboot() -> None:
        async with spread(data_folder) as (coordinator, running, near, heard):
            assert endpoints(heard) == {"far": "10.0.0.2:20000"}
            far = join(coordinator, "far", lambda _: None)
            loss = lost_of(heard)[0].loss
            known = msgspec.structs.replace(running, lost={loss: PART}, port=1)
            coordinator.fleet.disconnect(near)
            heard.clear()
            join(coordinator, "near", heard.append, known)
            assert endpoints(heard) == {}
            coordinator.handle(far, msgspec.structs.replace(running, port=20001))
            assert endpoints(heard) == {"far": "10.0.0.2:20001"}

    asyncio.run(reboot())


def test_a_part_whose_nodes_have_all_ended_is_not_started_again(data_folder: Path) -> None:
    async def reboot() -> None:
        async with spread(data_folder) as (coordinator, running, near, heard):
            back: list[ToDaemon] = []
            join(coordinator, "far", back.append)
            ended = FormerPart(PeerStatus({"a": NodeStatus("ended")}))
            loss = lost_of(heard)[0].loss
            coordinator.handle(near, msgspec.structs.replace(running, lost={loss: ended}))
            assert starts_of(back) == []

    asyncio.run(reboot())


def test_no_part_is_started_again_after_a_stop(data_folder: Path) -> None:
    async def reboot() -> None:
        async with spread(data_folder) as (coordinator, running, near, heard):
            coordinator.stop("arm", None, False)
            back: list[ToDaemon] = []
            join(coordinator, "far", back.append)
            loss = lost_of(heard)[0].loss
            coordinator.handle(near, msgspec.structs.replace(running, lost={loss: PART}))
            assert starts_of(back) == []

    asyncio.run(reboot())


def test_the_part_of_a_process_that_was_killed_is_started_again_after_a_pause(data_folder: Path) -> None:
    async def crash() -> None:
        async with coordinating(data_folder) as coordinator:
            heard: list[ToDaemon] = []
            back: list[ToDaemon] = []
            far, near = join(coordinator, "far", back.append), join(coordinator, "near", heard.append)
            running = RunReport(coordinator.start(SPREAD).uuid, "Running", port=1)
            for link in (far, near):
                coordinator.handle(link, running)
            crashed = RunReport(running.dataflow_id, "Failed", reason="it was killed", crashed=True)
            coordinator.handle(far, crashed)
            loss = lost_of(heard)[0].loss
            coordinator.handle(near, msgspec.structs.replace(running, lost={loss: PART}))
            assert starts_of(back) == [None]
            await Clock().advance(LOST_AFTER + 0.1)
            assert starts_of(back) == [None, PART]
            kinds = [type(message) for message in back if isinstance(message, (AckEnd, StartRun))]
            assert kinds == [StartRun, AckEnd, StartRun], "before that it still has the former part"

    asyncio.run(crash())


def test_other_machines_learn_a_changed_address(data_folder: Path) -> None:
    async def move() -> None:
        async with coordinating(data_folder) as coordinator:
            heard: list[ToDaemon] = []
            far, near = join(coordinator, "far", lambda _: None), join(coordinator, "near", heard.append)
            running = RunReport(coordinator.start(SPREAD).uuid, "Running", port=20000)
            coordinator.handle(far, running)
            coordinator.handle(near, msgspec.structs.replace(running, port=1))
            coordinator.fleet.disconnect(far)
            hello = Hello(
                __version__, far.daemon_id, 1, (running,), machine="far", protocol=PROTOCOL_VERSION
            )
            coordinator.fleet.connect(hello, lambda _: None, "10.0.0.3", "10.0.0.1")
            sent = [message.endpoints for message in heard if isinstance(message, Endpoints)]
            assert sent == [{"far": "10.0.0.2:20000"}, {"far": "10.0.0.3:20000"}]

    asyncio.run(move())


def test_a_machine_without_a_link_port_has_an_empty_endpoint_until_it_is_lost(data_folder: Path) -> None:
    """So the others accept its gateway, and do not try to reach it."""

    async def run() -> None:
        async with coordinating(data_folder) as coordinator:
            heard: list[ToDaemon] = []
            far, near = join(coordinator, "far", lambda _: None), join(coordinator, "near", heard.append)
            starting = RunReport(coordinator.start(SPREAD).uuid, "Starting")
            coordinator.handle(near, msgspec.structs.replace(starting, port=6014))
            assert not any(isinstance(message, Endpoints) for message in heard), "`far` is not prepared"
            coordinator.handle(far, msgspec.structs.replace(starting, port=0))
            coordinator.handle(far, msgspec.structs.replace(starting, port=6014))
            sent = [message.endpoints for message in heard if isinstance(message, Endpoints)]
            assert sent == [{"far": ""}, {"far": "10.0.0.2:6014"}]

    asyncio.run(run())


def test_a_machine_is_shown_with_its_link_port_once_a_dataflow_has_links(data_folder: Path) -> None:
    async def run() -> None:
        async with coordinating(data_folder) as coordinator:
            far = join(coordinator, "far", lambda _: None)
            join(coordinator, "near", lambda _: None)
            starting = RunReport(coordinator.start(SPREAD).uuid, "Starting")

            def shown() -> list[int | None]:
                return [view.link_port for view in coordinator.fleet.views()]

            assert shown() == [None, None]
            for port in (6014, 0, 7000):
                coordinator.handle(far, msgspec.structs.replace(starting, port=port))
                assert shown() == [port, None]
            coordinator.handle(far, RunReport(starting.dataflow_id, "Failed"))
            assert shown() == [7000, None], "its daemon goes on listening"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("asked_at", "address", "port", "endpoint"),
    [
        ("10.0.0.1", "10.0.0.2", 6014, "10.0.0.2:6014"),
        ("10.0.0.1", "127.0.0.1", 6014, "10.0.0.1:6014"),  # the machine of the coordinator
        ("127.0.0.1", "127.0.0.1", 6014, "127.0.0.1:6014"),
        ("10.0.0.1", "fd00::2", 6014, "[fd00::2]:6014"),
        ("10.0.0.1", "10.0.0.2", 0, ""),
        ("10.0.0.1", "10.0.0.2", None, None),
    ],
)
def test_the_endpoint_of_a_machine_is_where_others_reach_it(
    asked_at: str, address: str, port: int | None, endpoint: str | None
) -> None:
    machine = MachineView(id="robot", address=address, link_port=port)
    assert Client(asked_at, 6013, authority="").link_endpoint(machine) == endpoint


def test_a_user_gives_up_a_machine_that_is_out_of_reach(data_folder: Path) -> None:
    async def stop() -> None:
        async with coordinating(data_folder) as coordinator:
            link = join(coordinator, "far", lambda _: None)
            running = RunReport(coordinator.start(SPEC).uuid, "Running")
            coordinator.handle(link, running)
            coordinator.fleet.disconnect(link, silent=True)
            coordinator.stop("arm", None, True)
            view = coordinator.dataflow("arm")
            assert view.status == "Finished" and "it is out of reach" in view.reason
            heard: list[ToDaemon] = []
            join(coordinator, "far", heard.append, running)
            assert StopRun(running.dataflow_id, force=True) in heard

    asyncio.run(stop())


def test_a_machine_hears_again_of_a_stop_that_may_have_been_lost(data_folder: Path) -> None:
    async def stop() -> None:
        async with coordinating(data_folder) as coordinator:
            link = join(coordinator, "far", lambda _: None)
            running = RunReport(coordinator.start(SPEC).uuid, "Running")
            coordinator.handle(link, running)
            coordinator.stop("arm", 2.0, False)
            coordinator.fleet.disconnect(link, silent=True)
            heard: list[ToDaemon] = []
            join(coordinator, "far", heard.append, running)
            assert StopRun(running.dataflow_id, 2.0, False) in heard

    asyncio.run(stop())


def test_the_end_of_a_former_connection_is_nothing_to_the_present_one(data_folder: Path) -> None:
    """A daemon may be back before the coordinator knows that it was gone."""

    async def come_back() -> None:
        async with coordinating(data_folder) as coordinator:
            clock = Clock()
            former = join(coordinator, "far", lambda _: None)
            running = RunReport(coordinator.start(SPEC).uuid, "Running")
            coordinator.handle(former, running)
            present = join(coordinator, "far", lambda _: None, running)
            coordinator.disconnect(former, silent=False)
            await clock.advance(2 * LOST_AFTER)
            assert coordinator.fleet.connections == {"far": present}
            assert coordinator.dataflow("arm").status == "Running"

    asyncio.run(come_back())


def test_a_daemon_gets_its_time_to_come_back_each_time_that_it_is_gone(data_folder: Path) -> None:
    async def come_back() -> None:
        async with coordinating(data_folder) as coordinator:
            clock = Clock()
            link = join(coordinator, "far", lambda _: None)
            running = RunReport(coordinator.start(SPEC).uuid, "Running")
            coordinator.handle(link, running)
            for _ in range(2):
                coordinator.disconnect(link, silent=False)
                await clock.advance(0.7 * LOST_AFTER)
                assert coordinator.dataflow("arm").status == "Running"
                link = join(coordinator, "far", lambda _: None, running)
            coordinator.disconnect(link, silent=False)
            await clock.advance(1.2 * LOST_AFTER)
            assert coordinator.dataflow("arm").status == "Failed"

    asyncio.run(come_back())


def test_a_part_that_ends_without_a_result_is_lost_to_the_others(data_folder: Path) -> None:
    """They would wait for its nodes for ever. How the nodes ended is known if there is a result."""

    async def end(report: RunReport) -> list[MachineLost]:
        async with coordinating(data_folder) as coordinator:
            heard: list[ToDaemon] = []
            far, near = join(coordinator, "far", lambda _: None), join(coordinator, "near", heard.append)
            dataflow_id = coordinator.start(SPREAD).uuid
            for link in (far, near):
                coordinator.handle(link, RunReport(dataflow_id, "Starting", port=1))
            coordinator.handle(far, msgspec.structs.replace(report, dataflow_id=dataflow_id))
            coordinator.handle(near, RunReport(dataflow_id, "Finished", DataflowResult(dataflow_id)))
            return [msgspec.structs.replace(lost, dataflow_id="id") for lost in lost_of(heard)]

    failed = RunReport("id", "Failed", reason="there is no file a.py")
    assert asyncio.run(end(failed)) == [MachineLost("id", "far", "there is no file a.py")]
    assert asyncio.run(end(RunReport("id", "Failed", DataflowResult("id")))) == []


def test_a_part_that_a_record_has_lost_is_known_with_its_daemon(data_folder: Path) -> None:
    async def adopt() -> None:
        async with coordinating(data_folder) as coordinator:
            heard: list[ToDaemon] = []
            running = RunReport("a dataflow", "Running")
            link = join(coordinator, "far", heard.append, running)
            assert DescribeRun(running.dataflow_id) in heard
            spec = msgspec.structs.replace(SPEC, machines={"a": "far"})
            coordinator.handle(link, RunDescription(running, spec))
            assert coordinator.dataflow("arm").status == "Running"
            coordinator.disconnect(link, silent=True)
            join(coordinator, "far", heard.append)  # the same daemon
            reason = "its daemon was to start it, and does not know it"
            assert coordinator.dataflow("arm").reason == reason

    asyncio.run(adopt())


def test_a_dataflow_that_has_run_does_not_start_again_with_the_coordinator(data_folder: Path) -> None:
    async def restart() -> None:
        async with spread(data_folder) as (coordinator, running, _near, _heard):
            assert coordinator.dataflow("arm").status == "Running"
        async with coordinating(data_folder) as coordinator:
            join(coordinator, "near", lambda _: None, running)
            assert coordinator.dataflow("arm").status == "Running", "`far` has not reported yet"

    asyncio.run(restart())


def test_the_limit_also_counts_for_a_machine_that_a_record_has_lost(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_UNREACHABLE_AFTER", "60")

    async def wait() -> None:
        async with coordinating(data_folder) as coordinator:
            heard: list[ToDaemon] = []
            link = join(coordinator, "far", heard.append)
            running = RunReport(coordinator.start(SPEC).uuid, "Running", port=1, revision=1)
            coordinator.handle(link, running)
            coordinator.handle(link, RunDescription(running, msgspec.structs.replace(SPREAD, revision=1)))
            assert coordinator.dataflow("arm").machines == ["far", "near"]
            await Clock().advance(70.0)
            assert [lost.machine for lost in lost_of(heard)] == ["near"]

    asyncio.run(wait())


def test_no_part_is_started_again_while_the_former_one_still_ends(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_UNREACHABLE_AFTER", "60")

    async def come_back() -> None:
        async with coordinating(data_folder) as coordinator:
            heard: list[ToDaemon] = []
            back: list[ToDaemon] = []
            far, near = join(coordinator, "far", lambda _: None), join(coordinator, "near", heard.append)
            running = RunReport(coordinator.start(SPREAD).uuid, "Running", port=1)
            for link in (far, near):
                coordinator.handle(link, running)
            coordinator.disconnect(far, silent=True)
            await Clock().advance(70.0)
            far = join(coordinator, "far", back.append, running)
            assert StopRun(running.dataflow_id, force=True, may_return=True) in back
            loss = lost_of(heard)[0].loss
            coordinator.handle(near, msgspec.structs.replace(running, lost={loss: PART}))
            assert starts_of(back) == []
            coordinator.handle(far, RunReport(running.dataflow_id, "Finished"))
            assert starts_of(back) == [PART]

    asyncio.run(come_back())


def test_a_dataflow_that_was_lost_and_is_back_keeps_its_record(data_folder: Path) -> None:
    async def come_back() -> None:
        async with coordinating(data_folder) as coordinator:
            link = join(coordinator, "far", lambda _: None)
            running = RunReport(coordinator.start(SPEC).uuid, "Running")
            coordinator.handle(link, running)
            coordinator.disconnect(link, silent=False)
            await Clock().advance(LOST_AFTER + 0.1)
            assert coordinator.dataflow("arm").status == "Failed"
            join(coordinator, "far", lambda _: None, running)
            assert coordinator.clean() == []
            assert coordinator.dataflow("arm").status == "Running"

    asyncio.run(come_back())
