"""An ssh server on a host of a test, and a client that knows it; the user's own ssh is not touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from hosts import Host

SERVER = shutil.which("sshd") or "/usr/sbin/sshd"
CLIENT = shutil.which("ssh")
_TIMEOUT = 60.0  # seconds


def no_ssh() -> str:
    """Return why there can be no ssh here, "" if there can."""
    if CLIENT is None or not os.path.exists(SERVER):
        return "OpenSSH is missing (Debian: apt install openssh-server openssh-client)"
    return ""


class Keys:
    """A key to all hosts of a test, the keys of the hosts, and an ``ssh`` that uses them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("client", "server"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
            )
        self.known = folder / "known_hosts"
        self.known.touch()
        config = folder / "config"
        config.write_text(
            f"IdentityFile {folder}/client\nIdentitiesOnly yes\nUserKnownHostsFile {self.known}\n"
            "GlobalKnownHostsFile /dev/null\nUser root\n"
        )
        binaries = folder / "bin"
        binaries.mkdir()
        (binaries / "ssh").write_text(f'#!/bin/sh\nexec {CLIENT} -F {config} "$@"\n')
        (binaries / "ssh").chmod(0o755)
        self.path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
        """The ``PATH`` of a process that is to use this ``ssh``."""

    def serve(self, host: Host, more: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start the server on a host; who logs in has the folders of the host, and ``more`` variables."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own
        environment = host.environment()
        names = ("HOME", "DORA_RUNTIME_DIR", "DORA_DATA_DIR", "XDG_CONFIG_HOME")
        settings = {
            "ListenAddress": host.address,
            "HostKey": self.folder / "server",
            "AuthorizedKeysFile": self.folder / "client.pub",
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "yes",
            "PidFile": "none",
            "SetEnv": " ".join(
                f"{name}={value}"
                for name, value in ({name: environment[name] for name in names} | dict(more or {})).items()
            ),
        }
        config = host.folder / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        with self.known.open("a") as known:
            known.write(f"{host.address} {(self.folder / 'server.pub').read_text()}")
        log = host.folder / "sshd.log"
        with log.open("wb") as output:
            server = host.popen([SERVER, "-D", "-e", "-f", config], stdout=output, stderr=output)
        deadline = time.monotonic() + _TIMEOUT
        while b"Server listening" not in log.read_bytes():
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        return server
