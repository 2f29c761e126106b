"""``dora cluster`` with real coordinators and daemons; ssh only leads back to this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from certificates import certify
from local_cluster import Cluster
from waiting import TIMEOUT, alive, wait_until

from dora.cluster.client import Client, Unreachable
from dora.cluster.ssh.file import Machine, choose_tls, load_cluster
from dora.cluster.ssh.ssh import MachineFault

pytestmark = pytest.mark.processes

SOURCE = """
import pyarrow as pa
from dora import Node
node = Node()
for number in range(3):
    node.send_output("number", pa.array([number]))
"""
SINK = """
from pathlib import Path
from dora import Node
got = [event["value"][0].as_py() for event in Node() if event["type"] == "INPUT"]
print("got", got, "in", Path.cwd(), flush=True)
"""


@pytest.mark.slow
def test_up_again_and_down(cluster: Cluster) -> None:
    printed = cluster.dora("up", "cluster.yml")
    assert "started dora coordinator" in printed
    assert "left: started dora daemon" in printed and "right: started dora daemon" in printed
    assert cluster.machines() == {"left": "connected", "right": "connected"}
    assert "side=right" in cluster.dora("status", "cluster.yml")

    os.kill(cluster.pid("right"), signal.SIGKILL)
    wait_until(lambda: not alive(cluster.pid("right")), "the end of a daemon")
    wait_until(lambda: cluster.machines()["right"] != "connected", "the coordinator to notice")
    printed = cluster.dora("up", "cluster.yml")
    assert "left: daemon already running" in printed and "right: started dora daemon" in printed

    pids = [cluster.pid(machine) for machine in ("left", "right")]
    cluster.dora("down", "cluster.yml")
    wait_until(lambda: not any(map(alive, pids)), "the end of the daemons")
    assert "Start it with `dora cluster up cluster.yml`" in cluster.dora("status", "cluster.yml", status=1)


@pytest.mark.slow
def test_a_dataflow_gets_its_files(cluster: Cluster) -> None:
    flow = cluster.folder / "flow"
    flow.mkdir()
    (flow / "source.py").write_text(SOURCE)
    (flow / "sink.py").write_text(SINK)
    nodes = [
        {"id": "source", "path": "source.py", "deploy": {"machine": "left"}, "outputs": ["number"]},
        {
            "id": "sink",
            "path": "sink.py",
            "deploy": {"labels": {"side": "right"}},
            "inputs": {"number": "source/number"},
        },
    ]
    (flow / "dataflow.yml").write_text(json.dumps({"nodes": nodes}))
    cluster.dora("up", "cluster.yml")
    printed = cluster.dora("start", "cluster.yml", "flow/dataflow.yml", "--attach", "--name", "counts")
    assert "left: copied 3 file(s)" in printed or "right: copied 3 file(s)" in printed
    copies = cluster.folder / "data" / "dataflows"
    assert "got [0, 1, 2]" in printed and f"in {copies}" in printed
    assert "copied" not in cluster.dora("start", "cluster.yml", "flow/dataflow.yml", "--attach")
    assert "dataflow restarted" in cluster.dora("restart", "cluster.yml", "counts")

    (flow / "sink.py").unlink()
    printed = cluster.dora("start", "cluster.yml", "flow/dataflow.yml", status=1)
    assert "dataflow.yml:1:" in printed and f"there is no file `{flow}/sink.py`" in printed
    nodes[1]["deploy"] = {"machine": "right", "working_dir": str(copies / "elsewhere")}
    (flow / "dataflow.yml").write_text(json.dumps({"nodes": nodes}))
    printed = cluster.dora("start", "cluster.yml", "flow/dataflow.yml", status=1)
    assert f"there is no file {copies}/elsewhere/sink.py" in printed, "it is that machine which says so"

    nodes[0]["deploy"] = {"machine": "lefft"}
    (flow / "dataflow.yml").write_text(json.dumps({"nodes": nodes}))
    printed = cluster.dora("start", "cluster.yml", "flow/dataflow.yml", status=1)
    assert "did you mean `left`?" in printed


@pytest.mark.slow
def test_files_to_be_copied_do_not_count_as_present(cluster: Cluster) -> None:
    (cluster.folder / "node.py").write_text("import dora; dora.Node(); print('ran', __file__)")
    deploy = {"machine": "right", "distribute": "scp"}
    flow = {"nodes": [{"id": "node", "path": "node.py", "deploy": deploy}]}
    (cluster.folder / "dataflow.yml").write_text(json.dumps(flow))
    cluster.dora("up", "cluster.yml")
    command = [
        sys.executable,
        "-m",
        "dora",
        "start",
        "dataflow.yml",
        "--coordinator-port",
        str(cluster.port),
    ]
    refused = subprocess.run(command, cwd=cluster.folder, capture_output=True, text=True, timeout=TIMEOUT)
    assert refused.returncode == 1
    assert "the files of node `node` have to be copied to its machine" in refused.stderr
    assert "`dora cluster start` does that" in refused.stderr
    printed = cluster.dora("start", "cluster.yml", "dataflow.yml", "--attach")
    assert f"ran {cluster.folder}/data/dataflows/" in printed

    deploy["working_dir"] = str(cluster.folder)
    (cluster.folder / "dataflow.yml").write_text(json.dumps(flow))
    started = subprocess.run(
        [*command, "--attach"], cwd=cluster.folder, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert started.returncode == 0, started.stderr
    assert "`distribute: scp` has no effect beside `working_dir`" in started.stderr
    assert f"ran {cluster.folder}/node.py" in started.stdout


@pytest.mark.slow
def test_copies_go_with_the_records_of_their_dataflows(cluster: Cluster) -> None:
    flow = cluster.folder / "flow"
    flow.mkdir()
    (flow / "node.py").write_text(
        "import dora, pathlib; dora.Node(); pathlib.Path('result').write_text('found')"
    )
    nodes = [{"id": "node", "path": "node.py", "deploy": {"machine": "left"}}]
    (flow / "dataflow.yml").write_text(json.dumps({"nodes": nodes}))
    cluster.dora("up", "cluster.yml")
    assert cluster.dora("copies", "cluster.yml").splitlines() == ["MACHINE  FOLDER  SIZE  USED BY"]
    for name in ("first", "second"):
        cluster.dora("start", "cluster.yml", "flow/dataflow.yml", "--attach", "--name", name)
    [copy] = (cluster.folder / "data" / "dataflows").iterdir()
    assert (copy / "node.py").exists() and (copy / "result").exists()
    told = cluster.dora("copies", "cluster.yml").splitlines()
    assert len(told) == 3, "left and right are one machine"
    assert told[1].startswith(f"left     {copy}") and told[1].endswith("first, second")
    assert cluster.dora("copies", "cluster.yml", "--remove") == ""

    client = Client("127.0.0.1", cluster.port, authority="")
    client.clean()
    wait_until(lambda: not (copy / "node.py").exists(), "the copied files to go")
    wait_until(
        lambda: not list((cluster.folder / "data" / "retained" / "left").iterdir()), "the note of it"
    )
    assert (copy / "result").read_text() == "found"
    assert cluster.dora("copies", "cluster.yml").splitlines()[1].endswith("(left by nodes)")
    assert f": removed {copy}, 5 bytes" in cluster.dora("copies", "cluster.yml", "--remove")
    assert not copy.exists()

    cluster.dora("start", "cluster.yml", "flow/dataflow.yml", "--attach")
    os.kill(cluster.pid("left"), signal.SIGKILL)
    wait_until(lambda: cluster.machines()["left"] != "connected", "the end of a daemon")
    client.clean()
    assert (copy / "node.py").exists(), "it has not heard of it"
    cluster.dora("up", "cluster.yml")
    wait_until(lambda: not (copy / "node.py").exists(), "the daemon to be told")


@pytest.mark.slow
def test_a_coordinator_with_tls(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    certify(cluster.folder, "here", "127.0.0.1")
    monkeypatch.setenv("DORA_COORDINATOR_CA", "of-another-system.pem")  # what the file says counts
    cluster.tls = {"tls_cert": "here.pem", "tls_key": "here.key", "tls_ca": "ca.pem"}
    cluster.write("left", "right")
    told = cluster.dora("up", "cluster.yml")
    assert "left: started dora daemon" in told and "right: started dora daemon" in told
    assert cluster.machines() == {"left": "connected", "right": "connected"}
    for machine in ("left", "right"):
        copied = cluster.folder / "data" / f"coordinator-of-{machine}.pem"
        assert copied.read_text() == (cluster.folder / "ca.pem").read_text()
    with pytest.raises(Unreachable):
        Client("127.0.0.1", cluster.port, authority="").status()
    cluster.dora("down", "cluster.yml")


@pytest.mark.slow
def test_down_without_a_coordinator(cluster: Cluster) -> None:
    cluster.dora("up", "cluster.yml")
    pids = [cluster.pid(machine) for machine in ("left", "right")]
    os.kill(Client("127.0.0.1", cluster.port).status().pid, signal.SIGKILL)
    assert "is not running, but its daemons and dataflows may be" in cluster.dora(
        "down", "cluster.yml", status=1
    )
    assert all(map(alive, pids))
    printed = cluster.dora("down", "--force", "cluster.yml")
    assert "left: ended dora daemon" in printed and "right: ended dora daemon" in printed
    assert not any(map(alive, pids))


def test_down_ends_the_machines_of_the_file_that_the_coordinator_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(tmp_path)
    ended: list[str] = []

    def end(machines: list[Machine], _: object) -> list[MachineFault]:
        ended.extend(machine.id for machine in machines)
        return []

    left = dict.fromkeys(("left", "elsewhere"), "has not ended in time")
    monkeypatch.setattr("dora.cli.commands.cluster._connected", lambda _: {"left", "right"})
    monkeypatch.setattr("dora.cli.commands.up.stop_coordinator", lambda *_: left)
    monkeypatch.setattr("dora.cluster.ssh.daemons.end", end)
    printed = cluster.dora("down", "--force", "cluster.yml", status=1)
    assert ended == ["left"]
    assert "the daemon of `elsewhere` has not ended in time and may still run" in printed
    assert "`left`" not in printed


@pytest.mark.slow
def test_failing_machines_are_reported_and_the_others_run(cluster: Cluster) -> None:
    cluster.write("right")
    cluster.dora("up", "cluster.yml")
    write_failing_machines(cluster)
    printed = cluster.dora("up", "cluster.yml", status=1)
    assert "left: started dora daemon" in printed
    assert "no daemon on 2 of 3 machine(s)" in printed
    assert "lost: there is no command `~/nowhere/dora` on 127.0.0.3" in printed
    assert "broken: the daemon could not be started: the moon is full" in printed
    assert alive(cluster.pid("left")) and alive(cluster.pid("right"))


@pytest.mark.slow
def test_an_up_that_fails_leaves_nothing_running(cluster: Cluster) -> None:
    write_failing_machines(cluster)
    printed = cluster.dora("up", "cluster.yml", status=1)
    assert "left: started dora daemon" in printed
    assert "no daemon on 2 of 3 machine(s)" in printed
    assert processes(cluster) == []
    # Nothing is in the way of the next one.
    cluster.write("left")
    assert "left: started dora daemon" in cluster.dora("up", "cluster.yml")


@pytest.mark.slow
def test_an_up_that_fails_stops_nothing_that_ran_before(cluster: Cluster) -> None:
    cluster.dora("up", "cluster.yml")
    pids = [cluster.pid(machine) for machine in ("left", "right")]
    os.kill(Client("127.0.0.1", cluster.port).status().pid, signal.SIGKILL)
    write_failing_machines(cluster)
    cluster.dora("up", "cluster.yml", status=1)
    assert all(map(alive, pids)), "whether they had reached the new coordinator or not"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["coordinator", "daemons", "connecting"])
def test_an_up_that_is_interrupted_leaves_nothing_running(
    cluster: Cluster, moment: str, number: signal.Signals
) -> None:
    reached = cluster.folder / "reached"
    if moment == "daemons":  # this one waits, before or after it has started a daemon
        (cluster.folder / "bin" / "waits").write_text(f'#!/bin/sh\ntouch "{reached}"\nexec sleep 60\n')
    elif moment == "connecting":  # a daemon that will never connect
        (cluster.folder / "bin" / "waits").write_text(
            f'#!/bin/sh\ntouch "{reached}"\nexec dora "$@" --coordinator-port 1\n'
        )
    if moment != "coordinator":
        (cluster.folder / "bin" / "waits").chmod(0o755)
        cluster.write("left", "right", dora="waits")
    with subprocess.Popen(
        [sys.executable, "-m", "dora", "cluster", "up", "cluster.yml"],
        cwd=cluster.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as command:
        wait_until(
            lambda: reached.exists() if moment != "coordinator" else processes(cluster),
            lambda: f"{moment}: {processes(cluster)}",
        )
        os.killpg(command.pid, number)  # as a terminal does: ssh gets it too
        printed, _ = command.communicate(timeout=TIMEOUT)
    assert command.returncode in (130, 1), printed
    assert "Traceback" not in printed
    wait_until(lambda: processes(cluster) == [], lambda: f"the end: {processes(cluster)}, {printed}")


def test_an_up_with_an_unfit_certificate_leaves_nothing_running(cluster: Cluster) -> None:
    other = cluster.folder / "other"
    other.mkdir()
    certify(cluster.folder, "here", "127.0.0.1")
    certify(other, "here", "127.0.0.1")
    cluster.tls = {"tls_cert": "here.pem", "tls_key": "here.key", "tls_ca": "other/ca.pem"}
    cluster.write("left")
    printed = cluster.dora("up", "cluster.yml", status=1)
    assert "certificate" in printed
    assert processes(cluster) == []
    cluster.tls = {}


@pytest.mark.slow
def test_an_up_at_a_port_in_use_leaves_nothing_running(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", cluster.port)):
        printed = cluster.dora("up", "cluster.yml", status=1)
    assert "Traceback" not in printed
    assert processes(cluster) == []


def processes(cluster: Cluster) -> list[str]:
    """Return the command lines of the components of a cluster."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if str(cluster.port) in words and {"coordinator", "daemon"} & set(words):
            found.append(" ".join(words))
    return found


