"""Runs the cases from the template and plainly, and compares the records of both ways.

A record says of each node: the facts that its program has recorded, the lines that it printed, how it
ended, and what was seen from outside while it ran.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

import yaml
from cases import CASES, JOINED, KILLED, nodes_of, write_programs
from waiting import TIMEOUT, wait_until

import dora.dataflow
from dora.daemon.build import own_wheel
from dora.daemon.build.build import build_dataflow
from dora.daemon.options import BuildOptions

Way = Literal["template", "plain"]
WAYS: tuple[Way, ...] = ("template", "plain")
PATIENCE = 5 * TIMEOUT  # for seventy nodes at once
RANDOM = "random: "  # begins the names of facts that have to differ between any two processes
MARK = "TWO_WAYS"  # a variable of everything that runs


def options_of(way: Way) -> list[str]:
    return ["--no-preload" if way == "plain" else "--preload"]


@dataclass
class NodeRecord:
    """What was found out about one node. Texts are without what differs between any two runs."""

    facts: dict[str, Any] = field(default_factory=dict)
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)  # by dora about it
    outside: dict[str, Any] = field(default_factory=dict)
    plain: list[str] = field(default_factory=list)  # why it was started plainly, for each such start

    def entries(self) -> dict[str, Any]:
        """Return all of it, with one name for each comparison."""
        return {
            **{f"fact: {name}": value for name, value in self.facts.items() if not name.startswith(RANDOM)},
            **{f"outside: {name}": value for name, value in self.outside.items()},
            "stdout": self.stdout,
            "stderr": self.stderr,
            "said": self.said,
        }


class Difference(NamedTuple):
    node: str
    entry: str
    template: Any
    plain: Any


def _nothing(_: object) -> None:
    return None


class Allowed(NamedTuple):
    """A difference that is allowed, for nodes and entries with these names (as for `fnmatch`).

    ``same`` makes equal what has to be the same nevertheless.
    """

    node: str
    entry: str
    reason: str
    same: Callable[[Any], Any] = _nothing


def differences(
    template: dict[str, NodeRecord], plain: dict[str, NodeRecord], allowed: tuple[Allowed, ...]
) -> Iterator[Difference]:
    """Yield what differs and is not allowed."""
    for node in sorted(template.keys() | plain.keys()):
        ours = template.get(node, NodeRecord()).entries()
        theirs = plain.get(node, NodeRecord()).entries()
        for entry in sorted(ours.keys() | theirs.keys()):
            one, other = ours.get(entry, "missing"), theirs.get(entry, "missing")
            for item in allowed:
                if (
                    fnmatchcase(node, item.node)
                    and fnmatchcase(entry, item.entry)
                    and "missing" not in (one, other)
                ):
                    one, other = item.same(one), item.same(other)
            if one != other:
                yield Difference(node, entry, one, other)


# --------------------------------------------------------------------------- what differs anyway

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_CHANGES = (
    (_UUID, "<uuid>"),
    (re.compile(r"DORA_NODE_CONFIG=\{.*?\}"), "DORA_NODE_CONFIG=<config>"),
    (re.compile(r"DORA_RUN_ID=[^\s'\",]*"), "DORA_RUN_ID=<run>"),
    (re.compile(r"0x[0-9a-f]{6,}"), "0x…"),
    (re.compile(r"pipe:\[\d+\]"), "pipe"),
    (re.compile(r"\b(pid|parent|ident|native_id)=\d+"), r"\1=…"),
    (re.compile(r"(<Thread\([^,]*, started(?: daemon)?) \d+"), r"\1 …"),
    (re.compile(r"\bpid \d+"), "pid …"),
    (re.compile(r"in \d+\.\d+s"), "in … s"),
)


def normal(value: Any) -> Any:
    """Return a value without what differs between any two runs: ids, addresses, times."""
    if isinstance(value, str):
        for pattern, replacement in _CHANGES:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, list):
        return [normal(item) for item in value]
    if isinstance(value, dict):
        return {normal(name): normal(item) for name, item in value.items()}
    return value


# --------------------------------------------------------------------------- from outside

STATUS = (
    *("Umask", "Uid", "Gid", "Groups", "Threads", "NoNewPrivs", "VmLck"),
    *("SigPnd", "SigBlk", "SigIgn", "SigCgt"),
)


def seen_from_outside(pid: int, run: int) -> dict[str, Any]:
    """Return what other processes see of a process."""
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    descriptors = {}
    for name in sorted(os.listdir(proc / "fd"), key=int):
        mode = os.stat(proc / "fd" / name).st_mode
        descriptors[name] = "pipe" if stat.S_ISFIFO(mode) else os.readlink(proc / "fd" / name)
    listing = subprocess.run(
        ["ps", "-o", "stat=,comm=,user=,nice=,tty=,args=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        "command line": (proc / "cmdline").read_text().split("\0"),
        "environment": sorted((proc / "environ").read_text().split("\0")),
        "name": (proc / "comm").read_text(),
        "program": os.readlink(proc / "exe"),
        "folder": [os.readlink(proc / "cwd"), os.readlink(proc / "root")],
        "descriptors": descriptors,
        "status": {name: status[name].strip() for name in STATUS},
        "leads its group, in the session of its daemon": [
            int(fields[2]) == pid,
            int(fields[3]) == os.getsid(run),
        ],
        "terminal": fields[4:6],
        "niceness": fields[16],
        "limits": (proc / "limits").read_text(),
        "listed by ps": " ".join(listing.stdout.split())[1:],  # without whether it runs or sleeps
        "below its daemon": pid in descendants(run),
        "child of its daemon": pid in children(run),
    }


def children(pid: int) -> list[int]:
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        texts = [Path(f"/proc/{pid}/task/{task}/children").read_text() for task in tasks]
    except OSError:
        return []
    return [int(child) for text in texts for child in text.split()]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        new = [child for child in children(waiting.pop()) if child not in found]
        found.update(new)
        waiting += new
    return found


def marked(mark: str) -> dict[int, str]:
    """Return the processes that have the mark in their environment, with their command lines."""
    found = {}
    wanted = f"{MARK}={mark}".encode()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found[int(name)] = command_of(int(name))
            except OSError:
                continue
    return found


# --------------------------------------------------------------------------- runs


def _unusual() -> None:
    """Make what a process inherits unlike the usual."""
    os.umask(0o027)
    os.nice(1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3000, 4000))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does in the background; `dora run` handles it
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])


class Run:
    """A ``dora run``. Standard input is a pipe, and an inheritable descriptor is open."""

    def __init__(
        self, folder: Path, nodes: list[dict[str, Any]], way: Way, mark: str, **environment: str
    ) -> None:
        self.folder = folder
        self.mark = mark
        shutil.rmtree(folder / "out", ignore_errors=True)  # logs of the run before
        (folder / "dataflow.yml").write_text(
            yaml.safe_dump({"nodes": nodes}, allow_unicode=True, sort_keys=False)
        )
        spare, self._input = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dora", "run", "dataflow.yml", "--progress", "off", *options_of(way)],
            cwd=folder,
            env={
                **os.environ,
                "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
                MARK: mark,
                **environment,
            },
            stdin=spare,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[spare],
            preexec_fn=_unusual,
        )
        os.close(spare)
        self.errors = ""
        self._reader = threading.Thread(target=self._read_errors)
        self._reader.start()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()

    def lines(self, node: str, stream: str) -> list[str]:
        """Return what is in the log file of a node: of "stdout", "stderr", or by the "daemon"."""
        text = "".join(file.read_text() for file in self.folder.glob(f"out/*/log_{node}.jsonl"))
        entries = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [entry["msg"] for entry in entries if entry["stream"] == stream]

    def wait(self) -> int:
        """Wait for its end; return the exit status."""
        status = self.process.wait(PATIENCE)
        self.close()
        return status

    def close(self) -> None:
        """Kill what is left, and read the rest of the output."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        os.close(self._input)


