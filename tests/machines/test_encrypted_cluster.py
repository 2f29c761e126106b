"""What others in the network can read of a cluster: nothing, and with ``--no-tls`` nearly all."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hosts import Host
from sniffer import Sniffer, can_be_read
from ssh_cluster import DORA, Cluster
from sshd import no_ssh
from waiting import wait_until

from dora._paths import NO_TLS

pytestmark = [pytest.mark.processes, pytest.mark.skipif(bool(no_ssh()), reason=no_ssh())]

MESSAGE, LINE = "a message that crosses", "a line of the log"
SOURCE = f"""
import pyarrow as pa
from dora import Node
print("{LINE}", flush=True)
for event in (node := Node()):
    if event["type"] == "INPUT":
        node.send_output("text", pa.array(["{MESSAGE}"]))
"""
SINK = """
from dora import Node
for count, event in enumerate(Node(), 1):
    if event["type"] == "INPUT" and count == 5:
        print("has", count, event["value"][0].as_py().replace(" ", "-"), flush=True)
"""
COORDINATOR = range(6013, 6014)


def run_a_dataflow(cluster: Cluster, authority: str) -> None:
    """Send messages from the robot to the desk, and look at them from the desk."""
    (cluster.folder / "source.py").write_text(SOURCE)
    (cluster.folder / "sink.py").write_text(SINK)
    source = {"id": "source", "path": "source.py", "deploy": {"machine": "robot"}, "outputs": ["text"]}
    source["inputs"] = {"tick": "dora/timer/millis/20"}
    sink = {
        "id": "sink",
        "path": "sink.py",
        "deploy": {"machine": "desk"},
        "inputs": {"text": "source/text"},
    }
    (cluster.folder / "flow.yml").write_text(json.dumps({"nodes": [source, sink]}))
    cluster.dora("start", "flow.yml", "--detach", authority=authority)

    def received() -> bool:
        logs = cluster.dora("logs", "flow", authority=authority)
        return LINE in logs and f"has 5 {MESSAGE.replace(' ', '-')}" in logs

    wait_until(received, "messages and log entries to cross")
    assert MESSAGE in cluster.dora("topic", "echo", "source/text", "--count", "1", authority=authority)
    token = {"DORA_AUTH_TOKEN": token_of(cluster)}
    listed = cluster.robot.run([DORA, "list"], env={**cluster.client(authority), **token})
    assert "flow" in listed, "a command on another machine"
    cluster.dora("stop", "flow", authority=authority)


def token_of(cluster: Cluster) -> str:
    return (cluster.desk.folder / "config" / "dora" / ".dora-token").read_text().strip()


def private_keys(host: Host) -> list[Path]:
    """Return the files of a host that contain a private key."""
    return [
        path
        for path in host.folder.rglob("*")
        if path.is_file() and not path.is_symlink() and b"PRIVATE KEY" in path.read_bytes()
    ]


@pytest.mark.slow
def test_with_no_tls_messages_logs_and_the_token_can_be_read(cluster: Cluster) -> None:
    with Sniffer(cluster.robot) as sniffer:
        cluster.dora("cluster", "up", "--no-tls", "cluster.yml")
        run_a_dataflow(cluster, NO_TLS)
    assert any(can_be_read(MESSAGE.encode(), data) for data in sniffer.of_links())
    for text in (MESSAGE, LINE, token_of(cluster)):
        found = [can_be_read(text.encode(), data) for data in sniffer.of_ports(COORDINATOR)]
        assert any(found), f"this test would notice `{text}`"
    assert "TLS: off, tokens and messages can be read" in cluster.dora("cluster", "status", "cluster.yml")
    printed = cluster.dora("list", status=1)
    assert "does not use TLS, so nothing else was sent to it" in printed, "the choice is of the cluster"
    printed = cluster.dora("cluster", "up", "--tls", "cluster.yml", status=1)
    assert "the coordinator of the cluster runs without TLS; end it with `dora cluster down" in printed
    assert "already running" in cluster.dora("cluster", "up", "cluster.yml"), "--no-tls is remembered"
    cluster.dora("cluster", "down", "cluster.yml")


@pytest.mark.slow
def test_by_default_nothing_can_be_read(cluster: Cluster) -> None:
    desk, robot = cluster.desk, cluster.robot
    with Sniffer(robot) as sniffer:
        cluster.dora("cluster", "up", "cluster.yml")
        (bundle,) = private_keys(robot)
        assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
        keys = [path.read_bytes().splitlines()[1] for path in (bundle, *private_keys(desk))]
        assert len({*keys}) == len(keys) == 4, "of robot, desk, coordinator and authority"
        run_a_dataflow(cluster, "")
    secrets = [MESSAGE.encode(), LINE.encode(), token_of(cluster).encode(), *keys]
    for data in sniffer.bytes.values():
        assert not [secret for secret in secrets if can_be_read(secret, bytes(data))]
    for sent_by_all in (sniffer.of_ports(COORDINATOR), sniffer.of_links()):
        started = [data for data in sent_by_all if data]
        assert started and all(data[0] == 0x16 for data in started), "each begins with a handshake of TLS"

    assert "TLS: on" in cluster.dora("cluster", "status", "cluster.yml")
    authority = desk.folder / "data" / "tls" / "coordinator-6013" / "ca.pem"
    assert "flow" in cluster.dora("list", authority=str(authority)), "a client may name it"
    printed = cluster.dora("list", status=1, authority=NO_TLS)
    assert "one with TLS is reached without DORA_COORDINATOR_CA=none" in printed
    printed = cluster.dora("cluster", "up", "--no-tls", "cluster.yml", status=1)
    assert "the coordinator of the cluster runs with TLS; end it with `dora cluster down" in printed
    cluster.dora("cluster", "down", "cluster.yml")
    wait_until(lambda: not private_keys(robot), "the key of the robot to go with its daemon")
