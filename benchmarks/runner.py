"""Run one dataflow under one implementation and account for everything it used."""

import ctypes
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATAFLOWS = Path(__file__).parent / "dataflows"
TIMEOUT_S = 120.0
LEFTOVER_GRACE_S = 5.0
NO_FILES: Mapping[str, str] = {}
ROS_DOMAIN = "91"
_PR_SET_CHILD_SUBREAPER = 36
_SHARED_MEMORY = Path("/dev/shm")
# Modules are compiled once, as on a user's machine, even where a container says otherwise.
NOT_A_USERS = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")


class RunFailed(Exception):
    """A run that did not end well; the text says how and shows the last lines it printed."""


@dataclass(frozen=True)
class Implementation:
    """A `dora` command and the environment (a venv's folder) its nodes are to find first."""

    name: str
    command: tuple[str, ...]
    prefix: Path

    def environment(self) -> dict[str, str]:
        """Return this process's environment as if the venv were activated."""
        binaries = str(self.prefix / "bin")
        environment = {k: v for k, v in os.environ.items() if k not in NOT_A_USERS}
        environment["VIRTUAL_ENV"] = str(self.prefix)
        environment["PATH"] = binaries + os.pathsep + environment.get("PATH", "")
        return environment


@dataclass(frozen=True)
class Run:
    """What a run left: wall and CPU seconds of its whole process tree, the nodes' result files by name.

    `started_ns` is the time of the monotonic clock, which all processes share, when the command started.
    """

    wall_s: float
    cpu_s: float
    files: Mapping[str, Any]
    printed: str
    started_ns: int = 0

    def result(self, name: str) -> Any:
        """Return what the node wrote to `name`.json; raises RunFailed when it wrote nothing."""
        if name not in self.files:
            raise RunFailed(f"the nodes wrote no {name}.json; after {self.wall_s:.1f} s {self.printed}")
        return self.files[name]

    def results(self, pattern: str) -> list[Any]:
        """Return every result whose name matches (`*` at the end only); raises RunFailed without any."""
        prefix = pattern.removesuffix("*")
        found = [content for name, content in sorted(self.files.items()) if name.startswith(prefix)]
        if not found:
            raise RunFailed(f"the nodes wrote no {pattern}.json; after {self.wall_s:.1f} s {self.printed}")
        return found


@contextmanager
def copied(files: Mapping[str, str]) -> Iterator[tuple[Path, Path]]:
    """Copy `dataflows/` and write `files`, by path below it, for a run; the folder is then removed.

    Yields the copy and an empty folder for results.
    """
    with tempfile.TemporaryDirectory(prefix="dora-benchmark-") as folder:
        copy = Path(folder, "dataflows")
        shutil.copytree(DATAFLOWS, copy, ignore=shutil.ignore_patterns("__pycache__", "out"))
        for name, text in files.items():
            (copy / name).write_text(text)
        results = Path(folder, "results")
        results.mkdir()
        yield copy, results


def read_results(results: Path) -> dict[str, Any]:
    """Return what the nodes wrote, by the names of their files."""
    return {file.stem: json.loads(file.read_text()) for file in results.glob("*.json")}