def record_way(folder: Path, way: Way, mark: str) -> dict[str, NodeRecord]:
    """Run everything one way. ``folder`` is emptied first, so that all paths are the same both ways."""
    shutil.rmtree(folder, ignore_errors=True)
    facts = folder / "facts"
    facts.mkdir(parents=True)
    write_programs(folder)
    _make_environments(folder, facts)
    records = _programs(folder, facts, way, mark)
    records |= _joined(folder, facts, way, mark)
    records |= _killed(folder, facts, way, mark)
    return {node: NodeRecord(**normal(vars(record))) for node, record in records.items()}


def _make_environments(folder: Path, facts: Path) -> None:
    """Make the nodes' own environments, without a network: with this dora, but not what it requires."""
    file = folder / "environments.yml"
    file.write_text(yaml.safe_dump({"nodes": nodes_of(facts)}))
    with mock.patch.object(own_wheel, "requirements", list):
        build_dataflow(dora.dataflow.load(file), _nothing, BuildOptions(offline=True))


def _programs(folder: Path, facts: Path, way: Way, mark: str) -> dict[str, NodeRecord]:
    """Start all programs in one dataflow; stop it when all of them have ended."""
    run = Run(folder, nodes_of(facts), way, mark, RUST_LOG="dora.daemon.spawn=debug")
    outside: dict[str, dict[str, Any]] = {}

    running = set(CASES)

    def has_ended(node: str) -> bool:
        if CASES[node].end:
            return any("; restarting in 1000 s" in text for text in run.lines(node, "daemon"))
        return len(_facts(facts / node)) >= CASES[node].facts

    def all_have_ended() -> bool:
        assert run.process.poll() is None, f"dora run has ended:\n{run.errors}"
        for file in facts.glob("*.pid"):
            if file.stem not in outside and (text := file.read_text()).endswith("\n"):
                outside[file.stem] = seen_from_outside(int(text), run.process.pid)
                file.with_suffix(".go").touch()
        running.difference_update([node for node in running if has_ended(node)])
        return not running

    try:
        wait_until(all_have_ended, lambda: f"the end of {sorted(running)}", PATIENCE)
        run.process.send_signal(signal.SIGINT)
        status = run.wait()
    except BaseException:
        run.close()
        raise
    records = {node: _record(run, facts, node) for node in CASES}
    for node, seen in outside.items():
        records[node].outside = seen
    for node, reason in re.findall(r"node `(\S+)` starts plainly: (.*)", run.errors):
        records[node].plain.append(reason)
    for record in records.values():
        record.said = [re.sub(r" \(restart .*|; restarting .*", "", text) for text in record.said]
    records["dora run of programs"] = NodeRecord({"status": status, "report": sorted(_report(run.errors))})
    _check_the_end(run, mark, records["dora run of programs"])
    return records


