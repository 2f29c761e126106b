"""Finding the dataflows that run, and changing the parameters of their nodes."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from ports import free_port
from running import Bench
from waiting import TIMEOUT, wait_until

from dora._ownership import connect_own
from dora.cli import attach
from dora.cli.attach import _Follower
from dora.cli.commands.up import _dataflows_here
from dora.cli.log_location import find_log_location, local_log_location
from dora.cli.run_reporter import RunReporter
from dora.cli.running import RunningDataflow
from dora.cli.select import connected_runs
from dora.cluster.client import Client, RequestRefused, Unreachable
from dora.cluster.http_api import DataflowView
from dora.daemon.client import DaemonClient, fits, name_of, running
from dora.daemon.logs.reader import LogReader
from dora.daemon.options import LocalRunOptions
from dora.daemon.run_directory import usable_root
from dora.dataflow.model import RestartOptions
from dora.errors import ConnectError, DoraError
from dora.transport.engines import best_engine
from dora.wire.correlation import uuid7
from dora.wire.daemon_protocol import (
    DataflowEnded,
    DeleteParameter,
    Description,
    FilePart,
    GetParameters,
    Inspection,
    Parameters,
    ReadSavedFile,
    RunProgress,
    SetParameter,
)
from dora.wire.framing import encode_frame
from dora.wire.node_protocol import RegistrationRefused
from dora.wire.operations import OperationResult

pytestmark = pytest.mark.processes

# A node that prints its parameters and every change, and ends with the parameter `end`.
NODE = """
    import os
    from control_peer import Peer

    peer = Peer()
    print("at start", peer.config.parameters, flush=True)
    while True:
        frame = peer.receive()
        print(frame, flush=True)
        if type(frame).__name__ == "ParamUpdateFrame" and frame.key == "end":
            os._exit(frame.value)
        if frame is None or type(frame).__name__ == "StopFrame":
            break
    peer.close()