def run_dataflow(
    implementation: Implementation,
    dataflow: str,
    environment: Mapping[str, str],
    arguments: Sequence[str] = (),
    files: Mapping[str, str] = NO_FILES,
    timeout_s: float = TIMEOUT_S,
) -> Run:
    """Run `dataflow` (a path below `dataflows/`) to its end, in a folder of its own that is then removed.

    `files` are written there first, as by `copied`. Raises RunFailed when it exits with an error, outlasts
    `timeout_s` or leaves processes behind.
    """
    with copied(files) as (copy, results), zenoh_files_removed():
        printed = results.with_name("printed.txt")
        path = copy / dataflow
        started_ns = time.monotonic_ns()
        with printed.open("wb") as output:
            process = subprocess.Popen(
                [*implementation.command, "run", path.name, *arguments],
                cwd=path.parent,
                env={**implementation.environment(), **environment, "BENCHMARK_RESULTS": str(results)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with _killed_after(timeout_s, process.pid) as timed_out:
            # wait4 reports the CPU of the command and of every process it waited for itself.
            _, status, usage = os.wait4(process.pid, 0)
        wall_s = (time.monotonic_ns() - started_ns) / 1e9
        process.returncode = os.waitstatus_to_exitcode(status)
        leftover_cpu_s, killed = reap_leftovers()
        if timed_out.is_set() or process.returncode or killed:
            raise RunFailed(_complaint(process.returncode, timed_out.is_set(), timeout_s, killed, printed))
        cpu_s = usage.ru_utime + usage.ru_stime + leftover_cpu_s
        return Run(wall_s, cpu_s, read_results(results), _last_lines(printed), started_ns)


def run_programs(
    python: str,
    dataflow: str,
    programs: Sequence[tuple[str, str]],
    environment: Mapping[str, str],
    files: Mapping[str, str] = NO_FILES,
    timeout_s: float = TIMEOUT_S,
) -> Run:
    """Run programs without dora: names of nodes, and scripts in the folder of ``dataflow``.

    The first one ends by itself; the others are asked to end then. Each finds its name in ``NODE``. They
    are alone in a ROS domain. ``files`` and RunFailed: see `run_dataflow`.
    """
    with copied(files) as (copy, results):
        printed = results.with_name("printed.txt")
        folder = (copy / dataflow).parent
        started_ns = time.monotonic_ns()
        own = {
            **{name: value for name, value in os.environ.items() if name not in NOT_A_USERS},
            **environment,
            "BENCHMARK_RESULTS": str(results),
            "ROS_DOMAIN_ID": ROS_DOMAIN,
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        }
        with printed.open("wb") as output:
            processes = [
                subprocess.Popen(
                    [python, script],
                    cwd=folder,
                    env={**own, "NODE": name},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                for name, script in programs
            ]
        cpu_s = 0.0
        deadline = time.monotonic() + timeout_s
        timed_out = False
        for process in processes:
            ended = _wait4_until(process.pid, deadline)
            if ended is None:
                timed_out = True
                process.kill()
                ended = os.wait4(process.pid, 0)[1:]
            status, usage = ended
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu_s += usage.ru_utime + usage.ru_stime
            if process is processes[0]:
                wall_s = (time.monotonic_ns() - started_ns) / 1e9
                for other in processes[1:]:
                    os.kill(other.pid, signal.SIGTERM)  # `terminate` would wait for one that has ended
                deadline = max(deadline, time.monotonic() + LEFTOVER_GRACE_S)
        if timed_out or processes[0].returncode:
            raise RunFailed(_complaint(processes[0].returncode, timed_out, timeout_s, 0, printed))
        return Run(wall_s, cpu_s, read_results(results), _last_lines(printed), started_ns)


def _wait4_until(pid: int, deadline: float) -> tuple[int, resource.struct_rusage] | None:
    """Wait for the end of a child; return its status and what it used, None if it goes on."""
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return status, usage
        if time.monotonic() > deadline:
            return None
        time.sleep(0.01)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that they are counted and ended.

    Only Linux can do this; elsewhere nothing happens, and orphans go unnoticed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@contextmanager
def zenoh_files_removed() -> Iterator[None]:
    """Afterwards remove the shared memory of Zenoh that has appeared meanwhile and that no process uses.

    dora-rs sends through it, and its nodes leave it behind when they are killed.
    """
    before = set(_SHARED_MEMORY.glob("*.zenoh"))
    try:
        yield
    finally:
        for path in set(_SHARED_MEMORY.glob("*.zenoh")) - before:
            with suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while a process uses it
                path.unlink()


@contextmanager
def _killed_after(seconds: float, group: int) -> Iterator[threading.Event]:
    timed_out = threading.Event()

    def kill() -> None:
        timed_out.set()
        os.killpg(group, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        yield timed_out
    finally:
        timer.cancel()


def reap_leftovers() -> tuple[float, int]:
    """Wait for adopted processes, kill those that stay; return the CPU seconds and how many were killed."""
    cpu_s = 0.0
    killed: set[int] = set()
    deadline = time.monotonic() + LEFTOVER_GRACE_S
    while True:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return cpu_s, len(killed)
        if pid:
            cpu_s += usage.ru_utime + usage.ru_stime
            continue
        if time.monotonic() > deadline:
            for child in _children():
                killed.add(child)
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def _children() -> list[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def _complaint(exit_code: int, timed_out: bool, timeout_s: float, killed: int, printed: Path) -> str:
    if timed_out:
        reason = f"it did not end within {timeout_s:.0f} s"
    elif exit_code:
        reason = f"it exited with {exit_code}"
    else:
        reason = f"it left {killed} processes behind"
    return f"{reason}; {_last_lines(printed)}"


def _last_lines(printed: Path) -> str:
    lines = printed.read_text(errors="replace").splitlines()[-15:]
    return "\n".join(["the last lines it printed:", *("    " + line for line in lines)])
