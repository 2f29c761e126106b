"""``dora cluster`` with a real ssh server on each of several hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hosts import Host
from ssh_cluster import Cluster
from sshd import no_ssh

pytestmark = [pytest.mark.processes, pytest.mark.skipif(bool(no_ssh()), reason=no_ssh())]

SOURCE = """
import pyarrow as pa
from dora import Node
node = Node()
for number in range(3):
    node.send_output("number", pa.array([number]))
"""
SINK = """
from dora import Node
import helper
print(helper.WORD, [event["value"][0].as_py() for event in Node() if event["type"] == "INPUT"])
"""


@pytest.mark.slow
def test_a_dataflow_on_two_machines_from_nothing(cluster: Cluster) -> None:
    printed = cluster.dora("cluster", "up", "cluster.yml")
    assert "desk: started dora daemon" in printed and "robot: started dora daemon" in printed
    token = (cluster.desk.folder / "config" / "dora" / ".dora-token").read_text().strip()
    robot = cluster.hosts["robot"]
    assert not (robot.folder / "config" / "dora").exists(), "the token is not written to the machines"
    assert not any(token in line for line in _command_lines(robot)), "nor is it on a command line"

    flow = cluster.folder / "flow"
    flow.mkdir()
    (flow / "source.py").write_text(SOURCE)
    (flow / "sink.py").write_text(SINK)
    (flow / "helper.py").write_text("WORD = 'first'")
    nodes = [
        {"id": "source", "path": "source.py", "deploy": {"machine": "desk"}, "outputs": ["number"]},
        {
            "id": "sink",
            "path": "sink.py",
            "deploy": {"labels": {"name": "robot"}},
            "inputs": {"number": "source/number"},
        },
    ]
    (flow / "dataflow.yml").write_text(json.dumps({"nodes": nodes}))
    printed = cluster.dora("cluster", "start", "cluster.yml", "flow/dataflow.yml", "--attach")
    assert "first [0, 1, 2]" in printed
    assert (
        f"robot: copied 4 file(s), {_size(flow):,} bytes, to {robot.folder}/data/dataflows/flow-" in printed
    )

    (flow / "helper.py").write_text("WORD = 'second'")
    printed = cluster.dora("cluster", "start", "cluster.yml", "flow/dataflow.yml", "--attach")
    assert "second [0, 1, 2]" in printed and "robot: copied 1 file(s)" in printed

    cluster.dora("cluster", "down", "cluster.yml", "--force")
    deadline = time.monotonic() + 30.0
    while left := [line for host in cluster.hosts.values() for line in _programs(host) if "dora" in line]:
        assert time.monotonic() < deadline, left


def _command_lines(host: Host) -> list[str]:
    """Return the command lines of what runs on a host, with a zero after each word."""
    found = []
    for pid in host.pids():
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_text())
        except OSError:
            continue  # it has just ended
    return found


def _programs(host: Host) -> list[str]:
    """Return the programs that run on a host, without their folders."""
    lines = [line.split("\0") for line in _command_lines(host)]
    return [" ".join(word.rpartition("/")[2] for word in words) for words in lines]


@pytest.mark.slow
def test_failed_logins_are_reported_with_a_remedy(cluster: Cluster) -> None:
    cluster.machines[0]["host"] = "no-such-host.invalid"
    cluster.machines[1]["port"] = 23
    cluster.write()
    printed = cluster.dora("cluster", "up", "cluster.yml", status=1)
    assert "desk: ssh to no-such-host.invalid failed: no host of that name is known" in printed
    assert "no ssh server listens there" in printed

    del cluster.machines[1]["port"]
    cluster.machines[0]["host"] = cluster.desk.address
    cluster.write()
    cluster.keys.known.write_text("")
    printed = cluster.dora("cluster", "up", "cluster.yml", status=1)
    assert "its host key is unknown, or another one; say `ssh " in printed
    for host in cluster.hosts.values():
        with cluster.keys.known.open("a") as known:
            known.write(f"{host.address} {(cluster.keys.folder / 'server.pub').read_text()}")
    other = cluster.keys.folder / "client"
    other.unlink()
    (cluster.keys.folder / "client.pub").rename(cluster.keys.folder / "was.pub")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    (cluster.keys.folder / "was.pub").rename(cluster.keys.folder / "client.pub")
    printed = cluster.dora("cluster", "up", "cluster.yml", status=1)
    assert "it wants more than your ssh keys" in printed
    assert not any(" coordinator " in line or " daemon " in line for line in _programs(cluster.desk))


@pytest.mark.slow
def test_an_up_that_fails_on_one_machine_leaves_nothing_running(cluster: Cluster) -> None:
    cluster.machines[1]["port"] = 23
    cluster.write()
    printed = cluster.dora("cluster", "up", "cluster.yml", status=1)
    assert "desk: started dora daemon" in printed
    assert "no daemon on 1 of 2 machine(s)" in printed
    for host in cluster.hosts.values():
        assert not any(" coordinator " in line or " daemon " in line for line in _programs(host))
    del cluster.machines[1]["port"]
    cluster.write()
    cluster.dora("cluster", "up", "cluster.yml")
    cluster.dora("cluster", "down", "cluster.yml")


@pytest.mark.slow
def test_a_new_version_is_installed_where_the_command_belongs(cluster: Cluster, tmp_path: Path) -> None:
    import site

    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    packages = next(venv.glob("lib/python*/site-packages"))
    # pip and what dora needs come from here; what is installed goes to the new one.
    (packages / "here.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    (venv / "bin" / "dora").write_text(f"#!{venv}/bin/python\nfrom dora.cli.main import main\nmain()\n")
    (venv / "bin" / "dora").chmod(0o755)
    (packages / "source.pth").write_text(f"{Path(__file__).parents[2] / 'src'}\n")
    cluster.machines = [{"id": "robot", "host": cluster.hosts["robot"].address, "dora": f"{venv}/bin/dora"}]
    cluster.write()
    cluster.dora("cluster", "up", "cluster.yml")
    (packages / "source.pth").unlink()
    printed = cluster.dora("cluster", "upgrade", "cluster.yml")
    assert "robot: installed dora " in printed and "robot: started dora daemon" in printed
    assert (packages / "dora" / "cluster" / "ssh").exists(), "of an editable installation, too"
    cluster.dora("cluster", "down", "cluster.yml")


def _size(folder: Path) -> int:
    return sum(os.path.getsize(folder / name) for name in os.listdir(folder) if (folder / name).is_file())