def _joined(folder: Path, facts: Path, way: Way, mark: str) -> dict[str, NodeRecord]:
    """Run a dataflow with messages and operators to its end."""
    run = Run(folder, [with_facts(node, facts) for node in JOINED], way, mark)
    try:
        status = run.wait()
    except BaseException:
        run.close()
        raise
    records = {node["id"]: _record(run, facts, node["id"]) for node in JOINED}
    records["dora run of a dataflow"] = NodeRecord({"status": status, "report": _report(run.errors)})
    _check_the_end(run, mark, records["dora run of a dataflow"])
    return records


def _killed(folder: Path, facts: Path, way: Way, mark: str) -> dict[str, NodeRecord]:
    """Kill ``dora run`` while nodes and their children sleep."""
    run = Run(folder, [with_facts(node, facts) for node in KILLED], way, mark)
    try:
        wait_until(
            lambda: all(run.lines(node["id"], "stdout") == ["up"] * 3 for node in KILLED),
            "the children",
            PATIENCE,
        )
        run.process.kill()
    finally:
        run.close()
    records = {node["id"]: _record(run, facts, node["id"]) for node in KILLED}
    records["killed dora run"] = NodeRecord()
    _check_the_end(run, mark, records["killed dora run"])
    return records


def with_facts(node: dict[str, Any], facts: Path) -> dict[str, Any]:
    return {**node, "env": {"FACTS": str(facts / node["id"]), **node.get("env", {})}}


def _facts(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    found: dict[str, Any] = {}
    for line in file.read_text().splitlines():
        found |= json.loads(line)
    return found


def _record(run: Run, facts: Path, node: str) -> NodeRecord:
    # Lines of a traceback become one entry of the log only if they come without a pause.
    stdout, stderr = (
        [line for text in run.lines(node, stream) for line in text.split("\n")]
        for stream in ("stdout", "stderr")
    )
    return NodeRecord(_facts(facts / node), stdout, stderr, run.lines(node, "daemon"))


def _report(text: str) -> list[str]:
    """Return the lines of the report at the end, without those about times."""
    lines = [line for line in text.splitlines() if " DEBUG dora." not in line]
    return [re.sub(r"[\d.]+ s\b", "… s", line) for line in lines]


def _check_the_end(run: Run, mark: str, record: NodeRecord) -> None:
    """Record what is left of a run: processes, its directory, shared memory, files."""
    try:
        wait_until(lambda: not marked(mark), "the end of all processes", 20)
        record.facts["processes that are left"] = []
    except AssertionError:
        record.facts["processes that are left"] = list(marked(mark).values())
    root = os.environ["DORA_RUNTIME_DIR"]
    record.facts["directories that are left"] = (
        sorted(set(os.listdir(root)) - {"lock"}) if os.path.exists(root) else []
    )
    ids = os.listdir(run.folder / "out") if (run.folder / "out").exists() else []
    record.facts["shared memory that is left"] = [
        name for name in os.listdir("/dev/shm") if any(item.replace("-", "")[-12:] in name for item in ids)
    ]