def write_failing_machines(cluster: Cluster) -> None:
    """Write a cluster file of the machine `left`, and two on which no daemon starts."""
    machines = [
        {"id": "left", "host": "localhost"},
        {"id": "lost", "host": "127.0.0.3", "dora": "~/nowhere/dora"},
        {"id": "broken", "host": "127.0.0.4", "dora": "false"},
    ]
    coordinator = {"addr": "127.0.0.1", "port": cluster.port}
    cluster.file.write_text(json.dumps({"coordinator": coordinator, "machines": machines}))
    (cluster.folder / "bin" / "false").write_text("#!/bin/sh\necho 'error: the moon is full' >&2; exit 1\n")
    (cluster.folder / "bin" / "false").chmod(0o755)


@pytest.mark.slow
def test_a_coordinator_for_this_machine_only_is_in_the_way(cluster: Cluster) -> None:
    cluster.dora("up", "cluster.yml")
    cluster.file.write_text(cluster.file.read_text().replace("127.0.0.1", "127.0.0.2"))
    assert "end it with `dora down`" in cluster.dora("up", "cluster.yml", status=1)
    cluster.file.write_text(cluster.file.read_text().replace("127.0.0.2", "192.0.2.1"))
    machines = cluster.file.read_text().replace("localhost", "nowhere.invalid")
    cluster.file.write_text(machines)
    assert "192.0.2.1, is not an address of this machine" in cluster.dora("up", "cluster.yml", status=1)


