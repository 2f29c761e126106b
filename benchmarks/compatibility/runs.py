"""Run commands of one implementation in a folder of its own, apart from the user's."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.runner import Implementation, reap_leftovers, zenoh_files_removed

LIMIT_S = 60.0
GRACE_S = 15.0


@dataclass(frozen=True)
class Finished:
    """How a command ended: its exit status (None when it had to be ended) and what it printed."""

    status: int | None
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Place:
    """A folder with its own home, port and sockets, for one implementation."""

    side: Implementation
    folder: Path
    environment: Mapping[str, str]

    def write(self, name: str, content: str) -> Path:
        """Write a file below the folder; return its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def run(
        self, *arguments: str, limit: float = LIMIT_S, environment: Mapping[str, str] | None = None
    ) -> Finished:
        """Run `dora` with these arguments; a command that takes more than `limit` seconds is ended."""
        return self.execute([*self.side.command, *arguments], limit, environment)

    def python(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Finished:
        """Run the interpreter of this side."""
        return self.execute([str(self.side.prefix / "bin" / "python"), *arguments], LIMIT_S, environment)

    def execute(self, command: list[str], limit: float, environment: Mapping[str, str] | None) -> Finished:
        """Run a command in the folder. Its output goes to files, since background processes may keep it."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            status: int | None
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                status = None
                _end(process)
            out.seek(0)
            err.seek(0)
            return Finished(status, out.read(), err.read())


@contextmanager
def place(side: Implementation) -> Iterator[Place]:
    """Make a `Place`; afterwards end what still runs, and remove the folder."""
    folder = Path(tempfile.mkdtemp(prefix="dora-c-", dir="/tmp"))  # short enough for sockets
    work = folder / "work"
    work.mkdir()
    inherited = {name: value for name, value in side.environment().items() if not name.startswith("DORA_")}
    environment = {
        **inherited,
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "DORA_RUNTIME_DIR": str(folder / "run"),
        "DORA_DATA_DIR": str(folder / "data"),
        "DORA_COORDINATOR_PORT": str(free_port()),
        "NO_COLOR": "1",
    }
    with zenoh_files_removed():
        try:
            yield Place(side, work, environment)
        finally:
            reap_leftovers()
            shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """Return a TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
