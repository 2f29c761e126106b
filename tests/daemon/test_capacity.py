"""A dataflow that is larger than the limits of the machine is refused before it starts."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import TIMEOUT

from dora.daemon import capacity
from dora.daemon.capacity import needs_of_file, prepare_limits, room, shortages
from dora.daemon.options import LocalRunOptions
from dora.daemon.run import run_dataflow
from dora.dataflow import load
from dora.errors import DoraError
from dora.transport.engines import ENGINES

SENDER = "from dora import Node\nNode().send_output('out', b'x')\n"
RECEIVER = "from dora import Node\nprint(sum(event['type'] == 'INPUT' for event in Node()))\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[int], Path]:
    """Write a dataflow of one output and a node with so many inputs from it."""

    def write(links: int) -> Path:
        (tmp_path / "sender.py").write_text(SENDER)
        (tmp_path / "receiver.py").write_text(RECEIVER)
        inputs = {f"in{number}": "sender/out" for number in range(links)}
        nodes: list[dict[str, Any]] = [
            {"id": "sender", "path": "sender.py", "outputs": ["out"]},
            {"id": "receiver", "path": "receiver.py", "inputs": inputs},
        ]
        path = tmp_path / "dataflow.yml"
        path.write_text(json.dumps({"nodes": nodes}))
        return path

    return write


def dora(command: str, path: Path, soft: int, hard: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dora", command, str(path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


@pytest.mark.processes
def test_a_node_raises_the_limit_of_open_files_for_its_links(write: Callable[[int], Path]) -> None:
    done = dora("run", write(40), 128, 1024)
    assert "receiver: 40" in " ".join(done.stdout.split()), done.stdout + done.stderr
    assert done.returncode == 0


@pytest.mark.processes
@pytest.mark.parametrize(("command", "status"), [("run", 1), ("validate", 0)])
def test_too_many_open_files_are_told_before_the_start(
    write: Callable[[int], Path], command: str, status: int
) -> None:
    done = dora(command, write(40), 128, 256)
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert "node `receiver` needs about 308 open files, and the hard limit is 256; raise it" in line
    assert "receiver: 40" not in done.stdout


def test_too_little_shared_memory_is_told_before_the_start(
    write: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = needs_of_file(load(write(100)), "iceoryx2")
    assert 36 << 20 < needs.shared_memory < 56 << 20
    monkeypatch.setattr(capacity, "free_bytes", lambda: 30 << 20)
    with pytest.raises(DoraError, match=r"its links need about \d+ MiB of /dev/shm, and 30 MiB are free"):
        prepare_limits(needs)
    prepare_limits(needs_of_file(load(write(100)), "shm"))


def test_room_is_counted_for_the_engine_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("hard_limit", "_available_memory"):
        monkeypatch.setattr(capacity, limit, lambda: None)
    monkeypatch.setattr(capacity, "_thread_limit", lambda *_: (None, 0, ""))
    monkeypatch.setattr(capacity, "free_bytes", lambda: 64 << 20)
    nodes = {engine: room(engine)[0] for engine in ENGINES}
    assert 100 < nodes["iceoryx2"] < 400 < nodes["shm"]
    assert room("shm")[1] == "64 MiB in /dev/shm"
    monkeypatch.setattr(capacity, "free_bytes", lambda: 4 << 20)
    assert (room("iceoryx2")[0], room("shm")[0] > 10) == (0, True)


def test_too_few_threads_are_told_before_the_start(
    write: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pids.max").write_text("12\n")
    (tmp_path / "pids.current").write_text("10\n")
    monkeypatch.setattr(capacity, "_process_groups", lambda: iter([str(tmp_path)]))
    (sentence,) = shortages(needs_of_file(load(write(1)), "shm"))
    assert "this machine allows 12, of which 10 are in use; raise pids.max of its cgroup" in sentence


@pytest.mark.parametrize(
    ("line", "folders"),
    [
        ("0::/user.slice/user-1000.slice/run", ["", "/user.slice", "/user.slice/user-1000.slice"]),
        ("5:pids:/docker", ["/pids"]),
        ("5:cpu:/docker", []),
    ],
)
def test_a_limit_of_a_group_above_this_process_counts(
    line: str, folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "open", lambda *_, **__: io.StringIO(line + "\n"), raising=False)
    found = list(capacity._process_groups())
    assert set(found) >= {f"/sys/fs/cgroup{folder}" for folder in folders}
    assert len(found) == len(folders) + bool(folders)


@pytest.mark.skipif(sys.platform != "linux", reason="its threads are counted on Linux")
def test_the_limit_of_a_user_counts_except_for_root(
    write: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = needs_of_file(load(write(1)), "shm")
    monkeypatch.setattr(capacity, "_process_groups", lambda: iter([]))
    monkeypatch.setattr(capacity.resource, "getrlimit", lambda _: (12, 12))
    monkeypatch.setattr(capacity.os, "getuid", lambda: 0)
    monkeypatch.setattr(capacity, "hard_limit", lambda: None)
    assert list(shortages(needs)) == []
    monkeypatch.setattr(capacity, "_threads_of", lambda _: 10)
    monkeypatch.setattr(capacity.os, "getuid", lambda: 1000)
    (sentence,) = shortages(needs)
    assert "this machine allows 12, of which 10 are in use; raise it (`ulimit -u`, LimitNPROC=" in sentence


@pytest.mark.skipif(sys.platform != "linux", reason="its threads are counted on Linux")
def test_the_threads_of_a_user_are_counted() -> None:
    assert capacity._threads_of(os.getuid()) >= len(os.listdir("/proc/self/task"))
    assert capacity._threads_of(4_000_000_000) == 0


@pytest.mark.processes
def test_a_run_that_is_refused_leaves_no_descriptor_open(
    write: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise DoraError("too large")

    monkeypatch.setattr("dora.daemon.daemon.prepare_limits", refuse)
    options = LocalRunOptions(engine="shm", preload=False)
    opened = []
    for _ in range(3):  # the first one imports modules
        with pytest.raises(DoraError, match="too large"):
            run_dataflow(load(write(1)), options, lambda _: None)
        opened.append(len(os.listdir("/dev/fd")))
    assert opened[1] == opened[2]
