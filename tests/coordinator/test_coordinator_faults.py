"""What is killed, and what is left: coordinator, daemon, runs and nodes in any order."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from ports import free_port
from system import FOREVER, System
from tokens import TOKEN, bearer
from waiting import TIMEOUT, alive, wait_until

from dora.cli.commands.list import list_dataflows
from dora.cli.commands.up import down, stop_coordinator
from dora.cluster.agent.identity import running_daemon
from dora.cluster.client import RequestRefused

pytestmark = pytest.mark.processes


def test_a_killed_coordinator_stops_nothing_and_forgets_nothing(system: System) -> None:
    system.dora("up")
    ended = system.start(system.dataflow("first", a=FOREVER))
    system.dora("stop")
    running = system.start(system.dataflow("second", a=FOREVER))
    over = system.start(system.dataflow("third", a=FOREVER))
    pids = system.node_pids(running)
    os.kill(system.coordinator(), signal.SIGKILL)
    # One ends while nobody is there to record it.
    for pid in system.node_pids(over):
        os.kill(pid, signal.SIGKILL)
    assert all(alive(pid) for pid in pids)
    assert system.dora("up").startswith("started dora coordinator\ndaemon already running\n")
    assert [system.status_of(run) for run in (ended, running)] == ["Finished", "Running"]
    wait_until(lambda: system.status_of(over) == "Failed", "the record of the end")
    system.dora("stop", "second")
    assert not any(alive(pid) for pid in pids)


def test_a_list_without_the_coordinator_of_a_running_daemon(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = (option for option in list_dataflows.params if option.name == "coordinator_port")
    system.dora("up")
    run = system.start(system.dataflow("arm", a=FOREVER))
    os.kill(system.coordinator(), signal.SIGKILL)
    wait_until(lambda: not system.client.is_reachable(), "the end of the coordinator")
    with monkeypatch.context() as unnamed:
        unnamed.setattr(port, "default", system.port)
        unnamed.delenv("DORA_COORDINATOR_PORT")
        assert system.dora("list", "-q") == (
            "Dataflows of the daemon go on running, but are not shown: there is no coordinator at "
            f"127.0.0.1:{system.port}. Start it with `dora up`.\n"
        )
    system.dora("up")
    assert system.dora("list", "-q") == f"{run}\n"


def test_commands_name_the_other_address_at_which_a_coordinator_listens(system: System) -> None:
    where = "127.0.0.2"
    system.dora("up", "--interface", where, "--coordinator-addr", where)
    hint = f"One of this machine listens at {where}:{system.port}: set DORA_COORDINATOR_ADDR={where}"
    try:
        assert system.dora("status", "--coordinator-addr", where).startswith("✓ Coordinator: Running")
        for command in ("up", "status", "down", "stop"):
            told = system.dora(command, status=1)
            assert hint in told and "Start it with" not in told
    finally:
        system.dora("down", "--coordinator-addr", where)
    assert hint not in system.dora("status", status=1)


def test_nodes_end_with_their_killed_daemon(system: System) -> None:
    system.dora("up")
    run = system.start(system.dataflow("arm", a=FOREVER, b=FOREVER))
    pids = system.node_pids(run)
    assert len(pids) == 2
    os.kill(system.daemon(), signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in pids), "the end of the nodes")
    wait_until(lambda: not system.client.status().daemons, "the report of its end")
    assert "no daemon is connected" in system.dora("stop", "arm", status=1)
    assert "✗ Daemon: Not running" in system.dora("status", status=1)
    assert "started dora daemon\n" in system.dora("up")
    # Whichever the coordinator learns first: that the daemon does not come back, or that there is another.
    reason = system.client.dataflow(run).reason
    assert reason in [f"its daemon {how}, and all nodes with it" for how in ("ended", "is gone")]
    system.start("arm.yml")


@pytest.mark.slow
def test_a_coordinator_that_comes_back_with_another_token(system: System) -> None:
    system.dora("up")
    run = system.start(system.dataflow("arm", a=FOREVER))
    os.kill(system.coordinator(), signal.SIGKILL)
    log = system.folder / "out" / "dora-daemon.txt"
    command = [sys.executable, "-m", "dora", "coordinator", "--quiet"]
    stranger = subprocess.Popen(command, env={**os.environ, "DORA_AUTH_TOKEN": TOKEN})
    try:
        wait_until(lambda: "it does not know your token" in log.read_text(), "the refusal")
    finally:
        stranger.kill()
        stranger.wait()
    assert len(system.node_pids(run)) == 1
    system.dora("up")
    assert system.status_of(run) == "Running"


def test_a_dataflow_fails_if_coordinator_and_daemon_are_killed(system: System) -> None:
    system.dora("up")
    run = system.start(system.dataflow("arm", a=FOREVER))
    coordinator = system.coordinator()
    os.kill(system.daemon(), signal.SIGKILL)
    os.kill(coordinator, signal.SIGKILL)
    system.dora("up")
    assert system.status_of(run) == "Failed"


def test_a_killed_run_is_reported(shared: System) -> None:
    run = shared.start(shared.dataflow("arm", a=FOREVER), "--no-preload")  # so its parent is the worker
    other = shared.start(shared.dataflow("leg", a=FOREVER))
    pids = shared.node_pids(run)
    parent = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    view = shared.client.wait(run)
    assert view.status == "Failed"
    assert view.reason.startswith("the process that ran it was killed by signal 9")
    wait_until(lambda: not any(alive(pid) for pid in pids), "the end of the nodes")
    assert shared.status_of(other) == "Running"


def test_a_killed_node_is_reported(shared: System) -> None:
    run = shared.start(shared.dataflow("arm", a=FOREVER))
    os.kill(shared.node_pids(run)[0], signal.SIGKILL)
    view = shared.client.wait(run)
    assert view.result is not None
    assert view.result.failures[0].signal == 9


def test_down_without_a_coordinator_ends_the_daemon(system: System) -> None:
    system.dora("up")
    pid = system.daemon()
    os.kill(system.coordinator(), signal.SIGKILL)
    assert "the daemon was running and has been stopped" in system.dora("down")
    wait_until(lambda: not alive(pid), "the end of the daemon")


def test_down_without_a_coordinator_refuses_while_dataflows_run(system: System) -> None:
    system.dora("up")
    pid = system.daemon()
    run = system.start(system.dataflow("arm", a=FOREVER))
    os.kill(system.coordinator(), signal.SIGKILL)
    wait_until(lambda: not system.client.is_reachable(), "the end of the coordinator")
    told = system.dora("down", status=1)
    assert f"its daemon here runs 1 dataflow(s):\n  - [arm] {run}\n" in told
    assert "`dora up` starts the coordinator again" in told and "`dora down --force`" in told
    assert alive(pid) and all(map(alive, system.node_pids(run)))
    assert "the daemon was running and has been stopped" in system.dora("down", "--force")
    wait_until(lambda: not alive(pid) and not system.node_pids(run), "the end of the daemon")


def test_down_without_a_coordinator_says_that_the_daemon_does_not_end(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.dora("up")
    monkeypatch.setattr("dora.cli.commands.up.DOWN_TIMEOUT", 0.5)
    os.kill(system.coordinator(), signal.SIGKILL)
    wait_until(lambda: not system.client.is_reachable(), "the end of the coordinator")
    os.kill(daemon := system.daemon(), signal.SIGSTOP)
    try:
        told = system.dora("down", status=1)
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert "error: the daemon of this machine has not ended within 0.5 s" in told
    assert "has been stopped" not in told


def test_up_starts_a_daemon_while_another_one_is_ending(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([1])
    monkeypatch.setattr(
        "dora.cluster.agent.identity.running_daemon", lambda *where: next(found, running_daemon(*where))
    )
    assert "started dora daemon" in system.dora("up")
    assert len(system.client.status().daemons) == 1


def test_down_returns_when_coordinator_and_daemon_have_ended(system: System) -> None:
    system.dora("up")
    pids = [system.coordinator(), system.daemon()]
    assert "destroyed successfully" in system.dora("down")
    assert not any(alive(pid) for pid in pids)


@pytest.mark.slow
def test_down_says_that_a_daemon_does_not_end(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    system.dora("up")
    monkeypatch.setattr("dora.cli.commands.up.DOWN_TIMEOUT", 0.5)
    os.kill(daemon := system.daemon(), signal.SIGSTOP)
    try:
        told = system.dora("down", status=1)
    finally:
        os.kill(daemon, signal.SIGCONT)
    where = f"the coordinator at 127.0.0.1:{system.port} or the daemon of this machine"
    assert f"error: {where} has not ended within 0.5 s" in told
    assert "destroyed successfully" not in told


@pytest.mark.usefixtures("system")
def test_down_succeeds_while_a_daemon_is_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    found = iter([ended.pid, None])
    monkeypatch.setattr("dora.cluster.agent.identity.running_daemon", lambda *_: next(found))
    told = CliRunner().invoke(down)
    assert (told.exception, told.exit_code) == (None, 0)
    assert "the daemon was running and has been stopped" in told.output


def test_a_terminated_daemon_stops_its_dataflows_in_good_order(system: System) -> None:
    system.dora("up")
    run = system.start(system.dataflow("arm", a=FOREVER))
    os.kill(system.daemon(), signal.SIGTERM)
    assert system.client.wait(run).status == "Finished"
    assert system.dora("logs", run, "--tail", "1").rstrip().endswith("got STOP")


def test_a_second_daemon_is_refused(shared: System) -> None:
    told = shared.dora("daemon", status=1)
    assert f"a daemon of the coordinator at 127.0.0.1:{shared.port} is running already" in told


@pytest.mark.slow
def test_a_broken_store_is_reported(system: System) -> None:
    path = system.folder / "data" / f"coordinator-{system.port}.sqlite"
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 100)
    told = system.dora("up", status=1)
    assert "the coordinator could not be started: the store" in told and "--recreate-store" in told
    wait_until(lambda: running_daemon("127.0.0.1", system.port) is None, "the end of its daemon")
    wait_until(lambda: "coordinator" in system.dora("up", "--recreate-store"), "the start")
    assert path.with_name(path.name + ".backup").exists()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_places_that_cannot_be_used(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as wrong:
        wrong.setenv("DORA_DATA_DIR", "/proc/dora")
        told = system.dora("up", status=1)
        assert "the store /proc/dora/coordinator-" in told
        assert "name a folder that can be written in DORA_DATA_DIR" in told
    token = system.folder / "config" / "dora" / ".dora-token"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.write_bytes(b"\xff")
    token.chmod(0o600)
    assert f"there is no usable token in {token}: a token has at least 32" in system.dora("up", status=1)
    token.unlink()


# --------------------------------------------------------------------------- the API


def ask(system: System, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
    """Send a request with the token, unless ``Authorization`` says otherwise."""
    headers = {**bearer(), **headers}
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=TIMEOUT)
    try:
        connection.request(
            method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_requests_that_are_no_good(shared: System) -> None:
    json_type = "application/json"
    status, told = ask(shared, "POST", "/api/dataflows", b"{", Content_Type=json_type)
    assert (status, "the request is not understood" in told) == (400, True)
    status, told = ask(shared, "POST", "/api/dataflows", b'{"spec": 7}', Content_Type=json_type)
    assert status == 400
    spec = b'{"spec": {"name": "x", "dataflow": {"nodes": 3}}}'
    assert ask(shared, "POST", "/api/dataflows", spec, Content_Type=json_type)[0] == 400
    assert ask(shared, "POST", "/api/dataflows", b"x" * (17 << 20), Content_Type=json_type)[0] == 413
    assert ask(shared, "POST", "/api/down", b"{}", Content_Type="text/plain")[0] == 415
    assert ask(shared, "GET", "/api/dataflows/nothing")[0] == 404
    assert ask(shared, "GET", "/api/dataflows/x/wait?timeout=soon")[0] == 400
    assert ask(shared, "GET", "/nowhere")[0] == 404
    assert shared.client.status().active_dataflows == 0


@pytest.mark.slow
def test_a_coordinator_at_another_address_has_the_store(shared: System) -> None:
    told = shared.dora("coordinator", "--interface", "127.0.0.2", status=1)
    assert "is in use by another coordinator; choose another port" in told
    told = shared.dora("up", "--interface", "127.0.0.2", "--recreate-store", status=1)
    assert "is in use by another coordinator; end it with `dora down`" in told
    assert "coordinator already running" in shared.dora("up")


def test_an_interface_that_is_asked_for_too_late(shared: System) -> None:
    told = shared.dora("up", "--interface", "0.0.0.0", status=1)
    assert "it listens on 127.0.0.1 only; stop it with `dora down`" in told


def test_a_daemon_reports_why_the_coordinator_refuses_the_connection(system: System) -> None:
    with socket.create_server(("127.0.0.1", system.port)) as other:
        command = [sys.executable, "-m", "dora", "daemon"]
        daemon = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert daemon.stderr is not None
        try:
            peer, _ = other.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"220 mail\r\n")
            assert "is not a dora coordinator; trying again and again" in daemon.stderr.readline()
            other.close()
            told = iter(daemon.stderr.readline, "")
            assert any(f"127.0.0.1:{system.port}: Connection refused; trying" in line for line in told)
        finally:
            daemon.terminate()
            daemon.communicate(timeout=TIMEOUT)


def test_requests_of_foreign_web_pages_are_refused(shared: System) -> None:
    assert ask(shared, "POST", "/api/down", Origin="http://evil.example")[0] == 403
    assert ask(shared, "GET", "/api/status", Host=f"evil.example:{shared.port}")[0] == 403
    assert ask(shared, "GET", "/api/status", Origin=f"http://127.0.0.1:{shared.port}")[0] == 200


def test_versions_that_do_not_fit(shared: System) -> None:
    status, told = ask(shared, "GET", "/api/status", dora_version="99.1.0")
    assert status == 426
    assert "the command is dora 99.1.0 and the coordinator is dora " in told


def test_the_openapi_document_lists_every_operation(shared: System) -> None:
    status, text = ask(shared, "GET", "/openapi.json")
    document = json.loads(text)
    assert status == 200
    assert set(document["paths"]["/api/dataflows"]) == {"get", "post", "delete"}
    assert "DataflowView" in document["components"]["schemas"]


def test_a_token(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    system.dora("up")
    token = system.folder / "config" / "dora" / ".dora-token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    run = system.start(system.dataflow("arm", a=FOREVER))
    status, told = ask(system, "GET", "/api/status", Authorization="")
    assert status == 401 and "this coordinator wants its token" in told
    assert ask(system, "GET", "/api/status", Authorization=f"Bearer {TOKEN}")[0] == 401
    monkeypatch.setenv("DORA_AUTH_TOKEN", TOKEN)
    told = system.dora("list", status=1)
    assert "is not your dora coordinator: it does not know your token (DORA_AUTH_TOKEN)" in told
    monkeypatch.delenv("DORA_AUTH_TOKEN")
    assert system.dora("list", "-q") == f"{run}\n"


def test_an_address_at_which_the_new_coordinator_would_not_listen(system: System) -> None:
    told = system.dora("up", "--coordinator-addr", "robot.invalid", status=1)
    assert "would listen on 127.0.0.1; to start it there, give --interface robot.invalid" in told
    assert not (system.folder / "out").exists()


def test_down_ends_a_coordinator_of_another_version(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.dora("up")
    monkeypatch.setattr("dora.cluster.client.__version__", "99.1.0")
    with pytest.raises(RequestRefused, match=r"the command is dora 99\.1\.0"):
        system.client.status()
    stop_coordinator(system.client, force=False)
    assert not system.client.is_reachable()


@pytest.mark.slow
@pytest.mark.parametrize("store", ["redb:{}/records", "{}/records", "memory"])
def test_the_path_of_the_store_can_be_chosen(system: System, store: str) -> None:
    chosen = store.format(system.folder)
    command = [sys.executable, "-m", "dora", "coordinator", "--store", chosen]
    coordinator = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert coordinator.stderr is not None
    assert "listening on" in coordinator.stderr.readline()
    system.dora("up")
    system.start(system.dataflow("arm", a=FOREVER))
    assert (system.folder / "records").exists() == (store != "memory")
    if store != "memory":
        other = ("coordinator", "--port", str(free_port()), "--store", chosen)
        assert "is in use by another coordinator" in system.dora(*other, status=1)
    coordinator.kill()
    coordinator.communicate(timeout=TIMEOUT)
    coordinator = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_until(
        lambda: system.client.is_reachable() and system.client.status().daemons, "the daemon to be back"
    )
    wait_until(system.client.active, "the dataflow that runs")
    system.dora("stop", "arm")
    system.dora("down")
    assert coordinator.wait(TIMEOUT) == 0


def test_options_of_dora_rs_that_a_daemon_has_no_use_for(system: System) -> None:
    told = system.dora(
        "daemon", "--local-listen-port", "53291", "--worker-threads", "4", "--zenoh-peer", "a", status=2
    )
    assert "warning: --local-listen-port has no effect: " in told
    assert "warning: --worker-threads has no effect: " in told
    assert "does not have --zenoh-peer yet; " in told
    for option in (("--zenoh-no-multicast",), ("--zenoh-config-overlay", "a.json5")):
        assert f"does not have {option[0]} yet; machines learn" in system.dora("daemon", *option, status=2)


def test_names_that_cannot_be_used(shared: System) -> None:
    file = shared.dataflow("arm", a=FOREVER)
    for name in ("a/b", "a\nb", "a" * 201):
        assert "a name has at most 200 characters" in shared.dora(
            "start", file, "--detach", "--name", name, status=1
        )
    assert "no dataflow with name or UUID `./arm.yml`" in shared.dora("stop", "./arm.yml", status=1)
    run = shared.start(file, "--name", "linker Arm ü%3F?")
    told = shared.dora("stop", "linker Arm ü%3F?")
    assert told.startswith(f"dataflow stopped: {run} (linker Arm ü%3F? in ")


@pytest.mark.slow
def test_a_running_dataflow_survives_a_lost_store(system: System) -> None:
    system.dora("up")
    run = system.start(system.dataflow("arm", a=FOREVER), "--name", "left")
    os.kill(system.coordinator(), signal.SIGKILL)
    assert "moved the store to " in system.dora("up", "--recreate-store")
    wait_until(lambda: system.client.active(), "the word of the daemon")
    view = system.client.dataflow("left")
    assert (view.uuid, view.status, view.nodes) == (run, "Running", ["a"])
    system.dora("restart", "left")
    system.dora("stop", "left")


@pytest.mark.slow
def test_a_run_that_hangs_can_be_killed(shared: System) -> None:
    run = shared.start(shared.dataflow("arm", a=FOREVER), "--no-preload")  # so its parent is the worker
    pids = shared.node_pids(run)
    parent = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGSTOP)
    assert "was killed by signal 9" in shared.dora("stop", "-f", status=1)
    wait_until(lambda: not any(alive(pid) for pid in pids), "the end of the nodes")
