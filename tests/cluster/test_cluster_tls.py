"""Whether ``dora cluster`` encrypts: yes, unless nothing leaves this machine or with `--no-tls`."""

from __future__ import annotations

from pathlib import Path

import pytest
from certificates import certify
from local_cluster import Cluster

from dora._paths import NO_TLS
from dora.cluster.ssh.file import Cluster as ClusterFile
from dora.cluster.ssh.file import choose_tls, is_encrypted, with_choice


def test_a_cluster_is_encrypted_until_it_is_chosen_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path))
    found = ClusterFile(address="10.0.0.1", port=6013, machines=(), file="cluster.yml")
    assert with_choice(found).authority == "" and is_encrypted(with_choice(found))
    for _ in range(2):
        choose_tls(found, False)
        assert with_choice(found).authority == NO_TLS and not is_encrypted(with_choice(found))
    other = ClusterFile(address="10.0.0.1", port=6014, machines=(), file="cluster.yml")
    assert is_encrypted(with_choice(other)), "it was not asked for this one"
    for _ in range(2):
        choose_tls(found, True)
        assert is_encrypted(with_choice(found))


@pytest.mark.processes
def test_a_cluster_that_does_not_leave_the_machine_is_not_encrypted(cluster: Cluster) -> None:
    printed = cluster.dora("up", "--tls", "cluster.yml", status=1)
    assert "is reached from this machine only, so there is nothing to encrypt; leave out --tls" in printed
    cluster.dora("up", "cluster.yml")
    assert cluster.machines() == {"left": "connected", "right": "connected"}
    printed = cluster.dora("status", "cluster.yml")
    assert "TLS: off, the coordinator was reached on this machine" in printed
    cluster.dora("down", "cluster.yml")


@pytest.mark.processes
def test_certificates_of_the_user_leave_no_choice(cluster: Cluster) -> None:
    certify(cluster.folder, "here", "127.0.0.1")
    cluster.tls = {"tls_cert": "here.pem", "tls_key": "here.key", "tls_ca": "ca.pem"}
    cluster.write("left", "right")
    for option in ("--tls", "--no-tls"):
        printed = cluster.dora("up", option, "cluster.yml", status=1)
        assert f"cluster.yml names certificates (`tls_cert`), so {option} cannot be used" in printed
