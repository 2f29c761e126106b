"""``dora cluster up --tls`` with real coordinators and daemons; ssh only leads back to this machine."""

from __future__ import annotations

import datetime
import json
import os
import signal
import ssl
import sys
from pathlib import Path

import pytest
from certificates import certify
from local_cluster import Cluster
from waiting import alive, wait_until

from dora.cluster import authority as module
from dora.cluster.authority import Authority
from dora.cluster.client import Client
from dora.cluster.ssh.authority import (
    authority_of,
    certify_machine,
    folder_of,
    remove_authority,
    with_own_authority,
)
from dora.cluster.ssh.file import load_cluster
from dora.errors import DoraError

pytestmark = pytest.mark.processes

STRANGE_CLOCK = """\
#!{python}
# A machine that is years behind, and otherwise like this one.
import json, os, sys, time
if sys.argv[1:3] == ["cluster", "machine-state"]:
    print(json.dumps({{"clock": time.time() - 1e8, "certificate": ""}}))
else:
    os.execv(sys.executable, [sys.executable, "-m", "dora", *sys.argv[1:]])
"""


def age(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, days: int) -> Authority:
    """Put certificates of the coordinator and of `left` in place that were made so many days ago."""
    found = load_cluster(cluster.file)
    authority = authority_of(found)
    with monkeypatch.context() as then:
        now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
        then.setattr(module, "_now", lambda: now)
        folder = Path(folder_of(found))
        replace(folder / "coordinator.pem", authority.certify("coordinator", hosts=["127.0.0.1"]))
        replace(cluster.bundle("left"), certify_machine(authority, found.machines[0]))
    return authority