SYSTEMCTL = """\
#!{python}
# As much of `systemctl --user` as a unit of dora needs.
import os, pathlib, shlex, signal, subprocess, sys
words = [word for word in sys.argv[1:] if not word.startswith("-")]
units = pathlib.Path(os.environ["XDG_CONFIG_HOME"], "systemd/user")
pids = pathlib.Path(os.environ["XDG_CONFIG_HOME"], "pids")
pids.mkdir(parents=True, exist_ok=True)
assert sys.argv[1] == "--user", sys.argv
def stop(name):
    pid = pids / name
    if pid.exists():
        try:
            os.kill(int(pid.read_text()), signal.SIGTERM)
        except ProcessLookupError:
            pass  # it has ended by itself
        pid.unlink()
def start(name):
    lines = dict(line.split("=", 1) for line in (units / name).read_text().splitlines() if "=" in line)
    extra = dict(line.split("=", 1) for line in open(lines["EnvironmentFile"]).read().split())
    with open(pids / (name + ".log"), "ab") as log:
        process = subprocess.Popen(shlex.split(lines["ExecStart"]), stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, env={{**os.environ, **extra}}, start_new_session=True)
    (pids / name).write_text(str(process.pid))
if words[0] in ("stop", "disable", "restart"):
    stop(words[1])
if words[0] == "restart":
    start(words[1])
"""


