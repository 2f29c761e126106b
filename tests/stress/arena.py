"""Real dataflows under ill treatment: start them, look at their processes and memory, kill them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from waiting import TIMEOUT

import dora
from dora.daemon.guardian import marked_processes
from dora.daemon.logs.entry import LogEntry
from dora.daemon.supervisor.result import DataflowResult, LinkReport
from dora.errors import DoraError
from dora.recording.opening import open_recording

SHM = "/dev/shm"

# A node that says which events come beside the messages.
SINK = """
    from dora import Node
    for event in Node():
        if event["type"] != "INPUT":
            print(event["type"], event["id"], flush=True)
"""


def command_of(pid: int) -> list[str]:
    """Return the command line of a process, [] once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


def script_of(pid: int) -> str:
    """Return the node that a process runs, by the name of its script; "" for other processes."""
    command = command_of(pid)
    if command[-2:] == ["-m", "dora.runtime"]:
        return "host"
    return next((Path(part).stem for part in command if part.endswith(".py")), "")


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_template(pid: int) -> bool:
    return "/dora/daemon/template/" in " ".join(command_of(pid))


def programs_of(pid: int) -> list[int]:
    """Return what a process has started, by itself or by way of a template."""
    found = []
    for child in children_of(pid):
        found += [child, *programs_of(child)] if is_template(child) else [child]
    return found


def kill(pid: int) -> bool:
    """Kill a process; False if it was gone already."""
    assert pid > 0, "there is no such process"
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


class Arena:
    """One folder with a dataflow, and a root of its own for everything that runs in it."""

    def __init__(self, directory: Path, root: str) -> None:
        self.directory = directory
        self.root = root
        self.temp = f"{root}-tmp"  # the folder for temporary files of everything that runs
        os.makedirs(self.temp, exist_ok=True)
        self.entries: list[LogEntry] = []
        self.seen: set[str] = set()  # short ids of all runs
        self._nodes: list[dict[str, Any]] = []
        self._runs: list[Running] = []

    # ------------------------------------------------------------------ the dataflow

    def node(self, node_id: str, script: str, **fields: Any) -> None:
        self.file(f"{node_id}.py", script)
        self._nodes.append({"id": node_id, "path": f"{node_id}.py", **fields})

    def runtime(self, node_id: str, *operators: dict[str, Any], **fields: Any) -> None:
        self._nodes.append({"id": node_id, "operators": list(operators), **fields})

    def file(self, name: str, text: str) -> None:
        (self.directory / name).write_text(textwrap.dedent(text))

    def write(self) -> str:
        path = self.directory / "dataflow.yml"
        path.write_text(yaml.safe_dump({"nodes": self._nodes}, sort_keys=False))
        return str(path)

    # ------------------------------------------------------------------ running

    def run(self, **options: Any) -> DataflowResult:
        """Run to the end in this process."""
        self.entries.clear()
        return dora.run(self.write(), **{"on_log": self.entries.append, **options})

    def lines(self, node_id: str) -> list[str]:
        """Return what a node printed in the last `run`."""
        return [entry.message for entry in self.entries if entry.node_id == node_id]

    def start(self, *arguments: str, command: str = "run") -> Running:
        """Start ``dora run``, or ``dora record``, as a user does."""
        options = ("--preload", *arguments) if command == "run" else arguments
        self._runs.append(Running(self, command, self.write(), options))
        return self._runs[-1]

    def run_ids(self) -> set[str]:
        """Return the short ids of the runs that have a directory."""
        found = set(os.listdir(self.root)) - {"lock"}
        self.seen |= found
        return found

    # ------------------------------------------------------------------ what is left

    def remains(self, but: Iterable[str] = ()) -> list[str]:
        """Return everything that is left of runs: directories, shared memory, processes."""
        found = sorted(self.run_ids() - set(but)) + os.listdir(self.temp)
        ended = self.seen - set(but)
        found += [name for name in os.listdir(SHM) if any(short in name for short in ended)]
        found += [f"{pid}: {command_of(pid)}" for short in ended for pid in marked_processes(short)]
        return found

    def processes(self) -> list[str]:
        """Return all processes that have anything to do with this arena, templates included."""
        wanted = f"TMPDIR={self.temp}".encode()
        found = []
        for name in os.listdir("/proc"):
            if name.isdecimal() and int(name) != os.getpid():
                try:
                    variables = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
                except OSError:
                    continue
                if wanted in variables:
                    found.append(f"{name}: {command_of(int(name))}")
        return found

    def clean_up(self) -> None:
        self.run_ids()
        for run in self._runs:
            if run.process.poll() is None:
                run.process.kill()
                run.process.wait()
        for short in self.seen:
            for pid in marked_processes(short):
                kill(pid)


