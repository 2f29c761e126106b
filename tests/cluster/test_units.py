"""The units for systemd: what `dora cluster install` writes, and those of the manual."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from dora.cluster.ssh import scripts
from dora.cluster.ssh.file import Cluster, Machine

pytestmark = pytest.mark.processes

MANUAL = Path(__file__).parents[2] / "docs" / "how-to" / "long-running.md"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze"
)


def command(path: Path, text: str = "") -> Path:
    """Make a command that does nothing, or what a line of shell says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def verify(home: Path, *units: Path) -> None:
    # systemd 262 complains about sockets of its own units whose paths are too long.
    with tempfile.TemporaryDirectory(prefix="dora-", dir="/tmp") as runtime:
        done = subprocess.run(
            ["systemd-analyze", "--user", "--man=no", "verify", *units],
            env={"PATH": os.environ["PATH"], "HOME": str(home), "XDG_RUNTIME_DIR": runtime},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture(params=["home", "h%n &|m"])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A home folder in which a daemon has been installed as a service, by another user than root."""
    home = tmp_path / request.param
    bin = home / "bin"
    command(bin / "id", "echo 1000")
    command(bin / "systemctl")
    dora = str(command(bin / "dora"))
    machine = Machine(id="robot", host="robot.local", labels={"arm": "100%"}, dora=dora)
    cluster = Cluster(address="10.0.0.1", port=6013, machines=(machine,), file="cluster.yml")
    environ = {"PATH": f"{bin}:{os.environ['PATH']}", "HOME": str(home)}
    script = scripts.install(cluster, machine)
    subprocess.run(["sh", "-c", script], input="the token\n", text=True, env=environ, check=True)
    return home


def test_the_token_is_in_a_file_of_the_user_alone(installed: Path) -> None:
    file = installed / ".local/share/dora/daemon-robot.env"
    assert file.read_text() == "DORA_AUTH_TOKEN=the token\n"
    assert file.stat().st_mode & 0o777 == 0o600


@needs_systemd
def test_systemd_accepts_the_unit_of_a_daemon(installed: Path) -> None:
    verify(installed, installed / ".config/systemd/user/dora-daemon-robot.service")


@needs_systemd
def test_systemd_accepts_the_units_of_the_manual(tmp_path: Path) -> None:
    command(tmp_path / "venv/bin/dora")
    units = []
    found = re.findall(r"```ini\n# ([a-z-]+\.service).*?\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    for name, text in found:
        units.append(tmp_path / name)
        units[-1].write_text(text)
    assert [unit.stem for unit in units] == ["dora-coordinator", "dora-daemon", "dora-arm"]
    verify(tmp_path, *units)