def stand_in_for_systemd(cluster: Cluster) -> None:
    binaries = cluster.folder / "bin"
    (binaries / "systemctl").write_text(SYSTEMCTL.format(python=sys.executable))
    (binaries / "id").write_text("#!/bin/sh\necho 1000\n")  # not root: units of the user
    (binaries / "loginctl").write_text('#!/bin/sh\n[ "$1" = enable-linger ]\n')
    for name in ("systemctl", "id", "loginctl"):
        (binaries / name).chmod(0o755)


@pytest.mark.slow
def test_a_service_without_tls_is_installed_again_for_a_cluster_with_it(cluster: Cluster) -> None:
    stand_in_for_systemd(cluster)
    cluster.write("left")
    cluster.dora("install", "--no-tls", "cluster.yml")
    cluster.dora("down", "cluster.yml")
    assert "left: started dora daemon" in cluster.dora("up", "cluster.yml"), "as it was installed"
    cluster.dora("down", "cluster.yml")
    found = load_cluster(cluster.file)
    choose_tls(found, True)
    printed = cluster.dora("up", "cluster.yml", status=1)
    assert "left: its service was installed with TLS off; `dora cluster install` installs it" in printed
    assert "left: installed dora-daemon-left.service" in cluster.dora("install", "cluster.yml")
    cluster.dora("down", "cluster.yml")
    cluster.dora("uninstall", "cluster.yml")