class Running:
    """A ``dora run``, or another command, in a process of its own. What it prints is collected."""

    def __init__(self, arena: Arena, command: str, dataflow: str, arguments: Iterable[str]) -> None:
        self.arena = arena
        self.output: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dora", command, dataflow, "--log-format", "compact", *arguments],
            env={**os.environ, "DORA_RUNTIME_DIR": arena.root, "TMPDIR": arena.temp},
            cwd=arena.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line.rstrip())

    def pid_of(self, node_id: str) -> int:
        """Return the process of a node, 0 if there is none (yet, or any more)."""
        for pid in programs_of(self.process.pid):
            if script_of(pid) == node_id:
                return pid
        return 0

    def guardian(self) -> int:
        return self.pid_of("guardian")

    def recorder(self) -> int:
        """Return the process that records, 0 if there is none."""
        for pid in children_of(self.process.pid):
            if command_of(pid)[-2:] == ["-m", "dora.recording"]:
                return pid
        return 0

    def printed(self, node_id: str) -> list[str]:
        """Return what a node has printed up to now."""
        pattern = re.compile(rf"^\S+ stdout {node_id}: (.*)$")
        return [match[1] for line in list(self.output) if (match := pattern.match(line))]

    def wait(self) -> int:
        """Wait for the end; returns the exit status."""
        try:
            self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise AssertionError("it hangs:\n" + "\n".join(self.output[-40:])) from None
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        self._reader.join(TIMEOUT)
        if self.process.stdout is not None and not self._reader.is_alive():
            self.process.stdout.close()
        return self.process.returncode


# ---------------------------------------------------------------------- memory


@dataclass
class Memory:
    """What the processes of a run have used, in MiB, sampled while they ran."""

    nodes: dict[str, list[float]] = field(default_factory=dict)  # script → private
    shared: list[float] = field(default_factory=list)  # the run's objects in /dev/shm
    sample: Callable[[], None] = field(default=lambda: None, repr=False)
    _warm: dict[int, int] = field(default_factory=dict)  # list → how many values belong to the warm-up

    def mark(self) -> None:
        """The warm-up is over."""
        self.sample()
        self._warm = {id(values): len(values) for values in (self.shared, *self.nodes.values())}

    def flat(self, values: list[float], *, slack: float) -> bool:
        """Return whether later values stay within ``slack`` MiB of the largest one of the warm-up.

        Without a mark, the first quarter of the time does not count; the second is compared with the rest.
        """
        if (warm := self._warm.get(id(values))) is not None:
            return max(values[warm:], default=0.0) - max(values[:warm]) <= slack
        count = len(values)
        if count < 8:
            return True
        before, after = values[count // 4 : count // 2], values[count // 2 :]
        return max(after) - max(before) <= slack


@contextmanager
def watch_memory(arena: Arena, every: float = 0.1) -> Iterator[Memory]:
    """Sample the memory of the runs of an arena until the end of the block."""
    done, lock = threading.Event(), threading.Lock()

    def sample() -> None:
        with lock:
            for short in arena.run_ids():
                memory.shared.append(shared_memory(short))
                for pid in marked_processes(short):
                    script = script_of(pid)
                    private = private_memory(pid)
                    if script and private is not None:
                        memory.nodes.setdefault(script, []).append(private)

    def sample_again_and_again() -> None:
        while not done.wait(every):
            sample()

    memory = Memory(sample=sample)
    thread = threading.Thread(target=sample_again_and_again, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()


def shared_memory(short: str) -> float:
    """Return what a run occupies in shared memory, in MiB."""
    occupied = 0
    for place in (f"{SHM}/{name}" for name in os.listdir(SHM) if short in name):
        files = (f"{folder}/{name}" for folder, _, names in os.walk(place) for name in names)
        for path in (place, *files):
            try:
                occupied += os.stat(path).st_blocks * 512
            except OSError:
                continue
    return occupied / 2**20


def private_memory(pid: int) -> float | None:
    """Return the private memory of a process in MiB; shared memory is counted by its files."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            kilobytes = [
                int(line.split()[1]) for line in file if line.startswith(("Anonymous:", "Pss_Anon:"))
            ]
    except OSError:
        return None
    return min(kilobytes) / 1024 if kilobytes else None


# ---------------------------------------------------------------------- accounts


def account(result: DataflowResult, name: str) -> LinkReport:
    """Return the report of a link, after checking that every message is accounted for."""
    (report,) = [item for item in result.links if item.link == name]
    assert report.sent == report.received + report.dropped + report.unread, report
    return report


def counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counter.items()))


# ---------------------------------------------------------------------- recordings


def check_recording(path: Path) -> tuple[int, bool]:
    """Return how many messages a recording has, and if it is complete; no gap may be uncounted."""
    try:
        recording = open_recording(str(path))
    except DoraError as error:  # one sentence about a file in which there is nothing yet
        assert path.stat().st_size < 1 << 20, error
        return 0, False
    with recording:
        numbers = [item.sequence for item in recording.messages(["source/out"])]
        assert numbers == sorted(set(numbers))
        gaps = sum(later - earlier - 1 for earlier, later in pairwise(numbers))
        if recording.end is None:  # it was killed
            assert not recording.complete
            return len(numbers), False
        counted = recording.end.topics["source/out"]
        assert counted.messages == len(numbers)
        assert gaps <= counted.lost
        assert recording.complete == (counted.lost == 0)
        return len(numbers), recording.complete


def rings_of(recorder: int) -> list[Path]:
    return list(Path(SHM).glob(f"dora-rings-{recorder}-*"))
