"""What another user can reach of the files of a running dataflow: nothing."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from second_user import ATTACKER, environment, needs_second_user, run
from waiting import TIMEOUT

pytestmark = [pytest.mark.processes, needs_second_user]

TRY_ALL = """
import fcntl, json, os, socket, sys
reached = []
for path in json.load(sys.stdin):
    for flags in (os.O_RDONLY, os.O_WRONLY):
        try:
            os.open(path, flags | os.O_NONBLOCK)
            reached.append(path)
        except OSError:
            pass
    for use in (
        os.unlink,
        os.rmdir,
        os.listdir,
        lambda path: os.rename(path, path + "-taken"),
        lambda path: os.chmod(path, 0o777),
        lambda path: os.truncate(path, 0),
        lambda path: os.utime(path),
        lambda path: os.mkdir(path + "/planted"),
        lambda path: os.symlink("/", path + "/planted"),
        lambda path: os.mkfifo(path + "/planted"),
        lambda path: fcntl.flock(os.open(path, os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_EX),
        lambda path: socket.socket(socket.AF_UNIX).connect(path),
    ):
        try:
            use(path)
            reached.append(path)
        except OSError:
            pass
print(json.dumps(reached))
"""


def _files(root: str) -> list[str]:
    found = [root]
    for folder, folders, names in os.walk(root):
        found += [os.path.join(folder, name) for name in (*folders, *names)]
        if os.path.basename(folder).isalnum() and len(os.path.basename(folder)) == 12:
            for path in glob.glob(f"/dev/shm/dora_{os.path.basename(folder)}_*"):
                found += [path, *glob.glob(f"{path}/**", recursive=True)]
    return found


def test_another_user_reaches_no_file_of_a_running_dataflow(engine: str, tmp_path: Path) -> None:
    programs = {
        "a.py": "for event in node: node.send_output('x', b'text')",
        "b.py": "for event in node: open('got', 'w').close()",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"from dora import Node\nnode = Node()\n{text}\n")
    flow = """
        nodes:
          - {id: a, path: a.py, inputs: {tick: dora/timer/millis/20}, outputs: [x]}
          - {id: b, path: b.py, inputs: {x: {source: a/x, queue_policy: backpressure}}}
    """
    (tmp_path / "flow.yml").write_text(textwrap.dedent(flow))
    above = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")
    os.chmod(above, 0o755)
    root = f"{above}/run"
    env = {**os.environ, "DORA_RUNTIME_DIR": root, "DORA_ENGINE": engine}
    command = [sys.executable, "-m", "dora", "run", "flow.yml"]
    with subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL) as dataflow:
        try:
            deadline = time.monotonic() + TIMEOUT
            while not (tmp_path / "got").exists():
                assert time.monotonic() < deadline and dataflow.poll() is None
                time.sleep(0.01)
            files = _files(root)
            kinds = {os.path.basename(path).rpartition("_")[2].partition("-")[0] for path in files}
            assert {"run", "lock", "daemon.sock", "bell", "credit", "board"} <= kinds
            if engine == "shm":
                names = {os.path.basename(path).split(".")[0] for path in files if "_links/" in path}
                assert {"p", "r", "c", "s", "changes"} <= names
            reached = run(ATTACKER, "-c", TRY_ALL, env=environment(), text=json.dumps(files))
            assert json.loads(reached.stdout) == []
        finally:
            dataflow.terminate()
            dataflow.wait(TIMEOUT)
            shutil.rmtree(above, ignore_errors=True)