@pytest.mark.slow
def test_daemons_as_services(cluster: Cluster) -> None:
    stand_in_for_systemd(cluster)
    printed = cluster.dora("install", "cluster.yml")
    assert "started dora coordinator" in printed
    assert "left: installed dora-daemon-left.service, which runs" in printed
    units = cluster.folder / "config" / "systemd" / "user"
    assert sorted(path.name for path in units.iterdir()) == [
        "dora-daemon-left.service",
        "dora-daemon-right.service",
    ]
    text = (units / "dora-daemon-left.service").read_text()
    assert "@" not in text and "WantedBy=default.target" in text
    secret = cluster.folder / "data" / "daemon-left.env"
    assert secret.stat().st_mode & 0o777 == 0o600

    printed = cluster.dora("uninstall", "cluster.yml")
    assert "left: removed dora-daemon-left.service" in printed
    assert not list(units.iterdir()) and not secret.exists()
    assert "there is no dora-daemon-right.service" in cluster.dora("uninstall", "cluster.yml")


@pytest.mark.slow
def test_no_services_where_systemd_does_not_run(cluster: Cluster) -> None:
    for name, text in (("systemctl", "exit 1"), ("id", "echo 1000"), ("loginctl", ":")):
        (cluster.folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (cluster.folder / "bin" / name).chmod(0o755)
    cluster.dora("up", "cluster.yml")
    pid = cluster.pid("left")
    told = "left: systemd does not run on this machine, or not for this user"
    assert told in cluster.dora("install", "cluster.yml", status=1)
    assert alive(pid), "nothing was ended for it"
    assert "there is no dora-daemon-left.service" in cluster.dora("uninstall", "cluster.yml")

    units = cluster.folder / "config" / "systemd" / "user"  # of a time when it ran
    units.mkdir(parents=True)
    (units / "dora-daemon-left.service").touch()
    assert told in cluster.dora("uninstall", "cluster.yml", status=1)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: cluster.machines()["left"] != "connected", "the end of a daemon")
    assert "left: started dora daemon" in cluster.dora("up", "cluster.yml")


def test_no_services_without_systemd(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = cluster.folder / "tools"
    tools.mkdir()
    for name in ("sh", "mkdir", "id", "cat", "tr", "sleep", "nohup", "tail", "sed"):
        (tools / name).symlink_to(str(shutil.which(name)))
    cluster.dora("up", "cluster.yml")
    monkeypatch.setenv("PATH", f"{cluster.folder / 'bin'}{os.pathsep}{tools}")
    assert "left: this machine has no systemd" in cluster.dora("uninstall", "cluster.yml", status=1)


def test_a_refused_daemon_is_reported_and_stopped(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dora.cluster.ssh import daemons
    from dora.cluster.ssh.file import load_cluster

    cluster.dora("up", "cluster.yml")
    found = load_cluster(cluster.file)
    pid = cluster.pid("left")
    monkeypatch.setattr(daemons, "START_TIMEOUT", 0.1)
    faults = daemons.start(found, found.machines[:1], "", set, print)
    assert "has not reached the coordinator" in str(faults[0]) and "it says: " in str(faults[0])
    assert cluster.pid("left") == pid, "it is left alone, it may have dataflows"
