"""A stand-in for ssh: it runs on this machine what should run on another."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_cluster import Cluster
from local_ssh import write_local_ssh


@pytest.fixture
def local_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-in and this dora on the PATH; return the file that lists the calls."""
    binaries, log = tmp_path / "bin", tmp_path / "ssh.log"
    write_local_ssh(binaries, log)
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return log


@pytest.fixture
def cluster(local_ssh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    root = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")  # pytest's is too long for sockets
    monkeypatch.setenv("DORA_RUNTIME_DIR", root)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("DORA_AUTH_TOKEN", raising=False)
    cluster = Cluster(local_ssh.parent)
    yield cluster
    try:
        cluster.write("left", "right")
        cluster.dora("down", "--force", "cluster.yml")
    finally:
        shutil.rmtree(root, ignore_errors=True)
