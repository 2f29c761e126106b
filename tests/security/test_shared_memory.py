"""Another user in /dev/shm, where all users may make files: in the way of a run, and filling it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_shm import needs_own_shm, within_own_shm
from second_user import ATTACKER, as_user, needs_second_user
from waiting import TIMEOUT

pytestmark = [pytest.mark.processes, needs_second_user]

RUN_ID = "01900000-0000-7000-8000-0123456789ab"
PREFIX = "dora_0123456789ab_"
# `dora run` with an id that is known beforehand.
DORA_RUN = f"""
import sys
import dora.wire.correlation
dora.wire.correlation.uuid7 = lambda: {RUN_ID!r}
from dora.cli.main import main
sys.exit(main(["run", *sys.argv[1:]]))
"""


def make_folder(path: Path) -> None:
    path.mkdir(0o777)


def make_file(path: Path) -> None:
    path.touch(0o666)


def make_link(path: Path) -> None:
    path.symlink_to("/tmp")


def make_pipe(path: Path) -> None:
    os.mkfifo(path, 0o666)


@pytest.fixture
def planted(request: pytest.FixtureRequest) -> Iterator[Path]:
    """What another user has put in the way of the run."""
    name, make = request.param
    path = Path(f"/dev/shm/{PREFIX}{name}")
    make(path)
    os.chown(path, ATTACKER, ATTACKER, follow_symlinks=False)
    yield path
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()


@pytest.mark.parametrize(
    "planted",
    [
        (name, make)
        for name in ("links", "iox", "board")
        for make in (make_folder, make_file, make_link, make_pipe)
    ],
    indirect=True,
    ids=lambda value: f"{value[0]} is a {value[1].__name__.removeprefix('make_')}",
)
def test_a_run_says_in_one_sentence_what_another_user_has_put_in_its_way(
    planted: Path, tmp_path: Path, runtime_root: str
) -> None:
    (tmp_path / "flow.yml").write_text("nodes: [{id: a, path: a.py}]\n")
    (tmp_path / "a.py").write_text("from dora import Node\nNode()\n")
    before = planted.lstat()
    done = subprocess.run(
        [sys.executable, "-c", DORA_RUN, "flow.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 1, done
    assert done.stderr.startswith(f"error: {planted} "), done.stderr
    assert len(done.stderr.splitlines()) == 1
    after = planted.lstat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (
        before.st_mode,
        before.st_uid,
        before.st_mtime_ns,
    )
    assert os.listdir(runtime_root) == ["lock"]
    assert [name for name in os.listdir("/dev/shm") if name.startswith(PREFIX)] == [planted.name]


FILL = """
import os, sys
with open("/dev/shm/filler", "wb", buffering=0) as file:
    try:
        while file.write(bytes(1 << 16)):
            pass
    except OSError:
        pass
print(os.getuid(), flush=True)
sys.stdin.read()
os.unlink("/dev/shm/filler")
"""
# Sends while the other user fills the shared memory, and afterwards.
SENDER = f"""
import subprocess, sys
import numpy as np
from dora import Node, SharedMemoryFull

node = Node()
node.send_output("out", np.zeros(3_000_000, np.uint8))
filler = subprocess.Popen({as_user(ATTACKER, [sys.executable, "-c", FILL])!r},
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
assert int(filler.stdout.readline()) == {ATTACKER}
refused = 0
for _ in range(20):
    try:
        node.send_output("out", np.zeros(7_000_000, np.uint8))
    except SharedMemoryFull as error:
        print(error)
        refused += 1
assert refused == 20
for number in range(1000):
    try:
        node.send_output("out", bytes(100))
    except SharedMemoryFull as error:
        print("small", error)
        break
filler.communicate()
node.send_output("out", np.ones(7_000_000, np.uint8))
print("done")
"""
RECEIVER = """
from dora import Node

for event in Node():
    if event["type"] == "INPUT" and len(event["value"]) > 100:
        print(len(event["value"]), int(event.numpy().sum()))
"""


@needs_own_shm
def test_another_user_who_fills_the_shared_memory_crashes_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be filled by everybody, as a disk can. Messages are refused then, and go on afterwards."""
    monkeypatch.setenv("DORA_ENGINE", "shm")  # iceoryx2 touches memory that it has not allocated
    (tmp_path / "sender.py").write_text(SENDER)
    (tmp_path / "receiver.py").write_text(RECEIVER)
    flow = """
        nodes:
          - {id: sender, path: sender.py, outputs: [out]}
          - {id: receiver, path: receiver.py, inputs: {in: {source: sender/out, queue_size: 100}}}
    """
    (tmp_path / "flow.yml").write_text(textwrap.dedent(flow))
    run = [sys.executable, "-m", "dora", "run", "flow.yml", "--log-format", "compact"]
    done = subprocess.run(
        within_own_shm("40m", *run),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.partition(" stdout ")[2] for line in done.stdout.splitlines()]
    assert sum("needs 8.0 MB" in line or "needs 7.0 MB" in line for line in lines) == 20, done.stdout
    assert "sender: done" in lines
    assert [line for line in lines if line.startswith("receiver")] == [
        "receiver: 3000000 0",
        "receiver: 7000000 7000000",
    ]