def replace(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def served_certificate(cluster: Cluster) -> str:
    return ssl.get_server_certificate(("127.0.0.1", cluster.port))


def test_certificates_are_kept_renewed_and_removed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = cluster.dora("up", "--tls", "cluster.yml")
    assert "left: sent a new key and certificate" in printed and "TLS: on" in printed
    assert cluster.machines() == {"left": "connected", "right": "connected"}
    first = cluster.bundle("right").read_text()
    assert "PRIVATE KEY" in first and cluster.bundle("right").stat().st_mode & 0o777 == 0o600

    authority = age(cluster, monkeypatch, 340)
    printed = cluster.dora("status", "cluster.yml")
    assert "(`dora cluster up cluster.yml` renews)" in printed, printed
    os.kill(cluster.pid("right"), signal.SIGKILL)
    wait_until(lambda: not alive(cluster.pid("right")), "the end of a daemon")
    wait_until(lambda: cluster.machines()["right"] != "connected", "the coordinator to notice")
    printed = cluster.dora("up", "cluster.yml")  # --tls is remembered
    assert "made a certificate for the coordinator" in printed and "coordinator already running" in printed
    assert "left: sent a new key" in printed, "it runs, and gets a new one"
    assert "right: started dora daemon" in printed and "right: sent" not in printed
    assert cluster.bundle("right").read_text() == first
    wait_until(
        lambda: authority.is_good(served_certificate(cluster), hosts=["127.0.0.1"]),
        "the running coordinator to have it too",
    )
    assert "renews" not in cluster.dora("status", "cluster.yml")

    printed = cluster.dora("up", "--no-tls", "cluster.yml", status=1)
    assert (
        "the coordinator of the cluster runs with TLS; end it with `dora cluster down cluster.yml`"
        in printed
    )
    printed = cluster.dora("down", "cluster.yml")
    assert "left: removed its key" in printed and "right: removed its key" in printed
    data = cluster.folder / "data"
    assert not [path for path in data.iterdir() if path.suffix == ".pem"]
    assert with_own_authority(load_cluster(cluster.file)).own_authority, "it stays for the next time"


def test_a_cluster_without_tls_gets_it_after_it_was_down(cluster: Cluster) -> None:
    cluster.dora("up", "cluster.yml")
    printed = cluster.dora("up", "--tls", "cluster.yml", status=1)
    assert "the coordinator of the cluster runs without TLS; end it with `dora cluster down" in printed
    assert "TLS: off" in cluster.dora("status", "cluster.yml"), "nothing has changed"
    cluster.dora("down", "cluster.yml")
    cluster.dora("up", "--tls", "cluster.yml")
    assert "TLS: on, the first certificate expires on " in cluster.dora("status", "cluster.yml")
    cluster.dora("down", "cluster.yml")
    cluster.dora("up", "--no-tls", "cluster.yml")
    assert "TLS: off" in cluster.dora("status", "cluster.yml")


def test_what_keeps_a_cluster_from_tls_is_one_sentence(cluster: Cluster) -> None:
    certify(cluster.folder, "here", "127.0.0.1")
    cluster.tls = {"tls_cert": "here.pem", "tls_key": "here.key", "tls_ca": "ca.pem"}
    cluster.write("left", "right")
    printed = cluster.dora("up", "--tls", "cluster.yml", status=1)
    assert "cluster.yml names certificates (`tls_cert`), so --tls cannot be used" in printed
    cluster.tls = {}

    machine = cluster.folder / "bin" / "old-clock"
    machine.write_text(STRANGE_CLOCK.format(python=sys.executable))
    machine.chmod(0o755)
    cluster.write("left", "right", dora=str(machine))
    printed = cluster.dora("up", "--tls", "cluster.yml", status=1)
    assert "left: its clock says 20" in printed and "set the clock" in printed
    assert "on 2 of 2 machine(s)" in printed and not cluster.bundle("left").exists()

    machine.write_text("#!/bin/sh\necho \"error: no such command '$2'\" >&2\nexit 2\n")
    printed = cluster.dora("up", "--tls", "cluster.yml", status=1)
    assert "left: its dora is too old for certificates; `dora cluster upgrade` installs this one" in printed

    cluster.write("left", "right")
    key = Path(folder_of(load_cluster(cluster.file)), "ca.key")
    key.write_text("nonsense")
    printed = cluster.dora("up", "cluster.yml", status=1)
    assert f"cannot use {key}: " in printed and "makes another authority" in printed
    assert "Traceback" not in printed
    remove_authority(load_cluster(cluster.file))


def test_a_daemon_without_a_certificate_is_reported(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.dora("up", "--tls", "cluster.yml")
    os.kill(cluster.pid("right"), signal.SIGTERM)
    wait_until(lambda: not alive(cluster.pid("right")), "the end of a daemon")
    found = with_own_authority(load_cluster(cluster.file))
    monkeypatch.setenv("DORA_COORDINATOR_CA", found.authority)
    bare = cluster.start_daemon("right")
    wait_until(lambda: cluster.machines()["right"] == "connected", "the daemon to connect")
    printed = cluster.dora("up", "cluster.yml", status=1)
    assert "right: its daemon was started without a certificate, so its links are not encrypted" in printed
    bare.terminate()
    bare.wait()


def test_a_certificate_that_has_expired_is_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.dora("up", "--tls", "cluster.yml")
    age(cluster, monkeypatch, 366)
    found = with_own_authority(load_cluster(cluster.file))
    client = Client("127.0.0.1", cluster.port, authority=found.authority)

    def refusal() -> str:
        try:
            client.status()
        except DoraError as error:
            return str(error)
        return ""

    assert "of the coordinator at 127.0.0.1" in wait_until(refusal, "the coordinator to use the old one")
    assert "has expired, by the clock of this machine" in refusal()
    kept = cluster.bundle("left").read_text()
    printed = cluster.dora("up", "cluster.yml")
    assert "made a certificate for the coordinator" in printed and "left: sent a new key" in printed
    assert refusal() == ""

    cluster.bundle("left").write_text(kept)
    (cluster.folder / "node.py").write_text("import dora; dora.Node()")
    nodes = [
        {"id": side, "path": "node.py", "deploy": {"machine": side}, "inputs": inputs, "outputs": ["x"]}
        for side, inputs in (("left", {"x": "right/x"}), ("right", {"x": "left/x"}))
    ]
    (cluster.folder / "flow.yml").write_text(json.dumps({"nodes": nodes}))
    printed = cluster.dora("start", "cluster.yml", "flow.yml", "--detach", status=1)
    assert f"the certificate {cluster.bundle('left')} has expired, by the clock" in printed