"""


def only_run() -> DaemonClient:
    (run,) = running()
    return run


class Live:
    """A dataflow of one node that runs in a thread while the test asks it things."""

    def __init__(self, bench: Bench, **node: Any) -> None:
        self.bench = bench
        node.setdefault("parameters", {"gain": 0.5})
        self.node = bench.node("a", NODE, **node)
        self.failures: list[BaseException] = []

    def during(self, check: Callable[[DaemonClient], None]) -> None:
        started = threading.Event()

        def on_entry(entry: Any) -> None:
            if entry.message.startswith("at start"):
                started.set()

        def ask() -> None:
            try:
                assert started.wait(TIMEOUT)
                with only_run() as run:
                    try:
                        check(run)
                    finally:
                        run.ask(SetParameter("a", "end", 0))
            except BaseException as error:  # noqa: BLE001 - reported below
                self.failures.append(error)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        self.bench.run(self.node, on_entry=on_entry, file="/nowhere/lab.yml")
        thread.join(TIMEOUT)
        if self.failures:
            raise self.failures[0]


def test_parameters_are_listed_set_and_deleted(bench: Bench) -> None:
    def check(run: DaemonClient) -> None:
        assert run.ask(GetParameters("a")) == Parameters({"gain": 0.5})
        assert run.ask(SetParameter("a", "mode", {"fast": [1, None]})) == OperationResult("a")
        assert run.ask(DeleteParameter("a", "gain")) == OperationResult("a")
        assert run.ask(GetParameters("a")) == Parameters({"mode": {"fast": [1, None]}})
        with pytest.raises(DoraError, match="has no parameter `gain`"):
            run.ask(DeleteParameter("a", "gain"))

    Live(bench).during(check)
    assert bench.lines("a") == [
        "at start {'gain': 0.5}",
        "ParamUpdateFrame(key='mode', value={'fast': [1, None]})",
        "ParamDeletedFrame(key='gain')",
        "ParamUpdateFrame(key='end', value=0)",
    ]


def test_a_restarted_node_starts_with_the_present_parameters(bench: Bench) -> None:
    def check(run: DaemonClient) -> None:
        run.ask(SetParameter("a", "gain", 3))
        run.ask(SetParameter("a", "end", 1))
        wait_until(lambda: len([x for x in bench.lines("a") if x.startswith("at start")]) == 2, "a restart")

    Live(bench, restart=RestartOptions(policy="on-failure")).during(check)
    starts = [line for line in bench.lines("a") if line.startswith("at start")]
    assert starts == ["at start {'gain': 0.5}", "at start {'gain': 3, 'end': 1}"]


def test_a_run_reports_its_dataflow(bench: Bench) -> None:
    def check(run: DaemonClient) -> None:
        logs = f"{bench.directory}/out/{bench.ids[-1]}"
        assert run.description == Description(bench.ids[-1], "/nowhere/lab.yml", ["a"], log_directory=logs)
        assert name_of(run.description) == "lab"
        for wanted in (bench.ids[-1], bench.ids[-1][:8].upper(), "lab", "/nowhere/lab.yml"):
            assert fits(run.description, wanted)
        assert not fits(run.description, "labor")

    Live(bench).during(check)


def test_the_logs_of_a_run_are_found_wherever_its_file_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DORA_COORDINATOR_PORT", raising=False)

    def check(_: DaemonClient) -> None:
        logs = find_log_location(Client("127.0.0.1", free_port()), "lab")
        assert LogReader(logs.directory).nodes() == ["a"]
        with RunningDataflow(only_run()) as run:
            assert run.log_directory == logs.directory

    Live(bench).during(check)


def test_the_logs_of_an_ended_run_are_found_by_its_name_or_the_name_of_its_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DORA_COORDINATOR_PORT", raising=False)
    node = bench.node("a", "print('done')")
    for file, name in (("lab", ""), ("lab", ""), ("other", ""), ("other", "arm")):
        options = LocalRunOptions(engine=best_engine(), name=name)
        bench.run(node, file=f"{bench.directory}/{file}.yml", options=options)
    monkeypatch.chdir(bench.directory)
    client = Client("127.0.0.1", free_port())
    found = [find_log_location(client, wanted).dataflow_id for wanted in ("lab", "other", "arm")]
    assert found == bench.ids[1:], "of several, the newest"
    assert local_log_location("arm").dataflow_id == bench.ids[-1]
    with pytest.raises(DoraError, match="there are no log files of `leg`"):
        local_log_location("leg")


class FalseCoordinator:
    """Answers each request for a dataflow with the same view, or the same error."""

    def __init__(self, answer: DataflowView | DoraError) -> None:
        self.answer = answer

    def dataflow(self, _: str) -> DataflowView:
        if isinstance(self.answer, DoraError):
            raise self.answer
        return self.answer


@pytest.mark.usefixtures("runtime_root")
def test_logs_are_looked_for_below_out_if_the_coordinator_does_not_know_the_dataflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataflow_id = str(uuid7())
    os.makedirs(f"out/{dataflow_id}")
    coordinator = FalseCoordinator(RequestRefused(404, "there is no such dataflow"))
    assert find_log_location(cast(Client, coordinator), dataflow_id).dataflow_id == dataflow_id
    coordinator.answer = RequestRefused(409, "several dataflows are called so")
    with pytest.raises(RequestRefused, match="several"):
        find_log_location(cast(Client, coordinator), dataflow_id)


def test_a_dataflow_goes_on_while_its_coordinator_is_away() -> None:
    view = DataflowView(uuid=str(uuid7()), name="lab", status="Running", nodes=["a"])
    coordinator = FalseCoordinator(view)
    logs = find_log_location(cast(Client, coordinator), "lab")
    assert not logs.ended()
    coordinator.answer = Unreachable("it is away", lambda: "")
    assert (logs.ended(), logs.failure()) == (False, "")
    coordinator.answer = RequestRefused(404, "its record was removed")
    assert (logs.ended(), logs.failure()) == (True, "")
    coordinator.answer = msgspec.structs.replace(view, status="Finished")
    assert logs.ended()


class OtherMachine:
    """Answers requests for a dataflow on other machines, or refuses them."""

    saved = bytes(range(256)) * 4

    def __init__(self) -> None:
        self.refusal: RequestRefused | None = None
        self.parts = 0

    def ask(self, dataflow_id: str, request: object, _: str) -> object:
        if self.refusal is not None:
            raise self.refusal
        if isinstance(request, ReadSavedFile):
            self.parts += 1
            assert self.parts < 10
            return FilePart(self.saved[request.offset : request.offset + 300])
        return Inspection(dataflow_id, None, best_engine(), "", "", "", [], [])


def running_elsewhere() -> tuple[RunningDataflow, OtherMachine]:
    machine = OtherMachine()
    view = DataflowView(uuid=str(uuid7()), name="lab", status="Running", nodes=[], machines=["arm"])
    return RunningDataflow(None, view, cast(Client, machine)), machine


@pytest.mark.parametrize("status", [404, 409])
def test_a_dataflow_on_other_machines_has_ended_once_the_coordinator_knows_no_run_of_it(
    status: int,
) -> None:
    dataflow, machine = running_elsewhere()
    dataflow.refresh()
    machine.refusal = RequestRefused(status, "it does not run")
    with pytest.raises(ConnectError, match="the dataflow has ended"):
        dataflow.refresh()
    machine.refusal = RequestRefused(504, "its machine does not answer")
    with pytest.raises(RequestRefused, match="does not answer"):
        dataflow.refresh()


def test_a_saved_file_of_another_machine_comes_in_parts(tmp_path: Path) -> None:
    dataflow, machine = running_elsewhere()
    dataflow._fetch("arm", "/saved.mcap", str(tmp_path / "part.mcap"))
    assert (tmp_path / "part.mcap").read_bytes() == machine.saved


def test_an_unknown_request_closes_its_connection_only(bench: Bench) -> None:
    request = encode_frame(SetParameter("a", "deep", None))[4:]
    assert request.endswith(b"\xc0")
    deep = request[:-1] + b"\x91" * 100_000 + b"\xc0"  # a list in a list in a list …

    def check(run: DaemonClient) -> None:
        for body in (deep, b"\xff", b""):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                peer.settimeout(TIMEOUT)
                peer.connect(run.path)
                peer.sendall(len(body).to_bytes(4, "little") + body)
                assert peer.recv(1) == b""
        assert run.ask(GetParameters("a")) == Parameters({"gain": 0.5})

    Live(bench).during(check)


@contextmanager
def false_daemon(folder: str, answer: bytes) -> Iterator[str]:
    """A daemon that gives every connection the same answer, or none; gives its path."""
    path = f"{folder}/daemon.sock"
    peers = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            with suppress(OSError):  # the end of the test
                while True:
                    peer, _ = listener.accept()
                    peers.append(peer)
                    peer.recv(1000)
                    peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for peer in peers:
                peer.close()


OF_ANOTHER_VERSION = encode_frame(RegistrationRefused("the first frame has to be a registration"))


def test_a_daemon_of_another_version(runtime_root: str) -> None:
    with (
        false_daemon(runtime_root, OF_ANOTHER_VERSION) as path,
        pytest.raises(ConnectError, match="another version of dora; use the `dora` that started it"),
    ):
        DaemonClient(path)


def test_the_end_of_a_dataflow_is_no_answer(runtime_root: str) -> None:
    ended = DataflowEnded([])
    about = Description("id", None, ["a"])
    answers = encode_frame(ended) + encode_frame(about)
    with false_daemon(runtime_root, answers) as path, DaemonClient(path) as run:
        assert (run.description, run.ended) == (about, ended)
        assert run.look_for_end()


@pytest.mark.parametrize("answer", [OF_ANOTHER_VERSION, encode_frame(Parameters({}))])
def test_a_connection_that_fails_is_closed(
    answer: bytes, runtime_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets: list[socket.socket] = []

    def connect(path: str, timeout: float) -> socket.socket:
        sockets.append(connect_own(path, timeout))
        return sockets[-1]

    monkeypatch.setattr("dora.daemon.client.connect_own", connect)
    with false_daemon(runtime_root, answer) as path, pytest.raises(ConnectError):
        DaemonClient(path)
    assert [each.fileno() for each in sockets] == [-1]


@pytest.mark.usefixtures("runtime_root")
@pytest.mark.parametrize(
    ("answer", "reason"),
    [(OF_ANOTHER_VERSION, "is of another version of dora"), (b"", "does not answer; it may be suspended")],
    ids=["of another version", "suspended"],
)
def test_a_run_that_cannot_be_asked_is_named(
    answer: bytes,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("dora.daemon.client._PATIENCE", 0.05)
    folder = f"{usable_root()}/0123456789ab"
    os.mkdir(folder, 0o700)
    with false_daemon(folder, answer) as path:
        assert connected_runs() == []
        assert connected_runs() == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: the daemon at {path} {reason}")
    assert connected_runs() == [], "its socket is left, and nobody listens"
    assert not capsys.readouterr().err


def end_of_latest_logs() -> None:
    os.makedirs(f"out/{uuid7()}")
    assert local_log_location(None).ended()


def dataflows_that_down_would_stop() -> None:
    assert _dataflows_here(Client("127.0.0.1", free_port())) == []


def progress_of_a_dataflow() -> None:
    """It is asked for again and again."""
    over = threading.Event()
    asked = iter((False, True))

    def dataflow(_: str) -> None:
        if next(asked):
            over.set()
        raise ConnectError("nobody is there")

    client = cast(Client, SimpleNamespace(dataflow=dataflow))
    view = DataflowView(uuid=str(uuid7()), name="lab", status="Running", nodes=["a"])
    _Follower(client, view, RunReporter("lines", one_screen=False), over).follow(until_started=False)


@pytest.mark.usefixtures("runtime_root")
@pytest.mark.parametrize(
    "look", [end_of_latest_logs, dataflows_that_down_would_stop, progress_of_a_dataflow]
)
def test_each_look_at_the_runs_names_one_that_cannot_be_asked_once(
    look: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(attach, "_START_INTERVAL", 0.0)
    monkeypatch.setattr(attach, "_INTERVAL", 0.0)
    folder = f"{usable_root()}/0123456789ab"
    os.mkdir(folder, 0o700)
    with false_daemon(folder, OF_ANOTHER_VERSION) as path:
        look()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: the daemon at {path} is of another version of dora")


def test_after_a_daemon_that_has_gone_another_one_is_asked_for_the_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Run:
        def __init__(self, progress: RunProgress | None) -> None:
            self.result = progress
            self.closed = False

        def progress(self) -> RunProgress:
            assert not self.closed
            if self.result is None:
                raise ConnectError("it has gone")
            return self.result

        def close(self) -> None:
            assert not self.closed
            self.closed = True

    monkeypatch.setattr(attach, "_START_INTERVAL", 0.0)
    monkeypatch.setattr(attach, "_INTERVAL", 0.0)
    started = RunProgress(1, True, False, (), 1, (), (), 0, 0, 0)
    runs = [Run(None), Run(None), Run(started)]
    left = iter(runs)
    monkeypatch.setattr(attach, "_connect", lambda *_: next(left))
    view = DataflowView(uuid=str(uuid7()), name="lab", status="Running", nodes=["a"])
    reporter = RunReporter("lines", one_screen=False)
    _Follower(cast(Client, None), view, reporter, threading.Event()).follow(until_started=True)
    assert all(run.closed for run in runs)


def test_nothing_runs(runtime_root: str) -> None:
    assert list(running()) == []
    os.rmdir(runtime_root)
    assert list(running()) == []
    with pytest.raises(ConnectError, match="cannot be reached"):
        DaemonClient(f"{runtime_root}/daemon.sock")
